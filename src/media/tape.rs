//! What is recorded of one call: two tracks on one line of time. Pure.
//!
//! The left track is what the customer says, the right one what the customer hears, whoever says it: GenerativeAgent, an
//! onward leg, a sound of ours. Packets are laid where their timestamps say, reordered ones included, as long as that is
//! near the time of their arrival; a source that jumps is laid down anew where it arrives. What nobody says is silence.

use std::collections::VecDeque;
use std::time::Instant;

use rtp_rs::RtpReader;

use super::stream::Position;
use super::tones::{RATE, from_a_law, from_mu_law, payload_type};
use crate::b2bua::io::Law;
use crate::call::CallRef;

/// Most octets of G.711 in one frame: 60 ms.
pub const LONGEST: usize = 480;
/// How long samples wait for those that were sent before them: 500 ms.
const HOLD: u64 = RATE as u64 / 2;
/// How far the time of a timestamp may be from that of its arrival: 400 ms, either way.
const STRAY: i64 = RATE as i64 * 2 / 5;

/// The customer's side of it, or the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Track {
    /// What the customer says.
    Said,
    /// What the customer hears.
    Heard,
}

/// Comfort noise (RFC 3389): nobody speaks.
const COMFORT_NOISE: u8 = 13;

/// What one packet said, taken beside its way. It owns its octets, so that taking it allocates nothing.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// The call.
    pub call: CallRef,
    /// Which track.
    pub track: Track,
    /// Counts the frames of one relay row: a gap is what could not be handed over.
    pub number: u32,
    /// When it passed.
    pub at: Instant,
    position: Position,
    /// `None`: it is speech that we cannot read, and no octet of it is here.
    law: Option<Law>,
    length: u16,
    octets: [u8; LONGEST],
}

impl Frame {
    /// Takes the G.711 in a packet that is no telephone event; `None` when it is no speech.
    pub fn of(call: CallRef, track: Track, number: u32, packet: &[u8], at: Instant) -> Option<Self> {
        let reader = RtpReader::new(packet).ok().filter(|reader| reader.payload_type() != COMFORT_NOISE)?;
        let mut octets = [0; LONGEST];
        let taken = octets.get_mut(..reader.payload().len());
        let law = [Law::Mu, Law::A].into_iter().find(|law| payload_type(*law) == reader.payload_type());
        let law = law.filter(|_| taken.is_some());
        let length = taken.filter(|_| law.is_some()).map_or(0, |taken| {
            taken.copy_from_slice(reader.payload());
            taken.len() as u16
        });
        Some(Self { call, track, number, at, position: Position::read(packet), law, length, octets })
    }

    /// Whether it is in a codec that we can read.
    pub fn is_readable(&self) -> bool {
        self.law.is_some()
    }

    fn samples(&self) -> impl Iterator<Item = i16> + '_ {
        let linear = match self.law {
            Some(Law::A) => from_a_law,
            Some(Law::Mu) | None => from_mu_law,
        };
        self.octets[..usize::from(self.length)].iter().map(move |octet| linear(*octet))
    }
}

/// The samples of both tracks that are not written yet, and how many are.
#[derive(Debug)]
pub struct Tape {
    begun: Instant,
    /// Since when nothing is recorded, if so. What is left out takes no time on the tape.
    paused: Option<Instant>,
    anchors: [Option<Anchor>; 2],
    written: u64,
    ahead: VecDeque<[i16; 2]>,
}

/// Where one source's timestamps are on the tape.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    ssrc: u32,
    timestamp: u32,
    sample: i64,
}

impl Tape {
    /// A tape that begins now.
    pub fn new(now: Instant) -> Self {
        Self { begun: now, paused: None, anchors: [None; 2], written: 0, ahead: VecDeque::new() }
    }

