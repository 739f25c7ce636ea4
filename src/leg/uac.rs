//! A leg that we dial, until somebody answers.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::established::Established;
use super::negotiation::Negotiation;
use super::prack::{self, Provisional};
use super::requests::{Requests, again};
use super::session_timer::longer_interval;
use super::{
    ALLOW, EXTENSIONS, LegCommand, LegEvent, LegTimer, LostCause, Material, Out, Phase, Side, Surroundings, reason_of,
    respond, sensible_answer, write_headers,
};
use crate::sip::dialog::Dialog;
use crate::sip::digest::{Answered, Credentials, Keyring};
use crate::sip::hop::{Hop, Transport};
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::refer::Replaces;
use crate::sip::transaction::key::{ClientKey, ServerKey};
use crate::sip::value::literal_host;
use crate::sip::write::Writer;

/// Whom to dial and who we say we are.
#[derive(Debug, Clone, Copy)]
pub struct Dial<'a> {
    /// Request-URI and To.
    pub uri: &'a str,
    /// The URI of From.
    pub from: &'a str,
    /// Where the INVITE goes.
    pub to: Hop,
    /// How many hops the INVITE may take.
    pub max_forwards: u8,
    /// What the peer at `to`, and nobody else, may be shown when it asks.
    pub credentials: Option<&'a Credentials>,
    /// When to say that nothing at all has come back; zero: never.
    pub silence: Duration,
    /// Addresses that a 3xx may send the INVITE to, with the same user.
    pub redirects: &'a [IpAddr],
}

/// What a refusal asks for before it takes the INVITE.
enum Remedy {
    /// What has been asked for, shown.
    Credentials,
    /// This session interval.
    Interval(u32),
    /// The same INVITE, to this URI there.
    Elsewhere(String, Hop),
}

/// Early dialogs kept of one INVITE.
const MAX_FORKS: usize = 8;
/// INVITEs sent again on demand: for a challenge, a stale nonce, a longer session interval.
const MAX_RESENDS: u8 = 3;

/// The UAC core of an INVITE (RFC 3261 section 13.2, RFC 3262 section 4).
#[derive(Debug)]
pub struct Uac {
    invite: Message,
    key: ClientKey,
    to: Hop,
    requests: Requests,
    redirects: Vec<IpAddr>,
    /// Challenges that the INVITE has answered.
    answered: Answered,
    resends: u8,
    proceeding: bool,
    ending: Ending,
    /// Early dialogs by the far tag.
    early: HashMap<String, Early>,
    /// The far tag of a BYE that overtook its own 200, and its Reason.
    early_bye: Option<(String, Option<String>)>,
}

/// One branch of a fork that has said something.
#[derive(Debug)]
struct Early {
    dialog: Dialog,
    /// The RSeq seen last.
    rseq: Option<u32>,
    /// What last described its session, for a 200 that does not (RFC 6337 section 2.2).
    described: Option<Message>,
}

/// Whether we still want an answer.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    No,
    /// To be cancelled as soon as a provisional response permits it (RFC 3261 section 9.1).
    Wanted,
    Cancelled,
}

impl Uac {
    /// `None` when the INVITE would be longer than a message may be: what others say goes into it.
    pub(super) fn begin(
        dial: &Dial<'_>,
        body: &str,
        material: &Material,
        s: &mut Surroundings<'_>,
    ) -> Option<(Self, String)> {
        let (branch, tag) = (s.ids.branch(), s.ids.tag());
        let mut writer = Writer::request(&Method::Invite, dial.uri);
        writer
            .header(HeaderName::Via, &s.endpoint.via(&dial.to, &branch))
            .header(HeaderName::MaxForwards, &dial.max_forwards.to_string())
            .header(HeaderName::From, &format!("<{}>;tag={tag}", dial.from))
            .header(HeaderName::To, &format!("<{}>", dial.uri))
            .header(HeaderName::CallId, &s.ids.call_id())
            .header(HeaderName::CSeq, "1 INVITE")
            .header(HeaderName::Contact, &s.endpoint.contact(&dial.to))
            .header(HeaderName::Allow, ALLOW)
            .header(HeaderName::Supported, &EXTENSIONS.join(", "))
            .header(HeaderName::UserAgent, &s.endpoint.product);
        if s.session.expires > 0 {
            writer.header(HeaderName::SessionExpires, &s.session.expires.to_string());
        }
        write_headers(&mut writer, &material.headers);
        let octets = writer.finish_with("application/sdp", body.as_bytes());
        let invite = Message::read(octets.clone()).ok()?;
        let key = ClientKey::new(&branch, Method::Invite);
        s.out.push(Out::Request { key: key.clone(), message: octets, to: dial.to });
        if !dial.silence.is_zero() {
            s.out.push(Out::Start(LegTimer::Silence, dial.silence));
        }
        let uac = Self {
            invite,
            key,
            to: dial.to,
            requests: Requests::new(dial.credentials.map(|it| Keyring::new(it.clone(), dial.to.ip()))),
            redirects: dial.redirects.to_vec(),
            answered: Answered::default(),
            resends: 0,
            proceeding: false,
            ending: Ending::No,
            early: HashMap::new(),
            early_bye: None,
        };
        Some((uac, tag))
    }

