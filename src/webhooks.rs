//! Webhooks: a service of the customer's is told how a call ended and says where its customer goes.
//!
//! One POST, once, within its time limit; what comes back is bounded here and judged by the call.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Response, redirect, retry};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use crate::b2bua::io::{Advice, Inquiry};

/// Octets of an answer; one that names a ladder has a few hundred.
const LONGEST: usize = 16 * 1024;
/// No connection takes longer to be made, whatever the time limit is.
const CONNECT: Duration = Duration::from_secs(5);

/// One webhook.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Where it is: `https://…`, or `http://…` where that is permitted.
    pub url: String,
    /// Sent as a bearer token; empty: none.
    pub secret: SecretString,
}

/// Every webhook by its name. Cloning shares connections.
#[derive(Debug, Clone)]
pub struct Webhooks {
    http: Client,
    hooks: HashMap<String, (reqwest::Url, HeaderMap)>,
}

impl Webhooks {
    /// Checks the webhooks and builds their HTTP client; touches no network. An error names the webhook.
    pub fn new(hooks: impl IntoIterator<Item = (String, Webhook)>) -> Result<Self, String> {
        // Whoever was first has installed a provider: that is all that is needed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder()
            .user_agent(concat!("switchback/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .redirect(redirect::Policy::none())
            .referer(false)
            .retry(retry::never())
            .no_proxy()
            .connect_timeout(CONNECT)
            .build()
            .map_err(|error| causes(&error))?;
        let hooks = hooks.into_iter().map(|(name, hook)| {
            let url = reqwest::Url::parse(&hook.url).map_err(|error| format!("webhook.{name}.url: {error}"))?;
            let headers = headers(&hook.secret).map_err(|why| format!("webhook.{name}.secret {why}"))?;
            Ok((name, (url, headers)))
        });
        Ok(Self { http, hooks: hooks.collect::<Result<_, String>>()? })
    }

    /// Asks once, within the time limit, and answers, whatever happens.
    pub async fn ask(&self, inquiry: Inquiry) -> Advice {
        let Inquiry { call, number, webhook, body, timeout: limit } = inquiry;
        let answer = match timeout(limit, self.exchange(&webhook, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer in {limit:?}")),
        };
        if let Err(why) = &answer {
            tracing::info!(%call, webhook, why, "the webhook did not serve");
        }
        Advice { call, number, answer }
    }

    async fn exchange(&self, webhook: &str, body: Bytes) -> Result<Bytes, String> {
        let (url, headers) = self.hooks.get(webhook).ok_or("there is no such webhook")?;
        let request = self.http.post(url.clone()).headers(headers.clone()).body(body);
        let response = request.send().await.map_err(|error| causes(&error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("answered {}", status.as_u16()));
        }
        read(response).await
    }
}

/// The body, of which at most [`LONGEST`] octets and one chunk are held.
async fn read(mut response: Response) -> Result<Bytes, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| causes(&error))? {
        if body.len() + chunk.len() > LONGEST {
            return Err(format!("answered more than {LONGEST} octets"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

fn headers(secret: &SecretString) -> Result<HeaderMap, &'static str> {
    let json = HeaderValue::from_static("application/json");
    let mut headers = HeaderMap::from_iter([(ACCEPT, json.clone()), (CONTENT_TYPE, json)]);
    let secret = secret.expose_secret().trim();
    if !secret.is_empty() {
        let value = HeaderValue::from_str(&format!("Bearer {secret}"));
        let mut value = value.map_err(|_| "has characters that a header cannot carry")?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

/// The innermost causes of an error, outermost first, without URLs.
fn causes(error: &reqwest::Error) -> String {
    let chain = std::iter::successors(error.source(), |error| (**error).source());
    let causes: Vec<String> = chain.map(ToString::to_string).collect();
    if causes.is_empty() { "the request could not be made".to_owned() } else { causes.join(": ") }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::call::CallRef;

    /// A webhook that hears one request and says this; then it stays silent.
    async fn mock(says: Vec<u8>) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/next", listener.local_addr().unwrap());
        let heard = tokio::spawn(async move {
            let (mut peer, _) = listener.accept().await.unwrap();
            let (mut heard, mut buffer) = (String::new(), [0; 4096]);
            while !heard.ends_with("{\"a\":1}") {
                let read = peer.read(&mut buffer).await.unwrap();
                assert!(read > 0, "the request broke off: {heard}");
                heard.push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
            // Whoever asks may hang up in the middle of a huge answer.
            let _ = peer.write_all(&says).await;
            let _ = peer.read(&mut buffer).await;
            heard
        });
        (url, heard)
    }

    fn answer(status: &str, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    async fn ask(url: &str, limit: Duration) -> Result<Bytes, String> {
        let hook = Webhook { url: url.to_owned(), secret: "s3cret".into() };
        let webhooks = Webhooks::new([("router".to_owned(), hook)]).unwrap();
        let inquiry = Inquiry {
            call: CallRef(1),
            number: 2,
            webhook: "router".to_owned(),
            body: Bytes::from_static(b"{\"a\":1}"),
            timeout: limit,
        };
        let advice = webhooks.ask(inquiry).await;
        assert_eq!((advice.call, advice.number), (CallRef(1), 2));
        advice.answer
    }

    const PATIENT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn it_is_posted_json_with_its_secret_and_its_body_comes_back() {
        let (url, heard) = mock(answer("200 OK", r#"{"ladder":"bye"}"#)).await;
        assert_eq!(ask(&url, PATIENT).await.as_deref(), Ok(br#"{"ladder":"bye"}"#.as_slice()));
        let heard = heard.await.unwrap().to_lowercase();
        assert!(heard.starts_with("post /next http/1.1\r\n"), "{heard}");
        assert!(heard.contains("\r\nauthorization: bearer s3cret\r\n"), "{heard}");
        assert!(heard.contains("\r\ncontent-type: application/json\r\n"), "{heard}");
    }

    #[tokio::test]
    async fn whatever_it_does_there_is_one_answer_in_time() {
        let endless = format!("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{}", "x".repeat(LONGEST + 1));
        for (says, expected) in [
            (answer("500 Oops", "{}"), "answered 500"),
            (answer("302 Found\r\nLocation: http://127.0.0.1:1/", ""), "answered 302"),
            (endless.into_bytes(), "answered more than 16384 octets"),
            (b"SIP/2.0 200 OK\r\n\r\n".to_vec(), ""),
        ] {
            let (url, heard) = mock(says).await;
            let error = ask(&url, PATIENT).await.unwrap_err();
            assert!(error.starts_with(expected), "{expected}: {error}");
            heard.abort();
        }
        for silent in [b"".to_vec(), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_vec()] {
            let (url, heard) = mock(silent).await;
            let limit = Duration::from_millis(200);
            assert_eq!(ask(&url, limit).await, Err("no answer in 200ms".to_owned()));
            heard.abort();
        }
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", free.local_addr().unwrap());
        drop(free);
        assert!(ask(&url, PATIENT).await.is_err(), "nobody listens there");
    }

    #[test]
    fn a_webhook_that_cannot_work_is_named() {
        let made = |url: &str, secret: &str| {
            let hook = Webhook { url: url.to_owned(), secret: secret.into() };
            Webhooks::new([("router".to_owned(), hook)]).map(|_| ()).unwrap_err()
        };
        assert!(made("router", "").starts_with("webhook.router.url"));
        assert!(made("http://router", "a\nb").starts_with("webhook.router.secret"));
    }
}
