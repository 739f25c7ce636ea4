//! The configuration: one TOML file, then `SWITCHBACK__SECTION__KEY` environment variables on top of it.
//!
//! This is the only door to the `config` crate. A key that is not known is an error that names where it came from and
//! the nearest known key. Other adapters get plain fields; `app.rs` translates them.

mod check;
mod explain;
mod gather;
mod peer;
mod profile;
mod returns;
mod routes;
#[cfg(test)]
mod tests;
mod trunk;
mod user;
mod webhook;
mod words;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::b2bua::io::PAIRS_A_CALL;
use crate::b2bua::settings::{
    BreakerSettings, ConversationSettings, HeaderSettings, Network, Reach, Settings, SipTimers, Srtp, Unlisted,
};
use crate::call::escape::Sequence;
use crate::call::recording::{Occasion, RecordingSettings};
use crate::call::rules::{Rule, Target as CoreTarget, one_or_many};
use crate::call::settings::{Answer, CallSettings, ContextSettings, EntrySetting, IntakeSettings, Ringing, WayIn};
use crate::leg::session_timer::SessionSettings;
use crate::sdp::Family;
use crate::sip::hop::Transport;
use crate::sip::locate::Place;
use crate::sip::value::Uri;

pub use peer::Peer;
pub use profile::Profile;
pub use returns::ReturnWord;
pub use trunk::Trunk;
pub use user::User;
pub use webhook::Webhook;
pub use words::{Advertised, ClientAuth, Destination, Keep, LogFormat, PortRange, Source, WayWord};

/// Everything the program can be told, read and checked.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[sip]`
    pub sip: Sip,
    /// `[media]`
    pub media: Media,
    /// `[dns]`
    pub dns: Dns,
    /// `[user.NAME]`
    pub user: BTreeMap<String, User>,
    /// `[peer.NAME]`
    pub peer: BTreeMap<String, Peer>,
    /// `[trunk.NAME]`
    pub trunk: BTreeMap<String, Trunk>,
    /// `[asapp]`
    pub asapp: Asapp,
    /// `[call]`
    pub call: Call,
    /// `[sounds]`
    pub sounds: Sounds,
    /// `[recording]`
    pub recording: Recording,
    /// `[[rule]]`: how customers are handed back, the first that fits.
    pub rule: Vec<Rule>,
    /// `[target.NAME]`: where they may be sent.
    pub target: BTreeMap<String, Target>,
    /// `[webhook.NAME]`: who may be asked where.
    pub webhook: BTreeMap<String, Webhook>,
    /// `[headers]`
    pub headers: HeaderSettings,
    /// `[intake]`
    pub intake: IntakeSettings,
    /// `[context]`
    pub context: ContextSettings,
    /// `[profile.NAME]`
    pub profile: BTreeMap<String, Profile>,
    /// `[conversations]`
    pub conversations: Conversations,
    /// `[records]`
    pub records: Records,
    /// `[admin]`
    pub admin: Admin,
    /// `[log]`
    pub log: Log,
}

