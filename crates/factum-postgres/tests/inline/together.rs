//! Events and their rows are visible together or not at all, and what a model refuses does not happen.

use factum::{EventStore, Outcome, ReadStore, Retention, stream::LifeChange};
use factum_postgres::Writing;

use crate::{order::spawn, *};

#[tokio::test]
async fn the_rows_are_there_with_the_answer() {
    let bench = Bench::new().await;
    let store = bench.process(Writing::Single).await;
    let notes = store.inline(Notes::<1>).await.unwrap();
    for n in 1..=5 {
        let done = store.append(one("1", &["a", "b"], n)).await.unwrap();
        assert_eq!(notes.get("b").await.unwrap().unwrap().last, n);
        notes.wait_for(&done).await.unwrap();
    }
    assert_eq!(notes.get("c").await.unwrap(), None);
    assert_eq!(notes.page(Some("a"), 10).await.unwrap().len(), 1);
    let mut rows = notes.rows().await.unwrap();
    assert_eq!(rows.next().await.unwrap().unwrap().0, "a");
    assert_eq!(rows.position().0, 5);
    let later = store.head().await.unwrap().token;
    let beyond = later.log.at(Position(later.position.0 + 1));
    assert!(matches!(notes.wait_for(beyond).await, Err(factum::Error::LogRewound(_))));
    // Sent again, it changes nothing again.
    let append = one("2", &["a"], 9);
    for replayed in [false, true] {
        assert_eq!(store.append(append.clone()).await.unwrap().replayed, replayed);
    }
    assert_eq!(
        bench.count("SELECT (row ->> 'count')::bigint FROM factum_reads.notes WHERE key = 'a'").await,
        6
    );
    agrees(&store, &notes).await;
}

/// Whoever looks at one moment sees as many events as the rows have taken in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_an_event_without_its_rows_or_rows_without_their_event() {
    let bench = Bench::new().await;
    for writing in [Writing::Single, Writing::Grouped] {
        let store = bench.process(writing).await;
        let notes = store.inline(Notes::<1>).await.unwrap();
        let writers = (0..4_u64).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..15 {
                    store.append(one(&writer.to_string(), &["a", &writer.to_string()], n)).await.unwrap();
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        let both = "SELECT (SELECT count(*) FROM factum.events) * 2 - coalesce(sum((row ->> 'count')::bigint), 0)::bigint FROM factum_reads.notes";
        while writers.iter().any(|writer| !writer.is_finished()) {
            assert_eq!(bench.count(both).await, 0, "of one moment");
        }
        for writer in writers {
            writer.await.unwrap();
        }
        agrees(&store, &notes).await;
    }
}

/// Where the transaction fails, at its commit or before, nothing of either is there.
#[tokio::test]
async fn a_transaction_that_fails_leaves_neither() {
    let bench = Bench::new().await;
    let store = bench.process(Writing::Single).await;
    let notes = store.inline(Notes::<1>).await.unwrap();
    store.append(one("1", &["a"], 1)).await.unwrap();
    bench
        .by_hand("CREATE FUNCTION factum.object() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'objection'; END $$")
        .await;
    for objection in [
        "CREATE TRIGGER objection BEFORE UPDATE ON factum_reads.notes_g1 FOR EACH ROW EXECUTE FUNCTION factum.object()",
        "CREATE CONSTRAINT TRIGGER objection AFTER UPDATE ON factum_reads.notes_g1 DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION factum.object()",
        "CREATE CONSTRAINT TRIGGER objection AFTER INSERT ON factum.events DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION factum.object()",
    ] {
        bench.by_hand(objection).await;
        let error = store.append(one("1", &["a"], 2)).await.unwrap_err();
        assert!(error.to_string().contains("objection"), "{error}");
        assert_eq!(store.head().await.unwrap().token.position.0, 1, "{objection}");
        assert_eq!(notes.get("a").await.unwrap().unwrap().count, 1, "{objection}");
        let table = if objection.contains("factum.events") { "factum.events" } else { "factum_reads.notes_g1" };
        bench.by_hand(&format!("DROP TRIGGER objection ON {table}")).await;
    }
    store.append(one("1", &["a"], 2)).await.unwrap();
    agrees(&store, &notes).await;
}

