//! The core in virtual time: lanes, things in flight, a relay that obeys, and what comes out at the far ends.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use switchback::b2bua::B2bua;
use switchback::b2bua::io::{
    Advice, ApiFailure, ApiOperation, ApiReply, ApiRequest, Change, Datagram, Epoch, FailureClass, Family, Input,
    Inquiry, Look, MediaCommand, MediaEvent, OperatorCommand, Output, PortPair, PublishedContext, Question, Recorded,
    Records, Remembered, TapeEnd, Transfer, Transport,
};
use switchback::b2bua::settings::{Network, Reach, Settings, Srtp, Trunk};
use switchback::call::CallRef;
use switchback::call::record::CallRecord;
use switchback::call::rules::Target;
use switchback::call::settings::CallSettings;
use switchback::clock;
use switchback::leg::MediaCounters;
use switchback::sip::locate::Place;

use crate::audit::Audit;
use crate::ladder::Ladder;
use crate::random::Random;
use crate::relay::Relay;
use crate::text::Sip;

pub const CORE: &str = "192.0.2.1:5060";
pub const IVR: &str = "198.51.100.10:5060";
pub const CARRIER: &str = "203.0.113.20:5060";
/// Where customers go next.
pub const QUEUE: &str = "198.51.100.40:5060";
/// The wall clock when a world begins.
pub const UNIX_MS: i64 = 1_795_000_000_000;
/// How long a closed port pair drains.
pub const QUARANTINE: Duration = Duration::from_secs(2);

pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// How messages travel to and from one party.
#[derive(Debug, Clone, Copy)]
pub struct Lane {
    pub delay: Duration,
    /// Up to this much more, different for every message: they overtake each other.
    pub jitter: Duration,
    /// How many of a hundred are lost.
    pub loss: u64,
    /// How many of a hundred come twice.
    pub twice: u64,
}

impl Lane {
    pub const fn clean(delay: Duration) -> Self {
        Self { delay, jitter: Duration::ZERO, loss: 0, twice: 0 }
    }
}

/// Something on its way.
#[derive(Debug, Clone)]
pub enum Flight {
    ToCore(SocketAddr, Bytes),
    ToParty(SocketAddr, Bytes),
    Reply(u64, ApiReply),
    Media(MediaEvent),
    Looked(Look),
    Advice(Advice),
    Alarm(u64),
}

/// Something that concerns whoever plays the far ends.
#[derive(Debug)]
pub enum Event {
    /// A message arrived at the party with this address.
    Sip(SocketAddr, Bytes),
    /// ASAPP is asked; answer by this number.
    Asked(u64, ApiRequest),
    /// An alarm set by a party.
    Alarm(u64),
    /// A record was written, a context published, or the drain completed.
    Wrote,
}

pub struct Engine {
    pub core: B2bua,
    pub start: Instant,
    pub now: Instant,
    pub random: Random,
    pub lanes: BTreeMap<SocketAddr, Lane>,
    /// Parties that do not speak UDP.
    pub transports: BTreeMap<SocketAddr, Transport>,
    pub queue: BTreeMap<(Instant, u64), Flight>,
    pub events: VecDeque<Event>,
    pub audit: Audit,
    pub ladder: Ladder,
    pub relay: Relay,
    pub records: Vec<CallRecord>,
    pub published: Vec<PublishedContext>,
    /// What the core wanted written down of conversations.
    pub on_disk: BTreeMap<String, Remembered>,
    /// What left over a transport that its party does not speak: it reaches nobody.
    pub strays: Vec<(SocketAddr, Transport, Bytes)>,
    /// Every API request, in order.
    pub asked: Vec<ApiRequest>,
    /// The core said that its drain is complete.
    pub closed: bool,
    /// Until then the driver does not come round to the core.
    pub stalled_until: Instant,
    pub margin: Duration,
    /// Whether what arrives in the same instant as a timer fires comes before it.
    pub arrivals_first: bool,
    /// When each was asked, and where its limit is in the queue.
    open_questions: BTreeMap<u64, (Instant, (Instant, u64))>,
    order: u64,
    /// Servers of trunks; the first is the usual one.
    pub carriers: Vec<SocketAddr>,
    /// What the DNS says; of everything else, that there is nothing.
    pub dns: HashMap<Question, Result<(Records, Duration), String>>,
    /// Every question to it.
    pub looked: Vec<Question>,
    /// What webhooks answer, in order, each after so long; then nothing in time.
    pub advice: VecDeque<(Duration, Result<Bytes, String>)>,
    /// Every question to them.
    pub inquiries: Vec<Inquiry>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Engine")
    }
}

