//! One continuous stream towards a far side, whatever its sources (design section 7, M4).
//!
//! The first source passes untouched. Every later one is shifted by three constants so that the far side keeps seeing
//! one SSRC, sequence numbers without a gap and timestamps that follow real time; a restart needs only the newest
//! packet's three numbers. Timestamps count 8 kHz samples, as all telephone codecs we let through do.

use std::time::Instant;

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
            self.newest = Some((leaves, now));
        }
    }

    fn begin(&mut self, came: Position, packet: &mut [u8], now: Instant) {
        self.source = Some(came.ssrc);
        if let Some(next) = self.next(now) {
            self.shift = next.minus(came);
            packet[1] |= MARKER;
        }
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
        self.newest = Some((position, due));
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

    /// How the present source's names were changed, for RTCP; `None` when they were not.
    pub fn renaming(&self) -> Option<Renaming> {
        let from = self.source.filter(|_| self.shift != Position::default())?;
        Some(Renaming { from, to: from.wrapping_add(self.shift.ssrc), shift: self.shift })
    }
}

/// Samples from one time to another.
fn samples(now: Instant, then: Instant) -> u32 {
    (now.saturating_duration_since(then).as_micros() * 8 / 1000) as u32
}

/// A source renamed: what it calls itself, and what the far side knows it as.
#[derive(Debug, Clone, Copy)]
pub struct Renaming {
    from: u32,
    to: u32,
    shift: Position,
}

/// True for a plausible RTCP packet: version 2, a packet type of RFC 3550 or 4585, whole in its datagram.
pub fn is_rtcp(packet: &[u8]) -> bool {
    packet.len() >= 8 && packet[0] >> 6 == 2 && (192..=223).contains(&packet[1]) && part(packet, 0) <= packet.len()
}

/// Edits a compound RTCP packet (RFC 3550 section 6): the sender's own SSRC and sender timestamp by `sender`, the
/// reports about what it hears by `heard`. Malformed parts are left as they are.
pub fn rename_rtcp(packet: &mut [u8], sender: Option<Renaming>, heard: Option<Renaming>) {
    let mut at = 0;
    while packet.len() >= at + 8 {
        let end = at + part(packet, at);
        if end > packet.len() {
            return;
        }
        let one = &mut packet[at..end];
        if let Some(sender) = sender {
            rename_sender(one, sender);
        }
        if let Some(heard) = heard {
            rename_reports(one, heard);
        }
        at = end;
    }
}

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;

/// Every packet type we know has its sender in the second word; a sender report its timestamp in the fifth.
fn rename_sender(packet: &mut [u8], sender: Renaming) {
    if packet.len() < 8 || word(packet, 4) != sender.from {
        return;
    }
    packet[4..8].copy_from_slice(&sender.to.to_be_bytes());
    if packet[1] == SENDER_REPORT && packet.len() >= 20 {
        let timestamp = word(packet, 16).wrapping_add(sender.shift.timestamp);
        packet[16..20].copy_from_slice(&timestamp.to_be_bytes());
    }
}

/// Report blocks name the stream as the far side knows it; here they get its own names back.
fn rename_reports(packet: &mut [u8], heard: Renaming) {
    const BLOCK: usize = 24;
    let first = match packet[1] {
        SENDER_REPORT => 28,
        RECEIVER_REPORT => 8,
        _ => return,
    };
    let count = usize::from(packet[0] & 0x1f);
    let blocks = packet.get_mut(first..).unwrap_or_default();
    for block in blocks.chunks_exact_mut(BLOCK).take(count).filter(|block| word(block, 0) == heard.to) {
        block[0..4].copy_from_slice(&heard.from.to_be_bytes());
        let highest = half(block, 10).wrapping_sub(heard.shift.sequence);
        block[10..12].copy_from_slice(&highest.to_be_bytes());
    }
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
        assert!(outgoing.renaming().is_none());
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

    #[test]
    fn m8_reports_are_renamed_like_the_stream() {
        let (mut outgoing, now) = (Outgoing::default(), crate::clock::now());
        outgoing.carry(&mut packet(5, 100, 1000), now);
        outgoing.change_source();
        outgoing.carry(&mut packet(9, 200, 2000), now); // now 5, 101, 1160

        let mut report = vec![0x80, SENDER_REPORT, 0, 6];
        report.extend([0; 24]);
        report[4..8].copy_from_slice(&9_u32.to_be_bytes());
        report[16..20].copy_from_slice(&2000_u32.to_be_bytes());
        report.extend([0x81, 202, 0, 2, 0, 0, 0, 9, 1, 0, 0, 0]); // SDES
        assert!(is_rtcp(&report));
        rename_rtcp(&mut report, outgoing.renaming(), None);
        assert_eq!((word(&report, 4), word(&report, 16), word(&report, 32)), (5, 1160, 5));

        let mut answer = vec![0x81, RECEIVER_REPORT, 0, 7, 0, 0, 0, 77];
        answer.extend([0; 24]);
        answer[8..12].copy_from_slice(&5_u32.to_be_bytes());
        answer[18..20].copy_from_slice(&101_u16.to_be_bytes());
        rename_rtcp(&mut answer, None, outgoing.renaming());
        assert_eq!((word(&answer, 4), word(&answer, 8), half(&answer, 18)), (77, 9, 200));
    }

    #[test]
    fn malformed_rtcp_is_left_alone() {
        let renaming = Renaming { from: 0, to: 1, shift: Position { ssrc: 1, sequence: 1, timestamp: 1 } };
        for length in 0..64 {
            for kind in [SENDER_REPORT, RECEIVER_REPORT, 202] {
                let mut garbage = vec![0; length];
                garbage.iter_mut().zip([0x9f, kind, 0, (length / 5) as u8]).for_each(|(to, from)| *to = from);
                is_rtcp(&garbage);
                rename_rtcp(&mut garbage, Some(renaming), Some(renaming));
            }
        }
    }
}
