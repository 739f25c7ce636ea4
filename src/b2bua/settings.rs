//! Every limit and choice of the core, named. `config.rs` fills it; the defaults are design section 9.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::call::settings::CallSettings;
use crate::leg::session_timer::SessionSettings;
use crate::sdp::Family;
pub use crate::sdp::crypto::Srtp;
use crate::sip::digest::Credentials;
use crate::sip::gate::User;
use crate::sip::hop::Transport;
use crate::sip::locate::Place;

/// Settings of one core.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The SIP address peers reach us at: Via, Contact.
    pub sip_address: SocketAddr,
    /// Where else peers reach us: over TCP and TLS, and over each in the other IP family.
    pub sip_others: Vec<(Transport, SocketAddr)>,
    /// Whether requests above 1,300 octets go over TCP instead of UDP.
    pub tcp_for_long: bool,
    /// The addresses in our session descriptions, one for each IP family we have.
    pub media_addresses: Vec<IpAddr>,
    /// What callers may or must do about SRTP.
    pub srtp: Srtp,
    /// Whether SRTP keys may be told over UDP and TCP, where everybody on the way reads them (RFC 4568 section 7).
    pub srtp_without_tls: bool,
    /// Whether our offers let RTCP go over the port of the RTP (RFC 5761).
    pub rtcp_mux: bool,
    /// Sent as User-Agent and Server.
    pub product: String,
    /// Who may send us SIP. Empty: nobody. Trunks are always heard.
    pub access: Vec<Network>,
    /// What an unlisted source hears.
    pub unlisted: Unlisted,
    /// Which profile of `call.profiles` whoever calls from a network has; of several the smallest network counts.
    pub profiles: Vec<(Network, String)>,
    /// Who of those on the access list must say who it is before it may begin anything. Empty: nobody.
    pub challenge: Vec<Network>,
    /// The realm they are asked for.
    pub realm: String,
    /// Who they may be.
    pub users: Vec<User>,
    /// Who we are where the customer's side asks it.
    pub peers: Vec<Peer>,
    /// The trunks towards GenerativeAgent.
    pub trunks: Vec<Trunk>,
    /// Where each URI of each target of `call.targets` is found; what comes from there is heard.
    pub targets: BTreeMap<String, Vec<Reach>>,
    /// RFC 3261 T1, T2, T4.
    pub sip_timers: SipTimers,
    /// What we ask of sessions (RFC 4028).
    pub session: SessionSettings,
    /// Calls at once; above: 503.
    pub max_calls: usize,
    /// New calls a second; above: 503.
    pub max_calls_per_second: u32,
    /// Messages a second from one address, with a second's worth at once; what is above is dropped unread. 0: no limit.
    pub max_messages_per_source: u32,
    /// New calls a second from one address; above: 503. 0: no limit.
    pub max_calls_per_second_per_source: u32,
    /// SIP transactions up to which a refusal is remembered and repeated; above, it is said and forgotten.
    pub max_transactions: usize,
    /// How long a drain waits for running calls before it ends them.
    pub drain_limit: Duration,
    /// Seconds in the Retry-After of our 503.
    pub retry_after: u32,
    /// Requests a second to ASAPP's API, which permits 100 for the account; 0: no limit of our own.
    pub api_rate: u32,
    /// The API circuit breaker.
    pub breaker: BreakerSettings,
    /// Which header fields cross between the legs.
    pub headers: HeaderSettings,
    /// Media timeout: both directions dead this long end the call.
    pub media_timeout: Duration,
    /// What is remembered of conversations.
    pub conversations: ConversationSettings,
    /// What the call decides by.
    pub call: CallSettings,
}

/// What some of those may do who may call us, and who we are there.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Who they are.
    pub from: Vec<Network>,
    /// Whether their REFERs are followed: for another leg in the customer's place.
    pub accept_refer: bool,
    /// The hosts that these may lead to, names or IP addresses.
    pub refer_hosts: Vec<String>,
    /// What they are told, and nobody else, where they ask who sends them an INVITE, a REFER, a NOTIFY or a BYE.
    pub credentials: Option<Credentials>,
}

/// How GenerativeAgent gives a customer back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Returns {
    /// By BYE; its outputContext is fetched.
    Bye,
    /// By REFER as well, with its outputContext in the headers of Refer-To. Whom that names is not called.
    Refer,
}

