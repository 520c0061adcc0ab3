//! Every byte of a segment, without stopping at the first that is wrong.

use std::{thread, time::Duration};

use bytes::Bytes;
use factum::{Position, RecordedEvent, Result, Timestamp};

use crate::{
    format::{
        ALIGN, BodyCrc, Damage, FRAME_HEADER, FrameHeader, RecordHeader, SEGMENT_HEADER, SegmentHeader, align,
    },
    segment::Segment,
};

/// Bytes read at once.
const WINDOW: usize = 1 << 20;
/// How often the end of a log that is being written is looked at again before it is called damaged, and how long after.
const LOOKS: u32 = 20;
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Damage that concerns no event.
const BETWEEN: Damage = Damage("the bytes between two frames should be zero, and are not");
const BEYOND: Damage = Damage("the bytes after the last frame should be zero, and are not");

/// Whether damage concerns no event.
pub fn is_unused(damage: Damage) -> bool {
    damage == BETWEEN || damage == BEYOND
}

/// Who is told of what is found.
pub trait Visitor {
    /// A frame that is whole, with its events.
    ///
    /// # Errors
    /// Whatever ends the walk.
    fn frame(&mut self, segment: &Segment, frame: &Whole) -> Result<()>;
    /// A frame with damage, of which these events are whole.
    ///
    /// # Errors
    /// Whatever ends the walk.
    fn broken(&mut self, segment: &Segment, frame: &Whole) -> Result<()> {
        let _ = (segment, frame);
        Ok(())
    }
    /// Damage at an offset, and the positions that it may concern.
    fn damage(
        &mut self,
        segment: &Segment,
        offset: u64,
        positions: Option<(Position, Position)>,
        damage: Damage,
    );
    /// So many more bytes are looked at.
    fn done(&mut self, bytes: u64);
}

/// A frame without fault.
#[derive(Debug)]
pub struct Whole {
    /// Its offset in the segment.
    pub offset: u64,
    /// What it says of itself.
    pub header: FrameHeader,
    /// Its events.
    pub events: Vec<RecordedEvent>,
}

/// Where the frames of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At this offset, as the next segment says; only zeros follow.
    Sealed(u64),
    /// At this offset; what follows does not count.
    Before(u64),
    /// Where they end, but not before this position: so much was durable once.
    Open {
        /// The position.
        durable: u64,
        /// Whether somebody may be writing now.
        live: bool,
    },
}

/// What must be true of the next frame; unknown right after damage.
#[derive(Clone, Copy, Debug)]
pub struct Continuity {
    /// Its number.
    pub number: Option<u64>,
    /// The number of events before it.
    pub events: Option<u64>,
    /// When the last event before it was recorded.
    pub recorded_at: Timestamp,
}

impl Continuity {
    /// At the beginning of a log.
    pub const BEGINNING: Self = Self { number: Some(1), events: Some(0), recorded_at: Timestamp(i64::MIN) };

    /// Anywhere.
    pub const UNKNOWN: Self = Self { number: None, events: None, recorded_at: Timestamp(i64::MIN) };

    /// At the beginning of a segment.
    pub fn at(header: &SegmentHeader) -> Self {
        let (number, events) = (Some(header.first_frame), Some(header.events_before));
        Self { number, events, recorded_at: header.last_recorded_at }
    }

    fn lost(&mut self) {
        (self.number, self.events) = (None, None);
    }

    /// After this frame.
    pub fn pass(&mut self, header: &FrameHeader) {
        self.number = Some(header.number + 1);
        self.events = Some(header.events_before + u64::from(header.events));
        self.recorded_at = self.recorded_at.max(header.recorded_at);
    }
}

/// Where a walk came to, and what lies beyond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// The offset at which the frames end.
    pub end: u64,
    /// Bytes from there to the last that is not zero, in a segment that is not sealed.
    pub torn: u64,
    /// The largest position of which a frame says that everything before it is durable.
    pub synced_upto: u64,
}

