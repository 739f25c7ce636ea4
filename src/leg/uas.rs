//! A leg whose INVITE came to us and waits for our answer.

use std::time::Duration;

use bytes::Bytes;

use super::established::{Established, Unacked};
use super::negotiation::Negotiation;
use super::prack::{Unpracked, names_option};
use super::requests::Requests;
use super::session_timer::SessionTimer;
use super::{
    ALLOW, EXTENSIONS, Invitation, LegCommand, LegEvent, LegTimer, LostCause, Material, Out, Phase, Redirect, Refusal,
    Side, Surroundings, reason_of, respond, sensible_answer, write_headers,
};
use crate::sip::dialog::Dialog;
use crate::sip::hop::Hop;
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::refer::ReferTo;
use crate::sip::transaction::key::ServerKey;
use crate::sip::value::{NameAddr, Params, UserToUser, split_commas, unescaped};
use crate::sip::write::Writer;

/// Often enough that no proxy's timer C ends the INVITE.
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// The UAS core of an INVITE (RFC 3261 section 13.3, RFC 3262 section 3).
#[derive(Debug)]
pub struct Uas {
    invite: Message,
    key: ServerKey,
    dialog: Dialog,
    /// The unreliable provisional response said last.
    provisional: Option<(u16, Bytes)>,
    /// The status of the reliable one acknowledged last.
    pracked: Option<u16>,
    unpracked: Option<Unpracked>,
    rseq: u32,
    /// Whether our answer went out in a reliable provisional response: the 200 then has none.
    described: bool,
    timer: Option<SessionTimer>,
}

impl Uas {
    /// Answers 100 and tells the call.
    pub(super) fn begin(
        invite: &Message,
        key: ServerKey,
        source: Hop,
        s: &mut Surroundings<'_>,
    ) -> Result<Self, Refusal> {
        let timer = SessionTimer::asked(invite, s.session).map_err(Refusal::too_short)?;
        let dialog = Dialog::as_uas(invite, &s.ids.tag(), source).ok_or(Refusal::new(400))?;
        let rseq = s.ids.below(1 << 16) as u32 + 1;
        let trying = Writer::response(invite, 100, None).finish();
        s.out.push(Out::Respond { key: key.clone(), status: 100, message: trying });
        s.out.push(Out::Event(LegEvent::Invited(Box::new(Invitation::read(invite)))));
        let invite = invite.clone();
        Ok(Self {
            invite,
            key,
            dialog,
            provisional: None,
            pracked: None,
            unpracked: None,
            rseq,
            described: false,
            timer,
        })
    }

    pub(super) fn local_tag(&self) -> &str {
        &self.dialog.local_tag
    }

    pub(super) fn dialog(&self) -> &Dialog {
        &self.dialog
    }

    pub(super) fn command(
        mut self,
        command: LegCommand,
        material: &Material,
        negotiation: &mut Negotiation,
        s: &mut Surroundings<'_>,
    ) -> Phase {
        match (command, &mut self.unpracked) {
            // One reliable response at a time; what comes after it waits for its PRACK.
            (command @ (LegCommand::Ring { .. } | LegCommand::Answer), Some(unpracked)) => {
                unpracked.queue.push((command, material.clone()));
                Phase::Invited(self)
            }
            (LegCommand::Ring { early_media }, None) => self.ring(early_media, material, negotiation, s),
            (LegCommand::Answer, None) => self.answer(material, negotiation, s),
            (LegCommand::Refuse { status, redirect, retry_after }, _) => {
                self.refuse(status, redirect.as_ref(), retry_after, material, s);
                s.out.push(Out::Event(LegEvent::HungUp { by: Side::Us, reason: None }));
                s.out.push(Out::Gone);
                Phase::Moving
            }
            (LegCommand::HangUp(_), _) => {
                let refuse = LegCommand::Refuse { status: 480, redirect: None, retry_after: None };
                self.command(refuse, material, negotiation, s)
            }
            (
                LegCommand::Inform(_)
                | LegCommand::Refer(_)
                | LegCommand::Withdraw
                | LegCommand::Accept
                | LegCommand::Decline
                | LegCommand::Report(_),
                _,
            ) => Phase::Invited(self),
        }
    }

