//! Recordings on disk, written by a thread of its own: a slow or full disk costs a recording, never a packet.
//!
//! Relay threads hand frames over a channel of fixed size and go on; what finds no room is left out and counted. A
//! recording is `CALL.wav.part` while it grows, whole up to its last two seconds if the process dies, and `CALL.wav`
//! when the call is over: 16-bit stereo at 8 kHz, the customer on the left.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hound::{SampleFormat, WavSpec, WavWriter};
use tokio::sync::mpsc::UnboundedSender;

use super::tape::{Frame, Tape};
use super::tones::RATE;
use crate::b2bua::io::{MediaEvent, Recorded, TapeEnd};
use crate::call::CallRef;
use crate::clock::now;

/// Frames on their way to the thread: 4 MiB.
const CAPACITY: usize = 8192;
/// Between two rounds of writing.
const ROUND: Duration = Duration::from_millis(100);
/// Between two times that a file's header tells its true length.
const TRUE_LENGTH: Duration = Duration::from_secs(2);
/// Between two looks at whether room was made in a full folder.
const LOOK: Duration = Duration::from_secs(10);
/// Octets of one sample of both tracks.
const SAMPLE: u64 = 4;
/// What a file grows under.
const PART: &str = "wav.part";

/// Where recordings go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecorderSettings {
    /// The folder.
    pub folder: PathBuf,
    /// Octets of everything in it; above, nothing more is recorded.
    pub max_bytes: u64,
    /// Between two tones that tell both sides of it; zero: none.
    pub beep: Duration,
}

/// How the recorder is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecorderStatus {
    /// Recordings that grow now.
    pub active: u64,
    /// Octets in the folder.
    pub bytes: u64,
    /// Frames left out because the thread did not keep up.
    pub lost: u64,
    /// Whether the folder is full, or the disk fails.
    pub failing: bool,
}

#[derive(Debug, Default)]
struct Gauges {
    active: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
    full: AtomicBool,
    broken: AtomicBool,
}

/// The relay's end. None of its calls blocks.
#[derive(Debug, Clone)]
pub struct Recorder {
    frames: SyncSender<Frame>,
    orders: Sender<Order>,
    gauges: Arc<Gauges>,
}

/// Looks at the recorder from elsewhere.
#[derive(Debug, Clone)]
pub struct RecorderGauges(Arc<Gauges>);

/// What becomes of a call's recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// It begins, or goes on after a pause.
    Roll(CallRef, Instant),
    /// Nothing is recorded for the time being.
    Pause(CallRef, Instant),
    /// It is over.
    End(CallRef),
}

/// Opens the folder and starts the thread, which ends with the last [`Recorder`]. Reports go to `events`.
pub(super) fn start(
    settings: &RecorderSettings,
    events: UnboundedSender<MediaEvent>,
) -> io::Result<(Recorder, JoinHandle<()>)> {
    fs::create_dir_all(&settings.folder)?;
    finish_parts(&settings.folder)?;
    let (frames, taken) = sync_channel(CAPACITY);
    let (orders, obeyed) = channel();
    let used = used(&settings.folder)?;
    let gauges = Arc::new(Gauges { bytes: used.into(), ..Gauges::default() });
    let desk = Desk {
        folder: settings.folder.clone(),
        max_bytes: settings.max_bytes,
        used,
        looked: now(),
        frames: taken,
        orders: obeyed,
        reels: HashMap::new(),
        ending: Vec::new(),
        gauges: gauges.clone(),
        events,
    };
    let thread = thread::Builder::new().name("recorder".to_owned()).spawn(move || desk.serve())?;
    Ok((Recorder { frames, orders, gauges }, thread))
}

/// What an earlier process left unfinished is whole up to where its header says.
fn finish_parts(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_str().is_some_and(|path| path.ends_with(PART)) {
            fs::rename(&path, path.with_extension(""))?;
        }
    }
    Ok(())
}

/// Octets of the files in a folder.
fn used(folder: &Path) -> io::Result<u64> {
    let lengths = fs::read_dir(folder)?.map(|entry| Ok(entry?.metadata()?.len()));
    lengths.sum()
}

