//! The customer's way back, rung by rung: the hand-back states of a call's life.
//!
//! The verdict is reached before the first rung, and no rung changes it: it says how GenerativeAgent's part ended. What
//! became of the customer is in the record's `hand_back`. One exception: a customer who hangs up before our BYE has
//! left, or before our REFER is accepted, was never handed back at all, and has ended the call.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::context::Carry;
use super::event::{CallAction, CallEvent, CallTimer, Press, Sound};
use super::rules::Rung;
use super::state::{CallState, Facts, HandingBack, LegStage, Releasing, UnderWay};
use super::step::{Actions, customer_gone as customer_left, end, released, unused};
use super::succession::give_up;
use super::verdict::{EndedBy, Outcome, Phase, Verdict};
use super::webhook::{consult, consulting};
use crate::leg::{Cause, LegCommand, LegEvent, LegRole, LostCause, Redirect, Side, Transfer};

/// Looks for the rule that fits and begins its ladder; enters [`CallState::HandingBack`].
pub(super) fn hand_back(facts: &mut Facts, verdict: Verdict, now: Instant, actions: &mut Actions) -> CallState {
    if let Some(departed) = give_up(facts, actions) {
        return customer_left(facts, &departed, verdict.phase, None, now, actions);
    }
    facts.decided = Some(now);
    actions.push(facts.publish(verdict.outcome.as_str()));
    let ladder = facts.ladder(&verdict);
    if ladder.iter().any(|rung| !rung.is_last()) {
        actions.push(CallAction::StopTimers);
        actions.push(CallAction::Start(CallTimer::LadderLimit, now + facts.settings.ladder_limit));
    }
    climb(facts, HandingBack { verdict, rung: UnderWay::Parting, ladder, cause: Cause::FAILURE }, now, actions)
}

/// The next rung. Where none is left, the customer is sent away with the reason why the last one failed.
pub(super) fn climb(facts: &mut Facts, mut state: HandingBack, now: Instant, actions: &mut Actions) -> CallState {
    let retry_after = facts.settings.retry_after;
    let refuse = |status, redirect| {
        let retry_after = (status == 503).then_some(retry_after);
        LegCommand::Refuse { status, redirect, retry_after }
    };
    let (rung, command) = match state.ladder.pop_front() {
        Some(Rung::Bye) => (Rung::Bye, LegCommand::HangUp(facts.cause(state.verdict.outcome))),
        Some(Rung::Dial(target)) => return dial(facts, state, (target, 0, false), now, actions),
        Some(Rung::ReferReplaces(target)) => return dial(facts, state, (target, 0, true), now, actions),
        Some(Rung::Refer(target)) => return refer(facts, state, target, 0, now, actions),
        Some(Rung::Webhook(webhook)) => return consult(facts, state, webhook, now, actions),
        Some(Rung::Refuse(status)) => (Rung::Refuse(status), refuse(status, None)),
        Some(Rung::Redirect(target)) => {
            let row = facts.settings.targets.get(&target);
            let Some(uri) = row.and_then(|row| row.uris.first().cloned()) else {
                return climb(facts, state, now, actions);
            };
            let with_headers = facts.profile().contact_headers;
            (Rung::Redirect(target), refuse(302, Some(Redirect { uri, with_headers })))
        }
        None if facts.customer == LegStage::Up && announces(facts) => return announce(facts, state, now, actions),
        None if facts.customer == LegStage::Up => (Rung::Bye, LegCommand::HangUp(state.cause)),
        None => (Rung::Refuse(480), refuse(480, None)),
    };
    part(facts, state, &rung, command, now, actions)
}

/// Whether there is something to say to a customer for whom every rung has failed.
fn announces(facts: &Facts) -> bool {
    let tried = facts.hand_back.as_ref().is_some_and(|record| !record.rungs.is_empty());
    tried && !facts.settings.announcement_limit.is_zero()
}

