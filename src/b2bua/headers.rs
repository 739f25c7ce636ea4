//! Header fields that cross from one leg to the other besides what the call itself says: by name, direction and message,
//! and with the inside of either network hidden.
//!
//! A value crosses whole or not at all. It is clean text within limits; a URI in it keeps its user and loses its host,
//! and a caller who asked for privacy (RFC 3323) is named to nobody.

use std::net::IpAddr;

use super::B2bua;
use super::transactions::LegId;
use crate::call::CallRef;
use crate::leg::{LegCommand, LegEvent, LegRole, Out, Side};
use crate::sip::message::{HeaderName, Message};
use crate::sip::value::{NameAddr, split_commas};

/// Longest value that crosses, octets.
const MAX_VALUE: usize = 1_024;
/// Most lines that cross with one message.
const MAX_LINES: usize = 16;
/// Octets of all lines that cross with one message, names included.
const MAX_TOTAL: usize = 2_048;

/// Header lines by name and value.
pub(super) type Lines = Vec<(String, String)>;

/// What a message says for its leg, and so which message of the other leg its headers cross to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// The INVITE, or a response to it: to the INVITE, or to a response to it.
    Setup,
    /// A BYE: to our BYE.
    Bye,
    /// An INFO: to our INFO.
    Info,
}

impl Word {
    fn heard(event: &LegEvent) -> Option<Self> {
        match event {
            LegEvent::Invited(_) | LegEvent::Progressed { .. } | LegEvent::Answered => Some(Self::Setup),
            LegEvent::HungUp { by: Side::Far, .. } => Some(Self::Bye),
            LegEvent::Informed(_) => Some(Self::Info),
            LegEvent::Reoffered
            | LegEvent::TransferProgressed(_)
            | LegEvent::TransferAsked(_)
            | LegEvent::Refused { .. }
            | LegEvent::HungUp { .. }
            | LegEvent::Lost(_) => None,
        }
    }

    fn said(command: &LegCommand) -> Option<Self> {
        match command {
            LegCommand::Ring { .. } | LegCommand::Answer => Some(Self::Setup),
            LegCommand::HangUp(_) => Some(Self::Bye),
            LegCommand::Inform(_) => Some(Self::Info),
            LegCommand::Refuse { .. }
            | LegCommand::Refer(_)
            | LegCommand::Withdraw
            | LegCommand::Accept
            | LegCommand::Decline
            | LegCommand::Report(_) => None,
        }
    }
}

/// What kind of value a header has, where that matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Name-addrs that say who calls, or who was called before us.
    Party,
    /// RFC 7989.
    SessionId,
    /// RFC 3326.
    Reason,
    /// Any other.
    Text,
}

impl Kind {
    fn of(name: &str) -> Self {
        let parties = ["P-Asserted-Identity", "P-Preferred-Identity", "Remote-Party-ID", "Diversion", "History-Info"];
        match () {
            () if parties.iter().any(|party| party.eq_ignore_ascii_case(name)) => Self::Party,
            () if name.eq_ignore_ascii_case("Session-ID") => Self::SessionId,
            () if name.eq_ignore_ascii_case("Reason") => Self::Reason,
            () => Self::Text,
        }
    }
}

/// Whether a header of this name may be told to cross: none that routing, the dialog, authentication or a body lives by.
pub fn may_cross(name: &str) -> bool {
    const OTHERS: [&str; 8] = [
        "Authentication-Info",
        "Join",
        "MIME-Version",
        "Min-Expires",
        "Path",
        "Service-Route",
        "Target-Dialog",
        "Timestamp",
    ];
    let begins = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    match HeaderName::read(name) {
        Some(known) => matches!(known, HeaderName::Diversion | HeaderName::Reason),
        None => name.len() > 1 && !begins("Content-") && !OTHERS.iter().any(|other| other.eq_ignore_ascii_case(name)),
    }
}

impl B2bua {
    /// What the customer's INVITE lets cross to GenerativeAgent's, and whether it asks for privacy.
    pub(super) fn invited_with(&self, invite: &Message) -> (Lines, bool) {
        let private = asks_for_privacy(invite);
        (self.crossing(invite, LegRole::Customer, Word::Setup, private), private)
    }

    /// Keeps what the message that this leg was just stepped with lets cross, if the leg took it as a word of its peer.
    pub(super) fn overhear(&mut self, leg: LegId, message: &Message) {
        let events = self.work.iter().filter(|(id, _)| *id == leg);
        let word = events.filter_map(|(_, out)| match out {
            Out::Event(event) => Word::heard(event),
            _ => None,
        });
        let (Some(word), Some(entry)) = (word.last(), self.legs.get(&leg)) else { return };
        let caller = self.calls.get(&entry.call).filter(|call| call.side(LegRole::Customer).leg == Some(leg));
        let private = caller.is_some_and(|call| call.private) || asks_for_privacy(message);
        let lines = self.crossing(message, entry.role, word, private);
        if let Some(entry) = self.legs.get_mut(&leg) {
            entry.said = Some((word, lines));
        }
    }

