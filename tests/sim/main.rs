//! The simulated world: the core between scripted parties, in virtual time, without a socket and without a sleep.
//!
//! - the stage: `world` (what a flow sees), `engine` (time, lanes, what is in flight), `relay` (who hears whom),
//!   `audit` (what must hold whatever happens), `complaints` (no unexpected WARN), `ladder`, `random`;
//! - the parties: `peer` and `asapp` follow a script, `robots` live on their own; `text` is their SIP;
//! - the flows, named after their lines: `happy`, `ladders`, `first`, `api`, `context`, `outbound`, `guard`, `races`,
//!   `media`, `memory`, `refer`, `ways`, `loops`, `headers`, `replaces`, `security`, `challenge`, `floods`, `operator`,
//!   `escape`, `recording`;
//! - the nets: `table` (every event in every state), `orders` (every order of arrival), `expiry` (every order around a
//!   number's end), `chaos` (ten thousand calls).
//!
//! `UPDATE_LADDERS=1` keeps new ladders (`sip-fixtures/ladders/`) and the new table. A golden is an expectation: read it
//! before you keep it.

mod api;
mod asapp;
mod asked;
mod audit;
mod challenge;
mod chaos;
mod complaints;
mod context;
mod digest;
mod engine;
mod escape;
mod expiry;
mod families;
mod first;
mod floods;
mod glare;
mod guard;
mod happy;
mod headers;
mod introduce;
mod ladder;
mod ladders;
mod loops;
mod media;
mod memory;
mod offers;
mod operator;
mod orders;
mod outbound;
mod peer;
mod profiles;
mod provisional;
mod races;
mod random;
mod rate;
mod recording;
mod refer;
mod relay;
mod replaces;
mod robots;
mod security;
mod srtp;
mod table;
mod text;
mod timers;
mod transports;
mod trunks;
mod ways;
mod webhooks;
mod world;
