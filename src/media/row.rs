//! Everything about one port pair, laid out for the packets that pass: plain data.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::beep::Beep;
use super::digits::{EVENT, Presses, Said, Saying};
use super::latch::{Latch, Stale};
use super::quality::Ear;
use super::relay::Slot;
use super::report::{Moment, Sending};
use super::sounds::Sounds;
use super::stream::{HEADER, Outgoing, PAYLOAD_TYPE, Position};
use super::tape::{Frame, Track};
use crate::b2bua::io::{EventTypes, Law, MediaEvent, PortPair, Sound};
use crate::call::CallRef;
use crate::leg::MediaCounters;

/// Where a pair is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// In the pool.
    Idle,
    /// A leg's.
    Lent,
    /// Closed, waiting for silence of its far side's hosts. `heard` is when something last arrived from there.
    Draining { far: [Option<IpAddr>; 2], closed: Instant, heard: Instant },
}

/// What a far side is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Feed {
    Nothing,
    /// What this row receives; the same holds the other way round.
    Row(usize),
    Sound(Box<Playing>),
}

/// A sound, and how far it has been sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Playing {
    pub sound: Sound,
    pub law: Law,
    pub frame: usize,
}

impl Playing {
    /// Whether it is heard once and over.
    pub fn is_over(&self, sounds: &Sounds) -> bool {
        self.sound == Sound::Announcement && self.frame >= sounds.frames(self.sound)
    }
}

/// One direction of one socket.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Side {
    /// Whose packets are accepted without a second look.
    pub source: Option<SocketAddr>,
    /// Where packets to the far side go.
    pub target: Option<SocketAddr>,
}

impl Side {
    /// A description announced this address in place of another; `None` one that may not be sent to.
    pub fn expect(&mut self, announced: Option<SocketAddr>, before: Option<SocketAddr>) {
        self.source = None;
        if announced != before {
            self.target = announced;
        }
    }

    pub fn accept(&mut self, source: SocketAddr) {
        self.source = Some(source);
        self.target = Some(source);
    }
}

#[derive(Debug)]
pub(super) struct Watch {
    pub limit: Duration,
    pub since: Instant,
    pub silent: bool,
}

/// A row whose far side is recorded: what it says and hears is taken.
#[derive(Debug)]
pub(super) struct Recording {
    pub call: CallRef,
    /// Counts the frames taken.
    pub taken: u32,
    /// The tones towards it, and towards whoever hears it.
    pub beeps: Option<[Beep; 2]>,
}

impl Recording {
    pub fn frame(&mut self, track: Track, packet: &[u8], now: Instant) -> Option<Frame> {
        let frame = Frame::of(self.call, track, self.taken, packet, now)?;
        self.taken = self.taken.wrapping_add(1);
        Some(frame)
    }
}

/// A thread has thousands of these, and every packet meets two. They are five cache lines: one for both ways, the
/// addresses, one for what comes (`ear` to `rest`), two for what goes; all else is behind pointers that no packet follows.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Row {
    pub feed: Feed,
    pub recording: Option<Box<Recording>>,
    /// What the far side hears instead of what another row feeds it.
    pub cover: Option<Box<Playing>>,
    /// Keys that the far side hears in place of what it is fed.
    pub saying: Option<Box<Saying>>,
    /// Which packets are telephone events.
    pub events: Option<EventTypes>,
    /// The only G.711 law that the far side hears.
    pub law: Option<Law>,
    /// The far side does not listen.
    pub held: bool,
    /// When RTP was last accepted. Reports are no sign of life: a far side may send them and no sound (flow M7).
    pub heard: Option<Instant>,
    pub rtp: Side,
    pub ear: Ear,
    pub received_octets: u64,
    pub rest: Box<Rest>,
    pub sent_packets: u64,
    pub sent_octets: u64,
    pub outgoing: Outgoing,
}

const _: () = assert!(size_of::<Row>() <= 5 * 64, "a packet looks at more than five cache lines");

/// What few packets look at.
#[derive(Debug)]
pub(super) struct Rest {
    pub pair: PortPair,
    pub life: Life,
    /// What the session description said of RTP,
    pub announced: Option<SocketAddr>,
    /// and of RTCP.
    pub rtcp_announced: Option<SocketAddr>,
    pub rtcp: Side,
    pub latch: Latch,
    pub stale: Stale,
    pub presses: Presses,
    /// Whether its far side has been told of a key.
    pub told_keys: bool,
    pub watch: Option<Watch>,
    /// When the counters are told again.
    pub count_due: Option<Instant>,
    pub received_rtcp: u64,
    pub foreign_packets: u64,
    pub invalid_packets: u64,
    /// Our canonical name in reports (RFC 7022): a new one for each lend.
    pub name: u128,
}

impl Row {
    pub fn new(pair: PortPair) -> Self {
        let rest = Rest {
            pair,
            life: Life::Idle,
            announced: None,
            rtcp_announced: None,
            rtcp: Side::default(),
            latch: Latch::Shut,
            stale: Stale::default(),
            presses: Presses::default(),
            told_keys: false,
            watch: None,
            count_due: None,
            received_rtcp: 0,
            foreign_packets: 0,
            invalid_packets: 0,
            name: rand::random(),
        };
        Self {
            feed: Feed::Nothing,
            recording: None,
            cover: None,
            saying: None,
            events: None,
            law: None,
            held: false,
            heard: None,
            rtp: Side::default(),
            ear: Ear::default(),
            received_octets: 0,
            rest: Box::new(rest),
            sent_packets: 0,
            sent_octets: 0,
            outgoing: Outgoing::default(),
        }
    }

