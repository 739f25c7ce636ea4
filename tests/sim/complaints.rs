//! An unexpected WARN or ERROR fails a test.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Metadata, Subscriber, span};

/// What was complained about in this thread since it listens.
pub struct Complaints {
    heard: Arc<Mutex<Vec<String>>>,
    expected: RefCell<Vec<String>>,
    _guard: DefaultGuard,
}

struct Ear(Arc<Mutex<Vec<String>>>);

struct Words<'a>(&'a mut String);

impl Complaints {
    pub fn listen() -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let guard = tracing::subscriber::set_default(Ear(heard.clone()));
        Self { heard, expected: RefCell::default(), _guard: guard }
    }

    pub fn expect(&self, part: &str) {
        self.expected.borrow_mut().push(part.to_owned());
    }

    pub fn count(&self, part: &str) -> usize {
        self.heard.lock().expect("no test thread dies with it").iter().filter(|line| line.contains(part)).count()
    }

    /// Complaints that nobody expected, and expected ones that never came.
    pub fn heard(&self) -> Vec<String> {
        let heard = self.heard.lock().expect("no test thread dies with it");
        let expected = self.expected.borrow();
        let known = |line: &&String| !expected.iter().any(|part| line.contains(part.as_str()));
        let missing = expected.iter().filter(|part| !heard.iter().any(|line| line.contains(part.as_str())));
        let missing = missing.map(|part| format!("never complained about: {part}"));
        heard.iter().filter(known).cloned().chain(missing).collect()
    }
}

impl Subscriber for Ear {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }
    fn event(&self, event: &Event<'_>) {
        let mut line = format!("{}: ", event.metadata().level());
        event.record(&mut Words(&mut line));
        self.0.lock().expect("no test thread dies with it").push(line);
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

impl Visit for Words<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write;
        let _ = write!(self.0, "{}={value:?} ", field.name());
    }
}
