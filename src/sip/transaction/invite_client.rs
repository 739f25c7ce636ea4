//! The INVITE client transaction (RFC 3261 figure 5, RFC 6026 section 7.2).

use std::time::Duration;

use bytes::Bytes;

use super::timer::Timer;
use super::{Action, Actions, Base};
use crate::sip::message::{HeaderName, Message, Method};
use crate::sip::write::Writer;

/// ```text
/// Calling -1xx-> Proceeding -2xx-> Accepted -M-> gone
///    |               |
///    +---- 3xx-6xx --+--> Completed -D-> gone
/// ```
#[derive(Debug)]
pub struct InviteClient {
    state: State,
    request: Bytes,
    base: Base,
    reliable: bool,
}

#[derive(Debug)]
enum State {
    Calling { wait: Duration, quenched: bool },
    Proceeding,
    Completed { ack: Bytes },
    Accepted,
}

impl InviteClient {
    /// Sends the INVITE.
    pub fn start(request: Bytes, base: Base, reliable: bool) -> (Self, Actions) {
        let mut actions = Actions::from_iter([Action::Transmit(request.clone())]);
        if !reliable {
            actions.push(Action::Start(Timer::A, base.t1));
        }
        actions.push(Action::Start(Timer::B, base.long()));
        (Self { state: State::Calling { wait: base.t1, quenched: false }, request, base, reliable }, actions)
    }

    /// The connection broke (RFC 3261 section 17.1.4). Where it rings already, timer B has gone as well: the answer
    /// comes over a connection of the far side's making (section 18.2.2), and giving up here would leave a call ringing
    /// that nobody takes.
    pub fn failed(&mut self) -> Actions {
        match self.state {
            State::Calling { .. } => Actions::from_iter([Action::TimedOut, Action::Terminated]),
            State::Proceeding | State::Completed { .. } | State::Accepted => Actions::new(),
        }
    }

    /// Whether nothing has been heard of it and it may be sent again.
    pub fn may_leave_again(&self) -> bool {
        matches!(self.state, State::Calling { quenched: false, .. })
    }

    /// Lets no further INVITE leave. What has left may still be answered until timer B.
    pub fn quench(&mut self) -> Actions {
        if let State::Calling { quenched, .. } = &mut self.state {
            *quenched = true;
            return Actions::from_iter([Action::Stop(Timer::A)]);
        }
        Actions::new()
    }

    /// A response that names this transaction.
    pub fn response(&mut self, response: &Message) -> Actions {
        let status = response.status().unwrap_or(0);
        match (&self.state, status) {
            (State::Calling { .. }, 100..200) => {
                self.state = State::Proceeding;
                Actions::from_iter([Action::Stop(Timer::A), Action::Stop(Timer::B), Action::Deliver])
            }
            (State::Proceeding, 100..200) => Actions::from_iter([Action::Deliver]),
            (State::Calling { .. } | State::Proceeding, 200..300) => {
                self.state = State::Accepted;
                Actions::from_iter([
                    Action::Stop(Timer::A),
                    Action::Stop(Timer::B),
                    Action::Start(Timer::M, self.base.long()),
                    Action::Deliver,
                ])
            }
            (State::Calling { .. } | State::Proceeding, _) => self.refused(response),
            (State::Accepted, 200..300) => Actions::from_iter([Action::Deliver]),
            (State::Completed { ack }, 300..) => Actions::from_iter([Action::Retransmit(ack.clone())]),
            (State::Accepted | State::Completed { .. }, _) => Actions::new(),
        }
    }

    fn refused(&mut self, response: &Message) -> Actions {
        let ack = ack_for(&self.request, response);
        self.state = State::Completed { ack: ack.clone() };
        Actions::from_iter([
            Action::Stop(Timer::A),
            Action::Stop(Timer::B),
            Action::Transmit(ack),
            Action::Start(Timer::D, if self.reliable { Duration::ZERO } else { self.base.long() }),
            Action::Deliver,
        ])
    }

    /// A timer fired.
    pub fn timer(&mut self, timer: Timer) -> Actions {
        match (&mut self.state, timer) {
            (State::Calling { wait, quenched: false }, Timer::A) => {
                *wait *= 2;
                Actions::from_iter([Action::Retransmit(self.request.clone()), Action::Start(Timer::A, *wait)])
            }
            (State::Calling { .. }, Timer::B) => Actions::from_iter([Action::TimedOut, Action::Terminated]),
            (State::Completed { .. }, Timer::D) | (State::Accepted, Timer::M) => {
                Actions::from_iter([Action::Terminated])
            }
            _ => Actions::new(),
        }
    }

    /// The CANCEL for this INVITE (RFC 3261 section 9.1): same Request-URI, Via, Route, From, To, Call-ID and number.
    pub fn cancel(&self) -> Bytes {
        let Ok(invite) = Message::read(self.request.clone()) else { return Bytes::new() };
        let to = invite.header(HeaderName::To).unwrap_or("");
        hop_by_hop(&invite, &Method::Cancel, to)
    }
}

/// The ACK for a final response that is no 2xx (RFC 3261 section 17.1.1.3).
fn ack_for(invite: &Bytes, response: &Message) -> Bytes {
    let Ok(invite) = Message::read(invite.clone()) else { return Bytes::new() };
    hop_by_hop(&invite, &Method::Ack, response.header(HeaderName::To).unwrap_or(""))
}

fn hop_by_hop(invite: &Message, method: &Method, to: &str) -> Bytes {
    let mut writer = Writer::request(method, invite.request_uri());
    writer.header(HeaderName::Via, invite.header(HeaderName::Via).unwrap_or(""));
    writer.header(HeaderName::MaxForwards, "70");
    for route in invite.headers(HeaderName::Route) {
        writer.header(HeaderName::Route, route);
    }
    let number = invite.cseq().map_or(1, |cseq| cseq.number);
    writer
        .header(HeaderName::From, invite.header(HeaderName::From).unwrap_or(""))
        .header(HeaderName::To, to)
        .header(HeaderName::CallId, invite.call_id().unwrap_or(""))
        .header(HeaderName::CSeq, &format!("{number} {method}"))
        .finish()
}