/// The settings of a world unless a test wants others.
pub fn settings() -> Settings {
    let carrier = address(CARRIER);
    let queue =
        Reach { place: Place::at(Transport::Udp, address(QUEUE)), domain: "pbx.example".to_owned(), srtp: Srtp::Allow };
    Settings {
        sip_address: address(CORE),
        media_addresses: vec![address(CORE).ip()],
        access: vec![Network { address: address(IVR).ip(), prefix: 32 }],
        trunks: vec![Trunk {
            name: "carrier".to_owned(),
            place: Place::at(Transport::Udp, carrier),
            domain: "carrier.example".to_owned(),
            caller_id: "+15550100".to_owned(),
            ..Trunk::default()
        }],
        targets: [("queue".to_owned(), vec![queue.clone(), queue])].into(),
        // Whether the right party answered is asked in guard.rs and in the chaos; other flows are easier to read without.
        call: CallSettings {
            verify_after: Duration::ZERO,
            targets: [(
                "queue".to_owned(),
                Target {
                    uris: ["sip:queue@pbx.example", "sip:next@pbx.example"].map(str::to_owned).into(),
                    ring_limit: secs(20),
                    silence: secs(6),
                    accept_limit: secs(5),
                    profile: None,
                },
            )]
            .into(),
            ..CallSettings::default()
        },
        ..Settings::default()
    }
}

impl Engine {
    pub fn new(settings: Settings, pairs: u16, seed: u64) -> Self {
        let start = clock::now();
        let mut ids = [0; 32];
        ids[..8].copy_from_slice(&seed.to_le_bytes());
        let families: Vec<Family> = settings.media_addresses.iter().copied().map(Family::of).collect();
        let of = |family| (0..pairs).map(move |n| PortPair { worker: 0, family, port: 20_000 + 2 * n });
        let pairs = families.into_iter().flat_map(of);
        let (margin, carrier) = (settings.call.expiry_margin, carrier_of(&settings));
        Self {
            core: B2bua::new(settings, pairs, ids, Epoch { instant: start, unix_ms: UNIX_MS }),
            start,
            now: start,
            random: Random::new(seed ^ 0x5bd1_e995),
            lanes: BTreeMap::from([
                (address(IVR), Lane::clean(ms(1))),
                (carrier, Lane::clean(ms(10))),
                (address(QUEUE), Lane::clean(ms(2))),
            ]),
            transports: BTreeMap::new(),
            queue: BTreeMap::new(),
            events: VecDeque::new(),
            audit: Audit::default(),
            ladder: Ladder::new(address(IVR), carrier),
            relay: Relay::default(),
            records: Vec::new(),
            published: Vec::new(),
            on_disk: BTreeMap::new(),
            strays: Vec::new(),
            asked: Vec::new(),
            closed: false,
            stalled_until: start,
            margin,
            arrivals_first: false,
            open_questions: BTreeMap::new(),
            order: 0,
            carriers: vec![carrier],
            dns: HashMap::new(),
            looked: Vec::new(),
            advice: VecDeque::new(),
            inquiries: Vec::new(),
        }
    }

    // --- putting things in flight ---

