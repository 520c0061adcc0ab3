//! A small domain (accounts, in whole cents), and a store that meddles.
#![allow(dead_code, reason = "each user of this file takes what it needs")]

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use factum::{
    Append, Appended, Error, EventStore, Head, Limits, MemoryStore, Outcome, Page, Read, StreamName,
    StreamState, prelude::*,
};

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

pub struct Open {
    pub cents: i64,
}

impl Command<Account> for Open {
    type Error = Refusal;

    fn decide(&self, account: &Account) -> Result<Vec<AccountEvent>, Refusal> {
        Ok(if account.open { vec![] } else { vec![Opened { cents: self.cents }] })
    }
}

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

/// A random generator whose seed a failing test prints.
pub fn seeded() -> fastrand::Rng {
    let given = std::env::var("FACTUM_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("seed: {seed} (set FACTUM_TEST_SEED to repeat)");
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
