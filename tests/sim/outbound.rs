//! O: the way to GenerativeAgent.

use switchback::b2bua::io::{FailureClass, Sound};
use switchback::call::verdict::{NotConnected, Outcome};

use crate::asapp::NUMBER;
use crate::engine::{ms, secs};
use crate::peer::Line;
use crate::relay::Hears;
use crate::text::{self, Sip};
use crate::world::World;

const OTHER: &str = "+19995550177";

/// A customer is ringing and the number's life has begun.
fn dialled(w: &World, life: u64) -> (Line, Line) {
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(life));
    (customer, w.carrier.expect_invite())
}

/// The second attempt connects, talks and ends.
fn second_attempt_talks(w: &World, customer: &mut Line) {
    w.api.expect_create().answer_number(OTHER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    assert!(genagent.invite.uri().contains(OTHER), "never the old number");
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    assert!(w.talking(customer, &genagent));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn o1_a_refusal_costs_a_fresh_number() {
    for status in [404, 480, 486, 500, 503] {
        let w = World::new();
        let (mut customer, mut genagent) = dialled(&w, 60);
        genagent.respond(status);
        genagent.expect("ACK");
        second_attempt_talks(&w, &mut customer);
    }
}

#[test]
fn o1_refused_again_falls_back() {
    let w = World::new();
    let (mut customer, mut genagent) = dialled(&w, 60);
    genagent.respond(486);
    genagent.expect("ACK");
    w.api.expect_create().answer_number(OTHER, secs(60));
    let mut again = w.carrier.expect_invite();
    again.respond(486);
    again.expect("ACK");
    customer.expect_refusal(480);
    let record = w.record();
    assert_eq!(record.attempts.len(), 2);
    assert_eq!(record.verdict.evidence.not_connected, Some(NotConnected::TrunkFailed));
    assert_eq!(record.verdict.evidence.sip_status, Some(486));
}

#[test]
fn o1_no_dead_line_after_early_media() {
    let w = World::new();
    let (mut customer, mut genagent) = dialled(&w, 60);
    genagent.respond_with(183, genagent.sdp());
    customer.expect("183");
    assert!(w.talking(&customer, &genagent));
    genagent.respond(486);
    genagent.expect("ACK");
    assert_eq!(w.hears(&customer), Hears::Sound(Sound::Ringback), "{}", w.ladder());
    second_attempt_talks(&w, &mut customer);
}

#[test]
fn o5_a_hundred_and_then_nothing() {
    let w = World::new();
    let (mut customer, mut genagent) = dialled(&w, 600);
    genagent.respond(100);
    let cancel = genagent.expect_and_ok("CANCEL");
    assert!((secs(30)..ms(30_200)).contains(&w.now()), "the ring limit: {:?}", w.now());
    assert_eq!(cancel.branch(), genagent.invite.branch());
    genagent.respond(487);
    genagent.expect("ACK");
    second_attempt_talks(&w, &mut customer);
}

#[test]
fn o6_a_number_that_expires_while_ringing() {
    let w = World::new();
    let (mut customer, mut genagent) = dialled(&w, 20);
    genagent.respond(180);
    genagent.expect_and_ok("CANCEL");
    assert!((secs(15)..ms(15_200)).contains(&w.now()), "at its expiry less the margin: {:?}", w.now());
    genagent.respond(487);
    genagent.expect("ACK");
    let records: Vec<_> = w.stage().engine.asked.iter().map(|asked| asked.transfer.clone()).collect();
    assert_ne!(records[0], records[1], "a new id");
    second_attempt_talks(&w, &mut customer);
    w.golden("o6");
}

#[test]
fn o6_no_invite_is_repeated_after_the_guard() {
    for (stall, invites) in [(ms(0), 2), (ms(900), 1)] {
        let w = World::new();
        let (mut customer, _genagent) = dialled(&w, 6);
        w.run_for(ms(400));
        // A repeat is due at half a second, the guard at one second; the driver may be late for both.
        w.stall(stall);
        w.run_for(secs(2));
        assert_eq!(w.count(&w.carrier, "INVITE"), invites, "{}", w.ladder());
        w.api.expect_create().fail(FailureClass::Refused);
        customer.expect_refusal(480);
    }
}

#[test]
fn o6_a_number_grows_old_on_its_way_to_us() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    // Safe for one second; the answer is there in time, and the driver looks at it later.
    w.api.expect_create().answer_number(NUMBER, secs(6));
    w.stall(ms(1001));
    second_attempt_talks(&w, &mut customer);
    assert_eq!((w.count(&w.carrier, "INVITE"), w.counters().numbers_unused), (1, 1));
    assert_eq!(w.record().attempts[0].result, "expired");
}

#[test]
fn o6_an_api_whose_numbers_are_always_old_is_not_asked_for_ever() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    for _ in 0..4 {
        w.api.expect_create().after(ms(600)).answer_number(NUMBER, ms(5_500));
    }
    customer.expect_refusal(480);
    assert_eq!((w.count(&w.carrier, "INVITE"), w.api.asked()), (0, 4));
    assert_eq!(w.record().verdict.evidence.not_connected, Some(NotConnected::NumberExpired));
}

