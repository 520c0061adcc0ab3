//! Many clients, every call recorded, and the history checked against the log, on a quiet machine; `proofs/` is where bad things
//! happen meanwhile.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test; it says its seed")]

use std::{path::Path, sync::Arc};

use factum::EventStore;
use factum_conformance::{
    checker::{FinalLog, verify},
    recorder::Recorder,
    workload,
};
use factum_log::{LogStore, Options};

fn open(directory: &Path) -> Arc<dyn EventStore> {
    let store: LogStore = Options::new(directory.join("log")).segments(64 << 10, 1 << 20).open().unwrap();
    Arc::new(store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_clients_leave_a_history_without_a_violation() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let directory = tempfile::tempdir().unwrap();
    for lives in [false, true] {
        let store = open(&directory.path().join(lives.to_string()));
        let recorder = Recorder::in_memory(store.clone()).await.unwrap();
        let options = workload::Options {
            seed,
            clients: 16,
            operations: 60,
            subscribers: 4,
            lives,
            ..Default::default()
        };
        let summary = workload::run(&recorder, &options).await.unwrap();
        println!("{summary}");
        assert!(summary.appended > 100 && summary.conflicts > 10 && summary.replayed > 0, "{summary}");
        let log = FinalLog::read(&*store).await.unwrap();
        verify(&recorder.into_history(), &log).unwrap();
    }
}
