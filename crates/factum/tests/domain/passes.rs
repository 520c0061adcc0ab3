//! Several read models in one pass of the log. Run on every store of read models: `crate::reads()`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use factum::{
    Append, Appended, Error, EventStore, Head, Limits, MemoryStore, Page, Read, ReadStore, State, StreamName,
    StreamState, Token,
    prelude::*,
    read::Source,
    reads::{Lease, Step},
};
use tokio::sync::Semaphore;

use crate::{
    reads,
    support::*,
    views::{Steps, append, head, in_time, until, walked},
};

const LONG: Duration = Duration::from_secs(30);

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

/// Cannot read walks together with anything else, or cannot read them at all.
#[derive(Clone, Debug)]
struct Narrow {
    store: MemoryStore,
    walks: bool,
}

#[async_trait]
impl EventStore for Narrow {
    async fn append(&self, append: Append) -> factum::Result<Appended> {
        self.store.append(append).await
    }
    async fn read(&self, read: Read) -> factum::Result<Page> {
        if let Source::Query(query) = &read.source {
            let of = |category: &str| query == &Query::category(category);
            if !(of("counted") || self.walks && of("walk")) {
                return Err(Error::invalid("the query", "there are walks in it"));
            }
        }
        self.store.read(read).await
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
    pub(crate) fn new(inner: impl ReadStore) -> Wrapped<Self> {
        Wrapped(Self { inner: Arc::new(inner), open: Arc::new(Semaphore::new(0)), waiting: Arc::default() })
    }

    pub(crate) fn open(&self) {
        self.open.add_permits(1_000_000);
    }
}

#[async_trait]
impl Around for Gated {
    fn inner(&self) -> &dyn ReadStore {
        &*self.inner
    }
    async fn commit(&self, lease: &Lease, step: Step) -> factum::Result<()> {
        self.waiting.fetch_add(1, SeqCst);
        self.open.acquire().await.unwrap().forget();
        self.inner.commit(lease, step).await
    }
}

/// Something that happens, so and so often.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Counted {
    Happened { n: i64 },
}

impl Event for Counted {
    const CATEGORY: &'static str = "counted";
}

/// The same, and it counts how often it is decoded. One test alone uses it: the tests beside it may run in the same process.
#[derive(Serialize)]
pub(crate) enum Tallied {
    Happened { n: i64 },
}

static DECODED: AtomicUsize = AtomicUsize::new(0);

impl<'de> Deserialize<'de> for Tallied {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename = "Tallied")]
        enum Inner {
            Happened { n: i64 },
        }
        let Inner::Happened { n } = Inner::deserialize(deserializer)?;
        DECODED.fetch_add(1, SeqCst);
        Ok(Self::Happened { n })
    }
}

impl Event for Tallied {
    const CATEGORY: &'static str = "tallied";
}

macro_rules! sums {
    ($($event:ident: $sum:ident $name:literal $factor:literal;)*) => {$(
        pub(crate) struct $sum;
        impl Projection for $sum {
            const NAME: &'static str = $name;
            type Event = $event;
            type Row = i64;
            fn evolve(&self, row: Option<i64>, event: &Recorded<$event>) -> Option<i64> {
                let $event::Happened { n } = event.event;
                Some(row.unwrap_or(0) + $factor * n)
            }
        }
    )*};
}
sums! {
    Counted: Once "once" 1;
    Counted: Twice "twice" 2;
    Counted: Thrice "thrice" 3;
    Tallied: TallyOnce "tally_once" 1;
    Tallied: TallyTwice "tally_twice" 2;
}

/// It asks for the same events in other words.
struct Kinds;

impl Projection for Kinds {
    const NAME: &'static str = "kinds";
    type Event = Tallied;
    type Row = i64;

    fn query(&self) -> factum::Result<Query> {
        Query::types(["Happened"])
    }

    fn evolve(&self, row: Option<i64>, event: &Recorded<Tallied>) -> Option<i64> {
        TallyOnce.evolve(row, event)
    }
}

pub(crate) async fn counted(store: &dyn EventStore, events: i64) -> Token {
    append(store, "counted-1", (0..events).map(|n| Counted::Happened { n })).await
}

async fn tallied(store: &dyn EventStore, events: i64) -> Token {
    append(store, "tallied-1", (0..events).map(|n| Tallied::Happened { n })).await
}

#[tokio::test]
async fn in_one_pass_an_event_is_read_once_and_decoded_once() {
    let store = Counting::default();
    let factum = Factum::new(store.clone());
    for _ in 0..5 {
        tallied(&store, 2400).await;
        write_some(&store, &mut seeded(), 100, 5).await;
    }
    let (pass, reads) = (factum.pass(), reads());
    let once = pass.project(TallyOnce, reads.clone()).await.unwrap();
    let twice = pass.project(TallyTwice, reads.clone()).await.unwrap();
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
    // One that writes far away may be left behind on a busy machine, and reads on by itself then.
    let once_each =
        |counted: (usize, usize), expected| assert!(counted == expected || !crate::NEAR, "{counted:?}");
    once_each((store.events.load(SeqCst), DECODED.load(SeqCst)), (12_500, 12_000));
    let sum = once.get("1").await.unwrap().unwrap();
    assert_eq!(twice.get("1").await.unwrap(), Some(2 * sum));

    // Event by event, too.
    for _ in 0..20 {
        let end = tallied(&store, 1).await;
        once.wait_for_within(end, LONG).await.unwrap();
        twice.wait_for_within(end, LONG).await.unwrap();
        balances.wait_for_within(end, LONG).await.unwrap();
        kinds.wait_for_within(end, LONG).await.unwrap();
    }
    once_each((store.events.load(SeqCst), DECODED.load(SeqCst)), (12_520, 12_020));

    // A rebuild reads for itself, and is then together with the others again.
    once.rebuild().await.unwrap();
    let end = tallied(&store, 1).await;
    once.wait_for_within(end, LONG).await.unwrap();
    twice.wait_for_within(end, LONG).await.unwrap();
    balances.wait_for_within(end, LONG).await.unwrap();
    until(async || twice.status().await.unwrap().state == State::Live).await;
    store.events.store(0, SeqCst);
    let end = tallied(&store, 100).await;
    once.wait_for_within(end, LONG).await.unwrap();
    twice.wait_for_within(end, LONG).await.unwrap();
    balances.wait_for_within(end, LONG).await.unwrap();
    kinds.wait_for_within(end, LONG).await.unwrap();
    // `status` looks into the log as well.
    once_each((store.events.load(SeqCst), 100), (100, 100));
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
async fn what_cannot_be_read_for_all_is_read_for_each() {
    for walks in [true, false] {
        let inner = MemoryStore::new();
        let store = Narrow { store: inner.clone(), walks };
        let factum = Factum::new(store.clone());
        counted(&store, 1500).await;
        walked(&inner, &[1, 2]).await;
        let end = counted(&store, 1).await;
        let (pass, reads) = (factum.pass(), reads());
        let once = pass.project(Once, reads.clone()).await.unwrap();
        let steps = pass.project(Steps::default(), reads.clone()).await.unwrap();
        pass.start();
        once.wait_for_within(end, LONG).await.unwrap();
        let done = steps.wait_for_within(end, LONG).await;
        assert_eq!(done.is_ok(), walks, "{done:?}");
        // As long as the others go on, and afterwards.
        once.wait_for_within(counted(&store, 1).await, LONG).await.unwrap();
        assert_eq!(once.get("1").await.unwrap(), Some((0..1500).sum::<i64>()));
        assert_eq!(steps.get("steps").await.unwrap(), walks.then_some(3));
    }
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
