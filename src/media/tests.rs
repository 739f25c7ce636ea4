//! The relay as a whole: real sockets on loopback, one thread, short terms.

use super::*;
use std::net::UdpSocket;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::b2bua::io::{Digit, EventTypes, Family, Key, Keys, Law, Sound, Suite};
use crate::clock::now;
use crate::leg::MediaCounters;

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(3);
const HOME: &str = "127.0.0.1";
const HOME_6: &str = "::1";
const ELSEWHERE: &str = "127.0.0.2";

/// A relay of one thread with short terms, on a port range of its own.
struct Stage {
    media: Media,
    events: UnboundedReceiver<MediaEvent>,
    runtime: tokio::runtime::Runtime,
}

fn settings(first_port: u16) -> MediaSettings {
    MediaSettings {
        first_port,
        last_port: first_port + 19,
        workers: 1,
        terms: Terms {
            quarantine: Duration::from_millis(150),
            quarantine_limit: Duration::from_millis(400),
            ..MediaSettings::default().terms
        },
        ..MediaSettings::default()
    }
}

impl Stage {
    fn on(first_port: u16) -> Self {
        Self::with(settings(first_port))
    }

    fn with(settings: MediaSettings) -> Self {
        let (sender, events) = unbounded_channel();
        let media = Media::start(settings, sender).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        Self { media, events, runtime }
    }

    fn event(&mut self) -> MediaEvent {
        let next = async { tokio::time::timeout(LONG, self.events.recv()).await };
        self.runtime.block_on(next).expect("an event in time").expect("a running relay")
    }

    fn no_event(&mut self) {
        assert_eq!(self.events.try_recv().ok(), None);
    }

    fn expect(&self, pair: PortPair, far: &Party) {
        self.expect_at(pair, far.rtp.local_addr().unwrap(), far.rtcp.local_addr().unwrap());
    }

    fn expect_at(&self, pair: PortPair, rtp: SocketAddr, rtcp: SocketAddr) {
        self.media.command(MediaCommand::Expect { pair, rtp, rtcp, signalled: None });
    }

    fn play(&self, pair: PortPair, sound: Sound) {
        self.media.command(MediaCommand::Play { pair, sound, law: Law::Mu });
    }

    fn close(&mut self, pair: PortPair) -> MediaCounters {
        self.media.command(MediaCommand::Close(pair));
        loop {
            if let MediaEvent::Closed(closed, counters) = self.event()
                && closed == pair
            {
                return counters;
            }
        }
    }

    fn quiet(&mut self, pair: PortPair) {
        while self.event() != MediaEvent::Quiet(pair) {}
    }

    /// Two parties on bridged pairs who have heard each other.
    fn call(first_port: u16) -> (Self, Party, Party) {
        let stage = Self::on(first_port);
        let pairs = stage.media.pairs();
        let (a, b) = (Party::at(HOME, pairs[0]), Party::at(HOME, pairs[1]));
        stage.expect(a.pair, &a);
        stage.expect(b.pair, &b);
        stage.media.command(MediaCommand::Bridge(a.pair, b.pair));
        a.reaches(&b);
        b.reaches(&a);
        (stage, a, b)
    }
}

/// A far side: two sockets, and the pair it talks to.
struct Party {
    pair: PortPair,
    rtp: UdpSocket,
    rtcp: UdpSocket,
    ssrc: u32,
}

impl Party {
    fn at(host: &str, pair: PortPair) -> Self {
        let socket = || UdpSocket::bind((host, 0)).unwrap();
        let rtp = socket();
        let ssrc = u32::from(rtp.local_addr().unwrap().port());
        Self { pair, rtp, rtcp: socket(), ssrc }
    }

    fn sends(&self, sequence: u16) -> Vec<u8> {
        let packet = rtp(self.ssrc, sequence, u32::from(sequence).wrapping_mul(160));
        self.sends_raw(&packet);
        packet
    }

    fn sends_raw(&self, packet: &[u8]) {
        let home = if self.pair.family == Family::V4 { HOME } else { HOME_6 };
        self.rtp.send_to(packet, (home, self.pair.port)).unwrap();
    }

    fn sends_rtcp(&self) -> Vec<u8> {
        let mut report = vec![0x80, 201, 0, 1];
        report.extend(self.ssrc.to_be_bytes());
        self.rtcp.send_to(&report, (HOME, self.pair.port + 1)).unwrap();
        report
    }

