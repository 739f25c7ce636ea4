//! What the relay is told of a call's audio, and what it says of it.

use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use super::B2bua;
use super::door::Spares;
use super::io::{Digit, EventTypes, Law, MediaCommand, Output, PortPair, Sound};
use super::transactions::LegId;
use crate::call::CallRef;
use crate::call::context::Carry;
use crate::call::event::{CallEvent, Press};
use crate::leg::{Leg, LegCommand, LegRole, Material, MediaCounters};
use crate::sdp::G711;

/// Between a key by INFO and the same key by an event: longer apart they are two presses.
const SAME_PRESS: Duration = Duration::from_millis(500);

/// How keys have come from a leg. Who sends both INFO and telephone events for one key has pressed it once: he is heard by his
/// events alone from the first one on.
#[derive(Debug, Default)]
pub(super) struct Pressed {
    by_events: bool,
    /// The last key that came by INFO, and when.
    told: Option<(Digit, Instant)>,
}

impl Pressed {
    /// Whether a key that comes by INFO is news.
    pub(super) fn by_info(&mut self, now: Instant, digit: Digit) -> bool {
        self.told = Some((digit, now));
        !self.by_events
    }

    /// Whether a key that comes by a telephone event is news.
    fn by_event(&mut self, now: Instant, digit: Digit) -> bool {
        let first = !std::mem::replace(&mut self.by_events, true);
        let told = self.told.is_some_and(|(told, at)| told == digit && now.saturating_duration_since(at) < SAME_PRESS);
        !(first && told)
    }
}

impl B2bua {
    /// The relay learns where the far side of a leg is; the watch on it rests while it holds. A leg may outlive its call,
    /// whose pairs are somebody else's then.
    pub(super) fn remote_changed(&mut self, id: LegId) {
        let Some(entry) = self.legs.get_mut(&id) else { return };
        let Some(audio) = entry.leg.remote().filter(|_| self.ports.has(entry.call, entry.pair)) else { return };
        let pair = entry.pair;
        if entry.keys.as_ref() != entry.leg.keys() {
            // Before its far side is expected: nobody is learned whose packets do not authenticate.
            entry.keys = entry.leg.keys().cloned();
            self.outputs.push_back(Output::Media(MediaCommand::Secure { pair, keys: entry.keys.clone() }));
        }
        if let (Some(rtp), Some(rtcp)) = (audio.rtp, audio.rtcp) {
            let signalled = entry.signalled();
            self.outputs.push_back(Output::Media(MediaCommand::Expect { pair, rtp, rtcp, signalled }));
        }
        let (held, listens) = (audio.is_held(), audio.listens());
        let (call, customer) = (entry.call, entry.role == LegRole::Customer);
        let types = entry.leg.telephone_events().map(|(hears, told)| EventTypes { hears, told });
        self.outputs.push_back(Output::Media(MediaCommand::Hold { pair, held: !listens }));
        self.outputs.push_back(Output::Media(MediaCommand::Events { pair, types }));
        self.agree(id);
        if held {
            self.watch(id, None);
        } else if self.calls.get(&call).is_some_and(|call| call.call.facts.answered.is_some()) {
            self.watch(id, Some(self.settings.media_timeout));
        }
        if customer {
            self.sound_again(call);
        }
        self.cover(call);
    }

    /// The relay learns the only law that a leg hears, once it is agreed on: who was answered in one law may not listen for
    /// the other that it offered (RFC 3264 section 7).
    pub(super) fn agree(&mut self, id: LegId) {
        let Some(entry) = self.legs.get_mut(&id) else { return };
        let law = entry.leg.audio_for_other().and_then(|audio| audio.only_law()).map(law);
        if self.ports.has(entry.call, entry.pair) && std::mem::replace(&mut entry.law, law) != law {
            self.outputs.push_back(Output::Media(MediaCommand::Law { pair: entry.pair, law }));
        }
    }

    /// The relay watches anew: what it said of this leg's silence before does not count, and it will not take it back.
    pub(super) fn watch(&mut self, id: LegId, limit: Option<Duration>) {
        let Some(entry) = self.legs.get_mut(&id) else { return };
        entry.silent = false;
        self.outputs.push_back(Output::Media(MediaCommand::Watch { pair: entry.pair, limit }));
    }

