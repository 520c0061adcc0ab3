//! Projections that set aside what they cannot apply. Run on every store of read models: `crate::reads()`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use factum::{
    Append, Error, EventStore, EventStoreExt, MemoryStore, NewEvent, OnFailure, Projected, Read, ReadStore,
    State, StreamName, Token, prelude::*,
};

use crate::{reads, support::*};

const LONG: Duration = Duration::from_secs(60);

/// The positions of each account's events, in the order in which they were applied. It breaks on withdrawals until that is mended.
#[derive(Clone, Default)]
struct Entries {
    mended: Arc<AtomicBool>,
}

impl Projection for Entries {
    const NAME: &'static str = "entries";
    const ON_FAILURE: OnFailure = OnFailure::Park;
    type Event = AccountEvent;
    type Row = Vec<u64>;

    fn evolve(&self, row: Option<Vec<u64>>, event: &Recorded<AccountEvent>) -> Option<Vec<u64>> {
        let poison = matches!(event.event, Withdrawn { .. });
        assert!(!poison || self.mended.load(SeqCst), "a bug in a projection");
        let mut row = row.unwrap_or_default();
        row.push(event.record.position.0);
        Some(row)
    }
}

async fn write(store: &MemoryStore, events: impl IntoIterator<Item = (u32, bool)>) -> Token {
    let mut done = store.head().await.unwrap().token;
    for (account, poison) in events {
        let event = if poison { Withdrawn { cents: 1 } } else { Deposited { cents: 1 } };
        let stream = StreamName::new(format!("account-{account}")).unwrap();
        let event = factum::codec::encode(&event).unwrap();
        done = store.append(Append::to(stream, [event])).await.unwrap().token;
    }
    done
}

/// What the rows must be: everything, or each account up to its first poison.
async fn expected(store: &MemoryStore, mended: bool) -> Vec<(String, Vec<u64>)> {
    let mut rows: BTreeMap<String, (Vec<u64>, bool)> = BTreeMap::new();
    for record in store.read_to_end(Read::query(Query::category("account"))).await.unwrap() {
        let (row, held) = rows.entry(record.stream.id().to_owned()).or_default();
        *held |= !mended && (&*record.event_type == "Withdrawn" || &*record.event_type == "Nonsense");
        if !*held {
            row.push(record.position.0);
        }
    }
    rows.into_iter().filter(|(_, (row, _))| !row.is_empty()).map(|(key, (row, _))| (key, row)).collect()
}

async fn entries(factum: &Factum, entries: &Entries, reads: impl ReadStore) -> Projected<Entries> {
    factum.project(entries.clone(), reads).await.unwrap()
}

#[tokio::test]
async fn what_cannot_be_applied_holds_up_its_stream_and_no_other() {
    let store = MemoryStore::new();
    let (factum, what, reads) = (Factum::new(store.clone()), Entries::default(), reads());
    let model = entries(&factum, &what, reads.clone()).await;
    let nonsense = NewEvent::json("Nonsense", &()).unwrap();
    write(&store, [(1, false), (2, true), (1, true), (3, false), (2, false), (1, false)]).await;
    store.append(Append::to(StreamName::new("account-4").unwrap(), [nonsense])).await.unwrap();
    let done = write(&store, [(4, false), (3, false), (5, false)]).await;
    model.wait_for(done).await.unwrap();
    assert_eq!(model.all().await.unwrap(), expected(&store, false).await);
    let status = model.status().await.unwrap();
    assert_eq!((status.parked_streams, status.parked_events), (3, 6), "{status}");
    assert!(status.to_string().contains("6 events of 3 streams are parked"), "{status}");
    let parked = model.parked().await.unwrap();
    let places: Vec<u64> = parked.iter().map(|letter| letter.position.0).collect();
    let all = store.read_to_end(Read::all()).await.unwrap();
    let nth = |which: &[usize]| which.iter().map(|n| all[*n].position.0).collect::<Vec<_>>();
    assert_eq!(places, nth(&[1, 2, 4, 5, 6, 7]));
    assert!(
        parked[0].to_string().contains("is parked")
            && parked[0].to_string().contains("a bug in a projection")
    );
    assert!(parked[2].to_string().contains("waits behind another"), "{}", parked[2]);
    assert!(parked[4].to_string().contains("cannot be read"), "{}", parked[4]);

    // In vain.
    model.retry_parked().await.unwrap();
    assert_eq!(model.parked().await.unwrap()[0].attempts, 2);
    assert_eq!(model.all().await.unwrap(), expected(&store, false).await);
    // A rebuild is whole or is not.
    let refused = model.rebuild().await.unwrap_err().to_string();
    assert!(refused.contains("a bug in a projection"), "{refused}");
    assert_eq!(model.parked().await.unwrap().len(), 6);

    what.mended.store(true, SeqCst);
    model.retry_parked().await.unwrap();
    let left: Vec<u64> = model.parked().await.unwrap().iter().map(|letter| letter.position.0).collect();
    assert_eq!(left, nth(&[6, 7]), "what cannot be read still cannot");
    let rows = model.all().await.unwrap();
    let all = expected(&store, true).await;
    assert_eq!(rows[..], all[..].iter().filter(|(key, _)| key != "4").cloned().collect::<Vec<_>>()[..]);
    // Who hides the event lets the others of its stream go on.
    EventStoreExt::delete(&store, &StreamName::new("account-4").unwrap(), factum::ExpectedRevision::Any)
        .await
        .unwrap();
    let done = write(&store, [(4, false)]).await;
    model.wait_for(done).await.unwrap();
    model.retry_parked().await.unwrap();
    assert_eq!(model.parked().await.unwrap(), []);
    assert_eq!(model.get("4").await.unwrap(), Some(vec![done.position.0]));
}

