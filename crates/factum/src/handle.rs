//! The one handle to learn: commands, decisions, loading, time travel.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    aggregate::{Aggregate, Command, Id, Recorded},
    append::{Append, Appended, Guard, Placed},
    decision::{Decide, Entity, Loaded, Model, Models, Seen, Writes, load},
    error::{Error, Outcome, Result},
    event::{EventId, Metadata, RecordedEvent},
    idempotency::{Before, Earlier, Identity},
    ids::Ids,
    metrics,
    moment::At,
    pass::Road,
    position::Token,
    read::{Read, Source},
    snapshot::Keeper,
    store::{EventStore, EventStoreExt, READINGS, torn},
    time::{Clock, SystemClock, Timestamp},
};

/// How often a command is decided before its conflict is reported, unless the handle says otherwise.
pub const ATTEMPTS: u32 = 64;
/// How often an append is sent, if failures that may pass keep coming.
const SENDS: u32 = 4;

/// The front door: an event store with the domain's words.
///
/// Cloning is cheap. What is said of the work (`acting_as`, `correlated`, `caused_by`) holds for the clone that it returns.
#[derive(Clone, Debug)]
pub struct Factum {
    store: Arc<dyn EventStore>,
    snapshots: Option<Keeper>,
    actor: Option<String>,
    correlation_id: Option<String>,
    causation_id: Option<String>,
    /// How many events led to the next one, each to the next.
    depth: u64,
    /// What must hold, besides what a decision has read.
    provided: Vec<Guard>,
    traceparent: Option<String>,
    /// The pass of the log that its consumers share, if they do.
    road: Option<Arc<Road>>,
    attempts: u32,
    clock: Arc<dyn Clock>,
    ids: Option<Arc<dyn Ids>>,
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
    /// How often it was decided: more than once if somebody else was quicker, not at all if it is found
    /// [`repeated`](Self::repeated) before.
    pub attempts: u32,
    /// Whether an earlier command with the same id has done it: see [`Factum::identified`]. What else is said here is then said of
    /// the earlier one. (`events` is empty where its events are hidden by now.)
    pub repeated: bool,
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
        Self {
            store,
            snapshots: None,
            actor: None,
            correlation_id: None,
            causation_id: None,
            depth: 0,
            provided: Vec::new(),
            traceparent: None,
            attempts: ATTEMPTS,
            clock: Arc::new(SystemClock),
            ids: None,
            road: None,
        }
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

    /// The same handle, which keeps the states of aggregates with [`Aggregate::snapshots`] in this store. See
    /// [`snapshot`](crate::snapshot).
    #[must_use]
    pub fn with_snapshots(&self, snapshots: impl Into<Keeper>) -> Self {
        Self { snapshots: Some(snapshots.into()), ..self.clone() }
    }