    /// Whoever talks with somebody who holds hears a sound of ours meanwhile (flow M6). So does a customer, unless the
    /// other side has a sound for him (`sendonly`), or he hears one of ours already.
    pub(super) fn cover(&mut self, call: CallRef) {
        let Some(entry) = self.calls.get(&call) else { return };
        let [customer, far] = [LegRole::Customer, entry.far()].map(|role| entry.side(role).leg);
        let leg = |id: Option<LegId>| id.and_then(|id| self.legs.get(&id)).filter(|leg| !leg.over);
        let audio = |id| leg(id).and_then(|leg| leg.leg.remote());
        let holds = audio(customer).is_some_and(|audio| audio.is_held());
        let mute = entry.sound.is_none() && audio(far).is_some_and(|audio| !audio.sends());
        self.cover_leg(far, holds);
        self.cover_leg(customer, mute);
    }

    fn cover_leg(&mut self, id: Option<LegId>, covered: bool) {
        let Some(leg) = id.and_then(|id| self.legs.get_mut(&id)).filter(|leg| !leg.over) else { return };
        let law = law_of(&leg.leg).filter(|_| covered);
        if std::mem::replace(&mut leg.covered, law) != law {
            let sound = law.map(|law| (Sound::Hold, law));
            self.outputs.push_back(Output::Media(MediaCommand::Cover { pair: leg.pair, sound }));
        }
    }

    pub(super) fn connect(&mut self, call: CallRef, with: LegRole, watched: bool) {
        let legs = [LegRole::Customer, with].map(|role| self.leg_of(call, role));
        let pairs = legs.map(|leg| self.open_pair(leg));
        if let Some(entry) = self.calls.get_mut(&call) {
            entry.sound = None;
        }
        let [Some(customer), Some(far)] = pairs else { return };
        self.outputs.push_back(Output::Media(MediaCommand::Bridge(customer, far)));
        for leg in legs.into_iter().flatten().filter(|_| watched) {
            self.watch(leg, Some(self.settings.media_timeout));
        }
        self.cover(call);
    }

    /// What plays already plays on. An announcement that cannot be said is over at once.
    pub(super) fn play(&mut self, now: Instant, call: CallRef, sound: Sound) {
        if let Some(entry) = self.calls.get_mut(&call).filter(|entry| entry.sound.is_none_or(|(now, _)| now != sound)) {
            entry.sound = Some((sound, None));
        }
        self.cover(call);
        self.sound_again(call);
        if self.calls.get(&call).is_some_and(|entry| entry.sound == Some((Sound::Announcement, None))) {
            self.tell_call(now, call, CallEvent::Played);
        }
    }

    /// An announcement has been heard to its end.
    pub(super) fn played(&mut self, now: Instant, pair: PortPair) {
        let Some(call) = self.ports.owner(pair) else { return };
        let sound = self.calls.get(&call).and_then(|entry| entry.sound);
        if matches!(sound, Some((Sound::Announcement, _))) {
            self.tell_call(now, call, CallEvent::Played);
        }
    }

    /// Says our own sound to the relay where that has not been done in the law that the customer speaks now: a customer
    /// without an offer speaks none before its ACK.
    pub(super) fn sound_again(&mut self, call: CallRef) {
        let Some(entry) = self.calls.get_mut(&call) else { return };
        let Some(leg) = entry.side(LegRole::Customer).leg.and_then(|id| self.legs.get(&id)) else { return };
        let Some((sound, said)) = entry.sound else { return };
        let law = law_of(&leg.leg);
        if let (Some(law), false) = (law.filter(|law| said != Some(*law)), leg.over) {
            entry.sound = Some((sound, Some(law)));
            self.outputs.push_back(Output::Media(MediaCommand::Play { pair: leg.pair, sound, law }));
        }
    }

    /// The first RTP has come to this pair.
    pub(super) fn heard(&mut self, now: Instant, pair: PortPair) {
        let Some(call) = self.ports.owner(pair) else { return };
        let Some(entry) = self.calls.get(&call) else { return };
        let role = LegRole::ALL.into_iter().find(|role| entry.side(*role).pair == Some(pair));
        if let Some(role) = role {
            self.tell_call(now, call, CallEvent::Heard(role));
        }
    }

    /// A key was pressed on the far side of this pair.
    pub(super) fn pressed(&mut self, now: Instant, pair: PortPair, digit: Digit) {
        let Some(call) = self.ports.owner(pair) else { return };
        let Some(entry) = self.calls.get(&call) else { return };
        let role = LegRole::ALL.into_iter().find(|role| entry.side(*role).pair == Some(pair));
        let Some(role) = role else { return };
        let leg = self.leg_of(call, role).and_then(|id| self.legs.get_mut(&id));
        if leg.is_none_or(|leg| leg.pressed.by_event(now, digit)) {
            self.tell_call(now, call, CallEvent::Pressed(role, digit));
        }
    }

