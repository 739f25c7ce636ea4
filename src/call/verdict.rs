//! The verdict: which leg ended the call, and why. One type for rules, records, metrics and the page.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// GenerativeAgent ended it: a person is needed.
    Agent,
    /// GenerativeAgent ended it: the calling system goes on.
    System,
    /// GenerativeAgent ended it with no transferType or one we do not know: COMPLETED, or no API knows of the call.
    Unspecified,
    /// The GenerativeAgent leg ended, and the API still said ONGOING at the deadline.
    Unconfirmed,
    /// The GenerativeAgent leg ended, and the API cannot tell us why.
    ContextMissing,
    /// The GenerativeAgent leg died without a BYE.
    GenagentLost,
    /// The number led somewhere else.
    Misdirected,
    /// GenerativeAgent was never reached.
    NotConnected,
    /// The customer ended it.
    CustomerHungUp,
    /// The longest permitted call.
    MaxDuration,
    /// A person pulled it back, or ended it; the customer itself (`ended_by`), by the keys of the escape.
    Operator,
    /// We were shut down.
    Drained,
    /// A restart could not save it.
    RecoveredLost,
}

impl Outcome {
    /// Every outcome, in order.
    pub const ALL: [Self; 13] = [
        Self::Agent,
        Self::System,
        Self::Unspecified,
        Self::Unconfirmed,
        Self::ContextMissing,
        Self::GenagentLost,
        Self::Misdirected,
        Self::NotConnected,
        Self::CustomerHungUp,
        Self::MaxDuration,
        Self::Operator,
        Self::Drained,
        Self::RecoveredLost,
    ];

    /// The word used in records, metrics and headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::System => "system",
            Self::Unspecified => "unspecified",
            Self::Unconfirmed => "unconfirmed",
            Self::ContextMissing => "context_missing",
            Self::GenagentLost => "genagent_lost",
            Self::Misdirected => "misdirected",
            Self::NotConnected => "not_connected",
            Self::CustomerHungUp => "customer_hung_up",
            Self::MaxDuration => "max_duration",
            Self::Operator => "operator",
            Self::Drained => "drained",
            Self::RecoveredLost => "recovered_lost",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the end of a call means for its conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aftermath {
    /// The customer may call back and go on.
    Open,
    /// There was no conversation in this call: an earlier one is where it was.
    Untouched,
    /// It is over, or somebody else goes on with it.
    Closed,
}

/// Who ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// The customer leg.
    Customer,
    /// The GenerativeAgent leg.
    Genagent,
    /// The onward leg.
    Onward,
    /// This program.
    Us,
    /// Nobody: something broke.
    Network,
}

/// Where in its life the call was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Before GenerativeAgent answered.
    BeforeAnswer,
    /// Both legs bridged.
    Talking,
    /// Waiting for the outputContext.
    Collecting,
    /// Handing the customer back.
    HandingBack,
}

/// Why GenerativeAgent was never reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotConnected {
    /// ASAPP refused the request.
    ApiRefused,
    /// ASAPP or our own limiter throttled it.
    ApiThrottled,
    /// ASAPP did not answer usefully in time.
    ApiDown,
    /// The number's life ended before it answered.
    NumberExpired,
    /// The trunk refused or was silent.
    TrunkFailed,
    /// It rang and nobody answered.
    NoAnswer,
}

impl NotConnected {
    /// The word used in rules, records and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ApiRefused => "api_refused",
            Self::ApiThrottled => "api_throttled",
            Self::ApiDown => "api_down",
            Self::NumberExpired => "number_expired",
            Self::TrunkFailed => "trunk_failed",
            Self::NoAnswer => "no_answer",
        }
    }
}

/// What the verdict rests on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// Why GenerativeAgent was never reached, for `not_connected`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_connected: Option<NotConnected>,
    /// The last SIP status that mattered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sip_status: Option<u16>,
    /// The `Reason` header (RFC 3326) of the request that ended it, printable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The last API status, as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_status: Option<String>,
    /// `transferType`, as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer_type: Option<String>,
    /// The last API failure, one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_failure: Option<String>,
    /// How often the outputContext was asked for.
    pub polls: u8,
}

/// How a call ended, who ended it, when, and how we know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// How.
    pub outcome: Outcome,
    /// Who.
    pub ended_by: EndedBy,
    /// When in its life.
    pub phase: Phase,
    /// How we know.
    pub evidence: Evidence,
}

impl Verdict {
    /// What this end means for the conversation.
    pub fn aftermath(&self) -> Aftermath {
        match self.outcome {
            Outcome::NotConnected => Aftermath::Untouched,
            _ if self.phase == Phase::BeforeAnswer => Aftermath::Untouched,
            Outcome::CustomerHungUp => Aftermath::Open,
            Outcome::Agent
            | Outcome::System
            | Outcome::Unspecified
            | Outcome::Unconfirmed
            | Outcome::ContextMissing
            | Outcome::GenagentLost
            | Outcome::Misdirected
            | Outcome::MaxDuration
            | Outcome::Operator
            | Outcome::Drained
            | Outcome::RecoveredLost => Aftermath::Closed,
        }
    }
}
