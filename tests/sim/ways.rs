//! T4, T5, T18: a REFER in a dialog of ours (RFC 3515). H14: the ways to GenerativeAgent beside the number, and back.

use switchback::b2bua::io::{FailureClass, SipReturn, Sound, Transfer, TransferKind, TransferStatus, Transport};
use switchback::b2bua::settings::{Network, Peer, Returns, Settings, Trunk};
use switchback::call::rules::Matcher;
use switchback::call::settings::{Answer, Return, ReturnUri, WayIn};
use switchback::call::verdict::{EndedBy, NotConnected, Outcome, Phase};
use switchback::sip::locate::Place;

use crate::asapp::NUMBER;
use crate::context::found;
use crate::engine::{CARRIER, IVR, QUEUE, address, ms, secs};
use crate::happy::talk;
use crate::ladders::{asks_for_a_person, rules, taken_over, with_ladder};
use crate::peer::{Draft, Line, Party};
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

// --- H14: by headers only --------------------------------------------------------------------------------------------

const GENAGENT: &str = "sip:genagent@asapp.example";

fn by_headers(settings: &mut Settings) {
    settings.call.way_in = WayIn::Headers { uri: GENAGENT.to_owned() };
    settings.call.verify_after = secs(2);
    settings.trunks[0].returns = Returns::Refer;
}

/// Brings a call to where both talk, without anybody having asked the API.
fn talk_unannounced(w: &World, call: Draft<'_>) -> (Line, Line) {
    let mut customer = call.invite();
    customer.expect("180");
    let genagent = w.carrier.expect_invite();
    meet(w, customer, genagent)
}

/// GenerativeAgent answers, and the customer is answered.
fn meet(w: &World, mut customer: Line, mut genagent: Line) -> (Line, Line) {
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    assert!(w.talking(&customer, &genagent), "{}", w.ladder());
    (customer, genagent)
}

/// The X-GA-* lines of a message, in order.
fn told(sip: &Sip) -> Vec<String> {
    let told = sip.headers.iter().filter(|(name, _)| name.starts_with("X-"));
    told.map(|(name, value)| format!("{name}: {value}")).collect()
}

/// Nobody has asked the API for anything, nor looked whether it may be asked.
fn unasked(w: &World) {
    assert_eq!(w.api.asked(), 0, "{}", w.ladder());
    assert!(w.counters().api.is_empty());
}

#[test]
fn h14_by_headers_the_invite_says_everything_and_a_refer_brings_the_context() {
    let w = World::set(by_headers);
    let call = w.ivr.call().header("X-GA-extConversationId", "conv-14").header("X-GA-taskName", "Billing");
    let call = call.header("X-GA-customerId", "c%209").header("X-GA-iv-plan", "gold%20caf%C3%A9");
    let (mut customer, mut genagent) = talk_unannounced(&w, call);
    assert_eq!(genagent.invite.uri(), GENAGENT);
    let wanted = [
        "X-GA-extConversationId: conv-14",
        "X-GA-taskName: Billing",
        "X-GA-iv-plan: gold%20caf%C3%A9",
        "X-GA-customerId: c%209",
    ];
    assert_eq!(told(&genagent.invite), wanted);
    w.run_for(secs(10));
    refers(&mut genagent, "<sip:anybody@203.0.113.99?X-GA-extConId=conv-14&X-GA-transfer=SYSTEM&X-GA-tv-tier=gold>");
    genagent.expect("202 REFER");
    notified(&mut genagent, "100", "active");
    notified(&mut genagent, "200", "terminated");
    genagent.expect_and_ok("BYE");
    let bye = customer.expect_and_ok("BYE");
    assert_eq!((bye.header("X-GA-transfer"), bye.header("X-GA-tv-tier")), ("SYSTEM", "gold"));
    assert_eq!(w.verdict(), (Outcome::System, EndedBy::Genagent, Phase::Talking));
    let record = w.record();
    assert_eq!((record.attempts.len(), record.attempts[0].number.as_deref()), (1, None));
    assert_eq!(
        (record.attempts[0].result.as_str(), &record.attempts[0].trunks[..]),
        ("answered", &["carrier".to_owned()][..])
    );
    unasked(&w);
    w.golden("h14-headers");
}

