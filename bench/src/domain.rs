//! What the domain layer costs: deciding and appending through it, beside the same on the bare store, and folding.

use std::{convert::Infallible, fs, hint::black_box, ops::Range, path::Path, time::Instant};

use factum::{
    Append, EventStore, EventStoreExt, ExpectedRevision, Guard, MemoryStore, Metadata, NewEvent, Read,
    StreamName, codec, prelude::*,
};
use factum_log::LogStore;

use crate::{
    Arguments,
    machine::{Machine, Scratch, forget},
    measure::median,
    peer::{Failure, broken},
    report,
};

const ACCOUNTS: u64 = 1_000;
/// Events of each account before anything is measured.
const BEFORE: u64 = 10;
const ROUNDS: usize = 15;
/// Events of the long stream.
const LONG: u64 = 1_000_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
enum AccountEvent {
    Opened { owner: String, currency: String },
    Deposited { cents: i64, reference: String },
    Withdrawn { cents: i64, reference: String },
}

impl Event for AccountEvent {
    const CATEGORY: &'static str = "account";
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Account {
    open: bool,
    cents: i64,
    movements: u64,
}

impl Aggregate for Account {
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened { .. } => self.open = true,
            AccountEvent::Deposited { cents, .. } => {
                (self.cents, self.movements) = (self.cents + cents, self.movements + 1)
            }
            AccountEvent::Withdrawn { cents, .. } => {
                (self.cents, self.movements) = (self.cents - cents, self.movements + 1)
            }
        }
    }
}

struct Deposit {
    cents: i64,
}

impl Command<Account> for Deposit {
    type Error = Infallible;

    fn decide(&self, _: &Account) -> Result<Vec<AccountEvent>, Infallible> {
        Ok(vec![deposited(self.cents)])
    }
}

fn deposited(cents: i64) -> AccountEvent {
    AccountEvent::Deposited { cents, reference: "invoice 2026-11".into() }
}

/// Measures all of it, and prints it.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let beside = std::env::current_exe().map_err(broken)?.with_file_name("bench-data");
    let scratch = Scratch::make(arguments.dir.as_deref().unwrap_or(&beside))?;
    scratch.remove_on_interrupt()?;
    let machine = Machine::look(scratch.path())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(broken)?;
    let (layer, folds) =
        runtime.block_on(async { Ok::<_, Failure>((layer().await?, folds(scratch.path()).await?)) })?;
    let bars = [
        bar("decide and append: the layer over the bare store", layer, 5.0, "µs", |value, bar| value <= bar),
        bar("fold, events in memory", folds.decoded, 5e6, "events/s", |value, bar| value >= bar),
        bar("fold, records in the memory store, JSON decoded", folds.memory, 0.0, "events/s", |_, _| true),
        bar("fold, from the log's files, JSON decoded", folds.disk, 1e6, "events/s", |value, bar| {
            value >= bar
        }),
        bar("the same, nothing in the page cache", folds.cold, 1e6, "events/s", |value, bar| value >= bar),
    ];
    let when = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string();
    let text = serde_json::json!({ "when": when, "machine": machine, "rounds": ROUNDS, "figures": bars });
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/domain.json");
    fs::write(&path, serde_json::to_string_pretty(&text).map_err(broken)?).map_err(broken)
}

/// Prints a figure beside its bar, and gives it for the file.
fn bar(what: &str, values: Vec<f64>, bar: f64, unit: &str, met: fn(f64, f64) -> bool) -> serde_json::Value {
    let value = median(values.clone()).unwrap_or(f64::NAN);
    let shown = |value: f64| if unit == "µs" { format!("{value:.2}") } else { report::number(value) };
    let verdict = match (bar > 0.0, met(value, bar)) {
        (false, _) => "(no bar)".to_owned(),
        (true, true) => format!("(bar {}: met)", shown(bar)),
        (true, false) => format!("(bar {}: MISSED)", shown(bar)),
    };
    println!("{what:52} {:>9} {unit} {verdict}", shown(value));
    serde_json::json!({ "what": what, "unit": unit, "bar": bar, "median": value, "rounds": values })
}

