//! One segment file: its frames in order, and single records by their place.

use std::{io, sync::Arc};

use bytes::Bytes;
use factum::{Error, Outcome, Position, RecordedEvent, Result, error::Corrupt};

use crate::{
    disk::{DiskFile, explain},
    format::{
        BodyCrc, Damage, FRAME_HEADER, FrameHeader, RECORD_HEADER, RecordHeader, SEGMENT_HEADER, Seed,
        SegmentHeader,
    },
    packed::{self, Packed},
};

/// Bytes read at first for one event, at least and at most: most events are smaller.
const EVENT_GUESS: (usize, usize) = (256, 1024);
/// Bytes of the first read of a scan, and of the largest: a short scan should not read much.
const SCAN_READS: (usize, usize) = (32 << 10, 256 << 10);

/// A segment that can be read.
#[derive(Debug)]
pub struct Segment {
    /// What it says of itself.
    pub header: SegmentHeader,
    /// Its file.
    pub file: Arc<dyn DiskFile>,
    /// What a person calls it.
    pub path: String,
    /// The same file, if it is a packed one.
    pub packed: Option<Arc<Packed>>,
    seed: Seed,
}

impl Segment {
    /// The name of the file of segment `number`.
    pub fn name(number: u32) -> String {
        format!("{number:010}.segment")
    }

    /// The number in a segment file's name.
    pub fn number_in(name: &str) -> Option<u32> {
        let number = name.strip_suffix(".segment")?.parse().ok()?;
        (Self::name(number) == name).then_some(number)
    }

    /// A segment with this header in this file.
    pub fn new(header: SegmentHeader, file: Arc<dyn DiskFile>, path: String) -> Self {
        Self { header, file, path, packed: None, seed: header.seed() }
    }

    /// A segment in a packed file.
    pub fn packed(packed: Arc<Packed>, path: String) -> Self {
        let header = packed.header;
        Self { packed: Some(packed.clone()), ..Self::new(header, packed, path) }
    }

    /// What its checksums start from.
    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// The position at which its first frame begins.
    pub fn first(&self) -> u64 {
        self.header.base + SEGMENT_HEADER
    }

    /// The position beyond its last byte.
    pub fn end(&self) -> u64 {
        self.header.base + self.header.capacity
    }

    /// The event whose record begins at `position`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the bytes there are not those of an event.
    pub fn event(&self, position: Position) -> Result<RecordedEvent> {
        let mut one = self.events(&[position])?;
        one.pop()
            .ok_or_else(|| self.corrupt(position.0 - self.header.base, None, Damage("there is no event")))
    }

    /// The events whose records begin at these positions.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the bytes there are not those of an event.
    pub fn events(&self, positions: &[Position]) -> Result<Vec<RecordedEvent>> {
        let mut records = Vec::with_capacity(positions.len() * EVENT_GUESS.0 * 2);
        let mut found = Vec::with_capacity(positions.len());
        let mut buffer = [0; EVENT_GUESS.1];
        let mut guess = EVENT_GUESS.1 / 2;
        for &position in positions {
            let offset = position.0 - self.header.base;
            let read = self.read_at(&mut buffer[..guess], offset)?;
            let header = RecordHeader::decode(&buffer[..read], self.seed, offset)
                .map_err(|damage| self.corrupt(offset, Some((position, position)), damage))?;
            let start = records.len();
            if header.bytes <= read {
                records.extend_from_slice(&buffer[..header.bytes]);
            } else {
                records.resize(start + header.bytes, 0);
                let read = self.read_at(&mut records[start..], offset)?;
                records.truncate(start + read);
            }
            // What comes next is often as large.
            guess = header.bytes.next_multiple_of(64).clamp(EVENT_GUESS.0, EVENT_GUESS.1);
            found.push((position, start, header));
        }
        let records = Bytes::from(records);
        let event = |(position, start, header): (Position, usize, RecordHeader)| {
            let offset = position.0 - self.header.base;
            header
                .event(&records, start, position)
                .map_err(|damage| self.corrupt(offset, Some((position, position)), damage))
        };
        found.into_iter().map(event).collect()
    }

