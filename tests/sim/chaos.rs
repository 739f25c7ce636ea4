//! Ten thousand calls over a network that loses, doubles and reorders, with an API that is late or fails, and people
//! who come and go as they please. Whatever happens: every call ends, once, and nothing is left.
//!
//! `SWITCHBACK_LONG=1` makes it a hundred thousand calls.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use switchback::b2bua::io::{MediaEvent, OperatorCommand, Question, Records, Transport};
use switchback::b2bua::settings::{Peer, Settings, Trunk};
use switchback::call::record::CallRecord;
use switchback::call::recording::Occasion;
use switchback::call::rules::Matcher;
use switchback::call::settings::{Answer, Return, ReturnUri, WayIn};
use switchback::call::verdict::Outcome;
use switchback::sip::digest::Credentials;
use switchback::sip::locate::{Place, Srv};

use crate::engine::{CARRIER, Engine, Event, Flight, IVR, Lane, QUEUE, address, ms, secs, settings, sip};
use crate::ladders::rules;
use crate::random::Random;
use crate::robots::{Alarm, Asapp, Callee, Caller, read, set};
use crate::text::{self, Sip};

const CALLS: usize = 25;
/// Customers whose place somebody else asks for, on average.
const TAKEOVERS: u64 = 8;
/// Customers for whom an IVR asks by REFER, on average.
const ASKED: u64 = 4;
/// The second server, of the same trunk or of another.
const SECOND: &str = "203.0.113.21:5060";
/// The name of a trunk whose servers are found.
const NAME: &str = "trunk.example";
/// When the last customer has called.
const RUSH: Duration = secs(30);
/// When nothing may be left.
const END: Duration = secs(400);

struct Chaos {
    engine: Engine,
    random: Random,
    callers: Vec<Caller>,
    callees: Vec<Callee>,
    dialled: BTreeMap<String, usize>,
    asapp: Asapp,
    /// Whether GenerativeAgent calls back.
    calls_back: bool,
    /// Answers that it got.
    taken_back: usize,
}

impl Chaos {
    fn new(seed: u64, drawing: bool) -> Self {
        let mut random = Random::new(seed);
        let mut settings = settings();
        settings.call.max_duration = secs(60);
        let (username, password) = ("switchback".to_owned(), "word".to_owned());
        settings.trunks[0].credentials = Some(Credentials { username, password, realm: None });
        settings.peers = vec![Peer {
            from: settings.access.clone(),
            accept_refer: true,
            refer_hosts: vec![address(QUEUE).ip().to_string()],
            credentials: None,
        }];
        let land = Land::new(seed);
        land.settle(&mut settings);
        let uri = "sip:genagent@asapp.example".to_owned();
        let back = ReturnUri::read("sip:back@192.0.2.1").map(Return::Invite);
        let calls_back = seed % 7 == 5;
        match back {
            Some(returns) if calls_back => settings.call.way_in = WayIn::Sip { uri, returns },
            _ if seed % 7 == 6 => settings.call.way_in = WayIn::Headers { uri },
            _ => {}
        }
        if random.percent(50) {
            let ended = Matcher { outcome: vec![Outcome::Agent, Outcome::GenagentLost], ..Matcher::default() };
            let never = Matcher { outcome: vec![Outcome::NotConnected], ..Matcher::default() };
            let ladders: [&[&str]; 3] = [
                &["dial:queue", "bye", "refuse:480"],
                &["refer:queue", "dial:queue", "bye", "refuse:480"],
                &["refer_replaces:queue", "bye", "refuse:480"],
            ];
            let ladder = ladders[random.below(3) as usize];
            rules(&mut settings, [(ended, ladder), (never, ladder)]);
            settings.call.ladder_limit = random.between(secs(5), secs(60));
        }
        if random.percent(30) {
            settings.call.answer = Answer::First;
            settings.call.dwell_limit = random.duration(secs(30));
        }
        settings.call.recording.kept = seed.is_multiple_of(2);
        settings.call.recording.occasions = vec![Occasion::default()];
        settings.breaker.failures = if random.percent(20) { 5 } else { 0 };
        let pairs = if random.percent(20) { 20 } else { 80 };
        let mut engine = Engine::new(settings, pairs, seed);
        engine.ladder.drawing = drawing;
        engine.arrivals_first = random.percent(50);
        let jitter = if random.percent(20) { ms(700) } else { ms(40) };
        for party in [IVR, CARRIER, SECOND, QUEUE] {
            engine.lanes.insert(address(party), Lane { delay: ms(5), jitter, loss: 10, twice: 10 });
        }
        land.people(&mut engine, &mut random);
        let transport = engine.transport(address(IVR));
        let callers = (0..CALLS).map(|index| Caller::new(index, &mut random).over(transport)).collect();
        for index in 0..CALLS {
            set(&mut engine, random.duration(RUSH), Alarm::Call, index);
            set(&mut engine, random.duration(RUSH * 2), Alarm::Mischief, index);
            if random.percent(30) {
                set(&mut engine, random.duration(RUSH * 2), Alarm::Refer, index);
            }
        }
        for _ in 0..random.below(2 * TAKEOVERS) {
            set(&mut engine, random.duration(RUSH * 2), Alarm::TakeOver, 0);
        }
        for _ in 0..random.below(2 * ASKED) {
            set(&mut engine, random.duration(RUSH * 2), Alarm::Ask, 0);
        }
        if random.percent(10) {
            set(&mut engine, random.between(RUSH / 2, RUSH * 2), Alarm::Stop, 0);
        }
        let (callees, dialled, asapp) = (Vec::new(), BTreeMap::new(), Asapp::default());
        Self { engine, random, callers, callees, dialled, asapp, calls_back, taken_back: 0 }
    }

