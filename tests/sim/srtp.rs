//! H10: SRTP on either side and plain RTP on the other; who refuses what; new keys in a call.

use switchback::b2bua::io::{Keys, Suite, Transport};
use switchback::b2bua::settings::{Settings, Srtp};

use crate::asapp::NUMBER;
use crate::engine::{CORE, address, ms, secs};
use crate::peer::Line;
use crate::provisional::hang_up;
use crate::text::{self, Sip};
use crate::world::World;

/// Thirty octets in base64, and thirty others.
const KEY: &str = "inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj";
const OTHER_KEY: &str = "inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";
const SUITE: &str = "AES_CM_128_HMAC_SHA1_80";

/// Both sides over TLS.
fn world(callers: Srtp, trunk: Srtp) -> World {
    let w = World::set(|settings| set(settings, callers, trunk));
    w.over(&w.ivr, Transport::Tls);
    w.over(&w.carrier, Transport::Tls);
    w
}

fn set(settings: &mut Settings, callers: Srtp, trunk: Srtp) {
    settings.sip_others = vec![(Transport::Tls, address(CORE))];
    settings.trunks[0].place.transport = Some(Transport::Tls);
    (settings.srtp, settings.trunks[0].srtp) = (callers, trunk);
}

/// This description with SRTP in it.
fn secured(plain: &str, crypto: &str) -> String {
    plain.replace("RTP/AVP", "RTP/SAVP").replace("a=ptime", &format!("a=crypto:{crypto}\r\na=ptime"))
}

fn crypto_lines(sip: &Sip) -> Vec<&str> {
    sip.body.lines().filter_map(|line| line.strip_prefix("a=crypto:")).collect()
}

fn keys(w: &World, port: Option<u16>) -> Option<Keys> {
    let stage = w.stage();
    let mut pairs = stage.engine.relay.pairs();
    pairs.find(|(pair, _)| Some(pair.port) == port).and_then(|(_, model)| model.keys.clone())
}

/// The customer offers this; GenerativeAgent answers as it is asked.
fn call(w: &World, offer: &str) -> (Line, Line) {
    let rtp = "198.51.100.10";
    let mut customer = w.ivr.call().offering(offer.replace("HERE", rtp)).invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    let answer = match crypto_lines(&genagent.invite).iter().find(|line| line.contains(SUITE)) {
        Some(line) => {
            let tag = line.split(' ').next().unwrap_or("");
            secured(&genagent.sdp(), &format!("{tag} {SUITE} {OTHER_KEY}"))
        }
        None => genagent.sdp(),
    };
    genagent.respond_with(200, answer);
    genagent.expect("ACK");
    (customer, genagent)
}

fn plain() -> String {
    text::sdp("HERE", 41_000)
}

#[test]
fn h10_every_mix_of_srtp_and_rtp_is_a_call() {
    for (callers, offers) in [(Srtp::Allow, true), (Srtp::Allow, false), (Srtp::Require, true)] {
        for trunk in [Srtp::Off, Srtp::Allow, Srtp::Require] {
            let w = world(callers, trunk);
            let offer = if offers { secured(&plain(), &format!("5 {SUITE} {KEY}|2^31")) } else { plain() };
            let (mut customer, mut genagent) = call(&w, &offer);
            let answer = customer.expect("200");
            customer.ack();
            w.run_for(ms(5));
            assert_eq!(answer.body.contains("RTP/SAVP "), offers, "{}", answer.body);
            assert_eq!(
                crypto_lines(&answer).iter().filter(|line| line.starts_with(&format!("5 {SUITE} "))).count(),
                usize::from(offers)
            );
            let there = &genagent.invite.body;
            assert_eq!(there.contains("RTP/SAVP "), trunk == Srtp::Require, "{there}");
            assert_eq!(crypto_lines(&genagent.invite).len(), if trunk == Srtp::Require { 4 } else { 0 });
            let (here, there) = (keys(&w, customer.told), keys(&w, genagent.told));
            assert_eq!((here.is_some(), there.is_some()), (offers, trunk == Srtp::Require));
            let all: Vec<_> = here.into_iter().chain(there).flat_map(|keys| [keys.ours, keys.theirs]).collect();
            assert!(all.iter().all(|key| all.iter().filter(|other| *other == key).count() == 1), "each its own");
            assert!(all.iter().all(|key| key.suite() == Suite::AesCm128HmacSha1_80));
            for line in crypto_lines(&answer) {
                assert!(!line.contains(KEY) && !genagent.invite.body.contains(line), "no key crosses");
            }
            hang_up(&mut customer, &mut genagent);
        }
    }
}

