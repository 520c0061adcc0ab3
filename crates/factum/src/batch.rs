//! What a filler is given: records of the log, decoded once for all who read them as the same events.

use std::{
    any::{Any, TypeId},
    borrow::Cow,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use crate::{
    aggregate::{EventSet, Recorded},
    error::{Error, Result},
    event::RecordedEvent,
    position::{Position, Token},
    query::Query,
    worker::said,
};

/// Records to apply.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The checkpoint that the generation has now.
    pub from: Option<Token>,
    /// The checkpoint that it gets.
    pub to: Token,
    /// Whether readers see what is filled.
    pub(crate) is_shown: bool,
    pieces: Vec<Piece>,
}

/// Some records of those that were read together.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) records: Arc<Records>,
    pub(crate) selected: Selected,
}

/// What came of a [`Batch`].
#[derive(Clone, Debug)]
pub struct Filled {
    /// The checkpoint now.
    pub checkpoint: Option<Token>,
    /// Why it ends there, before the batch's end: an event that cannot be decoded or handled.
    pub problem: Option<Error>,
}

/// Some records of the log, and what they are as events of one type or another: decoded by the first who asks.
#[derive(Default)]
pub(crate) struct Records {
    pub(crate) records: Vec<RecordedEvent>,
    /// Of their data, as stored.
    pub(crate) bytes: usize,
    decoded: Mutex<Vec<AsEvents>>,
}

/// The records as events of one type: the type, and its [`Slots`].
type AsEvents = (TypeId, Arc<dyn Any + Send + Sync>);

/// Which of the records.
#[derive(Clone, Debug)]
pub(crate) enum Selected {
    All,
    These(Arc<[usize]>),
}

/// The records of a batch as events, up to the first that cannot be decoded.
///
/// A record is the unit: it may hold several events or none, and a checkpoint is never put between two events of one record.
pub struct Decoded<E> {
    pieces: Vec<(Arc<Records>, Slots<E>)>,
    /// Each record's piece, and its place in it.
    units: Vec<(usize, usize)>,
    /// Why the record after the last of these cannot be decoded.
    pub problem: Option<Error>,
}

type Slot<E> = OnceLock<Result<Parts<E>>>;
type Slots<E> = Arc<[Slot<E>]>;

/// The events of one record: nearly always one.
struct Parts<E> {
    one: Option<Recorded<E>>,
    several: Vec<Recorded<E>>,
}

impl Batch {
    /// These records, beginning at the checkpoint `from`; `to` is the one that the generation gets.
    pub fn new(from: Option<Token>, to: Token, records: Vec<RecordedEvent>) -> Self {
        let records = Arc::new(Records::new(records));
        Self::of(from, to, vec![Piece { records, selected: Selected::All }])
    }

    pub(crate) fn of(from: Option<Token>, to: Token, pieces: Vec<Piece>) -> Self {
        Self { from, to, is_shown: false, pieces }
    }

    /// The records as events. What several projections read as the same events is decoded once.
    pub fn decode<E: EventSet>(&self) -> Decoded<E> {
        Decoded::of_pieces(&self.pieces)
    }

    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The records.
    pub(crate) fn records(&self) -> Vec<RecordedEvent> {
        self.pieces.iter().flat_map(|piece| piece.records().into_owned()).collect()
    }

    /// How many records these are.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Piece::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Piece {
    pub(crate) fn len(&self) -> usize {
        match &self.selected {
            Selected::All => self.records.records.len(),
            Selected::These(these) => these.len(),
        }
    }

    pub(crate) fn records(&self) -> Cow<'_, [RecordedEvent]> {
        let records = &self.records.records;
        match &self.selected {
            Selected::All => Cow::Borrowed(records),
            Selected::These(these) => these.iter().map(|at| records[*at].clone()).collect(),
        }
    }

    fn places(&self) -> impl Iterator<Item = usize> {
        (0..self.len()).map(|n| match &self.selected {
            Selected::All => n,
            Selected::These(these) => these[n],
        })
    }
}

impl Records {
    pub(crate) fn new(records: Vec<RecordedEvent>) -> Self {
        let bytes = records.iter().map(|record| record.data.len()).sum();
        Self { records, bytes, decoded: Mutex::default() }
    }

