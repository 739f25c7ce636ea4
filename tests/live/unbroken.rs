//! The customer is never left in silence between two rungs: what arrives at its RTP port, packet by packet, while the
//! IVR shows its temper.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use switchback::clock;
use switchback::demo::party::{Call, Party};
use switchback::demo::sdp;
use switchback::demo::tap::Tap;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::refer::{RULES, answers, falls_silent, referred, told};
use crate::rtp::{Mouth, PACKET, stream};
use crate::sipp::Sipp;
use crate::sounds::{Heard, MUSIC, file, recording, strength, strictly};
use crate::stage::{SOON, Setting, Stage, eventually};

/// What GenerativeAgent says: 1 kHz, the digital milliwatt of ITU-T G.711.
pub const GENAGENT: [u8; 8] = [0x1e, 0x0b, 0x0b, 0x1e, 0x9e, 0x8b, 0x8b, 0x9e];
/// What the queue says: 2 kHz.
pub const QUEUE: [u8; 8] = [0x0b, 0x0b, 0x8b, 0x8b, 0x0b, 0x0b, 0x8b, 0x8b];
/// No gap is longer.
const LONGEST: Duration = Duration::from_millis(500);
/// Half a second of somebody's voice.
const A_WORD: usize = 25;

/// What comes to an RTP port, until dropped.
pub struct Ear {
    heard: Arc<Mutex<Vec<Heard>>>,
    _listening: JoinSet<()>,
}

