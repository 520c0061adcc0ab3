//! Dead letters and holds in PostgreSQL: what holds for every store of read models, and what is PostgreSQL's own.

use std::{sync::Arc, time::Duration};

use factum::{ReadStore, reads::Holds};
use factum_postgres::{Options, PostgresReads};

use crate::server;

const LONG: Duration = Duration::from_secs(60);

async fn open(schema: &str) -> Arc<PostgresReads> {
    let options = Options { schema: schema.to_owned(), connections: 4, ..Options::default() };
    Arc::new(PostgresReads::open(&server::url(), options).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_is_kept() {
    let schema = server::fresh_schema();
    let reads = open(&schema).await;
    factum_conformance::reads::check(reads.clone(), open(&schema).await).await.unwrap();
    let scratch = reads.scratch().await.unwrap();
    factum_conformance::reads::check(scratch.clone(), scratch).await.unwrap();
}

/// Somebody with a tool for PostgreSQL.
async fn outside() -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&server::url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn a_clock_that_was_put_back_by_a_day_makes_nobody_wait_for_a_day() {
    let schema = server::fresh_schema();
    let (reads, hand) = (open(&schema).await, outside().await);
    reads.hold("a", "dead", LONG).await.unwrap();
    let back = async |by: &str| {
        let back = format!("UPDATE {schema}.holds SET until = until + interval '{by}'");
        hand.batch_execute(&back).await.unwrap();
    };
    back("30 s").await;
    let other = reads.hold("a", "heir", LONG).await.unwrap();
    assert!(other.holder == "dead" && other.left > LONG, "a clock that was put back a little: {other:?}");
    back("1 day").await;
    assert_eq!(reads.held("a").await.unwrap(), []);
    assert_eq!(reads.hold("a", "heir", LONG).await.unwrap().holder, "heir");
}

/// Each process that starts holds names that nobody takes after it.
#[tokio::test]
async fn names_of_those_who_are_gone_do_not_pile_up() {
    let schema = server::fresh_schema();
    let (reads, hand) = (open(&schema).await, outside().await);
    for n in 0..50 {
        reads.hold(&format!("worker-{n}"), "me", Duration::ZERO).await.unwrap();
    }
    reads.hold("last", "me", LONG).await.unwrap();
    let count = hand.query_one(&format!("SELECT count(*) FROM {schema}.holds"), &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 1);
}

/// Whoever waits for a transaction that has a hold's row gets no more and no less time than was asked for.
#[tokio::test]
async fn a_hold_begins_when_it_is_taken_not_when_it_is_asked_for() {
    let schema = server::fresh_schema();
    let (reads, mut hand) = (open(&schema).await, outside().await);
    reads.hold("a", "me", LONG).await.unwrap();
    let tx = hand.transaction().await.unwrap();
    tx.execute(&format!("SELECT FROM {schema}.holds FOR UPDATE"), &[]).await.unwrap();
    let keeping = tokio::spawn(async move { reads.hold("a", "me", Duration::from_secs(1)).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%' || $1 || '%'";
    while tx.query_one(waits, &[&format!("{schema}\".holds")]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::task::yield_now().await;
    }
    tx.batch_execute("SELECT pg_sleep(0.5)").await.unwrap();
    let now = tx.query_one("SELECT clock_timestamp()::text", &[]).await.unwrap().get::<_, String>(0);
    tx.commit().await.unwrap();
    assert_eq!(keeping.await.unwrap().unwrap().holder, "me");
    let whole = format!("SELECT until >= '{now}'::timestamptz + interval '1 s' FROM {schema}.holds");
    assert!(hand.query_one(&whole, &[]).await.unwrap().get::<_, bool>(0));
}
