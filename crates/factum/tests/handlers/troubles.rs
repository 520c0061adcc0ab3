//! What fails around a handler costs no event.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use factum::{Error, EventHandler, MemoryReads, State, Trouble, prelude::*};

use crate::support::*;

#[tokio::test]
async fn every_event_is_handled_in_order_and_a_restart_goes_on_where_it_was() {
    let (factum, reads, shipping) = (factum(), MemoryReads::new(), Shipping::default());
    place(&factum, "order-a", 1..=1500).await;
    let processor = factum.handle(shipping.clone(), reads.clone()).await.unwrap();
    let to = place(&factum, "order-a", 1501..=1600).await;
    processor.wait_for(to).await.unwrap();
    processor.stop().await;
    let to = place(&factum, "order-a", [1601]).await;
    assert_eq!(shipping.done.count(), 1600, "it has stopped");
    let processor = factum.handle(shipping.clone(), reads).await.unwrap();
    processor.wait_for(to).await.unwrap();
    assert_eq!(shipping.done.of("order-a"), (1..=1601).collect::<Vec<_>>());
    let status = processor.status().await.unwrap();
    assert_eq!((status.lag_events, status.partitions[0].dead_letters), (0, 0));
    let head = status.head;
    assert!(
        status.to_string().starts_with(&format!("at position {head} of {head}; partition 0: ")),
        "{status}"
    );
}

#[tokio::test]
async fn the_surroundings_are_waited_for_and_no_event_is_to_blame() {
    let (factum, shipping) = (factum(), Shipping::default());
    shipping.down.store(true, SeqCst);
    let to = place(&factum, "order-a", [1, 2]).await;
    let processor =
        factum.handler(shipping.clone()).attempts(1).start(Arc::new(MemoryReads::new())).await.unwrap();
    until("it has tried often", || async { shipping.calls.load(SeqCst) > 6 }).await;
    let status = processor.status().await.unwrap();
    let Some(State::Waiting(why)) = &status.partitions[0].state else { panic!("{status}") };
    assert!(why.to_string().contains("the carrier cannot be reached"), "{why}");
    assert!(keys(processor.parked()).await.is_empty());
    shipping.down.store(false, SeqCst);
    processor.wait_for(to).await.unwrap();
    assert_eq!(shipping.done.of("order-a"), [1, 2]);
}

#[tokio::test]
async fn begun_at_the_end_it_handles_what_comes_and_not_what_was() {
    let (factum, reads, shipping) = (factum(), Arc::new(MemoryReads::new()), Shipping::default());
    place(&factum, "order-a", [1, 2]).await;
    let start = || factum.handler(shipping.clone()).partitions(4).from_now().start(reads.clone());
    let processor = start().await.unwrap();
    // At once: no worker has looked at the log yet.
    let to = place(&factum, "order-a", [3]).await;
    processor.wait_for(to).await.unwrap();
    processor.stop().await;
    let to = place(&factum, "order-a", [4]).await;
    let processor = start().await.unwrap();
    processor.wait_for(to).await.unwrap();
    assert_eq!(shipping.done.of("order-a"), [3, 4], "its place is settled when it begins for the first time");
}

/// What keeps the order cannot be found for one event.
struct Keyed(Shipping);

#[factum::async_trait]
impl EventHandler for Keyed {
    const NAME: &'static str = "keyed";
    type Event = OrderEvent;
    fn key(&self, record: &factum::RecordedEvent) -> String {
        assert!(record.stream != "order-b", "order-b has no key");
        record.stream.as_str().to_owned()
    }
    async fn handle(&self, event: &Recorded<OrderEvent>) -> Result<(), Trouble> {
        self.0.handle(event).await
    }
}

#[tokio::test]
async fn a_panic_where_the_key_is_looked_for_holds_up_nobody() {
    let (factum, shipping) = (factum(), Shipping::poisoned_by([2]));
    for (stream, n) in [("order-a", 1), ("order-b", 2), ("order-b", 3), ("order-c", 4)] {
        place(&factum, stream, [n]).await;
    }
    let handler = factum.handler(Keyed(shipping.clone())).partitions(2).attempts(1);
    let processor = handler.start(Arc::new(MemoryReads::new())).await.unwrap();
    let to = factum.store().head().await.unwrap().token;
    settled(&processor, to).await;
    assert_eq!((shipping.done.count(), keys(processor.parked()).await), (2, vec!["b".into(), "b".into()]));
}

/// Who ends does not wait for a store that is away.
#[tokio::test(start_paused = true)]
async fn it_stops_while_the_store_of_its_checkpoint_cannot_be_reached() {
    let (factum, reads, shipping) = (factum(), Failing::new(), Shipping::default());
    let to = place(&factum, "order-a", [1]).await;
    let processor = factum.handle(shipping.clone(), reads.clone()).await.unwrap();
    processor.wait_for(to).await.unwrap();
    reads.away.store(true, SeqCst);
    let stopped = tokio::time::timeout(std::time::Duration::from_secs(60), processor.stop()).await;
    assert!(stopped.is_ok(), "it does not come to an end");
}