/// Microseconds that a command takes longer than reading its stream and appending its event by hand, round by round.
async fn layer() -> Result<Vec<f64>, Failure> {
    let factum = Factum::new(MemoryStore::new());
    let (mut over, mut next) = (Vec::with_capacity(ROUNDS), 0);
    for round in 0..=ROUNDS {
        let mut fresh = async || {
            next += ACCOUNTS;
            accounts(&factum, next..next + ACCOUNTS).await
        };
        let (by_hand, by_command) = (fresh().await?, fresh().await?);
        // Turn by turn, and medians: other programs hit both alike, and their worst does not count.
        let (mut bare_us, mut layer_us) = (Vec::new(), Vec::new());
        for (by_hand, by_command) in by_hand.iter().zip(&by_command) {
            let begun = Instant::now();
            bare(&**factum.store(), by_hand).await?;
            bare_us.push(begun.elapsed().as_secs_f64() * 1e6);
            let begun = Instant::now();
            black_box(factum.execute(by_command, Deposit { cents: 1 }).await.map_err(broken)?);
            layer_us.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        let of = |times| median(times).unwrap_or(f64::NAN);
        // The first round warms up.
        if round > 0 {
            over.push(of(layer_us) - of(bare_us));
        }
    }
    Ok(over)
}

/// New accounts with a few events each.
async fn accounts(factum: &Factum, numbers: Range<u64>) -> Result<Vec<Id<Account>>, Failure> {
    let ids: Vec<Id<Account>> = numbers.map(|n| Account::id(n.to_string())).collect();
    for id in &ids {
        let events = (0..BEFORE).map(|_| codec::encode(&deposited(1))).collect::<factum::Result<Vec<_>>>();
        let append = Append::to(id.stream().map_err(broken)?, events.map_err(broken)?);
        factum.store().append(append).await.map_err(broken)?;
    }
    Ok(ids)
}

/// What a command does at least: its stream read, and an event appended where it ended.
async fn bare(store: &dyn EventStore, id: &Id<Account>) -> Result<(), Failure> {
    let stream: StreamName = id.stream().map_err(broken)?;
    let events = store.read_to_end(Read::stream(stream.clone())).await.map_err(broken)?;
    let last = events.last().ok_or_else(|| broken("an account has lost its events"))?.revision;
    let event = NewEvent::json_text("Deposited", &br#"{"cents":1,"reference":"invoice 2026-11"}"#[..])
        .map_err(broken)?;
    let metadata = Metadata::from_json(&br#"{"correlation_id":"0198a5b4-3a7f-7c3e-9d2b-0a1b2c3d4e5f"}"#[..])
        .map_err(broken)?;
    let append = Append {
        guards: vec![Guard::Stream { stream: stream.clone(), expected: ExpectedRevision::Exact(last) }],
        ..Append::to(stream, [event.with_metadata(metadata)])
    };
    black_box(store.append(append).await.map_err(broken)?);
    Ok(())
}

/// Events folded in a second, round by round.
#[derive(Default)]
struct Folds {
    decoded: Vec<f64>,
    memory: Vec<f64>,
    disk: Vec<f64>,
    cold: Vec<f64>,
}

async fn folds(directory: &Path) -> Result<Folds, Failure> {
    let (memory, id) = (Factum::new(MemoryStore::new()), Account::id("long"));
    fill(&memory, &id).await?;
    let log = Factum::new(LogStore::open(directory.join("log")).map_err(broken)?);
    fill(&log, &id).await?;
    let events = memory.history(&id).await.map_err(broken)?;
    let expected = memory.load(&id).await.map_err(broken)?;
    let mut folds = Folds::default();
    for round in 0..=ROUNDS {
        let begun = Instant::now();
        let mut account = Account::default();
        events.iter().for_each(|event| account.apply(black_box(&event.event)));
        let decoded = LONG as f64 / begun.elapsed().as_secs_f64();
        assert_eq!(account, expected.state, "all folds come to the same");
        let memory = loaded(&memory, &id, &expected.state).await?;
        let disk = loaded(&log, &id, &expected.state).await?;
        forget(&directory.join("log"))?;
        let cold = loaded(&log, &id, &expected.state).await?;
        if round > 0 {
            folds.decoded.push(decoded);
            folds.memory.push(memory);
            folds.disk.push(disk);
            folds.cold.push(cold);
        }
    }
    Ok(folds)
}

async fn loaded(factum: &Factum, id: &Id<Account>, expected: &Account) -> Result<f64, Failure> {
    let begun = Instant::now();
    let loaded = factum.load(id).await.map_err(broken)?;
    let rate = LONG as f64 / begun.elapsed().as_secs_f64();
    assert_eq!(&loaded.state, expected, "all folds come to the same");
    Ok(rate)
}

async fn fill(factum: &Factum, id: &Id<Account>) -> Result<(), Failure> {
    let stream = id.stream().map_err(broken)?;
    for chunk in 0..LONG / 1000 {
        let event = |n: u64| match chunk * 1000 + n {
            0 => AccountEvent::Opened { owner: "Ada Lovelace".into(), currency: "EUR".into() },
            n if n % 3 == 0 => AccountEvent::Withdrawn { cents: 5, reference: format!("invoice {n}") },
            n => AccountEvent::Deposited { cents: 10, reference: format!("invoice {n}") },
        };
        let events = (0..1000)
            .map(|n| codec::encode(&event(n)))
            .collect::<factum::Result<Vec<_>>>()
            .map_err(broken)?;
        factum.store().append(Append::to(stream.clone(), events)).await.map_err(broken)?;
    }
    Ok(())
}
