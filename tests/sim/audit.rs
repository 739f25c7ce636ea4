//! What must hold whatever happens, seen from the wire: every request answered, every 2xx acknowledged, every dialog
//! ended, no number dialled twice or late, and every octet that leaves read alike by two independent readers.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use switchback::demo::message::Heard;
use switchback::sip::message::{HeaderName, Message};
use switchback::sip::validate;

use crate::text::Sip;
use crate::world::LONG;

type Key = (String, String);

#[derive(Debug, Default)]
pub struct Audit {
    /// Requests that reached the core and wait for their final answer, by branch and method.
    owed_answers: BTreeMap<Key, String>,
    /// 2xx that reached the core and wait for their ACK, by Call-ID and far tag.
    owed_acks: BTreeMap<Key, u32>,
    /// Dialogs that a 2xx made, by Call-ID and tag of the answering side.
    open_dialogs: BTreeSet<Key>,
    ended_dialogs: BTreeSet<Key>,
    /// INVITEs of ours, by Call-ID.
    dialled: BTreeMap<String, Dialled>,
    /// INVITEs of ours inside a dialog, by Call-ID and number, and until when their 2xx finds them.
    renewed: BTreeMap<(String, u32), (SocketAddr, Instant)>,
    /// When the last INVITE to a number may leave.
    guards: BTreeMap<String, Instant>,
    breaches: Vec<String>,
    /// Messages that were read already; a repeat is the same octets.
    read: HashSet<Bytes>,
}

/// One INVITE of ours.
#[derive(Debug)]
struct Dialled {
    number: String,
    to: SocketAddr,
    /// Something beyond 100 Trying came back: the number is spent.
    heard: bool,
    /// The INVITE of this number was refused.
    refused: u32,
    /// Until then an answer finds its transaction: timer B without a provisional response, 64*T1 after a CANCEL
    /// (RFC 3261 section 9.1), timer M after the first 2xx (RFC 6026).
    until: Option<Instant>,
    answered: bool,
    cancelled: bool,
}

impl Audit {
    /// Only who is `listed` is owed an answer.
    pub fn received(&mut self, now: Instant, octets: &[u8], listed: bool) {
        let Some(sip) = Sip::read(octets) else { return };
        let renewal = self.renewed.get(&(sip.call_id().to_owned(), sip.cseq())).filter(|_| sip.method() == "INVITE");
        if let (Some(200..300), Some(&(_, until))) = (sip.status(), renewal) {
            if now < until {
                *self.owed_acks.entry((sip.call_id().to_owned(), sip.tag("To").to_owned())).or_default() += 1;
            }
            return;
        }
        let dialled = self.dialled.get_mut(sip.call_id()).filter(|_| sip.method() == "INVITE");
        let awaited = dialled.as_ref().is_some_and(|dialled| dialled.until.is_none_or(|until| now < until));
        let mut dialled = dialled;
        if let (Some(status), Some(dialled)) = (sip.status(), &mut dialled) {
            // What it said before it refused may come after that.
            dialled.heard |= (101..300).contains(&status) && dialled.refused < sip.cseq();
            if status >= 300 {
                dialled.refused = dialled.refused.max(sip.cseq());
            }
        }
        match (sip.status(), dialled) {
            (Some(..200), Some(dialled)) if awaited && !dialled.answered && !dialled.cancelled => dialled.until = None,
            (Some(200..300), Some(dialled)) if awaited => {
                if !dialled.answered {
                    dialled.until = Some(now + LONG);
                    dialled.answered = true;
                }
                let key = (sip.call_id().to_owned(), sip.tag("To").to_owned());
                *self.owed_acks.entry(key.clone()).or_default() += 1;
                self.opened(key);
            }
            (Some(_), _) => {}
            (None, _) => {
                if sip.is("BYE") {
                    self.ended(&sip);
                }
                if !sip.is("ACK") && !sip.branch().is_empty() && listed {
                    let key = (sip.branch().to_owned(), sip.method().to_owned());
                    self.owed_answers.entry(key).or_insert_with(|| sip.start.clone());
                }
            }
        }
    }

    pub fn sent(&mut self, now: Instant, to: SocketAddr, octets: &Bytes, carriers: &[SocketAddr]) {
        if self.read.insert(octets.clone()) {
            self.read_twice(octets, to);
        }
        let Some(sip) = Sip::read(octets) else { return self.breach("we sent what is no SIP at all".to_owned()) };
        match sip.status() {
            Some(200..) => {
                self.owed_answers.insert((sip.branch().to_owned(), sip.method().to_owned()), String::new());
                if sip.method() == "INVITE" && sip.status().is_some_and(|status| status < 300) {
                    self.opened((sip.call_id().to_owned(), sip.tag("To").to_owned()));
                }
            }
            Some(_) => {}
            None if sip.is("INVITE") && !sip.tag("To").is_empty() => {
                self.renewed.entry((sip.call_id().to_owned(), sip.cseq())).or_insert((to, now + LONG));
            }
            None if sip.is("INVITE") => self.invited(now, to, &sip, carriers.contains(&to)),
            None if sip.is("BYE") => self.ended(&sip),
            None if sip.is("CANCEL") => {
                if let Some(dialled) = self.dialled.get_mut(sip.call_id()).filter(|it| !it.cancelled && !it.answered) {
                    dialled.cancelled = true;
                    dialled.until = Some(now + LONG);
                }
            }
            None if sip.is("ACK") => {
                self.owed_acks.remove(&(sip.call_id().to_owned(), sip.tag("To").to_owned()));
            }
            None => {}
        }
    }

