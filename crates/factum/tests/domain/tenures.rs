//! Read models where several processes have the log: one keeps each, the others stand by.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use factum::{
    Append, Consumer, Error, EventStore, MemoryReads, NewEvent, Outcome, Projected, ReadStore, State,
    StreamName,
    prelude::*,
    reads::{Hold, Holds, Lease},
};

use crate::support::*;

/// As long as it takes, by a clock that stands still while anybody works.
const LONG: Duration = Duration::from_secs(600);

/// A log that other processes can have open, too.
fn shared() -> (Meddled, Factum) {
    let store = Meddled::default();
    (store.clone(), Factum::new(store))
}

/// The read store as one process has it: its way to the holds can be cut.
#[derive(Clone, Debug)]
struct Own {
    inner: MemoryReads,
    cut: Arc<AtomicBool>,
    /// Whether it can let go, and hears so; else that happens a while after it has heard nothing.
    lets_go: Arc<AtomicBool>,
    /// How long what comes after its next hold is on its way: its first look then, or its claim. It keeps nothing meanwhile.
    stalls: Arc<Mutex<Option<(Stall, Duration)>>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stall {
    BeforeTheClaim,
    InTheClaim,
}

impl Own {
    fn of(inner: &MemoryReads) -> Wrapped<Self> {
        let (cut, lets_go, stalls) = (Arc::default(), Arc::new(AtomicBool::new(true)), Arc::default());
        Wrapped(Self { inner: inner.clone(), cut, lets_go, stalls })
    }

    async fn stall(&self, now: Stall) {
        let stall = self.stalls.lock().unwrap().take_if(|(when, _)| *when == now);
        if let Some((_, long)) = stall {
            self.cut.store(true, SeqCst);
            tokio::time::sleep(long).await;
            self.cut.store(false, SeqCst);
        }
    }

