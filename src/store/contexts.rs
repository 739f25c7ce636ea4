//! Contexts by reference, for whoever fetches them within an hour (`GET /v1/context/{reference}`).

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::b2bua::io::PublishedContext;
use crate::call::ConversationId;

/// How long a context is kept after its last update.
pub const LIFETIME: Duration = Duration::from_secs(3600);
/// How many are kept; the one updated longest ago goes first.
pub const CAPACITY: usize = 100_000;

/// A bounded map of contexts, shared by the core's loop and the admin adapter.
#[derive(Debug)]
pub struct Contexts {
    shelf: Mutex<Shelf>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Shelf {
    by_reference: HashMap<String, Kept>,
    /// References by SIP's Call-IDs of the customer's legs; of several calls with the same one the last.
    by_call_id: HashMap<String, String>,
    /// References by the order of their last update.
    by_age: BTreeMap<u64, String>,
    updates: u64,
}

#[derive(Debug)]
struct Kept {
    context: Arc<PublishedContext>,
    updated: Instant,
    age: u64,
}

impl Default for Contexts {
    fn default() -> Self {
        Self::new(CAPACITY)
    }
}

impl Contexts {
    /// An empty store for at most this many contexts.
    pub fn new(capacity: usize) -> Self {
        Self { shelf: Mutex::default(), capacity }
    }

    /// Keeps a context, in place of an earlier one with the same reference.
    pub fn put(&self, now: Instant, context: PublishedContext) {
        let mut shelf = self.shelf();
        shelf.updates += 1;
        let (age, reference) = (shelf.updates, context.reference.clone());
        for call_id in call_ids(&context) {
            shelf.by_call_id.insert(call_id.clone(), reference.clone());
        }
        let kept = Kept { context: Arc::new(context), updated: now, age };
        if let Some(earlier) = shelf.by_reference.insert(reference.clone(), kept) {
            shelf.by_age.remove(&earlier.age);
        }
        shelf.by_age.insert(age, reference);
        shelf.forget(now, self.capacity);
    }

    /// The context behind a reference, while it lives.
    pub fn fetch(&self, now: Instant, reference: &str) -> Option<Arc<PublishedContext>> {
        let mut shelf = self.shelf();
        shelf.forget(now, self.capacity);
        shelf.by_reference.get(reference).map(|kept| Arc::clone(&kept.context))
    }

    /// The context of the call that has, or had, a customer leg with this Call-ID, while it lives.
    pub fn of_call(&self, now: Instant, call_id: &str) -> Option<Arc<PublishedContext>> {
        let reference = self.shelf().by_call_id.get(call_id).cloned()?;
        self.fetch(now, &reference)
    }

    /// The references of this conversation's contexts. Looks at every context: for operators, not for calls.
    pub fn of(&self, now: Instant, conversation: &ConversationId) -> Vec<String> {
        let mut shelf = self.shelf();
        shelf.forget(now, self.capacity);
        let of_it = shelf.by_reference.iter().filter(|(_, kept)| kept.context.conversation == *conversation);
        of_it.map(|(reference, _)| reference.clone()).collect()
    }

