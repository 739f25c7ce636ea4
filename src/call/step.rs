//! A call's life, one function per state, in the order a call lives through them.
//!
//! What happens when GenerativeAgent hangs up is [`bridged`], then [`collecting`]; then `handback.rs` gives the customer
//! back.

use std::time::{Duration, Instant};

use super::TransferId;
use super::asapp::{ApiFailure, FailureClass, OutputContext, Transfer, TransferStatus};
use super::escape::{Digit, Escape};
use super::event::{CallAction, CallEvent, CallTimer, Press, Sound};
use super::handback::{hand_back, handing_back};
use super::settings::{CallSettings, WayIn};
use super::state::{
    Asking, Bridged, CallState, Collecting, Dialing, Facts, Left, LegStage, Party, Releasing, Requesting,
};
use super::succession::give_up;
use super::ticket::DialTicket;
use super::verdict::{EndedBy, NotConnected, Outcome, Phase, Verdict};
use crate::leg::{Cause, LegCommand, LegEvent, LegRole, LostCause, Side};

pub(super) type Actions = Vec<CallAction>;

/// ASAPP's retry guidance for 5xx, and ours for connections that fail.
const RETRY_TROUBLE: [Duration; 3] = [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];
/// ASAPP's retry guidance for 429.
const RETRY_THROTTLED: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// Our own rate had no room for a finished call's context: soon again, because nothing comes before it.
const RETRY_SHED: [Duration; 3] = [Duration::from_millis(100); 3];
/// Pauses between fetches while the API still says ONGOING: at 0, 150, 300, 600, 1200, 2400 ms; the last one repeats.
const POLLS: [Duration; 5] = [
    Duration::from_millis(150),
    Duration::from_millis(150),
    Duration::from_millis(300),
    Duration::from_millis(600),
    Duration::from_millis(1200),
];

/// One event in one state.
pub(super) fn step(
    facts: &mut Facts,
    state: CallState,
    now: Instant,
    event: CallEvent,
    actions: &mut Actions,
) -> CallState {
    match state {
        CallState::Inviting => inviting(facts, now, event, actions),
        CallState::Requesting(state) => requesting(facts, state, now, event, actions),
        CallState::Dialing(state) => dialing(facts, state, now, event, actions),
        CallState::Bridged(state) => bridged(facts, state, now, event, actions),
        CallState::Collecting(state) => collecting(facts, state, now, event, actions),
        CallState::HandingBack(state) => handing_back(facts, state, now, event, actions),
        CallState::Releasing(state) => releasing(facts, state, now, event, actions),
        CallState::Ended => ended(event, actions),
    }
}

// --- Inviting ----------------------------------------------------------------------------------------------------

/// A REFER asked for the customer, whose side is being called. It has answered before anybody else is asked for anything:
/// no number is wasted on a customer who is not there.
fn inviting(facts: &mut Facts, now: Instant, event: CallEvent, actions: &mut Actions) -> CallState {
    match event {
        CallEvent::Leg(LegRole::Customer, LegEvent::Answered) => {
            facts.answered = Some(now);
            actions.push(CallAction::Report(200));
            actions.push(CallAction::Play(Sound::Ringback));
            request_number(facts, now, actions)
        }
        CallEvent::Leg(LegRole::Customer, LegEvent::Progressed { status, .. }) => {
            actions.push(CallAction::Report(status));
            CallState::Inviting
        }
        CallEvent::Leg(LegRole::Customer, LegEvent::Refused { status, .. }) => {
            unreached(facts, Outcome::CustomerHungUp, EndedBy::Customer, status, now, actions)
        }
        CallEvent::Leg(LegRole::Customer, LegEvent::HungUp { .. }) => {
            unreached(facts, Outcome::CustomerHungUp, EndedBy::Customer, 487, now, actions)
        }
        CallEvent::Leg(LegRole::Customer, LegEvent::Lost(LostCause::UnusableAnswer)) => {
            unreached(facts, Outcome::NotConnected, EndedBy::Us, 488, now, actions)
        }
        CallEvent::Leg(LegRole::Customer, LegEvent::Lost(_)) => {
            unreached(facts, Outcome::NotConnected, EndedBy::Network, 408, now, actions)
        }
        CallEvent::Timer(CallTimer::RingLimit) => {
            facts.hang_up(LegRole::Customer, Cause::NO_ANSWER, actions);
            unreached(facts, Outcome::NotConnected, EndedBy::Us, 408, now, actions)
        }
        CallEvent::Ended => {
            facts.hang_up(LegRole::Customer, Cause::NORMAL, actions);
            unreached(facts, Outcome::Operator, EndedBy::Us, 603, now, actions)
        }
        CallEvent::Stopped => {
            facts.hang_up(LegRole::Customer, Cause::FAILURE, actions);
            unreached(facts, Outcome::Drained, EndedBy::Us, 503, now, actions)
        }
        CallEvent::Created(_, answer) => {
            unused(&answer, actions);
            CallState::Inviting
        }
        CallEvent::Fetched(..)
        | CallEvent::Leg(..)
        | CallEvent::WayFailed(_)
        | CallEvent::Reserved(..)
        | CallEvent::Returned(..)
        | CallEvent::Advised(..)
        | CallEvent::Heard(_)
        | CallEvent::ChangedHands
        | CallEvent::Pressed(..)
        | CallEvent::MediaDead
        | CallEvent::Played
        | CallEvent::PulledBack
        | CallEvent::Timer(_) => CallState::Inviting,
    }
}

