//! Recordings: mono WAV files, 16-bit PCM or G.711, at 8 or 16 kHz, as linear samples at 8 kHz.
//!
//! Read without `hound`, which knows no G.711 and loses its way behind a chunk of odd length.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use super::tones::{RATE, from_a_law, from_mu_law};

/// Octets that a file may have beside its sound: names, dates, pictures.
const AROUND: u64 = 1 << 20;
/// Octets of a second of the largest format we take: 16 kHz, 16 bits.
const OCTETS_PER_SECOND: u64 = 32_000;
/// Formats, and the one whose true format stands behind the others' fields.
const PCM: u16 = 1;
const A_LAW: u16 = 6;
const MU_LAW: u16 = 7;
const EXTENSIBLE: u16 = 0xfffe;

/// Why a file is not a sound for us, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum WavError {
    /// It could not be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is a directory, a device or a pipe.
    #[error("is no file")]
    NoFile,
    /// It lasts longer than is allowed, or is so large that it must.
    #[error("is longer than sounds.max_length = {0:?} allows: cut it, or allow more")]
    TooLong(Duration),
    /// It is no WAV file, or ends too early.
    #[error("is no whole WAV file ({0}): write it again, `sox IN -r 8000 -c 1 -b 16 OUT.wav`")]
    Broken(&'static str),
    /// A format that we do not read.
    #[error(
        "has {0}: 16-bit PCM or G.711, one channel, 8000 or 16000 Hz are read; `sox IN -r 8000 -c 1 -b 16 OUT.wav`"
    )]
    Format(String),
    /// There is nothing to hear.
    #[error("holds no sound")]
    Empty,
}

/// Reads a file of at most this length: linear samples at 8 kHz.
pub fn read(path: &Path, longest: Duration) -> Result<Vec<i16>, WavError> {
    // Asked before it is opened: to open a pipe is to wait for its other end.
    if !fs::metadata(path)?.is_file() {
        return Err(WavError::NoFile);
    }
    let most = longest.as_secs().saturating_add(1) * OCTETS_PER_SECOND + AROUND;
    let mut octets = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > most {
        return Err(WavError::TooLong(longest));
    }
    let samples = decode(&octets)?;
    let most = longest.as_millis() as usize * RATE / 1000;
    match samples.len() {
        0 => Err(WavError::Empty),
        length if length > most => Err(WavError::TooLong(longest)),
        _ => Ok(samples),
    }
}

/// The sound of a whole file in memory.
fn decode(file: &[u8]) -> Result<Vec<i16>, WavError> {
    let format = chunk(file, b"fmt ")?;
    let half = |at: usize| match format.get(at..at + 2) {
        Some(octets) => Ok(u16::from_le_bytes([octets[0], octets[1]])),
        None => Err(WavError::Broken("its format is cut short")),
    };
    let (channels, rate, bits) = (half(2)?, u32::from(half(4)?) | u32::from(half(6)?) << 16, half(14)?);
    let tag = if half(0)? == EXTENSIBLE { half(24)? } else { half(0)? };
    let data = chunk(file, b"data")?;
    if channels != 1 {
        return Err(WavError::Format(format!("{channels} channels")));
    }
    let samples: Vec<i16> = match (tag, bits) {
        (PCM, 16) => data.chunks_exact(2).map(|octets| i16::from_le_bytes([octets[0], octets[1]])).collect(),
        (A_LAW, 8) => data.iter().map(|&octet| from_a_law(octet)).collect(),
        (MU_LAW, 8) => data.iter().map(|&octet| from_mu_law(octet)).collect(),
        _ => return Err(WavError::Format(format!("format {tag} with {bits} bits a sample"))),
    };
    match rate {
        8_000 => Ok(samples),
        16_000 => Ok(halved(&samples)),
        _ => Err(WavError::Format(format!("{rate} samples a second"))),
    }
}

/// The first chunk of this name.
fn chunk<'a>(file: &'a [u8], wanted: &[u8; 4]) -> Result<&'a [u8], WavError> {
    let Some((_, mut rest)) = file.split_at_checked(12).filter(|(header, _)| is_riff(header)) else {
        return Err(WavError::Broken("it does not begin like one"));
    };
    while let Some((head, body)) = rest.split_at_checked(8) {
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if head.starts_with(wanted) {
            return body.get(..length).ok_or(WavError::Broken("it ends too early"));
        }
        rest = body.get(length.saturating_add(length % 2)..).unwrap_or_default(); // chunks begin at even octets
    }
    Err(WavError::Broken("its format or its sound is missing"))
}

