//! X7: more calls than ASAPP's rate permits. Our own limiter keeps the API from saying 429, finished calls get their
//! context first, and the excess is refused at once.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use switchback::b2bua::io::{ApiOperation, FailureClass};
use switchback::call::verdict::Outcome;

use crate::asapp::{active, completed};
use crate::engine::{CARRIER, Engine, Event, IVR, address, failure, ms, secs, settings, sip};
use crate::robots::{Alarm, Callee, Caller, read, set};

const OFFERED: u64 = 300;
/// What the API bears in any second.
const BEARS: usize = 100;
const TALK: Duration = secs(3);

/// A minute, or enough of it.
fn length() -> u64 {
    if std::env::var_os("SWITCHBACK_LONG").is_some() { 60 } else { 8 }
}

struct Rush {
    engine: Engine,
    callers: Vec<Caller>,
    called: Vec<Instant>,
    callees: Vec<Callee>,
    dialled: BTreeMap<String, usize>,
    /// Requests of the last second, oldest first.
    second: VecDeque<Instant>,
    asked: usize,
    throttled: usize,
    /// How long each 480 took.
    refused: Vec<Duration>,
}

impl Rush {
    fn new(calls: usize) -> Self {
        let mut settings = settings();
        settings.call.verify_after = secs(2);
        let mut engine = Engine::new(settings, 4000, 1);
        engine.ladder.drawing = false;
        for index in 0..calls {
            set(&mut engine, Duration::from_micros(1_000_000 / OFFERED * index as u64), Alarm::Call, index);
        }
        let called = vec![engine.start; calls];
        Self {
            engine,
            callers: (0..calls).map(Caller::plain).collect(),
            called,
            callees: Vec::new(),
            dialled: BTreeMap::new(),
            second: VecDeque::new(),
            asked: 0,
            throttled: 0,
            refused: Vec::new(),
        }
    }

    fn live(&mut self, end: Instant) {
        while let Some(event) = self.engine.next(end) {
            match event {
                Event::Sip(party, octets) if party == address(IVR) => {
                    let sip = sip(&octets);
                    let index: usize = sip.call_id().trim_end_matches("@ivr").parse().expect("a customer");
                    if sip.word() == "480" {
                        self.refused.push(self.engine.now - self.called[index]);
                    }
                    self.callers[index].hears(&mut self.engine, &sip);
                }
                Event::Sip(party, octets) if party == address(CARRIER) => {
                    let sip = sip(&octets);
                    match self.dialled.get(sip.call_id()) {
                        Some(&index) => self.callees[index].hears(&mut self.engine, &sip),
                        None => {
                            let index = self.callees.len();
                            self.dialled.insert(sip.call_id().to_owned(), index);
                            self.callees.push(Callee::eager(index, sip, &mut self.engine));
                            set(&mut self.engine, TALK, Alarm::HangUp, index);
                        }
                    }
                }
                Event::Asked(question, request) => self.api_hears(question, &request.operation),
                Event::Alarm(number) => self.alarmed(number),
                Event::Sip(..) | Event::Wrote => {}
            }
        }
    }

    fn api_hears(&mut self, question: u64, operation: &ApiOperation) {
        let now = self.engine.now;
        while self.second.front().is_some_and(|at| *at + secs(1) <= now) {
            self.second.pop_front();
        }
        self.asked += 1;
        let answer = if self.second.len() >= BEARS {
            self.throttled += 1;
            Err(failure(FailureClass::Throttled))
        } else {
            self.second.push_back(now);
            match operation {
                ApiOperation::Create(_) => Ok(active(&format!("+1999{:07}", self.asked), secs(60))),
                ApiOperation::Fetch => Ok(completed("AGENT", &[], &[])),
            }
        };
        self.engine.reply(question, ms(30), answer);
    }

    fn alarmed(&mut self, number: u64) {
        match read(number) {
            (Alarm::Call, index) => {
                self.called[index] = self.engine.now;
                self.callers[index].invite(&mut self.engine, 1);
            }
            (Alarm::CallerRepeats, index) => self.callers[index].repeats(&mut self.engine),
            (Alarm::HangUp, index) => self.callees[index].hang_up(&mut self.engine),
            (Alarm::CalleeRepeats, index) => self.callees[index].repeats(&mut self.engine),
            _ => {}
        }
    }
}

#[test]
fn x7_300_calls_a_second_meet_an_api_that_bears_100_requests() {
    let calls = (OFFERED * length()) as usize;
    let mut rush = Rush::new(calls);
    let end = rush.engine.start + secs(length() + 120);
    rush.live(end);
    let faults = rush.engine.faults();
    assert!(faults.is_empty(), "{faults:?}");
    let mut outcomes = BTreeMap::<Outcome, usize>::new();
    rush.engine.records.iter().for_each(|record| *outcomes.entry(record.verdict.outcome).or_default() += 1);
    rush.refused.sort_unstable();
    let (talked, nearly_all) = (rush.callees.len(), rush.refused[rush.refused.len() * 99 / 100]);
    println!(
        "{calls} calls in {} s: {talked} talked, {} refused, 99 % of them within {nearly_all:?}, {outcomes:?}; asked {} times, 429 \
         to {}, {:?}",
        length(),
        rush.refused.len(),
        rush.asked,
        rush.throttled,
        rush.engine.core.counters(rush.engine.now).api
    );
    assert!(rush.throttled * 100 < rush.asked, "more than one in a hundred are told 429");
    assert_eq!(outcomes.get(&Outcome::Agent), Some(&talked), "every finished call has its context within 3 s");
    assert_eq!(talked + rush.refused.len(), calls);
    assert!(nearly_all < ms(50), "the excess is refused at once: {nearly_all:?}");
    assert!(talked > calls / 10, "the rate is not wasted");
}
