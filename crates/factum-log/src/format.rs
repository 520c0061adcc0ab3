//! The bytes on the disk: segment headers, frames and records, and how they are told from damage.
//!
//! A segment is a header of [`SEGMENT_HEADER`] bytes, then frames, then zeros up to its capacity. A frame is what one sync
//! made durable: a header, the records of its events one after the other, and zeros up to the next multiple of [`ALIGN`].
//! All integers are little-endian.
//!
//! An event's position is the place of its record: the segment's base position plus the offset within the segment. So a
//! position leads to its bytes without an index.
//!
//! An event that was taken off the disk for good leaves a [`Stub`] at its place: what is needed to know it again.
//!
//! Every checksum is a CRC-32C that starts from the log's id, the segment's number and the offset. Bytes that are right but
//! not here (a stale block, a copy from another log, a misdirected write) are as wrong as bytes that are damaged.

use bytes::Bytes;
use bytestring::ByteString;
use crc32c::{crc32c, crc32c_append};
use factum::{
    ContentType, EventId, EventType, LogIdentity, Metadata, NewEvent, Placed, Position, RecordedEvent,
    Revision, StreamName, Tags, Timestamp, admission::Found,
};
use uuid::Uuid;

/// The version of this format.
pub const FORMAT: u32 = 1;
/// Bytes of a segment's header. A whole page, so that no later write touches the page it is in.
pub const SEGMENT_HEADER: u64 = SEGMENT_HEADER_BYTES as u64;
/// The same, as a length in memory.
pub const SEGMENT_HEADER_BYTES: usize = 4096;
/// Bytes of a frame's header.
pub const FRAME_HEADER: usize = 64;
/// Bytes of a record's fixed part.
pub const RECORD_HEADER: usize = 60;
/// Frames begin at multiples of this.
pub const ALIGN: usize = 8;
/// Bytes of a frame's body, at most: the largest append, with room for what it is wrapped in, beside smaller ones.
pub const MAX_BODY: usize = 48 << 20;

const SEGMENT_MAGIC: [u8; 8] = *b"factlog1";
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"FRM1");

/// The next place at which a frame may begin.
pub const fn align(offset: u64) -> u64 {
    offset.next_multiple_of(ALIGN as u64)
}

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage(pub &'static str);

/// Writes and reads integers in order.
struct Fields<'a>(&'a [u8]);

macro_rules! fields {
    ($($name:ident: $type:ty),*) => {$(
        fn $name(&mut self) -> $type {
            let (mine, rest) = self.0.split_first_chunk().unwrap_or_else(|| unreachable!("headers have a fixed length"));
            self.0 = rest;
            <$type>::from_le_bytes(*mine)
        }
    )*};
}

impl Fields<'_> {
    fields!(u8: u8, u16: u16, u32: u32, u64: u64, i64: i64, u128: u128);
}

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The log, and the epoch in which the segment was begun.
    pub log: LogIdentity,
    /// Counts from 1.
    pub number: u32,
    /// The position of its first byte.
    pub base: u64,
    /// Its length in bytes.
    pub capacity: u64,
    /// The number of its first frame.
    pub first_frame: u64,
    /// How many events are in the segments before.
    pub events_before: u64,
    /// The position at which the frames of the segment before end.
    pub previous_end: u64,
    /// When the last event before was recorded.
    pub last_recorded_at: Timestamp,
}

