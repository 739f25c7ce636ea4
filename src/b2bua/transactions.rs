//! All transactions of the core: found by key, stepped, and dropped with their timers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::io::Transport;
use crate::sip::hop::Hop;
use crate::sip::message::{Message, Method};
use crate::sip::transaction::client::Client;
use crate::sip::transaction::invite_client::InviteClient;
use crate::sip::transaction::invite_server::InviteServer;
use crate::sip::transaction::key::{AttemptKey, ClientKey, ServerKey};
use crate::sip::transaction::server::Server;
use crate::sip::transaction::timer::Timer;
use crate::sip::transaction::{Action, Actions, Base};

/// Names one transaction, for timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(u64);

/// Names one leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LegId(pub u64);

/// Whom the news of a transaction concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// A leg.
    Leg(LegId),
    /// A request outside a dialog that belongs to no call.
    Errand(ErrandId),
}

/// Names one errand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrandId(pub u64);

#[derive(Debug)]
enum Machine {
    InviteClient(InviteClient, ClientKey),
    Client(Client, ClientKey),
    InviteServer(InviteServer, ServerKey, Option<AttemptKey>),
    Server(Server, ServerKey, Option<AttemptKey>),
}

#[derive(Debug)]
struct Entry {
    machine: Machine,
    holder: Option<Holder>,
    hop: Hop,
    /// A request that was too long for UDP: how it goes there all the same when TCP fails (RFC 3261 section 18.1.1).
    spare: Option<(Hop, Bytes)>,
}

/// What a step of a transaction brings about for its holder, in order.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are named by their types")]
pub enum Effect {
    /// Send octets; `again` marks a retransmission.
    Send { hop: Hop, bytes: Bytes, again: bool },
    /// Set a timer.
    Start(TransactionId, Timer, Duration),
    /// Forget a timer.
    Stop(TransactionId, Timer),
    /// The message just handled is news for this holder.
    Deliver(Holder),
    /// No answer came to the request of this key.
    TimedOut(Holder, ClientKey),
}

/// The table.
#[derive(Debug)]
pub struct Transactions {
    base: Base,
    next: u64,
    entries: HashMap<TransactionId, Entry>,
    clients: HashMap<ClientKey, TransactionId>,
    servers: HashMap<ServerKey, TransactionId>,
    attempts: HashMap<AttemptKey, TransactionId>,
}

/// What a request is to the transactions there are.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The request, or the ACK, of a transaction that is there: it has been dealt with.
    Repeated,
    /// A request on a second path while the first is under way: 482.
    Merged,
    /// A new one.
    New,
}

