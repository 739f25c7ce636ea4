//! Kamailio as an edge that records its route.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;

use crate::stage::{SOON, eventually};
use crate::world::{INSTALL, Over};

/// A running Kamailio. Ended by its id, children included, and awaited when dropped.
pub struct Kamailio {
    child: Child,
    log: PathBuf,
}

impl Kamailio {
    /// Starts one in the middle namespace that passes everything new on to this place.
    pub async fn start(here: Ipv4Addr, next: &str, room: PathBuf) -> Self {
        let configuration = include_str!("kamailio.cfg").replace("HERE", &here.to_string()).replace("NEXT", next);
        Self::configured(&configuration.replace("ROOM", &room.display().to_string()), Over::Tls.at(here), room).await
    }

    /// Starts one there with this configuration, and waits until it listens here, over TCP.
    pub async fn configured(configuration: &str, here: SocketAddr, room: PathBuf) -> Self {
        let (file, log) = (room.join("kamailio.cfg"), room.join("log"));
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new("kamailio");
        command.args(["-DD", "-E", "-m", "32", "-M", "4", "-Y"]).arg(&room).arg("-f").arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        let child = match command.spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => panic!("kamailio is missing; {INSTALL}"),
            spawned => spawned.unwrap(),
        };
        let mut kamailio = Self { child, log };
        eventually("kamailio listens", SOON, async || {
            let gone = kamailio.child.try_wait().unwrap();
            assert!(gone.is_none(), "kamailio did not start; {INSTALL}\n{}", kamailio.log());
            TcpStream::connect(here).await.is_ok()
        })
        .await;
        kamailio
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Kamailio {
    fn drop(&mut self) {
        // Its children end with it only when it is asked to.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- kamailio said\n{}", self.log());
        }
    }
}
