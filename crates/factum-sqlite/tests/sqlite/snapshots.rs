//! Snapshots in a file: what holds for every store of them, and a life of their own.

use std::{ops::ControlFlow, path::Path, sync::Arc, time::Duration};

use factum::{
    EventStore, EventStoreExt, ExpectedRevision, Retention, StreamName, prelude::*, snapshot::Keeper,
};
use factum_conformance::snapshots::{self, Walk, walk};
use factum_log::{LogStore, Options, Scavenge};
use factum_sqlite::Sqlite;

use crate::{reads, support::seeded};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_is_kept() {
    snapshots::check(Arc::new(reads())).await.unwrap();
    snapshots::check(Arc::new(Sqlite::memory().unwrap())).await.unwrap();
}

/// However busy the machine is.
fn patient(sqlite: Sqlite) -> Keeper {
    Keeper::new(sqlite).patience(Duration::from_secs(60))
}

#[tokio::test]
async fn they_are_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("read.db");
    snapshots::check_reopened(async || Sqlite::open(&file)).await.unwrap();
}

fn open(data: &Path) -> LogStore {
    Options::new(data).segments(8192, 8192).open().unwrap()
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
        walk(&store, random.u64(1..15)).await.unwrap();
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
                walk(&store, 20).await.unwrap();
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
