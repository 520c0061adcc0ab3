//! How the program ends when it does not end well: one sentence, and an exit code.

use std::{fmt, io, process::ExitCode};

use factum::{Error, Failure};

/// What `--help` says about exit codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  anything that went wrong; a demonstration or an audit that does not balance
    2  the command line makes no sense
    3  refused by a rule of the shop
  130  interrupted; what is open goes on the next time";

/// Why the program stops.
#[derive(Debug)]
pub(crate) struct Exit {
    code: u8,
    sentence: String,
}

impl Exit {
    pub(crate) fn failed(sentence: impl fmt::Display) -> Self {
        Self { code: 1, sentence: sentence.to_string() }
    }

    pub(crate) fn misused(sentence: impl fmt::Display) -> Self {
        Self { code: 2, sentence: sentence.to_string() }
    }

    pub(crate) fn refused(sentence: impl fmt::Display) -> Self {
        Self { code: 3, sentence: sentence.to_string() }
    }

    pub(crate) fn interrupted(sentence: impl fmt::Display) -> Self {
        Self { code: 130, sentence: sentence.to_string() }
    }

    /// Nobody reads what is printed: the usual end of `shop … | head`, and no trouble.
    pub(crate) fn is_silent(&self) -> bool {
        self.sentence.is_empty()
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl From<Error> for Exit {
    fn from(error: Error) -> Self {
        Self::failed(error)
    }
}

impl<E: fmt::Display> From<Failure<E>> for Exit {
    fn from(failure: Failure<E>) -> Self {
        match failure {
            Failure::Refused(refusal) => Self::refused(refusal),
            Failure::Store(error) => error.into(),
        }
    }
}

/// Printing failed, or a signal or a process could not be had.
impl From<io::Error> for Exit {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self { code: 0, sentence: String::new() },
            _ => Self::failed(format!("the operating system says no: {error}")),
        }
    }
}
