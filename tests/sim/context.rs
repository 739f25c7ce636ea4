//! B: the outputContext is late, odd or missing.

use switchback::b2bua::io::{FailureClass, OutputContext, Transfer, TransferStatus};
use switchback::call::verdict::{EndedBy, Outcome, Phase};
use switchback::store::contexts::Contexts;

use crate::asapp::completed;
use crate::engine::{UNIX_MS, ms, secs};
use crate::happy::talk;
use crate::peer::Line;
use crate::relay::Hears;
use crate::text::Sip;
use crate::world::World;

/// GenerativeAgent says goodbye.
fn ended(w: &World) -> Line {
    let (customer, mut genagent) = talk(w);
    w.run_for(secs(20));
    genagent.bye();
    genagent.expect("200 BYE");
    customer
}

fn handed_back(w: &World, customer: &mut Line, outcome: Outcome) -> Sip {
    let bye = customer.expect_and_ok("BYE");
    assert_eq!(bye.header("X-Switchback-Outcome"), outcome.as_str());
    assert_eq!(bye.header("X-Switchback-Context"), w.context().reference);
    assert_eq!(w.verdict().0, outcome);
    bye
}

#[test]
fn b1_polled_until_completed() {
    let w = World::new();
    let mut customer = ended(&w);
    for _ in 0..2 {
        w.api.expect_fetch().answer_status(TransferStatus::Ongoing);
        assert!(matches!(w.hears(&customer), Hears::Sound(_)));
    }
    w.api.expect_fetch().answer_completed("AGENT", &[("reason", "billing")]);
    let bye = handed_back(&w, &mut customer, Outcome::Agent);
    assert_eq!(bye.header("X-GA-tv-reason"), "billing");
    assert_eq!(w.record().verdict.evidence.polls, 3);
}

#[test]
fn b2_ongoing_to_the_deadline() {
    let w = World::new();
    let mut customer = ended(&w);
    let began = w.now();
    for _ in 0..6 {
        w.api.expect_fetch().answer_status(TransferStatus::Ongoing);
    }
    handed_back(&w, &mut customer, Outcome::Unconfirmed);
    assert!((ms(2900)..ms(3200)).contains(&(w.now() - began)), "at the deadline: {:?}", w.now() - began);
    assert_eq!(w.record().verdict.evidence.api_status.as_deref(), Some("ONGOING"));
    w.golden("b2");
}

#[test]
fn b3_an_api_in_trouble_to_the_deadline() {
    let w = World::new();
    let mut customer = ended(&w);
    for _ in 0..3 {
        w.api.expect_fetch().fail(FailureClass::ServerError);
    }
    let bye = handed_back(&w, &mut customer, Outcome::ContextMissing);
    assert!(!bye.has("X-GA-transfer") && bye.has("X-GA-extConId"), "ids to ask with, and nothing else");
}

#[test]
fn b4_asapp_does_not_know_the_transfer() {
    let w = World::new();
    let mut customer = ended(&w);
    w.api.expect_fetch().fail(FailureClass::NotFound);
    handed_back(&w, &mut customer, Outcome::ContextMissing);
}

#[test]
fn b5_completed_with_nothing_or_with_words_we_do_not_know() {
    let nothing = Transfer { status: Some(TransferStatus::Completed), dated: UNIX_MS, ..Transfer::default() };
    let empty = Transfer { output: Some(OutputContext::default()), ..nothing.clone() };
    for (answer, kind) in [(nothing, None), (empty, None), (completed("ROBOT", &[], &[]), Some("ROBOT"))] {
        let w = World::new();
        let mut customer = ended(&w);
        w.api.expect_fetch().answer(Ok(answer));
        handed_back(&w, &mut customer, Outcome::Unspecified);
        assert_eq!(w.record().verdict.evidence.transfer_type.as_deref(), kind, "kept raw");
    }
    let w = World::new();
    let mut customer = ended(&w);
    w.api.expect_fetch().answer_completed("agent", &[]);
    handed_back(&w, &mut customer, Outcome::Agent);
}

