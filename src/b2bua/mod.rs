//! The signalling core as one object: octets, answers and time in; octets, requests and records out.
//!
//! ```text
//! Input -> route.rs -> transactions -> leg -> act.rs -> call -> act.rs -> leg -> transactions -> Output
//! ```
//!
//! [`B2bua::handle_input`] never blocks and never fails. Whoever calls it drains [`B2bua::poll_output`] before the
//! next input and comes back no later than [`B2bua::next_timeout`].

mod audio;
pub mod breaker;
pub mod counters;
mod door;
mod errands;
pub mod headers;
pub mod heard;
pub mod io;
pub mod limiter;
mod memory;
pub mod places;
pub mod ports;
mod recording;
mod reentries;
mod referrers;
mod returning;
pub mod settings;
pub mod sources;
mod takeover;
pub mod targets;
pub mod timers;
pub mod transactions;
pub mod trunks;

mod act;
mod route;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::call::event::{CallEvent, CallTimer};
use crate::call::record::CallRecord;
use crate::call::settings::CallSettings;
use crate::call::state::Call;
use crate::call::ticket::Callee;
use crate::call::verdict::NotConnected;
use crate::call::{CallRef, TransferId};
use crate::leg::{Leg, LegRole, LegTimer, MediaCounters, Out, Surroundings};
use crate::sdp::Family;
use crate::sip::dialog::Endpoint;
use crate::sip::gate::Gate;
use crate::sip::hop::Hop;
use crate::sip::ids::{Ids, Keyed};
use crate::sip::transaction::Base;
use crate::sip::transaction::timer::Timer;
use breaker::Breaker;
use counters::Counters;
use errands::Errands;
use io::{Epoch, Input, Keys, Law, LiveCall, MediaEvent, OperatorCommand, Output, PortPair, Sound};
use limiter::Limiter;
use memory::Memory;
use ports::Ports;
use reentries::Reentries;
use referrers::Referrer;
use settings::Settings;
use sources::Sources;
use targets::Targets;
use timers::Timers;
use transactions::{LegId, TransactionId, Transactions};
use trunks::{Found, Route, Trunks, Way};

/// Whose timer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum TimerKey {
    Transaction(TransactionId, Timer),
    Leg(LegId, LegTimer),
    Call(CallRef, CallTimer),
    /// The relay owes counters too long: write the record without them.
    Record(CallRef),
    /// The drain has lasted long enough: stop.
    DrainLimit,
    /// Peers that do not answer our BYEs have had their time: close.
    StopLimit,
}

/// Whether a call can be placed there: it reaches us in turn, and we have media in its family of addresses.
fn speaks(endpoint: &Endpoint, settings: &Settings, hop: &Hop) -> bool {
    endpoint.reaches(hop) && settings.media_address(Family::of(hop.ip())).is_some()
}

/// What a leg needs of us at every step.
fn surroundings<'a>(
    ids: &'a mut Ids,
    endpoint: &'a Endpoint,
    base: Base,
    settings: &Settings,
    out: &'a mut Vec<Out>,
) -> Surroundings<'a> {
    Surroundings { ids, endpoint, base, session: settings.session, ring_limit: settings.call.ring_limit, out }
}

/// How long a stop waits for answers to its BYEs.
const STOP_LIMIT: Duration = Duration::from_secs(1);

/// How long a record waits for the relay's counters.
const COUNTERS_LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct LegEntry {
    leg: Leg,
    role: LegRole,
    call: CallRef,
    tag: String,
    pair: PortPair,
    /// The trunk's address it was dialled at.
    way: Option<Way>,
    /// Whom it was dialled to by a ticket.
    callee: Option<Callee>,
    /// Whether anything beyond 100 Trying has come back.
    heard: bool,
    /// What the relay was last told that its media is protected with.
    keys: Option<Keys>,
    /// Where its INVITE came from, if it came to us.
    caller: Option<IpAddr>,
    /// Where its INVITE went, if a REFER led us there.
    reached: Option<IpAddr>,
    /// Whether the relay has reported silence on it.
    silent: bool,
    /// The only G.711 law that it has agreed to hear, as the relay was last told.
    law: Option<Law>,
    /// In which law the relay has been told to cover what the other side, which holds, says to it.
    covered: Option<Law>,
    /// How keys have come from it.
    pressed: audio::Pressed,
    /// What its peer's last word lets cross to the other leg.
    said: Option<(headers::Word, headers::Lines)>,
    /// Whether it has spoken its last word.
    over: bool,
}

