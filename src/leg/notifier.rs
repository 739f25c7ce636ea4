//! The subscription that a REFER to us makes (RFC 3515 section 2.4.4): we are asked, and tell how it goes.

use super::requests::Requests;
use super::{Out, Referral, Surroundings, respond};
use crate::sip::dialog::Dialog;
use crate::sip::message::Method;
use crate::sip::message::{HeaderName, Message};
use crate::sip::refer::{Event, ReferTo};
use crate::sip::transaction::key::{ClientKey, ServerKey};
use crate::sip::write::{Writer, reason_phrase};

/// The event of the first REFER in a dialog.
const FIRST: &str = "refer";

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
        let event = if first { FIRST.to_owned() } else { format!("refer;id={number}") };
        let mut notifier = Notifier { event, number, status: 100, waiting: None, next: None, over: unasked };
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
    /// The CSeq of the REFER, by which others may name it.
    number: u32,
    /// What was told last.
    status: u16,
    /// The NOTIFY that waits for its answer.
    waiting: Option<ClientKey>,
    /// What is to be told after it.
    next: Option<News>,
    /// The last word is told, or nobody wants to hear it.
    over: bool,
}

/// What one NOTIFY tells.
#[derive(Debug, Clone, Copy)]
struct News {
    /// How it goes with the call.
    status: u16,
    /// Why nothing is told after it, if nothing is (RFC 6665 section 4.1.3).
    end: Option<&'static str>,
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
        let end = (status >= 200).then_some("noresource");
        self.say(News { status, end }, dialog, requests, s);
    }

    /// A SUBSCRIBE in the dialog: the subscription goes on, or ends by an Expires of 0 while the call that was asked for goes
    /// on. Either way it is told how that stands (RFC 6665 section 4.2.1). A wish for less than we take is refused: so there
    /// is nothing that runs out before we end it.
    pub(super) fn subscribed(
        &mut self,
        subscribe: &Message,
        key: ServerKey,
        dialog: &mut Dialog,
        requests: &mut Requests,
        s: &mut Surroundings<'_>,
    ) {
        let (event, lasts) = (Event::read(subscribe.header(HeaderName::Event).unwrap_or("")), lasts(s));
        let expires = subscribe.header(HeaderName::Expires).and_then(|seconds| seconds.parse().ok()).unwrap_or(lasts);
        match expires {
            _ if !event.is_refer() => respond(subscribe, key, 489, s),
            _ if self.over || !self.is_about(&event) => respond(subscribe, key, 481, s),
            1.. if expires < lasts => {
                let mut writer = Writer::response(subscribe, 423, None);
                let message = writer.header(HeaderName::MinExpires, &lasts.to_string()).finish();
                s.out.push(Out::Respond { key, status: 423, message });
            }
            _ => {
                dialog.refresh_target(subscribe);
                let mut writer = Writer::response(subscribe, 200, None);
                writer
                    .header(HeaderName::Contact, &dialog.contact(s.endpoint))
                    .header(HeaderName::Expires, &expires.min(lasts).to_string())
                    .header(HeaderName::Server, &s.endpoint.product);
                s.out.push(Out::Respond { key, status: 200, message: writer.finish() });
                let status = self.next.map_or(self.status, |next| next.status);
                self.say(News { status, end: (expires == 0).then_some("timeout") }, dialog, requests, s);
            }
        }
    }

    /// Whether an event is the one that is told of here; the first of a dialog needs no number.
    fn is_about(&self, event: &Event<'_>) -> bool {
        match event.id {
            Some(_) => event.number() == Some(self.number),
            None => self.event == FIRST,
        }
    }

    fn say(&mut self, news: News, dialog: &mut Dialog, requests: &mut Requests, s: &mut Surroundings<'_>) {
        if self.over {
            return;
        }
        if self.waiting.is_some() {
            let end = self.next.and_then(|next| next.end);
            self.next = Some(News { end: news.end.or(end), ..news });
            return;
        }
        let News { status, end } = news;
        (self.status, self.over) = (status, end.is_some());
        let state = match end {
            Some(reason) => format!("terminated;reason={reason}"),
            None => format!("active;expires={}", lasts(s)),
        };
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
            self.say(next, dialog, requests, s);
        }
    }
}

/// For how long a subscription is said to last, seconds. We end it when whom the REFER names has rung long enough; our last
/// word may have to wait for the answer to the one before it.
fn lasts(s: &Surroundings<'_>) -> u64 {
    (s.ring_limit + s.base.long()).as_secs()
}
