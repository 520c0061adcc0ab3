//! The contract in its most naive form: a list, and loops over it. What every store is compared with.

use std::collections::BTreeMap;

use factum::{
    Append, AsOf, Direction, Error, EventId, ExpectedRevision, Guard, NewEvent, Position, Query, Read,
    RecordedEvent, Result, Retention, Revision, Source, Start, StreamName, Timestamp, error::Actual,
};

/// What a log without a clock should be.
#[derive(Debug, Default)]
pub struct Model {
    facts: Vec<Fact>,
    streams: BTreeMap<StreamName, Known>,
}

#[derive(Debug)]
struct Fact {
    event: RecordedEvent,
    hidden: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    written: u64,
    deleted: bool,
    tombstoned: bool,
    max_count: Option<u64>,
}

/// What an append must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It happens.
    Written,
    /// It had happened.
    Replayed,
    /// An id is taken.
    IdConflict,
    /// A stream is tombstoned.
    Tombstoned,
    /// A guard does not hold, and this is what it meets; the place of a match may be that of any match.
    Conflict(Actual),
}

impl Verdict {
    /// The verdict that a store gave.
    ///
    /// # Errors
    /// An error that no verdict explains.
    pub fn of(answer: &Result<factum::Appended>) -> Result<Self> {
        match answer {
            Ok(appended) if appended.replayed => Ok(Self::Replayed),
            Ok(_) => Ok(Self::Written),
            Err(Error::IdConflict { .. }) => Ok(Self::IdConflict),
            Err(Error::Tombstoned { .. }) => Ok(Self::Tombstoned),
            Err(Error::Conflict(conflict)) => Ok(Self::Conflict(conflict.actual)),
            Err(other) => Err(other.clone()),
        }
    }
}

impl Model {
    /// What must come of an append of ordinary events. Nothing changes yet.
    pub fn verdict(&self, append: &Append) -> Verdict {
        let recorded: Vec<Option<&RecordedEvent>> =
            append.events().map(|(stream, event)| self.find(stream, event.id)).collect();
        let same = append
            .events()
            .zip(&recorded)
            .all(|((_, event), found)| found.is_none_or(|found| event.same_content(found)));
        if recorded.iter().any(Option::is_some) {
            let all = recorded.iter().all(Option::is_some);
            return if all && same { Verdict::Replayed } else { Verdict::IdConflict };
        }
        if append.writes.iter().any(|write| self.known(&write.stream).tombstoned) {
            return Verdict::Tombstoned;
        }
        let failed = append.guards.iter().find_map(|guard| self.failure(guard));
        failed.map_or(Verdict::Written, Verdict::Conflict)
    }

    fn failure(&self, guard: &Guard) -> Option<Actual> {
        match guard {
            Guard::Stream { stream, expected } => {
                let actual = self.actual(stream);
                let holds = match expected {
                    ExpectedRevision::Any => true,
                    ExpectedRevision::NoStream => matches!(actual, Actual::NoStream | Actual::Deleted(_)),
                    ExpectedRevision::StreamExists => matches!(actual, Actual::Revision(_)),
                    ExpectedRevision::Exact(wanted) => {
                        actual == Actual::Revision(*wanted) || actual == Actual::Deleted(*wanted)
                    }
                };
                (!holds).then_some(actual)
            }
            Guard::Query { query, after } => {
                let visible = self.facts.iter().filter(|fact| !fact.hidden).map(|fact| &fact.event);
                let mut after =
                    visible.filter(|event| event.position > after.position && query.matches(event));
                after.next_back().map(|event| Actual::Match(event.position))
            }
        }
    }

    /// What a guard meets at a stream.
    pub fn actual(&self, stream: &StreamName) -> Actual {
        let known = self.known(stream);
        match known.written.checked_sub(1) {
            _ if known.tombstoned => Actual::Tombstoned,
            None => Actual::NoStream,
            Some(last) if known.deleted => Actual::Deleted(Revision(last)),
            Some(last) => Actual::Revision(Revision(last)),
        }
    }

