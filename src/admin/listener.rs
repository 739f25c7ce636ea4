//! A listener with a bounded number of connections, each with a deadline: what keeps slow clients from piling up.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Accepts a connection once there is a place for it.
pub(super) struct Guarded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    limits: Limits,
}

/// What a connection may take.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Until its first answer begins: a slow request has its time, and no more for every octet.
    pub(super) request: Duration,
    /// From then on.
    pub(super) life: Duration,
}

impl Guarded {
    pub(super) fn new(listener: TcpListener, places: usize, limits: Limits) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(places)), limits }
    }
}

impl axum::serve::Listener for Guarded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (stream, peer) = axum::serve::Listener::accept(&mut self.listener).await;
        let Limits { request, life } = self.limits;
        (Connection { stream, deadline: Box::pin(sleep(request)), life: Some(life), _place: place }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A stream that fails at its deadline and then frees its place.
pub(super) struct Connection {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    /// How much longer it lives once its first answer begins.
    life: Option<Duration>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Polled by every read and write, so that the deadline wakes whichever is waiting.
    fn alive(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.alive(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(life) = self.life.take() {
            let later = self.deadline.deadline() + life;
            self.deadline.as_mut().reset(later);
        }
        self.alive(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
