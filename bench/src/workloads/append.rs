//! Appends, by many writers at once.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use hdrhistogram::Histogram;

use super::{Scale, Workload};
use crate::{
    measure::{Meter, Sample, histogram},
    peer::{Batch, Condition, Failure, Store, broken, tag_of},
};

/// Entities that belong to one writer alone, so that conditions hold.
const ENTITIES: u64 = 64;

/// Who appends at the same time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Writers {
    /// So many threads, each waiting for its append.
    Threads(usize),
    /// So many tasks on a runtime with as many threads as there are processors.
    Tasks(usize),
}

/// What an append demands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Demand {
    /// Nothing.
    Nothing,
    /// That the stream is at the revision last seen.
    Revision,
    /// That no event with the entity's tag came after the last one seen.
    Tags,
}

/// One combination.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    events: usize,
    writers: Writers,
    demand: Demand,
    quick: bool,
}

/// All combinations.
pub fn cells() -> Vec<Cell> {
    use {Demand::*, Writers::*};
    let quick = [
        (1, Threads(64), Tags),
        (1, Tasks(64), Tags),
        (512, Threads(64), Tags),
        (1, Threads(1), Tags),
        (1, Tasks(1024), Tags),
        (1, Threads(64), Nothing),
        (1, Threads(64), Revision),
        (64, Threads(16), Revision),
    ];
    let mut cells: Vec<_> =
        quick.map(|(events, writers, demand)| Cell { events, writers, demand, quick: true }).into();
    for demand in [Tags, Revision, Nothing] {
        for events in [1, 64, 512] {
            for writers in [Threads(1), Threads(16), Threads(64), Threads(256), Tasks(64), Tasks(1024)] {
                if !quick.contains(&(events, writers, demand)) {
                    cells.push(Cell { events, writers, demand, quick: false });
                }
            }
        }
    }
    cells
}

impl Workload for Cell {
    fn id(&self) -> String {
        let writers = match self.writers {
            Writers::Threads(count) => format!("{count}w"),
            Writers::Tasks(count) => format!("{count}tasks"),
        };
        let demand = match self.demand {
            Demand::Nothing => "any",
            Demand::Revision => "revision",
            Demand::Tags => "tag",
        };
        format!("append-{demand}-{writers}-{}ev", self.events)
    }

    fn about(&self) -> String {
        let writers = match self.writers {
            Writers::Threads(1) => "1 thread".to_owned(),
            Writers::Threads(count) => format!("{count} threads"),
            Writers::Tasks(count) => format!("{count} tasks"),
        };
        let demand = match self.demand {
            Demand::Nothing => "unconditional",
            Demand::Revision => "at the expected revision",
            Demand::Tags => "on condition of a tag",
        };
        let events = if self.events == 1 { "1 event".to_owned() } else { format!("{} events", self.events) };
        format!("append {demand}, {writers}, {events} each")
    }

    fn has_limit(&self) -> bool {
        true
    }

    fn is_quick(&self) -> bool {
        self.quick
    }

    fn run(&self, store: &Arc<dyn Store>, scale: Scale, _: &Path) -> Result<(Sample, u64), Failure> {
        let stage = Arc::new(Stage::default());
        let (count, tasks) = match self.writers {
            Writers::Threads(count) => (count, false),
            Writers::Tasks(count) => (count, true),
        };
        let writers = (0..count as u64).map(|number| Writer::new(number, scale.seed, *self));
        let (sample, tallies) = if tasks {
            let runtime = tokio::runtime::Builder::new_multi_thread().build().map_err(broken)?;
            let running: Vec<_> =
                writers.map(|writer| runtime.spawn(in_task(writer, store.clone(), stage.clone()))).collect();
            let sample = stage.play(scale);
            let all = running.into_iter().map(|task| runtime.block_on(task).map_err(broken)?);
            (sample, all.collect::<Result<Vec<_>, _>>()?)
        } else {
            thread::scope(|scope| {
                let running: Vec<_> =
                    writers.map(|writer| scope.spawn(|| in_thread(writer, store.as_ref(), &stage))).collect();
                let sample = stage.play(scale);
                let joined = |thread: thread::ScopedJoinHandle<'_, _>| {
                    thread.join().map_err(|_| broken("a writer panicked"))?
                };
                Ok::<_, Failure>((sample, running.into_iter().map(joined).collect::<Result<Vec<_>, _>>()?))
            })?
        };
        let mut latencies = histogram();
        for tally in &tallies {
            latencies.add(tally).map_err(broken)?;
        }
        Ok((sample.with_latencies(&latencies), stage.all()))
    }
}