    /// Tells that the events at these positions will be read soon.
    pub fn will_read(&self, positions: &[Position]) {
        let offsets = positions.iter().map(|position| position.0 - self.header.base);
        if let Some(packed) = &self.packed {
            return packed.will_read_all(&offsets.map(|offset| (offset, EVENT_GUESS.0)).collect::<Vec<_>>());
        }
        offsets.for_each(|offset| self.file.will_read(offset, EVENT_GUESS.0));
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.file.read_at(buffer, offset).map_err(|error| self.unreadable(&error))
    }

    /// Reads up to `bytes` from `offset` on.
    fn read(&self, offset: u64, bytes: usize) -> Result<Bytes> {
        let mut buffer = Vec::with_capacity(bytes);
        self.file.append_at(&mut buffer, bytes, offset).map_err(|error| self.unreadable(&error))?;
        Ok(buffer.into())
    }

    /// Whether the table of a packed segment is sound: with that, and with all its frames [`Frame::checked`], every byte of the file
    /// was looked at. A segment that is not packed has no table.
    ///
    /// # Errors
    /// [`Error::Corrupt`], and those of the disk.
    pub fn check_table(&self) -> Result<()> {
        let Some(packed) = &self.packed else { return Ok(()) };
        let checked = packed.check().map_err(|error| self.unreadable(&error))?;
        checked.map_err(|damage| self.corrupt(0, None, damage))
    }

    /// The error for a file that cannot be read.
    pub fn unreadable(&self, error: &io::Error) -> Error {
        if let Some(damage) = packed::damage_in(error) {
            return self.corrupt(0, None, damage);
        }
        explain(error, "read", &self.path, Outcome::No)
    }

    /// The error for damage at `offset`.
    pub fn corrupt(&self, offset: u64, positions: Option<(Position, Position)>, damage: Damage) -> Error {
        let problem = format!("{}; restore it from a backup or a replica", damage.0);
        Corrupt { segment: self.path.clone(), offset, positions, problem }.into()
    }
}

/// A frame as it was read.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its offset in the segment.
    pub offset: u64,
    /// What it says of itself.
    pub header: FrameHeader,
    /// Its records. Their checksums are not looked at yet.
    pub body: Bytes,
}

/// Where a walk over frames ended, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// At the limit that was set.
    Limit,
    /// Where nothing was ever written.
    Zeros,
    /// At something that is no frame.
    Damage(Damage),
}

/// A walk over the frames of a segment, from one to the next.
#[derive(Debug)]
pub struct Frames {
    /// Where the next frame begins.
    offset: u64,
    limit: u64,
    chunk: Bytes,
    chunk_at: u64,
    read_size: usize,
}

impl Frames {
    /// The frames that begin at `offset` and go on to `limit`.
    pub fn new(offset: u64, limit: u64) -> Self {
        Self { offset, limit, chunk: Bytes::new(), chunk_at: offset, read_size: SCAN_READS.0 }
    }

    /// Where the next frame begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Lets it go on to another limit. What was read beyond `durable` is read again: it may have changed.
    pub fn go_on_to(&mut self, limit: u64, durable: u64) {
        let known = usize::try_from(durable.saturating_sub(self.chunk_at)).unwrap_or(usize::MAX);
        self.chunk.truncate(known);
        self.limit = limit;
    }