    /// What the other leg's message gives to the message that this command makes of it.
    pub(super) fn crossed(&self, call: CallRef, from: LegRole, command: &LegCommand) -> Lines {
        let leg = self.leg_of(call, from).and_then(|id| self.legs.get(&id));
        match leg.and_then(|leg| leg.said.as_ref()) {
            Some((word, lines)) if Word::said(command) == Some(*word) => lines.clone(),
            _ => Lines::new(),
        }
    }

    fn crossing(&self, message: &Message, from: LegRole, word: Word, private: bool) -> Lines {
        let settings = &self.settings.headers;
        let names = match (from, word) {
            (LegRole::Customer | LegRole::Successor, Word::Setup) => &settings.to_genagent,
            (LegRole::Customer | LegRole::Successor, Word::Bye) => &settings.bye_to_genagent,
            (LegRole::Customer | LegRole::Successor, Word::Info) => &settings.info_to_genagent,
            (LegRole::GenerativeAgent | LegRole::Onward, Word::Setup) => &settings.to_customer,
            (LegRole::GenerativeAgent | LegRole::Onward, Word::Bye) => &settings.bye_to_customer,
            (LegRole::GenerativeAgent | LegRole::Onward, Word::Info) => &settings.info_to_customer,
        };
        let host = settings.hide_topology.then(|| uri_host(self.endpoint.address.ip()));
        let mut room = MAX_TOTAL;
        let mut lines = Lines::new();
        for (name, value) in message.lines() {
            let Some(name) = names.iter().find(|allowed| allowed.eq_ignore_ascii_case(name)) else { continue };
            let Some(value) = fit_to_cross(Kind::of(name), value, private, host.as_deref()) else { continue };
            let octets = name.len() + value.len() + ": \r\n".len();
            if lines.len() < MAX_LINES && octets <= room {
                room -= octets;
                lines.push((name.clone(), value));
            }
        }
        lines
    }
}

/// The value as the other side may see it; `host` stands in for those of URIs.
fn fit_to_cross(kind: Kind, value: &str, private: bool, host: Option<&str>) -> Option<String> {
    if value.is_empty() || value.len() > MAX_VALUE || value.chars().any(char::is_control) {
        return None;
    }
    let each = |one: &dyn Fn(&str) -> Option<String>| {
        let values: Vec<String> = split_commas(value).filter_map(one).collect();
        Some(values.join(", ")).filter(|values| !values.is_empty())
    };
    match kind {
        Kind::Text => Some(value.to_owned()),
        Kind::SessionId => session_id(value),
        // Those that we say ourselves: a protocol may stand once (RFC 3326 section 2).
        Kind::Reason => each(&|reason| {
            let protocol = reason.split(';').next().unwrap_or_default().trim();
            let ours = ["Q.850", "switchback"].iter().any(|own| own.eq_ignore_ascii_case(protocol));
            (!ours).then(|| reason.to_owned())
        }),
        Kind::Party if private => None,
        Kind::Party => each(&|party| visible_party(party, host)),
    }
}

/// Whether any Privacy header asks for something (RFC 3323 section 4.2, RFC 3325 section 9.3, RFC 7044 section 10.1).
fn asks_for_privacy(message: &Message) -> bool {
    let values = message.lines().filter(|(name, _)| name.eq_ignore_ascii_case("Privacy")).map(|(_, value)| value);
    values.flat_map(|value| value.split([';', ','])).map(str::trim).any(is_wish)
}

fn is_wish(word: &str) -> bool {
    !word.is_empty() && !["none", "off", "no"].iter().any(|none| none.eq_ignore_ascii_case(word))
}

/// Two identifiers of 32 hexadecimal digits and nothing else (RFC 7989 section 5): they name a session, no host. Between
/// the legs they pass as they are, so that both ends see one session (RFC 7989 section 7).
fn session_id(value: &str) -> Option<String> {
    let (local, params) = value.split_once(';').unwrap_or((value, ""));
    let is_uuid = |text: &str| text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let local = Some(local.trim()).filter(|local| is_uuid(local))?;
    let remote = params.split(';').find_map(|param| {
        let (name, remote) = param.split_once('=')?;
        name.trim().eq_ignore_ascii_case("remote").then(|| remote.trim())
    });
    match remote {
        None => Some(local.to_owned()),
        Some(remote) => is_uuid(remote).then(|| format!("{local};remote={remote}")),
    }
}

/// Header parameters of Diversion (RFC 5806), History-Info (RFC 7044) and Remote-Party-ID that name no host.
const PLAIN_PARAMS: [&str; 9] = ["counter", "index", "limit", "mp", "np", "party", "rc", "reason", "screen"];

