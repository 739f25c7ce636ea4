//! The customer's leg changes while the call goes on: somebody asks for its place, or it asks us to call somebody in its
//! place. The states of `step.rs` hear nothing of it but that the customer has gone in the end.
//!
//! ```text
//! INVITE with Replaces:  successor invited -> answer it, change hands
//! REFER:                 transfer asked -> accept, call -+-> answered: report 200, change hands
//!                                                        +-> refused, silent: report that, all is as it was
//! ```

use std::time::Instant;

use super::event::{CallAction, CallEvent, CallTimer};
use super::state::{CallState, Facts, HandingBack, LegStage, Releasing, UnderWay};
use super::step::Actions;
use crate::leg::{LegCommand, LegEvent, LegRole, LostCause, Referral};

/// A successor is being called because the customer's side asked for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Succession {
    /// The last word of the customer's leg, which may go as soon as it has asked (RFC 5589 section 6).
    pub departed: Option<LegEvent>,
}

/// Takes what concerns a successor; gives back any other event, for the state to decide.
pub(super) fn succession(
    facts: &mut Facts,
    state: &CallState,
    now: Instant,
    event: CallEvent,
    actions: &mut Actions,
) -> Option<CallEvent> {
    match event {
        CallEvent::Leg(LegRole::Customer, LegEvent::TransferAsked(referral)) => {
            transfer_asked(facts, state, *referral, now, actions);
            None
        }
        // Whether it counts as GenerativeAgent's hand-back is for the state to say; nobody else may ask.
        CallEvent::Leg(LegRole::GenerativeAgent, LegEvent::TransferAsked(referral))
            if matches!(state, CallState::Bridged(_)) =>
        {
            Some(CallEvent::Leg(LegRole::GenerativeAgent, LegEvent::TransferAsked(referral)))
        }
        CallEvent::Leg(role, LegEvent::TransferAsked(_)) => {
            actions.push(facts.tell(role, LegCommand::Decline));
            None
        }
        CallEvent::Leg(LegRole::Customer, event) if event.is_last_word() && facts.succession.is_some() => {
            facts.succession = Some(Succession { departed: Some(event) });
            None
        }
        CallEvent::Leg(LegRole::Successor, event) => succeeded(facts, state, event, actions),
        CallEvent::Pressed(LegRole::Successor, _) => None,
        CallEvent::Timer(CallTimer::SuccessorLimit) => match facts.successor {
            LegStage::Ringing => {
                abandon(facts, actions);
                failed(facts, 408, actions)
            }
            LegStage::None | LegStage::Up | LegStage::Over => None,
        },
        CallEvent::ChangedHands => {
            facts.successor = LegStage::None;
            facts.customer = LegStage::Up;
            facts.takeovers = facts.takeovers.saturating_add(1);
            actions.push(facts.publish(outcome(state)));
            Some(CallEvent::ChangedHands)
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

/// The customer's side wants somebody else to be called in its place.
fn transfer_asked(facts: &mut Facts, state: &CallState, referral: Referral, now: Instant, actions: &mut Actions) {
    let free = facts.succession.is_none() && facts.successor == LegStage::None;
    if !free || facts.customer != LegStage::Up || !is_supervised(state) {
        return actions.push(facts.tell(LegRole::Customer, LegCommand::Decline));
    }
    facts.succession = Some(Succession::default());
    facts.successor = LegStage::Ringing;
    actions.push(facts.tell(LegRole::Customer, LegCommand::Accept));
    actions.push(CallAction::Start(CallTimer::SuccessorLimit, now + facts.settings.ring_limit));
    actions.push(CallAction::CallSuccessor(referral));
}

fn succeeded(facts: &mut Facts, state: &CallState, event: LegEvent, actions: &mut Actions) -> Option<CallEvent> {
    let status = match event {
        LegEvent::Invited(_) => {
            knocked(facts, state, actions);
            return None;
        }
        LegEvent::Answered if facts.succession.is_some() => {
            facts.succession = None;
            actions.push(facts.tell(LegRole::Customer, LegCommand::Report(200)));
            actions.push(CallAction::ChangeHands);
            return None;
        }
        LegEvent::Refused { status, .. } => status,
        LegEvent::Lost(LostCause::NoAnswer) => 408,
        LegEvent::Lost(_) => 488,
        LegEvent::HungUp { .. } => 487,
        LegEvent::Progressed { .. }
        | LegEvent::Answered
        | LegEvent::Reoffered
        | LegEvent::Informed(_)
        | LegEvent::TransferAsked(_)
        | LegEvent::TransferProgressed(_) => {
            return None;
        }
    };
    facts.successor = LegStage::None;
    failed(facts, status, actions)
}

/// Nobody takes the customer's place: all is as it was, unless the customer has gone meanwhile.
fn failed(facts: &mut Facts, status: u16, actions: &mut Actions) -> Option<CallEvent> {
    let succession = facts.succession.take()?;
    actions.push(facts.tell(LegRole::Customer, LegCommand::Report(status)));
    succession.departed.map(|event| CallEvent::Leg(LegRole::Customer, event))
}

/// GenerativeAgent's part has ended meanwhile: nobody is called any more. The last word of a customer who has gone.
pub(super) fn give_up(facts: &mut Facts, actions: &mut Actions) -> Option<LegEvent> {
    facts.succession.as_ref()?;
    abandon(facts, actions);
    match failed(facts, 487, actions) {
        Some(CallEvent::Leg(_, departed)) => Some(departed),
        _ => None,
    }
}

fn abandon(facts: &mut Facts, actions: &mut Actions) {
    facts.successor = LegStage::None;
    actions.push(CallAction::Abandon(LegRole::Successor));
}

/// What the context reference shows of the call now.
fn outcome(state: &CallState) -> &'static str {
    match state {
        CallState::HandingBack(HandingBack { verdict, .. }) | CallState::Releasing(Releasing { verdict, .. }) => {
            verdict.outcome.as_str()
        }
        CallState::Inviting
        | CallState::Requesting(_)
        | CallState::Dialing(_)
        | CallState::Bridged(_)
        | CallState::Collecting(_)
        | CallState::Ended => "in_progress",
    }
}

/// Whether GenerativeAgent is with the customer, or about to be, or has just been.
fn is_supervised(state: &CallState) -> bool {
    matches!(state, CallState::Requesting(_) | CallState::Dialing(_) | CallState::Bridged(_) | CallState::Collecting(_))
}

/// Whether the customer is still here to be had.
fn is_open(state: &CallState) -> bool {
    match state {
        CallState::Inviting => false,
        CallState::Requesting(_) | CallState::Dialing(_) | CallState::Bridged(_) | CallState::Collecting(_) => true,
        CallState::HandingBack(state) => state.rung != UnderWay::Parting,
        CallState::Releasing(_) | CallState::Ended => false,
    }
}