impl Recorder {
    /// Hands a frame over. Where there is no room it is left out.
    pub(super) fn take(&self, frame: Frame) {
        if let Err(TrySendError::Full(_)) = self.frames.try_send(frame) {
            self.gauges.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands an order over. A thread that is gone is the process ending.
    pub(super) fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    /// For whoever wants to know how it is doing.
    pub(super) fn gauges(&self) -> RecorderGauges {
        RecorderGauges(self.gauges.clone())
    }
}

impl RecorderGauges {
    /// How the recorder is doing.
    pub fn status(&self) -> RecorderStatus {
        let Gauges { active, bytes, lost, full, broken } = &*self.0;
        RecorderStatus {
            active: active.load(Ordering::Relaxed),
            bytes: bytes.load(Ordering::Relaxed),
            lost: lost.load(Ordering::Relaxed),
            failing: full.load(Ordering::Relaxed) || broken.load(Ordering::Relaxed),
        }
    }
}

/// The thread.
struct Desk {
    folder: PathBuf,
    max_bytes: u64,
    /// Octets in the folder, and when they were last counted.
    used: u64,
    looked: Instant,
    frames: Receiver<Frame>,
    orders: Receiver<Order>,
    reels: HashMap<CallRef, Reel>,
    /// Calls that are over.
    ending: Vec<CallRef>,
    gauges: Arc<Gauges>,
    events: UnboundedSender<MediaEvent>,
}

/// One call's recording.
struct Reel {
    tape: Tape,
    /// `None` once nothing more can be written.
    file: Option<WavWriter<BufWriter<File>>>,
    path: PathBuf,
    end: TapeEnd,
    /// The number of the frame that should come next.
    next: u32,
    lost: u64,
    unreadable: u64,
    /// Samples in the file.
    written: u64,
    true_length_at: Instant,
}

impl Desk {
    fn serve(mut self) {
        let mut round = now() + ROUND;
        loop {
            match self.frames.recv_timeout(round.saturating_duration_since(now())) {
                Ok(frame) => self.lay(&frame),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if now() >= round {
                self.obey();
                self.end_all();
                self.write_all();
                round = now() + ROUND;
            }
        }
        self.obey();
        self.ending = self.reels.keys().copied().collect();
        self.end_all();
    }

    /// What was said before an end was ordered is still on its way here.
    fn end_all(&mut self) {
        let ending = std::mem::take(&mut self.ending);
        if !ending.is_empty() {
            while let Ok(frame) = self.frames.try_recv() {
                self.lay(&frame);
            }
        }
        ending.into_iter().for_each(|call| self.end(call));
    }

    fn lay(&mut self, frame: &Frame) {
        if self.reels.get(&frame.call).is_none_or(|reel| reel.tape.is_paused()) {
            self.obey(); // the order to begin or to go on was given before its first frame
        }
        if let Some(reel) = self.reels.get_mut(&frame.call) {
            // A smaller number is one of another row's, or of the same after a pause.
            let skipped = frame.number.checked_sub(reel.next).unwrap_or(frame.number);
            reel.lost += u64::from(skipped);
            reel.next = frame.number.wrapping_add(1);
            if frame.is_readable() {
                reel.lost += u64::from(!reel.tape.lay(frame));
            } else {
                reel.unreadable += 1;
            }
        }
    }

    fn obey(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Roll(call, at) => self.roll(call, at),
                Order::Pause(call, at) => {
                    if let Some(reel) = self.reels.get_mut(&call) {
                        reel.tape.pause(at);
                    }
                }
                Order::End(call) => self.ending.push(call),
            }
        }
    }

    fn roll(&mut self, call: CallRef, at: Instant) {
        if let Some(reel) = self.reels.get_mut(&call) {
            return reel.tape.resume(at);
        }
        let path = self.folder.join(format!("{call}.{PART}"));
        let room = self.room(0);
        let (file, end) = match room.then(|| create(&path)) {
            Some(Ok(file)) => (Some(file), TapeEnd::Complete),
            Some(Err(error)) => (None, self.fails(&error)),
            None => (None, TapeEnd::FolderFull),
        };
        let reel = Reel {
            tape: Tape::new(at),
            file,
            path,
            end,
            next: 0,
            lost: 0,
            unreadable: 0,
            written: 0,
            true_length_at: now() + TRUE_LENGTH,
        };
        self.reels.insert(call, reel);
        self.gauges.active.store(self.reels.len() as u64, Ordering::Relaxed);
    }

    /// Whether so many octets more are permitted. A full folder is counted anew from time to time: somebody may have made
    /// room.
    fn room(&mut self, more: u64) -> bool {
        let full = |used| used + more > self.max_bytes;
        if full(self.used) && now() >= self.looked + LOOK {
            self.looked = now();
            self.used = used(&self.folder).unwrap_or(self.used);
            self.gauges.bytes.store(self.used, Ordering::Relaxed);
        }
        let room = !full(self.used);
        let was_full = self.gauges.full.swap(!room, Ordering::Relaxed);
        if !room && !was_full {
            tracing::warn!(folder = %self.folder.display(), "the folder of recordings is full: nothing is recorded");
        }
        room
    }

    fn write_all(&mut self) {
        let now = now();
        for call in self.reels.keys().copied().collect::<Vec<_>>() {
            let Some(reel) = self.reels.get_mut(&call) else { continue };
            let samples: Vec<[i16; 2]> = reel.tape.due(now).collect();
            self.write(call, &samples);
        }
    }

    /// Writes samples of a call where that is still possible.
    fn write(&mut self, call: CallRef, samples: &[[i16; 2]]) {
        let octets = samples.len() as u64 * SAMPLE;
        let is_open = self.reels.get(&call).is_some_and(|reel| reel.file.is_some());
        if octets == 0 || !is_open {
            return;
        }
        let room = self.room(octets);
        let Some(reel) = self.reels.get_mut(&call) else { return };
        match room.then(|| reel.write(samples)) {
            None => reel.stop(TapeEnd::FolderFull),
            Some(Ok(())) => {
                self.used += octets;
                self.gauges.bytes.store(self.used, Ordering::Relaxed);
                self.gauges.broken.store(false, Ordering::Relaxed);
            }
            Some(Err(error)) => {
                reel.stop(TapeEnd::DiskFailed);
                self.fails(&error);
            }
        }
    }

    /// The disk fails: one warning an episode.
    fn fails(&self, error: &dyn std::error::Error) -> TapeEnd {
        if !self.gauges.broken.swap(true, Ordering::Relaxed) {
            tracing::warn!(folder = %self.folder.display(), %error, "a recording cannot be written");
        }
        TapeEnd::DiskFailed
    }

    fn end(&mut self, call: CallRef) {
        let Some(reel) = self.reels.get_mut(&call) else { return };
        let samples: Vec<[i16; 2]> = reel.tape.rest().collect();
        self.write(call, &samples);
        let Some(mut reel) = self.reels.remove(&call) else { return };
        reel.stop(reel.end);
        let file = reel.path.with_extension(""); // without `.part`
        let named = fs::rename(&reel.path, &file).is_ok();
        let name = file.file_name().filter(|_| named).map(|name| name.to_string_lossy().into_owned());
        let milliseconds = reel.written * 1000 / RATE as u64;
        let Reel { lost, unreadable, end, .. } = reel;
        let report = Recorded { file: name, milliseconds, lost_frames: lost, unreadable_frames: unreadable, end };
        self.gauges.active.store(self.reels.len() as u64, Ordering::Relaxed);
        // A receiver that is gone is the process ending.
        let _ = self.events.send(MediaEvent::Recorded(call, report));
    }
}

impl Reel {
    fn write(&mut self, samples: &[[i16; 2]]) -> Result<(), hound::Error> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut writer = file.get_i16_writer(2 * samples.len() as u32);
        samples.as_flattened().iter().for_each(|sample| writer.write_sample(*sample));
        writer.flush()?;
        self.written += samples.len() as u64;
        if now() >= self.true_length_at {
            self.true_length_at = now() + TRUE_LENGTH;
            file.flush()?;
        }
        Ok(())
    }

