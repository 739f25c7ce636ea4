//! Whole calls through the pure table, on a clock that nobody waits for: what goes in comes out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::relay::{Slot, Step, Table, Terms};
use super::report::{self, Block, REPORT, Word};
use super::stream::{HEADER, Position};
use super::tones::FRAME;
use crate::b2bua::io::{Family, Law, MediaEvent, PortPair, Sound};

const PACKET: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(30);
const BLOCK: Block = Block { fraction: 3, lost: 7, highest: 1, jitter: 11, last_report: 0, delay: 0 };

/// Two bridged rows and the far sides that are expected there.
struct Call {
    table: Table,
    far: [SocketAddr; 2],
    now: Instant,
    random: u32,
}

impl Call {
    fn new() -> Self {
        let pairs = [10_000, 10_002].map(|port| PortPair { worker: 0, family: Family::V4, port });
        let terms = Terms { learn_window: LIMIT, quarantine: LIMIT, quarantine_limit: LIMIT };
        let (now, far) = (crate::clock::now(), ["192.0.2.1:4000", "192.0.2.2:5000"].map(|at| at.parse().unwrap()));
        let mut table = Table::new(&pairs, terms, Arc::default(), now);
        for (row, rtp) in far.into_iter().enumerate() {
            table.lend(row, now);
            table.expect(row, (Some(rtp), Some(beside(rtp))), None, now);
        }
        table.bridge(0, 1);
        Self { table, far, now, random: 0x2545_f491 }
    }

    /// What the other far side hears when this one says so.
    fn says(&mut self, row: usize, packet: &[u8]) -> Option<Vec<u8>> {
        let mut packet = packet.to_vec();
        match self.table.step(Slot::rtp(row), self.far[row], &mut packet, self.now) {
            Step::Forward(out, target) => {
                assert_eq!((out, target), (Slot::rtp(1 - row), self.far[1 - row]));
                Some(packet)
            }
            Step::Drop => None,
            Step::Report(..) => panic!("that was no report"),
        }
    }

    /// What the other far side is told when this one reports so.
    fn reports(&mut self, row: usize, mut packet: Vec<u8>) -> Option<Vec<u8>> {
        match self.table.step(Slot::rtcp(row), beside(self.far[row]), &mut packet, self.now) {
            Step::Report(_, _, length) => Some(self.table.report[..length].to_vec()),
            Step::Drop => None,
            Step::Forward(..) => panic!("as it came"),
        }
    }

    /// A sound of ours for the far side of this row, for so many packets.
    fn plays(&mut self, row: usize, packets: usize) -> Vec<Position> {
        self.table.play(row, Sound::Waiting, Law::Mu);
        let mut heard = Vec::new();
        for _ in 0..packets {
            self.now += PACKET;
            let mut packet = [0; HEADER + FRAME];
            self.table.sound(row, &mut packet, self.now).expect("a packet");
            heard.push(Position::read(&packet));
        }
        self.table.bridge(0, 1);
        heard
    }

    fn below(&mut self, limit: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random % limit
    }

    /// Packets of one source as a bad network delivers them: 20 and 30 ms and one of 1,500 octets in a hundred, one in a
    /// hundred lost, up to 40 ms late. The first comes first.
    fn shaken(&mut self, ssrc: u32, count: u16) -> Vec<(Duration, Vec<u8>)> {
        let (mut timestamp, mut packets) = (self.below(u32::MAX), Vec::new());
        let begun = timestamp;
        for n in 0..count {
            let samples = match self.below(100) {
                0 => 1_500 - HEADER,
                1..50 => 160,
                _ => 240,
            };
            let sent = Duration::from_micros(u64::from(timestamp.wrapping_sub(begun)) * 125);
            let late = Duration::from_micros(u64::from(self.below(40_000)));
            let packet = packet(ssrc, n.wrapping_add(65_000), timestamp, HEADER + samples);
            timestamp = timestamp.wrapping_add(samples as u32);
            match n {
                0 => packets.push((Duration::ZERO, packet)),
                _ if self.below(100) == 0 => {}
                _ => packets.push((sent + late, packet)),
            }
        }
        packets.sort_by_key(|(at, _)| *at);
        packets
    }
}

/// The port of RTCP.
fn beside(rtp: SocketAddr) -> SocketAddr {
    SocketAddr::new(rtp.ip(), rtp.port() + 1)
}

fn packet(ssrc: u32, sequence: u16, timestamp: u32, octets: usize) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend(sequence.to_be_bytes());
    packet.extend(timestamp.to_be_bytes());
    packet.extend(ssrc.to_be_bytes());
    packet.extend((packet.len()..octets).map(|n| (n as u8).wrapping_mul(31).wrapping_add(sequence as u8)));
    packet
}

