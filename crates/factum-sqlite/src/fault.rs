//! What SQLite says, in factum's words.

use factum::{Error, Outcome, error::Corrupt};
use rusqlite::ErrorCode;

/// What goes wrong in a piece of work on a connection.
pub(crate) enum Fault {
    Sqlite(rusqlite::Error),
    Own(Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Own(error)
    }
}

/// The error, with the place where it happened and what to do.
pub(crate) fn explain(place: &str, fault: Fault) -> Error {
    let error = match fault {
        Fault::Own(error) => return error,
        Fault::Sqlite(error) => error,
    };
    let unavailable = |why: String, outcome| Error::Unavailable { why, outcome };
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            Error::StorageFull { what: format!("the read models in {place} cannot grow") }
        }
        // A damaged header and a file of another kind look the same.
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Error::from(Corrupt {
            segment: format!("the SQLite database {place}"),
            offset: 0,
            positions: None,
            problem: format!("{error}; delete it, and the read models are made again from the log"),
        }),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            unavailable(format!("the SQLite database {place} cannot be written ({error})"), Outcome::No)
        }
        Some(ErrorCode::CannotOpen) => {
            let advice = "check that its directory exists and that this user may write there";
            unavailable(
                format!("the SQLite database {place} cannot be opened ({error}); {advice}"),
                Outcome::No,
            )
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            unavailable(format!("the SQLite database {place} is locked by another program"), Outcome::No)
        }
        Some(ErrorCode::SystemIoFailure) => unavailable(
            format!("the SQLite database {place} cannot be read or written ({error})"),
            Outcome::Unknown,
        ),
        _ => Error::invalid(format!("SQL in {place}"), error.to_string()),
    }
}