#[tokio::test]
async fn what_it_is_called_and_how_it_is_divided_is_checked_before_anything_is_handled() {
    struct Badly;
    #[factum::async_trait]
    impl EventHandler for Badly {
        const NAME: &'static str = "Bad Name";
        type Event = OrderEvent;
        async fn handle(&self, _: &Recorded<OrderEvent>) -> Result<(), Trouble> {
            Ok(())
        }
    }
    let (factum, reads) = (factum(), Arc::new(MemoryReads::new()));
    let refused = factum.handle(Badly, MemoryReads::new()).await.unwrap_err();
    assert!(refused.to_string().contains("beginning with a letter"), "{refused}");
    factum.handler(Shipping::default()).partitions(4).start(reads.clone()).await.unwrap().stop().await;
    let refused = factum.handler(Shipping::default()).partitions(8).start(reads).await.unwrap_err();
    assert!(refused.to_string().contains("8 are asked for, but its checkpoints are those of 4"), "{refused}");
    let refused = factum.handler(Shipping::default()).partitions(0).start(Arc::new(MemoryReads::new())).await;
    assert!(matches!(refused, Err(Error::InvalidInput { .. })));
}

/// Puts what it sees on a stream of its own, once.
struct Copies {
    factum: Factum,
}

#[derive(Default)]
struct Copy;

#[derive(Serialize)]
struct Note {
    n: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum CopyEvent {
    Noted { n: u64 },
}

impl Event for CopyEvent {
    const CATEGORY: &'static str = "copy";
}

impl Aggregate for Copy {
    type Event = CopyEvent;
    fn apply(&mut self, _: &CopyEvent) {}
}

impl Command<Copy> for Note {
    type Error = std::convert::Infallible;
    fn decide(&self, _: &Copy) -> Result<Vec<CopyEvent>, Self::Error> {
        Ok(vec![CopyEvent::Noted { n: self.n }])
    }
}

#[factum::async_trait]
impl EventHandler for Copies {
    const NAME: &'static str = "copies";
    type Event = OrderEvent;
    async fn handle(&self, event: &Recorded<OrderEvent>) -> Result<(), Trouble> {
        let (OrderEvent::Placed { n } | OrderEvent::Paid { n }) = event.event;
        let factum = self.factum.caused_by(&event.record);
        factum.identified(event.record.id).execute(&Copy::id(event.record.stream.id()), Note { n }).await?;
        Ok(())
    }
}

/// Each commit of the checkpoint fails in turn, before or after it has taken effect, and the worker is dropped at any moment: what is
/// done under the event's id is done once.
#[tokio::test]
async fn an_effect_under_the_events_id_is_there_once_whatever_fails() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..100 {
        let (factum, reads) = (factum(), Failing::new());
        let mut numbers = 0;
        for _ in 0..20 {
            place(&factum, &format!("order-{}", random.u32(0..3)), [numbers, numbers + 1]).await;
            numbers += 2;
        }
        loop {
            *reads.at.lock().unwrap() =
                Some((reads.commits.load(SeqCst) + random.usize(0..4), random.bool()));
            let copies = Copies { factum: factum.clone() };
            // What may pass also fails a start.
            let Ok(processor) = factum.handle(copies, reads.clone()).await else { continue };
            let to = factum.store().head().await.unwrap().token;
            let patience = std::time::Duration::from_micros(random.u64(0..20_000));
            match processor.wait_for_within(to, patience).await {
                Ok(()) => break,
                // Dropped, as by a crash: nothing is finished.
                Err(Error::Timeout { .. }) => drop(processor),
                Err(error) => panic!("round {round}: {error}"),
            }
        }
        let copies = factum::Read::query(CopyEvent::query().unwrap());
        let copies = factum.store().read(copies).await.unwrap().events;
        let copies = Recorded::<CopyEvent>::decode_all(copies).unwrap();
        let noted: Vec<_> = copies
            .iter()
            .map(|copy| {
                let CopyEvent::Noted { n } = copy.event;
                n
            })
            .collect();
        let once: BTreeSet<_> = noted.iter().copied().collect();
        assert_eq!((noted.len(), once.len()), (40, 40), "round {round}, seed {seed}");
        for stream in 0..3 {
            let of: Vec<_> = copies.iter().filter(|c| c.record.stream.id() == stream.to_string()).collect();
            let of: Vec<_> = of
                .iter()
                .map(|copy| {
                    let CopyEvent::Noted { n } = copy.event;
                    n
                })
                .collect();
            assert!(of.is_sorted(), "round {round}, seed {seed}: {of:?}");
        }
    }
}
