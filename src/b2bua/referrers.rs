//! A REFER outside every dialog asks us to call a customer (flow T1). Policy and room are looked at before the 202, which
//! waits for nobody; then the call begins, with a customer leg that we dial.

use std::time::Instant;

use super::act::shown;
use super::door::{AskedBy, Door, hops_left};
use super::transactions::LegId;
use super::{B2bua, surroundings};
use crate::call::CallRef;
use crate::leg::keys::KeyExchange;
use crate::leg::subscription::Subscription;
use crate::leg::{Invitation, LegRole, Referral, Surroundings};
use crate::sdp::Family;
use crate::sip::hop::Hop;
use crate::sip::message::Message;
use crate::sip::refer::Replaces;
use crate::sip::transaction::key::ServerKey;

/// Who asked, and wants to be told.
#[derive(Debug)]
pub(super) struct Referrer {
    subscription: Subscription,
    pub tag: String,
}

impl B2bua {
    /// A peer asks for a call outside every dialog: 202, or the status that refuses it.
    pub(super) fn asked_outside(&mut self, now: Instant, origin: Hop, refer: &Message, key: ServerKey) {
        if !self.settings.peers_at(origin.ip()).any(|peer| peer.accept_refer) {
            return self.answer_once(now, origin, refer, 603);
        }
        let Some(max_forwards) = hops_left(refer) else {
            *self.counters.rejected.entry("hops").or_default() += 1;
            return self.answer_once(now, origin, refer, 483);
        };
        // A dialog that cannot be read is not left out: the customer would be rung beside the one that is meant.
        let names_a_dialog = |it: &Referral| it.header("Replaces").is_none_or(|value| Replaces::read(value).is_some());
        let Some(referral) = Referral::read(refer).filter(names_a_dialog) else {
            return self.answer_once(now, origin, refer, 400);
        };
        let to = self.referred(origin.ip(), &referral);
        let ready = to.and_then(|to| {
            let srtp = self.settings.srtp(self.settings.srtp, to.transport)?;
            Some((to, self.settings.media_address(Family::of(to.ip()))?, KeyExchange::new(srtp)))
        });
        let Some((to, here, keys)) = ready else {
            return self.answer_once(now, origin, refer, 603);
        };
        if let Some(overloaded) = self.no_room(now, origin) {
            return self.unavailable(now, origin, refer, overloaded);
        }
        let call = CallRef(self.ids.number());
        let Some((pair, spares)) = self.lend_to(now, here, call) else {
            return self.unavailable(now, origin, refer, "ports");
        };
        let Some(referrer) = self.accept(now, origin, refer, key) else {
            self.close_all_media(pair, spares, call);
            return self.answer_once(now, origin, refer, 400);
        };
        let invitation = Invitation::referred(refer, &referral);
        let (headers, private) = self.invited_with(refer);
        // The customer's side is whom we call; what it is sent is in the form that it reads.
        let profile = self.profile_of(to.ip()).or(self.profile_of(origin.ip())).map(str::to_owned);
        let asked_by = AskedBy::Referrer(referrer);
        let door = Door { asked_by, pair, spares, max_forwards, headers, private, profile };
        self.open_call(now, call, door, &invitation);
        let from = shown(&invitation.dialled);
        self.call_referred(now, call, LegRole::Customer, &referral, to, (pair, here, keys), from);
    }

    /// Takes the REFER on: 202, and a NOTIFY at once.
    fn accept(&mut self, now: Instant, origin: Hop, refer: &Message, key: ServerKey) -> Option<LegId> {
        let keyring = self.keyring(origin.ip());
        let mut out = Vec::new();
        let mut s = surroundings(&mut self.ids, &self.endpoint, self.base, &self.settings, &mut out);
        let subscription = Subscription::begin(refer, key.clone(), origin, keyring, &mut s)?;
        self.next_leg += 1;
        let id = LegId(self.next_leg);
        self.open(origin, refer, &key, Some(id));
        let tag = subscription.local_tag().to_owned();
        self.tags.insert(tag.clone(), id);
        self.referrers.insert(id, Referrer { subscription, tag });
        self.work.extend(out.into_iter().map(|wanted| (id, wanted)));
        self.work_off(now);
        Some(id)
    }

    /// Tells who asked for this call how it goes, as long as it wants to know.
    pub(super) fn report(&mut self, now: Instant, call: CallRef, status: u16) {
        if let Some(id) = self.calls.get(&call).and_then(|entry| entry.referrer) {
            self.with_referrer(id, |it, s| it.tell(status, s));
            self.work_off(now);
        }
    }

    /// Steps a referrer, if this is one, and keeps what it wants for `work_off`.
    pub(super) fn with_referrer(&mut self, id: LegId, step: impl FnOnce(&mut Subscription, &mut Surroundings<'_>)) {
        let Some(entry) = self.referrers.get_mut(&id) else { return };
        let mut out = Vec::new();
        let mut s = surroundings(&mut self.ids, &self.endpoint, self.base, &self.settings, &mut out);
        step(&mut entry.subscription, &mut s);
        self.work.extend(out.into_iter().map(|wanted| (id, wanted)));
    }
}
