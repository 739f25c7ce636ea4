//! `[trunk.NAME]`: a way to GenerativeAgent.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};

use super::words::{self, span};
use super::{Config, Sip};
use crate::b2bua::settings::{Caller, Trunk as CoreTrunk};
use crate::sip::digest::Credentials;
use crate::sip::hop::Transport;
use crate::sip::locate::Place;

/// A trunk towards GenerativeAgent; the meaning of each key is in [`CoreTrunk`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trunk {
    /// `host`, `host:port` or an IP address. A host without a port is looked up as RFC 3263 says.
    pub address: String,
    /// How INVITEs go there; absent: UDP, or what the DNS says of a host without a port.
    #[serde(deserialize_with = "words::perhaps")]
    pub transport: Option<Transport>,
    /// Host part of Request-URI and To; the address's host when absent.
    pub domain: Option<String>,
    /// Lower first.
    pub order: u16,
    /// Share among trunks of the same order.
    pub weight: u16,
    /// User part of our From.
    pub caller_id: String,
    /// Whose number the trunk is shown.
    #[serde(deserialize_with = "words::choice")]
    pub caller: Caller,
    /// Whether the dialled number keeps its plus sign.
    pub plus: bool,
    /// Digits before the dialled number.
    pub prefix: String,
    /// User name for digest authentication; empty: none.
    pub username: String,
    /// Its password.
    #[serde(serialize_with = "words::nothing")]
    pub password: SecretString,
    /// A file with the password instead.
    pub password_file: Option<PathBuf>,
    /// The only realm that is answered; absent: the one the trunk names.
    pub realm: Option<String>,
    /// Final statuses after which the number goes another way.
    pub failover: Vec<u16>,
    /// An INVITE without any answer for so long goes another way.
    #[serde(with = "words::span")]
    pub silence: Duration,
    /// How long a server that gave no answer comes last.
    #[serde(with = "words::span")]
    pub down_for: Duration,
    /// Time between OPTIONS pings.
    #[serde(with = "words::span")]
    pub ping: Duration,
    /// Calls at once.
    pub max_calls: usize,
    /// INVITEs a second.
    pub max_calls_per_second: u32,
    /// INVITEs within any sixty seconds.
    pub max_calls_per_minute: u32,
    /// Addresses that a 3xx may send us to.
    pub redirects: Vec<IpAddr>,
    /// The interval of our registration.
    #[serde(with = "words::span")]
    pub register: Duration,
    /// What customers whose calls come from there are sent back with, one of `[profile.NAME]`.
    pub profile: Option<String>,
}

impl Default for Trunk {
    fn default() -> Self {
        let core = CoreTrunk::default();
        Self {
            address: String::new(),
            transport: None,
            domain: None,
            order: core.order,
            weight: core.weight,
            caller_id: core.caller_id,
            caller: core.caller,
            plus: core.plus,
            prefix: core.prefix,
            username: String::new(),
            password: SecretString::default(),
            password_file: None,
            realm: None,
            failover: core.failover,
            silence: core.silence,
            down_for: core.down_for,
            ping: core.ping,
            max_calls: core.max_calls,
            max_calls_per_second: core.max_calls_per_second,
            max_calls_per_minute: core.max_calls_per_minute,
            redirects: core.redirects,
            register: core.register,
            profile: None,
        }
    }
}

impl Trunk {
    /// Where its servers are found; `None` when the address is none.
    pub fn place(&self) -> Option<Place> {
        place(&self.address, self.transport)
    }

    pub(super) fn core(&self, name: &str) -> CoreTrunk {
        let place = self.place().unwrap_or_else(|| CoreTrunk::default().place);
        CoreTrunk {
            name: name.to_owned(),
            domain: self.domain.clone().unwrap_or_else(|| bracketed(&place.host)),
            place,
            order: self.order,
            weight: self.weight,
            caller_id: self.caller_id.clone(),
            caller: self.caller,
            plus: self.plus,
            prefix: self.prefix.clone(),
            credentials: (!self.username.is_empty()).then(|| Credentials {
                username: self.username.clone(),
                password: self.password.expose_secret().to_owned(),
                realm: self.realm.clone(),
            }),
            failover: self.failover.clone(),
            silence: self.silence,
            down_for: self.down_for,
            ping: self.ping,
            max_calls: self.max_calls,
            max_calls_per_second: self.max_calls_per_second,
            max_calls_per_minute: self.max_calls_per_minute,
            redirects: self.redirects.clone(),
            register: self.register,
            profile: self.profile.clone(),
        }
    }
}

