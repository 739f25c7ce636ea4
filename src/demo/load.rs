//! Many calls at once, and what becomes of every packet in them: the parties of `switchback load`.
//!
//! One process plays all customers and GenerativeAgent. Every RTP packet says which stream it belongs to and when it was
//! sent, so that its receiver knows how long it took, which are missing, and whether it is somebody else's.

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rtp_rs::{RtpPacketBuilder, RtpReader};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::asapp::MockHandle;
use super::message::Invitation;
use super::party::{Call, CallEvent, Party};
use super::sdp;
use super::tap::Tap;
use crate::clock;

/// Between two packets of a stream.
const PACKET: Duration = Duration::from_millis(20);
/// Nobody sleeps for less: packets due meanwhile leave together.
const SLICE: Duration = Duration::from_millis(1);
/// The payload of one packet: a stream's name, the time it was sent, and what fills it up to 20 ms of G.711.
const PAYLOAD: usize = 160;
/// A call that is not answered, or whose BYE is not answered, within this time has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was seen of the media between two looks.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// Packets sent.
    pub sent: u64,
    /// Packets that arrived.
    pub received: u64,
    /// Packets that arrived at somebody they were not for.
    pub strangers: u64,
    /// How long each took, in nanoseconds.
    pub delays: Vec<u64>,
}

/// All streams: one thread sends them, a task each receives.
pub struct Streams {
    shared: Arc<Shared>,
    sender: Option<JoinHandle<()>>,
}

struct Shared {
    begun: Instant,
    over: AtomicBool,
    streams: Mutex<Vec<Arc<Stream>>>,
    sent: AtomicU64,
    heard: Mutex<Heard>,
}

/// One direction from one party.
struct Stream {
    socket: Arc<UdpSocket>,
    target: SocketAddr,
    name: u32,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Streams {
    /// No streams yet.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            begun: clock::now(),
            over: AtomicBool::new(false),
            streams: Mutex::default(),
            sent: AtomicU64::new(0),
            heard: Mutex::default(),
        });
        let speaker = Arc::clone(&shared);
        let sender = thread::Builder::new().name("load-sender".to_owned()).spawn(move || speaker.send())?;
        Ok(Self { shared, sender: Some(sender) })
    }

    /// What was seen since the last look.
    pub fn look(&self) -> Heard {
        let mut heard = std::mem::take(&mut *locked(&self.shared.heard));
        heard.sent = self.shared.sent.swap(0, Ordering::Relaxed);
        heard
    }

    /// A socket for one party; it is heard from now on.
    fn open(&self, address: IpAddr) -> io::Result<End> {
        let socket = UdpSocket::bind((address, 0))?;
        socket.set_nonblocking(true)?;
        let ear = tokio::net::UdpSocket::from_std(socket.try_clone()?)?;
        let spoken_to = Arc::new(Notify::new());
        let listening = tokio::spawn(Arc::clone(&self.shared).listen(ear, Arc::clone(&spoken_to))).abort_handle();
        let name = socket.local_addr()?.port().into();
        Ok(End { socket: Arc::new(socket), name, spoken_to, listening, streams: Arc::clone(&self.shared) })
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join(); // a sender that panicked has said so
        }
    }
}

impl Shared {
    fn now(&self) -> u64 {
        clock::now().saturating_duration_since(self.begun).as_nanos() as u64
    }

    /// Every stream's packet within each 20 ms, spread over them.
    fn send(&self) {
        let mut round = clock::now();
        let mut number = 0_u16;
        while !self.over.load(Ordering::Relaxed) {
            let streams = locked(&self.streams).clone();
            let share = PACKET / u32::try_from(streams.len().max(1)).unwrap_or(u32::MAX);
            for (at, stream) in (0_u32..).zip(&streams) {
                wait_until(round + share * at);
                let sent = stream.say(number, self.now());
                self.sent.fetch_add(u64::from(sent), Ordering::Relaxed);
            }
            round += PACKET;
            wait_until(round);
            number = number.wrapping_add(1);
        }
    }

