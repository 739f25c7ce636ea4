//! What legs and calls want, done: intents become messages with numbers, headers and session descriptions.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{debug, info, warn};

use super::headers::Lines;
use super::io::{
    ApiFailure, ApiOperation, ApiReply, ApiRequest, Datagram, Digit, FailureClass, Output, PortPair, Transport,
};
use super::limiter::Priority;
use super::settings::{Caller, Srtp, Trunk};
use super::transactions::{Holder, LegId};
use super::trunks::{NoWay, Way};
use super::{B2bua, COUNTERS_LIMIT, TimerKey, surroundings};
use crate::call::context::{Carry, PublishedContext};
use crate::call::event::{CallAction, CallEvent, CallTimer};
use crate::call::record::CallRecord;
use crate::call::ticket::{Callee, DialTicket};
use crate::call::verdict::NotConnected;
use crate::call::{CallRef, TransferId};
use crate::leg::keys::KeyExchange;
use crate::leg::uac::Dial;
use crate::leg::{Leg, LegCommand, LegEvent, LegRole, LegTimer, LostCause, Material, Out, Side};
use crate::sdp::{Audio, Family};
use crate::sip::digest::Keyring;
use crate::sip::hop::Hop;
use crate::sip::transaction::key::ClientKey;

/// A class of trouble that is complained about again was quiet for so long.
const COMPLAIN_AGAIN: Duration = Duration::from_secs(60);
/// Octets of a request that reach everybody in one datagram (RFC 3261 section 18.1.1).
const MTU_SAFE: usize = 1_300;

/// Legs of one customer whose Call-IDs lead to the context.
const MAX_CALL_IDS: usize = 16;
/// Which call transfer a call to GenerativeAgent's SIP URI is.
const TRANSFER_HEADER: &str = "X-ASAPP-CallTransferId";

impl B2bua {
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
        if !current || !self.is_news(now, id, &event) {
            return;
        }
        match self.failed_over(now, id, &event) {
            Some(how) => self.tell_call(now, call, CallEvent::WayFailed(how)),
            None => self.tell_call(now, call, CallEvent::Leg(role, event)),
        }
    }

    /// Whether the call is to hear of it: a key may have come another way already.
    fn is_news(&mut self, now: Instant, id: LegId, event: &LegEvent) -> bool {
        let LegEvent::Informed(info) = event else { return true };
        let (Some(digit), Some(leg)) = (Digit::in_info(info), self.legs.get_mut(&id)) else { return true };
        leg.pressed.by_info(now, digit)
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

    /// Nothing at all has come back: a trunk is given up where there is another way, and what it still answers is ended
    /// inside its leg; of a target the call decides.
    fn leg_silent(&mut self, now: Instant, id: LegId) {
        let Some((way, role, call)) = self.legs.get(&id).map(|leg| (leg.way, leg.role, leg.call)) else { return };
        let current = self.leg_of(call, role) == Some(id);
        if let Some(way) = way {
            self.trunks.silent(now, way);
            if !(current && self.another_way(now, call)) {
                return;
            }
            self.abandon(now, call, role);
        }
        if current {
            self.tell_call(now, call, CallEvent::WayFailed("silent".to_owned()));
        }
    }

    /// A way that was given up shows a sign of connection. Its number may be somebody else's any moment: where nothing
    /// has been heard of it on the way taken instead, no further INVITE leaves there either, and a fresh one is due.
    fn number_spent(&mut self, now: Instant, id: LegId) {
        let Some((call, callee)) = self.legs.get(&id).map(|leg| (leg.call, leg.callee.clone())) else { return };
        let current = self.leg_of(call, LegRole::GenerativeAgent).filter(|current| *current != id);
        let instead = current.and_then(|current| self.legs.get(&current));
        if instead.is_some_and(|leg| leg.callee == callee && !leg.heard && !leg.over) {
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

    pub(super) fn command(&mut self, now: Instant, call: CallRef, role: LegRole, command: LegCommand, carry: Carry) {
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
        let row = settings.call.targets.get(target);
        let silence = row.map_or(Duration::ZERO, |row| row.silence);
        let uri = row.and_then(|row| row.uris.get(member));
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
        let Some((leg, tag)) = Leg::dial(dial, negotiation, &material, &mut s) else {
            info!(%call, leg = ?role, "its INVITE would be longer than a message may be");
            self.calls.entry(call).and_modify(|entry| entry.spare_pairs.push(pair));
            return self.tell_call(now, call, CallEvent::Leg(role, LegEvent::Lost(LostCause::NoAnswer)));
        };
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
        CallEvent::Leg(_, LegEvent::HungUp { by: Side::Us, .. }) => "we hung up",
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
