//! Call records as JSON Lines, written by a thread of its own so that a slow or full disk never holds a call.
//!
//! Every record reaches the kernel as one write as soon as it comes, so that it survives our own crash. When writing
//! fails, records wait in bounded memory and are tried again each second; one log line opens the episode and one closes
//! it.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::call::record::CallRecord;
use crate::clock;

/// Records that may wait on the way to the thread, and again in it while the disk fails.
pub const CAPACITY: usize = 10_000;
/// Between two tries while the disk fails.
const RETRY: Duration = Duration::from_secs(1);

/// Where records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Appended to this file.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// Counted and dropped.
    Nowhere,
}

/// How the writer is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordsStatus {
    /// Records written.
    pub written: u64,
    /// Records lost: no room to wait, or still unwritten at the end.
    pub lost: u64,
    /// Writes that failed.
    pub failures: u64,
    /// Whether the last write failed, or records are being lost.
    pub failing: bool,
}

/// The caller's end. Cheap to clone; none of its calls blocks.
#[derive(Debug, Clone)]
pub struct Records {
    to_thread: SyncSender<Order>,
    gauges: Arc<Gauges>,
}

/// The thread's end: joined by [`Writer::finish`].
#[derive(Debug)]
pub struct Writer {
    records: Records,
    thread: JoinHandle<()>,
}

#[derive(Debug)]
enum Order {
    Write(Box<CallRecord>),
    Reopen,
    Finish,
}

#[derive(Debug, Default)]
struct Gauges {
    written: AtomicU64,
    lost: AtomicU64,
    failures: AtomicU64,
    failing: AtomicBool,
}

/// Opens the target and starts the thread. A target that cannot be opened now is an error now, at start.
pub fn start(target: Target, capacity: usize) -> io::Result<(Records, Writer)> {
    let sink = Sink::open(target)?;
    let (to_thread, orders) = sync_channel(capacity);
    let gauges = Arc::new(Gauges::default());
    let desk = Desk { sink, gauges: Arc::clone(&gauges), waiting: VecDeque::new(), capacity, retry_at: None };
    let thread = std::thread::Builder::new().name("records".to_owned()).spawn(move || desk.serve(&orders))?;
    let records = Records { to_thread, gauges };
    Ok((records.clone(), Writer { records, thread }))
}

impl Records {
    /// Hands over a record. When there is no room it is lost and counted: calls come first.
    pub fn write(&self, record: Box<CallRecord>) {
        match self.to_thread.try_send(Order::Write(record)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.gauges.lost.fetch_add(1, Ordering::Relaxed);
                if !self.gauges.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!("call records are being lost: the writer does not keep up");
                }
            }
        }
    }

    /// Opens the file anew, after logrotate moved it. Skipped when the thread is too busy to hear: returns whether it did.
    pub fn reopen(&self) -> bool {
        self.to_thread.try_send(Order::Reopen).is_ok()
    }

    /// How the writer is doing.
    pub fn status(&self) -> RecordsStatus {
        let Gauges { written, lost, failures, failing } = &*self.gauges;
        RecordsStatus {
            written: written.load(Ordering::Relaxed),
            lost: lost.load(Ordering::Relaxed),
            failures: failures.load(Ordering::Relaxed),
            failing: failing.load(Ordering::Relaxed),
        }
    }
}

impl Writer {
    /// Writes what is still waiting, tries a failing disk one last time, and returns the final status. This blocks: it
    /// is the last thing a process does.
    pub fn finish(self) -> RecordsStatus {
        // The thread ends only by this order or by a panic; in both cases there is nothing more to ask of it.
        let _ = self.records.to_thread.send(Order::Finish);
        let _ = self.thread.join();
        self.records.status()
    }
}

/// The thread.
struct Desk {
    sink: Sink,
    gauges: Arc<Gauges>,
    /// Lines that could not be written yet, oldest first.
    waiting: VecDeque<Vec<u8>>,
    capacity: usize,
    /// Set while the sink fails: until then nothing is tried.
    retry_at: Option<Instant>,
}

