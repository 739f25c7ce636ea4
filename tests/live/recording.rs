//! Calls recorded by the built program: what is in the files, what the parties notice, and where it ends.

use std::f64::consts::TAU;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use switchback::demo::message::{Heard, Invitation};
use switchback::demo::party::{Call, CallEvent, Party};
use switchback::demo::sdp;
use switchback::demo::tap::Tap;
use switchback::demo::voice::decode;
use tokio::time::timeout;

use crate::rtp::{Bridged, Mouth, PACKET, bridge_as, stream, until_hung_up};
use crate::sounds::{MUSIC, file, recording};
use crate::stage::{SOON, Setting, Stage, handed_over, slow};

const RULES: &str = "[target.queue]\nuri = 'sip:queue@QUEUE'\n[[rule]]\nwhen.answered = true\nladder = ['dial:queue']\n[[recording.when]]\n";

/// The tracks of the one recording in a folder: what the customer said, and what the customer heard.
fn tracks(folder: &Path) -> [Vec<i16>; 2] {
    let files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("one recording: {files:?}") };
    let reader = hound::WavReader::open(file).unwrap();
    assert_eq!((reader.spec().channels, reader.spec().sample_rate, reader.spec().bits_per_sample), (2, 8000, 16));
    let samples: Vec<i16> = reader.into_samples().map(Result::unwrap).collect();
    [0, 1].map(|side| samples.chunks(2).map(|pair| pair[side]).collect())
}

fn spoken(packets: &[Vec<u8>]) -> Vec<i16> {
    packets.iter().flat_map(|packet| decode(&packet[12..])).collect()
}

/// Where these samples stand in a track, every one of them, in milliseconds from its beginning.
fn found(track: &[i16], spoken: &[i16]) -> u64 {
    let at = track.windows(spoken.len()).position(|window| window == spoken);
    at.expect("every sample of it") as u64 / 8
}

/// Amplitude of a frequency (Goertzel).
fn strength(samples: &[i16], hertz: f64) -> f64 {
    let turn = 2.0 * (TAU * hertz / 8000.0).cos();
    let fold = |(near, far): (f64, f64), sample: &i16| (f64::from(*sample) + turn * near - far, near);
    let (near, far) = samples.iter().fold((0.0, 0.0), fold);
    2.0 * (near * near + far * far - turn * near * far).sqrt() / samples.len() as f64
}

