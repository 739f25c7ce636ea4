//! What legs and calls want, done: intents become messages with numbers, headers and session descriptions.

use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use tracing::{debug, info};

use super::io::{
    ApiFailure, ApiOperation, ApiReply, ApiRequest, CreateTransfer, Datagram, FailureClass, Law, MediaCommand, Output,
    PortPair, Sound, Transport,
};
use super::limiter::Priority;
use super::settings::{Caller, Trunk};
use super::transactions::{Holder, LegId};
use super::trunks::{NoWay, Route};
use super::{B2bua, COUNTERS_LIMIT, CallEntry, LegEntry, TimerKey};
use crate::call::event::{CallAction, CallEvent, CallTimer};
use crate::call::record::CallRecord;
use crate::call::state::Call;
use crate::call::ticket::DialTicket;
use crate::call::{CallRef, TransferId};
use crate::leg::negotiation::Negotiation;
use crate::leg::uac::Dial;
use crate::leg::{
    Invitation, Leg, LegCommand, LegEvent, LegRole, LegTimer, LostCause, Material, MediaCounters, Out, Refusal,
    Surroundings,
};
use crate::sdp::G711;
use crate::sip::hop::Hop;
use crate::sip::message::Message;
use crate::sip::transaction::key::{ClientKey, ServerKey};
use crate::sip::value::escaped_user;

/// Octets of a request that reach everybody in one datagram (RFC 3261 section 18.1.1).
const MTU_SAFE: usize = 1_300;

impl B2bua {
    // --- a customer is at the door ---

    pub(super) fn invited(&mut self, now: Instant, origin: Hop, invite: &Message, key: ServerKey) {
        let overloaded = match () {
            () if self.draining => Some("draining"),
            () if self.calls.len() >= self.settings.max_calls => Some("calls"),
            () if !self.admitted.call(now, self.settings.max_calls_per_second) => Some("rate"),
            () => None,
        };
        let call = CallRef(self.ids.number());
        let pairs = match overloaded {
            Some(_) => None,
            None => self.ports.lend(call, 1, &mut self.ids).and_then(|customer| {
                let genagent = self.ports.lend_near(customer.worker, call, &mut self.ids)?;
                Some((customer, genagent))
            }),
        };
        let Some((customer_pair, spare)) = pairs else {
            *self.counters.rejected.entry(overloaded.unwrap_or("ports")).or_default() += 1;
            return self.answer_once(now, origin, invite, 503);
        };
        self.next_leg += 1;
        let id = LegId(self.next_leg);
        self.open(origin, invite, &key, Some(id));
        let negotiation = self.negotiation(customer_pair);
        let mut out = Vec::new();
        let session = self.settings.session;
        let mut s =
            Surroundings { ids: &mut self.ids, endpoint: &self.endpoint, base: self.base, session, out: &mut out };
        match Leg::invited(invite, key.clone(), origin, negotiation, &mut s) {
            Ok((leg, tag)) => {
                self.add_leg(id, leg, tag, LegRole::Customer, call, customer_pair);
                self.remote_changed(id);
                self.begin_call(now, call, id, customer_pair, spare, out);
            }
            Err(refusal) => {
                *self.counters.rejected.entry("description").or_default() += 1;
                self.close_media(customer_pair, call);
                self.close_media(spare, call);
                self.answer_open(now, invite, &key, refusal);
            }
        }
    }

    fn answer_open(&mut self, now: Instant, invite: &Message, key: &ServerKey, refusal: Refusal) {
        let tag = self.ids.tag();
        let effects = self.transactions.respond(key, refusal.status, refusal.response(invite, &tag, &self.endpoint));
        self.perform(now, effects, None);
    }

    fn negotiation(&mut self, pair: PortPair) -> Negotiation {
        let here = SocketAddr::new(self.settings.media_address, pair.port);
        Negotiation::new(here, self.ids.below(0x7fff_ffff) as u32)
    }

    fn add_leg(&mut self, id: LegId, leg: Leg, tag: String, role: LegRole, call: CallRef, pair: PortPair) {
        self.tags.insert(tag.clone(), id);
        self.legs.insert(id, LegEntry { leg, role, call, tag, pair, way: None, silent: false, over: false });
    }

