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
mod epoch;
mod fault;
mod json;
mod read;
mod rows;
mod schema;
mod sql;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use deadpool_postgres::{Object, Pool};
use factum::{
    Append, Appended, Durability, Error, EventStore, Guard, Head, Limits, Outcome, Page, Position, Read, Result,
    Start, StreamName, StreamState, Token,
};
use tokio::sync::watch;

use self::{
    connect::{Door, take},
    fault::Fault,
};

/// How often an append that was in others' way is tried again.
const TRIES: u32 = 10;

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
}

impl Default for Options {
    fn default() -> Self {
        let (schema, limits) = ("factum".to_owned(), Limits::default());
        Self { schema, limits, connections: 16, patience: Duration::from_secs(30) }
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
    limits: Limits,
    durability: Durability,
    append: append::Statements,
    read: read::Statements,
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
        let door = Door::to(url, &options)?;
        let mut client = door.client().await?;
        let ready = async {
            schema::migrate(&mut client, &options.schema).await?;
            let row = client.query_one("SELECT current_setting('fsync') = 'on'", &[]).await?;
            Ok::<bool, Fault>(row.try_get(0)?)
        };
        let synced = ready.await.map_err(|fault| fault.explain(&door.place))?;
        let inner = Inner {
            pool: door.pool()?,
            place: door.place,
            limits: options.limits,
            durability: if synced { Durability::Synced } else { Durability::Relaxed },
            append: append::Statements::new(&options.schema),
            read: read::Statements::new(&options.schema),
            schema: options.schema,
            written: watch::Sender::new(Position::START),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Runs `work` to its end, also if the caller goes away: a connection is never left in the middle of something.
    async fn run<T, F>(&self, work: impl FnOnce(Arc<Inner>, Object) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>> + Send,
    {
        let inner = self.inner.clone();
        let done = tokio::spawn(async move {
            let client = take(&inner.pool, &inner.place).await?;
            work(inner.clone(), client).await.map_err(|fault| fault.explain(&inner.place))
        });
        done.await.unwrap_or_else(|error| {
            let why = format!("the work on PostgreSQL {} was given up ({error})", self.inner.place);
            Err(Error::Unavailable { why, outcome: Outcome::Unknown })
        })
    }
}

#[async_trait]
impl EventStore for PostgresStore {
    async fn append(&self, append: Append) -> Result<Appended> {
        let appended = self
            .run(|inner, client| async move {
                let mut tries = 1;
                loop {
                    match append::append(&client, &inner.append, &inner.limits, inner.durability, &append)
                        .await
                    {
                        Err(fault) if fault.is_clash() && tries < TRIES => {
                            let at_most = 500_u64 << tries;
                            tokio::time::sleep(Duration::from_micros(fastrand::u64(0..at_most))).await;
                            tries += 1;
                        }
                        done => return done,
                    }
                }
            })
            .await?;
        let last = appended.token.position;
        self.inner.written.send_if_modified(|written| {
            let newer = last > *written;
            *written = last.max(*written);
            newer
        });
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
