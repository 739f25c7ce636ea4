//! The boundary between the pure core and the world: one enum in, one enum out.
//!
//! The driver feeds [`Input`]s and drains [`Output`]s. Adapters know these types and nothing else of the core.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

pub use super::memory::{Change, Erasure, Kept, Remembered};
pub use super::places::Look;
pub use crate::call::asapp::{
    ApiFailure, CreateTransfer, FailureClass, OutputContext, SipReturn, Transfer, TransferKind, TransferStatus,
};
pub use crate::call::context::PublishedContext;
pub use crate::call::escape::Digit;
pub use crate::call::event::Sound;
pub use crate::call::intake::LaidDown;
use crate::call::record::CallRecord;
pub use crate::call::record::{Epoch, Recorded, TapeEnd};
pub use crate::call::webhook::{Advice, Inquiry};
use crate::call::{CallRef, ConversationId, TransferId};
use crate::leg::MediaCounters;
pub use crate::leg::keys::Keys;
pub use crate::sdp::Family;
pub use crate::sdp::crypto::{Key, Suite};
use crate::sip::hop::Hop;
pub use crate::sip::hop::Transport;
pub use crate::sip::locate::{Naptr, Question, Records, Srv};

/// Something the world tells the core.
#[derive(Debug, Clone)]
pub enum Input {
    /// A datagram, or one framed message of a stream, arrived.
    Received(Datagram),
    /// The instant promised by `next_timeout` has come.
    TimeReached,
    /// ASAPP's API answered, or did not.
    Asapp(ApiReply),
    /// A webhook answered, or did not.
    Advised(Advice),
    /// The relay noticed something.
    Media(MediaEvent),
    /// A connection broke, or could not be made: requests on their way over it will not be answered.
    TransportFailed {
        /// Of which transport.
        transport: Transport,
        /// Its far address.
        peer: SocketAddr,
    },
    /// The DNS answered, or did not.
    Looked(Look),
    /// A person or a supervisor asks.
    Operator(OperatorCommand),
}

/// Something the core asks of the world.
#[derive(Debug)]
pub enum Output {
    /// Send this message.
    Transmit(Datagram),
    /// Ask ASAPP's API; exactly one [`ApiReply`] comes back.
    Asapp(ApiRequest),
    /// Ask a webhook; exactly one [`Advice`] comes back.
    Consult(Box<Inquiry>),
    /// Tell the relay.
    Media(MediaCommand),
    /// Ask the DNS; exactly one [`Look`] comes back.
    Look(Question),
    /// This address stands for this SIP domain: over TLS it must show a certificate for the domain.
    Named(IpAddr, String),
    /// Keep this context for whoever fetches it by reference.
    Publish(Box<PublishedContext>),
    /// Write this down of a conversation.
    Remember(Change),
    /// A call is over: write its one record.
    Record(Box<CallRecord>),
    /// The drain is complete: no call and no debt is left.
    Closed,
}

/// One SIP message on its way in or out; `peer` is its source or its destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// How it travels.
    pub transport: Transport,
    /// The far address; on a stream it names the connection.
    pub peer: SocketAddr,
    /// On the way out over a stream: where to open a connection when there is none with `peer`, if not to `peer`.
    pub otherwise: Option<SocketAddr>,
    /// The octets.
    pub bytes: Bytes,
}

impl Datagram {
    /// Octets on their way to a hop.
    pub fn to(hop: Hop, bytes: Bytes) -> Self {
        Self { transport: hop.transport, peer: hop.peer, otherwise: hop.otherwise, bytes }
    }
}

// --- ASAPP -----------------------------------------------------------------------------------------------------

/// One HTTP exchange with ASAPP. The adapter makes it once, within `timeout`, and answers with one [`ApiReply`];
/// whether to try again is the call's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiRequest {
    /// The call that asks.
    pub call: CallRef,
    /// The call transfer it is about.
    pub transfer: TransferId,
    /// What to do.
    pub operation: ApiOperation,
    /// The whole exchange, connecting and reading the body included, ends within this time.
    pub timeout: Duration,
}