    fn live(&mut self) {
        let end = self.engine.start + END;
        while let Some(event) = self.engine.next(end) {
            match event {
                Event::Sip(party, octets) => {
                    let sip = sip(&octets);
                    if party == address(IVR) {
                        let caller = sip.call_id().split('@').next().and_then(|index| index.parse::<usize>().ok());
                        if let Some(caller) = caller.and_then(|index| self.callers.get_mut(index)) {
                            caller.hears(&mut self.engine, &sip);
                        }
                    } else if [CARRIER, SECOND, QUEUE].map(address).contains(&party) {
                        self.callee_hears(party, &sip);
                    }
                }
                Event::Asked(question, request) => {
                    self.asapp.asked(&mut self.engine, &mut self.random, question, &request);
                }
                Event::Alarm(number) => self.alarmed(number),
                Event::Wrote => {}
            }
        }
    }

    fn callee_hears(&mut self, party: SocketAddr, sip: &Sip) {
        match self.dialled.get(sip.call_id()) {
            Some(&index) => self.callees[index].hears(&mut self.engine, sip),
            None if sip.is("INVITE") => {
                let index = self.callees.len();
                self.dialled.insert(sip.call_id().to_owned(), index);
                self.callees.push(Callee::invited(index, party, sip.clone(), &mut self.engine, &mut self.random));
            }
            None if sip.is("OPTIONS") => self.engine.send(party, Sip::response(sip, 200, "ping").octets()),
            None if sip.call_id().starts_with("back-") => self.taken_back += usize::from(sip.status() == Some(200)),
            None => {} // It overtook its INVITE.
        }
    }

    fn alarmed(&mut self, number: u64) {
        let Self { engine, random, callers, callees, .. } = self;
        let (alarm, index) = read(number);
        match alarm {
            Alarm::Call => callers[index].call(engine, random),
            Alarm::Leave => callers[index].leave(engine),
            Alarm::CallerRepeats => callers[index].repeats(engine),
            Alarm::Decide => callees[index].decide(engine, random),
            Alarm::HangUp => callees[index].hang_up(engine),
            Alarm::CalleeRepeats => callees[index].repeats(engine),
            Alarm::CallerOffers => callers[index].offers(engine, random),
            Alarm::CalleeOffers => callees[index].offers(engine, random),
            Alarm::Mischief => self.mischief(),
            Alarm::TakeOver => self.take_over(),
            Alarm::Refer => callers[index].refers(engine, random),
            Alarm::Ask => self.ask(),
            Alarm::Stop => engine.operator(OperatorCommand::Stop),
            Alarm::Reset => engine.reset(address([IVR, CARRIER, SECOND][index])),
            Alarm::Dies => silence(engine, index, 100),
            Alarm::Returns => silence(engine, index, 10),
        }
    }

    /// Whoever it is, and wherever that call stands.
    fn take_over(&mut self) {
        let Self { engine, random, callers, .. } = self;
        let transport = engine.transport(address(IVR));
        let newcomer = Caller::new(callers.len(), random).over(transport);
        let newcomer = newcomer.replacing(&callers[random.below(callers.len() as u64) as usize]);
        callers.push(newcomer);
        let index = callers.len() - 1;
        callers[index].call(engine, random);
    }

