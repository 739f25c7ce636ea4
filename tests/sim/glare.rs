//! R9 to R18: two sides that want something of one session at once, and messages that come too late for it.

use std::time::Duration;

use switchback::call::verdict::{EndedBy, Outcome, Phase};

use crate::asapp::NUMBER;
use crate::engine::{address, ms, secs, settings};
use crate::peer::Line;
use crate::provisional::hang_up;
use crate::relay::Hears;
use crate::text;
use crate::world::World;

/// Both talk; we refresh the customer, or the carrier, by re-INVITE every 45 s.
fn refreshing(w: &World, customers: bool) -> (Line, Line) {
    let mut call = w.ivr.call();
    if customers {
        call = call.header("Supported", "timer").header("Session-Expires", "90;refresher=uas");
    }
    let mut customer = call.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    let mut answer = genagent.response(&genagent.invite, 200).with_sdp(genagent.sdp());
    if !customers {
        answer = answer.with("Session-Expires", "90;refresher=uac");
    }
    genagent.send(&answer);
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    (customer, genagent)
}

/// Their re-INVITE crosses ours; both are refused. The time until ours comes again.
fn crossed(w: &World, line: &mut Line) -> Duration {
    let ours = line.expect("INVITE");
    line.reinvite(line.sdp());
    line.reply(&ours, 491);
    let refused = w.now();
    let words = [line.expect_any(), line.expect_any()].map(|sip| {
        if sip.word() == "491" {
            let mut ack = line.hop_by_hop("ACK");
            ack.headers
                .iter_mut()
                .filter(|(name, _)| name == "To")
                .for_each(|(_, to)| *to = sip.header("To").to_owned());
            line.send(&ack);
        }
        sip.word()
    });
    assert!(words.contains(&"491".to_owned()) && words.contains(&"ACK".to_owned()), "{words:?}");
    let again = line.expect("INVITE");
    let waited = w.now() - refused;
    line.send(&line.response(&again, 200).with("Session-Expires", "90;refresher=uac").with_sdp(line.sdp()));
    assert_eq!(line.expect("ACK").cseq(), again.cseq());
    waited
}

#[test]
fn r9_crossing_reinvites_keep_to_their_bands() {
    let mut waits = [Vec::new(), Vec::new()];
    for seed in 0..40 {
        for customers in [true, false] {
            let w = World::with(settings(), seed);
            let (mut customer, mut genagent) = refreshing(&w, customers);
            let line = if customers { &mut customer } else { &mut genagent };
            waits[usize::from(customers)].push(crossed(&w, line));
            line.reinvite(line.sdp());
            line.expect("200");
            line.ack();
            w.run_for(ms(50));
            assert!(w.talking(&customer, &genagent), "both got what they wanted");
            hang_up(&mut customer, &mut genagent);
        }
    }
    // Two ways of at most ten milliseconds each come on top (RFC 3261 section 14.1).
    let [owned, foreign] = waits;
    assert!(owned.iter().all(|wait| (ms(2100)..=ms(4021)).contains(wait)), "the Call-ID is ours: {owned:?}");
    assert!(foreign.iter().all(|wait| *wait <= ms(2003)), "the Call-ID is theirs: {foreign:?}");
    assert!(owned.iter().max() > Some(&ms(3300)) && owned.iter().min() < Some(&ms(2800)), "spread: {owned:?}");
    assert!(foreign.iter().max() > Some(&ms(1300)) && foreign.iter().min() < Some(&ms(700)), "spread: {foreign:?}");
}

#[test]
fn r9_an_update_with_an_offer_crosses_our_reinvite() {
    let w = World::new();
    let (mut customer, mut genagent) = refreshing(&w, true);
    let ours = customer.expect("INVITE");
    customer.offer("UPDATE", customer.sdp());
    customer.expect("491 UPDATE");
    customer.send(&customer.response(&ours, 200).with("Session-Expires", "90;refresher=uac").with_sdp(customer.sdp()));
    customer.expect("ACK");
    customer.offer("UPDATE", customer.sdp());
    customer.expect("200 UPDATE");
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn r10_a_reinvite_while_the_customer_hears_music() {
    let w = World::new();
    let (mut customer, mut genagent) = crate::happy::talk(&w);
    genagent.bye();
    genagent.expect("200 BYE");
    let get = w.api.expect_fetch();
    customer.rtp = address("198.51.100.10:41000");
    customer.reinvite(customer.sdp());
    let answer = customer.expect("200");
    customer.ack();
    assert!(answer.audio_port().is_some());
    assert!(matches!(w.hears(&customer), Hears::Sound(_)), "the music follows");
    get.answer_completed("AGENT", &[]);
    assert_eq!(customer.expect_and_ok("BYE").header("X-GA-transfer"), "AGENT");
}

/// The customer moves while its broken conversation is reconnected: as a number is asked for, as it rings, and in the
/// tick of the answer.
#[test]
fn r10_a_reinvite_while_a_broken_conversation_is_resumed() {
    for moment in 0..4 {
        let w = World::set(|settings| settings.call.resume_attempts = 1);
        let (mut customer, mut lost) = crate::happy::talk(&w);
        let port = customer.told;
        w.silent(&customer, true);
        w.silent(&lost, true);
        lost.expect_and_ok("BYE");
        let post = w.api.expect_create();
        let moves = |customer: &mut Line| {
            customer.rtp = address("198.51.100.10:41000");
            customer.reinvite(customer.sdp());
        };
        if moment == 0 {
            moves(&mut customer);
        }
        post.answer_number("+19995550177", secs(60));
        let mut genagent = w.carrier.expect_invite();
        genagent.respond(180);
        if moment == 1 {
            moves(&mut customer);
            w.run_for(secs(1));
        }
        if moment == 2 {
            moves(&mut customer); // It takes 1 ms, the answer 10.
        }
        genagent.answer();
        if moment == 3 {
            w.run_for(ms(9)); // Both arrive at once.
            moves(&mut customer);
        }
        genagent.expect("ACK");
        customer.expect("200");
        customer.ack();
        w.run_for(ms(20));
        assert_eq!(customer.told, port, "our port never moves");
        assert!(w.talking(&customer, &genagent), "{moment}\n{}", w.ladder());
        hang_up(&mut customer, &mut genagent);
        assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::Talking));
    }
}

