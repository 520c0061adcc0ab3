//! Order, where transactions commit in another order than they drew their positions: appenders that are held up between any
//! two steps, readers too, connections that are cut, and the known wrong ways, each seen to lose events.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use factum::{
    Delivery, EventId, EventStore, EventStoreExt, Placed, Position, Read, RecordedEvent, Subscription,
};
use factum_postgres::PostgresStore;
use tokio_postgres::Client;

use support::bench::{Bench, connect, one, until};

/// Streams that a subscription delivers until it has caught up.
async fn delivered(subscription: &mut Subscription) -> Vec<String> {
    let mut streams = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_millis(1500), subscription.next()).await {
            Ok(Ok(Delivery::Events { events, .. })) => {
                streams.extend(events.into_iter().map(|e| e.stream.as_str().to_owned()));
            }
            Ok(Ok(Delivery::CaughtUp(_)) | Err(_)) | Err(_) => return streams,
            Ok(Ok(_)) => {}
        }
    }
}

/// One appender draws its position and is held up; another one draws after it and commits. What a subscriber gets in the end,
/// and in which order.
async fn overtaken(bench: &Bench) -> Vec<String> {
    let mut subscription = bench.subscription().await;
    let drawn = bench.draw().await;
    let quick = bench.append("quick-1");
    bench.committed(1).await;
    let mut got = delivered(&mut subscription).await;
    bench.write(drawn, "slow-1").await;
    quick.await.unwrap().unwrap();
    got.extend(delivered(&mut subscription).await);
    got
}

#[tokio::test]
async fn who_commits_first_does_not_hide_who_drew_first() {
    assert_eq!(overtaken(&Bench::new().await).await, ["slow-1", "quick-1"]);
}

#[tokio::test]
async fn the_wrong_way_of_reading_up_to_what_was_drawn_is_seen_to_lose_events() {
    let bench = Bench::new().await;
    let naive = "CREATE OR REPLACE FUNCTION factum.safe_head() RETURNS bigint LANGUAGE sql AS 'SELECT last_value FROM factum.position'";
    bench.by_hand(naive).await;
    assert_eq!(overtaken(&bench).await, ["quick-1"], "the slow one is never delivered");
}

/// A reader is held up between its two looks (the gate stands there), while one appender draws and another commits.
async fn reader_held_up(bench: &Bench) -> Vec<String> {
    let mut subscription = bench.subscription().await;
    let gate = bench.shut().await;
    let reading = tokio::spawn(async move {
        let got = delivered(&mut subscription).await;
        (subscription, got)
    });
    bench.somebody_waits_at_the_gate().await;
    let drawn = bench.draw().await;
    let quick = bench.append("quick-1");
    bench.committed(1).await;
    gate.batch_execute(&bench.gate("pg_advisory_unlock")).await.unwrap();
    let (mut subscription, mut got) = reading.await.unwrap();
    bench.write(drawn, "slow-1").await;
    quick.await.unwrap().unwrap();
    got.extend(delivered(&mut subscription).await);
    got
}

/// `safe_head` with these two looks and the gate between.
fn looking(bench: &Bench, first: &str, second: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION factum.safe_head() RETURNS bigint VOLATILE LANGUAGE plpgsql AS $$
        DECLARE drawn bigint; announced bigint; last bigint;
        BEGIN {first} {} {second} RETURN least(drawn, announced); END $$",
        bench.pass()
    )
}

const LOOK_AT_DRAWN: &str = "SELECT last_value INTO drawn FROM factum.position;";
const LOOK_AT_FENCES: &str = "SELECT last_value INTO last FROM factum.position;
    SELECT min(factum.fence_position(key, last)) INTO announced FROM factum.fences;";

#[tokio::test]
async fn a_reader_may_be_held_up_between_its_looks() {
    let bench = Bench::new().await;
    bench.by_hand(&looking(&bench, LOOK_AT_DRAWN, LOOK_AT_FENCES)).await;
    assert_eq!(reader_held_up(&bench).await, ["slow-1", "quick-1"]);
}

#[tokio::test]
async fn the_wrong_way_of_looking_at_the_fences_first_is_seen_to_lose_events() {
    let bench = Bench::new().await;
    bench.by_hand(&looking(&bench, LOOK_AT_FENCES, LOOK_AT_DRAWN)).await;
    assert_eq!(reader_held_up(&bench).await, ["quick-1"], "the slow one is never delivered");
}

