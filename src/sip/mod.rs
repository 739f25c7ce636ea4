//! SIP: octets to messages and back, transactions, dialogs. It knows neither calls nor session descriptions.
//!
//! - [`wire`] cuts octets into a start line, header lines and a body, by position;
//! - [`header`] knows header names;
//! - [`value`] reads single values: URIs, name-addrs, Vias, CSeqs;
//! - [`message`] is what the rest of the program holds;
//! - [`validate`] says which answer a bad request deserves;
//! - [`mod@write`] builds messages and lets nothing unescaped onto the wire;
//! - [`ids`] makes tags, branches and Call-IDs from a seed;
//! - [`hop`] is where a message goes: transport, address, and the connection that is there already;
//! - [`locate`] finds the servers of a host name (RFC 3263), given the DNS's records;
//! - [`digest`] says who we are when we are asked, [`gate`] asks others;
//! - [`dialog`] is RFC 3261 section 12;
//! - [`refer`] is what a REFER says, and what is said of it;
//! - [`transaction`] is RFC 3261 section 17 with RFC 6026.

pub mod dialog;
pub mod digest;
pub mod gate;
pub mod header;
pub mod hop;
pub mod ids;
pub mod locate;
pub mod message;
pub mod refer;
pub mod transaction;
pub mod validate;
pub mod value;
pub mod wire;
pub mod write;