    pub fn launch(&mut self, after: Duration, flight: Flight) {
        self.order += 1;
        self.queue.insert((self.now + after, self.order), flight);
    }

    fn travel(&mut self, party: SocketAddr, flight: &Flight) {
        let lane = self.lanes.get(&party).copied().unwrap_or(Lane::clean(ms(1)));
        let copies = if lane.loss > 0 && self.random.percent(lane.loss) { 0 } else { 1 };
        let copies = copies + usize::from(lane.twice > 0 && self.random.percent(lane.twice));
        for _ in 0..copies {
            let jitter = if lane.jitter.is_zero() { Duration::ZERO } else { self.random.duration(lane.jitter) };
            self.launch(lane.delay + jitter, flight.clone());
        }
    }

    /// How a party speaks.
    pub fn transport(&self, party: SocketAddr) -> Transport {
        self.transports.get(&party).copied().unwrap_or(Transport::Udp)
    }

    /// The connection to a party breaks; what is on its way over it is gone.
    pub fn reset(&mut self, party: SocketAddr) {
        let of =
            |flight: &Flight| matches!(flight, Flight::ToCore(peer, _) | Flight::ToParty(peer, _) if *peer == party);
        self.queue.retain(|_, flight| !of(flight));
        let transport = self.transport(party);
        self.audit.broken(self.now, party);
        self.feed(Input::TransportFailed { transport, peer: party });
    }

    /// A party sends octets to the core.
    pub fn send(&mut self, from: SocketAddr, octets: Vec<u8>) {
        self.travel(from, &Flight::ToCore(from, Bytes::from(octets)));
    }

    pub fn alarm(&mut self, after: Duration, number: u64) {
        self.launch(after, Flight::Alarm(number));
    }

    /// ASAPP's answer to a question; only the first one that arrives counts, and the adapter's limit is one of them.
    pub fn reply(&mut self, question: u64, latency: Duration, answer: Result<Transfer, ApiFailure>) {
        let asked = &self.asked[question as usize];
        let (call, transfer) = (asked.call, asked.transfer.clone());
        let created = matches!(asked.operation, ApiOperation::Create(_));
        let late = latency > asked.timeout;
        self.launch(latency, Flight::Reply(question, ApiReply { call, transfer, created, answer }));
        if let (Some((_, limit)), true) = (self.open_questions.get(&question), late) {
            self.queue.remove(limit); // The adapter itself is late.
        }
    }

    /// When a question was asked that has not been answered yet.
    pub fn asked_at(&self, question: u64) -> Option<Instant> {
        self.open_questions.get(&question).map(|(asked, _)| *asked)
    }

    pub fn operator(&mut self, command: OperatorCommand) {
        self.feed(Input::Operator(command));
    }

    // --- time ---

