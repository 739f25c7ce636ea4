//! Switchback.

pub mod admin;
pub mod b2bua;
pub mod call;
pub mod clock;
pub mod config;
pub mod leg;
pub mod sip;
pub mod store;
pub mod telemetry;