    /// Those that a query selects.
    pub(crate) fn selected(&self, query: &Query) -> Vec<usize> {
        let matching = self.records.iter().enumerate().filter(|(_, record)| query.matches(record));
        matching.map(|(at, _)| at).collect()
    }

    fn as_events<E: EventSet>(&self) -> Slots<E> {
        // Nothing panics while this lock is held.
        let mut decoded = self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        let known = decoded.iter().find(|(of, _)| *of == TypeId::of::<E>());
        if let Some(slots) = known.and_then(|(_, slots)| slots.downcast_ref::<Slots<E>>()) {
            return slots.clone();
        }
        let slots: Slots<E> = self.records.iter().map(|_| OnceLock::new()).collect();
        decoded.push((TypeId::of::<E>(), Arc::new(slots.clone())));
        slots
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Records({})", self.records.len())
    }
}

impl<E: EventSet> Decoded<E> {
    /// These records as events.
    pub(crate) fn of(records: Vec<RecordedEvent>) -> Self {
        Self::of_pieces(&[Piece { records: Arc::new(Records::new(records)), selected: Selected::All }])
    }

    fn of_pieces(pieces: &[Piece]) -> Self {
        let units = Vec::with_capacity(pieces.iter().map(Piece::len).sum());
        let decoded = pieces.iter().map(|piece| (piece.records.clone(), piece.records.as_events::<E>()));
        let mut all = Self { pieces: decoded.collect(), units, problem: None };
        for (n, piece) in pieces.iter().enumerate() {
            let (records, events) = &all.pieces[n];
            for at in piece.places() {
                match events[at].get_or_init(|| decode(&records.records[at])) {
                    Ok(_) => all.units.push((n, at)),
                    Err(error) => {
                        all.problem = Some(error.clone());
                        return all;
                    }
                }
            }
        }
        all
    }

    /// How many records could be decoded.
    pub fn len(&self) -> usize {
        self.units.len()
    }

    /// Whether none could.
    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// The events of the n-th record: one, unless [`evolution`](crate::Event::evolution) made several of it, or none.
    pub fn events(&self, n: usize) -> &[Recorded<E>] {
        let slot = self.units.get(n).and_then(|(piece, at)| self.pieces[*piece].1[*at].get());
        slot.and_then(|parts| parts.as_ref().ok()).map_or(&[], Parts::as_slice)
    }

    /// Where the n-th record is.
    pub fn position(&self, n: usize) -> Option<Position> {
        self.units.get(n).map(|(piece, at)| self.pieces[*piece].0.records[*at].position)
    }

    /// The checkpoint after the first `n` records of the batch, which are not all of it. `from`, if that is none of them.
    pub fn checkpoint_after(&self, n: usize, from: Option<Token>, to: Token) -> Option<Token> {
        n.checked_sub(1)
            .and_then(|last| self.position(last))
            .map_or(from, |position| Some(to.log.at(position)))
    }
}

impl<E> fmt::Debug for Decoded<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decoded({} records, problem: {:?})", self.units.len(), self.problem)
    }
}

impl<E> Parts<E> {
    fn as_slice(&self) -> &[Recorded<E>] {
        if self.several.is_empty() { self.one.as_slice() } else { &self.several }
    }
}

/// The record's events. A panic in somebody's deserialisation is an error that says where.
fn decode<E: EventSet>(record: &RecordedEvent) -> Result<Parts<E>> {
    let (mut one, mut several) = (None, Vec::new());
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        E::decode_each(record, &mut |event| {
            let event = Recorded { event, record: record.clone() };
            if one.is_none() && several.is_empty() {
                one = Some(event);
            } else {
                several.extend(one.take());
                several.push(event);
            }
        })
    }));
    match decoded {
        Ok(decoded) => decoded.map(|()| Parts { one, several }),
        Err(panic) => {
            Err(Error::invalid(place_of(record), format!("its decoding panicked: {}", said(&*panic))))
        }
    }
}

/// An event and its place, for messages.
pub fn place_of(record: &RecordedEvent) -> String {
    format!("`{}` at position {} in `{}`", record.event_type, record.position, record.stream)
}
