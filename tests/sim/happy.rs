//! H: calls as they should go.

use switchback::b2bua::io::{FailureClass, SipReturn, Sound, Transfer, TransferKind, TransferStatus};
use switchback::call::settings::{DialledEntry, Return, Ringing, WayIn};
use switchback::call::verdict::{EndedBy, Outcome, Phase};

use crate::asapp::{NUMBER, completed};
use crate::engine::{ms, secs};
use crate::peer::Line;
use crate::relay::Hears;
use crate::text;
use crate::world::World;

/// Brings a call to where both talk.
pub fn talk(w: &World) -> (Line, Line) {
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    assert!(w.talking(&customer, &genagent), "{}", w.ladder());
    (customer, genagent)
}

#[test]
fn h1_genagent_ends_the_call_and_a_person_takes_over() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    w.run_for(secs(60));
    genagent.bye();
    let get = w.api.expect_fetch();
    genagent.expect("200 BYE");
    get.after(secs(2)).answer_completed("AGENT", &[("priority", "high")]);
    let bye = customer.expect_and_ok("BYE");
    assert_eq!(bye.all("Reason")[0], "Q.850;cause=16");
    assert_eq!(bye.header("X-GA-transfer"), "AGENT");
    assert_eq!(bye.header("X-GA-tv-priority"), "high");
    assert_eq!(w.verdict(), (Outcome::Agent, EndedBy::Genagent, Phase::Talking));
    w.golden("h1");
}

#[test]
fn h1_the_bye_is_answered_before_asapp_is() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    let said = w.now();
    genagent.bye();
    genagent.expect("200 BYE");
    assert!(w.now() - said < ms(200));
    let get = w.api.expect_fetch();
    assert!(matches!(w.hears(&customer), Hears::Sound(_)), "the customer waits, but not in a dead line");
    get.after(ms(2900)).answer_completed("AGENT", &[]);
    customer.expect_and_ok("BYE");
}

#[test]
fn h2_only_listed_variables_go_back() {
    let w = World::set(|settings| {
        settings.call.context.transfer_variables = vec!["plan".to_owned()];
        settings.call.context.reference_variables = vec!["order".to_owned()];
    });
    let (mut customer, mut genagent) = talk(&w);
    genagent.bye();
    genagent.expect("200 BYE");
    let secret = [("order", "7"), ("ssn", "123")];
    w.api.expect_fetch().answer(Ok(completed("SYSTEM", &[("plan", "gold plus"), ("note", "x")], &secret)));
    let bye = customer.expect_and_ok("BYE");
    assert_eq!(bye.header("X-GA-transfer"), "SYSTEM");
    assert_eq!((bye.header("X-GA-tv-plan"), bye.header("X-GA-rv-order")), ("gold%20plus", "7"));
    let ours = bye.headers.iter().filter(|(name, _)| name.starts_with("X-GA-tv") || name.starts_with("X-GA-rv"));
    assert_eq!(ours.count(), 2, "{bye:?}");
    let record = w.record();
    assert_eq!(record.verdict.outcome, Outcome::System);
    assert_eq!(record.hand_back.map(|back| (back.values_sent, back.values_left_out)), Some((2, 0)));
    assert_eq!(w.context().output.map(|output| output.reference_variables.len()), Some(2), "all of it by reference");
}

#[test]
fn h5_the_customer_hangs_up() {
    let w = World::new();
    let (mut customer, mut genagent) = talk(&w);
    w.run_for(secs(30));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    w.api.expect_nothing_for(secs(5));
    assert_eq!(w.verdict(), (Outcome::CustomerHungUp, EndedBy::Customer, Phase::Talking));
    assert_eq!(w.record().hand_back, None);
    w.golden("h5");
}

#[test]
fn h7_ringing_until_genagent_answers() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    let ringing = customer.expect("180");
    assert!(w.now() < ms(200) && ringing.body.is_empty());
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond(180);
    customer.expect_nothing_for(secs(10));
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
    let record = w.record();
    let answered = record.answered_at.expect("the customer was answered");
    assert!((10_000..10_200).contains(&(answered - record.received_at)), "billed only from the 200");
}