#[test]
fn m9_what_a_bad_network_delivers_is_handed_on_and_nothing_else() {
    let mut call = Call::new();
    for ssrc in [5, 9] {
        let start = call.now;
        let both = [0, 1].map(|row| call.shaken(ssrc + row, 10_000));
        let mut arrivals: Vec<_> =
            both.into_iter().zip(0..).flat_map(|(of, row)| of.into_iter().map(move |p| (row, p))).collect();
        arrivals.sort_by_key(|(_, (at, _))| *at);
        let mut shift = [None; 2];
        let mut overtaken = 0;
        let mut newest = [None::<Position>; 2];
        for (row, (at, came)) in arrivals {
            call.now = start + at;
            let left = call.says(row, &came).expect("nothing is lost here");
            let (before, after) = (Position::read(&came), Position::read(&left));
            let moved = (after.sequence.wrapping_sub(before.sequence), after.timestamp.wrapping_sub(before.timestamp));
            assert_eq!(
                *shift[row].get_or_insert(moved),
                moved,
                "one distance for all: nothing doubled, no place changed"
            );
            assert_eq!((left.len(), &left[HEADER..]), (came.len(), &came[HEADER..]));
            assert!(ssrc == 9 || left == came, "the first source is untouched");
            overtaken += usize::from(newest[row].is_some_and(|n| before.sequence.wrapping_sub(n.sequence) > 0x8000));
            newest[row] = Some(before);
        }
        assert!(overtaken > 1_000, "{overtaken}");
        assert_eq!([0, 1].map(|row| call.table.look(row, call.now)), [None, None]);
        call.now += PACKET;
        call.plays(0, 50);
        call.plays(1, 50);
    }
}

#[test]
fn h17_two_hours_both_ways_and_not_a_sample_astray() {
    let mut call = Call::new();
    let mut newest = [None::<Position>; 2];
    // A source that begins before its numbers wrap; ours; another one. Every packet is the next one, 20 ms later.
    for (ssrc, begins) in [(5, (65_500_u16, u32::MAX - 1_000)), (900, (40_000, 7))] {
        for n in 0..180_000_u32 {
            call.now += PACKET;
            for row in [0, 1] {
                let (sequence, timestamp) = (begins.0.wrapping_add(n as u16), begins.1.wrapping_add(160 * n));
                let left =
                    call.says(row, &packet(ssrc + row as u32, sequence, timestamp, HEADER)).expect("it is heard");
                follows(&mut newest[row], Position::read(&left));
                if ssrc == 5 {
                    assert_eq!(Position::read(&left), Position { ssrc: 5 + row as u32, sequence, timestamp });
                }
            }
        }
        // What row 1 hears comes from row 0.
        let (before, played) = (
            call.now,
            [1, 0].map(|row| {
                let heard = call.plays(row, 500);
                call.now -= PACKET * 500;
                heard
            }),
        );
        call.now = before + PACKET * 500;
        for (row, heard) in played.into_iter().enumerate() {
            heard.into_iter().for_each(|position| follows(&mut newest[row], position));
        }
    }
    let packets = 2 * 180_000 + 2 * 500_u32;
    let ends = newest.map(|newest| newest.map(|at| (at.sequence, at.timestamp)));
    let last = (65_500_u16.wrapping_add((packets - 1) as u16), (u32::MAX - 1_000).wrapping_add(160 * (packets - 1)));
    assert_eq!(ends, [Some(last); 2], "as if one source had spoken for two hours");
}

/// A strict receiver: one SSRC, the next number, one frame later.
fn follows(newest: &mut Option<Position>, heard: Position) {
    if let Some(before) = newest.replace(heard) {
        let next = (before.ssrc, before.sequence.wrapping_add(1), before.timestamp.wrapping_add(160));
        assert_eq!((heard.ssrc, heard.sequence, heard.timestamp), next);
    }
}

#[test]
fn m7_reports_alone_are_no_sign_of_life() {
    let mut call = Call::new();
    call.table.watch(0, Some(LIMIT), call.now);
    call.says(0, &packet(5, 1, 0, HEADER + FRAME));
    let mut told = Vec::new();
    for _ in 0..7 {
        call.now += Duration::from_secs(5);
        call.reports(0, vec![0x80, 201, 0, 1, 0, 0, 0, 5]);
        told.extend(call.table.look(0, call.now));
    }
    assert!(matches!(told[..], [MediaEvent::Silent(_)]), "{told:?}");
    call.says(0, &packet(5, 2, 0, HEADER + FRAME));
    assert!(matches!(call.table.look(0, call.now), Some(MediaEvent::Resumed(_))));
}

#[test]
fn m8_who_hears_only_lets_the_other_know_how() {
    let mut call = Call::new();
    let report = |hears: Option<(u32, Block)>| {
        let mut said = [0; REPORT];
        let length = report::write(7, None, hears, "x", &mut said);
        said[..length].to_vec()
    };
    call.says(0, &packet(5, 1, 0, HEADER + FRAME)).expect("it is heard");
    assert_eq!(call.reports(1, report(None)), None, "there is nothing to tell, and no stream to name");
    let heard = call.reports(1, report(Some((5, BLOCK)))).expect("a report");
    assert_eq!(heard[1], 201, "of a receiver");
    assert_eq!(Word::read(&heard, Some(5)).hears, Some(BLOCK));
    let again = call.reports(1, report(Some((5, BLOCK)))).expect("another");
    assert_eq!(heard[4..8], again[4..8], "under one SSRC");
    assert_ne!(heard[4..8], 7_u32.to_be_bytes(), "of ours");
}
