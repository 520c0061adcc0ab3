//! Errors that advise: what to do, whether to try again, and whether it can have happened.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    append::{ExpectedRevision, Guard},
    event::EventId,
    name::StreamName,
    position::{LogIdentity, Position, Revision, Token},
};

/// The result of everything a store does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whether an operation that answered with an error can have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did not happen, and never will.
    No,
    /// Nobody knows. Send it again with the same event ids: the store answers with what is recorded.
    Unknown,
}

/// Why a store could not do what was asked.
///
/// The variant says *what to do*, [`is_retryable`](Error::is_retryable) says *whether to try again*, and
/// [`outcome`](Error::outcome) says *whether it can have happened*. The text is for the person who reads the log.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A guard did not hold. Read again, decide again.
    #[error("{0}")]
    Conflict(Box<Conflict>),
    /// An event id is recorded already with other content, or only some ids of an append are recorded.
    #[error("event {id} of stream `{stream}` {problem}; give a new event a new id")]
    IdConflict {
        /// The stream in which the id is taken.
        stream: StreamName,
        /// The id.
        id: EventId,
        /// In which way it clashes.
        problem: IdProblem,
    },
    /// The request makes no sense; it will not make more sense the next time.
    #[error("{what}: {why}")]
    InvalidInput {
        /// The part of the request.
        what: String,
        /// What is wrong with it and what would be right.
        why: String,
    },
    /// The request is larger than the store takes.
    #[error("{limit} is {actual}, more than the {allowed} allowed")]
    LimitExceeded {
        /// Which limit.
        limit: Limit,
        /// Its value.
        allowed: u64,
        /// What was sent.
        actual: u64,
    },
    /// There is no such thing.
    #[error("there is no {what}")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The stream was tombstoned: it can be neither read nor written, for ever.
    #[error("stream `{stream}` is tombstoned: it can never be read or written again")]
    Tombstoned {
        /// The stream.
        stream: StreamName,
    },
    /// A token or checkpoint belongs to a history that this log does not have.
    #[error("{0}")]
    LogRewound(Box<LogRewound>),
    /// Another owner took over: a worker with a newer lease, or a process that opened the same data.
    #[error("{what} is owned by another: {by}")]
    Fenced {
        /// What is owned.
        what: String,
        /// By whom, as far as is known.
        by: String,
    },
    /// Stored bytes are not what was written.
    #[error("{0}")]
    Corrupt(Box<Corrupt>),
    /// There is no room on the disk. Nothing was written; appends succeed again once there is room.
    #[error("the disk is full: {what}; free some space, then try again")]
    StorageFull {
        /// What could not be stored.
        what: String,
    },
    /// A write or sync failed earlier. Nothing more is written through this handle: open the store again.
    #[error(
        "the store takes no more appends, because {cause}; reads go on, and opening it again recovers it"
    )]
    Poisoned {
        /// The failure.
        cause: String,
        /// Whether this very operation can have happened.
        outcome: Outcome,
    },
    /// The store cannot be reached or is shutting down.
    #[error("the store is not available: {why}")]
    Unavailable {
        /// Why.
        why: String,
        /// Whether this very operation can have happened.
        outcome: Outcome,
    },
    /// It took longer than allowed.
    #[error("{what} took longer than {after_ms} ms")]
    Timeout {
        /// What was waited for, and how far it came.
        what: String,
        /// How long was waited, in milliseconds.
        after_ms: u64,
        /// Whether this very operation can have happened.
        outcome: Outcome,
    },
}

impl Error {
    /// Shorthand for [`Error::InvalidInput`].
    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::InvalidInput { what: what.into(), why: why.into() }
    }

    /// Whether sending the very same request again can succeed.
    ///
    /// A [`Conflict`](Error::Conflict) is not retryable in this sense: the decision must be taken anew.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::StorageFull { .. } | Self::Unavailable { .. } | Self::Timeout { .. })
    }

    /// Whether what was asked can have happened all the same.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Poisoned { outcome, .. }
            | Self::Unavailable { outcome, .. }
            | Self::Timeout { outcome, .. } => *outcome,
            _ => Outcome::No,
        }
    }

    /// Whether this is a [`Conflict`](Error::Conflict): somebody else was quicker.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict(_))
    }
}

/// A guard that did not hold: which, what was expected, and what is.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    /// The guard, as it was sent.
    pub guard: Guard,
    /// What the store found instead.
    pub actual: Actual,
}

