//! A mock of ASAPP's call-transfer API: an HTTP server that hands out numbers, forgets them on time, and misbehaves
//! on request.
//!
//! Whoever plays GenerativeAgent tells it what became of a number, in the same process through [`MockHandle`] or over
//! HTTP. The control endpoints ask for no credentials; the server belongs on loopback.
//!
//! | control | body | answer |
//! |---|---|---|
//! | `POST /mock/received` | `{"number"}` | the transfer the number belongs to now ([`TransferInfo`]), 404 for nobody's |
//! | `POST /mock/completed` | `{"id"}` or `{"number"}`, `"outputContext"?` | 204, 404 |
//! | `GET`, `POST /mock/behaviour` | [`Behaviour`], replacing the last one | the one in force |
//! | `GET /mock/requests` | | all API requests seen, oldest first ([`SeenRequest`]) |

mod socket;
mod state;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, State};
use axum::http::header::{CONTENT_TYPE, DATE, RETRY_AFTER};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::sleep;

use self::socket::{Cut, Slow, Sockets};
use self::state::{Mock, iso, merge};
use crate::clock;

const TRANSFERS: &str = "/generativeagent/v1/call-transfers";
/// Octets of a request's body; above: 413.
const MAX_BODY: usize = 256 * 1024;
/// Octets of padding in a huge answer.
const HUGE: usize = 8 * 1024 * 1024;

/// How the mock is set up.
#[derive(Debug, Clone)]
pub struct MockAsappSettings {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// The `asapp-api-id` it accepts.
    pub api_id: String,
    /// The `asapp-api-secret` it accepts.
    pub api_secret: String,
    /// How long a number lives.
    pub life: Duration,
    /// How many numbers there are, from `+19995550000` on; at most 10,000.
    pub numbers: u16,
    /// A released number is the next one given out, so that whoever still dials it reaches a stranger. Otherwise it
    /// is the last one.
    pub reuse: bool,
    /// How it behaves at first.
    pub behaviour: Behaviour,
}

impl Default for MockAsappSettings {
    /// A free port of 127.0.0.1, credentials `mock-id` and `mock-secret`, 1,000 numbers that live 60 s.
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            api_id: "mock-id".to_owned(),
            api_secret: "mock-secret".to_owned(),
            life: Duration::from_secs(60),
            numbers: 1000,
            reuse: false,
            behaviour: Behaviour::default(),
        }
    }
}

/// How the mock behaves: by default well. In JSON every member may be left out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Towards `POST`.
    pub create: Manners,
    /// Towards `GET`.
    pub fetch: Manners,
    /// How many fetches still say `ONGOING` after a completion.
    pub ongoing_polls: u32,
    /// Transfers receive their call and complete by themselves, for parties that cannot tell.
    pub auto_complete: Option<AutoComplete>,
    /// The outputContext of a completion that brings none.
    pub default_output: Option<Value>,
    /// The mock's clock runs ahead of ours by this many milliseconds; negative: behind.
    pub skew_ms: i64,
    /// API requests within one second; what comes above is answered 429 without effect. Absent: no limit.
    pub rate: Option<u32>,
    /// How many of the next requests meet a reset of their connection instead of being read, control requests included.
    pub resets: u32,
}

/// How one operation is answered.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Manners {
    /// Every answer waits this long, in milliseconds, after the request has taken effect.
    pub latency_ms: u64,
    /// What goes wrong.
    pub fault: Option<Fault>,
    /// For how many requests it goes wrong; absent: until told otherwise.
    pub times: Option<u32>,
    /// Whether the request takes effect all the same; absent: not with a forced status, otherwise yes.
    pub effect: Option<bool>,
}

/// What can go wrong with an answer. In JSON `"reset"`, `{"status": {"code": 429, "retry_after": 2}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// This status, with an error body.
    Status {
        /// The HTTP status.
        code: u16,
        /// `Retry-After` in seconds.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// JSON that breaks off.
    Malformed,
    /// No transferNumber.
    MissingNumber,
    /// An expiresAt that was a second ago.
    ExpiredNumber,
    /// The country `ZZ`.
    WrongCountry,
    /// This is merged into the answer (RFC 7396: null removes).
    Merge(Value),
    /// Half of the body, and the rest after this many milliseconds.
    SlowBody {
        /// The pause.
        ms: u64,
    },
    /// The body octet by octet, after a pause of this many milliseconds each.
    Drip {
        /// The pause.
        ms: u64,
    },
    /// 8 MiB of body.
    HugeBody,
    /// The connection is reset instead of an answer.
    Reset,
    /// No answer, ever.
    Silent,
}

/// Transfers that go on by themselves. Times count from the creation, in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoComplete {
    /// When `ONGOING` begins.
    #[serde(default)]
    pub ongoing_after_ms: u64,
    /// When `COMPLETED` begins.
    pub completed_after_ms: u64,
    /// The outputContext; absent: [`Behaviour::default_output`].
    #[serde(default)]
    pub output: Option<Value>,
}

