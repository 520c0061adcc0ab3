//! Many clients, every call recorded, and the history checked against the log: on a quiet machine, and under `kill -9`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test; it says its seed")]

use std::{
    env,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use factum::EventStore;
use factum_conformance::{
    checker::{FinalLog, verify},
    history::History,
    recorder::Recorder,
    workload,
};
use factum_log::{LogStore, Options};

/// Where the child works, and from which seed; nobody else sets these.
const DIRECTORY: &str = "FACTUM_TEST_KILLED_IN";
const SEED: &str = "FACTUM_TEST_KILLED_SEED";
/// How often the writer is killed.
const KILLS: u64 = 20;

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

/// Not a test of its own: what the test below starts again and again, and kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_writer_that_is_killed() {
    let (Ok(directory), Ok(seed)) = (env::var(DIRECTORY), env::var(SEED)) else { return };
    let directory = Path::new(&directory);
    let recorder = Recorder::to_file(open(directory), &directory.join("history")).await.unwrap();
    let seed = seed.parse().unwrap();
    let options =
        workload::Options { seed, clients: 16, operations: 1_000_000, scans: false, ..Default::default() };
    workload::run(&recorder, &options).await.unwrap();
}

fn writer(directory: &Path, seed: u64) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "the_writer_that_is_killed", "--nocapture"]).env(DIRECTORY, directory);
    command.env(SEED, seed.to_string()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_that_was_acknowledged() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..KILLS {
        let mut child = writer(directory.path(), random.u64(..));
        thread::sleep(Duration::from_millis(random.u64(30..150)));
        // SIGKILL, on every system that has it.
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let store = open(directory.path());
    let log = FinalLog::read(&*store).await.unwrap();
    let history = History::load(&directory.path().join("history")).unwrap();
    println!("{KILLS} kills, {} operations, {} events", history.operations.len(), log.len());
    assert!(history.operations.len() > 200 && log.len() > 50, "the writer hardly came to write");
    verify(&history, &log).unwrap();
}
