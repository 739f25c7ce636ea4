//! Streams and datagrams in one call: what changes on the wire, and what a broken connection ends.

use std::time::Duration;

use switchback::b2bua::io::Transport;
use switchback::b2bua::settings::Settings;
use switchback::call::verdict::{EndedBy, Outcome, Phase};

use crate::asapp::NUMBER;
use crate::engine::{CORE, address, ms, secs};
use crate::peer::Line;
use crate::world::World;

const V6: &str = "[2001:db8::1]:5060";

fn streams(settings: &mut Settings) {
    let core = address(CORE);
    settings.sip_others = vec![(Transport::Tcp, core), (Transport::Tls, core), (Transport::Udp, address(V6))];
}

/// The trunk speaks this transport, and the world with it.
fn trunk_over(transport: Transport) -> World {
    let w = World::set(|settings| {
        streams(settings);
        settings.trunks[0].place.transport = Some(transport);
    });
    w.over(&w.carrier, transport);
    w
}

/// Everything up to both ends talking.
fn talking(w: &World) -> (Line, Line) {
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    genagent.answer();
    genagent.expect("ACK");
    let answer = customer.expect("200");
    assert!(answer.header("Contact").contains("switchback@"), "{answer:?}");
    customer.ack();
    w.run_for(ms(5));
    assert!(w.talking(&customer, &genagent));
    (customer, genagent)
}

fn customer_ends(customer: &mut Line, genagent: &mut Line) {
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn a_customer_over_tcp_and_a_trunk_over_udp() {
    let w = World::set(streams);
    w.over(&w.ivr, Transport::Tcp);
    let (mut customer, mut genagent) = talking(&w);
    assert!(genagent.invite.header("Via").starts_with("SIP/2.0/UDP "));
    assert!(!genagent.invite.header("Contact").contains("transport"));
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    let bye = customer.expect_and_ok("BYE");
    assert!(bye.header("Via").starts_with("SIP/2.0/TCP "), "{bye:?}");
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
}

#[test]
fn a_customer_over_udp_and_a_trunk_over_a_stream() {
    for (transport, word) in [(Transport::Tcp, "tcp"), (Transport::Tls, "tls")] {
        let w = trunk_over(transport);
        let (mut customer, mut genagent) = talking(&w);
        let via = format!("SIP/2.0/{} {CORE};", transport.as_str());
        assert!(genagent.invite.header("Via").starts_with(&via), "{:?}", genagent.invite);
        assert!(genagent.invite.header("Contact").ends_with(&format!(";transport={word}>")));
        customer_ends(&mut customer, &mut genagent);
    }
}

#[test]
fn nothing_but_a_2xx_is_repeated_over_a_stream() {
    let w = trunk_over(Transport::Tcp);
    w.over(&w.ivr, Transport::Tcp);
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    w.run_for(secs(3));
    assert_eq!(w.count(&w.carrier, "INVITE"), 1);
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    w.run_for(secs(3));
    assert!(w.count(&w.ivr, "200") > 1, "a proxy in between may speak UDP on its far side");
    customer.ack();
    w.run_for(ms(5));
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    let bye = customer.expect("BYE");
    w.run_for(secs(3));
    assert_eq!(w.count(&w.ivr, "BYE"), 1);
    customer.reply(&bye, 200);
}

#[test]
fn o14_a_connection_that_breaks_unanswered_costs_a_fresh_number_and_nothing_else() {
    let w = trunk_over(Transport::Tls);
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut lost = w.carrier.expect_invite();
    w.reset(&w.carrier);
    let before = w.now();
    w.api.expect_create().answer_number("+19995550177", secs(60));
    let mut genagent = w.carrier.expect_invite();
    assert!(w.now() - before < secs(1), "at once, not after 64*T1");
    assert!(genagent.invite.uri().contains("+19995550177"), "never the old number");
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    assert!(w.talking(&customer, &genagent));
    customer_ends(&mut customer, &mut genagent);
    lost.expect_nothing_for(Duration::ZERO);
}

#[test]
fn o14_a_connection_that_breaks_while_it_rings_costs_nothing() {
    let w = trunk_over(Transport::Tls);
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    w.run_for(ms(50));
    w.reset(&w.carrier);
    w.run_for(secs(2));
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    assert!(w.talking(&customer, &genagent));
    assert_eq!(w.count(&w.carrier, "INVITE"), 1, "no second call");
    customer_ends(&mut customer, &mut genagent);
}

#[test]
fn o14_after_the_break_it_is_cancelled_over_a_new_connection() {
    let w = trunk_over(Transport::Tcp);
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    w.run_for(ms(50));
    w.reset(&w.carrier);
    customer.cancel();
    customer.expect("200 CANCEL");
    customer.expect_refusal(487);
    genagent.expect_and_ok("CANCEL");
    genagent.respond(487);
    genagent.expect("ACK");
}

#[test]
fn o14_a_connection_that_breaks_while_all_talk_ends_nothing() {
    let w = trunk_over(Transport::Tcp);
    let (mut customer, mut genagent) = talking(&w);
    w.reset(&w.carrier);
    w.run_for(secs(5));
    assert!(w.talking(&customer, &genagent));
    customer_ends(&mut customer, &mut genagent);
}

#[test]
fn a_bye_over_a_broken_connection_is_the_last_word_at_once() {
    let w = trunk_over(Transport::Tcp);
    let (mut customer, mut genagent) = talking(&w);
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect("BYE");
    w.reset(&w.carrier);
    assert_eq!(w.verdict().0, Outcome::CustomerHungUp);
    assert!(w.now() < secs(5));
}

#[test]
fn a_long_request_goes_over_tcp_and_comes_back_to_udp() {
    let w = World::set(|settings| {
        streams(settings);
        settings.tcp_for_long = true;
        settings.product = "p".repeat(1_200);
    });
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    w.run_until("an INVITE over TCP", |stage| !stage.engine.strays.is_empty());
    {
        let mut stage = w.stage();
        let (to, transport, octets) = stage.engine.strays[0].clone();
        assert_eq!((to, transport), (w.carrier.address, Transport::Tcp));
        let text = String::from_utf8_lossy(&octets).into_owned();
        assert!(text.contains("\r\nVia: SIP/2.0/TCP ") && text.len() > 1_300, "{text}");
        let input = switchback::b2bua::io::Input::TransportFailed { transport, peer: to };
        stage.engine.feed(input);
    }
    let mut genagent = w.carrier.expect_invite();
    assert!(genagent.invite.header("Via").starts_with("SIP/2.0/UDP "));
    genagent.answer();
    // Each of ours is long here: the ACK of a 2xx is no transaction and goes as it is.
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    w.run_until("a BYE over TCP", |stage| stage.engine.strays.iter().any(|(to, ..)| *to == w.ivr.address));
    let failed = switchback::b2bua::io::Input::TransportFailed { transport: Transport::Tcp, peer: w.ivr.address };
    w.stage().engine.feed(failed);
    customer.expect_and_ok("BYE");
}

#[test]
fn a_long_invite_does_not_come_back_to_udp_once_nobody_wants_it() {
    let w = World::set(|settings| {
        streams(settings);
        settings.tcp_for_long = true;
        settings.product = "p".repeat(1_200);
    });
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    w.run_until("an INVITE over TCP", |stage| !stage.engine.strays.is_empty());
    customer.cancel();
    customer.expect("200 CANCEL");
    customer.expect_refusal(487);
    let failed = switchback::b2bua::io::Input::TransportFailed { transport: Transport::Tcp, peer: w.carrier.address };
    w.stage().engine.feed(failed);
    w.carrier.expect_nothing_for(secs(40));
}
