//! Telephones: SIP stacks of others, with a tone for a voice and a recording for an ear. Both take the same orders and
//! say the same words; only the spelling differs.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::stage::{SOON, eventually};
use crate::tone::Tone;
use crate::world::{INSTALL, NUMBER, Over, Place};

/// Whose stack it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    Baresip,
    Pjsua,
}

impl Stack {
    /// As in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Baresip => "baresip",
            Self::Pjsua => "pjsua2",
        }
    }
}

/// A telephone at its place. It takes every call. Killed by its id and awaited when dropped.
pub struct Phone {
    stack: Stack,
    child: Child,
    orders: Box<dyn Write>,
    said: Arc<Mutex<String>>,
    room: PathBuf,
    /// baresip 1.0.0 ends its recording of a call when it holds it itself, though it goes on hearing.
    is_deaf: bool,
}

impl Phone {
    /// Starts one that speaks this tone, with a folder of its own that holds the certificates.
    pub async fn start(stack: Stack, place: &Place, over: Over, tone: Tone, room: PathBuf) -> Self {
        Self::with(stack, place, (over, false), tone, room).await
    }

    /// One that speaks and takes SRTP and nothing else, with SDES.
    pub async fn secured(stack: Stack, place: &Place, over: Over, tone: Tone, room: PathBuf) -> Self {
        Self::with(stack, place, (over, true), tone, room).await
    }

    async fn with(stack: Stack, place: &Place, how: (Over, bool), tone: Tone, room: PathBuf) -> Self {
        match stack {
            Stack::Baresip => Self::baresip(place, how, tone, room).await,
            Stack::Pjsua => Self::pjsua(place, how, tone, room).await,
        }
    }

    async fn baresip(place: &Place, (over, secured): (Over, bool), tone: Tone, room: PathBuf) -> Self {
        // It hangs up at the end of its file.
        tone.write(&room.join("speech.wav"), 120);
        let (at, ip) = (room.display(), place.ip);
        let configuration = include_str!("baresip.conf").replace("ROOM", &at.to_string());
        fs::write(room.join("config"), configuration.replace("ADDRESS", &ip.to_string())).unwrap();
        let media = if secured { ";mediaenc=srtp-mand" } else { "" };
        let account = format!("<sip:{NUMBER}@{ip};transport={}>;regint=0;answermode=auto{media}\n", over.as_str());
        fs::write(room.join("accounts"), account).unwrap();
        fs::write(room.join("contacts"), "").unwrap();
        let mut command = Command::new("baresip");
        command.args(["-s", "-f"]).arg(&room).stdin(Stdio::null()).stdout(File::create(room.join("log")).unwrap());
        let mut child = begin(place, &mut command, &room);
        let mut orders = None;
        eventually("baresip takes orders", SOON, async || {
            assert_eq!(child.try_wait().unwrap(), None, "{}", last_words(&room));
            orders = place.within(|| TcpStream::connect((ip, 4444)).ok());
            orders.is_some()
        })
        .await;
        let orders = orders.unwrap();
        let said = listen_to(orders.try_clone().unwrap());
        Self { stack: Stack::Baresip, child, orders: Box::new(orders), said, room, is_deaf: false }
    }

