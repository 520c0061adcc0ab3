//! What a process manager does with what it hears: the one way in, for events, timers and refusals.

use std::sync::Arc;

use super::{
    Input, ProcessManager,
    effect::Effect,
    instance::{Folded, decode, unharmed},
    stored::{Copied, Heard, REACTED, Reacted, TIMER_FIRED, TimerFired},
};
use crate::{
    aggregate::EventSet,
    append::Append,
    error::{Error, Result},
    event::{EventId, NewEvent, RecordedEvent},
    handle::Factum,
    handler::Trouble,
    name::StreamName,
    query::{Criterion, Query},
    timers::{Changes, Due, Fire, Fired},
};

/// How often an instance is read anew, if others write to it.
const ATTEMPTS: u32 = 32;
/// Bytes in the id of a timer, at most: it is part of a key.
const TIMER_BYTES: usize = 200;

/// A process manager at work.
pub(super) struct Manager<P> {
    pub(super) process: P,
    pub(super) factum: Factum,
    /// How long a chain of causes may become.
    pub(super) depth: u64,
}

/// What an instance may hear.
enum May<P: ProcessManager> {
    Event {
        input: Box<Input<P::Event, P::Command>>,
        part: usize,
    },
    /// An event of its own stream.
    Own,
}

impl<P: ProcessManager> Manager<P> {
    pub(super) async fn load(&self, stream: &StreamName) -> Result<Folded<P>, Trouble> {
        Folded::load(&self.process, &**self.factum.store(), stream).await
    }

    /// What the process manager hears of.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if that could be taken for what its instances record.
    pub(super) fn query(&self) -> Result<Query> {
        let (query, name) = (self.process.query()?, P::NAME);
        let of_that_category = |criterion: &Criterion| {
            let stream = criterion.stream.as_ref().map(StreamName::category);
            criterion.category.as_deref().or(stream) == Some(name)
        };
        if query.any_of.iter().chain(&P::Event::query()?.any_of).any(of_that_category) {
            let why = format!(
                "it hears events of the category `{name}`, to which the streams of its instances would belong, too: give it another NAME, such as `{name}_process`"
            );
            return Err(Error::invalid(format!("the name of the process manager `{name}`"), why));
        }
        Ok(query)
    }

    /// The stream of the instance that an event belongs to, if it belongs to one.
    fn stream_for(&self, event: &crate::Recorded<P::Event>) -> Result<Option<StreamName>, Trouble> {
        let instance = unharmed(P::NAME, &event.record, || self.process.instance(event))?;
        let stream = instance.map(|instance| stream_of(P::NAME, &instance)).transpose();
        stream.map_err(|error| Trouble::Undecodable(error.to_string()))
    }

    /// The instance that a record belongs to: what keeps its order.
    pub(super) fn key(&self, record: &RecordedEvent) -> String {
        let own = || record.stream.as_str().to_owned();
        if record.stream.category() == P::NAME {
            return own();
        }
        // What is wrong with it is told when it is heard.
        let events = decode::<P>(record).unwrap_or_default();
        let mut streams = events.iter().filter_map(|event| self.stream_for(event).ok().flatten());
        streams.next().map_or_else(own, |stream| stream.as_str().to_owned())
    }

    /// Hears a record: one of those that the process manager asked for, or one of an instance's own.
    pub(super) async fn hear(&self, record: &RecordedEvent) -> Result<(), Trouble> {
        if record.stream.category() == P::NAME {
            return self.react(record, &record.stream, &May::Own).await;
        }
        for (part, event) in decode::<P>(record)?.into_iter().enumerate() {
            if let Some(stream) = self.stream_for(&event)? {
                let may = May::Event { input: Box::new(Input::Event(event)), part };
                self.react(record, &stream, &may).await?;
            }
        }
        Ok(())
    }

