//! Snapshots in PostgreSQL: what holds for every store of them, and a life of their own.

use std::{sync::Arc, time::Duration};

use factum::{prelude::*, snapshot::Keeper};
use factum_conformance::snapshots::{self, Walk, walk};
use factum_postgres::{Options, PostgresReads, PostgresStore};

use crate::server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_is_kept() {
    let options = Options { schema: server::fresh_schema(), ..Options::default() };
    let reads = PostgresReads::open(&server::url(), options).await.unwrap();
    snapshots::check(Arc::new(reads)).await.unwrap();
}

#[tokio::test]
async fn they_are_there_after_a_restart() {
    let options = Options { schema: server::fresh_schema(), ..Options::default() };
    let open = async || PostgresReads::open(&server::url(), options.clone()).await;
    snapshots::check_reopened(open).await.unwrap();
}

/// Log and snapshots in one database.
#[tokio::test]
async fn a_store_keeps_its_own() {
    let options = Options { schema: server::fresh_schema(), ..Options::default() };
    let store = PostgresStore::open(&server::url(), options).await.unwrap();
    let keeper = Keeper::new(store.snapshots()).patience(Duration::from_secs(60));
    let factum = Factum::new(store.clone()).with_snapshots(keeper.clone());
    for n in 1..=3 {
        walk(&store, 12).await.unwrap();
        assert_eq!(factum.load(&Walk::id("1")).await.unwrap().state.steps, n * 12);
        keeper.settled().await;
    }
    assert_eq!((keeper.status().used, keeper.status().written), (2, 3), "{:?}", keeper.status());
}
