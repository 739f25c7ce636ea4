//! The circuit breaker before ASAPP's API: when it does not answer, calls fall back at once instead of waiting.

use std::time::Instant;

use super::settings::BreakerSettings;

/// ```text
/// Closed -failures in a row-> Open -time-> Probing -success-> Closed
///                              ^------------- failure -+
/// ```
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    Probing,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: BreakerSettings) -> Self {
        Self { settings, state: State::Closed { failures: 0 } }
    }

    /// Whether a request may be made now. After the pause the first one asked for is the probe.
    pub fn admit(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed { .. } => true,
            State::Open { until } if now >= until => {
                self.state = State::Probing;
                true
            }
            State::Open { .. } | State::Probing => false,
        }
    }

    /// The API answered: it is alive, whatever it said.
    pub fn succeeded(&mut self) {
        self.state = State::Closed { failures: 0 };
    }

    /// The API did not answer, or with a 5xx. True when that opened the breaker.
    pub fn failed(&mut self, now: Instant) -> bool {
        let failures = match self.state {
            State::Closed { failures } => failures + 1,
            State::Probing => self.settings.failures,
            State::Open { .. } => return false,
        };
        if self.settings.failures == 0 || failures < self.settings.failures {
            self.state = State::Closed { failures };
            return false;
        }
        self.state = State::Open { until: now + self.settings.open_for };
        true
    }

    /// Whether requests are withheld.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "any instant will do")]
    use super::*;
    use std::time::Duration;

    #[test]
    fn opens_after_failures_in_a_row_and_closes_after_one_probe() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut breaker = Breaker::new(BreakerSettings { failures: 2, open_for: second });
        assert!(!breaker.failed(now));
        breaker.succeeded();
        assert!(!breaker.failed(now) && breaker.failed(now));
        assert!(!breaker.admit(now + second / 2));
        assert!(breaker.admit(now + second), "one probe");
        assert!(!breaker.admit(now + second), "and no second one");
        assert!(breaker.failed(now + second) && !breaker.admit(now + second));
        assert!(breaker.admit(now + second * 2));
        breaker.succeeded();
        assert!(breaker.admit(now + second * 2) && !breaker.is_open());
    }
}
