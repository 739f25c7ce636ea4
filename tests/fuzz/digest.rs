//! Any text to the readers of challenges and of credentials.
#![no_main]
#![allow(dead_code, reason = "each target takes one check of the shared file")]

#[path = "../fixtures/checks.rs"]
mod checks;
#[path = "../fixtures/stage.rs"]
mod stage;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    checks::digest(octets);
});
