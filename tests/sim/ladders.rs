//! The way back by rules and ladders: H4, T6, T15, T16 and what else an onward leg can do.

use std::time::Duration;

use switchback::b2bua::io::{FailureClass, MediaEvent, OperatorCommand, Sound};
use switchback::b2bua::settings::Settings;
use switchback::call::rules::{Entry, Matcher, Pattern, Rule, Rung};
use switchback::call::verdict::{EndedBy, NotConnected, Outcome, Phase};

use crate::asapp::NUMBER;
use crate::engine::{Flight, ms, secs};
use crate::happy::talk;
use crate::peer::Line;
use crate::relay::Hears;
use crate::text;
use crate::world::World;

/// Rules as they are written down: whom each is for, and its ladder.
pub fn rules<const N: usize>(settings: &mut Settings, rules: [(Matcher, &[&str]); N]) {
    let rung = |text: &&str| Rung::try_from((*text).to_owned()).expect("a rung");
    let rule = |(when, ladder): (Matcher, &[&str])| Rule {
        when,
        ladder: ladder.iter().map(rung).collect(),
        allow_drop: false,
    };
    settings.call.rules = rules.map(rule).into();
}

/// A world with one ladder for everyone.
pub fn with_ladder(ladder: &[&str]) -> World {
    World::set(|settings| rules(settings, [(Matcher::default(), ladder)]))
}

/// GenerativeAgent hangs up and wants a person.
pub fn asks_for_a_person(w: &World, genagent: &mut Line) {
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[("priority", "high")]);
}

/// Brings a call to where the customer talks with the queue.
pub fn taken_over(w: &World) -> (Line, Line) {
    let (customer, mut genagent) = talk(w);
    asks_for_a_person(w, &mut genagent);
    let mut queue = w.queue.expect_invite();
    queue.respond(180);
    queue.answer();
    queue.expect("ACK");
    w.run_for(ms(5));
    assert!(w.talking(&customer, &queue), "{}", w.ladder());
    (customer, queue)
}

/// The queue does not want the customer.
fn refuses(w: &World, status: u16) {
    let mut queue = w.queue.expect_invite();
    queue.respond(status);
    queue.expect("ACK");
}

/// The rungs that were tried and what became of them.
pub fn tried(w: &World) -> Vec<String> {
    let back = w.record().hand_back.expect("it was tried");
    back.rungs.iter().map(|rung| format!("{} {}", rung.rung, rung.result)).collect()
}

#[test]
fn h4_the_queue_is_dialled_and_takes_over() {
    let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
    let (mut customer, mut genagent) = talk(&w);
    w.run_for(secs(20));
    let sent = w.count(&w.ivr, "INVITE");
    asks_for_a_person(&w, &mut genagent);
    let mut queue = w.queue.expect_invite();
    assert_eq!(queue.invite.uri(), "sip:queue@pbx.example");
    assert!(queue.invite.header("From").contains("sip:+15557654321@192.0.2.1"), "{:?}", queue.invite);
    assert_eq!(queue.invite.header("X-GA-transfer"), "AGENT");
    assert_eq!(queue.invite.header("X-GA-tv-priority"), "high");
    assert_eq!(queue.invite.header("X-Switchback-Outcome"), "agent");
    assert!(!queue.invite.has("Reason"), "an INVITE has none");
    assert_eq!(w.hears(&customer), Hears::Sound(Sound::Onward));
    queue.respond(180);
    w.run_for(secs(3));
    queue.answer();
    queue.expect("ACK");
    w.run_for(ms(5));
    assert!(w.talking(&customer, &queue), "{}", w.ladder());
    assert_eq!(w.count(&w.ivr, "INVITE"), sent, "the customer leg is untouched");
    w.run_for(secs(30));
    queue.bye();
    queue.expect("200 BYE");
    assert_eq!(customer.expect_and_ok("BYE").header("Reason"), "Q.850;cause=16");
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
    let back = w.record().hand_back.expect("handed back");
    assert_eq!((back.ended_by, back.values_sent), (Some(EndedBy::Onward), 1));
    let talked = w.record().ended_at - back.answered_at.expect("it answered");
    assert!((30_000..30_100).contains(&talked), "{talked}");
    assert_eq!(tried(&w), ["dial:queue answered"]);
    assert!(w.record().onward_media.is_some());
    assert!(w.counters().hand_back.sum < 1.0, "from GenerativeAgent's BYE to the dialling");
    w.golden("h4");
}

