//! O2, O3, O7, O15: several trunks, several servers of one, and what happens when some of them are dead.

use std::net::{IpAddr, SocketAddr};

use switchback::b2bua::io::{OperatorCommand, Question, Records};
use switchback::b2bua::settings::{Caller, Settings, Trunk};
use switchback::call::verdict::NotConnected;
use switchback::sip::digest::Credentials;
use switchback::sip::hop::Transport;
use switchback::sip::locate::{Place, Srv};

use crate::asapp::NUMBER;
use crate::engine::{CARRIER, address, ms, secs};
use crate::peer::{Line, Party};
use crate::world::World;

const SECOND: &str = "203.0.113.21:5060";
const THIRD: &str = "203.0.113.22:5060";
const OTHER: &str = "+19995550177";

fn trunk(name: &str, at: &str, order: u16) -> Trunk {
    Trunk {
        name: name.to_owned(),
        place: Place::at(Transport::Udp, address(at)),
        domain: format!("{name}.example"),
        caller_id: "+15550100".to_owned(),
        order,
        ..Trunk::default()
    }
}

/// A world with these trunks, and the party at each.
fn world(trunks: Vec<Trunk>, change: impl FnOnce(&mut Settings)) -> (World, Party, Party) {
    let w = World::set(|settings| {
        settings.trunks = trunks;
        change(settings);
    });
    let (second, third) = (w.stranger(SECOND), w.stranger(THIRD));
    w.stage().engine.carriers = [CARRIER, SECOND, THIRD].map(address).into();
    (w, second, third)
}

fn two() -> (World, Party, Party) {
    world(vec![trunk("one", CARRIER, 0), trunk("two", SECOND, 1)], |_| {})
}

/// A customer rings and a number is there.
fn number(w: &World, number: &str, life: u64) -> Line {
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(number, secs(life));
    customer
}

