//! What a call decides by: budgets, limits and names, each with its default.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::value::{Error as ValueError, StringDeserializer};
use serde::de::{Error, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use super::TransferId;
use super::asapp::SipReturn;
use super::escape::Sequence;
use super::recording::RecordingSettings;
use super::rules::{Entry, Rule, Target};
use super::verdict::Outcome;
use super::webhook::Webhook;

/// Settings of the supervised transfer.
#[derive(Debug, Clone)]
pub struct CallSettings {
    /// How GenerativeAgent is reached.
    pub way_in: WayIn,
    /// `phoneNumber.country` asked for, and the only one accepted.
    pub country: String,
    /// E.164 prefixes a transfer number may have, plus sign included (`+1`).
    pub number_prefixes: Vec<String>,
    /// E.164 prefixes a transfer number must not have, whatever is permitted: premium rate.
    pub barred_prefixes: Vec<String>,
    /// From asking for a number to dialling it.
    pub number_budget: Duration,
    /// One API exchange.
    pub api_timeout: Duration,
    /// No INVITE leaves later than this before the number expires.
    pub expiry_margin: Duration,
    /// Life of a number whose answer names no expiry.
    pub default_lifetime: Duration,
    /// How long GenerativeAgent may ring.
    pub ring_limit: Duration,
    /// Call transfers a call may spend before it falls back.
    pub max_attempts: u8,
    /// After the answer, when the API is asked whether it was the right party; asked again once after the same time
    /// before the leg is cut. Zero: never asked.
    pub verify_after: Duration,
    /// How often a customer whose conversation broke off is reconnected to it through a fresh number.
    pub resume_attempts: u8,
    /// How many calls of one conversation may be up at once that came in while an earlier one had an onward leg: customers
    /// whom we dialled on, and whose PBX sends them back.
    pub max_reentries: u8,
    /// From GenerativeAgent's BYE to giving up on the outputContext.
    pub collect_limit: Duration,
    /// The longest conversation.
    pub max_duration: Duration,
    /// How long an ended call waits for the last word of its legs before its record is written all the same.
    pub release_limit: Duration,
    /// What the customer hears before the answer.
    pub ringing: Ringing,
    /// When the customer is answered.
    pub answer: Answer,
    /// With [`Answer::First`]: a customer from whom no RTP has come for so long after the answer is gone. Zero: waits.
    pub dwell_limit: Duration,
    /// The keys by which a customer takes the call back from GenerativeAgent; none: not at all.
    pub escape: Sequence,
    /// The longest pause between two of them.
    pub escape_pause: Duration,
    /// Whether a create that ASAPP refuses for what is in it is repeated once without the input context.
    pub retry_without_context: bool,
    /// How calls come to us.
    pub entry: EntrySetting,
    /// How customers are handed back: the first rule that fits.
    pub rules: Vec<Rule>,
    /// Where they may be sent.
    pub targets: BTreeMap<String, Target>,
    /// Who may be asked where.
    pub webhooks: BTreeMap<String, Webhook>,
    /// From the end of GenerativeAgent's part to the last attempt to hand the customer back.
    pub ladder_limit: Duration,
    /// How long the announcement that nobody could be reached may take. Zero: there is none.
    pub announcement_limit: Duration,
    /// Which calls are recorded.
    pub recording: RecordingSettings,
    /// Seconds in the Retry-After of a 503.
    pub retry_after: u32,
    /// Which request headers are read.
    pub intake: IntakeSettings,
    /// Which context is sent to whom no profile is made for.
    pub context: ContextSettings,
    /// The same for certain receivers, by the profile's name.
    pub profiles: BTreeMap<String, ContextSettings>,
}

impl CallSettings {
    /// What a receiver with this profile is sent.
    pub fn profile(&self, name: Option<&str>) -> &ContextSettings {
        name.and_then(|name| self.profiles.get(name)).unwrap_or(&self.context)
    }
}

/// How GenerativeAgent is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WayIn {
    /// At a temporary number that ASAPP's API names.
    Number,
    /// At its static SIP URI, as a call transfer that the API knows.
    Sip {
        /// The URI.
        uri: String,
        /// How it is to give the customer back.
        returns: Return,
    },
    /// At its static SIP URI, and the API is asked for nothing: the headers of the INVITE say everything.
    Headers {
        /// The URI.
        uri: String,
    },
}

impl WayIn {
    /// Whether ASAPP's API knows of the call: what it tells of no call, nobody asks it.
    pub fn asks_api(&self) -> bool {
        match self {
            Self::Number | Self::Sip { .. } => true,
            Self::Headers { .. } => false,
        }
    }
}

/// How GenerativeAgent is asked to give customers back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Return {
    /// By BYE.
    Bye,
    /// By REFER to this URI, which nobody calls.
    Refer(String),
    /// By an INVITE of its own, to a URI that each transfer has for itself.
    Invite(ReturnUri),
}

