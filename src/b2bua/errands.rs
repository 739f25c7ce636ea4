//! Requests outside a dialog that belong to no call: OPTIONS pings of trunk servers, and our registrations there.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::B2bua;
use super::transactions::{ErrandId, Holder};
use super::trunks::Way;
use crate::sip::dialog::Endpoint;
use crate::sip::digest::{Answered, Keyring};
use crate::sip::hop::Hop;
use crate::sip::ids::Ids;
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::transaction::key::ClientKey;
use crate::sip::write::Writer;

/// After a registration that failed.
const REGISTER_AGAIN: Duration = Duration::from_secs(30);
/// Longest registration asked for.
const LONGEST: u32 = 24 * 3600;

#[derive(Debug)]
enum Errand {
    Ping(Way),
    Register { way: Way, attempt: Attempt },
}

/// What one attempt to register has gone through.
#[derive(Debug, Default)]
struct Attempt {
    /// What the registrar is shown.
    keyring: Option<Keyring>,
    /// Challenges answered.
    answered: Answered,
    /// Longer intervals asked for.
    lengthened: u8,
}

/// Our registration at one trunk (RFC 3261 section 10.2): one Call-ID for all of them.
#[derive(Debug)]
struct Registration {
    trunk: usize,
    call_id: String,
    tag: String,
    cseq: u32,
    /// Seconds asked for.
    expires: u32,
    /// When the next one leaves; `None` while one is under way.
    due: Option<Instant>,
    registered: bool,
}

/// All errands.
#[derive(Debug)]
pub(super) struct Errands {
    next: u64,
    open: HashMap<ErrandId, Errand>,
    registrations: Vec<Registration>,
}

impl Errands {
    /// None under way; registrations leave at once. `trunks`: the intervals by trunk, zero for none.
    pub(super) fn new(intervals: impl IntoIterator<Item = Duration>, now: Instant, ids: &mut Ids) -> Self {
        let wanted = intervals.into_iter().enumerate().filter(|(_, interval)| !interval.is_zero());
        let registrations = wanted.map(|(trunk, interval)| Registration {
            trunk,
            call_id: ids.call_id(),
            tag: ids.tag(),
            cseq: 0,
            expires: u32::try_from(interval.as_secs()).unwrap_or(LONGEST).clamp(1, LONGEST),
            due: Some(now),
            registered: false,
        });
        let registrations = registrations.collect();
        Self { next: 0, open: HashMap::new(), registrations }
    }

    /// When the next registration leaves.
    pub(super) fn next(&self) -> Option<Instant> {
        self.registrations.iter().filter_map(|registration| registration.due).min()
    }

    /// Trunks where we are registered now, and where we should be.
    pub(super) fn registered(&self) -> (u64, u64) {
        let there = self.registrations.iter().filter(|registration| registration.registered).count();
        (there as u64, self.registrations.len() as u64)
    }

    fn add(&mut self, errand: Errand) -> ErrandId {
        self.next += 1;
        let id = ErrandId(self.next);
        self.open.insert(id, errand);
        id
    }

    fn of(&mut self, trunk: usize) -> Option<&mut Registration> {
        self.registrations.iter_mut().find(|registration| registration.trunk == trunk)
    }
}

impl Registration {
    fn request(
        &mut self,
        uri: &str,
        address: &str,
        hop: &Hop,
        shown: &[(HeaderName, String)],
        endpoint: &Endpoint,
        ids: &mut Ids,
    ) -> (ClientKey, Bytes) {
        self.cseq += 1;
        self.due = None;
        let branch = ids.branch();
        let mut writer = Writer::request(&Method::Register, uri);
        writer
            .header(HeaderName::Via, &endpoint.via(hop, &branch))
            .header(HeaderName::MaxForwards, "70")
            .header(HeaderName::From, &format!("<{address}>;tag={}", self.tag))
            .header(HeaderName::To, &format!("<{address}>"))
            .header(HeaderName::CallId, &self.call_id)
            .header(HeaderName::CSeq, &format!("{} REGISTER", self.cseq))
            .header(HeaderName::Contact, &endpoint.contact(hop))
            .header(HeaderName::Expires, &self.expires.to_string())
            .header(HeaderName::UserAgent, &endpoint.product);
        for (name, value) in shown {
            writer.header(*name, value);
        }
        (ClientKey::new(&branch, Method::Register), writer.finish())
    }

    /// Seconds that the registrar granted our Contact.
    fn granted(&self, response: &Message, own: &str) -> u32 {
        let ours = response.list(HeaderName::Contact).find(|contact| contact.contains(own));
        let param = ours.and_then(|contact| contact.to_ascii_lowercase().split(";expires=").nth(1).map(str::to_owned));
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok();
        let header = || response.header(HeaderName::Expires).and_then(digits);
        param.as_deref().and_then(digits).or_else(header).unwrap_or(self.expires).clamp(1, LONGEST)
    }
}

impl B2bua {
    /// Sends what is due.
    pub(super) fn run_errands(&mut self, now: Instant) {
        if self.draining {
            return;
        }
        while let Some(way) = self.trunks.ping_due(now) {
            self.ping(now, way);
        }
        let due = |registration: &Registration| registration.due.is_some_and(|due| due <= now);
        while let Some(trunk) = self.errands.registrations.iter().find(|it| due(it)).map(|it| it.trunk) {
            self.register(now, trunk, Attempt::default());
        }
    }

