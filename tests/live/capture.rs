//! Wireshark's opinion of what we send.

use std::process::Command;
use std::time::Duration;

use rustix::process::geteuid;
use switchback::demo::asapp::{Behaviour, Fault, Manners};

use crate::stage::{SOON, Setting, Stage};
use crate::tshark::{Capture, read};

/// Captures a call with RTP on loopback, for which one must be root; anybody else looks at the demo's own capture.
#[tokio::test]
async fn h1_tshark_finds_nothing_malformed_nothing_to_warn_of_and_no_rtp_lost() {
    let stage = Stage::set(Setting::default()).await;
    let file = stage.path("call.pcap");
    if geteuid().is_root() {
        stage.has_voice("customer.ulaw");
        let filter = format!("udp and host {}", stage.street.switchback().ip());
        let capture = Capture::begin(&["lo"], &filter, &file).await;
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
