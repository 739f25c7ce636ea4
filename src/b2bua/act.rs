//! What legs and calls want, done: intents become messages with numbers, headers and session descriptions.

use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{debug, info, warn};

use super::headers::Lines;
use super::io::{
    ApiFailure, ApiOperation, ApiReply, ApiRequest, Datagram, Digit, EventTypes, FailureClass, Law, MediaCommand,
    Output, PortPair, Sound, Transport,
};
use super::limiter::Priority;
use super::settings::{Caller, Srtp, Trunk};
use super::transactions::{Holder, LegId};
use super::trunks::{NoWay, Route, Way};
use super::{B2bua, COUNTERS_LIMIT, CallEntry, LegEntry, Side, TimerKey, surroundings};
use crate::call::context::{Carry, PublishedContext};
use crate::call::event::{CallAction, CallEvent, CallTimer, Press};
use crate::call::intake::Intake;
use crate::call::record::{CallRecord, Epoch};
use crate::call::settings::CallSettings;
use crate::call::state::Call;
use crate::call::ticket::{Callee, DialTicket};
use crate::call::verdict::NotConnected;
use crate::call::{CallRef, TransferId};
use crate::leg::keys::KeyExchange;
use crate::leg::negotiation::{Negotiation, offer_of};
use crate::leg::uac::Dial;
use crate::leg::{
    Invitation, Leg, LegCommand, LegEvent, LegRole, LegTimer, LostCause, Material, MediaCounters, Out, Refusal,
};
use crate::sdp::{Audio, Family, G711, Session};
use crate::sip::digest::Keyring;
use crate::sip::hop::Hop;
use crate::sip::message::Message;
use crate::sip::transaction::key::{ClientKey, ServerKey};

/// A class of trouble that is complained about again was quiet for so long.
const COMPLAIN_AGAIN: Duration = Duration::from_secs(60);
/// Octets of a request that reach everybody in one datagram (RFC 3261 section 18.1.1).
const MTU_SAFE: usize = 1_300;

/// Hops that our own requests may take (RFC 3261 section 8.1.1.6).
const MAX_FORWARDS: u8 = 70;
/// Legs of one customer whose Call-IDs lead to the context.
const MAX_CALL_IDS: usize = 16;
/// Which call transfer a call to GenerativeAgent's SIP URI is.
const TRANSFER_HEADER: &str = "X-ASAPP-CallTransferId";

/// Pairs that a call has ready: for GenerativeAgent's leg, and for the customer's way on after it.
pub(super) type Spares = [PortPair; 2];

/// How a call begins.
type CallBegins = fn(CallRef, String, Intake, Arc<CallSettings>, Epoch, Instant, &mut Vec<CallAction>) -> Call;

/// What is known at the door, before there is a call.
pub(super) struct Door {
    /// The customer's leg, or who asked by REFER for one.
    pub asked_by: AskedBy,
    pub pair: PortPair,
    pub spares: Spares,
    pub max_forwards: u8,
    pub headers: Lines,
    pub private: bool,
    pub profile: Option<String>,
}

/// Who wants a call.
#[derive(Clone, Copy)]
pub(super) enum AskedBy {
    Customer(LegId),
    Referrer(LegId),
}

impl B2bua {
    // --- a customer is at the door ---

    pub(super) fn invited(&mut self, now: Instant, origin: Hop, invite: &Message, key: ServerKey) {
        let Some(max_forwards) = hops_left(invite) else {
            *self.counters.rejected.entry("hops").or_default() += 1;
            return self.answer_once(now, origin, invite, 483);
        };
        if let Some(overloaded) = self.no_room(now, origin) {
            return self.unavailable(now, origin, invite, overloaded);
        }
        if self.reenters_too_often(invite) {
            return self.loops(now, origin, invite);
        }
        self.next_leg += 1;
        let id = LegId(self.next_leg);
        let (offer, here, keys) = match self.offered(origin, invite) {
            Ok(offered) => offered,
            Err(refusal) => {
                *self.counters.rejected.entry("description").or_default() += 1;
                self.open(origin, invite, &key, None);
                return self.answer_open(now, invite, &key, refusal);
            }
        };
        let call = CallRef(self.ids.number());
        let Some((customer_pair, spares)) = self.lend_to(now, here, call) else {
            return self.unavailable(now, origin, invite, "ports");
        };
        self.open(origin, invite, &key, Some(id));
        let negotiation = self.negotiation(SocketAddr::new(here, customer_pair.port), offer, keys);
        let mut out = Vec::new();
        let mut s = surroundings(&mut self.ids, &self.endpoint, self.base, &self.settings, &mut out);
        match Leg::invited(invite, key.clone(), origin, negotiation, &mut s) {
            Ok((leg, tag)) => {
                self.add_leg(id, leg, tag, LegRole::Customer, call, customer_pair);
                self.legs.entry(id).and_modify(|entry| entry.caller = Some(origin.ip()));
                self.remote_changed(id);
                let (headers, private) = self.invited_with(invite);
                let profile = self.profile_of(origin.ip()).map(str::to_owned);
                let asked_by = AskedBy::Customer(id);
                let door = Door { asked_by, pair: customer_pair, spares, max_forwards, headers, private, profile };
                self.begin_call(now, call, id, door, out);
            }
            Err(refusal) => {
                *self.counters.rejected.entry("description").or_default() += 1;
                self.close_all_media(customer_pair, spares, call);
                self.answer_open(now, invite, &key, refusal);
            }
        }
    }

