//! Each row takes in its events in the order of positions, however transactions run side by side; and the wrong ways are seen.

use factum::EventStore;
use factum_postgres::Writing;

use crate::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_and_writers_leave_every_row_as_the_log_makes_it() {
    let seed = seed();
    let bench = Bench::new().await;
    let mut stores = Vec::new();
    for writing in [Writing::Single, Writing::Grouped] {
        let store = bench.process(writing).await;
        store.inline(Notes::<1>).await.unwrap();
        stores.push(store);
    }
    many_write(&stores, seed, 8, 25).await;
    let notes = stores[0].inline(Notes::<1>).await.unwrap();
    assert!(notes.all().await.unwrap().iter().map(|(_, row)| row.count).sum::<u64>() > 100);
    agrees(&stores[0], &notes).await;
}

/// One writer is held up after it has locked its row, and before it has drawn its position.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_second_to_a_row_draws_second() {
    let bench = Bench::new().await;
    let store = bench.process(Writing::Single).await;
    let notes = store.inline(Notes::<1>).await.unwrap();
    store.append(one("x", &["a"], 1)).await.unwrap();
    first_waits(&bench, "rows_locked").await;
    // In the right code: between the locks and the drawing.
    bench
        .by_hand(
            "ALTER FUNCTION factum.lock_rows(integer[]) RENAME TO really_lock_rows;
             CREATE FUNCTION factum.lock_rows(places integer[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
                PERFORM factum.really_lock_rows(places); PERFORM factum.rows_locked(); END $$",
        )
        .await;
    let gate = bench.shut().await;
    let first = spawn(&store, one("1", &["a"], 2));
    bench.waiting(1).await;
    let second = spawn(&store, one("2", &["a"], 3));
    let other = store.append(one("3", &["b"], 4)).await.unwrap();
    bench.waiting(2).await;
    assert!(!second.is_finished(), "it waits for the row");
    bench.open(gate).await;
    let (first, second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert!(other.token.position < first.token.position && first.token.position < second.token.position);
    assert_eq!(notes.get("a").await.unwrap().unwrap().last, 3);
    agrees(&store, &notes).await;
}

/// The same, where a position is drawn before the row is locked: the row then has its events in another order than the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_locked_after_drawing_comes_out_wrong_and_is_seen() {
    let bench = Bench::new().await;
    let store = bench.process(Writing::Single).await;
    let notes = store.inline(Notes::<1>).await.unwrap();
    store.append(one("x", &["a"], 1)).await.unwrap();
    first_waits(&bench, "drawn").await;
    bench
        .by_hand(
            "ALTER FUNCTION factum.lock_rows(integer[]) RENAME TO really_lock_rows;
             ALTER FUNCTION factum.allocate(bigint) RENAME TO really_allocate;
             CREATE FUNCTION factum.lock_rows(places integer[]) RETURNS void LANGUAGE plpgsql AS $$
             DECLARE drawn record;
             BEGIN
                SELECT * INTO drawn FROM factum.really_allocate(1);
                PERFORM set_config('factum_test.drawn', drawn.first || ' ' || drawn.moment, false);
                PERFORM factum.drawn();
                PERFORM factum.really_lock_rows(places);
             END $$;
             CREATE FUNCTION factum.allocate(count bigint, OUT first bigint, OUT moment bigint) LANGUAGE plpgsql AS $$ BEGIN
                first := split_part(current_setting('factum_test.drawn'), ' ', 1);
                moment := split_part(current_setting('factum_test.drawn'), ' ', 2);
             END $$",
        )
        .await;
    let gate = bench.shut().await;
    let first = spawn(&store, one("1", &["a"], 2));
    bench.waiting(1).await;
    let second = spawn(&store, one("2", &["a"], 3));
    // The second has written, and waits only until nothing can appear before it any more.
    while bench.count("SELECT count(*) FROM factum.events").await < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.open(gate).await;
    let (first, second) = (first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert!(first.token.position < second.token.position);
    let wrong = notes.verify().await.unwrap();
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    assert_eq!(notes.get("a").await.unwrap().unwrap().last, 2, "the second came first");
}

/// Without locks, one of two takes back what the other has done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_not_locked_come_out_wrong_and_are_seen() {
    let bench = Bench::new().await;
    let store = bench.process(Writing::Single).await;
    let notes = store.inline(Notes::<1>).await.unwrap();
    store.append(one("x", &["a"], 1)).await.unwrap();
    first_waits(&bench, "looked").await;
    bench
        .by_hand(
            "CREATE OR REPLACE FUNCTION factum.lock_rows(places integer[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
             ALTER FUNCTION factum.allocate(bigint) RENAME TO really_allocate;
             CREATE FUNCTION factum.allocate(count bigint, OUT first bigint, OUT moment bigint) LANGUAGE plpgsql AS $$ BEGIN
                PERFORM factum.looked();
                SELECT a.first, a.moment INTO allocate.first, allocate.moment FROM factum.really_allocate(count) a;
             END $$",
        )
        .await;
    let gate = bench.shut().await;
    let first = spawn(&store, one("1", &["a"], 2));
    bench.waiting(1).await;
    store.append(one("2", &["a"], 3)).await.unwrap();
    bench.open(gate).await;
    first.await.unwrap().unwrap();
    assert_eq!(notes.verify().await.unwrap().len(), 1);
    assert_eq!(notes.get("a").await.unwrap().unwrap().count, 2, "of three");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_may_change_thousands_of_rows() {
    let bench = Bench::new().await;
    let store = bench.process(Writing::Single).await;
    let notes = store.inline(Notes::<1>).await.unwrap();
    let keys: Vec<String> = (0..3000).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let appends = (0..4).map(|n| spawn(&store, one(&n.to_string(), &keys, n))).collect::<Vec<_>>();
    for append in appends {
        append.await.unwrap().unwrap();
    }
    assert_eq!(notes.get("k2999").await.unwrap().unwrap().count, 4);
    agrees(&store, &notes).await;
}

pub(crate) fn spawn(
    store: &PostgresStore,
    append: Append,
) -> tokio::task::JoinHandle<factum::Result<factum::Appended>> {
    let store = store.clone();
    tokio::spawn(async move { store.append(append).await })
}

/// Makes a function at which the first who calls it waits while the gate is shut.
async fn first_waits(bench: &Bench, name: &str) {
    let function = format!(
        "CREATE SEQUENCE factum.{name}_calls;
         CREATE FUNCTION factum.{name}() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('factum.{name}_calls') = 1 THEN {} END IF; END $$",
        bench.pass()
    );
    bench.by_hand(&function).await;
}
