//! Tones: each party speaks its own, and what was recorded at the far end is searched for it.

use std::f64::consts::TAU;
use std::path::Path;

use hound::{SampleFormat, WavSpec, WavWriter};

/// Samples in a second.
pub const RATE: usize = 8000;
/// A tenth of a second is judged at a time.
const WINDOW: usize = RATE / 10;
/// Linear amplitude: about -12 dBFS.
const AMPLITUDE: f64 = 8000.0;
/// From this share of its energy on, a window is the tone.
const PURE: f64 = 0.9;

/// A tone in whole Hz, so that a second of it can be played again without a break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tone(pub u32);

impl Tone {
    /// Writes it down as 16-bit mono at 8 kHz, this many seconds of it.
    pub fn write(self, file: &Path, seconds: usize) {
        let spec =
            WavSpec { channels: 1, sample_rate: RATE as u32, bits_per_sample: 16, sample_format: SampleFormat::Int };
        let mut writer = WavWriter::create(file, spec).unwrap();
        for at in 0..seconds * RATE {
            let angle = TAU * f64::from(self.0) * at as f64 / RATE as f64;
            writer.write_sample((AMPLITUDE * angle.sin()) as i16).unwrap();
        }
        writer.finalize().unwrap();
    }

    /// Its share of the energy in these samples, from 0 to 1 (Goertzel's filter). Silence has none.
    fn share(self, samples: &[i16]) -> f64 {
        let turn = 2.0 * (TAU * f64::from(self.0) / RATE as f64).cos();
        let (mut last, mut before, mut energy) = (0.0, 0.0, 0.0);
        for sample in samples.iter().map(|&sample| f64::from(sample)) {
            (last, before) = (sample + turn * last - before, last);
            energy += sample * sample;
        }
        let power = last * last + before * before - turn * last * before;
        // Below -50 dBFS nobody hears anything.
        if energy < 1e4 * samples.len() as f64 { 0.0 } else { 2.0 * power / (samples.len() as f64 * energy) }
    }

    /// For each tenth of a second whether it was this tone.
    pub fn in_tenths(self, samples: &[i16]) -> Vec<bool> {
        samples.chunks_exact(WINDOW).map(|window| self.share(window) > PURE).collect()
    }
}

#[test]
fn a_tone_is_told_from_another_from_silence_and_from_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tone.wav");
    Tone(440).write(&file, 1);
    let mut samples: Vec<i16> = hound::WavReader::open(&file).unwrap().samples().map(Result::unwrap).collect();
    assert_eq!(Tone(440).in_tenths(&samples), [true; 10]);
    assert_eq!(Tone(1000).in_tenths(&samples), [false; 10]);
    samples[3 * WINDOW..4 * WINDOW].fill(0);
    assert_eq!(Tone(440).in_tenths(&samples).iter().filter(|heard| !**heard).count(), 1);
}
