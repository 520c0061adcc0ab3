//! Events that are to happen at a moment, outside of process managers.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    due::{Changes, Due, Fire, Fired},
    firing::{Firing, HELD, TimerStatus},
};
use crate::{
    aggregate::Event,
    append::{Append, ExpectedRevision},
    error::{Error, Result},
    event::{EventId, NewEvent, RecordedEvent},
    handle::Factum,
    handler::Trouble,
    name::StreamName,
    position::Token,
    process::Message,
    query::Query,
    read::Read,
    reads::ReadStore,
    store::EventStore,
    time::Timestamp,
};

/// The category of the streams that say what is scheduled.
const CATEGORY: &str = "$timer";
/// What keeps the list of what is due.
const NAME: &str = "scheduled_events";
const SCHEDULED: &str = "Scheduled";
const UNSCHEDULED: &str = "Unscheduled";
const FIRED: &str = "Fired";
/// How often it is read anew, if others write at the same time.
const ATTEMPTS: u32 = 32;

#[derive(Clone, Serialize, Deserialize)]
struct Scheduled {
    at: Timestamp,
    event: Message,
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    timers: Changes,
}

#[derive(Serialize)]
struct Unscheduled {
    timers: Changes,
}

/// What the stream of a timer says: its last event.
struct Now {
    expected: ExpectedRevision,
    last: Option<RecordedEvent>,
    /// How far the log was read for it.
    seen: Token,
}

impl Now {
    async fn of(store: &dyn EventStore, stream: &StreamName) -> Result<Self> {
        let page = store.read(Read::stream(stream.clone()).backwards().limit(1)).await?;
        let last = page.events.into_iter().next();
        let revision = last.as_ref().map(|last| last.revision);
        let revision = revision.or(page.stream.and_then(|state| state.last_revision));
        let expected = revision.map_or(ExpectedRevision::NoStream, ExpectedRevision::Exact);
        Ok(Self { expected, last, seen: page.token })
    }

    fn of_type(&self, event_type: &str) -> Result<Option<Scheduled>> {
        self.last.as_ref().filter(|last| last.event_type == *event_type).map(RecordedEvent::json).transpose()
    }
}

impl Factum {
    /// Has an event happen at a moment: it is recorded then, in the stream of its category and this id, and whoever handles such events
    /// acts on it. It replaces what was scheduled for that category and id before. Scheduled again as it was, also after it has
    /// happened, it is not scheduled twice.
    ///
    /// What is scheduled is in the log. Somebody must run [`timers`](Self::timers) for it to happen.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for an empty id or an event that cannot be encoded, and those of an append.
    pub async fn schedule<E: Event>(&self, id: &str, at: Timestamp, event: &E) -> Result<()> {
        let (stream, event) = (stream_of(E::CATEGORY, id)?, Message::of(event));
        event.check()?;
        for _ in 0..ATTEMPTS {
            let now = Now::of(&**self.store(), &stream).await?;
            let (waiting, fired) = (now.of_type(SCHEDULED)?, now.of_type(FIRED)?);
            let same = |other: &Scheduled| other.at == at && other.event == event;
            if waiting.iter().chain(&fired).any(same) {
                return Ok(());
            }
            let off = waiting.map(|waiting| (id.to_owned(), waiting.at)).into_iter().collect();
            let timers = Changes { on: vec![(id.to_owned(), at)], off };
            let scheduled = Scheduled { at, event: event.clone(), timers };
            if self.note(&stream, now.expected, NewEvent::json(SCHEDULED, &scheduled)?).await? {
                return Ok(());
            }
        }
        Err(too_busy(&stream))
    }

    /// Keeps an event from happening that was [scheduled](Self::schedule). `false`: there is none, or it has happened.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for an empty id, and those of an append.
    pub async fn unschedule<E: Event>(&self, id: &str) -> Result<bool> {
        let stream = stream_of(E::CATEGORY, id)?;
        for _ in 0..ATTEMPTS {
            let now = Now::of(&**self.store(), &stream).await?;
            let Some(waiting) = now.of_type(SCHEDULED)? else { return Ok(false) };
            let timers = Changes { on: Vec::new(), off: vec![(id.to_owned(), waiting.at)] };
            if self.note(&stream, now.expected, NewEvent::json(UNSCHEDULED, &Unscheduled { timers })?).await?
            {
                return Ok(true);
            }
        }
        Err(too_busy(&stream))
    }

