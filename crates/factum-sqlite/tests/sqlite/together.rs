//! SQL projections with what every read model can: a pass shared with others, rebuilds that are given up, records that hold
//! several events; and readers that do not wait for each other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use factum::{EventStore, MemoryStore, ReadStore, State, Token, prelude::*};
use factum_sqlite::{Sql, SqlProjection, Sqlite};

use crate::{
    sql::Flows,
    support::*,
    views::{StepEvent, walked},
};

const LONG: Duration = Duration::from_secs(30);

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.unwrap()
}

async fn head(store: &MemoryStore) -> Token {
    store.head().await.unwrap().token
}

/// Refuses a part of 13, until it is cured.
#[derive(Clone, Debug, Default)]
struct Steps {
    cured: Arc<AtomicBool>,
    panics: bool,
    /// It waits in the middle of its work.
    held: Arc<AtomicBool>,
}

impl SqlProjection for Steps {
    const NAME: &'static str = "sql_steps";
    type Event = StepEvent;

    fn setup(&self, sql: &Sql<'_>) -> factum::Result<()> {
        sql.execute("CREATE TABLE {parts} (steps INTEGER)", ()).map(drop)
    }

    fn apply(&self, sql: &Sql<'_>, event: &Recorded<StepEvent>) -> factum::Result<()> {
        while self.held.load(SeqCst) {
            std::thread::yield_now();
        }
        let StepEvent::Went { steps } = event.event;
        sql.execute("INSERT INTO {parts} VALUES (?1)", (steps,))?;
        let good = steps != 13 || self.cured.load(SeqCst);
        assert!(good || !self.panics, "no thirteen");
        if good { Ok(()) } else { Err(factum::Error::invalid("a step", "no thirteen")) }
    }
}

#[tokio::test]
async fn the_parts_of_a_record_are_applied_together_or_not_at_all() {
    for panics in [false, true] {
        let store = MemoryStore::new();
        let factum = Factum::new(store.clone());
        let before = walked(&store, &[1, 2]).await;
        let bad = walked(&store, &[100, 13, 100]).await;
        let end = walked(&store, &[1000]).await;
        let (steps, sqlite) = (Steps { panics, ..Steps::default() }, crate::reads());
        let model = sqlite.project(&factum, steps.clone()).await.unwrap();
        let stopped = model.wait_for_within(end, LONG).await.unwrap_err();
        assert!(stopped.to_string().contains(&format!("`Walked` at position {}", bad.position)), "{stopped}");
        assert_eq!(model.status().await.unwrap().position, before.position);
        let sum = async |model: &factum_sqlite::SqlProjected<Steps>| {
            model.query("SELECT sum(steps) FROM {parts}", ()).await.unwrap()[0].get::<i64>(0).unwrap()
        };
        assert_eq!(sum(&model).await, 3, "nothing of the record at fault");
        steps.cured.store(true, SeqCst);
        let model = sqlite.project(&factum, steps).await.unwrap();
        model.wait_for_within(end, LONG).await.unwrap();
        assert_eq!(sum(&model).await, 3 + 213 + 1000);
        assert_eq!(model.verify().await.unwrap(), []);
    }
}

#[tokio::test]
async fn documents_and_sql_share_a_pass_and_a_database() {
    let (store, mut random) = (MemoryStore::new(), seeded());
    let factum = Factum::new(store.clone());
    write_some(&store, &mut random, 3000, 9).await;
    let sqlite = crate::reads();
    let pass = factum.pass();
    let balances = pass.project(Balances::<1>, sqlite.clone()).await.unwrap();
    let flows = sqlite.project(&pass, Flows::<1>).await.unwrap();
    pass.start();
    let refused = flows.wait_for_within(head(&store).await, LONG).await;
    balances.wait_for_within(head(&store).await, LONG).await.unwrap();
    assert_eq!(balances.all().await.unwrap(), fold(&store).await);
    // By chance there was a withdrawal of thirteen, or there was none.
    let thirteen = matches!(flows.status().await.unwrap().state, State::Stopped(_));
    assert_eq!(refused.is_err(), thirteen);
    assert_eq!(flows.verify().await.unwrap(), []);
}

#[tokio::test]
async fn a_rebuild_in_sql_is_given_up_without_a_trace() {
    let store = MemoryStore::new();
    let factum = Factum::new(store.clone());
    for _ in 0..2000 {
        walked(&store, &[1, 1]).await;
    }
    let sqlite = crate::reads();
    let steps = Steps::default();
    let model = sqlite.project(&factum, steps.clone()).await.unwrap();
    model.wait_for_within(head(&store).await, LONG).await.unwrap();
    let before = sqlite.catalog("sql_steps").await.unwrap();
    for _ in 0..3 {
        steps.held.store(true, SeqCst);
        let rebuild = model.rebuild();
        while rebuild.progress().is_none() {
            tokio::task::yield_now().await;
        }
        let go_on = async { steps.held.store(false, SeqCst) };
        let _ = tokio::join!(biased; in_time(rebuild.cancel()), go_on);
        assert_eq!(sqlite.catalog("sql_steps").await.unwrap(), before);
    }
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name GLOB 'sql_steps_g*'";
    assert_eq!(model.query(tables, ()).await.unwrap()[0].get::<i64>(0).unwrap(), 1);
    in_time(model.rebuild()).await.unwrap();
    assert_eq!(model.verify().await.unwrap(), []);
}