    async fn pjsua(place: &Place, (over, secured): (Over, bool), tone: Tone, room: PathBuf) -> Self {
        tone.write(&room.join("speech.wav"), 120);
        let driver = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/pjsua.py");
        let at = over.at(place.ip);
        let mut command = Command::new(python());
        command.args([driver, &place.ip.to_string(), &at.port().to_string(), over.as_str()]).arg(&room);
        command.args(secured.then_some("srtp"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = begin(place, &mut command, &room);
        let (orders, said) = (child.stdin.take().unwrap(), listen_to(child.stdout.take().unwrap()));
        let mut phone = Self { stack: Stack::Pjsua, child, orders: Box::new(orders), said, room, is_deaf: false };
        eventually("pjsua is ready", SOON, async || {
            assert_eq!(phone.child.try_wait().unwrap(), None, "{}", last_words(&phone.room));
            phone.times("READY") == 1
        })
        .await;
        phone
    }

    /// `dial URI`, `hold`, `resume` or `hangup`.
    pub fn obey(&mut self, order: &str) {
        self.is_deaf = self.stack == Stack::Baresip && (order == "hold" || self.is_deaf && !order.starts_with("dial"));
        let text = match self.stack {
            Stack::Baresip => netstring(order),
            Stack::Pjsua => format!("{order}\n"),
        };
        self.orders.write_all(text.as_bytes()).unwrap();
        self.orders.flush().unwrap();
    }

    /// How often it has said this word: `CALL_ESTABLISHED` or `CALL_CLOSED`.
    pub fn times(&self, word: &str) -> usize {
        self.said().matches(word).count()
    }

    /// Waits until it has said this word this many times.
    pub async fn says(&self, word: &str, times: usize) {
        eventually(&format!("{:?} says {word}", self.stack), SOON, async || self.times(word) >= times).await;
        assert_eq!(self.times(word), times, "{:?} says {word}", self.stack);
    }

    /// An order it could not obey is a mistake of the test.
    pub fn has_obeyed(&self) {
        let said = self.said();
        assert!(!said.contains("FAILED") && !said.contains("\"ok\":false"), "{said}");
    }

    /// What it hears from now on for this long, as 16-bit samples at 8 kHz; `None` if it does not write it down.
    pub async fn hears(&self, time: Duration) -> Option<Vec<i16>> {
        let before = self.recorded().len();
        tokio::time::sleep(time).await;
        (!self.is_deaf).then(|| self.recorded().split_off(before))
    }

    /// Everything it has decoded so far. The recording is not closed yet, its head says nothing of its length.
    fn recorded(&self) -> Vec<i16> {
        const HEAD: usize = 44;
        let is_ours = |name: &str| name.starts_with("heard") || name.ends_with("dec.wav");
        let entries = fs::read_dir(&self.room).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> =
            entries.filter(|path| path.file_name().is_some_and(|name| is_ours(&name.to_string_lossy()))).collect();
        files.sort_unstable();
        let samples = |path: &PathBuf| {
            let octets = fs::read(path).unwrap();
            let pairs = octets.get(HEAD..).unwrap_or_default().chunks_exact(2);
            pairs.map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect::<Vec<i16>>()
        };
        files.iter().flat_map(samples).collect()
    }

    fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Phone {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {:?} said\n{}\n{}", self.stack, self.said(), last_words(&self.room));
        }
    }
}

fn begin(place: &Place, command: &mut Command, room: &Path) -> Child {
    command.stderr(File::create(room.join("errors")).unwrap());
    match place.within(|| command.spawn()) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("{} is missing; {INSTALL}", command.get_program().display())
        }
        spawned => spawned.unwrap(),
    }
}

/// The Python that has pjsua2: what tests/run made, unless told otherwise.
fn python() -> PathBuf {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pjsua2/bin/python");
    assert!(
        own.exists(),
        "pjsua2 is missing; tests/run installs it, or: python3 -m venv {0} && {0}/bin/pip install pjsua2-python==2.15.1.post1",
        own.ancestors().nth(2).unwrap().display()
    );
    own
}

/// Collects what is said until the other side is done.
fn listen_to(mut words: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let said = Arc::new(Mutex::new(String::new()));
    let collected = said.clone();
    std::thread::spawn(move || {
        let mut octets = [0; 4096];
        while let Ok(length @ 1..) = words.read(&mut octets) {
            let text = String::from_utf8_lossy(&octets[..length]);
            collected.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
        }
    });
    said
}

/// baresip's ctrl_tcp: JSON in a netstring.
fn netstring(order: &str) -> String {
    let (command, parameter) = order.split_once(' ').unwrap_or((order, ""));
    let json = serde_json::json!({ "command": command, "params": parameter }).to_string();
    format!("{}:{json},", json.len())
}

fn last_words(room: &Path) -> String {
    let tail = |name: &str| {
        let text =
            fs::read(room.join(name)).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default();
        let from = text.lines().count().saturating_sub(150);
        text.lines().skip(from).fold(String::new(), |all, line| all + line + "\n")
    };
    ["log", "errors"].map(tail).concat()
}