#[test]
fn h7_ringback_of_our_own() {
    let w = World::set(|settings| settings.call.ringing = Ringing::EarlyMedia);
    let mut customer = w.ivr.invite();
    let progress = customer.expect("183");
    assert!(progress.audio_port().is_some());
    assert_eq!(w.hears(&customer), Hears::Sound(Sound::Ringback));
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.answer();
    genagent.expect("ACK");
    let answer = customer.expect("200");
    customer.ack();
    assert_eq!(answer.audio_port(), progress.audio_port(), "our port never moves");
    assert!(w.talking(&customer, &genagent));
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn h8_early_media_from_the_carrier() {
    let w = World::new();
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    genagent.respond_with(183, genagent.sdp());
    let early = customer.expect("183");
    assert!(w.talking(&customer, &genagent), "heard before the answer");
    genagent.answer();
    genagent.expect("ACK");
    let answer = customer.expect("200");
    assert_eq!(answer.body, early.body, "the same description");
    customer.ack();
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn h9_a_delayed_offer_is_made_in_the_200() {
    let w = World::new();
    let mut customer = w.ivr.call().without_offer().invite();
    customer.expect("180");
    w.api.expect_create().answer_number(NUMBER, secs(60));
    let mut genagent = w.carrier.expect_invite();
    assert!(genagent.told.is_some(), "our own offer");
    genagent.answer();
    genagent.expect("ACK");
    let offer = customer.expect("200");
    assert!(offer.audio_port().is_some());
    customer.ack_with(customer.sdp());
    w.run_for(ms(5));
    assert!(w.talking(&customer, &genagent), "{}", w.ladder());
    customer.bye();
    customer.expect("200 BYE");
    genagent.expect_and_ok("BYE");
}

#[test]
fn h12_h13_a_conversation_goes_on_in_another_call() {
    let w = World::new();
    let mut ids = Vec::new();
    for number in ["+19995550101", "+19995550102"] {
        let mut customer = w.ivr.call().header("X-GA-extConversationId", "conv-42").invite();
        customer.expect("180");
        let post = w.api.expect_create();
        assert_eq!(post.body().conversation.0, "conv-42");
        ids.push(post.id());
        post.answer_number(number, secs(60));
        let mut genagent = w.carrier.expect_invite();
        genagent.answer();
        genagent.expect("ACK");
        customer.expect("200");
        customer.ack();
        genagent.bye();
        genagent.expect("200 BYE");
        w.api.expect_fetch().answer_completed("SYSTEM", &[]);
        let bye = customer.expect_and_ok("BYE");
        assert_eq!(bye.header("X-GA-extConId"), "conv-42");
        w.run_for(secs(2));
    }
    assert_ne!(ids[0], ids[1], "each transfer has an id of its own");
    let records = w.records();
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record.conversation.0 == "conv-42"));
}

#[test]
fn h15_input_context_from_headers_uui_and_the_dialled_user() {
    let w = World::set(|settings| {
        let variables = [("site", "north"), ("plan", "table")].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        let entry = DialledEntry { task: Some("Billing".to_owned()), variables };
        settings.call.intake.dialled.insert("8000".to_owned(), entry);
    });
    let mut customer = w
        .ivr
        .call()
        .dialling("8000")
        .header("X-GA-extConversationId", "conv-7")
        .header("x-ga-IV-plan", "gold%20caf%C3%A9")
        .header("X-GA-customerId", "c-9")
        .header("X-GA-iv-long", &"x".repeat(2000))
        .header("User-to-User", "6c616e673d6573;encoding=hex")
        .invite();
    customer.expect("180");
    let post = w.api.expect_create();
    let body = post.body();
    let variables: Vec<_> = body.variables.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(variables, [("plan", "gold café"), ("customerId", "c-9"), ("lang", "es"), ("site", "north")]);
    assert_eq!(
        (body.conversation.0.as_str(), &body.kind),
        ("conv-7", &TransferKind::PhoneNumber { country: "US".into() })
    );
    assert_eq!(body.task.as_deref(), Some("Billing"));
    post.fail(FailureClass::Refused);
    customer.expect_refusal(480);
    assert_eq!(w.record().input_left_out, 1);
}

#[test]
fn h14_a_transfer_of_type_sip_goes_to_genagents_own_uri_and_names_itself() {
    let w = World::set(|settings| {
        settings.call.way_in = WayIn::Sip { uri: "sip:genagent@asapp.example".to_owned(), returns: Return::Bye }
    });
    let mut customer = w.ivr.invite();
    customer.expect("180");
    let post = w.api.expect_create();
    assert_eq!(post.body().kind, TransferKind::Sip(SipReturn::Bye));
    let id = post.id();
    post.answer(Ok(Transfer { status: Some(TransferStatus::Active), ..Transfer::default() }));
    let mut genagent = w.carrier.expect_invite();
    assert_eq!(genagent.invite.uri(), "sip:genagent@asapp.example");
    assert_eq!(genagent.invite.header("X-ASAPP-CallTransferId"), id);
    genagent.answer();
    genagent.expect("ACK");
    customer.expect("200");
    customer.ack();
    w.run_for(ms(5));
    assert!(w.talking(&customer, &genagent), "{}", w.ladder());
    genagent.bye();
    let get = w.api.expect_fetch();
    assert_eq!(get.id(), id);
    genagent.expect("200 BYE");
    get.answer_completed("SYSTEM", &[]);
    assert_eq!(customer.expect_and_ok("BYE").header("X-GA-transfer"), "SYSTEM");
    assert_eq!(w.record().attempts[0].number, None);
    assert_eq!(w.verdict(), (Outcome::System, EndedBy::Genagent, Phase::Talking));
}

#[test]
fn h9_an_answer_that_cannot_be_used_ends_the_call() {
    for answer in ["", "nonsense", &text::audio("198.51.100.10", 40_000, "111", "sendrecv")] {
        let w = World::new();
        let mut customer = w.ivr.call().without_offer().invite();
        customer.expect("180");
        w.api.expect_create().answer_number(NUMBER, secs(60));
        let mut genagent = w.carrier.expect_invite();
        genagent.answer();
        genagent.expect("ACK");
        customer.expect("200");
        customer.ack_with(answer);
        assert_eq!(customer.expect_and_ok("BYE").header("Reason"), "Q.850;cause=88");
        genagent.expect_and_ok("BYE");
    }
}
