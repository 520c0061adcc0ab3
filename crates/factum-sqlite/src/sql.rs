//! Projections in SQL: tables of their own, changed by statements of their own.

use std::{
    cell::RefCell,
    cmp::Ordering,
    collections::HashMap,
    fmt,
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use async_trait::async_trait;
use factum::{
    Consumer, Difference, Error, EventSet, EventStore, Factum, Outcome, Query, ReadStore, Recorded, Result,
    Token,
    batch::{Batch, Decoded, Filled, place_of},
    consumer::{Filler, Form, fill_anew},
    projection::DIFFERENCES,
    reads::{Generation, Lease},
};
use rusqlite::{CachedStatement, Connection, params_from_iter};

use crate::{
    Params, Row, Sqlite, Value,
    fault::{Fault, explain},
    models,
    scan::{Sink, Stream},
    thread::said,
};

/// A read model in SQL, for whatever is not one document per key.
///
/// A table's name stands in braces: `{by_day}` is the table `by_day` of the generation that is being filled. Readers see it
/// as a view that is called like the model and the table, `turnover_by_day`.
///
/// ```
/// # use factum::prelude::*;
/// # use factum_sqlite::{Sql, SqlProjection, Sqlite};
/// # #[derive(Serialize, Deserialize)] enum OrderEvent { Paid { day: String, cents: i64 } }
/// # impl Event for OrderEvent { const CATEGORY: &'static str = "order"; }
/// struct Turnover;
///
/// impl SqlProjection for Turnover {
///     const NAME: &'static str = "turnover";
///     type Event = OrderEvent;
///
///     fn setup(&self, sql: &Sql<'_>) -> factum::Result<()> {
///         sql.execute("CREATE TABLE {by_day} (day TEXT PRIMARY KEY, cents INTEGER NOT NULL)", ())?;
///         Ok(())
///     }
///
///     fn apply(&self, sql: &Sql<'_>, event: &Recorded<OrderEvent>) -> factum::Result<()> {
///         let OrderEvent::Paid { day, cents } = &event.event;
///         let add = "INSERT INTO {by_day} VALUES (?1, ?2) ON CONFLICT DO UPDATE SET cents = cents + excluded.cents";
///         sql.execute(add, (day, *cents))?;
///         Ok(())
///     }
/// }
///
/// # async fn example(factum: Factum) -> factum::Result<()> {
/// let turnover = Sqlite::open("read.db")?.project(&factum, Turnover).await?;
/// for row in turnover.query("SELECT day, cents FROM {by_day} ORDER BY day", ()).await? {
///     println!("{}: {}", row.get::<String>(0)?, row.get::<i64>(1)?);
/// }
/// # Ok(())
/// # }
/// ```
pub trait SqlProjection: Send + Sync + 'static {
    /// The model's name: a word of a-z, 0-9 and `_`.
    const NAME: &'static str;
    /// Raise it whenever the tables should come out differently: the model is then filled anew, and switched when it is ready.
    const VERSION: u32 = 1;
    /// What it is made from. Every event that [`query`](SqlProjection::query) selects must be one.
    type Event: EventSet;

    /// The events that it is made from: those of the event's category.
    ///
    /// # Errors
    /// Those of [`Query`]'s constructors.
    fn query(&self) -> Result<Query> {
        Self::Event::query()
    }

    /// Makes the tables, and whatever belongs to them: indexes, views, triggers, virtual tables. All of their names stand in
    /// braces.
    ///
    /// # Errors
    /// Those of [`Sql`].
    fn setup(&self, sql: &Sql<'_>) -> Result<()>;

    /// Changes the tables as the event demands, in the transaction that also moves the checkpoint. So statements that begin,
    /// commit or roll back are refused; where one such as `INSERT OR ROLLBACK` ends the transaction, it stops before this event.
    ///
    /// # Errors
    /// Those of [`Sql`], and whatever it refuses: the projection then stops before this event, and says so.
    fn apply(&self, sql: &Sql<'_>, event: &Recorded<Self::Event>) -> Result<()>;
}

/// A transaction on the tables of one generation.
pub struct Sql<'c> {
    connection: &'c Connection,
    place: Arc<str>,
    prefix: String,
    /// Statements with their braces resolved.
    resolved: RefCell<HashMap<String, Arc<str>>>,
}

impl fmt::Debug for Sql<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sql({} in {})", self.prefix, self.place)
    }
}

