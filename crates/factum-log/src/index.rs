//! What is looked up instead of read: streams, ids, and which events to look at for a query.
//!
//! The newest part of the log is indexed in memory. When that has grown enough it is frozen, written to a file of its own (a
//! run), and dropped; runs that follow each other are merged when there are many. The index only ever says where to look: what is
//! found there is read and compared, so that two names with the same hash cost a look and nothing else.

mod bloom;
mod hashers;
mod list;
mod memory;
pub mod run;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use factum::{
    EventId, EventType, Position, Query, Result, Revision, StreamState, Timestamp, query::Criterion,
};

#[cfg(test)]
pub use self::bloom::may_have;
use self::list::List;
pub use self::{
    hashers::AsItIs,
    memory::{Index, Indexed, Kind, Secret},
    run::{PageCache, Run, Span, StreamEntry},
};

/// Runs of the same size that are merged at once.
const FAN: usize = 4;
/// Events of a merged run, at most: merging holds the longest list of a run in memory.
const MOST_EVENTS: u64 = 16 << 20;

/// The index of the whole log: runs, then what is being written to one, then what is in memory.
///
/// It knows of events that are decided on but not durable yet, and so not to be seen: whoever asks for what is durable says where
/// that ends.
#[derive(Debug)]
pub struct Layers {
    /// What hashes are made with.
    pub secret: Secret,
    runs: Arc<Vec<Arc<Run>>>,
    frozen: Option<(Arc<Index>, Span)>,
    /// The newest part.
    pub memory: Index,
    /// The position at which it begins.
    memory_start: u64,
    undone: Undone,
}

/// How streams were before what is not durable yet, where that does not follow from their events.
#[derive(Debug, Default)]
struct Undone {
    /// Before the batch in flight.
    in_flight: HashMap<u128, StreamState, AsItIs>,
    /// Before the open batch.
    open: HashMap<u128, StreamState, AsItIs>,
}

/// The part of the index that does not change any more.
#[derive(Clone, Debug)]
pub struct Settled {
    secret: Secret,
    runs: Arc<Vec<Arc<Run>>>,
    frozen: Option<(Arc<Index>, Span)>,
    /// The position at which it ends.
    pub end: u64,
}

/// One part of the index.
enum Layer<'a> {
    Run(&'a Arc<Run>),
    Memory(&'a Index),
}

impl<'a> Layer<'a> {
    fn stream(&self, stream: u128) -> Result<Option<StreamEntry<'a>>> {
        match self {
            Self::Run(run) => run.stream(stream),
            Self::Memory(index) => Ok(index.stream(stream)),
        }
    }

    /// The state of a stream at its end, but for events from `end` on.
    fn state(&self, stream: u128, end: u64) -> Result<Option<StreamState>> {
        match self {
            // All of it is durable.
            Self::Run(run) => run.state(stream),
            Self::Memory(index) => Ok(index.state_before(stream, end, 0)),
        }
    }

    fn key(&self, hash: u64) -> Result<Option<List<'a>>> {
        match self {
            Self::Run(run) => run.key(hash),
            Self::Memory(index) => Ok(index.key(hash)),
        }
    }

    fn ids(&self, hash: u64, id: EventId, found: &mut Vec<Position>) -> Result<()> {
        match self {
            Self::Run(run) => found.extend(run.ids(hash, id)?),
            Self::Memory(index) if id.0.as_u128() <= index.largest_id() => found.extend(index.find(hash)),
            Self::Memory(_) => {}
        }
        Ok(())
    }
}

impl Layers {
    /// The index of a log of which these runs are known, and nothing yet beyond them.
    pub fn new(secret: Secret, runs: Vec<Arc<Run>>) -> Self {
        let memory_start = runs.last().map_or(0, |run| run.span.end);
        let (memory, undone) = (Index::default(), Undone::default());
        Self { secret, runs: Arc::new(runs), frozen: None, memory, memory_start, undone }
    }

    /// The part that does not change any more.
    pub fn settled(&self) -> Settled {
        Settled {
            secret: self.secret,
            runs: self.runs.clone(),
            frozen: self.frozen.clone(),
            end: self.memory_start,
        }
    }