    fn hears(&self) -> Vec<u8> {
        heard(&self.rtp, LONG).expect("a packet in time")
    }

    fn hears_nothing(&self) {
        assert_eq!(heard(&self.rtp, SHORT), None);
    }

    /// Sends until the other hears it: commands are on their way meanwhile.
    fn reaches(&self, other: &Party) {
        for sequence in 0..30 {
            self.sends(sequence);
            if heard(&other.rtp, SHORT).is_some() {
                while heard(&other.rtp, Duration::from_millis(5)).is_some() {}
                return;
            }
        }
        panic!("never heard");
    }
}

fn heard(socket: &UdpSocket, patience: Duration) -> Option<Vec<u8>> {
    let mut buffer = [0; 2048];
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())
}

fn rtp(ssrc: u32, sequence: u16, timestamp: u32) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend(sequence.to_be_bytes());
    packet.extend(timestamp.to_be_bytes());
    packet.extend(ssrc.to_be_bytes());
    packet.extend((0..160).map(|n| (sequence as u8).wrapping_mul(31).wrapping_add(n)));
    packet
}

fn position(packet: &[u8]) -> stream::Position {
    stream::Position::read(packet)
}

#[test]
fn both_ways_untouched() {
    let (mut stage, a, b) = Stage::call(20_000);
    for sequence in [25_000, 50_000] {
        assert_eq!(b.hears_after(a.sends(sequence)), Ok(()), "much is lost, and nobody begins anew");
        assert_eq!(a.hears_after(b.sends(sequence)), Ok(()));
    }
    for sequence in (65_300..=u16::MAX).chain(0..200) {
        assert_eq!(b.hears_after(a.sends(sequence)), Ok(()));
        assert_eq!(a.hears_after(b.sends(sequence.wrapping_mul(3))), Ok(()));
    }
    assert_eq!(b.rtcp_after(a.sends_rtcp()), Ok(()));
    assert_eq!(a.rtcp_after(b.sends_rtcp()), Ok(()));
    let (of_a, of_b) = (stage.close(a.pair), stage.close(b.pair));
    assert!(of_a.received_packets >= 437 && of_a.received_octets == 172 * of_a.received_packets);
    assert!(of_b.sent_packets >= 437 && of_b.sent_octets == 172 * of_b.sent_packets);
    assert_eq!((of_a.received_rtcp, of_a.foreign_packets, of_a.invalid_packets), (1, 0, 0));
}

impl Party {
    /// The difference between what was sent and what is heard.
    fn hears_after(&self, sent: Vec<u8>) -> Result<(), (Vec<u8>, Vec<u8>)> {
        same(sent, self.hears())
    }

    /// An empty report, of the same stream; our name follows it.
    fn rtcp_after(&self, sent: Vec<u8>) -> Result<(), (Vec<u8>, Vec<u8>)> {
        let report = heard(&self.rtcp, LONG).expect("a report in time");
        same(sent, report[..8].to_vec())
    }
}

fn same(sent: Vec<u8>, heard: Vec<u8>) -> Result<(), (Vec<u8>, Vec<u8>)> {
    if sent == heard { Ok(()) } else { Err((sent, heard)) }
}

#[test]
fn what_is_not_rtp_is_counted_and_dropped() {
    let (mut stage, a, b) = Stage::call(20_100);
    for garbage in [&b""[..], b"x", &[0; 172], &[0x80; 11], &[0xb0; 13]] {
        a.sends_raw(garbage);
    }
    b.hears_nothing();
    assert_eq!(b.hears_after(a.sends(9)), Ok(()));
    assert_eq!(stage.close(a.pair).invalid_packets, 5);
}

#[test]
fn m1_nat_source_is_learned_by_its_third_packet_and_hears() {
    let stage = Stage::on(20_200);
    let pairs = stage.media.pairs();
    let (phone, trunk) = (Party::at(HOME, pairs[0]), Party::at(HOME, pairs[1]));
    let private = |port| SocketAddr::from(([10, 255, 255, 254], port));
    stage.expect_at(phone.pair, private(4000), private(4001));
    stage.expect(trunk.pair, &trunk);
    stage.media.command(MediaCommand::Bridge(phone.pair, trunk.pair));
    trunk.sends(0);
    trunk.sends_rtcp();
    phone.hears_nothing();
    for sequence in 0..3 {
        phone.sends(sequence);
    }
    assert_eq!(position(&trunk.hears()).sequence, 2);
    assert_eq!(phone.hears_after(trunk.sends(1)), Ok(()));
    assert_eq!(trunk.rtcp_after(phone.sends_rtcp()), Ok(()));
    assert_eq!(phone.rtcp_after(trunk.sends_rtcp()), Ok(()));
}

