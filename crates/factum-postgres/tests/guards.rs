//! Guards under many racers in several processes: never two winners, no error that is not a conflict, and every deadlock resolved.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that unwraps an error has failed; it says what it sees"
)]

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use factum::{Append, EventStore, ExpectedRevision, NewEvent, Query, StreamName, Tags, Token};
use factum_conformance::{FinalLog, Recorder, verify, workload};
use factum_postgres::{Options, PostgresStore, Writing};
use fastrand::Rng;
use serde_json::json;
use support::{fresh_schema, proof, several::Several, url_of};
use tokio_postgres::{Client, NoTls};

/// A database of the test's own, whose server looks for deadlocks at once.
struct Arena {
    database: String,
    several: Arc<Several>,
    hand: Client,
}

impl Arena {
    async fn new() -> Self {
        let database = fresh_schema();
        let hand = connect(&support::url()).await;
        hand.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
        hand.batch_execute(&format!("ALTER DATABASE {database} SET deadlock_timeout = '10ms'"))
            .await
            .unwrap();
        let mut stores = Vec::new();
        for writing in [Writing::Single, Writing::Grouped, Writing::Single] {
            let options = Options { writing, ..Options::default() };
            stores.push(Arc::new(PostgresStore::open(&url_of(&database), options).await.unwrap()));
        }
        Self { database, several: Arc::new(Several::new(stores)), hand }
    }

    /// How many deadlocks the server has found.
    async fn deadlocks(&self) -> i64 {
        let count = "SELECT pg_stat_get_db_deadlocks(oid) FROM pg_database WHERE datname = $1";
        self.hand.query_one(count, &[&self.database]).await.unwrap().get(0)
    }