    /// Who keeps the snapshots, if there are any.
    pub fn snapshots(&self) -> Option<&Keeper> {
        self.snapshots.as_ref()
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

    /// The same handle for work that `event` led to: in its flow, and with its id as the cause. The metadata also says how long the
    /// chain of causes has become (`causation_depth`).
    #[must_use]
    pub fn caused_by(&self, event: &RecordedEvent) -> Self {
        let cause = event.id.to_string();
        let flow = event.metadata.correlation_id().unwrap_or_else(|| cause.clone());
        let depth = event.metadata.causation_depth() + 1;
        let traceparent = event.metadata.traceparent().or_else(|| self.traceparent.clone());
        Self { correlation_id: Some(flow), causation_id: Some(cause), depth, traceparent, ..self.clone() }
    }

    /// The same handle, which records nothing unless this holds, whatever a decision has read.
    pub(crate) fn provided(&self, guard: Guard) -> Self {
        let mut provided = self.provided.clone();
        provided.push(guard);
        Self { provided, ..self.clone() }
    }

    /// As [`caused_by`](Self::caused_by), for what `event` had happen at a later moment. Time has passed, so that the chain of causes
    /// begins anew; unless there was nothing to wait for.
    pub(crate) fn caused_by_wait(&self, event: &RecordedEvent, until: Timestamp) -> Self {
        let caused = self.caused_by(event);
        let depth = if until > event.recorded_at { 0 } else { caused.depth };
        Self { depth, ..caused }
    }

    /// The same handle for work in a distributed trace: `traceparent` is the header of that name of the W3C's Trace Context, as the
    /// request had it or as the tracing library makes it. The metadata of what is recorded carries it, and so does whatever
    /// [follows from](Self::caused_by) that.
    #[must_use]
    pub fn traced(&self, traceparent: impl Into<String>) -> Self {
        Self { traceparent: Some(traceparent.into()), ..self.clone() }
    }

    /// The same handle, which decides on a command at most so many times (64 unless said otherwise; at least once) before it reports
    /// that others were quicker each time. [`Done::attempts`] tells how many it took.
    #[must_use]
    pub fn with_attempts(&self, attempts: u32) -> Self {
        Self { attempts: attempts.max(1), ..self.clone() }
    }

    /// The same handle on this clock. It is what [`now`](Self::now) asks; a store has a clock of its own.
    #[must_use]
    pub fn with_clock(&self, clock: impl Clock) -> Self {
        Self { clock: Arc::new(clock), ..self.clone() }
    }

    /// The same handle, with ids from here: those of its events and flows of work, and [`new_id`](Self::new_id).
    #[must_use]
    pub fn with_ids(&self, ids: impl Ids) -> Self {
        Self { ids: Some(Arc::new(ids)), ..self.clone() }
    }

    /// The present moment, for commands that say when: `Withdraw { cents, at: factum.now() }`. A command itself never asks.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A new id, for whatever a command is about to make.
    pub fn new_id(&self) -> EventId {
        self.ids.as_ref().map_or_else(EventId::new, |ids| ids.next())
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
        self.take(&OfOne { id, command: &command }, None).await
    }

    /// Takes a decision over several things, and records what follows as one. As [`execute`](Self::execute) otherwise.
    ///
    /// # Errors
    /// [`Failure::Refused`] with the decision's own error; [`Failure::Store`] otherwise.
    pub async fn decide<D: Decide>(&self, decision: D) -> Result<Done, Failure<D::Error>> {
        self.take(&decision, None).await
    }

    /// The one loop from load to append, for decisions with and without an id.
    pub(crate) async fn take<D: Decide>(
        &self,
        decision: &D,
        identity: Option<&Identity>,
    ) -> Result<Done, Failure<D::Error>> {
        let correlation_id = self.correlation_id.clone().unwrap_or_else(|| self.new_id().to_string());
        let metadata = self.metadata(&correlation_id, identity)?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let work = Work { identity, metadata: &metadata, correlation_id: &correlation_id, attempts };
            match self.attempt(decision, work).await {
                // What does not hold now will not hold the next time.
                Err(Failure::Store(error)) if self.is_provided_for(&error) => return Err(error.into()),
                Err(Failure::Store(error)) if error.is_conflict() && attempts < self.attempts => {
                    tracing::debug!(attempts, conflict = %error, "somebody else was quicker; it is decided again");
                    back_off(attempts).await;
                }
                Err(Failure::Store(conflict)) if conflict.is_conflict() => {
                    // Who was quicker may have been this very command, sent by somebody else.
                    return match identity {
                        Some(identity) => match identity.look_up(&*self.store).await? {
                            Before::Done(earlier) => Ok(work.repeated(earlier, attempts)),
                            Before::Never(_) => Err(conflict.into()),
                        },
                        None => Err(conflict.into()),
                    };
                }
                outcome => return outcome,
            }
        }
    }

    fn is_provided_for(&self, error: &Error) -> bool {
        matches!(error, Error::Conflict(conflict) if self.provided.contains(&conflict.guard))
    }

