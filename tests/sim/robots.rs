//! Parties that live on their own, with their own retransmissions: customers, GenerativeAgents and an API, all of them
//! driven by alarms and by chance.

use std::collections::HashMap;
use std::time::Duration;

use switchback::b2bua::io::{ApiOperation, ApiRequest, FailureClass, Transfer, TransferStatus};
use switchback::call::TransferId;

use crate::asapp::{active, completed};
use crate::engine::{CARRIER, CORE, Engine, IVR, UNIX_MS, address, failure, ms, secs};
use crate::random::Random;
use crate::text::{self, Sip};

const T1: Duration = ms(500);
const T2: Duration = secs(4);
const LONG: Duration = secs(32);

/// What an alarm is for; its number is `index * KINDS + kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// A customer calls.
    Call,
    /// A customer has had enough.
    Leave,
    /// A customer repeats what is unanswered.
    CallerRepeats,
    /// GenerativeAgent answers or refuses.
    Decide,
    /// GenerativeAgent hangs up.
    HangUp,
    /// The carrier repeats what is unanswered.
    CalleeRepeats,
    /// Something stray arrives, a side falls silent, the driver is late.
    Mischief,
    /// The program is told to stop.
    Stop,
}

const ALARMS: [Alarm; 8] = [
    Alarm::Call,
    Alarm::Leave,
    Alarm::CallerRepeats,
    Alarm::Decide,
    Alarm::HangUp,
    Alarm::CalleeRepeats,
    Alarm::Mischief,
    Alarm::Stop,
];

pub fn set(engine: &mut Engine, after: Duration, alarm: Alarm, index: usize) {
    engine.alarm(after, (index * ALARMS.len() + alarm as usize) as u64);
}

pub fn read(number: u64) -> (Alarm, usize) {
    let number = number as usize;
    (ALARMS[number % ALARMS.len()], number / ALARMS.len())
}

/// A request that is repeated until its final answer, or for 64*T1.
#[derive(Debug)]
struct Pending {
    sip: Sip,
    wait: Duration,
    left: Duration,
}

impl Pending {
    fn new(sip: Sip) -> Self {
        Self { sip, wait: T1, left: LONG }
    }

    /// The time to the next repeat; none when it is given up.
    fn again(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(self.wait)?;
        let wait = self.wait;
        self.wait = (wait * 2).min(T2);
        Some(wait)
    }
}

fn answers(response: &Sip, request: &Sip) -> bool {
    response.branch() == request.branch() && response.method() == request.method()
}

// --- customers ---------------------------------------------------------------------------------------------------

#[derive(Debug)]
pub struct Caller {
    index: usize,
    invite: Sip,
    /// INVITE, CANCEL and BYE, as long as they wait.
    pending: Vec<Pending>,
    proceeding: bool,
    wants_out: bool,
    acknowledges: bool,
    /// To and Contact of the 2xx.
    answered: Option<(String, String)>,
    over: bool,
}

impl Caller {
    pub fn new(index: usize, random: &mut Random) -> Self {
        let port = 10_000 + 2 * index as u16;
        let mut invite = Sip::request("INVITE", &format!("sip:7000@{CORE}"))
            .with("Via", format!("SIP/2.0/UDP {IVR};branch=z9hG4bK-c-{index};rport"))
            .with("Max-Forwards", "70")
            .with("From", format!("<sip:+1555765{index:04}@{IVR}>;tag=c{index}"))
            .with("To", format!("<sip:7000@{CORE}>"))
            .with("Call-ID", format!("{index}@ivr"))
            .with("CSeq", "1 INVITE")
            .with("Contact", format!("<sip:ivr@{IVR}>"));
        if random.percent(90) {
            invite = invite.with_sdp(text::sdp("198.51.100.10", port));
        }
        let acknowledges = !random.percent(3);
        Self {
            index,
            invite,
            pending: Vec::new(),
            proceeding: false,
            wants_out: false,
            acknowledges,
            answered: None,
            over: false,
        }
    }

    fn send(&self, engine: &mut Engine, sip: &Sip) {
        engine.send(address(IVR), sip.octets());
    }

    fn ask(&mut self, engine: &mut Engine, sip: Sip) {
        self.send(engine, &sip);
        let mut pending = Pending::new(sip);
        let wait = pending.again().unwrap_or(T1);
        self.pending.push(pending);
        set(engine, wait, Alarm::CallerRepeats, self.index);
    }

