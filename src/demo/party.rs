//! A small SIP endpoint: it places calls, takes calls, and tells what happens to them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rsip::{Header, Method};
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::AbortHandle;

use super::complaint::Complaints;
use super::endpoint::{CallKey, Endpoint};
use super::message::{self, Dialog, Heard, Invitation};
use super::tap::Tap;

/// A SIP endpoint on one UDP socket. Dropping it closes the socket at once, debts unpaid; see [`Party::linger`].
pub struct Party {
    endpoint: Arc<Endpoint>,
    incoming: UnboundedReceiver<Call>,
    listening: AbortHandle,
}

impl Party {
    /// Binds the socket and begins to listen. IPv4 only, because rsip can write no other host.
    pub async fn start(bind: SocketAddr, tap: Tap) -> io::Result<Self> {
        if !message::can_write(bind.ip()) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the mock parties speak IPv4 only"));
        }
        // A blocking-free second handle: `try_send_to` of tokio refuses until its reactor has seen the socket once.
        let socket = std::net::UdpSocket::bind(bind)?;
        socket.set_nonblocking(true)?;
        let listener = UdpSocket::from_std(socket.try_clone()?)?;
        let (sender, incoming) = unbounded_channel();
        let endpoint = Arc::new(Endpoint::new(socket, listener.local_addr()?, tap, sender));
        let listening = tokio::spawn(listen(listener, Arc::clone(&endpoint))).abort_handle();
        Ok(Self { endpoint, incoming, listening })
    }

    /// The address bound.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// The next call that comes in. Nothing has been answered yet, not even 100.
    pub async fn accept(&mut self) -> Option<Call> {
        self.incoming.recv().await
    }

    /// Sends an INVITE.
    pub fn call(&self, invitation: &Invitation) -> Call {
        let key = CallKey { call_id: format!("{}@{}", message::token(), self.address().ip()), tag: message::token() };
        let (sender, events) = unbounded_channel();
        self.endpoint.open(key.clone(), sender, None);
        let request = invitation.request(self.address(), &key.call_id, &key.tag);
        self.endpoint.request(&key, request, invitation.target);
        Call { endpoint: Arc::clone(&self.endpoint), key, invite: None, events }
    }

    /// What rsip could not accept, now and later.
    pub fn complaints(&self) -> Complaints {
        self.endpoint.complaints.clone()
    }

    /// Keeps the socket open for a while, so that whoever repeats a message is answered again.
    pub fn linger(self, time: Duration) {
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            drop(self);
        });
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        self.listening.abort();
        self.endpoint.fall_silent();
    }
}

async fn listen(socket: UdpSocket, endpoint: Arc<Endpoint>) {
    let mut buffer = vec![0; 65_535];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, source)) => endpoint.received(&buffer[..length], source),
            // An ICMP error of an earlier datagram; the socket is still good.
            Err(error) => tracing::debug!(%error, "receiving"),
        }
    }
}

/// What happens to a call. Retransmissions are invisible here; what RFC 3261 demands at once (the ACK, the 200 to a BYE,
/// the 200 to a CANCEL with its 487, the 202 to a REFER) has been sent when the event is told.
#[derive(Debug)]
pub enum CallEvent {
    /// A provisional response to our INVITE.
    Progressed(Box<Heard>),
    /// A 2xx to our INVITE.
    Answered(Box<Heard>),
    /// A final refusal of our INVITE.
    Refused(Box<Heard>),
    /// The ACK of our final response.
    Confirmed(Box<Heard>),
    /// The far side cancelled its INVITE.
    Cancelled,
    /// The far side's BYE.
    HungUp(Box<Heard>),
    /// The far side's REFER.
    Referred(Box<Heard>),
    /// A re-INVITE; it waits for [`Call::answer_offer`].
    Reoffered(Box<Heard>),
    /// The final response to another request of ours.
    Finished(Method, u16),
    /// Something of ours was repeated for 64·T1 and nobody answered.
    Unanswered,
}

/// One call of a party. Dropping it forgets it: a BYE is then answered 481.
pub struct Call {
    endpoint: Arc<Endpoint>,
    key: CallKey,
    invite: Option<Heard>,
    events: UnboundedReceiver<CallEvent>,
}

