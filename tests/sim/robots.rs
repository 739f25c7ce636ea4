//! Parties that live on their own, with their own retransmissions: customers, GenerativeAgents, queues and an API, all of them
//! driven by alarms and by chance.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use switchback::b2bua::io::{ApiOperation, ApiRequest, FailureClass, Transfer, TransferStatus, Transport};
use switchback::call::TransferId;
use switchback::call::record::CallRecord;

use crate::asapp::{active, completed};
use crate::engine::{CARRIER, CORE, Engine, IVR, QUEUE, UNIX_MS, address, failure, ms, secs};
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
    /// A customer has a new offer.
    CallerOffers,
    /// The carrier has a new offer.
    CalleeOffers,
    /// Something stray arrives, a side falls silent, the driver is late.
    Mischief,
    /// Another phone of the customers' asks for the place of one of them.
    TakeOver,
    /// A customer's PBX asks us to call somebody in its place.
    Refer,
    /// An IVR asks us to call a customer.
    Ask,
    /// The program is told to stop.
    Stop,
    /// The connection to a party breaks: the customers' for 0, then the carriers'.
    Reset,
    /// A carrier falls silent.
    Dies,
    /// It is back.
    Returns,
}

const ALARMS: [Alarm; 16] = [
    Alarm::Call,
    Alarm::Leave,
    Alarm::CallerRepeats,
    Alarm::Decide,
    Alarm::HangUp,
    Alarm::CalleeRepeats,
    Alarm::CallerOffers,
    Alarm::CalleeOffers,
    Alarm::Mischief,
    Alarm::TakeOver,
    Alarm::Refer,
    Alarm::Ask,
    Alarm::Stop,
    Alarm::Reset,
    Alarm::Dies,
    Alarm::Returns,
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

/// A body for a new offer: talk, or one of the ways to hold.
fn any_offer(ip: &str, port: u16, random: &mut Random) -> String {
    match random.below(4) {
        0 => text::audio(ip, port, "0 8 101", "sendonly"),
        1 => text::audio(ip, port, "0 8 101", "inactive"),
        2 => text::sdp("0.0.0.0", port),
        _ => text::sdp(ip, port),
    }
}

/// The ACK of a refusal: the request's own branch.
fn ack_of(request: &Sip, refusal: &Sip) -> Sip {
    let copied = ["Via", "Max-Forwards", "From", "Call-ID"];
    let headers = request.headers.iter().filter(|(name, _)| copied.contains(&name.as_str())).cloned().collect();
    Sip { headers, ..Sip::request("ACK", request.uri()) }
        .with("To", refusal.header("To"))
        .with("CSeq", format!("{} ACK", request.cseq()))
}

/// The answer to a request inside the dialog; every fourth re-INVITE is told to wait.
fn in_dialog_answer(request: &Sip, sdp: String, contact: &str) -> Sip {
    match request.is("INVITE") {
        true if request.cseq() % 4 == 3 => Sip::response(request, 491, ""),
        true => Sip::response(request, 200, "").with("Contact", format!("<sip:x@{contact}>")).with_sdp(sdp),
        false => Sip::response(request, 200, ""),
    }
}

fn answers(response: &Sip, request: &Sip) -> bool {
    response.branch() == request.branch() && response.method() == request.method()
}

// --- customers ---------------------------------------------------------------------------------------------------

#[derive(Debug)]
pub struct Caller {
    index: usize,
    /// How it speaks.
    transport: Transport,
    invite: Sip,
    /// INVITE, CANCEL and BYE, as long as they wait.
    pending: Vec<Pending>,
    proceeding: bool,
    wants_out: bool,
    acknowledges: bool,
    /// To and Contact of what made the dialog, early or not.
    dialog: Option<(String, String)>,
    answered: bool,
    /// The number said last.
    cseq: u32,
    /// The RSeq acknowledged last.
    rseq: u32,
    /// Re-INVITEs by their number, for the ACK.
    reinvites: Vec<Sip>,
    /// What its side does when it is asked to call somebody.
    temper: Temper,
    /// What it said to the last REFER, where it said anything.
    referred: Option<(String, Option<Sip>)>,
    over: bool,
}

/// What a customer's side makes of a REFER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Temper {
    /// Does it, says so, and waits for our BYE.
    Obeys,
    /// Does it and hangs up.
    Leaves,
    /// Finds the target busy.
    Fails,
    /// Accepts and says nothing more.
    Forgets,
    Declines,
    /// Does not even answer.
    Ignores,
    /// Hangs up instead.
    HangsUp,
}