/// Nobody is there to be supervised; whoever asked is told so.
fn unreached(
    facts: &mut Facts,
    outcome: Outcome,
    ended_by: EndedBy,
    status: u16,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    facts.evidence.sip_status = Some(status);
    actions.push(CallAction::Report(status));
    let verdict = facts.verdict(outcome, ended_by, Phase::BeforeAnswer);
    release(facts, verdict, None, now, actions)
}

// --- Requesting --------------------------------------------------------------------------------------------------

/// Enters [`CallState::Requesting`] with a budget of its own.
pub(super) fn request_number(facts: &mut Facts, now: Instant, actions: &mut Actions) -> CallState {
    let deadline = now + facts.settings.number_budget;
    actions.push(CallAction::StopTimers);
    actions.push(CallAction::Start(CallTimer::NumberBudget, deadline));
    dwell(facts, actions);
    match facts.settings.way_in {
        WayIn::Number | WayIn::Sip { .. } => create(facts, deadline, 0, now, actions),
        WayIn::Headers { .. } => reserve(facts, deadline, now, actions),
    }
}

/// No number is needed for the URI that is configured, but a trunk is.
fn reserve(facts: &mut Facts, deadline: Instant, now: Instant, actions: &mut Actions) -> CallState {
    let transfer = facts.begin_attempt(now);
    actions.push(CallAction::Reserve(transfer.clone()));
    CallState::Requesting(Requesting { transfer, asking: Asking::Reserving, asked: now, deadline, failures: 0 })
}

/// A customer who was answered before anybody was there to talk to must be heard of in time.
fn dwell(facts: &Facts, actions: &mut Actions) {
    let limit = facts.settings.dwell_limit;
    let unheard = !facts.heard && facts.broken_off.is_none();
    if let (Some(answered), true, false) = (facts.answered, unheard, limit.is_zero()) {
        actions.push(CallAction::Start(CallTimer::DwellLimit, answered + limit));
    }
}

fn create(facts: &mut Facts, deadline: Instant, failures: u8, now: Instant, actions: &mut Actions) -> CallState {
    let transfer = facts.begin_attempt(now);
    actions.push(CallAction::Create(transfer.clone(), deadline.min(now + facts.settings.api_timeout)));
    CallState::Requesting(Requesting { transfer, asking: Asking::Creating, asked: now, deadline, failures })
}

fn settle(facts: &Facts, state: Requesting, now: Instant, actions: &mut Actions) -> CallState {
    let deadline = state.deadline.min(now + facts.settings.api_timeout);
    actions.push(CallAction::Fetch(state.transfer.clone(), deadline));
    CallState::Requesting(Requesting { asking: Asking::Settling, asked: now, ..state })
}

fn requesting(
    facts: &mut Facts,
    state: Requesting,
    now: Instant,
    event: CallEvent,
    actions: &mut Actions,
) -> CallState {
    match event {
        CallEvent::Created(transfer, answer) if transfer == state.transfer && state.asking == Asking::Creating => {
            match answer {
                Ok(transfer) => dial(facts, state, &transfer, now, actions),
                Err(failure) => create_failed(facts, state, &failure, now, actions),
            }
        }
        CallEvent::Fetched(transfer, answer) if transfer == state.transfer && state.asking == Asking::Settling => {
            match answer {
                Ok(transfer) => dial(facts, state, &transfer, now, actions),
                // An API that neither makes a transfer nor knows it is not asked for ever.
                Err(failure)
                    if failure.class == FailureClass::NotFound && usize::from(state.failures) < RETRY_TROUBLE.len() =>
                {
                    facts.attempt_result("never created");
                    create(facts, state.deadline, state.failures + 1, now, actions)
                }
                Err(failure) => settling_failed(facts, state, &failure, now, actions),
            }
        }
        CallEvent::Reserved(transfer, found) if transfer == state.transfer && state.asking == Asking::Reserving => {
            reserved(facts, state, found, now, actions)
        }
        CallEvent::Created(_, answer) => {
            unused(&answer, actions);
            CallState::Requesting(state)
        }
        CallEvent::Timer(CallTimer::RetryDue) => match state.asking {
            Asking::PausingToCreate => create(facts, state.deadline, state.failures, now, actions),
            Asking::PausingToSettle => settle(facts, state, now, actions),
            Asking::Creating | Asking::Settling | Asking::Reserving => CallState::Requesting(state),
        },
        CallEvent::Timer(CallTimer::NumberBudget) => {
            facts.attempt_result("no answer within the budget");
            not_connected(facts, NotConnected::ApiDown, now, actions)
        }
        CallEvent::Leg(LegRole::Customer, event) if event.is_last_word() => {
            customer_gone(facts, &event, facts.phase(), None, now, actions)
        }
        CallEvent::PulledBack => pulled_back(facts, Outcome::Operator, EndedBy::Us, facts.phase(), now, actions),
        CallEvent::Ended => hung_up(facts, facts.phase(), None, now, actions),
        CallEvent::Stopped => stopped(facts, facts.phase(), now, actions),
        CallEvent::Timer(CallTimer::DwellLimit) if !facts.heard => vanished(facts, now, actions),
        CallEvent::Fetched(..)
        | CallEvent::Leg(..)
        | CallEvent::WayFailed(_)
        | CallEvent::Reserved(..)
        | CallEvent::Returned(..)
        | CallEvent::Advised(..)
        | CallEvent::Heard(_)
        | CallEvent::ChangedHands
        | CallEvent::Pressed(..)
        | CallEvent::MediaDead
        | CallEvent::Played
        | CallEvent::Timer(_) => CallState::Requesting(state),
    }
}

