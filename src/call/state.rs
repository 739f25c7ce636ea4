//! The call: where it stands, and what is known of it whatever it stands at.

use std::sync::Arc;
use std::time::Instant;

use super::asapp::OutputContext;
use super::context::{Carry, PublishedContext};
use super::event::{CallAction, CallEvent, Sound};
use super::intake::Intake;
use super::record::{AttemptRecord, CallRecord, Epoch, HandBackRecord, masked};
use super::settings::{CallSettings, Ringing};
use super::ticket::DialTicket;
use super::verdict::{Evidence, Outcome, Verdict};
use super::{CallRef, TransferId, step};
use crate::leg::{Cause, LegCommand, LegEvent, LegRole, MediaCounters};

/// Where a call stands. Reading down `step.rs` is living through it:
///
/// ```text
/// Requesting -> Dialing -> Bridged -> Collecting -> HandingBack -> Releasing -> Ended
///      ^           |          |            |             ^             ^
///      +-----------+          +------------+-------------+-------------+
/// ```
#[derive(Debug, PartialEq)]
pub enum CallState {
    /// A number is being asked for; the customer hears ringing.
    Requesting(Requesting),
    /// The number is being dialled; the customer hears ringing.
    Dialing(Dialing),
    /// Both talk.
    Bridged(Bridged),
    /// GenerativeAgent has hung up; the customer waits while its outputContext is fetched.
    Collecting(Collecting),
    /// The customer is on the way back to the IVR.
    HandingBack(Verdict),
    /// Decided; legs still owe their last word.
    Releasing(Releasing),
    /// Over.
    Ended,
}

/// A number is being asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requesting {
    /// The transfer asked for.
    pub transfer: TransferId,
    /// What is under way.
    pub asking: Asking,
    /// When the budget is spent.
    pub deadline: Instant,
    /// Exchanges that failed in this request.
    pub failures: u8,
}

/// What is under way at the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// A create.
    Creating,
    /// A create's outcome is unknown; a fetch of the same id settles it.
    Settling,
    /// Nothing: a create follows when `RetryDue` fires.
    PausingToCreate,
    /// Nothing: a fetch of the same id follows when `RetryDue` fires.
    PausingToSettle,
}

/// The number is being dialled.
#[derive(Debug, PartialEq, Eq)]
pub struct Dialing {
    /// Its transfer.
    pub transfer: TransferId,
    /// Its last safe moment.
    pub guard: Instant,
    /// The right to dial the same number by another way, until somebody there shows a sign of connection.
    pub ticket: Option<DialTicket>,
}

/// Both talk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridged {
    /// The transfer.
    pub transfer: TransferId,
    /// What the API said of the party that answered.
    pub party: Party,
}

/// Whether the party that answered is ours (design section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// Not asked yet.
    Unverified,
    /// The API had heard of no call when it was asked; it is asked once more.
    Doubtful,
    /// It is ours, or the API could not tell.
    Accepted,
}

/// The outputContext is being fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collecting {
    /// The transfer.
    pub transfer: TransferId,
    /// When it is too late.
    pub deadline: Instant,
    /// Whether a fetch is under way.
    pub fetching: bool,
    /// Fetches since GenerativeAgent hung up.
    pub polls: u8,
    /// Exchanges that failed in a row.
    pub failures: u8,
}

/// Decided; legs still owe their last word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Releasing {
    /// How it ended.
    pub verdict: Verdict,
    /// A fetch still under way; its context is kept for the record.
    pub fetching: Option<TransferId>,
}

impl CallState {
    /// The state's name, for logs and the admin API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Requesting(_) => "requesting",
            Self::Dialing(_) => "dialing",
            Self::Bridged(_) => "bridged",
            Self::Collecting(_) => "collecting",
            Self::HandingBack(_) => "handing_back",
            Self::Releasing(_) => "releasing",
            Self::Ended => "ended",
        }
    }
}

/// How far a leg has come, as far as the call must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegStage {
    /// There is none.
    None,
    /// Not answered yet.
    Ringing,
    /// Answered.
    Up,
    /// It has spoken its last word.
    Over,
}

