//! Snapshots of aggregates, beside the read models.

use async_trait::async_trait;
use factum::{
    Error, Result, SnapshotStore, StreamName,
    snapshot::{FORMS, SnapshotKey},
};

use crate::{PostgresReads, fault::Fault};

/// Keeps a snapshot, and of the others of its stream those that were put last.
const PUT: &str = "
    WITH put AS (
        INSERT INTO factum.snapshots (stream, form, put_at, snapshot)
        VALUES ($1, $2, nextval('factum.snapshots_put'), $3)
        ON CONFLICT (stream, form) DO UPDATE SET put_at = excluded.put_at, snapshot = excluded.snapshot
    )
    DELETE FROM factum.snapshots WHERE stream = $1 AND form <> $2 AND form IN (
        SELECT form FROM factum.snapshots WHERE stream = $1 AND form <> $2 ORDER BY put_at DESC OFFSET $4)";

#[async_trait]
impl SnapshotStore for PostgresReads {
    async fn get(&self, key: &SnapshotKey) -> Result<Option<String>> {
        let SnapshotKey { stream, form } = key.clone();
        self.run(move |names, client| async move {
            let get = names.sql("SELECT snapshot FROM factum.snapshots WHERE stream = $1 AND form = $2");
            let get = client.prepare_cached(&get).await?;
            let Some(row) = client.query_opt(&get, &[&&*stream, &form]).await? else { return Ok(None) };
            let text = String::from_utf8(row.try_get(0)?);
            let no_text = |e: std::string::FromUtf8Error| {
                Error::invalid(format!("the snapshot of `{stream}`"), format!("it is no text ({e})"))
            };
            Ok::<_, Fault>(Some(text.map_err(no_text)?))
        })
        .await
    }

    async fn put(&self, key: &SnapshotKey, snapshot: String) -> Result<()> {
        let SnapshotKey { stream, form } = key.clone();
        self.run(move |names, client| async move {
            let put = client.prepare_cached(&names.sql(PUT)).await?;
            let others = i64::try_from(FORMS).unwrap_or(i64::MAX) - 1;
            client.execute(&put, &[&&*stream, &form, &snapshot.as_bytes(), &others]).await?;
            Ok::<_, Fault>(())
        })
        .await
    }

    async fn delete(&self, stream: &StreamName) -> Result<()> {
        let stream = stream.clone();
        self.run(move |names, client| async move {
            let delete = names.sql("DELETE FROM factum.snapshots WHERE stream = $1");
            client.execute(&delete, &[&&*stream]).await?;
            Ok::<_, Fault>(())
        })
        .await
    }

    async fn clear(&self) -> Result<()> {
        self.run(move |names, client| async move {
            client.execute(&names.sql("DELETE FROM factum.snapshots"), &[]).await?;
            Ok::<_, Fault>(())
        })
        .await
    }
}
