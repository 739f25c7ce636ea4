//! SIPp as IVR and as carrier.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::program::{Program, eventually, free};

fn scenario(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/streams").join(name)
}

fn sipp(transport: &str, own: SocketAddr, calls: usize) -> Command {
    let mut command = Command::new("sipp");
    command.args(["-t", transport, "-i", &own.ip().to_string(), "-p", &own.port().to_string()]);
    command.args([
        "-m",
        &calls.to_string(),
        "-nostdin",
        "-timeout",
        "30s",
        "-timeout_error",
        "-trace_err",
        "-max_socket",
        "1000",
    ]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn carrier(transport: &str, own: SocketAddr, calls: usize, folder: &Path) -> Child {
    let mut command = sipp(transport, own, calls);
    command.current_dir(folder).arg("-sf").arg(scenario("uas_bye.xml"));
    command.spawn().expect("sipp is missing: apt-get install sip-tester")
}

async fn well(mut party: Child, who: &str, folder: &Path) {
    // SIPp ends by itself: it has a time limit of its own.
    let status = loop {
        match party.try_wait().unwrap() {
            Some(status) => break status,
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    if !status.success() {
        for file in std::fs::read_dir(folder).unwrap().flatten() {
            if file.file_name().to_string_lossy().contains("errors") {
                eprintln!("{}", std::fs::read_to_string(file.path()).unwrap_or_default());
            }
        }
        panic!("{who}: {status}");
    }
}

/// Calls from an IVR over one transport to GenerativeAgent over another, who hangs up.
async fn calls(ivr_over: &str, carrier_over: &str, trunk: &str, calls: usize) {
    let (ivr_address, carrier_address) = (free(), free());
    // Keep-alives among the messages are nothing to a peer that asked for none.
    let lines = format!("trunk.main.transport = '{trunk}'\nsip.keepalive = '50ms'");
    let program = Program::start(carrier_address, &lines).await;
    let folder = program.folder.path();
    let carrier = carrier(carrier_over, carrier_address, calls, folder);
    let mut command = sipp(ivr_over, ivr_address, calls);
    command.current_dir(folder).arg("-sf").arg(scenario("uac_wait.xml")).args(["-r", "10", "-l", "20"]);
    // A carrier that is a moment late answers the repeats; over TCP there are none.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let ivr = command.arg(program.sip.to_string()).spawn().unwrap();
    well(ivr, "the IVR", folder).await;
    well(carrier, "the carrier", folder).await;
    eventually("a record of every call", async || program.outcomes().len() == calls).await;
    // Nobody told the mock that GenerativeAgent was done: the API cannot confirm it, but all were connected.
    let outcomes = program.outcomes();
    assert!(outcomes.iter().all(|outcome| outcome == "unconfirmed"), "{outcomes:?}");
}

#[tokio::test]
async fn both_sides_over_tcp() {
    calls("t1", "t1", "tcp", 20).await;
}

#[tokio::test]
async fn a_customer_over_tcp_and_a_trunk_over_udp() {
    calls("t1", "u1", "udp", 20).await;
}

#[tokio::test]
async fn a_customer_over_udp_and_a_trunk_over_tcp() {
    calls("u1", "t1", "tcp", 20).await;
}

#[tokio::test]
async fn a_connection_for_each_call() {
    calls("tn", "t1", "tcp", 20).await;
}
