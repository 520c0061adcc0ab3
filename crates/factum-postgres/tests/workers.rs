//! Workers of a consumer in several processes: stopped for longer than their leases and resumed, killed, drained. What is done under an
//! event's id is there once, in the order of its key, whoever did it.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    io::Read as _,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use factum::{Append, EventStore, EventStoreExt, NewEvent, Read, ReadStore, StreamName, Trouble, prelude::*};
use factum_postgres::{Options, PostgresStore};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use support::{
    bench::{Bench, until},
    proof,
};

/// Names the schema, in a process that is a worker.
const WORKER: &str = "FACTUM_TEST_WORKER";
/// For how long nobody else has what a worker does not keep.
const LEASE: Duration = Duration::from_millis(300);
const PARTITIONS: u32 = 4;
const KEYS: u64 = 40;
const WORKERS: usize = 3;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum OrderEvent {
    Placed { n: u64 },
}

impl Event for OrderEvent {
    const CATEGORY: &'static str = "order";
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum ParcelEvent {
    Sent { n: u64 },
}

impl Event for ParcelEvent {
    const CATEGORY: &'static str = "parcel";
}

#[derive(Default)]
struct Parcel;

impl Aggregate for Parcel {
    type Event = ParcelEvent;
    fn apply(&mut self, _: &ParcelEvent) {}
}

#[derive(Serialize)]
struct Send {
    n: u64,
}

impl factum::Command<Parcel> for Send {
    type Error = Infallible;
    fn decide(&self, _: &Parcel) -> Result<Vec<ParcelEvent>, Infallible> {
        Ok(vec![ParcelEvent::Sent { n: self.n }])
    }
}

/// Sends a parcel for each order.
struct Shipping {
    factum: Factum,
}

#[factum::async_trait]
impl factum::EventHandler for Shipping {
    const NAME: &'static str = "shipping";
    type Event = OrderEvent;

    async fn handle(&self, event: &Recorded<OrderEvent>) -> Result<(), Trouble> {
        let OrderEvent::Placed { n } = event.event;
        // Whoever is stopped is often stopped here: with an event in hand.
        tokio::time::sleep(Duration::from_millis(3)).await;
        let parcel = Parcel::id(event.record.stream.id());
        self.factum.caused_by(&event.record).identified(event.record.id).execute(&parcel, Send { n }).await?;
        Ok(())
    }
}

async fn open(schema: &str) -> Arc<PostgresStore> {
    let options = Options { schema: schema.to_owned(), connections: 6, ..Options::default() };
    Arc::new(PostgresStore::open(&support::url(), options).await.unwrap())
}

/// Not a test: what a worker's process does, until its input ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker() {
    let Ok(schema) = std::env::var(WORKER) else { return };
    let store = open(&schema).await;
    let factum = Factum::from_arc(store.clone());
    let processing = factum.handler(Shipping { factum: factum.clone() }).partitions(PARTITIONS).lease(LEASE);
    let processor = processing.start(Arc::new(store.reads())).await.unwrap();
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    ended.await.unwrap().unwrap();
    processor.stop().await;
}

/// A worker's process.
struct Worker(Child);

impl Worker {
    fn start(schema: &str) -> Self {
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.args(["--exact", "worker"]).env(WORKER, schema);
        Self(program.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Has it finish what is in hand.
    fn drain(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success(), "a worker ends well when it is told to");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

/// Places orders until it is over. How many.
async fn write(store: Arc<PostgresStore>, over: Arc<AtomicBool>) -> u64 {
    let mut n = 0;
    while !over.load(Ordering::SeqCst) {
        let event = NewEvent::json("Placed", &json!({ "n": n })).unwrap();
        let stream = StreamName::new(format!("order-{}", n % KEYS)).unwrap();
        store.append(Append::to(stream, [event])).await.unwrap();
        n += 1;
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    n
}

/// Each order was sent once, and those of a key in their order.
fn check(parcels: &[Recorded<ParcelEvent>], orders: u64, seed: u64) {
    let (mut of_key, mut once) = (BTreeMap::<String, Vec<u64>>::new(), HashSet::new());
    for parcel in parcels {
        let ParcelEvent::Sent { n } = parcel.event;
        assert!(once.insert(n), "order {n} was sent twice (seed {seed})");
        of_key.entry(parcel.record.stream.id().to_owned()).or_default().push(n);
    }
    assert_eq!(once.len() as u64, orders, "each order was sent");
    assert!(of_key.values().all(|sent| sent.is_sorted()), "each key in its order (seed {seed}): {of_key:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_stopped_past_its_lease_and_resumed_does_nothing_twice() {
    let (bench, seed) = (Bench::new().await, proof::seed());
    let mut random = fastrand::Rng::with_seed(seed);
    let mut workers: Vec<_> = (0..WORKERS).map(|_| Worker::start(&bench.schema)).collect();
    let over = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(bench.store.clone(), over.clone()));
    let rounds = proof::scaled(20, 100);
    let (mut stopped, mut killed, mut drained) = (0, 0, 0);
    for round in 0..rounds {
        let which = random.usize(0..WORKERS);
        match if round % 3 == 0 { random.u32(1..3) } else { 0 } {
            1 => {
                workers[which].send(Signal::KILL);
                workers[which] = Worker::start(&bench.schema);
                killed += 1;
            }
            2 => {
                std::mem::replace(&mut workers[which], Worker::start(&bench.schema)).drain();
                drained += 1;
            }
            _ => {
                workers[which].send(Signal::STOP);
                // Longer than its lease, so that the others take over.
                tokio::time::sleep(LEASE.mul_f64(1.2 + random.f64())).await;
                workers[which].send(Signal::CONT);
                stopped += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(random.u64(0..200))).await;
    }
    over.store(true, Ordering::SeqCst);
    let orders = writer.await.unwrap();
    let sent = async || {
        let parcels = bench.store.read_to_end(Read::query(ParcelEvent::query().unwrap())).await.unwrap();
        Recorded::<ParcelEvent>::decode_all(parcels).unwrap()
    };
    // However slow the machine is: as long as more and more is sent, it is waited for.
    let mut before = 0;
    while before < orders {
        let mut now = before;
        until(async || {
            now = sent().await.len() as u64;
            now > before
        })
        .await;
        before = now;
    }
    workers.into_iter().for_each(Worker::drain);
    let held = bench.store.reads().holds().held("shipping/").await.unwrap();
    assert!(held.is_empty(), "whoever was drained holds nothing: {held:?}");
    check(&sent().await, orders, seed);
    proof::tell(
        "workers",
        &json!({ "seed": seed, "orders": orders, "stopped past the lease": stopped, "killed": killed, "drained": drained, "sent twice": 0, "lost": 0 }),
    );
}
