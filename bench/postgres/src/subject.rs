//! What is measured, and how.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use serde::Serialize;

/// Why a measurement cannot go on.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Events of a stream, before a writer goes on to the next.
pub const STREAM: u64 = 20;

/// Somewhere to append to.
#[async_trait]
pub trait Subject: Send + Sync {
    fn name(&self) -> &'static str;

    /// Appends one event to a stream, as its event number `revision`; `after` is what the append before it in the stream gave.
    async fn append(&self, writer: usize, stream: &str, revision: u64, after: i64) -> Result<i64, Failure>;
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

impl Sample {
    pub fn of(mut took: Vec<Duration>, time: Duration) -> Self {
        took.sort_unstable();
        let at = |share: f64| {
            let place = (took.len() as f64 * share) as usize;
            took.get(place.min(took.len().saturating_sub(1)))
                .map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
        };
        Self { rate: took.len() as f64 / time.as_secs_f64(), p50_ms: at(0.5), p99_ms: at(0.99) }
    }
}

/// Writers that each append one event after the other, to streams of their own.
pub async fn measure(
    subject: &Arc<dyn Subject>,
    writers: usize,
    round: usize,
    time: Duration,
) -> Result<Sample, Failure> {
    let begun = Instant::now();
    let write = |writer: usize| {
        let subject = subject.clone();
        tokio::spawn(async move {
            let mut took = Vec::new();
            for n in 0.. {
                let stream = format!("account-{round}.{writers}.{writer}.{n}");
                let mut after = 0;
                for revision in 0..STREAM {
                    if begun.elapsed() >= time {
                        return Ok(took);
                    }
                    let start = Instant::now();
                    after = subject.append(writer, &stream, revision, after).await?;
                    took.push(start.elapsed());
                }
            }
            Ok::<_, Failure>(took)
        })
    };
    let all: Vec<_> = (0..writers).map(write).collect();
    let mut took = Vec::new();
    for writer in all {
        took.extend(writer.await??);
    }
    Ok(Sample::of(took, begun.elapsed()))
}

/// What every event holds: about 150 bytes of JSON.
pub fn payload(stream: &str, revision: u64) -> serde_json::Value {
    serde_json::json!({
        "account": stream, "cents": 1_000 + revision, "currency": "EUR",
        "reference": "invoice 2026-11 of the printing office, second reminder", "by": "clerk-17",
    })
}
