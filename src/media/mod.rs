//! The media path: RTP and RTCP of every leg pass through here.
//!
//! All port pairs are opened at start and shared out among relay threads; a pair and its peer live on one thread, so
//! that no packet takes a lock. From the top:
//!
//! - [`Media`]: the threads, and the way commands reach them; events come back on a channel.
//! - [`worker`]: one thread, its epoll and its tick.
//! - [`relay`]: the table of what happens to a packet. Pure.
//! - [`latch`]: whom a port listens to. Pure.
//! - [`stream`]: one continuous stream from many sources. Pure.
//! - [`tones`]: our own sounds. [`ports`]: sockets. [`guard`]: where we never send.

pub mod guard;
pub mod latch;
pub mod ports;
pub mod relay;
pub mod stream;
pub mod tones;
pub mod worker;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use tokio::sync::mpsc::UnboundedSender;

use crate::b2bua::io::{MediaCommand, MediaEvent, PortPair};
use ports::Socket;
use worker::Worker;

/// What the relay is told at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaSettings {
    /// The local address all ports are bound to.
    pub address: IpAddr,
    /// The first port of the range; pairs start at even ports.
    pub first_port: u16,
    /// The last port of the range.
    pub last_port: u16,
    /// Relay threads; pairs are shared out among them evenly.
    pub workers: usize,
    /// A closed pair is lent again when nothing has arrived on it for this long.
    pub quarantine: Duration,
    /// How long after a source was learned a nearer one may still replace it (see [`latch`]).
    pub learn_window: Duration,
    /// Differentiated services code point of what we send, 0 to 63; `None` leaves it to the kernel.
    pub dscp: Option<u8>,
}

impl Default for MediaSettings {
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            first_port: 10_000,
            last_port: 19_999,
            workers: thread::available_parallelism().map_or(1, usize::from),
            quarantine: Duration::from_secs(2),
            learn_window: Duration::from_secs(2),
            dscp: Some(46), // expedited forwarding (RFC 3246)
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
        "every media port from {first} to {last} is in use: stop the program that holds them or choose another range"
    )]
    AllInUse {
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
    #[error("cannot bind media port {address}:{port}: {source}; the address must be one of this machine's")]
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
    /// A thread, epoll or eventfd could not be made.
    #[error("the media threads could not be started: {0}")]
    System(#[from] io::Error),
}

/// The running relay. Dropping it stops and joins its threads.
pub struct Media {
    pairs: Vec<PortPair>,
    lanes: Vec<Lane>,
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
        tones::prepare();

        let workers = settings.workers.clamp(1, open.len().min(usize::from(u16::MAX)));
        let mut shares: Vec<(Vec<PortPair>, Vec<Socket>)> = (0..workers).map(|_| Default::default()).collect();
        for (number, (port, sockets)) in open.into_iter().enumerate() {
            let worker = number % workers;
            shares[worker].0.push(PortPair { worker: worker as u16, port });
            shares[worker].1.extend(sockets);
        }
        let mut media = Self { pairs: Vec::new(), lanes: Vec::new() };
        for (pairs, sockets) in shares {
            media.lanes.push(Lane::start(&settings, &pairs, sockets, events.clone(), media.lanes.len())?);
            media.pairs.extend(pairs);
        }
        media.pairs.sort_by_key(|pair| pair.port);
        Ok(media)
    }

    /// Every pair that can be lent, by port.
    pub fn pairs(&self) -> Vec<PortPair> {
        self.pairs.clone()
    }

    /// Hands the command to the thread of its pair; never blocks. Commands to one pair take effect in order.
    pub fn command(&self, command: MediaCommand) {
        let worker = match &command {
            MediaCommand::Expect { pair, .. }
            | MediaCommand::Bridge(pair, _)
            | MediaCommand::Play { pair, .. }
            | MediaCommand::Watch { pair, .. }
            | MediaCommand::Close(pair) => pair.worker,
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
    }
}

impl Lane {
    fn start(
        settings: &MediaSettings,
        pairs: &[PortPair],
        sockets: Vec<Socket>,
        events: UnboundedSender<MediaEvent>,
        number: usize,
    ) -> Result<Self, MediaError> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (commands, inbox): (_, Receiver<MediaCommand>) = channel();
        let worker = Worker::new(settings, pairs, sockets, (wake.clone(), inbox), events)?;
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