/// Looks at every byte of a segment's frames, from the offset `start` on, at which one begins.
///
/// # Errors
/// Those of the disk and of the visitor.
pub fn walk(
    segment: &Segment,
    start: u64,
    end: End,
    continuity: &mut Continuity,
    visitor: &mut dyn Visitor,
) -> Result<Walked> {
    let mut walk = Walk {
        segment,
        window: Window { segment, at: 0, bytes: Bytes::new() },
        limit: match end {
            End::Sealed(limit) | End::Before(limit) => limit,
            End::Open { .. } => segment.header.capacity,
        },
        walked: Walked { end: start, ..Walked::default() },
    };
    walk.frames(end, continuity, visitor)?;
    if let End::Sealed(_) = end {
        walk.zeros_after(visitor)?;
    }
    Ok(walk.walked)
}

/// What is at a place where a frame should be.
enum Met {
    Frame(Whole, Vec<Fault>),
    /// Nothing that could be one, and why; `None` where there are only zeros or the end.
    None(Option<Damage>),
}

/// Damage within a frame.
struct Fault {
    offset: u64,
    positions: (Position, Position),
    damage: Damage,
}

struct Walk<'a> {
    segment: &'a Segment,
    window: Window<'a>,
    limit: u64,
    walked: Walked,
}

