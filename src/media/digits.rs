//! Telephone events in RTP (RFC 4733): which keys a far side presses, each told once, and how keys are said to it that
//! came another way.
//!
//! Every packet of one event has the event's timestamp and says how long it lasts so far; the last one is sent three
//! times. Any of them may be lost, late or doubled, and not everybody does as the standard says: the sequence number
//! tells what is late, and an event that goes on under another timestamp is still the same key.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rtp_rs::RtpReader;

use super::tones::FRAME;
use crate::b2bua::io::Digit;

/// Keys of one far side that are told of in a second; nobody presses more, and a flood reaches nobody.
const MOST_A_SECOND: u8 = 50;
/// A packet that is so many behind the newest one is late or doubled; further back a sender has begun anew.
const REORDERED: u16 = 100;
/// Longer than this after the newest one no packet is late: its number only looks so, the numbers having wrapped.
const LATE: Duration = Duration::from_secs(60);
/// An event that goes on under another timestamp (RFC 4733 section 2.5.1.3) begins where the last packet ended, or 50 ms
/// later where packets were lost; in samples.
const LOST: u32 = 400;
/// Octets of an event in a packet.
pub const EVENT: usize = 4;

/// The last packet of a key of ours is sent twice more (RFC 4733 section 2.5.1.4), and 60 ms follow in which nothing is said.
const REPEATS: u16 = 2;
const PAUSE: u16 = 3;
/// Keys of ours that wait for each other; more are not said.
const MOST_WAITING: usize = 64;
/// What a frame lasts.
const PACKET: Duration = Duration::from_millis(20);
/// Frames that a key waits whose presser has agreed to telephone events and sent none yet: whether he sends both is not known
/// before.
const DOUBT: u16 = 10;
/// -10 dBm0.
const VOLUME: u8 = 10;
const END: u8 = 0x80;

/// Keys that a far side is to hear of us, one after the other, a packet at each frame.
#[derive(Debug, Default)]
pub struct Saying {
    /// Each with the frames that it lasts.
    keys: VecDeque<(Digit, u16)>,
    /// Frames before the first one begins.
    wait: u16,
    /// How many frames of the first one have passed.
    frame: u16,
    /// Its timestamp.
    timestamp: u32,
}

/// What a frame of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// A packet, the first of its event or a later one with this timestamp, with this payload.
    Packet(Option<u32>, [u8; EVENT]),
    /// Nothing: a pause between keys.
    Pause,
}

impl Saying {
    /// One more key. `doubtful`: its event may come yet.
    pub fn press(&mut self, digit: Digit, lasts: Duration, doubtful: bool) {
        if self.keys.is_empty() && doubtful {
            self.wait = DOUBT;
        }
        if self.keys.len() < MOST_WAITING {
            let frames = lasts.as_millis().div_ceil(PACKET.as_millis()).clamp(1, 400) as u16;
            self.keys.push_back((digit, frames));
        }
    }

    /// Whether the first key has not begun.
    pub fn waits(&self) -> bool {
        self.wait > 0
    }

    /// One frame less to wait, if there is one.
    pub fn pass(&mut self) -> bool {
        let waited = self.waits();
        self.wait = self.wait.saturating_sub(1);
        waited
    }

    /// Whether this key is among them.
    pub fn says(&self, digit: Digit) -> bool {
        self.keys.iter().any(|(key, _)| *key == digit)
    }

    /// Whether there is nothing to say.
    pub fn is_over(&self) -> bool {
        self.keys.is_empty()
    }

    /// The next frame.
    pub fn frame(&mut self) -> Said {
        let Some((digit, length)) = self.keys.front().copied() else { return Said::Pause };
        let frame = self.frame;
        self.frame += 1;
        if self.frame == length + REPEATS + PAUSE {
            self.frame = 0;
            self.keys.pop_front();
        }
        if frame >= length + REPEATS {
            return Said::Pause;
        }
        let duration = FRAME as u16 * (frame + 1).min(length);
        let end = if frame + 1 >= length { END } else { 0 };
        let [high, low] = duration.to_be_bytes();
        let begun = (frame > 0).then_some(self.timestamp);
        Said::Packet(begun, [digit.event(), end | VOLUME, high, low])
    }

    /// The key has begun at this timestamp, which all its packets have.
    pub fn begun(&mut self, timestamp: u32) {
        self.timestamp = timestamp;
    }
}

/// What has been pressed of late. Plain data.
#[derive(Debug, Default)]
pub struct Presses {
    newest: Option<Event>,
    /// When that was.
    heard: Option<Instant>,
    /// Whether the newest press is one that its hearer was told of another way.
    drowned: bool,
    /// The second that is counted, and the keys in it.
    second: Option<(Instant, u8)>,
}

/// One packet of an event.
#[derive(Debug, Clone, Copy)]
struct Event {
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    marker: bool,
    code: u8,
    ended: bool,
    /// In samples.
    duration: u16,
}

