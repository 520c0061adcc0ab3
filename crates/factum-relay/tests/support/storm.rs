//! Publishing under load while the broker is killed, and what must be true of what its receivers then have.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use factum::{
    Append, EventStoreExt, Factum, MemoryReads, NewEvent, Query, Read, RecordedEvent, Sink, StreamName,
    Stuck, Trouble, async_trait,
};
use factum_relay::{Arrival, Broker, Inbox, MemoryInbox, Message, MessageId, Relay, Stamp};
use fastrand::Rng;

use tokio::time::Instant;

use super::mischief::{Bug, Mischief};

/// A storm that has no end by then has none.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long a kill waits while nothing is under way.
const CALM: Duration = Duration::from_secs(2);
/// So many confirmations get lost on their way, each the last of so many calls.
const LOST: usize = 6;
const LOST_OF: usize = 5;
/// So late somebody notices: longer than NATS drops repeats by itself.
const NOTICED: Duration = Duration::from_millis(150);

/// What is harmed.
pub(crate) trait Victim {
    /// It is gone, at once.
    fn kill(&mut self);
    /// It is there again.
    fn run(&mut self) -> impl Future<Output = ()>;
}

/// A received message.
pub(crate) type Received = (Stamp, Vec<u8>);

/// How much is published, and how.
pub(crate) struct Storm {
    pub(crate) seed: u64,
    pub(crate) messages: usize,
    pub(crate) keys: u64,
    pub(crate) workers: u64,
    /// What is done wrong, to see that it is noticed.
    pub(crate) bug: Option<Bug>,
}

/// What was published.
pub(crate) struct Published {
    events: Vec<RecordedEvent>,
    /// How often the broker did not take a batch as a whole.
    stuck: usize,
    /// How often it was killed, and of these how often while messages were under way.
    kills: usize,
    hits: usize,
}

impl Storm {
    /// Publishes without the runtime: each worker the keys that are its own. So many times, when another part of it all has been
    /// confirmed, the server is killed and started again.
    pub(crate) async fn publish<B: Broker>(
        &self,
        broker: Arc<B>,
        server: &mut impl Victim,
        rounds: usize,
    ) -> Published {
        let watch = Watch::new(self.messages, rounds);
        let done = self.publish_until_all_is_confirmed(broker, server, rounds, &watch);
        watch.in_time(done).await
    }

    async fn publish_until_all_is_confirmed<B: Broker>(
        &self,
        broker: Arc<B>,
        server: &mut impl Victim,
        rounds: usize,
        watch: &Arc<Watch>,
    ) -> Published {
        let mut rng = Rng::with_seed(self.seed);
        let factum = super::log();
        while self.append(&factum, &mut rng).await < self.messages {}
        let events = all(&factum).await;
        let mut workers = Vec::new();
        for worker in 0..self.workers {
            let own = |event: &&RecordedEvent| {
                let number: u64 = event.stream.as_str()["order-".len()..].parse().unwrap();
                number % self.workers == worker
            };
            let events: Vec<RecordedEvent> = events.iter().filter(own).cloned().collect();
            let relay = self.relay(&factum, &broker, watch);
            workers.push(tokio::spawn(work(relay, events, Rng::with_seed(rng.u64(..)))));
        }
        for round in 1..=rounds {
            self.blow(server, watch, round, rounds, &mut rng).await;
        }
        for worker in workers {
            worker.await.unwrap();
        }
        watch.nothing_is_under_way().await;
        watch.published(events)
    }

    /// The same under the runtime, while events are appended. Every other time, the relay is stopped and started again as well.
    pub(crate) async fn run<B: Broker>(
        &self,
        broker: Arc<B>,
        server: &mut impl Victim,
        rounds: usize,
    ) -> Published {
        let watch = Watch::new(self.messages, rounds);
        let done = self.run_until_all_is_confirmed(broker, server, rounds, &watch);
        watch.in_time(done).await
    }

    async fn run_until_all_is_confirmed<B: Broker>(
        &self,
        broker: Arc<B>,
        server: &mut impl Victim,
        rounds: usize,
        watch: &Arc<Watch>,
    ) -> Published {
        let mut rng = Rng::with_seed(self.seed);
        let (factum, reads) = (super::log(), Arc::new(MemoryReads::new()));
        let start = || {
            let relay = self.relay(&factum, &broker, watch);
            let partitions = u32::try_from(self.workers).unwrap();
            factum.sink(relay).partitions(partitions).start(reads.clone())
        };
        let mut processor = start().await.unwrap();
        for round in 1..=rounds {
            while self.append(&factum, &mut rng).await < self.messages * round / rounds {}
            self.blow(server, watch, round, rounds, &mut rng).await;
            if round % 2 == 0 {
                processor.stop().await;
                processor = start().await.unwrap();
            }
        }
        let head = factum.store().head().await.unwrap().token;
        processor.wait_for_within(head, DEADLINE).await.unwrap();
        assert!(
            processor.status().await.unwrap().partitions.iter().all(|partition| partition.dead_letters == 0)
        );
        processor.stop().await;
        watch.nothing_is_under_way().await;
        watch.published(all(&factum).await)
    }