const TEMPERS: [Temper; 7] =
    [Temper::Obeys, Temper::Leaves, Temper::Fails, Temper::Forgets, Temper::Declines, Temper::Ignores, Temper::HangsUp];

impl Caller {
    /// One without wishes of its own.
    pub fn plain(index: usize) -> Self {
        let port = 10_000 + 2 * index as u16;
        let invite = Sip::request("INVITE", &format!("sip:7000@{CORE}"))
            .with("Via", format!("SIP/2.0/UDP {IVR};branch=z9hG4bK-c-{index};rport"))
            .with("Max-Forwards", "70")
            .with("From", format!("<sip:+1555765{index:04}@{IVR}>;tag=c{index}"))
            .with("To", format!("<sip:7000@{CORE}>"))
            .with("Call-ID", format!("{index}@ivr"))
            .with("CSeq", "1 INVITE")
            .with("Contact", format!("<sip:ivr@{IVR}>"))
            .with_sdp(text::sdp("198.51.100.10", port));
        Self {
            index,
            transport: Transport::Udp,
            invite,
            pending: Vec::new(),
            proceeding: false,
            wants_out: false,
            acknowledges: true,
            dialog: None,
            answered: false,
            cseq: 1,
            rseq: 0,
            reinvites: Vec::new(),
            temper: TEMPERS[index % TEMPERS.len()],
            referred: None,
            over: false,
        }
    }

    pub fn new(index: usize, random: &mut Random) -> Self {
        let mut caller = Self::plain(index);
        if random.percent(10) {
            caller.invite.body.clear();
            caller.invite.headers.retain(|(name, _)| name != "Content-Type");
        }
        let mut wish = |name: &str, value: &str| caller.invite.headers.push((name.to_owned(), value.to_owned()));
        match random.below(4) {
            0 => wish("Require", "100rel"),
            1 => wish("Supported", "100rel"),
            _ => {}
        }
        if random.percent(40) {
            let refresher = if random.percent(70) { "uas" } else { "uac" };
            wish("Supported", "timer");
            wish("Session-Expires", &format!("90;refresher={refresher}"));
        }
        if random.percent(50) {
            wish("Allow", "INVITE, ACK, BYE, CANCEL, PRACK, UPDATE");
        }
        caller.acknowledges = !random.percent(3);
        caller
    }

    /// Speaks like this from the first word.
    pub fn over(mut self, transport: Transport) -> Self {
        let before = self.via();
        self.transport = transport;
        let via = self.via();
        self.invite.headers.iter_mut().for_each(|(_, value)| *value = value.replace(&before, &via));
        self
    }

    /// Asks for the place of this one, as far as it has a dialog.
    pub fn replacing(mut self, other: &Self) -> Self {
        let tag = |value: &str| value.split(";tag=").nth(1).unwrap_or("none").to_owned();
        let remote = tag(&other.dialog.clone().unwrap_or_default().0);
        let local = tag(other.invite.header("From"));
        let replaces = format!("{};to-tag={remote};from-tag={local}", other.invite.call_id());
        self.invite = self.invite.with("Replaces", replaces);
        self
    }

    /// Does not call: asks by REFER for a customer to be called.
    pub fn asking(mut self, random: &mut Random) -> Self {
        let mut refer = Sip::request("REFER", self.invite.uri());
        let copied = ["Via", "Max-Forwards", "From", "To", "Call-ID", "Contact"];
        refer.headers.extend(self.invite.headers.into_iter().filter(|(name, _)| copied.contains(&name.as_str())));
        let to = format!("<sip:customer-{}@{QUEUE}?Replaces=x%3Bto-tag%3D1%3Bfrom-tag%3D2>", self.index);
        self.invite = refer.with("CSeq", "1 REFER").with("Refer-To", to);
        if random.percent(10) {
            self.invite = self.invite.with("Refer-Sub", "false");
        }
        self
    }

