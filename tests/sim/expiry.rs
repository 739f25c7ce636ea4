//! O6 by enumeration: every order of what can come together around a number's last safe moment. The answer, the
//! customer's CANCEL or BYE, GenerativeAgent's BYE, a repeat, a refusal, the API's answer, the clock's step onto the
//! moment and past it, and the driver's look at its timers: each of them is a choice, and every choice is made once.
//!
//! A driver that is late is the order in which the clock steps and messages land before the timers are looked at;
//! timers before arrivals in one instant is another. What a party owes (ACK, 200 to a BYE or a CANCEL, 487) arrives at
//! once: `orders.rs` varies that. `SWITCHBACK_LONG=1` plays the largest stories, too.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use switchback::b2bua::io::{
    ApiFailure, ApiOperation, ApiReply, ApiRequest, FailureClass, Input, Transfer, TransferStatus, Transport,
};
use switchback::b2bua::settings::{Settings, Trunk};
use switchback::call::verdict::Outcome;
use switchback::sip::locate::Place;

use crate::asapp::{NUMBER, active, completed};
use crate::engine::{CARRIER, Engine, Event, Flight, IVR, Lane, UNIX_MS, address, failure, ms, secs, settings, sip};
use crate::orders::Path;
use crate::relay::Hears;
use crate::robots::{Alarm, Caller, read};
use crate::text::{self, Sip};

const SECOND: &str = "203.0.113.21:5060";
/// From the answer to the evidence.
const VERIFY: Duration = secs(2);

/// What a gateway says to an INVITE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// Nothing, not even 100.
    Nothing,
    /// This provisional response; 183 has a description.
    Provisional(u16),
    /// 200 at once.
    Answers,
}

/// One story; how it goes is a question of order.
#[derive(Clone)]
struct Plot {
    settings: Settings,
    /// The first number's life.
    life: Duration,
    /// What the first INVITE hears at once; the others are answered.
    first: Says,
    /// When the choices begin, and where the clock steps then; counted from the call's beginning.
    steps: Vec<Duration>,
    /// What the first gateway then sends.
    then: Vec<u16>,
    /// GenerativeAgent hangs up: at once, where it has answered, else as soon as its answer is acknowledged.
    genagent_leaves: bool,
    customer_leaves: bool,
    /// What the API says to creates after the first, and to fetches; then fresh numbers, and COMPLETED.
    creates: Vec<Result<Transfer, ApiFailure>>,
    fetches: Vec<Result<Transfer, ApiFailure>>,
}

/// Around a guard this long after the call's beginning.
fn around(guard: Duration) -> Vec<Duration> {
    vec![guard - ms(1), guard, guard + ms(1)]
}

impl Plot {
    /// One trunk, a number that is safe for 15 s, and a gateway that rings and answers around its end.
    fn new() -> Self {
        Self {
            settings: settings(),
            life: secs(20),
            first: Says::Provisional(180),
            steps: around(secs(15)),
            then: vec![200],
            genagent_leaves: false,
            customer_leaves: true,
            creates: Vec::new(),
            fetches: Vec::new(),
        }
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    fn on_two_trunks(self) -> Self {
        let trunk = |name: &str, at: &str, order| Trunk {
            name: name.to_owned(),
            place: Place::at(Transport::Udp, address(at)),
            domain: format!("{name}.example"),
            caller_id: "+15550100".to_owned(),
            order,
            ..Trunk::default()
        };
        self.set(|settings| settings.trunks = vec![trunk("one", CARRIER, 0), trunk("two", SECOND, 1)])
    }
}

/// Whoever is behind a number, on one dialog.
struct Gateway {
    at: SocketAddr,
    invite: Sip,
    number: String,
    rtp: SocketAddr,
    decided: bool,
    /// When its first 200 was processed.
    answered: Option<Instant>,
    acknowledged: bool,
    gone: bool,
}

struct Story {
    engine: Engine,
    plot: Plot,
    customer: Caller,
    gateways: BTreeMap<String, Gateway>,
    /// From when on no INVITE to a number may leave.
    guards: BTreeMap<String, Instant>,
    /// The number of a transfer, and how often the API has said that its call never came.
    strange: BTreeMap<String, (String, u8)>,
    creates: VecDeque<Result<Transfer, ApiFailure>>,
    fetches: VecDeque<Result<Transfer, ApiFailure>>,
    numbers: u32,
    /// A number was too old when it came.
    stale: bool,
    begun: bool,
}

impl Story {
    fn new(plot: &Plot) -> Self {
        let mut engine = Engine::new(plot.settings.clone(), 8, 7);
        engine.ladder.drawing = false;
        engine.carriers = [CARRIER, SECOND].map(address).into();
        for party in [IVR, CARRIER, SECOND] {
            engine.lanes.insert(address(party), Lane::clean(Duration::ZERO));
        }
        let first = Ok(active(NUMBER, plot.life));
        Self {
            engine,
            customer: Caller::plain(0),
            gateways: BTreeMap::new(),
            guards: BTreeMap::new(),
            strange: BTreeMap::new(),
            creates: [vec![first], plot.creates.clone()].concat().into(),
            fetches: plot.fetches.clone().into(),
            numbers: 0,
            stale: false,
            begun: false,
            plot: plot.clone(),
        }
    }

