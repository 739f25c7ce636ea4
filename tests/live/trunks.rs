//! Finding the trunk's servers in a real DNS, and what a dead one costs.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use crate::stage::{SOON, Setting, Stage};

pub const A: u16 = 1;
const NAPTR: u16 = 35;
const SRV: u16 = 33;

/// Answers from a table of `(name, type)`; what is not in it does not exist. Ends with the test's process.
fn dns(at: SocketAddr, zone: BTreeMap<(&'static str, u16), Vec<Vec<u8>>>) {
    let socket = UdpSocket::bind(at).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&answer(&buffer[..length], &zone, 60), peer);
        }
    });
}

/// The answer to a query; its records hold for so many seconds.
pub fn answer(query: &[u8], zone: &BTreeMap<(&'static str, u16), Vec<Vec<u8>>>, holds: u8) -> Vec<u8> {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] > 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..=at + length]).to_ascii_lowercase());
        at += 1 + length;
    }
    let question = &query[12..at + 5];
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let records = zone.get(&(labels.join(".").as_str(), kind)).cloned().unwrap_or_default();
    let known = zone.keys().any(|(name, _)| *name == labels.join("."));
    let flags: u16 = if known { 0x8580 } else { 0x8583 };
    let mut answer = query[..2].to_vec();
    for number in [flags, 1, records.len() as u16, 0, 0] {
        answer.extend(number.to_be_bytes());
    }
    answer.extend(question);
    for data in records {
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, holds]);
        answer.extend((data.len() as u16).to_be_bytes());
        answer.extend(data);
    }
    answer
}

fn name(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| [vec![label.len() as u8], label.as_bytes().to_vec()].concat());
    labels.chain([0]).collect()
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Vec<u8> {
    let numbers = [priority, weight, port].into_iter().flat_map(u16::to_be_bytes);
    numbers.chain(name(target)).collect()
}

fn naptr(service: &str, replacement: &str) -> Vec<u8> {
    let text = |text: &str| [vec![text.len() as u8], text.as_bytes().to_vec()].concat();
    [vec![0, 10, 0, 10], text("s"), text(service), text(""), name(replacement)].concat()
}

pub fn host(at: SocketAddr) -> Vec<u8> {
    match at.ip() {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(_) => Ipv4Addr::LOCALHOST.octets().to_vec(),
    }
}

/// NAPTR leads to SRV, SRV to two hosts, and one of them is dead: no call is lost, and each takes one number.
#[tokio::test]
async fn o3_one_of_two_srv_targets_is_dead_and_nobody_notices() {
    let setting = Setting::default()
        .key("trunk.main.address", "trunk.test")
        .key("trunk.main.silence", "1s")
        .key("trunk.main.domain", "192.0.2.1")
        .key("sip.t1", "100ms")
        .prepare(|street| {
            let zone = BTreeMap::from([
                (("trunk.test", NAPTR), vec![naptr("SIP+D2U", "_sip._udp.trunk.test")]),
                (
                    ("_sip._udp.trunk.test", SRV),
                    vec![srv(10, 50, 5060, "alive.trunk.test"), srv(10, 50, 5060, "dead.trunk.test")],
                ),
                (("alive.trunk.test", A), vec![host(street.carrier())]),
                (("dead.trunk.test", A), vec![host(street.at(7, 5060))]),
            ]);
            let at = street.at(6, 5353);
            dns(at, zone);
            vec![("dns.servers", at.to_string())]
        });
    let stage = Stage::set(setting).await;
    let carrier = stage.carrier("carrier_hangs_up").calls(12).pause(Duration::from_millis(200)).start();
    let ivr = stage.ivr("ivr_gets_it_back").calls(12).rate(3).play(SOON * 2).await;
    carrier.well(SOON).await;
    assert_eq!(ivr.logged("transfer").len(), 12);
    let records = stage.records(12).await;
    assert!(records.iter().all(|record| record["verdict"]["outcome"] == "agent"), "{records:#?}");
    assert!(records.iter().all(|record| record["attempts"].as_array().unwrap().len() == 1));
    assert_eq!(stage.asked("POST"), 12, "one number a call");
    let failovers = stage.metrics().await.of("failovers_total");
    assert!((1..8).contains(&failovers), "the dead one comes last after its first failure: {failovers}");
    stage.close(&["is on loopback"]).await;
}
