//! A party's door: the RTP that arrives at its place, whatever its stack makes of it.

use std::io::{ErrorKind, Read as _};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use switchback::demo::voice;

use crate::world::Place;

/// EtherType of IPv4, as the kernel wants it: in network order.
const IPV4: i32 = 0x0800_u16.to_be() as i32;
/// Between two looks whether somebody still listens.
const LOOK_UP: Duration = Duration::from_millis(100);

/// Who listens at a door. Done when dropped.
pub struct Door(Arc<Mutex<Vec<u8>>>);

impl Door {
    /// Begins to listen: a packet socket in the party's namespace.
    pub fn open(place: &Place) -> Self {
        let socket = place.within(|| Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(IPV4)))).unwrap();
        socket.set_read_timeout(Some(LOOK_UP)).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (weak, ip) = (Arc::downgrade(&heard), place.ip);
        std::thread::spawn(move || listen(socket, ip, &weak));
        Self(heard)
    }

    /// What arrives from now on for this long, as 16-bit samples at 8 kHz.
    pub async fn hears(&self, time: Duration) -> Vec<i16> {
        let heard = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = heard().len();
        tokio::time::sleep(time).await;
        let arrived = heard()[before..].to_vec();
        voice::decode(&arrived)
    }
}

fn listen(mut socket: Socket, ip: Ipv4Addr, heard: &Weak<Mutex<Vec<u8>>>) {
    let mut packet = [0; 2048];
    while let Some(heard) = heard.upgrade() {
        match socket.read(&mut packet) {
            Ok(length) => {
                let speech = speech(&packet[..length], ip).unwrap_or_default();
                heard.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(speech);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

/// The PCMU of an RTP packet in a UDP datagram to this address (RFC 791, 768 and 3550 section 5.1).
fn speech(packet: &[u8], to: Ipv4Addr) -> Option<&[u8]> {
    const UDP: u8 = 17;
    let (head, is_udp) = (usize::from(packet.first()? & 0xf) * 4, *packet.get(9)? == UDP);
    let rtp = packet.get(head + 8..).filter(|_| is_udp && packet[16..20] == to.octets())?;
    let (first, second) = (*rtp.first()?, rtp.get(1)? & 0x7f);
    let is_pcmu = first >> 6 == 2 && second == 0;
    rtp.get(12 + usize::from(first & 0xf) * 4..).filter(|_| is_pcmu)
}
