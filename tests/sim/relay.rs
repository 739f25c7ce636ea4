//! A model of the relay: it carries nothing, but knows who would hear what.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use switchback::b2bua::io::{EventTypes, Keys, Law, MediaCommand, PortPair, Sound};
use switchback::call::CallRef;

/// One open port pair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pair {
    /// Where its far side is.
    pub far: Option<SocketAddr>,
    /// Where its far side wants RTCP.
    pub rtcp: Option<SocketAddr>,
    /// What the far side hears.
    pub hears: Hears,
    /// What it hears in place of its peer.
    pub cover: Option<Sound>,
    /// Its far side does not listen.
    pub held: bool,
    /// The payload types of telephone events.
    pub events: Option<EventTypes>,
    /// The only G.711 law that the far side hears.
    pub law: Option<Law>,
    /// What its packets are protected with.
    pub keys: Option<Keys>,
    /// The keys that it was told to say.
    pub pressed: String,
    /// The silence that is reported.
    pub watch: Option<Duration>,
    /// It has been, and its end would be.
    pub silent: bool,
    /// The call into whose recording goes what its far side says and hears.
    pub recorded: Option<CallRef>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hears {
    #[default]
    Nothing,
    Sound(Sound),
    Pair(PortPair),
}

#[derive(Debug, Default)]
pub struct Relay {
    pairs: BTreeMap<PortPair, Pair>,
    draining: BTreeSet<PortPair>,
    /// Recordings that are not over.
    pub tapes: BTreeSet<CallRef>,
    /// Pairs that were used while they drained.
    pub misused: Vec<PortPair>,
}

impl Relay {
    /// Obeys; true when the pair was closed and owes `Closed` and `Quiet`.
    pub fn obey(&mut self, command: &MediaCommand) -> bool {
        self.check(command);
        match *command {
            MediaCommand::Secure { pair, ref keys } => self.pairs.entry(pair).or_default().keys = keys.clone(),
            MediaCommand::Expect { pair, rtp, rtcp, .. } => {
                let model = self.pairs.entry(pair).or_default();
                (model.far, model.rtcp) = (Some(rtp), Some(rtcp));
            }
            MediaCommand::Bridge(a, b) => {
                [a, b].into_iter().for_each(|pair| self.part(pair));
                self.pairs.entry(a).or_default().hears = Hears::Pair(b);
                self.pairs.entry(b).or_default().hears = Hears::Pair(a);
            }
            MediaCommand::Play { pair, sound, .. } => {
                self.silence_peer_of(pair);
                self.pairs.entry(pair).or_default().hears = Hears::Sound(sound);
            }
            MediaCommand::Cover { pair, sound } => {
                self.pairs.entry(pair).or_default().cover = sound.map(|(sound, _)| sound);
            }
            MediaCommand::Law { pair, law } => self.pairs.entry(pair).or_default().law = law,
            MediaCommand::Events { pair, types } => self.pairs.entry(pair).or_default().events = types,
            MediaCommand::Hold { pair, held } => self.pairs.entry(pair).or_default().held = held,
            MediaCommand::Watch { pair, limit } => {
                let watched = self.pairs.entry(pair).or_default();
                (watched.watch, watched.silent) = (limit, false);
            }
            MediaCommand::Record { pair, call } => {
                self.pairs.entry(pair).or_default().recorded = Some(call);
                self.tapes.insert(call);
            }
            MediaCommand::Pause { pair, .. } => self.pairs.entry(pair).or_default().recorded = None,
            MediaCommand::Press { pair, digit, .. } => self.pairs.entry(pair).or_default().pressed.push(digit.key()),
            MediaCommand::EndRecording { call, .. } => {
                self.tapes.remove(&call);
            }
            MediaCommand::Close(pair) => {
                self.silence_peer_of(pair);
                self.pairs.remove(&pair);
                self.draining.insert(pair);
                return true;
            }
        }
        false
    }

    /// Nothing arrives on the pair any more: it may be lent again.
    pub fn quiet(&mut self, pair: PortPair) {
        self.draining.remove(&pair);
    }

    fn check(&mut self, command: &MediaCommand) {
        let named = match *command {
            MediaCommand::Bridge(a, b) => vec![a, b],
            MediaCommand::Expect { pair, .. }
            | MediaCommand::Secure { pair, .. }
            | MediaCommand::Play { pair, .. }
            | MediaCommand::Cover { pair, .. }
            | MediaCommand::Hold { pair, .. }
            | MediaCommand::Events { pair, .. }
            | MediaCommand::Law { pair, .. }
            | MediaCommand::Press { pair, .. }
            | MediaCommand::Watch { pair, .. }
            | MediaCommand::Record { pair, .. }
            | MediaCommand::Pause { pair, .. }
            | MediaCommand::Close(pair) => vec![pair],
            MediaCommand::EndRecording { .. } => Vec::new(),
        };
        self.misused.extend(named.into_iter().filter(|pair| self.draining.contains(pair)));
    }

    /// Whoever it talked to hears nothing any more.
    fn part(&mut self, pair: PortPair) {
        self.silence_peer_of(pair);
        self.pairs.entry(pair).or_default().hears = Hears::Nothing;
    }

    fn silence_peer_of(&mut self, pair: PortPair) {
        for other in self.pairs.values_mut().filter(|other| other.hears == Hears::Pair(pair)) {
            other.hears = Hears::Nothing;
        }
    }

    /// Nothing arrives from the far side any more, or it does again; true when that is reported. As in the relay a new
    /// watch knows nothing of the silence before it.
    pub fn hush(&mut self, pair: PortPair, silent: bool) -> bool {
        let watched = self.pairs.get_mut(&pair).filter(|pair| pair.watch.is_some());
        watched.is_some_and(|pair| std::mem::replace(&mut pair.silent, silent) != silent)
    }

    /// Open pairs: those that were told anything and not closed.
    pub fn open(&self) -> usize {
        self.pairs.len()
    }

    /// Every open pair.
    pub fn pairs(&self) -> impl Iterator<Item = (&PortPair, &Pair)> {
        self.pairs.iter()
    }

    /// The pair whose far side receives at this address.
    pub fn towards(&self, far: SocketAddr) -> Option<(PortPair, &Pair)> {
        self.pairs.iter().find(|(_, pair)| pair.far == Some(far)).map(|(port, pair)| (*port, pair))
    }

    pub fn pair(&self, port: PortPair) -> Option<&Pair> {
        self.pairs.get(&port)
    }

    pub fn bridged(&self) -> Vec<(PortPair, PortPair)> {
        let both = |(a, pair): (&PortPair, &Pair)| match pair.hears {
            Hears::Pair(b) if *a < b => Some((*a, b)),
            _ => None,
        };
        self.pairs.iter().filter_map(both).collect()
    }
}