impl<'c> Sql<'c> {
    fn new(connection: &'c Connection, place: &Arc<str>, model: &str, generation: u32) -> Self {
        let (place, prefix) = (place.clone(), models::table(model, generation));
        Self { connection, place, prefix, resolved: RefCell::default() }
    }

    /// Executes a statement, and says how many rows it changed. It is prepared once.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for what SQLite refuses and for statements that begin, commit or roll back, and failures of the
    /// database.
    pub fn execute(&self, sql: &str, params: impl Params) -> Result<usize> {
        let execute = || {
            let mut statement = self.prepare(sql)?;
            Ok(statement.execute(params_from_iter(params.values()))?)
        };
        execute().map_err(|fault| explain(&self.place, fault))
    }

    /// The rows that a query gives.
    ///
    /// # Errors
    /// As for [`execute`](Self::execute).
    pub fn query(&self, sql: &str, params: impl Params) -> Result<Vec<Row>> {
        let query = || {
            let mut statement = self.prepare(sql)?;
            let columns = statement.column_count();
            let row = |row: &rusqlite::Row<'_>| {
                let values = (0..columns).map(|column| row.get_ref(column).map(Value::from));
                values.collect::<rusqlite::Result<_>>().map(Row)
            };
            let rows = statement.query_map(params_from_iter(params.values()), row)?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        };
        query().map_err(|fault| explain(&self.place, fault))
    }

    /// Refuses whatever is not of the one transaction: outside of it nothing may change, and nobody but its owner ends it.
    fn prepare(&self, sql: &str) -> Result<CachedStatement<'c>, Fault> {
        self.check_open()?;
        let statement = self.connection.prepare_cached(&self.resolve(sql))?;
        // Of what gives no rows and writes nothing there are settings, and what begins and ends transactions.
        let is_pragma = sql.trim_start().get(..6).is_some_and(|word| word.eq_ignore_ascii_case("pragma"));
        if statement.readonly() && statement.column_count() == 0 && !is_pragma {
            let why = "all of it is one transaction with the checkpoint: statements that begin, commit or roll back are not for here";
            return Err(Error::invalid(format!("the statement `{}`", sql.trim()), why).into());
        }
        Ok(statement)
    }

    /// Nothing, as long as the transaction is there: a statement such as `INSERT OR ROLLBACK` may have ended it.
    fn check_open(&self) -> Result<()> {
        if !self.connection.is_autocommit() {
            return Ok(());
        }
        let why = "a statement before rolled the whole transaction back, as `OR ROLLBACK` and `RAISE(ROLLBACK)` do; use `OR ABORT` and `RAISE(ABORT)`";
        Err(Error::invalid(format!("SQL in {}", self.place), why))
    }

    fn resolve(&self, sql: &str) -> Arc<str> {
        if let Some(known) = self.resolved.borrow().get(sql) {
            return known.clone();
        }
        let resolved: Arc<str> = resolve(sql, &self.prefix).into();
        self.resolved.borrow_mut().insert(sql.to_owned(), resolved.clone());
        resolved
    }
}

/// Replaces `{name}` by the table's full name, quoted. Braces around anything but a name stay as they are: JSON has them too.
fn resolve(sql: &str, prefix: &str) -> String {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let (mut resolved, mut rest) = (String::with_capacity(sql.len() + 32), sql);
    while let Some((before, after)) = rest.split_once('{') {
        resolved += before;
        match after.split_once('}') {
            Some((name, after)) if is_name(name) => {
                resolved += &format!("\"{prefix}_{name}\"");
                rest = after;
            }
            _ => {
                resolved.push('{');
                rest = after;
            }
        }
    }
    resolved + rest
}

/// A projection in SQL that is kept up to date in the background. It stops when the last clone is dropped.
#[derive(Debug)]
pub struct SqlProjected<P> {
    consumer: Consumer,
    projection: Arc<P>,
    sqlite: Sqlite,
    store: Arc<dyn EventStore>,
}

