//! The one file that reads the clocks. Pure folders never import it: they are told the time.
#![expect(clippy::disallowed_methods, reason = "this is the file that reads the clocks")]

use std::time::{Instant, SystemTime};

use crate::b2bua::io::Epoch;

/// The monotonic clock.
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock, milliseconds since the Unix epoch.
pub fn unix_ms() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Both clocks at one moment.
pub fn epoch() -> Epoch {
    Epoch { instant: now(), unix_ms: unix_ms() }
}