    /// The next frame of the segment, or why there is none.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn next(&mut self, segment: &Segment) -> Result<std::result::Result<Frame, Stop>> {
        if self.offset.saturating_add(FRAME_HEADER as u64) > self.limit {
            return Ok(Err(Stop::Limit));
        }
        let Some(header) = self.bytes(segment, FRAME_HEADER)? else { return Ok(Err(Stop::Limit)) };
        let header: &[u8; FRAME_HEADER] =
            header[..].first_chunk().unwrap_or_else(|| unreachable!("just read"));
        if *header == [0; FRAME_HEADER] {
            return Ok(Err(Stop::Zeros));
        }
        let header = match FrameHeader::decode(header, segment.seed, self.offset) {
            Ok(header) => header,
            Err(damage) => return Ok(Err(Stop::Damage(damage))),
        };
        if header.position != segment.header.base + self.offset {
            return Ok(Err(Stop::Damage(Damage("a frame stands at another place than it says"))));
        }
        let whole = FRAME_HEADER + header.body_bytes as usize;
        if self.offset.saturating_add(header.bytes()) > self.limit {
            return Ok(Err(Stop::Damage(Damage("a frame reaches beyond the end of its segment"))));
        }
        let Some(frame) = self.bytes(segment, whole)? else {
            return Ok(Err(Stop::Damage(Damage("a frame is cut off by the end of the file"))));
        };
        let offset = self.offset;
        self.offset += header.bytes();
        Ok(Ok(Frame { offset, header, body: frame.slice(FRAME_HEADER..) }))
    }

    /// `count` bytes from where the next frame begins; `None` if the file ends before.
    fn bytes(&mut self, segment: &Segment, count: usize) -> Result<Option<Bytes>> {
        #[allow(clippy::cast_possible_truncation, reason = "bounded by what is in memory")]
        let skip = (self.offset - self.chunk_at).min(self.chunk.len() as u64) as usize;
        if self.chunk.len() - skip < count {
            let room = usize::try_from(self.limit - self.offset).unwrap_or(usize::MAX);
            self.chunk = segment.read(self.offset, self.read_size.max(count).min(room))?;
            self.chunk_at = self.offset;
            self.read_size = (self.read_size * 2).min(SCAN_READS.1);
            return Ok((self.chunk.len() >= count).then(|| self.chunk.slice(..count)));
        }
        Ok(Some(self.chunk.slice(skip..skip + count)))
    }
}

impl Frame {
    /// Its events, checked one by one as they are asked for.
    pub fn events(
        &self,
        segment: &Segment,
    ) -> impl Iterator<Item = std::result::Result<(RecordHeader, RecordedEvent), Damage>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let read = self.record(at, segment).and_then(|record| {
                let Some((header, position)) = record else { return Ok(None) };
                Ok(Some((header, header.event(&self.body, at, position)?)))
            });
            at = match &read {
                Ok(Some((header, _))) => at + header.bytes,
                _ => self.body.len(),
            };
            read.transpose()
        })
    }

    /// The header of the record at an offset in the body, and where that is; `None` behind the last.
    ///
    /// # Errors
    /// What is wrong with it.
    #[inline]
    pub fn record(
        &self,
        at: usize,
        segment: &Segment,
    ) -> std::result::Result<Option<(RecordHeader, Position)>, Damage> {
        if at >= self.body.len() {
            return Ok(None);
        }
        let offset = self.offset + (FRAME_HEADER + at) as u64;
        let header = RecordHeader::decode(&self.body[at..], segment.seed, offset)?;
        Ok(Some((header, Position(segment.header.base + offset))))
    }

    /// Whether every byte of it is as it was written. The events, if so.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn checked(&self, segment: &Segment) -> std::result::Result<Vec<RecordedEvent>, Damage> {
        if (self.header.events as usize) > self.body.len() / RECORD_HEADER {
            return Err(Damage("a frame claims more events than it has room for"));
        }
        let mut crc = BodyCrc::default();
        let mut events = Vec::with_capacity(self.header.events as usize);
        for read in self.events(segment) {
            let (header, event) = read?;
            crc.add(header.crc);
            events.push(event);
        }
        if crc.0 != self.header.body_crc || events.len() != self.header.events as usize {
            return Err(Damage("a frame's body fails its checksum"));
        }
        Ok(events)
    }
}