#[test]
fn b6_a_huge_and_hostile_context() {
    let w = World::new();
    let mut customer = ended(&w);
    let (long, wide) = ("x".repeat(65_536), "é".repeat(100));
    let hostile = [
        ("long", long.as_str()),
        ("wide", &wide),
        ("crlf", "1\r\nX-Evil: 1\r\n\r\nBYE sip:x SIP/2.0"),
        ("quotes", "\"<>;,\\\""),
        ("", "nameless"),
        ("na\r\nme", "x"),
        ("Reason", "x"),
        ("ok", "fine"),
        ("a", &"a".repeat(200)),
        ("b", &"b".repeat(200)),
        ("c", &"c".repeat(200)),
        ("d", &"d".repeat(200)),
        ("e", &"e".repeat(200)),
        ("f", &"f".repeat(200)),
    ];
    w.api.expect_fetch().answer_completed("AGENT\r\nX-Evil: 2", &hostile);
    let bye = customer.expect_and_ok("BYE");
    assert!(!bye.has("X-Evil") && bye.body.is_empty(), "{bye:?}");
    assert_eq!(bye.header("X-GA-tv-ok"), "fine");
    assert!(!bye.has("X-GA-tv-long"), "left out whole");
    assert!(bye.headers.iter().all(|(_, value)| value.bytes().all(|b| (b' '..0x7f).contains(&b))));
    let kept = w.context().output.expect("all of it is kept behind the reference").transfer_variables;
    assert_eq!(kept.len(), hostile.len());
    let back = w.record().hand_back.expect("handed back");
    assert_eq!((back.values_sent + back.values_left_out) as usize, hostile.len());
}

#[test]
fn b6_a_hand_back_fits_into_one_datagram() {
    let w = World::new();
    let mut customer = ended(&w);
    let value = "v".repeat(128);
    let names: Vec<String> = (0..8).map(|n| format!("a-variable-with-quite-a-long-name-number-{n}")).collect();
    let variables: Vec<_> = names.iter().map(|name| (name.as_str(), value.as_str())).collect();
    w.api.expect_fetch().answer_completed("AGENT", &variables);
    let bye = handed_back(&w, &mut customer, Outcome::Agent);
    assert!(bye.octets().len() <= 1300, "a request on UDP has at most 1,300 octets: {}", bye.octets().len());
    assert!(bye.has("X-GA-tv-a-variable-with-quite-a-long-name-number-0"));
}

#[test]
fn b7_expired_although_genagent_answered() {
    let w = World::new();
    let mut customer = ended(&w);
    w.api.expect_fetch().answer_status(TransferStatus::Expired);
    handed_back(&w, &mut customer, Outcome::Unconfirmed);
}

#[test]
fn b8_the_customer_hangs_up_during_the_get() {
    let w = World::new();
    let mut customer = ended(&w);
    let get = w.api.expect_fetch();
    customer.bye();
    customer.expect("200 BYE");
    get.after(ms(700)).answer_completed("AGENT", &[("late", "but kept")]);
    customer.expect_nothing_for(secs(3));
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::Collecting));
    let record = w.record();
    assert_eq!((record.hand_back, record.verdict.evidence.transfer_type.as_deref()), (None, Some("AGENT")));
    assert!(w.context().output.is_some());
}

/// What the admin port finds by this Call-ID (`GET /v1/context?call_id=…`).
pub fn found(w: &World, call_id: &str) -> Option<String> {
    let (contexts, stage) = (Contexts::default(), w.stage());
    stage.engine.published.iter().for_each(|context| contexts.put(stage.engine.now, context.clone()));
    contexts.of_call(stage.engine.now, call_id).map(|context| context.outcome.clone())
}

#[test]
fn t14_who_keeps_no_header_of_our_bye_finds_the_context_by_its_call_id() {
    let w = World::new();
    let mut customer = ended(&w);
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    let bye = customer.expect_and_ok("BYE");
    assert_eq!(found(&w, bye.call_id()).as_deref(), Some("agent"));
    assert_eq!(found(&w, "other@ivr"), None);
}