/// A trunk towards GenerativeAgent.
#[derive(Debug, Clone)]
pub struct Trunk {
    /// Its name in logs, records and metrics.
    pub name: String,
    /// Where its servers are found; what comes from one of them is heard.
    pub place: Place,
    /// The host part of Request-URI and To.
    pub domain: String,
    /// Lower first: another trunk of a higher order is taken when none of this one can be.
    pub order: u16,
    /// Its share among trunks of the same order.
    pub weight: u16,
    /// The user part of our From: our own DID.
    pub caller_id: String,
    /// Whose number the trunk is shown.
    pub caller: Caller,
    /// Whether the dialled number keeps its plus sign.
    pub plus: bool,
    /// Digits before the dialled number.
    pub prefix: String,
    /// Shown to the trunk's own servers when they ask, and to nobody else.
    pub credentials: Option<Credentials>,
    /// Final statuses after which another way is tried with the same number, where nothing beyond 100 was seen.
    pub failover: Vec<u16>,
    /// An INVITE without any answer for so long is given up for another way, if there is one; zero: never.
    pub silence: Duration,
    /// How long a server that gave no answer comes last.
    pub down_for: Duration,
    /// Time between OPTIONS pings; zero: none.
    pub ping: Duration,
    /// Calls at once; 0: any number.
    pub max_calls: usize,
    /// INVITEs a second; 0: any number.
    pub max_calls_per_second: u32,
    /// INVITEs within any sixty seconds; 0: any number.
    pub max_calls_per_minute: u32,
    /// Addresses that a 3xx may send us to.
    pub redirects: Vec<IpAddr>,
    /// The interval of our registration there; zero: none.
    pub register: Duration,
    /// How GenerativeAgent gives a customer back who reached it by this trunk.
    pub returns: Returns,
    /// The profile of customers whose calls come from there.
    pub profile: Option<String>,
    /// What it may or must do about SRTP.
    pub srtp: Srtp,
}

/// Where one URI of a target is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Where its servers are found.
    pub place: Place,
    /// The SIP domain that their certificates must be for.
    pub domain: String,
    /// What it may or must do about SRTP.
    pub srtp: Srtp,
}

/// Whose number a trunk is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// Ours.
    Own,
    /// The customer's, where it is a number; ours in Diversion, as the one that answers for the call (RFC 5806).
    Passthrough,
}

impl Default for Trunk {
    fn default() -> Self {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self {
            name: "trunk".to_owned(),
            place: Place::at(Transport::Udp, SocketAddr::new(loopback, 5070)),
            domain: loopback.to_string(),
            order: 0,
            weight: 1,
            caller_id: "anonymous".to_owned(),
            caller: Caller::Own,
            plus: true,
            prefix: String::new(),
            credentials: None,
            failover: vec![401, 403, 407, 500, 502, 503, 504],
            silence: Duration::from_secs(6),
            down_for: Duration::from_secs(30),
            ping: Duration::ZERO,
            max_calls: 0,
            max_calls_per_second: 0,
            max_calls_per_minute: 0,
            redirects: Vec::new(),
            register: Duration::ZERO,
            returns: Returns::Bye,
            profile: None,
            srtp: Srtp::Allow,
        }
    }
}

/// Names of the header fields that cross between the legs, by direction and message; the customer's first request
/// is read by intake whatever stands here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderSettings {
    /// From the customer's INVITE to GenerativeAgent's.
    pub to_genagent: Vec<String>,
    /// From GenerativeAgent's 18x and 200 to the customer's.
    pub to_customer: Vec<String>,
    /// From the customer's BYE to GenerativeAgent's.
    pub bye_to_genagent: Vec<String>,
    /// From GenerativeAgent's BYE to the customer's.
    pub bye_to_customer: Vec<String>,
    /// From the customer's INFO to GenerativeAgent's.
    pub info_to_genagent: Vec<String>,
    /// From GenerativeAgent's INFO to the customer's.
    pub info_to_customer: Vec<String>,
    /// Whether URIs that say who calls, or who was called before us, name our host instead of their own.
    pub hide_topology: bool,
}

impl HeaderSettings {
    /// Every list with its name.
    pub fn lists(&self) -> [(&'static str, &[String]); 6] {
        [
            ("to_genagent", &self.to_genagent),
            ("to_customer", &self.to_customer),
            ("bye_to_genagent", &self.bye_to_genagent),
            ("bye_to_customer", &self.bye_to_customer),
            ("info_to_genagent", &self.info_to_genagent),
            ("info_to_customer", &self.info_to_customer),
        ]
    }
}

impl Default for HeaderSettings {
    /// One session from end to end (RFC 7989), and nothing that names a person or a host.
    fn default() -> Self {
        let session = || vec!["Session-ID".to_owned()];
        Self {
            to_genagent: session(),
            to_customer: session(),
            bye_to_genagent: session(),
            bye_to_customer: session(),
            info_to_genagent: session(),
            info_to_customer: session(),
            hide_topology: true,
        }
    }
}

/// An IP prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The address.
    pub address: IpAddr,
    /// How many leading bits count.
    pub prefix: u8,
}

impl Network {
    /// Whether the address lies in this network.
    pub fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
                (u32::from(a) ^ u32::from(b)) & mask == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix.min(128))).unwrap_or(0);
                (u128::from(a) ^ u128::from(b)) & mask == 0
            }
            _ => false,
        }
    }
}

/// What an unlisted source hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unlisted {
    /// Nothing.
    Drop,
    /// 403, at most a few a second.
    Forbid,
}

