//! Read models in memory and in SQLite: the same promises.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "a test")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use factum::{
    Append, Error, MemoryReads, MemoryStore, NewEvent, ReadStore, Result, StreamName, Token,
    prelude::*,
    projection::{Attached, Generation, JsonRow, Place, State},
};
use factum_sqlite::{Sql, SqlProjection, Sqlite};

#[derive(Debug, Serialize, Deserialize)]
enum AccountEvent {
    Deposited { amount: i64 },
    Withdrawn { amount: i64 },
    Closed,
}
use AccountEvent::{Closed, Deposited, Withdrawn};

impl Event for AccountEvent {
    const CATEGORY: &'static str = "account";
}

#[derive(Default)]
struct Account;

impl Aggregate for Account {
    type Event = AccountEvent;
    fn apply(&mut self, _: &AccountEvent) {}
}

#[derive(Debug, thiserror::Error)]
#[error("never")]
struct Never;

struct Book(fn(i64) -> AccountEvent, i64);

impl Command<Account> for Book {
    type Error = Never;
    fn decide(&self, _: &Account) -> std::result::Result<Vec<AccountEvent>, Never> {
        Ok(vec![(self.0)(self.1)])
    }
}

fn deposit(amount: i64) -> Book {
    Book(|amount| Deposited { amount }, amount)
}

