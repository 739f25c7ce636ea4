//! A capture file of the datagrams that the parties saw, as Wireshark reads it: raw IP with UDP.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, PcapError};

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;

/// A capture file being written.
pub struct Capture<W: Write> {
    writer: PcapWriter<W>,
}

impl<W: Write> Capture<W> {
    /// Writes the file's header.
    pub fn new(out: W) -> Result<Self, PcapError> {
        // LINKTYPE_RAW is 101. `DataLink::RAW` of pcap-file 2 is written as 101 as well.
        let header = PcapHeader { datalink: DataLink::RAW, ..PcapHeader::default() };
        Ok(Self { writer: PcapWriter::with_header(out, header)? })
    }

    /// Appends a datagram; `at` counts from the Unix epoch. A pair of addresses of two families, or a payload that no
    /// UDP datagram can hold, is left out.
    pub fn write(&mut self, at: Duration, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<(), PcapError> {
        let Some(frame) = frame(from, to, payload) else { return Ok(()) };
        self.writer.write_packet(&PcapPacket::new(at, frame.len() as u32, &frame)).map(drop)
    }

    /// The file.
    pub fn into_inner(self) -> W {
        self.writer.into_writer()
    }
}

/// An IP packet around the payload, checksums included.
fn frame(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(UDP_HEADER + payload.len()).ok().filter(|length| *length <= u16::MAX - 40)?;
    let mut udp = Vec::with_capacity(length.into());
    udp.extend(from.port().to_be_bytes());
    udp.extend(to.port().to_be_bytes());
    udp.extend(length.to_be_bytes());
    udp.extend([0; 2]);
    udp.extend(payload);
    let (mut ip, addresses) = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            (v4_header(length, &addresses), addresses)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let addresses = [from.octets(), to.octets()].concat();
            (v6_header(length, &addresses), addresses)
        }
        _ => return None,
    };
    // The pseudo-header of RFC 768 and RFC 8200 section 8.1, in the order that sums alike.
    let sum = checksum(&[&addresses, &[0, UDP], &length.to_be_bytes(), &udp]);
    // Zero means "no checksum"; its other form is sent instead.
    udp[6..8].copy_from_slice(&if sum == 0 { u16::MAX } else { sum }.to_be_bytes());
    ip.extend(udp);
    Some(ip)
}

fn v4_header(length: u16, addresses: &[u8]) -> Vec<u8> {
    let [high, low] = (length + 20).to_be_bytes();
    let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, UDP, 0, 0];
    header.extend(addresses);
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn v6_header(length: u16, addresses: &[u8]) -> Vec<u8> {
    let [high, low] = length.to_be_bytes();
    let mut header = vec![0x60, 0, 0, 0, high, low, UDP, 64];
    header.extend(addresses);
    header
}

/// The Internet checksum of RFC 1071; every part but the last has an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_v4_frame_is_exact() {
        let frame = frame(address("127.0.0.1:5060"), address("127.0.0.2:5070"), b"abc").unwrap();
        assert_eq!(frame.len(), 20 + 8 + 3);
        assert_eq!(frame[20..28], [0x13, 0xc4, 0x13, 0xce, 0, 11, frame[26], frame[27]]);
        assert_eq!(checksum(&[&frame[..20]]), 0, "the header sums up");
        assert_eq!(checksum(&[&frame[12..20], &[0, UDP, 0, 11], &frame[20..]]), 0, "the datagram sums up");
    }

    #[test]
    fn a_v6_frame_sums_up() {
        let frame = frame(address("[::1]:5060"), address("[::2]:5070"), b"abcd").unwrap();
        assert_eq!(checksum(&[&frame[8..40], &[0, UDP, 0, 12], &frame[40..]]), 0);
    }

    #[test]
    fn families_do_not_mix() {
        assert!(frame(address("[::1]:1"), address("127.0.0.1:2"), b"").is_none());
    }
}
