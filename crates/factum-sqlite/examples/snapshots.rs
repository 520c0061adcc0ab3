//! What a snapshot saves: loads of a stream of 100,000 events with a snapshot, beside those of one of 100 events without, on the
//! embedded log, taken in turns within one run.
//!
//! `cargo run --release -p factum-sqlite --example snapshots [events]`
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement takes the time and prints it"
)]

use std::time::{Duration, Instant};

use factum::{
    Append, EventStore, MemorySnapshots, NewEvent, Snapshots, StreamName, prelude::*, snapshot::Keeper,
};
use factum_log::LogStore;
use factum_sqlite::Sqlite;

#[derive(Serialize, Deserialize)]
enum AccountEvent {
    Deposited { cents: i64, by: String },
}

impl Event for AccountEvent {
    const CATEGORY: &'static str = "account";
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Account {
    cents: i64,
    deposits: u64,
}

impl Aggregate for Account {
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        let AccountEvent::Deposited { cents, .. } = event;
        (self.cents, self.deposits) = (self.cents + cents, self.deposits + 1);
    }

    fn snapshots() -> Option<Snapshots<Self>> {
        Some(Snapshots::every(100))
    }
}

async fn fill(store: &LogStore, name: &str, events: u64) -> factum::Result<()> {
    let stream = StreamName::new(format!("account-{name}"))?;
    for start in (0..events).step_by(1000) {
        let some: factum::Result<Vec<NewEvent>> = (start..events.min(start + 1000))
            .map(|n| {
                factum::codec::encode(&AccountEvent::Deposited { cents: n as i64 % 97, by: "ada".into() })
            })
            .collect();
        store.append(Append::to(stream.clone(), some?)).await?;
    }
    Ok(())
}

/// The medians of each, in turns, and of how each compares with the first in the same turn.
async fn compare(loads: &[(&str, &Factum, Id<Account>)], turns: usize) -> factum::Result<()> {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); loads.len()];
    for _ in 0..turns {
        for ((_, factum, id), times) in loads.iter().zip(&mut times) {
            let start = Instant::now();
            factum.load(id).await?;
            times.push(start.elapsed());
        }
    }
    let first = times[0].clone();
    for ((name, ..), times) in loads.iter().zip(times) {
        let mut ratios: Vec<f64> =
            times.iter().zip(&first).map(|(t, f)| t.as_secs_f64() / f.as_secs_f64()).collect();
        ratios.sort_by(f64::total_cmp);
        let mut sorted = times;
        sorted.sort();
        println!("{name:<44} {:>12.1?}   {:>8.2} times the first", sorted[turns / 2], ratios[turns / 2]);
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let events = std::env::args().nth(1).map_or(Ok(100_000), |events| events.parse())?;
    let directory = tempfile::tempdir()?;
    let store = LogStore::open(directory.path().join("data"))?;
    fill(&store, "short", 100).await?;
    fill(&store, "long", events).await?;
    let (short, long) = (Account::id("short"), Account::id("long"));

    let plain = Factum::new(store.clone());
    let patient = |keeper: Keeper| plain.with_snapshots(keeper.patience(Duration::from_secs(60)));
    let memory = patient(MemorySnapshots::new().into());
    let sqlite = patient(Sqlite::open(directory.path().join("read.db"))?.into());
    let expected = plain.load(&long).await?;
    for factum in [&memory, &sqlite] {
        factum.load(&long).await?;
        if let Some(keeper) = factum.snapshots() {
            keeper.settled().await;
        }
    }
    // The worst that the policy lets come: as many events after the snapshot as it waits for, less one.
    fill(&store, "long", 99).await?;
    for factum in [&memory, &sqlite] {
        assert_eq!(factum.load(&long).await?.revision.map(|r| r.0), expected.revision.map(|r| r.0 + 99));
    }

    println!("loading on factum-log, the median of 1,000 turns:");
    let worst = [
        ("100 events, no snapshots", &plain, short),
        ("the long one, 99 after a snapshot in memory", &memory, long.clone()),
        ("the long one, 99 after one in SQLite", &sqlite, long.clone()),
    ];
    compare(&worst, 1000).await?;
    println!("and without one, of {} events, the median of 10 turns:", events + 99);
    compare(&[("the long one, no snapshots", &plain, long)], 10).await?;
    for factum in [&memory, &sqlite] {
        println!("{:?}", factum.snapshots().map(Keeper::status).unwrap_or_default());
    }
    store.close().await?;
    Ok(())
}
