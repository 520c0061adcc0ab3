//! What acts on events: handlers, the sinks under them, and what can go wrong with an event.
//!
//! A handler does something for each event: it sends a mail, gives a command, publishes a message. The runtime sees to it that
//! this is done at least once for every event, in the order of a key, by one worker at a time; that a failure of the surroundings
//! is waited out and never costs an event; and that an event which cannot be handled is set aside with all that follow it under
//! its key, while the others go on. See [`Factum::handler`](crate::Factum::handler).

mod event_bus;
mod letters;
mod orders;
mod partition;
mod partitions;
mod processor;
mod supervisor;

use std::{fmt, sync::Arc};

use async_trait::async_trait;

use crate::{
    aggregate::{EventSet, Recorded},
    batch::Decoded,
    error::{Error, Result},
    event::RecordedEvent,
    handle::Failure,
    query::Query,
    worker::unharmed,
};

pub(crate) use self::letters::{Bounds, Parking, stored as stored_letters};
pub(crate) use self::processor::{is_of_this_process, new_holder};
pub use self::{
    event_bus::EventBus,
    letters::{DeadLetter, Failing, Standing},
    orders::{Order, Parked},
    partitions::SLICES,
    processor::{ATTEMPTS, LEASE, PARKED_KEYS, PartitionStatus, Processing, Processor, ProcessorStatus},
};

/// Does something for each event.
///
/// It is called at least once for every event that its [`query`](EventHandler::query) selects: again after a failure, and after
/// a crash between what it did and the checkpoint. What must not be done twice is done under the event's id, which is the same each
/// time: `factum.identified(event.record.id)`, a message id, an `Idempotency-Key`.
///
/// ```
/// # use factum::{EventHandler, Trouble, prelude::*};
/// # #[derive(Serialize, Deserialize)] enum OrderEvent { Placed { email: String }, Shipped }
/// # impl Event for OrderEvent { const CATEGORY: &'static str = "order"; }
/// # struct Smtp; impl Smtp { async fn send(&self, _to: &str, _id: String) -> std::io::Result<()> { Ok(()) } }
/// struct Confirmations { smtp: Smtp }
///
/// #[factum::async_trait]
/// impl EventHandler for Confirmations {
///     const NAME: &'static str = "confirmations";
///     type Event = OrderEvent;
///
///     async fn handle(&self, event: &Recorded<OrderEvent>) -> Result<(), Trouble> {
///         if let OrderEvent::Placed { email } = &event.event {
///             // It cannot be reached: that is nobody's fault, and is tried again until it can.
///             self.smtp.send(email, event.record.id.to_string()).await.map_err(Trouble::infrastructure)?;
///         }
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait EventHandler: Send + Sync + 'static {
    /// The consumer's name, under which its checkpoint is kept: a word of a-z, 0-9 and `_`.
    const NAME: &'static str;
    /// What it acts on: one [`Event`](crate::Event), or several in an enum of them.
    type Event: EventSet;

    /// The events that it acts on: those of the event's category or categories.
    ///
    /// # Errors
    /// Those of [`Query`]'s constructors.
    fn query(&self) -> Result<Query> {
        Self::Event::query()
    }

    /// What keeps its order: events of one key are handled one after the other, and what cannot be handled holds up its key and no
    /// other. The stream, unless said otherwise.
    fn key(&self, record: &RecordedEvent) -> String {
        record.stream.as_str().to_owned()
    }

    /// Acts on an event.
    ///
    /// # Errors
    /// What kept it from it: [`Trouble`] says whether the event is at fault.
    async fn handle(&self, event: &Recorded<Self::Event>) -> Result<(), Trouble>;
}

/// Where records go to: what the runtime drives. A relay to a broker is one; an [`EventHandler`] becomes one.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// The consumer's name: a word of a-z, 0-9 and `_`, of up to 40 characters.
    fn name(&self) -> &str;

    /// The records that it takes.
    ///
    /// # Errors
    /// Those of [`Query`]'s constructors.
    fn query(&self) -> Result<Query>;

    /// What keeps its order, as [`EventHandler::key`].
    fn key(&self, record: &RecordedEvent) -> String {
        record.stream.as_str().to_owned()
    }

    /// Takes records, in this order, at least one of them. It returns when all have been dealt with for good: what it has only
    /// begun is lost if the process ends now.
    ///
    /// # Errors
    /// [`Stuck`] with how many have been dealt with, and what is the matter with the one after these. Others after it may have been
    /// begun; they come again.
    async fn accept(&self, records: &[RecordedEvent]) -> Result<(), Stuck>;
}