#[test]
fn h4_the_customer_hangs_up_on_the_queue() {
    let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
    let (mut customer, mut queue) = taken_over(&w);
    customer.bye();
    customer.expect("200 BYE");
    assert_eq!(queue.expect_and_ok("BYE").header("Reason"), "Q.850;cause=16");
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
    assert_eq!(w.record().hand_back.and_then(|back| back.ended_by), Some(EndedBy::Customer));
}

#[test]
fn h4_both_hang_up_at_once() {
    let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
    let (mut customer, mut queue) = taken_over(&w);
    customer.bye();
    queue.bye();
    w.run_for(secs(1));
    assert!(customer.answer_all().contains(&"200 BYE".to_owned()));
    assert!(queue.answer_all().contains(&"200 BYE".to_owned()));
    assert_eq!(w.record().verdict.outcome, Outcome::Agent);
}

#[test]
fn h4_the_queue_is_heard_before_it_answers() {
    let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
    let (mut customer, mut genagent) = talk(&w);
    asks_for_a_person(&w, &mut genagent);
    let mut queue = w.queue.expect_invite();
    queue.respond_with(183, queue.sdp());
    w.run_for(ms(5));
    assert!(w.talking(&customer, &queue), "an announcement passes");
    queue.answer();
    queue.expect("ACK");
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("BYE");
}

#[test]
fn h4_info_hold_and_a_new_offer_pass_while_the_queue_talks() {
    let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
    let (mut customer, mut queue) = taken_over(&w);
    for from_customer in [true, false] {
        let (from, to) = if from_customer { (&mut customer, &mut queue) } else { (&mut queue, &mut customer) };
        let mut info = from.request("INFO").with("Content-Type", "application/media_control+xml");
        info.body = "<media_control/>".to_owned();
        from.send(&info);
        from.expect("200 INFO");
        assert_eq!(to.expect_and_ok("INFO").body, "<media_control/>");
    }
    let port = queue.told;
    let sdp = text::audio("198.51.100.40", queue.rtp.port(), "0 8 101", "sendonly");
    queue.reinvite(sdp);
    let answer = queue.expect("200");
    assert_eq!(answer.audio_port(), port, "our port never moves");
    queue.ack();
    w.run_for(secs(120));
    assert_eq!(w.counters().active_calls, 1, "a held call is watched no more");
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("BYE");
}

#[test]
fn h4_a_dead_line_to_the_queue_ends_the_call() {
    let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
    let (mut customer, mut queue) = taken_over(&w);
    w.silent(&customer, true);
    w.silent(&queue, true);
    assert_eq!(customer.expect_and_ok("BYE").header("Reason"), "Q.850;cause=41");
    queue.expect_and_ok("BYE");
    assert_eq!(w.record().hand_back.and_then(|back| back.ended_by), Some(EndedBy::Network));
}

#[test]
fn h4_the_talk_with_the_queue_has_a_longest_time_of_its_own() {
    let w = World::set(|settings| {
        rules(settings, [(Matcher::default(), &["dial:queue", "bye", "refuse:480"])]);
        settings.call.max_duration = secs(60);
    });
    let (mut customer, mut queue) = taken_over(&w);
    let began = w.now();
    queue.expect_and_ok("BYE");
    assert!(w.now() - began > secs(59));
    assert_eq!(customer.expect_and_ok("BYE").header("Reason"), "Q.850;cause=102");
}

