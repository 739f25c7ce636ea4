//! The supervised transfer: it knows the product and no SIP.

pub mod asapp;
pub mod context;
pub mod escape;
pub mod event;
mod handback;
mod input;
pub mod intake;
mod packing;
pub mod record;
pub mod recording;
pub mod rules;
pub mod settings;
pub mod state;
mod step;
pub mod succession;
pub mod ticket;
pub mod verdict;
pub mod webhook;

use std::fmt;

use serde::{Serialize, Serializer};

/// Our own id of a call: 128 random bits, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallRef(pub u128);

impl fmt::Display for CallRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for CallRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for CallRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl CallRef {
    /// The id of this call's transfer number `attempt` (counted from 1): unique, and readable in ASAPP's logs.
    pub fn transfer(self, attempt: u8) -> TransferId {
        TransferId(format!("{self}-{attempt}"))
    }
}

/// ASAPP's id of one call transfer; ours to choose, one per attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct TransferId(pub String);

impl TransferId {
    /// The call whose transfer this says it is.
    pub fn call(&self) -> Option<CallRef> {
        let (call, _) = self.0.split_once('-')?;
        u128::from_str_radix(call, 16).ok().map(CallRef)
    }
}

/// ASAPP's `externalConversationId`: the same value resumes the same conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct ConversationId(pub String);
