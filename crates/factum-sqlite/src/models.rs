//! The models in a database: which generations there are, who may change them, and their documents.

use std::sync::Arc;

use async_trait::async_trait;
use factum::{
    Error, LogIdentity, Outcome, Position, ReadStore, Result, Token,
    reads::{Catalog, Generation, Holds, Lease, Scan, Snapshot, Step, check_model_name},
};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, named_params, params};
use uuid::Uuid;

use crate::{Sqlite, fault::Fault, letters};

/// What is known of the models. A checkpoint is `log_id`, `log_epoch` and `position`, all of them or none.
const CATALOG: &str = "
    CREATE TABLE IF NOT EXISTS factum_models (
        model    TEXT PRIMARY KEY,
        epoch    INTEGER NOT NULL,
        created  INTEGER NOT NULL,
        active   INTEGER,
        building INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS factum_generations (
        model      TEXT NOT NULL,
        generation INTEGER NOT NULL,
        version    INTEGER NOT NULL,
        log_id     TEXT,
        log_epoch  INTEGER,
        position   INTEGER,
        PRIMARY KEY (model, generation)
    ) STRICT, WITHOUT ROWID;
";

/// Makes the catalog if it is missing.
pub(crate) fn set_up(connection: &mut Connection, place: &str) -> Result<(), Fault> {
    if connection.is_readonly("main")? {
        let why =
            format!("the SQLite database {place} is read-only; make the file and its directory writable");
        return Err(Error::Unavailable { why, outcome: Outcome::No }.into());
    }
    let tx = begin(connection)?;
    tx.execute_batch(CATALOG)?;
    tx.execute_batch(letters::TABLE)?;
    tx.execute_batch(crate::holds::TABLE)?;
    tx.execute_batch(crate::snapshots::TABLE)?;
    Ok(tx.commit()?)
}

/// Whether the catalog is there.
pub(crate) fn is_set_up(connection: &Connection) -> Result<bool, Fault> {
    let count = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('factum_models', 'factum_generations', 'factum_letters', 'factum_holds')";
    Ok(connection.query_row(count, [], |row| row.get::<_, u32>(0))? == 4)
}

/// Begins a transaction that will write: it waits for its turn now, not in the middle.
pub(crate) fn begin(connection: &mut Connection) -> Result<Transaction<'_>, Fault> {
    Ok(connection.transaction_with_behavior(TransactionBehavior::Immediate)?)
}

/// The table of a generation's documents, and what the names of all its tables begin with.
pub(crate) fn table(model: &str, generation: u32) -> String {
    format!("{model}_g{generation}")
}