    pub fn call(&mut self, engine: &mut Engine, random: &mut Random) {
        self.ask(engine, self.invite.clone());
        // Most leave at some time; who does not is hung up on, or leaves in the end.
        let patience = match random.below(10) {
            0 => random.duration(ms(100)),
            1 | 2 => random.duration(secs(3)),
            3..6 => random.duration(secs(30)),
            _ => secs(120),
        };
        set(engine, patience, Alarm::Leave, self.index);
    }

    /// Sends the INVITE so many times at once, as a network that doubles would.
    pub fn invite(&mut self, engine: &mut Engine, times: usize) {
        (0..times).for_each(|_| self.send(engine, &self.invite));
    }

    pub fn leave(&mut self, engine: &mut Engine) {
        self.wants_out = true;
        if self.over {
        } else if self.answered.is_some() {
            self.goodbye(engine);
        } else if self.proceeding {
            self.ask(engine, self.hop_by_hop("CANCEL"));
        }
    }

    fn goodbye(&mut self, engine: &mut Engine) {
        self.over = true;
        let bye = self.in_dialog("BYE", 2);
        self.ask(engine, bye);
    }

    fn hop_by_hop(&self, method: &str) -> Sip {
        let copied = ["Via", "Max-Forwards", "From", "To", "Call-ID"];
        let headers = self.invite.headers.iter().filter(|(name, _)| copied.contains(&name.as_str())).cloned().collect();
        Sip { headers, ..Sip::request(method, self.invite.uri()) }.with("CSeq", format!("1 {method}"))
    }

    fn in_dialog(&self, method: &str, cseq: u32) -> Sip {
        let (to, target) = self.answered.clone().unwrap_or_default();
        Sip::request(method, &target)
            .with("Via", format!("SIP/2.0/UDP {IVR};branch=z9hG4bK-c-{}-{method};rport", self.index))
            .with("Max-Forwards", "70")
            .with("From", self.invite.header("From"))
            .with("To", to)
            .with("Call-ID", self.invite.call_id())
            .with("CSeq", format!("{cseq} {method}"))
    }

    pub fn repeats(&mut self, engine: &mut Engine) {
        // One alarm rings for each thing that waits; each repeats only what is due by then.
        let Some(mut first) = (!self.pending.is_empty()).then(|| self.pending.remove(0)) else { return };
        if first.sip.is("INVITE") && self.proceeding {
            return;
        }
        if let Some(wait) = first.again() {
            self.send(engine, &first.sip);
            self.pending.push(first);
            set(engine, wait, Alarm::CallerRepeats, self.index);
        }
    }

    pub fn hears(&mut self, engine: &mut Engine, sip: &Sip) {
        let Some(status) = sip.status() else {
            if !sip.is("ACK") {
                self.over |= sip.is("BYE");
                self.send(engine, &Sip::response(sip, 200, ""));
            }
            return;
        };
        if status >= 200 {
            self.pending.retain(|pending| !answers(sip, &pending.sip));
        }
        match (sip.method(), status) {
            ("INVITE", ..200) => {
                let first = !self.proceeding;
                self.proceeding = true;
                if first && self.wants_out && !self.over {
                    self.ask(engine, self.hop_by_hop("CANCEL"));
                }
            }
            ("INVITE", 200..300) => {
                let first = self.answered.is_none();
                self.answered = Some((sip.header("To").to_owned(), sip.contact().to_owned()));
                if self.acknowledges {
                    let delayed = self.invite.body.is_empty();
                    let body = if delayed {
                        text::sdp("198.51.100.10", 10_000 + 2 * self.index as u16)
                    } else {
                        String::new()
                    };
                    self.send(engine, &self.in_dialog("ACK", 1).with_sdp(body));
                }
                if first && self.wants_out && !self.over {
                    self.goodbye(engine);
                }
            }
            ("INVITE", _) => {
                self.over = true;
                let mut ack = self.hop_by_hop("ACK");
                ack.headers
                    .iter_mut()
                    .filter(|(name, _)| name == "To")
                    .for_each(|(_, to)| *to = sip.header("To").to_owned());
                self.send(engine, &ack);
            }
            _ => {}
        }
    }
}

// --- GenerativeAgent ---------------------------------------------------------------------------------------------

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answer,
    BadAnswer,
    Refuse(u16),
    Nothing,
}