    /// Whether it asks for a customer and is none.
    pub fn is_asking(&self) -> bool {
        self.invite.is("REFER")
    }

    /// Whether this record is of the call that it began.
    pub fn began(&self, record: &CallRecord) -> bool {
        record.customer_call_id == self.invite.call_id()
    }

    fn via(&self) -> String {
        format!("SIP/2.0/{} {IVR}", self.transport.as_str())
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
        for _ in 0..random.below(3) {
            set(engine, random.duration(secs(40)), Alarm::CallerOffers, self.index);
        }
    }

    /// Sends the INVITE so many times at once, as a network that doubles would.
    pub fn invite(&mut self, engine: &mut Engine, times: usize) {
        (0..times).for_each(|_| self.send(engine, &self.invite));
    }

    /// A new offer by UPDATE or re-INVITE, where there is a call; with no body it is delayed.
    pub fn offers(&mut self, engine: &mut Engine, random: &mut Random) {
        if self.over || !self.answered {
            return;
        }
        let method = if random.percent(50) { "UPDATE" } else { "INVITE" };
        self.cseq += 1;
        let sdp = match random.below(4) {
            0 => String::new(),
            _ => any_offer("198.51.100.10", 10_000 + 2 * self.index as u16, random),
        };
        let contact = format!("<sip:ivr@{IVR}>");
        let offer = self.in_dialog(method, self.cseq).with("Contact", contact).with_sdp(sdp);
        if method == "INVITE" {
            self.reinvites.push(offer.clone());
        }
        self.ask(engine, offer);
    }

    /// Asks for somebody else to be called, where there is a call; some leave as soon as they have asked.
    pub fn refers(&mut self, engine: &mut Engine, random: &mut Random) {
        if self.over || !self.answered {
            return;
        }
        self.cseq += 1;
        let to = format!("<sip:desk-{}@{QUEUE}>", self.index);
        let contact = format!("<sip:ivr@{IVR}>");
        let refer = self.in_dialog("REFER", self.cseq).with("Contact", contact).with("Refer-To", to);
        self.ask(engine, refer);
        if random.percent(30) {
            self.leave(engine);
        }
    }

    fn sdp(&self) -> String {
        text::sdp("198.51.100.10", 10_000 + 2 * self.index as u16)
    }

    pub fn leave(&mut self, engine: &mut Engine) {
        self.wants_out = true;
        if self.over {
        } else if self.answered {
            self.goodbye(engine);
        } else if self.proceeding {
            self.ask(engine, self.hop_by_hop("CANCEL"));
        }
    }

    fn goodbye(&mut self, engine: &mut Engine) {
        self.over = true;
        self.cseq += 1;
        let bye = self.in_dialog("BYE", self.cseq);
        self.ask(engine, bye);
    }

    fn hop_by_hop(&self, method: &str) -> Sip {
        let copied = ["Via", "Max-Forwards", "From", "To", "Call-ID"];
        let headers = self.invite.headers.iter().filter(|(name, _)| copied.contains(&name.as_str())).cloned().collect();
        Sip { headers, ..Sip::request(method, self.invite.uri()) }.with("CSeq", format!("1 {method}"))
    }

    fn in_dialog(&self, method: &str, cseq: u32) -> Sip {
        let (to, target) = self.dialog.clone().unwrap_or_default();
        Sip::request(method, &target)
            .with("Via", format!("{};branch=z9hG4bK-c-{}-{cseq}-{method};rport", self.via(), self.index))
            .with("Max-Forwards", "70")
            .with("From", self.invite.header("From"))
            .with("To", to)
            .with("Call-ID", self.invite.call_id())
            .with("CSeq", format!("{cseq} {method}"))
    }

