//! What several do to a log at the same moment.

use factum::{EventId, ManualClock, NewEvent, Query, stream::LifeChange};

use super::*;
use crate::sim::SimDisk;

fn settings(run_events: u64) -> Settings {
    Settings {
        limits: Limits::default(),
        clock: Arc::new(ManualClock::default()),
        birth: Some(uuid::Uuid::from_u128(1)),
        secret: Secret(1),
        first_segment_bytes: 8192,
        segment_bytes: 8192,
        run_events,
        index_pages: Arc::new(PageCache::of_bytes(1 << 20)),
        bugs: Bugs::default(),
    }
}

/// While one batch of a stream is on its way and ends a part of the index, the next one fills: neither shows.
#[test]
fn the_state_of_a_stream_is_what_is_durable_of_it() {
    let disk = SimDisk::new(1);
    let log = Arc::new(Log::open(Arc::new(disk.clone()), settings(1)).unwrap());
    let stream = StreamName::new("s-1").unwrap();
    let append = || Append::to(stream.clone(), [NewEvent::bytes("E", "").unwrap()]);
    for durable in 0..3 {
        drop(log.submit(append()).unwrap());
        let (told, state) = std::sync::mpsc::channel();
        let (meanwhile, next, asked) = (log.clone(), append(), stream.clone());
        disk.meanwhile(move || {
            drop(meanwhile.submit(next).unwrap());
            told.send(meanwhile.stream_state(&asked).unwrap()).unwrap();
        });
        log.commit();
        assert_eq!(state.recv().unwrap().next_revision().0, durable * 2);
        while log.commit() {}
        while log.write_run().unwrap() {}
    }
}

/// Sent again while the log closes, an append that is on its way is neither there nor not there.
#[test]
fn what_is_on_its_way_when_the_log_closes_is_unknown() {
    let disk = SimDisk::new(1);
    let log = Arc::new(Log::open(Arc::new(disk.clone()), settings(100)).unwrap());
    let append = || {
        let event = NewEvent::bytes("E", "").unwrap().with_id(EventId(uuid::Uuid::from_u128(7)));
        Append::to(StreamName::new("s-1").unwrap(), [event])
    };
    let mut first = log.submit(append()).unwrap();
    let (again, told) = std::sync::mpsc::channel();
    let closing = log.clone();
    disk.meanwhile(move || {
        closing.begin_closing();
        again.send(closing.submit(append()).unwrap().try_recv().unwrap()).unwrap();
    });
    log.commit();
    assert!(first.try_recv().unwrap().is_ok());
    assert_eq!(told.recv().unwrap().unwrap_err().outcome(), Outcome::Unknown);
    // Once it is durable, it is there.
    let replayed = log.submit(append()).unwrap().try_recv().unwrap().unwrap();
    assert!(replayed.replayed);
}

/// Whoever looks up what an append rests on looks at what is durable once at a time: in this build, looking again panics.
#[test]
fn a_look_up_does_not_look_while_it_looks() {
    let log = Log::open(Arc::new(SimDisk::new(1)), settings(1)).unwrap();
    for _ in 0..3 {
        let event = NewEvent::bytes("E", "").unwrap();
        drop(log.submit(Append::to(StreamName::new("s-1").unwrap(), [event])).unwrap());
        while log.commit() {}
        while log.write_run().unwrap() {}
    }
    let start = log.durable().log.at(Position::START);
    let mut answer = log.submit(Append::new().expect_none(Query::category("s"), start)).unwrap();
    assert!(answer.try_recv().unwrap().unwrap_err().is_conflict());
}

/// A large append that waits for room in a batch does not hold up a small one; and then it has its turn.
#[test]
fn a_small_append_goes_before_a_large_one_that_waits() {
    let large_segments = Settings { first_segment_bytes: 64 << 20, segment_bytes: 64 << 20, ..settings(100) };
    let log = Log::open(Arc::new(SimDisk::new(1)), large_segments).unwrap();
    let append = |stream: &str, megabytes: usize| {
        let event = |_| NewEvent::bytes("E", vec![1; if megabytes == 0 { 10 } else { 1_000_000 }]).unwrap();
        Append::to(StreamName::new(stream).unwrap(), (0..megabytes.max(1)).map(event))
    };
    let mut first = log.submit(append("large-1", 6)).unwrap();
    let mut second = log.submit(append("large-2", 6)).unwrap();
    let mut small = log.submit(append("small-1", 0)).unwrap();
    assert!(log.commit());
    assert!(first.try_recv().unwrap().is_ok() && small.try_recv().unwrap().is_ok());
    assert!(second.try_recv().is_err(), "there was no room for it");
    // However many small ones come, it is in the next batch.
    let mut others: Vec<_> =
        (0..200).map(|n| log.submit(append(&format!("small-{n}"), 0)).unwrap()).collect();
    assert!(log.commit());
    assert!(second.try_recv().unwrap().is_ok());
    assert!(others.iter_mut().all(|answer| answer.try_recv().unwrap().is_ok()));
}

