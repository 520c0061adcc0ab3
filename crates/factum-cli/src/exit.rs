//! How the program ends when it does not end well: one sentence, and an exit code for each kind of trouble.

use std::{fmt, io, process::ExitCode};

use factum::Error;

/// What `--help` says about exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
    0  done, and nothing is wrong
    1  anything else that went wrong
    2  the command line makes no sense
    3  refused: what is there must not be overwritten, or is not what was asked for; nothing was changed
    6  the log is in use by another process
    7  the disk is full, read-only or not available; or the database is, or it does not let this user in
    8  the log is damaged: events are lost or cannot be read
    9  only the index or the manifest is damaged: no event is lost, they are made again from the log
   10  there is no such directory, log, stream, segment or backup
  130  interrupted";

/// Why the program stops.
#[derive(Debug)]
pub(crate) struct Exit {
    kind: Kind,
    sentence: String,
}

/// The kinds of trouble, each with its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nobody reads what is printed: the usual end of `factum … | head`, and no trouble.
    NobodyReads = 0,
    Other = 1,
    Usage = 2,
    Refused = 3,
    Busy = 6,
    Storage = 7,
    Damaged = 8,
    OnlyIndex = 9,
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
            Error::NotFound { .. } => Kind::NotFound,
            Error::Fenced { .. } => Kind::Busy,
            Error::StorageFull { .. }
            | Error::Unavailable { .. }
            | Error::Timeout { .. }
            | Error::Poisoned { .. } => Kind::Storage,
            Error::Corrupt(_) => Kind::Damaged,
            Error::InvalidInput { .. } | Error::LogRewound(_) => Kind::Refused,
            _ => Kind::Other,
        };
        Self::new(kind, error.to_string())
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