#[derive(Debug)]
struct CallEntry {
    call: Call,
    /// What there is of each [`LegRole`], in its order.
    sides: [Side; LegRole::ALL.len()],
    /// The relay thread of all its pairs: only those can be bridged.
    worker: u16,
    /// The trunks it may take, and the one whose room it has.
    route: Route,
    /// How many hops its INVITEs may take: one less than the customer's.
    max_forwards: u8,
    /// What the customer's INVITE lets cross to GenerativeAgent's.
    headers: headers::Lines,
    /// Whether the customer asked for privacy.
    private: bool,
    /// Pairs kept ready for the legs that we dial, so that no number is asked for in vain and the customer's way back does
    /// not fail for want of one.
    spare_pairs: Vec<PortPair>,
    /// What the customer is to hear of us, and in which law that has been said to the relay.
    sound: Option<(Sound, Option<Law>)>,
    /// Who asked by REFER for the customer to be called.
    referrer: Option<LegId>,
    /// How far its recording has come, if there is one.
    recording: Option<recording::Reel>,
    /// Who brings the customer back from GenerativeAgent, until the call has said whether it may.
    returning: Option<LegId>,
    /// The Call-IDs of the customer's legs that are not the first request's.
    call_ids: Vec<String>,
    /// The call has ended; its record waits for counters.
    record: Option<Box<CallRecord>>,
}

/// One side of a call: the leg that is heard, and the pair whose counters are the last such leg's.
#[derive(Debug, Clone, Copy, Default)]
struct Side {
    leg: Option<LegId>,
    pair: Option<PortPair>,
    /// The last counters of a closed pair.
    media: Option<MediaCounters>,
    /// The newest counters of an open one.
    so_far: Option<MediaCounters>,
}

impl LegEntry {
    /// Whose leg it is, if it is a peer's.
    fn peer(&self) -> Option<IpAddr> {
        self.caller.or(self.reached)
    }

    /// The host its signalling comes from, as far as that is known.
    fn signalled(&self) -> Option<IpAddr> {
        self.peer().or(self.way.map(|way| way.hop.ip()))
    }
}

impl CallEntry {
    fn side(&self, role: LegRole) -> &Side {
        &self.sides[role as usize]
    }

    fn side_mut(&mut self, role: LegRole) -> &mut Side {
        &mut self.sides[role as usize]
    }

    /// The side whose audio this one is to hear.
    fn opposite(&self, role: LegRole) -> LegRole {
        match role {
            LegRole::Customer | LegRole::Successor => self.far(),
            LegRole::GenerativeAgent | LegRole::Onward => LegRole::Customer,
        }
    }

    /// Whom the customer talks to, or waits for: the onward leg, once there is one.
    fn far(&self) -> LegRole {
        if self.side(LegRole::Onward).leg.is_some() { LegRole::Onward } else { LegRole::GenerativeAgent }
    }
}

/// The core.
#[derive(Debug)]
pub struct B2bua {
    settings: Arc<Settings>,
    call_settings: Arc<CallSettings>,
    endpoint: Endpoint,
    base: Base,
    epoch: Epoch,
    ids: Ids,
    timers: Timers<TimerKey>,
    transactions: Transactions,
    trunks: Trunks,
    targets: Targets,
    /// The hosts that a REFER may lead to, by their names.
    referred_hosts: Targets,
    errands: Errands,
    // Boxed: a table is half empty on average, and moves all it holds when it grows.
    legs: HashMap<LegId, Box<LegEntry>>,
    /// Dialogs that are no legs of a call: who asked for one.
    referrers: HashMap<LegId, Referrer>,
    next_leg: u64,
    /// Our tags: every dialog we have, tombstones included.
    tags: HashMap<String, LegId>,
    calls: HashMap<CallRef, Box<CallEntry>>,
    ports: Ports<CallRef>,
    breaker: Breaker,
    limiter: Limiter,
    keyed: Keyed,
    sources: Sources,
    memory: Memory,
    reentries: Reentries,
    admitted: route::Admission,
    gate: Gate,
    draining: bool,
    closed: bool,
    counters: Counters,
    /// When each class of trouble was last seen.
    complained: HashMap<NotConnected, Instant>,
    /// What legs want done and nobody has done yet.
    work: VecDeque<(LegId, Out)>,
    outputs: VecDeque<Output>,
}

