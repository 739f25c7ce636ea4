//! Any octets to the readers of Refer-To, Replaces, Event, Subscription-State and message fragments.
#![no_main]
#![allow(dead_code, reason = "each target takes one check of the shared file")]

#[path = "../fixtures/checks.rs"]
mod checks;
#[path = "../fixtures/stage.rs"]
mod stage;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    checks::refer(octets);
});
