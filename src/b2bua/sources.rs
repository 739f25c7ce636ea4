//! How much one source may send: a bucket for its messages and one for its new calls, looked at before anything is read.
//!
//! The table has a fixed number of places. An address has a few of them to be in, and takes the one that was idle
//! longest: a look-up costs the same however many sources there are, and nobody can make the table grow.

use std::net::IpAddr;
use std::time::Instant;

use crate::sip::ids::Keyed;

/// Groups of places; the address says which is its own.
const SETS: usize = 1_024;
/// Places in each.
const PLACES: usize = 4;

/// The table.
#[derive(Debug)]
pub struct Sources {
    keyed: Keyed,
    /// Messages a second; 0: no limit.
    messages: u32,
    /// New calls a second; 0: no limit.
    calls: u32,
    sets: Vec<[Option<Source>; PLACES]>,
}

#[derive(Debug, Clone, Copy)]
struct Source {
    address: IpAddr,
    heard: Instant,
    messages: Bucket,
    calls: Bucket,
}

/// A token bucket that holds a second's worth.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Sources {
    /// A table for these rates.
    pub fn new(keyed: Keyed, messages: u32, calls: u32) -> Self {
        Self { keyed, messages, calls, sets: vec![[None; PLACES]; SETS] }
    }

    /// Whether one more message of this source is heard.
    pub fn may_send(&mut self, now: Instant, address: IpAddr) -> bool {
        let rate = self.messages;
        rate == 0 || self.source(now, address).is_none_or(|source| source.messages.take(now, rate))
    }

    /// Whether this source may begin one more call.
    pub fn may_call(&mut self, now: Instant, address: IpAddr) -> bool {
        let rate = self.calls;
        rate == 0 || self.source(now, address).is_none_or(|source| source.calls.take(now, rate))
    }

    fn source(&mut self, now: Instant, address: IpAddr) -> Option<&mut Source> {
        let full = |rate: u32| Bucket { tokens: f64::from(rate), filled: now };
        let fresh = Source { address, heard: now, messages: full(self.messages), calls: full(self.calls) };
        let set = &mut self.sets[self.keyed.hash(&address) as usize % SETS];
        let known = set.iter().position(|place| place.is_some_and(|source| source.address == address));
        let idlest = || (0..PLACES).min_by_key(|&at| set[at].map(|source| source.heard));
        let place = &mut set[known.or_else(idlest)?];
        let source = match known {
            Some(_) => place.get_or_insert(fresh),
            None => place.insert(fresh),
        };
        source.heard = now;
        Some(source)
    }
}

impl Bucket {
    fn take(&mut self, now: Instant, rate: u32) -> bool {
        let rate = f64::from(rate);
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + since * rate).min(rate);
        let admitted = self.tokens >= 1.0;
        if admitted {
            self.tokens -= 1.0;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "any instant will do")]
    use super::*;
    use std::time::Duration;

    fn address(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    fn table(messages: u32, calls: u32) -> Sources {
        Sources::new(Keyed::from_seed(&[7; 32]), messages, calls)
    }

    #[test]
    fn a_source_has_a_burst_and_then_its_rate_and_hurts_nobody_else() {
        let (start, mut sources) = (Instant::now(), table(100, 5));
        let at = |n: u64| start + Duration::from_millis(n);
        assert_eq!((0..1_000).filter(|_| sources.may_send(start, address(1))).count(), 100);
        assert!(sources.may_send(start, address(2)));
        assert_eq!((0..1_000).filter(|&n| sources.may_send(at(n), address(1))).count(), 99);
        assert_eq!((0..100).filter(|_| sources.may_call(start, address(1))).count(), 5, "counted by themselves");
    }

    #[test]
    fn no_rate_is_no_limit() {
        let (now, mut sources) = (Instant::now(), table(0, 0));
        assert!((0..10_000).all(|_| sources.may_send(now, address(1)) && sources.may_call(now, address(1))));
    }

    #[test]
    fn a_hundred_thousand_sources_take_no_more_room_and_the_busy_one_keeps_its_place() {
        let (start, mut sources) = (Instant::now(), table(10, 0));
        let places = |sources: &Sources| sources.sets.capacity();
        let before = places(&sources);
        for n in 0..100_000_u32 {
            let now = start + Duration::from_micros(n.into());
            sources.may_send(now, address(n + 1_000));
            sources.may_send(now, address(1));
        }
        assert_eq!(places(&sources), before);
        assert!(!sources.may_send(start, address(1)), "it never stopped: its bucket is empty still");
    }
}