    fn relay<B: Broker>(
        &self,
        factum: &Factum,
        broker: &Arc<B>,
        watch: &Arc<Watch>,
    ) -> Relay<Mischief<Watched<B>>> {
        let broker = Watched { broker: Arc::clone(broker), watch: Arc::clone(watch) };
        Relay::new(factum, "out", Query::category("order"), Mischief::new(broker, self.bug))
    }

    /// Records some more events, and says how many there are.
    async fn append(&self, factum: &Factum, rng: &mut Rng) -> usize {
        let mut append = Append::new();
        for _ in 0..rng.usize(1..=500) {
            let stream = StreamName::new(format!("order-{}", rng.u64(0..self.keys))).unwrap();
            let data = serde_json::json!({ "n": rng.u64(..), "text": "x".repeat(rng.usize(0..400)) });
            append = append.write(stream, [NewEvent::json("Placed", &data).unwrap()]);
        }
        factum.store().append(append).await.unwrap();
        usize::try_from(factum.store().head().await.unwrap().token.position.0).unwrap()
    }

    /// Kills the server when so much has been confirmed and more is under way, and starts it again.
    async fn blow(
        &self,
        server: &mut impl Victim,
        watch: &Watch,
        round: usize,
        rounds: usize,
        rng: &mut Rng,
    ) {
        let until = self.messages * (2 * round - 1) / (2 * rounds) / 2;
        // With a bug, what was lost will not be confirmed.
        let calm = if self.bug.is_some() { CALM / 20 } else { CALM };
        let mut busy = Instant::now();
        while watch.confirmed.load(Ordering::Relaxed) < until && busy.elapsed() < calm {
            if !watch.under_way().is_empty() {
                busy = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(0..20))).await;
        let mut under_way = watch.under_way();
        while under_way.is_empty() && busy.elapsed() < calm {
            tokio::time::sleep(Duration::from_micros(100)).await;
            under_way = watch.under_way();
        }
        server.kill();
        watch.was_killed(&under_way);
        tokio::time::sleep(Duration::from_millis(rng.u64(0..100))).await;
        server.run().await;
    }
}

async fn all(factum: &Factum) -> Vec<RecordedEvent> {
    factum.store().read_to_end(Read::query(Query::category("order"))).await.unwrap()
}

/// What a storm sees of its broker.
struct Watch {
    messages: usize,
    rounds: usize,
    confirmed: AtomicUsize,
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    begun: usize,
    succeeded: usize,
    under_way: HashSet<usize>,
    failed: HashSet<usize>,
    trouble: Option<Trouble>,
    kills: usize,
    hits: usize,
}

impl Watch {
    fn new(messages: usize, rounds: usize) -> Arc<Self> {
        Arc::new(Self { messages, rounds, confirmed: AtomicUsize::new(0), calls: Mutex::default() })
    }

    /// Of these that were under way, some were not yet confirmed when it was over.
    fn was_killed(&self, under_way: &HashSet<usize>) {
        let mut calls = self.calls.lock().unwrap();
        calls.kills += 1;
        let hit = under_way.iter().any(|call| calls.under_way.contains(call) || calls.failed.contains(call));
        calls.hits += usize::from(hit);
    }

    fn under_way(&self) -> HashSet<usize> {
        self.calls.lock().unwrap().under_way.clone()
    }

    async fn nothing_is_under_way(&self) {
        while !self.under_way().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn in_time(&self, storm: impl Future<Output = Published>) -> Published {
        let ended = tokio::time::timeout(DEADLINE, storm).await;
        let Self { messages, rounds, confirmed, .. } = self;
        let calls = self.calls.lock().unwrap();
        ended.unwrap_or_else(|_| {
            let (confirmed, kills) = (confirmed.load(Ordering::Relaxed), calls.kills);
            panic!(
                "the storm has no end after {DEADLINE:?}: {confirmed} confirmations of {messages} messages and more, {kills} of {rounds} kills, the last trouble was {:?}",
                calls.trouble
            )
        })
    }

    fn published(&self, events: Vec<RecordedEvent>) -> Published {
        let calls = self.calls.lock().unwrap();
        Published { events, stuck: calls.failed.len(), kills: calls.kills, hits: calls.hits }
    }
}

/// A broker, and what is seen of it. A few of its confirmations get lost on their way.
struct Watched<B> {
    broker: Arc<B>,
    watch: Arc<Watch>,
}

impl<B> std::fmt::Debug for Watched<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watched")
    }
}

