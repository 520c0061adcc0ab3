//! Snapshots of aggregates, beside the read models.

use async_trait::async_trait;
use factum::{
    Result, SnapshotStore, StreamName,
    snapshot::{FORMS, SnapshotKey},
};
use rusqlite::{OptionalExtension, params};

use crate::Sqlite;

/// The snapshots, by stream and form; `put_at` counts those of a stream.
pub(crate) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS factum_snapshots (
        stream   TEXT NOT NULL,
        form     TEXT NOT NULL,
        put_at   INTEGER NOT NULL,
        snapshot TEXT NOT NULL,
        PRIMARY KEY (stream, form)
    ) STRICT;
";

#[async_trait]
impl SnapshotStore for Sqlite {
    async fn get(&self, key: &SnapshotKey) -> Result<Option<String>> {
        let SnapshotKey { stream, form } = key.clone();
        self.look(move |tx| {
            let select = "SELECT snapshot FROM factum_snapshots WHERE stream = ?1 AND form = ?2";
            let mut select = tx.prepare_cached(select)?;
            Ok(select.query_row([&*stream, &form], |row| row.get(0)).optional()?)
        })
        .await
    }

    async fn put(&self, key: &SnapshotKey, snapshot: String) -> Result<()> {
        let SnapshotKey { stream, form } = key.clone();
        self.change(move |tx| {
            let put = "INSERT OR REPLACE INTO factum_snapshots (stream, form, put_at, snapshot)
                SELECT ?1, ?2, coalesce(max(put_at), 0) + 1, ?3 FROM factum_snapshots WHERE stream = ?1";
            tx.prepare_cached(put)?.execute([&*stream, &form, &snapshot])?;
            let make_room = "DELETE FROM factum_snapshots WHERE stream = ?1 AND put_at <= (
                SELECT put_at FROM factum_snapshots WHERE stream = ?1 ORDER BY put_at DESC LIMIT 1 OFFSET ?2)";
            tx.prepare_cached(make_room)?.execute(params![&*stream, FORMS])?;
            Ok(())
        })
        .await
    }

    async fn delete(&self, stream: &StreamName) -> Result<()> {
        let stream = stream.clone();
        self.change(move |tx| {
            tx.execute("DELETE FROM factum_snapshots WHERE stream = ?1", [&*stream])?;
            Ok(())
        })
        .await
    }

    async fn clear(&self) -> Result<()> {
        self.change(|tx| {
            tx.execute("DELETE FROM factum_snapshots", [])?;
            Ok(())
        })
        .await
    }
}
