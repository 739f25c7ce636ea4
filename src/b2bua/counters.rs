//! What the core counts, as plain data; the admin adapter renders it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::trunks::TrunkState;
use crate::call::verdict::{NotConnected, Outcome};

/// A histogram of durations with fixed bounds in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Upper bounds, seconds, ascending; one more bucket holds what is above.
    pub bounds: &'static [f64],
    /// Observations per bucket (not cumulative), one more than `bounds`.
    pub buckets: Vec<u64>,
    /// Sum of all observations, seconds.
    pub sum: f64,
}

impl Histogram {
    /// An empty histogram over these bounds.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, buckets: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Counts one duration.
    pub fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.iter().position(|&bound| seconds <= bound).unwrap_or(self.bounds.len());
        self.buckets[bucket] += 1;
        self.sum += seconds;
    }
}

/// Bounds for answers of a service, seconds.
const FAST: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Bounds for conversations, seconds.
const LONG: &[f64] = &[1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0];

/// Counters since the start, and gauges of now.
#[derive(Debug, Clone, PartialEq)]
pub struct Counters {
    /// SIP requests received, by method (known methods only; `other` for the rest).
    pub requests_received: BTreeMap<&'static str, u64>,
    /// SIP messages received that could not be read.
    pub unreadable: u64,
    /// Messages from sources not on the access list.
    pub unlisted: u64,
    /// Messages dropped because their source sent too many.
    pub over_rate: u64,
    /// Requests that were asked for credentials.
    pub challenged: u64,
    /// SIP messages we sent again.
    pub retransmissions: u64,
    /// Calls taken.
    pub calls: u64,
    /// Calls refused before intake, by reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Calls ended, by outcome.
    pub outcomes: BTreeMap<Outcome, u64>,
    /// API exchanges, by operation (`create`, `fetch`) and class (`ok` or a failure class).
    pub api: BTreeMap<(&'static str, &'static str), u64>,
    /// Customers who did not reach GenerativeAgent, by reason and by the kind of rung that took them.
    pub fallbacks: BTreeMap<(NotConnected, &'static str), u64>,
    /// Numbers that arrived when nobody wanted them any more.
    pub numbers_unused: u64,
    /// INVITEs that went another way because the first one failed.
    pub failovers: u64,
    /// Legs cut because the number led to somebody else.
    pub misdirected: u64,
    /// Circuit breaker openings.
    pub breaker_openings: u64,
    /// From the INVITE to the customer's 200.
    pub setup: Histogram,
    /// From the customer's 200 to the verdict.
    pub conversation: Histogram,
    /// From GenerativeAgent's BYE to the customer's hand-back.
    pub hand_back: Histogram,
    /// Gauge: conversations that may be resumed.
    pub conversations_remembered: u64,
    /// Gauge: inputs that wait for their call.
    pub inputs_laid_down: u64,
    /// Gauge: conversations with an onward leg, or with a call that came in behind one.
    pub conversations_onward: u64,
    /// Gauge: calls in memory.
    pub active_calls: u64,
    /// Gauge: legs in memory.
    pub active_legs: u64,
    /// Gauge: transactions in memory.
    pub active_transactions: u64,
    /// Gauge: timers set.
    pub active_timers: u64,
    /// Gauge: dialogs and tombstones in memory.
    pub active_dialogs: u64,
    /// Gauge: port pairs lent.
    pub ports_lent: u64,
    /// Gauge: port pairs draining.
    pub ports_draining: u64,
    /// Gauge: port pairs free.
    pub ports_free: u64,
    /// Gauge: every server of every trunk.
    pub trunk_servers: Vec<TrunkState>,
    /// Gauge: calls of each trunk.
    pub trunk_calls: Vec<(String, u64)>,
    /// Gauge: trunks where we are registered, and where we should be.
    pub registrations: (u64, u64),
    /// Gauge: 1 while ASAPP refuses our credentials (401, 403).
    pub credentials_refused: u64,
    /// Gauge: 1 while the circuit breaker is open.
    pub breaker_open: u64,
    /// Gauge: 1 while draining.
    pub draining: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            requests_received: BTreeMap::new(),
            unreadable: 0,
            unlisted: 0,
            over_rate: 0,
            challenged: 0,
            retransmissions: 0,
            calls: 0,
            rejected: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            api: BTreeMap::new(),
            fallbacks: BTreeMap::new(),
            numbers_unused: 0,
            failovers: 0,
            misdirected: 0,
            breaker_openings: 0,
            setup: Histogram::new(FAST),
            conversation: Histogram::new(LONG),
            hand_back: Histogram::new(FAST),
            conversations_remembered: 0,
            inputs_laid_down: 0,
            conversations_onward: 0,
            active_calls: 0,
            active_legs: 0,
            active_transactions: 0,
            active_timers: 0,
            active_dialogs: 0,
            ports_lent: 0,
            ports_draining: 0,
            ports_free: 0,
            trunk_servers: Vec::new(),
            trunk_calls: Vec::new(),
            registrations: (0, 0),
            credentials_refused: 0,
            breaker_open: 0,
            draining: 0,
        }
    }
}
