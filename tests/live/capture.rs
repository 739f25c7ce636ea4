//! Wireshark's opinion of what we send.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use switchback::demo::asapp::{Behaviour, Fault, Manners};

use crate::sipp::INSTALL;
use crate::stage::{SOON, Setting, Stage, ended, eventually};

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
fn read(capture: &Path, arguments: &[&str]) -> Vec<String> {
    let mut command = tshark(arguments);
    command.arg("-r").arg(capture).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = started(command).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A running capture of everything to and from one stage's Switchback. Killed by its id and awaited when dropped.
struct Capture(Child);

impl Capture {
    async fn begin(stage: &Stage, file: &Path) -> Self {
        let (filter, said) = (format!("udp and host {}", stage.street.switchback().ip()), stage.path("tshark.log"));
        let mut command = tshark(&["-i", "lo", "-f", &filter, "-w"]);
        command.arg(file).stdout(Stdio::null()).stderr(File::create(&said).unwrap());
        let capture = Self(started(command));
        eventually("tshark captures", SOON, async || fs::read_to_string(&said).unwrap().contains("Capturing on")).await;
        capture
    }

    async fn end(mut self) {
        // The kernel hands packets over in blocks, the last one late.
        tokio::time::sleep(Duration::from_secs(2)).await;
        kill_process(Pid::from_child(&self.0), Signal::INT).unwrap();
        ended(&mut self.0, SOON).await.expect("tshark ends");
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Captures a call with RTP on loopback, for which one must be root; anybody else looks at the demo's own capture.
#[tokio::test]
async fn h1_tshark_finds_nothing_malformed_nothing_to_warn_of_and_no_rtp_lost() {
    let stage = Stage::set(Setting::default()).await;
    let file = stage.path("call.pcap");
    if geteuid().is_root() {
        stage.has_voice("customer.ulaw");
        let capture = Capture::begin(&stage, &file).await;
        let carrier = stage.carrier("carrier_is_hung_up_on").option(&["-rtp_echo"]).start();
        stage.ivr("ivr_speaks").pause(Duration::from_secs(2)).play(SOON).await;
        carrier.well(SOON).await;
        // The other way round, for the BYE with the context.
        let carrier = stage.carrier("carrier_hangs_up").pause(Duration::from_millis(500)).start();
        stage.ivr("ivr_gets_it_back").play(SOON).await;
        carrier.well(SOON).await;
        // And a refusal.
        stage.api().behave(Behaviour {
            create: Manners { fault: Some(Fault::MissingNumber), ..Manners::default() },
            ..Behaviour::default()
        });
        stage.ivr("ivr_is_refused").play(SOON).await;
        capture.end().await;
    } else {
        let demo = Command::new(env!("CARGO_BIN_EXE_switchback")).args(["demo", "--out"]).arg(stage.path("")).output();
        assert!(demo.unwrap().status.success(), "the demo fails");
    }

    let sip = read(&file, &["-Y", "sip", "-T", "fields", "-e", "sip.CSeq.method"]);
    let rtp = read(&file, &["-q", "-z", "rtp,streams"]);
    let bad = read(&file, &["-Y", "_ws.malformed || (sip && _ws.expert.severity >= 6291456)", "-V"]);
    let streams: Vec<&String> = rtp.iter().filter(|line| line.contains("g711U")).collect();
    println!("{} SIP messages, {} RTP streams\n{}", sip.len(), streams.len(), rtp.join("\n"));
    let seen = |method: &str| sip.iter().filter(|line| line.as_str() == method).count();
    assert!(seen("INVITE") >= 7 && seen("BYE") >= 4 && seen("ACK") >= 2, "{sip:?}");
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(!streams.is_empty() && streams.iter().all(|line| line.contains("0 (0.0%)")), "{}", rtp.join("\n"));
}
