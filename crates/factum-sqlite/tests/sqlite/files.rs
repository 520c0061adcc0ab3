//! The file: what others can read in it, and what becomes of a bad one.
#![allow(clippy::disallowed_methods, reason = "these tests damage files")]

use std::path::Path;

use factum::{Error, EventStore, MemoryStore, ReadStore, State, prelude::*, reads::Holds};
use factum_sqlite::Sqlite;

use crate::support::*;

/// The database, as somebody with a SQLite tool sees it.
fn ask(path: &Path, sql: &str) -> Vec<String> {
    let connection = rusqlite::Connection::open(path).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get::<_, rusqlite::types::Value>(0)).unwrap();
    rows.map(|value| match value.unwrap() {
        rusqlite::types::Value::Text(text) => text,
        rusqlite::types::Value::Integer(number) => number.to_string(),
        other => format!("{other:?}"),
    })
    .collect()
}

#[tokio::test]
async fn anyone_can_read_it_with_plain_sql_and_it_outlives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("read.db");
    let store = MemoryStore::new();
    let factum = Factum::new(store.clone());
    let mut random = seeded();
    for round in 0..3 {
        let balances = factum.project(Balances::<1>, Sqlite::open(&path).unwrap()).await.unwrap();
        let token = write_some(&store, &mut random, 200, 5).await;
        balances.wait_for(token).await.unwrap();
        if round == 1 {
            balances.rebuild().await.unwrap();
        }
        let rows = fold(&store).await;
        let total: i64 = rows.iter().map(|(_, cents)| cents).sum();
        assert_eq!(ask(&path, "SELECT sum(row) FROM balances"), [total.to_string()]);
        assert_eq!(ask(&path, "SELECT count(*) FROM balances"), [rows.len().to_string()]);
        assert_eq!(balances.all().await.unwrap(), rows);
        balances.stop().await;
        let at = ask(&path, "SELECT position FROM factum_generations WHERE model = 'balances'");
        assert_eq!(at, [store.head().await.unwrap().token.position.to_string()]);
    }
    assert_eq!(
        ask(&path, "SELECT count(*) FROM sqlite_schema WHERE name GLOB 'balances*'"),
        ["2"],
        "one table, one view"
    );
}

#[tokio::test]
async fn tables_of_others_are_left_alone_and_not_taken() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("read.db");
    let mine = rusqlite::Connection::open(&path).unwrap();
    mine.execute_batch("CREATE TABLE balances (mine); INSERT INTO balances VALUES ('keep')").unwrap();
    let factum = Factum::new(MemoryStore::new());
    let error = factum.project(Balances::<1>, Sqlite::open(&path).unwrap()).await.unwrap_err();
    assert!(error.to_string().contains("balances") && matches!(error, Error::InvalidInput { .. }), "{error}");
    assert_eq!(ask(&path, "SELECT mine FROM balances"), ["keep"]);
}

#[test]
fn a_bad_file_is_refused_in_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("text.db"), "Dear diary, ".repeat(500)).unwrap();
    let error = Sqlite::open(path("text.db")).unwrap_err();
    assert!(
        matches!(error, Error::Corrupt(_)) && error.to_string().contains("file is not a database"),
        "{error}"
    );
    assert!(error.to_string().contains("text.db"), "{error}");

    let error = Sqlite::open(path("no/such/directory.db")).unwrap_err();
    assert!(
        matches!(error, Error::Unavailable { .. }) && error.to_string().contains("its directory exists"),
        "{error}"
    );
    let error = Sqlite::open(directory.path()).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

#[test]
fn a_read_only_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("read.db");
    drop(Sqlite::open(&path).unwrap());
    let mut rights = std::fs::metadata(&path).unwrap().permissions();
    rights.set_readonly(true);
    std::fs::set_permissions(&path, rights).unwrap();
    match Sqlite::open(&path) {
        // The superuser may write anything.
        Ok(_) => assert!(std::fs::read_dir("/root").is_ok(), "an ordinary user may not"),
        Err(error) => {
            assert!(matches!(&error, Error::Unavailable { why, .. } if why.contains("read-only")), "{error}");
        }
    }
}

#[tokio::test]
async fn a_damaged_file_is_told_from_a_failing_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("read.db");
    let (store, mut random) = (MemoryStore::new(), seeded());
    let factum = Factum::new(store.clone());
    let token = write_some(&store, &mut random, 3000, 2000).await;
    let balances = factum.project(Balances::<1>, Sqlite::open(&path).unwrap()).await.unwrap();
    balances.wait_for(token).await.unwrap();
    balances.stop().await;
    drop(balances);
    assert!(!path.with_extension("db-wal").exists(), "the last to close it leaves one whole file");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 4;
    bytes[middle..].fill(0xA5);
    std::fs::write(&path, bytes).unwrap();
    let reads = Sqlite::open(&path).unwrap();
    let error = reads.snapshot("balances").await.unwrap_err();
    assert!(
        matches!(error, Error::Corrupt(_)) && error.to_string().contains("made again from the log"),
        "{error}"
    );
}

