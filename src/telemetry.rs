//! Logs to standard error, as text or JSON, through a thread of its own: a stalled terminal or pipe holds no call.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait for standard error; more are dropped and counted.
const CAPACITY: usize = 8192;
/// How long the end of the process waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Lines dropped because standard error did not keep up.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Writes the last lines when it goes out of scope; keep it until the process ends.
#[derive(Debug)]
pub struct Telemetry(SyncSender<Order>);

/// Why logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("log.level = \"{0}\" is not a level or filter: write \"info\" or \"info,switchback::asapp=debug\" ({1})")]
    Filter(String, String),
    /// Logs were set up before.
    #[error("logs are set up already")]
    Already,
    /// No thread.
    #[error("cannot start the log thread")]
    Thread(#[from] io::Error),
}

/// Sets up the process's logs, once: `filter` as in `log.level`.
pub fn start(filter: &str, json: bool) -> Result<Telemetry, TelemetryError> {
    let filter =
        EnvFilter::try_new(filter).map_err(|error| TelemetryError::Filter(filter.to_owned(), error.to_string()))?;
    let (to_thread, orders) = sync_channel(CAPACITY);
    std::thread::Builder::new().name("log".to_owned()).spawn(move || write_lines(&orders))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Lines(to_thread.clone()));
    let set = if json { lines.json().flatten_event(true).try_init() } else { lines.with_ansi(false).try_init() };
    set.map_err(|_| TelemetryError::Already)?;
    Ok(Telemetry(to_thread))
}

/// Lines dropped since the start.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        let (done, wait) = sync_channel(1);
        if self.0.try_send(Order::Flush(done)).is_ok() {
            // Nobody is left to tell when the last lines do not make it.
            let _ = wait.recv_timeout(LAST_LINES);
        }
    }
}

enum Order {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

fn write_lines(orders: &Receiver<Order>) {
    for order in orders {
        match order {
            // A closed standard error is nobody's news.
            Order::Line(line) => drop(io::stderr().write_all(&line)),
            Order::Flush(done) => drop(done.try_send(())),
        }
    }
}

/// Makes one [`Line`] for each event.
struct Lines(SyncSender<Order>);

/// One event on its way; sent when dropped.
struct Line<'a> {
    text: Vec<u8>,
    to_thread: &'a SyncSender<Order>,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { text: Vec::with_capacity(256), to_thread: &self.0 }
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if self.to_thread.try_send(Order::Line(std::mem::take(&mut self.text))).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_names_its_key() {
        let error = start("switchback=loud", false).unwrap_err().to_string();
        assert!(error.contains("log.level"), "{error}");
    }

    #[test]
    fn a_stalled_reader_costs_lines_and_no_time() {
        let (to_thread, _orders) = sync_channel(1);
        let lines = Lines(to_thread);
        let before = dropped_lines();
        for _ in 0..3 {
            lines.make_writer().write_all(b"a line\n").unwrap();
        }
        assert_eq!(dropped_lines() - before, 2);
    }
}
