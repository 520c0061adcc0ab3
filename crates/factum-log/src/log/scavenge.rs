//! Taking back the space of events that are hidden for good, segment by segment.
//!
//! A segment that is followed by another never changes. So a [packed](crate::packed) copy of it is made beside it, read back and
//! compared, synced, and given its name: whatever crashes when, one of the two files has it, and either will do. Whoever reads
//! the old file goes on reading it.
//!
//! What must be true: *what is removed is hidden for good by what is durable*. The packed file says up to where the log was durable
//! when it was made, so that a log which has lost what hid the events is found out (see [`crate::recovery`]), and readers who meet
//! a removed event ask once more ([`Durable::vouch_for`]).

use std::{collections::HashMap, fmt, io, ops::ControlFlow, sync::Arc};

use bytestring::ByteString;
use factum::{
    Error, Outcome, RecordedEvent, Result, StreamName, StreamState, Timestamp, name::METADATA_PREFIX,
};

use super::{Durable, Log};
use crate::{
    bugs::Bug,
    disk::explain,
    format::{Damage, FRAME_HEADER, SEGMENT_HEADER, Stub, is_removed, is_stub_of},
    packed::{Facts, Packed, Packing},
    read::walk,
    segment::{Frame, Frames, Segment},
};

/// Streams whose states are remembered.
const STREAMS: usize = 64 << 10;
/// Bytes of a segment between two reports of progress, at least.
const REPORT_EVERY: u64 = 4 << 20;

/// When it is worth packing a segment.
///
/// ```
/// let options = factum_log::Scavenge::default().at_least_percent(50);
/// ```
#[derive(Clone, Debug)]
pub struct Scavenge {
    at_least_percent: u8,
}

impl Default for Scavenge {
    fn default() -> Self {
        Self { at_least_percent: 20 }
    }
}

impl Scavenge {
    /// Packs a segment if its file becomes smaller by so many percent, by default 20. With 0, wherever anything can be removed at
    /// all, however little: for data that must go.
    #[must_use]
    pub fn at_least_percent(self, percent: u8) -> Self {
        Self { at_least_percent: percent.min(100) }
    }

    fn is_worth_it(&self, tally: Tally, before: u64, after: u64) -> bool {
        let gain = before.saturating_sub(after);
        match self.at_least_percent {
            0 => tally.newly > 0,
            percent => gain > 0 && gain.saturating_mul(100) >= before.saturating_mul(u64::from(percent)),
        }
    }
}

/// How far a scavenge has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scavenging {
    /// The number of the segment that it is at.
    pub segment: u32,
    /// How many segments it looks at.
    pub of: u32,
    /// What it is doing there.
    pub step: ScavengeStep,
    /// Bytes of the disk that it has taken back so far.
    pub reclaimed_bytes: u64,
}

/// What a scavenge does with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScavengeStep {
    /// It counts what could be removed.
    Counting,
    /// It writes the packed file.
    Packing,
    /// It reads it back and compares.
    Comparing,
}

/// What a scavenge did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scavenged {
    /// The segments that were packed.
    pub segments: Vec<Reclaimed>,
    /// How many segments were looked at.
    pub looked_at: u32,
    /// It was stopped before it had looked at all.
    pub stopped: bool,
}

/// What was taken back from a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reclaimed {
    /// Its number.
    pub segment: u32,
    /// Events that were removed.
    pub events: u64,
    /// Bytes of its file before.
    pub bytes_before: u64,
    /// Bytes of its file now.
    pub bytes_after: u64,
}

impl Scavenged {
    /// Events that were removed.
    pub fn events(&self) -> u64 {
        self.segments.iter().map(|segment| segment.events).sum()
    }

    /// Bytes of the disk that were taken back.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes_before.saturating_sub(s.bytes_after)).sum()
    }
}

impl fmt::Display for Scavenged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (events, bytes, packed) = (self.events(), self.bytes(), self.segments.len());
        let stopped = if self.stopped { "; it was stopped before the end" } else { "" };
        write!(
            f,
            "{events} events removed, {bytes} bytes taken back from {packed} of {} segments{stopped}",
            self.looked_at
        )
    }
}

/// What is removed from a segment.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// All in all.
    removed: u64,
    /// Those that were still there.
    newly: u64,
}

