//! Offer and answer of one leg (RFC 3264): what they said, what we said, and our one address in it.

use std::net::SocketAddr;

use super::Refusal;
use super::keys::{KeyExchange, Keys};
use crate::sdp::anchor::Anchor;
use crate::sdp::{Audio, Session};
use crate::sip::ids::Ids;
use crate::sip::message::{HeaderName, Message};

/// The session of one leg. Our address never moves; theirs may with every description.
#[derive(Debug)]
pub struct Negotiation {
    anchor: Anchor,
    /// The far side's offer that we still have to answer.
    offer: Option<Session>,
    /// The far side's audio, as last described.
    remote: Option<Audio>,
    /// The other leg's audio, as last described to this one.
    other: Option<Audio>,
    keys: KeyExchange,
    /// Whether RTCP goes over the port of the RTP: as we want it, then as it was agreed on.
    mux: bool,
}

impl Negotiation {
    /// A session at this relay address, with this session id, and the offer that it must answer, if it must. Of our own
    /// offers `mux` says whether RTCP may go over the port of the RTP.
    pub fn new(
        here: SocketAddr,
        session: u32,
        offer: Option<Session>,
        mut keys: KeyExchange,
        mux: bool,
        ids: &mut Ids,
    ) -> Self {
        let audio = offer.as_ref().map(|offer| offer.audio.clone());
        if let Some(offer) = &offer {
            keys.answer(offer, ids);
        }
        let mut negotiation = Self { anchor: Anchor::new(here, session), offer, remote: None, other: None, keys, mux };
        audio.into_iter().for_each(|audio| negotiation.described(audio));
        negotiation
    }

    /// The far side's audio as the other leg should hear of it: once we have answered, only what we agreed on.
    pub fn for_other(&self) -> Option<Audio> {
        let mut audio = self.remote.clone()?;
        if let (Some(offer), Some(other)) = (&self.offer, &self.other) {
            audio.formats = crate::sdp::anchor::agreed(offer, other).formats;
        }
        Some(audio)
    }

    /// What the media of this leg is protected with; `None` for plain RTP.
    pub fn keys(&self) -> Option<&Keys> {
        self.keys.agreed()
    }

    /// The far side's audio.
    pub fn remote(&self) -> Option<&Audio> {
        self.remote.as_ref()
    }

    /// The payload types of telephone events: by which the far side hears them, and by which we have asked for them.
    /// An answer keeps the numbers of its offer.
    pub fn telephone_events(&self) -> Option<(u8, u8)> {
        let hears = self.remote.as_ref()?.telephone_event()?;
        let offered = self.other.as_ref().filter(|_| self.offer.is_none());
        Some((hears, offered.and_then(Audio::telephone_event).unwrap_or(hears)))
    }

    /// Our offer, made of the other leg's audio, the other G.711 law and telephone events, or of what we speak ourselves.
    pub fn offer(&mut self, other: Option<&Audio>, ids: &mut Ids) -> String {
        let widened = |other: &Audio| other.with_both_laws().with_telephone_events();
        let audio = other.map_or_else(|| Session::own_offer().audio, widened);
        let body = self.anchor.offer(&audio, self.keys.offer(ids), self.mux);
        self.other = Some(audio);
        body
    }

    /// Reads the answer to our offer, if the message has one. False when it has one that cannot be used.
    pub fn read_answer(&mut self, message: &Message) -> bool {
        if message.body().is_empty() {
            return true;
        }
        match description(message).and_then(|body| self.keys.read_answer(body).ok()) {
            Some(session) if session.audio.rtp.is_some() || session.audio.is_held() => {
                let understood = self.other.as_ref().is_none_or(|offered| session.audio.shares_speech_with(offered));
                let usable = session.audio.rtp.is_some() && understood && self.reaches(&session.audio);
                if !self.keys.accept(&session) {
                    return false;
                }
                self.described(session.audio);
                usable
            }
            _ => false,
        }
    }

    /// Our description for a response to the far side: the answer to its offer, or an offer where it made none.
    /// The flag tells whether it is an offer. `None` when nothing common is left.
    pub fn describe(&mut self, other: Option<&Audio>, ids: &mut Ids) -> Option<(String, bool)> {
        let other = other.cloned().or_else(|| self.other.clone()).unwrap_or_else(|| Session::own_offer().audio);
        let described = match &self.offer {
            Some(offer) => (self.anchor.answer(offer, &other, self.keys.said())?, false),
            None => return Some((self.offer(Some(&other), ids), true)),
        };
        self.other = Some(other);
        Some(described)
    }

    /// What we said last, to be said again unchanged in a refresh.
    pub fn last(&self) -> &str {
        self.anchor.last()
    }

    /// A new offer inside the dialog, answered with what is agreed already. `None`: 488, and nothing has changed.
    pub fn reoffer(&mut self, invite: &Message, ids: &mut Ids) -> Option<(String, bool)> {
        let mut agreed = self.other.clone().unwrap_or_else(|| Session::own_offer().audio);
        agreed.direction = crate::sdp::Direction::SendRecv;
        if invite.body().is_empty() {
            // All we can do, a hold of theirs forgotten (RFC 6337 section 5.2.5). Their last offer is history.
            self.offer = None;
            return Some((self.offer(Some(&agreed), ids), true));
        }
        let offer = description(invite).and_then(|body| self.keys.read_offer(body).ok());
        let offer = offer.filter(|offer| self.reaches(&offer.audio))?;
        let mut keys = self.keys.clone();
        keys.answer(&offer, ids);
        let answer = self.anchor.answer(&offer, &agreed, keys.said())?;
        self.keys = keys;
        self.described(offer.audio.clone());
        self.offer = Some(offer);
        Some((answer, false))
    }

    /// The far side has described its audio. Where its RTCP goes holds for what we offer later as well (RFC 5761 section
    /// 5.1.1); an address of 0.0.0.0 says nothing of it.
    fn described(&mut self, audio: Audio) {
        if audio.rtp.is_some() {
            self.mux = audio.is_muxed();
        }
        self.remote = Some(audio);
    }

    /// Whether this audio is of our address's family, or nowhere.
    fn reaches(&self, audio: &Audio) -> bool {
        audio.rtp.is_none_or(|rtp| rtp.is_ipv4() == self.anchor.here.is_ipv4())
    }
}

/// The session description of a message, if that is what its body is.
fn description(message: &Message) -> Option<&[u8]> {
    (message.content_type() == "application/sdp").then(|| message.body())
}

/// Reads the offer of an INVITE. None at all is a delayed offer and fine.
pub fn offer_of(invite: &Message, keys: &KeyExchange) -> Result<Option<Session>, Refusal> {
    if !accepts_sdp(invite) {
        return Err(Refusal::new(406));
    }
    if invite.body().is_empty() {
        return Ok(None);
    }
    match invite.content_type().as_str() {
        "application/sdp" => keys.read_offer(invite.body()).map(Some).map_err(|_| Refusal::new(488)),
        _ => Err(Refusal::new(415)),
    }
}

/// Whether the answer may hold a session description (sdp01, RFC 4475 section 3.3.15). No Accept line means yes.
fn accepts_sdp(invite: &Message) -> bool {
    let mut ranges =
        invite.list(HeaderName::Accept).map(|range| range.split(';').next().unwrap_or("").trim()).peekable();
    let matches =
        |range: &str| ["application/sdp", "application/*", "*/*"].iter().any(|r| r.eq_ignore_ascii_case(range));
    ranges.peek().is_none() || ranges.any(matches)
}
