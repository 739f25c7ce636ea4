//! Switchback.

pub mod asapp;
pub mod b2bua;
pub mod call;
pub mod clock;
pub mod demo;
pub mod leg;
pub mod sdp;
pub mod sip;
