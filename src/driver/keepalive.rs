//! Keep-alives of our own on a stream (RFC 5626 section 4.4.1): a double CRLF goes out, a single one comes back.
//!
//! Only who negotiated outbound has promised the pong, so a missing one means nothing by itself. A peer that has once
//! answered a ping with a pong is taken at its word from then on: when nothing at all comes from it within the patience
//! after a later ping, its connection is broken.

use std::time::{Duration, Instant};

/// What is sent.
pub const PING: &[u8] = b"\r\n\r\n";
/// What comes back.
pub const PONG: &[u8] = b"\r\n";

/// What is due on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// Nothing yet.
    Rest,
    /// Send a ping.
    Ping,
    /// The peer owes a pong for too long.
    Broken,
}

/// The keep-alives of one connection.
#[derive(Debug)]
pub struct Keepalive {
    interval: Duration,
    patience: Duration,
    /// When the next ping is due; `None`: never.
    next: Option<Instant>,
    /// The last ping, while nothing has come since.
    unanswered: Option<Instant>,
    /// Whether the peer has answered a ping with a pong.
    pongs: bool,
}

impl Keepalive {
    /// A ping each interval, none for zero. A peer that pongs has `patience` for it.
    pub fn new(interval: Duration, patience: Duration, now: Instant) -> Self {
        let next = (!interval.is_zero()).then(|| now + interval);
        Self { interval, patience, next, unanswered: None, pongs: false }
    }

    /// When to ask for the next beat.
    pub fn due(&self) -> Option<Instant> {
        let broken = self.unanswered.filter(|_| self.pongs).map(|since| since + self.patience);
        [self.next, broken].into_iter().flatten().min()
    }

    /// What is due now; no ping unless it is `wanted`.
    pub fn beat(&mut self, now: Instant, wanted: bool) -> Beat {
        if self.pongs && self.unanswered.is_some_and(|since| now >= since + self.patience) {
            return Beat::Broken;
        }
        if self.next.is_none_or(|next| now < next) {
            return Beat::Rest;
        }
        self.next = Some(now + self.interval);
        if !wanted {
            return Beat::Rest;
        }
        self.unanswered = self.unanswered.or(Some(now));
        Beat::Ping
    }

    /// Whether a ping is out and nothing has come since: a single CRLF is its pong.
    pub fn waits(&self) -> bool {
        self.unanswered.is_some()
    }

    /// Something came; `pong` when it was that and nothing more.
    pub fn heard(&mut self, pong: bool) {
        self.pongs |= pong && self.waits();
        self.unanswered = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);
    const PATIENCE: Duration = Duration::from_secs(10);

    fn started() -> (Keepalive, Instant) {
        let now = crate::clock::now();
        (Keepalive::new(INTERVAL, PATIENCE, now), now)
    }

    /// What is due at each of these seconds.
    fn beats(keepalive: &mut Keepalive, start: Instant, seconds: &[u64]) -> Vec<Beat> {
        seconds.iter().map(|second| keepalive.beat(start + Duration::from_secs(*second), true)).collect()
    }

    #[test]
    fn a_peer_that_never_pongs_is_pinged_for_ever() {
        let (mut keepalive, start) = started();
        let seconds = [29, 30, 45, 60, 90, 3_600];
        use Beat::{Ping, Rest};
        assert_eq!(beats(&mut keepalive, start, &seconds), [Rest, Ping, Rest, Ping, Ping, Ping]);
    }

    #[test]
    fn a_peer_that_pongs_must_go_on() {
        let (mut keepalive, start) = started();
        assert_eq!(beats(&mut keepalive, start, &[30]), [Beat::Ping]);
        keepalive.heard(true);
        assert_eq!(beats(&mut keepalive, start, &[41, 60]), [Beat::Rest, Beat::Ping]);
        assert_eq!(keepalive.due(), Some(start + Duration::from_secs(70)));
        assert_eq!(beats(&mut keepalive, start, &[69, 70]), [Beat::Rest, Beat::Broken]);
    }

    #[test]
    fn whatever_comes_is_as_good_as_a_pong_and_promises_none() {
        let (mut keepalive, start) = started();
        assert_eq!(beats(&mut keepalive, start, &[30]), [Beat::Ping]);
        keepalive.heard(true);
        assert_eq!(beats(&mut keepalive, start, &[60]), [Beat::Ping]);
        keepalive.heard(false);
        assert_eq!(beats(&mut keepalive, start, &[75]), [Beat::Rest]);

        let (mut keepalive, start) = started();
        keepalive.heard(true);
        assert_eq!(beats(&mut keepalive, start, &[30, 60, 90]), [Beat::Ping; 3], "no ping was out");
    }

    #[test]
    fn nobody_answers_a_ping_that_was_not_wanted() {
        let (mut keepalive, start) = started();
        assert_eq!(keepalive.beat(start + INTERVAL, false), Beat::Rest);
        assert!(!keepalive.waits());
        assert_eq!(keepalive.due(), Some(start + INTERVAL * 2));
    }

    #[test]
    fn zero_is_off() {
        let start = crate::clock::now();
        let mut keepalive = Keepalive::new(Duration::ZERO, PATIENCE, start);
        assert_eq!((keepalive.due(), keepalive.beat(start + INTERVAL, true)), (None, Beat::Rest));
    }

    #[test]
    fn an_interval_below_the_patience_does_not_hide_the_silence() {
        let start = crate::clock::now();
        let mut keepalive = Keepalive::new(Duration::from_secs(3), PATIENCE, start);
        assert_eq!(beats(&mut keepalive, start, &[3]), [Beat::Ping]);
        keepalive.heard(true);
        assert_eq!(beats(&mut keepalive, start, &[6, 9, 12, 15]), [Beat::Ping; 4]);
        assert_eq!(beats(&mut keepalive, start, &[16]), [Beat::Broken]);
    }
}
