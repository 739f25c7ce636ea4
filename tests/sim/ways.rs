//! T4, T5, T18: a REFER in a dialog of ours (RFC 3515).

use switchback::b2bua::io::Sound;
use switchback::b2bua::settings::{Network, Peer, Returns, Settings};
use switchback::call::rules::Matcher;
use switchback::call::settings::Answer;
use switchback::call::verdict::{EndedBy, Outcome, Phase};

use crate::asapp::NUMBER;
use crate::context::found;
use crate::engine::{IVR, QUEUE, address, ms, secs};
use crate::happy::talk;
use crate::ladders::{asks_for_a_person, rules, taken_over, with_ladder};
use crate::peer::{Line, Party};
use crate::refer::peer;
use crate::relay::Hears;
use crate::text::Sip;
use crate::world::{LONG, World};

/// A phone of the PBX's that a REFER may lead to.
pub const DESK: &str = "198.51.100.77:5062";

pub fn accepting(settings: &mut Settings) {
    settings.peers = vec![Peer {
        from: vec![Network { address: address(IVR).ip(), prefix: 32 }],
        accept_refer: true,
        refer_hosts: vec!["198.51.100.77".to_owned()],
        credentials: None,
    }];
}

fn world() -> (World, Party) {
    let w = World::set(accepting);
    let desk = w.stranger(DESK);
    (w, desk)
}

/// A REFER inside the dialog, to the desk unless another is named.
fn refers(line: &mut Line, to: &str) -> Sip {
    let refer = line.request("REFER").with("Refer-To", to).with("Contact", format!("<sip:pbx@{IVR}>"));
    line.send(&refer);
    refer
}

fn desk() -> String {
    format!("<sip:desk@{DESK}>")
}

/// The next message is a NOTIFY with this status; it is answered.
pub fn notified(line: &mut Line, status: &str, state: &str) -> Sip {
    let notify = line.expect_and_ok("NOTIFY");
    assert_eq!(notify.header("Content-Type"), "message/sipfrag;version=2.0");
    assert!(notify.body.starts_with(&format!("SIP/2.0 {status}")), "{}", notify.body);
    assert!(notify.header("Subscription-State").starts_with(state), "{}", notify.header("Subscription-State"));
    notify
}

/// Everybody is hung up on.
fn farewell(customer: &mut Line, genagent: &mut Line) {
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn t4_whom_the_pbx_names_takes_the_customers_place() {
    let (w, desk_phone) = world();
    let (mut customer, mut genagent) = talk(&w);
    w.run_for(secs(5));
    let asked = w.now();
    refers(&mut customer, &desk());
    customer.expect("202 REFER");
    assert!(w.now() - asked < ms(200));
    let notify = notified(&mut customer, "100 Trying", "active;expires=");
    assert_eq!(notify.header("Event"), "refer");
    let mut desk = desk_phone.expect_invite();
    assert_eq!(desk.invite.uri(), format!("sip:desk@{DESK}"));
    desk.respond(180);
    customer.expect_nothing_for(secs(3));
    assert!(w.talking(&customer, &genagent), "until the answer nothing changes");
    desk.answer();
    desk.expect("ACK");
    w.run_for(ms(5));
    assert!(w.talking(&desk, &genagent), "{}", w.ladder());
    notified(&mut customer, "200 OK", "terminated;reason=noresource");
    customer.expect_and_ok("BYE");
    genagent.expect_nothing_for(secs(3));
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[("tier", "gold")]);
    assert_eq!(desk.expect_and_ok("BYE").header("X-GA-tv-tier"), "gold");
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
    assert_eq!(w.record().takeovers, 1);
    for leg in [&customer, &desk] {
        assert_eq!(found(&w, &leg.call_id).as_deref(), Some("agent"), "T14");
    }
    w.golden("t4");
}

