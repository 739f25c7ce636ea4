//! A relay thread: level-triggered epoll over its ports, the [`Table`] for every decision, a tick for our own sounds.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use tokio::sync::mpsc::UnboundedSender;

use super::guard::Guard;
use super::ports::Socket;
use super::relay::{Notice, Slot, Step, Table};
use super::stream::HEADER;
use super::tones::FRAME;
use super::{MediaError, MediaSettings};
use crate::b2bua::io::{MediaCommand, MediaEvent, PortPair};
use crate::clock::now;

/// Wake-ups handled before the clock is read again: at 10 µs a packet, 2.5 ms.
const BATCH: usize = 256;
/// The largest UDP payload there is.
const LARGEST: usize = 65_535;
/// Our sounds are sent 50 times a second.
const FRAME_TIME: Duration = Duration::from_millis(20);
/// Frames sent late one after the other before the rest is left out.
const CATCH_UP: u32 = 5;
/// How often silence, sound again and quiet are looked for.
const LOOK: Duration = Duration::from_millis(50);
/// Epoll's name for the eventfd; all others are slots.
const WAKE: u64 = u64::MAX;

/// One thread's ports and everything known about them.
pub struct Worker {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    commands: Receiver<MediaCommand>,
    events: UnboundedSender<MediaEvent>,
    guard: Guard,
    /// By slot.
    sockets: Vec<Socket>,
    table: Table,
    /// Row of an RTP port.
    rows: HashMap<u16, usize>,
    /// Rows that are not idle.
    busy: Vec<usize>,
    /// Rows that hear a sound of ours.
    sounding: Vec<usize>,
    next_frame: Instant,
    next_look: Instant,
    buffer: Box<[u8]>,
    now: Instant,
}

