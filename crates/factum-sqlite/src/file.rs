//! A database file: who writes, who reads, which read models are in it.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use factum::{
    Error, LogIdentity, Outcome, Position, Result, Token,
    error::Corrupt,
    projection::{Attached, Generation, Place, check_model_name},
};
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};

/// The format of the catalog, in the file's `user_version`.
const FORMAT: i32 = 1;
/// How long one process waits for another that writes.
const BUSY: Duration = Duration::from_secs(10);
/// Statements kept prepared.
const STATEMENTS: usize = 64;

/// Which read models there are, which generations of them, and how far each has come.
///
/// A token's numbers are text: SQLite's integers end at 2^63.
const CATALOG: &str = "
CREATE TABLE IF NOT EXISTS factum_models (
    name TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL,
    last_generation INTEGER NOT NULL,
    active INTEGER,
    building INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS factum_generations (
    name TEXT NOT NULL,
    generation INTEGER NOT NULL,
    version INTEGER NOT NULL,
    checkpoint TEXT,
    PRIMARY KEY (name, generation)
) STRICT, WITHOUT ROWID;
";

/// A SQLite database for read models. Clones are the same database.
#[derive(Clone)]
pub struct Sqlite(Arc<Shared>);

struct Shared {
    path: String,
    /// Readers see the last committed state, whatever is being written. In memory there is only the one connection.
    ///
    /// Closed first: only a connection that may write folds the write-ahead log into the file when the last one is closed.
    reader: Option<Mutex<Connection>>,
    /// One at a time writes; SQLite would make them wait for each other anyway.
    writer: Mutex<Connection>,
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sqlite").field(&self.0.path).finish()
    }
}

impl Sqlite {
    /// Opens a database file, which is made if it is missing.
    ///
    /// Writes use the write-ahead log with `synchronous = NORMAL`: a power cut may undo the last transactions, each of them as a
    /// whole, and since the checkpoint is undone with the rows, they are simply made again.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be opened or written, [`Error::Corrupt`] if it is no database.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path: PathBuf = path.into();
        let shown = path.display().to_string();
        let open = || -> rusqlite::Result<Shared> {
            let writer = configured(Connection::open(&path)?)?;
            writer.pragma_update(None, "journal_mode", "WAL")?;
            writer.pragma_update(None, "synchronous", "NORMAL")?;
            prepare(&writer)?;
            let read_only = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let reader = configured(Connection::open_with_flags(&path, read_only)?)?;
            Ok(Shared { path: shown.clone(), writer: Mutex::new(writer), reader: Some(Mutex::new(reader)) })
        };
        let shared = open().map_err(|error| explain(&shown, &error))?;
        Self(Arc::new(shared)).checked(&path)
    }

    /// A database in memory, gone with its last clone.
    ///
    /// # Errors
    /// None that a person can do anything about.
    pub fn memory() -> Result<Self> {
        let shown = "the database in memory".to_owned();
        let open = || -> rusqlite::Result<Shared> {
            let writer = configured(Connection::open_in_memory()?)?;
            prepare(&writer)?;
            Ok(Shared { path: shown.clone(), writer: Mutex::new(writer), reader: None })
        };
        Ok(Self(Arc::new(open().map_err(|error| explain(&shown, &error))?)))
    }

    fn checked(self, path: &Path) -> Result<Self> {
        let format = self.read(|db| db.query_row("PRAGMA user_version", [], |row| row.get::<_, i32>(0)))?;
        if format != FORMAT {
            let why = format!(
                "it was written by another version of factum (format {format}, this one knows {FORMAT})"
            );
            return Err(Error::invalid(path.display().to_string(), why));
        }
        Ok(self)
    }

    /// What a person calls it.
    pub(crate) fn path(&self) -> &str {
        &self.0.path
    }

    /// Reads, on the connection that readers share.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let connection = self.0.reader.as_ref().unwrap_or(&self.0.writer);
        let connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
        work(&connection).map_err(|error| explain(&self.0.path, &error))
    }

    /// Writes, in one transaction: all or nothing.
    pub(crate) fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, Trouble>) -> Result<T> {
        let mut connection = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let tell = |trouble| match trouble {
            Trouble::Sqlite(error) => explain(&self.0.path, &error),
            Trouble::Factum(error) => error,
        };
        let transaction = begun.map_err(|error| explain(&self.0.path, &error))?;
        let done = work(&transaction).map_err(tell)?;
        transaction.commit().map_err(|error| explain(&self.0.path, &error))?;
        Ok(done)
    }

    /// Does what may wait for the disk where that holds nobody up.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let own = self.clone();
        let stopped = |_| Error::Unavailable {
            why: format!("work on {} was cut off", self.path()),
            outcome: Outcome::No,
        };
        tokio::task::spawn_blocking(move || work(&own)).await.unwrap_or_else(|error| Err(stopped(error)))
    }
}

