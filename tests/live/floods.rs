//! More than anybody should send, at the built program.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::stage::{SOON, Setting, Stage, eventually};

/// Listed sources of the flood.
const SOURCES: u8 = 100;
/// Messages a second, all of them together.
const RATE: u64 = 10_000;
/// How long it lasts.
const SECONDS: u64 = 3;

/// The message of this number: new calls while the program is full, then the end of a call that somebody else has.
fn message(n: u64, here: SocketAddr, there: SocketAddr, known: &str) -> String {
    let (method, call_id, tag) = match n % 2 {
        _ if n < RATE * SECONDS / 2 => ("INVITE", format!("flood-{n}"), String::new()),
        0 => ("BYE", known.to_owned(), format!(";tag={n:024x}")),
        _ => ("CANCEL", known.to_owned(), String::new()),
    };
    format!(
        "{method} sip:7000@{there} SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bKflood{n};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:x@{here}>;tag=f{n}\r\nTo: <sip:7000@{there}>{tag}\r\nCall-ID: {call_id}\r\nCSeq: 1 {method}\r\n\
         Contact: <sip:x@{here}>\r\nContent-Length: 0\r\n\r\n"
    )
}

/// Sends them at an even rate; returns how many.
async fn flood(sources: Vec<UdpSocket>, there: SocketAddr, known: String) -> u64 {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let mut sent = 0;
    for round in 0..SECONDS * 1_000 {
        tick.tick().await;
        for n in round * RATE / 1_000..(round + 1) * RATE / 1_000 {
            let source = &sources[(n % u64::from(SOURCES)) as usize];
            let text = message(n, source.local_addr().unwrap(), there, &known);
            sent += u64::from(source.send_to(text.as_bytes(), there).is_ok());
        }
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s6_s7_a_call_that_is_up_outlives_a_flood_from_a_hundred_sources() {
    let setting = Setting::default().key("sip.access", "127.77.0.0/16").key("sip.max_calls", "1");
    let stage = Stage::set(setting.key("sip.max_transactions", "1000")).await;
    let carrier = stage.carrier("carrier_hangs_up").pause(Duration::from_secs(2)).start();
    let ivr = stage.ivr("ivr_gets_it_back").start();
    eventually("a call is up", SOON, async || stage.get_json("/v1/calls").await[0]["state"] == "bridged").await;
    let known = stage.get_json("/v1/calls").await[0]["customer_call_id"].as_str().unwrap().to_owned();
    let before = stage.program.resident();

    let sources = (0..SOURCES).map(|n| UdpSocket::bind(stage.street.at(100 + n, 5060)).unwrap()).collect();
    let sent = flood(sources, stage.street.switchback(), known).await;
    assert_eq!(sent, RATE * SECONDS);

    let back = ivr.well(SOON).await;
    carrier.well(SOON).await;
    assert_eq!((back.logged("outcome"), back.logged("order")), (vec!["agent"], vec!["48213"]));
    assert_eq!(stage.verdict().await.0, "agent");
    let metrics = stage.metrics().await;
    let heard = ["INVITE", "BYE", "CANCEL"]
        .map(|method| metrics.of(&format!("sip_requests_received_total{{method=\"{method}\"}}")));
    let grown = stage.program.resident().saturating_sub(before);
    println!(
        "sent {sent}, heard {heard:?}, retransmissions {}, grown by {grown} KiB",
        metrics.of("sip_retransmissions_total")
    );
    assert!(heard.iter().sum::<u64>() > sent / 10, "the flood arrived: {heard:?}");
    assert!(metrics.of("active_transactions") <= 1_020, "{}", metrics.of("active_transactions"));
    assert!(grown < 32 * 1_024, "grown by {grown} KiB");
    stage.close(&[]).await;
}
