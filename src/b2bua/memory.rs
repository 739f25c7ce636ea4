//! What is remembered of conversations, so that a customer who hung up and calls back goes on where it stopped; and what
//! was laid down for conversations before their calls.
//!
//! Plain data, bounded and expiring. `store/` keeps the first on disk, behind the core's back; the second holds values
//! of variables and is never written down.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use super::B2bua;
use super::io::Output;
use super::settings::ConversationSettings;
use crate::call::intake::{Intake, LaidDown, MAX_NAME, Recall};
use crate::call::record::{CallRecord, Epoch, masked};
use crate::call::verdict::Aftermath;
use crate::call::{CallRef, ConversationId};
use crate::leg::Invitation;

/// A conversation that its customer may go on with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remembered {
    /// The conversation.
    pub conversation: ConversationId,
    /// Its last call, in which the customer hung up.
    pub call: CallRef,
    /// When that call ended, milliseconds since the Unix epoch.
    pub ended_at: i64,
    /// The caller's number in digits; kept only where callers are recognised by it, and shown by its last four.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shown")]
    pub caller: Option<String>,
}

fn shown<S: Serializer>(caller: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    caller.as_deref().map(masked).serialize(serializer)
}

/// What is to be written down of a conversation; `None` strikes it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The conversation.
    pub conversation: ConversationId,
    /// What takes the place of what was written of it before.
    pub to: Option<Box<Remembered>>,
}

impl Change {
    fn written(remembered: &Remembered) -> Self {
        Self { conversation: remembered.conversation.clone(), to: Some(Box::new(remembered.clone())) }
    }

    fn struck_out(conversation: ConversationId) -> Self {
        Self { conversation, to: None }
    }
}

/// What the core keeps of one conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// That it may be resumed.
    pub remembered: Option<Remembered>,
    /// Names of the input variables laid down for it.
    pub input: Option<Vec<String>>,
}

/// What became of a wish to erase a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erasure {
    /// Nothing of it is kept here any more.
    Erased,
    /// Nothing was kept.
    Unknown,
    /// A call of it is up, and would bring it back.
    InUse,
}

/// Everything that is remembered.
#[derive(Debug)]
pub(super) struct Memory {
    settings: ConversationSettings,
    remembered: Shelf<Remembered>,
    /// The last conversation of each caller.
    callers: HashMap<String, ConversationId>,
    inputs: Shelf<LaidDown>,
}

impl Memory {
    pub(super) fn new(settings: ConversationSettings) -> Self {
        Self { settings, remembered: Shelf::default(), callers: HashMap::new(), inputs: Shelf::default() }
    }

    /// When the next thing here has been kept long enough.
    pub(super) fn next(&self) -> Option<Instant> {
        [self.remembered.next(), self.inputs.next()].into_iter().flatten().min()
    }

    /// Conversations remembered, and inputs laid down.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.remembered.values.len(), self.inputs.values.len())
    }

    /// Drops what has been kept long enough.
    fn expire(&mut self, now: Instant) -> Vec<Change> {
        while self.inputs.pop_due(now).is_some() {}
        let mut gone = Vec::new();
        while let Some((id, remembered)) = self.remembered.pop_due(now) {
            self.unlist(&remembered);
            gone.push(Change::struck_out(id));
        }
        gone
    }

    /// Keeps a conversation until `expires`. What that changes of others comes back.
    fn keep(&mut self, remembered: Remembered, expires: Instant) -> Vec<Change> {
        let id = remembered.conversation.clone();
        if let Some(before) = self.remembered.take(&id) {
            self.unlist(&before);
        }
        let mut changes = Vec::new();
        let older = remembered.caller.as_ref().and_then(|caller| self.callers.insert(caller.clone(), id.clone()));
        if let Some(older) = older.and_then(|older| self.remembered.get_mut(&older)) {
            older.caller = None; // A caller has one conversation to go on with: the last one.
            changes.push(Change::written(older));
        }
        self.remembered.put(id, remembered, expires);
        while self.remembered.values.len() > self.settings.max {
            let Some((id, oldest)) = self.remembered.pop() else { break };
            self.unlist(&oldest);
            changes.push(Change::struck_out(id));
        }
        changes
    }

    fn forget(&mut self, id: &ConversationId) -> Option<Change> {
        let forgotten = self.remembered.take(id)?;
        self.unlist(&forgotten);
        Some(Change::struck_out(forgotten.conversation))
    }

    fn unlist(&mut self, remembered: &Remembered) {
        if let Some(caller) = &remembered.caller
            && self.callers.get(caller) == Some(&remembered.conversation)
        {
            self.callers.remove(caller);
        }
    }

    fn lay_down(&mut self, id: ConversationId, input: LaidDown, expires: Instant) {
        self.inputs.take(&id);
        self.inputs.put(id, input, expires);
        while self.inputs.values.len() > self.settings.max_inputs {
            self.inputs.pop();
        }
    }
}

