//! A ledger, wherever it is: in a directory, or in a PostgreSQL database. Here alone the two are told apart; everybody else knows
//! the event store and the read store by their contracts.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use factum::{Clock, Error, Factum, Projected, Projection, State, Token, reads::ReadStore};
use factum_log::LogStore;
use factum_postgres::PostgresStore;
use factum_sqlite::Sqlite;
use jiff::civil::Date;
use tokio::time::sleep;

use crate::{
    balances::Balances,
    exit::{Exit, Kind},
    kept::{Kept, Way},
    show::{count, say},
};

/// After how long without news the user is told how far the read model is, and after how many times without progress it is
/// given up.
const NEWS_AFTER: Duration = Duration::from_secs(3);
const GIVEN_UP_AFTER: u32 = 5;
/// How often it is tried to rebuild a read model that another process keeps, and how long to wait in between.
const TRIES: u32 = 25;
const LOOKS_EVERY: Duration = Duration::from_millis(500);

/// Where a ledger is.
#[derive(Clone)]
pub(crate) enum Place {
    /// The log is in `log` there, the read model in `read.db`.
    Directory(PathBuf),
    /// Both are tables of a database, in this schema.
    Postgres { url: String, schema: String },
}

/// An open ledger.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) factum: Factum,
    open: Open,
    /// The read model, if this process has asked for it.
    kept: Mutex<Option<Projected<Balances>>>,
}

/// What is open. The read model is opened when it is asked for: commands do without it.
#[derive(Debug)]
enum Open {
    /// This process alone has it.
    Directory {
        log: LogStore,
        read_model: PathBuf,
    },
    Postgres(PostgresStore),
}

impl Open {
    /// What to do when the read model does not move.
    fn advice(&self) -> &'static str {
        match self {
            Self::Directory { .. } => {
                "see that the disk of read.db has room and can be written; the log is complete"
            }
            Self::Postgres(_) => {
                "see that the database has room and that nobody holds locks on the read model; the log is complete"
            }
        }
    }
}

impl Place {
    /// A directory that is none is most likely a database that should have been given otherwise, and the other way about.
    pub(crate) fn directory(directory: PathBuf) -> Result<Self, Exit> {
        if directory.to_str().is_some_and(factum_postgres::is_url) {
            let sentence = "--data takes a directory; a ledger in PostgreSQL is given by --store";
            return Err(Exit::new(Kind::Usage, sentence));
        }
        Ok(Self::Directory(directory))
    }

    pub(crate) fn postgres(url: String, schema: Option<String>) -> Result<Self, Exit> {
        if !factum_postgres::is_url(&url) {
            let sentence = "--store takes the URL of a PostgreSQL database, such as postgres://user:password@host:5432/database; \
                            a ledger in a directory is given by --data";
            return Err(Exit::new(Kind::Usage, sentence));
        }
        let schema = schema.unwrap_or_else(|| factum_postgres::Options::default().schema);
        Ok(Self::Postgres { url, schema })
    }
}

impl Place {
    /// Refuses a way in which no read model can be kept here, before anything is made.
    pub(crate) fn check(&self, way: Option<Way>) -> Result<(), Exit> {
        match (self, way) {
            (Self::Directory(_), Some(Way::Inline)) => {
                let sentence = "--read-model inline goes with --store; the log and the read model of a directory have no transaction in common";
                Err(Exit::new(Kind::Usage, sentence))
            }
            _ => Ok(()),
        }
    }
}

/// As the user is told; a URL may hold a password, which is not.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(directory) => write!(f, "{}", directory.display()),
            Self::Postgres { url, schema } => {
                write!(f, "{}, schema `{schema}`", factum_postgres::without_password(url))
            }
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({self})")
    }
}

impl Ledger {
    /// Opens the ledger in a place, or begins one there.
    pub(crate) async fn open_or_begin(place: &Place) -> Result<Self, Exit> {
        Self::open_with(place, true).await
    }

    /// Opens the ledger in a place.
    pub(crate) async fn open(place: &Place) -> Result<Self, Exit> {
        Self::open_with(place, false).await
    }

    async fn open_with(place: &Place, begin: bool) -> Result<Self, Exit> {
        let opened = match place {
            Place::Directory(directory) => open_directory(directory, begin),
            Place::Postgres { url, schema } => open_postgres(url, schema, begin).await,
        };
        opened.map_err(|error| match error {
            Error::NotFound { .. } if !begin => {
                let sentence =
                    format!("there is no ledger in {place}; `bank open` and `bank import` begin one");
                Exit::new(Kind::NotFound, sentence)
            }
            Error::NotFound { .. } => {
                Exit::new(Kind::Storage, format!("no ledger can be begun in {place}: {error}"))
            }
            Error::Fenced { .. } => {
                let sentence =
                    format!("another process has the ledger in {place} open; try again when it is done");
                Exit::new(Kind::Busy, sentence)
            }
            Error::InvalidInput { ref what, .. } if matches!(place, Place::Postgres { .. }) => {
                // Either this is no URL and no name, or it is one, and the server lets nobody in, or not this role.
                let typed = what.starts_with("the URL") || what.starts_with("the schema's name");
                Exit::new(if typed { Kind::Usage } else { Kind::Storage }, error.to_string())
            }
            other => Exit::from(other),
        })
    }

    /// Where the read model is.
    fn reads(&self) -> Result<Arc<dyn ReadStore>, Exit> {
        Ok(match &self.open {
            Open::Directory { read_model, .. } => Arc::new(Sqlite::open(read_model)?),
            Open::Postgres(store) => Arc::new(store.reads()),
        })
    }