#[test]
fn m2_sprayer_is_neither_heard_nor_learned_nor_answered() {
    let mut stage = Stage::on(20_300);
    let pairs = stage.media.pairs();
    let (a, b) = (Party::at(HOME, pairs[0]), Party::at(HOME, pairs[1]));
    let sprayer = Party::at(ELSEWHERE, a.pair);
    stage.expect(a.pair, &a);
    stage.expect(b.pair, &b);
    stage.media.command(MediaCommand::Bridge(a.pair, b.pair));
    b.hears_nothing();
    let spray = || {
        (0..200).for_each(|sequence| drop(sprayer.sends(sequence)));
        sprayer.sends_rtcp();
    };
    spray();
    b.hears_nothing();
    stage.no_event();
    a.reaches(&b);
    spray();
    b.hears_nothing();
    stage.expect(a.pair, &a);
    spray();
    assert_eq!(b.hears_after(a.sends(7)), Ok(()));
    assert_eq!(a.hears_after(b.sends(7)), Ok(()));
    sprayer.hears_nothing();
    assert!(stage.close(a.pair).foreign_packets >= 201);
}

#[test]
fn m3_media_follows_to_a_new_port_and_the_old_one_is_ignored() {
    let (stage, a, b) = Stage::call(20_400);
    let moved = Party::at(HOME, a.pair);
    stage.expect(a.pair, &moved);
    (100..120).for_each(|sequence| drop(a.sends(sequence)));
    b.hears_nothing();
    moved.reaches(&b);
    assert_eq!(moved.hears_after(b.sends(1)), Ok(()));
    stage.expect(a.pair, &moved);
    (0..20).for_each(|sequence| drop(a.sends(sequence)));
    b.hears_nothing();
    assert_eq!(b.hears_strictly_after(moved.sends(40)), 40);
    a.hears_nothing();
}

impl Party {
    fn hears_strictly_after(&self, sent: Vec<u8>) -> u16 {
        let heard = self.hears();
        assert_eq!(heard[12..], sent[12..]);
        position(&sent).sequence
    }
}

#[test]
fn m4_one_stream_through_ringback_bridge_and_noise() {
    let stage = Stage::on(20_500);
    let pairs = stage.media.pairs();
    let (a, b) = (Party::at(HOME, pairs[0]), Party::at(HOME, pairs[1]));
    stage.expect(a.pair, &a);
    stage.expect(b.pair, &b);
    let (start, mut packets) = (now(), Vec::new());
    let mut hear = |patience| {
        let packet = heard(&a.rtp, patience);
        packet.map(|packet| packets.push((now() - start, packet))).is_some()
    };
    stage.play(a.pair, Sound::Ringback);
    (0..15).for_each(|_| assert!(hear(LONG)));
    stage.media.command(MediaCommand::Bridge(a.pair, b.pair));
    while hear(SHORT) {} // a frame may have crossed the command; then nobody speaks
    for sequence in 65_530..=u16::MAX {
        b.sends(sequence);
        assert!(hear(LONG));
        heard(&b.rtp, Duration::from_millis(20)); // nothing comes: B's own pace
    }
    stage.play(a.pair, Sound::Waiting);
    (0..15).for_each(|_| assert!(hear(LONG)));
    strictly(&packets, 3);
}

/// A strict receiver: one SSRC, no sequence number missing, timestamps that rise by a frame at least and follow
/// real time, a marker at the start of each source and nowhere else.
fn strictly(packets: &[(Duration, Vec<u8>)], sources: usize) {
    for pair in packets.windows(2) {
        let (before, after) = (position(&pair[0].1), position(&pair[1].1));
        assert_eq!((before.ssrc, before.sequence.wrapping_add(1)), (after.ssrc, after.sequence));
        assert!(after.timestamp.wrapping_sub(before.timestamp) as i32 >= 160, "{before:?} {after:?}");
    }
    let [(first_at, first), .., (last_at, last)] = packets else { panic!("a handful of packets") };
    let samples = position(last).timestamp.wrapping_sub(position(first).timestamp);
    let claimed = Duration::from_micros(u64::from(samples) * 125);
    let off = claimed.abs_diff(*last_at - *first_at);
    assert!(off < Duration::from_millis(150), "timestamps are {off:?} off");
    assert_eq!(packets[0].1[1] >> 7, 1);
    assert_eq!(packets.iter().filter(|(_, packet)| packet[1] >> 7 == 1).count(), sources);
}

