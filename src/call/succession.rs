//! The customer's leg changes while the call goes on: whoever asks for its place gets it, wherever the call stands, as
//! long as there is a customer to be had. The states of `step.rs` hear nothing of it but that it has happened.

use super::event::{CallAction, CallEvent};
use super::state::{CallState, Facts, LegStage, UnderWay};
use super::step::Actions;
use crate::leg::{LegCommand, LegEvent, LegRole};

/// Takes what a successor says; gives back any other event, for the state to decide.
pub(super) fn succession(
    facts: &mut Facts,
    state: &CallState,
    event: CallEvent,
    actions: &mut Actions,
) -> Option<CallEvent> {
    match event {
        CallEvent::Leg(LegRole::Successor, LegEvent::Invited(_)) => {
            knocked(facts, state, actions);
            None
        }
        CallEvent::Leg(LegRole::Successor, event) if event.is_last_word() => {
            facts.successor = LegStage::None;
            None
        }
        CallEvent::Leg(LegRole::Successor, _) | CallEvent::Pressed(LegRole::Successor, _) => None,
        CallEvent::ChangedHands => {
            facts.successor = LegStage::None;
            facts.takeovers = facts.takeovers.saturating_add(1);
            None
        }
        other => Some(other),
    }
}

/// Somebody asks for the customer's place: answered at once, for the customer is.
fn knocked(facts: &mut Facts, state: &CallState, actions: &mut Actions) {
    facts.successor = LegStage::Ringing;
    if facts.customer == LegStage::Up && is_open(state) {
        actions.push(facts.tell(LegRole::Successor, LegCommand::Answer));
        actions.push(CallAction::ChangeHands);
    } else {
        let refuse = LegCommand::Refuse { status: 603, redirect: None, retry_after: None };
        actions.push(facts.tell(LegRole::Successor, refuse));
    }
}

/// Whether the customer is still here to be had.
fn is_open(state: &CallState) -> bool {
    match state {
        CallState::Requesting(_) | CallState::Dialing(_) | CallState::Bridged(_) | CallState::Collecting(_) => true,
        CallState::HandingBack(state) => state.rung != UnderWay::Parting,
        CallState::Releasing(_) | CallState::Ended => false,
    }
}
