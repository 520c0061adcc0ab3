//! What is decided but not yet durable: the frame that the next sync will carry.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use factum::{
    Append, Appended, Position, RecordedEvent, Result, StreamName, StreamState, Timestamp, stream::LifeChange,
};
use tokio::sync::oneshot;

use crate::{
    format::{BodyCrc, Draft, FRAME_HEADER, FrameHeader, RecordHeader, align},
    index::{Index, Indexed, Secret, with_event},
    segment::Segment,
};

/// Bytes of a batch beyond which an append waits for the next one, so that a small append is not held up by large ones.
const BATCH_BYTES: usize = 8 << 20;

/// An append on its way, with the part of the work done that needs no turn.
#[derive(Debug)]
pub struct Request {
    /// What was asked for.
    pub append: Append,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Appended>>,
    drafts: Vec<(Draft, Vec<u64>)>,
    bytes: usize,
}

impl Request {
    /// Encodes an append that is within the limits.
    pub fn new(append: Append, reply: oneshot::Sender<Result<Appended>>, secret: Secret) -> Self {
        let draft = |(stream, event): (&StreamName, &factum::NewEvent)| {
            (Draft::new(stream, event), secret.keys_of(stream, &event.event_type, &event.tags))
        };
        let drafts: Vec<_> = append.events().map(draft).collect();
        let bytes = drafts.iter().map(|(draft, _)| draft.bytes()).sum();
        Self { append, reply, drafts, bytes }
    }

    /// Bytes that a frame needs for it alone, and the mark after it.
    pub fn frame_bytes(&self) -> u64 {
        align((FRAME_HEADER + self.bytes) as u64) + FRAME_HEADER as u64
    }
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
    /// Where to find its events, and how it leaves the streams.
    pub index: Index,
    /// When its first event was recorded.
    pub first_recorded_at: Option<Timestamp>,
    /// The frame's bytes; those of the header are written last.
    pub bytes: Vec<u8>,
    crc: BodyCrc,
    secret: Secret,
}

impl Batch {
    /// An empty batch.
    pub fn new(segment: Arc<Segment>, start: u64, number: u64, events_before: u64, secret: Secret) -> Self {
        Self {
            segment,
            start,
            number,
            events_before,
            index: Index::new(secret),
            first_recorded_at: None,
            bytes: vec![0; FRAME_HEADER],
            crc: BodyCrc::default(),
            secret,
        }
    }

    /// Whether no event is in it.
    pub fn is_empty(&self) -> bool {
        self.bytes.len() == FRAME_HEADER
    }

    /// Whether the request can go into it.
    pub fn has_room_for(&self, request: &Request) -> bool {
        let bytes = self.bytes.len() + request.bytes;
        let small_enough = self.is_empty() || bytes <= BATCH_BYTES;
        // The mark that speaks for the last frame of a segment needs a place, too.
        let end = self.start + align(bytes as u64) + FRAME_HEADER as u64;
        small_enough && end <= self.segment.end()
    }

    /// The position beyond its frame.
    pub fn end(&self) -> u64 {
        self.start + align(self.bytes.len() as u64)
    }

    /// The batch that comes after it in the same segment.
    pub fn following(&self) -> Self {
        Self::new(
            self.segment.clone(),
            self.end(),
            self.number + 1,
            self.events_before + self.index.events(),
            self.secret,
        )
    }

    /// Writes an admitted request into it. `state` tells how a stream is before this batch.
    pub fn record(
        &mut self,
        request: &Request,
        at: Timestamp,
        state: impl Fn(&StreamName) -> Result<StreamState>,
    ) -> Result<Vec<factum::Placed>> {
        let mut changes = Vec::with_capacity(request.drafts.len());
        for (stream, event) in request.append.events() {
            changes.push(LifeChange::of_event(stream, &event.event_type, &event.data)?);
        }
        // Whatever may fail comes first: nothing is written in part.
        let described = changes.iter().flatten().map(|(described, _)| described);
        let mut before = HashMap::new();
        for stream in request.append.writes.iter().map(|write| &write.stream).chain(described) {
            let known = self.index.state(stream);
            before.insert(stream.clone(), known.map_or_else(|| state(stream), Ok)?);
        }
        let before = |index: &Index, stream: &StreamName| {
            index.state(stream).or_else(|| before.get(stream).copied()).unwrap_or_default()
        };
        self.first_recorded_at.get_or_insert(at);
        let mut placed = Vec::with_capacity(request.drafts.len());
        for (((stream, _), (draft, keys)), change) in
            request.append.events().zip(&request.drafts).zip(&changes)
        {
            let (now, revision) = with_event(before(&self.index, stream));
            let position = Position(self.start + self.bytes.len() as u64);
            let offset = position.0 - self.segment.header.base;
            self.crc.add(draft.write(&mut self.bytes, self.segment.seed(), offset, revision, at));
            self.index.add(Indexed { position, recorded_at: at, stream, id: draft.id, keys, state: now });
            if let Some((described, change)) = change {
                let before = before(&self.index, described);
                self.index.describe(described, before, change, at);
            }
            placed.push(factum::Placed { position, revision });
        }
        Ok(placed)
    }

    /// Writes the frame's header: nothing is added after that.
    #[allow(clippy::cast_possible_truncation, reason = "a body is at most `MAX_BODY`")]
    pub fn seal(&mut self, synced_upto: u64, recorded_at: Timestamp) {
        let header = FrameHeader {
            body_crc: self.crc.0,
            body_bytes: (self.bytes.len() - FRAME_HEADER) as u32,
            events: self.index.events() as u32,
            segment: self.segment.header.number,
            number: self.number,
            position: self.start,
            synced_upto,
            events_before: self.events_before,
            recorded_at,
        };
        let bytes = header.encode(self.segment.seed(), self.offset());
        self.bytes[..FRAME_HEADER].copy_from_slice(&bytes);
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
        let Some(record) = self.bytes.get(at..).filter(|record| !record.is_empty()) else { return Ok(None) };
        let offset = position.0 - self.segment.header.base;
        let corrupt = |damage| self.segment.corrupt(offset, Some((position, position)), damage);
        let header = RecordHeader::decode(record, self.segment.seed(), offset).map_err(corrupt)?;
        let record = Bytes::copy_from_slice(record.get(..header.bytes).unwrap_or_default());
        header.event(&record, position).map(Some).map_err(corrupt)
    }

    /// All its events, the last first.
    pub fn events_backwards(&self) -> Result<Vec<RecordedEvent>> {
        let (mut events, mut at) = (Vec::new(), self.start + FRAME_HEADER as u64);
        while let Some(event) = self.event(Position(at))? {
            let record = &self.bytes[usize::try_from(at - self.start).unwrap_or(usize::MAX)..];
            let offset = at - self.segment.header.base;
            at += RecordHeader::decode(record, self.segment.seed(), offset)
                .map_or(u64::MAX / 2, |h| h.bytes as u64);
            events.push(event);
        }
        events.reverse();
        Ok(events)
    }
}
