//! H9, M6, O7, O9: offers and answers in every shape, before and within a call.

use std::net::SocketAddr;

use switchback::b2bua::io::{FailureClass, Law};
use switchback::call::verdict::{EndedBy, NotConnected, Outcome, Phase};

use crate::asapp::NUMBER;
use crate::engine::{ms, secs};
use crate::happy::talk;
use crate::ladders::{asks_for_a_person, with_ladder};
use crate::peer::Line;
use crate::provisional::{dialled, hang_up};
use crate::relay::Hears;
use crate::text::{self, Sip};
use crate::world::World;

/// A hold in this dialect.
fn held(line: &Line, dialect: &str) -> String {
    let (ip, port) = (line.rtp.ip().to_string(), line.rtp.port());
    match dialect {
        "c=0" => text::sdp("0.0.0.0", port),
        direction => text::audio(&ip, port, "0 8 101", direction),
    }
}

/// Offers this and takes the answer.
fn offer(line: &mut Line, method: &str, sdp: String) -> Sip {
    line.offer(method, sdp);
    match method {
        "INVITE" => {
            let answer = line.expect("200");
            line.ack();
            answer
        }
        _ => line.expect("200 UPDATE"),
    }
}

fn is_watched(w: &World, port: Option<u16>) -> bool {
    let stage = w.stage();
    let mut pairs = stage.engine.relay.pairs();
    pairs.any(|(pair, model)| Some(pair.port) == port && model.watch.is_some())
}

#[test]
fn m6_either_side_holds_in_every_dialect_by_either_method() {
    for (dialect, mirrored) in [("sendonly", "a=recvonly"), ("inactive", "a=inactive"), ("c=0", "a=")] {
        for method in ["INVITE", "UPDATE"] {
            for customers in [true, false] {
                let w = World::new();
                let (mut customer, mut genagent) = talk(&w);
                let line = if customers { &mut customer } else { &mut genagent };
                let port = line.told;
                assert!(is_watched(&w, port));
                let hold = held(line, dialect);
                let answer = offer(line, method, hold);
                assert!(answer.body.contains(mirrored), "RFC 3264 section 6.1: {}", answer.body);
                assert_eq!(answer.audio_port(), port);
                assert!(!is_watched(&w, port), "silence is what a hold is");
                assert_eq!(w.hears(line), Hears::Nothing, "RFC 3264 section 5.1: it does not listen");
                w.run_for(secs(1));
                let resume = line.sdp();
                let answer = offer(line, method, resume);
                assert!(answer.body.contains("a=sendrecv"));
                w.run_for(ms(5));
                assert!(is_watched(&w, port) && w.talking(&customer, &genagent));
                hang_up(&mut customer, &mut genagent);
            }
        }
    }
}

#[test]
fn m6_a_third_party_resumes_without_an_offer() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    let hold = held(&customer, "sendonly");
    offer(&mut customer, "INVITE", hold);
    customer.offer("INVITE", "");
    let ours = customer.expect("200");
    assert!(ours.body.contains("a=sendrecv"), "RFC 6337 section 5.2.5: {}", ours.body);
    customer.ack_with(customer.sdp());
    w.run_for(ms(5));
    assert!(w.talking(&customer, &genagent) && is_watched(&w, customer.told));
    // And holds: the answer in the ACK is a hold of 1999.
    customer.offer("INVITE", "");
    customer.expect("200");
    customer.ack_with(held(&customer, "c=0"));
    customer.expect_nothing_for(secs(1));
    assert!(!is_watched(&w, customer.told));
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn s5_a_description_too_long_for_a_message_of_ours_is_refused() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    let long = customer.sdp() + &"a=ptime:20\r\n".repeat(1_500);
    customer.offer("UPDATE", long.clone());
    customer.expect("488 UPDATE");
    let mut other = w.ivr.call().offering(long).invite();
    other.expect("488");
    // Formats and lines about them, as many as fit: what nobody could use is left out.
    let many = (0..1_000).map(|number| format!(" {number}")).collect::<String>();
    let many = customer.sdp().replace(" 0 8", &format!(" 0 8{many}")) + &"a=rtpmap:1 x\r\n".repeat(500);
    customer.offer("UPDATE", many);
    customer.expect("200 UPDATE");
    assert!(w.talking(&customer, &genagent));
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn m6_an_offer_that_nobody_can_take_changes_nothing() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    for sdp in [text::audio("198.51.100.10", 41_000, "111", "sendrecv"), "nonsense".to_owned()] {
        for line in [&mut customer, &mut genagent] {
            line.offer("UPDATE", sdp.clone());
            line.expect("488 UPDATE");
            let before = line.invite.clone();
            line.offer("INVITE", sdp.clone());
            line.expect_refusal(488);
            line.invite = before;
        }
    }
    w.run_for(secs(1));
    assert!(w.talking(&customer, &genagent), "RFC 3261 section 14.2");
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn h9_a_delayed_offer_whose_answer_is_none() {
    for answer in [String::new(), "nonsense".to_owned(), text::audio("198.51.100.10", 41_000, "111", "sendrecv")] {
        let w = World::new();
        let mut customer = w.ivr.call().without_offer().invite();
        customer.expect("180");
        w.api.expect_create().answer_number(NUMBER, secs(60));
        let mut genagent = w.carrier.expect_invite();
        genagent.answer();
        genagent.expect("ACK");
        customer.expect("200");
        customer.ack_with(answer);
        customer.expect_and_ok("BYE");
        genagent.expect_and_ok("BYE");
        assert_eq!((w.verdict().1, w.verdict().2), (EndedBy::Network, Phase::Talking));
    }
}

