//! A bench of a test's own: a store in a schema of its own, a hand that does what the store would not, and a gate.

use std::{collections::HashSet, sync::Arc, time::Duration};

use factum::{
    Append, EventId, EventStore, NewEvent, Position, Query, Read, Start, StreamName, Subscription, subscribe,
};
use factum_postgres::{Options, PostgresStore};
use tokio_postgres::Client;

/// The place at which a test holds somebody up: an advisory lock.
const GATE: i64 = 77;

/// A store in a schema of its own, and a connection to do by hand what the store would not.
pub(crate) struct Bench {
    pub(crate) store: Arc<PostgresStore>,
    pub(crate) schema: String,
    pub(crate) hand: Client,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        Self::with(Options::default()).await
    }

    /// With these options, in a schema of its own.
    pub(crate) async fn with(options: Options) -> Self {
        let schema = super::fresh_schema();
        let store = open(Options { schema: schema.clone(), ..options }).await;
        Self { store, schema, hand: connect().await }
    }

    /// Another process's store in the same schema.
    pub(crate) async fn another(&self, options: Options) -> Arc<PostgresStore> {
        open(Options { schema: self.schema.clone(), ..options }).await
    }

    /// SQL in the store's schema, which it calls `factum`.
    pub(crate) async fn by_hand(&self, sql: &str) {
        self.hand.batch_execute(&self.sql(sql)).await.unwrap();
    }

    /// Draws a position by hand, as an append does, and leaves the transaction open.
    pub(crate) async fn draw(&self) -> i64 {
        self.by_hand("BEGIN").await;
        self.hand_count(&self.sql("SELECT first FROM factum.allocate(1)")).await
    }

    /// Writes the event for which a position was drawn by hand, to a stream of its own, and commits.
    pub(crate) async fn write(&self, position: i64, stream: &str) {
        self.by_hand(&format!(
            "INSERT INTO factum.streams (name, last_revision) VALUES ('{stream}', 0);
            INSERT INTO factum.events VALUES ({position}, '{stream}', 0, 0, gen_random_uuid(), 'Done', 'slow', 'application/json',
            '{{}}', NULL, NULL, NULL, '{{}}', ''); COMMIT"
        ))
        .await;
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        sql.replace("factum.", &format!("{}.", self.schema))
    }

    pub(crate) fn append(&self, stream: &str) -> tokio::task::JoinHandle<factum::Result<factum::Appended>> {
        let (store, append) = (self.store.clone(), one(stream));
        tokio::spawn(async move { store.append(append).await })
    }

    /// Waits until so many events are committed, seen by whoever looks without care.
    pub(crate) async fn committed(&self, events: i64) {
        let count = self.sql("SELECT count(*) FROM factum.events");
        until(async || self.hand_count(&count).await == events).await;
    }

    /// Waits until somebody stands at the gate.
    pub(crate) async fn somebody_waits_at_the_gate(&self) {
        let waiting = format!(
            "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
             WHERE l.locktype = 'advisory' AND NOT l.granted AND l.objid = {GATE} AND a.application_name = 'factum {}'",
            self.schema
        );
        until(async || self.hand_count(&waiting).await > 0).await;
    }

    pub(crate) async fn hand_count(&self, sql: &str) -> i64 {
        self.hand.query_one(sql, &[]).await.unwrap().get(0)
    }

    pub(crate) async fn subscription(&self) -> Subscription {
        subscribe(self.store.clone(), Query::all(), None).await.unwrap()
    }
}

/// A gate of this bench alone.
impl Bench {
    pub(crate) async fn shut(&self) -> Client {
        let gate = connect().await;
        gate.batch_execute(&self.gate("pg_advisory_lock")).await.unwrap();
        gate
    }

    /// SQL that takes the gate, or gives it back.
    pub(crate) fn gate(&self, function: &str) -> String {
        format!("SELECT {function}(hashtext('{}'), {GATE})", self.schema)
    }

    /// In plpgsql: waits while the gate is shut.
    pub(crate) fn pass(&self) -> String {
        let (take, give) = (self.gate("pg_advisory_lock_shared"), self.gate("pg_advisory_unlock_shared"));
        format!("{}; {};", take.replacen("SELECT", "PERFORM", 1), give.replacen("SELECT", "PERFORM", 1))
    }
}

async fn open(options: Options) -> Arc<PostgresStore> {
    Arc::new(PostgresStore::open(&super::url(), options).await.unwrap())
}

pub(crate) async fn connect() -> Client {
    let (client, connection) = tokio_postgres::connect(&super::url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) async fn until(mut done: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited)
        .await
        .expect("what the test waits for does not come");
}

pub(crate) fn one(stream: &str) -> Append {
    Append::to(StreamName::new(stream).unwrap(), [NewEvent::json("Done", &serde_json::json!({})).unwrap()])
}

/// Who reads everything, and remembers how far it has come.
#[derive(Debug)]
pub(crate) struct Reader {
    store: Arc<PostgresStore>,
    at: Start,
    pub(crate) seen: Vec<(Position, EventId)>,
    /// How often an event came that lies before one that had come.
    pub(crate) inversions: usize,
}

impl Reader {
    pub(crate) fn new(store: &Arc<PostgresStore>) -> Self {
        Self { store: store.clone(), at: Start::Edge, seen: Vec::new(), inversions: 0 }
    }

    /// Reads one page of what is new; whether there was nothing.
    pub(crate) async fn page(&mut self, limit: usize) -> bool {
        let page = self.store.read(Read { start: self.at, ..Read::all().limit(limit) }).await.unwrap();
        for event in &page.events {
            self.inversions += usize::from(self.seen.last().is_some_and(|last| last.0 >= event.position));
            self.seen.push((event.position, event.id));
        }
        self.at = Start::Beyond(page.token);
        page.events.is_empty()
    }

    /// Reads all that is new.
    pub(crate) async fn look(&mut self) {
        while !self.page(100).await {}
    }

    /// How many events of the log it was not shown, and how many it was shown that are not in the log. The log is as it is in its
    /// table, with no care for who has announced what.
    pub(crate) async fn missed(&self, bench: &Bench) -> (usize, usize) {
        let all = bench.sql("SELECT position, id FROM factum.events ORDER BY position");
        let rows = bench.hand.query(&all, &[]).await.unwrap();
        let log: HashSet<(Position, EventId)> = rows
            .iter()
            .map(|row| (Position(row.get::<_, i64>(0).cast_unsigned()), EventId(row.get(1))))
            .collect();
        let seen: HashSet<(Position, EventId)> = self.seen.iter().copied().collect();
        (log.difference(&seen).count(), seen.difference(&log).count())
    }
}
