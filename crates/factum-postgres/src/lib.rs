//! factum's event store on PostgreSQL 15 and later.
//!
//! The contract is the one of every store, and `factum-conformance` runs against it. What is particular:
//!
//! - **Order.** A position is drawn before its transaction commits, and transactions commit in any order; so every appender
//!   announces first from where on it will draw, by a lock that ends with its transaction, and readers stop at the least that is
//!   announced. An append is answered when nothing can appear before its events any more.
//! - **Guards on queries** meet the appends that concern them at locks taken in one order, and are looked up after that.
//! - **JSON** is `jsonb` where that keeps its value to the last digit, and bytes where it does not.
//!
//! ```no_run
//! # async fn example() -> factum::Result<()> {
//! use factum::prelude::*;
//!
//! let store = factum_postgres::PostgresStore::connect("postgres://app@localhost/app").await?;
//! let factum = Factum::new(store);
//! # Ok(()) }
//! ```

mod append;
mod connect;
mod desk;
mod epoch;
mod fault;
mod hints;
mod inline;
mod json;
mod known;
mod metrics;
mod models;
mod plain;
mod read;
mod rows;
mod scavenge;
mod schema;
mod settle;
mod snapshots;
mod sql;
mod status;
mod tls;
mod url;
mod within;

use std::{
    collections::BTreeSet,
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use deadpool_postgres::{Object, Pool};
use factum::{
    Append, Appended, Durability, Error, EventStore, Guard, Head, Limits, Outcome, Page, Position, Read,
    Result, Start, StreamName, StreamState, Token,
};
use uuid::Uuid;

use self::{
    connect::{Door, take},
    fault::Fault,
    hints::{Hints, News},
};
pub use self::{
    inline::Inlined,
    models::PostgresReads,
    scavenge::{Scavenged, Scavenging},
    status::{EndedEpoch, Holder, LogStatus, Migration, Status},
    url::{is_url, without_password},
};

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The schema that holds its tables: a word of a-z, 0-9 and `_`. `factum`, unless said otherwise.
    pub schema: String,
    /// What an append may hold at most.
    pub limits: Limits,
    /// Connections to the server, at most. 16, unless said otherwise.
    pub connections: usize,
    /// How long to wait for a connection. 30 seconds, unless said otherwise.
    pub patience: Duration,
    /// How long a statement may take, and how long a transaction may do nothing: one that hangs holds up the answers to those that
    /// come after it for at most so long. 30 seconds, unless said otherwise.
    pub statement_timeout: Duration,
    /// Whether opening the store brings the schema up to date, as it does unless said otherwise. Without, a schema that is missing or
    /// older is refused: for a role that has no right to change it, while another one calls [`PostgresStore::migrate`].
    pub migrate: bool,
    /// How often to publish how the store is through the facade `metrics`: never, unless said otherwise. The gauges are
    /// `factum_postgres_safe_head`, `_drawn` (the last position), `_writing` (transactions that hold a place), `_holder_pid` and
    /// `_holder_age_seconds` (of the one that holds up readers; 0 is none), `_connections_in_use` and `_connections_waited_for`.
    pub metrics: Option<Duration>,
    /// How appends are written. [`Writing::Grouped`], unless said otherwise.
    pub writing: Writing,
}

/// How a process writes its appends. What holds is the same, any number of processes may write, and each may choose for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writing {
    /// Those that come while others are on their way share a transaction: several times as many, where many write at a time. One
    /// that has to wait for somebody else's lock goes on alone.
    #[default]
    Grouped,
    /// Each append in a transaction of its own.
    Single,
}

impl Default for Options {
    fn default() -> Self {
        let (schema, limits) = ("factum".to_owned(), Limits::default());
        Self {
            schema,
            limits,
            connections: 16,
            patience: Duration::from_secs(30),
            statement_timeout: Duration::from_secs(30),
            migrate: true,
            metrics: None,
            writing: Writing::default(),
        }
    }
}

/// An event store in a PostgreSQL database. Clones share its connections.
#[derive(Clone)]
pub struct PostgresStore {
    inner: Arc<Inner>,
}

struct Inner {
    door: Door,
    pool: Pool,
    /// `app@localhost/app`, schema `factum`: never with a password.
    place: String,
    schema: String,
    log_id: Uuid,
    /// The epoch as it was when the last connection was made, or since.
    epoch: Arc<AtomicU64>,
    limits: Limits,
    durability: Durability,
    writing: Writing,
    patience: Duration,
    statement_timeout: Duration,
    desk: desk::Desk,
    settling: settle::Settling,
    append: append::Statements,
    read: read::Statements,
    folds: inline::Folds,
    news: News,
    _hints: Hints,
}

impl Inner {
    /// After one has failed: the others may be as old, and new ones look around first.
    fn doubt_connections(&self) {
        self.pool.retain(|_, _| false);
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresStore({})", self.inner.place)
    }
}