/// The URI is dialled at once, where a trunk takes it.
fn reserved(facts: &mut Facts, state: Requesting, found: bool, now: Instant, actions: &mut Actions) -> CallState {
    let ticket = match &facts.settings.way_in {
        WayIn::Headers { uri } if found => DialTicket::of_uri(uri, &state.transfer, now),
        WayIn::Number | WayIn::Sip { .. } | WayIn::Headers { .. } => {
            facts.attempt_result("no trunk");
            return not_connected(facts, NotConnected::TrunkFailed, now, actions);
        }
    };
    place(facts, state.transfer, ticket, now, actions)
}

fn create_failed(
    facts: &mut Facts,
    state: Requesting,
    failure: &ApiFailure,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    note_failure(facts, failure);
    match failure.class {
        FailureClass::Ambiguous | FailureClass::Conflict => settle(facts, state, now, actions),
        FailureClass::ServerError | FailureClass::Unreachable => {
            pause(facts, state, failure, &RETRY_TROUBLE, Asking::PausingToCreate, now, actions)
        }
        FailureClass::Throttled => {
            pause(facts, state, failure, &RETRY_THROTTLED, Asking::PausingToCreate, now, actions)
        }
        FailureClass::InvalidRequest if facts.settings.retry_without_context && !facts.without_context => {
            facts.without_context = true;
            create(facts, state.deadline, state.failures, now, actions)
        }
        FailureClass::InvalidRequest | FailureClass::Refused | FailureClass::Unauthorized | FailureClass::NotFound => {
            not_connected(facts, NotConnected::ApiRefused, now, actions)
        }
        FailureClass::Malformed | FailureClass::Withheld => not_connected(facts, NotConnected::ApiDown, now, actions),
        FailureClass::Shed => not_connected(facts, NotConnected::ApiThrottled, now, actions),
        FailureClass::NoTrunk => not_connected(facts, NotConnected::TrunkFailed, now, actions),
    }
}

fn settling_failed(
    facts: &mut Facts,
    state: Requesting,
    failure: &ApiFailure,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    note_failure(facts, failure);
    match failure.class {
        FailureClass::ServerError | FailureClass::Ambiguous | FailureClass::Unreachable | FailureClass::Shed => {
            pause(facts, state, failure, &RETRY_TROUBLE, Asking::PausingToSettle, now, actions)
        }
        FailureClass::Throttled => {
            pause(facts, state, failure, &RETRY_THROTTLED, Asking::PausingToSettle, now, actions)
        }
        FailureClass::InvalidRequest | FailureClass::Refused | FailureClass::Unauthorized | FailureClass::NotFound => {
            not_connected(facts, NotConnected::ApiRefused, now, actions)
        }
        FailureClass::Conflict | FailureClass::Malformed | FailureClass::Withheld | FailureClass::NoTrunk => {
            not_connected(facts, NotConnected::ApiDown, now, actions)
        }
    }
}

/// Waits as the guidance says, if the budget allows another exchange after it; else falls back at once.
fn pause(
    facts: &mut Facts,
    state: Requesting,
    failure: &ApiFailure,
    guidance: &[Duration; 3],
    then: Asking,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    note_failure(facts, failure);
    let reason =
        if failure.class == FailureClass::Throttled { NotConnected::ApiThrottled } else { NotConnected::ApiDown };
    let due =
        guidance.get(usize::from(state.failures)).map(|&wait| now + wait.max(failure.retry_after.unwrap_or_default()));
    match due.filter(|&due| due < state.deadline) {
        Some(due) => {
            actions.push(CallAction::Start(CallTimer::RetryDue, due));
            CallState::Requesting(Requesting { asking: then, failures: state.failures + 1, ..state })
        }
        None => not_connected(facts, reason, now, actions),
    }
}

fn note_failure(facts: &mut Facts, failure: &ApiFailure) {
    facts.attempt_result(failure.detail.clone());
    facts.evidence.api_failure = Some(failure.detail.clone());
}

pub(super) fn unused(answer: &Result<Transfer, ApiFailure>, actions: &mut Actions) {
    if answer.as_ref().is_ok_and(|transfer| transfer.number.is_some()) {
        actions.push(CallAction::NumberUnused);
    }
}

// --- Dialing -----------------------------------------------------------------------------------------------------

/// Turns the API's answer into a ticket and dials it at once.
fn dial(facts: &mut Facts, state: Requesting, transfer: &Transfer, now: Instant, actions: &mut Actions) -> CallState {
    match DialTicket::issue(&state.transfer, transfer, &facts.settings, state.asked) {
        Ok(ticket) if ticket.guard() <= now => came_too_late(facts, &state, now, actions),
        Ok(ticket) => place(facts, state.transfer, ticket, now, actions),
        Err(why) => {
            facts.attempt_result(why.clone());
            facts.evidence.api_failure = Some(why);
            not_connected(facts, NotConnected::ApiRefused, now, actions)
        }
    }
}

/// Dials by this ticket; enters [`CallState::Dialing`].
fn place(
    facts: &mut Facts,
    transfer: TransferId,
    ticket: DialTicket,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    let guard = ticket.guard();
    facts.dialed(&ticket, now);
    actions.push(CallAction::StopTimers);
    actions.push(CallAction::Start(CallTimer::NumberGuard, guard));
    actions.push(CallAction::Start(CallTimer::RingLimit, now + facts.settings.ring_limit));
    dwell(facts, actions);
    actions.push(CallAction::Dial(ticket.again()));
    CallState::Dialing(Dialing { transfer, guard, ticket: Some(ticket) })
}