    /// The INVITE once more, as a new transaction; false when it would be too long.
    fn resend(&mut self, remedy: Remedy, s: &mut Surroundings<'_>) -> bool {
        let (mut uri, mut headers) = (self.invite.request_uri().to_owned(), Vec::new());
        match remedy {
            Remedy::Credentials => {}
            Remedy::Interval(seconds) => {
                // Both, so that nobody on the way shortens it again (RFC 4028 section 7.3).
                let names = [HeaderName::SessionExpires, HeaderName::MinSe];
                headers.extend(names.map(|name| (name, seconds.to_string())));
            }
            Remedy::Elsewhere(there, hop) => {
                (uri, self.to) = (there, hop);
                headers.push((HeaderName::Contact, s.endpoint.contact(&hop)));
            }
        }
        headers.extend(self.requests.shown(&Method::Invite, &uri, self.invite.body(), &self.to));
        let branch = s.ids.branch();
        let number = self.invite.cseq().map_or(1, |cseq| cseq.number) + 1;
        let octets = again(&self.invite, &uri, &s.endpoint.via(&self.to, &branch), number, &headers);
        let Ok(invite) = Message::read(octets.clone()) else { return false };
        self.invite = invite;
        self.key = ClientKey::new(&branch, Method::Invite);
        self.resends += 1;
        self.proceeding = false;
        self.early.clear();
        s.out.push(Out::Request { key: self.key.clone(), message: octets, to: self.to });
        true
    }

    /// What a refusal asks for before it takes the INVITE, if it is ours to give.
    fn remedy(&mut self, response: &Message, source: Hop, s: &mut Surroundings<'_>) -> Option<Remedy> {
        if self.ending != Ending::No || self.resends >= MAX_RESENDS {
            return None;
        }
        match response.status()? {
            401 | 407 => {
                let met =
                    source.ip() == self.to.ip() && self.requests.challenged(response, source, &mut self.answered, s);
                met.then_some(Remedy::Credentials)
            }
            422 => {
                let asked = self.invite.header(HeaderName::SessionExpires)?.parse().ok()?;
                Some(Remedy::Interval(longer_interval(response, asked)?))
            }
            301 | 302 => self.redirected(response),
            _ => None,
        }
    }

    /// Where a redirection leads, if its address is permitted and its user is the one we dialled (flow O7).
    fn redirected(&self, response: &Message) -> Option<Remedy> {
        let (contact, dialled) = (response.contact()?, self.invite.target()?);
        let ip = literal_host(contact.uri.host).filter(|ip| self.redirects.contains(ip))?;
        let number = |user: &str| user.trim_start_matches('+').to_owned();
        if number(&contact.uri.user_name()?) != number(&dialled.user_name()?) {
            return None;
        }
        let transport = Transport::of_uri(&contact.uri).unwrap_or(self.to.transport);
        if self.to.transport == Transport::Tls && transport != Transport::Tls {
            return None; // What was meant for TLS, SRTP keys among it, does not go in clear.
        }
        let address = SocketAddr::new(ip, contact.uri.port.unwrap_or(transport.default_port()));
        let uri = format!("sip:{}@{address};user=phone", dialled.user?);
        Some(Remedy::Elsewhere(uri, Hop::new(transport, address)))
    }

