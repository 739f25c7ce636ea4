//! What one message, one call and one packet cost the pure core: `cargo bench`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use switchback::b2bua::B2bua;
use switchback::b2bua::io::{
    ApiOperation, ApiReply, Datagram, Epoch, Family, Input, Key, Keys, Law, MediaCommand, MediaEvent, Output,
    OutputContext, PortPair, Suite, Transfer, TransferStatus, Transport,
};
use switchback::b2bua::settings::{Network, Settings};
use switchback::call::CallRef;
use switchback::clock;
use switchback::leg::MediaCounters;
use switchback::media::relay::{Slot, Step, Table, Terms};
use switchback::media::srtp::{Protection, Sealed};
use switchback::sip::message::Message;
use switchback::sip::validate;
use switchback::sip::write::Writer;

const SDP: &str = "v=0\r\no=ivr 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 6000 RTP/AVP 0 8 101\r\n\
    a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\n";

fn invite(call: u64) -> Bytes {
    Bytes::from(format!(
        "INVITE sip:7000@127.0.0.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5080;branch=z9hG4bKc{call};rport\r\n\
         Max-Forwards: 70\r\nFrom: \"IVR\" <sip:+15550100042@127.0.0.1>;tag=f{call}\r\nTo: <sip:7000@127.0.0.1>\r\n\
         Call-ID: c{call}@127.0.0.1\r\nCSeq: 1 INVITE\r\nContact: <sip:ivr@127.0.0.1:5080>\r\nUser-Agent: bench\r\n\
         Allow: INVITE, ACK, BYE, CANCEL, OPTIONS\r\nSupported: replaces, timer\r\nX-GA-extConversationId: conv-{call}\r\n\
         X-GA-taskName: Billing\r\nX-GA-iv-name: Ada\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{SDP}",
        SDP.len()
    ))
}

/// A core, and both of its peers in a dozen lines each.
struct Bench {
    core: B2bua,
    now: Instant,
    calls: u64,
    records: u64,
    inputs: u64,
    pending: Vec<Input>,
}

impl Bench {
    fn new() -> Self {
        let now = clock::now();
        let access = vec![Network { address: [127, 0, 0, 1].into(), prefix: 32 }];
        let settings = Settings { access, max_calls_per_second: u32::MAX, ..Settings::default() };
        let pairs = (0..2_000).map(|n| PortPair { worker: 0, family: Family::V4, port: 20_000 + 2 * n });
        let core = B2bua::new(settings, pairs, [7; 32], Epoch { instant: now, unix_ms: 0 });
        Self { core, now, calls: 0, records: 0, inputs: 0, pending: Vec::new() }
    }

    fn feed(&mut self, input: Input) {
        self.inputs += 1;
        self.core.handle_input(self.now, input);
        while let Some(output) = self.core.poll_output() {
            self.react(output);
        }
    }

    fn from(&mut self, port: u16, bytes: Bytes) {
        let peer = SocketAddr::from(([127, 0, 0, 1], port));
        self.pending.push(Input::Received(Datagram { transport: Transport::Udp, peer, otherwise: None, bytes }));
    }

    fn react(&mut self, output: Output) {
        match output {
            Output::Consult(_) | Output::Look(_) | Output::Named(..) => {}
            Output::Asapp(request) => {
                let created = matches!(request.operation, ApiOperation::Create(_));
                let status = if created { TransferStatus::Active } else { TransferStatus::Completed };
                let output = OutputContext {
                    transfer_type: Some("AGENT".into()),
                    transfer_variables: vec![("intent".into(), "billing".into())],
                    ..OutputContext::default()
                };
                let transfer = Transfer {
                    status: Some(status),
                    number: Some("+19995550199".into()),
                    expires_at: Some(60_000),
                    output: (!created).then_some(output),
                    ..Transfer::default()
                };
                let reply = ApiReply { call: request.call, transfer: request.transfer, created, answer: Ok(transfer) };
                self.pending.push(Input::Asapp(reply));
            }
            Output::Media(MediaCommand::Close(pair)) => {
                self.pending.push(Input::Media(MediaEvent::Closed(pair, MediaCounters::default())));
                self.pending.push(Input::Media(MediaEvent::Quiet(pair)));
            }
            Output::Record(_) => self.records += 1,
            Output::Transmit(datagram) => self.peer(datagram),
            Output::Media(_) | Output::Publish(_) | Output::Remember(_) | Output::Closed => {}
        }
    }

    fn peer(&mut self, sent: Datagram) {
        let Ok(message) = Message::read(sent.bytes) else { return };
        let port = sent.peer.port();
        match (message.method().map(|method| method.as_str().to_owned()).as_deref(), message.status()) {
            (Some("INVITE"), _) => {
                for status in [180, 200] {
                    let mut writer = Writer::response(&message, status, Some("gt"));
                    writer.header_named("Contact", "<sip:ga@127.0.0.1:5070>");
                    let bytes = match status {
                        200 => writer.finish_with("application/sdp", SDP.as_bytes()),
                        _ => writer.finish(),
                    };
                    self.from(port, bytes);
                }
            }
            (Some("ACK"), _) if port == 5070 => {
                let bye = in_dialog(&message, "BYE", 1, true);
                self.from(port, bye);
            }
            (Some("BYE"), _) => {
                let answer = Writer::response(&message, 200, None).finish();
                self.from(port, answer);
            }
            (None, Some(200)) if port == 5080 => {
                let ack = in_dialog(&message, "ACK", 1, false);
                self.from(port, ack);
            }
            _ => {}
        }
    }

