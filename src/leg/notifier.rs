//! The subscription that a REFER to us makes (RFC 3515 section 2.4.4): we are asked, and tell how it goes.

use super::requests::Requests;
use super::{Out, Referral, Surroundings, respond};
use crate::sip::dialog::Dialog;
use crate::sip::message::Method;
use crate::sip::message::{HeaderName, Message};
use crate::sip::refer::ReferTo;
use crate::sip::transaction::key::{ClientKey, ServerKey};
use crate::sip::write::{Writer, reason_phrase};

/// For how long a subscription is said to last, seconds; we end it long before.
const EXPIRES: u32 = 180;

/// A REFER that waits for the call's word.
#[derive(Debug)]
pub(super) struct Asked {
    request: Message,
    key: ServerKey,
}

impl Asked {
    /// A REFER that can be read.
    pub(super) fn new(request: &Message, key: ServerKey) -> Self {
        Self { request: request.clone(), key }
    }

    /// Reads a REFER; where it cannot be read it is answered.
    pub(super) fn read(request: &Message, key: ServerKey, s: &mut Surroundings<'_>) -> Option<(Self, Referral)> {
        let Some(referral) = Referral::read(request) else {
            respond(request, key, 400, s);
            return None;
        };
        Some((Self::new(request, key), referral))
    }

    /// The call will not do it.
    pub(super) fn decline(self, s: &mut Surroundings<'_>) {
        respond(&self.request, self.key, 603, s);
    }

    /// The call is at it: 202, and NOTIFY 100 at once, unless nobody wants to be told (RFC 4488).
    pub(super) fn accept(
        self,
        first: bool,
        dialog: &mut Dialog,
        requests: &mut Requests,
        s: &mut Surroundings<'_>,
    ) -> Notifier {
        let unasked = self.request.header_named("Refer-Sub").is_some_and(|value| value.eq_ignore_ascii_case("false"));
        let mut writer = Writer::response(&self.request, 202, Some(&dialog.local_tag));
        writer.header(HeaderName::Contact, &dialog.contact(s.endpoint));
        if unasked {
            writer.header_named("Refer-Sub", "false");
        }
        let message = writer.header(HeaderName::Server, &s.endpoint.product).finish();
        s.out.push(Out::Respond { key: self.key, status: 202, message });
        let number = self.request.cseq().map_or(0, |cseq| cseq.number);
        // A second REFER in one dialog needs its own name (RFC 3515 section 2.4.6).
        let event = if first { "refer".to_owned() } else { format!("refer;id={number}") };
        let mut notifier = Notifier { event, waiting: None, next: None, over: unasked };
        notifier.tell(100, dialog, requests, s);
        notifier
    }
}

impl Referral {
    /// What a REFER asks for; `None` where it has no Refer-To, more than one, or one that cannot be read (RFC 3515
    /// section 2.4.2).
    pub fn read(refer: &Message) -> Option<Self> {
        let mut named = refer.headers(HeaderName::ReferTo);
        let refer_to = named.next().filter(|_| named.next().is_none()).and_then(ReferTo::read)?;
        Some(Self {
            uri: refer_to.uri().to_owned(),
            headers: refer_to.headers().to_vec(),
            invites: *refer_to.method() == Method::Invite,
        })
    }
}

/// What is told, one NOTIFY at a time.
#[derive(Debug)]
pub(super) struct Notifier {
    event: String,
    /// The NOTIFY that waits for its answer.
    waiting: Option<ClientKey>,
    /// What is to be told after it.
    next: Option<u16>,
    /// The last word is told, or nobody wants to hear it.
    over: bool,
}

impl Notifier {
    /// Whether nothing more will be told and nothing is under way.
    pub(super) fn is_done(&self) -> bool {
        self.over && self.waiting.is_none()
    }

    /// Whether a NOTIFY is still under way.
    pub(super) fn owes(&self) -> bool {
        self.waiting.is_some()
    }

    /// How it goes: a final status is the last word.
    pub(super) fn tell(&mut self, status: u16, dialog: &mut Dialog, requests: &mut Requests, s: &mut Surroundings<'_>) {
        if self.over {
            return;
        }
        if self.waiting.is_some() {
            self.next = Some(status);
            return;
        }
        self.over = status >= 200;
        let state =
            if self.over { "terminated;reason=noresource".to_owned() } else { format!("active;expires={EXPIRES}") };
        let body = format!("SIP/2.0 {status} {}\r\n", reason_phrase(status));
        let (key, mut writer) = requests.begin(&Method::Notify, dialog, body.as_bytes(), s);
        writer
            .header(HeaderName::Contact, &dialog.contact(s.endpoint))
            .header(HeaderName::Event, &self.event)
            .header(HeaderName::SubscriptionState, &state);
        let message = writer.finish_with("message/sipfrag;version=2.0", body.as_bytes());
        requests.send(key.clone(), message, dialog.next_hop(), s);
        self.waiting = Some(key);
    }

    /// Whether this is the NOTIFY under way.
    pub(super) fn awaits(&self, key: &ClientKey) -> bool {
        self.waiting.as_ref() == Some(key)
    }

    /// The NOTIFY under way is being said again, with what its peer asked for.
    pub(super) fn said_again(&mut self, key: ClientKey) {
        self.waiting = Some(key);
    }

    /// It was answered; or it never was, which is a `status` of 408.
    pub(super) fn answered(
        &mut self,
        status: u16,
        dialog: &mut Dialog,
        requests: &mut Requests,
        s: &mut Surroundings<'_>,
    ) {
        self.waiting = None;
        // Nobody is there to be told (RFC 6665 section 4.2.2).
        self.over |= status >= 300;
        if let Some(next) = self.next.take() {
            self.tell(next, dialog, requests, s);
        }
    }
}
