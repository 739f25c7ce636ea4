//! Answer first: H6, A5, A12, A13, for an IVR that counts on an answer.

use std::time::Duration;

use switchback::b2bua::io::{FailureClass, MediaEvent, OperatorCommand, Sound};
use switchback::b2bua::settings::Settings;
use switchback::call::rules::Matcher;
use switchback::call::settings::Answer;
use switchback::call::verdict::{EndedBy, NotConnected, Outcome, Phase};

use crate::asapp::NUMBER;
use crate::engine::{Flight, ms, secs};
use crate::ladders::rules;
use crate::peer::Line;
use crate::relay::Hears;
use crate::world::{LONG, World};

fn first(settings: &mut Settings) {
    settings.call.answer = Answer::First;
}

/// A customer who has been answered and acknowledges it.
fn answered(w: &World) -> Line {
    let mut customer = w.ivr.invite();
    customer.expect("200");
    customer.ack();
    customer
}

/// The customer's first RTP arrives.
fn speaks(w: &World, line: &Line) {
    let mut stage = w.stage();
    let (pair, _) = stage.engine.relay.towards(line.rtp).expect("a pair expects this party");
    stage.engine.launch(Duration::ZERO, Flight::Media(MediaEvent::Started(pair)));
    stage.run_for(Duration::ZERO);
}

#[test]
fn h6_answered_at_once_with_ringback_and_then_connected() {
    let w = World::set(first);
    let mut customer = answered(&w);
    assert!(w.now() < ms(200));
    assert_eq!(w.hears(&customer), Hears::Sound(Sound::Ringback));
    speaks(&w, &customer);
    w.api.expect_create().after(secs(2)).answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    w.run_for(secs(3));
    assert_eq!(w.hears(&customer), Hears::Sound(Sound::Ringback));
    genagent.answer();
    genagent.expect("ACK");
    w.run_for(ms(5));
    assert!(w.talking(&customer, &genagent), "{}", w.ladder());
    w.run_for(secs(60));
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("SYSTEM", &[]);
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict(), (Outcome::System, EndedBy::Genagent, Phase::Talking));
    w.golden("h6");
}

#[test]
fn h6_a_delayed_offer_hears_ringback_from_its_ack_on() {
    let w = World::set(first);
    let mut customer = w.ivr.call().without_offer().invite();
    customer.expect("200");
    customer.ack_with(customer.sdp());
    w.run_for(ms(5));
    assert_eq!(w.hears(&customer), Hears::Sound(Sound::Ringback));
    customer.bye();
    customer.expect("200 BYE");
}

#[test]
fn h6_failures_after_the_answer_go_through_the_rules_of_an_answered_call() {
    for ladder in [&["dial:queue"][..], &[][..]] {
        let w = World::set(|settings| {
            first(settings);
            if !ladder.is_empty() {
                rules(settings, [(Matcher::default(), ladder)]);
            }
        });
        let mut customer = answered(&w);
        w.api.expect_create().fail(FailureClass::Unauthorized);
        if ladder.is_empty() {
            let bye = customer.expect_and_ok("BYE");
            assert_eq!(bye.header("Reason"), "Q.850;cause=16");
            assert_eq!(bye.header("X-Switchback-Outcome"), "not_connected");
        } else {
            let mut queue = w.queue.expect_invite();
            queue.answer();
            queue.expect("ACK");
            w.run_for(ms(5));
            assert!(w.talking(&customer, &queue));
            customer.bye();
            customer.expect("200 BYE");
            queue.expect_and_ok("BYE");
        }
        assert_eq!(w.verdict(), (Outcome::NotConnected, EndedBy::Us, Phase::BeforeAnswer));
    }
}

#[test]
fn h6_an_offer_that_cannot_be_answered_is_refused() {
    let w = World::set(first);
    let sdp = crate::text::audio("198.51.100.10", 40_000, "111", "sendrecv");
    let mut customer = w.ivr.call().offering(sdp).invite();
    customer.expect_refusal(488);
    w.api.expect_create().answer_number(NUMBER, secs(60));
    w.carrier.expect_nothing_for(secs(5));
    assert_eq!(w.record().verdict.outcome, Outcome::NotConnected);
}