    pub(super) fn call_id(&self) -> Option<&str> {
        self.invite.call_id()
    }

    /// Whether one of the early dialogs that we still want is the one meant.
    pub(super) fn has_early(&self, replaces: &Replaces) -> bool {
        self.ending == Ending::No && self.early.values().any(|early| early.dialog.is_meant_by(replaces))
    }

    pub(super) fn command(mut self, command: LegCommand, s: &mut Surroundings<'_>) -> Phase {
        if let (LegCommand::HangUp(_), Ending::No) = (command, &self.ending) {
            s.out.push(Out::Quench(self.key.clone()));
            self.ending = Ending::Wanted;
            self.cancel_if_permitted(s);
        }
        Phase::Calling(self)
    }

    fn cancel_if_permitted(&mut self, s: &mut Surroundings<'_>) {
        if self.proceeding && self.ending == Ending::Wanted {
            self.ending = Ending::Cancelled;
            s.out.push(Out::Cancel(self.key.clone()));
            s.out.push(Out::Start(LegTimer::CancelLimit, s.base.long()));
        }
    }

    pub(super) fn response(
        mut self,
        response: &Message,
        source: Hop,
        negotiation: &mut Negotiation,
        s: &mut Surroundings<'_>,
    ) -> Phase {
        if response.cseq().is_none_or(|cseq| cseq.method != Method::Invite) {
            self.in_dialog_answered(response, source, s);
            return Phase::Calling(self);
        }
        s.out.push(Out::Stop(LegTimer::Silence));
        match response.status().unwrap_or(0) {
            status @ ..200 => {
                self.proceeding = true;
                self.cancel_if_permitted(s);
                match self.ending {
                    _ if status == 100 => {}
                    Ending::No => self.progressed(status, response, source, negotiation, s),
                    Ending::Wanted | Ending::Cancelled => s.out.push(Out::Connected),
                }
                Phase::Calling(self)
            }
            200..300 => self.answered(response, source, negotiation, s),
            status => match self.remedy(response, source, s).is_some_and(|remedy| self.resend(remedy, s)) {
                true => Phase::Calling(self),
                false => {
                    let retry_after = digits(response.header(HeaderName::RetryAfter)).map(Duration::from_secs);
                    s.out.push(Out::Event(LegEvent::Refused { status, reason: reason_of(response), retry_after }));
                    s.out.push(Out::Stop(LegTimer::CancelLimit));
                    s.out.push(Out::Gone);
                    Phase::Moving
                }
            },
        }
    }

    /// A PRACK of ours was answered; who wants to know more is told.
    fn in_dialog_answered(&mut self, response: &Message, source: Hop, s: &mut Surroundings<'_>) {
        let early = response.to_tag().and_then(|tag| self.early.get_mut(tag));
        if let Some(early) = early.filter(|_| response.status() >= Some(200)) {
            self.requests.answered(response, source, &mut early.dialog, s);
        }
    }

    fn progressed(
        &mut self,
        status: u16,
        response: &Message,
        source: Hop,
        negotiation: &mut Negotiation,
        s: &mut Surroundings<'_>,
    ) {
        if !self.acknowledge_provisional(response, source, s) {
            return;
        }
        let early_media = !response.body().is_empty() && negotiation.read_answer(response);
        if early_media {
            s.out.push(Out::RemoteChanged);
            let early = response.to_tag().and_then(|tag| self.early.get_mut(tag));
            early.into_iter().for_each(|early| early.described = Some(response.clone()));
        }
        s.out.push(Out::Event(LegEvent::Progressed { status, early_media }));
    }