/// Tells the customer that nobody could be reached; the BYE follows.
fn announce(facts: &mut Facts, state: HandingBack, now: Instant, actions: &mut Actions) -> CallState {
    actions.push(CallAction::StopTimers);
    actions.push(CallAction::Start(CallTimer::AnnouncementLimit, now + facts.settings.announcement_limit));
    actions.push(CallAction::Play(Sound::Announcement));
    CallState::HandingBack(HandingBack { rung: UnderWay::Announcing, ..state })
}

/// A rung that cannot fail: the customer is sent away with everything we know.
fn part(
    facts: &mut Facts,
    state: HandingBack,
    rung: &Rung,
    command: LegCommand,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    let carry = facts.carry(state.verdict.outcome, rung).with_reason(state.verdict.outcome);
    facts.rung_result("done");
    fell_back(&state.verdict, rung.kind(), actions);
    actions.push(CallAction::StopTimers);
    actions.push(CallAction::Start(CallTimer::ReleaseLimit, now + facts.settings.release_limit));
    actions.push(CallAction::Leg(LegRole::Customer, command, carry));
    CallState::HandingBack(HandingBack { rung: UnderWay::Parting, ..state })
}

/// Calls one URI of a target. A row or a URI that is not there fails like one that does not answer.
fn dial(
    facts: &mut Facts,
    state: HandingBack,
    (target, member, attended): (String, usize, bool),
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    let Some(row) = facts.settings.targets.get(&target).filter(|row| member < row.uris.len()) else {
        return climb(facts, state, now, actions);
    };
    actions.push(CallAction::Start(CallTimer::RingLimit, now + row.ring_limit));
    facts.onward = LegStage::Ringing;
    let rung = if attended { Rung::ReferReplaces(target.clone()) } else { Rung::Dial(target.clone()) };
    let carry = facts.carry(state.verdict.outcome, &rung);
    if facts.customer == LegStage::Up || facts.early_media {
        actions.push(CallAction::Play(Sound::Onward));
    }
    actions.push(CallAction::Onward { target: target.clone(), member, carry });
    CallState::HandingBack(HandingBack { rung: UnderWay::Dialing { target, member, attended }, ..state })
}

/// Asks the customer's side to call one URI of a target itself. Until that has worked the customer stays with us.
fn refer(
    facts: &mut Facts,
    state: HandingBack,
    target: String,
    member: usize,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    let row = facts.settings.targets.get(&target);
    let Some((uri, limit)) = row.and_then(|row| Some((row.uris.get(member)?.clone(), row.accept_limit))) else {
        return climb(facts, state, now, actions);
    };
    let mut carry = facts.carry(state.verdict.outcome, &Rung::Refer(target.clone()));
    if uri.starts_with("tel:") {
        carry = carry.kept_back();
        facts.sends(&carry);
    }
    actions.push(CallAction::Start(CallTimer::AcceptLimit, now + limit));
    actions.push(CallAction::Play(Sound::Waiting));
    actions.push(CallAction::Leg(LegRole::Customer, LegCommand::Refer(uri), carry));
    CallState::HandingBack(HandingBack { rung: UnderWay::Referring { target, member, accepted: false }, ..state })
}

pub(super) fn handing_back(
    facts: &mut Facts,
    state: HandingBack,
    now: Instant,
    event: CallEvent,
    actions: &mut Actions,
) -> CallState {
    if let CallEvent::Leg(LegRole::Customer, LegEvent::TransferProgressed(transfer)) = &event
        && let Some(how) = arrived(*transfer).filter(|_| waits_for_somebody_else(&state.rung))
    {
        return overtaken(facts, state, how, now, actions);
    }
    let is_tried =
        matches!(state.rung, UnderWay::Dialing { .. } | UnderWay::Referring { .. } | UnderWay::Consulting { .. });
    let (state, event) = match is_tried {
        true => match interrupted(facts, state, now, event, actions) {
            ControlFlow::Break(state) => return state,
            ControlFlow::Continue(goes_on) => goes_on,
        },
        false => (state, event),
    };
    match state.rung.clone() {
        UnderWay::Dialing { target, member, attended } => {
            dialing(facts, state, (target, member, attended), now, event, actions)
        }
        UnderWay::Referring { target, member, accepted } => {
            referring(facts, state, (target, member, accepted), now, event, actions)
        }
        UnderWay::Consulting { webhook, number } => consulting(facts, state, (&webhook, number), now, event, actions),
        UnderWay::Introducing { target, accepted } => {
            introducing(facts, state, (target, accepted), now, event, actions)
        }
        UnderWay::Talking => talking(facts, state, now, event, actions),
        UnderWay::Announcing => announcing(facts, state, now, event, actions),
        UnderWay::Parting => parting(facts, state, now, event, actions),
    }
}