    /// What the decision needs to know. Where events are hidden while a model is read, it is in a state that never was, and new
    /// ones are read.
    async fn models<D: Decide>(&self, decision: &D) -> Result<(D::Models, Loaded)> {
        let mut readings = 0;
        loop {
            readings += 1;
            let mut models = decision.models();
            let mut loaded = Loaded::with(self.snapshots.clone());
            match models.load(&*self.store, &mut loaded).await {
                Ok(()) => return Ok((models, loaded)),
                Err(_) if loaded.torn && readings < READINGS => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn attempt<D: Decide>(&self, decision: &D, work: Work<'_>) -> Result<Done, Failure<D::Error>> {
        let (models, loaded) = self.models(decision).await?;
        // Looked up after the models: what they show of this very command must not count as somebody else's doing.
        let own = match work.identity {
            Some(identity) => match identity.look_up(&*self.store).await? {
                Before::Done(earlier) => return Ok(work.repeated(earlier, work.attempts - 1)),
                Before::Never(guard) => Some((identity, guard)),
            },
            None => None,
        };
        match decision.decide(&models) {
            Ok(Writes(writes)) => {
                let mut append = Append { writes: writes?, guards: Vec::new() };
                if append.writes.is_empty() {
                    return Ok(work.done(self.confirm(loaded).await?, Vec::new()));
                }
                let events = append.writes.iter_mut().flat_map(|write| &mut write.events);
                events.for_each(|event| {
                    event.id = self.ids.as_ref().map_or(event.id, |ids| ids.next());
                    event.metadata = work.metadata.clone();
                });
                append.guards = loaded.guards;
                append.guards.extend(self.provided.iter().cloned());
                match own {
                    None => {
                        let (appended, _) = self.send(append).await?;
                        Ok(work.done(appended.token, appended.events))
                    }
                    Some((identity, guard)) => {
                        identity.mark(&mut append)?;
                        append.guards.push(guard);
                        Ok(self.send_once(append, identity, work).await?)
                    }
                }
            }
            Err(refusal) => {
                self.confirm(loaded).await?;
                Err(Failure::Refused(refusal))
            }
        }
    }

    /// Appends what an identified command has decided, unless the store knows its event ids: then the command was done meanwhile,
    /// or so long ago that its events are hidden.
    async fn send_once(&self, append: Append, identity: &Identity, work: Work<'_>) -> Result<Done> {
        match self.send(append).await {
            Ok((Appended { token, events, replayed, .. }, perhaps_before)) => {
                // The store also knows what this very command has sent before, and had no answer to.
                Ok(Done { repeated: replayed && !perhaps_before, ..work.done(token, events) })
            }
            Err(Error::IdConflict { .. }) => match identity.look_up(&*self.store).await? {
                Before::Done(earlier) => Ok(work.repeated(earlier, work.attempts)),
                Before::Never(_) => {
                    let token = self.store.head().await?.token;
                    Ok(Done { repeated: true, ..work.done(token, Vec::new()) })
                }
            },
            Err(error) => Err(error),
        }
    }

    /// Whether the aggregate is still as it was loaded, without writing anything: *require unchanged*. The answer is how far the log
    /// was when it was.
    ///
    /// In a [decision](Decide) there is no need for it: every model is guarded, also those that nothing is written to.
    ///
    /// # Errors
    /// [`Error::Conflict`] if anything happened to it, or it was deleted; failures of the store.
    pub async fn require_unchanged<A: Aggregate>(&self, entity: &Entity<A>) -> Result<Token> {
        let token = self.store.head().await?.token;
        let guards = entity.guards(&Seen { token, stream: None, last: entity.revision.or(entity.hidden) })?;
        Ok(self.send(Append { writes: Vec::new(), guards }).await?.0.token)
    }

    /// How far was seen, provided that the models belong together: a decision to write nothing must rest on a state that
    /// there was, as one that writes does. Models read at one moment do; others do if none has changed since.
    async fn confirm(&self, loaded: Loaded) -> Result<Token> {
        match loaded.token() {
            // Models without guards care for no change.
            Some(token) if loaded.is_one_moment() || loaded.guards.is_empty() => Ok(token),
            None => Ok(self.store.head().await?.token),
            Some(_) => {
                let (checked, _) = self.send(Append { writes: Vec::new(), guards: loaded.guards }).await?;
                Ok(checked.token)
            }
        }
    }

    /// Appends, and sends the very same again after a failure that may pass: the event ids keep it from happening twice. With
    /// whether a sending before the one that was answered can have happened.
    async fn send(&self, append: Append) -> Result<(Appended, bool)> {
        let (mut sent, mut unknown) = (0, false);
        loop {
            sent += 1;
            let begun = Instant::now();
            let answer = self.store.append(append.clone()).await;
            metrics::appended(begun, &answer);
            let error = match answer {
                Ok(appended) => return Ok((appended, unknown)),
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
        self.entity(id, None).await
    }

    async fn entity<A: Aggregate>(&self, id: &Id<A>, at: Option<At>) -> Result<Entity<A>> {
        for _ in 0..READINGS {
            let mut entity = Entity::of(id);
            if load(&*self.store, &mut entity, at, self.snapshots.as_ref()).await?.is_some() {
                return Ok(entity);
            }
        }
        Err(torn(&Source::Stream(id.stream()?)))
    }

    /// The aggregate as it was at a revision, a position of the log, a recorded time, or a time in the world. Beyond its end: as
    /// it is.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub async fn load_at<A: Aggregate>(&self, id: &Id<A>, at: impl Into<At> + Send) -> Result<Entity<A>> {
        let at = at.into();
        if at.business().is_some() {
            return self.load_business(id, at).await;
        }
        self.entity(id, Some(at)).await
    }

    /// All that happened to the aggregate, in order: what, when, by whom and why.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    pub async fn history<A: Aggregate>(&self, id: &Id<A>) -> Result<Vec<Recorded<A::Event>>> {
        let records = self.store.read_to_end(Read::stream(id.stream()?)).await?;
        Recorded::decode_all(records)
    }

    /// The metadata of an event that no command has led to.
    pub(crate) fn work_metadata(&self) -> Result<Metadata> {
        let correlation_id = self.correlation_id.clone().unwrap_or_else(|| self.new_id().to_string());
        self.metadata(&correlation_id, None)
    }

    fn metadata(&self, correlation_id: &str, identity: Option<&Identity>) -> Result<Metadata> {
        let parts = [
            ("actor", self.actor.as_deref()),
            ("causation_id", self.causation_id.as_deref().or(identity.map(Identity::id))),
            ("command", identity.map(|identity| &*identity.name)),
            ("command_digest", identity.map(|identity| &*identity.digest)),
            ("correlation_id", Some(correlation_id)),
            ("traceparent", self.traceparent.as_deref()),
        ];
        let known = parts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into())));
        let depth = (self.depth > 0).then(|| ("causation_depth".to_owned(), self.depth.into()));
        Metadata::from_object(&known.chain(depth).collect())
    }
}

