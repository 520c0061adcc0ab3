//! Several workers: each partition is kept by one at a time, and by somebody whenever there is anybody.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use factum::{EventHandler, MemoryReads, Processor, ReadStore, Trouble, prelude::*};
use tokio::sync::Semaphore;

use crate::support::*;

/// The partitions that a processor's own process keeps are not told apart by process in one test: so by their holders.
async fn kept_by(processor: &Processor) -> Vec<Option<String>> {
    processor.status().await.unwrap().partitions.into_iter().map(|partition| partition.worker).collect()
}

#[tokio::test]
async fn partitions_are_shared_by_those_who_are_there_and_keep_the_order_of_each_key() {
    let (factum, reads, shipping) = (factum(), Arc::new(MemoryReads::new()), Shipping::default());
    let start = || {
        let lease = Duration::from_millis(500);
        factum.handler(shipping.clone()).partitions(8).lease(lease).start(reads.clone())
    };
    let first = start().await.unwrap();
    let holders = kept_by(&first).await;
    assert!(holders.iter().all(|holder| holder == &holders[0] && holder.is_some()), "{holders:?}");
    let second = start().await.unwrap();
    let writer = {
        let factum = factum.clone();
        tokio::spawn(async move {
            for n in 0..2000 {
                place(&factum, &format!("order-{}", n % 50), [n]).await;
                if n % 50 == 0 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        })
    };
    let shared = || async {
        let holders = kept_by(&first).await;
        let each: BTreeSet<_> = holders.iter().flatten().collect();
        each.len() == 2 && each.iter().all(|one| holders.iter().flatten().filter(|of| of == one).count() == 4)
    };
    until("each keeps four", &shared).await;
    first.stop().await;
    until("the second keeps all", || async {
        let holders = kept_by(&second).await;
        holders.iter().all(|holder| holder == &holders[0] && holder.is_some())
    })
    .await;
    writer.await.unwrap();
    second.wait_for(factum.store().head().await.unwrap().token).await.unwrap();
    for stream in 0..50 {
        let expected: Vec<u64> = (0..2000).filter(|n| n % 50 == stream).collect();
        assert_eq!(shipping.done.of(&format!("order-{stream}")), expected, "drained, so none twice");
    }
}

/// Says how many are at work for one key at once.
struct Slow {
    at_work: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
    door: Arc<Semaphore>,
}

#[factum::async_trait]
impl EventHandler for Slow {
    const NAME: &'static str = "slow";
    type Event = OrderEvent;
    async fn handle(&self, _: &Recorded<OrderEvent>) -> Result<(), Trouble> {
        struct Leaving(Arc<AtomicUsize>);
        impl Drop for Leaving {
            fn drop(&mut self) {
                self.0.fetch_sub(1, SeqCst);
            }
        }
        let others = self.at_work.fetch_add(1, SeqCst);
        let _leaving = Leaving(self.at_work.clone());
        assert_eq!(others, 0, "two at once");
        self.calls.fetch_add(1, SeqCst);
        let _ = self.door.acquire().await;
        Ok(())
    }
}

/// Whoever cannot keep its lease lets go of what it has in hand before anybody else can have it.
#[tokio::test(start_paused = true)]
async fn who_cannot_keep_its_lease_stops_before_another_begins() {
    let (factum, reads) = (factum(), Failing::new());
    let (at_work, calls, door) = (Arc::default(), Arc::default(), Arc::new(Semaphore::new(0)));
    let slow = || Slow { at_work: Arc::clone(&at_work), calls: Arc::clone(&calls), door: Arc::clone(&door) };
    let lease = Duration::from_secs(2);
    let to = place(&factum, "order-a", [1]).await;
    let cut_off = factum.handler(slow()).lease(lease).start(Arc::new(reads.clone())).await.unwrap();
    until("it is at work", || async { calls.load(SeqCst) == 1 }).await;
    // The other reaches the store: only the way of the first is cut.
    let second = factum.handler(slow()).lease(lease).start(Arc::new(reads.inner.clone())).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(calls.load(SeqCst), 1, "it is kept for as long as its worker says so");
    reads.holds_lost.store(true, SeqCst);
    until("the other has taken over", || async { calls.load(SeqCst) == 2 }).await;
    door.add_permits(100);
    second.wait_for(to).await.unwrap();
    drop(cut_off);
}

#[tokio::test]
async fn what_a_process_has_left_that_is_gone_is_free_at_once_where_nobody_else_can_have_the_log() {
    let (factum, reads, shipping) = (factum(), MemoryReads::new(), Shipping::default());
    let day = Duration::from_secs(86_400);
    reads.holds().hold("shipping/partition/0000", "process-1-gone/1", day).await.unwrap();
    let to = place(&factum, "order-a", [1]).await;
    let processor = factum.handle(shipping.clone(), reads).await.unwrap();
    processor.wait_for(to).await.unwrap();
    assert_eq!(shipping.done.of("order-a"), [1]);
}

/// Whoever is first says how the work is divided; the others find it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_may_begin_at_once() {
    for _ in 0..50 {
        let (factum, reads) = (factum(), Arc::new(MemoryReads::new()));
        let gate = Arc::new(tokio::sync::Barrier::new(8));
        let begin = |_| {
            let (factum, reads, gate) = (factum.clone(), reads.clone(), gate.clone());
            tokio::spawn(async move {
                gate.wait().await;
                factum.handler(Shipping::default()).partitions(2).start(reads).await.map(drop)
            })
        };
        let begun: Vec<_> = (0..8).map(begin).collect();
        for one in begun {
            one.await.unwrap().unwrap();
        }
    }
}
