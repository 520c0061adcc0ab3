//! Projections: exactly once, whatever fails; rebuilt while commands run. Run on every store of read models: `crate::reads()`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use factum::{
    Append, Consumer, Error, EventStore, EventStoreExt, MemoryStore, NewEvent, Projected, Read, ReadStore,
    State, StreamName, Token, codec, prelude::*, reads::Step,
};

use crate::{reads, support::*};

/// Longer than any test takes; not a measure of anything.
const LONG: Duration = Duration::from_secs(30);

fn handle() -> (MemoryStore, Factum) {
    let store = MemoryStore::new();
    (store.clone(), Factum::new(store))
}

async fn head(store: &dyn EventStore) -> Token {
    store.head().await.unwrap().token
}

/// The reason why it stops, once it does.
async fn stopped(consumer: &Consumer) -> Error {
    loop {
        if let State::Stopped(error) = consumer.status().await.unwrap().state {
            return error;
        }
        tokio::task::yield_now().await;
    }
}

/// The model is exactly what the log makes, to the end of the log.
async fn assert_is_the_fold<P: Projection<Row = i64>>(projected: &Projected<P>, store: &dyn EventStore) {
    projected.wait_for_within(head(store).await, LONG).await.unwrap();
    assert_eq!(projected.all().await.unwrap(), fold(store).await);
    assert_eq!(projected.verify().await.unwrap(), []);
}

#[tokio::test]
async fn read_your_own_write() {
    let (_, factum) = handle();
    let balances = factum.project(Balances::<1>, reads()).await.unwrap();
    let account = Account::id("es-acc-001");
    factum.execute(&account, Open { cents: 100 }).await.unwrap();
    let done = factum.execute(&account, Withdraw { cents: 30 }).await.unwrap();
    balances.wait_for(&done).await.unwrap();
    assert_eq!(balances.get("es-acc-001").await.unwrap(), Some(70));
    assert_eq!(balances.get("nobody").await.unwrap(), None);
    let status = balances.status().await.unwrap();
    assert_eq!((status.position, status.lag_events, status.lag), (status.head, 0, Duration::ZERO));
    assert_eq!(balances.name(), "balances");
}

#[tokio::test]
async fn what_was_before_and_what_comes_after() {
    let (store, factum) = handle();
    let mut random = seeded();
    write_some(&store, &mut random, 2500, 40).await;
    let balances = factum.project(Balances::<1>, reads()).await.unwrap();
    assert_is_the_fold(&balances, &store).await;
    while balances.status().await.unwrap().state != State::Live {
        tokio::task::yield_now().await;
    }
    write_some(&store, &mut random, 50, 40).await;
    assert_is_the_fold(&balances, &store).await;
}

#[tokio::test]
async fn events_of_others_move_it_on_too() {
    let (store, factum) = handle();
    let balances = factum.project(Balances::<1>, reads()).await.unwrap();
    let other = StreamName::new("other-1").unwrap();
    let appended = store.append(Append::to(other, [NewEvent::json_text("X", "{}").unwrap()])).await.unwrap();
    balances.wait_for(&appended).await.unwrap();
    balances.stop().await;
    assert!(matches!(stopped(&balances).await, Error::Unavailable { .. }));
}

/// Runs with one fault at each call in turn, until a run needs no further call. `for_ever`: after the fault the store is dead,
/// and a new worker begins on the same data, as after a crash.
async fn one_fault_at_each_step(for_ever: bool) {
    let mut random = seeded();
    for fault in [Fault::Before, Fault::After] {
        for at in 0.. {
            let (store, factum) = handle();
            let reads = reads();
            write_some(&store, &mut random, 1200, 5).await;
            let faulty = Faulty::new(reads.clone(), at, fault, for_ever);
            let balances = factum.project(Balances::<1>, faulty.clone()).await.unwrap();
            let target = write_some(&store, &mut random, 30, 5).await;
            let through = if for_ever {
                tokio::select! {
                    () = faulty.struck.notified() => false,
                    reached = balances.wait_for_within(target, LONG) => { reached.unwrap(); true }
                }
            } else {
                balances.wait_for_within(target, LONG).await.unwrap();
                faulty.calls() <= at
            };
            if through {
                assert!(at > 5, "the faults did strike: {at}");
                break;
            }
            if for_ever {
                drop(balances);
                let again = factum.project(Balances::<1>, reads).await.unwrap();
                assert_is_the_fold(&again, &store).await;
            } else {
                assert_is_the_fold(&balances, &store).await;
            }
        }
    }
}

#[tokio::test]
async fn killed_at_every_step_it_goes_on_exactly_once() {
    one_fault_at_each_step(true).await;
}

