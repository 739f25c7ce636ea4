//! The call: where it stands, and what is known of it whatever it stands at.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::asapp::{CreateTransfer, OutputContext, SipReturn, TransferKind};
use super::context::{Carry, Known, PublishedContext};
use super::escape::{Digit, Escape};
use super::event::{CallAction, CallEvent, CallTimer, Press, Sound};
use super::intake::Intake;
use super::record::{AttemptRecord, CallRecord, Epoch, HandBackRecord, RungRecord, masked};
use super::recording::Recording;
use super::rules::{self, DEFAULT_TARGET, Entry, Rung, Situation};
use super::settings::{Answer, BodyForm, CallSettings, ContextSettings, Ringing, WayIn};
use super::succession::{Succession, succession};
use super::ticket::DialTicket;
use super::verdict::{Evidence, Outcome, Verdict};
use super::{CallRef, TransferId, input, step};
use crate::leg::{Cause, Info, LegCommand, LegEvent, LegRole, MediaCounters};

/// How finely the room inside a URI is fitted.
const FITTINGS: usize = 16;
/// What a rung has brought as long as it is tried.
const UNDER_WAY: &str = "under way";

/// Where a call stands. Reading down `step.rs` is living through it:
///
/// ```text
/// Inviting -> Requesting -> Dialing -> Bridged -> Collecting -> HandingBack -> Releasing -> Ended
///                  ^           |          |            |             ^             ^
///                  +-----------+          +------------+-------------+-------------+
/// ```
#[derive(Debug, PartialEq)]
pub enum CallState {
    /// The customer's side is being called, because a REFER asked for it.
    Inviting,
    /// A number is being asked for, or only a trunk looked for; the customer hears ringing.
    Requesting(Requesting),
    /// The number is being dialled; the customer hears ringing.
    Dialing(Dialing),
    /// Both talk.
    Bridged(Bridged),
    /// GenerativeAgent has left; the customer waits while its outputContext is fetched.
    Collecting(Collecting),
    /// The customer is being handed back, or has been and talks with whoever took over.
    HandingBack(HandingBack),
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
    /// When the last exchange was begun: a number that it brings lives at most from then on.
    pub asked: Instant,
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
    /// A trunk is looked for; the API is not asked.
    Reserving,
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
    /// How far the customer has come with taking the call back.
    pub escape: Escape,
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
    /// How GenerativeAgent left.
    pub left: Left,
    /// When it is too late.
    pub deadline: Instant,
    /// Whether a fetch is under way.
    pub fetching: bool,
    /// Fetches since GenerativeAgent hung up.
    pub polls: u8,
    /// Exchanges that failed in a row.
    pub failures: u8,
}

/// How GenerativeAgent left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// By BYE, which may as well have been a network's.
    HungUp,
    /// It gave the customer back, by REFER or by an INVITE of its own.
    GaveBack,
}

/// The customer is being handed back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandingBack {
    /// How GenerativeAgent's part ended. Whatever becomes of the customer now, this is the call's verdict.
    pub verdict: Verdict,
    /// The rung under way.
    pub rung: UnderWay,
    /// The rungs after it.
    pub ladder: VecDeque<Rung>,
    /// Why the last one failed.
    pub cause: Cause,
}

