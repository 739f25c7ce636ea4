//! The client against servers that misbehave below HTTP. Each test names the class that the core decides by.

use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use switchback::asapp::SettingsError;
use switchback::b2bua::io::FailureClass::{
    self, Ambiguous, InvalidRequest, Malformed, Refused, ServerError, Unreachable,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Reads one request, head and body, and gives it as text.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.to_ascii_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        assert!(stream.read_buf(&mut read).await.unwrap() > 0, "the client went away in mid-request: {text}");
    }
}

/// A server that reads one request on each connection, writes these octets, and closes after `linger`.
async fn canned(answer: impl Into<Vec<u8>>, linger: Duration) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (address, answer) = (listener.local_addr().unwrap(), answer.into());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let text = request(&mut stream).await;
            log.lock().unwrap().push(text);
            // A client that has seen enough has closed.
            let _ = stream.write_all(&answer).await;
            tokio::time::sleep(linger).await;
        }
    });
    (address, seen)
}

const AT_ONCE: Duration = Duration::ZERO;
const NEVER: Duration = Duration::from_secs(60);

#[tokio::test]
async fn the_request_is_as_documented() {
    let (address, seen) = canned("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}", AT_ONCE).await;
    let with_path = AsappClient::new(settings(format!("http://{address}/gateway/"))).unwrap();
    create(&with_path, 2000).await.unwrap();
    fetch(&with_path, 2000).await.unwrap();
    let seen = seen.lock().unwrap();
    let (head, body) = seen[0].split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /gateway/generativeagent/v1/call-transfers HTTP/1.1\r\n"), "{head}");
    for line in ["content-type: application/json", "asapp-api-id: mock-id", "asapp-api-secret: mock-secret"] {
        assert!(head.lines().any(|given| given == line), "{line} in {head}");
    }
    assert!(head.contains("user-agent: switchback/") && head.contains(&format!("content-length: {}", body.len())));
    assert!(body.starts_with(r#"{"id":"0000000000000000000000000000feed-1","externalConversationId":"conv-1""#));
    let path = "/gateway/generativeagent/v1/call-transfers/0000000000000000000000000000feed-1";
    assert!(seen[1].starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{}", seen[1]);
}

#[tokio::test]
async fn a_refused_connection_was_never_sent() {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let failure = create(&client(address), 2000).await.unwrap_err();
    assert_eq!((failure.class, failure.status), (Unreachable, None));
    assert!(failure.detail.contains("refused"), "{}", failure.detail);
    assert_eq!(class(fetch(&client(address), 2000).await), Unreachable);
}

#[tokio::test]
async fn a8_an_unknown_name_was_never_sent() {
    let client = AsappClient::new(settings("http://api.invalid")).unwrap();
    assert_eq!(class(create(&client, 3000).await), Unreachable);
}

/// A listener that accepts nothing and whose queue is full: the kernel drops every further SYN.
fn blackhole() -> (SocketAddr, Vec<socket2::Socket>) {
    let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let listener = socket();
    listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = vec![listener];
    for _ in 0..4 {
        let filler = socket();
        filler.set_nonblocking(true).unwrap();
        // In progress, which is all it is for.
        let _ = filler.connect(&address);
        held.push(filler);
    }
    (address.as_socket().unwrap(), held)
}

#[tokio::test]
async fn a_connect_timeout_was_never_sent() {
    let (address, _held) = blackhole();
    assert_eq!(class(create(&client(address), 2000).await), Unreachable);
    assert_eq!(class(fetch(&client(address), 2000).await), Unreachable);
}

#[tokio::test]
async fn a_create_given_up_while_connecting_was_never_sent() {
    let (address, _held) = blackhole();
    let patient = AsappSettings { connect_timeout: NEVER, ..settings(format!("http://{address}")) };
    let client = AsappClient::new(patient).unwrap();
    assert_eq!(class(create(&client, 150).await), Unreachable);
    assert_eq!(class(fetch(&client, 150).await), Ambiguous, "a fetch cannot know, and need not");
}

#[tokio::test]
async fn silence_after_the_request_is_ambiguous() {
    let (address, _) = canned("", NEVER).await;
    let failure = create(&client(address), 150).await.unwrap_err();
    assert_eq!((failure.class, failure.detail.as_str()), (Ambiguous, "no answer in 150ms"));
}

#[tokio::test]
async fn a_connection_closed_without_an_answer_is_ambiguous() {
    let (address, _) = canned("", AT_ONCE).await;
    assert_eq!(class(create(&client(address), 2000).await), Ambiguous);
    assert_eq!(class(fetch(&client(address), 2000).await), Ambiguous);
}

#[tokio::test]
async fn a_pooled_connection_that_is_reset_under_the_request_is_ambiguous() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let client = client(listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        request(&mut stream).await;
        stream.set_zero_linger().unwrap();
    });
    create(&client, 2000).await.unwrap();
    assert_eq!(class(create(&client, 2000).await), Ambiguous);
}

#[tokio::test]
async fn a_pooled_connection_closed_while_idle_is_replaced() {
    let (address, seen) = canned("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", AT_ONCE).await;
    let client = client(address);
    for _ in 0..3 {
        create(&client, 2000).await.unwrap();
        // Long enough for the close to arrive on loopback; nothing announces it.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(seen.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_ambiguous_but_a_bad_status_stands() {
    for (status, expected) in [(200, Ambiguous), (503, ServerError), (422, InvalidRequest)] {
        for linger in [AT_ONCE, NEVER] {
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 500\r\n\r\n{{\"id\":");
            let (address, _) = canned(head, linger).await;
            let failure = create(&client(address), 300).await.unwrap_err();
            assert_eq!((failure.class, failure.status), (expected, Some(status)), "{}", failure.detail);
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_malformed_announced_or_not() {
    let filler = "x".repeat(200_000);
    let announced = "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n{".to_owned();
    let chunked = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n30d40\r\n{filler}\r\n");
    for answer in [announced, chunked] {
        let (address, _) = canned(answer, NEVER).await;
        let small = AsappSettings { max_body: 100_000, ..settings(format!("http://{address}")) };
        let failure = create(&AsappClient::new(small).unwrap(), 2000).await.unwrap_err();
        assert_eq!((failure.class, failure.status), (Malformed, Some(200)), "{}", failure.detail);
    }
}

#[tokio::test]
async fn s8_a_redirect_is_not_followed() {
    let (elsewhere, visits) = canned("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", AT_ONCE).await;
    let head = format!("HTTP/1.1 307 X\r\nlocation: http://{elsewhere}/\r\ncontent-length: 0\r\n\r\n");
    let (address, _) = canned(head, AT_ONCE).await;
    let failure = create(&client(address), 2000).await.unwrap_err();
    assert_eq!((failure.class, failure.status), (Refused, Some(307)));
    assert!(visits.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_http_is_ambiguous() {
    let (address, _) = canned("220 smtp.example.com ESMTP\r\n", AT_ONCE).await;
    assert_eq!(class(create(&client(address), 2000).await), Ambiguous);
}

#[tokio::test]
async fn every_status_has_its_class() {
    use FailureClass::*;
    for (status, expected) in [
        (302, Refused),
        (400, InvalidRequest),
        (401, Unauthorized),
        (403, Unauthorized),
        (404, NotFound),
        (408, Refused),
        (409, Conflict),
        (413, InvalidRequest),
        (422, InvalidRequest),
        (429, Throttled),
        (500, ServerError),
        (503, ServerError),
    ] {
        let (address, _) = canned(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n"), AT_ONCE).await;
        assert_eq!(class(create(&client(address), 2000).await), expected, "{status}");
    }
}

#[tokio::test]
async fn retry_after_is_read_in_both_forms() {
    for (value, expected) in [
        ("7", Some(Duration::from_secs(7))),
        ("Wed, 01 Jul 2026 00:00:09 GMT", Some(Duration::from_secs(9))),
        ("Wed, 01 Jul 2020 00:00:00 GMT", Some(Duration::ZERO)),
        ("later", None),
    ] {
        let date = "date: Wed, 01 Jul 2026 00:00:00 GMT";
        let head = format!("HTTP/1.1 429 X\r\n{date}\r\nretry-after: {value}\r\ncontent-length: 0\r\n\r\n");
        let (address, _) = canned(head, AT_ONCE).await;
        assert_eq!(create(&client(address), 2000).await.unwrap_err().retry_after, expected, "{value}");
    }
}

#[tokio::test]
async fn an_error_body_that_echoes_everything_stays_one_clean_line() {
    let echo = format!("{SECRET} mock-id 4111-1111 \\u0000\\r\\n\\u202e {}", "long ".repeat(100));
    let body = format!(r#"{{"error":{{"requestId":"r\n1","code":400,"message":"{echo}"}}}}"#);
    let head = format!("HTTP/1.1 400 X\r\ncontent-length: {}\r\n\r\n", body.len());
    let (address, _) = canned(head + &body, AT_ONCE).await;
    let failure = create(&client(address), 2000).await.unwrap_err();
    assert_eq!(failure.request_id.as_deref(), Some("r 1"));
    assert!(failure.detail.starts_with("400 Bad Request 400 *** *** ***     "), "{}", failure.detail);
    assert_eq!(failure.detail.chars().count(), 200);
}

// --- TLS -------------------------------------------------------------------------------------------------------

/// An HTTPS server with a certificate of its own for `name`; gives its port and the certificate as PEM.
async fn https(name: &str) -> (u16, String) {
    https_until(name, 4096).await
}

/// The same, with a certificate that is good until the end of this year.
async fn https_until(name: &str, year: i32) -> (u16, String) {
    let signing_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(year, 12, 31);
    let cert = params.self_signed(&signing_key).unwrap();
    let key = tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
            request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        }
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(stream).await;
            }
        }
    });
    (port, cert.pem())
}

/// The answer of that server to a client that pins `pem`, or trusts the system's authorities.
async fn ask_https(port: u16, pem: Option<&str>) -> Result<Transfer, ApiFailure> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(pem.unwrap_or_default().as_bytes()).unwrap();
    let pinned_ca = pem.map(|_| file.path().to_owned());
    let settings = AsappSettings { allow_http: false, pinned_ca, ..settings(format!("https://127.0.0.1:{port}")) };
    create(&AsappClient::new(settings).unwrap(), 2000).await
}

#[tokio::test]
async fn s8_a_pinned_authority_is_believed_and_no_other_nor_a_self_signed_one() {
    let (port, pem) = https("127.0.0.1").await;
    ask_https(port, Some(&pem)).await.unwrap();

    let self_signed = ask_https(port, None).await.unwrap_err();
    assert_eq!(self_signed.class, Unreachable);
    assert!(self_signed.detail.contains("certificate"), "{}", self_signed.detail);

    let (_, other) = https("127.0.0.1").await;
    assert_eq!(class(ask_https(port, Some(&other)).await), Unreachable);
}

#[tokio::test]
async fn s8_a_certificate_for_another_name_is_refused() {
    let (port, pem) = https("api.example.com").await;
    assert_eq!(class(ask_https(port, Some(&pem)).await), Unreachable);
}

#[tokio::test]
async fn s8_a_certificate_that_has_expired_is_refused() {
    let (port, pem) = https_until("127.0.0.1", 2025).await;
    let expired = ask_https(port, Some(&pem)).await.unwrap_err();
    assert_eq!(expired.class, Unreachable);
    assert!(expired.detail.contains("expired"), "{}", expired.detail);
}

#[tokio::test]
async fn a_handshake_that_hangs_was_never_sent() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    assert_eq!(class(ask_https(listener.local_addr().unwrap().port(), None).await), Unreachable);
}

#[tokio::test]
async fn a_server_without_tls_was_never_sent_to() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _): (TcpStream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 X\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await;
    });
    assert_eq!(class(ask_https(port, None).await), Unreachable);
}

