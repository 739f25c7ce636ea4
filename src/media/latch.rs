//! Whom a port listens to: the address the session description announced, or a source learned in its place.
//!
//! ```text
//!            expect                    announced speaks
//!   Shut ───────────────► Open ───────────────────────────► Settled
//!     ▲                    │ ▲ │ candidate consistent          │
//!     │                    │ │ └► learned, still Open          │
//!     └──── shut ──────────┘ └─────────── expect ──────────────┘
//! ```
//!
//! - The announced address is believed at once and always: it replaces whoever was learned before it spoke. Once it
//!   has spoken nobody else is learned until the next `expect`.
//! - Another port of the announced host is learned after `NEAR_RUN` consistent packets.
//! - The host that the signalling of the leg comes from is learned in place of any other, after `FAR_RUN`: a NAT that hides
//!   the one hides the other.
//! - Yet another host is learned only in place of a private address, after `FAR_RUN`. In place of a public one nothing
//!   tells the far side from a stranger who floods the port before it speaks (flow M2).
//! - After somebody is learned, a nearer source may still replace him for the learning window; then nobody but the
//!   announced address may, and the signalling's host in place of one that is neither. As long as nobody was heard
//!   learning stays open, however late the first packet comes.
//! - A source of the pair's earlier life ([`Stale`]) is never learned. One that was learned under another description of
//!   this life is, when that description comes again, and is believed at once.
//!
//! Consistent means same source, same SSRC, sequence numbers in order without a gap (RFC 3550 A.1's probation).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Consistent packets that make another port of the announced host known.
const NEAR_RUN: u8 = 2;
/// Consistent packets that make another host known: 40 ms after its first at 20 ms a packet.
const FAR_RUN: u8 = 3;
/// Sources watched at once while learning; more are ignored until one falls silent.
const CANDIDATES: usize = 4;
/// A candidate this long silent gives its place to another.
const CANDIDATE_LIFE: Duration = Duration::from_millis(200);
/// After a new description repeats the announced address of a known far side, its packets get this long to arrive
/// before anybody else may be learned.
const PRECEDENCE: Duration = Duration::from_millis(200);

/// What learning looks at in an RTP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Synchronisation source.
    pub ssrc: u32,
    /// Sequence number.
    pub sequence: u16,
}

/// What the latch makes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Not whom we listen to.
    Foreign,
    /// Its source is learned: listen to it and send there, until told otherwise.
    Learned,
    /// The announced address itself: nobody else from now on.
    Settled,
}

/// The state of one RTP port; see the module.
#[derive(Debug, Default)]
pub enum Latch {
    /// No far side is known: everything is foreign.
    #[default]
    Shut,
    /// A far side was announced and has not spoken from there.
    Open(Box<Open>),
    /// The announced address has spoken.
    Settled(SocketAddr),
}

/// Learning.
#[derive(Debug)]
pub struct Open {
    announced: SocketAddr,
    /// The host that the signalling comes from.
    signalled: Option<IpAddr>,
    /// Learned before the description was repeated; believed at once when it goes on.
    incumbent: Option<SocketAddr>,
    /// Nobody is learned before this.
    from: Instant,
    learned: Option<Learned>,
    candidates: [Option<Candidate>; CANDIDATES],
}

/// How far a source is from the announced address; the nearer is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Distance {
    Far,
    Signalled,
    Near,
}

#[derive(Debug, Clone, Copy)]
struct Learned {
    source: SocketAddr,
    distance: Distance,
    at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    source: SocketAddr,
    distance: Distance,
    mark: Mark,
    run: u8,
    /// When its packets were consistent last.
    at: Instant,
}

impl Latch {
    /// A description announced this address. Where it repeats the last one, the source learned under that stays
    /// believable, as is the one learned under it `before` yet another came; and a far side that has spoken keeps precedence
    /// for a moment.
    pub fn expect(
        &mut self,
        announced: SocketAddr,
        signalled: Option<IpAddr>,
        before: Option<SocketAddr>,
        now: Instant,
    ) {
        let (incumbent, known) = match self {
            Self::Open(open) if open.announced == announced => {
                let incumbent = open.learned.map(|learned| learned.source).or(open.incumbent);
                (incumbent, incumbent.is_some())
            }
            Self::Settled(settled) if *settled == announced => (None, true),
            Self::Settled(_) | Self::Shut | Self::Open(_) => (before, before.is_some()),
        };
        let from = if known { now + PRECEDENCE } else { now };
        let candidates = [None; CANDIDATES];
        *self = Self::Open(Box::new(Open { announced, signalled, incumbent, from, learned: None, candidates }));
    }

