//! On the runtime, as in production.

use std::time::Duration;

use super::{
    kinds,
    shop::{Pay, Place, Shop, slow},
    world,
};
use crate::{Aggregate, MemoryReads, ReadStore};

const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn orders_go_their_way_and_deadlines_pass() {
    let (factum, clock) = world();
    let reads = MemoryReads::new();
    let process = factum.process(slow(), reads.clone()).await.unwrap();
    let mut done = None;
    for order in ["1", "2", "broken-3"] {
        done = Some(factum.execute(&Shop::id(order), Place).await.unwrap());
    }
    process.wait_for(&done.unwrap()).await.unwrap();
    factum.execute(&Shop::id("2"), Pay).await.unwrap();
    factum.execute(&Shop::id("broken-3"), Pay).await.unwrap();
    process.wait_until_idle(PATIENCE).await.unwrap();
    let waiting = process.instance("1").await.unwrap().unwrap();
    assert_eq!(waiting.timers.len(), 1, "{waiting:?}");
    assert_eq!((waiting.completed, waiting.commands.len(), waiting.heard), (false, 0, 2));
    assert!(process.instance("2").await.unwrap().unwrap().completed);
    assert!(process.instance("7").await.unwrap().is_none());
    process.stop().await;
    // It is overdue when it starts again.
    clock.advance(Duration::from_secs(7200));
    let process = factum.process(slow(), reads.clone()).await.unwrap();
    process.wait_until_idle(PATIENCE).await.unwrap();
    assert!(process.instance("1").await.unwrap().unwrap().completed, "its timer was waited for");
    tokio::time::timeout(PATIENCE, async {
        while process.status().await.unwrap().timers.fired == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let status = process.status().await.unwrap();
    assert_eq!((status.timers.here, status.timers.fired), (true, 1), "{status}");
    // What was set off or stopped leaves the list.
    tokio::time::timeout(PATIENCE, async {
        while !reads.page("fulfilment_timers", None, 10).await.unwrap().rows.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let mut shop = kinds(&factum, "shop").await;
    shop.sort();
    let expected = [
        "Cancelled",
        "Cancelled",
        "Charged",
        "Charged",
        "Placed",
        "Placed",
        "Placed",
        "Released",
        "Released",
        "Reserved",
        "Reserved",
        "Reserved",
        "Shipped",
    ];
    assert_eq!(shop, expected);
    process.stop().await;
}
