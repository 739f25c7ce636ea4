//! The server transaction of every request but INVITE (RFC 3261 figure 8).

use std::time::Duration;

use bytes::Bytes;

use super::timer::Timer;
use super::{Action, Actions, Base};

/// ```text
/// Trying -1xx-> Proceeding -final-> Completed -J-> gone
///    +-------------- final ------------^
/// ```
#[derive(Debug)]
pub struct Server {
    last: Option<Bytes>,
    answered: bool,
    base: Base,
    reliable: bool,
}

impl Server {
    /// A request has arrived.
    pub fn new(base: Base, reliable: bool) -> Self {
        Self { last: None, answered: false, base, reliable }
    }

    /// The request has arrived again.
    pub fn repeated(&self) -> Actions {
        self.last.clone().map(Action::Retransmit).into_iter().collect()
    }

    /// The user answers; only the first final response counts.
    pub fn respond(&mut self, status: u16, response: Bytes) -> Actions {
        if self.answered {
            return Actions::new();
        }
        self.last = Some(response.clone());
        self.answered = status >= 200;
        let mut actions = Actions::from_iter([Action::Transmit(response)]);
        if self.answered {
            actions.push(Action::Start(Timer::J, if self.reliable { Duration::ZERO } else { self.base.long() }));
        }
        actions
    }

    /// A timer fired.
    pub fn timer(&mut self, timer: Timer) -> Actions {
        (timer == Timer::J).then_some(Action::Terminated).into_iter().collect()
    }
}
