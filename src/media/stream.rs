//! One continuous stream towards a far side, whatever its sources (design section 7, M4).
//!
//! The first source passes untouched. Every later one is shifted by three constants so that the far side keeps seeing
//! one SSRC, sequence numbers without a gap and timestamps that follow real time; a restart needs only the newest
//! packet's three numbers. Timestamps count 8 kHz samples, as all codecs that a description of ours names do.
//!
//! No number leaves twice, whatever comes:
//!
//! - What is older than its source's first packet is dropped: its number was another source's.
//! - Whoever speaks with a new SSRC has the word at once. The source before it has it again only when the present one has
//!   been silent for `LATE`; what comes of it until then is late, and dropped.
//! - Telephone events that come beside the present source with an SSRC of their own take the next number each, and the
//!   source goes on behind them. They keep their markers, and the distances of their timestamps: one press stays one.
//! - A source that jumps back further than packets overtake each other, and goes on from there, has begun anew
//!   (RFC 3550 appendix A.1).

use std::time::{Duration, Instant};

use super::report::{Block, Moment};
use super::tones::FRAME;

/// Octets of the fixed RTP header (RFC 3550 section 5.1).
pub const HEADER: usize = 12;
const MARKER: u8 = 0x80;
/// In the second octet of an RTP header, all but the marker (RFC 3550 section 5.1).
pub const PAYLOAD_TYPE: u8 = 0x7f;
/// A packet that is so many behind the newest one is late; further back its source has begun anew (`MAX_MISORDER` of
/// RFC 3550 appendix A.1).
const MISORDER: u16 = 100;
/// How long packets of the source before may come late.
const LATE: Duration = Duration::from_millis(100);
/// The longest packet that tells how long packets are, in samples; what is further apart had a pause between it.
const LONGEST: u32 = 480;

/// The numbers of an RTP header that name its place in a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// Synchronisation source.
    pub ssrc: u32,
    /// Sequence number.
    pub sequence: u16,
    /// Timestamp, in samples.
    pub timestamp: u32,
}

impl Position {
    /// Reads a packet of at least [`HEADER`] octets.
    pub fn read(packet: &[u8]) -> Self {
        Self { ssrc: word(packet, 8), sequence: half(packet, 2), timestamp: word(packet, 4) }
    }

    fn write(self, packet: &mut [u8]) {
        packet[2..4].copy_from_slice(&self.sequence.to_be_bytes());
        packet[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        packet[8..12].copy_from_slice(&self.ssrc.to_be_bytes());
    }

    fn plus(self, shift: Self) -> Self {
        Self {
            ssrc: self.ssrc.wrapping_add(shift.ssrc),
            sequence: self.sequence.wrapping_add(shift.sequence),
            timestamp: self.timestamp.wrapping_add(shift.timestamp),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            ssrc: self.ssrc.wrapping_sub(other.ssrc),
            sequence: self.sequence.wrapping_sub(other.sequence),
            timestamp: self.timestamp.wrapping_sub(other.timestamp),
        }
    }
}

/// What one far side hears. Plain data: a shift that is all zero is a relay untouched. What every packet looks at is at
/// hand, all else behind a pointer.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// SSRC of the present source as it came to us; `None` when the next packet begins a new source.
    source: Option<u32>,
    /// Added to every header of the present source.
    shift: Position,
    /// The newest packet the far side was sent, and when.
    newest: Option<(Position, Instant)>,
    /// The newest timestamp, and when it was sent first: the packets of a telephone event share one.
    clock: Option<(u32, Instant)>,
    /// Samples of the newest packet, as far as is known.
    frame: Option<u32>,
    /// The last number that was not the present source's own, as the far side counts: what comes for it or below is late.
    floor: u32,
    /// The number with which a source that jumped back would go on.
    suspect: Option<u16>,
    /// How often its sequence numbers have wrapped, in the upper half (RFC 3550 appendix A.1).
    wraps: u32,
    rest: Box<Rest>,
}

#[derive(Debug, Default)]
struct Rest {
    /// Whether the stream begins in the lower half of the sequence numbers.
    low: bool,
    /// The source before the present one, or that of the telephone events beside it.
    beside: Option<Beside>,
    /// The first packet of the present source: its extended sequence number as the far side counts, and its own.
    first: (u32, u16),
    /// What the far side has lost altogether, as it last said, and had lost when the present source began.
    lost: (u32, u32),
    /// The last sender report of the present source that the far side was sent: the middle of its NTP time.
    reported: Option<u32>,
}

