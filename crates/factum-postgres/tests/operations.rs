//! What an operator does and sees: migrations by hand, roles that may little, and how a store is.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use factum::{Append, EventStore, EventStoreExt, NewEvent, Position, Read, StreamName};
use factum_postgres::{Options, PostgresStore};
use metrics::{Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio_postgres::Client;

async fn connect() -> Client {
    let (client, connection) = tokio_postgres::connect(&support::url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn options() -> Options {
    Options { schema: support::fresh_schema(), ..Options::default() }
}

fn one(stream: &str) -> Append {
    Append::to(StreamName::new(stream).unwrap(), [NewEvent::json("Done", &1).unwrap()])
}

#[tokio::test]
async fn a_store_that_may_not_migrate_says_what_is_missing_and_opens_once_somebody_has() {
    let (url, options) = (support::url(), options());
    let humble = Options { migrate: false, ..options.clone() };
    let before = PostgresStore::status_of(&url, &humble).await.unwrap();
    assert!(!before.is_up_to_date() && before.log.is_none());
    assert!(before.migrations.iter().all(|step| step.known && step.applied_at.is_none()));
    let refused = PostgresStore::open(&url, humble.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("lacks migration 1 (the event store)"), "{refused}");
    assert!(!refused.is_retryable());

    let applied = PostgresStore::migrate(&url, &options).await.unwrap();
    assert_eq!(applied, before.migrations);
    assert_eq!(PostgresStore::migrate(&url, &options).await.unwrap(), []);
    let store = PostgresStore::open(&url, humble).await.unwrap();
    assert!(store.status().await.unwrap().is_up_to_date());
}

#[tokio::test]
async fn a_role_that_only_reads_reads_and_is_refused_the_rest() {
    let (url, options, hand) = (support::url(), options(), connect().await);
    PostgresStore::open(&url, options.clone()).await.unwrap().append(one("a-1")).await.unwrap();
    let (schema, role) = (&options.schema, format!("r{}", options.schema));
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}; GRANT SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {role};"
    );
    hand.batch_execute(&grants).await.unwrap();
    let reader = Options { migrate: false, ..options.clone() };
    let store = PostgresStore::open(&url.replace("postgres@", &format!("{role}@")), reader).await.unwrap();
    assert_eq!(store.read_to_end(Read::all()).await.unwrap().len(), 1);
    assert_eq!(store.status().await.unwrap().log.unwrap().safe_head.position, Position(1));
    let refused = store.append(one("a-1")).await.unwrap_err();
    assert!(refused.to_string().contains("lacks a right") && !refused.is_retryable(), "{refused}");
    drop(store);
    hand.batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test]
async fn of_several_who_migrate_at_once_one_does() {
    let (url, options) = (support::url(), options());
    let migrating = (0..8).map(|_| PostgresStore::migrate(&url, &options));
    let applied = futures_util::future::try_join_all(migrating).await.unwrap();
    assert_eq!(applied.iter().filter(|applied| !applied.is_empty()).count(), 1);
}

#[tokio::test]
async fn status_shows_who_holds_up_the_readers() {
    let (options, hand) = (options(), connect().await);
    let store = PostgresStore::open(&support::url(), options.clone()).await.unwrap();
    store.append(one("a-1")).await.unwrap();
    let quiet = store.status().await.unwrap().log.unwrap();
    assert_eq!((quiet.safe_head, quiet.drawn), (store.head().await.unwrap().token, Position(1)));
    assert!(quiet.holders.is_empty() && quiet.ended.is_empty() && quiet.where_it_was && !quiet.standby);
    assert!(quiet.connections >= 1);

    let pid: i32 = hand.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let draw = format!("BEGIN; SELECT {}.allocate(1)", options.schema);
    hand.batch_execute(&draw).await.unwrap();
    let later = store.clone();
    let append = tokio::spawn(async move { later.append(one("b-1")).await });
    let held = loop {
        let log = store.status().await.unwrap().log.unwrap();
        if log.drawn == Position(3) {
            break log;
        }
    };
    assert_eq!(held.safe_head.position, Position(1), "nobody sees beyond");
    assert_eq!((held.holders[0].beyond, held.holders[0].pid), (Position(1), Some(pid)));
    assert!(held.holders[0].age.unwrap() > Duration::ZERO);
    hand.batch_execute("ROLLBACK").await.unwrap();
    append.await.unwrap().unwrap();
    let ended = store.begin_epoch().await.unwrap().token;
    let log = PostgresStore::status_of(&support::url(), &options).await.unwrap().log.unwrap();
    assert_eq!(log.safe_head, ended);
    assert_eq!((log.ended[0].log, log.ended[0].found), (quiet.safe_head.log, Position(3)));
}

#[tokio::test]
async fn a_statement_ends_when_its_time_is_up() {
    let options = Options { statement_timeout: Duration::from_millis(50), ..options() };
    let (store, hand) =
        (PostgresStore::open(&support::url(), options.clone()).await.unwrap(), connect().await);
    hand.batch_execute(&format!("BEGIN; LOCK TABLE {}.events", options.schema)).await.unwrap();
    let late = store.append(one("a-1")).await.unwrap_err();
    assert!(late.is_retryable() && late.to_string().contains("statement timeout"), "{late}");
}

/// What was published last.
#[derive(Clone, Debug, Default)]
struct Published(Arc<Mutex<HashMap<String, f64>>>);

struct Place(Published, String);

impl GaugeFn for Place {
    fn increment(&self, _: f64) {}
    fn decrement(&self, _: f64) {}
    fn set(&self, value: f64) {
        self.0.0.lock().unwrap().insert(self.1.clone(), value);
    }
}

impl Recorder for Published {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Arc::new(Place(self.clone(), key.name().to_owned())))
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn metrics_show_how_far_readers_see_and_who_holds_them_up() {
    let published = Published::default();
    metrics::set_global_recorder(published.clone()).unwrap();
    let options = Options { metrics: Some(Duration::from_millis(5)), ..options() };
    let (store, hand) =
        (PostgresStore::open(&support::url(), options.clone()).await.unwrap(), connect().await);
    store.append(one("a-1")).await.unwrap();
    let pid: i32 = hand.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    hand.batch_execute(&format!("BEGIN; SELECT {}.allocate(1)", options.schema)).await.unwrap();
    let shown = async |name: &str, value: f64| {
        let waited = async {
            loop {
                let shown = published.0.lock().unwrap().get(name).copied();
                if shown.is_some_and(|shown| (shown - value).abs() < 0.5) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waited)
            .await
            .unwrap_or_else(|_| panic!("{name} is not {value}"));
    };
    shown("factum_postgres_safe_head", 1.0).await;
    shown("factum_postgres_drawn", 2.0).await;
    shown("factum_postgres_writing", 1.0).await;
    shown("factum_postgres_holder_pid", f64::from(pid)).await;
    assert!(published.0.lock().unwrap()["factum_postgres_holder_age_seconds"] > 0.0);
    hand.batch_execute("COMMIT").await.unwrap();
    shown("factum_postgres_writing", 0.0).await;
    shown("factum_postgres_holder_pid", 0.0).await;
    shown("factum_postgres_connections_in_use", 0.0).await;
}