    /// The far side is forgotten.
    pub fn shut(&mut self) {
        *self = Self::Shut;
    }

    /// The address the last description announced.
    pub fn announced(&self) -> Option<SocketAddr> {
        match self {
            Self::Shut => None,
            Self::Open(open) => Some(open.announced),
            Self::Settled(announced) => Some(*announced),
        }
    }

    /// Whether a packet from this source could be listened to at all, now or after more of them.
    pub fn may_hear(&self, source: SocketAddr, stale: &Stale) -> bool {
        match self {
            Self::Shut => false,
            Self::Settled(announced) => *announced == source,
            Self::Open(open) if open.announced == source => true,
            Self::Open(open) => open.distance(source.ip()).is_some_and(|distance| {
                let nearer = |present: Learned| present.source == source || distance > present.distance;
                open.learned.is_none_or(nearer) && !stale.contains(source)
            }),
        }
    }

    /// Judges an RTP packet from a source not yet accepted.
    pub fn hear(&mut self, source: SocketAddr, mark: Mark, now: Instant, window: Duration, stale: &Stale) -> Heard {
        match self {
            Self::Shut => Heard::Foreign,
            Self::Settled(announced) if *announced == source => Heard::Settled,
            Self::Settled(_) => Heard::Foreign,
            Self::Open(open) if open.announced == source => {
                *self = Self::Settled(source);
                Heard::Settled
            }
            Self::Open(_) if stale.contains(source) => Heard::Foreign,
            Self::Open(open) => open.hear(source, mark, now, window),
        }
    }
}

impl Open {
    fn hear(&mut self, source: SocketAddr, mark: Mark, now: Instant, window: Duration) -> Heard {
        let Some(distance) = self.distance(source.ip()) else { return Heard::Foreign };
        if self.learned.is_some_and(|present| present.source == source) {
            return Heard::Learned;
        }
        if self.incumbent.take_if(|incumbent| *incumbent == source).is_some() {
            return self.learn(source, distance, now);
        }
        if !self.may_learn(distance, now, window) {
            return Heard::Foreign;
        }
        let needed = if distance == Distance::Near { NEAR_RUN } else { FAR_RUN };
        if self.run(source, distance, mark, now) < needed || now < self.from {
            return Heard::Foreign;
        }
        self.learn(source, distance, now)
    }

    fn learn(&mut self, source: SocketAddr, distance: Distance, at: Instant) -> Heard {
        self.learned = Some(Learned { source, distance, at });
        Heard::Learned
    }

    /// True while nobody is learned, and for nearer sources within the window after somebody was.
    fn may_learn(&self, distance: Distance, now: Instant, window: Duration) -> bool {
        self.learned.is_none_or(|present| {
            let certain = (present.distance, distance) == (Distance::Far, Distance::Signalled);
            distance > present.distance && (certain || now < present.at + window)
        })
    }

    /// `None` when a source so far off may not be learned at all.
    fn distance(&self, source: IpAddr) -> Option<Distance> {
        if source == self.announced.ip() {
            Some(Distance::Near)
        } else if self.signalled == Some(source) {
            Some(Distance::Signalled)
        } else {
            is_private(self.announced.ip()).then_some(Distance::Far)
        }
    }

    /// How many consistent packets this source has now sent in a row; 0 when all places are taken. A place is free when its
    /// source has not been consistent for long, or is farther.
    fn run(&mut self, source: SocketAddr, distance: Distance, mark: Mark, now: Instant) -> u8 {
        let known = self.candidates.iter_mut().flatten().find(|candidate| candidate.source == source);
        if let Some(candidate) = known {
            let next = Mark { sequence: candidate.mark.sequence.wrapping_add(1), ..candidate.mark };
            let (run, at) = if mark == next { (candidate.run.saturating_add(1), now) } else { (1, candidate.at) };
            *candidate = Candidate { mark, run, at, ..*candidate };
            return run;
        }
        let over = |candidate: Candidate| candidate.at + CANDIDATE_LIFE <= now;
        let farther = |candidate: Candidate| candidate.distance < distance;
        let place = self.candidates.iter().position(|place| place.is_none_or(over));
        let place = place.or_else(|| self.candidates.iter().position(|place| place.is_some_and(farther)));
        let Some(place) = place else { return 0 };
        self.candidates[place] = Some(Candidate { source, distance, mark, run: 1, at: now });
        1
    }
}

