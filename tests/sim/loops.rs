//! T17: calls that come back to us, by our own Via or as the same conversation.

use switchback::b2bua::settings::Settings;
use switchback::call::rules::Matcher;

use crate::engine::{CORE, QUEUE, secs};
use crate::ladders::rules;
use crate::peer::{Draft, Line};
use crate::text::Sip;
use crate::world::World;

const SESSION: &str = "ab30317f1a784dc48ff824d0d3715d86;remote=47755a9de7794ba387653f2099600ef2";

fn world(change: impl FnOnce(&mut Settings)) -> World {
    World::set(|settings| {
        rules(settings, [(Matcher::default(), &["dial:queue", "bye", "refuse:480"])]);
        change(settings);
    })
}

/// A call of this session, as the PBX makes it for the customer, and again where it sends him back.
fn of_session(w: &World) -> Draft<'_> {
    w.ivr.call().header("Session-ID", SESSION)
}

/// Brings this call to where GenerativeAgent has sent the customer on; with it what the PBX gets of the onward leg.
fn sent_on(w: &World, draft: Draft<'_>) -> (Line, Line) {
    let mut customer = draft.invite();
    customer.expect("180");
    // Each transfer has a number of its own.
    w.api.expect_create().answer_number(&format!("+1999555{:04}", w.api.asked()), secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(secs(5));
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    (customer, w.queue.expect_invite())
}

/// The same, and the PBX takes the onward leg.
fn taken_on(w: &World, draft: Draft<'_>) -> (Line, Line) {
    let (customer, mut onward) = sent_on(w, draft);
    onward.answer();
    onward.expect("ACK");
    w.run_for(secs(1));
    assert!(w.talking(&customer, &onward), "{}", w.ladder());
    (customer, onward)
}

/// The onward leg ends, and so does its call.
fn let_go(customer: &mut Line, onward: &mut Line) {
    onward.bye();
    onward.expect("200 BYE");
    customer.expect_and_ok("BYE");
}

fn hang_up(customer: &mut Line, onward: &mut Line) {
    customer.bye();
    customer.expect("200 BYE");
    onward.expect_and_ok("BYE");
}

/// Refused at the door: no number is asked for.
fn is_a_loop(w: &World, draft: Draft<'_>) {
    let before = (w.api.asked(), w.counters().calls, looped(w));
    draft.invite().expect_refusal(482);
    assert_eq!((w.api.asked(), w.counters().calls, looped(w)), (before.0, before.1, before.2 + 1));
}

fn looped(w: &World) -> u64 {
    w.counters().rejected.get("loop").copied().unwrap_or(0)
}

/// What a proxy makes of an INVITE of ours: its own Via on top, one hop less, and the rest as it was.
fn forwarded(invite: &Sip) -> Sip {
    let mut headers = vec![("Via".to_owned(), format!("SIP/2.0/UDP {QUEUE};branch=z9hG4bK-proxy-1;rport"))];
    headers.extend(invite.headers.iter().filter(|(name, _)| name != "Content-Length").cloned());
    headers.iter_mut().filter(|(name, _)| name == "Max-Forwards").for_each(|(_, hops)| *hops = "68".to_owned());
    Sip { start: format!("INVITE sip:7000@{CORE} SIP/2.0"), headers, body: invite.body.clone() }
}

/// The ACK for a refusal of this INVITE.
fn acknowledged(invite: &Sip) -> Sip {
    let copied = ["Via", "From", "To", "Call-ID"];
    let headers = invite.headers.iter().filter(|(name, _)| copied.contains(&name.as_str())).cloned();
    let ack = Sip { headers: headers.collect(), ..Sip::request("ACK", invite.uri()) };
    ack.with("CSeq", format!("{} ACK", invite.cseq())).with("Max-Forwards", "68")
}

#[test]
fn t17_an_invite_of_ours_that_a_proxy_brings_back_is_a_loop() {
    let w = world(|_| {});
    let (mut customer, mut first) = sent_on(&w, w.ivr.call());
    let back = forwarded(&first.invite);
    let vias = back.all("Via").len();
    assert_eq!(vias, 2);
    first.send(&back);
    first.send(&back);
    let refusal = first.expect("482");
    assert_eq!(refusal.all("Via").len(), vias, "it goes back the way it came");
    first.send(&acknowledged(&back));
    assert_eq!((looped(&w), w.counters().calls), (1, 1));
    // The proxy passes it on, and the customer goes the next way.
    first.respond(482);
    first.expect("ACK");
    let mut next = w.queue.expect_invite();
    next.answer();
    next.expect("ACK");
    hang_up(&mut customer, &mut next);
}

#[test]
fn t17_a_strangers_via_is_no_loop() {
    let w = world(|_| {});
    let (mut customer, mut onward) = taken_on(&w, w.ivr.call());
    let ours = onward.invite.header("Via").to_owned();
    let branch = onward.invite.branch().to_owned();
    let guessed = format!("z9hG4bK{}", "0".repeat(branch.len() - "z9hG4bK".len()));
    for via in [
        ours.replace(&branch, &guessed),
        ours.replace(&branch, "z9hG4bK-other"),
        ours.replace(CORE, "203.0.113.99:5060"),
        format!("SIP/2.0/UDP {CORE}"),
    ] {
        let mut other = w.ivr.call().header("Via", &via).invite();
        other.expect("180");
        other.cancel();
        other.expect("200 CANCEL");
        other.expect_refusal(487);
    }
    is_a_loop(&w, w.ivr.call().header("Via", &ours));
    hang_up(&mut customer, &mut onward);
}

#[test]
fn t17_a_conversation_may_come_back_once() {
    let w = world(|_| {});
    let (mut customer, mut onward) = taken_on(&w, of_session(&w));
    let (mut again, mut further) = sent_on(&w, of_session(&w));
    is_a_loop(&w, of_session(&w));
    further.respond(482);
    further.expect("ACK");
    let mut last = w.queue.expect_invite();
    is_a_loop(&w, of_session(&w));
    last.respond(482);
    last.expect("ACK");
    // Nobody can be reached: the PBX gets the customer back where he came in last, and ends the rest.
    again.expect_and_ok("BYE");
    let_go(&mut customer, &mut onward);
    w.run_for(secs(2));
    assert_eq!((w.records().len(), looped(&w), w.counters().conversations_onward), (2, 2, 0));
}

#[test]
fn t17_so_many_may_come_back_at_once() {
    let w = world(|settings| settings.call.max_reentries = 2);
    let (mut customer, mut onward) = taken_on(&w, of_session(&w));
    let (mut second, mut behind) = taken_on(&w, of_session(&w));
    let (mut third, mut end) = taken_on(&w, of_session(&w));
    is_a_loop(&w, of_session(&w));
    let_go(&mut third, &mut end);
    w.run_for(secs(2));
    let (mut third, mut end) = taken_on(&w, of_session(&w));
    is_a_loop(&w, of_session(&w));
    for (customer, onward) in [(&mut third, &mut end), (&mut second, &mut behind), (&mut customer, &mut onward)] {
        let_go(customer, onward);
    }
}

#[test]
fn t17_none_comes_back_where_none_may() {
    let w = world(|settings| settings.call.max_reentries = 0);
    let (mut customer, mut onward) = taken_on(&w, of_session(&w));
    is_a_loop(&w, of_session(&w));
    is_a_loop(&w, w.ivr.call().header("X-GA-extConversationId", &SESSION[..32]));
    is_a_loop(&w, w.ivr.call().header("User-to-User", &format!("conversation={}", &SESSION[..32])));
    let_go(&mut customer, &mut onward);
    // H13: the onward leg has ended, and whoever calls now comes back from nowhere.
    let (mut customer, mut onward) = taken_on(&w, of_session(&w));
    hang_up(&mut customer, &mut onward);
}

#[test]
fn t17_a_caller_who_names_no_conversation_comes_back_from_nowhere() {
    let w = world(|settings| {
        settings.call.max_reentries = 0;
        settings.conversations.by_caller = true;
    });
    let (mut customer, mut onward) = taken_on(&w, w.ivr.call());
    let (mut other, mut further) = taken_on(&w, w.ivr.call());
    // What the onward leg was told of the conversation names it as well.
    let conversation = onward.invite.header("X-GA-extConId").to_owned();
    assert_eq!(conversation, customer.call_id.replace('@', "%40"));
    is_a_loop(&w, w.ivr.call().header("X-GA-extConversationId", &conversation));
    let_go(&mut customer, &mut onward);
    hang_up(&mut other, &mut further);
}

#[test]
fn t17_an_onward_leg_that_nobody_took_leads_nowhere() {
    let w = world(|settings| settings.call.max_reentries = 0);
    let (mut customer, mut onward) = sent_on(&w, of_session(&w));
    is_a_loop(&w, of_session(&w));
    onward.respond(486);
    onward.expect("ACK");
    let mut next = w.queue.expect_invite();
    is_a_loop(&w, of_session(&w));
    next.respond(486);
    next.expect("ACK");
    customer.expect_and_ok("BYE");
    let (mut customer, mut onward) = taken_on(&w, of_session(&w));
    let_go(&mut customer, &mut onward);
}
