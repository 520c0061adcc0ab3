//! The one handle to learn: commands, decisions, loading, time travel.

use std::{sync::Arc, time::Duration};

use crate::{
    aggregate::{Aggregate, Command, Id, Recorded},
    append::{Append, Appended, Placed},
    decision::{At, Decide, Entity, Loaded, Models, Writes, fold},
    error::{Error, Outcome, Result},
    event::{EventId, Metadata, RecordedEvent},
    pass::Road,
    position::Token,
    read::Read,
    store::{EventStore, EventStoreExt},
};

/// How often a command is tried before its conflict is reported.
const ATTEMPTS: u32 = 64;
/// How often an append is sent, if failures that may pass keep coming.
const SENDS: u32 = 4;

/// The front door: an event store with the domain's words.
///
/// Cloning is cheap. What is said of the work (`acting_as`, `correlated`, `caused_by`) holds for the clone that it returns.
#[derive(Clone, Debug)]
pub struct Factum {
    store: Arc<dyn EventStore>,
    actor: Option<String>,
    correlation_id: Option<String>,
    causation_id: Option<String>,
    /// The pass of the log that its consumers share, if they do.
    road: Option<Arc<Road>>,
}

/// A command that was done.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// How far a reader must have come to see it.
    pub token: Token,
    /// Where its events are. None if there was nothing to do.
    pub events: Vec<Placed>,
    /// The id that all events of this flow of work share.
    pub correlation_id: String,
    /// How often it was decided: more than once if somebody else was quicker.
    pub attempts: u32,
}

impl From<&Done> for Token {
    fn from(done: &Done) -> Self {
        done.token
    }
}

impl From<&Appended> for Token {
    fn from(appended: &Appended) -> Self {
        appended.token
    }
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure<E> {
    /// The domain's rules refuse it. Nothing was recorded.
    #[error("{0}")]
    Refused(E),
    /// The store failed, or others were quicker each time ([`Error::Conflict`]).
    #[error(transparent)]
    Store(#[from] Error),
}

impl<E> Failure<E> {
    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&E> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Store(_) => None,
        }
    }
}

impl Factum {
    /// The handle to a store.
    pub fn new(store: impl EventStore) -> Self {
        Self::from_arc(Arc::new(store))
    }

