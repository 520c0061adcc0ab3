//! Switching on over a log that is written, off again, and to another version; and those who do not know of it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use factum::{Error, EventStore};
use factum_postgres::Writing;

use crate::{order::spawn, *};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_switched_on_while_others_write() {
    let seed = seed();
    let bench = Bench::new().await;
    let (store, grouped) = (bench.process(Writing::Single).await, bench.process(Writing::Grouped).await);
    many_write(std::slice::from_ref(&store), seed, 4, 60).await;
    let stores = [store.clone(), grouped.clone()];
    let writing = tokio::spawn(async move { many_write(&stores, seed + 100, 6, 20).await });
    // Both at once, as when a program starts on two machines.
    let (notes, on_the_other) = tokio::join!(store.inline(Notes::<1>), grouped.inline(Notes::<1>));
    let (notes, _) = (notes.unwrap(), on_the_other.unwrap());
    // Writers that were refused before their process knew of it fail the test.
    writing.await.unwrap();
    agrees(&store, &notes).await;
    assert_eq!(bench.count("SELECT count(*) FROM factum.models WHERE inline").await, 1);
}

/// An append that has looked which models there are, and not yet committed, when one is switched on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_waits_for_the_appends_that_do_not_know_of_it() {
    let bench = Bench::new().await;
    let ignorant = bench.process(Writing::Single).await;
    let store = bench.process(Writing::Single).await;
    ignorant.append(one("0", &["a"], 1)).await.unwrap();
    held_up_when_writing(&bench).await;
    let gate = bench.shut().await;
    let late = spawn(&ignorant, one("1", &["a"], 2));
    bench.waiting(1).await;
    let switching = store.clone();
    let switching = tokio::spawn(async move { switching.inline(Notes::<1>).await });
    bench.waiting(2).await;
    assert!(!switching.is_finished(), "it waits for the append");
    bench.open(gate).await;
    late.await.unwrap().unwrap();
    let notes = switching.await.unwrap().unwrap();
    assert_eq!(notes.get("a").await.unwrap().unwrap().count, 2);
    agrees(&store, &notes).await;
}