/// What GenerativeAgent learns about the call that reached one of its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransferInfo {
    /// `id`.
    pub id: String,
    /// `externalConversationId`.
    pub conversation: String,
    /// `inputContext.taskName`.
    pub task: Option<String>,
    /// `inputContext.inputVariables`.
    pub variables: Map<String, Value>,
}

/// One API request as it arrived, whatever became of it. Headers are not kept: they hold the credentials.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SeenRequest {
    /// When, milliseconds since the Unix epoch.
    pub at: i64,
    /// `POST` or `GET`.
    pub method: String,
    /// The path.
    pub path: String,
    /// The transfer it is about, where it says so.
    pub id: Option<String>,
    /// The body; null where it is not JSON.
    pub body: Value,
}

/// The running server. Dropping it closes the listener and every idle connection; answers under way end first.
#[derive(Debug)]
pub struct MockAsapp {
    address: SocketAddr,
    handle: MockHandle,
    _stop: oneshot::Sender<()>,
}

impl MockAsapp {
    /// Binds and serves on the current tokio runtime. Fails if the address cannot be bound.
    pub async fn start(settings: MockAsappSettings) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.address).await?;
        let address = listener.local_addr()?;
        let handle = MockHandle(Arc::new(Mutex::new(Mock::new(settings))));
        let (stop, stopped) = oneshot::channel::<()>();
        let service = routes(handle.clone()).into_make_service_with_connect_info::<Cut>();
        let sockets = Sockets { listener, mock: handle.clone() };
        let served = axum::serve(sockets, service).with_graceful_shutdown(async move {
            // The sender is never used, only dropped.
            let _ = stopped.await;
        });
        tokio::spawn(served.into_future());
        Ok(Self { address, handle, _stop: stop })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL for a client.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// For the one who plays GenerativeAgent, and for tests.
    pub fn handle(&self) -> MockHandle {
        self.handle.clone()
    }
}

/// The mock from inside the same process.
#[derive(Debug, Clone)]
pub struct MockHandle(Arc<Mutex<Mock>>);

impl MockHandle {
    /// A call reached this number (with or without its plus sign): the transfer it belongs to now, which may be
    /// another one than the caller was given it for. None if it is nobody's. The number is released.
    pub fn call_received(&self, number: &str) -> Option<TransferInfo> {
        self.mock().call_received(number)
    }

    /// The transfer this number belongs to now, which no call needs to have reached. None if it is nobody's.
    pub fn holder(&self, number: &str) -> Option<TransferInfo> {
        self.mock().holder(number)
    }

    /// GenerativeAgent has ended the conversation. By number it is the newest one that number reached. False if there
    /// is none.
    pub fn completed(&self, number_or_id: &str, output: Option<Value>) -> bool {
        self.mock().completed(number_or_id, output)
    }

    /// From now on the mock behaves like this.
    pub fn behave(&self, behaviour: Behaviour) {
        self.mock().behaviour = behaviour;
    }

    /// The API requests seen so far, oldest first; at most the last 10,000.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.mock().seen.iter().cloned().collect()
    }

    fn mock(&self) -> MutexGuard<'_, Mock> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// --- the server ------------------------------------------------------------------------------------------------

fn routes(handle: MockHandle) -> Router {
    Router::new()
        .route(TRANSFERS, post(create))
        .route(&format!("{TRANSFERS}/{{id}}"), get(fetch))
        .route("/mock/received", post(received))
        .route("/mock/completed", post(completed))
        .route("/mock/behaviour", get(behaviour).post(behave))
        .route("/mock/requests", get(|State(handle): State<MockHandle>| async move { Json(handle.requests()) }))
        .fallback(
            |State(handle): State<MockHandle>| async move { handle.mock().error(404, "no such path").into_response() },
        )
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(handle)
}

async fn create(
    State(handle): State<MockHandle>,
    ConnectInfo(cut): ConnectInfo<Cut>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let parsed = body.as_ref().ok().and_then(|body| serde_json::from_slice::<Value>(body).ok());
    let id = parsed.as_ref().and_then(|body| body["id"].as_str()).map(str::to_owned);
    let manners = handle.mock().request(Method::POST, TRANSFERS.to_owned(), id, parsed.clone());
    let work = |mock: &mut Mock| match (mock.admitted(&headers), &body, &parsed) {
        (false, _, _) => mock.error(401, "unknown credentials"),
        (true, Err(_), _) => mock.error(413, "the body is too large"),
        (true, Ok(_), None) => mock.error(400, "the body is not JSON"),
        (true, Ok(_), Some(request)) => mock.create(request),
    };
    answer(handle, cut, manners, work).await
}