    /// Quietly up to the moment, then in the path's order, then quietly to the end.
    fn play(&mut self, path: &mut Path) {
        self.customer.invite(&mut self.engine, 1);
        let mut steps: VecDeque<Instant> = self.plot.steps.iter().map(|&at| self.engine.start + at).collect();
        let begin = steps.pop_front().expect("a beginning");
        self.quietly_until(begin);
        self.begin();
        loop {
            self.tell_parties();
            let now = self.engine.now;
            let due = self.engine.queue.iter().filter(|((at, _), flight)| *at <= now && is_choice(flight));
            let flights: Vec<_> = due.map(|(key, _)| *key).collect();
            let timers = usize::from(self.engine.core.next_timeout().is_some_and(|at| at <= now));
            let of = flights.len() + timers + usize::from(!steps.is_empty());
            if of == 0 {
                break;
            }
            match path.choose(of) {
                chosen if chosen < flights.len() => {
                    let flight = self.engine.queue.remove(&flights[chosen]).expect("it was there");
                    self.land(flight);
                }
                chosen if chosen < flights.len() + timers => self.engine.feed(Input::TimeReached),
                _ => self.engine.now = steps.pop_front().expect("a step is left"),
            }
            self.judge_bridges();
        }
        self.quietly_until(self.engine.now + secs(10));
        self.customer.leave(&mut self.engine);
        self.quietly_until(self.engine.now + secs(120));
    }

    fn begin(&mut self) {
        self.begun = true;
        let Self { engine, gateways, plot, .. } = self;
        let first = gateways.values_mut().find(|gateway| gateway.number == NUMBER).expect("it was dialled");
        for &status in &plot.then {
            first.say(engine, status);
        }
        if plot.genagent_leaves && first.acknowledged {
            first.hang_up(engine);
        }
        if plot.customer_leaves {
            self.customer.leave(engine);
        }
    }

    fn quietly_until(&mut self, end: Instant) {
        loop {
            let due = self.engine.queue.first_key_value().filter(|((at, _), _)| *at <= end).map(|(key, _)| *key);
            let timer = self.engine.core.next_timeout().filter(|&at| at <= end);
            match due {
                Some(key) if timer.is_none_or(|timer| key.0 <= timer) => {
                    let flight = self.engine.queue.remove(&key).expect("it was there");
                    self.engine.now = self.engine.now.max(key.0);
                    self.land(flight);
                }
                _ => match timer {
                    Some(at) => {
                        self.engine.now = self.engine.now.max(at);
                        self.engine.feed(Input::TimeReached);
                    }
                    None => break,
                },
            }
            self.judge_bridges();
            self.tell();
        }
        self.engine.now = end;
    }

    /// What nobody may delay arrives at once.
    fn tell_parties(&mut self) {
        loop {
            self.tell();
            let now = self.engine.now;
            let owed = |((at, _), flight): &(&(Instant, u64), &Flight)| *at <= now && !is_choice(flight);
            let Some(key) = self.engine.queue.iter().find(owed).map(|(key, _)| *key) else { return };
            let flight = self.engine.queue.remove(&key).expect("it was there");
            self.land(flight);
        }
    }

