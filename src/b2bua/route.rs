//! What an arriving message belongs to: a transaction, a leg, or a new call. Nothing is decided here.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::B2bua;
use super::io::{Datagram, Output};
use super::settings::Unlisted;
use super::transactions::{Arrival, Effect, Holder, LegId};
use crate::leg;
use crate::sip::gate::Shown;
use crate::sip::hop::Hop;
use crate::sip::message::{HeaderName, Message, Method, Unreadable};
use crate::sip::refer::Replaces;
use crate::sip::transaction::key::ServerKey;
use crate::sip::validate::{self, Rejection};
use crate::sip::value::{Via, literal_host};
use crate::sip::write::Writer;

/// New calls and refusals per second.
#[derive(Debug, Default)]
pub(super) struct Admission {
    second: Option<Instant>,
    calls: u32,
    refusals: u32,
}

/// Refusals of unlisted or unreadable requests a second; more are dropped, so that nobody is flooded through us.
const MAX_REFUSALS: u32 = 20;

impl Admission {
    fn roll(&mut self, now: Instant) {
        let over = self.second.is_none_or(|second| now.saturating_duration_since(second) >= Duration::from_secs(1));
        if over {
            *self = Self { second: Some(now), calls: 0, refusals: 0 };
        }
    }

    pub(super) fn call(&mut self, now: Instant, limit: u32) -> bool {
        self.roll(now);
        self.calls += 1;
        self.calls <= limit
    }

    fn refusal(&mut self, now: Instant) -> bool {
        self.roll(now);
        self.refusals += 1;
        self.refusals <= MAX_REFUSALS
    }
}

impl B2bua {
    pub(super) fn received(&mut self, now: Instant, datagram: Datagram) {
        let origin = Hop::new(datagram.transport, datagram.peer);
        // Keep-alives (RFC 5626 section 4.4.1) and noise.
        if datagram.bytes.iter().all(|b| matches!(b, b'\r' | b'\n' | 0)) {
            return;
        }
        let listed = self.is_listed(origin.peer);
        if !listed && self.settings.unlisted == Unlisted::Drop {
            self.counters.unlisted += 1;
            return;
        }
        if listed && !self.sources.may_send(now, origin.ip()) {
            self.counters.over_rate += 1;
            return;
        }
        let message = match Message::read(datagram.bytes) {
            Ok(message) => message,
            Err(unreadable) => return self.unreadable(now, origin, unreadable, listed),
        };
        match message.method() {
            _ if !listed => self.unlisted(now, origin, &message),
            Some(_) => self.request(now, origin, message.with_received(origin.peer)),
            None => self.response(now, origin, &message),
        }
    }

    /// Whether this peer is heard at all.
    fn is_listed(&self, peer: SocketAddr) -> bool {
        let ip = peer.ip();
        self.trunks.hears(ip) || self.targets.hears(ip) || self.referred_hosts.hears(ip) || self.may_call(peer)
    }

    /// Whether this peer may begin something; a trunk is only there to be called.
    fn may_call(&self, peer: SocketAddr) -> bool {
        self.settings.access.iter().any(|network| network.contains(peer.ip()))
    }

    fn unlisted(&mut self, now: Instant, origin: Hop, message: &Message) {
        self.counters.unlisted += 1;
        let answerable = message.method().is_some_and(|method| *method != Method::Ack);
        if answerable && validate::request(message, &leg::EXTENSIONS).is_ok() {
            self.refuse(now, origin, message, 403, &[]);
        }
    }

    fn unreadable(&mut self, now: Instant, origin: Hop, unreadable: Unreadable, listed: bool) {
        self.counters.unreadable += 1;
        let (message, status) = match unreadable {
            Unreadable::Hopeless(_) => return,
            Unreadable::Version(message) => (message, 505),
            Unreadable::StartLine(message) => (message, 400),
        };
        if listed {
            self.refuse(now, origin, &message, status, &[]);
        }
    }

