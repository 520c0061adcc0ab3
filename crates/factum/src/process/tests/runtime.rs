//! On the runtime, as in production.

use std::time::Duration;

use super::{
    kinds,
    shop::{Pay, Place, Shop, ShopEvent, slow},
    world,
};
use crate::{
    Aggregate, Effect, Event, Factum, Identified, Input, MemoryReads, ProcessManager, ReadStore, Recorded,
    Trouble, process::manager::check, timers::TimerStatus,
};

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

/// Whoever goes without a word is followed after the lease, with the timers, too.
#[test]
fn a_lease_says_how_long_the_gone_are_waited_for() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let (gone, goes_on) = (runtime(), runtime());
    let ((factum, clock), reads) = (world(), MemoryReads::new());
    let start = async |factum: &Factum| {
        let managing = factum.process_manager(slow()).lease(Duration::from_millis(300));
        managing.start(std::sync::Arc::new(reads.clone())).await.unwrap()
    };
    let kept = gone.block_on(async {
        let process = start(&factum).await;
        let done = factum.execute(&Shop::id("1"), Place).await.unwrap();
        process.wait_for(&done).await.unwrap();
        while process.status().await.unwrap().timers.next.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        process
    });
    gone.shutdown_background();
    std::mem::forget(kept);
    clock.advance(Duration::from_secs(7200));
    goes_on.block_on(async {
        let process = start(&factum).await;
        let cancelled = async {
            while !process.instance("1").await.unwrap().unwrap().completed {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), cancelled).await.unwrap();
        let TimerStatus { here, fired, .. } = process.status().await.unwrap().timers;
        assert_eq!((here, fired), (true, 1));
        process.stop().await;
    });
}

/// Named as what it hears of.
struct Confused;

#[async_trait::async_trait]
impl ProcessManager for Confused {
    const NAME: &'static str = ShopEvent::CATEGORY;
    type Event = ShopEvent;
    type State = ();
    type Command = ();

    fn instance(&self, _: &Recorded<ShopEvent>) -> Option<String> {
        None
    }

    fn evolve(&self, (): &mut (), _: &Input<ShopEvent, ()>) {}

    fn react(&self, (): &(), _: &Input<ShopEvent, ()>) -> Vec<Effect<()>> {
        vec![]
    }

    async fn perform(&self, (): (), _: Identified<Factum>) -> Result<(), Trouble> {
        Ok(())
    }
}

#[tokio::test]
async fn a_process_manager_is_not_named_as_what_it_hears_of() {
    let (factum, _) = world();
    let error = factum.process(Confused, MemoryReads::new()).await.unwrap_err().to_string();
    assert!(error.contains("events of the category `shop`") && error.contains("`shop_process`"), "{error}");
}

#[test]
fn nothing_is_published_into_the_streams_of_instances() {
    let effects = [Effect::<()>::publish(&ShopEvent::Placed)];
    let Err(Trouble::Refused(why)) = check("shop", &effects) else { panic!("it is let pass") };
    assert!(why.contains("publishes an event of the category `shop`"), "{why}");
    assert_eq!(check("fulfilment", &effects), Ok(()));
}
