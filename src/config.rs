//! The configuration: one TOML file, then `SWITCHBACK__SECTION__KEY` environment variables on top of it.
//!
//! This is the only door to the `config` crate. A key that is not known is an error that names where it came from and
//! the nearest known key. Other adapters get plain fields; `app.rs` translates them.

mod check;
mod explain;
mod gather;
#[cfg(test)]
mod tests;
mod trunk;
mod words;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::b2bua::settings::{BreakerSettings, ConversationSettings, Network, Settings, SipTimers, Unlisted};
use crate::call::settings::{CallSettings, ContextSettings, Fallback as CoreFallback, IntakeSettings, Ringing};
use crate::leg::session_timer::SessionSettings;
use crate::sip::hop::Transport;

pub use trunk::Trunk;
pub use words::{Advertised, ClientAuth, Destination, Keep, LogFormat, PortRange};

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
    /// `[trunk.NAME]`
    pub trunk: BTreeMap<String, Trunk>,
    /// `[asapp]`
    pub asapp: Asapp,
    /// `[call]`
    pub call: Call,
    /// `[fallback]`
    pub fallback: Fallback,
    /// `[intake]`
    pub intake: IntakeSettings,
    /// `[context]`
    pub context: ContextSettings,
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
    /// The socket.
    pub listen: SocketAddr,
    /// What peers see in Via and Contact, when that differs.
    pub advertise: Option<Advertised>,
    /// The TCP listener.
    pub tcp_listen: Option<SocketAddr>,
    /// The TLS listener.
    pub tls_listen: Option<SocketAddr>,
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
    /// The address of the RTP sockets.
    pub address: IpAddr,
    /// The address in our session descriptions, when that differs.
    pub advertise: Option<IpAddr>,
    /// The RTP ports; a leg takes two.
    pub ports: PortRange,
    /// Relay threads.
    pub workers: u16,
    /// Both directions dead this long end the call.
    #[serde(with = "words::span")]
    pub timeout: Duration,
    /// How long a used port must be quiet before it is lent again.
    #[serde(with = "words::span")]
    pub quarantine: Duration,
    /// DSCP of RTP.
    pub dscp: u8,
}

/// Who answers for names of trunks.
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
    /// The id of the credentials, never empty after [`Config::load`].
    #[serde(serialize_with = "words::nothing")]
    pub api_id: SecretString,
    /// A file with the id instead.
    pub api_id_file: Option<PathBuf>,
    /// The secret of the credentials, never empty after [`Config::load`].
    #[serde(serialize_with = "words::nothing")]
    pub api_secret: SecretString,
    /// A file with the secret instead.
    pub api_secret_file: Option<PathBuf>,
    /// Country of the numbers asked for.
    pub country: String,
    /// E.164 prefixes a transfer number may have.
    pub number_prefixes: Vec<String>,
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
    #[serde(with = "words::span")]
    pub collect_limit: Duration,
    #[serde(with = "words::span")]
    pub max_duration: Duration,
    #[serde(with = "words::span")]
    pub release_limit: Duration,
    #[serde(deserialize_with = "words::choice")]
    pub ringing: Ringing,
}

