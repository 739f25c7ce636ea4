//! The guard after the answer: did the right party answer, and what becomes of a conversation that broke off.

use switchback::b2bua::io::{FailureClass, Sound, TransferStatus};
use switchback::b2bua::settings::Settings;
use switchback::call::verdict::{EndedBy, NotConnected, Outcome, Phase};

use crate::asapp::NUMBER;
use crate::engine::{ms, secs};
use crate::happy::talk;
use crate::peer::Line;
use crate::relay::Hears;
use crate::world::World;

const OTHER: &str = "+19995550177";

fn verifying(change: impl FnOnce(&mut Settings)) -> World {
    World::set(|settings| {
        settings.call.verify_after = secs(2);
        change(settings);
    })
}

/// The customer, parked, is connected to a fresh number without noticing anything of SIP.
fn reconnected(w: &World, customer: &mut Line) -> Line {
    assert_eq!(w.hears(customer), Hears::Sound(Sound::Waiting));
    let create = w.api.expect_create();
    assert_eq!(create.body().conversation.0, w.context().conversation.0, "the same conversation");
    assert!(create.id().ends_with("-2"), "a new id: {}", create.id());
    create.answer_number(OTHER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    assert!(genagent.invite.uri().contains(OTHER), "never the old number");
    genagent.answer();
    genagent.expect("ACK");
    w.run_for(ms(5));
    assert!(w.talking(customer, &genagent));
    assert_eq!(w.count(&w.ivr, "200"), 1, "the customer was answered once");
    genagent
}

fn customer_ends(w: &World, customer: &mut Line, mut genagent: Line) {
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    w.run_for(secs(1));
}

#[test]
fn o6c_ongoing_confirms_and_nobody_asks_again() {
    let w = verifying(|_| {});
    let (mut customer, genagent) = talk(&w);
    w.api.expect_fetch().answer_status(TransferStatus::Ongoing);
    w.api.expect_nothing_for(secs(60));
    assert!(w.talking(&customer, &genagent));
    customer_ends(&w, &mut customer, genagent);
}

#[test]
fn o6c_a_call_that_the_api_never_heard_of_is_cut() {
    for (first, again) in [(TransferStatus::Active, true), (TransferStatus::Expired, false)] {
        let w = verifying(|_| {});
        w.expect_warning("somebody else");
        let (mut customer, mut stranger) = talk(&w);
        w.api.expect_fetch().answer_status(first.clone());
        if again {
            w.run_for(secs(1));
            assert!(w.talking(&customer, &stranger), "a doubt is not enough");
            w.api.expect_fetch().answer_status(first);
        }
        stranger.expect_and_ok("BYE");
        assert!(!w.talking(&customer, &stranger), "the stranger hears nothing more");
        let genagent = reconnected(&w, &mut customer);
        w.api.expect_fetch().answer_status(TransferStatus::Ongoing);
        customer_ends(&w, &mut customer, genagent);
        assert_eq!(w.record().attempts[0].result, "misdirected");
        assert_eq!(w.counters().misdirected, 1);
    }
}

#[test]
fn o6c_strangers_only_is_the_verdict_misdirected() {
    let w = verifying(|settings| settings.call.max_attempts = 1);
    w.expect_warning("somebody else");
    let (mut customer, mut stranger) = talk(&w);
    w.api.expect_fetch().answer_status(TransferStatus::Expired);
    stranger.expect_and_ok("BYE");
    let bye = customer.expect_and_ok("BYE");
    assert_eq!(bye.header("X-Switchback-Outcome"), "misdirected");
    assert_eq!(w.verdict(), (Outcome::Misdirected, EndedBy::Us, Phase::Talking));
}

#[test]
fn o6c_an_api_that_cannot_tell_ends_no_conversation() {
    for class in [FailureClass::ServerError, FailureClass::Ambiguous, FailureClass::NotFound, FailureClass::Throttled] {
        let w = verifying(|_| {});
        let (mut customer, genagent) = talk(&w);
        w.api.expect_fetch().fail(class);
        w.api.expect_nothing_for(secs(30));
        assert!(w.talking(&customer, &genagent));
        customer_ends(&w, &mut customer, genagent);
    }
}

#[test]
fn o6c_evidence_that_comes_after_the_end_changes_nothing() {
    let w = verifying(|_| {});
    let (mut customer, mut genagent) = talk(&w);
    let question = w.api.expect_fetch();
    genagent.bye();
    genagent.expect("200 BYE");
    question.answer_status(TransferStatus::Active);
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict().0, Outcome::Agent);
}

