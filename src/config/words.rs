//! How values are written: durations, networks, port ranges, destinations, secrets.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::de::value::{Error as ValueError, StringDeserializer};
use serde::de::{DeserializeOwned, Error, IntoDeserializer, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::b2bua::settings::Network;

/// An address peers are told: an IP address, or one with a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Advertised {
    /// The address.
    pub address: IpAddr,
    /// The port, when it is not the socket's.
    pub port: Option<u16>,
}

impl TryFrom<String> for Advertised {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self { address, port: None });
        }
        text.parse::<SocketAddr>()
            .map(|both| Self { address: both.ip(), port: Some(both.port()) })
            .map_err(|_| format!("`{text}` is not an address: write \"203.0.113.7\" or \"203.0.113.7:5060\""))
    }
}

impl From<Advertised> for String {
    fn from(advertised: Advertised) -> Self {
        match advertised.port {
            Some(port) => SocketAddr::new(advertised.address, port).to_string(),
            None => advertised.address.to_string(),
        }
    }
}

/// How GenerativeAgent is told what a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WayWord {
    /// Through ASAPP's API, before the call.
    Api,
    /// By headers of the INVITE, without any API.
    Headers,
}

/// UDP ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl PortRange {
    /// Pairs of an even port for RTP and the odd one above it for RTCP.
    pub fn pairs(self) -> usize {
        let even = usize::from(self.first).next_multiple_of(2);
        (usize::from(self.last) + 1).saturating_sub(even) / 2
    }
}

impl Default for PortRange {
    fn default() -> Self {
        Self { first: 20_000, last: 29_999 }
    }
}

impl TryFrom<String> for PortRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.split_once('-')
            .and_then(|(first, last)| Some(Self { first: first.trim().parse().ok()?, last: last.trim().parse().ok()? }))
            .ok_or_else(|| format!("`{text}` is not a port range: write \"20000-29999\""))
    }
}

impl From<PortRange> for String {
    fn from(ports: PortRange) -> Self {
        format!("{}-{}", ports.first, ports.last)
    }
}

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Destination {
    /// Appended to this file.
    File(PathBuf),
    /// `-`
    Stdout,
    /// `none`
    Nowhere,
}

impl From<String> for Destination {
    fn from(text: String) -> Self {
        match text.as_str() {
            "-" => Self::Stdout,
            "none" => Self::Nowhere,
            _ => Self::File(text.into()),
        }
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        match destination {
            Destination::File(path) => path.to_string_lossy().into_owned(),
            Destination::Stdout => "-".to_owned(),
            Destination::Nowhere => "none".to_owned(),
        }
    }
}

/// Where something that may hold what people said is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Keep {
    /// In this file, or this folder.
    File(PathBuf),
    /// `none`: not on disk.
    Nowhere,
}

impl From<String> for Keep {
    fn from(text: String) -> Self {
        if text == "none" { Self::Nowhere } else { Self::File(text.into()) }
    }
}

impl From<Keep> for String {
    fn from(keep: Keep) -> Self {
        match keep {
            Keep::File(path) => path.to_string_lossy().into_owned(),
            Keep::Nowhere => "none".to_owned(),
        }
    }
}

/// Where a sound comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Source {
    /// `comfort_noise`
    ComfortNoise,
    /// `silence`
    Silence,
    /// `tone:COUNTRY`
    Tone(String),
    /// `file:PATH`
    File(PathBuf),
}

impl TryFrom<String> for Source {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(':').unwrap_or((&text, "")) {
            ("comfort_noise", "") => Ok(Self::ComfortNoise),
            ("silence", "") => Ok(Self::Silence),
            ("tone", country) if !country.is_empty() => Ok(Self::Tone(country.to_owned())),
            ("file", path) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err(format!(
                "`{text}` is not a sound: write \"comfort_noise\", \"silence\", \"tone:us\" or \"file:/path/music.wav\""
            )),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ComfortNoise => f.write_str("comfort_noise"),
            Self::Silence => f.write_str("silence"),
            Self::Tone(country) => write!(f, "tone:{country}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.to_string()
    }
}

/// What those who connect to us over TLS must show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// Nothing.
    None,
    /// Nothing, or a good certificate.
    Optional,
    /// A good certificate.
    Required,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Durations: `"8s"`, `"150ms"`, `"1.5m"`, `"2h"`, or a number of seconds.
pub(super) mod span {
    use std::time::Duration;

    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    /// Reads `150ms`, `8s`, `5m`, `2h` or plain seconds.
    pub(in super::super) fn parse(text: &str) -> Option<Duration> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let scale = match unit.trim() {
            "ms" => 0.001,
            "" | "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        // Through whole milliseconds, so that 0.1 + 0.2 stays what was written.
        let seconds = number.parse::<f64>().ok()? * scale;
        (seconds < 1e9).then(|| Duration::from_millis((seconds * 1000.0).round() as u64))
    }

