//! Keep-alives of our own (RFC 5626 section 4.4.1), and the connections that they find broken.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::program::{Program, free};
use crate::secure::read_until;
use crate::slow::{invite, options};

const PING: &str = "\r\n\r\n";

async fn a_ping(stream: &mut TcpStream) {
    let mut octets = [0; 4];
    timeout(Duration::from_secs(5), stream.read_exact(&mut octets)).await.expect("a ping in time").unwrap();
    assert_eq!(octets, PING.as_bytes());
}

#[tokio::test]
async fn a_trunk_that_ponged_once_and_then_falls_silent_is_given_up() {
    let trunk = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let lines =
        "trunk.main.transport = 'tcp'\ncall.max_attempts = 1\nsip.keepalive = '200ms'\nsip.message_time = '500ms'";
    let program = Program::start(trunk.local_addr().unwrap(), lines).await;
    let mut customer = TcpStream::connect(program.sip).await.unwrap();
    customer.write_all(invite(1).as_bytes()).await.unwrap();
    let mut far = trunk.accept().await.unwrap().0;
    read_until(&mut far, "m=audio").await;
    read_until(&mut far, PING).await;
    // It owes no pong yet: a second without one ends nothing.
    for _ in 0..5 {
        a_ping(&mut far).await;
    }
    for _ in 0..3 {
        far.write_all(b"\r\n").await.unwrap();
        a_ping(&mut far).await;
    }
    let mut rest = Vec::new();
    let closed = timeout(Duration::from_secs(5), far.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "the connection is given up");
    assert!(rest.chunks(4).all(|ping| ping == PING.as_bytes()), "{rest:?}: no pong is answered");
    // The INVITE over it has failed.
    read_until(&mut customer, "SIP/2.0 480 ").await;
}

#[tokio::test]
async fn who_connects_is_left_alone_until_it_is_answered() {
    let program = Program::start(free(), "sip.keepalive = '100ms'").await;
    let mut peer = TcpStream::connect(program.sip).await.unwrap();
    let nothing = timeout(Duration::from_millis(600), peer.read(&mut [0; 8])).await;
    assert!(nothing.is_err(), "{nothing:?}");
    peer.write_all(options(2).as_bytes()).await.unwrap();
    read_until(&mut peer, "SIP/2.0 200 ").await;
    for _ in 0..3 {
        read_until(&mut peer, PING).await;
    }
}

#[tokio::test]
async fn zero_sends_none() {
    let program = Program::start(free(), "sip.keepalive = '0s'").await;
    let mut peer = TcpStream::connect(program.sip).await.unwrap();
    peer.write_all(options(3).as_bytes()).await.unwrap();
    read_until(&mut peer, "Content-Length: 0\r\n\r\n").await;
    assert!(timeout(Duration::from_millis(600), peer.read(&mut [0; 8])).await.is_err());
}
