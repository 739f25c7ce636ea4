//! Numbers that expire under load and are given to somebody else at once: nobody may meet that somebody.
//!
//! The carrier answers late and does not mind a CANCEL. When it answers it asks the API whose the number is by now, as
//! the network would, and that is who speaks. Customers compare whom they hear with whom they called for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use switchback::demo::asapp::{Behaviour, MockAsappSettings, MockHandle};
use switchback::demo::message::Invitation;
use switchback::demo::party::{CallEvent, Party};
use switchback::demo::sdp;
use switchback::demo::tap::Tap;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use crate::heavy::alone;
use crate::stage::{SOON, Setting, Stage};
use crate::wire::{Heard, Wire};

/// A number's life. Nobody dials it in the last 2 s, and an answer's `Date`, which has no fraction, costs up to one
/// second more. The margin is there for what delays an answer, a busy machine included.
const LIFE: Duration = Duration::from_secs(5);
/// The carrier rings up to so many milliseconds.
const RINGS: u32 = 6500;
const PACKET: Duration = Duration::from_millis(20);

fn calls() -> u32 {
    if std::env::var_os("SWITCHBACK_LONG").is_some() { 10_000 } else { 300 }
}

/// The network behind the trunk.
struct Carrier {
    wire: Wire,
    api: MockHandle,
    media: std::net::IpAddr,
    switchback: SocketAddr,
    dialled: AtomicU32,
    /// Legs that reached somebody else than they were meant for.
    misled: AtomicU32,
    /// Dialogs by their Call-ID: all, and what became of them.
    known: Mutex<HashSet<String>>,
    cancelled: Mutex<HashSet<String>>,
    over: Mutex<HashSet<String>>,
}

impl Carrier {
    async fn serve(self: Arc<Self>) {
        let mut ringing = JoinSet::new();
        while let Some(heard) = self.wire.next(SOON * 6).await {
            let call_id = heard.header("Call-ID").unwrap().to_owned();
            if heard.text.starts_with("INVITE ") {
                self.wire.answer(&heard, "180 Ringing", "").await;
                if self.known.lock().unwrap().insert(call_id) {
                    ringing.spawn(Arc::clone(&self).rings(heard));
                }
            } else if heard.text.starts_with("CANCEL ") || heard.text.starts_with("BYE ") {
                let end = if heard.text.starts_with("BYE ") { &self.over } else { &self.cancelled };
                end.lock().unwrap().insert(call_id);
                self.wire.answer(&heard, "200 OK", "").await;
            }
        }
    }

    /// Rings, answers whatever was cancelled meanwhile, and speaks until it is hung up on.
    async fn rings(self: Arc<Self>, invite: Heard) {
        let nth = self.dialled.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(u64::from(nth.wrapping_mul(7919) % RINGS))).await;
        let number = invite.text.split(['@', ':']).nth(1).unwrap();
        // A call that was cancelled takes the number from nobody; but who would speak is the one who has it now.
        let cancelled = self.cancelled.lock().unwrap().contains(invite.header("Call-ID").unwrap());
        let reached = if cancelled { self.api.holder(number) } else { self.api.call_received(number) };
        let reached = reached.map_or("nobody".to_owned(), |transfer| transfer.conversation);
        if reached != meant(invite.header("Session-ID").unwrap()) {
            self.misled.fetch_add(1, Ordering::Relaxed);
        }
        let mouth = UdpSocket::bind((self.media, 0)).await.unwrap();
        let body = invite.text.split_once("\r\n\r\n").unwrap().1;
        let ear = sdp::audio_address(body.as_bytes()).unwrap();
        assert_eq!(ear.ip(), self.switchback.ip());
        self.wire.answer(&invite, "200 OK", &sdp::describe(mouth.local_addr().unwrap())).await;
        let mut pace = interval(PACKET);
        for sequence in 0..100 {
            pace.tick().await;
            if self.over.lock().unwrap().contains(invite.header("Call-ID").unwrap()) {
                return;
            }
            mouth.send_to(&packet(&reached, sequence), ear).await.unwrap();
        }
    }
}

/// The conversation of the customer with this Session-ID.
fn meant(session: &str) -> String {
    format!("conv-{}", u32::from_str_radix(&session[..32], 16).unwrap())
}

/// A packet of PCMU that says who speaks.
fn packet(who: &str, sequence: u16) -> Vec<u8> {
    let sequence = sequence + 1;
    let head = [&[0x80, 0][..], &sequence.to_be_bytes(), &(u32::from(sequence) * 160).to_be_bytes(), b"who?"].concat();
    [head, format!("{who:.<160}").into_bytes()].concat()
}

/// What became of one customer: refused, or whom it heard, by packets.
#[derive(Debug)]
enum Met {
    Refused(u16),
    Heard(HashMap<String, u32>),
}

