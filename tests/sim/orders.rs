//! Every order in which things can arrive, by enumeration and not by luck.
//!
//! Only the order of arrival at the core is varied. What reaches a party late is, to the core, the same as that
//! party's next message being late, and that is among the orders.

use std::collections::BTreeMap;
use std::time::Duration;

use switchback::b2bua::io::{ApiFailure, FailureClass, Transfer};

use crate::asapp::{NUMBER, active};
use crate::engine::{CARRIER, Engine, Event, Flight, IVR, Lane, address, failure, secs, settings, sip};
use crate::robots::{Alarm, Callee, Caller, read};
use crate::text::Sip;

/// Walks a tree of choices depth first: each run follows the path, the next run takes the next branch.
#[derive(Default)]
pub struct Path {
    /// What was chosen, of how many.
    steps: Vec<(usize, usize)>,
    at: usize,
}

impl Path {
    pub fn choose(&mut self, of: usize) -> usize {
        if self.at == self.steps.len() {
            self.steps.push((0, of));
        }
        self.at += 1;
        self.steps[self.at - 1].0
    }

    /// Turns to the next untrodden branch; false when there is none.
    pub fn turn(&mut self) -> bool {
        self.at = 0;
        while let Some((chosen, of)) = self.steps.pop() {
            if chosen + 1 < of {
                self.steps.push((chosen + 1, of));
                return true;
            }
        }
        false
    }
}

/// One customer who gives up, one eager GenerativeAgent, and an API that answers as told.
struct Story {
    engine: Engine,
    customer: Caller,
    genagent: BTreeMap<String, Callee>,
    answer: Result<Transfer, ApiFailure>,
    /// The CANCEL has been processed, and the INVITE had no final answer before it.
    cancelled: bool,
    answered: bool,
    heard: Vec<String>,
}

impl Story {
    fn new(answer: Result<Transfer, ApiFailure>) -> Self {
        let mut engine = Engine::new(settings(), 4, 7);
        for party in [IVR, CARRIER] {
            engine.lanes.insert(address(party), Lane::clean(Duration::ZERO));
        }
        let customer = Caller::plain(0);
        Self {
            engine,
            customer,
            genagent: BTreeMap::new(),
            answer,
            cancelled: false,
            answered: false,
            heard: Vec::new(),
        }
    }

    fn play(&mut self, path: &mut Path, invites: usize) {
        self.customer.invite(&mut self.engine, invites);
        self.customer.leave(&mut self.engine);
        loop {
            self.tell_parties();
            let now = self.engine.now;
            let choices = self
                .engine
                .queue
                .iter()
                .filter(|((at, _), flight)| *at <= now && matches!(flight, Flight::ToCore(..) | Flight::Reply(..)));
            let choices: Vec<_> = choices.map(|(key, _)| *key).collect();
            if choices.is_empty() {
                break;
            }
            let flight = self.engine.queue.remove(&choices[path.choose(choices.len())]).expect("it was there");
            self.engine.now += Duration::from_micros(10);
            let cancel = matches!(&flight, Flight::ToCore(_, octets) if octets.starts_with(b"CANCEL"));
            self.engine.land(flight);
            self.cancelled |= cancel && self.engine.core.counters(self.engine.now).calls > 0 && !self.answered;
        }
        let end = self.engine.start + secs(120);
        while let Some(event) = self.engine.next(end) {
            self.told(event);
        }
    }

    /// What is on its way to anybody but the core arrives at once.
    fn tell_parties(&mut self) {
        loop {
            while let Some(event) = self.engine.events.pop_front() {
                self.told(event);
            }
            let now = self.engine.now;
            let due = |((at, _), flight): &(&(std::time::Instant, u64), &Flight)| {
                *at <= now && matches!(flight, Flight::ToParty(..) | Flight::Media(_))
            };
            let Some(key) = self.engine.queue.iter().find(due).map(|(key, _)| *key) else { return };
            let flight = self.engine.queue.remove(&key).expect("it was there");
            self.engine.land(flight);
        }
    }

    fn told(&mut self, event: Event) {
        match event {
            Event::Sip(party, octets) if party == address(IVR) => {
                let sip = sip(&octets);
                self.answered |= sip.method() == "INVITE" && sip.status() >= Some(200);
                self.heard.push(sip.word());
                self.customer.hears(&mut self.engine, &sip);
            }
            Event::Sip(_, octets) => self.carrier_hears(&sip(&octets)),
            Event::Asked(question, _) => self.engine.reply(question, Duration::ZERO, self.answer.clone()),
            Event::Alarm(number) => match read(number) {
                (Alarm::CallerRepeats, _) => self.customer.repeats(&mut self.engine),
                (Alarm::CalleeRepeats, _) => {
                    self.genagent.values_mut().for_each(|genagent| genagent.repeats(&mut self.engine));
                }
                _ => {}
            },
            Event::Wrote => {}
        }
    }

    fn carrier_hears(&mut self, sip: &Sip) {
        if sip.is("INVITE") {
            assert!(!self.cancelled, "an INVITE after the CANCEL\n{}", self.engine.ladder.drawn());
        }
        match self.genagent.get_mut(sip.call_id()) {
            Some(genagent) => genagent.hears(&mut self.engine, sip),
            None => {
                let genagent = Callee::eager(0, sip.clone(), &mut self.engine);
                self.genagent.insert(sip.call_id().to_owned(), genagent);
            }
        }
    }

    fn judge(&self) {
        let faults = self.engine.faults();
        assert!(faults.is_empty(), "{faults:?}\n{}", self.engine.ladder.drawn());
        if self.cancelled {
            let refused = self.heard.contains(&"487".to_owned()) && self.heard.contains(&"200 CANCEL".to_owned());
            let answered = self.heard.contains(&"200".to_owned());
            assert!(refused && !answered, "{:?}\n{}", self.heard, self.engine.ladder.drawn());
        }
    }
}

/// Runs the story over every order; how many there are, and in how many the CANCEL came in time.
fn every_order(answer: &Result<Transfer, ApiFailure>, invites: usize) -> (usize, usize) {
    let (mut path, mut orders, mut in_time) = (Path::default(), 0, 0);
    loop {
        let mut story = Story::new(answer.clone());
        story.play(&mut path, invites);
        story.judge();
        orders += 1;
        in_time += usize::from(story.cancelled);
        if !path.turn() {
            return (orders, in_time);
        }
    }
}

#[test]
fn a11_no_invite_after_the_cancel_in_any_order() {
    let (orders, in_time) = every_order(&Ok(active(NUMBER, secs(60))), 2);
    println!("a number: {orders} orders, the CANCEL in time in {in_time}");
    assert!(orders > 100 && in_time > 10 && in_time < orders, "{orders} {in_time}");
}

#[test]
fn a11_no_retry_after_the_cancel_in_any_order() {
    for class in [FailureClass::Ambiguous, FailureClass::ServerError, FailureClass::NotFound] {
        let (orders, in_time) = every_order(&Err(failure(class)), 2);
        assert!(orders > 5 && in_time > 0, "{class:?}: {orders} {in_time}");
    }
}