/// RFC 3261 section 17.1.1.1 and Table 4.
#[derive(Debug, Clone, Copy)]
pub struct SipTimers {
    /// Round-trip estimate.
    pub t1: Duration,
    /// Longest retransmission interval.
    pub t2: Duration,
    /// Longest time a message stays in the network.
    pub t4: Duration,
}

impl Default for SipTimers {
    fn default() -> Self {
        Self { t1: Duration::from_millis(500), t2: Duration::from_secs(4), t4: Duration::from_secs(5) }
    }
}

/// When to stop asking an API that does not answer.
#[derive(Debug, Clone, Copy)]
pub struct BreakerSettings {
    /// Failures in a row that open it; 0 never opens.
    pub failures: u32,
    /// How long it stays open before one probe is let through.
    pub open_for: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self { failures: 5, open_for: Duration::from_secs(10) }
    }
}

/// What is remembered of conversations.
#[derive(Debug, Clone, Copy)]
pub struct ConversationSettings {
    /// How long after the customer hung up a conversation is remembered; zero: not at all.
    pub resume_window: Duration,
    /// Whether the caller's number is remembered and stands for the conversation when nothing else does.
    pub by_caller: bool,
    /// How long input waits for the call it was laid down for; zero: none is taken.
    pub input_window: Duration,
    /// Most conversations remembered; the oldest goes first.
    pub max: usize,
    /// Most inputs waiting; the oldest goes first.
    pub max_inputs: usize,
}

impl Default for ConversationSettings {
    fn default() -> Self {
        Self {
            resume_window: Duration::from_secs(30 * 60),
            by_caller: false,
            input_window: Duration::from_secs(10 * 60),
            max: 100_000,
            max_inputs: 10_000,
        }
    }
}

impl Settings {
    /// Every way in, UDP first.
    pub fn sip_listeners(&self) -> Vec<(Transport, SocketAddr)> {
        [(Transport::Udp, self.sip_address)].into_iter().chain(self.sip_others.iter().copied()).collect()
    }

    /// What a leg may or must do about SRTP whose signalling goes this way; `None` when it can do nothing at all, because
    /// SRTP is required and its keys may not be told.
    pub fn srtp(&self, wanted: Srtp, transport: Transport) -> Option<Srtp> {
        match wanted {
            _ if transport == Transport::Tls || self.srtp_without_tls => Some(wanted),
            Srtp::Off | Srtp::Allow => Some(Srtp::Off),
            Srtp::Require => None,
        }
    }

    /// What is permitted to whoever calls from there.
    pub fn peers_at(&self, address: IpAddr) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(move |peer| peer.from.iter().any(|network| network.contains(address)))
    }

    /// Who we are for whoever is there, and for nobody else.
    pub fn credentials_at(&self, address: IpAddr) -> Option<&Credentials> {
        self.peers_at(address).find_map(|peer| peer.credentials.as_ref())
    }

    /// Where each host is found that a REFER may lead to, by its name in lower case.
    pub fn referred(&self) -> BTreeMap<String, Vec<Reach>> {
        let hosts = self.peers.iter().filter(|peer| peer.accept_refer).flat_map(|peer| &peer.refer_hosts);
        let reach = |host: &String| {
            let place = Place { host: host.clone(), port: None, transport: None };
            (host.to_ascii_lowercase(), vec![Reach { place, domain: host.clone(), srtp: self.srtp }])
        };
        hosts.map(reach).collect()
    }

    /// The address in session descriptions of this family, if we have one.
    pub fn media_address(&self, family: Family) -> Option<IpAddr> {
        self.media_addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

impl Default for Settings {
    /// Defaults around loopback addresses, as the demo and the simulated world use them.
    fn default() -> Self {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self {
            sip_address: SocketAddr::new(loopback, 5060),
            sip_others: Vec::new(),
            tcp_for_long: false,
            media_addresses: vec![loopback],
            srtp: Srtp::Allow,
            srtp_without_tls: false,
            rtcp_mux: false,
            product: concat!("switchback/", env!("CARGO_PKG_VERSION")).to_owned(),
            access: Vec::new(),
            unlisted: Unlisted::Drop,
            profiles: Vec::new(),
            challenge: Vec::new(),
            realm: "switchback".to_owned(),
            users: Vec::new(),
            peers: Vec::new(),
            trunks: vec![Trunk::default()],
            targets: BTreeMap::new(),
            sip_timers: SipTimers::default(),
            session: SessionSettings::default(),
            max_calls: 10_000,
            max_calls_per_second: 500,
            max_messages_per_source: 20_000,
            max_calls_per_second_per_source: 0,
            max_transactions: 100_000,
            drain_limit: Duration::from_secs(30 * 60),
            retry_after: 5,
            api_rate: 90,
            breaker: BreakerSettings::default(),
            headers: HeaderSettings::default(),
            media_timeout: Duration::from_secs(30),
            conversations: ConversationSettings::default(),
            call: CallSettings::default(),
        }
    }
}