/// How the customer is with somebody now, if this tells so.
fn arrived(transfer: Transfer) -> Option<&'static str> {
    match transfer {
        Transfer::Transferred => Some("transferred"),
        Transfer::AcceptedUnconfirmed => Some("accepted, unconfirmed"),
        Transfer::Accepted
        | Transfer::Progressed(_)
        | Transfer::Refused(_)
        | Transfer::Rejected(_)
        | Transfer::Unauthorized
        | Transfer::NoOutcome
        | Transfer::CallEnded => None,
    }
}

/// Whether a REFER that is heard of now was that of an earlier rung, and the customer has nobody else yet.
fn waits_for_somebody_else(rung: &UnderWay) -> bool {
    match rung {
        UnderWay::Dialing { .. } | UnderWay::Consulting { .. } | UnderWay::Announcing => true,
        UnderWay::Referring { .. } | UnderWay::Introducing { .. } | UnderWay::Talking | UnderWay::Parting => false,
    }
}

/// The REFER of an earlier rung has worked after all: whoever is called meanwhile would be bridged to nobody.
fn overtaken(facts: &mut Facts, state: HandingBack, how: &str, now: Instant, actions: &mut Actions) -> CallState {
    fell_back(&state.verdict, "refer", actions);
    facts.rung_overtaken(how);
    gone(facts, state, now, actions)
}

/// What ends every rung that is being tried; gives back any other event, for the rung to decide.
fn interrupted(
    facts: &mut Facts,
    state: HandingBack,
    now: Instant,
    event: CallEvent,
    actions: &mut Actions,
) -> ControlFlow<CallState, (HandingBack, CallEvent)> {
    ControlFlow::Break(match event {
        CallEvent::Timer(CallTimer::LadderLimit) => enough(facts, state, "no time left", now, actions),
        CallEvent::PulledBack => enough(facts, state, "pulled back", now, actions),
        CallEvent::Ended => {
            facts.rung_result("hung up by an operator");
            dismissed(facts, state, Outcome::Operator, Cause::NORMAL, now, actions)
        }
        CallEvent::Stopped => {
            facts.rung_result("stopped");
            dismissed(facts, state, Outcome::Drained, Cause::FAILURE, now, actions)
        }
        CallEvent::Leg(LegRole::Customer, event) if event.is_last_word() => {
            let by_itself = matches!(event, LegEvent::HungUp { .. });
            facts.rung_result(if by_itself { "customer hung up" } else { "customer lost" });
            customer_gone(facts, state, &event, now, actions)
        }
        CallEvent::Created(_, answer) => {
            unused(&answer, actions);
            CallState::HandingBack(state)
        }
        other => return ControlFlow::Continue((state, other)),
    })
}

// --- an onward leg rings ---------------------------------------------------------------------------------------------

