//! A relay thread: level-triggered epoll over its ports, the [`Table`] for every decision, a tick for our own sounds.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::sync::mpsc::UnboundedSender;

use super::guard::Guard;
use super::ports::{DRAIN_LIMIT, Socket};
use super::recorder::{Order, Recorder};
use super::relay::{Notice, Slot, Step, Table};
use super::srtp::{Protection, Sealed};
use super::stream::HEADER;
use super::tones::FRAME;
use super::{MediaError, MediaSettings};
use crate::b2bua::io::{Epoch, Family, Keys, MediaCommand, MediaEvent, PortPair};
use crate::clock::{epoch, now};

/// Wake-ups handled before the clock is read again: at 10 µs a packet, 2.5 ms.
const BATCH: usize = 256;
/// The largest UDP payload there is.
const LARGEST: usize = 65_535;
/// While a pair is in use a timer ticks: one frame of our own sounds each time.
const TICK: Duration = Duration::from_millis(20);
/// Frames sent late one after the other; older ones are left out.
const CATCH_UP: u64 = 5;
/// In how many ticks every row in use is looked at: for silence, sound again, quiet, and reports that are due.
const ROUND: usize = 8;
/// Epoll's names for the eventfd and the timer; all others are slots.
const WAKE: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

/// What a packet needs outside the table, side by side: it passes two of these.
struct Port {
    /// RTP and RTCP.
    sockets: [Socket; 2],
    /// What protects its packets, where something does.
    protection: Option<Box<Protection>>,
}

/// One thread's ports and everything known about them.
pub struct Worker {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    commands: Receiver<MediaCommand>,
    events: UnboundedSender<MediaEvent>,
    /// Who keeps recordings, and the pause between the tones that tell of it.
    recorder: Option<(Recorder, Duration)>,
    guard: Guard,
    /// By row.
    ports: Vec<Port>,
    table: Table,
    /// Row of a pair.
    rows: HashMap<PortPair, usize>,
    /// Rows that are not idle, and where among them the next look begins.
    busy: Vec<usize>,
    next_look: usize,
    /// Rows that hear a sound of ours.
    sounding: Vec<usize>,
    timer: OwnedFd,
    /// When the timer should tick next: a grid that does not drift.
    next_tick: Instant,
    buffer: Box<[u8]>,
    /// The time of day, for reports.
    epoch: Epoch,
    now: Instant,
}

