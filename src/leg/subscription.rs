//! The dialog that a REFER outside every dialog makes: a subscription and nothing else (RFC 3515 section 2.4.4, RFC 6665).
//!
//! It tells the call nothing. Its debts are the NOTIFYs, each answered or given up before the next; it is gone when the
//! last one is. After that its requests are answered like those of a dialog that nobody knows.

use super::notifier::{Asked, Notifier};
use super::requests::Requests;
use super::{Invitation, Out, Referral, Surroundings, respond, sensible_answer};
use crate::sip::dialog::Dialog;
use crate::sip::digest::Keyring;
use crate::sip::hop::Hop;
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::transaction::key::{ClientKey, ServerKey};
use crate::sip::value::{Uri, UserToUser, unescaped};

/// Somebody asked us to call, and is told how that goes.
#[derive(Debug)]
pub struct Subscription {
    dialog: Dialog,
    requests: Requests,
    notifier: Notifier,
}

impl Subscription {
    /// Answers 202 and tells 100 at once; `None` where the REFER cannot make a dialog. The keyring is for who asked, where it
    /// asks in turn who tells.
    pub fn begin(
        refer: &Message,
        key: ServerKey,
        source: Hop,
        keyring: Option<Keyring>,
        s: &mut Surroundings<'_>,
    ) -> Option<Self> {
        let mut dialog = Dialog::as_uas(refer, &s.ids.tag(), source)?;
        let mut requests = Requests::new(keyring);
        let notifier = Asked::new(refer, key).accept(true, &mut dialog, &mut requests, s);
        let subscription = Self { dialog, requests, notifier };
        subscription.end_if_done(s);
        Some(subscription)
    }

    /// Our tag.
    pub fn local_tag(&self) -> &str {
        &self.dialog.local_tag
    }

    /// How the call goes that was asked for: a final status is the last word about it.
    pub fn tell(&mut self, status: u16, s: &mut Surroundings<'_>) {
        self.notifier.tell(status, &mut self.dialog, &mut self.requests, s);
    }

    /// A request in this dialog: there is no session to end or to change, and one REFER is all that it was made for. Who
    /// asked may subscribe on, or no longer.
    pub fn request(&mut self, request: &Message, key: ServerKey, s: &mut Surroundings<'_>) {
        let status = match request.method() {
            _ if !self.dialog.matches_request(request) => 481,
            _ if !self.dialog.accept_cseq(request) => 500,
            Some(Method::Subscribe) => {
                return self.notifier.subscribed(request, key, &mut self.dialog, &mut self.requests, s);
            }
            Some(Method::Bye | Method::Invite | Method::Update | Method::Info | Method::Prack) => 481,
            _ => sensible_answer(request),
        };
        respond(request, key, status, s);
    }

    /// A response to a NOTIFY of ours.
    pub fn response(&mut self, response: &Message, source: Hop, s: &mut Surroundings<'_>) {
        let (Some(key), Some(status @ 200..)) = (ClientKey::of_response(response), response.status()) else { return };
        match self.requests.answered(response, source, &mut self.dialog, s) {
            Some(again) => self.notifier.said_again(again),
            None => self.notify_answered(&key, status, s),
        }
    }

    /// A NOTIFY of ours got no answer at all: nobody is there to be told.
    pub fn timed_out(&mut self, key: &ClientKey, s: &mut Surroundings<'_>) {
        self.notify_answered(key, 408, s);
    }

    fn notify_answered(&mut self, key: &ClientKey, status: u16, s: &mut Surroundings<'_>) {
        if self.notifier.awaits(key) {
            self.notifier.answered(status, &mut self.dialog, &mut self.requests, s);
            self.end_if_done(s);
        }
    }

    fn end_if_done(&self, s: &mut Surroundings<'_>) {
        if self.notifier.is_done() {
            s.out.push(Out::Gone);
        }
    }
}

impl Invitation {
    /// What a REFER outside every dialog says of the call that it asks for. The caller is whom it names; what stands in
    /// the URI comes before what the REFER itself says. Nobody waits behind such a customer.
    pub fn referred(refer: &Message, referral: &Referral) -> Self {
        let said = Self::read(refer);
        let named = |(name, _): &&(String, String)| HeaderName::read(name).is_none();
        let inside = referral.headers.iter().filter(named);
        let inside = inside.map(|(name, value)| (name.clone(), unescaped(value).into_owned()));
        let customer = Uri::read(&referral.uri).and_then(|uri| Some(uri.user_name()?.into_owned()));
        Self {
            caller: customer.unwrap_or_default(),
            redirected: true,
            headers: inside.chain(said.headers).collect(),
            user_to_user: referral.header("User-to-User").map(UserToUser::read).or(said.user_to_user),
            ..said
        }
    }
}
