//! A peer without a stack: every octet it sends is the test's, and it answers nothing by itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use switchback::clock;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::stage::SOON;

/// One SIP socket.
#[derive(Debug)]
pub struct Wire {
    here: SocketAddr,
    socket: UdpSocket,
}

/// A message, and when it came.
#[derive(Debug, Clone)]
pub struct Heard {
    pub at: Instant,
    from: SocketAddr,
    pub text: String,
}

impl Wire {
    /// Opens the socket.
    pub async fn open(here: SocketAddr) -> Self {
        Self { here, socket: UdpSocket::bind(here).await.unwrap() }
    }

    /// Sends this text.
    pub async fn send(&self, to: SocketAddr, text: &str) {
        self.socket.send_to(text.as_bytes(), to).await.unwrap();
    }

    /// A request outside or inside a dialog: `tag` is the whole parameter of To, or nothing.
    pub fn request(&self, method: &str, call: &str, branch: &str, tag: &str, body: &str) -> String {
        let here = self.here;
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let number = if method == "BYE" { 2 } else { 1 };
        format!(
            "{method} sip:7000@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK{branch};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:+15550100042@{here}>;tag=far\r\nTo: <sip:7000@127.0.0.1>{tag}\r\n\
             Call-ID: {call}\r\nCSeq: {number} {method}\r\nContact: <sip:peer@{here}>\r\n{kind}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    /// The answer to a request, with this tag in To.
    pub async fn answer(&self, request: &Heard, status: &str, body: &str) {
        let kept = |name: &str| format!("{name}: {}\r\n", request.header(name).unwrap());
        let (via, from, call, number) = (kept("Via"), kept("From"), kept("Call-ID"), kept("CSeq"));
        let to = request.header("To").unwrap();
        let tag = if to.contains(";tag=") { "" } else { ";tag=answering" };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let here = self.here;
        let text = format!(
            "SIP/2.0 {status}\r\n{via}{from}To: {to}{tag}\r\n{call}{number}Contact: <sip:peer@{here}>\r\n{kind}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.send(request.from, &text).await;
    }

    /// A BYE of the side that answered this INVITE.
    pub fn bye_after(&self, invite: &Heard, branch: &str) -> String {
        let (here, from, to) = (self.here, invite.header("From").unwrap(), invite.header("To").unwrap());
        let target = invite.header("Contact").unwrap();
        let target = target.trim_start_matches('<').trim_end_matches('>');
        format!(
            "BYE {target} SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bK{branch};rport\r\nMax-Forwards: 70\r\n\
             From: {to};tag=answering\r\nTo: {from}\r\nCall-ID: {}\r\nCSeq: 1 BYE\r\nContent-Length: 0\r\n\r\n",
            invite.header("Call-ID").unwrap()
        )
    }

    /// The next message, which must begin like this.
    pub async fn hear(&self, start: &str) -> Heard {
        let heard = self.next(SOON).await;
        let heard = heard.unwrap_or_else(|| panic!("{} hears nothing and waits for {start}", self.here));
        assert!(heard.text.starts_with(start), "{} waits for {start} and hears\n{}", self.here, heard.text);
        heard
    }

    /// The next message within this time.
    pub async fn next(&self, limit: Duration) -> Option<Heard> {
        let mut buffer = vec![0; 65_535];
        let (length, from) = timeout(limit, self.socket.recv_from(&mut buffer)).await.ok()?.unwrap();
        Some(Heard { at: clock::now(), from, text: String::from_utf8(buffer[..length].to_vec()).unwrap() })
    }

    /// Fails if anything comes within this time.
    pub async fn hears_nothing(&self, time: Duration) {
        let heard = self.next(time).await;
        assert!(heard.is_none(), "{} hears\n{}", self.here, heard.unwrap().text);
    }
}

impl Heard {
    /// A header's first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let head = self.text.split("\r\n\r\n").next()?;
        head.lines().filter_map(|line| line.split_once(": ")).find(|(is, _)| *is == name).map(|(_, value)| value)
    }

    /// The tag parameter of To.
    pub fn to_tag(&self) -> String {
        let to = self.header("To").unwrap();
        to[to.find(";tag=").unwrap_or(to.len())..].to_owned()
    }
}
