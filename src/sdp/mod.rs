//! Session descriptions (RFC 8866): what the far side says of its audio, and our relay put in its place.
//!
//! One audio stream is carried. Whatever else is offered is answered with port 0 at its place (RFC 3264 section 6).

pub mod anchor;
pub mod crypto;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use sdp_types::{Attribute, Connection, Media};
use serde::Serialize;

use crypto::{Crypto, Srtp};

/// A session description, reduced to what a relay needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Every m-line in order: media, protocol, formats.
    lines: Vec<(String, String, String)>,
    /// Which of them is our audio.
    audio_line: usize,
    /// The audio stream.
    pub audio: Audio,
    /// The keys its owner offers to send with, in order of preference; none: plain RTP. They are no part of [`Audio`],
    /// which crosses to the other leg.
    pub crypto: Vec<Crypto>,
}

/// Which Internet Protocol an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// IPv4, `IP4` in a session description.
    V4,
    /// IPv6, `IP6` in a session description.
    V6,
}

impl Family {
    /// The family of this address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One audio stream as its owner describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audio {
    /// Where its owner wants RTP; `None` for port 0 or the address 0.0.0.0 (RFC 2543 hold).
    pub rtp: Option<SocketAddr>,
    /// Where its owner wants RTCP: the address of its RTP where it wants both on one port (`a=rtcp-mux`, RFC 5761).
    pub rtcp: Option<SocketAddr>,
    /// The family of its address, that of a hold included; `None` for a host name, or none.
    pub family: Option<Family>,
    /// Payload types in order of preference.
    pub formats: Vec<String>,
    /// Attributes that travel across a relay: rtpmap, fmtp, ptime, maxptime.
    pub attributes: Vec<(String, String)>,
    /// Which way it flows, as its owner says.
    pub direction: Direction,
}

/// RFC 3264 section 5.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Both ways.
    SendRecv,
    /// The owner only sends.
    SendOnly,
    /// The owner only listens.
    RecvOnly,
    /// Neither.
    Inactive,
}

/// The G.711 laws, as far as sounds of our own need them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum G711 {
    /// PCMU.
    Mu,
    /// PCMA.
    A,
}

/// The encoding of pressed keys that we can read and renumber: at the clock rate of the telephone codecs (RFC 4733).
const TELEPHONE_EVENT: &str = "telephone-event/8000";
/// The payload type that most of them have.
const USUAL_EVENTS: u8 = 101;
/// Static payload types whose timestamps count at another rate than 8 kHz (RFC 3551 section 6).
const OTHER_CLOCKS: [&str; 6] = ["6", "10", "11", "14", "16", "17"];
/// Octets of a description: ours of it has to fit into one message.
const MAX_BODY: usize = 16_384;
/// Payload types of a stream, and attributes that are about them: there are no more than 128 numbers.
const MAX_FORMATS: usize = 128;
const MAX_ATTRIBUTES: usize = 256;
/// Lines with a key that are looked at.
const MAX_CRYPTO: usize = 16;

/// Why a description cannot be used: 488.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// Not SDP.
    Unreadable(String),
    /// No audio stream as it is permitted, on plain RTP or on SRTP with a key, or no speech in it that we can carry.
    NoAudio,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(why) => write!(f, "unreadable session description: {why}"),
            Self::NoAudio => f.write_str("no speech at 8 kHz on RTP/AVP, or on RTP/SAVP with a key that can be taken"),
        }
    }
}

impl Direction {
    const NAMES: [(&'static str, Self); 4] = [
        ("sendrecv", Self::SendRecv),
        ("sendonly", Self::SendOnly),
        ("recvonly", Self::RecvOnly),
        ("inactive", Self::Inactive),
    ];

    /// The attribute's name.
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(_, direction)| *direction == self).map_or("sendrecv", |(name, _)| name)
    }

    /// The same flow seen from the other side (RFC 3264 section 6.1).
    pub fn reversed(self) -> Self {
        match self {
            Self::SendOnly => Self::RecvOnly,
            Self::RecvOnly => Self::SendOnly,
            same => same,
        }
    }
}

