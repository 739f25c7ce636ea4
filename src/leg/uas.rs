//! A leg whose INVITE came to us and waits for our answer.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::established::{Established, Unacked};
use super::negotiation::Negotiation;
use super::{
    ALLOW, Invitation, LegCommand, LegEvent, LegTimer, Material, Out, Phase, Side, Surroundings, reason_of, respond,
    sensible_answer, write_headers,
};
use crate::sip::dialog::Dialog;
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::transaction::key::ServerKey;
use crate::sip::write::Writer;

/// Often enough that no proxy's timer C ends the INVITE.
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// The UAS core of an INVITE (RFC 3261 section 13.3).
#[derive(Debug)]
pub struct Uas {
    invite: Message,
    key: ServerKey,
    local_tag: String,
    source: SocketAddr,
    provisional: Option<(u16, Bytes)>,
}

impl Uas {
    /// Answers 100 and tells the call.
    pub(super) fn begin(invite: &Message, key: ServerKey, source: SocketAddr, s: &mut Surroundings<'_>) -> Self {
        let trying = Writer::response(invite, 100, None).finish();
        s.out.push(Out::Respond { key: key.clone(), status: 100, message: trying });
        s.out.push(Out::Event(LegEvent::Invited(Box::new(invitation(invite)))));
        Self { invite: invite.clone(), key, local_tag: s.ids.tag(), source, provisional: None }
    }

    pub(super) fn local_tag(&self) -> &str {
        &self.local_tag
    }

    pub(super) fn command(
        self,
        command: LegCommand,
        material: &Material,
        negotiation: &mut Negotiation,
        s: &mut Surroundings<'_>,
    ) -> Phase {
        match command {
            LegCommand::Ring { early_media } => self.ring(early_media, material, negotiation, s),
            LegCommand::Answer => self.answer(material, negotiation, s),
            LegCommand::Refuse { status, redirect, retry_after } => {
                self.refuse(status, redirect.as_deref(), retry_after, material, s);
                s.out.push(Out::Event(LegEvent::HungUp { by: Side::Us, reason: None }));
                s.out.push(Out::Gone);
                Phase::Moving
            }
            LegCommand::HangUp(_) => {
                let refuse = LegCommand::Refuse { status: 480, redirect: None, retry_after: None };
                self.command(refuse, material, negotiation, s)
            }
            LegCommand::Inform(_) => Phase::Invited(self),
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
        let described = negotiation.remote().filter(|_| early_media).is_some();
        let body = described.then(|| negotiation.describe(material.audio.as_ref())).flatten();
        let status = if body.is_some() { 183 } else { 180 };
        let mut writer = self.response(status, material, s);
        let message = match body {
            Some((body, _)) => writer.finish_with("application/sdp", body.as_bytes()),
            None => writer.finish(),
        };
        s.out.push(Out::Respond { key: self.key.clone(), status, message: message.clone() });
        s.out.push(Out::Start(LegTimer::Remind, REMIND_EVERY));
        self.provisional = Some((status, message));
        Phase::Invited(self)
    }

    fn answer(self, material: &Material, negotiation: &mut Negotiation, s: &mut Surroundings<'_>) -> Phase {
        let dialog = Dialog::as_uas(&self.invite, &self.local_tag, self.source);
        let (Some(dialog), Some((body, offered))) = (dialog, negotiation.describe(material.audio.as_ref())) else {
            let refuse = LegCommand::Refuse { status: 488, redirect: None, retry_after: None };
            return self.command(refuse, material, negotiation, s);
        };
        s.out.push(Out::Stop(LegTimer::Remind));
        let message = self.response(200, material, s).finish_with("application/sdp", body.as_bytes());
        let cseq = self.invite.cseq().map_or(0, |cseq| cseq.number);
        let unacked = Unacked::begin(self.key, cseq, message, offered, s);
        Phase::Established(Established::answered(dialog, unacked))
    }

    fn refuse(
        &self,
        status: u16,
        redirect: Option<&str>,
        retry_after: Option<u32>,
        material: &Material,
        s: &mut Surroundings<'_>,
    ) {
        let mut writer = Writer::response(&self.invite, status, Some(&self.local_tag));
        if let Some(target) = redirect {
            writer.header(HeaderName::Contact, &format!("<{target}>"));
        }
        if let Some(seconds) = retry_after {
            writer.header(HeaderName::RetryAfter, &seconds.to_string());
        }
        write_headers(&mut writer, &material.headers);
        let message = writer.header(HeaderName::Server, &s.endpoint.product).finish();
        s.out.push(Out::Stop(LegTimer::Remind));
        s.out.push(Out::Respond { key: self.key.clone(), status, message });
    }

    /// The head of a response that makes a dialog (RFC 3261 section 12.1.1).
    fn response(&self, status: u16, material: &Material, s: &Surroundings<'_>) -> Writer {
        let mut writer = Writer::response(&self.invite, status, Some(&self.local_tag));
        for route in self.invite.headers(HeaderName::RecordRoute) {
            writer.header(HeaderName::RecordRoute, route);
        }
        writer
            .header(HeaderName::Contact, &s.endpoint.contact())
            .header(HeaderName::Allow, ALLOW)
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
    pub(super) fn request(self, request: &Message, key: ServerKey, s: &mut Surroundings<'_>) -> Phase {
        if request.is(&Method::Bye) {
            respond(request, key, 200, s);
            return self.cancelled(request, s);
        }
        // A new offer before the first is answered (RFC 3261 section 14.2).
        let status = if request.is(&Method::Invite) { 500 } else { sensible_answer(request) };
        respond(request, key, status, s);
        Phase::Invited(self)
    }

    pub(super) fn timer(self, timer: LegTimer, s: &mut Surroundings<'_>) -> Phase {
        if let (LegTimer::Remind, Some((status, message))) = (timer, &self.provisional) {
            s.out.push(Out::Respond { key: self.key.clone(), status: *status, message: message.clone() });
            s.out.push(Out::Start(LegTimer::Remind, REMIND_EVERY));
        }
        Phase::Invited(self)
    }
}

fn invitation(invite: &Message) -> Invitation {
    let user = |uri: Option<crate::sip::value::Uri<'_>>| {
        uri.and_then(|uri| uri.user_name()).map(|user| user.into_owned()).unwrap_or_default()
    };
    let own = |name: &str| HeaderName::ALL.iter().any(|known| known.is(name));
    Invitation {
        call_id: invite.call_id().unwrap_or_default().to_owned(),
        caller: user(invite.from().map(|from| from.uri)),
        dialled: user(invite.target()),
        headers: invite.lines().filter(|(name, _)| !own(name)).map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
    }
}
