//! The ways in which appends are written: in groups, in a statement of their own, and in a transaction of the caller's own; and
//! what readers see of them meanwhile.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use std::{collections::HashSet, time::Duration};

use factum::{
    Append, Appended, Error, EventStore, ExpectedRevision, NewEvent, Read, Revision, StreamName, StreamState,
    error::Actual,
};
use factum_postgres::{Options, PostgresStore, Writing};

use crate::support::bench::{Bench, connect, one};

fn grouped() -> Options {
    Options { writing: Writing::Grouped, ..Options::default() }
}

fn name(stream: &str) -> StreamName {
    StreamName::new(stream).unwrap()
}

async fn revisions(store: &PostgresStore, stream: &str) -> (Vec<u64>, Option<Revision>) {
    let page = store.read(Read::stream(name(stream))).await.unwrap();
    let events = page.events.iter().map(|event| event.revision.0).collect();
    (events, page.stream.and_then(|stream| stream.last_revision))
}

/// All at once; the answers in the order of the appends.
async fn all_at_once(store: &PostgresStore, appends: Vec<Append>) -> Vec<factum::Result<Appended>> {
    let on_their_way: Vec<_> = appends
        .into_iter()
        .map(|append| {
            let store = store.clone();
            tokio::spawn(async move { store.append(append).await })
        })
        .collect();
    let mut answers = Vec::new();
    for append in on_their_way {
        answers.push(append.await.unwrap());
    }
    answers
}

/// Otherwise a decision on a stream whose first event is committed, but not safe to be seen yet, would take it for one whose
/// events are hidden, and expect the revision of an event that it has not seen.
#[tokio::test]
async fn a_stream_ends_where_its_safe_events_do() {
    let bench = Bench::new().await;
    let before = bench.store.append(one("seen-1")).await.unwrap();
    bench.draw().await;
    let late = bench.append("late-1");
    let more = bench.append("seen-1");
    bench.committed(3).await;
    for _ in 0..3 {
        assert_eq!(revisions(&bench.store, "late-1").await, (vec![], None));
        assert_eq!(revisions(&bench.store, "seen-1").await, (vec![0], Some(Revision(0))));
        assert_eq!(bench.store.stream_state(&name("late-1")).await.unwrap(), StreamState::default());
        assert_eq!(bench.store.head().await.unwrap().token, before.token);
    }
    bench.by_hand("ROLLBACK").await;
    late.await.unwrap().unwrap();
    more.await.unwrap().unwrap();
    assert_eq!(revisions(&bench.store, "late-1").await, (vec![0], Some(Revision(0))));
    assert_eq!(revisions(&bench.store, "seen-1").await, (vec![0, 1], Some(Revision(1))));
}