    fn ring(
        mut self,
        early_media: bool,
        material: &Material,
        negotiation: &mut Negotiation,
        s: &mut Surroundings<'_>,
    ) -> Phase {
        // Early media only for a caller that has made an offer: ours in an unreliable 183 could not be answered.
        let describe = early_media && negotiation.remote().is_some();
        let body = describe.then(|| negotiation.describe(material.audio.as_ref(), s.ids)).flatten();
        let status = if body.is_some() { 183 } else { 180 };
        let required = names_option(&self.invite, HeaderName::Require, "100rel");
        let reliable = required || (body.is_some() && names_option(&self.invite, HeaderName::Supported, "100rel"));
        let body = body.map(|(body, _)| body).filter(|_| !(reliable && self.described));
        let mut writer = self.response(status, material, s);
        s.out.push(Out::Start(LegTimer::Remind, REMIND_EVERY));
        if reliable {
            self.send_reliably(status, writer, body.as_deref(), s);
        } else {
            let message = finish(&mut writer, body.as_deref());
            s.out.push(Out::Respond { key: self.key.clone(), status, message: message.clone() });
            self.provisional = Some((status, message));
        }
        Phase::Invited(self)
    }

    fn send_reliably(&mut self, status: u16, mut writer: Writer, body: Option<&str>, s: &mut Surroundings<'_>) {
        writer.header(HeaderName::Require, "100rel").header(HeaderName::RSeq, &self.rseq.to_string());
        let message = finish(&mut writer, body);
        s.out.push(Out::Respond { key: self.key.clone(), status, message: message.clone() });
        s.out.push(Out::Start(LegTimer::Repeat, s.base.t1));
        s.out.push(Out::Start(LegTimer::NoAck, s.base.long()));
        let (rseq, wait) = (self.rseq, s.base.t1);
        self.unpracked = Some(Unpracked { rseq, status, message, wait, queue: Vec::new() });
        self.rseq += 1;
        self.described |= body.is_some();
        self.provisional = None;
    }

    fn answer(self, material: &Material, negotiation: &mut Negotiation, s: &mut Surroundings<'_>) -> Phase {
        let Some((body, offered)) = negotiation.describe(material.audio.as_ref(), s.ids) else {
            let refuse = LegCommand::Refuse { status: 488, redirect: None, retry_after: None };
            return self.command(refuse, material, negotiation, s);
        };
        s.out.push(Out::Stop(LegTimer::Remind));
        let mut writer = self.response(200, material, s);
        if let Some(timer) = self.timer {
            timer.write(&mut writer);
        }
        let message = finish(&mut writer, (!self.described).then_some(&body));
        let cseq = self.invite.cseq().map_or(0, |cseq| cseq.number);
        let updates = names_option(&self.invite, HeaderName::Allow, "UPDATE");
        let unacked = Unacked::begin(self.key, cseq, message, offered && !self.described, s);
        let requests = Requests::new(material.keyring.as_deref().cloned());
        Phase::Established(Established::answered(self.dialog, unacked, self.timer, updates, requests, s))
    }

    fn refuse(
        &self,
        status: u16,
        redirect: Option<&Redirect>,
        retry_after: Option<u32>,
        material: &Material,
        s: &mut Surroundings<'_>,
    ) {
        let mut writer = Writer::response(&self.invite, status, Some(self.local_tag()));
        if let Some(Redirect { uri, with_headers }) = redirect {
            let headers = if *with_headers { &material.headers[..] } else { &[] };
            writer.header(HeaderName::Contact, &taken_along(uri, headers));
        }
        if let Some(seconds) = retry_after {
            writer.header(HeaderName::RetryAfter, &seconds.to_string());
        }
        write_headers(&mut writer, &material.headers);
        let message = writer.header(HeaderName::Server, &s.endpoint.product).finish();
        for timer in [LegTimer::Remind, LegTimer::Repeat, LegTimer::NoAck] {
            s.out.push(Out::Stop(timer));
        }
        s.out.push(Out::Respond { key: self.key.clone(), status, message });
    }