    /// The newest part first, each with the position at which it begins.
    fn newest_first(&self) -> impl Iterator<Item = (u64, Layer<'_>)> {
        let memory = (self.memory_start, Layer::Memory(&self.memory));
        let frozen = self.frozen.iter().map(|(index, span)| (span.start, Layer::Memory(index)));
        let runs = self.runs.iter().rev().map(|run| (run.span.start, Layer::Run(run)));
        std::iter::once(memory).chain(frozen).chain(runs)
    }

    fn settled_span(&self) -> Option<Span> {
        self.frozen.as_ref().map(|(_, span)| *span).or_else(|| self.runs.last().map(|run| run.span))
    }

    /// How many events there are.
    pub fn events(&self) -> u64 {
        self.settled_span().map_or(0, |span| span.events) + self.memory.events()
    }

    /// The last event, and when that was recorded.
    pub fn last(&self) -> Option<(Position, Timestamp)> {
        let settled = || self.settled_span().map(|span| (span.last, span.last_recorded_at));
        self.memory.last().or_else(settled)
    }

    /// Whether any stream may hide any of its events.
    pub fn hides_something(&self) -> bool {
        let frozen = self.frozen.as_ref().is_some_and(|(index, _)| index.hides_something());
        self.memory.hides_something() || frozen || self.runs.iter().any(|run| run.span.hides_something)
    }

    /// The state of a stream, if it was ever heard of, as it will be once everything that was decided on is durable.
    ///
    /// # Errors
    /// Those of the runs.
    pub fn state(&self, stream: u128) -> Result<Option<StreamState>> {
        self.state_beyond(stream, 0)
    }

    /// The same, but only from what the index knows of the log beyond a position.
    ///
    /// # Errors
    /// Those of the runs.
    pub fn state_beyond(&self, stream: u128, position: u64) -> Result<Option<StreamState>> {
        for layer in self.beyond(position) {
            if let Some(state) = layer.state(stream, u64::MAX)? {
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    /// The state of a stream of which everything before `end` is durable, if it is known without a look at [`Self::settled`].
    pub fn newest_durable_state(&self, stream: u128, end: u64) -> Option<StreamState> {
        let Undone { in_flight, open } = &self.undone;
        let undone = in_flight.get(&stream).or_else(|| open.get(&stream)).copied();
        // If the part before ended with the batch in flight, that is there, and what came after it is in memory.
        let earlier = || self.frozen.as_ref().map_or(0, |(index, _)| index.events_from(stream, end));
        let in_memory = self.memory.state_before(stream, end, earlier());
        let Some(undone) = undone else { return in_memory };
        // What was noted is how it was when its life changed: events of the same batch may have come before that.
        let in_frozen = || self.frozen.as_ref().and_then(|(index, _)| index.state_before(stream, end, 0));
        let last = in_memory.or_else(in_frozen).map(|state| state.last_revision);
        Some(StreamState { last_revision: last.unwrap_or(undone.last_revision), ..undone })
    }

    /// Where events with this id and this hash of it may be, from what the index knows of the log beyond a position.
    ///
    /// # Errors
    /// Those of the runs.
    pub fn ids_beyond(&self, hash: u64, id: EventId, position: u64) -> Result<Vec<Position>> {
        let mut found = Vec::new();
        for layer in self.beyond(position) {
            layer.ids(hash, id, &mut found)?;
        }
        Ok(found)
    }

    /// The parts that know of the log beyond a position, the newest first.
    fn beyond(&self, position: u64) -> impl Iterator<Item = Layer<'_>> {
        let mut end = u64::MAX;
        self.newest_first()
            .take_while(move |(start, _)| std::mem::replace(&mut end, *start) > position)
            .map(|(_, layer)| layer)
    }

    /// Takes note that a stream was like this before the open batch, unless that is known or follows from its events.
    pub fn remember(&mut self, stream: u128, before: StreamState, after: StreamState) {
        if (StreamState { last_revision: after.last_revision, ..before }) != after {
            self.undone.open.entry(stream).or_insert(before);
        }
    }

    /// Takes note that the open batch is in flight now.
    pub fn taken(&mut self) {
        self.undone.in_flight = std::mem::take(&mut self.undone.open);
    }

    /// Takes note that the batch in flight is durable now.
    pub fn landed(&mut self) {
        self.undone.in_flight.clear();
    }

    /// The places beyond `after` where events that match may be; `None` if that may be anywhere.
    ///
    /// # Errors
    /// Those of the runs.
    pub fn places(&self, query: &Query, after: Position) -> Result<Option<Places<'_>>> {
        let mut layers = Vec::new();
        let mut end = u64::MAX;
        for (start, layer) in self.newest_first() {
            if end <= after.0 {
                break;
            }
            match LayerPlaces::of(self.secret, &layer, query, end)? {
                Some(places) => layers.push(places),
                None => return Ok(None),
            }
            end = start;
        }
        layers.reverse();
        Ok(Some(Places { layers }))
    }

    /// The places in memory; none for a query that may match anywhere.
    pub fn newest_places(&self, query: &Query) -> Places<'_> {
        let places = places_in(&self.memory, self.secret, query);
        places.ok().flatten().unwrap_or(Places { layers: Vec::new() })
    }

