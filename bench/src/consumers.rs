//! What the runtime of consumers costs: a handler beside a bare subscription, a projection in SQLite beside the same SQL in a bare loop.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use factum::{
    Append, Delivery, EventStore, MemoryReads, NewEvent, Query, RecordedEvent, Sink, StreamName, Stuck,
    prelude::*, subscribe,
};
use factum_log::LogStore;
use factum_sqlite::Sqlite;

use crate::{
    Arguments,
    machine::{Machine, Scratch},
    measure::median,
    peer::{Failure, broken},
    report,
};

const EVENTS: u64 = 300_000;
/// Keys of the read model.
const ACCOUNTS: u64 = 10_000;
/// Events in one transaction of the bare loop: as many as the runtime takes at most.
const BATCH: u64 = 1000;
const ROUNDS: usize = 7;

#[derive(Clone, Debug, Serialize, Deserialize)]
enum AccountEvent {
    Deposited { cents: i64, reference: String },
}

impl Event for AccountEvent {
    const CATEGORY: &'static str = "account";
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Balance {
    cents: i64,
    movements: u64,
}

struct Balances;

impl Projection for Balances {
    const NAME: &'static str = "balances";
    type Event = AccountEvent;
    type Row = Balance;

    fn evolve(&self, row: Option<Balance>, event: &Recorded<AccountEvent>) -> Option<Balance> {
        let AccountEvent::Deposited { cents, .. } = &event.event;
        let before = row.unwrap_or_default();
        Some(Balance { cents: before.cents + cents, movements: before.movements + 1 })
    }
}

/// A sink that does nothing.
struct Nothing(Arc<AtomicU64>);

#[factum::async_trait]
impl Sink for Nothing {
    fn name(&self) -> &'static str {
        "nothing"
    }

    fn query(&self) -> factum::Result<Query> {
        AccountEvent::query()
    }

