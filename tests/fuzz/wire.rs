//! Any octets to the wire reader, the validation and the readers of values.
#![no_main]
#![allow(dead_code, reason = "each target takes one check of the shared file")]

#[path = "../fixtures/checks.rs"]
mod checks;
#[path = "../fixtures/stage.rs"]
mod stage;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    checks::wire(octets);
});