#[test]
fn t4_the_bye_waits_until_the_outcome_is_heard() {
    let (w, desk_phone) = world();
    let (mut customer, mut genagent) = talk(&w);
    refers(&mut customer, &desk());
    customer.expect("202 REFER");
    let first = customer.expect("NOTIFY");
    let mut desk = desk_phone.expect_invite();
    desk.answer();
    desk.expect("ACK");
    customer.expect_nothing_for(ms(450));
    assert!(w.talking(&desk, &genagent), "the audio does not wait");
    customer.reply(&first, 200);
    let last = customer.expect("NOTIFY");
    assert!(last.body.starts_with("SIP/2.0 200"));
    customer.expect_nothing_for(ms(20));
    customer.reply(&last, 200);
    customer.expect_and_ok("BYE");
    farewell(&mut desk, &mut genagent);
}

#[test]
fn t4_the_bye_does_not_wait_for_an_asker_who_answers_no_notify() {
    let (w, desk_phone) = world();
    let (mut customer, mut genagent) = talk(&w);
    refers(&mut customer, &desk());
    customer.expect("202 REFER");
    customer.expect("NOTIFY"); // and it does not answer that
    let mut desk = desk_phone.expect_invite();
    desk.respond(486);
    desk.expect("ACK");
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[("tier", "gold")]);
    w.run_for(ms(20));
    let decided = w.now();
    assert_eq!(customer.expect_and_ok("BYE").header("X-GA-tv-tier"), "gold");
    assert!(w.now() - decided < ms(550), "{:?}", w.now() - decided);
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
}

#[test]
fn t4_who_refuses_or_is_silent_leaves_the_call_as_it_was() {
    for (status, told) in [(486, "486"), (603, "603"), (0, "408")] {
        let (w, desk_phone) = world();
        let (mut customer, mut genagent) = talk(&w);
        refers(&mut customer, &desk());
        customer.expect("202 REFER");
        notified(&mut customer, "100", "active");
        let mut desk = desk_phone.expect_invite();
        if status == 0 {
            desk.respond(180);
            w.run_for(secs(29));
            let cancel = desk.expect("CANCEL");
            desk.reply(&cancel, 200);
            desk.respond(487);
        } else {
            desk.respond(status);
        }
        desk.expect("ACK");
        notified(&mut customer, told, "terminated");
        assert!(w.talking(&customer, &genagent));
        // And it may ask again; the second subscription of a dialog has a name of its own.
        let again = refers(&mut customer, &desk_uri_busy());
        customer.expect("202 REFER");
        let notify = notified(&mut customer, "100", "active");
        assert_eq!(notify.header("Event"), format!("refer;id={}", again.cseq()));
        let mut busy = desk_phone.expect_invite();
        busy.respond(486);
        busy.expect("ACK");
        notified(&mut customer, "486", "terminated");
        farewell(&mut customer, &mut genagent);
        assert_eq!(w.record().takeovers, 0);
    }
}

fn desk_uri_busy() -> String {
    format!("<sip:busy@{DESK}>")
}

#[test]
fn t4_policy_refuses_and_calls_nobody() {
    let (w, _desk) = world();
    let (mut customer, mut genagent) = talk(&w);
    for (to, status) in [
        ("<sip:desk@203.0.113.99>", "603 REFER"),
        ("<sip:desk@pbx.example>", "603 REFER"),
        ("<sip:7000@192.0.2.1>", "603 REFER"),
        ("<tel:+15550100>", "603 REFER"),
        ("<sip:desk@198.51.100.77;method=BYE>", "603 REFER"),
        ("<sip:desk@198.51.100.77;maddr=203.0.113.99>", "603 REFER"),
        ("<sip:desk@198.51.100.77?X=1%0D%0AEvil=2>", "400 REFER"),
        ("<sip:desk", "400 REFER"),
    ] {
        refers(&mut customer, to);
        customer.expect(status);
    }
    assert!(w.talking(&customer, &genagent));
    farewell(&mut customer, &mut genagent);
}

#[test]
fn t4_by_default_nobody_is_followed() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    refers(&mut customer, &desk());
    customer.expect("603 REFER");
    farewell(&mut customer, &mut genagent);
}