    pub fn repeats(&mut self, engine: &mut Engine) {
        // One alarm rings for each thing that waits; each repeats only what is due by then.
        let Some(mut first) = (!self.pending.is_empty()).then(|| self.pending.remove(0)) else { return };
        if first.sip.is("INVITE") && first.sip.cseq() == 1 && self.proceeding {
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
            if sip.is("REFER") {
                self.is_referred(engine, sip);
            } else if self.is_asking() {
                self.is_told(engine, sip);
            } else if !sip.is("ACK") {
                self.over |= sip.is("BYE");
                self.send(engine, &in_dialog_answer(sip, self.sdp(), IVR));
            }
            return;
        };
        if sip.method() == "INVITE" && sip.cseq() > 1 {
            self.reinvite_answered(engine, sip, status);
        } else {
            self.answered(engine, sip, status);
        }
    }

    /// Hears what becomes of the customer; some do not want to, or are not there any more.
    fn is_told(&mut self, engine: &mut Engine, notify: &Sip) {
        match self.temper {
            Temper::Ignores => {}
            Temper::Declines => self.send(engine, &Sip::response(notify, 481, "")),
            _ => self.send(engine, &Sip::response(notify, 200, "")),
        }
    }

    /// A repeat hears what was said before.
    fn is_referred(&mut self, engine: &mut Engine, refer: &Sip) {
        if let Some((_, said)) = self.referred.as_ref().filter(|(branch, _)| branch == refer.branch()) {
            said.iter().for_each(|said| self.send(engine, said));
            return;
        }
        let status = match self.temper {
            _ if self.over => Some(481),
            Temper::Obeys | Temper::Leaves | Temper::Fails | Temper::Forgets => Some(202),
            Temper::Declines => Some(603),
            Temper::HangsUp => Some(481),
            Temper::Ignores => None,
        };
        let said = status.map(|status| Sip::response(refer, status, ""));
        said.iter().for_each(|said| self.send(engine, said));
        self.referred = Some((refer.branch().to_owned(), said));
        match self.temper {
            _ if self.over => {}
            Temper::Obeys => {
                self.notifies(engine, refer, "active;expires=60", "SIP/2.0 100 Trying\r\n");
                self.notifies(engine, refer, "terminated;reason=noresource", "SIP/2.0 200 OK\r\n");
            }
            Temper::Fails => {
                self.notifies(engine, refer, "terminated;reason=noresource", "SIP/2.0 486 Busy Here\r\n");
            }
            Temper::Leaves => {
                self.notifies(engine, refer, "active;expires=60", "SIP/2.0 180 Ringing\r\n");
                self.goodbye(engine);
            }
            Temper::HangsUp => self.goodbye(engine),
            Temper::Forgets | Temper::Declines | Temper::Ignores => {}
        }
    }

    fn notifies(&mut self, engine: &mut Engine, refer: &Sip, state: &str, body: &str) {
        self.cseq += 1;
        let notify = self.in_dialog("NOTIFY", self.cseq).with("Contact", format!("<sip:ivr@{IVR}>"));
        let notify = notify.with("Event", format!("refer;id={}", refer.cseq())).with("Subscription-State", state);
        let notify = notify.with("Content-Type", "message/sipfrag");
        self.ask(engine, Sip { body: body.to_owned(), ..notify });
    }

    fn reinvite_answered(&mut self, engine: &mut Engine, sip: &Sip, status: u16) {
        let Some(reinvite) = self.reinvites.iter().find(|reinvite| answers(sip, reinvite)).cloned() else { return };
        self.pending.retain(|pending| !answers(sip, &pending.sip));
        let sdp = if reinvite.body.is_empty() { self.sdp() } else { String::new() };
        match status {
            ..200 => {}
            200..300 => self.send(engine, &self.in_dialog("ACK", reinvite.cseq()).with_sdp(sdp)),
            _ => self.send(engine, &ack_of(&reinvite, sip)),
        }
    }

