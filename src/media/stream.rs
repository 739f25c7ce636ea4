//! One continuous stream towards a far side, whatever its sources (design section 7, M4).
//!
//! The first source passes untouched. Every later one is shifted by three constants so that the far side keeps seeing
//! one SSRC, sequence numbers without a gap and timestamps that follow real time; a restart needs only the newest
//! packet's three numbers. Timestamps count 8 kHz samples, as all telephone codecs we let through do.

use std::time::Instant;

use super::report::{Block, Moment};
use super::tones::FRAME;

/// Octets of the fixed RTP header (RFC 3550 section 5.1).
pub const HEADER: usize = 12;
const MARKER: u8 = 0x80;

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

/// What one far side hears. Plain data: a shift that is all zero is a relay untouched.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// SSRC of the present source as it came to us; `None` when the next packet begins a new source.
    source: Option<u32>,
    /// Added to every header of the present source.
    shift: Position,
    /// The newest packet the far side was sent, and when.
    newest: Option<(Position, Instant)>,
    /// How often its sequence numbers have wrapped, in the upper half (RFC 3550 appendix A.1).
    wraps: u32,
    /// The first packet of the present source: its extended sequence number as the far side counts, and its own.
    first: (u32, u16),
    /// What the far side has lost altogether, as it last said, and had lost when the present source began.
    lost: (u32, u32),
    /// The last sender report of the present source that the far side was sent: the middle of its NTP time.
    reported: Option<u32>,
}

impl Outgoing {
    /// The next packet comes from another source.
    pub fn change_source(&mut self) {
        self.source = None;
    }

    /// Makes a relayed packet the next one of the stream, in place. The packet has at least [`HEADER`] octets.
    pub fn carry(&mut self, packet: &mut [u8], now: Instant) {
        let came = Position::read(packet);
        if self.source != Some(came.ssrc) {
            self.begin(came, packet, now);
        }
        let leaves = came.plus(self.shift);
        if self.shift != Position::default() {
            leaves.write(packet);
        }
        let newer = |(newest, _): (Position, _)| leaves.sequence.wrapping_sub(newest.sequence) < 0x8000;
        if self.newest.is_none_or(newer) {
            self.advance(leaves, now);
        }
    }

    fn advance(&mut self, position: Position, at: Instant) {
        self.wraps = self.wraps_at(position);
        self.newest = Some((position, at));
    }

    /// How often the sequence numbers have wrapped when this is the newest.
    fn wraps_at(&self, position: Position) -> u32 {
        let wrapped = self.newest.is_some_and(|(newest, _)| position.sequence < newest.sequence);
        self.wraps.wrapping_add(u32::from(wrapped) << 16)
    }

    fn begin(&mut self, came: Position, packet: &mut [u8], now: Instant) {
        self.source = Some(came.ssrc);
        if let Some(next) = self.next(now) {
            self.shift = next.minus(came);
            packet[1] |= MARKER;
        }
        let leaves = came.plus(self.shift);
        self.first = (self.wraps_at(leaves) | u32::from(leaves.sequence), came.sequence);
        self.lost.1 = self.lost.0;
        self.reported = None;
    }

    /// Writes the header of a packet of our own, due at `due`, before its payload; `starts` for the first of a sound.
    pub fn originate(&mut self, packet: &mut [u8], payload_type: u8, starts: bool, due: Instant) {
        let position = self.next(due).unwrap_or_else(|| Position {
            ssrc: rand::random(),
            sequence: rand::random(),
            timestamp: rand::random(),
        });
        packet[0] = 0x80;
        packet[1] = payload_type | if starts { MARKER } else { 0 };
        position.write(packet);
        self.source = None;
        self.advance(position, due);
    }

    /// Where a new source has to go on: the next sequence number, and the time passed since the newest packet, which
    /// itself lasts one frame. `None` when nothing was ever sent.
    fn next(&self, now: Instant) -> Option<Position> {
        let (newest, at) = self.newest?;
        let step = Position { ssrc: 0, sequence: 1, timestamp: samples(now, at).max(FRAME as u32) };
        Some(newest.plus(step))
    }

    /// Where the stream stands now; `None` when nothing was ever sent.
    pub fn position(&self, now: Instant) -> Option<Position> {
        let (newest, at) = self.newest?;
        Some(newest.plus(Position { timestamp: samples(now, at), ..Position::default() }))
    }

    /// What the far side knows the stream by.
    pub fn ssrc(&self) -> Option<u32> {
        self.newest.map(|(newest, _)| newest.ssrc)
    }

    /// A sender report of this SSRC goes to the far side: the same moment in the stream it hears. `None` when the
    /// sender is not the present source.
    pub fn sent(&mut self, sender: u32, moment: Moment) -> Option<Moment> {
        (self.source == Some(sender)).then(|| {
            self.reported = Some(moment.middle());
            Moment { timestamp: moment.timestamp.wrapping_add(self.shift.timestamp), ..moment }
        })
    }

