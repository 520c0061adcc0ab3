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
mod desk;
mod fault;
mod inline;
mod json;
mod known;
mod models;
mod read;
mod rows;
mod schema;
mod snapshots;
mod sql;
mod within;

use std::{collections::BTreeSet, fmt, future::Future, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod};
use factum::{
    Append, Appended, Durability, Error, EventStore, Head, Limits, Outcome, Page, Position, Read, Result,
    StreamName, StreamState,
};
use tokio::sync::watch;
use tokio_postgres::{Config, NoTls};
use uuid::Uuid;

use self::fault::Fault;
pub use self::{inline::Inlined, models::PostgresReads};

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The schema that holds its tables: a word of a-z, 0-9 and `_`. `factum`, unless said otherwise.
    pub schema: String,
    /// What an append may hold at most.
    pub limits: Limits,
    /// Connections to the server, at most. 16, unless said otherwise.
    pub connections: usize,
    /// How long a statement may take, and how long to wait for a connection. 30 seconds, unless said otherwise.
    pub patience: Duration,
    /// How appends are written. [`Writing::Single`], unless said otherwise.
    pub writing: Writing,
}

/// How a process writes its appends. What holds is the same, and every process may choose for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writing {
    /// Each append in a transaction of its own: none waits for another.
    #[default]
    Single,
    /// Those that come while others are on their way share a transaction: for a process with many writers, such as a server.
    Grouped,
}

impl Default for Options {
    fn default() -> Self {
        let (schema, limits) = ("factum".to_owned(), Limits::default());
        Self {
            schema,
            limits,
            connections: 16,
            patience: Duration::from_secs(30),
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
    pool: Pool,
    /// `app@localhost/app`, schema `factum`: never with a password.
    place: String,
    schema: String,
    log_id: Uuid,
    limits: Limits,
    durability: Durability,
    writing: Writing,
    desk: desk::Desk,
    append: append::Statements,
    read: read::Statements,
    folds: inline::Folds,
    /// The last position that this process wrote.
    written: watch::Sender<Position>,
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
        schema::check_name(&options.schema)?;
        let config = configured(url, &options)?;
        let place = place_of(&config, &options.schema);
        let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let pool = Pool::builder(Manager::from_config(config, NoTls, manager))
            .max_size(options.connections.max(1))
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .wait_timeout(Some(options.patience))
            .create_timeout(Some(options.patience))
            .build()
            .map_err(|error| Error::invalid("the pool of connections", error.to_string()))?;
        let mut client = take(&pool, &place).await?;
        let ready = async {
            schema::migrate(&mut client, &options.schema).await?;
            let look = schema::in_schema(
                "SELECT current_setting('fsync') = 'on', log_id FROM factum.log",
                &options.schema,
            );
            let row = client.query_one(&look, &[]).await?;
            Ok::<(bool, Uuid), Fault>((row.try_get(0)?, row.try_get(1)?))
        };
        let (synced, log_id) = ready.await.map_err(|fault| fault.explain(&place))?;
        let inner = Inner {
            pool,
            place,
            log_id,
            limits: options.limits,
            durability: if synced { Durability::Synced } else { Durability::Relaxed },
            writing: options.writing,
            desk: desk::Desk::default(),
            append: append::Statements::new(&options.schema),
            read: read::Statements::new(&options.schema),
            folds: inline::Folds::default(),
            schema: options.schema,
            written: watch::Sender::new(Position::START),
        };
        Ok(Self { inner: Arc::new(inner) })
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

    /// Runs `work` on a connection.
    async fn run<T, F>(&self, work: impl FnOnce(Arc<Inner>, Object) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>> + Send,
    {
        let work = |inner: Arc<Inner>| async move {
            let client = take(&inner.pool, &inner.place).await?;
            work(inner.clone(), client).await.map_err(|fault| fault.explain(&inner.place))
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

    /// Tells those who wait for what is new that there is something up to here.
    fn written(&self, last: Position) {
        self.inner.written.send_if_modified(|written| {
            let newer = last > *written;
            *written = last.max(*written);
            newer
        });
    }
}

#[async_trait]
impl EventStore for PostgresStore {
    async fn append(&self, append: Append) -> Result<Appended> {
        // What cannot be right is not worth a trip, and must not trouble others.
        self.inner.limits.check(&append)?;
        known::concerned(&append, &mut BTreeSet::new())?;
        let appended = match self.inner.writing {
            Writing::Single => {
                self.to_the_end(|inner| async move { desk::alone(&inner, &append).await }).await?
            }
            Writing::Grouped => desk::grouped(&self.inner, append).await?,
        };
        self.written(appended.token.position);
        Ok(appended)
    }

    async fn read(&self, read: Read) -> Result<Page> {
        self.run(|inner, client| async move { read::page(&client, &inner.read, &read).await }).await
    }

    async fn head(&self) -> Result<Head> {
        self.run(|inner, client| async move { read::head(&client, &inner.read).await }).await
    }

    async fn stream_state(&self, stream: &StreamName) -> Result<StreamState> {
        let stream = stream.clone();
        self.run(|inner, client| async move { read::stream_state(&client, &inner.read, &stream).await }).await
    }

    async fn changed(&self, position: Position) {
        // The sender lives as long as this store, so waiting cannot fail. Other processes' appends are found by looking again.
        let _ = self.inner.written.subscribe().wait_for(|written| *written > position).await;
    }

    fn limits(&self) -> Limits {
        self.inner.limits
    }
}

fn configured(url: &str, options: &Options) -> Result<Config> {
    let mut config = Config::from_str(url).map_err(|error| {
        let why = format!("it must look like postgres://user:password@host:5432/database ({error})");
        Error::invalid("the URL of PostgreSQL", why)
    })?;
    let patience = options.patience.as_millis();
    // A commit is acknowledged when it is durable, whatever the server's default; and a process that hangs does not hold others
    // up for ever.
    let settings = format!(
        "-c synchronous_commit=on -c statement_timeout={patience} -c idle_in_transaction_session_timeout={patience} -c default_transaction_isolation=read\\ committed"
    );
    config
        .options(settings)
        .application_name(format!("factum {}", options.schema))
        .connect_timeout(options.patience);
    Ok(config)
}

/// The database, as an error names it.
fn place_of(config: &Config, schema: &str) -> String {
    let host = match config.get_hosts().first() {
        Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
        Some(tokio_postgres::config::Host::Unix(path)) => path.display().to_string(),
        None => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let database = config.get_dbname().or(config.get_user()).unwrap_or("postgres");
    format!("`{database}` on {host}:{port}, schema `{schema}`")
}

async fn take(pool: &Pool, place: &str) -> Result<Object> {
    pool.get().await.map_err(|error| match error {
        deadpool_postgres::PoolError::Backend(error) => Fault::from(error).explain(place),
        error => {
            let why = format!("no connection to PostgreSQL {place} became free: {error}");
            Error::Unavailable { why, outcome: Outcome::No }
        }
    })
}
