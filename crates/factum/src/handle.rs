//! The one handle to learn: commands in, states out.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};

use crate::{
    aggregate::{Aggregate, Command, Entity, Id, Recorded, new_event},
    append::{Append, Placed},
    decide::{Decide, Models, load},
    error::{Error, Outcome, Result},
    event::{EventId, Metadata, RecordedEvent},
    position::{Position, Revision, Token},
    projection::{Projected, Projection, ReadStore},
    read::{AsOf, Read},
    store::{EventStore, EventStoreExt},
    time::Timestamp,
};

/// How often a command is decided at most, when others are quicker each time.
const ATTEMPTS: u32 = 50;
/// How often an append is sent at most, when its answers get lost.
const SENDINGS: u32 = 5;
/// The first pause between two attempts, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// The handle to a domain on a store. Clones are the same; `acting_as` and its like give one that says more.
#[derive(Clone, Debug)]
pub struct Factum {
    store: Arc<dyn EventStore>,
    actor: Option<String>,
    correlation_id: Option<String>,
    causation_id: Option<String>,
}

/// What a command or decision did.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// How far a reader must have come to see it. Give it to [`Projected::wait_for`].
    pub token: Token,
    /// Where its events are, in order. None, if there was nothing to do.
    pub events: Vec<Placed>,
    /// What its events share with everything that follows from them.
    pub correlation_id: String,
    /// How often it was decided: more than once, if others were quicker.
    pub attempts: u32,
}

/// Why a command or decision did nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure<E: std::error::Error + 'static> {
    /// The domain said no.
    #[error(transparent)]
    Refused(E),
    /// The store could not. [`Error::outcome`] tells whether it can have happened all the same.
    #[error(transparent)]
    Store(Error),
}

/// An earlier moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// After the event of this revision.
    Revision(Revision),
    /// After everything up to this position.
    Position(Position),
    /// After everything that was recorded by then.
    Time(Timestamp),
}

impl From<Revision> for At {
    fn from(revision: Revision) -> Self {
        Self::Revision(revision)
    }
}

impl From<Position> for At {
    fn from(position: Position) -> Self {
        Self::Position(position)
    }
}

impl From<Timestamp> for At {
    fn from(time: Timestamp) -> Self {
        Self::Time(time)
    }
}

impl Factum {
    /// A domain on a store.
    pub fn new(store: impl EventStore) -> Self {
        Self::from_arc(Arc::new(store))
    }

