//! Port pairs lent to legs: random pick, and drained until quiet before the next call gets them.

use std::collections::{BTreeMap, HashMap};

use super::io::PortPair;
use crate::sip::ids::Ids;

/// The pool that the relay opened at start.
#[derive(Debug, Default)]
pub struct Ports<Owner> {
    free: BTreeMap<u16, Vec<PortPair>>,
    lent: HashMap<PortPair, Owner>,
    draining: HashMap<PortPair, Owner>,
}

impl<Owner: Copy + PartialEq> Ports<Owner> {
    /// A pool of these pairs, all free.
    pub fn new(pairs: impl IntoIterator<Item = PortPair>) -> Self {
        let mut free: BTreeMap<u16, Vec<PortPair>> = BTreeMap::new();
        for pair in pairs {
            free.entry(pair.worker).or_default().push(pair);
        }
        Self { free, lent: HashMap::new(), draining: HashMap::new() }
    }

    /// Lends a pair of the worker with the most free ones, if it has at least `spare` more.
    pub fn lend(&mut self, owner: Owner, spare: usize, ids: &mut Ids) -> Option<PortPair> {
        let (&worker, free) = self.free.iter().max_by_key(|(_, free)| free.len())?;
        if free.len() <= spare {
            return None;
        }
        self.lend_near(worker, owner, ids)
    }

    /// Lends a pair of this worker.
    pub fn lend_near(&mut self, worker: u16, owner: Owner, ids: &mut Ids) -> Option<PortPair> {
        let free = self.free.get_mut(&worker).filter(|free| !free.is_empty())?;
        let pair = free.swap_remove(ids.below(free.len()));
        self.lent.insert(pair, owner);
        Some(pair)
    }

    /// Takes a pair back from its owner; it drains. False when it was not lent, or is somebody else's by now.
    pub fn take_back(&mut self, pair: PortPair, owner: Owner) -> bool {
        let owned = self.lent.get(&pair) == Some(&owner);
        if owned {
            self.lent.remove(&pair);
            self.draining.insert(pair, owner);
        }
        owned
    }

    /// A drained pair is free again.
    pub fn quiet(&mut self, pair: PortPair) {
        if self.draining.remove(&pair).is_some() {
            self.free.entry(pair.worker).or_default().push(pair);
        }
    }

    /// Who has, or last had, this pair.
    pub fn owner(&self, pair: PortPair) -> Option<Owner> {
        self.lent.get(&pair).or_else(|| self.draining.get(&pair)).copied()
    }

    /// Whether the owner still has this pair.
    pub fn has(&self, owner: Owner, pair: PortPair) -> bool {
        self.lent.get(&pair) == Some(&owner)
    }

    /// Pairs lent, draining and free.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.lent.len(), self.draining.len(), self.free.values().map(Vec::len).sum())
    }
}
