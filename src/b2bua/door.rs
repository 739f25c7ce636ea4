//! A customer is at the door: what is looked at before there is a call, and how one begins.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use super::headers::Lines;
use super::io::PortPair;
use super::transactions::LegId;
use super::trunks::Route;
use super::{B2bua, CallEntry, LegEntry, Side, surroundings};
use crate::call::CallRef;
use crate::call::event::CallAction;
use crate::call::intake::Intake;
use crate::call::record::Epoch;
use crate::call::settings::CallSettings;
use crate::call::state::Call;
use crate::leg::keys::KeyExchange;
use crate::leg::negotiation::{Negotiation, offer_of};
use crate::leg::{Invitation, Leg, LegEvent, LegRole, Out, Refusal};
use crate::sdp::{Family, Session};
use crate::sip::hop::Hop;
use crate::sip::message::Message;
use crate::sip::transaction::key::ServerKey;

/// Hops that our own requests may take (RFC 3261 section 8.1.1.6).
const MAX_FORWARDS: u8 = 70;

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
            pressed: super::audio::Pressed::default(),
            said: None,
            over: false,
        };
        self.legs.insert(id, Box::new(entry));
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
        self.calls.insert(reference, Box::new(entry));
        if customer.is_some() {
            self.entered(reference);
        }
        self.act(now, reference, actions);
    }
}

/// Hops that an INVITE of ours may take because of this one (flow T17); `None`: it has come round often enough.
pub(super) fn hops_left(invite: &Message) -> Option<u8> {
    invite.max_forwards().map_or(Some(MAX_FORWARDS), |hops| Some(hops.checked_sub(1)?.min(MAX_FORWARDS)))
}