/// Where SIP is spoken, and with whom.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sip {
    /// The UDP sockets, one of each IP family at most; so are the other listeners.
    #[serde(deserialize_with = "words::one_or_more")]
    pub listen: Vec<SocketAddr>,
    /// What peers of each family see in Via and Contact, where that differs.
    #[serde(deserialize_with = "words::one_or_more")]
    pub advertise: Vec<Advertised>,
    /// The TCP listeners.
    #[serde(deserialize_with = "words::one_or_more")]
    pub tcp_listen: Vec<SocketAddr>,
    /// The TLS listeners.
    #[serde(deserialize_with = "words::one_or_more")]
    pub tls_listen: Vec<SocketAddr>,
    /// Our certificate chain, PEM.
    pub tls_certificate: Option<PathBuf>,
    /// Its key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Whose certificates are believed, PEM.
    pub tls_ca: Option<PathBuf>,
    /// Whether those who connect must show a certificate.
    #[serde(deserialize_with = "words::choice")]
    pub tls_client_auth: ClientAuth,
    /// Whether requests above 1,300 octets go over TCP instead of UDP.
    pub tcp_for_long: bool,
    /// TCP and TLS connections that others may have to us at once.
    pub max_connections: usize,
    /// Of these, from one address.
    pub max_connections_per_source: usize,
    /// A connection is closed after so long without a message or a keep-alive.
    #[serde(with = "words::span")]
    pub connection_idle: Duration,
    /// Between keep-alives of ours on a connection; zero: none.
    #[serde(with = "words::span")]
    pub keepalive: Duration,
    /// From the first octet of a message on a connection to its last.
    #[serde(with = "words::span")]
    pub message_time: Duration,
    /// To connect over TCP, the TLS handshake included.
    #[serde(with = "words::span")]
    pub connect_timeout: Duration,
    /// Who may send us SIP.
    #[serde(with = "words::networks")]
    pub access: Vec<Network>,
    /// What everyone else hears.
    #[serde(deserialize_with = "words::choice")]
    pub unlisted: Unlisted,
    /// Who of them must say who it is, as one of `[user.NAME]`.
    #[serde(with = "words::networks")]
    pub challenge: Vec<Network>,
    /// The realm of the question.
    pub realm: String,
    /// RFC 3261 T1.
    #[serde(with = "words::span")]
    pub t1: Duration,
    /// RFC 3261 T2.
    #[serde(with = "words::span")]
    pub t2: Duration,
    /// RFC 3261 T4.
    #[serde(with = "words::span")]
    pub t4: Duration,
    /// The session interval we ask for; zero: none.
    #[serde(with = "words::span")]
    pub session_expires: Duration,
    /// The shortest session interval we accept.
    #[serde(with = "words::span")]
    pub session_least: Duration,
    /// Calls at once; above: 503.
    pub max_calls: usize,
    /// New calls a second; above: 503.
    pub max_calls_per_second: u32,
    /// Messages a second from one address; more are dropped unread.
    pub max_messages_per_source: u32,
    /// New calls a second from one address; above: 503.
    pub max_calls_per_second_per_source: u32,
    /// SIP transactions up to which a refusal is remembered.
    pub max_transactions: usize,
    /// How long a drain waits for running calls before it ends them.
    #[serde(with = "words::span")]
    pub drain_limit: Duration,
    /// The Retry-After of those 503.
    #[serde(with = "words::span")]
    pub retry_after: Duration,
    /// User-Agent and Server.
    pub product: String,
}

/// The RTP relay.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Media {
    /// The addresses of the RTP sockets, one of each IP family at most.
    #[serde(deserialize_with = "words::one_or_more")]
    pub address: Vec<IpAddr>,
    /// The address of each family in our session descriptions, where that differs.
    #[serde(deserialize_with = "words::one_or_more")]
    pub advertise: Vec<IpAddr>,
    /// The RTP ports; a leg takes two.
    pub ports: PortRange,
    /// Relay threads; 0: one for each core, as far as there are ports for many calls.
    pub workers: u16,
    /// Both directions dead this long end the call.
    #[serde(with = "words::span")]
    pub timeout: Duration,
    /// How long a used port must be quiet before it is lent again.
    #[serde(with = "words::span")]
    pub quarantine: Duration,
    /// DSCP of RTP.
    pub dscp: u8,
    /// Plain RTP or SRTP with callers.
    #[serde(deserialize_with = "words::choice")]
    pub srtp: Srtp,
    /// Whether SRTP keys may be told over UDP and TCP.
    pub srtp_without_tls: bool,
    /// Whether our offers let RTCP go over the port of the RTP.
    pub rtcp_mux: bool,
}

/// Who answers for the names of trunks and of ASAPP's API.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// DNS servers; empty: the system's.
    #[serde(with = "words::servers")]
    pub servers: Vec<SocketAddr>,
}

