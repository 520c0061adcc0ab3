//! Read models of any shape: tables of your own, changed by SQL.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use factum::{
    Error, Event, EventStore, Factum, Query, Recorded, RecordedEvent, Result, Token,
    projection::{
        Attached, Difference, Generation, Place, Runner, Status, Target, check_model_name, guarded,
    },
};
use rusqlite::{Connection, Transaction};

use crate::file::{self, Sqlite, Trouble};

/// A read model with tables of its own.
///
/// ```
/// # use factum::prelude::*;
/// # use factum_sqlite::{Sql, SqlProjection};
/// # #[derive(Debug, Serialize, Deserialize)]
/// # enum OrderEvent { Placed { total: i64 } }
/// # impl Event for OrderEvent { const CATEGORY: &'static str = "order"; }
/// struct Turnover;
///
/// impl SqlProjection for Turnover {
///     const NAME: &'static str = "turnover";
///     type Event = OrderEvent;
///
///     fn setup(&self, sql: &Sql<'_>) -> rusqlite::Result<()> {
///         sql.execute_batch(&format!("CREATE TABLE {} (day TEXT PRIMARY KEY, total INTEGER NOT NULL)", sql.table("days")))
///     }
///
///     fn apply(&self, sql: &Sql<'_>, event: &Recorded<OrderEvent>) -> rusqlite::Result<()> {
///         let OrderEvent::Placed { total } = event.event;
///         let day = event.record.recorded_at.to_string()[..10].to_owned();
///         let add = format!("INSERT INTO {} VALUES (?1, ?2) ON CONFLICT DO UPDATE SET total = total + ?2", sql.table("days"));
///         sql.prepare_cached(&add)?.execute((day, total))?;
///         Ok(())
///     }
/// }
/// ```
pub trait SqlProjection: Send + Sync + 'static {
    /// What it is called: letters, digits and `_`.
    const NAME: &'static str;
    /// A new number rebuilds it.
    const VERSION: u32 = 1;
    /// The events that it understands.
    type Event: Event;

    /// Which events it looks at: those of the category, unless it says otherwise.
    ///
    /// # Errors
    /// What is wrong with a name in it.
    fn query(&self) -> Result<Query> {
        Ok(Query::category(Self::Event::CATEGORY))
    }

    /// Makes its tables, under the names that [`Sql::table`] gives them.
    ///
    /// # Errors
    /// Those of SQLite.
    fn setup(&self, sql: &Sql<'_>) -> rusqlite::Result<()>;

    /// Changes its tables by what happened. The checkpoint moves in the same transaction.
    ///
    /// # Errors
    /// Those of SQLite: they stop the projection.
    fn apply(&self, sql: &Sql<'_>, event: &Recorded<Self::Event>) -> rusqlite::Result<()>;
}

/// The database, as one generation of a read model sees it. It is a `rusqlite` connection within a transaction: statements that
/// begin or end one are not for you.
#[derive(Debug)]
pub struct Sql<'a> {
    db: &'a Connection,
    name: &'a str,
    generation: u64,
}

impl Sql<'_> {
    /// The full name of a table of this read model: each generation has its own.
    pub fn table(&self, name: &str) -> String {
        format!("\"{}_g{}_{}\"", self.name, self.generation, name.replace('"', "\"\""))
    }
}

impl std::ops::Deref for Sql<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.db
    }
}

/// A read model of any shape that is being kept. It is kept as long as a clone of this lives.
#[derive(Clone, Debug)]
pub struct ProjectedSql {
    name: &'static str,
    sqlite: Sqlite,
    runner: Arc<Runner>,
}

impl Sqlite {
    /// Keeps a read model of any shape from now on: catches up from its checkpoint, then follows.
    ///
    /// # Errors
    /// As for [`Factum::project`].
    pub async fn project<P: SqlProjection>(&self, factum: &Factum, projection: P) -> Result<ProjectedSql> {
        check_model_name(P::NAME)?;
        let target = Arc::new(Tables { projection: Arc::new(projection), sqlite: self.clone() });
        let store: Arc<dyn EventStore> = factum.store().clone();
        let runner = Arc::new(Runner::start(store, target).await?);
        Ok(ProjectedSql { name: P::NAME, sqlite: self.clone(), runner })
    }
}

