//! The index of the newest part of the log, in memory.

use std::collections::{HashMap, hash_map::Entry};

use bytestring::ByteString;
use factum::{
    EventId, EventType, Position, Result, Revision, StreamName, StreamState, Tags, Timestamp,
    stream::LifeChange,
};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use super::{
    hashers::AsItIs,
    list::List,
    run::{Sorted, StreamEntry, StreamItem},
};

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
    pub fn id(self, stream: &str, id: EventId) -> u64 {
        let both = self.stream(stream) ^ id.0.as_u128();
        xxh3_64_with_seed(&both.to_le_bytes(), self.0)
    }

    /// Under what an event is found, besides its stream and id.
    pub fn keys_of(self, stream: &StreamName, event_type: &EventType, tags: &Tags) -> Vec<u64> {
        let mut keys = vec![self.key(Kind::Category, stream.category()), self.key(Kind::Type, event_type)];
        keys.extend(tags.iter().map(|tag| self.key(Kind::Tag, tag)));
        keys
    }
}

/// An index of some part of the log, in memory.
#[derive(Debug)]
pub struct Index {
    secret: Secret,
    streams: HashMap<StreamName, Stream, Secret>,
    ids: HashMap<u64, Position, AsItIs>,
    /// Ids whose hash is that of another one.
    more_ids: Vec<(u64, Position)>,
    keys: HashMap<u64, Vec<Position>, AsItIs>,
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
    /// [`Secret::keys_of`] it.
    pub keys: &'a [u64],
    /// The stream as it is with this event.
    pub state: StreamState,
}

impl Index {
    /// An index of nothing.
    pub fn new(secret: Secret) -> Self {
        Self {
            secret,
            streams: HashMap::with_hasher(secret),
            ids: HashMap::default(),
            more_ids: Vec::new(),
            keys: HashMap::default(),
            events: 0,
            last: None,
            hiding: 0,
        }
    }

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

    /// The state of a stream after this part, if the part says anything of it.
    pub fn state(&self, stream: &str) -> Option<StreamState> {
        self.streams.get(stream).map(|stream| stream.state)
    }

    /// What it knows of a stream.
    pub fn stream(&self, name: &str) -> Option<StreamEntry<'_>> {
        let stream = self.streams.get(name)?;
        let (first_revision, state) = (stream.first_revision(), stream.state);
        Some(StreamEntry { first_revision, state, list: List::Slice(&stream.positions) })
    }

    /// The events under a key.
    pub fn key(&self, hash: u64) -> Option<List<'_>> {
        self.keys.get(&hash).map(|list| List::Slice(list))
    }

    /// Where an event of this id and stream may be.
    pub fn find(&self, stream: &str, id: EventId) -> impl Iterator<Item = Position> {
        let hash = self.secret.id(stream, id);
        let more =
            self.more_ids.iter().filter(move |(other, _)| *other == hash).map(|(_, position)| *position);
        self.ids.get(&hash).copied().into_iter().chain(more)
    }

    /// Takes in an event that comes after all that are in it.
    pub fn add(&mut self, event: Indexed<'_>) {
        self.set_state(event.stream, event.state);
        if let Some(stream) = self.streams.get_mut(event.stream) {
            stream.positions.push(event.position);
        }
        self.add_id(self.secret.id(event.stream, event.id), event.position);
        for key in event.keys {
            self.keys.entry(*key).or_default().push(event.position);
        }
        self.events += 1;
        self.last = Some((event.position, event.recorded_at));
    }

    fn add_id(&mut self, hash: u64, position: Position) {
        match self.ids.entry(hash) {
            Entry::Vacant(entry) => drop(entry.insert(position)),
            Entry::Occupied(_) => self.more_ids.push((hash, position)),
        }
    }

    /// Takes in what an event of a metadata stream did to the stream it describes, which was in this state before.
    pub fn describe(&mut self, stream: &StreamName, before: StreamState, change: &LifeChange, at: Timestamp) {
        let mut state = before;
        state.described(change, at);
        self.set_state(stream, state);
    }

    fn set_state(&mut self, name: &StreamName, state: StreamState) {
        let hides = usize::from(!state.hides_nothing());
        if let Some(stream) = self.streams.get_mut(name) {
            let hid = usize::from(!stream.state.hides_nothing());
            self.hiding = self.hiding + hides - hid;
            stream.state = state;
        } else {
            self.hiding += hides;
            // A copy: the name may be a piece of a large buffer, which would stay in memory with it.
            let name = StreamName::from_store(ByteString::from(name.as_str().to_owned()));
            self.streams.insert(name, Stream { state, positions: Vec::new() });
        }
    }

    /// Takes in the part that follows.
    pub fn absorb(&mut self, next: &Self) {
        for (name, stream) in &next.streams {
            self.set_state(name, stream.state);
            if let Some(own) = self.streams.get_mut(name) {
                own.positions.extend(&stream.positions);
            }
        }
        for (hash, position) in
            next.ids.iter().map(|(hash, position)| (*hash, *position)).chain(next.more_ids.iter().copied())
        {
            self.add_id(hash, position);
        }
        for (key, positions) in &next.keys {
            self.keys.entry(*key).or_default().extend(positions);
        }
        self.events += next.events;
        self.last = next.last.or(self.last);
    }
}

impl Sorted for Index {
    fn sizes(&self) -> [u64; 3] {
        [self.streams.len() as u64, self.keys.len() as u64, self.events]
    }

    fn streams(&self, each: &mut dyn FnMut(StreamItem) -> Result<()>) -> Result<()> {
        let mut streams: Vec<_> =
            self.streams.iter().map(|(name, stream)| (self.secret.stream(name), stream)).collect();
        streams.sort_unstable_by_key(|(hash, _)| *hash);
        for (hash, stream) in streams {
            let follows = StreamState { last_revision: stream.state.last_revision, ..StreamState::default() };
            let says_it_all = !stream.positions.is_empty() && stream.state == follows;
            each(StreamItem {
                hash,
                first_revision: stream.first_revision(),
                state: (!says_it_all).then_some(stream.state),
                positions: stream.positions.clone(),
            })?;
        }
        Ok(())
    }

    fn keys(&self, each: &mut dyn FnMut(u64, Vec<Position>) -> Result<()>) -> Result<()> {
        let mut keys: Vec<_> = self.keys.iter().collect();
        keys.sort_unstable_by_key(|(hash, _)| **hash);
        keys.into_iter().try_for_each(|(hash, positions)| each(*hash, positions.clone()))
    }

    fn ids(&self, each: &mut dyn FnMut(u64, Position) -> Result<()>) -> Result<()> {
        let mut ids: Vec<(u64, Position)> =
            self.ids.iter().map(|(hash, position)| (*hash, *position)).collect();
        ids.extend(&self.more_ids);
        ids.sort_unstable();
        ids.into_iter().try_for_each(|(hash, position)| each(hash, position))
    }
}

/// The state of a stream with one more event.
pub fn with_event(mut state: StreamState) -> (StreamState, Revision) {
    let revision = state.written();
    (state, revision)
}
