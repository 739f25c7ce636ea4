//! What tshark makes of the calls.

use std::path::Path;

use crate::tshark::read;
use crate::world::{Over, Path as Way, SWITCHBACK, World};

/// Of what we send nothing is malformed, nothing to warn of and no RTP missing; each hold was answered as RFC 3264
/// section 6.1 has it; and where a proxy recorded its route, nothing goes past it.
pub fn is_good(world: &World, capture: &Path, calls: usize, holds: usize) {
    let ours = format!("ip.src == {SWITCHBACK}");
    let bad = format!("{ours} && (_ws.malformed || (sip && _ws.expert.severity >= 6291456))");
    let bad = read(capture, &["-Y", &bad, "-V"]);
    assert!(bad.is_empty(), "{}", bad.join("\n"));

    let streams = read(capture, &["-d", "udp.port==20000-20199,rtp", "-q", "-z", "rtp,streams"]);
    let from_us =
        |line: &&String| line.contains("g711U") && line.split_whitespace().nth(2) == Some(&SWITCHBACK.to_string());
    let streams: Vec<&String> = streams.iter().filter(from_us).collect();
    assert_eq!(streams.len(), 2 * calls, "one stream a leg: {streams:#?}");
    assert!(streams.iter().all(|line| line.contains("0 (0.0%)")), "{streams:#?}");

    if world.over != Over::Tls {
        let held = format!("{ours} && sip.Status-Code == 200 && sdp.media_attr == \"recvonly\"");
        let held = read(capture, &["-Y", &held, "-T", "fields", "-e", "sip.CSeq"]);
        assert_eq!(held.len(), holds, "{held:?}");
    }
    if world.path == Way::Proxied {
        for party in [&world.customer, &world.genagent] {
            let past = format!("ip.addr == {SWITCHBACK} && ip.addr == {} && (sip || tcp.len > 0)", party.ip);
            let past = read(capture, &["-Y", &past]);
            assert!(past.is_empty(), "{past:#?}");
        }
    }
}