#[test]
fn h4_an_operator_and_a_stop_end_the_talk_with_the_queue() {
    for stop in [true, false] {
        let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
        let (mut customer, mut queue) = taken_over(&w);
        let call = {
            let stage = w.stage();
            stage.engine.core.live_calls(stage.engine.now)[0].call
        };
        w.operator(if stop { OperatorCommand::Stop } else { OperatorCommand::HangUp(call) });
        queue.expect_and_ok("BYE");
        customer.expect_and_ok("BYE");
        assert_eq!(w.record().hand_back.and_then(|back| back.ended_by), Some(EndedBy::Us));
    }
}

#[test]
fn h4_the_customer_gives_up_while_the_queue_rings() {
    let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
    let (mut customer, mut genagent) = talk(&w);
    asks_for_a_person(&w, &mut genagent);
    let mut queue = w.queue.expect_invite();
    queue.respond(180);
    w.run_for(secs(1));
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("CANCEL");
    queue.respond(487);
    queue.expect("ACK");
    w.queue.expect_nothing_for(secs(60));
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking), "how GenerativeAgent's part ended");
    assert_eq!(tried(&w), ["dial:queue customer hung up"]);
    assert_eq!(w.record().hand_back.and_then(|back| back.ended_by), Some(EndedBy::Customer));
}

#[test]
fn h4_the_queue_answers_as_the_customer_gives_up() {
    let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
    let (mut customer, mut genagent) = talk(&w);
    asks_for_a_person(&w, &mut genagent);
    let mut queue = w.queue.expect_invite();
    queue.respond(180);
    w.run_for(secs(1));
    customer.bye();
    w.run_for(ms(1));
    queue.answer(); // It crosses the CANCEL.
    customer.expect("200 BYE");
    queue.expect_and_ok("CANCEL");
    queue.expect("ACK");
    queue.expect_and_ok("BYE");
    assert!(!w.talking(&customer, &queue));
}

#[test]
fn b6_the_context_on_an_invite_fits_into_one_datagram() {
    let w = with_ladder(&["dial:queue"]);
    let (mut customer, mut genagent) = talk(&w);
    genagent.bye();
    genagent.expect("200 BYE");
    let (names, value): (Vec<String>, _) = ((0..8).map(|n| format!("variable-number-{n}")).collect(), "v".repeat(100));
    let variables: Vec<_> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
    w.api.expect_fetch().answer_completed("AGENT", &variables);
    let mut queue = w.queue.expect_invite();
    assert!(queue.invite.octets().len() <= 1300, "{}", queue.invite.octets().len());
    assert!(queue.invite.has("X-GA-tv-variable-number-0"), "{:?}", queue.invite);
    queue.answer();
    queue.expect("ACK");
    customer.expect_nothing_for(secs(1));
    queue.bye();
    queue.expect("200 BYE");
    customer.expect_and_ok("BYE");
    let back = w.record().hand_back.expect("handed back");
    assert_eq!(back.values_sent + back.values_left_out, 8);
}

#[test]
fn r10_a_new_offer_while_the_queue_rings() {
    let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
    let (mut customer, mut genagent) = talk(&w);
    asks_for_a_person(&w, &mut genagent);
    let mut queue = w.queue.expect_invite();
    queue.respond(180);
    customer.rtp.set_port(47_000);
    customer.reinvite(customer.sdp());
    queue.answer(); // It crosses the customer's ACK.
    customer.expect("200");
    customer.ack();
    queue.expect("ACK");
    w.run_for(ms(5));
    assert!(w.talking(&customer, &queue), "{}", w.ladder());
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("BYE");
}

#[test]
fn h4_a_customer_who_has_not_acknowledged_yet_is_put_through_all_the_same() {
    let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    asks_for_a_person(&w, &mut genagent);
    let mut queue = w.queue.expect_invite();
    queue.answer();
    queue.expect("ACK");
    w.run_for(secs(1));
    customer.ack();
    w.run_for(ms(5));
    assert!(w.talking(&customer, &queue));
    queue.bye();
    queue.expect("200 BYE");
    customer.expect_and_ok("BYE");
}

