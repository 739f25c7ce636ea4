//! What is kept: call records and resumable conversations on disk, contexts in memory for an hour.

pub mod contexts;
pub mod conversations;
pub mod records;
