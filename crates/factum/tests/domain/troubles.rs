//! Read models when something is in the way: stores that fail or are busy, panics, other versions, other logs. Run on every
//! store of read models: `crate::reads()`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use factum::{
    Append, Appended, Error, EventStore, EventStoreExt, ExpectedRevision, Head, Limits, MemoryStore,
    NewEvent, Outcome, Page, Read, ReadStore, Retention, State, StreamName, StreamState, Token,
    prelude::*,
    read::Start,
    reads::{Lease, Step},
};
use tokio::{
    runtime::{Builder, Handle},
    sync::{Notify, Semaphore, mpsc},
};

use crate::{reads, support::*};

const LONG: Duration = Duration::from_secs(30);

/// What does not end in time does not end.
async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.unwrap()
}

fn one(account: u64) -> Append {
    let event = factum::codec::encode(&Deposited { cents: 1 }).unwrap();
    Append::to(StreamName::new(format!("account-{account}")).unwrap(), [event])
}

async fn deposits(count: u64) -> (MemoryStore, Factum) {
    let store = MemoryStore::new();
    for n in 0..count {
        store.append(one(n % 7)).await.unwrap();
    }
    (store.clone(), Factum::new(store))
}

async fn head(store: &MemoryStore) -> Token {
    store.head().await.unwrap().token
}

async fn deposit(store: &MemoryStore) -> Token {
    store.append(one(1)).await.unwrap().token
}

/// A read store that fails when it is told to.
#[derive(Clone, Debug)]
struct Unsteady {
    inner: Arc<dyn ReadStore>,
    /// Commits fail.
    down: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    /// Commits wait here, and go on when nobody waits for them any more, as a thread's do.
    gate: Option<Arc<Gate>>,
}

#[derive(Debug)]
struct Gate {
    open: Semaphore,
    begun: Notify,
    ended: mpsc::UnboundedSender<factum::Result<()>>,
    runtime: Handle,
}

impl Unsteady {
    fn new(inner: impl ReadStore) -> Wrapped<Self> {
        let (commits, refused) = Default::default();
        Wrapped(Self { inner: Arc::new(inner), down: Arc::default(), commits, refused, gate: None })
    }
}

#[async_trait]
impl Around for Unsteady {
    fn inner(&self) -> &dyn ReadStore {
        &*self.inner
    }
    async fn commit(&self, lease: &Lease, step: Step) -> factum::Result<()> {
        if self.down.load(SeqCst) {
            self.refused.fetch_add(1, SeqCst);
            // Who watches gets a look at what it says between two attempts.
            tokio::task::yield_now().await;
            return Err(Error::Unavailable { why: "the cable is out".into(), outcome: Outcome::No });
        }
        self.commits.fetch_add(1, SeqCst);
        let Some(gate) = self.gate.clone() else { return self.inner.commit(lease, step).await };
        let (inner, lease, runtime) = (self.inner.clone(), lease.clone(), gate.runtime.clone());
        gate.begun.notify_one();
        let work = async move {
            let _open = gate.open.acquire().await;
            let committed = inner.commit(&lease, step).await;
            let _ = gate.ended.send(committed.clone());
            committed
        };
        runtime.spawn(work).await.unwrap()
    }
}

