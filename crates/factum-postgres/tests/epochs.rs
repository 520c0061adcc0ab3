//! Where history may have been rewound, what was handed out before is `LogRewound`, never misunderstood: a standby that is promoted
//! without the last events, a dump that is restored. Whole servers of the test's own.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use std::{ffi::OsStr, sync::Arc, time::Duration};

use factum::{
    Append, Appended, Error, EventStore, EventStoreExt, LogIdentity, MemoryReads, NewEvent, Position, Query,
    Read, State, StreamName, Subscription, Token, prelude::*, subscribe,
};
use factum_postgres::{Options, PostgresStore, Writing};
use support::{bench, bench::Bench, cluster::Cluster};
use tokio_postgres::Client;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Counted {
    One { at: u64 },
}

impl Event for Counted {
    const CATEGORY: &'static str = "counted";
}

struct Count;

impl Projection for Count {
    const NAME: &'static str = "count";
    type Event = Counted;
    type Row = Vec<u64>;

    fn key(&self, _: &Recorded<Counted>) -> Option<String> {
        Some("all".to_owned())
    }

    fn evolve(&self, row: Option<Vec<u64>>, event: &Recorded<Counted>) -> Option<Vec<u64>> {
        let Counted::One { at } = event.event;
        Some(row.into_iter().flatten().chain([at]).collect())
    }
}

async fn one(store: &PostgresStore, at: u64) -> Appended {
    let event = NewEvent::json("One", &serde_json::json!({ "at": at })).unwrap();
    store.append(Append::to(StreamName::new("counted-1").unwrap(), [event])).await.unwrap()
}

async fn open(url: &str) -> PostgresStore {
    PostgresStore::open(url, Options::default()).await.unwrap()
}