    /// Drops this conversation's contexts; returns how many there were.
    pub fn erase(&self, now: Instant, conversation: &ConversationId) -> usize {
        let references = self.of(now, conversation);
        let mut shelf = self.shelf();
        for reference in &references {
            if let Some(kept) = shelf.remove(reference) {
                shelf.by_age.remove(&kept.age);
            }
        }
        references.len()
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.shelf().by_reference.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A thread that died while it held the lock left a usable map behind: every change is complete or harmless.
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    /// Drops what is too old or too much. The oldest comes first, so this stops early.
    fn forget(&mut self, now: Instant, capacity: usize) {
        while let Some(oldest) = self.by_age.first_entry() {
            let updated = self.by_reference.get(oldest.get()).map(|kept| kept.updated);
            let expired = updated.is_none_or(|updated| now.saturating_duration_since(updated) >= LIFETIME);
            if !expired && self.by_reference.len() <= capacity {
                return;
            }
            let reference = oldest.remove();
            self.remove(&reference);
        }
    }

    /// Takes a context off the shelf; its age stays.
    fn remove(&mut self, reference: &str) -> Option<Kept> {
        let kept = self.by_reference.remove(reference)?;
        for call_id in call_ids(&kept.context) {
            if self.by_call_id.get(call_id).is_some_and(|last| last == reference) {
                self.by_call_id.remove(call_id);
            }
        }
        Some(kept)
    }
}

/// What a context is found by. An update names every earlier one again.
fn call_ids(context: &PublishedContext) -> impl Iterator<Item = &String> {
    [&context.customer_call_id].into_iter().chain(&context.later_call_ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::CallRef;

    fn context(reference: &str, outcome: &str) -> PublishedContext {
        PublishedContext {
            reference: reference.to_owned(),
            call: CallRef(1),
            customer_call_id: "a@b".to_owned(),
            later_call_ids: Vec::new(),
            conversation: ConversationId("c".to_owned()),
            outcome: outcome.to_owned(),
            output: None,
        }
    }

    #[test]
    fn a_context_lives_an_hour_from_its_last_update() {
        let (contexts, start) = (Contexts::default(), crate::clock::now());
        contexts.put(start, context("a", "in_progress"));
        contexts.put(start + LIFETIME / 2, context("a", "agent"));
        assert_eq!(contexts.fetch(start + LIFETIME, "a").unwrap().outcome, "agent");
        assert!(contexts.fetch(start + LIFETIME / 2 + LIFETIME, "a").is_none());
        assert!(contexts.is_empty());
        assert!(contexts.shelf().by_age.is_empty());
    }

    #[test]
    fn t14_a_context_is_found_by_the_call_id_of_its_customer_leg() {
        let (contexts, now) = (Contexts::new(2), crate::clock::now());
        let of_leg =
            |reference, id: &str| PublishedContext { customer_call_id: id.to_owned(), ..context(reference, "agent") };
        let found = |id| contexts.of_call(now, id).map(|context| context.reference.clone());
        contexts.put(now, of_leg("a", "1@ivr"));
        contexts.put(now, of_leg("b", "1@ivr"));
        assert_eq!((found("1@ivr").as_deref(), found("2@ivr")), (Some("b"), None), "the last call of that id");
        contexts.put(now, of_leg("c", "2@ivr"));
        contexts.put(now, of_leg("d", "3@ivr"));
        assert_eq!((found("1@ivr"), contexts.shelf().by_call_id.len()), (None, 2), "nothing is left of what made room");
        assert!(contexts.of_call(now + LIFETIME, "3@ivr").is_none());
        assert!(contexts.shelf().by_call_id.is_empty());
    }

    #[test]
    fn t14_a_context_is_found_by_the_call_id_of_every_leg_and_forgotten_by_all() {
        let (contexts, now) = (Contexts::default(), crate::clock::now());
        contexts.put(now, context("a", "in_progress"));
        contexts.put(now, PublishedContext { later_call_ids: vec!["2@us".to_owned()], ..context("a", "agent") });
        for id in ["a@b", "2@us"] {
            assert_eq!(contexts.of_call(now, id).unwrap().outcome, "agent", "{id}");
        }
        contexts.erase(now, &ConversationId("c".to_owned()));
        assert!(contexts.shelf().by_call_id.is_empty());
    }

    #[test]
    fn the_one_updated_longest_ago_makes_room() {
        let (contexts, now) = (Contexts::new(2), crate::clock::now());
        for reference in ["a", "b", "a", "c"] {
            contexts.put(now, context(reference, "agent"));
        }
        assert!(contexts.fetch(now, "b").is_none());
        assert!(contexts.fetch(now, "a").is_some() && contexts.fetch(now, "c").is_some());
    }

    #[test]
    fn erasing_a_conversation_drops_its_contexts_and_no_others() {
        let (contexts, now) = (Contexts::default(), crate::clock::now());
        contexts.put(now, context("a", "agent"));
        let other = ConversationId("other".to_owned());
        contexts.put(now, PublishedContext { conversation: other.clone(), ..context("b", "agent") });
        assert_eq!(contexts.erase(now, &ConversationId("c".to_owned())), 1);
        assert!(contexts.fetch(now, "a").is_none());
        assert_eq!(contexts.of(now, &other), ["b"]);
        assert_eq!(contexts.shelf().by_age.len(), 1);
    }

    #[test]
    fn updates_of_one_context_take_no_room() {
        let (contexts, now) = (Contexts::new(10), crate::clock::now());
        for _ in 0..1000 {
            contexts.put(now, context("a", "agent"));
        }
        assert_eq!((contexts.len(), contexts.shelf().by_age.len()), (1, 1));
    }
}