/// `host`, `host:port`, an IP address, or one with a port; `None` when it is none of these.
pub(super) fn place(text: &str, transport: Option<Transport>) -> Option<Place> {
    let (host, port) = match text.parse::<SocketAddr>() {
        Ok(address) => (address.ip().to_string(), Some(address.port())),
        Err(_) if text.parse::<Ipv6Addr>().is_ok() => (text.to_owned(), None),
        Err(_) => match text.rsplit_once(':') {
            Some((host, port)) if !text.ends_with(']') => (host.to_owned(), Some(port.parse().ok()?)),
            _ => (text.to_owned(), None),
        },
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    (is_host(&host) && port != Some(0)).then_some(Place { host, port, transport })
}

fn bracketed(host: &str) -> String {
    if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() }
}

fn is_host(host: &str) -> bool {
    !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':'))
}

/// Reasons to refuse these trunks.
pub(super) fn problems(config: &Config, problems: &mut Vec<String>) {
    if config.trunk.is_empty() {
        problems.push(
            "no trunk reaches GenerativeAgent: write [trunk.main] with address = \"sbc.example.com:5060\"".to_owned(),
        );
    }
    for (name, trunk) in &config.trunk {
        let mut complain = |text: String| problems.push(format!("trunk.{name}.{text}"));
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
            complain(": a trunk's name has letters, digits, - and _ only".to_owned());
        }
        identity(trunk, &mut complain);
        transport(trunk, &config.sip, &mut complain);
        family(trunk, config, &mut complain);
        limits(trunk, &mut complain);
    }
}

fn identity(trunk: &Trunk, complain: &mut impl FnMut(String)) {
    if trunk.address.is_empty() {
        complain("address is missing: write \"host:5060\" of the trunk that reaches GenerativeAgent".to_owned());
    } else if trunk.place().is_none() {
        complain(format!(
            "address = \"{}\" is not a host, or a host and a port: write \"sbc.example.com:5060\" or \"[2001:db8::1]:5060\"",
            trunk.address
        ));
    }
    if let Some(domain) = trunk.domain.as_ref().filter(|domain| !is_host(domain.trim_matches(['[', ']']))) {
        complain(format!("domain = \"{domain}\" is not a host name: write \"carrier.example.com\""));
    }
    let is_user = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '_' | '.');
    if trunk.caller_id.is_empty() || !trunk.caller_id.chars().all(is_user) {
        complain(format!("caller_id = \"{}\" is not a number: write \"+15550100\"", trunk.caller_id));
    }
    if !trunk.prefix.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | '*' | '#')) {
        complain(format!("prefix = \"{}\" is not digits: write what the trunk wants before the number", trunk.prefix));
    }
    if trunk.username.is_empty() != (trunk.password.expose_secret().is_empty() && trunk.password_file.is_none()) {
        complain("username and password go together: write both, or neither".to_owned());
    }
}

fn transport(trunk: &Trunk, sip: &Sip, complain: &mut impl FnMut(String)) {
    let needs = match trunk.transport {
        Some(Transport::Tcp) if sip.tcp_listen.is_empty() => Some(("tcp", "sip.tcp_listen = \"ADDRESS:5060\"")),
        Some(Transport::Tls) if sip.tls_listen.is_empty() => Some(("tls", "sip.tls_listen = \"ADDRESS:5061\"")),
        _ => None,
    };
    if let Some((word, fix)) = needs {
        complain(format!("transport = \"{word}\" needs an address for the trunk's own requests: write {fix}"));
    }
    if trunk.transport == Some(Transport::Tls) && sip.tls_ca.is_none() {
        complain(
            "transport = \"tls\" needs to know whom to believe: write sip.tls_ca, a PEM file of certificate authorities"
                .to_owned(),
        );
    }
}

/// A literal address must be of a family that we speak; names are sorted out when they are looked up.
fn family(trunk: &Trunk, config: &Config, complain: &mut impl FnMut(String)) {
    let transport = trunk.transport.unwrap_or(Transport::Udp);
    if let Some(ip) = trunk.place().and_then(|place| place.host.parse::<IpAddr>().ok())
        && !config.sip.listens(transport).is_empty()
        && !config.media.address.is_empty()
        && let Some(lack) = config.lacks(transport, ip)
    {
        complain(format!("address cannot be called: {lack}"));
    }
}

fn limits(trunk: &Trunk, complain: &mut impl FnMut(String)) {
    let (s, h) = (Duration::from_secs, |hours: u64| Duration::from_secs(hours * 3600));
    for (key, value, least, most) in [
        ("silence", trunk.silence, s(1), s(32)),
        ("down_for", trunk.down_for, s(1), h(1)),
        ("ping", trunk.ping, s(5), h(1)),
        ("register", trunk.register, s(60), h(24)),
    ] {
        let off = value.is_zero() && key != "down_for";
        if !off && !(least..=most).contains(&value) {
            let [value, least, most] = [value, least, most].map(span::format);
            complain(format!(
                "{key} = \"{value}\" is out of range: write \"{least}\" to \"{most}\", or \"0s\" for none"
            ));
        }
    }
    if let Some(status) = trunk.failover.iter().find(|status| !(400..700).contains(*status)) {
        complain(format!("failover holds {status}, which is no refusal: write statuses from 400 to 699"));
    }
}
