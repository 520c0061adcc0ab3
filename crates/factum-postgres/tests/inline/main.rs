//! Read models that change in the transaction of the append: with the events or not at all, each row in the order of positions,
//! by every process or by none.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod contract;
mod order;
#[path = "../support/mod.rs"]
mod server;
mod switching;
mod together;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use factum::{Append, EventStore, EventStoreExt, MultiProjection, NewEvent, Read, StreamName, prelude::*};
use factum_postgres::{Inlined, Options, PostgresStore, Writing};
use tokio_postgres::Client;

const LONG: Duration = Duration::from_secs(30);

/// A number that is written to some rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Note {
    Noted {
        keys: Vec<String>,
        n: u64,
    },
    /// What no projection here takes in.
    Refused {
        how: String,
    },
}

impl Event for Note {
    const CATEGORY: &'static str = "note";
}

/// What was written to a row, so that no other order gives the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Written {
    count: u64,
    chain: u64,
    last: u64,
    /// Taken from JSON as it was, or there is none.
    odd: Option<f64>,
}

impl Written {
    fn then(self, n: u64) -> Self {
        let chain = self.chain.wrapping_mul(1_000_003).wrapping_add(n) % (1 << 53);
        Self { count: self.count + 1, chain, last: n, odd: self.odd }
    }
}

/// Every row has all that was written to it.
struct Notes<const VERSION: u32>;

impl<const V: u32> MultiProjection for Notes<V> {
    const NAME: &'static str = "notes";
    const VERSION: u32 = V;
    type Event = Note;
    type Row = Written;

    fn keys(&self, event: &Recorded<Note>) -> Vec<String> {
        match &event.event {
            Note::Noted { keys, .. } => keys.clone(),
            Note::Refused { how } if how == "key" => panic!("no key for it"),
            Note::Refused { how } if how == "position" => vec![event.record.position.to_string()],
            Note::Refused { how } => vec![how.clone()],
        }
    }

    fn evolve_row(&self, _: &str, row: Option<Written>, event: &Recorded<Note>) -> Option<Written> {
        let row = row.unwrap_or_default();
        match &event.event {
            // Of version 2 on, every number is one more.
            Note::Noted { n, .. } => Some(row.then(n + u64::from(V) - 1)),
            Note::Refused { how } if how == "row" => panic!("no row for it"),
            Note::Refused { how } if how == "json" => Some(Written { odd: Some(f64::NAN), ..row }),
            Note::Refused { .. } => Some(row),
        }
    }
}

/// A store in a schema of its own, and a connection to do by hand what the store would not.
struct Bench {
    schema: String,
    hand: Client,
}

impl Bench {
    async fn new() -> Self {
        Self { schema: server::fresh_schema(), hand: connect().await }
    }

    /// What a process has that opens the store.
    async fn process(&self, writing: Writing) -> PostgresStore {
        let options = Options { schema: self.schema.clone(), writing, ..Options::default() };
        PostgresStore::open(&server::url(), options).await.unwrap()
    }

    /// SQL in the store's schema, which it calls `factum`.
    async fn by_hand(&self, sql: &str) {
        self.hand.batch_execute(&self.sql(sql)).await.unwrap();
    }

    fn sql(&self, sql: &str) -> String {
        sql.replace("factum.", &format!("{}.", self.schema))
            .replace("factum_reads.", &format!("{}_reads.", self.schema))
    }

    async fn count(&self, sql: &str) -> i64 {
        self.hand.query_one(&self.sql(sql), &[]).await.unwrap().get(0)
    }

    /// Shuts a gate, at which whoever runs [`pass`](Self::pass) waits until it is opened.
    async fn shut(&self) -> Client {
        let gate = connect().await;
        gate.batch_execute(&format!("SELECT pg_advisory_lock(hashtextextended('{}', 0))", self.schema))
            .await
            .unwrap();
        gate
    }

    async fn open(&self, gate: Client) {
        let open = format!("SELECT pg_advisory_unlock(hashtextextended('{}', 0))", self.schema);
        gate.batch_execute(&open).await.unwrap();
    }

    /// In plpgsql: waits while the gate is shut.
    fn pass(&self) -> String {
        format!(
            "PERFORM pg_advisory_lock_shared(hashtextextended('{0}', 0)); PERFORM pg_advisory_unlock_shared(hashtextextended('{0}', 0));",
            self.schema
        )
    }

    /// Waits until so many of the store's connections wait for a lock.
    async fn waiting(&self, count: i64) {
        let waiting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'factum {}'",
            self.schema
        );
        let looking = async {
            while self.count(&waiting).await < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, looking).await.expect("nobody waits");
    }
}

async fn connect() -> Client {
    let (client, connection) = tokio_postgres::connect(&server::url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn note(keys: &[&str], n: u64) -> NewEvent {
    let keys = keys.iter().map(|key| (*key).to_owned()).collect();
    factum::codec::encode(&Note::Noted { keys, n }).unwrap()
}

fn one(stream: &str, keys: &[&str], n: u64) -> Append {
    Append::to(StreamName::new(format!("note-{stream}")).unwrap(), [note(keys, n)])
}

fn refused(stream: &str, how: &str) -> Append {
    let event = factum::codec::encode(&Note::Refused { how: how.to_owned() }).unwrap();
    Append::to(StreamName::new(format!("note-{stream}")).unwrap(), [event])
}

/// What the log makes of the rows, by hand.
async fn folded(store: &dyn EventStore) -> Vec<(String, Written)> {
    let mut rows = BTreeMap::<String, Written>::new();
    let category = Read::query(Query::category("note"));
    for event in store.read_to_end(category).await.unwrap() {
        if event.event_type.as_str() == "Noted" {
            let data: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
            let keys: BTreeSet<String> = serde_json::from_value(data["keys"].clone()).unwrap();
            for key in keys {
                let row = rows.remove(&key).unwrap_or_default();
                rows.insert(key, row.then(data["n"].as_u64().unwrap()));
            }
        }
    }
    rows.into_iter().collect()
}

/// The model is what the log makes of it, seen in two ways.
async fn agrees<const V: u32>(store: &PostgresStore, notes: &Inlined<Notes<V>>) {
    assert_eq!(notes.verify().await.unwrap(), []);
    if V == 1 {
        assert_eq!(notes.all().await.unwrap(), folded(store).await);
    }
}

/// Several writers, each with appends of its own to some of a few streams and rows.
async fn many_write(stores: &[PostgresStore], seed: u64, writers: u64, appends: u64) {
    let writers = (0..writers).map(|writer| {
        let store = stores[usize::try_from(writer).unwrap() % stores.len()].clone();
        tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed ^ writer);
            for n in 0..appends {
                let mut append = Append::new();
                for event in 0..random.u64(1..4) {
                    let stream = StreamName::new(format!("note-{}", random.u8(0..12))).unwrap();
                    let keys: Vec<String> =
                        (0..random.u8(0..4)).map(|_| random.u8(0..6).to_string()).collect();
                    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                    append = append.write(stream, [note(&keys, (writer * 1000 + n) * 10 + event)]);
                }
                store.append(append).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

#[allow(clippy::print_stdout, reason = "a failing run must be repeatable")]
fn seed() -> u64 {
    let seed = std::env::var("FACTUM_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed: {seed} (set FACTUM_TEST_SEED to repeat)");
    seed
}
