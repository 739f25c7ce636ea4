//! The built program on loopback, with SIPp as the IVR and as the carrier. Tests are named after the flows they play.
#![allow(clippy::unwrap_used, reason = "the harness is part of the tests")]

mod asked;
mod awkward;
mod capture;
mod ending;
mod escape;
mod floods;
mod happy;
mod heavy;
mod load;
mod memory;
mod names;
mod onward;
mod races;
mod readers;
mod recording;
mod refer;
mod resume;
mod rtp;
mod setup;
mod sipp;
mod sounds;
mod stage;
mod strangers;
mod takeover;
mod trunks;
mod tshark;
mod unbroken;
mod unruly;
mod wire;