#[tokio::test]
async fn an_appender_that_gives_up_leaves_a_hole_that_nobody_waits_for() {
    let bench = Bench::new().await;
    bench.draw().await;
    let quick = bench.append("quick-1");
    bench.committed(1).await;
    assert_eq!(bench.store.head().await.unwrap().token.position, Position(0), "not safe yet");
    bench.by_hand("ROLLBACK").await;
    let quick = quick.await.unwrap().unwrap();
    assert_eq!(
        (quick.events[0].position, bench.store.head().await.unwrap().token),
        (Position(2), quick.token)
    );
}

#[tokio::test]
async fn an_append_is_answered_only_when_every_reader_sees_it() {
    let bench = Bench::new().await;
    bench.draw().await;
    let mut quick = bench.append("quick-1");
    bench.committed(1).await;
    let answered = tokio::time::timeout(Duration::from_millis(300), &mut quick).await;
    assert!(answered.is_err(), "a reader would not see it: {answered:?}");
    bench.by_hand("COMMIT").await;
    quick.await.unwrap().unwrap();
    assert_eq!(bench.store.read_to_end(Read::all()).await.unwrap().len(), 1);
}

/// What a writer was told of its events.
type Acknowledged = HashMap<EventId, Placed>;

/// Appends one event after the other until so many connections were cut, each sent again until it is answered.
async fn write_on(store: Arc<PostgresStore>, stream: String, cuts: Arc<AtomicU64>) -> Acknowledged {
    let mut acknowledged = HashMap::new();
    while cuts.load(Ordering::Relaxed) < CUTS {
        let append = one(&stream);
        let id = append.writes[0].events[0].id;
        let appended = loop {
            match store.append(append.clone()).await {
                Ok(appended) => break appended,
                Err(error) => assert!(error.is_retryable(), "{error} ({error:?})"),
            }
        };
        acknowledged.insert(id, appended.events[0]);
    }
    acknowledged
}

/// Cuts one connection of the store after the other.
async fn cut(hand: Client, schema: String, cuts: Arc<AtomicU64>) {
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
        WHERE application_name = $1 ORDER BY random() LIMIT 1) p";
    while cuts.load(Ordering::Relaxed) < CUTS {
        let cut: i64 = hand.query_one(cut, &[&format!("factum {schema}")]).await.unwrap().get(0);
        cuts.fetch_add(cut.unsigned_abs(), Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Follows until the last event of the test.
async fn follow(mut subscription: Subscription) -> Vec<RecordedEvent> {
    let mut events: Vec<RecordedEvent> = Vec::new();
    while events.last().is_none_or(|last| last.stream.as_str() != LAST) {
        match subscription.next().await {
            Ok(Delivery::Events { events: more, .. }) => events.extend(more),
            Ok(_) => {}
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
    events
}

const CUTS: u64 = 60;
const LAST: &str = "last";

#[tokio::test(flavor = "multi_thread")]
async fn connections_cut_in_the_middle_lose_and_double_nothing() {
    let bench = Bench::new().await;
    let cuts = Arc::new(AtomicU64::new(0));
    let following = tokio::spawn(follow(bench.subscription().await));
    let cutting = tokio::spawn(cut(connect().await, bench.schema.clone(), cuts.clone()));
    let writer = |n: u64| tokio::spawn(write_on(bench.store.clone(), format!("writer-{n}"), cuts.clone()));
    let writers: Vec<_> = (0..8).map(writer).collect();
    let mut acknowledged = HashMap::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    cutting.await.unwrap();
    // The last cuts may still be felt.
    let last = one(LAST);
    until(async || bench.store.append(last.clone()).await.is_ok()).await;
    let delivered =
        tokio::time::timeout(Duration::from_secs(20), following).await.expect("all is delivered").unwrap();
    let mut recorded = bench.store.read_to_end(Read::all()).await.unwrap();
    let positions = |events: &[RecordedEvent]| events.iter().map(|event| event.position).collect::<Vec<_>>();
    assert_eq!(
        positions(&delivered),
        positions(&recorded),
        "delivered in order, none missing and none twice"
    );
    recorded.pop();
    assert_eq!(recorded.len(), acknowledged.len(), "each event is there once");
    for event in &recorded {
        let placed = acknowledged.get(&event.id).expect("nothing was invented");
        assert_eq!((placed.position, placed.revision), (event.position, event.revision));
    }
}
