//! The context on its way back: header lines within the budgets; what does not fit stays behind the reference.

use serde::Serialize;

use super::asapp::OutputContext;
use super::settings::ContextSettings;
use super::verdict::Outcome;
use super::{CallRef, ConversationId};

/// What a context reference answers (`GET /v1/context/{ref}`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishedContext {
    /// The reference: 32 hexadecimal digits, unguessable.
    pub reference: String,
    /// The call.
    pub call: CallRef,
    /// SIP's Call-ID of the customer leg.
    pub customer_call_id: String,
    /// The conversation.
    pub conversation: ConversationId,
    /// The call's verdict as one word, or `in_progress`.
    pub outcome: String,
    /// The complete outputContext, once known.
    pub output: Option<OutputContext>,
}

/// Header lines for one message, and what did not fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carry {
    /// Name and value; values hold nothing but printable ASCII.
    pub lines: Vec<(String, String)>,
    /// Variables among them.
    pub sent: u32,
    /// Variables left out whole.
    pub left_out: u32,
}

impl Carry {
    /// The reference alone, as every response carries it.
    pub fn reference(reference: &str, settings: &ContextSettings) -> Self {
        let lines = vec![(settings.reference_header.clone(), reference.to_owned())];
        Self { lines, ..Self::default() }
    }

    /// The reason of an end, as every BYE and every refusal of a customer names it (RFC 3326). An INVITE has none.
    #[must_use]
    pub fn with_reason(mut self, outcome: Outcome) -> Self {
        self.lines.insert(0, ("Reason".to_owned(), format!("switchback;text=\"{outcome}\"")));
        self
    }

    /// Everything a hand-back carries: outcome, conversation, transferType, variables, reference.
    pub fn hand_back(
        outcome: Outcome,
        conversation: &str,
        output: Option<&OutputContext>,
        reference: &str,
        settings: &ContextSettings,
    ) -> Self {
        let mut carry = Self {
            lines: vec![
                (settings.outcome_header.clone(), outcome.to_string()),
                (settings.reference_header.clone(), reference.to_owned()),
            ],
            ..Self::default()
        };
        let conversation = encoded(conversation);
        if conversation.len() <= settings.max_value {
            carry.lines.push((settings.conversation_header.clone(), conversation));
        }
        let Some(output) = output else { return carry };
        if let Some(transfer_type) = &output.transfer_type {
            let word: String = encoded(transfer_type).chars().take(settings.max_value.min(64)).collect();
            carry.lines.push((settings.transfer_header.clone(), word));
        }
        let mut total = 0;
        carry.add(
            &output.transfer_variables,
            &settings.transfer_variables,
            &settings.transfer_prefix,
            &mut total,
            settings,
        );
        carry.add(
            &output.reference_variables,
            &settings.reference_variables,
            &settings.reference_prefix,
            &mut total,
            settings,
        );
        carry
    }

    /// What of it fits into so many octets as headers of a URI, each octet but the unreserved ones escaped (RFC 3261
    /// section 19.1.1). What does not fit is left out whole.
    #[must_use]
    pub fn inside_uri(mut self, most: usize) -> Self {
        let (mut octets, before) = (0, self.lines.len());
        self.lines.retain(|(name, value)| {
            let more = encoded(name).len() + encoded(value).len() + "&=".len();
            let fits = octets + more <= most;
            octets += if fits { more } else { 0 };
            fits
        });
        let lost = u32::try_from(before - self.lines.len()).unwrap_or(u32::MAX).min(self.sent);
        Self { sent: self.sent - lost, left_out: self.left_out + lost, ..self }
    }

    /// Octets of all lines on the wire.
    fn octets(&self) -> usize {
        self.lines.iter().map(|(name, value)| octets(name, value)).sum()
    }

    fn add(
        &mut self,
        variables: &[(String, String)],
        allowed: &[String],
        prefix: &str,
        total: &mut usize,
        settings: &ContextSettings,
    ) {
        for (name, value) in variables.iter().filter(|(name, _)| allowed.iter().any(|a| a == "*" || a == name)) {
            let value = encoded(value);
            let header = format!("{prefix}{name}");
            let named = !name.is_empty() && name.len() <= 64 && name.bytes().all(is_token);
            let duplicate = self.lines.iter().any(|(known, _)| known.eq_ignore_ascii_case(&header));
            let fits = value.len() <= settings.max_value
                && *total + value.len() <= settings.max_total
                && self.octets() + octets(&header, &value) <= settings.max_lines;
            if named && !duplicate && fits && (self.sent as usize) < settings.max_variables {
                *total += value.len();
                self.sent += 1;
                self.lines.push((header, value));
            } else {
                self.left_out += 1;
            }
        }
    }
}

fn octets(name: &str, value: &str) -> usize {
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

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn settings() -> ContextSettings {
        ContextSettings { reference_variables: vec!["order".into()], ..ContextSettings::default() }
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    fn carry(output: &OutputContext) -> Carry {
        Carry::hand_back(Outcome::Agent, "conv 1", Some(output), "r", &settings())
    }

    #[test]
    fn only_allowed_variables_travel_and_the_rest_is_counted() {
        let output = OutputContext {
            transfer_type: Some("AGENT".into()),
            task: None,
            transfer_variables: pairs(&[("a", "1 é"), ("b\r\nX", "2"), ("long", &"x".repeat(300)), ("A", "again")]),
            reference_variables: pairs(&[("order", "7"), ("secret", "s")]),
        };
        let carry = carry(&output);
        let sent: Vec<_> =
            carry.lines.iter().filter(|(n, _)| n.starts_with("X-GA-")).map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(sent, ["X-GA-extConId=conv%201", "X-GA-transfer=AGENT", "X-GA-tv-a=1%20%C3%A9", "X-GA-rv-order=7"]);
        assert_eq!((carry.sent, carry.left_out), (2, 3));
    }

    proptest! {
        #[test]
        fn no_octet_of_a_value_or_name_can_start_a_line(name in ".*", value in ".*", kind in ".*") {
            let output = OutputContext {
                transfer_type: Some(kind), task: None,
                transfer_variables: vec![(name, value)], reference_variables: Vec::new(),
            };
            for (name, value) in carry(&output).lines {
                prop_assert!(name.bytes().all(is_token));
                prop_assert!(value.bytes().all(|b| (b' '..0x7f).contains(&b)));
            }
        }
    }
}
