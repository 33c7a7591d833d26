//! What happened, as a hash always and as text when it is asked for. Two runs of one seed must have the same hash; a run
//! that fails is repeated with text.

use std::cell::RefCell;
use std::rc::Rc;

/// Shared by everything in one run, and by the runner, which outlives a run that panics.
#[derive(Clone)]
pub struct Trace(Rc<RefCell<Inner>>);

struct Inner {
    hash: u64,
    events: u64,
    time: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// An empty trace; `text` keeps lines.
    pub fn new(text: bool) -> Self {
        let lines = text.then(Vec::new);
        Self(Rc::new(RefCell::new(Inner { hash: 0xcbf2_9ce4_8422_2325, events: 0, time: 0, lines })))
    }

    /// Time of what follows, in microseconds.
    pub fn at(&self, time: u64) {
        self.0.borrow_mut().time = time;
    }

    /// Something happened: numbers for the hash, text for people.
    pub fn note(&self, code: &str, a: u64, b: u64, text: impl FnOnce() -> String) {
        let mut inner = self.0.borrow_mut();
        inner.events += 1;
        let mut hash = inner.hash;
        for word in [inner.time, code.len() as u64 ^ u64::from(code.as_bytes()[0]) << 8, a, b] {
            hash = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29) ^ word >> 32;
        }
        inner.hash = hash;
        let time = inner.time;
        if let Some(lines) = &mut inner.lines {
            let text = text();
            lines.push(format!("{:>6}.{:06} {code:<10} {text}", time / 1_000_000, time % 1_000_000));
        }
    }

    /// Hash of all so far, and how much it was.
    pub fn hash(&self) -> (u64, u64) {
        let inner = self.0.borrow();
        (inner.hash, inner.events)
    }

    /// The text, if it was kept.
    pub fn lines(&self) -> Vec<String> {
        self.0.borrow().lines.clone().unwrap_or_default()
    }
}

impl Trace {
    /// Time of what is happening.
    pub fn time(&self) -> u64 {
        self.0.borrow().time
    }
}
