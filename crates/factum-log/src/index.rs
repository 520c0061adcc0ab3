//! What is looked up instead of read: streams, ids, and which events to look at for a query.
//!
//! The index only ever says where to look. What is found there is read and compared, so that two names with the same hash
//! cost a look and nothing else.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use factum::{
    EventId, EventType, Position, Query, Revision, StreamName, StreamState, Tags, Timestamp,
    query::Criterion, stream::LifeChange,
};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128};

/// The kinds of things under which events are found.
const CATEGORY: u64 = 1;
const TYPE: u64 = 2;
const TAG: u64 = 3;

/// Under what an event is found, besides its stream and id.
pub fn keys_of(stream: &StreamName, event_type: &EventType, tags: &Tags) -> Vec<u64> {
    let mut keys = vec![key(CATEGORY, stream.category()), key(TYPE, event_type)];
    keys.extend(tags.iter().map(|tag| key(TAG, tag)));
    keys
}

fn key(kind: u64, name: &str) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), kind)
}

/// Under what an event's id is found: ids are unique only within a stream.
fn id_key(stream: &str, id: EventId) -> u128 {
    xxh3_128(stream.as_bytes()) ^ id.0.as_u128()
}

/// An index of some run of the log.
#[derive(Debug, Default)]
pub struct Index {
    streams: HashMap<StreamName, Stream>,
    ids: HashMap<u128, Position>,
    keys: HashMap<u64, Vec<Position>>,
    events: u64,
    last: Option<(Position, Timestamp)>,
    /// How many streams hide some of their events.
    hiding: usize,
}

#[derive(Debug, Default)]
struct Stream {
    /// As it is after this run, not only because of it.
    state: StreamState,
    /// Of its events in this run, in order.
    positions: Vec<Position>,
}

/// An event to take into an index.
#[derive(Clone, Copy, Debug)]
pub struct Indexed<'a> {
    /// Where it is.
    pub position: Position,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// Its stream.
    pub stream: &'a StreamName,
    /// Its id.
    pub id: EventId,
    /// [`keys_of`] it.
    pub keys: &'a [u64],
    /// The stream as it is with this event.
    pub state: StreamState,
}

impl Index {
    /// How many events are in it.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Its last event, and when that was recorded.
    pub fn last(&self) -> Option<(Position, Timestamp)> {
        self.last
    }

    /// Whether any stream hides any of its events.
    pub fn hides_something(&self) -> bool {
        self.hiding > 0
    }

    /// The state of a stream after this run, if the run says anything of it.
    pub fn state(&self, stream: &str) -> Option<StreamState> {
        self.streams.get(stream).map(|stream| stream.state)
    }

    /// The events of a stream in this run, in order.
    pub fn positions_of(&self, stream: &str) -> &[Position] {
        self.streams.get(stream).map(|stream| &stream.positions[..]).unwrap_or_default()
    }

    /// Where an event of this id and stream may be.
    pub fn find(&self, stream: &str, id: EventId) -> Option<Position> {
        self.ids.get(&id_key(stream, id)).copied()
    }

    /// Takes in an event that comes after all that are in it.
    pub fn add(&mut self, event: Indexed<'_>) {
        self.set_state(event.stream, event.state);
        if let Some(stream) = self.streams.get_mut(event.stream) {
            stream.positions.push(event.position);
        }
        self.ids.insert(id_key(event.stream, event.id), event.position);
        for key in event.keys {
            self.keys.entry(*key).or_default().push(event.position);
        }
        self.events += 1;
        self.last = Some((event.position, event.recorded_at));
    }

    /// Takes in what an event of a metadata stream did to the stream it describes, which was in this state before.
    pub fn describe(&mut self, stream: &StreamName, before: StreamState, change: &LifeChange, at: Timestamp) {
        let mut state = before;
        state.described(change, at);
        self.set_state(stream, state);
    }

    fn set_state(&mut self, stream: &StreamName, state: StreamState) {
        let hides = usize::from(!state.hides_nothing());
        match self.streams.entry(stream.clone()) {
            Entry::Occupied(mut entry) => {
                let hid = usize::from(!entry.get().state.hides_nothing());
                self.hiding = self.hiding + hides - hid;
                entry.get_mut().state = state;
            }
            Entry::Vacant(entry) => {
                self.hiding += hides;
                entry.insert(Stream { state, positions: Vec::new() });
            }
        }
    }

    /// Takes in the run that follows.
    pub fn absorb(&mut self, next: &Self) {
        for (name, stream) in &next.streams {
            self.set_state(name, stream.state);
            if let Some(own) = self.streams.get_mut(name) {
                own.positions.extend(&stream.positions);
            }
        }
        self.ids.extend(&next.ids);
        for (key, positions) in &next.keys {
            self.keys.entry(*key).or_default().extend(positions);
        }
        self.events += next.events;
        self.last = next.last.or(self.last);
    }

