//! The next hop of a message: a transport and an address, and on a stream the connection that is there already.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::value::Uri;

/// The way a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// RFC 3261 over UDP.
    Udp,
    /// RFC 3261 over TCP.
    Tcp,
    /// RFC 3261 over TLS over TCP.
    Tls,
}

impl Transport {
    /// Whether what is sent arrives, or the connection breaks: nothing is retransmitted.
    pub fn is_reliable(self) -> bool {
        !matches!(self, Self::Udp)
    }

    /// The word in Via.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }

    /// The port of a host that names none (RFC 3261 section 19.1.2).
    pub fn default_port(self) -> u16 {
        if self == Self::Tls { 5061 } else { 5060 }
    }

    /// The transport a URI asks for, if it does: `sips:` or `transport=` (RFC 3261 section 26.2.2: TLS is a scheme, but
    /// `transport=tls` lives on in the field).
    pub fn of_uri(uri: &Uri<'_>) -> Option<Self> {
        let param = uri.params.get("transport").map(str::to_ascii_lowercase);
        match param.as_deref() {
            _ if uri.scheme.eq_ignore_ascii_case("sips") => Some(Self::Tls),
            Some("udp") => Some(Self::Udp),
            Some("tcp") => Some(Self::Tcp),
            Some("tls") => Some(Self::Tls),
            _ => None,
        }
    }
}

/// Where a message goes, or came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hop {
    /// How.
    pub transport: Transport,
    /// The far address; on a stream, that of the connection to use if it is open.
    pub peer: SocketAddr,
    /// Where to open a connection when there is none with `peer`; `None`: to `peer` itself.
    pub otherwise: Option<SocketAddr>,
}

impl Hop {
    /// This address, and nowhere else.
    pub fn new(transport: Transport, peer: SocketAddr) -> Self {
        Self { transport, peer, otherwise: None }
    }

    /// The far host.
    pub fn ip(&self) -> IpAddr {
        self.peer.ip()
    }

    /// Whether a failure of the way to `peer` is a failure of this hop.
    pub fn meets(&self, transport: Transport, peer: SocketAddr) -> bool {
        self.transport == transport && (self.peer == peer || self.otherwise == Some(peer))
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.transport.as_str(), self.peer)
    }
}
