//! The signalling core as one object.

pub mod counters;
pub mod io;
pub mod settings;
