//! The stage on which a flow is played: the engine, everybody's mail, and the wait that never waits forever.
//!
//! ```text
//! let w = World::new();
//! let mut customer = w.ivr.invite();
//! w.api.expect_create().answer_number(NUMBER, secs(60));
//! let mut genagent = w.carrier.expect_invite();
//! ```
//!
//! When a world is dropped it lives on until every timer has run out, and then everything that must hold is checked.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use switchback::b2bua::counters::Counters;
use switchback::b2bua::io::{ApiRequest, Digit, MediaEvent, OperatorCommand, PublishedContext, Transport};
use switchback::b2bua::settings::Settings;
use switchback::call::record::CallRecord;
use switchback::call::verdict::{EndedBy, Outcome, Phase};

use crate::asapp::Api;
use crate::complaints::Complaints;
use crate::engine::{self, CARRIER, Engine, Event, Flight, IVR, QUARANTINE, QUEUE, address, settings};
use crate::ladder;
use crate::peer::{Line, Party};
use crate::relay::Hears;
use crate::text::Sip;

/// How long a script waits for what must come.
const PATIENCE: Duration = Duration::from_secs(70);
/// 64*T1.
pub const LONG: Duration = Duration::from_secs(32);
/// After this nothing may be left: a BYE that nobody answers, then its tombstone, then the ports.
const SETTLED: Duration = Duration::from_secs(32 + 32 + QUARANTINE.as_secs() + 10);

pub type Shared = Rc<RefCell<Stage>>;

pub struct World {
    pub ivr: Party,
    pub carrier: Party,
    pub queue: Party,
    pub api: Api,
    stage: Shared,
    complaints: Complaints,
}

/// What the handles share.
pub struct Stage {
    pub engine: Engine,
    mail: BTreeMap<(SocketAddr, String), VecDeque<Sip>>,
    fresh: VecDeque<(SocketAddr, String)>,
    seen: HashSet<(SocketAddr, Vec<u8>)>,
    pub delivered: Vec<(Instant, SocketAddr, Sip)>,
    pub questions: VecDeque<(u64, ApiRequest)>,
    pub latency: Duration,
    /// Distinguishes ids that parties make.
    pub serial: u32,
}

impl World {
    pub fn new() -> Self {
        Self::with(settings(), 1)
    }

    /// A world whose settings differ from the usual ones.
    pub fn set(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings();
        change(&mut settings);
        Self::with(settings, 1)
    }

    pub fn with(settings: Settings, seed: u64) -> Self {
        Self::of(Engine::new(settings, 40, seed))
    }

    pub fn of(engine: Engine) -> Self {
        let stage = Rc::new(RefCell::new(Stage {
            engine,
            mail: BTreeMap::new(),
            fresh: VecDeque::new(),
            seen: HashSet::new(),
            delivered: Vec::new(),
            questions: VecDeque::new(),
            latency: engine::ms(20),
            serial: 0,
        }));
        Self {
            ivr: Party::new(stage.clone(), address(IVR), "ivr"),
            carrier: Party::new(stage.clone(), address(CARRIER), "carrier"),
            queue: Party::new(stage.clone(), address(QUEUE), "queue"),
            api: Api::new(stage.clone()),
            stage,
            complaints: Complaints::listen(),
        }
    }

    /// Somebody else on the network.
    pub fn stranger(&self, at: &str) -> Party {
        Party::new(self.stage.clone(), address(at), "stranger")
    }

