//! The context on its way back: header lines within the budgets; what does not fit stays behind the reference.

use serde::Serialize;

use super::asapp::OutputContext;
use super::packing::{Package, Shape, user_to_user};
use super::settings::{BodyForm, ContextSettings, Encoding, Uui};
use super::verdict::Outcome;
use super::{CallRef, ConversationId};

/// What a context reference answers (`GET /v1/context/{ref}`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishedContext {
    /// The reference: 32 hexadecimal digits, unguessable.
    pub reference: String,
    /// The call.
    pub call: CallRef,
    /// SIP's Call-ID of the first request.
    pub customer_call_id: String,
    /// The Call-IDs of the customer's legs since, where they are others: of one that a REFER made us dial, and of those
    /// that took its place.
    pub later_call_ids: Vec<String>,
    /// The conversation.
    pub conversation: ConversationId,
    /// The call's verdict as one word, or `in_progress`.
    pub outcome: String,
    /// The complete outputContext, once known.
    pub output: Option<OutputContext>,
}

/// What one message carries of a context, and what did not fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carry {
    /// Name and value; values hold nothing but printable ASCII.
    pub lines: Vec<(String, String)>,
    /// Content-Type and content, ASCII; of a BYE alone.
    pub body: Option<(&'static str, String)>,
    /// Variables that travel, in whichever way.
    pub sent: u32,
    /// Variables left out whole.
    pub left_out: u32,
}

/// A context as it is known when a customer is sent somewhere.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the fields are those of PublishedContext")]
pub struct Known<'a> {
    pub outcome: Outcome,
    pub conversation: &'a str,
    pub output: Option<&'a OutputContext>,
    pub reference: &'a str,
}

/// A variable that may be sent.
struct Variable<'a> {
    prefix: &'a str,
    name: &'a str,
    value: &'a str,
    sent: bool,
}

impl Carry {
    /// The reference alone, as every response carries it.
    pub fn reference(reference: &str, settings: &ContextSettings) -> Self {
        let mut carry = Self::default();
        carry.line(&settings.reference_header, reference.to_owned());
        carry
    }

    /// The reason of an end, as every BYE and every refusal of a customer names it (RFC 3326). An INVITE has none.
    #[must_use]
    pub fn with_reason(mut self, outcome: Outcome) -> Self {
        self.lines.insert(0, ("Reason".to_owned(), format!("switchback;text=\"{outcome}\"")));
        self
    }

    /// Everything a hand-back carries: outcome, reference, conversation, transferType and variables, in headers, in
    /// User-to-User and in a body, as the receiver's settings say.
    pub fn hand_back(known: &Known<'_>, settings: &ContextSettings) -> Self {
        let mut carry = Self::default();
        carry.line(&settings.outcome_header, known.outcome.to_string());
        carry.line(&settings.reference_header, known.reference.to_owned());
        let kind = known.output.and_then(|output| output.transfer_type.as_deref());
        for (header, value) in
            [(&settings.conversation_header, Some(known.conversation)), (&settings.transfer_header, kind)]
        {
            let value = value.filter(|value| value.len() <= settings.max_value);
            if let Some(value) = value.and_then(|value| written(value, settings.encoding))
                && value.len() <= settings.max_value
                && carry.octets() + octets(header, &value) <= settings.max_lines
            {
                carry.line(header, value);
            }
        }
        let mut variables = allowed(known.output, settings);
        carry.add_user_to_user(known, &mut variables, settings);
        // Who wants a body reads it rather than headers.
        carry.add_body(known, &mut variables, settings);
        carry.add_headers(&mut variables, settings);
        carry.sent = variables.iter().filter(|variable| variable.sent).count() as u32;
        carry.left_out = variables.len() as u32 - carry.sent;
        carry
    }

    /// Nothing of it: it stays behind the reference.
    #[must_use]
    pub fn kept_back(self) -> Self {
        Self { left_out: self.sent + self.left_out, ..Self::default() }
    }

