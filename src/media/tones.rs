//! The sounds we make ourselves, as 20 ms frames of G.711 (ITU-T G.711, RFC 3551 section 4.5.14).
//!
//! Each sound is one precomputed loop per law; a frame is a slice of it, so that sending one costs no arithmetic.

use std::sync::LazyLock;

use crate::b2bua::io::{Law, Sound};

/// Samples, and in G.711 octets, in one frame: 20 ms at 8 kHz.
pub const FRAME: usize = 160;
const RATE: usize = 8000;

/// Linear amplitude of each ringback component: about -19 dBm0, as ITU-T E.180 and North American practice have it.
const RING_AMPLITUDE: f64 = 2500.0;
/// Uniform noise within ±180 has an RMS of 104, which is -50 dBFS.
const NOISE_AMPLITUDE: i32 = 180;

static RINGBACK: LazyLock<Loops> = LazyLock::new(|| Loops::of(&ringback()));
static COMFORT_NOISE: LazyLock<Loops> = LazyLock::new(|| Loops::of(&comfort_noise()));

/// Frame `number` of an endless sound: [`FRAME`] octets of the given law.
pub fn frame(sound: Sound, law: Law, number: usize) -> &'static [u8] {
    let loops: &'static Loops = match sound {
        Sound::Ringback => &RINGBACK,
        Sound::ComfortNoise => &COMFORT_NOISE,
    };
    let octets = match law {
        Law::Mu => &loops.mu,
        Law::A => &loops.a,
    };
    let start = number % (octets.len() / FRAME) * FRAME;
    &octets[start..start + FRAME]
}

/// Computes every loop now, so that the first call does not wait for it.
pub fn prepare() {
    LazyLock::force(&RINGBACK);
    LazyLock::force(&COMFORT_NOISE);
}

/// The static payload type of a law (RFC 3551 table 4).
pub fn payload_type(law: Law) -> u8 {
    match law {
        Law::Mu => 0,
        Law::A => 8,
    }
}

/// One period of a sound in both laws; whole frames.
struct Loops {
    mu: Vec<u8>,
    a: Vec<u8>,
}

impl Loops {
    fn of(samples: &[i16]) -> Self {
        debug_assert!(samples.len().is_multiple_of(FRAME));
        Self { mu: samples.iter().map(|&s| mu_law(s)).collect(), a: samples.iter().map(|&s| a_law(s)).collect() }
    }
}

/// The North American cadence: 440 Hz with 480 Hz for two seconds, four seconds of silence.
fn ringback() -> Vec<i16> {
    let tone = (0..2 * RATE).map(|n| {
        let turn = |hertz: f64| (std::f64::consts::TAU * hertz * n as f64 / RATE as f64).sin();
        (RING_AMPLITUDE * (turn(440.0) + turn(480.0))) as i16
    });
    tone.chain(std::iter::repeat_n(0, 4 * RATE)).collect()
}

/// Four seconds of white noise, long enough that the ear hears no period. The same in every process.
fn comfort_noise() -> Vec<i16> {
    let mut state = 0x9e37_79b9_u32;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state % (2 * NOISE_AMPLITUDE as u32 + 1)) as i32 - NOISE_AMPLITUDE
    };
    (0..4 * RATE).map(|_| noise() as i16).collect()
}

/// One 16-bit sample in mu-law: sign, three bits of segment, four of mantissa, all inverted.
pub fn mu_law(sample: i16) -> u8 {
    const BIAS: i32 = 0x84;
    const CLIP: i32 = 32_635;
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = i32::from(sample).abs().min(CLIP) + BIAS;
    let segment = magnitude.ilog2() - 7;
    let mantissa = (magnitude >> (segment + 3)) & 0x0f;
    !(sign | (segment << 4) as u8 | mantissa as u8)
}

/// One 16-bit sample in A-law: sign, three bits of segment, four of mantissa, even bits inverted.
pub fn a_law(sample: i16) -> u8 {
    let sign = if sample >= 0 { 0x80 } else { 0 };
    let linear = i32::from(sample) >> 3;
    let magnitude = if linear < 0 { -linear - 1 } else { linear };
    let segment = if magnitude < 32 { 0 } else { magnitude.ilog2() - 4 };
    let mantissa = (magnitude >> segment.max(1)) & 0x0f;
    (sign | (segment << 4) as u8 | mantissa as u8) ^ 0x55
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ITU-T G.711's expansion of mu-law, written from the table's rule, to 16 bits.
    fn from_mu(octet: u8) -> i32 {
        let octet = !octet;
        let magnitude = ((i32::from(octet & 0x0f) << 3) + 0x84) << ((octet >> 4) & 7);
        if octet & 0x80 == 0 { magnitude - 0x84 } else { 0x84 - magnitude }
    }

    fn from_a(octet: u8) -> i32 {
        let octet = octet ^ 0x55;
        let (segment, mantissa) = ((octet >> 4) & 7, i32::from(octet & 0x0f) << 4);
        let magnitude = if segment == 0 { mantissa + 8 } else { (mantissa + 0x108) << (segment - 1) };
        if octet & 0x80 != 0 { magnitude } else { -magnitude }
    }

    #[test]
    fn known_values() {
        let mu = [(0, 0xff), (-1, 0x7f), (8, 0xfe), (1000, 0xce), (-1000, 0x4e), (i16::MAX, 0x80), (i16::MIN, 0x00)];
        let a = [(0, 0xd5), (-1, 0x55), (8, 0xd5), (1000, 0xfa), (-1000, 0x7a), (i16::MAX, 0xaa), (i16::MIN, 0x2a)];
        for (sample, octet) in mu {
            assert_eq!(mu_law(sample), octet, "mu-law of {sample}");
        }
        for (sample, octet) in a {
            assert_eq!(a_law(sample), octet, "A-law of {sample}");
        }
    }

    #[test]
    fn every_octet_survives_the_round_trip() {
        for octet in 0..=u8::MAX {
            assert_eq!(a_law(from_a(octet) as i16), octet);
            let back = mu_law(from_mu(octet) as i16);
            assert!(back == octet || (octet == 0x7f && back == 0xff), "{octet:#x}"); // minus zero
        }
    }

    #[test]
    fn ringback_rings_two_seconds_and_rests_four() {
        let silent = |number: usize| frame(Sound::Ringback, Law::Mu, number).iter().all(|&octet| octet == 0xff);
        assert!((0..100).all(|number| !silent(number)));
        assert!((100..300).all(silent));
        assert_eq!(frame(Sound::Ringback, Law::A, 300), frame(Sound::Ringback, Law::A, 0));
    }

    #[test]
    fn comfort_noise_is_quiet_and_not_silent() {
        for (law, expand) in [(Law::Mu, from_mu as fn(u8) -> i32), (Law::A, from_a)] {
            let samples: Vec<i32> =
                (0..200).flat_map(|n| frame(Sound::ComfortNoise, law, n)).map(|&octet| expand(octet)).collect();
            let power = samples.iter().map(|&s| f64::from(s * s)).sum::<f64>() / samples.len() as f64;
            let dbfs = 10.0 * (power / (32_768.0 * 32_768.0)).log10();
            assert!((-52.0..-48.0).contains(&dbfs), "{dbfs} dBFS in {law:?}");
        }
    }
}
