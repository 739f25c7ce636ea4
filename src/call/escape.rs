//! Keys that people press, and the sequence by which a customer takes the call back from GenerativeAgent.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::leg::Info;

/// A key of a telephone: one of the events 0 to 15 of RFC 4733 section 3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digit(u8);

/// A key that is told by INFO is heard so long at least, and at most: whoever listens must know it for one, and the ones after
/// it wait.
const SHORTEST: Duration = Duration::from_millis(60);
const LONGEST: Duration = Duration::from_secs(2);

/// The keys, each at the number of its event.
const KEYS: &str = "0123456789*#ABCD";

impl Digit {
    /// The key of a telephone event; `None` for an event that is no key.
    pub fn of_event(event: u8) -> Option<Self> {
        (usize::from(event) < KEYS.len()).then_some(Self(event))
    }

    /// The key that this character stands for.
    pub fn read(key: char) -> Option<Self> {
        let event = KEYS.find(key.to_ascii_uppercase())?;
        Some(Self(event as u8))
    }

    /// The number of its event.
    pub fn event(self) -> u8 {
        self.0
    }

    /// The key as people write it.
    pub fn key(self) -> char {
        char::from(KEYS.as_bytes()[usize::from(self.0)])
    }

    /// The key that an INFO tells of: `application/dtmf-relay` in its line `Signal=`, `application/dtmf` in its whole
    /// body; either by its character or by the number of its event.
    pub fn in_info(info: &Info) -> Option<Self> {
        let content_type = info.content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        let body = std::str::from_utf8(&info.body).ok()?;
        let written = match content_type.as_str() {
            "application/dtmf" => body,
            "application/dtmf-relay" => {
                let mut fields = body.lines().filter_map(|line| line.split_once('='));
                fields.find(|(name, _)| name.trim().eq_ignore_ascii_case("Signal"))?.1
            }
            _ => return None,
        };
        let (written, mut keys) = (written.trim(), written.trim().chars());
        match (keys.next(), keys.next()) {
            (Some(key), None) => Self::read(key),
            _ => written.parse().ok().and_then(Self::of_event),
        }
    }

    /// How long the key of an INFO was down: its line `Duration=`, in milliseconds, as far as that can be; 100 ms where it
    /// says nothing.
    pub fn lasts(info: &Info) -> Duration {
        let body = std::str::from_utf8(&info.body).unwrap_or_default();
        let mut fields = body.lines().filter_map(|line| line.split_once('='));
        let said = fields.find(|(name, _)| name.trim().eq_ignore_ascii_case("Duration"));
        let ms = said.and_then(|(_, ms)| ms.trim().parse().ok()).unwrap_or(100);
        Duration::from_millis(ms).clamp(SHORTEST, LONGEST)
    }

    /// An INFO that tells of this key, pressed as long as is usual.
    pub fn info(self) -> Info {
        let body = format!("Signal={}\r\nDuration=160\r\n", self.key());
        Info { content_type: "application/dtmf-relay".to_owned(), body: body.into() }
    }
}

/// Keys in the order in which they must be pressed; none: nobody waits for them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sequence(Vec<Digit>);

impl Sequence {
    /// The most keys of a sequence.
    pub const MOST: usize = 16;

    /// How many keys it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody waits for it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<String> for Sequence {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let keys: Option<Vec<Digit>> = text.chars().map(Digit::read).collect();
        let wrong = || format!("`{text}` is not up to {} keys of 0-9, *, #, A-D: write \"*0\"", Self::MOST);
        keys.filter(|keys| keys.len() <= Self::MOST).map(Self).ok_or_else(wrong)
    }
}

impl From<Sequence> for String {
    fn from(sequence: Sequence) -> Self {
        sequence.0.into_iter().map(Digit::key).collect()
    }
}

/// How far somebody has come with a sequence: how many of its keys are the last ones pressed, and when the last one was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Escape(Option<(usize, Instant)>);