/// ASAPP's API.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Asapp {
    /// Where it is.
    pub base_url: String,
    /// Whether `base_url` may be plain `http://`.
    pub allow_http: bool,
    /// The id of the credentials, never empty after [`Config::load`] where the API is asked.
    #[serde(serialize_with = "words::nothing")]
    pub api_id: SecretString,
    /// A file with the id instead.
    pub api_id_file: Option<PathBuf>,
    /// The secret of the credentials, never empty after [`Config::load`] where the API is asked.
    #[serde(serialize_with = "words::nothing")]
    pub api_secret: SecretString,
    /// A file with the secret instead.
    pub api_secret_file: Option<PathBuf>,
    /// Whether the API is asked for every call, or the headers of the INVITE say everything.
    #[serde(deserialize_with = "words::choice")]
    pub way: WayWord,
    /// GenerativeAgent's static SIP URI; empty: numbers are asked for and dialled.
    pub sip_uri: String,
    /// How GenerativeAgent is asked to give customers back from there.
    #[serde(rename = "return", deserialize_with = "words::choice")]
    pub returns: ReturnWord,
    /// Where to, by REFER or INVITE.
    pub return_uri: String,
    /// Who its INVITE says it is where it is asked, one of `[user.NAME]`.
    pub return_user: String,
    /// Country of the numbers asked for.
    pub country: String,
    /// E.164 prefixes a transfer number may have.
    pub number_prefixes: Vec<String>,
    /// E.164 prefixes it must not have.
    pub barred_prefixes: Vec<String>,
    /// TCP and TLS set-up.
    #[serde(with = "words::span")]
    pub connect_timeout: Duration,
    /// One exchange.
    #[serde(with = "words::span")]
    pub timeout: Duration,
    /// Requests a second; 0: no limit of our own.
    pub rate: u32,
    /// Failures in a row after which the API is left alone; 0: never.
    pub breaker_failures: u32,
    /// For how long.
    #[serde(with = "words::span")]
    pub breaker_open_for: Duration,
    /// Whether a create that ASAPP refuses for what is in it is repeated once without the input context.
    pub retry_without_context: bool,
}

/// Budgets and limits of a call; the meaning of each is in [`CallSettings`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the names and meanings are those of CallSettings")]
pub struct Call {
    #[serde(with = "words::span")]
    pub number_budget: Duration,
    #[serde(with = "words::span")]
    pub expiry_margin: Duration,
    #[serde(with = "words::span")]
    pub default_lifetime: Duration,
    #[serde(with = "words::span")]
    pub ring_limit: Duration,
    pub max_attempts: u8,
    #[serde(with = "words::span")]
    pub verify_after: Duration,
    pub resume_attempts: u8,
    pub max_reentries: u8,
    #[serde(with = "words::span")]
    pub collect_limit: Duration,
    #[serde(with = "words::span")]
    pub max_duration: Duration,
    #[serde(with = "words::span")]
    pub release_limit: Duration,
    #[serde(deserialize_with = "words::choice")]
    pub ringing: Ringing,
    #[serde(deserialize_with = "words::choice")]
    pub answer: Answer,
    #[serde(with = "words::span")]
    pub dwell_limit: Duration,
    pub escape: Sequence,
    #[serde(with = "words::span")]
    pub escape_pause: Duration,
    #[serde(deserialize_with = "words::choice")]
    pub entry: EntrySetting,
    #[serde(with = "words::span")]
    pub ladder_limit: Duration,
}

/// What is heard of ours, by occasion.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sounds {
    /// By the customer before GenerativeAgent answers, where ringing is ours.
    pub ringback: Source,
    /// By the customer while nobody is being called: the outputContext is fetched, another number is asked for.
    pub waiting: Source,
    /// By the customer while a target rings.
    pub onward: Source,
    /// By whoever talks with somebody who holds.
    pub hold: Source,
    /// By the customer before the BYE when no target could be reached; absent: nothing is said.
    pub announcement: Option<Source>,
    /// The announcement is cut after this time.
    #[serde(with = "words::span")]
    pub announcement_limit: Duration,
    /// The longest file that is read.
    #[serde(with = "words::span")]
    pub max_length: Duration,
}

