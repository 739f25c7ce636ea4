//! A stereo recording: two voices side by side, aligned in time.

use std::io::{Seek, Write};
use std::time::Duration;

use hound::{SampleFormat, WavSpec, WavWriter};

use super::voice::RATE;

/// One channel.
#[derive(Debug, Clone, Copy)]
pub struct Track<'a> {
    /// Time of the first sample since a zero that both tracks share.
    pub starts: Duration,
    /// Linear samples at 8 kHz.
    pub samples: &'a [i16],
}

impl Track<'_> {
    fn delay(&self) -> usize {
        (self.starts.as_secs_f64() * RATE as f64).round() as usize
    }
}

/// Writes both tracks as 16-bit stereo at 8 kHz; where a track has nothing to say, it is silent.
pub fn write_stereo(out: impl Write + Seek, left: Track, right: Track) -> Result<(), hound::Error> {
    let spec = WavSpec { channels: 2, sample_rate: RATE as u32, bits_per_sample: 16, sample_format: SampleFormat::Int };
    let mut writer = WavWriter::new(out, spec)?;
    let length = [left, right].map(|track| track.delay() + track.samples.len()).into_iter().max().unwrap_or(0);
    for at in 0..length {
        for track in [left, right] {
            let sample = at.checked_sub(track.delay()).and_then(|at| track.samples.get(at));
            writer.write_sample(sample.copied().unwrap_or(0))?;
        }
    }
    writer.finalize()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn the_later_track_is_delayed() {
        let mut file = Cursor::new(Vec::new());
        let left = Track { starts: Duration::ZERO, samples: &[1, 2, 3] };
        let right = Track { starts: Duration::from_micros(250), samples: &[-1, -2] };
        write_stereo(&mut file, left, right).unwrap();
        file.set_position(0);
        let mut reader = hound::WavReader::new(file).unwrap();
        assert_eq!((reader.spec().channels, reader.spec().sample_rate), (2, 8000));
        let samples: Vec<i16> = reader.samples().collect::<Result<_, _>>().unwrap();
        assert_eq!(samples, [1, 0, 2, 0, 3, -1, 0, -2]);
    }
}
