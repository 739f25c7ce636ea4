//! Switchback.

pub mod admin;
pub mod asapp;
pub mod b2bua;
pub mod call;
pub mod clock;
pub mod config;
pub mod demo;
pub mod leg;
pub mod sdp;
pub mod sip;
pub mod store;
pub mod telemetry;
