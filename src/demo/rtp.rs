//! One end of an RTP stream: it speaks a voice in packets of 20 ms and records what it hears.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rtp_rs::{RtpPacketBuilder, RtpReader, Seq};
use tokio::task::AbortHandle;

use super::tap::{Tap, Traffic};
use super::voice::{self, RATE, Voice};
use crate::clock;

const PACKET: Duration = Duration::from_millis(20);
const SAMPLES: usize = RATE / 50;
const PCMU: u8 = 0;
/// A recording ends here; more is counted and not kept.
const LONGEST: usize = 600 * RATE;
/// A packet whose timestamp says this much else than its arrival is not placed.
const ASTRAY: usize = 5 * RATE;

/// An RTP socket on an even port. Dropping it ends both directions.
pub struct Line {
    address: SocketAddr,
    socket: Arc<UdpSocket>,
    tap: Tap,
    target: Arc<Mutex<Option<SocketAddr>>>,
    recorder: Arc<Mutex<Recorder>>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Line {
    /// Opens a socket on an even port that the system picks, and begins to record.
    pub async fn open(address: IpAddr, tap: Tap) -> io::Result<Self> {
        let socket = even_socket(address)?;
        socket.set_nonblocking(true)?;
        let listener = tokio::net::UdpSocket::from_std(socket.try_clone()?)?;
        let address = socket.local_addr()?;
        let recorder = Arc::default();
        let listening = tokio::spawn(listen(listener, address, tap.clone(), Arc::clone(&recorder)));
        Ok(Self {
            address,
            socket: Arc::new(socket),
            tap,
            target: Arc::default(),
            recorder,
            tasks: Mutex::new(vec![listening.abort_handle()]),
        })
    }

    /// Where this end listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Speaks to `target` from now on. A second call only turns the running stream to another target.
    pub fn speak(&self, target: SocketAddr, voice: Voice) {
        if locked(&self.target).replace(target).is_none() {
            let speaking = speak(Arc::clone(&self.socket), self.address, self.tap.clone(), voice, self.target.clone());
            locked(&self.tasks).push(tokio::spawn(speaking).abort_handle());
        }
    }

    /// Stops sending and listening; what was heard stays.
    pub fn close(&self) {
        locked(&self.tasks).drain(..).for_each(|task| task.abort());
    }

    /// What was heard so far.
    pub fn recording(&self) -> Recording {
        locked(&self.recorder).recording()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.close();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn even_socket(address: IpAddr) -> io::Result<UdpSocket> {
    // Odd sockets are held until an even one is found, else the system may offer the same port again.
    let mut odd = Vec::new();
    for _ in 0..64 {
        let socket = UdpSocket::bind((address, 0))?;
        if socket.local_addr()?.port() % 2 == 0 {
            return Ok(socket);
        }
        odd.push(socket);
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no even port is free"))
}

async fn speak(
    socket: Arc<UdpSocket>,
    local: SocketAddr,
    tap: Tap,
    voice: Voice,
    target: Arc<Mutex<Option<SocketAddr>>>,
) {
    let mut speech = voice.looping();
    let (ssrc, mut sequence) = (rand::random(), Seq::from(rand::random::<u16>()));
    let (mut timestamp, mut first) = (rand::random::<u32>(), true);
    // Late ticks are made up for, so that the pace stays that of real time.
    let mut pace = tokio::time::interval(PACKET);
    loop {
        pace.tick().await;
        let payload: Vec<u8> = speech.by_ref().take(SAMPLES).collect();
        let packet = RtpPacketBuilder::new()
            .payload_type(PCMU)
            .marked(std::mem::take(&mut first))
            .ssrc(ssrc)
            .sequence(sequence)
            .timestamp(timestamp)
            .payload(&payload)
            .build();
        sequence = sequence.next();
        timestamp = timestamp.wrapping_add(SAMPLES as u32);
        let to = *locked(&target);
        if let (Ok(packet), Some(to)) = (packet, to) {
            tap.sent(Traffic::Rtp, local, to, &packet);
            if let Err(error) = socket.send_to(&packet, to) {
                tracing::debug!(%error, %to, "an RTP packet was not sent");
            }
        }
    }
}

async fn listen(socket: tokio::net::UdpSocket, local: SocketAddr, tap: Tap, recorder: Arc<Mutex<Recorder>>) {
    let mut buffer = vec![0; 2048];
    loop {
        if let Ok((length, source)) = socket.recv_from(&mut buffer).await {
            tap.received(Traffic::Rtp, local, source, &buffer[..length]);
            locked(&recorder).heard(clock::now(), &buffer[..length]);
        }
    }
}

/// Counters of what arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RtpStats {
    /// RTP packets, duplicates included.
    pub packets: u64,
    /// Sequence numbers that never came, summed over the sources.
    pub lost: u64,
    /// Packets that came after a later one.
    pub out_of_order: u64,
    /// Packets that came again.
    pub duplicates: u64,
    /// How often the SSRC changed.
    pub ssrc_changes: u64,
    /// Packets of another payload type than PCMU, telephone events among them; not recorded.
    pub other_payload: u64,
    /// Packets whose timestamp disagrees with their arrival, or beyond the end of the recording; not recorded.
    pub misplaced: u64,
    /// Datagrams that are no RTP.
    pub malformed: u64,
    /// The longest time between two packets.
    pub longest_gap: Duration,
}

/// What one end heard.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    /// When the first packet arrived: the time of `samples[0]`.
    pub started: Option<Instant>,
    /// Linear samples at 8 kHz, placed by RTP timestamp; gaps are silence.
    pub samples: Vec<i16>,
    /// What arrived.
    pub stats: RtpStats,
}

/// Places packets in a recording. It is told the time.
#[derive(Default)]
struct Recorder {
    heard: Recording,
    last: Option<Instant>,
    source: Option<Source>,
}

/// One SSRC. Sequence numbers are counted on without wrapping.
struct Source {
    ssrc: u32,
    first: i64,
    highest: i64,
    received: i64,
    /// Bit n: `highest - n` has come.
    seen: u64,
    /// The timestamp at sample `index`.
    timestamp: u32,
    index: usize,
}

impl Recorder {
    fn heard(&mut self, at: Instant, datagram: &[u8]) {
        let Ok(packet) = RtpReader::new(datagram) else {
            self.heard.stats.malformed += 1;
            return;
        };
        let started = *self.heard.started.get_or_insert(at);
        let stats = &mut self.heard.stats;
        stats.packets += 1;
        let gap = self.last.replace(at).map_or(Duration::ZERO, |last| at.saturating_duration_since(last));
        stats.longest_gap = stats.longest_gap.max(gap);
        let due = (at.saturating_duration_since(started).as_secs_f64() * RATE as f64) as usize;
        self.follow(&packet, due);
        let Some(source) = &self.source else { return };
        if packet.payload_type() != PCMU {
            self.heard.stats.other_payload += 1;
            return;
        }
        let offset = i64::from(packet.timestamp().wrapping_sub(source.timestamp) as i32);
        let place = usize::try_from(source.index as i64 + offset).ok();
        let samples = voice::decode(packet.payload());
        match place {
            Some(place) if place.abs_diff(due) < ASTRAY && place + samples.len() <= LONGEST => {
                let end = place + samples.len();
                let length = self.heard.samples.len().max(end);
                self.heard.samples.resize(length, 0);
                self.heard.samples[place..end].copy_from_slice(&samples);
            }
            _ => self.heard.stats.misplaced += 1,
        }
    }

    /// Counts the packet's sequence number; a new SSRC begins at the sample that is due.
    fn follow(&mut self, packet: &RtpReader, due: usize) {
        let stats = &mut self.heard.stats;
        let number = packet.sequence_number();
        match &mut self.source {
            Some(source) if source.ssrc == packet.ssrc() => {
                let ahead = i64::from(number - Seq::from(source.highest as u16));
                match ahead {
                    1.. => {
                        source.seen = source.seen.checked_shl(ahead as u32).unwrap_or(0) | 1;
                        source.highest += ahead;
                        source.received += 1;
                    }
                    _ if source.seen.checked_shr(-ahead as u32).is_some_and(|seen| seen & 1 == 1) => {
                        stats.duplicates += 1;
                    }
                    _ => {
                        source.seen |= 1_u64.checked_shl(-ahead as u32).unwrap_or(0);
                        source.first = source.first.min(source.highest + ahead);
                        source.received += 1;
                        stats.out_of_order += 1;
                    }
                }
            }
            other => {
                let number = i64::from(u16::from(number));
                let index = if other.is_some() { due } else { 0 };
                let next = Source {
                    ssrc: packet.ssrc(),
                    first: number,
                    highest: number,
                    received: 1,
                    seen: 1,
                    timestamp: packet.timestamp(),
                    index,
                };
                if let Some(past) = other.replace(next) {
                    stats.ssrc_changes += 1;
                    stats.lost += past.lost();
                }
            }
        }
    }

    fn recording(&self) -> Recording {
        let mut recording = self.heard.clone();
        recording.stats.lost += self.source.as_ref().map_or(0, Source::lost);
        recording
    }
}

impl Source {
    fn lost(&self) -> u64 {
        u64::try_from(self.highest - self.first + 1 - self.received).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(ssrc: u32, sequence: u16, timestamp: u32, octet: u8) -> Vec<u8> {
        let payload = [octet; SAMPLES];
        let builder = RtpPacketBuilder::new().payload_type(PCMU).ssrc(ssrc).sequence(sequence.into());
        builder.timestamp(timestamp).payload(&payload).build().unwrap()
    }

    /// Feeds (milliseconds, packet) and returns what was heard.
    fn record(packets: &[(u64, Vec<u8>)]) -> Recording {
        let (start, mut recorder) = (clock::now(), Recorder::default());
        for (at, bytes) in packets {
            recorder.heard(start + Duration::from_millis(*at), bytes);
        }
        recorder.recording()
    }

    #[test]
    fn packets_are_placed_by_timestamp_across_the_wrap() {
        let (sequence, timestamp) = (u16::MAX, u32::MAX - 159);
        let heard = record(&[
            (0, packet(7, sequence, timestamp, 0x80)),
            (45, packet(7, 1, 160, 0x00)), // later, and before the one it follows
            (46, packet(7, 0, 0, 0xff)),
        ]);
        assert_eq!(heard.samples.len(), 3 * SAMPLES);
        assert_eq!([0, SAMPLES, 2 * SAMPLES].map(|at| heard.samples[at]), [32_124, 0, -32_124]);
        assert_eq!((heard.stats.packets, heard.stats.lost, heard.stats.out_of_order), (3, 0, 1));
        assert_eq!(heard.stats.longest_gap, Duration::from_millis(45));
    }

    #[test]
    fn loss_and_duplicates_are_counted() {
        let heard = record(&[
            (0, packet(7, 10, 0, 0x80)),
            (20, packet(7, 11, 160, 0x80)),
            (20, packet(7, 11, 160, 0x80)),
            (100, packet(7, 15, 800, 0x80)),
        ]);
        assert_eq!((heard.stats.packets, heard.stats.lost, heard.stats.duplicates), (4, 3, 1));
        assert_eq!(heard.samples[3 * SAMPLES], 0, "a gap is silence");
    }

    #[test]
    fn another_source_is_placed_by_its_arrival() {
        let heard = record(&[(0, packet(7, 10, 5, 0x80)), (1000, packet(8, 900, 77_777, 0x00))]);
        assert_eq!((heard.stats.ssrc_changes, heard.stats.lost), (1, 0));
        assert_eq!(heard.samples.len(), RATE + SAMPLES);
        assert_eq!(heard.samples[RATE], -32_124);
    }

    #[test]
    fn a_leaping_timestamp_does_not_grow_the_recording() {
        let heard = record(&[(0, packet(7, 10, 0, 0x80)), (20, packet(7, 11, 1 << 30, 0x80)), (40, vec![1, 2, 3])]);
        assert_eq!(heard.samples.len(), SAMPLES);
        assert_eq!((heard.stats.misplaced, heard.stats.malformed), (1, 1));
    }
}