#[test]
fn h14_by_headers_a_bye_hands_back_at_once() {
    let w = World::set(by_headers);
    let (mut customer, mut genagent) = talk_unannounced(&w, w.ivr.call());
    let said = w.now();
    genagent.bye();
    genagent.expect("200 BYE");
    assert_eq!(customer.expect_and_ok("BYE").header("X-Switchback-Outcome"), "unspecified");
    assert!(w.now() - said < ms(50));
    assert_eq!(w.verdict(), (Outcome::Unspecified, EndedBy::Genagent, Phase::Talking));
    let evidence = w.record().verdict.evidence;
    assert_eq!(
        (evidence.polls, evidence.api_failure.as_deref()),
        (0, Some("not asked: the API knows nothing of this call"))
    );
    unasked(&w);
}

#[test]
fn h14_by_headers_a_refer_that_says_nothing_is_not_asked_about() {
    let w = World::set(by_headers);
    let (mut customer, mut genagent) = talk_unannounced(&w, w.ivr.call());
    refers(&mut genagent, "<sip:anybody@203.0.113.99>");
    genagent.expect("202 REFER");
    notified(&mut genagent, "100", "active");
    notified(&mut genagent, "200", "terminated");
    genagent.expect_and_ok("BYE");
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict(), (Outcome::Unspecified, EndedBy::Genagent, Phase::Talking));
    unasked(&w);
}

#[test]
fn h14_by_headers_hostile_values_stay_values() {
    let w = World::set(|settings| {
        by_headers(settings);
        settings.headers.to_genagent = vec!["x-ga-iv-a".to_owned(), "X-GA-extConversationId".to_owned()];
    });
    let call =
        w.ivr.call().header("X-GA-extConversationId", "c%0D%0AX-Evil: 1").header("X-GA-iv-a", "1%0D%0AX-Evil:%202");
    let call = call.header("X-GA-iv-To", "<sip:thief@x>;\",").header("X-GA-iv-A", "again");
    let call = call.header("X-GA-iv-long", &"%C3%A9".repeat(200)).header("X-GA-iv-last", "fits");
    let (mut customer, mut genagent) = talk_unannounced(&w, call);
    let wanted = [
        "X-GA-extConversationId: c%20%20X-Evil%3A%201",
        "X-GA-iv-a: 1%20%20X-Evil%3A%202",
        "X-GA-iv-To: %3Csip%3Athief%40x%3E%3B%22%2C",
        "X-GA-iv-last: fits",
    ];
    assert_eq!(told(&genagent.invite), wanted);
    assert_eq!(genagent.invite.uri(), GENAGENT);
    assert!(genagent.invite.octets().len() <= 1_300);
    farewell(&mut customer, &mut genagent);
    let record = w.record();
    assert_eq!((record.input_variables, record.input_left_out), (["a", "To", "last"].map(str::to_owned).into(), 2));
}

#[test]
fn h14_by_headers_whatever_comes_fits_into_one_datagram() {
    let w = World::set(by_headers);
    let names: Vec<String> = (0..32).map(|n| format!("X-GA-iv-variable{n}")).collect();
    let call =
        w.ivr.call().header("X-GA-extConversationId", &"i".repeat(200)).header("X-GA-taskName", &"t".repeat(100));
    let call = names.iter().fold(call, |call, name| call.header(name, "twenty octets of it."));
    let (mut customer, mut genagent) = talk_unannounced(&w, call);
    assert!(genagent.invite.octets().len() <= 1_300, "{}", genagent.invite.octets().len());
    farewell(&mut customer, &mut genagent);
    let record = w.record();
    assert_eq!(record.input_variables.len() + record.input_left_out as usize, 32);
    assert!(record.input_left_out > 0);
}

#[test]
fn h14_by_headers_who_refuses_is_not_called_again() {
    for (status, why) in
        [(486, NotConnected::TrunkFailed), (480, NotConnected::NoAnswer), (500, NotConnected::TrunkFailed)]
    {
        let w = World::set(by_headers);
        let mut customer = w.ivr.invite();
        customer.expect("180");
        let mut genagent = w.carrier.expect_invite();
        genagent.respond(status);
        genagent.expect("ACK");
        customer.expect_refusal(480);
        w.carrier.expect_nothing_for(secs(10));
        assert_eq!(w.record().verdict.evidence.not_connected, Some(why));
        assert_eq!(w.record().attempts.len(), 1);
        unasked(&w);
    }
}