#[test]
fn h9_a_delayed_offer_from_a_caller_that_insists_on_reliable_ringing() {
    let w = World::new();
    let mut customer = w.ivr.call().header("Require", "100rel").without_offer().invite();
    let ringing = customer.expect("180");
    let prack = customer.request("PRACK").with("RAck", format!("{} 1 INVITE", ringing.header("RSeq")));
    customer.send(&prack);
    customer.expect("200 PRACK");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    let ours = customer.expect("200");
    assert!(ours.audio_port().is_some(), "the offer is in the 200");
    customer.ack_with(customer.sdp());
    w.run_for(ms(5));
    assert!(w.talking(&customer, &genagent));
    hang_up(&mut customer, &mut genagent);
}

/// The law that the relay turns everything into for this line's far side.
fn law(w: &World, line: &Line) -> Option<Law> {
    let stage = w.stage();
    let pair = stage.engine.relay.pairs().find(|(pair, _)| Some(pair.port) == line.told);
    pair.expect("a pair of its own").1.law
}

fn speaking(line: &Line, formats: &str) -> String {
    text::audio(&line.rtp.ip().to_string(), line.rtp.port(), formats, "sendrecv")
}

#[test]
fn o9_two_laws_of_g711_are_the_only_mismatch_that_is_none() {
    for (one, both, other, laws) in
        [("0 101", "0 8 101", "8 101", [Law::Mu, Law::A]), ("18 8 101", "18 8 0 101", "0 101", [Law::A, Law::Mu])]
    {
        let w = World::new();
        let offered = text::audio("198.51.100.10", 40_002, one, "sendrecv");
        let mut customer = w.ivr.call().offering(offered).invite();
        customer.expect("180");
        w.api.expect_create().answer_number(NUMBER, secs(60));
        let mut genagent = w.carrier.expect_invite();
        assert!(genagent.invite.body.contains(&format!("RTP/AVP {both}\r\n")), "{}", genagent.invite.body);
        genagent.respond_with(200, speaking(&genagent, other));
        genagent.expect("ACK");
        let answer = customer.expect("200");
        let law_of_ours = one.trim_start_matches("18 ");
        assert!(answer.body.contains(&format!("RTP/AVP {law_of_ours}\r\n")), "its own law: {}", answer.body);
        customer.ack();
        w.run_for(ms(5));
        assert!(w.talking(&customer, &genagent));
        assert_eq!([law(&w, &customer), law(&w, &genagent)], laws.map(Some));

        let turned = speaking(&customer, other);
        let answer = offer(&mut customer, "INVITE", turned);
        assert!(answer.body.contains(&format!("RTP/AVP {other}\r\n")), "now both speak one: {}", answer.body);
        assert_eq!([law(&w, &customer), law(&w, &genagent)], [Some(laws[1]); 2], "nothing is left to turn");
        hang_up(&mut customer, &mut genagent);
    }
}

#[test]
fn o9_who_was_answered_in_one_law_is_not_sent_the_other_that_it_offered() {
    let w = with_ladder(&["dial:queue"]);
    let (mut customer, mut genagent) = dialled(&w);
    genagent.respond_with(200, speaking(&genagent, "0 101"));
    genagent.expect("ACK");
    let answer = customer.expect("200");
    assert!(answer.body.contains("RTP/AVP 0 101\r\n"), "{}", answer.body);
    customer.ack();
    w.run_for(ms(5));
    assert_eq!([law(&w, &customer), law(&w, &genagent)], [Some(Law::Mu); 2], "as we have answered");
    asks_for_a_person(&w, &mut genagent);
    let mut queue = w.queue.expect_invite();
    queue.respond_with(200, speaking(&queue, "8 101"));
    queue.expect("ACK");
    w.run_for(ms(5));
    assert!(w.talking(&customer, &queue));
    assert_eq!([law(&w, &customer), law(&w, &queue)], [Some(Law::Mu), Some(Law::A)]);
    hang_up(&mut customer, &mut queue);
}

#[test]
fn o9_who_hears_both_laws_is_sent_what_comes() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    assert_eq!([law(&w, &customer), law(&w, &genagent)], [None, None]);
    let one = speaking(&genagent, "8 101");
    let answer = offer(&mut genagent, "UPDATE", one);
    assert!(answer.body.contains("RTP/AVP 8 101\r\n"), "{}", answer.body);
    assert_eq!([law(&w, &customer), law(&w, &genagent)], [None, Some(Law::A)]);
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn o7_a_redirection_is_not_followed() {
    for status in [301, 302, 305] {
        let w = World::new();
        let (mut customer, mut genagent) = dialled(&w);
        let elsewhere = "<sip:+19005550100@198.18.0.9>";
        genagent.send(&genagent.response(&genagent.invite, status).with("Contact", elsewhere));
        genagent.expect("ACK");
        w.api.expect_create().fail(FailureClass::Refused);
        customer.expect_refusal(480);
        let invites = w.stage().delivered.iter().filter(|(.., sip)| sip.is("INVITE")).count();
        assert_eq!(invites, 1);
        assert_eq!(w.record().verdict.outcome, Outcome::NotConnected);
    }
}