    async fn react(&self, record: &RecordedEvent, stream: &StreamName, may: &May<P>) -> Result<(), Trouble> {
        let part = if let May::Event { part, .. } = may { *part } else { 0 };
        let id = EventId::derived(super::NAMESPACE, format!("{stream}\nheard\n{part}\n{}", record.id));
        for attempt in 0..ATTEMPTS {
            let folded = self.load(stream).await?;
            if folded.has_heard(id) {
                return Ok(());
            }
            let expected = folded.expected;
            let Some(reaction) = self.decide(record, may, folded)? else { return Ok(()) };
            let append = Append::to(stream.clone(), [reaction.with_id(id)]).expect(stream.clone(), expected);
            match self.factum.store().append(append).await {
                Ok(_) => return Ok(()),
                // It was heard before, and its record is hidden; or somebody else has heard it at this moment.
                Err(Error::IdConflict { .. }) => return Ok(()),
                Err(Error::Conflict(_)) => pause(attempt).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Trouble::infrastructure(format!("`{stream}` is written by others all the time")))
    }

    /// What is to be recorded because of an input. `None`: there is nothing to hear.
    fn decide(
        &self,
        record: &RecordedEvent,
        may: &May<P>,
        mut folded: Folded<P>,
    ) -> Result<Option<NewEvent>, Trouble> {
        let own = match may {
            May::Event { .. } => None,
            May::Own => folded.own(record)?,
        };
        let input = match (may, &own) {
            (May::Event { input, .. }, _) if !folded.completed => &**input,
            (May::Own, Some(Input::Refused { why, .. })) if folded.completed => {
                let stream = &record.stream;
                return Err(Trouble::Refused(format!(
                    "a command of `{stream}` was refused ({why}) after the instance was complete, so that nobody is left to hear of it"
                )));
            }
            (May::Own, Some(input)) => input,
            _ => return Ok(None),
        };
        self.check_depth(record)?;
        let heard = match may {
            May::Event { part, .. } => Copied::of(record, *part).map(|copied| Heard::Event(Box::new(copied))),
            May::Own => Ok(Heard::Own(record.revision)),
        };
        if let (May::Own, Input::Fired { timer, .. }) = (may, input) {
            folded.forget_fired(&timer.id, record.revision);
        }
        let before: Vec<_> = folded.waiting().cloned().collect();
        unharmed(P::NAME, record, || self.process.evolve(&mut folded.state, input))?;
        let effects = unharmed(P::NAME, record, || self.process.react(&folded.state, input))?;
        check(P::NAME, &effects)?;
        folded.follow(&effects, record);
        let timers = folded.timers_since(&before);
        let wrong = |error: Error| Trouble::Refused(error.to_string());
        let reacted = Reacted { input: heard.map_err(wrong)?, effects, timers };
        let event = NewEvent::json(REACTED, &reacted).map_err(wrong)?;
        Ok(Some(event.with_metadata(self.factum.caused_by(record).work_metadata()?)))
    }

    fn check_depth(&self, record: &RecordedEvent) -> Result<(), Trouble> {
        let (depth, allowed) = (record.metadata.causation_depth(), self.depth);
        if depth < allowed {
            return Ok(());
        }
        let name = P::NAME;
        Err(Trouble::Refused(format!(
            "the chain of causes that led to {} is {depth} events long, and `{name}` goes on up to {allowed}: something goes round in circles",
            crate::batch::place_of(record)
        )))
    }
}

/// Sets a timer off: what it leads to is heard in its turn, after everything that was recorded before.
#[async_trait::async_trait]
impl<P: ProcessManager> Fire for Manager<P> {
    async fn fire(&self, due: &Due) -> Result<Fired, Trouble> {
        for attempt in 0..ATTEMPTS {
            let folded = self.load(&due.stream).await?;
            let open = folded.timers.get(&due.id);
            let Some(open) = open.filter(|open| open.fired.is_none() && open.timer.at == due.at) else {
                return Ok(Fired::before(folded.seen));
            };
            let set_by = open.since.id;
            let id = EventId::derived(super::NAMESPACE, format!("{set_by}\nfired\n{}", due.id));
            let timers = Changes { on: Vec::new(), off: vec![(due.id.clone(), due.at)] };
            let event = NewEvent::json(TIMER_FIRED, &TimerFired { timer: open.timer.clone(), timers })?;
            let stamp = self.factum.caused_by_wait(&open.since, due.at).work_metadata()?;
            let append = Append::to(due.stream.clone(), [event.with_id(id).with_metadata(stamp)])
                .expect(due.stream.clone(), folded.expected);
            match self.factum.store().append(append).await {
                Ok(appended) => return Ok(Fired::at(appended.token)),
                Err(Error::IdConflict { .. }) => return Ok(Fired::before(folded.seen)),
                Err(Error::Conflict(_)) => pause(attempt).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Trouble::infrastructure(format!("`{}` is written by others all the time", due.stream)))
    }
}

/// The stream of an instance.
pub(super) fn stream_of(name: &str, instance: &str) -> Result<StreamName> {
    if instance.is_empty() {
        let what = format!("the id of an instance of `{name}`");
        return Err(Error::invalid(what, "it is empty; give it at least one character"));
    }
    StreamName::new(format!("{name}-{instance}"))
}

/// Whether these can be recorded.
pub(super) fn check<C>(name: &str, effects: &[Effect<C>]) -> Result<(), Trouble> {
    for effect in effects {
        let problem = match effect {
            Effect::Publish(message) if message.category() == name => Some(format!(
                "it publishes an event of the category `{name}`, to which the streams of its instances belong"
            )),
            Effect::Publish(message) => message.check().err().map(|error| error.to_string()),
            Effect::Schedule(timer) if timer.id.is_empty() || timer.id.len() > TIMER_BYTES => {
                Some(format!("the timer's id `{}` must have 1 to {TIMER_BYTES} bytes", timer.id))
            }
            _ => None,
        };
        if let Some(problem) = problem {
            return Err(Trouble::Refused(problem));
        }
    }
    Ok(())
}

async fn pause(attempt: u32) {
    if attempt < 2 {
        return tokio::task::yield_now().await;
    }
    let at_most = 500_u64 << attempt.min(6);
    tokio::time::sleep(std::time::Duration::from_micros(fastrand::u64(0..=at_most))).await;
}

pub(super) type Shared<P> = Arc<Manager<P>>;