/// Small appends that go on coming do not keep a large one from the new segment that it needs.
#[test]
fn a_large_append_that_needs_a_segment_is_not_starved() {
    let segments = Settings { first_segment_bytes: 8 << 20, segment_bytes: 8 << 20, ..settings(100) };
    let log = Log::open(Arc::new(SimDisk::new(1)), segments).unwrap();
    let append = |bytes: usize| {
        let event = |_| NewEvent::bytes("E", vec![1; 1000]).unwrap();
        Append::to(StreamName::new("s-1").unwrap(), (0..bytes / 1000).map(event))
    };
    drop(log.submit(append(5_000_000)).unwrap());
    let mut large = log.submit(append(5_000_000)).unwrap();
    let mut commits = 0;
    while large.try_recv().is_err() {
        drop(log.submit(append(1000)).unwrap());
        log.commit();
        commits += 1;
        assert!(commits < 5, "small ones go before it again and again");
    }
}

/// A stream that is written and deleted in one batch is as it was until that is durable.
#[test]
fn a_life_that_changes_behind_an_event_of_the_same_batch_shows_with_it() {
    let log = Log::open(Arc::new(SimDisk::new(1)), settings(100)).unwrap();
    let stream = StreamName::new("s-1").unwrap();
    let append = || Append::to(stream.clone(), [NewEvent::bytes("E", "").unwrap()]);
    let delete = || Append::to(stream.metadata_stream().unwrap(), [LifeChange::Deleted.to_event().unwrap()]);
    drop(log.submit(append()).unwrap());
    log.commit();
    let before = log.stream_state(&stream).unwrap();
    drop(log.submit(append()).unwrap());
    drop(log.submit(delete()).unwrap());
    drop(log.submit(append()).unwrap());
    assert_eq!(log.stream_state(&stream).unwrap(), before);
    log.commit();
    let after = log.stream_state(&stream).unwrap();
    assert_eq!((after.next_revision().0, after.hidden_before.0), (3, 2));
}

/// What a guard's query finds may be on its way to the disk, and is then not read there.
#[test]
fn a_look_up_reads_nothing_that_is_not_on_the_disk() {
    let log = Log::open(Arc::new(SimDisk::new(1)), settings(1)).unwrap();
    let append = || {
        let event = NewEvent::bytes("E", "").unwrap();
        Append::to(StreamName::new("s-1").unwrap(), [event])
    };
    let beginning = log.durable().log.at(Position::START);
    drop(log.submit(append()).unwrap());
    // Taken, but not written yet.
    let taken = log.take_open(0).unwrap();
    let guarded = append().expect_none(Query::types(["E"]).unwrap(), beginning);
    let mut answer = log.submit(guarded).unwrap();
    assert!(answer.try_recv().is_err(), "what it rests on is not durable");
    drop(taken);
}

/// A log that breaks while it closes is not closed in good order, and opens again.
#[test]
fn a_sync_that_fails_while_the_log_closes_is_no_good_order() {
    let disk = SimDisk::new(1);
    let log = Log::open(Arc::new(disk.clone()), settings(100)).unwrap();
    let append = || Append::to(StreamName::new("s-1").unwrap(), [NewEvent::bytes("E", "").unwrap()]);
    drop(log.submit(append()).unwrap());
    log.commit();
    let mut last = log.submit(append()).unwrap();
    disk.syncs(255, 0);
    log.begin_closing();
    while log.commit() {}
    disk.syncs(0, 0);
    assert_eq!(last.try_recv().unwrap().unwrap_err().outcome(), Outcome::Unknown);
    assert!(matches!(log.close(), Err(Error::Poisoned { .. })));
    drop(log);
    disk.restart(crate::sim::Crash::PowerCut);
    let again = Log::open(Arc::new(disk), settings(100)).unwrap();
    assert!(!again.recovery.clean && again.durable().head() > Position::START);
}

/// A large append that waits has its turn although small ones come whenever a batch is on its way.
#[test]
fn a_very_large_append_is_not_starved_by_small_ones() {
    let disk = SimDisk::new(1);
    let large_segments = Settings { first_segment_bytes: 64 << 20, segment_bytes: 64 << 20, ..settings(100) };
    let log = Arc::new(Log::open(Arc::new(disk.clone()), large_segments).unwrap());
    let append = |events: usize, bytes: usize| {
        let event = |_| NewEvent::bytes("E", vec![1; bytes]).unwrap();
        Append::to(StreamName::new("s-1").unwrap(), (0..events).map(event))
    };
    drop(log.submit(append(1, 10)).unwrap());
    let mut large = log.submit(append(9, 1_000_000)).unwrap();
    let mut commits = 0;
    while large.try_recv().is_err() {
        let (meanwhile, small) = (log.clone(), append(1, 10));
        disk.meanwhile(move || drop(meanwhile.submit(small).unwrap()));
        log.commit();
        commits += 1;
        assert!(commits < 5, "small ones go before it again and again");
    }
}