impl PostgresStore {
    /// Opens the store in the schema `factum` of the database of this URL, which is made if it is missing.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn connect(url: &str) -> Result<Self> {
        Self::open(url, Options::default()).await
    }

    /// Opens the store in a database: `postgres://user:password@host:port/database`. The schema is made if it is missing, and
    /// brought up to date.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a URL that is none, a user, password or database that the server refuses, a right that is
    /// missing, or a schema of a newer program; [`Error::Unavailable`] if there is no server.
    pub async fn open(url: &str, options: Options) -> Result<Self> {
        let door = Door::to(url, &options)?;
        let mut client = door.client().await?;
        let ready = async {
            epoch::refuse_standby(&client, &door.place).await?;
            if options.migrate {
                schema::migrate(&mut client, &options.schema).await?;
            } else {
                schema::refuse_unless_up_to_date(&client, &options.schema).await?;
            }
            let look = schema::in_schema(
                "SELECT current_setting('fsync') = 'on', log_id FROM factum.log",
                &options.schema,
            );
            let row = client.query_one(&look, &[]).await?;
            Ok::<(bool, Uuid), Fault>((row.try_get(0)?, row.try_get(1)?))
        };
        let (synced, log_id) = ready.await.map_err(|fault| fault.explain(&door.place))?;
        let epoch = Arc::<AtomicU64>::default();
        let pool = door.pool(epoch.clone())?;
        // The first one is made now, so that what is wrong is told now.
        drop(take(&pool, &door.place).await?);
        let news = News::new();
        let hints = Hints::exchange(door.clone(), news.clone(), pool.clone(), options.metrics);
        let inner = Inner {
            pool,
            place: door.place.clone(),
            door,
            log_id,
            epoch,
            limits: options.limits,
            durability: if synced { Durability::Synced } else { Durability::Relaxed },
            writing: options.writing,
            patience: options.patience,
            statement_timeout: options.statement_timeout,
            desk: desk::Desk::default(),
            settling: settle::Settling::default(),
            append: append::Statements::new(&options.schema),
            read: read::Statements::new(&options.schema),
            folds: inline::Folds::default(),
            schema: options.schema,
            _hints: hints,
            news,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Brings the schema up to date, and makes it if it is missing; answers which steps that took. The role needs the rights for it;
    /// one that then opens the store with [`migrate: false`](Options::migrate) does not.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn migrate(url: &str, options: &Options) -> Result<Vec<Migration>> {
        let door = Door::to(url, options)?;
        let mut client = door.client().await?;
        let migrated = async {
            epoch::refuse_standby(&client, &door.place).await?;
            schema::migrate(&mut client, &options.schema).await
        };
        migrated.await.map_err(|fault| fault.explain(&door.place))
    }

    /// How the store at this URL is, of whichever version, or whether there is none. It changes nothing, and looks at standbys too.
    ///
    /// # Errors
    /// As for [`open`](Self::open), but for the version.
    pub async fn status_of(url: &str, options: &Options) -> Result<Status> {
        let door = Door::to(url, options)?;
        let client = door.client().await?;
        let status = status::of(&client, &options.schema, &door.place).await;
        status.map_err(|fault| fault.explain(&door.place))
    }

    /// How this store is.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn status(&self) -> Result<Status> {
        self.run(|inner, client| async move { status::of(&client, &inner.schema, &inner.place).await }).await
    }

    /// Begins a new epoch by hand: what was handed out before is `LogRewound` from now on. The store does this by itself wherever it
    /// can see that it is elsewhere: on a promoted standby, after a recovery to a point in time, after a dump and restore. What it
    /// cannot see is the server's own data directory put back to an earlier state (a snapshot of the disk or of the machine).
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn begin_epoch(&self) -> Result<Head> {
        let begin = |inner: Arc<Inner>, client: Object| async move {
            epoch::begin(&client, &inner.schema, true).await?;
            read::head(&client, &inner.read).await
        };
        let head = self.run(begin).await?;
        self.inner.epoch.store(head.token.log.epoch, Ordering::Relaxed);
        Ok(head)
    }

    /// Says that nothing was lost when an epoch ended: a switch-over that was planned, or a standby that was synchronous. Its tokens and
    /// checkpoints are valid again up to `up_to`; unless said otherwise that is the last event that was there when the next epoch
    /// began. What lies beyond stays `LogRewound`. Answers up to where.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no such epoch has ended, [`Error::InvalidInput`] for a position that was not there any more, and failures
    /// of the database.
    pub async fn continue_epoch(&self, ended: u64, up_to: Option<Position>) -> Result<Position> {
        self.run(
            move |inner, client| async move { epoch::carry_on(&client, &inner.schema, ended, up_to).await },
        )
        .await
    }

    /// The token as one of the present epoch. It costs no trip where it is one.
    async fn of_this_epoch(&self, token: Token) -> Result<Token> {
        if token.log.epoch == self.inner.epoch.load(Ordering::Relaxed) {
            return Ok(token);
        }
        self.locate(token).await
    }

    async fn bring_into_this_epoch(&self, append: &mut Append) -> Result<()> {
        for after in places_of_guards(append) {
            *after = self.of_this_epoch(*after).await?;
        }
        Ok(())
    }

    /// The same for one that was refused: its tokens may be of an epoch that was thought to be the present one.
    async fn bring_again(&self, append: &mut Append) -> Result<()> {
        for after in places_of_guards(append) {
            *after = self.locate(*after).await?;
        }
        Ok(())
    }

    async fn write(&self, append: Append) -> Result<Appended> {
        match self.inner.writing {
            Writing::Single => {
                self.to_the_end(|inner| async move { desk::alone(&inner, &append).await }).await
            }
            Writing::Grouped => desk::grouped(&self.inner, append).await,
        }
    }

    /// Where read models are kept, in this database: `factum.project(Balances, store.reads())`.
    pub fn reads(&self) -> PostgresReads {
        let Inner { pool, place, schema, .. } = &*self.inner;
        PostgresReads::new(pool.clone(), place.clone(), schema.clone())
    }

    /// Where snapshots of aggregates are kept, in this database: `factum.with_snapshots(store.snapshots())`.
    pub fn snapshots(&self) -> PostgresReads {
        self.reads()
    }

    async fn page(&self, read: Read) -> Result<Page> {
        self.run(|inner, client| async move { read::page(&client, &inner.read, &read).await }).await
    }

    /// Runs `work` on a connection.
    async fn run<T, F>(&self, work: impl FnOnce(Arc<Inner>, Object) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>> + Send,
    {
        let work = |inner: Arc<Inner>| async move {
            let client = take(&inner.pool, &inner.place).await?;
            work(inner.clone(), client).await.map_err(|fault| {
                if fault.is_of_the_connection() {
                    inner.doubt_connections();
                }
                fault.explain(&inner.place)
            })
        };
        self.to_the_end(work).await
    }

    /// Runs `work` to its end, also if the caller goes away: a connection is never left in the middle of something.
    async fn to_the_end<T, F>(&self, work: impl FnOnce(Arc<Inner>) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let done = tokio::spawn(work(self.inner.clone()));
        done.await.unwrap_or_else(|error| {
            let why = format!("the work on PostgreSQL {} was given up ({error})", self.inner.place);
            Err(Error::Unavailable { why, outcome: Outcome::Unknown })
        })
    }
}

