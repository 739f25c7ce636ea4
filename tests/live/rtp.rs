//! What goes through the relay, octet by octet.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use switchback::clock;
use switchback::demo::message::Invitation;
use switchback::demo::party::{Call, CallEvent, Party};
use switchback::demo::sdp;
use switchback::demo::tap::Tap;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::stage::{SOON, Setting, Stage};

pub const PACKET: Duration = Duration::from_millis(20);
const MOMENT: Duration = Duration::from_millis(500);

/// How long both sides speak: 20 s, or the full minute.
fn long() -> Duration {
    Duration::from_secs(if std::env::var_os("SWITCHBACK_LONG").is_some() { 60 } else { 20 })
}

/// A stream of G.711 whose packets are all different: the sequence number and the timestamp wrap on the way.
pub fn stream(ssrc: u32, packets: u32) -> Vec<Vec<u8>> {
    let packet = |index: u32| {
        let (sequence, timestamp) = (65_000_u16.wrapping_add(index as u16), 0xffff_0000_u32.wrapping_add(index * 160));
        let mut packet = vec![0x80, if index == 0 { 0x80 } else { 0 }];
        packet.extend(sequence.to_be_bytes());
        packet.extend(timestamp.to_be_bytes());
        packet.extend(ssrc.to_be_bytes());
        packet.extend((0..160_u32).map(|at| (index.wrapping_mul(31) ^ at.wrapping_mul(7) ^ ssrc) as u8));
        packet
    };
    (0..packets).map(packet).collect()
}

/// A media socket of the test.
#[derive(Debug, Clone)]
pub struct Mouth(pub Arc<UdpSocket>);

impl Mouth {
    pub async fn open(here: SocketAddr) -> Self {
        Self(Arc::new(UdpSocket::bind(here).await.unwrap()))
    }

    /// Sends these packets, one each interval.
    pub fn speak(&self, to: SocketAddr, packets: Vec<Vec<u8>>, every: Duration) -> JoinHandle<()> {
        let socket = self.0.clone();
        tokio::spawn(async move {
            let mut pace = tokio::time::interval(every);
            for packet in packets {
                pace.tick().await;
                socket.send_to(&packet, to).await.unwrap();
            }
        })
    }

