//! R: two things at once, and things in the wrong order.

use std::time::Duration;

use switchback::b2bua::io::FailureClass;
use switchback::call::verdict::{EndedBy, Outcome, Phase};

use crate::asapp::NUMBER;
use crate::engine::{CARRIER, Engine, IVR, Lane, address, ms, secs, settings};
use crate::happy::talk;
use crate::peer::Line;
use crate::text;
use crate::world::{LONG, World};

/// GenerativeAgent has just answered; the customer has not heard of it yet.
fn answered(w: &World) -> (Line, Line) {
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    (customer, genagent)
}

#[test]
fn r1_a_cancel_that_crosses_our_200_changes_nothing() {
    let w = World::new();
    w.stage().engine.lanes.insert(address(IVR), Lane::clean(ms(100)));
    let (mut customer, mut genagent) = answered(&w);
    customer.cancel();
    customer.expect("200");
    customer.expect("200 CANCEL");
    customer.ack();
    w.run_for(secs(1));
    assert!(w.talking(&customer, &genagent));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::Talking));
}

#[test]
fn r1_a_cancel_that_crosses_our_200_and_no_ack() {
    let w = World::new();
    w.stage().engine.lanes.insert(address(IVR), Lane::clean(ms(100)));
    let (mut customer, mut genagent) = answered(&w);
    customer.cancel();
    customer.expect("200");
    customer.expect("200 CANCEL");
    customer.expect_and_ok("BYE");
    genagent.expect_and_ok("BYE");
    assert!(w.now() > LONG && w.now() < LONG + secs(1));
}

#[test]
fn r2_our_cancel_crosses_the_carriers_200() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    w.run_for(ms(15));
    customer.cancel();
    w.run_for(ms(5));
    genagent.answer();
    let cancel = genagent.expect("CANCEL");
    genagent.reply(&cancel, 200);
    genagent.expect("ACK");
    genagent.expect_and_ok("BYE");
    customer.expect("200 CANCEL");
    customer.expect_refusal(487);
    customer.expect_nothing_for(secs(10));
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::BeforeAnswer));
}

#[test]
fn r3_both_hang_up_in_the_same_millisecond() {
    for seed in 0..1000 {
        let mut engine = Engine::new(settings(), 4, seed);
        for party in [IVR, CARRIER] {
            engine.lanes.insert(address(party), Lane { jitter: ms(1), ..Lane::clean(Duration::ZERO) });
        }
        let w = World::of(engine);
        let (mut customer, mut genagent) = answered(&w);
        customer.expect("200");
        customer.ack();
        w.run_for(secs(1));
        let first = customer.request("BYE");
        let second = genagent.request("BYE");
        customer.send(&first);
        genagent.send(&second);
        // Whoever was first: both hear 200, and nobody is handed back.
        w.run_for(ms(5));
        if let Some((question, _)) = { w.stage().questions.pop_front() } {
            let late = crate::asapp::completed("AGENT", &[], &[]);
            w.stage().engine.reply(question, ms(30), Ok(late));
        }
        customer.expect("200 BYE");
        let heard = genagent.answer_all();
        assert!(heard.contains(&"200 BYE".to_owned()), "{heard:?}");
        customer.expect_nothing_for(secs(5));
        let record = w.record();
        assert_eq!(record.verdict.outcome, Outcome::CustomerHungUp, "seed {seed}\n{}", w.ladder());
        assert_eq!(record.hand_back, None);
    }
}

#[test]
fn r3_both_byes_cross_on_the_wire() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    let goodbye = genagent.request("BYE");
    customer.bye();
    genagent.send(&goodbye);
    genagent.expect_and_ok("BYE");
    genagent.expect("200 BYE");
    customer.expect("200 BYE");
    w.api.expect_nothing_for(secs(5));
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::Talking));
    w.golden("r3");
}

#[test]
fn r4_genagent_hangs_up_before_the_customers_ack() {
    let w = World::new();
    let (mut customer, mut genagent) = answered(&w);
    customer.expect("200");
    genagent.bye();
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    genagent.expect("200 BYE");
    customer.expect_nothing_for(secs(10));
    customer.ack();
    let bye = customer.expect_and_ok("BYE");
    assert_eq!(bye.header("X-GA-transfer"), "AGENT");
    assert_eq!(w.verdict().0, Outcome::Agent);
}