    /// The relay takes telephone events to whoever hears them, and makes one of what came by INFO; to everybody else an
    /// INFO goes.
    pub(super) fn pass(&mut self, now: Instant, call: CallRef, role: LegRole, press: Press) {
        let Some(id) = self.leg_of(call, role) else { return };
        let Some(entry) = self.legs.get(&id).filter(|entry| !entry.over) else { return };
        let (pair, hears_events) = (entry.pair, entry.leg.telephone_events().is_some());
        match press {
            Press::Heard(_) if hears_events => {}
            Press::Told(digit, info) if hears_events => {
                let lasts = Digit::lasts(&info);
                self.outputs.push_back(Output::Media(MediaCommand::Press { pair, digit, lasts }));
            }
            Press::Heard(digit) => {
                self.with_leg(id, |leg, s| leg.command(LegCommand::Inform(digit.info()), &Material::default(), s));
                self.work_off(now);
            }
            Press::Told(_, info) => self.command(now, call, role, LegCommand::Inform(info), Carry::default()),
        }
    }

    pub(super) fn silence(&mut self, now: Instant, pair: PortPair, silent: bool) {
        let Some(call) = self.ports.owner(pair) else { return };
        let Some(entry) = self.calls.get(&call) else { return };
        let legs = [entry.side(LegRole::Customer).leg, entry.side(entry.far()).leg];
        for id in legs.into_iter().flatten() {
            if let Some(leg) = self.legs.get_mut(&id).filter(|leg| leg.pair == pair) {
                leg.silent = silent;
            }
        }
        let dead = |id: Option<LegId>| id.and_then(|id| self.legs.get(&id)).is_some_and(|leg| leg.silent);
        if legs.into_iter().all(dead) {
            self.tell_call(now, call, CallEvent::MediaDead);
        }
    }

    pub(super) fn close_all_media(&mut self, pair: PortPair, spares: Spares, call: CallRef) {
        for pair in [pair].into_iter().chain(spares) {
            self.close_media(pair, call);
        }
    }

    /// A leg that has spoken its last word needs its pair no more. Where nobody was ever expected on it, nothing has to
    /// drain: the call has it ready for the next leg.
    pub(super) fn leg_parts_with(&mut self, id: LegId) {
        let Some(entry) = self.legs.get(&id) else { return };
        let (role, call, pair) = (entry.role, entry.call, entry.pair);
        let untouched = role != LegRole::Customer && entry.leg.remote().is_none() && self.ports.has(call, pair);
        match self.calls.get_mut(&call).filter(|call| untouched && call.record.is_none()) {
            Some(call) => {
                call.spare_pairs.push(pair);
                let side = call.side_mut(role);
                side.pair.take_if(|lent| *lent == pair);
            }
            None => self.close_media(pair, call),
        }
    }

    /// Closes a pair that is still this call's. A leg may speak its last word long after its call has ended.
    pub(super) fn close_media(&mut self, pair: PortPair, call: CallRef) {
        if self.ports.take_back(pair, call) {
            self.outputs.push_back(Output::Media(MediaCommand::Close(pair)));
        }
    }

    pub(super) fn media_counted(&mut self, pair: PortPair, counters: MediaCounters) {
        let Some(call) = self.ports.owner(pair) else { return };
        let Some(entry) = self.calls.get_mut(&call) else { return };
        if let Some(side) = entry.sides.iter_mut().find(|side| side.pair == Some(pair)) {
            side.so_far = Some(counters);
        }
    }

    pub(super) fn media_closed(&mut self, pair: PortPair, counters: MediaCounters) {
        let Some(call) = self.ports.owner(pair) else { return };
        let Entry::Occupied(mut entry) = self.calls.entry(call) else { return };
        if let Some(side) = entry.get_mut().sides.iter_mut().find(|side| side.pair == Some(pair)) {
            side.media = Some(counters);
        }
        self.write_if_counted(call);
    }

    pub(super) fn write_if_counted(&mut self, call: CallRef) {
        let Some(entry) = self.calls.get(&call) else { return };
        let known = entry.record.is_some() && !entry.awaits_recording();
        if known && entry.sides.iter().all(|side| side.media.is_some() || side.pair.is_none()) {
            self.write_record(call);
        }
    }
}

/// What a leg and we agreed on; without G.711 in it there is nothing we can say.
pub(super) fn law_of(leg: &Leg) -> Option<Law> {
    leg.audio_for_other().and_then(|audio| audio.g711()).map(law)
}

pub(super) fn law(law: G711) -> Law {
    match law {
        G711::Mu => Law::Mu,
        G711::A => Law::A,
    }
}
