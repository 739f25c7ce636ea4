//! The real driver on loopback, against real peers: SIPp over TCP, hand-made octets on sockets,
//! TLS with certificates of a test's own authority.
#![allow(clippy::unwrap_used, reason = "the helpers are tests too")]

mod authority;
mod keepalive;
mod program;
mod reset;
mod secure;
mod sipp;
mod slow;
mod srtp;
