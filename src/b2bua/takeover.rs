//! A customer's leg changes: somebody asks for its place (INVITE with Replaces, RFC 3891), or its peer wants somebody else
//! to be called in its place (REFER, RFC 3515). Policy is looked at here; the call agrees or not.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::act::shown;
use super::io::PortPair;
use super::settings::Returns;
use super::transactions::LegId;
use super::{B2bua, surroundings};
use crate::call::CallRef;
use crate::call::event::CallEvent;
use crate::leg::keys::KeyExchange;
use crate::leg::uac::Dial;
use crate::leg::{Leg, LegCommand, LegEvent, LegRole, LostCause, Material, Out, Referral, Standing};
use crate::sip::hop::{Hop, Transport};
use crate::sip::message::Message;
use crate::sip::refer::Replaces;
use crate::sip::transaction::key::ServerKey;
use crate::sip::value::Uri;

impl B2bua {
    /// The call whose customer leg this INVITE may ask for, or the status that refuses it (RFC 3891 section 3).
    pub(super) fn sought(&self, replaces: &Replaces) -> Result<CallRef, u16> {
        let id = self.tags.get(&replaces.to_tag).ok_or(481_u16)?;
        let entry = self.legs.get(id).ok_or(481_u16)?;
        match entry.leg.standing(replaces) {
            Standing::Other | Standing::Calling => return Err(481),
            Standing::Over => return Err(603),
            Standing::Open { confirmed: true } if replaces.early_only => return Err(486),
            Standing::Open { .. } => {}
        }
        let call = self.calls.get(&entry.call).filter(|call| call.record.is_none()).ok_or(603_u16)?;
        match (call.side(LegRole::Customer).leg, call.side(LegRole::Successor).leg) {
            (Some(customer), _) if customer != *id => Err(603),
            (None, _) => Err(603),
            (_, Some(other)) if self.legs.get(&other).is_some_and(|other| !other.over) => Err(491),
            _ => Ok(entry.call),
        }
    }

    /// Somebody else wants to be the customer's leg: a leg of its own, and the call is asked.
    pub(super) fn succeeded(&mut self, now: Instant, origin: Hop, invite: &Message, key: ServerKey, call: CallRef) {
        if let Some((id, pair, out)) = self.admitted_to(now, origin, invite, key, call, LegRole::Successor) {
            self.take_side(call, LegRole::Successor, id, pair);
            self.remote_changed(id);
            self.work.extend(out.into_iter().map(|wanted| (id, wanted)));
            self.work_off(now);
        }
    }

    /// A leg of this call for an INVITE, with a pair of its own; no side of it yet. One that cannot be is refused.
    pub(super) fn admitted_to(
        &mut self,
        now: Instant,
        origin: Hop,
        invite: &Message,
        key: ServerKey,
        call: CallRef,
        role: LegRole,
    ) -> Option<(LegId, PortPair, Vec<Out>)> {
        let worker = self.calls.get(&call)?.worker;
        let (offer, here, keys) = match self.offered(origin, invite) {
            Ok(offered) => offered,
            Err(refusal) => {
                self.open(origin, invite, &key, None);
                self.answer_open(now, invite, &key, refusal);
                return None;
            }
        };
        let Some(pair) = self.ports.lend_near(worker, crate::sdp::Family::of(here), call, &mut self.ids) else {
            self.unavailable(now, origin, invite, "ports");
            return None;
        };
        self.next_leg += 1;
        let id = LegId(self.next_leg);
        self.open(origin, invite, &key, Some(id));
        let negotiation = self.negotiation(SocketAddr::new(here, pair.port), offer, keys);
        let mut out = Vec::new();
        let mut s = surroundings(&mut self.ids, &self.endpoint, self.base, &self.settings, &mut out);
        match Leg::invited(invite, key.clone(), origin, negotiation, &mut s) {
            Ok((leg, tag)) => {
                self.add_leg(id, leg, tag, role, call, pair);
                self.legs.entry(id).and_modify(|entry| entry.caller = Some(origin.ip()));
                Some((id, pair, out))
            }
            Err(refusal) => {
                self.close_media(pair, call);
                self.answer_open(now, invite, &key, refusal);
                None
            }
        }
    }

    /// Whether policy lets this leg ask for a transfer: its peer as a peer of ours, for hosts that are named; GenerativeAgent
    /// by its trunk. An onward party never.
    pub(super) fn may_ask(&mut self, id: LegId, event: &LegEvent) -> bool {
        let (Some(leg), LegEvent::TransferAsked(referral)) = (self.legs.get(&id), event) else { return false };
        if self.calls.get(&leg.call).is_none_or(|call| call.record.is_some()) {
            return false;
        }
        match leg.role {
            LegRole::Customer => leg.peer().is_some_and(|peer| self.referred(peer, referral).is_some()),
            LegRole::GenerativeAgent => leg.way.is_some_and(|way| self.trunks.settings(way).returns == Returns::Refer),
            LegRole::Onward | LegRole::Successor => false,
        }
    }

