//! What we learn from the first request: which conversation, which task, which variables.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::settings::IntakeSettings;
use super::{CallRef, ConversationId};
use crate::leg::Invitation;

/// The conversation as the caller's side asked for it, within limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intake {
    /// SIP's Call-ID of the customer's INVITE, or of the REFER that asked us to call the customer.
    pub call_id: String,
    /// User part of From, or of the URI that the REFER names.
    pub caller: String,
    /// User part of the Request-URI.
    pub dialled: String,
    /// Whether somebody sent the call on to us.
    pub redirected: bool,
    /// `externalConversationId`.
    pub conversation: ConversationId,
    /// Where that came from.
    pub source: ConversationSource,
    /// The earlier call in which the customer hung up on this conversation, where it is remembered.
    pub resumes: Option<CallRef>,
    /// `taskName`.
    pub task: Option<String>,
    /// `inputVariables`.
    pub variables: Vec<(String, String)>,
    /// Variables left out whole because of a limit.
    pub left_out: u32,
    /// The profile of who called, by its name.
    pub profile: Option<String>,
}

/// Where a conversation id came from, in the order in which they are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConversationSource {
    /// The configured header.
    Header,
    /// `conversation` in User-to-User (RFC 7433).
    Uui,
    /// A parameter of the Request-URI, named like the header.
    Uri,
    /// The local UUID of Session-ID (RFC 7989).
    SessionId,
    /// The caller's number, remembered from a call that the customer ended.
    Caller,
    /// Nobody named one: SIP's Call-ID.
    CallId,
}

impl ConversationSource {
    /// Whether the request itself named the conversation.
    pub fn is_named(self) -> bool {
        match self {
            Self::Header | Self::Uui | Self::Uri | Self::SessionId => true,
            Self::Caller | Self::CallId => false,
        }
    }
}

/// What was laid down for a conversation before its call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LaidDown {
    /// The entry task, where the request names none.
    pub task: Option<String>,
    /// Input variables, where the request does not name them.
    pub variables: BTreeMap<String, String>,
}

impl LaidDown {
    /// What is too much of it, in words; `None` when a call can take all of it.
    pub fn excess(&self, settings: &IntakeSettings) -> Option<String> {
        let IntakeSettings { max_variables, max_value, .. } = *settings;
        let named = |text: &str| !text.is_empty() && text.len() <= MAX_NAME;
        if self.variables.len() > max_variables {
            return Some(format!("at most {max_variables} variables"));
        }
        if self.task.as_deref().is_some_and(|task| !named(task)) || !self.variables.keys().all(|name| named(name)) {
            return Some(format!("a task or a name of a variable has 1 to {MAX_NAME} octets"));
        }
        let long = self.variables.values().any(|value| value.len() > max_value);
        long.then(|| format!("a value has at most {max_value} octets"))
    }
}

/// What the program remembers, as intake asks for it.
pub trait Recall {
    /// The conversation that this caller may go on with.
    fn of_caller(&self, caller: &str) -> Option<ConversationId>;
    /// The call in which the customer hung up on this conversation.
    fn earlier(&self, conversation: &ConversationId) -> Option<CallRef>;
    /// What was laid down for this conversation; it is taken once.
    fn take(&mut self, conversation: &ConversationId) -> Option<LaidDown>;
}

/// Nothing is remembered.
impl Recall for () {
    fn of_caller(&self, _: &str) -> Option<ConversationId> {
        None
    }

    fn earlier(&self, _: &ConversationId) -> Option<CallRef> {
        None
    }

    fn take(&mut self, _: &ConversationId) -> Option<LaidDown> {
        None
    }
}

/// The variable that the customer id is kept as.
pub(super) const CUSTOMER: &str = "customerId";
/// Longest conversation id, task or variable name, octets.
pub const MAX_NAME: usize = 256;