/// A call that is under way, until it is dropped.
struct Call<'w>(&'w Watch, usize);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.0.calls.lock().unwrap().under_way.remove(&self.1);
    }
}

#[async_trait]
impl<B: Broker> Broker for Watched<B> {
    async fn publish(&self, messages: &[Message]) -> Result<(), Stuck> {
        let call = {
            let mut calls = self.watch.calls.lock().unwrap();
            calls.begun += 1;
            let call = calls.begun;
            calls.under_way.insert(call);
            Call(&self.watch, call)
        };
        let published = self.broker.publish(messages).await;
        let done = published.as_ref().map_or_else(|stuck| stuck.done, |()| messages.len());
        self.watch.confirmed.fetch_add(done, Ordering::Relaxed);
        let lost = {
            let mut calls = self.watch.calls.lock().unwrap();
            match &published {
                Ok(()) => calls.succeeded += 1,
                Err(stuck) => {
                    calls.failed.insert(call.1);
                    calls.trouble = Some(stuck.trouble.clone());
                }
            }
            published.is_ok() && calls.succeeded.is_multiple_of(LOST_OF) && calls.succeeded <= LOST * LOST_OF
        };
        drop(call);
        if lost {
            tokio::time::sleep(NOTICED).await;
            let trouble = Trouble::infrastructure("the confirmation got lost on its way");
            return Err(Stuck { done: messages.len() / 2, trouble });
        }
        published
    }
}

/// Publishes events as the runtime does: what is not confirmed again, from the first of it.
async fn work(relay: impl Sink, events: Vec<RecordedEvent>, mut rng: Rng) {
    let mut done = 0;
    while done < events.len() {
        let batch = &events[done..events.len().min(done + rng.usize(1..=200))];
        done += match relay.accept(batch).await {
            Ok(()) => batch.len(),
            Err(why) => {
                assert!(why.trouble.is_infrastructure(), "{why:?}");
                assert!(why.done < batch.len(), "{why:?}");
                tokio::time::sleep(Duration::from_millis(rng.u64(5..50))).await;
                why.done
            }
        };
    }
}

impl Published {
    /// Nothing is lost, what comes twice has the same id, and each key is in order: for who drops repeats, and in what comes first.
    pub(crate) async fn check(&self, name: &str, received: &[Received]) {
        let mut expected: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        let mut data: HashMap<u64, &[u8]> = HashMap::new();
        for event in &self.events {
            expected.entry(event.stream.as_str()).or_default().push(event.position.0);
            data.insert(event.position.0, &event.data);
        }
        let mut inbox = MemoryInbox::default();
        let mut taken: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        let mut first: HashMap<MessageId, u64> = HashMap::new();
        for (stamp, body) in received {
            let position = stamp.id.position.0;
            assert_eq!(data.get(&position), Some(&&body[..]), "{} has another body than its event", stamp.id);
            *first.entry(stamp.id).or_default() += 1;
            match inbox.arrive(stamp).await.unwrap() {
                Arrival::New => taken.entry(&stamp.key).or_default().push(position),
                Arrival::Repeat => {
                    assert!(first[&stamp.id] > 1, "{} came late, and not as a repeat", stamp.id);
                }
                Arrival::Rewound => panic!("{} of another history", stamp.id),
            }
        }
        assert_eq!(first.len(), self.events.len(), "messages were lost or invented");
        assert_eq!(taken, expected, "a key is not whole, or not in order");
        let repeats = received.len() - first.len();
        assert!(repeats > 0, "confirmations got lost, and nothing was published again");
        let Self { stuck, kills, hits, .. } = self;
        assert!(hits * 2 >= *kills, "of {kills} kills only {hits} came while messages were under way");
        assert!(*kills == 0 || *stuck > 0, "{kills} kills, and the broker took everything at once");
        println!(
            "{name}: {} messages of {} keys received, {repeats} of them repeats; killed {kills} times, {hits} while messages were under way; {stuck} batches were not taken as a whole",
            received.len(),
            expected.len(),
        );
    }
}
