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

/// A running session timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionTimer {
    seconds: u32,
    /// Whether the refreshes are ours to send.
    pub ours: bool,
}

impl SessionTimer {
    /// What the far side's request asks for; our answer in a 2xx is [`SessionTimer::write`]. The outer error is the
    /// Min-SE of a 422.
    pub(super) fn asked(request: &Message, settings: SessionSettings) -> Result<Option<Self>, u32> {
        let Some((seconds, refresher)) = session_expires(request) else { return Ok(None) };
        let supported = names_option(request, HeaderName::Supported, "timer");
        if seconds < settings.least.max(90) {
            // Without support for timers a 422 would not be understood (RFC 4028 section 9).
            return if supported { Err(settings.least.max(90)) } else { Ok(None) };
        }
        Ok(Some(Self { seconds, ours: !supported || refresher == Some("uas") }))
    }

    /// What the far side's 2xx to our request agreed to.
    pub(super) fn agreed(response: &Message, settings: SessionSettings) -> Option<Self> {
        match session_expires(response) {
            Some((seconds, refresher)) => Some(Self { seconds, ours: refresher != Some("uas") }),
            // It knows no timers: our refreshes alone still tell whether it is there.
            None if settings.expires > 0 => Some(Self { seconds: settings.expires, ours: true }),
            None => None,
        }
    }

    /// The headers of our 2xx.
    pub(super) fn write(self, writer: &mut Writer) {
        let refresher = if self.ours { "uas" } else { "uac" };
        if !self.ours {
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
        match self.ours {
            true => s.out.push(Out::Start(LegTimer::Refresh, whole / 2)),
            false => s.out.push(Out::Stop(LegTimer::Refresh)),
        }
    }
}

fn session_expires(message: &Message) -> Option<(u32, Option<&str>)> {
    let value = message.header(HeaderName::SessionExpires)?;
    let (seconds, params) = value.split_once(';').unwrap_or((value, ""));
    Some((seconds.trim().parse().ok()?, crate::sip::value::Params(params).get("refresher")))
}
