//! A process manager without workers, for tests: it hears what it is told to, and what it would do is only recorded.

use super::{
    ProcessManager,
    effect::{Effect, Raw},
    instance::sent_as,
    manager::Manager,
    running::DEPTH,
    stored::{COMMAND_REFUSED, CommandRefused, REACTED, Reacted},
};
use crate::{
    append::Append,
    error::{Error, Result},
    event::{EventId, NewEvent, RecordedEvent},
    handle::Factum,
    handler::Trouble,
    name::StreamName,
    query::Query,
    read::Read,
    store::{EventStore, EventStoreExt},
    timers::{Due, Fire},
};

/// See the module.
pub(crate) struct Rehearsal<P>(Manager<P>);

impl<P: ProcessManager> Rehearsal<P> {
    pub(crate) fn new(process: P, factum: Factum) -> Self {
        Self(Manager { process, factum, depth: DEPTH })
    }

    fn store(&self) -> &dyn EventStore {
        &**self.0.factum.store()
    }

    /// Hears an event, if it is one that it asks for and that is for an instance. Whether it is.
    pub(crate) async fn hear(&self, record: &RecordedEvent) -> Result<bool, Trouble> {
        let own = record.stream.category() == P::NAME;
        if !own && !self.0.query()?.matches(record) {
            return Ok(false);
        }
        self.0.hear(record).await?;
        Ok(own || self.0.key(record).starts_with(&format!("{}-", P::NAME)))
    }

    /// The events of its instances.
    pub(crate) async fn own(&self) -> Result<Vec<RecordedEvent>> {
        self.store().read_to_end(Read::query(Query::category(P::NAME))).await
    }

    async fn streams(&self) -> Result<Vec<StreamName>> {
        let mut streams: Vec<_> = self.own().await?.into_iter().map(|record| record.stream).collect();
        streams.sort_unstable();
        streams.dedup();
        Ok(streams)
    }

    /// The effects that a record of its own tells of, as JSON.
    pub(crate) fn effects(record: &RecordedEvent) -> Result<Vec<serde_json::Value>> {
        if record.event_type != *REACTED {
            return Ok(Vec::new());
        }
        let reacted: Reacted<Raw> = record.json()?;
        let json = |effect| serde_json::to_value(effect);
        let effects = reacted.effects.iter().map(json).collect::<Result<_, _>>();
        effects.map_err(|e| Error::invalid("an effect", e.to_string()))
    }

    /// Sets off the timers of this id, of all instances, and moves the clock to where they are due. How many there are.
    pub(crate) async fn fire(&self, id: &str, clock: &crate::ManualClock) -> Result<usize, Trouble> {
        let mut fired = 0;
        for stream in self.streams().await? {
            let timers: Vec<_> = self.0.load(&stream).await?.waiting().cloned().collect();
            for timer in timers.into_iter().filter(|timer| timer.id == id) {
                clock.set(self.0.factum.now().max(timer.at));
                self.0.fire(&Due { stream: stream.clone(), id: timer.id, at: timer.at }).await?;
                fired += 1;
            }
        }
        Ok(fired)
    }

    /// Refuses a command that was sent. Whether there is one, the same as JSON.
    pub(crate) async fn refuse(&self, command: &P::Command, why: &str) -> Result<bool, Trouble> {
        let json = |e: serde_json::Error| Trouble::Undecodable(e.to_string());
        let wanted = serde_json::to_value(command).map_err(json)?;
        for stream in self.streams().await? {
            let folded = self.0.load(&stream).await?;
            for reaction in folded.reactions.values() {
                for (n, effect) in reaction.effects.iter().enumerate() {
                    let id = sent_as(reaction.id, n);
                    let Effect::Send { command, .. } = effect else { continue };
                    let sent: serde_json::Value = command.read().map_err(json)?;
                    if sent != wanted || folded.refused.contains(&id) {
                        continue;
                    }
                    let refused = CommandRefused { id, command: command.clone(), why: why.to_owned() };
                    let event = NewEvent::json(COMMAND_REFUSED, &refused)?;
                    let event = event.with_id(EventId::derived(super::NAMESPACE, format!("{id}\nrefused")));
                    self.store().append(Append::to(stream, [event])).await?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}
