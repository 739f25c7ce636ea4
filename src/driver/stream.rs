//! SIP over streams: the connections, theirs and ours.
//!
//! Every connection is a task of its own with a bounded queue. The loop never waits for one: what a slow peer does not
//! take ends its connection, and nothing else.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{timeout, timeout_at};

use super::framer::{Frame, Framer};
use super::keepalive::{Beat, Keepalive, PING, PONG};
use super::tcp;
use super::tls::Tls;
use crate::b2bua::io::{Datagram, Input, Transport};
use crate::clock;

/// What connections may cost us.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Octets of a message before its body.
    pub head: usize,
    /// Octets of a message.
    pub message: usize,
    /// Connections that others made to us.
    pub connections: usize,
    /// Of these, from one address.
    pub per_source: usize,
    /// Messages that wait to be taken by a peer.
    pub queue: usize,
    /// To connect, the TLS handshake included.
    pub connect: Duration,
    /// From the first octet of a message to its last, and for a peer to take one of ours.
    pub message_time: Duration,
    /// Without a message or a keep-alive.
    pub idle: Duration,
    /// Between keep-alives of ours; zero: none.
    pub keepalive: Duration,
    /// For the pong of a peer that pongs (RFC 5626 section 4.4.1).
    pub pong: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: 32_768,
            message: 65_535,
            connections: 4_096,
            per_source: 256,
            queue: 512,
            connect: Duration::from_secs(4),
            message_time: Duration::from_secs(10),
            idle: Duration::from_secs(600),
            keepalive: Duration::from_secs(30),
            pong: Duration::from_secs(10),
        }
    }
}

/// Which connection: the transport and the far address.
type Place = (Transport, SocketAddr);

/// What reaches the loop from a listener or a connection.
#[derive(Debug)]
pub enum Arrival {
    /// Somebody connected.
    Accepted(Transport, SocketAddr, TcpStream),
    /// A message.
    Message(Transport, SocketAddr, Bytes),
    /// A message whose end cannot be found; once it is answered the connection is to be closed.
    Endless(Transport, SocketAddr, u64, Bytes),
    /// This connection is over.
    Closed(Transport, SocketAddr, u64),
}

#[derive(Debug)]
struct Connection {
    id: u64,
    queue: mpsc::Sender<Bytes>,
    /// Whether the far side made it.
    theirs: bool,
    /// Our address of one that the far side made.
    here: Option<SocketAddr>,
    /// To be closed when what is queued has left.
    last: bool,
}

/// All connections of the program.
#[derive(Debug)]
pub struct Streams {
    limits: Limits,
    connections: HashMap<Place, Connection>,
    theirs: HashMap<IpAddr, usize>,
    next: u64,
    accepts: (mpsc::Sender<Arrival>, mpsc::Receiver<Arrival>),
    arrivals: (mpsc::Sender<Arrival>, mpsc::Receiver<Arrival>),
    failures: Vec<Place>,
    tls: Option<Tls>,
    listeners: Vec<(Transport, SocketAddr)>,
}

