//! The history checker: silent about a store that keeps its promises, loud about each that breaks one.

use std::sync::Arc;

use factum::{EventStore, MemoryStore};
use factum_conformance::{FinalLog, Recorder, Violation, check, workload};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// What the checker says after a workload on a store, seen through `store`.
async fn tried(
    store: Arc<dyn EventStore>,
    options: &workload::Options,
) -> (workload::Summary, Vec<Violation>) {
    let recorder = Recorder::in_memory(store.clone()).await.unwrap();
    let summary = workload::run(&recorder, options).await.unwrap();
    (summary, check(&recorder.history(), &FinalLog::read(&*store).await.unwrap()))
}

#[test]
fn a_healthy_store_breaks_no_promise() {
    let mut whole = workload::Summary::default();
    for seed in 0..20 {
        for lives in [false, true] {
            let options = workload::Options { seed, lives, ..Default::default() };
            let (summary, violations) = runtime().block_on(tried(Arc::new(MemoryStore::new()), &options));
            let text: Vec<String> = violations.iter().take(10).map(Violation::to_string).collect();
            assert!(violations.is_empty(), "seed {seed}, lives {lives}: {}", text.join("\n"));
            whole += summary;
        }
    }
    println!("{whole}");
    for count in
        [whole.appended, whole.replayed, whole.conflicts, whole.refused, whole.reads, whole.deliveries]
    {
        assert!(count > 500, "the workload leaves something out: {whole}");
    }
}