fn dialing(
    facts: &mut Facts,
    state: HandingBack,
    (target, member, attended): (String, usize, bool),
    now: Instant,
    event: CallEvent,
    actions: &mut Actions,
) -> CallState {
    let (result, cause) = match event {
        CallEvent::Leg(LegRole::Onward, LegEvent::Answered) => {
            let state = taken_over(facts, state, if attended { "refer_replaces" } else { "dial" }, now, actions);
            return if attended {
                introduce(facts, state, target, now, actions)
            } else {
                CallState::HandingBack(state)
            };
        }
        CallEvent::Leg(LegRole::Onward, LegEvent::Progressed { early_media: true, .. }) => {
            if facts.customer == LegStage::Ringing {
                facts.early_media = true;
                actions.push(facts.tell(LegRole::Customer, LegCommand::Ring { early_media: true }));
            }
            actions.push(CallAction::Connect { with: LegRole::Onward, watched: false });
            return CallState::HandingBack(state);
        }
        CallEvent::Leg(LegRole::Onward, LegEvent::Refused { status, .. }) => {
            (format!("refused {status}"), Cause::of_refusal(status))
        }
        CallEvent::Leg(LegRole::Onward, LegEvent::HungUp { .. }) => ("hung up".to_owned(), Cause::FAILURE),
        CallEvent::Leg(LegRole::Onward, LegEvent::Lost(LostCause::NoAnswer)) => {
            ("silent".to_owned(), Cause::OUT_OF_ORDER)
        }
        CallEvent::Leg(LegRole::Onward, LegEvent::Lost(_)) => ("unusable answer".to_owned(), Cause::INCOMPATIBLE),
        CallEvent::Timer(CallTimer::RingLimit) => {
            actions.push(CallAction::Abandon(LegRole::Onward));
            ("not answered in time".to_owned(), Cause::NO_ANSWER)
        }
        CallEvent::WayFailed(how) => {
            actions.push(CallAction::Abandon(LegRole::Onward));
            (how, Cause::OUT_OF_ORDER)
        }
        CallEvent::Leg(..)
        | CallEvent::Created(..)
        | CallEvent::Fetched(..)
        | CallEvent::Reserved(..)
        | CallEvent::Returned(..)
        | CallEvent::Advised(..)
        | CallEvent::Heard(_)
        | CallEvent::ChangedHands
        | CallEvent::Pressed(..)
        | CallEvent::Timer(_)
        | CallEvent::MediaDead
        | CallEvent::Played
        | CallEvent::PulledBack
        | CallEvent::Ended
        | CallEvent::Stopped => return CallState::HandingBack(state),
    };
    facts.rung_result(result);
    facts.onward = LegStage::None;
    dial(facts, HandingBack { cause, ..state }, (target, member + 1, attended), now, actions)
}

/// Nobody else is called: what cannot fail is still done.
fn enough(facts: &mut Facts, mut state: HandingBack, result: &str, now: Instant, actions: &mut Actions) -> CallState {
    facts.rung_result(result);
    if matches!(state.rung, UnderWay::Referring { .. }) {
        withdraw(actions);
    }
    actions.push(CallAction::Abandon(LegRole::Onward));
    facts.onward = LegStage::None;
    state.ladder.retain(Rung::is_last);
    climb(facts, HandingBack { cause: Cause::NO_ANSWER, ..state }, now, actions)
}

/// The onward leg has answered: the customer, who may only now be answered, is bridged to it.
fn taken_over(
    facts: &mut Facts,
    state: HandingBack,
    rung: &'static str,
    now: Instant,
    actions: &mut Actions,
) -> HandingBack {
    facts.rung_result("answered");
    let at = facts.epoch.unix_ms(now);
    facts.hand_back.get_or_insert_default().answered_at = Some(at);
    fell_back(&state.verdict, rung, actions);
    actions.push(CallAction::StopTimers);
    actions.push(CallAction::Start(CallTimer::MaxDuration, now + facts.settings.max_duration));
    actions.push(CallAction::Connect { with: LegRole::Onward, watched: true });
    if facts.customer == LegStage::Ringing {
        facts.answer(now, actions);
    }
    HandingBack { rung: UnderWay::Talking, ..state }
}

fn fell_back(verdict: &Verdict, rung: &'static str, actions: &mut Actions) {
    if let (Outcome::NotConnected, Some(reason)) = (verdict.outcome, verdict.evidence.not_connected) {
        actions.push(CallAction::FellBack(reason, rung));
    }
}

