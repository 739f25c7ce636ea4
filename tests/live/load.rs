//! `switchback load`: what anyone can run to measure a machine, and what a flood of foreign RTP does to calls.

use std::process::Command;

use serde_json::Value;

use crate::heavy::alone;

/// The figures of one run, which must not fail.
fn figures(options: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("figures.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchback"));
    let output = command.arg("load").args(options).arg("--json").arg(&path).output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}{complained}");
    assert!(output.status.success(), "{said}{complained}");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn m2_x7_foreign_packets_against_all_ports_are_heard_by_nobody_and_no_call_is_affected() {
    let _machine = alone().await;
    let options = ["--calls", "20", "--rate", "20", "--seconds", "5", "--media", "--foreign", "4000", "--workers", "1"];
    let figures = figures(&options);
    let media = |key: &str| figures["media"][key].as_u64().unwrap();
    assert_eq!((figures["failed"].as_u64(), media("strangers")), (Some(0), 0));
    assert!(figures["foreign"].as_u64().unwrap() > 10_000, "the flood arrived");
    assert!(media("received") > 9_000, "of 10,000: the calls were heard all the time");
}

#[tokio::test]
async fn x7_twice_as_many_calls_as_are_allowed_take_nothing_from_those_that_talk() {
    let _machine = alone().await;
    let options = ["--calls", "20", "--rate", "20", "--seconds", "5", "--media", "--overload", "40", "--workers", "1"];
    let figures = figures(&options);
    let of = |part: &str, key: &str| figures[part][key].as_u64().unwrap();
    assert_eq!((figures["failed"].as_u64(), of("media", "strangers")), (Some(0), 0));
    assert_eq!(
        of("overload", "taken") + of("overload", "refused"),
        200,
        "each was answered or got 503 with Retry-After"
    );
    assert!(of("overload", "refused") >= 60 && of("overload", "taken") >= 60, "{figures}");
    assert!(of("media", "received") > 9_000, "of 10,000: the calls were heard all the time");
}