impl Desk {
    fn serve(mut self, orders: &Receiver<Order>) {
        loop {
            let order = match self.retry_at {
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => orders.recv_timeout(at.saturating_duration_since(clock::now())),
            };
            match order {
                Ok(Order::Write(record)) => self.take(&record),
                Ok(Order::Reopen) => self.reopen(),
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Order::Finish) | Err(RecvTimeoutError::Disconnected) => break,
            }
            // Asked after every order, so that a busy hour does not put the next try off for ever.
            if self.retry_at.is_some_and(|at| clock::now() >= at) {
                self.reopen();
            }
        }
        self.reopen();
        self.gauges.lost.fetch_add(self.waiting.len() as u64, Ordering::Relaxed);
    }

    fn take(&mut self, record: &CallRecord) {
        let line = serde_json::to_vec(record).map(|mut line| {
            line.push(b'\n');
            line
        });
        match line {
            Ok(line) if self.waiting.len() < self.capacity => self.waiting.push_back(line),
            Ok(_) => {
                self.gauges.lost.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                debug_assert!(false, "a record is plain data: {error}");
                self.gauges.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        if self.retry_at.is_none() {
            self.write_waiting();
        }
    }

    /// A new descriptor and a new try: the file may have been moved, or its disk mounted again.
    fn reopen(&mut self) {
        if let Err(error) = self.sink.reopen() {
            self.failed(&error);
            return;
        }
        self.write_waiting();
    }

    fn write_waiting(&mut self) {
        while let Some(line) = self.waiting.front() {
            if let Err(error) = self.sink.write(line) {
                self.failed(&error);
                return;
            }
            self.waiting.pop_front();
            self.gauges.written.fetch_add(1, Ordering::Relaxed);
        }
        self.retry_at = None;
        if self.gauges.failing.swap(false, Ordering::Relaxed) {
            let lost = self.gauges.lost.load(Ordering::Relaxed);
            tracing::info!(lost, "call records are written again");
        }
    }

    fn failed(&mut self, error: &io::Error) {
        self.retry_at = Some(clock::now() + RETRY);
        self.gauges.failures.fetch_add(1, Ordering::Relaxed);
        if !self.gauges.failing.swap(true, Ordering::Relaxed) {
            tracing::error!(%error, "call records cannot be written; they wait in memory");
        }
    }
}

/// An open target.
enum Sink {
    File {
        path: PathBuf,
        file: File,
        /// A write broke off in mid-line and could not be undone: the next one begins on a line of its own.
        torn: bool,
    },
    Stdout,
    Nowhere,
}

impl Sink {
    fn open(target: Target) -> io::Result<Self> {
        Ok(match target {
            Target::File(path) => Self::File { file: append_to(&path)?, path, torn: false },
            Target::Stdout => Self::Stdout,
            Target::Nowhere => Self::Nowhere,
        })
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Self::File { path, file, torn } = self {
            let fresh = append_to(path)?;
            if *torn && fresh.metadata()?.len() == 0 {
                *torn = false;
            }
            *file = fresh;
        }
        Ok(())
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::File { file, torn, .. } => {
                let before = file.metadata()?.len();
                let result = if *torn { file.write_all(&[b"\n", line].concat()) } else { file.write_all(line) };
                *torn = match result {
                    Ok(()) => false,
                    Err(_) => *torn || file.metadata()?.len() != before && file.set_len(before).is_err(),
                };
                result
            }
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(line)?;
                out.flush()
            }
            Self::Nowhere => Ok(()),
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::intake::ConversationSource;
    use crate::call::verdict::{EndedBy, Evidence, Outcome, Phase, Verdict};
    use crate::call::{CallRef, ConversationId};

    fn record(call: u128) -> Box<CallRecord> {
        Box::new(CallRecord {
            call: CallRef(call),
            conversation: ConversationId("c-1".to_owned()),
            conversation_source: ConversationSource::Header,
            resumes: None,
            customer_call_id: "a@b".to_owned(),
            caller: "****0100".to_owned(),
            dialled: "ivr".to_owned(),
            task: None,
            input_variables: Vec::new(),
            input_left_out: 0,
            received_at: 0,
            answered_at: None,
            decided_at: 0,
            ended_at: 0,
            takeovers: 0,
            attempts: Vec::new(),
            verdict: Verdict {
                outcome: Outcome::Agent,
                ended_by: EndedBy::Genagent,
                phase: Phase::Talking,
                evidence: Evidence::default(),
            },
            hand_back: None,
            context_ref: "0".repeat(32),
            customer_media: None,
            genagent_media: None,
            onward_media: None,
            recording: None,
        })
    }

    /// The call ids in a file, in order.
    fn calls(path: &Path) -> Vec<u128> {
        let text = std::fs::read_to_string(path).unwrap();
        let id = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            u128::from_str_radix(value["call"].as_str().unwrap(), 16).unwrap()
        };
        text.lines().map(id).collect()
    }

    #[test]
    fn every_record_is_one_line_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        let (records, writer) = start(Target::File(path.clone()), CAPACITY).unwrap();
        (1..=500).for_each(|call| records.write(record(call)));
        let status = writer.finish();
        assert_eq!(status, RecordsStatus { written: 500, ..RecordsStatus::default() });
        assert_eq!(calls(&path), (1..=500).collect::<Vec<_>>());
    }

    #[test]
    fn a_second_run_appends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        for call in [1, 2] {
            let (records, writer) = start(Target::File(path.clone()), CAPACITY).unwrap();
            records.write(record(call));
            writer.finish();
        }
        assert_eq!(calls(&path), [1, 2]);
    }

    #[test]
    fn reopening_follows_a_rotated_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("records.jsonl"), folder.path().join("records.jsonl.1"));
        let (records, writer) = start(Target::File(path.clone()), CAPACITY).unwrap();
        records.write(record(1));
        std::fs::rename(&path, &moved).unwrap();
        records.write(record(2));
        assert!(records.reopen());
        records.write(record(3));
        writer.finish();
        assert_eq!((calls(&moved), calls(&path)), (vec![1, 2], vec![3]));
    }

    #[test]
    fn a_full_disk_keeps_records_until_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let (link, real) = (folder.path().join("records.jsonl"), folder.path().join("real"));
        std::os::unix::fs::symlink("/dev/full", &link).unwrap();
        let (records, writer) = start(Target::File(link.clone()), CAPACITY).unwrap();
        (1..=3).for_each(|call| records.write(record(call)));
        while !records.status().failing {
            std::thread::yield_now();
        }
        // Replaced in one step: the writer may try again at any moment.
        let next = folder.path().join("next");
        std::os::unix::fs::symlink(&real, &next).unwrap();
        std::fs::rename(&next, &link).unwrap();
        assert!(records.reopen());
        let status = writer.finish();
        assert_eq!((status.written, status.lost, status.failing), (3, 0, false));
        assert_eq!(calls(&real), [1, 2, 3]);
    }

    #[test]
    fn a_torn_line_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("records.jsonl");
        std::fs::write(&path, "{\"call\":").unwrap();
        let mut sink = Sink::File { path: path.clone(), file: append_to(&path).unwrap(), torn: true };
        sink.write(b"whole\n").unwrap();
        sink.write(b"next\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"call\":\nwhole\nnext\n");
    }

    #[test]
    fn memory_is_bounded_and_losses_are_counted() {
        let (records, writer) = start(Target::File("/dev/full".into()), 2).unwrap();
        (1..=50).for_each(|call| records.write(record(call)));
        let status = writer.finish();
        assert_eq!((status.written, status.lost, status.failing), (0, 50, true));
    }

    #[test]
    fn a_target_that_cannot_be_opened_is_an_error_at_start() {
        assert!(start(Target::File("/nonexistent/records.jsonl".into()), 1).is_err());
        let (records, writer) = start(Target::Nowhere, CAPACITY).unwrap();
        records.write(record(1));
        assert_eq!(writer.finish().written, 1);
    }
}
