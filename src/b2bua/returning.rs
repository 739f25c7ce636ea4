//! GenerativeAgent brings a customer back by an INVITE of its own: to a URI that only this transfer has, from where we call
//! GenerativeAgent. Its leg is no side of the call: it is answered, for that is what it waits for, and hung up.

use std::time::Instant;

use super::B2bua;
use super::transactions::LegId;
use crate::call::event::CallEvent;
use crate::call::settings::{Return, WayIn};
use crate::call::{CallRef, TransferId};
use crate::leg::{Cause, LegCommand, LegEvent, LegRole, Material, Out};
use crate::sip::hop::Hop;
use crate::sip::message::Message;
use crate::sip::transaction::key::ServerKey;

impl B2bua {
    /// Whose customer an INVITE says that it brings back, where it comes from a trunk. It is no customer's call then,
    /// whomever it names.
    pub(super) fn brings_back(&self, origin: Hop, invite: &Message) -> Option<TransferId> {
        let WayIn::Sip { returns: Return::Invite(uri), .. } = &self.settings.call.way_in else { return None };
        self.trunks.settings_at(origin.ip())?;
        uri.transfer(&invite.target()?.user_name()?)
    }

    /// The call is asked. What it does not want has come to nobody (RFC 3261 section 21.4.5).
    pub(super) fn returned(
        &mut self,
        now: Instant,
        origin: Hop,
        invite: &Message,
        key: ServerKey,
        transfer: TransferId,
    ) {
        let Some(call) = transfer.call().filter(|call| self.is_under_way(*call, &transfer)) else {
            return self.answer_once(now, origin, invite, 404);
        };
        let Some((id, _, out)) = self.admitted_to(now, origin, invite, key, call, LegRole::GenerativeAgent) else {
            return;
        };
        let headers = out.iter().find_map(|wanted| match wanted {
            Out::Event(LegEvent::Invited(invitation)) => Some(invitation.headers.clone()),
            _ => None,
        });
        self.remote_changed(id);
        self.work.extend(out.into_iter().map(|wanted| (id, wanted)));
        self.work_off(now);
        self.calls.entry(call).and_modify(|entry| entry.returning = Some(id));
        self.tell_call(now, call, CallEvent::Returned(transfer, headers.unwrap_or_default()));
        if let Some(unwanted) = self.returning(call) {
            let refuse = LegCommand::Refuse { status: 404, redirect: None, retry_after: None };
            self.with_leg(unwanted, |leg, s| leg.command(refuse, &Material::default(), s));
            self.work_off(now);
        }
    }

    /// Whether this is the transfer that the call stands or falls with.
    fn is_under_way(&self, call: CallRef, transfer: &TransferId) -> bool {
        let entry = self.calls.get(&call).filter(|entry| entry.record.is_none());
        entry.and_then(|entry| entry.call.facts.attempts.last()).is_some_and(|attempt| attempt.transfer == *transfer)
    }

    fn returning(&mut self, call: CallRef) -> Option<LegId> {
        self.calls.get_mut(&call)?.returning.take()
    }

    /// Answers who brings the customer back with what the customer speaks, and hangs up on it.
    pub(super) fn take_back(&mut self, now: Instant, call: CallRef) {
        let Some(id) = self.returning(call) else { return };
        let audio = self.audio_towards(call, LegRole::GenerativeAgent);
        let material = Material { audio, ..Material::default() };
        self.with_leg(id, |leg, s| {
            leg.command(LegCommand::Answer, &material, s);
            leg.command(LegCommand::HangUp(Cause::NORMAL), &Material::default(), s);
        });
        self.work_off(now);
    }
}
