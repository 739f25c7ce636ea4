//! The real driver on loopback, against real peers: SIPp over TCP, hand-made octets on sockets.
#![allow(clippy::unwrap_used, reason = "the helpers are tests too")]

mod program;
mod sipp;
mod slow;
