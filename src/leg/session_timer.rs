//! Session timers (RFC 4028): who refreshes the session, and when it is dead.

use std::time::Duration;

use super::prack::names_option;
use super::{LegTimer, Out, Surroundings};
use crate::sip::message::{HeaderName, Message};
use crate::sip::write::Writer;

/// What we ask of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionSettings {
    /// Seconds between refreshes that we offer; 0 offers none.
    pub expires: u32,
    /// The fewest seconds we accept; at least 90.
    pub least: u32,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self { expires: 1800, least: 90 }
    }
}

/// The shortest interval there is (RFC 4028 section 4).
const SHORTEST: u32 = 90;

/// A running session timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionTimer {
    seconds: u32,
    refresher: Refresher,
}

/// Who sends the refreshes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refresher {
    Far,
    Us,
    /// We, though the far side agreed to none: whatever it answers to them, it is there.
    Unasked,
}

impl SessionTimer {
    /// What the far side's request asks for; our answer in a 2xx is [`SessionTimer::write`]. The outer error is the
    /// Min-SE of a 422.
    pub(super) fn asked(request: &Message, settings: SessionSettings) -> Result<Option<Self>, u32> {
        let Some((seconds, refresher)) = session_expires(request) else { return Ok(None) };
        let supported = names_option(request, HeaderName::Supported, "timer");
        let least = settings.least.max(SHORTEST);
        if seconds < least {
            // Without support for timers a 422 would not be understood (RFC 4028 section 9).
            return if supported { Err(least) } else { Ok(None) };
        }
        let ours = !supported || refresher == Some("uas");
        Ok(Some(Self { seconds, refresher: if ours { Refresher::Us } else { Refresher::Far } }))
    }

    /// What the far side's 2xx to our request agreed to.
    pub(super) fn agreed(response: &Message, settings: SessionSettings) -> Option<Self> {
        match session_expires(response) {
            Some((seconds, Some("uas"))) => Some(Self { seconds: seconds.max(SHORTEST), refresher: Refresher::Far }),
            Some((seconds, _)) => Some(Self { seconds: seconds.max(SHORTEST), refresher: Refresher::Us }),
            // It knows no timers: our refreshes alone still tell whether it is there.
            None if settings.expires > 0 => Some(Self { seconds: settings.expires, refresher: Refresher::Unasked }),
            None => None,
        }
    }

    pub(super) fn is_ours(self) -> bool {
        self.refresher != Refresher::Far
    }

    pub(super) fn is_unasked(self) -> bool {
        self.refresher == Refresher::Unasked
    }

    /// Takes the longer interval that a 422 asks for; false when it asks for none.
    pub(super) fn lengthen(&mut self, response: &Message) -> bool {
        let longer = longer_interval(response, self.seconds);
        self.seconds = longer.unwrap_or(self.seconds);
        longer.is_some()
    }

    /// The time until a refused refresh is tried again: more than once before the interval ends.
    pub(super) fn pause(self) -> Duration {
        Duration::from_secs(u64::from(self.seconds)) / 12
    }

    /// The headers of our 2xx.
    pub(super) fn write(self, writer: &mut Writer) {
        let refresher = if self.is_ours() { "uas" } else { "uac" };
        if !self.is_ours() {
            writer.header(HeaderName::Require, "timer");
        }
        writer.header(HeaderName::SessionExpires, &format!("{};refresher={refresher}", self.seconds));
    }

    /// The headers of our refresh.
    pub(super) fn write_refresh(self, writer: &mut Writer) {
        writer
            .header(HeaderName::Supported, "timer")
            .header(HeaderName::SessionExpires, &format!("{};refresher=uac", self.seconds));
    }

    /// Starts from now: a refresh after half the interval, or the end shortly before all of it (section 10).
    pub(super) fn start(self, s: &mut Surroundings<'_>) {
        let whole = Duration::from_secs(u64::from(self.seconds));
        let grace = (whole / 3).min(Duration::from_secs(32));
        s.out.push(Out::Start(LegTimer::Expire, whole - grace));
        match self.is_ours() {
            true => s.out.push(Out::Start(LegTimer::Refresh, whole / 2)),
            false => s.out.push(Out::Stop(LegTimer::Refresh)),
        }
    }
}

/// The interval of a 422 that is longer than the one we asked for, and no more than a day.
pub(super) fn longer_interval(response: &Message, asked: u32) -> Option<u32> {
    let least = response.header(HeaderName::MinSe)?.split(';').next()?.trim().parse().ok()?;
    (least > asked && least <= 86_400).then_some(least)
}

fn session_expires(message: &Message) -> Option<(u32, Option<&str>)> {
    let value = message.header(HeaderName::SessionExpires)?;
    let (seconds, params) = value.split_once(';').unwrap_or((value, ""));
    Some((seconds.trim().parse().ok()?, crate::sip::value::Params(params).get("refresher")))
}
