//! The server is killed, stopped on the spot, or throws out its clients, while recorded clients of several processes do everything at
//! random; it comes back, and the history checker says whether what they were told can be true.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that unwraps an error has failed; it says what it sees"
)]

mod support;

use std::{sync::Arc, time::Duration};

use factum::{EventStore, Position};
use factum_conformance::{FinalLog, History, Recorder, check, workload};
use factum_postgres::{Options, PostgresStore, Writing};
use fastrand::Rng;
use serde_json::json;
use support::{
    bench::{Reader, one},
    cluster::Cluster,
    proof,
    several::Several,
};
use tokio_postgres::{Client, NoTls};

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn several(cluster: &Cluster) -> Arc<Several> {
    let mut stores = Vec::new();
    for writing in [Writing::Single, Writing::Grouped] {
        let options = Options { writing, ..Options::default() };
        stores.push(Arc::new(PostgresStore::open(&cluster.url(), options).await.unwrap()));
    }
    Arc::new(Several::new(stores))
}

/// What happens to the server.
#[derive(Clone, Copy, Debug)]
enum Blow {
    /// `kill -9` of all its processes.
    Kill,
    /// `kill -9` of the postmaster alone.
    KillPostmaster,
    /// An `immediate` stop.
    Immediate,
    /// A `fast` stop.
    Fast,
    /// `pg_terminate_backend` of some of its clients, over and over.
    Terminate,
}

const BLOWS: [Blow; 5] = [Blow::Kill, Blow::Terminate, Blow::Immediate, Blow::KillPostmaster, Blow::Fast];

async fn strike(cluster: &mut Cluster, blow: Blow, rng: &mut Rng) {
    match blow {
        Blow::Kill => cluster.kill(),
        Blow::KillPostmaster => cluster.kill_postmaster(),
        Blow::Immediate => cluster.stop_immediate(),
        Blow::Fast => cluster.stop_fast(),
        Blow::Terminate => {
            let hand = connect(&cluster.url()).await;
            for _ in 0..20 {
                let some = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
                    WHERE application_name LIKE 'factum %' ORDER BY random() LIMIT 3) victims";
                hand.execute(some, &[]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(rng.u64(0..30))).await;
            }
            return;
        }
    }
    // It may be away for a while, or hardly at all.
    tokio::time::sleep(Duration::from_millis(rng.u64(0..100))).await;
    cluster.start();
}

/// Sees no promise broken; tells which calls broke it.
fn judge(history: &History, log: &FinalLog, when: &str) {
    let broken = check(history, log);
    for violation in broken.iter().take(10) {
        println!("{violation}");
        for operation in &history.operations {
            if violation.operations.contains(&operation.invoked) {
                println!("  #{} {:?}\n  {:?}", operation.invoked, operation.call, operation.answer);
            }
        }
    }
    assert!(broken.is_empty(), "{when}: {} broken promises", broken.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_the_server_the_history_can_be_true() {
    let Some(mut cluster) = Cluster::new(&[]) else { return };
    let seed = proof::seed();
    let mut rng = Rng::with_seed(seed);
    let several = several(&cluster).await;
    let (mut operations, mut sum, mut kinds) = (0, workload::Summary::default(), [0; 5]);
    let blows = proof::scaled(5, 100);
    for n in 0..blows {
        let recorder = Recorder::in_memory(several.clone()).await.unwrap();
        let options = workload::Options {
            seed: rng.u64(..),
            clients: 16,
            operations: 25,
            subscribers: 1,
            streams: 6,
            ..workload::Options::default()
        };
        let work = {
            let recorder = recorder.clone();
            tokio::spawn(async move { workload::run(&recorder, &options).await })
        };
        tokio::time::sleep(Duration::from_millis(rng.u64(20..400))).await;
        strike(&mut cluster, BLOWS[n % 5], &mut rng).await;
        kinds[n % 5] += 1;
        sum += work.await.unwrap().unwrap();
        let log = FinalLog::read(&*several).await.unwrap();
        let history = recorder.into_history();
        operations += history.operations.len();
        judge(&history, &log, &format!("seed {seed}, {n} ({:?})", BLOWS[n % 5]));
    }
    println!("{sum}");
    let by_kind: serde_json::Map<_, _> =
        BLOWS.iter().zip(kinds).map(|(blow, count)| (format!("{blow:?}"), json!(count))).collect();
    proof::tell(
        "server_kills",
        &json!({
            "seed": seed, "blows": blows, "kinds": by_kind, "operations_checked": operations,
            "appends_acknowledged": sum.appended, "appends_unknown": sum.unknown, "violations": 0,
        }),
    );
}

/// What was drawn and given up is not on the disk: a crash forgets it, and it is drawn again.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_stays_good_when_a_crash_forgets_what_was_drawn_and_given_up() {
    // Nobody writes the log of changes before somebody commits.
    let Some(mut cluster) = Cluster::new(&["wal_writer_delay=10s", "bgwriter_delay=10s"]) else { return };
    let store = several(&cluster).await.first().clone();
    store.append(one("first-1")).await.unwrap();
    let hand = connect(&cluster.url()).await;
    hand.batch_execute("BEGIN; SELECT factum.allocate(50); ROLLBACK").await.unwrap();
    let mut reader = Reader::new(&store);
    reader.look().await;
    cluster.kill();
    cluster.start();
    let mut again = store.append(one("second-1")).await;
    while again.as_ref().is_err_and(factum::Error::is_retryable) {
        again = store.append(one("second-1")).await;
    }
    let second = again.unwrap().events[0].position;
    assert!(second < Position(50), "{second:?}: the crash forgot nothing, so this shows nothing");
    assert!(second <= store.head().await.unwrap().token.position);
    reader.look().await;
    assert_eq!(reader.seen.len(), 2, "{:?}", reader.seen);
}