/// Where the measurement stands.
#[derive(Default)]
pub struct Stage {
    /// 0 while it warms up, 1 while it counts, 2 when it is over.
    now: AtomicU8,
    /// Events acknowledged while it counted.
    counted: AtomicU64,
    /// Events acknowledged at any time.
    all: AtomicU64,
}

impl Stage {
    /// Lets the writers warm up, lets them count, and ends it.
    pub fn play(&self, scale: Scale) -> Sample {
        thread::sleep(scale.warm_up);
        let meter = Meter::read();
        self.now.store(1, Ordering::SeqCst);
        thread::sleep(scale.time);
        let counted = self.counted.load(Ordering::SeqCst);
        let sample = meter.sample(counted, &histogram());
        self.now.store(2, Ordering::SeqCst);
        sample
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.now.load(Ordering::Relaxed) == 2
    }

    /// Events acknowledged at any time.
    pub fn all(&self) -> u64 {
        self.all.load(Ordering::SeqCst)
    }

    /// Takes note of an append. Returns whether it counts.
    pub fn appended(&self, events: u64) -> bool {
        self.all.fetch_add(events, Ordering::Relaxed);
        let counts = self.now.load(Ordering::Relaxed) == 1;
        if counts {
            self.counted.fetch_add(events, Ordering::Relaxed);
        }
        counts
    }
}

/// One that appends, and what it remembers of its entities.
struct Writer {
    number: u64,
    cell: Cell,
    random: fastrand::Rng,
    next: u64,
    /// Events, and the last position, of each entity.
    known: Vec<(u64, u64)>,
    latencies: Histogram<u64>,
}

impl Writer {
    fn new(number: u64, seed: u64, cell: Cell) -> Self {
        let random = fastrand::Rng::with_seed(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let known = vec![(0, 0); ENTITIES as usize];
        Self { number, cell, random, next: number << 32, known, latencies: histogram() }
    }

    /// The next append, and which of its entities it is about.
    fn batch(&mut self) -> (usize, Batch) {
        let own = self.random.usize(..ENTITIES as usize);
        let entity = self.number * ENTITIES + own as u64;
        let (events, after) = self.known[own];
        let mut batch = Batch::new(entity, self.next, self.cell.events);
        self.next += self.cell.events as u64;
        batch.condition = match self.cell.demand {
            Demand::Nothing => Condition::None,
            Demand::Revision => Condition::Revision { events, after },
            Demand::Tags => Condition::Tags { any_of: vec![tag_of(entity)], after },
        };
        (own, batch)
    }

    fn appended(&mut self, own: usize, position: u64, began: Instant, stage: &Stage) {
        self.known[own] = (self.known[own].0 + self.cell.events as u64, position);
        if stage.appended(self.cell.events as u64) {
            self.latencies.saturating_record(began.elapsed().as_nanos() as u64);
        }
    }
}

fn in_thread(mut writer: Writer, store: &dyn Store, stage: &Stage) -> Result<Histogram<u64>, Failure> {
    while !stage.is_over() {
        let began = Instant::now();
        let (own, batch) = writer.batch();
        let position = store.append(batch)?;
        writer.appended(own, position, began, stage);
    }
    Ok(writer.latencies)
}

async fn in_task(
    mut writer: Writer,
    store: Arc<dyn Store>,
    stage: Arc<Stage>,
) -> Result<Histogram<u64>, Failure> {
    while !stage.is_over() {
        let began = Instant::now();
        let (own, batch) = writer.batch();
        let position = store.clone().append_in_task(batch).await?;
        writer.appended(own, position, began, &stage);
    }
    Ok(writer.latencies)
}