    /// The call begins with the leg's first event; what came before it (the 100) goes out first.
    fn begin_call(
        &mut self,
        now: Instant,
        call: CallRef,
        customer: LegId,
        customer_pair: PortPair,
        spare: PortPair,
        out: Vec<Out>,
    ) {
        for wanted in out {
            match wanted {
                Out::Event(LegEvent::Invited(invitation)) => {
                    self.open_call(now, call, customer, customer_pair, spare, &invitation);
                }
                other => {
                    self.work.push_back((customer, other));
                    self.work_off(now);
                }
            }
        }
    }

    fn open_call(
        &mut self,
        now: Instant,
        reference: CallRef,
        customer: LegId,
        customer_pair: PortPair,
        spare: PortPair,
        invitation: &Invitation,
    ) {
        self.counters.calls += 1;
        let mut actions = Vec::new();
        let context_ref = format!("{:032x}", self.ids.number());
        let settings = self.call_settings.clone();
        let intake = self.intake(now, invitation);
        let call = Call::begin(reference, context_ref, intake, settings, self.epoch, now, &mut actions);
        info!(call = %reference, conversation = ?call.facts.intake.conversation.0, "call taken");
        let entry = CallEntry {
            call,
            customer,
            genagent: None,
            route: Route::default(),
            customer_pair,
            spare_pair: Some(spare),
            customer_media: None,
            genagent_media: None,
            genagent_pair: None,
            record: None,
        };
        self.calls.insert(reference, entry);
        self.act(now, reference, actions);
    }

    // --- what legs want ---

    pub(super) fn work_off(&mut self, now: Instant) {
        while let Some((id, wanted)) = self.work.pop_front() {
            self.do_for_leg(now, id, wanted);
        }
    }

    fn do_for_leg(&mut self, now: Instant, id: LegId, wanted: Out) {
        match wanted {
            Out::Request { key, message, to } => self.send(now, key, message, Some(Holder::Leg(id)), to),
            Out::Stray { key, message, to } => self.send(now, key, message, None, to),
            Out::Cancel(key) => {
                let effects = self.transactions.cancel(&key);
                self.perform(now, effects, None);
            }
            Out::Quench(key) => {
                let effects = self.transactions.quench(&key);
                self.perform(now, effects, None);
            }
            Out::Abandon(key) => {
                let effects = self.transactions.abandon(&key);
                self.perform(now, effects, None);
            }
            Out::Respond { key, status, message } => {
                let effects = self.transactions.respond(&key, status, message);
                self.perform(now, effects, None);
            }
            Out::Acknowledge { message, to } => {
                self.outputs.push_back(Output::Transmit(Datagram::to(to, message)));
            }
            Out::Start(timer, wait) => self.timers.start(TimerKey::Leg(id, timer), now + wait),
            Out::Stop(timer) => self.timers.stop(TimerKey::Leg(id, timer)),
            Out::RemoteChanged => self.remote_changed(id),
            Out::Silent => self.leg_silent(now, id),
            Out::Event(event) => self.leg_spoke(now, id, event),
            Out::Gone => self.drop_leg(id),
        }
    }

    pub(super) fn send(&mut self, now: Instant, key: ClientKey, message: Bytes, holder: Option<Holder>, to: Hop) {
        let method = key.method().clone();
        let (hop, message, spare) = self.way(message, to);
        let effects = self.transactions.send(key, message, method, holder, hop, spare);
        self.perform(now, effects, None);
    }

    /// A request that is too long for UDP goes over TCP where that is allowed, and by UDP all the same when TCP fails
    /// (RFC 3261 section 18.1.1).
    fn way(&self, message: Bytes, to: Hop) -> (Hop, Bytes, Option<(Hop, Bytes)>) {
        let long = to.transport == Transport::Udp && message.len() > MTU_SAFE;
        if !long || !self.settings.tcp_for_long || !self.endpoint.speaks(Transport::Tcp) {
            return (to, message, None);
        }
        let hop = Hop { transport: Transport::Tcp, ..to };
        let [udp, tcp] =
            [to, hop].map(|hop| format!("SIP/2.0/{} {}", hop.transport.as_str(), self.endpoint.towards(&hop)));
        match crate::sip::write::replaced(&message, &udp, &tcp) {
            Some(rewritten) => (hop, rewritten, Some((to, message))),
            None => (to, message, None),
        }
    }

