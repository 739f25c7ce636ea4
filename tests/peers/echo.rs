//! SIPp as one party, which says what it hears, and a telephone as the other. SIPp holds and resumes by its scenario.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use crate::capture;
use crate::door::Door;
use crate::phone::{Phone, Stack};
use crate::sipp::Sipp;
use crate::stage::SOON;
use crate::table::{self, Row};
use crate::talk::{CUSTOMER, GENAGENT, LISTENING, SETTLING, ended, is_heard};
use crate::tone::Tone;
use crate::tshark::Capture;
use crate::world::{DEVICES, Over, Path, SWITCHBACK, World};

/// How long SIPp talks, and then holds.
const PAUSE: Duration = Duration::from_millis(2200);

/// SIPp is the customer. It hangs up the first call, GenerativeAgent the second.
pub async fn sipp_calls(genagent: Stack, over: Over) {
    const PLAYED: [&str; 4] = [table::AUDIO, table::CUSTOMER_HOLDS, table::CUSTOMER_BYE, table::GENAGENT_BYE];
    let mut row = Row::begin("SIPp", &over.as_str().to_uppercase(), genagent.name(), &PLAYED);
    let world = World::set(over, Path::Direct).await;
    let mut phone = Phone::start(genagent, &world.genagent, over, GENAGENT, world.room("genagent")).await;
    let (door, file) = (Door::open(&world.customer), world.path("call.pcapng"));
    let capture = Capture::begin(&DEVICES, "not tcp port 8000", &file).await;
    let sipp = || sipp("customer_holds", &world, over.at(world.customer.ip)).calls_to(over.at(SWITCHBACK));

    let first = world.customer.within(|| sipp().start());
    talk(&phone, &door, GENAGENT, 1).await;
    row.holds(table::AUDIO);
    row.holds(table::CUSTOMER_HOLDS);
    first.well(SOON).await;
    phone.says("CALL_CLOSED", 1).await;
    ended(&world.records(1).await[0], "customer_hung_up", "customer");
    row.holds(table::CUSTOMER_BYE);

    let second = world.customer.within(|| sipp().start());
    talk(&phone, &door, GENAGENT, 2).await;
    phone.obey("hangup");
    second.well(SOON).await;
    ended(&world.records(2).await[1], "agent", "genagent");
    row.holds(table::GENAGENT_BYE);
    capture.end().await;
    capture::is_good(&world, &file, 2, 2);
    world.close().await;
}

/// SIPp is GenerativeAgent. It hangs up the first call, the customer the second.
pub async fn sipp_answers(customer: Stack, over: Over) {
    const PLAYED: [&str; 4] = [table::AUDIO, table::GENAGENT_HOLDS, table::CUSTOMER_BYE, table::GENAGENT_BYE];
    let mut row = Row::begin(customer.name(), &over.as_str().to_uppercase(), "SIPp", &PLAYED);
    let world = World::set(over, Path::Direct).await;
    let mut phone = Phone::start(customer, &world.customer, over, CUSTOMER, world.room("customer")).await;
    let (door, file) = (Door::open(&world.genagent), world.path("call.pcapng"));
    let capture = Capture::begin(&DEVICES, "not tcp port 8000", &file).await;
    let sipp = sipp("genagent_holds", &world, over.at(world.genagent.ip)).calls(2);
    let sipp = world.genagent.within(|| sipp.start());

    phone.obey(&format!("dial {}", world.dialled()));
    talk(&phone, &door, CUSTOMER, 1).await;
    row.holds(table::AUDIO);
    row.holds(table::GENAGENT_HOLDS);
    phone.says("CALL_CLOSED", 1).await;
    ended(&world.records(1).await[0], "agent", "genagent");
    row.holds(table::GENAGENT_BYE);

    phone.obey(&format!("dial {}", world.dialled()));
    talk(&phone, &door, CUSTOMER, 2).await;
    phone.obey("hangup");
    sipp.well(SOON).await;
    ended(&world.records(2).await[1], "customer_hung_up", "customer");
    row.holds(table::CUSTOMER_BYE);
    capture.end().await;
    capture::is_good(&world, &file, 2, 2);
    world.close().await;
}

fn sipp(scenario: &str, world: &World, here: std::net::SocketAddr) -> Sipp {
    let transport = if world.over == Over::Tcp { "t1" } else { "u1" };
    Sipp::new(scenario, here, &world.path("")).pause(PAUSE).option(&["-rtp_echo", "-t", transport])
}

/// A whole conversation, until SIPp has resumed: the telephone hears its own voice come back, but not from a hold.
async fn talk(phone: &Phone, door: &Door, voice: Tone, call: usize) {
    phone.says("CALL_ESTABLISHED", call).await;
    let began = Instant::now();
    sleep(SETTLING).await;
    echoes(phone, door, voice).await;
    sleep_until(began + PAUSE + SETTLING).await;
    let held = door.hears(LISTENING).await;
    assert!(held.is_empty(), "{} samples arrive where nobody wants them", held.len());
    sleep_until(began + 2 * PAUSE + SETTLING).await;
    echoes(phone, door, voice).await;
}

async fn echoes(phone: &Phone, door: &Door, voice: Tone) {
    let (back, arrived) = tokio::join!(phone.hears(LISTENING), door.hears(LISTENING));
    is_heard("SIPp's door", voice, &arrived, 0);
    is_heard("the telephone", voice, &back.unwrap(), 1);
}