    /// Whether an event that can be seen at this place matches: then a guard may name it.
    pub fn shows_match(&self, query: &Query, position: Position) -> bool {
        self.facts
            .iter()
            .any(|fact| !fact.hidden && fact.event.position == position && query.matches(&fact.event))
    }

    fn known(&self, stream: &StreamName) -> Known {
        self.streams.get(stream).copied().unwrap_or_default()
    }

    fn find(&self, stream: &StreamName, id: EventId) -> Option<&RecordedEvent> {
        self.facts.iter().map(|fact| &fact.event).find(|event| event.stream == *stream && event.id == id)
    }

    /// Records an event at the place that the store gave it.
    ///
    /// # Panics
    /// If the place is none that the contract allows.
    pub fn record(
        &mut self,
        stream: &StreamName,
        event: &NewEvent,
        placed: factum::Placed,
        recorded_at: Timestamp,
    ) {
        let last = self.facts.last().map(|fact| fact.event.position).unwrap_or_default();
        assert!(placed.position > last, "position {} after {last}", placed.position);
        let known = self.streams.entry(stream.clone()).or_default();
        assert_eq!(placed.revision.0, known.written, "the revision of the next event of `{stream}`");
        (known.written, known.deleted) = (known.written + 1, false);
        let NewEvent { id, event_type, content_type, data, metadata, tags } = event.clone();
        let (position, revision, stream) = (placed.position, placed.revision, stream.clone());
        let event = RecordedEvent {
            position,
            stream,
            revision,
            recorded_at,
            id,
            event_type,
            content_type,
            data,
            metadata,
            tags,
        };
        let stream = event.stream.clone();
        self.facts.push(Fact { event, hidden: false });
        self.keep_newest(&stream);
    }

    fn keep_newest(&mut self, stream: &StreamName) {
        let known = self.known(stream);
        if let Some(max_count) = known.max_count {
            self.hide(stream, known.written.saturating_sub(max_count));
        }
    }

    /// Hides events of the stream before a revision.
    fn hide(&mut self, stream: &StreamName, before: u64) {
        for fact in self
            .facts
            .iter_mut()
            .filter(|fact| fact.event.stream == *stream && fact.event.revision.0 < before)
        {
            fact.hidden = true;
        }
    }

    /// Sets how much of a stream is kept.
    pub fn retain(&mut self, stream: &StreamName, retention: Retention) {
        self.streams.entry(stream.clone()).or_default().max_count = retention.max_count;
        self.hide(stream, retention.truncate_before.unwrap_or_default().0);
        self.keep_newest(stream);
    }

    /// Hides all of a stream.
    pub fn delete(&mut self, stream: &StreamName) {
        self.streams.entry(stream.clone()).or_default().deleted = true;
        self.hide(stream, u64::MAX);
    }

    /// Hides all of a stream, for ever.
    pub fn tombstone(&mut self, stream: &StreamName) {
        self.streams.entry(stream.clone()).or_default().tombstoned = true;
        self.hide(stream, u64::MAX);
    }

    /// Everything that a read shows, however many pages it takes.
    pub fn read(&self, read: &Read) -> Vec<&RecordedEvent> {
        let forwards = read.direction == Direction::Forwards;
        let within = |event: &&RecordedEvent| {
            let of_source = match &read.source {
                Source::All => true,
                Source::Stream(stream) => event.stream == *stream,
                Source::Query(query) => query.matches(event),
            };
            let begun = match read.start {
                Start::Edge => true,
                Start::Revision(start) => {
                    if forwards {
                        event.revision >= start
                    } else {
                        event.revision <= start
                    }
                }
                Start::Beyond(token) if forwards => event.position > token.position,
                Start::Beyond(token) => event.position < token.position,
            };
            let by_then = match read.as_of {
                None => true,
                Some(AsOf::Position(position)) => event.position <= position,
                Some(AsOf::Time(time)) => event.recorded_at <= time,
            };
            of_source && begun && by_then
        };
        let mut found: Vec<_> =
            self.facts.iter().filter(|fact| !fact.hidden).map(|fact| &fact.event).filter(within).collect();
        if !forwards {
            found.reverse();
        }
        found
    }
}