#[test]
fn o6b_an_answer_after_the_guard_is_never_bridged() {
    let w = World::new();
    let (mut customer, mut genagent) = dialled(&w, 20);
    genagent.respond(180);
    let cancel = genagent.expect("CANCEL");
    genagent.answer();
    genagent.reply(&cancel, 200);
    genagent.expect("ACK");
    genagent.expect_and_ok("BYE");
    assert!(!w.talking(&customer, &genagent));
    second_attempt_talks(&w, &mut customer);
}

#[test]
fn o6b_an_answer_in_the_instant_of_the_guard() {
    for arrivals_first in [false, true] {
        let w = World::new();
        w.stage().engine.arrivals_first = arrivals_first;
        let mut customer = w.ivr.invite();
        let create = w.api.expect_create();
        let asked = w.now();
        create.answer_number(NUMBER, secs(20));
        customer.expect("180");
        let mut genagent = w.carrier.expect_invite();
        genagent.respond(180);
        w.run_for(asked + secs(15) - w.now() - ms(10));
        genagent.answer();
        let first = if arrivals_first { "ACK" } else { "CANCEL" };
        let message = genagent.expect(first);
        if first == "CANCEL" {
            genagent.reply(&message, 200);
            genagent.expect("ACK");
        }
        genagent.expect_and_ok("BYE");
        second_attempt_talks(&w, &mut customer);
    }
}

#[test]
fn o6d_answered_and_gone_is_not_dialled_again() {
    let w = World::new();
    let (mut customer, mut genagent) = dialled(&w, 60);
    genagent.answer();
    genagent.bye();
    genagent.expect("ACK");
    genagent.expect("200 BYE");
    customer.expect("200");
    customer.ack();
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    customer.expect_and_ok("BYE");
    assert_eq!(w.count(&w.carrier, "INVITE"), 1);
}

#[test]
fn o9_an_answer_that_nobody_can_speak() {
    for sdp in [
        text::sdp("203.0.113.20", 0),
        text::audio("203.0.113.20", 5000, "111", "sendrecv"),
        "nonsense".to_owned(),
        String::new(),
    ] {
        let w = World::new();
        let (mut customer, mut genagent) = dialled(&w, 60);
        genagent.respond_with(200, sdp.clone());
        genagent.expect("ACK");
        let bye = genagent.expect_and_ok("BYE");
        assert_eq!(bye.header("Reason"), "Q.850;cause=88", "{sdp}");
        second_attempt_talks(&w, &mut customer);
    }
}

#[test]
fn o10_the_second_200_of_a_fork_is_hung_up() {
    let w = World::new();
    let (mut customer, mut genagent) = dialled(&w, 60);
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    let mut other = genagent.response(&genagent.invite, 200).with_sdp(genagent.sdp());
    other.headers.iter_mut().filter(|(name, _)| name == "To").for_each(|(_, to)| *to += "-other");
    genagent.send(&other);
    let ack = genagent.expect("ACK");
    assert!(ack.tag("To").ends_with("-other"));
    let bye = genagent.expect("BYE");
    assert!(bye.tag("To").ends_with("-other"));
    w.run_for(secs(1));
    genagent.send(&other);
    w.run_for(secs(1));
    genagent.send(&Sip::response(&bye, 200, ""));
    genagent.send(&other);
    w.run_for(secs(3));
    let acks = w.stage().delivered.iter().filter(|(.., sip)| sip.is("ACK") && *sip == ack).count();
    assert_eq!(acks, 3, "each 200 gets the same ACK");
    genagent.expect_nothing_for(secs(1)); // And one BYE, whose repeats are its own.
    assert!(w.talking(&customer, &genagent), "the first one goes on");
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    assert_eq!(w.verdict().0, Outcome::CustomerHungUp);
}
