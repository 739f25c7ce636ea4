//! SIPp as a child process: its scenario, its counters, and what it wrote down.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::stage::ended;

/// What to do about a missing tool.
pub const INSTALL: &str = "install it with: apt-get install -y sip-tester tshark";

/// Makes every run's Call-IDs and branches its own: SIPp builds them from its process id, which comes again.
static RUNS: AtomicU32 = AtomicU32::new(1);

/// A SIPp that has not been started yet: one call unless told otherwise.
#[derive(Debug)]
pub struct Sipp {
    scenario: String,
    run: String,
    folder: PathBuf,
    command: Command,
    calls: u32,
    target: Option<SocketAddr>,
}

impl Sipp {
    /// Plays `sip-fixtures/sipp/{scenario}.xml` on this address.
    pub fn new(scenario: &str, here: SocketAddr, folder: &Path) -> Self {
        let run = format!("{}x{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
        // SIPp names its table of times after the scenario's path: a copy keeps it in the test's folder.
        let file = format!("{scenario}.xml");
        let source = format!("{}/sip-fixtures/sipp/{file}", env!("CARGO_MANIFEST_DIR"));
        fs::copy(&source, folder.join(&file)).unwrap_or_else(|error| panic!("{source}: {error}"));
        let ip = here.ip().to_string();
        let mut command = Command::new("sipp");
        command
            .args(["-sf", &file, "-i", &ip, "-p", &here.port().to_string(), "-mi", &ip, "-ci", &ip])
            .args(["-key", "run", &run, "-cid_str", &format!("%u-{run}@%s")])
            .args(["-nostdin", "-recv_timeout", "30000", "-fd", "1", "-trace_rtt", "-rtt_freq", "1"]);
        Self { scenario: scenario.to_owned(), run, folder: folder.to_owned(), command, calls: 1, target: None }
    }

    /// Says this in place of that.
    pub fn saying(self, this: &str, instead_of: &str) -> Self {
        let file = self.folder.join(format!("{}.xml", self.scenario));
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(instead_of), "{} does not say {instead_of}", self.scenario);
        fs::write(&file, text.replace(instead_of, this)).unwrap();
        self
    }

    /// Calls Switchback instead of waiting for calls.
    pub fn calls_to(mut self, target: SocketAddr) -> Self {
        self.target = Some(target);
        self
    }

    /// This many calls.
    pub fn calls(mut self, calls: u32) -> Self {
        self.calls = calls;
        self
    }

    /// This many new calls a second; a caller's.
    pub fn rate(mut self, per_second: u32) -> Self {
        self.command.args(["-r", &per_second.to_string()]);
        self
    }

    /// How long the scenario's pause is: the conversation.
    pub fn pause(mut self, pause: Duration) -> Self {
        self.command.args(["-d", &pause.as_millis().to_string()]);
        self
    }

    /// Whatever else SIPp is to be told.
    pub fn option(mut self, words: &[&str]) -> Self {
        self.command.args(words);
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Running {
        let path = |kind: &str| self.folder.join(format!("{}-{}.{kind}", self.scenario, self.run));
        let files = Files { errors: path("errors"), counters: path("csv"), log: path("log"), screen: path("screen") };
        self.command
            .args(["-m", &self.calls.to_string()])
            .arg("-trace_err")
            .arg("-error_file")
            .arg(&files.errors)
            .arg("-trace_stat")
            .arg("-stf")
            .arg(&files.counters)
            .arg("-trace_logs")
            .arg("-log_file")
            .arg(&files.log)
            .args(self.target.map(|target| target.to_string()))
            .env("TERM", "xterm")
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(File::create(&files.screen).unwrap())
            .stderr(Stdio::null());
        let child = match self.command.spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => panic!("sipp is missing; {INSTALL}"),
            spawned => spawned.unwrap(),
        };
        Running { scenario: self.scenario, child, files, calls: self.calls }
    }

    /// Starts it and waits until all its calls have gone well.
    pub async fn play(self, limit: Duration) -> Played {
        self.start().well(limit).await
    }
}

#[derive(Debug)]
struct Files {
    errors: PathBuf,
    counters: PathBuf,
    log: PathBuf,
    screen: PathBuf,
}

/// A running SIPp. Killed by its id and awaited when dropped.
#[derive(Debug)]
pub struct Running {
    scenario: String,
    child: Child,
    files: Files,
    calls: u32,
}

impl Running {
    /// Waits for its end, which must come with every call done and none failed.
    pub async fn well(mut self, limit: Duration) -> Played {
        let status = ended(&mut self.child, limit).await;
        let errors = fs::read_to_string(&self.files.errors).unwrap_or_default();
        let text: String = errors.chars().take(4000).collect();
        let Some(status) = status else { panic!("{} does not end within {limit:?}\n{text}", self.scenario) };
        let played = self.played();
        let count = |column: &str| played.counters.get(column).and_then(|value| value.parse::<u32>().ok());
        let (done, failed) = (count("SuccessfulCall(C)"), count("FailedCall(C)"));
        assert!(
            status.success() && failed == Some(0) && done == Some(self.calls),
            "{}: {status}, {done:?} of {} calls went well, {failed:?} failed\n{text}",
            self.scenario,
            self.calls,
        );
        played
    }

    fn played(&self) -> Played {
        let lines = |path: &Path| -> Vec<String> {
            fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
        };
        let table = lines(&self.files.counters);
        let row = |line: Option<&String>| -> Vec<String> {
            line.map(|line| line.split(';').map(str::to_owned).collect()).unwrap_or_default()
        };
        let counters = row(table.first()).into_iter().zip(row(table.last())).collect();
        let times = self.files.log.with_file_name(format!("{}_{}_rtt.csv", self.scenario, self.child.id()));
        let measured = |line: &String| {
            let mut columns = line.split(';').skip(1);
            let milliseconds: f64 = columns.next()?.parse().ok()?;
            Some((columns.next()?.trim().to_owned(), Duration::from_secs_f64(milliseconds / 1000.0)))
        };
        Played {
            log: lines(&self.files.log),
            counters,
            times: lines(&times).iter().filter_map(measured).collect(),
            scenario: self.scenario.clone(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a SIPp that has ended leaves behind.
#[derive(Debug)]
pub struct Played {
    scenario: String,
    counters: BTreeMap<String, String>,
    times: Vec<(String, Duration)>,
    /// The lines its scenario logged.
    pub log: Vec<String>,
}

impl Played {
    /// A cumulative counter of SIPp, by the name of its column.
    pub fn counter(&self, column: &str) -> u64 {
        let value = self.counters.get(column).and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("{} has no counter {column}: {:?}", self.scenario, self.counters))
    }

    /// What the scenario timed under this name, shortest first.
    pub fn times(&self, name: &str) -> Vec<Duration> {
        let mut times: Vec<Duration> = self.times.iter().filter(|(is, _)| is == name).map(|(_, time)| *time).collect();
        assert!(!times.is_empty(), "{} timed no {name}", self.scenario);
        times.sort_unstable();
        times
    }

    /// The values the scenario logged as `name=value`, in order.
    pub fn logged(&self, name: &str) -> Vec<&str> {
        let word = |line: &'_ String| {
            let start = line.find(&format!("{name}="))? + name.len() + 1;
            let rest = line.get(start..)?;
            Some((start, start + rest.find(" | ").unwrap_or(rest.len())))
        };
        self.log.iter().filter_map(|line| word(line).map(|(from, to)| &line[from..to])).collect()
    }
}
