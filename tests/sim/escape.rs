//! M5: keys that are pressed, and the customer who takes the call back with them.

use switchback::call::escape::Sequence;
use switchback::call::rules::Matcher;
use switchback::call::verdict::{EndedBy, Outcome, Phase};

use crate::asapp::NUMBER;
use crate::engine::{ms, secs};
use crate::happy::talk;
use crate::ladders::rules;
use crate::peer::Line;
use crate::provisional::{dialled, hang_up};
use crate::text::{self, Sip};
use crate::world::World;

const ESCAPED: (Outcome, EndedBy, Phase) = (Outcome::Operator, EndedBy::Customer, Phase::Talking);

fn world(keys: &str, ladder: &[&str]) -> World {
    World::set(|settings| {
        settings.call.escape = Sequence::try_from(keys.to_owned()).expect("keys");
        rules(settings, [(Matcher::default(), ladder)]);
    })
}

/// A party's description with telephone events under this number.
fn numbered(line: &Line, number: &str) -> String {
    line.sdp().replace("101", number)
}

/// A party's description without telephone events.
fn without_events(line: &Line) -> String {
    line.sdp().replace(" 101\r\n", "\r\n").replace("a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n", "")
}

/// The keys that the relay says to this party.
fn pressed(w: &World, line: &Line) -> String {
    w.stage().engine.relay.towards(line.rtp).map(|(_, pair)| pair.pressed.clone()).unwrap_or_default()
}

fn informs(line: &mut Line, content_type: &str, body: &str) {
    let mut info = line.request("INFO").with("Content-Type", content_type);
    info.body = body.to_owned();
    line.send(&info);
    line.expect("200 INFO");
}

/// The payload types by which this party hears and was told of telephone events, as the relay knows them.
fn events(w: &World, line: &Line) -> Option<(u8, u8)> {
    let stage = w.stage();
    let (_, pair) = stage.engine.relay.towards(line.rtp).expect("a pair expects this party");
    pair.events.map(|types| (types.hears, types.told))
}

/// GenerativeAgent answers with what this makes of its line.
fn talk_with(w: &World, answer: fn(&Line) -> String) -> (Line, Line, Sip) {
    let (mut customer, mut genagent) = dialled(w);
    genagent.respond_with(200, answer(&genagent));
    genagent.expect("ACK");
    let answered = customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    assert!(w.talking(&customer, &genagent));
    (customer, genagent, answered)
}

#[test]
fn m5_a_customer_takes_the_call_back() {
    let w = world("*0", &["bye", "refuse:480"]);
    let (mut customer, mut genagent) = talk(&w);
    w.press(&customer, "12*");
    w.run_for(secs(3));
    assert!(w.talking(&customer, &genagent));
    w.press(&customer, "0");
    assert_eq!(genagent.expect_and_ok("BYE").header("Reason"), "Q.850;cause=16");
    let bye = customer.expect_and_ok("BYE");
    assert_eq!(bye.header("X-Switchback-Outcome"), "operator");
    assert_eq!(bye.all("Reason"), ["Q.850;cause=16", "switchback;text=\"operator\""]);
    assert_eq!(w.verdict(), ESCAPED);
    assert_eq!(w.context().outcome, "operator");
}

#[test]
fn m5_the_rules_say_where_the_escape_leads_and_there_it_means_nothing() {
    let w = world("*0", &["dial:queue", "bye", "refuse:480"]);
    let (mut customer, mut genagent) = talk(&w);
    w.press(&customer, "**0");
    genagent.expect_and_ok("BYE");
    let mut queue = w.queue.expect_invite();
    queue.respond(180);
    w.run_for(ms(5));
    w.press(&customer, "*0");
    w.run_for(secs(1));
    queue.answer();
    queue.expect("ACK");
    w.run_for(ms(5));
    w.press(&customer, "*0");
    w.run_for(secs(1));
    assert!(w.talking(&customer, &queue), "who was handed back stays there: {}", w.ladder());
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("BYE");
    assert_eq!(w.verdict(), ESCAPED);
}