/// True for addresses that mean nothing outside their own network: RFC 1918, RFC 6598, RFC 4193.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// Sources that are not to be learned, newest last: those heard in a pair's earlier life, whose streams must not reach the
/// next call (M12), and those whose place a new description has given to another (M3).
#[derive(Debug, Default)]
pub struct Stale(Vec<Past>);

#[derive(Debug)]
struct Past {
    source: SocketAddr,
    /// The address of this life in whose place it was accepted.
    announced: Option<SocketAddr>,
    heard: Instant,
}

impl Stale {
    const LIMIT: usize = 8;

    /// Remembers a source; the longest unheard makes room.
    pub fn note(&mut self, source: SocketAddr, now: Instant) {
        self.push(Past { source, announced: None, heard: now });
    }

    /// Remembers a source that nobody knows, where there is room: strangers take no known one's place.
    pub fn note_stranger(&mut self, source: SocketAddr, now: Instant) {
        if self.contains(source) || self.0.len() < Self::LIMIT {
            self.note(source, now);
        }
    }

    /// Remembers a source that was accepted where `announced` was expected, now that another is.
    pub fn note_moved(&mut self, source: SocketAddr, announced: Option<SocketAddr>, now: Instant) {
        self.push(Past { source, announced, heard: now });
    }

    fn push(&mut self, past: Past) {
        self.0.retain(|known| known.source != past.source);
        if self.0.len() == Self::LIMIT {
            self.0.remove(0);
        }
        self.0.push(past);
    }

    /// This address is announced again: the source last accepted in its place, which is no longer stale.
    pub fn welcome(&mut self, announced: SocketAddr) -> Option<SocketAddr> {
        let at = self.0.iter().rposition(|past| past.announced == Some(announced))?;
        Some(self.0.remove(at).source)
    }

    /// This life is over: nobody in it is to be heard in the next.
    pub fn close(&mut self) {
        self.0.iter_mut().for_each(|past| past.announced = None);
    }

    /// Forgets those last heard at `since` or before: a phone that fell silent may call again.
    pub fn forget_before(&mut self, since: Instant) {
        self.0.retain(|past| past.heard > since);
    }