    fn tell(&mut self) {
        while let Some(event) = self.engine.events.pop_front() {
            match event {
                Event::Sip(party, octets) if party == address(IVR) => {
                    self.customer.hears(&mut self.engine, &sip(&octets))
                }
                Event::Sip(party, octets) => self.carrier_hears(party, &sip(&octets)),
                Event::Asked(question, request) => self.api_hears(question, &request),
                Event::Alarm(number) if read(number).0 == Alarm::CallerRepeats => {
                    self.customer.repeats(&mut self.engine)
                }
                Event::Alarm(_) | Event::Wrote => {}
            }
        }
    }

    fn land(&mut self, flight: Flight) {
        match &flight {
            Flight::ToCore(_, octets) => {
                let sip = sip(octets);
                let gateway = self.gateways.get_mut(sip.call_id()).filter(|_| sip.word() == "200");
                if let Some(gateway) = gateway {
                    gateway.answered.get_or_insert(self.engine.now);
                }
            }
            Flight::Reply(question, reply) => self.learn(self.engine.asked_at(*question), &reply.clone()),
            _ => {}
        }
        self.engine.land(flight);
    }

    /// What the core is about to be told, of what it asked then.
    fn learn(&mut self, asked: Option<Instant>, reply: &ApiReply) {
        let (Some(asked), Ok(transfer)) = (asked, &reply.answer) else { return };
        if let (Some(number), Some(expires)) = (&transfer.number, transfer.expires_at) {
            let safe = ms((expires - transfer.dated).unsigned_abs()).saturating_sub(self.engine.margin);
            let guard = *self.guards.entry(number.clone()).or_insert(asked + safe);
            self.stale |= self.engine.now >= guard;
            self.strange.insert(reply.transfer.0.clone(), (number.clone(), 0));
        } else if let Some((_, doubts)) = self.strange.get_mut(&reply.transfer.0) {
            *doubts += match &transfer.status {
                Some(TransferStatus::Active) => 1,
                Some(TransferStatus::Expired) => 2,
                _ => 0,
            };
        }
    }

    fn carrier_hears(&mut self, party: SocketAddr, sip: &Sip) {
        let known = self.gateways.len() as u16;
        if sip.is("INVITE") {
            let number = sip.uri().trim_start_matches("sip:").split('@').next().unwrap_or_default().to_owned();
            let guard = self.guards.get(&number).expect("only a number of ASAPP's is dialled");
            assert!(self.engine.now < *guard, "an INVITE leaves in the last safe moment of {number} or after it");
            let first = number == NUMBER && party == address(CARRIER);
            let says = if first { self.plot.first } else { Says::Answers };
            let engine = &mut self.engine;
            self.gateways.entry(sip.call_id().to_owned()).or_insert_with(|| {
                let rtp = SocketAddr::new(party.ip(), 10_000 + 2 * known);
                Gateway::invited(engine, party, sip, number, rtp, says)
            });
        } else if let Some(gateway) = self.gateways.get_mut(sip.call_id()) {
            gateway.hears(&mut self.engine, sip);
            if self.begun && self.plot.genagent_leaves && gateway.acknowledged {
                gateway.hang_up(&mut self.engine);
            }
        }
    }

    fn api_hears(&mut self, question: u64, request: &ApiRequest) {
        let answer = match request.operation {
            ApiOperation::Create(_) => self.creates.pop_front().unwrap_or_else(|| {
                self.numbers += 1;
                Ok(active(&format!("+1999555{:04}", self.numbers), secs(60)))
            }),
            ApiOperation::Fetch => self.fetches.pop_front().unwrap_or_else(|| Ok(completed("AGENT", &[], &[]))),
        };
        self.engine.reply(question, Duration::ZERO, answer);
    }

    /// Nobody hears a party that answered too late or is shown to be somebody else.
    fn judge_bridges(&self) {
        for gateway in self.gateways.values() {
            let late = self.is_late(gateway);
            let stranger = self.strange.values().any(|(number, doubts)| *number == gateway.number && *doubts >= 2);
            if !(late || stranger) {
                continue;
            }
            let Some((own, pair)) = self.engine.relay.towards(gateway.rtp) else { continue };
            let heard = self.engine.relay.pairs().any(|(_, other)| other.hears == Hears::Pair(own));
            let hears = matches!(pair.hears, Hears::Pair(_));
            assert!(!heard && !hears, "a stranger: late {late}, shown {stranger}");
        }
    }