fn close() -> Book {
    Book(|_| Closed, 0)
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Balance {
    amount: i64,
    bookings: u32,
}

fn booked(row: Option<Balance>, amount: i64) -> Balance {
    let row = row.unwrap_or_default();
    Balance { amount: row.amount + amount, bookings: row.bookings + 1 }
}

#[derive(Default)]
struct Balances {
    panics_at: Option<i64>,
}

impl Projection for Balances {
    const NAME: &'static str = "balances";
    type Event = AccountEvent;
    type Row = Balance;

    fn evolve(&self, row: Option<Balance>, event: &Recorded<AccountEvent>) -> Option<Balance> {
        match event.event {
            Deposited { amount } => {
                assert_ne!(Some(amount), self.panics_at, "a bug of the user's");
                Some(booked(row, amount))
            }
            Withdrawn { amount } => Some(booked(row, -amount)),
            Closed => None,
        }
    }
}

/// The same, in its second version: amounts are doubled.
struct Doubled;

impl Projection for Doubled {
    const NAME: &'static str = "balances";
    const VERSION: u32 = 2;
    type Event = AccountEvent;
    type Row = Balance;

    fn evolve(&self, row: Option<Balance>, event: &Recorded<AccountEvent>) -> Option<Balance> {
        match event.event {
            Deposited { amount } => Some(booked(row, amount * 2)),
            Withdrawn { amount } => Some(booked(row, -amount * 2)),
            Closed => None,
        }
    }
}

async fn bank(accounts: u32, rounds: u32) -> Factum {
    let factum = Factum::new(MemoryStore::new());
    for round in 0..rounds {
        for n in 0..accounts {
            factum.execute(&Account::id(n.to_string()), deposit(i64::from(n * 100 + round))).await.unwrap();
        }
    }
    factum
}

async fn reads_of(kind: &str, directory: &std::path::Path) -> Arc<dyn ReadStore> {
    match kind {
        "memory" => Arc::new(MemoryReads::new()),
        "sqlite" => Arc::new(Sqlite::open(directory.join("read.db")).unwrap()),
        _ => Arc::new(Sqlite::memory().unwrap()),
    }
}

/// A read store that others hold too, and that can stop in the middle.
#[derive(Clone, Debug)]
struct Shared {
    reads: Arc<dyn ReadStore>,
    /// How many steps are done before one never ends. 0: all are.
    stuck_at: Arc<AtomicU32>,
    steps: Arc<AtomicU32>,
}

impl Shared {
    fn of(reads: Arc<dyn ReadStore>) -> Self {
        Self { reads, stuck_at: Arc::default(), steps: Arc::default() }
    }

    fn stuck_at(&self, step: u32) -> Self {
        Self { stuck_at: Arc::new(step.into()), steps: Arc::default(), reads: self.reads.clone() }
    }

    /// One step: as if the process were killed, it never returns from the one it is stuck at.
    async fn step(&self) {
        let step = self.steps.fetch_add(1, Ordering::SeqCst) + 1;
        if step == self.stuck_at.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    fn is_stuck(&self) -> bool {
        self.steps.load(Ordering::SeqCst) >= self.stuck_at.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl ReadStore for Shared {
    async fn attach(&self, name: &str) -> Result<Attached> {
        self.reads.attach(name).await
    }
    async fn begin(&self, name: &str, epoch: u64, version: u32) -> Result<Generation> {
        self.reads.begin(name, epoch, version).await
    }
    async fn rows(&self, place: Place<'_>, keys: &[String]) -> Result<Vec<Option<String>>> {
        self.step().await;
        let rows = self.reads.rows(place, keys).await;
        self.step().await;
        rows
    }
    async fn change(
        &self,
        place: Place<'_>,
        from: Option<Token>,
        to: Token,
        rows: Vec<(String, Option<String>)>,
    ) -> Result<()> {
        self.step().await;
        let changed = self.reads.change(place, from, to, rows).await;
        self.step().await;
        changed
    }
    async fn activate(&self, place: Place<'_>) -> Result<()> {
        self.step().await;
        let activated = self.reads.activate(place).await;
        self.step().await;
        activated
    }
    async fn get(&self, name: &str, key: &str) -> Result<Option<String>> {
        self.reads.get(name, key).await
    }
    async fn page(&self, name: &str, beyond: Option<&str>, limit: usize) -> Result<Vec<JsonRow>> {
        self.reads.page(name, beyond, limit).await
    }
}

async fn follows_and_reads_your_writes(reads: Arc<dyn ReadStore>) {
    let factum = bank(3, 2).await;
    let balances = factum.project(Balances::default(), Shared::of(reads)).await.unwrap();
    let done = factum.execute(&Account::id("1"), deposit(5)).await.unwrap();
    balances.wait_for(&done).await.unwrap();
    assert_eq!(balances.get("1").await.unwrap(), Some(Balance { amount: 206, bookings: 3 }));
    assert_eq!(balances.get("9").await.unwrap(), None);
    let done = factum.execute(&Account::id("1"), close()).await.unwrap();
    balances.wait_for(&done).await.unwrap();
    let keys: Vec<_> = balances.all().await.unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["0", "2"]);
    let status = balances.status().await.unwrap();
    assert_eq!((status.lag_events, status.position, status.state), (0, status.head, State::Live));
    assert_eq!(balances.verify().await.unwrap(), []);
    // An event of another category moves the checkpoint, too.
    let other = Append::to(StreamName::new("other-1").unwrap(), [NewEvent::bytes("X", "").unwrap()]);
    let token = factum.store().append(other).await.unwrap().token;
    balances.wait_for(token).await.unwrap();
}

async fn goes_on_where_it_was_after_a_kill_at_any_step(reads: Arc<dyn ReadStore>) {
    let factum = bank(7, 3).await;
    let shared = Shared::of(reads);
    for step in 1..30 {
        let stuck = shared.stuck_at(step);
        let balances = factum.project(Balances::default(), stuck.clone()).await.unwrap();
        let mut booked = 0;
        while !stuck.is_stuck() {
            factum.execute(&Account::id((booked % 5).to_string()), deposit(booked)).await.unwrap();
            booked += 1;
            tokio::task::yield_now().await;
        }
        drop(balances);
        let balances = factum.project(Balances::default(), shared.clone()).await.unwrap();
        let head = factum.store().head().await.unwrap().token;
        balances.wait_for(head).await.unwrap();
        assert_eq!(balances.verify().await.unwrap(), [], "killed at step {step}");
        balances.stop().await;
    }
}

async fn a_later_worker_fences_the_earlier(reads: Arc<dyn ReadStore>) {
    let factum = bank(2, 1).await;
    let shared = Shared::of(reads);
    let first = factum.project(Balances::default(), shared.clone()).await.unwrap();
    first.wait_for(factum.store().head().await.unwrap().token).await.unwrap();
    let second = factum.project(Balances::default(), shared).await.unwrap();
    let done = factum.execute(&Account::id("1"), deposit(1)).await.unwrap();
    second.wait_for(&done).await.unwrap();
    let refused = first.wait_for(&done).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Unavailable { .. }) && refused.to_string().contains("owned by another"),
        "{refused}"
    );
    assert_eq!(second.get("1").await.unwrap(), Some(Balance { amount: 101, bookings: 2 }));
    assert!(matches!(first.status().await.unwrap().state, State::Stopped(Error::Fenced { .. })));
}

async fn a_rebuild_while_commands_run_ends_equal(reads: Arc<dyn ReadStore>) {
    let factum = bank(20, 60).await;
    let balances = factum.project(Balances::default(), Shared::of(reads)).await.unwrap();
    let writing = {
        let factum = factum.clone();
        tokio::spawn(async move {
            for n in 0..300 {
                factum.execute(&Account::id((n % 20).to_string()), deposit(n)).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    };
    let watching = {
        let balances = balances.clone();
        tokio::spawn(async move {
            let mut bookings = 0;
            for _ in 0..200 {
                let now = balances.get("7").await.unwrap().map_or(0, |row| row.bookings);
                assert!(now >= bookings, "readers never see it step back: {now} after {bookings}");
                bookings = now;
                tokio::task::yield_now().await;
            }
        })
    };
    for _ in 0..3 {
        balances.rebuild().await.unwrap();
    }
    writing.await.unwrap();
    watching.await.unwrap();
    balances.wait_for(factum.store().head().await.unwrap().token).await.unwrap();
    assert_eq!(balances.verify().await.unwrap(), []);
    let bookings: u32 = balances.all().await.unwrap().iter().map(|(_, row)| row.bookings).sum();
    assert_eq!(bookings, 20 * 60 + 300);
}

async fn a_rebuild_cut_off_at_any_step_is_finished_by_the_next_worker(reads: Arc<dyn ReadStore>) {
    let factum = bank(5, 200).await;
    let shared = Shared::of(reads);
    let balances = factum.project(Balances::default(), shared.clone()).await.unwrap();
    let head = factum.store().head().await.unwrap().token;
    balances.wait_for(head).await.unwrap();
    balances.stop().await;
    for step in 1..=10 {
        let stuck = shared.stuck_at(step);
        let balances = factum.project(Balances::default(), stuck.clone()).await.unwrap();
        let rebuilding = balances.clone();
        let waiting = tokio::spawn(async move { rebuilding.rebuild().await });
        while !stuck.is_stuck() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        waiting.abort();
        let _ = waiting.await;
        drop(balances);
        assert_eq!(shared.get("balances", "4").await.unwrap().map(|json| json.contains("200")), Some(true));
        let balances = factum.project(Balances::default(), shared.clone()).await.unwrap();
        while balances.status().await.unwrap().rebuilding.is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        balances.wait_for(head).await.unwrap();
        assert_eq!(balances.verify().await.unwrap(), [], "cut off at step {step}");
        balances.stop().await;
    }
}

async fn a_new_version_takes_the_place_of_the_old(reads: Arc<dyn ReadStore>) {
    let factum = bank(2, 2).await;
    let shared = Shared::of(reads);
    let head = factum.store().head().await.unwrap().token;
    let first = factum.project(Balances::default(), shared.clone()).await.unwrap();
    first.wait_for(head).await.unwrap();
    drop(first);
    let second = factum.project(Doubled, shared).await.unwrap();
    second.wait_for(head).await.unwrap();
    assert_eq!(second.get("1").await.unwrap(), Some(Balance { amount: 402, bookings: 2 }));
    assert_eq!(second.verify().await.unwrap(), []);
}

async fn what_cannot_be_applied_stops_it_loudly(reads: Arc<dyn ReadStore>) {
    let factum = bank(1, 1).await;
    let projection = Balances { panics_at: Some(13) };
    let balances = factum.project(projection, Shared::of(reads)).await.unwrap();
    balances.wait_for(factum.store().head().await.unwrap().token).await.unwrap();
    let done = factum.execute(&Account::id("1"), deposit(13)).await.unwrap();
    let stopped = balances.wait_for(&done).await.unwrap_err().to_string();
    assert!(stopped.contains("in `account-1`") && stopped.contains("a bug of the user's"), "{stopped}");
    assert_eq!(
        balances.get("0").await.unwrap(),
        Some(Balance { amount: 0, bookings: 1 }),
        "what was kept is still read"
    );
    let status = balances.status().await.unwrap();
    assert_eq!(status.lag_events, 1);
    assert!(status.state.to_string().starts_with("stopped: "), "{}", status.state);
}

async fn waiting_ends_with_the_reason(reads: Arc<dyn ReadStore>) {
    let factum = bank(1, 1).await;
    let stuck = Shared::of(reads).stuck_at(1);
    let balances = factum.project(Balances::default(), stuck).await.unwrap();
    let head = factum.store().head().await.unwrap().token;
    let late = balances.wait_for_within(head, Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(late, Error::Timeout { .. }), "{late}");
    assert_eq!(
        late.to_string(),
        format!(
            "waiting for the read model `balances`, now at position 0, to reach {} took longer than 20 ms",
            head.position
        )
    );
    let foreign = bank(1, 1).await.store().head().await.unwrap().token;
    assert!(matches!(balances.wait_for(foreign).await, Err(Error::LogRewound(_))));
}

async fn a_read_model_of_another_log_is_refused(reads: Arc<dyn ReadStore>) {
    let shared = Shared::of(reads);
    let first = bank(1, 1).await;
    let balances = first.project(Balances::default(), shared.clone()).await.unwrap();
    balances.wait_for(first.store().head().await.unwrap().token).await.unwrap();
    drop(balances);
    let second = bank(1, 1).await;
    assert!(matches!(second.project(Balances::default(), shared).await, Err(Error::LogRewound(_))));
}

macro_rules! on_every_read_store {
    ($($case:ident)*) => {
        mod in_memory { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let directory = tempfile::tempdir().unwrap();
                super::$case(super::reads_of("memory", directory.path()).await).await;
            }
        )* }
        mod in_sqlite { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let directory = tempfile::tempdir().unwrap();
                super::$case(super::reads_of("sqlite", directory.path()).await).await;
            }
        )* }
        mod in_sqlite_in_memory { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let directory = tempfile::tempdir().unwrap();
                super::$case(super::reads_of("sqlite in memory", directory.path()).await).await;
            }
        )* }
    };
}