#[test]
fn r4_and_the_ack_never_comes() {
    let w = World::new();
    let (mut customer, mut genagent) = answered(&w);
    customer.expect("200");
    genagent.bye();
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    genagent.expect("200 BYE");
    let bye = customer.expect_and_ok("BYE");
    assert!(w.now() > LONG && w.now() < LONG + secs(1), "after 64*T1: {:?}", w.now());
    assert_eq!(bye.header("X-GA-transfer"), "AGENT");
}

#[test]
fn r5_the_customer_hangs_up_before_its_own_ack() {
    let w = World::new();
    let (mut customer, mut genagent) = answered(&w);
    customer.expect("200");
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    customer.ack();
    customer.expect_nothing_for(secs(5));
    assert_eq!(w.count(&w.ivr, "200"), 1, "no 200 is repeated for who has gone");
    assert_eq!(w.verdict().0, Outcome::CustomerHungUp);
}

#[test]
fn r6_every_repeated_200_is_acknowledged_again() {
    let w = World::new();
    let (mut customer, mut genagent) = answered(&w);
    customer.expect("200");
    customer.ack();
    for _ in 0..3 {
        w.run_for(secs(4));
        genagent.answer();
    }
    w.run_for(secs(1));
    assert_eq!((w.count(&w.carrier, "ACK"), w.count(&w.ivr, "200")), (4, 1));
    customer.bye();
    customer.expect("200 BYE");
    genagent.answer();
    genagent.expect_and_ok("BYE");
    w.run_for(secs(1));
    assert_eq!(w.count(&w.carrier, "ACK"), 5, "after the BYE as well");
}

#[test]
fn r7_the_customer_never_acknowledges() {
    let w = World::new();
    let (mut customer, mut genagent) = answered(&w);
    customer.expect("200");
    let bye = customer.expect_and_ok("BYE");
    assert!(bye.header("Reason").starts_with("Q.850;cause="));
    let bye = genagent.expect_and_ok("BYE");
    assert!(bye.header("Reason").starts_with("Q.850;cause="));
    let times = w.times(&w.ivr, "200");
    let after: Vec<u128> = times.iter().map(|at| (*at - times[0]).as_millis()).collect();
    assert_eq!(after, [0, 500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
    assert_eq!(w.verdict().1, EndedBy::Network);
}

#[test]
fn r8_a_reinvite_before_the_answer_waits() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    let post = w.api.expect_create();
    let first = customer.invite.clone();
    let held = text::audio("198.51.100.10", 40_000, "0 8 101", "sendonly");
    customer.reinvite(held);
    customer.invite = first;
    let refusal = customer.expect("500");
    assert!(refusal.has("Retry-After"), "RFC 3261 section 14.2");
    customer.cancel();
    customer.expect("200 CANCEL");
    customer.expect_refusal(487);
    post.fail(FailureClass::Refused);
}

#[test]
fn r8_a_reinvite_before_the_ack_is_pending() {
    let w = World::new();
    let (mut customer, mut genagent) = answered(&w);
    customer.expect("200");
    let first = customer.invite.clone();
    customer.reinvite(customer.sdp());
    customer.expect_refusal(491);
    customer.invite = first;
    customer.ack();
    customer.reinvite(customer.sdp());
    customer.expect("200");
    customer.ack();
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn r12_a_bye_after_the_end_is_answered_by_the_tombstone() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    let bye = customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    w.run_for(secs(10));
    customer.send(&bye);
    w.run_for(ms(10));
    assert_eq!(w.count(&w.ivr, "200 BYE"), 2, "the same BYE again");
    customer.bye();
    customer.expect("200 BYE");
    genagent.bye();
    genagent.expect("200 BYE");
    w.run_for(LONG);
    customer.bye();
    customer.expect("481 BYE");
    genagent.bye();
    genagent.expect("481 BYE");
}

#[test]
fn r14_a_cancel_whose_via_was_rewritten() {
    for merged in [false, true] {
        let w = World::new();
        let mut customer = w.ivr.invite();
        customer.expect("180");
        let post = w.api.expect_create();
        if merged {
            other_path(&mut customer, "z9hG4bK-elsewhere");
        }
        let mut cancel = customer.hop_by_hop("CANCEL");
        let via = "SIP/2.0/UDP nat.example:9999;branch=z9hG4bK-rewritten;rport";
        cancel.headers.iter_mut().filter(|(name, _)| name == "Via").for_each(|(_, v)| *v = via.to_owned());
        customer.send(&cancel);
        customer.expect("200 CANCEL");
        customer.expect_refusal(487);
        post.answer_number(NUMBER, secs(60));
        w.carrier.expect_nothing_for(secs(5));
    }
}

/// The INVITE arrives on a second path; it is refused as merged.
fn other_path(customer: &mut Line, branch: &str) {
    let first = customer.invite.clone();
    let other = customer.invite.branch().to_owned();
    customer.invite.headers.iter_mut().for_each(|(_, value)| *value = value.replace(&other, branch));
    customer.send(&customer.invite);
    customer.expect_refusal(482);
    customer.invite = first;
}

#[test]
fn r15_an_invite_seven_times_and_on_other_paths() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    for _ in 0..6 {
        w.run_for(ms(50));
        customer.send(&customer.invite);
    }
    customer.expect("180");
    other_path(&mut customer, "z9hG4bK-second");
    w.run_for(secs(1));
    let post = w.api.expect_create();
    let mut genagent = {
        post.answer_number(NUMBER, secs(60));
        w.carrier.expect_invite()
    };
    genagent.respond(180);
    // The refused path is forgotten, the call is not.
    w.run_for(secs(6));
    other_path(&mut customer, "z9hG4bK-third");
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    assert_eq!((w.api.asked(), w.count(&w.carrier, "INVITE"), w.counters().calls), (1, 1, 1));
}

