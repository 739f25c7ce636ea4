//! What a call hears and what it wants: two small vocabularies.

use std::time::Instant;

use serde::Serialize;

use super::TransferId;
use super::asapp::{ApiFailure, Transfer};
use super::context::{Carry, PublishedContext};
use super::record::CallRecord;
use super::ticket::DialTicket;
use crate::leg::{LegCommand, LegEvent, LegRole};

/// Something happened to a call.
#[derive(Debug, Clone)]
pub enum CallEvent {
    /// A leg spoke. Legs that were abandoned are not heard any more.
    Leg(LegRole, LegEvent),
    /// The way by which the number is being dialled failed like this, and there is another.
    WayFailed(String),
    /// ASAPP answered a create.
    Created(TransferId, Result<Transfer, ApiFailure>),
    /// ASAPP answered a fetch.
    Fetched(TransferId, Result<Transfer, ApiFailure>),
    /// Nothing is heard from either side any more.
    MediaDead,
    /// A timer of this call fired.
    Timer(CallTimer),
    /// A person ends the conversation; the customer is handed back.
    Pulled,
    /// The program stops.
    Stopped,
}

/// Timers of a call; one line each says what happens when it fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CallTimer {
    /// No number in time: fall back.
    NumberBudget,
    /// Ask the API again, as its retry guidance says.
    RetryDue,
    /// The number's last safe moment: cancel the leg, never dial it again.
    NumberGuard,
    /// It has rung long enough.
    RingLimit,
    /// Ask the API whether the party that answered is ours.
    VerifyDue,
    /// The longest permitted conversation: take the customer back.
    MaxDuration,
    /// Ask for the outputContext again.
    PollDue,
    /// The outputContext is too late: go on without it.
    CollectLimit,
    /// A leg owes its last word too long: write the record all the same.
    ReleaseLimit,
}

impl CallTimer {
    /// Every timer.
    pub const ALL: [Self; 9] = [
        Self::NumberBudget,
        Self::RetryDue,
        Self::NumberGuard,
        Self::RingLimit,
        Self::VerifyDue,
        Self::MaxDuration,
        Self::PollDue,
        Self::CollectLimit,
        Self::ReleaseLimit,
    ];
}

/// A sound of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Sound {
    /// Ringback tone.
    Ringback,
    /// Comfort noise: quiet, but clearly not a dead line.
    ComfortNoise,
}

/// What a call wants done, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum CallAction {
    /// Tell a leg; the lines go into its message.
    Leg(LegRole, LegCommand, Carry),
    /// Dial GenerativeAgent: a new leg.
    Dial(DialTicket),
    /// Hang up the GenerativeAgent leg and hear no more of it.
    Abandon,
    /// Ask for a number under this id.
    Create(TransferId, Instant),
    /// Look this transfer up.
    Fetch(TransferId, Instant),
    /// Look this transfer up as evidence, if the API can bear one more request now.
    Verify(TransferId, Instant),
    /// The number led to somebody else: somebody should look at this.
    Misdirected(TransferId),
    /// Let the two legs hear each other; `watched`: and tell when both fall silent.
    Connect {
        /// Whether silence on both sides is to be reported.
        watched: bool,
    },
    /// Let the customer hear this instead of a peer.
    Play(Sound),
    /// Set a timer.
    Start(CallTimer, Instant),
    /// Forget every timer.
    StopTimers,
    /// Show this behind the context reference.
    Publish(Box<PublishedContext>),
    /// A number came that nobody wants any more: it is counted and never dialled.
    NumberUnused,
    /// The call is over: write this, drop the rest.
    End(Box<CallRecord>),
}