#[test]
fn h14_by_headers_another_trunk_takes_the_call() {
    const SECOND: &str = "203.0.113.21:5060";
    let w = World::set(|settings| {
        by_headers(settings);
        let second = Place::at(Transport::Udp, address(SECOND));
        let one = settings.trunks[0].clone();
        settings.trunks.push(Trunk { name: "second".to_owned(), place: second, order: 1, ..one });
    });
    let second = w.stranger(SECOND);
    let mut customer = w.ivr.call().header("X-GA-extConversationId", "conv-2").invite();
    customer.expect("180");
    let mut first = w.carrier.expect_invite();
    first.respond(503);
    first.expect("ACK");
    let other = second.expect_invite();
    assert_eq!(told(&other.invite), ["X-GA-extConversationId: conv-2"]);
    let (mut customer, mut other) = meet(&w, customer, other);
    farewell(&mut customer, &mut other);
    assert_eq!(w.record().attempts[0].trunks, ["carrier", "second"]);
}

#[test]
fn h14_by_headers_no_trunk_is_no_call() {
    let w = World::set(|settings| {
        by_headers(settings);
        settings.trunks[0].max_calls = 1;
    });
    let (mut customer, mut genagent) = talk_unannounced(&w, w.ivr.call());
    let mut second = w.ivr.invite();
    second.expect("180");
    second.expect_refusal(480);
    assert_eq!(w.counters().rejected.get("trunks_full"), Some(&1));
    w.expect_warning("fallback: trunk_failed");
    farewell(&mut customer, &mut genagent);
    w.run_for(secs(2));
    let verdict = w.records().remove(0).verdict;
    assert_eq!(
        (verdict.outcome, verdict.evidence.not_connected),
        (Outcome::NotConnected, Some(NotConnected::TrunkFailed))
    );
    unasked(&w);
}

#[test]
fn h14_by_headers_a_broken_conversation_is_resumed_under_the_same_name() {
    let w = World::set(|settings| {
        by_headers(settings);
        settings.call.resume_attempts = 1;
    });
    let call = w.ivr.call().header("X-GA-extConversationId", "conv-3").header("X-GA-iv-plan", "gold");
    let (mut customer, mut genagent) = talk_unannounced(&w, call);
    w.silent(&customer, true);
    w.silent(&genagent, true);
    genagent.expect_and_ok("BYE");
    let mut again = w.carrier.expect_invite();
    assert_eq!(told(&again.invite), told(&genagent.invite));
    again.answer();
    again.expect("ACK");
    w.run_for(ms(5));
    assert!(w.talking(&customer, &again), "{}", w.ladder());
    farewell(&mut customer, &mut again);
    assert_eq!(w.record().attempts.len(), 2);
    unasked(&w);
}

#[test]
fn h14_by_headers_an_answer_after_the_cancel_is_ended_and_never_bridged() {
    let w = World::set(by_headers);
    let mut customer = w.ivr.invite();
    customer.expect("180");
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    w.run_for(ms(50));
    customer.cancel();
    customer.expect("200 CANCEL");
    customer.expect_refusal(487);
    genagent.expect_and_ok("CANCEL");
    genagent.answer();
    genagent.expect("ACK");
    genagent.expect_and_ok("BYE");
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::BeforeAnswer));
    unasked(&w);
}

#[test]
fn h14_by_headers_the_breaker_and_our_own_rate_hold_nobody_back() {
    let w = World::set(|settings| {
        by_headers(settings);
        settings.api_rate = 1;
    });
    let lines = [(); 4].map(|()| talk_unannounced(&w, w.ivr.call()));
    for (mut customer, mut genagent) in lines {
        farewell(&mut customer, &mut genagent);
    }
    unasked(&w);
}

// --- H14: how GenerativeAgent gives back what the API announced ------------------------------------------------------

fn announced(settings: &mut Settings, returns: Return) {
    settings.call.way_in = WayIn::Sip { uri: GENAGENT.to_owned(), returns };
}

fn back() -> ReturnUri {
    ReturnUri::read("sip:back@192.0.2.1").expect("a URI with a user")
}

