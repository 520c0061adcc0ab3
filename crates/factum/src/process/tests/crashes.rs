//! Everything that is done is done once, whatever call of the store fails.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;

use super::{
    Hands, all,
    shop::{Fulfilment, Place, Shop, slow},
};
use crate::{
    Aggregate, Append, Appended, Error, EventStore, Factum, Head, Limits, ManualClock, MemoryStore, Outcome,
    Page, Position, Read, Result, StreamName, StreamState, Timestamp,
};

/// A store of which one call fails: before it has happened, or after.
#[derive(Clone, Debug)]
struct Failing {
    inner: MemoryStore,
    calls: Arc<AtomicUsize>,
    /// Twice the number of the call, and one more if it happens all the same.
    fails: Arc<AtomicUsize>,
}

impl Failing {
    /// What is to be done with this call: whether it happens, and whether it fails.
    fn fate(&self) -> (bool, bool) {
        let (call, fails) = (self.calls.fetch_add(1, Ordering::SeqCst), self.fails.load(Ordering::SeqCst));
        (call != fails / 2 || fails % 2 == 1, call == fails / 2)
    }

    async fn through<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let (happens, fails) = self.fate();
        let answer = if happens { Some(call.await) } else { None };
        match answer {
            Some(answer) if !fails => answer,
            _ => Err(Error::Poisoned { cause: "of this test".into(), outcome: Outcome::Unknown }),
        }
    }
}

#[async_trait]
impl EventStore for Failing {
    async fn append(&self, append: Append) -> Result<Appended> {
        self.through(self.inner.append(append)).await
    }
    async fn read(&self, read: Read) -> Result<Page> {
        self.through(self.inner.read(read)).await
    }
    async fn head(&self) -> Result<Head> {
        self.through(self.inner.head()).await
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

const NEVER: usize = usize::MAX;

/// Runs orders to their end, with one call that fails; then everything is heard and performed once more from the beginning. How
/// many calls it took, and what was done.
async fn run(fails: usize) -> (usize, BTreeMap<String, Vec<String>>) {
    let clock = Arc::new(ManualClock::at(Timestamp(1_000_000_000_000)));
    let inner = MemoryStore::with(Limits::default(), clock.clone());
    let store = Failing { inner, calls: Arc::default(), fails: Arc::new(AtomicUsize::new(NEVER)) };
    let factum = Factum::new(store.clone()).with_clock(clock.clone());
    let orders = ["1", "broken-2"];
    for order in orders {
        factum.execute(&Shop::id(order), Place).await.unwrap();
    }
    store.calls.store(0, Ordering::SeqCst);
    store.fails.store(fails, Ordering::SeqCst);
    let (mut quick_hands, mut timed) = (Hands::new(Fulfilment::default(), &factum, 100), None);
    for round in 0..20 {
        if quick_hands.settle(4).await.is_err() {
            // A crash: another process begins where the checkpoints are.
            let (inbox, outbox) = (quick_hands.inbox.at, quick_hands.outbox.at);
            quick_hands = Hands::new(Fulfilment::default(), &factum, 100);
            (quick_hands.inbox.at, quick_hands.outbox.at) = (inbox, outbox);
        } else if round > 2 {
            break;
        }
    }
    // One that waits for a deadline, which passes.
    let late = Shop::id("4");
    loop {
        let hands = timed.get_or_insert_with(|| Hands::new(slow(), &factum, 100));
        let placed = factum.identified("late").execute(&late, Place).await;
        if placed.is_ok() && hands.settle(4).await.is_ok() {
            clock.advance(Duration::from_secs(4000));
            if hands.fire("4").await.is_ok() && hands.settle(4).await.is_ok() {
                break;
            }
        }
        timed = None;
    }
    let before = all(&store.inner).await.len();
    // Checkpoints are lost: nothing is done again.
    let replaying = Fulfilment::default();
    let asked = replaying.asked.clone();
    let mut anew = Hands::new(replaying, &factum, 100);
    while anew.settle(9).await.is_err() {}
    assert_eq!(all(&store.inner).await.len(), before, "call {fails}: a replay has recorded something");
    assert_eq!(asked.load(Ordering::SeqCst), 0, "call {fails}: a replay has given commands");
    let mut done = BTreeMap::<String, Vec<String>>::new();
    for event in all(&store.inner).await {
        if event.stream.category() != "fulfilment" {
            done.entry(event.stream.to_string()).or_default().push(event.event_type.to_string());
        }
    }
    (store.calls.load(Ordering::SeqCst), done)
}

async fn each_effect_is_done_once(fate: usize) {
    let (calls, well) = run(NEVER).await;
    assert_eq!(well["shop-1"], ["Placed", "Reserved", "Charged", "Shipped"]);
    assert_eq!(well["shop-4"], ["Placed", "Reserved", "Released", "Cancelled"]);
    assert!(calls > 100, "{calls} calls");
    for call in 0..calls {
        let (_, done) = run(2 * call + fate).await;
        assert_eq!(done, well, "call {call} failed");
    }
}

#[tokio::test]
async fn each_effect_is_done_once_whichever_call_fails_before_it_happens() {
    each_effect_is_done_once(0).await;
}

#[tokio::test]
async fn each_effect_is_done_once_whichever_call_fails_after_it_has_happened() {
    each_effect_is_done_once(1).await;
}