// --- the customer's side has been asked to call somebody ------------------------------------------------------------

fn referring(
    facts: &mut Facts,
    state: HandingBack,
    (target, member, accepted): (String, usize, bool),
    now: Instant,
    event: CallEvent,
    actions: &mut Actions,
) -> CallState {
    let (result, cause, next) = match event {
        CallEvent::Leg(LegRole::Customer, LegEvent::TransferProgressed(transfer)) => match transfer {
            Transfer::Accepted => {
                let limit = facts.settings.targets.get(&target).map_or(Duration::ZERO, |row| row.ring_limit);
                actions.push(CallAction::Start(CallTimer::RingLimit, now + limit));
                let rung = UnderWay::Referring { target, member, accepted: true };
                return CallState::HandingBack(HandingBack { rung, ..state });
            }
            Transfer::Progressed(_) => return CallState::HandingBack(state),
            Transfer::Transferred => return transferred(facts, state, "transferred", now, actions),
            Transfer::AcceptedUnconfirmed => return transferred(facts, state, "accepted, unconfirmed", now, actions),
            Transfer::CallEnded => return ended_meanwhile(facts, now, actions),
            Transfer::Refused(status) => (format!("refused {status}"), Cause::of_refusal(status), Next::Uri),
            // It knows no REFER, or no such dialog: another form of the URI would fare no better.
            Transfer::Rejected(status @ (405 | 408 | 481 | 501)) => {
                (format!("rejected {status}"), Cause::FAILURE, Next::Rung)
            }
            Transfer::Rejected(status) => (format!("rejected {status}"), Cause::FAILURE, Next::Uri),
            Transfer::Unauthorized => ("unauthorized".to_owned(), Cause::FAILURE, Next::Rung),
            // It may be calling there still.
            Transfer::NoOutcome => ("no outcome".to_owned(), Cause::NO_ANSWER, Next::Rung),
        },
        // Whoever has the customer now has not been asked.
        CallEvent::ChangedHands => ("changed hands".to_owned(), state.cause, Next::Again),
        CallEvent::Timer(CallTimer::AcceptLimit) if !accepted => {
            withdraw(actions);
            ("not accepted in time".to_owned(), Cause::NO_RESPONSE, Next::Rung)
        }
        CallEvent::Timer(CallTimer::RingLimit) if accepted => {
            ("no outcome in time".to_owned(), Cause::NO_ANSWER, Next::Rung)
        }
        CallEvent::Leg(..)
        | CallEvent::Created(..)
        | CallEvent::WayFailed(_)
        | CallEvent::Fetched(..)
        | CallEvent::Reserved(..)
        | CallEvent::Returned(..)
        | CallEvent::Advised(..)
        | CallEvent::Heard(_)
        | CallEvent::Pressed(..)
        | CallEvent::Timer(_)
        | CallEvent::MediaDead
        | CallEvent::Played
        | CallEvent::PulledBack
        | CallEvent::Ended
        | CallEvent::Stopped => return CallState::HandingBack(state),
    };
    facts.rung_result(result);
    let state = HandingBack { cause, ..state };
    match next {
        Next::Again => refer(facts, state, target, member, now, actions),
        Next::Uri => refer(facts, state, target, member + 1, now, actions),
        Next::Rung => climb(facts, state, now, actions),
    }
}

/// Somebody else may get the customer from here on: a REFER that waits for an ACK, or is repeated for want of an answer,
/// must not ask for him a second time.
fn withdraw(actions: &mut Actions) {
    actions.push(CallAction::Leg(LegRole::Customer, LegCommand::Withdraw, Carry::default()));
}

/// What follows a REFER that did not work.
enum Next {
    /// The same URI, asked of somebody else.
    Again,
    /// The target's next URI: another form may be understood.
    Uri,
    /// The next rung.
    Rung,
}

