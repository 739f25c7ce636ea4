//! One HTTP exchange, and what became of it.

use std::error::Error;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use reqwest::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue, RETRY_AFTER,
};
use reqwest::{Certificate, Client, Method, Response, StatusCode, Url, redirect, retry};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout_at};

use super::names::{FindHost, Names, system};
use super::wire;
use crate::b2bua::io::{ApiFailure, ApiOperation, ApiReply, ApiRequest, FailureClass, Transfer};
use crate::clock;

const API_ID: HeaderName = HeaderName::from_static("asapp-api-id");
const API_SECRET: HeaderName = HeaderName::from_static("asapp-api-secret");
const PATH: [&str; 3] = ["generativeagent", "v1", "call-transfers"];
/// Idle connections are given up before a gateway on the way does it: a POST that meets a closing connection is
/// ambiguous.
const IDLE: Duration = Duration::from_secs(20);
const IDLE_CONNECTIONS: usize = 64;
/// No exchange lasts longer, whatever is asked for.
const LONGEST: Duration = Duration::from_secs(600);
/// Characters of a failure's detail and of a request id.
const LINE: usize = 200;
/// A variable's value is kept out of a failure's detail from this length on; shorter ones are words like "yes".
const TELLING: usize = 4;

/// How to reach ASAPP's API.
#[derive(Debug, Clone)]
pub struct AsappSettings {
    /// `https://api.asapp.com`, the sandbox, or a gateway before them, with a path if it has one.
    pub base_url: String,
    /// Header `asapp-api-id`.
    pub api_id: SecretString,
    /// Header `asapp-api-secret`.
    pub api_secret: SecretString,
    /// What GenerativeAgent shows of itself where its returning INVITE is asked: user name and password.
    pub returner: Option<(String, SecretString)>,
    /// Allows an `http://` base URL, which sends the secret in the clear: for a mock on the same machine.
    pub allow_http: bool,
    /// Name, TCP and TLS together.
    pub connect_timeout: Duration,
    /// Octets of an answer's body; a larger answer is malformed.
    pub max_body: usize,
    /// A PEM file: trust these authorities and no others. Without one, the system's.
    pub pinned_ca: Option<PathBuf>,
}

impl AsappSettings {
    /// HTTPS only, the system's authorities, 1.5 s to connect, answers up to 1 MiB.
    pub fn new(base_url: impl Into<String>, api_id: SecretString, api_secret: SecretString) -> Self {
        Self {
            base_url: base_url.into(),
            api_id,
            api_secret,
            returner: None,
            allow_http: false,
            connect_timeout: Duration::from_millis(1500),
            max_body: 1024 * 1024,
            pinned_ca: None,
        }
    }
}

/// Settings no client can be made of. Each says what to change; none shows a secret.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// Not a URL that can be called.
    #[error("asapp base_url {url:?} {reason}; write it like https://api.asapp.com")]
    BaseUrl {
        /// As given, without user and password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `http://` without permission.
    #[error(
        "asapp base_url is http://, which would send the API secret in the clear; use https://, or set allow_http for a mock on this machine"
    )]
    Http,
    /// A credential that cannot be a header.
    #[error("asapp {0} is empty or has characters that a header cannot carry; paste it again as ASAPP shows it")]
    Credential(&'static str),
    /// The pinned authority cannot be used.
    #[error("asapp pinned_ca {path}: {reason}; give a readable PEM file with at least one certificate")]
    PinnedCa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The TLS client could not be set up.
    #[error("the HTTPS client cannot start: {0}; install ca-certificates or set pinned_ca")]
    Tls(String),
}

/// The client. Cloning it shares its connections.
#[derive(Debug, Clone)]
pub struct AsappClient {
    http: Client,
    transfers: Url,
    api_id: SecretString,
    api_secret: SecretString,
    returner: Option<(String, SecretString)>,
    max_body: usize,
}

impl AsappClient {
    /// [`AsappClient::finding`] with the system's resolver.
    pub fn new(settings: AsappSettings) -> Result<Self, SettingsError> {
        Self::finding(settings, system())
    }