/// What a customer gets when GenerativeAgent cannot be reached; one of the two, `status = 480` without either.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fallback {
    /// This final status.
    pub status: Option<u16>,
    /// Or 302 to this URI.
    pub redirect: Option<String>,
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
        if self.fallback.status.is_none() && self.fallback.redirect.is_none() {
            self.fallback.status = Some(480);
        }
        problems.extend(check::problems(&self));
        if problems.is_empty() { Ok(self) } else { Err(ConfigError::Invalid(problems)) }
    }

    fn fetch_secrets(&mut self) -> Vec<String> {
        let (asapp, admin) = (&mut self.asapp, &mut self.admin);
        let trunks = self.trunk.iter_mut();
        let passwords =
            trunks.map(|(name, it)| (format!("trunk.{name}.password"), &mut it.password, &it.password_file));
        [
            ("asapp.api_id".to_owned(), &mut asapp.api_id, &asapp.api_id_file),
            ("asapp.api_secret".to_owned(), &mut asapp.api_secret, &asapp.api_secret_file),
            ("admin.token".to_owned(), &mut admin.token, &admin.token_file),
        ]
        .into_iter()
        .chain(passwords)
        .filter_map(|(key, secret, file)| words::fetch_secret(&key, secret, file.as_deref()).err())
        .collect()
    }

    /// The address peers reach us at: Via and Contact.
    pub fn sip_address(&self) -> SocketAddr {
        match self.sip.advertise {
            Some(advertised) => {
                SocketAddr::new(advertised.address, advertised.port.unwrap_or_else(|| self.sip.listen.port()))
            }
            None => self.sip.listen,
        }
    }

    /// The other ways in, as peers reach them: the advertised host, and each listener's own port.
    pub fn other_addresses(&self) -> Vec<(Transport, SocketAddr)> {
        let told = self.sip.advertise.map(|advertised| advertised.address);
        let others = [(Transport::Tcp, self.sip.tcp_listen), (Transport::Tls, self.sip.tls_listen)];
        others
            .into_iter()
            .filter_map(|(transport, listen)| Some((transport, listen?)))
            .map(|(transport, listen)| {
                let host = told.filter(|told| told.is_ipv4() == listen.is_ipv4()).unwrap_or(listen.ip());
                (transport, SocketAddr::new(host, listen.port()))
            })
            .collect()
    }

    /// The settings of the core.
    pub fn core_settings(&self) -> Settings {
        let Self { sip, media, trunk, asapp, conversations, .. } = self;
        Settings {
            sip_address: self.sip_address(),
            sip_others: self.other_addresses(),
            tcp_for_long: sip.tcp_for_long,
            media_address: media.advertise.unwrap_or(media.address),
            product: sip.product.clone(),
            access: sip.access.clone(),
            unlisted: sip.unlisted,
            trunks: trunk.iter().map(|(name, trunk)| trunk.core(name)).collect(),
            sip_timers: SipTimers { t1: sip.t1, t2: sip.t2, t4: sip.t4 },
            session: SessionSettings {
                expires: sip.session_expires.as_secs() as u32,
                least: sip.session_least.as_secs() as u32,
            },
            max_calls: sip.max_calls,
            max_calls_per_second: sip.max_calls_per_second,
            drain_limit: sip.drain_limit,
            retry_after: sip.retry_after.as_secs() as u32,
            api_rate: asapp.rate,
            breaker: BreakerSettings { failures: asapp.breaker_failures, open_for: asapp.breaker_open_for },
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

    fn call_settings(&self) -> CallSettings {
        let call = &self.call;
        CallSettings {
            country: self.asapp.country.clone(),
            number_prefixes: self.asapp.number_prefixes.clone(),
            number_budget: call.number_budget,
            api_timeout: self.asapp.timeout,
            expiry_margin: call.expiry_margin,
            default_lifetime: call.default_lifetime,
            ring_limit: call.ring_limit,
            max_attempts: call.max_attempts,
            verify_after: call.verify_after,
            resume_attempts: call.resume_attempts,
            collect_limit: call.collect_limit,
            max_duration: call.max_duration,
            release_limit: call.release_limit,
            ringing: call.ringing,
            fallback: match &self.fallback.redirect {
                Some(target) => CoreFallback::Redirect(target.clone()),
                None => CoreFallback::Refuse(self.fallback.status.unwrap_or(480)),
            },
            intake: self.intake.clone(),
            context: self.context.clone(),
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

impl Default for Sip {
    fn default() -> Self {
        let core = Settings::default();
        Self {
            listen: core.sip_address,
            advertise: None,
            tcp_listen: None,
            tls_listen: None,
            tls_certificate: None,
            tls_key: None,
            tls_ca: None,
            tls_client_auth: ClientAuth::None,
            tcp_for_long: core.tcp_for_long,
            max_connections: 4_096,
            max_connections_per_source: 256,
            connection_idle: Duration::from_secs(600),
            message_time: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(4),
            access: core.access,
            unlisted: core.unlisted,
            t1: core.sip_timers.t1,
            t2: core.sip_timers.t2,
            t4: core.sip_timers.t4,
            session_expires: Duration::from_secs(u64::from(core.session.expires)),
            session_least: Duration::from_secs(u64::from(core.session.least)),
            max_calls: PortRange::default().pairs() / 2,
            max_calls_per_second: core.max_calls_per_second,
            drain_limit: core.drain_limit,
            retry_after: Duration::from_secs(core.retry_after.into()),
            product: core.product,
        }
    }
}

impl Default for Media {
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            advertise: None,
            ports: PortRange::default(),
            workers: 1,
            timeout: Settings::default().media_timeout,
            quarantine: Duration::from_secs(3),
            dscp: 46,
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
            country: call.country,
            number_prefixes: call.number_prefixes,
            connect_timeout: Duration::from_secs(2),
            timeout: call.api_timeout,
            rate: Settings::default().api_rate,
            breaker_failures: breaker.failures,
            breaker_open_for: breaker.open_for,
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
            collect_limit: core.collect_limit,
            max_duration: core.max_duration,
            release_limit: core.release_limit,
            ringing: core.ringing,
        }
    }
}

impl Default for Conversations {
    fn default() -> Self {
        let core = ConversationSettings::default();
        Self {
            // Nothing about people reaches a disk unless somebody wrote down where.
            path: Keep::InMemory,
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