/// The customer is with somebody else. Whoever transfers a call ends the dialog (RFC 5589 section 6.1).
fn transferred(facts: &mut Facts, state: HandingBack, how: &str, now: Instant, actions: &mut Actions) -> CallState {
    fell_back(&state.verdict, "refer", actions);
    passed_on(facts, state, how, now, actions)
}

fn passed_on(facts: &mut Facts, state: HandingBack, how: &str, now: Instant, actions: &mut Actions) -> CallState {
    facts.rung_result(how);
    gone(facts, state, now, actions)
}

/// Nobody needs us any more.
fn gone(facts: &mut Facts, state: HandingBack, now: Instant, actions: &mut Actions) -> CallState {
    actions.push(CallAction::StopTimers);
    actions.push(CallAction::Start(CallTimer::ReleaseLimit, now + facts.settings.release_limit));
    facts.hang_up(LegRole::Customer, Cause::NORMAL, actions);
    facts.hang_up(LegRole::Onward, Cause::NORMAL, actions);
    released(facts, Releasing { verdict: state.verdict, fetching: None }, now, actions)
}

/// The customer hung up before the REFER was accepted, and was never handed back.
fn ended_meanwhile(facts: &mut Facts, now: Instant, actions: &mut Actions) -> CallState {
    facts.rung_result("call ended");
    let verdict = facts.verdict(Outcome::CustomerHungUp, EndedBy::Customer, Phase::HandingBack);
    actions.push(facts.publish(verdict.outcome.as_str()));
    let_go(facts, verdict, EndedBy::Customer, now, actions)
}

// --- the customer talks, and his side has been asked to take our place -------------------------------------------------

/// Whatever becomes of this, the customer talks already.
fn introduce(facts: &mut Facts, state: HandingBack, target: String, now: Instant, actions: &mut Actions) -> CallState {
    let limit = facts.settings.targets.get(&target).map_or(Duration::ZERO, |row| row.accept_limit);
    actions.push(CallAction::Start(CallTimer::AcceptLimit, now + limit));
    actions.push(CallAction::Introduce);
    CallState::HandingBack(HandingBack { rung: UnderWay::Introducing { target, accepted: false }, ..state })
}

fn introducing(
    facts: &mut Facts,
    state: HandingBack,
    (target, accepted): (String, bool),
    now: Instant,
    event: CallEvent,
    actions: &mut Actions,
) -> CallState {
    let failure = match event {
        CallEvent::Leg(LegRole::Customer, LegEvent::TransferProgressed(transfer)) => match transfer {
            Transfer::Accepted => {
                let limit = facts.settings.targets.get(&target).map_or(Duration::ZERO, |row| row.ring_limit);
                actions.push(CallAction::Start(CallTimer::RingLimit, now + limit));
                let rung = UnderWay::Introducing { target, accepted: true };
                return CallState::HandingBack(HandingBack { rung, ..state });
            }
            // The customer has hung up; his leg says so next.
            Transfer::CallEnded | Transfer::Progressed(_) => return CallState::HandingBack(state),
            Transfer::Transferred => return passed_on(facts, state, "transferred", now, actions),
            Transfer::AcceptedUnconfirmed => return passed_on(facts, state, "accepted, unconfirmed", now, actions),
            Transfer::Refused(status) => format!("refused {status}"),
            Transfer::Rejected(status) => format!("rejected {status}"),
            Transfer::Unauthorized => "unauthorized".to_owned(),
            Transfer::NoOutcome => "no outcome".to_owned(),
        },
        CallEvent::ChangedHands => "changed hands".to_owned(),
        CallEvent::Timer(CallTimer::AcceptLimit) if !accepted => {
            withdraw(actions);
            "not accepted in time".to_owned()
        }
        CallEvent::Timer(CallTimer::RingLimit) if accepted => "no outcome in time".to_owned(),
        // A dialog that is replaced is ended by who took the INVITE (RFC 3891 section 3), maybe before we hear of it.
        CallEvent::Leg(LegRole::Onward, LegEvent::HungUp { by: Side::Far, .. }) => {
            actions.push(CallAction::Play(Sound::Waiting));
            return CallState::HandingBack(state);
        }
        other => return talking(facts, state, now, other, actions),
    };
    facts.rung_result(format!("dialled, refer {failure}"));
    match facts.onward {
        LegStage::Over => over(facts, state, EndedBy::Onward, Cause::NORMAL, now, actions),
        _ => CallState::HandingBack(HandingBack { rung: UnderWay::Talking, ..state }),
    }
}

