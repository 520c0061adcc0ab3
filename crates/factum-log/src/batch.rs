//! What is decided but not yet durable: the frame that the next sync will carry.

use std::{collections::HashMap, ops::Range, sync::Arc};

use bytes::Bytes;
use factum::{
    Append, Appended, EventId, Guard, NewEvent, Position, RecordedEvent, Result, StreamName, StreamState,
    Timestamp, stream::LifeChange,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    disk::PAGE,
    format::{
        BodyCrc, FRAME_HEADER, FrameHeader, RecordHeader, align, draft_record, place_record, record_bytes,
    },
    index::{AsItIs, Indexed, Layers, Secret, Settled},
    segment::Segment,
};

/// Bytes of a batch beyond which an append waits for the next one, so that a small append is not held up by large ones.
const BATCH_BYTES: usize = 8 << 20;
/// Bytes of an append that is small, and what such may add to a batch that is full for others.
const SMALL: usize = 64 << 10;
const ROOM_FOR_SMALL: usize = 1 << 20;
/// A buffer that is larger is not kept for the next batch.
const KEPT_BUFFER: usize = 16 << 20;

/// An append on its way, with the part of the work done that needs no turn.
#[derive(Debug)]
pub struct Request {
    /// What was asked for.
    pub append: Append,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Appended>>,
    /// Its records, one after the other, but for what their place decides.
    records: Vec<u8>,
    drafts: Vec<Draft>,
    keys: Vec<u64>,
    /// For each of its writes.
    streams: Vec<u128>,
    /// What its events do to the streams that they describe: the number of the event, and which stream.
    changes: Vec<(usize, u128, LifeChange)>,
    /// The streams that it is about, as the settled part of the index knows them.
    known: HashMap<u128, Option<StreamState>, AsItIs>,
    /// Whether that may know one of its events.
    maybe_recorded: bool,
    /// Where that part ended.
    known_upto: u64,
    /// The room that it takes among those that wait.
    _room: Option<OwnedSemaphorePermit>,
}

/// An event in the form in which it is stored.
#[derive(Debug)]
struct Draft {
    bytes: usize,
    id: EventId,
    id_hash: u64,
    keys: Range<usize>,
}

impl Request {
    /// Encodes an append that is within the limits.
    pub fn new(append: Append, reply: oneshot::Sender<Result<Appended>>, secret: Secret) -> Self {
        let count = append.event_count();
        let bytes = append.events().map(|(stream, event)| record_bytes(stream, event)).sum();
        let mut request = Self {
            append: Append::default(),
            reply,
            records: Vec::with_capacity(bytes),
            drafts: Vec::with_capacity(count),
            keys: Vec::with_capacity(count * 3),
            streams: Vec::with_capacity(append.writes.len()),
            changes: Vec::new(),
            known: HashMap::default(),
            known_upto: 0,
            maybe_recorded: false,
            _room: None,
        };
        for write in &append.writes {
            let stream = secret.stream(&write.stream);
            request.streams.push(stream);
            request.known.insert(stream, None);
            for event in &write.events {
                request.draft(stream, &write.stream, event, secret);
            }
        }
        for guard in &append.guards {
            if let Guard::Stream { stream, .. } = guard {
                request.known.insert(secret.stream(stream), None);
            }
        }
        request.append = append;
        request
    }

    fn draft(&mut self, stream: u128, name: &StreamName, event: &NewEvent, secret: Secret) {
        let (start, first_key) = (self.records.len(), self.keys.len());
        draft_record(&mut self.records, name, event);
        secret.keys_of(name, &event.event_type, &event.tags, &mut self.keys);
        // What says nothing that a stream's life knows is refused when it is decided on.
        if let Ok(Some((described, change))) = LifeChange::of_event(name, &event.event_type, &event.data) {
            let described = secret.stream(&described);
            self.known.insert(described, None);
            self.changes.push((self.drafts.len(), described, change));
        }
        self.drafts.push(Draft {
            bytes: self.records.len() - start,
            id: event.id,
            id_hash: secret.id(stream, event.id),
            keys: first_key..self.keys.len(),
        });
    }

    /// Looks up what it rests on, as far as that does not change any more. What was not looked up is when it is decided on.
    ///
    /// # Errors
    /// Those of the index.
    pub fn look_up(&mut self, settled: &Settled) -> Result<()> {
        for (stream, state) in &mut self.known {
            *state = settled.state(*stream, u64::MAX)?;
        }
        let mut found = Vec::new();
        for draft in &self.drafts {
            settled.ids(draft.id_hash, draft.id, &mut found)?;
        }
        (self.known_upto, self.maybe_recorded) = (settled.end, !found.is_empty());
        Ok(())
    }

    /// The state of a stream once everything that was decided on is durable.
    ///
    /// # Errors
    /// Those of the index.
    pub fn state(&self, index: &Layers, stream: u128) -> Result<Option<StreamState>> {
        match self.known.get(&stream) {
            None => index.state(stream),
            Some(settled) => Ok(index.state_beyond(stream, self.known_upto)?.or(*settled)),
        }
    }

