//! ASAPP's call-transfer API: one HTTP exchange for each [`ApiRequest`](crate::b2bua::io::ApiRequest), and always
//! one [`ApiReply`](crate::b2bua::io::ApiReply).
//!
//! Nothing here decides. Retries, budgets, the circuit breaker and the request rate belong to the core; this adapter
//! only says what became of one exchange, and above all whether a request that failed may have taken effect.

mod client;
mod names;
mod wire;

pub use client::{AsappClient, AsappSettings, SettingsError};
pub use names::FindHost;
