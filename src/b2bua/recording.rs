//! What the relay records of a call: the customer's pair, whoever is behind it.

use super::io::{MediaCommand, Output, Recorded, TapeEnd};
use super::transactions::LegId;
use super::{B2bua, CallEntry};
use crate::call::CallRef;
use crate::leg::LegRole;

/// How far the recording of a call has come.
#[derive(Debug)]
pub(super) enum Reel {
    /// It is recorded.
    Rolling,
    /// It was, and may be again.
    Paused,
    /// It is closed.
    Over(Recorded),
}

impl B2bua {
    /// Whether recordings are kept, and this call is there to be recorded.
    pub fn may_record(&self, call: CallRef) -> Option<bool> {
        self.settings.call.recording.kept.then(|| self.has_call(call))
    }

    /// The customer of this call is recorded from now on, or no longer.
    pub(super) fn record(&mut self, call: CallRef, on: bool) {
        let Some(pair) = self.open_pair(self.leg_of(call, LegRole::Customer)) else { return };
        let Some(entry) = self.calls.get_mut(&call) else { return };
        let command = match (&entry.recording, on) {
            (None | Some(Reel::Paused), true) => MediaCommand::Record { pair, call },
            (Some(Reel::Rolling), false) => MediaCommand::Pause { pair, call },
            (Some(Reel::Rolling | Reel::Over(_)), true) | (None | Some(Reel::Paused | Reel::Over(_)), false) => return,
        };
        entry.recording = Some(if on { Reel::Rolling } else { Reel::Paused });
        self.outputs.push_back(Output::Media(command));
    }

    /// The customer is somebody else, behind another pair.
    pub(super) fn record_instead(&mut self, call: CallRef, before: Option<LegId>) {
        if self.calls.get(&call).is_some_and(|entry| entry.is_recorded()) {
            let pause = self.open_pair(before).map(|pair| MediaCommand::Pause { pair, call });
            let now = self.open_pair(self.leg_of(call, LegRole::Customer));
            let record = now.map(|pair| MediaCommand::Record { pair, call });
            self.outputs.extend([pause, record].into_iter().flatten().map(Output::Media));
        }
    }

    /// The call is over, and so is its recording.
    pub(super) fn end_recording(&mut self, call: CallRef) {
        if let Some(entry) = self.calls.get(&call).filter(|entry| entry.recording.is_some()) {
            let worker = entry.worker;
            self.outputs.push_back(Output::Media(MediaCommand::EndRecording { worker, call }));
        }
    }

    /// The relay has closed it.
    pub(super) fn recorded(&mut self, call: CallRef, report: Recorded) {
        if let Some(entry) = self.calls.get_mut(&call) {
            entry.recording = Some(Reel::Over(report));
            self.write_if_counted(call);
        }
    }
}

impl CallEntry {
    /// Whether it is being recorded.
    pub(super) fn is_recorded(&self) -> bool {
        matches!(self.recording, Some(Reel::Rolling))
    }

    /// Whether there is more to be learned of its recording.
    pub(super) fn awaits_recording(&self) -> bool {
        matches!(self.recording, Some(Reel::Rolling | Reel::Paused))
    }

    /// What the record says of it.
    pub(super) fn take_recording(&mut self) -> Option<Recorded> {
        let unknown =
            Recorded { file: None, milliseconds: 0, lost_frames: 0, unreadable_frames: 0, end: TapeEnd::Unknown };
        match self.recording.take()? {
            Reel::Over(report) => Some(report),
            Reel::Rolling | Reel::Paused => Some(unknown),
        }
    }
}
