//! How the program ends when it does not end well: one sentence, and an exit code for each kind of trouble.

use std::{fmt, io, process::ExitCode};

use factum::Error;

use crate::source::BadFile;

/// What `--help` says about exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  anything else that went wrong
    2  the command line makes no sense
    3  refused by a rule of the bank, such as insufficient funds; nothing was recorded
    4  a bad file or row was given to import
    5  a conflict with what is recorded already; nothing was recorded
    6  the ledger is in use by another process
    7  the disk is full, read-only or not available; or the database is, or it does not let this user in
    8  stored data is damaged, or not what this program wrote
    9  verify found differences
   10  there is no such ledger or account
  130  interrupted; an import then says how to go on";

/// Why the program stops.
#[derive(Debug)]
pub(crate) struct Exit {
    kind: Kind,
    sentence: String,
}

/// The kinds of trouble, each with its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nobody reads what is printed: the usual end of `bank … | head`, and no trouble.
    NobodyReads = 0,
    Other = 1,
    Usage = 2,
    Refused = 3,
    BadInput = 4,
    Conflict = 5,
    Busy = 6,
    Storage = 7,
    Corrupt = 8,
    Differs = 9,
    NotFound = 10,
    Interrupted = 130,
}

impl Exit {
    pub(crate) fn new(kind: Kind, sentence: impl Into<String>) -> Self {
        Self { kind, sentence: sentence.into() }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The same, with where or how it came about put before it.
    #[must_use]
    pub(crate) fn because(self, before: impl fmt::Display) -> Self {
        Self { sentence: format!("{before}: {}", self.sentence), ..self }
    }

    /// The same, with how far things got or what to do put after it.
    #[must_use]
    pub(crate) fn but(&self, after: impl fmt::Display) -> Self {
        Self { sentence: format!("{}; {after}", self.sentence), kind: self.kind }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl From<Error> for Exit {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Conflict(_) | Error::IdConflict { .. } => Kind::Conflict,
            Error::LimitExceeded { .. } => Kind::Usage,
            Error::NotFound { .. } => Kind::NotFound,
            Error::Tombstoned { .. } => Kind::Refused,
            Error::Fenced { .. } => Kind::Busy,
            Error::StorageFull { .. }
            | Error::Poisoned { .. }
            | Error::Unavailable { .. }
            | Error::Timeout { .. } => Kind::Storage,
            // What the user typed has been looked at by then; what makes no sense now was read from the disk.
            Error::Corrupt(_) | Error::LogRewound(_) | Error::InvalidInput { .. } => Kind::Corrupt,
            _ => Kind::Other,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<BadFile> for Exit {
    fn from(bad: BadFile) -> Self {
        Self::new(Kind::BadInput, bad.to_string())
    }
}

/// Printing failed.
impl From<io::Error> for Exit {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Kind::NobodyReads, String::new()),
            _ => Self::new(Kind::Storage, format!("cannot write the output: {error}")),
        }
    }
}
