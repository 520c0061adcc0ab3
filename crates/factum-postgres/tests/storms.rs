//! Many writers at once, with all that makes commits come in another order than positions: rollbacks, sleeps inside of
//! transactions and at their commit, appends to many streams, prepared transactions, and a transaction in another database that
//! never ends. Readers who remember how far they came miss nothing; who reads up to the last event there is misses some.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use factum::{Append, EventStore, NewEvent, StreamName, Write};
use factum_postgres::{Options, PostgresStore, Writing};
use fastrand::Rng;
use serde_json::json;
use support::{
    bench::{Bench, Reader, connect},
    proof,
};
use tokio::task::JoinHandle;

/// Those who append through the store.
const WRITERS: u64 = 16;
const READERS: usize = 3;

/// Some inserts take their time, and some commits.
const SLEEPS: &str = "CREATE FUNCTION factum.dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF random() < 0.15 THEN PERFORM pg_sleep(random() * 0.012); END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER slow_insert AFTER INSERT ON factum.events FOR EACH STATEMENT EXECUTE FUNCTION factum.dawdle();
CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON factum.events DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION factum.dawdle();";

/// What all have in common.
struct Storm {
    bench: Bench,
    /// Writers come to an end.
    over: AtomicBool,
    /// They have.
    ended: AtomicBool,
    /// The last position of which somebody was told.
    answered: AtomicU64,
    appended: AtomicU64,
    given_up: AtomicU64,
    prepared: AtomicU64,
    backwards: AtomicU64,
}

impl Storm {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Appends to one stream to three; what is answered lies behind all that was answered before it was sent.
    async fn append(&self, store: &PostgresStore, append: Append) {
        let floor = self.answered.load(Ordering::SeqCst);
        let appended = store.append(append).await.unwrap();
        if appended.events[0].position.0 <= floor {
            self.backwards.fetch_add(1, Ordering::Relaxed);
        }
        self.answered.fetch_max(appended.token.position.0, Ordering::SeqCst);
        self.appended.fetch_add(1, Ordering::Relaxed);
    }

    async fn write(self: Arc<Self>, store: Arc<PostgresStore>, mut rng: Rng) {
        while !self.is_over() {
            self.append(&store, some_append(&mut rng)).await;
        }
    }

