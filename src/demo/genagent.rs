//! A mock of GenerativeAgent behind its carrier: it takes calls, speaks, listens, and hangs up by its script.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::task::{AbortHandle, JoinSet};

use super::complaint::{Complaint, Complaints};
use super::hooks::{Hooks, News, output_context};
use super::party::{Call, CallEvent, Party};
use super::rtp::{Line, Recording};
use super::sdp;
use super::tap::Tap;
use super::voice::Voice;

/// How many ended calls are kept to be looked at.
const KEPT: usize = 64;
/// After this long nobody repeats an INVITE any more (64·T1).
const PATIENCE: Duration = Duration::from_secs(32);

/// What GenerativeAgent does with every call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// Answers, talks, and hangs up because a human is needed: `transferType` `AGENT`.
    Agent,
    /// Answers, talks, and hangs up because the task is done: `transferType` `SYSTEM`.
    System,
    /// Answers and talks until the customer hangs up.
    WaitForCustomer,
    /// Refuses with this status.
    Busy(u16),
    /// Rings and never answers.
    RingForever,
    /// Says nothing at all, not even 100.
    NoAnswerAtAll,
}

/// How the mock behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it listens for SIP; its RTP uses the same IP address, which goes into the SDP and must be a concrete one.
    /// IPv4.
    pub bind: SocketAddr,
    /// From the INVITE to the answer.
    pub ring: Duration,
    /// From the answer to its BYE.
    pub talk: Duration,
    /// What it does.
    pub script: Script,
    /// Rings with 183 and speaks before the answer, instead of 180.
    pub early_media: bool,
    /// Sees every datagram.
    pub tap: Tap,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// We sent the BYE.
    HungUp,
    /// The far side sent the BYE.
    Released,
    /// The far side cancelled before the answer.
    Cancelled,
    /// We refused, with this status.
    Refused(u16),
    /// The far side stopped answering.
    Lost,
}

/// One ended call.
#[derive(Debug, Clone)]
pub struct AgentCall {
    /// The number dialled, or the id of the call transfer where a SIP URI was.
    pub number: String,
    /// SIP's Call-ID.
    pub call_id: String,
    /// The headers of the INVITE.
    pub invite_headers: Vec<(String, String)>,
    /// The headers of the BYE received, if one was.
    pub bye_headers: Vec<(String, String)>,
    /// How it ended.
    pub ending: Ending,
    /// What GenerativeAgent heard.
    pub heard: Recording,
}

/// The running mock; dropping it ends everything at once.
pub struct MockGenAgent {
    address: SocketAddr,
    shared: Arc<Shared>,
    complaints: Complaints,
    serving: AbortHandle,
}

struct Shared {
    settings: Mutex<Settings>,
    hooks: Hooks,
    ended: Mutex<VecDeque<AgentCall>>,
}

impl MockGenAgent {
    /// Binds its address and serves calls until dropped.
    pub async fn start(settings: Settings, hooks: Hooks) -> io::Result<Self> {
        let party = Party::start(settings.bind, settings.tap.clone()).await?;
        let address = party.address();
        let complaints = party.complaints();
        let shared = Arc::new(Shared { settings: Mutex::new(settings), hooks, ended: Mutex::default() });
        let serving = tokio::spawn(serve(party, Arc::clone(&shared))).abort_handle();
        Ok(Self { address, shared, complaints, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how calls that come from now on are met.
    pub fn behave(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut locked(&self.shared.settings));
    }

    /// The calls that ended, oldest first; the last 64 are kept.
    pub fn calls(&self) -> Vec<AgentCall> {
        locked(&self.shared.ended).iter().cloned().collect()
    }

    /// What rsip could not accept.
    pub fn complaints(&self) -> Vec<Complaint> {
        self.complaints.list()
    }
}

impl Drop for MockGenAgent {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(mut party: Party, shared: Arc<Shared>) {
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            Some(call) = party.accept() => drop(calls.spawn(take(call, Arc::clone(&shared)))),
            Some(_) = calls.join_next() => {}
            else => return,
        }
    }
}

async fn take(call: Call, shared: Arc<Shared>) {
    let Some(invite) = call.invite().cloned() else { return };
    let settings = locked(&shared.settings).clone();
    let line = match Line::open(settings.bind.ip(), settings.tap.clone()).await {
        Ok(line) => line,
        Err(error) => {
            tracing::warn!(%error, "no port for a call");
            call.respond(503, "");
            return;
        }
    };
    let named = invite.headers().into_iter().find(|(name, _)| name.eq_ignore_ascii_case("X-ASAPP-CallTransferId"));
    let number = match named {
        Some((_, transfer)) => transfer,
        None => invite.dialled().unwrap_or_default().to_owned(),
    };
    let sdp = sdp::describe(line.address());
    let hooks = shared.hooks.clone();
    let mut visit =
        Visit { settings, hooks, call, line, sdp, number: number.clone(), transfer: None, bye_headers: Vec::new() };
    let ending = visit.run().await;
    visit.line.close();
    let call = AgentCall {
        number,
        call_id: invite.call_id.clone(),
        invite_headers: invite.headers(),
        bye_headers: visit.bye_headers,
        ending,
        heard: visit.line.recording(),
    };
    let mut ended = locked(&shared.ended);
    ended.push_back(call);
    if ended.len() > KEPT {
        ended.pop_front();
    }
}

/// One call, from its INVITE to its end.
struct Visit {
    settings: Settings,
    hooks: Hooks,
    call: Call,
    line: Line,
    sdp: String,
    number: String,
    transfer: Option<String>,
    bye_headers: Vec<(String, String)>,
}

impl Visit {
    async fn run(&mut self) -> Ending {
        match self.settings.script {
            Script::NoAnswerAtAll => {
                tokio::time::sleep(PATIENCE).await;
                Ending::Lost
            }
            Script::Busy(status) => {
                self.call.respond(100, "");
                self.call.respond(status, "");
                self.until(|event| matches!(event, CallEvent::Confirmed(_))).await;
                Ending::Refused(status)
            }
            Script::RingForever => {
                self.ring();
                self.until(|event| matches!(event, CallEvent::Cancelled)).await;
                Ending::Cancelled
            }
            Script::Agent | Script::System | Script::WaitForCustomer => {
                self.ring();
                if !self.answer().await {
                    return Ending::Cancelled;
                }
                self.transfer = self.hooks.tell(News::Received { number: self.number.clone() }).await;
                self.talk().await
            }
        }
    }

