//! tshark as a child process: captures, and what it reads out of them.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::sipp::INSTALL;
use crate::stage::{SOON, ended, eventually};

fn tshark(arguments: &[&str]) -> Command {
    let mut command = Command::new("tshark");
    command.args(["-n"]).args(arguments).stdin(Stdio::null());
    command
}

fn started(mut command: Command) -> Child {
    match command.spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => panic!("tshark is missing; {INSTALL}"),
        spawned => spawned.unwrap(),
    }
}

/// What tshark prints about a capture.
pub fn read(capture: &Path, arguments: &[&str]) -> Vec<String> {
    let mut command = tshark(arguments);
    command.arg("-r").arg(capture).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = started(command).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A running capture. Ended by its id and awaited when dropped.
#[derive(Debug)]
pub struct Capture(Child);

impl Capture {
    /// Captures what passes this filter on these devices into this file.
    pub async fn begin(devices: &[&str], filter: &str, file: &Path) -> Self {
        let said = file.with_extension("log");
        let mut command = tshark(&["-f", filter]);
        command.args(devices.iter().flat_map(|device| ["-i", device]));
        command.arg("-w").arg(file).stdout(Stdio::null()).stderr(File::create(&said).unwrap());
        let capture = Self(started(command));
        eventually("tshark captures", SOON, async || fs::read_to_string(&said).unwrap().contains("Capturing on")).await;
        capture
    }

    /// Ends it; then the file is complete.
    pub async fn end(mut self) {
        // The kernel hands packets over in blocks, the last one late.
        tokio::time::sleep(Duration::from_secs(2)).await;
        kill_process(Pid::from_child(&self.0), Signal::INT).unwrap();
        ended(&mut self.0, SOON).await.expect("tshark ends");
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Killed, it would leave the process behind that captures for it.
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}
