//! The four transaction machines of RFC 3261 section 17, with the Accepted states of RFC 6026.
//!
//! A transaction repeats; it decides nothing. Each machine takes one event and says what to do; whoever holds it keeps
//! its timers and its octets' destination. Over a reliable transport nothing is sent twice: timers A, E and G are off,
//! D, I, J and K are zero, B, F and H stay (RFC 3261 table 4).

pub mod client;
pub mod invite_client;
pub mod invite_server;
pub mod key;
pub mod server;
pub mod timer;

use bytes::Bytes;
use smallvec::SmallVec;
use std::time::Duration;

use timer::Timer;

/// What a machine wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send these octets.
    Transmit(Bytes),
    /// Send these octets again: the same, but counted as a retransmission.
    Retransmit(Bytes),
    /// Set a timer, replacing one of the same letter.
    Start(Timer, Duration),
    /// Forget a timer.
    Stop(Timer),
    /// The message that was just handled is news: pass it up.
    Deliver,
    /// No answer came: tell the user.
    TimedOut,
    /// The machine is done: drop it and its timers.
    Terminated,
}

/// What one event brings about, in order.
pub type Actions = SmallVec<[Action; 4]>;

/// RFC 3261 Table 4's base values, as settings give them.
#[derive(Debug, Clone, Copy)]
pub struct Base {
    /// Round-trip estimate.
    pub t1: Duration,
    /// Longest retransmission interval.
    pub t2: Duration,
    /// Longest time a message stays in the network.
    pub t4: Duration,
}

impl Base {
    /// 64*T1: timers B, F, H, J, L, M.
    pub fn long(&self) -> Duration {
        self.t1 * 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::message::Message;

    const BASE: Base = Base { t1: Duration::from_millis(500), t2: Duration::from_secs(4), t4: Duration::from_secs(5) };

    fn starts(actions: &Actions) -> Vec<(Timer, Duration)> {
        let start = |action: &Action| match action {
            Action::Start(timer, wait) => Some((*timer, *wait)),
            _ => None,
        };
        actions.iter().filter_map(start).collect()
    }

    fn response(status: u16, method: &str) -> Message {
        let text = format!(
            "SIP/2.0 {status} X\r\nVia: SIP/2.0/TCP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>;tag=2\r\n\
             Call-ID: c\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
        );
        Message::read(Bytes::from(text)).unwrap()
    }

    #[test]
    fn over_a_stream_nothing_is_repeated_and_nothing_lingers() {
        let request = Bytes::from_static(b"INVITE sip:a SIP/2.0\r\nVia: SIP/2.0/TCP a;branch=z9hG4bK1\r\n\r\n");
        let long = BASE.long();

        let (mut invite, actions) = invite_client::InviteClient::start(request.clone(), BASE, true);
        assert_eq!(starts(&actions), [(Timer::B, long)]);
        assert_eq!(starts(&invite.response(&response(486, "INVITE"))), [(Timer::D, Duration::ZERO)]);

        let (mut client, actions) = client::Client::start(request.clone(), BASE, true);
        assert_eq!(starts(&actions), [(Timer::F, long)]);
        assert_eq!(starts(&client.response(&response(100, "BYE"))), []);
        assert_eq!(starts(&client.response(&response(200, "BYE"))), [(Timer::K, Duration::ZERO)]);

        let mut server = invite_server::InviteServer::new(BASE, true);
        assert_eq!(starts(&server.respond(486, request.clone())), [(Timer::H, long)]);
        assert_eq!(starts(&server.ack()), [(Timer::I, Duration::ZERO)]);

        let mut server = server::Server::new(BASE, true);
        assert_eq!(starts(&server.respond(200, request)), [(Timer::J, Duration::ZERO)]);
    }

    #[test]
    fn a_broken_connection_fails_what_nobody_has_answered() {
        let request = Bytes::from_static(b"BYE sip:a SIP/2.0\r\n\r\n");
        let (mut invite, _) = invite_client::InviteClient::start(request.clone(), BASE, true);
        assert_eq!(invite.failed()[..], [Action::TimedOut, Action::Terminated]);
        let (mut ringing, _) = invite_client::InviteClient::start(request.clone(), BASE, true);
        ringing.response(&response(180, "INVITE"));
        assert!(ringing.failed().is_empty());
        let (mut client, _) = client::Client::start(request, BASE, true);
        assert_eq!(client.failed()[..], [Action::TimedOut, Action::Terminated]);
        client.response(&response(200, "BYE"));
        assert!(client.failed().is_empty());
    }
}
