//! SIP over UDP: one socket, read in batches, written without waiting.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};

use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// Octets the kernel may hold for us while another input is handled.
const BUFFER: usize = 4 << 20;

/// The longest datagram.
pub const LONGEST: usize = 65_535;

/// A bound socket.
#[derive(Debug)]
pub struct Udp {
    reader: UdpSocket,
    /// The same socket: a send must not depend on what the runtime thinks of its readiness.
    writer: StdSocket,
    address: SocketAddr,
}

impl Udp {
    /// Binds the address. Must be called inside the runtime.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        // The kernel gives what it permits; less is no reason not to start.
        let _ = socket.set_recv_buffer_size(BUFFER);
        let _ = socket.set_send_buffer_size(BUFFER);
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let writer: StdSocket = socket.into();
        let address = writer.local_addr()?;
        Ok(Self { reader: UdpSocket::from_std(writer.try_clone()?)?, writer, address })
    }

    /// The local address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for datagrams and appends up to `most` of them, read through `buffer`. Errors of single datagrams (ICMP) are no news.
    pub async fn receive(&self, buffer: &mut [u8], into: &mut Vec<(SocketAddr, Bytes)>, most: usize) {
        if self.reader.readable().await.is_err() {
            return;
        }
        for _ in 0..most {
            match self.reader.try_recv_from(buffer) {
                Ok((length, peer)) => into.push((peer, Bytes::copy_from_slice(&buffer[..length]))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {}
            }
        }
    }

    /// Sends; what the kernel will not take now is lost, as on any network, and repeated by its transaction.
    pub fn send(&self, bytes: &[u8], to: SocketAddr) {
        if let Err(error) = self.writer.send_to(bytes, to) {
            tracing::debug!(%to, %error, "datagram not sent");
        }
    }
}