    /// The handle to a store that others hold too.
    pub fn from_arc(store: Arc<dyn EventStore>) -> Self {
        Self { store, actor: None, correlation_id: None, causation_id: None, road: None }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn EventStore> {
        &self.store
    }

    pub(crate) fn on_road(&self, road: Arc<Road>) -> Self {
        Self { road: Some(road), ..self.clone() }
    }

    /// Where consumers begun on this handle read the log.
    pub(crate) fn road(&self) -> Arc<Road> {
        self.road.clone().unwrap_or_else(|| Arc::new(Road::open(self.store.clone())))
    }

    /// The same handle for the work of `actor`: the metadata of what it records says so.
    #[must_use]
    pub fn acting_as(&self, actor: impl Into<String>) -> Self {
        Self { actor: Some(actor.into()), ..self.clone() }
    }

    /// The same handle for one flow of work. Without it each command begins its own.
    #[must_use]
    pub fn correlated(&self, id: impl Into<String>) -> Self {
        Self { correlation_id: Some(id.into()), ..self.clone() }
    }

    /// The same handle for work that `event` led to: in its flow, and with its id as the cause.
    #[must_use]
    pub fn caused_by(&self, event: &RecordedEvent) -> Self {
        let cause = event.id.to_string();
        let flow = event.metadata.correlation_id().unwrap_or_else(|| cause.clone());
        Self { correlation_id: Some(flow), causation_id: Some(cause), ..self.clone() }
    }

    /// Decides on a command for one aggregate, and records what follows.
    ///
    /// If somebody else was quicker it is decided again on the newer state, a bounded number of times. If the store's answer
    /// was lost the same events are sent again, so that they are recorded once.
    ///
    /// # Errors
    /// [`Failure::Refused`] with the command's own error; [`Failure::Store`] otherwise.
    pub async fn execute<A, C>(&self, id: &Id<A>, command: C) -> Result<Done, Failure<C::Error>>
    where
        A: Aggregate,
        C: Command<A>,
    {
        self.decide(OfOne { id: id.clone(), command }).await
    }

    /// Takes a decision over several things, and records what follows as one. As [`execute`](Self::execute) otherwise.
    ///
    /// # Errors
    /// [`Failure::Refused`] with the decision's own error; [`Failure::Store`] otherwise.
    pub async fn decide<D: Decide>(&self, decision: D) -> Result<Done, Failure<D::Error>> {
        let correlation_id = self.correlation_id.clone().unwrap_or_else(|| EventId::new().to_string());
        let metadata = self.metadata(&correlation_id)?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.attempt(&decision, &metadata).await {
                Ok((token, events)) => return Ok(Done { token, events, correlation_id, attempts }),
                Err(Failure::Store(error)) if error.is_conflict() && attempts < ATTEMPTS => {
                    back_off(attempts).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn attempt<D: Decide>(
        &self,
        decision: &D,
        metadata: &Metadata,
    ) -> Result<(Token, Vec<Placed>), Failure<D::Error>> {
        let mut models = decision.models();
        let mut loaded = Loaded::default();
        models.load(&*self.store, &mut loaded).await?;
        match decision.decide(&models) {
            Ok(Writes(writes)) => {
                let mut append = Append { writes: writes?, guards: Vec::new() };
                if append.writes.is_empty() {
                    return Ok((self.confirm(loaded).await?, Vec::new()));
                }
                let events = append.writes.iter_mut().flat_map(|write| &mut write.events);
                events.for_each(|event| event.metadata = metadata.clone());
                append.guards = loaded.guards;
                let appended = self.send(append).await?;
                Ok((appended.token, appended.events))
            }
            Err(refusal) => {
                self.confirm(loaded).await?;
                Err(Failure::Refused(refusal))
            }
        }
    }

    /// How far was seen, provided that the models belong together: a decision to write nothing must rest on a state that
    /// there was, as one that writes does. Models read at one moment do; others do if none has changed since.
    async fn confirm(&self, loaded: Loaded) -> Result<Token> {
        match loaded.token() {
            Some(token) if loaded.is_one_moment() => Ok(token),
            None => Ok(self.store.head().await?.token),
            Some(_) => Ok(self.send(Append { writes: Vec::new(), guards: loaded.guards }).await?.token),
        }
    }

    /// Appends, and sends the very same again after a failure that may pass: the event ids keep it from happening twice.
    async fn send(&self, append: Append) -> Result<Appended> {
        let (mut sent, mut unknown) = (0, false);
        loop {
            sent += 1;
            let error = match self.store.append(append.clone()).await {
                Ok(appended) => return Ok(appended),
                Err(error) => error,
            };
            unknown |= error.outcome() == Outcome::Unknown;
            match error {
                Error::Unavailable { .. } | Error::Timeout { .. } if sent < SENDS => back_off(sent + 3).await,
                error => return Err(if unknown { still_unknown(error) } else { error }),
            }
        }
    }

    /// The aggregate as it is.
    ///
    /// # Errors
    /// Those of [`EventStore::read`], and [`Error::InvalidInput`] for an event that cannot be decoded.
    pub async fn load<A: Aggregate>(&self, id: &Id<A>) -> Result<Entity<A>> {
        let mut entity = Entity::of(id);
        fold(&*self.store, &mut entity, None).await?;
        Ok(entity)
    }

    /// The aggregate as it was at a revision, a position of the log, or a recorded time. Beyond its end: as it is.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub async fn load_at<A: Aggregate>(&self, id: &Id<A>, at: impl Into<At> + Send) -> Result<Entity<A>> {
        let mut entity = Entity::of(id);
        fold(&*self.store, &mut entity, Some(at.into())).await?;
        Ok(entity)
    }

    /// All that happened to the aggregate, in order: what, when, by whom and why.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub async fn history<A: Aggregate>(&self, id: &Id<A>) -> Result<Vec<Recorded<A::Event>>> {
        let records = self.store.read_to_end(Read::stream(id.stream()?)).await?;
        Recorded::decode_all(records)
    }

    fn metadata(&self, correlation_id: &str) -> Result<Metadata> {
        let parts = [
            ("actor", self.actor.as_deref()),
            ("causation_id", self.causation_id.as_deref()),
            ("correlation_id", Some(correlation_id)),
        ];
        let known = parts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into())));
        Metadata::from_object(&known.collect())
    }
}

/// A command for one aggregate is a decision over one model.
struct OfOne<A, C> {
    id: Id<A>,
    command: C,
}

impl<A: Aggregate, C: Command<A>> Decide for OfOne<A, C> {
    type Models = Entity<A>;
    type Error = C::Error;

    fn models(&self) -> Entity<A> {
        Entity::of(&self.id)
    }

    fn decide(&self, entity: &Entity<A>) -> Result<Writes, C::Error> {
        Ok(Writes::to(&self.id, self.command.decide(&entity.state)?))
    }
}

/// The last answer to an append of which an earlier answer was lost. That this attempt did not happen says nothing of the
/// earlier one, unless the store came so far as to look for the event ids, and did not find them.
fn still_unknown(error: Error) -> Error {
    let outcome = Outcome::Unknown;
    match error {
        Error::Unavailable { why, .. } => Error::Unavailable { why, outcome },
        Error::Timeout { what, after_ms, .. } => Error::Timeout { what, after_ms, outcome },
        Error::Poisoned { cause, .. } => Error::Poisoned { cause, outcome },
        // These come before the ids are looked for, or from looking for them.
        Error::Fenced { .. } | Error::Corrupt(_) | Error::StorageFull { .. } => {
            Error::Unavailable { why: format!("an earlier answer was lost, and then: {error}"), outcome }
        }
        settled => settled,
    }
}

/// Waits for a random while, longer from time to time, so that those who clashed do not clash again. The first time it only
/// lets others go on.
async fn back_off(attempt: u32) {
    if attempt == 1 {
        return tokio::task::yield_now().await;
    }
    let at_most = 250_u64 << attempt.min(7);
    tokio::time::sleep(Duration::from_micros(fastrand::u64(0..=at_most))).await;
}