/// The answer took as long as the number was safe, or we were too slow to look at it: a fresh number, if the budget
/// allows another exchange.
fn came_too_late(facts: &mut Facts, state: &Requesting, now: Instant, actions: &mut Actions) -> CallState {
    facts.attempt_result("expired");
    actions.push(CallAction::NumberUnused);
    if now < state.deadline && usize::from(state.failures) < RETRY_TROUBLE.len() {
        create(facts, state.deadline, state.failures + 1, now, actions)
    } else {
        not_connected(facts, NotConnected::NumberExpired, now, actions)
    }
}

fn dialing(facts: &mut Facts, state: Dialing, now: Instant, event: CallEvent, actions: &mut Actions) -> CallState {
    match event {
        CallEvent::Leg(LegRole::GenerativeAgent, LegEvent::Answered) if now < state.guard => {
            bridge(facts, state, now, actions)
        }
        // Whatever the timers' order: what answers from its last safe moment on may be somebody else's.
        CallEvent::Leg(LegRole::GenerativeAgent, LegEvent::Answered) | CallEvent::Timer(CallTimer::NumberGuard) => {
            actions.push(CallAction::Abandon(LegRole::GenerativeAgent));
            try_again(facts, "expired", NotConnected::NumberExpired, now, actions)
        }
        CallEvent::Leg(LegRole::GenerativeAgent, LegEvent::Progressed { early_media, .. }) => {
            if early_media && facts.customer == LegStage::Ringing {
                facts.early_media = true;
                actions.push(facts.tell(LegRole::Customer, LegCommand::Ring { early_media }));
                actions.push(CallAction::Connect { with: LegRole::GenerativeAgent, watched: false });
            }
            CallState::Dialing(Dialing { ticket: None, ..state })
        }
        CallEvent::WayFailed(how) => match state.ticket {
            Some(ticket) => {
                facts.genagent = LegStage::Ringing;
                facts.attempt_result(how);
                actions.push(CallAction::Dial(ticket.again()));
                CallState::Dialing(Dialing { ticket: Some(ticket), ..state })
            }
            None => try_again(facts, &how, NotConnected::TrunkFailed, now, actions),
        },
        CallEvent::Leg(LegRole::GenerativeAgent, LegEvent::Refused { status, .. }) => {
            facts.evidence.sip_status = Some(status);
            let reason =
                if status == 480 || status == 408 { NotConnected::NoAnswer } else { NotConnected::TrunkFailed };
            let result = format!("refused {status}");
            match status {
                // The trunk does not want us at all; another number would fare no better.
                401 | 403 | 407 | 600.. => {
                    facts.attempt_result(result);
                    not_connected(facts, reason, now, actions)
                }
                _ => try_again(facts, &result, reason, now, actions),
            }
        }
        CallEvent::Leg(LegRole::GenerativeAgent, LegEvent::Lost(cause)) => {
            let result = match cause {
                LostCause::NoAnswer => "silent",
                LostCause::NoAck | LostCause::UnusableAnswer | LostCause::Expired => "unusable answer",
            };
            try_again(facts, result, NotConnected::TrunkFailed, now, actions)
        }
        CallEvent::Leg(LegRole::GenerativeAgent, LegEvent::HungUp { .. }) => {
            try_again(facts, "hung up", NotConnected::TrunkFailed, now, actions)
        }
        CallEvent::Timer(CallTimer::RingLimit) => {
            actions.push(CallAction::Abandon(LegRole::GenerativeAgent));
            try_again(facts, "rang too long", NotConnected::NoAnswer, now, actions)
        }
        CallEvent::Leg(LegRole::Customer, event) if event.is_last_word() => {
            customer_gone(facts, &event, facts.phase(), None, now, actions)
        }
        CallEvent::Created(_, answer) => {
            unused(&answer, actions);
            CallState::Dialing(state)
        }
        CallEvent::PulledBack => pulled_back(facts, Outcome::Operator, EndedBy::Us, facts.phase(), now, actions),
        CallEvent::Ended => hung_up(facts, facts.phase(), None, now, actions),
        CallEvent::Stopped => stopped(facts, facts.phase(), now, actions),
        CallEvent::Timer(CallTimer::DwellLimit) if !facts.heard => vanished(facts, now, actions),
        CallEvent::Leg(..)
        | CallEvent::Fetched(..)
        | CallEvent::Reserved(..)
        | CallEvent::Returned(..)
        | CallEvent::Advised(..)
        | CallEvent::Heard(_)
        | CallEvent::ChangedHands
        | CallEvent::Pressed(..)
        | CallEvent::MediaDead
        | CallEvent::Played
        | CallEvent::Timer(_) => CallState::Dialing(state),
    }
}

/// A number is spent for good, whatever became of it: a fresh one, or the fallback. There is no fresh one for a URI that is
/// configured, and where it did not work it would not a second time.
fn try_again(facts: &mut Facts, result: &str, reason: NotConnected, now: Instant, actions: &mut Actions) -> CallState {
    facts.attempt_result(result);
    facts.genagent = LegStage::None;
    if facts.early_media && facts.customer == LegStage::Ringing {
        actions.push(CallAction::Play(Sound::Ringback));
    }
    if facts.settings.way_in.asks_api() && facts.dialled < facts.settings.max_attempts {
        request_number(facts, now, actions)
    } else {
        not_connected(facts, reason, now, actions)
    }
}

// --- Bridged -----------------------------------------------------------------------------------------------------