impl SegmentHeader {
    /// The header of a segment of which nothing is known but its length.
    pub fn unknown(capacity: u64) -> Self {
        let log = LogIdentity { log_id: Uuid::nil(), epoch: 0 };
        let (number, base, first_frame, events_before, previous_end) = (0, 0, 0, 0, 0);
        let last_recorded_at = Timestamp(i64::MIN);
        Self { log, number, base, capacity, first_frame, events_before, previous_end, last_recorded_at }
    }

    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_as(SEGMENT_MAGIC, &[])
    }

    /// The header of a file of this kind, with more numbers of its own.
    pub fn encode_as(&self, magic: [u8; 8], more: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        bytes.extend(magic);
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend(self.log.log_id.as_bytes());
        bytes.extend(self.log.epoch.to_le_bytes());
        bytes.extend(self.number.to_le_bytes());
        for number in [self.base, self.capacity, self.first_frame, self.events_before, self.previous_end] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.last_recorded_at.0.to_le_bytes());
        bytes.extend(more.iter().flat_map(|number| number.to_le_bytes()));
        bytes.resize(SEGMENT_HEADER_BYTES - 4, 0);
        bytes.extend(crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        Self::decode_as(SEGMENT_MAGIC, bytes).map(|(header, [])| header)
    }

    /// Reads the header of a file of this kind, with its own numbers.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode_as<const N: usize>(magic: [u8; 8], bytes: &[u8]) -> Result<(Self, [u64; N]), Damage> {
        if bytes.len() < SEGMENT_HEADER_BYTES {
            return Err(Damage("the file is too short for a segment's header"));
        }
        let (covered, crc) = bytes[..SEGMENT_HEADER_BYTES].split_at(SEGMENT_HEADER_BYTES - 4);
        if covered[..8] != magic {
            return Err(Damage("it does not begin like a segment of factum"));
        }
        if crc != crc32c(covered).to_le_bytes() {
            return Err(Damage("the segment's header fails its checksum"));
        }
        let mut fields = Fields(&covered[8..]);
        if fields.u32() != FORMAT {
            return Err(Damage(
                "it was written by another version of factum, in a format that this one does not know",
            ));
        }
        let header = Self {
            log: LogIdentity { log_id: Uuid::from_bytes(fields.u128().to_le_bytes()), epoch: fields.u64() },
            number: fields.u32(),
            base: fields.u64(),
            capacity: fields.u64(),
            first_frame: fields.u64(),
            events_before: fields.u64(),
            previous_end: fields.u64(),
            last_recorded_at: Timestamp(fields.i64()),
        };
        Ok((header, std::array::from_fn(|_| fields.u64())))
    }

    /// What the checksums in this segment start from.
    pub fn seed(&self) -> Seed {
        Seed::of(self.log.log_id, self.number)
    }
}

/// What a segment's checksums start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u32);

impl Seed {
    /// The seed of a segment.
    pub fn of(log_id: Uuid, number: u32) -> Self {
        Self(crc32c_append(crc32c(log_id.as_bytes()), &number.to_le_bytes()))
    }

    /// The checksum of bytes at an offset.
    pub fn crc(self, offset: u64, bytes: &[u8]) -> u32 {
        crc32c_append(crc32c_append(self.0, &offset.to_le_bytes()), bytes)
    }
}

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Of the records' own checksums, in order.
    pub body_crc: u32,
    /// Bytes of the records.
    pub body_bytes: u32,
    /// How many records; none in a mark, which only says how far the log is durable.
    pub events: u32,
    /// The segment it is in.
    pub segment: u32,
    /// Counts the frames of the log.
    pub number: u64,
    /// The position of its first byte.
    pub position: u64,
    /// Everything before this position was durable when the frame was written.
    pub synced_upto: u64,
    /// How many events are in the log before it.
    pub events_before: u64,
    /// When its last event was recorded.
    pub recorded_at: Timestamp,
}

