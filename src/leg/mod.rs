//! The leg: one dialog and every race of it.
//!
//! The promise to the call: at most one `Answered`, exactly one last word (`Refused`, `HungUp` or `Lost`). A CANCEL that
//! crosses a 200 is acknowledged and hung up in here; the call never hears of it.
//!
//! - [`uas`]: an INVITE came to us and is not answered yet;
//! - [`uac`]: we sent an INVITE and nobody has answered yet;
//! - [`established`]: a confirmed dialog, until its last debt is paid;
//! - [`negotiation`]: offer and answer of this leg; [`keys`]: its SRTP keys; `prack`: reliable provisional responses;
//!   [`session_timer`]: who refreshes the session; `refer`: REFERs of ours and what becomes of them; `notifier`: a REFER
//!   to us, and how it goes; `requests`: what we ask, and who we are when we are asked;
//! - [`subscription`]: the dialog of a REFER outside every dialog, which is no leg.

pub mod established;
pub mod keys;
pub mod negotiation;
mod notifier;
mod prack;
mod refer;
mod requests;
pub mod session_timer;
pub mod subscription;
pub mod uac;
pub mod uas;

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::sdp::Audio;
use crate::sip::dialog::{Dialog, Endpoint};
use crate::sip::digest::Keyring;
use crate::sip::hop::Hop;
use crate::sip::ids::Ids;
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::refer::Replaces;
use crate::sip::transaction::Base;
use crate::sip::transaction::key::{ClientKey, ServerKey};
use crate::sip::value::UserToUser;
use crate::sip::write::Writer;
use established::Established;
use keys::Keys;
use negotiation::Negotiation;
use session_timer::{SessionSettings, SessionTimer};
use uac::Uac;
use uas::Uas;

// --- the vocabulary shared with the call -------------------------------------------------------------------------

/// Which leg of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LegRole {
    /// The customer, through the IVR, PBX or SBC.
    Customer,
    /// GenerativeAgent, through the trunk.
    GenerativeAgent,
    /// Where the customer goes next, when we dial it.
    Onward,
    /// Who is about to take the customer leg's place, and becomes it.
    Successor,
}

impl LegRole {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Customer, Self::GenerativeAgent, Self::Onward, Self::Successor];
}

/// What the call tells a leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LegCommand {
    /// Tell the far side that we are at it: 180, or 183 with a session description.
    Ring {
        /// Whether a session description goes with it, so that it hears us before the answer.
        early_media: bool,
    },
    /// Answer with 200.
    Answer,
    /// Refuse the INVITE.
    Refuse {
        /// The final status.
        status: u16,
        /// The Contact of a 302.
        redirect: Option<Redirect>,
        /// Seconds of Retry-After.
        retry_after: Option<u32>,
    },
    /// End it: CANCEL or BYE, whichever its state asks for.
    HangUp(Cause),
    /// Pass a message of the other leg on.
    Inform(Info),
    /// Ask the far side to call this URI in our place; the header lines go inside it.
    Refer(String),
    /// Do not wait for that any more: a REFER that has not left stays here, and one without an answer is not repeated.
    Withdraw,
    /// Take on the transfer that the far side asked for: 202.
    Accept,
    /// Do not: 603.
    Decline,
    /// Tell the far side how the transfer that it asked for goes; a final status is the last word about it.
    Report(u16),
}

/// Where a 302 sends the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The URI, without headers.
    pub uri: String,
    /// Whether it gets the response's own headers, for whoever follows it (RFC 3261 section 19.1.1).
    pub with_headers: bool,
}

/// Why we end a leg: a Q.850 cause value, for the Reason header (RFC 3326).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause(pub u8);

impl Cause {
    /// 16: the normal end of a call.
    pub const NORMAL: Self = Self(16);
    /// 17: whoever was called is busy.
    pub const BUSY: Self = Self(17);
    /// 18: whoever was called is silent.
    pub const NO_RESPONSE: Self = Self(18);
    /// 19: whoever was called rang and did not answer.
    pub const NO_ANSWER: Self = Self(19);
    /// 27: whoever was called cannot be reached.
    pub const OUT_OF_ORDER: Self = Self(27);
    /// 38: the network on the way is out of order.
    pub const NETWORK: Self = Self(38);
    /// 41: something broke.
    pub const FAILURE: Self = Self(41);
    /// 88: no session that both sides can speak.
    pub const INCOMPATIBLE: Self = Self(88);
    /// 102: a time limit.
    pub const TIMEOUT: Self = Self(102);