/// The two operations of the API that are ours to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiOperation {
    /// `POST /generativeagent/v1/call-transfers`, type `PHONE_NUMBER`.
    Create(Box<CreateTransfer>),
    /// `GET /generativeagent/v1/call-transfers/{id}`.
    Fetch,
}

/// The answer to one [`ApiRequest`].
#[derive(Debug, Clone)]
pub struct ApiReply {
    /// The call that asked.
    pub call: CallRef,
    /// The call transfer it asked about.
    pub transfer: TransferId,
    /// True for the answer to a create, false for the answer to a fetch.
    pub created: bool,
    /// What came of it.
    pub answer: Result<Transfer, ApiFailure>,
}

// --- media -----------------------------------------------------------------------------------------------------

/// Port pairs that a call takes of one relay thread: the customer's leg, GenerativeAgent's, and the way back.
pub const PAIRS_A_CALL: usize = 3;

/// A lent pair of local ports: RTP on `port` (even), RTCP on `port + 1`, both on our address of this family. Pairs of
/// one `worker` share a relay thread; only those can be bridged, whatever their families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PortPair {
    /// The relay thread that owns the pair.
    pub worker: u16,
    /// The IP family of its sockets.
    pub family: Family,
    /// The RTP port.
    pub port: u16,
}

/// What the relay is told. Commands to one pair take effect in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaCommand {
    /// A session description named this far side: send there, expect it, and open the window in which another
    /// source may be learned (design section 7). Given again after every new description.
    Expect {
        /// The pair.
        pair: PortPair,
        /// Where RTP goes and should come from.
        rtp: SocketAddr,
        /// Where RTCP goes and should come from.
        rtcp: SocketAddr,
        /// The host its signalling comes from.
        signalled: Option<IpAddr>,
    },
    /// Packets of this pair are protected from now on (RFC 3711), or are plain RTP again. What does not authenticate is
    /// neither learned nor relayed. A key that stays goes on counting; packets under the one before are still read.
    Secure {
        /// The pair.
        pair: PortPair,
        /// The keys; `None` for plain RTP.
        keys: Option<Keys>,
    },
    /// Relay everything between the two pairs, both ways, unmodified within one source. Ends any `Play` on either.
    Bridge(PortPair, PortPair),
    /// Stop relaying to and from this pair and send this sound to its far side until told otherwise. An announcement is
    /// sent once; then `Played` is reported and nothing sent. A sound that goes on does not begin again.
    Play {
        /// The pair.
        pair: PortPair,
        /// What is heard.
        sound: Sound,
        /// In which G.711 law, by its static payload type.
        law: Law,
    },
    /// In place of what is relayed to this pair its far side hears a sound; `None`: what is relayed again. What it says
    /// is relayed all the same, and so is RTCP.
    Cover {
        /// The pair.
        pair: PortPair,
        /// What is heard, and in which law.
        sound: Option<(Sound, Law)>,
    },
    /// The far side does not listen (a hold, RFC 3264 section 5.1), or does again: while it does not, it is sent no
    /// RTP. RTCP goes on.
    Hold {
        /// The pair.
        pair: PortPair,
        /// True: it does not listen.
        held: bool,
    },
    /// By which payload types this far side and we send each other telephone events (RFC 4733); `None`: by none. What
    /// the peer of its pair sends goes out under the number of this side. Where this side has none, it is not sent at
    /// all: it is told by INFO.
    Events {
        /// The pair.
        pair: PortPair,
        /// The payload types.
        types: Option<EventTypes>,
    },
    /// This far side hears a key as a telephone event in place of what it is sent meanwhile. Several follow each other.
    Press {
        /// The pair.
        pair: PortPair,
        /// The key.
        digit: Digit,
        /// How long it is down.
        lasts: Duration,
    },
    /// The only G.711 law that this far side hears, if it is one: what its peer sends in the other one is turned into it.
    /// `None`: it hears both, or neither; nothing is turned.
    Law {
        /// The pair.
        pair: PortPair,
        /// The law.
        law: Option<Law>,
    },
    /// Report `Silent` when nothing has arrived for this long; `None` suspends the watch (hold, early media).
    Watch {
        /// The pair.
        pair: PortPair,
        /// How long nothing may arrive.
        limit: Option<Duration>,
    },
    /// What this far side says and hears goes into the recording of this call from now on. One that was paused goes on.
    Record {
        /// The pair.
        pair: PortPair,
        /// The call.
        call: CallRef,
    },
    /// Nothing of this far side is recorded any more; the recording waits.
    Pause {
        /// The pair.
        pair: PortPair,
        /// The call.
        call: CallRef,
    },
    /// The recording of this call is over: `Recorded` follows.
    EndRecording {
        /// The relay thread of the call's pairs.
        worker: u16,
        /// Whose it is.
        call: CallRef,
    },
    /// The leg is over: stop, report `Closed`, forget the far side, drain until quiet, report `Quiet`.
    Close(PortPair),
}

