//! What must hold of a process manager, whatever goes wrong around it.

mod between;
mod compensation;
mod crashes;
mod runtime;
mod shop;
mod storms;
mod trouble;

use std::{sync::Arc, time::Duration};

use self::shop::{Fulfilment, Shop, slow};
use super::{
    ProcessManager,
    manager::Manager,
    sinks::{Inbox, Outbox},
};
use crate::{
    aggregate::Aggregate,
    error::Result,
    event::RecordedEvent,
    handle::Factum,
    handler::{Sink, Stuck, Trouble},
    memory::MemoryStore,
    position::Token,
    read::Read,
    store::EventStore,
    time::{ManualClock, Timestamp},
    timers::{Due, Fire},
};

/// A consumer without a runtime: it keeps its place in memory, and stays there when something fails.
pub(super) struct Driven<S> {
    sink: S,
    at: Option<Token>,
}

impl<S: Sink> Driven<S> {
    pub(super) fn new(sink: S) -> Self {
        Self { sink, at: None }
    }

    /// Takes the next records, if there are some.
    async fn step(&mut self, store: &dyn EventStore, limit: usize) -> Result<bool, Stuck> {
        let failed = |error: crate::Error| Stuck { done: 0, trouble: error.into() };
        let mut read = Read::query(self.sink.query().map_err(failed)?).limit(limit);
        if let Some(at) = self.at {
            read = read.beyond(at);
        }
        let page = store.read(read).await.map_err(failed)?;
        if page.events.is_empty() {
            return Ok(false);
        }
        self.sink.accept(&page.events).await?;
        self.at = Some(page.token);
        Ok(true)
    }
}

/// A process manager whose consumers are driven by hand.
pub(super) struct Hands<P: ProcessManager> {
    pub(super) manager: Arc<Manager<P>>,
    pub(super) inbox: Driven<Inbox<P>>,
    pub(super) outbox: Driven<Outbox<P>>,
}

impl<P: ProcessManager> Hands<P> {
    pub(super) fn new(process: P, factum: &Factum, depth: u64) -> Self {
        Self::of(Arc::new(Manager { process, factum: factum.clone(), depth }))
    }

    fn of(manager: Arc<Manager<P>>) -> Self {
        let inbox = Driven::new(Inbox { manager: manager.clone() });
        let outbox = Driven::new(Outbox { name: format!("{}_out", P::NAME), manager: manager.clone() });
        Self { manager, inbox, outbox }
    }

    fn store(&self) -> &dyn EventStore {
        &**self.manager.factum.store()
    }

    /// Goes on until there is nothing to do.
    pub(super) async fn settle(&mut self, limit: usize) -> Result<(), Stuck> {
        let store = self.manager.factum.store().clone();
        loop {
            let heard = self.inbox.step(&*store, limit).await?;
            let performed = self.outbox.step(&*store, limit).await?;
            if !heard && !performed {
                return Ok(());
            }
        }
    }

    /// Sets off the timers of an instance that are due.
    async fn fire(&self, instance: &str) -> Result<(), Trouble> {
        let stream = super::manager::stream_of(P::NAME, instance)?;
        let timers: Vec<_> = self.manager.load(&stream).await?.waiting().cloned().collect();
        for timer in timers.into_iter().filter(|timer| timer.at <= self.manager.factum.now()) {
            let due = Due { stream: stream.clone(), id: timer.id, at: timer.at };
            self.manager.fire(&due).await?;
        }
        Ok(())
    }
}

pub(super) async fn all(store: &dyn EventStore) -> Vec<RecordedEvent> {
    crate::EventStoreExt::read_to_end(store, Read::all()).await.unwrap()
}

fn world() -> (Factum, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(Timestamp(1_000_000_000_000)));
    let store = MemoryStore::with(crate::Limits::default(), clock.clone());
    (Factum::new(store).with_clock(clock.clone()), clock)
}

async fn kinds(factum: &Factum, category: &str) -> Vec<String> {
    let of = |event: &RecordedEvent| event.stream.category() == category;
    let events = all(&**factum.store()).await;
    events.iter().filter(|event| of(event)).map(|event| event.event_type.as_str().to_owned()).collect()
}

#[tokio::test]
async fn an_order_goes_its_way() {
    let (factum, _) = world();
    let mut hands = Hands::new(Fulfilment::default(), &factum, 100);
    let done = factum.execute(&Shop::id("1"), shop::Place).await.unwrap();
    hands.settle(100).await.unwrap();
    assert_eq!(kinds(&factum, "shop").await, ["Placed", "Reserved", "Charged", "Shipped"]);
    assert_eq!(kinds(&factum, "parcel").await, ["Announced"]);
    let events = all(hands.store()).await;
    for event in &events {
        assert_eq!(event.metadata.correlation_id().unwrap(), done.correlation_id, "one flow");
    }
    let depths: Vec<_> = events.iter().map(|event| event.metadata.causation_depth()).collect();
    assert_eq!(depths.iter().max(), Some(&8), "{depths:?}");
}

#[tokio::test]
async fn what_was_done_is_undone_in_reverse() {
    let (factum, _) = world();
    let mut hands = Hands::new(Fulfilment::default(), &factum, 100);
    factum.execute(&Shop::id("broken-1"), shop::Place).await.unwrap();
    hands.settle(100).await.unwrap();
    let shop = kinds(&factum, "shop").await;
    assert_eq!(shop, ["Placed", "Reserved", "Charged", "Refunded", "Released", "Cancelled"]);
}

#[tokio::test]
async fn a_deadline_passes_and_one_that_was_stopped_does_not() {
    let (factum, clock) = world();
    let mut hands = Hands::new(slow(), &factum, 100);
    for order in ["1", "2"] {
        factum.execute(&Shop::id(order), shop::Place).await.unwrap();
    }
    hands.settle(100).await.unwrap();
    factum.execute(&Shop::id("2"), shop::Pay).await.unwrap();
    clock.advance(Duration::from_secs(3600));
    // The payment is in the log before the timer fires, though nobody has heard of it yet.
    for order in ["1", "2"] {
        hands.fire(order).await.unwrap();
    }
    hands.settle(100).await.unwrap();
    let events = all(hands.store()).await;
    let of = |order: &str| {
        let own = events.iter().filter(|e| e.stream.as_str() == format!("shop-{order}"));
        own.map(|e| e.event_type.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of("1"), ["Placed", "Reserved", "Released", "Cancelled"]);
    assert_eq!(of("2"), ["Placed", "Reserved", "Charged", "Shipped"]);
}

#[tokio::test]
async fn a_refusal_that_nobody_is_left_to_hear_is_not_lost() {
    let (factum, _) = world();
    let mut hands = Hands::new(Fulfilment::default(), &factum, 100);
    factum.execute(&Shop::id("broken-for-good"), shop::Place).await.unwrap();
    let stuck = hands.settle(100).await.unwrap_err();
    let Trouble::Refused(why) = &stuck.trouble else { panic!("{stuck:?}") };
    assert!(why.contains("it cannot be cancelled") && why.contains("nobody is left"), "{why}");
    assert_eq!(kinds(&factum, "shop").await, ["Placed", "Reserved", "Charged", "Refunded", "Released"]);
}