    /// Checks the settings and builds the one HTTP client, which finds the API's host like this; touches no network.
    ///
    /// HTTP/1.1 by choice: each exchange has a connection to itself, so that one dead connection is one failed
    /// exchange, and a request that was given up cannot travel later.
    pub fn finding(settings: AsappSettings, find: FindHost) -> Result<Self, SettingsError> {
        let transfers = transfers_url(&settings)?;
        // Whoever was first has installed a provider: that is all that is needed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let headers = HeaderMap::from_iter([
            (API_ID, credential("api_id", &settings.api_id)?),
            (API_SECRET, credential("api_secret", &settings.api_secret)?),
            (ACCEPT, HeaderValue::from_static("application/json")),
        ]);
        let mut builder = Client::builder()
            .user_agent(concat!("switchback/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .http1_only()
            .https_only(!settings.allow_http)
            .redirect(redirect::Policy::none())
            .referer(false)
            .retry(retry::never())
            .no_proxy()
            .dns_resolver(Names::new(find, settings.connect_timeout / 2))
            .connect_timeout(settings.connect_timeout)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS);
        if let Some(path) = settings.pinned_ca {
            builder = builder.tls_certs_only(pinned(path)?);
        }
        Ok(Self {
            http: builder.build().map_err(|error| SettingsError::Tls(causes(&error)))?,
            transfers,
            api_id: settings.api_id,
            api_secret: settings.api_secret,
            returner: settings.returner,
            max_body: settings.max_body,
        })
    }

    /// Makes the exchange, once, within its timeout, and answers, whatever happens.
    pub async fn perform(&self, request: ApiRequest) -> ApiReply {
        let begun = clock::now();
        let deadline = Instant::from_std(begun) + request.timeout.min(LONGEST);
        let (status, answer) = match self.send(&request, deadline).await {
            Ok(response) => (Some(response.status()), self.read(&request, response, deadline).await),
            Err(failure) => (None, Err(failure)),
        };
        let created = matches!(request.operation, ApiOperation::Create(_));
        log(&request, status, &answer, clock::now().saturating_duration_since(begun));
        ApiReply { call: request.call, transfer: request.transfer, created, answer }
    }

    /// Sends the request and waits for the head of an answer.
    ///
    /// A create that fails here was surely not sent if its body was never taken: see [`Once`]. A fetch has no body
    /// and no effect; it was surely not sent only where the connector failed.
    async fn send(&self, request: &ApiRequest, deadline: Instant) -> Result<Response, ApiFailure> {
        let (method, url, body) = match &request.operation {
            ApiOperation::Create(create) => {
                let returner = self.returner.as_ref().map(|(name, word)| (name.as_str(), word.expose_secret()));
                let body = wire::create_body(&request.transfer, create, returner);
                (Method::POST, self.transfers.clone(), Some(body))
            }
            ApiOperation::Fetch => (Method::GET, below(self.transfers.clone(), &[&request.transfer.0]), None),
        };
        let mut http = self.http.request(method, url);
        let claim = Claim::default();
        let has_body = body.is_some();
        if let Some(body) = body {
            let body = Once { bytes: body.into(), claim: claim.clone() };
            http = http.header(CONTENT_TYPE, "application/json").body(reqwest::Body::wrap(body));
        }
        let (refused, reason) = match timeout_at(deadline, http.send()).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => (error.is_connect(), causes(&error)),
            Err(_) => (false, format!("no answer in {:?}", request.timeout)),
        };
        let unsent = refused || (has_body && claim.take());
        Err(ApiFailure {
            class: if unsent { FailureClass::Unreachable } else { FailureClass::Ambiguous },
            status: None,
            request_id: None,
            detail: self.line(request, &reason),
            retry_after: None,
        })
    }

    /// Reads what came back: the head decides, the body is waited for until the deadline.
    async fn read(&self, request: &ApiRequest, response: Response, deadline: Instant) -> Result<Transfer, ApiFailure> {
        let status = response.status();
        let now = clock::unix_ms();
        let date = header(&response, DATE).and_then(wire::http_date);
        let retry_after = header(&response, RETRY_AFTER).and_then(|text| retry_after(text, date.unwrap_or(now)));
        // `Date` cuts off the fraction: only the end of its second never overestimates a number's life.
        let dated = date.map_or(now, |date| date + 999);
        let body = match timeout_at(deadline, self.read_body(response)).await {
            Ok(body) => body,
            Err(_) => Err(Unread::Broken(format!("the answer's body was not complete in {:?}", request.timeout))),
        };
        let failure = |class, text: &str| ApiFailure {
            class,
            status: Some(status.as_u16()),
            request_id: None,
            detail: self.line(request, text),
            retry_after,
        };
        if !status.is_success() {
            // The status has decided; the body only explains, and may be missing.
            let said = wire::read_error(&body.unwrap_or_default());
            let request_id = said.request_id.map(|id| self.line(request, &id));
            return Err(ApiFailure { request_id, ..failure(class(status), &format!("{status} {}", said.words)) });
        }
        match body {
            Ok(body) => wire::read_transfer(&body, &request.transfer, dated)
                .map_err(|reason| failure(FailureClass::Malformed, &reason)),
            Err(Unread::TooLarge) => {
                let text = format!("the answer's body is larger than {} octets", self.max_body);
                Err(failure(FailureClass::Malformed, &text))
            }
            Err(Unread::Broken(reason)) => Err(failure(FailureClass::Ambiguous, &reason)),
        }
    }

    /// Reads the body, holding at most `max_body` octets and one chunk.
    async fn read_body(&self, mut response: Response) -> Result<Vec<u8>, Unread> {
        let announced = header(&response, CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        if announced > self.max_body as u64 {
            return Err(Unread::TooLarge);
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| Unread::Broken(causes(&error)))? {
            if body.len() + chunk.len() > self.max_body {
                return Err(Unread::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// One printable line of at most [`LINE`] characters, without our credentials and without the variables of the
    /// request, should the other side have echoed them.
    fn line(&self, request: &ApiRequest, text: &str) -> String {
        let variables = match &request.operation {
            ApiOperation::Create(create) => create.variables.as_slice(),
            ApiOperation::Fetch => &[],
        };
        let values = variables.iter().map(|(_, value)| value.as_str()).filter(|value| value.len() >= TELLING);
        let secrets = [&self.api_secret, &self.api_id].into_iter().chain(self.returner.as_ref().map(|(_, word)| word));
        let credentials = secrets.map(|secret| secret.expose_secret().trim());
        let clean = credentials.chain(values).fold(text.to_owned(), |text, word| text.replace(word, "***"));
        clean.trim().chars().map(|c| if printable(c) { c } else { ' ' }).take(LINE).collect()
    }
}

/// Why a body could not be had.
enum Unread {
    TooLarge,
    Broken(String),
}

/// Who takes the request's body first: the connection, to send it, or the one who waits, to give it up. Exactly one
/// of the two gets it, so a create that was given up untaken can be called unsent, now and for ever.
#[derive(Debug, Clone, Default)]
struct Claim(Arc<AtomicBool>);

impl Claim {
    /// True for the first who asks.
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// A request body that is handed out once. It is asked for when a connection is established and the head is written.
struct Once {
    bytes: Bytes,
    claim: Claim,
}

impl Body for Once {
    type Data = Bytes;
    type Error = GivenUp;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, GivenUp>>> {
        let bytes = std::mem::take(&mut self.bytes);
        Poll::Ready(match bytes.is_empty() {
            true => None,
            false if self.claim.take() => Some(Ok(Frame::data(bytes))),
            false => Some(Err(GivenUp)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

/// Nobody waits for this request any more.
#[derive(Debug, thiserror::Error)]
#[error("the request was given up before it was sent")]
struct GivenUp;

/// The class of an HTTP status other than 2xx.
fn class(status: StatusCode) -> FailureClass {
    match status.as_u16() {
        400 | 413 | 422 => FailureClass::InvalidRequest,
        401 | 403 => FailureClass::Unauthorized,
        404 => FailureClass::NotFound,
        409 => FailureClass::Conflict,
        429 => FailureClass::Throttled,
        500.. => FailureClass::ServerError,
        // The other 4xx; and a redirect, which is not followed: it would carry the secret elsewhere.
        _ => FailureClass::Refused,
    }
}

/// `Retry-After`: seconds, or an HTTP date counted from the answer's own.
fn retry_after(text: &str, dated: i64) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let wait = wire::http_date(text)?.saturating_sub(dated);
    Some(Duration::from_millis(wait.max(0).unsigned_abs()))
}

fn header(response: &Response, name: HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

fn log(request: &ApiRequest, status: Option<StatusCode>, answer: &Result<Transfer, ApiFailure>, elapsed: Duration) {
    let (call, transfer) = (request.call, request.transfer.0.as_str());
    let operation = match request.operation {
        ApiOperation::Create(_) => "create",
        ApiOperation::Fetch => "fetch",
    };
    let status = status.map(|status| status.as_u16());
    let elapsed_ms = elapsed.as_millis() as u64;
    tracing::debug!(%call, transfer, operation, status, elapsed_ms, "asked ASAPP");
    if let Err(failure) = answer {
        let ApiFailure { class, request_id, detail, .. } = failure;
        tracing::info!(%call, transfer, operation, status, ?class, request_id, detail, "ASAPP did not serve");
    }
}

/// The innermost causes of an error, outermost first, without URLs.
fn causes(error: &reqwest::Error) -> String {
    let chain = std::iter::successors(error.source(), |error| (**error).source());
    let causes: Vec<String> = chain.map(ToString::to_string).collect();
    if causes.is_empty() { "the request could not be made".to_owned() } else { causes.join(": ") }
}

/// Neither a control character nor one that reorders or hides text.
fn printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn transfers_url(settings: &AsappSettings) -> Result<Url, SettingsError> {
    let wrong = |reason: &str| SettingsError::BaseUrl {
        url: settings.base_url.rsplit('@').next().unwrap_or_default().to_owned(),
        reason: reason.to_owned(),
    };
    let url = Url::parse(settings.base_url.trim()).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    match url.scheme() {
        "https" => {}
        "http" if settings.allow_http => {}
        "http" => return Err(SettingsError::Http),
        _ => return Err(wrong("is neither https:// nor http://")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("has a user or password, which belong into api_id and api_secret"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has a query or fragment"));
    }
    Ok(below(url, &PATH))
}

/// The URL with these path segments added, each percent-encoded.
fn below(mut url: Url, segments: &[&str]) -> Url {
    // Only a URL without a host has no segments, and `transfers_url` lets none through.
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(segments);
    }
    url
}

/// A header value that prints as `Sensitive`. White space around it, a file's last line feed say, does not count.
fn credential(name: &'static str, secret: &SecretString) -> Result<HeaderValue, SettingsError> {
    let wrong = |_: InvalidHeaderValue| SettingsError::Credential(name);
    let mut value = HeaderValue::from_str(secret.expose_secret().trim()).map_err(wrong)?;
    if value.is_empty() {
        return Err(SettingsError::Credential(name));
    }
    value.set_sensitive(true);
    Ok(value)
}

fn pinned(path: PathBuf) -> Result<Vec<Certificate>, SettingsError> {
    let read = std::fs::read(&path).map_err(|error| error.to_string());
    let parsed = read.and_then(|pem| Certificate::from_pem_bundle(&pem).map_err(|error| causes(&error)));
    match parsed {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(SettingsError::PinnedCa { path, reason: "no certificate in it".to_owned() }),
        Err(reason) => Err(SettingsError::PinnedCa { path, reason }),
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_body_goes_to_the_connection_or_is_given_up_and_never_both() {
        let poll = |body: &mut Once| Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()));
        let body = || Once { bytes: Bytes::from_static(b"{}"), claim: Claim::default() };

        let mut sent = body();
        assert!(matches!(poll(&mut sent), Poll::Ready(Some(Ok(_)))));
        assert!(!sent.claim.take(), "too late to give it up");
        assert!(matches!(poll(&mut sent), Poll::Ready(None)));

        let mut given_up = body();
        assert!(given_up.claim.take());
        assert!(matches!(poll(&mut given_up), Poll::Ready(Some(Err(GivenUp)))));
    }
}
