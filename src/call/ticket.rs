//! The dial ticket: the only thing that becomes a dial string, made only of the API's own number or of the URI that is
//! configured, good for one call and only before the number's last safe moment (design section 4).

use std::time::{Duration, Instant};

use super::TransferId;
use super::asapp::{Transfer, TransferStatus};
use super::settings::{CallSettings, WayIn};

/// Permission to dial one number until somebody there has shown a sign of connection.
#[derive(Debug, PartialEq, Eq)]
pub struct DialTicket {
    callee: Callee,
    guard: Instant,
}

/// Whom a ticket lets us call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Callee {
    /// A temporary number, E.164: it belongs to one call transfer, and soon to another.
    Number(String),
    /// GenerativeAgent's static SIP URI, which is configured, for this call transfer.
    Sip {
        /// The URI.
        uri: String,
        /// What the call names to GenerativeAgent.
        transfer: TransferId,
    },
    /// The same URI without a call transfer: the call says itself what it is about.
    Headers {
        /// The URI.
        uri: String,
        /// The attempt, by which two calls there are told apart.
        transfer: TransferId,
    },
}

/// Longest life believed, whatever the answer says.
const LONGEST_LIFE: Duration = Duration::from_secs(600);

impl DialTicket {
    /// Checks the number that the exchange begun at `asked` brought. The error is one line for the record.
    ///
    /// The life counts from `asked`, not from the answer's arrival: ASAPP dated its answer later than that, so neither
    /// the way back nor a stall of ours can stretch it.
    pub fn issue(
        id: &TransferId,
        transfer: &Transfer,
        settings: &CallSettings,
        asked: Instant,
    ) -> Result<Self, String> {
        if !matches!(transfer.status, None | Some(TransferStatus::Active)) {
            return Err("the transfer is not ACTIVE".to_owned());
        }
        let callee = match &settings.way_in {
            WayIn::Number => Callee::Number(permitted(transfer, settings)?),
            WayIn::Sip { uri, .. } => Callee::Sip { uri: uri.clone(), transfer: id.clone() },
            WayIn::Headers { .. } => return Err("the API was not to be asked".to_owned()),
        };
        // Both times are ASAPP's, so our wall clock does not matter; from here on only the monotonic clock counts.
        let life = match transfer.expires_at {
            Some(expires_at) => Duration::from_millis((expires_at - transfer.dated).max(0).unsigned_abs()),
            None => settings.default_lifetime,
        };
        let safe = life.min(LONGEST_LIFE).checked_sub(settings.expiry_margin).filter(|safe| !safe.is_zero());
        let guard = asked + safe.ok_or("the number has expired, or will within the margin")?;
        Ok(Self { callee, guard })
    }

    /// For the URI that is configured, where the API is not asked: it is nobody else's, and yet no ticket is for ever.
    pub fn of_uri(uri: &str, transfer: &TransferId, now: Instant) -> Self {
        let callee = Callee::Headers { uri: uri.to_owned(), transfer: transfer.clone() };
        Self { callee, guard: now + LONGEST_LIFE }
    }

    /// The moment from which no INVITE to this number may leave.
    pub fn guard(&self) -> Instant {
        self.guard
    }

    /// Spends the ticket: whom to call, unless the last safe moment has come.
    pub fn spend(self, now: Instant) -> Option<Callee> {
        (now < self.guard).then_some(self.callee)
    }

    /// The same permission once more, for another way to the same number: whoever holds the ticket gives it up at the
    /// first sign of connection.
    pub fn again(&self) -> Self {
        Self { callee: self.callee.clone(), guard: self.guard }
    }

    /// The number, where it is one, to be masked and recorded.
    pub fn number(&self) -> Option<&str> {
        match &self.callee {
            Callee::Number(number) => Some(number),
            Callee::Sip { .. } | Callee::Headers { .. } => None,
        }
    }
}

/// The number of an answer, if it is one that we may dial.
fn permitted(transfer: &Transfer, settings: &CallSettings) -> Result<String, String> {
    let number = transfer.number.as_deref().ok_or("no transferNumber in the answer")?.trim();
    if !is_e164(number) {
        return Err("transferNumber is not E.164".to_owned());
    }
    let within = |prefixes: &[String]| prefixes.iter().any(|prefix| number.starts_with(prefix.as_str()));
    if !within(&settings.number_prefixes) || within(&settings.barred_prefixes) {
        return Err("transferNumber is outside the permitted prefixes".to_owned());
    }
    if transfer.country.as_ref().is_some_and(|country| !country.eq_ignore_ascii_case(&settings.country)) {
        return Err("transferNumber is in another country".to_owned());
    }
    Ok(number.to_owned())
}

fn is_e164(number: &str) -> bool {
    let Some(digits) = number.strip_prefix('+') else { return false };
    (7..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(number: &str) -> Transfer {
        Transfer { number: Some(number.into()), expires_at: Some(160_000), dated: 100_000, ..Transfer::default() }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a9_only_a_plausible_number_with_life_left_becomes_a_ticket() {
        let (settings, asked) = (CallSettings::default(), Instant::now());
        let issue = |t: &Transfer| DialTicket::issue(&TransferId("t-1".into()), t, &settings, asked);
        assert_eq!(issue(&transfer("+19995550199")).unwrap().guard(), asked + Duration::from_secs(55));
        for bad in ["", "19995550199", "+1999555019x", "+0123456789", "+449995550199", "+1", "+1999;evil@x"] {
            assert!(issue(&transfer(bad)).is_err(), "{bad}");
        }
        assert!(issue(&Transfer { number: None, ..transfer("") }).is_err());
        assert!(issue(&Transfer { expires_at: Some(99_000), ..transfer("+19995550199") }).is_err());
        assert!(issue(&Transfer { expires_at: Some(104_000), ..transfer("+19995550199") }).is_err());
        assert!(issue(&Transfer { country: Some("GB".into()), ..transfer("+19995550199") }).is_err());
        assert!(issue(&Transfer { status: Some(TransferStatus::Expired), ..transfer("+19995550199") }).is_err());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_ticket_is_worthless_from_its_guard_on() {
        let now = Instant::now();
        let (id, settings) = (TransferId("t-1".into()), CallSettings::default());
        let issue = || DialTicket::issue(&id, &transfer("+19995550199"), &settings, now).unwrap();
        let guard = issue().guard();
        let number = Some(Callee::Number("+19995550199".into()));
        assert_eq!(issue().spend(guard - Duration::from_nanos(1)), number);
        assert_eq!(issue().spend(guard), None);
    }
}
