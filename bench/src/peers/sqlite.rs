//! SQLite by `rusqlite`: WAL, `synchronous = FULL`, one connection that commits all queued appends in one transaction.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension, params};

use super::group::{Backend, Group};
use crate::peer::{Answer, Batch, Condition, Fact, Failure, Peer, Pending, Seen, Store, broken, stream_of};

/// The peer.
pub struct Sqlite;

struct Writer(Connection);

struct Open {
    group: Group,
    path: PathBuf,
    /// Connections that no reader has at the moment.
    idle: Mutex<Vec<Connection>>,
}

const SCHEMA: &str = "
    create table if not exists events (
        position integer primary key, stream text not null, revision integer not null, type text not null,
        data blob not null, unique (stream, revision));
    create table if not exists tags (tag text not null, position integer not null, primary key (tag, position))
        without rowid;
    create index if not exists types on events (type, position);";

impl Peer for Sqlite {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn about(&self) -> &'static str {
        "SQLite (bundled) by rusqlite 0.41: WAL, synchronous FULL, group commit by one writing thread, cache of 64 MiB"
    }

    fn open(&self, directory: &Path) -> Result<Arc<dyn Store>, Failure> {
        let path = directory.join("events.db");
        let connection = connect(&path)?;
        connection.execute_batch(SCHEMA).map_err(broken)?;
        Ok(Arc::new(Open { group: Group::start(Writer(connection)), path, idle: Mutex::default() }))
    }
}

fn connect(path: &Path) -> Result<Connection, Failure> {
    let connection = Connection::open(path).map_err(broken)?;
    let settings = "pragma journal_mode = wal; pragma synchronous = full; pragma cache_size = -65536;";
    connection.execute_batch(settings).map_err(broken)?;
    connection.busy_timeout(Duration::from_secs(10)).map_err(broken)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

impl Backend for Writer {
    fn commit(&mut self, batches: &[Batch]) -> Result<Vec<Answer>, Failure> {
        let transaction = self.0.transaction().map_err(broken)?;
        let mut answers = Vec::with_capacity(batches.len());
        for batch in batches {
            let answer = match holds(&transaction, batch).map_err(broken)? {
                true => Ok(insert(&transaction, batch).map_err(broken)?),
                false => Err(Failure::Conflict),
            };
            answers.push(answer);
        }
        transaction.commit().map_err(broken)?;
        Ok(answers)
    }
}

fn holds(connection: &Connection, batch: &Batch) -> rusqlite::Result<bool> {
    match &batch.condition {
        Condition::None => Ok(true),
        Condition::Revision { events, .. } => {
            Ok(next_revision(connection, &stream_of(batch.entity))? == *events)
        }
        Condition::Tags { any_of, after } => {
            let mut select =
                connection.prepare_cached("select 1 from tags where tag = ? and position > ? limit 1")?;
            for tag in any_of {
                if select.exists(params![tag, after])? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
    }
}

fn next_revision(connection: &Connection, stream: &str) -> rusqlite::Result<u64> {
    let mut select = connection
        .prepare_cached("select revision from events where stream = ? order by revision desc limit 1")?;
    Ok(select.query_row([stream], |row| row.get::<_, u64>(0)).optional()?.map_or(0, |last| last + 1))
}

fn insert(connection: &Connection, batch: &Batch) -> rusqlite::Result<u64> {
    let mut event =
        connection.prepare_cached("insert into events (stream, revision, type, data) values (?, ?, ?, ?)")?;
    let mut tag = connection.prepare_cached("insert into tags values (?, ?)")?;
    let (mut stream, mut revision, mut tags, mut position) = (String::new(), 0, Vec::new(), 0);
    for Fact { entity, name, data } in batch.facts() {
        if stream.is_empty() || batch.spread {
            stream = stream_of(entity);
            revision = next_revision(connection, &stream)?;
            tags = batch.tags_of(entity).collect();
        }
        event.execute(params![stream, revision, name, data])?;
        position = connection.last_insert_rowid().unsigned_abs();
        for name in &tags {
            tag.execute(params![name, position])?;
        }
        revision += 1;
    }
    Ok(position)
}

impl Open {
    /// Reads with a connection of its own, and keeps that for the next reader.
    fn reading<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, Failure> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let own = idle().pop();
        let connection = own.map_or_else(|| connect(&self.path), Ok)?;
        let result = read(&connection).map_err(broken);
        idle().push(connection);
        result
    }
}

/// Looks at each event of a statement whose first column is the data.
fn look(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
    seen: &mut Seen,
) -> rusqlite::Result<()> {
    let mut select = connection.prepare_cached(sql)?;
    let mut rows = select.query(parameters)?;
    while let Some(row) = rows.next()? {
        seen.look(row.get_ref(0)?.as_blob()?);
    }
    Ok(())
}

fn head(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("select coalesce(max(position), 0) from events")?
        .query_row([], |row| row.get(0))
}

impl Store for Open {
    fn append(&self, batch: Batch) -> Answer {
        self.group.append(batch)
    }

    fn append_in_task(self: Arc<Self>, batch: Batch) -> Pending {
        self.group.append_in_task(batch)
    }

    fn read_entity(&self, entity: u64) -> Result<Seen, Failure> {
        self.reading(|connection| {
            let mut seen = Seen { upto: head(connection)?, ..Seen::default() };
            let sql = "select data from events where stream = ? order by revision";
            look(connection, sql, [stream_of(entity)], &mut seen)?;
            Ok(seen)
        })
    }

    fn read_tags(&self, any_of: &[String]) -> Result<Seen, Failure> {
        self.reading(|connection| {
            let mut seen = Seen { upto: head(connection)?, ..Seen::default() };
            let marks = vec!["?"; any_of.len()].join(", ");
            let sql = format!(
                "select data from events where position in (select position from tags where tag in ({marks})
                 and position <= {}) order by position",
                seen.upto
            );
            look(connection, &sql, rusqlite::params_from_iter(any_of), &mut seen)?;
            Ok(seen)
        })
    }

    fn scan(&self, event_type: Option<&str>) -> Result<Seen, Failure> {
        self.reading(|connection| {
            let mut seen = Seen { upto: head(connection)?, ..Seen::default() };
            match event_type {
                None => look(connection, "select data from events order by position", [], &mut seen)?,
                Some(name) => {
                    let sql = "select data from events where type = ? order by position";
                    look(connection, sql, [name], &mut seen)?;
                }
            }
            Ok(seen)
        })
    }

    fn follow(&self, each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Failure> {
        let mut after = 0;
        loop {
            let more = self.reading(|connection| {
                let sql = "select data, position from events where position > ? order by position limit 1000";
                let mut select = connection.prepare_cached(sql)?;
                let mut rows = select.query([after])?;
                let before = after;
                while let Some(row) = rows.next()? {
                    after = row.get(1)?;
                    if !each(row.get_ref(0)?.as_blob()?) {
                        return Ok(None);
                    }
                }
                Ok(Some(after > before))
            })?;
            match more {
                None => return Ok(()),
                Some(true) => {}
                // SQLite tells nobody of a commit: its users ask again.
                Some(false) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn close(&self) -> Result<(), Failure> {
        self.group.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }
}