#[test]
fn h10_what_a_caller_may_not_offer_gets_488() {
    let srtp = secured(&plain(), &format!("1 {SUITE} {KEY}"));
    let with_mki = secured(&plain(), &format!("1 {SUITE} {KEY}|2^31|1:4"));
    let unencrypted = secured(&plain(), &format!("1 {SUITE} {KEY} UNENCRYPTED_SRTP"));
    let cases = [
        (Srtp::Off, Transport::Tls, &srtp),
        (Srtp::Require, Transport::Tls, &plain()),
        (Srtp::Allow, Transport::Tls, &with_mki),
        (Srtp::Allow, Transport::Tls, &unencrypted),
        (Srtp::Allow, Transport::Tls, &plain().replace("RTP/AVP", "RTP/SAVP")),
        (Srtp::Allow, Transport::Udp, &srtp),
        (Srtp::Require, Transport::Udp, &srtp),
        (Srtp::Require, Transport::Udp, &plain()),
    ];
    for (policy, transport, offer) in cases {
        let w = World::set(|settings| set(settings, policy, Srtp::Off));
        w.over(&w.ivr, transport);
        let mut caller = w.ivr.call().offering(offer.replace("HERE", "198.51.100.10")).invite();
        caller.expect_refusal(488);
        caller.expect_nothing_for(secs(1));
    }
}