    /// Octets of all lines as headers of a URI, each octet but the unreserved ones escaped (RFC 3261 section 19.1.1).
    pub fn octets_inside_uri(&self) -> usize {
        self.lines.iter().map(|(name, value)| encoded(name).len() + encoded(value).len() + "&=".len()).sum()
    }

    /// A line, unless its name is empty: then the receiver does not want it.
    fn line(&mut self, name: &str, value: String) {
        if !name.is_empty() {
            self.lines.push((name.to_owned(), value));
        }
    }

    /// Octets of all lines and of the body, on the wire.
    pub fn octets(&self) -> usize {
        let lines: usize = self.lines.iter().map(|(name, value)| octets(name, value)).sum();
        lines + self.body.as_ref().map_or(0, |(_, text)| BODY_LINES + text.len())
    }

    fn add_user_to_user(&mut self, known: &Known<'_>, variables: &mut [Variable<'_>], settings: &ContextSettings) {
        let form = settings.uui_form;
        let around = octets(USER_TO_USER, &user_to_user("", form));
        // Each octet takes two hexadecimal digits.
        let room = settings.max_uui.min(settings.max_lines.saturating_sub(self.octets() + around) / 2);
        let data = match settings.uui {
            Uui::Off => None,
            Uui::Ref => Some(known.reference.to_owned()).filter(|reference| reference.len() <= room),
            Uui::Kv => packed(known, variables, Shape::Pairs, room),
            Uui::Json => packed(known, variables, Shape::Json, room),
        };
        if let Some(data) = data {
            self.line(USER_TO_USER, user_to_user(&data, form));
        }
    }

    fn add_headers(&mut self, variables: &mut [Variable<'_>], settings: &ContextSettings) {
        let (mut count, mut total) = (0, 0);
        for variable in variables {
            let Variable { prefix, name, value, .. } = *variable;
            if !is_name(name) || count == settings.max_variables || value.len() > settings.max_value {
                continue;
            }
            let Some(value) = written(value, settings.encoding) else { continue };
            let header = format!("{prefix}{name}");
            let duplicate = self.lines.iter().any(|(known, _)| known.eq_ignore_ascii_case(&header));
            let fits = value.len() <= settings.max_value
                && total + value.len() <= settings.max_total
                && self.octets() + octets(&header, &value) <= settings.max_lines;
            if fits && !duplicate {
                count += 1;
                total += value.len();
                variable.sent = true;
                self.lines.push((header, value));
            }
        }
    }

    fn add_body(&mut self, known: &Known<'_>, variables: &mut [Variable<'_>], settings: &ContextSettings) {
        let (content_type, shape) = match settings.body {
            BodyForm::None => return,
            BodyForm::Form => ("application/x-www-form-urlencoded", Shape::Pairs),
            BodyForm::Json => ("application/json", Shape::Json),
        };
        let room = settings.max_lines.saturating_sub(self.octets() + BODY_LINES);
        self.body = packed(known, variables, shape, room).map(|text| (content_type, text));
    }
}

/// The header of RFC 7433.
const USER_TO_USER: &str = "User-to-User";
/// Octets of the longest Content-Type and of Content-Disposition.
const BODY_LINES: usize = 100;

/// The variables that the lists allow.
fn allowed<'a>(output: Option<&'a OutputContext>, settings: &'a ContextSettings) -> Vec<Variable<'a>> {
    let Some(output) = output else { return Vec::new() };
    let kinds = [
        (&output.transfer_variables, &settings.transfer_variables, &settings.transfer_prefix),
        (&output.reference_variables, &settings.reference_variables, &settings.reference_prefix),
    ];
    let of_kind = kinds.into_iter().flat_map(|(variables, allowed, prefix)| {
        let named = variables.iter().filter(move |(name, _)| allowed.iter().any(|a| a == "*" || a == name));
        named.map(move |(name, value)| Variable { prefix, name, value, sent: false })
    });
    of_kind.collect()
}

