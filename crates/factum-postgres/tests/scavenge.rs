//! Scavenges: nothing that anyone can see changes, and the contents are gone.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, mpsc},
};

use factum::{
    Append, Appended, Error, EventStore, EventStoreExt, ExpectedRevision, NewEvent, Read, Retention,
    Revision, StreamName, Tags,
};
use factum_postgres::{Options, PostgresStore, Scavenged};
use tokio_postgres::Client;

struct Bench {
    store: PostgresStore,
    hand: Client,
    schema: String,
}

impl Bench {
    async fn new() -> Self {
        let schema = support::fresh_schema();
        let options = Options { schema: schema.clone(), ..Options::default() };
        let store = PostgresStore::open(&support::url(), options).await.unwrap();
        let (hand, connection) =
            tokio_postgres::connect(&support::url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        Self { store, hand, schema }
    }

    async fn count(&self, sql: &str) -> i64 {
        let sql = sql.replace("factum.", &format!("{}.", self.schema));
        self.hand.query_one(&sql, &[]).await.unwrap().get(0)
    }

    /// Events whose content is in the database.
    async fn contents(&self) -> i64 {
        self.count("SELECT count(*) FROM factum.events WHERE num_nonnulls(data, data_bytes, metadata, metadata_bytes) > 0 OR tags <> '{}' OR event_type <> '' OR content_type <> ''").await
    }

    async fn scavenge(&self) -> Scavenged {
        self.store.scavenge(|_| ControlFlow::Continue(())).await.unwrap()
    }
}

fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

fn said(name: &str, n: u32) -> Append {
    let event = NewEvent::json("Said", &serde_json::json!({ "n": n, "text": "x".repeat(100) })).unwrap();
    Append::to(stream(name), [event.with_tags(Tags::new(["room:7"]).unwrap())])
}

async fn write(bench: &Bench, name: &str, count: u32) -> Vec<(Append, Appended)> {
    let mut sent = Vec::new();
    for n in 0..count {
        let append = said(name, n);
        sent.push((append.clone(), bench.store.append(append).await.unwrap()));
    }
    sent
}

#[tokio::test]
async fn what_is_hidden_for_good_is_removed_and_nobody_can_tell() {
    let bench = Bench::new().await;
    let store = &bench.store;
    let mut sent = Vec::new();
    for name in ["deleted-1", "ended-1", "cut-1", "few-1", "kept-1"] {
        sent.extend(write(&bench, name, 20).await);
    }
    store.delete(&stream("deleted-1"), ExpectedRevision::Any).await.unwrap();
    store.tombstone(&stream("ended-1"), ExpectedRevision::Any).await.unwrap();
    let cut = Retention { truncate_before: Some(Revision(5)), ..Retention::default() };
    store.set_retention(&stream("cut-1"), ExpectedRevision::Any, cut).await.unwrap();
    let few = Retention { max_count: Some(3), ..Retention::default() };
    store.set_retention(&stream("few-1"), ExpectedRevision::Any, few).await.unwrap();
    let (seen, head) = (store.read_to_end(Read::all()).await.unwrap(), store.head().await.unwrap());

    let done = bench.scavenge().await;
    assert_eq!((done.events, done.stopped, done.vacuumed), (20 + 20 + 5 + 17, false, true));
    assert!(done.bytes > 100 * done.events, "{done:?}");
    assert_eq!(bench.contents().await, seen.len() as i64, "what is not seen is not there");
    assert_eq!(store.read_to_end(Read::all()).await.unwrap(), seen);
    assert_eq!(store.head().await.unwrap(), head);
    for (append, answer) in &sent {
        let again = store.append(append.clone()).await.unwrap();
        assert_eq!((&again.events, again.replayed), (&answer.events, true));
        let other = NewEvent::json("Said", &"other").unwrap().with_id(append.writes[0].events[0].id);
        let other = store.append(Append::to(append.writes[0].stream.clone(), [other])).await.unwrap_err();
        assert!(matches!(other, Error::IdConflict { .. }), "{other}");
    }
    assert_eq!(bench.scavenge().await, Scavenged::default(), "there is nothing left to do");
    // Life goes on, and its next end too.
    write(&bench, "deleted-1", 2).await;
    store.delete(&stream("deleted-1"), ExpectedRevision::Any).await.unwrap();
    assert_eq!(bench.scavenge().await.events, 2);
}

#[tokio::test]
async fn what_is_too_old_goes_by_the_time_of_the_last_event() {
    let bench = Bench::new().await;
    write(&bench, "old-1", 4).await;
    let earlier =
        "WITH earlier AS (UPDATE factum.events SET recorded_at = recorded_at - 3600 * 1000000::bigint
        WHERE stream = 'old-1' AND revision < 3 RETURNING 1) SELECT count(*) FROM earlier";
    assert_eq!(bench.count(earlier).await, 3);
    let hour = Retention { max_age_seconds: Some(1800), ..Retention::default() };
    bench.store.set_retention(&stream("old-1"), ExpectedRevision::Any, hour).await.unwrap();
    assert_eq!(bench.scavenge().await.events, 3);
    // An age beyond all that a clock can say.
    let ever = Retention { max_age_seconds: Some(i64::MAX as u64), ..Retention::default() };
    bench.store.set_retention(&stream("old-1"), ExpectedRevision::Any, ever).await.unwrap();
    assert_eq!(bench.scavenge().await.events, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_can_be_stopped_and_the_next_one_goes_on() {
    let bench = Bench::new().await;
    let events = (0..600).map(|n| NewEvent::json("Said", &n).unwrap());
    bench.store.append(Append::to(stream("a-1"), events)).await.unwrap();
    write(&bench, "b-1", 3).await;
    for name in ["a-1", "b-1"] {
        bench.store.delete(&stream(name), ExpectedRevision::Any).await.unwrap();
    }
    let told = Arc::new(Mutex::new(Vec::new()));
    let steps = told.clone();
    let first = bench.store.scavenge(move |at| {
        steps.lock().unwrap().push((at.stream.clone(), at.events));
        ControlFlow::Break(())
    });
    let first = first.await.unwrap();
    assert!(first.stopped && !first.vacuumed);
    assert_eq!(*told.lock().unwrap(), [("a-1".to_owned(), 256)]);
    // Dropped in the middle: it ends after the batch at hand.
    let (arrived, arrives) = mpsc::channel();
    let (go_on, wait) = mpsc::channel::<()>();
    let store = bench.store.clone();
    let work = tokio::spawn(async move {
        let held = move |_: &_| {
            arrived.send(()).unwrap();
            let _ = wait.recv();
            ControlFlow::Continue(())
        };
        store.scavenge(held).await
    });
    tokio::task::spawn_blocking(move || arrives.recv().unwrap()).await.unwrap();
    let another = bench.store.scavenge(|_| ControlFlow::Continue(())).await.unwrap_err();
    assert!(another.is_retryable() && another.to_string().contains("running already"), "{another}");
    work.abort();
    let _ = work.await;
    drop(go_on);
    let rest = loop {
        match bench.store.scavenge(|_| ControlFlow::Continue(())).await {
            Ok(done) => break done,
            Err(error) => assert!(error.to_string().contains("running already"), "{error}"),
        }
    };
    assert_eq!(rest.events, 600 - 2 * 256 + 3);
}
