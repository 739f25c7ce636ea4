//! A customer's leg changes: somebody asks for its place (INVITE with Replaces, RFC 3891), and the call agrees or not.

use std::net::SocketAddr;
use std::time::Instant;

use super::B2bua;
use super::transactions::LegId;
use crate::call::CallRef;
use crate::leg::{Leg, LegRole, Standing, Surroundings};
use crate::sip::hop::Hop;
use crate::sip::message::Message;
use crate::sip::refer::Replaces;
use crate::sip::transaction::key::ServerKey;

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
        let (offer, here) = match self.offered(origin, invite) {
            Ok(offered) => offered,
            Err(refusal) => {
                self.open(origin, invite, &key, None);
                return self.answer_open(now, invite, &key, refusal);
            }
        };
        let Some(worker) = self.calls.get(&call).map(|entry| entry.worker) else { return };
        let Some(pair) = self.ports.lend_near(worker, crate::sdp::Family::of(here), call, &mut self.ids) else {
            return self.unavailable(now, origin, invite, "ports");
        };
        self.next_leg += 1;
        let id = LegId(self.next_leg);
        self.open(origin, invite, &key, Some(id));
        let negotiation = self.negotiation(SocketAddr::new(here, pair.port), offer);
        let mut out = Vec::new();
        let session = self.settings.session;
        let mut s =
            Surroundings { ids: &mut self.ids, endpoint: &self.endpoint, base: self.base, session, out: &mut out };
        match Leg::invited(invite, key.clone(), origin, negotiation, &mut s) {
            Ok((leg, tag)) => {
                self.add_leg(id, leg, tag, LegRole::Successor, call, pair);
                self.legs.entry(id).and_modify(|entry| entry.caller = Some(origin.ip()));
                self.take_side(call, LegRole::Successor, id, pair);
                self.remote_changed(id);
                self.work.extend(out.into_iter().map(|wanted| (id, wanted)));
                self.work_off(now);
            }
            Err(refusal) => {
                self.close_media(pair, call);
                self.answer_open(now, invite, &key, refusal);
            }
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
        if let Some(old) = old {
            self.dismiss(now, old);
        }
        self.tell_call(now, call, crate::call::event::CallEvent::ChangedHands);
    }
}
