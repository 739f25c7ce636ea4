//! The real driver on loopback, against real peers: SIPp over TCP, hand-made octets on sockets,
//! TLS with certificates of a test's own authority.
#![allow(clippy::unwrap_used, reason = "the helpers are tests too")]

mod authority;
mod program;
mod secure;
mod sipp;
mod slow;