/// Why a segment is not finished.
enum Halt {
    Stopped,
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Durable {
    /// Checks that a removed event is one that nobody would see: what hides it must not have been lost. (In a later epoch it may
    /// be: a log that was repaired has lost its end, and everybody is told.)
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it would be seen, and those of the index.
    pub fn vouch_for(&self, removed: &RecordedEvent) -> Result<()> {
        let state = self.state(self.index.secret.stream(&removed.stream))?;
        let now = self.last.map_or(Timestamp(i64::MIN), |(_, at)| at);
        let segment = &self.segments[self.segment_at(removed.position)];
        let hidden = state.hides_for_good(removed.revision, removed.recorded_at, now);
        if hidden || self.log.epoch > segment.header.log.epoch {
            return Ok(());
        }
        let places = Some((removed.position, removed.position));
        let damage = Damage("an event was removed, but what hid it is lost");
        Err(segment.corrupt(removed.position.0 - segment.header.base, places, damage))
    }
}

impl Log {
    /// Takes back the space of events that are hidden for good. To be called by one at a time.
    ///
    /// # Errors
    /// Those of the disk, of damaged segments, and the failure that poisoned the log earlier. What was packed before stays so.
    pub fn scavenge(
        &self,
        options: &Scavenge,
        progress: &mut dyn FnMut(&Scavenging) -> ControlFlow<()>,
    ) -> Result<Scavenged> {
        let sealed = self.durable().segments.len() - 1;
        let mut report = Scavenged::default();
        for n in 0..sealed {
            // One at a time: who holds the old file keeps its room from coming back.
            let (segment, end) = {
                let durable = self.durable();
                (durable.segments[n].clone(), durable.end_of(n))
            };
            let at = Scavenging {
                segment: segment.header.number,
                of: u32::try_from(sealed).unwrap_or(u32::MAX),
                step: ScavengeStep::Counting,
                reclaimed_bytes: report.bytes(),
            };
            let mut work = Work::new(self, &segment, end, at, progress);
            match work.pack_if_worth_it(options) {
                Ok(packed) => report.segments.extend(packed),
                Err(Halt::Stopped) => {
                    report.stopped = true;
                    break;
                }
                Err(Halt::Failed(error)) => return Err(error),
            }
            report.looked_at += 1;
        }
        Ok(report)
    }

    /// Whether a scavenge may go on: not on a log that is closing, nor on one of which nobody knows what is on the disk.
    fn may_scavenge(&self) -> std::result::Result<(), Halt> {
        match &self.desk().refusal {
            None => Ok(()),
            Some(refusal @ (Error::Poisoned { .. } | Error::Fenced { .. })) => {
                Err(Halt::Failed(refusal.clone()))
            }
            Some(_) => Err(Halt::Stopped),
        }
    }

    /// Puts a packed segment in the place of the one that it was made from, for those who begin to read now.
    fn replace_segment(&self, packed: Segment) {
        let number = packed.header.number;
        let mut durable = self.durable_mut();
        let mut segments = durable.segments.to_vec();
        for segment in &mut segments {
            if segment.header.number == number {
                *segment = Arc::new(packed);
                break;
            }
        }
        durable.segments = Arc::new(segments);
        drop(durable);
        self.interrupted.forget(number);
    }
}

/// The work on one segment.
struct Work<'a> {
    log: &'a Log,
    segment: &'a Segment,
    /// The position at which its frames end.
    end: u64,
    /// When the last event of the log was recorded, at least.
    last_recorded_at: Timestamp,
    /// States of streams. Those that are out of date hide less than they could, and nothing that they should not.
    states: HashMap<StreamName, StreamState>,
    at: Scavenging,
    progress: &'a mut dyn FnMut(&Scavenging) -> ControlFlow<()>,
}

impl<'a> Work<'a> {
    fn new(
        log: &'a Log,
        segment: &'a Segment,
        end: u64,
        at: Scavenging,
        progress: &'a mut dyn FnMut(&Scavenging) -> ControlFlow<()>,
    ) -> Self {
        let last_recorded_at = if log.settings.bugs.has(Bug::RemoveByTheClock) {
            log.now()
        } else {
            log.durable().last.map_or(Timestamp(i64::MIN), |(_, at)| at)
        };
        Self { log, segment, end, last_recorded_at, states: HashMap::new(), at, progress }
    }

