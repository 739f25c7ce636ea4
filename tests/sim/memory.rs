//! H12, H13: conversations that go on in another call, and what is laid down for them beforehand.

use std::collections::BTreeMap;
use std::time::Duration;

use switchback::b2bua::io::{Erasure, LaidDown, Remembered};
use switchback::call::ConversationId;
use switchback::call::intake::ConversationSource;
use switchback::call::verdict::Outcome;

use crate::asapp::NUMBER;
use crate::engine::{UNIX_MS, secs};
use crate::peer::{Draft, Line};
use crate::world::World;

const KEY: &str = "X-GA-extConversationId";
const WINDOW: Duration = Duration::from_secs(30 * 60);

/// Brings this call to where both talk; also returns the conversation and the id of its transfer.
fn talk(w: &World, draft: Draft<'_>) -> (Line, Line, String, String) {
    let mut customer = draft.invite();
    customer.expect("180");
    let post = w.api.expect_create();
    let (conversation, transfer) = (post.body().conversation.0.clone(), post.id());
    // Each transfer has a number of its own.
    post.answer_number(&format!("+1999555{:04}", w.api.asked()), secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(secs(5));
    (customer, genagent, conversation, transfer)
}

/// A call in which the customer hangs up; returns its conversation.
fn hung_up(w: &World, draft: Draft<'_>) -> String {
    let (mut customer, mut genagent, conversation, _) = talk(w, draft);
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    w.run_for(secs(2));
    conversation
}

/// A call that GenerativeAgent ends; returns its conversation.
fn handed_back(w: &World, draft: Draft<'_>) -> String {
    let (mut customer, mut genagent, conversation, _) = talk(w, draft);
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    customer.expect_and_ok("BYE");
    w.run_for(secs(2));
    conversation
}

fn known_by_number() -> World {
    World::set(|settings| settings.conversations.by_caller = true)
}

fn on_disk(w: &World) -> Vec<Remembered> {
    w.stage().engine.on_disk.values().cloned().collect()
}

fn sources(w: &World) -> Vec<ConversationSource> {
    w.records().iter().map(|record| record.conversation_source).collect()
}

fn erase(w: &World, id: &str) -> Erasure {
    let erasure = {
        let engine = &mut w.stage().engine;
        engine.core.erase(engine.now, &ConversationId(id.to_owned()))
    };
    w.run_for(Duration::ZERO);
    erasure
}

fn lay_down(w: &World, id: &str, task: &str, variables: &[(&str, &str)]) -> Result<(), String> {
    let variables: BTreeMap<_, _> = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let input = LaidDown { task: Some(task.to_owned()), variables };
    let engine = &mut w.stage().engine;
    engine.core.lay_down(engine.now, ConversationId(id.to_owned()), input)
}

#[test]
fn h12_a_call_back_with_the_same_key_resumes_the_conversation() {
    let w = World::new();
    let (mut customer, mut genagent, first, transfer) = talk(&w, w.ivr.call().header(KEY, "conv-1"));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    w.run_for(secs(600));
    let (mut customer, mut genagent, again, other) =
        talk(&w, w.ivr.call().header("User-to-User", "conversation=conv-1"));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    w.run_for(secs(2));
    assert_eq!((first.as_str(), again.as_str()), ("conv-1", "conv-1"));
    assert_ne!(transfer, other, "a transfer id of its own");
    let records = w.records();
    assert_eq!((records[0].resumes, records[1].resumes), (None, Some(records[0].call)));
    assert_eq!(sources(&w), [ConversationSource::Header, ConversationSource::Uui]);
}

#[test]
fn h12_a_conversation_without_a_key_is_resumed_by_the_callers_number_where_that_is_wanted() {
    let w = known_by_number();
    let first = hung_up(&w, w.ivr.call().calling_as("+15557654321"));
    let stranger = hung_up(&w, w.ivr.call().calling_as("+15550000000"));
    let again = hung_up(&w, w.ivr.call().calling_as("15557654321"));
    assert_eq!(again, first);
    assert_ne!(stranger, first);
    let called = ConversationSource::CallId;
    assert_eq!(sources(&w), [called, called, ConversationSource::Caller]);
    assert_eq!(w.records()[2].resumes, Some(w.records()[0].call));
}

#[test]
fn h12_a_number_means_nothing_unless_it_is_switched_on() {
    let w = World::new();
    let first = hung_up(&w, w.ivr.call());
    assert_ne!(hung_up(&w, w.ivr.call()), first, "the number could be forged");
    assert!(on_disk(&w).iter().all(|remembered| remembered.caller.is_none()), "and it is not kept");
}

#[test]
fn h12_a_key_comes_before_the_number() {
    let w = known_by_number();
    hung_up(&w, w.ivr.call());
    let session = "ab30317f1a784dc48ff824d0d3715d86";
    let keys = [(KEY, "conv-9", "conv-9"), ("Session-ID", &format!("{session};remote=0"), session)];
    for (name, value, id) in keys {
        assert_eq!(hung_up(&w, w.ivr.call().header(name, value)), id);
    }
    let nil = "00000000000000000000000000000000";
    assert_eq!(hung_up(&w, w.ivr.call().header("Session-ID", nil)), session, "the nil UUID names nothing");
}

#[test]
fn h12_what_many_callers_share_names_nobody() {
    for shared in ["anonymous", "1000", "ivr", "+1555765432112345"] {
        let w = known_by_number();
        let first = hung_up(&w, w.ivr.call().calling_as(shared));
        assert_ne!(hung_up(&w, w.ivr.call().calling_as(shared)), first, "{shared}");
    }
}

#[test]
fn h12_nobody_joins_a_conversation_that_is_going_on() {
    let w = known_by_number();
    let first = hung_up(&w, w.ivr.call());
    let (mut customer, mut genagent, resumed, _) = talk(&w, w.ivr.call());
    let meanwhile = hung_up(&w, w.ivr.call());
    assert_eq!(resumed, first);
    assert_ne!(meanwhile, first);
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    w.run_for(secs(2));
    let known: Vec<_> = on_disk(&w).into_iter().filter(|it| it.caller.is_some()).collect();
    assert_eq!(known.len(), 1, "a caller has one conversation to go on with");
    assert_eq!(known[0].conversation.0, first);
}

#[test]
fn h12_after_the_window_it_is_forgotten_everywhere() {
    let w = known_by_number();
    let first = hung_up(&w, w.ivr.call());
    assert_eq!(on_disk(&w).len(), 1);
    w.run_for(WINDOW);
    assert_eq!(on_disk(&w), [], "without any call that asks");
    assert_eq!(w.counters().conversations_remembered, 0);
    assert_ne!(hung_up(&w, w.ivr.call()), first);
    assert_eq!(w.records()[1].resumes, None);
}

#[test]
fn h12_a_late_timer_makes_no_conversation_live_longer() {
    let w = known_by_number();
    let first = hung_up(&w, w.ivr.call());
    w.stage().engine.arrivals_first = true;
    w.run_for(WINDOW - secs(3));
    w.stall(secs(30));
    assert_ne!(hung_up(&w, w.ivr.call()), first);
}

#[test]
fn h12_a_window_of_zero_remembers_nothing() {
    let w = World::set(|settings| settings.conversations.resume_window = Duration::ZERO);
    hung_up(&w, w.ivr.call().header(KEY, "conv-1"));
    assert_eq!(on_disk(&w), []);
}

#[test]
fn h12_what_is_remembered_is_bounded_and_the_oldest_goes_first() {
    let w = World::set(|settings| settings.conversations.max = 2);
    for id in ["conv-1", "conv-2", "conv-3", "conv-2"] {
        hung_up(&w, w.ivr.call().header(KEY, id));
    }
    let kept: Vec<_> = on_disk(&w).into_iter().map(|it| it.conversation.0).collect();
    assert_eq!(kept, ["conv-2", "conv-3"]);
    hung_up(&w, w.ivr.call().header(KEY, "conv-4"));
    let kept: Vec<_> = on_disk(&w).into_iter().map(|it| it.conversation.0).collect();
    assert_eq!(kept, ["conv-2", "conv-4"], "conv-3 ended before conv-2 did for the second time");
    assert_eq!(w.counters().conversations_remembered, 2);
}

#[test]
fn h12_a_conversation_that_came_to_its_end_is_not_resumed() {
    let w = known_by_number();
    let first = hung_up(&w, w.ivr.call());
    assert_eq!(handed_back(&w, w.ivr.call()), first);
    assert_eq!(on_disk(&w), []);
    assert_ne!(hung_up(&w, w.ivr.call()), first);
}

#[test]
fn h12_a_call_that_reached_nobody_leaves_it_as_it_was() {
    let w = known_by_number();
    let first = hung_up(&w, w.ivr.call());
    let before = on_disk(&w);
    let mut customer = w.ivr.call().invite();
    customer.expect("180");
    let post = w.api.expect_create();
    assert_eq!(post.body().conversation.0, first);
    customer.cancel();
    customer.expect("200 CANCEL");
    customer.expect_refusal(487);
    post.answer_number(NUMBER, secs(60));
    w.run_for(secs(5));
    assert_eq!(w.records()[1].verdict.outcome, Outcome::CustomerHungUp);
    assert_eq!(on_disk(&w), before);
    assert_eq!(hung_up(&w, w.ivr.call()), first);
}

#[test]
fn h12_the_next_run_remembers_what_this_one_wrote_down() {
    let w = known_by_number();
    let first = hung_up(&w, w.ivr.call());
    let written = on_disk(&w);
    let next = known_by_number();
    let stale = Remembered {
        conversation: ConversationId("stale".to_owned()),
        ended_at: UNIX_MS - WINDOW.as_millis() as i64,
        ..written[0].clone()
    };
    starts_with(&next, [vec![stale], written].concat());
    assert_eq!(on_disk(&next).len(), 1, "what was kept long enough is struck out at once");
    assert_eq!(hung_up(&next, next.ivr.call()), first);

    let off = World::new();
    starts_with(&off, on_disk(&next));
    assert_eq!(on_disk(&off).len(), 1);
    assert!(on_disk(&off).iter().all(|it| it.caller.is_none()), "numbers go when they are switched off");
}

/// This is on the disk of a world that begins.
fn starts_with(w: &World, remembered: Vec<Remembered>) {
    let engine = &mut w.stage().engine;
    engine.on_disk = remembered.iter().map(|it| (it.conversation.0.clone(), it.clone())).collect();
    for change in engine.core.recall(engine.now, remembered) {
        engine.write_down(change);
    }
}

#[test]
fn h12_an_erased_conversation_is_not_resumed() {
    let w = known_by_number();
    let first = hung_up(&w, w.ivr.call());
    let (mut customer, mut genagent, ..) = talk(&w, w.ivr.call());
    assert_eq!(erase(&w, &first), Erasure::InUse, "its call would bring it back");
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    w.run_for(secs(2));
    assert_eq!(erase(&w, &first), Erasure::Erased);
    assert_eq!((on_disk(&w), erase(&w, &first)), (vec![], Erasure::Unknown));
    assert_ne!(hung_up(&w, w.ivr.call()), first);
}

#[test]
fn h12_operators_find_conversations_by_number() {
    let w = known_by_number();
    let first = hung_up(&w, w.ivr.call().calling_as("+15557654321"));
    let second = hung_up(&w, w.ivr.call().calling_as("+15550000000"));
    let found = |caller: Option<&str>| {
        let engine = &mut w.stage().engine;
        let found = engine.core.conversations(engine.now, caller, 10);
        found.into_iter().map(|it| it.conversation.0).collect::<Vec<_>>()
    };
    assert_eq!(found(None), [second, first.clone()], "the last one first");
    for written in ["+15557654321", " 15557654321", "15557654321"] {
        assert_eq!(found(Some(written)), std::slice::from_ref(&first), "{written}");
    }
    assert!(found(Some("anonymous")).is_empty());
    let shown = serde_json::to_string(&on_disk(&w)).unwrap();
    assert!(shown.contains("*******4321") && !shown.contains("5557654321"), "{shown}");
}

#[test]
fn h13_a_second_transfer_in_the_same_conversation() {
    let w = World::new();
    let (mut customer, mut genagent, first, transfer) = talk(&w, w.ivr.call().header(KEY, "conv-1"));
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("SYSTEM", &[]);
    customer.expect_and_ok("BYE");
    let (mut customer, mut genagent, again, other) = talk(&w, w.ivr.call().header(KEY, "conv-1"));
    genagent.bye();
    genagent.expect("200 BYE");
    w.api.expect_fetch().answer_completed("AGENT", &[]);
    customer.expect_and_ok("BYE");
    w.run_for(secs(2));
    assert_eq!(first, again);
    assert_ne!(transfer, other);
    let records = w.records();
    assert_eq!(records[0].conversation, records[1].conversation);
    assert_ne!(records[0].call, records[1].call);
    assert_eq!(records[1].resumes, None, "nothing broke off");
}

#[test]
fn h15_input_laid_down_beforehand_is_taken_once() {
    let w = World::new();
    lay_down(&w, "conv-1", "Billing", &[("plan", "gold"), ("site", "north\r\nX: 1")]).unwrap();
    assert_eq!(w.counters().inputs_laid_down, 1);
    let mut customer = w.ivr.call().header(KEY, "conv-1").header("X-GA-iv-plan", "silver").invite();
    let post = w.api.expect_create();
    assert_eq!(post.body().task.as_deref(), Some("Billing"));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(post.body().variables, [pair("plan", "silver"), pair("site", "north  X: 1")], "the request comes first");
    post.fail(switchback::b2bua::io::FailureClass::Refused);
    customer.expect("180");
    customer.expect_refusal(480);
    w.ivr.call().header(KEY, "conv-1").invite();
    let post = w.api.expect_create();
    assert_eq!((post.body().task.as_deref(), post.body().variables.len()), (None, 0));
    post.fail(switchback::b2bua::io::FailureClass::Refused);
}

#[test]
fn h15_input_that_nobody_takes_expires_and_is_bounded() {
    let w = World::set(|settings| settings.conversations.max_inputs = 2);
    for id in ["a", "b", "c"] {
        lay_down(&w, id, "Billing", &[]).unwrap();
    }
    assert_eq!(w.counters().inputs_laid_down, 2);
    assert_eq!((erase(&w, "a"), erase(&w, "b")), (Erasure::Unknown, Erasure::Erased));
    w.run_for(secs(600));
    assert_eq!(w.counters().inputs_laid_down, 0);
    assert!(lay_down(&w, "a", "Billing", &[("x", &"v".repeat(1025))]).unwrap_err().contains("1024"));
    assert!(lay_down(&w, "", "Billing", &[]).is_err());
    let off = World::set(|settings| settings.conversations.input_window = Duration::ZERO);
    assert!(lay_down(&off, "a", "Billing", &[]).unwrap_err().contains("input_window"));
}
