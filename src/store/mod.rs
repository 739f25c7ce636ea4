//! What is kept: call records on disk, contexts in memory for an hour.

pub mod contexts;
pub mod records;