#[tokio::test]
async fn while_the_read_store_is_down_it_says_so_and_can_be_stopped() {
    let (store, factum) = deposits(3).await;
    let reads = Unsteady::new(reads());
    let balances = factum.project(Balances::<1>, reads.clone()).await.unwrap();
    balances.wait_for_within(head(&store).await, LONG).await.unwrap();
    reads.down.store(true, SeqCst);
    let done = deposit(&store).await;
    let state = in_time(async {
        loop {
            match balances.status().await.unwrap().state {
                state @ State::Waiting(_) => break state,
                _ => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert!(state.to_string().contains("the cable is out"), "{state}");
    let late = balances.wait_for_within(done, Duration::from_millis(10)).await.unwrap_err();
    assert!(matches!(late, Error::Timeout { .. }) && late.to_string().contains("the cable is out"), "{late}");
    let before = reads.refused.load(SeqCst);
    in_time(async {
        while reads.refused.load(SeqCst) < before + 3 {
            let state = balances.status().await.unwrap().state;
            assert!(matches!(state, State::Waiting(_)), "it says so all the time: {state}");
            tokio::task::yield_now().await;
        }
    })
    .await;
    reads.down.store(false, SeqCst);
    balances.wait_for_within(done, LONG).await.unwrap();

    reads.down.store(true, SeqCst);
    let done = deposit(&store).await;
    balances.wait_for_within(done, Duration::from_millis(20)).await.unwrap_err();
    in_time(balances.stop()).await;
    assert!(matches!(balances.status().await.unwrap().state, State::Stopped(_)));
}

#[tokio::test]
async fn a_place_that_the_log_does_not_have_is_not_waited_for() {
    let (store, factum) = deposits(3).await;
    let balances = factum.project(Balances::<1>, reads()).await.unwrap();
    let head = head(&store).await;
    let past = head.log.at(Position(head.position.0 + 100));
    let refused = balances.wait_for(past).await.unwrap_err();
    assert!(matches!(refused, Error::LogRewound(_)), "{refused}");
}

/// A row that cannot be read back once it is 2.
#[derive(Serialize)]
struct Bomb(i64);

impl<'de> Deserialize<'de> for Bomb {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let n = i64::deserialize(deserializer)?;
        assert!(n < 2, "a bug in a row's serde");
        Ok(Self(n))
    }
}

struct Bombs;

impl Projection for Bombs {
    const NAME: &'static str = "bombs";
    type Event = AccountEvent;
    type Row = Bomb;

    fn evolve(&self, row: Option<Bomb>, _: &Recorded<AccountEvent>) -> Option<Bomb> {
        Some(Bomb(row.map_or(0, |row| row.0) + 1))
    }
}

/// An event whose tale cannot be told.
#[derive(Debug)]
struct Untold;

impl Serialize for Untold {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit_variant("Untold", 0, "Deposited")
    }
}

impl<'de> Deserialize<'de> for Untold {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("a bug in an event's serde")
    }
}

impl Event for Untold {
    const CATEGORY: &'static str = "account";
}

struct Tales;

impl Projection for Tales {
    const NAME: &'static str = "tales";
    type Event = Untold;
    type Row = i64;

    fn evolve(&self, _: Option<i64>, _: &Recorded<Untold>) -> Option<i64> {
        None
    }
}

#[tokio::test]
async fn a_panic_anywhere_in_the_keeping_stops_it_with_a_reason() {
    let (store, factum) = deposits(0).await;
    let reads = reads();
    let bombs = factum.project(Bombs, reads.clone()).await.unwrap();
    for _ in 0..2 {
        bombs.wait_for_within(deposit(&store).await, LONG).await.unwrap();
    }
    // Begun anew, it has no row in memory.
    bombs.stop().await;
    let bombs = factum.project(Bombs, reads.clone()).await.unwrap();
    let tales = factum.project(Tales, reads.clone()).await.unwrap();
    let end = deposit(&store).await;
    let stopped = bombs.wait_for_within(end, LONG).await.unwrap_err();
    assert!(stopped.to_string().contains("a bug in a row's serde") && !stopped.is_retryable(), "{stopped}");
    assert_eq!(bombs.status().await.unwrap().state, State::Stopped(stopped));
    let stopped = tales.wait_for_within(end, LONG).await.unwrap_err();
    assert!(stopped.to_string().contains("a bug in an event's serde"), "{stopped}");
    assert_eq!(tales.status().await.unwrap().state, State::Stopped(stopped.clone()));
    assert_eq!(in_time(tales.rebuild()).await, Err(stopped), "a rebuild panics too, and says so");
    // The store goes on.
    let balances = factum.project(Balances::<1>, reads).await.unwrap();
    balances.wait_for_within(end, LONG).await.unwrap();
    in_time(bombs.rebuild()).await.expect("it starts without a row to read back");
}

struct Order;

impl Projection for Order {
    const NAME: &'static str = "order";
    type Event = AccountEvent;
    type Row = i64;

    fn evolve(&self, row: Option<i64>, _: &Recorded<AccountEvent>) -> Option<i64> {
        Some(row.unwrap_or(0) + 1)
    }
}

#[tokio::test]
async fn a_name_may_be_a_word_of_sql() {
    let (store, factum) = deposits(2).await;
    let order = factum.project(Order, reads()).await.unwrap();
    order.wait_for_within(head(&store).await, LONG).await.unwrap();
    order.rebuild().await.unwrap();
    assert_eq!(order.get("1").await.unwrap(), Some(1));
}

/// A store whose reads near the end are done at once, and find something new for as long as it is busy; reads far from the end
/// take a while. All of them fail when it is told so.
#[derive(Clone, Debug, Default)]
struct Uneven {
    down: Arc<AtomicBool>,
    failed: Arc<AtomicU64>,
    store: MemoryStore,
    old: u64,
    busy: Arc<AtomicBool>,
    /// Wakes who waits for news, without any.
    nudge: Arc<Notify>,
}

#[async_trait]
impl EventStore for Uneven {
    async fn append(&self, append: Append) -> factum::Result<Appended> {
        self.store.append(append).await
    }
    async fn read(&self, read: Read) -> factum::Result<Page> {
        if self.down.load(SeqCst) {
            self.failed.fetch_add(1, SeqCst);
            return Err(unavailable(Outcome::No));
        }
        let near_the_end = matches!(&read.start, Start::Beyond(token) if token.position.0 >= self.old);
        if !near_the_end {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
        } else if self.busy.load(SeqCst) {
            self.store.append(one(1)).await?;
        }
        self.store.read(read).await
    }
    async fn head(&self) -> factum::Result<Head> {
        if self.down.load(SeqCst) {
            return Err(unavailable(Outcome::No));
        }
        self.store.head().await
    }
    async fn stream_state(&self, stream: &StreamName) -> factum::Result<StreamState> {
        self.store.stream_state(stream).await
    }
    async fn changed(&self, beyond: Position) {
        tokio::select! {
            () = self.store.changed(beyond) => {}
            () = self.nudge.notified() => {}
        }
    }
    fn limits(&self) -> Limits {
        self.store.limits()
    }
}

#[tokio::test]
async fn a_rebuild_goes_on_however_busy_the_log_is() {
    let (store, _) = deposits(3000).await;
    let old = head(&store).await.position.0;
    let uneven = Uneven { store: store.clone(), old, ..Uneven::default() };
    let balances = Factum::new(uneven.clone()).project(Balances::<1>, reads()).await.unwrap();
    balances.wait_for_within(head(&store).await, LONG).await.unwrap();
    uneven.busy.store(true, SeqCst);
    // From here on, each look at the end finds something new.
    deposit(&store).await;
    let rebuilt = tokio::time::timeout(LONG, balances.rebuild()).await;
    uneven.busy.store(false, SeqCst);
    rebuilt.expect("it ends while there is always something new").unwrap();
    balances.wait_for_within(head(&store).await, LONG).await.unwrap();
    assert_eq!(balances.verify().await.unwrap(), []);
}

#[tokio::test]
async fn a_log_that_was_away_is_followed_again() {
    let uneven = Uneven::default();
    let balances = Factum::new(uneven.clone()).project(Balances::<1>, reads()).await.unwrap();
    balances.wait_for_within(deposit(&uneven.store).await, LONG).await.unwrap();
    uneven.down.store(true, SeqCst);
    // Who waits for news finds the log away, and later that there are none.
    uneven.nudge.notify_one();
    in_time(async {
        while uneven.failed.load(SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        uneven.down.store(false, SeqCst);
        while balances.status().await.unwrap().state != State::Live {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_worker_of_another_log_takes_nothing_over_until_it_rebuilds() {
    let reads = reads();
    let ((restored_store, restored), (store, factum)) = (deposits(1).await, deposits(3).await);
    let balances = factum.project(Balances::<1>, reads.clone()).await.unwrap();
    balances.wait_for_within(head(&store).await, LONG).await.unwrap();
    let other = restored.project(Balances::<1>, reads.clone()).await.unwrap();
    let refused = other.wait_for(head(&restored_store).await).await.unwrap_err();
    assert!(matches!(refused, Error::LogRewound(_)), "{refused}");
    balances.wait_for_within(deposit(&store).await, LONG).await.expect("it is still its owner");

    other.rebuild().await.unwrap();
    assert_eq!(other.all().await.unwrap(), [("0".to_owned(), 1)]);
    assert_eq!(other.verify().await.unwrap(), []);
    let fenced = balances.wait_for_within(deposit(&store).await, LONG).await.unwrap_err();
    assert!(matches!(fenced, Error::Fenced { .. }), "{fenced}");
}

#[tokio::test]
async fn rows_of_another_version_are_not_taken_for_its_own() {
    let (store, factum) = deposits(3).await;
    let reads = Unsteady::new(reads());
    let first = factum.project(Balances::<1>, reads.clone()).await.unwrap();
    let end = head(&store).await;
    first.wait_for_within(end, LONG).await.unwrap();
    first.stop().await;
    reads.down.store(true, SeqCst);
    let second = factum.project(Balances::<2>, reads.clone()).await.unwrap();
    for refused in [second.get("1").await.unwrap_err(), second.all().await.unwrap_err()] {
        assert!(refused.is_retryable(), "{refused}");
        assert!(refused.to_string().contains("shows version 1 until version 2 is filled"), "{refused}");
    }
    let late = second.wait_for_within(end, Duration::from_millis(20)).await;
    assert!(matches!(late, Err(Error::Timeout { .. })), "what cannot be read has not arrived: {late:?}");
    assert_eq!(first.get("1").await.unwrap(), Some(1), "the first version still reads its own");
    reads.down.store(false, SeqCst);
    second.wait_for_within(end, LONG).await.unwrap();
    assert_eq!(second.get("1").await.unwrap(), Some(1));
    let refused = first.get("1").await.unwrap_err().to_string();
    assert!(refused.contains("shows version 2, which this program with version 1 cannot read"), "{refused}");
}

/// Readers see the newer version in one case; in the other it is still being filled, when the older program is started again.
#[tokio::test]
async fn an_older_program_that_starts_again_leaves_the_newer_version_alone() {
    for switched in [true, false] {
        let (store, factum) = deposits(3).await;
        let reads = Unsteady::new(reads());
        let end = head(&store).await;
        let first = factum.project(Balances::<1>, reads.clone()).await.unwrap();
        first.wait_for_within(end, LONG).await.unwrap();
        first.stop().await;
        if switched {
            let second = factum.project(Balances::<2>, reads.clone()).await.unwrap();
            second.wait_for_within(end, LONG).await.unwrap();
            second.stop().await;
        } else {
            let lease = reads.claim("balances").await.unwrap();
            reads.create(&lease, 2).await.unwrap();
        }
        let before = reads.catalog("balances").await.unwrap();
        let again = factum.project(Balances::<1>, reads.clone()).await.unwrap();
        let State::Stopped(why) = again.status().await.unwrap().state else { panic!("it goes on") };
        let text = why.to_string();
        assert!(text.contains("version 2") && text.contains("start the newer program"), "{text}");
        assert!(again.wait_for_within(deposit(&store).await, LONG).await.is_err());
        assert_eq!(reads.catalog("balances").await.unwrap(), before, "nothing is touched, nobody is fenced");
        again.stop().await;
        assert_eq!(reads.catalog("balances").await.unwrap(), before);

        // Who says so goes back; given up, it leaves the newer version where it was.
        let again = factum.project(Balances::<1>, reads.clone()).await.unwrap();
        again.rebuild().cancel().await;
        assert_eq!(reads.catalog("balances").await.unwrap().active, before.active);
        assert!(matches!(again.status().await.unwrap().state, State::Stopped(_)));
        again.rebuild().await.unwrap();
        assert_eq!(again.get("1").await.unwrap(), Some(2));
        let active = reads.catalog("balances").await.unwrap().active.unwrap();
        assert_eq!((active.version, reads.catalog("balances").await.unwrap().building), (1, None));
        again.wait_for_within(deposit(&store).await, LONG).await.unwrap();
        again.stop().await;
        let second = factum.project(Balances::<2>, reads.clone()).await.unwrap();
        second.wait_for_within(deposit(&store).await, LONG).await.unwrap();
        assert_eq!(second.get("1").await.unwrap(), Some(4), "and the newer program makes its own again");
    }
}

#[tokio::test]
async fn commits_that_concern_others_cost_no_change_each() {
    let (store, factum) = deposits(3).await;
    let reads = Unsteady::new(reads());
    let balances = factum.project(Balances::<1>, reads.clone()).await.unwrap();
    balances.wait_for_within(head(&store).await, LONG).await.unwrap();
    let before = reads.commits.load(SeqCst);
    for n in 0..50 {
        let stream = StreamName::new(format!("other-{n}")).unwrap();
        let other = Append::to(stream, [NewEvent::bytes("X", "").unwrap()]);
        balances.wait_for_within(store.append(other).await.unwrap().token, LONG).await.unwrap();
    }
    assert_eq!(reads.commits.load(SeqCst), before);
    balances.stop().await;
    assert_eq!(reads.commits.load(SeqCst), before + 1, "in the end, how far it looked");
    let balances = factum.project(Balances::<1>, reads).await.unwrap();
    assert_eq!(balances.status().await.unwrap().lag_events, 0);
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    Before,
    AfterTheClaim,
    AfterACommit,
}

/// What the cut-off worker's commit came to: when it ends before the next worker has taken over,
/// after that, and after that one's first commit.
async fn a_commit_that_outlives_its_worker(case: Ends) -> factum::Result<()> {
    let (store, factum) = deposits(3).await;
    let (ended, mut end) = mpsc::unbounded_channel();
    let gate =
        Arc::new(Gate { open: Semaphore::new(0), begun: Notify::new(), ended, runtime: Handle::current() });
    let direct = Unsteady::new(reads());
    let late = Wrapped(Unsteady { gate: Some(gate.clone()), ..direct.0.clone() });
    // The worker's task is aborted where it waits for its commit, as at the end of a runtime.
    let short = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let project = {
        let factum = factum.clone();
        async move { factum.project(Balances::<1>, late).await }
    };
    let balances = short.spawn(project).await.unwrap().unwrap();
    gate.begun.notified().await;
    short.shutdown_background();
    drop(balances);
    direct.down.store(case == Ends::AfterTheClaim, SeqCst);
    let next = async || factum.project(Balances::<1>, direct.clone()).await.unwrap();
    let mut outlived = async || {
        gate.open.add_permits(1);
        end.recv().await.unwrap()
    };
    let (outlived, next) = match case {
        Ends::Before => (outlived().await, next().await),
        Ends::AfterTheClaim => {
            let next = next().await;
            (outlived().await, next)
        }
        Ends::AfterACommit => {
            let next = next().await;
            next.wait_for_within(head(&store).await, LONG).await.unwrap();
            (outlived().await, next)
        }
    };
    direct.down.store(false, SeqCst);
    next.wait_for_within(deposit(&store).await, LONG).await.unwrap();
    assert_eq!(next.get("1").await.unwrap(), Some(2), "each deposit once");
    assert_eq!(next.verify().await.unwrap(), []);
    outlived
}

#[tokio::test]
async fn a_commit_that_outlives_its_worker_counts_or_is_fenced() {
    for case in [Ends::Before, Ends::AfterTheClaim, Ends::AfterACommit] {
        match in_time(a_commit_that_outlives_its_worker(case)).await {
            Ok(()) => assert_eq!(case, Ends::Before),
            Err(fenced) => assert!(matches!(fenced, Error::Fenced { .. }), "{case:?}: {fenced}"),
        }
    }
}

#[tokio::test]
async fn what_the_log_hides_by_now_differs_until_a_rebuild() {
    let (store, factum) = deposits(20).await;
    let balances = factum.project(Balances::<1>, reads()).await.unwrap();
    balances.wait_for_within(head(&store).await, LONG).await.unwrap();
    let stream = StreamName::new("account-1").unwrap();
    let last_only = Retention { max_count: Some(1), ..Retention::default() };
    let hidden = store.set_retention(&stream, ExpectedRevision::Any, last_only).await.unwrap();
    balances.wait_for_within(hidden.token, LONG).await.unwrap();
    let difference = balances.verify().await.unwrap().remove(0);
    assert_eq!(
        (difference.kept.as_deref(), difference.by_the_log.as_deref()),
        (Some("3"), Some("1")),
        "as the documentation of `verify` warns"
    );
    balances.rebuild().await.unwrap();
    assert_eq!((balances.get("1").await.unwrap(), balances.verify().await.unwrap()), (Some(1), vec![]));
}
