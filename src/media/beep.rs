//! The tone by which both sides of a call notice that it is recorded. It is mixed into what they hear, so that nothing
//! said is lost under it. Pure.

use std::time::{Duration, Instant};

use rtp_rs::RtpReader;

use super::tones::{RATE, a_law, from_a_law, from_mu_law, mu_law, payload_type};
use crate::b2bua::io::Law;

/// As recorders in North America sound (47 CFR 64.501): 1,400 Hz.
const HERTZ: f64 = 1400.0;
/// 200 ms.
const LENGTH: usize = RATE / 5;
/// About -20 dBm0: heard beside speech, and softer than it.
const AMPLITUDE: f64 = 2200.0;

/// The tone towards one side, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beep {
    every: Duration,
    due: Instant,
    /// How much of the present tone has been heard.
    sample: usize,
}

impl Beep {
    /// At once, and then so often.
    pub fn new(every: Duration, now: Instant) -> Self {
        Self { every, due: now, sample: 0 }
    }

    /// Mixes into a packet, in place, what of the tone falls into it. Packets without G.711 stay as they are.
    pub fn mix(&mut self, packet: &mut [u8], now: Instant) {
        if now < self.due {
            return;
        }
        let Ok(reader) = RtpReader::new(packet) else { return };
        let number = reader.payload_type();
        let Some(law) = [Law::Mu, Law::A].into_iter().find(|law| payload_type(*law) == number) else { return };
        let start = reader.payload_offset();
        let end = start + reader.payload().len();
        for octet in &mut packet[start..end] {
            if self.sample == LENGTH {
                break;
            }
            *octet = mixed(*octet, tone(self.sample), law);
            self.sample += 1;
        }
        if self.sample == LENGTH {
            *self = Self::new(self.every, now + self.every);
        }
    }
}

fn mixed(octet: u8, more: i16, law: Law) -> u8 {
    match law {
        Law::Mu => mu_law(from_mu_law(octet).saturating_add(more)),
        Law::A => a_law(from_a_law(octet).saturating_add(more)),
    }
}

fn tone(sample: usize) -> i16 {
    (AMPLITUDE * (std::f64::consts::TAU * HERTZ * sample as f64 / RATE as f64).sin()) as i16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::tones::tests::strength;

    fn packet(number: u8, octet: u8) -> Vec<u8> {
        [&[0x80, number, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9][..], &[octet; 160]].concat()
    }

    #[test]
    fn it_is_heard_for_a_fifth_of_a_second_and_then_every_so_often() {
        let start = crate::clock::now();
        for (number, quiet, decode) in [(0, 0xff, from_mu_law as fn(u8) -> i16), (8, 0xd5, from_a_law)] {
            let mut beep = Beep::new(Duration::from_secs(15), start);
            let mut heard = |ms: u64| {
                let mut packet = packet(number, quiet);
                beep.mix(&mut packet, start + Duration::from_millis(ms));
                packet[12..].iter().map(|octet| decode(*octet)).collect::<Vec<i16>>()
            };
            let loud: Vec<i16> = (0..10).flat_map(|frame| heard(20 * frame)).collect();
            assert!(strength(&loud, HERTZ) > 2000.0, "{}", strength(&loud, HERTZ));
            for ms in [200, 5_000, 15_100] {
                assert!(heard(ms).iter().all(|sample| sample.abs() <= 8), "{ms} ms: quiet between two of them");
            }
            assert!(strength(&heard(15_180), HERTZ) > 2000.0);
        }
    }

    #[test]
    fn what_is_said_under_it_stays_and_what_is_no_g711_is_left_alone() {
        let start = crate::clock::now();
        let loud = mu_law(32_000);
        let mut spoken = packet(0, loud);
        Beep::new(Duration::from_secs(15), start).mix(&mut spoken, start);
        assert!(spoken[12..].iter().all(|&octet| from_mu_law(octet) > 28_000), "no overflow");
        for same in [packet(101, 7), vec![0x80; 5]] {
            let mut left = same.clone();
            Beep::new(Duration::from_secs(15), start).mix(&mut left, start);
            assert_eq!(left, same);
        }
    }
}