    fn response(&mut self, now: Instant, origin: Hop, message: &Message) {
        if validate::response(message).is_err() {
            self.counters.unreadable += 1;
            return;
        }
        // A refusal may ask for the INVITE once more: with credentials, with a longer interval.
        if message.status().is_some_and(|status| status >= 300) {
            self.expire_numbers(now);
        }
        let effects = self.transactions.response(message);
        self.perform(now, effects, Some((message, origin)));
    }

    fn request(&mut self, now: Instant, origin: Hop, message: Message) {
        let method = message.method().and_then(Method::known).unwrap_or("other");
        *self.counters.requests_received.entry(method).or_default() += 1;
        if let Err(rejection) = validate::request(&message, &leg::EXTENSIONS) {
            return self.reject(now, origin, &message, &rejection);
        }
        if origin.transport.is_reliable() && message.header(HeaderName::ContentLength).is_none() {
            // On a stream nothing else says where a message ends (RFC 3261 section 18.3).
            let rejection = Rejection { status: 400, why: "no Content-Length", unsupported: Vec::new() };
            return self.reject(now, origin, &message, &rejection);
        }
        let Some(key) = ServerKey::of_request(&message) else { return };
        let (arrival, effects) = self.transactions.arrival(&message, &key);
        let acknowledged = !effects.is_empty() || arrival == Arrival::Repeated;
        self.perform(now, effects, Some((&message, origin)));
        if message.is(&Method::Ack) {
            // An ACK for a 2xx is its own transaction and belongs to the dialog.
            if !acknowledged {
                self.in_dialog(&message, None);
            }
            return;
        }
        match arrival {
            Arrival::Repeated => {}
            Arrival::Merged => self.answer_once(now, origin, &message, 482),
            Arrival::New if message.is(&Method::Cancel) => self.cancel(now, origin, &message, key),
            Arrival::New if self.has_come_round(&message) => self.loops(now, origin, &message),
            Arrival::New if !self.passes(now, origin, &message) => {}
            Arrival::New if message.to_tag().is_some() => self.open_in_dialog(now, origin, &message, key),
            Arrival::New if message.method().is_some_and(Method::creates_dialog) => {
                match self.brings_back(origin, &message) {
                    _ if message.is(&Method::Refer) => self.asked_outside(now, origin, &message, key),
                    Some(transfer) => self.returned(now, origin, &message, key, transfer),
                    None if self.may_call(origin.peer) => self.at_the_door(now, origin, &message, key),
                    None => self.answer_once(now, origin, &message, 403),
                }
            }
            Arrival::New => self.outside_dialog(now, origin, &message),
        }
    }

