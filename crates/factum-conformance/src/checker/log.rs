//! The log as it is in the end, indexed so that any question about any earlier moment is quick.

use std::collections::HashMap;

use factum::{
    EventStore, EventStoreExt, EventType, LogIdentity, Position, Query, Read, RecordedEvent, Result,
    Revision, StreamName, StreamState, Tags, Timestamp,
    error::Actual,
    query::Criterion,
    read::Source,
    stream::{Life, LifeChange},
};
use uuid::Uuid;

use crate::history::{Fingerprint, Sent};

/// Everything that a store holds at the end of a history, hidden events left out.
#[derive(Clone, Debug, Default)]
pub struct FinalLog {
    /// Which log it is.
    pub log: Option<LogIdentity>,
    /// Its end.
    pub head: Position,
    pub(crate) entries: Vec<Entry>,
    /// How many events were ever written to each stream of which something may be hidden.
    pub(crate) written: Vec<(StreamName, Revision)>,
}

/// One event of the final log.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) position: Position,
    pub(crate) revision: Revision,
    /// `None` for an event that is hidden by now: only its acknowledgement tells of it.
    pub(crate) recorded_at: Option<Timestamp>,
    pub(crate) stream: StreamName,
    pub(crate) id: Uuid,
    pub(crate) event_type: EventType,
    pub(crate) tags: Tags,
    pub(crate) content: Fingerprint,
    pub(crate) change: Option<(StreamName, LifeChange)>,
}

impl FinalLog {
    /// Reads the whole log.
    ///
    /// # Errors
    /// Those of [`EventStore::read`].
    pub async fn read(store: &dyn EventStore) -> Result<Self> {
        let mut whole = Self::default();
        let each = |page: factum::Page| {
            (whole.log, whole.head) = (Some(page.head.log), page.head.position);
            whole.entries.extend(page.events.iter().map(Entry::from));
            Ok::<_, factum::Error>(())
        };
        store.read_pages(Read::all(), each).await?;
        let described = whole.entries.iter().filter_map(|entry| Some(entry.change.as_ref()?.0.clone()));
        for stream in described.collect::<std::collections::BTreeSet<_>>() {
            let written = store.stream_state(&stream).await?.next_revision();
            whole.written.push((stream, written));
        }
        Ok(whole)
    }

    /// How many events it holds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl From<&RecordedEvent> for Entry {
    fn from(event: &RecordedEvent) -> Self {
        Self {
            position: event.position,
            revision: event.revision,
            recorded_at: Some(event.recorded_at),
            stream: event.stream.clone(),
            id: event.id.0,
            event_type: event.event_type.clone(),
            tags: event.tags.clone(),
            content: Fingerprint::of_recorded(event),
            change: LifeChange::of_event(&event.stream, &event.event_type, &event.data).ok().flatten(),
        }
    }
}

impl Entry {
    /// An event of which only the acknowledgement is known.
    pub(crate) fn acknowledged(sent: &Sent, place: factum::Placed) -> Self {
        Self {
            position: place.position,
            revision: place.revision,
            recorded_at: None,
            stream: sent.stream.clone(),
            id: sent.id.0,
            event_type: sent.event_type.clone(),
            tags: sent.tags.clone(),
            content: sent.content,
            change: None,
        }
    }
}

/// Of an index that never comes.
pub(crate) const NEVER: usize = usize::MAX;

/// A log with its indexes. A *moment* is a number of entries: the log after that many of them.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) entries: Vec<Entry>,
    /// The entry that hid each entry; [`NEVER`] if it is still visible.
    pub(crate) hidden_by: Vec<usize>,
    /// No entry was recorded later than this, up to each.
    times: Vec<Timestamp>,
    streams: HashMap<StreamName, Stream>,
    categories: HashMap<String, Vec<usize>>,
    types: HashMap<EventType, Vec<usize>>,
    tags: HashMap<String, Vec<usize>>,
}

