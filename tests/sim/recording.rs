//! Which calls are recorded, and what of it is told.

use switchback::b2bua::io::{LiveCall, OperatorCommand, PortPair, TapeEnd};
use switchback::b2bua::settings::Settings;
use switchback::call::recording::Occasion;
use switchback::call::rules::{Matcher, Pattern};

use crate::asapp::NUMBER;
use crate::engine::{ms, secs};
use crate::happy::talk;
use crate::ladders::{asks_for_a_person, rules};
use crate::peer::Line;
use crate::replaces::takes_over;
use crate::world::World;

/// Recordings are kept; calls with this task are recorded unasked.
fn kept(task: &str) -> impl FnOnce(&mut Settings) {
    let occasion = Occasion { task: vec![Pattern(task.to_owned())], ..Occasion::default() };
    move |settings| {
        settings.call.recording.kept = true;
        settings.call.recording.occasions = vec![occasion];
        settings.call.recording.header = "X-Recorded".to_owned();
    }
}

/// The pairs whose far sides are recorded.
fn recorded(w: &World) -> Vec<PortPair> {
    let stage = w.stage();
    let pairs = stage.engine.relay.pairs();
    pairs.filter(|(_, pair)| pair.recorded.is_some()).map(|(port, _)| *port).collect()
}

/// The pair that this party sends to.
fn pair_of(w: &World, line: &Line) -> PortPair {
    w.stage().engine.relay.towards(line.rtp).expect("an open pair").0
}

fn live(w: &World) -> LiveCall {
    let stage = w.stage();
    stage.engine.core.live_calls(stage.engine.now).remove(0)
}

fn record(w: &World, on: bool) {
    w.operator(OperatorCommand::Record(live(w).call, on));
}

#[test]
fn a_call_that_fits_is_recorded_from_genagents_answer_on_and_the_customers_side_is_told() {
    let w = World::set(kept("Bill*"));
    let mut customer = w.ivr.call().header("X-GA-taskName", "Billing").invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    assert_eq!(recorded(&w), [], "nobody talks yet");
    genagent.answer();
    genagent.expect("ACK");
    assert_eq!(customer.expect("200").header("X-Recorded"), "yes");
    customer.ack();
    w.run_for(ms(5));
    assert_eq!(recorded(&w), [pair_of(&w, &customer)]);
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    let report = w.record().recording.expect("a report");
    assert_eq!((report.file, report.end), (Some(format!("{}.wav", w.record().call)), TapeEnd::Complete));
}

#[test]
fn another_call_is_recorded_when_somebody_asks_for_it_and_as_long() {
    let w = World::set(kept("Bill*"));
    let (mut customer, mut genagent) = talk(&w);
    assert_eq!(recorded(&w), []);
    for on in [true, true, false, false, true] {
        record(&w, on);
        let expected: &[PortPair] = if on { &[pair_of(&w, &customer)] } else { &[] };
        assert_eq!(recorded(&w), expected);
    }
    assert!(live(&w).recorded);
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    assert!(w.record().recording.is_some());
}

#[test]
fn nothing_is_recorded_where_there_is_no_place_for_it() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    record(&w, true);
    assert_eq!(recorded(&w), []);
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    assert_eq!(w.record().recording, None);
}

#[test]
fn t3_the_recording_goes_on_with_who_takes_the_customers_place() {
    let w = World::set(kept("*"));
    let (mut customer, mut genagent) = talk(&w);
    record(&w, true);
    let mut desk = takes_over(&w, &customer);
    desk.expect("200");
    desk.ack();
    assert_eq!(recorded(&w), [pair_of(&w, &desk)]);
    customer.expect_and_ok("BYE");
    assert_eq!(recorded(&w), [pair_of(&w, &desk)]);
    desk.bye();
    desk.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    assert!(w.record().recording.is_some());
}

#[test]
fn h4_the_recording_goes_on_at_the_queue_which_is_told() {
    let w = World::set(|settings| {
        kept("*")(settings);
        rules(settings, [(Matcher::default(), &["dial:queue"])]);
    });
    let mut customer = w.ivr.call().header("X-GA-taskName", "Sales").invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    asks_for_a_person(&w, &mut genagent);
    let mut queue = w.queue.expect_invite();
    assert_eq!(queue.invite.header("X-Recorded"), "yes");
    queue.answer();
    queue.expect("ACK");
    assert_eq!(recorded(&w), [pair_of(&w, &customer)]);
    queue.bye();
    queue.expect("200 BYE");
    customer.expect_and_ok("BYE");
    assert!(w.record().recording.is_some());
}