    /// It answered in the last safe moment of its number or after it.
    fn is_late(&self, gateway: &Gateway) -> bool {
        gateway.answered.is_some_and(|at| at >= self.guards[&gateway.number])
    }

    fn judge(&self) {
        let faults = self.engine.faults();
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(self.engine.records.len(), 1, "one record");
    }
}

impl Gateway {
    fn invited(engine: &mut Engine, at: SocketAddr, invite: &Sip, number: String, rtp: SocketAddr, says: Says) -> Self {
        let invite = invite.clone();
        let mut gateway =
            Self { at, invite, number, rtp, decided: false, answered: None, acknowledged: false, gone: false };
        match says {
            Says::Nothing => {}
            Says::Provisional(status) => gateway.say(engine, status),
            Says::Answers => gateway.say(engine, 200),
        }
        gateway
    }

    fn say(&mut self, engine: &mut Engine, status: u16) {
        let sdp = text::sdp(&self.rtp.ip().to_string(), self.rtp.port());
        let response = Sip::response(&self.invite, status, &format!("g{}", self.rtp.port()));
        let response = match status {
            183 | 200 => response.with("Contact", format!("<sip:gw@{}>", self.at)).with_sdp(sdp),
            101..200 => response.with("Contact", format!("<sip:gw@{}>", self.at)),
            _ => response,
        };
        self.decided |= status >= 200;
        engine.send(self.at, response.octets());
    }

    fn hears(&mut self, engine: &mut Engine, sip: &Sip) {
        match sip.word().as_str() {
            "CANCEL" => {
                engine.send(self.at, Sip::response(sip, 200, "").octets());
                if !self.decided {
                    self.say(engine, 487);
                }
            }
            "BYE" => {
                self.gone = true;
                engine.send(self.at, Sip::response(sip, 200, "").octets());
            }
            "ACK" => self.acknowledged |= self.answered.is_some(),
            _ => {}
        }
    }