    fn leg_spoke(&mut self, now: Instant, id: LegId, event: LegEvent) {
        let Some(entry) = self.legs.get_mut(&id) else { return };
        let (role, call, pair) = (entry.role, entry.call, entry.pair);
        if event.is_last_word() {
            debug_assert!(!entry.over, "a leg spoke its last word twice: {event:?}");
            entry.over = true;
            self.close_media(pair, call);
        }
        let current = self.calls.get(&call).is_some_and(|entry| match role {
            LegRole::Customer => entry.customer == id,
            LegRole::GenerativeAgent => entry.genagent == Some(id),
        });
        debug!(call = %call, leg = ?role, current, ?event, "leg");
        self.judge_trunk(now, id, &event, current);
        if !current {
            return;
        }
        match self.failed_over(now, id, &event) {
            Some(how) => self.tell_call(now, call, CallEvent::WayFailed(how)),
            None => self.tell_call(now, call, CallEvent::Leg(role, event)),
        }
    }

    // --- trunks ---

    /// What a leg says of the trunk's server that it was dialled at. One that was given up has been counted already.
    fn judge_trunk(&mut self, now: Instant, id: LegId, event: &LegEvent, current: bool) {
        let Some(way) = self.legs.get(&id).and_then(|leg| leg.way) else { return };
        match event {
            LegEvent::Refused { status: 503, retry_after: Some(wait), .. } => self.trunks.rests(now, way, *wait),
            LegEvent::Refused { .. } | LegEvent::Progressed { .. } | LegEvent::Answered => {
                self.trunks.answered(now, way);
            }
            LegEvent::Lost(LostCause::NoAnswer) if current => self.trunks.silent(now, way),
            _ => {}
        }
    }

    /// How a way failed, where the number may go another one and there is one.
    fn failed_over(&mut self, now: Instant, id: LegId, event: &LegEvent) -> Option<String> {
        let leg = self.legs.get(&id)?;
        let (way, call) = (leg.way?, leg.call);
        let how = match event {
            LegEvent::Refused { status, .. } if self.trunks.settings(way).failover.contains(status) => {
                format!("refused {status}")
            }
            LegEvent::Lost(LostCause::NoAnswer) => "silent".to_owned(),
            _ => return None,
        };
        self.another_way(now, call).then_some(how)
    }

    fn another_way(&mut self, now: Instant, call: CallRef) -> bool {
        let Some(entry) = self.calls.get_mut(&call) else { return false };
        let another = self.trunks.another(now, &mut entry.route, &mut self.ids);
        self.counters.failovers += u64::from(another);
        another
    }

    /// Nothing at all has come back: where there is another way, this one is given up. What it still answers is ended
    /// inside its leg.
    fn leg_silent(&mut self, now: Instant, id: LegId) {
        let Some((way, call)) = self.legs.get(&id).and_then(|leg| Some((leg.way?, leg.call))) else { return };
        self.trunks.silent(now, way);
        let current = self.calls.get(&call).is_some_and(|entry| entry.genagent == Some(id));
        if current && self.another_way(now, call) {
            self.abandon(now, call);
            self.tell_call(now, call, CallEvent::WayFailed("silent".to_owned()));
        }
    }

    fn drop_leg(&mut self, id: LegId) {
        if let Some(entry) = self.legs.remove(&id) {
            self.tags.remove(&entry.tag);
            for timer in LegTimer::ALL {
                self.timers.stop(TimerKey::Leg(id, timer));
            }
        }
    }

    // --- what calls want ---

    pub(super) fn tell_call(&mut self, now: Instant, call: CallRef, event: CallEvent) {
        let Some(entry) = self.calls.get_mut(&call).filter(|entry| entry.record.is_none()) else {
            return self.nobody_waits(&event);
        };
        let before = entry.call.state().name();
        let word = event_word(&event);
        let mut actions = Vec::new();
        entry.call.step(now, event, &mut actions);
        let after = entry.call.state().name();
        if before != after {
            info!(call = %call, from = before, to = after, event = word, "call");
        }
        self.act(now, call, actions);
    }