impl Intake {
    /// Reads an invitation. Never fails: an odd header never loses a call. What names a thing twice is read once, in
    /// this order: header, User-to-User, parameter of the Request-URI, what was laid down beforehand, the dialled user's
    /// table. Of the conversation see [`ConversationSource`].
    pub fn read(invitation: &Invitation, settings: &IntakeSettings, memory: &mut impl Recall) -> Self {
        let user_to_user = user_to_user(invitation);
        let row = settings.dialled.get(&invitation.dialled);
        let header = |name: &str| header(invitation, name);
        let uui = |name: &str| user_to_user.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        let parameter = |name: &str| parameter(invitation, name);
        let (source, conversation) = named(invitation, &user_to_user, settings)
            .or_else(|| Some((ConversationSource::Caller, memory.of_caller(&invitation.caller)?)))
            .unwrap_or_else(|| (ConversationSource::CallId, ConversationId(shortened(&invitation.call_id))));
        let laid_down = memory.take(&conversation).unwrap_or_default();
        let task = header(&settings.task_header)
            .or_else(|| uui("task"))
            .or_else(|| parameter(&settings.task_header))
            .or(laid_down.task)
            .or_else(|| row.and_then(|row| row.task.clone()));
        let mut intake = Self {
            call_id: invitation.call_id.clone(),
            caller: invitation.caller.clone(),
            dialled: invitation.dialled.clone(),
            redirected: invitation.redirected,
            resumes: memory.earlier(&conversation),
            conversation,
            source,
            task: task.map(|task| shortened(&printable(&task))),
            variables: Vec::new(),
            left_out: 0,
            profile: None,
        };
        for (name, value) in &invitation.headers {
            if let Some(name) = without_prefix(name, &settings.variable_prefix) {
                intake.add(name, &printable(value), settings);
            }
        }
        if let Some(customer) = header(&settings.customer_header) {
            intake.add(CUSTOMER, &customer, settings);
        }
        if let Some(diverted) = invitation.diverted.as_ref().filter(|_| !settings.diversion_variable.is_empty()) {
            intake.add(&settings.diversion_variable, &printable(diverted), settings);
        }
        for (name, value) in user_to_user.iter().filter(|(name, _)| name != "conversation" && name != "task") {
            intake.add(name, value, settings);
        }
        for (name, value) in &invitation.parameters {
            if let Some(name) = without_prefix(name, &settings.variable_prefix) {
                intake.add(name, &printable(value), settings);
            }
        }
        if let Some(customer) = parameter(&settings.customer_header) {
            intake.add(CUSTOMER, &customer, settings);
        }
        for (name, value) in &laid_down.variables {
            intake.add(name, &printable(value), settings);
        }
        for (name, value) in row.iter().flat_map(|row| &row.variables) {
            intake.add(name, value, settings);
        }
        intake
    }

    /// The conversation that the request itself names, and by what.
    pub fn named(invitation: &Invitation, settings: &IntakeSettings) -> Option<(ConversationSource, ConversationId)> {
        named(invitation, &user_to_user(invitation), settings)
    }

    fn add(&mut self, name: &str, value: &str, settings: &IntakeSettings) {
        if self.variables.iter().any(|(known, _)| known == name) {
            return;
        }
        let fits = name.len() <= MAX_NAME && value.len() <= settings.max_value && !name.is_empty();
        if fits && self.variables.len() < settings.max_variables {
            self.variables.push((name.to_owned(), value.to_owned()));
        } else {
            self.left_out += 1;
        }
    }
}

fn named(
    invitation: &Invitation,
    user_to_user: &[(String, String)],
    settings: &IntakeSettings,
) -> Option<(ConversationSource, ConversationId)> {
    let uui = user_to_user.iter().find(|(name, _)| name == "conversation").map(|(_, value)| value.clone());
    let conversations = [
        (ConversationSource::Header, header(invitation, &settings.conversation_header)),
        (ConversationSource::Uui, uui),
        (ConversationSource::Uri, parameter(invitation, &settings.conversation_header)),
        (ConversationSource::SessionId, invitation.session_id.clone()),
    ];
    // A longer one is none: cut short it could be somebody else's.
    let usable = |id: String| (1..=MAX_NAME).contains(&id.len()).then_some(ConversationId(id));
    conversations.into_iter().find_map(|(source, id)| Some((source, id.and_then(usable)?)))
}

fn header(invitation: &Invitation, name: &str) -> Option<String> {
    let (_, value) = invitation.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
    Some(printable(value)).filter(|value| !value.is_empty())
}

fn parameter(invitation: &Invitation, name: &str) -> Option<String> {
    let (_, value) = invitation.parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
    Some(printable(value)).filter(|value| !value.is_empty())
}

fn without_prefix<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = name.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Control characters become blanks.
fn printable(text: &str) -> String {
    text.replace(char::is_control, " ")
}