/// The payload types of telephone events on one leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventTypes {
    /// By which the far side hears them.
    pub hears: u8,
    /// By which we have asked for them. The far side may send by either, as it reads RFC 3264 section 5.1.
    pub told: u8,
}

/// The two G.711 laws (RFC 3551).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Law {
    /// PCMU, payload type 0.
    Mu,
    /// PCMA, payload type 8.
    A,
}

/// What the relay reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaEvent {
    /// The first RTP packet from an accepted source since the last `Expect` of a fresh lend.
    Started(PortPair),
    /// Nothing arrived for the watched time. Reported once until `Resumed`.
    Silent(PortPair),
    /// A packet arrived after `Silent`.
    Resumed(PortPair),
    /// The announcement has been sent to its end.
    Played(PortPair),
    /// The counters of a pair in use, every few seconds.
    Counted(PortPair, MediaCounters),
    /// The far side pressed a key: a telephone event has begun. Once for each press.
    Digit(PortPair, Digit),
    /// The pair is closed; these are its final counters.
    Closed(PortPair, MediaCounters),
    /// The recording of this call is closed.
    Recorded(CallRef, Recorded),
    /// Nothing has arrived on the closed pair for the quarantine time: it may be lent again.
    Quiet(PortPair),
}

// --- operators -------------------------------------------------------------------------------------------------

/// What a person or a supervisor asks of the core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorCommand {
    /// Take no new calls; `Output::Closed` when the last one is over.
    Drain,
    /// End every call now, with a Reason, and write its record.
    Stop,
    /// Take this call's customer back from GenerativeAgent and hand it back by the rules.
    PullBack(CallRef),
    /// End every leg of this call; nothing is handed back.
    HangUp(CallRef),
    /// Record this call from now on, or no longer.
    Record(CallRef, bool),
}

/// A live call in one line, for the admin API.
#[derive(Debug, Clone, Serialize)]
pub struct LiveCall {
    /// The call.
    pub call: CallRef,
    /// The name of its state.
    pub state: &'static str,
    /// The conversation.
    pub conversation: ConversationId,
    /// SIP's Call-ID of the customer leg.
    pub customer_call_id: String,
    /// Seconds since the INVITE.
    pub age_seconds: u64,
    /// Whether it is being recorded.
    pub recorded: bool,
    /// Media counters of the customer leg, a few seconds old at most; absent while there are none.
    pub customer_media: Option<MediaCounters>,
    /// Those of the GenerativeAgent leg.
    pub genagent_media: Option<MediaCounters>,
    /// Those of the onward leg.
    pub onward_media: Option<MediaCounters>,
}
