//! The media path: RTP and RTCP of every leg pass through here.
//!
//! All port pairs are opened at start and shared out among relay threads; a pair and its peer live on one thread, so
//! that no packet takes a lock. From the top:
//!
//! - [`Media`]: the threads, and the way commands reach them; events come back on a channel.
//! - [`worker`]: one thread, its epoll and its timer.
//! - [`relay`]: the table of what happens to a packet; `row`: a line of it, laid out for the packets. Pure.
//! - [`latch`]: whom a port listens to. Pure.
//! - [`srtp`]: what protects the packets of a pair, before anybody is learned and after everything is decided.
//! - [`stream`]: one continuous stream from many sources. Pure.
//! - [`quality`]: how well it is heard. Pure.
//! - [`report`]: RTCP, read and written. Pure.
//! - [`laws`]: G.711 of one law made the other. Pure.
//! - [`digits`]: the keys that people press. Pure.
//! - [`tape`]: what is recorded of a call, laid out in time; [`beep`]: the tone that tells of it. Pure. [`recorder`]: the
//!   files, and the thread that writes them.
//! - [`sounds`]: what is heard of ours, from [`tones`] and [`wav`] files. [`ports`]: sockets. [`guard`]: where we never
//!   send. `drops`: what the kernel lost.

pub mod beep;
pub mod digits;
mod drops;
pub mod guard;
pub mod latch;
pub mod laws;
pub mod ports;
pub mod quality;
pub mod recorder;
#[cfg(test)]
mod rehearsal;
pub mod relay;
pub mod report;
mod row;
pub mod sounds;
pub mod srtp;
pub mod stream;
pub mod tape;
#[cfg(test)]
mod tests;
pub mod tones;
pub mod wav;
pub mod worker;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use tokio::sync::mpsc::UnboundedSender;

use crate::b2bua::io::{MediaCommand, MediaEvent, PAIRS_A_CALL, PortPair};
use drops::Drops;
pub use drops::KernelLosses;
use ports::Socket;
use recorder::{Recorder, RecorderGauges, RecorderSettings};
pub use relay::Terms;
use sounds::Sounds;
use worker::Worker;

/// What the relay is told at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaSettings {
    /// The local addresses, at most one of each IP family. Every port of the range is opened on each.
    pub addresses: Vec<IpAddr>,
    /// What our session descriptions say in their place, where that differs.
    pub told: Vec<IpAddr>,
    /// Where we hear SIP and HTTP: no far side of a call is there.
    pub closed: Vec<SocketAddr>,
    /// The first port of the range; pairs start at even ports.
    pub first_port: u16,
    /// The last port of the range.
    pub last_port: u16,
    /// Relay threads, no more than there is room for calls; pairs are shared out among them evenly.
    pub workers: usize,
    /// How long to learn, how long to drain.
    pub terms: Terms,
    /// Differentiated services code point of what we send, 0 to 63; `None` leaves it to the kernel.
    pub dscp: Option<u8>,
    /// What is heard of ours.
    pub sounds: Arc<Sounds>,
    /// Where recordings go; `None`: there are none.
    pub recorder: Option<RecorderSettings>,
}

impl Default for MediaSettings {
    fn default() -> Self {
        Self {
            addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            told: Vec::new(),
            closed: Vec::new(),
            first_port: 10_000,
            last_port: 19_999,
            workers: thread::available_parallelism().map_or(1, usize::from),
            terms: Terms {
                learn_window: Duration::from_secs(2),
                quarantine: Duration::from_secs(2),
                quarantine_limit: Duration::from_secs(30),
            },
            dscp: Some(46), // expedited forwarding (RFC 3246)
            sounds: Arc::default(),
            recorder: None,
        }
    }
}