impl Escape {
    /// A key was pressed; whether that completes the sequence. After a pause longer than this one begins anew.
    pub fn press(&mut self, digit: Digit, sequence: &Sequence, pause: Duration, now: Instant) -> bool {
        let in_time = self.0.filter(|(_, last)| now.saturating_duration_since(*last) <= pause);
        let pressed = [&sequence.0[..in_time.map_or(0, |(matched, _)| matched)], &[digit]].concat();
        let begun = |count: &usize| pressed.ends_with(&sequence.0[..*count]);
        let matched = (1..=pressed.len().min(sequence.len())).rev().find(begun);
        let complete = matched == Some(sequence.len());
        self.0 = matched.filter(|_| !complete).map(|matched| (matched, now));
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(3);

    fn sequence(text: &str) -> Sequence {
        Sequence::try_from(text.to_owned()).unwrap()
    }

    /// How often these keys, one a second, complete the sequence.
    fn completed(keys: &str, of: &str) -> usize {
        let (mut escape, start, of) = (Escape::default(), crate::clock::now(), sequence(of));
        let pressed = keys.chars().map(|key| Digit::read(key).unwrap()).zip(0..);
        pressed.filter(|(digit, at)| escape.press(*digit, &of, PAUSE, start + Duration::from_secs(*at))).count()
    }

    #[test]
    fn a_sequence_is_found_wherever_it_begins() {
        for keys in ["*0", "**0", "***0", "0*0", "12*34*0", "*1*0", "*0#"] {
            assert_eq!(completed(keys, "*0"), 1, "{keys}");
        }
        for keys in ["", "*", "0*", "*10", "0", "#0"] {
            assert_eq!(completed(keys, "*0"), 0, "{keys}");
        }
        assert_eq!(completed("*0*0", "*0"), 2);
        assert_eq!(completed("1121121123", "1121123"), 1, "what overlaps is not lost");
        assert_eq!(completed("123", ""), 0, "off");
        assert_eq!(completed("000", "0"), 3);
    }

    #[test]
    fn m5_an_info_says_how_long_its_key_was_down() {
        let lasts = |body: &'static str| {
            let content_type = "application/dtmf-relay".to_owned();
            Digit::lasts(&Info { content_type, body: body.into() }).as_millis()
        };
        assert_eq!(lasts("Signal=5\r\nDuration=250\r\n"), 250);
        assert_eq!(lasts("Signal=5\nduration = 160"), 160);
        for nothing in ["Signal=5", "Signal=5\r\nDuration=-3", "Signal=5\r\nDuration=99999999999999999999", "\u{fe}"] {
            assert_eq!(lasts(nothing), 100, "{nothing}");
        }
        assert_eq!((lasts("Duration=0"), lasts("Duration=86400000")), (60, 2_000));
    }

    #[test]
    fn a_long_pause_begins_anew() {
        let (of, start) = (sequence("*0"), crate::clock::now());
        for (pause, complete) in [(PAUSE, true), (PAUSE + Duration::from_millis(1), false)] {
            let mut escape = Escape::default();
            assert!(!escape.press(Digit::read('*').unwrap(), &of, PAUSE, start));
            assert_eq!(escape.press(Digit::read('0').unwrap(), &of, PAUSE, start + pause), complete);
        }
    }

    #[test]
    fn sequences_are_written_as_keys() {
        assert_eq!(String::from(sequence("*0#abcD")), "*0#ABCD");
        assert!(sequence("").is_empty());
        for wrong in ["* 0", "x", "12345678901234567"] {
            assert!(Sequence::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_info_tells_of_one_key_or_of_none() {
        let read = |content_type: &str, body: &str| {
            let info = Info { content_type: content_type.into(), body: body.to_owned().into() };
            Digit::in_info(&info).map(Digit::key)
        };
        for (body, key) in [
            ("Signal=5\r\nDuration=160\r\n", Some('5')),
            ("Signal= *\nDuration= 250", Some('*')),
            ("duration=1\r\nsignal=10", Some('*')),
            ("Signal=d", Some('D')),
            ("Signal=16", None),
            ("Signal=", None),
            ("Duration=160", None),
            ("", None),
        ] {
            assert_eq!(read("application/dtmf-relay", body), key, "{body}");
        }
        assert_eq!(read("Application/DTMF; charset=x", "#\r\n"), Some('#'));
        assert_eq!(read("application/dtmf", "12"), Some('A'));
        assert_eq!(read("application/sdp", "5"), None);
        for key in KEYS.chars() {
            assert_eq!(Digit::in_info(&Digit::read(key).unwrap().info()), Digit::read(key));
        }
    }
}
