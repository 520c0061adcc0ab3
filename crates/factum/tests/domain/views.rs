//! Read models of several rows per event, of several kinds of events, several in one pass of the log; rows page by page. Run on every store of read models: `crate::reads()`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use factum::{
    Append, Appended, EventSet, EventStore, Evolution, Head, Limits, MemoryStore, MultiProjection, NewEvent,
    Page, Read, ReadStore, RecordedEvent, State, StreamName, StreamState, Token, codec,
    prelude::*,
    reads::{Catalog, Generation, Lease, Scan, Snapshot, Step},
};
use tokio::sync::Semaphore;

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

// ---- one pass of the log ----

/// Counts what is read.
#[derive(Clone, Debug, Default)]
struct Counting {
    store: MemoryStore,
    events: Arc<AtomicUsize>,
}

#[async_trait]
impl EventStore for Counting {
    async fn append(&self, append: Append) -> factum::Result<Appended> {
        self.store.append(append).await
    }
    async fn read(&self, read: Read) -> factum::Result<Page> {
        let page = self.store.read(read).await?;
        self.events.fetch_add(page.events.len(), SeqCst);
        Ok(page)
    }
    async fn head(&self) -> factum::Result<Head> {
        self.store.head().await
    }
    async fn stream_state(&self, stream: &StreamName) -> factum::Result<StreamState> {
        self.store.stream_state(stream).await
    }
    async fn changed(&self, beyond: Position) {
        self.store.changed(beyond).await;
    }
    fn limits(&self) -> Limits {
        self.store.limits()
    }
}

/// A read store whose commits wait until it is opened, and count.
#[derive(Clone, Debug)]
pub(crate) struct Gated {
    inner: Arc<dyn ReadStore>,
    pub(crate) open: Arc<Semaphore>,
    pub(crate) waiting: Arc<AtomicU64>,
}

impl Gated {
    pub(crate) fn new(inner: impl ReadStore) -> Self {
        Self { inner: Arc::new(inner), open: Arc::new(Semaphore::new(0)), waiting: Arc::default() }
    }

    pub(crate) fn open(&self) {
        self.open.add_permits(1_000_000);
    }
}

#[async_trait]
impl ReadStore for Gated {
    async fn claim(&self, model: &str) -> factum::Result<Lease> {
        self.inner.claim(model).await
    }
    async fn catalog(&self, model: &str) -> factum::Result<Catalog> {
        self.inner.catalog(model).await
    }
    async fn create(&self, lease: &Lease, version: u32) -> factum::Result<Generation> {
        self.inner.create(lease, version).await
    }
    async fn discard(&self, lease: &Lease) -> factum::Result<()> {
        self.inner.discard(lease).await
    }
    async fn activate(&self, lease: &Lease, generation: u32) -> factum::Result<()> {
        self.inner.activate(lease, generation).await
    }
    async fn commit(&self, lease: &Lease, step: Step) -> factum::Result<()> {
        self.waiting.fetch_add(1, SeqCst);
        self.open.acquire().await.unwrap().forget();
        self.inner.commit(lease, step).await
    }
    async fn rows(
        &self,
        model: &str,
        generation: u32,
        keys: Vec<String>,
    ) -> factum::Result<Vec<Option<String>>> {
        self.inner.rows(model, generation, keys).await
    }
    async fn get(&self, model: &str, key: &str) -> factum::Result<Snapshot> {
        self.inner.get(model, key).await
    }
    async fn page(&self, model: &str, after: Option<String>, limit: usize) -> factum::Result<Snapshot> {
        self.inner.page(model, after, limit).await
    }
    async fn scan(&self, model: &str) -> factum::Result<Scan> {
        self.inner.scan(model).await
    }
}

/// An event that counts how often it is decoded.
#[derive(Serialize)]
pub(crate) enum Counted {
    Happened { n: i64 },
}

static DECODED: AtomicUsize = AtomicUsize::new(0);

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename = "Counted")]
        enum Inner {
            Happened { n: i64 },
        }
        let Inner::Happened { n } = Inner::deserialize(deserializer)?;
        DECODED.fetch_add(1, SeqCst);
        Ok(Self::Happened { n })
    }
}

impl Event for Counted {
    const CATEGORY: &'static str = "counted";
}

macro_rules! sums {
    ($($sum:ident $name:literal $factor:literal;)*) => {$(
        pub(crate) struct $sum;
        impl Projection for $sum {
            const NAME: &'static str = $name;
            type Event = Counted;
            type Row = i64;
            fn evolve(&self, row: Option<i64>, event: &Recorded<Counted>) -> Option<i64> {
                let Counted::Happened { n } = event.event;
                Some(row.unwrap_or(0) + $factor * n)
            }
        }
    )*};
}
sums! {
    Once "once" 1;
    Twice "twice" 2;
    Thrice "thrice" 3;
}