impl B2bua {
    /// A core with these settings, over these port pairs, with its ids from this seed.
    pub fn new(settings: Settings, pairs: impl IntoIterator<Item = PortPair>, seed: [u8; 32], epoch: Epoch) -> Self {
        let timers = settings.sip_timers;
        let keyed = Keyed::from_seed(&seed);
        let sources = Sources::new(keyed, settings.max_messages_per_source, settings.max_calls_per_second_per_source);
        let base = Base { t1: timers.t1, t2: timers.t2, t4: timers.t4 };
        let mut ids = Ids::from_seed(seed);
        let gate = Gate::new(&settings.realm, &settings.users, epoch.instant, &mut ids);
        let registrations = settings.trunks.iter().map(|trunk| trunk.register);
        let mut core = Self {
            trunks: Trunks::new(&settings.trunks),
            targets: Targets::new(&settings.targets),
            referred_hosts: Targets::new(&settings.referred()),
            errands: Errands::new(registrations, epoch.instant, &mut ids),
            call_settings: Arc::new(settings.call.clone()),
            endpoint: Endpoint {
                address: settings.sip_address,
                listeners: settings.sip_listeners(),
                product: settings.product.clone(),
            },
            breaker: Breaker::new(settings.breaker),
            limiter: Limiter::new(settings.api_rate),
            memory: Memory::new(settings.conversations),
            reentries: Reentries::default(),
            settings: Arc::new(settings),
            base,
            epoch,
            ids,
            timers: Timers::default(),
            transactions: Transactions::new(base),
            legs: HashMap::new(),
            referrers: HashMap::new(),
            next_leg: 0,
            tags: HashMap::new(),
            calls: HashMap::new(),
            ports: Ports::new(pairs),
            keyed,
            sources,
            admitted: route::Admission::default(),
            gate,
            draining: false,
            closed: false,
            counters: Counters::default(),
            complained: HashMap::new(),
            work: VecDeque::new(),
            outputs: VecDeque::new(),
        };
        let endpoint = &core.endpoint;
        let speaks = |hop: &Hop| speaks(endpoint, &core.settings, hop);
        let found = [
            core.trunks.search(epoch.instant, true, speaks),
            core.targets.search(epoch.instant, true, speaks),
            core.referred_hosts.search(epoch.instant, true, speaks),
        ];
        core.found(found.into_iter().flatten());
        core
    }