    fn ring(&self) {
        self.call.respond(100, "");
        if self.settings.early_media {
            self.call.respond(183, &self.sdp);
            self.speak_to(self.call.invite().map_or(&[], |invite| invite.body()));
        } else {
            self.call.respond(180, "");
        }
    }

    /// Rings for the time set, then answers; false if the call was cancelled before.
    async fn answer(&mut self) -> bool {
        tokio::select! {
            () = tokio::time::sleep(self.settings.ring) => {}
            event = self.call.next() => if matches!(event, CallEvent::Cancelled) { return false },
        }
        let answered = self.call.respond(200, &self.sdp);
        self.speak_to(self.call.invite().map_or(&[], |invite| invite.body()));
        answered
    }

    async fn talk(&mut self) -> Ending {
        let transfer_type = match self.settings.script {
            Script::Agent => Some("AGENT"),
            Script::System => Some("SYSTEM"),
            _ => None,
        };
        let talk = tokio::time::sleep(self.settings.talk);
        tokio::pin!(talk);
        loop {
            tokio::select! {
                () = &mut talk, if transfer_type.is_some() => break,
                event = self.call.next() => match event {
                    CallEvent::HungUp(bye) => {
                        self.bye_headers = bye.headers();
                        self.complete(None).await;
                        return Ending::Released;
                    }
                    // An offer that was missing in the INVITE is answered in the ACK.
                    CallEvent::Confirmed(ack) => self.speak_to(ack.body()),
                    CallEvent::Reoffered(offer) => {
                        self.call.answer_offer(&offer, &self.sdp);
                        self.speak_to(offer.body());
                    }
                    // Our 200 found no ACK (RFC 3261 section 13.3.1.4).
                    CallEvent::Unanswered => {
                        self.call.hang_up(&[]);
                        return Ending::Lost;
                    }
                    _ => {}
                },
            }
        }
        self.call.hang_up(&[]);
        self.complete(transfer_type.map(output_context)).await;
        self.until(|event| matches!(event, CallEvent::Finished(..))).await
    }

    fn speak_to(&self, sdp: &[u8]) {
        if let Some(target) = sdp::audio_address(sdp) {
            self.line.speak(target, Voice::GenAgent);
        }
    }

    async fn complete(&self, output: Option<Value>) {
        let (number, transfer) = (self.number.clone(), self.transfer.clone());
        self.hooks.tell(News::Completed { number, transfer, output }).await;
    }

    /// Waits for this event, or for the far side to fall silent.
    async fn until(&mut self, wanted: impl Fn(&CallEvent) -> bool) -> Ending {
        loop {
            match self.call.next().await {
                event if wanted(&event) => return Ending::HungUp,
                CallEvent::HungUp(bye) => self.bye_headers = bye.headers(),
                CallEvent::Unanswered => return Ending::Lost,
                _ => {}
            }
        }
    }
}
