//! Holds: names that one worker has for a while, for all processes that have the file open.

use std::time::Duration;

use async_trait::async_trait;
use factum::{
    Clock, Result, SystemClock, Timestamp,
    reads::{Hold, Holds, LONGEST_HOLD, check_hold},
};
use rusqlite::{Connection, OptionalExtension, params};

use crate::{Sqlite, fault::Fault};

/// The names with who has them, until when and for how long at once, in microseconds: those since 1970 on the machine's clock,
/// which all processes with the file share.
pub(crate) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS factum_holds (
        name   TEXT PRIMARY KEY,
        holder TEXT NOT NULL,
        until  INTEGER NOT NULL,
        ttl    INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// That somebody has a name at the moment `?1`. A clock that was put back by more than a hold lasts must not make it last for as
/// long as the clock was put back.
const IN_FORCE: &str = "until > ?1 AND until - 2 * ttl <= ?1";

fn take_or_keep(tx: &Connection, name: &str, holder: &str, ttl: Duration) -> Result<Hold, Fault> {
    // Within the transaction: whoever had to wait for it has not lost that time of its hold.
    let now = SystemClock.now();
    let has = format!("SELECT holder, until FROM factum_holds WHERE name = ?2 AND {IN_FORCE}");
    let has =
        tx.prepare_cached(&has)?.query_row(params![now.0, name], |row| hold(name, now, row)).optional()?;
    if let Some(other) = has.filter(|hold| hold.holder != holder) {
        return Ok(other);
    }
    let ttl = ttl.min(LONGEST_HOLD);
    let micros = i64::try_from(ttl.as_nanos().div_ceil(1000)).unwrap_or(i64::MAX);
    let put = "INSERT OR REPLACE INTO factum_holds (name, holder, until, ttl) VALUES (?1, ?2, ?3, ?4)";
    tx.prepare_cached(put)?.execute(params![name, holder, now.0.saturating_add(micros), micros])?;
    // Names of those who did not come back.
    tx.prepare_cached(&format!("DELETE FROM factum_holds WHERE NOT ({IN_FORCE})"))?.execute([now.0])?;
    Ok(Hold { name: name.to_owned(), holder: holder.to_owned(), left: ttl })
}

fn hold(name: &str, now: Timestamp, row: &rusqlite::Row<'_>) -> rusqlite::Result<Hold> {
    let until = Timestamp(row.get(1)?);
    Ok(Hold { name: name.to_owned(), holder: row.get(0)?, left: until.since(now) })
}

#[async_trait]
impl Holds for Sqlite {
    async fn hold(&self, name: &str, holder: &str, ttl: Duration) -> Result<Hold> {
        check_hold(name, holder)?;
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.change(move |tx| take_or_keep(tx, &name, &holder, ttl)).await
    }

    async fn let_go(&self, name: &str, holder: &str) -> Result<()> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.change(move |tx| {
            tx.execute("DELETE FROM factum_holds WHERE name = ?1 AND holder = ?2", [name, holder])?;
            Ok(())
        })
        .await
    }

    async fn held(&self, prefix: &str) -> Result<Vec<Hold>> {
        let prefix = prefix.to_owned();
        let look = move |connection: &mut Connection| {
            let now = SystemClock.now();
            let select = format!("SELECT holder, until, name FROM factum_holds WHERE {IN_FORCE}");
            let mut select = connection.prepare_cached(&select)?;
            let holds = select.query_map([now.0], |row| hold(&row.get::<_, String>(2)?, now, row))?;
            let mut holds: Vec<Hold> = holds.collect::<rusqlite::Result<_>>()?;
            // They are few, and a prefix is no pattern; nor does everybody's SQLite sort as Rust does.
            holds.retain(|hold| hold.name.starts_with(&prefix));
            holds.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(holds)
        };
        // Not where the readers queue up: see `catalog`.
        self.writer().run(look).await
    }
}
