//! H16 and H17: session timers (RFC 4028), refreshed by either side, refused, crossed and lost.

use std::time::Duration;

use switchback::call::verdict::{EndedBy, Outcome, Phase};

use crate::asapp::NUMBER;
use crate::engine::{CARRIER, Lane, address, ms, secs};
use crate::peer::Line;
use crate::provisional::{dialled, hang_up};
use crate::text::Sip;
use crate::world::World;

const UPDATES: &str = "INVITE, ACK, BYE, CANCEL, UPDATE";
const PLAIN: &str = "INVITE, ACK, BYE, CANCEL";

/// What one side says of session timers.
#[derive(Clone, Copy)]
struct Wish {
    allow: &'static str,
    /// Session-Expires of its INVITE or its 200.
    expires: Option<&'static str>,
}

const NONE: Wish = Wish { allow: PLAIN, expires: None };

/// Both talk, with these wishes.
fn talk(w: &World, customer: Wish, genagent: Wish) -> (Line, Line, Sip) {
    let mut call = w.ivr.call().header("Allow", customer.allow);
    if let Some(expires) = customer.expires {
        call = call.header("Supported", "timer").header("Session-Expires", expires);
    }
    let mut line = call.invite();
    line.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut callee = w.carrier.expect_invite();
    assert!(callee.invite.header("Supported").contains("timer"));
    let mut answer = callee.response(&callee.invite, 200).with("Allow", genagent.allow).with_sdp(callee.sdp());
    if let Some(expires) = genagent.expires {
        answer = answer.with("Session-Expires", expires);
    }
    callee.send(&answer);
    callee.expect("ACK");
    let answer = line.expect("200");
    line.ack();
    w.run_for(ms(5));
    assert!(w.talking(&line, &callee));
    (line, callee, answer)
}

/// Answers a refresh of ours as it should be.
fn refreshed(line: &mut Line, refresh: &Sip, expires: &str) {
    let mut answer = line.response(refresh, 200).with("Session-Expires", expires);
    if refresh.is("INVITE") {
        answer = answer.with_sdp(line.sdp());
    }
    line.send(&answer);
    if refresh.is("INVITE") {
        assert_eq!(line.expect("ACK").cseq(), refresh.cseq());
    }
}