    /// Whether this is an INVITE of ours that proxies have brought back: a Via of it has our address and a branch that nobody
    /// else can make (RFC 3261 section 16.3, item 4). One that stopped at a B2BUA on its way has no such Via.
    fn has_come_round(&self, message: &Message) -> bool {
        let ours = |via: Via<'_>| {
            self.endpoint.is_named_by(&via) && via.branch().is_some_and(|branch| self.keyed.made(branch))
        };
        let begins = message.is(&Method::Invite) && message.to_tag().is_none();
        begins && message.list(HeaderName::Via).filter_map(Via::read).any(ours)
    }

    /// Refuses a call that would lead to itself (flow T17).
    pub(super) fn loops(&mut self, now: Instant, origin: Hop, invite: &Message) {
        *self.counters.rejected.entry("loop").or_default() += 1;
        self.answer_once(now, origin, invite, 482);
    }

    /// A new call, or somebody who asks for the customer's place in one there is.
    fn at_the_door(&mut self, now: Instant, origin: Hop, invite: &Message, key: ServerKey) {
        match invite.header(HeaderName::Replaces).and_then(Replaces::read).map(|replaces| self.sought(&replaces)) {
            None => self.invited(now, origin, invite, key),
            Some(Ok(call)) => self.succeeded(now, origin, invite, key, call),
            Some(Err(status)) => self.answer_once(now, origin, invite, status),
        }
    }

    /// Whether whoever sends this has said who it is, or need not; if not, it is asked, and nothing is remembered of it
    /// (RFC 3261 section 22.1).
    fn passes(&mut self, now: Instant, origin: Hop, message: &Message) -> bool {
        if !self.must_say(origin, message) {
            return true;
        }
        let shown = self.gate.judge(now, message, origin.ip());
        if shown == Shown::Valid {
            return true;
        }
        self.counters.challenged += 1;
        let tag = self.gate.tag(message);
        let mut writer = Writer::response(message, 401, Some(&tag));
        for challenge in self.gate.challenges(now, origin.ip(), shown == Shown::Stale, &mut self.ids) {
            writer.header(HeaderName::WwwAuthenticate, &challenge);
        }
        let response = writer.header(HeaderName::Server, &self.endpoint.product).finish();
        self.outputs.push_back(Output::Transmit(Datagram::to(answer_hop(message, origin), response)));
        false
    }

    /// Everything that begins something, and in a dialog what comes from elsewhere than its INVITE did. OPTIONS tells
    /// nobody anything, and a dialog that is not there is answered 481 to everybody.
    fn must_say(&self, origin: Hop, message: &Message) -> bool {
        let asked = self.settings.challenge.iter().any(|network| network.contains(origin.ip()));
        asked
            && match message.to_tag() {
                Some(tag) => {
                    let leg = self.tags.get(tag).and_then(|id| self.legs.get(id));
                    leg.and_then(|leg| leg.caller).is_some_and(|caller| caller != origin.ip())
                }
                None => !message.is(&Method::Options),
            }
    }

    fn reject(&mut self, now: Instant, origin: Hop, message: &Message, rejection: &Rejection) {
        self.counters.unreadable += 1;
        let warning = format!("399 {} \"{}\"", self.endpoint.address, rejection.why);
        let unsupported = rejection.unsupported.join(", ");
        let product = self.endpoint.product.clone();
        let mut headers = vec![(HeaderName::Warning, warning.as_str()), (HeaderName::Server, &product)];
        if !unsupported.is_empty() {
            headers.insert(0, (HeaderName::Unsupported, &unsupported));
        }
        self.refuse(now, origin, message, rejection.status, &headers);
    }

    /// Answers without a transaction, at most a few times a second.
    fn refuse(&mut self, now: Instant, origin: Hop, message: &Message, status: u16, headers: &[(HeaderName, &str)]) {
        let answerable = !message.is(&Method::Ack) && message.header(HeaderName::Via).is_some();
        if !answerable || !self.admitted.refusal(now) {
            return;
        }
        let tag = self.keyed.stateless_tag(message);
        let mut writer = Writer::response(message, status, Some(&tag));
        for (name, value) in headers {
            writer.header(*name, value);
        }
        let datagram = Datagram::to(answer_hop(message, origin), writer.finish());
        self.outputs.push_back(Output::Transmit(datagram));
    }

    fn cancel(&mut self, now: Instant, origin: Hop, cancel: &Message, key: ServerKey) {
        let Some(found) = self.transactions.cancelled(cancel, origin.peer) else {
            return self.answer_once(now, origin, cancel, 481);
        };
        self.open(origin, cancel, &key, None);
        let response = self.plain_answer(cancel, 200);
        let effects = self.transactions.respond(&key, 200, response);
        self.perform(now, effects, None);
        if let Some(leg) = found {
            self.with_leg(leg, |leg, s| leg.cancelled(cancel, s));
        }
    }

    fn open_in_dialog(&mut self, now: Instant, origin: Hop, message: &Message, key: ServerKey) {
        let Some(leg) = message.to_tag().and_then(|tag| self.tags.get(tag).copied()) else {
            return self.answer_once(now, origin, message, 481);
        };
        self.open(origin, message, &key, Some(leg));
        self.in_dialog(message, Some(key));
    }

    fn in_dialog(&mut self, message: &Message, key: Option<ServerKey>) {
        let Some(&leg) = message.to_tag().and_then(|tag| self.tags.get(tag)) else { return };
        self.with_referrer(leg, |it, s| key.clone().into_iter().for_each(|key| it.request(message, key, s)));
        self.with_leg(leg, |leg, s| leg.request(message, key, s));
        self.overhear(leg, message);
    }

    fn outside_dialog(&mut self, now: Instant, origin: Hop, message: &Message) {
        let tag = self.keyed.stateless_tag(message);
        let retry_after = self.overload().map(|_| self.settings.retry_after);
        let (status, response) = leg::outside_dialog(message, retry_after, &tag, &self.endpoint.product);
        self.say_once(now, origin, message, status, response);
    }

    pub(super) fn open(&mut self, origin: Hop, message: &Message, key: &ServerKey, leg: Option<LegId>) {
        self.transactions.open(message, key.clone(), leg, answer_hop(message, origin));
    }

    /// Answers a request that no leg cares for.
    pub(super) fn answer_once(&mut self, now: Instant, origin: Hop, message: &Message, status: u16) {
        let response = self.plain_answer(message, status);
        self.say_once(now, origin, message, status, response);
    }

    /// Answers at once: in a transaction that repeats the answer while there is room for one, else as a stateless UAS
    /// (RFC 3261 section 8.2.7), so that a flood finds nothing to fill.
    fn say_once(&mut self, now: Instant, origin: Hop, message: &Message, status: u16, response: Bytes) {
        let room = self.transactions.len() < self.settings.max_transactions;
        match ServerKey::of_request(message).filter(|_| room) {
            Some(key) => {
                self.open(origin, message, &key, None);
                let effects = self.transactions.respond(&key, status, response);
                self.perform(now, effects, None);
            }
            None => self.outputs.push_back(Output::Transmit(Datagram::to(answer_hop(message, origin), response))),
        }
    }

    fn plain_answer(&self, message: &Message, status: u16) -> Bytes {
        let tag = self.keyed.stateless_tag(message);
        let mut writer = Writer::response(message, status, Some(&tag));
        if status == 503 {
            writer.header(HeaderName::RetryAfter, &self.settings.retry_after.to_string());
        }
        writer.header(HeaderName::Server, &self.endpoint.product).finish()
    }

    /// What transactions want done; `message` is what they were stepped with.
    pub(super) fn perform(&mut self, now: Instant, effects: Vec<Effect>, message: Option<(&Message, Hop)>) {
        for effect in effects {
            match effect {
                Effect::Send { hop, bytes, again } => {
                    self.counters.retransmissions += u64::from(again);
                    self.outputs.push_back(Output::Transmit(Datagram::to(hop, bytes)));
                }
                Effect::Start(id, timer, wait) => {
                    self.timers.start(super::TimerKey::Transaction(id, timer), now + wait)
                }
                Effect::Stop(id, timer) => self.timers.stop(super::TimerKey::Transaction(id, timer)),
                Effect::TimedOut(Holder::Leg(leg), key) => {
                    self.with_referrer(leg, |it, s| it.timed_out(&key, s));
                    self.with_leg(leg, |leg, s| leg.timed_out(&key, s));
                }
                Effect::TimedOut(Holder::Errand(errand), _) => self.errand_failed(now, errand),
                Effect::Deliver(holder) => match (message, holder) {
                    (Some((message, _)), _) if message.is(&Method::Ack) => self.in_dialog(message, None),
                    (Some((message, source)), Holder::Leg(leg)) => {
                        self.with_referrer(leg, |it, s| it.response(message, source, s));
                        self.with_leg(leg, |leg, s| leg.response(message, source, s));
                        self.overhear(leg, message);
                    }
                    (Some((message, source)), Holder::Errand(errand)) => {
                        self.errand_answered(now, errand, message, source);
                    }
                    (None, _) => {}
                },
            }
        }
    }
}

/// With rport an answer goes back to where the request came from; without, to the port that the Via names (RFC 3581
/// section 4, RFC 3261 section 18.2.2).
fn answer_hop(message: &Message, origin: Hop) -> Hop {
    let Some(via) = message.via() else { return origin };
    let port = via.port.unwrap_or(origin.transport.default_port());
    if origin.transport.is_reliable() {
        // Over the connection the request came on; only when that is gone, to where the Via says.
        let host = literal_host(via.params.get("received").unwrap_or(via.host)).unwrap_or(origin.ip());
        return Hop { otherwise: Some(SocketAddr::new(host, port)), ..origin };
    }
    match via.params.get("rport") {
        None => Hop::new(origin.transport, SocketAddr::new(origin.ip(), port)),
        Some(_) => origin,
    }
}