    /// What has been counted, and how it sounds.
    pub fn counters(&self) -> MediaCounters {
        self.ear.judge(MediaCounters {
            received_octets: self.received_octets,
            sent_packets: self.sent_packets,
            sent_octets: self.sent_octets,
            received_rtcp: self.rest.received_rtcp,
            foreign_packets: self.rest.foreign_packets,
            invalid_packets: self.rest.invalid_packets,
            ..MediaCounters::default()
        })
    }

    /// The way of RTCP to its far side: beside the RTP, or with it where one port was agreed on (RFC 5761).
    pub fn rtcp_way(&self, index: usize) -> Option<(Slot, SocketAddr)> {
        let muxed = self.rest.announced.is_some() && self.rest.rtcp_announced == self.rest.announced;
        let (slot, side) = if muxed { (Slot::rtp(index), &self.rtp) } else { (Slot::rtcp(index), &self.rest.rtcp) };
        side.target.map(|target| (slot, target))
    }

    /// What a sender report to its far side says: the stream as it was sent, whatever its sources.
    pub fn sending(&self, moment: Moment) -> Sending {
        let octets = self.sent_octets.saturating_sub(HEADER as u64 * self.sent_packets);
        Sending { moment, packets: self.sent_packets as u32, octets: octets as u32 }
    }

    /// Whether its far side is sent what another row feeds it.
    pub fn hears_peer(&self) -> bool {
        !self.held && self.cover.is_none() && self.saying.as_ref().is_none_or(|saying| saying.waits())
    }

    /// Writes the next packet of a key of ours: its event has one timestamp, while the stream's goes on. False in the pause
    /// after it.
    pub fn say(&mut self, packet: &mut [u8], due: Instant) -> bool {
        let (Some(mut saying), Some(types)) = (self.saying.take(), self.events) else { return false };
        let said = saying.frame();
        if let Said::Packet(begun, payload) = said {
            self.outgoing.originate(packet, types.hears, begun.is_none(), due);
            match begun {
                Some(timestamp) => packet[4..8].copy_from_slice(&timestamp.to_be_bytes()),
                None => saying.begun(Position::read(packet).timestamp),
            }
            packet[HEADER..HEADER + EVENT].copy_from_slice(&payload);
        }
        self.saying = Some(saying).filter(|saying| !saying.is_over());
        said != Said::Pause
    }

    /// This source is the far side's RTP from now on; RTCP learned from another host is forgotten.
    pub fn accept(&mut self, source: SocketAddr) {
        self.rtp.accept(source);
        let rest = &mut *self.rest;
        if rest.rtcp.source.is_some_and(|rtcp| rtcp.ip() != source.ip()) {
            rest.rtcp = Side { source: None, target: rest.rtcp_announced };
        }
    }

    /// Whether this packet of its far side is one of a telephone event.
    pub fn sends_event(&self, packet: &[u8]) -> bool {
        let number = packet[1] & PAYLOAD_TYPE;
        self.events.is_some_and(|types| number == types.hears || number == types.told)
    }

    /// Gives a telephone event of another row the number by which this far side hears it; false when it hears none.
    /// Its stream has no gap where the event was.
    pub fn takes_event(&mut self, packet: &mut [u8]) -> bool {
        match self.events {
            Some(types) => packet[1] = packet[1] & !PAYLOAD_TYPE | types.hears,
            None => self.outgoing.leave_out(packet),
        }
        self.events.is_some()
    }

    /// The announced address always; until its source is known, any port of the host whose RTP is accepted.
    pub fn accepts_rtcp(&mut self, source: SocketAddr) -> bool {
        let rest = &mut *self.rest;
        if rest.rtcp.source == Some(source) {
            return true;
        }
        let announced = rest.rtcp_announced == Some(source);
        let beside = || self.rtp.source.is_some_and(|rtp| rtp.ip() == source.ip()) && !rest.stale.contains(source);
        let accepted = announced || (rest.rtcp.source.is_none() && beside());
        if accepted {
            rest.rtcp.accept(source);
        }
        accepted
    }

    /// A packet from somebody we do not listen to.
    pub fn foreign(&mut self, source: SocketAddr, now: Instant) {
        let Rest { life, stale, foreign_packets, .. } = &mut *self.rest;
        match life {
            Life::Lent => *foreign_packets += 1,
            Life::Draining { far, heard, .. } => {
                // A stranger who sends to all ports keeps none from its next call; but he is not learned there.
                if far.contains(&Some(source.ip())) {
                    *heard = now;
                    stale.note(source, now);
                } else {
                    stale.note_stranger(source, now);
                }
            }
            Life::Idle if stale.contains(source) => stale.note(source, now),
            Life::Idle => {}
        }
    }

    /// Silence, or sound again.
    pub fn look(&mut self, now: Instant) -> Option<MediaEvent> {
        let Rest { watch, pair, .. } = &mut *self.rest;
        let watch = watch.as_mut()?;
        let last = self.heard.map_or(watch.since, |heard| heard.max(watch.since));
        let silent = now >= last + watch.limit;
        let changed = silent != watch.silent;
        watch.silent = silent;
        changed.then_some(if silent { MediaEvent::Silent(*pair) } else { MediaEvent::Resumed(*pair) })
    }
}