fn by_invite(settings: &mut Settings) {
    announced(settings, Return::Invite(back()));
}

fn active() -> Transfer {
    Transfer { status: Some(TransferStatus::Active), ..Transfer::default() }
}

/// Brings an announced call to where both talk; the transfer's id, and what the create said of the way back.
fn talk_announced(w: &World) -> (Line, Line, String, TransferKind) {
    let mut customer = w.ivr.invite();
    customer.expect("180");
    let post = w.api.expect_create();
    let (id, kind) = (post.id(), post.body().kind.clone());
    post.answer(Ok(active()));
    let genagent = w.carrier.expect_invite();
    let (customer, genagent) = meet(w, customer, genagent);
    (customer, genagent, id, kind)
}

/// GenerativeAgent calls us, to the URI of this transfer.
fn calls_back<'a>(w: &'a World, id: &str) -> Draft<'a> {
    w.carrier.call().calling_as("genagent").dialling(&format!("back-{id}"))
}

/// It is answered and hung up on, and so is the leg that we called.
fn taken_back(line: &mut Line, genagent: &mut Line) {
    line.expect("200");
    line.ack();
    line.expect_and_ok("BYE");
    genagent.expect_and_ok("BYE");
}

/// The API has the context.
fn fetched(w: &World, id: &str) {
    let get = w.api.expect_fetch();
    assert_eq!(get.id(), id);
    get.answer_completed("AGENT", &[("tier", "gold")]);
}

#[test]
fn t5_a_refer_that_says_nothing_is_asked_about() {
    let w = World::set(|settings| {
        announced(settings, Return::Refer("sip:back@192.0.2.1".to_owned()));
        settings.trunks[0].returns = Returns::Refer;
    });
    let (mut customer, mut genagent, id, kind) = talk_announced(&w);
    assert_eq!(kind, TransferKind::Sip(SipReturn::Refer("sip:back@192.0.2.1".to_owned())));
    refers(&mut genagent, "<sip:back@192.0.2.1>");
    genagent.expect("202 REFER");
    let get = w.api.expect_fetch();
    notified(&mut genagent, "100", "active");
    notified(&mut genagent, "200", "terminated");
    genagent.expect_and_ok("BYE");
    get.answer_status(TransferStatus::Ongoing);
    fetched(&w, &id);
    assert_eq!(customer.expect_and_ok("BYE").header("X-GA-tv-tier"), "gold");
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
    w.golden("t5-fetched");
}

#[test]
fn t5_genagents_own_words_are_read_whichever_our_receivers_read() {
    let w = World::set(|settings| {
        settings.trunks[0].returns = Returns::Refer;
        settings.call.context.transfer_header = "X-Why".to_owned();
    });
    let (mut customer, mut genagent) = talk(&w);
    refers(&mut genagent, "<sip:anybody@203.0.113.99?X-GA-transfer=SYSTEM>");
    genagent.expect("202 REFER");
    notified(&mut genagent, "100", "active");
    notified(&mut genagent, "200", "terminated");
    genagent.expect_and_ok("BYE");
    assert_eq!(customer.expect_and_ok("BYE").header("X-Why"), "SYSTEM");
    w.api.expect_nothing_for(secs(1));
}

#[test]
fn t5_a_conversation_that_was_given_back_is_not_resumed() {
    let w = World::set(|settings| {
        settings.trunks[0].returns = Returns::Refer;
        settings.call.resume_attempts = 1;
        settings.call.collect_limit = ms(500);
    });
    let (mut customer, mut genagent) = talk(&w);
    refers(&mut genagent, "<sip:anybody@203.0.113.99>");
    genagent.expect("202 REFER");
    w.api.expect_fetch().answer_status(TransferStatus::Ongoing);
    notified(&mut genagent, "100", "active");
    notified(&mut genagent, "200", "terminated");
    genagent.expect_and_ok("BYE");
    w.api.expect_fetch().answer_status(TransferStatus::Ongoing);
    w.api.expect_fetch().answer_status(TransferStatus::Ongoing);
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict(), (Outcome::ContextMissing, EndedBy::Genagent, Phase::Talking));
}

