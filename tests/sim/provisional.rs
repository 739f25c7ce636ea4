//! What is said before the answer: reliable provisional responses (RFC 3262), early media, early dialogs of forks.

use switchback::call::verdict::{EndedBy, Outcome, Phase};

use crate::asapp::NUMBER;
use crate::engine::{address, ms, secs};
use crate::peer::Line;
use crate::text::{self, Sip};
use crate::world::{LONG, World};

/// A customer rings and the carrier has our INVITE.
pub fn dialled(w: &World) -> (Line, Line) {
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    (customer, w.carrier.expect_invite())
}

/// The customer hangs up on a call that stands.
pub fn hang_up(customer: &mut Line, genagent: &mut Line) {
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

/// The carrier's 200 reaches the customer, who acknowledges it.
fn connect(w: &World, customer: &mut Line, genagent: &mut Line) -> Sip {
    let ack = genagent.expect("ACK");
    assert_eq!(ack.cseq(), genagent.invite.cseq(), "RFC 3261 section 13.2.2.4");
    let answer = customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    answer
}

fn reliable(response: Sip, rseq: u32, sdp: &str) -> Sip {
    response.with("Require", "100rel").with("RSeq", rseq.to_string()).with_sdp(sdp)
}

/// An INVITE that insists on, or permits, reliable provisional responses.
fn caller(w: &World, header: &str) -> Line {
    w.ivr.call().header(header, "100rel").header("Allow", "INVITE, ACK, BYE, CANCEL, PRACK, UPDATE").invite()
}

fn prack(line: &mut Line, response: &Sip) -> Sip {
    let rack = format!("{} {}", response.header("RSeq"), response.header("CSeq"));
    line.request("PRACK").with("RAck", rack)
}

fn acknowledge(line: &mut Line, response: &Sip) {
    let prack = prack(line, response);
    line.send(&prack);
    line.expect("200 PRACK");
}

#[test]
fn o12_reliable_responses_are_acknowledged_once_and_in_order() {
    let w = World::new();
    let (mut customer, mut genagent) = dialled(&w);
    let say =
        |line: &Line, status, rseq, sdp: &str| line.send(&reliable(line.response(&line.invite, status), rseq, sdp));
    say(&genagent, 180, 7, "");
    let first = genagent.expect_and_ok("PRACK");
    assert_eq!((first.header("RAck"), first.cseq()), ("7 1 INVITE", 2));
    assert_eq!(first.tag("To"), genagent.response(&genagent.invite, 180).tag("To"));
    assert_eq!(first.uri(), genagent.response(&genagent.invite, 180).contact());
    let sdp = genagent.sdp();
    say(&genagent, 183, 8, &sdp);
    let second = genagent.expect_and_ok("PRACK");
    assert_eq!((second.header("RAck"), second.cseq()), ("8 1 INVITE", 3));
    let early = customer.expect("183");
    assert!(!early.has("RSeq") && !early.has("Require"), "this caller knows nothing of 100rel");
    assert!(w.talking(&customer, &genagent), "early media crosses");
    say(&genagent, 183, 8, &sdp);
    say(&genagent, 180, 10, "");
    w.run_for(secs(1));
    assert_eq!(w.count(&w.carrier, "PRACK"), 2, "neither the repeated one nor the one out of order");
    say(&genagent, 180, 9, "");
    assert_eq!(genagent.expect_and_ok("PRACK").header("RAck"), "9 1 INVITE");
    say(&genagent, 180, 10, "");
    assert_eq!(genagent.expect_and_ok("PRACK").header("RAck"), "10 1 INVITE");
    genagent.answer();
    connect(&w, &mut customer, &mut genagent);
    customer.bye();
    customer.expect("200 BYE");
    assert!(genagent.expect_and_ok("BYE").cseq() > 5, "the dialog goes on counting");
}

#[test]
fn o12_the_200_does_not_wait_for_the_answer_to_the_prack() {
    for late in [Some(200), Some(481), None] {
        let w = World::new();
        let (mut customer, mut genagent) = dialled(&w);
        genagent.send(&reliable(genagent.response(&genagent.invite, 183), 1, &genagent.sdp()));
        let prack = genagent.expect("PRACK");
        customer.expect("183");
        genagent.answer();
        connect(&w, &mut customer, &mut genagent);
        late.into_iter().for_each(|status| genagent.reply(&prack, status));
        w.run_for(LONG + secs(8));
        assert!(w.talking(&customer, &genagent));
        assert_eq!(w.count(&w.carrier, "PRACK"), if late.is_some() { 1 } else { 11 });
        hang_up(&mut customer, &mut genagent);
    }
}

#[test]
fn o12_a_200_without_a_second_answer() {
    let w = World::new();
    let (mut customer, mut genagent) = dialled(&w);
    genagent.send(&reliable(genagent.response(&genagent.invite, 183), 1, &genagent.sdp()));
    genagent.expect_and_ok("PRACK");
    customer.expect("183");
    genagent.respond(200);
    let answer = connect(&w, &mut customer, &mut genagent);
    assert!(answer.audio_port().is_some(), "this caller has had none that it could rely on");
    assert!(w.talking(&customer, &genagent), "RFC 6337 section 2.2");
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn o12_a_caller_that_insists_gets_everything_reliably() {
    let w = World::new();
    let mut customer = caller(&w, "Require");
    let ringing = customer.expect("180");
    assert_eq!(ringing.header("Require"), "100rel");
    assert!((1..=0x7fff_ffff).contains(&ringing.header("RSeq").parse::<u32>().expect("RSeq")));
    let post = w.api.expect_create();
    w.run_for(ms(3600));
    let times = w.times(&w.ivr, "180");
    let after: Vec<u128> = times.iter().map(|at| (*at - times[0]).as_millis()).collect();
    assert_eq!(after, [0, 500, 1500, 3500], "RFC 3262 section 3");
    let mut wrong = prack(&mut customer, &ringing);
    let rack = format!("{} 1 INVITE", ringing.header("RSeq").parse::<u32>().expect("RSeq") + 1);
    wrong.headers.iter_mut().filter(|(name, _)| name == "RAck").for_each(|(_, value)| value.clone_from(&rack));
    customer.send(&wrong);
    customer.expect("481 PRACK");
    acknowledge(&mut customer, &ringing);
    let before = w.count(&w.ivr, "180");
    post.answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond_with(183, genagent.sdp());
    let early = customer.expect("183");
    assert!(early.audio_port().is_some() && early.header("Require") == "100rel");
    assert_eq!(early.header("RSeq").parse(), ringing.header("RSeq").parse::<u32>().map(|rseq| rseq + 1));
    genagent.answer();
    genagent.expect("ACK");
    customer.expect_nothing_for(ms(400));
    acknowledge(&mut customer, &early);
    let answer = customer.expect("200");
    assert!(answer.body.is_empty(), "the answer went before");
    customer.ack();
    w.run_for(secs(2));
    assert_eq!(w.count(&w.ivr, "180"), before, "acknowledged is acknowledged");
    assert!(w.talking(&customer, &genagent));
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn o12_nobody_acknowledges_our_ringing() {
    let w = World::new();
    let mut customer = caller(&w, "Require");
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    customer.expect_refusal(504);
    assert!((LONG..LONG + ms(100)).contains(&w.now()), "64*T1: {:?}", w.now());
    genagent.expect_and_ok("BYE");
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Network, Phase::Talking));
    assert_eq!(w.count(&w.ivr, "180"), 7, "at 0, 0.5, 1.5, 3.5, 7.5, 15.5 and 31.5 seconds");
}

#[test]
fn o12_a_caller_that_can_gets_early_media_reliably() {
    let w = World::new();
    let mut customer = caller(&w, "Supported");
    assert!(!customer.expect("180").has("RSeq"), "nothing to lose in it");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond_with(183, genagent.sdp());
    let early = customer.expect("183");
    assert!(early.has("RSeq"));
    // The PRACK carries the next offer, and its 200 the answer (RFC 3262 section 5).
    customer.rtp = address("198.51.100.10:41000");
    let prack = prack(&mut customer, &early).with_sdp(customer.sdp());
    customer.send(&prack);
    let answer = customer.expect("200 PRACK");
    assert_eq!(answer.audio_port(), early.audio_port(), "our port never moves");
    assert!(w.talking(&customer, &genagent));
    genagent.answer();
    connect(&w, &mut customer, &mut genagent);
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn o12_a_cancel_while_the_prack_is_missing() {
    let w = World::new();
    let mut customer = caller(&w, "Require");
    customer.expect("180");
    let post = w.api.expect_create();
    customer.cancel();
    customer.expect("200 CANCEL");
    customer.expect_refusal(487);
    post.answer_number(NUMBER, secs(60));
    w.carrier.expect_nothing_for(secs(40));
    assert_eq!(w.count(&w.ivr, "180"), 1, "nothing is repeated after the end");
}

#[test]
fn o12_a_long_ringing_is_remembered_reliably() {
    let w = World::set(|settings| settings.call.ring_limit = secs(150));
    let mut customer = caller(&w, "Require");
    let ringing = customer.expect("180");
    acknowledge(&mut customer, &ringing);
    w.api.expect_create().answer_number(NUMBER, secs(600));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    let again = customer.expect("180");
    assert!(w.now() <= secs(61), "before a proxy's timer C: {:?}", w.now());
    assert_eq!(again.header("RSeq").parse(), ringing.header("RSeq").parse::<u32>().map(|rseq| rseq + 1));
    acknowledge(&mut customer, &again);
    genagent.answer();
    connect(&w, &mut customer, &mut genagent);
    assert!(w.talking(&customer, &genagent));
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn r18_a_183_that_its_200_overtook_is_no_news() {
    let w = World::new();
    let (mut customer, mut genagent) = dialled(&w);
    let late = reliable(genagent.response(&genagent.invite, 183), 1, &text::sdp("203.0.113.99", 9000));
    genagent.answer();
    connect(&w, &mut customer, &mut genagent);
    genagent.send(&late);
    genagent.expect_nothing_for(secs(5));
    assert!(w.talking(&customer, &genagent), "who has answered is heard");
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn r18_a_prack_before_anything_to_acknowledge() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    let post = w.api.expect_create();
    let stray = customer.request("PRACK").with("RAck", "1 1 INVITE");
    customer.send(&stray);
    customer.expect("481 PRACK");
    customer.cancel();
    customer.expect("200 CANCEL");
    customer.expect_refusal(487);
    post.answer_number(NUMBER, secs(60));
    w.carrier.expect_nothing_for(secs(1));
}

#[test]
fn o10_forks_ring_and_two_of_them_answer() {
    let w = World::new();
    let (mut customer, mut genagent) = dialled(&w);
    genagent.send(&genagent.forked(180, "-a"));
    genagent.send(&genagent.forked(180, "-b"));
    genagent.send(&genagent.forked(200, "-b").with_sdp(genagent.sdp()));
    assert!(genagent.expect("ACK").tag("To").ends_with("-b"), "the first 200 wins");
    customer.expect("200");
    customer.ack();
    let elsewhere = text::sdp("203.0.113.99", 9000);
    genagent.send(&genagent.forked(200, "-a").with_sdp(elsewhere));
    let ack = genagent.expect("ACK");
    let bye = genagent.expect_and_ok("BYE");
    assert!(ack.tag("To").ends_with("-a") && bye.tag("To") == ack.tag("To"));
    assert!(bye.cseq() > ack.cseq() && ack.cseq() == genagent.invite.cseq());
    w.run_for(secs(10));
    assert!(w.talking(&customer, &genagent));
    customer.bye();
    customer.expect("200 BYE");
    assert!(genagent.expect_and_ok("BYE").tag("To").ends_with("-b"));
}

#[test]
fn o10_each_fork_keeps_what_it_has_said() {
    let w = World::new();
    let (mut customer, mut genagent) = dialled(&w);
    let b = text::sdp("203.0.113.99", 9000);
    for (branch, rseq, sdp) in [("-a", 30, genagent.sdp()), ("-b", 5, b)] {
        genagent.send(&reliable(genagent.forked(183, branch), rseq, &sdp));
        let prack = genagent.expect_and_ok("PRACK");
        assert_eq!(prack.header("RAck"), format!("{rseq} 1 INVITE"), "each fork has numbers of its own");
        assert!(prack.tag("To").ends_with(branch));
    }
    customer.expect("183");
    genagent.send(&genagent.forked(200, "-a"));
    connect(&w, &mut customer, &mut genagent);
    assert!(w.talking(&customer, &genagent), "the answer of the fork that answered:\n{}", w.ladder());
    genagent.send(&genagent.forked(200, "-b").with_sdp(genagent.sdp()));
    genagent.expect("ACK");
    assert_eq!(genagent.expect_and_ok("BYE").cseq(), 3, "the PRACK to this fork was 2");
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn o10_two_answers_cross_our_cancel() {
    let w = World::new();
    let (mut customer, mut genagent) = dialled(&w);
    genagent.respond(180);
    w.run_for(ms(15));
    customer.cancel();
    w.run_for(ms(5));
    for branch in ["-a", "-b"] {
        genagent.send(&genagent.forked(200, branch).with_sdp(genagent.sdp()));
    }
    genagent.expect_and_ok("CANCEL");
    let mut heard: Vec<(String, String)> = Vec::new();
    for _ in 0..4 {
        w.run_until("ACK and BYE of both", |stage| stage.delivered.len() > heard.len());
        w.run_for(ms(50));
        while let Some(sip) = genagent.heard() {
            if sip.is("BYE") {
                genagent.reply(&sip, 200);
            }
            heard.push((sip.word(), sip.tag("To").chars().rev().take(2).collect()));
        }
    }
    heard.sort();
    let expected = [("ACK", "a-"), ("ACK", "b-"), ("BYE", "a-"), ("BYE", "b-")];
    assert_eq!(heard, expected.map(|(word, tag)| (word.to_owned(), tag.to_owned())));
    customer.expect("200 CANCEL");
    customer.expect_refusal(487);
}

#[test]
fn o11_the_description_changes_before_the_answer() {
    let w = World::new();
    let (mut customer, mut genagent) = dialled(&w);
    let ours = genagent.told;
    let announcement = text::sdp("203.0.113.77", 7000);
    genagent.respond_with(183, announcement);
    let port = customer.expect("183").audio_port();
    assert!(w.stage().engine.relay.towards(address("203.0.113.77:7000")).is_some());
    genagent.respond_with(183, genagent.sdp());
    w.run_for(ms(50));
    assert!(w.stage().engine.relay.towards(address("203.0.113.77:7000")).is_none(), "the relay follows");
    while customer.heard().is_some() {}
    genagent.answer();
    let answer = connect(&w, &mut customer, &mut genagent);
    assert_eq!((answer.audio_port(), genagent.told), (port, ours), "our ports never move");
    assert!(w.talking(&customer, &genagent));
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn o11_the_carrier_updates_an_early_session() {
    let w = World::new();
    let (mut customer, mut genagent) = dialled(&w);
    let local = genagent.response(&genagent.invite, 180).header("To").to_owned();
    assert_eq!(local, genagent.local(), "one tag");
    genagent.respond(180);
    genagent.offer("UPDATE", genagent.sdp());
    genagent.expect("491 UPDATE");
    genagent.send(&reliable(genagent.response(&genagent.invite, 183), 1, &text::sdp("203.0.113.77", 7000)));
    genagent.expect_and_ok("PRACK");
    customer.expect("183");
    genagent.offer("UPDATE", genagent.sdp());
    assert_eq!(genagent.expect("200 UPDATE").audio_port(), genagent.told);
    assert!(w.talking(&customer, &genagent), "{}", w.ladder());
    genagent.respond(200);
    connect(&w, &mut customer, &mut genagent);
    assert!(w.talking(&customer, &genagent), "what was said last counts");
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn r8_an_update_before_the_answer_waits_for_ours() {
    let w = World::new();
    let mut customer = caller(&w, "Supported");
    customer.expect("180");
    customer.offer("UPDATE", customer.sdp());
    assert!(customer.expect("500 UPDATE").has("Retry-After"), "RFC 3311 section 5.2");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond_with(183, genagent.sdp());
    let early = customer.expect("183");
    acknowledge(&mut customer, &early);
    customer.rtp = address("198.51.100.10:41000");
    customer.offer("UPDATE", customer.sdp());
    assert_eq!(customer.expect("200 UPDATE").audio_port(), early.audio_port());
    genagent.answer();
    connect(&w, &mut customer, &mut genagent);
    assert!(w.talking(&customer, &genagent));
    hang_up(&mut customer, &mut genagent);
}