impl FrameHeader {
    /// The header's bytes, for a frame at `offset`.
    pub fn encode(&self, seed: Seed, offset: u64) -> [u8; FRAME_HEADER] {
        let mut bytes = [0; FRAME_HEADER];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&FRAME_MAGIC.to_le_bytes());
        put(&[0; 4]);
        for number in [self.body_crc, self.body_bytes, self.events, self.segment] {
            put(&number.to_le_bytes());
        }
        for number in [self.number, self.position, self.synced_upto, self.events_before] {
            put(&number.to_le_bytes());
        }
        put(&self.recorded_at.0.to_le_bytes());
        let crc = seed.crc(offset, &bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header of a frame at `offset`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8; FRAME_HEADER], seed: Seed, offset: u64) -> Result<Self, Damage> {
        let mut fields = Fields(bytes);
        if fields.u32() != FRAME_MAGIC {
            return Err(Damage("there is no frame where one should be"));
        }
        if fields.u32() != seed.crc(offset, &bytes[8..]) {
            return Err(Damage("a frame's header fails its checksum"));
        }
        let header = Self {
            body_crc: fields.u32(),
            body_bytes: fields.u32(),
            events: fields.u32(),
            segment: fields.u32(),
            number: fields.u64(),
            position: fields.u64(),
            synced_upto: fields.u64(),
            events_before: fields.u64(),
            recorded_at: Timestamp(fields.i64()),
        };
        if header.body_bytes as usize > MAX_BODY {
            return Err(Damage("a frame claims more bytes than a frame can have"));
        }
        Ok(header)
    }

    /// Bytes from the start of the frame to the start of the next.
    pub fn bytes(&self) -> u64 {
        align(FRAME_HEADER as u64 + u64::from(self.body_bytes))
    }
}

const JSON: u8 = 0;
const BYTES: u8 = 1;
const OTHER: u8 = 2;

/// Where a record has what is only known once it has its place.
const RECORD_REVISION: usize = 24;
const RECORD_TIME: usize = 32;

/// Bytes of the record of an event.
pub fn record_bytes(stream: &StreamName, event: &NewEvent) -> usize {
    let content_type = match &event.content_type {
        ContentType::Json | ContentType::Bytes => 0,
        ContentType::Other(name) => name.len(),
    };
    let names = stream.len() + event.event_type.len() + content_type + event.tags.packed().len();
    RECORD_HEADER + names + event.metadata.as_bytes().len() + event.data.len()
}

