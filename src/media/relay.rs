//! What the relay does with a packet, as plain data: one row a port pair, and [`Table::step`], which is pure.
//!
//! A packet's fate follows from its slot's row alone: the source it must come from, the row it goes to, the constants
//! added to its header, the counters. Nothing here reads a clock, locks, allocates per packet or touches a socket.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rtp_rs::RtpReader;

use super::beep::Beep;
use super::digits::EVENT;
use super::latch::{Heard, Mark};
use super::laws::Laws;
use super::report::{self, Block, Moment, REPORT, Word};
use super::row::{Feed, Life, Playing, Recording, Row, Watch};
use super::sounds::Sounds;
use super::stream::{HEADER, Position, is_rtcp};
use super::tape::{Frame, Track};
use super::tones::{self, FRAME};
use crate::b2bua::io::{Digit, EventTypes, Law, MediaEvent, PortPair, Sound};
use crate::call::CallRef;

/// Between two reports of a row's counters.
const COUNT: Duration = Duration::from_secs(5);

/// A socket of the table: RTP of row `n` is `2n`, its RTCP `2n + 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub usize);

impl Slot {
    /// The RTP socket of a row.
    pub fn rtp(row: usize) -> Self {
        Self(2 * row)
    }

    /// The RTCP socket of a row.
    pub fn rtcp(row: usize) -> Self {
        Self(2 * row + 1)
    }

    /// Its row.
    pub fn row(self) -> usize {
        self.0 / 2
    }

    /// 0 for RTP, 1 for RTCP.
    pub fn side(self) -> usize {
        self.0 % 2
    }

    fn is_rtp(self) -> bool {
        self.side() == 0
    }
}

/// What to do with the packet just judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Drop,
    /// Send it from this socket to this address.
    Forward(Slot, SocketAddr),
    /// Send the report just written (`Table::report`), of this length, from this socket to this address.
    Report(Slot, SocketAddr, usize),
}

/// What a packet changed beyond its own fate; rare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The first RTP packet of a lend was accepted.
    Started(PortPair),
    /// The announced address has spoken: the RTP socket may be connected to it.
    Settled(Slot, SocketAddr),
    /// The pair's announcement is over.
    Played(PortPair),
    /// The far side pressed a key.
    Pressed(PortPair, Digit),
}

/// The times the table goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How long after a source was learned a nearer one may replace it.
    pub learn_window: Duration,
    /// A closed pair is quiet when nothing has arrived for this long,
    pub quarantine: Duration,
    /// and after this long even though somebody goes on sending to it.
    pub quarantine_limit: Duration,
}

/// The rows of one worker.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Row>,
    /// What the times of packets are counted from.
    began: Instant,
    terms: Terms,
    sounds: Arc<Sounds>,
    laws: Laws,
    /// What the packets since the last look changed.
    pub notices: Vec<Notice>,
    /// What has been taken for recordings since the last look.
    pub frames: Vec<Frame>,
    /// The report written last.
    pub report: [u8; REPORT],
}

impl Table {
    /// One idle row for each pair, in this order; no packet comes before `began`.
    pub fn new(pairs: &[PortPair], terms: Terms, sounds: Arc<Sounds>, began: Instant) -> Self {
        let rows = pairs.iter().map(|&pair| Row::new(pair)).collect();
        let (laws, notices, frames) = (Laws::default(), Vec::new(), Vec::new());
        Self { rows, began, terms, sounds, laws, notices, frames, report: [0; REPORT] }
    }

    /// Judges one packet, edits it in place, and says where it goes. No `source` is the accepted one, which nobody needs to
    /// look up: the kernel lets no other in. `now` may be as old as the batch it came in.
    pub fn step(&mut self, slot: Slot, source: impl Into<Option<SocketAddr>>, packet: &mut [u8], now: Instant) -> Step {
        let (index, source) = (slot.row(), source.into());
        if !slot.is_rtp() || is_rtcp(packet) {
            let source = source.or(self.rows[index].rtp.source); // on its own port, or multiplexed (RFC 5761)
            return source.map_or(Step::Drop, |source| self.report(slot, source, packet, now));
        }
        let row = &mut self.rows[index];
        if let Some(source) = source.filter(|source| row.rtp.source != Some(*source)) {
            if !self.introduce(index, source, packet, now) {
                return Step::Drop;
            }
        } else if RtpReader::new(packet).is_err() {
            row.rest.invalid_packets += 1;
            return Step::Drop;
        }
        let row = &mut self.rows[index];
        row.received_octets += packet.len() as u64;
        row.heard = Some(now);
        row.ear.hear(Position::read(packet), now.saturating_duration_since(self.began));
        let is_event = row.sends_event(packet);
        if is_event && let Some(digit) = row.rest.presses.hear(packet, now) {
            self.notices.push(Notice::Pressed(row.rest.pair, digit));
        }
        let recorded = row.recording.is_some() && !is_event;
        if recorded {
            self.record(index, Track::Said, packet, now);
        }

        let Feed::Row(peer) = self.rows[index].feed else { return Step::Drop };
        if is_event && self.is_told(index, peer, packet) {
            return Step::Drop;
        }
        let peer_row = &mut self.rows[peer];
        let Some(target) = peer_row.rtp.target.filter(|_| peer_row.hears_peer()) else { return Step::Drop };
        if is_event && !peer_row.takes_event(packet) {
            return Step::Drop;
        }
        if let Some(law) = peer_row.law {
            self.laws.turn(packet, law);
        }
        let stream = &mut peer_row.outgoing;
        let carried = if is_event { stream.carry_event(packet, now) } else { stream.carry(packet, now) };
        if !carried {
            return Step::Drop;
        }
        if !is_event && (recorded || peer_row.recording.is_some()) {
            self.beep(index, peer, packet, now);
            self.record(peer, Track::Heard, packet, now);
        }
        Step::Forward(Slot::rtp(peer), target)
    }

    /// Who sends both INFO and events for one key is heard once: by the event, or, where that came too late, by the key that
    /// its hearer is being told already. True when this packet is of such a key.
    #[cold]
    fn is_told(&mut self, index: usize, peer: usize, packet: &[u8]) -> bool {
        let newest = self.rows[index].rest.presses.newest();
        let hearer = &mut self.rows[peer];
        hearer.saying = hearer.saying.take().filter(|saying| !saying.waits());
        let says = hearer.saying.as_ref().zip(newest).is_some_and(|(saying, digit)| saying.says(digit));
        let presses = &mut self.rows[index].rest.presses;
        if says {
            presses.drown();
        }
        let told = presses.is_drowned();
        if told {
            self.rows[peer].outgoing.leave_out(packet);
        }
        told
    }