/// GenerativeAgent answers, both talk, the customer hangs up.
fn talks(w: &World, customer: &mut Line, genagent: &mut Line) {
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    assert!(w.talking(customer, genagent));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn o2_a_503_before_any_18x_sends_the_same_number_to_the_next_trunk() {
    let (w, second, _) = two();
    let mut customer = number(&w, NUMBER, 60);
    let mut first = w.carrier.expect_invite();
    first.respond(100);
    first.respond(503);
    first.expect("ACK");
    let mut genagent = second.expect_invite();
    assert!(genagent.invite.uri().contains(NUMBER) && genagent.invite.uri().contains("two.example"));
    assert_ne!(genagent.invite.branch(), first.invite.branch());
    assert_ne!(genagent.call_id, first.call_id);
    talks(&w, &mut customer, &mut genagent);
    assert_eq!(w.api.asked(), 1, "one number was enough");
    assert_eq!(w.record().attempts[0].trunks, ["one", "two"]);
    assert_eq!(w.counters().failovers, 1);
}

#[test]
fn o2_after_a_sign_of_connection_the_number_is_spent() {
    for early_media in [false, true] {
        let (w, second, _) = two();
        let mut customer = number(&w, NUMBER, 60);
        let mut first = w.carrier.expect_invite();
        match early_media {
            true => first.respond_with(183, first.sdp()),
            false => first.respond(180),
        }
        first.respond(503);
        first.expect("ACK");
        w.api.expect_create().answer_number(OTHER, secs(60));
        if early_media {
            customer.expect("183");
        }
        let mut genagent = second.expect_invite();
        assert!(genagent.invite.uri().contains(OTHER), "a fresh number, and not by the way that failed");
        talks(&w, &mut customer, &mut genagent);
    }
}

#[test]
fn o2_a_retry_after_rests_the_server_and_hours_are_not_obeyed() {
    for (told, rest) in [(20, 20), (86_400, 300)] {
        let (w, second, _) = two();
        let mut customer = number(&w, NUMBER, 60);
        let mut first = w.carrier.expect_invite();
        w.expect_warning("asks to be left alone");
        let refusal = first.response(&first.invite, 503).with("Retry-After", told.to_string());
        first.send(&refusal);
        first.expect("ACK");
        let mut genagent = second.expect_invite();
        talks(&w, &mut customer, &mut genagent);
        w.run_for(secs(rest - 5));
        let mut customer = number(&w, OTHER, 60);
        let mut genagent = second.expect_invite();
        talks(&w, &mut customer, &mut genagent);
        w.run_for(secs(10));
        let mut customer = number(&w, "+19995550178", 60);
        let mut genagent = w.carrier.expect_invite();
        talks(&w, &mut customer, &mut genagent);
    }
}

#[test]
fn o2_every_trunk_resting_takes_no_number() {
    let (w, _, _) = world(vec![trunk("one", CARRIER, 0)], |_| {});
    let mut customer = number(&w, NUMBER, 60);
    let mut first = w.carrier.expect_invite();
    w.expect_warning("asks to be left alone");
    first.send(&first.response(&first.invite, 503).with("Retry-After", "30"));
    first.expect("ACK");
    customer.expect_refusal(480);
    let mut customer = w.ivr.invite();
    customer.expect("180");
    customer.expect_refusal(480);
    assert_eq!(w.api.asked(), 1, "no number is asked for in vain");
    let reasons: Vec<_> = w.records().iter().map(|it| it.verdict.evidence.not_connected).collect();
    assert_eq!(reasons, [Some(NotConnected::TrunkFailed); 2]);
    assert_eq!(w.counters().rejected["trunks_down"], 2);
}

#[test]
fn o2_the_next_way_is_not_taken_after_the_guard() {
    let (w, second, _) = two();
    let mut customer = number(&w, NUMBER, 8);
    let mut first = w.carrier.expect_invite();
    first.respond(100);
    w.run_for(ms(2_900));
    first.respond(503);
    w.stall(ms(200));
    w.api.expect_create().answer_number(OTHER, secs(60));
    first.expect("CANCEL");
    first.expect("ACK");
    assert_eq!(w.count(&second, "INVITE"), 0, "{}", w.ladder());
    let mut genagent = w.carrier.expect_invite();
    talks(&w, &mut customer, &mut genagent);
}

#[test]
fn o3_a_silent_server_is_given_up_for_the_next_and_its_late_answer_is_ended() {
    let (w, second, _) = two();
    let mut customer = number(&w, NUMBER, 60);
    let mut first = w.carrier.expect_invite();
    let mut genagent = second.expect_invite();
    assert!((ms(6_000)..ms(6_200)).contains(&w.now()), "{:?}", w.now());
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    // The first one was only slow: it is acknowledged, hung up, and nobody hears it.
    first.answer();
    first.expect("ACK");
    first.expect_and_ok("BYE");
    w.run_for(ms(50));
    assert!(w.talking(&customer, &genagent));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    assert_eq!(w.api.asked(), 1);
    // Next time it comes last.
    let mut customer = number(&w, OTHER, 60);
    let mut genagent = second.expect_invite();
    talks(&w, &mut customer, &mut genagent);
    // After its penalty it is tried again.
    w.run_for(secs(30));
    let mut customer = number(&w, "+19995550178", 60);
    let mut genagent = w.carrier.expect_invite();
    talks(&w, &mut customer, &mut genagent);
}

/// The first server rings or answers late, while nothing has been heard of the second: the number is spent, and a
/// repeat of the INVITE might reach whoever has it next.
#[test]
fn o6d_a_late_sign_of_the_first_way_ends_the_second() {
    for answered in [false, true] {
        let (w, second, _) = two();
        let mut customer = number(&w, NUMBER, 60);
        let mut first = w.carrier.expect_invite();
        let mut other = second.expect_invite();
        match answered {
            true => first.answer(),
            false => first.respond(180),
        }
        w.api.expect_create().answer_number(OTHER, secs(60));
        match answered {
            true => {
                first.expect("ACK");
                first.expect_and_ok("BYE");
            }
            false => {
                first.expect_and_ok("CANCEL");
                first.respond(487);
                first.expect("ACK");
            }
        }
        let mut genagent = second.expect_invite();
        assert!(genagent.invite.uri().contains(OTHER));
        let sent = w.count(&second, "INVITE");
        genagent.respond(100);
        other.expect_nothing_for(secs(3));
        assert_eq!(w.count(&second, "INVITE"), sent, "not even a repeat");
        other.respond(180);
        other.expect_and_ok("CANCEL");
        other.respond(487);
        other.expect("ACK");
        talks(&w, &mut customer, &mut genagent);
        assert_eq!(w.api.asked(), 2);
    }
}

#[test]
fn o3_the_only_way_is_not_given_up_early() {
    let (w, _, _) = world(vec![trunk("one", CARRIER, 0)], |_| {});
    let mut customer = number(&w, NUMBER, 60);
    let mut genagent = w.carrier.expect_invite();
    w.run_for(secs(15));
    talks(&w, &mut customer, &mut genagent);
    assert_eq!(w.api.asked(), 1);
}

#[test]
fn o3_a_connection_that_cannot_be_made_goes_to_the_next_trunk_at_once() {
    let (w, second, _) = world(vec![trunk("one", CARRIER, 0), trunk("two", SECOND, 1)], |settings| {
        settings.trunks[0].place.transport = Some(Transport::Tcp);
        settings.sip_others = vec![(Transport::Tcp, settings.sip_address)];
    });
    w.over(&w.carrier, Transport::Tcp);
    let mut customer = number(&w, NUMBER, 60);
    let before = w.now();
    w.carrier.expect_invite();
    w.reset(&w.carrier);
    let mut genagent = second.expect_invite();
    assert!(w.now() - before < ms(100));
    talks(&w, &mut customer, &mut genagent);
    assert_eq!(w.api.asked(), 1);
}

/// One of two SRV targets is dead: no call is lost, no number wasted, and it comes back after its ping.
#[test]
fn a_dead_srv_target_costs_no_call_and_no_number() {
    let name = "trunk.example";
    let (w, second, _) = world(vec![], |settings| {
        let place = Place { host: name.into(), port: None, transport: None };
        settings.trunks = vec![Trunk { place, ping: secs(200), ..trunk("srv", CARRIER, 0) }];
    });
    let srv = |target: &str| Srv { priority: 0, weight: 10, port: 5060, target: target.into() };
    let host = |at: &str| Records::Addresses(vec![address(at).ip()]);
    let zone = [
        (Question::Srv(format!("_sip._udp.{name}")), Records::Srv(vec![srv("a.example"), srv("b.example")])),
        (Question::Addresses("a.example".into()), host(CARRIER)),
        (Question::Addresses("b.example".into()), host(SECOND)),
    ];
    w.stage().engine.dns.extend(zone.map(|(question, records)| (question, Ok((records, secs(3600))))));
    w.run_for(ms(100));
    // The first server answers its ping. The second does not.
    w.carrier.expect_request("OPTIONS").respond(200);
    second.expect_request("OPTIONS");
    w.expect_warning("trunk server is down");
    let mut silent = 0;
    for call in 0..12 {
        let dialled = format!("+1999555{:04}", 200 + call);
        let mut customer = number(&w, &dialled, 60);
        let before = w.count(&second, "INVITE");
        w.run_for(ms(100));
        if w.count(&second, "INVITE") > before {
            second.expect_invite();
            silent += 1;
        }
        let mut genagent = w.carrier.expect_invite();
        talks(&w, &mut customer, &mut genagent);
        w.run_for(secs(4));
    }
    assert_eq!(w.api.asked(), 12, "one number a call");
    assert!(silent <= 1, "the dead one is skipped after its first failure: {silent}");
    assert!(w.records().iter().all(|record| record.attempts.len() == 1));
    let servers = w.counters().trunk_servers;
    assert_eq!(servers.iter().filter(|server| server.up).count(), 1, "{servers:?}");
    // It answers a ping: from now on calls go there again.
    w.run_for(secs(195) - w.now());
    w.carrier.expect_request("OPTIONS").respond(200);
    let back = second.expect_request("OPTIONS");
    back.respond(405);
    w.run_for(ms(100));
    assert!(
        w.counters().trunk_servers.iter().all(|server| server.up),
        "{:?}\n{}",
        w.counters().trunk_servers,
        w.ladder()
    );
    w.operator(OperatorCommand::Drain);
}

#[test]
fn o15_all_trunks_down_is_a_fallback_without_a_number() {
    let (w, _, _) = world(vec![Trunk { ping: secs(30), ..trunk("one", CARRIER, 0) }], |_| {});
    w.expect_warning("trunk server is down");
    w.carrier.expect_request("OPTIONS");
    w.run_for(secs(33));
    let before = w.now();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    customer.expect_refusal(480);
    assert!(w.now() - before < ms(50));
    assert_eq!(w.api.asked(), 0);
    // A ping that is answered opens it again; 503 does not.
    w.carrier.expect_request("OPTIONS").respond(503);
    w.carrier.expect_request("OPTIONS").respond(200);
    w.run_for(ms(100));
    let mut customer = number(&w, NUMBER, 60);
    let mut genagent = w.carrier.expect_invite();
    talks(&w, &mut customer, &mut genagent);
    w.operator(OperatorCommand::Drain);
}

#[test]
fn o7_a_redirection_is_followed_only_to_a_permitted_address_and_with_the_same_number() {
    let third: SocketAddr = address(THIRD);
    for (allowed, user, followed) in [
        (true, NUMBER, true),
        (true, NUMBER.trim_start_matches('+'), true),
        (true, OTHER, false),
        (false, NUMBER, false),
    ] {
        let (w, _, there) = world(vec![trunk("one", CARRIER, 0)], |settings| {
            settings.trunks[0].redirects = if allowed { vec![third.ip()] } else { vec![IpAddr::from([10, 0, 0, 1])] };
            settings.call.max_attempts = 1;
        });
        let mut customer = number(&w, NUMBER, 60);
        let mut first = w.carrier.expect_invite();
        first.send(&first.response(&first.invite, 302).with("Contact", format!("<sip:{user}@{third}>")));
        first.expect("ACK");
        if followed {
            let mut genagent = there.expect_invite();
            assert!(genagent.invite.uri().contains(NUMBER), "the number stays ours to write");
            talks(&w, &mut customer, &mut genagent);
        } else {
            customer.expect_refusal(480);
            assert_eq!(w.count(&there, "INVITE"), 0);
        }
    }
}

#[test]
fn a_trunk_bears_no_more_than_its_calls_and_its_rate() {
    let (w, second, _) = world(vec![trunk("one", CARRIER, 0), trunk("two", SECOND, 1)], |settings| {
        settings.trunks[0].max_calls = 1;
        settings.trunks[1].max_calls_per_second = 1;
    });
    let mut first = number(&w, NUMBER, 60);
    let mut on_one = w.carrier.expect_invite();
    let mut other = number(&w, OTHER, 60);
    let mut on_two = second.expect_invite();
    // One is full, and two has had its INVITE of this second.
    let mut refused = w.ivr.invite();
    refused.expect("180");
    refused.expect_refusal(480);
    assert_eq!((w.api.asked(), w.counters().rejected["trunks_full"]), (2, 1));
    talks(&w, &mut first, &mut on_one);
    talks(&w, &mut other, &mut on_two);
    w.run_for(ms(50));
    assert!(w.counters().trunk_calls.iter().all(|(_, calls)| *calls == 0), "{:?}", w.counters().trunk_calls);
}

#[test]
fn trunks_of_one_order_share_by_weight() {
    let (w, second, _) = world(vec![trunk("one", CARRIER, 0), trunk("two", SECOND, 0)], |settings| {
        settings.trunks[0].weight = 9;
    });
    for call in 0..40 {
        let mut customer = number(&w, &format!("+1999555{:04}", 300 + call), 60);
        let before = w.count(&w.carrier, "INVITE");
        w.run_for(ms(50));
        let mut genagent =
            if w.count(&w.carrier, "INVITE") > before { w.carrier.expect_invite() } else { second.expect_invite() };
        talks(&w, &mut customer, &mut genagent);
        w.run_for(secs(3));
    }
    let there = w.count(&second, "INVITE");
    assert!((1..12).contains(&there), "about one in ten: {there} of 40");
}

#[test]
fn the_number_is_written_as_the_trunk_wants_it() {
    let (w, _, _) = world(vec![trunk("one", CARRIER, 0)], |settings| {
        settings.trunks[0].plus = false;
        settings.trunks[0].prefix = "9".to_owned();
    });
    let mut customer = number(&w, NUMBER, 60);
    let mut genagent = w.carrier.expect_invite();
    let expected = format!("sip:9{}@one.example;user=phone", NUMBER.trim_start_matches('+'));
    assert_eq!(genagent.invite.uri(), expected);
    talks(&w, &mut customer, &mut genagent);
}

#[test]
fn the_customers_number_is_shown_only_where_it_is_one() {
    for (from, shown) in [("+15557654321", true), ("anonymous", false), ("1;evil=1", false), ("12", false)] {
        let (w, _, _) = world(vec![Trunk { caller: Caller::Passthrough, ..trunk("one", CARRIER, 0) }], |_| {});
        let mut customer = w.ivr.call().calling_as(from).invite();
        customer.expect("180");
        w.api.expect_create().answer_number(NUMBER, secs(60));
        let mut genagent = w.carrier.expect_invite();
        let user = if shown { from } else { "+15550100" };
        assert!(genagent.invite.header("From").contains(&format!("sip:{user}@")), "{}", genagent.invite.header("From"));
        assert_eq!(genagent.invite.header("Diversion").contains("sip:+15550100@"), shown);
        talks(&w, &mut customer, &mut genagent);
    }
}

#[test]
fn a_registration_answers_its_challenge_and_is_renewed() {
    let (w, _, _) = world(vec![trunk("one", CARRIER, 0)], |settings| {
        let credentials = Credentials { username: "us".into(), password: "secret".into(), realm: None };
        settings.trunks[0].credentials = Some(credentials);
        settings.trunks[0].register = secs(600);
    });
    let mut first = w.carrier.expect_request("REGISTER");
    assert_eq!(first.invite.uri(), "sip:one.example");
    assert!(first.invite.header("To").contains("sip:us@one.example"));
    assert_eq!(first.invite.header("Expires"), "600");
    first.send(&first.response(&first.invite, 401).with("WWW-Authenticate", "Digest realm=\"r\", nonce=\"n\""));
    let again = first.expect("REGISTER");
    assert!(again.header("Authorization").contains("username=\"us\""));
    assert_eq!(again.header("CSeq"), "2 REGISTER");
    first.send(&first.response(&again, 423).with("Min-Expires", "1200"));
    let longer = first.expect("REGISTER");
    assert_eq!(longer.header("Expires"), "1200");
    let contact = format!("{};expires=1000", longer.header("Contact"));
    first.send(&first.response(&longer, 200).with("Contact", &contact));
    w.run_for(ms(100));
    assert_eq!(w.counters().registrations, (1, 1));
    let at = w.now();
    w.run_for(secs(880));
    let renewed = first.expect("REGISTER");
    assert!((secs(890)..secs(910)).contains(&(w.now() - at)), "{:?}", w.now() - at);
    w.expect_warning("not registered");
    first.send(&first.response(&renewed, 403));
    w.run_for(ms(100));
    assert_eq!(w.counters().registrations, (0, 1));
    w.operator(OperatorCommand::Drain);
}
