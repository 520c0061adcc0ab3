//! One instance: what its stream makes of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{
    Input, ProcessManager,
    effect::{Effect, Raw, Timer},
    stored::{
        ABANDONED, COMMAND_REFUSED, CommandRefused, Heard, PERFORMED, REACTED, Reacted, Settled, TIMER_FIRED,
        TimerFired,
    },
};
use crate::{
    aggregate::Recorded,
    append::ExpectedRevision,
    batch::place_of,
    error::{Error, Outcome, Result},
    event::{EventId, RecordedEvent},
    handler::Trouble,
    name::StreamName,
    position::{Revision, Token},
    read::Read,
    store::{EventStore, EventStoreExt},
    time::Timestamp,
    timers::Changes,
    worker::said,
};

/// An instance as its stream tells it.
pub(super) struct Folded<P: ProcessManager> {
    pub(super) state: P::State,
    /// How far the log was read for it.
    pub(super) seen: Token,
    /// What its stream must be for it to be as it is here.
    pub(super) expected: ExpectedRevision,
    pub(super) completed: bool,
    pub(super) timers: BTreeMap<String, Open>,
    pub(super) reactions: BTreeMap<Revision, Reaction>,
    /// The reactions that have been performed.
    performed: BTreeSet<Revision>,
    /// Those of which no more will be performed than was, whatever that is.
    abandoned: BTreeSet<Revision>,
    /// The commands that were refused.
    pub(super) refused: HashSet<EventId>,
    /// The reactions, by their ids: which follow from what was heard.
    heard: HashSet<EventId>,
    /// What is to be heard, or was, of the instance's own events.
    own: HashMap<Revision, Own>,
}

/// An event of the instance's own that it hears, or heard.
struct Own {
    what: OwnInput,
    at: Timestamp,
}

enum OwnInput {
    Fired(Timer),
    Refused { command: Raw, why: String },
}

/// What there is to hear, if anything.
type Hearing<P> =
    Result<Option<Input<<P as ProcessManager>::Event, <P as ProcessManager>::Command>>, Trouble>;

/// A timer that is set.
#[derive(Clone)]
pub(super) struct Open {
    pub(super) timer: Timer,
    /// The reaction that set it, without its data.
    pub(super) since: RecordedEvent,
    /// The event that says that it was due, if it was: it has not been heard yet.
    pub(super) fired: Option<Revision>,
}

/// What came of an input.
pub(super) struct Reaction {
    pub(super) id: EventId,
    pub(super) effects: Vec<Effect<Raw>>,
}

impl Reaction {
    /// Whether there is something to be done by whoever performs effects. Timers are set by being recorded.
    pub(super) fn is_to_be_performed(&self) -> bool {
        let done = |effect: &Effect<Raw>| {
            matches!(effect, Effect::Send { .. } | Effect::Compensate | Effect::Publish(_))
        };
        self.effects.iter().any(done)
    }
}

/// A command that undoes another, and the id of the other.
pub(super) struct Undo {
    pub(super) of: EventId,
    pub(super) command: Raw,
}

impl<P: ProcessManager> Folded<P> {
    /// Reads it.
    ///
    /// # Errors
    /// What can go wrong with an event: the instance's own must be readable, too.
    pub(super) async fn load(
        process: &P,
        store: &dyn EventStore,
        stream: &StreamName,
    ) -> Result<Self, Trouble> {
        let (mut records, mut seen, mut state) = (Vec::new(), None, None);
        let pages = store.read_pages(Read::stream(stream.clone()), |page| {
            (seen, state) = (Some(page.token), page.stream);
            records.extend(page.events);
            Ok::<_, Error>(())
        });
        pages.await?;
        let seen = seen.ok_or_else(|| Trouble::infrastructure("the log gave no page"))?;
        if records.windows(2).any(|two| two[1].revision != two[0].revision.next()) {
            let why = format!("events of `{stream}` were hidden while it was read");
            return Err(Error::Unavailable { why, outcome: Outcome::No }.into());
        }
        let last =
            records.last().map(|record| record.revision).or(state.and_then(|state| state.last_revision));
        let mut folded = Self {
            state: P::State::default(),
            seen,
            expected: last.map_or(ExpectedRevision::NoStream, ExpectedRevision::Exact),
            completed: false,
            timers: BTreeMap::new(),
            reactions: BTreeMap::new(),
            performed: BTreeSet::new(),
            abandoned: BTreeSet::new(),
            refused: HashSet::new(),
            heard: HashSet::new(),
            own: HashMap::new(),
        };
        for record in records {
            folded.take(process, &record)?;
        }
        Ok(folded)
    }

