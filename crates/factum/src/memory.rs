//! The store in memory: as strict as any other, and gone with the process. For tests.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    admission::{Admission, Found, Ledger, admit},
    append::{Append, Appended, Durability, Limits, Placed},
    error::{Error, Result},
    event::{EventId, NewEvent, RecordedEvent},
    name::StreamName,
    position::{LogIdentity, Position, Revision, Token},
    query::Query,
    read::{AsOf, Direction, Page, Read, Source, Start},
    store::{EventStore, Head},
    stream::{Life, LifeChange, StreamState},
    time::{Clock, SystemClock, Timestamp},
};

/// Every how many appends a position is left out, so that nobody comes to rely on dense positions.
const HOLE_EVERY: u64 = 3;

/// A store in memory.
///
/// No kinder than the others: positions have holes, limits and guards are the same, and every answer says that it is not durable.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    log: Arc<Mutex<Log>>,
    head: watch::Sender<Position>,
    limits: Limits,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Log {
    identity: LogIdentity,
    events: Vec<RecordedEvent>,
    streams: HashMap<StreamName, Stream>,
    last_position: Position,
    last_recorded_at: Timestamp,
    appends: u64,
}

#[derive(Debug, Default)]
struct Stream {
    state: StreamState,
    /// Index in `events`, by revision.
    places: Vec<usize>,
    by_id: HashMap<EventId, usize>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store on the machine's clock.
    pub fn new() -> Self {
        Self::with(Limits::default(), Arc::new(SystemClock))
    }

    /// An empty store with these limits, on this clock.
    pub fn with(limits: Limits, clock: Arc<dyn Clock>) -> Self {
        let log = Log {
            identity: LogIdentity { log_id: EventId::new().0, epoch: 1 },
            events: Vec::new(),
            streams: HashMap::new(),
            last_position: Position::START,
            last_recorded_at: Timestamp(i64::MIN),
            appends: 0,
        };
        Self { log: Arc::new(Mutex::new(log)), head: watch::Sender::new(Position::START), limits, clock }
    }

    /// Pretends that the log was restored from a backup: a new epoch begins, and old tokens are refused.
    pub fn begin_epoch(&self) {
        self.log().identity.epoch += 1;
    }

    /// The id of the log.
    pub fn log_id(&self) -> Uuid {
        self.log().identity.log_id
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // A panic while the lock is held leaves the log as it was: changes are made last, and none of them panics.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl EventStore for MemoryStore {
    async fn append(&self, append: Append) -> Result<Appended> {
        let mut log = self.log();
        let now = log.now(&*self.clock);
        match admit(&append, &self.limits, &*log, now)? {
            Admission::Replayed(events) => Ok(log.appended(events, true)),
            Admission::New => {
                let events = log.record(append, now)?;
                self.head.send_replace(log.last_position);
                Ok(log.appended(events, false))
            }
        }
    }

    async fn read(&self, read: Read) -> Result<Page> {
        read.check()?;
        let log = self.log();
        log.page(&read, log.now(&*self.clock))
    }

    async fn head(&self) -> Result<Head> {
        let log = self.log();
        let recorded_at = log.events.last().map(|event| event.recorded_at);
        Ok(Head { token: log.identity.at(log.last_position), recorded_at })
    }

    async fn stream_state(&self, stream: &StreamName) -> Result<StreamState> {
        self.log().stream(stream)
    }

    async fn changed(&self, position: Position) {
        // The sender lives as long as this store, so waiting cannot fail.
        let _ = self.head.subscribe().wait_for(|head| *head > position).await;
    }

    fn is_exclusive(&self) -> bool {
        true
    }

    fn limits(&self) -> Limits {
        self.limits
    }
}

impl Ledger for Log {
    fn identity(&self) -> LogIdentity {
        self.identity
    }

    fn head(&self) -> Position {
        self.last_position
    }

    fn stream(&self, stream: &StreamName) -> Result<StreamState> {
        Ok(self.streams.get(stream).map(|stream| stream.state).unwrap_or_default())
    }

    fn find(&self, stream: &StreamName, event: &NewEvent) -> Result<Option<Found>> {
        let place = self.streams.get(stream).and_then(|stream| stream.by_id.get(&event.id));
        Ok(place.map(|&place| Found::of(event, &self.events[place])))
    }

    fn visible_match(&self, query: &Query, after: Position, now: Timestamp) -> Result<Option<Position>> {
        let first = self.events.partition_point(|event| event.position <= after);
        let found =
            self.events[first..].iter().rev().find(|event| query.matches(event) && self.shows(event, now));
        Ok(found.map(|event| event.position))
    }
}

impl Log {
    /// Time never runs backwards, whatever the clock does: what was too old to be seen stays so.
    fn now(&self, clock: &dyn Clock) -> Timestamp {
        clock.now().max(self.last_recorded_at)
    }

    fn shows(&self, event: &RecordedEvent, now: Timestamp) -> bool {
        let stream = self.streams.get(&event.stream);
        stream.is_none_or(|stream| stream.state.shows(event.revision, event.recorded_at, now))
    }

    fn appended(&self, events: Vec<Placed>, replayed: bool) -> Appended {
        // An append that only checked guards is seen by a reader who has come as far as the log.
        let position = events.iter().map(|event| event.position).max().unwrap_or(self.last_position);
        Appended { events, token: self.identity.at(position), replayed, durability: Durability::Relaxed }
    }

