//! Reading: pages of events by place or by scan, from what is durable.
//!
//! What to look at is found under the lock; the bytes are read outside of it.

use std::{ops::ControlFlow, sync::Arc};

use factum::{
    AsOf, Direction, Error, Life, Page, Position, Query, Read, RecordedEvent, Result, Revision, Source,
    Start, StreamName, StreamState, Timestamp, Token,
};

use crate::{
    format::SEGMENT_HEADER,
    index::Index,
    log::{Durable, Log},
    segment::{Frame, Frames, Segment, Stop},
};

/// Bytes of events in a page, at most (but for a single larger event).
const PAGE_BYTES: usize = 4 << 20;
/// Bytes that one page scans, at most: a scan that finds little must not keep a reader waiting.
const SCAN_BYTES: u64 = 16 << 20;
/// Places that are looked up at once.
const PLACES: usize = 256;
/// A query is answered by a scan if it may match one event in so many of those it lies among.
const DENSE: u64 = 4;

/// A page that is being read.
struct Reading<'a> {
    log: &'a Log,
    now: Timestamp,
    query: Query,
    direction: Direction,
    limit: usize,
    /// The positions between which to look, both excluded; the one from which the reading starts moves.
    after: Position,
    before: Position,
    events: Vec<RecordedEvent>,
    bytes: usize,
}

/// What a reading knows at its beginning.
struct Begun {
    head: Token,
    stream: Option<StreamState>,
    after: Position,
    before: Position,
    by_scan: bool,
}

/// Reads a page.
///
/// # Errors
/// As for [`factum::EventStore::read`].
pub fn page(log: &Log, read: &Read) -> Result<Page> {
    read.check()?;
    let query = match &read.source {
        Source::All => Query::all(),
        Source::Stream(stream) => Query::stream(stream.clone()),
        Source::Query(query) => query.clone(),
    };
    let begun = begin(log, read, &query)?;
    let Begun { head, stream, after, before, by_scan } = begun;
    let (direction, limit) = (read.direction, read.limit);
    let mut reading =
        Reading { log, now: log.now(), query, direction, limit, after, before, events: Vec::new(), bytes: 0 };
    let looked_at_all = if by_scan { reading.scan()? } else { reading.look_up()? };
    let next = match (looked_at_all, direction) {
        (true, _) => None,
        (false, Direction::Forwards) => Some(Start::Beyond(head.log.at(reading.after))),
        (false, Direction::Backwards) => Some(Start::Beyond(head.log.at(reading.before))),
    };
    let last_place = Position(before.0.saturating_sub(1)).min(head.position);
    let token = match (direction, looked_at_all) {
        (Direction::Forwards, false) => head.log.at(reading.after),
        _ => head.log.at(last_place),
    };
    Ok(Page { events: reading.events, token, head, next, stream })
}

fn begin(log: &Log, read: &Read, query: &Query) -> Result<Begun> {
    let until = match read.as_of {
        Some(AsOf::Time(time)) => Some(first_after(log, time)?),
        Some(AsOf::Position(position)) => Some(Position(position.0.saturating_add(1))),
        None => None,
    };
    let durable = log.durable();
    let head = durable.log.at(durable.head());
    let stream = match &read.source {
        Source::Stream(name) => Some(durable.index.state(name).unwrap_or_default()),
        _ => None,
    };
    if let (Source::Stream(name), Some(StreamState { life: Life::Tombstoned, .. })) = (&read.source, stream) {
        return Err(Error::Tombstoned { stream: name.clone() });
    }
    let end = Position(head.position.0 + 1);
    let (mut after, mut before) = (Position::START, end);
    match (read.start, read.direction) {
        (Start::Edge, _) => {}
        (Start::Beyond(token), Direction::Forwards) => {
            after = token.position_in(durable.log, head.position)?;
        }
        (Start::Beyond(token), Direction::Backwards) => {
            before = token.position_in(durable.log, head.position)?;
        }
        (Start::Revision(revision), direction) => {
            if let Source::Stream(name) = &read.source {
                (after, before) = around(&durable.index, name, revision, direction, (after, before));
            }
        }
    }
    // A token beyond the moment looked from: nothing to see, and no step back.
    before = until.map_or(before, |until| before.min(until)).max(Position(after.0 + 1));
    let by_scan = match durable.index.places(query) {
        None => true,
        Some(places) => {
            let places = places.at_most(after, before) as u64;
            places > PLACES as u64 && places * DENSE > events_between(&durable, after, before)
        }
    };
    Ok(Begun { head, stream, after, before, by_scan })
}

/// The bounds within which the events of a stream lie that begin at a revision.
fn around(
    index: &Index,
    stream: &StreamName,
    revision: Revision,
    direction: Direction,
    (after, before): (Position, Position),
) -> (Position, Position) {
    let positions = index.positions_of(stream);
    let place = |n: u64| usize::try_from(n).ok().and_then(|n| positions.get(n)).copied();
    match direction {
        Direction::Forwards => match place(revision.0) {
            Some(first) => (Position(first.0 - 1), before),
            None => (Position(before.0 - 1), before),
        },
        Direction::Backwards => (after, place(revision.0.saturating_add(1)).unwrap_or(before)),
    }
}