/// How far a rung has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnderWay {
    /// An onward leg rings; the customer waits.
    Dialing {
        /// The target.
        target: String,
        /// Which of its URIs, counted from 0.
        member: usize,
        /// Whether the customer's side is to take our place there.
        attended: bool,
    },
    /// The customer's side has been asked to call a target itself; the customer waits.
    Referring {
        /// The target.
        target: String,
        /// Which of its URIs, counted from 0.
        member: usize,
        /// Whether it has said that it will.
        accepted: bool,
    },
    /// A webhook has been asked; the customer waits.
    Consulting {
        /// The webhook.
        webhook: String,
        /// Which rung of the call this is, counted from 1.
        number: usize,
    },
    /// The customer talks with the onward leg, and his side has been asked to take our place there.
    Introducing {
        /// The target.
        target: String,
        /// Whether it has said that it will.
        accepted: bool,
    },
    /// The customer talks with the onward leg.
    Talking,
    /// Nobody could be reached; the customer is told so, then hung up on.
    Announcing,
    /// The customer has been sent away, by BYE or by a final response.
    Parting,
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
            Self::Inviting => "inviting",
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
    /// Header lines by which GenerativeAgent learns of it, where the API is not asked; empty where it is.
    pub input: Vec<(String, String)>,
    /// The context reference.
    pub reference: String,
    /// The INVITE, or the REFER, arrived.
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
    /// The current onward leg.
    pub onward: LegStage,
    /// Who is about to take the customer leg's place.
    pub successor: LegStage,
    /// Why a successor is being called, if one is.
    pub succession: Option<Succession>,
    /// How often the customer's leg has changed.
    pub takeovers: u8,
    /// Whether anything has been heard from the customer.
    pub heard: bool,
    /// Whether the call is recorded.
    pub recording: Recording,
    /// Whether ASAPP has refused the input context, so that it is left out.
    pub without_context: bool,
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
        let mut facts = Facts::new(call, reference, intake, settings, epoch, now);
        facts.welcome(now, actions);
        actions.push(facts.publish("in_progress"));
        let state = step::request_number(&mut facts, now, actions);
        Self { facts, state }
    }

    /// A REFER asked for the customer, who is being called: nothing is asked for before the answer.
    pub fn referred(
        call: CallRef,
        reference: String,
        intake: Intake,
        settings: Arc<CallSettings>,
        epoch: Epoch,
        now: Instant,
        actions: &mut Vec<CallAction>,
    ) -> Self {
        let facts = Facts::new(call, reference, intake, settings, epoch, now);
        actions.push(facts.publish("in_progress"));
        actions.push(CallAction::Start(CallTimer::RingLimit, now + facts.settings.ring_limit));
        Self { facts, state: CallState::Inviting }
    }

    /// A person wants the call recorded, or no longer; that changes nothing else, whatever its state.
    pub fn record(&mut self, on: bool, actions: &mut Vec<CallAction>) {
        self.facts.record_as_asked(on, actions);
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
        self.state = match succession(&mut self.facts, &state, now, event, actions) {
            Some(event) => step::step(&mut self.facts, state, now, event, actions),
            None => state,
        };
    }
}

impl Facts {
    fn new(
        call: CallRef,
        reference: String,
        mut intake: Intake,
        settings: Arc<CallSettings>,
        epoch: Epoch,
        now: Instant,
    ) -> Self {
        let input = match settings.way_in {
            WayIn::Number | WayIn::Sip { .. } => Vec::new(),
            WayIn::Headers { .. } => input::headers(&mut intake, settings.context.max_invite_lines),
        };
        Self {
            call,
            recording: settings.recording.of(&intake, settings.entry.of(intake.redirected)),
            intake,
            input,
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
            onward: LegStage::None,
            successor: LegStage::None,
            succession: None,
            takeovers: 0,
            heard: false,
            without_context: false,
            attempts: Vec::new(),
            dialled: 0,
            resumed: 0,
            broken_off: None,
            evidence: Evidence::default(),
            output: None,
            hand_back: None,
        }
    }

    /// Keeps what every state must know: how far the legs have come.
    fn note(&mut self, now: Instant, event: &CallEvent) {
        if let CallEvent::Leg(role, event) = event {
            let stage = match role {
                LegRole::Customer => &mut self.customer,
                LegRole::GenerativeAgent => &mut self.genagent,
                LegRole::Onward => &mut self.onward,
                LegRole::Successor => &mut self.successor,
            };
            match event {
                LegEvent::Answered => *stage = LegStage::Up,
                last_word if last_word.is_last_word() => *stage = LegStage::Over,
                _ => {}
            }
            if *role == LegRole::GenerativeAgent && event.is_last_word() {
                self.genagent_ended = Some(now);
            }
            // What the onward leg or a successor says is no evidence of how GenerativeAgent's part ended.
            if let LegEvent::HungUp { reason: Some(reason), .. } | LegEvent::Refused { reason: Some(reason), .. } =
                event
                && matches!(role, LegRole::Customer | LegRole::GenerativeAgent)
            {
                self.evidence.reason = Some(reason.clone());
            }
        }
        self.heard |= matches!(event, CallEvent::Heard(LegRole::Customer));
    }

    /// How far a leg has come.
    fn stage(&self, role: LegRole) -> LegStage {
        match role {
            LegRole::Customer => self.customer,
            LegRole::GenerativeAgent => self.genagent,
            LegRole::Onward => self.onward,
            LegRole::Successor => self.successor,
        }
    }

    /// The customer hears that something is being done: ringing, or an answer and our own ringback tone.
    fn welcome(&mut self, now: Instant, actions: &mut Vec<CallAction>) {
        match self.settings.answer {
            Answer::First => self.answer(now, actions),
            Answer::OnBridge => {
                let early_media = self.settings.ringing == Ringing::EarlyMedia;
                self.early_media = early_media;
                actions.push(self.tell(LegRole::Customer, LegCommand::Ring { early_media }));
            }
        }
        if self.early_media || self.customer == LegStage::Up {
            actions.push(CallAction::Play(Sound::Ringback));
        }
    }