/// Which calls are recorded, and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recording {
    /// A folder, or `none`: nothing is recorded.
    pub path: Keep,
    /// Megabytes of everything in the folder; above, nothing more is recorded.
    pub max_megabytes: u64,
    /// Between two tones that both sides hear; zero: none.
    #[serde(with = "words::span")]
    pub beep: Duration,
    /// A header with the value `yes` on our answer to the customer's side and on the INVITE to a target; empty: none.
    pub header: String,
    /// `[[recording.when]]`: calls that are recorded without being asked for.
    pub when: Vec<Occasion>,
}

/// One row of the table of places where customers may be sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Target {
    /// Request-URI and To, the Contact of a 302, or what a REFER names; several are tried one after the other.
    #[serde(deserialize_with = "one_or_many")]
    pub uri: Vec<String>,
    /// Where the calls go, `host`, `host:port` or an IP address; absent: where RFC 3263 finds each URI.
    pub address: Option<String>,
    /// How they go there; absent: as the URI or the DNS says, else UDP.
    #[serde(deserialize_with = "words::perhaps")]
    pub transport: Option<Transport>,
    /// How long each URI may ring, or may be silent about what becomes of a REFER to it.
    #[serde(with = "words::span")]
    pub ring_limit: Duration,
    /// An INVITE without any answer for this long is given up for the next.
    #[serde(with = "words::span")]
    pub silence: Duration,
    /// How long the customer's side may take to accept a REFER to it.
    #[serde(with = "words::span")]
    pub accept_limit: Duration,
    /// What is sent there, one of `[profile.NAME]`.
    pub profile: Option<String>,
    /// Plain RTP or SRTP.
    #[serde(deserialize_with = "words::choice")]
    pub srtp: Srtp,
}

/// What is remembered of conversations; the meaning of each is in [`ConversationSettings`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the names and meanings are those of ConversationSettings")]
pub struct Conversations {
    /// A file, or `none`: what is remembered ends with the process.
    pub path: Keep,
    #[serde(with = "words::span")]
    pub resume_window: Duration,
    pub by_caller: bool,
    #[serde(with = "words::span")]
    pub input_window: Duration,
    pub max: usize,
    pub max_inputs: usize,
}

/// Where call records go.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Records {
    /// A file, `-` for standard output, or `none`.
    pub path: Destination,
}

/// The HTTP side door.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// The socket.
    pub listen: SocketAddr,
    /// Bearer token; empty: none asked for, which is allowed on loopback only.
    #[serde(serialize_with = "words::nothing")]
    pub token: SecretString,
    /// A file with the token instead.
    pub token_file: Option<PathBuf>,
}

/// Logs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level, or a filter such as `info,switchback::asapp=debug`.
    pub level: String,
    /// How a line looks.
    #[serde(deserialize_with = "words::choice")]
    pub format: LogFormat,
}

/// Why a configuration cannot be used. Every line names a key and what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or is not TOML, or a value has the wrong type.
    #[error("{0}")]
    Unreadable(String),
    /// Keys that nobody knows, one message each.
    #[error("{}", .0.join("\n"))]
    UnknownKeys(Vec<String>),
    /// Values that cannot work, one message each.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

