//! What the customer hears of ours, and how it joins with what others say.

use std::f64::consts::TAU;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hound::{SampleFormat, WavSpec, WavWriter};
use switchback::clock;
use switchback::demo::asapp::Behaviour;
use switchback::demo::message::Invitation;
use switchback::demo::party::{Call, CallEvent, Party};
use switchback::demo::pcap::Capture;
use switchback::demo::sdp;
use switchback::demo::tap::Tap;
use switchback::demo::voice::decode;
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::rtp::{Mouth, PACKET, stream, until_hung_up};
use crate::stage::{SOON, Setting, Stage, handed_over, slow};
use crate::tshark::read;

const RULES: &str =
    "[target.queue]\nuri = 'sip:queue@QUEUE'\n[[rule]]\nwhen.answered = true\nladder = ['dial:queue']\n";
/// What the user's own file sounds like.
pub const MUSIC: f64 = 700.0;
const SECOND: Duration = Duration::from_secs(1);

/// A recording of the user: this tone for so long, 16-bit PCM at 16 kHz.
pub fn recording(folder: &TempDir, hertz: f64, length: Duration) -> PathBuf {
    let path = folder.path().join(format!("{hertz}.wav"));
    let spec = WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: 16, sample_format: SampleFormat::Int };
    let mut writer = WavWriter::create(&path, spec).unwrap();
    for at in 0..16 * length.as_millis() as u32 {
        writer.write_sample((8000.0 * (TAU * hertz * f64::from(at) / 16_000.0).sin()) as i16).unwrap();
    }
    writer.finalize().unwrap();
    path
}

pub fn file(path: &Path) -> String {
    format!("file:{}", path.display())
}

/// A packet that the customer heard.
pub struct Heard {
    pub at: Instant,
    pub from: SocketAddr,
    pub packet: Vec<u8>,
}

/// Everything that comes to this address until it is silent for this long.
async fn listen(here: SocketAddr, silence: Duration) -> JoinHandle<Vec<Heard>> {
    let socket = UdpSocket::bind(here).await.unwrap();
    tokio::spawn(async move {
        let (mut heard, mut buffer) = (Vec::new(), [0; 2048]);
        while let Ok(received) = timeout(silence, socket.recv_from(&mut buffer)).await {
            let (length, from) = received.unwrap();
            heard.push(Heard { at: clock::now(), from, packet: buffer[..length].to_vec() });
        }
        heard
    })
}

/// The three parties.
struct Scene {
    ivr: Party,
    carrier: Party,
    queue: Party,
}

impl Scene {
    async fn set(stage: &Stage) -> Self {
        let party = async |here| Party::start(here, Tap::default()).await.unwrap();
        let street = &stage.street;
        let [ivr, carrier, queue] = [street.ivr(), street.carrier(), street.queue()].map(party);
        Self { ivr: ivr.await, carrier: carrier.await, queue: queue.await }
    }

    fn calls(&self, stage: &Stage) -> Call {
        self.ivr.call(&Invitation {
            target: stage.street.switchback(),
            user: "7000".to_owned(),
            caller: "+15550100042".to_owned(),
            headers: Vec::new(),
            sdp: sdp::describe(stage.street.at(3, 9000)),
        })
    }
}

/// Rings for a second, answers, and speaks for a second.
async fn takes_the_call(stage: &Stage, party: &mut Party, house: u8) -> Call {
    let call = timeout(SOON, party.accept()).await.unwrap().unwrap();
    assert!(call.respond(180, ""));
    tokio::time::sleep(SECOND).await;
    let here = stage.street.at(house, 9000);
    let (mouth, relay) = (Mouth::open(here).await, sdp::audio_address(call.invite().unwrap().body()).unwrap());
    assert!(call.respond(200, &sdp::describe(here)));
    // The relay thread is told beside the customer's 200, which is here at once on loopback.
    tokio::time::sleep(Duration::from_millis(100)).await;
    mouth.speak(relay, stream(u32::from(house), 50), PACKET).await.unwrap();
    call
}

/// The packets from one marker to the next.
fn spurts(heard: &[Heard]) -> Vec<&[Heard]> {
    heard.chunk_by(|_, next| next.packet[1] < 0x80).collect()
}

