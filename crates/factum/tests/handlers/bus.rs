//! Events handed to subscribers, and what is told of it.

use std::sync::{Arc, Mutex};

use factum::{MemoryReads, Query, Stuck, Trouble, event::RecordedEvent, prelude::*};

use crate::support::*;

#[tokio::test]
async fn each_subscriber_has_everything_at_its_own_pace_also_what_happened_while_it_was_away() {
    let (factum, reads) = (factum(), MemoryReads::new());
    let (shipping, seen) = (Shipping::poisoned_by([1]), Ledger::default());
    let log_orders = || {
        let seen = seen.clone();
        move |order: Recorded<OrderEvent>| {
            let seen = seen.clone();
            async move {
                let (OrderEvent::Placed { n } | OrderEvent::Paid { n }) = order.event;
                seen.note(&order.record.stream, n);
                Ok(())
            }
        }
    };
    let bus = factum.event_bus(reads.clone());
    let ships = bus.subscribe(shipping.clone()).await.unwrap();
    let logs = bus.on("log_orders", log_orders()).await.unwrap();
    let to = place(&factum, "order-a", [1, 2]).await;
    logs.wait_for(to).await.unwrap();
    ships.wait_for(to).await.unwrap();
    assert_eq!(seen.of("order-a"), [1, 2], "what one cannot handle is its own affair");
    assert_eq!(bus.status().await.unwrap().len(), 2);
    bus.stop().await;
    place(&factum, "order-a", [3]).await;
    assert_eq!(seen.count(), 2);
    let bus = factum.event_bus(reads);
    let logs = bus.on("log_orders", log_orders()).await.unwrap();
    logs.wait_for(factum.store().head().await.unwrap().token).await.unwrap();
    assert_eq!(seen.of("order-a"), [1, 2, 3]);
}

#[tokio::test]
async fn two_of_a_name_are_refused_on_one_bus() {
    let (factum, seen) = (factum(), Ledger::default());
    let bus = factum.event_bus(MemoryReads::new());
    let note = || {
        let seen = seen.clone();
        move |order: Recorded<OrderEvent>| {
            seen.note(&order.record.stream, 0);
            async { Ok(()) }
        }
    };
    let first = bus.on("ships", note()).await.unwrap();
    let refused = bus.on("ships", note()).await.unwrap_err().to_string();
    assert!(refused.contains("`ships`: this bus has a subscriber of that name already"), "{refused}");
    // Also those that begin at the same moment.
    let (one, two) = tokio::join!(bus.on("mails", note()), bus.on("mails", note()));
    assert!(one.is_ok() != two.is_ok());
    bus.subscribe(Shipping::default()).await.unwrap();
    assert!(bus.subscribe(Shipping::default()).await.is_err());
    assert_eq!(bus.subscribers().len(), 3);
    // Who could not begin, or was stopped, keeps no name.
    for _ in 0..2 {
        let refused = bus.on("Bad Name", note()).await.unwrap_err().to_string();
        assert!(refused.contains("beginning with a letter"), "{refused}");
    }
    first.stop().await;
    bus.on("ships", note()).await.unwrap();
    assert_eq!(bus.subscribers().len(), 3);
}

/// A sink that takes several at once, and panics over one.
struct Wholesale {
    poison: &'static str,
    taken: Arc<Mutex<Vec<String>>>,
}

#[factum::async_trait]
impl factum::Sink for Wholesale {
    fn name(&self) -> &str {
        "wholesale"
    }
    fn query(&self) -> factum::Result<Query> {
        OrderEvent::query()
    }
    async fn accept(&self, records: &[RecordedEvent]) -> Result<(), Stuck> {
        assert!(records.iter().all(|record| record.stream != self.poison), "nobody takes {}", self.poison);
        self.taken.lock().unwrap().extend(records.iter().map(|record| record.stream.to_string()));
        Ok(())
    }
}

#[tokio::test]
async fn of_several_that_make_a_sink_panic_one_is_set_aside() {
    let factum = factum();
    for n in 1..=5 {
        place(&factum, &format!("order-{n}"), [n]).await;
    }
    let taken = Arc::default();
    let sink = Wholesale { poison: "order-3", taken: Arc::clone(&taken) };
    let processor = factum.sink(sink).attempts(1).start(Arc::new(MemoryReads::new())).await.unwrap();
    let to = factum.store().head().await.unwrap().token;
    settled(&processor, to).await;
    assert_eq!(keys(processor.parked()).await, ["3"]);
    let expected = ["order-1", "order-2", "order-4", "order-5"].map(str::to_owned);
    assert_eq!(*taken.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_sink_that_says_nonsense_is_stopped() {
    struct Liar;
    #[factum::async_trait]
    impl factum::Sink for Liar {
        fn name(&self) -> &str {
            "liar"
        }
        fn query(&self) -> factum::Result<Query> {
            OrderEvent::query()
        }
        async fn accept(&self, records: &[RecordedEvent]) -> Result<(), Stuck> {
            Err(Stuck { done: records.len(), trouble: Trouble::refused("the one after the last") })
        }
    }
    let factum = factum();
    place(&factum, "order-a", [1]).await;
    let processor = factum.sink(Liar).start(Arc::new(MemoryReads::new())).await.unwrap();
    until("it has stopped", || async {
        let state = processor.status().await.unwrap().partitions[0].state.clone();
        matches!(state, Some(factum::State::Stopped(why)) if why.to_string().contains("1 of 1 records are done"))
    })
    .await;
}

/// The flow of work and the distributed trace go from a request to what it leads to.
#[tokio::test]
async fn what_follows_is_in_the_same_flow_and_trace() {
    let factum = factum();
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = factum.traced(traceparent).correlated("request-1");
    request.decide(Place).await.unwrap();
    let events = factum.store().read(factum::Read::all()).await.unwrap().events;
    assert_eq!(events[0].metadata.traceparent().as_deref(), Some(traceparent));
    factum.caused_by(&events[0]).decide(Place).await.unwrap();
    let follows = factum.store().read(factum::Read::all()).await.unwrap().events[1].clone();
    let metadata = follows.metadata;
    assert_eq!(metadata.traceparent().as_deref(), Some(traceparent));
    assert_eq!(metadata.correlation_id().as_deref(), Some("request-1"));
    assert_eq!(metadata.causation_id(), Some(events[0].id.to_string()));
}

struct Place;

impl Decide for Place {
    type Models = ();
    type Error = std::convert::Infallible;
    fn models(&self) {}
    fn decide(&self, (): &()) -> Result<Writes, Self::Error> {
        Ok(Writes::to_stream("order-a", [OrderEvent::Placed { n: 1 }]))
    }
}
