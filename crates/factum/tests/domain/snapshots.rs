//! Snapshots: what they save, and that nothing that can be wrong with one is ever seen.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use factum::{
    Append, Appended, AsOf, Error, EventId, EventStore, EventStoreExt, ExpectedRevision, Head, Limits,
    LogIdentity, ManualClock, MemorySnapshots, MemoryStore, Outcome, Page, Read, Retention, SnapshotStore,
    Snapshots, StreamName, StreamState,
    prelude::*,
    snapshot::{Keeper, SnapshotKey},
};

use crate::support::seeded;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Till {
    PaidIn { cents: i64 },
    Noted,
}

use Till::*;

impl Event for Till {
    const CATEGORY: &'static str = "till";

    fn evolution() -> Evolution<Self> {
        Evolution::new().drop("Looked")
    }
}

/// What is in a till. Its balance is a list, so that a missing, doubled or displaced event shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Balance {
    paid: Vec<i64>,
}

impl Aggregate for Balance {
    type Event = Till;

    fn apply(&mut self, event: &Till) {
        if let PaidIn { cents } = event {
            self.paid.push(*cents);
        }
    }

    fn snapshots() -> Option<Snapshots<Self>> {
        Some(Snapshots::every(5))
    }
}

struct Pay(i64);

impl Command<Balance> for Pay {
    type Error = std::convert::Infallible;

    fn decide(&self, _: &Balance) -> Result<Vec<Till>, Self::Error> {
        Ok(vec![PaidIn { cents: self.0 }])
    }
}

/// A memory store that counts the events it gives, and may show the log other than it is.
#[derive(Clone, Debug, Default)]
struct Shown {
    inner: MemoryStore,
    events: Arc<AtomicU64>,
    /// As if the log ended here.
    end: Arc<Mutex<Option<Position>>>,
    /// As if it were this log.
    log: Arc<Mutex<Option<LogIdentity>>>,
}

#[async_trait]
impl EventStore for Shown {
    async fn append(&self, append: Append) -> factum::Result<Appended> {
        self.inner.append(append).await
    }

    async fn read(&self, read: Read) -> factum::Result<Page> {
        let end = *self.end.lock().unwrap();
        let read = match end {
            Some(end) => read.as_of(AsOf::Position(end)),
            None => read,
        };
        let mut page = self.inner.read(read).await?;
        let log = *self.log.lock().unwrap();
        if let Some(log) = log {
            (page.token.log, page.head.log) = (log, log);
        }
        self.events.fetch_add(page.events.len() as u64, SeqCst);
        Ok(page)
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

/// What a store of snapshots does when it is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Works,
    Fails,
    Hangs,
    Panics,
}

/// A store of snapshots whose texts a test can see and change.
#[derive(Clone, Debug)]
struct Open {
    texts: Arc<Mutex<BTreeMap<SnapshotKey, String>>>,
    gets: Arc<Mutex<Mood>>,
    puts: Arc<Mutex<Mood>>,
    asked: Arc<AtomicU64>,
}

impl Open {
    fn new() -> Self {
        let mood = || Arc::new(Mutex::new(Mood::Works));
        Self { texts: Arc::default(), gets: mood(), puts: mood(), asked: Arc::default() }
    }

    fn texts(&self) -> BTreeMap<SnapshotKey, String> {
        self.texts.lock().unwrap().clone()
    }

    /// The only text that there is.
    fn one(&self) -> (SnapshotKey, String) {
        let texts = self.texts();
        assert_eq!(texts.len(), 1, "{texts:?}");
        texts.into_iter().next().unwrap()
    }

    async fn be(&self, mood: &Mutex<Mood>) -> factum::Result<()> {
        self.asked.fetch_add(1, SeqCst);
        let mood = *mood.lock().unwrap();
        match mood {
            Mood::Works => Ok(()),
            Mood::Fails => Err(Error::Unavailable { why: "a test broke it".into(), outcome: Outcome::No }),
            Mood::Hangs => std::future::pending().await,
            Mood::Panics => panic!("a bug in a store of snapshots"),
        }
    }
}

#[async_trait]
impl SnapshotStore for Open {
    async fn get(&self, key: &SnapshotKey) -> factum::Result<Option<String>> {
        self.be(&self.gets).await?;
        Ok(self.texts.lock().unwrap().get(key).cloned())
    }