#[test]
fn o8_a_conversation_that_broke_off_is_resumed_once() {
    let w = World::set(|settings| settings.call.resume_attempts = 1);
    let (mut customer, mut genagent) = talk(&w);
    genagent.bye();
    genagent.expect("200 BYE");
    for _ in 0..6 {
        w.api.expect_fetch().answer_status(TransferStatus::Ongoing);
    }
    let mut again = reconnected(&w, &mut customer);
    again.bye();
    again.expect("200 BYE");
    for _ in 0..6 {
        w.api.expect_fetch().answer_status(TransferStatus::Ongoing);
    }
    let bye = customer.expect_and_ok("BYE");
    assert_eq!(bye.header("X-Switchback-Outcome"), "unconfirmed");
    assert_eq!(w.record().attempts.len(), 2);
}

#[test]
fn o13_dead_media_is_resumed_and_the_customer_finishes() {
    let w = World::set(|settings| settings.call.resume_attempts = 1);
    let (mut customer, mut genagent) = talk(&w);
    w.silent(&customer, true);
    w.silent(&genagent, true);
    genagent.expect_and_ok("BYE");
    let again = reconnected(&w, &mut customer);
    customer_ends(&w, &mut customer, again);
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::Talking));
}

#[test]
fn o8_no_number_to_resume_with_hands_back_what_broke_off() {
    let w = World::set(|settings| settings.call.resume_attempts = 1);
    let (mut customer, mut genagent) = talk(&w);
    w.silent(&customer, true);
    w.silent(&genagent, true);
    genagent.expect_and_ok("BYE");
    w.api.expect_create().fail(FailureClass::Unauthorized);
    let bye = customer.expect_and_ok("BYE");
    assert_eq!(bye.header("X-Switchback-Outcome"), "genagent_lost");
    assert_eq!(w.record().verdict.evidence.not_connected, Some(NotConnected::ApiRefused));
}

#[test]
fn o8_a_customer_who_leaves_while_parked_is_a_customer_who_hung_up() {
    let w = World::set(|settings| settings.call.resume_attempts = 1);
    let (mut customer, mut genagent) = talk(&w);
    w.silent(&customer, true);
    w.silent(&genagent, true);
    genagent.expect_and_ok("BYE");
    let create = w.api.expect_create();
    customer.bye();
    customer.expect("200 BYE");
    create.answer_number(OTHER, secs(60));
    w.carrier.expect_nothing_for(secs(10));
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::Talking));
    assert_eq!(w.counters().numbers_unused, 1);
}

#[test]
fn x7_a_new_call_beyond_our_rate_falls_back_at_once() {
    // Two requests fit into a quarter of a second, and the second one is kept for a finished call.
    let w = World::set(|settings| settings.api_rate = 8);
    let mut first = w.ivr.invite();
    first.expect("180");
    let create = w.api.expect_create();
    let mut second = w.ivr.invite();
    second.expect("180");
    second.expect_refusal(480);
    assert_eq!(w.record().verdict.evidence.not_connected, Some(NotConnected::ApiThrottled));
    assert_eq!(w.api.asked(), 1);
    create.answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    first.expect("200");
    first.ack();
    customer_ends(&w, &mut first, genagent);
}
