//! S: more than anybody should send. What is up stays up, and nothing grows without bound.

use switchback::b2bua::settings::{Network, Settings};

use crate::engine::{CORE, address, ms, secs};
use crate::happy::talk;
use crate::peer::Party;
use crate::world::World;

/// A world that also hears 198.18.0.0/16.
fn open(change: impl FnOnce(&mut Settings)) -> World {
    World::set(|settings| {
        settings.access.push(Network { address: address("198.18.0.0:1").ip(), prefix: 16 });
        change(settings);
    })
}

/// A hundred listed sources that are not the IVR.
fn crowd(w: &World) -> Vec<Party> {
    (1..=100).map(|n| w.stranger(&format!("198.18.0.{n}:5060"))).collect()
}

/// A request of nobody's dialog, different for every number.
fn request(method: &str, n: usize, call_id: &str, tag: &str) -> String {
    format!(
        "{method} sip:7000@{CORE} SIP/2.0\r\nVia: SIP/2.0/UDP 198.18.0.1;branch=z9hG4bK-flood-{n};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:x@198.18.0.1>;tag=f{n}\r\nTo: <sip:7000@{CORE}>{tag}\r\nCall-ID: {call_id}\r\nCSeq: 1 {method}\r\n\
         Contact: <sip:x@198.18.0.1>\r\nContent-Length: 0\r\n\r\n"
    )
}

/// Ten thousand messages within a second, from all of them in turn.
fn flood(w: &World, crowd: &[Party], message: impl Fn(usize) -> String) {
    for n in 0..10_000 {
        crowd[n % crowd.len()].send_raw(message(n));
        if n % 10 == 9 {
            w.run_for(ms(1));
        }
    }
}

fn answers(w: &World, crowd: &[Party], word: &str) -> usize {
    crowd.iter().map(|party| w.count(party, word)).sum()
}

#[test]
fn s6_a_flood_of_invites_touches_no_call_that_is_up() {
    let w = open(|settings| (settings.max_calls, settings.max_transactions) = (1, 500));
    let (mut customer, mut genagent) = talk(&w);
    let crowd = crowd(&w);
    flood(&w, &crowd, |n| request("INVITE", n, &format!("flood-{n}"), ""));
    w.run_for(ms(5));
    assert!(answers(&w, &crowd, "503") >= 10_000, "each is told");
    assert_eq!((w.counters().calls, w.counters().rejected["calls"]), (1, 10_000));
    assert!(w.counters().active_transactions <= 510, "{}", w.counters().active_transactions);
    assert!(w.counters().active_timers <= 2_100, "{}", w.counters().active_timers);
    assert!(w.talking(&customer, &genagent));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn s6_one_loud_source_is_dropped_unread_and_the_others_are_heard() {
    let w = open(|settings| settings.max_messages_per_source = 100);
    let loud = [w.stranger("198.18.0.1:5060")];
    flood(&w, &loud, |n| request("OPTIONS", n, &format!("flood-{n}"), ""));
    w.run_for(ms(5));
    let (heard, dropped) = (w.count(&loud[0], "200 OPTIONS"), w.counters().over_rate as usize);
    assert!((190..=210).contains(&heard) && heard + dropped == 10_000, "{heard} heard, {dropped} dropped");
    let (mut customer, mut genagent) = talk(&w);
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    w.run_for(secs(2));
    loud[0].send_raw(request("OPTIONS", 20_000, "later", ""));
    w.run_for(ms(5));
    assert_eq!(w.count(&loud[0], "200 OPTIONS"), heard + 1, "it is heard again");
}

#[test]
fn s6_one_source_may_begin_so_many_calls_a_second() {
    let w = open(|settings| settings.max_calls_per_second_per_source = 2);
    let mut taken = [w.ivr.invite(), w.ivr.invite()];
    taken.iter_mut().for_each(|line| drop(line.expect("180")));
    let refusal = w.ivr.invite().expect_refusal(503);
    assert_eq!(refusal.header("Retry-After"), "5");
    assert_eq!(w.counters().rejected["source"], 1);
    let other = w.stranger("198.18.0.1:5060");
    let mut elsewhere = other.invite();
    elsewhere.expect("180");
    w.run_for(secs(1));
    let mut later = w.ivr.invite();
    later.expect("180");
    for line in taken.iter_mut().chain([&mut elsewhere, &mut later]) {
        line.cancel();
        line.expect("200 CANCEL");
        line.expect_refusal(487);
    }
    assert_eq!(w.counters().calls, 4);
}

#[test]
fn s7_guessed_byes_and_cancels_with_a_known_call_id_are_answered_and_forgotten() {
    let w = open(|settings| settings.max_transactions = 500);
    let (mut customer, mut genagent) = talk(&w);
    let mut waiting = w.ivr.invite();
    waiting.expect("180");
    let crowd = crowd(&w);
    let known = [customer.call_id.clone(), waiting.call_id.clone(), genagent.call_id.clone()];
    flood(&w, &crowd, |n| match n % 2 {
        0 => request("BYE", n, &known[n % 3], &format!(";tag={n:024x}")),
        _ => request("CANCEL", n, &known[n % 3], ""),
    });
    w.run_for(ms(5));
    assert!(answers(&w, &crowd, "481 BYE") == 5_000 && answers(&w, &crowd, "481 CANCEL") == 5_000);
    assert!(w.counters().active_transactions <= 510, "{}", w.counters().active_transactions);
    assert_eq!(w.counters().active_calls, 2);
    assert!(w.talking(&customer, &genagent));
    waiting.cancel();
    waiting.expect("200 CANCEL");
    waiting.expect_refusal(487);
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn a_request_that_comes_again_is_refused_with_the_same_tag() {
    let tags = |seed: u64, n: usize| -> Vec<String> {
        let mut settings = crate::engine::settings();
        settings.max_transactions = 0;
        let w = World::with(settings, seed);
        let broken = request("OPTIONS", n, "again", "").replace("Max-Forwards: 70", "Max-Forwards: x");
        for request in [broken, request("INVITE", n, "again", ";tag=nobody"), request("OPTIONS", n, "again", "")] {
            w.ivr.send_raw(request.clone());
            w.ivr.send_raw(request);
        }
        w.run_for(ms(5));
        let stage = w.stage();
        stage.delivered.iter().map(|(.., sip)| format!("{} {}", sip.word(), sip.tag("To"))).collect()
    };
    let first = tags(1, 1);
    let words: Vec<&str> = first.iter().filter_map(|line| line.rsplit_once(' ')).map(|(word, _)| word).collect();
    assert_eq!(words, ["400 OPTIONS", "400 OPTIONS", "481", "481", "200 OPTIONS", "200 OPTIONS"]);
    assert_eq!((&first[0], &first[4]), (&first[1], &first[5]));
    let tag = |lines: &[String], n: usize| lines[n].rsplit_once(' ').map(|(_, tag)| tag.to_owned());
    assert_ne!(tag(&first, 0), tag(&tags(1, 2), 0), "another request, another tag");
    assert_ne!(tag(&first, 0), tag(&tags(2, 1), 0), "another core, another tag");
}