/// Connections are cut while many write, before and after the commit: each append counts once, in the log and in the rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_leave_every_row_as_the_log_makes_it() {
    let (bench, mut random) = (Bench::new().await, fastrand::Rng::with_seed(seed()));
    for writing in [Writing::Single, Writing::Grouped] {
        let store = bench.process(writing).await;
        let notes = store.inline(Notes::<1>).await.unwrap();
        let before = notes.get("a").await.unwrap().unwrap_or_default().count;
        let writers = (0..4_u64).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..15 {
                    let append = one(&format!("{writer}"), &["a"], n);
                    // Whatever is said of it, sent again it is there once.
                    while let Err(error) = store.append(append.clone()).await {
                        assert!(error.is_retryable(), "{error}");
                    }
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        let cut = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'factum {}' AND state <> 'idle'",
            bench.schema
        );
        // Apart enough for some to come through.
        for _ in 0..20 {
            bench.count(&cut).await;
            tokio::time::sleep(Duration::from_millis(random.u64(10..50))).await;
        }
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!(notes.get("a").await.unwrap().unwrap().count, before + 60);
        agrees(&store, &notes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_model_refuses_does_not_happen_and_others_go_on() {
    let bench = Bench::new().await;
    for writing in [Writing::Single, Writing::Grouped] {
        let store = bench.process(writing).await;
        let notes = store.inline(Notes::<1>).await.unwrap();
        let before = bench.count("SELECT count(*) FROM factum.events").await;
        let undecodable = NewEvent::json("Noted", &serde_json::json!({"keys": 7})).unwrap();
        let undecodable = Append::to(StreamName::new("note-1").unwrap(), [undecodable]);
        let bad = [
            (refused("1", "key"), "no key for it"),
            (refused("1", "row"), "no row for it"),
            (refused("1", "position"), "must not depend"),
            (undecodable, "`Noted`"),
        ];
        let good = (0..8).map(|n| spawn(&store, one(&format!("good-{n}"), &["a"], n))).collect::<Vec<_>>();
        for (append, why) in bad {
            let error = store.append(append).await.unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("`notes`") && text.contains("refuses the append") && text.contains(why),
                "{text}"
            );
            assert!(
                !text.contains('\n') && !error.is_retryable() && error.outcome() == Outcome::No,
                "{error:?}"
            );
        }
        for append in good {
            append.await.unwrap().unwrap();
        }
        let after = bench.count("SELECT count(*) FROM factum.events").await;
        assert_eq!(after - before, 8, "nothing else happened");
        agrees(&store, &notes).await;
    }
}

#[tokio::test]
async fn in_the_callers_own_transaction_rows_go_with_it() {
    let bench = Bench::new().await;
    let store = bench.process(Writing::Single).await;
    let notes = store.inline(Notes::<1>).await.unwrap();
    let mut client = connect().await;
    let given_up = client.transaction().await.unwrap();
    store.append_within(&given_up, one("1", &["a"], 1)).await.unwrap();
    given_up.rollback().await.unwrap();
    assert_eq!(notes.get("a").await.unwrap(), None);
    let kept = client.transaction().await.unwrap();
    let appended = store.append_within(&kept, one("1", &["a"], 2)).await.unwrap();
    store.append_within(&kept, one("2", &["a"], 3)).await.unwrap();
    assert_eq!(notes.get("a").await.unwrap(), None, "not before the commit");
    kept.commit().await.unwrap();
    store.committed(&appended).await.unwrap();
    assert_eq!(notes.get("a").await.unwrap().unwrap().count, 2);
    agrees(&store, &notes).await;
}

/// What streams hide, and whatever hides it: the rows are those of a model that is kept in the background and is always up to date.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_streams_hide_makes_no_difference_to_a_model_in_the_background() {
    let (bench, mut random) = (Bench::new().await, fastrand::Rng::with_seed(seed()));
    let store = bench.process(Writing::Single).await;
    let notes = store.inline(Notes::<1>).await.unwrap();
    let factum = Factum::new(store.clone());
    let background = factum.project(Notes::<1>, factum::MemoryReads::new()).await.unwrap();
    let stream = |n: u8| StreamName::new(format!("note-{n}")).unwrap();
    for step in 0..80 {
        let (at, other) = (stream(random.u8(0..4)), stream(random.u8(0..4)));
        let state = store.stream_state(&at).await.unwrap();
        let last = state.last_revision.map_or(0, |last| last.0);
        let retention = match random.u8(0..3) {
            0 => Retention { max_count: Some(random.u64(1..4)), ..Retention::default() },
            1 => {
                Retention { truncate_before: Some(Revision(random.u64(0..last + 4))), ..Retention::default() }
            }
            _ => Retention::default(),
        };
        let change = match random.u8(0..10) {
            0 => LifeChange::Deleted,
            1 if step > 60 => LifeChange::Tombstoned,
            _ => LifeChange::Retention(retention),
        };
        let changing = change.to_event().unwrap().with_id(factum::EventId::new());
        let notes = (0..random.u64(1..5)).map(|n| note(&["a", at.id()], step * 10 + n)).collect::<Vec<_>>();
        let append = match random.u8(0..4) {
            // Also hidden by the very append that writes them.
            0 => Append::to(at.clone(), notes).write(at.metadata_stream().unwrap(), [changing]),
            1 => Append::to(at.metadata_stream().unwrap(), [changing]).write(at.clone(), notes),
            2 => Append::to(at.metadata_stream().unwrap(), [changing]).write(other, notes),
            _ => Append::to(at.clone(), notes),
        };
        match store.append(append).await {
            Ok(done) => background.wait_for_within(&done, LONG).await.unwrap(),
            // A stream that is gone, or one that is to go with what is written to it.
            Err(error) => assert!(!error.is_retryable(), "{error}"),
        }
    }
    assert_eq!(notes.all().await.unwrap(), background.all().await.unwrap());
    // A model filled anew knows only what is left: both differ from it alike.
    let values = |differences: Vec<factum::Difference>| -> Vec<_> {
        let value = |json: Option<String>| json.map(|json| serde_json::from_str::<Written>(&json).unwrap());
        differences.into_iter().map(|row| (row.key, value(row.kept), value(row.by_the_log))).collect()
    };
    assert_eq!(values(notes.verify().await.unwrap()), values(background.verify().await.unwrap()));
}

#[tokio::test]
async fn nobody_else_can_keep_it() {
    let bench = Bench::new().await;
    let store = bench.process(Writing::Single).await;
    store.inline(Notes::<1>).await.unwrap();
    let error = Factum::new(store.clone()).project(Notes::<1>, store.reads()).await.unwrap_err();
    assert!(error.to_string().contains("inline") && !error.is_retryable(), "{error}");
    assert!(store.reads().claim("notes").await.is_err());
}
