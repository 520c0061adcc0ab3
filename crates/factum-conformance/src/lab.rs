//! Where a case runs: a fresh store of the harness, and the few words that all cases share.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use factum::{
    Append, Appended, Clock, Delivery, Error, EventStore, EventStoreExt, LogIdentity, ManualClock, NewEvent,
    Query, Read, RecordedEvent, Result, StreamName, Subscription, Tags, Timestamp, Token, append::Limits,
};

/// How long a case may take before it counts as hung.
const HUNG: Duration = Duration::from_secs(60);

/// What the author of a store implements, so that the suite can try it.
///
/// One harness serves one case: it is made by `Default`, asked once to [`open`](Harness::open), and dropped at the end of the
/// case, when it SHOULD remove what it put on a disk or into a database. Cases run at the same time.
#[async_trait]
pub trait Harness: fmt::Debug + Send + Sync + 'static {
    /// Opens a new and empty store that takes at most `limits`.
    ///
    /// # Errors
    /// Whatever keeps the store from opening; the case fails with it.
    async fn open(&mut self, limits: Limits) -> Result<Arc<dyn EventStore>>;

    /// Whether an acknowledged append of this store survives a power cut, so that its acks must say
    /// [`Durability::Synced`](factum::Durability::Synced).
    fn durable(&self) -> bool;

    /// Whether [`reopen`](Harness::reopen) works: the data outlives the store that wrote it.
    fn reopens(&self) -> bool {
        false
    }

    /// Closes `store`, cleanly or by dropping it, and opens the same data again. Called only if [`reopens`](Harness::reopens).
    ///
    /// # Errors
    /// Whatever keeps the store from opening; the case fails with it.
    async fn reopen(&mut self, store: Arc<dyn EventStore>) -> Result<Arc<dyn EventStore>> {
        Ok(store)
    }

    /// The clock that the store takes its time from, if the harness gave it one that a test can set.
    fn clock(&self) -> Option<Arc<ManualClock>> {
        None
    }

    /// Begins a new epoch, as a restore from a backup would, and says whether it could.
    fn begin_epoch(&self) -> bool {
        false
    }
}

/// The bench on which one case tries one store.
#[derive(Debug)]
pub struct Lab {
    harness: Box<dyn Harness>,
    fresh: fn() -> Box<dyn Harness>,
    /// The store that is tried.
    pub store: Arc<dyn EventStore>,
}

/// Runs one case on a store of its own, within a runtime of two threads, and fails if it hangs. [`suite!`](crate::suite) calls it.
///
/// # Panics
/// If the store breaks its promise, or cannot be opened.
#[allow(clippy::print_stderr, reason = "a case that was skipped must not look as if it had been tried")]
pub fn run<F>(fresh: fn() -> Box<dyn Harness>, case: impl FnOnce(Lab) -> F)
where
    F: Future<Output = Result<Tried>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.expect("a runtime for the case").block_on(async {
        tokio::time::timeout(HUNG, async { case(Lab::with(fresh, Limits::default()).await?).await }).await
    });
    match outcome {
        Ok(Ok(Tried::Yes)) => {}
        Ok(Ok(Tried::Skipped(why))) => eprintln!("skipped: {why}"),
        Ok(Err(error)) => panic!("the store answered with an error where it must not: {error} ({error:?})"),
        Err(_) => panic!("the store did not answer within {} seconds", HUNG.as_secs()),
    }
}

/// Whether a case could be tried on a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// It was tried, and held.
    Yes,
    /// The harness lacks what the case needs.
    Skipped(&'static str),
}

impl Lab {
    async fn with(fresh: fn() -> Box<dyn Harness>, limits: Limits) -> Result<Self> {
        let mut harness = fresh();
        let store = harness.open(limits).await?;
        Ok(Self { harness, fresh, store })
    }

    /// Another lab, with a store of its own.
    ///
    /// # Errors
    /// Those of [`Harness::open`].
    pub async fn another(&self, limits: Limits) -> Result<Self> {
        Self::with(self.fresh, limits).await
    }

    /// Closes the store and opens it again; `None` if the harness cannot.
    ///
    /// # Errors
    /// Those of [`Harness::reopen`].
    pub async fn reopened(self) -> Result<Option<Self>> {
        let Self { mut harness, fresh, store } = self;
        if !harness.reopens() {
            return Ok(None);
        }
        let store = harness.reopen(store).await?;
        Ok(Some(Self { harness, fresh, store }))
    }

    /// The harness.
    pub fn harness(&self) -> &dyn Harness {
        &*self.harness
    }

    /// The clock of the store, standing at `seconds` after the epoch of UNIX times, if a test can set it.
    pub fn clock(&self) -> Option<TestClock> {
        self.harness.clock().map(TestClock)
    }

