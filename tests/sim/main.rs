//! The simulated world: the core between scripted parties, in virtual time, without a socket and without a sleep.

mod asapp;
mod audit;
mod complaints;
mod engine;
mod happy;
mod ladder;
mod peer;
mod random;
mod relay;
mod text;
mod world;
