//! Snapshots in a file: what holds for every store of them, and a life of their own.

use std::{sync::Arc, time::Duration};

use factum::{
    Append, EventStore, MemoryStore, SnapshotStore, Snapshots, StreamName, prelude::*, snapshot::Keeper,
};
use factum_sqlite::Sqlite;

use crate::reads;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_is_kept() {
    factum_conformance::snapshots::check(Arc::new(reads())).await.unwrap();
    factum_conformance::snapshots::check(Arc::new(Sqlite::memory().unwrap())).await.unwrap();
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

/// However busy the machine is.
fn patient(sqlite: Sqlite) -> Keeper {
    Keeper::new(sqlite).patience(Duration::from_secs(60))
}

#[tokio::test]
async fn they_are_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("read.db");
    let store = MemoryStore::new();
    let stream = StreamName::new("walk-1").unwrap();
    for _ in 0..12 {
        let step = factum::codec::encode(&Step::Walked).unwrap();
        store.append(Append::to(stream.clone(), [step])).await.unwrap();
    }
    for used in [0, 1] {
        let factum = Factum::new(store.clone()).with_snapshots(patient(Sqlite::open(&file).unwrap()));
        assert_eq!(factum.load(&Walk::id("1")).await.unwrap().state.steps, 12);
        let snapshots = factum.snapshots().unwrap();
        snapshots.settled().await;
        let status = snapshots.status();
        assert_eq!((status.used, status.written, status.failed), (used, 1 - used, 0), "{status:?}");
    }
    let sqlite = Sqlite::open(&file).unwrap();
    SnapshotStore::delete(&sqlite, &stream).await.unwrap();
    let factum = Factum::new(store).with_snapshots(patient(sqlite));
    factum.load(&Walk::id("1")).await.unwrap();
    assert_eq!(factum.snapshots().unwrap().status().absent, 1);
}
