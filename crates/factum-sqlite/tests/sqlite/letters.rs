//! Dead letters and holds in a file: what holds for every store of read models, and what is a file's own.

use std::{sync::Arc, time::Duration};

use factum::{ReadStore, reads::Holds};
use factum_sqlite::Sqlite;
use rusqlite::Connection;

use crate::reads;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Arc::new(Sqlite::open(directory.path().join("read.db")).unwrap());
    factum_conformance::reads::check(open(), open()).await.unwrap();
    let alone = Arc::new(Sqlite::memory().unwrap());
    factum_conformance::reads::check(alone.clone(), alone).await.unwrap();
    let scratch = reads().scratch().await.unwrap();
    factum_conformance::reads::check(scratch.clone(), scratch).await.unwrap();
}

const LONG: Duration = Duration::from_secs(60);

/// A file as it was before there were letters and holds.
#[tokio::test]
async fn an_older_file_gets_what_it_lacks() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("read.db");
    drop(Sqlite::open(&path).unwrap());
    let file = Connection::open(&path).unwrap();
    file.execute_batch("DROP TABLE factum_letters; DROP TABLE factum_holds").unwrap();
    drop(file);
    let sqlite = Sqlite::open(&path).unwrap();
    assert_eq!(sqlite.hold("a", "me", LONG).await.unwrap().holder, "me");
}

#[tokio::test]
async fn a_clock_that_was_put_back_by_a_day_makes_nobody_wait_for_a_day() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("read.db");
    let sqlite = Sqlite::open(&path).unwrap();
    sqlite.hold("a", "dead", LONG).await.unwrap();
    let file = Connection::open(&path).unwrap();
    let back = |seconds: i64| {
        file.execute("UPDATE factum_holds SET until = until + ?1 * 1000000", [seconds]).unwrap();
    };
    back(30);
    let other = sqlite.hold("a", "heir", LONG).await.unwrap();
    assert!(other.holder == "dead" && other.left > LONG, "a clock that was put back a little: {other:?}");
    back(24 * 60 * 60);
    assert_eq!(sqlite.held("a").await.unwrap(), []);
    assert_eq!(sqlite.hold("a", "heir", LONG).await.unwrap().holder, "heir");
}

/// Each process that starts holds names that nobody takes after it.
#[tokio::test]
async fn names_of_those_who_are_gone_do_not_pile_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("read.db");
    let sqlite = Sqlite::open(&path).unwrap();
    for n in 0..50 {
        sqlite.hold(&format!("worker-{n}"), "me", Duration::ZERO).await.unwrap();
    }
    sqlite.hold("last", "me", LONG).await.unwrap();
    let file = Connection::open(&path).unwrap();
    let count: u64 = file.query_row("SELECT count(*) FROM factum_holds", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
}