async fn fetch(
    State(handle): State<MockHandle>,
    ConnectInfo(cut): ConnectInfo<Cut>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Response {
    let manners = handle.mock().request(Method::GET, format!("{TRANSFERS}/{id}"), Some(id.clone()), None);
    let work = |mock: &mut Mock| match mock.admitted(&headers) {
        true => mock.fetch(&id),
        false => mock.error(401, "unknown credentials"),
    };
    answer(handle, cut, manners, work).await
}

/// Works, waits, and answers as the manners say: whoever gives up waiting finds the work done.
async fn answer(handle: MockHandle, cut: Cut, manners: Manners, work: impl FnOnce(&mut Mock) -> Reply) -> Response {
    let forced = matches!(manners.fault, Some(Fault::Status { .. }));
    let effect = manners.effect.unwrap_or(!forced);
    let mut reply = {
        let mut mock = handle.mock();
        let worked = effect.then(|| work(&mut mock));
        match (&manners.fault, worked) {
            (Some(Fault::Status { code, retry_after }), _) => {
                Reply { retry_after: *retry_after, ..mock.error(*code, "as told") }
            }
            (_, Some(reply)) => reply,
            (_, None) => mock.error(500, "told to have no effect"),
        }
    };
    sleep(Duration::from_millis(manners.latency_ms)).await;
    let now = handle.mock().now();
    let number = |phone: Value| json!({ "phoneNumber": phone });
    match manners.fault {
        None | Some(Fault::Status { .. }) => {}
        Some(Fault::MissingNumber) => merge(&mut reply.body, &number(json!({ "transferNumber": null }))),
        Some(Fault::ExpiredNumber) => merge(&mut reply.body, &number(json!({ "expiresAt": iso(now - 1000) }))),
        Some(Fault::WrongCountry) => merge(&mut reply.body, &number(json!({ "country": "ZZ" }))),
        Some(Fault::Merge(patch)) => merge(&mut reply.body, &patch),
        Some(Fault::HugeBody) => reply.body["padding"] = "x".repeat(HUGE).into(),
        Some(Fault::Malformed) => {
            return reply.respond(now, |text| Body::from(text.as_bytes()[..text.len() / 2].to_vec()));
        }
        Some(Fault::SlowBody { ms }) => {
            return reply.respond(now, |text| Body::new(Slow::new(&text, text.len().div_ceil(2), ms)));
        }
        Some(Fault::Drip { ms }) => return reply.respond(now, |text| Body::new(Slow::new(&text, 1, ms))),
        Some(Fault::Reset) => cut.cut(),
        Some(Fault::Silent) => std::future::pending().await,
    }
    reply.respond(now, Body::from)
}

/// Why a control request was not obeyed.
type Refusal = (StatusCode, String);

async fn received(State(handle): State<MockHandle>, body: Bytes) -> Result<Json<TransferInfo>, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Received {
        number: String,
    }
    let Received { number } = control(&body)?;
    handle.call_received(&number).map(Json).ok_or((StatusCode::NOT_FOUND, "the number is nobody's".to_owned()))
}

async fn completed(State(handle): State<MockHandle>, body: Bytes) -> Result<StatusCode, Refusal> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Completed {
        #[serde(alias = "number")]
        id: String,
        #[serde(default, rename = "outputContext")]
        output: Option<Value>,
    }
    let Completed { id, output } = control(&body)?;
    match handle.completed(&id, output) {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err((StatusCode::NOT_FOUND, "no such transfer".to_owned())),
    }
}

async fn behaviour(State(handle): State<MockHandle>) -> Json<Behaviour> {
    Json(handle.mock().behaviour.clone())
}

async fn behave(State(handle): State<MockHandle>, body: Bytes) -> Result<Json<Behaviour>, Refusal> {
    handle.behave(control(&body)?);
    Ok(behaviour(State(handle)).await)
}

/// A control request's body, whatever its content type says, or a 400 that names the member.
fn control<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
}

/// An answer before it is written.
struct Reply {
    status: u16,
    retry_after: Option<u64>,
    body: Value,
}

impl Reply {
    /// `now` is the mock's clock, for `Date`; `write` turns the JSON text into the body.
    fn respond(self, now: i64, write: impl FnOnce(String) -> Body) -> Response {
        let mut builder = Response::builder().status(self.status).header(CONTENT_TYPE, "application/json");
        let at = Timestamp::from_millisecond(now).unwrap_or_default();
        if let Ok(date) = rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at) {
            builder = builder.header(DATE, date);
        }
        if let Some(seconds) = self.retry_after {
            builder = builder.header(RETRY_AFTER, seconds);
        }
        let response = builder.body(write(self.body.to_string()));
        // Only a forced status that is none can fail here.
        response.unwrap_or_else(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response())
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        self.respond(clock::unix_ms(), Body::from)
    }
}
