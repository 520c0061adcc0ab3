//! Rebuilds that are watched, shared, given up, and that mend what has stopped. Run on every store of read models:
//! `crate::reads()`.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use factum::{
    Append, EventStore, MemoryStore, NewEvent, ReadStore, State, StreamName, prelude::*, reads::Step,
};

use crate::{
    passes::{Gated, Once, counted},
    reads,
    support::*,
    views::{Steps, head, in_time, until, walked},
};

const LONG: Duration = Duration::from_secs(30);

async fn counted_model(events: i64) -> (MemoryStore, Factum, Wrapped<Gated>, Projected<Once>) {
    let store = MemoryStore::new();
    let factum = Factum::new(store.clone());
    for _ in 0..events / 1000 {
        counted(&store, 1000).await;
    }
    let gated = Gated::new(reads());
    gated.open();
    let once = factum.project(Once, gated.clone()).await.unwrap();
    once.wait_for_within(head(&store).await, LONG).await.unwrap();
    // From here on each step is let through one by one.
    gated.open.forget_permits(usize::MAX);
    (store, factum, gated, once)
}

#[tokio::test]
async fn a_rebuild_tells_how_it_comes_on() {
    let (store, _, gated, once) = counted_model(5000).await;
    let mut rebuild = once.rebuild();
    gated.open.add_permits(2);
    until(async || rebuild.progress().is_some_and(|progress| progress.position.0 > 1000)).await;
    let progress = rebuild.progress().unwrap();
    assert_eq!(progress.head, head(&store).await.position);
    assert!(progress.position < progress.head && progress.rate > 0.0, "{progress:?}");
    assert!(progress.time_left.unwrap() > Duration::ZERO);
    let text = progress.to_string();
    let begin = format!("at position {} of {}, ", progress.position, progress.head);
    assert!(text.starts_with(&begin) && text.ends_with(" s left"), "{text}");
    let status = once.status().await.unwrap();
    assert_eq!(status.rebuilding.unwrap().position, progress.position);
    assert!(status.to_string().contains("; rebuilding, at position "), "{status}");
    assert!(futures_pending(&mut rebuild).await);
    gated.open();
    in_time(&mut rebuild).await.unwrap();
    assert_eq!(rebuild.progress(), None);
    assert_eq!(once.status().await.unwrap().rebuilding, None);
}

/// Whether it is not over when asked once.
async fn futures_pending(rebuild: &mut factum::Rebuild) -> bool {
    tokio::select! {
        biased;
        _ = rebuild => false,
        () = std::future::ready(()) => true,
    }
}

#[derive(Debug)]
enum Ends {
    Cancelled,
    Dropped,
    TimedOut,
    CancelledByAnother,
}

