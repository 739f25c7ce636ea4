//! Whole conversations with the mock.

use serde_json::{Value, json};
use switchback::b2bua::io::{FailureClass, TransferStatus};
use switchback::clock;

use super::*;

fn behaviour(json: Value) -> Behaviour {
    serde_json::from_value(json).unwrap()
}

#[tokio::test]
async fn a_transfer_lives_from_active_to_completed() {
    let mock = mock(behaviour(json!({ "ongoing_polls": 1 }))).await;
    let client = client(mock.address());

    let made = create(&client, 2000).await.unwrap();
    let number = made.number.clone().unwrap();
    assert_eq!((number.as_str(), made.country.as_deref()), ("+19995550000", Some("US")));
    assert_eq!(made.status, Some(TransferStatus::Active));
    assert!((made.expires_at.unwrap() - clock::unix_ms() - 60_000).abs() < 2000);
    assert!((made.dated - clock::unix_ms()).abs() < 2000);
    assert_eq!(class(create(&client, 2000).await), FailureClass::Conflict);

    let info = mock.handle().call_received(number.trim_start_matches('+')).unwrap();
    assert_eq!((info.conversation.as_str(), info.task.as_deref()), ("conv-1", Some("Billing")));
    assert_eq!(Value::from(info.variables).to_string(), r#"{"zeta":"4111-1111","alpha":"ü\r\n"}"#);
    assert_eq!(fetch(&client, 2000).await.unwrap().status, Some(TransferStatus::Ongoing));
    assert_eq!(mock.handle().call_received(&number), None, "a connected number is nobody's");

    let output = json!({ "transferType": "AGENT", "transferVariables": { "b": 1, "a": "x" } });
    assert!(mock.handle().completed(&number, Some(output)));
    let lagging = fetch(&client, 2000).await.unwrap();
    assert_eq!((lagging.status, lagging.output), (Some(TransferStatus::Ongoing), None));
    let output = fetch(&client, 2000).await.unwrap().output.unwrap();
    assert_eq!(output.transfer_type.as_deref(), Some("AGENT"));
    assert_eq!(output.transfer_variables, [("b".into(), "1".into()), ("a".into(), "x".into())]);
    assert_eq!(mock.handle().requests().len(), 5);
}

#[tokio::test]
async fn an_expired_number_reaches_a_stranger_when_it_is_reused() {
    let settings = MockAsappSettings { life: Duration::ZERO, reuse: true, ..MockAsappSettings::default() };
    let mock = MockAsapp::start(settings).await.unwrap();
    let client = client(mock.address());
    let first = ask(&client, 1, operation(), 2000).await.unwrap();
    let second = ask(&client, 2, operation(), 2000).await.unwrap();
    assert_eq!(first.number, second.number);
    assert_eq!(ask(&client, 1, ApiOperation::Fetch, 2000).await.unwrap().status, Some(TransferStatus::Expired));
}

#[tokio::test]
async fn a_pool_without_a_free_number_answers_503() {
    let settings = MockAsappSettings { numbers: 1, ..MockAsappSettings::default() };
    let mock = MockAsapp::start(settings).await.unwrap();
    let client = client(mock.address());
    ask(&client, 1, operation(), 2000).await.unwrap();
    let failure = ask(&client, 2, operation(), 2000).await.unwrap_err();
    assert_eq!((failure.class, failure.status), (FailureClass::ServerError, Some(503)));
}

#[tokio::test]
async fn transfers_complete_by_themselves_for_parties_that_cannot_tell() {
    let mock = mock(behaviour(json!({
        "auto_complete": { "completed_after_ms": 0 }, "default_output": { "transferType": "SYSTEM" },
    })))
    .await;
    let client = client(mock.address());
    create(&client, 2000).await.unwrap();
    let done = fetch(&client, 2000).await.unwrap();
    assert_eq!(done.status, Some(TransferStatus::Completed));
    assert_eq!(done.output.unwrap().transfer_type.as_deref(), Some("SYSTEM"));
}

#[tokio::test]
async fn a15_a_skewed_clock_shows_in_the_date_and_in_the_expiry() {
    let mock = mock(behaviour(json!({ "skew_ms": -7_200_000 }))).await;
    let made = create(&client(mock.address()), 2000).await.unwrap();
    assert!((clock::unix_ms() - made.dated - 7_200_000).abs() < 2000);
    assert!((made.expires_at.unwrap() - made.dated - 60_000).abs() < 2000);
}

#[tokio::test]
async fn a_forced_status_lasts_for_the_requests_named_and_has_no_effect() {
    let fault = json!({ "create": { "fault": { "status": { "code": 429, "retry_after": 3 } }, "times": 2 } });
    let mock = mock(behaviour(fault)).await;
    let client = client(mock.address());
    for request_id in ["mock-000001", "mock-000002"] {
        let failure = create(&client, 2000).await.unwrap_err();
        assert_eq!((failure.class, failure.status), (FailureClass::Throttled, Some(429)));
        assert_eq!(failure.retry_after, Some(Duration::from_secs(3)));
        assert_eq!(failure.request_id.as_deref(), Some(request_id));
    }
    create(&client, 2000).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_may_or_may_not_have_had_an_effect() {
    for (effect, expected) in [(true, Ok(Some(TransferStatus::Active))), (false, Err(FailureClass::NotFound))] {
        let mock = mock(behaviour(json!({ "create": { "fault": "reset", "effect": effect } }))).await;
        let client = client(mock.address());
        assert_eq!(class(create(&client, 2000).await), FailureClass::Ambiguous);
        let found = fetch(&client, 2000).await.map(|found| found.status).map_err(|failure| failure.class);
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn a_late_answer_is_ambiguous_and_its_number_is_there_to_be_fetched() {
    for late in [
        json!({ "latency_ms": 2000 }),
        json!({ "fault": { "slow_body": { "ms": 2000 } } }),
        json!({ "fault": { "drip": { "ms": 20 } } }),
    ] {
        let mock = mock(behaviour(json!({ "create": late }))).await;
        let client = client(mock.address());
        assert_eq!(class(create(&client, 150).await), FailureClass::Ambiguous);
        assert_eq!(fetch(&client, 2000).await.unwrap().number.as_deref(), Some("+19995550000"));
    }
}

#[tokio::test]
async fn answers_can_be_wrong_in_every_documented_way() {
    let mock = mock(Behaviour::default()).await;
    let client = client(mock.address());
    for (attempt, fault, readable) in [
        (1, json!("missing_number"), true),
        (2, json!("expired_number"), true),
        (3, json!("wrong_country"), true),
        (4, json!({ "merge": { "phoneNumber": { "transferNumber": "0900", "expiresAt": null } } }), true),
        (5, json!("malformed"), false),
        (6, json!("huge_body"), false),
        (7, json!({ "merge": { "phoneNumber": { "expiresAt": "soon" } } }), false),
        (8, json!({ "merge": { "id": "another" } }), false),
    ] {
        mock.handle().behave(behaviour(json!({ "create": { "fault": fault } })));
        let answer = ask(&client, attempt, operation(), 2000).await;
        assert_eq!(answer.is_ok(), readable, "{fault}: {answer:?}");
        match (attempt, answer) {
            (1, Ok(made)) => assert_eq!(made.number, None),
            (2, Ok(made)) => assert!(made.expires_at.unwrap() < clock::unix_ms()),
            (3, Ok(made)) => assert_eq!(made.country.as_deref(), Some("ZZ")),
            (4, Ok(made)) => assert_eq!((made.number.as_deref(), made.expires_at), (Some("0900"), None)),
            (_, answer) => assert_eq!(class(answer), FailureClass::Malformed, "{fault}"),
        }
    }
}

#[tokio::test]
async fn above_its_rate_it_says_429_without_effect() {
    let mock = mock(behaviour(json!({ "rate": 2 }))).await;
    let client = client(mock.address());
    create(&client, 2000).await.unwrap();
    fetch(&client, 2000).await.unwrap();
    assert_eq!(class(ask(&client, 2, operation(), 2000).await), FailureClass::Throttled);
    mock.handle().behave(Behaviour::default());
    assert_eq!(class(ask(&client, 2, ApiOperation::Fetch, 2000).await), FailureClass::NotFound);
}

#[tokio::test]
async fn a_request_can_be_reset_unread_on_a_connection_that_was_good() {
    let mock = mock(Behaviour::default()).await;
    let client = client(mock.address());
    create(&client, 2000).await.unwrap();
    mock.handle().behave(behaviour(json!({ "resets": 1 })));
    assert_eq!(class(ask(&client, 2, operation(), 2000).await), FailureClass::Ambiguous);
    assert_eq!(class(ask(&client, 2, ApiOperation::Fetch, 2000).await), FailureClass::NotFound);
    assert_eq!(mock.handle().requests().len(), 2, "the one in the middle was not read");
}

#[tokio::test]
async fn wrong_credentials_and_invalid_requests_are_refused_in_the_documented_form() {
    let mock = mock(Behaviour::default()).await;
    let stranger = AsappSettings { api_id: "other".into(), ..settings(mock.base_url()) };
    let failure = create(&AsappClient::new(stranger).unwrap(), 2000).await.unwrap_err();
    assert_eq!((failure.class, failure.status), (FailureClass::Unauthorized, Some(401)));
    assert_eq!(failure.detail, "401 Unauthorized 401-01 unknown credentials");

    let ApiOperation::Create(mut wrong) = operation() else { unreachable!() };
    wrong.kind = TransferKind::PhoneNumber { country: "usa".to_owned() };
    let failure = ask(&client(mock.address()), 1, ApiOperation::Create(wrong), 2000).await.unwrap_err();
    assert_eq!((failure.class, failure.status), (FailureClass::InvalidRequest, Some(422)));
    assert_eq!(class(fetch(&client(mock.address()), 2000).await), FailureClass::NotFound);
}

/// What `curl` would do.
async fn control(mock: &MockAsapp, method: &str, path: &str, body: Value) -> (u16, Value) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let body = body.to_string();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: m\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut stream = tokio::net::TcpStream::connect(mock.address()).await.unwrap();
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::from(body)))
}

#[tokio::test]
async fn other_processes_steer_it_over_http() {
    let mock = mock(Behaviour::default()).await;
    let client = client(mock.address());
    create(&client, 2000).await.unwrap();

    let number = json!({ "number": "+19995550000" });
    let (status, info) = control(&mock, "POST", "/mock/received", number.clone()).await;
    assert_eq!((status, &info["conversation"]), (200, &json!("conv-1")));
    assert_eq!(control(&mock, "POST", "/mock/received", number).await.0, 404);
    let done = json!({ "id": info["id"], "outputContext": { "transferType": "AGENT" } });
    assert_eq!(control(&mock, "POST", "/mock/completed", done).await.0, 204);
    assert_eq!(fetch(&client, 2000).await.unwrap().status, Some(TransferStatus::Completed));

    let (status, why) = control(&mock, "POST", "/mock/behaviour", json!({ "creates": {} })).await;
    assert!(status == 400 && why.to_string().contains("creates"), "{status} {why}");
    let (_, now) = control(&mock, "POST", "/mock/behaviour", json!({ "fetch": { "fault": "silent" } })).await;
    assert_eq!(now["fetch"]["fault"], "silent");
    assert_eq!(class(fetch(&client, 150).await), FailureClass::Ambiguous);

    let (_, seen) = control(&mock, "GET", "/mock/requests", Value::Null).await;
    assert_eq!((&seen[0]["method"], &seen[0]["body"]["type"]), (&json!("POST"), &json!("PHONE_NUMBER")));
    assert_eq!(seen.as_array().unwrap().len(), 3);
    assert!(!seen.to_string().contains(SECRET));
}

#[tokio::test]
async fn dropping_it_stops_it() {
    let mock = mock(Behaviour::default()).await;
    let client = client(mock.address());
    create(&client, 2000).await.unwrap();
    drop(mock);
    // The listener goes away with the server's next turn, and every exchange gives it one.
    for _ in 0..1000 {
        if let Err(failure) = fetch(&client, 2000).await
            && failure.class == FailureClass::Unreachable
        {
            return;
        }
    }
    panic!("the mock still listens");
}
