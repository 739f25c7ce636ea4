//! Port pairs and their sockets: opening them, and the few operations a worker needs.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, connect_unspec, getpeername, recv,
    recvfrom, send, sendto, socket_with, sockopt,
};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::{MediaError, MediaSettings};
use crate::b2bua::io::Family;

/// Descriptors the rest of the process needs beside ours: SIP, HTTP, logs, the epoll of each worker.
const OTHER_DESCRIPTORS: u64 = 128;
/// Octets of a socket's receive queue: speech of six seconds with all that the kernel adds to each packet. What is too old
/// to be heard is not worth keeping, and a flood of all ports takes no more memory than that.
const RECEIVE_BUFFER: usize = 128 * 1024;
/// A socket's receive queue holds a few hundred packets; a flood must not keep whoever empties it busy for ever.
pub const DRAIN_LIMIT: usize = 4096;

/// The open pairs of one family by their RTP port.
pub type OpenPairs = (Family, Vec<(u16, [Socket; 2])>);

/// Opens every free pair of the range on every address: RTP on the even port, RTCP on the odd one above it, both or
/// neither. Pairs in use by others are left out.
pub fn open_all(settings: &MediaSettings) -> Result<Vec<OpenPairs>, MediaError> {
    let (first, last) = (settings.first_port, settings.last_port);
    let ports: Vec<u16> = (first..last).filter(|port| port.is_multiple_of(2)).collect();
    if first == 0 || ports.is_empty() {
        return Err(MediaError::Range { first, last });
    }
    let needed = 2 * (ports.len() * settings.addresses.len()) as u64 + OTHER_DESCRIPTORS;
    let allowed = raise_descriptor_limit(needed);
    if allowed < needed {
        return Err(MediaError::Descriptors { needed, allowed });
    }
    settings.addresses.iter().map(|address| open_on(*address, settings, &ports)).collect()
}

fn open_on(address: IpAddr, settings: &MediaSettings, ports: &[u16]) -> Result<OpenPairs, MediaError> {
    let open = |port| Socket::open(SocketAddr::new(address, port), settings.dscp);
    let (mut pairs, mut in_use) = (Vec::with_capacity(ports.len()), 0);
    for &port in ports {
        match open(port).and_then(|rtp| Ok([rtp, open(port + 1)?])) {
            Ok(pair) => pairs.push((port, pair)),
            Err(Errno::ADDRINUSE) => in_use += 1,
            Err(error) => return Err(MediaError::Bind { address, port, source: error.into() }),
        }
    }
    if in_use > 0 {
        tracing::info!(%address, pairs = in_use, "media port pairs are in use by others, left out");
    }
    match pairs.is_empty() {
        true => Err(MediaError::AllInUse { address, first: settings.first_port, last: settings.last_port }),
        false => Ok((Family::of(address), pairs)),
    }
}

/// Raises the soft limit of open files to `needed` where the hard limit allows; returns the limit now in force.
fn raise_descriptor_limit(needed: u64) -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let now = limit.current.unwrap_or(u64::MAX);
    if now >= needed {
        return now;
    }
    let raised = limit.maximum.map_or(needed, |maximum| needed.min(maximum));
    limit.current = Some(raised);
    setrlimit(Resource::Nofile, limit).map_or(now, |()| raised)
}

/// True when the address is one of this machine's, found out by binding to it.
pub fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

/// One non-blocking UDP socket.
pub struct Socket {
    fd: OwnedFd,
    reach: Reach,
}