// --- settings --------------------------------------------------------------------------------------------------

fn refusal(settings: AsappSettings) -> String {
    AsappClient::new(settings).unwrap_err().to_string()
}

#[test]
fn settings_that_cannot_work_name_the_fix_and_no_secret() {
    let safe = AsappSettings { allow_http: false, ..settings("http://api.asapp.com") };
    assert!(matches!(AsappClient::new(safe.clone()), Err(SettingsError::Http)));
    assert!(refusal(safe).contains("use https://"));
    for url in ["", "api.asapp.com", "ftp://a", "https://me:hush@api.asapp.com", "https://a?x", "mailto:a@b"] {
        let text = refusal(settings(url));
        assert!(text.contains("https://api.asapp.com") && !text.contains("hush"), "{text}");
    }
    for secret in ["", " \n", "hush\u{7f}\0"] {
        let text = refusal(AsappSettings { api_secret: secret.into(), ..settings("https://api.asapp.com") });
        assert!(text.contains("api_secret") && !text.contains("hush"), "{text}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in ["/nonexistent.pem".into(), file.path().to_owned()] {
        let text = refusal(AsappSettings { pinned_ca: Some(path), ..settings("https://api.asapp.com") });
        assert!(text.contains("PEM"), "{text}");
    }
}

#[test]
fn a_secret_read_from_a_file_may_end_in_a_line_feed() {
    AsappClient::new(AsappSettings { api_secret: "hush\n".into(), ..settings("https://api.asapp.com") }).unwrap();
}

#[test]
fn nothing_prints_the_credentials() {
    let settings = settings("https://api.asapp.com");
    let text = format!("{settings:?} {:?}", AsappClient::new(settings.clone()).unwrap());
    assert!(!text.contains(SECRET) && !text.contains("mock-id"), "{text}");
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_has_the_request_id_and_neither_credentials_nor_variables() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let body = format!(r#"{{"error":{{"requestId":"req-7","message":"bad {SECRET} and 4111-1111"}}}}"#);
    let (address, _) = canned(format!("HTTP/1.1 400 X\r\ncontent-length: {}\r\n\r\n{body}", body.len()), AT_ONCE).await;
    let guard = tracing::subscriber::set_default(subscriber);
    create(&client(address), 2000).await.unwrap_err();
    drop(guard);
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(!text.contains(SECRET) && !text.contains("mock-id") && !text.contains("4111"), "{text}");
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("switchback::asapp")).collect();
    let [asked, failed] = ours.as_slice() else { panic!("{text}") };
    assert!(asked.contains("DEBUG") && asked.contains("operation=\"create\" status=400 elapsed_ms="), "{asked}");
    assert!(failed.contains("INFO") && failed.contains("request_id=\"req-7\""), "{failed}");
}