impl<P> Clone for SqlProjected<P> {
    fn clone(&self) -> Self {
        let Self { consumer, projection, sqlite, store } = self;
        Self {
            consumer: consumer.clone(),
            projection: projection.clone(),
            sqlite: sqlite.clone(),
            store: store.clone(),
        }
    }
}

impl<P> Deref for SqlProjected<P> {
    type Target = Consumer;

    fn deref(&self) -> &Consumer {
        &self.consumer
    }
}

impl Sqlite {
    /// Keeps a read model in SQL up to date, in the background: first what is in the log, then what comes. It goes on where it
    /// was left, exactly once. Where another worker keeps the model, see [`Factum::consume`].
    ///
    /// # Errors
    /// Those of [`Factum::consume`].
    pub async fn project<P: SqlProjection>(&self, factum: &Factum, projection: P) -> Result<SqlProjected<P>> {
        let (sqlite, projection) = (self.clone(), Arc::new(projection));
        let form = SqlForm { sqlite: sqlite.clone(), projection: projection.clone() };
        Ok(SqlProjected {
            consumer: factum.consume(form).await?,
            projection,
            sqlite,
            store: factum.store().clone(),
        })
    }
}

impl<P: SqlProjection> SqlProjected<P> {
    /// The rows that a query gives. `{table}` is the table as readers see it.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for what SQLite refuses, [`Error::Unavailable`] while readers are shown another version of the
    /// projection, and failures of the database.
    pub async fn query(&self, sql: impl Into<String>, params: impl Params) -> Result<Vec<Row>> {
        let (sql, params, place) = (sql.into(), params.values(), self.sqlite.place.clone());
        self.sqlite
            .look(move |tx| {
                let active = models::catalog(tx, P::NAME)?.active.ok_or_else(|| Error::Unavailable {
                    why: format!("the tables of the read model `{}` are not made yet", P::NAME),
                    outcome: Outcome::No,
                })?;
                active.check_version(P::NAME, P::VERSION)?;
                Ok(Sql::new(tx, &place, P::NAME, active.number).query(&sql, params)?)
            })
            .await
    }

    /// Compares the tables with what the visible events of the log make, up to where the model is. Nothing: they agree.
    ///
    /// The events are applied to a temporary database, and the rows of both are read side by side, sorted. So it needs room on
    /// the disk, and little memory. At most [`DIFFERENCES`] are listed. The tables are held as of one moment meanwhile, and the
    /// write-ahead log is not folded into the file: it grows with what is written.
    ///
    /// Rows made of events that retention, a deletion or a scavenge has hidden since differ, although nothing is wrong, until a
    /// [rebuild](Consumer::rebuild).
    ///
    /// # Errors
    /// Those of reading the log and the database, [`Error::LogRewound`] if the model is of another history, and
    /// [`Error::Unavailable`] while readers are shown another version.
    pub async fn verify(&self) -> Result<Vec<Difference>> {
        let (active, mut kept) = contents(&self.sqlite, P::NAME).await?;
        let Some(active) = active else { return Ok(Vec::new()) };
        active.check_version(P::NAME, P::VERSION)?;
        let sqlite = Sqlite::temporary()?;
        let form = SqlForm { sqlite: sqlite.clone(), projection: self.projection.clone() };
        fill_anew(&*self.store, &form, active.checkpoint).await?;
        let (_, mut by_the_log) = contents(&sqlite, P::NAME).await?;
        differences(&mut kept, &mut by_the_log).await
    }
}

/// Every row of every table that readers see, as its table's name and its values in SQL: the tables in the order of their
/// names, the rows of each sorted.
struct Contents {
    rows: Stream<String>,
    page: std::vec::IntoIter<String>,
    next: Option<String>,
}