impl Config {
    /// Reads the file, if any, and the environment; fetches secrets from their files; checks everything.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        gather::read(path.map(gather::Toml::File), None)?.finished()
    }

    /// The same from a text instead of a file, and without looking at the environment.
    pub fn parse(toml: &str) -> Result<Self, ConfigError> {
        gather::read(Some(gather::Toml::Text(toml)), Some(Default::default()))?.finished()
    }

    fn finished(mut self) -> Result<Self, ConfigError> {
        let mut problems = self.fetch_secrets();
        problems.extend(check::problems(&self));
        if problems.is_empty() { Ok(self) } else { Err(ConfigError::Invalid(problems)) }
    }

    fn fetch_secrets(&mut self) -> Vec<String> {
        let (asapp, admin) = (&mut self.asapp, &mut self.admin);
        let trunks = self.trunk.iter_mut();
        let passwords =
            trunks.map(|(name, it)| (format!("trunk.{name}.password"), &mut it.password, &it.password_file));
        let webhooks = self.webhook.iter_mut();
        let tokens = webhooks.map(|(name, it)| (format!("webhook.{name}.secret"), &mut it.secret, &it.secret_file));
        let users = self.user.iter_mut();
        let words = users.map(|(name, it)| (format!("user.{name}.password"), &mut it.password, &it.password_file));
        let peers = self.peer.iter_mut();
        let shown = peers.map(|(name, it)| (format!("peer.{name}.password"), &mut it.password, &it.password_file));
        [
            ("asapp.api_id".to_owned(), &mut asapp.api_id, &asapp.api_id_file),
            ("asapp.api_secret".to_owned(), &mut asapp.api_secret, &asapp.api_secret_file),
            ("admin.token".to_owned(), &mut admin.token, &admin.token_file),
        ]
        .into_iter()
        .chain(passwords)
        .chain(words)
        .chain(shown)
        .chain(tokens)
        .filter_map(|(key, secret, file)| words::fetch_secret(&key, secret, file.as_deref()).err())
        .collect()
    }

    /// Every way in, UDP first.
    pub fn listeners(&self) -> Vec<Listener> {
        let all = [Transport::Udp, Transport::Tcp, Transport::Tls].into_iter();
        all.flat_map(|transport| {
            self.sip.listens(transport).iter().map(move |here| self.sip.listener(transport, *here))
        })
        .collect()
    }

    /// What an address that we are to call needs and has not: a listener and a media address of its family.
    pub fn lacks(&self, transport: Transport, peer: IpAddr) -> Option<String> {
        let family = Family::of(peer);
        let heard = self.sip.listens(transport).iter().any(|own| Family::of(own.ip()) == family);
        let spoken = self.media.address.iter().any(|own| Family::of(*own) == family);
        let key = match (heard, spoken) {
            (false, _) => Sip::key(transport),
            (true, false) => "media.address",
            (true, true) => return None,
        };
        Some(format!("{peer} is {family} and {key} is not: write a list with an {family} address there"))
    }

    /// The settings of the core.
    pub fn core_settings(&self) -> Settings {
        let Self { sip, media, user, trunk, asapp, conversations, .. } = self;
        let mut told = self.listeners().into_iter().map(|listener| (listener.transport, listener.told));
        Settings {
            sip_address: told.next().map_or(Settings::default().sip_address, |(_, address)| address),
            sip_others: told.collect(),
            tcp_for_long: sip.tcp_for_long,
            media_addresses: media.address.iter().map(|address| media.told(*address)).collect(),
            srtp: media.srtp,
            srtp_without_tls: media.srtp_without_tls,
            rtcp_mux: media.rtcp_mux,
            product: sip.product.clone(),
            access: sip.access.clone(),
            unlisted: sip.unlisted,
            profiles: self.peers(),
            challenge: sip.challenge.clone(),
            realm: sip.realm.clone(),
            users: user.iter().map(|(name, user)| user.core(name)).collect(),
            peers: self.peer.values().map(Peer::core).collect(),
            trunks: trunk.iter().map(|(name, trunk)| trunk.core(name)).collect(),
            targets: self.target.iter().map(|(name, row)| (name.clone(), row.reaches())).collect(),
            sip_timers: SipTimers { t1: sip.t1, t2: sip.t2, t4: sip.t4 },
            session: SessionSettings {
                expires: sip.session_expires.as_secs() as u32,
                least: sip.session_least.as_secs() as u32,
            },
            max_calls: sip.max_calls,
            max_calls_per_second: sip.max_calls_per_second,
            max_messages_per_source: sip.max_messages_per_source,
            max_calls_per_second_per_source: sip.max_calls_per_second_per_source,
            max_transactions: sip.max_transactions,
            drain_limit: sip.drain_limit,
            retry_after: sip.retry_after.as_secs() as u32,
            api_rate: asapp.rate,
            breaker: BreakerSettings { failures: asapp.breaker_failures, open_for: asapp.breaker_open_for },
            headers: self.headers.clone(),
            media_timeout: media.timeout,
            conversations: ConversationSettings {
                resume_window: conversations.resume_window,
                by_caller: conversations.by_caller,
                input_window: conversations.input_window,
                max: conversations.max,
                max_inputs: conversations.max_inputs,
            },
            call: self.call_settings(),
        }
    }

    fn peers(&self) -> Vec<(Network, String)> {
        let rows = self.profile.iter();
        rows.flat_map(|(name, row)| row.peers.iter().map(|network| (*network, name.clone()))).collect()
    }

    fn call_settings(&self) -> CallSettings {
        let call = &self.call;
        CallSettings {
            way_in: self.asapp.way_in(),
            country: self.asapp.country.clone(),
            number_prefixes: self.asapp.number_prefixes.clone(),
            barred_prefixes: self.asapp.barred_prefixes.clone(),
            number_budget: call.number_budget,
            api_timeout: self.asapp.timeout,
            expiry_margin: call.expiry_margin,
            default_lifetime: call.default_lifetime,
            ring_limit: call.ring_limit,
            max_attempts: call.max_attempts,
            verify_after: call.verify_after,
            resume_attempts: call.resume_attempts,
            max_reentries: call.max_reentries,
            collect_limit: call.collect_limit,
            max_duration: call.max_duration,
            release_limit: call.release_limit,
            ringing: call.ringing,
            answer: call.answer,
            dwell_limit: call.dwell_limit,
            escape: call.escape.clone(),
            escape_pause: call.escape_pause,
            retry_without_context: self.asapp.retry_without_context,
            entry: call.entry,
            rules: self.rule.clone(),
            targets: self.target.iter().map(|(name, row)| (name.clone(), row.core())).collect(),
            webhooks: self.webhook.iter().map(|(name, row)| (name.clone(), row.core())).collect(),
            ladder_limit: call.ladder_limit,
            announcement_limit: self
                .sounds
                .announcement
                .as_ref()
                .map_or(Duration::ZERO, |_| self.sounds.announcement_limit),
            recording: RecordingSettings {
                kept: self.recording.folder().is_some(),
                occasions: self.recording.when.clone(),
                header: self.recording.header.clone(),
            },
            retry_after: self.sip.retry_after.as_secs() as u32,
            intake: self.intake.clone(),
            context: self.context.clone(),
            profiles: self.profile.iter().map(|(name, row)| (name.clone(), row.context.clone())).collect(),
        }
    }

    /// What works, but probably not as meant; one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        check::warnings(self)
    }

    /// In plain words, what happens to a call, and what is done for every outcome and entry kind.
    pub fn explain(&self) -> String {
        explain::explain(self)
    }
}