#[test]
fn h6_an_ack_that_comes_after_the_end_moves_nobody_elses_media() {
    let w = World::set(first);
    let mut customer = w.ivr.call().without_offer().invite();
    customer.expect("200");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    w.run_for(ms(50));
    w.operator(OperatorCommand::Stop);
    genagent.expect_and_ok("CANCEL");
    genagent.respond(487);
    genagent.expect("ACK");
    w.run_for(ms(1500)); // The stop waits for a second, then ports are given back.
    customer.ack_with(customer.sdp());
    customer.expect_and_ok("BYE");
    assert_eq!(w.stage().engine.relay.misused, []);
}

#[test]
fn a12_a_bye_during_the_post() {
    let w = World::set(first);
    let mut customer = answered(&w);
    let post = w.api.expect_create();
    w.run_for(ms(100));
    customer.bye();
    customer.expect("200 BYE");
    post.after(ms(500)).answer_number(NUMBER, secs(60));
    w.carrier.expect_nothing_for(secs(60));
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::BeforeAnswer));
    assert_eq!(w.counters().numbers_unused, 1, "counted, and nothing more");
    w.golden("a12");
}

#[test]
fn a13_a_customer_of_whom_nothing_is_heard_is_gone() {
    let w = World::set(|settings| {
        first(settings);
        settings.call.dwell_limit = secs(5);
    });
    let mut customer = answered(&w);
    let post = w.api.expect_create().after(secs(6));
    post.answer_number(NUMBER, secs(60));
    assert_eq!(customer.expect_and_ok("BYE").header("Reason"), "Q.850;cause=102");
    assert!((ms(4900)..ms(5100)).contains(&w.now()));
    w.carrier.expect_nothing_for(secs(60));
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Network, Phase::BeforeAnswer));
}

#[test]
fn a13_also_while_it_rings_and_whoever_rings_is_cancelled() {
    let w = World::set(|settings| {
        first(settings);
        settings.call.dwell_limit = secs(5);
    });
    let mut customer = answered(&w);
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    customer.expect_and_ok("BYE");
    genagent.expect_and_ok("CANCEL");
    genagent.respond(487);
    genagent.expect("ACK");
    w.api.expect_nothing_for(secs(10));
}

#[test]
fn a13_whoever_was_heard_may_be_silent() {
    let w = World::set(|settings| {
        first(settings);
        settings.call.dwell_limit = secs(5);
    });
    let mut customer = answered(&w);
    speaks(&w, &customer);
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    w.run_for(secs(20));
    genagent.answer();
    genagent.expect("ACK");
    w.run_for(ms(5));
    assert!(w.talking(&customer, &genagent));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn a13_no_ack_ever() {
    let w = World::set(|settings| {
        first(settings);
        settings.call.dwell_limit = Duration::ZERO;
        settings.call.ring_limit = secs(50);
    });
    let mut customer = w.ivr.invite();
    customer.expect("200");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    genagent.expect_and_ok("CANCEL");
    assert!(w.now() >= LONG && w.now() < LONG + secs(1), "{:?}", w.now());
    genagent.respond(487);
    genagent.expect("ACK");
    customer.expect_and_ok("BYE");
    w.api.expect_nothing_for(secs(10));
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Network, Phase::BeforeAnswer));
}

#[test]
fn a5_a_context_that_asapp_refuses_is_left_out_once_where_that_is_permitted() {
    let w = World::set(|settings| settings.call.retry_without_context = true);
    let call = w.ivr.call().header("X-GA-taskName", "Billing").header("X-GA-iv-plan", "gold");
    let mut customer = call.header("X-GA-extConversationId", "conv-5").invite();
    customer.expect("180");
    let post = w.api.expect_create();
    let refused = post.id();
    assert_eq!((post.body().task.as_deref(), post.body().variables.len()), (Some("Billing"), 1));
    post.fail(FailureClass::InvalidRequest);
    let post = w.api.expect_create();
    assert_ne!(post.id(), refused, "a new id");
    assert_eq!((post.body().task.as_deref(), post.body().variables.len()), (None, 0));
    assert_eq!(post.body().conversation.0, "conv-5");
    post.fail(FailureClass::InvalidRequest);
    customer.expect_refusal(480);
    w.api.expect_nothing_for(secs(10));
    assert_eq!(w.record().verdict.evidence.not_connected, Some(NotConnected::ApiRefused));
    assert_eq!(w.record().task.as_deref(), Some("Billing"), "what was asked for");
}

#[test]
fn a5_else_the_call_falls_back() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().fail(FailureClass::InvalidRequest);
    customer.expect_refusal(480);
    w.api.expect_nothing_for(secs(10));
}