impl Session {
    /// Reads a description, leniently: what does not matter to a relay may be broken. SRTP may be in it.
    pub fn read(body: &[u8]) -> Result<Self, Unusable> {
        Self::read_under(body, Srtp::Allow)
    }

    /// The same; what it may say of SRTP is told. Of several audio streams one with keys is preferred.
    pub fn read_under(body: &[u8], srtp: Srtp) -> Result<Self, Unusable> {
        if body.len() > MAX_BODY {
            return Err(Unusable::Unreadable(format!("more than {MAX_BODY} octets")));
        }
        let text = normalised(&String::from_utf8_lossy(body));
        let parsed = sdp_types::Session::parse(text.as_bytes()).map_err(|e| Unusable::Unreadable(e.to_string()))?;
        let lines = parsed.medias.iter().enumerate().filter(|(_, line)| line.media == "audio");
        // Port 0 is a refusal, and still an answer (RFC 3264 section 6).
        let usable = lines.filter_map(|(at, line)| {
            let (audio, crypto) = (Audio::of(line, &parsed), permitted(line, srtp)?);
            (line.port == 0 || audio.speaks()).then_some((at, line.port == 0, audio, crypto))
        });
        let chosen = usable.min_by_key(|(_, refused, _, crypto)| (*refused, crypto.is_empty()));
        let (audio_line, _, audio, crypto) = chosen.ok_or(Unusable::NoAudio)?;
        Ok(Self {
            lines: parsed.medias.iter().map(|m| (m.media.clone(), m.proto.clone(), m.fmt.clone())).collect(),
            audio_line,
            audio,
            crypto,
        })
    }

    /// The protocol of its audio stream, as its owner wrote it.
    fn protocol(&self) -> &str {
        self.lines.get(self.audio_line).map_or("", |(_, protocol, _)| protocol)
    }

    /// The offer we make when nobody has made one: both G.711 laws and telephone events.
    pub fn own_offer() -> Self {
        let attributes = [("rtpmap", "0 PCMU/8000"), ("rtpmap", "8 PCMA/8000"), ("rtpmap", "101 telephone-event/8000")];
        let attributes = attributes.into_iter().chain([("fmtp", "101 0-15"), ("ptime", "20")]);
        Self {
            lines: vec![("audio".into(), "RTP/AVP".into(), "0 8 101".into())],
            audio_line: 0,
            audio: Audio {
                rtp: None,
                rtcp: None,
                family: None,
                formats: ["0", "8", "101"].map(str::to_owned).to_vec(),
                attributes: attributes.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
                direction: Direction::SendRecv,
            },
            crypto: Vec::new(),
        }
    }
}

impl Audio {
    fn of(media: &Media, session: &sdp_types::Session) -> Self {
        let attributes = || media.attributes.iter().chain(&session.attributes);
        let direction = attributes().find_map(|a| {
            Direction::NAMES.iter().find(|(name, _)| a.attribute == *name).map(|(_, direction)| *direction)
        });
        let ip = media.connections.first().or(session.connection.as_ref()).and_then(address);
        let rtp = ip.filter(|ip| !ip.is_unspecified() && media.port != 0).map(|ip| SocketAddr::new(ip, media.port));
        let muxed = rtp.filter(|_| attributes().any(|a| a.attribute == "rtcp-mux"));
        let rtcp = muxed.or(attributes().find(|a| a.attribute == "rtcp").and_then(|a| rtcp(a, rtp)));
        let mut audio = Self {
            rtp,
            rtcp: rtcp.or(rtp.map(|rtp| SocketAddr::new(rtp.ip(), rtp.port().checked_add(1).unwrap_or(1)))),
            family: ip.map(Family::of),
            formats: media.fmt.split_whitespace().take(MAX_FORMATS).map(str::to_owned).collect(),
            attributes: media.attributes.iter().filter_map(kept).take(MAX_ATTRIBUTES).collect(),
            direction: direction.unwrap_or(Direction::SendRecv),
        };
        audio.formats = audio.formats.iter().filter(|format| audio.counts_at_8_khz(format)).cloned().collect();
        audio
    }