    /// Takes what the row's far side says or hears, where it is recorded.
    #[cold]
    fn record(&mut self, index: usize, track: Track, packet: &[u8], now: Instant) {
        let recording = self.rows[index].recording.as_mut();
        self.frames.extend(recording.and_then(|recording| recording.frame(track, packet, now)));
    }

    /// Both sides of a recording hear its tone; here is what one says to the other.
    #[cold]
    fn beep(&mut self, from: usize, to: usize, packet: &mut [u8], now: Instant) {
        self.tone(to, 0, packet, now);
        self.tone(from, 1, packet, now);
    }

    /// The tone of a row's recording towards its far side (0), or towards whoever hears that (1), if one is due.
    fn tone(&mut self, index: usize, side: usize, packet: &mut [u8], now: Instant) {
        let recording = self.rows[index].recording.as_mut();
        if let Some(beeps) = recording.and_then(|recording| recording.beeps.as_mut()) {
            beeps[side].mix(packet, now);
        }
    }

    /// An RTP packet from a source that is not the accepted one; true when it is from now on.
    #[cold]
    fn introduce(&mut self, index: usize, source: SocketAddr, packet: &[u8], now: Instant) -> bool {
        let row = &mut self.rows[index];
        let heard = match RtpReader::new(packet) {
            Ok(rtp) => {
                let mark = Mark { ssrc: rtp.ssrc(), sequence: rtp.sequence_number().into() };
                row.rest.latch.hear(source, mark, now, self.terms.learn_window, &row.rest.stale)
            }
            Err(_) => Heard::Foreign,
        };
        match heard {
            Heard::Foreign => {
                row.foreign(source, now);
                return false;
            }
            Heard::Learned => {}
            Heard::Settled => self.notices.push(Notice::Settled(Slot::rtp(index), source)),
        }
        row.accept(source);
        if !row.ear.has_heard() {
            self.notices.push(Notice::Started(row.rest.pair));
        }
        true
    }

    /// RTCP, on its own port, or multiplexed from the RTP source that is accepted or announced.
    fn report(&mut self, slot: Slot, source: SocketAddr, packet: &mut [u8], now: Instant) -> Step {
        let row = &mut self.rows[slot.row()];
        if !is_rtcp(packet) && row.rest.rtcp.source == Some(source) {
            row.rest.invalid_packets += 1;
            return Step::Drop;
        }
        let accepted = match slot.is_rtp() {
            true => [row.rtp.source, row.rest.announced].contains(&Some(source)),
            false => is_rtcp(packet) && row.accepts_rtcp(source),
        };
        if !accepted {
            row.foreign(source, now);
            return Step::Drop;
        }
        row.rest.received_rtcp += 1;
        let word = Word::read(packet, row.outgoing.ssrc());
        row.ear.read(&word, now);
        let told = word.hears.and_then(|block| row.outgoing.told(block));

        let Feed::Row(peer) = row.feed else { return Step::Drop };
        if self.rows[peer].cover.is_some() {
            return Step::Drop; // it is sent reports of our own
        }
        let sends = word.sends.filter(|_| !self.rows[peer].held);
        let moment = sends.and_then(|(sender, moment)| self.rows[peer].outgoing.sent(sender, moment));
        self.write(peer, moment, told, now)
    }

    /// Writes a report for the row's far side. Who has been sent no RTP is told how it is heard all the same, under an SSRC
    /// drawn with the row's name; there is nothing else to tell.
    fn write(&mut self, index: usize, moment: Option<Moment>, hears: Option<(u32, Block)>, now: Instant) -> Step {
        let row = &mut self.rows[index];
        let drawn = hears.map(|_| row.rest.name as u32);
        let Some(ssrc) = row.outgoing.ssrc().or(drawn) else { return Step::Drop };
        let Some((slot, target)) = row.rtcp_way(index) else { return Step::Drop };
        let sending = moment.map(|moment| row.sending(moment));
        let length = report::write(ssrc, sending, hears, &format!("{:032x}", row.rest.name), &mut self.report);
        if let Some(moment) = moment {
            row.ear.tell(moment, now);
        }
        if length > 0 { Step::Report(slot, target, length) } else { Step::Drop }
    }

    /// Whether a packet from this source could be listened to, whatever is in it.
    pub fn may_hear(&self, slot: Slot, source: SocketAddr) -> bool {
        let row = &self.rows[slot.row()];
        if slot.is_rtp() {
            return row.rtp.source == Some(source) || row.rest.latch.may_hear(source, &row.rest.stale);
        }
        let near = [row.rest.announced, row.rest.rtcp_announced, row.rtp.source, row.rest.rtcp.source];
        near.iter().flatten().any(|far| far.ip() == source.ip())
    }

    /// Counts a packet of somebody who cannot be listened to.
    #[cold]
    pub fn turn_away(&mut self, slot: Slot, source: SocketAddr, now: Instant) {
        self.rows[slot.row()].foreign(source, now);
    }

    /// Whether packets since the last look changed or said anything beyond their own fate.
    pub fn has_news(&self) -> bool {
        !self.notices.is_empty() || !self.frames.is_empty()
    }

    /// Counts a packet that nobody with the key sent, or that came before.
    pub fn refuse(&mut self, slot: Slot) {
        self.rows[slot.row()].rest.invalid_packets += 1;
    }

    /// What the row's far side is sent begins in the lower half of the sequence numbers.
    pub fn number_low(&mut self, index: usize) {
        self.rows[index].outgoing.begin_low();
    }

    /// What the row's far side is sent goes on after what it was sent, whatever its source says.
    pub fn number_on(&mut self, index: usize) {
        self.rows[index].outgoing.change_source();
    }

    /// Counts an RTP packet of so many octets that the kernel took.
    pub fn sent(&mut self, slot: Slot, octets: usize) {
        let row = &mut self.rows[slot.row()];
        row.sent_packets += 1;
        row.sent_octets += octets as u64;
    }

