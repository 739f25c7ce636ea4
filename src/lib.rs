//! Switchback.

pub mod b2bua;
pub mod call;
pub mod clock;
pub mod leg;
pub mod media;