#[test]
fn r11_genagent_hangs_up_during_the_customers_hold() {
    let w = World::new();
    let (mut customer, mut genagent) = crate::happy::talk(&w);
    customer.reinvite(text::audio("198.51.100.10", customer.rtp.port(), "0 8 101", "sendonly"));
    assert!(customer.expect("200").body.contains("a=recvonly"));
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    customer.expect_nothing_for(ms(400));
    customer.ack();
    let bye = customer.expect_and_ok("BYE");
    assert_eq!(bye.header("X-GA-transfer"), "AGENT");
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
}

#[test]
fn r13_a_late_200_to_our_reinvite_after_the_bye() {
    for answered in [true, false] {
        let w = World::new();
        let (mut customer, mut genagent) = refreshing(&w, false);
        let ours = genagent.expect("INVITE");
        genagent.reply(&ours, 100);
        customer.bye();
        customer.expect("200 BYE");
        let bye = genagent.expect("BYE");
        if answered {
            genagent.reply(&bye, 200);
            w.run_for(secs(1));
        }
        genagent.send(&genagent.response(&ours, 200).with_sdp(text::sdp("203.0.113.99", 9000)));
        assert_eq!(genagent.expect("ACK").cseq(), ours.cseq());
        if !answered {
            genagent.reply(&bye, 200);
        }
        genagent.expect_nothing_for(secs(60));
        assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::Talking));
    }
}

#[test]
fn r13_a_far_bye_ends_our_reinvite() {
    for late in [487, 200] {
        let w = World::new();
        let (mut customer, mut genagent) = refreshing(&w, true);
        let ours = customer.expect("INVITE");
        customer.bye();
        customer.expect("200 BYE");
        genagent.expect_and_ok("BYE");
        customer.send(&customer.response(&ours, late).with_sdp(text::sdp("198.51.100.99", 9000)));
        assert_eq!(customer.expect("ACK").cseq(), ours.cseq());
        customer.expect_nothing_for(secs(60));
    }
}

#[test]
fn r16_the_customer_hangs_up_as_we_refresh() {
    let w = World::new();
    let (mut customer, mut genagent) = refreshing(&w, true);
    let due = w.times(&w.ivr, "200")[0] - ms(1) + secs(45);
    w.run_for(due - Duration::from_micros(500) - w.now());
    customer.bye();
    // It has crossed our re-INVITE, which meets nobody any more.
    let mut words = Vec::new();
    for _ in 0..3 {
        let sip = customer.expect_any();
        if sip.is("INVITE") {
            customer.reply(&sip, 481);
        }
        words.push(sip.word());
    }
    genagent.expect_and_ok("BYE");
    assert_eq!(words, ["INVITE", "200 BYE", "ACK"]);
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::Talking));
}

#[test]
fn r18_the_carriers_bye_before_our_ack_reached_it() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.bye();
    genagent.expect("ACK");
    genagent.expect("200 BYE");
    customer.expect("200");
    customer.ack();
    w.api.expect_fetch().answer_completed("SYSTEM", &[]);
    customer.expect_and_ok("BYE");
    assert_eq!(w.verdict().0, Outcome::System);
}

#[test]
fn r18_a_request_of_the_past_is_out_of_order() {
    let w = World::new();
    let (mut customer, mut genagent) = crate::happy::talk(&w);
    let early = customer.request("UPDATE");
    let late = customer.request("INFO");
    customer.send(&late);
    customer.expect("200 INFO");
    genagent.expect_and_ok("INFO");
    customer.send(&early);
    customer.expect("500 UPDATE");
    hang_up(&mut customer, &mut genagent);
}