    fn answered(&mut self, engine: &mut Engine, sip: &Sip, status: u16) {
        if status >= 200 {
            self.pending.retain(|pending| !answers(sip, &pending.sip));
        }
        match (sip.method(), status) {
            ("INVITE", ..200) => {
                let first = !self.proceeding;
                self.proceeding = true;
                let rseq = sip.header("RSeq").parse().unwrap_or(0);
                if rseq > self.rseq {
                    self.rseq = rseq;
                    self.dialog = Some((sip.header("To").to_owned(), sip.contact().to_owned()));
                    self.cseq += 1;
                    let prack = self.in_dialog("PRACK", self.cseq).with("RAck", format!("{rseq} 1 INVITE"));
                    self.ask(engine, prack);
                }
                if first && self.wants_out && !self.over {
                    self.ask(engine, self.hop_by_hop("CANCEL"));
                }
            }
            ("INVITE", 200..300) => {
                let first = !self.answered;
                self.answered = true;
                self.dialog = Some((sip.header("To").to_owned(), sip.contact().to_owned()));
                if self.acknowledges {
                    let delayed = self.invite.body.is_empty();
                    let body = if delayed { self.sdp() } else { String::new() };
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

// --- whoever is called: GenerativeAgent, the queue ---------------------------------------------------------------------------------------------

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
    at: SocketAddr,
    transport: Transport,
    invite: Sip,
    fate: Fate,
    manners: Manners,
    /// Said last to the INVITE.
    last: Option<Sip>,
    /// The reliable provisional response that waits for its PRACK.
    unpracked: Option<Pending>,
    /// The final response that waits for its ACK.
    unacked: Option<Pending>,
    /// The 200 of another branch of the fork.
    forked: Option<Pending>,
    answered: bool,
    cseq: u32,
    /// BYE, UPDATE and re-INVITE, as long as they wait.
    asked: Vec<Pending>,
    reinvites: Vec<Sip>,
    over: bool,
}

/// What else a carrier does, decided when it is dialled.
#[derive(Debug, Clone, Copy, Default)]
struct Manners {
    /// It wants to know who we are: this many times.
    challenges: u64,
    reliable: bool,
    forks: bool,
    /// It wants to be refreshed.
    timer: bool,
    updates: bool,
    /// It says for how long it wants to be left alone.
    rests: bool,
    /// What it says first.
    first: u16,
}

impl Callee {
    fn new(index: usize, at: SocketAddr, transport: Transport, invite: Sip, fate: Fate, manners: Manners) -> Self {
        Self {
            index,
            at,
            transport,
            invite,
            fate,
            manners,
            last: None,
            unpracked: None,
            unacked: None,
            forked: None,
            answered: false,
            cseq: 5,
            asked: Vec::new(),
            reinvites: Vec::new(),
            over: false,
        }
    }

    pub fn invited(index: usize, at: SocketAddr, invite: Sip, engine: &mut Engine, random: &mut Random) -> Self {
        let codes = [404, 480, 486, 500, 503, 603];
        let (fate, after) = match random.below(100) {
            0..60 => (Fate::Answer, random.duration(secs(3))),
            60..70 => (Fate::Answer, random.duration(secs(40))),
            70..73 => (Fate::BadAnswer, random.duration(secs(2))),
            73..85 => (Fate::Refuse(codes[random.below(6) as usize]), random.duration(secs(2))),
            _ => (Fate::Nothing, Duration::ZERO),
        };
        let manners = Manners {
            challenges: if at != address(QUEUE) && random.percent(20) { 1 + random.below(3) } else { 0 },
            reliable: random.percent(30),
            forks: random.percent(10),
            timer: random.percent(40),
            updates: random.percent(50),
            rests: random.percent(50),
            first: [0, 100, 100, 183, 183, 180, 180, 180, 180, 180][random.below(10) as usize],
        };
        let mut callee = Self::new(index, at, engine.transport(at), invite, fate, manners);
        callee.begin(engine);
        if fate != Fate::Nothing {
            set(engine, after, Alarm::Decide, index);
        }
        callee
    }

    /// What an INVITE hears first.
    fn begin(&mut self, engine: &mut Engine) {
        if self.manners.challenges > 0 {
            self.manners.challenges -= 1;
            return self.say(engine, 407, "");
        }
        match self.manners.first {
            0 => {}
            183 => self.say(engine, 183, &self.sdp()),
            status => self.say(engine, status, ""),
        }
    }

    /// Rings and answers at once.
    pub fn eager(index: usize, invite: Sip, engine: &mut Engine) -> Self {
        let mut callee = Self::new(index, address(CARRIER), Transport::Udp, invite, Fate::Answer, Manners::default());
        callee.say(engine, 180, "");
        callee.say(engine, 200, &callee.sdp());
        callee.answered = true;
        callee
    }

    fn sdp(&self) -> String {
        text::sdp(&self.at.ip().to_string(), 10_000 + 2 * self.index as u16)
    }

    fn send(&self, engine: &mut Engine, sip: &Sip) {
        engine.send(self.at, sip.octets());
    }

    fn say(&mut self, engine: &mut Engine, status: u16, sdp: &str) {
        let mut response = Sip::response(&self.invite, status, &format!("g{}", self.index));
        if status == 407 {
            let stale = self.invite.has("Proxy-Authorization");
            let nonce = self.manners.challenges;
            response = response.with(
                "Proxy-Authenticate",
                format!("Digest realm=\"carrier.example\", nonce=\"{nonce}\", qop=\"auth\", stale={stale}"),
            );
        }
        if status < 300 {
            response = response.with("Contact", format!("<sip:gw@{}>", self.at)).with_sdp(sdp);
        }
        if status == 503 && self.manners.rests {
            response = response.with("Retry-After", "3");
        }
        if self.manners.updates {
            response = response.with("Allow", "INVITE, ACK, BYE, CANCEL, PRACK, UPDATE");
        }
        if self.manners.timer && status == 200 {
            response = response.with("Session-Expires", "90;refresher=uac");
        }
        let reliable = self.manners.reliable && (101..200).contains(&status);
        if reliable {
            response = response.with("Require", "100rel").with("RSeq", "1");
        }
        self.send(engine, &response);
        self.last = Some(response.clone());
        if status >= 200 || reliable {
            let waiting = self.repeated(engine, response);
            if reliable { self.unpracked = waiting } else { self.unacked = waiting }
        }
    }

    /// Repeats this from now on until somebody takes it out of its place.
    fn repeated(&self, engine: &mut Engine, sip: Sip) -> Option<Pending> {
        let mut pending = Pending::new(sip);
        let wait = pending.again().unwrap_or(T1);
        set(engine, wait, Alarm::CalleeRepeats, self.index);
        Some(pending)
    }

    fn is_final(&self) -> bool {
        self.last.as_ref().and_then(Sip::status).is_some_and(|status| status >= 200)
    }

    pub fn decide(&mut self, engine: &mut Engine, random: &mut Random) {
        let challenged = self.last.as_ref().and_then(Sip::status) == Some(407);
        if challenged && !self.over {
            return set(engine, secs(1), Alarm::Decide, self.index); // Until it has said who it is, or for ever.
        }
        if self.is_final() {
            return;
        }
        match self.fate {
            Fate::Answer => self.say(engine, 200, &self.sdp()),
            Fate::BadAnswer => self.say(engine, 200, &text::audio(&self.at.ip().to_string(), 9, "111", "sendrecv")),
            Fate::Refuse(status) => self.say(engine, status, ""),
            Fate::Nothing => {}
        }
        if matches!(self.fate, Fate::Answer | Fate::BadAnswer) {
            self.answered = true;
            let talk = if random.percent(10) { random.duration(ms(50)) } else { random.duration(secs(30)) };
            let talk = if random.percent(10) { secs(70) } else { talk };
            set(engine, talk, Alarm::HangUp, self.index);
            for _ in 0..random.below(3) {
                set(engine, random.duration(secs(20)), Alarm::CalleeOffers, self.index);
            }
            if self.manners.forks {
                let other = Sip::response(&self.invite, 200, &format!("g{}-fork", self.index));
                let other = other.with("Contact", format!("<sip:gw@{}>", self.at)).with_sdp(self.sdp());
                self.send(engine, &other);
                self.forked = self.repeated(engine, other);
            }
        }
    }

    fn in_dialog(&self, method: &str, cseq: u32) -> Sip {
        Sip::request(method, self.invite.contact())
            .with(
                "Via",
                format!(
                    "SIP/2.0/{} {};branch=z9hG4bK-g-{}-{cseq}-{method};rport",
                    self.transport.as_str(),
                    self.at,
                    self.index
                ),
            )
            .with("Max-Forwards", "70")
            .with("From", format!("{};tag=g{}", self.invite.header("To"), self.index))
            .with("To", self.invite.header("From"))
            .with("Call-ID", self.invite.call_id())
            .with("CSeq", format!("{cseq} {method}"))
    }

    fn ask(&mut self, engine: &mut Engine, request: Sip) {
        self.send(engine, &request);
        let waiting = self.repeated(engine, request);
        self.asked.extend(waiting);
    }

    pub fn hang_up(&mut self, engine: &mut Engine) {
        if self.over {
            return;
        }
        self.over = true;
        self.cseq += 1;
        let bye = self.in_dialog("BYE", self.cseq);
        self.ask(engine, bye);
    }

    pub fn offers(&mut self, engine: &mut Engine, random: &mut Random) {
        if self.over || !self.answered {
            return;
        }
        let method = if random.percent(50) { "UPDATE" } else { "INVITE" };
        self.cseq += 1;
        let sdp = any_offer(&self.at.ip().to_string(), 10_000 + 2 * self.index as u16, random);
        let contact = format!("<sip:gw@{}>", self.at);
        let offer = self.in_dialog(method, self.cseq).with("Contact", contact).with_sdp(sdp);
        if method == "INVITE" {
            self.reinvites.push(offer.clone());
        }
        self.ask(engine, offer);
    }

    pub fn repeats(&mut self, engine: &mut Engine) {
        let (at, index) = (self.at, self.index);
        for waiting in [&mut self.unpracked, &mut self.unacked, &mut self.forked] {
            let Some(pending) = waiting else { continue };
            match pending.again() {
                Some(wait) => {
                    engine.send(at, pending.sip.octets());
                    set(engine, wait, Alarm::CalleeRepeats, index);
                }
                None => *waiting = None,
            }
        }
        self.asked.retain_mut(|pending| {
            let again = pending.again();
            if let Some(wait) = again {
                engine.send(at, pending.sip.octets());
                set(engine, wait, Alarm::CalleeRepeats, index);
            }
            again.is_some()
        });
    }

    pub fn hears(&mut self, engine: &mut Engine, sip: &Sip) {
        match sip.status() {
            Some(status @ 200..) => {
                self.asked.retain(|pending| !answers(sip, &pending.sip));
                if let Some(reinvite) = self.reinvites.iter().find(|reinvite| answers(sip, reinvite)) {
                    let ack = match status {
                        200..300 => self.in_dialog("ACK", reinvite.cseq()),
                        _ => ack_of(reinvite, sip),
                    };
                    self.send(engine, &ack);
                }
            }
            Some(_) => {}
            None if sip.is("INVITE") && !sip.tag("To").is_empty() => {
                self.send(engine, &in_dialog_answer(sip, self.sdp(), &self.at.to_string()));
            }
            None if sip.is("INVITE") && sip.cseq() > self.invite.cseq() => {
                // It says who it is, or what else was asked for.
                self.invite = sip.clone();
                (self.last, self.unpracked, self.unacked) = (None, None, None);
                self.begin(engine);
            }
            None if sip.is("INVITE") => {
                if let (Some(last), false, true) = (&self.last, self.answered, sip.branch() == self.invite.branch()) {
                    self.send(engine, last);
                }
            }
            None if sip.is("ACK") => {
                let fork = sip.tag("To").ends_with("-fork");
                let waiting = if fork { &mut self.forked } else { &mut self.unacked };
                waiting.take_if(|pending| pending.sip.cseq() == sip.cseq());
            }
            None => {
                self.send(engine, &Sip::response(sip, 200, ""));
                if sip.is("PRACK") {
                    self.unpracked = None;
                }
                if sip.is("CANCEL") && sip.branch() == self.invite.branch() && !self.is_final() {
                    self.say(engine, 487, "");
                }
                self.over |= sip.is("BYE") && !sip.tag("To").ends_with("-fork");
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