#[test]
fn h4_a_customer_who_never_acknowledges_is_no_burden_to_the_queue() {
    let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    asks_for_a_person(&w, &mut genagent);
    let mut queue = w.queue.expect_invite();
    queue.answer();
    queue.expect("ACK");
    queue.expect_and_ok("BYE");
    customer.expect_and_ok("BYE");
    assert_eq!(w.record().hand_back.and_then(|back| back.ended_by), Some(EndedBy::Network));
}

#[test]
fn h4_nothing_that_anybody_wrote_names_a_target_or_a_header() {
    let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
    let mut customer = w.ivr.call().header("X-GA-extConversationId", "c%0D%0AVia:%20x").invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    genagent.bye();
    genagent.expect("200 BYE");
    let hostile =
        [("queue", "sip:evil@evil.example"), ("x\r\nRoute", "<sip:evil.example;lr>"), ("a", "\r\nRoute: <sip:e>")];
    w.api.expect_fetch().answer_completed("dial:evil", &hostile);
    let mut queue = w.queue.expect_invite();
    assert_eq!(queue.invite.uri(), "sip:queue@pbx.example");
    assert!(!queue.invite.has("Route") && queue.invite.all("Via").len() == 1, "{:?}", queue.invite);
    queue.respond(404);
    queue.expect("ACK");
    refuses(&w, 404);
    customer.expect_and_ok("BYE");
}

#[test]
fn a_503_of_a_ladder_says_when_to_come_back() {
    for (status, retry) in [(503, Some("7")), (480, None)] {
        let w = World::set(|settings| {
            settings.call.retry_after = 7;
            rules(settings, [(Matcher::default(), &[format!("refuse:{status}").as_str()])]);
        });
        let mut customer = w.ivr.invite();
        customer.expect("180");
        w.api.expect_create().fail(FailureClass::Refused);
        let refusal = customer.expect_refusal(status);
        assert_eq!(refusal.all("Retry-After").first().copied(), retry, "{refusal:?}");
    }
}

#[test]
fn t16_busy_the_next_uri_then_the_next_rung_and_the_right_cause() {
    for (status, cause) in [(486, 17), (480, 19), (404, 27), (503, 38), (500, 41)] {
        let w = with_ladder(&["dial:queue", "dial:nobody"]);
        let (mut customer, mut genagent) = talk(&w);
        asks_for_a_person(&w, &mut genagent);
        let mut first = w.queue.expect_invite();
        let refused = w.now();
        first.respond(486);
        first.expect("ACK");
        let mut next = w.queue.expect_invite();
        assert!(w.now() - refused < ms(500));
        assert_eq!(next.invite.uri(), "sip:next@pbx.example");
        assert_eq!(w.hears(&customer), Hears::Sound(Sound::Onward), "no dead line in between");
        next.respond(status);
        next.expect("ACK");
        let bye = customer.expect_and_ok("BYE");
        assert!(w.now() - refused < ms(500));
        assert_eq!(bye.header("Reason"), format!("Q.850;cause={cause}"), "{status}");
        assert_eq!(bye.header("X-GA-transfer"), "AGENT", "the context is not lost");
        assert_eq!(
            tried(&w),
            ["dial:queue refused 486".to_owned(), format!("dial:queue refused {status}"), "bye done".to_owned()]
        );
    }
}

#[test]
fn t16_nobody_answers() {
    let w = with_ladder(&["dial:queue"]);
    let (mut customer, mut genagent) = talk(&w);
    asks_for_a_person(&w, &mut genagent);
    for _ in 0..2 {
        let mut queue = w.queue.expect_invite();
        let called = w.now();
        queue.respond(180);
        queue.expect_and_ok("CANCEL");
        assert!((secs(19)..secs(21)).contains(&(w.now() - called)), "the ring limit of the target");
        queue.respond(487);
        queue.expect("ACK");
    }
    assert_eq!(customer.expect_and_ok("BYE").header("Reason"), "Q.850;cause=19");
    w.golden("t16");
}