#[test]
fn m5_slow_keys_other_keys_and_other_peoples_keys_are_no_escape() {
    let w = world("*0", &["bye", "refuse:480"]);
    let (mut customer, mut genagent) = talk(&w);
    w.press(&customer, "*");
    w.run_for(secs(3) + ms(1));
    w.press(&customer, "0");
    w.press(&customer, "*10#");
    w.press(&genagent, "*0");
    w.press(&customer, "*");
    w.press(&genagent, "0");
    w.run_for(secs(1));
    assert!(w.talking(&customer, &genagent));
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn m5_without_an_escape_keys_are_keys() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    w.press(&customer, "*0#0**00");
    w.run_for(secs(1));
    assert!(w.talking(&customer, &genagent));
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn m5_what_is_pressed_before_the_conversation_is_forgotten() {
    let w = world("*0", &["bye", "refuse:480"]);
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.press(&customer, "*0");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    w.press(&customer, "*0*");
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.press(&customer, "0");
    w.run_for(secs(1));
    assert!(w.talking(&customer, &genagent));
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn m5_an_escape_while_the_context_is_fetched_changes_nothing() {
    let w = world("*0", &["bye", "refuse:480"]);
    let (mut customer, mut genagent) = talk(&w);
    w.press(&customer, "*");
    genagent.bye();
    genagent.expect("200 BYE");
    let get = w.api.expect_fetch();
    w.press(&customer, "0*0");
    get.answer_completed("AGENT", &[]);
    customer.expect_and_ok("BYE");
    w.press(&customer, "*0");
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
}

#[test]
fn m5_an_escape_by_info_in_either_format() {
    let formats = [("application/dtmf-relay", "Signal=*\r\nDuration=160", "Signal=0"), ("application/dtmf", "*", "0")];
    for (content_type, star, zero) in formats {
        let w = world("*0", &["bye", "refuse:480"]);
        let (mut customer, mut genagent) = talk(&w);
        informs(&mut customer, content_type, star);
        informs(&mut genagent, content_type, zero);
        assert_eq!(pressed(&w, &customer), "0");
        assert_eq!(pressed(&w, &genagent), "*");
        informs(&mut customer, content_type, zero);
        genagent.expect_and_ok("BYE");
        customer.expect_and_ok("BYE");
        assert_eq!(w.verdict(), ESCAPED);
    }
}

#[test]
fn m5_a_key_that_comes_by_info_and_as_an_event_was_pressed_once() {
    let w = world("00", &["bye", "refuse:480"]);
    let (mut customer, mut genagent) = talk(&w);
    informs(&mut customer, "application/dtmf-relay", "Signal=0\r\nDuration=160");
    w.run_for(ms(100));
    w.press(&customer, "0");
    w.run_for(ms(900));
    assert!(w.talking(&customer, &genagent), "that was one 0");
    w.press(&customer, "7");
    informs(&mut customer, "application/dtmf-relay", "Signal=7\r\nDuration=160");
    assert_eq!(pressed(&w, &genagent), "0", "the relay was told of the first, the events have said the rest");
    w.press(&customer, "0");
    informs(&mut customer, "application/dtmf-relay", "Signal=0\r\nDuration=160");
    w.run_for(ms(300));
    assert!(w.talking(&customer, &genagent));
    w.press(&customer, "0");
    genagent.expect_and_ok("BYE");
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict(), ESCAPED);
}

#[test]
fn m5_an_escape_and_a_bye_of_genagent_in_the_same_instant() {
    let w = world("*0", &["bye", "refuse:480"]);
    let (mut customer, mut genagent) = talk(&w);
    genagent.bye();
    w.press(&customer, "*0");
    genagent.expect("BYE");
    genagent.expect("200 BYE");
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict(), ESCAPED, "the first one decides");
}

// --- telephone events whose numbers differ ---------------------------------------------------------------------------

#[test]
fn m5_each_side_has_its_own_number_for_telephone_events() {
    let w = World::new();
    let (mut customer, mut genagent, answer) = talk_with(&w, |line| numbered(line, "96"));
    assert!(genagent.invite.body.contains("a=rtpmap:101 telephone-event/8000"), "{}", genagent.invite.body);
    assert!(answer.body.contains(" RTP/AVP 0 8 101\r\n"), "{}", answer.body);
    assert!(answer.body.contains("a=rtpmap:101 telephone-event/8000\r\n") && !answer.body.contains("96"));
    assert_eq!((events(&w, &customer), events(&w, &genagent)), (Some((101, 101)), Some((96, 101))));
    // A later offer may name yet another one.
    customer.offer("UPDATE", numbered(&customer, "97"));
    let answer = customer.expect("200 UPDATE");
    assert!(answer.body.contains(" RTP/AVP 0 8 97\r\n"), "{}", answer.body);
    assert!(answer.body.contains("a=rtpmap:97 telephone-event/8000\r\na=fmtp:97 0-15\r\n"), "{}", answer.body);
    assert_eq!((events(&w, &customer), events(&w, &genagent)), (Some((97, 97)), Some((96, 101))));
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn m5_keys_reach_who_has_no_telephone_events_by_info() {
    let w = world("*0", &["bye", "refuse:480"]);
    let (mut customer, mut genagent, answer) = talk_with(&w, without_events);
    assert!(answer.body.contains("a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n"), "{}", answer.body);
    assert_eq!((events(&w, &customer), events(&w, &genagent)), (Some((101, 101)), None));
    for key in "15#*0".chars() {
        w.press(&customer, &key.to_string());
        let info = genagent.expect_and_ok("INFO");
        assert_eq!(info.header("Content-Type"), "application/dtmf-relay");
        assert_eq!(info.body, format!("Signal={key}\r\nDuration=160\r\n"));
    }
    genagent.expect_and_ok("BYE");
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict(), ESCAPED);
}

#[test]
fn m5_who_offered_no_telephone_events_is_answered_none() {
    let w = World::new();
    let mut customer = w.ivr.call().offering(text::audio("198.51.100.10", 40_002, "0 8", "sendrecv")).invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    assert!(genagent.invite.body.contains(" RTP/AVP 0 8 101\r\n"), "{}", genagent.invite.body);
    genagent.answer();
    genagent.expect("ACK");
    assert!(customer.expect("200").body.contains(" RTP/AVP 0 8\r\n"));
    customer.ack();
    informs(&mut customer, "application/dtmf-relay", "Signal=5\r\nDuration=160");
    assert_eq!(pressed(&w, &genagent), "5", "INFO does not reach far in a telephone network");
    w.press(&genagent, "7");
    assert_eq!(customer.expect_and_ok("INFO").body, "Signal=7\r\nDuration=160\r\n");
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn m5_an_onward_leg_is_told_by_info_too() {
    let w = world("", &["dial:queue", "bye", "refuse:480"]);
    let (mut customer, mut genagent) = talk(&w);
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    let mut queue = w.queue.expect_invite();
    queue.respond_with(200, without_events(&queue));
    queue.expect("ACK");
    w.run_for(ms(5));
    w.press(&customer, "7");
    assert_eq!(queue.expect_and_ok("INFO").body, "Signal=7\r\nDuration=160\r\n");
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("BYE");
}