pub(crate) fn catalog(tx: &Connection, model: &str) -> Result<Catalog, Fault> {
    let mut found =
        tx.prepare_cached("SELECT epoch, active, building FROM factum_models WHERE model = ?1")?;
    let found = found.query_row([model], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
    let Some((epoch, active, building)) = found else { return Ok(Catalog::default()) };
    let generation = |number: Option<u32>| number.map(|number| generation(tx, model, number)).transpose();
    Ok(Catalog { epoch, active: generation(active)?, building: generation(building)? })
}

fn generation(tx: &Connection, model: &str, number: u32) -> Result<Generation, Fault> {
    let select = "SELECT version, log_id, log_epoch, position FROM factum_generations WHERE model = ?1 AND generation = ?2";
    let mut select = tx.prepare_cached(select)?;
    let (version, log_id, epoch, position) = select.query_row(params![model, number], |row| {
        Ok((
            row.get(0)?,
            row.get::<_, Option<String>>(1)?,
            row.get::<_, Option<u64>>(2)?,
            row.get::<_, Option<u64>>(3)?,
        ))
    })?;
    let checkpoint = match (log_id, epoch, position) {
        (Some(log_id), Some(epoch), Some(position)) => {
            let log_id = Uuid::parse_str(&log_id).map_err(|e| {
                Error::invalid(format!("the log id `{log_id}` of the read model `{model}`"), e.to_string())
            })?;
            Some(LogIdentity { log_id, epoch }.at(Position(position)))
        }
        _ => None,
    };
    Ok(Generation { number, version, checkpoint })
}

/// Nothing, if the lease is in force.
pub(crate) fn check(tx: &Connection, lease: &Lease) -> Result<Catalog, Fault> {
    let catalog = catalog(tx, &lease.model)?;
    if catalog.epoch == lease.epoch { Ok(catalog) } else { Err(lease.fenced(catalog.epoch).into()) }
}

/// Moves a checkpoint, if it is where it should be and the lease is in force: the one statement that fences.
pub(crate) fn advance(
    tx: &Connection,
    lease: &Lease,
    number: u32,
    from: Option<Token>,
    to: Token,
) -> Result<(), Fault> {
    let update =
        "UPDATE factum_generations SET log_id = :log_id, log_epoch = :log_epoch, position = :position
        WHERE model = :model AND generation = :generation
          AND log_id IS :old_log_id AND log_epoch IS :old_log_epoch AND position IS :old_position
          AND (SELECT epoch FROM factum_models WHERE model = :model) = :epoch";
    let changed = tx.prepare_cached(update)?.execute(named_params! {
        ":log_id": to.log.log_id.to_string(),
        ":log_epoch": to.log.epoch,
        ":position": to.position.0,
        ":model": lease.model,
        ":generation": number,
        ":old_log_id": from.map(|from| from.log.log_id.to_string()),
        ":old_log_epoch": from.map(|from| from.log.epoch),
        ":old_position": from.map(|from| from.position.0),
        ":epoch": lease.epoch,
    })?;
    if changed == 1 { Ok(()) } else { Err(lease.fenced(catalog(tx, &lease.model)?.epoch).into()) }
}

/// Begins a new generation without any tables; one that was being built is dropped.
pub(crate) fn create(tx: &Connection, lease: &Lease, version: u32) -> Result<Generation, Fault> {
    discard(tx, lease)?;
    let next = "UPDATE factum_models SET created = created + 1, building = created + 1 WHERE model = ?1 RETURNING building";
    let number = tx.query_row(next, [&lease.model], |row| row.get(0))?;
    let insert = "INSERT INTO factum_generations (model, generation, version) VALUES (?1, ?2, ?3)";
    tx.execute(insert, params![lease.model, number, version])?;
    Ok(Generation { number, version, checkpoint: None })
}

fn discard(tx: &Connection, lease: &Lease) -> Result<(), Fault> {
    if let Some(building) = check(tx, lease)?.building {
        tx.execute("UPDATE factum_models SET building = NULL WHERE model = ?1", [&lease.model])?;
        drop_generation(tx, &lease.model, building.number)?;
    }
    Ok(())
}

/// Puts the views of a generation in the place of those of another.
fn show(tx: &Connection, model: &str, old: Option<u32>, number: u32) -> Result<(), Fault> {
    for Shown { view, .. } in old.map(|old| tables(tx, model, old)).transpose()?.unwrap_or_default() {
        tx.execute(&format!("DROP VIEW IF EXISTS \"{view}\""), [])?;
    }
    for Shown { view, name, .. } in tables(tx, model, number)? {
        tx.execute(&format!("CREATE VIEW \"{view}\" AS SELECT * FROM \"{name}\""), [])?;
    }
    Ok(())
}

/// Makes a new generation and shows it, in a transaction that nobody commits.
pub(crate) fn rehearse(
    tx: &Connection,
    model: &str,
    set_up: impl FnOnce(u32) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let lease = claim(tx, model)?;
    let old = catalog(tx, model)?.active.map(|active| active.number);
    let generation = create(tx, &lease, 0)?;
    set_up(generation.number)?;
    show(tx, model, old, generation.number)
}

fn claim(tx: &Connection, model: &str) -> Result<Lease, Fault> {
    let claim = "INSERT INTO factum_models (model, epoch, created) VALUES (?1, 1, 0)
        ON CONFLICT (model) DO UPDATE SET epoch = epoch + 1 RETURNING epoch";
    let epoch = tx.query_row(claim, [model], |row| row.get(0))?;
    Ok(Lease { model: model.to_owned(), epoch })
}

fn activate(tx: &Connection, lease: &Lease, number: u32) -> Result<(), Fault> {
    let catalog = check(tx, lease)?;
    if catalog.building.is_none_or(|building| building.number != number) {
        return Err(Error::NotFound {
            what: format!("generation {number} of `{}` to activate", lease.model),
        }
        .into());
    }
    let old = catalog.active.map(|active| active.number);
    show(tx, &lease.model, old, number)?;
    tx.execute(
        "UPDATE factum_models SET active = building, building = NULL WHERE model = ?1",
        [&lease.model],
    )?;
    old.map_or(Ok(()), |old| drop_generation(tx, &lease.model, old))
}

fn drop_generation(tx: &Connection, model: &str, number: u32) -> Result<(), Fault> {
    // Tables may refer to each other: what counts is that in the end none is left. It holds for this transaction.
    tx.pragma_update(None, "defer_foreign_keys", true)?;
    for Shown { name, kind, .. } in tables(tx, model, number)? {
        tx.execute(&format!("DROP {kind} IF EXISTS \"{name}\""), [])?;
    }
    tx.execute(
        "DELETE FROM factum_generations WHERE model = ?1 AND generation = ?2",
        params![model, number],
    )?;
    letters::drop_all(tx, model, number)
}

/// A table or view of a generation.
pub(crate) struct Shown {
    /// The name of the view that shows it to readers.
    pub(crate) view: String,
    /// Its own name.
    pub(crate) name: String,
    /// `table` or `view`.
    kind: String,
}

/// The tables of a generation and the views on them, views first. Tables that SQLite keeps for a virtual table are that one's
/// business.
pub(crate) fn tables(tx: &Connection, model: &str, number: u32) -> Result<Vec<Shown>, Fault> {
    let prefix = table(model, number);
    let select = "SELECT s.name, s.type FROM sqlite_schema s JOIN pragma_table_list l ON l.schema = 'main' AND l.name = s.name
        WHERE s.type IN ('table', 'view') AND l.type <> 'shadow' AND (s.name = ?1 OR s.name GLOB ?1 || '_*')
        ORDER BY s.type = 'table', s.name";
    let mut select = tx.prepare_cached(select)?;
    let shown = |row: &rusqlite::Row<'_>| {
        let (name, kind): (String, String) = (row.get(0)?, row.get(1)?);
        Ok(Shown { view: name.replacen(&prefix, model, 1), name, kind })
    };
    Ok(select.query_map([&prefix], shown)?.collect::<rusqlite::Result<_>>()?)
}