on_every_read_store! {
    follows_and_reads_your_writes
    goes_on_where_it_was_after_a_kill_at_any_step
    a_later_worker_fences_the_earlier
    a_rebuild_while_commands_run_ends_equal
    a_rebuild_cut_off_at_any_step_is_finished_by_the_next_worker
    a_new_version_takes_the_place_of_the_old
    what_cannot_be_applied_stops_it_loudly
    waiting_ends_with_the_reason
    a_read_model_of_another_log_is_refused
}

/// Money by amount of the booking: a shape that one row per account cannot have.
struct ByAmount;

impl SqlProjection for ByAmount {
    const NAME: &'static str = "by_amount";
    type Event = AccountEvent;

    fn setup(&self, sql: &Sql<'_>) -> rusqlite::Result<()> {
        sql.execute_batch(&format!(
            "CREATE TABLE {} (amount INTEGER PRIMARY KEY, times INTEGER NOT NULL)",
            sql.table("amounts")
        ))
    }

    fn apply(&self, sql: &Sql<'_>, event: &Recorded<AccountEvent>) -> rusqlite::Result<()> {
        if let Deposited { amount } = event.event {
            let table = sql.table("amounts");
            let count =
                format!("INSERT INTO {table} VALUES (?1, 1) ON CONFLICT DO UPDATE SET times = times + 1");
            sql.prepare_cached(&count)?.execute([amount])?;
            if amount == 666 {
                sql.execute_batch("SELECT * FROM nowhere")?;
            }
        }
        Ok(())
    }
}

