//! S11: peers that are slow, many or mad hurt nobody but themselves.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::program::{Program, eventually, free};

pub fn options(call: usize) -> String {
    format!(
        "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:9;branch=z9hG4bK{call}\r\nFrom: <sip:a@b>;tag=1\r\n\
         To: <sip:a@b>\r\nCall-ID: {call}\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
}

pub fn invite(call: usize) -> String {
    let sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9000 RTP/AVP 0\r\n";
    let described = format!(
        "Contact: <sip:a@127.0.0.1:9>\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}",
        sdp.len()
    );
    options(call).replace("OPTIONS", "INVITE").replace("Content-Length: 0\r\n\r\n", &described)
}

async fn heard(stream: &mut TcpStream) -> String {
    let mut octets = vec![0; 4096];
    let read = timeout(Duration::from_secs(5), stream.read(&mut octets)).await.expect("an answer in time");
    String::from_utf8_lossy(&octets[..read.unwrap_or(0)]).into_owned()
}

async fn answers(program: &Program, call: usize) -> bool {
    let Ok(mut stream) = TcpStream::connect(program.sip).await else { return false };
    let _ = stream.write_all(options(call).as_bytes()).await;
    heard(&mut stream).await.starts_with("SIP/2.0 200 ")
}

#[tokio::test]
async fn keep_alives_and_split_messages_are_answered() {
    let program = Program::start(free(), "").await;
    let mut stream = TcpStream::connect(program.sip).await.unwrap();
    stream.write_all(b"\r\n\r\n").await.unwrap();
    assert_eq!(heard(&mut stream).await, "\r\n");
    let (first, second) = (options(1), options(2));
    let (front, back) = first.split_at(40);
    stream.write_all(front.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.write_all(format!("{back}{second}").as_bytes()).await.unwrap();
    let mut all = String::new();
    while all.matches("SIP/2.0 200 OK").count() < 2 {
        let more = heard(&mut stream).await;
        assert!(!more.is_empty(), "{all}");
        all.push_str(&more);
    }
}

#[tokio::test]
async fn a_bad_length_is_answered_400_and_closed() {
    let program = Program::start(free(), "").await;
    for length in ["Content-Length: x", "X-Length: 3", "Content-Length: 99999999999", "Content-Length: -3"] {
        let mut stream = TcpStream::connect(program.sip).await.unwrap();
        stream.write_all(options(3).replace("Content-Length: 0", length).as_bytes()).await.unwrap();
        let answer = heard(&mut stream).await;
        assert!(answer.starts_with("SIP/2.0 400 "), "{length}: {answer}");
        assert_eq!(heard(&mut stream).await, "", "{length}: closed");
    }
    assert!(answers(&program, 4).await);
}

#[tokio::test]
async fn s11_half_a_message_has_its_time_and_no_more() {
    let program = Program::start(free(), "sip.message_time = '500ms'").await;
    let mut slow = TcpStream::connect(program.sip).await.unwrap();
    let begun = switchback::clock::now();
    let mut closed = false;
    for octet in options(5).into_bytes() {
        // One octet at a time buys no more time than one.
        closed = slow.write_all(&[octet]).await.is_err()
            || matches!(timeout(Duration::from_millis(50), slow.read(&mut [0; 8])).await, Ok(Ok(0) | Err(_)));
        if closed {
            break;
        }
    }
    assert!(closed, "the connection is closed");
    assert!(switchback::clock::now() - begun < Duration::from_secs(3));
    assert!(answers(&program, 6).await);
}

#[tokio::test]
async fn s11_connections_of_one_source_have_a_limit_and_come_back() {
    let program = Program::start(free(), "sip.max_connections_per_source = 10").await;
    let mut held = Vec::new();
    for call in 0..10 {
        let mut stream = TcpStream::connect(program.sip).await.unwrap();
        let _ = stream.write_all(options(call).as_bytes()).await;
        assert!(heard(&mut stream).await.starts_with("SIP/2.0 200 "));
        held.push(stream);
    }
    let mut refused = TcpStream::connect(program.sip).await.unwrap();
    assert_eq!(heard(&mut refused).await, "", "the eleventh is closed unread");
    for (call, stream) in held.iter_mut().enumerate() {
        stream.write_all(options(100 + call).as_bytes()).await.unwrap();
        assert!(heard(stream).await.starts_with("SIP/2.0 200 "), "those that are there go on");
    }
    drop(held);
    eventually("a place for a newcomer", async || answers(&program, 200).await).await;
}

#[tokio::test]
async fn s11_a_peer_that_reads_nothing_is_cut_off() {
    let program = Program::start(free(), "sip.message_time = '500ms'").await;
    let mut deaf = TcpStream::connect(program.sip).await.unwrap();
    let flood: String = (0..100).map(|call| options(1_000 + call)).collect();
    let begun = switchback::clock::now();
    // It asks until nothing more is taken from it.
    while let Ok(Ok(())) = timeout(Duration::from_secs(3), deaf.write_all(flood.as_bytes())).await {
        assert!(switchback::clock::now() - begun < Duration::from_secs(20), "it is never cut off");
    }
    assert!(answers(&program, 7).await, "nobody else notices");
}

#[tokio::test]
async fn a_trunk_that_cannot_be_reached_is_told_at_once() {
    let program = Program::start(free(), "trunk.main.transport = 'tcp'").await;
    let mut stream = TcpStream::connect(program.sip).await.unwrap();
    stream.write_all(invite(8).as_bytes()).await.unwrap();
    let begun = switchback::clock::now();
    let mut all = String::new();
    while !all.contains("SIP/2.0 480 ") {
        let more = heard(&mut stream).await;
        assert!(!more.is_empty(), "{all}");
        all.push_str(&more);
    }
    assert!(switchback::clock::now() - begun < Duration::from_secs(4), "two attempts, both refused at once");
}

/// Whether the admin port answers within a moment.
async fn is_healthy(program: &Program) -> bool {
    let Ok(mut stream) = TcpStream::connect(program.admin).await else { return false };
    let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let mut octets = [0; 64];
    let read = timeout(Duration::from_secs(1), stream.read(&mut octets)).await;
    matches!(read, Ok(Ok(length)) if octets[..length].starts_with(b"HTTP/1.1 200 "))
}

#[tokio::test]
async fn s11_slow_clients_of_the_admin_port_have_their_time_and_no_more() {
    let program = Program::start(free(), "").await;
    let mut slow = Vec::new();
    for _ in 0..switchback::admin::MAX_CONNECTIONS - 1 {
        let mut stream = TcpStream::connect(program.admin).await.unwrap();
        stream.write_all(b"GET /me").await.unwrap();
        slow.push(stream);
    }
    assert!(is_healthy(&program).await, "beside them others are answered at once");
    slow.push(TcpStream::connect(program.admin).await.unwrap());
    assert!(answers(&program, 300).await, "and SIP goes on when the last place is taken");
    // One octet at a time buys no more time than one.
    let begun = switchback::clock::now();
    let mut gone = false;
    while !gone && switchback::clock::now() - begun < switchback::admin::REQUEST_LIMIT * 2 {
        gone = slow[0].write_all(b"x").await.is_err()
            || matches!(timeout(Duration::from_millis(200), slow[0].read(&mut [0; 8])).await, Ok(Ok(0) | Err(_)));
    }
    assert!(gone, "a slow request is cut off");
    eventually("places for others", async || is_healthy(&program).await).await;
}