impl Return {
    /// What a create says of it.
    pub fn of(&self, transfer: &TransferId) -> SipReturn {
        match self {
            Self::Bye => SipReturn::Bye,
            Self::Refer(uri) => SipReturn::Refer(uri.clone()),
            Self::Invite(uri) => SipReturn::Invite(uri.of(transfer)),
        }
    }
}

/// `sip:USER@PLACE`, in which a transfer's id follows the user: nothing else tells whom a returning INVITE brings back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnUri {
    user: String,
    place: String,
}

impl ReturnUri {
    /// Reads a URI with a plain user; `None` when it has none.
    pub fn read(uri: &str) -> Option<Self> {
        let (user, place) = uri.strip_prefix("sip:")?.split_once('@')?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let whole = !user.is_empty() && user.bytes().all(plain) && !place.is_empty();
        whole.then(|| Self { user: user.to_owned(), place: place.to_owned() })
    }

    /// The URI of one transfer.
    pub fn of(&self, transfer: &TransferId) -> String {
        format!("sip:{}-{}@{}", self.user, transfer.0, self.place)
    }

    /// The transfer whose URI has this user; one that is none of ours names a transfer that nobody has.
    pub fn transfer(&self, user: &str) -> Option<TransferId> {
        Some(TransferId(user.strip_prefix(&self.user)?.strip_prefix('-')?.to_owned()))
    }
}

/// What the customer hears before the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ringing {
    /// 180 without a session description: the caller makes the tone.
    Local,
    /// 183 with our own ringback tone.
    EarlyMedia,
}

/// When the customer is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// When GenerativeAgent answers: until then the IVR's own failure branch works.
    OnBridge,
    /// At once, with our own ringback tone: for an IVR that counts on an answer.
    First,
}

/// How calls come to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntrySetting {
    /// As the INVITE tells.
    Detect,
    /// All of them from an IVR that waits.
    Supervised,
    /// All of them sent on by somebody who does not wait.
    Redirected,
}

impl EntrySetting {
    /// The entry kind of a call, redirected or not by its INVITE.
    pub fn of(self, redirected: bool) -> Entry {
        match (self, redirected) {
            (Self::Supervised, _) | (Self::Detect, false) => Entry::Supervised,
            (Self::Redirected, _) | (Self::Detect, true) => Entry::Redirected,
        }
    }
}

/// Names and limits of what is read from the first request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IntakeSettings {
    /// Header with the external conversation id.
    pub conversation_header: String,
    /// Header with the task name.
    pub task_header: String,
    /// Header with the customer id; passed on as the input variable `customerId`.
    pub customer_header: String,
    /// Prefix of the headers with input variables.
    pub variable_prefix: String,
    /// The input variable that gets the number in Diversion, where the call was sent on; empty: none does.
    pub diversion_variable: String,
    /// What the dialled user stands for: an entry task and fixed variables.
    pub dialled: BTreeMap<String, DialledEntry>,
    /// Most input variables.
    pub max_variables: usize,
    /// Longest value, octets.
    pub max_value: usize,
}

/// One row of the table on the dialled user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DialledEntry {
    /// The entry task, where the request names none.
    pub task: Option<String>,
    /// Input variables, where the request does not name them.
    pub variables: BTreeMap<String, String>,
}

/// Names, forms, allow-list and budgets of what one receiver is sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContextSettings {
    /// The preset that the other values began as.
    pub preset: String,
    /// Names of transferVariables that may be sent; `*` allows all.
    pub transfer_variables: Vec<String>,
    /// Names of referenceVariables that may be sent; `*` allows all.
    pub reference_variables: Vec<String>,
    /// Header with the transferType.
    pub transfer_header: String,
    /// Header with the external conversation id.
    pub conversation_header: String,
    /// Prefix of transferVariable headers.
    pub transfer_prefix: String,
    /// Prefix of referenceVariable headers.
    pub reference_prefix: String,
    /// Header with the context reference.
    pub reference_header: String,
    /// Header with the verdict's outcome.
    pub outcome_header: String,
    /// How a value stands in its header.
    #[serde(deserialize_with = "word")]
    pub encoding: Encoding,
    /// Most variables in headers.
    pub max_variables: usize,
    /// Longest value in a header, octets after encoding.
    pub max_value: usize,
    /// Octets of all variable values in headers together, after encoding.
    pub max_total: usize,
    /// Octets of all context header lines and the body together, names included: a request on UDP has 1,300 in all.
    pub max_lines: usize,
    /// The same on an INVITE, which describes a session as well, and inside a Refer-To, every escape counted.
    pub max_invite_lines: usize,
    /// What User-to-User holds.
    #[serde(deserialize_with = "word")]
    pub uui: Uui,
    /// How it is written there.
    #[serde(deserialize_with = "word")]
    pub uui_form: UuiForm,
    /// Octets of it before they become hexadecimal.
    pub max_uui: usize,
    /// What the body of a BYE holds.
    #[serde(deserialize_with = "word")]
    pub body: BodyForm,
    /// Whether the Contact of a 302 carries the headers too, for whoever follows it.
    pub contact_headers: bool,
    /// The Q.850 cause of the BYE that hands a customer back, by outcome; of every other 16.
    #[serde(deserialize_with = "causes")]
    pub causes: BTreeMap<Outcome, u8>,
}