/// What a store found where a guard expected something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Actual {
    /// The stream was never written.
    NoStream,
    /// The stream ends at this revision.
    Revision(Revision),
    /// The stream is deleted; this was its last revision.
    Deleted(Revision),
    /// The stream is tombstoned.
    Tombstoned,
    /// An event matches the query at this position.
    Match(Position),
}

impl fmt::Display for Actual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStream => f.write_str("it does not exist"),
            Self::Revision(revision) => write!(f, "it is at revision {revision}"),
            Self::Deleted(revision) => write!(f, "it was deleted at revision {revision}"),
            Self::Tombstoned => f.write_str("it is tombstoned"),
            Self::Match(position) => write!(f, "there is one at position {position}"),
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.guard {
            Guard::Stream { stream, expected } => {
                let wish = match expected {
                    ExpectedRevision::Any => "in any state".to_owned(),
                    ExpectedRevision::NoStream => "not to exist".to_owned(),
                    ExpectedRevision::StreamExists => "to exist".to_owned(),
                    ExpectedRevision::Exact(revision) => format!("at revision {revision}"),
                };
                write!(f, "stream `{stream}` was expected {wish}, but {}", self.actual)
            }
            Guard::Query { query, after } => {
                let after = after.position;
                write!(
                    f,
                    "no event matching {query} was expected after position {after}, but {}",
                    self.actual
                )
            }
        }
    }
}

impl From<Conflict> for Error {
    fn from(conflict: Conflict) -> Self {
        Self::Conflict(Box::new(conflict))
    }
}

/// In which way an event id clashes with what is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdProblem {
    /// The id is recorded with other content.
    OtherContent,
    /// The id is recorded, but other events of the same append are not.
    PartlyRecorded,
}

impl fmt::Display for IdProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherContent => "is recorded already with other content",
            Self::PartlyRecorded => "is recorded already, but other events of this append are not",
        })
    }
}

/// A place in a history that this log does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRewound {
    /// The place that was asked for.
    pub token: Token,
    /// The log that was asked.
    pub log: LogIdentity,
    /// How far this log reaches.
    pub head: Position,
}

impl fmt::Display for LogRewound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token, log, head } = self;
        let at = token.position;
        let anew = "rebuild a read model from the start, and give a handler another name to begin anew";
        if token.log.log_id != log.log_id {
            let (theirs, ours) = (token.log.log_id, log.log_id);
            write!(
                f,
                "position {at} is of log {theirs}, but this is log {ours}: connect to the log it came from, or {anew}"
            )
        } else if token.log.epoch != log.epoch {
            let (then, now) = (token.log.epoch, log.epoch);
            write!(
                f,
                "position {at} is of epoch {then} of the log, which is now in epoch {now} (a restore or failover may have lost events): {anew}; where nothing was lost, PostgreSQL's `factum continue-epoch` lets both go on"
            )
        } else {
            write!(f, "position {at} is past the log's head at {head}: the log lost events; {anew}")
        }
    }
}

impl From<LogRewound> for Error {
    fn from(rewound: LogRewound) -> Self {
        Self::LogRewound(Box::new(rewound))
    }
}

/// Where stored bytes are damaged, and which events that touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// The file, or another name of the place, as the operator knows it.
    pub segment: String,
    /// The byte offset within it.
    pub offset: u64,
    /// The first and last position that may be unreadable, where known.
    pub positions: Option<(Position, Position)>,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged at byte {}", self.segment, self.offset)?;
        if let Some((first, last)) = self.positions {
            write!(f, " (positions {first} to {last})")?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl From<Corrupt> for Error {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(Box::new(corrupt))
    }
}

/// The limits that a request can exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// Bytes of one event: data, metadata, type and tags together.
    EventBytes,
    /// Bytes of one append.
    AppendBytes,
    /// Events of one append.
    AppendEvents,
    /// Bytes of one event's metadata.
    MetadataBytes,
    /// Bytes of a stream's name.
    StreamNameBytes,
    /// Bytes of an event type or content type.
    TypeBytes,
    /// Tags of one event.
    Tags,
    /// Bytes of one tag.
    TagBytes,
    /// Guards of one append.
    Guards,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EventBytes => "the size of an event in bytes",
            Self::AppendBytes => "the size of an append in bytes",
            Self::AppendEvents => "the number of events in an append",
            Self::MetadataBytes => "the size of an event's metadata in bytes",
            Self::StreamNameBytes => "the length of a stream's name in bytes",
            Self::TypeBytes => "the length of a type's name in bytes",
            Self::Tags => "the number of tags of an event",
            Self::TagBytes => "the length of a tag in bytes",
            Self::Guards => "the number of guards of an append",
        })
    }
}
