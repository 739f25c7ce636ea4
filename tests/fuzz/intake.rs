//! Any octets as User-to-User and as each header of intake.
#![no_main]
#![allow(dead_code, reason = "each target takes one check of the shared file")]

#[path = "../fixtures/checks.rs"]
mod checks;
#[path = "../fixtures/stage.rs"]
mod stage;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    checks::intake(octets);
});