impl ProjectedSql {
    /// Reads from its tables.
    ///
    /// # Errors
    /// Those of SQLite, and [`Error::NotFound`] before the first generation exists.
    pub async fn query<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Sql<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let name = self.name;
        let query = move |own: &Sqlite| {
            own.read(|db| {
                // One snapshot for finding the tables and for reading them.
                let snapshot = db.unchecked_transaction()?;
                match file::active(&snapshot, name)? {
                    Some(generation) => work(&Sql { db: &snapshot, name, generation }).map(Some),
                    None => Ok(None),
                }
            })?
            .ok_or_else(|| Error::NotFound { what: format!("read model `{name}`") })
        };
        self.sqlite.blocking(query).await
    }

    /// As for [`factum::Projected::wait_for_within`].
    ///
    /// # Errors
    /// As there.
    pub async fn wait_for_within(&self, token: impl Into<Token>, at_most: Duration) -> Result<()> {
        self.runner.wait_for(token.into(), at_most).await
    }

    /// As for [`factum::Projected::wait_for`].
    ///
    /// # Errors
    /// As there.
    pub async fn wait_for(&self, done: impl Into<Token>) -> Result<()> {
        self.runner.wait_for(done.into(), Duration::from_secs(10)).await
    }

    /// As for [`factum::Projected::rebuild`].
    ///
    /// # Errors
    /// As there.
    pub async fn rebuild(&self) -> Result<()> {
        self.runner.rebuild().await
    }

    /// As for [`factum::Projected::status`].
    ///
    /// # Errors
    /// As there.
    pub async fn status(&self) -> Result<Status> {
        self.runner.status().await
    }

    /// As for [`factum::Projected::stop`].
    pub async fn stop(&self) {
        self.runner.stop().await;
    }
}

/// A projection and the file its tables are in.
struct Tables<P> {
    projection: Arc<P>,
    sqlite: Sqlite,
}

/// Drops the tables of a generation.
fn drop_tables(db: &Transaction<'_>, name: &str, generation: u64) -> rusqlite::Result<()> {
    let mine = format!("{name}_g{generation}_");
    let mut select =
        db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND substr(name, 1, ?1) = ?2")?;
    let length = i64::try_from(mine.len()).unwrap_or(i64::MAX);
    let tables: Vec<String> =
        select.query_map((length, &mine), |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    for table in tables {
        db.execute_batch(&format!("DROP TABLE \"{}\";", table.replace('"', "\"\"")))?;
    }
    Ok(())
}

#[async_trait]
impl<P: SqlProjection> Target for Tables<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn version(&self) -> u32 {
        P::VERSION
    }

    fn query(&self) -> Result<Query> {
        self.projection.query()
    }

    async fn attach(&self) -> Result<Attached> {
        self.sqlite.blocking(|own| own.write(|db| file::attach(db, P::NAME))).await
    }

    async fn begin(&self, epoch: u64) -> Result<Generation> {
        let projection = self.projection.clone();
        let begin = move |own: &Sqlite| {
            own.write(|db| {
                let (generation, replaced) = file::begin(db, P::NAME, epoch, P::VERSION)?;
                projection.setup(&Sql { db, name: P::NAME, generation: generation.number })?;
                if let Some(replaced) = replaced {
                    drop_tables(db, P::NAME, replaced)?;
                }
                Ok(generation)
            })
        };
        self.sqlite.blocking(begin).await
    }

    async fn apply(
        &self,
        place: Place<'_>,
        from: Option<Token>,
        to: Token,
        events: Vec<RecordedEvent>,
    ) -> Result<()> {
        let (projection, epoch, generation) = (self.projection.clone(), place.epoch, place.generation);
        let apply = move |own: &Sqlite| {
            own.write(|db| {
                file::move_checkpoint(db, Place { name: P::NAME, epoch, generation }, from, to)?;
                let sql = Sql { db, name: P::NAME, generation };
                for event in events {
                    let event = Recorded::decode(event)?;
                    let what = format!(
                        "the event at position {} in `{}`",
                        event.record.position, event.record.stream
                    );
                    match guarded(|| what.clone(), || projection.apply(&sql, &event))? {
                        Err(error) if error.sqlite_error_code().is_none_or(blames_the_event) => {
                            return Err(Error::invalid(what, format!("its SQL failed ({error})")).into());
                        }
                        result => result.map_err(Trouble::Sqlite)?,
                    }
                }
                Ok(())
            })
        };
        self.sqlite.blocking(apply).await
    }

    async fn activate(&self, place: Place<'_>) -> Result<()> {
        let (epoch, generation) = (place.epoch, place.generation);
        let activate = move |own: &Sqlite| {
            own.write(|db| {
                if let Some(old) = file::activate(db, Place { name: P::NAME, epoch, generation })? {
                    drop_tables(db, P::NAME, old)?;
                }
                Ok(())
            })
        };
        self.sqlite.blocking(activate).await
    }

    /// Of tables of any shape, only their owner knows how to compare them.
    async fn differences(&self, _: Vec<RecordedEvent>) -> Result<Vec<Difference>> {
        Err(Error::invalid(
            format!("the read model `{}`", P::NAME),
            "only read models of one row per key can be verified",
        ))
    }
}

/// Whether an error of SQLite is due to what was asked, and not to the state of the database.
fn blames_the_event(code: rusqlite::ErrorCode) -> bool {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseCorrupt, DatabaseLocked, DiskFull, NotADatabase, OutOfMemory,
        ReadOnly, SystemIoFailure,
    };
    !matches!(
        code,
        CannotOpen
            | DatabaseBusy
            | DatabaseCorrupt
            | DatabaseLocked
            | DiskFull
            | NotADatabase
            | OutOfMemory
            | ReadOnly
            | SystemIoFailure
    )
}
