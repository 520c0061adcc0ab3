//! What PostgreSQL says, in the contract's words.

use factum::{Error, Outcome, error::Corrupt};
use tokio_postgres::error::{Severity, SqlState};

use crate::tls;

/// A failure on the way to an answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The contract's own.
    Known(Error),
    /// The database's, with whether a change can have happened all the same.
    Database(tokio_postgres::Error, Outcome),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Known(error)
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error, Outcome::No)
    }
}

impl Fault {
    /// The same, of a change that was on its way: unless the server says that it was refused, nobody knows.
    pub(crate) fn of_a_change(self) -> Self {
        match self {
            Self::Database(error, _) if error.as_db_error().is_none() || is_going_down(&error) => {
                Self::Database(error, Outcome::Unknown)
            }
            other => other,
        }
    }

    /// The same, of the wait after a commit: it happened, but not every reader may see it yet. Sent again, it waits again.
    pub(crate) fn not_settled(self) -> Self {
        match self {
            Self::Database(error, _) => Self::Database(error, Outcome::Unknown),
            known => known,
        }
    }

    /// Whether two transactions got in each other's way, so that the same can be tried again.
    pub(crate) fn is_clash(&self) -> bool {
        let Self::Database(error, Outcome::No) = self else { return false };
        let clashes = [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED];
        error.code().is_some_and(|code| clashes.contains(code))
    }

    /// Whether nobody knows if the change has happened.
    pub(crate) fn is_unknown(&self) -> bool {
        match self {
            Self::Known(error) => error.outcome() == Outcome::Unknown,
            Self::Database(_, outcome) => *outcome == Outcome::Unknown,
        }
    }

    /// Whether the connection failed, or there was none, so that the same can be tried on another.
    pub(crate) fn is_of_the_connection(&self) -> bool {
        match self {
            Self::Known(error) => matches!(error, Error::Unavailable { .. }),
            Self::Database(error, _) => error.as_db_error().is_none() || is_going_down(error),
        }
    }

    /// The error that it is; `place` names the database.
    pub(crate) fn explain(self, place: &str) -> Error {
        match self {
            Self::Known(error) => error,
            Self::Database(error, outcome) => explain(place, &error, outcome),
        }
    }
}

/// The same error, of a change of which nobody knows whether an earlier attempt at it has happened.
pub(crate) fn of_unknown_outcome(error: Error) -> Error {
    match error {
        Error::Unavailable { why, .. } => Error::Unavailable { why, outcome: Outcome::Unknown },
        Error::Timeout { what, after_ms, .. } => Error::Timeout { what, after_ms, outcome: Outcome::Unknown },
        Error::StorageFull { what } => Error::Unavailable { why: what, outcome: Outcome::Unknown },
        Error::InvalidInput { what, why } => {
            Error::Unavailable { why: format!("{what}: {why}"), outcome: Outcome::Unknown }
        }
        error => error,
    }
}

/// Whether the connection has ended with this error. Where the server itself breaks down, its words are those of the cause.
fn is_going_down(error: &tokio_postgres::Error) -> bool {
    let Some(said) = error.as_db_error() else { return false };
    // It ends the connection, whatever was on its way. A pooler between says so in words of its own, and may not mark them.
    let ends = matches!(said.parsed_severity(), Some(Severity::Panic | Severity::Fatal))
        || ["FATAL", "PANIC"].contains(&said.severity());
    if ends || said.code().code().starts_with("08") {
        return true;
    }
    let down = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
    error.code().is_some_and(|code| down.contains(code))
}

fn explain(place: &str, error: &tokio_postgres::Error, outcome: Outcome) -> Error {
    if let Some(why) = tls::explain(error) {
        return Error::invalid(format!("PostgreSQL {place}"), why);
    }
    let Some(said) = error.as_db_error() else {
        let text = with_causes(error);
        if text.starts_with("invalid configuration") {
            return Error::invalid(format!("the URL of PostgreSQL {place}"), text);
        }
        let why = format!("the connection to PostgreSQL {place} failed: {text}");
        return Error::Unavailable { why, outcome };
    };
    let (code, message) = (said.code(), said.message());
    let refused = |why: String| Error::invalid(format!("PostgreSQL {place}"), why);
    match code.code() {
        "53100" => Error::StorageFull { what: format!("PostgreSQL {place} says: {message}") },
        "53200" => {
            let why = format!(
                "PostgreSQL {place} says: {message}; if that is its table of locks, raise `max_locks_per_transaction`"
            );
            Error::Unavailable { why, outcome }
        }
        "57014" | "55P03" | "25P03" => Error::Timeout {
            what: format!("a statement on PostgreSQL {place} ({message})"),
            after_ms: 0,
            outcome,
        },
        "28P01" | "28000" => refused(format!("{message}; look at the user and the password of the URL")),
        "3D000" => refused(format!("{message}; create it, or look at the name in the URL")),
        "25006" => {
            refused(format!("{message}; it is a standby or set to read only, so write to the primary"))
        }
        "42P06" | "42P07" => {
            refused(format!("{message}, and is somebody else's; give the store another schema"))
        }
        "42501" => refused(format!("{message}; the role lacks a right that docs/postgres.md names")),
        "XX001" | "XX002" => {
            let problem = format!("{message}; restore the database from a backup");
            Corrupt { segment: format!("PostgreSQL {place}"), offset: 0, positions: None, problem }.into()
        }
        code if code.starts_with("57")
            || code.starts_with("53")
            || code.starts_with("08")
            || code.starts_with("40") =>
        {
            Error::Unavailable { why: format!("PostgreSQL {place} says: {message}"), outcome }
        }
        code => refused(format!("it refuses a statement: {message} (SQLSTATE {code})")),
    }
}

/// The error with what it rests on: the driver's own text says little.
fn with_causes(error: &tokio_postgres::Error) -> String {
    let (mut text, mut cause) = (error.to_string(), std::error::Error::source(error));
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text += ": ";
            text += &more;
        }
        cause = error.source();
    }
    text
}