    fn act(&mut self, now: Instant, call: CallRef, actions: Vec<CallAction>) {
        for action in actions {
            match action {
                CallAction::Leg(role, command, carry) => self.command(now, call, role, command, carry.lines),
                CallAction::Dial(ticket) => self.dial(now, call, ticket),
                CallAction::Abandon => self.abandon(now, call),
                CallAction::Create(transfer, deadline) => self.create(now, call, transfer, deadline),
                CallAction::Fetch(transfer, deadline) => self.fetch(now, call, transfer, deadline),
                CallAction::Verify(transfer, deadline) => self.verify(now, call, transfer, deadline),
                CallAction::Misdirected(transfer) => {
                    self.counters.misdirected += 1;
                    tracing::warn!(call = %call, transfer = transfer.0, "the number led to somebody else: leg cut");
                }
                CallAction::Connect { watched } => self.connect(call, watched),
                CallAction::Play(sound) => self.play(call, sound),
                CallAction::Start(timer, at) => self.timers.start(TimerKey::Call(call, timer), at),
                CallAction::StopTimers => self.stop_timers(call),
                CallAction::Publish(context) => self.outputs.push_back(Output::Publish(context)),
                CallAction::NumberUnused => self.counters.numbers_unused += 1,
                CallAction::End(record) => self.end_call(now, call, record),
            }
        }
    }

    fn stop_timers(&mut self, call: CallRef) {
        for timer in CallTimer::ALL {
            self.timers.stop(TimerKey::Call(call, timer));
        }
    }

    fn leg_of(&self, call: CallRef, role: LegRole) -> Option<LegId> {
        let entry = self.calls.get(&call)?;
        match role {
            LegRole::Customer => Some(entry.customer),
            LegRole::GenerativeAgent => entry.genagent,
        }
    }

    fn command(
        &mut self,
        now: Instant,
        call: CallRef,
        role: LegRole,
        command: LegCommand,
        headers: Vec<(String, String)>,
    ) {
        let other = match role {
            LegRole::Customer => LegRole::GenerativeAgent,
            LegRole::GenerativeAgent => LegRole::Customer,
        };
        let Some(id) = self.leg_of(call, role) else { return };
        self.observe(now, call, role, &command);
        let audio = self.leg_of(call, other).and_then(|id| self.legs.get(&id)?.leg.audio_for_other());
        let material = Material { headers, audio };
        self.with_leg(id, |leg, s| leg.command(command, &material, s));
        self.work_off(now);
    }

    /// Durations worth a histogram.
    fn observe(&mut self, now: Instant, call: CallRef, role: LegRole, command: &LegCommand) {
        let Some(facts) = self.calls.get(&call).map(|entry| &entry.call.facts) else { return };
        match (role, command) {
            (LegRole::Customer, LegCommand::Answer) => {
                self.counters.setup.observe(now.saturating_duration_since(facts.received));
            }
            (LegRole::Customer, LegCommand::HangUp(_)) => {
                let since = facts.genagent_ended.or(facts.decided).unwrap_or(now);
                self.counters.hand_back.observe(now.saturating_duration_since(since));
            }
            _ => {}
        }
    }