impl Worker {
    /// Takes over the sockets of these pairs.
    pub fn new(
        settings: &MediaSettings,
        pairs: &[PortPair],
        sockets: Vec<[Socket; 2]>,
        (wake, commands): (Arc<OwnedFd>, Receiver<MediaCommand>),
        events: UnboundedSender<MediaEvent>,
        recorder: Option<Recorder>,
    ) -> Result<Self, MediaError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &*wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        for (slot, socket) in sockets.iter().flatten().enumerate() {
            epoll::add(&epoll, socket, epoll::EventData::new_u64(slot as u64), epoll::EventFlags::IN)?;
        }
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        let started = now();
        Ok(Self {
            epoll,
            wake,
            commands,
            events,
            recorder: recorder.zip(settings.recorder.as_ref().map(|recorder| recorder.beep)),
            guard: Guard::new(settings),
            ports: sockets.into_iter().map(|sockets| Port { sockets, protection: None }).collect(),
            table: Table::new(pairs, settings.terms, settings.sounds.clone(), started),
            rows: pairs.iter().enumerate().map(|(row, pair)| (*pair, row)).collect(),
            busy: Vec::new(),
            next_look: 0,
            sounding: Vec::new(),
            timer,
            next_tick: started,
            buffer: vec![0; LARGEST].into_boxed_slice(),
            epoch: epoch(),
            now: started,
        })
    }

    /// Works until the command channel is closed. A mistake of ours costs the packet or command that it was made with, not
    /// every call of the thread.
    pub fn run(mut self) {
        while std::panic::catch_unwind(AssertUnwindSafe(|| self.work())).is_err() {
            tracing::error!("a relay thread panicked and goes on: please report it");
        }
    }

    fn work(&mut self) {
        self.heed(); // what was not told or obeyed when it panicked is not announced again
        if !self.obey() {
            return;
        }
        let mut woken = Vec::with_capacity(BATCH);
        loop {
            woken.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut woken), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return tracing::error!(%error, "a relay thread lost its epoll and ends"),
            }
            self.now = now();
            for event in &woken {
                match event.data.u64() {
                    WAKE if !self.obey() => return,
                    WAKE => {}
                    TIMER => self.tick(),
                    slot => self.receive(Slot(slot as usize)),
                }
            }
        }
    }

    // --- packets -----------------------------------------------------------------------------------------------

    fn receive(&mut self, slot: Slot) {
        self.take(slot);
        if self.table.has_news() {
            self.heed();
        }
    }

    /// One packet, from receiving it to sending it on.
    fn take(&mut self, slot: Slot) {
        let port = &mut self.ports[slot.row()];
        let Some((length, source)) = port.sockets[slot.side()].receive(&mut self.buffer) else { return };
        let opened = match (&mut port.protection, source) {
            // Who cannot be heard is not worth the reckoning.
            (Some(_), Some(source)) if !self.table.may_hear(slot, source) => {
                return self.table.turn_away(slot, source, self.now);
            }
            (Some(protection), _) => protection.open(&mut self.buffer[..length]),
            (None, _) => Some(length),
        };
        let Some(length) = opened else { return self.table.refuse(slot) };
        let packet = &mut self.buffer[..length];
        match self.table.step(slot, source, packet, self.now) {
            Step::Drop => {}
            Step::Forward(out, target) => self.send_rtp(out, target, length),
            Step::Report(out, target, length) => self.send_report(out, target, length),
        }
    }

    fn socket(&mut self, slot: Slot) -> &mut Socket {
        &mut self.ports[slot.row()].sockets[slot.side()]
    }

    /// Sends what the buffer begins with, protected where its row is; false when it did not leave.
    fn send(&mut self, out: Slot, target: SocketAddr, length: usize) -> bool {
        let packet = &self.buffer[..length];
        let Port { sockets, protection } = &mut self.ports[out.row()];
        let socket = &sockets[out.side()];
        match protection.as_mut().map(|protection| protection.seal(packet)) {
            None => socket.send(packet, target),
            Some(Sealed::Packet(sealed)) => socket.send(&sealed, target),
            Some(Sealed::Refused) => false,
            Some(Sealed::Behind) => {
                self.table.number_on(out.row());
                false
            }
        }
    }

    fn send_rtp(&mut self, out: Slot, target: SocketAddr, length: usize) {
        if self.send(out, target, length) {
            self.table.sent(out, length);
        }
    }

    fn send_report(&mut self, out: Slot, target: SocketAddr, length: usize) {
        self.buffer[..length].copy_from_slice(&self.table.report[..length]);
        self.send(out, target, length);
    }

    fn heed(&mut self) {
        while !self.table.notices.is_empty() {
            match self.table.notices.remove(0) {
                Notice::Started(pair) => self.tell(MediaEvent::Started(pair)),
                Notice::Pressed(pair, digit) => self.tell(MediaEvent::Digit(pair, digit)),
                Notice::Settled(slot, far) => self.settle(slot, far),
                Notice::Played(pair) => self.tell(MediaEvent::Played(pair)),
            }
        }
        for frame in self.table.frames.drain(..) {
            if let Some((recorder, _)) = &self.recorder {
                recorder.take(frame);
            }
        }
    }

    /// From now on the kernel lets nobody else in; who is in already is judged.
    fn settle(&mut self, slot: Slot, far: SocketAddr) {
        self.socket(slot).connect(far);
        for _ in 0..DRAIN_LIMIT {
            if self.socket(slot).is_sifted() {
                break;
            }
            self.take(slot);
        }
    }

    /// A receiver that is gone is the process ending.
    fn tell(&self, event: MediaEvent) {
        let _ = self.events.send(event);
    }

    // --- commands ----------------------------------------------------------------------------------------------

    /// Carries out what is queued; false when nobody can command us any more.
    fn obey(&mut self) -> bool {
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]); // resets the count, whatever it was
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.carry_out(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn carry_out(&mut self, command: MediaCommand) {
        match command {
            MediaCommand::Expect { pair, rtp, rtcp, signalled } => {
                if let Some(row) = self.lent(pair) {
                    self.expect(row, pair.family, [rtp, rtcp], signalled);
                }
            }
            MediaCommand::Secure { pair, keys } => {
                if let Some(row) = self.lent(pair) {
                    self.secure(row, keys.as_ref());
                }
            }
            MediaCommand::Bridge(one, other) => {
                if let (Some(one), Some(other)) = (self.lent(one), self.lent(other)) {
                    self.table.bridge(one, other);
                }
            }
            MediaCommand::Play { pair, sound, law } => {
                if let Some(row) = self.lent(pair) {
                    self.table.play(row, sound, law);
                    self.sounds(row);
                }
            }
            MediaCommand::Cover { pair, sound } => {
                if let Some(row) = self.lent(pair) {
                    self.table.cover(row, sound);
                    self.sounds(row);
                }
            }
            MediaCommand::Hold { pair, held } => {
                if let Some(row) = self.lent(pair) {
                    self.table.hold(row, held);
                }
            }
            MediaCommand::Events { pair, types } => {
                if let Some(row) = self.lent(pair) {
                    self.table.events(row, types);
                }
            }
            MediaCommand::Press { pair, digit, lasts } => {
                if let Some(row) = self.lent(pair) {
                    self.table.press(row, digit, lasts);
                    self.sounds(row);
                }
            }
            MediaCommand::Law { pair, law } => {
                if let Some(row) = self.lent(pair) {
                    self.table.law(row, law);
                }
            }
            MediaCommand::Watch { pair, limit } => {
                if let Some(row) = self.lent(pair) {
                    self.table.watch(row, limit, self.now);
                }
            }
            MediaCommand::Record { pair, call } => {
                if let (Some(row), Some((recorder, beep))) = (self.lent(pair), &self.recorder) {
                    recorder.order(Order::Roll(call, self.now));
                    self.table.roll(row, call, *beep, self.now);
                }
            }
            MediaCommand::Pause { pair, call } => {
                if let (Some(row), Some((recorder, _))) = (self.lent(pair), &self.recorder) {
                    self.table.pause(row);
                    recorder.order(Order::Pause(call, self.now));
                }
            }
            MediaCommand::EndRecording { call, .. } => {
                if let Some((recorder, _)) = &self.recorder {
                    recorder.order(Order::End(call));
                }
            }
            MediaCommand::Close(pair) => {
                if let Some(row) = self.lent(pair) {
                    self.socket(Slot::rtp(row)).disconnect();
                    self.ports[row].protection = None;
                    let closed = self.table.close(row, self.now);
                    self.tell(closed);
                }
            }
        }
    }

    /// The row of a pair in use; the first command to an idle pair takes it into use, with nothing of its past in the
    /// sockets. A pair that still drains takes no command.
    fn lent(&mut self, pair: PortPair) -> Option<usize> {
        let Some(&row) = self.rows.get(&pair) else {
            tracing::error!(?pair, "a media command for a pair this worker does not have");
            return None;
        };
        if self.table.lend(row, self.now) {
            if self.busy.is_empty() {
                self.set_timer(TICK);
            }
            self.busy.push(row);
            self.ports[row].sockets.iter().for_each(Socket::drain);
        }
        let lent = self.table.is_lent(row);
        if !lent {
            tracing::error!(?pair, "a media command for a closed pair that is not quiet yet");
        }
        lent.then_some(row)
    }

    /// The row is looked at with every tick while it has a sound.
    fn sounds(&mut self, row: usize) {
        if !self.sounding.contains(&row) {
            self.sounding.push(row);
        }
    }

    fn expect(&mut self, row: usize, family: Family, announced: [SocketAddr; 2], signalled: Option<IpAddr>) {
        self.socket(Slot::rtp(row)).disconnect();
        let [rtp, rtcp] = announced.map(|far| self.guard.admit(family, far));
        let moved = self.table.expect(row, (rtp, rtcp), signalled, self.now);
        if let (true, Some(protection)) = (moved, &mut self.ports[row].protection) {
            protection.moved();
        }
    }

    fn secure(&mut self, row: usize, keys: Option<&Keys>) {
        if keys.is_some() {
            self.table.number_low(row);
        }
        match (&mut self.ports[row].protection, keys) {
            (protection, None) => *protection = None,
            (Some(protection), Some(keys)) => protection.turn_to(keys),
            (protection, Some(keys)) => *protection = Some(Box::new(Protection::new(keys))),
        }
    }

    // --- time --------------------------------------------------------------------------------------------------

    /// Starts the timer, or stops it with zero.
    fn set_timer(&mut self, interval: Duration) {
        let interval = Timespec { tv_sec: 0, tv_nsec: interval.subsec_nanos().into() };
        let setting = Itimerspec { it_interval: interval, it_value: interval };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting) {
            tracing::error!(%error, "a relay thread has no timer: no sounds, no watch, no quiet");
        }
        self.next_tick = now() + TICK;
    }

    /// All frames that are due. After a long stall the oldest are left out, and the timestamps of the next ones say so.
    fn tick(&mut self) {
        let mut count = [0; 8];
        let due = rustix::io::read(&self.timer, &mut count).map_or(0, |_| u64::from_ne_bytes(count));
        for late in (0..due).rev() {
            if late < CATCH_UP {
                self.send_frame();
            }
            self.next_tick += TICK;
        }
        self.look();
    }

    fn send_frame(&mut self) {
        let mut packet = [0; HEADER + FRAME];
        self.sounding.retain(|&row| self.table.is_sounding(row));
        for at in 0..self.sounding.len() {
            let row = self.sounding[at];
            if let Some((target, length)) = self.table.sound(row, &mut packet, self.next_tick) {
                self.buffer[..length].copy_from_slice(&packet[..length]);
                self.send_rtp(Slot::rtp(row), target, length);
            }
        }
        self.heed();
    }

    /// A look at the rows whose turn it is.
    fn look(&mut self) {
        let unix = Duration::from_millis(self.epoch.unix_ms(self.now).unsigned_abs());
        for _ in 0..self.busy.len().div_ceil(ROUND) {
            let at = if self.next_look < self.busy.len() { self.next_look } else { 0 };
            let row = self.busy[at];
            self.next_look = at + 1;
            let events = [self.table.look(row, self.now), self.table.count(row, self.now)];
            events.into_iter().flatten().for_each(|event| self.tell(event));
            if let Step::Report(out, target, length) = self.table.own_report(row, unix, self.now) {
                self.send_report(out, target, length);
            }
            if self.table.is_idle(row) {
                self.busy.swap_remove(at);
                self.next_look = at;
            }
        }
        if self.busy.is_empty() {
            self.set_timer(Duration::ZERO);
        }
    }
}
