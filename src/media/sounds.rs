//! What is heard at each occasion, as loops of whole 20 ms frames in both laws of G.711.
//!
//! Everything is loaded and coded at start, so that sending a frame is copying it. Occasions that name the same source
//! share its loop.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::tones::{self, FRAME, a_law, mu_law};
use super::wav::{self, WavError};
use crate::b2bua::io::{Law, Sound};

/// Where a sound comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Quiet noise.
    ComfortNoise,
    /// Nothing to hear, though packets come.
    Silence,
    /// The ringing tone of a country, by its two letters.
    Tone(String),
    /// A WAV file.
    File(PathBuf),
}

/// Why a sound cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SoundError {
    /// A country without a tone.
    #[error("there is no tone for {0:?}: write one of {list}", list = tones::countries().collect::<Vec<_>>().join(", "))]
    Country(String),
    /// A file.
    #[error("{} {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: WavError,
    },
}

/// The loops, by occasion.
#[derive(PartialEq, Eq)]
pub struct Sounds {
    loops: Vec<Loop>,
    /// By [`Sound`].
    occasions: [usize; Sound::ALL.len()],
}

/// One period of a sound in both laws; whole frames.
#[derive(PartialEq, Eq)]
struct Loop {
    mu: Vec<u8>,
    a: Vec<u8>,
}

impl Sounds {
    /// Loads the source of every sound. Files may last `longest`.
    pub fn load(of: impl Fn(Sound) -> Source, longest: Duration) -> Result<Self, Vec<(Sound, SoundError)>> {
        let (mut sources, mut loops, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        let mut occasions = [0; Sound::ALL.len()];
        for sound in Sound::ALL {
            let source = of(sound);
            let known = sources.iter().position(|known| *known == source);
            occasions[sound as usize] = known.unwrap_or(sources.len());
            if known.is_none() {
                match source.samples(longest) {
                    Ok(samples) => loops.push(Loop::of(samples)),
                    Err(error) => errors.push((sound, error)),
                }
                sources.push(source);
            }
        }
        if errors.is_empty() { Ok(Self { loops, occasions }) } else { Err(errors) }
    }

    /// Frame `number` of a sound that begins again when it is over: [`FRAME`] octets.
    pub fn frame(&self, sound: Sound, law: Law, number: usize) -> &[u8] {
        let one = self.loop_of(sound);
        let octets = match law {
            Law::Mu => &one.mu,
            Law::A => &one.a,
        };
        let start = number % (octets.len() / FRAME) * FRAME;
        &octets[start..start + FRAME]
    }

    /// How many frames there are before it begins again.
    pub fn frames(&self, sound: Sound) -> usize {
        self.loop_of(sound).mu.len() / FRAME
    }

    /// Whether two occasions sound the same.
    pub fn are_one(&self, one: Sound, other: Sound) -> bool {
        self.occasions[one as usize] == self.occasions[other as usize]
    }

    fn loop_of(&self, sound: Sound) -> &Loop {
        &self.loops[self.occasions[sound as usize]]
    }
}

impl Default for Sounds {
    /// Comfort noise at every occasion.
    fn default() -> Self {
        Self { loops: vec![Loop::of(tones::comfort_noise())], occasions: [0; Sound::ALL.len()] }
    }
}

impl fmt::Debug for Sounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(Sound::ALL.map(|sound| (sound, self.frames(sound)))).finish()
    }
}

impl Source {
    fn samples(&self, longest: Duration) -> Result<Vec<i16>, SoundError> {
        match self {
            Self::ComfortNoise => Ok(tones::comfort_noise()),
            Self::Silence => Ok(vec![0; FRAME]),
            Self::Tone(country) => tones::ringing(country).ok_or_else(|| SoundError::Country(country.clone())),
            Self::File(path) => {
                wav::read(path, longest).map_err(|reason| SoundError::File { path: path.clone(), reason })
            }
        }
    }
}

impl Loop {
    /// The last frame is filled up with silence.
    fn of(mut samples: Vec<i16>) -> Self {
        samples.resize(samples.len().next_multiple_of(FRAME), 0);
        Self { mu: samples.iter().map(|&s| mu_law(s)).collect(), a: samples.iter().map(|&s| a_law(s)).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(10);

    fn usual(sound: Sound) -> Source {
        match sound {
            Sound::Ringback | Sound::Onward => Source::Tone("us".to_owned()),
            Sound::Waiting | Sound::Hold => Source::ComfortNoise,
            Sound::Announcement => Source::Silence,
        }
    }

    #[test]
    fn a_tone_rings_in_both_laws_and_begins_again() {
        let sounds = Sounds::load(usual, LONGEST).unwrap();
        for (law, quiet) in [(Law::Mu, 0xff), (Law::A, 0xd5)] {
            let silent = |number: usize| sounds.frame(Sound::Ringback, law, number).iter().all(|&octet| octet == quiet);
            assert!((0..100).all(|number| !silent(number)));
            assert!((100..300).all(silent));
            assert_eq!(sounds.frame(Sound::Ringback, law, 300), sounds.frame(Sound::Ringback, law, 0));
            assert!(sounds.frame(Sound::Announcement, law, 7).iter().all(|&octet| octet == quiet));
        }
    }

    #[test]
    fn what_comes_from_one_source_is_one_loop() {
        let sounds = Sounds::load(usual, LONGEST).unwrap();
        assert_eq!(sounds.loops.len(), 3);
        assert!(sounds.are_one(Sound::Ringback, Sound::Onward) && sounds.are_one(Sound::Waiting, Sound::Hold));
        assert!(!sounds.are_one(Sound::Ringback, Sound::Waiting));
        assert_eq!((sounds.frames(Sound::Ringback), sounds.frames(Sound::Announcement)), (300, 1));
    }

    #[test]
    fn every_sound_that_cannot_be_had_is_named() {
        let wrong = |sound| match sound {
            Sound::Ringback => Source::Tone("uk".to_owned()),
            Sound::Waiting => Source::File("/nowhere/music.wav".into()),
            other => usual(other),
        };
        let errors = Sounds::load(wrong, LONGEST).unwrap_err();
        let told: Vec<String> = errors.iter().map(|(sound, error)| format!("{sound:?}: {error}")).collect();
        assert_eq!(told.len(), 2);
        assert!(told[0].starts_with("Ringback: there is no tone for \"uk\": write one of at, "), "{}", told[0]);
        assert!(told[1].starts_with("Waiting: /nowhere/music.wav cannot be read: No such file"), "{}", told[1]);
    }
}
