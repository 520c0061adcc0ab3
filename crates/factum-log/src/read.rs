//! Reading: pages of events by place or by scan, from what is durable.
//!
//! What to look at is found under the lock; the bytes are read outside of it.

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use factum::{
    AsOf, Direction, Error, Life, Page, Position, Query, Read, RecordedEvent, Result, Revision, Source,
    Start, StreamState, Timestamp, Token,
};

use crate::{
    disk::at_once,
    format::{Damage, SEGMENT_HEADER, is_removed},
    index::{Places, Settled, is_everything},
    log::{Durable, Log},
    segment::{Frame, Frames, Segment, Stop},
    store::LITTLE,
};

/// Bytes of events in a page, at most (but for a single larger event).
const PAGE_BYTES: usize = 4 << 20;
/// Bytes that one page scans, at most: a scan that finds little must not keep a reader waiting.
const SCAN_BYTES: u64 = 16 << 20;
/// Scans of which it is remembered where they stopped; each may hold a frame in memory, and a piece of a segment.
const INTERRUPTIONS: usize = 4;
/// Places that are looked up at once.
const PLACES: usize = 256;
/// Events that are read together.
const AT_ONCE: usize = 64;
/// Scans that are not tried at once after one that was in vain.
const WAITING_SCANS: u32 = 15;
/// How often one page does so: one that finds little must not keep a reader waiting.
const LOOKS: usize = 64;
/// A query is answered by a scan if it may match one event in so many of those it lies among.
const DENSE: u64 = 4;

/// A scan that stopped because its page was full.
#[derive(Debug)]
struct Interrupted {
    /// The last event that it took.
    after: Position,
    segment: Arc<Segment>,
    frames: Frames,
    /// The frame that it stopped in, and where the next record begins in its body.
    frame: Option<(Frame, usize)>,
    /// What is beyond this offset may have changed since.
    durable: u64,
}

/// Where scans stopped, the latest last: the next page goes on there and need not read again what was read.
#[derive(Debug, Default)]
pub struct Interruptions {
    all: Mutex<VecDeque<Interrupted>>,
    /// How many scans are not tried at once, because one could not be.
    wait: AtomicU32,
}

impl Interruptions {
    fn leave(&self, interrupted: Interrupted) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() == INTERRUPTIONS {
            all.pop_front();
        }
        all.push_back(interrupted);
    }

    /// Forgets those in a segment: whoever holds its file keeps the room of that from coming back.
    pub fn forget(&self, segment: u32) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|interrupted| interrupted.segment.header.number != segment);
    }

    fn take(&self, after: Position) -> Option<Interrupted> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let n = all.iter().position(|interrupted| interrupted.after == after)?;
        all.remove(n)
    }
}

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
    /// Whether it may wait for the disk.
    may_wait: bool,
    /// Whether any stream may hide any of its events.
    may_hide: bool,
}

/// What a reading knows at its beginning.
struct Begun {
    head: Token,
    stream: Option<StreamState>,
    after: Position,
    before: Position,
    settled: Settled,
    may_hide: bool,
}

/// Reads a page if that needs no waiting for the disk, and is soon done. `None` if it does, or is not.
pub fn page_at_once(log: &Log, read: &Read) -> Option<Result<Page>> {
    if !is_scan(read) {
        return at_once(LITTLE, || log.mending(|| page_by(log, read, false)));
    }
    // What could not be read at once is seldom followed by what can.
    let wait = &log.interrupted.wait;
    if wait.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        return None;
    }
    let page = at_once(LITTLE, || log.mending(|| page_by(log, read, false)));
    if page.is_none() {
        wait.store(WAITING_SCANS, Ordering::Relaxed);
    }
    page
}

/// Whether a page is found by looking at one event after the other, and not by places that the index knows.
pub fn is_scan(read: &Read) -> bool {
    match &read.source {
        Source::Stream(_) => false,
        Source::Query(query) => query.any_of.iter().any(is_everything),
        Source::All => true,
    }
}

/// Reads a page.
///
/// # Errors
/// As for [`factum::EventStore::read`].
pub fn page(log: &Log, read: &Read) -> Result<Page> {
    log.mending(|| page_by(log, read, true))
}