    fn hang_up(&mut self, engine: &mut Engine) {
        if std::mem::replace(&mut self.gone, true) {
            return;
        }
        let tag = format!("g{}", self.rtp.port());
        let bye = Sip::request("BYE", self.invite.contact())
            .with("Via", format!("SIP/2.0/UDP {};branch=z9hG4bK-{tag}-bye;rport", self.at))
            .with("Max-Forwards", "70")
            .with("From", format!("{};tag={tag}", self.invite.header("To")))
            .with("To", self.invite.header("From"))
            .with("Call-ID", self.invite.call_id())
            .with("CSeq", "7 BYE");
        engine.send(self.at, bye.octets());
    }
}

/// What may come in any order: finals and progress, requests that end something, and the API's word.
fn is_choice(flight: &Flight) -> bool {
    match flight {
        Flight::ToCore(_, octets) => {
            matches!(sip(octets).word().as_str(), "200" | "503" | "486" | "180" | "183" | "CANCEL" | "BYE")
        }
        Flight::Reply(..) => true,
        Flight::ToParty(..) | Flight::Media(_) | Flight::Looked(_) | Flight::Alarm(_) => false,
    }
}

/// What came of all orders of one story.
#[derive(Default)]
struct Orders {
    count: usize,
    outcomes: BTreeMap<Outcome, usize>,
    /// In how many of them a 200 came too late, and in how many a second number was dialled.
    late: usize,
    again: usize,
    /// In how many a number was too old when it came.
    stale: usize,
    /// In how many the second trunk was asked for the first number, and in how many the API spoke of a stranger.
    elsewhere: usize,
    strangers: usize,
}

/// Plays every order.
fn every_order(name: &str, plot: &Plot) -> Orders {
    let (mut path, mut orders) = (Path::default(), Orders::default());
    loop {
        let mut story = Story::new(plot);
        story.play(&mut path);
        story.judge();
        orders.count += 1;
        *orders.outcomes.entry(story.engine.records[0].verdict.outcome).or_default() += 1;
        orders.late += usize::from(story.gateways.values().any(|gateway| story.is_late(gateway)));
        orders.again += usize::from(story.gateways.values().any(|it| it.number != NUMBER));
        orders.stale += usize::from(story.stale);
        let elsewhere = |it: &Gateway| it.number == NUMBER && it.at == address(SECOND);
        orders.elsewhere += usize::from(story.gateways.values().any(elsewhere));
        orders.strangers += usize::from(story.strange.values().any(|(_, doubts)| *doubts >= 2));
        if !path.turn() {
            println!(
                "{name}: {} orders, {} late answers, {} with a second number, {} with an old one, {} by another way, \
                 {} strangers, {:?}",
                orders.count,
                orders.late,
                orders.again,
                orders.stale,
                orders.elsewhere,
                orders.strangers,
                orders.outcomes
            );
            return orders;
        }
    }
}

/// The first number is refused, and the next one is safe for 2 ms from the moment it was asked for: an answer that waits
/// while the clock steps has grown old, or nearly so.
fn stalled(creates: Vec<Result<Transfer, ApiFailure>>, fetches: Vec<Result<Transfer, ApiFailure>>) -> Plot {
    let steps = [0, 0, 1, 2, 3].map(|step| secs(1) + ms(step)).to_vec();
    Plot { steps, then: vec![503], creates, fetches, ..Plot::new() }
}

fn unreachable_then_found(found: Result<Transfer, ApiFailure>) -> Plot {
    let (creates, fetches) = (vec![Err(failure(FailureClass::Ambiguous))], vec![found]);
    Plot { creates, fetches, ..Plot::new() }
}

/// Everything, and not only what is quick.
fn long() -> bool {
    std::env::var_os("SWITCHBACK_LONG").is_some()
}

/// What a gateway may have said before the moment; the first of it in a short run.
fn beginnings() -> Vec<Says> {
    let all = vec![Says::Provisional(180), Says::Nothing, Says::Provisional(183)];
    if long() { all } else { all[..1].to_vec() }
}

#[test]
fn o6_an_answer_and_its_repeat_a_cancel_and_the_guard_in_any_order() {
    for first in beginnings() {
        let orders = every_order("answer, repeat, CANCEL", &Plot { first, then: vec![200, 200], ..Plot::new() });
        assert!(orders.late > 100 && orders.again > 100, "too little happened");
    }
}

#[test]
fn o6_an_answer_and_the_byes_of_both_sides_and_the_guard_in_any_order() {
    for first in beginnings() {
        let orders = every_order("answer, CANCEL, both BYE", &Plot { first, genagent_leaves: true, ..Plot::new() });
        assert!(orders.late > 100 && orders.again > 100, "too little happened");
        let repeated =
            Plot { first, then: vec![200, 200], genagent_leaves: true, customer_leaves: false, ..Plot::new() };
        let orders = every_order("answer, repeat, GenerativeAgent's BYE", &repeated);
        assert!(orders.late > 100 && orders.again > 100, "too little happened");
    }
}

#[test]
fn o6_a_repeat_of_the_invite_is_due_in_the_instant_of_the_guard() {
    // Timer A repeats at 0.5 s and at 1.5 s; so long is the number safe.
    let repeats = [ms(500), ms(1500)];
    for safe in repeats.into_iter().take(if long() { 2 } else { 1 }) {
        for then in [vec![], vec![100], vec![180], vec![200], vec![180, 200]] {
            let plot = Plot { first: Says::Nothing, life: secs(5) + safe, steps: around(safe), then, ..Plot::new() };
            let orders = every_order("Timer A and the guard", &plot);
            assert!(orders.again > 0, "too little happened");
        }
    }
}

#[test]
fn o6_the_second_number_comes_in_any_order_or_not_at_all() {
    for found in [Ok(active("+19995550777", secs(60))), Err(failure(FailureClass::NotFound))] {
        let orders = every_order("the second POST is lost", &unreachable_then_found(found));
        assert!(orders.late > 100 && orders.again > 10, "too little happened");
    }
    for class in [FailureClass::ServerError, FailureClass::Unauthorized, FailureClass::Throttled] {
        let plot = Plot { creates: vec![Err(failure(class))], then: vec![200, 200], ..Plot::new() };
        let orders = every_order("the second POST fails", &plot);
        assert!(orders.late > 100, "too little happened");
    }
    // The second number is about to expire as it comes, and has expired.
    for life in [ms(5_001), secs(5)] {
        let plot = Plot { creates: vec![Ok(active("+19995550777", life))], ..Plot::new() };
        let orders = every_order("the second number is old", &plot);
        assert!(orders.late > 10, "too little happened");
    }
}

#[test]
fn o6_the_program_stalls_between_the_answer_of_the_api_and_its_use() {
    let aging = || Ok(active("+19995550777", secs(5) + ms(2)));
    let lost = || Err(failure(FailureClass::Ambiguous));
    for (creates, fetches) in [
        (vec![aging()], vec![]),
        (vec![aging(), Ok(active("+19995550778", secs(5) + ms(1)))], vec![]),
        (vec![lost()], vec![aging()]),
        (vec![lost(), aging()], vec![Err(failure(FailureClass::NotFound))]),
    ] {
        let orders = every_order("a stall before the second number", &stalled(creates, fetches));
        assert!(orders.stale > 0 && orders.late > 0 && orders.again > 10, "too little happened");
    }
}

#[test]
fn o6_failover_to_a_second_trunk_and_the_guard_in_any_order() {
    for first in [Says::Nothing].into_iter().chain(beginnings()) {
        for then in [vec![503], vec![503, 503], vec![180, 503], vec![100, 503], vec![486]] {
            let many = then.len() > 1 && then[0] != 100;
            if many && !long() {
                continue;
            }
            // A server that says nothing is given up after 6 s: the guard comes before.
            let plot = Plot { first, then: then.clone(), life: secs(8), steps: around(secs(3)), ..Plot::new() };
            let orders = every_order(&format!("{first:?} {then:?}, CANCEL, two trunks"), &plot.on_two_trunks());
            let spent = first != Says::Nothing || then == [180, 503] || then == [486];
            assert_eq!(orders.elsewhere == 0, first != Says::Nothing || then == [486], "the way to the second trunk");
            assert!(orders.again > 10 || !spent, "too little happened");
        }
    }
}

#[test]
fn o6_a_silent_server_is_given_up_in_the_instant_of_the_guard() {
    // A server is given up for the next one after 6 s of silence; so long is the number safe.
    for then in [vec![], vec![200], vec![200, 200], vec![503]] {
        let life = secs(5 + 6);
        let plot = Plot { first: Says::Nothing, life, steps: around(secs(6)), then, ..Plot::new() }.on_two_trunks();
        let orders = every_order("silence, two trunks", &plot);
        assert!(orders.again > 10, "too little happened");
    }
}

/// GenerativeAgent has answered, and the API is asked whether it was the right one.
fn verified(fetches: Vec<Result<Transfer, ApiFailure>>) -> Plot {
    let steps = vec![VERIFY, VERIFY + ms(1), VERIFY * 2, VERIFY * 2 + ms(1)];
    Plot { first: Says::Answers, then: vec![], genagent_leaves: true, steps, fetches, ..Plot::new() }
        .set(|settings| settings.call.verify_after = VERIFY)
}

#[test]
fn o6c_evidence_and_the_byes_of_both_sides_in_any_order() {
    let says =
        |what: &TransferStatus| Ok(Transfer { status: Some(what.clone()), dated: UNIX_MS, ..Transfer::default() });
    let (active, expired, ongoing) = (TransferStatus::Active, TransferStatus::Expired, TransferStatus::Ongoing);
    for (story, strangers) in [
        (vec![&expired], true),
        (vec![&active, &active], true),
        (vec![&active, &expired], true),
        (vec![&active, &ongoing], false),
        (vec![&ongoing], false),
    ] {
        let fetches: Vec<_> = story.iter().map(|status| says(status)).collect();
        for (customer_leaves, genagent_leaves) in [(true, true), (false, true), (true, false), (false, false)] {
            // Ten thousand orders and more.
            if customer_leaves && genagent_leaves && story.len() > 1 && !long() {
                continue;
            }
            let plot = Plot { customer_leaves, genagent_leaves, ..verified(fetches.clone()) };
            let orders = every_order(&format!("evidence {story:?}"), &plot);
            assert_eq!(orders.strangers > 0, strangers, "too little happened");
        }
    }
}
