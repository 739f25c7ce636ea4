//! A place to look at every datagram a mock party sends or receives.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::clock;

/// What a datagram carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// A SIP message.
    Sip,
    /// An RTP packet.
    Rtp,
}

/// One datagram as the party saw it pass its socket.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When, on the monotonic clock.
    pub at: Instant,
    /// Its source.
    pub from: SocketAddr,
    /// Its destination.
    pub to: SocketAddr,
    /// What it carries.
    pub traffic: Traffic,
    /// True if the party sent it, false if the party received it.
    pub sent: bool,
    /// The payload.
    pub bytes: Bytes,
}

/// A listener on a party's wire; the default listens to nothing. It is called on the wire's path and must be quick.
#[derive(Clone, Default)]
pub struct Tap(Option<Arc<dyn Fn(Seen) + Send + Sync>>);

impl Tap {
    /// Calls `listener` with every datagram.
    pub fn new(listener: impl Fn(Seen) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(listener)))
    }

    /// Reports a datagram that left `local` for `peer`.
    pub fn sent(&self, traffic: Traffic, local: SocketAddr, peer: SocketAddr, bytes: &[u8]) {
        self.tell(Seen { at: clock::now(), from: local, to: peer, traffic, sent: true, bytes: Bytes::new() }, bytes);
    }

    /// Reports a datagram that came from `peer` to `local`.
    pub fn received(&self, traffic: Traffic, local: SocketAddr, peer: SocketAddr, bytes: &[u8]) {
        self.tell(Seen { at: clock::now(), from: peer, to: local, traffic, sent: false, bytes: Bytes::new() }, bytes);
    }

    fn tell(&self, seen: Seen, bytes: &[u8]) {
        if let Some(listener) = &self.0 {
            listener(Seen { bytes: Bytes::copy_from_slice(bytes), ..seen });
        }
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Tap(listening)" } else { "Tap(idle)" })
    }
}