/// One way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// How.
    pub transport: Transport,
    /// The socket.
    pub here: SocketAddr,
    /// The address peers reach it at: Via and Contact.
    pub told: SocketAddr,
}

impl Sip {
    /// The sockets of this transport.
    pub fn listens(&self, transport: Transport) -> &[SocketAddr] {
        match transport {
            Transport::Udp => &self.listen,
            Transport::Tcp => &self.tcp_listen,
            Transport::Tls => &self.tls_listen,
        }
    }

    /// The key that names them.
    pub fn key(transport: Transport) -> &'static str {
        match transport {
            Transport::Udp => "sip.listen",
            Transport::Tcp => "sip.tcp_listen",
            Transport::Tls => "sip.tls_listen",
        }
    }

    /// An advertised port is that of UDP; streams have the host, and a port of their own.
    fn listener(&self, transport: Transport, here: SocketAddr) -> Listener {
        let advertised = self.advertise.iter().find(|it| it.address.is_ipv4() == here.is_ipv4());
        let host = advertised.map_or(here.ip(), |advertised| advertised.address);
        let port = advertised.and_then(|advertised| advertised.port).filter(|_| transport == Transport::Udp);
        Listener { transport, here, told: SocketAddr::new(host, port.unwrap_or(here.port())) }
    }
}