    /// An IVR asks for a customer to be called.
    fn ask(&mut self) {
        let Self { engine, random, callers, .. } = self;
        let transport = engine.transport(address(IVR));
        let index = callers.len();
        callers.push(Caller::new(index, random).over(transport).asking(random));
        callers[index].call(engine, random);
    }

    /// GenerativeAgent brings somebody's customer back, and says no more.
    fn call_back(&mut self) {
        let Self { engine, random, .. } = self;
        let calls = engine.core.live_calls(engine.now);
        let Some(call) = calls.iter().map(|call| call.call).max() else { return };
        let (from, chance) = (address(CARRIER), random.next());
        let via = format!("SIP/2.0/{} {from};branch=z9hG4bK-back-{chance};rport", engine.transport(from).as_str());
        let invite = Sip::request("INVITE", &format!("sip:back-{call}-{}@192.0.2.1", 1 + random.below(2)))
            .with("Via", via)
            .with("Max-Forwards", "70")
            .with("From", "<sip:genagent@asapp.example>;tag=1")
            .with("To", "<sip:back@192.0.2.1>")
            .with("Call-ID", format!("back-{chance}"))
            .with("CSeq", "1 INVITE")
            .with("Contact", format!("<sip:genagent@{from}>"))
            .with_sdp(text::sdp(&from.ip().to_string(), 9_000));
        engine.send(from, invite.octets());
    }

    fn mischief(&mut self) {
        if self.calls_back && self.random.percent(50) {
            return self.call_back();
        }
        let Self { engine, random, .. } = self;
        match random.below(9) {
            0 => {
                let noise: Vec<u8> = (0..random.below(200)).map(|_| random.next() as u8).collect();
                engine.send(address(CARRIER), noise);
            }
            1 => engine.send(address(IVR), stray("SIP/2.0 200 OK", "BYE", random.next())),
            2 => engine.send(address(CARRIER), stray("BYE sip:x@192.0.2.1 SIP/2.0", "BYE", random.next())),
            3 => engine.send(address("198.18.0.1:5060"), stray("INVITE sip:x@y SIP/2.0", "INVITE", random.next())),
            4 => engine.stalled_until = engine.now + random.duration(ms(900)),
            5 => {
                let calls = engine.core.live_calls(engine.now);
                let chosen = calls.iter().map(|call| call.call).min();
                if let Some(call) = chosen {
                    let command =
                        if random.below(2) == 0 { OperatorCommand::PullBack } else { OperatorCommand::HangUp };
                    engine.operator(command(call));
                }
                if let Some(call) = calls.iter().max_by_key(|call| call.call) {
                    engine.operator(OperatorCommand::Record(call.call, !call.recorded));
                }
            }
            6 => {
                let pairs: Vec<_> = engine.relay.pairs().map(|(pair, _)| *pair).collect();
                pairs.into_iter().for_each(|pair| engine.launch(ms(1), Flight::Media(MediaEvent::Started(pair))));
            }
            _ => {
                for (a, b) in engine.relay.bridged().into_iter().take(1) {
                    let watched = |pair| engine.relay.pair(pair).is_some_and(|model| model.watch.is_some());
                    if watched(a) && watched(b) {
                        engine.launch(ms(1), Flight::Media(MediaEvent::Silent(a)));
                        let later = random.duration(secs(2));
                        engine.launch(later, Flight::Media(MediaEvent::Silent(b)));
                        engine.launch(ms(1_500), Flight::Media(MediaEvent::Resumed(a)));
                    }
                }
            }
        }
    }
}

/// This many of a hundred messages to and from a carrier are lost from now on.
fn silence(engine: &mut Engine, carrier: usize, loss: u64) {
    let lane = engine.lanes.get_mut(&address([CARRIER, SECOND][carrier]));
    lane.into_iter().for_each(|lane| lane.loss = loss);
}

/// What is special about a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Land {
    /// One trunk, and nothing but UDP.
    Plain,
    /// The carriers, the customers or both speak TCP, and connections break.
    Streams { ivr: bool, carriers: bool },
    /// Two trunks; the first dies and comes back.
    TwoTrunks { pings: bool },
    /// One trunk of two servers, of which one is dead, or dies and comes back.
    TwoServers { pings: bool },
}