    /// Whether the part in memory is large enough to be written, and nothing else is being written. If so, it is frozen.
    pub fn freeze(&mut self, at_least: u64, end: u64, next_frame: u64, log_id: uuid::Uuid) -> bool {
        if self.frozen.is_some() || self.memory.events() < at_least {
            return false;
        }
        let Some((last, last_recorded_at)) = self.last() else { return false };
        let span = Span {
            log_id,
            secret: self.secret.0,
            start: self.memory_start,
            end,
            events: self.events(),
            next_frame,
            last,
            last_recorded_at,
            hides_something: self.memory.hides_something(),
            largest_id: self.memory.largest_id(),
        };
        let memory = std::mem::take(&mut self.memory);
        self.frozen = Some((Arc::new(memory), span));
        self.memory_start = end;
        true
    }

    /// What is to be written to a run, if everything before `end` is durable.
    pub fn frozen(&self, end: u64) -> Option<(Arc<Index>, Span)> {
        self.frozen.clone().filter(|(_, span)| span.end <= end)
    }

    /// Puts the run in the place of what was frozen.
    pub fn thaw(&mut self, run: Run) {
        let mut runs = self.runs.to_vec();
        runs.push(Arc::new(run));
        self.runs = Arc::new(runs);
        self.frozen = None;
    }

    /// The runs that should be merged now: the newest ones, if so many of them are of about the same size.
    pub fn to_merge(&self, run_events: u64) -> Option<Vec<Arc<Run>>> {
        let mut before = 0;
        let sizes: Vec<u64> = self
            .runs
            .iter()
            .map(|run| run.span.events - std::mem::replace(&mut before, run.span.events))
            .collect();
        let level = |events: u64| (events / run_events.max(1)).checked_ilog(FAN as u64).unwrap_or(0);
        let first = sizes.len().checked_sub(FAN)?;
        let newest = &sizes[first..];
        let alike = newest.iter().all(|events| level(*events) == level(newest[0]));
        (alike && newest.iter().sum::<u64>() <= MOST_EVENTS).then(|| self.runs[first..].to_vec())
    }

    /// The run in this file, and those before it.
    pub fn run_at(&self, path: &str) -> Option<(Arc<Run>, Vec<Arc<Run>>)> {
        let n = self.runs.iter().position(|run| run.path() == path)?;
        Some((self.runs[n].clone(), self.runs[..n].to_vec()))
    }

    /// Puts runs that were made anew in the place of a damaged one.
    pub fn mend(&mut self, damaged: &Arc<Run>, mended: Vec<Arc<Run>>) {
        let Some(n) = self.runs.iter().position(|run| Arc::ptr_eq(run, damaged)) else { return };
        let mut runs = self.runs.to_vec();
        runs.splice(n..=n, mended);
        self.runs = Arc::new(runs);
    }

