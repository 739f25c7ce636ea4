//! M: as far as the core decides about media.

use switchback::b2bua::io::{FailureClass, Sound, TransferStatus};
use switchback::b2bua::settings::Settings;
use switchback::call::rules::Matcher;
use switchback::call::verdict::{EndedBy, Outcome, Phase};

use crate::asapp::NUMBER;
use crate::engine::{Engine, QUARANTINE, address, ms, secs, settings};
use crate::happy::talk;
use crate::ladders::{asks_for_a_person, rules, taken_over, with_ladder};
use crate::peer::Line;
use crate::relay::Hears;
use crate::text;
use crate::ways::{DESK, accepting, notified};
use crate::world::World;

#[test]
fn m3_the_customer_moves_its_audio() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    let port = customer.told;
    customer.rtp = address("198.51.100.10:41234");
    customer.reinvite(customer.sdp());
    customer.expect("200");
    customer.ack();
    assert_eq!(customer.told, port, "ours never moves");
    assert!(w.talking(&customer, &genagent));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn m6_hold_suspends_the_watch_and_resume_restores_it() {
    for hold in ["sendonly", "inactive", "c=0"] {
        let w = World::new();
        let (mut customer, mut genagent) = talk(&w);
        let rtp = customer.rtp;
        let held = match hold {
            "c=0" => text::sdp("0.0.0.0", rtp.port()),
            direction => text::audio(&rtp.ip().to_string(), rtp.port(), "0 8 101", direction),
        };
        customer.reinvite(held);
        let answer = customer.expect("200");
        customer.ack();
        let mirrored = if hold == "inactive" { "a=inactive" } else { "a=recvonly" };
        assert!(hold == "c=0" || answer.body.contains(mirrored), "RFC 3264 section 6.1: {}", answer.body);
        let watch = |line| w.stage().engine.relay.towards(line).and_then(|(_, pair)| pair.watch);
        assert_eq!(watch(rtp), None, "{hold}");
        let cover = |line: &Line| w.stage().engine.relay.towards(line.rtp).and_then(|(_, pair)| pair.cover);
        assert_eq!((cover(&customer), cover(&genagent)), (None, Some(Sound::Hold)), "{hold}");
        w.silent(&genagent, true);
        w.run_for(secs(60));
        customer.reinvite(customer.sdp());
        customer.expect("200");
        customer.ack();
        assert_eq!(watch(rtp), Some(secs(30)));
        assert_eq!((cover(&customer), cover(&genagent)), (None, None), "{hold}");
        w.silent(&genagent, false);
        assert!(w.talking(&customer, &genagent));
        customer.bye();
        customer.expect("200 BYE");
        genagent.expect_and_ok("BYE");
    }
}

#[test]
fn m6_whoever_takes_over_from_a_customer_on_hold_hears_the_same() {
    let w = with_ladder(&["dial:queue"]);
    let (mut customer, mut genagent) = talk(&w);
    let rtp = customer.rtp;
    customer.reinvite(text::audio(&rtp.ip().to_string(), rtp.port(), "0 8 101", "sendonly"));
    customer.expect("200");
    customer.ack();
    asks_for_a_person(&w, &mut genagent);
    let mut queue = w.queue.expect_invite();
    queue.answer();
    queue.expect("ACK");
    w.run_for(ms(5));
    let cover = |line: &Line| w.stage().engine.relay.towards(line.rtp).and_then(|(_, pair)| pair.cover);
    assert_eq!(cover(&queue), Some(Sound::Hold));
    customer.reinvite(customer.sdp());
    customer.expect("200");
    customer.ack();
    assert_eq!(cover(&queue), None);
    assert!(w.talking(&customer, &queue));
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("BYE");
}

#[test]
fn m6_a_customer_whom_the_queue_puts_on_hold_does_not_sit_in_silence() {
    for (direction, heard) in [("inactive", Some(Sound::Hold)), ("recvonly", Some(Sound::Hold)), ("sendonly", None)] {
        let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
        let (mut customer, mut queue) = taken_over(&w);
        let cover = |line: &Line| w.stage().engine.relay.towards(line.rtp).and_then(|(_, pair)| pair.cover);
        queue.reinvite(text::audio("198.51.100.40", queue.rtp.port(), "0 8 101", direction));
        queue.expect("200");
        queue.ack();
        assert_eq!((cover(&customer), cover(&queue)), (heard, None), "{direction}");
        queue.reinvite(queue.sdp());
        queue.expect("200");
        queue.ack();
        assert_eq!(cover(&customer), None, "{direction}");
        assert!(w.talking(&customer, &queue), "{}", w.ladder());
        customer.bye();
        customer.expect("200 BYE");
        queue.expect_and_ok("BYE");
    }
}