#[test]
fn h16_we_refresh_the_customer_by_update() {
    let w = World::new();
    let wish = Wish { allow: UPDATES, expires: Some("90;refresher=uas") };
    let (mut customer, mut genagent, answer) = talk(&w, wish, NONE);
    assert_eq!(answer.header("Session-Expires"), "90;refresher=uas");
    let mut last = w.now();
    for _ in 0..7 {
        let update = customer.expect("UPDATE");
        assert!((ms(44_900)..ms(45_100)).contains(&(w.now() - last)), "half of the interval: {:?}", w.now() - last);
        last = w.now();
        assert_eq!(update.header("Session-Expires"), "90;refresher=uac");
        assert!(update.header("Supported").contains("timer") && update.has("Contact") && update.body.is_empty());
        refreshed(&mut customer, &update, "90;refresher=uac");
    }
    assert!(w.now() > secs(300) && w.talking(&customer, &genagent));
    assert_eq!(w.count(&w.carrier, "UPDATE") + w.count(&w.carrier, "INVITE"), 1, "the other leg has a life of its own");
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn h16_we_refresh_the_customer_by_reinvite() {
    let w = World::new();
    let wish = Wish { allow: PLAIN, expires: Some("90;refresher=uas") };
    let (mut customer, mut genagent, answer) = talk(&w, wish, NONE);
    for _ in 0..3 {
        let invite = customer.expect("INVITE");
        assert_eq!(invite.body, answer.body, "nothing changes, the version neither (RFC 3264 section 8)");
        assert_eq!(invite.header("Session-Expires"), "90;refresher=uac");
        refreshed(&mut customer, &invite, "90;refresher=uac");
    }
    assert!(w.talking(&customer, &genagent));
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn h16_a_proxy_wants_a_timer_that_the_customer_does_not_know() {
    let w = World::new();
    let mut customer = w.ivr.call().header("Session-Expires", "90").invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    let answer = customer.expect("200");
    assert_eq!(
        (answer.header("Session-Expires"), answer.has("Require")),
        ("90;refresher=uas", false),
        "RFC 4028 table 2"
    );
    customer.ack();
    let invite = customer.expect("INVITE");
    refreshed(&mut customer, &invite, "90;refresher=uac");
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn h16_the_customer_refreshes_until_it_does_not() {
    for method in ["UPDATE", "INVITE"] {
        let w = World::new();
        let wish = Wish { allow: UPDATES, expires: Some("90;refresher=uac") };
        let (mut customer, mut genagent, answer) = talk(&w, wish, NONE);
        assert_eq!((answer.header("Session-Expires"), answer.header("Require")), ("90;refresher=uac", "timer"));
        for _ in 0..4 {
            w.run_for(secs(45));
            let refresh = customer.request(method).with("Contact", format!("<sip:ivr@{}>", w.ivr.address));
            let refresh = refresh.with("Supported", "timer").with("Session-Expires", "90;refresher=uac");
            let refresh = if method == "INVITE" { refresh.with_sdp(customer.sdp()) } else { refresh };
            customer.send(&refresh);
            let answer = customer.expect(if method == "INVITE" { "200" } else { "200 UPDATE" });
            assert_eq!(answer.header("Session-Expires"), "90;refresher=uac");
            if method == "INVITE" {
                customer.invite = refresh;
                customer.ack();
            }
        }
        let last = w.now();
        customer.expect_and_ok("BYE");
        let waited = w.now() - last;
        assert!((secs(59)..secs(61)).contains(&waited), "a third before the end (RFC 4028 section 10): {waited:?}");
        genagent.expect_and_ok("BYE");
        assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Network, Phase::Talking));
    }
}

#[test]
fn h16_both_legs_are_refreshed_at_once() {
    let w = World::new();
    let (c, g) = ("90;refresher=uas", "100;refresher=uac");
    let wish = |expires| Wish { allow: UPDATES, expires: Some(expires) };
    let (mut customer, mut genagent, _) = talk(&w, wish(c), wish(g));
    let mut counted = [0, 0];
    for _ in 0..600 {
        w.run_for(ms(500));
        for (n, line) in [&mut customer, &mut genagent].into_iter().enumerate() {
            if let Some(update) = line.heard() {
                assert!(update.is("UPDATE"), "{}", update.word());
                refreshed(line, &update, if n == 0 { "90;refresher=uac" } else { "100;refresher=uac" });
                counted[n] += 1;
            }
        }
    }
    assert_eq!(counted, [6, 5], "300 s at 45 s and at 50 s");
    assert!(w.talking(&customer, &genagent));
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn h16_the_carrier_refreshes() {
    let w = World::new();
    let wish = Wish { allow: UPDATES, expires: Some("90;refresher=uas") };
    let (mut customer, mut genagent, _) = talk(&w, NONE, wish);
    w.run_for(secs(45));
    let refresh = genagent.request("UPDATE").with("Contact", format!("<sip:gw@{CARRIER}>"));
    genagent.send(&refresh.with("Supported", "timer").with("Session-Expires", "90;refresher=uac"));
    assert_eq!(genagent.expect("200 UPDATE").header("Session-Expires"), "90;refresher=uac");
    genagent.expect_and_ok("BYE");
    assert!((secs(104)..secs(106)).contains(&w.now()), "{:?}", w.now());
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict(), (Outcome::GenagentLost, EndedBy::Network, Phase::Talking));
}

#[test]
fn h16_the_carrier_wants_a_longer_interval() {
    let w = World::new();
    let (mut customer, mut genagent) = dialled(&w);
    let first = genagent.invite.clone();
    assert_eq!(first.header("Session-Expires"), "1800");
    genagent.send(&genagent.response(&first, 422).with("Min-SE", "3600"));
    genagent.expect("ACK");
    let again = genagent.expect_invite_again();
    assert_eq!((again.header("Session-Expires"), again.header("Min-SE")), ("3600", "3600"), "RFC 4028 section 7.3");
    assert_eq!((again.call_id(), again.cseq(), again.tag("To")), (first.call_id(), first.cseq() + 1, ""));
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    assert_eq!(w.api.asked(), 1, "the same number");
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn h16_a_422_that_makes_no_sense_is_a_refusal() {
    for least in ["90", "1800", "4294967295", "soon"] {
        let w = World::new();
        let (mut customer, mut genagent) = dialled(&w);
        genagent.send(&genagent.response(&genagent.invite, 422).with("Min-SE", least));
        genagent.expect("ACK");
        w.api.expect_create().fail(switchback::b2bua::io::FailureClass::Refused);
        customer.expect_refusal(480);
        assert_eq!(w.count(&w.carrier, "INVITE"), 1, "{least}");
    }
}

#[test]
fn h16_the_customer_wants_too_short_an_interval() {
    let w = World::new();
    let short = || w.ivr.call().header("Supported", "timer").header("Session-Expires", "30");
    let refusal = short().invite().expect_refusal(422);
    assert_eq!(refusal.header("Min-SE"), "90");
    assert_eq!((w.api.asked(), w.counters().calls), (0, 0));
    let wish = Wish { allow: UPDATES, expires: Some("90;refresher=uac") };
    let (mut customer, mut genagent, _) = talk(&w, wish, NONE);
    for method in ["UPDATE", "INVITE"] {
        let refresh = customer.request(method).with("Contact", format!("<sip:ivr@{}>", w.ivr.address));
        let refresh = refresh.with("Supported", "timer").with("Session-Expires", "60");
        customer.send(&refresh);
        customer.invite = refresh;
        let word = if method == "INVITE" { "422" } else { "422 UPDATE" };
        let refusal = if method == "INVITE" { customer.expect_refusal(422) } else { customer.expect(word) };
        assert_eq!(refusal.header("Min-SE"), "90");
    }
    assert!(w.talking(&customer, &genagent));
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn h16_the_far_side_knows_the_dialog_no_more() {
    for (status, method) in [(481, UPDATES), (408, UPDATES), (481, PLAIN), (408, PLAIN)] {
        let w = World::new();
        let (mut customer, mut genagent, _) = talk(&w, NONE, Wish { allow: method, expires: Some("90;refresher=uac") });
        let refresh = genagent.heard_within(&w, secs(46));
        genagent.reply(&refresh, status);
        if refresh.is("INVITE") {
            genagent.expect("ACK");
        }
        genagent.expect_and_ok("BYE");
        customer.expect_and_ok("BYE");
        assert!(w.now() < secs(46), "at once");
        assert_eq!(w.verdict(), (Outcome::GenagentLost, EndedBy::Network, Phase::Talking));

        let w = World::new();
        let (mut customer, mut genagent, _) = talk(&w, Wish { allow: method, expires: Some("90;refresher=uas") }, NONE);
        let refresh = customer.heard_within(&w, secs(46));
        customer.reply(&refresh, status);
        if refresh.is("INVITE") {
            customer.expect("ACK");
        }
        customer.expect_and_ok("BYE");
        genagent.expect_and_ok("BYE");
        assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Network, Phase::Talking));
    }
}

#[test]
fn h16_a_refused_refresh_is_tried_again_until_the_interval_ends() {
    for (method, status, recovers) in
        [(UPDATES, 500, true), (UPDATES, 503, false), (PLAIN, 488, true), (PLAIN, 500, false), (PLAIN, 404, false)]
    {
        let w = World::new();
        let (mut customer, mut genagent, _) = talk(&w, NONE, Wish { allow: method, expires: Some("90;refresher=uac") });
        let mut refused = 0;
        let ended = loop {
            let refresh = genagent.heard_within(&w, secs(30) * 2);
            match () {
                () if refresh.is("BYE") => break Some(refresh),
                () if refresh.is("ACK") => {}
                () if recovers && refused == 1 => {
                    refreshed(&mut genagent, &refresh, "90;refresher=uac");
                    break None;
                }
                () => {
                    genagent.reply(&refresh, status);
                    refused += 1;
                }
            }
        };
        match ended {
            Some(bye) => {
                assert!((secs(60)..ms(60_200)).contains(&w.now()), "{:?}", w.now());
                assert!(refused > 1, "tried again");
                genagent.reply(&bye, 200);
                customer.expect_and_ok("BYE");
                assert_eq!(w.verdict(), (Outcome::GenagentLost, EndedBy::Network, Phase::Talking));
            }
            None => {
                w.run_for(secs(20));
                assert!(w.talking(&customer, &genagent));
                hang_up(&mut customer, &mut genagent);
            }
        }
    }
}

#[test]
fn h16_who_agreed_to_no_timer_is_not_hurt_by_our_refreshes() {
    for status in [488, 405, 500, 501, 503, 403, 415] {
        let w = World::set(|settings| settings.session.expires = 90);
        let (mut customer, mut genagent, _) = talk(&w, NONE, NONE);
        for _ in 0..6 {
            let refresh = genagent.heard_within(&w, secs(46));
            assert!(refresh.is("INVITE"));
            genagent.reply(&refresh, status);
            genagent.expect("ACK");
        }
        assert!(w.now() > secs(260) && w.talking(&customer, &genagent), "{status} means that it is there");
        let refresh = genagent.heard_within(&w, secs(46));
        genagent.reply(&refresh, 481);
        genagent.expect("ACK");
        genagent.expect_and_ok("BYE");
        customer.expect_and_ok("BYE");
        assert_eq!(w.verdict().0, Outcome::GenagentLost);
    }
}

#[test]
fn h16_update_is_refused_and_reinvite_is_not() {
    for status in [405, 501] {
        let w = World::new();
        let (mut customer, mut genagent, _) =
            talk(&w, NONE, Wish { allow: UPDATES, expires: Some("90;refresher=uac") });
        let update = genagent.expect("UPDATE");
        genagent.reply(&update, status);
        let invite = genagent.expect("INVITE");
        refreshed(&mut genagent, &invite, "90;refresher=uac");
        let next = genagent.expect("INVITE");
        refreshed(&mut genagent, &next, "90;refresher=uac");
        hang_up(&mut customer, &mut genagent);
    }
}

#[test]
fn h16_a_refresh_too_short_for_somebody_on_the_way() {
    let w = World::new();
    let (mut customer, mut genagent, _) = talk(&w, NONE, Wish { allow: UPDATES, expires: Some("90;refresher=uac") });
    let update = genagent.expect("UPDATE");
    genagent.send(&genagent.response(&update, 422).with("Min-SE", "120"));
    let again = genagent.expect("UPDATE");
    assert_eq!(again.header("Session-Expires"), "120;refresher=uac");
    refreshed(&mut genagent, &again, "120;refresher=uac");
    let before = w.now();
    let next = genagent.expect("UPDATE");
    assert!((ms(59_900)..ms(60_100)).contains(&(w.now() - before)));
    refreshed(&mut genagent, &next, "120;refresher=uac");
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn h16_an_absurd_interval_is_no_storm_and_no_end() {
    for expires in ["0;refresher=uac", "1;refresher=uac", "2"] {
        let w = World::new();
        let (mut customer, mut genagent, _) = talk(&w, NONE, Wish { allow: UPDATES, expires: Some(expires) });
        genagent.expect_nothing_for(secs(40));
        assert!(w.talking(&customer, &genagent));
        hang_up(&mut customer, &mut genagent);
    }
}

/// Six hours, both legs refreshed by us; `ending` is what the carrier does to the last refresh.
fn six_hours(ending: Option<u16>) {
    let w = World::set(|settings| settings.call.max_duration = secs(8 * 3600));
    let wish = |allow, expires| Wish { allow, expires: Some(expires) };
    let (mut customer, mut genagent, _) =
        talk(&w, wish(PLAIN, "1800;refresher=uas"), wish(UPDATES, "1800;refresher=uac"));
    let (mut asked, mut crossed, mut lossy) = ([0, 0], 0, 0);
    let clean = Lane::clean(ms(10));
    while w.now() < secs(6 * 3600) {
        // Around every fifth refresh the way to the carrier is dead for seven seconds.
        let blocked = w.now().as_secs() % 4500 >= 4498 || (w.now().as_secs() > 4500 && w.now().as_secs() % 4500 < 5);
        lossy += usize::from(blocked);
        let lane = if blocked { Lane { loss: 100, ..clean } } else { clean };
        w.stage().engine.lanes.insert(address(CARRIER), lane);
        w.run_for(secs(1));
        while let Some(refresh) = genagent.heard() {
            asked[1] += 1;
            match asked[1] % 4 {
                2 => {
                    genagent.reply(&refresh, 491);
                    crossed += 1;
                }
                _ => refreshed(&mut genagent, &refresh, "1800;refresher=uac"),
            }
        }
        while let Some(refresh) = customer.heard() {
            asked[0] += 1;
            refreshed(&mut customer, &refresh, "1800;refresher=uac");
        }
    }
    assert!(w.talking(&customer, &genagent));
    assert!(asked[0] >= 23 && asked[1] >= 23 && crossed > 4 && lossy > 20, "{asked:?} {crossed} {lossy}");
    let updates = w.counters().retransmissions;
    assert!(updates > 0, "some were lost");
    w.stage().engine.lanes.insert(address(CARRIER), clean);
    match ending {
        Some(status) => {
            let refresh = genagent.heard_within(&w, secs(1000));
            genagent.reply(&refresh, status);
            genagent.expect_and_ok("BYE");
        }
        None => {
            // It is gone: nothing is answered any more, not even our BYE.
            genagent.heard_within(&w, secs(1000));
            w.run_for(secs(31));
            assert!(w.talking(&customer, &genagent));
            genagent.expect("BYE");
        }
    }
    let bye = loop {
        let heard = customer.heard_within(&w, secs(1));
        match heard.is("INVITE") {
            true => refreshed(&mut customer, &heard, "1800;refresher=uac"),
            false => break heard,
        }
    };
    assert!(bye.is("BYE"), "{}", bye.word());
    customer.reply(&bye, 200);
    customer.expect_nothing_for(secs(60));
    assert!(genagent.answer_all().is_empty(), "nothing more is said to who is gone");
    assert_eq!(w.verdict(), (Outcome::GenagentLost, EndedBy::Network, Phase::Talking));
}

#[test]
fn h17_six_hours_and_a_408() {
    six_hours(Some(408));
}

#[test]
fn h17_six_hours_and_silence() {
    six_hours(None);
}

impl Line {
    /// The next message, whatever it is.
    fn heard_within(&mut self, w: &World, time: Duration) -> Sip {
        let until = w.now() + time;
        while w.now() < until {
            if let Some(sip) = self.heard() {
                return sip;
            }
            w.run_for(ms(100));
        }
        panic!("nothing came to {}\n{}", self.call_id, w.ladder())
    }
}