// --- the customer talks with whoever took over -----------------------------------------------------------------------

fn talking(facts: &mut Facts, state: HandingBack, now: Instant, event: CallEvent, actions: &mut Actions) -> CallState {
    match event {
        CallEvent::Leg(LegRole::Onward, LegEvent::HungUp { .. } | LegEvent::Refused { .. }) => {
            over(facts, state, EndedBy::Onward, Cause::NORMAL, now, actions)
        }
        CallEvent::Leg(LegRole::Onward, LegEvent::Lost(_)) | CallEvent::MediaDead => {
            over(facts, state, EndedBy::Network, Cause::FAILURE, now, actions)
        }
        CallEvent::Leg(LegRole::Customer, event) if event.is_last_word() => {
            customer_gone(facts, state, &event, now, actions)
        }
        CallEvent::Leg(role, LegEvent::Informed(info)) if role != LegRole::GenerativeAgent => {
            let other = if role == LegRole::Customer { LegRole::Onward } else { LegRole::Customer };
            facts.inform(other, info, actions);
            CallState::HandingBack(state)
        }
        CallEvent::Pressed(role, digit) if role != LegRole::GenerativeAgent => {
            let other = if role == LegRole::Customer { LegRole::Onward } else { LegRole::Customer };
            actions.push(CallAction::Pass(other, Press::Heard(digit)));
            CallState::HandingBack(state)
        }
        CallEvent::Timer(CallTimer::MaxDuration) => over(facts, state, EndedBy::Us, Cause::TIMEOUT, now, actions),
        CallEvent::Ended => dismissed(facts, state, Outcome::Operator, Cause::NORMAL, now, actions),
        CallEvent::Stopped => dismissed(facts, state, Outcome::Drained, Cause::FAILURE, now, actions),
        CallEvent::Created(_, answer) => {
            unused(&answer, actions);
            CallState::HandingBack(state)
        }
        CallEvent::Leg(..)
        | CallEvent::WayFailed(_)
        | CallEvent::Fetched(..)
        | CallEvent::Reserved(..)
        | CallEvent::Returned(..)
        | CallEvent::Advised(..)
        | CallEvent::Heard(_)
        | CallEvent::ChangedHands
        | CallEvent::Pressed(..)
        | CallEvent::Timer(_)
        | CallEvent::Played
        | CallEvent::PulledBack => CallState::HandingBack(state),
    }
}

/// The customer has hung up, or was lost: whoever was called for him follows.
fn customer_gone(
    facts: &mut Facts,
    state: HandingBack,
    event: &LegEvent,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    match event {
        LegEvent::HungUp { by: Side::Far, .. } => over(facts, state, EndedBy::Customer, Cause::NORMAL, now, actions),
        // We could not answer what it offered.
        LegEvent::HungUp { by: Side::Us, .. } => over(facts, state, EndedBy::Us, Cause::INCOMPATIBLE, now, actions),
        _ => over(facts, state, EndedBy::Network, Cause::TIMEOUT, now, actions),
    }
}

/// The program stops, or a person ends the call: whoever is there is told so.
fn dismissed(
    facts: &mut Facts,
    state: HandingBack,
    why: Outcome,
    cause: Cause,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    facts.hang_up(LegRole::Onward, cause, actions);
    let carry = Carry::reference(&facts.reference, facts.profile()).with_reason(why);
    actions.push(CallAction::Leg(LegRole::Customer, facts.farewell(why), carry));
    let_go(facts, state.verdict, EndedBy::Us, now, actions)
}