    /// What the far side says of the stream, as the present source would hear it said of its own: its SSRC, its
    /// sequence numbers, what was lost since it began, and its own sender report or none (RFC 3550 section 6.4.1).
    /// `None` when there is no source or the far side has not heard it yet.
    pub fn told(&mut self, block: Block) -> Option<(u32, Block)> {
        self.lost.0 = block.lost;
        let (first, came) = self.first;
        let since = block.highest.wrapping_sub(first);
        let source = self.source.filter(|_| since < 1 << 31)?;
        let known = self.reported == Some(block.last_report);
        let own = Block {
            lost: block.lost.wrapping_sub(self.lost.1) & Block::LARGEST_LOSS,
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
            outgoing.carry(&mut relayed, now);
            assert_eq!(relayed, packet(5, sequence, timestamp));
        }
        assert_eq!(outgoing.newest.map(|(newest, _)| newest.sequence), Some(2), "reordering does not go back");
    }

    #[test]
    fn m4_later_sources_continue_the_stream() {
        let (mut outgoing, start) = (Outgoing::default(), crate::clock::now());
        let after = |ms| start + Duration::from_millis(ms);
        outgoing.carry(&mut packet(5, 100, 1000), start);

        let mut own = [0; 172];
        outgoing.originate(&mut own, 0, true, after(500));
        assert_eq!(Position::read(&own), Position { ssrc: 5, sequence: 101, timestamp: 5000 });
        assert_eq!(own[1], MARKER, "marked where it starts");
        outgoing.originate(&mut own, 0, false, after(520));
        assert_eq!(Position::read(&own), Position { ssrc: 5, sequence: 102, timestamp: 5160 });
        assert_eq!(own[1], 0);

        let mut relayed = packet(9, 40_000, 77);
        outgoing.carry(&mut relayed, after(530));
        assert_eq!(
            Position::read(&relayed),
            Position { ssrc: 5, sequence: 103, timestamp: 5320 },
            "one frame at least"
        );
        assert_eq!(relayed[1], MARKER);
        let mut relayed = packet(9, 40_001, 237);
        outgoing.carry(&mut relayed, after(550));
        assert_eq!(Position::read(&relayed), Position { ssrc: 5, sequence: 104, timestamp: 5480 });
        assert_eq!(relayed[1], 0);
    }

    const BLOCK: Block = Block { fraction: 3, lost: 7, highest: 102, jitter: 11, last_report: 0, delay: 9 };

    #[test]
    fn m8_a_sender_report_tells_the_moment_as_the_far_side_counts() {
        let (mut outgoing, now) = (Outgoing::default(), crate::clock::now());
        let moment = Moment { ntp: 0x1111_2222_3333_4444, timestamp: 2000 };
        assert_eq!(outgoing.sent(9, moment), None, "nobody was heard yet");
        outgoing.carry(&mut packet(5, 100, 1000), now);
        assert_eq!(outgoing.sent(5, moment), Some(moment), "the first source is untouched");
        outgoing.change_source();
        assert_eq!(outgoing.sent(5, moment), None, "it is not heard any more");
        outgoing.carry(&mut packet(9, 200, 2000), now); // now 5, 101, 1160
        assert_eq!(outgoing.sent(9, moment), Some(Moment { timestamp: 1160, ..moment }));
        assert_eq!(outgoing.sent(5, moment), None);
    }

    #[test]
    fn m8_a_source_is_told_of_itself_alone() {
        let (mut outgoing, now) = (Outgoing::default(), crate::clock::now());
        outgoing.carry(&mut packet(5, 65_535, 1000), now);
        assert_eq!(outgoing.told(Block { highest: 65_535, ..BLOCK }).unwrap().1.lost, 7);
        assert_eq!(outgoing.sent(5, Moment { ntp: 0x1_0000, timestamp: 0 }).unwrap().middle(), 1);
        outgoing.change_source();
        assert_eq!(outgoing.told(Block { highest: 65_535, ..BLOCK }), None, "no source, nobody to tell");
        for sequence in 200..300 {
            outgoing.carry(&mut packet(9, sequence, 2000), now); // 65,536 and on, as the far side counts
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
        outgoing.carry(&mut packet(5, 65_530, 0), now);
        outgoing.change_source();
        let sequences = (0..70_000_u32).map(|n| (65_000 + n) as u16);
        sequences.for_each(|sequence| outgoing.carry(&mut packet(9, sequence, 0), now));
        let told = outgoing.told(Block { highest: 65_531 + 69_999, ..BLOCK });
        assert_eq!(told.map(|(_, block)| block.highest), Some(65_000 + 69_999));
    }
}