impl Walk<'_> {
    fn frames(&mut self, end: End, continuity: &mut Continuity, visitor: &mut dyn Visitor) -> Result<()> {
        let mut looks = 0;
        loop {
            let offset = self.walked.end;
            // What is wrong was perhaps being written while it was read.
            let may_be_written = matches!(end, End::Open { live: true, .. }) && looks < LOOKS;
            let damage = match self.meet(offset)? {
                Met::Frame(_, faults)
                    if may_be_written && faults.iter().any(|fault| !is_unused(fault.damage)) =>
                {
                    looks += 1;
                    self.look_again();
                    continue;
                }
                Met::Frame(frame, faults) => {
                    self.walked.end += frame.header.bytes();
                    self.walked.synced_upto = self.walked.synced_upto.max(frame.header.synced_upto);
                    self.take(&frame, faults, continuity, visitor)?;
                    looks = 0;
                    continue;
                }
                Met::None(damage) => damage,
            };
            let must_reach = match end {
                End::Sealed(limit) | End::Before(limit) => limit,
                End::Open { durable, .. } => {
                    let (witness, torn) = self.beyond(offset)?;
                    self.walked.torn = torn;
                    durable.max(witness).saturating_sub(self.segment.header.base)
                }
            };
            if offset >= must_reach {
                return Ok(());
            }
            if may_be_written {
                looks += 1;
                self.look_again();
                continue;
            }
            let next = self.find_frame(offset + ALIGN as u64, self.limit)?;
            let until = next.map_or(must_reach, |(next, _)| next);
            let damage = damage.unwrap_or(Damage("frames that were durable are missing"));
            visitor.damage(self.segment, offset, Some(self.positions(offset, until)), damage);
            visitor.done(until.saturating_sub(offset));
            continuity.lost();
            self.walked.end = until;
            if next.is_none() {
                return Ok(());
            }
        }
    }

    /// Lets a moment pass, and forgets what was read ahead.
    fn look_again(&mut self) {
        self.window.bytes = Bytes::new();
        thread::sleep(LOOK_AGAIN);
    }

    /// Looks at what a frame says of those around it, and hands it on.
    fn take(
        &mut self,
        frame: &Whole,
        faults: Vec<Fault>,
        continuity: &mut Continuity,
        visitor: &mut dyn Visitor,
    ) -> Result<()> {
        let header = frame.header;
        let follows = continuity.number.is_none_or(|number| number == header.number)
            && continuity.events.is_none_or(|events| events == header.events_before)
            && header.recorded_at >= continuity.recorded_at
            && header.synced_upto <= header.position
            && header.segment == self.segment.header.number
            && frame.events.iter().map(|event| event.recorded_at).is_sorted()
            && frame.events.first().is_none_or(|event| event.recorded_at >= continuity.recorded_at)
            && frame.events.last().is_none_or(|event| event.recorded_at <= header.recorded_at);
        continuity.pass(&header);
        visitor.done(header.bytes());
        let whole = faults.iter().all(|fault| is_unused(fault.damage));
        for Fault { offset, positions, damage } in faults {
            visitor.damage(self.segment, offset, Some(positions), damage);
        }
        if !follows {
            let positions = self.positions(frame.offset, frame.offset + header.bytes());
            let damage = Damage("a frame does not follow the one before it");
            visitor.damage(self.segment, frame.offset, Some(positions), damage);
        }
        if whole { visitor.frame(self.segment, frame) } else { visitor.broken(self.segment, frame) }
    }

    fn positions(&self, offset: u64, until: u64) -> (Position, Position) {
        let base = self.segment.header.base;
        (Position(base + offset), Position(base + until.saturating_sub(1).max(offset)))
    }

    fn meet(&mut self, offset: u64) -> Result<Met> {
        if offset + FRAME_HEADER as u64 > self.limit {
            return Ok(Met::None(None));
        }
        let bytes = self.window.get(offset, FRAME_HEADER)?;
        let Some(first) = bytes.first_chunk::<FRAME_HEADER>() else {
            return Ok(Met::None(Some(Damage("the file ends where a frame should be"))));
        };
        if *first == [0; FRAME_HEADER] {
            return Ok(Met::None(None));
        }
        let header = match FrameHeader::decode(first, self.segment.seed(), offset) {
            Ok(header) => header,
            Err(damage) => return Ok(Met::None(Some(damage))),
        };
        let damage = if header.position != self.segment.header.base + offset {
            Some("a frame stands at another place than it says")
        } else if offset + header.bytes() > self.limit {
            Some("a frame reaches beyond the end of its segment")
        } else {
            None
        };
        if let Some(damage) = damage {
            return Ok(Met::None(Some(Damage(damage))));
        }
        let Ok(whole) = usize::try_from(header.bytes()) else { return Ok(Met::None(None)) };
        let bytes = self.window.get(offset, whole)?;
        if bytes.len() < whole {
            return Ok(Met::None(Some(Damage("a frame is cut off by the end of the file"))));
        }
        let (events, faults) = self.records(offset, &header, &bytes);
        Ok(Met::Frame(Whole { offset, header, events }, faults))
    }

    /// The events of a frame, and everything that is wrong in it.
    fn records(&self, start: u64, header: &FrameHeader, frame: &Bytes) -> (Vec<RecordedEvent>, Vec<Fault>) {
        let end = FRAME_HEADER + header.body_bytes as usize;
        let (mut events, mut faults) = (Vec::new(), Vec::new());
        let mut crc = BodyCrc::default();
        let mut at = FRAME_HEADER;
        while at < end {
            let (offset, record) = (start + at as u64, frame.slice(at..end));
            let read = RecordHeader::decode(&record, self.segment.seed(), offset);
            let position = Position(self.segment.header.base + offset);
            match read {
                Ok(header) => {
                    crc.add(header.crc);
                    match header.event(&record, 0, position) {
                        Ok(event) => events.push(event),
                        Err(damage) => {
                            faults.push(Fault { offset, positions: (position, position), damage });
                        }
                    }
                    at += header.bytes;
                }
                Err(damage) => {
                    // Where the next one begins, nobody knows.
                    let positions = (position, self.positions(offset, start + end as u64).1);
                    faults.push(Fault { offset, positions, damage });
                    break;
                }
            }
        }
        let positions = self.positions(start, start + end as u64);
        if faults.is_empty() && (crc.0 != header.body_crc || events.len() != header.events as usize) {
            faults.push(Fault {
                offset: start,
                positions,
                damage: Damage("a frame's body fails its checksum"),
            });
        }
        if let Some(n) = frame[end..].iter().position(|&byte| byte != 0) {
            faults.push(Fault { offset: start + (end + n) as u64, positions, damage: BETWEEN });
        }
        (events, faults)
    }

    /// The first frame's header from `offset` on.
    fn find_frame(&mut self, offset: u64, limit: u64) -> Result<Option<(u64, FrameHeader)>> {
        find_frame(self.segment, &mut self.window, align(offset), limit)
    }

    /// What frames beyond `offset` say was durable, and how many bytes there are up to the last that is not zero.
    fn beyond(&mut self, offset: u64) -> Result<(u64, u64)> {
        let (mut witness, mut at) = (0, offset);
        while let Some((found, header)) = self.find_frame(at, self.limit)? {
            witness = witness.max(header.synced_upto);
            at = found + ALIGN as u64;
        }
        let mut last = offset;
        let mut at = offset;
        loop {
            let bytes = self.window.get(at, WINDOW.min(room(at, self.limit)))?;
            if bytes.is_empty() {
                return Ok((witness, last - offset));
            }
            if let Some(n) = bytes.iter().rposition(|&byte| byte != 0) {
                last = at + n as u64 + 1;
            }
            at += bytes.len() as u64;
        }
    }

    /// After the last frame of a sealed segment nothing was ever written, up to the end of the file.
    fn zeros_after(&mut self, visitor: &mut dyn Visitor) -> Result<()> {
        let mut at = self.walked.end;
        let length = self.segment.file.bytes().map_err(|error| self.segment.unreadable(&error))?;
        while at < length {
            let bytes = self.window.get(at, WINDOW.min(room(at, length)))?;
            if bytes.is_empty() {
                break;
            }
            if let Some(n) = bytes.iter().position(|&byte| byte != 0) {
                visitor.damage(self.segment, at + n as u64, None, BEYOND);
                return Ok(());
            }
            at += bytes.len() as u64;
        }
        Ok(())
    }
}

