//! What is counted and measured, for whichever recorder of the facade `metrics` the program has installed; without one it costs next to
//! nothing. What each is, with its unit and labels, is in `docs/observability.md`.

use std::time::Duration;

use metrics::{counter, gauge, histogram};
use tokio::time::Instant;

use crate::{
    error::Result,
    event::RecordedEvent,
    time::{Clock, SystemClock},
};

/// An append was answered.
pub(crate) fn appended<T>(begun: Instant, answer: &Result<T>) {
    let outcome = match answer {
        Ok(_) => "done",
        Err(error) if error.is_conflict() => "conflict",
        Err(_) => "failed",
    };
    histogram!("factum_append_seconds", "outcome" => outcome).record(begun.elapsed());
}

/// The names under which a consumer, or one partition of it, is shown.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    labels: [(&'static str, String); 2],
}

#[allow(clippy::cast_precision_loss, reason = "a gauge is a double")]
impl Shown {
    pub(crate) fn new(consumer: &str, partition: &str) -> Self {
        Self { labels: [("consumer", consumer.to_owned()), ("partition", partition.to_owned())] }
    }

    /// So many events were handled, the last of which was this.
    pub(crate) fn handled(&self, count: usize, last: Option<&RecordedEvent>) {
        counter!("factum_consumer_events_total", &self.labels).increment(count as u64);
        if let Some(last) = last {
            self.lag(SystemClock.now().since(last.recorded_at));
        }
    }

    /// How long ago what was handled last had been recorded; none, once there is nothing to handle.
    pub(crate) fn lag(&self, lag: Duration) {
        gauge!("factum_consumer_lag_seconds", &self.labels).set(lag.as_secs_f64());
    }

    /// How far the end of the log is away, in positions.
    pub(crate) fn behind(&self, positions: u64) {
        gauge!("factum_consumer_lag_positions", &self.labels).set(positions as f64);
    }

    /// How long a handler or sink had some events in hand.
    pub(crate) fn took(&self, begun: Instant) {
        histogram!("factum_consumer_handling_seconds", &self.labels).record(begun.elapsed());
    }

    /// What is set aside.
    pub(crate) fn parked(&self, keys: usize, letters: usize) {
        gauge!("factum_consumer_parked_keys", &self.labels).set(keys as f64);
        gauge!("factum_consumer_dead_letters", &self.labels).set(letters as f64);
    }

    /// An event that was set aside is tried again.
    pub(crate) fn retried(&self) {
        counter!("factum_consumer_retries_total", &self.labels).increment(1);
    }

    /// The surroundings are waited for.
    pub(crate) fn waits(&self) {
        counter!("factum_consumer_waits_total", &self.labels).increment(1);
    }
}

/// How the timers of this name are: so many are due and not set off, so many have failed and are tried again.
#[allow(clippy::cast_precision_loss, reason = "a gauge is a double")]
pub(crate) fn timers(name: &str, due: usize, failing: usize) {
    gauge!("factum_timers_due", "timers" => name.to_owned()).set(due as f64);
    gauge!("factum_timers_failing", "timers" => name.to_owned()).set(failing as f64);
}

/// A timer of this name was set off, so long after it was due.
pub(crate) fn timer_fired(name: &str, late: Duration) {
    histogram!("factum_timer_lateness_seconds", "timers" => name.to_owned()).record(late);
}