    /// True for a source remembered.
    pub fn contains(&self, source: SocketAddr) -> bool {
        self.0.iter().any(|known| known.source == source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(2);
    const PUBLIC: &str = "192.0.2.1:4000";
    const PRIVATE: &str = "10.0.0.1:4000";
    const STRANGER: &str = "198.51.100.9:999";
    const SIGNALLED: &str = "203.0.113.4:7000";

    /// A latch and a clock of 20 ms a packet.
    struct Scene {
        latch: Latch,
        stale: Stale,
        now: Instant,
    }

    impl Scene {
        fn expecting(announced: &str) -> Self {
            let mut scene = Self { latch: Latch::Shut, stale: Stale::default(), now: crate::clock::now() };
            scene.expect(announced);
            scene
        }

        fn expect(&mut self, announced: &str) {
            let before = self.stale.welcome(address(announced));
            self.latch.expect(address(announced), Some(address(SIGNALLED).ip()), before, self.now);
        }

        /// `count` packets of one stream, 20 ms apart; what the latch made of each.
        fn stream(&mut self, source: &str, ssrc: u32, count: u16) -> Vec<Heard> {
            (0..count).map(|sequence| self.packet(source, ssrc, sequence)).collect()
        }

        fn packet(&mut self, source: &str, ssrc: u32, sequence: u16) -> Heard {
            self.now += Duration::from_millis(20);
            self.latch.hear(address(source), Mark { ssrc, sequence }, self.now, WINDOW, &self.stale)
        }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    use Heard::{Foreign, Learned, Settled};

    #[test]
    fn nobody_is_heard_before_expect() {
        let mut scene = Scene::expecting(PUBLIC);
        scene.latch.shut();
        assert_eq!(scene.stream(PUBLIC, 1, 3), [Foreign; 3]);
    }

    #[test]
    fn announced_settles_at_once_and_alone() {
        let mut scene = Scene::expecting(PUBLIC);
        assert_eq!(scene.stream(PUBLIC, 1, 1), [Settled]);
        assert_eq!(scene.stream("192.0.2.1:5000", 2, 9), [Foreign; 9]);
    }

    #[test]
    fn m2_a_stranger_is_never_learned_beside_a_public_address() {
        let mut scene = Scene::expecting(PUBLIC);
        assert_eq!(scene.stream(STRANGER, 7, 500), [Foreign; 500]);
        assert_eq!(scene.stream(PUBLIC, 1, 1), [Settled]);
        assert_eq!(scene.stream(STRANGER, 7, 500), [Foreign; 500]);
    }

    #[test]
    fn another_port_of_the_host_needs_two() {
        let mut scene = Scene::expecting(PUBLIC);
        assert_eq!(scene.stream("192.0.2.1:5000", 2, 2), [Foreign, Learned]);
    }

    #[test]
    fn m1_nat_source_needs_three_however_late() {
        let mut scene = Scene::expecting(PRIVATE);
        scene.now += Duration::from_secs(30);
        scene.expect(PRIVATE); // the same description again, when the call is answered
        assert_eq!(scene.stream("203.0.113.5:61000", 3, 3), [Foreign, Foreign, Learned]);
        assert_eq!(scene.stream(STRANGER, 7, 500), [Foreign; 500]);
    }

    #[test]
    fn m2_inconsistent_sprayers_are_not_learned_and_do_not_stop_learning() {
        let mut scene = Scene::expecting(PRIVATE);
        for round in 0..200_u16 {
            assert_eq!(scene.packet(STRANGER, 7, round.wrapping_mul(77)), Foreign);
            assert_eq!(scene.packet(STRANGER, u32::from(round), round), Foreign);
        }
        assert_eq!(scene.stream("203.0.113.5:61000", 3, 3), [Foreign, Foreign, Learned]);
    }

    #[test]
    fn m2_strangers_at_every_place_stop_nobody_who_is_nearer_and_hold_none_for_long() {
        let strangers: Vec<String> = (0..8).map(|port| format!("198.51.100.9:{}", 900 + port)).collect();
        let mut sequence = 0_u16;
        let mut trickle = |scene: &mut Scene| {
            for stranger in &strangers {
                sequence = sequence.wrapping_add(77);
                assert_eq!(scene.packet(stranger, 7, sequence), Foreign);
                scene.now -= Duration::from_millis(18);
            }
        };
        for (far, ssrc) in [(SIGNALLED, 1), ("203.0.113.5:61000", 2)] {
            let mut scene = Scene::expecting(PRIVATE);
            (0..20).for_each(|_| trickle(&mut scene));
            let heard: Vec<Heard> = (0..50)
                .map(|sequence| {
                    trickle(&mut scene);
                    scene.packet(far, ssrc, sequence)
                })
                .collect();
            let learned = heard.iter().position(|heard| *heard == Learned);
            let patience = if far == SIGNALLED { 3 } else { 25 };
            assert!(learned.is_some_and(|at| at < patience), "{far}: {heard:?}");
        }
    }

    #[test]
    fn announced_takes_over_from_whoever_was_learned() {
        let mut scene = Scene::expecting(PRIVATE);
        assert_eq!(scene.stream(STRANGER, 7, 3)[2], Learned);
        scene.now += Duration::from_secs(60);
        assert_eq!(scene.packet(PRIVATE, 1, 0), Settled);
        assert_eq!(scene.stream(STRANGER, 7, 9), [Foreign; 9]);
    }

    #[test]
    fn m2_the_host_of_the_signalling_is_believed_before_a_stranger_and_after_him() {
        let mut scene = Scene::expecting(PRIVATE);
        assert_eq!(scene.stream(STRANGER, 7, 3)[2], Learned);
        scene.now += Duration::from_secs(60);
        assert_eq!(scene.stream(SIGNALLED, 2, 3), [Foreign, Foreign, Learned], "the flood has not won for good");
        assert_eq!(scene.stream(STRANGER, 7, 9), [Foreign; 9]);
        let mut scene = Scene::expecting(PUBLIC);
        assert_eq!(scene.stream(SIGNALLED, 2, 3)[2], Learned, "in place of a public address as well");
        assert_eq!(scene.stream(STRANGER, 7, 9), [Foreign; 9]);
        assert_eq!(scene.stream(PUBLIC, 1, 1), [Settled]);
    }

    #[test]
    fn who_may_be_heard_at_all_is_known_before_a_packet_is_read() {
        let may_hear = |scene: &Scene, source: &str| scene.latch.may_hear(address(source), &scene.stale);
        let mut scene = Scene::expecting(PUBLIC);
        assert!([PUBLIC, "192.0.2.1:5000", SIGNALLED].iter().all(|source| may_hear(&scene, source)));
        assert!(!may_hear(&scene, STRANGER));
        scene.stream(PUBLIC, 1, 1);
        assert!(may_hear(&scene, PUBLIC) && !may_hear(&scene, SIGNALLED));
        scene.latch.shut();
        assert!(!may_hear(&scene, PUBLIC));
    }

    #[test]
    fn a_nearer_source_replaces_a_far_one_within_the_window_only() {
        let mut scene = Scene::expecting(PRIVATE);
        assert_eq!(scene.stream(STRANGER, 7, 3)[2], Learned);
        assert_eq!(scene.stream("10.0.0.1:5000", 2, 2), [Foreign, Learned]);

        let mut scene = Scene::expecting(PRIVATE);
        assert_eq!(scene.stream(STRANGER, 7, 3)[2], Learned);
        scene.now += WINDOW;
        assert_eq!(scene.stream("10.0.0.1:5000", 2, 9), [Foreign; 9]);
    }

    #[test]
    fn a_repeated_description_keeps_the_learned_source_and_learns_again() {
        let mut scene = Scene::expecting(PRIVATE);
        assert_eq!(scene.stream("203.0.113.5:61000", 3, 3)[2], Learned);
        scene.expect(PRIVATE);
        assert_eq!(scene.packet("203.0.113.5:61000", 3, 3), Learned, "no probation a second time");
        scene.expect(PRIVATE);
        assert_eq!(scene.stream("203.0.113.5:61001", 3, 11)[10], Learned, "it moved, and the old one is silent");
    }

    #[test]
    fn m2_a_flood_between_description_and_next_packet_is_not_learned() {
        let mut scene = Scene::expecting(PRIVATE);
        assert_eq!(scene.packet(PRIVATE, 1, 0), Settled);
        scene.expect(PRIVATE);
        let (latch, stale, now) = (&mut scene.latch, &scene.stale, scene.now);
        for sequence in 0..1000 {
            assert_eq!(latch.hear(address(STRANGER), Mark { ssrc: 7, sequence }, now, WINDOW, stale), Foreign);
        }
        assert_eq!(scene.packet(PRIVATE, 1, 1), Settled);
    }

    #[test]
    fn m12_a_stale_source_is_not_learned_until_it_has_been_forgotten() {
        let mut scene = Scene::expecting(PUBLIC);
        let stale = "192.0.2.1:5000";
        scene.stale.note(address(stale), scene.now);
        assert_eq!(scene.stream(stale, 2, 9), [Foreign; 9]);
        scene.stale.forget_before(scene.now);
        assert_eq!(scene.stream(stale, 2, 2), [Foreign, Learned]);
    }

    #[test]
    fn the_memory_of_stale_sources_is_bounded() {
        let mut stale = Stale::default();
        let now = crate::clock::now();
        (1..=100).for_each(|port| stale.note(SocketAddr::from(([127, 0, 0, 1], port)), now));
        assert_eq!(stale.0.len(), Stale::LIMIT);
        assert!(stale.contains(SocketAddr::from(([127, 0, 0, 1], 100))));
    }

    #[test]
    fn shared_address_space_is_private() {
        assert!(is_private("100.64.0.1".parse().unwrap()) && is_private("fd00::1".parse().unwrap()));
        assert!(!is_private("100.128.0.1".parse().unwrap()) && !is_private("127.0.0.1".parse().unwrap()));
    }
}
