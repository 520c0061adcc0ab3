//! How fast read models are filled: `cargo run --release -p factum-sqlite --example throughput [EVENTS]`.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "it measures and reports")]

use std::time::{Duration, Instant};

use factum::{Append, MemoryReads, MemoryStore, ReadStore, Token, codec, prelude::*};
use factum_sqlite::{Sql, SqlProjection, Sqlite};

#[derive(Serialize, Deserialize)]
enum AccountEvent {
    MoneyDeposited { cents: i64, reference: String },
}

impl Event for AccountEvent {
    const CATEGORY: &'static str = "account";
}

#[derive(Serialize, Deserialize)]
struct Balance {
    cents: i64,
    events: u64,
    last_reference: String,
}

struct Balances;

impl Projection for Balances {
    const NAME: &'static str = "balances";
    type Event = AccountEvent;
    type Row = Balance;

    fn evolve(&self, row: Option<Balance>, event: &Recorded<AccountEvent>) -> Option<Balance> {
        let AccountEvent::MoneyDeposited { cents, reference } = &event.event;
        let (sum, events) = row.map_or((0, 0), |row| (row.cents, row.events));
        Some(Balance { cents: sum + cents, events: events + 1, last_reference: reference.clone() })
    }
}

/// One of several models of the same events.
struct Count<const N: usize>;

const NAMES: [&str; 4] = ["count_a", "count_b", "count_c", "count_d"];

impl<const N: usize> Projection for Count<N> {
    const NAME: &'static str = NAMES[N];
    type Event = AccountEvent;
    type Row = u64;

    fn evolve(&self, row: Option<u64>, _: &Recorded<AccountEvent>) -> Option<u64> {
        Some(row.unwrap_or(0) + 1)
    }
}

struct Sums;

impl SqlProjection for Sums {
    const NAME: &'static str = "sums";
    type Event = AccountEvent;

    fn setup(&self, sql: &Sql<'_>) -> factum::Result<()> {
        sql.execute("CREATE TABLE {sums} (id TEXT PRIMARY KEY, cents INTEGER NOT NULL) WITHOUT ROWID", ())
            .map(drop)
    }

    fn apply(&self, sql: &Sql<'_>, event: &Recorded<AccountEvent>) -> factum::Result<()> {
        let AccountEvent::MoneyDeposited { cents, .. } = &event.event;
        let add =
            "INSERT INTO {sums} VALUES (?1, ?2) ON CONFLICT DO UPDATE SET cents = cents + excluded.cents";
        sql.execute(add, (event.record.stream.id(), *cents)).map(drop)
    }
}

async fn filled(events: u64, accounts: u64) -> factum::Result<(Factum, Token)> {
    let factum = Factum::new(MemoryStore::new());
    let mut random = fastrand::Rng::with_seed(1);
    let mut token = factum.store().head().await?.token;
    for _ in 0..events / 100 {
        let mut append = Append::new();
        for _ in 0..100 {
            let stream = factum::StreamName::new(format!("account-{}", random.u64(0..accounts)))?;
            let reference = format!("reference {}", random.u32(..));
            let event = AccountEvent::MoneyDeposited { cents: random.i64(0..1000), reference };
            append = append.write(stream, [codec::encode(&event)?]);
        }
        token = factum.store().append(append).await?.token;
    }
    Ok((factum, token))
}

fn report(what: &str, accounts: u64, events: u64, took: Duration) {
    println!("{what:<32} {accounts:>9} keys  {:>9.0} events/s", events as f64 / took.as_secs_f64());
}

async fn documents(factum: &Factum, to: Token, reads: impl ReadStore) -> factum::Result<Duration> {
    let begin = Instant::now();
    let balances = factum.project(Balances, reads).await?;
    balances.wait_for_within(to, Duration::from_secs(600)).await?;
    let took = begin.elapsed();
    balances.stop().await;
    Ok(took)
}

/// Four models of the same events, in one pass or each for itself.
async fn four(
    factum: &Factum,
    to: Token,
    reads: impl ReadStore + Clone,
    together: bool,
) -> factum::Result<Duration> {
    let begin = Instant::now();
    let pass = factum.pass();
    let each = if together { &*pass } else { factum };
    let models = (
        each.project(Count::<0>, reads.clone()).await?,
        each.project(Count::<1>, reads.clone()).await?,
        each.project(Count::<2>, reads.clone()).await?,
        each.project(Count::<3>, reads).await?,
    );
    pass.start();
    for model in [&*models.0, &models.1, &models.2, &models.3] {
        model.wait_for_within(to, Duration::from_secs(600)).await?;
    }
    Ok(begin.elapsed())
}

/// A rebuild beside what is read, as its handle tells it.
async fn rebuilt(factum: &Factum, to: Token, reads: impl ReadStore) -> factum::Result<Duration> {
    let balances = factum.project(Balances, reads).await?;
    balances.wait_for_within(to, Duration::from_secs(600)).await?;
    let begin = Instant::now();
    let mut rebuild = balances.rebuild();
    let mut now_and_then = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            done = &mut rebuild => { done?; break }
            _ = now_and_then.tick() => if let Some(progress) = rebuild.progress() {
                println!("  rebuilding: {progress}");
            },
        }
    }
    let took = begin.elapsed();
    let begin = Instant::now();
    let differences = balances.verify().await?.len();
    println!("  verified in {:.1} s, {differences} differences", begin.elapsed().as_secs_f64());
    Ok(took)
}

#[tokio::main]
async fn main() -> factum::Result<()> {
    let events = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(500_000);
    for accounts in [100, 10_000, 1_000_000] {
        let (factum, to) = filled(events, accounts).await?;
        let directory = tempfile::tempdir()
            .map_err(|e| factum::Error::invalid("a temporary directory", e.to_string()))?;
        let file = |name: &str| Sqlite::open(directory.path().join(name));
        report("documents in memory", accounts, events, documents(&factum, to, MemoryReads::new()).await?);
        report("documents in SQLite", accounts, events, documents(&factum, to, file("documents.db")?).await?);
        let begin = Instant::now();
        let sums = file("sql.db")?.project(&factum, Sums).await?;
        sums.wait_for_within(to, Duration::from_secs(600)).await?;
        report("SQL in SQLite", accounts, events, begin.elapsed());
        report("rebuild in SQLite", accounts, events, rebuilt(&factum, to, file("rebuild.db")?).await?);
        for (what, together) in [("four, each for itself", false), ("four in one pass", true)] {
            report(what, accounts, events, four(&factum, to, MemoryReads::new(), together).await?);
        }
        for (what, together) in
            [("four in SQLite, each for itself", false), ("four in SQLite in one pass", true)]
        {
            report(what, accounts, events, four(&factum, to, file(what)?, together).await?);
        }
    }
    Ok(())
}