    fn pack_if_worth_it(&mut self, options: &Scavenge) -> std::result::Result<Option<Reclaimed>, Halt> {
        let bytes_before = match &self.segment.packed {
            Some(packed) => packed.bytes,
            None => self.segment.header.capacity,
        };
        let mut counting = Packing::new(&self.segment.header, None);
        let tally = self.pack(ScavengeStep::Counting, &mut counting)?;
        if !options.is_worth_it(tally, bytes_before, counting.bytes()) {
            return Ok(None);
        }
        let name = Segment::name(self.segment.header.number);
        let new = format!("{name}.new");
        let made = self.make(&new).and_then(|packed| {
            self.publish(&new, &name)?;
            Ok(packed)
        });
        if made.is_err() {
            // What stays behind is removed when the log is opened next.
            let _ = self.log.disk.remove(&new);
        }
        let (packed, tally) = made?;
        let bytes_after = packed.bytes;
        self.log.replace_segment(Segment::packed(packed, self.segment.path.clone()));
        let segment = self.segment.header.number;
        Ok(Some(Reclaimed { segment, events: tally.newly, bytes_before, bytes_after }))
    }

    /// Makes the packed file, durable and compared with what it was made from, under another name.
    fn make(&mut self, new: &str) -> std::result::Result<(Arc<Packed>, Tally), Halt> {
        let (log, header) = (self.log, self.segment.header);
        let failed = |error: io::Error| explain(&error, "make", &log.disk.path_of(new), Outcome::No);
        let create = || {
            if log.disk.list()?.iter().any(|name| name == new) {
                log.disk.remove(new)?;
            }
            log.disk.create(new, 0)
        };
        let file = create().map_err(failed)?;
        let mut packing = Packing::new(&header, Some(file.clone()));
        let tally = self.pack(ScavengeStep::Packing, &mut packing)?;
        // Whatever hides what was removed is durable, and lies before this.
        let synced_upto = log.tail().synced_upto;
        let generation = self.segment.packed.as_ref().map_or(0, |packed| packed.generation) + 1;
        packing.finish(&header, Facts { generation, synced_upto, removed: tally.removed }).map_err(failed)?;
        if !log.settings.bugs.has(Bug::PackWithoutSync) {
            file.sync().map_err(failed)?;
        }
        let opened = Packed::open(file, &log.settings.index_pages).map_err(failed)?;
        let packed = Arc::new(opened.map_err(|damage| self.miswritten(damage))?);
        self.compare(&Segment::packed(packed.clone(), log.disk.path_of(new)))?;
        Ok((packed, tally))
    }

    /// Gives the packed file the segment's name.
    fn publish(&self, new: &str, name: &str) -> std::result::Result<(), Halt> {
        self.log.may_scavenge()?;
        let (disk, lock) = (&*self.log.disk, self.log.disk.path_of(super::LOCK));
        let mine = self.log.ownership.still_mine();
        if !mine.map_err(|error| explain(&error, "read", &lock, Outcome::No))? {
            let by = "a process that opened it later".to_owned();
            return Err(Error::Fenced { what: disk.path_of(""), by }.into());
        }
        let rename = || {
            if self.log.settings.bugs.has(Bug::RemoveBeforePacked) {
                disk.remove(name)?;
                disk.sync_names()?;
            }
            disk.rename(new, name)?;
            disk.sync_names()
        };
        rename().map_err(|error| explain(&error, "name", &self.segment.path, Outcome::No))?;
        Ok(())
    }

    /// Writes what stays of the segment.
    fn pack(&mut self, step: ScavengeStep, packing: &mut Packing) -> std::result::Result<Tally, Halt> {
        let segment = self.segment;
        let mut tally = Tally::default();
        self.each_frame(step, |work, frame| {
            frame.checked(segment).map_err(|damage| segment.corrupt(frame.offset, None, damage))?;
            let written = |error: io::Error| explain(&error, "write", &segment.path, Outcome::No);
            packing.put(frame.offset, &frame.header.encode(segment.seed(), frame.offset)).map_err(written)?;
            let mut at = 0;
            for read in frame.events(segment) {
                let (record, event) = read.map_err(|damage| segment.corrupt(frame.offset, None, damage))?;
                let offset = frame.offset + (FRAME_HEADER + at) as u64;
                if is_removed(&event) {
                    tally.removed += 1;
                    packing.put(offset, &frame.body[at..at + Stub::bytes(&event)]).map_err(written)?;
                } else if work.hides(&event)? {
                    tally.removed += 1;
                    tally.newly += 1;
                    let mut stub = Vec::with_capacity(Stub::bytes(&event));
                    let event = work.as_remembered(event);
                    Stub::write(&mut stub, segment.seed(), offset, &record, &event);
                    packing.put(offset, &stub).map_err(written)?;
                } else {
                    packing.put(offset, &frame.body[at..at + record.bytes]).map_err(written)?;
                }
                at += record.bytes;
            }
            Ok(())
        })?;
        Ok(tally)
    }