fn is_riff(header: &[u8]) -> bool {
    header.starts_with(b"RIFF") && header.ends_with(b"WAVE")
}

/// Taps of the low-pass before every second sample is left out: 4 ms at 16 kHz.
const TAPS: usize = 65;
/// Where it is 6 dB down: what lies above 4 kHz would come back as another tone below it.
const CUT_OFF: f64 = 3_600.0;

/// 16 kHz to 8 kHz: a windowed sinc (Blackman), then every second sample.
fn halved(samples: &[i16]) -> Vec<i16> {
    let middle = (TAPS / 2) as f64;
    let tap = |n: usize| {
        let (t, cut) = (n as f64 - middle, CUT_OFF / (2.0 * RATE as f64));
        let sinc =
            if t == 0.0 { 2.0 * cut } else { (std::f64::consts::TAU * cut * t).sin() / (std::f64::consts::PI * t) };
        let turn = std::f64::consts::TAU * n as f64 / (TAPS - 1) as f64;
        sinc * (0.42 - 0.5 * turn.cos() + 0.08 * (2.0 * turn).cos())
    };
    let taps: Vec<f64> = (0..TAPS).map(tap).collect();
    let gain: f64 = taps.iter().sum();
    let filtered = |at: usize| {
        let heard = |(n, tap): (usize, &f64)| {
            let sample = (at + n).checked_sub(TAPS / 2).and_then(|at| samples.get(at));
            sample.map_or(0.0, |&sample| tap * f64::from(sample))
        };
        (taps.iter().enumerate().map(heard).sum::<f64>() / gain).round() as i16
    };
    (0..samples.len()).step_by(2).map(filtered).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::tones::{a_law, mu_law, tests::strength};

    const LONG: Duration = Duration::from_secs(60);

    /// A file with this `fmt ` and this `data` chunk.
    fn wav(tag: u16, channels: u16, rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
        let block = channels * (bits / 8);
        let mut format = Vec::new();
        format.extend(tag.to_le_bytes());
        format.extend(channels.to_le_bytes());
        format.extend(rate.to_le_bytes());
        format.extend((rate * u32::from(block)).to_le_bytes());
        format.extend(block.to_le_bytes());
        format.extend(bits.to_le_bytes());
        let mut body = b"WAVE".to_vec();
        for (name, chunk) in [(b"fmt ", &format[..]), (b"LIST", b"odd"), (b"data", data)] {
            body.extend(name);
            body.extend((chunk.len() as u32).to_le_bytes());
            body.extend(chunk);
            body.resize(body.len().next_multiple_of(2), 0);
        }
        [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat()
    }

    fn sine(hertz: f64, rate: f64, samples: usize) -> Vec<i16> {
        (0..samples).map(|n| (8000.0 * (std::f64::consts::TAU * hertz * n as f64 / rate).sin()) as i16).collect()
    }

    fn octets(samples: &[i16]) -> Vec<u8> {
        samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
    }

    #[test]
    fn pcm_and_both_laws_are_read_as_they_are() {
        let samples = sine(1000.0, 8000.0, 1600);
        assert_eq!(decode(&wav(1, 1, 8000, 16, &octets(&samples))).unwrap(), samples);
        let mut extensible = wav(EXTENSIBLE, 1, 8000, 16, &octets(&samples));
        let more = [22, 0, 16, 0, 4, 0, 0, 0, PCM as u8, 0].into_iter().chain([0; 14]);
        extensible.splice(36..36, more);
        extensible[16] += 24;
        assert_eq!(decode(&extensible).unwrap(), samples);
        for (tag, code, expand) in
            [(A_LAW, a_law as fn(i16) -> u8, from_a_law as fn(u8) -> i16), (MU_LAW, mu_law, from_mu_law)]
        {
            let coded: Vec<u8> = samples.iter().map(|&sample| code(sample)).collect();
            let read = decode(&wav(tag, 1, 8000, 8, &coded)).unwrap();
            assert_eq!(read, coded.iter().map(|&octet| expand(octet)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn sixteen_kilohertz_become_eight_and_nothing_folds_back() {
        let heard = |hertz: f64, at: f64| {
            let file = wav(1, 1, 16_000, 16, &octets(&sine(hertz, 16_000.0, 16_000)));
            let samples = decode(&file).unwrap();
            assert_eq!(samples.len(), 8000);
            strength(&samples[400..7600], at)
        };
        for hertz in [300.0, 1000.0, 2000.0, 3000.0] {
            assert!((0.95..1.05).contains(&(heard(hertz, hertz) / 8000.0)), "{hertz} Hz: {}", heard(hertz, hertz));
        }
        for (hertz, folded) in [(4600.0, 3400.0), (5000.0, 3000.0), (6000.0, 2000.0), (7000.0, 1000.0)] {
            let level = 20.0 * (heard(hertz, folded) / 8000.0).log10();
            assert!(level < -50.0, "{hertz} Hz comes back at {folded} Hz with {level} dB");
        }
    }

    #[test]
    fn what_is_no_sound_for_us_is_refused_with_a_reason() {
        let pcm = |channels, rate, bits| wav(1, channels, rate, bits, &[0; 64]);
        let whole = pcm(1, 8000, 16);
        let mut lying = whole.clone();
        let data = lying.len() - 68;
        lying[data..data + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut endless = whole.clone();
        endless[16..20].copy_from_slice(&u32::MAX.to_le_bytes()); // the length of `fmt `
        for (what, file, reason) in [
            ("nothing", Vec::new(), "is no whole WAV file"),
            ("text", b"ID3 this is not a WAV file at all, but long enough".to_vec(), "is no whole WAV file"),
            ("a header alone", whole[..12].to_vec(), "is no whole WAV file"),
            ("no data", whole[..40].to_vec(), "is no whole WAV file"),
            ("half the data", whole[..whole.len() - 31].to_vec(), "is no whole WAV file"),
            ("a lie about the data", lying, "is no whole WAV file"),
            ("a lie about the format", endless, "is no whole WAV file"),
            ("half the data in A-law", wav(A_LAW, 1, 8000, 8, &[0xd5; 64])[..80].to_vec(), "is no whole WAV file"),
            ("no channel", pcm(0, 8000, 16), "has 0 channels"),
            ("no channel in A-law", wav(A_LAW, 0, 8000, 8, &[0; 64]), "has 0 channels"),
            ("stereo", pcm(2, 8000, 16), "has 2 channels"),
            ("stereo in mu-law", wav(MU_LAW, 2, 8000, 8, &[0; 64]), "has 2 channels"),
            ("music", pcm(1, 44_100, 16), "44100 samples a second"),
            ("no rate", pcm(1, 0, 16), "0 samples a second"),
            ("24 bits", wav(1, 1, 8000, 24, &[0; 66]), "format 1 with 24 bits a sample"),
            ("8 bits", pcm(1, 8000, 8), "8 bits a sample"),
            ("floats", wav(3, 1, 8000, 32, &[0; 64]), "format 3 with 32 bits a sample"),
            ("ADPCM", wav(2, 1, 8000, 4, &[0; 64]), "format 2 with 4 bits"),
            ("MP3", wav(0x55, 1, 8000, 16, &[0; 64]), "format 85 "),
        ] {
            let refusal = decode(&file).expect_err(what).to_string();
            assert!(refusal.contains(reason), "{what}: {refusal}");
        }
    }

    #[test]
    fn no_beginning_of_a_file_is_too_odd_to_refuse() {
        for whole in [wav(1, 1, 8000, 16, &[1; 64]), wav(A_LAW, 1, 8000, 8, &[1; 64])] {
            for at in 0..whole.len() {
                let _ = decode(&whole[..at]);
                for octet in [0, 1, 0x7f, 0xff] {
                    let mut bent = whole.clone();
                    bent[at] = octet;
                    let _ = decode(&bent);
                }
            }
        }
    }

    #[test]
    fn a_file_is_bounded_before_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sound.wav");
        let refusal = |longest| read(&path, longest).unwrap_err().to_string();
        assert!(refusal(LONG).contains("cannot be read"), "{}", refusal(LONG));
        fs::write(&path, wav(1, 1, 8000, 16, &octets(&[0; 16_001]))).unwrap();
        assert_eq!(read(&path, LONG).unwrap().len(), 16_001);
        assert!(refusal(Duration::from_secs(2)).contains("longer than sounds.max_length"));
        fs::write(&path, wav(1, 1, 8000, 16, &[])).unwrap();
        assert!(refusal(LONG).contains("holds no sound"));
        // Ten gigabytes of nothing, which no disk has to hold.
        File::create(&path).unwrap().set_len(10 << 30).unwrap();
        assert!(refusal(LONG).contains("longer than sounds.max_length"));
        assert!(read(folder.path(), LONG).unwrap_err().to_string().contains("is no file"));
        assert!(read(Path::new("/dev/zero"), LONG).unwrap_err().to_string().contains("is no file"));
    }
}
