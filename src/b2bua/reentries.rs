//! Customers whom we dialled on and whose PBX sends them back to us as new calls of the same conversation (flow T17).
//!
//! A conversation is kept here while a call of it has an onward leg or has come in behind one, so that the door looks up one
//! conversation and no calls.

use std::collections::{BTreeSet, HashMap};

use super::B2bua;
use crate::call::intake::Intake;
use crate::call::{CallRef, ConversationId};
use crate::leg::{Invitation, LegRole};
use crate::sip::message::Message;

/// The conversations whose customers may come back.
#[derive(Debug, Default)]
pub(super) struct Reentries {
    conversations: HashMap<ConversationId, Conversation>,
}

/// How the calls of one conversation stand to each other.
#[derive(Debug, Default)]
struct Conversation {
    /// Those that have an onward leg.
    ahead: BTreeSet<CallRef>,
    /// Those that came in behind one.
    behind: BTreeSet<CallRef>,
}

impl Reentries {
    /// Conversations kept.
    pub(super) fn len(&self) -> usize {
        self.conversations.len()
    }

    /// How many calls of this conversation have come in behind an onward leg of it; `None`: it has no such leg.
    fn behind(&self, conversation: &ConversationId) -> Option<usize> {
        let it = self.conversations.get(conversation).filter(|it| !it.ahead.is_empty())?;
        Some(it.behind.len())
    }

    /// A call has been taken: it stands behind the onward leg of another one, if there is one.
    fn enter(&mut self, conversation: &ConversationId, call: CallRef) {
        if let Some(it) = self.conversations.get_mut(conversation).filter(|it| !it.ahead.is_empty()) {
            it.behind.insert(call);
        }
    }

    /// A call has an onward leg, or has none.
    fn go_ahead(&mut self, conversation: &ConversationId, call: CallRef, onward: bool) {
        if onward {
            self.conversations.entry(conversation.clone()).or_default().ahead.insert(call);
        } else {
            self.change(conversation, |it| it.ahead.remove(&call));
        }
    }

    /// A call has ended.
    fn leave(&mut self, conversation: &ConversationId, call: CallRef) {
        self.change(conversation, |it| it.ahead.remove(&call) | it.behind.remove(&call));
    }

    fn change(&mut self, conversation: &ConversationId, change: impl FnOnce(&mut Conversation) -> bool) {
        let Some(it) = self.conversations.get_mut(conversation) else { return };
        change(it);
        if it.ahead.is_empty() && it.behind.is_empty() {
            self.conversations.remove(conversation);
        }
    }
}

impl B2bua {
    /// Whether one more call of this INVITE's conversation may not stand behind its onward leg, if it has one. A caller's
    /// number or a Call-ID stands for no conversation here: the request itself must name it.
    pub(super) fn reenters_too_often(&self, invite: &Message) -> bool {
        // What would have to be read for it is read only where there is anything to come back from.
        if self.reentries.len() == 0 {
            return false;
        }
        let named = Intake::named(&Invitation::read(invite), &self.call_settings.intake);
        let behind = named.and_then(|(_, conversation)| self.reentries.behind(&conversation));
        behind.is_some_and(|behind| behind >= usize::from(self.call_settings.max_reentries))
    }

    /// This customer's INVITE has been taken.
    pub(super) fn entered(&mut self, call: CallRef) {
        let Some(intake) = self.calls.get(&call).map(|entry| &entry.call.facts.intake) else { return };
        if intake.source.is_named() {
            self.reentries.enter(&intake.conversation, call);
        }
    }

    /// The onward leg of this call has come or gone.
    pub(super) fn onward_changed(&mut self, call: CallRef) {
        let Some(entry) = self.calls.get(&call).filter(|entry| entry.record.is_none()) else { return };
        let leg = entry.side(LegRole::Onward).leg.and_then(|id| self.legs.get(&id));
        let onward = leg.is_some_and(|leg| !leg.over);
        self.reentries.go_ahead(&entry.call.facts.intake.conversation, call, onward);
    }

    /// This call has ended.
    pub(super) fn left(&mut self, call: CallRef) {
        if let Some(entry) = self.calls.get(&call) {
            self.reentries.leave(&entry.call.facts.intake.conversation, call);
        }
    }
}
