//! Timers keep the standard's letters (RFC 3261 Table 4, RFC 6026 section 7.3).

/// What happens when it fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// INVITE client, Calling: send the INVITE again, double the wait.
    A,
    /// INVITE client, Calling: no answer at all.
    B,
    /// INVITE client, Completed: stop acknowledging repeats.
    D,
    /// Client: send the request again, double up to T2.
    E,
    /// Client: no final answer.
    F,
    /// INVITE server, Completed: send the response again, double up to T2.
    G,
    /// INVITE server, Completed: no ACK came.
    H,
    /// INVITE server, Confirmed: stop absorbing ACKs.
    I,
    /// Server, Completed: stop answering repeats.
    J,
    /// Client, Completed: stop absorbing repeats.
    K,
    /// INVITE server, Accepted: stop absorbing repeated INVITEs.
    L,
    /// INVITE client, Accepted: stop passing up repeated 2xx.
    M,
}

impl Timer {
    /// Every letter.
    pub const ALL: [Self; 12] =
        [Self::A, Self::B, Self::D, Self::E, Self::F, Self::G, Self::H, Self::I, Self::J, Self::K, Self::L, Self::M];
}
