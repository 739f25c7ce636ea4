//! A leg that we dial, until somebody answers.

use std::net::SocketAddr;

use super::established::Established;
use super::negotiation::Negotiation;
use super::{
    ALLOW, LegCommand, LegEvent, LegTimer, LostCause, Material, Out, Phase, Side, Surroundings, reason_of, respond,
    sensible_answer, write_headers,
};
use crate::sip::dialog::Dialog;
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::transaction::key::{ClientKey, ServerKey};
use crate::sip::write::Writer;

/// Whom to dial and who we say we are.
#[derive(Debug, Clone, Copy)]
pub struct Dial<'a> {
    /// Request-URI and To.
    pub uri: &'a str,
    /// The URI of From.
    pub from: &'a str,
    /// Where the INVITE goes.
    pub to: SocketAddr,
}

/// The UAC core of an INVITE (RFC 3261 section 13.2).
#[derive(Debug)]
pub struct Uac {
    invite: Message,
    key: ClientKey,
    proceeding: bool,
    ending: Ending,
    /// The far tag of a BYE that overtook its own 200, and its Reason.
    early_bye: Option<(String, Option<String>)>,
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
    pub(super) fn begin(dial: &Dial<'_>, body: &str, material: &Material, s: &mut Surroundings<'_>) -> (Self, String) {
        let (branch, tag) = (s.ids.branch(), s.ids.tag());
        let mut writer = Writer::request(&Method::Invite, dial.uri);
        writer
            .header(HeaderName::Via, &s.endpoint.via(&branch))
            .header(HeaderName::MaxForwards, "70")
            .header(HeaderName::From, &format!("<{}>;tag={tag}", dial.from))
            .header(HeaderName::To, &format!("<{}>", dial.uri))
            .header(HeaderName::CallId, &s.ids.call_id())
            .header(HeaderName::CSeq, "1 INVITE")
            .header(HeaderName::Contact, &s.endpoint.contact())
            .header(HeaderName::Allow, ALLOW)
            .header(HeaderName::UserAgent, &s.endpoint.product);
        write_headers(&mut writer, &material.headers);
        let octets = writer.finish_with("application/sdp", body.as_bytes());
        let invite = Message::read(octets.clone()).expect("a message we wrote is one we can read");
        let key = ClientKey::new(&branch, Method::Invite);
        s.out.push(Out::Request { key: key.clone(), message: octets, to: dial.to });
        (Self { invite, key, proceeding: false, ending: Ending::No, early_bye: None }, tag)
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
        source: SocketAddr,
        negotiation: &mut Negotiation,
        s: &mut Surroundings<'_>,
    ) -> Phase {
        if response.cseq().is_none_or(|cseq| cseq.method != Method::Invite) {
            return Phase::Calling(self);
        }
        match response.status().unwrap_or(0) {
            status @ ..200 => {
                self.proceeding = true;
                self.cancel_if_permitted(s);
                if status > 100 && self.ending == Ending::No {
                    self.progressed(status, response, negotiation, s);
                }
                Phase::Calling(self)
            }
            200..300 => self.answered(response, source, negotiation, s),
            status => {
                s.out.push(Out::Event(LegEvent::Refused { status, reason: reason_of(response) }));
                s.out.push(Out::Stop(LegTimer::CancelLimit));
                s.out.push(Out::Gone);
                Phase::Moving
            }
        }
    }

    fn progressed(&self, status: u16, response: &Message, negotiation: &mut Negotiation, s: &mut Surroundings<'_>) {
        let early_media = !response.body().is_empty() && negotiation.read_answer(response);
        if early_media {
            s.out.push(Out::RemoteChanged);
        }
        s.out.push(Out::Event(LegEvent::Progressed { status, early_media }));
    }

    fn answered(
        self,
        response: &Message,
        source: SocketAddr,
        negotiation: &mut Negotiation,
        s: &mut Surroundings<'_>,
    ) -> Phase {
        s.out.push(Out::Stop(LegTimer::CancelLimit));
        let Some(dialog) = Dialog::as_uac(&self.invite, response, source) else { return self.lost(s) };
        let mut established = Established::dialled(dialog);
        established.acknowledge(response, s);
        if self.ending != Ending::No {
            // Our CANCEL crossed this 200: it is hung up at once and nobody above hears of it (flow R2).
            established.hang_up(super::Cause::NORMAL, &Material::default(), s);
        } else if let Some((_, reason)) = self.early_bye.filter(|(tag, _)| response.to_tag() == Some(tag)) {
            s.out.push(Out::Event(LegEvent::Answered));
            established.over(LegEvent::HungUp { by: Side::Far, reason }, s);
        } else if negotiation.read_answer(response) && negotiation.remote().is_some() {
            s.out.push(Out::RemoteChanged);
            s.out.push(Out::Event(LegEvent::Answered));
        } else {
            established.refuse_answer(s);
        }
        Phase::Established(established)
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
    pub(super) fn request(mut self, request: &Message, key: ServerKey, s: &mut Surroundings<'_>) -> Phase {
        if request.is(&Method::Bye) {
            respond(request, key, 200, s);
            self.early_bye = Some((request.from_tag().to_owned(), reason_of(request)));
        } else {
            // An INVITE that crosses ours (RFC 3261 section 14.2).
            let status = if request.is(&Method::Invite) { 491 } else { sensible_answer(request) };
            respond(request, key, status, s);
        }
        Phase::Calling(self)
    }
}
