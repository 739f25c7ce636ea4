//! Switchback lends a customer's call to ASAPP's GenerativeAgent and hands it back.
//!
//! It is a SIP back-to-back user agent. A call from an IVR, PBX or SBC reaches it (the *customer leg*); it asks ASAPP's
//! API for a temporary number, dials it (the *GenerativeAgent leg*), answers the customer when GenerativeAgent answers,
//! stays in the media path, and when one leg ends it knows which and why: the *verdict*. GenerativeAgent's BYE leads to
//! the outputContext and, by rules, back to the IVR or on to the next party (the *onward leg*); the customer's BYE leads
//! to the end. One record per call, whatever happens.
//!
//! # The map
//!
//! A call decides, a leg owes, a transaction repeats. Whoever looks for a piece of behaviour asks which of the three it
//! is, and has found the room.
//!
//! | room | what is there | pure |
//! |---|---|---|
//! | [`call`] | the supervised transfer: states, verdict, dial ticket, context. Knows the product and no SIP | yes |
//! | [`leg`] | one dialog and every race of it: UAS, UAC, established, offer and answer | yes |
//! | [`sdp`] | session descriptions, and our relay put into them | yes |
//! | [`sip`] | messages, values, validation, dialogs, transactions | yes |
//! | [`b2bua`] | all of these as one object; its boundary is [`b2bua::io`] | yes |
//! | [`driver`] | the loop between that object and the world; SIP sockets | |
//! | [`media`] | the relay: RTP and RTCP on threads of its own | |
//! | [`asapp`] | ASAPP's API over HTTP, one exchange at a time | |
//! | [`webhooks`] | services of the customer's that say where a call goes | |
//! | [`store`] | call records, contexts, resumable conversations | |
//! | [`admin`] | health, metrics, live calls, contexts, conversations | |
//! | [`demo`] | mock parties, each usable alone; [`stage`] puts the program between them | |
//! | [`app`] | the one place that knows every adapter | |
//! | [`config`], [`telemetry`], [`clock`] | one file each | |
//!
//! *Pure* means: no clock, no socket, no thread, no lock, no async, no entropy. Time is an argument, ids come from a
//! seed, effects are values. So the whole core is played on virtual time, and a call can be replayed from its inputs.
//! `tests/architecture.rs` holds these edges.
//!
//! # Where to look
//!
//! - What happens when GenerativeAgent hangs up? `bridged` in `src/call/step.rs`, and the two functions below it.
//! - Where does the customer go then, or when GenerativeAgent is never reached? [`call::rules`] names the ladder,
//!   `src/call/handback.rs` climbs it.
//! - What is GenerativeAgent told of a call that no API knows of? `src/call/input.rs`.
//! - What is a receiver sent, and in which form? [`call::context`]; what known ones read is in `src/config/presets.toml`.
//! - What may become a dial string, and until when? [`call::ticket`].
//! - What may become of a REFER of ours? `src/leg/refer.rs`. How is it written? [`sip::refer`].
//! - A CANCEL crosses a 200, a BYE overtakes an ACK? [`leg::uac`] and [`leg::established`].
//! - Who are we when a trunk asks, and who is it that calls? [`sip::digest`], [`sip::gate`].
//! - Which trunk takes a call, and where are its servers? [`b2bua::trunks`], [`sip::locate`].
//! - GenerativeAgent brings a customer back by an INVITE of its own? `src/b2bua/returning.rs`.
//! - Which message belongs to whom? `src/b2bua/route.rs`. What becomes of an intent? `src/b2bua/act.rs`.
//! - Who is let in, and how does a call begin? `src/b2bua/door.rs`. What is the relay told? `src/b2bua/audio.rs`.
//! - What of one leg's headers may the other leg's peer see? [`b2bua::headers`].
//! - Who takes the customer's place in a call? `src/call/succession.rs` decides, `src/b2bua/takeover.rs` does it.
//! - A REFER outside every call asks for one? `src/b2bua/referrers.rs`, then `inviting` in `src/call/step.rs`.
//! - Does a call lead back to us? `has_come_round` in `src/b2bua/route.rs`, and `src/b2bua/reentries.rs`.
//! - Which conversation is a call part of? [`call::intake`]. What is remembered of it? `src/b2bua/memory.rs`.
//! - Which keys take a call back from GenerativeAgent? [`call::escape`]; how are they heard? [`media::digits`].
//! - Whom does a media port listen to? [`media::latch`]. What keeps a stream one? [`media::stream`].
//! - Which calls are recorded? [`call::recording`]; what is in the file? [`media::tape`], written by [`media::recorder`].
//! - Where do SRTP keys come from, and where do they go? [`leg::keys`], [`media::srtp`].
//!
//! # The life of a call
//!
//! ```text
//! Requesting -> Dialing -> Bridged -> Collecting -> HandingBack -> Releasing -> Ended
//!  POST for a    INVITE,    both       GenerativeAgent  BYE, dial     legs owe    one
//!  number        ringing    talk       hung up: GET     onward ...    a word      record
//! ```
//!
//! A customer whom a REFER names is called first, in `Inviting`, and asks for a number with its answer.
//!
//! # What always holds
//!
//! - Every request is answered and every 2xx acknowledged; a leg says at most one `Answered` and exactly one last word.
//! - No INVITE to a number leaves after the number's last safe moment, and no number is dialled twice.
//! - GenerativeAgent's BYE is answered before anybody asks why it came.
//! - Nothing that a caller or the language model wrote becomes a dial string, a header name or a second header.
//! - No customer is let go because a way on failed: the next rung follows at once, and the last one cannot fail.
//! - Every call ends with exactly one record, and every port, timer and index goes back to where it was.

pub mod admin;
pub mod app;
pub mod asapp;
pub mod b2bua;
pub mod call;
pub mod clock;
pub mod config;
pub mod demo;
pub mod driver;
pub mod leg;
pub mod media;
pub mod sdp;
pub mod sip;
pub mod stage;
pub mod store;
pub mod telemetry;
pub mod webhooks;
