//! Read models: which generations there are, who may change them, and their rows.

pub(crate) mod catalog;
mod holds;
mod letters;
mod rows;
mod scan;

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use deadpool_postgres::{ClientWrapper, Object, Pool};
use factum::{
    Error, Outcome, Position, ReadStore, Result,
    reads::{Catalog, Generation, Holds, Lease, Scan, Snapshot, Step, check_model_name},
};
use tokio::sync::{OwnedMutexGuard, Semaphore};

pub(crate) use self::rows::{Columns, select as select_rows, write as write_rows};

use crate::{Options, PostgresStore, fault::Fault, schema::in_schema, take};

/// Models that are read whole at once, at most: a connection each.
const SCANS: usize = 16;

/// Read models, and snapshots of aggregates, in a PostgreSQL database. Clones share its connections.
///
/// The rows of a model `balances` are in a view that is called like it, in a schema beside the store's:
/// `SELECT key, row ->> 'cents' FROM factum_reads.balances`. `row` is `jsonb`. Where that changes the value (a number with an exponent
/// or a negative zero, a text with U+0000, more than 64 levels), the row's own text is in the column `exact`, and counts; `row` has
/// what `jsonb` can make of it, or null. As everywhere in JSON, the order of an object's keys is nothing that comes back.
///
/// Rows and checkpoint change in one statement, under a fencing epoch, so that each event counts once, whatever fails. A
/// rebuild fills a table beside the one that readers see, and switches the view in one transaction.
#[derive(Clone)]
pub struct PostgresReads {
    inner: Arc<Inner>,
}

struct Inner {
    source: Source,
    /// As an error names it.
    place: String,
    names: Names,
    scans: Arc<Semaphore>,
    /// The generation of each model that readers saw last: where to look first.
    shown: Mutex<HashMap<String, i64>>,
}

/// What the tables are called.
#[derive(Clone, Debug)]
pub(crate) enum Names {
    /// In a store's schema, and the one beside it.
    Schema(String),
    /// In temporary tables of one connection.
    Temporary,
}

impl Names {
    /// Text of SQL, with the schemas' names.
    pub(crate) fn sql(&self, sql: &str) -> String {
        match self {
            Self::Schema(schema) => in_schema(sql, schema),
            Self::Temporary => sql.replace("factum.", "pg_temp.").replace("factum_reads", "pg_temp"),
        }
    }

    /// The table of a generation's rows. A model's name is a plain word.
    pub(crate) fn table(&self, model: &str, generation: i64) -> String {
        self.sql(&format!("factum_reads.\"{model}_g{generation}\""))
    }
}

enum Source {
    Pool(Pool),
    /// For as long as the connection is there, so are its temporary tables.
    One(Arc<tokio::sync::Mutex<ClientWrapper>>),
}

/// A connection, for a piece of work.
#[expect(clippy::large_enum_variant, reason = "there is one for each piece of work at hand")]
pub(crate) enum Held {
    Pooled(Object),
    One(OwnedMutexGuard<ClientWrapper>),
}

impl Deref for Held {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        match self {
            Self::Pooled(object) => object,
            Self::One(guard) => guard,
        }
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        match self {
            Self::Pooled(object) => object,
            Self::One(guard) => guard,
        }
    }
}

impl fmt::Debug for PostgresReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresReads({})", self.inner.place)
    }
}

impl PostgresReads {
    /// Opens read models in a database of their own: `postgres://user:password@host:port/database`. The schema is that of a store,
    /// made if it is missing and brought up to date; its log stays empty. For read models in the store's own database there is
    /// [`PostgresStore::reads`].
    ///
    /// # Errors
    /// As for [`PostgresStore::open`].
    pub async fn open(url: &str, options: Options) -> Result<Self> {
        Ok(PostgresStore::open(url, options).await?.reads())
    }

    pub(crate) fn new(pool: Pool, place: String, schema: String) -> Self {
        Self::of(Source::Pool(pool), place, Names::Schema(schema))
    }

