//! Hints between processes: what another one appends is told at once, and what is not told is found all the same.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use std::{sync::Arc, time::Duration};

use factum::{Append, Appended, Delivery, EventStore, NewEvent, Position, Query, StreamName, subscribe};
use factum_postgres::{Options, PostgresStore};
use tokio_postgres::Client;

const LONG: Duration = Duration::from_secs(20);

async fn connect() -> Client {
    let (client, connection) = tokio_postgres::connect(&support::url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Two stores on one schema, as two processes have them.
async fn two() -> (PostgresStore, PostgresStore, String) {
    let schema = support::fresh_schema();
    let open = || {
        let options = Options { schema: schema.clone(), ..Options::default() };
        async { PostgresStore::open(&support::url(), options).await.unwrap() }
    };
    let (one, other) = (open().await, open().await);
    until_listening(&schema, 2).await;
    (one, other, schema)
}

const LISTENERS: &str =
    "FROM pg_stat_activity WHERE application_name = 'factum SCHEMA' AND query LIKE '%pg_notify%'";

async fn until_listening(schema: &str, listeners: i64) {
    let (hand, count) = (connect().await, format!("SELECT count(*) {LISTENERS}").replace("SCHEMA", schema));
    let waited = async {
        while hand.query_one(&count, &[]).await.unwrap().get::<_, i64>(0) < listeners {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, waited).await.expect("nobody listens");
}

async fn append(store: &PostgresStore) -> Appended {
    let append = Append::to(StreamName::new("a-1").unwrap(), [NewEvent::json("Done", &1).unwrap()]);
    store.append(append).await.unwrap()
}

#[tokio::test]
async fn what_another_process_appends_is_told_without_looking() {
    let (here, there, _) = two().await;
    for n in 1..=20 {
        // Nothing in here looks at the log: it returns when it is told, or never.
        let told = here.changed(Position(n - 1));
        let (appended, told) = tokio::join!(append(&there), tokio::time::timeout(LONG, told));
        told.expect("nobody has told it");
        assert_eq!(appended.token.position, Position(n));
    }
    let more = tokio::time::timeout(Duration::from_millis(300), here.changed(Position(20))).await;
    assert!(more.is_err(), "there is nothing beyond");
}

#[tokio::test]
async fn a_listener_that_was_cut_listens_again_and_hears_what_it_missed() {
    let (here, there, schema) = two().await;
    let cut = format!("SELECT pg_terminate_backend(pid) {LISTENERS}").replace("SCHEMA", &schema);
    connect().await.execute(&cut, &[]).await.unwrap();
    let last = append(&there).await.token.position;
    tokio::time::timeout(LONG, here.changed(Position(last.0 - 1)))
        .await
        .expect("it was not told of what it missed");
    until_listening(&schema, 2).await;
    let (_, told) = tokio::join!(append(&there), tokio::time::timeout(LONG, here.changed(last)));
    told.expect("nobody has told it");
}

#[tokio::test]
async fn without_hints_all_is_found_by_looking() {
    let (here, there, schema) = two().await;
    let mut subscription = subscribe(Arc::new(here.clone()), Query::all(), None).await.unwrap();
    let cut = format!("SELECT pg_terminate_backend(pid) {LISTENERS}").replace("SCHEMA", &schema);
    let hand = connect().await;
    // Nobody gets to listen while this goes on.
    let cutting = tokio::spawn(async move {
        loop {
            hand.execute(&cut, &[]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let mut found = Vec::new();
    for _ in 0..3 {
        let expected = append(&there).await.token.position;
        while found.last() != Some(&expected) {
            let next = tokio::time::timeout(LONG, subscription.next()).await.expect("it is not found");
            if let Delivery::Events { events, .. } = next.unwrap() {
                found.extend(events.iter().map(|event| event.position));
            }
        }
    }
    assert_eq!(found, [1, 2, 3].map(Position));
    cutting.abort();
}

#[tokio::test]
async fn a_hint_that_lies_wakes_nobody_twice() {
    let (here, there, schema) = two().await;
    append(&there).await;
    let lie = format!("SELECT pg_notify('factum {schema}', '1000000')");
    for nonsense in ["", "x", "-1", "99999999999999999999999"] {
        let nonsense = format!("SELECT pg_notify('factum {schema}', '{nonsense}')");
        connect().await.execute(&nonsense, &[]).await.unwrap();
    }
    connect().await.execute(&lie, &[]).await.unwrap();
    tokio::time::timeout(LONG, here.changed(Position(1))).await.expect("it was told");
    assert_eq!(here.head().await.unwrap().token.position, Position(1));
    let again = tokio::time::timeout(Duration::from_millis(300), here.changed(Position(1))).await;
    assert!(again.is_err(), "it has looked, and there was nothing");
    let (_, told) = tokio::join!(append(&there), tokio::time::timeout(LONG, here.changed(Position(1))));
    told.expect("nobody has told it");
}
