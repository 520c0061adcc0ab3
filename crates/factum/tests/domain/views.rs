//! Read models of several rows per event, of several kinds of events; rows page by page; serde that panics. Run on every store
//! of read models: `crate::reads()`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use factum::{
    Append, EventSet, EventStore, Evolution, MemoryStore, MultiProjection, NewEvent, RecordedEvent,
    StreamName, Token, codec, prelude::*,
};

use crate::{reads, support::*};

const LONG: Duration = Duration::from_secs(30);

pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.unwrap()
}

pub(crate) async fn head(store: &dyn EventStore) -> Token {
    store.head().await.unwrap().token
}

pub(crate) async fn append<E: Event>(
    store: &dyn EventStore,
    stream: &str,
    events: impl IntoIterator<Item = E>,
) -> Token {
    let events: Vec<_> = events.into_iter().map(|event| codec::encode(&event).unwrap()).collect();
    store.append(Append::to(StreamName::new(stream).unwrap(), events)).await.unwrap().token
}

/// Others get their turn until this holds.
pub(crate) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    in_time(async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

// ---- several rows per event ----

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum TransferEvent {
    Transferred { from: String, to: String, cents: i64 },
    Left { account: String },
}

impl Event for TransferEvent {
    const CATEGORY: &'static str = "transfer";
}

/// What each account has, and who is known at all: keys of two kinds, and one that is named twice.
struct Accounts;

impl MultiProjection for Accounts {
    const NAME: &'static str = "accounts";
    type Event = TransferEvent;
    type Row = i64;

    fn keys(&self, event: &Recorded<TransferEvent>) -> Vec<String> {
        match &event.event {
            TransferEvent::Transferred { from, to, .. } => {
                vec!["transfers".into(), from.clone(), to.clone(), "transfers".into()]
            }
            TransferEvent::Left { account } => vec![account.clone()],
        }
    }

    fn evolve_row(&self, key: &str, row: Option<i64>, event: &Recorded<TransferEvent>) -> Option<i64> {
        let row = row.unwrap_or(0);
        match &event.event {
            _ if key == "transfers" => Some(row + 1),
            TransferEvent::Transferred { from, to, cents } => {
                let paid = if key == from { *cents } else { 0 };
                let received = if key == to { *cents } else { 0 };
                Some(row - paid + received)
            }
            TransferEvent::Left { .. } => None,
        }
    }
}

#[tokio::test]
async fn an_event_changes_several_rows_and_takes_rows_away() {
    let store = MemoryStore::new();
    let factum = Factum::new(store.clone());
    let transfer =
        |from: &str, to: &str, cents| TransferEvent::Transferred { from: from.into(), to: to.into(), cents };
    append(&store, "transfer-1", [transfer("a", "b", 5), transfer("b", "c", 2)]).await;
    let accounts = factum.project(Accounts, reads()).await.unwrap();
    append(&store, "transfer-2", [transfer("c", "c", 100), transfer("a", "d", 1)]).await;
    let end = append(&store, "transfer-3", [TransferEvent::Left { account: "d".into() }]).await;
    accounts.wait_for_within(end, LONG).await.unwrap();
    let rows = accounts.all().await.unwrap();
    let expected = [("a", -6), ("b", 3), ("c", 2), ("transfers", 4)];
    assert_eq!(rows, expected.map(|(key, cents)| (key.to_owned(), cents)), "`d` has left");
    assert_eq!(accounts.verify().await.unwrap(), []);
    accounts.rebuild().await.unwrap();
    assert_eq!(accounts.all().await.unwrap(), rows);
}

// ---- several kinds of events ----

#[derive(Clone, Debug, Serialize, Deserialize)]
enum OrderEvent {
    Placed { cents: i64 },
    Cancelled,
}

impl Event for OrderEvent {
    const CATEGORY: &'static str = "order";
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum PaymentEvent {
    Received { order: String, cents: i64 },
}

impl Event for PaymentEvent {
    const CATEGORY: &'static str = "payment";
}

enum ShopEvent {
    Order(OrderEvent),
    Payment(PaymentEvent),
}

impl EventSet for ShopEvent {
    fn query() -> factum::Result<Query> {
        Ok(OrderEvent::query()?.or(PaymentEvent::query()?))
    }
    fn is_for(record: &RecordedEvent) -> bool {
        OrderEvent::is_for(record) || PaymentEvent::is_for(record)
    }
    fn decode_each(record: &RecordedEvent, each: &mut dyn FnMut(Self)) -> factum::Result<()> {
        match record {
            _ if PaymentEvent::is_for(record) => {
                PaymentEvent::decode_each(record, &mut |e| each(Self::Payment(e)))
            }
            _ => OrderEvent::decode_each(record, &mut |e| each(Self::Order(e))),
        }
    }
}

/// What is still to be paid, per order.
struct Due;

impl Projection for Due {
    const NAME: &'static str = "due";
    type Event = ShopEvent;
    type Row = i64;

    fn key(&self, event: &Recorded<ShopEvent>) -> Option<String> {
        Some(match &event.event {
            ShopEvent::Order(_) => event.record.stream.id().to_owned(),
            ShopEvent::Payment(PaymentEvent::Received { order, .. }) => order.clone(),
        })
    }

    fn evolve(&self, row: Option<i64>, event: &Recorded<ShopEvent>) -> Option<i64> {
        match &event.event {
            ShopEvent::Order(OrderEvent::Placed { cents }) => Some(row.unwrap_or(0) + cents),
            ShopEvent::Order(OrderEvent::Cancelled) => None,
            ShopEvent::Payment(PaymentEvent::Received { cents, .. }) => {
                row.map(|due| due - cents).filter(|due| *due != 0)
            }
        }
    }
}

#[tokio::test]
async fn a_model_of_several_kinds_of_events() {
    let store = MemoryStore::new();
    let factum = Factum::new(store.clone());
    for order in ["1", "2", "3"] {
        append(&store, &format!("order-{order}"), [OrderEvent::Placed { cents: 10 }]).await;
    }
    let paid = |order: &str, cents| PaymentEvent::Received { order: order.into(), cents };
    append(&store, "payment-9", [paid("1", 10), paid("2", 4)]).await;
    let end = append(&store, "order-3", [OrderEvent::Cancelled]).await;
    let due = factum.project(Due, reads()).await.unwrap();
    due.wait_for_within(end, LONG).await.unwrap();
    assert_eq!(due.all().await.unwrap(), [("2".to_owned(), 6)]);
    assert_eq!(due.verify().await.unwrap(), []);
}

// ---- parts of one record ----

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum StepEvent {
    Went { steps: i64 },
}

/// Once, a walk was stored as one event.
#[derive(Deserialize)]
struct Walked {
    parts: Vec<i64>,
}

impl Event for StepEvent {
    const CATEGORY: &'static str = "walk";

    fn evolution() -> Evolution<Self> {
        let went = |steps| StepEvent::Went { steps };
        Evolution::new().split("Walked", move |old: Walked| old.parts.into_iter().map(went))
    }
}

/// A record of an old walk.
pub(crate) async fn walked(store: &MemoryStore, parts: &[i64]) -> Token {
    let event = NewEvent::json_text("Walked", format!("{{\"parts\":{parts:?}}}")).unwrap();
    store.append(Append::to(StreamName::new("walk-1").unwrap(), [event])).await.unwrap().token
}

/// Panics on a part of 13, until it is cured.
#[derive(Clone, Default)]
pub(crate) struct Steps {
    pub(crate) cured: Arc<AtomicBool>,
    in_keys: bool,
}

impl Projection for Steps {
    const NAME: &'static str = "steps";
    type Event = StepEvent;
    type Row = i64;

    fn key(&self, event: &Recorded<StepEvent>) -> Option<String> {
        let StepEvent::Went { steps } = event.event;
        assert!(!self.in_keys || steps != 13 || self.cured.load(SeqCst), "no thirteen");
        Some("steps".to_owned())
    }

    fn evolve(&self, row: Option<i64>, event: &Recorded<StepEvent>) -> Option<i64> {
        let StepEvent::Went { steps } = event.event;
        assert!(self.in_keys || steps != 13 || self.cured.load(SeqCst), "no thirteen");
        Some(row.unwrap_or(0) + steps)
    }
}

#[tokio::test]
async fn the_parts_of_a_record_are_applied_together_or_not_at_all() {
    for in_keys in [false, true] {
        let store = MemoryStore::new();
        let factum = Factum::new(store.clone());
        let before = walked(&store, &[1, 2]).await;
        walked(&store, &[]).await;
        let bad = walked(&store, &[100, 13, 100]).await;
        let end = walked(&store, &[1000]).await;
        let (steps, reads) = (Steps { in_keys, ..Steps::default() }, reads());
        let model = factum.project(steps.clone(), reads.clone()).await.unwrap();
        let stopped = model.wait_for_within(end, LONG).await.unwrap_err();
        assert!(stopped.to_string().contains(&format!("`Walked` at position {}", bad.position)), "{stopped}");
        let at = model.status().await.unwrap().position;
        assert!(at >= before.position && at < bad.position, "{at}");
        assert_eq!(model.get("steps").await.unwrap(), Some(3), "nothing of the record at fault");
        assert_eq!(model.rows().await.unwrap().position(), at);
        steps.cured.store(true, SeqCst);
        let model = factum.project(steps, reads).await.unwrap();
        model.wait_for_within(end, LONG).await.unwrap();
        assert_eq!(model.get("steps").await.unwrap(), Some(3 + 213 + 1000));
        assert_eq!(model.verify().await.unwrap(), []);
    }
}

// ---- rows page by page ----

#[tokio::test]
async fn rows_come_page_by_page_as_of_one_moment() {
    let store = MemoryStore::new();
    let factum = Factum::new(store.clone());
    let mut random = seeded();
    let balances = factum.project(Balances::<1>, reads()).await.unwrap();
    balances.wait_for_within(write_some(&store, &mut random, 3000, 2000).await, LONG).await.unwrap();
    let (before, at) = (balances.all().await.unwrap(), balances.status().await.unwrap().position);
    assert!(before.len() > 600, "{}", before.len());

    let mut rows = balances.rows().await.unwrap();
    let mut seen = vec![rows.next().await.unwrap().unwrap()];
    balances.wait_for_within(write_some(&store, &mut random, 500, 2000).await, LONG).await.unwrap();
    balances.rebuild().await.unwrap();
    while let Some(row) = rows.next().await.unwrap() {
        seen.push(row);
    }
    assert_eq!(rows.next().await.unwrap(), None, "the end stays the end");
    assert_eq!((seen, rows.position()), (before, at), "whatever happens meanwhile");
    assert_ne!(balances.rows().await.unwrap().position(), at);

    let all = balances.all().await.unwrap();
    assert_eq!(all, fold(&store).await);
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = balances.page(after.as_deref(), 70).await.unwrap();
        assert!(page.len() <= 70);
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        paged.extend(page);
    }
    assert_eq!(paged, all);
    // Some that nobody reads to the end hold up nobody.
    let mut unread = Vec::new();
    for _ in 0..2 {
        unread.push(balances.rows().await.unwrap());
    }
    balances.wait_for_within(write_some(&store, &mut random, 10, 2000).await, LONG).await.unwrap();
    in_time(balances.get("1")).await.unwrap();
    drop(unread);
    assert_eq!(in_time(balances.all()).await.unwrap(), fold(&store).await);
}

// ---- serde that panics ----

/// Cannot be written when it is 3, or read when it is 5.
#[derive(Debug, PartialEq)]
struct Fragile(i64);

impl Serialize for Fragile {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert_ne!(self.0, 3, "a bug in writing");
        serializer.serialize_i64(self.0)
    }
}

