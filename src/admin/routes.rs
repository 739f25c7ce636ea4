//! The routes, in the order of how often they are asked.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{AdminQuery, PATIENCE, Sources, metrics};
use crate::b2bua::io::{Erasure, LaidDown};
use crate::call::{CallRef, ConversationId};

/// Octets of an input laid down.
const MAX_INPUT: usize = 64 * 1024;
/// How long an erasure waits for the disk.
const ERASURE: Duration = Duration::from_secs(10);

pub(super) fn router(sources: Sources) -> Router {
    let open = Router::new()
        .route("/healthz", get(health))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics_text));
    let guarded = Router::new()
        .route("/v1/context/{reference}", get(context))
        .route("/v1/context", get(context_of_call))
        .route("/v1/calls", get(calls))
        .route("/v1/calls/{call}", delete(hang_up))
        .route("/v1/conversations", get(conversations))
        .route("/v1/conversations/{id}", get(conversation).delete(erase))
        .route("/v1/conversations/{id}/input", put(lay_down).layer(DefaultBodyLimit::max(MAX_INPUT)))
        .route("/v1/calls/{call}/pull-back", post(pull_back))
        .route("/v1/calls/{call}/recording", post(record).delete(record_no_longer))
        .route_layer(from_fn_with_state(sources.clone(), ask_for_token));
    open.merge(guarded)
        .fallback(async || refusal(StatusCode::NOT_FOUND, "there is nothing here"))
        .method_not_allowed_fallback(async || {
            refusal(StatusCode::METHOD_NOT_ALLOWED, "this method has no meaning here")
        })
        .layer(DefaultBodyLimit::max(1024))
        .with_state(sources)
}

/// The process is alive; nobody else is asked.
async fn health() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// Whether new calls should come here. Trouble that every node shares (ASAPP down, no room for records) is shown, but
/// does not take this one out: calls still get their fallback.
async fn readiness(State(sources): State<Sources>) -> Response {
    let around = (sources.surroundings)();
    match ask(&sources, AdminQuery::Snapshot).await {
        Err(refused) => refused,
        Ok(counters) => {
            let (status, reason) = match counters.draining {
                0 => (StatusCode::OK, "ready"),
                _ => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            };
            let body = json!({
                "status": reason,
                "active_calls": counters.active_calls,
                "asapp": if counters.breaker_open == 0 { "ok" } else { "breaker open" },
                "records": if around.records_failing { "failing" } else { "ok" },
            });
            (status, Json(body)).into_response()
        }
    }
}

async fn metrics_text(State(sources): State<Sources>) -> Response {
    let around = (sources.surroundings)();
    match ask(&sources, AdminQuery::Snapshot).await {
        Ok(counters) => {
            ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render(counters, around)).into_response()
        }
        Err(refused) => refused,
    }
}

async fn context(State(sources): State<Sources>, Path(reference): Path<String>) -> Response {
    if call_ref(&reference).is_none() {
        return refusal(StatusCode::BAD_REQUEST, "a context reference is 32 hexadecimal digits");
    }
    match (sources.context)(&reference.to_ascii_lowercase()) {
        Some(context) => ([(header::CACHE_CONTROL, "no-store")], Json(&*context)).into_response(),
        None => refusal(StatusCode::NOT_FOUND, "no such context: contexts are kept for one hour"),
    }
}

/// Which context is asked for by an IVR that has no use for our headers (flow T14).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    call_id: String,
}

async fn context_of_call(State(sources): State<Sources>, which: Result<Query<Which>, QueryRejection>) -> Response {
    let Ok(Query(which)) = which else {
        return refusal(StatusCode::BAD_REQUEST, "ask by the Call-ID of the customer leg: ?call_id=…");
    };
    match (sources.context_of_call)(&which.call_id) {
        Some(context) => private(Json(&*context)),
        None => refusal(StatusCode::NOT_FOUND, "no such context: contexts are kept for one hour"),
    }
}

async fn calls(State(sources): State<Sources>) -> Response {
    match ask(&sources, AdminQuery::Calls).await {
        Ok(calls) => Json(calls).into_response(),
        Err(refused) => refused,
    }
}

/// The customer is taken back from GenerativeAgent, and handed back by the rules.
async fn pull_back(State(sources): State<Sources>, Path(call): Path<String>) -> Response {
    supervise(&sources, &call, AdminQuery::PullBack, "pulling back").await
}

/// Both legs end; nothing is handed back.
async fn hang_up(State(sources): State<Sources>, Path(call): Path<String>) -> Response {
    supervise(&sources, &call, AdminQuery::HangUp, "ending").await
}

/// What the customer says and hears is recorded from now on.
async fn record(State(sources): State<Sources>, Path(call): Path<String>) -> Response {
    recorded(&sources, &call, true).await
}

/// It is recorded no longer; what there is stays, and goes on if recording is asked for again.
async fn record_no_longer(State(sources): State<Sources>, Path(call): Path<String>) -> Response {
    recorded(&sources, &call, false).await
}