    /// The shortest way to write it.
    pub(in super::super) fn format(duration: Duration) -> String {
        let ms = duration.as_millis();
        match ms {
            0 => "0s".to_owned(),
            _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
            _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
            _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
            _ => format!("{ms}ms"),
        }
    }

    pub(in super::super) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format(*duration))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        from.deserialize_any(Spoken)
    }

    struct Spoken;

    impl Visitor<'_> for Spoken {
        type Value = Duration;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a duration such as \"150ms\", \"8s\", \"5m\" or \"2h\"")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            parse(text).ok_or_else(|| {
                E::custom(format!("`{text}` is not a duration: write \"150ms\", \"8s\", \"5m\" or \"2h\""))
            })
        }

        fn visit_f64<E: Error>(self, seconds: f64) -> Result<Duration, E> {
            self.visit_str(&seconds.to_string())
        }

        fn visit_i64<E: Error>(self, seconds: i64) -> Result<Duration, E> {
            self.visit_str(&seconds.to_string())
        }

        fn visit_u64<E: Error>(self, seconds: u64) -> Result<Duration, E> {
            self.visit_str(&seconds.to_string())
        }
    }
}

/// Networks: `"10.0.0.0/8"`, or one address.
pub(super) mod networks {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Network, Prefix, network};

    pub(in super::super) fn serialize<S: Serializer>(networks: &[Network], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(networks.iter().map(|network| Prefix(*network).to_string()))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Network>, D::Error> {
        Vec::<String>::deserialize(from)?.iter().map(|text| network(text).map_err(D::Error::custom)).collect()
    }
}

/// A network as it is written.
pub(super) struct Prefix(pub(super) Network);

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.address, self.0.prefix)
    }
}

fn network(text: &str) -> Result<Network, String> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, prefix.parse().ok()),
        None => (text, Some(u8::MAX)),
    };
    let longest = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
    match (address.trim().parse::<IpAddr>(), prefix) {
        (Ok(address), Some(u8::MAX)) => Ok(Network { address, prefix: longest(address) }),
        (Ok(address), Some(prefix)) if prefix <= longest(address) => Ok(Network { address, prefix }),
        _ => Err(format!("`{text}` is not a network: write \"10.0.0.0/8\", \"2001:db8::/32\" or one address")),
    }
}

/// One value, or a list of them.
pub(super) fn one_or_more<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Vec<T>, D::Error> {
    from.deserialize_any(OneOrMore(PhantomData))
}

struct OneOrMore<T>(PhantomData<T>);

impl<'de, T: DeserializeOwned> Visitor<'de> for OneOrMore<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address, or a list of them")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<T>, E> {
        T::deserialize(text.into_deserializer()).map(|one| vec![one])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(all)
    }
}

/// One word of a few; an error lists them.
pub(super) fn choice<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    let word: StringDeserializer<ValueError> = String::deserialize(from)?.into_deserializer();
    T::deserialize(word).map_err(D::Error::custom)
}

/// The same, or nothing.
pub(super) fn perhaps<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    choice(from).map(Some)
}

/// DNS servers: an address, or an address and a port.
pub(super) mod servers {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(servers: &[SocketAddr], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(servers)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SocketAddr>, D::Error> {
        Vec::<String>::deserialize(from)?.iter().map(|text| parse(text).map_err(D::Error::custom)).collect()
    }

    fn parse(text: &str) -> Result<SocketAddr, String> {
        let bare = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
        text.parse()
            .or_else(|_| bare())
            .map_err(|_| format!("`{text}` is not a DNS server: write \"192.0.2.53\" or \"192.0.2.53:53\""))
    }
}

/// Secrets are never written back.
pub(super) fn nothing<S: Serializer>(_: &SecretString, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_none()
}

/// Replaces an empty secret by the first line of its file.
pub(super) fn fetch_secret(key: &str, secret: &mut SecretString, file: Option<&Path>) -> Result<(), String> {
    let Some(path) = file else { return Ok(()) };
    if !secret.expose_secret().is_empty() {
        return Err(format!("{key} and {key}_file are both given: keep one of them"));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{key}_file: cannot read {}: {error}", path.display()))?;
    let line = text.lines().next().unwrap_or_default().trim();
    if line.is_empty() {
        return Err(format!("{key}_file: the first line of {} is empty; it must hold the value", path.display()));
    }
    *secret = SecretString::from(line);
    Ok(())
}
