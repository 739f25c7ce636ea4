//! Switchback.

pub mod admin;
pub mod app;
pub mod asapp;
pub mod b2bua;
pub mod call;
pub mod clock;
pub mod config;
pub mod demo;
pub mod driver;
pub mod leg;
pub mod media;
pub mod sdp;
pub mod sip;
pub mod stage;
pub mod store;
pub mod telemetry;
