//! The record: one line per call, whatever happens.

use std::time::Instant;

use serde::Serialize;

use super::intake::ConversationSource;
use super::verdict::{EndedBy, Verdict};
use super::{CallRef, ConversationId, TransferId};
use crate::leg::MediaCounters;

/// An instant on both clocks, so that monotonic times can be written down as wall time.
#[derive(Debug, Clone, Copy)]
pub struct Epoch {
    /// The monotonic clock.
    pub instant: Instant,
    /// The wall clock at the same moment, milliseconds since the Unix epoch.
    pub unix_ms: i64,
}

impl Epoch {
    /// Wall time of a monotonic instant, milliseconds since the Unix epoch.
    pub fn unix_ms(&self, at: Instant) -> i64 {
        match at.checked_duration_since(self.instant) {
            Some(later) => self.unix_ms + later.as_millis() as i64,
            None => self.unix_ms - (self.instant - at).as_millis() as i64,
        }
    }
}

/// Everything that is remembered of a call. Times are milliseconds since the Unix epoch; numbers and addresses of
/// people are masked to their last four characters; no variable value appears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallRecord {
    /// Our id of the call.
    pub call: CallRef,
    /// The external conversation id.
    pub conversation: ConversationId,
    /// Where that id came from.
    pub conversation_source: ConversationSource,
    /// The earlier call of this conversation, in which the customer hung up, where it is remembered.
    pub resumes: Option<CallRef>,
    /// SIP's Call-ID of the customer's INVITE, or of the REFER that asked us to call the customer.
    pub customer_call_id: String,
    /// The user part of the caller's From, masked.
    pub caller: String,
    /// The user part of the Request-URI, masked.
    pub dialled: String,
    /// The entry task asked for.
    pub task: Option<String>,
    /// Names of the input variables passed on.
    pub input_variables: Vec<String>,
    /// How many input variables were left out because of a limit.
    pub input_left_out: u32,
    /// The INVITE arrived.
    pub received_at: i64,
    /// The customer was answered.
    pub answered_at: Option<i64>,
    /// The verdict was reached.
    pub decided_at: i64,
    /// The last word was spoken.
    pub ended_at: i64,
    /// Every attempt to reach GenerativeAgent, in order.
    pub attempts: Vec<AttemptRecord>,
    /// How often the customer's leg was taken over by another.
    pub takeovers: u8,
    /// How it ended.
    pub verdict: Verdict,
    /// How the customer was handed back.
    pub hand_back: Option<HandBackRecord>,
    /// The context reference.
    pub context_ref: String,
    /// Media counters of the customer leg.
    pub customer_media: Option<MediaCounters>,
    /// Media counters of the last GenerativeAgent leg.
    pub genagent_media: Option<MediaCounters>,
    /// Media counters of the last onward leg.
    pub onward_media: Option<MediaCounters>,
    /// What became of its recording, if it was recorded.
    pub recording: Option<Recorded>,
}

/// A recording that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recorded {
    /// The file in the folder of recordings, if one could be made.
    pub file: Option<String>,
    /// How long it lasts.
    pub milliseconds: u64,
    /// Packets that were too late for their place, or could not be taken at all.
    pub lost_frames: u64,
    /// Packets of speech that is silence in it: of another codec than G.711, or longer than 60 ms.
    pub unreadable_frames: u64,
    /// Whether it is there to its end.
    pub end: TapeEnd,
}

/// How a recording ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TapeEnd {
    /// With the call.
    Complete,
    /// When the folder was full.
    FolderFull,
    /// When the disk failed.
    DiskFailed,
    /// Nobody knows: the recorder has not said in time.
    Unknown,
}

/// One attempt: one call transfer, at most one number dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttemptRecord {
    /// ASAPP's id, which is ours.
    pub transfer: TransferId,
    /// The number, masked.
    pub number: Option<String>,
    /// The number was asked for.
    pub requested_at: i64,
    /// The INVITE left.
    pub dialed_at: Option<i64>,
    /// GenerativeAgent answered.
    pub answered_at: Option<i64>,
    /// The trunks its INVITEs left by, in order.
    pub trunks: Vec<String>,
    /// What became of it, in a word or two.
    pub result: String,
}

/// How the customer was handed back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HandBackRecord {
    /// What was tried, in order. The last one served, if any did.
    pub rungs: Vec<RungRecord>,
    /// The onward leg answered.
    pub answered_at: Option<i64>,
    /// Who ended the talk with the onward leg, or gave up waiting for it.
    pub ended_by: Option<EndedBy>,
    /// Context values sent.
    pub values_sent: u32,
    /// Context values left out whole, kept behind the reference.
    pub values_left_out: u32,
}

/// One rung of a hand-back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RungRecord {
    /// The rung, as the rules spell it; a target of several URIs is there once for each that was called.
    pub rung: String,
    /// What became of it, in a word or two.
    pub result: String,
}

/// The last four characters of a number, the rest hidden.
pub fn masked(number: &str) -> String {
    let count = number.chars().count();
    let shown = if count > 4 { 4 } else { 0 };
    let tail: String = number.chars().skip(count - shown).filter(|c| c.is_ascii_alphanumeric()).collect();
    format!("{}{tail}", "*".repeat((count - shown).min(12)))
}