fn write_documents(
    tx: &Connection,
    model: &str,
    generation: u32,
    rows: Vec<(String, Option<String>)>,
) -> Result<(), Fault> {
    if rows.is_empty() {
        return Ok(());
    }
    let table = table(model, generation);
    let upsert =
        format!("INSERT INTO \"{table}\" VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET row = excluded.row");
    let (mut upsert, mut delete) =
        (tx.prepare_cached(&upsert)?, tx.prepare_cached(&format!("DELETE FROM \"{table}\" WHERE key = ?1"))?);
    for (key, row) in rows {
        match row {
            Some(row) => upsert.execute([key, row])?,
            None => delete.execute([key])?,
        };
    }
    Ok(())
}

fn document(connection: &Connection, table: &str, key: &str) -> Result<Option<String>, Fault> {
    let mut select = connection.prepare_cached(&format!("SELECT row FROM \"{table}\" WHERE key = ?1"))?;
    Ok(select.query_row([key], |row| row.get(0)).optional()?)
}

impl Sqlite {
    /// Changes something in one transaction of the writing connection.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        let change = |connection: &mut Connection| {
            let tx = begin(connection)?;
            let changed = change(&tx)?;
            tx.commit()?;
            Ok(changed)
        };
        self.writer().run(change).await
    }

    /// Looks at one moment of the database.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        let look = |connection: &mut Connection| {
            let tx = connection.transaction()?;
            look(&tx)
        };
        self.readers().run(look).await
    }
}

#[async_trait]
impl ReadStore for Sqlite {
    async fn claim(&self, model: &str) -> Result<Lease> {
        check_model_name(model)?;
        let model = model.to_owned();
        self.change(move |tx| claim(tx, &model)).await
    }

    async fn catalog(&self, model: &str) -> Result<Catalog> {
        let model = model.to_owned();
        // Not where the readers queue up: a query that takes long shall not hold up the keeping.
        self.writer().run(move |connection| catalog(&*connection.transaction()?, &model)).await
    }

    async fn create(&self, lease: &Lease, version: u32) -> Result<Generation> {
        let lease = lease.clone();
        self.change(move |tx| {
            let generation = create(tx, &lease, version)?;
            let table = table(&lease.model, generation.number);
            let columns = "(key TEXT PRIMARY KEY, row TEXT NOT NULL) STRICT";
            tx.execute(&format!("CREATE TABLE \"{table}\" {columns}"), [])?;
            Ok(generation)
        })
        .await
    }

    async fn discard(&self, lease: &Lease) -> Result<()> {
        let lease = lease.clone();
        self.change(move |tx| discard(tx, &lease)).await
    }

    async fn activate(&self, lease: &Lease, generation: u32) -> Result<()> {
        let lease = lease.clone();
        self.change(move |tx| activate(tx, &lease, generation)).await
    }

    async fn commit(&self, lease: &Lease, step: Step) -> Result<()> {
        let lease = lease.clone();
        self.change(move |tx| {
            advance(tx, &lease, step.generation, step.from, step.to)?;
            letters::write(tx, &lease.model, step.generation, step.letters)?;
            write_documents(tx, &lease.model, step.generation, step.rows)
        })
        .await
    }

    async fn letters(
        &self,
        model: &str,
        generation: u32,
        after: Position,
        limit: usize,
    ) -> Result<Vec<(Position, String)>> {
        let model = model.to_owned();
        let read =
            move |connection: &mut Connection| letters::read(connection, &model, generation, after, limit);
        self.writer().run(read).await
    }

