//! Many orders on stores of which any call may fail, in processes that are killed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tokio::runtime;

use super::{
    all,
    shop::{Fulfilment, Place, Shop},
};
use crate::{
    Aggregate, Append, Appended, Error, EventStore, Factum, Head, Limits, ManualClock, MemoryReads,
    MemoryStore, Outcome, Page, Position, Read, ReadStore, Result, StreamName, StreamState, Timestamp,
    reads::{Catalog, Generation, Holds, Lease, Scan, Snapshot, Step},
};

/// A store of events or of read models of which some calls fail: before they have happened, or after.
#[derive(Clone, Debug)]
struct Stormy<S> {
    inner: S,
    /// And how many in a thousand.
    random: Arc<Mutex<(fastrand::Rng, u32)>>,
}

impl<S> Stormy<S> {
    async fn through<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let (before, after) = {
            let mut random = self.random.lock().unwrap();
            let of = random.1;
            (random.0.u32(..1000) < of, random.0.u32(..1000) < of)
        };
        let lost = || Error::Unavailable { why: "of this test".into(), outcome: Outcome::Unknown };
        if before {
            return Err(lost());
        }
        let answer = call.await;
        if after { Err(lost()) } else { answer }
    }
}

#[async_trait]
impl EventStore for Stormy<MemoryStore> {
    async fn append(&self, append: Append) -> Result<Appended> {
        self.through(self.inner.append(append)).await
    }
    async fn read(&self, read: Read) -> Result<Page> {
        self.through(self.inner.read(read)).await
    }
    async fn head(&self) -> Result<Head> {
        self.through(self.inner.head()).await
    }
    async fn stream_state(&self, stream: &StreamName) -> Result<StreamState> {
        self.through(self.inner.stream_state(stream)).await
    }
    async fn changed(&self, position: Position) {
        self.inner.changed(position).await;
    }
    fn limits(&self) -> Limits {
        self.inner.limits()
    }
}

#[async_trait]
impl ReadStore for Stormy<MemoryReads> {
    async fn claim(&self, model: &str) -> Result<Lease> {
        self.through(self.inner.claim(model)).await
    }
    async fn catalog(&self, model: &str) -> Result<Catalog> {
        self.through(self.inner.catalog(model)).await
    }
    async fn create(&self, lease: &Lease, version: u32) -> Result<Generation> {
        self.through(self.inner.create(lease, version)).await
    }
    async fn discard(&self, lease: &Lease) -> Result<()> {
        self.through(self.inner.discard(lease)).await
    }
    async fn activate(&self, lease: &Lease, generation: u32) -> Result<()> {
        self.through(self.inner.activate(lease, generation)).await
    }
    async fn commit(&self, lease: &Lease, step: Step) -> Result<()> {
        self.through(self.inner.commit(lease, step)).await
    }
    async fn rows(&self, model: &str, generation: u32, keys: Vec<String>) -> Result<Vec<Option<String>>> {
        self.through(self.inner.rows(model, generation, keys)).await
    }
    async fn get(&self, model: &str, key: &str) -> Result<Snapshot> {
        self.through(self.inner.get(model, key)).await
    }
    async fn page(&self, model: &str, after: Option<String>, limit: usize) -> Result<Snapshot> {
        self.through(self.inner.page(model, after, limit)).await
    }
    async fn scan(&self, model: &str) -> Result<Scan> {
        self.through(self.inner.scan(model)).await
    }
    async fn letters(
        &self,
        model: &str,
        generation: u32,
        after: Position,
        limit: usize,
    ) -> Result<Vec<(Position, String)>> {
        self.through(self.inner.letters(model, generation, after, limit)).await
    }
    fn holds(&self) -> &dyn Holds {
        self.inner.holds()
    }
}

const ORDERS: usize = 60;
const BEGIN: Timestamp = Timestamp(1_000_000_000_000);

fn name(order: usize) -> String {
    format!("{}-{order}", ["well", "broken", "late"][order % 3])
}

#[test]
fn every_order_comes_to_its_end_once_whatever_fails() {
    let seed = std::env::var("FACTUM_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("FACTUM_SEED={seed}");
    let random = Arc::new(Mutex::new((fastrand::Rng::with_seed(seed), 0)));
    let mut kills = fastrand::Rng::with_seed(seed ^ 1);
    let clock = Arc::new(ManualClock::at(BEGIN));
    let inner = MemoryStore::with(Limits::default(), clock.clone());
    let store = Stormy { inner, random: random.clone() };
    let reads = Stormy { inner: MemoryReads::new(), random: random.clone() };
    let factum = Factum::new(store.clone()).with_clock(clock.clone());
    let settled = |factum: Factum, reads: Stormy<MemoryReads>, last: bool, span: u64| async move {
        for held in reads.inner.holds().held("").await.unwrap() {
            reads.inner.holds().let_go(&held.name, &held.holder).await.unwrap();
        }
        let managing = factum.process_manager(Fulfilment::default()).partitions(2);
        let Ok(process) = managing.start(Arc::new(reads.clone())).await else { return };
        tokio::time::sleep(Duration::from_millis(span)).await;
        if last {
            let rows = || async { reads.page("fulfilment_timers", None, 10).await.unwrap().rows.len() };
            process.wait_until_idle(Duration::from_secs(1000)).await.unwrap();
            while rows().await > 0 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            process.wait_until_idle(Duration::from_secs(1000)).await.unwrap();
            assert_eq!(process.inbox().parked().list().await.unwrap(), []);
            assert_eq!(process.outbox().parked().list().await.unwrap(), []);
        }
    };
    for round in 0..30 {
        let process =
            runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        random.lock().unwrap().1 = 0;
        for order in (0..ORDERS).filter(|order| order % 20 == round) {
            process.block_on(factum.execute(&Shop::id(name(order)), Place)).unwrap();
        }
        random.lock().unwrap().1 = 30;
        clock.set(BEGIN.plus(Duration::from_secs(300 * round as u64)));
        process.block_on(settled(factum.clone(), reads.clone(), false, kills.u64(1..3000)));
        // Killed, wherever it is.
        drop(process);
    }
    random.lock().unwrap().1 = 0;
    clock.set(BEGIN.plus(Duration::from_secs(100_000)));
    let process = runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    process.block_on(settled(factum, reads, true, 10));
    let mut done = BTreeMap::<String, Vec<String>>::new();
    for event in process.block_on(all(&store.inner)) {
        if event.stream.category() == "shop" {
            done.entry(event.stream.id().to_owned()).or_default().push(event.event_type.to_string());
        }
    }
    assert_eq!(done.len(), ORDERS);
    for (order, done) in done {
        let end: &[&str] = match order.split('-').next() {
            Some("well") => &["Placed", "Reserved", "Charged", "Shipped"],
            Some("broken") => &["Placed", "Reserved", "Charged", "Refunded", "Released", "Cancelled"],
            _ => &["Placed", "Reserved", "Released", "Cancelled"],
        };
        assert_eq!(done, end, "{order}");
    }
}