async fn contents(sqlite: &Sqlite, model: &'static str) -> Result<(Option<Generation>, Contents)> {
    let read = move |tx: &Connection, tell: &mut dyn FnMut(_), sink: &mut Sink<'_, String>| {
        let active = models::catalog(tx, model)?.active;
        tell(active);
        let Some(active) = active else { return Ok(()) };
        let mut tables = models::tables(tx, model, active.number)?;
        tables.sort_by(|a, b| a.view.cmp(&b.view));
        for models::Shown { view, name, .. } in tables {
            let columns = tx.prepare(&format!("SELECT * FROM \"{name}\""))?.column_names().len();
            let quoted: Vec<_> = (1..=columns).map(|n| format!("quote(c{n})")).collect();
            let named: Vec<_> = (1..=columns).map(|n| format!("c{n}")).collect();
            let (row, named) = (quoted.join(" || ', ' || "), named.join(", "));
            // SQLite sorts on its disk what does not fit into its memory.
            let sql = format!(
                "WITH t({named}) AS (SELECT * FROM \"{name}\") SELECT {row} AS row FROM t ORDER BY row"
            );
            let mut select = tx.prepare(&sql)?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                if !sink.put(format!("{view} ({})", row.get::<_, String>(0)?)) {
                    return Ok(());
                }
            }
        }
        Ok(())
    };
    let (active, rows) = sqlite.stream(read).await?;
    Ok((active, Contents { rows, page: Vec::new().into_iter(), next: None }))
}

impl Contents {
    async fn row(&mut self) -> Result<Option<String>> {
        if self.page.as_slice().is_empty() {
            self.page = self.rows.next().await?.into_iter();
        }
        Ok(self.page.next())
    }

    /// The next row, and how often it is there.
    async fn rows(&mut self) -> Result<Option<(String, u64)>> {
        let first = match self.next.take() {
            Some(row) => Some(row),
            None => self.row().await?,
        };
        let Some(first) = first else { return Ok(None) };
        let mut times = 1;
        while let Some(row) = self.row().await? {
            if row != first {
                self.next = Some(row);
                break;
            }
            times += 1;
        }
        Ok(Some((first, times)))
    }
}

async fn differences(kept: &mut Contents, by_the_log: &mut Contents) -> Result<Vec<Difference>> {
    let (mut differences, mut ours, mut theirs) = (Vec::new(), kept.rows().await?, by_the_log.rows().await?);
    let there = |times: u64| format!("there {times} time(s)");
    while differences.len() < DIFFERENCES {
        let first = match (&ours, &theirs) {
            (None, None) => break,
            (Some((our, _)), Some((their, _))) => our.cmp(their),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        };
        let ours = if first.is_le() { std::mem::replace(&mut ours, kept.rows().await?) } else { None };
        let theirs =
            if first.is_ge() { std::mem::replace(&mut theirs, by_the_log.rows().await?) } else { None };
        let Some((key, _)) = ours.clone().or(theirs.clone()) else { break };
        let (kept, by_the_log) = (ours.map(|(_, times)| there(times)), theirs.map(|(_, times)| there(times)));
        if kept != by_the_log {
            differences.push(Difference { key, kept, by_the_log });
        }
    }
    Ok(differences)
}

struct SqlForm<P> {
    sqlite: Sqlite,
    projection: Arc<P>,
}

#[async_trait]
impl<P: SqlProjection> Form for SqlForm<P> {
    fn name(&self) -> &str {
        P::NAME
    }

    fn version(&self) -> u32 {
        P::VERSION
    }

    fn query(&self) -> Result<Query> {
        self.projection.query()
    }

    fn reads(&self) -> &dyn ReadStore {
        &self.sqlite
    }

    async fn rehearse(&self) -> Result<()> {
        let (projection, place) = (self.projection.clone(), self.sqlite.place.clone());
        let rehearse = move |connection: &mut Connection| {
            // It is rolled back at the end.
            let tx = models::begin(connection)?;
            models::rehearse(&tx, P::NAME, |number| set_up(&*projection, &tx, &place, number))
        };
        self.sqlite.writer().run(rehearse).await
    }

    async fn create(&self, lease: &Lease) -> Result<Generation> {
        let (lease, projection, place) = (lease.clone(), self.projection.clone(), self.sqlite.place.clone());
        self.sqlite
            .change(move |tx| {
                let generation = models::create(tx, &lease, P::VERSION)?;
                set_up(&*projection, tx, &place, generation.number)?;
                Ok(generation)
            })
            .await
    }

