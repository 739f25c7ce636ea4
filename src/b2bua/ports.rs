//! Port pairs lent to legs: random pick, and drained until quiet before the next call gets them.

use std::collections::{BTreeMap, HashMap};

use super::io::{Family, PortPair};
use crate::sip::ids::Ids;

/// The pool that the relay opened at start.
#[derive(Debug, Default)]
pub struct Ports<Owner> {
    /// By worker and family.
    free: BTreeMap<(u16, Family), Vec<PortPair>>,
    lent: HashMap<PortPair, Owner>,
    draining: HashMap<PortPair, Owner>,
}

impl<Owner: Copy + PartialEq> Ports<Owner> {
    /// A pool of these pairs, all free.
    pub fn new(pairs: impl IntoIterator<Item = PortPair>) -> Self {
        let mut free: BTreeMap<_, Vec<PortPair>> = BTreeMap::new();
        for pair in pairs {
            free.entry((pair.worker, pair.family)).or_default().push(pair);
        }
        Self { free, lent: HashMap::new(), draining: HashMap::new() }
    }

    /// Lends pairs of these families by one worker, the one with the most room. All or none.
    pub fn lend<const N: usize>(
        &mut self,
        families: [Family; N],
        owner: Owner,
        ids: &mut Ids,
    ) -> Option<[PortPair; N]> {
        let room = |worker: u16, family: Family| self.free.get(&(worker, family)).map_or(0, Vec::len);
        let least = |worker: u16| families.into_iter().map(|family| room(worker, family)).min();
        let worker = self.free.keys().map(|(worker, _)| *worker).max_by_key(|worker| least(*worker))?;
        let wanted = |family| families.into_iter().filter(|other| *other == family).count();
        if families.into_iter().any(|family| room(worker, family) < wanted(family)) {
            return None;
        }
        Some(families.map(|family| self.lend_near(worker, family, owner, ids).expect("there was room for all of them")))
    }

    /// Lends a pair of this worker and this family.
    pub fn lend_near(&mut self, worker: u16, family: Family, owner: Owner, ids: &mut Ids) -> Option<PortPair> {
        let free = self.free.get_mut(&(worker, family)).filter(|free| !free.is_empty())?;
        let pair = free.swap_remove(ids.below(free.len()));
        self.lent.insert(pair, owner);
        Some(pair)
    }

    /// Takes a pair back from its owner; it drains. False when it was not lent, or is somebody else's by now.
    pub fn take_back(&mut self, pair: PortPair, owner: Owner) -> bool {
        let owned = self.has(owner, pair);
        if owned {
            self.lent.remove(&pair);
            self.draining.insert(pair, owner);
        }
        owned
    }

    /// Whether the pair is with this owner now.
    pub fn is_lent(&self, pair: PortPair, owner: Owner) -> bool {
        self.lent.get(&pair) == Some(&owner)
    }

    /// A drained pair is free again.
    pub fn quiet(&mut self, pair: PortPair) {
        if self.draining.remove(&pair).is_some() {
            self.free.entry((pair.worker, pair.family)).or_default().push(pair);
        }
    }

    /// Whether this pair is lent to this owner now.
    pub fn has(&self, owner: Owner, pair: PortPair) -> bool {
        self.lent.get(&pair) == Some(&owner)
    }

    /// Who has, or last had, this pair.
    pub fn owner(&self, pair: PortPair) -> Option<Owner> {
        self.lent.get(&pair).or_else(|| self.draining.get(&pair)).copied()
    }

    /// Pairs lent, draining and free.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.lent.len(), self.draining.len(), self.free.values().map(Vec::len).sum())
    }
}