/// A source that may still speak beside the present one.
#[derive(Debug, Clone, Copy)]
struct Beside {
    ssrc: u32,
    /// Its newest packet, by its own number.
    sequence: u16,
    /// Added to its timestamps.
    shift: u32,
}

impl Outgoing {
    /// A stream that has not begun begins in the lower half of the sequence numbers, whatever its source says: its first turn
    /// is ten minutes away then, at 50 packets a second.
    pub fn begin_low(&mut self) {
        self.rest.low = true;
    }

    /// A sequence number to begin with in place of this one.
    fn lowered(&self, sequence: u16) -> u16 {
        if self.rest.low { sequence & 0x7fff } else { sequence }
    }

    /// The next packet comes from another source.
    pub fn change_source(&mut self) {
        self.source = None;
        self.rest.beside = None;
    }

    /// This packet of its source is left out: the stream has no gap where it was.
    pub fn leave_out(&mut self, packet: &[u8]) {
        if self.source == Some(Position::read(packet).ssrc) {
            self.change_source();
        }
    }

    /// Makes a relayed packet the next one of the stream, in place; false when it has no place in it. The packet has at
    /// least [`HEADER`] octets.
    #[must_use]
    pub fn carry(&mut self, packet: &mut [u8], now: Instant) -> bool {
        let came = Position::read(packet);
        match self.newest.filter(|_| self.source == Some(came.ssrc)) {
            Some((newest, _)) => self.go_on(came, newest, packet, now),
            None => !self.is_late(came, now) && self.begin(came, packet, now),
        }
    }

    /// The same for a packet of a telephone event, which may have an SSRC of its own.
    #[must_use]
    pub fn carry_event(&mut self, packet: &mut [u8], now: Instant) -> bool {
        let came = Position::read(packet);
        match self.source {
            Some(source) if source != came.ssrc => self.insert(came, packet, now),
            Some(_) | None => self.carry(packet, now),
        }
    }

    /// The next packet of the present source, or one that was overtaken.
    fn go_on(&mut self, came: Position, newest: Position, packet: &mut [u8], now: Instant) -> bool {
        let leaves = came.plus(self.shift);
        let ahead = leaves.sequence.wrapping_sub(newest.sequence) as i16;
        if ahead < -(MISORDER as i16) {
            let again = self.suspect.replace(came.sequence.wrapping_add(1)) == Some(came.sequence);
            return again && self.begin(came, packet, now);
        }
        self.suspect = None;
        let number = self.number().wrapping_add_signed(ahead.into());
        if number.wrapping_sub(self.floor).cast_signed() <= 0 {
            return false;
        }
        if self.shift != Position::default() {
            leaves.write(packet);
        }
        if ahead >= 0 {
            self.advance(leaves, now);
        }
        true
    }

    /// Whether this is of the source that had the word before, and the present one still speaks.
    fn is_late(&self, came: Position, now: Instant) -> bool {
        let before = self.rest.beside.is_some_and(|beside| beside.ssrc == came.ssrc);
        before && self.newest.is_some_and(|(_, sent)| now.saturating_duration_since(sent) < LATE)
    }

    /// The number of the newest packet as the far side counts.
    fn number(&self) -> u32 {
        self.wraps | self.newest.map_or(0, |(newest, _)| newest.sequence.into())
    }

    fn advance(&mut self, position: Position, at: Instant) {
        self.wraps = self.wraps_at(position);
        if let Some((newest, _)) = self.newest {
            let step = position.minus(newest);
            let follows = step.sequence == 1 && (1..=LONGEST).contains(&step.timestamp);
            self.frame = if follows { Some(step.timestamp) } else { self.frame };
        }
        self.newest = Some((position, at));
        if self.clock.is_none_or(|(timestamp, _)| position.timestamp.wrapping_sub(timestamp).cast_signed() > 0) {
            self.clock = Some((position.timestamp, at));
        }
    }

    /// How often the sequence numbers have wrapped when this is the newest.
    fn wraps_at(&self, position: Position) -> u32 {
        let wrapped = self.newest.is_some_and(|(newest, _)| position.sequence < newest.sequence);
        self.wraps.wrapping_add(u32::from(wrapped) << 16)
    }