    /// Lives until something concerns a far end, at most until then.
    pub fn next(&mut self, until: Instant) -> Option<Event> {
        self.drain();
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let flight = self.queue.first_key_value().map(|((at, _), _)| *at);
            let timer = self.core.next_timeout().map(|at| at.max(self.stalled_until));
            let flight = flight.map(|at| at.max(self.stalled_until));
            let due = flight.into_iter().chain(timer).min().filter(|&at| at <= until);
            let Some(at) = due else {
                self.now = self.now.max(until);
                return None;
            };
            self.now = self.now.max(at);
            let timer_now = timer == Some(at) && !(self.arrivals_first && flight == Some(at));
            if timer_now {
                self.feed(Input::TimeReached);
                assert!(self.core.next_timeout().is_none_or(|next| next > self.now), "a timer that is due stays");
            } else if let Some((_, flight)) = self.queue.pop_first() {
                self.land(flight);
            }
        }
    }

    pub fn land(&mut self, flight: Flight) {
        match flight {
            Flight::ToCore(peer, bytes) => {
                self.ladder.received(self.now - self.start, peer, &bytes);
                self.audit.received(self.now, &bytes, self.lanes.contains_key(&peer));
                let transport = self.transport(peer);
                self.feed(Input::Received(Datagram { transport, peer, otherwise: None, bytes }));
            }
            Flight::ToParty(peer, bytes) => self.events.push_back(Event::Sip(peer, bytes)),
            Flight::Reply(question, reply) => {
                if let Some((asked, _)) = self.open_questions.remove(&question) {
                    self.ladder.replied(self.now - self.start, &reply);
                    if let Ok(Transfer { number, expires_at, dated, .. }) = &reply.answer {
                        let life = expires_at.map_or(secs(60), |at| ms((at - dated).max(0).unsigned_abs()));
                        // Where a URI is dialled, the transfer's id stands for the number.
                        for number in number.iter().chain([&reply.transfer.0]) {
                            self.audit.numbered(number, asked, life.saturating_sub(self.margin));
                        }
                    }
                    self.feed(Input::Asapp(reply));
                }
            }
            Flight::Media(event) => {
                let news = match event {
                    MediaEvent::Silent(pair) => self.relay.hush(pair, true),
                    MediaEvent::Resumed(pair) => self.relay.hush(pair, false),
                    MediaEvent::Quiet(pair) => {
                        self.relay.quiet(pair);
                        true
                    }
                    _ => true,
                };
                if news {
                    self.feed(Input::Media(event));
                }
            }
            Flight::Advice(advice) => self.feed(Input::Advised(advice)),
            Flight::Looked(look) => self.feed(Input::Looked(look)),
            Flight::Alarm(number) => self.events.push_back(Event::Alarm(number)),
        }
    }

    pub fn feed(&mut self, input: Input) {
        self.core.handle_input(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        let at = self.now - self.start;
        match output {
            Output::Transmit(Datagram { transport, peer, bytes, .. }) => {
                if transport != self.transport(peer) {
                    self.strays.push((peer, transport, bytes));
                    self.events.push_back(Event::Wrote);
                    return;
                }
                self.ladder.sent(at, peer, &bytes);
                self.audit.sent(self.now, peer, &bytes, &self.carriers);
                self.travel(peer, &Flight::ToParty(peer, bytes));
            }
            Output::Asapp(request) => {
                self.ladder.asked(at, &request);
                let question = self.asked.len() as u64;
                self.asked.push(request.clone());
                self.reply(question, request.timeout, Err(failure(FailureClass::Ambiguous)));
                self.open_questions.insert(question, (self.now, (self.now + request.timeout, self.order)));
                self.events.push_back(Event::Asked(question, request));
            }
            Output::Consult(inquiry) => self.consult(*inquiry),
            Output::Look(question) => self.look(question),
            Output::Named(..) => {}
            Output::Media(command) => self.obey(at, &command),
            Output::Publish(context) => {
                self.published.push(*context);
                self.events.push_back(Event::Wrote);
            }
            Output::Remember(change) => self.write_down(change),
            Output::Record(record) => {
                self.events.push_back(Event::Wrote);
                self.ladder.remark(at, &format!("record: {}", record.verdict.outcome));
                self.records.push(*record);
            }
            Output::Closed => {
                self.closed = true;
                self.events.push_back(Event::Wrote);
            }
        }
    }

    pub fn write_down(&mut self, change: Change) {
        match change.to {
            Some(remembered) => drop(self.on_disk.insert(change.conversation.0, *remembered)),
            None => drop(self.on_disk.remove(&change.conversation.0)),
        }
    }

    fn consult(&mut self, inquiry: Inquiry) {
        let limit = inquiry.timeout;
        self.ladder.remark(self.now - self.start, &format!("webhook {}: POST", inquiry.webhook));
        let late = || (limit, Err(format!("no answer in {limit:?}")));
        let (after, answer) = self.advice.pop_front().filter(|(after, _)| *after <= limit).unwrap_or_else(late);
        self.launch(after, Flight::Advice(Advice { call: inquiry.call, number: inquiry.number, answer }));
        self.inquiries.push(inquiry);
    }

    fn look(&mut self, question: Question) {
        let nothing = match question {
            Question::Naptr(_) => Records::Naptr(Vec::new()),
            Question::Srv(_) => Records::Srv(Vec::new()),
            Question::Addresses(_) => Records::Addresses(Vec::new()),
        };
        let answer = self.dns.get(&question).cloned().unwrap_or(Ok((nothing, secs(300))));
        self.looked.push(question.clone());
        self.launch(ms(5), Flight::Looked(Look { question, answer }));
    }

    fn obey(&mut self, at: Duration, command: &MediaCommand) {
        self.ladder.media(at, command);
        let closed = self.relay.obey(command);
        if let (MediaCommand::Close(pair), true) = (command, closed) {
            self.launch(Duration::ZERO, Flight::Media(MediaEvent::Closed(*pair, MediaCounters::default())));
            self.launch(QUARANTINE, Flight::Media(MediaEvent::Quiet(*pair)));
        }
        if let MediaCommand::EndRecording { call, .. } = *command {
            let file = Some(format!("{call}.wav"));
            let report =
                Recorded { file, milliseconds: 1, lost_frames: 0, unreadable_frames: 0, end: TapeEnd::Complete };
            self.launch(ms(50), Flight::Media(MediaEvent::Recorded(call, report)));
        }
    }

    // --- the end ---

    /// Everything that must hold when all is over; empty when it does.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.audit.verdict();
        let counters = self.core.counters(self.now);
        let gauges = [
            ("calls", counters.active_calls),
            ("legs", counters.active_legs),
            ("transactions", counters.active_transactions),
            ("timers", counters.active_timers),
            ("dialogs", counters.active_dialogs),
            ("conversations onward", counters.conversations_onward),
            ("ports lent", counters.ports_lent),
            ("ports draining", counters.ports_draining),
            ("pairs open in the relay", self.relay.open() as u64),
            ("recordings", self.relay.tapes.len() as u64),
        ];
        faults.extend(gauges.iter().filter(|(_, left)| *left > 0).map(|(what, left)| format!("{left} {what} left")));
        faults.extend(self.relay.misused.iter().map(|pair| format!("used while it drains: {pair:?}")));
        let records: BTreeSet<CallRef> = self.records.iter().map(|record| record.call).collect();
        if records.len() != self.records.len() || self.records.len() as u64 != counters.calls {
            faults.push(format!("{} calls, {} records of {}", counters.calls, self.records.len(), records.len()));
        }
        faults
    }
}