fn times(sql: &Sql<'_>) -> rusqlite::Result<Vec<(i64, i64)>> {
    let mut select =
        sql.prepare(&format!("SELECT amount, times FROM {} ORDER BY amount", sql.table("amounts")))?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_any_shape_are_kept_and_rebuilt() {
    let directory = tempfile::tempdir().unwrap();
    let factum = Factum::new(MemoryStore::new());
    let sqlite = Sqlite::open(directory.path().join("read.db")).unwrap();
    let kept = sqlite.project(&factum, ByAmount).await.unwrap();
    for amount in [5, 7, 5] {
        factum.execute(&Account::id("1"), deposit(amount)).await.unwrap();
    }
    let head = factum.store().head().await.unwrap().token;
    kept.wait_for(head).await.unwrap();
    assert_eq!(kept.query(times).await.unwrap(), [(5, 2), (7, 1)]);
    kept.rebuild().await.unwrap();
    assert_eq!(kept.query(times).await.unwrap(), [(5, 2), (7, 1)]);
    let done = factum.execute(&Account::id("1"), deposit(666)).await.unwrap();
    let stopped = kept.wait_for(&done).await.unwrap_err().to_string();
    assert!(stopped.contains("no such table: nowhere"), "{stopped}");
    assert_eq!(kept.query(times).await.unwrap(), [(5, 2), (7, 1)], "nothing of a batch that failed");
}

#[tokio::test]
async fn any_tool_can_read_a_read_model() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("read.db");
    let factum = bank(2, 2).await;
    let balances = factum.project(Balances::default(), Sqlite::open(&path).unwrap()).await.unwrap();
    balances.wait_for(factum.store().head().await.unwrap().token).await.unwrap();
    balances.rebuild().await.unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    let sum: i64 = db
        .query_row("SELECT sum(json_extract(row, '$.amount')) FROM balances", [], |row| row.get(0))
        .unwrap();
    assert_eq!(sum, 202);
    let tables: i64 = db
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'balances_g%'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(tables, 1, "generations that are not needed any more are dropped");
}

