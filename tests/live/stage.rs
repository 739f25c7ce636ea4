//! The stage: loopback addresses of its own, the built program on them, and the mock API in this process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use switchback::clock;
use switchback::demo::asapp::{AutoComplete, Behaviour, Manners, MockAsapp, MockAsappSettings, MockHandle};
use switchback::demo::hooks::output_context;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::sipp::Sipp;

/// The longest wait for something that takes no time.
pub const SOON: Duration = Duration::from_secs(10);

/// Between two looks at something that has no way to tell.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A /24 of loopback that no other test uses, however many run at once: who holds the claim has every port in it.
#[derive(Debug)]
pub struct Street {
    third: u8,
    _claim: TcpListener,
}

impl Street {
    /// Begins to look where nobody of this process has looked yet: what the last owner left behind, such as the
    /// listener of a runtime that is still shutting down, is not in the next one's way.
    fn claim() -> Self {
        static LOOKED_AT: AtomicU32 = AtomicU32::new(0);
        let free = (0..254).find_map(|_| {
            let next = std::process::id().wrapping_add(LOOKED_AT.fetch_add(1, Ordering::Relaxed));
            let third = (next % 254 + 1) as u8;
            let claim = TcpListener::bind((Ipv4Addr::new(127, 77, third, 1), 5059)).ok()?;
            Some(Self { third, _claim: claim })
        });
        free.expect("a free /24 in 127.77.0.0/16")
    }

    /// A house and a port in it.
    pub fn at(&self, house: u8, port: u16) -> SocketAddr {
        (Ipv4Addr::new(127, 77, self.third, house), port).into()
    }

    /// Where Switchback hears SIP. Its RTP is on the same address.
    pub fn switchback(&self) -> SocketAddr {
        self.at(2, 5060)
    }

    /// The IVR, on the access list.
    pub fn ivr(&self) -> SocketAddr {
        self.at(3, 5060)
    }

    /// The carrier: the trunk.
    pub fn carrier(&self) -> SocketAddr {
        self.at(4, 5060)
    }

    /// Where customers go next.
    pub fn queue(&self) -> SocketAddr {
        self.at(6, 5060)
    }

    /// The same on IPv6, where one host has all the houses: a port of this street.
    pub fn switchback_on_ipv6(&self) -> SocketAddr {
        (Ipv6Addr::LOCALHOST, 10_000 + u16::from(self.third)).into()
    }

    /// An IVR on IPv6.
    pub fn ivr_on_ipv6(&self) -> SocketAddr {
        (Ipv6Addr::LOCALHOST, 11_000 + u16::from(self.third)).into()
    }

    /// On no list.
    pub fn stranger(&self) -> SocketAddr {
        self.at(9, 5060)
    }

    fn admin(&self) -> SocketAddr {
        self.at(2, 8080)
    }
}