    fn filler(&self, generation: u32) -> Box<dyn Filler> {
        let (sqlite, projection) = (self.sqlite.clone(), self.projection.clone());
        Box::new(SqlFiller { sqlite, projection, generation })
    }
}

/// Makes the tables of a generation.
fn set_up<P: SqlProjection>(
    projection: &P,
    tx: &Connection,
    place: &Arc<str>,
    number: u32,
) -> Result<(), Fault> {
    let sql = Sql::new(tx, place, P::NAME, number);
    projection.setup(&sql)?;
    Ok(sql.check_open()?)
}

struct SqlFiller<P> {
    sqlite: Sqlite,
    projection: Arc<P>,
    generation: u32,
}

#[async_trait]
impl<P: SqlProjection> Filler for SqlFiller<P> {
    async fn fill(&mut self, lease: &Lease, batch: Batch) -> Result<Filled> {
        let (from, to, mut events) = (batch.from, batch.to, batch.decode());
        let problem = events.problem.take();
        let work = Work {
            lease: lease.clone(),
            projection: self.projection.clone(),
            place: self.sqlite.place.clone(),
            generation: self.generation,
            from,
            records: events.len(),
            events,
        };
        self.sqlite.writer().run(move |connection| work.done(connection, to, problem)).await
    }
}

/// A batch on its way to the writing thread.
struct Work<P: SqlProjection> {
    lease: Lease,
    projection: Arc<P>,
    place: Arc<str>,
    generation: u32,
    from: Option<Token>,
    events: Decoded<P::Event>,
    /// How many of the records are applied.
    records: usize,
}

impl<P: SqlProjection> Work<P> {
    /// Applies all, or as many as the projection can, in one transaction with the checkpoint.
    fn done(
        mut self,
        connection: &mut Connection,
        to: Token,
        mut problem: Option<Error>,
    ) -> Result<Filled, Fault> {
        loop {
            let to = match &problem {
                None => to,
                Some(_) if self.records == 0 => return Ok(Filled { checkpoint: self.from, problem }),
                Some(_) => self.events.checkpoint_after(self.records, self.from, to).unwrap_or(to),
            };
            let tx = models::begin(connection)?;
            models::advance(&tx, &self.lease, self.generation, self.from, to)?;
            match self.apply(&tx)? {
                None => {
                    tx.commit()?;
                    return Ok(Filled { checkpoint: Some(to), problem });
                }
                // What it did before it failed goes with the transaction: begin again, and end before.
                Some((record, error)) => {
                    self.records = record;
                    problem = Some(error);
                }
            }
        }
    }

    /// At which record the projection fails, and why; failures of the database are errors.
    fn apply(&self, tx: &Connection) -> Result<Option<(usize, Error)>, Fault> {
        let sql = Sql::new(tx, &self.place, P::NAME, self.generation);
        for record in 0..self.records {
            for event in self.events.events(record) {
                // An error that the projection forgets may have rolled back what it did before.
                let apply = || self.projection.apply(&sql, event).and_then(|()| sql.check_open());
                let applied = catch_unwind(AssertUnwindSafe(apply));
                let place = || place_of(&event.record);
                let reason = match applied {
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) if error.is_retryable() || matches!(error, Error::Corrupt(_)) => {
                        return Err(error.into());
                    }
                    Ok(Err(error)) => format!("it refused {}: {error}", place()),
                    Err(panic) => format!("it panicked on {}: {}", place(), said(&*panic)),
                };
                let error = Error::invalid(format!("the projection `{}`", P::NAME), reason);
                return Ok(Some((record, error)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_in_braces_are_tables() {
        let sql = "INSERT INTO {by_day} SELECT json('{\"a\":{}}'), '{', '{x y}', {t2}.a FROM {t2}";
        let expected = "INSERT INTO \"m_g3_by_day\" SELECT json('{\"a\":{}}'), '{', '{x y}', \"m_g3_t2\".a FROM \"m_g3_t2\"";
        assert_eq!(resolve(sql, "m_g3"), expected);
    }
}