/// About how many events lie between two positions.
fn events_between(durable: &Durable, after: Position, before: Position) -> u64 {
    let (events, bytes) = (u128::from(durable.index.events()), u128::from(durable.end.max(1)));
    u64::try_from(u128::from(before.0 - after.0) * events / bytes).unwrap_or(u64::MAX)
}

/// The position of the first event that was recorded after `time`, or that after the last event.
fn first_after(log: &Log, time: Timestamp) -> Result<Position> {
    let (segment, end, start, last) = {
        let durable = log.durable();
        let beyond = durable.segments.partition_point(|segment| segment.header.last_recorded_at <= time);
        let n = beyond.saturating_sub(1);
        let start = durable.sparse[n].until(time);
        (durable.segments[n].clone(), durable.end_of(n), start, Position(durable.head().0 + 1))
    };
    let mut found = None;
    walk(&segment, start, end, |frame| {
        if frame.header.recorded_at <= time {
            return Ok(ControlFlow::Continue(()));
        }
        for read in frame.events(&segment) {
            let (_, event) = read.map_err(|damage| segment.corrupt(frame.offset, None, damage))?;
            if event.recorded_at > time {
                found = Some(event.position);
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    // None later in this segment: the next one begins with the first, if there is one.
    Ok(found.unwrap_or_else(|| last.min(Position(end))))
}

/// Hands on the frames of a segment from the offset `start` to the position `end`, all of which are durable.
fn walk(
    segment: &Segment,
    start: u64,
    end: u64,
    mut each: impl FnMut(&Frame) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut frames = Frames::new(segment, start, end - segment.header.base);
    loop {
        let offset = frames.offset();
        match frames.next()? {
            Ok(frame) => {
                if each(&frame)?.is_break() {
                    return Ok(());
                }
            }
            Err(Stop::Limit) => return Ok(()),
            Err(Stop::Zeros) => {
                let damage = crate::format::Damage("frames that were durable are missing");
                return Err(segment.corrupt(offset, Some(between(segment, offset, end)), damage));
            }
            Err(Stop::Damage(damage)) => {
                return Err(segment.corrupt(offset, Some(between(segment, offset, end)), damage));
            }
        }
    }
}

fn between(segment: &Segment, offset: u64, end: u64) -> (Position, Position) {
    (Position(segment.header.base + offset), Position(end.saturating_sub(1)))
}

/// The events of the last stretch of the log before `before`, in order, and where the stretch begins.
///
/// # Errors
/// [`Error::Corrupt`], and those of the disk.
pub fn block_before(durable: &Durable, before: Position) -> Result<(Vec<RecordedEvent>, Position)> {
    let n = durable.segment_at(Position(before.0.saturating_sub(1)));
    let segment = &durable.segments[n];
    let offset = (before.0 - segment.header.base).min(durable.end_of(n) - segment.header.base);
    let (start, _) = durable.sparse[n].around(offset.saturating_sub(1));
    let events = events_of(segment, start, segment.header.base + offset)?;
    // Before the first frame there is only the header, and the segment before.
    let begin = if start <= SEGMENT_HEADER { segment.header.base } else { segment.header.base + start };
    Ok((events, Position(begin.min(before.0 - 1))))
}

/// The events between a frame's start and a position that need not be a frame's.
fn events_of(segment: &Segment, start: u64, before: u64) -> Result<Vec<RecordedEvent>> {
    let mut events = Vec::new();
    walk(segment, start, before_or_capacity(segment, before), |frame| {
        for read in frame.events(segment) {
            let (_, event) = read.map_err(|damage| segment.corrupt(frame.offset, None, damage))?;
            if event.position.0 >= before {
                return Ok(ControlFlow::Break(()));
            }
            events.push(event);
        }
        let more = segment.header.base + frame.offset + frame.header.bytes() < before;
        Ok(if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(events)
}

/// A frame that holds `before` ends beyond it.
fn before_or_capacity(segment: &Segment, before: u64) -> u64 {
    if before <= segment.first() { segment.first() } else { segment.end() }
}

impl Reading<'_> {
    fn is_full(&self) -> bool {
        self.events.len() >= self.limit || self.bytes >= PAGE_BYTES
    }

    /// Moves past an event, and keeps it if it is wanted. `state` is asked only when a stream hides something.
    fn take(&mut self, event: RecordedEvent, state: impl FnOnce(&StreamName) -> StreamState, hiding: bool) {
        self.pass(event.position);
        let shown = !hiding || state(&event.stream).shows(event.revision, event.recorded_at, self.now);
        if shown && self.query.matches(&event) {
            self.bytes += event.data.len() + event.metadata.as_bytes().len();
            self.events.push(event);
        }
    }

    fn pass(&mut self, position: Position) {
        match self.direction {
            Direction::Forwards => self.after = position,
            Direction::Backwards => self.before = position,
        }
    }

    /// Reads at the places that the index knows. Whether all was looked at.
    fn look_up(&mut self) -> Result<bool> {
        loop {
            let wanted = PLACES.min(self.limit - self.events.len());
            let (places, segments) = self.places(wanted);
            let all = places.len() < wanted;
            for (n, place) in places.iter().enumerate() {
                let segment =
                    &segments[segments.partition_point(|segment| segment.header.base <= place.0) - 1];
                let event = segment.event(*place)?;
                let durable = self.log.durable();
                let hiding = durable.index.hides_something();
                self.take(event, |stream| durable.index.state(stream).unwrap_or_default(), hiding);
                drop(durable);
                if self.is_full() {
                    return Ok(all && n + 1 == places.len());
                }
            }
            if all {
                return Ok(true);
            }
        }
    }

    /// The next places to look at, and the segments they are in.
    fn places(&self, wanted: usize) -> (Vec<Position>, Arc<Vec<Arc<Segment>>>) {
        let durable = self.log.durable();
        let mut places = Vec::new();
        let (mut after, mut before) = (self.after, self.before);
        if let Some(found) = durable.index.places(&self.query) {
            while places.len() < wanted {
                let place = match self.direction {
                    Direction::Forwards => found.next(after).filter(|place| *place < before),
                    Direction::Backwards => found.previous(before).filter(|place| *place > after),
                };
                let Some(place) = place else { break };
                match self.direction {
                    Direction::Forwards => after = place,
                    Direction::Backwards => before = place,
                }
                places.push(place);
            }
        }
        (places, durable.segments.clone())
    }

    /// Reads event after event. Whether all was looked at.
    fn scan(&mut self) -> Result<bool> {
        let mut scanned = 0;
        loop {
            if self.before.0 <= self.after.0 + 1 {
                return Ok(true);
            }
            if self.is_full() || scanned >= SCAN_BYTES {
                return Ok(false);
            }
            scanned += match self.direction {
                Direction::Forwards => self.scan_forwards(SCAN_BYTES - scanned)?,
                Direction::Backwards => self.scan_backwards()?,
            };
        }
    }

    /// Goes on in the segment that holds what comes after `after`, and returns how many bytes it looked at.
    fn scan_forwards(&mut self, at_most: u64) -> Result<u64> {
        let (segment, start, end, is_last) = {
            let durable = self.log.durable();
            let n = durable.segment_at(Position(self.after.0 + 1));
            let segment = durable.segments[n].clone();
            let offset = (self.after.0 + 1).saturating_sub(segment.header.base);
            let end = durable.end_of(n).min(self.before.0.max(segment.first()));
            (segment, durable.sparse[n].around(offset).0, end, n + 1 == durable.segments.len())
        };
        let limit = if end == self.before.0 { segment.end() } else { end };
        let mut looked = 0;
        walk(&segment, start, limit, |frame| {
            let begins = segment.header.base + frame.offset;
            if begins >= self.before.0 {
                self.after = Position(self.before.0 - 1);
                return Ok(ControlFlow::Break(()));
            }
            looked += frame.header.bytes();
            if begins + frame.header.bytes() > self.after.0 {
                self.take_frame(&segment, frame)?;
            }
            let go_on = !self.is_full() && looked < at_most && self.after.0 + 1 < self.before.0;
            Ok(if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        if !self.is_full() && looked < at_most && self.after.0 + 1 < self.before.0 {
            // The whole segment was looked at.
            let next =
                if is_last { Position(self.before.0 - 1) } else { Position(end.max(self.after.0 + 1)) };
            self.after = self.after.max(next.min(Position(self.before.0 - 1)));
        }
        Ok(looked)
    }

    fn take_frame(&mut self, segment: &Segment, frame: &Frame) -> Result<()> {
        let durable = self.log.durable();
        let hiding = durable.index.hides_something();
        for read in frame.events(segment) {
            let (_, event) = read.map_err(|damage| segment.corrupt(frame.offset, None, damage))?;
            if event.position <= self.after {
                continue;
            }
            if event.position >= self.before || self.is_full() {
                break;
            }
            self.take(event, |stream| durable.index.state(stream).unwrap_or_default(), hiding);
        }
        if !self.is_full() {
            // The frame is done with: the next step must not begin in it again.
            let end = segment.header.base + frame.offset + frame.header.bytes();
            self.after = self.after.max(Position((end - 1).min(self.before.0 - 1)));
        }
        Ok(())
    }

    fn scan_backwards(&mut self) -> Result<u64> {
        let durable = self.log.durable();
        let (events, begin) = block_before(&durable, self.before)?;
        let looked = self.before.0 - begin.0;
        let hiding = durable.index.hides_something();
        for event in events.into_iter().rev() {
            if event.position <= self.after {
                break;
            }
            if self.is_full() {
                return Ok(looked);
            }
            self.take(event, |stream| durable.index.state(stream).unwrap_or_default(), hiding);
        }
        if !self.is_full() {
            self.before = begin.max(Position(self.after.0 + 1));
        }
        Ok(looked)
    }
}
