//! Snapshots in PostgreSQL: what holds for every store of them, and a life of their own.

use std::{sync::Arc, time::Duration};

use factum::{
    Append, EventStore, MemoryStore, SnapshotStore, Snapshots, StreamName, prelude::*, snapshot::Keeper,
};
use factum_postgres::{Options, PostgresReads, PostgresStore};

use crate::server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_is_kept() {
    let options = Options { schema: server::fresh_schema(), ..Options::default() };
    let reads = PostgresReads::open(&server::url(), options).await.unwrap();
    factum_conformance::snapshots::check(Arc::new(reads)).await.unwrap();
}

#[derive(Serialize, Deserialize)]
enum Step {
    Walked,
}

impl Event for Step {
    const CATEGORY: &'static str = "walk";
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Walk {
    steps: u64,
}

impl Aggregate for Walk {
    type Event = Step;

    fn apply(&mut self, _: &Step) {
        self.steps += 1;
    }

    fn snapshots() -> Option<Snapshots<Self>> {
        Some(Snapshots::every(10))
    }
}

async fn walk(store: &dyn EventStore, stream: &StreamName) {
    let steps = (0..12).map(|_| factum::codec::encode(&Step::Walked).unwrap());
    store.append(Append::to(stream.clone(), steps)).await.unwrap();
}

#[tokio::test]
async fn they_are_there_after_a_restart() {
    let options = Options { schema: server::fresh_schema(), ..Options::default() };
    let (log, stream) = (MemoryStore::new(), StreamName::new("walk-1").unwrap());
    walk(&log, &stream).await;
    for used in [0, 1] {
        let store = PostgresStore::open(&server::url(), options.clone()).await.unwrap();
        let patient = Keeper::new(store.snapshots()).patience(Duration::from_secs(60));
        let factum = Factum::new(log.clone()).with_snapshots(patient);
        assert_eq!(factum.load(&Walk::id("1")).await.unwrap().state.steps, 12);
        let snapshots = factum.snapshots().unwrap();
        snapshots.settled().await;
        let status = snapshots.status();
        assert_eq!((status.used, status.written, status.failed), (used, 1 - used, 0), "{status:?}");
    }
    let store = PostgresStore::open(&server::url(), options).await.unwrap();
    SnapshotStore::delete(&store.snapshots(), &stream).await.unwrap();
    let factum = Factum::new(log).with_snapshots(store.snapshots());
    factum.load(&Walk::id("1")).await.unwrap();
    assert_eq!(factum.snapshots().unwrap().status().absent, 1);
}

/// Log and snapshots in one database.
#[tokio::test]
async fn a_store_keeps_its_own() {
    let options = Options { schema: server::fresh_schema(), ..Options::default() };
    let store = PostgresStore::open(&server::url(), options).await.unwrap();
    let stream = StreamName::new("walk-1").unwrap();
    let keeper = Keeper::new(store.snapshots()).patience(Duration::from_secs(60));
    let factum = Factum::new(store.clone()).with_snapshots(keeper.clone());
    for n in 1..=3 {
        walk(&store, &stream).await;
        assert_eq!(factum.load(&Walk::id("1")).await.unwrap().state.steps, n * 12);
        keeper.settled().await;
    }
    assert_eq!((keeper.status().used, keeper.status().written), (2, 3), "{:?}", keeper.status());
}