#[test]
fn h14_genagent_calls_back_and_the_customer_is_handed_back() {
    let w = World::set(by_invite);
    let (mut customer, mut genagent, id, kind) = talk_announced(&w);
    assert_eq!(kind, TransferKind::Sip(SipReturn::Invite(format!("sip:back-{id}@192.0.2.1"))));
    w.run_for(secs(10));
    let mut line = calls_back(&w, &id).invite();
    let answer = line.expect("200");
    assert!(answer.has("Contact") && answer.body.contains("m=audio"), "{answer:?}");
    assert!(line.told.is_some() && line.told != customer.told && line.told != genagent.told);
    assert_eq!(w.hears(&customer), Hears::Sound(Sound::Waiting));
    line.expect_nothing_for(ms(50));
    line.ack();
    line.expect_and_ok("BYE");
    genagent.expect_and_ok("BYE");
    fetched(&w, &id);
    let bye = customer.expect_and_ok("BYE");
    assert_eq!((bye.header("X-GA-transfer"), bye.header("X-GA-tv-tier")), ("AGENT", "gold"));
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
    w.golden("h14-invite");
}

#[test]
fn h14_what_the_returning_invite_says_is_the_context() {
    let w = World::set(by_invite);
    let (mut customer, mut genagent, id, _) = talk_announced(&w);
    let call = calls_back(&w, &id).header("X-GA-transfer", "SYSTEM").header("X-GA-tv-tier", "gold%0D%0AEvil%3A%201");
    taken_back(&mut call.invite(), &mut genagent);
    let bye = customer.expect_and_ok("BYE");
    assert_eq!((bye.header("X-GA-transfer"), bye.header("X-GA-tv-tier")), ("SYSTEM", "gold%0D%0AEvil%3A%201"));
    w.api.expect_nothing_for(secs(1));
    assert_eq!(w.verdict(), (Outcome::System, EndedBy::Genagent, Phase::Talking));
}

#[test]
fn h14_a_returning_invite_that_comes_twice_is_answered_alike_and_a_second_one_comes_to_nobody() {
    let w = World::set(by_invite);
    let (mut customer, mut genagent, id, _) = talk_announced(&w);
    let mut line = calls_back(&w, &id).invite();
    line.expect("200");
    let lent = w.counters().ports_lent;
    line.send(&line.invite);
    w.run_for(ms(600));
    assert_eq!((w.counters().ports_lent, w.counters().calls), (lent, 1));
    assert!(w.count(&w.carrier, "200") >= 2, "{}", w.ladder());
    calls_back(&w, &id).invite().expect_refusal(404);
    line.ack();
    line.expect_and_ok("BYE");
    genagent.expect_and_ok("BYE");
    fetched(&w, &id);
    customer.expect_and_ok("BYE");
    calls_back(&w, &id).invite().expect_refusal(404);
}

#[test]
fn h14_a_returning_invite_and_the_customers_bye_cross() {
    for invite_first in [true, false] {
        let w = World::set(by_invite);
        let (mut customer, mut genagent, id, _) = talk_announced(&w);
        if invite_first {
            let mut line = calls_back(&w, &id).invite();
            line.expect("200");
            customer.bye();
            let get = w.api.expect_fetch();
            customer.expect("200 BYE");
            line.ack();
            line.expect_and_ok("BYE");
            genagent.expect_and_ok("BYE");
            get.answer_completed("AGENT", &[]);
            assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::Collecting));
        } else {
            customer.bye();
            customer.expect("200 BYE");
            calls_back(&w, &id).invite().expect_refusal(404);
            genagent.expect_and_ok("BYE");
            assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::Talking));
        }
    }
}

#[test]
fn h14_genagents_bye_may_come_before_its_invite() {
    for says in [true, false] {
        let w = World::set(by_invite);
        let (mut customer, mut genagent, id, _) = talk_announced(&w);
        genagent.bye();
        genagent.expect("200 BYE");
        let get = w.api.expect_fetch();
        let call = calls_back(&w, &id);
        let call = if says { call.header("X-GA-transfer", "SYSTEM") } else { call };
        let mut line = call.invite();
        line.expect("200");
        line.ack();
        line.expect_and_ok("BYE");
        get.answer_completed("AGENT", &[]);
        customer.expect_and_ok("BYE");
        assert_eq!(w.verdict().0, if says { Outcome::System } else { Outcome::Agent });
    }
}

