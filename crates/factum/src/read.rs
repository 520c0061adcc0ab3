//! Reads: bounded pages of a prefix of the log.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    event::RecordedEvent,
    name::StreamName,
    position::{Position, Revision, Token},
    query::Query,
    stream::StreamState,
    time::Timestamp,
};

/// Events in a page, unless the read says otherwise.
pub const DEFAULT_LIMIT: usize = 1000;

/// What to read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// Every event, also those of metadata streams.
    All,
    /// One stream, in the order of revisions.
    Stream(StreamName),
    /// The events that match, in the order of positions.
    Query(Query),
}

/// In which order to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// From old to new.
    #[default]
    Forwards,
    /// From new to old.
    Backwards,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// At the first event; the last when reading backwards.
    #[default]
    Edge,
    /// At this revision, included. Only for a stream.
    Revision(Revision),
    /// Beyond this place, excluded: after it, or before it when reading backwards.
    Beyond(Token),
}

/// An earlier moment to look from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AsOf {
    /// Events up to this position, included.
    Position(Position),
    /// Events recorded at this moment or before.
    Time(Timestamp),
}

/// A request for a page of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// From what.
    pub source: Source,
    /// In which order.
    pub direction: Direction,
    /// From where.
    pub start: Start,
    /// As seen from when; `None`: now.
    pub as_of: Option<AsOf>,
    /// How many events, at most. At least 1.
    pub limit: usize,
}

impl Read {
    fn of(source: Source) -> Self {
        Self { source, direction: Direction::Forwards, start: Start::Edge, as_of: None, limit: DEFAULT_LIMIT }
    }

    /// Reads everything.
    pub fn all() -> Self {
        Self::of(Source::All)
    }

    /// Reads a stream.
    pub fn stream(stream: StreamName) -> Self {
        Self::of(Source::Stream(stream))
    }

    /// Reads what matches.
    pub fn query(query: Query) -> Self {
        Self::of(Source::Query(query))
    }

    /// From new to old.
    #[must_use]
    pub fn backwards(self) -> Self {
        Self { direction: Direction::Backwards, ..self }
    }

    /// From this revision of the stream, included.
    #[must_use]
    pub fn from_revision(self, revision: Revision) -> Self {
        Self { start: Start::Revision(revision), ..self }
    }

    /// After this place (before it, when reading backwards), excluded.
    #[must_use]
    pub fn beyond(self, token: Token) -> Self {
        Self { start: Start::Beyond(token), ..self }
    }

    /// As seen from an earlier moment.
    #[must_use]
    pub fn as_of(self, as_of: AsOf) -> Self {
        Self { as_of: Some(as_of), ..self }
    }

    /// At most so many events.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// Whether the request makes sense.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a limit of 0, or a revision without a stream.
    pub fn check(&self) -> Result<()> {
        if self.limit == 0 {
            return Err(Error::invalid("the read's limit", "it is 0; ask for at least one event"));
        }
        if matches!(self.start, Start::Revision(_)) && !matches!(self.source, Source::Stream(_)) {
            return Err(Error::invalid(
                "the read's start",
                "a revision means something only within a stream; start at a token",
            ));
        }
        Ok(())
    }
}

/// A page of events.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The events, in the order asked for. There MAY be fewer than the limit, even none, where `next` says that there is more
    /// to look at.
    pub events: Vec<RecordedEvent>,
    /// How far the read has looked: what a guard or a checkpoint needs. Reading forwards, nothing that matches lies between
    /// the last event and this place; reading backwards, it is where the read began to look.
    pub token: Token,
    /// The end of the log as this read saw it: everything acknowledged before it began lies before.
    pub head: Token,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Start>,
    /// The state of the stream, if a stream was read.
    pub stream: Option<StreamState>,
}