    fn dial(&mut self, now: Instant, call: CallRef, ticket: DialTicket) {
        let Some(entry) = self.calls.get_mut(&call) else { return };
        let worker = entry.customer_pair.worker;
        let pair = entry.spare_pair.take().or_else(|| self.ports.lend_near(worker, call, &mut self.ids));
        let way = self.trunks.take(now, &mut entry.route, &mut self.ids);
        let number = ticket.spend(now);
        let (Some(pair), Some(number), Ok(way)) = (pair, number, way) else {
            return self.tell_call(
                now,
                call,
                CallEvent::Leg(LegRole::GenerativeAgent, LegEvent::Lost(LostCause::NoAnswer)),
            );
        };
        let trunk = self.trunks.settings(way);
        entry.call.facts.leaves_by(&trunk.name);
        let digits = if trunk.plus { number.as_str() } else { number.trim_start_matches('+') };
        let uri = format!("sip:{}{digits}@{};user=phone", trunk.prefix, trunk.domain);
        let here = self.endpoint.towards(&way.hop);
        let (from, headers) = caller(&trunk, &entry.call.facts.intake.caller, here);
        let customer = self.leg_of(call, LegRole::Customer);
        let audio = customer.and_then(|id| self.legs.get(&id)?.leg.audio_for_other());
        let negotiation = self.negotiation(pair);
        let material = Material { headers, audio };
        self.next_leg += 1;
        let id = LegId(self.next_leg);
        let mut out = Vec::new();
        let session = self.settings.session;
        let mut s =
            Surroundings { ids: &mut self.ids, endpoint: &self.endpoint, base: self.base, session, out: &mut out };
        let dial = Dial {
            uri: &uri,
            from: &from,
            to: way.hop,
            credentials: trunk.credentials.as_ref(),
            silence: trunk.silence,
            redirects: &trunk.redirects,
        };
        let (leg, tag) = Leg::dial(&dial, negotiation, &material, &mut s);
        self.add_leg(id, leg, tag, LegRole::GenerativeAgent, call, pair);
        self.legs.entry(id).and_modify(|entry| entry.way = Some(way));
        if let Some(entry) = self.calls.get_mut(&call) {
            entry.genagent = Some(id);
            entry.genagent_pair = Some(pair);
        }
        self.work.extend(out.into_iter().map(|wanted| (id, wanted)));
        self.work_off(now);
    }

    fn abandon(&mut self, now: Instant, call: CallRef) {
        let Some(id) = self.calls.get_mut(&call).and_then(|entry| entry.genagent.take()) else { return };
        let hang_up = LegCommand::HangUp(crate::leg::Cause::NORMAL);
        self.with_leg(id, |leg, s| leg.command(hang_up, &Material::default(), s));
        self.work_off(now);
    }

    // --- ASAPP ---

    fn create(&mut self, now: Instant, call: CallRef, transfer: TransferId, deadline: Instant) {
        let Some(entry) = self.calls.get_mut(&call) else { return };
        let intake = &entry.call.facts.intake;
        let operation = ApiOperation::Create(Box::new(CreateTransfer {
            conversation: intake.conversation.clone(),
            country: self.call_settings.country.clone(),
            task: intake.task.clone(),
            variables: intake.variables.clone(),
        }));
        // The rate is looked at first: a probe of the breaker that is then shed would keep it open.
        let route = self.trunks.reserve(now, &mut entry.route, &mut self.ids);
        let withheld = match route {
            Err(why) => {
                let word = if why == NoWay::Down { "trunks_down" } else { "trunks_full" };
                *self.counters.rejected.entry(word).or_default() += 1;
                FailureClass::NoTrunk
            }
            Ok(()) if !self.limiter.admit(now, Priority::Create) => FailureClass::Shed,
            Ok(()) if !self.breaker.admit(now) => FailureClass::Withheld,
            Ok(()) => return self.ask(now, call, transfer, operation, deadline),
        };
        *self.counters.api.entry(("create", withheld.as_str())).or_default() += 1;
        self.tell_call(now, call, CallEvent::Created(transfer, Err(ApiFailure::not_asked(withheld))));
    }

    /// A finished call's context comes before everything else, and is asked for a moment later where it must wait.
    fn fetch(&mut self, now: Instant, call: CallRef, transfer: TransferId, deadline: Instant) {
        if self.limiter.admit(now, Priority::Fetch) {
            return self.ask(now, call, transfer, ApiOperation::Fetch, deadline);
        }
        *self.counters.api.entry(("fetch", FailureClass::Shed.as_str())).or_default() += 1;
        self.tell_call(now, call, CallEvent::Fetched(transfer, Err(ApiFailure::not_asked(FailureClass::Shed))));
    }

    fn verify(&mut self, now: Instant, call: CallRef, transfer: TransferId, deadline: Instant) {
        match self.limiter.admit(now, Priority::Verify) {
            true => self.ask(now, call, transfer, ApiOperation::Fetch, deadline),
            false => *self.counters.api.entry(("verify", "skipped")).or_default() += 1,
        }
    }

    fn ask(&mut self, now: Instant, call: CallRef, transfer: TransferId, operation: ApiOperation, deadline: Instant) {
        let timeout = deadline.saturating_duration_since(now);
        self.outputs.push_back(Output::Asapp(ApiRequest { call, transfer, operation, timeout }));
    }

