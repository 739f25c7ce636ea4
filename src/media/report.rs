//! RTCP, read and written (RFC 3550 section 6). Pure.
//!
//! What goes to a far side is always written anew, under the one SSRC by which it knows us and the name that we have
//! in this lend. A report that is relayed keeps what is true of the stream on both sides: the moment it tells, and how
//! its sender hears. Everything else ends here: who the sender is (SDES), that its source has ended (BYE: the stream
//! goes on), application packets, and feedback and extended reports (RFC 4585, RFC 3611), which name SSRCs that mean
//! nothing on the other side and which no audio we carry needs.

use std::time::Duration;

use rtcp_types::prelude::*;
use rtcp_types::{
    Compound, Packet, ReceiverReport, ReportBlock, ReportBlockBuilder, RtcpWriteError, Sdes, SdesChunk, SdesItem,
    SenderReport,
};

/// Octets of the longest report we write.
pub const REPORT: usize = 128;

/// A moment as a sender report tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// NTP time: seconds since 1900, and a fraction of 32 bits.
    pub ntp: u64,
    /// The RTP timestamp of the same moment.
    pub timestamp: u32,
}

impl Moment {
    /// The time of day, since 1970, and its timestamp.
    pub fn at(unix: Duration, timestamp: u32) -> Self {
        const UNIX_IN_NTP: u64 = 2_208_988_800;
        let fraction = (u64::from(unix.subsec_nanos()) << 32) / 1_000_000_000;
        Self { ntp: ((unix.as_secs() + UNIX_IN_NTP) << 32) | fraction, timestamp }
    }

    /// The middle 32 of the 64 bits of the NTP time, by which a report names it.
    pub fn middle(self) -> u32 {
        (self.ntp >> 16) as u32
    }
}

/// How a stream is heard: a report block (RFC 3550 section 6.4.1) without its SSRC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Of 256 packets since the report before, how many were lost.
    pub fraction: u8,
    /// Packets lost since the beginning, 24 bits with a sign.
    pub lost: u32,
    /// The highest sequence number that came, with its wraps in the upper half.
    pub highest: u32,
    /// In samples.
    pub jitter: u32,
    /// The sender report last received: [`Moment::middle`], or 0.
    pub last_report: u32,
    /// Since it came, in 65,536ths of a second.
    pub delay: u32,
}

impl Block {
    /// All bits of `lost`.
    pub const LARGEST_LOSS: u32 = 0xff_ffff;

    fn read(block: &ReportBlock<'_>) -> Self {
        Self {
            fraction: block.fraction_lost(),
            lost: block.cumulative_lost(),
            highest: block.extended_sequence_number(),
            jitter: block.interarrival_jitter(),
            last_report: block.last_sender_report_timestamp(),
            delay: block.delay_since_last_sender_report_timestamp(),
        }
    }

    fn about(self, ssrc: u32) -> ReportBlockBuilder {
        ReportBlock::builder(ssrc)
            .fraction_lost(self.fraction)
            .cumulative_lost(self.lost)
            .extended_sequence_number(self.highest)
            .interarrival_jitter(self.jitter)
            .last_sender_report_timestamp(self.last_report)
            .delay_since_last_sender_report_timestamp(self.delay)
    }
}

/// What a compound packet says, as far as it is of use to anybody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Word {
    /// Its sender's SSRC and the newest moment of its stream.
    pub sends: Option<(u32, Moment)>,
    /// How its sender hears us.
    pub hears: Option<Block>,
}

impl Word {
    /// Reads a compound packet of a far side that hears a stream of this SSRC. Malformed parts say nothing.
    pub fn read(packet: &[u8], stream: Option<u32>) -> Self {
        let mut word = Self::default();
        for part in Compound::parse(packet).into_iter().flatten().flatten() {
            match part {
                Packet::Sr(report) => {
                    let moment = Moment { ntp: report.ntp_timestamp(), timestamp: report.rtp_timestamp() };
                    word.sends = Some((report.ssrc(), moment));
                    word.hear(report.report_blocks(), stream);
                }
                Packet::Rr(report) => word.hear(report.report_blocks(), stream),
                _ => {}
            }
        }
        word
    }