#[test]
fn r17_the_ring_limit_in_the_tick_of_the_answer() {
    for arrivals_first in [false, true] {
        let w = World::new();
        w.stage().engine.arrivals_first = arrivals_first;
        let mut customer = w.ivr.invite();
        customer.expect("180");
        w.api.expect_create().answer_number(NUMBER, secs(600));
        let mut genagent = w.carrier.expect_invite();
        genagent.respond(180);
        let dialled = w.times(&w.carrier, "INVITE")[0] - ms(10);
        w.run_for(dialled + secs(30) - ms(10) - w.now());
        genagent.answer();
        if arrivals_first {
            genagent.expect("ACK");
            customer.expect("200");
            customer.ack();
            customer.bye();
            customer.expect("200 BYE");
            genagent.expect_and_ok("BYE");
        } else {
            genagent.expect_and_ok("CANCEL");
            genagent.expect("ACK");
            genagent.expect_and_ok("BYE");
            w.api.expect_create().fail(FailureClass::Refused);
            customer.expect_refusal(480);
        }
    }
}

#[test]
fn r18_a_bye_that_overtakes_its_own_200() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    let bye = genagent.request("BYE");
    let mut bye = bye;
    bye.headers.iter_mut().filter(|(name, _)| name == "From").for_each(|(_, from)| *from = genagent.local().to_owned());
    genagent.send(&bye);
    genagent.expect("200 BYE");
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.api.expect_fetch().answer_completed("SYSTEM", &[]);
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict().0, Outcome::System);
}

#[test]
fn r18_a_customers_bye_in_the_early_dialog() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    let post = w.api.expect_create();
    customer.bye();
    customer.expect("200 BYE");
    customer.expect_refusal(487);
    post.answer_number(NUMBER, secs(60));
    w.carrier.expect_nothing_for(secs(5));
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::BeforeAnswer));
}

#[test]
fn r11_genagent_hangs_up_during_a_hold() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    customer.reinvite(text::audio("198.51.100.10", customer.rtp.port(), "0 8 101", "sendonly"));
    customer.expect("200");
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    customer.expect_nothing_for(secs(2));
    customer.ack();
    assert_eq!(customer.expect_and_ok("BYE").header("X-GA-transfer"), "AGENT");
    assert_eq!(w.verdict().0, Outcome::Agent);
}