impl Presses {
    /// The key that this packet, one of telephone events, is the first to tell of.
    pub fn hear(&mut self, packet: &[u8], now: Instant) -> Option<Digit> {
        let event = Event::read(packet)?;
        let digit = Digit::of_event(event.code)?;
        (self.is_new(event, now) && self.has_room(now)).then_some(digit)
    }

    /// Whether any key was pressed so.
    pub fn are_any(&self) -> bool {
        self.newest.is_some()
    }

    /// The key of the newest press.
    pub fn newest(&self) -> Option<Digit> {
        Digit::of_event(self.newest?.code)
    }

    /// The hearer of the newest press is told of it another way: none of its packets is for him.
    pub fn drown(&mut self) {
        self.drowned = true;
    }

    /// Whether the newest press is such a one.
    pub fn is_drowned(&self) -> bool {
        self.drowned
    }

    fn is_new(&mut self, event: Event, now: Instant) -> bool {
        let lately = self.heard.is_some_and(|heard| now.saturating_duration_since(heard) < LATE);
        let same_source = self.newest.filter(|newest| newest.ssrc == event.ssrc);
        let late = |newest: Event| newest.sequence.wrapping_sub(event.sequence) < REORDERED;
        if lately && same_source.is_some_and(late) {
            return false;
        }
        (self.newest, self.heard) = (Some(event), Some(now));
        let is_new = !same_source.is_some_and(|newest| newest.goes_on_as(event));
        self.drowned &= !is_new;
        is_new
    }

    fn has_room(&mut self, now: Instant) -> bool {
        let (since, told) = self
            .second
            .filter(|(since, _)| now.saturating_duration_since(*since) < Duration::from_secs(1))
            .unwrap_or((now, 0));
        let room = told < MOST_A_SECOND;
        self.second = Some((since, told + u8::from(room)));
        room
    }
}

impl Event {
    fn read(packet: &[u8]) -> Option<Self> {
        let rtp = RtpReader::new(packet).ok()?;
        let payload: [u8; EVENT] = rtp.payload().get(..EVENT)?.try_into().ok()?;
        Some(Self {
            ssrc: rtp.ssrc(),
            sequence: rtp.sequence_number().into(),
            timestamp: rtp.timestamp(),
            marker: rtp.mark(),
            code: payload[0],
            ended: payload[1] & 0x80 != 0,
            duration: u16::from_be_bytes([payload[2], payload[3]]),
        })
    }