    fn take(&mut self, process: &P, record: &RecordedEvent) -> Result<(), Trouble> {
        match record.event_type.as_str() {
            REACTED => {
                let Reacted { input, effects, .. } = read(record)?;
                let own = if let Heard::Own(revision) = &input { Some(*revision) } else { None };
                let input = match input {
                    Heard::Event(copied) => Some(heard_event::<P>(*copied, record)?),
                    Heard::Own(revision) => self.input(revision, record)?,
                };
                if let Some(input) = &input {
                    if let (Input::Fired { timer, .. }, Some(revision)) = (input, own) {
                        self.forget_fired(&timer.id, revision);
                    }
                    unharmed(P::NAME, record, || process.evolve(&mut self.state, input))?;
                }
                self.heard.insert(record.id);
                self.follow(&effects, record);
                self.reactions.insert(record.revision, Reaction { id: record.id, effects });
            }
            TIMER_FIRED => {
                let TimerFired { timer, .. } = read(record)?;
                if let Some(open) = self.timers.get_mut(&timer.id) {
                    open.fired = Some(record.revision);
                }
                let own = Own { what: OwnInput::Fired(timer), at: record.recorded_at };
                self.own.insert(record.revision, own);
            }
            COMMAND_REFUSED => {
                let CommandRefused { id, command, why } = read(record)?;
                self.refused.insert(id);
                let own = Own { what: OwnInput::Refused { command, why }, at: record.recorded_at };
                self.own.insert(record.revision, own);
            }
            PERFORMED => {
                let Settled { of } = read(record)?;
                self.performed.insert(of);
            }
            ABANDONED => {
                let Settled { of } = read(record)?;
                self.abandoned.insert(of);
            }
            _ => {
                let why = format!("{}: no process manager writes such an event", place_of(record));
                return Err(Trouble::Undecodable(why));
            }
        }
        Ok(())
    }

    /// Whether what follows from the input under this id is recorded.
    pub(super) fn has_heard(&self, reaction: EventId) -> bool {
        self.heard.contains(&reaction)
    }

    /// What there is to hear in an event of its own: nothing, if a timer was stopped since it was due.
    pub(super) fn own(&self, record: &RecordedEvent) -> Hearing<P> {
        let revision = record.revision;
        let stopped = match self.own.get(&revision) {
            Some(Own { what: OwnInput::Fired(timer), .. }) => {
                self.timers.get(&timer.id).is_none_or(|open| open.fired != Some(revision))
            }
            _ => false,
        };
        if stopped { Ok(None) } else { self.input(revision, record) }
    }

    fn input(&self, revision: Revision, by: &RecordedEvent) -> Hearing<P> {
        let Some(Own { what, at }) = self.own.get(&revision) else { return Ok(None) };
        Ok(Some(match what {
            OwnInput::Fired(timer) => Input::Fired { timer: timer.clone(), at: *at },
            OwnInput::Refused { command, why } => {
                Input::Refused { command: command_of::<P>(command, &by.stream)?, why: why.clone(), at: *at }
            }
        }))
    }

    pub(super) fn forget_fired(&mut self, timer: &str, revision: Revision) {
        if self.timers.get(timer).is_some_and(|open| open.fired == Some(revision)) {
            self.timers.remove(timer);
        }
    }

    /// What effects do to the instance itself.
    pub(super) fn follow<C>(&mut self, effects: &[Effect<C>], since: &RecordedEvent) {
        for effect in effects {
            match effect {
                Effect::Schedule(timer) => {
                    let since = RecordedEvent { data: bytes::Bytes::new(), ..since.clone() };
                    let open = Open { timer: timer.clone(), since, fired: None };
                    self.timers.insert(timer.id.clone(), open);
                }
                Effect::Cancel { timer } => drop(self.timers.remove(timer)),
                Effect::Complete => {
                    self.completed = true;
                    self.timers.clear();
                }
                Effect::Send { .. } | Effect::Publish(_) | Effect::Compensate => {}
            }
        }
    }