    /// Appends in transactions of its own, of which it gives up most.
    async fn give_up(self: Arc<Self>, store: Arc<PostgresStore>, mut rng: Rng) {
        let mut client = connect().await;
        while !self.is_over() {
            let transaction = client.transaction().await.unwrap();
            // Two who lock in different orders: the other one has been chosen to go on.
            let Ok(appended) = store.append_within(&transaction, some_append(&mut rng)).await else {
                continue;
            };
            tokio::time::sleep(Duration::from_millis(rng.u64(0..4))).await;
            if rng.u8(0..4) > 0 {
                transaction.rollback().await.unwrap();
                self.given_up.fetch_add(1, Ordering::Relaxed);
            } else if transaction.commit().await.is_ok() {
                store.committed(&appended).await.unwrap();
                self.appended.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Prepares transactions, and ends them some time later from another connection.
    async fn prepare(self: Arc<Self>, store: Arc<PostgresStore>, mut rng: Rng) {
        let (mut client, other) = (connect().await, connect().await);
        while !self.is_over() {
            let name = format!("{}_{}", self.bench.schema, self.prepared.fetch_add(1, Ordering::Relaxed));
            let transaction = client.transaction().await.unwrap();
            let Ok(_) = store.append_within(&transaction, some_append(&mut rng)).await else { continue };
            transaction.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).await.unwrap();
            drop(transaction);
            tokio::time::sleep(Duration::from_millis(rng.u64(0..15))).await;
            let end = if rng.bool() { "COMMIT" } else { "ROLLBACK" };
            other.batch_execute(&format!("{end} PREPARED '{name}'")).await.unwrap();
        }
    }

    /// Reads what is new until nothing comes any more.
    async fn read(self: Arc<Self>, store: Arc<PostgresStore>, mut rng: Rng) -> Reader {
        let mut reader = Reader::new(&store);
        loop {
            let last = self.ended.load(Ordering::Relaxed);
            let nothing = reader.page(rng.usize(1..200)).await;
            if last && nothing {
                return reader;
            }
        }
    }

    /// Reads up to the last event that is there, and goes on from that.
    async fn read_naively(self: Arc<Self>) -> HashSet<i64> {
        let (hand, mut seen, mut last) = (connect().await, HashSet::new(), 0_i64);
        let new = self.bench.sql("SELECT position FROM factum.events WHERE position > $1 ORDER BY position");
        loop {
            let last_look = self.ended.load(Ordering::Relaxed);
            let rows = hand.query(&new, &[&last]).await.unwrap();
            seen.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
            last = rows.last().map_or(last, |row| row.get(0));
            if last_look {
                return seen;
            }
        }
    }
}

fn some_append(rng: &mut Rng) -> Append {
    let event = || NewEvent::json("Done", &json!({})).unwrap();
    let mut append = Append::new();
    for _ in 0..[1, 1, 1, 2, 3][rng.usize(0..5)] {
        let stream = StreamName::new(format!("account-{}", rng.u8(0..200))).unwrap();
        if !append.writes.iter().any(|write: &Write| write.stream == stream) {
            append = append.write(stream, (0..rng.usize(1..4)).map(|_| event()));
        }
    }
    append
}

/// A transaction that writes in another database of the same server, and stays open.
async fn elsewhere(name: &str) -> tokio_postgres::Client {
    connect().await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let (client, connection) =
        tokio_postgres::connect(&support::url_of(name), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("CREATE TABLE t (n int); BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpointed_readers_miss_nothing_whatever_order_commits_come_in() {
    let seed = proof::seed();
    let bench = Bench::new().await;
    bench.by_hand(SLEEPS).await;
    let (schema, name) = (bench.schema.clone(), format!("{}_elsewhere", bench.schema));
    let elsewhere = elsewhere(&name).await;
    // A prepared transaction that has nothing to do with it, and stays as well.
    let idle = format!(
        "CREATE TABLE {schema}.idle (n int); BEGIN; INSERT INTO {schema}.idle VALUES (1); PREPARE TRANSACTION '{schema}_idle'"
    );
    bench.hand.batch_execute(&idle).await.unwrap();

    let rng = |n: u64| Rng::with_seed(seed.wrapping_add(n));
    let mut stores = Vec::new();
    for writing in [Writing::Single, Writing::Single, Writing::Single, Writing::Grouped] {
        stores.push(bench.another(Options { writing, ..Options::default() }).await);
    }
    let storm = Arc::new(Storm {
        bench,
        over: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        answered: AtomicU64::new(0),
        appended: AtomicU64::new(0),
        given_up: AtomicU64::new(0),
        prepared: AtomicU64::new(0),
        backwards: AtomicU64::new(0),
    });
    let store = |n: u64| stores[usize::try_from(n).unwrap() % stores.len()].clone();
    let readers: Vec<JoinHandle<Reader>> = (0..READERS)
        .map(|n| tokio::spawn(storm.clone().read(store(n as u64), rng(100 + n as u64))))
        .collect();
    let naive = tokio::spawn(storm.clone().read_naively());
    let mut writers: Vec<JoinHandle<()>> =
        (0..WRITERS - 4).map(|n| tokio::spawn(storm.clone().write(store(n), rng(n)))).collect();
    writers.extend((0..2).map(|n| tokio::spawn(storm.clone().give_up(store(n), rng(50 + n)))));
    writers.extend((0..2).map(|n| tokio::spawn(storm.clone().prepare(store(n), rng(60 + n)))));
    tokio::time::sleep(proof::scaled(Duration::from_secs(5), Duration::from_secs(120))).await;
    storm.over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    storm.ended.store(true, Ordering::Relaxed);
    let (mut missed, mut invented, mut inversions) = (0, 0, 0);
    for reader in readers {
        let reader = reader.await.unwrap();
        let (not_shown, not_there) = reader.missed(&storm.bench).await;
        (missed, invented, inversions) =
            (missed + not_shown, invented + not_there, inversions + reader.inversions);
    }
    let naive = naive.await.unwrap();
    let bench = &storm.bench;
    let rows = bench.hand.query(&bench.sql("SELECT position FROM factum.events"), &[]).await.unwrap();
    let naive_missed = rows.iter().filter(|row| !naive.contains(&row.get::<_, i64>(0))).count();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    proof::tell(
        "storm",
        &json!({
            "seed": seed, "events": rows.len(), "appends": count(&storm.appended), "given_up": count(&storm.given_up),
            "prepared": count(&storm.prepared), "readers": READERS, "missed": missed, "invented": invented,
            "inversions": inversions, "answered_before_but_placed_behind": count(&storm.backwards), "missed_by_a_naive_reader": naive_missed,
        }),
    );
    assert_eq!((missed, invented, inversions, count(&storm.backwards)), (0, 0, 0, 0));
    assert!(naive_missed > 0, "the storm was a breeze: also a naive reader missed nothing");
    bench.hand.batch_execute(&format!("ROLLBACK PREPARED '{schema}_idle'")).await.unwrap();
    drop(elsewhere);
    let _ = bench.hand.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
}
