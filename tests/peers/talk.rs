//! What is played with every pair of telephones: a call with holds on both sides that the customer ends, and a call
//! that GenerativeAgent ends.

use std::time::Duration;

use serde_json::Value;

use crate::capture;
use crate::door::Door;
use crate::kamailio::Kamailio;
use crate::phone::{Phone, Stack};
use crate::table::{self, Row};
use crate::tone::Tone;
use crate::tshark::Capture;
use crate::world::{BEHIND, DEVICES, FRONT, Over, Path, Place, SWITCHBACK, World};

/// What the customer says.
pub const CUSTOMER: Tone = Tone(440);
/// What GenerativeAgent says.
pub const GENAGENT: Tone = Tone(1000);

/// Until a new description has taken effect and what is heard is steady.
pub const SETTLING: Duration = Duration::from_millis(500);
/// How long is listened then.
pub const LISTENING: Duration = Duration::from_millis(1300);

/// Plays it all.
pub async fn play(customer: Stack, genagent: Stack, over: Over, path: Path) {
    let way = format!("{}{}", over.as_str().to_uppercase(), if path == Path::Direct { "" } else { ", Kamailio" });
    let mut row = Row::begin(customer.name(), &way, genagent.name(), &table::ALL);
    let world = World::set(over, path).await;
    let _proxies = proxies(&world).await;
    let file = world.path("call.pcapng");
    let capture = Capture::begin(&DEVICES, "not tcp port 8000", &file).await;
    let mut talk = Talk {
        customer: Party::start(customer, &world, &world.customer, CUSTOMER, GENAGENT).await,
        genagent: Party::start(genagent, &world, &world.genagent, GENAGENT, CUSTOMER).await,
    };

    talk.begin(&world, 1).await;
    talk.both_are_heard().await;
    row.holds(table::AUDIO);
    talk.holds_and_resumes(|talk| &mut talk.customer).await;
    row.holds(table::CUSTOMER_HOLDS);
    talk.holds_and_resumes(|talk| &mut talk.genagent).await;
    row.holds(table::GENAGENT_HOLDS);
    talk.customer.phone.obey("hangup");
    talk.end(1).await;
    ended(&world.records(1).await[0], "customer_hung_up", "customer");
    row.holds(table::CUSTOMER_BYE);

    talk.begin(&world, 2).await;
    talk.both_are_heard().await;
    talk.genagent.phone.obey("hangup");
    talk.end(2).await;
    let record = world.records(2).await.remove(1);
    ended(&record, "agent", "genagent");
    assert_eq!(record["hand_back"]["rungs"][0]["rung"], "bye", "{record}");
    row.holds(table::GENAGENT_BYE);

    capture.end().await;
    capture::is_good(&world, &file, 2, 2);
    drop(talk);
    world.close().await;
}

async fn proxies(world: &World) -> Vec<Kamailio> {
    if world.path == Path::Direct {
        return Vec::new();
    }
    let next = |ip| format!("sip:{};transport={}", world.over.at(ip), world.over.as_str());
    vec![
        Kamailio::start(FRONT, &next(SWITCHBACK), world.room("front")).await,
        Kamailio::start(BEHIND, &next(world.genagent.ip), world.room("behind")).await,
    ]
}

/// The record's outcome, and who ended the call.
pub fn ended(record: &Value, outcome: &str, by: &str) {
    let verdict = &record["verdict"];
    assert_eq!((&verdict["outcome"], &verdict["ended_by"]), (&outcome.into(), &by.into()), "{record}");
}

/// Whether nothing but this tone was heard for a second or more, but for this many tenths of a second.
pub fn is_heard(ear: &str, tone: Tone, samples: &[i16], spoilt: usize) {
    let tenths = tone.in_tenths(samples);
    assert!(tenths.len() >= 10, "{ear}: {tone:?}: {} tenths of a second in {LISTENING:?}", tenths.len());
    let found = tenths.iter().filter(|heard| !**heard).count();
    assert!(found <= spoilt, "{ear}: {tone:?}: {tenths:?}");
}

/// Whether this tone was not heard at all.
pub fn is_not_heard(tone: Tone, samples: &[i16]) {
    let tenths = tone.in_tenths(samples);
    assert!(!tenths.contains(&true), "{tone:?}: {tenths:?}");
}

/// A telephone, and who listens at its door.
struct Party {
    phone: Phone,
    door: Door,
    /// What the other one says.
    other: Tone,
}

impl Party {
    async fn start(stack: Stack, world: &World, place: &Place, own: Tone, other: Tone) -> Self {
        let room = world.room(if own == CUSTOMER { "customer-room" } else { "genagent-room" });
        let phone = Phone::start(stack, place, world.over, own, room).await;
        Self { phone, door: Door::open(place), other }
    }

    async fn hears_the_other(&self) {
        let (phone, door) = tokio::join!(self.phone.hears(LISTENING), self.door.hears(LISTENING));
        is_heard("the door", self.other, &door, 0);
        if let Some(phone) = phone {
            // A jitter buffer that finds the right depth leaves out a packet, or says one twice.
            is_heard("the telephone", self.other, &phone, 1);
        }
    }

    async fn hears_nothing(&self) {
        let (phone, door) = tokio::join!(self.phone.hears(LISTENING), self.door.hears(LISTENING));
        is_not_heard(self.other, &phone.unwrap_or_default());
        assert!(door.is_empty(), "{} samples arrive where nobody wants them", door.len());
    }
}

struct Talk {
    customer: Party,
    genagent: Party,
}

impl Talk {
    async fn begin(&mut self, world: &World, call: usize) {
        self.customer.phone.obey(&format!("dial {}", world.dialled()));
        for party in [&self.customer, &self.genagent] {
            party.phone.says("CALL_ESTABLISHED", call).await;
        }
    }

    async fn end(&mut self, call: usize) {
        for party in [&self.customer, &self.genagent] {
            party.phone.says("CALL_CLOSED", call).await;
            party.phone.has_obeyed();
        }
    }

    async fn both_are_heard(&self) {
        tokio::time::sleep(SETTLING).await;
        tokio::join!(self.customer.hears_the_other(), self.genagent.hears_the_other());
    }

    /// One side holds: nothing comes to it. Then it resumes, and all is as before.
    async fn holds_and_resumes(&mut self, who: fn(&mut Self) -> &mut Party) {
        who(self).phone.obey("hold");
        tokio::time::sleep(SETTLING).await;
        who(self).hears_nothing().await;
        who(self).phone.obey("resume");
        self.both_are_heard().await;
    }
}