#[tokio::test]
async fn a_rebuild_that_is_given_up_leaves_no_trace() {
    for ends in [Ends::Cancelled, Ends::Dropped, Ends::TimedOut, Ends::CancelledByAnother] {
        let (store, _, gated, once) = counted_model(5000).await;
        let before = gated.catalog("once").await.unwrap();
        let rebuild = once.rebuild();
        gated.open.add_permits(2);
        until(async || rebuild.progress().is_some_and(|progress| progress.position.0 > 1000)).await;
        let building = gated.catalog("once").await.unwrap().building.unwrap();
        // The batch at hand is finished.
        let letting_through = async {
            gated.open.add_permits(1);
        };
        match ends {
            Ends::Cancelled => {
                let _ = tokio::join!(in_time(rebuild.cancel()), letting_through);
            }
            Ends::Dropped => drop((rebuild, letting_through.await)),
            Ends::TimedOut => {
                let late = tokio::time::timeout(Duration::from_millis(1), rebuild).await;
                assert!(late.is_err());
                letting_through.await;
            }
            Ends::CancelledByAnother => {
                let another = once.rebuild();
                let _ = tokio::join!(in_time(another.cancel()), letting_through);
                let told = in_time(rebuild).await.unwrap_err();
                assert!(told.to_string().contains("the rebuild of `once` was cancelled"), "{told}");
            }
        }
        until(async || gated.catalog("once").await.unwrap().building.is_none()).await;
        assert_eq!(gated.catalog("once").await.unwrap(), before, "{ends:?}");
        let left = gated.rows("once", building.number, vec!["1".into()]).await;
        assert!(!matches!(left.as_deref(), Ok([Some(_)])), "its rows are gone: {left:?}");
        // What was there goes on, and another rebuild begins anew.
        gated.open();
        once.wait_for_within(counted(&store, 10).await, LONG).await.unwrap();
        assert_eq!(once.status().await.unwrap().rebuilding, None);
        in_time(once.rebuild()).await.unwrap();
        assert!(gated.catalog("once").await.unwrap().active.unwrap().number > building.number);
        assert_eq!(once.verify().await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_rebuild_is_shared_and_goes_on_for_as_long_as_somebody_wants_it() {
    let (_, _, gated, once) = counted_model(5000).await;
    let first = once.rebuild();
    gated.open.add_permits(1);
    until(async || first.progress().is_some_and(|progress| progress.position.0 > 0)).await;
    let number = gated.catalog("once").await.unwrap().building.unwrap().number;
    let (second, third) = (once.rebuild(), once.rebuild());
    drop(first);
    third.detach();
    gated.open.add_permits(1);
    until(async || second.progress().is_some_and(|progress| progress.position.0 > 1000)).await;
    drop(second);
    gated.open();
    until(async || gated.catalog("once").await.unwrap().active.unwrap().number == number).await;
    assert_eq!(once.verify().await.unwrap(), []);
}

#[tokio::test]
async fn a_rebuild_of_a_stopped_model_that_is_given_up_leaves_it_stopped_and_one_that_fails_says_why() {
    let store = MemoryStore::new();
    let factum = Factum::new(store.clone());
    let gated = Gated::new(reads());
    gated.open();
    // More than one batch before the one at fault.
    let many: Vec<_> = (0..1500).map(|_| NewEvent::json_text("Walked", "{\"parts\":[1]}").unwrap()).collect();
    store.append(Append::to(StreamName::new("walk-1").unwrap(), many)).await.unwrap();
    let bad = walked(&store, &[13]).await;
    let steps = Steps::default();
    let model = factum.project(steps.clone(), gated.clone()).await.unwrap();
    let reason = model.wait_for_within(bad, LONG).await.unwrap_err();
    let failed = in_time(model.rebuild()).await.unwrap_err();
    assert_eq!(failed, reason);
    assert_eq!(model.status().await.unwrap().state, State::Stopped(reason.clone()));

    gated.open.forget_permits(usize::MAX);
    let (rebuild, waited) = (model.rebuild(), gated.waiting.load(SeqCst));
    until(async || gated.waiting.load(SeqCst) > waited).await;
    let go_on = async { gated.open() };
    let _ = tokio::join!(biased; in_time(rebuild.cancel()), go_on);
    assert_eq!(model.status().await.unwrap().state, State::Stopped(reason));
    assert_eq!(gated.catalog("steps").await.unwrap().building, None);
    assert_eq!(model.get("steps").await.unwrap(), Some(1500));

    steps.cured.store(true, SeqCst);
    in_time(model.rebuild()).await.unwrap();
    model.wait_for_within(walked(&store, &[1]).await, LONG).await.unwrap();
    assert_eq!(model.get("steps").await.unwrap(), Some(1514));
}

#[tokio::test]
async fn a_rebuild_takes_over_another_history_although_its_store_fails_for_a_moment() {
    for fault in [Fault::Before, Fault::After] {
        for at in 0.. {
            let store = MemoryStore::new();
            let factum = Factum::new(store.clone());
            let reads = reads();
            let model = factum.project(Once, reads.clone()).await.unwrap();
            model.wait_for_within(counted(&store, 1500).await, LONG).await.unwrap();
            model.stop().await;
            drop(model);
            store.begin_epoch();
            let faulty = Faulty::new(reads.clone(), at, fault, false);
            let model = factum.project(Once, faulty.clone()).await.unwrap();
            until(async || matches!(model.status().await.unwrap().state, State::Stopped(_))).await;
            while let Err(error) = in_time(model.rebuild()).await {
                assert!(error.is_retryable(), "{at}: {error}");
            }
            model.wait_for_within(counted(&store, 1).await, LONG).await.unwrap();
            assert_eq!(model.verify().await.unwrap(), []);
            if faulty.calls() <= at {
                assert!(at > 5, "the faults did strike: {at}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_rebuild_mends_a_stopped_model_although_its_store_fails_for_a_moment() {
    for fault in [Fault::Before, Fault::After] {
        for at in 0.. {
            let store = MemoryStore::new();
            let factum = Factum::new(store.clone());
            let reads = reads();
            let steps = Steps::default();
            walked(&store, &[7]).await;
            walked(&store, &[13]).await;
            let end = counted(&store, 1).await;
            let model = factum.project(steps.clone(), reads.clone()).await.unwrap();
            model.wait_for_within(end, LONG).await.unwrap_err();
            model.stop().await;
            drop(model);
            // The bad row is what it was stopped by; what mends it is a rebuild by another code.
            let faulty = Faulty::new(reads.clone(), at, fault, false);
            let model = factum.project(steps.clone(), faulty.clone()).await.unwrap();
            until(async || matches!(model.status().await.unwrap().state, State::Stopped(_))).await;
            steps.cured.store(true, SeqCst);
            while let Err(error) = in_time(model.rebuild()).await {
                assert!(error.is_retryable(), "{at}: {error}");
            }
            assert_eq!(model.get("steps").await.unwrap(), Some(20));
            model.wait_for_within(walked(&store, &[1]).await, LONG).await.unwrap();
            assert_eq!(reads.catalog("steps").await.unwrap().building, None);
            if faulty.calls() <= at {
                assert!(at > 5, "the faults did strike: {at}");
                break;
            }
        }
    }
}

/// What readers see stops at a bad row of its own while it is rebuilt.
#[tokio::test]
async fn a_rebuild_goes_on_when_what_readers_see_stops() {
    let (store, factum, gated, once) = counted_model(3000).await;
    once.stop().await;
    let lease = gated.claim("once").await.unwrap();
    let active = gated.catalog("once").await.unwrap().active.unwrap();
    let rows = vec![("1".to_owned(), Some("\"damaged\"".to_owned()))];
    let (generation, from, to) = (active.number, active.checkpoint, active.checkpoint.unwrap());
    gated.open.add_permits(1);
    gated.commit(&lease, Step { generation, from, to, rows, letters: Vec::new() }).await.unwrap();
    let once = { factum.project(Once, gated.clone()).await.unwrap() };
    let (rebuild, waited) = (once.rebuild(), gated.waiting.load(SeqCst));
    until(async || gated.waiting.load(SeqCst) > waited).await;
    let end = counted(&store, 1).await;
    gated.open();
    in_time(rebuild).await.unwrap();
    once.wait_for_within(end, LONG).await.unwrap();
    assert_eq!(once.verify().await.unwrap(), []);
}