/// Why the relay could not start, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The range holds no pair.
    #[error("the media port range {first}-{last} holds no pair: it needs an even port and the odd one above it")]
    Range {
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u16,
    },
    /// Every pair is taken.
    #[error(
        "every media port from {first} to {last} of {address} is in use: stop the program that holds them or choose \
         another range"
    )]
    AllInUse {
        /// The address.
        address: IpAddr,
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u16,
    },
    /// Too few descriptors.
    #[error(
        "the media ports need {needed} open files and the limit is {allowed}: raise it (LimitNOFILE= in the systemd \
         unit, or ulimit -Hn) or choose a smaller port range"
    )]
    Descriptors {
        /// How many are needed.
        needed: u64,
        /// How many are allowed.
        allowed: u64,
    },
    /// A port could not be bound for another reason than being in use.
    #[error("cannot bind media port {address}:{port}; the address must be one of this machine's")]
    Bind {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
    /// The DSCP does not fit in six bits.
    #[error("the DSCP {0} is not between 0 and 63")]
    Dscp(u8),
    /// Recordings could not be kept.
    #[error("recordings cannot be kept in {} (recording.path)", folder.display())]
    Recorder {
        /// The folder.
        folder: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A thread, epoll or eventfd could not be made.
    #[error("the media threads could not be started")]
    System(#[from] io::Error),
}

/// The running relay. Dropping it stops and joins its threads.
pub struct Media {
    pairs: Vec<PortPair>,
    lanes: Vec<Lane>,
    recorder: Option<(Recorder, JoinHandle<()>)>,
    drops: Drops,
}

/// The way to one thread.
struct Lane {
    /// `None` once it was told to stop.
    commands: Option<Sender<MediaCommand>>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Media {
    /// Opens every free port pair of the range and starts the threads. Events go to `events`.
    pub fn start(settings: MediaSettings, events: UnboundedSender<MediaEvent>) -> Result<Self, MediaError> {
        if let Some(dscp) = settings.dscp.filter(|dscp| *dscp > 63) {
            return Err(MediaError::Dscp(dscp));
        }
        let open = ports::open_all(&settings)?;

        let fewest = open.iter().map(|(_, pairs)| pairs.len()).min().unwrap_or(0).min(usize::from(u16::MAX));
        let workers = settings.workers.clamp(1, (fewest / PAIRS_A_CALL).max(1));
        let mut shares: Vec<(Vec<PortPair>, Vec<[Socket; 2]>)> = (0..workers).map(|_| Default::default()).collect();
        for (family, pairs) in open {
            for (number, (port, sockets)) in pairs.into_iter().enumerate() {
                let worker = number / PAIRS_A_CALL % workers; // whole calls, so that no thread has a pair too few
                shares[worker].0.push(PortPair { worker: worker as u16, family, port });
                shares[worker].1.push(sockets);
            }
        }
        let recorder = settings.recorder.as_ref().map(|at| start_recorder(at, events.clone())).transpose()?;
        let drops = Drops::watch(settings.addresses.clone(), settings.first_port..=settings.last_port)?;
        let mut media = Self { pairs: Vec::new(), lanes: Vec::new(), recorder, drops };
        for (pairs, sockets) in shares {
            let number = media.lanes.len();
            let recorder = media.recorder.as_ref().map(|(recorder, _)| recorder.clone());
            media.lanes.push(Lane::start(&settings, &pairs, sockets, events.clone(), recorder, number)?);
            media.pairs.extend(pairs);
        }
        media.pairs.sort_by_key(|pair| (pair.family, pair.port));
        Ok(media)
    }

    /// Every pair that can be lent, by family and port.
    pub fn pairs(&self) -> Vec<PortPair> {
        self.pairs.clone()
    }

    /// What the kernel kept from us, some seconds old.
    pub fn kernel_losses(&self) -> Arc<KernelLosses> {
        self.drops.losses()
    }

    /// For whoever wants to know how recordings are doing.
    pub fn recordings(&self) -> Option<RecorderGauges> {
        self.recorder.as_ref().map(|(recorder, _)| recorder.gauges())
    }

    /// Hands the command to the thread of its pair; never blocks. Commands to one pair take effect in order.
    pub fn command(&self, command: MediaCommand) {
        let worker = match &command {
            MediaCommand::Expect { pair, .. }
            | MediaCommand::Secure { pair, .. }
            | MediaCommand::Bridge(pair, _)
            | MediaCommand::Play { pair, .. }
            | MediaCommand::Cover { pair, .. }
            | MediaCommand::Hold { pair, .. }
            | MediaCommand::Events { pair, .. }
            | MediaCommand::Law { pair, .. }
            | MediaCommand::Press { pair, .. }
            | MediaCommand::Watch { pair, .. }
            | MediaCommand::Record { pair, .. }
            | MediaCommand::Pause { pair, .. }
            | MediaCommand::Close(pair) => pair.worker,
            MediaCommand::EndRecording { worker, .. } => *worker,
        };
        match self.lanes.get(usize::from(worker)) {
            Some(lane) => lane.send(command),
            None => tracing::error!(?command, "a media command for a worker that does not exist"),
        }
    }
}

impl Drop for Media {
    fn drop(&mut self) {
        self.lanes.iter_mut().for_each(Lane::stop);
        // The thread ends with the last way to it; what was still recorded is closed by then.
        if let Some((recorder, thread)) = self.recorder.take() {
            drop(recorder);
            if thread.join().is_err() {
                tracing::error!("the recorder had panicked");
            }
        }
    }
}

fn start_recorder(
    settings: &RecorderSettings,
    events: UnboundedSender<MediaEvent>,
) -> Result<(Recorder, JoinHandle<()>), MediaError> {
    recorder::start(settings, events).map_err(|source| MediaError::Recorder { folder: settings.folder.clone(), source })
}

impl Lane {
    fn start(
        settings: &MediaSettings,
        pairs: &[PortPair],
        sockets: Vec<[Socket; 2]>,
        events: UnboundedSender<MediaEvent>,
        recorder: Option<Recorder>,
        number: usize,
    ) -> Result<Self, MediaError> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (commands, inbox): (_, Receiver<MediaCommand>) = channel();
        let worker = Worker::new(settings, pairs, sockets, (wake.clone(), inbox), events, recorder)?;
        let thread = thread::Builder::new().name(format!("media-{number}")).spawn(move || worker.run())?;
        Ok(Self { commands: Some(commands), wake, thread: Some(thread) })
    }

    fn send(&self, command: MediaCommand) {
        let sent = self.commands.as_ref().map(|commands| commands.send(command));
        if !matches!(sent, Some(Ok(()))) {
            tracing::error!("a relay thread has ended, a media command is lost");
        }
        self.wake();
    }

    /// A full eventfd is awake already.
    fn wake(&self) {
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }

    fn stop(&mut self) {
        self.commands = None;
        self.wake();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a relay thread had panicked");
        }
    }
}