/// After which each guard on a query looks.
fn places_of_guards(append: &mut Append) -> impl Iterator<Item = &mut Token> {
    append.guards.iter_mut().filter_map(|guard| match guard {
        Guard::Query { after, .. } => Some(after),
        Guard::Stream { .. } => None,
    })
}

#[async_trait]
impl EventStore for PostgresStore {
    async fn append(&self, mut append: Append) -> Result<Appended> {
        // What cannot be right is not worth a trip, and must not trouble others.
        self.inner.limits.check(&append)?;
        known::concerned(&append, &mut BTreeSet::new())?;
        self.bring_into_this_epoch(&mut append).await?;
        let again = known::queries(&append).next().is_some().then(|| append.clone());
        let appended = match (self.write(append).await, again) {
            (Err(Error::LogRewound(_)), Some(mut append)) => {
                self.bring_again(&mut append).await?;
                self.write(append).await?
            }
            (done, _) => done?,
        };
        self.inner.epoch.store(appended.token.log.epoch, Ordering::Relaxed);
        self.inner.news.write(appended.token.position);
        Ok(appended)
    }

    async fn read(&self, mut read: Read) -> Result<Page> {
        if let Start::Beyond(token) = &mut read.start {
            *token = self.of_this_epoch(*token).await?;
        }
        let told = self.inner.news.told();
        let page = match self.page(read.clone()).await {
            // The token may be of an epoch that was thought to be the present one.
            Err(Error::LogRewound(_)) => {
                if let Start::Beyond(token) = &mut read.start {
                    *token = self.locate(*token).await?;
                }
                self.page(read).await?
            }
            done => done?,
        };
        self.inner.epoch.store(page.head.log.epoch, Ordering::Relaxed);
        self.inner.news.is_refuted(told, page.head.position);
        Ok(page)
    }

    async fn head(&self) -> Result<Head> {
        let told = self.inner.news.told();
        let head = self.run(|inner, client| async move { read::head(&client, &inner.read).await }).await?;
        self.inner.epoch.store(head.token.log.epoch, Ordering::Relaxed);
        self.inner.news.is_refuted(told, head.token.position);
        Ok(head)
    }

    async fn stream_state(&self, stream: &StreamName) -> Result<StreamState> {
        let stream = stream.clone();
        self.run(|inner, client| async move { read::stream_state(&client, &inner.read, &stream).await }).await
    }

    async fn continued(&self) -> Result<Vec<Token>> {
        self.run(|inner, client| async move { epoch::continued(&client, &inner.schema).await }).await
    }

    async fn locate(&self, token: Token) -> Result<Token> {
        let located =
            self.run(move |inner, client| async move { epoch::locate(&client, &inner.schema, token).await });
        let located = located.await?;
        self.inner.epoch.store(located.log.epoch, Ordering::Relaxed);
        Ok(located)
    }

    async fn changed(&self, position: Position) {
        self.inner.news.beyond(position).await;
    }

    fn limits(&self) -> Limits {
        self.inner.limits
    }
}
