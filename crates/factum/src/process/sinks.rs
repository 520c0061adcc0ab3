//! The two consumers of a process manager: the inbox hears, the outbox performs.

use std::{
    collections::HashMap,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

use async_trait::async_trait;
use tokio::task::JoinSet;

use super::{
    ProcessManager,
    effect::{Effect, Message, Raw},
    instance::{Folded, command_of, sent_as},
    manager::Shared,
    stored::{ABANDONED, COMMAND_REFUSED, CommandRefused, PERFORMED, REACTED, Settled, TIMER_FIRED},
};
use crate::{
    append::{Append, Guard},
    batch::place_of,
    error::{Error, Result},
    event::{EventId, NewEvent, RecordedEvent},
    handler::{Sink, Stuck, Trouble},
    idempotency::command_tag,
    name::{EventType, StreamName},
    position::{Revision, Token},
    query::{Criterion, Query},
    read::Read,
    worker::said,
};

/// Instances that are worked for at once.
const AT_ONCE: usize = 32;

/// Hears what happens, and records what follows.
pub(super) struct Inbox<P> {
    pub(super) manager: Shared<P>,
}

/// Performs what has been recorded.
pub(super) struct Outbox<P> {
    pub(super) name: String,
    pub(super) manager: Shared<P>,
}

#[async_trait]
impl<P: ProcessManager> Sink for Inbox<P> {
    fn name(&self) -> &str {
        P::NAME
    }

    fn query(&self) -> Result<Query> {
        Ok(self.manager.query()?.or(own(P::NAME, &[TIMER_FIRED, COMMAND_REFUSED])?))
    }

    fn key(&self, record: &RecordedEvent) -> String {
        self.manager.key(record)
    }

    async fn accept(&self, records: &[RecordedEvent]) -> Result<(), Stuck> {
        let manager = self.manager.clone();
        let hear = move |record: RecordedEvent| {
            let manager = manager.clone();
            async move { manager.hear(&record).await }
        };
        by_key(records, |record| self.key(record), hear).await
    }
}

#[async_trait]
impl<P: ProcessManager> Sink for Outbox<P> {
    fn name(&self) -> &str {
        &self.name
    }

    fn query(&self) -> Result<Query> {
        own(P::NAME, &[REACTED])
    }

    async fn accept(&self, records: &[RecordedEvent]) -> Result<(), Stuck> {
        let manager = self.manager.clone();
        let perform = move |record: RecordedEvent| {
            let manager = manager.clone();
            async move { perform(manager, record).await }
        };
        by_key(records, |record| record.stream.as_str().to_owned(), perform).await
    }
}

fn own(category: &str, types: &[&str]) -> Result<Query> {
    Ok(Query::from(Criterion {
        types: types.iter().map(|name| EventType::new(*name)).collect::<Result<_>>()?,
        category: Some(category.to_owned()),
        ..Criterion::default()
    }))
}

/// Performs the effects of a reaction, in order.
async fn perform<P: ProcessManager>(manager: Shared<P>, record: RecordedEvent) -> Result<(), Trouble> {
    let folded = manager.load(&record.stream).await?;
    let Some(reaction) = folded.reactions.get(&record.revision) else { return Ok(()) };
    if !reaction.is_to_be_performed() || folded.is_over(record.revision) {
        return Ok(());
    }
    let mut hand = Hand { manager: &manager, record: &record, folded: &folded, seen: folded.seen };
    for (n, effect) in reaction.effects.iter().enumerate() {
        let id = sent_as(reaction.id, n);
        match effect {
            Effect::Send { command, .. } => hand.send(id, command).await?,
            Effect::Publish(message) => hand.publish(id, message).await?,
            Effect::Compensate => hand.compensate((record.revision, n)).await?,
            Effect::Schedule(_) | Effect::Cancel { .. } | Effect::Complete => {}
        }
    }
    let guard = hand.nothing_settled()?;
    hand.settle(PERFORMED, reaction.id, record.revision, [guard]).await
}

/// Performs the effects of one reaction.
struct Hand<'a, P: ProcessManager> {
    manager: &'a Shared<P>,
    record: &'a RecordedEvent,
    folded: &'a Folded<P>,
    /// Everything of the instance up to here is known.
    seen: Token,
}