    /// The runs from this one on.
    pub fn runs_from(&self, n: usize) -> Vec<Arc<Run>> {
        self.runs[n.min(self.runs.len())..].to_vec()
    }

    /// Puts a run in the place of those it was made from.
    pub fn replace(&mut self, old: &[Arc<Run>], merged: Run) {
        let (Some(first), Some(last)) = (old.first(), old.last()) else { return };
        let (start, end) = (first.span.start, last.span.end);
        let mut runs: Vec<Arc<Run>> = self.runs.iter().filter(|run| run.span.end <= start).cloned().collect();
        runs.push(Arc::new(merged));
        runs.extend(self.runs.iter().filter(|run| run.span.start >= end).cloned());
        self.runs = Arc::new(runs);
    }
}

impl Settled {
    /// Tells that a stream will be looked up soon.
    pub fn will_look_up(&self, stream: u128) {
        self.runs.iter().for_each(|run| run.will_look_up(stream));
    }

    /// The state of a stream of which everything before `end` is durable, if it was heard of up to where this ends.
    ///
    /// # Errors
    /// Those of the runs.
    pub fn state(&self, stream: u128, end: u64) -> Result<Option<StreamState>> {
        for layer in self.newest_first() {
            if let Some(state) = layer.state(stream, end)? {
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    /// The position of an event of a stream by its revision.
    ///
    /// # Errors
    /// Those of the runs.
    pub fn position_of(&self, stream: u128, revision: Revision) -> Result<Option<Position>> {
        for layer in self.newest_first() {
            if let Some(entry) = layer.stream(stream)?
                && let Some(n) = revision.0.checked_sub(entry.first_revision)
            {
                return usize::try_from(n).map_or(Ok(None), |n| entry.list.get(n));
            }
        }
        Ok(None)
    }

    /// Where events with this id and this hash of it may be.
    ///
    /// # Errors
    /// Those of the runs.
    pub fn ids(&self, hash: u64, id: EventId, found: &mut Vec<Position>) -> Result<()> {
        self.newest_first().try_for_each(|layer| layer.ids(hash, id, found))
    }

    fn newest_first(&self) -> impl Iterator<Item = Layer<'_>> {
        let frozen = self.frozen.iter().map(|(index, _)| Layer::Memory(index));
        frozen.chain(self.runs.iter().rev().map(Layer::Run))
    }

    /// As for [`Layers::places`], up to where this ends.
    ///
    /// # Errors
    /// Those of the runs.
    pub fn places(&self, query: &Query, after: Position, before: Position) -> Result<Option<Places<'_>>> {
        let mut layers = Vec::new();
        let runs = self.runs.iter().map(|run| (run.span, Layer::Run(run)));
        let frozen = self.frozen.iter().map(|(index, span)| (*span, Layer::Memory(index)));
        for (span, layer) in runs.chain(frozen) {
            if span.end > after.0 && span.start < before.0 {
                match LayerPlaces::of(self.secret, &layer, query, span.end)? {
                    Some(places) => layers.push(places),
                    None => return Ok(None),
                }
            }
        }
        if layers.is_empty() && query.any_of.iter().any(is_everything) {
            return Ok(None);
        }
        Ok(Some(Places { layers }))
    }
}

/// Whether an alternative restricts nothing.
pub fn is_everything(criterion: &Criterion) -> bool {
    *criterion == Criterion::default()
}

/// The places of one index that is not part of a log yet; `None` if they may be anywhere.
///
/// # Errors
/// None in practice: nothing is read.
pub fn places_in<'a>(index: &'a Index, secret: Secret, query: &Query) -> Result<Option<Places<'a>>> {
    let places = LayerPlaces::of(secret, &Layer::Memory(index), query, u64::MAX)?;
    Ok(places.map(|places| Places { layers: vec![places] }))
}

/// Where to look for what matches a query.
#[derive(Debug)]
pub struct Places<'a> {
    /// The oldest first; each knows only of positions between those of its neighbours.
    layers: Vec<LayerPlaces<'a>>,
}

#[derive(Debug)]
struct LayerPlaces<'a> {
    /// Its positions lie before this one.
    end: u64,
    any_of: Vec<AllOf<'a>>,
}

