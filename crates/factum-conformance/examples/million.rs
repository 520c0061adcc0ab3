//! How long the checker takes for a million operations: `cargo run --release -p factum-conformance --example million [OPERATIONS]`.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "it reports how long things take")]

use std::{sync::Arc, time::Instant};

use factum::MemoryStore;
use factum_conformance::{FinalLog, Recorder, verify, workload};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let operations: usize = std::env::args().nth(1).map_or(Ok(1_000_000), |count| count.parse())?;
    let (clients, streams) = (16, 10_000);
    let options = workload::Options {
        clients,
        streams,
        operations: operations * 2 / 3 / clients,
        page: 20,
        scans: false,
        ..Default::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let store = Arc::new(MemoryStore::new());
        let recorder = Recorder::in_memory(store.clone()).await?;
        let started = Instant::now();
        let summary = workload::run(&recorder, &options).await?;
        println!("recorded in {:.1} s: {summary}", started.elapsed().as_secs_f64());
        let log = FinalLog::read(&*store).await?;
        let history = recorder.into_history();
        let started = Instant::now();
        verify(&history, &log)?;
        let (count, events) = (history.operations.len(), log.len());
        println!("{count} operations on {events} events checked in {:.2} s", started.elapsed().as_secs_f64());
        Ok(())
    })
}