#[test]
fn o1_a_refusal_of_the_whole_world_costs_no_second_number() {
    for status in [600, 603, 604, 606, 607] {
        let w = World::new();
        let (mut customer, mut genagent) = dialled(&w);
        genagent.respond(status);
        genagent.expect("ACK");
        customer.expect_refusal(480);
        assert_eq!((w.api.asked(), w.count(&w.carrier, "INVITE")), (1, 1));
        let evidence = w.record().verdict.evidence;
        assert_eq!((evidence.not_connected, evidence.sip_status), (Some(NotConnected::TrunkFailed), Some(status)));
    }
}

/// Where the relay sends RTCP to this line's far side.
fn rtcp(w: &World, line: &Line) -> Option<SocketAddr> {
    w.stage().engine.relay.towards(line.rtp).and_then(|(_, pair)| pair.rtcp)
}

fn beside(line: &Line) -> SocketAddr {
    SocketAddr::new(line.rtp.ip(), line.rtp.port() + 1)
}

fn muxed(line: &Line) -> String {
    line.sdp() + MUX
}

const MUX: &str = "a=rtcp-mux\r\n";

#[test]
fn m8_rtcp_mux_that_we_offer_is_taken_up_or_not_and_stays_so() {
    for taken in [true, false] {
        let w = World::set(|settings| settings.rtcp_mux = true);
        let (mut customer, mut genagent) = dialled(&w);
        assert!(genagent.invite.body.contains(MUX), "{}", genagent.invite.body);
        let answer = if taken { muxed(&genagent) } else { genagent.sdp() };
        genagent.respond_with(200, answer.clone());
        genagent.expect("ACK");
        assert!(!customer.expect("200").body.contains(MUX), "the customer has not offered it");
        customer.ack();
        w.run_for(ms(5));
        let wanted = if taken { genagent.rtp } else { beside(&genagent) };
        assert_eq!((rtcp(&w, &genagent), rtcp(&w, &customer)), (Some(wanted), Some(beside(&customer))));
        let plain = customer.sdp();
        for (line, kept, answer) in [(&mut genagent, taken, answer), (&mut customer, false, plain)] {
            line.offer("INVITE", "");
            let ours = line.expect("200");
            assert_eq!(ours.body.contains(MUX), kept, "{}", ours.body);
            line.ack_with(answer);
        }
        w.run_for(ms(50));
        assert_eq!((rtcp(&w, &genagent), rtcp(&w, &customer)), (Some(wanted), Some(beside(&customer))));
        hang_up(&mut customer, &mut genagent);
    }
}

#[test]
fn m8_rtcp_mux_in_the_offer_of_our_200() {
    for taken in [true, false] {
        let w = World::set(|settings| settings.rtcp_mux = true);
        let mut customer = w.ivr.call().without_offer().invite();
        customer.expect("180");
        w.api.expect_create().answer_number(NUMBER, secs(60));
        let mut genagent = w.carrier.expect_invite();
        genagent.answer();
        genagent.expect("ACK");
        assert!(customer.expect("200").body.contains(MUX));
        customer.ack_with(if taken { muxed(&customer) } else { customer.sdp() });
        w.run_for(ms(5));
        assert_eq!(rtcp(&w, &customer), Some(if taken { customer.rtp } else { beside(&customer) }));
        hang_up(&mut customer, &mut genagent);
    }
}

#[test]
fn m8_rtcp_mux_is_offered_to_nobody_by_default_and_kept_where_it_was_taken_up() {
    let w = World::new();
    let mut customer = w.ivr.call().offering(text::sdp("198.51.100.10", 40_002) + MUX).invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    assert!(!genagent.invite.body.contains(MUX), "{}", genagent.invite.body);
    genagent.answer();
    genagent.expect("ACK");
    assert!(customer.expect("200").body.contains(MUX));
    customer.ack();
    let hold = held(&customer, "c=0") + MUX;
    offer(&mut customer, "INVITE", hold);
    customer.offer("INVITE", "");
    assert!(customer.expect("200").body.contains(MUX), "a hold has not changed it");
    customer.ack_with(muxed(&customer));
    w.run_for(ms(5));
    assert_eq!(rtcp(&w, &customer), Some(customer.rtp));
    // A new offer without it ends it.
    let plain = customer.sdp();
    assert!(!offer(&mut customer, "INVITE", plain).body.contains(MUX));
    w.run_for(ms(5));
    assert_eq!(rtcp(&w, &customer), Some(beside(&customer)));
    hang_up(&mut customer, &mut genagent);
}