    async fn accept(&self, records: &[RecordedEvent]) -> Result<(), Stuck> {
        self.0.fetch_add(records.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Measures all of it, and prints it.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let beside = std::env::current_exe().map_err(broken)?.with_file_name("bench-data");
    let scratch = Scratch::make(arguments.dir.as_deref().unwrap_or(&beside))?;
    scratch.remove_on_interrupt()?;
    let machine = Machine::look(scratch.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(broken)?;
    let rounds = runtime.block_on(measure(scratch.path()))?;
    let ratio = |of: fn(&Round) -> f64, to: fn(&Round) -> f64| -> Vec<f64> {
        rounds.iter().map(|round| of(round) / to(round)).collect()
    };
    let rate = |of: fn(&Round) -> f64| -> Vec<f64> { rounds.iter().map(of).collect() };
    let figures = [
        figure("a bare subscription, events/s", rate(|r| r.subscription), None),
        figure("the runtime with a sink that does nothing, events/s", rate(|r| r.sink), None),
        figure("  of the bare subscription (bar 0.9)", ratio(|r| r.sink, |r| r.subscription), Some(0.9)),
        figure("the same SQL in a bare loop, events/s", rate(|r| r.sql), None),
        figure("a projection in SQLite, events/s (bar 100,000)", rate(|r| r.projection), Some(100_000.0)),
        figure("  of the bare loop (bar 0.7)", ratio(|r| r.projection, |r| r.sql), Some(0.7)),
    ];
    let when = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string();
    let text = serde_json::json!({ "when": when, "machine": machine, "rounds": ROUNDS, "figures": figures });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/consumers.json");
    fs::write(&path, serde_json::to_string_pretty(&text).map_err(broken)?).map_err(broken)
}

/// Prints a figure beside its bar, and gives it for the file.
fn figure(what: &str, values: Vec<f64>, bar: Option<f64>) -> serde_json::Value {
    let value = median(values.clone()).unwrap_or(f64::NAN);
    let shown = if value < 100.0 { format!("{value:.2}") } else { report::number(value) };
    let verdict = match bar {
        None => "",
        Some(bar) if value >= bar => "met",
        Some(_) => "MISSED",
    };
    println!("{what:56} {shown:>9} {verdict}");
    serde_json::json!({ "what": what, "bar": bar, "median": value, "rounds": values })
}

/// Events in a second, each way.
struct Round {
    subscription: f64,
    sink: f64,
    sql: f64,
    projection: f64,
}

async fn measure(directory: &Path) -> Result<Vec<Round>, Failure> {
    let store = LogStore::open(directory.join("log")).map_err(broken)?;
    fill(&store).await?;
    let factum = Factum::new(store.clone());
    let mut rounds = Vec::new();
    for n in 0..=ROUNDS {
        let round = Round {
            subscription: subscription(&store).await?,
            sink: sink(&factum).await?,
            sql: sql(directory.join(format!("bare-{n}.db")))?,
            projection: projection(&factum, directory.join(format!("read-{n}.db"))).await?,
        };
        // The first round warms up.
        if n > 0 {
            rounds.push(round);
        }
    }
    store.close().await.map_err(broken)?;
    Ok(rounds)
}

async fn fill(store: &LogStore) -> Result<(), Failure> {
    for chunk in 0..EVENTS / BATCH {
        let event = |n: u64| {
            let event = AccountEvent::Deposited { cents: 10, reference: format!("invoice {n}") };
            let AccountEvent::Deposited { cents, reference } = &event;
            NewEvent::json("Deposited", &serde_json::json!({ "cents": cents, "reference": reference }))
        };
        // Each stream has ten events in a row.
        for first in (0..BATCH).step_by(10) {
            let first = chunk * BATCH + first;
            let stream = StreamName::new(format!("account-{}", first / 10 % ACCOUNTS)).map_err(broken)?;
            let events = (first..first + 10).map(event).collect::<factum::Result<Vec<_>>>().map_err(broken)?;
            store.append(Append::to(stream, events)).await.map_err(broken)?;
        }
    }
    Ok(())
}

async fn subscription(store: &LogStore) -> Result<f64, Failure> {
    let query = AccountEvent::query().map_err(broken)?;
    let begun = Instant::now();
    let mut subscription = subscribe(Arc::new(store.clone()), query, None).await.map_err(broken)?;
    let mut seen = 0;
    loop {
        match subscription.next().await.map_err(broken)? {
            Delivery::Events { events, .. } => seen += std::hint::black_box(&events).len() as u64,
            Delivery::CaughtUp(_) => break,
            _ => {}
        }
    }
    complete(seen, begun)
}

async fn sink(factum: &Factum) -> Result<f64, Failure> {
    let seen = Arc::new(AtomicU64::new(0));
    let to = factum.store().head().await.map_err(broken)?.token;
    let begun = Instant::now();
    let processor =
        factum.sink(Nothing(seen.clone())).start(Arc::new(MemoryReads::new())).await.map_err(broken)?;
    processor.wait_for(to).await.map_err(broken)?;
    let rate = complete(seen.load(Ordering::Relaxed), begun);
    processor.stop().await;
    rate
}

async fn projection(factum: &Factum, file: PathBuf) -> Result<f64, Failure> {
    let reads = Sqlite::open(&file).map_err(broken)?;
    let to = factum.store().head().await.map_err(broken)?.token;
    let begun = Instant::now();
    let balances = factum.project(Balances, reads).await.map_err(broken)?;
    balances.wait_for(to).await.map_err(broken)?;
    let rate = complete(EVENTS, begun);
    balances.stop().await;
    fs::remove_file(file).map_err(broken)?;
    rate
}

/// What the projection's SQL does at least, without a log, events and a runtime: rows upserted and a checkpoint moved, in transactions.
fn sql(file: PathBuf) -> Result<f64, Failure> {
    let mut connection = rusqlite::Connection::open(&file).map_err(broken)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             CREATE TABLE rows (key TEXT PRIMARY KEY, row TEXT NOT NULL) STRICT;
             CREATE TABLE checkpoint (position INTEGER NOT NULL) STRICT; INSERT INTO checkpoint VALUES (0);",
        )
        .map_err(broken)?;
    let begun = Instant::now();
    let mut rows: HashMap<u64, Balance> = HashMap::new();
    for first in (0..EVENTS).step_by(BATCH as usize) {
        let tx = connection.transaction().map_err(broken)?;
        let mut changed = Vec::new();
        for n in first..first + BATCH {
            let account = n / 10 % ACCOUNTS;
            let row = rows.entry(account).or_default();
            (row.cents, row.movements) = (row.cents + 10, row.movements + 1);
            if changed.last() != Some(&account) {
                changed.push(account);
            }
        }
        let upsert = "INSERT INTO rows VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET row = excluded.row";
        let mut upsert = tx.prepare_cached(upsert).map_err(broken)?;
        for account in changed {
            let row = serde_json::to_string(&rows[&account]).map_err(broken)?;
            upsert.execute((account.to_string(), row)).map_err(broken)?;
        }
        tx.execute("UPDATE checkpoint SET position = ?1", [first + BATCH]).map_err(broken)?;
        drop(upsert);
        tx.commit().map_err(broken)?;
    }
    let rate = complete(EVENTS, begun);
    drop(connection);
    fs::remove_file(file).map_err(broken)?;
    rate
}

fn complete(seen: u64, begun: Instant) -> Result<f64, Failure> {
    if seen != EVENTS {
        return Err(broken(format!("{seen} events were seen, not {EVENTS}")));
    }
    Ok(EVENTS as f64 / begun.elapsed().as_secs_f64())
}
