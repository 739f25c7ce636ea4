//! ASAPP's API misbehaves in every way the mock knows, one call after the other: what the customer gets and how soon,
//! what the record and the metrics say, and that no secret reaches the log.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use switchback::demo::asapp::{Behaviour, Fault, Manners};
use switchback::demo::genagent::{self, MockGenAgent, Script};
use switchback::demo::hooks::{Hooks, News};
use switchback::demo::ivr::{self, CallReport, MockIvr};
use switchback::demo::tap::Tap;
use tokio::time::timeout;

use crate::stage::{SOON, Setting, Stage};

/// From intake to dialling.
const BUDGET: Duration = Duration::from_millis(1500);
/// One exchange.
const EXCHANGE: Duration = Duration::from_millis(500);
/// What a loaded machine may add.
const SLACK: Duration = Duration::from_millis(500);
/// An input variable's value, which belongs into no log.
const PRIVATE: &str = "tell-nobody-4711";

/// A stage whose API misbehaves, with a GenerativeAgent that keeps it informed.
struct Unruly {
    stage: Stage,
    _genagent: MockGenAgent,
    calls: usize,
}

impl Unruly {
    async fn set(script: Script) -> Self {
        let stage = Stage::set(
            Setting::default()
                .behaviour(Behaviour::default())
                .key("call.number_budget", "1500ms")
                .key("call.collect_limit", "1s")
                .key("asapp.timeout", "500ms")
                .key("asapp.breaker_failures", "0")
                .key("log.level", "debug"),
        )
        .await;
        let api = stage.api();
        let hooks = Hooks::Closure(Arc::new(move |news| match news {
            News::Received { number } => api.call_received(&number).map(|info| info.id),
            News::Completed { number, transfer, output } => {
                api.completed(transfer.as_deref().unwrap_or(&number), output);
                None
            }
        }));
        let settings = genagent::Settings {
            bind: stage.street.carrier(),
            ring: Duration::from_millis(20),
            talk: Duration::from_millis(100),
            script,
            early_media: false,
            tap: Tap::default(),
        };
        Self { _genagent: MockGenAgent::start(settings, hooks).await.unwrap(), stage, calls: 0 }
    }

    /// A call under this behaviour: what the IVR saw, and its record.
    async fn call(&mut self, behaviour: Behaviour, hang_up_after: Option<Duration>) -> (CallReport, Value) {
        self.stage.api().behave(behaviour);
        let report = MockIvr::call(ivr::Settings {
            bind: self.stage.street.at(3, 0),
            target: self.stage.street.switchback(),
            user: "7000".to_owned(),
            caller: "+15550100042".to_owned(),
            headers: vec![("X-GA-iv-word".to_owned(), PRIVATE.to_owned())],
            speak: false,
            hang_up_after,
            cancel_after: None,
            tap: Tap::default(),
        });
        let report = timeout(SOON, report).await.expect("the call ends").unwrap();
        self.calls += 1;
        let record = self.stage.records(self.calls).await.remove(self.calls - 1);
        (report, record)
    }

    async fn counted(&self, operation: &str, result: &str) -> u64 {
        let name = format!("api_exchanges_total{{operation=\"{operation}\",result=\"{result}\"}}");
        self.stage.metrics().await.of(&name)
    }

    async fn close(self) {
        let log = self.stage.program.log();
        assert!(log.contains("ASAPP did not serve"), "the log tells what happened");
        for secret in ["mock-secret", "mock-id", PRIVATE] {
            assert!(!log.contains(secret), "{secret} is in the log");
        }
        self.stage.close(&["fallback: "]).await;
    }
}

fn creates(fault: Fault) -> Behaviour {
    Behaviour { create: Manners { fault: Some(fault), ..Manners::default() }, ..Behaviour::default() }
}

fn fetches(fault: Fault) -> Behaviour {
    Behaviour { fetch: Manners { fault: Some(fault), ..Manners::default() }, ..Behaviour::default() }
}

fn status(code: u16) -> Fault {
    Fault::Status { code, retry_after: None }
}

fn number(number: &str) -> Fault {
    Fault::Merge(json!({ "phoneNumber": { "transferNumber": number } }))
}