    async fn close(self) {
        drop(self.several);
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.database);
        self.hand.batch_execute(&drop).await.unwrap();
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Appends at the same time. How many were done; the others met a conflict.
async fn race(several: &Arc<Several>, appends: Vec<Append>) -> usize {
    let racers: Vec<_> = appends
        .into_iter()
        .map(|append| {
            let several = several.clone();
            tokio::spawn(async move { several.append(append).await })
        })
        .collect();
    let mut winners = 0;
    for racer in racers {
        match racer.await.unwrap() {
            Ok(_) => winners += 1,
            Err(error) => assert!(error.is_conflict(), "{error} ({error:?})"),
        }
    }
    winners
}

const RACERS: usize = 12;

/// All want the same thing, and each asks in another way whether somebody has it.
fn claims(round: usize, token: Token, rng: &mut Rng) -> Vec<Append> {
    let claim = |racer: usize| {
        let event = NewEvent::json(&format!("Claimed{round}"), &racer).unwrap();
        let event = event.with_tags(Tags::new([format!("claim:{round}")]).unwrap());
        let stream = StreamName::new(format!("claim{round}-{racer}")).unwrap();
        let free = match rng.u8(0..5) {
            0 => Query::all(),
            1 => Query::category(format!("claim{round}").as_str()),
            2 => Query::types([format!("Claimed{round}").as_str()]).unwrap(),
            3 => Query::tags([format!("claim:{round}")]).unwrap().or(Query::tags(["never:1"]).unwrap()),
            _ => Query::tags([format!("claim:{round}")]).unwrap(),
        };
        Append::to(stream, [event]).expect_none(free, token)
    };
    (0..RACERS).map(claim).collect()
}

/// Half of them write what the other half excludes: each on its own would be right.
fn skews(round: usize, token: Token, rng: &mut Rng) -> [Vec<Append>; 2] {
    let side = |mine: &str, other: &str, racer: usize, rng: &mut Rng| {
        let event = NewEvent::json("Taken", &racer).unwrap();
        let event = event.with_tags(Tags::new([format!("{mine}:{round}")]).unwrap());
        let stream = |side: &str| StreamName::new(format!("{side}{round}-1")).unwrap();
        let append = Append::to(stream(mine), [event]);
        match rng.u8(0..4) {
            0 => append.expect(stream(other), ExpectedRevision::NoStream),
            1 => append.expect_none(Query::stream(stream(other)), token),
            2 => append.expect_none(Query::category(format!("{other}{round}").as_str()), token),
            _ => append.expect_none(Query::tags([format!("{other}:{round}")]).unwrap(), token),
        }
    };
    let mut half = |mine, other| (0..RACERS / 2).map(|racer| side(mine, other, racer, rng)).collect();
    [half("left", "right"), half("right", "left")]
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_never_two_winners() {
    let (seed, arena) = (proof::seed(), Arena::new().await);
    let mut rng = Rng::with_seed(seed);
    let (rounds, mut races) = (proof::scaled(40, 1_000), 0);
    for round in 0..rounds {
        let token = arena.several.head().await.unwrap().token;
        let winners = race(&arena.several, claims(round, token, &mut rng)).await;
        assert_eq!(winners, 1, "seed {seed}, round {round}");

        let token = arena.several.head().await.unwrap().token;
        let [mut all, right] = skews(round, token, &mut rng);
        all.extend(right);
        rng.shuffle(&mut all);
        let winners = race(&arena.several, all).await;
        assert!(winners > 0, "seed {seed}, round {round}: all of them lost");
        let mut sides = 0;
        for side in ["left", "right"] {
            let stream = StreamName::new(format!("{side}{round}-1")).unwrap();
            sides += usize::from(arena.several.stream_state(&stream).await.unwrap().last_revision.is_some());
        }
        assert_eq!(sides, 1, "seed {seed}, round {round}: both sides won");
        races += 2;
    }
    let deadlocks = arena.deadlocks().await;
    proof::tell(
        "guards",
        &json!({ "seed": seed, "races": races, "racers": races * RACERS, "two_winners": 0, "deadlocks": deadlocks }),
    );
    arena.close().await;
}

/// One who appends twice in a transaction of its own, and so locks streams and places in an order of its own.
async fn lock_crosswise(arena: &Arena, over: &AtomicBool, rng: &mut Rng) -> u64 {
    let (store, mut given_up) = (arena.several.first(), 0);
    let mut client = connect(&url_of(&arena.database)).await;
    while !over.load(Ordering::Relaxed) {
        let transaction = client.transaction().await.unwrap();
        let mut done = Vec::new();
        for _ in 0..2 {
            done.push(store.append_within(&transaction, tangled(rng, true)).await.is_ok());
        }
        let ended = if done == [true, true] { transaction.commit().await.is_ok() } else { false };
        given_up += u64::from(!ended);
    }
    given_up
}

/// Writes to some of a few streams, and rests on nothing; or on something that never is.
fn tangled(rng: &mut Rng, guarded: bool) -> Append {
    let mut append = Append::new();
    let mut streams: Vec<u8> = (0..6).collect();
    rng.shuffle(&mut streams);
    for n in &streams[..rng.usize(1..4)] {
        let event = NewEvent::json("Done", &0)
            .unwrap()
            .with_tags(Tags::new([format!("t:{}", rng.u8(0..6))]).unwrap());
        append = append.write(StreamName::new(format!("tangle{n}-1")).unwrap(), [event]);
    }
    let stream = StreamName::new(format!("untouched{}-1", rng.u8(0..6))).unwrap();
    if guarded { append.expect(stream, ExpectedRevision::NoStream) } else { append }
}

/// As often as two lock crosswise, one of them is thrown out by the server; the store tries again, and nobody is told.
#[tokio::test(flavor = "multi_thread")]
async fn every_deadlock_is_resolved() {
    let (seed, arena) = (proof::seed(), Arc::new(Arena::new().await));
    let over = Arc::new(AtomicBool::new(false));
    let crosswise: Vec<_> = (0..3)
        .map(|n| {
            let (arena, over, mut rng) = (arena.clone(), over.clone(), Rng::with_seed(seed + 1_000 + n));
            tokio::spawn(async move { lock_crosswise(&arena, &over, &mut rng).await })
        })
        .collect();
    let appends = proof::scaled(60, 500);
    let writers: Vec<_> = (0..12)
        .map(|n| {
            let (several, mut rng) = (arena.several.clone(), Rng::with_seed(seed + n));
            tokio::spawn(async move {
                for _ in 0..appends {
                    let guarded = rng.bool();
                    several
                        .append(tangled(&mut rng, guarded))
                        .await
                        .unwrap_or_else(|error| panic!("{error:?}"));
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let mut given_up = 0;
    for one in crosswise {
        given_up += one.await.unwrap();
    }
    let deadlocks = arena.deadlocks().await;
    proof::tell(
        "deadlocks",
        &json!({ "seed": seed, "deadlocks": deadlocks, "of_these_hit_the_callers_own": given_up, "appends": appends * 12, "errors": 0 }),
    );
    assert!(deadlocks > 3, "nobody was in anybody's way");
    Arc::into_inner(arena).unwrap().close().await;
}

/// Guards of every kind over few streams, from several processes, with the history checker as the judge.
#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_many_guards_in_many_processes_can_be_true() {
    let (seed, arena) = (proof::seed(), Arena::new().await);
    let mut operations = 0;
    for round in 0..proof::scaled(1, 8) {
        let recorder = Recorder::in_memory(arena.several.clone()).await.unwrap();
        let options = workload::Options {
            seed: seed.wrapping_add(round),
            clients: 24,
            operations: proof::scaled(40, 120),
            streams: 4,
            ..workload::Options::default()
        };
        let summary = workload::run(&recorder, &options).await.unwrap();
        println!("{summary}");
        assert_eq!((summary.unknown, summary.conflicts > 20), (0, true), "{summary}");
        let log = FinalLog::read(&*arena.several).await.unwrap();
        let history = recorder.into_history();
        operations += history.operations.len();
        verify(&history, &log).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
    let deadlocks = arena.deadlocks().await;
    proof::tell(
        "guards_checked",
        &json!({ "seed": seed, "operations": operations, "deadlocks": deadlocks, "violations": 0 }),
    );
    arena.close().await;
}