#[test]
fn sounds_are_paced_without_drift() {
    let stage = Stage::on(20_600);
    let a = Party::at(HOME, stage.media.pairs()[0]);
    stage.play(a.pair, Sound::Waiting);
    a.hears_nothing(); // nobody is known yet
    stage.expect(a.pair, &a);
    let first = position(&a.hears());
    let start = now();
    let last = (0..50).fold(first, |_, _| position(&a.hears()));
    let late = (now() - start).abs_diff(Duration::from_secs(1));
    assert_eq!(last.sequence.wrapping_sub(first.sequence), 50);
    assert!(late < Duration::from_millis(60), "{late:?} off after a second");
}

#[test]
fn m12_a_stale_stream_never_reaches_the_next_call() {
    let (mut stage, a, b) = Stage::call(20_700);
    stage.close(a.pair);
    stage.close(b.pair);
    let mut sequence = 100;
    let mut streams_on = || {
        sequence += 1;
        a.sends(sequence);
    };
    let begun = now();
    while now() - begun < Duration::from_millis(600) {
        streams_on();
        heard(&a.rtp, Duration::from_millis(10));
    }
    stage.quiet(a.pair); // by the limit, for the stream goes on
    (0..50).for_each(|_| streams_on());
    let next = Party::at(HOME, a.pair);
    stage.expect(next.pair, &next);
    stage.expect(b.pair, &b);
    stage.media.command(MediaCommand::Bridge(next.pair, b.pair));
    (0..50).for_each(|_| streams_on());
    b.hears_nothing();
    (0..50).for_each(|_| streams_on());
    b.hears_nothing();
    next.reaches(&b);
    b.reaches(&next);
    (0..50).for_each(|_| streams_on());
    assert_eq!(b.hears_after(next.sends(77)), Ok(()));
    a.hears_nothing();
}

#[test]
fn close_reports_at_once_and_quiet_after_silence() {
    let (mut stage, a, b) = Stage::call(20_800);
    stage.close(a.pair);
    a.sends(50);
    b.sends(50);
    a.hears_nothing();
    b.hears_nothing();
    stage.quiet(a.pair);
    stage.close(b.pair);
    stage.media.command(MediaCommand::Close(b.pair)); // means nothing any more
    stage.quiet(b.pair);
    stage.no_event();
    stage.expect(a.pair, &a);
    a.sends(1);
    a.hears_nothing();
    a.sends(2);
    assert_eq!(stage.event(), MediaEvent::Started(a.pair));
    assert!((1..=2).contains(&stage.close(a.pair).received_packets), "a fresh lend counts from nothing");
}

#[test]
fn m11_lent_a_hundred_thousand_times_and_nothing_is_left_behind() {
    let rounds: u64 = if std::env::var_os("SWITCHBACK_LONG").is_some() { 500 } else { 10 };
    let terms = Terms {
        quarantine: Duration::from_millis(20),
        quarantine_limit: Duration::from_millis(40),
        ..MediaSettings::default().terms
    };
    let mut stage = Stage::with(MediaSettings { last_port: 23_799, terms, ..settings(23_000) });
    let pairs = stage.media.pairs();
    let (near, far) = pairs.split_at(pairs.len() / 2);
    let listener = Party::at(HOME, far[0]);
    let (mut before, mut flat) = (Party::at(HOME, near[0]), None);
    for round in 0..rounds {
        let speaker = Party::at(HOME, near[0]);
        for (&one, &other) in near.iter().zip(far) {
            stage.expect(one, &speaker);
            stage.expect(other, &listener);
            stage.media.command(MediaCommand::Bridge(one, other));
        }
        let mut reached = vec![false; near.len()];
        for attempt in 0..50 {
            for (at, pair) in near.iter().enumerate().filter(|(at, _)| !reached[*at]) {
                for party in [&before, &speaker] {
                    party.rtp.send_to(&rtp(party.ssrc, attempt, at as u32), (HOME, pair.port)).unwrap();
                }
            }
            while let Some(packet) = heard(&listener.rtp, Duration::from_millis(5)) {
                assert_eq!(
                    position(&packet).ssrc,
                    speaker.ssrc,
                    "round {round}: who spoke in an earlier call is heard"
                );
                reached[position(&packet).timestamp as usize] = true;
            }
            if reached.iter().all(|reached| *reached) {
                break;
            }
        }
        assert!(reached.iter().all(|reached| *reached), "round {round}: a pair is dead");
        pairs.iter().for_each(|pair| stage.media.command(MediaCommand::Close(*pair)));
        let mut quiet = 0;
        while quiet < pairs.len() {
            quiet += usize::from(matches!(stage.event(), MediaEvent::Quiet(_)));
        }
        before = speaker;
        // The first rounds fill what is kept: buffers, the table, the channel.
        let used = (round >= rounds / 2).then(footprint);
        flat = flat.or(used);
    }
    let ((descriptors, kilobytes), (last_descriptors, last_kilobytes)) = (flat.unwrap(), footprint());
    assert_eq!(last_descriptors, descriptors);
    assert!(last_kilobytes <= kilobytes + 1024, "{kilobytes} kB grew to {last_kilobytes} kB");
    println!("{} lends: {last_descriptors} descriptors, {kilobytes} then {last_kilobytes} kB", rounds * 400);
}

