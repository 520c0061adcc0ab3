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
    println!("{what:<28} {accounts:>9} keys  {:>9.0} events/s", events as f64 / took.as_secs_f64());
}

async fn documents(factum: &Factum, to: Token, reads: impl ReadStore) -> factum::Result<Duration> {
    let begin = Instant::now();
    let balances = factum.project(Balances, reads).await?;
    balances.wait_for_within(to, Duration::from_secs(600)).await?;
    let took = begin.elapsed();
    balances.stop().await;
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
    }
    Ok(())
}