    /// Records what is to be known of a timer, if nobody was quicker.
    async fn note(&self, stream: &StreamName, expected: ExpectedRevision, event: NewEvent) -> Result<bool> {
        let event = event.with_metadata(self.work_metadata()?);
        let append = Append::to(stream.clone(), [event]).expect(stream.clone(), expected);
        match self.store().append(append).await {
            Ok(_) => Ok(true),
            Err(Error::Conflict(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Has happen what is [scheduled](Self::schedule), when its time comes, in the background. Several processes may do this: one at a
    /// time is at work. `reads` keeps the list of what is due; it is made of the log, and can be made again.
    ///
    /// # Errors
    /// [`Error::Unavailable`] outside of a tokio runtime.
    pub async fn timers(&self, reads: impl ReadStore) -> Result<Timers> {
        self.timers_in(Arc::new(reads)).await
    }

    /// The same as [`timers`](Self::timers), in a read store that is chosen when the program runs.
    ///
    /// # Errors
    /// [`Error::Unavailable`] outside of a tokio runtime.
    pub async fn timers_in(&self, reads: Arc<dyn ReadStore>) -> Result<Timers> {
        let due = Arc::new(Happening { factum: self.clone() });
        let firing = Firing::start(NAME, Query::category(CATEGORY), reads, self.clone(), due, HELD)?;
        Ok(Timers { firing: Arc::new(firing) })
    }
}

/// Has happen what is scheduled: see [`Factum::timers`]. It stops when the last clone is dropped, or by [`stop`](Timers::stop).
#[derive(Clone, Debug)]
pub struct Timers {
    firing: Arc<Firing>,
}

impl Timers {
    /// How it is.
    pub fn status(&self) -> TimerStatus {
        self.firing.status()
    }

    /// Stops it, and waits for what is on its way.
    pub async fn stop(&self) {
        self.firing.stop().await;
    }
}

/// Records the events that were scheduled.
struct Happening {
    factum: Factum,
}

#[async_trait]
impl Fire for Happening {
    async fn fire(&self, due: &Due) -> Result<Fired, Trouble> {
        let store = self.factum.store();
        for _ in 0..ATTEMPTS {
            let now = Now::of(&**store, &due.stream).await?;
            let Some(scheduled) = now.of_type(SCHEDULED)?.filter(|scheduled| scheduled.at == due.at) else {
                return Ok(Fired::before(now.seen));
            };
            let Some(last) = &now.last else { return Ok(Fired::before(now.seen)) };
            let stamp = self.factum.caused_by_wait(last, due.at).work_metadata()?;
            let (stream, event) = scheduled.event.to_event(&due.id)?;
            let off = vec![(due.id.clone(), due.at)];
            // The same as was scheduled.
            let fired = Scheduled { timers: Changes { on: Vec::new(), off }, ..scheduled };
            let fired = NewEvent::json(FIRED, &fired)?.with_id(EventId::derived(last.id.0, "fired"));
            let event = event.with_id(EventId::derived(last.id.0, "event"));
            let append = Append::to(due.stream.clone(), [fired.with_metadata(stamp.clone())])
                .write(stream, [event.with_metadata(stamp)])
                .expect(due.stream.clone(), now.expected);
            match store.append(append).await {
                Ok(appended) => return Ok(Fired::at(appended.token)),
                Err(Error::Conflict(_)) => {}
                Err(Error::IdConflict { .. }) => return Ok(Fired::before(now.seen)),
                Err(error) => return Err(error.into()),
            }
        }
        Err(too_busy(&due.stream).into())
    }
}

fn stream_of(category: &str, id: &str) -> Result<StreamName> {
    if id.is_empty() {
        let what = format!("the id of a scheduled `{category}`");
        return Err(Error::invalid(what, "it is empty; give it at least one character"));
    }
    StreamName::new(format!("{CATEGORY}-{category}-{id}"))
}

fn too_busy(stream: &StreamName) -> Error {
    let why = format!("`{stream}` is written by others all the time; try again");
    Error::Unavailable { why, outcome: crate::Outcome::No }
}
