//! Process managers: what follows from what happens, over several things and over time.

mod effect;
mod instance;
mod manager;
mod sinks;
mod stored;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]
mod tests;

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

pub use self::effect::{Effect, Input, Message, Timer};
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

/// Decides what follows from what happens: the dual of an aggregate, which decides what happens because of a command.
#[async_trait]
pub trait ProcessManager: Send + Sync + 'static {
    /// Its name, and the category of the streams of its instances: a word of a-z, 0-9 and `_`, of up to 33 characters.
    const NAME: &'static str;
    /// What it reacts to: one [`Event`](crate::Event), or several in an enum of them.
    type Event: EventSet;
    /// What an instance knows.
    type State: Default + Send + Sync + 'static;
    /// The commands that it gives: an enum of them. They are recorded as JSON before they are given.
    type Command: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The events that it hears: those of the event's category or categories.
    ///
    /// # Errors
    /// Those of [`Query`]'s constructors.
    fn query(&self) -> Result<Query> {
        Self::Event::query()
    }

    /// The instance that an event is for: an order's id. `None`: it is for none.
    fn instance(&self, event: &Recorded<Self::Event>) -> Option<String>;

    /// What an input does to the state. Pure.
    fn evolve(&self, state: &mut Self::State, input: &Input<Self::Event, Self::Command>);

    /// What is to be done because of an input, given the state that it has led to. Pure: what is asked of it is recorded first, and
    /// done then. It is asked once for each input, and never again for what was heard before.
    fn react(
        &self,
        state: &Self::State,
        input: &Input<Self::Event, Self::Command>,
    ) -> Vec<Effect<Self::Command>>;

    /// Gives a command.
    ///
    /// # Errors
    /// What kept it from it.
    async fn perform(&self, command: Self::Command, factum: Identified<Factum>) -> Result<(), Trouble>;
}