/// Amplitude of a frequency in what was heard, from a tenth of a second after its beginning on (Goertzel).
pub fn strength(spurt: &[Heard], hertz: f64, packets: usize) -> f64 {
    let octets: Vec<u8> = spurt.iter().skip(5).take(packets).flat_map(|heard| heard.packet[12..].to_vec()).collect();
    let turn = 2.0 * (TAU * hertz / 8000.0).cos();
    let fold = |(near, far): (f64, f64), sample: &i16| (f64::from(*sample) + turn * near - far, near);
    let (near, far) = decode(&octets).iter().fold((0.0, 0.0), fold);
    2.0 * (near * near + far * far - turn * near * far).sqrt() / octets.len() as f64
}

/// A strict receiver: one SSRC, no sequence number missing, no timestamp that goes back, and timestamps that follow the
/// clock on the wall.
pub fn strictly(heard: &[Heard]) {
    let word = |packet: &[u8], at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
    let sequence = |packet: &[u8]| u16::from_be_bytes([packet[2], packet[3]]);
    let (mut gaps, mut regressions, mut changes, mut worst) = (0, 0, 0, Duration::ZERO);
    let first = &heard[0];
    for pair in heard.windows(2) {
        let (before, after) = (&pair[0].packet, &pair[1].packet);
        gaps += usize::from(sequence(before).wrapping_add(1) != sequence(after));
        regressions += usize::from((word(after, 4).wrapping_sub(word(before, 4)) as i32) < 160);
        changes += usize::from(word(before, 8) != word(after, 8));
        let claimed = Duration::from_micros(125 * u64::from(word(after, 4).wrapping_sub(word(&first.packet, 4))));
        worst = worst.max(claimed.abs_diff(pair[1].at - first.at));
    }
    println!(
        "{} packets: {gaps} sequence errors, {regressions} timestamp regressions, {changes} SSRC changes, timestamps \
         at most {worst:?} off",
        heard.len()
    );
    assert_eq!((gaps, regressions, changes), (0, 0, 0));
    assert!(worst < Duration::from_millis(150), "{worst:?}");
}