/// What comes of a create that goes wrong: the reason in the record, what the metric calls it, how often the API is
/// asked at most, and whether the guidance allows a wait.
#[tokio::test]
async fn a_create_that_goes_wrong_is_a_480_within_the_budget_with_its_reason() {
    let mut unruly = Unruly::set(Script::Agent).await;
    let later = Fault::Status { code: 429, retry_after: Some(30) };
    let at_once = Duration::ZERO;
    let cases = [
        (creates(status(400)), "api_refused", "invalid_request", 1, at_once),
        (creates(status(401)), "api_refused", "unauthorized", 1, at_once),
        (creates(status(403)), "api_refused", "unauthorized", 1, at_once),
        (creates(status(404)), "api_refused", "not_found", 1, at_once),
        (creates(status(413)), "api_refused", "invalid_request", 1, at_once),
        (creates(status(422)), "api_refused", "invalid_request", 1, at_once),
        (creates(status(409)), "api_refused", "conflict", 8, at_once),
        (creates(status(429)), "api_throttled", "throttled", 2, BUDGET),
        (creates(later), "api_throttled", "throttled", 1, at_once),
        (creates(status(500)), "api_down", "server_error", 3, BUDGET),
        (creates(status(502)), "api_down", "server_error", 3, BUDGET),
        (creates(status(503)), "api_down", "server_error", 3, BUDGET),
        (creates(Fault::Malformed), "api_down", "malformed", 1, at_once),
        (creates(Fault::HugeBody), "api_down", "malformed", 1, at_once + EXCHANGE),
        (creates(Fault::MissingNumber), "api_refused", "ok", 1, at_once),
        (creates(Fault::ExpiredNumber), "api_refused", "ok", 1, at_once),
        (creates(Fault::WrongCountry), "api_refused", "ok", 1, at_once),
        (creates(number("+499001234567")), "api_refused", "ok", 1, at_once),
        (creates(number("+1999555019x")), "api_refused", "ok", 1, at_once),
        (creates(Fault::Merge(json!({ "status": "EXPIRED" }))), "api_refused", "ok", 1, at_once),
    ];
    for (behaviour, reason, result, most, wait) in cases {
        let fault = format!("{:?}", behaviour.create.fault);
        let (asked, counted) = (unruly.stage.api().requests().len(), unruly.counted("create", result).await);
        let (report, record) = unruly.call(behaviour, None).await;
        let asked = unruly.stage.api().requests().len() - asked;
        println!("{fault}: {} after {:?}, asked {asked} times", report.status, report.length);
        assert_eq!((report.status, &record["verdict"]["outcome"]), (480, &"not_connected".into()), "{fault}");
        assert_eq!(record["verdict"]["evidence"]["not_connected"], reason, "{fault}");
        assert!(unruly.counted("create", result).await > counted, "{fault} is counted as {result}");
        assert!(asked <= most, "{fault}: asked {asked} times");
        assert!(report.length < wait + SLACK, "{fault}: {:?}", report.length);
        assert!(record["attempts"][0]["dialed_at"].is_null(), "{fault}");
    }
    unruly.close().await;
}

/// Nobody knows whether the API did what it was asked: it is asked for what it did, and one number is dialled.
#[tokio::test]
async fn a_create_whose_answer_is_lost_is_found_again_or_asked_again_within_the_budget() {
    let mut unruly = Unruly::set(Script::WaitForCustomer).await;
    let slow = |latency_ms| Behaviour { create: Manners { latency_ms, ..Manners::default() }, ..Behaviour::default() };
    let once = |fault, effect| Behaviour {
        create: Manners { fault: Some(fault), times: Some(1), effect: Some(effect), ..Manners::default() },
        ..Behaviour::default()
    };
    let cases = [
        ("slow, but in time", slow(300), 1),
        ("slower than an exchange may be", slow(800), 1),
        ("reset after the request took effect", creates(Fault::Reset), 1),
        ("reset without effect", once(Fault::Reset, false), 2),
        ("reset before the request was read", Behaviour { resets: 1, ..Behaviour::default() }, 2),
        ("never an answer", creates(Fault::Silent), 1),
        ("the rest of the body comes too late", creates(Fault::SlowBody { ms: 2000 }), 1),
        ("the body comes in drops", creates(Fault::Drip { ms: 20 }), 1),
        ("500 after it took effect", once(status(500), true), 2),
        ("429 once", once(status(429), false), 2),
        ("409 once, with the transfer there", once(status(409), true), 1),
        ("a clock two hours ahead", Behaviour { skew_ms: 7_200_000, ..Behaviour::default() }, 1),
        ("a clock two hours behind", Behaviour { skew_ms: -7_200_000, ..Behaviour::default() }, 1),
    ];
    for (what, behaviour, most) in cases {
        let posts = unruly.stage.asked("POST");
        let (report, record) = unruly.call(behaviour, Some(Duration::from_millis(50))).await;
        println!("{what}: {} after {:?}", report.status, report.to_answer);
        assert_eq!(
            (report.status, &record["verdict"]["outcome"]),
            (200, &"customer_hung_up".into()),
            "{what}: {record}"
        );
        assert!(report.to_answer.unwrap() < BUDGET + SLACK, "{what}: {:?}", report.to_answer);
        let dialled = record["attempts"].as_array().unwrap().iter().filter(|it| !it["dialed_at"].is_null()).count();
        let posts = unruly.stage.asked("POST") - posts;
        assert!(dialled == 1 && posts <= most, "{what}: {dialled} dialled, {posts} POSTs");
    }
    // Whoever resets every connection is down.
    let (report, record) = unruly.call(Behaviour { resets: u32::MAX, ..Behaviour::default() }, None).await;
    assert_eq!((report.status, &record["verdict"]["evidence"]["not_connected"]), (480, &"api_down".into()));
    assert!(report.length < BUDGET + SLACK, "{:?}", report.length);
    unruly.close().await;
}

