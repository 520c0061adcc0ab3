//! Process managers: what follows from what happens, over several things and over time.
//!
//! An order is placed; stock is reserved, then the customer pays, or a day passes and the stock is released. Each of these is a
//! command to something else, and each can be refused. A [`ProcessManager`] says what follows from what, in two pure functions: what
//! an input does to its state, and which [`Effect`]s it leads to. Effects are data: commands to give, timers to set and to stop, events
//! to publish, and to undo what was done.
//!
//! ```
//! use std::time::Duration;
//! use factum::{Identified, MemoryReads, MemoryStore, Trouble, prelude::*};
//!
//! # #[derive(Serialize, Deserialize)] enum OrderEvent { Placed, Paid, Cancelled }
//! # impl Event for OrderEvent { const CATEGORY: &'static str = "order"; }
//! # #[derive(Serialize, Deserialize, Debug, PartialEq)] enum StockEvent { Reserved, Released }
//! # impl Event for StockEvent { const CATEGORY: &'static str = "stock"; }
//! # #[derive(Default)] struct Order; impl Aggregate for Order { type Event = OrderEvent; fn apply(&mut self, _: &OrderEvent) {} }
//! # #[derive(Default)] struct Stock; impl Aggregate for Stock { type Event = StockEvent; fn apply(&mut self, _: &StockEvent) {} }
//! # macro_rules! command { ($name:ident, $of:ident, $event:expr) => {
//! #     #[derive(Serialize)] struct $name; impl Command<$of> for $name { type Error = std::convert::Infallible;
//! #     fn decide(&self, _: &$of) -> Result<Vec<<$of as Aggregate>::Event>, Self::Error> { Ok(vec![$event]) } } } }
//! # command!(Place, Order, OrderEvent::Placed); command!(Pay, Order, OrderEvent::Paid); command!(CancelOrder, Order, OrderEvent::Cancelled);
//! # command!(ReserveStock, Stock, StockEvent::Reserved); command!(ReleaseStock, Stock, StockEvent::Released);
//! struct Fulfilment;                                          // one instance for each order
//!
//! #[derive(Serialize, Deserialize)]
//! enum Step { Reserve { order: String }, Release { order: String }, Cancel { order: String } }
//!
//! #[derive(Default)]
//! struct Progress { order: String, failures: u32 }            // what an instance knows
//!
//! #[factum::async_trait]
//! impl ProcessManager for Fulfilment {
//!     const NAME: &'static str = "fulfilment";
//!     type Event = OrderEvent;                                // or a set of several: `#[derive(EventSet)]`
//!     type State = Progress;
//!     type Command = Step;
//!
//!     fn instance(&self, event: &Recorded<OrderEvent>) -> Option<String> {
//!         Some(event.record.stream.id().to_owned())
//!     }
//!
//!     fn evolve(&self, progress: &mut Progress, input: &Input<OrderEvent, Step>) {
//!         match input {
//!             Input::Event(event) => progress.order = event.record.stream.id().to_owned(),
//!             Input::Fired { .. } | Input::Refused { .. } => progress.failures += 1,
//!         }
//!     }
//!
//!     fn react(&self, progress: &Progress, input: &Input<OrderEvent, Step>) -> Vec<Effect<Step>> {
//!         let order = || progress.order.clone();
//!         match input {
//!             Input::Event(Recorded { event: OrderEvent::Placed, .. }) => vec![
//!                 Effect::send(Step::Reserve { order: order() }).undone_by(Step::Release { order: order() }),
//!                 Effect::schedule("payment", input.at().plus(Duration::from_secs(86_400))),
//!             ],
//!             // The order has come to its end, and so does the instance. That is the end of its timer, too.
//!             Input::Event(Recorded { event: OrderEvent::Paid | OrderEvent::Cancelled, .. }) => vec![Effect::Complete],
//!             // Nobody has paid in time, or there is no stock.
//!             Input::Fired { .. } | Input::Refused { .. } if progress.failures == 1 => {
//!                 vec![Effect::Compensate, Effect::send(Step::Cancel { order: order() })]
//!             }
//!             // What else is refused until the order is cancelled changes nothing.
//!             Input::Fired { .. } | Input::Refused { .. } => vec![],
//!         }
//!     }
//!
//!     async fn perform(&self, step: Step, factum: Identified<Factum>) -> Result<(), Trouble> {
//!         match step {
//!             Step::Reserve { order } => factum.execute(&Stock::id(order), ReserveStock).await?,
//!             Step::Release { order } => factum.execute(&Stock::id(order), ReleaseStock).await?,
//!             Step::Cancel { order } => factum.execute(&Order::id(order), CancelOrder).await?,
//!         };
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let factum = Factum::new(MemoryStore::new());
//! let fulfilment = factum.process(Fulfilment, MemoryReads::new()).await?;      // or Sqlite, or PostgreSQL
//! let done = factum.execute(&Order::id("17"), Place).await?;
//! fulfilment.wait_for(&done).await?;
//!
//! let instance = fulfilment.instance("17").await?.unwrap_or_else(|| panic!("it has heard of the order"));
//! assert_eq!(instance.timers[0].id, "payment");
//! assert_eq!(factum.history(&Stock::id("17")).await?[0].event, StockEvent::Reserved);
//! # Ok(()) }
//! ```
//!
//! # What can be relied on
//! - **An input is heard once, in the order of the log.** What follows from it is recorded in the instance's own stream,
//!   `fulfilment-17`, before anything of it is done. Hearing it again, after a crash or a lost checkpoint, finds that and does nothing.
//! - **An effect happens once.** A command is given under an id that is the same each time ([`Factum::identified`]); what has been
//!   performed is recorded in the stream, too. What is done elsewhere than in the log (a payment provider) is done at least once, with
//!   that id to tell repeats: [`Identified::id`].
//! - **A refusal is an input**, and no failure: the command's own error, or [`Trouble::Refused`] from `perform`. What
//!   was told to be refused has not happened, and never will. Where a store or a provider cannot be reached, the command is given
//!   again for as long as it takes.
//! - **Timers are durable**: absolute moments, which survive restarts; one that is overdue then fires. It is heard in its turn,
//!   after whatever was recorded before it, and not at all if it was stopped by then.
//! - **Compensation** gives the commands that undo what was sent and not refused, the last of it first, and each once. A reaction that an
//!   operator has skipped may have been performed in part, and nobody knows how far: all of it is undone, and no more of it done
//!   from then on. So what undoes must bear that there is nothing to undo. What is refused of it is an input like any other.
//! - **An instance lives until [`Effect::Complete`]**, which belongs into the reaction to the last event of what it is for, and not beside
//!   the last command: until then it hears what is refused. A refusal that comes later is set aside, for an operator to see.
//! - **One instance that fails holds up no other.** What cannot be heard or performed (a panic, an event that cannot be read, a chain of
//!   causes that goes round in circles) is set aside, and with it all that is for this instance, its timers too: see
//!   [`Process::inbox`] and [`Process::outbox`].
//!
//! Personal data in an event that is heard is copied with it into the instance's stream; seal it, or keep it out.