    /// What a SIP status that refused our call stands for (RFC 3398 section 8.2.6.1, read backwards).
    pub fn of_refusal(status: u16) -> Self {
        match status {
            486 | 600 => Self::BUSY,
            408 => Self::NO_RESPONSE,
            480 => Self::NO_ANSWER,
            404 | 410 | 484 | 502 | 604 => Self::OUT_OF_ORDER,
            503 | 504 => Self::NETWORK,
            _ => Self::FAILURE,
        }
    }
}

/// The content of an INFO request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Content-Type, as written.
    pub content_type: String,
    /// The body.
    pub body: Bytes,
}

/// What becomes of a REFER of ours. The first two may come before any of the others; of those there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// The far side will try.
    Accepted,
    /// Whom it calls answers with this provisional status.
    Progressed(u16),
    /// It has arrived: the only success that anybody vouches for.
    Transferred,
    /// Whom it called refused with this status.
    Refused(u16),
    /// It will not try: its answer to the REFER, 408 where there was none.
    Rejected(u16),
    /// It asks who we are, and we cannot say.
    Unauthorized,
    /// It accepted, and ended the subscription without a final status.
    NoOutcome,
    /// It hung up before it had accepted.
    CallEnded,
    /// It accepted, and hung up without a final status.
    AcceptedUnconfirmed,
}

/// What a REFER asks for, in its Refer-To (RFC 3515).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Referral {
    /// Whom to call: a URI without headers.
    pub uri: String,
    /// The headers that stood in the URI, in order, `%HH` undone.
    pub headers: Vec<(String, String)>,
    /// Whether it is an INVITE that is asked for.
    pub invites: bool,
}

impl Referral {
    /// The value of the first header of this name, compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// What a leg tells the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LegEvent {
    /// A customer is at the door.
    Invited(Box<Invitation>),
    /// The far side is at it.
    Progressed {
        /// 180, 183 …
        status: u16,
        /// Whether it can be heard before the answer.
        early_media: bool,
    },
    /// The far side answered, or acknowledged nothing yet but took our answer.
    Answered,
    /// The far side changed its session description.
    Reoffered,
    /// The far side sent an INFO.
    Informed(Info),
    /// Our REFER came on, or to an end.
    TransferProgressed(Transfer),
    /// The far side asked us to call somebody: it waits for `Accept` or `Decline`.
    TransferAsked(Box<Referral>),
    /// Last word: the far side refused our INVITE.
    Refused {
        /// Its status.
        status: u16,
        /// Its Reason header.
        reason: Option<String>,
        /// Its Retry-After.
        retry_after: Option<Duration>,
    },
    /// Last word: somebody hung up.
    HungUp {
        /// Who.
        by: Side,
        /// The Reason header of its BYE or CANCEL.
        reason: Option<String>,
    },
    /// Last word: nothing more is heard of it.
    Lost(LostCause),
}

impl LegEvent {
    /// Whether nothing comes after it.
    pub fn is_last_word(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::HungUp { .. } | Self::Lost(_))
    }
}

/// One end of a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The far side.
    Far,
    /// This program.
    Us,
}

/// How a leg was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostCause {
    /// No answer to our INVITE, or none to our CANCEL.
    NoAnswer,
    /// Our 200 was never acknowledged.
    NoAck,
    /// An answer whose session description cannot be used.
    UnusableAnswer,
    /// The session was not refreshed, or the far side no longer knows it.
    Expired,
}

/// What a request outside a dialog, an INVITE or a REFER, says, as far as the call cares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Invitation {
    /// SIP's Call-ID.
    pub call_id: String,
    /// User part of From, or of the URI that a REFER names.
    pub caller: String,
    /// User part of the Request-URI.
    pub dialled: String,
    /// Whether somebody sent the call on to us: Referred-By (RFC 3892), Diversion (RFC 5806) or History-Info (RFC 7044),
    /// or a REFER.
    pub redirected: bool,
    /// User part of the topmost Diversion: who sent the call on last.
    pub diverted: Option<String>,
    /// Parameters of the Request-URI that have a value, in order, `%HH` undone.
    pub parameters: Vec<(String, String)>,
    /// The local UUID of Session-ID (RFC 7989), 32 hexadecimal digits in lower case.
    pub session_id: Option<String>,
    /// Every header line that is none of SIP's own, in order, `%HH` in its value undone.
    pub headers: Vec<(String, String)>,
    /// User-to-User (RFC 7433), where there is one.
    pub user_to_user: Option<UserToUser>,
}

