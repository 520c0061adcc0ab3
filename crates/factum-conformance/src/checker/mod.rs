//! The history checker: whether what clients were told can be true of the log as it is in the end.
//!
//! The log's order is the order in which appends took effect. Each append took effect between the instant at which it was sent
//! and the first instant at which anyone was told so; from that follows, for every instant, the first and the last state of the
//! log that a client can have met then. Everything else is looked up. Event ids make it O(n log n), provided that the queries of
//! the history are about streams, categories, types or tags rather than about everything.
//!
//! ```text
//! instants    invoke A ── invoke B ── B answered ── A answered        log: B, A
//! B took effect before its answer; A after B; so whoever asks after "B answered" must meet B.
//! ```

mod blame;
mod guards;
mod log;
mod reads;

use std::fmt;

pub use log::FinalLog;

use crate::history::{Answer, Call, History, Operation};
use blame::Timeline;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which kind of promise.
    pub kind: Kind,
    /// What happened, in one sentence. `#17` is the operation whose call is line 17 of the history.
    pub text: String,
    /// The operations that it is about.
    pub operations: Vec<u64>,
}

/// Kinds of broken promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The final log itself is out of order: positions, revisions or times.
    Log,
    /// An acknowledged event is not in the log.
    LostAck,
    /// An event is not where its acknowledgement said.
    Moved,
    /// An event is in the log twice.
    Duplicate,
    /// An event's content is not what was sent.
    Altered,
    /// An event is in the log that nobody sent.
    Invented,
    /// An event is in the log though the store said that it did not happen.
    RefusedYetRecorded,
    /// Only some events of an append are in the log, or they are not one run in the order given.
    Torn,
    /// The log's order contradicts real time.
    Order,
    /// An append was acknowledged though its guard did not hold.
    Guard,
    /// An append was refused for a reason that was not there.
    FalseRefusal,
    /// An append sent again was not answered as such.
    Replay,
    /// A reader was not shown what was acknowledged before it asked.
    Stale,
    /// A reader was not shown an event in the middle of others.
    Skipped,
    /// A reader was shown what is not in the log, or not there.
    Phantom,
    /// A reader was shown an event that was hidden before.
    Hidden,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.text)
    }
}

/// Checks what clients were told against the log as it is in the end, when nobody writes any more.
///
/// Also checks that refusals had a reason: a conflict with an append that was never recorded is a broken promise, too.
pub fn check(history: &History, log: &FinalLog) -> Vec<Violation> {
    let mut found = Findings::default();
    let timeline = Timeline::new(history, log, &mut found);
    guards::check(&timeline, &mut found);
    reads::check(&timeline, &mut found);
    found.0
}

/// Checks, and describes the first few violations.
///
/// # Errors
/// The description.
pub fn verify(history: &History, log: &FinalLog) -> Result<(), String> {
    let violations = check(history, log);
    if violations.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = violations.iter().take(20).map(Violation::to_string).collect();
    Err(format!("{} broken promises:\n{}", violations.len(), shown.join("\n")))
}

/// The violations found so far.
#[derive(Debug, Default)]
struct Findings(Vec<Violation>);

impl Findings {
    fn add(&mut self, kind: Kind, operations: &[&Operation], text: String) {
        let operations = operations.iter().map(|operation| operation.invoked).collect();
        self.0.push(Violation { kind, text, operations });
    }
}

impl Operation {
    /// The events and guards, if it is an append.
    fn append(&self) -> Option<(&[crate::history::Sent], &[factum::Guard])> {
        match &self.call {
            Call::Append { events, guards } => Some((events, guards)),
            _ => None,
        }
    }

    /// The places, if it is an acknowledged append, and whether it was a replay.
    fn acknowledged(&self) -> Option<(&[factum::Placed], bool)> {
        match &self.answer {
            Some(Answer::Appended { places, replayed }) => Some((places, *replayed)),
            _ => None,
        }
    }

    /// The events that it was shown, if it read.
    fn shown(&self) -> &[crate::history::Seen] {
        match &self.answer {
            Some(Answer::Page { events, .. } | Answer::Events(events, _)) => events,
            _ => &[],
        }
    }

    /// Whether it can have happened although nobody said so.
    fn is_unknown(&self) -> bool {
        matches!(self.answer, None | Some(Answer::Unknown(_)))
    }
}