async fn by_hand(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn until(url: &str, condition: &str) {
    let client = by_hand(url).await;
    let condition = format!("SELECT {condition}");
    let waited = async {
        while !client.query_one(&condition, &[]).await.is_ok_and(|row| row.get(0)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited)
        .await
        .expect("what the test waits for does not come");
}

/// Every use of a token.
async fn uses(store: &PostgresStore, token: Token) -> [factum::Result<()>; 4] {
    let nothing = Query::types(["Nothing"]).unwrap();
    let guarded = Append::to(StreamName::new("other-1").unwrap(), []).expect_none(nothing, token);
    [
        store.read(Read::all().beyond(token)).await.map(drop),
        subscribe(Arc::new(store.clone()), Query::all(), Some(token)).await.map(drop),
        store.append(guarded).await.map(drop),
        store.locate(token).await.map(drop),
    ]
}

async fn is_refused(store: &PostgresStore, token: Token) {
    for (n, used) in uses(store, token).await.into_iter().enumerate() {
        assert!(
            matches!(&used, Err(Error::LogRewound(rewound)) if rewound.token == token),
            "use {n} of {token}: {used:?}"
        );
    }
}

async fn is_taken(store: &PostgresStore, token: Token) {
    for (n, used) in uses(store, token).await.into_iter().enumerate() {
        assert!(used.is_ok(), "use {n} of {token}: {used:?}");
    }
}

async fn events(store: &PostgresStore) -> Vec<u64> {
    let all = store.read_to_end(Read::all()).await.unwrap();
    all.iter()
        .map(|event| {
            serde_json::from_slice::<serde_json::Value>(&event.data).unwrap()["at"].as_u64().unwrap()
        })
        .collect()
}

async fn identity(store: &PostgresStore) -> LogIdentity {
    store.head().await.unwrap().token.log
}

/// A server and a standby that has the first three events.
struct Pair {
    primary: Cluster,
    standby: Cluster,
    store: PostgresStore,
}

impl Pair {
    async fn new() -> Option<Self> {
        let primary = Cluster::new(&[])?;
        let standby = primary.standby();
        // One store for both: it goes where it can write.
        let url = format!(
            "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres?target_session_attrs=read-write",
            primary.port(),
            standby.port()
        );
        let store = open(&url).await;
        for at in 1..=3 {
            one(&store, at).await;
        }
        until(&standby.url(), "count(*) = 3 FROM factum.events").await;
        Some(Self { primary, standby, store })
    }

    /// From now on nothing reaches the standby.
    async fn cut(&self) {
        let standby = by_hand(&self.standby.url()).await;
        standby.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
        standby.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        until(&self.standby.url(), "count(*) = 0 FROM pg_stat_wal_receiver").await;
    }

    fn fail_over(&mut self) {
        self.primary.kill();
        self.standby.promote();
    }
}

async fn next_is_refused(subscription: &mut Subscription) {
    loop {
        match subscription.next().await {
            Err(Error::LogRewound(_)) => return,
            Ok(factum::Delivery::Events { events, .. }) => {
                panic!("it goes on as if nothing had been: {events:?}")
            }
            // The connections that are cut, and the last words of before.
            Err(Error::Unavailable { .. }) | Ok(_) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_promoted_standby_that_lacks_the_last_events_refuses_whoever_has_seen_them() {
    let Some(mut pair) = Pair::new().await else { return };
    pair.cut().await;
    let store = pair.store.clone();
    for at in 4..=5 {
        one(&store, at).await;
    }
    let factum = Factum::new(store.clone());
    let reads = MemoryReads::new();
    let ahead = store.head().await.unwrap().token;
    let count = factum.project(Count, reads.clone()).await.unwrap();
    count.wait_for(ahead).await.unwrap();
    let mut subscription = subscribe(Arc::new(store.clone()), Query::all(), Some(ahead)).await.unwrap();

    pair.fail_over();
    // The same positions, with other events: who goes on at 5 would never see these.
    assert_eq!(one(&store, 40).await.events[0].position, Position(4));
    one(&store, 50).await;
    one(&store, 60).await;
    assert_eq!(events(&store).await, [1, 2, 3, 40, 50, 60]);

    is_refused(&store, ahead).await;
    is_refused(&store, Token { position: Position(1), ..ahead }).await;
    next_is_refused(&mut subscription).await;
    let stopped = count.wait_for(store.head().await.unwrap().token).await;
    assert!(matches!(stopped, Err(Error::LogRewound(_))), "{stopped:?}");
    let is_stopped =
        async || matches!(count.status().await.unwrap().state, State::Stopped(Error::LogRewound(_)));
    bench::until(is_stopped).await;
    // Also one that begins only now, where the checkpoint was.
    count.stop().await;
    let again = factum.project(Count, reads).await.unwrap();
    let stopped = again.wait_for(store.head().await.unwrap().token).await;
    assert!(matches!(stopped, Err(Error::LogRewound(_))), "{stopped:?}");
    again.rebuild().await.unwrap();
    assert_eq!(again.get("all").await.unwrap().unwrap(), [1, 2, 3, 40, 50, 60]);
}

#[tokio::test]
async fn an_operator_who_knows_that_nothing_was_lost_lets_the_epoch_go_on() {
    let Some(mut pair) = Pair::new().await else { return };
    let store = pair.store.clone();
    let factum = Factum::new(store.clone());
    let (reads, before) = (MemoryReads::new(), store.head().await.unwrap().token);
    let count = factum.project(Count, reads.clone()).await.unwrap();
    count.wait_for(before).await.unwrap();
    count.stop().await;
    pair.fail_over();
    one(&store, 4).await;
    let between = store.head().await.unwrap().token;
    is_refused(&store, before).await;

    let unknown = store.continue_epoch(77, None).await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound { .. }), "{unknown}");
    let too_far = store.continue_epoch(1, Some(Position(4))).await.unwrap_err();
    assert!(matches!(too_far, Error::InvalidInput { .. }), "{too_far}");
    assert_eq!(store.continued().await.unwrap(), []);
    assert_eq!(store.continue_epoch(1, None).await.unwrap(), Position(3));
    assert_eq!(store.continued().await.unwrap(), [before]);
    is_taken(&store, before).await;
    is_taken(&store, between).await;
    // Other processes too, and what lies beyond stays refused, though the log is longer by now.
    let other = open(&pair.standby.url()).await;
    is_taken(&other, before).await;
    is_refused(&other, before.log.at(Position(4))).await;
    let page = store.read(Read::all().beyond(before)).await.unwrap();
    assert_eq!((page.events.len(), page.token), (1, between));
    // A read model goes on where it was, and what waits for a place of before finds it.
    let again = factum.project(Count, reads).await.unwrap();
    again.wait_for(before).await.unwrap();
    again.wait_for(between).await.unwrap();
    assert_eq!(again.get("all").await.unwrap().unwrap(), [1, 2, 3, 4]);

    // Each epoch since must go on, and as far as the least of them.
    let third = store.begin_epoch().await.unwrap().token;
    assert_eq!((third.position, third.log.log_id), (Position(4), before.log.log_id));
    for token in [before, between] {
        is_refused(&store, token).await;
    }
    assert_eq!(store.continued().await.unwrap(), []);
    store.continue_epoch(between.log.epoch, Some(Position(2))).await.unwrap();
    is_refused(&store, before).await;
    is_taken(&store, before.log.at(Position(2))).await;
    is_taken(&store, between.log.at(Position(2))).await;
    is_taken(&store, third).await;
    let as_far = [between, before].map(|token| token.log.at(Position(2)));
    assert_eq!(store.continued().await.unwrap(), as_far);
}

#[tokio::test]
async fn a_restart_is_no_new_epoch() {
    let Some(mut cluster) = Cluster::new(&[]) else { return };
    let store = open(&cluster.url()).await;
    let first = one(&store, 1).await.token;
    for end in [Cluster::stop_fast, Cluster::stop_immediate, Cluster::kill] as [fn(&mut Cluster); 3] {
        end(&mut cluster);
        cluster.start();
        // What connections there were are cut; the next ones look around.
        while store.head().await.is_err() {}
        assert_eq!(identity(&store).await, first.log);
    }
    is_taken(&store, first).await;
    by_hand(&cluster.url()).await.batch_execute("VACUUM (FULL, FREEZE) factum.log").await.unwrap();
    assert_eq!(
        identity(&open(&cluster.url()).await).await,
        first.log,
        "the row is written anew, but not by another"
    );
}

fn dump(from: &Cluster, database: &str) -> std::path::PathBuf {
    let file = from.directory().join(format!("{database}.dump"));
    from.succeed(
        "pg_dump",
        ["-Fc", "-f"].map(OsStr::new).into_iter().chain([file.as_os_str(), database.as_ref()]),
    );
    file
}

fn restore(to: &Cluster, file: &std::path::Path, database: &str) {
    to.succeed("pg_restore", ["-d", database].map(OsStr::new).into_iter().chain([file.as_os_str()]));
}

#[tokio::test]
async fn a_dump_that_is_restored_is_another_history_wherever_that_is() {
    let Some(cluster) = Cluster::new(&[]) else { return };
    let hand = by_hand(&cluster.url()).await;
    hand.batch_execute("CREATE DATABASE shop").await.unwrap();
    let (shop, store) = (cluster.url_of("shop"), open(&cluster.url_of("shop")).await);
    one(&store, 1).await;
    let kept = one(&store, 2).await.token;
    let file = dump(&cluster, "shop");
    let lost = one(&store, 3).await.token;

    // Into another database of the same cluster; the one that was dumped is none the wiser.
    hand.batch_execute("CREATE DATABASE copy").await.unwrap();
    restore(&cluster, &file, "copy");
    let copy = open(&cluster.url_of("copy")).await;
    one(&copy, 30).await;
    assert_eq!(events(&copy).await, [1, 2, 30]);
    for token in [kept, lost] {
        is_refused(&copy, token).await;
        is_taken(&store, token).await;
    }
    // As a template.
    drop(copy);
    until(&cluster.url(), "count(*) = 0 FROM pg_stat_activity WHERE datname = 'copy'").await;
    hand.batch_execute("CREATE DATABASE twin TEMPLATE copy").await.unwrap();
    let (copy, twin) = (open(&cluster.url_of("copy")).await, open(&cluster.url_of("twin")).await);
    assert_ne!(identity(&copy).await, identity(&twin).await);
    // Into another cluster, which was made in the same way, so that all of its numbers may be the same.
    let other = Cluster::new(&[]).unwrap();
    by_hand(&other.url()).await.batch_execute("CREATE DATABASE shop").await.unwrap();
    restore(&other, &file, "shop");
    let elsewhere = open(&other.url_of("shop")).await;
    one(&elsewhere, 30).await;
    is_refused(&elsewhere, kept).await;
    is_refused(&elsewhere, lost).await;
    // Into the very place that it came from, under the feet of a store that is open and has connections.
    let shop_by_hand = by_hand(&shop).await;
    shop_by_hand.batch_execute("DROP SCHEMA factum, factum_reads CASCADE").await.unwrap();
    restore(&cluster, &file, "shop");
    let again = loop {
        match store.read(Read::all().beyond(kept)).await {
            Err(Error::Unavailable { .. }) => {}
            other => break other,
        }
    };
    assert!(matches!(again, Err(Error::LogRewound(_))), "{again:?}");
    one(&store, 30).await;
    is_refused(&store, kept).await;
    is_refused(&store, lost).await;
}

#[tokio::test]
async fn a_restore_of_the_rows_alone_is_another_history_too() {
    let Some(cluster) = Cluster::new(&[]) else { return };
    let store = open(&cluster.url()).await;
    let (kept, file) = (one(&store, 1).await.token, dump(&cluster, "postgres"));
    let lost = one(&store, 2).await.token;
    drop(store);
    let tables = "TRUNCATE factum.log, factum.events, factum.streams, factum.epochs, factum.migrations";
    by_hand(&cluster.url()).await.batch_execute(tables).await.unwrap();
    let args = ["--data-only", "--disable-triggers", "-d", "postgres"].map(OsStr::new);
    cluster.succeed("pg_restore", args.into_iter().chain([file.as_os_str()]));
    let store = open(&cluster.url()).await;
    one(&store, 20).await;
    assert_eq!(events(&store).await, [1, 20]);
    is_refused(&store, kept).await;
    is_refused(&store, lost).await;
}

#[tokio::test]
async fn a_server_that_does_not_say_who_it_is_is_known_by_other_marks() {
    let Some(cluster) = Cluster::new(&[]) else { return };
    let hand = by_hand(&cluster.url()).await;
    let silent = "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;
        REVOKE EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) FROM PUBLIC; CREATE ROLE app LOGIN";
    hand.batch_execute(silent).await.unwrap();
    for database in ["a", "b", "c"] {
        hand.batch_execute(&format!("CREATE DATABASE {database} OWNER app")).await.unwrap();
    }
    let as_app = |database: &str| cluster.url_of(database).replace("postgres@", "app@");
    // Who may know opens it, who may not goes on with it, and the other way round.
    for (first, second) in [(cluster.url_of("a"), cluster.url_of("a")), (as_app("b"), cluster.url_of("b"))] {
        let store = open(&first).await;
        let token = one(&store, 1).await.token;
        assert_eq!(identity(&open(&second).await).await, token.log);
    }
    let store = open(&as_app("c")).await;
    let kept = one(&store, 1).await.token;
    assert_eq!(identity(&open(&as_app("c")).await).await, kept.log);
    let file = dump(&cluster, "c");
    hand.batch_execute("CREATE DATABASE d OWNER app").await.unwrap();
    restore(&cluster, &file, "d");
    is_refused(&open(&as_app("d")).await, kept).await;
}

#[tokio::test]
async fn an_append_within_somebody_elses_transaction_waits_for_the_new_epoch() {
    let Some(mut pair) = Pair::new().await else { return };
    pair.fail_over();
    let mut client = by_hand(&pair.standby.url()).await;
    let append = || Append::to(StreamName::new("counted-1").unwrap(), [NewEvent::json("One", &1).unwrap()]);
    let transaction = client.transaction().await.unwrap();
    // The store has no connection there yet, nor has any other.
    let early = pair.store.append_within(&transaction, append()).await.unwrap_err();
    assert!(early.is_retryable() && early.to_string().contains("failed over or restored"), "{early}");
    transaction.rollback().await.unwrap();
    while pair.store.head().await.is_err() {}
    let transaction = client.transaction().await.unwrap();
    pair.store.append_within(&transaction, append()).await.unwrap();
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn a_standby_is_refused_in_one_sentence() {
    let Some(pair) = Pair::new().await else { return };
    let refused = PostgresStore::connect(&pair.standby.url()).await.unwrap_err();
    assert!(refused.is_retryable() && refused.to_string().contains("is a standby"), "{refused}");
    assert!(!refused.to_string().contains('\n'));
}

/// A process that has not heard yet of the epoch that another one has begun.
#[tokio::test]
async fn a_guard_of_an_epoch_that_goes_on_holds_where_nobody_has_heard_of_the_next() {
    let bench = Bench::new().await;
    let before = bench.store.append(bench::one("seen-1")).await.unwrap().token;
    let other = bench.another(Options::default()).await;
    other.begin_epoch().await.unwrap();
    let guarded = |category: &str| bench::one("s-1").expect_none(Query::category(category), before);
    let refused = bench.store.append(guarded("unseen")).await.unwrap_err();
    assert!(matches!(refused, Error::LogRewound(_)), "{refused}");

    for within in [false, true] {
        let process = bench.another(Options::default()).await;
        let before = process.append(bench::one("seen-1")).await.unwrap().token;
        other.begin_epoch().await.unwrap();
        other.continue_epoch(before.log.epoch, None).await.unwrap();
        let guarded = |category: &str| bench::one("s-1").expect_none(Query::category(category), before);
        if within {
            let mut client = bench::connect().await;
            let transaction = client.transaction().await.unwrap();
            process.append_within(&transaction, guarded("unseen")).await.unwrap();
            transaction.commit().await.unwrap();
        } else {
            process.append(guarded("unseen")).await.unwrap();
        }
        other.append(bench::one("seen-1")).await.unwrap();
        let met = process.append(guarded("seen")).await.unwrap_err();
        assert!(met.is_conflict(), "{met}");
    }
}

/// Nobody has been told of it, whoever finds it again.
#[tokio::test]
async fn an_append_that_waits_while_an_epoch_is_begun_is_no_repetition() {
    for writing in [Writing::Single, Writing::Grouped] {
        let bench = Bench::with(Options { writing, ..Options::default() }).await;
        let other = bench.another(Options::default()).await;
        for n in 0..3 {
            // What this one answers is known of the log when the next one is written in a statement of its own.
            bench.store.append(bench::one("before-1")).await.unwrap();
            bench.draw().await;
            let waits = bench.append("waits-1");
            bench.committed(2 * n + 2).await;
            let epoch = other.begin_epoch().await.unwrap().token.log.epoch;
            bench.by_hand("ROLLBACK").await;
            let appended = waits.await.unwrap().unwrap();
            assert!(!appended.replayed && appended.token.log.epoch == epoch, "{writing:?}: {appended:?}");
        }
    }
}