/// Fails where its tables are made, in one way or another.
#[derive(Debug)]
struct Unmakeable(&'static str);

impl SqlProjection for Unmakeable {
    const NAME: &'static str = "flows";
    const VERSION: u32 = 2;
    type Event = AccountEvent;

    fn setup(&self, sql: &Sql<'_>) -> factum::Result<()> {
        assert!(self.0 != "panic", "a bug in setup");
        sql.execute("CREATE TABLE {per_account} (id TEXT)", ())?;
        sql.execute(self.0, ()).map(drop)
    }

    fn apply(&self, _: &Sql<'_>, _: &Recorded<AccountEvent>) -> factum::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn tables_that_cannot_be_made_take_the_model_from_nobody() {
    let store = MemoryStore::new();
    let factum = Factum::new(store.clone());
    let sqlite = crate::reads();
    let account = Account::id("1");
    factum.execute(&account, Open { cents: 100 }).await.unwrap();
    let keeping = sqlite.project(&factum, Flows::<1>).await.unwrap();
    keeping.wait_for_within(head(&store).await, LONG).await.unwrap();
    let other = sqlite.project(&factum, Steps::default()).await.unwrap();
    let before = sqlite.catalog("flows").await.unwrap();
    let schema = "SELECT group_concat(sql, ';') FROM sqlite_schema";
    let tables = keeping.query(schema, ()).await.unwrap();
    // What is taken already: somebody's table, by the name that the view would have.
    let taken = "CREATE TABLE {in_all} (a)";
    keeping.stop().await;
    drop(keeping);
    let keeping = sqlite.project(&factum, Flows::<1>).await.unwrap();
    for wrong in ["CREATE TABL {x} (a)", "CREATE TABLE {per_account} (a)", "panic"] {
        let refused = sqlite.project(&factum, Unmakeable(wrong)).await.unwrap_err();
        assert!(!refused.is_retryable(), "{wrong}: {refused}");
    }
    let catalog = sqlite.catalog("flows").await.unwrap();
    assert_eq!((catalog.epoch, catalog.building), (before.epoch + 1, None), "nothing but the restart above");
    assert_eq!(keeping.query(schema, ()).await.unwrap(), tables, "and not a trace of a table");
    let done = factum.execute(&account, Withdraw { cents: 5 }).await.unwrap();
    keeping.wait_for_within(&done, LONG).await.expect("it is still its keeper");
    // What can be made is.
    let next = sqlite.project(&factum, Unmakeable(taken)).await.unwrap();
    next.wait_for_within(&done, LONG).await.unwrap();
    assert_eq!(sqlite.catalog("flows").await.unwrap().active.unwrap().version, 2);
    drop(other);
}

#[tokio::test]
async fn a_view_that_cannot_be_made_is_noticed_before_anything_is_filled() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("read.db");
    let mine = rusqlite::Connection::open(&path).unwrap();
    mine.execute_batch("CREATE TABLE flows_in_all (mine)").unwrap();
    let factum = Factum::new(MemoryStore::new());
    let sqlite = Sqlite::open(&path).unwrap();
    let refused = sqlite.project(&factum, Flows::<1>).await.unwrap_err();
    assert!(refused.to_string().contains("flows_in_all"), "{refused}");
    assert_eq!(sqlite.catalog("flows").await.unwrap(), Default::default(), "it was never heard of");
}

/// Counts to so many, in SQL: much longer than a look at a row.
const SLOW: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000000) SELECT max(i) FROM n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_do_not_wait_for_a_reader_that_takes_long() {
    let (store, mut random) = (MemoryStore::new(), seeded());
    let factum = Factum::new(store.clone());
    let sqlite = crate::reads();
    let balances = factum.project(Balances::<1>, sqlite.clone()).await.unwrap();
    let flows = sqlite.project(&factum, Steps::default()).await.unwrap();
    let end = write_some(&store, &mut random, 100, 5).await;
    balances.wait_for_within(end, LONG).await.unwrap();
    flows.wait_for_within(end, LONG).await.unwrap();
    let slow: Vec<_> = (0..2)
        .map(|_| {
            let flows = flows.clone();
            tokio::spawn(async move { flows.query(SLOW, ()).await.map(|rows| rows.len()) })
        })
        .collect();
    for n in 0..20 {
        balances.get(&format!("{}", n % 5)).await.unwrap();
        flows.query("SELECT 1", ()).await.unwrap();
    }
    assert!(slow.iter().all(|slow| !slow.is_finished()), "they were all answered meanwhile");
    // Nobody waits for them to the end: that is when the database is closed.
    for slow in slow {
        slow.abort();
    }
}