impl Transactions {
    /// An empty table.
    pub fn new(base: Base) -> Self {
        Self {
            base,
            next: 0,
            entries: HashMap::new(),
            clients: HashMap::new(),
            servers: HashMap::new(),
            attempts: HashMap::new(),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn insert(&mut self, entry: Entry) -> TransactionId {
        self.next += 1;
        let id = TransactionId(self.next);
        self.entries.insert(id, entry);
        id
    }

    // --- requests we send ---

    /// Sends a request in a client transaction.
    pub fn send(
        &mut self,
        key: ClientKey,
        request: Bytes,
        method: Method,
        holder: Option<Holder>,
        hop: Hop,
        spare: Option<(Hop, Bytes)>,
    ) -> Vec<Effect> {
        let reliable = hop.transport.is_reliable();
        let (machine, actions) = if method == Method::Invite {
            let (machine, actions) = InviteClient::start(request, self.base, reliable);
            (Machine::InviteClient(machine, key.clone()), actions)
        } else {
            let (machine, actions) = Client::start(request, self.base, reliable);
            (Machine::Client(machine, key.clone()), actions)
        };
        let id = self.insert(Entry { machine, holder, hop, spare });
        self.clients.insert(key, id);
        self.effects(id, actions)
    }

    /// The way to this peer broke: what waits for its answer fails now, or takes the other way if it has one.
    pub fn failed(&mut self, transport: Transport, peer: SocketAddr) -> Vec<Effect> {
        let mut met: Vec<_> =
            self.entries.iter().filter(|(_, entry)| entry.hop.meets(transport, peer)).map(|(id, _)| *id).collect();
        met.sort_unstable();
        met.into_iter().flat_map(|id| self.fail(id)).collect()
    }

    fn fail(&mut self, id: TransactionId) -> Vec<Effect> {
        let Some(entry) = self.entries.get_mut(&id) else { return Vec::new() };
        let unheard = match &entry.machine {
            Machine::InviteClient(machine, _) => machine.may_leave_again(),
            Machine::Client(machine, _) => machine.may_leave_again(),
            Machine::InviteServer(..) | Machine::Server(..) => false,
        };
        if let Some((hop, request)) = entry.spare.take().filter(|_| unheard) {
            let (holder, key) = (
                entry.holder,
                match &entry.machine {
                    Machine::InviteClient(_, key) | Machine::Client(_, key) => key.clone(),
                    Machine::InviteServer(..) | Machine::Server(..) => return Vec::new(),
                },
            );
            let mut effects = self.remove(id);
            let method = key.method().clone();
            effects.extend(self.send(key, request, method, holder, hop, None));
            return effects;
        }
        let actions = match &mut entry.machine {
            Machine::InviteClient(machine, _) => machine.failed(),
            Machine::Client(machine, _) => machine.failed(),
            Machine::InviteServer(..) | Machine::Server(..) => Actions::new(),
        };
        self.effects(id, actions)
    }

    /// Sends the CANCEL of an INVITE, if its transaction is still there.
    pub fn cancel(&mut self, key: &ClientKey) -> Vec<Effect> {
        let found = self.clients.get(key).and_then(|id| self.entries.get(id));
        let Some(Entry { machine: Machine::InviteClient(invite, _), hop, .. }) = found else { return Vec::new() };
        let (cancel, hop) = (invite.cancel(), *hop);
        self.send(key.cancel(), cancel, Method::Cancel, None, hop, None)
    }

    /// Lets no further INVITE leave.
    pub fn quench(&mut self, key: &ClientKey) -> Vec<Effect> {
        let Some(&id) = self.clients.get(key) else { return Vec::new() };
        let Some(Entry { machine: Machine::InviteClient(invite, _), .. }) = self.entries.get_mut(&id) else {
            return Vec::new();
        };
        let actions = invite.quench();
        self.effects(id, actions)
    }

    /// Drops a client transaction.
    pub fn abandon(&mut self, key: &ClientKey) -> Vec<Effect> {
        self.clients.get(key).copied().map_or_else(Vec::new, |id| self.remove(id))
    }

    /// A response: to the transaction it names, if there is one.
    pub fn response(&mut self, response: &Message) -> Vec<Effect> {
        let found = ClientKey::of_response(response).and_then(|key| self.clients.get(&key).copied());
        let Some((id, entry)) = found.and_then(|id| Some((id, self.entries.get_mut(&id)?))) else { return Vec::new() };
        let actions = match &mut entry.machine {
            Machine::InviteClient(machine, _) => machine.response(response),
            Machine::Client(machine, _) => machine.response(response),
            Machine::InviteServer(..) | Machine::Server(..) => Actions::new(),
        };
        self.effects(id, actions)
    }

    // --- requests we get ---

    /// A request, ACK included: answered from a transaction that is there, or found to be new.
    pub fn arrival(&mut self, request: &Message, key: &ServerKey) -> (Arrival, Vec<Effect>) {
        let Some(&id) = self.servers.get(key) else {
            let merged = request.method().is_some_and(Method::creates_dialog)
                && request.to_tag().is_none()
                && AttemptKey::of_request(request).is_some_and(|attempt| self.attempts.contains_key(&attempt));
            return (if merged { Arrival::Merged } else { Arrival::New }, Vec::new());
        };
        let Some(entry) = self.entries.get_mut(&id) else { return (Arrival::New, Vec::new()) };
        let is_ack = request.is(&Method::Ack);
        let actions = match &mut entry.machine {
            Machine::InviteServer(machine, ..) if is_ack => machine.ack(),
            Machine::InviteServer(machine, ..) => machine.repeated(),
            Machine::Server(machine, ..) => machine.repeated(),
            Machine::InviteClient(..) | Machine::Client(..) => Actions::new(),
        };
        (Arrival::Repeated, self.effects(id, actions))
    }

    /// Opens the server transaction of a new request.
    pub fn open(&mut self, request: &Message, key: ServerKey, leg: Option<LegId>, hop: Hop) {
        let reliable = hop.transport.is_reliable();
        let begins = request.to_tag().is_none() && request.method().is_some_and(Method::creates_dialog);
        // A merged request must not take the place of the one it repeats.
        let attempt = AttemptKey::of_request(request).filter(|it| begins && !self.attempts.contains_key(it));
        let machine = if request.is(&Method::Invite) {
            Machine::InviteServer(InviteServer::new(self.base, reliable), key.clone(), attempt.clone())
        } else {
            Machine::Server(Server::new(self.base, reliable), key.clone(), attempt.clone())
        };
        let id = self.insert(Entry { machine, holder: leg.map(Holder::Leg), hop, spare: None });
        self.servers.insert(key, id);
        if let Some(attempt) = attempt {
            self.attempts.insert(attempt, id);
        }
    }

    /// The leg whose INVITE a CANCEL means: by branch, or by Call-ID, From tag and number from the same address, for
    /// a Via that was rewritten on the way (flow R14). The outer `None`: there is no such INVITE.
    pub fn cancelled(&self, cancel: &Message, source: SocketAddr) -> Option<Option<LegId>> {
        let by_branch = ServerKey::of_cancelled(cancel).and_then(|key| self.servers.get(&key));
        let entry = by_branch.and_then(|id| self.entries.get(id)).or_else(|| {
            let id = self.attempts.get(&AttemptKey::of_request(cancel)?)?;
            let invites = |entry: &&Entry| matches!(entry.machine, Machine::InviteServer(..));
            self.entries.get(id).filter(|entry| invites(entry) && entry.hop.ip() == source.ip())
        })?;
        Some(match entry.holder {
            Some(Holder::Leg(leg)) => Some(leg),
            Some(Holder::Errand(_)) | None => None,
        })
    }

    /// Answers through a server transaction.
    pub fn respond(&mut self, key: &ServerKey, status: u16, response: Bytes) -> Vec<Effect> {
        let found = self.servers.get(key).copied();
        let Some((id, entry)) = found.and_then(|id| Some((id, self.entries.get_mut(&id)?))) else { return Vec::new() };
        let actions = match &mut entry.machine {
            Machine::InviteServer(machine, ..) => machine.respond(status, response),
            Machine::Server(machine, ..) => machine.respond(status, response),
            Machine::InviteClient(..) | Machine::Client(..) => Actions::new(),
        };
        self.effects(id, actions)
    }

    // --- time ---

    /// A timer fired.
    pub fn timer(&mut self, id: TransactionId, timer: Timer) -> Vec<Effect> {
        let Some(entry) = self.entries.get_mut(&id) else { return Vec::new() };
        let actions = match &mut entry.machine {
            Machine::InviteClient(machine, _) => machine.timer(timer),
            Machine::Client(machine, _) => machine.timer(timer),
            Machine::InviteServer(machine, ..) => machine.timer(timer),
            Machine::Server(machine, ..) => machine.timer(timer),
        };
        self.effects(id, actions)
    }

    fn effects(&mut self, id: TransactionId, actions: Actions) -> Vec<Effect> {
        let mut effects = Vec::with_capacity(actions.len());
        for action in actions {
            let Some(entry) = self.entries.get(&id) else { break };
            let hop = entry.hop;
            match action {
                Action::Transmit(bytes) => effects.push(Effect::Send { hop, bytes, again: false }),
                Action::Retransmit(bytes) => effects.push(Effect::Send { hop, bytes, again: true }),
                Action::Start(timer, wait) => effects.push(Effect::Start(id, timer, wait)),
                Action::Stop(timer) => effects.push(Effect::Stop(id, timer)),
                Action::Deliver => effects.extend(entry.holder.map(Effect::Deliver)),
                Action::TimedOut => {
                    let asked = match &entry.machine {
                        Machine::InviteClient(_, key) | Machine::Client(_, key) => entry.holder.zip(Some(key)),
                        Machine::InviteServer(..) | Machine::Server(..) => None,
                    };
                    effects.extend(asked.map(|(holder, key)| Effect::TimedOut(holder, key.clone())));
                }
                Action::Terminated => effects.extend(self.remove(id)),
            }
        }
        effects
    }

    fn remove(&mut self, id: TransactionId) -> Vec<Effect> {
        let Some(entry) = self.entries.remove(&id) else { return Vec::new() };
        match &entry.machine {
            Machine::InviteClient(_, key) | Machine::Client(_, key) => {
                self.clients.remove(key);
            }
            Machine::InviteServer(_, key, attempt) | Machine::Server(_, key, attempt) => {
                self.servers.remove(key);
                if let Some(attempt) = attempt {
                    self.attempts.remove(attempt);
                }
            }
        }
        Timer::ALL.map(|timer| Effect::Stop(id, timer)).into_iter().collect()
    }
}
