//! The index of the newest part of the log, in memory.

use std::collections::{HashMap, hash_map::Entry};

use factum::{EventId, EventType, Position, Result, Revision, StreamName, StreamState, Tags, Timestamp};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use super::{
    hashers::AsItIs,
    list::List,
    run::{Sorted, StreamEntry, StreamItem},
};

/// Keys of the events before that are remembered while several are taken in.
const LATELY: usize = 4;

/// What hashes are made with: who does not know it cannot make names that collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Secret(pub u64);

/// The kinds of things under which events are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A stream's category.
    Category,
    /// An event's type.
    Type,
    /// One of an event's tags.
    Tag,
}

impl Secret {
    /// The hash under which events of a category, type or tag are found.
    pub fn key(self, kind: Kind, name: &str) -> u64 {
        let seed = match kind {
            Kind::Category => self.0,
            Kind::Type => self.0.rotate_left(21),
            Kind::Tag => self.0.rotate_left(42),
        };
        xxh3_64_with_seed(name.as_bytes(), seed)
    }

    /// The hash of a stream: so wide that it is taken for the stream itself.
    pub fn stream(self, name: &str) -> u128 {
        xxh3_128_with_seed(name.as_bytes(), self.0)
    }

    /// The hash under which an event's id is found: ids are unique only within a stream.
    pub fn id(self, stream: u128, id: EventId) -> u64 {
        xxh3_64_with_seed(&(stream ^ id.0.as_u128()).to_le_bytes(), self.0)
    }

    /// Adds the hashes under which an event is found, besides its stream and id.
    pub fn keys_of(self, stream: &StreamName, event_type: &EventType, tags: &Tags, keys: &mut Vec<u64>) {
        keys.push(self.key(Kind::Category, stream.category()));
        keys.push(self.key(Kind::Type, event_type));
        keys.extend(tags.iter().map(|tag| self.key(Kind::Tag, tag)));
    }
}

/// An index of some part of the log, in memory.
#[derive(Debug, Default)]
pub struct Index {
    streams: HashMap<u128, Stream, AsItIs>,
    ids: HashMap<u64, Position, AsItIs>,
    /// Ids whose hash is that of another one.
    more_ids: Vec<(u64, Position)>,
    /// The largest id in it.
    largest_id: u128,
    /// The number of each key's list.
    keys: HashMap<u64, usize, AsItIs>,
    lists: Vec<Vec<Position>>,
    events: u64,
    last: Option<(Position, Timestamp)>,
    /// How many streams hide some of their events.
    hiding: usize,
}

#[derive(Debug, Default)]
struct Stream {
    /// As it is after this part, not only because of it.
    state: StreamState,
    /// Of its events in this part, in order.
    positions: Vec<Position>,
}

impl Stream {
    /// The revision of its first event in this part.
    fn first_revision(&self) -> u64 {
        self.state.next_revision().0 - self.positions.len() as u64
    }
}

