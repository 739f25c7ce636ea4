//! What we learn from the first request: which conversation, which task, which variables.

use super::ConversationId;
use super::settings::IntakeSettings;
use crate::leg::Invitation;

/// The conversation as the caller's side asked for it, within limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intake {
    /// SIP's Call-ID of the customer leg.
    pub call_id: String,
    /// User part of From.
    pub caller: String,
    /// User part of the Request-URI.
    pub dialled: String,
    /// Whether somebody sent the call on to us.
    pub redirected: bool,
    /// `externalConversationId`.
    pub conversation: ConversationId,
    /// `taskName`.
    pub task: Option<String>,
    /// `inputVariables`.
    pub variables: Vec<(String, String)>,
    /// Variables left out whole because of a limit.
    pub left_out: u32,
}

/// Longest conversation id, task or variable name, octets.
const MAX_NAME: usize = 256;

impl Intake {
    /// Reads an invitation. Never fails: an odd header never loses a call. What names a thing twice is read once, in
    /// this order: header, User-to-User, the dialled user's table; a conversation nobody named is the Call-ID's.
    pub fn read(invitation: &Invitation, settings: &IntakeSettings) -> Self {
        let user_to_user = user_to_user(invitation);
        let row = settings.dialled.get(&invitation.dialled);
        let header = |name: &str| header(invitation, name);
        let uui = |name: &str| user_to_user.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        let conversation = header(&settings.conversation_header)
            .or_else(|| uui("conversation"))
            .unwrap_or_else(|| invitation.call_id.clone());
        let task = header(&settings.task_header).or_else(|| uui("task")).or_else(|| row.and_then(|r| r.task.clone()));
        let mut intake = Self {
            call_id: invitation.call_id.clone(),
            caller: invitation.caller.clone(),
            dialled: invitation.dialled.clone(),
            redirected: invitation.redirected,
            conversation: ConversationId(shortened(&conversation)),
            task: task.map(|task| shortened(&task)),
            variables: Vec::new(),
            left_out: 0,
        };
        for (name, value) in &invitation.headers {
            if let Some(name) = without_prefix(name, &settings.variable_prefix) {
                intake.add(name, &printable(value), settings);
            }
        }
        if let Some(customer) = header(&settings.customer_header) {
            intake.add("customerId", &customer, settings);
        }
        for (name, value) in user_to_user.iter().filter(|(name, _)| name != "conversation" && name != "task") {
            intake.add(name, value, settings);
        }
        for (name, value) in row.iter().flat_map(|row| &row.variables) {
            intake.add(name, value, settings);
        }
        intake
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

fn header(invitation: &Invitation, name: &str) -> Option<String> {
    let (_, value) = invitation.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
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
            redirected: false,
            headers: headers.iter().map(|(n, v)| ((*n).to_owned(), unescaped(v).into_owned())).collect(),
            user_to_user: headers.iter().find(|(n, _)| *n == "User-to-User").map(|(_, v)| UserToUser::read(v)),
        }
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
        );
        assert_eq!(read.conversation.0, "abc");
        assert_eq!(read.task.as_deref(), Some("Billing"));
        let pairs: Vec<_> = read.variables.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("plan", "100% café"), ("customerId", "c-1"), ("site", "north")]);
    }

    #[test]
    fn user_to_user_is_unescaped_once_and_stays_printable() {
        let read = |value: &str| {
            let read = Intake::read(&invitation(&[("User-to-User", value)]), &IntakeSettings::default());
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
        );
        assert_eq!(read.variables, [("b".to_owned(), "1  ".to_owned())]);
        assert_eq!((read.left_out, read.conversation.0.as_str()), (2, "cid"));
    }
}
