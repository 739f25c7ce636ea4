//! Our own rate towards ASAPP's API, below its limit of 100 requests a second for the account. A finished call's context
//! comes first, then numbers for new calls; evidence comes last. What does not fit is shed at once instead of rotting.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How much a request matters. Each leaves a share of the bucket to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// The outputContext of a finished call, or the settling of a create.
    Fetch,
    /// A number for a new call.
    Create,
    /// Evidence that the right party answered.
    Verify,
}

/// The share of the rate that new numbers may take. Each of them asks for a context later: were it all of the rate, so
/// many calls could end in one second that some of them would wait for their context in vain.
const CREATES: f64 = 2.0 / 3.0;

/// Two token buckets: one for everything, one for new numbers.
#[derive(Debug)]
pub struct Limiter {
    limited: bool,
    all: Bucket,
    creates: Bucket,
}

/// A token bucket that holds a quarter of a second.
#[derive(Debug)]
struct Bucket {
    /// Tokens a second.
    rate: f64,
    tokens: f64,
    filled: Option<Instant>,
}

impl Limiter {
    /// Full buckets for this many requests a second; 0 admits everything.
    pub fn new(rate: u32) -> Self {
        let limited = rate > 0;
        let rate = f64::from(rate);
        let creates = (rate * CREATES).max(rate.min(1.0));
        Self { limited, all: Bucket::full(rate), creates: Bucket::full(creates) }
    }

    /// Whether this request may be made now.
    pub fn admit(&mut self, now: Instant, priority: Priority) -> bool {
        self.all.fill(now);
        self.creates.fill(now);
        let room = self.all.room();
        let left_to_others = match priority {
            Priority::Fetch => 0.0,
            Priority::Create => room * 0.3,
            Priority::Verify => room * 0.6,
        };
        let share = priority != Priority::Create || self.creates.tokens >= 1.0;
        let admitted = !self.limited || (share && self.all.tokens >= 1.0 + left_to_others.min(room - 1.0));
        if admitted {
            self.all.tokens -= 1.0;
        }
        if admitted && priority == Priority::Create {
            self.creates.tokens -= 1.0;
        }
        admitted
    }
}

impl Bucket {
    fn full(rate: f64) -> Self {
        let empty = Self { rate, tokens: 0.0, filled: None };
        Self { tokens: empty.room(), ..empty }
    }

    fn fill(&mut self, now: Instant) {
        let since = self.filled.map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        self.filled = Some(now);
        self.tokens = (self.tokens + since.as_secs_f64() * self.rate).min(self.room());
    }

    fn room(&self) -> f64 {
        (self.rate / 4.0).max(1.0)
    }
}

/// At most so many within any sixty seconds, counted one by one: no burst comes on top.
#[derive(Debug)]
pub struct PerMinute {
    most: usize,
    admitted: VecDeque<Instant>,
}

impl PerMinute {
    /// This many; 0 admits everything.
    pub fn new(most: u32) -> Self {
        Self { most: most as usize, admitted: VecDeque::new() }
    }

    /// Whether one more may be made now.
    pub fn admit(&mut self, now: Instant) -> bool {
        if self.most == 0 {
            return true;
        }
        let over = |then: &Instant| now.saturating_duration_since(*then) >= Duration::from_secs(60);
        while self.admitted.front().is_some_and(over) {
            self.admitted.pop_front();
        }
        let admitted = self.admitted.len() < self.most;
        if admitted {
            self.admitted.push_back(now);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "any instant will do")]
    use super::*;

    #[test]
    fn creates_leave_room_for_fetches_and_evidence_comes_last() {
        let now = Instant::now();
        let mut limiter = Limiter::new(80);
        let verified = (0..100).filter(|_| limiter.admit(now, Priority::Verify)).count();
        let created = (0..100).filter(|_| limiter.admit(now, Priority::Create)).count();
        let fetched = (0..100).filter(|_| limiter.admit(now, Priority::Fetch)).count();
        assert_eq!((verified, created, fetched), (8, 6, 6));
    }

    #[test]
    fn creates_take_two_thirds_of_the_rate_however_many_there_are() {
        let start = Instant::now();
        let mut limiter = Limiter::new(90);
        let at = |n| start + Duration::from_millis(n);
        let admitted = (0..10_000).filter(|&n| limiter.admit(at(n), Priority::Create)).count();
        assert!((600..=615).contains(&admitted), "{admitted}");
    }

    #[test]
    fn over_time_no_more_than_the_rate_is_asked() {
        let start = Instant::now();
        let mut limiter = Limiter::new(90);
        let at = |n| start + Duration::from_millis(n);
        let admitted = (0..10_000).filter(|&n| limiter.admit(at(n), Priority::Fetch)).count();
        assert!((900..=923).contains(&admitted), "{admitted}");
    }

    #[test]
    fn no_sixty_seconds_hold_more_than_a_minute_may() {
        let start = Instant::now();
        let mut minute = PerMinute::new(3);
        let at = [0, 30, 59, 59, 60, 61, 90, 118, 119];
        let admitted: Vec<u64> =
            at.into_iter().filter(|&second| minute.admit(start + Duration::from_secs(second))).collect();
        assert_eq!(admitted, [0, 30, 59, 60, 90, 119]);
        assert!((0..1000).all(|_| PerMinute::new(0).admit(start)));
    }

    #[test]
    fn no_rate_is_no_limit_and_a_small_one_still_serves() {
        let now = Instant::now();
        assert!((0..1000).all(|_| Limiter::new(0).admit(now, Priority::Verify)));
        let mut small = Limiter::new(1);
        assert!(small.admit(now, Priority::Create) && !small.admit(now, Priority::Fetch));
        assert!(small.admit(now + Duration::from_secs(1), Priority::Create));
    }
}
