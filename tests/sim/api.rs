//! A: ASAPP's API fails before GenerativeAgent is reached.

use switchback::b2bua::io::{FailureClass, Transfer, TransferStatus};
use switchback::call::verdict::{EndedBy, NotConnected, Outcome, Phase};

use crate::asapp::{NUMBER, active};
use crate::engine::{UNIX_MS, ms, secs};
use crate::world::World;

fn reason(w: &World) -> Option<NotConnected> {
    let record = w.record();
    assert_eq!(record.verdict.outcome, Outcome::NotConnected);
    record.verdict.evidence.not_connected
}

#[test]
fn a1_two_500s_and_then_a_number() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    let mut ids = Vec::new();
    for _ in 0..2 {
        let post = w.api.expect_create();
        ids.push(post.id());
        post.fail(FailureClass::ServerError);
    }
    let post = w.api.expect_create();
    ids.push(post.id());
    assert!(w.now() > ms(750) && w.now() < ms(1000), "250 and 500 ms between them: {:?}", w.now());
    post.answer_number(NUMBER, secs(60));
    ids.dedup();
    assert_eq!(ids.len(), 3, "an id may be used again only after a GET says that it is unknown");
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn a2_a_post_without_answer_is_settled_by_a_get() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    let post = w.api.expect_create();
    let get = w.api.expect_fetch();
    assert_eq!(get.id(), post.id());
    get.answer(Ok(active(NUMBER, secs(30))));
    let mut genagent = w.carrier.expect_invite();
    assert_eq!(w.api.asked(), 2, "no second POST");
    customer.cancel();
    customer.expect("200 CANCEL");
    customer.expect_refusal(487);
    genagent.respond(100);
    genagent.expect_and_ok("CANCEL");
    genagent.respond(487);
    genagent.expect("ACK");
}

#[test]
fn a3_a_post_that_never_arrived_is_asked_again_under_a_new_id() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    let first = w.api.expect_create();
    w.api.expect_fetch().fail(FailureClass::NotFound);
    let second = w.api.expect_create();
    assert_ne!(first.id(), second.id());
    second.answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(486);
    genagent.expect("ACK");
    w.api.expect_create().fail(FailureClass::Refused);
    customer.expect_refusal(480);
    assert_eq!(w.count(&w.carrier, "INVITE"), 1);
}

#[test]
fn a3_an_api_that_neither_makes_a_transfer_nor_knows_it_is_not_asked_for_ever() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    for _ in 0..4 {
        w.api.expect_create().fail(FailureClass::Conflict);
        w.api.expect_fetch().fail(FailureClass::NotFound);
    }
    customer.expect_refusal(480);
    w.api.expect_nothing_for(secs(10));
    assert_eq!(reason(&w), Some(NotConnected::ApiRefused));
}

#[test]
fn a4_credentials_refused_fall_back_at_once() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().fail(FailureClass::Unauthorized);
    let refusal = customer.expect_refusal(480);
    assert!(w.now() < secs(1));
    assert_eq!(refusal.header("X-Switchback-Outcome"), "not_connected");
    w.api.expect_nothing_for(secs(10));
    assert_eq!(reason(&w), Some(NotConnected::ApiRefused));
    assert_eq!(w.counters().api[&("create", "unauthorized")], 1);
}

#[test]
fn a6_a_retry_after_beyond_the_budget_falls_back_at_once() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().fail_until(FailureClass::Throttled, secs(30));
    customer.expect_refusal(480);
    assert!(w.now() < secs(1));
    assert_eq!(reason(&w), Some(NotConnected::ApiThrottled));
}

#[test]
fn a7_a_black_hole_opens_the_breaker_and_a_probe_closes_it() {
    let w = World::new();
    w.expect_warning("circuit breaker open");
    // The first call tries four times within its budget; in the second the fifth failure opens the breaker.
    for tries in [4, 1] {
        let began = w.now();
        let mut customer = w.ivr.invite();
        customer.expect("180");
        for _ in 0..tries {
            w.api.expect_create().after(secs(1)).fail(FailureClass::Unreachable);
        }
        customer.expect_refusal(480);
        assert!(w.now() - began <= secs(9), "fallback within the budget");
    }
    assert_eq!(w.counters().breaker_open, 1);
    let began = w.now();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    customer.expect_refusal(480);
    assert!(w.now() - began < ms(50), "while it is open");
    w.api.expect_nothing_for(secs(10));
    let mut probe = w.ivr.invite();
    let mut other = w.ivr.invite();
    probe.expect("180");
    other.expect("180");
    other.expect_refusal(480);
    w.api.expect_create().fail(FailureClass::Refused);
    probe.expect_refusal(480);
    assert_eq!(w.counters().breaker_open, 0, "it answers again, whatever it says");
}