/// One attempt at a decision: what all attempts share, and the how manieth it is.
#[derive(Clone, Copy)]
struct Work<'a> {
    identity: Option<&'a Identity>,
    metadata: &'a Metadata,
    correlation_id: &'a str,
    attempts: u32,
}

impl Work<'_> {
    fn done(self, token: Token, events: Vec<Placed>) -> Done {
        let (correlation_id, attempts) = (self.correlation_id.to_owned(), self.attempts);
        Done { token, events, correlation_id, attempts, repeated: false }
    }

    /// Done earlier, and found after so many decisions.
    fn repeated(self, earlier: Earlier, attempts: u32) -> Done {
        let Earlier { token, events, correlation_id } = earlier;
        let correlation_id = correlation_id.unwrap_or_else(|| self.correlation_id.to_owned());
        Done { token, events, correlation_id, attempts, repeated: true }
    }
}

/// A command for one aggregate is a decision over one model.
pub(crate) struct OfOne<'a, A, C> {
    pub(crate) id: &'a Id<A>,
    pub(crate) command: &'a C,
}

impl<A: Aggregate, C: Command<A>> Decide for OfOne<'_, A, C> {
    type Models = Entity<A>;
    type Error = C::Error;

    fn models(&self) -> Entity<A> {
        Entity::of(self.id)
    }

    fn decide(&self, entity: &Entity<A>) -> Result<Writes, C::Error> {
        Ok(Writes::to(self.id, self.command.decide(&entity.state)?))
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