    /// An INVITE of ours. A number is dialled once, unless nobody there has shown a sign of life and it goes another way;
    /// and not after its guard. A target may be called again.
    fn invited(&mut self, now: Instant, to: SocketAddr, sip: &Sip, numbered: bool) {
        // At GenerativeAgent's own URI a call goes by its transfer's id, which is guarded as a number is.
        let dialled = match sip.header("X-ASAPP-CallTransferId") {
            "" => sip.uri().trim_start_matches("sip:").split(['@', ';']).next().unwrap_or(""),
            transfer => transfer,
        };
        // A trunk may want it without its plus sign, or with digits before it.
        let meant = self.guards.keys().find(|number| dialled.ends_with(number.trim_start_matches('+')));
        let number = meant.map_or(dialled, String::as_str).to_owned();
        let mut others = self.dialled.iter().filter(|(id, it)| *id != sip.call_id() && it.number == number);
        let others = others.any(|(_, other)| other.heard || other.to == to);
        // Where the API is not asked, the URI is configured and every call's.
        let by_headers = sip.has("X-GA-extConversationId") && !sip.has("X-ASAPP-CallTransferId");
        match self.guards.get(&number) {
            _ if !numbered || by_headers => {}
            _ if others => self.breach(format!("{number} is dialled twice: {} at {to}", sip.call_id())),
            None => self.breach(format!("{number} is dialled and is no number of ASAPP's")),
            Some(&guard) if now >= guard => self.breach(format!("an INVITE leaves after the guard of {number}")),
            Some(_) => {}
        }
        let until = Some(now + LONG);
        let dialled = Dialled { number, to, heard: false, refused: 0, until, answered: false, cancelled: false };
        self.dialled.entry(sip.call_id().to_owned()).or_insert(dialled);
    }

    /// ASAPP has told the core a number that it was asked for then; from so much later on no INVITE to it leaves.
    pub fn numbered(&mut self, number: &str, asked: Instant, safe: Duration) {
        let guard = self.guards.entry(number.to_owned()).or_insert(asked + safe);
        *guard = (*guard).min(asked + safe);
    }

    /// The connection to this party broke: an INVITE that nobody there has answered has failed (RFC 3261 section
    /// 17.1.4). One that rings is answered over a connection of the far side's making.
    pub fn broken(&mut self, now: Instant, party: SocketAddr) {
        for dialled in self.dialled.values_mut().filter(|it| it.to == party && !it.answered) {
            dialled.until = dialled.until.map(|until| until.min(now));
        }
        self.renewed.retain(|_, (to, _)| *to != party);
    }

    fn opened(&mut self, key: Key) {
        if !self.ended_dialogs.contains(&key) {
            self.open_dialogs.insert(key);
        }
    }

    fn ended(&mut self, bye: &Sip) {
        for tag in [bye.tag("From"), bye.tag("To")] {
            let key = (bye.call_id().to_owned(), tag.to_owned());
            self.open_dialogs.remove(&key);
            self.ended_dialogs.insert(key);
        }
    }

    fn breach(&mut self, what: String) {
        self.breaches.push(what);
    }

    /// Our own strict reader and rsip find the same message in the octets.
    fn read_twice(&mut self, octets: &Bytes, to: SocketAddr) {
        let ours = match Message::read(octets.clone()) {
            Ok(ours) => ours,
            Err(unreadable) => return self.breach(format!("we cannot read ourselves: {unreadable:?}")),
        };
        let valid = if ours.method().is_some() { validate::request(&ours, &[]) } else { validate::response(&ours) };
        if let Err(rejection) = valid {
            self.breach(format!("we would refuse ourselves: {}", rejection.why));
        }
        if ours.cseq().is_some_and(|cseq| cseq.method.known().is_none()) {
            return; // rsip reads no method that it does not know.
        }
        if ours.via().is_some_and(|via| via.host.starts_with('[')) {
            return; // Nor an IPv6 address.
        }
        let theirs = match Heard::read(octets, to) {
            Ok(theirs) => theirs,
            Err(why) => {
                return self.breach(format!("rsip cannot read us: {why}\n{}", String::from_utf8_lossy(octets)));
            }
        };
        let cseq = ours.cseq();
        let uri = match &theirs.message {
            rsip::SipMessage::Request(request) => request.uri.to_string(),
            rsip::SipMessage::Response(_) => String::new(),
        };
        let same = theirs.status() == ours.status()
            && cseq.as_ref().is_some_and(|cseq| cseq.number == theirs.cseq)
            && cseq.is_some_and(|cseq| cseq.method.as_str() == theirs.method.to_string())
            && ours.via().and_then(|via| via.branch()) == Some(&theirs.branch)
            && ours.call_id() == Some(&theirs.call_id)
            && ours.from_tag() == theirs.from_tag
            && ours.to_tag() == theirs.to_tag.as_deref()
            && ours.request_uri() == uri
            && ours.headers(HeaderName::Via).count() > 0;
        if !same {
            self.breach(format!("two readers read us differently:\n{}\n{theirs:?}", String::from_utf8_lossy(octets)));
        }
    }

    /// What has been found so far, and what is still owed.
    pub fn verdict(&self) -> Vec<String> {
        let mut found = self.breaches.clone();
        let answers = self.owed_answers.iter().filter(|(_, start)| !start.is_empty());
        found.extend(answers.map(|((branch, _), start)| format!("never answered: {start} ({branch})")));
        found.extend(self.owed_acks.keys().map(|(id, tag)| format!("a 2xx without ACK: {id} {tag}")));
        found.extend(self.open_dialogs.iter().map(|(id, tag)| format!("a dialog never ended: {id} {tag}")));
        found
    }
}
