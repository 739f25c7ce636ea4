//! ASAPP's call transfer in the words a call decides by. How it travels is the adapter's affair.

use std::time::Duration;

use serde::{Serialize, Serializer};

use super::ConversationId;
use super::settings::ContextSettings;

/// The body of a create request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTransfer {
    /// `externalConversationId`.
    pub conversation: ConversationId,
    /// `type`.
    pub kind: TransferKind,
    /// `inputContext.taskName`.
    pub task: Option<String>,
    /// `inputContext.inputVariables`, in the order given.
    pub variables: Vec<(String, String)>,
}

/// `type`: how the call will reach GenerativeAgent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferKind {
    /// `PHONE_NUMBER`: at a temporary number of this country, ISO 3166 alpha-2.
    PhoneNumber {
        /// `phoneNumber.country`.
        country: String,
    },
    /// `SIP`: at the static SIP URI that ASAPP gave us.
    Sip(SipReturn),
}

/// `sip.returnTransferType`: how GenerativeAgent is to give the call back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SipReturn {
    /// `BYE`
    Bye,
    /// `REFER`, to this `returnURI`.
    Refer(String),
    /// `INVITE`, to this `returnURI`.
    Invite(String),
}

/// ASAPP's call transfer as an answer showed it. Every text in it is untrusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transfer {
    /// `status`; absent in some create answers.
    pub status: Option<TransferStatus>,
    /// `phoneNumber.transferNumber`, as given.
    pub number: Option<String>,
    /// `phoneNumber.country`, as given.
    pub country: Option<String>,
    /// `phoneNumber.expiresAt` (or `expireAt`), milliseconds since the Unix epoch.
    pub expires_at: Option<i64>,
    /// The end of the second that the answer's `Date` header names, milliseconds since the Unix epoch; without one, our
    /// wall clock at its arrival.
    pub dated: i64,
    /// `outputContext`.
    pub output: Option<OutputContext>,
}

/// `status`, compared without case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferStatus {
    /// Created; waiting for our call.
    Active,
    /// GenerativeAgent is on the call.
    Ongoing,
    /// Finished.
    Completed,
    /// Nobody called in time.
    Expired,
    /// A word we do not know, kept as it came.
    Other(String),
}

impl TransferStatus {
    /// Reads a status without regard to case; never fails.
    pub fn read(text: &str) -> Self {
        match text.to_ascii_lowercase().as_str() {
            "active" => Self::Active,
            "ongoing" => Self::Ongoing,
            "completed" => Self::Completed,
            "expired" => Self::Expired,
            _ => Self::Other(text.to_owned()),
        }
    }

    /// The word in ASAPP's spelling.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Active => "ACTIVE",
            Self::Ongoing => "ONGOING",
            Self::Completed => "COMPLETED",
            Self::Expired => "EXPIRED",
            Self::Other(text) => text,
        }
    }
}

/// `outputContext`: what GenerativeAgent leaves behind. Values that are not strings arrive as their JSON text. Written
/// down in ASAPP's own spelling.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputContext {
    /// `transferType`, as it came.
    pub transfer_type: Option<String>,
    /// `currentTaskName`.
    #[serde(rename = "currentTaskName")]
    pub task: Option<String>,
    /// `transferVariables`, in the order given.
    #[serde(serialize_with = "object")]
    pub transfer_variables: Vec<(String, String)>,
    /// `referenceVariables`, in the order given.
    #[serde(serialize_with = "object")]
    pub reference_variables: Vec<(String, String)>,
}

impl OutputContext {
    /// What header lines of GenerativeAgent's say of it, in ASAPP's vocabulary, whichever our receivers read.
    pub fn of_headers(headers: &[(String, String)]) -> Self {
        let names = ContextSettings::default();
        let rest = |name: &str, prefix: &str| {
            let begins = name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
            Some(name.get(prefix.len()..)?.to_owned()).filter(|rest| begins && !rest.is_empty())
        };
        let with = |prefix: &str| {
            headers.iter().filter_map(|(name, value)| Some((rest(name, prefix)?, value.clone()))).collect()
        };
        let kind = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(&names.transfer_header));
        Self {
            transfer_type: kind.map(|(_, value)| value.clone()),
            task: None,
            transfer_variables: with(&names.transfer_prefix),
            reference_variables: with(&names.reference_prefix),
        }
    }
}

fn object<S: Serializer>(pairs: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

/// Why an exchange with ASAPP brought nothing usable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiFailure {
    /// The class the call decides by.
    pub class: FailureClass,
    /// The HTTP status, where one was read.
    pub status: Option<u16>,
    /// `error.requestId` of the error body, for ASAPP's support.
    pub request_id: Option<String>,
    /// One printable line for the log and the record; at most 200 characters, no secret in it.
    pub detail: String,
    /// `Retry-After`, where given in seconds.
    pub retry_after: Option<Duration>,
}

impl ApiFailure {
    /// The failure of an exchange that we did not even try.
    pub fn not_asked(class: FailureClass) -> Self {
        let detail = format!("not asked: {}", class.as_str());
        Self { class, status: None, request_id: None, detail, retry_after: None }
    }
}

/// Classes of API failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// 400, 413, 422: what the request holds. Do not repeat it as it is.
    InvalidRequest,
    /// Every 4xx without a class of its own: do not repeat.
    Refused,
    /// 401, 403: our credentials.
    Unauthorized,
    /// 404.
    NotFound,
    /// 409: the entity is already there.
    Conflict,
    /// 429.
    Throttled,
    /// 5xx.
    ServerError,
    /// Sent, and then no answer in time or a broken connection: it may have taken effect.
    Ambiguous,
    /// Never sent: name, connection or TLS trouble.
    Unreachable,
    /// Not asked: our own circuit breaker is open.
    Withheld,
    /// Not asked: our own rate towards the API is used up.
    Shed,
    /// Not asked: no trunk could take the call now.
    NoTrunk,
    /// A 2xx whose body is unreadable, too large, or not what was asked for.
    Malformed,
}

impl FailureClass {
    /// The word used in metrics and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Refused => "refused",
            Self::Unauthorized => "unauthorized",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Throttled => "throttled",
            Self::ServerError => "server_error",
            Self::Ambiguous => "ambiguous",
            Self::Unreachable => "unreachable",
            Self::Withheld => "withheld",
            Self::Shed => "shed",
            Self::NoTrunk => "no_trunk",
            Self::Malformed => "malformed",
        }
    }

    /// Whether the API is to be taken for down.
    pub fn is_trouble(self) -> bool {
        matches!(self, Self::ServerError | Self::Ambiguous | Self::Unreachable)
    }
}
