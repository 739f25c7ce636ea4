//! The search for the servers of one place: one DNS question at a time, and again before the answers grow old.

use std::time::{Duration, Instant};

use crate::sip::hop::Transport;
use crate::sip::locate::{Known, Place, Question, Records, Server, locate};

/// The DNS's word on one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The question.
    pub question: Question,
    /// The records and how long they hold; or why there is no answer. No such name is an answer: no records.
    pub answer: Result<(Records, Duration), String>,
}

/// After a search that failed, and at the earliest after one that did not.
const SOON: Duration = Duration::from_secs(30);
/// At the latest.
const LATE: Duration = Duration::from_secs(3600);

/// One place and what is being learned of it.
#[derive(Debug)]
pub struct Search {
    place: Place,
    known: Known,
    holds: Duration,
    open: Option<Question>,
    again: Option<Instant>,
}

/// How a search goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Ask this.
    Ask(Question),
    /// These are the servers now.
    Found(Vec<Server>),
    /// It failed: what was found before stays.
    Failed(String),
    /// That was no answer to anything open.
    Nothing,
}

impl Search {
    /// A search that has not begun.
    pub fn new(place: Place) -> Self {
        Self { place, known: Known::new(), holds: LATE, open: None, again: None }
    }

    /// When to begin again; `None` while a question is open, and for a place that needs none.
    pub fn due(&self) -> Option<Instant> {
        self.again
    }

    /// Begins from nothing.
    pub fn begin(&mut self, now: Instant, speaks: impl Fn(Transport) -> bool) -> Progress {
        self.known.clear();
        self.holds = LATE;
        self.proceed(now, speaks)
    }

    /// Takes an answer.
    pub fn answered(&mut self, now: Instant, look: &Look, speaks: impl Fn(Transport) -> bool) -> Progress {
        if self.open.as_ref() != Some(&look.question) {
            return Progress::Nothing;
        }
        self.open = None;
        match &look.answer {
            Ok((records, holds)) => {
                self.holds = self.holds.min(*holds);
                self.known.insert(look.question.clone(), records.clone());
                self.proceed(now, speaks)
            }
            Err(why) => {
                self.again = Some(now + SOON);
                Progress::Failed(why.clone())
            }
        }
    }

    fn proceed(&mut self, now: Instant, speaks: impl Fn(Transport) -> bool) -> Progress {
        match locate(&self.place, &self.known, speaks) {
            Ok(servers) => {
                self.again = (!self.known.is_empty()).then(|| now + self.holds.clamp(SOON, LATE));
                Progress::Found(servers)
            }
            Err(question) => {
                self.again = None;
                self.open = Some(question.clone());
                Progress::Ask(question)
            }
        }
    }
}