impl Call {
    pub(super) fn incoming(endpoint: Arc<Endpoint>, key: CallKey, invite: Heard, dialog: Dialog) -> Self {
        let (sender, events) = unbounded_channel();
        endpoint.open(key.clone(), sender, Some(dialog));
        Self { endpoint, key, invite: Some(invite), events }
    }

    /// The INVITE that brought this call, `None` if we placed it.
    pub fn invite(&self) -> Option<&Heard> {
        self.invite.as_ref()
    }

    /// SIP's Call-ID.
    pub fn call_id(&self) -> &str {
        &self.key.call_id
    }

    /// The next event.
    pub async fn next(&mut self) -> CallEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The sender lives as long as this handle: only `close` in `drop` removes it.
            None => std::future::pending().await,
        }
    }

    /// Answers the INVITE that brought this call; `sdp` may be empty. False if it was cancelled or answered before.
    pub fn respond(&self, status: u16, sdp: &str) -> bool {
        self.invite.as_ref().is_some_and(|invite| self.endpoint.respond(invite, &self.key, status, sdp))
    }

    /// Accepts a re-INVITE.
    pub fn answer_offer(&self, offer: &Heard, sdp: &str) {
        self.endpoint.respond(offer, &self.key, 200, sdp);
    }

    /// Cancels our INVITE, after its first provisional response. The end is told as `Refused`, or as `Answered` if
    /// the answer was faster.
    pub fn cancel(&self) {
        self.endpoint.cancel(&self.key);
    }

    /// Sends a BYE with these further headers; false without a dialog. Its answer is told as `Finished`.
    pub fn hang_up(&self, headers: &[(String, String)]) -> bool {
        self.endpoint.in_dialog(&self.key, Method::Bye, others(headers), "")
    }

    /// Reports the progress of a REFER: a NOTIFY with this status line as its body (RFC 3515), the last one if
    /// `finally`.
    pub fn notify(&self, status_line: &str, finally: bool) -> bool {
        let state = if finally { "terminated;reason=noresource" } else { "active;expires=60" };
        let headers = [("Event", "refer"), ("Subscription-State", state), ("Content-Type", "message/sipfrag")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.endpoint.in_dialog(&self.key, Method::Notify, others(&headers), &format!("{status_line}\r\n"))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.endpoint.close(&self.key);
    }
}