impl<'de> Deserialize<'de> for Fragile {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let n = i64::deserialize(deserializer)?;
        assert_ne!(n, 5, "a bug in reading");
        Ok(Self(n))
    }
}

/// How often each stream was deposited to.
struct Deposits;

impl Projection for Deposits {
    const NAME: &'static str = "deposits";
    type Event = AccountEvent;
    type Row = Fragile;

    fn evolve(&self, row: Option<Fragile>, event: &Recorded<AccountEvent>) -> Option<Fragile> {
        match event.event {
            Deposited { cents } => Some(Fragile(cents)),
            _ => row,
        }
    }
}

#[tokio::test]
async fn a_panic_in_the_serde_of_a_row_stops_right_before_the_event_at_fault() {
    // Which deposits are made to accounts 1 and 2 in one batch; where it stops; what is there then.
    let store = MemoryStore::new();
    let factum = Factum::new(store.clone());
    let reads = reads();
    let deposit = async |account: &str, cents| {
        append(&store, &format!("account-{account}"), [Deposited { cents }]).await
    };
    deposit("1", 1).await;
    // It may be 3 in passing: what is kept then is not.
    deposit("2", 3).await;
    let good = deposit("2", 4).await;
    let bad = deposit("2", 3).await;
    let end = deposit("1", 6).await;
    let model = factum.project(Deposits, reads.clone()).await.unwrap();
    let stopped = model.wait_for_within(end, LONG).await.unwrap_err();
    let text = stopped.to_string();
    assert!(text.contains("a bug in writing"), "{text}");
    assert!(text.contains(&format!("`Deposited` at position {} in `account-2`", bad.position)), "{text}");
    assert_eq!(model.status().await.unwrap().position, good.position);
    let all = model.all().await.unwrap();
    assert_eq!(all, [("1".to_owned(), Fragile(1)), ("2".to_owned(), Fragile(4))]);
    model.stop().await;
    drop(model);

    // One that cannot be read back is the fault of the first event that needs it.
    let store = MemoryStore::new();
    let factum = Factum::new(store.clone());
    let reads = crate::reads();
    let model = factum.project(Deposits, reads.clone()).await.unwrap();
    let deposit = async |account: &str, cents| {
        append(&store, &format!("account-{account}"), [Deposited { cents }]).await
    };
    model.wait_for_within(deposit("1", 5).await, LONG).await.unwrap();
    model.stop().await;
    drop(model);
    deposit("2", 1).await;
    let good = deposit("3", 1).await;
    deposit("1", 1).await;
    let end = deposit("2", 2).await;
    let model = factum.project(Deposits, reads).await.unwrap();
    let stopped = model.wait_for_within(end, LONG).await.unwrap_err();
    assert!(stopped.to_string().contains("a bug in reading"), "{stopped}");
    assert_eq!(model.status().await.unwrap().position, good.position);
    assert_eq!(model.get("2").await.unwrap(), Some(Fragile(1)));
    assert!(model.get("1").await.unwrap_err().to_string().contains("a bug in reading"));
}

