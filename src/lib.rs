//! Switchback.

pub mod b2bua;
pub mod call;
pub mod leg;
