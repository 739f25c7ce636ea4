//! A small SIP endpoint: it places calls, takes calls, and tells what happens to them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rsip::{Header, Method};
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::AbortHandle;

use super::endpoint::{CallKey, Complaints, Endpoint};
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
