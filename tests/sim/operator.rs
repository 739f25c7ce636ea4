//! X: what operators and supervisors do.

use switchback::b2bua::io::{FailureClass, OperatorCommand};
use switchback::call::CallRef;
use switchback::call::verdict::{EndedBy, Outcome, Phase};

use crate::asapp::NUMBER;
use crate::engine::{ms, secs};
use crate::happy::talk;
use crate::ladders::{asks_for_a_person, taken_over, tried, with_ladder};
use crate::peer::Line;
use crate::world::World;

fn the_call(w: &World) -> CallRef {
    let stage = w.stage();
    stage.engine.core.live_calls(stage.engine.now)[0].call
}

fn pull_back(w: &World) {
    w.operator(OperatorCommand::PullBack(the_call(w)));
}

fn hang_up(w: &World) {
    w.operator(OperatorCommand::HangUp(the_call(w)));
}

/// A customer who has been answered is told that a person ended the call.
fn is_hung_up_on(customer: &mut Line) {
    let bye = customer.expect_and_ok("BYE");
    assert_eq!(bye.all("Reason"), ["Q.850;cause=16", "switchback;text=\"operator\""]);
}

#[test]
fn x1_drain_finishes_what_is_there_and_takes_nothing_new() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    w.operator(OperatorCommand::Drain);
    assert_eq!(w.ivr.request("OPTIONS").expect("503 OPTIONS").header("Retry-After"), "5");
    let refusal = w.ivr.invite().expect_refusal(503);
    assert!(refusal.has("Retry-After"));
    genagent.bye();
    genagent.expect("200 BYE");
    assert!(!w.stage().engine.closed);
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict().0, Outcome::Agent);
    w.run_until("the end of the drain", |stage| stage.engine.closed);
}

#[test]
fn options_says_whether_a_call_would_be_taken() {
    let w = World::set(|settings| settings.max_calls = 1);
    assert!(!w.ivr.request("OPTIONS").expect("200 OPTIONS").has("Retry-After"));
    let (mut customer, mut genagent) = talk(&w);
    assert_eq!(w.ivr.request("OPTIONS").expect("503 OPTIONS").header("Retry-After"), "5");
    assert_eq!(w.ivr.invite().expect_refusal(503).header("Retry-After"), "5");
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    w.run_for(secs(5));
    w.ivr.request("OPTIONS").expect("200 OPTIONS");
}

#[test]
fn x1_stop_ends_every_call_with_a_reason() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    let mut waiting = w.ivr.invite();
    waiting.expect("180");
    let post = w.api.expect_create();
    w.operator(OperatorCommand::Stop);
    let bye = genagent.expect_and_ok("BYE");
    assert!(bye.header("Reason").starts_with("Q.850;cause="));
    let bye = customer.expect_and_ok("BYE");
    assert_eq!(bye.header("X-Switchback-Outcome"), "drained");
    assert!(waiting.expect_refusal(503).has("Retry-After"));
    post.answer_number(NUMBER, secs(60));
    w.carrier.expect_nothing_for(secs(5));
    assert!(w.stage().engine.closed);
    assert!(w.records().iter().all(|record| record.verdict.outcome == Outcome::Drained));
}

#[test]
fn x1_at_the_deadline_of_a_drain_both_legs_end_with_a_reason() {
    let w = World::set(|settings| settings.drain_limit = secs(60));
    let (mut customer, mut genagent) = talk(&w);
    w.operator(OperatorCommand::Drain);
    w.run_for(secs(59));
    assert!(w.talking(&customer, &genagent));
    assert!(genagent.expect_and_ok("BYE").header("Reason").starts_with("Q.850;cause="));
    assert_eq!(customer.expect_and_ok("BYE").header("X-Switchback-Outcome"), "drained");
    w.run_until("the end of the drain", |stage| stage.engine.closed);
}

#[test]
fn x2_a_stop_waits_for_nobody_longer_than_a_second() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    w.operator(OperatorCommand::Stop);
    let (to_customer, to_genagent) = (customer.expect("BYE"), genagent.expect("BYE"));
    w.run_for(secs(1));
    assert!(w.stage().engine.closed, "neither has answered, and it has closed");
    assert_eq!(w.verdict(), (Outcome::Drained, EndedBy::Us, Phase::Talking));
    customer.reply(&to_customer, 200);
    genagent.reply(&to_genagent, 200);
    for line in [&mut customer, &mut genagent] {
        line.answer_all();
    }
}