    /// Takes an idle row into use; true when it was idle.
    pub fn lend(&mut self, index: usize, now: Instant) -> bool {
        let row = &mut self.rows[index].rest;
        let idle = row.life == Life::Idle;
        if idle {
            row.life = Life::Lent;
            if let Some(since) = now.checked_sub(self.terms.quarantine) {
                row.stale.forget_before(since);
            }
        }
        idle
    }

    /// True while the row is a leg's.
    pub fn is_lent(&self, index: usize) -> bool {
        self.rows[index].rest.life == Life::Lent
    }

    /// True while the row is in the pool.
    pub fn is_idle(&self, index: usize) -> bool {
        self.rows[index].rest.life == Life::Idle
    }

    /// A description named this far side; `None` in place of an address that may not be sent to.
    /// Its signalling comes from `signalled`. True when RTP goes somewhere else from now on.
    pub fn expect(
        &mut self,
        index: usize,
        (rtp, rtcp): (Option<SocketAddr>, Option<SocketAddr>),
        signalled: Option<IpAddr>,
        now: Instant,
    ) -> bool {
        let Row { rtp: side, rest, .. } = &mut self.rows[index];
        let moved = rest.announced.is_some() && rest.announced != rtp;
        let rtcp = rtcp.filter(|_| rtp.is_some());
        if rtp != rest.announced
            && let Some(before) = side.source.filter(|source| Some(*source) != rtp)
        {
            rest.stale.note_moved(before, rest.announced, now); // M3: the old source is ignored after a move
        }
        match rtp {
            Some(announced) => rest.latch.expect(announced, signalled, rest.stale.welcome(announced), now),
            None => rest.latch.shut(),
        }
        let before = [std::mem::replace(&mut rest.announced, rtp), std::mem::replace(&mut rest.rtcp_announced, rtcp)];
        side.expect(rtp, before[0]);
        if before != [rtp, rtcp] {
            rest.rtcp.expect(rtcp, before[1]);
        }
        moved
    }

    /// The row's far side does not listen any more, or does again: what it hears then goes on where it stopped.
    pub fn hold(&mut self, index: usize, held: bool) {
        let row = &mut self.rows[index];
        row.saying = row.saying.take().filter(|_| !held); // who does not listen hears no keys, now or later
        if std::mem::replace(&mut row.held, held) && !held {
            row.outgoing.change_source();
        }
    }

    /// By which payload types the row's far side and we send each other telephone events.
    pub fn events(&mut self, index: usize, types: Option<EventTypes>) {
        self.rows[index].events = types;
    }

    /// The row's far side hears this key, if it hears telephone events, and has not heard the other side press them.
    pub fn press(&mut self, index: usize, digit: Digit, lasts: Duration) {
        let presser = match self.rows[index].feed {
            Feed::Row(peer) => Some(&self.rows[peer]),
            Feed::Sound(_) | Feed::Nothing => None,
        };
        let heard = presser.is_some_and(|presser| presser.rest.presses.are_any());
        let may_press = presser.is_some_and(|presser| presser.events.is_some());
        let row = &mut self.rows[index];
        if row.events.is_some() && !row.held && !heard {
            let doubtful = may_press && !std::mem::replace(&mut row.rest.told_keys, true);
            row.saying.get_or_insert_default().press(digit, lasts, doubtful);
        }
    }

    /// The only G.711 law that the row's far side hears: what comes in the other one is turned into it.
    pub fn law(&mut self, index: usize, law: Option<Law>) {
        self.rows[index].law = law;
    }

    /// What the row's far side says and hears is taken for this call's recording, with a tone so often; zero: without.
    pub fn roll(&mut self, index: usize, call: CallRef, beep: Duration, now: Instant) {
        let beeps = (!beep.is_zero()).then(|| [Beep::new(beep, now); 2]);
        self.rows[index].recording = Some(Box::new(Recording { call, taken: 0, beeps }));
    }

    /// Nothing of the row's far side is taken any more.
    pub fn pause(&mut self, index: usize) {
        self.rows[index].recording = None;
    }

    /// Two rows hear each other.
    pub fn bridge(&mut self, one: usize, other: usize) {
        if self.rows[one].feed == Feed::Row(other) {
            return;
        }
        for (index, peer) in [(one, other), (other, one)] {
            self.part(index);
            self.rows[index].feed = Feed::Row(peer);
            self.rows[index].outgoing.change_source();
        }
    }

    /// The row's far side hears a sound.
    pub fn play(&mut self, index: usize, sound: Sound, law: Law) {
        let frame = match &self.rows[index].feed {
            Feed::Sound(playing) if sound != Sound::Announcement && self.sounds.are_one(playing.sound, sound) => {
                playing.frame // it goes on
            }
            Feed::Sound(_) | Feed::Row(_) | Feed::Nothing => 0,
        };
        self.part(index);
        self.rows[index].feed = Feed::Sound(Box::new(Playing { sound, law, frame }));
    }

    /// The row's far side hears a sound in place of what it is fed, or what it is fed again.
    pub fn cover(&mut self, index: usize, sound: Option<(Sound, Law)>) {
        let row = &mut self.rows[index];
        row.cover = sound.map(|(sound, law)| Box::new(Playing { sound, law, frame: 0 }));
        row.outgoing.change_source();
    }

    /// Ends what the row is fed, and what it feeds.
    fn part(&mut self, index: usize) {
        if let Feed::Row(peer) = std::mem::replace(&mut self.rows[index].feed, Feed::Nothing) {
            self.rows[peer].feed = Feed::Nothing;
        }
    }

    /// True while the row's far side is to hear a sound.
    pub fn is_sounding(&self, index: usize) -> bool {
        let row = &self.rows[index];
        row.cover.is_some() || row.saying.is_some() || matches!(row.feed, Feed::Sound(_))
    }

    /// Writes the next packet of the row's sound, due now: where it goes, and its length. `None` while there is none or
    /// nobody to send it to.
    pub fn sound(
        &mut self,
        index: usize,
        packet: &mut [u8; HEADER + FRAME],
        due: Instant,
    ) -> Option<(SocketAddr, usize)> {
        let row = &mut self.rows[index];
        let target = row.rtp.target.filter(|_| !row.held)?;
        if row.saying.as_mut().is_some_and(|saying| !saying.pass()) {
            return row.say(packet, due).then_some((target, HEADER + EVENT));
        }
        let playing = match (&mut row.cover, &mut row.feed) {
            (Some(playing), _) | (None, Feed::Sound(playing)) => playing,
            (None, Feed::Row(_) | Feed::Nothing) => return None,
        };
        packet[HEADER..].copy_from_slice(self.sounds.frame(playing.sound, playing.law, playing.frame));
        row.outgoing.originate(packet, tones::payload_type(playing.law), playing.frame == 0, due);
        playing.frame += 1;
        if playing.is_over(&self.sounds) {
            row.feed = Feed::Nothing;
            self.notices.push(Notice::Played(row.rest.pair));
        }
        if row.recording.is_some() {
            self.tone(index, 0, packet, due);
            self.record(index, Track::Heard, packet, due);
        }
        Some((target, packet.len()))
    }