    fn ping(&mut self, now: Instant, way: Way) {
        let trunk = self.trunks.settings(way);
        let (branch, tag, call_id) = (self.ids.branch(), self.ids.tag(), self.ids.call_id());
        let uri = format!("sip:{}", trunk.domain);
        let own = format!("sip:{}@{}", trunk.caller_id, self.endpoint.towards(&way.hop));
        let octets = Writer::request(&Method::Options, &uri)
            .header(HeaderName::Via, &self.endpoint.via(&way.hop, &branch))
            .header(HeaderName::MaxForwards, "70")
            .header(HeaderName::From, &format!("<{own}>;tag={tag}"))
            .header(HeaderName::To, &format!("<{uri}>"))
            .header(HeaderName::CallId, &call_id)
            .header(HeaderName::CSeq, "1 OPTIONS")
            .header(HeaderName::Contact, &self.endpoint.contact(&way.hop))
            .header(HeaderName::Accept, "application/sdp")
            .header(HeaderName::UserAgent, &self.endpoint.product)
            .finish();
        let errand = self.errands.add(Errand::Ping(way));
        let key = ClientKey::new(&branch, Method::Options);
        self.send(now, key, octets, Some(Holder::Errand(errand)), way.hop);
    }

    fn register(&mut self, now: Instant, trunk: usize, mut attempt: Attempt) {
        let way = self.trunks.first_up(now, trunk);
        let Some(registration) = self.errands.of(trunk) else { return };
        let Some(way) = way else {
            registration.due = Some(now + REGISTER_AGAIN);
            registration.registered = false;
            return;
        };
        let settings = self.trunks.settings(way);
        let user = settings.credentials.as_ref().map_or(&settings.caller_id, |credentials| &credentials.username);
        let uri = format!("sip:{}", settings.domain);
        let address = format!("sip:{}@{}", crate::sip::value::escaped(user), settings.domain);
        let shown = attempt.keyring.as_mut().map(|keyring| keyring.shown("REGISTER", &uri, b"", way.hop.ip()));
        let (shown, endpoint) = (shown.unwrap_or_default(), &self.endpoint);
        let (key, octets) = registration.request(&uri, &address, &way.hop, &shown, endpoint, &mut self.ids);
        let errand = self.errands.add(Errand::Register { way, attempt });
        self.send(now, key, octets, Some(Holder::Errand(errand)), way.hop);
    }

    /// A response to an errand.
    pub(super) fn errand_answered(&mut self, now: Instant, id: ErrandId, response: &Message, source: Hop) {
        let status = response.status().unwrap_or(0);
        if status < 200 {
            return;
        }
        match self.errands.open.remove(&id) {
            // Whatever it thinks of OPTIONS, it is alive; 503 is the word for not being there.
            Some(Errand::Ping(way)) => self.trunks.pinged(now, way, !matches!(status, 408 | 503)),
            Some(Errand::Register { way, attempt }) => self.registrar_answered(now, way, attempt, response, source),
            None => {}
        }
    }

    /// No answer.
    pub(super) fn errand_failed(&mut self, now: Instant, id: ErrandId) {
        match self.errands.open.remove(&id) {
            Some(Errand::Ping(way)) => self.trunks.pinged(now, way, false),
            Some(Errand::Register { way, .. }) => {
                self.trunks.silent(now, way);
                self.not_registered(now, way, "no answer");
            }
            None => {}
        }
    }

    fn registrar_answered(&mut self, now: Instant, way: Way, mut attempt: Attempt, response: &Message, source: Hop) {
        self.trunks.answered(now, way);
        let settings = self.trunks.settings(way);
        let own = self.endpoint.towards(&way.hop).to_string();
        let Some(registration) = self.errands.of(way.trunk) else { return };
        match response.status().unwrap_or(0) {
            200..300 => {
                let granted = registration.granted(response, &own);
                let was = std::mem::replace(&mut registration.registered, true);
                // Before it runs out, with time for a lost message (RFC 3261 section 10.2.4).
                let wait = Duration::from_secs(u64::from(granted)).mul_f64(if granted > 120 { 0.9 } else { 0.5 });
                registration.due = Some(now + wait);
                if !was {
                    tracing::info!(trunk = settings.name, seconds = granted, "registered");
                }
            }
            401 | 407 if settings.credentials.is_some() => {
                let Attempt { keyring, answered, .. } = &mut attempt;
                if keyring.as_ref().is_none_or(|keyring| !keyring.is_for(way.hop.ip())) {
                    *keyring = settings.credentials.clone().map(|it| Keyring::new(it, way.hop.ip()));
                }
                let challenged =
                    |keyring: &mut Keyring| keyring.challenged(response, source.ip(), answered, &mut self.ids);
                match keyring.as_mut().is_some_and(challenged) {
                    true => self.register(now, way.trunk, attempt),
                    false => self.not_registered(now, way, "the credentials were refused"),
                }
            }
            423 if attempt.lengthened < 3 => {
                let least = response.header(HeaderName::MinExpires).and_then(|value| value.trim().parse().ok());
                match least.filter(|least| *least > registration.expires && *least <= LONGEST) {
                    Some(least) => {
                        registration.expires = least;
                        attempt.lengthened += 1;
                        self.register(now, way.trunk, attempt);
                    }
                    None => self.not_registered(now, way, "the interval was refused"),
                }
            }
            status => self.not_registered(now, way, &format!("refused {status}")),
        }
    }

    fn not_registered(&mut self, now: Instant, way: Way, why: &str) {
        let name = &self.trunks.settings(way).name;
        tracing::warn!(trunk = name, why, "not registered; tried again in {} s", REGISTER_AGAIN.as_secs());
        if let Some(registration) = self.errands.of(way.trunk) {
            registration.registered = false;
            registration.due = Some(now + REGISTER_AGAIN);
        }
    }
}
