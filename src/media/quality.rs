//! How well a leg is heard, each way: loss, jitter and round trip as RTCP tells them (RFC 3550 sections 6.4 and A.3,
//! A.8), and what people would say of it (the E-model, ITU-T G.107). Pure.
//!
//! Timestamps count 8 kHz samples, as in [`super::stream`].

use std::time::{Duration, Instant};

use super::report::{Block, Moment, Word};
use super::stream::Position;
use crate::leg::{MediaCounters, Mos, Quality};

/// A sequence number that is further away begins the count anew (RFC 3550 appendix A.1).
const DROPOUT: u16 = 3000;
/// Transit times that differ by a second are no jitter: the far side has set its clock.
const CLOCK_SET: u32 = 8000;
/// Nanoseconds of a sample. A count of 64 bits lasts for 584 years, and is divided by one instruction.
const SAMPLE: u64 = 125_000;
/// Between two reports of ours, on average and before it is drawn by lot (RFC 3550 section 6.2); half of it before the
/// first.
const INTERVAL: Duration = Duration::from_secs(5);
/// Makes up for what drawing by lot does to the average (RFC 3550 section 6.3.1).
const COMPENSATION: f64 = 1.218_28;

/// What is known of one leg: how its packets come, at hand; all else behind a pointer that packets do not follow.
#[derive(Debug, Default)]
pub struct Ear {
    received: u64,
    ssrc: Option<u32>,
    /// The highest sequence number with its wraps.
    highest: u32,
    /// The newest timestamp, and the time its packet was under way as far as the clocks tell.
    newest: Option<(u32, u32)>,
    /// In sixteenths of a sample.
    jitter: u32,
    rest: Box<Rest>,
}

#[derive(Debug, Default)]
struct Rest {
    /// The sequence number with which the present count began.
    first: u32,
    /// Expected and received before the present count,
    before: Count,
    /// before the present source,
    others: Count,
    /// and when we last reported.
    reported: Count,
    /// The newest sender report of the far side: whose it is, the middle of its NTP time, and when it came.
    theirs: Option<(u32, u32, Instant)>,
    /// The newest one it was sent, ours or its peer's.
    ours: Option<(u32, Instant)>,
    /// What the far side last said of the stream it hears: packets lost, jitter in samples.
    told: Option<(u32, u32)>,
    round_trip: Option<Duration>,
    /// When the next report of ours is due; `None` while we are not the source.
    due: Option<Instant>,
}

/// Packets that were sent, as far as their numbers tell, and those that came.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    expected: u64,
    received: u64,
}

impl Count {
    fn since(self, before: Self) -> Self {
        let expected = self.expected.saturating_sub(before.expected); // its numbers may wrap
        Self { expected, received: self.received - before.received }
    }

    fn lost(self) -> u64 {
        self.expected.saturating_sub(self.received)
    }
}

impl Ear {
    /// Whether RTP has come from the far side.
    pub fn has_heard(&self) -> bool {
        self.received > 0
    }

    /// RTP has come from the far side, so long after a time that is the same for all its packets.
    pub fn hear(&mut self, position: Position, at: Duration) {
        let ahead = position.sequence.wrapping_sub(self.highest as u16);
        let far = DROPOUT < ahead && ahead < DROPOUT.wrapping_neg();
        if self.ssrc != Some(position.ssrc) || far {
            self.begin(position);
        } else if ahead < DROPOUT {
            self.highest = self.highest.wrapping_add(ahead.into());
        }
        self.received += 1;
        self.time(position.timestamp, at);
    }

    /// A new source, or a jump: the count begins anew.
    #[cold]
    fn begin(&mut self, position: Position) {
        self.rest.before = self.count();
        if self.ssrc != Some(position.ssrc) {
            (self.rest.others, self.rest.reported) = (self.rest.before, self.rest.before);
        }
        (self.rest.first, self.highest) = (position.sequence.into(), position.sequence.into());
        (self.ssrc, self.newest) = (Some(position.ssrc), None);
    }

