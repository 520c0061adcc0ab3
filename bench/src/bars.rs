//! What the engine must reach, and whether it does.

use serde::{Deserialize, Serialize};

use crate::results::Results;

/// A bar: factum's rate in a workload is at least `factor` times that of the best of some peers.
#[derive(Clone, Copy, Debug)]
pub struct Bar {
    /// What is done.
    pub work: &'static str,
    /// The workload that shows it.
    pub workload: &'static str,
    /// Beside whom; if more than one, the best of them in each round.
    pub beside: &'static [&'static str],
    /// How many times as fast.
    pub factor: f64,
}

const fn bar(
    work: &'static str,
    workload: &'static str,
    beside: &'static [&'static str],
    factor: f64,
) -> Bar {
    Bar { work, workload, beside, factor }
}

/// The speed table of the engine's design.
pub const BARS: &[Bar] = &[
    bar("conditional append, 64 writers (threads), 1 event", "append-tag-64w-1ev", &["tephra"], 1.25),
    bar("conditional append, 64 writers (threads), 1 event", "append-tag-64w-1ev", &["umadb"], 4.0),
    bar("conditional append, 64 writers (tasks), 1 event", "append-tag-64tasks-1ev", &["tephra"], 1.25),
    bar("conditional append, 64 writers (tasks), 1 event", "append-tag-64tasks-1ev", &["umadb"], 4.0),
    bar("conditional append, 64 writers, 512 events", "append-tag-64w-512ev", &["tephra"], 1.4),
    bar("conditional append, 64 writers, 512 events", "append-tag-64w-512ev", &["umadb"], 2.0),
    bar("conditional append, 1 writer", "append-tag-1w-1ev", &["tephra", "umadb"], 1.0),
    bar("conditional append, 1,024 tasks", "append-tag-1024tasks-1ev", &["tephra", "umadb"], 1.0),
    bar("durable append, 64 writers, 1 event", "append-tag-64w-1ev", &["limit"], 0.8),
    bar("durable append, 64 writers, 512 events", "append-tag-64w-512ev", &["limit"], 0.8),
    bar("durable append, 1 writer, 1 event", "append-tag-1w-1ev", &["limit"], 0.8),
    bar("durable append, 1,024 tasks, 1 event", "append-tag-1024tasks-1ev", &["limit"], 0.8),
    bar("selective read, warm, 1 reader", "read-warm-1r", &["tephra", "umadb"], 2.0),
    bar("selective read, warm, 16 readers", "read-warm-16r", &["tephra", "umadb"], 2.0),
    bar("selective read, cold cache, 16 readers", "read-cold-16r", &["umadb"], 1.2),
    bar("full scan, warm", "scan-warm", &["tephra", "umadb"], 2.0),
];

/// How a bar came out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// What is done.
    pub work: String,
    /// The workload that shows it.
    pub workload: String,
    /// Beside whom.
    pub beside: String,
    /// How many times as fast it must be.
    pub bar: f64,
    /// How many times as fast it is: the middle of the rounds. Nothing, if it was not measured.
    pub ratio: Option<f64>,
    /// The least and the most of the rounds.
    pub range: Option<(f64, f64)>,
    /// How many rounds count.
    pub rounds: usize,
}

impl Verdict {
    /// Whether it is met; nothing, if it was not measured.
    pub fn is_met(&self) -> Option<bool> {
        self.ratio.map(|ratio| ratio >= self.bar)
    }

    /// In words: `met 1.31 × (bar 1.25 ×)`.
    pub fn words(&self) -> String {
        match (self.ratio, self.range) {
            (Some(ratio), Some((least, most))) => {
                let word = if ratio >= self.bar { "met" } else { "missed" };
                format!(
                    "{word} {ratio:.2} × (bar {:.2} ×; {} rounds, {least:.2} to {most:.2})",
                    self.bar, self.rounds
                )
            }
            _ => format!("not measured (bar {:.2} ×)", self.bar),
        }
    }
}

/// Judges all bars.
pub fn judge(results: &Results) -> Vec<Verdict> {
    let judged = |bar: &Bar| {
        let ratios = results.ratios(bar.workload, "factum", bar.beside);
        let ends = ratios.iter().copied().reduce(f64::min).zip(ratios.iter().copied().reduce(f64::max));
        Verdict {
            work: bar.work.to_owned(),
            workload: bar.workload.to_owned(),
            beside: match bar.beside {
                ["limit"] => "the bare loop".to_owned(),
                [one] => (*one).to_owned(),
                many => format!("the better of {}", many.join(" and ")),
            },
            bar: bar.factor,
            rounds: ratios.len(),
            ratio: crate::measure::median(ratios),
            range: ends,
        }
    };
    BARS.iter().map(judged).collect()
}
