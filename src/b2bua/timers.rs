//! Every timer of the core in one place: set, forget, and the next one due.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Instant;

/// Timers by key. Setting one again replaces it.
#[derive(Debug)]
pub struct Timers<K> {
    by_time: BTreeSet<(Instant, K)>,
    by_key: HashMap<K, Instant>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { by_time: BTreeSet::new(), by_key: HashMap::new() }
    }
}

impl<K: Copy + Ord + Hash> Timers<K> {
    /// Sets a timer.
    pub fn start(&mut self, key: K, at: Instant) {
        if let Some(before) = self.by_key.insert(key, at) {
            self.by_time.remove(&(before, key));
        }
        self.by_time.insert((at, key));
    }

    /// Forgets a timer.
    pub fn stop(&mut self, key: K) {
        if let Some(at) = self.by_key.remove(&key) {
            self.by_time.remove(&(at, key));
        }
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes one that is due.
    pub fn due(&mut self, now: Instant) -> Option<K> {
        self.due_where(now, |_| true)
    }

    /// Takes one of these that is due.
    pub fn due_where(&mut self, now: Instant, wanted: impl Fn(&K) -> bool) -> Option<K> {
        let mut due = self.by_time.iter().take_while(|(at, _)| *at <= now);
        let (_, key) = *due.find(|(_, key)| wanted(key))?;
        self.stop(key);
        Some(key)
    }

    /// How many are set.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}