impl<P: ProcessManager> Hand<'_, P> {
    async fn send(&mut self, id: EventId, raw: &Raw) -> Result<(), Trouble> {
        if self.folded.refused.contains(&id) {
            return Ok(());
        }
        let command = command_of::<P>(raw, &self.record.stream)?;
        let factum = self.manager.factum.caused_by(self.record).provided(self.nothing_settled()?);
        match caught(self.manager.process.perform(command, factum.identified(id))).await {
            Ok(Err(Trouble::Refused(why))) => self.refuse(id, raw, why).await,
            Ok(Err(Trouble::Conflict(_))) if self.is_settled_by_others().await? => Err(overtaken()),
            Ok(outcome) => outcome,
            Err(panic) => {
                let (name, place) = (P::NAME, place_of(self.record));
                Err(Trouble::Refused(format!("`{name}` panicked when it performed {place}: {panic}")))
            }
        }
    }

    /// What has become of the instance's reactions.
    fn settled(&self) -> Result<Query> {
        let types = [COMMAND_REFUSED, PERFORMED, ABANDONED].map(EventType::new);
        let types = types.into_iter().collect::<Result<_>>()?;
        let stream = Some(self.record.stream.clone());
        Ok(Query::from(Criterion { types, stream, ..Criterion::default() }))
    }

    /// Whoever was stopped half-way and goes on when others have finished his work, or have undone it, must do no more of it.
    fn nothing_settled(&self) -> Result<Guard> {
        Ok(Guard::Query { query: self.settled()?, after: self.seen })
    }

    async fn is_settled_by_others(&self) -> Result<bool> {
        let read = Read::query(self.settled()?).beyond(self.seen).limit(1);
        Ok(!self.manager.factum.store().read(read).await?.events.is_empty())
    }

    /// Tells the instance, unless the command was done after all: by somebody else, before it was refused here.
    async fn refuse(&mut self, id: EventId, raw: &Raw, why: String) -> Result<(), Trouble> {
        // Not only since this attempt began: an earlier one may have done it, and its worker died before it could say so.
        let query = Query::tags([command_tag(id)])?;
        let since = self.seen.log.at(self.record.position);
        let read = Read::query(query.clone()).beyond(since).limit(1);
        if !self.manager.factum.store().read(read).await?.events.is_empty() {
            tracing::warn!(%id, why, "a command is refused that was done before: it counts as done");
            return Ok(());
        }
        let refused = NewEvent::json(COMMAND_REFUSED, &CommandRefused { id, command: raw.clone(), why })?;
        let done = Guard::Query { query, after: since };
        let id = EventId::derived(super::NAMESPACE, format!("{id}\nrefused"));
        let stream = &self.record.stream;
        let guards = [done, self.nothing_settled()?];
        if let Some(token) = self.record(stream, refused.with_id(id), guards).await? {
            self.seen = token;
        }
        Ok(())
    }

    async fn publish(&self, id: EventId, message: &Message) -> Result<(), Trouble> {
        let (stream, event) = message.to_event(self.record.stream.id())?;
        self.record(&stream, event.with_id(id), [self.nothing_settled()?]).await.map(drop)
    }

    async fn compensate(&mut self, at: (Revision, usize)) -> Result<(), Trouble> {
        // What was refused a moment ago is not in what was read before.
        let mut folded = self.manager.load(&self.record.stream).await?;
        // Whoever was held up in the middle of a reaction that was skipped must not go on after it is undone.
        let left: Vec<_> = folded.left_behind(at.0).map(|(of, reaction)| (of, reaction.id)).collect();
        for (of, id) in &left {
            self.settle(ABANDONED, *id, *of, []).await?;
        }
        if !left.is_empty() {
            folded = self.manager.load(&self.record.stream).await?;
            if folded.is_over(at.0) {
                return Err(overtaken());
            }
            self.seen = folded.seen;
        }
        for undo in folded.to_undo(at) {
            let id = EventId::derived(super::NAMESPACE, format!("{}\nundone", undo.of));
            self.send(id, &undo.command).await?;
        }
        Ok(())
    }

    /// Says of a reaction that it is performed, or abandoned.
    async fn settle(
        &self,
        as_what: &str,
        reaction: EventId,
        of: Revision,
        guards: impl IntoIterator<Item = Guard>,
    ) -> Result<(), Trouble> {
        let settled = NewEvent::json(as_what, &Settled { of })?;
        let id = EventId::derived(super::NAMESPACE, format!("{reaction}\n{}", as_what.to_lowercase()));
        self.record(&self.record.stream, settled.with_id(id), guards).await.map(drop)
    }

    /// Records an event, once. `None`: it was recorded before, in other words.
    async fn record(
        &self,
        stream: &StreamName,
        event: NewEvent,
        guards: impl IntoIterator<Item = Guard>,
    ) -> Result<Option<Token>, Trouble> {
        let stamp = self.manager.factum.caused_by(self.record).work_metadata()?;
        let mut append = Append::to(stream.clone(), [event.with_metadata(stamp)]);
        append.guards.extend(guards);
        match self.manager.factum.store().append(append).await {
            Ok(appended) => Ok(Some(appended.token)),
            Err(Error::IdConflict { .. }) => Ok(None),
            // All of these guards are of the instance's own: nothing is refused, the next attempt sees what was done.
            Err(Error::Conflict(_)) => Err(overtaken()),
            Err(error) => Err(error.into()),
        }
    }
}

