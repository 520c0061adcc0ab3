//! What was measured: kept raw, and summed up.

use serde::{Deserialize, Serialize};

use crate::{
    machine::Machine,
    measure::{Sample, median},
};

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The workload.
    pub workload: String,
    /// The store; `limit` for the bare loop.
    pub peer: String,
    /// The round, counted from 0.
    pub round: usize,
    /// What came out, or why nothing did.
    pub outcome: Result<Sample, String>,
}

/// What a workload is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Work {
    /// Its name.
    pub id: String,
    /// What it does.
    pub about: String,
    /// What is counted.
    pub unit: String,
}

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// When it began.
    pub when: String,
    /// What was asked for.
    pub asked: String,
    /// The seed of all randomness.
    pub seed: u64,
    /// Seconds of each measurement.
    pub seconds: f64,
    /// The machine.
    pub machine: Machine,
    /// Each store, and how it is used.
    pub peers: Vec<(String, String)>,
    /// The workloads, in order.
    pub works: Vec<Work>,
    /// All measurements, in order.
    pub records: Vec<Record>,
}

/// A measurement is calm if other programs kept less than this many processors busy, and so many calm rounds are enough.
pub const CALM: f64 = 0.3;
const ENOUGH: usize = 3;

/// The middle of the rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// The workload.
    pub workload: String,
    /// The store.
    pub peer: String,
    /// The middle of each figure.
    pub sample: Sample,
    /// factum's rate divided by this one's, round by round, the middle.
    pub factum_is: Option<f64>,
    /// How many rounds.
    pub rounds: usize,
}

impl Results {
    fn sample(&self, workload: &str, peer: &str, round: usize) -> Option<&Sample> {
        let found =
            self.records.iter().find(|r| r.workload == workload && r.peer == peer && r.round == round)?;
        found.outcome.as_ref().ok()
    }

    /// How many times as fast `peer` was as the best of others, in each round that all have been through.
    ///
    /// If enough rounds were calm, only those count: they are chosen by what other programs did, not by what came out.
    pub fn ratios(&self, workload: &str, peer: &str, others: &[&str]) -> Vec<f64> {
        let rounds = self.records.iter().map(|record| record.round + 1).max().unwrap_or(0);
        let of_round = |round| {
            let own = self.sample(workload, peer, round)?;
            let rivals: Option<Vec<_>> =
                others.iter().map(|other| self.sample(workload, other, round)).collect();
            let rivals = rivals?;
            let best = rivals.iter().map(|sample| sample.rate).reduce(f64::max)?;
            let calm = rivals.iter().chain([&own]).all(|sample| sample.others < CALM);
            Some((calm, own.rate / best))
        };
        let all: Vec<(bool, f64)> = (0..rounds).filter_map(of_round).collect();
        let calm: Vec<f64> = all.iter().filter(|(calm, _)| *calm).map(|(_, ratio)| *ratio).collect();
        if calm.len() >= ENOUGH { calm } else { all.into_iter().map(|(_, ratio)| ratio).collect() }
    }

    /// The samples of a store in a workload.
    pub fn samples(&self, workload: &str, peer: &str) -> Vec<&Sample> {
        let own = self.records.iter().filter(|r| r.workload == workload && r.peer == peer);
        own.filter_map(|record| record.outcome.as_ref().ok()).collect()
    }

    /// Why a store has no figure.
    pub fn why_not(&self, workload: &str, peer: &str) -> Option<&str> {
        let own = self.records.iter().filter(|r| r.workload == workload && r.peer == peer);
        own.filter_map(|record| record.outcome.as_ref().err()).next().map(String::as_str)
    }

    /// The middle of the rounds for each store in a workload, in the order of stores.
    pub fn summaries(&self, workload: &str) -> Vec<Summary> {
        let mut peers: Vec<&str> = self.peers.iter().map(|(name, _)| name.as_str()).collect();
        peers.extend(["limit", "limit-zeros"]);
        let summary = |peer: &str| {
            let samples = self.samples(workload, peer);
            let middle = |of: fn(&Sample) -> f64| median(samples.iter().map(|sample| of(sample)).collect());
            let sample = Sample {
                rate: middle(|s| s.rate)?,
                done: samples.iter().map(|s| s.done).sum(),
                seconds: samples.iter().map(|s| s.seconds).sum(),
                p50_us: middle(|s| s.p50_us)?,
                p99_us: middle(|s| s.p99_us)?,
                p999_us: middle(|s| s.p999_us)?,
                cpu_us: middle(|s| s.cpu_us)?,
                written: middle(|s| s.written)?,
                fetched: middle(|s| s.fetched)?,
                open_ms: middle(|s| s.open_ms)?,
                others: middle(|s| s.others)?,
                conflicts: samples.iter().map(|s| s.conflicts).sum(),
                syncs: samples.last().and_then(|s| s.syncs),
                note: samples.last().map(|s| s.note.clone()).unwrap_or_default(),
            };
            let factum_is = median(self.ratios(workload, "factum", &[peer]));
            Some(Summary {
                workload: workload.to_owned(),
                peer: peer.to_owned(),
                sample,
                factum_is,
                rounds: samples.len(),
            })
        };
        peers.into_iter().filter_map(summary).collect()
    }
}