#[test]
fn t16_a_dead_queue_is_given_up_long_before_a_ringing_one() {
    let w = with_ladder(&["dial:queue"]);
    let (mut customer, mut genagent) = talk(&w);
    asks_for_a_person(&w, &mut genagent);
    let mut dead = w.queue.expect_invite();
    let called = w.now();
    let mut next = w.queue.expect_invite();
    assert!((secs(5)..secs(7)).contains(&(w.now() - called)), "{:?}", w.now() - called);
    assert_eq!(next.invite.uri(), "sip:next@pbx.example");
    next.answer();
    next.expect("ACK");
    dead.answer(); // It was not dead.
    dead.expect("ACK");
    dead.expect_and_ok("BYE");
    assert!(w.talking(&customer, &next), "{}", w.ladder());
    customer.bye();
    customer.expect("200 BYE");
    next.expect_and_ok("BYE");
    assert_eq!(tried(&w), ["dial:queue silent", "dial:queue answered"]);
}

/// A call whose queue refuses twice, so that the customer hears the announcement.
fn announced(limit: Duration) -> (World, Line) {
    let w = World::set(|settings| {
        rules(settings, [(Matcher::default(), &["dial:queue"])]);
        settings.call.announcement_limit = limit;
    });
    let (customer, mut genagent) = talk(&w);
    asks_for_a_person(&w, &mut genagent);
    for _ in 0..2 {
        let mut queue = w.queue.expect_invite();
        queue.respond(486);
        queue.expect("ACK");
    }
    w.run_for(ms(5));
    (w, customer)
}

#[test]
fn t16_the_customer_is_told_that_nobody_was_reached_and_then_hung_up_on() {
    let (w, mut customer) = announced(secs(30));
    assert_eq!(w.hears(&customer), Hears::Sound(Sound::Announcement));
    customer.expect_nothing_for(secs(7));
    let pair = w.stage().engine.relay.towards(customer.rtp).expect("a pair").0;
    w.stage().engine.launch(Duration::ZERO, Flight::Media(MediaEvent::Played(pair)));
    let bye = customer.expect_and_ok("BYE");
    assert_eq!((bye.header("Reason"), bye.header("X-GA-transfer")), ("Q.850;cause=17", "AGENT"));
    assert_eq!(tried(&w), ["dial:queue refused 486", "dial:queue refused 486", "bye done"]);
}

#[test]
fn t16_an_announcement_without_an_end_is_cut() {
    let (w, mut customer) = announced(secs(10));
    let began = w.now();
    assert_eq!(customer.expect_and_ok("BYE").header("Reason"), "Q.850;cause=17");
    assert!((secs(9)..=secs(10)).contains(&(w.now() - began)));
}

#[test]
fn t16_the_customer_does_not_wait_for_the_end_of_the_announcement() {
    let (w, mut customer) = announced(secs(30));
    customer.bye();
    customer.expect("200 BYE");
    assert_eq!(w.verdict().0, Outcome::Agent);
    assert_eq!(w.record().hand_back.and_then(|back| back.ended_by), Some(EndedBy::Customer));
}

#[test]
fn t16_a_ladder_has_an_end_in_time() {
    let w = World::set(|settings| {
        rules(settings, [(Matcher::default(), &["dial:queue", "dial:queue", "bye", "refuse:480"])]);
        settings.call.ladder_limit = secs(25);
    });
    let (mut customer, mut genagent) = talk(&w);
    asks_for_a_person(&w, &mut genagent);
    let began = w.now();
    for _ in 0..2 {
        let mut queue = w.queue.expect_invite();
        queue.respond(180);
        queue.expect_and_ok("CANCEL");
        queue.respond(487);
        queue.expect("ACK");
    }
    assert_eq!(customer.expect_and_ok("BYE").header("Reason"), "Q.850;cause=16", "what cannot fail is still done");
    assert!((secs(24)..secs(26)).contains(&(w.now() - began)));
}

