//! Scavenging: the contents of events that are hidden for good leave their rows. Place, stream, id, time and digest stay.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use factum::{Error, Outcome, Result};
use tokio_postgres::Client;

use crate::{
    Inner, PostgresStore,
    fault::Fault,
    rows::{number, signed},
    schema::in_schema,
};

/// Events that are changed in a transaction, at most.
const BATCH: u64 = 256;
/// Streams that are looked up at a time.
const STREAMS: i64 = 256;

/// How far a scavenge has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scavenging {
    /// The stream that it is at. They come in the order of their names.
    pub stream: String,
    /// Events whose content was removed so far.
    pub events: u64,
    /// Bytes that these contents had in the database, compressed as they were.
    pub bytes: u64,
}

/// What a scavenge did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scavenged {
    /// Events whose content was removed.
    pub events: u64,
    /// Bytes that these contents had in the database, compressed as they were.
    pub bytes: u64,
    /// It was stopped before it had looked at all.
    pub stopped: bool,
    /// Whether it has vacuumed the table, so that the space can be used again: only its owner may. Otherwise autovacuum does, later.
    pub vacuumed: bool,
}

/// Tells the work that whoever has ordered it has gone away.
struct StopWhenDropped(Arc<AtomicBool>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl PostgresStore {
    /// Removes the contents of events that are hidden for good: those of truncated, deleted and tombstoned streams, and what
    /// `max_count` and `max_age` have hidden.
    ///
    /// Nothing that anyone can see changes. Positions and revisions stay, and so do the answers to appends that are sent again: of
    /// each event its place, stream, id, time and a digest of its content are kept. Appends, reads and subscriptions go on meanwhile: it
    /// works in small transactions, on rows that nobody reads any more. `progress` is told after each, and may stop it; so does
    /// dropping the future. What is done by then stays done, and the next one goes on from there.
    ///
    /// ```no_run
    /// # async fn example(store: factum_postgres::PostgresStore) -> factum::Result<()> {
    /// use std::ops::ControlFlow;
    ///
    /// let done = store.scavenge(|_| ControlFlow::Continue(())).await?;
    /// println!("{} events, {} bytes", done.events, done.bytes);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unavailable`] if another scavenge of this schema is running, in whichever process, and failures of the database.
    pub async fn scavenge(
        &self,
        progress: impl FnMut(&Scavenging) -> ControlFlow<()> + Send + 'static,
    ) -> Result<Scavenged> {
        let stop = StopWhenDropped(Arc::default());
        let stopped = stop.0.clone();
        self.to_the_end(move |inner| async move { scavenge(&inner, progress, &stopped).await }).await
    }
}

async fn scavenge(
    inner: &Inner,
    mut progress: impl FnMut(&Scavenging) -> ControlFlow<()> + Send,
    stopped: &AtomicBool,
) -> Result<Scavenged> {
    // A connection of its own: what is switched off on it is switched off for nobody else.
    let client = inner.door.client().await?;
    let mut told = |at: &Scavenging| {
        let go_on = progress(at);
        if stopped.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { go_on }
    };
    let done = async {
        begin(&client, &inner.schema, &inner.place).await?;
        let mut done = remove_all(&client, &inner.schema, &mut told).await?;
        if done.events > 0 && !done.stopped {
            done.vacuumed = vacuum(&client, &inner.schema).await?;
        }
        Ok(done)
    };
    done.await.map_err(|fault: Fault| fault.explain(&inner.place))
}

/// One at a time: the lock goes with the connection.
async fn begin(client: &Client, schema: &str, place: &str) -> Result<(), Fault> {
    let lock = "SELECT pg_try_advisory_lock('factum.epochs'::regclass::oid::integer, 0)";
    if client.query_one(&in_schema(lock, schema), &[]).await?.try_get(0)? {
        return Ok(());
    }
    let why = format!("a scavenge of PostgreSQL {place} is running already");
    Err(Error::Unavailable { why, outcome: Outcome::No }.into())
}

async fn remove_all(
    client: &Client,
    schema: &str,
    told: &mut (impl FnMut(&Scavenging) -> ControlFlow<()> + Send),
) -> Result<Scavenged, Fault> {
    // Age is measured at the last event of the log, not by a clock: clocks are set back.
    let safe: i64 =
        client.query_one(&in_schema("SELECT factum.safe_head()", schema), &[]).await?.try_get(0)?;
    let now = "SELECT coalesce(max(recorded_at), 0) FROM factum.events WHERE position = $1";
    let now: i64 = client.query_one(&in_schema(now, schema), &[&safe]).await?.try_get(0)?;
    // Streams that hide something, and up to where that was removed before: what is hidden is the beginning of a stream, and is
    // removed in the order of revisions.
    let streams = in_schema(
        "SELECT s.name, (SELECT max(e.revision) + 1 FROM factum.events e WHERE e.stream = s.name AND e.event_type = '')
         FROM factum.streams s
         WHERE s.name > $1 AND (s.life = 2 OR s.hidden_before > 0 OR s.hidden_until IS NOT NULL OR s.max_age_seconds IS NOT NULL)
         ORDER BY s.name LIMIT $2",
        schema,
    );
    let streams = client.prepare(&streams).await?;
    let (mut at, mut cursor) = (Scavenging::default(), String::new());
    loop {
        let some = client.query(&streams, &[&cursor, &STREAMS]).await?;
        let Some(last) = some.last() else { break };
        cursor = last.try_get(0)?;
        for stream in &some {
            at.stream = stream.try_get(0)?;
            let mut from = number(stream.try_get::<_, Option<i64>>(1)?.unwrap_or_default());
            loop {
                let removed = remove(client, schema, &at.stream, from, now).await?;
                at.events += removed.0;
                at.bytes += removed.1;
                if told(&at).is_break() {
                    return Ok(Scavenged {
                        events: at.events,
                        bytes: at.bytes,
                        stopped: true,
                        vacuumed: false,
                    });
                }
                if removed.0 < BATCH {
                    break;
                }
                from += BATCH;
            }
        }
    }
    Ok(Scavenged { events: at.events, bytes: at.bytes, ..Scavenged::default() })
}

/// Removes the contents of the next events of a stream, as far as they are hidden for good: how many, and how much that was.
async fn remove(
    client: &Client,
    schema: &str,
    stream: &str,
    from: u64,
    now: i64,
) -> Result<(u64, u64), Fault> {
    let remove = in_schema(
        "WITH gone AS (
            SELECT e.position, coalesce(pg_column_size(e.data), 0) + coalesce(pg_column_size(e.data_bytes), 0)
                 + coalesce(pg_column_size(e.metadata), 0) + coalesce(pg_column_size(e.metadata_bytes), 0)
                 + pg_column_size(e.tags) + pg_column_size(e.event_type) + pg_column_size(e.content_type) AS bytes
            FROM factum.events e JOIN factum.streams s ON s.name = e.stream
            WHERE e.stream = $1 AND e.revision >= $2 AND e.revision < $3 AND e.event_type <> ''
              AND (s.life = 2 OR e.revision < s.hidden_before OR e.recorded_at < s.hidden_until
                   OR e.recorded_at < $4::bigint - s.max_age_seconds * 1000000::numeric)
        ), removed AS (
            UPDATE factum.events e SET event_type = '', content_type = '', data = NULL, data_bytes = NULL, metadata = NULL,
                metadata_bytes = NULL, tags = '{}'
            FROM gone WHERE e.position = gone.position RETURNING gone.bytes
        )
        SELECT count(*), coalesce(sum(bytes), 0)::bigint FROM removed",
        schema,
    );
    let row = client.query_one(&remove, &[&stream, &signed(from), &signed(from + BATCH), &now]).await?;
    Ok((number(row.try_get(0)?), number(row.try_get(1)?)))
}

/// Lets the space be used again. Whether this role may.
async fn vacuum(client: &Client, schema: &str) -> Result<bool, Fault> {
    let owns = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'factum.events'::regclass";
    let owns: bool = client.query_one(&in_schema(owns, schema), &[]).await?.try_get(0)?;
    if owns {
        client.batch_execute("SET statement_timeout = 0").await?;
        // The table's end is not cut off: that would take a lock that shuts readers out.
        client.batch_execute(&in_schema("VACUUM (TRUNCATE false) factum.events", schema)).await?;
    }
    Ok(owns)
}