    /// A domain on a store that others hold, too.
    pub fn from_arc(store: Arc<dyn EventStore>) -> Self {
        Self { store, actor: None, correlation_id: None, causation_id: None }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn EventStore> {
        &self.store
    }

    /// The same, in the name of `actor`: every event says so.
    #[must_use]
    pub fn acting_as(&self, actor: impl Into<String>) -> Self {
        Self { actor: Some(actor.into()), ..self.clone() }
    }

    /// The same, as part of a flow of work: every event carries this id, instead of a new one per command.
    #[must_use]
    pub fn correlated(&self, correlation_id: impl Into<String>) -> Self {
        Self { correlation_id: Some(correlation_id.into()), ..self.clone() }
    }

    /// The same, because of an event: what follows names it as its cause, and belongs to the same flow of work.
    #[must_use]
    pub fn caused_by(&self, event: &RecordedEvent) -> Self {
        let correlation_id = event.metadata.correlation_id().or_else(|| self.correlation_id.clone());
        Self { causation_id: Some(event.id.to_string()), correlation_id, ..self.clone() }
    }

    /// Has an aggregate take a command: loads it, asks the command, appends what happens, and starts over if somebody else was
    /// quicker.
    ///
    /// # Errors
    /// [`Failure::Refused`] with the domain's own error, or [`Failure::Store`].
    pub async fn execute<A: Aggregate, C: Command<A>>(
        &self,
        id: &Id<A>,
        command: C,
    ) -> Result<Done, Failure<C::Error>> {
        let correlation_id = self.correlation_id_or_new();
        for attempt in 1.. {
            let mut entity = Entity::of(id);
            let seen = load(&mut entity, &*self.store, None).await.map_err(Failure::Store)?;
            let token = seen.token;
            let events = command.decide(&entity.state).map_err(Failure::Refused)?;
            let append = || -> Result<Append> {
                let events = events.iter().map(new_event).collect::<Result<Vec<_>>>()?;
                Ok(Append::to(id.stream()?, events).guard(seen.guard()?))
            };
            let append = append().map_err(Failure::Store)?;
            match self.write(append, token, &correlation_id, attempt).await {
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => pause(attempt).await,
                result => return result.map_err(Failure::Store),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Takes a decision over several things: loads its models, asks it, appends what happens as one provided that no model has
    /// changed, and starts over if one has.
    ///
    /// # Errors
    /// As for [`Factum::execute`].
    pub async fn decide<D: Decide>(&self, decision: D) -> Result<Done, Failure<D::Error>> {
        let correlation_id = self.correlation_id_or_new();
        for attempt in 1.. {
            let token = self.store.head().await.map_err(Failure::Store)?.token;
            let mut models = decision.models();
            let guards = models.load(&*self.store).await.map_err(Failure::Store)?;
            let writes = decision.decide(&models).map_err(Failure::Refused)?;
            let append = writes.into_append().map_err(Failure::Store)?;
            match self.write(Append { guards, ..append }, token, &correlation_id, attempt).await {
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => pause(attempt).await,
                result => return result.map_err(Failure::Store),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// An aggregate as it is.
    ///
    /// # Errors
    /// Those of [`EventStore::read`], and those of [`Recorded::decode`].
    pub async fn load<A: Aggregate>(&self, id: &Id<A>) -> Result<Entity<A>> {
        let mut entity = Entity::of(id);
        load(&mut entity, &*self.store, None).await?;
        Ok(entity)
    }

    /// An aggregate as it was.
    ///
    /// # Errors
    /// As for [`Factum::load`].
    pub async fn load_at<A: Aggregate>(&self, id: &Id<A>, at: impl Into<At>) -> Result<Entity<A>> {
        let mut entity = Entity::of(id);
        let as_of = match at.into() {
            At::Position(position) => AsOf::Position(position),
            At::Time(time) => AsOf::Time(time),
            At::Revision(revision) => match self.position_of(id, revision).await? {
                Some(position) => AsOf::Position(position),
                None => return Ok(entity),
            },
        };
        load(&mut entity, &*self.store, Some(as_of)).await?;
        Ok(entity)
    }

    /// The position of the last event up to a revision.
    async fn position_of<A: Aggregate>(&self, id: &Id<A>, revision: Revision) -> Result<Option<Position>> {
        let read = Read::stream(id.stream()?).backwards().from_revision(revision).limit(1);
        Ok(self.store.read_to_end(read.limit(1)).await?.first().map(|event| event.position))
    }

    /// Everything that happened to an aggregate, in order.
    ///
    /// # Errors
    /// As for [`Factum::load`].
    pub async fn history<A: Aggregate>(&self, id: &Id<A>) -> Result<Vec<Recorded<A::Event>>> {
        let events = self.store.read_to_end(Read::stream(id.stream()?)).await?;
        events.into_iter().map(Recorded::decode).collect()
    }

    /// Keeps a read model from now on: catches up from its checkpoint, then follows.
    ///
    /// # Errors
    /// Those of the read store, [`Error::InvalidInput`] for a bad name, [`Error::LogRewound`] if the read model was made from
    /// another log.
    pub async fn project<P: Projection>(&self, projection: P, reads: impl ReadStore) -> Result<Projected<P>> {
        Projected::start(self.store.clone(), projection, Arc::new(reads)).await
    }

    fn correlation_id_or_new(&self) -> String {
        self.correlation_id.clone().unwrap_or_else(|| EventId::new().to_string())
    }

    fn metadata(&self, correlation_id: &str) -> Result<Metadata> {
        let mut object = Map::new();
        let mut put = |key: &str, value: &str| object.insert(key.to_owned(), Value::String(value.to_owned()));
        put("correlation_id", correlation_id);
        self.causation_id.iter().for_each(|id| drop(put("causation_id", id)));
        self.actor.iter().for_each(|actor| drop(put("actor", actor)));
        Metadata::from_object(&object)
    }

    /// Appends what was decided. With nothing to write there is nothing to guard, either.
    async fn write(
        &self,
        mut append: Append,
        token: Token,
        correlation_id: &str,
        attempts: u32,
    ) -> Result<Done> {
        let correlation_id = correlation_id.to_owned();
        if append.event_count() == 0 {
            return Ok(Done { token, events: Vec::new(), correlation_id, attempts });
        }
        let metadata = self.metadata(&correlation_id)?;
        for event in append.writes.iter_mut().flat_map(|write| &mut write.events) {
            event.metadata = metadata.clone();
        }
        let appended = send(&*self.store, append).await?;
        Ok(Done { token: appended.token, events: appended.events, correlation_id, attempts })
    }
}

/// Appends; after a lost answer, sends the same ids again, so that nothing can happen twice.
async fn send(store: &dyn EventStore, append: Append) -> Result<crate::append::Appended> {
    for sending in 1.. {
        match store.append(append.clone()).await {
            Err(error)
                if error.is_retryable() && error.outcome() == Outcome::Unknown && sending < SENDINGS =>
            {
                pause(sending).await;
            }
            result => return result,
        }
    }
    unreachable!("the last sending returns")
}

/// Waits longer each time, and not as long as others that wait for the same.
async fn pause(attempt: u32) {
    let longest = PAUSES.0.saturating_mul(1 << attempt.min(10)).min(PAUSES.1);
    let random = EventId::new().0.as_u128() & 0xffff_ffff;
    let share = f64::from(u32::try_from(random).unwrap_or(u32::MAX)) / f64::from(u32::MAX);
    tokio::time::sleep(longest.mul_f64(share)).await;
}