impl Media {
    /// What is wrong where SRTP is required and its keys may not be told on the way there.
    fn untold(&self, srtp: Srtp, transport: Option<Transport>) -> Option<String> {
        let told = transport == Some(Transport::Tls) || self.srtp_without_tls;
        (srtp == Srtp::Require && !told).then(|| {
            "srtp = \"require\" tells its keys over TLS: write transport = \"tls\", or media.srtp_without_tls = true \
             where nobody reads along"
                .to_owned()
        })
    }

    /// The address peers reach this one of ours at.
    pub fn told(&self, here: IpAddr) -> IpAddr {
        self.advertise.iter().copied().find(|told| told.is_ipv4() == here.is_ipv4()).unwrap_or(here)
    }
}

impl Recording {
    /// Where recordings are kept, if they are.
    pub fn folder(&self) -> Option<&Path> {
        match &self.path {
            Keep::File(path) => Some(path),
            Keep::Nowhere => None,
        }
    }
}

impl Asapp {
    /// How GenerativeAgent is reached.
    pub fn way_in(&self) -> WayIn {
        let uri = self.sip_uri.clone();
        match self.way {
            WayWord::Headers => WayIn::Headers { uri },
            WayWord::Api if uri.is_empty() => WayIn::Number,
            WayWord::Api => WayIn::Sip { uri, returns: self.gives_back() },
        }
    }
}

impl Target {
    fn core(&self) -> CoreTarget {
        CoreTarget {
            uris: self.uri.clone(),
            ring_limit: self.ring_limit,
            silence: self.silence,
            accept_limit: self.accept_limit,
            profile: self.profile.clone(),
        }
    }

    /// Where each of its URIs is found that we call ourselves, and whose certificate counts there.
    fn reaches(&self) -> Vec<Reach> {
        self.uri.iter().filter(|uri| uri.starts_with("sip:")).filter_map(|uri| self.reach(uri)).collect()
    }

    /// Where this URI is found: at `address`, or as RFC 3263 says of the URI.
    pub fn reach(&self, uri: &str) -> Option<Reach> {
        let uri = Uri::read(uri)?;
        let transport = self.transport.or(Transport::of_uri(&uri));
        let host = uri.host.trim_matches(['[', ']']).to_owned();
        let place = match &self.address {
            Some(address) => trunk::place(address, transport)?,
            None => Place { host: host.clone(), port: uri.port, transport },
        };
        Some(Reach { place, domain: host, srtp: self.srtp })
    }
}

impl Default for Target {
    fn default() -> Self {
        Self {
            uri: Vec::new(),
            address: None,
            transport: None,
            ring_limit: CallSettings::default().ring_limit,
            silence: Duration::from_secs(6),
            accept_limit: Duration::from_secs(5),
            profile: None,
            srtp: Srtp::Allow,
        }
    }
}

impl Default for Sip {
    fn default() -> Self {
        let core = Settings::default();
        Self {
            listen: vec![core.sip_address],
            advertise: Vec::new(),
            tcp_listen: Vec::new(),
            tls_listen: Vec::new(),
            tls_certificate: None,
            tls_key: None,
            tls_ca: None,
            tls_client_auth: ClientAuth::None,
            tcp_for_long: core.tcp_for_long,
            max_connections: 4_096,
            max_connections_per_source: 256,
            connection_idle: Duration::from_secs(600),
            keepalive: Duration::from_secs(30),
            message_time: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(4),
            access: core.access,
            unlisted: core.unlisted,
            challenge: core.challenge,
            realm: core.realm,
            t1: core.sip_timers.t1,
            t2: core.sip_timers.t2,
            t4: core.sip_timers.t4,
            session_expires: Duration::from_secs(u64::from(core.session.expires)),
            session_least: Duration::from_secs(u64::from(core.session.least)),
            max_calls: PortRange::default().pairs() / PAIRS_A_CALL,
            max_calls_per_second: core.max_calls_per_second,
            max_messages_per_source: core.max_messages_per_source,
            max_calls_per_second_per_source: core.max_calls_per_second_per_source,
            max_transactions: core.max_transactions,
            drain_limit: core.drain_limit,
            retry_after: Duration::from_secs(core.retry_after.into()),
            product: core.product,
        }
    }
}