impl Land {
    fn new(seed: u64) -> Self {
        let odd = seed % 8 < 4;
        match seed % 4 {
            0 => Self::Plain,
            1 => Self::Streams { ivr: seed % 3 < 2, carriers: !seed.is_multiple_of(3) },
            2 => Self::TwoTrunks { pings: odd },
            _ => Self::TwoServers { pings: odd },
        }
    }

    fn settle(self, settings: &mut Settings) {
        let first = &mut settings.trunks[0];
        match self {
            Self::Plain => {}
            Self::Streams { carriers, .. } => {
                settings.sip_others = vec![(Transport::Tcp, settings.sip_address)];
                if carriers {
                    first.place.transport = Some(Transport::Tcp);
                }
            }
            Self::TwoTrunks { pings } => {
                first.ping = if pings { secs(7) } else { Duration::ZERO };
                let place = Place::at(Transport::Udp, address(SECOND));
                let second = Trunk { name: "second".to_owned(), place, order: 1, ..first.clone() };
                settings.trunks.push(second);
            }
            Self::TwoServers { pings } => {
                first.ping = if pings { secs(7) } else { Duration::ZERO };
                first.place = Place { host: NAME.into(), port: None, transport: None };
            }
        }
    }

    fn people(self, engine: &mut Engine, random: &mut Random) {
        engine.carriers = [CARRIER, SECOND].map(address).into();
        match self {
            Self::Plain => {}
            Self::Streams { ivr, carriers } => {
                let streams = [(0, IVR, ivr), (1, CARRIER, carriers)];
                for (index, party, _) in streams.into_iter().filter(|(.., is)| *is) {
                    engine.transports.insert(address(party), Transport::Tcp);
                    engine.lanes.insert(address(party), Lane::clean(ms(5)));
                    for _ in 0..random.below(12) {
                        set(engine, random.duration(RUSH * 3), Alarm::Reset, index);
                    }
                }
            }
            Self::TwoTrunks { pings } | Self::TwoServers { pings } => {
                let carrier = random.below(2) as usize;
                let dies = if random.percent(30) { Duration::ZERO } else { random.duration(RUSH) };
                set(engine, dies, Alarm::Dies, carrier);
                if random.percent(70) {
                    set(engine, dies + random.duration(RUSH), Alarm::Returns, carrier);
                }
                if pings {
                    set(engine, END - secs(100), Alarm::Stop, 0); // Pings go on for as long as calls are taken.
                }
                engine.dns.extend(zone().map(|(question, records)| (question, Ok((records, secs(3600))))));
            }
        }
    }
}

fn zone() -> [(Question, Records); 3] {
    let srv = |target: &str| Srv { priority: 0, weight: 10, port: 5060, target: target.into() };
    let host = |at: &str| Records::Addresses(vec![address(at).ip()]);
    [
        (Question::Srv(format!("_sip._udp.{NAME}")), Records::Srv(vec![srv("a.example"), srv("b.example")])),
        (Question::Addresses("a.example".into()), host(CARRIER)),
        (Question::Addresses("b.example".into()), host(SECOND)),
    ]
}

fn stray(start: &str, method: &str, chance: u64) -> Vec<u8> {
    format!(
        "{start}\r\nVia: SIP/2.0/UDP 198.51.100.10:5060;branch=z9hG4bK-stray-{chance};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:a@b.example>;tag=1\r\nTo: <sip:x@192.0.2.1>;tag={chance}\r\nCall-ID: stray-{chance}\r\nCSeq: 1 {method}\r\n\
         Contact: <sip:a@198.51.100.10>\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

fn run(seed: u64, drawing: bool) -> (Chaos, Result<(), String>) {
    let mut chaos = Chaos::new(seed, drawing);
    // A panic in the core is a finding like any other: its seed and its ladder must be told.
    let lived = catch_unwind(AssertUnwindSafe(|| chaos.live()));
    let mut faults = chaos.engine.faults();
    if lived.is_err() {
        faults.insert(0, "the core panicked".to_owned());
    }
    if chaos.engine.core.counters(chaos.engine.now).draining == 1 && !chaos.engine.closed {
        faults.push("stopped, and never closed".to_owned());
    }
    let judged = if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) };
    (chaos, judged)
}