/// It asks for the same events in other words.
struct Kinds;

impl Projection for Kinds {
    const NAME: &'static str = "kinds";
    type Event = Counted;
    type Row = i64;

    fn query(&self) -> factum::Result<Query> {
        Query::types(["Happened"])
    }

    fn evolve(&self, row: Option<i64>, event: &Recorded<Counted>) -> Option<i64> {
        Once.evolve(row, event)
    }
}

pub(crate) async fn counted(store: &dyn EventStore, events: i64) -> Token {
    append(store, "counted-1", (0..events).map(|n| Counted::Happened { n })).await
}

#[tokio::test]
async fn in_one_pass_an_event_is_read_once_and_decoded_once() {
    let store = Counting::default();
    let factum = Factum::new(store.clone());
    for _ in 0..5 {
        counted(&store, 2400).await;
        write_some(&store, &mut seeded(), 100, 5).await;
    }
    let (pass, reads) = (factum.pass(), reads());
    let once = pass.project(Once, reads.clone()).await.unwrap();
    let twice = pass.project(Twice, reads.clone()).await.unwrap();
    // One that needs them in other words, and one that needs others.
    let kinds = pass.project(Kinds, reads.clone()).await.unwrap();
    let balances = pass.project(Balances::<1>, reads.clone()).await.unwrap();
    let thrice = pass.project(Thrice, Gated::new(reads.clone())).await.unwrap();
    tokio::task::yield_now().await;
    assert_eq!(store.events.load(SeqCst), 0, "nothing is read before the start");
    thrice.stop().await;
    DECODED.store(0, SeqCst);
    pass.start();
    let end = head(&store).await;
    once.wait_for_within(end, LONG).await.unwrap();
    twice.wait_for_within(end, LONG).await.unwrap();
    balances.wait_for_within(end, LONG).await.unwrap();
    kinds.wait_for_within(end, LONG).await.unwrap();
    assert_eq!((store.events.load(SeqCst), DECODED.load(SeqCst)), (12_500, 12_000));
    let sum = once.get("1").await.unwrap().unwrap();
    assert_eq!(twice.get("1").await.unwrap(), Some(2 * sum));

    // Event by event, too.
    for _ in 0..20 {
        let end = counted(&store, 1).await;
        once.wait_for_within(end, LONG).await.unwrap();
        twice.wait_for_within(end, LONG).await.unwrap();
        balances.wait_for_within(end, LONG).await.unwrap();
        kinds.wait_for_within(end, LONG).await.unwrap();
    }
    assert_eq!((store.events.load(SeqCst), DECODED.load(SeqCst)), (12_520, 12_020));

    // A rebuild reads for itself, and is then together with the others again.
    once.rebuild().await.unwrap();
    let end = counted(&store, 1).await;
    once.wait_for_within(end, LONG).await.unwrap();
    twice.wait_for_within(end, LONG).await.unwrap();
    balances.wait_for_within(end, LONG).await.unwrap();
    until(async || twice.status().await.unwrap().state == State::Live).await;
    store.events.store(0, SeqCst);
    let end = counted(&store, 100).await;
    once.wait_for_within(end, LONG).await.unwrap();
    twice.wait_for_within(end, LONG).await.unwrap();
    balances.wait_for_within(end, LONG).await.unwrap();
    kinds.wait_for_within(end, LONG).await.unwrap();
    // `status` looks into the log as well.
    assert_eq!(store.events.load(SeqCst), 100);
    assert_eq!((once.verify().await.unwrap(), twice.verify().await.unwrap()), (vec![], vec![]));
}

#[tokio::test]
async fn in_one_pass_each_has_a_fate_of_its_own() {
    let store = MemoryStore::new();
    let factum = Factum::new(store.clone());
    let (pass, reads) = (factum.pass(), reads());
    let gated = Gated::new(reads.clone());
    let once = pass.project(Once, reads.clone()).await.unwrap();
    let hanging = pass.project(Twice, gated.clone()).await.unwrap();
    let steps = Steps::default();
    let stopping = pass.project(steps.clone(), reads.clone()).await.unwrap();
    pass.start();
    walked(&store, &[13]).await;
    // Far more than is kept for one that hangs.
    for _ in 0..30 {
        counted(&store, 1000).await;
    }
    let end = walked(&store, &[1]).await;
    once.wait_for_within(end, LONG).await.unwrap();
    assert_eq!(once.get("1").await.unwrap(), Some(30 * 499_500));
    assert!(stopping.wait_for_within(end, LONG).await.unwrap_err().to_string().contains("no thirteen"));
    assert!(gated.waiting.load(SeqCst) > 0);
    assert_eq!(hanging.get("1").await.unwrap(), None, "it hangs in its first commit");

    // One stops, the others go on; one rebuilds, the others go on.
    once.stop().await;
    gated.open();
    hanging.wait_for_within(end, LONG).await.unwrap();
    let rebuild = hanging.rebuild();
    steps.cured.store(true, SeqCst);
    in_time(stopping.rebuild()).await.unwrap();
    assert_eq!(stopping.get("steps").await.unwrap(), Some(14));
    in_time(rebuild).await.unwrap();
    assert_eq!(hanging.get("1").await.unwrap(), Some(2 * 30 * 499_500));
    assert_eq!((hanging.verify().await.unwrap(), stopping.verify().await.unwrap()), (vec![], vec![]));
}

