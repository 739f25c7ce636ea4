//! M: as far as the core decides about media.

use switchback::b2bua::io::{FailureClass, Sound};
use switchback::call::verdict::{EndedBy, Outcome, Phase};

use crate::asapp::NUMBER;
use crate::engine::{Engine, QUARANTINE, address, ms, secs, settings};
use crate::happy::talk;
use crate::ladders::{asks_for_a_person, with_ladder};
use crate::peer::Line;
use crate::text;
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

#[test]
fn m12_a_late_last_word_does_not_close_the_port_of_another_call() {
    // Two pairs: the second call can only have those of the first.
    let mut settings = settings();
    settings.call.max_attempts = 1;
    let w = World::of(Engine::new(settings, 2, 1));
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
fn m5_digits_as_info_reach_the_other_side() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    let mut info = customer.request("INFO").with("Content-Type", "application/dtmf-relay");
    info.body = "Signal=5\r\nDuration=160".to_owned();
    customer.send(&info);
    customer.expect("200 INFO");
    let relayed = genagent.expect_and_ok("INFO");
    assert_eq!((relayed.header("Content-Type"), &relayed.body), ("application/dtmf-relay", &info.body));
    let options = genagent.request("OPTIONS");
    genagent.send(&options);
    genagent.expect("200 OPTIONS");
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}
