//! The transaction side of a mock party: one UDP socket, retransmission and matching.
//!
//! Two ideas carry all of RFC 3261 section 17 that a mock needs. *Repeat*: a request, or the final response to an INVITE,
//! is sent again at T1, 2·T1, 4·T1 … until it is answered. *Again*: who repeats something to us hears again what it
//! heard the first time, be it a response, or the ACK of a response.

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rsip::headers::ToTypedHeader;
use rsip::message::HeadersExt;
use rsip::{Header, Method, Request};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use super::complaint::{Complaint, Complaints};
use super::message::{self, Dialog, Heard};
use super::party::{Call, CallEvent};
use super::tap::{Tap, Traffic};

const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
/// Timers B, F and H.
const GIVE_UP: Duration = T1.saturating_mul(64);
/// How many answers are remembered for whoever repeats a message.
const REMEMBERED: usize = 4096;

/// A call of this party: SIP's Call-ID and our own tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallKey {
    /// Call-ID.
    pub call_id: String,
    /// Our tag.
    pub tag: String,
}

/// The socket and everything known about what passed it.
pub(super) struct Endpoint {
    socket: UdpSocket,
    pub(super) address: SocketAddr,
    pub(super) complaints: Complaints,
    tap: Tap,
    incoming: UnboundedSender<Call>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    calls: HashMap<CallKey, Known>,
    /// Our requests without a final response, by branch and method.
    sent: HashMap<String, Sent>,
    /// INVITEs we have not finally answered, by branch.
    ringing: HashMap<String, (Heard, CallKey)>,
    repeats: HashMap<String, AbortHandle>,
    again: Again,
}

struct Known {
    events: UnboundedSender<CallEvent>,
    dialog: Option<Dialog>,
}

struct Sent {
    call: CallKey,
    request: Request,
    to: SocketAddr,
    cancel: Cancel,
}

/// A CANCEL waits for a provisional response (RFC 3261 section 9.1).
#[derive(PartialEq)]
enum Cancel {
    No,
    WhenTrying,
    Allowed,
}

/// What is said again when the same is heard again; the oldest is forgotten first.
#[derive(Default)]
struct Again {
    said: HashMap<String, (Vec<u8>, SocketAddr)>,
    order: VecDeque<String>,
}

impl Again {
    fn remember(&mut self, heard: String, bytes: Vec<u8>, to: SocketAddr) {
        if self.said.insert(heard.clone(), (bytes, to)).is_none() {
            self.order.push_back(heard);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.said.remove(&oldest);
        }
    }
}