/// Why a sink has not taken all that it was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Stuck {
    /// How many records, from the first, have been dealt with.
    pub done: usize,
    /// What is the matter with the one that comes next.
    pub trouble: Trouble,
}

/// Why an event was not handled.
///
/// An [`Error`] of a store becomes one with `?`: a store that is away, full, fenced or takes no more appends is
/// [`Infrastructure`](Trouble::Infrastructure), a conflict is [`Conflict`](Trouble::Conflict) (one that conflicts each time is parked), and
/// the rest [`Refused`](Trouble::Refused).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The event cannot be read as what the handler asks for: it is set aside at once.
    #[error("it cannot be read: {0}")]
    Undecodable(String),
    /// The handler has refused it: it is tried a few times more, then set aside.
    #[error("it was refused: {0}")]
    Refused(String),
    /// Somebody else was quicker: another attempt reads anew and may do better. It is tried as one that was refused; a process manager does
    /// not hear of it as of a refusal.
    #[error("it could not be done: {0}")]
    Conflict(String),
    /// Something that the handler needs is not there, and no event is at fault: it is tried again for as long as it takes.
    #[error("{0}")]
    Infrastructure(String),
}

impl Trouble {
    /// The handler refuses the event, for this reason.
    pub fn refused(why: impl fmt::Display) -> Self {
        Self::Refused(why.to_string())
    }

    /// Something that the handler needs is not there.
    pub fn infrastructure(why: impl fmt::Display) -> Self {
        Self::Infrastructure(why.to_string())
    }

    /// Whether the surroundings are at fault, and not the event.
    pub fn is_infrastructure(&self) -> bool {
        matches!(self, Self::Infrastructure(_))
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            // It passes, or the process is opened anew: who is fenced or has a poisoned store cannot know anything of the event.
            Error::Unavailable { .. }
            | Error::Timeout { .. }
            | Error::StorageFull { .. }
            | Error::Poisoned { .. }
            | Error::Fenced { .. } => Self::infrastructure(error),
            // Each attempt reads anew and may do better; but one that does so for ever must not hold up everybody.
            Error::Conflict(_) | Error::LogRewound(_) => Self::Conflict(error.to_string()),
            // Of this event's doing, or of the place that it is about.
            Error::IdConflict { .. }
            | Error::InvalidInput { .. }
            | Error::LimitExceeded { .. }
            | Error::NotFound { .. }
            | Error::Tombstoned { .. } => Self::refused(error),
            // Nobody has refused anything: it is to be done when what is damaged is there again.
            Error::Corrupt(_) => Self::Undecodable(error.to_string()),
        }
    }
}

impl<E: fmt::Display> From<Failure<E>> for Trouble {
    fn from(failure: Failure<E>) -> Self {
        match failure {
            Failure::Refused(refusal) => Self::refused(refusal),
            Failure::Store(error) => error.into(),
        }
    }
}

/// An [`EventHandler`] as a [`Sink`]: each record is decoded, and handed over event by event.
pub(crate) struct Typed<H>(pub(crate) Arc<H>);

#[async_trait]
impl<H: EventHandler> Sink for Typed<H> {
    fn name(&self) -> &str {
        H::NAME
    }

    fn query(&self) -> Result<Query> {
        self.0.query()
    }

    fn key(&self, record: &RecordedEvent) -> String {
        self.0.key(record)
    }

    async fn accept(&self, records: &[RecordedEvent]) -> Result<(), Stuck> {
        act_on(&*self.0, records).await
    }
}

/// What acts on events of a type, one at a time.
#[async_trait]
pub(crate) trait Act<E>: Send + Sync {
    async fn act(&self, event: &Recorded<E>) -> Result<(), Trouble>;
}

#[async_trait]
impl<H: EventHandler> Act<H::Event> for H {
    async fn act(&self, event: &Recorded<H::Event>) -> Result<(), Trouble> {
        self.handle(event).await
    }
}

/// Decodes records and acts on each event. A panic is that event's refusal.
pub(crate) async fn act_on<E: EventSet>(
    actor: &(impl Act<E> + ?Sized),
    records: &[RecordedEvent],
) -> Result<(), Stuck> {
    let decoded = Decoded::<E>::of(records.to_vec());
    for done in 0..decoded.len() {
        for event in decoded.events(done) {
            let handled = unharmed("the handler", async { Ok(actor.act(event).await) }).await;
            let handled = handled.unwrap_or_else(|panic| Err(Trouble::refused(panic)));
            handled.map_err(|trouble| Stuck { done, trouble })?;
        }
    }
    match &decoded.problem {
        Some(problem) => {
            Err(Stuck { done: decoded.len(), trouble: Trouble::Undecodable(problem.to_string()) })
        }
        None => Ok(()),
    }
}