    /// The head of a response that makes a dialog (RFC 3261 section 12.1.1).
    fn response(&self, status: u16, material: &Material, s: &Surroundings<'_>) -> Writer {
        let mut writer = Writer::response(&self.invite, status, Some(self.local_tag()));
        for route in self.invite.headers(HeaderName::RecordRoute) {
            writer.header(HeaderName::RecordRoute, route);
        }
        writer
            .header(HeaderName::Contact, &self.dialog.contact(s.endpoint))
            .header(HeaderName::Allow, ALLOW)
            .header(HeaderName::Supported, &EXTENSIONS.join(", "))
            .header(HeaderName::Server, &s.endpoint.product);
        write_headers(&mut writer, &material.headers);
        writer
    }

    /// The caller gave up (RFC 3261 section 9.2).
    pub(super) fn cancelled(self, request: &Message, s: &mut Surroundings<'_>) -> Phase {
        self.refuse(487, None, None, &Material::default(), s);
        s.out.push(Out::Event(LegEvent::HungUp { by: Side::Far, reason: reason_of(request) }));
        s.out.push(Out::Gone);
        Phase::Moving
    }

    /// A request in the early dialog.
    pub(super) fn request(
        mut self,
        request: &Message,
        key: ServerKey,
        negotiation: &mut Negotiation,
        s: &mut Surroundings<'_>,
    ) -> Phase {
        if !self.dialog.matches_request(request) {
            respond(request, key, 481, s);
        } else if !self.dialog.accept_cseq(request) {
            respond(request, key, 500, s);
        } else if request.is(&Method::Bye) {
            respond(request, key, 200, s);
            return self.cancelled(request, s);
        } else if request.is(&Method::Prack) {
            return self.pracked(request, key, negotiation, s);
        } else if request.is(&Method::Update) && request.body().is_empty() {
            respond(request, key, 200, s);
        } else if request.is(&Method::Update) && self.described && self.unpracked.is_none() {
            super::update(request, key, &mut self.dialog, negotiation, None, s);
        } else if request.is(&Method::Update) || request.is(&Method::Invite) {
            // No new offer before the first is answered (RFC 3311 section 5.2, RFC 3261 section 14.2).
            respond(request, key, 500, s);
        } else {
            respond(request, key, sensible_answer(request), s);
        }
        Phase::Invited(self)
    }

    fn pracked(
        mut self,
        prack: &Message,
        key: ServerKey,
        negotiation: &mut Negotiation,
        s: &mut Surroundings<'_>,
    ) -> Phase {
        let cseq = self.invite.cseq().map_or(0, |cseq| cseq.number);
        let Some(unpracked) = self.unpracked.take_if(|unpracked| unpracked.is_acknowledged_by(prack, cseq)) else {
            respond(prack, key, 481, s);
            return Phase::Invited(self);
        };
        match self.described && !prack.body().is_empty() {
            // Its offer was answered: this is the next one (RFC 3262 section 5).
            true => drop(super::update(prack, key, &mut self.dialog, negotiation, None, s)),
            false => respond(prack, key, 200, s),
        }
        self.pracked = Some(unpracked.status);
        s.out.push(Out::Stop(LegTimer::Repeat));
        s.out.push(Out::Stop(LegTimer::NoAck));
        let mut phase = Phase::Invited(self);
        for (command, material) in unpracked.queue {
            phase = match phase {
                Phase::Invited(uas) => uas.command(command, &material, negotiation, s),
                answered => answered,
            };
        }
        phase
    }

    pub(super) fn timer(mut self, timer: LegTimer, s: &mut Surroundings<'_>) -> Phase {
        match (timer, &mut self.unpracked, &self.provisional) {
            (LegTimer::Remind, None, Some((status, message))) => {
                s.out.push(Out::Respond { key: self.key.clone(), status: *status, message: message.clone() });
                s.out.push(Out::Start(LegTimer::Remind, REMIND_EVERY));
            }
            (LegTimer::Remind, None, None) => {
                let status = self.pracked.unwrap_or(180);
                let writer = self.response(status, &Material::default(), s);
                self.send_reliably(status, writer, None, s);
                s.out.push(Out::Start(LegTimer::Remind, REMIND_EVERY));
            }
            (LegTimer::Repeat, Some(unpracked), _) => {
                unpracked.wait *= 2;
                let (status, message) = (unpracked.status, unpracked.message.clone());
                s.out.push(Out::Respond { key: self.key.clone(), status, message });
                s.out.push(Out::Start(LegTimer::Repeat, unpracked.wait));
            }
            (LegTimer::NoAck, Some(_), _) => {
                self.refuse(504, None, None, &Material::default(), s);
                s.out.push(Out::Event(LegEvent::Lost(LostCause::NoAck)));
                s.out.push(Out::Gone);
                return Phase::Moving;
            }
            _ => {}
        }
        Phase::Invited(self)
    }
}