    /// Writes an append that was admitted.
    fn record(&mut self, append: Append, now: Timestamp) -> Result<Vec<Placed>> {
        let mut changes = Vec::new();
        for (stream, event) in append.events() {
            changes.push(LifeChange::of_event(stream, &event.event_type, &event.data)?);
        }
        self.last_recorded_at = self.last_recorded_at.max(now);
        if !changes.is_empty() {
            self.appends += 1;
            self.last_position.0 += u64::from(self.appends.is_multiple_of(HOLE_EVERY));
        }
        let mut changes = changes.into_iter();
        let mut placed = Vec::with_capacity(append.event_count());
        for write in append.writes {
            for event in write.events {
                placed.push(self.record_one(&write.stream, event));
                if let Some((described, change)) = changes.next().flatten() {
                    let state = &mut self.streams.entry(described).or_default().state;
                    state.described(&change, self.last_recorded_at);
                }
            }
        }
        Ok(placed)
    }

    fn record_one(&mut self, name: &StreamName, event: NewEvent) -> Placed {
        let place = self.events.len();
        let stream = self.streams.entry(name.clone()).or_default();
        let revision = stream.state.written();
        stream.places.push(place);
        stream.by_id.insert(event.id, place);
        self.last_position.0 += 1;
        let NewEvent { id, event_type, content_type, data, metadata, tags } = event;
        self.events.push(RecordedEvent {
            position: self.last_position,
            stream: name.clone(),
            revision,
            recorded_at: self.last_recorded_at,
            id,
            event_type,
            content_type,
            data,
            metadata,
            tags,
        });
        Placed { position: self.last_position, revision }
    }

    fn page(&self, read: &Read, now: Timestamp) -> Result<Page> {
        let head = self.identity.at(self.last_position);
        let (after, before) = self.bounds(read)?;
        let stream = match &read.source {
            Source::Stream(name) => Some(self.stream(name)?),
            _ => None,
        };
        if let (Source::Stream(name), Some(StreamState { life: Life::Tombstoned, .. })) =
            (&read.source, &stream)
        {
            return Err(Error::Tombstoned { stream: name.clone() });
        }
        let candidates: Box<dyn DoubleEndedIterator<Item = &RecordedEvent>> = match &read.source {
            Source::Stream(name) => {
                let places = self.streams.get(name).map(|stream| &stream.places[..]).unwrap_or_default();
                let index =
                    |position| places.partition_point(|&place| self.events[place].position <= position);
                let within = index(after)..index(before).max(index(after));
                Box::new(places[within].iter().map(|&place| &self.events[place]))
            }
            _ => {
                let index = |position| self.events.partition_point(|event| event.position <= position);
                Box::new(self.events[index(after)..index(before).max(index(after))].iter())
            }
        };
        let wanted = candidates.filter(|event| {
            event.position > after
                && event.position < before
                && starts(read, event.revision)
                && matches(&read.source, event)
                && self.shows(event, now)
        });
        let mut events: Vec<RecordedEvent> = match read.direction {
            Direction::Forwards => wanted.take(read.limit.saturating_add(1)).cloned().collect(),
            Direction::Backwards => wanted.rev().take(read.limit.saturating_add(1)).cloned().collect(),
        };
        let more = events.len() > read.limit;
        events.truncate(read.limit);
        let last_place = Position(before.0.saturating_sub(1)).min(self.last_position);
        let next = match (more, events.last()) {
            (true, Some(last)) => Some(Start::Beyond(self.identity.at(last.position))),
            _ => None,
        };
        let token = match (read.direction, next) {
            (Direction::Forwards, Some(Start::Beyond(token))) => token,
            _ => self.identity.at(last_place),
        };
        Ok(Page { events, token, head, next, stream })
    }

    /// The positions between which to look, both excluded.
    fn bounds(&self, read: &Read) -> Result<(Position, Position)> {
        let beyond = |token: Token| token.position_in(self.identity, self.last_position);
        let end = Position(self.last_position.0 + 1);
        let (mut after, mut before) = (Position::START, end);
        if let Start::Beyond(token) = read.start {
            match read.direction {
                Direction::Forwards => after = beyond(token)?,
                Direction::Backwards => before = beyond(token)?,
            }
        }
        let as_of = match read.as_of {
            None => end,
            Some(AsOf::Position(position)) => Position(position.0.saturating_add(1)),
            Some(AsOf::Time(time)) => {
                let first_later = self.events.partition_point(|event| event.recorded_at <= time);
                self.events.get(first_later).map_or(end, |event| event.position)
            }
        };
        before = before.min(as_of).max(Position(1));
        // A token beyond the moment looked from: nothing to see, and no step back.
        Ok((after, before.max(Position(after.0 + 1))))
    }
}

fn starts(read: &Read, revision: Revision) -> bool {
    match (read.start, read.direction) {
        (Start::Revision(first), Direction::Forwards) => revision >= first,
        (Start::Revision(last), Direction::Backwards) => revision <= last,
        _ => true,
    }
}

fn matches(source: &Source, event: &RecordedEvent) -> bool {
    match source {
        Source::All => true,
        Source::Stream(stream) => event.stream == *stream,
        Source::Query(query) => query.matches(event),
    }
}