/// Whom a socket hears and speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Everybody.
    Open,
    /// The peer, but something may be queued that came before the kernel began to filter.
    Connected,
    /// The peer alone.
    Sifted,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    fn open(here: SocketAddr, dscp: Option<u8>) -> rustix::io::Result<Self> {
        let family = if here.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = socket_with(family, SocketType::DGRAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
        if here.is_ipv6() {
            sockopt::set_ipv6_v6only(&fd, true)?;
        }
        if let Some(dscp) = dscp {
            mark(&fd, here.ip(), dscp)?;
        }
        sockopt::set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER)?;
        bind(&fd, &here)?;
        Ok(Self { fd, reach: Reach::Open })
    }

    /// One datagram: its length and its source, where that is not the peer for certain. `None` when there was none, or an
    /// ICMP error in its place (reading the error is what clears it, so a level-triggered epoll does not spin).
    pub fn receive(&mut self, buffer: &mut [u8]) -> Option<(usize, Option<SocketAddr>)> {
        if self.reach == Reach::Sifted {
            return recv(&self.fd, buffer, RecvFlags::empty()).ok().map(|(length, _)| (length, None));
        }
        match recvfrom(&self.fd, buffer, RecvFlags::empty()) {
            Ok((length, _, Some(source))) => Some((length, Some(plain(SocketAddr::try_from(source).ok()?)))),
            Ok((_, _, None)) => None,
            Err(Errno::AGAIN) => {
                if self.reach == Reach::Connected {
                    self.reach = Reach::Sifted;
                }
                None
            }
            Err(error) => {
                tracing::trace!(%error, "nothing received");
                None
            }
        }
    }

    /// Sends one datagram to the peer, or to `target` where there is none; false when the kernel did not take it. A refusal that belongs to an earlier packet (ICMP
    /// port unreachable) costs one more try, never two.
    pub fn send(&self, packet: &[u8], target: SocketAddr) -> bool {
        debug_assert!(self.peer().is_none_or(|peer| peer == target), "a connected socket has one target");
        let once = || match self.reach {
            Reach::Open => sendto(&self.fd, packet, SendFlags::empty(), &target),
            Reach::Connected | Reach::Sifted => send(&self.fd, packet, SendFlags::empty()),
        };
        match once() {
            Err(Errno::CONNREFUSED) => once().is_ok(),
            Err(error) => {
                tracing::trace!(%error, %target, "not sent");
                false
            }
            Ok(_) => true,
        }
    }

    /// Whom it is connected to.
    fn peer(&self) -> Option<SocketAddr> {
        let peer = getpeername(&self.fd).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok());
        peer.filter(|_| self.reach != Reach::Open).map(plain)
    }

    /// Lets the kernel filter and route for us: strangers get an ICMP refusal and we do not even count them. Packets
    /// queued before are still to be checked, until [`Self::is_sifted`]. Stays unconnected when the kernel has no way
    /// there.
    pub fn connect(&mut self, peer: SocketAddr) {
        self.reach = if connect(&self.fd, &peer).is_ok() { Reach::Connected } else { Reach::Open };
    }

    /// Whether nothing is queued any more that came before the socket was connected, if it is.
    pub fn is_sifted(&self) -> bool {
        self.reach != Reach::Connected
    }

    /// Hears everybody again.
    pub fn disconnect(&mut self) {
        if std::mem::replace(&mut self.reach, Reach::Open) != Reach::Open
            && let Err(error) = connect_unspec(&self.fd)
        {
            tracing::error!(%error, "a media socket could not be disconnected");
        }
    }

    /// Discards whatever is queued.
    pub fn drain(&self) {
        for _ in 0..DRAIN_LIMIT {
            match recvfrom(&self.fd, &mut [0; 1], RecvFlags::TRUNC) {
                Ok(_) | Err(Errno::CONNREFUSED | Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

fn mark(fd: &OwnedFd, address: IpAddr, dscp: u8) -> rustix::io::Result<()> {
    let octet = dscp << 2;
    if address.is_ipv4() { sockopt::set_ip_tos(fd, octet) } else { sockopt::set_ipv6_tclass(fd, u32::from(octet)) }
}

/// Without flow label and scope, so that addresses compare by host and port alone.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

impl From<Errno> for MediaError {
    fn from(error: Errno) -> Self {
        Self::System(io::Error::from(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(first_port: u16) -> (Socket, SocketAddr) {
        let settings = MediaSettings { first_port, last_port: first_port + 1, ..MediaSettings::default() };
        let (_, mut pairs) = open_all(&settings).unwrap().remove(0);
        let (port, [rtp, _rtcp]) = pairs.remove(0);
        (rtp, SocketAddr::new(settings.addresses[0], port))
    }

    /// A party, and what it sent: loopback delivers before `send_to` returns.
    fn party(to: SocketAddr, packet: &[u8]) -> UdpSocket {
        let party = UdpSocket::bind("127.0.0.1:0").unwrap();
        party.send_to(packet, to).unwrap();
        party
    }

    #[test]
    fn m12_draining_discards_what_is_queued() {
        let (mut socket, address) = open(21_500);
        (0..100).for_each(|_| drop(party(address, b"stale")));
        socket.drain();
        assert_eq!(socket.receive(&mut [0; 16]), None);
        party(address, b"fresh");
        assert_eq!(socket.receive(&mut [0; 16]).map(|(length, _)| length), Some(5));
    }

    #[test]
    fn a_connected_socket_hears_one_and_a_disconnected_one_everybody() {
        let (mut socket, address) = open(21_510);
        let far = party(address, b"before");
        socket.drain();
        socket.connect(far.local_addr().unwrap());
        party(address, b"stranger");
        assert_eq!(socket.receive(&mut [0; 16]), None);
        far.send_to(b"far", address).unwrap();
        assert_eq!(socket.receive(&mut [0; 16]), Some((3, None)), "nobody else can have sent it");
        socket.disconnect();
        let other = party(address, b"stranger");
        assert_eq!(socket.receive(&mut [0; 16]), Some((8, other.local_addr().ok())));
    }

    #[test]
    fn m2_a_stranger_who_was_queued_before_the_kernel_filters_is_known_for_one() {
        let (mut socket, address) = open(21_540);
        let far = party(address, b"far");
        let stranger = party(address, b"stranger");
        assert_eq!(socket.receive(&mut [0; 16]), Some((3, far.local_addr().ok())));
        socket.connect(far.local_addr().unwrap());
        assert!(!socket.is_sifted());
        assert_eq!(socket.receive(&mut [0; 16]), Some((8, stranger.local_addr().ok())));
        assert_eq!(socket.receive(&mut [0; 16]), None);
        assert!(socket.is_sifted());
        far.send_to(b"again", address).unwrap();
        assert_eq!(socket.receive(&mut [0; 16]), Some((5, None)));
    }

    #[test]
    fn m13_a_refusal_is_read_once_and_costs_no_later_packet() {
        let (mut socket, address) = open(21_520);
        let far = party(address, b"hello");
        let gone = far.local_addr().unwrap();
        socket.drain();
        socket.connect(gone);
        drop(far);
        assert!(socket.send(b"one", gone));
        assert!(socket.send(b"two", gone), "the refusal of the first is not the second's");
        assert_eq!(socket.receive(&mut [0; 16]), None);
        let back = UdpSocket::bind(gone).unwrap();
        assert!(socket.send(b"three", gone));
        assert_eq!(back.recv(&mut [0; 16]).unwrap(), 5);
    }
}