/// While nobody writes, a stream is read without looking around: that must end with the first append, of whatever process.
#[tokio::test]
async fn a_read_in_one_trip_sees_all_that_was_answered() {
    let bench = Bench::new().await;
    let other = bench.another(Options::default()).await;
    for n in 0..40_u64 {
        let answered = other.append(one("s-1")).await.unwrap();
        // The second read may be one in one trip.
        for _ in 0..20 {
            let page = bench.store.read(Read::stream(name("s-1"))).await.unwrap();
            assert_eq!(page.events.len() as u64, n + 1);
            assert!(page.token.position >= answered.token.position && page.head == page.token);
        }
        if n.is_multiple_of(3) {
            bench.draw().await;
            bench.by_hand("ROLLBACK").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_group_each_is_decided_for_itself() {
    let bench = Bench::with(grouped()).await;
    let appends: Vec<Append> = (0..96)
        .map(|n| {
            let stream = format!("claim-{}", n % 8);
            one(&stream).expect(name(&stream), ExpectedRevision::NoStream)
        })
        .collect();
    let answers = all_at_once(&bench.store, appends).await;
    let (mut won, mut lost) = (HashSet::new(), 0);
    for (n, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(appended) => {
                assert_eq!(appended.events[0].revision, Revision(0));
                assert!(won.insert(n % 8), "two won stream {}", n % 8);
            }
            Err(Error::Conflict(conflict)) => {
                assert_eq!(conflict.actual, Actual::Revision(Revision(0)));
                lost += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((won.len(), lost), (8, 88));
    let free: Vec<Append> = (0..200).map(|n| one(&format!("free-{n}"))).collect();
    assert!(all_at_once(&bench.store, free).await.iter().all(Result::is_ok));
    let transactions =
        bench.sql("SELECT count(DISTINCT xmin::text) FROM factum.events WHERE category = 'free'");
    let transactions = bench.hand_count(&transactions).await;
    assert!(transactions < 100, "200 appends took {transactions} transactions");
}

/// Somebody holds a stream for long: those who write to others are not to wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_group_nobody_waits_for_anothers_lock() {
    let bench = Bench::with(grouped()).await;
    bench.store.append(one("held-1")).await.unwrap();
    bench.by_hand("BEGIN; SELECT 1 FROM factum.streams WHERE name = 'held-1' FOR UPDATE").await;
    for round in 0..3 {
        let held = bench.append("held-1");
        let free = (0..40).map(|n| one(&format!("free-{round}.{n}"))).collect();
        assert!(all_at_once(&bench.store, free).await.iter().all(Result::is_ok));
        assert!(!held.is_finished());
        held.abort();
    }
    bench.by_hand("ROLLBACK").await;
}

/// What is sent twice at the same time stands in one group, maybe.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_group_the_same_append_is_written_once() {
    let bench = Bench::with(grouped()).await;
    let append = one("same-1");
    let answers = all_at_once(&bench.store, vec![append; 32]).await;
    let answers: Vec<Appended> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    assert!(answers.iter().all(|answer| answer.events == answers[0].events));
    assert_eq!(revisions(&bench.store, "same-1").await.0, [0]);
}

/// It is left to a later transaction, and comes back from a slow one when those who would have taken it have gone home.
#[tokio::test]
async fn in_a_group_who_is_put_off_is_answered_though_nobody_comes_after() {
    let bench = Bench::with(grouped()).await;
    let append = one("same-1");
    let first = bench.store.append(append.clone()).await.unwrap();
    bench
        .by_hand(
            "CREATE FUNCTION factum.slowly() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_sleep(0.8); RETURN NULL; END';
            CREATE TRIGGER slowly AFTER INSERT ON factum.events FOR EACH STATEMENT EXECUTE FUNCTION factum.slowly()",
        )
        .await;
    // On this one thread they are all there before the group is made.
    let answers = all_at_once(&bench.store, vec![one("other-1"), append]);
    let answers = tokio::time::timeout(Duration::from_secs(20), answers).await.expect("one was forgotten");
    let again = answers[1].as_ref().unwrap();
    assert!(answers[0].is_ok() && again.replayed && again.events == first.events);
}

/// A guard on a query is about what those before it in the group write, too.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_group_a_guard_on_a_query_sees_those_before_it() {
    let bench = Bench::with(grouped()).await;
    let seat = factum::Query::tags(["seat:12"]).unwrap();
    for round in 0..10 {
        let after = bench.store.head().await.unwrap().token;
        let claim = |n: usize| {
            let mut event = NewEvent::json("SeatTaken", &serde_json::json!({})).unwrap();
            event.tags = factum::Tags::new(["seat:12"]).unwrap();
            Append::to(name(&format!("guest-{round}.{n}")), [event]).expect_none(seat.clone(), after)
        };
        let answers = all_at_once(&bench.store, (0..24).map(claim).collect()).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
        assert!(answers.iter().flat_map(|answer| answer.as_ref().err()).all(Error::is_conflict));
    }
}

#[tokio::test]
async fn in_the_callers_own_transaction_both_happen_or_neither() {
    let bench = Bench::new().await;
    let mut client = connect().await;
    bench.by_hand("CREATE TABLE factum.seats (number integer)").await;
    let take = bench.sql("INSERT INTO factum.seats VALUES (12)");
    let seats = bench.sql("SELECT count(*) FROM factum.seats");

    let transaction = client.transaction().await.unwrap();
    transaction.execute(&take, &[]).await.unwrap();
    bench.store.append_within(&transaction, one("seat-12")).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(revisions(&bench.store, "seat-12").await.0, [] as [u64; 0]);
    assert_eq!(bench.hand_count(&seats).await, 0);

    let transaction = client.transaction().await.unwrap();
    transaction.execute(&take, &[]).await.unwrap();
    let appended = bench.store.append_within(&transaction, one("seat-12")).await.unwrap();
    assert_eq!(revisions(&bench.store, "seat-12").await.0, [] as [u64; 0], "it is not committed");
    // Who writes after it is not answered before it is done.
    let later = bench.append("later-1");
    bench.committed(1).await;
    transaction.commit().await.unwrap();
    bench.store.committed(&appended).await.unwrap();
    assert_eq!(revisions(&bench.store, "seat-12").await.0, [0]);
    assert_eq!(bench.hand_count(&seats).await, 1);
    assert!(later.await.unwrap().unwrap().token.position > appended.token.position);
}

#[tokio::test]
async fn a_transaction_in_which_nothing_can_be_appended_is_refused() {
    let bench = Bench::new().await;
    let refused = async |client: &mut tokio_postgres::Client, isolation| {
        let transaction = client.build_transaction().isolation_level(isolation).start().await.unwrap();
        let refused = bench.store.append_within(&transaction, one("seat-12")).await.unwrap_err();
        assert!(matches!(refused, Error::InvalidInput { .. }), "{refused:?}");
        refused.to_string()
    };
    let mut client = connect().await;
    let too_strict = refused(&mut client, tokio_postgres::IsolationLevel::Serializable).await;
    assert!(too_strict.contains("isolation is serializable; begin it as READ COMMITTED"), "{too_strict}");
    let elsewhere = support::url().rsplit_once('/').unwrap().0.to_owned() + "/template1";
    let (mut client, connection) = tokio_postgres::connect(&elsewhere, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let elsewhere = refused(&mut client, tokio_postgres::IsolationLevel::ReadCommitted).await;
    assert!(elsewhere.contains("it is on another database than the store"), "{elsewhere}");
}

/// A connection that is gone when an append takes it is no reason to fail.
#[tokio::test]
async fn an_append_goes_on_over_a_new_connection() {
    let bench = Bench::new().await;
    // With patience, so that they are gone when it is answered; others may have come by then.
    let cut = format!(
        "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 20000)) FROM pg_stat_activity
         WHERE application_name = 'factum {}'",
        bench.schema
    );
    for n in 0..10_u64 {
        let appended = bench.store.append(one("s-1")).await.unwrap();
        assert_eq!((appended.events[0].revision, appended.replayed), (Revision(n), false));
        assert!(bench.hand_count(&cut).await > 0);
    }
}
