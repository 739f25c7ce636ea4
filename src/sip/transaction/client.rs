//! The client transaction of every request but INVITE (RFC 3261 figure 6).

use std::time::Duration;

use bytes::Bytes;

use super::timer::Timer;
use super::{Action, Actions, Base};
use crate::sip::message::Message;

/// ```text
/// Trying -1xx-> Proceeding -final-> Completed -K-> gone
///    +-------------- final ------------^
/// ```
#[derive(Debug)]
pub struct Client {
    state: State,
    request: Bytes,
    base: Base,
    reliable: bool,
}

#[derive(Debug)]
enum State {
    Trying { wait: Duration },
    Proceeding,
    Completed,
}

impl Client {
    /// Sends the request.
    pub fn start(request: Bytes, base: Base, reliable: bool) -> (Self, Actions) {
        let mut actions = Actions::from_iter([Action::Transmit(request.clone())]);
        if !reliable {
            actions.push(Action::Start(Timer::E, base.t1));
        }
        actions.push(Action::Start(Timer::F, base.long()));
        (Self { state: State::Trying { wait: base.t1 }, request, base, reliable }, actions)
    }

    /// The connection broke (RFC 3261 section 17.1.4).
    pub fn failed(&mut self) -> Actions {
        match self.state {
            State::Trying { .. } | State::Proceeding => Actions::from_iter([Action::TimedOut, Action::Terminated]),
            State::Completed => Actions::new(),
        }
    }

    /// Whether nothing has been heard of it.
    pub fn may_leave_again(&self) -> bool {
        matches!(self.state, State::Trying { .. })
    }

    /// A response that names this transaction.
    pub fn response(&mut self, response: &Message) -> Actions {
        let status = response.status().unwrap_or(0);
        match (&self.state, status) {
            (State::Trying { .. }, 100..200) => {
                self.state = State::Proceeding;
                let slower = (!self.reliable).then_some(Action::Start(Timer::E, self.base.t2));
                slower.into_iter().chain([Action::Deliver]).collect()
            }
            (State::Proceeding, 100..200) => Actions::from_iter([Action::Deliver]),
            (State::Trying { .. } | State::Proceeding, _) => {
                self.state = State::Completed;
                Actions::from_iter([
                    Action::Stop(Timer::E),
                    Action::Stop(Timer::F),
                    Action::Start(Timer::K, if self.reliable { Duration::ZERO } else { self.base.t4 }),
                    Action::Deliver,
                ])
            }
            (State::Completed, _) => Actions::new(),
        }
    }

    /// A timer fired.
    pub fn timer(&mut self, timer: Timer) -> Actions {
        match (&mut self.state, timer) {
            (State::Trying { wait }, Timer::E) => {
                *wait = (*wait * 2).min(self.base.t2);
                Actions::from_iter([Action::Retransmit(self.request.clone()), Action::Start(Timer::E, *wait)])
            }
            (State::Proceeding, Timer::E) => {
                Actions::from_iter([Action::Retransmit(self.request.clone()), Action::Start(Timer::E, self.base.t2)])
            }
            (State::Trying { .. } | State::Proceeding, Timer::F) => {
                Actions::from_iter([Action::TimedOut, Action::Terminated])
            }
            (State::Completed, Timer::K) => Actions::from_iter([Action::Terminated]),
            _ => Actions::new(),
        }
    }
}