    /// Sends PRACK where one is due. False when the response is to be ignored.
    fn acknowledge_provisional(&mut self, response: &Message, source: Hop, s: &mut Surroundings<'_>) -> bool {
        let Some(tag) = response.to_tag() else { return true };
        if !self.early.contains_key(tag) && self.early.len() < MAX_FORKS {
            let Some(dialog) = Dialog::as_uac(&self.invite, response, source) else { return true };
            self.early.insert(tag.to_owned(), Early { dialog, rseq: None, described: None });
        }
        let Some(Early { dialog, rseq, .. }) = self.early.get_mut(tag) else { return true };
        match prack::classify(response, rseq) {
            Provisional::Plain => true,
            Provisional::Ignore => false,
            Provisional::Reliable(rack) => {
                dialog.refresh_target(response);
                let (key, mut writer) = self.requests.begin(&Method::Prack, dialog, b"", s);
                let message = writer.header(HeaderName::RAck, &rack).finish();
                self.requests.send(key, message, dialog.next_hop(), s);
                true
            }
        }
    }

    fn answered(
        mut self,
        response: &Message,
        source: Hop,
        negotiation: &mut Negotiation,
        s: &mut Surroundings<'_>,
    ) -> Phase {
        s.out.push(Out::Stop(LegTimer::CancelLimit));
        let Some(mut dialog) = Dialog::as_uac(&self.invite, response, source) else { return self.lost(s) };
        let early = self.early.remove(&dialog.remote_tag);
        early.iter().for_each(|early| dialog.continue_from(&early.dialog));
        let described = early.and_then(|early| early.described).filter(|_| response.body().is_empty());
        let answer = described.as_ref().unwrap_or(response);
        let mut established = Established::dialled(dialog, self.requests);
        established.remember(self.early.into_values().map(|early| early.dialog));
        established.acknowledge(response, s);
        if self.ending != Ending::No {
            // Our CANCEL crossed this 200: it is hung up at once and the call never hears of it (flow R2).
            s.out.push(Out::Connected);
            established.hang_up(super::Cause::NORMAL, &Material::default(), s);
        } else if let Some((_, reason)) = self.early_bye.filter(|(tag, _)| response.to_tag() == Some(tag)) {
            s.out.push(Out::Event(LegEvent::Answered));
            established.over(LegEvent::HungUp { by: Side::Far, reason }, s);
        } else if !answer.body().is_empty() && negotiation.read_answer(answer) {
            established.agree(response, s);
            s.out.push(Out::RemoteChanged);
            s.out.push(Out::Event(LegEvent::Answered));
        } else {
            established.refuse_answer(s);
        }
        Phase::Established(established)
    }

    /// Not even a 100.
    pub(super) fn silent(self, s: &mut Surroundings<'_>) -> Phase {
        if self.ending == Ending::No {
            s.out.push(Out::Silent);
        }
        Phase::Calling(self)
    }

    /// Nothing came, or nothing that can be used.
    pub(super) fn lost(self, s: &mut Surroundings<'_>) -> Phase {
        s.out.push(Out::Stop(LegTimer::CancelLimit));
        s.out.push(Out::Abandon(self.key));
        s.out.push(Out::Event(LegEvent::Lost(LostCause::NoAnswer)));
        s.out.push(Out::Gone);
        Phase::Moving
    }

    /// A request of the far side before its answer: a BYE may have overtaken its own 200.
    pub(super) fn request(
        mut self,
        request: &Message,
        key: ServerKey,
        negotiation: &mut Negotiation,
        s: &mut Surroundings<'_>,
    ) -> Phase {
        let early = self.early.get_mut(request.from_tag());
        let offers = !request.body().is_empty();
        if request.is(&Method::Bye) {
            respond(request, key, 200, s);
            self.early_bye = Some((request.from_tag().to_owned(), reason_of(request)));
        } else if let (Some(Method::Update), Some(early)) = (request.method(), early) {
            if !early.dialog.accept_cseq(request) {
                respond(request, key, 500, s);
            } else if offers && early.described.is_none() {
                respond(request, key, 491, s); // Our own offer is not answered yet (RFC 3311 section 5.2).
            } else if super::update(request, key, &mut early.dialog, negotiation, None, s) && offers {
                early.described = Some(request.clone());
            }
        } else {
            // An INVITE that crosses ours (RFC 3261 section 14.2).
            let status = if request.is(&Method::Invite) { 491 } else { sensible_answer(request) };
            respond(request, key, status, s);
        }
        Phase::Calling(self)
    }
}

/// The number that a header value begins with.
fn digits(value: Option<&str>) -> Option<u64> {
    value?.trim().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