    /// Packets that share a timestamp, such as those of a telephone event (RFC 4733), say nothing of the network.
    fn time(&mut self, timestamp: u32, at: Duration) {
        if self.newest.is_some_and(|(newest, _)| newest == timestamp) {
            return;
        }
        let arrived = (at.as_nanos() as u64 / SAMPLE) as u32;
        let transit = arrived.wrapping_sub(timestamp);
        if let Some((_, before)) = self.newest {
            let differs = (transit.wrapping_sub(before) as i32).unsigned_abs();
            if differs < CLOCK_SET {
                self.jitter = (self.jitter + differs).saturating_sub((self.jitter + 8) >> 4);
            }
        }
        self.newest = Some((timestamp, transit));
    }

    /// Since the beginning.
    fn count(&self) -> Count {
        let run = self.ssrc.map_or(0, |_| u64::from(self.highest.wrapping_sub(self.rest.first)) + 1);
        Count { expected: self.rest.before.expected + run, received: self.received }
    }

    /// The far side has said this.
    pub fn read(&mut self, word: &Word, now: Instant) {
        if let Some((ssrc, moment)) = word.sends {
            self.rest.theirs = Some((ssrc, moment.middle(), now));
        }
        if let Some(block) = word.hears {
            self.read_block(block, now);
        }
    }

    fn read_block(&mut self, block: Block, now: Instant) {
        let rest = &mut *self.rest;
        // Twenty-four bits with a sign: duplicates make it negative.
        rest.told = Some((if block.lost < 0x80_0000 { block.lost } else { 0 }, block.jitter));
        if let Some((_, sent)) = rest.ours.filter(|(middle, _)| *middle == block.last_report) {
            let kept = Duration::from_secs_f64(f64::from(block.delay) / f64::from(1 << 16));
            rest.round_trip = now.saturating_duration_since(sent).checked_sub(kept).or(rest.round_trip);
        }
    }

    /// The far side is told of this moment in the stream it hears.
    pub fn tell(&mut self, moment: Moment, now: Instant) {
        self.rest.ours = Some((moment.middle(), now));
    }

    /// Whether a report of ours is due, by this lot between 0 and 1, which is drawn only where we are the source.
    pub fn is_due(&mut self, sounding: bool, lot: impl FnOnce() -> f64, now: Instant) -> bool {
        let due = &mut self.rest.due;
        if !sounding {
            *due = None;
            return false;
        }
        let drawn = INTERVAL.mul_f64((0.5 + lot()) / COMPENSATION);
        let is_due = now >= *due.get_or_insert(now + drawn / 2);
        if is_due {
            *due = Some(now + drawn);
        }
        is_due
    }

    /// What we say of the far side's stream, and its SSRC: of this SSRC alone (RFC 3550 section 6.4.1). `None` while
    /// nothing has come.
    pub fn hears(&mut self, now: Instant) -> Option<(u32, Block)> {
        let ssrc = self.ssrc?;
        let theirs = self.rest.theirs.filter(|(sender, ..)| *sender == ssrc);
        let (last_report, delay) = theirs.map_or((0, 0), |(_, middle, at)| {
            (middle, (now.saturating_duration_since(at).as_secs_f64() * f64::from(1 << 16)) as u32)
        });
        let block = Block {
            fraction: self.fraction_lost(),
            lost: self.count().since(self.rest.others).lost().min(0x7f_ffff) as u32,
            highest: self.highest,
            jitter: self.jitter >> 4,
            last_report,
            delay,
        };
        Some((ssrc, block))
    }

    /// Of 256 packets since the last report, how many were lost.
    fn fraction_lost(&mut self) -> u8 {
        let count = self.count();
        let passed = count.since(std::mem::replace(&mut self.rest.reported, count));
        (256 * passed.lost()).checked_div(passed.expected).unwrap_or(0).min(255) as u8
    }

    /// These counters with what is known here, and how it sounds.
    pub fn judge(&self, counters: MediaCounters) -> MediaCounters {
        let delay = self.rest.round_trip.unwrap_or_default() / 2;
        let count = self.count();
        let heard = self.ssrc.map(|_| quality(count.lost(), count.expected, self.jitter >> 4, delay));
        let told = self.rest.told.map(|(lost, jitter)| quality(lost.into(), counters.sent_packets, jitter, delay));
        MediaCounters {
            received_packets: self.received,
            inbound: heard,
            outbound: told,
            round_trip_us: self.rest.round_trip.map(|time| time.as_micros() as u64),
            ..counters
        }
    }
}