/// Media counters of one leg's port pair since it was lent. Packets and octets are RTP; octets count UDP payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MediaCounters {
    /// RTP packets accepted from the far side.
    pub received_packets: u64,
    /// Their octets.
    pub received_octets: u64,
    /// RTP packets sent to the far side, our own sounds included.
    pub sent_packets: u64,
    /// Their octets.
    pub sent_octets: u64,
    /// RTCP packets accepted.
    pub received_rtcp: u64,
    /// Packets dropped because their source was not the one expected or learned. Once the announced address has spoken
    /// the kernel refuses strangers before anybody counts them.
    pub foreign_packets: u64,
    /// Packets dropped because they were not RTP or RTCP.
    pub invalid_packets: u64,
    /// How the far side is heard; absent where it said nothing.
    pub inbound: Option<Quality>,
    /// How the far side hears, by its own reports (RTCP); absent where it made none.
    pub outbound: Option<Quality>,
    /// From us to the far side and back, in microseconds, by its reports.
    pub round_trip_us: Option<u64>,
}

/// How one direction of a leg is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Quality {
    /// Packets that never came.
    pub lost_packets: u64,
    /// Interarrival jitter in microseconds (RFC 3550 section 6.4.1), of samples at 8 kHz.
    pub jitter_us: u64,
    /// What people would say of it, were it G.711.
    pub mos: Mos,
}

/// A mean opinion score, in hundredths: 100 to 450. Written as a number, 1 to 4.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mos(pub u16);

impl Serialize for Mos {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(f64::from(self.0) / 100.0)
    }
}

// --- the leg as its holder sees it -------------------------------------------------------------------------------

/// Methods this endpoint serves; the Allow header.
pub const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, OPTIONS, INFO, PRACK, UPDATE, REFER, NOTIFY";
/// Option tags this endpoint understands; the Supported header.
pub const EXTENSIONS: [&str; 4] = ["100rel", "norefersub", "replaces", "timer"];

/// Timers of a leg; one line each says what happens when it fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LegTimer {
    /// Send the provisional response again, so that nobody on the way gives up (RFC 3261 section 13.3.1.1).
    Remind,
    /// Send the 2xx (RFC 3261 section 13.3.1.4) or the reliable provisional response (RFC 3262 section 3) again.
    Repeat,
    /// No ACK, or no PRACK, in 64*T1: hang up.
    NoAck,
    /// Nothing has come back to our INVITE, not even 100: say so.
    Silence,
    /// No answer to a CANCEL in 64*T1: forget the INVITE (RFC 3261 section 9.1).
    CancelLimit,
    /// Half of the session interval: send a refresh (RFC 4028 section 10).
    Refresh,
    /// The refresh met one of theirs: send it again (RFC 3261 section 14.1).
    Retry,
    /// No refresh came: the far side is gone.
    Expire,
    /// A NOTIFY of ours has had its time: hang up without its answer.
    Part,
    /// The subscription of our REFER has run out: nobody says what becomes of it.
    Unsubscribe,
    /// The tombstone has answered long enough.
    Forget,
}

impl LegTimer {
    /// Every timer.
    pub const ALL: [Self; 11] = [
        Self::Remind,
        Self::Repeat,
        Self::NoAck,
        Self::Silence,
        Self::CancelLimit,
        Self::Refresh,
        Self::Retry,
        Self::Expire,
        Self::Part,
        Self::Unsubscribe,
        Self::Forget,
    ];
}

/// What a leg wants done, in order.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are named by their types")]
pub enum Out {
    /// Begin a client transaction.
    Request { key: ClientKey, message: Bytes, to: Hop },
    /// CANCEL the INVITE transaction of this key.
    Cancel(ClientKey),
    /// Let no further INVITE leave from the transaction of this key.
    Quench(ClientKey),
    /// Drop the transaction of this key.
    Abandon(ClientKey),
    /// Answer through a server transaction.
    Respond { key: ServerKey, status: u16, message: Bytes },
    /// Send an ACK for a 2xx.
    Acknowledge { message: Bytes, to: Hop },
    /// Set a timer.
    Start(LegTimer, Duration),
    /// Forget a timer.
    Stop(LegTimer),
    /// The far side's session description changed: the relay must know.
    RemoteChanged,
    /// Nothing at all has come back for the time that the dial allowed.
    Silent,
    /// An INVITE that was given up shows a sign of connection all the same.
    Connected,
    /// Tell the call.
    Event(LegEvent),
    /// The leg owes nothing any more: drop it.
    Gone,
}

