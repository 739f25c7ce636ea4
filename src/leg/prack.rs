//! Reliable provisional responses (RFC 3262), on both sides of a leg.

use std::time::Duration;

use bytes::Bytes;

use super::{LegCommand, Material};
use crate::sip::message::{HeaderName, Message, Method};

/// Whether a message's option-tag list names this tag.
pub(super) fn names_option(message: &Message, header: HeaderName, tag: &str) -> bool {
    message.list(header).any(|option| option.eq_ignore_ascii_case(tag))
}

/// Our reliable provisional response on its way: repeated until its PRACK comes.
#[derive(Debug)]
pub(super) struct Unpracked {
    pub rseq: u32,
    pub status: u16,
    pub message: Bytes,
    pub wait: Duration,
    /// What may only be said after the PRACK, in order.
    pub queue: Vec<(LegCommand, Material)>,
}

impl Unpracked {
    /// Whether this PRACK acknowledges it (RFC 3262 section 3).
    pub(super) fn is_acknowledged_by(&self, prack: &Message, invite_cseq: u32) -> bool {
        let Some(rack) = prack.header(HeaderName::RAck) else { return false };
        let mut words = rack.split_whitespace();
        let numbers = [words.next(), words.next()].map(|word| word.and_then(|word| word.parse::<u32>().ok()));
        numbers == [Some(self.rseq), Some(invite_cseq)] && words.next() == Some(Method::Invite.as_str())
    }
}

/// What a provisional response of the far side is, as far as reliability goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Provisional {
    /// Unreliable: act on it, owe nothing.
    Plain,
    /// The next reliable one: act on it and send PRACK with this RAck.
    Reliable(String),
    /// Out of order: nothing, it will come again (RFC 3262 section 4). A repeat of the last one is PRACKed already.
    Ignore,
}

/// Reads RSeq against the last one seen in this early dialog and moves it on.
pub(super) fn classify(response: &Message, last: &mut Option<u32>) -> Provisional {
    if !names_option(response, HeaderName::Require, "100rel") {
        return Provisional::Plain;
    }
    let rseq = response.header(HeaderName::RSeq).and_then(|text| text.parse::<u32>().ok());
    let (Some(rseq), Some(cseq)) = (rseq, response.cseq()) else { return Provisional::Plain };
    if last.is_some_and(|last| rseq != last.wrapping_add(1)) {
        return Provisional::Ignore;
    }
    *last = Some(rseq);
    Provisional::Reliable(format!("{rseq} {} {}", cseq.number, cseq.method))
}