    /// Everything heard until it is silent for this long, and from whom.
    async fn listen(&self, silence: Duration) -> (Vec<Vec<u8>>, Vec<SocketAddr>) {
        let (mut packets, mut sources, mut buffer) = (Vec::new(), Vec::new(), [0; 2048]);
        while let Ok(received) = timeout(silence, self.0.recv_from(&mut buffer)).await {
            let (length, source) = received.unwrap();
            packets.push(buffer[..length].to_vec());
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        (packets, sources)
    }

    pub fn hear(&self, silence: Duration) -> JoinHandle<(Vec<Vec<u8>>, Vec<SocketAddr>)> {
        let this = self.clone();
        tokio::spawn(async move { this.listen(silence).await })
    }
}

/// A call that is up, with the media of both sides in the test's hands.
pub struct Bridged {
    pub customer: Call,
    pub genagent: Call,
    /// Where each side's RTP goes.
    pub towards_customer_leg: SocketAddr,
    pub towards_genagent_leg: SocketAddr,
    _parties: [Party; 2],
}

async fn bridge(stage: &Stage, customer_media: SocketAddr, genagent_media: SocketAddr) -> Bridged {
    bridge_as(stage, &sdp::describe(customer_media), &sdp::describe(genagent_media)).await
}

/// A call between sides that describe themselves like this.
pub async fn bridge_as(stage: &Stage, customer_sdp: &str, genagent_sdp: &str) -> Bridged {
    let ivr = Party::start(stage.street.ivr(), Tap::default()).await.unwrap();
    let mut carrier = Party::start(stage.street.carrier(), Tap::default()).await.unwrap();
    let mut customer = ivr.call(&Invitation {
        target: stage.street.switchback(),
        user: "7000".to_owned(),
        caller: "+15550100042".to_owned(),
        headers: Vec::new(),
        sdp: customer_sdp.to_owned(),
    });
    let genagent = timeout(SOON, carrier.accept()).await.unwrap().unwrap();
    let towards_genagent_leg = sdp::audio_address(genagent.invite().unwrap().body()).unwrap();
    assert!(genagent.respond(200, genagent_sdp));
    let towards_customer_leg = loop {
        match timeout(SOON, customer.next()).await.unwrap() {
            CallEvent::Answered(answer) => break sdp::audio_address(answer.body()).unwrap(),
            CallEvent::Progressed(_) => {}
            other => panic!("{other:?}"),
        }
    };
    for port in [towards_customer_leg.port(), towards_genagent_leg.port()] {
        assert!(port.is_multiple_of(2), "RTP on the odd port {port}");
    }
    // The relay thread is told beside the customer's 200, which is here at once on loopback.
    tokio::time::sleep(Duration::from_millis(100)).await;
    Bridged { customer, genagent, towards_customer_leg, towards_genagent_leg, _parties: [ivr, carrier] }
}

pub async fn until_hung_up(call: &mut Call) {
    while !matches!(timeout(SOON, call.next()).await.unwrap(), CallEvent::HungUp(_)) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn m2_rtp_passes_unchanged_both_ways_while_strangers_spray_the_ports_and_nothing_follows_the_bye() {
    let _machine = crate::heavy::alone().await;
    let stage = Stage::set(Setting::default()).await;
    let (here, there) = (stage.street.at(3, 9000), stage.street.at(4, 9000));
    let (customer, genagent) = (Mouth::open(here).await, Mouth::open(there).await);
    let mut call = bridge(&stage, here, there).await;
    let packets = (long().as_millis() / PACKET.as_millis()) as u32;

    // Other hosts spray from before the first word on, another port of each side's own host joins in the middle.
    let spray = stream(0xbad, packets * 3);
    let mut strangers = Vec::new();
    for (house, port) in [(8, 9000), (9, 7000)] {
        let stranger = Mouth::open(stage.street.at(house, port)).await;
        for target in [call.towards_customer_leg, call.towards_genagent_leg] {
            stranger.speak(target, spray.clone(), Duration::from_millis(5));
        }
        strangers.push(stranger);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;

    let (from_customer, from_genagent) = (stream(0xc057, packets), stream(0x6e4a, packets));
    let listening = [genagent.hear(Duration::from_secs(2)), customer.hear(Duration::from_secs(2))];
    let speaking = [
        customer.speak(call.towards_customer_leg, from_customer.clone(), PACKET),
        genagent.speak(call.towards_genagent_leg, from_genagent.clone(), PACKET),
    ];
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (house, target) in [(3, call.towards_customer_leg), (4, call.towards_genagent_leg)] {
        let stranger = Mouth::open(stage.street.at(house, 9998)).await;
        stranger.speak(target, spray.clone(), Duration::from_millis(5));
        strangers.push(stranger);
    }
    for spoken in speaking {
        spoken.await.unwrap();
    }
    let [at_genagent, at_customer] = listening;
    let ((at_genagent, genagent_hears), (at_customer, customer_hears)) =
        (at_genagent.await.unwrap(), at_customer.await.unwrap());
    assert_eq!((at_genagent.len(), at_customer.len()), (packets as usize, packets as usize), "packets heard");
    assert!(at_genagent == from_customer, "GenerativeAgent hears what the customer says, octet by octet, in order");
    assert!(at_customer == from_genagent, "the customer hears what GenerativeAgent says, octet by octet, in order");
    assert_eq!((genagent_hears, customer_hears), (vec![call.towards_genagent_leg], vec![call.towards_customer_leg]));
    println!("{packets} packets each way in {:?}: all arrived, in order, unchanged", long());

    // The customer hangs up; both go on talking to a wall.
    assert!(call.customer.hang_up(&[]));
    until_hung_up(&mut call.genagent).await;
    customer.listen(Duration::from_millis(50)).await;
    genagent.listen(Duration::from_millis(50)).await;
    customer.speak(call.towards_customer_leg, stream(0xc057, 50), PACKET);
    genagent.speak(call.towards_genagent_leg, stream(0x6e4a, 50), PACKET);
    let after = [customer.hear(Duration::from_secs(1)), genagent.hear(Duration::from_secs(1))];
    for heard in after {
        assert!(heard.await.unwrap().0.is_empty(), "something follows the BYE");
    }
    for stranger in strangers {
        assert!(stranger.listen(Duration::from_millis(10)).await.0.is_empty(), "a stranger hears something");
    }
    let record = stage.verdict().await.1;
    for leg in ["customer_media", "genagent_media"] {
        assert_eq!(record[leg]["received_packets"], packets, "{leg}");
        assert_eq!(record[leg]["sent_packets"], packets, "{leg}");
    }
    println!("customer leg: {}\nGenerativeAgent leg: {}", record["customer_media"], record["genagent_media"]);
}

#[tokio::test]
async fn m1_a_customer_behind_nat_is_heard_and_hears_within_100_ms_of_the_first_packet() {
    let _machine = crate::heavy::alone().await;
    let stage = Stage::set(Setting::default()).await;
    let (behind, there) = ("10.9.8.7:9000".parse().unwrap(), stage.street.at(4, 9000));
    // The private address is the description's; the packets come from where the NAT puts them.
    let (customer, genagent) = (Mouth::open(stage.street.at(3, 40_000)).await, Mouth::open(there).await);
    let call = bridge(&stage, behind, there).await;
    genagent.speak(call.towards_genagent_leg, stream(0x6e4a, 100), PACKET);
    tokio::time::sleep(MOMENT).await;
    let begun = clock::now();
    customer.speak(call.towards_customer_leg, stream(0xc057, 50), PACKET);
    let mut buffer = [0; 2048];
    timeout(SOON, customer.0.recv_from(&mut buffer)).await.expect("the customer hears").unwrap();
    let hears = clock::now() - begun;
    timeout(SOON, genagent.0.recv_from(&mut buffer)).await.expect("GenerativeAgent hears").unwrap();
    let heard = clock::now() - begun;
    println!("behind NAT: hears after {hears:?}, is heard after {heard:?}");
    assert!(hears.max(heard) < Duration::from_millis(100), "hears after {hears:?}, is heard after {heard:?}");
}

/// A description that knows only this payload type of speech.
fn only(number: &str, at: SocketAddr) -> String {
    let both = sdp::describe(at);
    let line = both.lines().find(|line| line.starts_with("m=audio")).unwrap().to_owned();
    let one = line.replace(" 0 101", &format!(" {number} 101"));
    both.replace(&line, &one).replace("a=rtpmap:0 PCMU/8000\r\n", "")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn o9_a_side_with_mu_law_and_a_side_with_a_law_understand_each_other() {
    let stage = Stage::set(Setting::default()).await;
    let (here, there) = (stage.street.at(3, 9000), stage.street.at(4, 9000));
    let (customer, genagent) = (Mouth::open(here).await, Mouth::open(there).await);
    let mut call = bridge_as(&stage, &only("0", here), &only("8", there)).await;
    let mut from_genagent = stream(0x6e4a, 100);
    from_genagent.iter_mut().for_each(|packet| packet[1] |= 8);
    let from_customer = stream(0xc057, 100);
    let listening = [genagent.hear(MOMENT), customer.hear(MOMENT)];
    customer.speak(call.towards_customer_leg, from_customer.clone(), PACKET);
    genagent.speak(call.towards_genagent_leg, from_genagent.clone(), PACKET).await.unwrap();
    let [at_genagent, at_customer] = listening;
    let (at_genagent, at_customer) = (at_genagent.await.unwrap().0, at_customer.await.unwrap().0);
    for (said, heard, number) in [(from_customer, at_genagent, 8), (from_genagent, at_customer, 0)] {
        assert_eq!(heard.len(), said.len());
        for (said, heard) in said.iter().zip(&heard) {
            assert_eq!((heard[0], heard[1] & 0x7f, &heard[2..12]), (said[0], number, &said[2..12]));
            for (said, heard) in said[12..].iter().zip(&heard[12..]) {
                let (said, heard) = (linear(*said, number == 8), linear(*heard, number == 0));
                assert!((said - heard).abs() <= 16 + said.abs() / 16, "{said} became {heard}");
            }
        }
    }
    assert!(call.customer.hang_up(&[]));
    until_hung_up(&mut call.genagent).await;
    stage.close(&[]).await;
}

/// One octet as its definition has it (ITU-T G.711 tables 1a and 2a), scaled to 16 bits.
fn linear(octet: u8, is_mu_law: bool) -> i32 {
    let octet = if is_mu_law { !octet } else { octet ^ 0x55 };
    let (segment, step) = (u32::from(octet >> 4 & 7), i32::from(octet & 15));
    let magnitude = match (is_mu_law, segment) {
        (true, _) => (((2 * step + 33) << segment) - 33) * 4,
        (false, 0) => (2 * step + 1) * 8,
        (false, _) => ((2 * step + 33) << (segment - 1)) * 8,
    };
    if (octet & 0x80 != 0) == is_mu_law { -magnitude } else { magnitude }
}

#[tokio::test]
async fn m8_rtcp_goes_both_ways_beside_the_rtp_and_says_nothing_of_who_is_behind_us() {
    let stage = Stage::set(Setting::default()).await;
    let (here, there) = (stage.street.at(3, 9000), stage.street.at(4, 9000));
    let mouth = |at: u8, port| Mouth::open(stage.street.at(at, port));
    let (customer, customer_rtcp) = (mouth(3, 9000).await, mouth(3, 9001).await);
    let (genagent, genagent_rtcp) = (mouth(4, 9000).await, mouth(4, 9001).await);
    let call = bridge(&stage, here, there).await;
    customer.speak(call.towards_customer_leg, stream(0xc057, 5), PACKET).await.unwrap();
    genagent.speak(call.towards_genagent_leg, stream(0x6e4a, 5), PACKET).await.unwrap();

    // A receiver report, a CNAME and a BYE (RFC 3550 sections 6.4.2, 6.5 and 6.6).
    let report = |ssrc: u32| {
        let ssrc = ssrc.to_be_bytes();
        let name = [&[0x81, 202, 0, 3][..], &ssrc, &[1, 4], b"anna", &[0, 0]].concat();
        [&[0x80, 201, 0, 1][..], &ssrc, &name, &[0x81, 203, 0, 1], &ssrc].concat()
    };
    let rtcp = |rtp: SocketAddr| SocketAddr::new(rtp.ip(), rtp.port() + 1);
    customer_rtcp.speak(rtcp(call.towards_customer_leg), vec![report(0xc057)], PACKET).await.unwrap();
    genagent_rtcp.speak(rtcp(call.towards_genagent_leg), vec![report(0x6e4a)], PACKET).await.unwrap();
    for (ear, ssrc) in [(genagent_rtcp, 0xc057), (customer_rtcp, 0x6e4a)] {
        let heard = ear.listen(MOMENT).await.0;
        let [heard] = &heard[..] else { panic!("{heard:x?}") };
        let is_report = heard[..8] == report(ssrc)[..8] && heard[9] == 202 && heard[12..16] == report(ssrc)[4..8];
        assert!(is_report, "a report and a name of the stream: {heard:x?}");
        assert_eq!(heard.len(), 8 + 4 * (usize::from(heard[11]) + 1), "and nothing else: the stream goes on");
        assert!(!heard.windows(4).any(|octets| octets == b"anna"), "{heard:x?}");
    }
}

#[tokio::test]
async fn h1_sipp_streams_and_the_echo_comes_back_through_the_relay() {
    let stage = Stage::set(Setting::default()).await;
    stage.has_voice("customer.ulaw");
    let carrier = stage.carrier("carrier_is_hung_up_on").option(&["-rtp_echo"]).start();
    stage.ivr("ivr_speaks").pause(Duration::from_secs(3)).play(SOON).await;
    carrier.well(SOON).await;
    let record = stage.verdict().await.1;
    let count = |leg: &str, what: &str| record[leg][what].as_u64().unwrap();
    let spoken = count("customer_media", "received_packets");
    println!("SIPp spoke {spoken} packets in 3 s; {} came back", count("customer_media", "sent_packets"));
    assert!((140..=160).contains(&spoken), "{spoken} packets of 20 ms in 3 s");
    assert_eq!(count("genagent_media", "sent_packets"), spoken);
    // The last echo may cross the BYE.
    assert!(spoken - count("genagent_media", "received_packets") <= 2);
    assert!(spoken - count("customer_media", "sent_packets") <= 2);
    stage.close(&[]).await;
}

#[tokio::test]
async fn h11_a_customer_on_ipv6_and_a_trunk_on_ipv4_hear_each_other() {
    let stage = Stage::set(Setting::default().on_both_families().key("sip.max_calls", "5")).await;
    let mut carrier = Party::start(stage.street.carrier(), Tap::default()).await.unwrap();
    let (here, there) = ((Ipv6Addr::LOCALHOST, 0).into(), stage.street.at(4, 9000));
    let (customer, genagent) = (Mouth::open(here).await, Mouth::open(there).await);
    let port = customer.0.local_addr().unwrap().port().to_string();
    let ivr = stage
        .ivr_on_ipv6("ivr_has_media_elsewhere")
        .option(&["-key", "rtp", &port])
        .pause(Duration::from_secs(4))
        .start();

    let mut call = timeout(SOON, carrier.accept()).await.unwrap().unwrap();
    let offer = String::from_utf8(call.invite().unwrap().body().to_vec()).unwrap();
    let relay = sdp::audio_address(offer.as_bytes()).unwrap();
    assert_eq!(relay.ip(), stage.street.switchback().ip(), "{offer}");
    assert!(call.respond(200, &sdp::describe(there)));
    // The relay thread is told beside the customer's 200, which is here at once on loopback.
    tokio::time::sleep(Duration::from_millis(100)).await;

    let (from_genagent, from_customer) = (stream(0x6e4a, 25), stream(0xc057, 25));
    genagent.speak(relay, from_genagent.clone(), PACKET);
    let (heard, sources) = customer.listen(MOMENT).await;
    assert!(heard == from_genagent, "the customer hears every octet: {} packets", heard.len());
    assert_eq!((sources.len(), sources[0].ip()), (1, Ipv6Addr::LOCALHOST.into()));
    customer.speak(sources[0], from_customer.clone(), PACKET);
    let (heard, sources) = genagent.listen(MOMENT).await;
    assert!(heard == from_customer, "GenerativeAgent hears every octet: {} packets", heard.len());
    assert_eq!(sources, [relay]);

    let ivr = ivr.well(SOON).await;
    until_hung_up(&mut call).await;
    assert_eq!(ivr.logged("relay"), ["c=IN IP6 ::1"]);
    let record = stage.verdict().await.1;
    for leg in ["customer_media", "genagent_media"] {
        assert_eq!((&record[leg]["received_packets"], &record[leg]["sent_packets"]), (&25.into(), &25.into()), "{leg}");
    }
}
