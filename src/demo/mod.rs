//! The mock parties of `switchback demo`, each usable alone.
//!
//! - [`ivr`]: the customer's side, which calls Switchback and gets the call back;
//! - [`genagent`]: the far side, which answers as the carrier and GenerativeAgent would;
//! - [`asapp`]: ASAPP's API, which hands out numbers and contexts, and misbehaves on demand;
//! - [`party`]: the SIP endpoint both are made of. It speaks through rsip, which shares no line with our own wire
//!   reader: whatever rsip cannot read of what Switchback sent is reported as a [`Complaint`](complaint::Complaint);
//! - [`rtp`] and [`voice`]: what they say and what they hear;
//! - [`load`]: many of them at once, with every packet accounted for;
//! - [`ladder`], [`wav`] and [`pcap`]: what a person looks at afterwards. They know neither tokio nor each other.
//!
//! The parties speak IPv4 only, because rsip 0.4 can neither read nor write an IPv6 host.

pub mod asapp;
pub mod complaint;
pub mod endpoint;
pub mod genagent;
pub mod hooks;
pub mod ivr;
pub mod ladder;
pub mod load;
pub mod message;
pub mod party;
pub mod pcap;
pub mod rtp;
pub mod sdp;
pub mod tap;
pub mod voice;
pub mod wav;

#[cfg(test)]
mod loopback;