    /// Watches for silence from now on, or no longer.
    pub fn watch(&mut self, index: usize, limit: Option<Duration>, now: Instant) {
        self.rows[index].rest.watch = limit.map(|limit| Watch { limit, since: now, silent: false });
    }

    /// Ends a lend: everything is forgotten but the sources that may go on sending.
    pub fn close(&mut self, index: usize, now: Instant) -> MediaEvent {
        self.part(index);
        let row = &mut self.rows[index];
        let mut stale = std::mem::take(&mut row.rest.stale);
        [row.rtp.source, row.rest.rtcp.source].into_iter().flatten().for_each(|source| stale.note(source, now));
        stale.close();
        let far = [row.rtp.source, row.rest.announced].map(|far| far.map(|far| far.ip()));
        let closed = MediaEvent::Closed(row.rest.pair, row.counters());
        *row = Row::new(row.rest.pair);
        row.rest.stale = stale;
        row.rest.life = Life::Draining { far, closed: now, heard: now };
        closed
    }

    /// The counters of a lent row, when they are due.
    pub fn count(&mut self, index: usize, now: Instant) -> Option<MediaEvent> {
        let row = &mut self.rows[index];
        if row.rest.life != Life::Lent || now < *row.rest.count_due.get_or_insert(now + COUNT) {
            return None;
        }
        row.rest.count_due = Some(now + COUNT);
        Some(MediaEvent::Counted(row.rest.pair, row.counters()))
    }

    /// Writes a report about the sound of ours that the row's far side hears, when one is due. `unix` is the time of
    /// day.
    pub fn own_report(&mut self, index: usize, unix: Duration, now: Instant) -> Step {
        let sounding = self.is_sounding(index);
        let row = &mut self.rows[index];
        if !row.ear.is_due(sounding, rand::random, now) {
            return Step::Drop;
        }
        let Some(position) = row.outgoing.position(now) else { return Step::Drop };
        let hears = row.ear.hears(now);
        self.write(index, Some(Moment::at(unix, position.timestamp)), hears, now)
    }