    /// The read model, as far as it is; it catches up from now on.
    pub(crate) async fn balances(&self) -> Result<Kept, Exit> {
        if let Open::Postgres(store) = &self.open
            && let Some(kept) = store.inlined(Balances).await?
        {
            return Ok(Kept::Inline(kept));
        }
        self.in_background().await.map(Kept::Background)
    }

    /// The read model, up to date.
    pub(crate) async fn balances_now(&self) -> Result<Kept, Exit> {
        let mut balances = self.balances().await?;
        self.catch_up(&mut balances, self.head().await?).await?;
        Ok(balances)
    }

    /// Has the read model kept in this way from now on.
    pub(crate) async fn keep(&self, way: Way) -> Result<(), Exit> {
        match (&self.open, way) {
            (Open::Postgres(store), Way::Inline) => drop(store.inline(Balances).await?),
            (Open::Postgres(store), Way::Background) => {
                store.make_asynchronous(Balances::NAME).await?;
            }
            (Open::Directory { .. }, _) => {}
        }
        Ok(())
    }

    /// The same, if it is not kept inline.
    pub(crate) async fn in_background(&self) -> Result<Projected<Balances>, Exit> {
        self.let_go().await;
        let kept = self.factum.project_in(Balances, self.reads()?).await?;
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept.clone());
        Ok(kept)
    }

    /// Stops keeping the read model, so that another process need not wait to see that this one is gone.
    async fn let_go(&self) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(kept) = kept {
            kept.stop().await;
        }
    }

    /// Makes the read model again from the start of the log. One that is kept inline is so again afterwards.
    pub(crate) async fn rebuild(&self) -> Result<Kept, Exit> {
        let inline = self.balances().await?.is_inline();
        if inline {
            self.keep(Way::Background).await?;
        }
        let head = self.head().await?;
        let balances = self.in_background().await?;
        let mut tries = 0..TRIES;
        loop {
            match balances.rebuild().await {
                // Another process keeps it: a command, which is done soon.
                Err(Error::Unavailable { .. }) if tries.next().is_some() => sleep(LOOKS_EVERY).await,
                Err(error @ (Error::Unavailable { .. } | Error::Fenced { .. })) => {
                    return Err(Exit::from(error).but("try again when the other process is done"));
                }
                rebuilt => break rebuilt?,
            }
        }
        let mut balances = Kept::Background(balances);
        // One that was behind is shown as soon as it is no further behind.
        self.catch_up(&mut balances, head).await?;
        if inline {
            self.keep(Way::Inline).await?;
            return self.balances().await;
        }
        Ok(balances)
    }

    /// Waits until the read model has come as far as `token`, however far that is, as long as it moves.
    pub(crate) async fn catch_up(&self, balances: &mut Kept, token: Token) -> Result<(), Exit> {
        let (mut last, mut without_progress) = (None, 0);
        // What is kept inline is never behind.
        while let Kept::Background(kept) = balances {
            match kept.wait_for_within(token, NEWS_AFTER).await {
                Ok(()) => return Ok(()),
                Err(error @ Error::Timeout { .. }) if without_progress == GIVEN_UP_AFTER => {
                    return Err(Exit::from(error).but(self.open.advice()));
                }
                Err(Error::Timeout { .. }) => {
                    let status = kept.status().await?;
                    without_progress = if last == Some(status.position) { without_progress + 1 } else { 0 };
                    last = Some(status.position);
                    say(format!("the read model catches up: {} events behind", count(status.lag_events)));
                }
                Err(error) => match kept.status().await?.state {
                    // Another process has it kept inline from now on.
                    State::Stopped(Error::Fenced { .. }) => *balances = self.balances().await?,
                    State::Stopped(reason @ Error::LogRewound(_)) => {
                        let remedy = "`bank rebuild` makes the read model again from this log";
                        return Err(Exit::from(reason).but(remedy));
                    }
                    State::Stopped(reason) => {
                        return Err(Exit::from(reason).because("the read model has stopped"));
                    }
                    _ => return Err(error.into()),
                },
            }
        }
        Ok(())
    }

    /// The end of the log.
    pub(crate) async fn head(&self) -> Result<Token, Exit> {
        Ok(self.factum.store().head().await?.token)
    }

    /// Closes the log, so that what is wrong with that is heard of.
    pub(crate) async fn close(self) -> Result<(), Exit> {
        self.let_go().await;
        match self.open {
            Open::Directory { log, .. } => Ok(log.close().await?),
            Open::Postgres(_) => Ok(()),
        }
    }
}

fn open_directory(directory: &Path, begin: bool) -> Result<Ledger, Error> {
    let log = factum_log::Options::new(directory.join("log")).create(begin).open()?;
    let read_model = directory.join("read.db");
    Ok(Ledger {
        factum: Factum::new(log.clone()),
        open: Open::Directory { log, read_model },
        kept: Mutex::default(),
    })
}

async fn open_postgres(url: &str, schema: &str, begin: bool) -> Result<Ledger, Error> {
    let options = factum_postgres::Options { schema: schema.to_owned(), ..Default::default() };
    if !begin && !PostgresStore::status_of(url, &options).await?.is_begun() {
        return Err(Error::NotFound { what: "ledger".to_owned() });
    }
    let store = PostgresStore::open(url, options).await?;
    // Where the read model is kept inline, whoever writes keeps it.
    store.inlined(Balances).await?;
    Ok(Ledger { factum: Factum::new(store.clone()), open: Open::Postgres(store), kept: Mutex::default() })
}

/// The day that a clock shows, in UTC.
pub(crate) fn today(clock: &dyn Clock) -> Date {
    let now = jiff::Timestamp::from_microsecond(clock.now().0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    now.to_zoned(jiff::tz::TimeZone::UTC).date()
}