    /// The first packet of a source. Always true: it has its place.
    fn begin(&mut self, came: Position, packet: &mut [u8], now: Instant) -> bool {
        if self.source.is_some_and(|source| source != came.ssrc) {
            self.rest.beside = self.present();
        }
        self.source = Some(came.ssrc);
        match self.next(now) {
            Some(next) => {
                self.shift = next.minus(came);
                packet[1] |= MARKER;
            }
            None => self.shift.sequence = self.lowered(came.sequence).wrapping_sub(came.sequence),
        }
        let leaves = came.plus(self.shift);
        leaves.write(packet);
        self.advance(leaves, now);
        self.rest.first = (self.number(), came.sequence);
        self.floor = self.number().wrapping_sub(1);
        self.suspect = None;
        self.rest.lost.1 = self.rest.lost.0;
        self.rest.reported = None;
        true
    }

    /// The present source, as one that will have been the one before.
    fn present(&self) -> Option<Beside> {
        let (newest, _) = self.newest?;
        let came = newest.minus(self.shift);
        Some(Beside { ssrc: self.source?, sequence: came.sequence, shift: self.shift.timestamp })
    }

    /// A packet of a telephone event between those of the present source, which is shifted by one more from now on.
    fn insert(&mut self, came: Position, packet: &mut [u8], now: Instant) -> bool {
        let known = self.rest.beside.filter(|beside| beside.ssrc == came.ssrc);
        if known.is_some_and(|beside| beside.sequence.wrapping_sub(came.sequence) < MISORDER) {
            return false; // overtaken by a later one of the press, or doubled
        }
        let (Some((newest, _)), Some(here)) = (self.newest, self.position(now)) else { return false };
        let shift = known.map_or(here.timestamp.wrapping_sub(came.timestamp), |beside| beside.shift);
        let sequence = newest.sequence.wrapping_add(1);
        let leaves = Position { sequence, timestamp: came.timestamp.wrapping_add(shift), ..newest };
        leaves.write(packet);
        self.advance(leaves, now);
        self.rest.beside = Some(Beside { ssrc: came.ssrc, sequence: came.sequence, shift });
        self.shift.sequence = self.shift.sequence.wrapping_add(1);
        self.rest.first.0 = self.rest.first.0.wrapping_add(1);
        self.floor = self.number();
        true
    }

    /// Writes the header of a packet of our own, due at `due`, before its payload; `starts` for the first of a sound.
    pub fn originate(&mut self, packet: &mut [u8], payload_type: u8, starts: bool, due: Instant) {
        let position = self.next(due).unwrap_or_else(|| Position {
            ssrc: rand::random(),
            sequence: self.lowered(rand::random()),
            timestamp: rand::random(),
        });
        packet[0] = 0x80;
        packet[1] = payload_type | if starts { MARKER } else { 0 };
        position.write(packet);
        self.change_source();
        self.advance(position, due);
        self.frame = Some(FRAME as u32);
    }

    /// Where a new source has to go on: the next sequence number, and the time passed since the newest timestamp, whose
    /// packet lasts one frame itself. `None` when nothing was ever sent.
    fn next(&self, now: Instant) -> Option<Position> {
        let ((newest, _), (timestamp, since)) = self.newest.zip(self.clock)?;
        let passed = samples(now, since).max(self.frame.unwrap_or(FRAME as u32));
        let sequence = newest.sequence.wrapping_add(1);
        Some(Position { sequence, timestamp: timestamp.wrapping_add(passed), ..newest })
    }

    /// Where the stream stands now; `None` when nothing was ever sent.
    pub fn position(&self, now: Instant) -> Option<Position> {
        let ((newest, _), (timestamp, since)) = self.newest.zip(self.clock)?;
        Some(Position { timestamp: timestamp.wrapping_add(samples(now, since)), ..newest })
    }

    /// What the far side knows the stream by.
    pub fn ssrc(&self) -> Option<u32> {
        self.newest.map(|(newest, _)| newest.ssrc)
    }

    /// A sender report of this SSRC goes to the far side: the same moment in the stream it hears. `None` when the
    /// sender is not the present source.
    pub fn sent(&mut self, sender: u32, moment: Moment) -> Option<Moment> {
        (self.source == Some(sender)).then(|| {
            self.rest.reported = Some(moment.middle());
            Moment { timestamp: moment.timestamp.wrapping_add(self.shift.timestamp), ..moment }
        })
    }