/// A leg that waits for its ACK outlives its call; by the time it hears the answer its port may be somebody else's.
#[test]
fn m12_an_answer_after_the_end_moves_no_port() {
    let w = World::new();
    let mut customer = w.ivr.call().without_offer().invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    w.operator(OperatorCommand::Stop);
    genagent.expect_and_ok("BYE");
    w.run_until("the end", |stage| stage.engine.closed);
    w.run_for(secs(5));
    customer.ack_with(customer.sdp());
    customer.expect_and_ok("BYE");
    assert_eq!(w.hears(&customer), crate::relay::Hears::Nothing, "nobody listens to it any more");
}

#[test]
fn x2_stop_twice() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    w.operator(OperatorCommand::Stop);
    w.operator(OperatorCommand::Stop);
    genagent.expect_and_ok("BYE");
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict(), (Outcome::Drained, EndedBy::Us, Phase::Talking));
}

#[test]
fn x_a_person_pulls_a_call_back() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    pull_back(&w);
    genagent.expect_and_ok("BYE");
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict(), (Outcome::Operator, EndedBy::Us, Phase::Talking));
}

#[test]
fn x_a_person_pulls_a_call_back_and_the_rules_say_where_to() {
    let w = with_ladder(&["dial:queue", "bye"]);
    let (mut customer, mut genagent) = talk(&w);
    pull_back(&w);
    genagent.expect_and_ok("BYE");
    let mut queue = w.queue.expect_invite();
    assert_eq!(queue.invite.header("X-Switchback-Outcome"), "operator");
    queue.answer();
    queue.expect("ACK");
    w.run_for(ms(5));
    pull_back(&w);
    w.run_for(secs(1));
    assert!(w.talking(&customer, &queue), "who has been handed back already stays there: {}", w.ladder());
    queue.bye();
    queue.expect("200 BYE");
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict(), (Outcome::Operator, EndedBy::Us, Phase::Talking));
}

#[test]
fn x_a_call_is_pulled_back_before_the_answer() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    w.run_for(secs(1));
    pull_back(&w);
    genagent.expect_and_ok("CANCEL");
    genagent.respond(487);
    genagent.expect("ACK");
    assert_eq!(customer.expect_refusal(480).header("X-Switchback-Outcome"), "operator");
    assert_eq!(w.verdict(), (Outcome::Operator, EndedBy::Us, Phase::BeforeAnswer));
}

#[test]
fn x_a_call_is_pulled_back_without_waiting_for_its_context() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    genagent.bye();
    genagent.expect("200 BYE");
    let get = w.api.expect_fetch();
    pull_back(&w);
    assert_eq!(customer.expect_and_ok("BYE").header("X-Switchback-Outcome"), "operator");
    assert_eq!(w.verdict(), (Outcome::Operator, EndedBy::Us, Phase::Collecting));
    get.answer_completed("AGENT", &[]);
}

#[test]
fn x_a_person_hangs_up_a_call() {
    let w = with_ladder(&["dial:queue", "bye"]);
    let (mut customer, mut genagent) = talk(&w);
    hang_up(&w);
    assert_eq!(genagent.expect_and_ok("BYE").header("Reason"), "Q.850;cause=16");
    is_hung_up_on(&mut customer);
    w.queue.expect_nothing_for(secs(5));
    assert_eq!(w.verdict(), (Outcome::Operator, EndedBy::Us, Phase::Talking));
    assert_eq!(w.record().hand_back, None);
}

#[test]
fn x_a_call_is_hung_up_while_its_number_is_asked_for() {
    let w = with_ladder(&["dial:queue", "refuse:480"]);
    let mut customer = w.ivr.invite();
    customer.expect("180");
    let post = w.api.expect_create();
    hang_up(&w);
    assert_eq!(customer.expect_refusal(603).header("Reason"), "switchback;text=\"operator\"");
    post.answer_number(NUMBER, secs(60));
    w.carrier.expect_nothing_for(secs(5));
    w.queue.expect_nothing_for(secs(5));
    assert_eq!(w.verdict(), (Outcome::Operator, EndedBy::Us, Phase::BeforeAnswer));
}

#[test]
fn x_a_call_is_hung_up_while_genagent_rings() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    w.run_for(secs(1));
    hang_up(&w);
    genagent.expect_and_ok("CANCEL");
    genagent.respond(487);
    genagent.expect("ACK");
    customer.expect_refusal(603);
    assert_eq!(w.verdict(), (Outcome::Operator, EndedBy::Us, Phase::BeforeAnswer));
}