/// The memory as one call asks for it.
struct Asked<'a, F> {
    memory: &'a mut Memory,
    /// Whether a call of this conversation is up: nobody else joins it by a number alone.
    is_up: F,
}

impl<F: Fn(&ConversationId) -> bool> Recall for Asked<'_, F> {
    fn of_caller(&self, caller: &str) -> Option<ConversationId> {
        let id = self.memory.callers.get(&number(caller)?)?;
        (!(self.is_up)(id)).then(|| id.clone())
    }

    fn earlier(&self, conversation: &ConversationId) -> Option<CallRef> {
        self.memory.remembered.get(conversation).map(|remembered| remembered.call)
    }

    fn take(&mut self, conversation: &ConversationId) -> Option<LaidDown> {
        self.memory.inputs.take(conversation)
    }
}

/// The digits of a number that is one person's: no extension, no word such as `anonymous`.
fn number(caller: &str) -> Option<String> {
    let digits = caller.strip_prefix('+').unwrap_or(caller);
    let is_number = (7..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.to_owned())
}

impl B2bua {
    /// What an earlier run wrote down, oldest first. What must be written otherwise by the settings of this one comes
    /// back: it may be all of it, which is more than a writer behind a queue can take.
    pub fn recall(&mut self, now: Instant, remembered: Vec<Remembered>) -> Vec<Change> {
        let settings = self.memory.settings;
        let mut changes = Vec::new();
        for mut remembered in remembered {
            let left = life_left(&self.epoch, now, remembered.ended_at, settings.resume_window);
            if left.is_zero() {
                changes.push(Change::struck_out(remembered.conversation));
                continue;
            }
            if !settings.by_caller && remembered.caller.take().is_some() {
                changes.push(Change::written(&remembered));
            }
            changes.extend(self.memory.keep(remembered, now + left));
        }
        changes
    }

    /// What the first request says, completed by what is remembered.
    pub(super) fn intake(&mut self, now: Instant, invitation: &Invitation) -> Intake {
        self.expire_memory(now);
        let calls = &self.calls;
        let is_up = |id: &ConversationId| calls.values().any(|entry| entry.call.facts.intake.conversation == *id);
        let mut asked = Asked { memory: &mut self.memory, is_up };
        Intake::read(invitation, &self.call_settings.intake, &mut asked)
    }

    /// A call is over: its conversation is remembered, left as it was, or forgotten.
    pub(super) fn learn(&mut self, now: Instant, record: &CallRecord, caller: &str) {
        let settings = self.memory.settings;
        match record.verdict.aftermath() {
            Aftermath::Open if settings.resume_window > Duration::ZERO => {
                let remembered = Remembered {
                    conversation: record.conversation.clone(),
                    call: record.call,
                    ended_at: record.ended_at,
                    caller: number(caller).filter(|_| settings.by_caller),
                };
                let written = Change::written(&remembered);
                let changes = self.memory.keep(remembered, now + settings.resume_window);
                self.outputs.extend([written].into_iter().chain(changes).map(Output::Remember));
            }
            Aftermath::Open | Aftermath::Untouched => {}
            Aftermath::Closed => self.outputs.extend(self.memory.forget(&record.conversation).map(Output::Remember)),
        }
    }

    /// Forgets what has been kept long enough.
    pub(super) fn expire_memory(&mut self, now: Instant) {
        let gone = self.memory.expire(now);
        self.outputs.extend(gone.into_iter().map(Output::Remember));
    }