    /// The places where events that match `query` may be; `None` if that may be anywhere.
    pub fn places(&self, query: &Query) -> Option<Places<'_>> {
        let any_of = query.any_of.iter().map(|criterion| self.places_of(criterion)).collect::<Option<_>>()?;
        Some(Places { any_of })
    }

    fn places_of(&self, criterion: &Criterion) -> Option<AllOf<'_>> {
        let under =
            |kind, name: &str| self.keys.get(&key(kind, name)).map(|list| &list[..]).unwrap_or_default();
        let mut all_of = Vec::new();
        all_of.extend(criterion.stream.iter().map(|stream| vec![self.positions_of(stream)]));
        all_of.extend(criterion.tags.iter().map(|tag| vec![under(TAG, tag)]));
        if !criterion.types.is_empty() {
            // A type named twice must not make its events come twice.
            let types: HashSet<&str> = criterion.types.iter().map(EventType::as_str).collect();
            all_of.push(types.into_iter().map(|name| under(TYPE, name)).collect());
        }
        all_of.extend(criterion.category.iter().map(|category| vec![under(CATEGORY, category)]));
        all_of.sort_by_key(|lists: &Vec<&[Position]>| lists.iter().map(|list| list.len()).sum::<usize>());
        (!all_of.is_empty()).then_some(AllOf(all_of))
    }
}

/// Where to look for what matches a query.
#[derive(Debug)]
pub struct Places<'a> {
    any_of: Vec<AllOf<'a>>,
}

/// Lists of which each must have a place in one of its parts; the shortest first.
#[derive(Debug)]
struct AllOf<'a>(Vec<Vec<&'a [Position]>>);

impl Places<'_> {
    /// The first place beyond `after`.
    pub fn next(&self, after: Position) -> Option<Position> {
        self.any_of.iter().filter_map(|all_of| all_of.next(after)).min()
    }

    /// The last place before `before`.
    pub fn previous(&self, before: Position) -> Option<Position> {
        self.any_of.iter().filter_map(|all_of| all_of.previous(before)).max()
    }

    /// How many places there are between, both excluded, at most.
    pub fn at_most(&self, after: Position, before: Position) -> usize {
        let between = |list: &&[Position]| {
            let first = list.partition_point(|&position| position <= after);
            list[first..].partition_point(|&position| position < before)
        };
        self.any_of.iter().map(|all_of| all_of.0[0].iter().map(between).sum::<usize>()).sum()
    }
}

impl AllOf<'_> {
    fn next(&self, mut after: Position) -> Option<Position> {
        loop {
            let first = self.0[0].iter().filter_map(|list| next_in(list, after)).min()?;
            match self.0[1..].iter().find(|lists| !has(lists, first)) {
                None => return Some(first),
                // Nothing can match before the missing list has something to offer.
                Some(missing) => {
                    let offered = missing.iter().filter_map(|list| next_in(list, first)).min()?;
                    after = Position(offered.0 - 1);
                }
            }
        }
    }

    fn previous(&self, mut before: Position) -> Option<Position> {
        loop {
            let last = self.0[0].iter().filter_map(|list| previous_in(list, before)).max()?;
            match self.0[1..].iter().find(|lists| !has(lists, last)) {
                None => return Some(last),
                Some(missing) => {
                    let offered = missing.iter().filter_map(|list| previous_in(list, last)).max()?;
                    before = Position(offered.0 + 1);
                }
            }
        }
    }
}

fn has(lists: &[&[Position]], position: Position) -> bool {
    lists.iter().any(|list| list.binary_search(&position).is_ok())
}

fn next_in(list: &[Position], after: Position) -> Option<Position> {
    list.get(list.partition_point(|&position| position <= after)).copied()
}

fn previous_in(list: &[Position], before: Position) -> Option<Position> {
    list[..list.partition_point(|&position| position < before)].last().copied()
}

/// The state of a stream with one more event.
pub fn with_event(mut state: StreamState) -> (StreamState, Revision) {
    let revision = state.written();
    (state, revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(events: &[(u64, &str, &str, &[&str])]) -> Index {
        let mut index = Index::default();
        for (position, stream, event_type, tags) in events {
            let stream = StreamName::new(*stream).unwrap();
            let (event_type, tags) = (EventType::new(*event_type).unwrap(), Tags::new(*tags).unwrap());
            let (state, _) = with_event(index.state(&stream).unwrap_or_default());
            index.add(Indexed {
                position: Position(*position),
                recorded_at: Timestamp(0),
                stream: &stream,
                id: EventId::new(),
                keys: &keys_of(&stream, &event_type, &tags),
                state,
            });
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
            let places = index.places(&query).unwrap();
            let (mut forwards, mut at) = (Vec::new(), Position(0));
            while let Some(next) = places.next(at) {
                forwards.push(next.0);
                at = next;
            }
            let (mut backwards, mut at) = (Vec::new(), Position(1000));
            while let Some(previous) = places.previous(at) {
                backwards.insert(0, previous.0);
                at = previous;
            }
            assert_eq!(forwards, backwards);
            assert!(places.at_most(Position(0), Position(1000)) >= forwards.len());
            forwards
        };
        assert_eq!(all(Query::tags(["c:1", "s:1"]).unwrap()), [10, 20]);
        assert_eq!(all(Query::types(["Taken", "Left", "Taken"]).unwrap()), [10, 30, 40, 50]);
        assert_eq!(all(Query::types(["Taken"]).unwrap().tag("s:1").unwrap()), [10, 30]);
        assert_eq!(all(Query::category("course").or(Query::tags(["s:1"]).unwrap())), [10, 20, 30, 40, 50]);
        assert_eq!(all(Query::stream(StreamName::new("course-1").unwrap()).tag("s:2").unwrap()), [40]);
        assert_eq!(all(Query::tags(["c:3"]).unwrap()), [0; 0]);
        assert_eq!(all(Query::types([""; 0]).unwrap()), [0; 0]);
        assert!(index.places(&Query::all()).is_none());
    }
}
