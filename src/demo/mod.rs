//! The other parties of a call, each usable alone.

pub mod asapp;