fn shortened(text: &str) -> String {
    let mut end = text.len().min(MAX_NAME);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// User-to-User holding `name=value` pairs or a JSON object of strings.
fn user_to_user(invitation: &Invitation) -> Vec<(String, String)> {
    let Some(data) = &invitation.user_to_user else { return Vec::new() };
    if let Ok(serde_json::Value::Object(object)) = serde_json::from_str(&printable(&data.text)) {
        return object.iter().filter_map(|(name, v)| Some((printable(name), printable(v.as_str()?)))).collect();
    }
    data.pairs.iter().map(|(name, value)| (printable(name), printable(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::settings::DialledEntry;
    use crate::sip::value::{UserToUser, unescaped};

    fn invitation(headers: &[(&str, &str)]) -> Invitation {
        Invitation {
            call_id: "cid".into(),
            caller: "+15550001".into(),
            dialled: "7000".into(),
            headers: headers.iter().map(|(n, v)| ((*n).to_owned(), unescaped(v).into_owned())).collect(),
            user_to_user: headers.iter().find(|(n, _)| *n == "User-to-User").map(|(_, v)| UserToUser::read(v)),
            ..Invitation::default()
        }
    }

    /// Remembers one caller.
    struct OneCaller;

    impl Recall for OneCaller {
        fn of_caller(&self, caller: &str) -> Option<ConversationId> {
            (caller == "+15550001").then(|| ConversationId("remembered".into()))
        }

        fn earlier(&self, conversation: &ConversationId) -> Option<CallRef> {
            (conversation.0 == "remembered").then_some(CallRef(7))
        }

        fn take(&mut self, _: &ConversationId) -> Option<LaidDown> {
            None
        }
    }

    #[test]
    fn a_conversation_is_named_by_the_first_that_names_one() {
        let mut invitation = invitation(&[("X-GA-extConversationId", "h"), ("User-to-User", "conversation=u")]);
        invitation.parameters = vec![("x-ga-extconversationid".into(), "p".into())];
        invitation.session_id = Some("s".into());
        let named = |invitation: &Invitation| {
            let read = Intake::read(invitation, &IntakeSettings::default(), &mut OneCaller);
            (read.source, read.conversation.0, read.resumes)
        };
        assert_eq!(named(&invitation), (ConversationSource::Header, "h".into(), None));
        invitation.headers[0].1 = "x".repeat(MAX_NAME + 1);
        assert_eq!(named(&invitation), (ConversationSource::Uui, "u".into(), None), "too long is none");
        (invitation.headers, invitation.user_to_user) = (Vec::new(), None);
        assert_eq!(named(&invitation), (ConversationSource::Uri, "p".into(), None));
        invitation.parameters.clear();
        assert_eq!(named(&invitation), (ConversationSource::SessionId, "s".into(), None));
        invitation.session_id = None;
        assert_eq!(named(&invitation), (ConversationSource::Caller, "remembered".into(), Some(CallRef(7))));
        invitation.caller = "+15550002".into();
        assert_eq!(named(&invitation), (ConversationSource::CallId, "cid".into(), None));
    }

    #[test]
    fn parameters_of_the_request_uri_name_what_headers_do() {
        let mut invitation = invitation(&[("X-GA-iv-plan", "header")]);
        let parameters =
            [("X-GA-taskName", "Billing"), ("x-ga-iv-plan", "uri"), ("X-GA-iv-site", "a\nb"), ("user", "phone")];
        invitation.parameters = parameters.map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        let read = Intake::read(&invitation, &IntakeSettings::default(), &mut ());
        assert_eq!(read.task.as_deref(), Some("Billing"));
        let pairs: Vec<_> = read.variables.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("plan", "header"), ("site", "a b")]);
    }

    #[test]
    fn headers_come_before_user_to_user_before_the_table() {
        let mut settings = IntakeSettings::default();
        let variables = [("plan", "table"), ("site", "north")].map(|(n, v)| (n.to_owned(), v.to_owned())).into();
        settings.dialled.insert("7000".into(), DialledEntry { task: Some("Billing".into()), variables });
        let read = Intake::read(
            &invitation(&[
                ("x-ga-IV-plan", "100%25 caf%C3%A9"),
                ("X-GA-customerId", "c-1"),
                ("User-to-User", "636f6e766572736174696f6e3d6162633b706c616e3d757569;encoding=hex"),
            ]),
            &settings,
            &mut (),
        );
        assert_eq!(read.conversation.0, "abc");
        assert_eq!(read.task.as_deref(), Some("Billing"));
        let pairs: Vec<_> = read.variables.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("plan", "100% café"), ("customerId", "c-1"), ("site", "north")]);
    }

    #[test]
    fn user_to_user_is_unescaped_once_and_stays_printable() {
        let read = |value: &str| {
            let read = Intake::read(&invitation(&[("User-to-User", value)]), &IntakeSettings::default(), &mut ());
            (read.conversation.0, read.variables)
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read("a=x%26b%3D1&c=50%2525"), ("cid".into(), vec![pair("a", "x&b=1"), pair("c", "50%25")]));
        assert_eq!(read(r#"{"a\n":"x\u0000","conversation":"k"}"#), ("k".into(), vec![pair("a ", "x ")]));
        assert_eq!(read("613d31+f;encoding=hex"), ("cid".into(), vec![]));
    }

    #[test]
    fn limits_leave_out_whole_variables_and_no_control_character_survives() {
        let settings = IntakeSettings { max_variables: 1, max_value: 4, ..IntakeSettings::default() };
        let read = Intake::read(
            &invitation(&[("X-GA-iv-a", "12345"), ("X-GA-iv-b", "1%0D%0A"), ("X-GA-iv-c", "x")]),
            &settings,
            &mut (),
        );
        assert_eq!(read.variables, [("b".to_owned(), "1  ".to_owned())]);
        assert_eq!((read.left_out, read.conversation.0.as_str()), (2, "cid"));
    }
}
