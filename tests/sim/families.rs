//! H11: IPv4 and IPv6 in one call. Each leg's description has the family of its own far side.

use switchback::b2bua::io::Transport;
use switchback::b2bua::settings::{Network, Settings};
use switchback::call::verdict::{NotConnected, Outcome};
use switchback::sip::locate::Place;

use crate::asapp::NUMBER;
use crate::engine::{CORE, address, ms, secs};
use crate::peer::{Line, Party};
use crate::provisional::hang_up;
use crate::text::{self, Sip};
use crate::world::World;

const V6: &str = "[2001:db8::1]:5060";
const CUSTOMER: &str = "[2001:db8::10]:5060";
const TRUNK: &str = "[2001:db8::20]:5060";

fn both(settings: &mut Settings) {
    settings.sip_others = vec![(Transport::Udp, address(V6))];
    settings.media_addresses = [CORE, V6].map(|own| address(own).ip()).to_vec();
    settings.access.push(Network { address: address(CUSTOMER).ip(), prefix: 64 });
}

/// Up to both ends talking; the descriptions that each of them got from us.
fn talk(w: &World, caller: &Party, trunk: &Party, delayed: bool) -> (Line, Line, [Sip; 2]) {
    let call = if delayed { caller.call().without_offer() } else { caller.call() };
    let mut customer = call.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = trunk.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    let answer = customer.expect("200");
    if delayed {
        customer.ack_with(customer.sdp())
    } else {
        customer.ack()
    }
    w.run_for(ms(5));
    assert!(w.talking(&customer, &genagent));
    let offer = genagent.invite.clone();
    (customer, genagent, [answer, offer])
}

fn is_of(sip: &Sip, family: &str) -> bool {
    let own = address(if family == "IP4" { CORE } else { V6 });
    let named = |line: &str| sip.body.lines().any(|own| own.starts_with(line));
    let away = if family == "IP4" { "IP6" } else { "IP4" };
    named(&format!("c=IN {family} {}", own.ip())) && named("o=- ") && !sip.body.contains(away)
}

#[test]
fn h11_a_customer_on_ipv6_and_a_trunk_on_ipv4() {
    for delayed in [false, true] {
        let w = World::set(both);
        let caller = w.stranger(CUSTOMER);
        let (mut customer, mut genagent, [answer, offer]) = talk(&w, &caller, &w.carrier, delayed);
        assert!(is_of(&answer, "IP6"), "{}", answer.body);
        assert!(is_of(&offer, "IP4"), "{}", offer.body);
        assert!(answer.contact().ends_with(V6) && offer.contact().ends_with(CORE));
        hang_up(&mut customer, &mut genagent);
    }
}

#[test]
fn h11_a_customer_on_ipv4_and_a_trunk_on_ipv6() {
    for delayed in [false, true] {
        let w = World::set(|settings| {
            both(settings);
            settings.trunks[0].place = Place::at(Transport::Udp, address(TRUNK));
        });
        let trunk = w.stranger(TRUNK);
        let (mut customer, mut genagent, [answer, offer]) = talk(&w, &w.ivr, &trunk, delayed);
        assert!(is_of(&answer, "IP4"), "{}", answer.body);
        assert!(is_of(&offer, "IP6"), "{}", offer.body);
        assert!(answer.contact().ends_with(CORE) && offer.contact().ends_with(V6));
        assert!(offer.header("Via").starts_with(&format!("SIP/2.0/UDP {V6};")), "{:?}", offer.headers);
        hang_up(&mut customer, &mut genagent);
    }
}

#[test]
fn h11_media_has_the_family_of_the_offer_and_not_of_its_signalling() {
    let w = World::set(both);
    let mut customer = w.ivr.call().offering(text::sdp("2001:db8::77", 4_000)).invite();
    customer.rtp = address("[2001:db8::77]:4000");
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    let answer = customer.expect("200");
    assert!(is_of(&answer, "IP6") && answer.contact().ends_with(CORE), "{}", answer.body);
    customer.ack();
    w.run_for(ms(5));
    assert!(w.talking(&customer, &genagent));
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn h11_a_family_we_have_no_media_in_is_488() {
    let w = World::set(|settings| {
        both(settings);
        settings.media_addresses.truncate(1);
    });
    let caller = w.stranger(CUSTOMER);
    for call in [caller.call(), caller.call().without_offer()] {
        call.invite().expect_refusal(488);
    }
    assert_eq!(w.counters().rejected.get("description"), Some(&2));
    let (mut customer, mut genagent, _) = talk(&w, &w.ivr, &w.carrier, false);
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn h11_the_family_of_a_leg_never_changes() {
    let w = World::set(both);
    let (mut customer, mut genagent, _) = talk(&w, &w.ivr, &w.carrier, false);
    for line in [&mut customer, &mut genagent] {
        line.offer("UPDATE", text::sdp("2001:db8::77", 4_000));
        line.expect("488 UPDATE");
        let before = line.invite.clone();
        line.offer("INVITE", text::sdp("2001:db8::77", 4_000));
        line.expect_refusal(488);
        line.invite = before;
    }
    w.run_for(secs(1));
    assert!(w.talking(&customer, &genagent));
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn h11_an_answer_in_another_family_cannot_be_used() {
    let w = World::set(|settings| {
        both(settings);
        settings.call.max_attempts = 1;
    });
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond_with(200, text::sdp("2001:db8::77", 4_000));
    genagent.expect("ACK");
    genagent.expect_and_ok("BYE");
    customer.expect_refusal(480);
    let record = w.record();
    assert_eq!(record.verdict.outcome, Outcome::NotConnected);
    assert_ne!(record.verdict.evidence.not_connected, Some(NotConnected::NumberExpired));
}

#[test]
fn h11_a_trunk_in_a_family_we_have_no_media_in_is_not_dialled() {
    let w = World::set(|settings| {
        both(settings);
        settings.trunks[0].place = Place::at(Transport::Udp, address(TRUNK));
        settings.media_addresses.truncate(1);
    });
    let trunk = w.stranger(TRUNK);
    let mut customer = w.ivr.invite();
    customer.expect("180");
    customer.expect_refusal(480);
    assert_eq!(w.api.asked(), 0, "no number is asked for in vain");
    trunk.expect_nothing_for(secs(1));
}