/// As two processes would: each with its own connections.
#[tokio::test]
async fn of_two_who_open_the_file_the_later_one_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("read.db");
    let (store, mut random) = (MemoryStore::new(), seeded());
    let factum = Factum::new(store.clone());
    let first = factum.project(Balances::<1>, Sqlite::open(&path).unwrap()).await.unwrap();
    let token = write_some(&store, &mut random, 50, 5).await;
    first.wait_for(token).await.unwrap();
    let second = factum.project(Balances::<1>, Sqlite::open(&path).unwrap()).await.unwrap();
    let token = write_some(&store, &mut random, 50, 5).await;
    second.wait_for(token).await.unwrap();
    assert!(matches!(first.wait_for(token).await, Err(Error::Fenced { .. })));
    assert_eq!(first.all().await.unwrap(), fold(&store).await, "it still reads what the other keeps");
    assert_eq!(second.verify().await.unwrap(), []);
}

/// The file may not grow for a while: a full disk, as far as SQLite can tell.
#[tokio::test]
async fn a_full_disk_is_waited_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("read.db");
    let (store, mut random) = (MemoryStore::new(), seeded());
    let factum = Factum::new(store.clone());
    let sqlite = Sqlite::open(&path).unwrap();
    let room = sqlite.project(&factum, crate::sql::Room).await.unwrap();
    let first = write_some(&store, &mut random, 1, 1).await;
    room.wait_for(first).await.unwrap();
    room.stop().await;
    let balances = factum.project(Balances::<1>, sqlite.clone()).await.unwrap();
    let token = write_some(&store, &mut random, 4000, 4000).await;
    let full = loop {
        let status = balances.status().await.unwrap();
        if let State::Waiting(error) = status.state {
            break error;
        }
        assert!(status.position < token.position, "it fills up before");
        tokio::task::yield_now().await;
    };
    assert!(
        matches!(full, Error::StorageFull { .. }) && full.to_string().contains("free some space"),
        "{full}"
    );
    let again = factum.project(Balances::<1>, Sqlite::open(&path).unwrap()).await.unwrap();
    again.wait_for(token).await.unwrap();
    assert_eq!(again.all().await.unwrap(), fold(&store).await);
}

/// Fails between any two statements of a step, also between the rows and the checkpoint: a trigger that objects.
#[tokio::test]
async fn a_step_that_fails_in_the_middle_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("read.db");
    let (store, mut random) = (MemoryStore::new(), seeded());
    let factum = Factum::new(store.clone());
    let sqlite = Sqlite::open(&path).unwrap();
    let balances = factum.project(Balances::<1>, sqlite.clone()).await.unwrap();
    let token = write_some(&store, &mut random, 50, 5).await;
    balances.wait_for(token).await.unwrap();
    balances.stop().await;
    let before = fold(&store).await;
    write_some(&store, &mut random, 50, 5).await;
    let mut after = None;
    for new in ["7", "9"] {
        after = Some(factum.execute(&Account::id(new), Open { cents: 1 }).await.unwrap().token);
    }
    let after = after.unwrap();
    let objections = [
        "BEFORE INSERT ON balances_g1 WHEN new.key = '7'",
        "AFTER INSERT ON balances_g1 WHEN new.key = '9'",
        "BEFORE UPDATE ON factum_generations",
        "AFTER UPDATE ON factum_generations",
    ];
    let outside = rusqlite::Connection::open(&path).unwrap();
    for objection in objections {
        let trigger =
            format!("CREATE TRIGGER objection {objection} BEGIN SELECT raise(FAIL, 'objection'); END");
        outside.execute_batch(&trigger).unwrap();
        let balances = factum.project(Balances::<1>, sqlite.clone()).await.unwrap();
        let error = balances.wait_for(after).await.unwrap_err();
        assert!(error.to_string().contains("objection"), "{error}");
        assert_eq!(balances.all().await.unwrap(), before, "{objection}");
        outside.execute_batch("DROP TRIGGER objection").unwrap();
    }
    let balances = factum.project(Balances::<1>, sqlite).await.unwrap();
    balances.wait_for(after).await.unwrap();
    assert_eq!(balances.all().await.unwrap(), fold(&store).await);
    assert_eq!(balances.verify().await.unwrap(), []);
}