/// What a leg needs from its holder at every step.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// Where ids come from.
    pub ids: &'a mut Ids,
    /// Who we are on this network.
    pub endpoint: &'a Endpoint,
    /// T1, T2, T4.
    pub base: Base,
    /// What we ask of sessions.
    pub session: SessionSettings,
    /// How long somebody may ring whom a REFER to us names.
    pub ring_limit: Duration,
    /// What the leg wants done.
    pub out: &'a mut Vec<Out>,
}

/// What the holder adds to a command: what its message says besides, and the other leg's audio to be described.
#[derive(Debug, Clone, Default)]
pub struct Material {
    /// Header lines.
    pub headers: Vec<(String, String)>,
    /// Content-Type and content of a BYE.
    pub body: Option<(&'static str, String)>,
    /// The other leg's audio.
    pub audio: Option<Audio>,
    /// What its far side may be shown when it asks, in the dialog that an answer begins, who we are.
    pub keyring: Option<Box<Keyring>>,
}

/// One leg.
#[derive(Debug)]
pub struct Leg {
    phase: Phase,
    negotiation: Negotiation,
}

#[derive(Debug)]
enum Phase {
    Invited(Uas),
    Calling(Uac),
    Established(Established),
    /// Only inside a step.
    Moving,
}

/// How a leg stands to an INVITE that asks for its place (RFC 3891 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its dialog is another one.
    Other,
    /// Its far side called and is not answered yet: only the far side can redirect that.
    Calling,
    /// It is up, or we called and were not answered yet.
    Open {
        /// Whether it has been answered.
        confirmed: bool,
    },
    /// It is ending or has ended.
    Over,
}

/// A refusal of an INVITE before there is a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: u16,
    /// The Min-SE of a 422.
    pub least_interval: Option<u32>,
}

impl Refusal {
    /// With this status and nothing to add.
    pub fn new(status: u16) -> Self {
        Self { status, least_interval: None }
    }

    fn too_short(least: u32) -> Self {
        Self { status: 422, least_interval: Some(least) }
    }

    /// The response, with what the caller needs to do better.
    pub fn response(self, invite: &Message, tag: &str, endpoint: &Endpoint) -> Bytes {
        let mut writer = Writer::response(invite, self.status, Some(tag));
        if let Some(least) = self.least_interval {
            writer.header(HeaderName::MinSe, &least.to_string());
        }
        match self.status {
            406 => {
                let warning = format!("399 {} \"an INVITE must accept application/sdp\"", endpoint.address);
                writer.header(HeaderName::Warning, &warning);
            }
            415 => {
                writer.header(HeaderName::Accept, "application/sdp");
            }
            _ => {}
        }
        writer.header(HeaderName::Server, &endpoint.product).finish()
    }
}

impl Leg {
    /// A leg for an INVITE outside a dialog. Rings nobody yet: 100 goes out, the call is told.
    pub fn invited(
        invite: &Message,
        key: ServerKey,
        source: Hop,
        negotiation: Negotiation,
        s: &mut Surroundings<'_>,
    ) -> Result<(Self, String), Refusal> {
        let uas = Uas::begin(invite, key, source, s)?;
        let tag = uas.local_tag().to_owned();
        Ok((Self { phase: Phase::Invited(uas), negotiation }, tag))
    }

    /// A leg that we dial. Returns it with its local tag.
    pub fn dial(
        dial: &uac::Dial<'_>,
        mut negotiation: Negotiation,
        material: &Material,
        s: &mut Surroundings<'_>,
    ) -> Option<(Self, String)> {
        let body = negotiation.offer(material.audio.as_ref(), s.ids);
        let (uac, tag) = Uac::begin(dial, &body, material, s)?;
        Some((Self { phase: Phase::Calling(uac), negotiation }, tag))
    }

    /// The far side's audio as last described.
    pub fn remote(&self) -> Option<&Audio> {
        self.negotiation.remote()
    }

    /// The payload types of telephone events: by which the far side hears them, and by which we have asked for them.
    pub fn telephone_events(&self) -> Option<(u8, u8)> {
        self.negotiation.telephone_events()
    }