/// How a value stands in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Percent-encoded UTF-8 (RFC 3986 section 2.1).
    Percent,
    /// As it is, for who does not decode; a value that is not printable ASCII is left out.
    Plain,
}

/// What User-to-User holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Uui {
    /// Nothing: the header is not sent.
    Off,
    /// The context reference.
    Ref,
    /// `ref=…&outcome=…&NAME=VALUE`, names and values percent-encoded.
    Kv,
    /// The same as a JSON object in ASCII.
    Json,
}

/// How User-to-User is written (RFC 7433 section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UuiForm {
    /// `DATA;encoding=hex`
    Hex,
    /// The same with ISDN's protocol discriminator in front, 04 for IA5 characters (RFC 7434 section 3.3).
    Isdn,
    /// The same with the discriminator in the parameter `pd`, as some gateways write it.
    Pd,
    /// Avaya's: discriminator 00, type C8, one octet of length.
    Avaya,
}

/// What the body of a BYE holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyForm {
    /// There is none.
    None,
    /// `application/x-www-form-urlencoded`
    Form,
    /// `application/json`
    Json,
}

/// One word of a few; an error lists them.
fn word<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    read_word(String::deserialize(from)?)
}

fn read_word<'de, T: Deserialize<'de>, E: Error>(word: String) -> Result<T, E> {
    let word: StringDeserializer<ValueError> = word.into_deserializer();
    T::deserialize(word).map_err(E::custom)
}

fn causes<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Outcome, u8>, D::Error> {
    let named = BTreeMap::<String, u8>::deserialize(from)?;
    named.into_iter().map(|(outcome, cause)| Ok((read_word(outcome)?, cause))).collect()
}

impl Default for CallSettings {
    fn default() -> Self {
        Self {
            way_in: WayIn::Number,
            country: "US".to_owned(),
            number_prefixes: vec!["+1".to_owned()],
            barred_prefixes: vec!["+1900".to_owned()],
            number_budget: Duration::from_secs(8),
            api_timeout: Duration::from_secs(4),
            expiry_margin: Duration::from_secs(5),
            default_lifetime: Duration::from_secs(60),
            ring_limit: Duration::from_secs(30),
            max_attempts: 2,
            verify_after: Duration::from_secs(2),
            resume_attempts: 0,
            max_reentries: 1,
            collect_limit: Duration::from_secs(3),
            max_duration: Duration::from_secs(2 * 3600),
            release_limit: Duration::from_secs(35),
            ringing: Ringing::Local,
            answer: Answer::OnBridge,
            dwell_limit: Duration::from_secs(20),
            escape: Sequence::default(),
            escape_pause: Duration::from_secs(3),
            retry_without_context: false,
            entry: EntrySetting::Detect,
            rules: Vec::new(),
            targets: BTreeMap::new(),
            webhooks: BTreeMap::new(),
            ladder_limit: Duration::from_secs(90),
            announcement_limit: Duration::ZERO,
            recording: RecordingSettings::default(),
            retry_after: 5,
            intake: IntakeSettings::default(),
            context: ContextSettings::default(),
            profiles: BTreeMap::new(),
        }
    }
}

impl Default for IntakeSettings {
    fn default() -> Self {
        Self {
            conversation_header: "X-GA-extConversationId".to_owned(),
            task_header: "X-GA-taskName".to_owned(),
            customer_header: "X-GA-customerId".to_owned(),
            variable_prefix: "X-GA-iv-".to_owned(),
            diversion_variable: String::new(),
            dialled: BTreeMap::new(),
            max_variables: 32,
            max_value: 1024,
        }
    }
}

impl Default for ContextSettings {
    fn default() -> Self {
        Self {
            preset: "generic".to_owned(),
            transfer_variables: vec!["*".to_owned()],
            reference_variables: Vec::new(),
            transfer_header: "X-GA-transfer".to_owned(),
            conversation_header: "X-GA-extConId".to_owned(),
            transfer_prefix: "X-GA-tv-".to_owned(),
            reference_prefix: "X-GA-rv-".to_owned(),
            reference_header: "X-Switchback-Context".to_owned(),
            outcome_header: "X-Switchback-Outcome".to_owned(),
            encoding: Encoding::Percent,
            max_variables: 8,
            max_value: 256,
            max_total: 1024,
            max_lines: 800,
            max_invite_lines: 400,
            uui: Uui::Off,
            uui_form: UuiForm::Hex,
            max_uui: 128,
            body: BodyForm::None,
            contact_headers: true,
            causes: BTreeMap::new(),
        }
    }
}