    /// Whether the index may know one of its events.
    ///
    /// # Errors
    /// Those of the index.
    pub fn may_be_recorded(&self, index: &Layers) -> Result<bool> {
        if self.maybe_recorded {
            return Ok(true);
        }
        for draft in &self.drafts {
            if !index.ids_beyond(draft.id_hash, draft.id, self.known_upto)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Gives its room back when it is in a batch, or refused.
    pub fn with_room(self, room: OwnedSemaphorePermit) -> Self {
        Self { _room: Some(room), ..self }
    }

    /// The hashes of its ids.
    pub fn ids(&self) -> impl Iterator<Item = (u64, EventId)> {
        self.drafts.iter().map(|draft| (draft.id_hash, draft.id))
    }

    /// Whether it may go before larger ones: it takes little of their time.
    pub fn is_small(&self) -> bool {
        is_small(self.records.len())
    }

    /// Bytes that a frame needs for it alone, and the mark after it.
    pub fn frame_bytes(&self) -> u64 {
        align((FRAME_HEADER + self.records.len()) as u64) + FRAME_HEADER as u64
    }
}

/// Whether an append of so many bytes is small: then it may go before larger ones.
pub fn is_small(bytes: usize) -> bool {
    bytes <= SMALL
}

/// An answer that waits until what it rests on is durable.
#[derive(Debug)]
pub struct Answer {
    /// Where it goes.
    pub reply: oneshot::Sender<Result<Appended>>,
    /// What it is.
    pub result: Result<Appended>,
}

impl Answer {
    /// Whether it says that all was recorded before.
    pub fn is_replay(&self) -> bool {
        self.result.as_ref().is_ok_and(|appended| appended.replayed)
    }

    /// Gives it. Nobody may be waiting any more; that changes nothing.
    pub fn give(self) {
        let _ = self.reply.send(self.result);
    }
}

/// A frame that is being filled, or written.
#[derive(Debug)]
pub struct Batch {
    /// Where it goes.
    pub segment: Arc<Segment>,
    /// The position of its first byte.
    pub start: u64,
    /// The number of the frame.
    pub number: u64,
    /// How many events are in the log before it.
    pub events_before: u64,
    /// When its first event was recorded.
    pub first_recorded_at: Option<Timestamp>,
    /// Its last event, and when that was recorded.
    pub last: Option<(Position, Timestamp)>,
    events: u32,
    /// What is before the frame is of no use. When it is sealed, zeros follow up to the end of a page.
    bytes: Vec<u8>,
    /// Where the frame begins in it: at such an address that a page of the file is a page of memory, unless it had to grow.
    lead: usize,
    /// Bytes of the frame; those of its header are written last.
    length: usize,
    crc: BodyCrc,
}

impl Batch {
    /// An empty batch, whose bytes go into this buffer.
    pub fn new(
        segment: Arc<Segment>,
        start: u64,
        number: u64,
        events_before: u64,
        mut buffer: Vec<u8>,
    ) -> Self {
        buffer.clear();
        buffer.reserve(PAGE + FRAME_HEADER);
        let in_page = usize::try_from((start - segment.header.base) % PAGE as u64).unwrap_or_default();
        let lead = (buffer.as_ptr().align_offset(PAGE).min(PAGE) + in_page) % PAGE;
        buffer.resize(lead + FRAME_HEADER, 0);
        Self {
            segment,
            start,
            number,
            events_before,
            first_recorded_at: None,
            last: None,
            events: 0,
            bytes: buffer,
            lead,
            length: FRAME_HEADER,
            crc: BodyCrc::default(),
        }
    }

    /// Whether no event is in it.
    pub fn is_empty(&self) -> bool {
        self.length == FRAME_HEADER
    }

    /// Whether the request can go into it.
    pub fn has_room_for(&self, request: &Request) -> bool {
        let bytes = self.length + request.records.len();
        let most = if request.is_small() { BATCH_BYTES + ROOM_FOR_SMALL } else { BATCH_BYTES };
        let small_enough = self.is_empty() || bytes <= most;
        // The mark that speaks for the last frame of a segment needs a place, too.
        let end = self.start + align(bytes as u64) + FRAME_HEADER as u64;
        small_enough && end <= self.segment.end()
    }

    /// The position beyond its frame.
    pub fn end(&self) -> u64 {
        self.start + align(self.length as u64)
    }

    /// The batch that comes after it in the same segment.
    pub fn following(&self, buffer: Vec<u8>) -> Self {
        let events_before = self.events_before + u64::from(self.events);
        Self::new(self.segment.clone(), self.end(), self.number + 1, events_before, buffer)
    }

    /// Its buffer, for another one: memory that was used before is quicker than new memory.
    pub fn into_buffer(self) -> Vec<u8> {
        if self.bytes.capacity() > KEPT_BUFFER { Vec::new() } else { self.bytes }
    }

    /// Writes an admitted request into it, and takes it into the index.
    ///
    /// # Errors
    /// Those of the index. Nothing is written then.
    pub fn record(
        &mut self,
        request: &Request,
        at: Timestamp,
        index: &mut Layers,
    ) -> Result<Vec<factum::Placed>> {
        // Whatever may fail comes first: nothing is written in part.
        let mut states: HashMap<u128, StreamState, AsItIs> = HashMap::default();
        for stream in request.known.keys() {
            states.insert(*stream, request.state(index, *stream)?.unwrap_or_default());
        }
        let mut state_of = |stream: u128, next: Option<StreamState>| match next {
            None => states.get(&stream).copied().unwrap_or_default(),
            Some(next) => states.insert(stream, next).unwrap_or_default(),
        };
        self.first_recorded_at.get_or_insert(at);
        let (mut at_byte, mut first) = (self.length, 0);
        let mut changes = request.changes.iter().peekable();
        self.bytes.extend_from_slice(&request.records);
        self.length = self.bytes.len() - self.lead;
        let mut placed = Vec::with_capacity(request.drafts.len());
        for (write, &stream) in request.append.writes.iter().zip(&request.streams) {
            let drafts = &request.drafts[first..first + write.events.len()];
            let before = state_of(stream, None);
            let mut state = before;
            let begun = placed.len();
            for draft in drafts {
                let position = Position(self.start + at_byte as u64);
                let (offset, revision) = (position.0 - self.segment.header.base, state.written());
                let record = &mut self.bytes[self.lead + at_byte..][..draft.bytes];
                self.crc.add(place_record(record, self.segment.seed(), offset, revision, at));
                at_byte += draft.bytes;
                placed.push(factum::Placed { position, revision });
                self.last = Some((position, at));
            }
            let events = drafts.iter().zip(&placed[begun..]).map(|(draft, placed)| Indexed {
                position: placed.position,
                id: draft.id,
                id_hash: draft.id_hash,
                keys: &request.keys[draft.keys.clone()],
            });
            index.remember(stream, before, state);
            index.memory.add_all(stream, state, at, events);
            state_of(stream, Some(state));
            first += drafts.len();
            while let Some((_, described, change)) = changes.next_if(|(event, ..)| *event < first) {
                let before = state_of(*described, None);
                let mut state = before;
                state.described(change, at);
                index.remember(*described, before, state);
                index.memory.describe(*described, state);
                state_of(*described, Some(state));
            }
        }
        #[allow(clippy::cast_possible_truncation, reason = "a batch has fewer events than bytes")]
        let added = request.drafts.len() as u32;
        self.events += added;
        Ok(placed)
    }

    /// Writes the frame's header: nothing is added after that.
    #[allow(clippy::cast_possible_truncation, reason = "a body is at most `MAX_BODY`")]
    pub fn seal(&mut self, synced_upto: u64, recorded_at: Timestamp) {
        let header = FrameHeader {
            body_crc: self.crc.0,
            body_bytes: (self.length - FRAME_HEADER) as u32,
            events: self.events,
            segment: self.segment.header.number,
            number: self.number,
            position: self.start,
            synced_upto,
            events_before: self.events_before,
            recorded_at,
        };
        let bytes = header.encode(self.segment.seed(), self.offset());
        self.bytes[self.lead..][..FRAME_HEADER].copy_from_slice(&bytes);
        let end = self.offset() + self.length as u64;
        let padded = end.next_multiple_of(PAGE as u64).min(self.segment.header.capacity);
        self.bytes.resize(self.lead + self.length + (padded - end) as usize, 0);
    }

    /// Its bytes as they are to be written, once it is sealed.
    pub fn to_write(&self) -> &[u8] {
        &self.bytes[self.lead..]
    }

    /// Those of the frame alone.
    fn frame(&self) -> &[u8] {
        &self.bytes[self.lead..][..self.length]
    }

    /// Where its frame begins in the segment.
    pub fn offset(&self) -> u64 {
        self.start - self.segment.header.base
    }

    /// The event at a position, if it is in this batch.
    pub fn event(&self, position: Position) -> Result<Option<RecordedEvent>> {
        let Some(at) = position.0.checked_sub(self.start).and_then(|at| usize::try_from(at).ok()) else {
            return Ok(None);
        };
        let Some(record) = self.frame().get(at..).filter(|record| !record.is_empty()) else {
            return Ok(None);
        };
        let offset = position.0 - self.segment.header.base;
        let corrupt = |damage| self.segment.corrupt(offset, Some((position, position)), damage);
        let header = RecordHeader::decode(record, self.segment.seed(), offset).map_err(corrupt)?;
        let record = Bytes::copy_from_slice(record.get(..header.bytes).unwrap_or_default());
        header.event(&record, 0, position).map(Some).map_err(corrupt)
    }

    /// All its events, the last first.
    pub fn events_backwards(&self) -> Result<Vec<RecordedEvent>> {
        let (mut events, mut at) = (Vec::new(), self.start + FRAME_HEADER as u64);
        while let Some(event) = self.event(Position(at))? {
            let record = &self.frame()[usize::try_from(at - self.start).unwrap_or(usize::MAX)..];
            let offset = at - self.segment.header.base;
            at += RecordHeader::decode(record, self.segment.seed(), offset)
                .map_or(u64::MAX / 2, |h| h.bytes as u64);
            events.push(event);
        }
        events.reverse();
        Ok(events)
    }
}