    /// The remembered conversations, the last one first, at most `most`; only this caller's, where one is named.
    pub fn conversations(&mut self, now: Instant, caller: Option<&str>, most: usize) -> Vec<Remembered> {
        self.expire_memory(now);
        // A plus sign that was not escaped reaches us as a blank.
        let caller = caller.map(|caller| number(caller.trim_start()));
        let wanted = |it: &&Remembered| caller.as_ref().is_none_or(|caller| caller.is_some() && it.caller == *caller);
        self.memory.remembered.latest().filter(wanted).take(most).cloned().collect()
    }

    /// What is kept of this conversation.
    pub fn conversation(&mut self, now: Instant, id: &ConversationId) -> Kept {
        self.expire_memory(now);
        let input = self.memory.inputs.get(id).map(|input| input.variables.keys().cloned().collect());
        Kept { remembered: self.memory.remembered.get(id).cloned(), input }
    }

    /// Forgets a conversation and what was laid down for it, unless a call of it is up.
    pub fn erase(&mut self, now: Instant, id: &ConversationId) -> Erasure {
        self.expire_memory(now);
        if self.calls.values().any(|entry| entry.call.facts.intake.conversation == *id) {
            return Erasure::InUse;
        }
        let input = self.memory.inputs.take(id);
        let forgotten = self.memory.forget(id);
        let known = input.is_some() || forgotten.is_some();
        self.outputs.extend(forgotten.map(Output::Remember));
        if known { Erasure::Erased } else { Erasure::Unknown }
    }

    /// Keeps input for a conversation until its next call takes it. The error says what is wrong with it.
    pub fn lay_down(&mut self, now: Instant, id: ConversationId, input: LaidDown) -> Result<(), String> {
        self.expire_memory(now);
        if !(1..=MAX_NAME).contains(&id.0.len()) {
            return Err(format!("a conversation id has 1 to {MAX_NAME} octets"));
        }
        if let Some(excess) = input.excess(&self.call_settings.intake) {
            return Err(excess);
        }
        let window = self.memory.settings.input_window;
        if window.is_zero() {
            return Err("conversations.input_window is \"0s\": no input is taken beforehand".to_owned());
        }
        self.memory.lay_down(id, input, now + window);
        Ok(())
    }
}

/// How long something that ended then is still kept. A wall clock that was set back makes nothing live longer.
fn life_left(epoch: &Epoch, now: Instant, ended_at: i64, window: Duration) -> Duration {
    let age = u64::try_from(epoch.unix_ms(now).saturating_sub(ended_at)).unwrap_or(0);
    window.saturating_sub(Duration::from_millis(age))
}

/// A map whose entries leave in the order in which they expire.
#[derive(Debug)]
struct Shelf<V> {
    values: HashMap<ConversationId, (V, (Instant, u64))>,
    order: BTreeMap<(Instant, u64), ConversationId>,
    puts: u64,
}

impl<V> Default for Shelf<V> {
    fn default() -> Self {
        Self { values: HashMap::new(), order: BTreeMap::new(), puts: 0 }
    }
}

impl<V> Shelf<V> {
    /// Adds an entry that is not there.
    fn put(&mut self, id: ConversationId, value: V, expires: Instant) {
        self.puts += 1;
        let place = (expires, self.puts);
        self.order.insert(place, id.clone());
        self.values.insert(id, (value, place));
    }

    fn get(&self, id: &ConversationId) -> Option<&V> {
        self.values.get(id).map(|(value, _)| value)
    }

    fn get_mut(&mut self, id: &ConversationId) -> Option<&mut V> {
        self.values.get_mut(id).map(|(value, _)| value)
    }

    fn take(&mut self, id: &ConversationId) -> Option<V> {
        let (value, place) = self.values.remove(id)?;
        self.order.remove(&place);
        Some(value)
    }

    /// The one that expires first.
    fn pop(&mut self) -> Option<(ConversationId, V)> {
        let (_, id) = self.order.pop_first()?;
        let (value, _) = self.values.remove(&id)?;
        Some((id, value))
    }

    fn pop_due(&mut self, now: Instant) -> Option<(ConversationId, V)> {
        self.next().filter(|due| *due <= now)?;
        self.pop()
    }

    fn next(&self) -> Option<Instant> {
        self.order.first_key_value().map(|((expires, _), _)| *expires)
    }

    /// From the one that expires last.
    fn latest(&self) -> impl Iterator<Item = &V> {
        self.order.values().rev().filter_map(|id| self.get(id))
    }
}
