//! What a call hears and what it wants: two small vocabularies.

use std::time::Instant;

use bytes::Bytes;
use serde::Serialize;

use super::TransferId;
use super::asapp::{ApiFailure, Transfer};
use super::context::{Carry, PublishedContext};
use super::escape::Digit;
use super::record::CallRecord;
use super::ticket::DialTicket;
use super::verdict::NotConnected;
use super::webhook::Inquiry;
use crate::leg::{Info, LegCommand, LegEvent, LegRole, Referral};

/// Something happened to a call.
#[derive(Debug, Clone)]
pub enum CallEvent {
    /// A leg spoke. Legs that were abandoned are not heard any more.
    Leg(LegRole, LegEvent),
    /// The way by which the number is being dialled failed like this, and there is another; or the target that is being
    /// dialled says nothing.
    WayFailed(String),
    /// A trunk has been looked for, for the attempt of this id; whether there is one.
    Reserved(TransferId, bool),
    /// ASAPP answered a create.
    Created(TransferId, Result<Transfer, ApiFailure>),
    /// ASAPP answered a fetch.
    Fetched(TransferId, Result<Transfer, ApiFailure>),
    /// GenerativeAgent brings the customer of this transfer back by an INVITE of its own, with these headers.
    Returned(TransferId, Vec<(String, String)>),
    /// A webhook answered the question of the rung with this number, or did not.
    Advised(usize, Result<Bytes, String>),
    /// The first RTP came from this leg.
    Heard(LegRole),
    /// The successor is the customer's leg now.
    ChangedHands,
    /// A key was pressed on this leg.
    Pressed(LegRole, Digit),
    /// Nothing is heard from either side any more.
    MediaDead,
    /// The announcement is over, or cannot be heard at all.
    Played,
    /// A timer of this call fired.
    Timer(CallTimer),
    /// A person takes the customer back from GenerativeAgent, to be handed back by the rules.
    PulledBack,
    /// A person ends the call for everybody; nothing is handed back.
    Ended,
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
    /// Whoever is being called has rung long enough, or nobody says what becomes of a REFER.
    RingLimit,
    /// The customer's side has not accepted a REFER in time.
    AcceptLimit,
    /// Whoever is to take the customer's place has rung long enough.
    SuccessorLimit,
    /// A customer who was answered first, and from whom nothing has been heard yet, is gone.
    DwellLimit,
    /// Ask the API whether the party that answered is ours.
    VerifyDue,
    /// The longest permitted conversation: take the customer back.
    MaxDuration,
    /// Ask for the outputContext again.
    PollDue,
    /// The outputContext is too late: go on without it.
    CollectLimit,
    /// No more attempts to hand the customer back.
    LadderLimit,
    /// The announcement has lasted long enough: hang up.
    AnnouncementLimit,
    /// A leg owes its last word too long: write the record all the same.
    ReleaseLimit,
}

impl CallTimer {
    /// Every timer.
    pub const ALL: [Self; 14] = [
        Self::NumberBudget,
        Self::RetryDue,
        Self::NumberGuard,
        Self::RingLimit,
        Self::AcceptLimit,
        Self::SuccessorLimit,
        Self::DwellLimit,
        Self::VerifyDue,
        Self::MaxDuration,
        Self::PollDue,
        Self::CollectLimit,
        Self::LadderLimit,
        Self::AnnouncementLimit,
        Self::ReleaseLimit,
    ];
}

/// An occasion on which a sound of our own is heard; what it sounds like is the relay's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Sound {
    /// The customer waits for GenerativeAgent's answer.
    Ringback,
    /// The customer waits while nobody is being called.
    Waiting,
    /// The customer waits while an onward leg rings.
    Onward,
    /// Whoever talks with somebody who holds.
    Hold,
    /// Nobody could be reached. Heard once.
    Announcement,
}

impl Sound {
    /// Every occasion, in the order of their discriminants.
    pub const ALL: [Self; 5] = [Self::Ringback, Self::Waiting, Self::Onward, Self::Hold, Self::Announcement];
}

/// How a key that was pressed came to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Press {
    /// As a telephone event, which the relay takes to whoever hears those.
    Heard(Digit),
    /// By this INFO, which nobody takes anywhere.
    Told(Digit, Info),
}

impl Press {
    /// The key.
    pub fn digit(&self) -> Digit {
        match self {
            Self::Heard(digit) | Self::Told(digit, _) => *digit,
        }
    }
}

/// What a call wants done, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum CallAction {
    /// Tell a leg; the lines go into its message.
    Leg(LegRole, LegCommand, Carry),
    /// Ask the customer's side to take our place with the onward leg (RFC 5589 section 7).
    Introduce,
    /// Dial GenerativeAgent: a new leg.
    Dial(DialTicket),
    /// Call this URI of this target: a new onward leg; the lines go into its INVITE.
    Onward {
        /// The target.
        target: String,
        /// Which of its URIs, counted from 0.
        member: usize,
        /// The context.
        carry: Carry,
    },
    /// Ask a webhook; [`CallEvent::Advised`] follows within its time limit.
    Consult(Box<Inquiry>),
    /// Hang up a leg that we dialled, and hear no more of it.
    Abandon(LegRole),
    /// Answer the INVITE that brings the customer back, and hang up on it. Where it is not told to be, it is refused.
    TakeBack,
    /// Let the successor, if it could be answered, be the customer's leg; hang up the old one and hear no more of it.
    ChangeHands,
    /// Tell whoever asked by REFER for the customer to be called how that goes; a final status is the last word.
    Report(u16),
    /// Call whom the customer's side named, as its successor; one that cannot be called is lost at once.
    CallSuccessor(Referral),
    /// Look for a trunk that takes the attempt of this id, which no number is asked for; [`CallEvent::Reserved`] follows.
    Reserve(TransferId),
    /// Ask for a number under this id.
    Create(TransferId, Instant),
    /// Look this transfer up.
    Fetch(TransferId, Instant),
    /// Look this transfer up as evidence, if the API can bear one more request now.
    Verify(TransferId, Instant),
    /// The number led to somebody else: somebody should look at this.
    Misdirected(TransferId),
    /// Let the customer and this leg hear each other; `watched`: and tell when both fall silent.
    Connect {
        /// Whom the customer talks to.
        with: LegRole,
        /// Whether silence on both sides is to be reported.
        watched: bool,
    },
    /// A key was pressed on the other side: tell this leg of it, unless the relay takes it there.
    Pass(LegRole, Press),
    /// Let the customer hear this instead of a peer.
    Play(Sound),
    /// Record what the customer says and hears from now on, or no longer.
    Record(bool),
    /// Set a timer.
    Start(CallTimer, Instant),
    /// Forget every timer but the successor's.
    StopTimers,
    /// Show this behind the context reference.
    Publish(Box<PublishedContext>),
    /// GenerativeAgent was never reached, and this kind of rung has taken the customer instead.
    FellBack(NotConnected, &'static str),
    /// A number came that nobody wants any more: it is counted and never dialled.
    NumberUnused,
    /// The call is over: write this, drop the rest.
    End(Box<CallRecord>),
}