#[test]
fn t4_it_does_not_lead_back_to_us() {
    let w = World::set(|settings| {
        accepting(settings);
        settings.peers[0].refer_hosts.push("192.0.2.1".to_owned());
    });
    let (mut customer, mut genagent) = talk(&w);
    refers(&mut customer, "<sip:7000@192.0.2.1:5060>");
    customer.expect("603 REFER");
    farewell(&mut customer, &mut genagent);
}

#[test]
fn t4_the_dialog_to_be_replaced_goes_along_and_nothing_else() {
    let (w, desk_phone) = world();
    let (mut customer, mut genagent) = talk(&w);
    let replaces = "other%40pbx%3Bto-tag%3Da%3Bfrom-tag%3Db";
    refers(&mut customer, &format!("<sip:desk@{DESK}?Replaces={replaces}&Route=%3Csip:203.0.113.9%3E&X-Evil=1>"));
    customer.expect("202 REFER");
    notified(&mut customer, "100", "active");
    let mut desk = desk_phone.expect_invite();
    assert_eq!(desk.invite.all("Replaces"), ["other@pbx;to-tag=a;from-tag=b"]);
    assert!(!desk.invite.has("Route") && !desk.invite.has("X-Evil"));
    desk.answer();
    desk.expect("ACK");
    notified(&mut customer, "200", "terminated");
    customer.expect_and_ok("BYE");
    farewell(&mut desk, &mut genagent);
}

#[test]
fn t4_who_wants_to_know_nothing_is_told_nothing() {
    let (w, desk_phone) = world();
    let (mut customer, mut genagent) = talk(&w);
    let refer = customer.request("REFER").with("Refer-To", desk()).with("Refer-Sub", "false");
    customer.send(&refer);
    assert_eq!(customer.expect("202 REFER").header("Refer-Sub"), "false");
    let mut desk = desk_phone.expect_invite();
    desk.answer();
    desk.expect("ACK");
    customer.expect_and_ok("BYE");
    assert!(w.talking(&desk, &genagent));
    farewell(&mut desk, &mut genagent);
}

#[test]
fn t11_a_successor_that_asks_who_we_are_is_told_and_again_when_it_is_referred() {
    let w = World::set(|settings| {
        accepting(settings);
        settings.peers.push(peer(DESK));
        rules(settings, [(Matcher::default(), &["refer:queue", "bye"])]);
    });
    let desk_phone = w.stranger(DESK);
    let (mut customer, mut genagent) = talk(&w);
    refers(&mut customer, &desk());
    customer.expect("202 REFER");
    notified(&mut customer, "100", "active");
    let mut desk = desk_phone.expect_invite();
    let challenge = "Digest realm=\"pbx\", nonce=\"n\", qop=\"auth\"";
    desk.send(&desk.response(&desk.invite, 401).with("WWW-Authenticate", challenge));
    desk.expect("ACK");
    let again = desk.expect_invite_again();
    assert!(again.header("Authorization").contains("username=\"switchback\""), "{again:?}");
    desk.answer();
    desk.expect("ACK");
    notified(&mut customer, "200", "terminated");
    customer.expect_and_ok("BYE");
    asks_for_a_person(&w, &mut genagent);
    let refer = desk.expect("REFER");
    assert!(refer.header("Authorization").contains("nc=00000002"), "shown at once: {refer:?}");
    desk.reply(&refer, 202);
    desk.bye();
    desk.expect("200 BYE");
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
}

#[test]
fn t4_who_requires_that_we_know_of_no_subscription_is_understood() {
    let (w, desk_phone) = world();
    let (mut customer, mut genagent) = talk(&w);
    let refer = customer.request("REFER").with("Refer-To", desk()).with("Refer-Sub", "false");
    customer.send(&refer.with("Require", "norefersub"));
    assert_eq!(customer.expect("202 REFER").header("Refer-Sub"), "false", "RFC 4488 section 4");
    let mut desk = desk_phone.expect_invite();
    assert!(desk.invite.header("Supported").contains("norefersub"), "{:?}", desk.invite);
    desk.answer();
    desk.expect("ACK");
    customer.expect_and_ok("BYE");
    farewell(&mut desk, &mut genagent);
}