/// The same, where appends are not kept off: the rows lack an event, and it is seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_waits_for_nobody_is_seen_to_lose_an_event() {
    let bench = Bench::new().await;
    let ignorant = bench.process(Writing::Single).await;
    let store = bench.process(Writing::Single).await;
    ignorant.append(one("0", &["a"], 1)).await.unwrap();
    bench
        .by_hand(
            "CREATE OR REPLACE FUNCTION factum.keep_appends_off(patience text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$",
        )
        .await;
    held_up_when_writing(&bench).await;
    let gate = bench.shut().await;
    let late = spawn(&ignorant, one("1", &["a"], 2));
    bench.waiting(1).await;
    let notes = store.inline(Notes::<1>).await.unwrap();
    bench.open(gate).await;
    late.await.unwrap().unwrap();
    assert_eq!(notes.verify().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_program_that_does_not_know_of_it_is_refused_until_it_is_switched_off() {
    let bench = Bench::new().await;
    let (store, ignorant) = (bench.process(Writing::Single).await, bench.process(Writing::Grouped).await);
    let notes = store.inline(Notes::<1>).await.unwrap();
    let done = store.append(one("1", &["a"], 1)).await.unwrap();
    let error = ignorant.append(one("1", &["a"], 2)).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::InvalidInput { .. }) && !text.contains('\n'), "{error:?}");
    assert!(text.contains("`notes` (version 1)") && text.contains("make_asynchronous('notes')"), "{text}");
    assert_eq!(ignorant.head().await.unwrap().token, done.token, "nothing happened");
    let mut client = connect().await;
    let own = client.transaction().await.unwrap();
    assert!(ignorant.append_within(&own, one("1", &["a"], 2)).await.is_err(), "not so either");
    own.rollback().await.unwrap();

    // As an operator would, in SQL.
    let off = bench.sql("SELECT factum.make_asynchronous('notes')");
    assert!(bench.hand.query_one(&off, &[]).await.unwrap().get::<_, bool>(0));
    assert!(!store.make_asynchronous("notes").await.unwrap(), "it was so already");
    let late = ignorant.append(one("1", &["a"], 2)).await.unwrap();
    let also = store.append(one("1", &["a"], 3)).await.unwrap();
    assert_eq!(notes.get("a").await.unwrap().unwrap().count, 1, "nobody keeps it");
    notes.wait_for(&done).await.unwrap();
    let factum = Factum::new(ignorant);
    let background = factum.project(Notes::<1>, store.reads()).await.unwrap();
    background.wait_for_within(&late, LONG).await.unwrap();
    notes.wait_for(&also).await.unwrap();
    assert_eq!(background.all().await.unwrap(), folded(&store).await, "it went on where they had left it");
    assert_eq!(background.verify().await.unwrap(), []);

    // And on again: whoever keeps it in the background is told.
    let notes = store.inline(Notes::<1>).await.unwrap();
    let done = store.append(one("1", &["a"], 4)).await.unwrap();
    let told = background.wait_for_within(&done, LONG).await.unwrap_err().to_string();
    assert!(told.contains("it is kept inline"), "{told}");
    agrees(&store, &notes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_version_is_filled_beside_the_old_one_which_is_kept_until_the_switch() {
    let seed = seed();
    let bench = Bench::new().await;
    let (old, new) = (bench.process(Writing::Single).await, bench.process(Writing::Single).await);
    let first = old.inline(Notes::<1>).await.unwrap();
    many_write(std::slice::from_ref(&old), seed, 4, 40).await;
    // The new program fills its version, held up where it would switch, while the old one writes on.
    bench
        .by_hand(&format!(
            "ALTER FUNCTION factum.keep_appends_off(text) RENAME TO really_keep_appends_off;
             CREATE FUNCTION factum.keep_appends_off(patience text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
                {} PERFORM factum.really_keep_appends_off(patience); END $$",
            bench.pass()
        ))
        .await;
    let gate = bench.shut().await;
    let switching = new.clone();
    let switching = tokio::spawn(async move { switching.inline(Notes::<2>).await });
    bench.waiting(1).await;
    old.append(one("late", &["late"], 1)).await.unwrap();
    assert_eq!(first.get("late").await.unwrap().unwrap().count, 1, "the old one is kept as ever");
    bench.open(gate).await;
    let second = switching.await.unwrap().unwrap();
    assert_eq!(second.get("late").await.unwrap().unwrap().last, 2, "by the new version's rules");
    agrees(&new, &second).await;
    let error = old.append(one("1", &["a"], 1)).await.unwrap_err();
    assert!(error.to_string().contains("has version 1 of it"), "{error}");
    assert!(first.get("a").await.unwrap_err().to_string().contains("start the newer program"));
    let error = old.inline(Notes::<1>).await.unwrap_err();
    assert!(error.to_string().contains("start the newer program") && !error.is_retryable(), "{error}");
    new.append(one("1", &["a"], 1)).await.unwrap();
    agrees(&new, &second).await;
    assert_eq!(bench.count("SELECT count(*) FROM factum.generations").await, 1, "and the old rows are gone");
}

#[tokio::test]
async fn a_log_that_the_projection_refuses_is_not_switched_to() {
    let bench = Bench::new().await;
    let store = bench.process(Writing::Single).await;
    store.append(refused("1", "row")).await.unwrap();
    let error = store.inline(Notes::<1>).await.unwrap_err();
    assert!(error.to_string().contains("no row for it") && !error.is_retryable(), "{error}");
    store.append(one("1", &["a"], 1)).await.unwrap();
    assert_eq!(bench.count("SELECT count(*) FROM factum.models WHERE inline").await, 0);
}

/// Whoever writes an event waits while the gate is shut.
async fn held_up_when_writing(bench: &Bench) {
    bench
        .by_hand(&format!(
            "CREATE FUNCTION factum.wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} RETURN new; END $$;
             CREATE TRIGGER waits BEFORE INSERT ON factum.events FOR EACH ROW EXECUTE FUNCTION factum.wait()",
            bench.pass()
        ))
        .await;
}

/// Stops at a title until it is mended, and in the background parks it.
#[derive(Clone, Default)]
struct Picky {
    mended: Arc<AtomicBool>,
}

impl Projection for Picky {
    const NAME: &'static str = "picky";
    const ON_FAILURE: factum::OnFailure = factum::OnFailure::Park;
    type Event = Note;
    type Row = u64;

    fn evolve(&self, row: Option<u64>, _: &Recorded<Note>) -> Option<u64> {
        assert!(self.mended.load(SeqCst), "a bug in a projection");
        Some(row.unwrap_or(0) + 1)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_parked_in_the_background_is_not_missing_inline() {
    let bench = Bench::new().await;
    let store = bench.process(Writing::Single).await;
    let (factum, picky) = (Factum::new(store.clone()), Picky::default());
    let background = factum.project(picky.clone(), store.reads()).await.unwrap();
    let done = store.append(one("1", &["a"], 1)).await.unwrap();
    background.wait_for_within(&done, LONG).await.unwrap();
    assert_eq!((background.get("1").await.unwrap(), background.parked().await.unwrap().len()), (None, 1));
    background.stop().await;
    let refused = store.inline(picky.clone()).await.unwrap_err().to_string();
    assert!(refused.contains("a bug in a projection"), "{refused}");
    picky.mended.store(true, SeqCst);
    let inline = store.inline(picky).await.unwrap();
    assert_eq!(inline.get("1").await.unwrap(), Some(1));
    assert_eq!(inline.verify().await.unwrap(), []);
}