    /// Whether a newer packet belongs to the same press.
    fn goes_on_as(self, newer: Self) -> bool {
        let passed = newer.timestamp.wrapping_sub(self.timestamp);
        let lasted = u32::from(self.duration);
        newer.code == self.code
            && match (passed, self.ended) {
                // After its end only its end comes again; all else is the next press of who never changes the timestamp.
                (0, true) => newer.ended,
                (0, false) => true,
                (_, true) => !newer.marker && newer.ended && passed <= lasted,
                (_, false) => !newer.marker && passed <= lasted + LOST,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sender of telephone events, and what was told of them.
    struct Keypad {
        presses: Presses,
        now: Instant,
        sequence: u16,
        timestamp: u32,
        told: String,
    }

    impl Keypad {
        fn new() -> Self {
            let now = crate::clock::now();
            Self { presses: Presses::default(), now, sequence: 65_530, timestamp: u32::MAX - 300, told: String::new() }
        }

        /// The packets of one press: begun with a marker, one each 20 ms, ended three times.
        fn press(&mut self, key: char, ms: u32) -> Vec<Vec<u8>> {
            let (begun, steps) = (self.timestamp, ms / 20);
            let durations = (1..=steps).chain([steps, steps]).map(|step| (step * 160) as u16);
            let packets = durations.enumerate().map(|(at, duration)| {
                self.sequence = self.sequence.wrapping_add(1);
                event(key, self.sequence, begun, at == 0, at as u32 + 1 >= steps, duration)
            });
            let packets = packets.collect();
            self.timestamp = begun.wrapping_add((ms + 40) * 8);
            packets
        }

        fn hear(&mut self, packets: &[Vec<u8>]) {
            for packet in packets {
                self.now += Duration::from_millis(20);
                self.told.extend(self.presses.hear(packet, self.now).map(Digit::key));
            }
        }
    }

    #[test]
    fn m5_a_key_of_ours_lasts_as_long_as_it_was_down() {
        let mut saying = Saying::default();
        saying.press(Digit::read('7').unwrap(), Duration::from_millis(250), false);
        let mut durations = Vec::new();
        while !saying.is_over() {
            if let Said::Packet(_, [7, volume, high, low]) = saying.frame() {
                durations.push((u16::from_be_bytes([high, low]), volume & END != 0));
            }
        }
        assert_eq!(durations.len(), 15, "250 ms are 13 packets, and the end comes three times: {durations:?}");
        assert_eq!((durations[11], durations[12], durations[14]), ((1920, false), (2080, true), (2080, true)));
    }

    #[test]
    fn m5_a_key_long_after_the_last_one_is_not_late_whatever_its_number() {
        let mut keypad = Keypad::new();
        let first = keypad.press('1', 100);
        keypad.hear(&first);
        keypad.hear(&first);
        assert_eq!(keypad.told, "1", "doubled");
        // Speech for almost a turn of the sequence number.
        keypad.sequence = keypad.sequence.wrapping_sub(20);
        keypad.now += Duration::from_secs(1_310);
        let second = keypad.press('1', 100);
        keypad.hear(&second);
        assert_eq!(keypad.told, "11");
    }

    fn event(key: char, sequence: u16, timestamp: u32, marker: bool, ended: bool, duration: u16) -> Vec<u8> {
        let code = "0123456789*#ABCD".find(key).unwrap_or(16) as u8;
        let mut packet = vec![0x80, 101 | if marker { 0x80 } else { 0 }];
        packet.extend(sequence.to_be_bytes());
        packet.extend(timestamp.to_be_bytes());
        packet.extend(7_u32.to_be_bytes());
        packet.extend([code, 10 | if ended { 0x80 } else { 0 }]);
        packet.extend(duration.to_be_bytes());
        packet
    }

    #[test]
    fn m5_every_key_is_told_once() {
        let mut pad = Keypad::new();
        let keys = "0123456789*#ABCD55";
        for key in keys.chars() {
            let packets = pad.press(key, 100);
            pad.hear(&packets);
        }
        assert_eq!(pad.told, keys);
    }

    #[test]
    fn m5_whatever_is_lost_but_one_packet() {
        for kept in 0..7 {
            let mut pad = Keypad::new();
            for key in "1123".chars() {
                let packets = pad.press(key, 100);
                pad.hear(&packets[kept..=kept]);
            }
            assert_eq!(pad.told, "1123", "packet {kept}");
        }
    }

    #[test]
    fn m5_doubled_and_late_packets_tell_nothing_new() {
        let mut pad = Keypad::new();
        let (five, six) = (pad.press('5', 60), pad.press('6', 60));
        let doubled: Vec<_> = five.iter().flat_map(|packet| [packet.clone(), packet.clone()]).collect();
        pad.hear(&doubled);
        pad.hear(&six[..1]);
        pad.hear(&five[2..]);
        pad.hear(&six[1..]);
        pad.hear(&six);
        assert_eq!(pad.told, "56");
    }

    #[test]
    fn m5_a_key_held_for_longer_than_a_duration_can_say() {
        let mut pad = Keypad::new();
        let (mut sequence, mut begun) = (0, 0_u32);
        for segment in 0..3_u32 {
            for step in 1..=5_u16 {
                sequence += 1;
                pad.hear(&[event('9', sequence, begun, segment == 0 && step == 1, false, 0xffff / 5 * step)]);
            }
            begun = begun.wrapping_add(0xffff);
        }
        pad.hear(&[event('9', sequence + 1, begun, false, true, 160)]);
        assert_eq!(pad.told, "9");
    }

    #[test]
    fn m5_senders_that_never_or_always_change_the_timestamp() {
        let mut pad = Keypad::new();
        for key in "447".chars() {
            let packets = pad.press(key, 60);
            pad.timestamp = u32::MAX - 300;
            pad.hear(&packets);
        }
        assert_eq!(pad.told, "447", "one timestamp for all");
        let mut pad = Keypad::new();
        for press in 0..2_u32 {
            for (at, (duration, ended)) in
                [(160, false), (320, false), (480, true), (480, true), (480, true)].iter().enumerate()
            {
                let at = at as u32;
                let packet = event('8', (press * 5 + at) as u16, press * 2000 + at * 160, at == 0, *ended, *duration);
                pad.hear(&[packet]);
            }
        }
        assert_eq!(pad.told, "88", "another one in every packet");
    }

    #[test]
    fn a_new_source_begins_anew() {
        let mut pad = Keypad::new();
        let mut packets = pad.press('1', 60);
        pad.hear(&packets);
        packets.iter_mut().for_each(|packet| packet[11] = 8);
        pad.hear(&packets);
        assert_eq!(pad.told, "11");
    }

    #[test]
    fn what_is_no_key_and_what_is_no_event_tells_nothing() {
        let mut pad = Keypad::new();
        pad.hear(&[event('?', 1, 0, true, false, 160)]);
        let whole = event('1', 2, 160, true, false, 160);
        for length in 0..whole.len() {
            pad.hear(&[whole[..length].to_vec()]);
        }
        assert_eq!(pad.told, "");
    }

    #[test]
    fn a_flood_is_told_of_in_part() {
        let (mut presses, start) = (Presses::default(), crate::clock::now());
        let flood = |presses: &mut Presses, from: u16, now: Instant| {
            let packets = (from..from + 1000).map(|n| event('1', n, u32::from(n) * 9000, true, true, 160));
            packets.filter(|packet| presses.hear(packet, now).is_some()).count()
        };
        assert_eq!(flood(&mut presses, 0, start), usize::from(MOST_A_SECOND));
        assert_eq!(flood(&mut presses, 1000, start + Duration::from_secs(1)), usize::from(MOST_A_SECOND));
    }
}