#[test]
fn t4_a_blind_transfer_whose_asker_leaves_at_once() {
    for answered in [true, false] {
        let (w, desk_phone) = world();
        let (mut customer, mut genagent) = talk(&w);
        refers(&mut customer, &desk());
        customer.expect("202 REFER");
        customer.expect_and_ok("NOTIFY");
        customer.bye();
        customer.expect("200 BYE");
        let mut desk = desk_phone.expect_invite();
        genagent.expect_nothing_for(secs(5));
        if answered {
            desk.answer();
            desk.expect("ACK");
            w.run_for(ms(50));
            assert!(w.talking(&desk, &genagent), "{}", w.ladder());
            customer.answer_all();
            farewell(&mut desk, &mut genagent);
            assert_eq!(w.record().takeovers, 1);
        } else {
            desk.respond(486);
            desk.expect("ACK");
            genagent.expect_and_ok("BYE");
            w.run_for(secs(1));
            customer.answer_all();
            assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::Talking));
        }
    }
}

#[test]
fn t4_an_asker_who_has_left_long_ago_is_told_the_outcome_all_the_same() {
    for status in [200, 486] {
        let w = World::set(|settings| {
            accepting(settings);
            settings.call.ring_limit = secs(60);
        });
        let desk_phone = w.stranger(DESK);
        let (mut customer, mut genagent) = talk(&w);
        refers(&mut customer, &desk());
        customer.expect("202 REFER");
        notified(&mut customer, "100", "active");
        customer.bye();
        customer.expect("200 BYE");
        let mut desk = desk_phone.expect_invite();
        desk.respond(180);
        w.run_for(LONG + secs(8));
        if status == 200 {
            desk.answer();
        } else {
            desk.respond(status);
        }
        desk.expect("ACK");
        notified(&mut customer, &status.to_string(), "terminated");
        if status == 200 {
            farewell(&mut desk, &mut genagent);
        } else {
            genagent.expect_and_ok("BYE");
        }
        w.run_for(LONG + secs(2));
        assert_eq!(w.counters().active_legs, 0, "a tombstone is no monument");
    }
}

#[test]
fn t4_genagent_hangs_up_while_the_successor_rings() {
    for departed in [false, true] {
        let (w, desk_phone) = world();
        let (mut customer, mut genagent) = talk(&w);
        refers(&mut customer, &desk());
        customer.expect("202 REFER");
        notified(&mut customer, "100", "active");
        let mut desk = desk_phone.expect_invite();
        desk.respond(180);
        w.run_for(ms(50));
        if departed {
            customer.bye();
            customer.expect("200 BYE");
        }
        genagent.bye();
        genagent.expect("200 BYE");
        w.api.expect_fetch().answer_completed("AGENT", &[]);
        let cancel = desk.expect("CANCEL");
        desk.reply(&cancel, 200);
        desk.respond(487);
        desk.expect("ACK");
        notified(&mut customer, "487", "terminated");
        if departed {
            assert_eq!(w.verdict().0, Outcome::CustomerHungUp);
        } else {
            customer.expect_and_ok("BYE");
            assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
        }
    }
}

#[test]
fn t4_while_a_customer_who_was_answered_first_waits() {
    let w = World::set(|settings| {
        accepting(settings);
        settings.call.answer = Answer::First;
    });
    let desk_phone = w.stranger(DESK);
    let mut customer = w.ivr.invite();
    customer.expect("200");
    customer.ack();
    let create = w.api.expect_create();
    refers(&mut customer, &desk());
    customer.expect("202 REFER");
    notified(&mut customer, "100", "active");
    let mut desk = desk_phone.expect_invite();
    customer.bye();
    customer.expect("200 BYE");
    create.answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    desk.answer();
    desk.expect("ACK");
    w.run_for(ms(50));
    customer.answer_all();
    assert!(w.talking(&desk, &genagent), "{}", w.ladder());
    farewell(&mut desk, &mut genagent);
}