#[test]
fn h14_an_invite_that_brings_nobody_back_is_no_customers_call() {
    let w = World::set(|settings| {
        by_invite(settings);
        settings.access.push(Network { address: address(CARRIER).ip(), prefix: 32 });
    });
    let mut customer = w.ivr.invite();
    customer.expect("180");
    let post = w.api.expect_create();
    let id = post.id();
    post.answer(Ok(active()));
    let genagent = w.carrier.expect_invite();
    calls_back(&w, &id).invite().expect_refusal(404);
    let (mut customer, mut genagent) = meet(&w, customer, genagent);
    let other = id.replace("-1", "-2");
    for name in ["", "1", &other, &id[..32], &format!("+{id}"), &format!("{id}-1"), &"f".repeat(33)] {
        calls_back(&w, name).invite().expect_refusal(404);
    }
    assert!(w.talking(&customer, &genagent));
    assert_eq!(w.counters().calls, 1);
    farewell(&mut customer, &mut genagent);
    calls_back(&w, &id).invite().expect_refusal(404);
    // The trunk's own calls, to any other user, are a customer's where it may call.
    let mut plain = w.carrier.call().dialling("back").invite();
    plain.expect("180");
    w.api.expect_create().fail(FailureClass::Refused);
    plain.expect_refusal(480);
    w.expect_warning("fallback: api_refused");
}

#[test]
fn h14_from_elsewhere_the_uri_of_a_transfer_means_nothing() {
    let w = World::set(by_invite);
    let (mut customer, mut genagent, id, _) = talk_announced(&w);
    let stranger = w.stranger("198.51.100.99:5060");
    let unheard = stranger.call().dialling(&format!("back-{id}")).invite();
    stranger.expect_nothing_for(secs(1));
    drop(unheard);
    // From who may call it is a customer's call as any other.
    let mut second = w.ivr.call().dialling(&format!("back-{id}")).invite();
    second.expect("180");
    w.api.expect_create().fail(FailureClass::Refused);
    second.expect_refusal(480);
    w.expect_warning("fallback: api_refused");
    assert!(w.talking(&customer, &genagent));
    farewell(&mut customer, &mut genagent);
}

#[test]
fn h14_a_returning_invite_that_cannot_be_answered_changes_nothing() {
    let w = World::set(by_invite);
    let (mut customer, mut genagent, id, _) = talk_announced(&w);
    calls_back(&w, &id).offering("nonsense").invite().expect_refusal(488);
    calls_back(&w, &id).header("Require", "precondition").invite().expect_refusal(420);
    assert!(w.talking(&customer, &genagent));
    farewell(&mut customer, &mut genagent);
}

#[test]
fn h14_a_returning_invite_without_an_offer_gets_ours() {
    let w = World::set(by_invite);
    let (mut customer, mut genagent, id, _) = talk_announced(&w);
    let mut line = calls_back(&w, &id).without_offer().invite();
    assert!(line.expect("200").body.contains("m=audio"));
    line.ack_with(line.sdp());
    line.expect_and_ok("BYE");
    genagent.expect_and_ok("BYE");
    fetched(&w, &id);
    customer.expect_and_ok("BYE");
}

#[test]
fn h14_who_brings_back_is_asked_who_it_is_where_its_network_is() {
    let w = World::set(|settings| {
        by_invite(settings);
        settings.challenge = vec![Network { address: address(CARRIER).ip(), prefix: 32 }];
    });
    let (mut customer, mut genagent, id, _) = talk_announced(&w);
    calls_back(&w, &id).invite().expect_refusal(401);
    assert!(w.talking(&customer, &genagent));
    farewell(&mut customer, &mut genagent);
}

#[test]
fn h14_no_ack_of_the_answer_keeps_nobody_waiting() {
    let w = World::set(by_invite);
    let (mut customer, mut genagent, id, _) = talk_announced(&w);
    let mut line = calls_back(&w, &id).invite();
    line.expect("200");
    genagent.expect_and_ok("BYE");
    fetched(&w, &id);
    customer.expect_and_ok("BYE");
    assert!(w.now() < secs(2));
    line.expect_and_ok("BYE");
    assert!(w.now() >= LONG);
}