/// How the stage is set.
#[derive(Debug)]
pub struct Setting {
    /// The mock API.
    pub api: MockAsappSettings,
    /// Configuration keys that differ from [`configuration`], as `("call.ring_limit", "2s")`.
    pub keys: Vec<(&'static str, String)>,
    /// What else must stand before the program starts, and the keys that lead there.
    pub prepare: fn(&Street) -> Vec<(&'static str, String)>,
    /// Whether Switchback speaks IPv6 as well.
    pub both_families: bool,
    /// Targets and rules, as TOML.
    pub rules: &'static str,
}

impl Default for Setting {
    /// An API for carriers that cannot tell it anything: every transfer is COMPLETED when asked for, with `AGENT`.
    fn default() -> Self {
        Self {
            api: MockAsappSettings { numbers: 10_000, behaviour: handed_over("AGENT"), ..Default::default() },
            keys: Vec::new(),
            prepare: |_| Vec::new(),
            both_families: false,
            rules: "",
        }
    }
}

impl Setting {
    /// With this behaviour of the API.
    pub fn behaviour(mut self, behaviour: Behaviour) -> Self {
        self.api.behaviour = behaviour;
        self
    }

    /// With this beside the program.
    pub fn prepare(mut self, prepare: fn(&Street) -> Vec<(&'static str, String)>) -> Self {
        self.prepare = prepare;
        self
    }

    /// On IPv4 and IPv6.
    pub fn on_both_families(mut self) -> Self {
        self.both_families = true;
        self
    }

    /// With these targets and rules; `QUEUE` stands for the address of the queue.
    pub fn rules(mut self, rules: &'static str) -> Self {
        self.rules = rules;
        self
    }

    /// With this configuration key.
    pub fn key(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.keys.push((key, value.into()));
        self
    }
}

/// A transfer is COMPLETED with this transferType as soon as it is asked for.
pub fn handed_over(transfer_type: &str) -> Behaviour {
    let output = Some(output_context(transfer_type));
    let auto_complete = Some(AutoComplete { ongoing_after_ms: 0, completed_after_ms: 0, output });
    Behaviour { auto_complete, ..Behaviour::default() }
}

/// Answers that take their time.
pub fn slow(milliseconds: u64) -> Manners {
    Manners { latency_ms: milliseconds, ..Manners::default() }
}

/// Everything one test needs. Dropping it ends the program.
#[derive(Debug)]
pub struct Stage {
    /// The addresses.
    pub street: Street,
    /// The mock API, unless it is dark.
    api: Option<MockAsapp>,
    /// The built program.
    pub program: Program,
    configuration: String,
    keys: Vec<(&'static str, String)>,
    folder: TempDir,
    /// IVRs so far: each has a port of its own.
    callers: AtomicU16,
}

impl Stage {
    /// Sets the stage and waits until the program is ready.
    pub async fn set(setting: Setting) -> Self {
        let street = Street::claim();
        let folder = tempfile::Builder::new().prefix("switchback-live-").tempdir().unwrap();
        let api = MockAsapp::start(MockAsappSettings { address: street.at(5, 8000), ..setting.api }).await.unwrap();
        let rules = setting.rules.replace("QUEUE", &street.queue().to_string());
        let configuration = format!("{}{rules}", configuration(&street, &api.base_url()));
        let mut keys = [setting.keys, (setting.prepare)(&street)].concat();
        if setting.both_families {
            keys.extend(both_families(&street));
        }
        let program = Program::start(folder.path(), &configuration, &keys, street.admin()).await;
        Self { street, api: Some(api), program, configuration, keys, folder, callers: AtomicU16::new(0) }
    }

    /// A SIPp that plays this scenario of `sip-fixtures/sipp` as the IVR.
    pub fn ivr(&self, scenario: &str) -> Sipp {
        let mut here = self.street.ivr();
        here.set_port(here.port() + self.callers.fetch_add(1, Ordering::Relaxed));
        Sipp::new(scenario, here, self.folder.path()).calls_to(self.street.switchback())
    }

    /// A SIPp that plays this scenario as the IVR over IPv6.
    pub fn ivr_on_ipv6(&self, scenario: &str) -> Sipp {
        let here = self.street.ivr_on_ipv6();
        Sipp::new(scenario, here, self.folder.path()).calls_to(self.street.switchback_on_ipv6())
    }

    /// A SIPp that plays this scenario as the carrier.
    pub fn carrier(&self, scenario: &str) -> Sipp {
        Sipp::new(scenario, self.street.carrier(), self.folder.path())
    }

    /// A SIPp that plays this scenario as somebody who calls from the carrier's address.
    pub fn carrier_calls(&self, scenario: &str) -> Sipp {
        let mut here = self.street.carrier();
        here.set_port(here.port() + 1);
        Sipp::new(scenario, here, self.folder.path()).calls_to(self.street.switchback())
    }

    /// A SIPp that plays this scenario as the queue.
    pub fn queue(&self, scenario: &str) -> Sipp {
        Sipp::new(scenario, self.street.queue(), self.folder.path())
    }

    /// A file in this test's folder, which is gone after it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a voice of the demo where SIPp finds it.
    pub fn has_voice(&self, name: &str) {
        fs::copy(format!("{}/src/demo/voices/{name}", env!("CARGO_MANIFEST_DIR")), self.path(name)).unwrap();
    }

    /// What `GET /metrics` says.
    pub async fn metrics(&self) -> Metrics {
        let (status, page) = self.get("/metrics").await;
        assert_eq!(status, 200, "{page}");
        Metrics::read(&page)
    }

    /// The program is killed where it stands (SIGKILL) and started again.
    pub async fn program_is_killed_and_started_again(&mut self) {
        self.program.signal(Signal::KILL);
        self.program.exit(SOON).await;
        self.program = Program::start(self.folder.path(), &self.configuration, &self.keys, self.street.admin()).await;
    }

    /// `DELETE` on the admin port: the status.
    pub async fn delete(&self, path: &str) -> u16 {
        ask(self.street.admin(), "DELETE", path).await.expect("the admin port answers").0
    }

    /// `POST` on the admin port: the status.
    pub async fn post(&self, path: &str) -> u16 {
        ask(self.street.admin(), "POST", path).await.expect("the admin port answers").0
    }

    /// `GET` on the admin port: status and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        get(self.street.admin(), path).await.expect("the admin port answers")
    }

    /// `GET` on the admin port, read as JSON.
    pub async fn get_json(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The call records once there are this many; fails when there are more.
    pub async fn records(&self, count: usize) -> Vec<Value> {
        let path = self.folder.path().join("records.jsonl");
        eventually(&format!("{count} call records"), SOON, async || {
            fs::read_to_string(&path).unwrap().lines().count() >= count
        })
        .await;
        let lines = fs::read_to_string(&path).unwrap();
        let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.len(), count, "call records");
        records
    }

    /// The outcome of the one call there was, and its record.
    pub async fn verdict(&self) -> (String, Value) {
        let record = self.records(1).await.remove(0);
        (record["verdict"]["outcome"].as_str().unwrap().to_owned(), record)
    }

    /// The mock API, which must not be dark.
    pub fn api(&self) -> MockHandle {
        self.api.as_ref().expect("the API is up").handle()
    }

    /// From now on the API's address swallows every SYN; what it has answered stays answered.
    pub async fn api_goes_dark(&mut self) -> Blackhole {
        let address = self.api.take().expect("the API is up").address();
        let mut hole = None;
        eventually("the API has left its address", SOON, async || {
            hole = Blackhole::open(address).ok();
            hole.is_some()
        })
        .await;
        hole.unwrap()
    }

    /// A fresh API at the old address.
    pub async fn api_returns(&mut self, dark: Blackhole) {
        let settings = MockAsappSettings { address: dark.address, ..Setting::default().api };
        drop(dark);
        self.api = Some(MockAsapp::start(settings).await.unwrap());
    }

    /// How often the API was asked with this method.
    pub fn asked(&self, method: &str) -> usize {
        self.api().requests().iter().filter(|request| request.method == method).count()
    }

    /// Ends the program as an operator would, which must end well, with nothing in its log that somebody should look
    /// at in the morning except lines with one of these words.
    pub async fn close(mut self, expected: &[&str]) {
        self.program.signal(Signal::TERM);
        let status = self.program.exit(SOON).await;
        assert!(status.success(), "{status}");
        let log = self.program.log();
        let worrying = |line: &&str| {
            !line.contains("not encrypted")
                && (line.contains(" WARN ") || line.contains(" ERROR ") || line.contains("panicked"))
        };
        let unexpected: Vec<&str> =
            log.lines().filter(worrying).filter(|line| !expected.iter().any(|word| line.contains(word))).collect();
        assert!(unexpected.is_empty(), "{unexpected:#?}");
    }
}

/// A listener whose queue is full and never emptied: Linux drops every further SYN.
#[derive(Debug)]
pub struct Blackhole {
    address: SocketAddr,
    _listener: Socket,
    _waiting: Vec<Socket>,
}

impl Blackhole {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let socket = || Socket::new(Domain::for_address(address), Type::STREAM, None);
        let listener = socket()?;
        listener.set_reuse_address(true)?;
        listener.bind(&address.into())?;
        listener.listen(0)?;
        let waiting = (0..4).map(|_| {
            let waiting = socket()?;
            waiting.set_nonblocking(true)?;
            // In progress for ever, once the queue is full.
            let _ = waiting.connect(&address.into());
            Ok(waiting)
        });
        Ok(Self { address, _waiting: waiting.collect::<io::Result<_>>()?, _listener: listener })
    }
}

fn configuration(street: &Street, api: &str) -> String {
    format!(
        "[sip]\nlisten = '{}'\naccess = ['{}']\nmax_calls = 50\n\
         [media]\naddress = '{}'\nports = '20000-20299'\nquarantine = '100ms'\n\
         [trunk.main]\naddress = '{}'\ncaller_id = '+15550100000'\n\
         [asapp]\nbase_url = '{api}'\nallow_http = true\napi_id = 'mock-id'\napi_secret = 'mock-secret'\n\
         [call]\nentry = 'supervised'\n\
         [context]\nreference_variables = ['sentiment']\n\
         [admin]\nlisten = '{}'\n",
        street.switchback(),
        street.ivr().ip(),
        street.switchback().ip(),
        street.carrier(),
        street.admin(),
    )
}

/// What a street without houses needs beside [`configuration`]: ports of its own for RTP, too.
fn both_families(street: &Street) -> [(&'static str, String); 4] {
    let (v4, v6) = (street.switchback(), street.switchback_on_ipv6());
    let first = 20_000 + 40 * u16::from(street.third);
    [
        ("sip.listen", format!("{v4},{v6}")),
        ("sip.access", format!("{},::1", street.ivr().ip())),
        ("media.address", format!("{},{}", v4.ip(), v6.ip())),
        ("media.ports", format!("{first}-{}", first + 39)),
    ]
}

/// The built program as a child process. Killed by its id and awaited when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it in this folder, and waits until its admin port says that it is ready.
    pub async fn start(folder: &Path, configuration: &str, keys: &[(&str, String)], admin: SocketAddr) -> Self {
        let (file, log) = (folder.join("switchback.toml"), folder.join("switchback.log"));
        fs::write(&file, configuration).unwrap();
        let variable = |key: &str| format!("SWITCHBACK__{}", key.to_ascii_uppercase().replace('.', "__"));
        let child = Command::new(env!("CARGO_BIN_EXE_switchback"))
            .args(["run", "-c"])
            .arg(&file)
            .envs(keys.iter().map(|(key, value)| (variable(key), value)))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut program = Self { child, log };
        eventually("the program is ready", SOON, async || {
            let gone = program.child.try_wait().unwrap();
            assert!(gone.is_none(), "the program did not start: {gone:?}\n{}", program.log());
            matches!(get(admin, "/readyz").await, Some((200, _)))
        })
        .await;
        program
    }

    /// Everything it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub async fn exit(&mut self, limit: Duration) -> ExitStatus {
        ended(&mut self.child, limit).await.unwrap_or_else(|| panic!("the program does not end within {limit:?}"))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// How many of its threads have a name that begins so.
    pub fn threads(&self, name: &str) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        tasks
            .filter(|task| fs::read_to_string(task.as_ref().unwrap().path().join("comm")).unwrap().starts_with(name))
            .count()
    }

    /// Resident memory in KiB.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.lines().count().saturating_sub(60);
            eprintln!("--- the program's last words");
            log.lines().skip(from).for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Waits for the end of a child process; `None` if that takes longer.
pub async fn ended(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = clock::now() + limit;
    loop {
        let status = child.try_wait().unwrap();
        if status.is_some() || clock::now() >= deadline {
            return status;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Looks until it is so; fails when it is not so in time.
pub async fn eventually(what: &str, limit: Duration, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = clock::now() + limit;
    while !is_so().await {
        assert!(clock::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Counters and gauges by the line they stand on, labels included.
#[derive(Debug)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    fn read(page: &str) -> Self {
        let rows = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        Self(rows.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// The value of `switchback_NAME`; 0 for a label that was never counted.
    pub fn of(&self, name: &str) -> u64 {
        let full = format!("switchback_{name}");
        let family = full.split('{').next().unwrap_or_default();
        let value = self.0.get(&full);
        assert!(value.is_some() || full.contains('{'), "no metric {family}");
        value.copied().unwrap_or_default() as u64
    }
}

/// One plain GET; `None` when nobody is there.
async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    ask(address, "GET", path).await
}

async fn ask(address: SocketAddr, method: &str, path: &str) -> Option<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("{method} {path} HTTP/1.1\r\nHost: switchback\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    };
    tokio::time::timeout(Duration::from_secs(5), exchange).await.ok()?
}
