//! SIP over UDP: a socket of each IP family, read in batches, written without waiting.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::task::Poll;

use bytes::Bytes;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::net::UdpSocket;

/// Octets the kernel may hold for us while another input is handled.
const BUFFER: usize = 4 << 20;

/// The longest datagram.
pub const LONGEST: usize = 65_535;

/// The bound sockets, one of each IP family at most.
#[derive(Debug, Default)]
pub struct Udp {
    sockets: Vec<Socket>,
}

#[derive(Debug)]
struct Socket {
    reader: UdpSocket,
    /// The same socket: a send must not depend on what the runtime thinks of its readiness.
    writer: StdSocket,
    address: SocketAddr,
}

impl Udp {
    /// Binds the address. Must be called inside the runtime.
    pub fn bind(&mut self, address: SocketAddr) -> io::Result<()> {
        let socket = RawSocket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        // The kernel gives what it permits; less is no reason not to start.
        let _ = socket.set_recv_buffer_size(BUFFER);
        let _ = socket.set_send_buffer_size(BUFFER);
        if address.is_ipv6() {
            // Each family has a socket of its own, and its own address in Via and Contact.
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let writer: StdSocket = socket.into();
        let address = writer.local_addr()?;
        self.sockets.push(Socket { reader: UdpSocket::from_std(writer.try_clone()?)?, writer, address });
        Ok(())
    }

    /// The local addresses.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|socket| socket.address).collect()
    }

    /// The local address of the socket that reaches this peer.
    pub fn address(&self, peer: SocketAddr) -> Option<SocketAddr> {
        self.towards(peer).map(|socket| socket.address)
    }

    /// Waits for datagrams and appends up to `most` of each socket, read through `buffer`. Errors of single datagrams
    /// (ICMP) are no news.
    pub async fn receive(&self, buffer: &mut [u8], into: &mut Vec<(SocketAddr, Bytes)>, most: usize) {
        self.readable().await;
        for socket in &self.sockets {
            socket.receive(buffer, into, most);
        }
    }

    async fn readable(&self) {
        poll_fn(|cx| {
            // Every one is asked, so that every one wakes us.
            let ready = self.sockets.iter().filter(|socket| socket.reader.poll_recv_ready(cx).is_ready()).count();
            if ready == 0 { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Sends; what the kernel will not take now is lost, as on any network, and repeated by its transaction. False when
    /// there is no socket of the peer's family.
    pub fn send(&self, bytes: &[u8], to: SocketAddr) -> bool {
        let Some(socket) = self.towards(to) else { return false };
        if let Err(error) = socket.writer.send_to(bytes, to) {
            tracing::debug!(%to, %error, "datagram not sent");
        }
        true
    }

    fn towards(&self, peer: SocketAddr) -> Option<&Socket> {
        self.sockets.iter().find(|socket| socket.address.is_ipv4() == peer.is_ipv4())
    }
}

impl Socket {
    fn receive(&self, buffer: &mut [u8], into: &mut Vec<(SocketAddr, Bytes)>, most: usize) {
        for _ in 0..most {
            match self.reader.try_recv_from(buffer) {
                Ok((length, peer)) => into.push((peer, Bytes::copy_from_slice(&buffer[..length]))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn h11_datagrams_of_both_families_each_through_a_socket_of_its_own() {
        let (mut udp, mut heard) = (Udp::default(), Vec::new());
        let [v4, v6] = ["127.0.0.1:0", "[::1]:0"].map(|here| here.parse::<SocketAddr>().unwrap());
        for here in [v4, v6] {
            let far = StdSocket::bind(here).unwrap();
            let peer = far.local_addr().unwrap();
            assert!(!udp.send(b"nobody", peer), "no socket of this family yet");
            udp.bind(here).unwrap();
            far.send_to(b"in", udp.address(peer).unwrap()).unwrap();
            udp.receive(&mut [0; 16], &mut heard, 4).await;
            assert_eq!(heard.pop(), Some((peer, Bytes::from_static(b"in"))));
            assert!(udp.send(b"out", peer));
            let mut octets = [0; 16];
            assert_eq!(far.recv_from(&mut octets).unwrap(), (3, udp.address(peer).unwrap()));
        }
    }
}