fn finish(writer: &mut Writer, body: Option<&str>) -> Bytes {
    match body {
        Some(body) => writer.finish_with("application/sdp", body.as_bytes()),
        None => writer.finish(),
    }
}

/// This URI with these lines as its headers (RFC 3261 section 19.1.1), so that whoever follows a 302 takes them along. A
/// Reason is this response's own.
fn taken_along(uri: &str, lines: &[(String, String)]) -> String {
    let Some(plain) = ReferTo::new(uri) else { return format!("<{uri}>") };
    let taken = lines.iter().filter(|(name, _)| HeaderName::read(name) != Some(HeaderName::Reason));
    taken.fold(plain, |to, (name, value)| to.with(name, value)).to_string()
}

impl Invitation {
    /// What an INVITE outside a dialog says.
    pub fn read(invite: &Message) -> Self {
        let user = |uri: Option<crate::sip::value::Uri<'_>>| {
            uri.and_then(|uri| uri.user_name()).map(|user| user.into_owned()).unwrap_or_default()
        };
        Self {
            call_id: invite.call_id().unwrap_or_default().to_owned(),
            caller: user(invite.from().map(|from| from.uri)),
            dialled: user(invite.target()),
            redirected: invite.header(HeaderName::ReferredBy).is_some()
                || invite.header(HeaderName::Diversion).is_some()
                || invite.header_named("History-Info").is_some(),
            diverted: invite.header(HeaderName::Diversion).and_then(|value| {
                let diversion = NameAddr::read(split_commas(value).next()?)?;
                Some(diversion.uri.user_name()?.into_owned())
            }),
            parameters: invite.target().map(|uri| parameters(uri.params)).unwrap_or_default(),
            session_id: invite.header_named("Session-ID").and_then(session_id),
            headers: invite.others().map(|(name, value)| (name.to_owned(), unescaped(value).into_owned())).collect(),
            user_to_user: invite.header_named("User-to-User").map(UserToUser::read),
        }
    }
}

fn parameters(params: Params<'_>) -> Vec<(String, String)> {
    let plain = |text: &str| unescaped(text).into_owned();
    params.iter().filter_map(|(name, value)| Some((plain(name), plain(value?)))).collect()
}

/// The first of the two UUIDs is its sender's; one of zeros stands for none (RFC 7989 section 5).
fn session_id(value: &str) -> Option<String> {
    let local = value.split(';').next()?.trim();
    let is_uuid = local.len() == 32 && local.bytes().all(|b| b.is_ascii_hexdigit()) && local.bytes().any(|b| b != b'0');
    is_uuid.then(|| local.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_shows_the_parameters_of_its_target_and_its_session() {
        let read = |target: &str, session: &str| {
            let text = format!(
                "INVITE {target} SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:1@a>;tag=1\r\n\
                 To: <sip:2@b>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\nSession-ID: {session}\r\nContent-Length: 0\r\n\r\n"
            );
            Invitation::read(&Message::read(Bytes::from(text)).unwrap())
        };
        let uuid = "AB30317F1A784DC48FF824D0D3715D86";
        let invited = read("sip:7000@b;X-GA-taskName=Order%20Status;lr", &format!("{uuid} ; remote=1"));
        assert_eq!(invited.parameters, [("X-GA-taskName".to_owned(), "Order Status".to_owned())]);
        assert_eq!(invited.session_id, Some(uuid.to_lowercase()));
        for none in ["", "1", &"0".repeat(32), &"g".repeat(32), &format!("{uuid}0")] {
            assert_eq!(read("sip:7000@b", none).session_id, None, "{none}");
        }
    }
}