impl Endpoint {
    pub(super) fn new(socket: UdpSocket, address: SocketAddr, tap: Tap, incoming: UnboundedSender<Call>) -> Self {
        Self { socket, address, complaints: Complaints::default(), tap, incoming, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops every retransmission.
    pub(super) fn fall_silent(&self) {
        self.state().repeats.drain().for_each(|(_, task)| task.abort());
    }

    // --- calls ---------------------------------------------------------------------------------------------------

    pub(super) fn open(&self, call: CallKey, events: UnboundedSender<CallEvent>, dialog: Option<Dialog>) {
        self.state().calls.insert(call, Known { events, dialog });
    }

    pub(super) fn close(&self, call: &CallKey) {
        let mut state = self.state();
        state.calls.remove(call);
        state.ringing.retain(|_, (_, ringing)| ringing != call);
    }

    fn tell(&self, call: &CallKey, event: CallEvent) {
        if let Some(known) = self.state().calls.get(call) {
            // A call that was dropped no longer listens; its debts are paid without it.
            let _ = known.events.send(event);
        }
    }

    // --- what we say ---------------------------------------------------------------------------------------------

    fn send(&self, bytes: &[u8], to: SocketAddr) {
        self.tap.sent(Traffic::Sip, self.address, to, bytes);
        if let Err(error) = self.socket.send_to(bytes, to) {
            tracing::debug!(%error, %to, "a datagram was not sent");
        }
    }

    /// Sends now and again until [`Self::hush`], or until nobody answered for 64·T1.
    fn repeat(self: &Arc<Self>, until: String, bytes: Vec<u8>, to: SocketAddr, longest: Duration, call: CallKey) {
        let endpoint = Arc::clone(self);
        let (key, first) = (until.clone(), bytes.clone());
        let task = tokio::spawn(async move {
            let (mut waited, mut wait) = (Duration::ZERO, T1);
            while waited < GIVE_UP {
                let pause = wait.min(GIVE_UP - waited);
                tokio::time::sleep(pause).await;
                waited += pause;
                wait = (wait * 2).min(longest);
                if waited < GIVE_UP {
                    endpoint.send(&bytes, to);
                }
            }
            endpoint.state().repeats.remove(&key);
            endpoint.state().sent.remove(&key);
            endpoint.tell(&call, CallEvent::Unanswered);
        });
        // Known before it is sent, else a fast answer would find nothing to hush.
        self.state().repeats.insert(until, task.abort_handle());
        self.send(&first, to);
    }

    fn hush(&self, key: &str) {
        if let Some(task) = self.state().repeats.remove(key) {
            task.abort();
        }
    }

    /// Sends a request as a client transaction.
    pub(super) fn request(self: &Arc<Self>, call: &CallKey, request: Request, to: SocketAddr) {
        let Some(branch) = branch_of(&request) else { return };
        let key = format!("{branch} {}", request.method);
        let longest = if request.method == Method::Invite { GIVE_UP } else { T2 };
        let bytes = request.to_string().into_bytes();
        self.state().sent.insert(key.clone(), Sent { call: call.clone(), request, to, cancel: Cancel::No });
        self.repeat(key, bytes, to, longest, call.clone());
    }

    /// The next request in the call's dialog; false without a dialog.
    pub(super) fn in_dialog(self: &Arc<Self>, call: &CallKey, method: Method, extra: Vec<Header>, body: &str) -> bool {
        let mut state = self.state();
        let Some(dialog) = state.calls.get_mut(call).and_then(|known| known.dialog.as_mut()) else { return false };
        let (request, to) = dialog.request(method, extra, body);
        drop(state);
        self.request(call, request, to);
        true
    }

    /// Cancels the call's INVITE, as soon as that is allowed.
    pub(super) fn cancel(self: &Arc<Self>, call: &CallKey) {
        let mut state = self.state();
        let invites = |sent: &&mut Sent| sent.call == *call && sent.request.method == Method::Invite;
        let Some(sent) = state.sent.values_mut().find(invites) else { return };
        if sent.cancel == Cancel::Allowed {
            let (request, to) = (message::beside(&sent.request, Method::Cancel, None), sent.to);
            drop(state);
            self.request(call, request, to);
        } else {
            sent.cancel = Cancel::WhenTrying;
        }
    }

    /// Answers `request`. False if it is an INVITE that has its final response already.
    pub(super) fn respond(self: &Arc<Self>, request: &Heard, call: &CallKey, status: u16, sdp: &str) -> bool {
        let invite = request.method == Method::Invite;
        let initial = invite && request.to_tag.is_none();
        let (response, to) = message::response(request, self.address, status, &call.tag, sdp);
        let bytes = response.to_string().into_bytes();
        {
            let mut state = self.state();
            if initial && !state.ringing.contains_key(&request.branch) {
                return false;
            }
            if initial && status >= 200 {
                state.ringing.remove(&request.branch);
            }
            state.again.remember(key_of(request), bytes.clone(), to);
        }
        if invite && status >= 200 {
            self.repeat(answer_key(&call.call_id, request.cseq), bytes, to, T2, call.clone());
        } else {
            self.send(&bytes, to);
        }
        true
    }

    // --- what we hear --------------------------------------------------------------------------------------------

    pub(super) fn received(self: &Arc<Self>, bytes: &[u8], source: SocketAddr) {
        if bytes.trim_ascii().is_empty() {
            return; // a keep-alive
        }
        self.tap.received(Traffic::Sip, self.address, source, bytes);
        let heard = Heard::read(bytes, source).and_then(|heard| match heard.status() {
            Some(status) => self.response(heard, status),
            None => self.requested(heard),
        });
        if let Err(error) = heard {
            self.complaints.push(Complaint { source, error, bytes: bytes.to_vec() });
        }
    }

    /// True if the same was heard before; says the same again.
    fn repeated(&self, key: &str) -> bool {
        let said = self.state().again.said.get(key).cloned();
        said.inspect(|(bytes, to)| self.send(bytes, *to)).is_some()
    }

    fn requested(self: &Arc<Self>, heard: Heard) -> Result<(), String> {
        let call = CallKey { call_id: heard.call_id.clone(), tag: heard.to_tag.clone().unwrap_or_else(message::token) };
        if heard.method == Method::Ack {
            self.hush(&answer_key(&heard.call_id, heard.cseq));
            self.tell(&call, CallEvent::Confirmed(Box::new(heard)));
            return Ok(());
        }
        let silent = self.state().ringing.contains_key(&heard.branch) && heard.method == Method::Invite;
        if self.repeated(&key_of(&heard)) || silent {
            return Ok(());
        }
        let known = self.state().calls.contains_key(&call);
        match heard.method {
            Method::Cancel => self.cancelled(&heard, &call),
            Method::Options => _ = self.respond(&heard, &call, 200, ""),
            Method::Invite if heard.to_tag.is_none() => self.invited(heard, call)?,
            _ if !known => _ = self.respond(&heard, &call, 481, ""),
            Method::Bye => {
                self.respond(&heard, &call, 200, "");
                self.tell(&call, CallEvent::HungUp(Box::new(heard)));
            }
            Method::Refer => {
                self.respond(&heard, &call, 202, "");
                self.tell(&call, CallEvent::Referred(Box::new(heard)));
            }
            Method::Invite => {
                if let Some(dialog) = self.state().calls.get_mut(&call).and_then(|known| known.dialog.as_mut()) {
                    dialog.refresh(&heard)?;
                }
                self.tell(&call, CallEvent::Reoffered(Box::new(heard)));
            }
            _ => _ = self.respond(&heard, &call, 200, ""),
        }
        Ok(())
    }

    fn invited(self: &Arc<Self>, heard: Heard, call: CallKey) -> Result<(), String> {
        let dialog = Dialog::of_server(&heard, self.address, &call.tag)?;
        self.state().ringing.insert(heard.branch.clone(), (heard.clone(), call.clone()));
        // A party that accepts no calls lets them ring out.
        let _ = self.incoming.send(Call::incoming(Arc::clone(self), call, heard, dialog));
        Ok(())
    }

    fn cancelled(self: &Arc<Self>, cancel: &Heard, stranger: &CallKey) {
        let ringing = self.state().ringing.get(&cancel.branch).cloned();
        let known = ringing.is_some() || self.state().again.said.contains_key(&format!("{} INVITE", cancel.branch));
        let call = ringing.as_ref().map_or(stranger, |(_, call)| call);
        self.respond(cancel, call, if known { 200 } else { 481 }, "");
        if let Some((invite, call)) = &ringing {
            self.respond(invite, call, 487, "");
            self.tell(call, CallEvent::Cancelled);
        }
    }

    fn response(self: &Arc<Self>, heard: Heard, status: u16) -> Result<(), String> {
        let key = key_of(&heard);
        if status >= 200 && self.repeated(&ack_key(&heard)) {
            return Ok(());
        }
        if status >= 200 || heard.method == Method::Invite {
            self.hush(&key);
        }
        if status < 200 {
            self.progressed(&key, heard);
            return Ok(());
        }
        // A response to nothing we know is absorbed.
        let Some(sent) = self.state().sent.remove(&key) else { return Ok(()) };
        let event = match (heard.method, status) {
            (Method::Invite, ..300) => {
                let dialog = Dialog::of_client(&heard, self.address)?;
                self.acknowledge(&heard, dialog.ack(heard.cseq));
                if let Some(known) = self.state().calls.get_mut(&sent.call) {
                    known.dialog = Some(dialog);
                }
                CallEvent::Answered(Box::new(heard))
            }
            (Method::Invite, _) => {
                let to = heard.message.to_header().ok().cloned().map(Header::To);
                self.acknowledge(&heard, (message::beside(&sent.request, Method::Ack, to), sent.to));
                CallEvent::Refused(Box::new(heard))
            }
            _ => CallEvent::Finished(heard.method, status),
        };
        self.tell(&sent.call, event);
        Ok(())
    }

    fn progressed(self: &Arc<Self>, key: &str, heard: Heard) {
        if heard.method != Method::Invite {
            return;
        }
        let mut state = self.state();
        let Some(sent) = state.sent.get_mut(key) else { return };
        let wanted = std::mem::replace(&mut sent.cancel, Cancel::Allowed) == Cancel::WhenTrying;
        let call = sent.call.clone();
        drop(state);
        self.tell(&call, CallEvent::Progressed(Box::new(heard)));
        if wanted {
            self.cancel(&call);
        }
    }

    fn acknowledge(&self, answer: &Heard, (ack, to): (Request, SocketAddr)) {
        let bytes = ack.to_string().into_bytes();
        self.send(&bytes, to);
        self.state().again.remember(ack_key(answer), bytes, to);
    }
}

fn key_of(heard: &Heard) -> String {
    format!("{} {}", heard.branch, heard.method)
}

/// Under which our final response to an INVITE is repeated; an ACK stops it, in whichever transaction it comes.
fn answer_key(call_id: &str, cseq: u32) -> String {
    format!("{call_id} {cseq}")
}

fn ack_key(answer: &Heard) -> String {
    format!("{} ACK {}", answer.branch, answer.to_tag.as_deref().unwrap_or_default())
}

fn branch_of(request: &Request) -> Option<String> {
    request.via_header().ok()?.typed().ok()?.branch().map(ToString::to_string)
}