    /// What its media is protected with; `None` for plain RTP.
    pub fn keys(&self) -> Option<&Keys> {
        self.negotiation.keys()
    }

    /// The far side's audio, to be described to the other leg.
    pub fn audio_for_other(&self) -> Option<Audio> {
        self.negotiation.for_other()
    }

    /// The Call-ID of its dialog.
    pub fn call_id(&self) -> Option<&str> {
        match &self.phase {
            Phase::Invited(uas) => Some(&uas.dialog().call_id),
            Phase::Calling(uac) => uac.call_id(),
            Phase::Established(established) => Some(established.call_id()),
            Phase::Moving => None,
        }
    }

    /// How this leg stands to an INVITE that asks for its place.
    pub fn standing(&self, replaces: &Replaces) -> Standing {
        match &self.phase {
            Phase::Invited(uas) if uas.dialog().is_meant_by(replaces) => Standing::Calling,
            Phase::Calling(uac) if uac.has_early(replaces) => Standing::Open { confirmed: false },
            Phase::Established(established) => established.standing(replaces),
            Phase::Invited(_) | Phase::Calling(_) | Phase::Moving => Standing::Other,
        }
    }

    /// What an INVITE needs to take our place in an answered dialog: the far side's Contact URI, and the dialog as the
    /// far side sees it (RFC 3891 section 3). `None` unless that dialog stands.
    pub fn place(&self) -> Option<(String, Replaces)> {
        match &self.phase {
            Phase::Established(established) => established.place(),
            Phase::Invited(_) | Phase::Calling(_) | Phase::Moving => None,
        }
    }

    /// The call commands.
    pub fn command(&mut self, command: LegCommand, material: &Material, s: &mut Surroundings<'_>) {
        let negotiation = &mut self.negotiation;
        let moved = std::mem::replace(&mut self.phase, Phase::Moving);
        self.phase = match moved {
            Phase::Invited(uas) => uas.command(command, material, negotiation, s),
            Phase::Calling(uac) => uac.command(command, s),
            Phase::Established(mut established) => {
                established.command(command, material, s);
                Phase::Established(established)
            }
            Phase::Moving => Phase::Moving,
        };
    }

    /// A request inside this leg's dialog, ACK included (which has no key to answer by).
    pub fn request(&mut self, request: &Message, key: Option<ServerKey>, s: &mut Surroundings<'_>) {
        let moved = std::mem::replace(&mut self.phase, Phase::Moving);
        self.phase = match (moved, key) {
            (Phase::Invited(uas), Some(key)) => uas.request(request, key, &mut self.negotiation, s),
            (Phase::Calling(uac), Some(key)) => uac.request(request, key, &mut self.negotiation, s),
            (Phase::Established(mut established), key) => {
                match key {
                    Some(key) => established.request(request, key, &mut self.negotiation, s),
                    None => established.ack(request, &mut self.negotiation, s),
                }
                Phase::Established(established)
            }
            (same, None) => same,
            (Phase::Moving, Some(_)) => Phase::Moving,
        };
    }

    /// A CANCEL for this leg's INVITE; it is already answered with 200.
    pub fn cancelled(&mut self, cancel: &Message, s: &mut Surroundings<'_>) {
        let moved = std::mem::replace(&mut self.phase, Phase::Moving);
        self.phase = match moved {
            Phase::Invited(uas) => uas.cancelled(cancel, s),
            answered => answered, // Too late: the INVITE stays answered (flow R1).
        };
    }

    /// A response to one of this leg's requests.
    pub fn response(&mut self, response: &Message, source: Hop, s: &mut Surroundings<'_>) {
        let moved = std::mem::replace(&mut self.phase, Phase::Moving);
        self.phase = match moved {
            Phase::Calling(uac) => uac.response(response, source, &mut self.negotiation, s),
            Phase::Established(mut established) => {
                established.response(response, source, &mut self.negotiation, s);
                Phase::Established(established)
            }
            other => other,
        };
    }

    /// A transaction of this leg got no answer at all.
    pub fn timed_out(&mut self, key: &ClientKey, s: &mut Surroundings<'_>) {
        let moved = std::mem::replace(&mut self.phase, Phase::Moving);
        self.phase = match moved {
            Phase::Calling(uac) if *key.method() == Method::Invite => uac.lost(s),
            Phase::Established(mut established) => {
                established.timed_out(key, s);
                Phase::Established(established)
            }
            other => other,
        };
    }

