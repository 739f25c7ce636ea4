//! The INVITE server transaction (RFC 3261 figure 7, RFC 6026 section 7.1).

use std::time::Duration;

use bytes::Bytes;

use super::timer::Timer;
use super::{Action, Actions, Base};

/// ```text
/// Proceeding -2xx-> Accepted -L-> gone
///     |
///     +--3xx-6xx--> Completed -ACK-> Confirmed -I-> gone
///                       +--H--> gone
/// ```
#[derive(Debug)]
pub struct InviteServer {
    state: State,
    base: Base,
    reliable: bool,
}

#[derive(Debug)]
enum State {
    Proceeding { last: Option<Bytes> },
    Completed { last: Bytes, wait: Duration },
    Confirmed,
    Accepted,
}

impl InviteServer {
    /// An INVITE has arrived.
    pub fn new(base: Base, reliable: bool) -> Self {
        Self { state: State::Proceeding { last: None }, base, reliable }
    }

    /// The INVITE has arrived again.
    pub fn repeated(&self) -> Actions {
        match &self.state {
            State::Proceeding { last: Some(last) } | State::Completed { last, .. } => {
                Actions::from_iter([Action::Retransmit(last.clone())])
            }
            State::Proceeding { last: None } | State::Confirmed | State::Accepted => Actions::new(),
        }
    }

    /// An ACK with the INVITE's branch has arrived. After a 2xx it belongs to the dialog and is passed up.
    pub fn ack(&mut self) -> Actions {
        match self.state {
            State::Completed { .. } => {
                self.state = State::Confirmed;
                let wait = if self.reliable { Duration::ZERO } else { self.base.t4 };
                Actions::from_iter([Action::Stop(Timer::G), Action::Stop(Timer::H), Action::Start(Timer::I, wait)])
            }
            State::Accepted => Actions::from_iter([Action::Deliver]),
            State::Proceeding { .. } | State::Confirmed => Actions::new(),
        }
    }

    /// The user answers. Nothing leaves after a final response but the user's repeated 2xx.
    pub fn respond(&mut self, status: u16, response: Bytes) -> Actions {
        let State::Proceeding { last } = &mut self.state else {
            let repeats_2xx = matches!(self.state, State::Accepted) && (200..300).contains(&status);
            return repeats_2xx.then_some(Action::Retransmit(response)).into_iter().collect();
        };
        match status {
            ..200 => {
                *last = Some(response.clone());
                Actions::from_iter([Action::Transmit(response)])
            }
            200..300 => {
                self.state = State::Accepted;
                Actions::from_iter([Action::Transmit(response), Action::Start(Timer::L, self.base.long())])
            }
            _ => {
                self.state = State::Completed { last: response.clone(), wait: self.base.t1 };
                let again = (!self.reliable).then_some(Action::Start(Timer::G, self.base.t1));
                let limit = Action::Start(Timer::H, self.base.long());
                [Action::Transmit(response)].into_iter().chain(again).chain([limit]).collect()
            }
        }
    }

    /// A timer fired.
    pub fn timer(&mut self, timer: Timer) -> Actions {
        match (&mut self.state, timer) {
            (State::Completed { last, wait }, Timer::G) => {
                *wait = (*wait * 2).min(self.base.t2);
                Actions::from_iter([Action::Retransmit(last.clone()), Action::Start(Timer::G, *wait)])
            }
            (State::Completed { .. }, Timer::H) | (State::Confirmed, Timer::I) | (State::Accepted, Timer::L) => {
                Actions::from_iter([Action::Terminated])
            }
            _ => Actions::new(),
        }
    }

    /// Whether a final response has been given.
    pub fn is_answered(&self) -> bool {
        !matches!(self.state, State::Proceeding { .. })
    }
}