/// Both legs end, the one that has ended already excepted.
fn over(
    facts: &mut Facts,
    state: HandingBack,
    ended_by: EndedBy,
    cause: Cause,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    facts.hang_up(LegRole::Customer, cause, actions);
    facts.hang_up(LegRole::Onward, cause, actions);
    let_go(facts, state.verdict, ended_by, now, actions)
}

fn let_go(facts: &mut Facts, verdict: Verdict, ended_by: EndedBy, now: Instant, actions: &mut Actions) -> CallState {
    facts.hand_back.get_or_insert_default().ended_by = Some(ended_by);
    actions.push(CallAction::StopTimers);
    actions.push(CallAction::Start(CallTimer::ReleaseLimit, now + facts.settings.release_limit));
    released(facts, Releasing { verdict, fetching: None }, now, actions)
}

// --- the customer hears that nobody could be reached -----------------------------------------------------------------

fn announcing(
    facts: &mut Facts,
    state: HandingBack,
    now: Instant,
    event: CallEvent,
    actions: &mut Actions,
) -> CallState {
    match event {
        CallEvent::Played | CallEvent::Timer(CallTimer::AnnouncementLimit) => {
            let bye = LegCommand::HangUp(state.cause);
            part(facts, state, &Rung::Bye, bye, now, actions)
        }
        CallEvent::Leg(LegRole::Customer, event) if event.is_last_word() => {
            customer_gone(facts, state, &event, now, actions)
        }
        CallEvent::Ended => dismissed(facts, state, Outcome::Operator, Cause::NORMAL, now, actions),
        CallEvent::Stopped => dismissed(facts, state, Outcome::Drained, Cause::FAILURE, now, actions),
        CallEvent::Created(_, answer) => {
            unused(&answer, actions);
            CallState::HandingBack(state)
        }
        CallEvent::Leg(..)
        | CallEvent::WayFailed(_)
        | CallEvent::Fetched(..)
        | CallEvent::Reserved(..)
        | CallEvent::Returned(..)
        | CallEvent::Advised(..)
        | CallEvent::Heard(_)
        | CallEvent::ChangedHands
        | CallEvent::Pressed(..)
        | CallEvent::Timer(_)
        | CallEvent::MediaDead
        | CallEvent::PulledBack => CallState::HandingBack(state),
    }
}

// --- the customer has been sent away ---------------------------------------------------------------------------------

fn parting(facts: &mut Facts, state: HandingBack, now: Instant, event: CallEvent, actions: &mut Actions) -> CallState {
    match event {
        CallEvent::Leg(LegRole::Customer, LegEvent::HungUp { by: Side::Far, .. }) => {
            facts.hand_back = None;
            let verdict = facts.verdict(Outcome::CustomerHungUp, EndedBy::Customer, Phase::HandingBack);
            actions.push(facts.publish(verdict.outcome.as_str()));
            released(facts, Releasing { verdict, fetching: None }, now, actions)
        }
        CallEvent::Leg(LegRole::Customer, event) if event.is_last_word() => {
            released(facts, Releasing { verdict: state.verdict, fetching: None }, now, actions)
        }
        CallEvent::Timer(CallTimer::ReleaseLimit) => end(facts, state.verdict, now, actions),
        CallEvent::Created(_, answer) => {
            unused(&answer, actions);
            CallState::HandingBack(state)
        }
        CallEvent::Leg(..)
        | CallEvent::WayFailed(_)
        | CallEvent::Fetched(..)
        | CallEvent::Reserved(..)
        | CallEvent::Returned(..)
        | CallEvent::Advised(..)
        | CallEvent::Heard(_)
        | CallEvent::ChangedHands
        | CallEvent::Pressed(..)
        | CallEvent::Timer(_)
        | CallEvent::MediaDead
        | CallEvent::Played
        | CallEvent::PulledBack
        | CallEvent::Ended
        | CallEvent::Stopped => CallState::HandingBack(state),
    }
}
