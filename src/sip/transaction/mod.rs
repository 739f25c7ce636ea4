//! The four transaction machines of RFC 3261 section 17, with the Accepted states of RFC 6026.
//!
//! A transaction repeats; it decides nothing. Each machine takes one event and says what to do; whoever holds it keeps
//! its timers and its octets' destination. Over a reliable transport nothing is sent twice: timers A, E and G are off,
//! D, I, J and K are zero, B, F and H stay (RFC 3261 table 4).

pub mod client;
pub mod invite_client;
pub mod invite_server;
pub mod key;
pub mod server;
pub mod timer;

use bytes::Bytes;
use smallvec::SmallVec;
use std::time::Duration;

use timer::Timer;

/// What a machine wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send these octets.
    Transmit(Bytes),
    /// Send these octets again: the same, but counted as a retransmission.
    Retransmit(Bytes),
    /// Set a timer, replacing one of the same letter.
    Start(Timer, Duration),
    /// Forget a timer.
    Stop(Timer),
    /// The message that was just handled is news: pass it up.
    Deliver,
    /// No answer came: tell the user.
    TimedOut,
    /// The machine is done: drop it and its timers.
    Terminated,
}

/// What one event brings about, in order.
pub type Actions = SmallVec<[Action; 4]>;

/// RFC 3261 Table 4's base values, as settings give them.
#[derive(Debug, Clone, Copy)]
pub struct Base {
    /// Round-trip estimate.
    pub t1: Duration,
    /// Longest retransmission interval.
    pub t2: Duration,
    /// Longest time a message stays in the network.
    pub t4: Duration,
}

impl Base {
    /// 64*T1: timers B, F, H, J, L, M.
    pub fn long(&self) -> Duration {
        self.t1 * 64
    }
}