    async fn listen(self: Arc<Self>, ear: tokio::net::UdpSocket, spoken_to: Arc<Notify>) {
        let mut buffer = [0; 2048];
        let mut peer = None;
        loop {
            let Ok(length) = ear.recv(&mut buffer).await else { continue };
            let Some((name, sent)) = read(&buffer[..length]) else { continue };
            let delay = self.now().saturating_sub(sent);
            if peer.is_none() {
                spoken_to.notify_one();
            }
            let mut heard = locked(&self.heard);
            if name == *peer.get_or_insert(name) {
                heard.received += 1;
                heard.delays.push(delay);
            } else {
                heard.strangers += 1;
            }
        }
    }
}

impl Stream {
    fn say(&self, number: u16, now: u64) -> bool {
        let mut payload = [0xff; PAYLOAD];
        payload[..4].copy_from_slice(&self.name.to_be_bytes());
        payload[4..12].copy_from_slice(&now.to_be_bytes());
        let packet = RtpPacketBuilder::new()
            .payload_type(0)
            .ssrc(self.name)
            .sequence(number.into())
            .timestamp(u32::from(number).wrapping_mul(PAYLOAD as u32))
            .payload(&payload)
            .build();
        packet.is_ok_and(|packet| self.socket.send_to(&packet, self.target).is_ok())
    }
}

/// Paces a thread that does nothing else.
#[expect(clippy::disallowed_methods, reason = "a thread of the load generator, whose work is to wait")]
fn wait_until(due: Instant) {
    let ahead = due.saturating_duration_since(clock::now());
    if ahead >= SLICE {
        thread::sleep(ahead);
    }
}

/// Whose packet it is, and when it was sent; `None` for what is not ours.
fn read(packet: &[u8]) -> Option<(u32, u64)> {
    let packet = RtpReader::new(packet).ok()?;
    let payload = packet.payload();
    let name = u32::from_be_bytes(payload.get(..4)?.try_into().ok()?);
    // What Switchback says itself is no stream of these.
    (payload.len() == PAYLOAD && payload[12..].iter().all(|&octet| octet == 0xff))
        .then(|| payload[4..12].try_into().ok().map(|sent| (name, u64::from_be_bytes(sent))))?
}

/// One party's end of the media; dropping it ends both directions.
struct End {
    socket: Arc<UdpSocket>,
    name: u32,
    /// Told when the first packet has come.
    spoken_to: Arc<Notify>,
    listening: AbortHandle,
    streams: Arc<Shared>,
}

impl End {
    fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn speak(&self, target: SocketAddr) {
        let stream = Stream { socket: Arc::clone(&self.socket), target, name: self.name };
        locked(&self.streams.streams).push(Arc::new(stream));
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.listening.abort();
        locked(&self.streams.streams).retain(|stream| stream.name != self.name);
    }
}

/// A customer who is being talked to.
pub struct Customer {
    call: Call,
    _end: Option<End>,
}

/// What became of an INVITE.
pub enum Offer {
    /// It was answered.
    Taken(Box<Customer>),
    /// It was refused with this status, and was told when to try again or not.
    Refused(u16, bool),
}

impl Customer {
    /// Calls, and is answered within half a minute; the time that took.
    pub async fn call(party: &Party, streams: Option<&Streams>, target: SocketAddr) -> io::Result<(Self, Duration)> {
        match Self::offer(party, streams, target).await? {
            (Offer::Taken(customer), time) => Ok((*customer, time)),
            (Offer::Refused(status, _), _) => Err(io::Error::other(format!("refused with {status}"))),
        }
    }