#[tokio::test]
async fn a_key_is_looked_up_and_not_searched_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("read.db");
    let factum = Factum::new(MemoryStore::new());
    let _balances = factum.project(Balances::<1>, Sqlite::open(&path).unwrap()).await.unwrap();
    let outside = rusqlite::Connection::open(&path).unwrap();
    for sql in [
        "SELECT row FROM balances_g1 WHERE key = ?1",
        "SELECT row FROM balances WHERE key = '1'",
        "SELECT key, row FROM balances WHERE key > '1' ORDER BY key LIMIT 10",
        "SELECT key, row FROM balances_g1 ORDER BY key",
    ] {
        let mut plan = outside.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let steps =
            plan.raw_query().mapped(|row| row.get::<_, String>(3)).map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(steps.len(), 1, "{sql}: {steps:?}");
        assert!(steps[0].contains("USING INDEX"), "{sql}: {steps:?}");
    }
}

/// Several lists read side by side, as in a merge: none waits for the others' ends, and too many are told so.
#[tokio::test]
async fn many_read_whole_models_side_by_side() {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(directory.path().join("read.db")).unwrap();
    let store = MemoryStore::new();
    let factum = Factum::new(store.clone());
    let balances = factum.project(Balances::<1>, sqlite.clone()).await.unwrap();
    // More than the two pages of rows that are on their way in any case.
    let end = write_some(&store, &mut seeded(), 9000, 5000).await;
    balances.wait_for(end).await.unwrap();
    let merged = async {
        let mut all = Vec::new();
        for _ in 0..16 {
            let mut rows = balances.rows().await.unwrap();
            assert!(rows.next().await.unwrap().is_some());
            all.push(rows);
        }
        all
    };
    let mut open = tokio::time::timeout(std::time::Duration::from_secs(20), merged).await.unwrap();
    tokio::time::pause();
    let refused = balances.rows().await.unwrap_err();
    tokio::time::resume();
    assert!(refused.is_retryable() && refused.to_string().contains("drop them"), "{refused}");
    open.truncate(15);
    let rows = balances.all().await.unwrap();
    assert!(rows.len() > 2000, "{}", rows.len());
    for mut rows in open {
        assert!(rows.next().await.unwrap().is_some());
    }
    assert_eq!(balances.verify().await.unwrap(), []);
}

/// The names of the files in a directory with what is in them.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
    };
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(read).collect();
    files.sort();
    files
}

#[tokio::test]
async fn looking_changes_nothing_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let foreign = rusqlite::Connection::open(path("foreign.db")).unwrap();
    foreign.execute_batch("CREATE TABLE balances (mine)").unwrap();
    let foreign = rusqlite::Connection::open(path("wal.db")).unwrap();
    foreign.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE balances (mine)").unwrap();
    drop(foreign);
    std::fs::write(path("empty.db"), "").unwrap();
    std::fs::write(path("text.db"), "Dear diary, ".repeat(500)).unwrap();
    let factum = Factum::new(MemoryStore::new());
    let odd = path("50% of #2?.db");
    let balances = factum.project(Balances::<1>, Sqlite::open(&odd).unwrap()).await.unwrap();
    let token = write_some(&**factum.store(), &mut seeded(), 50, 5).await;
    balances.wait_for(token).await.unwrap();
    let rows = balances.all().await.unwrap().len();
    // While a program has it open, and after.
    let open = Sqlite::open_read_only(&odd).unwrap();
    assert_eq!(open.page("balances", None, 100).await.unwrap().rows.len(), rows);
    drop(open);
    balances.stop().await;
    drop(balances);
    let before = files(directory.path());
    assert!(before.iter().all(|(name, _)| name.ends_with(".db")), "{before:?}");
    let reads = Sqlite::open_read_only(&odd).unwrap();
    assert_eq!(reads.snapshot("balances").await.unwrap().rows.len(), rows);
    assert_eq!(reads.held("").await.unwrap(), []);
    let refused = reads.claim("balances").await.unwrap_err().to_string();
    assert!(refused.contains("cannot be written"), "{refused}");
    drop(reads);
    let cases = [
        ("missing.db", "there is no file "),
        ("foreign.db", "it is a SQLite database of something else"),
        ("wal.db", "it is a SQLite database of something else"),
        ("empty.db", "there is no read model of factum in "),
        ("text.db", "it is no SQLite database"),
    ];
    for (name, said) in cases {
        let refused = Sqlite::open_read_only(path(name)).unwrap_err().to_string();
        assert!(refused.contains(said) && refused.contains(name) && !refused.contains('\n'), "{refused}");
    }
    assert!(files(directory.path()) == before, "something was changed or left");
}
