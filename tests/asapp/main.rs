//! The API client and the mock API, over real sockets on loopback.
#![allow(clippy::unwrap_used, reason = "the helpers are tests too")]

mod asapp_client;
mod asapp_mock;

use std::net::SocketAddr;
use std::time::Duration;

use switchback::asapp::{AsappClient, AsappSettings};
use switchback::b2bua::io::{
    ApiFailure, ApiOperation, ApiRequest, CreateTransfer, FailureClass, Transfer, TransferKind,
};
use switchback::call::{CallRef, ConversationId};
use switchback::demo::asapp::{Behaviour, MockAsapp, MockAsappSettings};

const SECRET: &str = "mock-secret";

fn settings(base_url: impl Into<String>) -> AsappSettings {
    let settings = AsappSettings::new(base_url, "mock-id".into(), SECRET.into());
    AsappSettings { allow_http: true, connect_timeout: Duration::from_millis(400), ..settings }
}

fn client(address: SocketAddr) -> AsappClient {
    AsappClient::new(settings(format!("http://{address}"))).unwrap()
}

async fn mock(behaviour: Behaviour) -> MockAsapp {
    MockAsapp::start(MockAsappSettings { behaviour, ..MockAsappSettings::default() }).await.unwrap()
}

fn operation() -> ApiOperation {
    ApiOperation::Create(Box::new(CreateTransfer {
        conversation: ConversationId("conv-1".to_owned()),
        kind: TransferKind::PhoneNumber { country: "US".to_owned() },
        task: Some("Billing".to_owned()),
        variables: vec![("zeta".to_owned(), "4111-1111".to_owned()), ("alpha".to_owned(), "ü\r\n".to_owned())],
    }))
}

/// One exchange about transfer number `attempt`, within `ms`.
async fn ask(client: &AsappClient, attempt: u8, operation: ApiOperation, ms: u64) -> Result<Transfer, ApiFailure> {
    let call = CallRef(0xfeed);
    let timeout = Duration::from_millis(ms);
    let created = matches!(operation, ApiOperation::Create(_));
    let begun = switchback::clock::now();
    let reply = client.perform(ApiRequest { call, transfer: call.transfer(attempt), operation, timeout }).await;
    let took = switchback::clock::now() - begun;
    assert!(took < timeout + Duration::from_secs(1), "the exchange took {took:?} of {timeout:?}");
    assert_eq!((reply.call, reply.transfer, reply.created), (call, call.transfer(attempt), created));
    if let Err(failure) = &reply.answer {
        assert!(failure.detail.chars().count() <= 200 && !failure.detail.chars().any(char::is_control));
        assert!(!failure.detail.is_empty() && !failure.detail.contains(SECRET), "{}", failure.detail);
    }
    reply.answer
}

async fn create(client: &AsappClient, ms: u64) -> Result<Transfer, ApiFailure> {
    ask(client, 1, operation(), ms).await
}

async fn fetch(client: &AsappClient, ms: u64) -> Result<Transfer, ApiFailure> {
    ask(client, 1, ApiOperation::Fetch, ms).await
}

fn class(answer: Result<Transfer, ApiFailure>) -> FailureClass {
    answer.unwrap_err().class
}
