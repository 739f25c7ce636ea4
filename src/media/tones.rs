//! Sounds made by rule: the ringing tones of some countries, comfort noise, and G.711 itself (ITU-T G.711, RFC 3551
//! section 4.5.14). All of it is computed at start.

use crate::b2bua::io::Law;

/// Samples, and in G.711 octets, in one frame: 20 ms at 8 kHz.
pub const FRAME: usize = 160;
/// Samples a second.
pub const RATE: usize = 8000;

/// Linear amplitude of each component of a ringing tone: about -19 dBm0, within the limits of ITU-T E.180.
const RING_AMPLITUDE: f64 = 2500.0;
/// Uniform noise within ±180 has an RMS of 104, which is -50 dBFS.
const NOISE_AMPLITUDE: i32 = 180;

/// One country's ringing tone: ISO 3166 letters, frequencies in hertz, and milliseconds of tone and of pause by turns.
struct Ringing(&'static str, &'static [f64], &'static [usize]);

/// As ITU-T E.180 Supplement 2 lists them ("Various tones used in national networks"); the United Kingdom's as in BT's
/// SIN 350. All are whole frames long.
const RINGING: [Ringing; 13] = [
    Ringing("at", &[420.0], &[1000, 5000]),
    Ringing("be", &[425.0], &[1000, 3000]),
    Ringing("ch", &[425.0], &[1000, 4000]),
    Ringing("de", &[425.0], &[1000, 4000]),
    Ringing("dk", &[425.0], &[1000, 4000]),
    Ringing("es", &[425.0], &[1500, 3000]),
    Ringing("fr", &[440.0], &[1500, 3500]),
    Ringing("gb", &[400.0, 450.0], &[400, 200, 400, 2000]),
    Ringing("it", &[425.0], &[1000, 4000]),
    Ringing("nl", &[425.0], &[1000, 4000]),
    Ringing("nz", &[400.0, 450.0], &[400, 200, 400, 2000]),
    Ringing("se", &[425.0], &[1000, 5000]),
    Ringing("us", &[440.0, 480.0], &[2000, 4000]),
];

/// The countries whose ringing tone is known.
pub fn countries() -> impl Iterator<Item = &'static str> {
    RINGING.iter().map(|ringing| ringing.0)
}

/// One period of a country's ringing tone, linear at 8 kHz; `None` for a country that is not known.
pub fn ringing(country: &str) -> Option<Vec<i16>> {
    let Ringing(_, frequencies, cadence) = RINGING.iter().find(|ringing| ringing.0 == country)?;
    let tone = |n: usize| {
        let turn = |hertz: &f64| (std::f64::consts::TAU * hertz * n as f64 / RATE as f64).sin();
        (RING_AMPLITUDE * frequencies.iter().map(turn).sum::<f64>()) as i16
    };
    let mut samples = Vec::new();
    for (part, milliseconds) in cadence.iter().enumerate() {
        let from = samples.len();
        let part_of = |n| if part % 2 == 0 { tone(n) } else { 0 };
        samples.extend((from..from + milliseconds * RATE / 1000).map(part_of));
    }
    Some(samples)
}

/// Four seconds of white noise, long enough that the ear hears no period. The same in every process.
pub fn comfort_noise() -> Vec<i16> {
    let mut state = 0x9e37_79b9_u32;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state % (2 * NOISE_AMPLITUDE as u32 + 1)) as i32 - NOISE_AMPLITUDE
    };
    (0..4 * RATE).map(|_| noise() as i16).collect()
}

/// The static payload type of a law (RFC 3551 table 4).
pub fn payload_type(law: Law) -> u8 {
    match law {
        Law::Mu => 0,
        Law::A => 8,
    }
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

/// One octet of mu-law as a linear sample, 14 bits scaled to 16.
pub fn from_mu_law(octet: u8) -> i16 {
    let octet = !octet;
    let magnitude = ((i16::from(octet & 0x0f) << 3) + 0x84) << ((octet >> 4) & 7);
    if octet & 0x80 == 0 { magnitude - 0x84 } else { 0x84 - magnitude }
}

/// One octet of A-law as a linear sample, 13 bits scaled to 16.
pub fn from_a_law(octet: u8) -> i16 {
    let octet = octet ^ 0x55;
    let (segment, mantissa) = ((octet >> 4) & 7, i16::from(octet & 0x0f) << 4);
    let magnitude = if segment == 0 { mantissa + 8 } else { (mantissa + 0x108) << (segment - 1) };
    if octet & 0x80 != 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Amplitude of one frequency in what is heard (Goertzel).
    pub fn strength(samples: &[i16], hertz: f64) -> f64 {
        let turn = 2.0 * (std::f64::consts::TAU * hertz / RATE as f64).cos();
        let (near, far) =
            samples.iter().fold((0.0, 0.0), |(near, far), &sample| (f64::from(sample) + turn * near - far, near));
        2.0 * (near * near + far * far - turn * near * far).sqrt() / samples.len() as f64
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
            assert_eq!(a_law(from_a_law(octet)), octet);
            let back = mu_law(from_mu_law(octet));
            assert!(back == octet || (octet == 0x7f && back == 0xff), "{octet:#x}"); // minus zero
        }
    }

    #[test]
    fn each_ringing_tone_has_its_frequencies_and_its_cadence() {
        for Ringing(country, frequencies, cadence) in &RINGING {
            let samples = ringing(country).unwrap();
            assert_eq!(samples.len(), cadence.iter().sum::<usize>() * 8, "{country}");
            assert!(samples.len().is_multiple_of(FRAME), "{country}: whole frames");
            let mut rest = &samples[..];
            for (part, milliseconds) in cadence.iter().enumerate() {
                let (now, later) = rest.split_at(milliseconds * 8);
                if part % 2 == 1 {
                    assert!(now.iter().all(|&sample| sample == 0), "{country}: a pause");
                } else {
                    for hertz in *frequencies {
                        let heard = strength(now, *hertz) / RING_AMPLITUDE;
                        assert!((0.9..1.1).contains(&heard), "{country}: {hertz} Hz with {heard}");
                    }
                    for stranger in [300.0, 350.0, 620.0, 1000.0] {
                        assert!(strength(now, stranger) < 0.1 * RING_AMPLITUDE, "{country}: {stranger} Hz");
                    }
                }
                rest = later;
            }
        }
        let mut sorted: Vec<&str> = countries().collect();
        sorted.sort_unstable();
        assert!(sorted.is_sorted() && countries().eq(sorted), "in alphabetical order");
        assert!(ringing("xx").is_none());
    }

    #[test]
    fn comfort_noise_is_quiet_and_not_silent() {
        let samples = comfort_noise();
        for heard in [samples.clone(), samples.iter().map(|&sample| from_mu_law(mu_law(sample))).collect()] {
            let power = heard.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>() / heard.len() as f64;
            let dbfs = 10.0 * (power / (32_768.0 * 32_768.0)).log10();
            assert!((-52.0..-48.0).contains(&dbfs), "{dbfs} dBFS");
        }
    }
}