impl Default for Media {
    fn default() -> Self {
        Self {
            address: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            advertise: Vec::new(),
            ports: PortRange::default(),
            workers: 0,
            timeout: Settings::default().media_timeout,
            quarantine: Duration::from_secs(3),
            dscp: 46,
            srtp: Settings::default().srtp,
            srtp_without_tls: Settings::default().srtp_without_tls,
            rtcp_mux: Settings::default().rtcp_mux,
        }
    }
}

impl Default for Asapp {
    fn default() -> Self {
        let (call, breaker) = (CallSettings::default(), BreakerSettings::default());
        Self {
            base_url: "https://api.asapp.com".to_owned(),
            allow_http: false,
            api_id: SecretString::default(),
            api_id_file: None,
            api_secret: SecretString::default(),
            api_secret_file: None,
            way: WayWord::Api,
            sip_uri: String::new(),
            returns: ReturnWord::Bye,
            return_uri: String::new(),
            return_user: String::new(),
            country: call.country,
            number_prefixes: call.number_prefixes,
            barred_prefixes: call.barred_prefixes,
            connect_timeout: Duration::from_secs(2),
            timeout: call.api_timeout,
            rate: Settings::default().api_rate,
            breaker_failures: breaker.failures,
            breaker_open_for: breaker.open_for,
            retry_without_context: call.retry_without_context,
        }
    }
}

impl Default for Call {
    fn default() -> Self {
        let core = CallSettings::default();
        Self {
            number_budget: core.number_budget,
            expiry_margin: core.expiry_margin,
            default_lifetime: core.default_lifetime,
            ring_limit: core.ring_limit,
            max_attempts: core.max_attempts,
            verify_after: core.verify_after,
            resume_attempts: core.resume_attempts,
            max_reentries: core.max_reentries,
            collect_limit: core.collect_limit,
            max_duration: core.max_duration,
            release_limit: core.release_limit,
            ringing: core.ringing,
            answer: core.answer,
            dwell_limit: core.dwell_limit,
            escape: core.escape,
            escape_pause: core.escape_pause,
            entry: core.entry,
            ladder_limit: core.ladder_limit,
        }
    }
}

impl Default for Sounds {
    fn default() -> Self {
        let ringing = || Source::Tone("us".to_owned());
        Self {
            ringback: ringing(),
            waiting: Source::ComfortNoise,
            onward: ringing(),
            hold: Source::ComfortNoise,
            announcement: None,
            announcement_limit: Duration::from_secs(30),
            max_length: Duration::from_secs(300),
        }
    }
}

impl Default for Recording {
    fn default() -> Self {
        Self {
            path: Keep::Nowhere,
            max_megabytes: 10_240,
            beep: Duration::ZERO,
            header: String::new(),
            when: Vec::new(),
        }
    }
}

impl Default for Conversations {
    fn default() -> Self {
        let core = ConversationSettings::default();
        Self {
            // Nothing about people reaches a disk unless somebody wrote down where.
            path: Keep::Nowhere,
            resume_window: core.resume_window,
            by_caller: core.by_caller,
            input_window: core.input_window,
            max: core.max,
            max_inputs: core.max_inputs,
        }
    }
}

impl Default for Records {
    fn default() -> Self {
        Self { path: Destination::File("records.jsonl".into()) }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)), token: SecretString::default(), token_file: None }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}
