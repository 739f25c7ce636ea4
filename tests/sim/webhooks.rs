//! The rung `webhook:NAME`: a service of the customer's says where the call goes, or misbehaves.

use std::time::Duration;

use bytes::Bytes;
use switchback::b2bua::io::{OperatorCommand, Sound};
use switchback::b2bua::settings::Settings;
use switchback::call::rules::Matcher;
use switchback::call::settings::EntrySetting;
use switchback::call::verdict::Outcome;
use switchback::call::webhook::Webhook;

use crate::engine::{ms, secs};
use crate::happy::talk;
use crate::ladders::{asks_for_a_person, rules, tried};
use crate::peer::Line;
use crate::relay::Hears;
use crate::world::World;

fn webhook() -> Webhook {
    Webhook { limit: secs(2), allow_drop: false }
}

fn with_webhook(change: impl FnOnce(&mut Settings)) -> World {
    World::set(|settings| {
        settings.call.webhooks = [("router".to_owned(), webhook())].into();
        rules(settings, [(Matcher::default(), &["webhook:router", "bye", "refuse:480"])]);
        change(settings);
    })
}

/// The webhook will answer so.
fn answers(w: &World, after: Duration, answer: Result<&str, &str>) {
    let answer = answer.map(|body| Bytes::copy_from_slice(body.as_bytes())).map_err(str::to_owned);
    w.stage().engine.advice.push_back((after, answer));
}

/// The customer talks and GenerativeAgent asks for a person.
fn asked(w: &World) -> Line {
    let (customer, mut genagent) = talk(w);
    asks_for_a_person(w, &mut genagent);
    w.run_until("a question", |stage| !stage.engine.inquiries.is_empty());
    customer
}