/// One name-addr that asks for no privacy of its own, with `host` instead of its host and without what else its URI says.
fn visible_party(value: &str, host: Option<&str>) -> Option<String> {
    let party = NameAddr::read(value)?;
    let hidden_inside = party.uri.headers.is_some_and(|headers| {
        let mut pairs = headers.split('&').filter_map(|pair| pair.split_once('='));
        pairs.any(|(name, wish)| name.eq_ignore_ascii_case("Privacy") && is_wish(wish))
    });
    if party.params.get("privacy").is_some_and(is_wish) || hidden_inside {
        return None;
    }
    let Some(host) = host else { return Some(value.to_owned()) };
    // A password or a parameter of the user part may name a host as well.
    let user = party.uri.user.map(|user| user.split([':', ';']).next().unwrap_or_default());
    let is_plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-_.*".contains(&b));
    let uri = match user {
        Some(user) if user.is_empty() || !is_plain(user) => return None,
        Some(number) if party.uri.scheme.eq_ignore_ascii_case("tel") => format!("tel:{number}"),
        Some(user) => format!("sip:{user}@{host}"),
        None => return None,
    };
    let mut text = format!("{} <{uri}>", party.display).trim_start().to_owned();
    for (name, param) in party.params.iter() {
        let param = param.unwrap_or_default().trim_matches('"');
        if PLAIN_PARAMS.iter().any(|plain| plain.eq_ignore_ascii_case(name)) && is_plain(param) {
            text.push_str(&format!(";{name}={param}"));
        }
    }
    Some(text)
}

fn uri_host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_value_carries_a_control_character_or_a_hidden_host(user in "[+0-9a-z;:=%.]{0,12}", value in ".*") {
            for value in [format!("<sip:{user}@pbx.inside;x={user}>;reason=pbx.inside:1;{value}"), value] {
                for kind in [Kind::Party, Kind::SessionId, Kind::Reason, Kind::Text] {
                    let crossed = fit_to_cross(kind, &value, false, Some("192.0.2.1")).unwrap_or_default();
                    prop_assert!(!crossed.chars().any(char::is_control), "{crossed:?}");
                    prop_assert!(kind != Kind::Party || !crossed.contains("@pbx"), "{crossed}");
                }
            }
        }
    }

    #[test]
    fn a_party_keeps_its_user_and_loses_its_host() {
        let seen = |value: &str| fit_to_cross(Kind::Party, value, false, Some("192.0.2.1"));
        let cases = [
            (
                "\"Ada\" <sip:+15551:secret@pbx.inside:5070;transport=tcp>, <tel:+15552;phone-context=pbx.inside>",
                Some("\"Ada\" <sip:+15551@192.0.2.1>, <tel:+15552>"),
            ),
            (
                "<sip:100;x=pbx.inside@10.0.0.1>;reason=\"user-busy\";counter=1;extension=pbx.inside",
                Some("<sip:100@192.0.2.1>;reason=user-busy;counter=1"),
            ),
            ("<sip:a@10.0.0.1?Reason=SIP%3Bcause%3D302>;index=1.1;mp=1", Some("<sip:a@192.0.2.1>;index=1.1;mp=1")),
            ("<sip:a@10.0.0.1>;privacy=full, <sip:b@10.0.0.1>;privacy=off", Some("<sip:b@192.0.2.1>")),
            ("<sip:a@10.0.0.1?Privacy=history>;index=1", None),
            ("<sip:10.0.0.1>", None),
            ("<sip:a%40inside@10.0.0.1>", None),
            ("<urn:service:sos>", None),
            ("no address", None),
        ];
        for (value, wanted) in cases {
            assert_eq!(seen(value).as_deref(), wanted, "{value}");
        }
        assert_eq!(fit_to_cross(Kind::Party, "<sip:a@b>", true, None), None, "asked for privacy");
    }

    #[test]
    fn a_session_id_is_two_identifiers_or_none() {
        let (a, b) = ("ab30317f1a784dc48ff824d0d3715d86", "47755a9de7794ba387653f2099600ef2");
        assert_eq!(session_id(&format!("{a};remote={b};x=pbx.inside")), Some(format!("{a};remote={b}")));
        assert_eq!(session_id(a), Some(a.to_owned()));
        for bad in ["pbx.inside", &a.to_uppercase(), &format!("{a};remote=pbx.inside"), &a[1..]] {
            assert_eq!(session_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_sip_lives_by_never_crosses() {
        for name in ["Via", "v", "route", "Contact", "To", "Content-Type", "Content-Language", "Proxy-Authorization"] {
            assert!(!may_cross(name), "{name}");
        }
        for name in ["Diversion", "reason", "Session-ID", "User-to-User", "P-Asserted-Identity", "X-Anything"] {
            assert!(may_cross(name), "{name}");
        }
    }
}