    fn hear<'a>(&mut self, mut blocks: impl Iterator<Item = ReportBlock<'a>>, stream: Option<u32>) {
        let ours = blocks.find(|block| Some(block.ssrc()) == stream);
        self.hears = ours.as_ref().map(Block::read).or(self.hears);
    }
}

/// What a sender report says of our stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sending {
    /// A moment of it.
    pub moment: Moment,
    /// Packets the far side was sent.
    pub packets: u32,
    /// Octets of payload in them.
    pub octets: u32,
}

/// Writes a report and who we are (`name`, our CNAME by RFC 7022); the octets of it, or none where it does not fit.
/// Without a stream to report it is a receiver report.
pub fn write(
    ssrc: u32,
    sending: Option<Sending>,
    hears: Option<(u32, Block)>,
    name: &str,
    out: &mut [u8; REPORT],
) -> usize {
    let names = SdesChunk::builder(ssrc).add_item(SdesItem::builder(SdesItem::CNAME, name));
    let names = Sdes::builder().add_chunk(names);
    let block = hears.map(|(source, block)| block.about(source));
    let written: Result<usize, RtcpWriteError> = match sending {
        Some(Sending { moment, packets, octets }) => {
            let report = SenderReport::builder(ssrc)
                .ntp_timestamp(moment.ntp)
                .rtp_timestamp(moment.timestamp)
                .packet_count(packets)
                .octet_count(octets);
            let report = block.into_iter().fold(report, |report, block| report.add_report_block(block));
            Compound::builder().add_packet(report).add_packet(names).write_into(out)
        }
        None => {
            let report = ReceiverReport::builder(ssrc);
            let report = block.into_iter().fold(report, |report, block| report.add_report_block(block));
            Compound::builder().add_packet(report).add_packet(names).write_into(out)
        }
    };
    written.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: Block =
        Block { fraction: 3, lost: 7, highest: 65_636, jitter: 11, last_report: 0x1234_5678, delay: 9 };

    #[test]
    fn m8_what_we_write_is_read_as_it_was_meant() {
        let moment = Moment::at(Duration::from_millis(1_700_000_000_500), 16_000);
        assert_eq!(moment.ntp >> 31, (1_700_000_000 + 2_208_988_800) * 2 + 1, "half a second past");
        let sending = Sending { moment, packets: 100, octets: 16_000 };
        let name = "f".repeat(32);
        let mut packet = [0; REPORT];
        let length = write(5, Some(sending), Some((9, BLOCK)), &name, &mut packet);
        let parts: Vec<_> = Compound::parse(&packet[..length]).unwrap().map(Result::unwrap).collect();
        let [Packet::Sr(report), Packet::Sdes(names)] = &parts[..] else { panic!("{parts:?}") };
        assert_eq!((report.ssrc(), report.packet_count(), report.octet_count()), (5, 100, 16_000));
        assert_eq!(names.chunks().next().unwrap().items().next().unwrap().value(), name.as_bytes());
        let read = |stream| Word::read(&packet[..length], Some(stream));
        assert_eq!(read(9), Word { sends: Some((5, moment)), hears: Some(BLOCK) });
        assert_eq!(read(8).hears, None, "of a stream that we do not send");

        let length = write(5, None, None, &name, &mut packet);
        assert_eq!((length, packet[1]), (52, 201), "a receiver report");
        assert_eq!(Word::read(&packet[..length], Some(9)), Word::default());
    }

    #[test]
    fn malformed_reports_are_survived() {
        let mut state = 0x2545_f491_u32;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        };
        for _ in 0..50_000 {
            let words = random() % 20;
            let mut packet: Vec<u8> = (0..words).flat_map(|_| random().to_be_bytes()).collect();
            // Often well-formed as far as its first header goes, and then anything.
            let head = [0x80 | random() as u8 & 0x3f, 192 + (random() % 32) as u8, 0, (words as u8).wrapping_sub(1)];
            packet.iter_mut().zip(head).for_each(|(to, from)| *to = from);
            packet.truncate(packet.len() - (random() % 3).min(packet.len() as u32) as usize);
            Word::read(&packet, Some(0));
        }
    }
}