impl Ear {
    /// Listens beside this mouth.
    pub fn of(mouth: &Mouth) -> Self {
        let socket = mouth.0.clone();
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let (collected, mut listening) = (heard.clone(), JoinSet::new());
        listening.spawn(async move {
            let mut buffer = [0; 2048];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let packet = Heard { at: clock::now(), from, packet: buffer[..length].to_vec() };
                collected.lock().unwrap_or_else(PoisonError::into_inner).push(packet);
            }
        });
        Self { heard, _listening: listening }
    }

    /// Waits for half a second of this.
    pub async fn hears(&self, what: &str, is_it: impl Fn(&Heard) -> bool) {
        let count = || {
            let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.iter().filter(|heard| is_it(heard)).count()
        };
        eventually(&format!("{what} is heard"), SOON, async || count() >= A_WORD).await;
    }

    /// Everything so far.
    pub fn all(&self) -> Vec<Heard> {
        std::mem::take(&mut *self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether it is this voice.
pub fn is(voice: [u8; 8], heard: &Heard) -> bool {
    heard.packet[12..].chunks(8).all(|octets| octets == voice)
}

fn is_ours(heard: &Heard) -> bool {
    !is(GENAGENT, heard) && !is(QUEUE, heard)
}

/// Who takes the call and speaks, until dropped.
struct Speaker {
    call: Call,
    _speaking: Speaking,
}

impl Speaker {
    async fn takes(stage: &Stage, call: Call, house: u8, voice: [u8; 8]) -> Self {
        let here = stage.street.at(house, 9000);
        let (mouth, relay) = (Mouth::open(here).await, sdp::audio_address(call.invite().unwrap().body()).unwrap());
        assert!(call.respond(200, &sdp::describe(here)));
        Self { call, _speaking: mouth.says(relay, u32::from(house), voice) }
    }
}

impl Mouth {
    /// Speaks with this voice for twenty seconds, or until dropped.
    pub fn says(&self, to: SocketAddr, ssrc: u32, voice: [u8; 8]) -> Speaking {
        let mut packets = stream(ssrc, 1000);
        packets.iter_mut().for_each(|packet| packet[12..].copy_from_slice(&voice.repeat(20)));
        Speaking(self.speak(to, packets, PACKET))
    }
}

/// Somebody speaks, until dropped.
pub struct Speaking(JoinHandle<()>);

impl Drop for Speaking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether the customer hears GenerativeAgent, then something of ours, then the queue, and nothing is silent for long.
/// Returns what was ours.
async fn never_silent(setting: Setting, ivr: impl FnOnce(&Stage) -> Sipp, rung: &str) -> Vec<Heard> {
    let _machine = crate::heavy::alone().await;
    let stage = Stage::set(setting.rules(RULES)).await;
    let party = async |here| Party::start(here, Tap::default()).await.unwrap();
    let (mut carrier, mut queue) = (party(stage.street.carrier()).await, party(stage.street.queue()).await);
    let ear = Ear::of(&Mouth::open(stage.street.at(3, 9000)).await);
    let ivr = ivr(&stage).saying("m=audio 9000 RTP", "m=audio [media_port] RTP").start();

    let call = timeout(SOON, carrier.accept()).await.unwrap().unwrap();
    let genagent = Speaker::takes(&stage, call, 4, GENAGENT).await;
    ear.hears("GenerativeAgent", |heard| is(GENAGENT, heard)).await;
    assert!(genagent.call.hang_up(&[]));
    drop(genagent);
    let call = timeout(SOON, queue.accept()).await.unwrap().unwrap();
    assert!(call.respond(180, ""));
    ear.hears("something of ours", is_ours).await;
    let person = Speaker::takes(&stage, call, 6, QUEUE).await;
    ear.hears("the queue", |heard| is(QUEUE, heard)).await;
    assert!(person.call.hang_up(&[]));
    ivr.well(SOON).await;
    let rungs = vec![format!("refer:queue {rung}"), "dial:queue answered".to_owned()];
    assert_eq!(told(&stage).await, ("agent".to_owned(), rungs));
    stage.close(&[]).await;
    between(ear.all(), rung)
}

/// From one packet to the next.
pub fn longest_gap(heard: &[Heard]) -> Duration {
    heard.windows(2).map(|pair| pair[1].at - pair[0].at).max().unwrap()
}

/// What is neither of the two voices, between the two.
fn between(mut heard: Vec<Heard>, rung: &str) -> Vec<Heard> {
    let first = heard.iter().position(|heard| is(GENAGENT, heard)).unwrap();
    let last = heard.iter().rposition(|heard| is(QUEUE, heard)).unwrap();
    heard.truncate(last + 1);
    heard.drain(..first);
    strictly(&heard);
    let gap = longest_gap(&heard);
    let ours: Vec<Heard> = heard.into_iter().filter(is_ours).collect();
    println!("{rung}: the longest gap is {gap:?}; {} packets are ours", ours.len());
    assert!(gap < LONGEST, "{rung}: silence for {gap:?}");
    ours
}

#[tokio::test]
async fn t6_no_silence_when_the_ivr_knows_no_refer_or_declines() {
    let unknown = |stage: &Stage| answers(stage, "405 Method Not Allowed", "Allow: INVITE, ACK, BYE");
    never_silent(Setting::default(), unknown, "rejected 405").await;
    never_silent(Setting::default(), |stage| answers(stage, "603 Decline", "Server: ivr"), "rejected 603").await;
}

#[tokio::test]
async fn t8_no_silence_when_the_ivr_finds_the_queue_busy() {
    never_silent(Setting::default(), |stage| referred(stage, "SIP/2.0 486 Busy Here"), "refused 486").await;
}

#[tokio::test]
async fn t13_no_silence_when_the_subscription_ends_without_a_status() {
    never_silent(Setting::default(), |stage| referred(stage, "nonsense"), "no outcome").await;
    never_silent(Setting::default(), falls_silent, "no outcome").await;
}

#[tokio::test]
async fn t11_no_silence_when_the_ivr_asks_who_we_are() {
    let challenge = "WWW-Authenticate: Digest realm=\"pbx\", nonce=\"n\", qop=\"auth\"";
    let asks = |stage: &Stage| answers(stage, "401 Unauthorized", challenge);
    never_silent(Setting::default(), asks, "unauthorized").await;
}

/// The IVR agrees and says no more.
fn agrees(stage: &Stage) -> Sipp {
    answers(stage, "202 Accepted", "Server: ivr")
}

#[tokio::test]
async fn t10_comfort_noise_covers_the_wait_for_an_ivr_that_agrees_and_is_silent() {
    let ours = never_silent(Setting::default(), agrees, "no outcome in time").await;
    assert!(ours.len() >= 95, "two seconds of noise: {} packets", ours.len());
}

#[tokio::test]
async fn t10_music_covers_the_wait_for_an_ivr_that_agrees_and_is_silent() {
    let folder = tempfile::tempdir().unwrap();
    let music = recording(&folder, MUSIC, Duration::from_secs(1));
    let setting = Setting::default().key("sounds.waiting", file(&music)).key("sounds.onward", file(&music));
    let ours = never_silent(setting, agrees, "no outcome in time").await;
    assert!(ours.len() >= 95, "two seconds of music: {} packets", ours.len());
    assert!(strength(&ours, MUSIC, 80) > 5_000.0, "and it is the music");
}