    /// Whether the timestamps of a payload type count as the relay does. What counts otherwise could not go on where
    /// another source stopped, and is not let through.
    fn counts_at_8_khz(&self, format: &str) -> bool {
        match self.encoding(format).split_once('/') {
            Some(("static", number)) => !OTHER_CLOCKS.contains(&number),
            Some((_, clock)) => clock.split('/').next() == Some("8000"),
            None => true,
        }
    }

    /// Whether there is a payload type for speech.
    fn speaks(&self) -> bool {
        self.formats.iter().any(|format| !self.encoding(format).starts_with("telephone-event"))
    }

    /// The encoding name of a payload type in lower case; static types need no rtpmap.
    pub fn encoding(&self, format: &str) -> String {
        let maps = self.attributes.iter().filter(|(name, _)| name == "rtpmap");
        let mapped = maps.filter_map(|(_, value)| value.split_once(' ')).find(|(number, _)| *number == format);
        match (mapped, format) {
            (Some((_, encoding)), _) => encoding.trim().to_ascii_lowercase(),
            (None, "0") => "pcmu/8000".to_owned(),
            (None, "8") => "pcma/8000".to_owned(),
            (None, "9") => "g722/8000".to_owned(),
            (None, "18") => "g729/8000".to_owned(),
            (None, other) => format!("static/{other}"),
        }
    }

    /// The payload type of telephone events.
    pub fn telephone_event(&self) -> Option<u8> {
        let format = self.formats.iter().find(|format| self.encoding(format) == TELEPHONE_EVENT)?;
        format.parse().ok().filter(|number| *number < 128)
    }

    /// Whether the two have a payload type for speech in common: same number, same encoding.
    pub fn shares_speech_with(&self, other: &Self) -> bool {
        let speech = |format: &&String| !self.encoding(format).starts_with("telephone-event");
        let known = |format: &String| other.formats.contains(format) && self.encoding(format) == other.encoding(format);
        self.formats.iter().filter(speech).any(known)
    }

    /// The first G.711 law among its formats: whoever names it takes it at any time (RFC 3264 section 6.1).
    pub fn g711(&self) -> Option<G711> {
        self.formats.iter().find_map(|format| match format.as_str() {
            "0" => Some(G711::Mu),
            "8" => Some(G711::A),
            _ => None,
        })
    }

    /// The one G.711 law among its formats, when the other is not there.
    pub fn only_law(&self) -> Option<G711> {
        let has = |format: &str| self.formats.iter().any(|known| known == format);
        match (has("0"), has("8")) {
            (true, false) => Some(G711::Mu),
            (false, true) => Some(G711::A),
            (true, true) | (false, false) => None,
        }
    }

    /// With the other G.711 law behind the one it has: the relay turns one into the other.
    #[must_use]
    pub fn with_both_laws(&self) -> Self {
        let (law, other) = match self.only_law() {
            Some(G711::Mu) => ("0", "8"),
            Some(G711::A) => ("8", "0"),
            None => return self.clone(),
        };
        let mut both = self.clone();
        let at = both.formats.iter().position(|format| format == law).map_or(0, |at| at + 1);
        both.formats.insert(at, other.to_owned());
        both
    }

    /// With telephone events where it has none: keys that come to us another way can be heard by them.
    #[must_use]
    pub fn with_telephone_events(&self) -> Self {
        let taken = |number: &u8| self.formats.iter().any(|format| *format == number.to_string());
        let free = std::iter::once(USUAL_EVENTS).chain(96..=127).find(|number| !taken(number));
        let mut with = self.clone();
        if let (None, Some(number)) = (self.telephone_event(), free) {
            let lines = [("rtpmap", format!("{number} {TELEPHONE_EVENT}")), ("fmtp", format!("{number} 0-15"))];
            with.formats.push(number.to_string());
            with.attributes.extend(lines.map(|(name, value)| (name.to_owned(), value)));
        }
        with
    }