#[test]
fn t16_an_operator_pulls_back_from_the_ringing() {
    let w = with_ladder(&["dial:queue", "dial:queue", "bye", "refuse:480"]);
    let (mut customer, mut genagent) = talk(&w);
    asks_for_a_person(&w, &mut genagent);
    let mut queue = w.queue.expect_invite();
    queue.respond(180);
    w.run_for(secs(1));
    let call = {
        let stage = w.stage();
        stage.engine.core.live_calls(stage.engine.now)[0].call
    };
    w.operator(OperatorCommand::PullBack(call));
    queue.expect_and_ok("CANCEL");
    queue.respond(487);
    queue.expect("ACK");
    customer.expect_and_ok("BYE");
    assert_eq!(tried(&w), ["dial:queue pulled back", "bye done"]);
}

#[test]
fn t6_a_failed_rung_is_followed_by_the_next_at_once() {
    let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
    let (mut customer, mut genagent) = talk(&w);
    asks_for_a_person(&w, &mut genagent);
    refuses(&w, 503);
    let mut second = w.queue.expect_invite();
    let failed = w.now();
    second.respond_with(200, text::audio("198.51.100.40", 9, "111", "sendrecv"));
    let bye = customer.expect_and_ok("BYE");
    assert!(w.now() - failed < ms(500));
    assert_eq!(bye.header("Reason"), "Q.850;cause=16", "the IVR goes on");
    second.expect("ACK");
    second.expect_and_ok("BYE");
    assert_eq!(tried(&w), ["dial:queue refused 503", "dial:queue unusable answer", "bye done"]);
}

#[test]
fn t15_a_customer_who_was_never_answered_is_sent_on_with_the_context_in_the_contact() {
    let w = with_ladder(&["redirect:queue"]);
    let mut customer = w.ivr.call().header("X-GA-extConversationId", "conv%2042").invite();
    customer.expect("180");
    w.api.expect_create().fail(FailureClass::Refused);
    let moved = customer.expect_refusal(302);
    let contact = moved.contact().to_owned();
    assert!(contact.starts_with("sip:queue@pbx.example?"), "{contact}");
    // Unescaped once, each value is what a header line of that name would hold.
    for pair in ["X-Switchback-Outcome=not_connected", "X-GA-extConId=conv%252042"] {
        assert!(contact.split(['?', '&']).any(|it| it == pair), "{pair}: {contact}");
    }
    assert!(contact.contains("X-Switchback-Context=") && !contact.contains("Reason"), "{contact}");
    assert_eq!(tried(&w), ["redirect:queue done"]);
    assert_eq!(w.counters().fallbacks[&(NotConnected::ApiRefused, "redirect")], 1);
    w.golden("t15");
}

#[test]
fn o1_a_customer_who_was_never_answered_is_put_through_to_the_queue() {
    let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(403);
    genagent.expect("ACK");
    let mut queue = w.queue.expect_invite();
    assert_eq!(queue.invite.header("X-Switchback-Outcome"), "not_connected");
    queue.respond(180);
    customer.expect_nothing_for(secs(5));
    queue.answer();
    queue.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    assert!(w.talking(&customer, &queue), "{}", w.ladder());
    queue.bye();
    queue.expect("200 BYE");
    customer.expect_and_ok("BYE");
    let record = w.record();
    assert_eq!((record.verdict.outcome, record.verdict.ended_by), (Outcome::NotConnected, EndedBy::Network));
    assert!(record.answered_at.is_some());
    assert_eq!(w.counters().fallbacks[&(NotConnected::TrunkFailed, "dial")], 1);
    w.golden("o1");
}