impl Streams {
    /// Without a listener.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            connections: HashMap::new(),
            theirs: HashMap::new(),
            next: 0,
            // Two channels: a flood of connections must not stand before the messages of those that are there.
            accepts: mpsc::channel(16),
            arrivals: mpsc::channel(256),
            failures: Vec::new(),
            tls: None,
            listeners: Vec::new(),
        }
    }

    /// With TLS, both sides of it.
    #[must_use]
    pub fn with_tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// This address stands for this SIP domain: over TLS it must show a certificate for the domain.
    pub fn name(&self, address: IpAddr, domain: String) {
        if let Some(tls) = &self.tls {
            tls.name(address, &domain);
        }
    }

    /// Takes connections on this listener from now on.
    pub fn listen(&mut self, transport: Transport, listener: TcpListener) -> io::Result<()> {
        self.listeners.push((transport, listener.local_addr()?));
        tokio::spawn(accept(transport, listener, self.accepts.0.clone()));
        Ok(())
    }

    /// Our own address towards this peer: that of the connection it made, else that of our listener there.
    pub fn address(&self, transport: Transport, peer: SocketAddr) -> Option<SocketAddr> {
        let connected = self.connections.get(&(transport, peer)).and_then(|connection| connection.here);
        let heard = |(of, here): &&(Transport, SocketAddr)| *of == transport && here.is_ipv4() == peer.is_ipv4();
        connected.or_else(|| self.listeners.iter().find(heard).map(|(_, here)| *here))
    }

    /// Connections there are.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Waits for the next thing that happens on any stream.
    pub async fn next(&mut self) -> Arrival {
        if let Some((transport, peer)) = self.failures.pop() {
            // Found while sending; the core hears of it as of any other.
            return Arrival::Closed(transport, peer, 0);
        }
        let arrived = tokio::select! {
            arrival = self.arrivals.1.recv() => arrival,
            arrival = self.accepts.1.recv() => arrival,
        };
        match arrived {
            Some(arrival) => arrival,
            None => std::future::pending().await, // We hold a sender of each.
        }
    }

    /// Keeps the books, and says what the core must hear.
    pub fn take(&mut self, arrival: Arrival) -> Option<Input> {
        match arrival {
            Arrival::Accepted(transport, peer, stream) => {
                self.accepted(transport, peer, stream);
                None
            }
            Arrival::Message(transport, peer, bytes) => {
                Some(Input::Received(Datagram { transport, peer, otherwise: None, bytes }))
            }
            Arrival::Endless(transport, peer, id, bytes) => {
                let found = self.connections.get_mut(&(transport, peer)).filter(|connection| connection.id == id);
                found?.last = true;
                Some(Input::Received(Datagram { transport, peer, otherwise: None, bytes }))
            }
            Arrival::Closed(transport, peer, id) => {
                let ours = self.connections.get(&(transport, peer)).is_some_and(|connection| connection.id == id);
                if ours {
                    self.remove((transport, peer));
                }
                (ours || id == 0).then_some(Input::TransportFailed { transport, peer })
            }
        }
    }

    /// Sends over the connection that is there, or makes one. What cannot be sent comes back as a failure.
    pub fn send(&mut self, datagram: Datagram) {
        let Datagram { transport, peer, otherwise, bytes } = datagram;
        let to = otherwise.unwrap_or(peer);
        let known = [peer, to].into_iter().find(|peer| self.connections.contains_key(&(transport, *peer)));
        let place = (transport, known.unwrap_or(to));
        if known.is_none() {
            self.dial(place);
        }
        let Some(connection) = self.connections.get(&place) else { return self.failures.push(place) };
        if connection.queue.try_send(bytes).is_err() {
            tracing::debug!(transport = transport.as_str(), peer = %place.1, "does not take what it is sent: closed");
            self.remove(place);
            self.failures.push(place);
        }
    }

    /// There is no way to this peer: the core hears of it.
    pub fn fail(&mut self, transport: Transport, peer: SocketAddr) {
        self.failures.push((transport, peer));
    }

    /// Lets go of connections whose last message is queued.
    pub fn forget_broken(&mut self) {
        let done: Vec<Place> = self.connections.iter().filter(|(_, c)| c.last).map(|(place, _)| *place).collect();
        done.into_iter().for_each(|place| self.remove(place));
    }

    fn accepted(&mut self, transport: Transport, peer: SocketAddr, stream: TcpStream) {
        let from_there = self.theirs.get(&peer.ip()).copied().unwrap_or(0);
        let all: usize = self.theirs.values().sum();
        if from_there >= self.limits.per_source || all >= self.limits.connections {
            tracing::debug!(%peer, from_there, all, "too many connections: refused");
            return;
        }
        *self.theirs.entry(peer.ip()).or_default() += 1;
        let link = self.insert((transport, peer), true);
        if let Some(connection) = self.connections.get_mut(&(transport, peer)) {
            connection.here = stream.local_addr().ok();
        }
        let (tls, limit) = (self.tls.clone().filter(|_| transport == Transport::Tls), self.limits.connect);
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            match tls {
                None => link.run(stream).await,
                Some(tls) => link.run_after(within(limit, tls.accept(stream)).await).await,
            }
        });
    }

    fn dial(&mut self, place: Place) {
        let (transport, to) = place;
        let link = self.insert(place, false);
        let (tls, limit) = (self.tls.clone(), self.limits.connect);
        tokio::spawn(async move {
            match (transport, tls) {
                (Transport::Tls, Some(tls)) => {
                    let connected = async { tls.connect(tcp::connect(to).await?, to.ip()).await };
                    link.run_after(within(limit, connected).await).await;
                }
                (Transport::Tls, None) => link.run_after::<TcpStream>(Err(io::Error::other("TLS is off"))).await,
                (Transport::Tcp | Transport::Udp, _) => link.run_after(within(limit, tcp::connect(to)).await).await,
            }
        });
    }

    fn insert(&mut self, place: Place, theirs: bool) -> Link {
        self.remove(place);
        self.next += 1;
        let (sender, queue) = mpsc::channel(self.limits.queue);
        let pulse = sender.downgrade();
        self.connections.insert(place, Connection { id: self.next, queue: sender, theirs, here: None, last: false });
        let arrivals = self.arrivals.0.clone();
        // Who connected to us is told nothing before there is a message for him.
        Link { place, id: self.next, queue, pulse, spoken: AtomicBool::new(!theirs), arrivals, limits: self.limits }
    }

    fn remove(&mut self, place: Place) {
        let Some(connection) = self.connections.remove(&place) else { return };
        if !connection.theirs {
            return;
        }
        if let Some(count) = self.theirs.get_mut(&place.1.ip()) {
            *count -= 1;
            if *count == 0 {
                self.theirs.remove(&place.1.ip());
            }
        }
    }
}