    /// Answers the customer, who waits for it.
    pub fn answer(&mut self, now: Instant, actions: &mut Vec<CallAction>) {
        self.customer = LegStage::Up;
        self.answered = Some(now);
        actions.push(self.tell(LegRole::Customer, LegCommand::Answer));
    }

    /// A command whose message carries the context reference.
    pub fn tell(&self, role: LegRole, command: LegCommand) -> CallAction {
        let mut carry = match role {
            LegRole::Customer | LegRole::Successor => Carry::reference(&self.reference, self.profile()),
            LegRole::GenerativeAgent | LegRole::Onward => Carry::default(),
        };
        if command == LegCommand::Answer {
            carry.lines.extend(self.recording_line());
        }
        CallAction::Leg(role, command, carry)
    }

    /// An INFO of the other side is for this leg: a key that is pressed, or something else. The key, if it is one.
    pub(super) fn inform(&self, role: LegRole, info: Info, actions: &mut Vec<CallAction>) -> Option<Digit> {
        let digit = Digit::in_info(&info);
        actions.push(match digit {
            Some(digit) => CallAction::Pass(role, Press::Told(digit, info)),
            None => self.tell(role, LegCommand::Inform(info)),
        });
        digit
    }

    /// Hang up a leg that is still there.
    pub fn hang_up(&self, role: LegRole, cause: Cause, actions: &mut Vec<CallAction>) {
        if matches!(self.stage(role), LegStage::Ringing | LegStage::Up) {
            actions.push(CallAction::Leg(role, LegCommand::HangUp(cause), Carry::default()));
        }
    }

    /// What the customer is told when the program stops, or a person ends the call for everybody.
    pub fn farewell(&self, outcome: Outcome) -> LegCommand {
        let refuse = |status, retry_after| LegCommand::Refuse { status, redirect: None, retry_after };
        match (self.customer, outcome) {
            (LegStage::Up, Outcome::Operator) => LegCommand::HangUp(Cause::NORMAL),
            (LegStage::Up, _) => LegCommand::HangUp(Cause::FAILURE),
            (_, Outcome::Operator) => refuse(603, None),
            _ => refuse(503, Some(self.settings.retry_after)),
        }
    }

    /// Whether every leg has spoken its last word.
    pub fn is_quiet(&self) -> bool {
        LegRole::ALL.into_iter().all(|role| matches!(self.stage(role), LegStage::None | LegStage::Over))
    }

    /// What the reference shows now.
    pub fn publish(&self, outcome: &str) -> CallAction {
        CallAction::Publish(Box::new(self.published(outcome)))
    }

    /// The context as it is known now.
    pub fn published(&self, outcome: &str) -> PublishedContext {
        PublishedContext {
            reference: self.reference.clone(),
            call: self.call,
            customer_call_id: self.intake.call_id.clone(),
            later_call_ids: Vec::new(),
            conversation: self.intake.conversation.clone(),
            outcome: outcome.to_owned(),
            output: self.output.clone(),
        }
    }

    /// How the call came to us.
    pub fn entry(&self) -> Entry {
        self.settings.entry.of(self.intake.redirected)
    }

    /// The rungs that this verdict calls for.
    pub fn ladder(&self, verdict: &Verdict) -> VecDeque<Rung> {
        let output = self.output.as_ref();
        let situation = Situation {
            outcome: verdict.outcome,
            reason: verdict.evidence.not_connected,
            answered: self.customer == LegStage::Up,
            entry: self.entry(),
            profile: self.intake.profile.as_deref(),
            task: output.and_then(|output| output.task.as_deref()).or(self.intake.task.as_deref()),
            transfer_type: output.and_then(|output| output.transfer_type.as_deref()),
            variables: output.map_or(&[], |output| &output.transfer_variables),
        };
        let refuge = self.settings.targets.contains_key(DEFAULT_TARGET);
        rules::ladder(&self.settings.rules, refuge, &situation)
    }

    /// What goes with a customer of whom this is known.
    pub fn context(&self, outcome: Outcome, settings: &ContextSettings) -> Carry {
        let (conversation, output) = (&self.intake.conversation.0, self.output.as_ref());
        Carry::hand_back(&Known { outcome, conversation, output, reference: &self.reference }, settings)
    }

    /// What the customer's side is sent.
    pub fn profile(&self) -> &ContextSettings {
        self.settings.profile(self.intake.profile.as_deref())
    }

    /// The cause of the BYE that hands this customer back.
    pub fn cause(&self, outcome: Outcome) -> Cause {
        self.profile().causes.get(&outcome).map_or(Cause::NORMAL, |cause| Cause(*cause))
    }

