//! T3: an INVITE with Replaces (RFC 3891) asks for the place of a customer leg.

use std::time::Duration;

use switchback::b2bua::io::Sound;
use switchback::call::settings::Answer;
use switchback::call::verdict::{EndedBy, Outcome, Phase};

use crate::asapp::NUMBER;
use crate::context::found;
use crate::engine::{Lane, address, ms, secs};
use crate::happy::talk;
use crate::ladders::{asks_for_a_person, with_ladder};
use crate::peer::Line;
use crate::relay::Hears;
use crate::text;
use crate::world::{LONG, World};

const DESK: &str = "198.51.100.10:5061";

/// The dialog as the core sees it; an attendant's phone knows it from the customer's.
fn replaces(line: &Line) -> String {
    let [local, remote] = line.tags();
    format!("{};to-tag={remote};from-tag={local}", line.call_id)
}

/// Another phone of the customer's PBX asks for the customer's place.
pub fn takes_over(w: &World, customer: &Line) -> Line {
    w.stranger(DESK).call().header("Replaces", &replaces(customer)).header("Require", "replaces").invite()
}

#[test]
fn t3_an_attended_takeover() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    w.run_for(secs(10));
    let mut desk = takes_over(&w, &customer);
    let asked = w.now();
    desk.expect("200");
    assert!(w.talking(&desk, &genagent), "{}", w.ladder());
    assert!(w.now() - asked < ms(200), "the gap");
    desk.ack();
    let bye = customer.expect_and_ok("BYE");
    assert_eq!(bye.all("Reason"), ["Q.850;cause=16"]);
    genagent.expect_nothing_for(secs(5));
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    let bye = desk.expect_and_ok("BYE");
    assert_eq!(bye.header("X-GA-transfer"), "AGENT");
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
    assert_eq!((w.record().takeovers, w.record().customer_call_id), (1, customer.call_id.clone()));
    for leg in [&customer, &desk] {
        assert_eq!(found(&w, &leg.call_id).as_deref(), Some("agent"), "T14");
    }
    w.golden("t3");
}

#[test]
fn t3_what_the_old_dialog_still_says_disturbs_nothing() {
    let w = World::new();
    let (mut customer, genagent) = talk(&w);
    let mut desk = takes_over(&w, &customer);
    desk.expect("200");
    desk.ack();
    customer.expect("BYE"); // and it does not answer that
    let sdp = customer.sdp();
    let late = customer.offer("UPDATE", sdp);
    customer.expect("481 UPDATE");
    let info = customer.request("INFO");
    customer.send(&info);
    customer.expect("200 INFO");
    assert!(late.cseq() < info.cseq() && w.talking(&desk, &genagent));
    customer.bye();
    customer.expect("200 BYE");
    w.run_for(LONG + secs(1));
    assert!(w.talking(&desk, &genagent), "{}", w.ladder());
    let mut genagent = genagent;
    desk.bye();
    desk.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::Talking));
}

#[test]
fn t3_from_hand_to_hand() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    let mut second = takes_over(&w, &customer);
    second.expect("200");
    second.ack();
    customer.expect_and_ok("BYE");
    let mut third = takes_over(&w, &second);
    third.expect("200");
    third.ack();
    second.expect_and_ok("BYE");
    assert!(w.talking(&third, &genagent));
    // The first has ended, and so it is not replaced (RFC 3891 section 3).
    takes_over(&w, &customer).expect_refusal(603);
    third.bye();
    third.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    assert_eq!(w.record().takeovers, 2);
}

#[test]
fn t3_wrong_words_are_refused_and_change_nothing() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    let right = replaces(&customer);
    let [local, remote] = customer.tags();
    let call_id = &customer.call_id;
    let desk = w.stranger(DESK);
    for (value, status) in [
        (format!("{call_id};to-tag={remote};from-tag=other"), 481),
        (format!("{call_id};to-tag=other;from-tag={local}"), 481),
        (format!("other;to-tag={remote};from-tag={local}"), 481),
        (format!("{call_id};to-tag={local};from-tag={remote}"), 481),
        (format!("{right};early-only"), 486),
        (format!("{call_id};to-tag={remote}"), 400),
        (format!("{right}, {right}"), 400),
        (String::new(), 400),
    ] {
        desk.call().header("Replaces", &value).invite().expect_refusal(status);
    }
    desk.call().header("Replaces", &right).header("Replaces", &right).invite().expect_refusal(400);
    let options = customer.request("OPTIONS").with("Replaces", &right);
    customer.send(&options);
    customer.expect("400 OPTIONS");
    assert!(w.talking(&customer, &genagent));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    assert_eq!(w.record().takeovers, 0);
}

#[test]
fn t3_only_who_may_call_may_ask() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    // The carrier is heard, but nobody who begins anything; a stranger is not heard at all.
    w.carrier.call().header("Replaces", &replaces(&customer)).invite().expect_refusal(403);
    w.stranger("203.0.113.66:5060").call().header("Replaces", &replaces(&customer)).invite().expect_nothing_for(LONG);
    // Nobody asks for GenerativeAgent's place.
    takes_over(&w, &genagent).expect_refusal(603);
    assert!(w.talking(&customer, &genagent));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn t3_no_common_codec_changes_nothing() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    let g729 = text::audio("198.51.100.10", 41_000, "18", "sendrecv");
    let mut desk = w.stranger(DESK).call().header("Replaces", &replaces(&customer)).offering(g729).invite();
    desk.expect_refusal(488);
    assert!(w.talking(&customer, &genagent));
    let mut again = takes_over(&w, &customer);
    again.expect("200");
    again.ack();
    customer.expect_and_ok("BYE");
    again.bye();
    again.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    assert_eq!(w.record().takeovers, 1);
}