    /// Nothing more is written; what is there stays.
    fn stop(&mut self, end: TapeEnd) {
        self.end = end;
        if let Some(Err(error)) = self.file.take().map(WavWriter::finalize) {
            tracing::debug!(%error, "a recording's header could not be written a last time");
            self.end = TapeEnd::DiskFailed;
        }
    }
}

/// Readable by nobody else.
fn create(path: &Path) -> Result<WavWriter<BufWriter<File>>, hound::Error> {
    let spec = WavSpec { channels: 2, sample_rate: RATE as u32, bits_per_sample: 16, sample_format: SampleFormat::Int };
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    WavWriter::new(BufWriter::new(file), spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use crate::media::tape::Track;

    const CALL: CallRef = CallRef(0xab);

    struct Scene {
        folder: tempfile::TempDir,
        recorder: Option<Recorder>,
        thread: Option<JoinHandle<()>>,
        events: UnboundedReceiver<MediaEvent>,
    }

    impl Scene {
        fn with(max_bytes: u64) -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self::in_folder(folder, max_bytes)
        }

        fn in_folder(folder: tempfile::TempDir, max_bytes: u64) -> Self {
            let (sender, events) = unbounded_channel();
            let settings = RecorderSettings { folder: folder.path().to_path_buf(), max_bytes, beep: Duration::ZERO };
            let (recorder, thread) = start(&settings, sender).unwrap();
            Self { folder, recorder: Some(recorder), thread: Some(thread), events }
        }

        fn recorder(&self) -> &Recorder {
            self.recorder.as_ref().unwrap()
        }

        /// This many frames of 20 ms of each track, all arriving as they would.
        fn says(&self, call: CallRef, frames: u32) {
            let start = now();
            self.recorder().order(Order::Roll(call, start));
            for number in 0..frames {
                let at = start + Duration::from_millis(20) * number;
                for (side, track) in [Track::Said, Track::Heard].into_iter().enumerate() {
                    let mut packet = vec![0x80, 0, 0, 0];
                    packet.extend((160 * number).to_be_bytes());
                    packet.extend((side as u32).to_be_bytes());
                    packet.extend([0x90 + side as u8; 160]);
                    self.recorder().take(Frame::of(call, track, 2 * number + side as u32, &packet, at).unwrap());
                }
            }
        }

        fn report(&mut self, call: CallRef) -> Recorded {
            self.recorder().order(Order::End(call));
            match self.events.blocking_recv() {
                Some(MediaEvent::Recorded(of, report)) if of == call => report,
                other => panic!("{other:?}"),
            }
        }

        fn finish(&mut self) {
            drop(self.recorder.take());
            self.thread.take().unwrap().join().unwrap();
        }
    }

    fn samples(path: &Path) -> Vec<i16> {
        hound::WavReader::open(path).unwrap().into_samples().map(Result::unwrap).collect()
    }

    #[test]
    fn a_recording_is_a_stereo_file_with_the_customer_on_the_left() {
        let mut scene = Scene::with(1 << 20);
        scene.says(CALL, 50);
        let report = scene.report(CALL);
        let name = format!("{CALL}.wav");
        assert_eq!(
            report,
            Recorded {
                file: Some(name.clone()),
                milliseconds: 1000,
                lost_frames: 0,
                unreadable_frames: 0,
                end: TapeEnd::Complete
            }
        );
        let samples = samples(&scene.folder.path().join(name));
        let [left, right] = [0x90, 0x91].map(super::super::tones::from_mu_law);
        assert_eq!(samples.len(), 2 * 8000);
        assert!(samples.chunks(2).all(|pair| pair == [left, right]));
        assert_eq!(scene.recorder().gauges().status(), RecorderStatus { bytes: 32_000, ..RecorderStatus::default() });
    }

    #[test]
    fn what_is_missing_at_the_beginning_of_another_row_is_counted_and_no_more() {
        let mut scene = Scene::with(1 << 20);
        scene.says(CALL, 50);
        // The customer's place is taken: another row, whose first frames found no room.
        scene.recorder().order(Order::Pause(CALL, now()));
        scene.recorder().order(Order::Roll(CALL, now()));
        let packet = [&[0x80, 0][..], &[0x90; 170]].concat();
        for number in 3..6 {
            scene.recorder().take(Frame::of(CALL, Track::Said, number, &packet, now()).unwrap());
        }
        let report = scene.report(CALL);
        assert_eq!((report.lost_frames, report.end), (3, TapeEnd::Complete));
    }

    #[test]
    fn speech_of_another_codec_is_silence_and_the_report_says_how_much_of_it() {
        let mut scene = Scene::with(1 << 20);
        scene.says(CALL, 50);
        for number in 0..7 {
            let g722 = [&[0x80, 9][..], &[0; 170]].concat();
            scene.recorder().take(Frame::of(CALL, Track::Said, 100 + number, &g722, now()).unwrap());
        }
        let report = scene.report(CALL);
        assert_eq!((report.unreadable_frames, report.lost_frames, report.end), (7, 0, TapeEnd::Complete));
    }

    #[test]
    fn a_full_folder_ends_a_recording_and_room_that_somebody_makes_is_seen_by_the_next_process() {
        let mut scene = Scene::with(20_000);
        scene.says(CALL, 25);
        assert_eq!(scene.report(CALL).end, TapeEnd::Complete);
        scene.says(CallRef(2), 25);
        let report = scene.report(CallRef(2));
        assert_eq!((report.end, report.milliseconds), (TapeEnd::FolderFull, 0));
        assert!(scene.recorder().gauges().status().failing);
        scene.finish();
        for entry in fs::read_dir(scene.folder.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let mut scene = Scene::in_folder(scene.folder, 20_000);
        scene.says(CALL, 25);
        assert_eq!(scene.report(CALL).end, TapeEnd::Complete);
    }

    #[test]
    fn a_disk_that_fails_costs_the_recording_alone() {
        let mut scene = Scene::with(1 << 20);
        fs::remove_dir(scene.folder.path()).unwrap();
        scene.says(CALL, 10);
        let report = scene.report(CALL);
        assert_eq!((report.file, report.end), (None, TapeEnd::DiskFailed));
        assert!(scene.recorder().gauges().status().failing);
        fs::create_dir(scene.folder.path()).unwrap();
        scene.says(CallRef(2), 10);
        assert_eq!(scene.report(CallRef(2)).end, TapeEnd::Complete);
        assert!(!scene.recorder().gauges().status().failing);
    }

    #[test]
    fn what_a_killed_process_left_is_whole_and_gets_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join(format!("{CALL}.{PART}"));
        let mut left = create(&part).unwrap();
        (0..100).for_each(|sample| left.write_sample(sample).unwrap());
        left.flush().unwrap();
        std::mem::forget(left); // as SIGKILL does
        let scene = Scene::in_folder(folder, 1 << 20);
        assert_eq!(samples(&scene.folder.path().join(format!("{CALL}.wav"))).len(), 100);
        assert!(!part.exists());
    }

    #[test]
    fn a_recording_that_grows_when_the_process_ends_is_closed() {
        let mut scene = Scene::with(1 << 20);
        scene.says(CALL, 10);
        scene.finish();
        assert_eq!(samples(&scene.folder.path().join(format!("{CALL}.wav"))).len(), 2 * 1600);
    }

    #[test]
    fn frames_without_room_are_left_out_and_counted_and_nobody_waits() {
        let (frames, taken) = sync_channel(2);
        let (orders, _obeyed) = channel();
        let recorder = Recorder { frames, orders, gauges: Arc::default() };
        let frame = Frame::of(CALL, Track::Said, 0, &[&[0x80, 0][..], &[0; 170]].concat(), now()).unwrap();
        (0..5).for_each(|_| recorder.take(frame));
        assert_eq!((recorder.gauges().status().lost, taken.try_iter().count()), (3, 2));
    }
}