#[test]
fn o1_the_queue_is_heard_before_the_answer_and_the_caller_gives_up() {
    let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().fail(FailureClass::Refused);
    let mut queue = w.queue.expect_invite();
    queue.respond_with(183, queue.sdp());
    customer.expect("183");
    assert!(w.talking(&customer, &queue));
    customer.cancel();
    customer.expect("200 CANCEL");
    customer.expect_refusal(487);
    queue.expect_and_ok("CANCEL");
    queue.respond(487);
    queue.expect("ACK");
    assert_eq!(w.record().verdict.outcome, Outcome::NotConnected);
    assert_eq!(tried(&w), ["dial:queue customer hung up"]);
    assert!(w.counters().fallbacks.is_empty(), "nobody took the customer");
}

#[test]
fn o1_everybody_refuses_and_so_do_we() {
    for (ladder, status) in [(&["dial:queue", "refuse:503"][..], 503), (&["dial:queue"][..], 480)] {
        let w = with_ladder(ladder);
        let mut customer = w.ivr.invite();
        customer.expect("180");
        w.api.expect_create().fail(FailureClass::Unauthorized);
        refuses(&w, 486);
        refuses(&w, 486);
        customer.expect_refusal(status);
        assert!(w.now() < secs(1));
    }
}

#[test]
fn o1_each_class_of_failure_has_a_way_of_its_own() {
    let reason = |reason| Matcher { reason: vec![reason], ..Matcher::default() };
    let table = |settings: &mut Settings| {
        rules(
            settings,
            [
                (reason(NotConnected::ApiThrottled), &["refuse:486"]),
                (reason(NotConnected::ApiDown), &["refuse:500"]),
                (Matcher { entry: Some(Entry::Redirected), ..Matcher::default() }, &["redirect:queue"]),
            ],
        );
    };
    for (class, header, status) in [
        (FailureClass::Throttled, "X-Other", 486),
        (FailureClass::Malformed, "X-Other", 500),
        (FailureClass::Unauthorized, "X-Other", 480),
        (FailureClass::Unauthorized, "Referred-By", 302),
        (FailureClass::Unauthorized, "diversion", 302),
        (FailureClass::Unauthorized, "History-Info", 302),
    ] {
        let w = World::set(table);
        let mut customer = w.ivr.call().header(header, "<sip:ivr@pbx.example>;index=1").invite();
        customer.expect("180");
        w.api.expect_create().fail_until(class, secs(30));
        customer.expect_refusal(status);
    }
}

#[test]
fn t_a_variable_selects_a_row_of_the_table() {
    let gold =
        Matcher { variables: [("tier".to_owned(), vec![Pattern("gold*".to_owned())])].into(), ..Matcher::default() };
    for (tier, dialled) in [("golden", true), ("silver", false)] {
        let w = World::set(|settings| rules(settings, [(gold.clone(), &["dial:queue"])]));
        let (mut customer, mut genagent) = talk(&w);
        genagent.bye();
        genagent.expect("200 BYE");
        w.api.expect_fetch().answer_completed("AGENT", &[("tier", tier)]);
        if dialled {
            refuses(&w, 486);
            refuses(&w, 486);
        }
        customer.expect_and_ok("BYE");
        assert_eq!(w.count(&w.queue, "INVITE"), if dialled { 2 } else { 0 });
    }
}

#[test]
fn x_a_fallback_is_complained_about_once_and_again_after_a_quiet_minute() {
    let w = World::new();
    for pause in [Duration::ZERO, secs(1), secs(30), secs(61)] {
        w.run_for(pause);
        let mut customer = w.ivr.invite();
        customer.expect("180");
        w.api.expect_create().fail(FailureClass::Unauthorized);
        customer.expect_refusal(480);
        assert_eq!(w.counters().credentials_refused, 1, "alarm");
    }
    assert_eq!(w.complained_of("fallback: api_refused"), 2);
    assert_eq!(w.counters().fallbacks[&(NotConnected::ApiRefused, "refuse")], 4);
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().fail(FailureClass::Refused);
    customer.expect_refusal(480);
    assert_eq!(w.counters().credentials_refused, 0, "it knows us again");
}