#[tokio::test]
async fn a_start_with_the_mistake_mended_applies_what_was_parked() {
    let store = MemoryStore::new();
    let (factum, what, reads) = (Factum::new(store.clone()), Entries::default(), reads());
    let model = entries(&factum, &what, reads.clone()).await;
    let done = write(&store, [(1, true), (1, false), (2, false)]).await;
    model.wait_for(done).await.unwrap();
    model.stop().await;
    // Still broken, it goes on as before; what comes meanwhile queues up.
    write(&store, [(1, false), (3, true)]).await;
    let model = entries(&factum, &what, reads.clone()).await;
    let done = write(&store, [(2, false)]).await;
    model.wait_for(done).await.unwrap();
    assert_eq!(model.all().await.unwrap(), expected(&store, false).await);
    assert_eq!(model.parked().await.unwrap().len(), 4);
    model.stop().await;
    what.mended.store(true, SeqCst);
    let model = entries(&factum, &what, reads).await;
    model.wait_for(done).await.unwrap();
    assert_eq!(model.all().await.unwrap(), expected(&store, true).await);
    assert_eq!(model.parked().await.unwrap(), []);
    assert_eq!(model.verify().await.unwrap(), []);
}

#[tokio::test]
async fn of_too_many_streams_it_stops_and_goes_on_when_there_is_room() {
    let store = MemoryStore::new();
    let (factum, what, reads) = (Factum::new(store.clone()), Entries::default(), reads());
    let model = entries(&factum, &what, reads.clone()).await;
    for some in 0..20 {
        let done = write(&store, (some * 50..some * 50 + 50).map(|n| (n, true))).await;
        model.wait_for_within(done, LONG).await.unwrap();
    }
    let done = write(&store, [(7777, false)]).await;
    model.wait_for_within(done, LONG).await.unwrap();
    assert_eq!(model.status().await.unwrap().parked_streams, 1000);
    let last = write(&store, [(7777, false), (5000, true), (6000, false)]).await;
    let stopped = model.wait_for_within(last, LONG).await.unwrap_err().to_string();
    assert!(stopped.contains("1000 events of 1000 keys are set aside"), "{stopped}");
    assert!(matches!(model.status().await.unwrap().state, State::Stopped(_)));
    assert_eq!(model.get("7777").await.unwrap().unwrap().len(), 2, "up to there it went");
    assert_eq!(model.get("6000").await.unwrap(), None, "and no further");
    drop(model);
    what.mended.store(true, SeqCst);
    let model = entries(&factum, &what, reads).await;
    model.wait_for_within(last, LONG).await.unwrap();
    assert_eq!(model.all().await.unwrap(), expected(&store, true).await);
    assert_eq!(model.parked().await.unwrap(), []);
}

/// One event in a hundred, over many keys.
#[tokio::test]
async fn of_many_keys_few_are_held_up_and_all_come_out_right() {
    let mut random = seeded();
    let store = MemoryStore::new();
    let (factum, what, reads) = (Factum::new(store.clone()), Entries::default(), reads());
    let model = entries(&factum, &what, reads).await;
    let keys = if crate::NEAR { 10_000 } else { 1_000 };
    let mut done = store.head().await.unwrap().token;
    for some in 0..10 {
        done = write(&store, (0..keys / 10).map(|_| (random.u32(0..keys), random.u8(0..100) == 0))).await;
        if some % 3 == 0 {
            model.wait_for_within(done, LONG).await.unwrap();
        }
    }
    model.wait_for_within(done, LONG).await.unwrap();
    assert_eq!(model.all().await.unwrap(), expected(&store, false).await);
    what.mended.store(true, SeqCst);
    model.retry_parked().await.unwrap();
    assert_eq!(model.all().await.unwrap(), expected(&store, true).await);
    assert_eq!(model.parked().await.unwrap(), []);
}