#[derive(Debug, Default)]
struct Stream {
    entries: Vec<usize>,
    state: StreamState,
    /// How many of `entries` are hidden.
    hidden: usize,
    /// What the stream was after each entry that changed it.
    was: Vec<(usize, Actual)>,
    /// Something was hidden, perhaps, since its last known event.
    described_since: bool,
    /// Age hides its events, at moments that the log does not tell.
    expires: bool,
    /// Events of it are hidden of which no acknowledgement is known.
    unaccounted: bool,
}

impl Log {
    pub(crate) fn new(entries: Vec<Entry>) -> Self {
        let mut log = Self { hidden_by: vec![NEVER; entries.len()], ..Self::default() };
        let mut time = Timestamp(i64::MIN);
        for (at, entry) in entries.iter().enumerate() {
            time = entry.recorded_at.unwrap_or(time).max(time);
            log.times.push(time);
            log.index(at, entry);
            log.fold(at, entry, time, &entries);
        }
        log.entries = entries;
        log
    }

    fn index(&mut self, at: usize, entry: &Entry) {
        push(&mut self.categories, entry.stream.category(), at, str::to_owned);
        push(&mut self.types, &entry.event_type, at, EventType::clone);
        for tag in entry.tags.iter() {
            push(&mut self.tags, tag, at, str::to_owned);
        }
    }

    fn fold(&mut self, at: usize, entry: &Entry, time: Timestamp, entries: &[Entry]) {
        let stream = self.streams.entry(entry.stream.clone()).or_default();
        // The revision is what the store says; holes in it are reported elsewhere.
        if entry.revision > stream.state.next_revision() && stream.described_since {
            // Events of which nobody knows were written, and then hidden.
            stream.state.hidden_before = entry.revision;
        }
        stream.described_since = false;
        stream.state.last_revision = entry.revision.0.checked_sub(1).map(Revision);
        stream.state.written();
        stream.entries.push(at);
        stream.changed(at, entries, &mut self.hidden_by);
        if let Some((described, change)) = &entry.change {
            let stream = self.streams.entry(described.clone()).or_default();
            stream.state.described(change, time);
            stream.described_since = true;
            stream.expires |=
                matches!(change, LifeChange::Retention(retention) if retention.max_age_seconds.is_some());
            stream.changed(at, entries, &mut self.hidden_by);
        }
    }

    pub(crate) fn moment_of(&self, position: Position) -> usize {
        self.entries.partition_point(|entry| entry.position <= position)
    }

    pub(crate) fn moment_of_time(&self, time: Timestamp) -> usize {
        self.times.partition_point(|recorded| *recorded <= time)
    }

    /// The position of the last entry at a moment.
    pub(crate) fn position_at(&self, moment: usize) -> Position {
        moment.checked_sub(1).map(|last| self.entries[last].position).unwrap_or_default()
    }

    /// What a stream was at a moment.
    pub(crate) fn actual(&self, stream: &StreamName, moment: usize) -> Actual {
        let Some(stream) = self.streams.get(stream) else { return Actual::NoStream };
        let changes = stream.was.partition_point(|(at, _)| *at < moment);
        changes.checked_sub(1).map_or(Actual::NoStream, |last| stream.was[last].1)
    }

    /// The last event of a stream at a moment.
    pub(crate) fn last_of(&self, stream: &StreamName, moment: usize) -> Option<usize> {
        between(&self.streams.get(stream)?.entries, 0, moment).last().copied()
    }

    /// Whether events of the stream may have been hidden by age.
    pub(crate) fn expires(&self, stream: &StreamName) -> bool {
        self.streams.get(stream).is_some_and(|stream| stream.expires)
    }

    /// Whether the stream had events of which nothing is known any more: then nothing precise can be said of it.
    pub(crate) fn unaccounted(&self, stream: &StreamName) -> bool {
        self.streams.get(stream).is_some_and(|stream| stream.unaccounted)
    }

    /// Whether that is so of any stream.
    pub(crate) fn any_unaccounted(&self) -> bool {
        self.streams.values().any(|stream| stream.unaccounted)
    }