#[derive(Debug)]
pub struct Callee {
    index: usize,
    invite: Sip,
    fate: Fate,
    /// Said last to the INVITE.
    last: Option<Sip>,
    /// The final response that waits for its ACK.
    unacked: Option<Pending>,
    answered: bool,
    bye: Option<Pending>,
    over: bool,
}

impl Callee {
    pub fn invited(index: usize, invite: Sip, engine: &mut Engine, random: &mut Random) -> Self {
        let codes = [404, 480, 486, 500, 503, 603];
        let (fate, after) = match random.below(100) {
            0..60 => (Fate::Answer, random.duration(secs(3))),
            60..70 => (Fate::Answer, random.duration(secs(40))),
            70..73 => (Fate::BadAnswer, random.duration(secs(2))),
            73..85 => (Fate::Refuse(codes[random.below(6) as usize]), random.duration(secs(2))),
            _ => (Fate::Nothing, Duration::ZERO),
        };
        let mut callee =
            Self { index, invite, fate, last: None, unacked: None, answered: false, bye: None, over: false };
        match random.below(10) {
            0 => {}
            1..3 => callee.say(engine, 100, ""),
            3..5 => callee.say(engine, 183, &callee.sdp()),
            _ => callee.say(engine, 180, ""),
        }
        if fate != Fate::Nothing {
            set(engine, after, Alarm::Decide, index);
        }
        callee
    }

    /// Rings and answers at once.
    pub fn eager(index: usize, invite: Sip, engine: &mut Engine) -> Self {
        let fate = Fate::Answer;
        let mut callee =
            Self { index, invite, fate, last: None, unacked: None, answered: false, bye: None, over: false };
        callee.say(engine, 180, "");
        callee.say(engine, 200, &callee.sdp());
        callee.answered = true;
        callee
    }

    fn sdp(&self) -> String {
        text::sdp("203.0.113.20", 10_000 + 2 * self.index as u16)
    }

    fn send(engine: &mut Engine, sip: &Sip) {
        engine.send(address(CARRIER), sip.octets());
    }

    fn say(&mut self, engine: &mut Engine, status: u16, sdp: &str) {
        let mut response = Sip::response(&self.invite, status, &format!("g{}", self.index));
        if status < 300 {
            response = response.with("Contact", format!("<sip:gw@{CARRIER}>")).with_sdp(sdp);
        }
        Self::send(engine, &response);
        self.last = Some(response.clone());
        if status >= 200 {
            let mut pending = Pending::new(response);
            let wait = pending.again().unwrap_or(T1);
            self.unacked = Some(pending);
            set(engine, wait, Alarm::CalleeRepeats, self.index);
        }
    }

    fn is_final(&self) -> bool {
        self.last.as_ref().and_then(Sip::status).is_some_and(|status| status >= 200)
    }

    pub fn decide(&mut self, engine: &mut Engine, random: &mut Random) {
        if self.is_final() {
            return;
        }
        match self.fate {
            Fate::Answer => self.say(engine, 200, &self.sdp()),
            Fate::BadAnswer => self.say(engine, 200, &text::audio("203.0.113.20", 9, "111", "sendrecv")),
            Fate::Refuse(status) => self.say(engine, status, ""),
            Fate::Nothing => {}
        }
        if matches!(self.fate, Fate::Answer | Fate::BadAnswer) {
            self.answered = true;
            let talk = if random.percent(10) { random.duration(ms(50)) } else { random.duration(secs(30)) };
            set(engine, talk, Alarm::HangUp, self.index);
        }
    }

    pub fn hang_up(&mut self, engine: &mut Engine) {
        if self.over {
            return;
        }
        self.over = true;
        let bye = Sip::request("BYE", self.invite.contact())
            .with("Via", format!("SIP/2.0/UDP {CARRIER};branch=z9hG4bK-g-{};rport", self.index))
            .with("Max-Forwards", "70")
            .with("From", format!("{};tag=g{}", self.invite.header("To"), self.index))
            .with("To", self.invite.header("From"))
            .with("Call-ID", self.invite.call_id())
            .with("CSeq", "7 BYE");
        Self::send(engine, &bye);
        let mut pending = Pending::new(bye);
        let wait = pending.again().unwrap_or(T1);
        self.bye = Some(pending);
        set(engine, wait, Alarm::CalleeRepeats, self.index);
    }