    fn of(source: Source, place: String, names: Names) -> Self {
        let (scans, shown) = (Arc::new(Semaphore::new(SCANS)), Mutex::default());
        Self { inner: Arc::new(Inner { source, place, names, scans, shown }) }
    }

    /// The same, on this connection only.
    pub(crate) fn on(&self, client: Arc<tokio::sync::Mutex<ClientWrapper>>) -> Self {
        Self::of(Source::One(client), self.inner.place.clone(), self.inner.names.clone())
    }

    /// As an error names it.
    pub(crate) fn place(&self) -> &str {
        &self.inner.place
    }

    /// A connection that goes when it is dropped, with all that is open on it. It waits for nobody's next statement.
    pub(crate) async fn alone(&self) -> Result<ClientWrapper> {
        self.inner.alone().await
    }

    /// All rows at a moment at which no append is on its way: those that are, are waited for so long.
    pub(crate) async fn settled(&self, model: &str, patience: &str) -> Result<Scan> {
        scan::settled(self, model, patience).await
    }

    /// Claims a model also if it is kept inline.
    pub(crate) async fn take_over(&self, model: &str) -> Result<Lease> {
        let model = model.to_owned();
        self.run(move |names, client| async move { catalog::take_over(&client, &names, &model).await }).await
    }

    /// Runs `work` to its end, also if the caller goes away: a connection is never left in the middle of something.
    pub(crate) async fn run<T, F>(&self, work: impl FnOnce(Names, Held) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>> + Send,
    {
        let inner = self.inner.clone();
        let done = tokio::spawn(async move {
            let client = inner.connection().await?;
            work(inner.names.clone(), client).await.map_err(|fault| fault.explain(&inner.place))
        });
        done.await.unwrap_or_else(|error| {
            let why = format!("the work on PostgreSQL {} was given up ({error})", self.inner.place);
            Err(Error::Unavailable { why, outcome: Outcome::Unknown })
        })
    }
}

impl Inner {
    async fn connection(&self) -> Result<Held> {
        match &self.source {
            Source::Pool(pool) => Ok(Held::Pooled(take(pool, &self.place).await?)),
            Source::One(client) => Ok(Held::One(client.clone().lock_owned().await)),
        }
    }

    /// The generation that readers saw last.
    fn known(&self, model: &str) -> Option<i64> {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.get(model).copied()
    }

    fn know(&self, model: &str, generation: Option<i64>) {
        // Nothing panics while this lock is held.
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        match generation {
            Some(generation) => shown.insert(model.to_owned(), generation),
            None => shown.remove(model),
        };
    }
}

#[async_trait]
impl ReadStore for PostgresReads {
    async fn claim(&self, model: &str) -> Result<Lease> {
        check_model_name(model)?;
        let model = model.to_owned();
        self.run(move |names, client| async move { catalog::claim(&client, &names, &model).await }).await
    }

    async fn catalog(&self, model: &str) -> Result<Catalog> {
        let model = model.to_owned();
        self.run(move |names, client| async move { catalog::catalog(&client, &names, &model).await }).await
    }

    async fn create(&self, lease: &Lease, version: u32) -> Result<Generation> {
        let lease = lease.clone();
        self.run(move |names, mut client| async move {
            catalog::create(&mut client, &names, &lease, version).await
        })
        .await
    }

    async fn discard(&self, lease: &Lease) -> Result<()> {
        let lease = lease.clone();
        self.run(move |names, mut client| async move { catalog::discard(&mut client, &names, &lease).await })
            .await
    }

    async fn activate(&self, lease: &Lease, generation: u32) -> Result<()> {
        let lease = lease.clone();
        self.run(move |names, mut client| async move {
            catalog::activate(&mut client, &names, &lease, generation.into()).await
        })
        .await
    }

    async fn commit(&self, lease: &Lease, step: Step) -> Result<()> {
        let lease = lease.clone();
        self.run(move |names, client| async move { rows::commit(&client, &names, &lease, step).await }).await
    }

