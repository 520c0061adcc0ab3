//! Reads of a log of a million events: one entity's, a scan of all, a scan of one type.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use hdrhistogram::Histogram;

use super::{Scale, Workload, data::EVENTS_EACH};
use crate::{
    machine::forget,
    measure::{Meter, Sample, histogram},
    peer::{Failure, Peer, Seen, Store, TYPES, broken, tag_of},
};

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    /// An entity: its stream where there are streams, its tag elsewhere.
    Entity,
    /// An entity, by its tag everywhere.
    Tag,
    /// Everything.
    All,
    /// The events of one type out of ten.
    OneType,
}

/// A way of reading.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    what: What,
    readers: usize,
    cold: bool,
    entities: u64,
    quick: bool,
}

/// All ways.
pub fn all() -> Vec<Reading> {
    let of = |what, readers, cold, quick| Reading { what, readers, cold, entities: 50_000, quick };
    let million = [
        of(What::Entity, 1, false, true),
        of(What::Entity, 16, false, true),
        of(What::Tag, 1, false, false),
        of(What::Tag, 16, false, false),
        of(What::Entity, 16, true, true),
        of(What::Entity, 1, true, false),
        of(What::All, 1, false, true),
        of(What::All, 1, true, false),
        of(What::OneType, 1, false, false),
    ];
    let ten =
        [million[0], million[4], million[6]].map(|it| Reading { entities: 500_000, quick: false, ..it });
    million.into_iter().chain(ten).collect()
}

impl Workload for Reading {
    fn id(&self) -> String {
        let what = match self.what {
            What::Entity => "read",
            What::Tag => "read-tag",
            What::All => "scan",
            What::OneType => "scan-type",
        };
        let cold = if self.cold { "cold" } else { "warm" };
        let readers = match self.what {
            What::Entity | What::Tag => format!("-{}r", self.readers),
            What::All | What::OneType => String::new(),
        };
        let size = if self.entities > 50_000 { "-10M" } else { "" };
        format!("{what}-{cold}{readers}{size}")
    }

    fn about(&self) -> String {
        let millions = self.entities * EVENTS_EACH / 1_000_000;
        let what = match self.what {
            What::Entity => format!("load streams of 20 events among {millions} M"),
            What::Tag => format!("read by tag: 20 events among {millions} M"),
            What::All => format!("read all of {millions} M events"),
            What::OneType => format!("read the events of one type, a tenth of {millions} M"),
        };
        let cache = if self.cold {
            "not in the page cache (fadvise DONTNEED after opening)"
        } else {
            "in the page cache"
        };
        let readers =
            if self.readers == 1 { "1 reader".to_owned() } else { format!("{} readers", self.readers) };
        format!("{what}, {cache}, {readers}")
    }

    fn is_quick(&self) -> bool {
        self.quick
    }

    fn entities(&self) -> Option<u64> {
        Some(self.entities)
    }

    fn cannot(&self, peer: &dyn Peer) -> Option<&'static str> {
        (self.what == What::OneType && peer.name() == "sketch").then_some("it keeps no types")
    }

    fn run(&self, store: &Arc<dyn Store>, scale: Scale, directory: &Path) -> Result<(Sample, u64), Failure> {
        if self.cold {
            forget(directory)?;
        }
        match self.what {
            What::All => self.scan(store.as_ref(), None, 1),
            What::OneType => self.scan(store.as_ref(), Some(TYPES[3]), TYPES.len() as u64),
            What::Entity | What::Tag => self.selective(store.as_ref(), scale),
        }
    }
}

impl Reading {
    fn scan(&self, store: &dyn Store, event_type: Option<&str>, part: u64) -> Result<(Sample, u64), Failure> {
        if !self.cold {
            store.scan(event_type)?;
        }
        let meter = Meter::read();
        let seen = store.scan(event_type)?;
        let sample = meter.sample(seen.events, &histogram());
        expect(seen, self.entities * EVENTS_EACH / part)?;
        Ok((sample, seen.events))
    }

    fn selective(&self, store: &dyn Store, scale: Scale) -> Result<(Sample, u64), Failure> {
        let (counting, over, counted) =
            (AtomicBool::new(self.cold), AtomicBool::new(false), AtomicU64::new(0));
        let reader = |number: usize| {
            let mut random = fastrand::Rng::with_seed(scale.seed ^ (number as u64) << 32);
            let mut latencies = histogram();
            while !over.load(Ordering::Relaxed) {
                let (entity, began) = (random.u64(..self.entities), Instant::now());
                let seen = match self.what {
                    What::Tag => store.read_tags(&[tag_of(entity)])?,
                    _ => store.read_entity(entity)?,
                };
                expect(seen, EVENTS_EACH)?;
                if counting.load(Ordering::Relaxed) {
                    counted.fetch_add(EVENTS_EACH, Ordering::Relaxed);
                    latencies.saturating_record(began.elapsed().as_nanos() as u64);
                }
            }
            Ok(latencies)
        };
        let reader = &reader;
        let (sample, tallies) = thread::scope(|scope| {
            let readers: Vec<_> =
                (0..self.readers).map(|number| scope.spawn(move || reader(number))).collect();
            if !self.cold {
                thread::sleep(scale.warm_up);
            }
            let meter = Meter::read();
            counting.store(true, Ordering::SeqCst);
            thread::sleep(scale.time);
            let sample = meter.sample(counted.load(Ordering::SeqCst), &histogram());
            over.store(true, Ordering::SeqCst);
            let joined =
                readers.into_iter().map(|reader| reader.join().map_err(|_| broken("a reader panicked"))?);
            Ok::<_, Failure>((sample, joined.collect::<Result<Vec<Histogram<u64>>, _>>()?))
        })?;
        let mut latencies = histogram();
        tallies.iter().try_for_each(|tally| latencies.add(tally)).map_err(broken)?;
        Ok((sample.with_latencies(&latencies), 0))
    }
}

fn expect(seen: Seen, events: u64) -> Result<(), Failure> {
    match seen.events == events {
        true => Ok(()),
        false => Err(broken(format!("it gave {} events where {events} were appended", seen.events))),
    }
}
