//! Publishing under load while the broker is killed, and what must be true of what its receivers then have.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use factum::{
    Append, EventStoreExt, Factum, MemoryReads, NewEvent, Query, Read, RecordedEvent, Sink, StreamName,
    Stuck, async_trait,
};
use factum_relay::{Arrival, Broker, Inbox, MemoryInbox, Message, MessageId, Relay, Stamp};
use fastrand::Rng;

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
}

/// What was published.
pub(crate) struct Published {
    events: Vec<RecordedEvent>,
    /// How often a batch was not taken as a whole.
    pub(crate) stuck: usize,
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
        let mut rng = Rng::with_seed(self.seed);
        let factum = super::log();
        while self.append(&factum, &mut rng).await < self.messages {}
        let events = all(&factum).await;
        let confirmed = Arc::new(AtomicUsize::new(0));
        let mut workers = Vec::new();
        for worker in 0..self.workers {
            let own = |event: &&RecordedEvent| {
                let number: u64 = event.stream.as_str()["order-".len()..].parse().unwrap();
                number % self.workers == worker
            };
            let events: Vec<RecordedEvent> = events.iter().filter(own).cloned().collect();
            let relay = self.relay(&factum, &broker, &confirmed);
            workers.push(tokio::spawn(work(relay, events, Rng::with_seed(rng.u64(..)))));
        }
        for round in 1..=rounds {
            self.blow(server, &confirmed, round, rounds, &mut rng).await;
        }
        let mut stuck = 0;
        for worker in workers {
            stuck += worker.await.unwrap();
        }
        Published { events, stuck }
    }

    /// The same under the runtime, while events are appended. Every other time, the relay is stopped and started again as well.
    pub(crate) async fn run<B: Broker>(
        &self,
        broker: Arc<B>,
        server: &mut impl Victim,
        rounds: usize,
    ) -> Published {
        let mut rng = Rng::with_seed(self.seed);
        let (factum, reads) = (super::log(), Arc::new(MemoryReads::new()));
        let confirmed = Arc::new(AtomicUsize::new(0));
        let start = || {
            let relay = self.relay(&factum, &broker, &confirmed);
            let partitions = u32::try_from(self.workers).unwrap();
            factum.sink(relay).partitions(partitions).start(reads.clone())
        };
        let mut processor = start().await.unwrap();
        for round in 1..=rounds {
            while self.append(&factum, &mut rng).await < self.messages * round / rounds {}
            self.blow(server, &confirmed, round, rounds, &mut rng).await;
            if round % 2 == 0 {
                processor.stop().await;
                processor = start().await.unwrap();
            }
        }
        let head = factum.store().head().await.unwrap().token;
        processor.wait_for_within(head, Duration::from_secs(60)).await.unwrap();
        assert!(
            processor.status().await.unwrap().partitions.iter().all(|partition| partition.dead_letters == 0)
        );
        processor.stop().await;
        Published { events: all(&factum).await, stuck: 0 }
    }

    fn relay<B: Broker>(
        &self,
        factum: &Factum,
        broker: &Arc<B>,
        confirmed: &Arc<AtomicUsize>,
    ) -> Relay<Counted<B>> {
        let broker = Counted { broker: Arc::clone(broker), confirmed: Arc::clone(confirmed) };
        Relay::new(factum, "out", Query::category("order"), broker)
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

    /// Kills the server when so much has been confirmed, and starts it again.
    async fn blow(
        &self,
        server: &mut impl Victim,
        confirmed: &AtomicUsize,
        round: usize,
        rounds: usize,
        rng: &mut Rng,
    ) {
        let until = self.messages * (2 * round - 1) / (2 * rounds) / 2;
        while confirmed.load(Ordering::Relaxed) < until {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(0..20))).await;
        server.kill();
        tokio::time::sleep(Duration::from_millis(rng.u64(0..100))).await;
        server.run().await;
    }
}

async fn all(factum: &Factum) -> Vec<RecordedEvent> {
    factum.store().read_to_end(Read::query(Query::category("order"))).await.unwrap()
}

/// A broker, and how much it has confirmed.
#[derive(Debug)]
struct Counted<B> {
    broker: Arc<B>,
    confirmed: Arc<AtomicUsize>,
}

#[async_trait]
impl<B: Broker> Broker for Counted<B> {
    async fn publish(&self, messages: &[Message]) -> Result<(), Stuck> {
        let published = self.broker.publish(messages).await;
        let done = published.as_ref().map_or_else(|stuck| stuck.done, |()| messages.len());
        self.confirmed.fetch_add(done, Ordering::Relaxed);
        published
    }
}

/// Publishes events as the runtime does: what is not confirmed again, from the first of it. How often it was stuck.
async fn work(relay: impl Sink, events: Vec<RecordedEvent>, mut rng: Rng) -> usize {
    let (mut done, mut stuck) = (0, 0);
    while done < events.len() {
        let batch = &events[done..events.len().min(done + rng.usize(1..=200))];
        done += match relay.accept(batch).await {
            Ok(()) => batch.len(),
            Err(why) => {
                assert!(why.trouble.is_infrastructure(), "{why:?}");
                assert!(why.done < batch.len(), "{why:?}");
                stuck += 1;
                tokio::time::sleep(Duration::from_millis(rng.u64(5..50))).await;
                why.done
            }
        };
    }
    stuck
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
        println!(
            "{name}: {} messages of {} keys received, {} of them repeats; {} batches were not taken as a whole",
            received.len(),
            expected.len(),
            received.len() - first.len(),
            self.stuck,
        );
    }
}
