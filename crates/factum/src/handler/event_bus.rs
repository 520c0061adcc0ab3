//! Events handed to whoever is interested, in this process: through the log, never past it.

use std::{
    collections::BTreeSet,
    future::Future,
    marker::PhantomData,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use super::{Act, EventHandler, Processing, Processor, ProcessorStatus, Sink, Stuck, Trouble, act_on};
use crate::{
    aggregate::{EventSet, Recorded},
    error::{Error, Result},
    event::RecordedEvent,
    handle::Factum,
    query::Query,
    reads::ReadStore,
};

/// Hands events to handlers by their type.
///
/// Nobody publishes to it: what is recorded is what is published, and so nothing is announced that did not happen, nor happens without
/// being announced. Each subscriber has a name and a checkpoint of its own; what happened while it was not there comes when it is
/// there again, and what it cannot handle is set aside for it alone. The log is read once for all of them.
///
/// ```
/// # use factum::{MemoryReads, MemoryStore, prelude::*};
/// # #[derive(Clone, Debug, Serialize, Deserialize)] enum OrderEvent { Placed { cents: i64 } }
/// # impl Event for OrderEvent { const CATEGORY: &'static str = "order"; }
/// # async fn example(factum: Factum) -> factum::Result<()> {
/// let bus = factum.event_bus(MemoryReads::new());
/// bus.on("log_orders", |order: Recorded<OrderEvent>| async move {
///     println!("{:?}", order.event);
///     Ok(())
/// })
/// .await?;
/// # bus.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct EventBus {
    factum: Factum,
    reads: Arc<dyn ReadStore>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    subscribers: Vec<Processor>,
    /// Names of those that are about to begin.
    beginning: BTreeSet<String>,
}

impl Factum {
    /// A bus of events, with the checkpoints of its subscribers in `reads`.
    pub fn event_bus(&self, reads: impl ReadStore) -> EventBus {
        let factum = self.on_road(self.road());
        EventBus { factum, reads: Arc::new(reads), known: Mutex::default() }
    }
}

impl EventBus {
    /// Hands this handler the events that it asks for, from now until the bus stops.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if a subscriber of this bus has that name already, and those of [`Processing::start`].
    pub async fn subscribe<H: EventHandler>(&self, handler: H) -> Result<Processor> {
        self.begin(self.factum.handler(handler)).await
    }

    /// Hands this function the events of a type, under the name of the subscriber.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if a subscriber of this bus has that name already, and those of [`Processing::start`].
    pub async fn on<E, F, Done>(&self, name: &str, handle: F) -> Result<Processor>
    where
        E: EventSet + Clone,
        F: Fn(Recorded<E>) -> Done + Send + Sync + 'static,
        Done: Future<Output = Result<(), Trouble>> + Send + 'static,
    {
        let of = PhantomData::<fn(E)>;
        self.begin(self.factum.sink(Function { name: name.to_owned(), handle, of })).await
    }

    async fn begin(&self, processing: Processing) -> Result<Processor> {
        let name = Beginning::of(self, processing.name())?;
        let processor = processing.start(self.reads.clone()).await?;
        self.known().subscribers.push(processor.clone());
        drop(name);
        Ok(processor)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing under this lock panics half-way.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The subscribers of this bus, in this process.
    pub fn subscribers(&self) -> Vec<Processor> {
        self.known().subscribers.clone()
    }

    /// How each subscriber is.
    ///
    /// # Errors
    /// Failures of the stores.
    pub async fn status(&self) -> Result<Vec<(String, ProcessorStatus)>> {
        let mut all = Vec::new();
        for subscriber in self.subscribers() {
            all.push((subscriber.name().to_owned(), subscriber.status().await?));
        }
        Ok(all)
    }

    /// Stops all subscribers after what they have in hand, and waits for that.
    pub async fn stop(&self) {
        for subscriber in self.subscribers() {
            subscriber.stop().await;
        }
    }
}

/// A name that is taken, until its subscriber is there or could not begin.
struct Beginning<'a> {
    bus: &'a EventBus,
    name: String,
}

impl<'a> Beginning<'a> {
    fn of(bus: &'a EventBus, name: &str) -> Result<Self> {
        let mut known = bus.known();
        // Who was stopped may begin again.
        known.subscribers.retain(|subscriber| !subscriber.is_over());
        let is_taken = known.subscribers.iter().any(|subscriber| subscriber.name() == name);
        if is_taken || !known.beginning.insert(name.to_owned()) {
            let why = "this bus has a subscriber of that name already, and they would share the events; give each a name of its own";
            return Err(Error::invalid(format!("the subscriber's name `{name}`"), why));
        }
        Ok(Self { bus, name: name.to_owned() })
    }
}

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        self.bus.known().beginning.remove(&self.name);
    }
}

/// A function as a subscriber.
struct Function<E, F> {
    name: String,
    handle: F,
    of: PhantomData<fn(E)>,
}

#[async_trait]
impl<E, F, Done> Act<E> for Function<E, F>
where
    E: EventSet + Clone,
    F: Fn(Recorded<E>) -> Done + Send + Sync + 'static,
    Done: Future<Output = Result<(), Trouble>> + Send + 'static,
{
    async fn act(&self, event: &Recorded<E>) -> Result<(), Trouble> {
        let event = Recorded { event: event.event.clone(), record: event.record.clone() };
        (self.handle)(event).await
    }
}

#[async_trait]
impl<E, F, Done> Sink for Function<E, F>
where
    E: EventSet + Clone,
    F: Fn(Recorded<E>) -> Done + Send + Sync + 'static,
    Done: Future<Output = Result<(), Trouble>> + Send + 'static,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn query(&self) -> Result<Query> {
        E::query()
    }

    async fn accept(&self, records: &[RecordedEvent]) -> Result<(), Stuck> {
        act_on(self, records).await
    }
}
