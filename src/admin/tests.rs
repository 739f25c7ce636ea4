//! Over a real loopback connection, against a core of a few lines.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::call::ConversationId;
use crate::call::verdict::Outcome;

const REFERENCE: &str = "0123456789abcdef0123456789abcdef";

/// How the scripted core behaves.
#[derive(Clone, Copy, PartialEq)]
enum Core {
    Ready,
    Draining,
    Silent,
    Gone,
}

struct Door {
    address: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Door {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn door(core: Core, token: Option<&str>) -> Door {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (to_core, queries) = mpsc::channel(4);
    let sources = Sources {
        core: to_core,
        context: Arc::new(|reference| (reference == REFERENCE).then(|| Arc::new(a_context()))),
        context_of_call: Arc::new(|id| (id == "1@ivr+x").then(|| Arc::new(a_context()))),
        contexts_of: Arc::new(|id| if id.0 == "c-1" { vec![REFERENCE.to_owned()] } else { Vec::new() }),
        erase: Arc::new(|id, told| {
            told.send(id.0 != "stuck").unwrap();
            usize::from(id.0 == "c-1")
        }),
        surroundings: Arc::new(|| Surroundings { records_written: 7, ..Surroundings::default() }),
        token: token.map(SecretString::from),
    };
    let served = tokio::spawn(async move { serve(listener, sources).await.unwrap() });
    let answering = tokio::spawn(answer(core, queries));
    Door { address, tasks: [served, answering] }
}

async fn answer(core: Core, mut queries: mpsc::Receiver<AdminQuery>) {
    if core == Core::Gone {
        return;
    }
    let mut ignored = Vec::new();
    while let Some(query) = queries.recv().await {
        match query {
            query if core == Core::Silent => ignored.push(query),
            AdminQuery::Snapshot(to) => drop(to.send(counters(core))),
            AdminQuery::Calls(to) => drop(to.send(vec![a_call()])),
            AdminQuery::PullBack(call, to) | AdminQuery::HangUp(call, to) => drop(to.send(call == CallRef(0xab))),
            AdminQuery::Record(call, on, to) => {
                let _ = to.send((call != CallRef(0xcd)).then_some(call == CallRef(0xab) && on));
            }
            AdminQuery::Conversations(caller, to) => {
                drop(to.send(
                    Some(a_conversation()).filter(|_| caller.is_none_or(|it| it == "+1555")).into_iter().collect(),
                ));
            }
            AdminQuery::Conversation(id, to) => {
                let remembered = (id.0 == "a/b c").then(a_conversation);
                drop(to.send(Kept { remembered, input: None }));
            }
            AdminQuery::Erase(id, to) => drop(to.send(match id.0.as_str() {
                "a/b c" => Erasure::Erased,
                "busy" => Erasure::InUse,
                _ => Erasure::Unknown,
            })),
            AdminQuery::LayDown(_, input, to) => {
                drop(to.send(if input.variables.len() < 2 { Ok(()) } else { Err("at most 1".to_owned()) }));
            }
        }
    }
}

fn counters(core: Core) -> Counters {
    let mut counters = Counters { active_calls: 3, draining: u64::from(core == Core::Draining), ..Counters::default() };
    counters.outcomes.insert(Outcome::Agent, 2);
    counters.api.insert(("create", "ok"), 5);
    counters.setup.observe(Duration::from_millis(300));
    counters.setup.observe(Duration::from_secs(60));
    counters
}

fn a_call() -> LiveCall {
    LiveCall {
        call: CallRef(0xab),
        state: "bridged",
        conversation: ConversationId("c-1".to_owned()),
        customer_call_id: "a@b".to_owned(),
        recorded: false,
        age_seconds: 12,
        customer_media: None,
        genagent_media: None,
        onward_media: None,
    }
}

fn a_conversation() -> Remembered {
    let conversation = ConversationId("a/b c".to_owned());
    Remembered { conversation, call: CallRef(0xab), ended_at: 5, caller: Some("15550104321".to_owned()) }
}

fn a_context() -> PublishedContext {
    PublishedContext {
        reference: REFERENCE.to_owned(),
        call: CallRef(0xab),
        customer_call_id: "a@b".to_owned(),
        later_call_ids: Vec::new(),
        conversation: ConversationId("c-1".to_owned()),
        outcome: "agent".to_owned(),
        output: None,
    }
}

/// One request on a connection of its own: the status and the body.
async fn ask(door: &Door, request: &str) -> (u16, String) {
    ask_with(door, request, "").await
}

async fn ask_with(door: &Door, request: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    let head = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test]
async fn health_asks_nobody_and_readiness_asks_the_core() {
    for (core, status, reason) in
        [(Core::Ready, 200, "ready"), (Core::Draining, 503, "draining"), (Core::Gone, 503, "the core is gone")]
    {
        let door = door(core, None).await;
        assert_eq!(ask(&door, "GET /healthz").await.0, 200);
        let (got, body) = ask(&door, "GET /readyz").await;
        assert_eq!(got, status);
        assert!(body.contains(reason), "{body}");
    }
}

#[tokio::test]
async fn a_silent_core_is_503_after_a_second() {
    let door = door(Core::Silent, None).await;
    let (status, body) = ask(&door, "GET /v1/calls").await;
    assert_eq!((status, body.as_str()), (503, r#"{"error":"the core does not answer"}"#));
}

#[tokio::test]
async fn metrics_are_complete_and_in_seconds() {
    let door = door(Core::Ready, None).await;
    let (status, page) = ask(&door, "GET /metrics").await;
    assert_eq!(status, 200);
    for line in [
        "switchback_active_calls 3",
        "switchback_calls_ended_total{outcome=\"agent\"} 2",
        "switchback_calls_ended_total{outcome=\"misdirected\"} 0",
        "switchback_api_exchanges_total{operation=\"create\",result=\"ok\"} 5",
        "switchback_port_pairs{state=\"lent\"} 0",
        "switchback_records_written_total 7",
        "switchback_setup_seconds_count 2",
        "switchback_setup_seconds_sum 60.3",
        "switchback_setup_seconds_bucket{le=\"0.25\"} 0",
        "switchback_setup_seconds_bucket{le=\"0.5\"} 1",
        "switchback_setup_seconds_bucket{le=\"+Inf\"} 2",
        concat!("switchback_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "# EOF",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is missing:\n{page}");
    }
}

#[tokio::test]
async fn t14_a_context_is_found_by_call_id() {
    let door = door(Core::Ready, None).await;
    let (status, body) = ask(&door, "GET /v1/context?call_id=1%40ivr%2Bx").await;
    let context: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, context["reference"].as_str()), (200, Some(REFERENCE)));
    assert_eq!(ask(&door, "GET /v1/context?call_id=2@ivr").await.0, 404);
    for wrong in ["", "?callid=1", "?call_id=1&x=2"] {
        let (status, body) = ask(&door, &format!("GET /v1/context{wrong}")).await;
        assert!(status == 400 && body.contains("call_id"), "{wrong}: {status} {body}");
    }
}

#[tokio::test]
async fn a_context_is_found_by_its_reference_only() {
    let door = door(Core::Ready, None).await;
    let (status, body) = ask(&door, &format!("GET /v1/context/{REFERENCE}")).await;
    assert_eq!(status, 200);
    let context: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((context["outcome"].as_str(), context["conversation"].as_str()), (Some("agent"), Some("c-1")));
    let unknown = "f".repeat(32);
    assert_eq!(ask(&door, &format!("GET /v1/context/{unknown}")).await.0, 404);
    for wrong in ["abc", "+123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdeg", "..%2f..%2fetc"] {
        let (status, body) = ask(&door, &format!("GET /v1/context/{wrong}")).await;
        assert_eq!(status, 400, "{wrong}");
        assert!(body.starts_with("{\"error\":"), "{body}");
    }
}

#[tokio::test]
async fn calls_are_listed_pulled_back_and_hung_up() {
    let door = door(Core::Ready, None).await;
    let (_, body) = ask(&door, "GET /v1/calls").await;
    assert!(body.starts_with("[{\"call\":\"000000000000000000000000000000ab\",\"state\":\"bridged\""), "{body}");
    let hang_up = |call: &str| format!("DELETE /v1/calls/{call}");
    let pull_back = |call: &str| format!("POST /v1/calls/{call}/pull-back");
    let (known, unknown) = (CallRef(0xab).to_string(), CallRef(1).to_string());
    assert_eq!(ask(&door, &hang_up(&known)).await, (202, r#"{"status":"ending"}"#.to_owned()));
    assert_eq!(ask(&door, &pull_back(&known)).await, (202, r#"{"status":"pulling back"}"#.to_owned()));
    for request in [hang_up(&unknown), pull_back(&unknown)] {
        assert_eq!(ask(&door, &request).await, (404, r#"{"error":"no such call"}"#.to_owned()));
    }
    for request in [hang_up("ab"), pull_back("ab")] {
        assert_eq!(ask(&door, &request).await.0, 400);
    }
    assert_eq!(ask(&door, &format!("GET /v1/calls/{known}/pull-back")).await.0, 405);
    assert_eq!(ask(&door, "POST /v1/calls").await.0, 405);
    assert_eq!(ask(&door, "GET /v2").await.0, 404);
}

#[tokio::test]
async fn a_call_is_recorded_where_recordings_are_kept() {
    let door = door(Core::Ready, None).await;
    let record = |call: u128| format!("POST /v1/calls/{}/recording", CallRef(call));
    assert_eq!(ask(&door, &record(0xab)).await, (202, r#"{"status":"recording"}"#.to_owned()));
    assert_eq!(ask(&door, &record(1)).await.0, 404);
    let (status, why) = ask(&door, &record(0xcd)).await;
    assert!(status == 409 && why.contains("recording.path"), "{why}");
    assert_eq!(ask(&door, "POST /v1/calls/ab/recording").await.0, 400);
    assert_eq!(ask(&door, &format!("GET /v1/calls/{}/recording", CallRef(0xab))).await.0, 405);
}

#[tokio::test]
async fn conversations_are_read_and_erased() {
    let door = door(Core::Ready, None).await;
    let shown =
        r#"{"conversation":"a/b c","call":"000000000000000000000000000000ab","ended_at":5,"caller":"*******4321"}"#;
    assert_eq!(ask(&door, "GET /v1/conversations").await, (200, format!("[{shown}]")));
    assert_eq!(ask(&door, "GET /v1/conversations?caller=%2B1556").await, (200, "[]".to_owned()));
    assert_eq!(ask(&door, "GET /v1/conversations?number=1").await.0, 400);
    let kept = format!(r#"{{"remembered":{shown},"input":null,"contexts":[]}}"#);
    assert_eq!(ask(&door, "GET /v1/conversations/a%2Fb%20c").await, (200, kept));
    let (status, body) = ask(&door, "GET /v1/conversations/c-1").await;
    assert!(status == 200 && body.contains(REFERENCE), "{body}");
    assert_eq!(ask(&door, "GET /v1/conversations/nobody").await.0, 404);
    for (id, status) in [("a%2Fb%20c", 200), ("c-1", 200), ("busy", 409), ("nobody", 404), ("stuck", 503)] {
        assert_eq!(ask(&door, &format!("DELETE /v1/conversations/{id}")).await.0, status, "{id}");
    }
}

#[tokio::test]
async fn input_is_laid_down_as_json() {
    let door = door(Core::Ready, None).await;
    let long = format!(r#"{{"variables":{{"a":"{}"}}}}"#, "x".repeat(2_000));
    let bodies = [
        (r#"{"task":"Billing","variables":{"a":"1"}}"#, 204),
        (long.as_str(), 204),
        (r#"{"variables":{"a":"1","b":"2"}}"#, 422),
        (r#"{"variables":{"a":1}}"#, 400),
        (r#"{"varaibles":{}}"#, 400),
        ("", 400),
    ];
    for (body, expected) in bodies {
        let headers = format!("Content-Length: {}\r\n\r\n{body}", body.len());
        let (status, answer) = ask_with(&door, "PUT /v1/conversations/c-1/input", &headers).await;
        assert_eq!(status, expected, "{body}: {answer}");
    }
}

#[tokio::test]
async fn a_token_guards_everything_about_calls() {
    let door = door(Core::Ready, Some("right")).await;
    for request in [
        "GET /v1/calls",
        "DELETE /v1/calls/ab",
        "POST /v1/calls/ab/pull-back",
        "POST /v1/calls/ab/recording",
        "DELETE /v1/calls/ab/recording",
        "GET /v1/context/ab",
        "GET /v1/context?call_id=1%40ivr%2Bx",
        "GET /v1/conversations",
        "GET /v1/conversations/c-1",
        "DELETE /v1/conversations/c-1",
        "PUT /v1/conversations/c-1/input",
    ] {
        assert_eq!(ask(&door, request).await.0, 401, "{request}");
        assert_eq!(ask_with(&door, request, "Authorization: Bearer wrong\r\n").await.0, 401, "{request}");
        assert_ne!(ask_with(&door, request, "Authorization: Bearer right\r\n").await.0, 401, "{request}");
    }
    for request in ["GET /healthz", "GET /readyz", "GET /metrics"] {
        assert_eq!(ask(&door, request).await.0, 200, "{request}");
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_is_cut_off_and_makes_room() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = listener::Limits { request: Duration::from_millis(50), life: Duration::from_secs(30) };
    let guarded = listener::Guarded::new(listener, 1, limits);
    let router = axum::Router::new().route("/", axum::routing::get(async || "hello"));
    let served = tokio::spawn(async move { axum::serve(guarded, router).await.unwrap() });
    let mut silent = TcpStream::connect(address).await.unwrap();
    silent.write_all(b"GET / HT").await.unwrap();
    let mut next = TcpStream::connect(address).await.unwrap();
    next.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    next.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    let mut rest = Vec::new();
    // Closed or reset: either way it is over.
    let _ = silent.read_to_end(&mut rest).await;
    served.abort();
}