/// An event whose tale cannot be told if it is of 13.
#[derive(Debug, Serialize)]
enum Told {
    Deposited { cents: i64 },
}

impl<'de> Deserialize<'de> for Told {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        enum Inner {
            Deposited { cents: i64 },
        }
        let Inner::Deposited { cents } = Inner::deserialize(deserializer)?;
        assert_ne!(cents, 13, "a bug in an event's serde");
        Ok(Self::Deposited { cents })
    }
}

impl Event for Told {
    const CATEGORY: &'static str = "account";
}

struct Tellings(Mutex<BTreeMap<i64, u32>>);

impl Projection for Tellings {
    const NAME: &'static str = "tellings";
    type Event = Told;
    type Row = i64;

    fn evolve(&self, row: Option<i64>, event: &Recorded<Told>) -> Option<i64> {
        let Told::Deposited { cents } = event.event;
        *self.0.lock().unwrap().entry(cents).or_default() += 1;
        Some(row.unwrap_or(0) + cents)
    }
}

#[tokio::test]
async fn a_panic_in_the_serde_of_an_event_stops_right_before_it() {
    let store = MemoryStore::new();
    let factum = Factum::new(store.clone());
    let deposit = async |cents| append(&store, "account-1", [Deposited { cents }]).await;
    deposit(1).await;
    let good = deposit(2).await;
    let bad = deposit(13).await;
    let end = deposit(4).await;
    let model = factum.project(Tellings(Mutex::default()), reads()).await.unwrap();
    let stopped = model.wait_for_within(end, LONG).await.unwrap_err();
    let text = stopped.to_string();
    assert!(text.contains("a bug in an event's serde"), "{text}");
    assert!(text.contains(&format!("at position {} in `account-1`", bad.position)), "{text}");
    assert_eq!(model.status().await.unwrap().position, good.position);
    assert_eq!(model.get("1").await.unwrap(), Some(3));
}
