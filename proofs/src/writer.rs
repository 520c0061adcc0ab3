//! The process that bad things happen to.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use factum::EventStore;
use factum_conformance::{Recorder, workload};
use factum_log::{LogStore, Options};

use crate::{Stop, report::Report};

/// What it prints when it is about to open the log, and when it has done so.
pub(crate) const STARTED: &str = "started";
pub(crate) const OPENED: &str = "opened";

/// Where it writes, and how much.
#[derive(Args, Clone, Debug)]
pub(crate) struct Job {
    /// The directory of the log
    #[arg(long)]
    pub(crate) log: PathBuf,
    /// The file in which every call is recorded
    #[arg(long)]
    pub(crate) history: PathBuf,
    /// From which the clients' choices follow; another one for each process that goes on with a log
    #[arg(long)]
    pub(crate) seed: u64,
    /// Clients at the same time
    #[arg(long, default_value_t = 16)]
    pub(crate) clients: usize,
    /// Subscribers at the same time
    #[arg(long, default_value_t = 2)]
    pub(crate) subscribers: usize,
    /// Operations of each client
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) operations: usize,
}

/// The store, with segments so small that many are begun, and runs of the index so small that many are written.
pub(crate) fn options(log: &std::path::Path) -> Options {
    Options::new(log).segments(64 << 10, 512 << 10).indexed_in_memory(200)
}

pub(crate) async fn run(job: &Job) -> Result<Report, Stop> {
    println!("{STARTED}");
    let store: LogStore = options(&job.log).open().map_err(Stop::at("it does not open"))?;
    let store: Arc<dyn EventStore> = Arc::new(store);
    println!("{OPENED}");
    let recorder =
        Recorder::to_file(store, &job.history).await.map_err(Stop::at("nothing can be recorded"))?;
    let &Job { seed, clients, subscribers, operations, .. } = job;
    let options =
        workload::Options { seed, clients, subscribers, operations, scans: false, ..Default::default() };
    let summary = workload::run(&recorder, &options).await.map_err(Stop::at("a reader failed"))?;
    Ok(Report::default().with("seed", seed).with("summary", summary.to_string()))
}