#[test]
fn t4_one_at_a_time() {
    let (w, desk_phone) = world();
    let (mut customer, mut genagent) = talk(&w);
    refers(&mut customer, &desk());
    customer.expect("202 REFER");
    notified(&mut customer, "100", "active");
    let mut desk_line = desk_phone.expect_invite();
    refers(&mut customer, &desk());
    customer.expect("603 REFER");
    let [local, remote] = customer.tags();
    let replaces = format!("{};to-tag={remote};from-tag={local}", customer.call_id);
    w.ivr.call().header("Replaces", &replaces).invite().expect_refusal(491);
    desk_line.answer();
    desk_line.expect("ACK");
    notified(&mut customer, "200", "terminated");
    customer.expect_and_ok("BYE");
    farewell(&mut desk_line, &mut genagent);
}

#[test]
fn t4_while_the_customer_is_handed_back_nobody_is_followed() {
    let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
    let (mut customer, mut queue) = taken_over(&w);
    refers(&mut customer, &desk());
    customer.expect("603 REFER");
    assert!(w.talking(&customer, &queue));
    queue.bye();
    queue.expect("200 BYE");
    customer.expect_and_ok("BYE");
}

#[test]
fn t18_whoever_took_over_does_not_send_the_customer_on_through_us() {
    let w = World::set(|settings| {
        accepting(settings);
        let queue = Network { address: address(QUEUE).ip(), prefix: 32 };
        settings.peers[0].from.push(queue);
        rules(settings, [(Matcher::default(), &["dial:queue", "bye", "refuse:480"])]);
    });
    let (mut customer, mut queue) = taken_over(&w);
    refers(&mut queue, &desk());
    queue.expect("603 REFER");
    w.run_for(secs(5));
    assert!(w.talking(&customer, &queue), "the media stays with us: {}", w.ladder());
    assert_eq!(w.count(&w.stranger(DESK), "INVITE"), 0);
    queue.bye();
    queue.expect("200 BYE");
    customer.expect_and_ok("BYE");
}

#[test]
fn t4_an_asker_who_answers_no_notify_is_let_go_all_the_same() {
    let (w, desk_phone) = world();
    let (mut customer, mut genagent) = talk(&w);
    refers(&mut customer, &desk());
    customer.expect("202 REFER");
    customer.expect("NOTIFY");
    let mut desk = desk_phone.expect_invite();
    desk.answer();
    desk.expect("ACK");
    w.run_for(LONG + secs(1));
    assert!(w.talking(&desk, &genagent));
    customer.expect_and_ok("BYE");
    farewell(&mut desk, &mut genagent);
}

// --- T5 --------------------------------------------------------------------------------------------------------------

#[test]
fn t5_genagent_hands_back_by_refer() {
    let w = World::set(|settings| settings.trunks[0].returns = Returns::Refer);
    let (mut customer, mut genagent) = talk(&w);
    let context = "X-GA-transfer=AGENT&X-GA-tv-tier=gold%20%26%20caf%C3%A9&X-GA-rv-order=7&Replaces=x";
    refers(&mut genagent, &format!("<sip:anybody@203.0.113.99?{context}>"));
    genagent.expect("202 REFER");
    let hears = w.hears(&customer);
    notified(&mut genagent, "100", "active");
    notified(&mut genagent, "200", "terminated");
    genagent.expect_and_ok("BYE");
    let bye = customer.expect_and_ok("BYE");
    assert_eq!((bye.header("X-GA-transfer"), bye.header("X-GA-tv-tier")), ("AGENT", "gold%20%26%20caf%C3%A9"));
    assert_eq!(hears, Hears::Sound(Sound::Waiting));
    w.api.expect_nothing_for(secs(1));
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
    assert_eq!(w.context().output.map(|output| output.reference_variables.len()), Some(1));
    w.golden("t5");
}

#[test]
fn t5_without_being_told_so_it_is_refused() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    refers(&mut genagent, "<sip:anybody@203.0.113.99?X-GA-transfer=AGENT>");
    genagent.expect("603 REFER");
    assert!(w.talking(&customer, &genagent));
    farewell(&mut customer, &mut genagent);
}
