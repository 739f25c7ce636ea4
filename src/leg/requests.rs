//! Requests of ours to the far side, and what it is shown when it asks who we are (RFC 3261 section 22).

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Out, Surroundings};
use crate::sip::dialog::Dialog;
use crate::sip::digest::{Answered, Keyring};
use crate::sip::hop::Hop;
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::transaction::key::ClientKey;
use crate::sip::write::Writer;

/// Requests whose answer may still be a challenge; of more, the oldest is not said again.
const MAX_WAITING: usize = 16;

/// The requests of one leg.
#[derive(Debug, Default)]
pub(super) struct Requests {
    keyring: Option<Keyring>,
    waiting: VecDeque<Waiting>,
    /// What the last INVITE showed: its ACK shows the same (RFC 3261 section 22.1).
    invite: Vec<(HeaderName, String)>,
}

#[derive(Debug)]
struct Waiting {
    key: ClientKey,
    request: Bytes,
    to: Hop,
    answered: Answered,
}

impl Requests {
    pub(super) fn new(keyring: Option<Keyring>) -> Self {
        Self { keyring, ..Self::default() }
    }

    /// What a request shows at once, because its peer has asked before.
    pub(super) fn shown(&mut self, method: &Method, uri: &str, body: &[u8], to: &Hop) -> Vec<(HeaderName, String)> {
        let shown = self.keyring.as_mut().map(|keyring| keyring.shown(method.as_str(), uri, body, to.ip()));
        let shown = shown.unwrap_or_default();
        if *method == Method::Invite {
            self.invite.clone_from(&shown);
        }
        shown
    }

    /// What the ACK of the last INVITE's 2xx shows, where it goes to the same peer.
    pub(super) fn shown_by_ack(&self, to: &Hop) -> &[(HeaderName, String)] {
        match self.keyring.as_ref().is_some_and(|keyring| keyring.is_for(to.ip())) {
            true => &self.invite,
            false => &[],
        }
    }

    /// Takes the challenges of a refusal of our INVITE; whether it should be said again.
    pub(super) fn challenged(
        &mut self,
        response: &Message,
        source: Hop,
        answered: &mut Answered,
        s: &mut Surroundings<'_>,
    ) -> bool {
        let keyring = self.keyring.as_mut();
        keyring.is_some_and(|keyring| keyring.challenged(response, source.ip(), answered, s.ids))
    }

    /// Begins a request inside the dialog, with what its peer wants to be shown.
    pub(super) fn begin(
        &mut self,
        method: &Method,
        dialog: &mut Dialog,
        body: &[u8],
        s: &mut Surroundings<'_>,
    ) -> (ClientKey, Writer) {
        let branch = s.ids.branch();
        let mut writer = dialog.request(method, s.endpoint, &branch);
        for (name, value) in self.shown(method, dialog.request_target(), body, &dialog.next_hop()) {
            writer.header(name, &value);
        }
        (ClientKey::new(&branch, method.clone()), writer)
    }

    /// Sends it.
    pub(super) fn send(&mut self, key: ClientKey, request: Bytes, to: Hop, s: &mut Surroundings<'_>) {
        self.keep(Waiting { key: key.clone(), request: request.clone(), to, answered: Answered::default() });
        s.out.push(Out::Request { key, message: request, to });
    }

    fn keep(&mut self, waiting: Waiting) {
        if self.keyring.is_none() {
            return;
        }
        if self.waiting.len() == MAX_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(waiting);
    }

    /// One of them has its final answer. Where that is a challenge we can meet, it is said again inside the dialog;
    /// the key of that.
    pub(super) fn answered(
        &mut self,
        response: &Message,
        source: Hop,
        dialog: &mut Dialog,
        s: &mut Surroundings<'_>,
    ) -> Option<ClientKey> {
        let key = ClientKey::of_response(response)?;
        let at = self.waiting.iter().position(|waiting| waiting.key == key)?;
        let Waiting { request, to, mut answered, .. } = self.waiting.remove(at)?;
        if !self.challenged(response, source, &mut answered, s) {
            return None;
        }
        let old = Message::read(request).ok()?; // longer than a message may be
        let shown = self.shown(key.method(), old.request_uri(), old.body(), &to);
        if shown.is_empty() {
            return None; // It was meant for somebody else (flow S3).
        }
        dialog.local_cseq += 1;
        let branch = s.ids.branch();
        let request = again(&old, old.request_uri(), &s.endpoint.via(&to, &branch), dialog.local_cseq, &shown);
        let key = ClientKey::new(&branch, key.method().clone());
        self.keep(Waiting { key: key.clone(), request: request.clone(), to, answered });
        s.out.push(Out::Request { key: key.clone(), message: request, to });
        Some(key)
    }
}

/// The request once more, as a new transaction: with this Via and number, and these headers instead of what it has of
/// the same names. What it showed before is left out.
pub(super) fn again(request: &Message, uri: &str, via: &str, number: u32, headers: &[(HeaderName, String)]) -> Bytes {
    let Some(method) = request.method() else { return Bytes::new() };
    let mut writer = Writer::request(method, uri);
    writer.header(HeaderName::Via, via).header(HeaderName::CSeq, &format!("{number} {method}"));
    for (name, value) in headers {
        writer.header(*name, value);
    }
    let fresh = [
        HeaderName::Via,
        HeaderName::CSeq,
        HeaderName::Authorization,
        HeaderName::ProxyAuthorization,
        HeaderName::ContentType,
        HeaderName::ContentLength,
    ];
    let replaced = |name: &str| {
        HeaderName::read(name).is_some_and(|name| fresh.contains(&name) || headers.iter().any(|(new, _)| *new == name))
    };
    for (name, value) in request.lines().filter(|(name, _)| !replaced(name)) {
        writer.header_named(name, value);
    }
    match request.header(HeaderName::ContentType) {
        Some(content_type) => writer.finish_with(content_type, request.body()),
        None => writer.finish(),
    }
}
