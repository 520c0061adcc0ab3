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
mod holds;
mod letters;
mod models;
mod scan;
mod snapshots;
mod sql;
mod thread;
mod value;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use factum::{Error, Result};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use self::{
    fault::{Fault, explain},
    scan::Scans,
    thread::Threads,
};
pub use self::{
    sql::{Sql, SqlProjected, SqlProjection},
    value::{FromValue, Params, Row, Value},
};

/// How long to wait for another program that has the file locked.
const PATIENCE: Duration = Duration::from_secs(5);
/// Memory for pages of the connection that writes; negative is SQLite's way to say KiB.
const CACHE_KIB: i64 = -32 * 1024;
/// Memory for pages of each connection that reads.
const READER_CACHE_KIB: i64 = -8 * 1024;
/// Connections that read: so many queries at once, while others wait for their turn.
const READERS: usize = 4;
/// Pages in the write-ahead log before they go to the database file (64 MiB). A rebuild touches pages at random: the longer
/// the log, the fewer of them are written twice, and the fewer are the waits for the disk.
const CHECKPOINT_PAGES: i64 = 16 * 1024;
/// Statements that a connection keeps prepared.
const STATEMENTS: usize = 128;

/// A SQLite database for read models. Clones share it; it is closed with the last one.
///
/// One connection writes, for all models in it; some others read, each what is committed, whatever is being written.
#[derive(Clone)]
pub struct Sqlite {
    connections: Arc<Connections>,
    place: Arc<str>,
}

struct Connections {
    file: Option<File>,
    in_memory: bool,
    /// Closed last: it folds the write-ahead log into the file.
    writer: Threads,
}

/// What there is only for a database in a file. In memory there is only the one connection.
struct File {
    readers: Threads,
    scans: Arc<Scans>,
}

impl Drop for File {
    fn drop(&mut self) {
        self.scans.close();
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sqlite({})", self.place)
    }
}

impl Sqlite {
    /// Opens the database in this file, which is made if it is missing. Other tables in it are left alone. The file must keep its
    /// name and stay what it is for as long as it is open: who reads several models whole at once opens it again by that name.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it cannot be opened, written or locked,
    /// [`Error::Corrupt`] if it is not a whole SQLite database, and
    /// [`Error::StorageFull`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let place: Arc<str> = format!("`{}`", path.display()).into();
        let open = || {
            let mut writer = connect(path, false)?;
            models::set_up(&mut writer, &place)?;
            // Opened now, since a path may lead elsewhere later.
            let readers = (0..READERS).map(|_| connect(path, true)).collect::<Result<_, Fault>>()?;
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            Ok((writer, readers, Scans::new(absolute, &place)?))
        };
        let (writer, readers, scans) = open().map_err(|fault| explain(&place, fault))?;
        let file = File { readers: Threads::start(readers, &place)?, scans: Arc::new(scans) };
        let connections =
            Connections { file: Some(file), in_memory: false, writer: Threads::start(vec![writer], &place)? };
        Ok(Self { connections: Arc::new(connections), place })
    }

    /// Opens a database with read models to look at them, and changes nothing: no table is made, no journal is begun, and what would write
    /// is refused. A program may have it open meanwhile. It is for one look: whoever looks again opens it anew, since a program that has
    /// begun since then may change what this one believes to lie still.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such file, or no read models of factum in it, [`Error::InvalidInput`] if it is no SQLite database,
    /// and as for [`open`](Self::open).
    pub fn open_read_only(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let place: Arc<str> = format!("`{}`", path.display()).into();
        if !path.exists() {
            return Err(Error::NotFound { what: format!("file {}", path.display()) });
        }
        let looked = look_only(path).and_then(|connection| Ok((models::is_set_up(&connection)?, connection)));
        let connection = match looked {
            Ok((true, connection)) => connection,
            Ok((false, _)) => {
                let what =
                    format!("read model of factum in {place}: it is a SQLite database of something else");
                return Err(Error::NotFound { what });
            }
            Err(Fault::Sqlite(error)) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
                return Err(Error::invalid(format!("the file {place}"), "it is no SQLite database"));
            }
            Err(fault) => return Err(explain(&place, fault)),
        };
        let writer = Threads::start(vec![connection], &place)?;
        let connections = Connections { file: None, in_memory: false, writer };
        Ok(Self { connections: Arc::new(connections), place })
    }

    /// A database in memory, gone with the last clone. For tests.
    ///
    /// # Errors
    /// None in practice.
    pub fn memory() -> Result<Self> {
        Self::alone(":memory:", "in memory")
    }

    /// A database in a temporary file, gone with the last clone: it takes little memory.
    pub(crate) fn temporary() -> Result<Self> {
        // SQLite's name for it.
        Self::alone("", "in a temporary file")
    }

    /// With one connection only.
    fn alone(path: &str, place: &str) -> Result<Self> {
        let place: Arc<str> = place.into();
        let connect = || {
            let mut connection = Connection::open(path)?;
            prepare(&connection, CACHE_KIB)?;
            models::set_up(&mut connection, &place)?;
            Ok(connection)
        };
        let writer = connect().map_err(|fault| explain(&place, fault))?;
        let (file, in_memory) = (None, !path.is_empty());
        let connections = Connections { file, in_memory, writer: Threads::start(vec![writer], &place)? };
        Ok(Self { connections: Arc::new(connections), place })
    }

    fn writer(&self) -> &Threads {
        &self.connections.writer
    }

    fn readers(&self) -> &Threads {
        self.connections.file.as_ref().map_or(self.writer(), |file| &file.readers)
    }
}

fn connect(path: &Path, read_only: bool) -> Result<Connection, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let flags = if read_only { flags } else { flags | OpenFlags::SQLITE_OPEN_CREATE };
    let connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection, if read_only { READER_CACHE_KIB } else { CACHE_KIB })?;
    if read_only {
        connection.pragma_update(None, "query_only", true)?;
    }
    Ok(connection)
}

/// A connection that leaves nothing behind. SQLite makes files beside a database with a write-ahead log even for those who only read, and
/// leaves them lying, as files of whoever that was.
fn look_only(path: &Path) -> Result<Connection, Fault> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    // Without a log nobody has it open, and all that there is is in the file.
    let nobody = !Path::new(&log).exists();
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match absolute.to_str().filter(|_| nobody) {
        Some(path) => {
            let path = path.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
            let uri = format!("file:{path}?immutable=1");
            Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)?
        }
        None => Connection::open_with_flags(path, flags)?,
    };
    connection.busy_timeout(PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

fn prepare(connection: &Connection, cache_kib: i64) -> Result<(), Fault> {
    connection.busy_timeout(PATIENCE)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "cache_size", cache_kib)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    Ok(())
}