/// What is known of a call, whatever its state.
#[derive(Debug)]
pub struct Facts {
    /// Our id.
    pub call: CallRef,
    /// What the call decides by.
    pub settings: Arc<CallSettings>,
    /// Monotonic and wall time, to write times down.
    pub epoch: Epoch,
    /// What the first request said.
    pub intake: Intake,
    /// The context reference.
    pub reference: String,
    /// The INVITE arrived.
    pub received: Instant,
    /// The customer was answered.
    pub answered: Option<Instant>,
    /// Whether the customer has been given something to hear before the answer.
    pub early_media: bool,
    /// GenerativeAgent hung up.
    pub genagent_ended: Option<Instant>,
    /// The verdict was reached.
    pub decided: Option<Instant>,
    /// The customer leg.
    pub customer: LegStage,
    /// The current GenerativeAgent leg.
    pub genagent: LegStage,
    /// Transfers asked for.
    pub attempts: Vec<AttemptRecord>,
    /// Numbers dialled since there was last a conversation.
    pub dialled: u8,
    /// Conversations reconnected.
    pub resumed: u8,
    /// The verdict of the conversation that broke off and is being reconnected.
    pub broken_off: Option<Verdict>,
    /// What the verdict will rest on.
    pub evidence: Evidence,
    /// The outputContext, once known.
    pub output: Option<OutputContext>,
    /// How the customer was handed back.
    pub hand_back: Option<HandBackRecord>,
}

/// One supervised transfer.
#[derive(Debug)]
pub struct Call {
    /// What is known.
    pub facts: Facts,
    state: CallState,
}

impl Call {
    /// A customer is at the door: ring, and ask for a number.
    pub fn begin(
        call: CallRef,
        reference: String,
        intake: Intake,
        settings: Arc<CallSettings>,
        epoch: Epoch,
        now: Instant,
        actions: &mut Vec<CallAction>,
    ) -> Self {
        let mut facts = Facts {
            call,
            intake,
            settings,
            epoch,
            reference,
            received: now,
            answered: None,
            early_media: false,
            genagent_ended: None,
            decided: None,
            customer: LegStage::Ringing,
            genagent: LegStage::None,
            attempts: Vec::new(),
            dialled: 0,
            resumed: 0,
            broken_off: None,
            evidence: Evidence::default(),
            output: None,
            hand_back: None,
        };
        let early_media = facts.settings.ringing == Ringing::EarlyMedia;
        actions.push(facts.tell(LegRole::Customer, LegCommand::Ring { early_media }));
        if early_media {
            facts.early_media = true;
            actions.push(CallAction::Play(Sound::Ringback));
        }
        actions.push(facts.publish("in_progress"));
        let state = step::request_number(&mut facts, now, actions);
        Self { facts, state }
    }

    /// A call in a given state, for the living table.
    pub fn at(facts: Facts, state: CallState) -> Self {
        Self { facts, state }
    }

    /// Where it stands.
    pub fn state(&self) -> &CallState {
        &self.state
    }

    /// One event: the old state is consumed, the new one kept, what is wanted is appended to `actions`.
    pub fn step(&mut self, now: Instant, event: CallEvent, actions: &mut Vec<CallAction>) {
        self.facts.note(now, &event);
        let state = std::mem::replace(&mut self.state, CallState::Ended);
        self.state = step::step(&mut self.facts, state, now, event, actions);
    }
}

impl Facts {
    /// Keeps what every state must know: how far the legs have come.
    fn note(&mut self, now: Instant, event: &CallEvent) {
        if let CallEvent::Leg(role, event) = event {
            let stage = match role {
                LegRole::Customer => &mut self.customer,
                LegRole::GenerativeAgent => &mut self.genagent,
            };
            match event {
                LegEvent::Answered => *stage = LegStage::Up,
                last_word if last_word.is_last_word() => *stage = LegStage::Over,
                _ => {}
            }
            if *role == LegRole::GenerativeAgent && event.is_last_word() {
                self.genagent_ended = Some(now);
            }
            if let LegEvent::HungUp { reason: Some(reason), .. } | LegEvent::Refused { reason: Some(reason), .. } =
                event
            {
                self.evidence.reason = Some(reason.clone());
            }
        }
    }

    /// A command whose message carries the context reference.
    pub fn tell(&self, role: LegRole, command: LegCommand) -> CallAction {
        let carry = match role {
            LegRole::Customer => Carry::reference(&self.reference, &self.settings.context),
            LegRole::GenerativeAgent => Carry::default(),
        };
        CallAction::Leg(role, command, carry)
    }

