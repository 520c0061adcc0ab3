//! What a measurement is, and how it is taken.

use std::{
    fs,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::peer::{EVENT_BYTES, Failure, broken};

/// What came out of one measurement of one store.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// How many units of work a second.
    pub rate: f64,
    /// How many were done in the measured time.
    pub done: u64,
    /// The measured time.
    pub seconds: f64,
    /// How long one operation (an append, a read) took, in microseconds.
    pub p50_us: f64,
    /// The same, 99th percentile.
    pub p99_us: f64,
    /// The same, 99.9th percentile.
    pub p999_us: f64,
    /// Time on the processors, in microseconds for each unit: of the whole process, the callers' part included.
    pub cpu_us: f64,
    /// Bytes that the process sent towards the disk, for each unit.
    pub written: f64,
    /// Bytes that came from the disk, for each unit.
    #[serde(default)]
    pub fetched: f64,
    /// How long the store took to open, in milliseconds.
    #[serde(default)]
    pub open_ms: f64,
    /// How many processors other programs kept busy meanwhile.
    #[serde(default)]
    pub others: f64,
    /// How many operations were refused because a condition did not hold, and were tried again.
    pub conflicts: u64,
    /// How many times a file was synced, where it is known.
    pub syncs: Option<u64>,
    /// Anything else that is worth knowing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl Sample {
    /// The same with what single operations took, given in nanoseconds.
    pub fn with_latencies(self, latencies: &Histogram<u64>) -> Self {
        let us = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
        Self { p50_us: us(0.5), p99_us: us(0.99), p999_us: us(0.999), ..self }
    }
}

/// Latencies in nanoseconds, up to a minute, with three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3)
        .expect("the bounds are in order, and three digits are allowed")
}

/// What the process had used at an instant.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    when: Instant,
    cpu: Duration,
    written: u64,
    fetched: u64,
    busy: Duration,
}

impl Meter {
    /// Now.
    pub fn read() -> Self {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = Duration::new(cpu.tv_sec.unsigned_abs(), cpu.tv_nsec as u32);
        Self {
            when: Instant::now(),
            cpu,
            written: io("write_bytes: "),
            fetched: io("read_bytes: "),
            busy: busy(),
        }
    }

    /// What `done` units of work since then came to.
    pub fn sample(self, done: u64, latencies: &Histogram<u64>) -> Sample {
        let now = Self::read();
        let (seconds, units) = ((now.when - self.when).as_secs_f64(), done.max(1) as f64);
        Sample {
            rate: done as f64 / seconds,
            done,
            seconds,
            cpu_us: (now.cpu - self.cpu).as_secs_f64() * 1e6 / units,
            written: (now.written - self.written) as f64 / units,
            fetched: (now.fetched - self.fetched) as f64 / units,
            others: ((now.busy - self.busy).as_secs_f64() - (now.cpu - self.cpu).as_secs_f64()).max(0.0)
                / seconds,
            ..Sample::default()
        }
        .with_latencies(latencies)
    }
}

/// Bytes that this process has sent towards the disk, or had from it.
fn io(what: &str) -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix(what));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

/// Waits until other programs keep less than this many processors busy, but not for ever.
pub fn wait_for_calm(less_than: f64, at_most: Duration) {
    let began = Instant::now();
    while began.elapsed() < at_most {
        let meter = Meter::read();
        std::thread::sleep(Duration::from_millis(300));
        if meter.sample(1, &histogram()).others < less_than {
            return;
        }
    }
}

/// How long all processors together have been busy, or taken away by the machine's host.
fn busy() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let times = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    // user, nice, system, idle, waiting for a disk, interrupts, soft interrupts, stolen; in hundredths of a second.
    let times: Vec<u64> = times.filter_map(|time| time.parse().ok()).take(8).collect();
    let idle: u64 = times.iter().skip(3).take(2).sum();
    Duration::from_millis((times.iter().sum::<u64>() - idle) * 10)
}

/// What replaying a trace came to, as a sample of the same work.
pub fn of_replay(replayed: &crate::limit::Replayed, events: u64) -> Result<Sample, Failure> {
    if events == 0 || replayed.syncs == 0 {
        return Err(broken("there was nothing to do again"));
    }
    let seconds = replayed.elapsed.as_secs_f64();
    Ok(Sample {
        rate: events as f64 / seconds,
        done: events,
        seconds,
        written: replayed.bytes as f64 / events as f64,
        syncs: Some(replayed.syncs),
        note: format!(
            "{:.2} bytes per byte of data",
            replayed.bytes as f64 / (events as f64 * EVENT_BYTES as f64)
        ),
        others: replayed.others,
        ..Sample::default()
    }
    .with_latencies(&replayed.batches))
}

/// The middle of some figures.
pub fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(figures[middle]),
        _ => Some((figures[middle - 1] + figures[middle]) / 2.0),
    }
}