/// GenerativeAgent has hung up, and the API does not tell why, or tells something odd: the customer is handed back all
/// the same, within the limit.
#[tokio::test]
async fn a_fetch_that_goes_wrong_hands_the_customer_back_within_the_limit() {
    let mut unruly = Unruly::set(Script::System).await;
    let merged = |what| fetches(Fault::Merge(what));
    let at_once = Duration::ZERO;
    let limit = Duration::from_secs(1);
    let cases = [
        (fetches(status(400)), "context_missing", at_once),
        (fetches(status(401)), "context_missing", at_once),
        (fetches(status(403)), "context_missing", at_once),
        (fetches(status(404)), "context_missing", at_once),
        (fetches(status(409)), "context_missing", at_once),
        (fetches(status(413)), "context_missing", at_once),
        (fetches(status(422)), "context_missing", at_once),
        (fetches(status(429)), "context_missing", limit),
        (fetches(status(500)), "context_missing", limit),
        (fetches(status(502)), "context_missing", limit),
        (fetches(status(503)), "context_missing", limit),
        (fetches(Fault::Malformed), "context_missing", at_once),
        (fetches(Fault::HugeBody), "context_missing", limit),
        (fetches(Fault::Reset), "context_missing", limit),
        (fetches(Fault::Silent), "context_missing", limit),
        (fetches(Fault::Drip { ms: 100 }), "context_missing", limit),
        (merged(json!({ "status": "EXPIRED" })), "unconfirmed", at_once),
        (merged(json!({ "status": "ACTIVE" })), "unconfirmed", limit),
        (merged(json!({ "status": "completed" })), "system", at_once),
        (merged(json!({ "outputContext": null })), "unspecified", at_once),
        (merged(json!({ "outputContext": { "transferType": "ELSEWHERE" } })), "unspecified", at_once),
        (Behaviour { ongoing_polls: 3, ..Behaviour::default() }, "system", limit),
        (Behaviour { ongoing_polls: 99, ..Behaviour::default() }, "unconfirmed", limit),
        (Behaviour { fetch: crate::stage::slow(400), ..Behaviour::default() }, "system", EXCHANGE),
    ];
    for (behaviour, outcome, wait) in cases {
        let what = format!("{:?} {}", behaviour.fetch.fault, behaviour.ongoing_polls);
        let (report, record) = unruly.call(behaviour, None).await;
        let waited = report.length - report.to_answer.unwrap();
        println!("{what}: {:?} {waited:?} after the answer", report.bye("X-Switchback-Outcome"));
        assert_eq!(record["verdict"]["outcome"], outcome, "{what}");
        assert_eq!(report.bye("X-Switchback-Outcome"), [outcome], "{what}");
        assert_eq!(report.bye("X-Switchback-Context"), [record["context_ref"].as_str().unwrap()], "{what}");
        // 100 ms of talk.
        assert!(waited < Duration::from_millis(100) + wait + SLACK, "{what}: {waited:?}");
    }
    unruly.close().await;
}