async fn recorded(sources: &Sources, call: &str, on: bool) -> Response {
    let Some(call) = call_ref(call) else { return no_call_ref() };
    match ask(sources, |answer| AdminQuery::Record(call, on, answer)).await {
        Ok(Some(true)) => {
            let status = if on { "recording" } else { "not recording" };
            (StatusCode::ACCEPTED, Json(json!({ "status": status }))).into_response()
        }
        Ok(Some(false)) => refusal(StatusCode::NOT_FOUND, "no such call"),
        Ok(None) => refusal(StatusCode::CONFLICT, "nothing is recorded here: recording.path names a folder for it"),
        Err(refused) => refused,
    }
}

fn no_call_ref() -> Response {
    refusal(StatusCode::BAD_REQUEST, "a call is 32 hexadecimal digits")
}

type Supervision = fn(CallRef, oneshot::Sender<bool>) -> AdminQuery;

async fn supervise(sources: &Sources, call: &str, query: Supervision, status: &str) -> Response {
    let Some(call) = call_ref(call) else { return no_call_ref() };
    match ask(sources, |answer| query(call, answer)).await {
        Ok(true) => (StatusCode::ACCEPTED, Json(json!({ "status": status }))).into_response(),
        Ok(false) => refusal(StatusCode::NOT_FOUND, "no such call"),
        Err(refused) => refused,
    }
}

/// Whose conversations are asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whose {
    caller: Option<String>,
}

async fn conversations(State(sources): State<Sources>, Query(whose): Query<Whose>) -> Response {
    match ask(&sources, |answer| AdminQuery::Conversations(whose.caller, answer)).await {
        Ok(conversations) => private(Json(conversations)),
        Err(refused) => refused,
    }
}

async fn conversation(State(sources): State<Sources>, Path(id): Path<String>) -> Response {
    let id = ConversationId(id);
    let kept = match ask(&sources, |answer| AdminQuery::Conversation(id.clone(), answer)).await {
        Ok(kept) => kept,
        Err(refused) => return refused,
    };
    let contexts = (sources.contexts_of)(&id);
    if kept.remembered.is_none() && kept.input.is_none() && contexts.is_empty() {
        return refusal(StatusCode::NOT_FOUND, "nothing is kept of this conversation");
    }
    private(Json(json!({ "remembered": kept.remembered, "input": kept.input, "contexts": contexts })))
}

/// Answers when the disk holds nothing of it any more.
async fn erase(State(sources): State<Sources>, Path(id): Path<String>) -> Response {
    let id = ConversationId(id);
    let erasure = match ask(&sources, |answer| AdminQuery::Erase(id.clone(), answer)).await {
        Ok(Erasure::InUse) => return refusal(StatusCode::CONFLICT, "a call of this conversation is up: end it first"),
        Ok(erasure) => erasure,
        Err(refused) => return refused,
    };
    let (told, on_disk) = oneshot::channel();
    let contexts = (sources.erase)(&id, told);
    match timeout(ERASURE, on_disk).await {
        Ok(Ok(true)) if erasure == Erasure::Unknown && contexts == 0 => {
            refusal(StatusCode::NOT_FOUND, "nothing is kept of this conversation")
        }
        Ok(Ok(true)) => Json(json!({ "status": "erased" })).into_response(),
        _ => refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "erased in memory, but not known to be erased on disk: see switchback_conversations_failing, and ask again",
        ),
    }
}

async fn lay_down(State(sources): State<Sources>, Path(id): Path<String>, body: Bytes) -> Response {
    let input: LaidDown = match serde_json::from_slice(&body) {
        Ok(input) => input,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &format!("this is no input: {error}")),
    };
    match ask(&sources, |answer| AdminQuery::LayDown(ConversationId(id), input, answer)).await {
        Ok(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(why)) => refusal(StatusCode::UNPROCESSABLE_ENTITY, &why),
        Err(refused) => refused,
    }
}

/// An answer that nobody on the way may keep.
fn private(answer: impl IntoResponse) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], answer).into_response()
}

/// Asks the core; a core that is busy, silent or gone is 503.
async fn ask<T>(sources: &Sources, query: impl FnOnce(oneshot::Sender<T>) -> AdminQuery) -> Result<T, Response> {
    let (answer, wait) = oneshot::channel();
    let exchange = async {
        sources.core.send(query(answer)).await.ok()?;
        wait.await.ok()
    };
    match timeout(PATIENCE, exchange).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "the core is gone")),
        Err(_) => Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "the core does not answer")),
    }
}

async fn ask_for_token(State(sources): State<Sources>, request: Request, next: Next) -> Response {
    let Some(token) = &sources.token else { return next.run(request).await };
    let given =
        request.headers().get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    if given.is_some_and(|given| same(given, token.expose_secret().as_bytes())) {
        return next.run(request).await;
    }
    let mut response = refusal(StatusCode::UNAUTHORIZED, "a bearer token is needed: see admin.token");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}

/// Compares without telling by its time where two tokens differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

fn call_ref(text: &str) -> Option<CallRef> {
    let is_id = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_id.then(|| u128::from_str_radix(text, 16).ok().map(CallRef)).flatten()
}

fn refusal(status: StatusCode, reason: &str) -> Response {
    (status, Json(json!({ "error": reason }))).into_response()
}