/// Where an event is, and under what it is found, besides its stream.
#[derive(Clone, Copy, Debug)]
pub struct Indexed<'a> {
    /// Where it is.
    pub position: Position,
    /// Its id.
    pub id: EventId,
    /// [`Secret::id`] of it.
    pub id_hash: u64,
    /// [`Secret::keys_of`] it.
    pub keys: &'a [u64],
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

    /// The largest id in it: one that is larger is not.
    pub fn largest_id(&self) -> u128 {
        self.largest_id
    }

    /// Whether any stream hides any of its events.
    pub fn hides_something(&self) -> bool {
        self.hiding > 0
    }

    /// The state of a stream after this part but for events from `end` on, if the part says anything of it. So many events from
    /// there on are in the part before this one.
    pub fn state_before(&self, stream: u128, end: u64, earlier: u64) -> Option<StreamState> {
        let mut state = self.streams.get(&stream)?.state;
        let beyond = self.events_from(stream, end) + earlier;
        state.last_revision = state.next_revision().0.checked_sub(beyond + 1).map(Revision);
        Some(state)
    }

    /// How many events of a stream lie at `end` or beyond.
    pub fn events_from(&self, stream: u128, end: u64) -> u64 {
        let beyond = |stream: &Stream| {
            stream.positions.iter().rev().take_while(|position| position.0 >= end).count() as u64
        };
        self.streams.get(&stream).map_or(0, beyond)
    }

    /// The position of an event of a stream by its revision; `None` if a part before this one knows it.
    pub fn position_of(&self, stream: u128, revision: Revision) -> Option<Option<Position>> {
        let stream = self.streams.get(&stream)?;
        let n = revision.0.checked_sub(stream.first_revision())?;
        Some(usize::try_from(n).ok().and_then(|n| stream.positions.get(n).copied()))
    }

    /// What it knows of a stream.
    pub fn stream(&self, stream: u128) -> Option<StreamEntry<'_>> {
        let stream = self.streams.get(&stream)?;
        Some(StreamEntry { first_revision: stream.first_revision(), list: List::Slice(&stream.positions) })
    }

    /// The events under a key.
    pub fn key(&self, hash: u64) -> Option<List<'_>> {
        self.keys.get(&hash).map(|number| List::Slice(&self.lists[*number]))
    }

    /// Where events with this hash of their id are.
    pub fn find(&self, id_hash: u64) -> impl Iterator<Item = Position> {
        let more = self.more_ids.iter().filter(move |(other, _)| *other == id_hash);
        self.ids.get(&id_hash).copied().into_iter().chain(more.map(|(_, position)| *position))
    }

    /// Takes in an event of a stream that comes after all that are in it, and leaves the stream in this state.
    pub fn add(&mut self, stream: u128, state: StreamState, at: Timestamp, event: Indexed<'_>) {
        self.add_all(stream, state, at, std::iter::once(event));
    }

    /// The same for several events of one stream.
    pub fn add_all<'a>(
        &mut self,
        stream: u128,
        state: StreamState,
        at: Timestamp,
        events: impl Iterator<Item = Indexed<'a>>,
    ) {
        let Self { streams, ids, more_ids, keys, lists, .. } = self;
        let entry = streams.entry(stream).or_default();
        self.hiding += usize::from(!state.hides_nothing());
        self.hiding -= usize::from(!entry.state.hides_nothing());
        entry.state = state;
        // Events of one append often have the same keys, in the same order.
        let mut lately: [(u64, usize); LATELY] = [(0, usize::MAX); LATELY];
        for event in events {
            entry.positions.push(event.position);
            match ids.entry(event.id_hash) {
                Entry::Vacant(entry) => drop(entry.insert(event.position)),
                Entry::Occupied(_) => more_ids.push((event.id_hash, event.position)),
            }
            for (n, key) in event.keys.iter().enumerate() {
                let known = &mut lately[n % LATELY];
                if known.0 != *key || known.1 == usize::MAX {
                    let number = *keys.entry(*key).or_insert_with(|| {
                        lists.push(Vec::new());
                        lists.len() - 1
                    });
                    *known = (*key, number);
                }
                lists[known.1].push(event.position);
            }
            self.largest_id = self.largest_id.max(event.id.0.as_u128());
            self.events += 1;
            self.last = Some((event.position, at));
        }
    }

    /// Takes in how an event of a metadata stream left the stream it describes.
    pub fn describe(&mut self, stream: u128, state: StreamState) {
        let entry = self.streams.entry(stream).or_default();
        self.hiding += usize::from(!state.hides_nothing());
        self.hiding -= usize::from(!entry.state.hides_nothing());
        entry.state = state;
    }
}

impl Sorted for Index {
    fn sizes(&self) -> [u64; 3] {
        [self.streams.len() as u64, self.keys.len() as u64, self.events]
    }

    fn streams(&self, each: &mut dyn FnMut(StreamItem<'_>) -> Result<()>) -> Result<()> {
        let mut streams: Vec<(u128, &Stream)> =
            self.streams.iter().map(|(hash, stream)| (*hash, stream)).collect();
        streams.sort_unstable_by_key(|(hash, _)| *hash);
        for (hash, stream) in streams {
            let follows = StreamState { last_revision: stream.state.last_revision, ..StreamState::default() };
            let says_it_all = !stream.positions.is_empty() && stream.state == follows;
            each(StreamItem {
                hash,
                first_revision: stream.first_revision(),
                state: (!says_it_all).then_some(stream.state),
                lists: vec![List::Slice(&stream.positions)],
            })?;
        }
        Ok(())
    }

    fn keys(&self, each: &mut dyn FnMut(u64, Vec<List<'_>>) -> Result<()>) -> Result<()> {
        let mut keys: Vec<_> = self.keys.iter().collect();
        keys.sort_unstable_by_key(|(hash, _)| **hash);
        keys.into_iter().try_for_each(|(hash, number)| each(*hash, vec![List::Slice(&self.lists[*number])]))
    }

    fn ids(&self, each: &mut dyn FnMut(u64, Position) -> Result<()>) -> Result<()> {
        let mut ids: Vec<(u64, Position)> =
            self.ids.iter().map(|(hash, position)| (*hash, *position)).collect();
        ids.extend(&self.more_ids);
        ids.sort_unstable();
        ids.into_iter().try_for_each(|(hash, position)| each(hash, position))
    }
}
