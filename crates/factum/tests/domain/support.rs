//! A small domain (accounts, in whole cents), and stores that meddle and fail.
#![allow(dead_code, unreachable_pub, reason = "each user of this file takes what it needs")]

#[path = "around.rs"]
mod around;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use factum::{
    Append, Appended, Error, EventStore, EventStoreExt, Head, Limits, MemoryReads, MemoryStore, Outcome,
    Page, Read, ReadStore, StreamName, StreamState, Token,
    prelude::*,
    reads::{Catalog, Generation, Lease, Step},
};
use tokio::sync::Notify;

#[allow(unused_imports, reason = "each user of this file takes what it needs")]
pub use self::around::{Around, Wrapped};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AccountEvent {
    Opened { cents: i64 },
    Deposited { cents: i64 },
    Withdrawn { cents: i64 },
    Closed,
}

pub use AccountEvent::*;

impl Event for AccountEvent {
    const CATEGORY: &'static str = "account";
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    pub open: bool,
    pub cents: i64,
}

impl Aggregate for Account {
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        match event {
            Opened { cents } => (self.open, self.cents) = (true, *cents),
            Deposited { cents } => self.cents += cents,
            Withdrawn { cents } => self.cents -= cents,
            Closed => self.open = false,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    NotOpen,
    InsufficientFunds,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Refusal {}

#[derive(Debug)]
pub struct Open {
    pub cents: i64,
}

impl Command<Account> for Open {
    type Error = Refusal;

    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Refusal> {
        Ok(if account.open { vec![] } else { vec![Opened { cents: self.cents }] })
    }
}

#[derive(Debug)]
pub struct Deposit {
    pub cents: i64,
}

impl Command<Account> for Deposit {
    type Error = Refusal;

    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Refusal> {
        refuse_if(!account.open, Refusal::NotOpen)?;
        Ok(vec![Deposited { cents: self.cents }])
    }
}

#[derive(Debug)]
pub struct Withdraw {
    pub cents: i64,
}

impl Command<Account> for Withdraw {
    type Error = Refusal;

    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Refusal> {
        refuse_if(!account.open, Refusal::NotOpen)?;
        refuse_if(account.cents < self.cents, Refusal::InsufficientFunds)?;
        Ok(if self.cents == 0 { vec![] } else { vec![Withdrawn { cents: self.cents }] })
    }
}

pub struct Transfer {
    pub from: Id<Account>,
    pub to: Id<Account>,
    pub cents: i64,
}

impl Decide for Transfer {
    type Models = (Entity<Account>, Entity<Account>);
    type Error = Refusal;

    fn models(&self) -> Self::Models {
        (Entity::of(&self.from), Entity::of(&self.to))
    }

    fn decide(&self, (from, to): &Self::Models) -> Result<Writes, Refusal> {
        refuse_if(!from.state.open || !to.state.open, Refusal::NotOpen)?;
        refuse_if(from.state.cents < self.cents, Refusal::InsufficientFunds)?;
        Ok(Writes::to(&self.from, [Withdrawn { cents: self.cents }])
            .and(&self.to, [Deposited { cents: self.cents }]))
    }
}

/// The balance of each account; an account that was closed has none. The version is a parameter.
#[derive(Debug, Default)]
pub struct Balances<const VERSION: u32 = 1>;

impl<const V: u32> Projection for Balances<V> {
    const NAME: &'static str = "balances";
    const VERSION: u32 = V;
    type Event = AccountEvent;
    type Row = i64;

    fn evolve(&self, row: Option<i64>, event: &Recorded<AccountEvent>) -> Option<i64> {
        let cents = row.unwrap_or(0);
        match event.event {
            Opened { cents } => Some(cents),
            Deposited { cents: more } => Some(cents + more),
            Withdrawn { cents: less } => Some(cents - less),
            Closed => None,
        }
    }
}

/// What the balances must be, straight from the log.
pub async fn fold(store: &dyn EventStore) -> Vec<(String, i64)> {
    let mut rows = BTreeMap::new();
    let mut events = Vec::new();
    for record in store.read_to_end(Read::query(Query::category("account"))).await.unwrap() {
        Recorded::decode(record, &mut events).unwrap();
    }
    for event in events {
        let key = event.record.stream.id().to_owned();
        match Balances::<1>.evolve(rows.remove(&key), &event) {
            Some(row) => drop(rows.insert(key, row)),
            None => continue,
        }
    }
    rows.into_iter().collect()
}

/// Writes `events` random events to `accounts` accounts.
pub async fn write_some(
    store: &dyn EventStore,
    random: &mut fastrand::Rng,
    events: usize,
    accounts: u32,
) -> Token {
    let mut token = store.head().await.unwrap().token;
    for _ in 0..events {
        let id = Account::id(format!("{}", random.u32(0..accounts)));
        let event = match random.u8(0..10) {
            0 => Opened { cents: random.i64(0..1000) },
            1 => Closed,
            2..5 => Withdrawn { cents: random.i64(0..100) },
            _ => Deposited { cents: random.i64(0..100) },
        };
        let event = factum::codec::encode(&event).unwrap();
        token = store.append(Append::to(id.stream().unwrap(), [event])).await.unwrap().token;
    }
    token
}

/// A random generator whose seed a failing test prints.
pub fn seeded() -> fastrand::Rng {
    let given = std::env::var("FACTUM_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    #[allow(clippy::print_stdout, reason = "a failing test shows it")]
    {
        println!("seed: {seed} (set FACTUM_TEST_SEED to repeat)");
    }
    fastrand::Rng::with_seed(seed)
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// It does not happen.
    Before,
    /// It happens, but the answer is lost.
    After,
    /// It does not happen, and the store says so.
    Never,
    /// As `Never`, for a reason that does not pass.
    Fenced,
}

pub fn unavailable(outcome: Outcome) -> Error {
    Error::Unavailable { why: "a test broke it".into(), outcome }
}

/// A memory store where other tasks get their turn between any two steps, others write in between, and answers are lost.
#[derive(Clone, Debug, Default)]
pub struct Meddled {
    pub inner: MemoryStore,
    /// One of these is appended by somebody else after each read.
    pub after_read: Arc<Mutex<VecDeque<Append>>>,
    /// One of these goes wrong with each append.
    pub append_faults: Arc<Mutex<VecDeque<Fault>>>,
    /// So many reads fail.
    pub read_faults: Arc<AtomicU64>,
}

#[async_trait]
impl EventStore for Meddled {
    async fn append(&self, append: Append) -> factum::Result<Appended> {
        tokio::task::yield_now().await;
        let fault = self.append_faults.lock().unwrap().pop_front();
        match fault {
            Some(Fault::Before) => return Err(unavailable(Outcome::Unknown)),
            Some(Fault::Never) => return Err(unavailable(Outcome::No)),
            Some(Fault::Fenced) => return Err(Error::Fenced { what: "the log".into(), by: "a test".into() }),
            _ => {}
        }
        let appended = self.inner.append(append).await;
        if fault == Some(Fault::After) {
            return Err(unavailable(Outcome::Unknown));
        }
        appended
    }

    async fn read(&self, read: Read) -> factum::Result<Page> {
        let left = self.read_faults.load(Ordering::SeqCst);
        if left > 0 {
            self.read_faults.store(left - 1, Ordering::SeqCst);
            return Err(unavailable(Outcome::No));
        }
        let page = self.inner.read(read).await;
        let intruder = self.after_read.lock().unwrap().pop_front();
        if let Some(intruder) = intruder {
            self.inner.append(intruder).await.unwrap();
        }
        tokio::task::yield_now().await;
        page
    }

    async fn head(&self) -> factum::Result<Head> {
        self.inner.head().await
    }

    async fn stream_state(&self, stream: &StreamName) -> factum::Result<StreamState> {
        self.inner.stream_state(stream).await
    }

    async fn changed(&self, position: Position) {
        self.inner.changed(position).await;
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }
}

/// A read store in which one call goes wrong: after that it is dead, or as before.
#[derive(Clone, Debug)]
pub struct Faulty<R = MemoryReads> {
    pub inner: R,
    calls: Arc<AtomicU64>,
    at: u64,
    fault: Fault,
    for_ever: bool,
    pub struck: Arc<Notify>,
}

impl<R: ReadStore> Faulty<R> {
    pub fn new(inner: R, at: u64, fault: Fault, for_ever: bool) -> Wrapped<Self> {
        Wrapped(Self { inner, calls: Arc::default(), at, fault, for_ever, struck: Arc::default() })
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    async fn call<T>(&self, call: impl Future<Output = factum::Result<T>> + Send) -> factum::Result<T> {
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        let broken = n == self.at || (self.for_ever && n > self.at);
        if !broken {
            return call.await;
        }
        if n == self.at && self.fault == Fault::After {
            call.await?;
        }
        self.struck.notify_one();
        Err(unavailable(Outcome::Unknown))
    }
}

#[async_trait]
impl<R: ReadStore> Around for Faulty<R> {
    fn inner(&self) -> &dyn ReadStore {
        &self.inner
    }
    async fn catalog(&self, model: &str) -> factum::Result<Catalog> {
        self.call(self.inner.catalog(model)).await
    }
    async fn create(&self, lease: &Lease, version: u32) -> factum::Result<Generation> {
        self.call(self.inner.create(lease, version)).await
    }
    async fn discard(&self, lease: &Lease) -> factum::Result<()> {
        self.call(self.inner.discard(lease)).await
    }
    async fn activate(&self, lease: &Lease, generation: u32) -> factum::Result<()> {
        self.call(self.inner.activate(lease, generation)).await
    }
    async fn commit(&self, lease: &Lease, step: Step) -> factum::Result<()> {
        self.call(self.inner.commit(lease, step)).await
    }
    async fn rows(
        &self,
        model: &str,
        generation: u32,
        keys: Vec<String>,
    ) -> factum::Result<Vec<Option<String>>> {
        self.call(self.inner.rows(model, generation, keys)).await
    }
}