    /// The coarse look at one row: silence, sound again, quiet.
    pub fn look(&mut self, index: usize, now: Instant) -> Option<MediaEvent> {
        let Terms { quarantine, quarantine_limit, .. } = self.terms;
        let row = &mut self.rows[index];
        match row.rest.life {
            Life::Idle => None,
            Life::Lent => row.look(now),
            Life::Draining { closed, heard, .. } => {
                let quiet = now >= heard + quarantine;
                let over = quiet || now >= closed + quarantine_limit;
                over.then(|| {
                    row.rest.life = Life::Idle;
                    MediaEvent::Quiet(row.rest.pair)
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Sending;
    use super::super::stream::PAYLOAD_TYPE;
    use super::*;
    use crate::b2bua::io::Family;

    const TERMS: Terms = Terms {
        learn_window: Duration::from_secs(2),
        quarantine: Duration::from_secs(2),
        quarantine_limit: Duration::from_secs(30),
    };

    /// How long a key is down.
    const USUAL: Duration = Duration::from_millis(100);

    /// Two rows and a clock of 20 ms a packet.
    struct Scene {
        table: Table,
        now: Instant,
        /// Of telephone events.
        sequence: u16,
    }

    impl Scene {
        fn new() -> Self {
            let pairs = [10_000, 10_002].map(|port| PortPair { worker: 0, family: Family::V4, port });
            let now = crate::clock::now();
            Self { table: Table::new(&pairs, TERMS, Arc::default(), now), now, sequence: 1 }
        }

        /// Row 0 for this far side, row 1 for `192.0.2.2:5000`, bridged.
        fn call(far: &str) -> Self {
            let mut scene = Self::new();
            scene.expect(0, far);
            scene.expect(1, "192.0.2.2:5000");
            scene.table.bridge(0, 1);
            scene
        }

        fn expect(&mut self, row: usize, far: &str) {
            self.table.lend(row, self.now);
            let far = address(far);
            let rtcp = SocketAddr::new(far.ip(), far.port() + 1);
            self.table.expect(row, (Some(far), Some(rtcp)), None, self.now);
        }

        fn packet(&mut self, row: usize, source: &str, sequence: u16) -> Step {
            self.renumbered(row, source, sequence).0
        }

        /// What becomes of a packet, and the sequence number it leaves with.
        fn renumbered(&mut self, row: usize, source: &str, sequence: u16) -> (Step, u16) {
            self.now += Duration::from_millis(20);
            let mut packet = [0; 172];
            packet[0] = 0x80;
            packet[2..4].copy_from_slice(&sequence.to_be_bytes());
            let step = self.table.step(Slot::rtp(row), address(source), &mut packet, self.now);
            (step, u16::from_be_bytes([packet[2], packet[3]]))
        }

        /// A packet of a telephone event, the next one of its stream.
        fn event(&mut self, number: u8, timestamp: u32, event: [u8; 4]) -> Vec<u8> {
            self.now += Duration::from_millis(20);
            self.sequence += 1;
            let sequence = self.sequence.to_be_bytes();
            [&[0x80, number], &sequence[..], &timestamp.to_be_bytes(), &[0; 4], &event].concat()
        }

        /// True when any packet of a stream gets through.
        fn passes(&mut self, row: usize, source: &str) -> bool {
            (0..50).any(|sequence| self.packet(row, source, sequence) != Step::Drop)
        }

        fn report(&mut self, row: usize, source: &str) -> Step {
            self.table.step(Slot::rtcp(row), address(source), &mut [0x80, 201, 0, 1, 0, 0, 0, 7], self.now)
        }

        /// Where what is made of a report goes.
        fn reported(&mut self, row: usize, source: &str) -> Option<(Slot, SocketAddr)> {
            match self.report(row, source) {
                Step::Report(slot, target, _) => Some((slot, target)),
                Step::Forward(..) => panic!("as it came"),
                Step::Drop => None,
            }
        }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_packet_goes_to_the_other_far_side() {
        let mut scene = Scene::call("192.0.2.1:4000");
        assert_eq!(scene.packet(0, "192.0.2.1:4000", 1), Step::Forward(Slot(2), address("192.0.2.2:5000")));
        assert_eq!(scene.packet(1, "192.0.2.2:5000", 1), Step::Forward(Slot(0), address("192.0.2.1:4000")));
        assert_eq!(scene.reported(0, "192.0.2.1:4001"), Some((Slot(3), address("192.0.2.2:5001"))));
        assert_eq!(scene.table.notices.len(), 4, "both started and settled");
    }

    #[test]
    fn m6_who_holds_is_sent_no_rtp_and_finds_no_gap_afterwards() {
        let mut scene = Scene::call("192.0.2.1:4000");
        assert_eq!(scene.renumbered(1, "192.0.2.2:5000", 7), (Step::Forward(Slot(0), address("192.0.2.1:4000")), 7));
        scene.table.hold(0, true);
        assert!((8..58).all(|sequence| scene.packet(1, "192.0.2.2:5000", sequence) == Step::Drop));
        assert_ne!(scene.packet(0, "192.0.2.1:4000", 1), Step::Drop, "who holds may speak");
        assert_ne!(scene.report(1, "192.0.2.2:5001"), Step::Drop, "RTCP goes on");
        scene.table.hold(0, false);
        assert_eq!(scene.renumbered(1, "192.0.2.2:5000", 58), (Step::Forward(Slot(0), address("192.0.2.1:4000")), 8));
    }

    #[test]
    fn m3_the_old_source_is_not_learned_again_before_the_new_one_speaks() {
        let mut scene = Scene::call("192.0.2.1:4000");
        assert!(scene.passes(0, "192.0.2.1:4000"));
        scene.expect(0, "192.0.2.1:4002");
        assert!(!scene.passes(0, "192.0.2.1:4000"));
        assert!(scene.passes(0, "192.0.2.1:4002"));
    }

    #[test]
    fn m3_who_comes_back_to_an_earlier_address_is_heard_where_it_was_heard_there() {
        let mut scene = Scene::call("10.0.0.1:4000");
        let (phone, music) = ("198.51.100.7:6000", "198.51.100.8:7000");
        assert!(scene.passes(0, phone), "behind a NAT");
        scene.expect(0, "10.0.0.9:5000");
        assert!(!scene.passes(0, phone) && scene.passes(0, music));
        scene.expect(0, "10.0.0.1:4000");
        assert!(!scene.passes(0, music), "that is over");
        assert!(scene.passes(0, phone));
        assert_eq!(scene.packet(1, "192.0.2.2:5000", 9), Step::Forward(Slot(0), address(phone)));
        // In the next life nobody comes back.
        scene.table.close(0, scene.now);
        scene.now += TERMS.quarantine_limit;
        for source in [phone, music] {
            scene.packet(0, source, 1);
        }
        scene.table.look(0, scene.now);
        scene.expect(0, "10.0.0.1:4000");
        scene.table.bridge(0, 1);
        assert!(!scene.passes(0, phone) && !scene.passes(0, music));
    }

    #[test]
    fn m8_a_side_that_only_listens_is_heard_to_report() {
        let mut scene = Scene::call("192.0.2.1:4000");
        assert!(scene.passes(1, "192.0.2.2:5000"));
        let muxed = address("192.0.2.1:4000");
        scene.table.expect(0, (Some(muxed), Some(muxed)), None, scene.now);
        let mut report = [0x80, 201, 0, 1, 0, 0, 0, 7];
        scene.table.step(Slot::rtp(0), muxed, &mut report, scene.now);
        let mut report = [0x80, 201, 0, 1, 0, 0, 0, 7];
        scene.table.step(Slot::rtp(0), address("192.0.2.9:4000"), &mut report, scene.now);
        let counters = scene.table.rows[0].counters();
        assert_eq!((counters.received_rtcp, counters.foreign_packets), (1, 1), "and no stranger");
        // Where it was heard to report it still is when its session is refreshed.
        scene.expect(0, "192.0.2.1:4000");
        assert!(scene.passes(0, "192.0.2.1:4000"));
        assert_ne!(scene.report(0, "192.0.2.1:9999"), Step::Drop);
        scene.expect(0, "192.0.2.1:4000");
        assert_ne!(scene.report(0, "192.0.2.1:9999"), Step::Drop);
    }

    #[test]
    fn rtcp_is_learned_from_the_rtp_host_only() {
        let mut scene = Scene::call("192.0.2.1:4000");
        assert_eq!(scene.report(0, "192.0.2.1:9999"), Step::Drop, "nobody is known yet");
        assert!(scene.passes(0, "192.0.2.1:4000"));
        assert_eq!(scene.report(0, "192.0.2.9:4001"), Step::Drop);
        assert_ne!(scene.report(0, "192.0.2.1:9999"), Step::Drop);
        assert_eq!(scene.report(0, "192.0.2.1:9998"), Step::Drop, "one is known");
        assert_ne!(scene.report(0, "192.0.2.1:4001"), Step::Drop, "the announced one always");
    }

    #[test]
    fn m8_rtcp_goes_where_each_side_wants_it() {
        let mut scene = Scene::call("192.0.2.1:4000");
        let (muxed, beside) = (address("192.0.2.1:4000"), address("192.0.2.2:5001"));
        scene.table.expect(0, (Some(muxed), Some(muxed)), None, scene.now);
        assert_eq!(scene.reported(1, "192.0.2.2:5001"), None, "of nothing there is nothing to report");
        assert!(scene.passes(0, "192.0.2.1:4000") && scene.passes(1, "192.0.2.2:5000"));
        assert_eq!(scene.reported(1, "192.0.2.2:5001"), Some((Slot::rtp(0), muxed)), "with its RTP");
        let mut report = [0x80, 201, 0, 1, 0, 0, 0, 7];
        let step = scene.table.step(Slot::rtp(0), muxed, &mut report, scene.now);
        assert!(matches!(step, Step::Report(slot, target, _) if slot == Slot::rtcp(1) && target == beside));
    }

    #[test]
    fn m8_a_far_side_is_told_of_one_stream_by_one_name() {
        let mut scene = Scene::call("192.0.2.1:4000");
        let mut packet = [0; HEADER + FRAME];
        scene.table.play(1, Sound::Waiting, Law::Mu);
        scene.table.sound(1, &mut packet, scene.now).expect("a packet");
        scene.table.sent(Slot::rtp(1), packet.len());
        let stream = Position::read(&packet).ssrc;
        scene.table.bridge(0, 1);
        assert!(scene.passes(0, "192.0.2.1:4000"));
        let before = scene.table.rows[1].outgoing.position(scene.now).unwrap().timestamp;
        assert!(scene.passes(1, "192.0.2.2:5000"));

        // Row 0 reports: SSRC 0 sends and hears 0; it is called x, and leaves.
        let mut said = [0; REPORT];
        let moment = Moment { ntp: 77 << 32, timestamp: 0 };
        let block = Block { fraction: 0, lost: 0, highest: 0, jitter: 5, last_report: 0, delay: 0 };
        let sending = Sending { moment, packets: 4_000, octets: 640_000 };
        let length = report::write(0, Some(sending), Some((0, block)), "x", &mut said);
        let mut said = [&said[..length], &[0x81, 203, 0, 1, 0, 0, 0, 0]].concat();
        let step = scene.table.step(Slot::rtcp(0), address("192.0.2.1:4001"), &mut said, scene.now);
        let Step::Report(_, target, length) = step else { panic!("{step:?}") };
        assert_eq!(target, address("192.0.2.2:5001"));
        let heard = scene.table.report[..length].to_vec();
        let word = Word::read(&heard, Some(0));
        let (sender, told) = word.sends.unwrap();
        assert_eq!((sender, told.ntp), (stream, moment.ntp));
        assert_eq!(word.hears.unwrap().jitter, 5, "how the customer hears");
        assert_eq!(told.timestamp, before, "the first packet of the customer was stamped 0 and is the newest");
        assert_eq!(heard[20..24], 1_u32.to_be_bytes(), "what it was sent, not what the customer sent");
        assert!(heard.len() == 96 && heard[53] == 202, "a report and a name, and no farewell: {heard:x?}");

        // Held, it is sent nothing that could be reported.
        scene.table.hold(1, true);
        let step = scene.table.step(Slot::rtcp(0), address("192.0.2.1:4001"), &mut said, scene.now);
        assert!(matches!(step, Step::Report(..)) && scene.table.report[1] == 201, "{step:?}");
    }

    #[test]
    fn m12_whoever_sent_to_the_closed_pair_is_not_learned_in_its_next_life() {
        let mut scene = Scene::call("192.0.2.1:4000");
        scene.table.close(0, scene.now);
        let mut quiet = None;
        for sequence in 0..1500 {
            assert_eq!(scene.packet(0, "192.0.2.7:6000", sequence), Step::Drop);
            quiet = quiet.or(scene.table.look(0, scene.now));
        }
        let pair = PortPair { worker: 0, family: Family::V4, port: 10_000 };
        assert_eq!(quiet, Some(MediaEvent::Quiet(pair)), "the limit");
        scene.expect(0, "192.0.2.7:7000");
        scene.expect(1, "192.0.2.2:5000");
        scene.table.bridge(0, 1);
        assert!(!scene.passes(0, "192.0.2.7:6000"));
        assert!(scene.passes(0, "192.0.2.7:7002"), "the host itself is not banned");
    }

    #[test]
    fn a_pair_is_quiet_after_silence_only() {
        let mut scene = Scene::call("192.0.2.1:4000");
        scene.table.close(0, scene.now);
        for sequence in 0..200 {
            scene.packet(0, "192.0.2.1:4000", sequence);
            assert_eq!(scene.table.look(0, scene.now), None);
        }
        scene.now += TERMS.quarantine;
        assert!(matches!(scene.table.look(0, scene.now), Some(MediaEvent::Quiet(_))));
        scene.expect(0, "192.0.2.1:4008");
        scene.expect(1, "192.0.2.2:5000");
        scene.table.bridge(0, 1);
        assert!(scene.passes(0, "192.0.2.1:4000"), "fell silent, so it may call again");
    }

    #[test]
    fn m12_a_stranger_who_sends_to_all_ports_keeps_none_from_its_next_call() {
        let mut scene = Scene::call("192.0.2.1:4000");
        assert!(scene.passes(0, "192.0.2.1:4000"));
        scene.table.close(0, scene.now);
        let until = scene.now + TERMS.quarantine;
        while scene.now < until {
            assert_eq!(scene.table.look(0, scene.now), None);
            scene.packet(0, "198.51.100.9:999", 1);
        }
        assert!(matches!(scene.table.look(0, scene.now), Some(MediaEvent::Quiet(_))));
        scene.expect(0, "10.0.0.1:4000");
        scene.expect(1, "192.0.2.2:5000");
        scene.table.bridge(0, 1);
        assert!(!scene.passes(0, "198.51.100.9:999"), "and is not learned there");
    }

    #[test]
    fn m5_who_sends_both_info_and_events_for_one_key_is_heard_once() {
        /// What of one key is heard: packets relayed, packets of ours. The INFO comes so many packets after the event began.
        fn heard(info_at: i32) -> (usize, usize) {
            let mut scene = Scene::call("192.0.2.1:4000");
            let types = Some(EventTypes { hears: 101, told: 101 });
            scene.table.events(0, types);
            scene.table.events(1, types);
            assert!(scene.passes(0, "192.0.2.1:4000"));
            scene.sequence = 50;
            let (mut relayed, mut said) = (0, 0);
            for step in -15..40 {
                if step == info_at {
                    scene.table.press(1, Digit::read('5').unwrap(), USUAL);
                }
                if (0..9).contains(&step) {
                    let end = if step >= 6 { 0x8a } else { 10 };
                    let duration = (160 * (step.min(6) + 1)) as u16;
                    let [high, low] = duration.to_be_bytes();
                    let mut packet = scene.event(101, 16_000, [5, end, high, low]);
                    let step = scene.table.step(Slot::rtp(0), address("192.0.2.1:4000"), &mut packet, scene.now);
                    relayed += usize::from(step != Step::Drop);
                } else {
                    scene.now += Duration::from_millis(20);
                }
                let mut packet = [0; HEADER + FRAME];
                said +=
                    usize::from(scene.table.is_sounding(1) && scene.table.sound(1, &mut packet, scene.now).is_some());
            }
            (relayed, said)
        }
        assert_eq!(heard(100), (9, 0), "an event alone");
        assert_eq!(heard(3), (9, 0), "INFO while the key is down");
        assert_eq!(heard(20), (9, 0), "INFO when it is up again");
        assert_eq!(heard(-1), (9, 0), "INFO just before");
        assert_eq!(heard(-12), (0, 7), "INFO so early that it is being said already");
    }

    #[test]
    fn o9_each_side_hears_the_law_it_knows() {
        let mut scene = Scene::call("192.0.2.1:4000");
        scene.table.law(0, Some(Law::Mu));
        scene.table.law(1, Some(Law::A));
        let heard = |scene: &mut Scene, row: usize, source: &str, number: u8, octet: u8| {
            let mut packet = scene.event(number, 160, [octet; 4]);
            let step = scene.table.step(Slot::rtp(row), address(source), &mut packet, scene.now);
            (step, packet[1], packet[HEADER])
        };
        let to = |row, target: &str| Step::Forward(Slot::rtp(row), address(target));
        assert_eq!(heard(&mut scene, 0, "192.0.2.1:4000", 0x80, 0xff), (to(1, "192.0.2.2:5000"), 0x88, 0xd5));
        assert_eq!(heard(&mut scene, 1, "192.0.2.2:5000", 8, 0xd5), (to(0, "192.0.2.1:4000"), 0, 0xfe));
        assert_eq!(heard(&mut scene, 1, "192.0.2.2:5000", 0, 0x11), (to(0, "192.0.2.1:4000"), 0, 0x11), "as it is");
        assert_eq!(heard(&mut scene, 1, "192.0.2.2:5000", 18, 0x11), (to(0, "192.0.2.1:4000"), 18, 0x11), "no G.711");
    }

    #[test]
    fn m5_telephone_events_change_their_number_on_the_way_and_nothing_else() {
        let mut scene = Scene::call("192.0.2.1:4000");
        scene.table.events(0, Some(EventTypes { hears: 101, told: 101 }));
        scene.table.events(1, Some(EventTypes { hears: 96, told: 101 }));
        // From, by which number, marked: the number by which it is heard.
        for (row, source, number, heard) in [
            (0, "192.0.2.1:4000", 101, 96),
            (0, "192.0.2.1:4000", 0x80 | 101, 0x80 | 96),
            (1, "192.0.2.2:5000", 96, 101),
            (1, "192.0.2.2:5000", 101, 101),
            (0, "192.0.2.1:4000", 96, 96),
            (0, "192.0.2.1:4000", 0, 0),
            (1, "192.0.2.2:5000", 0x80, 0x80),
        ] {
            let before = scene.event(number, 700, [5, 0x8a, 3, 0x20]);
            let mut packet = before.clone();
            let step = scene.table.step(Slot::rtp(row), address(source), &mut packet, scene.now);
            assert_ne!(step, Step::Drop);
            assert_eq!((packet[1], &packet[2..]), (heard, &before[2..]), "{number} from {source}");
        }
    }

    #[test]
    fn m5_who_has_no_telephone_events_hears_none_and_finds_no_gap() {
        let mut scene = Scene::call("192.0.2.1:4000");
        scene.table.events(0, Some(EventTypes { hears: 101, told: 101 }));
        scene.packet(0, "192.0.2.1:4000", 1);
        scene.table.notices.clear();
        for sequence in 2..9 {
            let mut packet = scene.event(101, 320, [9, 10, 0, 160]);
            packet[3] = sequence;
            scene.now += Duration::from_millis(20);
            assert_eq!(scene.table.step(Slot::rtp(0), address("192.0.2.1:4000"), &mut packet, scene.now), Step::Drop);
        }
        assert_eq!(scene.table.notices.len(), 1, "told of once, all the same");
        assert_eq!(scene.renumbered(0, "192.0.2.1:4000", 9).1, 2);
    }

    #[test]
    fn m5_keys_are_told_wherever_they_go() {
        let mut scene = Scene::call("192.0.2.1:4000");
        let types = Some(EventTypes { hears: 101, told: 101 });
        scene.table.events(0, types);
        scene.packet(0, "192.0.2.1:4000", 1);
        scene.table.notices.clear();
        scene.table.play(0, Sound::Waiting, Law::A);
        let pair = scene.table.rows[0].rest.pair;
        for (timestamp, key) in [(0, '1'), (800, '2')] {
            let code = key as u8 - b'0';
            let mut packet = scene.event(101, timestamp, [code, 10, 0, 160]);
            assert_eq!(scene.table.step(Slot::rtp(0), address("192.0.2.1:4000"), &mut packet, scene.now), Step::Drop);
            assert_eq!(scene.table.notices.pop(), Digit::read(key).map(|digit| Notice::Pressed(pair, digit)));
        }
        let mut stranger = scene.event(101, 1600, [3, 10, 0, 160]);
        scene.table.step(Slot::rtp(0), address("192.0.2.9:4000"), &mut stranger, scene.now);
        assert_eq!(scene.table.notices, [], "a stranger presses nothing");
    }

    #[test]
    fn play_parts_both_and_bridge_ends_play() {
        let mut scene = Scene::call("192.0.2.1:4000");
        scene.table.play(0, Sound::Waiting, Law::A);
        assert!(!scene.passes(0, "192.0.2.1:4000") && !scene.passes(1, "192.0.2.2:5000"));
        let mut packet = [0; HEADER + FRAME];
        let target = scene.table.sound(0, &mut packet, scene.now);
        assert_eq!((target, packet[1]), (Some((address("192.0.2.1:4000"), 172)), 0x88), "PCMA with the marker");
        scene.table.bridge(0, 1);
        assert!(!scene.table.is_sounding(0));
        assert!(scene.passes(0, "192.0.2.1:4000"));
    }

    #[test]
    fn a_sound_goes_on_where_the_next_occasion_sounds_the_same() {
        let mut scene = Scene::call("192.0.2.1:4000");
        let marked = |scene: &mut Scene| {
            let mut packet = [0; HEADER + FRAME];
            scene.table.sound(0, &mut packet, scene.now).expect("a packet");
            (packet[1] & 0x80 != 0, packet[HEADER..].to_vec())
        };
        scene.table.play(0, Sound::Waiting, Law::A);
        let first = marked(&mut scene);
        assert!(first.0);
        scene.table.play(0, Sound::Onward, Law::A);
        let second = marked(&mut scene);
        assert!(!second.0 && second.1 != first.1, "no new beginning, and the next frame of the loop");
        scene.table.bridge(0, 1);
        scene.table.play(0, Sound::Waiting, Law::A);
        assert_eq!(marked(&mut scene), first, "after somebody has spoken it begins again");
    }

    #[test]
    fn m6_who_is_covered_hears_the_cover_and_is_heard() {
        let mut scene = Scene::call("192.0.2.1:4000");
        assert_eq!(scene.renumbered(0, "192.0.2.1:4000", 7).1, 7);
        scene.table.cover(1, Some((Sound::Hold, Law::Mu)));
        assert_eq!(scene.packet(0, "192.0.2.1:4000", 8), Step::Drop, "music of the other side");
        let mut packet = [0; HEADER + FRAME];
        let target = scene.table.sound(1, &mut packet, scene.now);
        assert_eq!(
            (target, packet[1], packet[3]),
            (Some((address("192.0.2.2:5000"), 172)), 0x80, 8),
            "PCMU with the marker"
        );
        assert_ne!(scene.packet(1, "192.0.2.2:5000", 1), Step::Drop, "it is heard");
        assert_eq!(scene.report(0, "192.0.2.1:4001"), Step::Drop, "the reports are of the music");
        assert_ne!(scene.report(1, "192.0.2.2:5001"), Step::Drop, "who is heard is told so");
        scene.table.cover(1, None);
        assert!(!scene.table.is_sounding(1));
        assert_eq!(scene.renumbered(0, "192.0.2.1:4000", 60), (Step::Forward(Slot(2), address("192.0.2.2:5000")), 9));
    }

    #[test]
    fn m5_keys_that_came_by_info_are_heard_as_events_in_place_of_speech() {
        let mut scene = Scene::call("192.0.2.1:4000");
        scene.table.events(0, Some(EventTypes { hears: 97, told: 97 }));
        scene.packet(1, "192.0.2.2:5000", 7);
        "12".chars().for_each(|key| scene.table.press(0, Digit::read(key).unwrap(), USUAL));
        assert_eq!(scene.packet(1, "192.0.2.2:5000", 8), Step::Drop, "nobody speaks into a key");
        let (mut said, mut packet) = (Vec::new(), [0; HEADER + FRAME]);
        while scene.table.is_sounding(0) {
            if let Some((target, length)) = scene.table.sound(0, &mut packet, scene.now) {
                assert_eq!((target, length, packet[1] & PAYLOAD_TYPE), (address("192.0.2.1:4000"), 16, 97));
                said.push((Position::read(&packet), packet[1] & 0x80 != 0, packet[HEADER..16].to_vec()));
            }
            scene.now += Duration::from_millis(20);
        }
        assert_eq!(said.len(), 14, "seven packets a key");
        for (key, event) in said.chunks(7).enumerate() {
            let durations: Vec<u16> = event.iter().map(|(.., it)| u16::from_be_bytes([it[2], it[3]])).collect();
            assert_eq!(durations, [160, 320, 480, 640, 800, 800, 800]);
            let ends: Vec<bool> = event.iter().map(|(.., it)| it[1] & 0x80 != 0).collect();
            assert_eq!(ends, [false, false, false, false, true, true, true]);
            assert!(event.iter().all(|(at, _, it)| at.timestamp == event[0].0.timestamp && it[0] == key as u8 + 1));
            assert_eq!(
                event.iter().map(|(_, marker, _)| *marker).collect::<Vec<_>>(),
                [true, false, false, false, false, false, false]
            );
        }
        assert!(said.windows(2).all(|two| two[1].0.sequence == two[0].0.sequence.wrapping_add(1)), "no gap");
        assert_eq!(said[7].0.timestamp - said[0].0.timestamp, 1600, "200 ms from key to key");
        assert_ne!(scene.packet(1, "192.0.2.2:5000", 20), Step::Drop, "speech goes on");
        scene.table.events(0, None);
        scene.table.press(0, Digit::read('3').unwrap(), USUAL);
        assert!(!scene.table.is_sounding(0), "who hears no events is told by INFO");
    }

    #[test]
    fn who_is_recorded_hears_the_tone_in_our_sounds_too() {
        let mut scene = Scene::call("192.0.2.1:4000");
        scene.table.roll(0, CallRef(1), Duration::from_secs(10), scene.now);
        scene.table.play(0, Sound::Waiting, Law::Mu);
        let mut toned = 0;
        for _ in 0..50 {
            scene.now += Duration::from_millis(20);
            let mut packet = [0; HEADER + FRAME];
            scene.table.sound(0, &mut packet, scene.now).expect("a packet");
            let loudest = packet[HEADER..].iter().map(|octet| tones::from_mu_law(*octet).unsigned_abs()).max();
            toned += usize::from(loudest.unwrap() > 2_000);
        }
        assert_eq!(toned, 10, "200 ms of it, in comfort noise");
        assert!(scene.table.frames.iter().all(super::super::tape::Frame::is_readable));
    }

    #[test]
    fn m5_who_holds_hears_no_keys_then_or_later() {
        let mut scene = Scene::call("192.0.2.1:4000");
        scene.table.events(0, Some(EventTypes { hears: 97, told: 97 }));
        scene.table.press(0, Digit::read('1').unwrap(), USUAL);
        scene.table.hold(0, true);
        scene.table.press(0, Digit::read('2').unwrap(), USUAL);
        scene.table.hold(0, false);
        assert!(!scene.table.is_sounding(0));
    }

    #[test]
    fn t16_an_announcement_is_heard_once_and_its_end_is_told() {
        let mut scene = Scene::call("192.0.2.1:4000");
        scene.table.play(0, Sound::Announcement, Law::Mu);
        let mut packet = [0; HEADER + FRAME];
        let mut frames = 0;
        while scene.table.sound(0, &mut packet, scene.now).is_some() {
            frames += 1;
            assert!(frames <= 200, "it never ends");
        }
        assert_eq!(frames, 200, "four seconds");
        let pair = PortPair { worker: 0, family: Family::V4, port: 10_000 };
        assert_eq!(scene.table.notices, [Notice::Played(pair)]);
        assert!(!scene.table.is_sounding(0));
    }
}