    async fn rows(&self, model: &str, generation: u32, keys: Vec<String>) -> Result<Vec<Option<String>>> {
        let model = model.to_owned();
        self.run(move |names, client| async move {
            let table = names.table(&model, generation.into());
            let found = rows::rows(&client, &table, &keys).await?;
            Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
        })
        .await
    }

    async fn get(&self, model: &str, key: &str) -> Result<Snapshot> {
        // No text of PostgreSQL holds U+0000, so there is no such row, and no way to ask for it.
        let key = Some(key.to_owned()).filter(|key| !key.contains('\0'));
        self.shown(model, rows::Which::Key(key)).await
    }

    async fn page(&self, model: &str, after: Option<String>, limit: usize) -> Result<Snapshot> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let after = after.map(|after| after.split('\0').next().unwrap_or_default().to_owned());
        self.shown(model, rows::Which::After(after, limit)).await
    }

    async fn scan(&self, model: &str) -> Result<Scan> {
        scan::scan(self, model).await
    }

    async fn letters(
        &self,
        model: &str,
        generation: u32,
        after: Position,
        limit: usize,
    ) -> Result<Vec<(Position, String)>> {
        let model = model.to_owned();
        self.run(move |names, client| async move {
            letters::read(&client, &names, &model, generation, after, limit).await
        })
        .await
    }

    fn holds(&self) -> &dyn Holds {
        self
    }

    async fn scratch(&self) -> Result<Arc<dyn ReadStore>> {
        let inner = self.inner.clone();
        let client = inner.alone().await?;
        let of = |table: &str| format!("CREATE TEMPORARY TABLE {table} (LIKE factum.{table} INCLUDING ALL);");
        let tables = ["models", "generations", "letters", "holds"].map(of).concat();
        let tables = inner.names.sql(&tables);
        let made = client.batch_execute(&tables).await;
        made.map_err(|error| Fault::from(error).explain(&inner.place))?;
        let source = Source::One(Arc::new(tokio::sync::Mutex::new(client)));
        Ok(Arc::new(Self::of(source, format!("{} (temporary)", inner.place), Names::Temporary)))
    }
}

/// How often a model is looked for whose table has gone meanwhile.
const READINGS: u32 = 16;

/// A switch drops a table only when another is there: it is no switch that is in the way again and again.
fn dropped(model: &str) -> Error {
    Error::NotFound {
        what: format!("the table of the read model `{model}`, which somebody has dropped; rebuild the model"),
    }
}

impl PostgresReads {
    /// Rows as readers see them. The generation is looked for where it was last: one statement sees one moment.
    async fn shown(&self, model: &str, which: rows::Which) -> Result<Snapshot> {
        let (inner, model) = (self.inner.clone(), model.to_owned());
        self.run(move |names, client| async move {
            for _ in 0..READINGS {
                let number = match inner.known(&model) {
                    Some(number) => number,
                    None => match catalog::catalog(&client, &names, &model).await?.active {
                        Some(active) => active.number.into(),
                        None => return Ok(Snapshot::default()),
                    },
                };
                let shown = rows::shown(&client, &names, &model, number, &which).await?;
                inner.know(&model, shown.is_some().then_some(number));
                if let Some(shown) = shown {
                    return Ok(shown);
                }
            }
            Err(dropped(&model).into())
        })
        .await
    }
}

impl Inner {
    /// A connection that goes when it is dropped, with all that is open on it. It waits for nobody's next statement.
    async fn alone(&self) -> Result<ClientWrapper> {
        let client = match &self.source {
            Source::Pool(pool) => Object::take(take(pool, &self.place).await?),
            Source::One(_) => {
                let why = "temporary read models have no further ones".to_owned();
                return Err(Error::invalid(format!("PostgreSQL {}", self.place), why));
            }
        };
        let patient = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0";
        client.batch_execute(patient).await.map_err(|error| Fault::from(error).explain(&self.place))?;
        Ok(client)
    }
}
