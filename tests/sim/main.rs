//! The simulated world: the core between scripted parties, in virtual time, without a socket and without a sleep.

mod api;
mod asapp;
mod audit;
mod chaos;
mod complaints;
mod context;
mod engine;
mod happy;
mod ladder;
mod media;
mod operator;
mod orders;
mod outbound;
mod peer;
mod races;
mod random;
mod relay;
mod robots;
mod security;
mod table;
mod text;
mod world;