#[test]
fn h10_keys_in_clear_where_that_is_permitted() {
    let w = World::set(|settings| {
        set(settings, Srtp::Require, Srtp::Require);
        settings.trunks[0].place.transport = Some(Transport::Udp);
        settings.srtp_without_tls = true;
    });
    let (mut customer, mut genagent) = call(&w, &secured(&plain(), &format!("1 {SUITE} {KEY}")));
    customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    assert!(keys(&w, customer.told).is_some() && keys(&w, genagent.told).is_some());
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn h10_the_first_line_that_can_be_taken_is_taken_and_the_profile_is_kept() {
    let w = world(Srtp::Allow, Srtp::Off);
    let lines = format!(
        "1 F8_128_HMAC_SHA1_80 {KEY}\r\na=crypto:2 {SUITE} {KEY}|1:4\r\na=crypto:3 AES_CM_128_HMAC_SHA1_32 {KEY}\r\na=crypto:4 {SUITE} {OTHER_KEY}"
    );
    let offer = secured(&plain(), &lines).replace("RTP/SAVP", "RTP/SAVPF");
    let (mut customer, mut genagent) = call(&w, &offer);
    let answer = customer.expect("200");
    customer.ack();
    assert!(answer.body.contains("RTP/SAVPF ") && answer.body.contains("a=crypto:3 AES_CM_128_HMAC_SHA1_32 inline:"));
    hang_up(&mut customer, &mut genagent);

    // Keys on RTP/AVP are an offer of SRTP to whoever understands them (RFC 8643).
    let w = world(Srtp::Allow, Srtp::Off);
    let offer = secured(&plain(), &format!("1 {SUITE} {KEY}")).replace("RTP/SAVP", "RTP/AVP");
    let (mut customer, mut genagent) = call(&w, &offer);
    let answer = customer.expect("200");
    customer.ack();
    assert!(answer.body.contains("RTP/AVP ") && crypto_lines(&answer).len() == 1, "{}", answer.body);
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn h10_new_keys_in_a_call_and_the_same_keys_again() {
    for method in ["INVITE", "UPDATE"] {
        let w = world(Srtp::Allow, Srtp::Off);
        let offer = secured(&plain(), &format!("1 {SUITE} {KEY}"));
        let (mut customer, mut genagent) = call(&w, &offer);
        customer.expect("200");
        customer.ack();
        w.run_for(ms(5));
        let first = keys(&w, customer.told);
        let reoffer = |line: &mut Line, sdp: String| {
            line.offer(method, sdp.replace("HERE", "198.51.100.10"));
            let answer = line.expect(if method == "INVITE" { "200" } else { "200 UPDATE" });
            if method == "INVITE" {
                line.ack();
            }
            w.run_for(ms(5));
            (answer, keys(&w, line.told))
        };
        let held = offer.replace("sendrecv", "sendonly");
        assert_eq!(reoffer(&mut customer, held).1, first, "a hold keeps the keys");
        assert_eq!(reoffer(&mut customer, offer.clone()).1, first, "and so does its end");
        let (answer, second) = reoffer(&mut customer, offer.replace(KEY, OTHER_KEY));
        let (first, second) = (first.expect("keys"), second.expect("keys"));
        assert!(first.ours != second.ours && first.theirs != second.theirs && crypto_lines(&answer).len() == 1);
        let (_, plainly) = reoffer(&mut customer, plain());
        assert_eq!(plainly, None, "plain RTP is allowed");
        hang_up(&mut customer, &mut genagent);
    }
}

#[test]
fn h10_where_srtp_is_required_a_call_does_not_become_plain() {
    let w = world(Srtp::Require, Srtp::Off);
    let (mut customer, mut genagent) = call(&w, &secured(&plain(), &format!("1 {SUITE} {KEY}")));
    customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    let before = keys(&w, customer.told);
    customer.offer("UPDATE", plain().replace("HERE", "198.51.100.10"));
    customer.expect("488 UPDATE");
    assert_eq!(keys(&w, customer.told), before);
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn h10_a_delayed_offer_is_one_of_srtp_where_it_is_required() {
    let w = world(Srtp::Require, Srtp::Off);
    let mut customer = w.ivr.call().without_offer().invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    let ours = customer.expect("200");
    let line = *crypto_lines(&ours).iter().find(|line| line.contains(SUITE)).expect("every suite is offered");
    let tag = line.split(' ').next().unwrap_or("");
    customer.ack_with(secured(&customer.sdp(), &format!("{tag} {SUITE} {KEY}")));
    w.run_for(ms(5));
    assert!(keys(&w, customer.told).is_some());
    // Asked again, we say the same keys again.
    customer.offer("INVITE", "");
    let again = customer.expect("200");
    assert_eq!(crypto_lines(&again), crypto_lines(&ours));
    customer.ack_with(secured(&customer.sdp(), &format!("{tag} {SUITE} {KEY}")));
    w.run_for(ms(5));
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn h10_another_branch_of_a_fork_has_other_keys() {
    let w = world(Srtp::Allow, Srtp::Require);
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    let early = secured(&genagent.sdp(), &format!("3 {SUITE} {KEY}"));
    genagent.send(&genagent.forked(183, "-a").with_sdp(early));
    w.run_for(ms(50));
    let first = keys(&w, genagent.told).expect("keys of the first branch");
    let answer = secured(&genagent.sdp(), &format!("3 {SUITE} {OTHER_KEY}"));
    genagent.respond_with(200, answer);
    genagent.expect("ACK");
    customer.expect_any();
    w.run_for(ms(50));
    let second = keys(&w, genagent.told).expect("keys of the branch that answered");
    assert!(first.ours == second.ours && first.theirs != second.theirs, "our line is the same, so our key goes on");
    customer.answer_all();
    customer.ack();
    hang_up(&mut customer, &mut genagent);
}

#[test]
fn h10_a_trunk_that_answers_srtp_with_rtp_is_no_way() {
    let w = world(Srtp::Allow, Srtp::Require);
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    genagent.expect_and_ok("BYE");
    customer.answer_all();
    w.run_for(secs(1));
    customer.cancel();
    w.run_for(secs(1));
    assert!(keys(&w, genagent.told).is_none());
}