    /// Takes one input.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Received(datagram) => self.received(now, datagram),
            Input::TimeReached => self.time_reached(now),
            Input::Asapp(reply) => self.api_replied(now, reply),
            Input::Advised(advice) => {
                self.tell_call(now, advice.call, CallEvent::Advised(advice.number, advice.answer))
            }
            Input::Media(event) => self.media(now, event),
            Input::TransportFailed { transport, peer } => {
                let effects = self.transactions.failed(transport, peer);
                self.perform(now, effects, None);
            }
            Input::Looked(look) => {
                let endpoint = &self.endpoint;
                let speaks = |hop: &Hop| speaks(endpoint, &self.settings, hop);
                let found = [
                    self.trunks.looked(now, &look, speaks),
                    self.targets.looked(now, &look, speaks),
                    self.referred_hosts.looked(now, &look, speaks),
                ];
                self.found(found.into_iter().flatten());
            }
            Input::Operator(command) => self.operator(now, command),
        }
        self.work_off(now);
        self.close_if_drained();
    }

    /// The next thing wanted of the world.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to come back with [`Input::TimeReached`] at the latest.
    pub fn next_timeout(&self) -> Option<Instant> {
        let searches = [self.trunks.next(), self.targets.next(), self.referred_hosts.next(), self.errands.next()];
        let errands = searches.into_iter().flatten().filter(|_| !self.draining);
        errands.chain(self.timers.next()).chain(self.memory.next()).min()
    }

    fn time_reached(&mut self, now: Instant) {
        self.expire_numbers(now);
        self.expire_memory(now);
        while let Some(key) = self.timers.due(now) {
            self.fire(now, key);
        }
        let endpoint = &self.endpoint;
        let speaks = |hop: &Hop| speaks(endpoint, &self.settings, hop);
        let found = [
            self.trunks.search(now, false, speaks),
            self.targets.search(now, false, speaks),
            self.referred_hosts.search(now, false, speaks),
        ];
        self.found(found.into_iter().flatten());
        self.run_errands(now);
    }

    /// What the search for trunks and targets asks of the world.
    fn found(&mut self, found: impl Iterator<Item = Found>) {
        self.outputs.extend(found.map(|found| match found {
            Found::Ask(question) => Output::Look(question),
            Found::Named(address, domain) => Output::Named(address, domain),
        }));
    }

    /// However late we come: no INVITE is sent again to a number whose last safe moment has passed (flow O6).
    fn expire_numbers(&mut self, now: Instant) {
        let guard = |key: &TimerKey| matches!(key, TimerKey::Call(_, CallTimer::NumberGuard));
        while let Some(key) = self.timers.due_where(now, guard) {
            self.fire(now, key);
        }
    }

    fn fire(&mut self, now: Instant, key: TimerKey) {
        match key {
            TimerKey::Transaction(id, timer) => {
                let effects = self.transactions.timer(id, timer);
                self.perform(now, effects, None);
            }
            TimerKey::Leg(id, timer) => self.with_leg(id, |leg, s| leg.timer(timer, s)),
            TimerKey::Call(call, timer) => self.tell_call(now, call, CallEvent::Timer(timer)),
            TimerKey::Record(call) => self.write_record(call),
            TimerKey::DrainLimit => self.operator(now, OperatorCommand::Stop),
            TimerKey::StopLimit => self.close(now),
        }
        self.work_off(now);
    }

    /// Steps a leg and keeps what it wants for `work_off`.
    fn with_leg(&mut self, id: LegId, step: impl FnOnce(&mut Leg, &mut Surroundings<'_>)) {
        let Some(entry) = self.legs.get_mut(&id) else { return };
        let mut out = Vec::new();
        let mut s = surroundings(&mut self.ids, &self.endpoint, self.base, &self.settings, &mut out);
        step(&mut entry.leg, &mut s);
        self.work.extend(out.into_iter().map(|wanted| (id, wanted)));
    }

    fn operator(&mut self, now: Instant, command: OperatorCommand) {
        match command {
            OperatorCommand::Drain => {
                self.draining = true;
                self.timers.start(TimerKey::DrainLimit, now + self.settings.drain_limit);
            }
            OperatorCommand::PullBack(call) => self.supervise(now, call, CallEvent::PulledBack, "pull back"),
            OperatorCommand::HangUp(call) => self.supervise(now, call, CallEvent::Ended, "hang up"),
            OperatorCommand::Record(call, on) => self.record_as_asked(now, call, on),
            OperatorCommand::Stop => {
                self.draining = true;
                let mut calls: Vec<CallRef> = self.calls.keys().copied().collect();
                calls.sort_unstable(); // The same seed, the same messages.
                for call in calls {
                    self.tell_call(now, call, CallEvent::Stopped);
                    self.work_off(now);
                }
                self.timers.stop(TimerKey::DrainLimit);
                self.timers.start(TimerKey::StopLimit, now + STOP_LIMIT);
            }
        }
    }

    /// What a person does to one call is written down, whether it changes anything or not.
    fn supervise(&mut self, now: Instant, call: CallRef, event: CallEvent, asked: &'static str) {
        if let Some(entry) = self.calls.get(&call) {
            tracing::info!(call = %call, state = entry.call.state().name(), asked, "an operator acts");
            self.tell_call(now, call, event);
        }
    }

    fn record_as_asked(&mut self, now: Instant, call: CallRef, on: bool) {
        if let Some(entry) = self.calls.get_mut(&call).filter(|entry| entry.record.is_none()) {
            tracing::info!(call = %call, on, "an operator records");
            let mut actions = Vec::new();
            entry.call.record(on, &mut actions);
            self.act(now, call, actions);
        }
    }

    /// Writes the records that are still owed and closes, whatever the peers do.
    fn close(&mut self, now: Instant) {
        let calls: Vec<CallRef> = self.calls.keys().copied().collect();
        for call in calls {
            self.tell_call(now, call, CallEvent::Timer(CallTimer::ReleaseLimit));
            self.write_record(call);
        }
        if !std::mem::replace(&mut self.closed, true) {
            self.outputs.push_back(Output::Closed);
        }
    }

    fn close_if_drained(&mut self) {
        let owing = || self.legs.values().any(|entry| !entry.over) || !self.referrers.is_empty();
        if self.draining && !self.closed && self.calls.is_empty() && !owing() {
            self.closed = true;
            self.timers.stop(TimerKey::DrainLimit);
            self.timers.stop(TimerKey::StopLimit);
            self.outputs.push_back(Output::Closed);
        }
    }

    fn media(&mut self, now: Instant, event: MediaEvent) {
        match event {
            MediaEvent::Started(pair) => self.heard(now, pair),
            MediaEvent::Silent(pair) => self.silence(now, pair, true),
            MediaEvent::Resumed(pair) => self.silence(now, pair, false),
            MediaEvent::Played(pair) => self.played(now, pair),
            MediaEvent::Counted(pair, counters) => self.media_counted(pair, counters),
            MediaEvent::Digit(pair, digit) => self.pressed(now, pair, digit),
            MediaEvent::Closed(pair, counters) => self.media_closed(pair, counters),
            MediaEvent::Recorded(call, report) => self.recorded(call, report),
            MediaEvent::Quiet(pair) => self.ports.quiet(pair),
        }
    }

    /// Counters since the start and gauges of now.
    pub fn counters(&self, now: Instant) -> Counters {
        let (lent, draining, free) = self.ports.counts();
        let (remembered, inputs) = self.memory.counts();
        Counters {
            active_calls: self.calls.len() as u64,
            active_legs: (self.legs.len() + self.referrers.len()) as u64,
            active_transactions: self.transactions.len() as u64,
            active_timers: self.timers.len() as u64,
            active_dialogs: self.tags.len() as u64,
            ports_lent: lent as u64,
            ports_draining: draining as u64,
            ports_free: free as u64,
            trunk_servers: self.trunks.states(now),
            trunk_calls: self.trunks.loads(),
            registrations: self.errands.registered(),
            conversations_remembered: remembered as u64,
            inputs_laid_down: inputs as u64,
            conversations_onward: self.reentries.len() as u64,
            breaker_open: u64::from(self.breaker.is_open()),
            draining: u64::from(self.draining),
            ..self.counters.clone()
        }
    }

    /// The calls there are.
    pub fn live_calls(&self, now: Instant) -> Vec<LiveCall> {
        self.calls.values().map(|entry| live(entry, now)).collect()
    }

    /// Why no call can be taken now, if so.
    fn overload(&self) -> Option<&'static str> {
        match () {
            () if self.draining => Some("draining"),
            () if self.calls.len() >= self.settings.max_calls => Some("calls"),
            () => None,
        }
    }

    /// Whether new calls are taken.
    pub fn is_ready(&self) -> bool {
        !self.draining
    }

    /// Whether this call is there.
    pub fn has_call(&self, call: CallRef) -> bool {
        self.calls.contains_key(&call)
    }

    fn api_replied(&mut self, now: Instant, reply: io::ApiReply) {
        self.judge_api(now, &reply);
        let event = self.api_event(reply.transfer, reply.created, reply.answer);
        match self.calls.contains_key(&reply.call) {
            true => self.tell_call(now, reply.call, event),
            false => self.nobody_waits(&event),
        }
    }

    fn api_event(
        &self,
        transfer: TransferId,
        created: bool,
        answer: Result<io::Transfer, io::ApiFailure>,
    ) -> CallEvent {
        if created { CallEvent::Created(transfer, answer) } else { CallEvent::Fetched(transfer, answer) }
    }

    fn nobody_waits(&mut self, event: &CallEvent) {
        if let CallEvent::Created(_, Ok(transfer)) = event
            && transfer.number.is_some()
        {
            self.counters.numbers_unused += 1;
        }
    }
}

fn live(entry: &CallEntry, now: Instant) -> LiveCall {
    let call = &entry.call;
    let media = |role| entry.side(role).media.or(entry.side(role).so_far);
    LiveCall {
        call: call.facts.call,
        state: call.state().name(),
        conversation: call.facts.intake.conversation.clone(),
        customer_call_id: call.facts.intake.call_id.clone(),
        recorded: entry.is_recorded(),
        age_seconds: now.saturating_duration_since(call.facts.received).as_secs(),
        customer_media: media(LegRole::Customer),
        genagent_media: media(LegRole::GenerativeAgent),
        onward_media: media(LegRole::Onward),
    }
}
