//! What others record between a look and the append that follows from it.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use super::{
    Hands, kinds,
    shop::{Cancel, Pay, Place, Shop, ShopEvent, slow},
};
use crate::{
    Aggregate, Append, Appended, EventStore, Factum, Head, Limits, ManualClock, MemoryReads, MemoryStore,
    Page, Position, Read, Result, StreamName, StreamState, Timestamp,
};

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A store in which something happens right before an event of a type is recorded for the first time.
#[derive(Clone)]
struct Between {
    inner: MemoryStore,
    work: Arc<Mutex<Option<(&'static str, Work)>>>,
    conflicts: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Between {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Between")
    }
}

#[async_trait]
impl EventStore for Between {
    async fn append(&self, append: Append) -> Result<Appended> {
        let writes = |of: &str| append.events().any(|(_, event)| event.event_type == *of);
        let work = self.work.lock().unwrap().take_if(|(of, _)| writes(of));
        if let Some((_, work)) = work {
            work.await;
        }
        let answer = self.inner.append(append).await;
        let conflict = answer.as_ref().is_err_and(crate::Error::is_conflict);
        self.conflicts.fetch_add(usize::from(conflict), Ordering::SeqCst);
        answer
    }
    async fn read(&self, read: Read) -> Result<Page> {
        self.inner.read(read).await
    }
    async fn head(&self) -> Result<Head> {
        self.inner.head().await
    }
    async fn stream_state(&self, stream: &StreamName) -> Result<StreamState> {
        self.inner.stream_state(stream).await
    }
    async fn changed(&self, position: Position) {
        self.inner.changed(position).await;
    }
    fn limits(&self) -> Limits {
        self.inner.limits()
    }
}

/// A handle to such a store, one to the store in it, and the clock of both.
fn worlds() -> (Between, Factum, Factum, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp(1_000_000_000_000)));
    let inner = MemoryStore::with(Limits::default(), clock.clone());
    let store = Between { inner: inner.clone(), work: Arc::default(), conflicts: Arc::default() };
    let factum = Factum::new(store.clone()).with_clock(clock.clone());
    (store, factum, Factum::new(inner).with_clock(clock.clone()), clock)
}

impl Between {
    fn before(&self, of: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        *self.work.lock().unwrap() = Some((of, Box::pin(work)));
    }

    fn conflicts(&self) -> usize {
        self.conflicts.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_timer_that_is_stopped_at_the_last_moment_does_not_fire() {
    let (store, factum, others, clock) = worlds();
    let (mut hands, mut other) = (Hands::new(slow(), &factum, 100), Hands::new(slow(), &others, 100));
    factum.execute(&Shop::id("1"), Place).await.unwrap();
    hands.settle(10).await.unwrap();
    clock.advance(Duration::from_secs(4000));
    store.before("TimerFired", async move {
        others.execute(&Shop::id("1"), Pay).await.unwrap();
        other.settle(10).await.unwrap();
    });
    hands.fire("1").await.unwrap();
    hands.settle(10).await.unwrap();
    assert_eq!(store.conflicts(), 1);
    assert!(!kinds(&factum, "fulfilment").await.contains(&"TimerFired".to_owned()));
    assert_eq!(kinds(&factum, "shop").await, ["Placed", "Reserved", "Charged", "Shipped"]);
}

#[tokio::test]
async fn an_instance_reacts_to_one_input_after_the_other() {
    let (store, factum, others, _) = worlds();
    let (mut hands, mut other) = (Hands::new(slow(), &factum, 100), Hands::new(slow(), &others, 100));
    factum.execute(&Shop::id("1"), Place).await.unwrap();
    hands.settle(10).await.unwrap();
    factum.execute(&Shop::id("1"), Pay).await.unwrap();
    // Another worker is at a later input: one of the two has lost its lease.
    other.inbox.at = Some(factum.store().head().await.unwrap().token);
    store.before("Reacted", async move {
        others.execute(&Shop::id("1"), Cancel).await.unwrap();
        assert!(other.inbox.step(&**others.store(), 10).await.unwrap());
    });
    hands.settle(10).await.unwrap();
    assert_eq!(store.conflicts(), 1, "it has reacted on a state that was over");
    let stream = crate::process::manager::stream_of("fulfilment", "1").unwrap();
    let heard = hands.manager.load(&stream).await.unwrap().state.heard;
    assert_eq!(heard, ["Placed", "Reserved", "Cancelled", "Charged", "Shipped"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_unscheduled_at_the_last_moment_does_not_happen() {
    let (store, factum, others, clock) = worlds();
    let at = clock_now(&clock).plus(Duration::from_secs(10));
    factum.schedule("1", at, &ShopEvent::Cancelled).await.unwrap();
    store.before("Fired", async move {
        assert!(others.unschedule::<ShopEvent>("1").await.unwrap());
    });
    let timers = factum.timers(MemoryReads::new()).await.unwrap();
    clock.advance(Duration::from_secs(20));
    tokio::time::sleep(Duration::from_secs(5)).await;
    timers.stop().await;
    assert_eq!(store.conflicts(), 1);
    assert_eq!(kinds(&factum, "shop").await, [] as [&str; 0]);
}

#[tokio::test(start_paused = true)]
async fn of_two_who_schedule_at_once_the_later_is_right() {
    let (store, factum, others, clock) = worlds();
    let at = |seconds| clock_now(&clock).plus(Duration::from_secs(seconds));
    let (first, second) = (at(10), at(5));
    store.before("Scheduled", async move {
        others.schedule("1", second, &ShopEvent::Reserved).await.unwrap();
    });
    factum.schedule("1", first, &ShopEvent::Cancelled).await.unwrap();
    assert_eq!(store.conflicts(), 1);
    let timers = factum.timers(MemoryReads::new()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(timers.status().next, Some(first), "the other is not in the list any more");
    clock.advance(Duration::from_secs(20));
    tokio::time::sleep(Duration::from_secs(5)).await;
    timers.stop().await;
    assert_eq!(kinds(&factum, "shop").await, ["Cancelled"]);
}

fn clock_now(clock: &ManualClock) -> Timestamp {
    crate::Clock::now(clock)
}