mod effect;
mod instance;
mod manager;
mod rehearsal;
mod running;
mod sinks;
mod stored;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]
mod tests;

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

pub(crate) use self::rehearsal::Rehearsal;
pub use self::{
    effect::{Effect, Input, Message, Timer},
    running::{DEPTH, Instance, Managing, Process, ProcessStatus},
};
use crate::{
    aggregate::{EventSet, Recorded},
    error::Result,
    handle::Factum,
    handler::Trouble,
    idempotency::Identified,
    query::Query,
};

/// What the ids of reactions and effects are derived within. It never changes: they are recorded.
const NAMESPACE: Uuid = Uuid::from_u128(0x5b0c_63f4_7a0e_4d55_8f2e_b1d6_0d94_3ac7);

/// Decides what follows from what happens: the dual of an aggregate, which decides what happens because of a command. See the
/// [module](self).
#[async_trait]
pub trait ProcessManager: Send + Sync + 'static {
    /// Its name, and the category of the streams of its instances: a word of a-z, 0-9 and `_`, of up to 36 characters. No events of others
    /// may be in that category.
    const NAME: &'static str;
    /// What it hears of: one [`Event`](crate::Event), or several in an enum of them.
    type Event: EventSet;
    /// What an instance knows. It is made of its inputs each time that it is needed, and not stored.
    type State: Default + Send + Sync + 'static;
    /// The commands that it gives, an enum of them. They are recorded as JSON before they are given: what is read back must be what
    /// was written, also by next year's program.
    type Command: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The events that it hears of: those of the event's category or categories.
    ///
    /// # Errors
    /// Those of [`Query`]'s constructors.
    fn query(&self) -> Result<Query> {
        Self::Event::query()
    }

    /// The instance that an event is for: the id of an order. The first event for an instance begins it; after its
    /// [end](Effect::Complete) it hears nothing any more. `None`: the event is for nobody.
    fn instance(&self, event: &Recorded<Self::Event>) -> Option<String>;

    /// What an input does to the state. Pure.
    fn evolve(&self, state: &mut Self::State, input: &Input<Self::Event, Self::Command>);

    /// What is to be done because of an input, given the state that it has led to. Pure: it is asked once for each input, what it
    /// says is recorded, and only then done. It is not asked again for what was heard before, whatever the code says by then.
    ///
    /// Effects happen in this order, each whatever became of those before it. What depends on a command's success belongs into the
    /// reaction to the event that it leads to.
    fn react(
        &self,
        state: &Self::State,
        input: &Input<Self::Event, Self::Command>,
    ) -> Vec<Effect<Self::Command>>;

    /// Gives a command: `factum.execute(&Order::id(order), Ship).await?`. The handle knows the cause and the flow of work, and does
    /// one command once, however often this is called.
    ///
    /// # Errors
    /// What kept it from it. [`Trouble::Refused`] becomes an [input](Input::Refused) of the instance. For
    /// [`Trouble::Infrastructure`] it is tried again for as long as it takes, while the other instances of its partition wait, too. For
    /// [`Trouble::Conflict`] a few times more; then, as at once for [`Trouble::Undecodable`], the instance is parked. A command's refusal
    /// and an error of the store become one of these with `?`: what may pass is infrastructure, a conflict stays one, the rest is a refusal.
    async fn perform(&self, command: Self::Command, factum: Identified<Factum>) -> Result<(), Trouble>;
}