    pub(super) fn decline(&mut self, now: Instant, id: LegId) {
        self.with_leg(id, |leg, s| leg.command(LegCommand::Decline, &Material::default(), s));
        self.work_off(now);
    }

    /// Where a REFER of this peer leads, if it may lead there: an INVITE to a host that is named for the peer, and not to
    /// ourselves.
    pub(super) fn referred(&mut self, peer: IpAddr, referral: &Referral) -> Option<Hop> {
        let uri = Uri::read(&referral.uri).filter(|uri| referral.invites && uri.is_sip())?;
        let host = uri.host.trim_matches(['[', ']']);
        let mut peers = self.settings.peers_at(peer).filter(|peer| peer.accept_refer);
        let named = peers.any(|peer| peer.refer_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host)));
        let (settings, endpoint) = (self.settings.clone(), &self.endpoint);
        let speaks = |hop: &Hop| super::speaks(endpoint, &settings, hop);
        let found = self.referred_hosts.hop(&host.to_ascii_lowercase(), 0, speaks, &mut self.ids).filter(|_| named)?;
        let wanted = Transport::of_uri(&uri).unwrap_or(found.transport);
        let port =
            uri.port.unwrap_or(if wanted == found.transport { found.peer.port() } else { wanted.default_port() });
        let hop = Hop::new(wanted, SocketAddr::new(found.ip(), port));
        let ours = self.endpoint.listeners.iter().any(|(_, address)| *address == hop.peer);
        (speaks(&hop) && !ours && uri.params.get("maddr").is_none()).then_some(hop)
    }

    /// Calls whom the customer's side named, in its place.
    pub(super) fn call_successor(&mut self, now: Instant, call: CallRef, referral: &Referral) {
        let peer = self.leg_of(call, LegRole::Customer).and_then(|id| self.legs.get(&id)?.peer());
        let hop = peer.and_then(|peer| self.referred(peer, referral));
        let ready = hop.and_then(|hop| Some((hop, self.media_for(call, LegRole::Successor, hop, self.settings.srtp)?)));
        let (Some((to, media)), Some(entry)) = (ready, self.calls.get(&call)) else {
            let lost = LegEvent::Lost(LostCause::NoAnswer);
            return self.tell_call(now, call, CallEvent::Leg(LegRole::Successor, lost));
        };
        let from = if entry.private { "anonymous" } else { shown(&entry.call.facts.intake.caller) }.to_owned();
        self.call_referred(now, call, LegRole::Successor, referral, to, media, &from);
    }

    /// Calls whom a REFER named. Of its headers nothing goes along but the dialog that the new one is to replace.
    #[expect(clippy::too_many_arguments, reason = "whom, where to, with which media and as whom, once")]
    pub(super) fn call_referred(
        &mut self,
        now: Instant,
        call: CallRef,
        role: LegRole,
        referral: &Referral,
        to: Hop,
        media: (PortPair, IpAddr, KeyExchange),
        from: &str,
    ) {
        let Some(max_forwards) = self.calls.get(&call).map(|entry| entry.max_forwards) else { return };
        let from = format!("sip:{from}@{}", self.endpoint.towards(&to));
        let replaces = referral.header("Replaces").and_then(Replaces::read);
        let headers = replaces.into_iter().map(|replaces| ("Replaces".to_owned(), replaces.to_string())).collect();
        let settings = self.settings.clone();
        let dial = Dial {
            uri: &referral.uri,
            from: &from,
            to,
            max_forwards,
            credentials: settings.credentials_at(to.ip()),
            silence: Duration::ZERO,
            redirects: &[],
        };
        self.place(now, call, role, media, None, &dial, headers);
        if let Some(id) = self.leg_of(call, role) {
            self.legs.entry(id).and_modify(|leg| leg.reached = Some(to.ip()));
        }
    }

    /// The successor, where it could be answered, is the customer's leg from now on: it hears what that one heard, and
    /// that one is hung up and heard no more.
    pub(super) fn change_hands(&mut self, now: Instant, call: CallRef) {
        let Some(entry) = self.calls.get_mut(&call) else { return };
        let successor = *entry.side(LegRole::Successor);
        let Some(id) = successor.leg.filter(|id| self.legs.get(id).is_some_and(|leg| !leg.over)) else { return };
        *entry.side_mut(LegRole::Successor) = super::Side::default();
        let old = std::mem::replace(entry.side_mut(LegRole::Customer), successor).leg;
        entry.sound = entry.sound.map(|(sound, _)| (sound, None));
        let (far, connected) = (entry.far(), entry.sound.is_none());
        self.legs.entry(id).and_modify(|leg| leg.role = LegRole::Customer);
        self.remote_changed(id);
        if connected {
            self.connect(call, far, false);
        }
        self.record_instead(call, old);
        if let Some(old) = old {
            self.dismiss(now, old);
        }
        self.tell_call(now, call, CallEvent::ChangedHands);
    }
}