/// What makes the rest findable comes first, then as many variables as there is room for.
fn packed(known: &Known<'_>, variables: &mut [Variable<'_>], shape: Shape, room: usize) -> Option<String> {
    let mut package = Package::new(shape, room);
    package.add("ref", known.reference);
    package.add("outcome", known.outcome.as_str());
    if let Some(kind) = known.output.and_then(|output| output.transfer_type.as_deref()) {
        package.add("transfer", kind);
    }
    package.add("conversation", known.conversation);
    for variable in variables.iter_mut().filter(|variable| !FIXED.contains(&variable.name)) {
        variable.sent |= package.add(variable.name, variable.value);
    }
    package.text()
}

/// Names that are ours in a package, whether they fitted or not.
const FIXED: [&str; 4] = ["ref", "outcome", "transfer", "conversation"];

/// A value as its header has it; `None` where it cannot be written so.
fn written(value: &str, encoding: Encoding) -> Option<String> {
    match encoding {
        Encoding::Percent => Some(encoded(value)),
        Encoding::Plain => {
            let plain = value.trim() == value && value.bytes().all(|b| (b' '..=b'~').contains(&b));
            plain.then(|| value.to_owned())
        }
    }
}

/// Octets of one line on the wire.
pub(super) fn octets(name: &str, value: &str) -> usize {
    name.len() + value.len() + ": \r\n".len()
}