    async fn put(&self, key: &SnapshotKey, snapshot: String) -> factum::Result<()> {
        self.be(&self.puts).await?;
        self.texts.lock().unwrap().insert(key.clone(), snapshot);
        Ok(())
    }

    async fn delete(&self, stream: &StreamName) -> factum::Result<()> {
        self.be(&self.puts).await?;
        self.texts.lock().unwrap().retain(|key, _| key.stream != *stream);
        Ok(())
    }

    async fn clear(&self) -> factum::Result<()> {
        self.texts.lock().unwrap().clear();
        Ok(())
    }
}

/// A log and its snapshots, seen with them and without.
struct Place {
    log: Shown,
    clock: Arc<ManualClock>,
    snapshots: Open,
    with: Factum,
    without: Factum,
}

impl Place {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp(1_000_000_000)));
        let inner = MemoryStore::with(Limits::default(), Arc::new(clock.clone()));
        Self::on(Shown { inner, ..Shown::default() }, clock, Open::new())
    }

    fn on(log: Shown, clock: Arc<ManualClock>, snapshots: Open) -> Self {
        let without = Factum::new(log.clone());
        Self { with: without.with_snapshots(snapshots.clone()), without, log, clock, snapshots }
    }

    /// One with ten payments (1 to 10) and a snapshot of them.
    async fn with_ten() -> Self {
        let place = Self::new();
        place.pay(1..=10).await;
        place.agree("the first load").await;
        place.settled().await;
        assert_eq!(place.snapshots.one().0.stream, stream());
        place
    }

    async fn pay(&self, cents: impl IntoIterator<Item = i64>) {
        for cents in cents {
            self.append(EventId::new(), cents).await;
        }
    }

    async fn append(&self, id: EventId, cents: i64) {
        self.clock.advance(Duration::from_secs(1));
        let event = factum::codec::encode(&PaidIn { cents }).unwrap().with_id(id);
        self.log.append(Append::to(stream(), [event])).await.unwrap();
    }

    async fn settled(&self) {
        self.with.snapshots().unwrap().settled().await;
    }

    /// That the snapshots change nothing. How many events were read with them.
    async fn agree(&self, when: &str) -> u64 {
        let before = self.log.events.load(SeqCst);
        let with = self.with.load(&till()).await;
        let read = self.log.events.load(SeqCst) - before;
        assert_eq!(
            with,
            self.without.load(&till()).await,
            "{when}: {:?}",
            self.with.snapshots().unwrap().status()
        );
        read
    }

    /// That the snapshot is not used, nor anything seen of it, nor kept, and that with the next one all is well.
    async fn is_refused(&self, why: &str) {
        let before = self.with.snapshots().unwrap().status();
        self.agree(why).await;
        let after = self.with.snapshots().unwrap().status();
        assert_eq!((after.used, after.refused), (before.used, before.refused + 1), "{after:?}");
        assert!(after.trouble.as_ref().is_some_and(|trouble| trouble.contains(why)), "{after:?}");
        self.settled().await;
        self.agree("the load after that").await;
        let last = self.with.snapshots().unwrap().status();
        assert_eq!(last.refused, after.refused, "a snapshot that was refused stays: {last:?}");
    }

    fn status(&self) -> factum::snapshot::SnapshotStatus {
        self.with.snapshots().unwrap().status()
    }
}

fn till() -> Id<Balance> {
    Balance::id("1")
}

fn stream() -> StreamName {
    StreamName::new("till-1").unwrap()
}

#[tokio::test]
async fn a_load_reads_what_came_after_the_snapshot() {
    let place = Place::with_ten().await;
    assert_eq!(place.agree("at once").await, 1, "the snapshot's last event, to see that it is there");
    place.pay([11, 12]).await;
    assert_eq!(place.agree("with two more").await, 3);
    let done = place.with.execute(&till(), Pay(13)).await.unwrap();
    assert_eq!((done.attempts, done.events[0].revision), (1, Revision(12)));
    place.pay([14]).await;
    for _ in 0..2 {
        assert_eq!(place.agree("with four more, one too few for another snapshot").await, 5);
        place.settled().await;
    }
    place.pay([15]).await;
    assert_eq!(place.agree("with five more").await, 6);
    place.settled().await;
    assert_eq!(place.agree("once there is a new one").await, 1);
    let status = place.status();
    assert_eq!((status.written, status.refused, status.failed), (2, 0, 0), "{status:?}");
}