/// What this process holds: open descriptors, and kilobytes of memory.
fn footprint() -> (usize, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kilobytes = resident.trim().trim_end_matches(" kB").parse().unwrap();
    (std::fs::read_dir("/proc/self/fd").unwrap().count(), kilobytes)
}

#[test]
fn m14_who_speaks_before_the_answer_is_not_burst_at_it() {
    let stage = Stage::on(23_800);
    let pairs = stage.media.pairs();
    let (a, b) = (Party::at(HOME, pairs[0]), Party::at(HOME, pairs[1]));
    stage.expect(b.pair, &b);
    for sequence in 0..50 {
        b.sends(sequence);
    }
    stage.expect(a.pair, &a);
    a.hears_nothing();
    stage.media.command(MediaCommand::Bridge(a.pair, b.pair));
    a.hears_nothing();
    assert_eq!(a.hears_strictly_after(b.sends(50)), 50, "what is said now, and nothing older");
}

#[test]
fn m13_icmp_errors_are_survived_without_spinning() {
    let (stage, a, b) = Stage::call(20_900);
    let address = b.rtp.local_addr().unwrap();
    let (pair, ssrc, rtcp) = (b.pair, b.ssrc, b.rtcp);
    drop(b.rtp);
    for sequence in 0..200 {
        a.sends(sequence);
        heard(&a.rtp, Duration::from_millis(1));
    }
    let before = relay_ticks();
    a.hears_nothing();
    a.hears_nothing();
    assert!(relay_ticks() - before <= 5, "the relay thread spins");
    let b = Party { pair, rtp: UdpSocket::bind(address).unwrap(), rtcp, ssrc };
    a.reaches(&b);
    b.reaches(&a);
    drop(stage);
}

/// Processor time of this process's relay threads, in hundredths of a second.
fn relay_ticks() -> u64 {
    let ticks = |stat: String| -> u64 {
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        if stat.contains("(media-0)") {
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        } else {
            0
        }
    };
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok()).map(ticks).sum()
}

#[test]
fn silence_and_sound_are_reported_once_each() {
    let (mut stage, a, _b) = Stage::call(21_000);
    let watch = |stage: &Stage, limit| stage.media.command(MediaCommand::Watch { pair: a.pair, limit });
    while stage.events.try_recv().is_ok() {}
    watch(&stage, Some(SHORT));
    assert_eq!(stage.event(), MediaEvent::Silent(a.pair));
    a.hears_nothing();
    a.hears_nothing();
    stage.no_event();
    a.sends(1);
    assert_eq!(stage.event(), MediaEvent::Resumed(a.pair));
    watch(&stage, None);
    a.hears_nothing();
    a.hears_nothing();
    stage.no_event();
}

#[test]
fn started_comes_once_a_lend() {
    let (mut stage, a, b) = Stage::call(21_100);
    stage.expect(a.pair, &a);
    a.reaches(&b);
    let mut events: Vec<_> = std::iter::from_fn(|| stage.events.try_recv().ok()).collect();
    events.sort_by_key(|event| *event == MediaEvent::Started(b.pair));
    assert_eq!(events, [MediaEvent::Started(a.pair), MediaEvent::Started(b.pair)]);
}