    /// A timer of this leg fired.
    pub fn timer(&mut self, timer: LegTimer, s: &mut Surroundings<'_>) {
        let moved = std::mem::replace(&mut self.phase, Phase::Moving);
        self.phase = match moved {
            Phase::Invited(uas) => uas.timer(timer, s),
            Phase::Calling(uac) if timer == LegTimer::CancelLimit => uac.lost(s),
            Phase::Calling(uac) if timer == LegTimer::Silence => uac.silent(s),
            Phase::Established(mut established) => {
                established.timer(timer, &self.negotiation, s);
                Phase::Established(established)
            }
            other => other,
        };
    }
}

/// The answer to a request outside a dialog that creates none: what we are, or that we are not that. While we take no
/// calls, `retry_after` says after how many seconds to ask again.
pub fn outside_dialog(request: &Message, retry_after: Option<u32>, tag: &str, product: &str) -> (u16, Bytes) {
    let status = match request.method() {
        Some(Method::Options) if retry_after.is_none() => 200,
        Some(Method::Options) => 503,
        Some(Method::Bye | Method::Cancel | Method::Info | Method::Notify) => 481,
        Some(Method::Other(_)) | None => 501,
        Some(_) => 405,
    };
    let mut writer = Writer::response(request, status, Some(tag));
    if matches!(status, 200 | 405 | 501) {
        writer.header(HeaderName::Allow, ALLOW).header(HeaderName::Accept, "application/sdp");
    }
    if let Some(seconds) = retry_after.filter(|_| status == 503) {
        writer.header(HeaderName::RetryAfter, &seconds.to_string());
    }
    (status, writer.header(HeaderName::Server, product).finish())
}

/// The answer to a request inside a dialog that no leg cares to act on.
fn sensible_answer(request: &Message) -> u16 {
    match request.method() {
        Some(Method::Options) => 200,
        Some(Method::Refer) => 603,
        Some(Method::Notify) => 481,
        Some(Method::Other(_)) | None => 501,
        Some(_) => 405,
    }
}

/// An UPDATE (RFC 3311), or a PRACK with an offer in it: answered at once; there is no ACK. False when refused.
fn update(
    request: &Message,
    key: ServerKey,
    dialog: &mut Dialog,
    negotiation: &mut Negotiation,
    timer: Option<SessionTimer>,
    s: &mut Surroundings<'_>,
) -> bool {
    let offered = !request.body().is_empty();
    let body = if offered { negotiation.reoffer(request, s.ids) } else { None };
    if offered && body.is_none() {
        respond(request, key, 488, s);
        return false;
    }
    dialog.refresh_target(request);
    let mut writer = Writer::response(request, 200, None);
    writer.header(HeaderName::Contact, &dialog.contact(s.endpoint)).header(HeaderName::Allow, ALLOW);
    if let Some(timer) = timer {
        timer.write(&mut writer);
    }
    let message = match &body {
        Some((body, _)) => writer.finish_with("application/sdp", body.as_bytes()),
        None => writer.finish(),
    };
    s.out.push(Out::Respond { key, status: 200, message });
    if offered {
        s.out.push(Out::RemoteChanged);
        s.out.push(Out::Event(LegEvent::Reoffered));
    }
    true
}

fn respond(request: &Message, key: ServerKey, status: u16, s: &mut Surroundings<'_>) {
    let mut writer = Writer::response(request, status, None);
    if matches!(status, 200 | 405 | 501) && !request.is(&Method::Bye) {
        writer.header(HeaderName::Allow, ALLOW);
    }
    if status == 500 {
        writer.header(HeaderName::RetryAfter, "1");
    }
    if status == 489 {
        writer.header(HeaderName::AllowEvents, "refer");
    }
    let message = writer.header(HeaderName::Server, &s.endpoint.product).finish();
    s.out.push(Out::Respond { key, status, message });
}

/// The Reason header of a request, made printable and short.
fn reason_of(message: &Message) -> Option<String> {
    let text = message.headers(HeaderName::Reason).collect::<Vec<_>>().join(", ");
    let clean: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    (!clean.is_empty()).then_some(clean)
}

fn write_headers(writer: &mut Writer, headers: &[(String, String)]) {
    for (name, value) in headers {
        writer.header_named(name, value);
    }
}