/// How long a listener rests when the kernel has no descriptor for it.
const REST: Duration = Duration::from_millis(100);

async fn accept(transport: Transport, listener: TcpListener, accepts: mpsc::Sender<Arrival>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if accepts.send(Arrival::Accepted(transport, peer, stream)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a connection could not be taken");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// A connection's end of its channels.
#[derive(Debug)]
struct Link {
    place: Place,
    id: u64,
    queue: mpsc::Receiver<Bytes>,
    /// For pings and pongs.
    pulse: mpsc::WeakSender<Bytes>,
    /// Whether the connection is one that we keep alive: we made it, or a message of ours has gone over it.
    spoken: AtomicBool,
    arrivals: mpsc::Sender<Arrival>,
    limits: Limits,
}

async fn within<T>(limit: Duration, connecting: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, connecting).await.map_err(|_| io::ErrorKind::TimedOut)?
}

impl Link {
    /// The same once there is a connection.
    async fn run_after<S: AsyncRead + AsyncWrite>(self, connected: io::Result<S>) {
        match connected {
            Ok(stream) => self.run(stream).await,
            Err(error) => {
                let (transport, peer) = self.place;
                tracing::info!(transport = transport.as_str(), %peer, %error, "no connection");
                self.over().await;
            }
        }
    }

    /// Reads and writes until either ends.
    async fn run<S: AsyncRead + AsyncWrite>(mut self, stream: S) {
        let (reader, writer) = tokio::io::split(stream);
        let (transport, peer) = self.place;
        let limits = self.limits;
        let outcome = {
            let write = write(writer, &mut self.queue, &self.spoken, limits);
            tokio::pin!(write);
            let read = Reading {
                place: self.place,
                id: self.id,
                pulse: &self.pulse,
                spoken: &self.spoken,
                arrivals: &self.arrivals,
                limits,
            };
            tokio::select! {
                // The loop closes the queue once it has answered what could not be read to its end.
                outcome = read.run(reader) => match outcome {
                    Ok(()) => write.await,
                    failed => failed,
                },
                outcome = &mut write => outcome,
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(transport = transport.as_str(), %peer, %error, "connection closed");
        }
        self.over().await;
    }

    async fn over(self) {
        let (transport, peer) = self.place;
        let _ = self.arrivals.send(Arrival::Closed(transport, peer, self.id)).await;
    }
}

/// Writes what is queued; ends when the loop has let go of the connection.
async fn write<S: AsyncWrite>(
    mut writer: WriteHalf<S>,
    queue: &mut mpsc::Receiver<Bytes>,
    spoken: &AtomicBool,
    limits: Limits,
) -> io::Result<()> {
    while let Some(bytes) = queue.recv().await {
        spoken.fetch_or(!bytes.starts_with(PONG), Ordering::Relaxed);
        let sent = async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        timeout(limits.message_time, sent).await.map_err(|_| io::Error::other("the peer takes nothing"))??;
    }
    timeout(limits.message_time, writer.shutdown()).await.map_err(|_| io::Error::other("the peer takes nothing"))?
}

struct Reading<'a> {
    place: Place,
    id: u64,
    pulse: &'a mpsc::WeakSender<Bytes>,
    spoken: &'a AtomicBool,
    arrivals: &'a mpsc::Sender<Arrival>,
    limits: Limits,
}

impl Reading<'_> {
    /// Ends well when a message has no end that can be found, and in an error in every other case.
    async fn run<S: AsyncRead>(&self, mut reader: ReadHalf<S>) -> io::Result<()> {
        let mut framer = Framer::new(self.limits);
        let mut deadline = clock::now() + self.limits.idle;
        let mut keepalive = Keepalive::new(self.limits.keepalive, self.limits.pong, clock::now());
        let mut was_midway = false;
        loop {
            let until = keepalive.due().map_or(deadline, |due| due.min(deadline));
            let read = match timeout_at(until.into(), reader.read_buf(framer.buffer())).await {
                Ok(read) => read?,
                Err(_) if clock::now() >= deadline => return Err(io::Error::other("nothing came in time")),
                Err(_) => {
                    self.beat(&mut keepalive)?;
                    continue;
                }
            };
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut whole = false;
            while let Some(frame) = framer.next_frame() {
                whole = true;
                if self.pass_on(frame).await? {
                    return Ok(());
                }
            }
            let pong = keepalive.waits() && framer.take_pong();
            keepalive.heard(pong && !whole);
            let midway = framer.is_midway();
            // A message has its time from its first octet; more octets buy it no more.
            if midway && (whole || !was_midway) {
                deadline = clock::now() + self.limits.message_time;
            } else if !midway {
                deadline = clock::now() + self.limits.idle;
            }
            was_midway = midway;
        }
    }

    /// A keep-alive of ours, where one is due.
    fn beat(&self, keepalive: &mut Keepalive) -> io::Result<()> {
        match keepalive.beat(clock::now(), self.spoken.load(Ordering::Relaxed)) {
            Beat::Broken => return Err(io::Error::other("no pong")),
            Beat::Ping => self.send(PING),
            Beat::Rest => {}
        }
        Ok(())
    }

    /// Keep-alives may be left out: what fills the queue shows as well that we are there.
    fn send(&self, octets: &'static [u8]) {
        if let Some(queue) = self.pulse.upgrade() {
            let _ = queue.try_send(Bytes::from_static(octets));
        }
    }

    /// True after the last frame.
    async fn pass_on(&self, frame: Frame) -> io::Result<bool> {
        let (transport, peer) = self.place;
        let (arrival, last) = match frame {
            Frame::Message(bytes) => (Arrival::Message(transport, peer, bytes), false),
            Frame::Endless(bytes) => (Arrival::Endless(transport, peer, self.id, bytes), true),
            Frame::TooLong => return Err(io::Error::other("a message without an end")),
            Frame::Ping => {
                self.send(PONG);
                return Ok(false);
            }
        };
        self.arrivals.send(arrival).await.map_err(|_| io::Error::other("the loop has ended"))?;
        Ok(last)
    }
}