#[tokio::test]
async fn what_others_have_read_meanwhile_comes_at_once() {
    let store = Counting::default();
    let factum = Factum::new(store.clone());
    let (pass, reads) = (factum.pass(), reads());
    let gated = Gated::new(reads.clone());
    let once = pass.project(Once, reads.clone()).await.unwrap();
    let late = pass.project(Twice, gated.clone()).await.unwrap();
    pass.start();
    for _ in 0..7 {
        once.wait_for_within(counted(&store, 1).await, LONG).await.unwrap();
        until(async || gated.waiting.load(SeqCst) > 0).await;
    }
    gated.open();
    late.wait_for_within(head(&store).await, LONG).await.unwrap();
    // The first, two that were on their way to it, and the rest.
    assert!(gated.waiting.load(SeqCst) <= 4, "{} commits", gated.waiting.load(SeqCst));
    assert_eq!(store.events.load(SeqCst), 7, "and nothing was read twice");
}

#[tokio::test]
async fn who_joins_late_misses_nothing_that_was_read_for_others() {
    let store = MemoryStore::new();
    let factum = Factum::new(store.clone());
    let mut random = seeded();
    counted(&store, 50).await;
    write_some(&store, &mut random, 200, 5).await;
    let end = counted(&store, 50).await;
    let (pass, reads) = (factum.pass(), reads());
    let once = pass.project(Once, reads.clone()).await.unwrap();
    let twice = pass.project(Twice, reads.clone()).await.unwrap();
    let handle = (*pass).clone();
    pass.start();
    once.wait_for_within(end, LONG).await.unwrap();
    twice.wait_for_within(end, LONG).await.unwrap();
    let balances = handle.project(Balances::<1>, reads).await.unwrap();
    balances.wait_for_within(end, LONG).await.unwrap();
    assert_eq!(balances.all().await.unwrap(), fold(&store).await);
}

/// Three models of two kinds in one pass, whose stores fail now and then, while events are written, one is rebuilt, and one
/// joins late: each is exactly what the log makes.
#[tokio::test]
async fn in_one_pass_all_are_exact_whatever_fails() {
    let mut random = seeded();
    for round in 0..12 {
        let store = Meddled::default();
        let factum = Factum::new(store.clone());
        let reads = reads();
        let mut faults = random.fork();
        let mut faulty = || {
            let fault = if faults.bool() { Fault::Before } else { Fault::After };
            Faulty::new(reads.clone(), faults.u64(0..12), fault, false)
        };
        let pass = factum.pass();
        let balances = pass.project(Balances::<1>, faulty()).await.unwrap();
        let once = pass.project(Once, faulty()).await.unwrap();
        let twice = pass.project(Twice, faulty()).await.unwrap();
        // The handle outlives the start.
        let late = (*pass).clone();
        let before = random.usize(0..2500);
        write_some(&store, &mut random, before, 7).await;
        pass.start();
        store.read_faults.store(random.u64(0..4), SeqCst);
        let mut rebuild = None;
        let mut thrice = None;
        for step in 0..40 {
            if random.bool() {
                counted(&store, random.i64(1..300)).await;
            } else {
                let some = random.usize(1..40);
                write_some(&store, &mut random, some, 7).await;
            }
            match step {
                10 if round % 2 == 0 => rebuild = Some(once.rebuild()),
                15 => thrice = Some(late.project(Thrice, faulty()).await.unwrap()),
                20 if round % 3 == 0 => drop(twice.rebuild()),
                _ => {}
            }
        }
        if let Some(rebuild) = rebuild {
            // What fails before it has begun is told.
            let done = in_time(rebuild).await;
            assert!(done.as_ref().is_ok_and(|()| true) || done.unwrap_err().is_retryable());
        }
        let (thrice, end) = (thrice.unwrap(), head(&store).await);
        for consumer in [&*balances, &*once, &*twice, &*thrice] {
            consumer.wait_for_within(end, LONG).await.unwrap();
        }
        assert_eq!(balances.all().await.unwrap(), fold(&store).await);
        assert_eq!(balances.verify().await.unwrap(), []);
        for (verified, name) in [
            (once.verify().await.unwrap(), "once"),
            (twice.verify().await.unwrap(), "twice"),
            (thrice.verify().await.unwrap(), "thrice"),
        ] {
            assert_eq!(verified, [], "{name}");
        }
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
