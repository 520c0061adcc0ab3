//! Snapshots in a file: what holds for every store of them, and a life of their own.

use std::{ops::ControlFlow, path::Path, sync::Arc, time::Duration};

use factum::{
    Append, EventStore, EventStoreExt, ExpectedRevision, MemoryStore, Retention, SnapshotStore, Snapshots,
    StreamName, prelude::*, snapshot::Keeper,
};
use factum_log::{LogStore, Options, Scavenge};
use factum_sqlite::Sqlite;

use crate::{reads, support::seeded};

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

fn open(data: &Path) -> LogStore {
    Options::new(data).segments(8192, 8192).open().unwrap()
}

async fn walk(store: &LogStore, steps: u64) {
    let steps = (0..steps).map(|_| factum::codec::encode(&Step::Walked).unwrap());
    store.append(Append::to(StreamName::new("walk-1").unwrap(), steps)).await.unwrap();
}

/// On the engine itself: whatever is truncated, deleted, scavenged, taken back to a backup and begun again.
#[tokio::test]
async fn on_the_engine_a_load_shows_what_one_without_shows() {
    let mut random = seeded();
    let directory = tempfile::tempdir().unwrap();
    let sqlite = patient(Sqlite::open(directory.path().join("read.db")).unwrap());
    let (mut at, id, stream) = (0, Walk::id("1"), StreamName::new("walk-1").unwrap());
    let mut store = open(&directory.path().join("data-0"));
    let agree = async |store: &LogStore, after: &str| {
        let without = Factum::new(store.clone());
        let loaded = without.with_snapshots(sqlite.clone()).load(&id).await;
        assert_eq!(loaded, without.load(&id).await, "{after}: {:?}", sqlite.status());
        sqlite.settled().await;
    };
    for _ in 0..100 {
        walk(&store, random.u64(1..15)).await;
        agree(&store, "some steps").await;
        let any = ExpectedRevision::Any;
        match random.u8(0..20) {
            0 => drop(store.delete(&stream, any).await.unwrap()),
            1..4 => {
                let last = store.stream_state(&stream).await.unwrap().last_revision.unwrap_or_default();
                let before = Some(Revision(random.u64(0..=last.0 + 1)));
                let retention = Retention { truncate_before: before, ..Retention::default() };
                store.set_retention(&stream, any, retention).await.unwrap();
            }
            4..6 => {
                let all = Scavenge::default().at_least_percent(0);
                store.scavenge(all, |_| ControlFlow::Continue(())).await.unwrap();
            }
            6 => {
                let backup = directory.path().join(format!("backup-{at}"));
                factum_log::backup(directory.path().join(format!("data-{at}")), &backup, |_| ()).unwrap();
                walk(&store, 20).await;
                agree(&store, "steps that are going to be taken back").await;
                store.close().await.unwrap();
                at += 1;
                let data = directory.path().join(format!("data-{at}"));
                factum_log::restore(&backup, &data, |_| ()).unwrap();
                store = open(&data);
            }
            7 => {
                store.close().await.unwrap();
                drop(store);
                store = open(&directory.path().join(format!("data-{at}")));
            }
            _ => {}
        }
        agree(&store, "a change").await;
    }
    let status = sqlite.status();
    assert!(status.used > 20 && status.written > 5, "{status:?}");
    store.close().await.unwrap();
}
