//! A domain of orders, a handler that can be told to fail, and stores of read models that fail.
#![allow(unreachable_pub, reason = "each module of this test takes what it needs")]

#[path = "../domain/around.rs"]
mod around;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use factum::{
    Append, Error, EventHandler, MemoryReads, MemoryStore, NewEvent, Outcome, Parked, Processor, ReadStore,
    StreamName, Token, Trouble,
    prelude::*,
    reads::{Catalog, Holds, Lease, Step},
};

pub use self::around::{Around, Wrapped};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum OrderEvent {
    Placed { n: u64 },
    Paid { n: u64 },
}

impl Event for OrderEvent {
    const CATEGORY: &'static str = "order";
}

/// What a handler has done: each stream with the numbers of its events, as often as they came.
#[derive(Clone, Debug, Default)]
pub struct Ledger(pub Arc<Mutex<BTreeMap<String, Vec<u64>>>>);

impl Ledger {
    pub fn of(&self, stream: &str) -> Vec<u64> {
        self.0.lock().unwrap().get(stream).cloned().unwrap_or_default()
    }

    pub fn all(&self) -> BTreeMap<String, Vec<u64>> {
        self.0.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.0.lock().unwrap().values().map(Vec::len).sum()
    }

    pub fn note(&self, stream: &str, n: u64) {
        self.0.lock().unwrap().entry(stream.to_owned()).or_default().push(n);
    }
}

/// Notes what it is given, unless it was told to fail.
#[derive(Clone, Default)]
pub struct Shipping {
    pub done: Ledger,
    /// Events with these numbers are refused.
    pub poison: Arc<Mutex<BTreeSet<u64>>>,
    /// Events with these numbers make it panic.
    pub explosive: Arc<Mutex<BTreeSet<u64>>>,
    /// For events with these numbers it says that what it needs is not there.
    pub lost: Arc<Mutex<BTreeSet<u64>>>,
    /// What it needs is not there.
    pub down: Arc<AtomicBool>,
    /// How often it was called.
    pub calls: Arc<AtomicUsize>,
}

#[factum::async_trait]
impl EventHandler for Shipping {
    const NAME: &'static str = "shipping";
    type Event = OrderEvent;

    async fn handle(&self, event: &Recorded<OrderEvent>) -> Result<(), Trouble> {
        self.calls.fetch_add(1, SeqCst);
        let (OrderEvent::Placed { n } | OrderEvent::Paid { n }) = event.event;
        if self.down.load(SeqCst) || self.lost.lock().unwrap().contains(&n) {
            return Err(Trouble::infrastructure("the carrier cannot be reached"));
        }
        assert!(!self.explosive.lock().unwrap().contains(&n), "number {n} explodes");
        if self.poison.lock().unwrap().contains(&n) {
            return Err(Trouble::refused(format!("nobody ships {n}")));
        }
        self.done.note(&event.record.stream, n);
        Ok(())
    }
}

impl Shipping {
    pub fn poisoned_by(numbers: impl IntoIterator<Item = u64>) -> Self {
        let shipping = Self::default();
        shipping.poison.lock().unwrap().extend(numbers);
        shipping
    }

    pub fn mend(&self) {
        self.poison.lock().unwrap().clear();
    }
}

pub fn factum() -> Factum {
    Factum::new(MemoryStore::new())
}

/// Records an event of the order for each number.
pub async fn place(factum: &Factum, stream: &str, numbers: impl IntoIterator<Item = u64>) -> Token {
    let events =
        numbers.into_iter().map(|n| NewEvent::json("Placed", &serde_json::json!({ "n": n })).unwrap());
    let append = Append::to(StreamName::new(stream.to_owned()).unwrap(), events);
    factum.store().append(append).await.unwrap().token
}

/// Waits until this is so. A test in which it never is ends by the bound.
pub async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let waited = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waited).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// The keys of what is set aside, without the category.
pub async fn keys(parked: &Parked) -> Vec<String> {
    let letters = parked.list().await.unwrap();
    letters.iter().map(|letter| letter.key.trim_start_matches("order-").to_owned()).collect()
}

/// Everything up to here is handled or set aside, and nothing is tried again by itself.
pub async fn settled(processor: &Processor, to: Token) {
    processor.wait_for(to).await.unwrap();
    until("it has settled", || async {
        let letters = processor.parked().list().await.unwrap();
        letters.iter().all(|letter| letter.standing != factum::handler::Standing::Retrying)
    })
    .await;
}

/// A store of read models whose commits fail, before or after they take effect, when they are told to.
#[derive(Clone, Debug)]
pub struct Failing {
    pub inner: MemoryReads,
    /// Commits up to now.
    pub commits: Arc<AtomicUsize>,
    /// The commit that fails, and whether it takes effect all the same.
    pub at: Arc<Mutex<Option<(usize, bool)>>>,
    /// Whether steps with dead letters are refused.
    pub no_letters: Arc<AtomicBool>,
    /// Whether it cannot be reached by anybody who holds a name or would.
    pub away: Arc<AtomicBool>,
    /// Whether it answers to nobody who would hold a name.
    pub holds_lost: Arc<AtomicBool>,
    /// So many times it does not say what it knows of a model.
    pub untold: Arc<AtomicUsize>,
}

impl Failing {
    pub fn new() -> Wrapped<Self> {
        let (commits, at, no_letters, away, holds_lost, untold) = Default::default();
        Wrapped(Self { inner: MemoryReads::new(), commits, at, no_letters, away, holds_lost, untold })
    }
}

fn down() -> Error {
    Error::Unavailable { why: "the cable is out".into(), outcome: Outcome::Unknown }
}

#[factum::async_trait]
impl Around for Failing {
    fn inner(&self) -> &dyn ReadStore {
        &self.inner
    }
    async fn catalog(&self, model: &str) -> factum::Result<Catalog> {
        match self.untold.try_update(SeqCst, SeqCst, |times| times.checked_sub(1)) {
            Ok(_) => Err(down()),
            Err(_) => self.inner.catalog(model).await,
        }
    }
    async fn commit(&self, lease: &Lease, step: Step) -> factum::Result<()> {
        if self.no_letters.load(SeqCst) && !step.letters.is_empty() {
            return Err(down());
        }
        let n = self.commits.fetch_add(1, SeqCst);
        let fails = *self.at.lock().unwrap();
        match fails {
            Some((at, false)) if at == n => Err(down()),
            Some((at, true)) if at == n => self.inner.commit(lease, step).await.and(Err(down())),
            _ => self.inner.commit(lease, step).await,
        }
    }
    fn holds(&self) -> &dyn Holds {
        self
    }
}

#[factum::async_trait]
impl Holds for Failing {
    async fn hold(&self, name: &str, holder: &str, ttl: Duration) -> factum::Result<factum::reads::Hold> {
        if self.away.load(SeqCst) {
            return Err(down());
        }
        if self.holds_lost.load(SeqCst) {
            // A connection that hangs.
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        self.inner.holds().hold(name, holder, ttl).await
    }
    async fn let_go(&self, name: &str, holder: &str) -> factum::Result<()> {
        if self.away.load(SeqCst) {
            return Err(down());
        }
        self.inner.holds().let_go(name, holder).await
    }
    async fn held(&self, prefix: &str) -> factum::Result<Vec<factum::reads::Hold>> {
        self.inner.holds().held(prefix).await
    }
}