/// Lists of which each must have a place in one of its parts; the shortest first.
#[derive(Debug)]
struct AllOf<'a>(Vec<Vec<List<'a>>>);

impl<'a> LayerPlaces<'a> {
    fn of(secret: Secret, layer: &Layer<'a>, query: &Query, end: u64) -> Result<Option<Self>> {
        let mut any_of = Vec::new();
        for criterion in &query.any_of {
            if is_everything(criterion) {
                return Ok(None);
            }
            any_of.extend(AllOf::of(secret, layer, criterion)?);
        }
        Ok(Some(Self { end, any_of }))
    }
}

impl<'a> AllOf<'a> {
    /// `None` if nothing in the layer can match.
    fn of(secret: Secret, layer: &Layer<'a>, criterion: &Criterion) -> Result<Option<Self>> {
        let mut all_of: Vec<Vec<List<'a>>> = Vec::new();
        let mut need = |lists: Vec<List<'a>>| {
            let some = !lists.is_empty();
            all_of.push(lists);
            some
        };
        if let Some(stream) = &criterion.stream
            && !need(layer.stream(secret.stream(stream))?.map(|entry| entry.list).into_iter().collect())
        {
            return Ok(None);
        }
        for tag in criterion.tags.iter() {
            if !need(layer.key(secret.key(Kind::Tag, tag))?.into_iter().collect()) {
                return Ok(None);
            }
        }
        if let Some(category) = &criterion.category
            && !need(layer.key(secret.key(Kind::Category, category))?.into_iter().collect())
        {
            return Ok(None);
        }
        // A type named twice must not make its events come twice.
        let types: HashSet<&str> = criterion.types.iter().map(EventType::as_str).collect();
        if !types.is_empty() {
            let mut lists = Vec::new();
            for name in types {
                lists.extend(layer.key(secret.key(Kind::Type, name))?);
            }
            if !need(lists) {
                return Ok(None);
            }
        }
        all_of.sort_by_key(|lists| lists.iter().map(List::len).sum::<usize>());
        Ok(Some(Self(all_of)))
    }

    fn next(&self, mut after: Position) -> Result<Option<Position>> {
        'candidates: loop {
            let Some(first) = next_of(&self.0[0], after)? else { return Ok(None) };
            for lists in &self.0[1..] {
                if !has(lists, first)? {
                    // Nothing can match before the missing list has something to offer.
                    let Some(offered) = next_of(lists, first)? else { return Ok(None) };
                    after = Position(offered.0 - 1);
                    continue 'candidates;
                }
            }
            return Ok(Some(first));
        }
    }

    fn previous(&self, mut before: Position, floor: Position) -> Result<Option<Position>> {
        'candidates: loop {
            let last = previous_of(&self.0[0], before)?.filter(|last| *last > floor);
            let Some(last) = last else { return Ok(None) };
            for lists in &self.0[1..] {
                if !has(lists, last)? {
                    let Some(offered) = previous_of(lists, last)? else { return Ok(None) };
                    before = Position(offered.0 + 1);
                    continue 'candidates;
                }
            }
            return Ok(Some(last));
        }
    }
}