#[tokio::test]
async fn what_is_kept_is_what_was_read_and_never_what_was_only_decided() {
    let place = Place::new();
    place.pay(1..=9).await;
    place.with.execute(&till(), Pay(10)).await.unwrap();
    place.settled().await;
    let (_, text) = place.snapshots.one();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["of"]["last"]["revision"], 8);
    assert_eq!(json["state"]["state"]["paid"].as_array().unwrap().len(), 9);
}

#[tokio::test]
async fn no_byte_of_it_is_believed_that_was_not_written() {
    let place = Place::with_ten().await;
    let (key, text) = place.snapshots.one();
    for at in 0..text.len() {
        let mut wrong = text.clone().into_bytes();
        wrong[at] = if wrong[at] == b'7' { b'8' } else { b'7' };
        place.snapshots.texts.lock().unwrap().insert(key.clone(), String::from_utf8(wrong).unwrap());
        place.agree(&format!("byte {at} of {text}")).await;
        place.settled().await;
    }
    for wrong in
        ["", "{}", "null", &text[..text.len() - 1], &text[..20], &format!("{text} "), "{\"digest\":\"é"]
    {
        place.snapshots.texts.lock().unwrap().insert(key.clone(), wrong.to_owned());
        place.agree(wrong).await;
        place.settled().await;
    }
    assert_eq!(place.status().refused, text.len() as u64 + 7);
}

#[tokio::test]
async fn one_of_another_stream_is_not_taken_for_its_own() {
    let place = Place::with_ten().await;
    let (key, _) = place.snapshots.one();
    let other = Place::on(place.log.clone(), place.clock.clone(), place.snapshots.clone());
    let event = || factum::codec::encode(&PaidIn { cents: 99 }).unwrap();
    let another = StreamName::new("till-2").unwrap();
    for _ in 0..10 {
        other.log.append(Append::to(another.clone(), [event()])).await.unwrap();
    }
    other.with.load(&Balance::id("2")).await.unwrap();
    other.settled().await;
    let of_another = place.snapshots.texts()[&SnapshotKey { stream: another, ..key.clone() }].clone();
    place.snapshots.texts.lock().unwrap().insert(key, of_another);
    place.is_refused("its bytes are not those that were written").await;
}

#[tokio::test]
async fn one_of_another_log_is_not_used() {
    let place = Place::with_ten().await;
    // The last event is the very same, at the same place and time. What came before it is not.
    let same =
        place.log.inner.read(Read::stream(stream()).backwards().limit(1)).await.unwrap().events[0].clone();
    let other = Place::new();
    let other = Place::on(other.log, other.clock, place.snapshots.clone());
    other.pay(51..=59).await;
    other.append(same.id, 10).await;
    let there =
        other.log.inner.read(Read::stream(stream()).backwards().limit(1)).await.unwrap().events[0].clone();
    assert_eq!(there, same);
    other.is_refused("it was made from another log").await;
}

#[tokio::test]
async fn one_of_an_epoch_that_was_rewound_is_not_used() {
    let place = Place::with_ten().await;
    place.log.inner.begin_epoch();
    place.is_refused("before this one was rewound").await;
    place.settled().await;
    assert_eq!(place.agree("once there is a new one").await, 1);
}

#[tokio::test]
async fn one_that_is_ahead_of_the_log_is_not_used() {
    let place = Place::with_ten().await;
    let records = place.log.inner.read_to_end(Read::stream(stream())).await.unwrap();
    *place.log.end.lock().unwrap() = Some(records[3].position);
    place.is_refused("its last event is not in the log").await;
    assert_eq!(place.snapshots.texts(), BTreeMap::new(), "the log is too short for a new one");
}

#[tokio::test]
async fn one_of_a_history_that_went_another_way_is_not_used() {
    let place = Place::with_ten().await;
    // A copy of the files went on by itself: the same log by its name, with other events.
    let other = Place::new();
    *other.log.log.lock().unwrap() = Some(place.log.inner.head().await.unwrap().token.log);
    let other = Place::on(other.log, other.clock, place.snapshots.clone());
    other.pay(51..=62).await;
    other.is_refused("its last event is not in the log").await;
}