    pub fn stage(&self) -> RefMut<'_, Stage> {
        self.stage.borrow_mut()
    }

    /// This party speaks over a connection from now on.
    pub fn over(&self, party: &Party, transport: Transport) {
        self.stage().engine.transports.insert(party.address, transport);
    }

    /// The connection to this party breaks.
    pub fn reset(&self, party: &Party) {
        self.stage().engine.reset(party.address);
        self.run_for(Duration::ZERO);
    }

    // --- time ---

    pub fn now(&self) -> Duration {
        let stage = self.stage.borrow();
        stage.engine.now - stage.engine.start
    }

    pub fn run_for(&self, time: Duration) {
        self.stage().run_for(time);
    }

    /// Lives until the condition holds.
    pub fn run_until(&self, what: &str, condition: impl Fn(&Stage) -> bool) {
        self.stage().wait(what, |stage| condition(stage).then_some(()));
    }

    /// The driver does not come round to the core for so long.
    pub fn stall(&self, time: Duration) {
        let mut stage = self.stage();
        stage.engine.stalled_until = stage.engine.now + time;
    }

    // --- what came out ---

    pub fn counters(&self) -> Counters {
        {
            let stage = self.stage.borrow();
            stage.engine.core.counters(stage.engine.now)
        }
    }

    /// The one record there is, or will be.
    pub fn record(&self) -> CallRecord {
        self.run_until("a record", |stage| !stage.engine.records.is_empty());
        let stage = self.stage.borrow();
        assert_eq!(stage.engine.records.len(), 1, "one record");
        stage.engine.records[0].clone()
    }

    pub fn records(&self) -> Vec<CallRecord> {
        self.stage.borrow().engine.records.clone()
    }

    /// The record's verdict in three words.
    pub fn verdict(&self) -> (Outcome, EndedBy, Phase) {
        let verdict = self.record().verdict;
        (verdict.outcome, verdict.ended_by, verdict.phase)
    }

    /// What the context reference shows now.
    pub fn context(&self) -> PublishedContext {
        self.stage.borrow().engine.published.last().expect("a context is published").clone()
    }

    /// How often the core has sent this (`INVITE`, `200`, `200 BYE`) to the party, repeats included.
    pub fn count(&self, party: &Party, word: &str) -> usize {
        let stage = self.stage.borrow();
        stage.delivered.iter().filter(|(_, to, sip)| *to == party.address && sip.word() == word).count()
    }

    /// When each of them arrived.
    pub fn times(&self, party: &Party, word: &str) -> Vec<Duration> {
        let stage = self.stage.borrow();
        let of = stage.delivered.iter().filter(|(_, to, sip)| *to == party.address && sip.word() == word);
        of.map(|(at, ..)| *at - stage.engine.start).collect()
    }

    // --- media ---

    /// Whether the two hear each other, each through the port that its session description named.
    pub fn talking(&self, a: &Line, b: &Line) -> bool {
        let stage = self.stage.borrow();
        let relay = &stage.engine.relay;
        let (Some((pair_a, at_a)), Some((pair_b, at_b))) = (relay.towards(a.rtp), relay.towards(b.rtp)) else {
            return false;
        };
        !(at_a.held || at_b.held)
            && at_a.hears == Hears::Pair(pair_b)
            && at_b.hears == Hears::Pair(pair_a)
            && a.told == Some(pair_a.port)
            && b.told == Some(pair_b.port)
    }

    /// What the relay lets this party hear.
    pub fn hears(&self, line: &Line) -> Hears {
        let stage = self.stage.borrow();
        let pair = stage.engine.relay.towards(line.rtp).map(|(_, pair)| pair).filter(|pair| !pair.held);
        pair.map_or(Hears::Nothing, |pair| pair.hears)
    }

    /// Nothing arrives from this party any more, or it does again.
    pub fn silent(&self, line: &Line, silent: bool) {
        let mut stage = self.stage();
        let (pair, model) = stage.engine.relay.towards(line.rtp).expect("a pair expects this party");
        assert!(model.watch.is_some(), "the relay reports silence only where it is asked to");
        let event = if silent { MediaEvent::Silent(pair) } else { MediaEvent::Resumed(pair) };
        stage.engine.launch(Duration::ZERO, Flight::Media(event));
        stage.run_for(Duration::ZERO);
    }

    /// This party presses these keys, one after the other at once, and the relay hears them.
    pub fn press(&self, line: &Line, keys: &str) {
        let mut stage = self.stage();
        let (pair, model) = stage.engine.relay.towards(line.rtp).expect("a pair expects this party");
        assert!(model.events.is_some(), "the relay hears keys only by a payload type that it was told");
        for key in keys.chars() {
            let digit = Digit::read(key).expect("a key");
            stage.engine.launch(Duration::ZERO, Flight::Media(MediaEvent::Digit(pair, digit)));
        }
        stage.run_for(Duration::ZERO);
    }

    // --- operators ---

    pub fn operator(&self, command: OperatorCommand) {
        self.stage().engine.operator(command);
        self.run_for(Duration::ZERO);
    }

    // --- complaints, ladders and the end ---

    /// This warning is part of the story.
    pub fn expect_warning(&self, part: &str) {
        self.complaints.expect(part);
    }

    /// How often this has been complained about so far.
    pub fn complained_of(&self, part: &str) -> usize {
        self.complaints.count(part)
    }

    pub fn ladder(&self) -> String {
        self.stage.borrow().engine.ladder.drawn()
    }

    /// Ends the world and compares its ladder with the golden one.
    pub fn golden(self, name: &str) {
        self.finish();
        let drawn = self.ladder();
        drop(self);
        ladder::compare(&format!("sip-fixtures/ladders/{name}.txt"), &drawn);
    }

    /// Every reason why customers did not reach GenerativeAgent has been complained about, and no other.
    fn expect_fallbacks(&self) {
        let served = |record: &&CallRecord| {
            let last = record.hand_back.as_ref().and_then(|back| back.rungs.last());
            last.is_some_and(|rung| {
                matches!(
                    rung.result.as_str(),
                    "done" | "answered" | "transferred" | "accepted, unconfirmed" | "overtaken"
                )
            })
        };
        for record in self.stage.borrow().engine.records.iter().filter(served) {
            if let (Outcome::NotConnected, Some(why)) = (record.verdict.outcome, record.verdict.evidence.not_connected)
            {
                self.expect_warning(&format!("fallback: {}", why.as_str()));
            }
        }
    }

    /// Lives on until nothing may be left, and checks that nothing is.
    pub fn finish(&self) {
        self.run_for(SETTLED);
        self.expect_fallbacks();
        let stage = self.stage.borrow();
        let mut faults = stage.engine.faults();
        let unread = stage.mail.values().flatten().filter(|sip| sip.status().is_none());
        faults.extend(unread.map(|sip| format!("unread: {}", sip.start)));
        faults.extend(self.complaints.heard());
        if !faults.is_empty() {
            stage.fail(&faults.join("\n"));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.finish();
        }
    }
}