fn quality(lost: u64, of: u64, jitter: u32, delay: Duration) -> Quality {
    let jitter = Duration::from_micros(u64::from(jitter) * 125);
    let share = if of == 0 { 0.0 } else { (lost as f64 / of as f64).min(1.0) };
    // A packet of 20 ms, and a buffer at the far end that holds twice the jitter.
    let mouth_to_ear = delay + Duration::from_millis(20) + 2 * jitter;
    Quality { lost_packets: lost, jitter_us: jitter.as_micros() as u64, mos: mos(share, mouth_to_ear) }
}

/// The E-model's mean opinion score (ITU-T G.107 with its default values, loss by G.113 appendix I for G.711 with
/// concealment, delay by the usual two straight lines).
fn mos(lost: f64, mouth_to_ear: Duration) -> Mos {
    const BEST: f64 = 93.2;
    const ROBUSTNESS: f64 = 25.1;
    let ms = mouth_to_ear.as_secs_f64() * 1000.0;
    let late = 0.024 * ms + 0.11 * (ms - 177.3).max(0.0);
    let percent = 100.0 * lost;
    let r = (BEST - late - 95.0 * percent / (percent + ROBUSTNESS)).clamp(0.0, 100.0);
    let score = 1.0 + 0.035 * r + 7e-6 * r * (r - 60.0) * (100.0 - r);
    Mos((100.0 * score.clamp(1.0, 4.5)).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: Duration = Duration::from_millis(20);

    fn at(sequence: u16, timestamp: u32) -> Position {
        Position { ssrc: 5, sequence, timestamp }
    }

    #[test]
    fn what_is_missing_is_lost_and_what_comes_late_is_not() {
        let mut ear = Ear::default();
        // Of 100 packets across the wrap 10 never come, and every pair of the rest but the first is swapped.
        let order = (0..100_u16).filter(|n| n % 10 != 3).map(|n| if n < 2 { n } else { n ^ 1 });
        for n in order {
            ear.hear(at(65_500_u16.wrapping_add(n), u32::from(n) * 160), PACKET * u32::from(n));
        }
        let heard = ear.judge(MediaCounters::default()).inbound.unwrap();
        assert_eq!(heard.lost_packets, 10);
        assert_eq!(ear.fraction_lost(), 25, "a tenth of 256");
        assert_eq!(ear.fraction_lost(), 0, "nothing since");
        // Another source begins anywhere and loses nothing; so does a jump.
        for n in 0..50 {
            ear.hear(Position { ssrc: 6, ..at(7 + n, 0) }, PACKET);
            ear.hear(Position { ssrc: 6, ..at(7 + n, 0) }, PACKET);
        }
        ear.hear(Position { ssrc: 6, ..at(40_000, 0) }, PACKET);
        assert_eq!(ear.count().expected, 100 + 50 + 1);
    }

    #[test]
    fn numbers_that_jump_ahead_for_ever_wrap_the_count_and_nothing_breaks() {
        let mut ear = Ear::default();
        for step in 0..1_500_000_u32 {
            ear.hear(at((step as u16).wrapping_mul(2_998), 0), PACKET);
        }
        assert!(ear.hears(crate::clock::now()).is_some() && ear.hears(crate::clock::now()).is_some());
    }

    #[test]
    fn jitter_is_what_rfc_3550_says_and_a_telephone_event_has_none() {
        let mut ear = Ear::default();
        for n in 0..500_u16 {
            // Every second packet is 10 ms late: the difference is 80 samples each time.
            let late = Duration::from_millis(if n % 2 == 0 { 0 } else { 10 });
            ear.hear(at(n, u32::from(n) * 160), PACKET * u32::from(n) + late);
        }
        let jitter = ear.judge(MediaCounters::default()).inbound.unwrap().jitter_us;
        assert!((9_500..10_500).contains(&jitter), "{jitter} µs");
        let mut ear = Ear::default();
        for n in 0..100_u16 {
            let timestamp = if (40..60).contains(&n) { 40 * 160 } else { u32::from(n) * 160 };
            ear.hear(at(n, timestamp), PACKET * u32::from(n));
        }
        assert_eq!(ear.judge(MediaCounters::default()).inbound.unwrap().jitter_us, 0);
    }

    #[test]
    fn m8_what_the_far_side_answers_tells_loss_and_round_trip() {
        let (mut ours, mut theirs, start) = (Ear::default(), Ear::default(), crate::clock::now());
        assert_eq!(theirs.hears(start), None, "nothing has come");
        let moment = Moment::at(Duration::from_millis(1_700_000_000_500), 16_000);
        ours.tell(moment, start);
        // The far side has heard 98 of our 100 packets and answers a second after our report came, 30 ms away.
        theirs.read(&Word { sends: Some((5, moment)), hears: None }, start);
        (0..100).filter(|n| n % 50 != 7).for_each(|n| theirs.hear(at(n, u32::from(n) * 160), PACKET));
        let later = start + Duration::from_secs(1);
        let (ssrc, block) = theirs.hears(later).unwrap();
        assert_eq!((ssrc, block.lost, block.highest), (5, 2, 99));
        ours.read(&Word { sends: None, hears: Some(block) }, later + Duration::from_millis(30));
        let judged = ours.judge(MediaCounters { sent_packets: 100, ..MediaCounters::default() });
        assert_eq!(judged.outbound.unwrap().lost_packets, 2);
        let round_trip = judged.round_trip_us.unwrap();
        assert!(round_trip.abs_diff(30_000) < 50, "{round_trip} µs");
    }

    #[test]
    fn m8_a_report_of_ours_is_of_one_source_and_keeps_nothing_of_another() {
        let (mut ear, start) = (Ear::default(), crate::clock::now());
        (0..100).filter(|n| n % 10 != 3).for_each(|n| ear.hear(at(n, u32::from(n) * 160), PACKET));
        let moment = Moment::at(Duration::from_secs(1_700_000_000), 0);
        ear.read(&Word { sends: Some((5, moment)), hears: None }, start);
        let (_, block) = ear.hears(start).unwrap();
        assert_eq!((block.lost, block.fraction, block.last_report), (10, 25, moment.middle()));
        let next = |n: u16| Position { ssrc: 6, ..at(7_000 + n, 0) };
        [0, 1, 3].into_iter().for_each(|n| ear.hear(next(n), PACKET));
        let (ssrc, block) = ear.hears(start).unwrap();
        assert_eq!((ssrc, block.lost, block.fraction), (6, 1, 64), "one of four");
        assert_eq!((block.last_report, block.delay), (0, 0), "that was another's");
        ear.hear(Position { sequence: 20_000, ..next(0) }, PACKET);
        assert_eq!(ear.hears(start).unwrap().1.lost, 1, "a jump is no new source");
        assert_eq!(ear.judge(MediaCounters::default()).inbound.unwrap().lost_packets, 11, "of the leg, all");
    }

    #[test]
    fn reports_come_every_five_seconds_or_so_while_we_are_the_source() {
        let (mut ear, start) = (Ear::default(), crate::clock::now());
        let mut times = Vec::new();
        for step in 0..2000 {
            let now = start + PACKET * step;
            if ear.is_due(true, || 0.5, now) {
                times.push((now - start).as_millis());
            }
        }
        assert_eq!(times.len(), 10, "{times:?}");
        assert!((2000..2100).contains(&times[0]) && (4100..4200).contains(&(times[1] - times[0])), "{times:?}");
        assert!(!ear.is_due(false, || 0.5, start + Duration::from_secs(100)), "somebody else is");
        assert!(!ear.is_due(true, || 0.5, start + Duration::from_secs(101)), "and begins with a pause");
    }

    #[test]
    fn the_score_falls_with_loss_and_delay() {
        let score = |lost, ms| mos(lost, Duration::from_millis(ms)).0;
        assert_eq!(score(0.0, 0), 441, "the best that G.711 can be");
        assert!((400..=415).contains(&score(0.03, 50)), "R is 82: {}", score(0.03, 50));
        assert!((250..=330).contains(&score(0.0, 450)), "R is 52: {}", score(0.0, 450));
        assert_eq!(score(1.0, 10_000), 100);
        assert!(score(0.01, 50) > score(0.02, 50) && score(0.01, 50) > score(0.01, 250));
    }
}