/// Appends the record of an event, but for what is only known once it has its place: [`place_record`] fills that in.
#[allow(clippy::cast_possible_truncation, reason = "names, tags and metadata have limits that fit")]
pub fn draft_record(out: &mut Vec<u8>, stream: &StreamName, event: &NewEvent) {
    let (kind, content_type) = match &event.content_type {
        ContentType::Json => (JSON, ""),
        ContentType::Bytes => (BYTES, ""),
        ContentType::Other(name) => (OTHER, &**name),
    };
    let (tags, metadata) = (event.tags.packed(), event.metadata.as_bytes());
    let bytes = record_bytes(stream, event);
    let start = out.len();
    let mut header = [0; RECORD_HEADER];
    let mut at = 4;
    let mut put = |field: &[u8]| {
        header[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    };
    put(&(bytes as u32).to_le_bytes());
    put(&[0; 4]);
    put(&(metadata.len() as u32).to_le_bytes());
    for length in [stream.len(), event.event_type.len(), content_type.len(), tags.len()] {
        put(&(length as u16).to_le_bytes());
    }
    put(&[0; 16]);
    put(event.id.0.as_bytes());
    put(&[kind]);
    out.extend_from_slice(&header);
    for part in
        [stream.as_bytes(), event.event_type.as_bytes(), content_type.as_bytes(), tags, metadata, &event.data]
    {
        out.extend_from_slice(part);
    }
    let payload_crc = crc32c(&out[start + RECORD_HEADER..]);
    out[start + 8..start + 12].copy_from_slice(&payload_crc.to_le_bytes());
}

/// Completes the record that stands at the beginning of `record` for `offset`, and returns its checksum.
pub fn place_record(record: &mut [u8], seed: Seed, offset: u64, revision: Revision, at: Timestamp) -> u32 {
    record[RECORD_REVISION..RECORD_TIME].copy_from_slice(&revision.0.to_le_bytes());
    record[RECORD_TIME..RECORD_TIME + 8].copy_from_slice(&at.0.to_le_bytes());
    let crc = seed.crc(offset, &record[4..RECORD_HEADER]);
    record[..4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// A record's fixed part.
#[derive(Clone, Copy, Debug)]
pub struct RecordHeader {
    /// The checksum of this part, from which a frame's is made.
    pub crc: u32,
    /// Bytes of the whole record.
    pub bytes: usize,
    payload_crc: u32,
    metadata_bytes: usize,
    stream_bytes: usize,
    type_bytes: usize,
    content_type_bytes: usize,
    tags_bytes: usize,
    revision: Revision,
    recorded_at: Timestamp,
    id: EventId,
    kind: u8,
    removed: Option<Digest>,
}

impl RecordHeader {
    /// Reads the fixed part of the record at `offset`, or of the stub in its place.
    ///
    /// # Errors
    /// What is wrong with it.
    #[inline]
    pub fn decode(bytes: &[u8], seed: Seed, offset: u64) -> Result<Self, Damage> {
        let Some(bytes) = bytes.first_chunk::<RECORD_HEADER>() else {
            return Err(Damage("an event's record is cut off"));
        };
        let mut fields = Fields(bytes);
        let crc = fields.u32();
        if crc != seed.crc(offset, &bytes[4..]) {
            return Err(Damage("an event's header fails its checksum"));
        }
        let length = fields.u32();
        if length & STUB != 0 {
            return Stub::decode(bytes);
        }
        let header = Self {
            crc,
            bytes: length as usize,
            payload_crc: fields.u32(),
            metadata_bytes: fields.u32() as usize,
            stream_bytes: usize::from(fields.u16()),
            type_bytes: usize::from(fields.u16()),
            content_type_bytes: usize::from(fields.u16()),
            tags_bytes: usize::from(fields.u16()),
            revision: Revision(fields.u64()),
            recorded_at: Timestamp(fields.i64()),
            id: EventId(Uuid::from_bytes(fields.u128().to_le_bytes())),
            kind: fields.u8(),
            removed: None,
        };
        let names = header.stream_bytes + header.type_bytes + header.content_type_bytes + header.tags_bytes;
        if header.bytes > MAX_BODY || header.bytes < RECORD_HEADER + names + header.metadata_bytes {
            return Err(Damage("an event's lengths contradict each other"));
        }
        Ok(header)
    }

    /// Reads the whole record, which begins at `position`, and at `start` in `bytes`.
    ///
    /// # Errors
    /// What is wrong with it.
    #[inline]
    pub fn event(&self, bytes: &Bytes, start: usize, position: Position) -> Result<RecordedEvent, Damage> {
        if let Some(digest) = self.removed {
            return self.removed_event(digest, bytes.get(start..).unwrap_or_default(), position);
        }
        let end = start + self.bytes;
        let mut at = start + RECORD_HEADER;
        let Some(payload) = bytes.get(at..end) else { return Err(Damage("an event's record is cut off")) };
        if crc32c(payload) != self.payload_crc {
            return Err(Damage("an event fails its checksum"));
        }
        let mut take = |length: usize| {
            at += length;
            bytes.slice(at - length..at)
        };
        let text = |bytes: Bytes| ByteString::try_from(bytes).map_err(|_| Damage("a name is not UTF-8"));
        let stream = StreamName::from_store(text(take(self.stream_bytes))?);
        let event_type = EventType::from_store(text(take(self.type_bytes))?);
        let content_type = text(take(self.content_type_bytes))?;
        let tags = Tags::from_packed(take(self.tags_bytes));
        let metadata = Metadata::from_store(take(self.metadata_bytes));
        let content_type = match self.kind {
            JSON => ContentType::Json,
            BYTES => ContentType::Bytes,
            _ => ContentType::Other(content_type),
        };
        Ok(RecordedEvent {
            position,
            stream,
            revision: self.revision,
            recorded_at: self.recorded_at,
            id: self.id,
            event_type,
            content_type,
            data: bytes.slice(at..end),
            metadata,
            tags,
        })
    }

    /// What is left of an event that was removed: no type, and a digest of its content in the place of its data.
    fn removed_event(
        &self,
        digest: Digest,
        record: &[u8],
        position: Position,
    ) -> Result<RecordedEvent, Damage> {
        let stream = record.get(RECORD_HEADER..RECORD_HEADER + self.stream_bytes);
        let stream = stream.ok_or(Damage("the stub of a removed event is cut off"))?;
        if crc32c(stream) != self.payload_crc {
            return Err(Damage("the stub of a removed event fails its checksum"));
        }
        let stream = ByteString::try_from(stream).map_err(|_| Damage("a name is not UTF-8"))?;
        Ok(RecordedEvent {
            position,
            stream: StreamName::from_store(stream),
            revision: self.revision,
            recorded_at: self.recorded_at,
            id: self.id,
            event_type: EventType::from_store(ByteString::new()),
            content_type: ContentType::Bytes,
            data: Bytes::copy_from_slice(&digest),
            metadata: Metadata::EMPTY,
            tags: Tags::NONE,
        })
    }
}

/// The bit in a record's length that makes it a stub.
const STUB: u32 = 1 << 31;

/// What tells the content of a removed event from another: the begin of the XXH3 of its canonical form.
pub type Digest = [u8; 10];

fn digest(canonical_content: &[u8]) -> Digest {
    let hash = xxhash_rust::xxh3::xxh3_128(canonical_content).to_be_bytes();
    std::array::from_fn(|n| hash[n])
}

/// What stands in the place of an event that was taken off the disk: a record's fixed part, and the name of its stream.
///
/// It keeps what a store must never forget, which is the event's place, its revision, when it was recorded, its id and a digest
/// of its content; and the checksum of the record, since that of its frame is made from it. It is shorter than any record: an
/// event has a type, which is gone.
#[derive(Debug)]
pub struct Stub;

impl Stub {
    /// Writes the stub for the record of an event at `offset`.
    #[allow(clippy::cast_possible_truncation, reason = "a record is at most `MAX_BODY`, a name has a limit")]
    pub fn write(out: &mut Vec<u8>, seed: Seed, offset: u64, record: &RecordHeader, event: &RecordedEvent) {
        let (start, digest) = (out.len(), digest(&event.canonical_content()));
        out.extend([0; 4]);
        out.extend((record.bytes as u32 | STUB).to_le_bytes());
        out.extend(crc32c(event.stream.as_bytes()).to_le_bytes());
        out.extend(record.crc.to_le_bytes());
        out.extend((event.stream.len() as u16).to_le_bytes());
        out.extend(&digest[..6]);
        out.extend(event.revision.0.to_le_bytes());
        out.extend(event.recorded_at.0.to_le_bytes());
        out.extend(event.id.0.as_bytes());
        out.extend(&digest[6..]);
        let crc = seed.crc(offset, &out[start + 4..]);
        out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
        out.extend(event.stream.as_bytes());
    }

    fn decode(bytes: &[u8; RECORD_HEADER]) -> Result<RecordHeader, Damage> {
        let mut fields = Fields(&bytes[4..]);
        let length = (fields.u32() & !STUB) as usize;
        let (payload_crc, crc) = (fields.u32(), fields.u32());
        let stream_bytes = usize::from(fields.u16());
        let begin: [u8; 6] = std::array::from_fn(|_| fields.u8());
        let (revision, recorded_at) = (Revision(fields.u64()), Timestamp(fields.i64()));
        let id = EventId(Uuid::from_bytes(fields.u128().to_le_bytes()));
        let rest: [u8; 4] = std::array::from_fn(|_| fields.u8());
        if length > MAX_BODY || length < RECORD_HEADER + stream_bytes {
            return Err(Damage("the lengths of the stub of a removed event contradict each other"));
        }
        Ok(RecordHeader {
            crc,
            bytes: length,
            payload_crc,
            metadata_bytes: 0,
            stream_bytes,
            type_bytes: 0,
            content_type_bytes: 0,
            tags_bytes: 0,
            revision,
            recorded_at,
            id,
            kind: BYTES,
            removed: Some(std::array::from_fn(|n| if n < 6 { begin[n] } else { rest[n - 6] })),
        })
    }

    /// Bytes of the stub of an event.
    pub fn bytes(event: &RecordedEvent) -> usize {
        RECORD_HEADER + event.stream.len()
    }
}

/// Whether no more than the stub of an event is left: every event has a type, but for those.
pub fn is_removed(event: &RecordedEvent) -> bool {
    event.event_type.is_empty()
}

/// Whether a removed event is what is left of this one.
pub fn is_stub_of(removed: &RecordedEvent, event: &RecordedEvent) -> bool {
    is_removed(removed)
        && !is_removed(event)
        && (removed.position, removed.revision) == (event.position, event.revision)
        && (removed.id, removed.recorded_at) == (event.id, event.recorded_at)
        && removed.stream == event.stream
        && removed.data[..] == digest(&event.canonical_content())
}

/// How `event` is found again in what is recorded under its id, be it whole or a stub.
pub fn found(event: &NewEvent, recorded: &RecordedEvent) -> Found {
    if !is_removed(recorded) {
        return Found::of(event, recorded);
    }
    let placed = Placed { position: recorded.position, revision: recorded.revision };
    Found { placed, same_content: recorded.data[..] == digest(&event.canonical_content()) }
}

/// The checksum of a frame's body: of its records' checksums, which cover every byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodyCrc(pub u32);

impl BodyCrc {
    /// Takes one more record into account.
    pub fn add(&mut self, record_crc: u32) {
        self.0 = crc32c_append(self.0, &record_crc.to_le_bytes());
    }
}

#[cfg(test)]
mod page;

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Seed = Seed(7);

    fn event() -> (StreamName, NewEvent) {
        let event = NewEvent::json("Deposited", &serde_json::json!({"amount": "1.20"})).unwrap();
        let event = event.with_tags(Tags::new(["account:1", "branch:7"]).unwrap());
        let event = event.with_metadata(Metadata::from_json(r#"{"actor":"ada"}"#).unwrap());
        (StreamName::new("account-1").unwrap(), event)
    }

    fn record(
        stream: &StreamName,
        event: &NewEvent,
        offset: u64,
        revision: Revision,
        at: Timestamp,
    ) -> Vec<u8> {
        let mut out = Vec::new();
        draft_record(&mut out, stream, event);
        place_record(&mut out, SEED, offset, revision, at);
        out
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let (stream, event) = event();
        for content_type in [ContentType::Json, ContentType::Bytes, ContentType::Other("text/csv".into())] {
            let event = NewEvent { content_type, ..event.clone() };
            let out = record(&stream, &event, 4160, Revision(3), Timestamp(99));
            let header = RecordHeader::decode(&out, SEED, 4160).unwrap();
            let back = header.event(&Bytes::from(out), 0, Position(4160)).unwrap();
            assert!(event.same_content(&back), "{back:?}");
            assert_eq!((&back.stream, back.id, back.revision), (&stream, event.id, Revision(3)));
            assert_eq!((back.position, back.recorded_at), (Position(4160), Timestamp(99)));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_record_is_noticed() {
        let (stream, event) = event();
        let out = record(&stream, &event, 0, Revision(0), Timestamp(0));
        let read = |bytes: &[u8], offset| {
            let header = RecordHeader::decode(bytes, SEED, offset)?;
            header.event(&Bytes::copy_from_slice(bytes), 0, Position(offset))
        };
        assert!(read(&out, 0).is_ok());
        assert!(read(&out, 8).is_err(), "right bytes in the wrong place are wrong");
        for bit in 0..out.len() * 8 {
            let mut damaged = out.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged, 0).is_err(), "bit {bit}");
        }
        for length in 0..out.len() {
            assert!(read(&out[..length], 0).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_stub_is_shorter_than_its_record_and_knows_the_event_again() {
        let (stream, event) = event();
        let tiny = NewEvent::bytes("E", "").unwrap();
        for event in [event, tiny] {
            let out = record(&stream, &event, 4160, Revision(3), Timestamp(99));
            let record = RecordHeader::decode(&out, SEED, 4160).unwrap();
            let whole = record.event(&Bytes::from(out), 0, Position(4160)).unwrap();
            let mut stub = Vec::new();
            Stub::write(&mut stub, SEED, 4160, &record, &whole);
            assert_eq!(stub.len(), Stub::bytes(&whole));
            assert!(stub.len() < record.bytes);
            let read = |bytes: &[u8], offset| {
                let header = RecordHeader::decode(bytes, SEED, offset)?;
                Ok((header, header.event(&Bytes::copy_from_slice(bytes), 0, Position(offset))?))
            };
            let (header, left) = read(&stub, 4160).unwrap();
            assert_eq!((header.bytes, header.crc), (record.bytes, record.crc));
            assert_eq!((&left.stream, left.id, left.revision), (&stream, event.id, Revision(3)));
            assert_eq!((left.position, left.recorded_at), (Position(4160), Timestamp(99)));
            assert!(is_removed(&left) && !is_removed(&whole));
            let placed = Placed { position: Position(4160), revision: Revision(3) };
            assert_eq!(found(&event, &left), Found { placed, same_content: true });
            let other = NewEvent { data: "{}".into(), ..event.clone() };
            assert_eq!(found(&other, &left), Found { placed, same_content: false });
            assert!(read(&stub, 8).is_err(), "right bytes in the wrong place are wrong");
            for bit in 0..stub.len() * 8 {
                let mut damaged = stub.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let error: Result<_, Damage> = read(&damaged, 4160);
                assert!(error.is_err(), "bit {bit}");
            }
            for length in 0..stub.len() {
                assert!(read(&stub[..length], 4160).is_err(), "length {length}");
            }
        }
    }

    /// What is on disks cannot be made again: this may never change.
    #[test]
    fn the_digest_is_frozen() {
        let event = NewEvent::json_text("T", r#"{"a": 1.0}"#).unwrap();
        assert_eq!(digest(&event.canonical_content()), [100, 92, 12, 136, 79, 38, 204, 170, 95, 43]);
    }

    #[test]
    fn headers_come_back_and_notice_every_flipped_bit() {
        let log = LogIdentity { log_id: Uuid::from_u128(0x1234_5678), epoch: 3 };
        let segment = SegmentHeader {
            log,
            number: 7,
            base: 1 << 40,
            capacity: 1 << 20,
            first_frame: 55,
            events_before: 1000,
            previous_end: (1 << 40) - 8,
            last_recorded_at: Timestamp(-5),
        };
        assert_eq!(SegmentHeader::decode(&segment.encode()), Ok(segment));
        let frame = FrameHeader {
            body_crc: 1,
            body_bytes: 100,
            events: 3,
            segment: 7,
            number: 56,
            position: 4096,
            synced_upto: 4096,
            events_before: 12,
            recorded_at: Timestamp(8),
        };
        let bytes = frame.encode(segment.seed(), 4096);
        assert_eq!(FrameHeader::decode(&bytes, segment.seed(), 4096), Ok(frame));
        assert_eq!(frame.bytes(), 168);
        for bit in 0..FRAME_HEADER * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(&damaged, segment.seed(), 4096).is_err(), "bit {bit}");
        }
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut damaged = segment.encode();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&damaged).is_err(), "bit {bit}");
        }
    }
}