#[tokio::test]
async fn failing_for_a_moment_at_every_step_it_goes_on_exactly_once() {
    one_fault_at_each_step(false).await;
}

#[tokio::test]
async fn the_log_failing_for_a_while_is_waited_out() {
    let store = Meddled::default();
    let factum = Factum::new(store.clone());
    let mut random = seeded();
    let token = write_some(&store, &mut random, 10, 3).await;
    store.read_faults.store(3, Ordering::SeqCst);
    let balances = factum.project(Balances::<1>, reads()).await.unwrap();
    balances.wait_for_within(token, LONG).await.unwrap();
    assert_eq!(balances.all().await.unwrap(), fold(&store).await);
}

#[tokio::test]
async fn of_two_workers_the_later_one_goes_on() {
    let (store, factum) = handle();
    let mut random = seeded();
    write_some(&store, &mut random, 100, 5).await;
    let reads = reads();
    let first = factum.project(Balances::<1>, reads.clone()).await.unwrap();
    assert_is_the_fold(&first, &store).await;
    let second = factum.project(Balances::<1>, reads.clone()).await.unwrap();
    let token = write_some(&store, &mut random, 100, 5).await;
    assert_is_the_fold(&second, &store).await;
    let reason = first.wait_for_within(token, LONG).await.unwrap_err();
    assert!(matches!(reason, Error::Fenced { .. }), "{reason}");
    assert!(reason.to_string().contains("`balances` is owned by another"), "{reason}");
    assert!(matches!(first.rebuild().await, Err(Error::Fenced { .. })));
    assert_is_the_fold(&second, &store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rebuilt_while_commands_run() {
    let (store, factum) = handle();
    let mut random = seeded();
    write_some(&store, &mut random, 3000, 20).await;
    let balances = factum.project(Balances::<1>, reads()).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (store, over, mut random) = (store.clone(), over.clone(), random.fork());
        async move {
            while !over.load(Ordering::SeqCst) {
                write_some(&store, &mut random, 20, 20).await;
                tokio::task::yield_now().await;
            }
        }
    });
    let watcher = tokio::spawn({
        let (balances, over) = (balances.clone(), over.clone());
        async move {
            let mut before = Position::START;
            while !over.load(Ordering::SeqCst) {
                let now = balances.status().await.unwrap().position;
                assert!(now >= before, "readers went back from {before} to {now}");
                assert_eq!(balances.verify().await.unwrap(), [], "what readers see is always a true state");
                before = now;
            }
        }
    });
    for _ in 0..3 {
        tokio::time::timeout(LONG, balances.rebuild()).await.unwrap().unwrap();
    }
    over.store(true, Ordering::SeqCst);
    writer.await.unwrap();
    watcher.await.unwrap();
    assert_is_the_fold(&balances, &store).await;
}

#[tokio::test]
async fn a_new_version_is_filled_anew_and_then_shown() {
    let (store, factum) = handle();
    let mut random = seeded();
    let reads = reads();
    let old = write_some(&store, &mut random, 300, 5).await;
    let first = factum.project(Balances::<1>, reads.clone()).await.unwrap();
    first.wait_for_within(old, LONG).await.unwrap();
    first.stop().await;
    let before = reads.catalog("balances").await.unwrap().active.unwrap();

    write_some(&store, &mut random, 300, 5).await;
    let second = factum.project(Balances::<2>, reads.clone()).await.unwrap();
    assert_is_the_fold(&second, &store).await;
    let catalog = reads.catalog("balances").await.unwrap();
    let after = catalog.active.unwrap();
    assert_eq!((before.version, after.version, catalog.building), (1, 2, None));
    assert!(after.number > before.number);
    second.stop().await;

    let same = factum.project(Balances::<2>, reads.clone()).await.unwrap();
    assert_is_the_fold(&same, &store).await;
    assert_eq!(
        reads.catalog("balances").await.unwrap().active.unwrap().number,
        after.number,
        "no bump, no rebuild"
    );
}

