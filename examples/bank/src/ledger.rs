//! A ledger in a directory: the log is its truth, the read model is kept beside it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use factum::{Clock, Error, Factum, Projected, State, Token};
use factum_log::{LogStore, Options};
use factum_sqlite::Sqlite;
use jiff::civil::Date;

use crate::{
    balances::Balances,
    exit::{Exit, Kind},
    show::{count, say},
};

/// After how long without news the user is told how far the read model is, and after how many times without progress it is
/// given up.
const NEWS_AFTER: Duration = Duration::from_secs(3);
const GIVEN_UP_AFTER: u32 = 5;

/// An open ledger; this process alone has it.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) factum: Factum,
    log: LogStore,
    read_model: PathBuf,
}

impl Ledger {
    /// Opens the ledger in a directory, or begins one there.
    pub(crate) fn open_or_begin(directory: &Path) -> Result<Self, Exit> {
        Self::open_with(directory, true)
    }

    /// Opens the ledger in a directory.
    pub(crate) fn open(directory: &Path) -> Result<Self, Exit> {
        Self::open_with(directory, false)
    }

    fn open_with(directory: &Path, begin: bool) -> Result<Self, Exit> {
        let shown = directory.display();
        let log = Options::new(directory.join("log")).create(begin).open().map_err(|error| match error {
            Error::NotFound { .. } if !begin => {
                let sentence =
                    format!("there is no ledger in {shown}; `bank open` and `bank import` begin one");
                Exit::new(Kind::NotFound, sentence)
            }
            Error::NotFound { .. } => {
                Exit::new(Kind::Storage, format!("no ledger can be begun in {shown}: {error}"))
            }
            Error::Fenced { .. } => {
                let sentence =
                    format!("another process has the ledger in {shown} open; try again when it is done");
                Exit::new(Kind::Busy, sentence)
            }
            other => Exit::from(other),
        })?;
        Ok(Self { factum: Factum::new(log.clone()), log, read_model: directory.join("read.db") })
    }

    /// The read model, as far as it is; it catches up from now on.
    pub(crate) async fn balances(&self) -> Result<Projected<Balances>, Exit> {
        let reads = Sqlite::open(&self.read_model)?;
        Ok(self.factum.project(Balances, reads).await?)
    }

    /// The read model, up to date.
    pub(crate) async fn balances_now(&self) -> Result<Projected<Balances>, Exit> {
        let balances = self.balances().await?;
        Self::catch_up(&balances, self.head().await?).await?;
        Ok(balances)
    }

    /// Waits until the read model has come as far as `token`, however far that is, as long as it moves.
    pub(crate) async fn catch_up(balances: &Projected<Balances>, token: Token) -> Result<(), Exit> {
        let (mut last, mut without_progress) = (None, 0);
        loop {
            match balances.wait_for_within(token, NEWS_AFTER).await {
                Ok(()) => return Ok(()),
                Err(error @ Error::Timeout { .. }) if without_progress == GIVEN_UP_AFTER => {
                    let advice =
                        "see that the disk of read.db has room and can be written; the log is complete";
                    return Err(Exit::from(error).but(advice));
                }
                Err(Error::Timeout { .. }) => {
                    let status = balances.status().await?;
                    without_progress = if last == Some(status.position) { without_progress + 1 } else { 0 };
                    last = Some(status.position);
                    say(format!("the read model catches up: {} events behind", count(status.lag_events)));
                }
                Err(error) => {
                    return Err(match balances.status().await?.state {
                        State::Stopped(reason @ Error::LogRewound(_)) => {
                            Exit::from(reason).but("`bank rebuild` makes the read model again from this log")
                        }
                        State::Stopped(reason) => Exit::from(reason).because("the read model has stopped"),
                        _ => error.into(),
                    });
                }
            }
        }
    }

    /// The end of the log.
    pub(crate) async fn head(&self) -> Result<Token, Exit> {
        Ok(self.factum.store().head().await?.token)
    }

    /// Closes the log, so that what is wrong with that is heard of.
    pub(crate) async fn close(self) -> Result<(), Exit> {
        Ok(self.log.close().await?)
    }
}

/// The day that a clock shows, in UTC.
pub(crate) fn today(clock: &dyn Clock) -> Date {
    let now = jiff::Timestamp::from_microsecond(clock.now().0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    now.to_zoned(jiff::tz::TimeZone::UTC).date()
}
