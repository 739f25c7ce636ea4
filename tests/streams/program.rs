//! The built binary with a configuration of its own, and a mock of ASAPP beside it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use switchback::demo::asapp::{MockAsapp, MockAsappSettings};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// A running program. It is ended with its test.
pub struct Program {
    pub sip: SocketAddr,
    pub admin: SocketAddr,
    _asapp: MockAsapp,
    pub folder: TempDir,
    child: Child,
}

/// An address nobody else has: each has a loopback IP of its own, so that tests at the same time cannot meet.
pub fn free() -> SocketAddr {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id() * 64 + TAKEN.fetch_add(1, Ordering::Relaxed) % 64;
    let [_, high, middle, low] = number.to_be_bytes();
    let ip = Ipv4Addr::new(127, 128 | high & 63, middle, low);
    loop {
        let udp = UdpSocket::bind((ip, 0)).unwrap();
        let address = udp.local_addr().unwrap();
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Asks until it holds, and fails when it does not within ten seconds.
pub async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} did not come to hold");
}

impl Program {
    /// Starts with this trunk and these further lines of `section.key = value`.
    pub async fn start(trunk: SocketAddr, more: &str) -> Self {
        let asapp = MockAsapp::start(MockAsappSettings::default()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (sip, admin) = (free(), free());
        let level = if more.contains("log.level") { "" } else { "log.level = 'switchback=debug'" };
        let toml = format!(
            "sip.listen = '{sip}'\nsip.tcp_listen = '{sip}'\nsip.access = ['127.0.0.0/8', '::1']\n\
             media.address = '{}'\nmedia.ports = '20000-20199'\ntrunk.main.address = '{trunk}'\ntrunk.main.caller_id = '+15550100000'\n\
             asapp.base_url = '{}'\nasapp.allow_http = true\nasapp.api_id = 'mock-id'\nasapp.api_secret = 'mock-secret'\n\
             records.path = '{}'\nadmin.listen = '{admin}'\n{level}\n{more}\n",
            sip.ip(),
            asapp.base_url(),
            folder.path().join("records.jsonl").display(),
        );
        let path = folder.path().join("switchback.toml");
        std::fs::write(&path, toml).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_switchback"))
            .args(["run", "-c"])
            .arg(&path)
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let program = Self { sip, admin, _asapp: asapp, folder, child };
        eventually("a program that listens", async || TcpStream::connect(sip).await.is_ok()).await;
        program
    }

    /// SIGHUP.
    pub fn hang_up(&self) {
        let sent = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub fn log(&self) -> String {
        read(&self.folder.path().join("log"))
    }

    /// The records of the calls so far, as written.
    pub fn records(&self) -> String {
        read(&self.folder.path().join("records.jsonl"))
    }

    /// The outcomes of the calls so far.
    pub fn outcomes(&self) -> Vec<String> {
        let outcome = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            record["verdict"]["outcome"].as_str().unwrap_or_default().to_owned()
        };
        self.records().lines().map(outcome).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