#[tokio::test]
async fn a_damaged_row_or_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("read.db");
    let factum = bank(2, 1).await;
    let balances = factum.project(Balances::default(), Sqlite::open(&path).unwrap()).await.unwrap();
    balances.wait_for(factum.store().head().await.unwrap().token).await.unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute("UPDATE balances_g1 SET row = '{\"amount\": 7' WHERE key = '1'", []).unwrap();
    let damaged = balances.get("1").await.unwrap_err();
    assert!(matches!(damaged, Error::Corrupt(_)) && damaged.to_string().contains("`1`"), "{damaged}");
    assert_eq!(balances.verify().await.unwrap().len(), 1);
    db.execute("UPDATE balances_g1 SET row = '{\"amount\": 7, \"bookings\": 1}' WHERE key = '1'", [])
        .unwrap();
    let difference = balances.verify().await.unwrap().remove(0);
    assert_eq!(
        (difference.key.as_str(), difference.by_the_log.as_deref()),
        ("1", Some(r#"{"amount":100,"bookings":1}"#))
    );
    balances.rebuild().await.unwrap();
    assert_eq!(balances.verify().await.unwrap(), []);

    let file = directory.path().join("text.db");
    std::fs::write(&file, "this is no database at all, but it is long enough to be looked at".repeat(100))
        .unwrap();
    let refused = Sqlite::open(&file).unwrap_err();
    assert!(matches!(refused, Error::Corrupt(_)), "{refused}");
    let refused = Sqlite::open(directory.path().join("no/such/directory.db")).unwrap_err();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused}");
}