/// Percent-encoded UTF-8: unreserved characters stay (RFC 3986 section 2.3), every other octet becomes `%HH`.
pub fn encoded(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for b in value.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// Whether a variable's name can be part of a header name.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 64 && name.bytes().all(is_token)
}

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::settings::UuiForm;
    use proptest::prelude::*;

    const REFERENCE: &str = "0123456789abcdef0123456789abcdef";

    fn settings() -> ContextSettings {
        ContextSettings { reference_variables: vec!["order".into()], ..ContextSettings::default() }
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    fn carry(output: &OutputContext, settings: &ContextSettings) -> Carry {
        let known =
            Known { outcome: Outcome::Agent, conversation: "conv 1", output: Some(output), reference: REFERENCE };
        Carry::hand_back(&known, settings)
    }

    fn output(transfer: &[(&str, &str)]) -> OutputContext {
        OutputContext {
            transfer_type: Some("AGENT".into()),
            transfer_variables: pairs(transfer),
            ..OutputContext::default()
        }
    }

    fn line<'a>(carry: &'a Carry, name: &str) -> Option<&'a str> {
        carry.lines.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn only_allowed_variables_travel_and_the_rest_is_counted() {
        let output = OutputContext {
            reference_variables: pairs(&[("order", "7"), ("secret", "s")]),
            ..output(&[("a", "1 é"), ("b\r\nX", "2"), ("long", &"x".repeat(300)), ("A", "again")])
        };
        let carry = carry(&output, &settings());
        let sent: Vec<_> =
            carry.lines.iter().filter(|(n, _)| n.starts_with("X-GA-")).map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(sent, ["X-GA-extConId=conv%201", "X-GA-transfer=AGENT", "X-GA-tv-a=1%20%C3%A9", "X-GA-rv-order=7"]);
        assert_eq!((carry.sent, carry.left_out), (2, 3));
    }

    #[test]
    fn t12_user_to_user_holds_what_the_settings_say() {
        let output = output(&[("tier", "gold é"), ("ref", "forged"), ("long", &"x".repeat(100))]);
        let uui = |uui, uui_form| {
            let carry = carry(&output, &ContextSettings { uui, uui_form, max_variables: 0, ..settings() });
            (line(&carry, "User-to-User").map(str::to_owned), carry.sent, carry.left_out)
        };
        let hex = |text: &str| text.bytes().map(|b| format!("{b:02X}")).collect::<String>();
        assert_eq!(uui(Uui::Off, UuiForm::Hex), (None, 0, 3));
        let reference = format!("{};encoding=hex", hex(REFERENCE));
        assert_eq!(uui(Uui::Ref, UuiForm::Hex), (Some(reference), 0, 3));
        let kv = format!("ref={REFERENCE}&outcome=agent&transfer=AGENT&conversation=conv%201&tier=gold%20%C3%A9");
        assert_eq!(
            uui(Uui::Kv, UuiForm::Avaya),
            (Some(format!("00C8{:02X}{};encoding=hex", kv.len(), hex(&kv))), 1, 2)
        );
        let json = [
            format!(r#"{{"ref":"{REFERENCE}","outcome":"agent","transfer":"AGENT","#),
            r#""conversation":"conv 1","tier":"gold \u00e9"}"#.to_owned(),
        ];
        assert_eq!(uui(Uui::Json, UuiForm::Hex), (Some(format!("{};encoding=hex", hex(&json.concat()))), 1, 2));
    }

    #[test]
    fn a_receiver_that_does_not_decode_gets_plain_values_or_none() {
        let output = output(&[("a", "100 % sure"), ("b", "é"), ("c", " blank"), ("d", "x\r\ny")]);
        let carry = carry(&output, &ContextSettings { encoding: Encoding::Plain, ..settings() });
        assert_eq!(line(&carry, "X-GA-tv-a"), Some("100 % sure"));
        assert_eq!((carry.sent, carry.left_out), (1, 3));
    }

    #[test]
    fn a_header_without_a_name_is_not_sent() {
        let quiet = ContextSettings {
            outcome_header: String::new(),
            reference_header: String::new(),
            ..ContextSettings::default()
        };
        let carry = carry(&output(&[]), &quiet);
        assert_eq!(carry.lines.len(), 2, "{carry:?}");
        assert_eq!(Carry::reference("r", &quiet), Carry::default());
    }

    #[test]
    fn a_body_holds_what_headers_could_not() {
        let output = output(&[("note", &"n".repeat(300)), ("a", "1&2")]);
        let carry = carry(&output, &ContextSettings { body: BodyForm::Form, ..settings() });
        let (content_type, body) = carry.body.clone().unwrap();
        assert_eq!(content_type, "application/x-www-form-urlencoded");
        assert!(body.contains(&format!("note={}&a=1%262", "n".repeat(300))), "{body}");
        assert_eq!((carry.sent, carry.left_out), (2, 0));
        assert!(line(&carry, "X-GA-tv-note").is_none());
    }

    proptest! {
        #[test]
        fn no_octet_of_a_value_or_name_can_start_a_line(
            variables in prop::collection::vec((".*", ".*"), 0..12), kind in ".*",
            form in 0usize..4, plain: bool, max_lines in 300usize..1200,
        ) {
            let settings = ContextSettings {
                encoding: if plain { Encoding::Plain } else { Encoding::Percent },
                uui: [Uui::Off, Uui::Ref, Uui::Kv, Uui::Json][form],
                uui_form: [UuiForm::Hex, UuiForm::Isdn, UuiForm::Pd, UuiForm::Avaya][form],
                body: [BodyForm::None, BodyForm::Form, BodyForm::Json, BodyForm::Form][form],
                max_lines,
                ..ContextSettings::default()
            };
            let count = variables.len();
            let output =
                OutputContext { transfer_type: Some(kind), transfer_variables: variables, ..OutputContext::default() };
            let carry = carry(&output, &settings);
            prop_assert!(carry.octets() <= max_lines);
            prop_assert_eq!((carry.sent + carry.left_out) as usize, count);
            for (name, value) in &carry.lines {
                prop_assert!(name.bytes().all(is_token));
                prop_assert!(value.bytes().all(|b| (b' '..0x7f).contains(&b)));
            }
            if let Some((_, body)) = carry.body {
                prop_assert!(body.bytes().all(|b| (b' '..0x7f).contains(&b)));
            }
        }
    }
}