    /// What the far side says of the stream, as the present source would hear it said of its own: its SSRC, its
    /// sequence numbers, what was lost since it began, and its own sender report or none (RFC 3550 section 6.4.1).
    /// `None` when there is no source or the far side has not heard it yet.
    pub fn told(&mut self, block: Block) -> Option<(u32, Block)> {
        self.rest.lost.0 = block.lost;
        let (first, came) = self.rest.first;
        let since = block.highest.wrapping_sub(first);
        let source = self.source.filter(|_| since < 1 << 31)?;
        let known = self.rest.reported == Some(block.last_report);
        let own = Block {
            lost: block.lost.wrapping_sub(self.rest.lost.1) & Block::LARGEST_LOSS,
            highest: u32::from(came).wrapping_add(since),
            last_report: if known { block.last_report } else { 0 },
            delay: if known { block.delay } else { 0 },
            ..block
        };
        Some((source, own))
    }
}

/// Samples from one time to another.
fn samples(now: Instant, then: Instant) -> u32 {
    (now.saturating_duration_since(then).as_micros() * 8 / 1000) as u32
}

/// True for a plausible RTCP packet: version 2, a packet type of RFC 3550 or 4585, whole in its datagram.
pub fn is_rtcp(packet: &[u8]) -> bool {
    packet.len() >= 8 && packet[0] >> 6 == 2 && (192..=223).contains(&packet[1]) && part(packet, 0) <= packet.len()
}

/// Octets of the RTCP packet that begins at `at`.
fn part(packet: &[u8], at: usize) -> usize {
    4 * (usize::from(half(packet, at + 2)) + 1)
}

fn half(octets: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([octets[at], octets[at + 1]])
}

