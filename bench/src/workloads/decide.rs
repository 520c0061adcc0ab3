//! Decisions: read, decide, append on condition that nothing came between, and again if something did.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use hdrhistogram::Histogram;

use super::{Scale, Workload, append::Stage};
use crate::{
    measure::{Sample, histogram},
    peer::{Batch, Condition, Failure, Peer, Seen, Store, broken},
};

/// Streams among which the skewed writers choose; the n-th most popular is chosen in proportion to 1/n.
const STREAMS: u64 = 10_000;
/// Courses and students of a school; everyone enrols in everything.
const COURSES: u64 = 10;
const STUDENTS: u64 = 10;

/// What is decided.
#[derive(Clone, Copy, Debug)]
pub enum Decide {
    /// 64 threads load a stream, chosen by Zipf's law, and append one event at its revision.
    Skewed,
    /// 64 threads append to streams chosen by Zipf's law, unconditionally.
    SkewedAny,
    /// Students enrol in courses; so many students at a time.
    Courses(usize),
}

impl Decide {
    fn threads(self) -> usize {
        match self {
            Self::Skewed | Self::SkewedAny => 64,
            Self::Courses(threads) => threads,
        }
    }
}

impl Workload for Decide {
    fn id(&self) -> String {
        match self {
            Self::Skewed => "decide-zipf-64w".to_owned(),
            Self::SkewedAny => "append-zipf-any-64w-1ev".to_owned(),
            Self::Courses(threads) => format!("courses-{threads}w"),
        }
    }

    fn about(&self) -> String {
        match self {
            Self::Skewed => "load a stream, append at its revision, retry on conflict; 64 threads, 10,000 streams by Zipf's law".to_owned(),
            Self::SkewedAny => "append unconditional, 64 threads, 1 event each, 10,000 streams by Zipf's law".to_owned(),
            Self::Courses(threads) => format!(
                "10 students enrol in 10 courses, each a decision over both tags, {threads} at a time; then the next school"
            ),
        }
    }

    fn unit(&self) -> &'static str {
        "decisions"
    }

    fn is_quick(&self) -> bool {
        !matches!(self, Self::Courses(1))
    }

    fn run(&self, store: &Arc<dyn Store>, scale: Scale, _: &Path) -> Result<(Sample, u64), Failure> {
        let (stage, conflicts, turn) = (Stage::default(), AtomicU64::new(0), AtomicU64::new(0));
        let popularity = popularity();
        let decider = |number: usize| {
            let mut random = fastrand::Rng::with_seed(scale.seed.wrapping_add(number as u64 * 7919));
            let mut latencies = histogram();
            while !stage.is_over() {
                let began = Instant::now();
                let entity = match self {
                    Self::Courses(_) => turn.fetch_add(1, Ordering::Relaxed),
                    _ => choose(&popularity, random.f64()),
                };
                while !self.decide(store.as_ref(), entity)? {
                    conflicts.fetch_add(1, Ordering::Relaxed);
                }
                if stage.appended(1) {
                    latencies.saturating_record(began.elapsed().as_nanos() as u64);
                }
            }
            Ok::<Histogram<u64>, Failure>(latencies)
        };
        let decider = &decider;
        let (sample, tallies) = thread::scope(|scope| {
            let running: Vec<_> =
                (0..self.threads()).map(|number| scope.spawn(move || decider(number))).collect();
            let sample = stage.play(scale);
            let all = running.into_iter().map(|one| one.join().map_err(|_| broken("a decider panicked"))?);
            Ok::<_, Failure>((sample, all.collect::<Result<Vec<_>, _>>()?))
        })?;
        let mut latencies = histogram();
        tallies.iter().try_for_each(|tally| latencies.add(tally)).map_err(broken)?;
        let conflicts = conflicts.load(Ordering::Relaxed);
        Ok((Sample { conflicts, ..sample.with_latencies(&latencies) }, stage.all()))
    }
}