#[test]
fn t3_a_delayed_offer() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    let mut desk = w.stranger(DESK).call().header("Replaces", &replaces(&customer)).without_offer().invite();
    desk.expect("200");
    desk.ack_with(desk.sdp());
    customer.expect_and_ok("BYE");
    w.run_for(ms(50));
    assert!(w.talking(&desk, &genagent), "{}", w.ladder());
    desk.bye();
    desk.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn t3_a_customer_nobody_has_answered_is_not_replaced() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    let mut create = Some(w.api.expect_create());
    for _ in 0..2 {
        takes_over(&w, &customer).expect_refusal(481);
        if let Some(create) = create.take() {
            create.answer_number(NUMBER, secs(60));
            w.run_for(ms(100));
        }
    }
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
fn t3_while_a_customer_who_was_answered_first_waits() {
    for dialled in [false, true] {
        let w = World::set(|settings| settings.call.answer = Answer::First);
        let mut customer = w.ivr.invite();
        customer.expect("200");
        customer.ack();
        let create = w.api.expect_create();
        let (mut desk, mut genagent);
        if dialled {
            create.answer_number(NUMBER, secs(60));
            genagent = w.carrier.expect_invite();
            desk = takes_over(&w, &customer);
            desk.expect("200");
        } else {
            desk = takes_over(&w, &customer);
            desk.expect("200");
            create.answer_number(NUMBER, secs(60));
            genagent = w.carrier.expect_invite();
        }
        desk.ack();
        customer.expect_and_ok("BYE");
        assert_eq!(w.hears(&desk), Hears::Sound(Sound::Ringback));
        genagent.answer();
        genagent.expect("ACK");
        w.run_for(ms(50));
        assert!(w.talking(&desk, &genagent), "{}", w.ladder());
        desk.bye();
        desk.expect("200 BYE");
        genagent.expect_and_ok("BYE");
    }
}

#[test]
fn t3_while_the_context_is_fetched() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    genagent.bye();
    genagent.expect("200 BYE");
    let fetch = w.api.expect_fetch();
    let mut desk = takes_over(&w, &customer);
    desk.expect("200");
    desk.ack();
    customer.expect_and_ok("BYE");
    assert_eq!(w.hears(&desk), Hears::Sound(Sound::Waiting));
    fetch.answer_completed("AGENT", &[("tier", "gold")]);
    assert_eq!(desk.expect_and_ok("BYE").header("X-GA-tv-tier"), "gold");
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
}

#[test]
fn t3_while_the_customer_is_handed_back() {
    for talking in [false, true] {
        let w = with_ladder(&["dial:queue", "bye"]);
        let (mut customer, mut genagent) = talk(&w);
        asks_for_a_person(&w, &mut genagent);
        let mut queue = w.queue.expect_invite();
        if talking {
            queue.answer();
            queue.expect("ACK");
        }
        let mut desk = takes_over(&w, &customer);
        desk.expect("200");
        desk.ack();
        customer.expect_and_ok("BYE");
        if !talking {
            assert_eq!(w.hears(&desk), Hears::Sound(Sound::Onward));
            queue.answer();
            queue.expect("ACK");
        }
        w.run_for(ms(50));
        assert!(w.talking(&desk, &queue), "{}", w.ladder());
        queue.bye();
        queue.expect("200 BYE");
        desk.expect_and_ok("BYE");
        assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
    }
}

#[test]
fn t3_a_customer_who_is_sent_away_is_not_replaced() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    let bye = customer.expect("BYE");
    takes_over(&w, &customer).expect_refusal(603);
    customer.reply(&bye, 200);
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
}

#[test]
fn t3_the_old_leg_hangs_up_in_the_same_moment() {
    for first in [ms(0), ms(1)] {
        let w = World::new();
        let (mut customer, mut genagent) = talk(&w);
        let asked = replaces(&customer);
        if first.is_zero() {
            customer.bye();
            w.stranger(DESK).call().header("Replaces", &asked).invite().expect_refusal(603);
            customer.expect("200 BYE");
            genagent.expect_and_ok("BYE");
        } else {
            let mut desk = w.stranger(DESK).call().header("Replaces", &asked).invite();
            w.run_for(Duration::ZERO);
            customer.bye();
            desk.expect("200");
            desk.ack();
            customer.answer_all();
            w.run_for(secs(1));
            customer.answer_all();
            assert!(w.talking(&desk, &genagent), "{}", w.ladder());
            desk.bye();
            desk.expect("200 BYE");
            genagent.expect_and_ok("BYE");
        }
    }
}

#[test]
fn t3_the_successor_never_acknowledges() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    let mut desk = takes_over(&w, &customer);
    desk.expect("200");
    customer.expect_and_ok("BYE");
    genagent.expect_and_ok("BYE");
    desk.expect_and_ok("BYE");
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Network, Phase::Talking));
}

#[test]
fn t3_over_a_network_that_loses_and_doubles() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    w.stage().engine.lanes.insert(address(DESK), Lane::clean(ms(80)));
    let mut desk = takes_over(&w, &customer);
    let invite = desk.invite.clone();
    (0..3).for_each(|_| desk.send(&invite));
    desk.expect("200");
    desk.send(&invite);
    desk.ack();
    customer.expect_and_ok("BYE");
    w.run_for(secs(1));
    assert!(w.talking(&desk, &genagent));
    desk.bye();
    desk.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    assert_eq!(w.record().takeovers, 1);
}