fn word(octets: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn packet(ssrc: u32, sequence: u16, timestamp: u32) -> Vec<u8> {
        let mut packet = vec![0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xaa];
        Position { ssrc, sequence, timestamp }.write(&mut packet);
        packet
    }

    #[test]
    fn the_first_source_is_untouched_wherever_it_starts() {
        let (mut outgoing, now) = (Outgoing::default(), crate::clock::now());
        for (sequence, timestamp) in [(65_534, 7), (65_535, 167), (0, 327), (2, 647), (1, 487)] {
            let mut relayed = packet(5, sequence, timestamp);
            assert!(outgoing.carry(&mut relayed, now));
            assert_eq!(relayed, packet(5, sequence, timestamp));
        }
        assert_eq!(outgoing.newest.map(|(newest, _)| newest.sequence), Some(2), "reordering does not go back");
    }

    #[test]
    fn m4_later_sources_continue_the_stream() {
        let (mut outgoing, start) = (Outgoing::default(), crate::clock::now());
        let after = |ms| start + Duration::from_millis(ms);
        assert!(outgoing.carry(&mut packet(5, 100, 1000), start));

        let mut own = [0; 172];
        outgoing.originate(&mut own, 0, true, after(500));
        assert_eq!(Position::read(&own), Position { ssrc: 5, sequence: 101, timestamp: 5000 });
        assert_eq!(own[1], MARKER, "marked where it starts");
        outgoing.originate(&mut own, 0, false, after(520));
        assert_eq!(Position::read(&own), Position { ssrc: 5, sequence: 102, timestamp: 5160 });
        assert_eq!(own[1], 0);

        let mut relayed = packet(9, 40_000, 77);
        assert!(outgoing.carry(&mut relayed, after(530)));
        assert_eq!(
            Position::read(&relayed),
            Position { ssrc: 5, sequence: 103, timestamp: 5320 },
            "one frame at least"
        );
        assert_eq!(relayed[1], MARKER);
        let mut relayed = packet(9, 40_001, 237);
        assert!(outgoing.carry(&mut relayed, after(550)));
        assert_eq!(Position::read(&relayed), Position { ssrc: 5, sequence: 104, timestamp: 5480 });
        assert_eq!(relayed[1], 0);
    }

    const BLOCK: Block = Block { fraction: 3, lost: 7, highest: 102, jitter: 11, last_report: 0, delay: 9 };

    #[test]
    fn m8_a_sender_report_tells_the_moment_as_the_far_side_counts() {
        let (mut outgoing, now) = (Outgoing::default(), crate::clock::now());
        let moment = Moment { ntp: 0x1111_2222_3333_4444, timestamp: 2000 };
        assert_eq!(outgoing.sent(9, moment), None, "nobody was heard yet");
        assert!(outgoing.carry(&mut packet(5, 100, 1000), now));
        assert_eq!(outgoing.sent(5, moment), Some(moment), "the first source is untouched");
        outgoing.change_source();
        assert_eq!(outgoing.sent(5, moment), None, "it is not heard any more");
        assert!(outgoing.carry(&mut packet(9, 200, 2000), now)); // now 5, 101, 1160
        assert_eq!(outgoing.sent(9, moment), Some(Moment { timestamp: 1160, ..moment }));
        assert_eq!(outgoing.sent(5, moment), None);
    }

    #[test]
    fn m8_a_source_is_told_of_itself_alone() {
        let (mut outgoing, now) = (Outgoing::default(), crate::clock::now());
        assert!(outgoing.carry(&mut packet(5, 65_535, 1000), now));
        assert_eq!(outgoing.told(Block { highest: 65_535, ..BLOCK }).unwrap().1.lost, 7);
        assert_eq!(outgoing.sent(5, Moment { ntp: 0x1_0000, timestamp: 0 }).unwrap().middle(), 1);
        outgoing.change_source();
        assert_eq!(outgoing.told(Block { highest: 65_535, ..BLOCK }), None, "no source, nobody to tell");
        for sequence in 200..300 {
            assert!(outgoing.carry(&mut packet(9, sequence, 2000), now)); // 65,536 and on, as the far side counts
        }
        assert_eq!(outgoing.told(Block { highest: 65_535, ..BLOCK }), None, "it has not heard the new one");
        let later = Block { lost: 10, highest: 65_536 + 90, last_report: 1, ..BLOCK };
        let own = Block { lost: 3, highest: 290, last_report: 0, delay: 0, ..later };
        assert_eq!(outgoing.told(later), Some((9, own)), "the report it answers was of another source");
        outgoing.sent(9, Moment { ntp: 0x2_0000, timestamp: 0 });
        let answer = Block { last_report: 2, ..later };
        assert_eq!(outgoing.told(answer), Some((9, Block { last_report: 2, delay: 9, ..own })));
    }

    #[test]
    fn m8_sequence_numbers_wrap_for_each_side_in_its_time() {
        let (mut outgoing, now) = (Outgoing::default(), crate::clock::now());
        assert!(outgoing.carry(&mut packet(5, 65_530, 0), now));
        outgoing.change_source();
        let sequences = (0..70_000_u32).map(|n| (65_000 + n) as u16);
        sequences.for_each(|sequence| assert!(outgoing.carry(&mut packet(9, sequence, 0), now)));
        let told = outgoing.told(Block { highest: 65_531 + 69_999, ..BLOCK });
        assert_eq!(told.map(|(_, block)| block.highest), Some(65_000 + 69_999));
    }

    /// What strict receivers want: what leaves, by number and timestamp; `None` where nothing does.
    struct Strict {
        outgoing: Outgoing,
        start: Instant,
        ms: u64,
    }

    impl Strict {
        /// A far side that was sent 5, 100, 16,000 a moment ago.
        fn new() -> Self {
            let mut strict = Self { outgoing: Outgoing::default(), start: crate::clock::now(), ms: 0 };
            assert_eq!(strict.speaks(5, 100, 16_000), Some((100, 16_000, false)));
            strict
        }

        fn hears(&mut self, came: (u32, u16, u32), is_event: bool) -> Option<(u16, u32, bool)> {
            self.ms += 20;
            let now = self.start + Duration::from_millis(self.ms);
            let mut relayed = packet(came.0, came.1, came.2);
            let carry = if is_event { Outgoing::carry_event } else { Outgoing::carry };
            let carried = carry(&mut self.outgoing, &mut relayed, now);
            let Position { ssrc, sequence, timestamp } = Position::read(&relayed);
            assert!(!carried || ssrc == 5);
            carried.then_some((sequence, timestamp, relayed[1] & MARKER != 0))
        }

        fn speaks(&mut self, ssrc: u32, sequence: u16, timestamp: u32) -> Option<(u16, u32, bool)> {
            self.hears((ssrc, sequence, timestamp), false)
        }

        fn presses(&mut self, ssrc: u32, sequence: u16, timestamp: u32) -> Option<(u16, u32, bool)> {
            self.hears((ssrc, sequence, timestamp), true)
        }
    }

    #[test]
    fn m4_what_is_older_than_its_sources_first_packet_has_no_place() {
        let mut strict = Strict::new();
        assert_eq!(strict.speaks(9, 11, 320), Some((101, 16_160, true)));
        assert_eq!(strict.speaks(9, 10, 160), None, "100 is another's");
        assert_eq!(strict.speaks(9, 13, 640), Some((103, 16_480, false)));
        assert_eq!(strict.speaks(9, 12, 480), Some((102, 16_320, false)), "only overtaken");
    }

    #[test]
    fn m4_late_packets_of_the_source_before_do_not_begin_it_again() {
        let mut strict = Strict::new();
        assert_eq!(strict.speaks(9, 11, 320), Some((101, 16_160, true)));
        assert_eq!(strict.speaks(5, 101, 16_160), None);
        assert_eq!(strict.speaks(9, 12, 480), Some((102, 16_320, false)), "no new beginning");
        let out: Vec<_> = (0..20_u16)
            .flat_map(|n| [strict.speaks(5, 102 + n, 0), strict.speaks(9, 13 + n, 640)])
            .map(|out| out.map(|(sequence, _, marked)| (sequence, marked)))
            .collect();
        let one: Vec<_> = (0..20_u16).flat_map(|n| [None, Some((103 + n, false))]).collect();
        assert_eq!(out, one, "of two who speak at once the one that came last");
        strict.ms += 100;
        assert_eq!(strict.speaks(5, 130, 0).map(|(sequence, _, marked)| (sequence, marked)), Some((123, true)), "back");
    }

    #[test]
    fn m5_one_press_is_one_press_where_events_have_an_ssrc_of_their_own() {
        let mut strict = Strict::new();
        let heard: Vec<_> = (1..=5_u16)
            .flat_map(|n| {
                let spoken = strict.speaks(5, 100 + n, 16_000 + 160 * u32::from(n));
                [spoken, strict.presses(7, 40 + n, 777)]
            })
            .map(|out| out.expect("all of it has its place"))
            .collect();
        let numbers: Vec<u16> = heard.iter().map(|(sequence, ..)| *sequence).collect();
        assert_eq!(numbers, (101..111).collect::<Vec<_>>(), "each once, none missing");
        assert!(heard.iter().all(|(.., marked)| !marked), "nobody begins anew");
        let events: Vec<u32> = heard.iter().skip(1).step_by(2).map(|(_, timestamp, _)| *timestamp).collect();
        assert!(events.iter().all(|timestamp| *timestamp == events[0]), "one timestamp, one press: {events:?}");
        assert_eq!(events[0], 16_160 + 160, "20 ms after the packet before it");
        assert_eq!(strict.presses(7, 44, 777), None, "doubled");
        assert_eq!(strict.speaks(5, 105, 16_800), None, "its number was told already");
        assert_eq!(
            strict.presses(7, 46, 777 + 4000).unwrap().1,
            events[0] + 4000,
            "the next press, as far away as it was"
        );
        assert_eq!(strict.speaks(5, 106, 16_960), Some((112, 16_960, false)));
        let told = strict.outgoing.told(Block { highest: 112, ..BLOCK }).unwrap();
        assert_eq!((told.0, told.1.highest), (5, 106), "as the source counts");
    }

    #[test]
    fn m5_events_that_come_first_are_the_same_press_once_speech_begins() {
        let mut strict = Strict::new();
        strict.outgoing.change_source();
        let first = strict.presses(7, 40, 777).unwrap();
        assert_eq!(strict.speaks(9, 11, 320).map(|(sequence, ..)| sequence), Some(102));
        assert_eq!(strict.presses(7, 41, 777), Some((103, first.1, false)));
    }

    #[test]
    fn m4_the_next_source_goes_on_where_time_is_after_a_long_event_or_a_long_packet() {
        let mut strict = Strict::new();
        for n in 1..=100 {
            assert_eq!(strict.presses(5, 100 + n, 16_160), Some((100 + n, 16_160, false)));
        }
        assert_eq!(strict.speaks(9, 1, 0), Some((201, 16_160 + 100 * 160, true)), "two seconds after the press began");

        let mut strict = Strict::new();
        strict.ms += 10;
        strict.speaks(5, 101, 16_240);
        assert_eq!(strict.speaks(9, 1, 0), Some((102, 16_480, true)), "packets of 30 ms");
    }

    #[test]
    fn m4_a_source_that_begins_anew_with_its_ssrc_is_heard() {
        let mut strict = Strict::new();
        assert_eq!(strict.speaks(9, 50_000, 0), Some((101, 16_160, true)));
        assert_eq!(strict.speaks(9, 40_000, 99), None, "one alone is a stray");
        assert_eq!(strict.speaks(9, 50_001, 160), Some((102, 16_320, false)));
        assert_eq!(strict.speaks(9, 40_001, 99), None);
        let (sequence, _, marked) = strict.speaks(9, 40_002, 259).expect("two in order");
        assert_eq!((sequence, marked), (103, true));
        assert_eq!(strict.speaks(9, 40_003, 419).unwrap().0, 104);
        assert_eq!(strict.outgoing.source, Some(9));
    }
}