    pub fn repeats(&mut self, engine: &mut Engine) {
        for waiting in [&mut self.unacked, &mut self.bye] {
            let Some(pending) = waiting else { continue };
            match pending.again() {
                Some(wait) => {
                    Self::send(engine, &pending.sip);
                    set(engine, wait, Alarm::CalleeRepeats, self.index);
                }
                None => *waiting = None,
            }
        }
    }

    pub fn hears(&mut self, engine: &mut Engine, sip: &Sip) {
        match sip.status() {
            Some(200..) => {
                let answered = self.bye.as_ref().is_some_and(|bye| answers(sip, &bye.sip));
                if answered {
                    self.bye = None;
                }
            }
            Some(_) => {}
            None if sip.is("INVITE") => {
                if let (Some(last), false) = (&self.last, self.answered) {
                    Self::send(engine, last);
                }
            }
            None if sip.is("ACK") => self.unacked = None,
            None => {
                Self::send(engine, &Sip::response(sip, 200, ""));
                if sip.is("CANCEL") && !self.is_final() {
                    self.say(engine, 487, "");
                }
                self.over |= sip.is("BYE");
            }
        }
    }
}

// --- ASAPP -------------------------------------------------------------------------------------------------------

#[derive(Debug, Default)]
pub struct Asapp {
    /// Numbers that exist, and when they expire.
    transfers: HashMap<TransferId, (String, i64)>,
}

impl Asapp {
    fn wall(engine: &Engine) -> i64 {
        UNIX_MS + (engine.now - engine.start).as_millis() as i64
    }

    pub fn asked(&mut self, engine: &mut Engine, random: &mut Random, question: u64, request: &ApiRequest) {
        let latency = if random.percent(85) { random.duration(secs(1)) } else { random.duration(secs(6)) };
        match request.operation {
            ApiOperation::Create(_) => self.create(engine, random, question, request, latency),
            ApiOperation::Fetch => self.fetch(engine, random, question, request, latency),
        }
    }

    fn create(
        &mut self,
        engine: &mut Engine,
        random: &mut Random,
        question: u64,
        request: &ApiRequest,
        latency: Duration,
    ) {
        let class = match random.below(100) {
            0..80 => {
                let number = format!("+1999{:07}", self.transfers.len());
                let life = if random.percent(70) { secs(60) } else { random.between(secs(4), secs(20)) };
                let wall = Self::wall(engine) + latency.as_millis() as i64;
                self.transfers.insert(request.transfer.clone(), (number.clone(), wall + life.as_millis() as i64));
                // Beyond the limit the adapter says that it does not know.
                if latency < request.timeout {
                    let answer = Transfer {
                        expires_at: Some(wall + life.as_millis() as i64),
                        dated: wall,
                        ..active(&number, life)
                    };
                    engine.reply(question, latency, Ok(answer));
                }
                return;
            }
            80..86 => FailureClass::ServerError,
            86..89 => FailureClass::Throttled,
            89..92 => FailureClass::Unreachable,
            92..94 => FailureClass::Malformed,
            94..96 => FailureClass::Refused,
            96..98 => FailureClass::Conflict,
            _ => return,
        };
        engine.reply(question, latency.min(request.timeout), Err(failure(class)));
    }

    fn fetch(
        &mut self,
        engine: &mut Engine,
        random: &mut Random,
        question: u64,
        request: &ApiRequest,
        latency: Duration,
    ) {
        let latency = latency.min(request.timeout);
        let settling = engine.records.is_empty() && random.percent(50);
        let answer = match (self.transfers.get(&request.transfer), random.below(100)) {
            (None, _) => Err(failure(FailureClass::NotFound)),
            (Some((number, expires)), ..40) if settling => {
                let dated = Self::wall(engine) + latency.as_millis() as i64;
                Ok(Transfer { expires_at: Some(*expires), dated, ..active(number, secs(0)) })
            }
            (Some(_), ..40) => Ok(Transfer { status: Some(TransferStatus::Ongoing), ..Transfer::default() }),
            (Some(_), 40..85) => Ok(completed("AGENT", &[("why", "because")], &[])),
            (Some(_), 85..95) => Err(failure(FailureClass::ServerError)),
            (Some(_), _) => return,
        };
        engine.reply(question, latency, answer);
    }
}