#[test]
fn it_is_told_everything_and_its_ladder_is_climbed() {
    let w = with_webhook(|_| {});
    answers(&w, ms(300), Ok(r#"{"ladder": ["dial:queue", "bye"]}"#));
    let mut customer = asked(&w);
    assert_eq!(w.hears(&customer), Hears::Sound(Sound::Waiting), "the customer waits, but not in a dead line");
    let inquiry = w.stage().engine.inquiries[0].clone();
    assert_eq!((inquiry.webhook.as_str(), inquiry.timeout), ("router", secs(2)));
    let told: serde_json::Value = serde_json::from_slice(&inquiry.body).expect("JSON");
    assert_eq!(told["verdict"]["outcome"], "agent");
    assert_eq!(told["output"]["transferVariables"]["priority"], "high");
    assert_eq!((&told["answered"], &told["entry"]), (&true.into(), &"supervised".into()));
    assert_eq!(told["reference"], w.context().reference);
    let mut queue = w.queue.expect_invite();
    queue.answer();
    queue.expect("ACK");
    w.run_for(ms(5));
    assert!(w.talking(&customer, &queue));
    customer.bye();
    customer.expect("200 BYE");
    queue.expect_and_ok("BYE");
    assert_eq!(tried(&w), ["webhook:router obeyed", "dial:queue answered"]);
    w.golden("webhook");
}

#[test]
fn what_it_names_comes_before_what_is_left_of_the_ladder() {
    let w = with_webhook(|_| {});
    answers(&w, ms(10), Ok(r#"{"ladder": "dial:queue"}"#));
    let mut customer = asked(&w);
    for _ in 0..2 {
        let mut queue = w.queue.expect_invite();
        queue.respond(486);
        queue.expect("ACK");
    }
    assert_eq!(customer.expect_and_ok("BYE").header("X-GA-transfer"), "AGENT");
    assert_eq!(tried(&w)[3], "bye done");
}

#[test]
fn any_other_answer_fails_the_rung_and_the_next_follows_at_once() {
    let long = format!(r#"{{"ladder": [{}]}}"#, vec![r#""dial:queue""#; 40].join(","));
    for (answer, said) in [
        (Err("answered 500"), "answered 500"),
        (Ok(""), "no ladder"),
        (Ok("<html>"), "no ladder"),
        (Ok(r#"{"ladder": "dial:queue", "more": 1}"#), "no ladder"),
        (Ok(r#"{"ladder": []}"#), "no rung for this call"),
        (Ok(r#"{"ladder": "refuse:480"}"#), "no rung for this call"),
        (Ok(r#"{"ladder": "dial:elsewhere"}"#), "no target elsewhere"),
        (Ok(r#"{"ladder": "dial:sip:evil@example.com"}"#), "no target sip:evil@example.com"),
        (Ok(r#"{"ladder": ["bye", "dial:queue"]}"#), "a rung behind bye"),
        (Ok(r#"{"ladder": ["webhook:router"]}"#), "webhook:router in an answer"),
        (Ok(r#"{"ladder": "fly\r\nX-Evil: 1"}"#), "no ladder"),
        (Ok(long.as_str()), "more than 16 rungs"),
    ] {
        let w = with_webhook(|_| {});
        answers(&w, ms(50), answer);
        let mut customer = asked(&w);
        let began = w.now();
        let bye = customer.expect_and_ok("BYE");
        assert!(w.now() - began < ms(500) && !bye.has("X-Evil"), "{answer:?}");
        let result = &tried(&w)[0];
        assert!(result.starts_with(&format!("webhook:router {said}")) && result.len() < 150, "{answer:?}: {result}");
        assert!(result.chars().all(|c| !c.is_control()), "{result:?}");
        assert_eq!(tried(&w)[1], "bye done");
    }
}

#[test]
fn a_silent_one_has_its_time_limit() {
    let w = with_webhook(|_| {});
    answers(&w, secs(30), Ok(r#"{"ladder": "dial:queue"}"#));
    let mut customer = asked(&w);
    let began = w.now();
    customer.expect_and_ok("BYE");
    assert!((secs(2)..ms(2_100)).contains(&(w.now() - began)), "{:?}", w.now() - began);
    assert_eq!(tried(&w), ["webhook:router no answer in 2s", "bye done"]);
}

#[test]
fn a_redirected_customer_is_not_hung_up_on_unless_that_is_permitted() {
    for allow_drop in [false, true] {
        let w = with_webhook(|settings| {
            settings.call.entry = EntrySetting::Redirected;
            settings.call.webhooks = [("router".to_owned(), Webhook { allow_drop, ..webhook() })].into();
            rules(settings, [(Matcher::default(), &["webhook:router", "dial:queue", "refuse:480"])]);
        });
        answers(&w, ms(10), Ok(r#"{"ladder": "bye"}"#));
        let mut customer = asked(&w);
        if allow_drop {
            customer.expect_and_ok("BYE");
            assert_eq!(tried(&w), ["webhook:router obeyed", "bye done"]);
            continue;
        }
        let mut queue = w.queue.expect_invite();
        assert_eq!(queue.invite.uri(), "sip:queue@pbx.example");
        queue.answer();
        queue.expect("ACK");
        customer.bye();
        customer.expect("200 BYE");
        queue.expect_and_ok("BYE");
        assert_eq!(tried(&w)[0], "webhook:router bye for a redirected customer");
    }
}

#[test]
fn a_customer_who_was_never_answered_is_asked_about_too() {
    let w = with_webhook(|_| {});
    answers(&w, ms(10), Ok(r#"{"ladder": ["bye", "redirect:queue"]}"#));
    let mut customer = w.ivr.invite();
    customer.expect("180");
    w.api.expect_create().fail(switchback::b2bua::io::FailureClass::Refused);
    customer.expect_refusal(302);
    assert_eq!(tried(&w), ["webhook:router obeyed", "redirect:queue done"]);
}

#[test]
fn a_customer_who_hangs_up_meanwhile_goes_nowhere() {
    let w = with_webhook(|_| {});
    answers(&w, ms(500), Ok(r#"{"ladder": "dial:queue"}"#));
    let mut customer = asked(&w);
    customer.bye();
    customer.expect("200 BYE");
    w.run_for(secs(3));
    assert_eq!(w.count(&w.queue, "INVITE"), 0);
    assert_eq!(tried(&w), ["webhook:router customer hung up"]);
}

#[test]
fn an_operator_and_a_stop_do_not_wait_for_it() {
    for stop in [true, false] {
        let w = with_webhook(|_| {});
        let mut customer = asked(&w);
        let call = {
            let stage = w.stage();
            stage.engine.core.live_calls(stage.engine.now)[0].call
        };
        w.operator(if stop { OperatorCommand::Stop } else { OperatorCommand::PullBack(call) });
        customer.expect_and_ok("BYE");
        assert_eq!(w.verdict().0, Outcome::Agent);
    }
}