/// Killed before or after any of its calls, again and again, on one log: nothing is skipped, and nothing counts twice.
#[tokio::test]
async fn killed_again_and_again_it_is_what_the_log_makes() {
    let mut random = seeded();
    let store = MemoryStore::new();
    let (factum, what, reads) = (Factum::new(store.clone()), Entries::default(), reads());
    let rounds = if crate::NEAR { 1000 } else { 100 };
    let mut struck = 0;
    for round in 0..rounds {
        let events: Vec<_> =
            (0..random.u32(1..6)).map(|_| (random.u32(0..50), random.u8(0..50) == 0)).collect();
        write(&store, events).await;
        what.mended.store(random.u8(0..10) == 0, SeqCst);
        let fault = if random.bool() { Fault::Before } else { Fault::After };
        let faulty = Faulty::new(reads.clone(), random.u64(0..9), fault, true);
        let model = entries(&factum, &what, faulty.clone()).await;
        let done = write(&store, [(random.u32(0..50), false)]).await;
        tokio::select! {
            () = faulty.struck.notified() => struck += 1,
            reached = model.wait_for_within(done, LONG) => reached.unwrap(),
            // In the midst of whatever it does.
            () = yields(random.u32(0..40)), if random.bool() => {}
        }
        drop(model);
        if round % 100 == 99 {
            what.mended.store(true, SeqCst);
            let model = entries(&factum, &what, reads.clone()).await;
            model.wait_for_within(done, LONG).await.unwrap();
            assert_eq!(model.all().await.unwrap(), expected(&store, true).await, "after {round} rounds");
            assert_eq!(model.parked().await.unwrap(), []);
        }
    }
    assert!(struck > rounds / 4, "the faults did strike: {struck}");
}

async fn yields(count: u32) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

/// Where nothing can be set aside, nothing is passed.
#[tokio::test]
async fn what_cannot_be_stored_is_not_skipped() {
    let store = MemoryStore::new();
    let (factum, what, reads) = (Factum::new(store.clone()), Entries::default(), reads());
    let model = entries(&factum, &what, reads.clone()).await;
    let done = write(&store, [(1, false)]).await;
    model.wait_for(done).await.unwrap();
    model.stop().await;
    let last = write(&store, [(1, true), (2, false)]).await;
    // What it reads before works; its first commit does not, nor any other.
    for at in 0..12 {
        let faulty = Faulty::new(reads.clone(), at, Fault::Before, true);
        let Ok(model) = factum.project(what.clone(), faulty.clone()).await else { continue };
        let reached = tokio::select! {
            () = faulty.struck.notified() => false,
            reached = model.wait_for_within(last, LONG) => reached.is_ok(),
        };
        drop(model);
        let active = reads.catalog("entries").await.unwrap().active.unwrap();
        let letters = reads.letters("entries", active.number, Position(0), 10).await.unwrap();
        let passed = active.checkpoint.is_some_and(|at| at.position > done.position);
        assert_eq!(passed, !letters.is_empty(), "the checkpoint and the letter go together: {active:?}");
        if reached {
            assert!(at > 2);
            return;
        }
    }
    panic!("it never got there");
}

/// The default.
struct Strict;

impl Projection for Strict {
    const NAME: &'static str = "strict";
    type Event = AccountEvent;
    type Row = u64;

    fn evolve(&self, _: Option<u64>, event: &Recorded<AccountEvent>) -> Option<u64> {
        assert!(!matches!(event.event, Withdrawn { .. }), "a bug in a projection");
        Some(event.record.position.0)
    }
}

#[tokio::test]
async fn unless_asked_to_it_parks_nothing() {
    let store = MemoryStore::new();
    let model = Factum::new(store.clone()).project(Strict, reads()).await.unwrap();
    let done = write(&store, [(1, true), (2, false)]).await;
    let stopped = model.wait_for(done).await;
    assert!(matches!(stopped, Err(Error::InvalidInput { .. })), "{stopped:?}");
    assert!(model.retry_parked().await.is_err());
}

/// A stream that is forgotten for good takes with it what was parked of it, and nothing else stands still.
#[tokio::test]
async fn a_tombstoned_stream_is_forgotten_with_what_was_parked_of_it() {
    let store = MemoryStore::new();
    let (factum, what, reads) = (Factum::new(store.clone()), Entries::default(), reads());
    let model = entries(&factum, &what, reads.clone()).await;
    let done = write(&store, [(1, true), (1, false), (2, true), (2, false)]).await;
    model.wait_for(done).await.unwrap();
    model.stop().await;
    let first = StreamName::new("account-1").unwrap();
    store.tombstone(&first, factum::ExpectedRevision::Any).await.unwrap();
    what.mended.store(true, SeqCst);
    let model = entries(&factum, &what, reads).await;
    let done = write(&store, [(3, false)]).await;
    model.wait_for(done).await.unwrap();
    let keys: Vec<String> = model.all().await.unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["2", "3"]);
    assert_eq!(model.parked().await.unwrap(), []);
}