fn page_by(log: &Log, read: &Read, may_wait: bool) -> Result<Page> {
    read.check()?;
    let query = match &read.source {
        Source::All => Query::all(),
        Source::Stream(stream) => Query::stream(stream.clone()),
        Source::Query(query) => query.clone(),
    };
    let Begun { head, stream, after, before, settled, may_hide } = begin(log, read, may_wait)?;
    let (direction, limit) = (read.direction, read.limit);
    // Runs are read outside of the lock.
    let places =
        settled.places(&query, after, before)?.filter(|places| !is_dense(log, places, &query, after, before));
    let now = log.now();
    let (events, bytes) = (Vec::with_capacity(if is_scan(read) { limit.min(1000) } else { 0 }), 0);
    let mut reading =
        Reading { log, now, query, direction, limit, after, before, events, bytes, may_wait, may_hide };
    let looked_at_all = match places {
        None => reading.scan()?,
        Some(places) => reading.look_up(&places, settled.end)?,
    };
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

/// Looks at everything at one moment: what comes later is not of this reading.
fn begin(log: &Log, read: &Read, may_wait: bool) -> Result<Begun> {
    let name = match &read.source {
        Source::Stream(name) => Some(name),
        _ => None,
    };
    let durable = log.durable();
    let head = durable.log.at(durable.head());
    let end = Position(head.position.0 + 1);
    let settled = durable.index.settled();
    let may_hide = durable.index.hides_something();
    let stream = name.map(|name| {
        let hash = durable.index.secret.stream(name);
        (hash, durable.index.newest_durable_state(hash, durable.end))
    });
    drop(durable);
    // Runs are read outside of the lock.
    if let (Some((hash, _)), true) = (stream, may_wait) {
        settled.will_look_up(hash);
    }
    let state = match stream {
        None => None,
        Some((_, Some(state))) => Some(state),
        Some((hash, None)) => Some(settled.state(hash, end.0)?.unwrap_or_default()),
    };
    if let (Some(name), Some(StreamState { life: Life::Tombstoned, .. })) = (name, state) {
        return Err(Error::Tombstoned { stream: name.clone() });
    }
    let (mut after, mut before) = (Position::START, end);
    match (read.start, read.direction) {
        (Start::Edge, _) => {}
        (Start::Beyond(token), Direction::Forwards) => {
            after = token.position_in(head.log, head.position)?;
        }
        (Start::Beyond(token), Direction::Backwards) => {
            before = token.position_in(head.log, head.position)?;
        }
        (Start::Revision(revision), direction) => {
            if let Some((hash, _)) = stream {
                let place = |revision| place_of(log, hash, revision, end);
                (after, before) = around(place, revision, direction, (after, before))?;
            }
        }
    }
    if let (Some((hash, _)), Some(state)) = (stream, &state)
        && state.hidden_before > Revision::FIRST
    {
        // What is hidden for good need not be looked at.
        let place = |revision| place_of(log, hash, revision, end);
        let (first, _) = around(place, state.hidden_before, Direction::Forwards, (after, before))?;
        after = after.max(first);
    }
    match read.as_of {
        Some(AsOf::Time(time)) => before = before.min(first_after(log, time)?.unwrap_or(end)),
        Some(AsOf::Position(position)) => before = before.min(Position(position.0.saturating_add(1))),
        None => {}
    }
    // A token beyond the moment looked from: nothing to see, and no step back.
    Ok(Begun { head, stream: state, after, before: before.max(Position(after.0 + 1)), settled, may_hide })
}

/// The position of an event of a stream by its revision, if that is before `end`.
fn place_of(log: &Log, stream: u128, revision: Revision, end: Position) -> Result<Option<Position>> {
    let (newest, settled) = {
        let durable = log.durable();
        (durable.index.memory.position_of(stream, revision), durable.index.settled())
    };
    let place = newest.map_or_else(|| settled.position_of(stream, revision), Ok)?;
    Ok(place.filter(|place| *place < end))
}

/// Whether a query may match so much that reading everything is quicker than going to each place.
fn is_dense(log: &Log, settled: &Places<'_>, query: &Query, after: Position, before: Position) -> bool {
    let durable = log.durable();
    let newest = durable.index.newest_places(query);
    let places = settled.about_between(after, before) + newest.about_between(after, before);
    places > PLACES && places as u64 * DENSE > events_between(&durable, after, before)
}

/// The bounds within which the events of a stream lie that begin at a revision.
fn around(
    place_of: impl Fn(Revision) -> Result<Option<Position>>,
    revision: Revision,
    direction: Direction,
    (after, before): (Position, Position),
) -> Result<(Position, Position)> {
    Ok(match direction {
        Direction::Forwards => match place_of(revision)? {
            Some(first) => (Position(first.0 - 1), before),
            None => (Position(before.0.saturating_sub(1)), before),
        },
        Direction::Backwards if revision.0 == u64::MAX => (after, before),
        Direction::Backwards => (after, place_of(revision.next())?.unwrap_or(before)),
    })
}

/// About how many events lie between two positions.
fn events_between(durable: &Durable, after: Position, before: Position) -> u64 {
    let (events, bytes) = (u128::from(durable.index.events()), u128::from(durable.end.max(1)));
    u64::try_from(u128::from(before.0 - after.0) * events / bytes).unwrap_or(u64::MAX)
}

/// The position of the first event that was recorded after `time`, if there is one.
fn first_after(log: &Log, time: Timestamp) -> Result<Option<Position>> {
    let (segment, end, start) = {
        let durable = log.durable();
        let beyond = durable.segments.partition_point(|segment| segment.header.last_recorded_at <= time);
        let n = beyond.saturating_sub(1);
        let (segment, end) = (durable.segments[n].clone(), durable.end_of(n));
        let start = durable.sparse.start_until(segment.first(), end, time) - segment.header.base;
        (segment, end, start)
    };
    let mut found = None;
    walk(&segment, start, end, |frame| {
        if frame.header.recorded_at <= time {
            return Ok(ControlFlow::Continue(()));
        }
        for read in frame.events(&segment) {
            let (_, event) = read.map_err(|damage| in_frame(&segment, frame, damage))?;
            if event.recorded_at > time {
                found = Some(event.position);
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Hands on the frames of a segment from the offset `start` to the position `end`, all of which are durable.
///
/// # Errors
/// [`Error::Corrupt`] if any of them is not there, those of the disk, and those of `each`.
pub fn walk(
    segment: &Segment,
    start: u64,
    end: u64,
    mut each: impl FnMut(&Frame) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut frames = Frames::new(start, end - segment.header.base);
    while let Some(frame) = next_frame(&mut frames, segment, end)? {
        if each(&frame)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// The next of frames that are durable up to the position `end`; `None` behind the last.
fn next_frame(frames: &mut Frames, segment: &Segment, end: u64) -> Result<Option<Frame>> {
    let offset = frames.offset();
    let damage = match frames.next(segment)? {
        Ok(frame) => return Ok(Some(frame)),
        Err(Stop::Limit) => return Ok(None),
        Err(Stop::Zeros) => Damage("frames that were durable are missing"),
        Err(Stop::Damage(damage)) => damage,
    };
    Err(segment.corrupt(offset, Some(between(segment, offset, end)), damage))
}

/// The error for damage within a frame.
fn in_frame(segment: &Segment, frame: &Frame, damage: Damage) -> Error {
    let end = segment.header.base + frame.offset + frame.header.bytes();
    segment.corrupt(frame.offset, Some(between(segment, frame.offset, end)), damage)
}

fn between(segment: &Segment, offset: u64, end: u64) -> (Position, Position) {
    (Position(segment.header.base + offset), Position(end.saturating_sub(1)))
}

/// The events of the last stretch of the log before `before`, in order, and where the stretch begins.
///
/// # Errors
/// [`Error::Corrupt`], and those of the disk.
pub fn block_before(durable: &Durable, before: Position) -> Result<(Vec<RecordedEvent>, Position)> {
    Block::before(durable, before).read()
}

/// A stretch of the log that is known to be there.
struct Block {
    segment: Arc<Segment>,
    /// The offset of its first frame.
    start: u64,
    /// The position that its events lie before.
    before: Position,
}

impl Block {
    fn before(durable: &Durable, before: Position) -> Self {
        let n = durable.segment_at(Position(before.0.saturating_sub(1)));
        let segment = durable.segments[n].clone();
        let end = before.0.min(durable.end_of(n));
        let start = durable.sparse.start_for(segment.first(), end.saturating_sub(1)) - segment.header.base;
        Self { segment, start, before: Position(end) }
    }

    /// Its events, and where it begins.
    fn read(&self) -> Result<(Vec<RecordedEvent>, Position)> {
        let events = events_of(&self.segment, self.start, self.before.0)?;
        // Before the first frame there is only the header, and the segment before.
        let base = self.segment.header.base;
        let begin = if self.start <= SEGMENT_HEADER { base } else { base + self.start };
        Ok((events, Position(begin.min(self.before.0.saturating_sub(1)))))
    }
}

/// The events between a frame's start and a position that need not be a frame's.
fn events_of(segment: &Segment, start: u64, before: u64) -> Result<Vec<RecordedEvent>> {
    let mut events = Vec::new();
    walk(segment, start, before_or_capacity(segment, before), |frame| {
        for read in frame.events(segment) {
            let (_, event) = read.map_err(|damage| in_frame(segment, frame, damage))?;
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

/// A part of a segment to be scanned.
struct Stretch {
    segment: Arc<Segment>,
    frames: Frames,
    /// The frame to begin with, and where in its body, if that is known.
    frame: Option<(Frame, usize)>,
    /// The position beyond it.
    end: u64,
    /// The offset up to which the segment was durable.
    durable: u64,
    is_last: bool,
}

impl Reading<'_> {
    fn is_full(&self) -> bool {
        self.events.len() >= self.limit || self.bytes >= PAGE_BYTES
    }

    /// Moves past an event, and keeps it if it is wanted.
    #[inline]
    fn take(&mut self, event: RecordedEvent) -> Result<()> {
        self.pass(event.position);
        if self.query.matches(&event) && self.shows(&event)? {
            self.bytes += event.data.len() + event.metadata.as_bytes().len();
            self.events.push(event);
        }
        Ok(())
    }

    fn shows(&self, event: &RecordedEvent) -> Result<bool> {
        if is_removed(event) {
            return self.log.durable().vouch_for(event).map(|()| false);
        }
        if !self.may_hide {
            return Ok(true);
        }
        let state = self.log.stream_state(&event.stream)?;
        Ok(state.shows(event.revision, event.recorded_at, self.now))
    }

    fn pass(&mut self, position: Position) {
        match self.direction {
            Direction::Forwards => self.after = position,
            Direction::Backwards => self.before = position,
        }
    }

    /// Reads at the places that the index knows. Whether all was looked at.
    fn look_up(&mut self, settled: &Places<'_>, settled_end: u64) -> Result<bool> {
        for _ in 0..LOOKS {
            let wanted = PLACES.min(self.limit - self.events.len());
            let places = self.places(settled, settled_end, wanted)?;
            let all = places.len() < wanted;
            if !self.read_at_places(&places)? {
                return Ok(false);
            }
            if all || self.is_full() {
                return Ok(all);
            }
        }
        Ok(false)
    }

    /// Takes the events at places. Whether there was room for all of them.
    fn read_at_places(&mut self, places: &[Position]) -> Result<bool> {
        let segments = self.log.durable().segments.clone();
        let number = |place: &Position| segments.partition_point(|it| it.header.base <= place.0) - 1;
        let mut groups: Vec<(&Segment, &[Position])> = Vec::new();
        for group in places.chunk_by(|one, next| number(one) == number(next)) {
            // So few that a page does not get much larger than it should.
            groups.extend(group.chunks(AT_ONCE).map(|some| (&*segments[number(&some[0])], some)));
        }
        if self.may_wait {
            groups.iter().for_each(|(segment, some)| segment.will_read(some));
        }
        for (segment, some) in groups {
            for event in segment.events(some)? {
                if self.is_full() {
                    return Ok(false);
                }
                self.take(event)?;
            }
        }
        Ok(true)
    }

    /// The next places to look at: those of the part of the index that does not change, and those in memory, which are looked up
    /// under the lock.
    fn places(&self, settled: &Places<'_>, settled_end: u64, wanted: usize) -> Result<Vec<Position>> {
        let mut found = Vec::new();
        let (mut after, mut before) = (self.after, self.before);
        let newest = Position(settled_end.saturating_sub(1));
        match self.direction {
            Direction::Forwards => {
                more_after(settled, &mut after, before, wanted, &mut found)?;
                after = after.max(newest);
                let durable = self.log.durable();
                if let Some(places) = durable.index.places(&self.query, after)? {
                    more_after(&places, &mut after, before, wanted, &mut found)?;
                }
            }
            Direction::Backwards => {
                let durable = self.log.durable();
                if let Some(places) = durable.index.places(&self.query, after.max(newest))? {
                    more_before(&places, after.max(newest), &mut before, wanted, &mut found)?;
                }
                drop(durable);
                before = before.min(Position(settled_end));
                more_before(settled, after, &mut before, wanted, &mut found)?;
            }
        }
        Ok(found)
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
        let Stretch { segment, mut frames, mut frame, end, durable, is_last } = self.stretch();
        let mut looked = 0;
        loop {
            if let Some((present, at)) = frame.take() {
                looked += present.header.bytes();
                let stopped_at = self.take_frame(&segment, &present, at)?;
                frame = stopped_at.map(|at| (present, at));
            }
            if self.after.0 + 1 >= self.before.0 {
                break;
            }
            if self.is_full() || looked >= at_most {
                let after = self.after;
                self.log.interrupted.leave(Interrupted { after, segment, frames, frame, durable });
                break;
            }
            let Some(next) = next_frame(&mut frames, &segment, end)? else {
                // The whole segment was looked at.
                let next =
                    if is_last { Position(self.before.0 - 1) } else { Position(end.max(self.after.0 + 1)) };
                self.after = self.after.max(next.min(Position(self.before.0 - 1)));
                break;
            };
            let begins = segment.header.base + next.offset;
            if begins >= self.before.0 {
                self.after = Position(self.before.0 - 1);
                break;
            }
            if begins + next.header.bytes() > self.after.0 {
                frame = Some((next, 0));
            }
        }
        Ok(looked)
    }

    /// Where to go on after `after`.
    fn stretch(&self) -> Stretch {
        let found = self.log.interrupted.take(self.after);
        let durable = self.log.durable();
        let number = |found: &Interrupted| durable.segment_at(Position(found.segment.first()));
        // Where a segment was replaced, what was read of the old one is of no use.
        let found = found.filter(|found| Arc::ptr_eq(&found.segment, &durable.segments[number(found)]));
        let n = found.as_ref().map_or_else(|| durable.segment_at(Position(self.after.0 + 1)), number);
        let segment = durable.segments[n].clone();
        let base = segment.header.base;
        let end = durable.end_of(n).min(self.before.0.max(segment.first()));
        // A frame that holds `before` ends beyond it.
        let limit = if end == self.before.0 { segment.end() } else { end };
        let (frames, frame) = match found {
            Some(Interrupted { mut frames, frame, durable, .. }) => {
                frames.go_on_to(limit - base, durable);
                (frames, frame)
            }
            None => {
                let start = durable.sparse.start_for(segment.first(), self.after.0 + 1) - base;
                (Frames::new(start, limit - base), None)
            }
        };
        let is_last = n + 1 == durable.segments.len();
        Stretch { frames, frame, end: limit, durable: durable.end_of(n) - base, is_last, segment }
    }

    /// Takes the events of a frame from a record's offset in its body. If there is no room for all of them, where it stopped.
    fn take_frame(&mut self, segment: &Segment, frame: &Frame, mut at: usize) -> Result<Option<usize>> {
        let damaged = |damage| in_frame(segment, frame, damage);
        while let Some((header, position)) = frame.record(at, segment).map_err(damaged)? {
            if self.is_full() {
                return Ok(Some(at));
            }
            if position >= self.before {
                break;
            }
            if position > self.after {
                self.take(header.event(&frame.body, at, position).map_err(damaged)?)?;
            }
            at += header.bytes;
        }
        // The frame is done with: the next step must not begin in it again.
        let end = segment.header.base + frame.offset + frame.header.bytes();
        self.after = self.after.max(Position((end - 1).min(self.before.0 - 1)));
        Ok(None)
    }

    fn scan_backwards(&mut self) -> Result<u64> {
        let block = Block::before(&self.log.durable(), self.before);
        let (events, begin) = block.read()?;
        let looked = self.before.0 - begin.0;
        for event in events.into_iter().rev() {
            if event.position <= self.after {
                break;
            }
            if self.is_full() {
                return Ok(looked);
            }
            self.take(event)?;
        }
        if !self.is_full() {
            self.before = begin.max(Position(self.after.0 + 1));
        }
        Ok(looked)
    }
}

/// Adds places beyond `after` to those found, and moves `after` to the last of them.
fn more_after(
    places: &Places<'_>,
    after: &mut Position,
    before: Position,
    wanted: usize,
    found: &mut Vec<Position>,
) -> Result<()> {
    while found.len() < wanted {
        let Some(place) = places.next(*after)?.filter(|place| *place < before) else { break };
        found.push(place);
        *after = place;
    }
    Ok(())
}

/// Adds places before `before` to those found, and moves `before` to the last of them.
fn more_before(
    places: &Places<'_>,
    after: Position,
    before: &mut Position,
    wanted: usize,
    found: &mut Vec<Position>,
) -> Result<()> {
    while found.len() < wanted {
        let Some(place) = places.previous(*before, after)? else { break };
        found.push(place);
        *before = place;
    }
    Ok(())
}