#[test]
fn m6_what_the_customer_waits_with_is_not_covered() {
    let w = with_ladder(&["dial:queue", "bye", "refuse:480"]);
    let (mut customer, mut genagent) = talk(&w);
    let cover = |line: &Line| w.stage().engine.relay.towards(line.rtp).and_then(|(_, pair)| pair.cover);
    genagent.reinvite(text::audio("203.0.113.20", genagent.rtp.port(), "0 8 101", "inactive"));
    genagent.expect("200");
    genagent.ack();
    assert_eq!(cover(&customer), Some(Sound::Hold));
    asks_for_a_person(&w, &mut genagent);
    let mut queue = w.queue.expect_invite();
    assert_eq!((w.hears(&customer), cover(&customer)), (Hears::Sound(Sound::Onward), None), "{}", w.ladder());
    queue.answer();
    queue.expect("ACK");
    w.run_for(ms(5));
    assert_eq!(cover(&customer), None);
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("BYE");
}

#[test]
fn m7_one_silent_side_is_no_reason_to_end_and_two_are() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    w.silent(&customer, true);
    w.run_for(secs(60));
    w.silent(&customer, false);
    w.silent(&genagent, true);
    customer.expect_nothing_for(secs(60));
    w.silent(&customer, true);
    genagent.expect_and_ok("BYE");
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict(), (Outcome::GenagentLost, EndedBy::Network, Phase::Talking));
}

#[test]
fn m7_who_refreshes_its_session_while_silent_and_speaks_again_is_not_dead() {
    for method in ["INVITE", "UPDATE"] {
        for silent_is_customer in [false, true] {
            let w = World::new();
            let (mut customer, mut genagent) = talk(&w);
            let (silent, other) =
                if silent_is_customer { (&mut customer, &genagent) } else { (&mut genagent, &customer) };
            w.silent(silent, true);
            silent.offer(method, silent.sdp());
            if method == "INVITE" {
                silent.expect("200");
                silent.ack();
            } else {
                silent.expect("200 UPDATE");
            }
            w.silent(silent, false);
            w.silent(other, true);
            w.run_for(secs(60));
            assert!(w.talking(&customer, &genagent), "{method}: one of them speaks");
            customer.bye();
            customer.expect("200 BYE");
            genagent.expect_and_ok("BYE");
        }
    }
}

#[test]
fn m7_who_was_silent_towards_one_and_speaks_to_the_next_is_not_dead() {
    let w = with_ladder(&["dial:queue"]);
    let (mut customer, mut genagent) = talk(&w);
    w.silent(&customer, true);
    asks_for_a_person(&w, &mut genagent);
    let mut queue = w.queue.expect_invite();
    queue.answer();
    queue.expect("ACK");
    w.run_for(ms(5));
    w.silent(&customer, false);
    w.silent(&queue, true);
    w.run_for(secs(60));
    assert!(w.talking(&customer, &queue), "the customer speaks");
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("BYE");
}

#[test]
fn m10_no_ports_is_503_and_running_calls_go_on() {
    let w = World::of(Engine::new(settings(), 3, 1));
    let (mut customer, mut genagent) = talk(&w);
    let mut refused = w.ivr.invite();
    let refusal = refused.expect_refusal(503);
    assert!(refusal.has("Retry-After"));
    assert_eq!(w.counters().rejected["ports"], 1);
    assert!(w.talking(&customer, &genagent));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    w.run_for(QUARANTINE / 2);
    w.ivr.invite().expect_refusal(503);
    w.run_for(QUARANTINE);
    let mut again = w.ivr.invite();
    again.expect("180");
    w.api.expect_create().fail(FailureClass::Refused);
    again.expect_refusal(480);
}

/// Three pairs are one call's: nobody else's are there to be had.
fn full(change: impl FnOnce(&mut Settings)) -> World {
    let mut settings = settings();
    rules(&mut settings, [(Matcher::default(), &["dial:queue", "refuse:480"])]);
    change(&mut settings);
    World::of(Engine::new(settings, 3, 1))
}