impl Worker {
    /// Takes over the sockets of these pairs.
    pub fn new(
        settings: &MediaSettings,
        pairs: &[PortPair],
        sockets: Vec<Socket>,
        (wake, commands): (Arc<OwnedFd>, Receiver<MediaCommand>),
        events: UnboundedSender<MediaEvent>,
    ) -> Result<Self, MediaError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &*wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        for (slot, socket) in sockets.iter().enumerate() {
            epoll::add(&epoll, socket, epoll::EventData::new_u64(slot as u64), epoll::EventFlags::IN)?;
        }
        let started = now();
        Ok(Self {
            epoll,
            wake,
            commands,
            events,
            guard: Guard::new(settings),
            sockets,
            table: Table::new(pairs, settings.terms),
            rows: pairs.iter().enumerate().map(|(row, pair)| (pair.port, row)).collect(),
            busy: Vec::new(),
            sounding: Vec::new(),
            next_frame: started,
            next_look: started,
            buffer: vec![0; LARGEST].into_boxed_slice(),
            now: started,
        })
    }

    /// Works until the command channel is closed.
    pub fn run(mut self) {
        let mut woken = Vec::with_capacity(BATCH);
        loop {
            woken.clear();
            let timeout = self.timeout();
            match epoll::wait(&self.epoll, spare_capacity(&mut woken), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return tracing::error!(%error, "a relay thread lost its epoll and ends"),
            }
            self.now = now();
            for event in &woken {
                match event.data.u64() {
                    WAKE if !self.obey() => return,
                    WAKE => {}
                    slot => self.receive(Slot(slot as usize)),
                }
            }
            self.tick();
        }
    }

    /// Until the next frame or look is due; without bound when nothing is in use.
    fn timeout(&self) -> Option<Timespec> {
        let frame = (!self.sounding.is_empty()).then_some(self.next_frame);
        let look = (!self.busy.is_empty()).then_some(self.next_look);
        let due = frame.into_iter().chain(look).min()?;
        let wait = due.saturating_duration_since(now());
        Some(Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() })
    }

    // --- packets -----------------------------------------------------------------------------------------------

    fn receive(&mut self, slot: Slot) {
        let Some((length, source)) = self.sockets[slot.0].receive(&mut self.buffer) else { return };
        let packet = &mut self.buffer[..length];
        if let Step::Forward(out, target) = self.table.step(slot, source, packet, self.now)
            && self.sockets[out.0].send(packet, target)
        {
            self.table.sent(out, length);
        }
        if !self.table.notices.is_empty() {
            self.heed();
        }
    }

    fn heed(&mut self) {
        while let Some(notice) = self.table.notices.pop() {
            match notice {
                Notice::Started(pair) => self.tell(MediaEvent::Started(pair)),
                Notice::Settled(slot, far) => self.sockets[slot.0].connect(far),
            }
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
            MediaCommand::Expect { pair, rtp, rtcp } => {
                if let Some(row) = self.lent(pair) {
                    self.expect(row, rtp, rtcp);
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
                    self.sound_from_now(row);
                }
            }
            MediaCommand::Watch { pair, limit } => {
                if let Some(row) = self.lent(pair) {
                    self.table.watch(row, limit, self.now);
                }
            }
            MediaCommand::Close(pair) => {
                if let Some(row) = self.lent(pair) {
                    self.sockets[Slot::rtp(row).0].disconnect();
                    let closed = self.table.close(row, self.now);
                    self.tell(closed);
                }
            }
        }
    }

    /// The row of a pair in use; the first command to an idle pair takes it into use, with nothing of its past in the
    /// sockets. A pair that still drains takes no command.
    fn lent(&mut self, pair: PortPair) -> Option<usize> {
        let Some(&row) = self.rows.get(&pair.port) else {
            tracing::error!(?pair, "a media command for a pair this worker does not have");
            return None;
        };
        if self.table.lend(row, self.now) {
            self.busy.push(row);
            [Slot::rtp(row), Slot::rtcp(row)].iter().for_each(|slot| self.sockets[slot.0].drain());
        }
        let lent = self.table.is_lent(row);
        if !lent {
            tracing::error!(?pair, "a media command for a closed pair that is not quiet yet");
        }
        lent.then_some(row)
    }

    fn expect(&mut self, row: usize, rtp: SocketAddr, rtcp: SocketAddr) {
        self.sockets[Slot::rtp(row).0].disconnect();
        self.table.expect(row, self.guard.admit(rtp), self.guard.admit(rtcp), self.now);
    }

    // --- time --------------------------------------------------------------------------------------------------

    fn sound_from_now(&mut self, row: usize) {
        if self.sounding.is_empty() {
            self.next_frame = self.now;
        }
        if !self.sounding.contains(&row) {
            self.sounding.push(row);
        }
    }

    fn tick(&mut self) {
        if !self.sounding.is_empty() && self.now >= self.next_frame {
            self.send_frames();
        }
        if !self.busy.is_empty() && self.now >= self.next_look {
            self.next_look = self.now + LOOK;
            self.look();
        }
    }

    /// All frames that are due, on a grid that does not drift. After a long stall the missed ones are left out, and
    /// the timestamps of the next ones say so.
    fn send_frames(&mut self) {
        if self.now > self.next_frame + FRAME_TIME * CATCH_UP {
            self.next_frame = self.now;
        }
        while self.next_frame <= self.now {
            self.send_frame();
            self.next_frame += FRAME_TIME;
        }
    }

    fn send_frame(&mut self) {
        let mut packet = [0; HEADER + FRAME];
        self.sounding.retain(|&row| self.table.is_sounding(row));
        for &row in &self.sounding {
            let slot = Slot::rtp(row);
            if let Some(target) = self.table.sound(row, &mut packet, self.next_frame)
                && self.sockets[slot.0].send(&packet, target)
            {
                self.table.sent(slot, packet.len());
            }
        }
    }

    fn look(&mut self) {
        for &row in &self.busy {
            if let Some(event) = self.table.look(row, self.now) {
                self.tell(event);
            }
        }
        self.busy.retain(|&row| !self.table.is_idle(row));
    }
}