/// What can go wrong within a transaction.
pub(crate) enum Trouble {
    Sqlite(rusqlite::Error),
    Factum(Error),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Factum(error)
    }
}

fn configured(connection: Connection) -> rusqlite::Result<Connection> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    let format: i32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if format == 0 {
        connection
            .execute_batch(&format!("BEGIN IMMEDIATE; {CATALOG} PRAGMA user_version = {FORMAT}; COMMIT;"))?;
    }
    Ok(())
}

/// Says what is wrong with a database, and what to do.
fn explain(path: &str, error: &rusqlite::Error) -> Error {
    let unavailable = |remedy: &str| Error::Unavailable {
        why: format!("the read models in {path} cannot be used ({error}){remedy}"),
        outcome: Outcome::No,
    };
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::StorageFull { what: format!("there is no room for {path}") },
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Error::from(Corrupt {
            segment: path.to_owned(),
            offset: 0,
            positions: None,
            problem: format!(
                "it is not a whole SQLite database ({error}); delete it, and the read models are made again from the log"
            ),
        }),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            unavailable("; another process has been writing to it for long")
        }
        Some(ErrorCode::ReadOnly) => unavailable("; make the file and its directory writable"),
        Some(ErrorCode::CannotOpen) => unavailable("; see that its directory exists and can be written"),
        Some(ErrorCode::SystemIoFailure) => unavailable(""),
        _ => Error::invalid(path, error.to_string()),
    }
}

/// The error of a worker that is not the owner any more.
pub(crate) fn fenced(name: &str) -> Error {
    Error::Fenced { what: format!("the read model `{name}`"), by: "a worker that started later".into() }
}

/// The table of a generation.
pub(crate) fn table(name: &str, generation: u64) -> String {
    format!("{name}_g{generation}")
}

fn to_text(token: Token) -> String {
    token.to_string()
}

fn from_text(text: &str) -> Option<Token> {
    let mut parts = text.split(':');
    let log_id = parts.next()?.parse().ok()?;
    let log = LogIdentity { log_id, epoch: parts.next()?.parse().ok()? };
    Some(log.at(Position(parts.next()?.parse().ok()?)))
}