    /// The same for a rung; that it is tried is remembered for the record.
    pub fn carry(&mut self, outcome: Outcome, rung: &Rung) -> Carry {
        let carry = match rung {
            Rung::Dial(target) | Rung::ReferReplaces(target) => {
                let mut carry = self.context(outcome, &self.called(target));
                carry.lines.extend(self.recording_line());
                carry
            }
            Rung::Refer(target) => self.fitted(outcome, self.called(target), Carry::octets_inside_uri),
            Rung::Bye | Rung::Webhook(_) => self.context(outcome, self.profile()),
            // Once in the response, and once inside its Contact.
            Rung::Redirect(_) if self.profile().contact_headers => {
                self.fitted(outcome, self.without_body(), |carry| carry.octets() + carry.octets_inside_uri())
            }
            Rung::Refuse(_) | Rung::Redirect(_) => self.context(outcome, &self.without_body()),
        };
        self.rung_begun(rung);
        self.sends(&carry);
        carry
    }

    /// What the record says of the context sent.
    pub fn sends(&mut self, carry: &Carry) {
        let record = self.hand_back.get_or_insert_default();
        (record.values_sent, record.values_left_out) = (carry.sent, carry.left_out);
    }

    /// What an INVITE to a target carries.
    fn called(&self, target: &str) -> ContextSettings {
        let profile = self.settings.targets.get(target).and_then(|row| row.profile.as_deref());
        let settings = self.settings.profile(profile);
        ContextSettings { max_lines: settings.max_invite_lines, body: BodyForm::None, ..settings.clone() }
    }

    /// What the customer's side is sent by a response.
    fn without_body(&self) -> ContextSettings {
        ContextSettings { body: BodyForm::None, ..self.profile().clone() }
    }

    /// As much of the context as keeps to the limit where it stands inside a URI: an escape takes three octets.
    fn fitted(&self, outcome: Outcome, settings: ContextSettings, octets: impl Fn(&Carry) -> usize) -> Carry {
        let most = settings.max_lines;
        let tries =
            (0..=FITTINGS).rev().map(|part| ContextSettings { max_lines: most * part / FITTINGS, ..settings.clone() });
        let mut carries = tries.map(|settings| self.context(outcome, &settings));
        let fits = carries.find(|carry| octets(carry) <= most);
        fits.unwrap_or_else(|| Carry::reference(&self.reference, &settings))
    }

    /// A rung is tried, which is remembered for the record; the rungs tried so far.
    pub fn rung_begun(&mut self, rung: &Rung) -> usize {
        let record = self.hand_back.get_or_insert_default();
        record.rungs.push(RungRecord { rung: rung.to_string(), result: UNDER_WAY.to_owned() });
        record.rungs.len()
    }

    /// What became of the rung under way.
    pub fn rung_result(&mut self, result: impl Into<String>) {
        if let Some(rung) = self.hand_back.as_mut().and_then(|record| record.rungs.last_mut()) {
            rung.result = result.into();
        }
    }

    /// A REFER that was given up has worked after all, and so the rung under way is not needed.
    pub fn rung_overtaken(&mut self, how: &str) {
        let rungs = self.hand_back.as_mut().map_or(&mut [][..], |record| &mut record.rungs[..]);
        for rung in rungs.iter_mut().filter(|rung| rung.result == UNDER_WAY) {
            rung.result = "overtaken".to_owned();
        }
        if let Some(refer) = rungs.iter_mut().rev().find(|rung| rung.rung.starts_with("refer:")) {
            refer.result = how.to_owned();
        }
    }

    /// What a create asks for.
    pub fn wanted(&self, transfer: &TransferId) -> CreateTransfer {
        let intake = &self.intake;
        let context = !self.without_context;
        CreateTransfer {
            conversation: intake.conversation.clone(),
            kind: match &self.settings.way_in {
                WayIn::Number => TransferKind::PhoneNumber { country: self.settings.country.clone() },
                WayIn::Sip { returns, .. } => TransferKind::Sip(returns.of(transfer)),
                WayIn::Headers { .. } => TransferKind::Sip(SipReturn::Bye),
            },
            task: intake.task.clone().filter(|_| context),
            variables: if context { intake.variables.clone() } else { Vec::new() },
        }
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
            attempt.number = ticket.number().map(masked);
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
            takeovers: self.takeovers,
            verdict,
            hand_back: self.hand_back.clone(),
            context_ref: self.reference.clone(),
            customer_media: none,
            genagent_media: none,
            onward_media: none,
            recording: None,
        }
    }
}