    /// One whole call: INVITE, number, 200, ACK, GenerativeAgent's BYE, outputContext, hand-back, record.
    fn call(&mut self) {
        self.calls += 1;
        let call = self.calls;
        self.from(5080, invite(call));
        while !self.pending.is_empty() {
            for input in std::mem::take(&mut self.pending) {
                self.feed(input);
            }
        }
        assert_eq!(self.records, self.calls, "every call leaves its record");
        // Tombstones and completed transactions of earlier calls go.
        self.now += Duration::from_secs(1);
        self.feed(Input::TimeReached);
    }
}

/// A request by the far side of the dialog that `message` belongs to.
fn in_dialog(message: &Message, method: &str, cseq: u32, swap: bool) -> Bytes {
    let header = |name| message.header_named(name).unwrap_or_default().to_owned();
    let (from, to) = if swap { (header("To"), header("From")) } else { (header("From"), header("To")) };
    let to_port = if swap { 5070 } else { 5080 };
    Bytes::from(format!(
        "{method} sip:switchback@127.0.0.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{to_port};branch=z9hG4bK{method}{}\r\n\
         Max-Forwards: 70\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n",
        header("Call-ID"),
        header("Call-ID"),
    ))
}

/// Two bridged far sides, and one that speaks: a packet of 20 ms of G.711 after the other.
struct Speech {
    table: Table,
    from: SocketAddr,
    now: Instant,
    packet: [u8; 172],
    sequence: u16,
}

impl Speech {
    fn new() -> Self {
        let pairs = [20_000, 20_002].map(|port| PortPair { worker: 0, family: Family::V4, port });
        let wait = Duration::from_secs(2);
        let terms = Terms { learn_window: wait, quarantine: wait, quarantine_limit: wait };
        let now = clock::now();
        let mut table = Table::new(&pairs, terms, Arc::default(), now);
        let far = [4_000, 5_000].map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
        for (row, rtp) in far.into_iter().enumerate() {
            table.lend(row, now);
            let rtcp = SocketAddr::new(rtp.ip(), rtp.port() + 1);
            table.expect(row, (Some(rtp), Some(rtcp)), None, now);
        }
        table.bridge(0, 1);
        let mut packet = [0x55; 172];
        packet[..2].copy_from_slice(&[0x80, 8]);
        Self { table, from: far[0], now, packet, sequence: 0 }
    }

    fn next(&mut self) -> Step {
        self.sequence = self.sequence.wrapping_add(1);
        self.now += Duration::from_millis(20);
        self.packet[1] = 8;
        self.packet[2..4].copy_from_slice(&self.sequence.to_be_bytes());
        self.packet[4..8].copy_from_slice(&(160 * u32::from(self.sequence)).to_be_bytes());
        self.packet[8..12].copy_from_slice(&7_u32.to_be_bytes());
        self.table.step(Slot::rtp(0), self.from, &mut self.packet, self.now)
    }
}

fn packets(criterion: &mut Criterion) {
    criterion.bench_function("relay a packet", |b| {
        let mut speech = Speech::new();
        b.iter(|| speech.next());
        assert!(matches!(speech.next(), Step::Forward(..)));
    });
    criterion.bench_function("relay a packet, its law turned", |b| {
        let mut speech = Speech::new();
        speech.table.law(1, Some(Law::Mu));
        b.iter(|| speech.next());
        assert_eq!(speech.packet[1] & 0x7f, 0);
    });
    criterion.bench_function("relay a packet, recorded", |b| {
        let mut speech = Speech::new();
        speech.table.roll(0, CallRef(1), Duration::ZERO, speech.now);
        b.iter(|| {
            speech.table.frames.clear();
            speech.next()
        });
        assert_eq!(speech.table.frames.len(), 1);
    });
    for suite in Suite::ALL {
        let key = |octet| Key::new(suite, vec![octet; suite.length()]).expect("as many octets as the suite wants");
        let keys = |ours, theirs| Keys { ours: key(ours), theirs: key(theirs) };
        criterion.bench_function(&format!("seal a packet and open it, {suite:?}"), |b| {
            let (mut here, mut there) = (Protection::new(&keys(1, 2)), Protection::new(&keys(2, 1)));
            let mut speech = Speech::new();
            b.iter(|| {
                speech.next();
                let Sealed::Packet(sealed) = here.seal(&speech.packet) else { panic!("it is protected") };
                let mut octets = [0; 256];
                octets[..sealed.len()].copy_from_slice(&sealed);
                assert_eq!(there.open(&mut octets[..sealed.len()]), Some(speech.packet.len()));
            });
        });
    }
}

fn benches(criterion: &mut Criterion) {
    let octets = invite(1);
    println!("INVITE of {} octets", octets.len());
    criterion.bench_function("parse an INVITE", |b| {
        b.iter(|| Message::read(std::hint::black_box(octets.clone())).map(|message| message.lines().count()));
    });
    criterion.bench_function("parse and validate an INVITE", |b| {
        b.iter(|| Message::read(octets.clone()).map(|message| validate::request(&message, &[]).is_ok()));
    });
    let message = Message::read(octets.clone()).expect("the INVITE above is one");
    criterion.bench_function("write a 200 with a description", |b| {
        b.iter(|| Writer::response(&message, 200, Some("tag")).finish_with("application/sdp", SDP.as_bytes()));
    });
    criterion.bench_function("one whole call through the core", |b| {
        let mut bench = Bench::new();
        b.iter(|| bench.call());
        println!("{} inputs a call", bench.inputs / bench.calls);
    });
}

criterion_group!(group, benches, packets);
criterion_main!(group);