    /// Whether its owner wants RTCP on the port of its RTP.
    pub fn is_muxed(&self) -> bool {
        self.rtp.is_some() && self.rtcp == self.rtp
    }

    /// Whether its owner wants to hear anything (RFC 3264 section 5.1).
    pub fn listens(&self) -> bool {
        self.rtp.is_some() && matches!(self.direction, Direction::SendRecv | Direction::RecvOnly)
    }

    /// Whether anything is to be heard from it.
    pub fn sends(&self) -> bool {
        self.rtp.is_some() && matches!(self.direction, Direction::SendRecv | Direction::SendOnly)
    }

    /// Whether its owner neither sends nor listens to more than silence.
    pub fn is_held(&self) -> bool {
        self.rtp.is_none() || self.direction != Direction::SendRecv
    }
}

fn is_plain_rtp(protocol: &str) -> bool {
    protocol.eq_ignore_ascii_case("RTP/AVP") || protocol.eq_ignore_ascii_case("RTP/AVPF")
}

/// The keys that an audio line offers, none for plain RTP; `None` when it is not what is permitted. Keys on `RTP/AVP` are
/// an offer of SRTP to whoever understands them (RFC 8643).
fn permitted(line: &Media, srtp: Srtp) -> Option<Vec<Crypto>> {
    let crypto = line.attributes.iter().filter(|attribute| attribute.attribute == "crypto");
    let crypto: Vec<Crypto> = match srtp {
        Srtp::Off => Vec::new(),
        Srtp::Allow | Srtp::Require => {
            crypto.filter_map(|it| Crypto::read(it.value.as_deref()?)).take(MAX_CRYPTO).collect()
        }
    };
    let understood = if crypto.is_empty() { is_plain_rtp(&line.proto) } else { is_rtp(&line.proto) };
    (understood && (srtp != Srtp::Require || !crypto.is_empty())).then_some(crypto)
}

fn is_rtp(protocol: &str) -> bool {
    let secured = ["RTP/SAVP", "RTP/SAVPF"];
    is_plain_rtp(protocol) || secured.iter().any(|name| protocol.eq_ignore_ascii_case(name))
}

fn address(connection: &Connection) -> Option<IpAddr> {
    connection.connection_address.split('/').next()?.trim().parse().ok()
}

/// `a=rtcp:port [IN IP4 address]` (RFC 3605).
fn rtcp(attribute: &Attribute, rtp: Option<SocketAddr>) -> Option<SocketAddr> {
    let mut words = attribute.value.as_deref()?.split_whitespace();
    let port = words.next()?.parse().ok().filter(|&port| port != 0)?;
    let ip = words.nth(2).and_then(|text| text.parse().ok()).or(rtp.map(|rtp| rtp.ip()))?;
    rtp.map(|_| SocketAddr::new(ip, port))
}

fn kept(attribute: &Attribute) -> Option<(String, String)> {
    let value = attribute.value.as_ref()?;
    let travels = ["rtpmap", "fmtp", "ptime", "maxptime"].contains(&attribute.attribute.as_str());
    travels.then(|| (attribute.attribute.clone(), value.trim().to_owned()))
}

/// Mends what the parser is strict about and a relay does not need: the origin line, doubled blanks in m-lines. What a
/// relay must not pass on, control characters inside a line, become blanks.
fn normalised(text: &str) -> String {
    let text = text.replace(|c: char| c.is_control() && c != '\n', " ");
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        match line.as_bytes() {
            [b'o', b'=', ..] => out.push_str("o=- 0 0 IN IP4 0.0.0.0"),
            [b'm', b'=', ..] => out.push_str(&line.split_whitespace().collect::<Vec<_>>().join(" ")),
            _ => out.push_str(line),
        }
        out.push_str("\r\n");
    }
    out
}