#[test]
fn a_far_side_that_is_ourselves_or_nobody_is_dead() {
    let (mut stage, a, b) = Stage::call(21_200);
    let own = SocketAddr::from(([127, 0, 0, 1], b.pair.port));
    for dead in [own, "224.0.0.1:4000".parse().unwrap(), "0.0.0.0:0".parse().unwrap()] {
        stage.expect_at(a.pair, dead, dead);
        b.sends(1);
        a.sends(1);
        b.hears_nothing();
    }
    a.hears_nothing();
    stage.expect(a.pair, &a);
    a.reaches(&b);
    assert!(stage.close(a.pair).foreign_packets >= 3);
}

#[test]
fn m11_a_pair_whose_odd_port_is_taken_leaves_its_even_port_free() {
    let (first, one_pair) = (21_500, MediaSettings { last_port: 21_501, ..settings(21_500) });
    let _odd = UdpSocket::bind((HOME, first + 1)).unwrap();
    let open = ports::open_all(&settings(first)).unwrap();
    assert!(open[0].1.iter().all(|(port, _)| *port != first) && open[0].1.len() == 9);
    drop(UdpSocket::bind((HOME, first)).expect("not kept for a pair that there is not"));

    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    for _ in 0..10_000 {
        assert!(matches!(ports::open_all(&one_pair), Err(MediaError::AllInUse { .. })));
    }
    // Where tests share a process, others open a few meanwhile.
    assert!(descriptors() < before + 1_000, "{before} became {}", descriptors());
}

#[test]
fn what_we_send_is_marked_as_it_was_set() {
    use rustix::net::sockopt::{ip_tos, ipv6_tclass};
    let addresses = [HOME, HOME_6].map(|ip| ip.parse().unwrap()).to_vec();
    for (dscp, octet) in [(Some(46), 184), (Some(0), 0), (None, 0)] {
        let open = ports::open_all(&MediaSettings { addresses: addresses.clone(), dscp, ..settings(21_520) }).unwrap();
        for (family, pairs) in &open {
            for socket in pairs.iter().flat_map(|(_, sockets)| sockets) {
                let marked = match family {
                    Family::V4 => ip_tos(socket).unwrap().into(),
                    Family::V6 => ipv6_tclass(socket).unwrap(),
                };
                assert_eq!(marked, octet, "{family}");
            }
        }
    }
}

#[test]
fn ports_in_use_are_left_out_and_errors_say_what_to_do() {
    let taken = UdpSocket::bind((HOME, 21_303)).unwrap();
    let start = |settings| Media::start(settings, unbounded_channel().0);
    let media = start(settings(21_301)).unwrap();
    let ports: Vec<u16> = media.pairs().iter().map(|pair| pair.port).collect();
    assert_eq!(ports, (21_304..21_320).step_by(2).collect::<Vec<_>>());

    let text = |settings| start(settings).err().unwrap().to_string();
    assert!(text(MediaSettings { first_port: 21_302, last_port: 21_303, ..settings(0) }).contains("in use"));
    assert!(text(MediaSettings { first_port: 21_399, last_port: 21_399, ..settings(0) }).contains("holds no pair"));
    let abroad = MediaSettings { addresses: vec!["192.0.2.1".parse().unwrap()], ..settings(21_380) };
    assert!(text(abroad).contains("one of this machine's"));
    assert!(text(MediaSettings { dscp: Some(64), ..settings(21_380) }).contains("63"));
    drop(taken);
}

#[test]
fn h11_pairs_of_both_families_hear_each_other() {
    let addresses = [HOME, HOME_6].map(|address| address.parse().unwrap()).to_vec();
    let stage = Stage::with(MediaSettings { addresses, ..settings(21_420) });
    let of = |family| stage.media.pairs().into_iter().find(|pair| pair.family == family).unwrap();
    let (a, b) = (Party::at(HOME, of(Family::V4)), Party::at(HOME_6, of(Family::V6)));
    assert_eq!(a.pair.port, b.pair.port, "the same range on each address");
    stage.expect(a.pair, &a);
    stage.expect(b.pair, &b);
    stage.media.command(MediaCommand::Bridge(a.pair, b.pair));
    a.reaches(&b);
    b.reaches(&a);
    stage.expect_at(b.pair, a.rtp.local_addr().unwrap(), a.rtcp.local_addr().unwrap());
    a.sends(40);
    a.hears_nothing();
}