/// GenerativeAgent has answered: now the customer is answered, unless it was before: at once, or because it waits for its
/// conversation to be resumed.
fn bridge(facts: &mut Facts, state: Dialing, now: Instant, actions: &mut Actions) -> CallState {
    facts.genagent_answered(now);
    facts.broken_off = None;
    actions.push(CallAction::StopTimers);
    let limit = facts.answered.unwrap_or(now) + facts.settings.max_duration;
    actions.push(CallAction::Start(CallTimer::MaxDuration, limit));
    let CallSettings { verify_after, way_in, .. } = &*facts.settings;
    if *verify_after > Duration::ZERO && way_in.asks_api() {
        actions.push(CallAction::Start(CallTimer::VerifyDue, now + *verify_after));
    }
    let party = if way_in.asks_api() { Party::Unverified } else { Party::Accepted };
    facts.record_if_due(actions);
    // The relay first: what is said right after the answer is heard.
    actions.push(CallAction::Connect { with: LegRole::GenerativeAgent, watched: true });
    if facts.customer == LegStage::Ringing {
        facts.answer(now, actions);
    }
    CallState::Bridged(Bridged { transfer: state.transfer, party, escape: Escape::default() })
}

fn bridged(facts: &mut Facts, state: Bridged, now: Instant, event: CallEvent, actions: &mut Actions) -> CallState {
    match event {
        // GenerativeAgent hung up. Its BYE is answered already; the customer waits while we ask why.
        CallEvent::Leg(LegRole::GenerativeAgent, LegEvent::HungUp { .. }) => match facts.settings.way_in.asks_api() {
            true => collect(facts, state, Left::HungUp, now, actions),
            false => untold(facts, now, actions),
        },
        CallEvent::Leg(LegRole::GenerativeAgent, LegEvent::Lost(_) | LegEvent::Refused { .. })
        | CallEvent::MediaDead => {
            let verdict = facts.verdict(Outcome::GenagentLost, EndedBy::Network, Phase::Talking);
            broken_off(facts, verdict, now, actions)
        }
        CallEvent::Leg(LegRole::GenerativeAgent, LegEvent::TransferAsked(referral)) => {
            actions.push(facts.tell(LegRole::GenerativeAgent, LegCommand::Accept));
            actions.push(facts.tell(LegRole::GenerativeAgent, LegCommand::Report(200)));
            returned(facts, state, &referral.headers, now, actions)
        }
        CallEvent::Returned(transfer, headers) if transfer == state.transfer => {
            actions.push(CallAction::TakeBack);
            returned(facts, state, &headers, now, actions)
        }
        CallEvent::Timer(CallTimer::VerifyDue) => {
            actions.push(CallAction::Verify(state.transfer.clone(), now + facts.settings.api_timeout));
            CallState::Bridged(state)
        }
        CallEvent::Fetched(transfer, answer) if transfer == state.transfer && state.party != Party::Accepted => {
            verified(facts, state, answer, now, actions)
        }
        CallEvent::Leg(LegRole::Customer, event) if event.is_last_word() => {
            customer_gone(facts, &event, Phase::Talking, None, now, actions)
        }
        CallEvent::Leg(role, LegEvent::Informed(info)) if role != LegRole::Onward => {
            let other = if role == LegRole::Customer { LegRole::GenerativeAgent } else { LegRole::Customer };
            match facts.inform(other, info, actions) {
                Some(digit) => pressed(facts, state, role, digit, now, actions),
                None => CallState::Bridged(state),
            }
        }
        CallEvent::Pressed(role, digit) if role != LegRole::Onward => {
            let other = if role == LegRole::Customer { LegRole::GenerativeAgent } else { LegRole::Customer };
            actions.push(CallAction::Pass(other, Press::Heard(digit)));
            pressed(facts, state, role, digit, now, actions)
        }
        CallEvent::Timer(CallTimer::MaxDuration) => {
            pulled_back(facts, Outcome::MaxDuration, EndedBy::Us, Phase::Talking, now, actions)
        }
        CallEvent::PulledBack => pulled_back(facts, Outcome::Operator, EndedBy::Us, Phase::Talking, now, actions),
        CallEvent::Ended => hung_up(facts, Phase::Talking, None, now, actions),
        CallEvent::Stopped => stopped(facts, Phase::Talking, now, actions),
        CallEvent::Created(_, answer) => {
            unused(&answer, actions);
            CallState::Bridged(state)
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
        | CallEvent::Played => CallState::Bridged(state),
    }
}

/// A key was pressed, and has reached the other side: it may be the one by which the customer takes the call back.
fn pressed(
    facts: &mut Facts,
    mut state: Bridged,
    role: LegRole,
    digit: Digit,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    let CallSettings { escape, escape_pause, .. } = &*facts.settings;
    if role == LegRole::Customer && state.escape.press(digit, escape, *escape_pause, now) {
        return pulled_back(facts, Outcome::Operator, EndedBy::Customer, Phase::Talking, now, actions);
    }
    CallState::Bridged(state)
}

/// GenerativeAgent hung up and left nothing behind, and nobody can be asked: the customer is handed back at once.
fn untold(facts: &mut Facts, now: Instant, actions: &mut Actions) -> CallState {
    facts.evidence.api_failure = Some("not asked: the API knows nothing of this call".to_owned());
    actions.push(CallAction::Play(Sound::Waiting));
    genagent_ended(facts, Outcome::Unspecified, now, actions)
}

/// GenerativeAgent hands back, by REFER or by an INVITE of its own: what its headers say is its outputContext, and whom it
/// names is not called. Its leg ends as soon as it has been told that this was done. Headers that name no transferType
/// are no outputContext: the API has it, where there is one.
fn returned(
    facts: &mut Facts,
    state: Bridged,
    headers: &[(String, String)],
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    facts.genagent_ended = Some(now);
    facts.hang_up(LegRole::GenerativeAgent, Cause::NORMAL, actions);
    let output = OutputContext::of_headers(headers);
    if output.transfer_type.is_none() && facts.settings.way_in.asks_api() {
        return collect(facts, state, Left::GaveBack, now, actions);
    }
    let outcome = learn_output(facts, Some(output));
    let verdict = facts.verdict(outcome, EndedBy::Genagent, Phase::Talking);
    actions.push(CallAction::Play(Sound::Waiting));
    hand_back(facts, verdict, now, actions)
}

/// What the API says of the party that answered. Only its word that no call of ours arrived cuts the leg: an API that
/// cannot tell does not end a conversation.
fn verified(
    facts: &mut Facts,
    state: Bridged,
    answer: Result<Transfer, ApiFailure>,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    let status = answer.ok().and_then(|transfer| transfer.status);
    match (status, state.party) {
        (Some(TransferStatus::Active), Party::Unverified) => {
            actions.push(CallAction::Start(CallTimer::VerifyDue, now + facts.settings.verify_after));
            CallState::Bridged(Bridged { party: Party::Doubtful, ..state })
        }
        (Some(status @ (TransferStatus::Active | TransferStatus::Expired)), _) => {
            facts.attempt_result("misdirected");
            facts.evidence.api_status = Some(status.as_str().to_owned());
            actions.push(CallAction::Misdirected(state.transfer));
            let verdict = facts.verdict(Outcome::Misdirected, EndedBy::Us, Phase::Talking);
            broken_off(facts, verdict, now, actions)
        }
        _ => CallState::Bridged(Bridged { party: Party::Accepted, ..state }),
    }
}

/// The conversation broke off before GenerativeAgent had finished. Where that is permitted, the customer is parked and
/// goes on where it stopped, through a fresh number; else the customer is handed back.
fn broken_off(facts: &mut Facts, verdict: Verdict, now: Instant, actions: &mut Actions) -> CallState {
    // A stranger was no conversation: a fresh number is the first one's due.
    let free = verdict.outcome == Outcome::Misdirected && facts.dialled < facts.settings.max_attempts;
    let resumed = facts.resumed < facts.settings.resume_attempts;
    if facts.customer != LegStage::Up || !(free || resumed) {
        facts.hang_up(LegRole::GenerativeAgent, Cause::FAILURE, actions);
        return hand_back(facts, verdict, now, actions);
    }
    if !free {
        facts.resumed += 1;
        facts.dialled = 0;
    }
    actions.push(CallAction::Abandon(LegRole::GenerativeAgent));
    facts.genagent = LegStage::None;
    facts.broken_off = Some(verdict);
    actions.push(CallAction::Play(Sound::Waiting));
    request_number(facts, now, actions)
}

// --- Collecting --------------------------------------------------------------------------------------------------

/// Parks the customer and asks for the outputContext; enters [`CallState::Collecting`].
fn collect(facts: &mut Facts, state: Bridged, left: Left, now: Instant, actions: &mut Actions) -> CallState {
    let deadline = now + facts.settings.collect_limit;
    actions.push(CallAction::StopTimers);
    actions.push(CallAction::Play(Sound::Waiting));
    actions.push(CallAction::Start(CallTimer::CollectLimit, deadline));
    let collecting = Collecting { transfer: state.transfer, left, deadline, fetching: false, polls: 0, failures: 0 };
    fetch(facts, collecting, actions)
}

fn fetch(facts: &mut Facts, state: Collecting, actions: &mut Actions) -> CallState {
    facts.evidence.polls = facts.evidence.polls.saturating_add(1);
    actions.push(CallAction::Fetch(state.transfer.clone(), state.deadline));
    CallState::Collecting(Collecting { fetching: true, polls: state.polls.saturating_add(1), ..state })
}

fn collecting(
    facts: &mut Facts,
    state: Collecting,
    now: Instant,
    event: CallEvent,
    actions: &mut Actions,
) -> CallState {
    match event {
        // Also the late answer to a look-up of the time before: whoever says COMPLETED is right.
        CallEvent::Fetched(transfer, answer) if transfer == state.transfer => {
            collected(facts, Collecting { fetching: false, ..state }, answer, now, actions)
        }
        CallEvent::Timer(CallTimer::PollDue) if !state.fetching => fetch(facts, state, actions),
        CallEvent::Timer(CallTimer::CollectLimit) => {
            let told = facts.evidence.api_status.is_some();
            let outcome = if told { incomplete(&state) } else { Outcome::ContextMissing };
            genagent_ended(facts, outcome, now, actions)
        }
        // It said goodbye before it brought the customer back.
        CallEvent::Returned(transfer, headers) if transfer == state.transfer && state.left == Left::HungUp => {
            actions.push(CallAction::TakeBack);
            let output = OutputContext::of_headers(&headers);
            match output.transfer_type {
                Some(_) => {
                    let outcome = learn_output(facts, Some(output));
                    genagent_ended(facts, outcome, now, actions)
                }
                None => CallState::Collecting(Collecting { left: Left::GaveBack, ..state }),
            }
        }
        CallEvent::Leg(LegRole::Customer, event) if event.is_last_word() => {
            let fetching = state.fetching.then_some(state.transfer);
            customer_gone(facts, &event, Phase::Collecting, fetching, now, actions)
        }
        CallEvent::PulledBack => pulled_back(facts, Outcome::Operator, EndedBy::Us, Phase::Collecting, now, actions),
        CallEvent::Ended => {
            let fetching = state.fetching.then_some(state.transfer);
            hung_up(facts, Phase::Collecting, fetching, now, actions)
        }
        CallEvent::Stopped => stopped(facts, Phase::Collecting, now, actions),
        CallEvent::Created(_, answer) => {
            unused(&answer, actions);
            CallState::Collecting(state)
        }
        CallEvent::Fetched(..)
        | CallEvent::Leg(..)
        | CallEvent::WayFailed(_)
        | CallEvent::Reserved(..)
        | CallEvent::Returned(..)
        | CallEvent::Advised(..)
        | CallEvent::Heard(_)
        | CallEvent::ChangedHands
        | CallEvent::Pressed(..)
        | CallEvent::Timer(_)
        | CallEvent::MediaDead
        | CallEvent::Played => CallState::Collecting(state),
    }
}

fn collected(
    facts: &mut Facts,
    state: Collecting,
    answer: Result<Transfer, ApiFailure>,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    match answer {
        Ok(transfer) => {
            let status = transfer.status.clone();
            let outcome = learn(facts, transfer);
            match status {
                Some(TransferStatus::Completed) => genagent_ended(facts, outcome, now, actions),
                Some(TransferStatus::Expired) => genagent_ended(facts, incomplete(&state), now, actions),
                _ => {
                    let wait = POLLS[usize::from(state.polls.saturating_sub(1)).min(POLLS.len() - 1)];
                    actions.push(CallAction::Start(CallTimer::PollDue, now + wait));
                    CallState::Collecting(Collecting { failures: 0, ..state })
                }
            }
        }
        Err(failure) => {
            facts.evidence.api_failure = Some(failure.detail.clone());
            let guidance = match failure.class {
                FailureClass::Throttled => &RETRY_THROTTLED,
                FailureClass::ServerError | FailureClass::Ambiguous | FailureClass::Unreachable => &RETRY_TROUBLE,
                FailureClass::Shed => &RETRY_SHED,
                FailureClass::InvalidRequest
                | FailureClass::Refused
                | FailureClass::Unauthorized
                | FailureClass::NotFound
                | FailureClass::Conflict
                | FailureClass::Malformed
                | FailureClass::Withheld
                | FailureClass::NoTrunk => return genagent_ended(facts, Outcome::ContextMissing, now, actions),
            };
            let wait = guidance[usize::from(state.failures).min(2)].max(failure.retry_after.unwrap_or_default());
            actions.push(CallAction::Start(CallTimer::PollDue, now + wait));
            CallState::Collecting(Collecting { failures: state.failures.saturating_add(1), ..state })
        }
    }
}

/// The API does not say COMPLETED. After a BYE the conversation may go on; one that was given back is over.
fn incomplete(state: &Collecting) -> Outcome {
    match state.left {
        Left::HungUp => Outcome::Unconfirmed,
        Left::GaveBack => Outcome::ContextMissing,
    }
}

/// Keeps what the API says; the outcome it stands for if the transfer is COMPLETED.
fn learn(facts: &mut Facts, transfer: Transfer) -> Outcome {
    facts.evidence.api_status = transfer.status.as_ref().map(|status| status.as_str().to_owned());
    learn_output(facts, transfer.output)
}

/// The same of the outputContext alone, however it came.
fn learn_output(facts: &mut Facts, output: Option<OutputContext>) -> Outcome {
    facts.output = output;
    let kind = facts.output.as_ref().and_then(|output| output.transfer_type.clone());
    facts.evidence.transfer_type =
        kind.as_ref().map(|kind| kind.chars().filter(|c| !c.is_control()).take(64).collect());
    match kind.as_deref().map(str::to_ascii_uppercase).as_deref() {
        Some("AGENT") => Outcome::Agent,
        Some("SYSTEM") => Outcome::System,
        _ => Outcome::Unspecified,
    }
}

fn genagent_ended(facts: &mut Facts, outcome: Outcome, now: Instant, actions: &mut Actions) -> CallState {
    let verdict = facts.verdict(outcome, EndedBy::Genagent, Phase::Talking);
    if outcome == Outcome::Unconfirmed {
        return broken_off(facts, verdict, now, actions);
    }
    hand_back(facts, verdict, now, actions)
}

// --- Releasing ---------------------------------------------------------------------------------------------------

/// GenerativeAgent was never reached: the customer falls back to what the rules say, answered or not.
fn not_connected(facts: &mut Facts, reason: NotConnected, now: Instant, actions: &mut Actions) -> CallState {
    facts.evidence.not_connected = Some(reason);
    if let Some(verdict) = facts.broken_off.take() {
        let verdict = Verdict { evidence: facts.evidence.clone(), ..verdict };
        return hand_back(facts, verdict, now, actions);
    }
    let ended_by = if reason == NotConnected::TrunkFailed { EndedBy::Network } else { EndedBy::Us };
    let verdict = facts.verdict(Outcome::NotConnected, ended_by, Phase::BeforeAnswer);
    hand_back(facts, verdict, now, actions)
}

/// The customer's leg has ended: GenerativeAgent's follows, nothing is handed back.
pub(super) fn customer_gone(
    facts: &mut Facts,
    event: &LegEvent,
    phase: Phase,
    fetching: Option<TransferId>,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    let (outcome, ended_by, cause) = match event {
        LegEvent::HungUp { by: Side::Far, .. } => (Outcome::CustomerHungUp, EndedBy::Customer, Cause::NORMAL),
        // We could not answer what it offered.
        LegEvent::HungUp { by: Side::Us, .. } => (Outcome::NotConnected, EndedBy::Us, Cause::INCOMPATIBLE),
        _ => (Outcome::CustomerHungUp, EndedBy::Network, Cause::TIMEOUT),
    };
    facts.hang_up(LegRole::GenerativeAgent, cause, actions);
    let verdict = facts.verdict(outcome, ended_by, phase);
    release(facts, verdict, fetching, now, actions)
}

/// A customer who was answered first, and from whom nothing has come: nobody is there (flow A13).
fn vanished(facts: &mut Facts, now: Instant, actions: &mut Actions) -> CallState {
    facts.hang_up(LegRole::Customer, Cause::TIMEOUT, actions);
    facts.hang_up(LegRole::GenerativeAgent, Cause::TIMEOUT, actions);
    let verdict = facts.verdict(Outcome::CustomerHungUp, EndedBy::Network, facts.phase());
    release(facts, verdict, None, now, actions)
}

/// Somebody, the customer itself or a limit takes the customer back from GenerativeAgent.
fn pulled_back(
    facts: &mut Facts,
    outcome: Outcome,
    ended_by: EndedBy,
    phase: Phase,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    facts.hang_up(LegRole::GenerativeAgent, Cause::NORMAL, actions);
    let verdict = facts.verdict(outcome, ended_by, phase);
    hand_back(facts, verdict, now, actions)
}

/// A person ends the call: both legs end, with a reason.
fn hung_up(
    facts: &mut Facts,
    phase: Phase,
    fetching: Option<TransferId>,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    facts.hang_up(LegRole::GenerativeAgent, Cause::NORMAL, actions);
    dismissed(facts, Outcome::Operator, phase, fetching, now, actions)
}

/// The program stops: both legs end, with a reason.
fn stopped(facts: &mut Facts, phase: Phase, now: Instant, actions: &mut Actions) -> CallState {
    facts.hang_up(LegRole::GenerativeAgent, Cause::FAILURE, actions);
    dismissed(facts, Outcome::Drained, phase, None, now, actions)
}

/// The customer is sent away with what is known, by no rule.
fn dismissed(
    facts: &mut Facts,
    outcome: Outcome,
    phase: Phase,
    fetching: Option<TransferId>,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    let verdict = facts.verdict(outcome, EndedBy::Us, phase);
    let carry = facts.context(outcome, facts.profile()).with_reason(outcome);
    actions.push(CallAction::Leg(LegRole::Customer, facts.farewell(outcome), carry));
    release(facts, verdict, fetching, now, actions)
}

/// Decided: enters [`CallState::Releasing`], or ends at once where nothing is owed.
fn release(
    facts: &mut Facts,
    verdict: Verdict,
    fetching: Option<TransferId>,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    give_up(facts, actions);
    facts.decided = Some(now);
    actions.push(CallAction::StopTimers);
    actions.push(CallAction::Start(CallTimer::ReleaseLimit, now + facts.settings.release_limit));
    actions.push(facts.publish(verdict.outcome.as_str()));
    released(facts, Releasing { verdict, fetching }, now, actions)
}

fn releasing(facts: &mut Facts, state: Releasing, now: Instant, event: CallEvent, actions: &mut Actions) -> CallState {
    match event {
        CallEvent::Leg(_, event) if event.is_last_word() => released(facts, state, now, actions),
        CallEvent::Fetched(transfer, answer) if Some(&transfer) == state.fetching.as_ref() => {
            let mut verdict = state.verdict;
            if let Ok(transfer) = answer {
                learn(facts, transfer);
                verdict.evidence = facts.evidence.clone();
                actions.push(facts.publish(verdict.outcome.as_str()));
            }
            released(facts, Releasing { verdict, fetching: None }, now, actions)
        }
        CallEvent::Timer(CallTimer::ReleaseLimit) => end(facts, state.verdict, now, actions),
        CallEvent::Created(_, answer) => {
            unused(&answer, actions);
            CallState::Releasing(state)
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
        | CallEvent::Stopped => CallState::Releasing(state),
    }
}

/// Ends the call once every leg has spoken its last word and no context is awaited.
pub(super) fn released(facts: &mut Facts, state: Releasing, now: Instant, actions: &mut Actions) -> CallState {
    if facts.is_quiet() && state.fetching.is_none() {
        return end(facts, state.verdict, now, actions);
    }
    CallState::Releasing(state)
}

// --- Ended -------------------------------------------------------------------------------------------------------

/// The one record of the call.
pub(super) fn end(facts: &mut Facts, verdict: Verdict, now: Instant, actions: &mut Actions) -> CallState {
    actions.push(CallAction::StopTimers);
    actions.push(CallAction::End(Box::new(facts.record(verdict, now))));
    CallState::Ended
}

fn ended(event: CallEvent, actions: &mut Actions) -> CallState {
    if let CallEvent::Created(_, answer) = event {
        unused(&answer, actions);
    }
    CallState::Ended
}

impl Facts {
    /// Where in its life a call is while a number is asked for or dialled.
    fn phase(&self) -> Phase {
        if self.broken_off.is_some() { Phase::Talking } else { Phase::BeforeAnswer }
    }

    pub(super) fn verdict(&self, outcome: Outcome, ended_by: EndedBy, phase: Phase) -> Verdict {
        Verdict { outcome, ended_by, phase, evidence: self.evidence.clone() }
    }
}
