//! The history checker: silent about a store that keeps its promises, loud about each that breaks one.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test; and a history is no data file")]

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use factum::{Append, Appended, Error, EventStore, MemoryStore, Outcome, Result};
use factum_conformance::{
    Around, FinalLog, History, Kind, Recorder, Violation, Wrapped,
    bugs::{Bug, Buggy},
    check,
    history::{Call, Operation},
    verify, workload,
};
use fastrand::Rng;

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

/// How many seeds it takes to find each bug, at most.
const SEEDS: u64 = 10;

#[test]
fn every_seeded_bug_is_caught() {
    for bug in Bug::ALL {
        let caught = (0..SEEDS).find_map(|seed| {
            let options = workload::Options { seed, ..Default::default() };
            let (_, violations) = runtime().block_on(tried(Arc::new(Buggy::new(bug, seed)), &options));
            (!violations.is_empty()).then_some((seed, violations))
        });
        let (seed, violations) =
            caught.unwrap_or_else(|| panic!("{bug:?} was not caught within {SEEDS} seeds"));
        let kinds: BTreeSet<Kind> = violations.iter().map(|violation| violation.kind).collect();
        let wanted = kind_of(bug);
        let first = violations.iter().find(|violation| violation.kind == wanted);
        let first = first.unwrap_or_else(|| {
            panic!("{bug:?} was caught as {kinds:?}, not as {wanted:?}: {}", violations[0])
        });
        println!("{bug:?}, seed {seed}: {} violations, {kinds:?}\n    {first}", violations.len());
    }
}

/// What the checker must call it.
fn kind_of(bug: Bug) -> Kind {
    match bug {
        Bug::StaleRead | Bug::StaleState => Kind::Stale,
        Bug::LostAck => Kind::LostAck,
        Bug::DuplicateOnRetry => Kind::Duplicate,
        Bug::TornBatch | Bug::Reordering | Bug::HalfVisible => Kind::Torn,
        Bug::LateCommit => Kind::Order,
        Bug::RacyGuard | Bug::BlindQueryGuard => Kind::Guard,
        Bug::SkippedEvent => Kind::Skipped,
        Bug::FalseConflict => Kind::FalseRefusal,
        Bug::GuardsBeforeReplay => Kind::Replay,
        Bug::InventedEvent => Kind::Invented,
        Bug::AlteredContent | Bug::AlteredReading => Kind::Altered,
        Bug::RefusedYetRecorded => Kind::RefusedYetRecorded,
        Bug::ForgetfulReplay => Kind::Moved,
    }
}

/// A bug that only subscribers meet is caught by what subscribers were told.
#[test]
fn an_event_that_only_a_subscriber_misses_is_caught() {
    let options = workload::Options { seed: 1, subscribers: 2, ..Default::default() };
    let violations = runtime().block_on(async {
        let recorder = Recorder::in_memory(Arc::new(Buggy::new(Bug::SkippedEvent, 1))).await.unwrap();
        workload::run(&recorder, &options).await.unwrap();
        let mut history = recorder.history();
        history.operations.retain(|operation| !matches!(operation.call, Call::Read(_)));
        check(&history, &FinalLog::read(&**recorder.store()).await.unwrap())
    });
    assert!(!violations.is_empty());
    assert!(violations.iter().all(|violation| violation.kind == Kind::Skipped), "{}", violations[0]);
}

/// What a killed process leaves is checked with what its successor saw.
#[test]
fn a_history_in_a_file_survives_kills() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("history.jsonl");
    let store: Arc<dyn EventStore> = Arc::new(Wrapped(Pausing::default()));
    let log = runtime().block_on(async {
        for seed in 0..3 {
            let options = workload::Options { seed, operations: 60, ..Default::default() };
            let recorder = Recorder::to_file(store.clone(), &path).await.unwrap();
            // Killed in the middle of everything.
            let run = workload::run(&recorder, &options);
            let ended = tokio::select! { biased; () = steps(25 * (1 + seed)) => false, _ = run => true };
            assert!(!ended);
            drop(recorder);
            let mut file = std::fs::File::options().append(true).open(&path).unwrap();
            std::io::Write::write_all(&mut file, b"{\"Answer\":[7,{\"Appen").unwrap();
        }
        FinalLog::read(&*store).await.unwrap()
    });
    let history = History::load(&path).unwrap();
    let unknown =
        |operation: &&Operation| matches!(operation.call, Call::Append { .. }) && operation.answer.is_none();
    assert!(history.operations.iter().filter(unknown).count() > 2, "no append was under way");
    assert!(log.len() > 50, "{}", log.len());
    verify(&history, &log).unwrap();

    // The same history does not fit another log.
    let shorter = runtime().block_on(FinalLog::read(&MemoryStore::new())).unwrap();
    assert!(check(&history, &shorter).iter().any(|violation| violation.kind == Kind::LostAck));
    std::fs::write(&path, "{\"Head\":1}\nnonsense\nnonsense\n").unwrap();
    assert!(
        History::load(&path).unwrap_err().to_string().contains("line 1"),
        "half a line in the middle is no kill"
    );
}

/// A store behind a line on which requests and answers are lost, which breaks no promise.
#[test]
fn lost_requests_and_answers_are_no_violation() {
    let mut whole = workload::Summary::default();
    for seed in 0..SEEDS {
        for lives in [false, true] {
            let options = workload::Options { seed, lives, ..Default::default() };
            let store = Pausing { lost: Some(Mutex::new(Rng::with_seed(seed))), ..Pausing::default() };
            let (summary, violations) = runtime().block_on(tried(Arc::new(Wrapped(store)), &options));
            let text: Vec<String> = violations.iter().take(10).map(Violation::to_string).collect();
            assert!(violations.is_empty(), "seed {seed}, lives {lives}: {}", text.join("\n"));
            whole += summary;
        }
    }
    println!("{whole}");
    assert!(whole.unknown > 500, "{whole}");
}

/// Lets others go on before and after each append, so that a kill finds some that happened and some that did not.
#[derive(Debug, Default)]
struct Pausing {
    store: MemoryStore,
    /// Loses some requests and answers.
    lost: Option<Mutex<Rng>>,
}

impl Pausing {
    async fn pause(&self) -> Result<()> {
        tokio::task::yield_now().await;
        match &self.lost {
            Some(rng) if rng.lock().unwrap().u32(0..8) == 0 => {
                Err(Error::Unavailable { why: "the line is cut".into(), outcome: Outcome::Unknown })
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Around for Pausing {
    fn store(&self) -> &dyn EventStore {
        &self.store
    }

    async fn append(&self, append: Append) -> Result<Appended> {
        self.pause().await?;
        let appended = self.store.append(append).await;
        self.pause().await?;
        appended
    }
}

async fn steps(count: u64) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}