    pub(super) fn judge_api(&mut self, now: Instant, reply: &ApiReply) {
        let operation = if reply.created { "create" } else { "fetch" };
        let class = reply.answer.as_ref().map_or_else(|failure| failure.class.as_str(), |_| "ok");
        *self.counters.api.entry((operation, class)).or_default() += 1;
        let trouble = reply.answer.as_ref().err().is_some_and(|failure| failure.class.is_trouble());
        if !trouble {
            self.breaker.succeeded();
        } else if reply.created && self.breaker.failed(now) {
            self.counters.breaker_openings += 1;
            tracing::warn!("ASAPP's API does not answer: circuit breaker open, calls go to the fallback");
        }
    }

    // --- media ---

    /// The relay learns where the far side of a leg is; the watch on it rests while it holds.
    pub(super) fn remote_changed(&mut self, id: LegId) {
        let Some(entry) = self.legs.get_mut(&id) else { return };
        let Some(audio) = entry.leg.remote() else { return };
        let pair = entry.pair;
        if let (Some(rtp), Some(rtcp)) = (audio.rtp, audio.rtcp) {
            self.outputs.push_back(Output::Media(MediaCommand::Expect { pair, rtp, rtcp }));
        }
        let held = audio.is_held();
        if held {
            entry.silent = false;
            self.outputs.push_back(Output::Media(MediaCommand::Watch { pair, limit: None }));
        } else if self.calls.get(&entry.call).is_some_and(|call| call.call.facts.answered.is_some()) {
            let limit = Some(self.settings.media_timeout);
            self.outputs.push_back(Output::Media(MediaCommand::Watch { pair, limit }));
        }
    }

    fn connect(&mut self, call: CallRef, watched: bool) {
        let legs = [LegRole::Customer, LegRole::GenerativeAgent].map(|role| self.leg_of(call, role));
        let pair = |id: Option<LegId>| id.and_then(|id| self.legs.get(&id)).filter(|leg| !leg.over).map(|leg| leg.pair);
        let [Some(customer), Some(genagent)] = legs.map(pair) else { return };
        self.outputs.push_back(Output::Media(MediaCommand::Bridge(customer, genagent)));
        for pair in [customer, genagent].into_iter().filter(|_| watched) {
            let limit = Some(self.settings.media_timeout);
            self.outputs.push_back(Output::Media(MediaCommand::Watch { pair, limit }));
        }
    }

    fn play(&mut self, call: CallRef, sound: Sound) {
        let Some(leg) = self.leg_of(call, LegRole::Customer).and_then(|id| self.legs.get(&id)) else { return };
        // What the two sides agreed on; without G.711 in it there is nothing we can say.
        let law = leg.leg.audio_for_other().and_then(|audio| audio.g711()).map(|law| match law {
            G711::Mu => Law::Mu,
            G711::A => Law::A,
        });
        if let (Some(law), false) = (law, leg.over) {
            self.outputs.push_back(Output::Media(MediaCommand::Play { pair: leg.pair, sound, law }));
        }
    }

    pub(super) fn silence(&mut self, now: Instant, pair: PortPair, silent: bool) {
        let Some(call) = self.ports.owner(pair) else { return };
        let Some(entry) = self.calls.get(&call) else { return };
        let legs = [Some(entry.customer), entry.genagent];
        for id in legs.into_iter().flatten() {
            if let Some(leg) = self.legs.get_mut(&id).filter(|leg| leg.pair == pair) {
                leg.silent = silent;
            }
        }
        let dead = |id: Option<LegId>| id.and_then(|id| self.legs.get(&id)).is_some_and(|leg| leg.silent);
        if legs.into_iter().all(dead) {
            self.tell_call(now, call, CallEvent::MediaDead);
        }
    }

    /// Closes a pair that is still this call's. A leg may speak its last word long after its call has ended.
    fn close_media(&mut self, pair: PortPair, call: CallRef) {
        if self.ports.take_back(pair, call) {
            self.outputs.push_back(Output::Media(MediaCommand::Close(pair)));
        }
    }