/// Bytes from `at` to `limit`.
fn room(at: u64, limit: u64) -> usize {
    usize::try_from(limit.saturating_sub(at)).unwrap_or(usize::MAX)
}

/// The first bytes of a segment file whose header cannot be read, made up from its first frame that can.
///
/// # Errors
/// Those of the disk.
pub fn guess_header(segment: &Segment) -> Result<Option<SegmentHeader>> {
    let mut window = Window { segment, at: 0, bytes: Bytes::new() };
    let found = find_frame(segment, &mut window, SEGMENT_HEADER, segment.header.capacity)?;
    Ok(found.and_then(|(offset, frame)| {
        let first = offset == SEGMENT_HEADER;
        Some(SegmentHeader {
            base: frame.position.checked_sub(offset)?,
            first_frame: if first { frame.number } else { 0 },
            events_before: if first { frame.events_before } else { 0 },
            ..segment.header
        })
    }))
}

fn find_frame(
    segment: &Segment,
    window: &mut Window<'_>,
    mut offset: u64,
    limit: u64,
) -> Result<Option<(u64, FrameHeader)>> {
    while offset + FRAME_HEADER as u64 <= limit {
        let bytes = window.get(offset, WINDOW.min(room(offset, limit)))?;
        if bytes.len() < FRAME_HEADER {
            return Ok(None);
        }
        let mut at = 0;
        while let Some(header) = bytes[at..].first_chunk::<FRAME_HEADER>() {
            // Most of what is looked through is zeros.
            if header[..8] != [0; 8] {
                let place = offset + at as u64;
                if let Ok(frame) = FrameHeader::decode(header, segment.seed(), place) {
                    return Ok(Some((place, frame)));
                }
            }
            at += ALIGN;
        }
        offset += at as u64;
    }
    Ok(None)
}

/// What was read last of a segment.
struct Window<'a> {
    segment: &'a Segment,
    at: u64,
    bytes: Bytes,
}

impl Window<'_> {
    /// So many bytes from `offset` on; fewer only at the end of the file.
    fn get(&mut self, offset: u64, count: usize) -> Result<Bytes> {
        let skip = offset.checked_sub(self.at).and_then(|skip| usize::try_from(skip).ok());
        if let Some(skip) = skip
            && skip.checked_add(count).is_some_and(|end| end <= self.bytes.len())
        {
            return Ok(self.bytes.slice(skip..skip + count));
        }
        let mut buffer = vec![0; count.max(WINDOW)];
        let read = self.segment.file.read_at(&mut buffer, offset);
        let read = read.map_err(|error| self.segment.unreadable(&error))?;
        buffer.truncate(read);
        (self.at, self.bytes) = (offset, buffer.into());
        Ok(self.bytes.slice(..count.min(self.bytes.len())))
    }
}