    /// Hang up a leg that is still there.
    pub fn hang_up(&self, role: LegRole, cause: Cause, actions: &mut Vec<CallAction>) {
        let stage = if role == LegRole::Customer { self.customer } else { self.genagent };
        if matches!(stage, LegStage::Ringing | LegStage::Up) {
            actions.push(CallAction::Leg(role, LegCommand::HangUp(cause), Carry::default()));
        }
    }

    /// Whether every leg has spoken its last word.
    pub fn is_quiet(&self) -> bool {
        let over = |stage| matches!(stage, LegStage::None | LegStage::Over);
        over(self.customer) && over(self.genagent)
    }

    /// What the reference shows now.
    pub fn publish(&self, outcome: &str) -> CallAction {
        CallAction::Publish(Box::new(PublishedContext {
            reference: self.reference.clone(),
            call: self.call,
            customer_call_id: self.intake.call_id.clone(),
            conversation: self.intake.conversation.clone(),
            outcome: outcome.to_owned(),
            output: self.output.clone(),
        }))
    }

    /// What a hand-back with this outcome carries; remembered for the record.
    pub fn carry(&mut self, outcome: Outcome, rung: &'static str) -> Carry {
        let (conversation, output) = (&self.intake.conversation.0, self.output.as_ref());
        let carry = Carry::hand_back(outcome, conversation, output, &self.reference, &self.settings.context);
        self.hand_back = Some(HandBackRecord { rung, values_sent: carry.sent, values_left_out: carry.left_out });
        carry
    }

    /// A new transfer is asked for.
    pub fn begin_attempt(&mut self, now: Instant) -> TransferId {
        let transfer = self.call.transfer(self.attempts.len() as u8 + 1);
        self.attempts.push(AttemptRecord {
            transfer: transfer.clone(),
            number: None,
            requested_at: self.epoch.unix_ms(now),
            dialed_at: None,
            answered_at: None,
            trunks: Vec::new(),
            result: "requested".to_owned(),
        });
        transfer
    }

    /// The current transfer's number is dialled.
    pub fn dialed(&mut self, ticket: &DialTicket, now: Instant) {
        let at = self.epoch.unix_ms(now);
        self.genagent = LegStage::Ringing;
        self.genagent_ended = None;
        self.dialled += 1;
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.number = Some(masked(ticket.number()));
            attempt.dialed_at = Some(at);
            attempt.result = "dialed".to_owned();
        }
    }

    /// The number's INVITE leaves by this trunk.
    pub fn leaves_by(&mut self, trunk: &str) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.trunks.push(trunk.to_owned());
        }
    }

    /// GenerativeAgent answered.
    pub fn genagent_answered(&mut self, now: Instant) {
        let at = self.epoch.unix_ms(now);
        self.answered.get_or_insert(now);
        self.attempt_result("answered");
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.answered_at = Some(at);
        }
    }

    /// What became of the current attempt.
    pub fn attempt_result(&mut self, result: impl Into<String>) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.result = result.into();
        }
    }

    /// The record, without media counters, which the holder adds.
    pub fn record(&self, verdict: Verdict, now: Instant) -> CallRecord {
        let wall = |at| self.epoch.unix_ms(at);
        let none: Option<MediaCounters> = None;
        CallRecord {
            call: self.call,
            conversation: self.intake.conversation.clone(),
            conversation_source: self.intake.source,
            resumes: self.intake.resumes,
            customer_call_id: self.intake.call_id.clone(),
            caller: masked(&self.intake.caller),
            dialled: masked(&self.intake.dialled),
            task: self.intake.task.clone(),
            input_variables: self.intake.variables.iter().map(|(name, _)| name.clone()).collect(),
            input_left_out: self.intake.left_out,
            received_at: wall(self.received),
            answered_at: self.answered.map(wall),
            decided_at: wall(self.decided.unwrap_or(now)),
            ended_at: wall(now),
            attempts: self.attempts.clone(),
            verdict,
            hand_back: self.hand_back.clone(),
            context_ref: self.reference.clone(),
            customer_media: none,
            genagent_media: none,
        }
    }
}
