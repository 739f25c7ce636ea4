//! Two short clips of speech, G.711 mu-law at 8 kHz.
//!
//! Made with espeak-ng 1.51 and sox 14.4: the customer is voice `en-us+m3` at 160 words a minute saying "Hello, I would
//! like to know where my order is.", GenerativeAgent is `en-gb+f3` at 165 words a minute saying "Hi, this is Generative
//! Agent. Let me look that up for you."; both normalised to -6 dB with 0.1 s of silence before and 0.3 s behind.

/// Samples in one second.
pub const RATE: usize = 8000;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// A man who asks for his order.
    Customer,
    /// A woman who looks it up.
    GenAgent,
}

impl Voice {
    /// The clip, one mu-law octet a sample.
    pub fn clip(self) -> &'static [u8] {
        match self {
            Self::Customer => include_bytes!("voices/customer.ulaw"),
            Self::GenAgent => include_bytes!("voices/genagent.ulaw"),
        }
    }

    /// The clip over and over, from its beginning.
    pub fn looping(self) -> impl Iterator<Item = u8> + Send {
        self.clip().iter().copied().cycle()
    }

    /// How often the clip's loudest tenth of a second occurs in what was heard, unchanged to the last bit. Silence, the
    /// other voice, a gap or a second coding give 0.
    pub fn times_heard(self, samples: &[i16]) -> usize {
        let mark = self.mark();
        let (mut count, mut at) = (0, 0);
        while let Some(window) = samples.get(at..at + mark.len()) {
            let heard = window == mark;
            count += usize::from(heard);
            at += if heard { mark.len() } else { 1 };
        }
        count
    }

    fn mark(self) -> Vec<i16> {
        const LENGTH: usize = RATE / 10;
        let clip = decode(self.clip());
        let energy = |window: &&[i16]| window.iter().map(|&sample| i64::from(sample).pow(2)).sum::<i64>();
        clip.chunks_exact(LENGTH).max_by_key(energy).unwrap_or_default().to_vec()
    }
}

/// Mu-law octets as linear samples.
pub fn decode(octets: &[u8]) -> Vec<i16> {
    octets.iter().map(|&octet| linear(octet)).collect()
}

/// One mu-law octet as a linear sample (ITU-T G.711, 14 bits scaled to 16).
pub fn linear(octet: u8) -> i16 {
    const BIAS: i16 = 0x84;
    let code = !octet;
    let magnitude = ((i16::from(code & 0x0f) << 3) + BIAS) << ((code & 0x70) >> 4);
    if code & 0x80 == 0 { magnitude - BIAS } else { BIAS - magnitude }
}

/// Root mean square of every second, the last one possibly shorter.
pub fn loudness(samples: &[i16]) -> Vec<f64> {
    let rms = |second: &[i16]| {
        let energy: f64 = second.iter().map(|&sample| f64::from(sample).powi(2)).sum();
        (energy / second.len() as f64).sqrt()
    };
    samples.chunks(RATE).map(rms).collect()
}

/// True if at least one second is as loud as speech on a telephone; comfort noise is not.
pub fn speaks(samples: &[i16]) -> bool {
    loudness(samples).into_iter().any(|rms| rms > 500.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mu_law_decodes_to_the_values_of_g_711() {
        assert_eq!([0xff, 0x7f, 0x80, 0x00, 0xfe].map(linear), [0, 0, 32_124, -32_124, 8]);
    }

    #[test]
    fn the_clips_are_short_speech_in_two_voices() {
        for voice in [Voice::Customer, Voice::GenAgent] {
            let clip = decode(voice.clip());
            assert!((3 * RATE..5 * RATE).contains(&clip.len()), "{voice:?} is {} samples long", clip.len());
            assert!(speaks(&clip), "{voice:?}: {:?}", loudness(&clip));
        }
        assert!(!speaks(&vec![40; 3 * RATE]), "a hum is not speech");
    }

    #[test]
    fn a_voice_is_recognised_and_not_mistaken() {
        let twice: Vec<u8> = Voice::Customer.looping().take(2 * Voice::Customer.clip().len()).collect();
        let twice = decode(&twice);
        assert_eq!(Voice::Customer.times_heard(&twice), 2);
        assert_eq!(Voice::GenAgent.times_heard(&twice), 0);
        let other: Vec<i16> = twice.iter().map(|sample| sample / 2).collect();
        assert_eq!(Voice::Customer.times_heard(&other), 0, "coded twice");
    }
}