/// Takes a read model over.
pub(crate) fn attach(db: &Transaction<'_>, name: &str) -> Result<Attached, Trouble> {
    check_model_name(name)?;
    db.execute(
        "INSERT INTO factum_models (name, epoch, last_generation) VALUES (?1, 1, 0)
         ON CONFLICT (name) DO UPDATE SET epoch = epoch + 1",
        [name],
    )?;
    let (epoch, active, building): (u64, Option<u64>, Option<u64>) =
        db.query_row("SELECT epoch, active, building FROM factum_models WHERE name = ?1", [name], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    let generation = |number: Option<u64>| number.map(|number| generation(db, name, number)).transpose();
    Ok(Attached { epoch, active: generation(active)?, building: generation(building)? })
}

fn generation(db: &Transaction<'_>, name: &str, number: u64) -> Result<Generation, Trouble> {
    let (version, checkpoint): (u32, Option<String>) = db.query_row(
        "SELECT version, checkpoint FROM factum_generations WHERE name = ?1 AND generation = ?2",
        params![name, number],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let checkpoint = match checkpoint {
        None => None,
        Some(text) => {
            let bad = || {
                Error::invalid(
                    format!("the checkpoint `{text}` of the read model `{name}`"),
                    "it is none; rebuild it",
                )
            };
            Some(from_text(&text).ok_or_else(bad)?)
        }
    };
    Ok(Generation { number, version, checkpoint })
}

/// Fails unless `epoch` still owns the read model.
pub(crate) fn check_epoch(db: &Transaction<'_>, name: &str, epoch: u64) -> Result<(), Trouble> {
    let present: Option<u64> = db
        .prepare_cached("SELECT epoch FROM factum_models WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    if present == Some(epoch) { Ok(()) } else { Err(fenced(name).into()) }
}

/// Begins a generation, without its table, and returns the number of one that it replaces before it was finished.
pub(crate) fn begin(
    db: &Transaction<'_>,
    name: &str,
    epoch: u64,
    version: u32,
) -> Result<(Generation, Option<u64>), Trouble> {
    check_epoch(db, name, epoch)?;
    let (last, active, building): (u64, Option<u64>, Option<u64>) = db.query_row(
        "SELECT last_generation, active, building FROM factum_models WHERE name = ?1",
        [name],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let number = last + 1;
    // The first one can be read while it is made: there is nothing better.
    let slot = if active.is_none() { "active" } else { "building" };
    db.execute(
        &format!("UPDATE factum_models SET last_generation = ?2, {slot} = ?2 WHERE name = ?1"),
        params![name, number],
    )?;
    db.execute(
        "INSERT INTO factum_generations (name, generation, version) VALUES (?1, ?2, ?3)",
        params![name, number, version],
    )?;
    if let Some(dropped) = building {
        forget(db, name, dropped)?;
    }
    Ok((Generation { number, version, checkpoint: None }, building))
}

/// Moves a generation's checkpoint, if it is where it should be and still ours.
pub(crate) fn move_checkpoint(
    db: &Transaction<'_>,
    place: Place<'_>,
    from: Option<Token>,
    to: Token,
) -> Result<(), Trouble> {
    check_epoch(db, place.name, place.epoch)?;
    let moved = db
        .prepare_cached(
            "UPDATE factum_generations SET checkpoint = ?4 WHERE name = ?1 AND generation = ?2 AND checkpoint IS ?3",
        )?
        .execute(params![place.name, place.generation, from.map(to_text), to_text(to)])?;
    if moved == 1 { Ok(()) } else { Err(fenced(place.name).into()) }
}

/// Makes the generation that is being built the active one; returns the number of the one that it replaces.
pub(crate) fn activate(db: &Transaction<'_>, place: Place<'_>) -> Result<Option<u64>, Trouble> {
    check_epoch(db, place.name, place.epoch)?;
    let old: Option<u64> =
        db.query_row("SELECT active FROM factum_models WHERE name = ?1", [place.name], |row| row.get(0))?;
    let switched = db.execute(
        "UPDATE factum_models SET active = building, building = NULL WHERE name = ?1 AND building = ?2",
        params![place.name, place.generation],
    )?;
    if switched != 1 {
        return Err(fenced(place.name).into());
    }
    if let Some(old) = old {
        forget(db, place.name, old)?;
    }
    Ok(old)
}

fn forget(db: &Transaction<'_>, name: &str, generation: u64) -> rusqlite::Result<()> {
    db.execute(
        "DELETE FROM factum_generations WHERE name = ?1 AND generation = ?2",
        params![name, generation],
    )?;
    Ok(())
}

/// The number of the active generation, if there is one.
pub(crate) fn active(db: &Connection, name: &str) -> rusqlite::Result<Option<u64>> {
    let found: Option<Option<u64>> = db
        .prepare_cached("SELECT active FROM factum_models WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    Ok(found.flatten())
}