/// The first URI of the queue is busy, the second takes the customer.
fn the_next_one_takes_over(w: &World, customer: &mut Line) {
    let mut busy = w.queue.expect_invite();
    busy.respond(486);
    busy.expect("ACK");
    let mut queue = w.queue.expect_invite();
    queue.answer();
    queue.expect("ACK");
    w.run_for(ms(5));
    assert!(w.talking(customer, &queue), "{}", w.ladder());
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("BYE");
}

#[test]
fn m10_at_full_load_the_way_back_does_not_want_for_a_port() {
    let w = full(|_| {});
    let (mut customer, mut genagent) = talk(&w);
    asks_for_a_person(&w, &mut genagent);
    the_next_one_takes_over(&w, &mut customer);
}

#[test]
fn m10_at_full_load_a_conversation_that_cannot_be_resumed_leaves_the_way_back() {
    let w = full(|settings| (settings.call.resume_attempts, settings.call.max_attempts) = (1, 1));
    let (mut customer, mut genagent) = talk(&w);
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_status(TransferStatus::Expired);
    w.api.expect_create().answer_number(NUMBER, secs(60));
    the_next_one_takes_over(&w, &mut customer);
    assert_eq!(w.record().verdict.outcome, Outcome::Unconfirmed);
}

#[test]
fn m10_at_full_load_whom_a_refer_names_is_not_called() {
    let w = full(accepting);
    let (mut customer, mut genagent) = talk(&w);
    let refer = customer.request("REFER").with("Refer-To", format!("<sip:desk@{DESK}>"));
    customer.send(&refer);
    customer.expect("202 REFER");
    notified(&mut customer, "100", "active");
    notified(&mut customer, "408", "terminated");
    assert!(w.talking(&customer, &genagent), "{}", w.ladder());
    asks_for_a_person(&w, &mut genagent);
    the_next_one_takes_over(&w, &mut customer);
}

#[test]
fn m12_a_late_last_word_does_not_close_the_port_of_another_call() {
    // Three pairs: the second call can only have those of the first.
    let mut settings = settings();
    settings.call.max_attempts = 1;
    let w = World::of(Engine::new(settings, 3, 1));
    let mut first = w.ivr.invite();
    first.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut late = w.carrier.expect_invite();
    late.respond(180);
    // It rings too long and does not answer our CANCEL for a while; the call itself is over.
    let cancel = late.expect("CANCEL");
    first.expect_refusal(480);
    w.run_for(QUARANTINE + secs(1));
    let (mut customer, mut genagent) = talk_again(&w);
    late.reply(&cancel, 200);
    late.respond(487);
    late.expect("ACK");
    w.run_for(secs(1));
    assert!(w.talking(&customer, &genagent), "{}", w.ladder());
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

fn talk_again(w: &World) -> (Line, Line) {
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number("+19995550111", secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    assert!(w.talking(&customer, &genagent), "{}", w.ladder());
    (customer, genagent)
}

#[test]
fn m3_the_carrier_moves_its_audio() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    let port = genagent.told;
    genagent.rtp = address("203.0.113.99:41234");
    genagent.reinvite(genagent.sdp());
    genagent.expect("200");
    genagent.ack();
    assert_eq!(genagent.told, port, "ours never moves");
    assert!(w.talking(&customer, &genagent));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn m5_keys_told_by_info_are_heard_as_telephone_events_and_any_other_info_passes_as_it_is() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    let pressed = |w: &World, line: &Line| w.stage().engine.relay.towards(line.rtp).map(|(_, it)| it.pressed.clone());
    for (content_type, body) in [("application/dtmf-relay", "Signal=5\r\nDuration=160"), ("application/dtmf", "#")] {
        let mut info = customer.request("INFO").with("Content-Type", content_type);
        info.body = body.to_owned();
        customer.send(&info);
        customer.expect("200 INFO");
    }
    genagent.expect_nothing_for(secs(1));
    assert_eq!(pressed(&w, &genagent).as_deref(), Some("5#"));
    let mut info = customer.request("INFO").with("Content-Type", "application/vnd.pbx");
    info.body = "hello".to_owned();
    customer.send(&info);
    customer.expect("200 INFO");
    let relayed = genagent.expect_and_ok("INFO");
    assert_eq!((relayed.header("Content-Type"), &relayed.body), ("application/vnd.pbx", &info.body));
    assert_eq!(pressed(&w, &genagent).as_deref(), Some("5#"));
    let options = genagent.request("OPTIONS");
    genagent.send(&options);
    genagent.expect("200 OPTIONS");
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}