#[test]
fn x_a_call_is_hung_up_while_its_context_is_fetched() {
    let w = with_ladder(&["dial:queue", "bye"]);
    let (mut customer, mut genagent) = talk(&w);
    genagent.bye();
    genagent.expect("200 BYE");
    let get = w.api.expect_fetch();
    hang_up(&w);
    is_hung_up_on(&mut customer);
    get.answer_completed("AGENT", &[]);
    w.queue.expect_nothing_for(secs(5));
    assert_eq!(w.verdict(), (Outcome::Operator, EndedBy::Us, Phase::Collecting));
    assert_eq!(w.record().verdict.evidence.transfer_type.as_deref(), Some("AGENT"), "kept for the record");
}

#[test]
fn x_a_call_is_hung_up_while_the_queue_rings() {
    let w = with_ladder(&["dial:queue", "dial:queue", "bye"]);
    let (mut customer, mut genagent) = talk(&w);
    asks_for_a_person(&w, &mut genagent);
    let mut queue = w.queue.expect_invite();
    queue.respond(180);
    w.run_for(secs(1));
    hang_up(&w);
    queue.expect_and_ok("CANCEL");
    queue.respond(487);
    queue.expect("ACK");
    is_hung_up_on(&mut customer);
    w.queue.expect_nothing_for(secs(5));
    assert_eq!(tried(&w), ["dial:queue hung up by an operator"]);
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking), "how GenerativeAgent's part ended");
    assert_eq!(w.record().hand_back.and_then(|back| back.ended_by), Some(EndedBy::Us));
}

#[test]
fn x_a_call_is_hung_up_while_the_customer_talks_with_the_queue() {
    let w = with_ladder(&["dial:queue", "bye"]);
    let (mut customer, mut queue) = taken_over(&w);
    hang_up(&w);
    hang_up(&w);
    queue.expect_and_ok("BYE");
    is_hung_up_on(&mut customer);
    assert_eq!(w.record().hand_back.and_then(|back| back.ended_by), Some(EndedBy::Us));
}

#[test]
fn x_an_unknown_call_is_nobodys() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    w.operator(OperatorCommand::HangUp(CallRef(1)));
    w.operator(OperatorCommand::PullBack(CallRef(1)));
    w.run_for(secs(1));
    assert!(w.talking(&customer, &genagent));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn x_the_longest_conversation() {
    let w = World::set(|settings| settings.call.max_duration = secs(120));
    let (mut customer, mut genagent) = talk(&w);
    w.run_for(secs(119));
    genagent.expect_and_ok("BYE");
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict().0, Outcome::MaxDuration);
}

#[test]
fn x_options_tell_that_we_are_ready() {
    let w = World::new();
    let answer = w.ivr.request("OPTIONS").expect("200 OPTIONS");
    assert!(answer.header("Allow").contains("INVITE"));
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().fail(FailureClass::Refused);
    customer.expect_refusal(480);
}

#[test]
fn x_pulled_but_the_customer_leaves_before_its_ack() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    pull_back(&w);
    genagent.expect_and_ok("BYE");
    w.run_for(secs(1));
    // The hand-back still waits for this customer's ACK: it was never sent.
    customer.bye();
    customer.expect("200 BYE");
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::HandingBack));
    assert_eq!(w.record().hand_back, None);
}

#[test]
fn x_the_hand_back_is_measured_from_what_led_to_it() {
    let w = World::set(|settings| settings.call.max_duration = secs(120));
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut refused = w.carrier.expect_invite();
    refused.respond(486);
    refused.expect("ACK");
    w.api.expect_create().answer_number("+19995550177", secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(secs(119));
    genagent.expect_and_ok("BYE");
    customer.expect_and_ok("BYE");
    assert!(w.counters().hand_back.sum < 1.0, "not from the refusal two minutes ago: {:?}", w.counters().hand_back);
}

#[test]
fn x7_above_its_limits_the_excess_is_refused() {
    let w = World::set(|settings| settings.max_calls = 1);
    let (mut customer, mut genagent) = talk(&w);
    assert!(w.ivr.invite().expect_refusal(503).has("Retry-After"));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    assert_eq!(w.counters().rejected["calls"], 1);

    let w = World::set(|settings| settings.max_calls_per_second = 2);
    let mut lines: Vec<_> = (0..3).map(|_| w.ivr.invite()).collect();
    lines[2].expect_refusal(503);
    for line in &mut lines[..2] {
        line.expect("180");
        w.api.expect_create().fail(FailureClass::Refused);
        line.expect_refusal(480);
    }
}
