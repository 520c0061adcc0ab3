//! Appends: what to write, and what must hold for it.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Actual, Error, Limit, Result},
    event::NewEvent,
    name::StreamName,
    position::{Position, Revision, Token},
    query::Query,
    stream::StreamState,
};

/// Guards of one append, at most.
pub const GUARDS: usize = 1024;

/// What must be true of a stream for an append to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpectedRevision {
    /// Anything.
    Any,
    /// Never written, or deleted; a tombstoned stream does not satisfy it.
    NoStream,
    /// Written, and neither deleted nor tombstoned.
    StreamExists,
    /// The last event has this revision.
    Exact(Revision),
}

impl ExpectedRevision {
    /// Nothing, if `stream` is as expected; else what it is.
    ///
    /// # Errors
    /// What the stream is instead.
    pub fn check(self, stream: &StreamState) -> Result<(), Actual> {
        let actual = stream.actual();
        let holds = match self {
            Self::Any => true,
            Self::NoStream => matches!(actual, Actual::NoStream | Actual::Deleted(_)),
            Self::StreamExists => matches!(actual, Actual::Revision(_)),
            Self::Exact(expected) => {
                matches!(actual, Actual::Revision(last) | Actual::Deleted(last) if last == expected)
            }
        };
        if holds { Ok(()) } else { Err(actual) }
    }
}

/// A condition for an append, decided at the instant at which it takes its place in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Guard {
    /// A stream, written to or not, is in this state.
    Stream {
        /// The stream.
        stream: StreamName,
        /// The state.
        expected: ExpectedRevision,
    },
    /// No visible event matches `query` at a position greater than that of `after`: a dynamic consistency boundary.
    /// It notices what came, not what was hidden since.
    Query {
        /// What must not have happened.
        query: Query,
        /// How far the decision has seen: the token of the read it was based on.
        after: Token,
    },
}

impl Guard {
    /// The events that it is about.
    pub fn concerns(&self) -> Query {
        match self {
            Self::Stream { stream, .. } => Query::stream(stream.clone()),
            Self::Query { query, .. } => query.clone(),
        }
    }
}

/// Events for one stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// The stream.
    pub stream: StreamName,
    /// The events, in order.
    pub events: Vec<NewEvent>,
}

/// Any number of writes and guards, done as one: all or nothing, in the order given, with nothing between.
///
/// Without writes it only checks the guards.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Append {
    /// What to write.
    pub writes: Vec<Write>,
    /// What must hold, before any of the writes.
    pub guards: Vec<Guard>,
}

impl Append {
    /// An append that writes and checks nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// An append of events to one stream.
    pub fn to(stream: StreamName, events: impl IntoIterator<Item = NewEvent>) -> Self {
        Self::new().write(stream, events)
    }

    /// The same, and these events to `stream`.
    #[must_use]
    pub fn write(mut self, stream: StreamName, events: impl IntoIterator<Item = NewEvent>) -> Self {
        self.writes.push(Write { stream, events: events.into_iter().collect() });
        self
    }

    /// The same, provided that `guard` holds.
    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    /// The same, provided that `stream` is as expected.
    #[must_use]
    pub fn expect(self, stream: StreamName, expected: ExpectedRevision) -> Self {
        self.guard(Guard::Stream { stream, expected })
    }

    /// The same, provided that nothing matching `query` came after `after`.
    #[must_use]
    pub fn expect_none(self, query: Query, after: Token) -> Self {
        self.guard(Guard::Query { query, after })
    }

    /// Every event with its stream, in order.
    pub fn events(&self) -> impl Iterator<Item = (&StreamName, &NewEvent)> {
        self.writes.iter().flat_map(|write| write.events.iter().map(|event| (&write.stream, event)))
    }

    /// How many events it writes.
    pub fn event_count(&self) -> usize {
        self.writes.iter().map(|write| write.events.len()).sum()
    }
}

/// How safe an acknowledged append is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// A power cut cannot undo it.
    Synced,
    /// It is lost if the process or the machine stops at the wrong moment. Never given unless asked for.
    Relaxed,
}

/// Where one event of an append is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// In the whole store.
    pub position: Position,
    /// In its stream.
    pub revision: Revision,
}

/// An append that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Appended {
    /// Where each event is, in the order of the append. Empty if it wrote nothing.
    pub events: Vec<Placed>,
    /// The place up to which a reader must have come to see it all.
    pub token: Token,
    /// Whether all of it was recorded by an earlier append of the same ids; then the places are the original ones.
    pub replayed: bool,
    /// How safe it is.
    pub durability: Durability,
}

/// What a store takes at most. The defaults are those of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one event: 1 MiB by default, at most 16 MiB.
    pub event_bytes: usize,
    /// Bytes of one append: 16 MiB.
    pub append_bytes: usize,
    /// Events of one append: 10,000.
    pub append_events: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { event_bytes: 1 << 20, append_bytes: 16 << 20, append_events: 10_000 }
    }
}

impl Limits {
    /// Whether the append has something to do, and is small enough.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] or [`Error::LimitExceeded`].
    pub fn check(&self, append: &Append) -> Result<()> {
        let within = |limit, actual: usize, allowed: usize| {
            let (allowed, actual) = (allowed as u64, actual as u64);
            if actual > allowed { Err(Error::LimitExceeded { limit, allowed, actual }) } else { Ok(()) }
        };
        let (mut bytes, mut events) = (0, 0);
        for (_, event) in append.events() {
            within(Limit::EventBytes, event.size(), self.event_bytes)?;
            bytes += event.size();
            events += 1;
        }
        within(Limit::AppendEvents, events, self.append_events)?;
        within(Limit::AppendBytes, bytes, self.append_bytes)?;
        within(Limit::Guards, append.guards.len(), GUARDS)?;
        if events == 0 && append.guards.is_empty() {
            return Err(Error::invalid(
                "the append",
                "it has neither events nor guards; give it one or the other",
            ));
        }
        Ok(())
    }
}
