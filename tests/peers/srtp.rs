//! A customer with SRTP over TLS, GenerativeAgent with RTP over UDP: libsrtp, in both telephones, understands what ours
//! protects.

use crate::door::Door;
use crate::phone::{Phone, Stack};
use crate::table::{self, Row};
use crate::talk::{CUSTOMER, GENAGENT, LISTENING, SETTLING, ended, is_heard, is_not_heard};
use crate::world::Over::{Tls, Udp};
use crate::world::{Path, World};

/// A call with a hold and its end on the customer's side, which changes its keys where its stack does.
pub async fn play(customer: Stack, genagent: Stack) {
    const PLAYED: [&str; 3] = [table::AUDIO, table::CUSTOMER_HOLDS, table::CUSTOMER_BYE];
    let mut row = Row::begin(customer.name(), "TLS and SRTP, UDP and RTP", genagent.name(), &PLAYED);
    let world = World::between(Tls, Udp, Path::Direct).await;
    let mut speaker = Phone::secured(customer, &world.customer, Tls, CUSTOMER, world.room("customer-room")).await;
    let answerer = Phone::start(genagent, &world.genagent, Udp, GENAGENT, world.room("genagent-room")).await;

    speaker.obey(&format!("dial {}", world.dialled()));
    for phone in [&speaker, &answerer] {
        phone.says("CALL_ESTABLISHED", 1).await;
    }
    both_are_heard(&speaker, &answerer).await;
    let on_the_wire = Door::open(&world.customer).hears(LISTENING).await;
    assert!(on_the_wire.len() > 8_000, "RTP arrives at the customer's door");
    is_not_heard(GENAGENT, &on_the_wire);
    row.holds(table::AUDIO);
    speaker.obey("hold");
    tokio::time::sleep(SETTLING).await;
    speaker.obey("resume");
    both_are_heard(&speaker, &answerer).await;
    row.holds(table::CUSTOMER_HOLDS);
    speaker.obey("hangup");
    for phone in [&speaker, &answerer] {
        phone.says("CALL_CLOSED", 1).await;
        phone.has_obeyed();
    }
    let record = world.records(1).await.remove(0);
    ended(&record, "customer_hung_up", "customer");
    assert_eq!(record["customer_media"]["foreign_packets"], 0, "{record}");
    row.holds(table::CUSTOMER_BYE);
    world.close().await;
}

async fn both_are_heard(customer: &Phone, genagent: &Phone) {
    tokio::time::sleep(SETTLING).await;
    let (here, there) = tokio::join!(customer.hears(LISTENING), genagent.hears(LISTENING));
    for (tone, samples) in [(GENAGENT, here), (CUSTOMER, there)] {
        if let Some(samples) = samples {
            is_heard("the telephone", tone, &samples, 1);
        }
    }
}
