//! Read models of factum in SQLite.
//!
//! - **Documents**: `factum.project(Balances, Sqlite::open("read.db")?)` keeps one JSON document per key, in a view that is
//!   called like the model: `SELECT key, row ->> 'balance' FROM balances`.
//! - **SQL**: a [`SqlProjection`] makes tables of its own and changes them with statements of its own, event by event.
//! - **Snapshots** of aggregates, if wanted: `factum.with_snapshots(Sqlite::open("read.db")?)`.
//!
//! Rows and checkpoint change in one transaction, under a fencing epoch, so that each event counts once, whatever fails. A
//! rebuild fills tables beside those that readers see, and switches the views in one transaction.
//!
//! The file is in WAL mode with `synchronous = NORMAL`: a commit does not wait for the disk. A power cut can take the last
//! commits back, rows and checkpoint together; what was lost is then applied again from the log, which is where durability
//! lives.

mod fault;
mod models;
mod snapshots;
mod sql;
mod thread;
mod value;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use factum::Result;
use rusqlite::{Connection, OpenFlags};

use self::{
    fault::{Fault, explain},
    thread::Thread,
};
pub use self::{
    sql::{Sql, SqlProjected, SqlProjection},
    value::{FromValue, Params, Row, Value},
};

/// How long to wait for another program that has the file locked.
const PATIENCE: Duration = Duration::from_secs(5);
/// Memory for pages, per connection; negative is SQLite's way to say KiB.
const CACHE_KIB: i64 = -32 * 1024;
/// Pages in the write-ahead log before they go to the database file (64 MiB). A rebuild touches pages at random: the longer
/// the log, the fewer of them are written twice, and the fewer are the waits for the disk.
const CHECKPOINT_PAGES: i64 = 16 * 1024;
/// Statements that a connection keeps prepared.
const STATEMENTS: usize = 128;

/// A SQLite database for read models. Clones share it; it is closed with the last one.
#[derive(Clone)]
pub struct Sqlite {
    threads: Arc<Threads>,
    place: Arc<str>,
}

struct Threads {
    /// Readers see what is committed, whatever is being written. In memory there is only the one connection.
    reader: Option<Thread>,
    /// Closed last: it folds the write-ahead log into the file.
    writer: Thread,
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sqlite({})", self.place)
    }
}

impl Sqlite {
    /// Opens the database in this file, which is made if it is missing. Other tables in it are left alone.
    ///
    /// # Errors
    /// [`Error::Unavailable`](factum::Error::Unavailable) if it cannot be opened, written or locked,
    /// [`Error::Corrupt`](factum::Error::Corrupt) if it is not a whole SQLite database, and
    /// [`Error::StorageFull`](factum::Error::StorageFull).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let place: Arc<str> = format!("`{}`", path.display()).into();
        let connect = |read_only| {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let flags = if read_only { flags } else { flags | OpenFlags::SQLITE_OPEN_CREATE };
            let connection = Connection::open_with_flags(path, flags)?;
            prepare(&connection, read_only)?;
            Ok(connection)
        };
        let writer =
            connect(false).and_then(|mut writer| models::set_up(&mut writer, &place).map(|()| writer));
        let writer = writer.map_err(|fault| explain(&place, fault))?;
        let reader = connect(true).map_err(|fault| explain(&place, fault))?;
        let threads =
            Threads { reader: Some(Thread::start(reader, &place)?), writer: Thread::start(writer, &place)? };
        Ok(Self { threads: Arc::new(threads), place })
    }

    /// A database in memory, gone with the last clone. For tests.
    ///
    /// # Errors
    /// None in practice.
    pub fn memory() -> Result<Self> {
        let place: Arc<str> = "in memory".into();
        let connect = || {
            let mut connection = Connection::open_in_memory()?;
            prepare(&connection, false)?;
            models::set_up(&mut connection, &place)?;
            Ok(connection)
        };
        let writer = Thread::start(connect().map_err(|fault| explain(&place, fault))?, &place)?;
        Ok(Self { threads: Arc::new(Threads { reader: None, writer }), place })
    }

    fn writer(&self) -> &Thread {
        &self.threads.writer
    }

    fn reader(&self) -> &Thread {
        self.threads.reader.as_ref().unwrap_or(&self.threads.writer)
    }
}

fn prepare(connection: &Connection, read_only: bool) -> Result<(), Fault> {
    connection.busy_timeout(PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", CACHE_KIB)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    if read_only {
        connection.pragma_update(None, "query_only", true)?;
    }
    Ok(())
}
