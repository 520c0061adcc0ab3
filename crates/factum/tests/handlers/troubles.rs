//! What fails around a handler costs no event.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use factum::{
    Append, Error, EventHandler, EventId, ExpectedRevision, MemoryReads, NewEvent, Outcome, Position, State,
    StreamName, Trouble,
    error::{Actual, Conflict, Corrupt, IdProblem, Limit, LogRewound},
    handler::Order,
    prelude::*,
};

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

/// Its own append conflicts each time for an order that was copied by somebody else.
struct Conflicting {
    factum: Factum,
    tries: Arc<AtomicUsize>,
}

#[factum::async_trait]
impl EventHandler for Conflicting {
    const NAME: &'static str = "conflicting";
    type Event = OrderEvent;
    async fn handle(&self, event: &Recorded<OrderEvent>) -> Result<(), Trouble> {
        self.tries.fetch_add(1, SeqCst);
        let copy = StreamName::new(format!("copy-{}", event.record.stream.id())).unwrap();
        let first = Append::to(copy.clone(), [NewEvent::json("Noted", &0).unwrap()]);
        self.factum.store().append(first.expect(copy, ExpectedRevision::NoStream)).await?;
        Ok(())
    }
}

#[tokio::test]
async fn one_whose_own_append_conflicts_each_time_is_parked_and_holds_up_nobody_else() {
    let (factum, tries) = (factum(), Arc::new(AtomicUsize::new(0)));
    let taken = Append::to(StreamName::new("copy-a").unwrap(), [NewEvent::json("Noted", &0).unwrap()]);
    factum.store().append(taken).await.unwrap();
    place(&factum, "order-a", [1]).await;
    let to = place(&factum, "order-b", [2]).await;
    let handler = factum.handler(Conflicting { factum: factum.clone(), tries: tries.clone() });
    let processor = handler.attempts(3).start(Arc::new(MemoryReads::new())).await.unwrap();
    settled(&processor, to).await;
    let letters = processor.parked().list().await.unwrap();
    assert_eq!((letters.len(), letters[0].attempts, tries.load(SeqCst)), (1, 3, 4), "{letters:?}");
    let why = letters[0].to_string();
    assert!(why.contains("`copy-a` was expected not to exist, but it is at revision 0"), "{why}");
    let copied = factum.store().read(factum::Read::stream(StreamName::new("copy-b").unwrap())).await.unwrap();
    assert_eq!(copied.events.len(), 1);
}

#[test]
fn what_becomes_of_an_event_with_each_error_of_a_store() {
    let stream = || StreamName::new("order-a").unwrap();
    let log = factum::LogIdentity { log_id: uuid::Uuid::nil(), epoch: 1 };
    let guard = factum::Guard::Stream { stream: stream(), expected: ExpectedRevision::NoStream };
    let waited_for = [
        Error::Unavailable { why: String::new(), outcome: Outcome::No },
        Error::Timeout { what: String::new(), after_ms: 1, outcome: Outcome::Unknown },
        Error::StorageFull { what: String::new() },
        Error::Poisoned { cause: String::new(), outcome: Outcome::No },
        Error::Fenced { what: String::new(), by: String::new() },
    ];
    let conflicts: [Error; 2] = [
        Conflict { guard, actual: Actual::NoStream }.into(),
        LogRewound { token: log.at(Position(7)), log, head: Position(3) }.into(),
    ];
    let refused = [
        Error::IdConflict { stream: stream(), id: EventId::new(), problem: IdProblem::OtherContent },
        Error::invalid("a test", "it must be"),
        Error::LimitExceeded { limit: Limit::EventBytes, allowed: 1, actual: 2 },
        Error::NotFound { what: "it".into() },
        Error::Tombstoned { stream: stream() },
    ];
    let damaged = Corrupt { segment: "x".into(), offset: 1, positions: None, problem: String::new() };
    assert!(matches!(Trouble::from(Error::from(damaged)), Trouble::Undecodable(_)));
    for error in waited_for {
        assert!(matches!(Trouble::from(error.clone()), Trouble::Infrastructure(_)), "{error:?}");
    }
    for error in conflicts {
        assert!(matches!(Trouble::from(error.clone()), Trouble::Conflict(_)), "{error:?}");
    }
    for error in refused {
        assert!(matches!(Trouble::from(error.clone()), Trouble::Refused(_)), "{error:?}");
    }
}

async fn is_waiting_at(processor: &factum::Processor, position: Position) -> bool {
    let state = processor.status().await.unwrap().partitions[0].state.clone();
    matches!(state, Some(State::Waiting(why)) if why.to_string().contains(&format!("at position {position} again")))
}

async fn position_of(factum: &Factum, stream: &str) -> Position {
    let stream = StreamName::new(stream.to_owned()).unwrap();
    factum.store().read(factum::Read::stream(stream)).await.unwrap().events[0].position
}