    /// The timers that are set and were not due yet.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Timer> {
        self.timers.values().filter(|open| open.fired.is_none()).map(|open| &open.timer)
    }

    /// How the timers that wait differ from those that waited before.
    pub(super) fn timers_since(&self, before: &[Timer]) -> Changes {
        let after: Vec<_> = self.waiting().collect();
        let has = |timers: &[&Timer], one: &Timer| {
            timers.iter().any(|timer| timer.id == one.id && timer.at == one.at)
        };
        let before: Vec<_> = before.iter().collect();
        let of = |timers: &[&Timer], others: &[&Timer]| {
            timers
                .iter()
                .filter(|timer| !has(others, timer))
                .map(|timer| (timer.id.clone(), timer.at))
                .collect()
        };
        Changes { on: of(&after, &before), off: of(&before, &after) }
    }

    /// What a compensation at this place has to undo, the last first: what was sent before and not refused, and has not been undone.
    /// Of a reaction that was not performed to its end nobody knows how much has happened: all of it may have.
    pub(super) fn to_undo(&self, at: (Revision, usize)) -> Vec<Undo> {
        let mut undo = Vec::new();
        for (revision, reaction) in self.reactions.range(..=at.0) {
            let before = if *revision == at.0 { at.1 } else { reaction.effects.len() };
            for (n, effect) in reaction.effects.iter().enumerate().take(before) {
                match effect {
                    Effect::Send { undo: Some(command), .. } => {
                        let of = sent_as(reaction.id, n);
                        if !self.refused.contains(&of) {
                            undo.push(Undo { of, command: command.clone() });
                        }
                    }
                    // Also the undoing may have been left half done; what was undone is not undone again.
                    Effect::Compensate if *revision == at.0 || self.performed.contains(revision) => {
                        undo.clear();
                    }
                    _ => {}
                }
            }
        }
        undo.reverse();
        undo
    }

    /// Whether nothing more of a reaction is to be performed: all was, or it is abandoned, or a later one was performed. Reactions are
    /// performed one after the other, so then it was skipped.
    pub(super) fn is_over(&self, reaction: Revision) -> bool {
        self.abandoned.contains(&reaction) || self.performed.last().is_some_and(|last| *last >= reaction)
    }

    /// The reactions that are to be performed.
    pub(super) fn unperformed(&self) -> impl Iterator<Item = &Reaction> {
        let open = self.reactions.iter().filter(|(revision, _)| !self.is_over(**revision));
        open.map(|(_, reaction)| reaction).filter(|reaction| reaction.is_to_be_performed())
    }

    /// The reactions before this one that were not performed to their ends, and nothing says so yet.
    pub(super) fn left_behind(&self, before: Revision) -> impl Iterator<Item = (Revision, &Reaction)> {
        let earlier = self.reactions.range(..before).map(|(revision, reaction)| (*revision, reaction));
        earlier.filter(|(revision, reaction)| {
            let settled = self.performed.contains(revision) || self.abandoned.contains(revision);
            reaction.is_to_be_performed() && !settled
        })
    }
}

/// The id of what is done because of the n-th effect of a reaction.
pub(super) fn sent_as(reaction: EventId, n: usize) -> EventId {
    EventId::derived(super::NAMESPACE, format!("{reaction}\neffect\n{n}"))
}

/// The data of an event of the instance's own stream.
pub(super) fn read<T: serde::de::DeserializeOwned>(record: &RecordedEvent) -> Result<T, Trouble> {
    record.json().map_err(|error| Trouble::Undecodable(error.to_string()))
}

pub(super) fn command_of<P: ProcessManager>(raw: &Raw, stream: &StreamName) -> Result<P::Command, Trouble> {
    let read = catch_unwind(|| raw.read());
    let wrong = |why: String| {
        Trouble::Undecodable(format!("a command in `{stream}` is none of `{}` today: {why}", P::NAME))
    };
    read.map_err(|panic| wrong(said(&*panic).to_owned()))?.map_err(|error| wrong(error.to_string()))
}

fn heard_event<P: ProcessManager>(
    copied: super::stored::Copied,
    by: &RecordedEvent,
) -> Result<Input<P::Event, P::Command>, Trouble> {
    let part = copied.part;
    let record = copied.record().map_err(|error| Trouble::Undecodable(error.to_string()))?;
    let events = decode::<P>(&record)?;
    let place = place_of(&record);
    let event = events.into_iter().nth(part).ok_or_else(|| {
        let why = format!("{}: it is the answer to {place}, which is no such event any more", place_of(by));
        Trouble::Undecodable(why)
    });
    Ok(Input::Event(event?))
}

/// The events that a record holds.
pub(super) fn decode<P: ProcessManager>(record: &RecordedEvent) -> Result<Vec<Recorded<P::Event>>, Trouble> {
    let mut events = Vec::with_capacity(1);
    match catch_unwind(AssertUnwindSafe(|| Recorded::decode(record.clone(), &mut events))) {
        Ok(Ok(())) => Ok(events),
        Ok(Err(error)) => Err(Trouble::Undecodable(error.to_string())),
        Err(panic) => {
            Err(Trouble::Undecodable(format!("decoding {} panicked: {}", place_of(record), said(&*panic))))
        }
    }
}

/// What somebody's code gives. A panic in it is trouble with this event.
pub(super) fn unharmed<T>(
    name: &str,
    record: &RecordedEvent,
    work: impl FnOnce() -> T,
) -> Result<T, Trouble> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        Trouble::Refused(format!("`{name}` panicked on {}: {}", place_of(record), said(&*panic)))
    })
}