#[tokio::test]
async fn a_crash_at_every_step_of_a_rebuild_leaves_a_whole_model() {
    let mut random = seeded();
    for at in 0.. {
        let (store, factum) = handle();
        let reads = reads();
        let token = write_some(&store, &mut random, 1500, 5).await;
        let first = factum.project(Balances::<1>, reads.clone()).await.unwrap();
        first.wait_for_within(token, LONG).await.unwrap();
        drop(first);
        let faulty =
            Faulty::new(reads.clone(), at, if at % 2 == 0 { Fault::Before } else { Fault::After }, true);
        // By a version in one case, by hand in the other.
        let rebuilt = if at % 4 < 2 {
            let next = factum.project(Balances::<2>, faulty.clone()).await.unwrap();
            tokio::select! {
                () = faulty.struck.notified() => false,
                () = until_version(&reads, 2) => { next.stop().await; faulty.calls() <= at }
            }
        } else {
            let same = factum.project(Balances::<1>, faulty.clone()).await.unwrap();
            tokio::select! {
                () = faulty.struck.notified() => false,
                done = same.rebuild() => done.is_ok(),
            }
        };
        let version = reads.catalog("balances").await.unwrap().active.unwrap().version;
        assert!(version == 1 || version == 2);
        assert_eq!(values(&reads).await, fold(&store).await, "readers always have a whole model");
        write_some(&store, &mut random, 10, 5).await;
        let again = factum.project(Balances::<2>, reads.clone()).await.unwrap();
        assert_is_the_fold(&again, &store).await;
        assert_eq!(reads.catalog("balances").await.unwrap().building, None, "nothing half-built is left");
        if rebuilt {
            assert!(at > 5, "the faults did strike: {at}");
            break;
        }
    }
}

#[tokio::test]
async fn a_rebuild_outlasts_failures_that_pass() {
    let mut random = seeded();
    for fault in [Fault::Before, Fault::After] {
        for at in 0.. {
            let (store, factum) = handle();
            let reads = reads();
            let token = write_some(&store, &mut random, 1500, 5).await;
            let faulty = Faulty::new(reads.clone(), at, fault, false);
            let balances = factum.project(Balances::<1>, faulty.clone()).await.unwrap();
            balances.wait_for_within(token, LONG).await.unwrap();
            // What fails before it has begun is told; what fails later is waited out.
            while let Err(error) = balances.rebuild().await {
                assert!(error.is_retryable(), "{error}");
            }
            assert_is_the_fold(&balances, &store).await;
            assert_eq!(reads.catalog("balances").await.unwrap().building, None);
            if faulty.calls() <= at {
                assert!(at > 8, "the faults did strike: {at}");
                break;
            }
        }
    }
}

async fn until_version(reads: &impl ReadStore, version: u32) {
    while reads.catalog("balances").await.unwrap().active.unwrap().version != version {
        tokio::task::yield_now().await;
    }
}

async fn values(reads: &impl ReadStore) -> Vec<(String, i64)> {
    let rows = reads.snapshot("balances").await.unwrap().rows;
    rows.into_iter().map(|(key, row)| (key, row.parse().unwrap())).collect()
}

#[tokio::test]
async fn waiting_in_vain_says_how_far_behind() {
    let (_, factum) = handle();
    let deaf = Faulty::new(reads(), 6, Fault::Before, true);
    let balances = factum.project(Balances::<1>, deaf).await.unwrap();
    let mut last = factum.execute(&Account::id("0"), Open { cents: 1 }).await.unwrap();
    balances.wait_for(&last).await.unwrap();
    let seen = last.clone();
    for id in 1..8 {
        last = factum.execute(&Account::id(format!("{id}")), Open { cents: 1 }).await.unwrap();
    }
    let error = balances.wait_for_within(&last, Duration::from_millis(5)).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    let text = error.to_string();
    let (to, behind) = (last.token.position, last.token.position.0 - seen.token.position.0);
    assert!(text.contains(&format!("`balances` to reach position {to}")), "{text}");
    assert!(text.contains(&format!("at most {behind} events behind")), "{text}");

    let balances = factum.project(Balances::<1>, reads()).await.unwrap();
    let done = factum.execute(&Account::id("1"), Open { cents: 1 }).await.unwrap();
    balances.wait_for(&done).await.unwrap();
    let foreign = head(&MemoryStore::new()).await;
    assert!(matches!(balances.wait_for(foreign).await, Err(Error::LogRewound(_))));
}

#[tokio::test]
async fn a_log_that_was_rewound_stops_it_until_it_is_rebuilt() {
    let (store, factum) = handle();
    let mut random = seeded();
    let reads = reads();
    let token = write_some(&store, &mut random, 100, 5).await;
    let first = factum.project(Balances::<1>, reads.clone()).await.unwrap();
    first.wait_for_within(token, LONG).await.unwrap();
    first.stop().await;
    store.begin_epoch();
    write_some(&store, &mut random, 100, 5).await;
    let again = factum.project(Balances::<1>, reads.clone()).await.unwrap();
    let reason = stopped(&again).await;
    assert!(matches!(reason, Error::LogRewound(_)), "{reason}");
    assert_eq!(again.wait_for(head(&store).await).await, Err(reason));
    again.rebuild().await.unwrap();
    assert_is_the_fold(&again, &store).await;
}