fn others(headers: &[(String, String)]) -> Vec<Header> {
    headers.iter().map(|(name, value)| Header::Other(name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A far side without a stack: every octet is ours.
    struct Peer(UdpSocket);

    impl Peer {
        async fn bind() -> Self {
            Self(UdpSocket::bind("127.0.0.1:0").await.unwrap())
        }

        fn address(&self) -> SocketAddr {
            self.0.local_addr().unwrap()
        }

        async fn send(&self, to: SocketAddr, message: &str) {
            self.0.send_to(message.as_bytes(), to).await.unwrap();
        }

        /// The next message, or an empty text when nothing comes within `millis`.
        async fn within(&self, millis: u64) -> String {
            let mut buffer = vec![0; 4096];
            let received = tokio::time::timeout(Duration::from_millis(millis), self.0.recv(&mut buffer)).await;
            String::from_utf8(buffer[..received.map_or(0, Result::unwrap)].to_vec()).unwrap()
        }

        async fn next(&self) -> String {
            let message = self.within(2000).await;
            assert!(!message.is_empty(), "nothing came");
            message
        }
    }

    fn value<'a>(message: &'a str, name: &str) -> Vec<&'a str> {
        message.lines().filter_map(|line| line.split_once(": ")).filter(|(is, _)| *is == name).map(|(_, v)| v).collect()
    }

    fn request(method: &str, peer: SocketAddr, branch: &str, to_tag: &str) -> String {
        format!(
            "{method} sip:+1555@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {peer};branch={branch};rport\r\nMax-Forwards: 70\r\n\
             From: \"A, B\" <sip:a@127.0.0.1>;tag=far\r\nTo: <sip:+1555@127.0.0.1>{to_tag}\r\nCall-ID: one\r\n\
             CSeq: 7 {method}\r\nContact: <sip:{peer}>\r\nContent-Length: 0\r\n\r\n"
        )
    }

    /// A response to a request of the party, by its own Via, From, To and CSeq.
    fn response(to: &str, status: &str, more: &str) -> String {
        let kept = |name| value(to, name)[0].to_owned();
        let (via, from, to, call_id, cseq) = (kept("Via"), kept("From"), kept("To"), kept("Call-ID"), kept("CSeq"));
        format!(
            "SIP/2.0 {status}\r\nVia: {via}\r\nFrom: {from}\r\nTo: {to};tag=far\r\nCall-ID: {call_id}\r\nCSeq: {cseq}\r\n\
             {more}Content-Length: 0\r\n\r\n"
        )
    }

    async fn party() -> Party {
        Party::start("127.0.0.1:0".parse().unwrap(), Tap::default()).await.unwrap()
    }

    fn invitation(peer: &Peer) -> Invitation {
        let (user, caller) = ("+1555".to_owned(), "+1666".to_owned());
        Invitation { target: peer.address(), user, caller, headers: Vec::new(), sdp: String::new() }
    }

    #[tokio::test]
    async fn an_answer_is_repeated_until_its_ack() {
        let (mut party, peer) = (party().await, Peer::bind().await);
        let invite = request("INVITE", peer.address(), "z9hG4bK1", "");
        peer.send(party.address(), &invite).await;
        let mut call = party.accept().await.unwrap();
        call.respond(180, "");
        let ringing = peer.next().await;
        peer.send(party.address(), &invite).await;
        assert_eq!(peer.next().await, ringing, "a repeated INVITE hears the same again");
        assert!(call.respond(200, ""));
        let answer = peer.next().await;
        assert_eq!(peer.next().await, answer, "after T1");
        let to = value(&answer, "To")[0];
        let tag = &to[to.find(";tag=").unwrap()..];
        peer.send(party.address(), &request("ACK", peer.address(), "z9hG4bK2", tag)).await;
        assert!(matches!(call.next().await, CallEvent::Confirmed(_)));
        assert_eq!(peer.within(1200).await, "", "silent after the ACK");
        assert!(!call.respond(486, ""), "one final response");

        peer.send(party.address(), &request("BYE", peer.address(), "z9hG4bK3", tag)).await;
        assert!(peer.next().await.starts_with("SIP/2.0 200 OK\r\n"));
        assert!(matches!(call.next().await, CallEvent::HungUp(_)));
        peer.send(party.address(), &request("BYE", peer.address(), "z9hG4bK4", ";tag=stranger")).await;
        assert!(peer.next().await.starts_with("SIP/2.0 481 "));
        assert!(party.complaints().list().is_empty());
    }

    #[tokio::test]
    async fn requests_follow_the_recorded_route_and_a_repeated_answer_is_acknowledged_again() {
        let (party, peer, proxy) = (party().await, Peer::bind().await, Peer::bind().await);
        let mut call = party.call(&invitation(&peer));
        let invite = peer.next().await;
        let route = format!("<sip:127.0.0.1:{};lr>", proxy.address().port());
        let more = format!(
            "Record-Route: <sip:192.0.2.1;lr>\r\nRecord-Route: {route}\r\nContact: <sip:far@192.0.2.9:5099>\r\n"
        );
        let answer = response(&invite, "200 OK", &more);
        peer.send(party.address(), &answer).await;
        assert!(matches!(call.next().await, CallEvent::Answered(_)));
        let ack = proxy.next().await;
        assert!(ack.starts_with("ACK sip:far@192.0.2.9:5099 SIP/2.0\r\n"), "{ack}");
        assert_eq!(value(&ack, "Route"), [format!("{route},<sip:192.0.2.1;lr>")]);
        assert_eq!((value(&ack, "CSeq"), value(&ack, "Max-Forwards")), (vec!["1 ACK"], vec!["70"]));
        peer.send(party.address(), &answer).await;
        assert_eq!(proxy.next().await, ack);

        call.hang_up(&[("Reason".to_owned(), "Q.850;cause=16".to_owned())]);
        let bye = proxy.next().await;
        assert_eq!((value(&bye, "CSeq"), value(&bye, "Reason")), (vec!["2 BYE"], vec!["Q.850;cause=16"]));
        assert_eq!(proxy.next().await, bye, "repeated after T1");
    }

    #[tokio::test]
    async fn a_refer_is_accepted_and_its_success_notified() {
        let (party, peer) = (party().await, Peer::bind().await);
        let mut call = party.call(&invitation(&peer));
        let invite = peer.next().await;
        let contact = format!("Contact: <sip:{}>\r\n", peer.address());
        peer.send(party.address(), &response(&invite, "200 OK", &contact)).await;
        assert!(peer.next().await.starts_with("ACK "));
        let from = value(&invite, "From")[0];
        let refer = request("REFER", peer.address(), "z9hG4bK1", &from[from.find(";tag=").unwrap()..])
            .replace("Call-ID: one", &format!("Call-ID: {}", call.call_id()))
            .replace("Content-Length", "Refer-To: <sip:queue@192.0.2.1?X-GA-transfer=AGENT>\r\nContent-Length");
        peer.send(party.address(), &refer).await;
        assert!(peer.next().await.starts_with("SIP/2.0 202 Accepted\r\n"));
        assert!(matches!(call.next().await, CallEvent::Answered(_)));
        let CallEvent::Referred(referred) = call.next().await else { panic!("no REFER") };
        let to = "<sip:queue@192.0.2.1?X-GA-transfer=AGENT>".to_owned();
        assert!(referred.headers().contains(&("Refer-To".to_owned(), to)));
        assert!(call.notify("SIP/2.0 200 OK", true));
        let notify = peer.next().await;
        assert_eq!(value(&notify, "Subscription-State"), ["terminated;reason=noresource"]);
        assert!(notify.ends_with("Content-Length: 16\r\n\r\nSIP/2.0 200 OK\r\n"), "{notify}");
    }

    #[tokio::test]
    async fn a_cancel_waits_for_a_provisional_response() {
        let (party, peer) = (party().await, Peer::bind().await);
        let mut call = party.call(&invitation(&peer));
        call.cancel();
        let invite = peer.next().await;
        peer.send(party.address(), &response(&invite, "100 Trying", "")).await;
        let cancel = peer.next().await;
        assert!(cancel.starts_with("CANCEL "), "{cancel}");
        assert_eq!(value(&cancel, "Via"), value(&invite, "Via"));
        peer.send(party.address(), &response(&cancel, "200 OK", "")).await;
        peer.send(party.address(), &response(&invite, "487 Request Terminated", "")).await;
        let ack = peer.next().await;
        assert!(ack.starts_with("ACK ") && value(&ack, "To")[0].ends_with(";tag=far"), "{ack}");
        assert_eq!(value(&ack, "Via"), value(&invite, "Via"));
        assert!(matches!(call.next().await, CallEvent::Progressed(_)));
        assert!(matches!(call.next().await, CallEvent::Finished(Method::Cancel, 200)));
        assert!(matches!(call.next().await, CallEvent::Refused(_)));
    }

    #[tokio::test]
    async fn what_rsip_cannot_read_is_a_complaint() {
        let (party, peer) = (party().await, Peer::bind().await);
        let options = request("OPTIONS", peer.address(), "z9hG4bK1", "");
        peer.send(party.address(), &options.replace("CSeq: 7 OPTIONS", "CSeq: 7 INVITE")).await;
        peer.send(party.address(), &options.replace("Content-Length: 0", "Content-Length: 5")).await;
        peer.send(party.address(), &options.replace("Via: SIP", "v: SIP")).await;
        peer.send(party.address(), "\r\n\r\n").await;
        peer.send(party.address(), &options).await;
        assert!(peer.next().await.starts_with("SIP/2.0 200 OK\r\n"));
        let complaints = party.complaints().list();
        let errors: Vec<_> = complaints.iter().map(|complaint| complaint.error.split(':').next().unwrap()).collect();
        assert_eq!(errors, ["CSeq", "Content-Length", "Via"], "{complaints:?}");
    }

    #[tokio::test]
    async fn another_family_than_ipv4_is_refused() {
        assert!(Party::start("[::1]:0".parse().unwrap(), Tap::default()).await.is_err());
    }
}