    /// Lays a frame down; false when it came too late for its place, or while nothing is recorded.
    pub fn lay(&mut self, frame: &Frame) -> bool {
        if self.paused.is_some_and(|paused| frame.at >= paused) {
            return false;
        }
        let arrival = self.sample_at(frame.at) as i64;
        let track = frame.track as usize;
        let place = self.anchors[track].and_then(|anchor| anchor.place(frame.position, arrival)).unwrap_or_else(|| {
            let Position { ssrc, timestamp, .. } = frame.position;
            self.anchors[track] = Some(Anchor { ssrc, timestamp, sample: arrival });
            arrival
        });
        let Some(from) = u64::try_from(place).ok().and_then(|place| place.checked_sub(self.written)) else {
            return false;
        };
        let (from, length) = (from as usize, usize::from(frame.length));
        if self.ahead.len() < from + length {
            self.ahead.resize(from + length, [0; 2]);
        }
        for (slot, sample) in self.ahead.range_mut(from..).zip(frame.samples()) {
            slot[track] = sample;
        }
        true
    }

    /// The samples, left and right, whose time to wait is over.
    pub fn due(&mut self, now: Instant) -> impl Iterator<Item = [i16; 2]> + '_ {
        let until = if self.paused.is_some() { 0 } else { self.sample_at(now).saturating_sub(HOLD) };
        let count = until.saturating_sub(self.written);
        self.written += count;
        (0..count).map(|_| self.ahead.pop_front().unwrap_or_default())
    }

    /// All that is there, at the end.
    pub fn rest(&mut self) -> impl Iterator<Item = [i16; 2]> + '_ {
        self.written += self.ahead.len() as u64;
        self.ahead.drain(..)
    }

    /// Whether nothing is recorded.
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Nothing is recorded from now on.
    pub fn pause(&mut self, now: Instant) {
        self.paused.get_or_insert(now);
    }

    /// Goes on where it was paused.
    pub fn resume(&mut self, now: Instant) {
        if let Some(paused) = self.paused.take() {
            self.begun += now.saturating_duration_since(paused);
            self.anchors = [None; 2];
        }
    }

    fn sample_at(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.begun).as_micros() as u64 * RATE as u64 / 1_000_000
    }
}