#[tokio::test]
async fn events_that_are_hidden_are_not_seen_in_it() {
    let truncate = |before| Retention { truncate_before: Some(Revision(before)), ..Retention::default() };
    // Before its last event, at it, and after it.
    for before in [3, 9, 10] {
        let place = Place::with_ten().await;
        place.log.set_retention(&stream(), ExpectedRevision::Any, truncate(before)).await.unwrap();
        place.is_refused("events of the stream were hidden since").await;
        place.pay(11..=20).await;
        place.agree("after that").await;
        place.settled().await;
        assert_eq!(place.agree("once there is a new one").await, 1, "truncation is no reason to go without");
    }
}

#[tokio::test]
async fn a_deleted_stream_begins_anew() {
    let place = Place::with_ten().await;
    place.log.delete(&stream(), ExpectedRevision::Any).await.unwrap();
    assert!(!place.with.load(&till()).await.unwrap().exists());
    place.settled().await;
    assert_eq!(place.snapshots.texts(), BTreeMap::new(), "nothing is kept of what was deleted");

    let place = Place::with_ten().await;
    place.log.delete(&stream(), ExpectedRevision::Any).await.unwrap();
    place.pay(21..=32).await;
    place.is_refused("events of the stream were hidden since").await;
    let paid = place.with.load(&till()).await.unwrap().state.paid;
    assert_eq!(paid, (21..=32).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_tombstoned_stream_is_as_dead_with_it() {
    let place = Place::with_ten().await;
    place.log.tombstone(&stream(), ExpectedRevision::Any).await.unwrap();
    place.agree("tombstoned").await;
    assert!(matches!(place.with.load(&till()).await, Err(Error::Tombstoned { .. })));
    place.settled().await;
    assert_eq!(place.snapshots.texts(), BTreeMap::new(), "nothing is kept of what is gone for ever");
}

#[tokio::test]
async fn events_that_pass_with_time_or_number_have_no_snapshots() {
    for retention in [
        Retention { max_count: Some(12), ..Retention::default() },
        Retention { max_age_seconds: Some(60), ..Retention::default() },
    ] {
        let place = Place::with_ten().await;
        place.log.set_retention(&stream(), ExpectedRevision::Any, retention).await.unwrap();
        let second = Duration::from_secs(1);
        for cents in 11..=200 {
            place.clock.advance(second);
            place.pay([cents]).await;
            place.agree(&format!("{retention:?} and payment {cents}")).await;
            place.settled().await;
        }
        place.clock.advance(second * 30);
        place.agree("later").await;
        assert_eq!(place.status().written, 1, "none that the next moment proves wrong");
    }
}

#[tokio::test]
async fn an_age_that_is_no_longer_asked_for_has_hidden_what_it_has() {
    let place = Place::with_ten().await;
    let for_a_minute = Retention { max_age_seconds: Some(60), ..Retention::default() };
    place.log.set_retention(&stream(), ExpectedRevision::Any, for_a_minute).await.unwrap();
    place.clock.advance(Duration::from_secs(61));
    place.log.set_retention(&stream(), ExpectedRevision::Any, Retention::default()).await.unwrap();
    place.is_refused("events of the stream were hidden since").await;
    place.pay(11..=20).await;
    place.agree("with new ones").await;
    place.settled().await;
    assert_eq!(place.agree("once there is a new one").await, 1);
}

#[tokio::test]
async fn earlier_moments_are_what_they_were() {
    let place = Place::with_ten().await;
    place.clock.advance(Duration::from_secs(1));
    place.pay(11..=14).await;
    let records = place.log.inner.read_to_end(Read::stream(stream())).await.unwrap();
    for record in &records {
        for at in [At::from(record.revision), record.position.into(), record.recorded_at.into()] {
            let with = place.with.load_at(&till(), at).await.unwrap();
            assert_eq!(with, place.without.load_at(&till(), at).await.unwrap(), "{at:?}");
        }
    }
    let before = place.log.events.load(SeqCst);
    place.with.load_at(&till(), Revision(11)).await.unwrap();
    assert_eq!(place.log.events.load(SeqCst) - before, 5, "from the snapshot on");
    assert_eq!(place.snapshots.one().1.matches("\"revision\":9").count(), 2, "and it is still there");
    assert_eq!(place.status().refused, 0);
}

#[tokio::test]
async fn a_decision_is_guarded_all_the_same() {
    let place = Place::with_ten().await;
    // Somebody is quicker: between the load and the append, as the load does not see it.
    let end = place.log.inner.head().await.unwrap().token.position;
    place.pay([11]).await;
    *place.log.end.lock().unwrap() = Some(end);
    let (log, factum, before) = (place.log.clone(), place.with.clone(), place.log.events.load(SeqCst));
    let late = tokio::spawn(async move { factum.execute(&till(), Pay(12)).await });
    while log.events.load(SeqCst) < before + 2 {
        tokio::task::yield_now().await;
    }
    *log.end.lock().unwrap() = None;
    let done = late.await.unwrap().unwrap();
    assert!(done.attempts > 1);
    place.agree("after the decision").await;
    assert_eq!(place.with.load(&till()).await.unwrap().state.paid, (1..=12).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_event_that_means_nothing_today_counts_in_guards_and_snapshots() {
    let place = Place::new();
    place.pay(1..=4).await;
    let dropped = || factum::NewEvent::json("Looked", &()).unwrap();
    place.log.append(Append::to(stream(), [dropped()])).await.unwrap();
    for round in 0..3 {
        let done = place.with.execute(&till(), Pay(5)).await.unwrap();
        assert_eq!(done.attempts, 1, "round {round}: the stream is where it was read");
        place.log.append(Append::to(stream(), [dropped()])).await.unwrap();
        place.settled().await;
        assert!(place.agree("with events that were dropped").await < 8);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_in_trouble_troubles_nobody() {
    for (mood, said) in [
        (Mood::Fails, "a test broke it"),
        (Mood::Hangs, "took longer than 500ms"),
        (Mood::Panics, "a bug in a store of snapshots"),
    ] {
        let place = Place::with_ten().await;
        *place.snapshots.gets.lock().unwrap() = mood;
        let start = tokio::time::Instant::now();
        assert_eq!(place.agree(&format!("{mood:?}")).await, 10);
        let trouble = place.status().trouble.unwrap();
        assert!(trouble.contains(said), "{mood:?}: {trouble}");
        let asked = place.snapshots.asked.load(SeqCst);
        for _ in 0..100 {
            place.agree(&format!("{mood:?} again")).await;
        }
        assert_eq!(place.snapshots.asked.load(SeqCst), asked, "it is left alone for a while");
        assert!(start.elapsed() < Duration::from_millis(600), "{mood:?}: {:?}", start.elapsed());
        *place.snapshots.gets.lock().unwrap() = Mood::Works;
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..3 {
            assert_eq!(place.agree("it works again").await, 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_nothing_holds_up_nobody() {
    for mood in [Mood::Fails, Mood::Hangs, Mood::Panics] {
        let place = Place::new();
        place.pay(1..=10).await;
        *place.snapshots.puts.lock().unwrap() = mood;
        let start = tokio::time::Instant::now();
        for _ in 0..100 {
            place.agree(&format!("{mood:?}")).await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO, "{mood:?}");
        place.settled().await;
        assert_eq!(place.snapshots.asked.load(SeqCst).max(101), 101, "{mood:?}: one put, not one each time");
        assert_eq!((place.status().written, place.status().failed), (0, 1), "{mood:?}");
        *place.snapshots.puts.lock().unwrap() = Mood::Works;
        tokio::time::advance(Duration::from_secs(1)).await;
        place.agree("it works again").await;
        place.settled().await;
        assert_eq!(place.agree("and there is one").await, 1);
    }
}

/// A store of snapshots that blocks the thread, as none may.
#[derive(Debug)]
struct Blocks(Mutex<std::sync::mpsc::Receiver<()>>);

#[async_trait]
impl SnapshotStore for Blocks {
    async fn get(&self, _: &SnapshotKey) -> factum::Result<Option<String>> {
        let _ = self.0.lock().unwrap().recv();
        Ok(None)
    }
    async fn put(&self, _: &SnapshotKey, _: String) -> factum::Result<()> {
        Ok(())
    }
    async fn delete(&self, _: &StreamName) -> factum::Result<()> {
        Ok(())
    }
    async fn clear(&self) -> factum::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_blocks_its_thread_does_not_hold_a_load() {
    let place = Place::new();
    place.pay(1..=10).await;
    let (go_on, gate) = std::sync::mpsc::channel();
    let factum = place
        .without
        .with_snapshots(Keeper::new(Blocks(Mutex::new(gate))).patience(Duration::from_millis(1)));
    let loaded = tokio::time::timeout(Duration::from_secs(30), factum.load(&till())).await;
    drop(go_on);
    assert_eq!(loaded.unwrap(), place.without.load(&till()).await);
}

#[test]
fn without_a_runtime_that_keeps_the_time_there_are_none() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let place = Place::new();
        place.pay(1..=10).await;
        place.agree("no timer").await;
    });
}

/// The same name and category, and other shapes or meanings.
mod others {
    use super::*;

    /// The shape of `Balance`, and another meaning.
    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    pub(super) struct Balance {
        paid: Vec<i64>,
    }

    impl Aggregate for Balance {
        type Event = Till;
        fn apply(&mut self, event: &Till) {
            if let PaidIn { cents } = event {
                self.paid.insert(0, *cents);
            }
        }
        fn snapshots() -> Option<Snapshots<Self>> {
            Some(Snapshots::every(5))
        }
    }

    /// Its meaning changes with the version, as with a change of the program.
    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    pub(super) struct Total {
        cents: i64,
    }

    pub(super) static VERSION: AtomicU32 = AtomicU32::new(1);

    impl Aggregate for Total {
        type Event = Till;
        fn apply(&mut self, event: &Till) {
            if let PaidIn { cents } = event {
                self.cents += *cents * i64::from(VERSION.load(SeqCst));
            }
        }
        fn snapshots() -> Option<Snapshots<Self>> {
            Some(Snapshots::every(5).version(VERSION.load(SeqCst)))
        }
    }
}

#[tokio::test]
async fn a_state_of_another_type_is_not_taken_for_its_own() {
    let place = Place::with_ten().await;
    for _ in 0..2 {
        let reversed = place.with.load(&others::Balance::id("1")).await.unwrap().state;
        assert_eq!(reversed, place.without.load(&others::Balance::id("1")).await.unwrap().state);
        for version in [1, 2] {
            others::VERSION.store(version, SeqCst);
            let id = others::Total::id("1");
            assert_eq!(place.with.load(&id).await, place.without.load(&id).await, "version {version}");
            place.settled().await;
        }
        place.settled().await;
    }
    assert_eq!(place.snapshots.texts().len(), 4, "each has its own");
    assert_eq!(place.status().used, 3);
}

/// A state whose serde has a bug of each kind.
#[derive(Debug, Default, PartialEq)]
struct Buggy<const BUG: u8> {
    seen: i64,
}

impl<const BUG: u8> Serialize for Buggy<BUG> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        assert_ne!(BUG, 1, "a bug in serialize");
        if BUG == 2 {
            return Err(serde::ser::Error::custom("it cannot be written"));
        }
        self.seen.serialize(serializer)
    }
}

/// Whether states with bug 3 can be read: at first they can.
static READABLE: AtomicBool = AtomicBool::new(true);

impl<'de, const BUG: u8> Deserialize<'de> for Buggy<BUG> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let seen = i64::deserialize(deserializer)?;
        match BUG {
            3 => assert!(READABLE.load(SeqCst), "a bug in deserialize"),
            4 => return Ok(Self { seen: seen + 1 }),
            5 if !READABLE.load(SeqCst) => return Err(serde::de::Error::custom("it cannot be read")),
            _ => {}
        }
        Ok(Self { seen })
    }
}

impl<const BUG: u8> Aggregate for Buggy<BUG> {
    type Event = Till;
    fn apply(&mut self, _: &Till) {
        self.seen += 1;
    }
    fn snapshots() -> Option<Snapshots<Self>> {
        assert_ne!(BUG, 6, "a bug in snapshots()");
        Some(Snapshots::every(5))
    }
}

async fn buggy<const BUG: u8>(place: &Place, written: u64, trouble: &str) {
    let before = place.status();
    let id = Buggy::<BUG>::id("1");
    for _ in 0..2 {
        READABLE.store(true, SeqCst);
        assert_eq!(place.with.load(&id).await.unwrap().state.seen, 10, "bug {BUG}");
        place.settled().await;
        READABLE.store(false, SeqCst);
        assert_eq!(place.with.load(&id).await.unwrap().state.seen, 10, "bug {BUG}");
        assert_eq!(place.with.load_at(&id, Revision(9)).await.unwrap().state.seen, 10, "bug {BUG}");
        place.settled().await;
    }
    let after = place.status();
    assert_eq!(after.written - before.written, written, "bug {BUG}: {after:?}");
    assert!(after.trouble.unwrap_or_default().contains(trouble), "bug {BUG}");
}

#[tokio::test]
async fn an_aggregate_with_a_bug_in_its_serde_loads_all_the_same() {
    let place = Place::new();
    place.pay(1..=10).await;
    buggy::<6>(&place, 0, "").await;
    buggy::<1>(&place, 0, "a bug in serialize").await;
    buggy::<2>(&place, 0, "it cannot be written").await;
    buggy::<3>(&place, 2, "a bug in deserialize").await;
    buggy::<4>(&place, 0, "does not come back from JSON as it was").await;
    buggy::<5>(&place, 2, "it cannot be read").await;
}

/// A state of which serde does not see all.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Forgetful {
    seen: i64,
    #[serde(skip)]
    unseen: i64,
}

impl Aggregate for Forgetful {
    type Event = Till;
    fn apply(&mut self, _: &Till) {
        (self.seen, self.unseen) = (self.seen + 1, self.unseen + 1);
    }
    fn snapshots() -> Option<Snapshots<Self>> {
        Some(Snapshots::every(5))
    }
}

#[tokio::test]
async fn a_state_that_serde_does_not_see_whole_is_not_kept() {
    let place = Place::new();
    place.pay(1..=10).await;
    for _ in 0..2 {
        let state = place.with.load(&Forgetful::id("1")).await.unwrap().state;
        assert_eq!(state, Forgetful { seen: 10, unseen: 10 });
        place.settled().await;
    }
    assert_eq!(place.snapshots.texts(), BTreeMap::new());
}

/// Whatever happens to a log, a load with snapshots shows what one without does.
#[tokio::test]
async fn a_random_life_is_the_same_with_snapshots() {
    let (mut random, mut used) = (seeded(), 0);
    for _ in 0..8 {
        let place = Place::new();
        for step in 0..150 {
            let any = ExpectedRevision::Any;
            place.clock.advance(Duration::from_secs(random.u64(0..3)));
            match random.u8(0..100) {
                0..2 => place.log.inner.begin_epoch(),
                2..4 => drop(place.log.delete(&stream(), any).await),
                4..8 => {
                    let some = |random: &mut fastrand::Rng, range| random.bool().then(|| random.u64(range));
                    let retention = match random.u8(0..3) {
                        0 => Retention::default(),
                        _ => Retention {
                            truncate_before: some(&mut random, 0..100).map(Revision),
                            max_count: some(&mut random, 1..20),
                            max_age_seconds: some(&mut random, 1..30),
                        },
                    };
                    place.log.set_retention(&stream(), any, retention).await.unwrap();
                }
                8..10 => drop(place.with.execute(&till(), Pay(step)).await.unwrap()),
                10..12 => {
                    let dropped = factum::NewEvent::json("Looked", &()).unwrap();
                    drop(place.log.append(Append::to(stream(), [dropped])).await.unwrap());
                }
                12..14 => place.with.snapshots().unwrap().forget(&stream()).await.unwrap(),
                _ => place.pay([step]).await,
            }
            let at = Revision(random.u64(0..80));
            let (with, without) =
                (place.with.load_at(&till(), at).await, place.without.load_at(&till(), at).await);
            assert_eq!(with, without, "step {step} at {at}");
            place.agree(&format!("step {step}")).await;
            if random.bool() {
                place.settled().await;
            }
        }
        used += place.status().used;
    }
    assert!(used > 0);
}

#[tokio::test]
async fn in_memory_the_streams_put_longest_ago_make_room() {
    let snapshots = MemorySnapshots::holding(2);
    let key =
        |n: u32| SnapshotKey { stream: StreamName::new(format!("till-{n}")).unwrap(), form: "f".into() };
    for n in [1, 2, 1, 3] {
        snapshots.put(&key(n), n.to_string()).await.unwrap();
    }
    let mut held = Vec::new();
    for n in 1..=3 {
        held.push(snapshots.get(&key(n)).await.unwrap());
    }
    assert_eq!(held, [Some("1".into()), None, Some("3".into())]);
}