    fn check(&self) -> factum::Result<()> {
        let why = || "the cable is out".to_owned();
        if self.cut.load(SeqCst) {
            Err(Error::Unavailable { why: why(), outcome: Outcome::No })
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Holds for Own {
    async fn hold(&self, name: &str, holder: &str, ttl: Duration) -> factum::Result<Hold> {
        self.check()?;
        self.inner.hold(name, holder, ttl).await
    }
    async fn let_go(&self, name: &str, holder: &str) -> factum::Result<()> {
        self.check()?;
        if !self.lets_go.load(SeqCst) {
            let (inner, name, holder) = (self.inner.clone(), name.to_owned(), holder.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                inner.let_go(&name, &holder).await.unwrap();
            });
            return Err(Error::Unavailable { why: "it did not answer".into(), outcome: Outcome::Unknown });
        }
        self.inner.let_go(name, holder).await
    }
    async fn held(&self, prefix: &str) -> factum::Result<Vec<Hold>> {
        self.inner.held(prefix).await
    }
}

#[async_trait]
impl Around for Own {
    fn inner(&self) -> &dyn ReadStore {
        &self.inner
    }
    async fn claim(&self, model: &str) -> factum::Result<Lease> {
        self.stall(Stall::InTheClaim).await;
        self.inner.claim(model).await
    }
    fn holds(&self) -> &dyn Holds {
        self
    }
}

async fn state(consumer: &Consumer) -> State {
    consumer.status().await.unwrap().state
}

async fn until(consumer: &Consumer, wanted: impl Fn(&State) -> bool) -> State {
    let look = async {
        loop {
            let state = state(consumer).await;
            if wanted(&state) {
                return state;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, look).await.unwrap()
}

async fn is_live(consumer: &Consumer) {
    until(consumer, |state| *state == State::Live).await;
}

async fn deposit(store: &dyn EventStore) -> factum::Token {
    write_some(store, &mut fastrand::Rng::with_seed(1), 1, 3).await
}

async fn balances(factum: &Factum, reads: impl ReadStore) -> Projected<Balances> {
    factum.project(Balances::<1>, reads).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_first_keeps_the_model_and_the_second_stands_by_until_it_stops() {
    let (store, factum) = shared();
    let reads = MemoryReads::new();
    let first = balances(&factum, reads.clone()).await;
    is_live(&first).await;
    let second = balances(&factum, reads.clone()).await;
    let epoch = reads.catalog("balances").await.unwrap().epoch;
    for _ in 0..100 {
        let done = deposit(&store).await;
        let asked = tokio::time::Instant::now();
        second.wait_for(done).await.unwrap();
        assert!(asked.elapsed() < Duration::from_millis(200), "{:?}", asked.elapsed());
        assert_eq!(second.all().await.unwrap(), fold(&store).await);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(state(&first).await, State::Live);
    let waiting = state(&second).await.to_string();
    assert!(waiting.contains("the read model `balances` is kept by `process-"), "{waiting}");
    assert_eq!(reads.catalog("balances").await.unwrap().epoch, epoch, "nobody was fenced");

    first.stop().await;
    assert_eq!(reads.held("").await.unwrap(), []);
    let stopped = tokio::time::Instant::now();
    is_live(&second).await;
    assert!(stopped.elapsed() < Duration::from_secs(1), "{:?}", stopped.elapsed());
    let done = deposit(&store).await;
    second.wait_for(done).await.unwrap();
    assert_eq!(second.all().await.unwrap(), fold(&store).await);
    drop(second);
    while !reads.held("").await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_stands_by_hears_that_what_happened_does_not_concern_the_model() {
    let (store, factum) = shared();
    let reads = MemoryReads::new();
    let first = balances(&factum, reads.clone()).await;
    let second = balances(&factum, reads.clone()).await;
    second.wait_for(deposit(&store).await).await.unwrap();
    for n in 0..3 {
        let event = NewEvent::json("Painted", &n).unwrap();
        let painted = Append::to(StreamName::new("door-1").unwrap(), [event]);
        let done = store.append(painted).await.unwrap().token;
        first.wait_for(done).await.unwrap();
        let asked = tokio::time::Instant::now();
        second.wait_for(done).await.unwrap();
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_has_died_is_followed_when_its_time_is_over_and_not_before() {
    let (store, factum) = shared();
    let reads = MemoryReads::new();
    reads.hold("balances", "process-1/x/v1", Duration::from_secs(10)).await.unwrap();
    let began = tokio::time::Instant::now();
    let second = balances(&factum, reads.clone()).await;
    is_live(&second).await;
    let after = began.elapsed();
    assert!(after >= Duration::from_secs(10) && after < Duration::from_secs(11), "{after:?}");
    second.wait_for(deposit(&store).await).await.unwrap();
    assert_eq!(second.all().await.unwrap(), fold(&store).await);
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_is_for_the_one_that_keeps_the_model() {
    let (store, factum) = shared();
    let reads = MemoryReads::new();
    let first = balances(&factum, reads.clone()).await;
    let second = balances(&factum, reads.clone()).await;
    first.wait_for(deposit(&store).await).await.unwrap();
    let refused = second.rebuild().await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable { outcome: Outcome::No, .. }), "{refused:?}");
    let said = refused.to_string();
    assert!(
        said.contains("the rebuild cannot begin here") && said.contains("is kept by `process-"),
        "{said}"
    );
    first.rebuild().await.unwrap();
    first.stop().await;
    is_live(&second).await;
    second.rebuild().await.unwrap();
    assert_eq!(second.all().await.unwrap(), fold(&store).await);
    assert_eq!(reads.catalog("balances").await.unwrap().active.unwrap().number, 3);
}

#[tokio::test(start_paused = true)]
async fn a_newer_version_takes_the_model_from_an_older_one_at_once() {
    let (store, factum) = shared();
    let reads = MemoryReads::new();
    let old = balances(&factum, reads.clone()).await;
    let also_old = balances(&factum, reads.clone()).await;
    old.wait_for(deposit(&store).await).await.unwrap();
    let new = factum.project(Balances::<2>, reads.clone()).await.unwrap();
    let done = deposit(&store).await;
    new.wait_for(done).await.unwrap();
    for old in [&old, &also_old] {
        let stopped = until(old, |state| matches!(state, State::Stopped(_))).await.to_string();
        assert!(stopped.contains("is kept by a program of version 2"), "{stopped}");
    }
    // Who comes late does not take it back, and back goes who says so and is alone.
    let late = balances(&factum, reads.clone()).await;
    assert!(matches!(state(&late).await, State::Stopped(_)));
    let refused = late.rebuild().await.unwrap_err().to_string();
    assert!(refused.contains("/v2`"), "{refused}");
    assert_eq!(state(&new).await, State::Live);
    new.stop().await;
    late.rebuild().await.unwrap();
    assert_eq!(late.all().await.unwrap(), fold(&store).await);
    is_live(&late).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_was_held_up_for_too_long_stands_by_and_does_nothing_twice() {
    let (store, factum) = shared();
    let reads = MemoryReads::new();
    let own = Own::of(&reads);
    let first = balances(&factum, own.clone()).await;
    is_live(&first).await;
    for round in 0..10 {
        let second = balances(&factum, reads.clone()).await;
        // It can write, and cannot keep its name: the other takes over all the same.
        own.cut.store(true, SeqCst);
        is_live(&second).await;
        second.wait_for(deposit(&store).await).await.unwrap();
        own.cut.store(false, SeqCst);
        until(&first, |state| state.to_string().contains("is kept by")).await;
        first.wait_for(deposit(&store).await).await.unwrap();
        assert_eq!(state(&second).await, State::Live, "{round}");
        assert_eq!(first.all().await.unwrap(), fold(&store).await, "{round}");
        second.stop().await;
        is_live(&first).await;
    }
    assert_eq!(reads.catalog("balances").await.unwrap().epoch, 21, "one claim for each change of hands");
}

/// Who has the model's name and is fenced all the same claims it again, and does nothing twice.
#[tokio::test(start_paused = true)]
async fn one_that_is_fenced_by_somebody_who_asks_nobody_goes_on() {
    let (store, factum) = shared();
    let reads = MemoryReads::new();
    let first = balances(&factum, reads.clone()).await;
    is_live(&first).await;
    for _ in 0..10 {
        reads.claim("balances").await.unwrap();
        first.wait_for(deposit(&store).await).await.unwrap();
        assert_eq!(first.all().await.unwrap(), fold(&store).await);
    }
    assert_eq!(reads.catalog("balances").await.unwrap().epoch, 21, "one claim for each that came between");
}

/// One that is held up between its hold and its claim, for so long that another keeps the model.
async fn held_up(stall: Stall) -> (MemoryReads, Projected<Balances>, Projected<Balances>) {
    let (store, factum) = shared();
    let reads = MemoryReads::new();
    balances(&factum, reads.clone()).await.wait_for(deposit(&store).await).await.unwrap();
    while !reads.held("").await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let own = Own::of(&reads);
    *own.stalls.lock().unwrap() = Some((stall, Duration::from_secs(60)));
    let slow = Factum::new(Slow { inner: store.clone(), own: own.clone() });
    let late = tokio::spawn(async move { balances(&slow, own).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let keeper = balances(&factum, reads.clone()).await;
    is_live(&keeper).await;
    let late = late.await.unwrap();
    let waiting = until(&late, |state| matches!(state, State::Waiting(_))).await.to_string();
    let done = deposit(&store).await;
    for one in [&keeper, &late] {
        one.wait_for(done).await.unwrap_or_else(|error| panic!("{error}; {waiting}"));
        assert_eq!(one.all().await.unwrap(), fold(&store).await);
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(state(&keeper).await, State::Live);
    let waiting = state(&late).await.to_string();
    assert!(waiting.contains("is kept by `process-"), "{waiting}");
    (reads, keeper, late)
}

#[tokio::test(start_paused = true)]
async fn one_that_is_held_up_before_its_claim_lets_go_and_fences_nobody() {
    let (reads, ..) = held_up(Stall::BeforeTheClaim).await;
    assert_eq!(reads.catalog("balances").await.unwrap().epoch, 2);
}

#[tokio::test(start_paused = true)]
async fn one_whose_claim_comes_late_stops_nobody() {
    let (reads, ..) = held_up(Stall::InTheClaim).await;
    assert_eq!(reads.catalog("balances").await.unwrap().epoch, 4, "its own, and that of who keeps it");
}

/// A log whose places are looked up slowly when its process is held up.
#[derive(Clone, Debug)]
struct Slow {
    inner: Meddled,
    own: Wrapped<Own>,
}

#[async_trait]
impl EventStore for Slow {
    async fn append(&self, append: Append) -> factum::Result<factum::Appended> {
        self.inner.append(append).await
    }
    async fn read(&self, read: factum::Read) -> factum::Result<factum::Page> {
        self.inner.read(read).await
    }
    async fn head(&self) -> factum::Result<factum::Head> {
        self.inner.head().await
    }
    async fn locate(&self, token: factum::Token) -> factum::Result<factum::Token> {
        self.own.stall(Stall::BeforeTheClaim).await;
        self.inner.locate(token).await
    }
    async fn stream_state(&self, stream: &StreamName) -> factum::Result<factum::StreamState> {
        self.inner.stream_state(stream).await
    }
    async fn changed(&self, position: Position) {
        self.inner.changed(position).await;
    }
    fn limits(&self) -> factum::Limits {
        self.inner.limits()
    }
}

/// Breaks on accounts with a bad name, until it is mended.
#[derive(Clone, Default)]
struct Picky(Arc<AtomicBool>);

impl Projection for Picky {
    const NAME: &'static str = "picky";
    type Event = AccountEvent;
    type Row = u64;

    fn evolve(&self, row: Option<u64>, event: &Recorded<AccountEvent>) -> Option<u64> {
        assert!(self.0.load(SeqCst) || event.record.stream.id() != "bad", "a bug in a projection");
        Some(row.unwrap_or(0) + 1)
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_has_stopped_keeps_nobody_waiting() {
    let (store, factum) = shared();
    let reads = MemoryReads::new();
    let first = factum.project(Picky::default(), reads.clone()).await.unwrap();
    let second = factum.project(Picky::default(), reads.clone()).await.unwrap();
    is_live(&first).await;
    let bad = factum::codec::encode(&Opened { cents: 1 }).unwrap();
    let stream = StreamName::new("account-bad").unwrap();
    let done = store.append(Append::to(stream, [bad])).await.unwrap().token;
    for one in [&first, &second] {
        let stopped = one.wait_for(done).await.unwrap_err().to_string();
        assert!(stopped.contains("a bug in a projection"), "{stopped}");
    }
    assert_eq!(reads.held("").await.unwrap(), []);
    // Either may be asked to mend it.
    let still = second.rebuild().await.unwrap_err().to_string();
    assert!(still.contains("a bug in a projection"), "{still}");
}

/// What it let go of and what it has taken since are told from each other, however late it is let go of.
#[tokio::test(start_paused = true)]
async fn letting_go_late_lets_go_of_nothing_that_was_taken_later() {
    let (store, factum) = shared();
    let reads = MemoryReads::new();
    let (own, mended) = (Own::of(&reads), Arc::new(AtomicBool::new(false)));
    let picky = factum.project(Picky(mended.clone()), own.clone()).await.unwrap();
    is_live(&picky).await;
    own.lets_go.store(false, SeqCst);
    let bad = factum::codec::encode(&Opened { cents: 1 }).unwrap();
    let stream = StreamName::new("account-bad").unwrap();
    let done = store.append(Append::to(stream, [bad])).await.unwrap().token;
    picky.wait_for(done).await.unwrap_err();
    mended.store(true, SeqCst);
    while let Err(error) = picky.rebuild().await {
        assert!(error.to_string().contains("is kept by `process-"), "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let has = reads.held("").await.unwrap();
    assert_eq!(has.len(), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let still = reads.held("").await.unwrap();
    assert!(still.len() == 1 && still[0].holder == has[0].holder, "{still:?}, and it was {has:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_comes_and_goes_the_model_is_what_the_log_makes() {
    let mut random = seeded();
    let (store, factum) = shared();
    let reads = MemoryReads::new();
    let mut running: Vec<Projected<Balances>> = Vec::new();
    for round in 0..200 {
        let done = write_some(&store, &mut random, 5, 7).await;
        match random.u8(0..6) {
            0..2 if running.len() < 8 => running.push(balances(&factum, reads.clone()).await),
            2 if !running.is_empty() => running.swap_remove(random.usize(..running.len())).stop().await,
            // It goes on until it notices.
            3 if !running.is_empty() => drop(running.swap_remove(random.usize(..running.len()))),
            4 => tokio::time::sleep(Duration::from_millis(random.u64(0..5000))).await,
            _ => {}
        }
        if let Some(one) = running.get(random.usize(..running.len().max(1))) {
            one.wait_for_within(done, LONG).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert_eq!(one.all().await.unwrap(), fold(&store).await, "round {round}");
        }
    }
}