    /// What the stub remembers of an event: all that it should, but for a mistake that tests make.
    fn as_remembered(&self, event: RecordedEvent) -> RecordedEvent {
        if self.log.settings.bugs.has(Bug::StubWithoutId) {
            return RecordedEvent { id: factum::EventId(uuid::Uuid::nil()), ..event };
        }
        if self.log.settings.bugs.has(Bug::StubWithoutContent) {
            return RecordedEvent { data: bytes::Bytes::new(), ..event };
        }
        event
    }

    /// Hands on the frames of the segment, and reports now and then.
    fn each_frame(
        &mut self,
        step: ScavengeStep,
        mut each: impl FnMut(&mut Self, &Frame) -> Result<()>,
    ) -> std::result::Result<(), Halt> {
        let (segment, end) = (self.segment, self.end);
        self.at.step = step;
        self.report()?;
        let (mut stopped, mut report_at) = (None, REPORT_EVERY);
        walk(segment, SEGMENT_HEADER, end, |frame| {
            each(self, frame)?;
            if frame.offset >= report_at {
                report_at = frame.offset + REPORT_EVERY;
                stopped = self.report().err();
            }
            Ok(if stopped.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        stopped.map_or(Ok(()), Err)
    }

    fn report(&mut self) -> std::result::Result<(), Halt> {
        self.log.may_scavenge()?;
        match (self.progress)(&self.at) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Halt::Stopped),
        }
    }

    /// Whether nobody will ever see an event again.
    fn hides(&mut self, event: &RecordedEvent) -> Result<bool> {
        if event.stream.starts_with(METADATA_PREFIX) {
            // They say what is hidden, and are never hidden themselves.
            return Ok(false);
        }
        let state = if let Some(state) = self.states.get(&event.stream) {
            *state
        } else {
            if self.states.len() == STREAMS {
                self.states.clear();
            }
            let state = self.log.stream_state(&event.stream)?;
            // A copy: the name may be a piece of a large buffer, which would stay in memory with it.
            let name = StreamName::from_store(ByteString::from(event.stream.as_str().to_owned()));
            self.states.insert(name, state);
            state
        };
        let shown = !state.hides_for_good(event.revision, event.recorded_at, self.last_recorded_at);
        let off_by_one = self.log.settings.bugs.has(Bug::RemoveOneTooMany)
            && shown
            && event.revision == state.hidden_before
            && event.revision.0 > 0;
        Ok(!shown || off_by_one)
    }

    /// Reads back what was written, all of it, and compares.
    fn compare(&mut self, packed: &Segment) -> std::result::Result<(), Halt> {
        let old = self.segment;
        packed.check_table()?;
        let mut frames = Frames::new(SEGMENT_HEADER, self.end - old.header.base);
        let bugs = self.log.settings.bugs;
        let careless = bugs.has(Bug::StubWithoutId) || bugs.has(Bug::StubWithoutContent);
        let mut removed = 0;
        self.each_frame(ScavengeStep::Comparing, |work, frame| {
            let other = frames.next(packed)?.ok().filter(|other| other.header == frame.header);
            let other = other.ok_or_else(|| work.miswritten(Damage("a frame is missing")))?;
            let before = frame.checked(old).map_err(|damage| old.corrupt(frame.offset, None, damage))?;
            let after = other.checked(packed).map_err(|damage| work.miswritten(damage))?;
            for (before, after) in before.iter().zip(&after) {
                let right = before == after
                    || is_stub_of(after, before) && work.hides(before)?
                    || careless && is_removed(after);
                if !right {
                    return Err(work.miswritten(Damage("an event is not what it was")));
                }
                removed += u64::from(is_removed(after));
            }
            Ok(())
        })?;
        if packed.packed.as_ref().is_some_and(|packed| packed.removed != removed) {
            return Err(self.miswritten(Damage("it counts other events than it has")).into());
        }
        Ok(())
    }

    fn miswritten(&self, damage: Damage) -> Error {
        let name = &self.segment.path;
        let why = format!(
            "{name} could not be packed: what was written is not what was read ({}); it is as it was",
            damage.0
        );
        Error::Unavailable { why, outcome: Outcome::No }
    }
}