/// The packets of one press of `5` for 60 ms: three, and the last one twice again.
fn press(ssrc: u32, number: u8, press: u16) -> Vec<Vec<u8>> {
    let packet = |at: u16| {
        let mut packet = rtp(ssrc, 100 + press * 5 + at, 8_000 + u32::from(press) * 640);
        packet.truncate(stream::HEADER);
        packet[1] = number | if at == 0 { 0x80 } else { 0 };
        packet.extend([5, if at < 2 { 10 } else { 0x8a }]);
        packet.extend((160 * (at.min(2) + 1)).to_be_bytes());
        packet
    };
    (0..5).map(packet).collect()
}

#[test]
fn m5_fifty_fast_digits_arrive_once_each_under_the_other_number() {
    let (mut stage, a, b) = Stage::call(22_000);
    let types = |pair, hears| {
        let types = Some(EventTypes { hears, told: 101 });
        stage.media.command(MediaCommand::Events { pair, types });
    };
    types(a.pair, 101);
    types(b.pair, 96);
    b.hears_nothing();
    while stage.events.try_recv().is_ok() {}
    for number in 0..50 {
        for sent in press(a.ssrc, 101, number) {
            a.sends_raw(&sent);
            let mut heard = b.hears();
            assert_eq!(heard[1] & 0x7f, 96);
            heard[1] = heard[1] & 0x80 | 101;
            assert_eq!(heard, sent, "durations, timestamps and all else as they were");
        }
        assert_eq!(stage.event(), MediaEvent::Digit(a.pair, Digit::read('5').unwrap()));
    }
    b.hears_nothing();
    stage.no_event();
}

#[test]
fn m5_a_flood_of_digits_passes_and_is_told_of_in_part() {
    let (mut stage, a, b) = Stage::call(22_100);
    for pair in [a.pair, b.pair] {
        let types = Some(EventTypes { hears: 101, told: 101 });
        stage.media.command(MediaCommand::Events { pair, types });
    }
    b.hears_nothing();
    while stage.events.try_recv().is_ok() {}
    let begun = now();
    for number in 0..1000 {
        a.sends_raw(&press(a.ssrc, 101, number)[0]);
        b.hears();
    }
    let seconds = (now() - begun).as_secs() as usize + 1;
    let told = std::iter::from_fn(|| stage.events.try_recv().ok()).count();
    assert!((50..=50 * seconds).contains(&told), "{told} in {seconds} s");
}

/// The far side's half of a secured pair.
fn secured(stage: &Stage, pair: PortPair, octet: u8) -> srtp::Protection {
    let key = |octet| Key::new(Suite::AeadAes128Gcm, vec![octet; Suite::AeadAes128Gcm.length()]).unwrap();
    let (ours, theirs) = (key(octet), key(octet + 1));
    let keys = Keys { ours: ours.clone(), theirs: theirs.clone() };
    stage.media.command(MediaCommand::Secure { pair, keys: Some(keys) });
    srtp::Protection::new(&Keys { ours: theirs, theirs: ours })
}

fn sealed(by: &mut srtp::Protection, packet: &[u8]) -> Vec<u8> {
    let srtp::Sealed::Packet(sealed) = by.seal(packet) else { panic!("not sealed") };
    sealed.to_vec()
}

fn opened(by: &mut srtp::Protection, mut packet: Vec<u8>) -> Vec<u8> {
    let length = by.open(&mut packet).expect("protected with our key");
    packet.truncate(length);
    packet
}

#[test]
fn h10_who_has_no_key_is_not_learned_and_what_we_say_is_protected() {
    let mut stage = Stage::on(21_440);
    let pairs = stage.media.pairs();
    let (a, b, stranger) = (Party::at(HOME, pairs[0]), Party::at(HOME, pairs[1]), Party::at(HOME, pairs[0]));
    let mut far = secured(&stage, a.pair, 1);
    stage.expect(a.pair, &a);
    stage.expect(b.pair, &b);
    stage.media.command(MediaCommand::Bridge(a.pair, b.pair));
    b.hears_nothing(); // The commands are on their way meanwhile.
    for sequence in 0..9 {
        stranger.sends(sequence);
        a.sends(sequence);
    }
    b.hears_nothing();
    let first = rtp(7, 100, 0);
    a.sends_raw(&sealed(&mut far, &first));
    assert_eq!(b.hears(), first);
    let answer = b.sends(1);
    assert_eq!(opened(&mut far, a.hears()), answer);
    let report = vec![0x80, 201, 0, 1, 0, 0, 0, 7];
    a.rtcp.send_to(&sealed(&mut far, &report), (HOME, a.pair.port + 1)).unwrap();
    assert_eq!(b.rtcp_after(report), Ok(()));
    let report = b.sends_rtcp();
    assert_eq!(opened(&mut far, heard(&a.rtcp, LONG).unwrap())[..8], report);
    stage.play(a.pair, Sound::Ringback);
    let sound = opened(&mut far, a.hears());
    assert_eq!((sound.len(), position(&sound).ssrc), (172, b.ssrc), "one stream");
    let counters = stage.close(a.pair);
    assert_eq!((counters.received_packets, counters.received_rtcp, counters.foreign_packets), (1, 1, 0));
    assert_eq!(counters.invalid_packets, 18);
}

