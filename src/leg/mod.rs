//! The leg: one dialog and every race of it.

use serde::Serialize;

/// Which leg of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LegRole {
    /// The customer, through the IVR, PBX or SBC.
    Customer,
    /// GenerativeAgent, through the trunk.
    GenerativeAgent,
}

/// Media counters of one leg's port pair since it was lent. Packets and octets are RTP; octets count UDP payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MediaCounters {
    /// RTP packets accepted from the far side.
    pub received_packets: u64,
    /// Their octets.
    pub received_octets: u64,
    /// RTP packets sent to the far side, our own sounds included.
    pub sent_packets: u64,
    /// Their octets.
    pub sent_octets: u64,
    /// RTCP packets accepted.
    pub received_rtcp: u64,
    /// Packets dropped because their source was not the one expected or learned.
    pub foreign_packets: u64,
    /// Packets dropped because they were not RTP or RTCP.
    pub invalid_packets: u64,
}