    /// Appends.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn append(&self, append: Append) -> Result<Appended> {
        self.store.append(append).await
    }

    /// Appends so many events of the type `Happened` to a stream, unconditionally.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write(&self, name: &str, count: usize) -> Result<Appended> {
        self.append(Append::to(stream(name), events("Happened", count))).await
    }

    /// Sends an append that must be refused, and checks that nothing of it happened.
    ///
    /// # Errors
    /// Those of reading the log.
    ///
    /// # Panics
    /// If the append is not refused, or something of it can be seen afterwards.
    pub async fn refused(&self, append: Append) -> Result<Error> {
        let before = (self.head().await?, self.all().await?.len());
        let text = format!("{append:?}");
        let Err(error) = self.store.append(append).await else {
            panic!("this append must be refused, but it was acknowledged: {:.2000}", text)
        };
        let after = (self.head().await?, self.all().await?.len());
        assert_eq!(before, after, "the append was refused ({error}), but something was written");
        Ok(error)
    }

    /// Every visible event.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn all(&self) -> Result<Vec<RecordedEvent>> {
        self.store.read_to_end(Read::all()).await
    }

    /// Every visible event of a stream.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn of(&self, name: &str) -> Result<Vec<RecordedEvent>> {
        self.store.read_to_end(Read::stream(stream(name))).await
    }

    /// The end of the log.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn head(&self) -> Result<Token> {
        Ok(self.store.head().await?.token)
    }

    /// Which log it is.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn log(&self) -> Result<LogIdentity> {
        Ok(self.head().await?.log)
    }

    /// A subscription to what matches.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn subscribe(&self, query: Query, from: Option<Token>) -> Result<Subscription> {
        factum::subscribe(self.store.clone(), query, from).await
    }
}

/// A clock of which a case knows only seconds.
#[derive(Clone, Debug)]
pub struct TestClock(Arc<ManualClock>);

impl TestClock {
    /// Sets the clock, forwards or backwards.
    pub fn set(&self, seconds: i64) {
        self.0.set(second(seconds));
    }

    /// What it shows.
    pub fn now(&self) -> Timestamp {
        self.0.now()
    }
}

/// So many seconds after the epoch of UNIX times.
pub fn second(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1_000_000)
}

/// A stream's name that is known to be good.
///
/// # Panics
/// If it is not.
pub fn stream(name: &str) -> StreamName {
    StreamName::new(name).expect("the case uses good names")
}

/// An event with a new id and a little JSON.
///
/// # Panics
/// If the type's name is bad.
pub fn event(kind: &str) -> NewEvent {
    NewEvent::json(kind, &serde_json::json!({ "kind": kind })).expect("the case makes good events")
}

/// Events that count from 0 in their data.
///
/// # Panics
/// If the type's name is bad.
pub fn events(kind: &str, count: usize) -> Vec<NewEvent> {
    let numbered =
        |n| NewEvent::json(kind, &serde_json::json!({ "n": n })).expect("the case makes good events");
    (0..count).map(numbered).collect()
}

/// An event with tags.
///
/// # Panics
/// If the type's name or a tag is bad.
pub fn tagged(kind: &str, tags: &[&str]) -> NewEvent {
    event(kind).with_tags(Tags::new(tags).expect("the case uses good tags"))
}

/// The query for events that have all of these tags.
///
/// # Panics
/// If a tag is bad.
pub fn tags(tags: &[&str]) -> Query {
    Query::tags(tags).expect("the case uses good tags")
}

/// Takes from a subscription until it has caught up; returns the events on the way.
///
/// # Errors
/// Those of the store.
///
/// # Panics
/// If a delivery breaks the order or moves backwards.
pub async fn catch_up(subscription: &mut Subscription) -> Result<Vec<RecordedEvent>> {
    let mut seen = Vec::new();
    while !take(subscription, &mut seen).await? {}
    Ok(seen)
}

/// Takes from a subscription until `count` events have come in all.
///
/// # Errors
/// Those of the store.
///
/// # Panics
/// As [`catch_up`].
pub async fn take_until(
    subscription: &mut Subscription,
    seen: &mut Vec<RecordedEvent>,
    count: usize,
) -> Result<()> {
    while seen.len() < count {
        take(subscription, seen).await?;
    }
    Ok(())
}

/// Takes one delivery; says whether it was `CaughtUp`.
async fn take(subscription: &mut Subscription, seen: &mut Vec<RecordedEvent>) -> Result<bool> {
    let before = seen.last().map(|event| event.position).unwrap_or_default();
    match subscription.next().await? {
        Delivery::Events { events, token } => {
            assert!(!events.is_empty(), "a delivery of events held none");
            let mut last = before;
            for event in &events {
                assert!(
                    event.position > last,
                    "position {} was delivered after position {last}",
                    event.position
                );
                last = event.position;
            }
            assert!(
                token.position >= last,
                "the checkpoint {token} lies before the event at {last} that came with it"
            );
            seen.extend(events);
            Ok(false)
        }
        Delivery::LookedTo(token) => {
            assert!(token.position > before, "LookedTo({token}) does not move beyond {before}");
            Ok(false)
        }
        Delivery::CaughtUp(_) => Ok(true),
        Delivery::FellBehind(_) => Ok(false),
    }
}
