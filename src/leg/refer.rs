//! REFERs of ours inside a dialog, and their implicit subscriptions (RFC 3515).
//!
//! ```text
//! Asked -2xx, or a NOTIFY that overtakes it-> Accepted -final status, end of the subscription-> Known
//!   |------------- refusal, or no answer at all, BYE ---------------------------------------------^
//! ```
//!
//! One outcome of each REFER is told, and nothing after it. A NOTIFY is answered 200 for as long as the dialog
//! remembers what it is about.

use std::collections::VecDeque;
use std::time::Duration;

use super::{LegEvent, LegTimer, Material, Out, Surroundings, Transfer};
use crate::sip::message::{HeaderName, Message};
use crate::sip::refer::{Event, Subscription, fragment_status};
use crate::sip::transaction::key::ClientKey;

/// Earlier REFERs whose NOTIFYs are still known; of more, the oldest is forgotten.
const MAX_EARLIER: usize = 8;

/// The REFERs of one dialog: the last one, and what is left of those before it.
#[derive(Debug, Default)]
pub(super) struct Referrals {
    last: Option<Referral>,
    /// One that waits for an ACK: before that, the far side may not know the dialog yet.
    held: Option<(String, Material)>,
    /// Those whose subscription has not ended, oldest first.
    earlier: VecDeque<Earlier>,
}

#[derive(Debug)]
struct Earlier {
    /// Its CSeq.
    number: u32,
    /// Whether it was accepted and nobody has said what became of it.
    awaited: bool,
}

#[derive(Debug)]
struct Referral {
    /// Its request, as long as that waits for its answer.
    key: Option<ClientKey>,
    /// Its CSeq, by which NOTIFYs name it.
    number: u32,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not accepted yet.
    Asked,
    /// Accepted; its outcome is awaited.
    Accepted,
    /// Its outcome is told; NOTIFYs may still come.
    Known,
    /// None comes any more.
    Ended,
}

impl Referrals {
    /// It is sent when the ACK has come.
    pub(super) fn hold(&mut self, to: &str, material: &Material) {
        self.held = Some((to.to_owned(), material.clone()));
    }

    /// The one that waited for the ACK.
    pub(super) fn release(&mut self) -> Option<(String, Material)> {
        self.held.take()
    }

    /// Nobody waits for it any more. The key of the request that is still under way: what it brings all the same is told
    /// by its NOTIFYs.
    pub(super) fn withdraw(&mut self) -> Option<ClientKey> {
        self.held = None;
        self.last.as_mut()?.key.take()
    }

    /// A REFER has been sent; whatever becomes of the one before it is told to nobody.
    pub(super) fn begin(&mut self, key: ClientKey, number: u32) {
        let last = self.last.replace(Referral { key: Some(key), number, stage: Stage::Asked });
        if let Some(before) = last.filter(|before| before.stage != Stage::Ended) {
            if self.earlier.len() == MAX_EARLIER {
                self.earlier.pop_front();
            }
            self.earlier.push_back(Earlier { number: before.number, awaited: before.stage == Stage::Accepted });
        }
    }

    /// It was sent again, with what its peer wanted to be shown.
    pub(super) fn said_again(&mut self, key: ClientKey, number: u32) {
        if let Some(last) = &mut self.last {
            (last.key, last.number) = (Some(key), number);
        }
    }

    /// Whether this is the key of the REFER that waits for its answer.
    pub(super) fn awaits(&self, key: &ClientKey) -> bool {
        self.last.as_ref().is_some_and(|last| last.key.as_ref() == Some(key))
    }

    /// Its final answer; 408 where there was none (RFC 3261 section 8.1.3.1).
    pub(super) fn answered(&mut self, status: u16, s: &mut Surroundings<'_>) {
        let Some(last) = &mut self.last else { return };
        last.key = None;
        match (last.stage, status) {
            (Stage::Asked, 200..300) => last.accepted(s),
            (Stage::Asked | Stage::Accepted, 300..) => {
                last.told(
                    if matches!(status, 401 | 407) { Transfer::Unauthorized } else { Transfer::Rejected(status) },
                    s,
                );
                last.stage = Stage::Ended;
            }
            _ => {}
        }
    }