impl Anchor {
    /// The sample of a position of the same source that is not far from its arrival.
    fn place(self, position: Position, arrival: i64) -> Option<i64> {
        let place = self.sample + i64::from(position.timestamp.wrapping_sub(self.timestamp) as i32);
        (self.ssrc == position.ssrc && (place - arrival).abs() <= STRAY).then_some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::media::tones::mu_law;

    const CALL: CallRef = CallRef(7);

    fn packet(ssrc: u32, timestamp: u32, level: i16, octets: usize) -> Vec<u8> {
        let mut packet = vec![0x80, 0, 0, 1];
        packet.extend(timestamp.to_be_bytes());
        packet.extend(ssrc.to_be_bytes());
        packet.extend(std::iter::repeat_n(mu_law(level), octets));
        packet
    }

    /// A tape and its clock.
    struct Scene {
        tape: Tape,
        start: Instant,
    }

    impl Scene {
        fn new() -> Self {
            let start = crate::clock::now();
            Self { tape: Tape::new(start), start }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        /// 20 ms of this level arrive.
        fn lay(&mut self, track: Track, ms: u64, (ssrc, timestamp): (u32, u32), level: i16) -> bool {
            let packet = packet(ssrc, timestamp, level, 160);
            let frame = Frame::of(CALL, track, 0, &packet, self.at(ms)).unwrap();
            self.tape.lay(&frame)
        }

        /// The loudest sample of each 20 ms written until then.
        fn written(&mut self, ms: u64) -> Vec<[i16; 2]> {
            let now = self.at(ms);
            let samples: Vec<[i16; 2]> = self.tape.due(now).collect();
            let loudest = |frame: &[[i16; 2]]| [0, 1].map(|side| frame.iter().map(|s| s[side]).max().unwrap());
            samples.chunks(160).map(loudest).collect()
        }
    }

    /// A level as mu-law keeps it.
    fn kept(level: i16) -> i16 {
        from_mu_law(mu_law(level))
    }

    #[test]
    fn tracks_keep_their_sides_and_silence_is_where_nobody_speaks() {
        let mut scene = Scene::new();
        assert!(scene.lay(Track::Said, 0, (5, 1000), 1000));
        assert!(scene.lay(Track::Said, 20, (5, 1160), 2000));
        assert!(scene.lay(Track::Heard, 40, (9, 7), 3000));
        let [one, two, three] = [1000, 2000, 3000].map(kept);
        assert_eq!(scene.written(560), [[one, 0], [two, 0], [0, three]], "500 ms are held back");
        assert_eq!(scene.written(600), [[0, 0], [0, 0]], "time goes on");
    }

    #[test]
    fn jitter_and_reordering_move_nothing() {
        let mut scene = Scene::new();
        for (ms, timestamp, level) in [(0, 0, 1000), (95, 480, 4000), (96, 160, 2000), (97, 320, 3000)] {
            assert!(scene.lay(Track::Said, ms, (5, timestamp), level));
        }
        let levels: Vec<i16> = scene.written(580).iter().map(|frame| frame[0]).collect();
        assert_eq!(levels, [1000, 2000, 3000, 4000].map(kept));
    }

    #[test]
    fn a_source_that_jumps_or_follows_another_is_laid_where_it_arrives() {
        let mut scene = Scene::new();
        scene.lay(Track::Heard, 0, (5, u32::MAX - 80), 1000);
        scene.lay(Track::Heard, 20, (5, 79), 2000); // wraps
        scene.lay(Track::Heard, 40, (5, 4_000_000), 3000);
        scene.lay(Track::Heard, 60, (6, 12), 4000);
        let levels: Vec<i16> = scene.written(580).iter().map(|frame| frame[1]).collect();
        assert_eq!(levels, [1000, 2000, 3000, 4000].map(kept));
    }

    #[test]
    fn what_comes_when_its_place_is_written_is_left_out() {
        let mut scene = Scene::new();
        scene.lay(Track::Said, 0, (5, 0), 1000);
        assert_eq!(scene.written(540).len(), 2);
        assert!(!scene.lay(Track::Said, 390, (5, 160), 2000));
        assert!(scene.lay(Track::Said, 540, (5, 4320), 2000));
    }

    #[test]
    fn a_pause_takes_no_time_on_the_tape() {
        let mut scene = Scene::new();
        scene.lay(Track::Said, 0, (5, 0), 1000);
        scene.tape.pause(scene.at(20));
        assert!(!scene.lay(Track::Said, 40, (5, 320), 2000), "nothing said meanwhile is kept");
        assert_eq!(scene.written(5_000), [[0i16; 2]; 0]);
        scene.tape.resume(scene.at(60_020));
        scene.lay(Track::Said, 60_020, (5, 480_160), 3000);
        let levels: Vec<i16> = scene.written(60_540).iter().map(|frame| frame[0]).collect();
        assert_eq!(levels, [1000, 3000].map(kept));
        scene.lay(Track::Said, 60_040, (5, 480_320), 4000);
        assert_eq!(scene.tape.rest().count(), 160);
    }

    #[test]
    fn only_g711_of_a_usual_length_is_read() {
        let now = crate::clock::now();
        let read = |packet: &[u8]| Frame::of(CALL, Track::Said, 0, packet, now).map(|frame| frame.is_readable());
        let of_type = |number: u8| [&[0x80, number], &packet(5, 0, 0, 4)[2..]].concat();
        assert_eq!(read(&packet(5, 0, 0, LONGEST)), Some(true));
        assert_eq!(read(&packet(5, 0, 0, LONGEST + 1)), Some(false));
        assert_eq!(read(&of_type(8)), Some(true));
        assert_eq!(read(&of_type(9)), Some(false), "G.722");
        assert_eq!(read(&of_type(13)), None, "comfort noise");
        assert_eq!(read(&[0x80, 0, 0]), None);
    }
}