fn overtaken() -> Trouble {
    Trouble::infrastructure("another worker has done this at the same time")
}

/// Works on records: those of a key one after the other, several keys at once. What comes after the first that fails may have been
/// done, too; it is recognised when it comes again.
async fn by_key<F, W>(
    records: &[RecordedEvent],
    key: impl Fn(&RecordedEvent) -> String,
    work: W,
) -> Result<(), Stuck>
where
    W: Fn(RecordedEvent) -> F + Clone + Send + 'static,
    F: Future<Output = Result<(), Trouble>> + Send + 'static,
{
    let mut order: Vec<Vec<(usize, RecordedEvent)>> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (n, record) in records.iter().enumerate() {
        let at = *places.entry(key(record)).or_insert_with(|| {
            order.push(Vec::new());
            order.len() - 1
        });
        order[at].push((n, record.clone()));
    }
    let (mut tasks, mut first) = (JoinSet::new(), None::<Stuck>);
    let mut settle = |stuck: Option<Stuck>| {
        if let Some(stuck) = stuck
            && first.as_ref().is_none_or(|first| stuck.done < first.done)
        {
            first = Some(stuck);
        }
    };
    for one in order {
        while tasks.len() >= AT_ONCE {
            settle(joined(tasks.join_next().await));
        }
        let work = work.clone();
        tasks.spawn(async move {
            for (done, record) in one {
                let outcome = caught(work(record)).await;
                let outcome = outcome.unwrap_or_else(|panic| {
                    Err(Trouble::Refused(format!("what handles it panicked: {panic}")))
                });
                if let Err(trouble) = outcome {
                    return Some(Stuck { done, trouble });
                }
            }
            None
        });
    }
    while !tasks.is_empty() {
        settle(joined(tasks.join_next().await));
    }
    first.map_or(Ok(()), Err)
}

fn joined(task: Option<Result<Option<Stuck>, tokio::task::JoinError>>) -> Option<Stuck> {
    match task {
        Some(Ok(stuck)) => stuck,
        // Nothing panics outside of what is caught: the runtime shuts down.
        Some(Err(gone)) => Some(Stuck { done: 0, trouble: Trouble::infrastructure(gone) }),
        None => None,
    }
}

/// The work's outcome, or what it said when it panicked.
async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let mut work = pin!(work);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(said(&*panic).to_owned())),
    })
    .await
}