    /// Calls, and is answered or refused within half a minute; the time that took.
    pub async fn offer(party: &Party, streams: Option<&Streams>, target: SocketAddr) -> io::Result<(Offer, Duration)> {
        let end = streams.map(|streams| streams.open(party.address().ip())).transpose()?;
        let here = end.as_ref().map_or(Ok(party.address()), End::address)?;
        let invitation = Invitation {
            target,
            user: "7000".to_owned(),
            caller: "+15550100042".to_owned(),
            headers: Vec::new(),
            sdp: sdp::describe(here),
        };
        let begun = clock::now();
        let mut call = party.call(&invitation);
        let answer = async {
            loop {
                match call.next().await {
                    CallEvent::Answered(answer) => return Ok(Ok(sdp::audio_address(answer.body()))),
                    CallEvent::Refused(refusal) => {
                        let later = refusal.headers().iter().any(|(name, _)| name.eq_ignore_ascii_case("Retry-After"));
                        return Ok(Err((refusal.status().unwrap_or(0), later)));
                    }
                    CallEvent::Unanswered => return Err(io::Error::from(io::ErrorKind::TimedOut)),
                    _ => {}
                }
            }
        };
        let answer = tokio::time::timeout(PATIENCE, answer).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let time = clock::now().saturating_duration_since(begun);
        let target = match answer {
            Ok(target) => target,
            Err((status, later)) => return Ok((Offer::Refused(status, later), time)),
        };
        if let Some((end, target)) = end.as_ref().zip(target) {
            end.speak(target);
        }
        Ok((Offer::Taken(Box::new(Self { call, _end: end })), time))
    }

    /// Hangs up; an error when that is not answered, or when somebody else had hung up.
    pub async fn hang_up(mut self) -> io::Result<()> {
        self.call.hang_up(&[]);
        let end = async {
            loop {
                match self.call.next().await {
                    CallEvent::Finished(_, 200) => return Ok(()),
                    CallEvent::Finished(_, status) => return Err(io::Error::other(format!("BYE got {status}"))),
                    CallEvent::HungUp(_) => return Err(io::Error::other("hung up on before the end")),
                    CallEvent::Unanswered => return Err(io::ErrorKind::TimedOut.into()),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, end).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

/// GenerativeAgent answers every call at once, talks from when it is spoken to until it is hung up on, and keeps the API
/// informed.
pub async fn answer_all(mut party: Party, streams: Option<Arc<Streams>>, api: MockHandle) {
    while let Some(call) = party.accept().await {
        tokio::spawn(answer(call, party.address().ip(), streams.clone(), api.clone()));
    }
}

async fn answer(mut call: Call, here: IpAddr, streams: Option<Arc<Streams>>, api: MockHandle) -> Option<()> {
    let end = streams.map(|streams| streams.open(here)).transpose().ok()?;
    let invite = call.invite()?;
    let (number, target) = (invite.dialled()?.to_owned(), sdp::audio_address(invite.body()));
    let here = end.as_ref().map_or(Ok(SocketAddr::new(here, 9)), End::address).ok()?;
    call.respond(200, &sdp::describe(here));
    let transfer = api.call_received(&number)?.id;
    let talk = async {
        if let Some((end, target)) = end.as_ref().zip(target) {
            end.spoken_to.notified().await;
            end.speak(target);
        }
        pending::<()>().await
    };
    let over = async { while !matches!(call.next().await, CallEvent::HungUp(_) | CallEvent::Unanswered) {} };
    tokio::select! {
        () = talk => {}
        () = over => {}
    }
    drop(end);
    api.completed(&transfer, None);
    // The answer to a BYE that comes again is still ours to give.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Some(())
}

/// Somebody who sends RTP to every port of a range, this many packets a second, from this address; until it is dropped.
pub struct Intruder {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Intruder {
    /// Begins.
    pub fn start(from: IpAddr, to: IpAddr, ports: RangeInclusive<u16>, rate: u32) -> io::Result<Self> {
        let stream = Stream { socket: Arc::new(UdpSocket::bind((from, 0))?), target: (to, 0).into(), name: u32::MAX };
        stream.socket.set_nonblocking(true)?;
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let thread = thread::Builder::new().name("load-intruder".to_owned()).spawn(move || {
            let (begun, mut sent, mut stream) = (clock::now(), 0_u64, stream);
            for port in ports.cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                stream.target.set_port(port);
                sent += u64::from(stream.say(sent as u16, 0));
                let due = begun + Duration::from_secs_f64(sent as f64 / f64::from(rate));
                wait_until(due);
            }
            sent
        })?;
        Ok(Self { over, thread: Some(thread) })
    }

    /// Ends; how many packets left.
    pub fn stop(mut self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for Intruder {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Starts a party on this address.
pub async fn party(address: IpAddr) -> io::Result<Party> {
    Party::start((address, 0).into(), Tap::default()).await
}