async fn customer(ivr: Arc<Party>, switchback: SocketAddr, nth: u32) -> Met {
    let ear = UdpSocket::bind((ivr.address().ip(), 0)).await.unwrap();
    let header = |name: &str, value: String| (name.to_owned(), value);
    let mut call = ivr.call(&Invitation {
        target: switchback,
        user: "7000".to_owned(),
        caller: "+15550100042".to_owned(),
        headers: vec![
            header("X-GA-extConversationId", format!("conv-{nth}")),
            header("Session-ID", format!("{nth:032x};remote={:032x}", 0)),
        ],
        sdp: sdp::describe(ear.local_addr().unwrap()),
    });
    loop {
        match timeout(SOON * 3, call.next()).await.expect("an end") {
            CallEvent::Answered(_) => break,
            CallEvent::Refused(refusal) => return Met::Refused(refusal.status().unwrap()),
            _ => {}
        }
    }
    let (mut heard, mut buffer) = (HashMap::new(), [0; 512]);
    let listening = async {
        loop {
            let length = ear.recv(&mut buffer).await.unwrap();
            let who = String::from_utf8_lossy(&buffer[12..length]).trim_end_matches('.').to_owned();
            *heard.entry(who).or_default() += 1;
        }
    };
    // The conversation: 300 ms, or as long as it takes to hear a word on a busy machine.
    let _ = timeout(Duration::from_millis(300), listening).await;
    call.hang_up(&[]);
    while !matches!(timeout(SOON * 3, call.next()).await.expect("an answer to the BYE"), CallEvent::Finished(..)) {}
    Met::Heard(heard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o6_numbers_that_expire_under_load_lead_nobody_to_a_stranger() {
    const PER_SECOND: u32 = 50;
    let _machine = alone().await;
    let api = MockAsappSettings { life: LIFE, numbers: 5000, reuse: true, ..Setting::default().api };
    let setting = Setting { api, ..Setting::default() }
        .behaviour(Behaviour::default())
        .key("call.expiry_margin", "2s")
        .key("asapp.rate", "0")
        .key("sip.max_calls", "1500")
        .key("media.ports", "20000-29999");
    let stage = Stage::set(setting).await;
    let carrier = Arc::new(Carrier {
        wire: Wire::open(stage.street.carrier()).await,
        api: stage.api(),
        media: stage.street.carrier().ip(),
        switchback: stage.street.switchback(),
        dialled: AtomicU32::new(0),
        misled: AtomicU32::new(0),
        known: Mutex::default(),
        cancelled: Mutex::default(),
        over: Mutex::default(),
    });
    let serving = tokio::spawn(Arc::clone(&carrier).serve());
    let ivr = Arc::new(Party::start(stage.street.ivr(), Tap::default()).await.unwrap());
    let (mut customers, mut pace) = (JoinSet::new(), interval(Duration::from_secs(1) / PER_SECOND));
    for nth in 0..calls() {
        pace.tick().await;
        let (ivr, switchback) = (Arc::clone(&ivr), stage.street.switchback());
        customers.spawn(async move { (nth, customer(ivr, switchback, nth).await) });
    }
    let (mut talked, mut refused, mut deaf, mut strangers) = (0, BTreeMap::<u16, u32>::new(), 0, Vec::new());
    while let Some(met) = customers.join_next().await {
        match met.unwrap() {
            (_, Met::Refused(status)) => *refused.entry(status).or_default() += 1,
            (nth, Met::Heard(who)) => {
                talked += 1;
                deaf += u32::from(who.is_empty());
                strangers.extend(who.into_keys().filter(|who| *who != format!("conv-{nth}")));
            }
        }
    }
    let (dialled, misled) = (carrier.dialled.load(Ordering::Relaxed), carrier.misled.load(Ordering::Relaxed));
    println!(
        "{} calls, {dialled} numbers dialled, {misled} of them answered by somebody else; {talked} customers talked, \
         {refused:?} were refused, {} met a stranger",
        calls(),
        strangers.len()
    );
    assert!(strangers.is_empty(), "{strangers:?}");
    let rejected = stage.get("/metrics").await.1;
    let rejected: Vec<&str> = rejected.lines().filter(|line| line.contains("rejected")).collect();
    assert!(refused.keys().all(|status| *status == 480), "{refused:?} {rejected:#?}");
    assert!(misled > calls() / 20 && talked > calls() / 4, "too little happened");
    assert!(deaf * 100 <= talked, "{deaf} of {talked} heard nobody");
    let records = stage.records(calls() as usize).await;
    let answered = records.iter().filter(|record| !record["answered_at"].is_null()).count();
    assert_eq!(answered, talked as usize);
    assert_eq!(stage.metrics().await.of("misdirected_total"), 0);
    serving.abort();
}