    fn holds(&self) -> &dyn Holds {
        self
    }

    async fn rows(&self, model: &str, generation: u32, keys: Vec<String>) -> Result<Vec<Option<String>>> {
        let table = table(model, generation);
        let read = move |connection: &mut Connection| {
            // One transaction: else SQLite locks and unlocks the file for each row.
            let tx = connection.transaction()?;
            keys.iter().map(|key| document(&tx, &table, key)).collect()
        };
        self.writer().run(read).await
    }

    async fn get(&self, model: &str, key: &str) -> Result<Snapshot> {
        let (model, key) = (model.to_owned(), key.to_owned());
        self.look(move |tx| {
            let Some(active) = catalog(tx, &model)?.active else { return Ok(Snapshot::default()) };
            let row = document(tx, &table(&model, active.number), &key)?;
            Ok(Snapshot { generation: Some(active), rows: row.map(|row| (key, row)).into_iter().collect() })
        })
        .await
    }

    async fn page(&self, model: &str, after: Option<String>, limit: usize) -> Result<Snapshot> {
        let (model, limit) = (model.to_owned(), i64::try_from(limit).unwrap_or(i64::MAX));
        self.look(move |tx| {
            let Some(active) = catalog(tx, &model)?.active else { return Ok(Snapshot::default()) };
            let (table, beyond) =
                (table(&model, active.number), if after.is_some() { "WHERE key > ?2" } else { "" });
            let select = format!("SELECT key, row FROM \"{table}\" {beyond} ORDER BY key LIMIT ?1");
            let mut select = tx.prepare_cached(&select)?;
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
            let rows = match after {
                Some(after) => select.query_map(params![limit, after], row)?.collect::<rusqlite::Result<_>>(),
                None => select.query_map([limit], row)?.collect::<rusqlite::Result<_>>(),
            };
            Ok(Snapshot { generation: Some(active), rows: rows? })
        })
        .await
    }

    async fn scan(&self, model: &str) -> Result<Scan> {
        let model = model.to_owned();
        let (generation, rows) = self
            .stream(move |tx, tell, sink| {
                let active = catalog(tx, &model)?.active;
                tell(active);
                let Some(active) = active else { return Ok(()) };
                let table = table(&model, active.number);
                let mut select = tx.prepare(&format!("SELECT key, row FROM \"{table}\" ORDER BY key"))?;
                let mut rows = select.query([])?;
                while let Some(row) = rows.next()? {
                    if !sink.put((row.get(0)?, row.get(1)?)) {
                        break;
                    }
                }
                Ok(())
            })
            .await?;
        Ok(Scan::new(generation, rows))
    }

    async fn scratch(&self) -> Result<Arc<dyn ReadStore>> {
        Ok(Arc::new(Self::temporary()?))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that unwraps an error has failed")]
mod tests {
    use factum::{Append, EventStore, Factum, MemoryStore, NewEvent, Recorded, StreamName, prelude::*};

    use super::*;

    #[derive(Debug, serde::Serialize, serde::Deserialize)]
    enum Call {
        Rang,
    }

    impl Event for Call {
        const CATEGORY: &'static str = "call";
    }

    struct Calls;

    impl Projection for Calls {
        const NAME: &'static str = "calls";
        type Event = Call;
        type Row = u64;

        fn evolve(&self, row: Option<u64>, _: &Recorded<Call>) -> Option<u64> {
            Some(row.unwrap_or(0) + 1)
        }
    }

    #[tokio::test]
    async fn a_reader_that_takes_long_does_not_hold_up_the_keeping() {
        let directory = tempfile::tempdir().unwrap();
        let sqlite = Sqlite::open(directory.path().join("read.db")).unwrap();
        let (go_on, gate) = std::sync::mpsc::channel::<()>();
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let reading = sqlite.clone();
        let long = tokio::spawn(async move {
            let wait = move |_: &Connection| {
                let _ = begun.send(());
                Ok(gate.recv().is_ok())
            };
            reading.look(wait).await
        });
        has_begun.await.unwrap();
        let store = MemoryStore::new();
        let factum = Factum::new(store.clone());
        let patience = std::time::Duration::from_secs(10);
        let calls = tokio::time::timeout(patience, factum.project(Calls, sqlite)).await.unwrap().unwrap();
        let rang = NewEvent::json("Rang", &()).unwrap();
        let done = store.append(Append::to(StreamName::new("call-1").unwrap(), [rang])).await.unwrap();
        calls.wait_for(done.token).await.unwrap();
        calls.rebuild().await.unwrap();
        go_on.send(()).unwrap();
        assert!(long.await.unwrap().unwrap());
        assert_eq!(calls.get("1").await.unwrap(), Some(1));
    }
}