/// Many worlds; what happened in them, so that a test knows that enough did.
fn worlds(part: u64) {
    let each = if std::env::var_os("SWITCHBACK_LONG").is_some() { 530 } else { 80 };
    let seeds = part * each..(part + 1) * each;
    let (mut calls, mut talked, mut outcomes) = (0, 0, BTreeMap::<String, usize>::new());
    let (mut tried, mut onward, mut failovers, mut takeovers) = (0, 0, 0, 0);
    let (mut asked, mut came, mut taken_back) = (0, 0, 0);
    let mut referred = BTreeMap::<String, usize>::new();
    let mut introduced = BTreeMap::<String, usize>::new();
    let mut requests = BTreeMap::<&str, u64>::new();
    for seed in seeds.clone() {
        let (chaos, judged) = run(seed, false);
        if let Err(faults) = judged {
            let (drawn, _) = run(seed, true);
            panic!("seed {seed}:\n{faults}\n\n{}", drawn.engine.ladder.drawn_about(&faults));
        }
        calls += chaos.engine.records.len();
        talked += chaos.engine.records.iter().filter(|record| record.answered_at.is_some()).count();
        let back = |record: &CallRecord| record.hand_back.clone();
        tried += chaos.engine.records.iter().filter_map(back).map(|back| back.rungs.len()).sum::<usize>();
        onward += chaos.engine.records.iter().filter_map(back).filter(|back| back.answered_at.is_some()).count();
        for rung in chaos.engine.records.iter().filter_map(back).flat_map(|back| back.rungs) {
            if rung.rung == "refer:queue" {
                *referred.entry(rung.result).or_default() += 1;
            } else if rung.rung == "refer_replaces:queue" {
                *introduced.entry(rung.result).or_default() += 1;
            }
        }
        takeovers += chaos.engine.records.iter().map(|record| u64::from(record.takeovers)).sum::<u64>();
        for asking in chaos.callers.iter().filter(|caller| caller.is_asking()) {
            let began = chaos.engine.records.iter().find(|record| asking.began(record));
            asked += began.iter().count();
            came += began.iter().filter(|record| record.answered_at.is_some()).count();
        }
        taken_back += chaos.taken_back;
        failovers += chaos.engine.core.counters(chaos.engine.now).failovers;
        for (method, count) in &chaos.engine.core.counters(chaos.engine.now).requests_received {
            *requests.entry(method).or_default() += count;
        }
        for record in &chaos.engine.records {
            *outcomes.entry(record.verdict.outcome.to_string()).or_default() += 1;
        }
    }
    println!(
        "seeds {seeds:?}: {calls} calls, {talked} talked, {tried} rungs, {onward} went on, {failovers} failovers, {takeovers} takeovers, {asked} asked for, of whom {came} came, {taken_back} answers to who brings back, {outcomes:?}, heard {requests:?}, referred {referred:?}, introduced {introduced:?}"
    );
    let worlds = (seeds.end - seeds.start) as usize;
    assert!(calls > worlds * CALLS / 2 && talked > calls / 4, "too little happened: {calls} calls, {talked} talked");
    assert!(onward > worlds && tried > calls / 4, "too little happened: {tried} rungs, {onward} went on");
    let introductions = ["transferred", "accepted, unconfirmed", "dialled, refer rejected 603"];
    assert!(introductions.iter().all(|end| introduced.contains_key(*end)), "too little happened: {introduced:?}");
    let ends =
        ["transferred", "accepted, unconfirmed", "refused 486", "rejected 603", "call ended", "not accepted in time"];
    assert!(ends.iter().all(|end| referred.contains_key(*end)), "too little happened: {referred:?}");
    assert!(asked > worlds && came > asked / 4, "too little happened: {asked} asked for, {came} came");
    assert!(taken_back > worlds / 4, "too little happened: {taken_back} answers to who brings back");
    assert!(takeovers > worlds as u64 / 4, "too little happened: {takeovers} takeovers");
    let plenty = ["PRACK", "UPDATE"].iter().all(|method| requests.get(method) > Some(&(worlds as u64)));
    assert!(plenty && failovers > worlds as u64 / 2, "too little happened: {requests:?}, {failovers} failovers");
}

macro_rules! chaos {
    ($($name:ident: $part:expr;)*) => { $(#[test] fn $name() { worlds($part); })* };
}

chaos! {
    chaos_1: 0;
    chaos_2: 1;
    chaos_3: 2;
    chaos_4: 3;
    chaos_5: 4;
    chaos_6: 5;
    chaos_7: 6;
    chaos_8: 7;
}