#[tokio::test]
async fn an_event_that_cannot_be_decoded_stops_it_there() {
    let (store, factum) = handle();
    let reads = reads();
    let account = Account::id("1");
    let good = factum.execute(&account, Open { cents: 5 }).await.unwrap();
    let alien = NewEvent::json_text("Alien", "{}").unwrap();
    let bad = store.append(Append::to(account.stream().unwrap(), [alien])).await.unwrap();
    let later = codec::encode(&Deposited { cents: 1 }).unwrap();
    let later = store.append(Append::to(account.stream().unwrap(), [later])).await.unwrap();
    let balances = factum.project(Balances::<1>, reads.clone()).await.unwrap();
    let reason = balances.wait_for(&later).await.unwrap_err();
    let (text, place) = (reason.to_string(), format!("at position {}", bad.events[0].position));
    assert!(text.contains("`Alien`") && text.contains(&place), "{text}");
    let status = balances.status().await.unwrap();
    assert_eq!((status.position, status.state), (good.events[0].position, State::Stopped(reason)));
    assert!(status.lag_events >= 2 && status.lag > Duration::ZERO);
    assert_eq!(balances.get("1").await.unwrap(), Some(5), "everything before it is there");
    assert!(balances.rebuild().await.unwrap_err().to_string().contains("`Alien`"));
    assert_eq!(balances.get("1").await.unwrap(), Some(5), "a rebuild that fails changes nothing");
    assert_eq!(reads.catalog("balances").await.unwrap().active.unwrap().version, 1);
}

/// Panics on a withdrawal of 13, and counts what it handles.
#[derive(Clone, Default)]
struct Superstitious {
    cured: Arc<AtomicBool>,
    handled: Arc<AtomicUsize>,
}

impl Projection for Superstitious {
    const NAME: &'static str = "superstitious";
    type Event = AccountEvent;
    type Row = i64;

    fn evolve(&self, row: Option<i64>, event: &Recorded<AccountEvent>) -> Option<i64> {
        self.handled.fetch_add(1, Ordering::SeqCst);
        assert!(self.cured.load(Ordering::SeqCst) || event.event != Withdrawn { cents: 13 }, "not thirteen");
        Balances::<1>.evolve(row, event)
    }
}

#[tokio::test]
async fn a_panic_is_a_reason_and_after_the_cure_it_goes_on_there() {
    let (store, factum) = handle();
    let reads = reads();
    let account = Account::id("1");
    let opened = factum.execute(&account, Open { cents: 100 }).await.unwrap();
    let projection = Superstitious::default();
    let well = factum.project(projection.clone(), reads.clone()).await.unwrap();
    well.wait_for(&opened).await.unwrap();
    well.stop().await;
    // One batch, in which the panic leaves the row half changed.
    factum.execute(&account, Withdraw { cents: 1 }).await.unwrap();
    let thirteen = factum.execute(&account, Withdraw { cents: 13 }).await.unwrap();
    let last = factum.execute(&account, Withdraw { cents: 2 }).await.unwrap();
    let sick = factum.project(projection.clone(), reads.clone()).await.unwrap();
    let text = sick.wait_for(&last).await.unwrap_err().to_string();
    assert!(
        text.contains("not thirteen") && text.contains(&format!("position {}", thirteen.events[0].position)),
        "{text}"
    );
    assert_eq!(sick.get("1").await.unwrap(), Some(99), "as it was before");

    projection.cured.store(true, Ordering::SeqCst);
    projection.handled.store(0, Ordering::SeqCst);
    let cured = factum.project(projection.clone(), reads).await.unwrap();
    cured.wait_for(&last).await.unwrap();
    assert_eq!((cured.get("1").await.unwrap(), projection.handled.load(Ordering::SeqCst)), (Some(84), 2));
    assert_eq!(store.read_to_end(Read::all()).await.unwrap().len(), 4);
}

#[tokio::test]
async fn stopped_and_started_it_goes_on_at_its_checkpoint() {
    let (store, factum) = handle();
    let (reads, mut random) = (reads(), seeded());
    let projection = Superstitious::default();
    projection.cured.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let token = write_some(&store, &mut random, 100, 5).await;
        let projected = factum.project(projection.clone(), reads.clone()).await.unwrap();
        projected.wait_for_within(token, LONG).await.unwrap();
        projected.stop().await;
    }
    assert_eq!(projection.handled.load(Ordering::SeqCst), 300, "each event once");
}