impl Stage {
    pub fn run_for(&mut self, time: Duration) {
        let until = self.engine.now + time;
        while let Some(event) = self.engine.next(until) {
            self.file(event);
        }
    }

    /// Lives until `found` finds something; fails with the ladder when it does not within the script's patience.
    pub fn wait<T>(&mut self, what: &str, mut found: impl FnMut(&mut Self) -> Option<T>) -> T {
        let until = self.engine.now + PATIENCE;
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            match self.engine.next(until) {
                Some(event) => self.file(event),
                None => self.fail(&format!("{what} never came")),
            }
        }
    }

    pub fn file(&mut self, event: Event) {
        match event {
            Event::Sip(party, octets) => {
                let sip = engine::sip(&octets);
                self.delivered.push((self.engine.now, party, sip.clone()));
                if !self.seen.insert((party, octets.to_vec())) {
                    return; // A repeat: counted, but no news.
                }
                let key = (party, sip.call_id().to_owned());
                if !self.mail.contains_key(&key) {
                    self.fresh.push_back(key.clone());
                }
                self.mail.entry(key).or_default().push_back(sip);
            }
            Event::Asked(question, request) => self.questions.push_back((question, request)),
            Event::Alarm(_) | Event::Wrote => {}
        }
    }

    /// A dialog of a party's own making: its mail is no news to anybody else.
    pub fn own(&mut self, party: SocketAddr, call_id: &str) {
        self.mail.entry((party, call_id.to_owned())).or_default();
    }

    /// The next dialog that somebody began with this party.
    pub fn fresh(&mut self, party: SocketAddr) -> Option<String> {
        let at = self.fresh.iter().position(|(to, _)| *to == party)?;
        self.fresh.remove(at).map(|(_, call_id)| call_id)
    }

    pub fn letters(&mut self, party: SocketAddr, call_id: &str) -> &mut VecDeque<Sip> {
        self.mail.entry((party, call_id.to_owned())).or_default()
    }

    pub fn fail(&self, why: &str) -> ! {
        panic!("{why}\n\n{}", self.engine.ladder.drawn())
    }
}