/// The order comes later in the log than what is waited with.
#[tokio::test(start_paused = true)]
async fn what_is_waited_with_for_ever_can_be_skipped_by_an_order() {
    for others in [0, 300] {
        let (factum, reads, shipping) = (factum(), Arc::new(MemoryReads::new()), Shipping::default());
        shipping.lost.lock().unwrap().insert(1);
        place(&factum, "order-a", [1, 2]).await;
        for n in 0..others {
            place(&factum, "order-b", [n + 10]).await;
        }
        let at = position_of(&factum, "order-a").await;
        let start = || factum.handler(shipping.clone()).start(reads.clone());
        let processor = start().await.unwrap();
        until("it waits", || is_waiting_at(&processor, at)).await;
        let parked = processor.parked().acting_as("ada");
        let unfounded = parked.skip(Position(1_000_000), "a typing error").await.unwrap_err().to_string();
        assert!(unfounded.contains("has set aside or waits before"), "{unfounded}");
        let asked = parked.skip(at, "the carrier is bankrupt").await.unwrap();
        processor.wait_for_within(asked, std::time::Duration::from_secs(60)).await.unwrap();
        assert_eq!(shipping.done.of("order-a"), [2]);
        assert_eq!(shipping.done.of("order-b").len() as u64, others);
        let again = parked.skip(at, "once more").await.unwrap_err();
        assert!(matches!(again, Error::NotFound { .. }), "{again:?}");
        let orders = factum::Read::stream(StreamName::new("$consumer-shipping").unwrap());
        let orders = factum.store().read(orders).await.unwrap().events;
        let orders = Recorded::<Order>::decode_all(orders).unwrap();
        assert_eq!(orders.len(), 1);
        assert_eq!(orders[0].record.metadata.actor().as_deref(), Some("ada"));
        let why = "the carrier is bankrupt".to_owned();
        assert_eq!(orders[0].event, Order::SkipAsked { position: at, why });
        processor.stop().await;
        start().await.unwrap().wait_for(place(&factum, "order-a", [3]).await).await.unwrap();
        assert_eq!(shipping.done.of("order-a"), [2, 3], "nor does a new one come to it");
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_among_what_is_parked_can_be_skipped_too() {
    let (factum, shipping) = (factum(), Shipping::poisoned_by([1, 2]));
    for (stream, n) in [("order-a", 1), ("order-b", 2), ("order-c", 3)] {
        place(&factum, stream, [n]).await;
    }
    let handler = factum.handler(shipping.clone()).attempts(1).parked_keys(1);
    let processor = handler.start(Arc::new(MemoryReads::new())).await.unwrap();
    until("it has stopped", || async {
        let state = processor.status().await.unwrap().partitions[0].state.clone();
        matches!(state, Some(State::Stopped(_)))
    })
    .await;
    let at = position_of(&factum, "order-b").await;
    let asked = processor.parked().skip(at, "there is no room").await.unwrap();
    until("it is skipped", || async { shipping.done.of("order-c") == [3] }).await;
    processor.wait_for(asked).await.unwrap();
    assert_eq!(keys(processor.parked()).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn waiting_goes_on_while_the_store_of_the_checkpoint_does_not_answer() {
    let (factum, reads, shipping) = (factum(), Failing::new(), Shipping::default());
    let processor = factum.handle(shipping.clone(), reads.clone()).await.unwrap();
    processor.wait_for(place(&factum, "order-a", [1]).await).await.unwrap();
    shipping.down.store(true, SeqCst);
    let to = place(&factum, "order-a", [2]).await;
    reads.untold.store(20, SeqCst);
    let waits = {
        let processor = processor.clone();
        tokio::spawn(async move { processor.wait_for(to).await })
    };
    until("it was not told often", || async { reads.untold.load(SeqCst) == 0 }).await;
    shipping.down.store(false, SeqCst);
    waits.await.unwrap().unwrap();
    // And it says how far it is, or why that is not known, when its time is over.
    shipping.down.store(true, SeqCst);
    let to = place(&factum, "order-a", [3]).await;
    reads.untold.store(usize::MAX, SeqCst);
    let late = processor.wait_for_within(to, std::time::Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(late, Error::Timeout { .. }) && late.to_string().contains("the cable is out"), "{late}");
}

/// A place is compared only with places of the same history, and what is to be done about another one is said.
#[tokio::test(start_paused = true)]
async fn a_checkpoint_of_another_log_stops_it_and_is_not_waited_for() {
    let (reads, [factum, other]) = (Arc::new(MemoryReads::new()), [factum(), factum()]);
    let start = |factum: &Factum| factum.handler(Shipping::default()).start(reads.clone());
    let processor = start(&factum).await.unwrap();
    processor.wait_for(place(&factum, "order-a", 1..=9).await).await.unwrap();
    processor.stop().await;
    let to = place(&other, "order-a", [1]).await;
    let processor = start(&other).await.unwrap();
    let advised = |error: Error| {
        assert!(matches!(error, Error::LogRewound(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("is of log ") && text.contains("give a handler another name"), "{text}");
    };
    advised(processor.wait_for(to).await.unwrap_err());
    processor.stop().await;
    // As if another process kept it: only the checkpoint is seen.
    advised(processor.wait_for(to).await.unwrap_err());
}

#[test]
fn a_place_of_another_history_says_what_is_to_be_done() {
    let log = factum::LogIdentity { log_id: uuid::Uuid::nil(), epoch: 2 };
    let of_epoch = |epoch| factum::LogIdentity { epoch, ..log }.at(Position(7));
    let text = |token| LogRewound { token, log, head: Position(3) }.to_string();
    let (older, lost) = (text(of_epoch(1)), text(of_epoch(2)));
    assert!(older.starts_with("position 7 is of epoch 1 of the log, which is now in epoch 2"), "{older}");
    assert!(older.contains("`factum continue-epoch` lets both go on"), "{older}");
    assert!(lost.starts_with("position 7 is past the log's head at 3"), "{lost}");
    for text in [older, lost] {
        assert!(
            text.contains("rebuild a read model") && text.contains("give a handler another name"),
            "{text}"
        );
    }
}
