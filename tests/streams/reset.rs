//! O14: the trunk's connection resets between INVITE and 200. No number is dialled twice, no call is lost to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::program::Program;
use crate::secure::read_until;
use crate::slow::invite;

const TCP: &str = "trunk.main.transport = 'tcp'\n";

/// The end of a connection that sends RST.
pub fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// This line of a message.
pub fn line<'a>(message: &'a str, name: &str) -> &'a str {
    message.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {message}"))
}

/// The answer to an INVITE, from somebody who hears requests at `contact`.
pub fn response(invite: &str, status: &str, contact: SocketAddr) -> String {
    let copied = ["Via:", "From:", "Call-ID:", "CSeq:"].map(|name| line(invite, name)).join("\r\n");
    let sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9002 RTP/AVP 0\r\n";
    let body = if status.starts_with('2') { sdp } else { "" };
    format!(
        "SIP/2.0 {status}\r\n{copied}\r\n{};tag=far\r\nContact: <sip:far@{contact};transport=tcp>\r\n\
         Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
        line(invite, "To:"),
        body.len()
    )
}

async fn accepted(trunk: &TcpListener) -> TcpStream {
    timeout(Duration::from_secs(8), trunk.accept()).await.expect("a connection in time").unwrap().0
}

async fn is_called_no_more(trunk: &TcpListener) {
    assert!(timeout(Duration::from_millis(700), trunk.accept()).await.is_err(), "one more call");
}

#[tokio::test]
async fn o14_before_any_answer_a_fresh_number_is_dialled_over_a_new_connection() {
    let trunk = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = trunk.local_addr().unwrap();
    let program = Program::start(address, TCP).await;
    let mut customer = TcpStream::connect(program.sip).await.unwrap();
    customer.write_all(invite(1).as_bytes()).await.unwrap();
    let mut first = accepted(&trunk).await;
    let before = read_until(&mut first, "m=audio").await;
    reset(&first);
    drop(first);
    let mut second = accepted(&trunk).await;
    let after = read_until(&mut second, "m=audio").await;
    for name in ["INVITE ", "Call-ID:", "Via:"] {
        assert_ne!(line(&before, name), line(&after, name), "another number, another dialog");
    }
    second.write_all(response(&after, "200 OK", address).as_bytes()).await.unwrap();
    read_until(&mut second, "ACK sip:").await;
    read_until(&mut customer, "SIP/2.0 200 ").await;
    is_called_no_more(&trunk).await;
}

#[tokio::test]
async fn o14_while_it_rings_the_answer_comes_over_a_connection_of_the_trunks_own() {
    let trunk = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = trunk.local_addr().unwrap();
    let program = Program::start(address, TCP).await;
    let mut customer = TcpStream::connect(program.sip).await.unwrap();
    customer.write_all(invite(2).as_bytes()).await.unwrap();
    let mut first = accepted(&trunk).await;
    let invite = read_until(&mut first, "m=audio").await;
    first.write_all(response(&invite, "180 Ringing", address).as_bytes()).await.unwrap();
    read_until(&mut customer, "SIP/2.0 180 ").await;
    reset(&first);
    drop(first);
    is_called_no_more(&trunk).await;
    // RFC 3261 section 18.2.2: to the address and port of our Via.
    let mut second = TcpStream::connect(program.sip).await.unwrap();
    second.write_all(response(&invite, "200 OK", address).as_bytes()).await.unwrap();
    read_until(&mut customer, "SIP/2.0 200 ").await;
    let mut third = accepted(&trunk).await;
    read_until(&mut third, "ACK sip:").await;
}