async fn answers(call: &Call, stage: &Stage, house: u8) -> (Mouth, std::net::SocketAddr) {
    let here = stage.street.at(house, 9000);
    let towards = sdp::audio_address(call.invite().unwrap().body()).unwrap();
    let mouth = Mouth::open(here).await;
    assert!(call.respond(200, &sdp::describe(here)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    (mouth, towards)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_word_of_a_call_is_in_its_recording_to_the_queue_and_both_sides_hear_the_tone() {
    let _machine = crate::heavy::alone().await;
    let folder = tempfile::tempdir().unwrap();
    let recordings = folder.path().join("made/at/start");
    let setting = Setting::default()
        .behaviour(switchback::demo::asapp::Behaviour { fetch: slow(600), ..handed_over("AGENT") })
        .rules(RULES)
        .key("call.verify_after", "0s")
        .key("recording.path", recordings.display().to_string())
        .key("recording.beep", "2s")
        .key("recording.header", "X-Recorded")
        .key("sounds.waiting", file(&recording(&folder, MUSIC, Duration::from_secs(2))));
    let stage = Stage::set(setting).await;
    let mut queue = Party::start(stage.street.queue(), Tap::default()).await.unwrap();
    let (here, there) = (stage.street.at(3, 9000), stage.street.at(4, 9000));
    let (customer, genagent) = (Mouth::open(here).await, Mouth::open(there).await);
    let call: Bridged = bridge_as(&stage, &sdp::describe(here), &sdp::describe(there)).await;
    assert_eq!(stage.get_json("/v1/calls").await[0]["recorded"], true);

    let (from_customer, from_genagent) = (stream(0xc057, 150), stream(0x6e4a, 50));
    let at_genagent = genagent.hear(Duration::from_secs(2));
    let talks = customer.speak(call.towards_customer_leg, from_customer.clone(), PACKET);
    genagent.speak(call.towards_genagent_leg, from_genagent.clone(), PACKET).await.unwrap();
    assert!(call.genagent.hang_up(&[]));
    let onward = timeout(SOON, queue.accept()).await.unwrap().unwrap();
    assert_eq!(told(onward.invite().unwrap()).as_deref(), Some("yes"));
    let (desk, towards) = answers(&onward, &stage, 6).await;
    let from_desk = stream(0xde5c, 50);
    desk.speak(towards, from_desk.clone(), PACKET).await.unwrap();
    talks.await.unwrap();
    assert!(call.customer.hang_up(&[]));
    let mut onward = onward;
    until_hung_up(&mut onward).await;

    let record = stage.verdict().await.1;
    let said = &record["recording"];
    println!("{said}");
    assert_eq!((&said["end"], &said["lost_frames"]), (&"complete".into(), &0.into()), "{said}");
    assert_eq!(said["file"], format!("{}.wav", record["call"].as_str().unwrap()));
    let [left, right] = tracks(&recordings);
    assert_eq!(said["milliseconds"], left.len() / 8);
    let began = found(&left, &spoken(&from_customer));
    println!("the customer begins at {began} ms of {} ms", left.len() / 8);
    // A tone is mixed into what is heard at the beginning and after two seconds; between them it is as it was said.
    let heard = found(&right, &spoken(&from_genagent[12..]));
    assert!(heard.abs_diff(began + 240) <= 60, "GenerativeAgent's thirteenth packet at {heard} ms");
    let toned = &right[8 * (heard as usize - 240)..][..1600];
    assert!(strength(toned, 1400.0) > 1000.0, "no tone: {}", strength(toned, 1400.0));
    let music = &right[8 * (heard as usize + 760 + 100)..][..1600];
    assert!(strength(music, MUSIC) > 6000.0, "the customer waits to music: {}", strength(music, MUSIC));
    let mut desks = (0..from_desk.len() - 20).filter(|at| {
        let words = spoken(&from_desk[*at..at + 20]);
        right.windows(words.len()).any(|window| window == words)
    });
    assert!(desks.next().is_some(), "what the queue says between two tones");
    let (at_genagent, _) = at_genagent.await.unwrap();
    let differing = at_genagent.iter().zip(&from_customer).filter(|(heard, said)| heard[12..] != said[12..]).count();
    assert!((10..=11).contains(&differing), "GenerativeAgent hears the tone in {differing} packets");
    stage.close(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_asks_for_a_recording_over_http_and_ends_it_and_a_full_folder_is_an_alarm() {
    let _machine = crate::heavy::alone().await;
    let folder = tempfile::tempdir().unwrap();
    let setting = Setting::default()
        .key("call.verify_after", "0s")
        .key("recording.path", folder.path().display().to_string())
        .key("recording.max_megabytes", "1");
    let stage = Stage::set(setting).await;
    let (here, there) = (stage.street.at(3, 9000), stage.street.at(4, 9000));
    let (customer, _genagent) = (Mouth::open(here).await, Mouth::open(there).await);
    let mut call = bridge_as(&stage, &sdp::describe(here), &sdp::describe(there)).await;
    let id = stage.get_json("/v1/calls").await[0]["call"].as_str().unwrap().to_owned();
    let path = format!("/v1/calls/{id}/recording");
    let (before, during, after) = (stream(1, 25), stream(2, 50), stream(3, 25));
    customer.speak(call.towards_customer_leg, before.clone(), PACKET).await.unwrap();
    assert_eq!(stage.post(&path).await, 202);
    tokio::time::sleep(Duration::from_millis(200)).await;
    customer.speak(call.towards_customer_leg, during.clone(), PACKET).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(stage.delete(&path).await, 202);
    tokio::time::sleep(Duration::from_millis(200)).await;
    customer.speak(call.towards_customer_leg, after.clone(), PACKET).await.unwrap();
    assert!(call.customer.hang_up(&[]));
    until_hung_up(&mut call.genagent).await;
    stage.verdict().await;
    let [left, _] = tracks(folder.path());
    found(&left, &spoken(&during));
    for missing in [before, after] {
        let words = spoken(&missing[5..10]);
        assert!(!left.windows(words.len()).any(|window| window == words), "what was not to be recorded is there");
    }
    fs::write(folder.path().join("somebody's.bin"), vec![0; 1_000_000]).unwrap();
    stage.close(&[]).await;

    let stage = Stage::set(
        Setting::default()
            .key("call.verify_after", "0s")
            .key("recording.path", folder.path().display().to_string())
            .key("recording.max_megabytes", "1")
            .rules("[[recording.when]]\n"),
    )
    .await;
    let mut call = bridge_as(&stage, &sdp::describe(here_of(&stage)), &sdp::describe(stage.street.at(4, 9000))).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(stage.metrics().await.of("recordings_failing"), 1);
    assert!(call.customer.hang_up(&[]));
    until_hung_up(&mut call.genagent).await;
    assert_eq!(stage.verdict().await.1["recording"]["end"], "folder_full");
    stage.close(&["full"]).await;
}

fn told(message: &Heard) -> Option<String> {
    message.headers().into_iter().find(|(name, _)| name == "X-Recorded").map(|(_, value)| value)
}

fn here_of(stage: &Stage) -> std::net::SocketAddr {
    stage.street.at(3, 9000)
}

/// The customer's answer tells of it, and nobody else's call does.
#[tokio::test]
async fn the_answer_to_a_recorded_customer_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let setting = Setting::default()
        .key("call.verify_after", "0s")
        .key("recording.path", folder.path().display().to_string())
        .key("recording.header", "X-Recorded")
        .rules("[[recording.when]]\ndialled = '70*'\n");
    let stage = Stage::set(setting).await;
    let ivr = Party::start(stage.street.ivr(), Tap::default()).await.unwrap();
    let mut carrier = Party::start(stage.street.carrier(), Tap::default()).await.unwrap();
    for (user, expected) in [("7000", Some("yes")), ("8000", None)] {
        let mut customer = ivr.call(&Invitation {
            target: stage.street.switchback(),
            user: user.to_owned(),
            caller: "+15550100042".to_owned(),
            headers: Vec::new(),
            sdp: sdp::describe(stage.street.at(3, 9000)),
        });
        let mut genagent = timeout(SOON, carrier.accept()).await.unwrap().unwrap();
        assert!(genagent.respond(200, &sdp::describe(stage.street.at(4, 9000))));
        let answer = loop {
            if let CallEvent::Answered(answer) = timeout(SOON, customer.next()).await.unwrap() {
                break answer;
            }
        };
        assert_eq!(told(&answer).as_deref(), expected);
        assert!(customer.hang_up(&[]));
        until_hung_up(&mut genagent).await;
    }
    stage.records(2).await;
    stage.close(&[]).await;
}
