//! What the second opinion has against our wire.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// A datagram that rsip, our second opinion, could not accept.
#[derive(Debug, Clone)]
pub struct Complaint {
    /// Who sent it.
    pub source: SocketAddr,
    /// What is wrong with it, in one line.
    pub error: String,
    /// The datagram.
    pub bytes: Vec<u8>,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = String::from_utf8_lossy(&self.bytes);
        write!(f, "from {}: {} in \"{}\"", self.source, self.error, start.lines().next().unwrap_or_default())
    }
}

/// The complaints of one party, shared with whoever wants to look while it runs.
#[derive(Debug, Clone, Default)]
pub struct Complaints(Arc<Mutex<Vec<Complaint>>>);

impl Complaints {
    /// Those so far.
    pub fn list(&self) -> Vec<Complaint> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn push(&self, complaint: Complaint) {
        tracing::error!(%complaint, "rsip cannot read what we were sent");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(complaint);
    }
}