    /// The first missing revision of every stream, with the entry before which it is missing.
    pub(crate) fn missing_revisions(&mut self, written: &[(StreamName, Revision)]) -> Vec<(usize, Revision)> {
        let mut missing = Vec::new();
        for stream in self.streams.values_mut() {
            let mut next = Revision::FIRST;
            for &at in &stream.entries {
                let found = self.entries[at].revision;
                if found > next && (found <= stream.state.hidden_before || stream.expires) {
                    stream.unaccounted = true;
                } else if found != next {
                    missing.push((at, next));
                }
                next = found.next();
            }
            stream.unaccounted |= next < stream.state.hidden_before;
        }
        for (name, written) in written {
            if let Some(stream) = self.streams.get_mut(name) {
                stream.unaccounted |= *written > stream.state.next_revision();
            }
        }
        missing.sort_unstable();
        missing
    }

    /// The entries of moments `from..to` that are of this source, in order.
    pub(crate) fn of_source(&self, source: &Source, from: usize, to: usize) -> Vec<usize> {
        match source {
            Source::All => (from..to.max(from)).collect(),
            Source::Stream(name) => self
                .streams
                .get(name)
                .map_or_else(Vec::new, |stream| between(&stream.entries, from, to).to_vec()),
            Source::Query(query) => self.matching(query, from, to),
        }
    }

    /// The entries of moments `from..to` that match, in order.
    pub(crate) fn matching(&self, query: &Query, from: usize, to: usize) -> Vec<usize> {
        let mut found = Vec::new();
        for criterion in &query.any_of {
            let holds = |at: &usize| {
                let entry = &self.entries[*at];
                criterion.holds(&entry.stream, &entry.event_type, &entry.tags)
            };
            match self.narrowest(criterion, from, to) {
                Some(candidates) => found.extend(candidates.iter().copied().filter(holds)),
                None => found.extend((from..to.max(from)).filter(holds)),
            }
        }
        if query.any_of.len() > 1 {
            found.sort_unstable();
            found.dedup();
        }
        found
    }

    /// The shortest list in which everything must be that meets the criterion; `None` if it may be anywhere.
    fn narrowest(&self, criterion: &Criterion, from: usize, to: usize) -> Option<&[usize]> {
        let mut lists: Vec<&[usize]> = Vec::new();
        if let Some(stream) = &criterion.stream {
            lists.push(self.streams.get(stream).map_or(&[], |stream| between(&stream.entries, from, to)));
        }
        if let Some(category) = &criterion.category {
            lists.push(self.categories.get(category).map_or(&[], |list| between(list, from, to)));
        }
        if let [only] = &criterion.types[..] {
            lists.push(self.types.get(only).map_or(&[], |list| between(list, from, to)));
        }
        for tag in criterion.tags.iter() {
            lists.push(self.tags.get(tag).map_or(&[], |list| between(list, from, to)));
        }
        lists.into_iter().min_by_key(|list| list.len())
    }
}

impl Stream {
    /// Notes what the stream is, and what became hidden, after the entry `at`.
    fn changed(&mut self, at: usize, entries: &[Entry], hidden_by: &mut [usize]) {
        self.was.push((at, self.state.actual()));
        while let Some(&oldest) = self.entries.get(self.hidden) {
            let tombstoned = self.state.life == Life::Tombstoned;
            if entries[oldest].revision >= self.state.hidden_before && !tombstoned {
                break;
            }
            hidden_by[oldest] = at;
            self.hidden += 1;
        }
    }
}

fn between(list: &[usize], from: usize, to: usize) -> &[usize] {
    let (first, last) = (list.partition_point(|at| *at < from), list.partition_point(|at| *at < to));
    &list[first..last.max(first)]
}

/// Adds to a list by key, and makes a key of its own only for the first.
fn push<K, Q>(lists: &mut HashMap<K, Vec<usize>>, key: &Q, at: usize, own: impl FnOnce(&Q) -> K)
where
    K: std::borrow::Borrow<Q> + Eq + std::hash::Hash,
    Q: Eq + std::hash::Hash + ?Sized,
{
    match lists.get_mut(key) {
        Some(list) => list.push(at),
        None => drop(lists.insert(own(key), vec![at])),
    }
}