/// The first trunk's address.
fn carrier_of(settings: &Settings) -> SocketAddr {
    let place = &settings.trunks[0].place;
    let port = place.port.unwrap_or(5060);
    place.host.parse().map_or_else(|_| address(CARRIER), |ip| SocketAddr::new(ip, port))
}

/// A failure of this class, as the adapter words it.
pub fn failure(class: FailureClass) -> ApiFailure {
    let status = match class {
        FailureClass::InvalidRequest => Some(400),
        FailureClass::Refused => Some(405),
        FailureClass::Unauthorized => Some(401),
        FailureClass::NotFound => Some(404),
        FailureClass::Conflict => Some(409),
        FailureClass::Throttled => Some(429),
        FailureClass::ServerError => Some(500),
        FailureClass::Malformed => Some(200),
        FailureClass::Ambiguous
        | FailureClass::Unreachable
        | FailureClass::Withheld
        | FailureClass::Shed
        | FailureClass::NoTrunk => None,
    };
    ApiFailure { class, status, request_id: None, detail: class.as_str().to_owned(), retry_after: None }
}

/// The message in octets that a party received.
pub fn sip(octets: &Bytes) -> Sip {
    Sip::read(octets).unwrap_or_else(|| panic!("no SIP: {}", String::from_utf8_lossy(octets)))
}