    /// The status to answer a NOTIFY with. One without an id is about the oldest REFER that was accepted and of which it has
    /// not been said what became of it, else about the last (RFC 3515 section 2.4.6).
    pub(super) fn notified(&mut self, notify: &Message, s: &mut Surroundings<'_>) -> u16 {
        let event = Event::read(notify.header(HeaderName::Event).unwrap_or(""));
        if !event.is_refer() {
            return 489;
        }
        let state = Subscription::read(notify.header(HeaderName::SubscriptionState).unwrap_or(""));
        let status = fragment_status(notify.body());
        let meant = |earlier: &Earlier| match event.id {
            Some(_) => event.number() == Some(earlier.number),
            None => earlier.awaited,
        };
        if let Some(at) = self.earlier.iter().position(meant) {
            self.earlier[at].awaited &= status.is_none_or(|status| status < 200);
            if state == Subscription::Terminated {
                self.earlier.remove(at);
            }
            return 200;
        }
        match &mut self.last {
            Some(last) if event.id.is_none() || event.number() == Some(last.number) => {
                last.notified(status, state, s);
                200
            }
            _ => 481,
        }
    }

    /// The far side has hung up: a REFER that it had accepted is taken for done, because whoever transfers a call ends
    /// the dialog (RFC 5589 section 6).
    pub(super) fn hung_up(&mut self, s: &mut Surroundings<'_>) {
        if self.held.take().is_some() {
            return s.out.push(Out::Event(LegEvent::TransferProgressed(Transfer::CallEnded)));
        }
        match self.last.as_mut() {
            Some(last) if last.stage == Stage::Asked => last.told(Transfer::CallEnded, s),
            Some(last) if last.stage == Stage::Accepted => last.told(Transfer::AcceptedUnconfirmed, s),
            _ => {}
        }
    }

    /// The dialog is over: nothing more is told.
    pub(super) fn close(&mut self) {
        self.held = None;
        if let Some(last) = &mut self.last {
            last.stage = Stage::Known;
        }
    }

    /// The subscription has run out.
    pub(super) fn expired(&mut self, s: &mut Surroundings<'_>) {
        if let Some(last) = self.last.as_mut().filter(|last| last.stage == Stage::Accepted) {
            last.told(Transfer::NoOutcome, s);
            last.stage = Stage::Ended;
        }
    }
}

impl Referral {
    fn accepted(&mut self, s: &mut Surroundings<'_>) {
        if self.stage == Stage::Asked {
            self.stage = Stage::Accepted;
            s.out.push(Out::Event(LegEvent::TransferProgressed(Transfer::Accepted)));
        }
    }

    /// Tells the outcome.
    fn told(&mut self, outcome: Transfer, s: &mut Surroundings<'_>) {
        self.stage = Stage::Known;
        s.out.push(Out::Stop(LegTimer::Unsubscribe));
        s.out.push(Out::Event(LegEvent::TransferProgressed(outcome)));
    }

    fn notified(&mut self, status: Option<u16>, state: Subscription, s: &mut Surroundings<'_>) {
        self.accepted(s);
        let terminated = state == Subscription::Terminated;
        if self.stage == Stage::Accepted {
            match status {
                Some(status @ 300..) => self.told(Transfer::Refused(status), s),
                Some(200..) => self.told(Transfer::Transferred, s),
                _ if terminated => self.told(Transfer::NoOutcome, s),
                Some(status) => s.out.push(Out::Event(LegEvent::TransferProgressed(Transfer::Progressed(status)))),
                None => {}
            }
        }
        if terminated {
            self.stage = Stage::Ended;
        }
        let expires = match state {
            Subscription::Active(expires) | Subscription::Pending(expires) => expires,
            Subscription::Terminated => None,
        };
        if let Some(wait) = expires.filter(|wait| self.stage == Stage::Accepted && *wait > Duration::ZERO) {
            s.out.push(Out::Start(LegTimer::Unsubscribe, wait));
        }
    }
}