    pub(super) fn media_closed(&mut self, pair: PortPair, counters: MediaCounters) {
        let Some(call) = self.ports.owner(pair) else { return };
        let Entry::Occupied(mut entry) = self.calls.entry(call) else { return };
        let entry = entry.get_mut();
        if entry.customer_pair == pair {
            entry.customer_media = Some(counters);
        } else if entry.genagent_pair == Some(pair) {
            entry.genagent_media = Some(counters);
        }
        self.write_if_counted(call);
    }

    fn write_if_counted(&mut self, call: CallRef) {
        let counted = |entry: &CallEntry| {
            let genagent = entry.genagent_media.is_some() || entry.genagent_pair.is_none();
            entry.record.is_some() && entry.customer_media.is_some() && genagent
        };
        if self.calls.get(&call).is_some_and(counted) {
            self.write_record(call);
        }
    }

    // --- the end ---

    /// The call has decided everything; its record waits a moment for the relay's counters.
    fn end_call(&mut self, now: Instant, call: CallRef, record: Box<CallRecord>) {
        let Some(entry) = self.calls.get_mut(&call) else { return };
        let caller = entry.call.facts.intake.caller.clone();
        self.learn(now, &record, &caller);
        let Some(entry) = self.calls.get_mut(&call) else { return };
        entry.record = Some(record);
        self.trunks.release(&mut entry.route);
        let pairs = [Some(entry.customer_pair), entry.spare_pair.take(), entry.genagent_pair];
        for pair in pairs.into_iter().flatten() {
            self.close_media(pair, call);
        }
        self.stop_timers(call);
        self.timers.start(TimerKey::Record(call), now + COUNTERS_LIMIT);
        self.write_if_counted(call);
    }

    pub(super) fn write_record(&mut self, call: CallRef) {
        self.timers.stop(TimerKey::Record(call));
        let Some(mut entry) = self.calls.remove(&call) else { return };
        let Some(mut record) = entry.record.take() else { return };
        record.customer_media = entry.customer_media;
        record.genagent_media = entry.genagent_media;
        *self.counters.outcomes.entry(record.verdict.outcome).or_default() += 1;
        if let Some(answered) = record.answered_at {
            let talked = u64::try_from(record.decided_at - answered).unwrap_or(0);
            self.counters.conversation.observe(std::time::Duration::from_millis(talked));
        }
        info!(call = %call, outcome = %record.verdict.outcome, "call ended");
        self.outputs.push_back(Output::Record(record));
    }
}

/// The URI of our From, and what tells the trunk who answers for the call.
fn caller(trunk: &Trunk, customer: &str, here: SocketAddr) -> (String, Vec<(String, String)>) {
    let own = format!("sip:{}@{here}", trunk.caller_id);
    let digits = customer.strip_prefix('+').unwrap_or(customer);
    let is_number = (3..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    match trunk.caller {
        Caller::Passthrough if is_number => {
            let diversion = ("Diversion".to_owned(), format!("<{own}>;reason=unconditional"));
            (format!("sip:{}@{here}", escaped_user(customer)), vec![diversion])
        }
        Caller::Passthrough | Caller::Own => (own, Vec::new()),
    }
}

/// One word for the log.
fn event_word(event: &CallEvent) -> &'static str {
    match event {
        CallEvent::Leg(_, LegEvent::Invited(_)) => "invited",
        CallEvent::Leg(_, LegEvent::Progressed { .. }) => "progressed",
        CallEvent::Leg(_, LegEvent::Answered) => "answered",
        CallEvent::Leg(_, LegEvent::Reoffered) => "reoffered",
        CallEvent::Leg(_, LegEvent::Informed(_)) => "informed",
        CallEvent::Leg(LegRole::Customer, LegEvent::HungUp { .. }) => "customer hung up",
        CallEvent::Leg(LegRole::GenerativeAgent, LegEvent::HungUp { .. }) => "GenerativeAgent hung up",
        CallEvent::Leg(_, LegEvent::Refused { .. }) => "refused",
        CallEvent::Leg(_, LegEvent::Lost(_)) => "lost",
        CallEvent::WayFailed(_) => "way failed",
        CallEvent::Created(..) => "created",
        CallEvent::Fetched(..) => "fetched",
        CallEvent::MediaDead => "media dead",
        CallEvent::Timer(_) => "timer",
        CallEvent::Pulled => "pulled",
        CallEvent::Stopped => "stopped",
    }
}