#[test]
fn h10_a_source_that_begins_its_numbers_again_is_numbered_on() {
    let stage = Stage::on(21_460);
    let pairs = stage.media.pairs();
    let (a, b) = (Party::at(HOME, pairs[0]), Party::at(HOME, pairs[1]));
    let mut far = secured(&stage, a.pair, 1);
    stage.expect(a.pair, &a);
    stage.expect(b.pair, &b);
    stage.media.command(MediaCommand::Bridge(a.pair, b.pair));
    a.hears_nothing(); // The commands are on their way meanwhile.
    b.sends(50_000);
    let first = position(&opened(&mut far, a.hears())).sequence;
    assert_eq!(first, 50_000 - 32_768, "the first turn is not near");
    b.sends(40_000);
    a.hears_nothing(); // Under this number something may have been sent.
    b.sends(40_001);
    let next = opened(&mut far, a.hears());
    assert_eq!(position(&next).sequence, first + 1);
}

#[test]
fn who_is_recorded_is_heard_on_both_tracks_and_hears_a_tone() {
    let folder = tempfile::tempdir().unwrap();
    let recorder =
        RecorderSettings { folder: folder.path().to_path_buf(), max_bytes: 1 << 20, beep: Duration::from_secs(15) };
    let mut stage = Stage::with(MediaSettings { recorder: Some(recorder), ..settings(21_480) });
    let pairs = stage.media.pairs();
    let (a, b) = (Party::at(HOME, pairs[0]), Party::at(HOME, pairs[1]));
    stage.expect(a.pair, &a);
    stage.expect(b.pair, &b);
    stage.media.command(MediaCommand::Bridge(a.pair, b.pair));
    a.reaches(&b);
    b.reaches(&a);
    let call = crate::call::CallRef(0xab);
    stage.media.command(MediaCommand::Record { pair: a.pair, call });
    a.hears_nothing(); // The command is on its way meanwhile.
    let (mut said, mut heard, mut toned) = (Vec::new(), Vec::new(), 0);
    for sequence in 100..120 {
        let sent = a.sends(sequence);
        toned += usize::from(b.hears()[12..] != sent[12..]);
        said.extend(sent[12..].iter().map(|octet| tones::from_mu_law(*octet)));
        b.sends(sequence);
        heard.extend(a.hears()[12..].iter().map(|octet| tones::from_mu_law(*octet)));
        thread::park_timeout(Duration::from_millis(20));
    }
    assert!((10..=11).contains(&toned), "a tone of 200 ms, mixed into {toned} packets");
    stage.close(a.pair);
    stage.media.command(MediaCommand::EndRecording { worker: 0, call });
    let report = loop {
        if let MediaEvent::Recorded(_, report) = stage.event() {
            break report;
        }
    };
    assert_eq!(report.lost_frames, 0);
    let file = hound::WavReader::open(folder.path().join(report.file.unwrap())).unwrap();
    let samples: Vec<i16> = file.into_samples().map(Result::unwrap).collect();
    for (side, spoken) in [said, heard].into_iter().enumerate() {
        let track: Vec<i16> = samples.chunks(2).map(|pair| pair[side]).collect();
        assert!(track.windows(spoken.len()).any(|window| window == spoken), "track {side}, sample by sample");
    }
}

#[test]
fn dropping_stops_the_threads_and_frees_the_ports() {
    for _ in 0..3 {
        let settings = MediaSettings { workers: 3, ..settings(21_400) };
        let media = Media::start(settings, unbounded_channel().0).unwrap();
        assert_eq!(media.pairs().len(), 10);
        assert_eq!(media.pairs().iter().map(|pair| pair.worker).max(), Some(2));
    }
}