    /// Why no further call is taken from there now, if so.
    pub(super) fn no_room(&mut self, now: Instant, origin: Hop) -> Option<&'static str> {
        self.overload().or_else(|| match () {
            () if !self.sources.may_call(now, origin.ip()) => Some("source"),
            () if !self.admitted.call(now, self.settings.max_calls_per_second) => Some("rate"),
            () => None,
        })
    }

    /// A pair for the customer's leg, of the family of our address `here`, and those for the legs that we shall dial: a
    /// call for whose way back there would be no pair is not begun.
    pub(super) fn lend_to(&mut self, now: Instant, here: IpAddr, call: CallRef) -> Option<(PortPair, Spares)> {
        // The trunk that is likely to be taken; if it turns out to be another family's, another pair is lent.
        let there = self.trunks.first_up(now, 0).map_or(here, |way| way.hop.ip());
        let [customer, genagent, onward] = self.ports.lend([here, there, here].map(Family::of), call, &mut self.ids)?;
        Some((customer, [genagent, onward]))
    }

    /// The profile of who calls from here: that of the smallest network it lies in, or of the trunk that it is a server of.
    pub(super) fn profile_of(&self, address: IpAddr) -> Option<&str> {
        let nets = self.settings.profiles.iter().filter(|(network, _)| network.contains(address));
        let nearest = nets.max_by_key(|(network, _)| network.prefix).map(|(_, profile)| profile.as_str());
        nearest.or_else(|| self.trunks.settings_at(address)?.profile.as_deref())
    }

    pub(super) fn answer_open(&mut self, now: Instant, invite: &Message, key: &ServerKey, refusal: Refusal) {
        let tag = self.ids.tag();
        let effects = self.transactions.respond(key, refusal.status, refusal.response(invite, &tag, &self.endpoint));
        self.perform(now, effects, None);
    }

    pub(super) fn unavailable(&mut self, now: Instant, origin: Hop, invite: &Message, why: &'static str) {
        *self.counters.rejected.entry(why).or_default() += 1;
        self.answer_once(now, origin, invite, 503);
    }

    /// What an INVITE offers, and our media address of its family; of the signalling's family where it offers nothing.
    pub(super) fn offered(
        &self,
        origin: Hop,
        invite: &Message,
    ) -> Result<(Option<Session>, IpAddr, KeyExchange), Refusal> {
        let srtp = self.settings.srtp(self.settings.srtp, origin.transport).ok_or_else(|| {
            info!(%origin, "refused: SRTP is required (media.srtp), and its keys are told over TLS only");
            Refusal::new(488)
        })?;
        let keys = KeyExchange::new(srtp);
        let offer = offer_of(invite, &keys)?;
        let family = offer.as_ref().and_then(|offer| offer.audio.family).unwrap_or(Family::of(origin.ip()));
        let here = self.settings.media_address(family).ok_or_else(|| {
            info!(%origin, %family, "refused: there is no media address of this family (media.address)");
            Refusal::new(488)
        })?;
        Ok((offer, here, keys))
    }

    pub(super) fn negotiation(&mut self, here: SocketAddr, offer: Option<Session>, keys: KeyExchange) -> Negotiation {
        let session = self.ids.below(0x7fff_ffff) as u32;
        Negotiation::new(here, session, offer, keys, self.settings.rtcp_mux, &mut self.ids)
    }

    pub(super) fn add_leg(&mut self, id: LegId, leg: Leg, tag: String, role: LegRole, call: CallRef, pair: PortPair) {
        self.tags.insert(tag.clone(), id);
        let entry = LegEntry {
            leg,
            role,
            call,
            tag,
            pair,
            way: None,
            callee: None,
            heard: false,
            keys: None,
            caller: None,
            reached: None,
            silent: false,
            law: None,
            covered: None,
            said: None,
            over: false,
        };
        self.legs.insert(id, entry);
    }

    pub(super) fn take_side(&mut self, call: CallRef, role: LegRole, leg: LegId, pair: PortPair) {
        if let Some(entry) = self.calls.get_mut(&call) {
            *entry.side_mut(role) = Side { leg: Some(leg), pair: Some(pair), ..Side::default() };
        }
        if role == LegRole::Onward {
            self.onward_changed(call);
        }
    }

    /// The call begins with the leg's first event; what came before it (the 100) goes out first.
    fn begin_call(&mut self, now: Instant, call: CallRef, customer: LegId, door: Door, out: Vec<Out>) {
        let mut door = Some(door);
        for wanted in out {
            match (wanted, door.take()) {
                (Out::Event(LegEvent::Invited(invitation)), Some(door)) => self.open_call(now, call, door, &invitation),
                (other, waiting) => {
                    door = waiting;
                    self.work.push_back((customer, other));
                    self.work_off(now);
                }
            }
        }
    }

    pub(super) fn open_call(&mut self, now: Instant, reference: CallRef, door: Door, invitation: &Invitation) {
        let Door { asked_by, pair, spares, max_forwards, headers, private, profile } = door;
        let (begin, customer, referrer): (CallBegins, _, _) = match asked_by {
            AskedBy::Customer(leg) => (Call::begin, Some(leg), None),
            AskedBy::Referrer(id) => (Call::referred, None, Some(id)),
        };
        self.counters.calls += 1;
        let mut actions = Vec::new();
        let context_ref = format!("{:032x}", self.ids.number());
        let settings = self.call_settings.clone();
        let intake = Intake { profile, ..self.intake(now, invitation) };
        let call = begin(reference, context_ref, intake, settings, self.epoch, now, &mut actions);
        info!(call = %reference, conversation = ?call.facts.intake.conversation.0, "call taken");
        let mut entry = CallEntry {
            call,
            sides: Default::default(),
            worker: pair.worker,
            route: Route::default(),
            max_forwards,
            headers,
            private,
            spare_pairs: spares.into(),
            sound: None,
            referrer,
            recording: None,
            returning: None,
            call_ids: Vec::new(),
            record: None,
        };
        *entry.side_mut(LegRole::Customer) = Side { leg: customer, pair: Some(pair), ..Side::default() };
        self.calls.insert(reference, entry);
        if customer.is_some() {
            self.entered(reference);
        }
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
            Out::Connected => self.number_spent(now, id),
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
        let (role, call) = (entry.role, entry.call);
        entry.heard |= matches!(event, LegEvent::Progressed { .. } | LegEvent::Answered);
        if event.is_last_word() {
            debug_assert!(!entry.over, "a leg spoke its last word twice: {event:?}");
            entry.over = true;
            self.leg_parts_with(id);
            if role == LegRole::Onward {
                self.onward_changed(call);
            }
        }
        let current = self.leg_of(call, role) == Some(id);
        debug!(call = %call, leg = ?role, current, ?event, "leg");
        self.judge_trunk(now, id, &event, current);
        if matches!(event, LegEvent::TransferAsked(_)) && !(current && self.may_ask(id, &event)) {
            return self.decline(now, id);
        }
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
        let current = self.calls.get(&call).is_some_and(|entry| entry.side(LegRole::GenerativeAgent).leg == Some(id));
        if current && self.another_way(now, call) {
            self.abandon(now, call, LegRole::GenerativeAgent);
            self.tell_call(now, call, CallEvent::WayFailed("silent".to_owned()));
        }
    }

    /// A way that was given up shows a sign of connection. Its number may be somebody else's any moment: where nothing
    /// has been heard of it on the way taken instead, no further INVITE leaves there either, and a fresh one is due.
    fn number_spent(&mut self, now: Instant, id: LegId) {
        let Some((call, callee)) = self.legs.get(&id).map(|leg| (leg.call, leg.callee.clone())) else { return };
        let current = self.leg_of(call, LegRole::GenerativeAgent).filter(|current| *current != id);
        let waits = |leg: &LegEntry| leg.callee == callee && !leg.heard && !leg.over;
        if current.and_then(|current| self.legs.get(&current)).is_some_and(waits) {
            self.abandon(now, call, LegRole::GenerativeAgent);
            let lost = LegEvent::Lost(LostCause::NoAnswer);
            self.tell_call(now, call, CallEvent::Leg(LegRole::GenerativeAgent, lost));
        }
    }

    fn drop_leg(&mut self, id: LegId) {
        if let Some(tag) = self.referrers.remove(&id).map(|referrer| referrer.tag) {
            self.tags.remove(&tag);
        }
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

    pub(super) fn act(&mut self, now: Instant, call: CallRef, actions: Vec<CallAction>) {
        for action in actions {
            match action {
                CallAction::Leg(role, command, carry) => self.command(now, call, role, command, carry),
                CallAction::Introduce => self.introduce(now, call),
                CallAction::Dial(ticket) => self.dial(now, call, ticket),
                CallAction::Onward { target, member, carry } => {
                    self.dial_onward(now, call, &target, member, carry.lines)
                }
                CallAction::Consult(inquiry) => self.outputs.push_back(Output::Consult(inquiry)),
                CallAction::Abandon(role) => self.abandon(now, call, role),
                CallAction::Report(status) => self.report(now, call, status),
                CallAction::CallSuccessor(referral) => self.call_successor(now, call, &referral),
                CallAction::TakeBack => self.take_back(now, call),
                CallAction::ChangeHands => self.change_hands(now, call),
                CallAction::Reserve(transfer) => {
                    let found = self.reserve(now, call).is_ok();
                    self.tell_call(now, call, CallEvent::Reserved(transfer, found));
                }
                CallAction::Create(transfer, deadline) => self.create(now, call, transfer, deadline),
                CallAction::Fetch(transfer, deadline) => self.fetch(now, call, transfer, deadline),
                CallAction::Verify(transfer, deadline) => self.verify(now, call, transfer, deadline),
                CallAction::Misdirected(transfer) => {
                    self.counters.misdirected += 1;
                    warn!(call = %call, transfer = transfer.0, "the number led to somebody else: leg cut");
                }
                CallAction::Connect { with, watched } => self.connect(call, with, watched),
                CallAction::Pass(role, press) => self.pass(now, call, role, press),
                CallAction::Play(sound) => self.play(now, call, sound),
                CallAction::Record(on) => self.record(call, on),
                CallAction::Start(timer, at) => self.timers.start(TimerKey::Call(call, timer), at),
                CallAction::StopTimers => self.stop_timers(call),
                CallAction::Publish(context) => self.publish(call, context),
                CallAction::NumberUnused => self.counters.numbers_unused += 1,
                CallAction::FellBack(reason, rung) => self.fell_back(now, call, reason, rung),
                CallAction::End(record) => self.end_call(now, call, record),
            }
        }
    }

    /// Who gets our BYE may ask for the context by the Call-ID of that dialog (flow T14).
    fn publish(&mut self, call: CallRef, mut context: Box<PublishedContext>) {
        let customer = self.leg_of(call, LegRole::Customer).and_then(|id| self.legs.get(&id)?.leg.call_id());
        if let (Some(now), Some(entry)) = (customer.map(str::to_owned), self.calls.get_mut(&call)) {
            let known = *now == context.customer_call_id || entry.call_ids.contains(&now);
            if !known && entry.call_ids.len() < MAX_CALL_IDS {
                entry.call_ids.push(now);
            }
            context.later_call_ids.clone_from(&entry.call_ids);
        }
        self.outputs.push_back(Output::Publish(context));
    }

    fn stop_timers(&mut self, call: CallRef) {
        for timer in CallTimer::ALL.into_iter().filter(|timer| *timer != CallTimer::SuccessorLimit) {
            self.timers.stop(TimerKey::Call(call, timer));
        }
    }

    /// The pair of a leg that is not over.
    pub(super) fn open_pair(&self, leg: Option<LegId>) -> Option<PortPair> {
        leg.and_then(|id| self.legs.get(&id)).filter(|leg| !leg.over).map(|leg| leg.pair)
    }

    pub(super) fn leg_of(&self, call: CallRef, role: LegRole) -> Option<LegId> {
        self.calls.get(&call)?.side(role).leg
    }

    fn command(&mut self, now: Instant, call: CallRef, role: LegRole, command: LegCommand, carry: Carry) {
        let Carry { lines: mut headers, body, .. } = carry;
        let Some(entry) = self.calls.get(&call) else { return };
        let other = entry.opposite(role);
        let Some(id) = entry.side(role).leg else { return };
        self.observe(now, call, role, &command);
        let own: Vec<String> = headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
        let is_ours = |name: &str| name != "Reason" && own.contains(&name.to_ascii_lowercase());
        headers.extend(self.crossed(call, other, &command).into_iter().filter(|(name, _)| !is_ours(name)));
        let caller = self.legs.get(&id).and_then(|leg| leg.caller).filter(|_| command == LegCommand::Answer);
        let keyring = caller.and_then(|caller| self.keyring(caller)).map(Box::new);
        let material = Material { headers, body, audio: self.audio_towards(call, role), keyring };
        self.with_leg(id, |leg, s| leg.command(command, &material, s));
        self.agree(id);
        self.work_off(now);
    }

    /// REFERs the customer's side to the onward leg, in whose dialog it takes our place.
    fn introduce(&mut self, now: Instant, call: CallRef) {
        let onward = self.leg_of(call, LegRole::Onward).and_then(|id| self.legs.get(&id));
        let Some((uri, replaces)) = onward.and_then(|entry| entry.leg.place()) else { return };
        let lines = vec![("Replaces".to_owned(), replaces.to_string())];
        self.command(now, call, LegRole::Customer, LegCommand::Refer(uri), Carry { lines, ..Carry::default() });
    }

    /// Who we are where a caller asks it, before it takes a REFER or a BYE of ours: a peer, or a trunk that brings customers.
    pub(super) fn keyring(&self, caller: IpAddr) -> Option<Keyring> {
        let trunk = || self.trunks.settings_at(caller)?.credentials.as_ref();
        let credentials = self.settings.credentials_at(caller).or_else(trunk)?;
        Some(Keyring::new(credentials.clone(), caller))
    }

    /// The audio that is described to a leg: that of whom it talks to. A successor whom nobody talks to yet takes up what
    /// was agreed on with the customer's leg.
    pub(super) fn audio_towards(&self, call: CallRef, role: LegRole) -> Option<Audio> {
        let entry = self.calls.get(&call)?;
        let audio = |role| self.legs.get(&entry.side(role).leg?)?.leg.audio_for_other();
        let opposite = audio(entry.opposite(role));
        opposite.or_else(|| audio(LegRole::Customer).filter(|_| role == LegRole::Successor))
    }

    /// Durations worth a histogram.
    fn observe(&mut self, now: Instant, call: CallRef, role: LegRole, command: &LegCommand) {
        let Some(entry) = self.calls.get(&call) else { return };
        let rungs = entry.call.facts.hand_back.as_ref().map_or(&[][..], |back| &back.rungs);
        match (role, command) {
            (LegRole::Customer, LegCommand::Answer) => {
                self.counters.setup.observe(now.saturating_duration_since(entry.call.facts.received));
            }
            (LegRole::Customer, LegCommand::Refer(_)) if rungs.len() == 1 && rungs[0].rung.starts_with("refer:") => {
                self.handed_back(now, call)
            }
            (LegRole::Customer, LegCommand::HangUp(_)) if rungs.first().is_none_or(|first| first.rung == "bye") => {
                self.handed_back(now, call);
            }
            _ => {}
        }
    }

    /// The first thing done to hand a customer back.
    fn handed_back(&mut self, now: Instant, call: CallRef) {
        let Some(facts) = self.calls.get(&call).map(|entry| &entry.call.facts) else { return };
        let since = facts.genagent_ended.or(facts.decided).unwrap_or(now);
        self.counters.hand_back.observe(now.saturating_duration_since(since));
    }

    fn dial(&mut self, now: Instant, call: CallRef, ticket: DialTicket) {
        let Some(entry) = self.calls.get_mut(&call) else { return };
        let way = self.trunks.take(now, &mut entry.route, &mut self.ids).ok();
        let callee = ticket.spend(now);
        let ready = way.zip(callee).and_then(|(way, callee)| {
            let srtp = self.trunks.settings(way).srtp;
            Some((way, callee, self.media_for(call, LegRole::GenerativeAgent, way.hop, srtp)?))
        });
        let Some((way, callee, pair)) = ready else {
            return self.tell_call(
                now,
                call,
                CallEvent::Leg(LegRole::GenerativeAgent, LegEvent::Lost(LostCause::NoAnswer)),
            );
        };
        let trunk = self.trunks.settings(way);
        let Some(entry) = self.calls.get_mut(&call) else { return };
        entry.call.facts.leaves_by(&trunk.name);
        let (uri, input) = match &callee {
            Callee::Number(number) => {
                let digits = if trunk.plus { number.as_str() } else { number.trim_start_matches('+') };
                (format!("sip:{}{digits}@{};user=phone", trunk.prefix, trunk.domain), Vec::new())
            }
            Callee::Sip { uri, transfer } => (uri.clone(), vec![(TRANSFER_HEADER.to_owned(), transfer.0.clone())]),
            Callee::Headers { uri, .. } => (uri.clone(), entry.call.facts.input.clone()),
        };
        let own = self.endpoint.towards(&way.hop);
        let (from, more) = caller(&trunk, &entry.call.facts.intake.caller, entry.private, own);
        // What we tell GenerativeAgent ourselves stands there once, whatever the customer's INVITE lets cross.
        let is_input = |name: &str| input.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        let crossed = entry.headers.iter().filter(|(name, _)| !is_input(name)).cloned();
        let headers = crossed.chain(more).chain(input.iter().cloned()).collect();
        let dial = Dial {
            uri: &uri,
            from: &from,
            to: way.hop,
            max_forwards: entry.max_forwards,
            credentials: trunk.credentials.as_ref(),
            silence: trunk.silence,
            redirects: &trunk.redirects,
        };
        self.place(now, call, LegRole::GenerativeAgent, pair, Some((way, callee)), &dial, headers);
    }

    /// Calls one URI of a configured target. Only the table names it; of the caller nothing but a plain number shows.
    fn dial_onward(&mut self, now: Instant, call: CallRef, target: &str, member: usize, headers: Lines) {
        let settings = self.settings.clone();
        let uri = settings.call.targets.get(target).and_then(|row| row.uris.get(member));
        let endpoint = &self.endpoint;
        let to = self.targets.hop(target, member, |hop| super::speaks(endpoint, &settings, hop), &mut self.ids);
        let srtp = settings.targets.get(target).and_then(|uris| uris.get(member)).map(|reach| reach.srtp);
        let way = uri.zip(to).zip(srtp);
        let way = way.and_then(|((uri, to), srtp)| Some((uri, to, self.media_for(call, LegRole::Onward, to, srtp)?)));
        let Some((uri, to, pair)) = way else {
            let lost = LegEvent::Lost(LostCause::NoAnswer);
            return self.tell_call(now, call, CallEvent::Leg(LegRole::Onward, lost));
        };
        let Some(entry) = self.calls.get(&call) else { return };
        let first = entry.side(LegRole::Onward).pair.is_none();
        let customer = if entry.private { "anonymous" } else { shown(&entry.call.facts.intake.caller) };
        let from = format!("sip:{customer}@{}", self.endpoint.towards(&to));
        let max_forwards = entry.max_forwards;
        if first {
            self.handed_back(now, call);
        }
        let silence = Duration::ZERO;
        let credentials = settings.credentials_at(to.ip());
        let dial = Dial { uri, from: &from, to, max_forwards, credentials, silence, redirects: &[] };
        self.place(now, call, LegRole::Onward, pair, None, &dial, headers);
    }

    /// A pair for a leg that we dial there, our media address in that family, and what it does about SRTP.
    pub(super) fn media_for(
        &mut self,
        call: CallRef,
        role: LegRole,
        to: Hop,
        srtp: Srtp,
    ) -> Option<(PortPair, IpAddr, KeyExchange)> {
        let srtp = self.settings.srtp(srtp, to.transport)?;
        let family = Family::of(to.ip());
        let here = self.settings.media_address(family)?;
        Some((self.pair_for(call, role, family)?, here, KeyExchange::new(srtp)))
    }

    /// A pair of this family for another leg of the call: one that it has ready, else one of the pool. The last one that
    /// is ready is the onward leg's, whatever else is dialled before.
    fn pair_for(&mut self, call: CallRef, role: LegRole, family: Family) -> Option<PortPair> {
        let entry = self.calls.get_mut(&call)?;
        let kept = usize::from(role != LegRole::Onward);
        let fits = |spare: &PortPair| spare.family == family;
        match entry.spare_pairs.iter().position(fits).filter(|_| entry.spare_pairs.len() > kept) {
            Some(at) => Some(entry.spare_pairs.remove(at)),
            None => self.ports.lend_near(entry.worker, family, call, &mut self.ids),
        }
    }

    /// Sends the INVITE of a new leg, with the customer's audio described in it.
    #[expect(clippy::too_many_arguments, reason = "a leg is made of this much, once")]
    pub(super) fn place(
        &mut self,
        now: Instant,
        call: CallRef,
        role: LegRole,
        (pair, here, keys): (PortPair, IpAddr, KeyExchange),
        way: Option<(Way, Callee)>,
        dial: &Dial<'_>,
        headers: Lines,
    ) {
        let audio = self.audio_towards(call, role);
        let negotiation = self.negotiation(SocketAddr::new(here, pair.port), None, keys);
        let material = Material { headers, body: None, audio, keyring: None };
        self.next_leg += 1;
        let id = LegId(self.next_leg);
        let mut out = Vec::new();
        let mut s = surroundings(&mut self.ids, &self.endpoint, self.base, &self.settings, &mut out);
        let (leg, tag) = Leg::dial(dial, negotiation, &material, &mut s);
        self.add_leg(id, leg, tag, role, call, pair);
        self.legs.entry(id).and_modify(|entry| (entry.way, entry.callee) = way.unzip());
        self.take_side(call, role, id, pair);
        self.work.extend(out.into_iter().map(|wanted| (id, wanted)));
        self.work_off(now);
    }

    fn abandon(&mut self, now: Instant, call: CallRef, role: LegRole) {
        let Some(id) = self.calls.get_mut(&call).and_then(|entry| entry.side_mut(role).leg.take()) else { return };
        if role == LegRole::Onward {
            self.onward_changed(call);
        }
        self.dismiss(now, id);
    }

    /// Hangs up a leg that is no side of its call any more.
    pub(super) fn dismiss(&mut self, now: Instant, id: LegId) {
        let hang_up = LegCommand::HangUp(crate::leg::Cause::NORMAL);
        self.with_leg(id, |leg, s| leg.command(hang_up, &Material::default(), s));
        self.work_off(now);
    }

    // --- what an operator should know ---

    /// Each class of trouble is complained about when it begins, and again when it has been quiet for a while.
    fn fell_back(&mut self, now: Instant, call: CallRef, reason: NotConnected, rung: &'static str) {
        *self.counters.fallbacks.entry((reason, rung)).or_default() += 1;
        let last = self.complained.insert(reason, now);
        if last.is_none_or(|last| now.saturating_duration_since(last) >= COMPLAIN_AGAIN) {
            tracing::warn!(call = %call, rung, "fallback: {}", reason.as_str());
        }
    }

    // --- ASAPP ---

    /// Keeps a trunk ready for the call's next attempt.
    fn reserve(&mut self, now: Instant, call: CallRef) -> Result<(), NoWay> {
        let entry = self.calls.get_mut(&call).ok_or(NoWay::Down)?;
        let reserved = self.trunks.reserve(now, &mut entry.route, &mut self.ids);
        if let Err(why) = reserved {
            let word = if why == NoWay::Down { "trunks_down" } else { "trunks_full" };
            *self.counters.rejected.entry(word).or_default() += 1;
        }
        reserved
    }

    fn create(&mut self, now: Instant, call: CallRef, transfer: TransferId, deadline: Instant) {
        let Some(entry) = self.calls.get(&call) else { return };
        let operation = ApiOperation::Create(Box::new(entry.call.facts.wanted(&transfer)));
        // The rate is looked at first: a probe of the breaker that is then shed would keep it open.
        let withheld = match self.reserve(now, call) {
            Err(_) => FailureClass::NoTrunk,
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
        let failed = reply.answer.as_ref().err().map(|failure| failure.class);
        *self.counters.api.entry((operation, failed.map_or("ok", FailureClass::as_str))).or_default() += 1;
        match failed {
            Some(FailureClass::Unauthorized) => self.counters.credentials_refused = 1,
            Some(class) if class.is_trouble() => {}
            _ => self.counters.credentials_refused = 0,
        }
        let trouble = reply.answer.as_ref().err().is_some_and(|failure| failure.class.is_trouble());
        if !trouble {
            self.breaker.succeeded();
        } else if reply.created && self.breaker.failed(now) {
            self.counters.breaker_openings += 1;
            warn!("ASAPP's API does not answer: circuit breaker open, calls go to the fallback");
        }
    }

    // --- media ---

    /// The relay learns where the far side of a leg is; the watch on it rests while it holds. A leg may outlive its call,
    /// whose pairs are somebody else's then.
    pub(super) fn remote_changed(&mut self, id: LegId) {
        let Some(entry) = self.legs.get_mut(&id) else { return };
        let Some(audio) = entry.leg.remote().filter(|_| self.ports.has(entry.call, entry.pair)) else { return };
        let pair = entry.pair;
        if entry.keys.as_ref() != entry.leg.keys() {
            // Before its far side is expected: nobody is learned whose packets do not authenticate.
            entry.keys = entry.leg.keys().cloned();
            self.outputs.push_back(Output::Media(MediaCommand::Secure { pair, keys: entry.keys.clone() }));
        }
        if let (Some(rtp), Some(rtcp)) = (audio.rtp, audio.rtcp) {
            let signalled = entry.signalled();
            self.outputs.push_back(Output::Media(MediaCommand::Expect { pair, rtp, rtcp, signalled }));
        }
        let (held, listens) = (audio.is_held(), audio.listens());
        let (call, customer) = (entry.call, entry.role == LegRole::Customer);
        let types = entry.leg.telephone_events().map(|(hears, told)| EventTypes { hears, told });
        self.outputs.push_back(Output::Media(MediaCommand::Hold { pair, held: !listens }));
        self.outputs.push_back(Output::Media(MediaCommand::Events { pair, types }));
        self.agree(id);
        if held {
            self.watch(id, None);
        } else if self.calls.get(&call).is_some_and(|call| call.call.facts.answered.is_some()) {
            self.watch(id, Some(self.settings.media_timeout));
        }
        if customer {
            self.sound_again(call);
        }
        self.cover(call);
    }

    /// The relay learns the only law that a leg hears, once it is agreed on: who was answered in one law may not listen for
    /// the other that it offered (RFC 3264 section 7).
    fn agree(&mut self, id: LegId) {
        let Some(entry) = self.legs.get_mut(&id) else { return };
        let law = entry.leg.audio_for_other().and_then(|audio| audio.only_law()).map(law);
        if self.ports.has(entry.call, entry.pair) && std::mem::replace(&mut entry.law, law) != law {
            self.outputs.push_back(Output::Media(MediaCommand::Law { pair: entry.pair, law }));
        }
    }

    /// The relay watches anew: what it said of this leg's silence before does not count, and it will not take it back.
    fn watch(&mut self, id: LegId, limit: Option<Duration>) {
        let Some(entry) = self.legs.get_mut(&id) else { return };
        entry.silent = false;
        self.outputs.push_back(Output::Media(MediaCommand::Watch { pair: entry.pair, limit }));
    }

    /// Whoever talks with somebody who holds hears a sound of ours meanwhile (flow M6). So does a customer, unless the
    /// other side has a sound for him (`sendonly`), or he hears one of ours already.
    fn cover(&mut self, call: CallRef) {
        let Some(entry) = self.calls.get(&call) else { return };
        let [customer, far] = [LegRole::Customer, entry.far()].map(|role| entry.side(role).leg);
        let leg = |id: Option<LegId>| id.and_then(|id| self.legs.get(&id)).filter(|leg| !leg.over);
        let audio = |id| leg(id).and_then(|leg| leg.leg.remote());
        let holds = audio(customer).is_some_and(|audio| audio.is_held());
        let mute = entry.sound.is_none() && audio(far).is_some_and(|audio| !audio.sends());
        self.cover_leg(far, holds);
        self.cover_leg(customer, mute);
    }

    fn cover_leg(&mut self, id: Option<LegId>, covered: bool) {
        let Some(leg) = id.and_then(|id| self.legs.get_mut(&id)).filter(|leg| !leg.over) else { return };
        let law = law_of(&leg.leg).filter(|_| covered);
        if std::mem::replace(&mut leg.covered, law) != law {
            let sound = law.map(|law| (Sound::Hold, law));
            self.outputs.push_back(Output::Media(MediaCommand::Cover { pair: leg.pair, sound }));
        }
    }

    pub(super) fn connect(&mut self, call: CallRef, with: LegRole, watched: bool) {
        let legs = [LegRole::Customer, with].map(|role| self.leg_of(call, role));
        let pairs = legs.map(|leg| self.open_pair(leg));
        if let Some(entry) = self.calls.get_mut(&call) {
            entry.sound = None;
        }
        let [Some(customer), Some(far)] = pairs else { return };
        self.outputs.push_back(Output::Media(MediaCommand::Bridge(customer, far)));
        for leg in legs.into_iter().flatten().filter(|_| watched) {
            self.watch(leg, Some(self.settings.media_timeout));
        }
        self.cover(call);
    }

    /// What plays already plays on. An announcement that cannot be said is over at once.
    fn play(&mut self, now: Instant, call: CallRef, sound: Sound) {
        if let Some(entry) = self.calls.get_mut(&call).filter(|entry| entry.sound.is_none_or(|(now, _)| now != sound)) {
            entry.sound = Some((sound, None));
        }
        self.cover(call);
        self.sound_again(call);
        if self.calls.get(&call).is_some_and(|entry| entry.sound == Some((Sound::Announcement, None))) {
            self.tell_call(now, call, CallEvent::Played);
        }
    }

    /// An announcement has been heard to its end.
    pub(super) fn played(&mut self, now: Instant, pair: PortPair) {
        let Some(call) = self.ports.owner(pair) else { return };
        let announced = |entry: &CallEntry| matches!(entry.sound, Some((Sound::Announcement, _)));
        if self.calls.get(&call).is_some_and(announced) {
            self.tell_call(now, call, CallEvent::Played);
        }
    }

    /// Says our own sound to the relay where that has not been done in the law that the customer speaks now: a customer
    /// without an offer speaks none before its ACK.
    fn sound_again(&mut self, call: CallRef) {
        let Some(entry) = self.calls.get_mut(&call) else { return };
        let Some(leg) = entry.side(LegRole::Customer).leg.and_then(|id| self.legs.get(&id)) else { return };
        let Some((sound, said)) = entry.sound else { return };
        let law = law_of(&leg.leg);
        if let (Some(law), false) = (law.filter(|law| said != Some(*law)), leg.over) {
            entry.sound = Some((sound, Some(law)));
            self.outputs.push_back(Output::Media(MediaCommand::Play { pair: leg.pair, sound, law }));
        }
    }

    /// The first RTP has come to this pair.
    pub(super) fn heard(&mut self, now: Instant, pair: PortPair) {
        let Some(call) = self.ports.owner(pair) else { return };
        let Some(entry) = self.calls.get(&call) else { return };
        let role = LegRole::ALL.into_iter().find(|role| entry.side(*role).pair == Some(pair));
        if let Some(role) = role {
            self.tell_call(now, call, CallEvent::Heard(role));
        }
    }

    /// A key was pressed on the far side of this pair.
    pub(super) fn pressed(&mut self, now: Instant, pair: PortPair, digit: Digit) {
        let Some(call) = self.ports.owner(pair) else { return };
        let Some(entry) = self.calls.get(&call) else { return };
        let role = LegRole::ALL.into_iter().find(|role| entry.side(*role).pair == Some(pair));
        if let Some(role) = role {
            self.tell_call(now, call, CallEvent::Pressed(role, digit));
        }
    }

    /// The relay takes telephone events to whoever hears them, and makes one of what came by INFO; to everybody else an
    /// INFO goes.
    fn pass(&mut self, now: Instant, call: CallRef, role: LegRole, press: Press) {
        let Some(id) = self.leg_of(call, role) else { return };
        let Some(entry) = self.legs.get(&id).filter(|entry| !entry.over) else { return };
        let (pair, hears_events) = (entry.pair, entry.leg.telephone_events().is_some());
        match press {
            Press::Heard(_) if hears_events => {}
            Press::Told(digit, _) if hears_events => {
                self.outputs.push_back(Output::Media(MediaCommand::Press { pair, digit }));
            }
            Press::Heard(digit) => {
                self.with_leg(id, |leg, s| leg.command(LegCommand::Inform(digit.info()), &Material::default(), s));
                self.work_off(now);
            }
            Press::Told(_, info) => self.command(now, call, role, LegCommand::Inform(info), Carry::default()),
        }
    }

    pub(super) fn silence(&mut self, now: Instant, pair: PortPair, silent: bool) {
        let Some(call) = self.ports.owner(pair) else { return };
        let Some(entry) = self.calls.get(&call) else { return };
        let legs = [entry.side(LegRole::Customer).leg, entry.side(entry.far()).leg];
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

    pub(super) fn close_all_media(&mut self, pair: PortPair, spares: Spares, call: CallRef) {
        for pair in [pair].into_iter().chain(spares) {
            self.close_media(pair, call);
        }
    }

    /// A leg that has spoken its last word needs its pair no more. Where nobody was ever expected on it, nothing has to
    /// drain: the call has it ready for the next leg.
    fn leg_parts_with(&mut self, id: LegId) {
        let Some(entry) = self.legs.get(&id) else { return };
        let (role, call, pair) = (entry.role, entry.call, entry.pair);
        let untouched = role != LegRole::Customer && entry.leg.remote().is_none() && self.ports.has(call, pair);
        match self.calls.get_mut(&call).filter(|call| untouched && call.record.is_none()) {
            Some(call) => {
                call.spare_pairs.push(pair);
                let side = call.side_mut(role);
                side.pair.take_if(|lent| *lent == pair);
            }
            None => self.close_media(pair, call),
        }
    }

    /// Closes a pair that is still this call's. A leg may speak its last word long after its call has ended.
    pub(super) fn close_media(&mut self, pair: PortPair, call: CallRef) {
        if self.ports.take_back(pair, call) {
            self.outputs.push_back(Output::Media(MediaCommand::Close(pair)));
        }
    }

    pub(super) fn media_counted(&mut self, pair: PortPair, counters: MediaCounters) {
        let Some(call) = self.ports.owner(pair) else { return };
        let Some(entry) = self.calls.get_mut(&call) else { return };
        if let Some(side) = entry.sides.iter_mut().find(|side| side.pair == Some(pair)) {
            side.so_far = Some(counters);
        }
    }

    pub(super) fn media_closed(&mut self, pair: PortPair, counters: MediaCounters) {
        let Some(call) = self.ports.owner(pair) else { return };
        let Entry::Occupied(mut entry) = self.calls.entry(call) else { return };
        if let Some(side) = entry.get_mut().sides.iter_mut().find(|side| side.pair == Some(pair)) {
            side.media = Some(counters);
        }
        self.write_if_counted(call);
    }

    pub(super) fn write_if_counted(&mut self, call: CallRef) {
        let counted = |entry: &CallEntry| {
            let known = entry.record.is_some() && !entry.awaits_recording();
            known && entry.sides.iter().all(|side| side.media.is_some() || side.pair.is_none())
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
        self.left(call);
        self.learn(now, &record, &caller);
        let Some(entry) = self.calls.get_mut(&call) else { return };
        entry.record = Some(record);
        self.trunks.release(&mut entry.route);
        let spares = std::mem::take(&mut entry.spare_pairs);
        let pairs = entry.sides.map(|side| side.pair);
        for pair in pairs.into_iter().flatten().chain(spares) {
            self.close_media(pair, call);
        }
        self.end_recording(call);
        self.stop_timers(call);
        self.timers.stop(TimerKey::Call(call, CallTimer::SuccessorLimit));
        self.timers.start(TimerKey::Record(call), now + COUNTERS_LIMIT);
        self.write_if_counted(call);
    }

    pub(super) fn write_record(&mut self, call: CallRef) {
        self.timers.stop(TimerKey::Record(call));
        let Some(mut entry) = self.calls.remove(&call) else { return };
        let Some(mut record) = entry.record.take() else { return };
        record.recording = entry.take_recording();
        record.customer_media = entry.side(LegRole::Customer).media;
        record.genagent_media = entry.side(LegRole::GenerativeAgent).media;
        record.onward_media = entry.side(LegRole::Onward).media;
        *self.counters.outcomes.entry(record.verdict.outcome).or_default() += 1;
        // Who was answered after the verdict has talked to an onward leg and not to GenerativeAgent.
        let talked = record.answered_at.and_then(|answered| u64::try_from(record.decided_at - answered).ok());
        if let Some(talked) = talked {
            self.counters.conversation.observe(std::time::Duration::from_millis(talked));
        }
        info!(call = %call, outcome = %record.verdict.outcome, "call ended");
        self.outputs.push_back(Output::Record(record));
    }
}

/// The user of our From, and what tells the trunk who answers for the call.
fn caller(trunk: &Trunk, customer: &str, private: bool, here: SocketAddr) -> (String, Lines) {
    let own = format!("sip:{}@{here}", trunk.caller_id);
    let digits = customer.strip_prefix('+').unwrap_or(customer);
    let is_number = (3..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    match trunk.caller {
        Caller::Passthrough if is_number && !private => {
            let diversion = ("Diversion".to_owned(), format!("<{own}>;reason=unconditional"));
            (format!("sip:{customer}@{here}"), vec![diversion])
        }
        Caller::Passthrough | Caller::Own => (own, Vec::new()),
    }
}

/// What a leg and we agreed on; without G.711 in it there is nothing we can say.
fn law_of(leg: &Leg) -> Option<Law> {
    leg.audio_for_other().and_then(|audio| audio.g711()).map(law)
}

fn law(law: G711) -> Law {
    match law {
        G711::Mu => Law::Mu,
        G711::A => Law::A,
    }
}

/// Hops that an INVITE of ours may take because of this one (flow T17); `None`: it has come round often enough.
pub(super) fn hops_left(invite: &Message) -> Option<u8> {
    invite.max_forwards().map_or(Some(MAX_FORWARDS), |hops| Some(hops.checked_sub(1)?.min(MAX_FORWARDS)))
}

/// The caller's number as another network may see it: plain, or not at all.
pub(super) fn shown(caller: &str) -> &str {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.' | b'_');
    if !caller.is_empty() && caller.len() <= 64 && caller.bytes().all(plain) { caller } else { "anonymous" }
}

/// One word for the log.
fn event_word(event: &CallEvent) -> &'static str {
    match event {
        CallEvent::Leg(_, LegEvent::Invited(_)) => "invited",
        CallEvent::Leg(_, LegEvent::Progressed { .. }) => "progressed",
        CallEvent::Leg(_, LegEvent::Answered) => "answered",
        CallEvent::Leg(_, LegEvent::Reoffered) => "reoffered",
        CallEvent::Leg(_, LegEvent::Informed(_)) => "informed",
        CallEvent::Leg(_, LegEvent::TransferProgressed(_)) => "transfer progressed",
        CallEvent::Leg(_, LegEvent::TransferAsked(_)) => "transfer asked",
        CallEvent::Leg(LegRole::Customer, LegEvent::HungUp { .. }) => "customer hung up",
        CallEvent::Leg(LegRole::GenerativeAgent, LegEvent::HungUp { .. }) => "GenerativeAgent hung up",
        CallEvent::Leg(LegRole::Onward, LegEvent::HungUp { .. }) => "the onward leg hung up",
        CallEvent::Leg(LegRole::Successor, LegEvent::HungUp { .. }) => "the successor hung up",
        CallEvent::Leg(_, LegEvent::Refused { .. }) => "refused",
        CallEvent::Leg(_, LegEvent::Lost(_)) => "lost",
        CallEvent::WayFailed(_) => "way failed",
        CallEvent::Reserved(..) => "reserved",
        CallEvent::Created(..) => "created",
        CallEvent::Fetched(..) => "fetched",
        CallEvent::Returned(..) => "returned",
        CallEvent::Advised(..) => "advised",
        CallEvent::Heard(_) => "heard",
        CallEvent::ChangedHands => "changed hands",
        CallEvent::Pressed(..) => "key pressed",
        CallEvent::MediaDead => "media dead",
        CallEvent::Played => "played",
        CallEvent::Timer(_) => "timer",
        CallEvent::PulledBack => "pulled back",
        CallEvent::Ended => "ended by an operator",
        CallEvent::Stopped => "stopped",
    }
}
