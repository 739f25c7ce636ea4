//! G.711 of one law made G.711 of the other, octet by octet (ITU-T G.711). Pure. Nothing else is transcoded.

use rtp_rs::RtpReader;

use super::stream::PAYLOAD_TYPE;
use super::tones::{a_law, from_a_law, from_mu_law, mu_law, payload_type};
use crate::b2bua::io::Law;

/// What each octet of one law is in the other.
#[derive(Debug)]
pub struct Laws {
    mu_of_a: [u8; 256],
    a_of_mu: [u8; 256],
}

impl Default for Laws {
    fn default() -> Self {
        let table = |turned: fn(u8) -> u8| std::array::from_fn(|octet| turned(octet as u8));
        Self { mu_of_a: table(|octet| mu_law(from_a_law(octet))), a_of_mu: table(|octet| a_law(from_mu_law(octet))) }
    }
}

impl Laws {
    /// Makes a packet of the other law one of this law, in place. Any other packet stays as it is. It has two octets at
    /// least.
    pub fn turn(&self, packet: &mut [u8], law: Law) {
        let (other, octets) = match law {
            Law::Mu => (Law::A, &self.mu_of_a),
            Law::A => (Law::Mu, &self.a_of_mu),
        };
        if packet[1] & PAYLOAD_TYPE != payload_type(other) {
            return;
        }
        let Ok(reader) = RtpReader::new(packet) else { return };
        let start = reader.payload_offset();
        let end = start + reader.payload().len();
        packet[1] = packet[1] & !PAYLOAD_TYPE | payload_type(law);
        packet[start..end].iter_mut().for_each(|octet| *octet = octets[usize::from(*octet)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_keeps_everything_but_its_law() {
        // Marker, one contributing source, an extension of one word, two octets of padding.
        let head = [0xb1, 0x80, 0, 9, 0, 0, 0, 160, 0, 0, 0, 7, 1, 2, 3, 4, 0, 0, 0, 1, 5, 6, 7, 8];
        let packet = [&head[..], &[0xff, 0xce, 0x4e], &[0, 2]].concat();
        let mut turned = packet.clone();
        Laws::default().turn(&mut turned, Law::A);
        let mut wanted = [&head[..], &[0xd5, 0xfb, 0x7b], &[0, 2]].concat();
        wanted[1] = 0x88;
        assert_eq!(turned, wanted, "silence, and 988 up and down, between 960 and 992 in A-law");
        for same in [[&[0x80, 8], &packet[2..]].concat(), [&[0x80, 101], &packet[2..]].concat(), vec![0x80, 0]] {
            let mut left = same.clone();
            Laws::default().turn(&mut left, Law::A);
            assert_eq!(left, same);
        }
    }

    #[test]
    fn what_is_turned_and_turned_back_is_the_same_sound() {
        let laws = Laws::default();
        for octet in 0..=u8::MAX {
            let there_and_back = laws.mu_of_a[usize::from(laws.a_of_mu[usize::from(octet)])];
            let (one, other) = (i32::from(from_mu_law(octet)), i32::from(from_mu_law(there_and_back)));
            // Within one step of the coarser law there: a sixteenth of the magnitude, and at least eight.
            assert!((one - other).abs() <= 8 + one.abs() / 16, "{octet:#04x}: {one} came back as {other}");
        }
    }
}