#[test]
fn a9_a_number_that_is_none_is_not_dialled() {
    let bad = [
        Transfer { number: None, ..active("", secs(60)) },
        active("19995550199", secs(60)),
        active("+1999555019x", secs(60)),
        active("+1 999 555 0199", secs(60)),
        active("+19995550199@evil.example", secs(60)),
        active("+449995550199", secs(60)),
        active(NUMBER, secs(0)),
        active(NUMBER, secs(5)),
        Transfer { expires_at: Some(UNIX_MS - 1000), ..active(NUMBER, secs(60)) },
        Transfer { country: Some("GB".to_owned()), ..active(NUMBER, secs(60)) },
        Transfer { status: Some(TransferStatus::Expired), ..active(NUMBER, secs(60)) },
    ];
    for answer in bad {
        let w = World::new();
        let mut customer = w.ivr.invite();
        customer.expect("180");
        w.api.expect_create().answer(Ok(answer.clone()));
        customer.expect_refusal(480);
        assert_eq!(w.count(&w.carrier, "INVITE"), 0, "{answer:?}");
    }
}

#[test]
fn a10_a_number_after_the_budget_is_counted_and_not_dialled() {
    let w = World::set(|settings| settings.call.number_budget = secs(3));
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().after(secs(4)).answer_number(NUMBER, secs(60));
    customer.expect_refusal(480);
    assert!(w.now() < ms(3100));
    w.carrier.expect_nothing_for(secs(10));
    assert_eq!(w.counters().numbers_unused, 1);
    assert_eq!(reason(&w), Some(NotConnected::ApiDown));
}

#[test]
fn a11_a_cancel_during_the_post() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    let post = w.api.expect_create();
    let said = w.now();
    customer.cancel();
    customer.expect("200 CANCEL");
    customer.expect_refusal(487);
    assert!(w.now() - said < ms(10), "at once");
    post.after(ms(500)).answer_number(NUMBER, secs(60));
    w.carrier.expect_nothing_for(secs(60));
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::BeforeAnswer));
    assert_eq!(w.counters().numbers_unused, 1);
    w.golden("a11");
}

#[test]
fn a2_the_settling_get_follows_the_retry_guidance() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().fail(FailureClass::Conflict);
    w.api.expect_fetch().fail(FailureClass::Throttled);
    let asked = w.now();
    let get = w.api.expect_fetch();
    assert!(w.now() - asked >= secs(1), "429: after one second");
    get.fail(FailureClass::Unauthorized);
    customer.expect_refusal(480);
    w.api.expect_nothing_for(secs(10));
    assert_eq!(reason(&w), Some(NotConnected::ApiRefused));
}

#[test]
fn a14_the_customer_is_reminded_that_it_rings() {
    let w = World::set(|settings| settings.call.ring_limit = secs(200));
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(600));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    w.run_for(secs(185));
    assert_eq!(w.count(&w.ivr, "180"), 4, "once a minute");
    customer.cancel();
    customer.expect("200 CANCEL");
    customer.expect_refusal(487);
    genagent.expect_and_ok("CANCEL");
    genagent.respond(487);
    genagent.expect("ACK");
}

#[test]
fn a_budget_is_a_budget_however_the_api_fails() {
    for class in [FailureClass::ServerError, FailureClass::Unreachable, FailureClass::Throttled] {
        let w = World::set(|settings| settings.breaker.failures = 0);
        let mut customer = w.ivr.invite();
        customer.expect("180");
        while w.counters().active_calls > 0 {
            let question = { w.stage().questions.pop_front() };
            if let Some((number, request)) = question {
                assert!(request.timeout <= secs(4));
                w.stage().engine.reply(number, ms(300), Err(crate::engine::failure(class)));
            }
            w.run_for(ms(10));
        }
        customer.expect_refusal(480);
        assert!(w.now() < ms(8200), "{class:?}: {:?}", w.now());
        assert!(w.api.asked() <= 4, "three retries at most");
    }
}

#[test]
fn a15_a_clock_that_is_hours_off_moves_no_guard() {
    for skew in [-7_200_000, 7_200_000] {
        let w = World::new();
        let mut customer = w.ivr.invite();
        customer.expect("180");
        let there = UNIX_MS + skew;
        let answer = Transfer { expires_at: Some(there + 20_000), dated: there, ..active(NUMBER, secs(20)) };
        w.api.expect_create().answer(Ok(answer));
        let mut genagent = w.carrier.expect_invite();
        genagent.respond(180);
        genagent.expect_and_ok("CANCEL");
        assert!((secs(15)..ms(15_200)).contains(&w.now()), "its life less the margin: {:?}", w.now());
        genagent.respond(487);
        genagent.expect("ACK");
        w.api.expect_create().fail(FailureClass::Refused);
        customer.expect_refusal(480);
    }
}