fn next_of(lists: &[List<'_>], after: Position) -> Result<Option<Position>> {
    least(lists.iter().map(|list| list.next(after)))
}

fn previous_of(lists: &[List<'_>], before: Position) -> Result<Option<Position>> {
    greatest(lists.iter().map(|list| list.previous(before)))
}

fn has(lists: &[List<'_>], position: Position) -> Result<bool> {
    for list in lists {
        if list.has(position)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn least(mut found: impl Iterator<Item = Result<Option<Position>>>) -> Result<Option<Position>> {
    found.try_fold(None, |least: Option<Position>, next| Ok(least.into_iter().chain(next?).min()))
}

fn greatest(mut found: impl Iterator<Item = Result<Option<Position>>>) -> Result<Option<Position>> {
    found.try_fold(None, |greatest: Option<Position>, next| Ok(greatest.max(next?)))
}

impl Places<'_> {
    /// The first place beyond `after`.
    ///
    /// # Errors
    /// Those of the runs.
    pub fn next(&self, after: Position) -> Result<Option<Position>> {
        for layer in self.layers.iter().filter(|layer| layer.end > after.0) {
            if let Some(place) = least(layer.any_of.iter().map(|all_of| all_of.next(after)))? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// The last place before `before`, if that lies beyond `floor`: nothing below is looked at.
    ///
    /// # Errors
    /// Those of the runs.
    pub fn previous(&self, before: Position, floor: Position) -> Result<Option<Position>> {
        for layer in self.layers.iter().rev().take_while(|layer| layer.end > floor.0) {
            if let Some(place) = greatest(layer.any_of.iter().map(|all_of| all_of.previous(before, floor)))? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// How many places there are between, both excluded, or some more.
    pub fn about_between(&self, after: Position, before: Position) -> usize {
        let of_all = |all_of: &AllOf<'_>| {
            all_of.0[0].iter().map(|list| list.about_between(after, before)).sum::<usize>()
        };
        self.layers.iter().flat_map(|layer| &layer.any_of).map(of_all).sum()
    }
}

#[cfg(test)]
mod tests {
    use factum::{StreamName, Tags};

    use super::*;

    const SECRET: Secret = Secret(77);

    fn index(events: &[(u64, &str, &str, &[&str])]) -> Index {
        let mut index = Index::default();
        for (position, stream, event_type, tags) in events {
            let stream = StreamName::new(*stream).unwrap();
            let (event_type, tags) = (EventType::new(*event_type).unwrap(), Tags::new(*tags).unwrap());
            let (hash, mut keys) = (SECRET.stream(&stream), Vec::new());
            let mut state = index.state_before(hash, u64::MAX, 0).unwrap_or_default();
            state.written();
            SECRET.keys_of(&stream, &event_type, &tags, &mut keys);
            let (position, id) = (Position(*position), EventId::new());
            let event = Indexed { position, id, id_hash: SECRET.id(hash, id), keys: &keys };
            index.add(hash, state, Timestamp(0), event);
        }
        index
    }

    #[test]
    fn places_are_found_in_both_directions() {
        let index = index(&[
            (10, "course-1", "Taken", &["c:1", "s:1"]),
            (20, "course-1", "Freed", &["c:1", "s:1"]),
            (30, "course-2", "Taken", &["c:2", "s:1"]),
            (40, "course-1", "Taken", &["c:1", "s:2"]),
            (50, "student-1", "Left", &["s:1"]),
        ]);
        let all = |query: Query| {
            let places = places_in(&index, SECRET, &query).unwrap().unwrap();
            let (mut forwards, mut at) = (Vec::new(), Position(0));
            while let Some(next) = places.next(at).unwrap() {
                forwards.push(next.0);
                at = next;
            }
            let (mut backwards, mut at) = (Vec::new(), Position(1000));
            while let Some(previous) = places.previous(at, Position(0)).unwrap() {
                backwards.insert(0, previous.0);
                at = previous;
            }
            assert_eq!(forwards, backwards);
            assert!(places.about_between(Position(0), Position(1000)) >= forwards.len());
            forwards
        };
        assert_eq!(all(Query::tags(["c:1", "s:1"]).unwrap()), [10, 20]);
        assert_eq!(all(Query::types(["Taken", "Left", "Taken"]).unwrap()), [10, 30, 40, 50]);
        assert_eq!(all(Query::types(["Taken"]).unwrap().tag("s:1").unwrap()), [10, 30]);
        assert_eq!(all(Query::category("course").or(Query::tags(["s:1"]).unwrap())), [10, 20, 30, 40, 50]);
        assert_eq!(all(Query::stream(StreamName::new("course-1").unwrap()).tag("s:2").unwrap()), [40]);
        assert_eq!(all(Query::tags(["c:3"]).unwrap()), [0; 0]);
        assert_eq!(all(Query::types([""; 0]).unwrap()), [0; 0]);
        assert!(places_in(&index, SECRET, &Query::all()).unwrap().is_none());
    }
}