#[tokio::test]
async fn it_ends_with_its_last_handle() {
    let (_, factum) = handle();
    let projection = Superstitious::default();
    let projected = factum.project(projection.clone(), reads()).await.unwrap();
    let clone = projected.clone();
    drop(projected);
    let done = factum.execute(&Account::id("1"), Open { cents: 1 }).await.unwrap();
    clone.wait_for(&done).await.unwrap();
    drop(clone);
    let gone = async {
        while Arc::strong_count(&projection.cured) > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
}

#[tokio::test]
async fn a_damaged_row_is_found_and_mended() {
    let (store, factum) = handle();
    let reads = reads();
    let done = factum.execute(&Account::id("1"), Open { cents: 5 }).await.unwrap();
    factum.execute(&Account::id("2"), Open { cents: 6 }).await.unwrap();
    let projected = factum.project(Balances::<1>, reads.clone()).await.unwrap();
    projected.wait_for_within(head(&store).await, LONG).await.unwrap();
    projected.stop().await;
    assert_eq!(
        projected.get("1").await.unwrap(),
        Some(5),
        "what was read is still there, also once it is stopped"
    );

    let lease = reads.claim("balances").await.unwrap();
    let active = reads.catalog("balances").await.unwrap().active.unwrap();
    let rows = vec![
        ("1".to_owned(), Some("\"five\"".to_owned())),
        ("2".to_owned(), None),
        ("3".to_owned(), Some("7".into())),
    ];
    let (generation, from, to) = (active.number, active.checkpoint, active.checkpoint.unwrap());
    reads.commit(&lease, Step { generation, from, to, rows, letters: Vec::new() }).await.unwrap();

    let projected = factum.project(Balances::<1>, reads).await.unwrap();
    projected.wait_for(&done).await.unwrap();
    let error = projected.get("1").await.unwrap_err();
    assert!(
        matches!(error, Error::Corrupt(_))
            && error.to_string().contains("row `1` of the read model `balances`"),
        "{error}"
    );
    assert!(projected.all().await.is_err());
    let found: Vec<_> = projected.verify().await.unwrap().iter().map(ToString::to_string).collect();
    let expected = [
        "`1` is \"five\", but the log makes it 5",
        "`2` is no row, but the log makes it 6",
        "`3` is 7, but the log makes it no row",
    ];
    assert_eq!(found, expected);
    let touching = factum.execute(&Account::id("1"), Deposit { cents: 1 }).await.unwrap();
    assert!(matches!(projected.wait_for(&touching).await, Err(Error::Corrupt(_))));
    projected.rebuild().await.unwrap();
    assert_is_the_fold(&projected, &store).await;
}

#[tokio::test]
async fn stale_leases_and_steps_change_nothing() {
    let reads = reads();
    let log = head(&MemoryStore::new()).await.log;
    let old = reads.claim("m").await.unwrap();
    let lease = reads.claim("m").await.unwrap();
    let generation = reads.create(&lease, 1).await.unwrap();
    let step = |from: Option<u64>, to: u64, row: &str| Step {
        generation: generation.number,
        from: from.map(|n| log.at(Position(n))),
        to: log.at(Position(to)),
        rows: vec![("k".to_owned(), Some(row.to_owned()))],
        letters: Vec::new(),
    };
    let fenced = |result: factum::Result<()>| matches!(result, Err(Error::Fenced { .. }));
    reads.commit(&lease, step(None, 3, "1")).await.unwrap();
    assert!(fenced(reads.commit(&old, step(Some(3), 4, "2")).await), "an old lease");
    assert!(fenced(reads.commit(&lease, step(None, 4, "2")).await), "a step from elsewhere");
    assert!(fenced(reads.commit(&lease, step(Some(2), 4, "2")).await), "a step from elsewhere");
    assert!(fenced(reads.activate(&old, generation.number).await));
    assert!(fenced(reads.discard(&old).await));
    assert!(fenced(reads.create(&old, 1).await.map(drop)));
    assert!(matches!(reads.activate(&lease, 99).await, Err(Error::NotFound { .. })));
    assert_eq!(reads.get("m", "k").await.unwrap().rows, [], "readers do not see what is being built");
    let keys = ["k", "l"].map(str::to_owned).to_vec();
    assert_eq!(reads.rows("m", generation.number, keys).await.unwrap(), [Some("1".to_owned()), None]);
    reads.activate(&lease, generation.number).await.unwrap();
    assert_eq!(reads.get("m", "k").await.unwrap().rows, [("k".to_owned(), "1".to_owned())]);
    assert!(reads.claim("Bad Name").await.is_err());
    assert_eq!(reads.get("unheard", "k").await.unwrap(), Default::default());
    assert_eq!(reads.snapshot("unheard").await.unwrap(), Default::default());
}
