//! A webhook decides where a customer goes: what it is told, and what of its answer is obeyed.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::CallRef;
use super::context::PublishedContext;
use super::event::{CallAction, CallEvent, Sound};
use super::handback::climb;
use super::rules::{Entry, Rung, one_or_many};
use super::state::{CallState, Facts, HandingBack, LegStage, UnderWay};
use super::step::Actions;
use super::verdict::Verdict;

/// Most rungs of an answer.
const MOST_RUNGS: usize = 16;
/// Characters of the reason why an answer is not obeyed.
const LINE: usize = 120;

/// A webhook as the call knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// How long it may take to answer.
    pub limit: Duration,
    /// Whether it may hang up on a redirected customer, behind whom nobody waits.
    pub allow_drop: bool,
}

/// One question to a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inquiry {
    /// The call that asks.
    pub call: CallRef,
    /// Which rung of the call this is, counted from 1.
    pub number: usize,
    /// The webhook's name.
    pub webhook: String,
    /// What it is told: JSON.
    pub body: Bytes,
    /// The whole exchange ends within this time.
    pub timeout: Duration,
}

/// What came of an [`Inquiry`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// The call that asked.
    pub call: CallRef,
    /// By which of its rungs.
    pub number: usize,
    /// The body of a 2xx, or why there is none, in one line.
    pub answer: Result<Bytes, String>,
}

/// What a webhook is told of a call.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    context: PublishedContext,
    verdict: Verdict,
    answered: bool,
    entry: Entry,
}

/// What a webhook may say: `{"ladder": ["dial:queue", "bye"]}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reply {
    #[serde(deserialize_with = "one_or_many")]
    ladder: Vec<Rung>,
}

/// Asks; the customer waits. A webhook that is not there fails like one that does not answer.
pub(super) fn consult(
    facts: &mut Facts,
    state: HandingBack,
    webhook: String,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    let Some(limit) = facts.settings.webhooks.get(&webhook).map(|row| row.limit) else {
        return climb(facts, state, now, actions);
    };
    let report = Report {
        context: facts.published(state.verdict.outcome.as_str()),
        verdict: state.verdict.clone(),
        answered: facts.customer == LegStage::Up,
        entry: facts.entry(),
    };
    let number = facts.rung_begun(&Rung::Webhook(webhook.clone()));
    match facts.customer {
        LegStage::Up => actions.push(CallAction::Play(Sound::Waiting)),
        _ if facts.early_media => actions.push(CallAction::Play(Sound::Ringback)),
        _ => {}
    }
    // A map with texts as its keys cannot fail to be written.
    let body = serde_json::to_vec(&report).unwrap_or_default().into();
    let inquiry = Inquiry { call: facts.call, number, webhook: webhook.clone(), body, timeout: limit };
    actions.push(CallAction::Consult(Box::new(inquiry)));
    CallState::HandingBack(HandingBack { rung: UnderWay::Consulting { webhook, number }, ..state })
}

pub(super) fn consulting(
    facts: &mut Facts,
    state: HandingBack,
    (webhook, number): (&str, usize),
    now: Instant,
    event: CallEvent,
    actions: &mut Actions,
) -> CallState {
    match event {
        CallEvent::Advised(answered, answer) if answered == number => {
            advised(facts, state, webhook, answer, now, actions)
        }
        CallEvent::Advised(..)
        | CallEvent::Reserved(..)
        | CallEvent::Returned(..)
        | CallEvent::Leg(..)
        | CallEvent::Created(..)
        | CallEvent::WayFailed(_)
        | CallEvent::Fetched(..)
        | CallEvent::Heard(_)
        | CallEvent::Pressed(..)
        | CallEvent::ChangedHands
        | CallEvent::Timer(_)
        | CallEvent::Played
        | CallEvent::MediaDead
        | CallEvent::PulledBack
        | CallEvent::Ended
        | CallEvent::Stopped => CallState::HandingBack(state),
    }
}

/// An answer that holds is climbed before what is left of the ladder; any other fails the rung.
fn advised(
    facts: &mut Facts,
    mut state: HandingBack,
    webhook: &str,
    answer: Result<Bytes, String>,
    now: Instant,
    actions: &mut Actions,
) -> CallState {
    match answer.and_then(|reply| obeyed(facts, webhook, &reply)) {
        Ok(rungs) => {
            facts.rung_result("obeyed");
            state.ladder = rungs.into_iter().chain(state.ladder).collect();
        }
        Err(why) => {
            let line: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LINE).collect();
            facts.rung_result(line);
        }
    }
    climb(facts, state, now, actions)
}

/// The rungs that an answer names, where every one of them could stand in a rule.
fn obeyed(facts: &Facts, webhook: &str, reply: &[u8]) -> Result<Vec<Rung>, String> {
    let reply: Reply = serde_json::from_slice(reply).map_err(|error| format!("no ladder: {error}"))?;
    if reply.ladder.len() > MOST_RUNGS {
        return Err(format!("more than {MOST_RUNGS} rungs"));
    }
    // It would ask itself for ever.
    if let Some(rung) = reply.ladder.iter().find(|rung| matches!(rung, Rung::Webhook(_))) {
        return Err(format!("{rung} in an answer"));
    }
    let unknown = |target: &&str| !facts.settings.targets.contains_key(*target);
    if let Some(target) = reply.ladder.iter().filter_map(Rung::target).find(unknown) {
        return Err(format!("no target {target}"));
    }
    let suits = |rung: &Rung| rung.suits(facts.customer == LegStage::Up);
    let rungs: Vec<Rung> = reply.ladder.into_iter().filter(suits).collect();
    if rungs.is_empty() {
        return Err("no rung for this call".to_owned());
    }
    if let Some(at) = rungs.iter().position(Rung::is_last).filter(|at| at + 1 < rungs.len()) {
        return Err(format!("a rung behind {}", rungs[at]));
    }
    let allow_drop = facts.settings.webhooks.get(webhook).is_some_and(|row| row.allow_drop);
    if facts.entry() == Entry::Redirected && rungs.contains(&Rung::Bye) && !allow_drop {
        return Err("bye for a redirected customer".to_owned());
    }
    Ok(rungs)
}