impl Decide {
    /// Takes one decision. `false` if something came between.
    fn decide(&self, store: &dyn Store, entity: u64) -> Result<bool, Failure> {
        let batch = match self {
            Self::SkewedAny => Batch::new(entity, entity, 1),
            Self::Skewed => {
                let Seen { events, upto: after, .. } = store.read_entity(entity)?;
                Batch { condition: Condition::Revision { events, after }, ..Batch::new(entity, entity, 1) }
            }
            Self::Courses(_) => {
                let (school, both) = (entity / (COURSES * STUDENTS), entity % (COURSES * STUDENTS));
                let tags = vec![
                    format!("course:{school}-{}", both % COURSES),
                    format!("student:{school}-{}", both / COURSES),
                ];
                let seen = store.read_tags(&tags)?;
                if seen.events > COURSES + STUDENTS {
                    return Err(broken(format!("{} enrolments where there can be 20", seen.events)));
                }
                let condition = Condition::Tags { any_of: tags.clone(), after: seen.upto };
                Batch { condition, tags, ..Batch::new(school, entity, 1) }
            }
        };
        match store.append(batch) {
            Ok(_) => Ok(true),
            Err(Failure::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// How likely each stream, or one before it, is chosen.
fn popularity() -> Vec<f64> {
    let sums = (1..=STREAMS).scan(0.0, |sum, rank| {
        *sum += 1.0 / rank as f64;
        Some(*sum)
    });
    let sums: Vec<f64> = sums.collect();
    let total = sums.last().copied().unwrap_or(1.0);
    sums.into_iter().map(|sum| sum / total).collect()
}

fn choose(popularity: &[f64], at: f64) -> u64 {
    popularity.partition_point(|upto| *upto < at) as u64
}

/// A reader that begins at the beginning while others write.
#[derive(Clone, Copy, Debug)]
pub struct Follow;

/// Events in the log before, and writers.
const BEFORE: u64 = 204_800;
const WRITERS: u64 = 16;

impl Workload for Follow {
    fn id(&self) -> String {
        "follow-16w".to_owned()
    }

    fn about(&self) -> String {
        "a subscriber catches up 204,800 events while 16 threads append one event each; then it follows them to their end"
            .to_owned()
    }

    fn is_quick(&self) -> bool {
        true
    }

    fn cannot(&self, peer: &dyn Peer) -> Option<&'static str> {
        (peer.name() == "sketch").then_some("it has no subscriptions")
    }

    fn run(&self, store: &Arc<dyn Store>, scale: Scale, _: &Path) -> Result<(Sample, u64), Failure> {
        for chunk in 0..BEFORE / 512 {
            store.append(Batch::new(chunk % 100, chunk * 512, 512))?;
        }
        let (stage, last) = (Stage::default(), AtomicU64::new(u64::MAX));
        let seen = AtomicU64::new(0);
        let writer = |number: u64| {
            while !stage.is_over() {
                store.append(Batch::new(number, number, 1))?;
                stage.appended(1);
            }
            Ok::<_, Failure>(())
        };
        let writer = &writer;
        thread::scope(|scope| {
            let meter = crate::measure::Meter::read();
            let follower = scope.spawn(|| {
                store.follow(&mut |_| seen.fetch_add(1, Ordering::Relaxed) + 1 < last.load(Ordering::Relaxed))
            });
            let writers: Vec<_> = (0..WRITERS).map(|number| scope.spawn(move || writer(number))).collect();
            while seen.load(Ordering::Relaxed) < BEFORE && !follower.is_finished() {
                thread::sleep(std::time::Duration::from_millis(1));
            }
            let sample = meter.sample(seen.load(Ordering::Relaxed), &histogram());
            stage.play(Scale { warm_up: std::time::Duration::ZERO, ..scale });
            for writer in writers {
                writer.join().map_err(|_| broken("a writer panicked"))??;
            }
            let (all, stopped) = (BEFORE + stage.all() + 1, Instant::now());
            last.store(all, Ordering::SeqCst);
            // The follower may have seen everything before it could know that it was the end.
            store.append(Batch::new(0, 0, 1))?;
            follower.join().map_err(|_| broken("the subscriber panicked"))??;
            let (behind, got) = (stopped.elapsed().as_secs_f64() * 1e6, seen.load(Ordering::Relaxed));
            if got != all {
                return Err(broken(format!("the subscriber saw {got} events of {all}")));
            }
            let note = format!(
                "{} appended, all seen {} after the last",
                crate::report::number((all - BEFORE) as f64),
                crate::report::time(behind)
            );
            Ok((Sample { note, ..sample }, all))
        })
    }
}

/// All of them.
pub fn all() -> Vec<Box<dyn Workload>> {
    let decisions = [Decide::SkewedAny, Decide::Skewed, Decide::Courses(10), Decide::Courses(1)];
    let decisions = decisions.into_iter().map(|decision| Box::new(decision) as Box<dyn Workload>);
    decisions.chain([Box::new(Follow) as Box<dyn Workload>]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_stream_is_the_most_popular() {
        let popularity = popularity();
        assert_eq!(choose(&popularity, 0.0), 0);
        assert_eq!(choose(&popularity, 0.1), 0);
        assert!(choose(&popularity, 0.999_999) < STREAMS);
        assert!(popularity[0] > 0.1 && (popularity[STREAMS as usize - 1] - 1.0).abs() < 1e-9);
    }
}