/// The customer's RTCP: what came from a relay, answered at once with what a party says that lost one packet of a
/// hundred and kept each report for 10 ms.
async fn reports(here: SocketAddr, silence: Duration) -> JoinHandle<Vec<Vec<u8>>> {
    let socket = UdpSocket::bind(here).await.unwrap();
    tokio::spawn(async move {
        let (mut reports, mut buffer) = (Vec::new(), [0; 2048]);
        while let Ok(received) = timeout(silence, socket.recv_from(&mut buffer)).await {
            let (length, from) = received.unwrap();
            let report = buffer[..length].to_vec();
            tokio::time::sleep(Duration::from_millis(10)).await;
            let mut answer = vec![0x81, 201, 0, 7, 0, 0, 0, 77];
            answer.extend(&report[4..8]); // the stream that is heard
            answer.extend([3, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 40]); // one lost, a jitter of 5 ms
            answer.extend(&report[10..14]); // which report is answered
            answer.extend((65_536_u32 / 100).to_be_bytes());
            socket.send_to(&answer, from).await.unwrap();
            reports.push(report);
        }
        reports
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m8_our_sound_comes_with_reports_and_what_the_customer_says_of_it_is_in_the_live_call_and_the_record() {
    let _machine = crate::heavy::alone().await;
    let setting = Setting::default().key("call.ringing", "early_media").key("call.verify_after", "0s");
    let stage = Stage::set(setting).await;
    let mut scene = Scene::set(&stage).await;
    let ear = listen(stage.street.at(3, 9000), 3 * SECOND).await;
    let reports = reports(stage.street.at(3, 9001), 10 * SECOND).await;
    let customer = scene.calls(&stage);
    let genagent = timeout(SOON, scene.carrier.accept()).await.unwrap().unwrap();
    assert!(genagent.respond(180, ""));
    // Drawn by lot: the first after 1.0 to 3.1 s, each other after 2.1 to 6.2 s (RFC 3550 section 6.3.1).
    tokio::time::sleep(Duration::from_millis(9_500)).await;
    let live = stage.get_json("/v1/calls").await;
    println!("{}", live[0]["customer_media"]);
    customer.cancel();
    let record = stage.verdict().await.1;

    let (heard, reports) = (ear.await.unwrap(), reports.await.unwrap());
    assert!((2..=5).contains(&reports.len()), "{} reports in 9.5 s", reports.len());
    for report in &reports {
        assert_eq!((report[0], report[1], report[29]), (0x80, 200, 202), "a sender report, then SDES: {report:?}");
        assert_eq!(report[4..8], heard[0].packet[8..12], "of the stream that is heard");
    }
    for media in [&live[0]["customer_media"], &record["customer_media"]] {
        assert_eq!((&media["outbound"]["lost_packets"], &media["outbound"]["jitter_us"]), (&1.into(), &5_000.into()));
        assert!(media["outbound"]["mos"].as_f64().unwrap() > 4.2, "{media}");
        assert!(media["round_trip_us"].as_u64().unwrap() < 20_000, "{media}");
        assert!(media["inbound"].is_null(), "the customer says nothing");
    }
    stage.close(&[]).await;
}

/// What Wireshark says of the same packets.
fn wireshark(stage: &Stage, heard: &[Heard]) -> Vec<String> {
    let path = stage.path("heard.pcap");
    let mut capture = Capture::new(File::create(&path).unwrap()).unwrap();
    let start = heard[0].at;
    for Heard { at, from, packet } in heard {
        capture.write(*at - start, *from, stage.street.at(3, 9000), packet).unwrap();
    }
    drop(capture);
    let streams = read(&path, &["-d", "udp.port==9000,rtp", "-q", "-z", "rtp,streams"]);
    println!("{}", streams.join("\n"));
    streams.into_iter().filter(|line| line.contains("0x")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m4_one_unbroken_stream_from_ringback_to_the_queue_with_music_of_the_user_in_it() {
    let _machine = crate::heavy::alone().await;
    let folder = tempfile::tempdir().unwrap();
    let setting = Setting::default()
        .behaviour(Behaviour { fetch: slow(1_500), ..handed_over("AGENT") })
        .rules(RULES)
        .key("call.ringing", "early_media")
        .key("call.verify_after", "0s")
        .key("sounds.waiting", file(&recording(&folder, MUSIC, 3 * SECOND)))
        .key("sounds.onward", "tone:de");
    let stage = Stage::set(setting).await;
    let mut scene = Scene::set(&stage).await;
    let ear = listen(stage.street.at(3, 9000), 2 * SECOND).await;
    let mut customer = scene.calls(&stage);
    let genagent = takes_the_call(&stage, &mut scene.carrier, 4).await;
    assert!(genagent.hang_up(&[]));
    let mut queue = takes_the_call(&stage, &mut scene.queue, 6).await;
    while !matches!(timeout(SOON, customer.next()).await.unwrap(), CallEvent::Answered(_)) {}
    assert!(customer.hang_up(&[]));
    until_hung_up(&mut queue).await;

    let heard = ear.await.unwrap();
    strictly(&heard);
    let spurts = spurts(&heard);
    let lengths: Vec<usize> = spurts.iter().map(|spurt| spurt.len()).collect();
    println!("packets from marker to marker: {lengths:?}");
    let [ringback, genagent, waiting, onward, queue] = spurts[..] else { panic!("five sources: {lengths:?}") };
    assert_eq!((genagent.len(), queue.len()), (50, 50), "all that GenerativeAgent and the queue said");
    assert!((48..70).contains(&ringback.len()) && (70..90).contains(&waiting.len()), "{lengths:?}");
    assert!((48..70).contains(&onward.len()), "{lengths:?}");
    for (what, spurt, hertz, level) in [
        ("ringback", ringback, 440.0, 2500.0),
        ("ringback", ringback, 480.0, 2500.0),
        ("the user's music", waiting, MUSIC, 8000.0),
        ("the German tone", onward, 425.0, 2500.0),
    ] {
        let share = strength(spurt, hertz, 40) / level;
        println!("{what}: {hertz} Hz at {share:.2} of its level");
        assert!((0.9..1.1).contains(&share), "{what}: {hertz} Hz at {share}");
    }
    assert!(strength(waiting, 440.0, 40) < 100.0, "nothing but music");
    let streams = wireshark(&stage, &heard);
    assert!(streams.len() == 1 && streams[0].contains(" 0 (0.0%)"), "{streams:?}");
    stage.close(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t16_the_customer_hears_the_announcement_to_its_end_before_the_bye() {
    let _machine = crate::heavy::alone().await;
    let folder = tempfile::tempdir().unwrap();
    let said = Duration::from_millis(1_200);
    let setting = Setting::default()
        .rules(RULES)
        .key("call.verify_after", "0s")
        .key("sounds.announcement", file(&recording(&folder, 900.0, said)));
    let stage = Stage::set(setting).await;
    let mut scene = Scene::set(&stage).await;
    let ear = listen(stage.street.at(3, 9000), 3 * SECOND).await;
    let mut customer = scene.calls(&stage);
    let genagent = takes_the_call(&stage, &mut scene.carrier, 4).await;
    assert!(genagent.hang_up(&[]));
    let queue = timeout(SOON, scene.queue.accept()).await.unwrap().unwrap();
    assert!(queue.respond(486, ""));
    let bye = loop {
        if let CallEvent::HungUp(bye) = timeout(SOON, customer.next()).await.unwrap() {
            break bye;
        }
    };
    assert!(format!("{bye:?}").contains("Q.850;cause=17"), "{bye:?}");

    let heard = ear.await.unwrap();
    strictly(&heard);
    let announcement = *spurts(&heard).last().unwrap();
    assert_eq!(announcement.len(), 60, "all of it, once");
    assert!((0.9..1.1).contains(&(strength(announcement, 900.0, 50) / 8000.0)));
    let record = stage.verdict().await.1;
    assert_eq!(record["hand_back"]["rungs"][0]["result"], "refused 486");
    stage.close(&[]).await;
}

#[test]
fn a_file_that_cannot_be_played_stops_check_and_run_with_its_key_and_the_fix() {
    let folder = tempfile::tempdir().unwrap();
    let (configuration, stereo) = (folder.path().join("switchback.toml"), folder.path().join("stereo.wav"));
    let spec = WavSpec { channels: 2, sample_rate: 44_100, bits_per_sample: 16, sample_format: SampleFormat::Int };
    WavWriter::create(&stereo, spec).unwrap().finalize().unwrap();
    let least = "[trunk.main]\naddress = '127.0.0.1:5099'\n[asapp]\napi_id = 'id'\napi_secret = 'secret'\n";
    let sounds = format!("[sounds]\nwaiting = '{}'\nonward = 'tone:uk'\n", file(&stereo));
    fs::write(&configuration, format!("{least}{sounds}")).unwrap();
    for command in ["check", "run"] {
        let program = std::process::Command::new(env!("CARGO_BIN_EXE_switchback"))
            .args([command, "-c"])
            .arg(&configuration)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let told = String::from_utf8(program.stderr).unwrap();
        assert!(!program.status.success(), "{command}");
        assert!(told.contains("sounds.waiting: ") && told.contains("stereo.wav has 2 channels"), "{told}");
        assert!(told.contains("sox IN") && told.contains("sounds.onward: there is no tone for \"uk\""), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m6_genagent_hears_the_chosen_sound_while_the_customer_holds_and_not_longer() {
    let _machine = crate::heavy::alone().await;
    let setting = Setting::default().key("call.verify_after", "0s").key("sounds.hold", "tone:gb");
    let stage = Stage::set(setting).await;
    let mut carrier = Party::start(stage.street.carrier(), Tap::default()).await.unwrap();
    let there = stage.street.at(4, 9000);
    let ear = listen(there, 8 * SECOND).await;
    let ivr = stage.ivr("customer_holds").pause(2 * SECOND).start();
    let mut genagent = timeout(SOON, carrier.accept()).await.unwrap().unwrap();
    assert!(genagent.respond(200, &sdp::describe(there)));
    until_hung_up(&mut genagent).await;
    ivr.well(SOON).await;

    // The customer himself says nothing: all that is heard is ours.
    let heard = ear.await.unwrap();
    strictly(&heard);
    assert_eq!(spurts(&heard).len(), 1);
    assert!((95..110).contains(&heard.len()), "{} packets in a hold of two seconds", heard.len());
    for hertz in [400.0, 450.0] {
        let share = strength(&heard, hertz, 10) / 2500.0;
        assert!((0.9..1.1).contains(&share), "{hertz} Hz at {share}");
    }
    stage.close(&[]).await;
}
