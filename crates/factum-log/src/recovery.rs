//! Opening a log: what is on the disk, what of it counts, and what must be done before anything is served.
//!
//! Let *durable* be the largest position of which a frame's `synced_upto` or the manifest says that everything before it was
//! durable once. Then, for the last segment, whose whole frames end at *end*:
//! - *end* < *durable*: acknowledged events are damaged or missing. Nothing is touched; the log does not open.
//! - between *durable* and *end*: whole frames that may be in the page cache only. They are written again and synced.
//! - beyond *end*: what a crash left of frames that were never acknowledged. It is copied, then cut off.
//!
//! Every segment before the last must have all its frames, up to where its successor says that they end.

use std::{io, sync::Arc};

use factum::{
    Error, LogIdentity, Outcome, Position, RecordedEvent, Result, Timestamp, error::Corrupt,
    stream::LifeChange,
};
use uuid::Uuid;

use crate::{
    backup::refuse_what_is_no_log,
    bugs::{Bug, Bugs},
    disk::{Disk, explain},
    format::{
        ALIGN, Damage, FRAME_HEADER, FrameHeader, MAX_BODY, SEGMENT_HEADER, SEGMENT_HEADER_BYTES,
        SegmentHeader, align, is_removed,
    },
    index::{Indexed, Layers, PageCache, Run, Secret, Span, run},
    log::Settings,
    manifest::{self, Manifest},
    packed::Packed,
    segment::{Frames, Segment, Stop},
    sparse::Sparse,
};

/// The file that is made ahead of time for the next segment.
pub const SPARE: &str = "spare.new";
/// Copies of cut-off bytes that are kept, at most.
const KEPT_CUTS: usize = 8;
/// Bytes written at once when the tail is written again.
const REWRITE_BYTES: usize = 1 << 20;

/// What opening a log did to it. Nothing of it was ever acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Whether the log had been closed in good order.
    pub clean: bool,
    /// Bytes of whole frames that were written again, since nothing proved them durable.
    pub rewritten_bytes: u64,
    /// Bytes of torn frames that were cut off.
    pub cut_bytes: u64,
    /// The file into which those were copied before.
    pub cut_copy: Option<String>,
}

/// A log as it was found, made safe to serve.
#[derive(Debug)]
pub struct Recovered {
    /// The log and its present epoch.
    pub log: LogIdentity,
    /// Its segments, in order. At least one.
    pub segments: Vec<Arc<Segment>>,
    /// Where to find everything.
    pub index: Layers,
    /// Where frames begin.
    pub sparse: Sparse,
    /// Where the next frame goes.
    pub end: u64,
    /// The number of the next frame.
    pub next_frame: u64,
    /// When the last event was recorded.
    pub last_recorded_at: Timestamp,
    /// What was done.
    pub recovery: Recovery,
}

/// How a log is begun.
#[derive(Clone, Copy, Debug)]
pub struct Birth {
    /// The log's id.
    pub log_id: Uuid,
    /// The length of its first segment in bytes.
    pub segment_bytes: u64,
}

/// Finds a log in a directory, or begins one if there is none, and makes it safe to serve.
///
/// # Errors
/// [`Error::Corrupt`] if acknowledged events are damaged or missing, and those of the disk.
pub fn recover(disk: &dyn Disk, birth: Option<Birth>, settings: &Settings) -> Result<Recovered> {
    let doing = |error: io::Error| explain(&error, "read", &disk.path_of(""), Outcome::No);
    let mut names = disk.list().map_err(doing)?;
    refuse_what_is_no_log(disk, &names)?;
    for leftover in
        names.extract_if(.., |name| *name == SPARE || name.strip_suffix(".new").is_some_and(is_ours))
    {
        // Made but never named: nothing was ever written to it that counts.
        disk.remove(&leftover).map_err(doing)?;
    }
    let manifest = Manifest::read(disk)
        .map_err(|error| explain(&error, "read", &disk.path_of(manifest::NAME), Outcome::No))?;
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| Segment::number_in(name)).collect();
    numbers.sort_unstable();
    if numbers.is_empty() {
        return begin(disk, birth, manifest.as_ref(), settings);
    }
    let mut mended = Vec::new();
    loop {
        let mut found = Found::open(disk, &numbers, manifest.clone(), settings)?;
        found.believe_runs(disk, &names)?;
        let settled = found.read_sealed(disk).and_then(|()| found.settle_tail(disk));
        match settled {
            Err(Error::Corrupt(damage)) if Run::is_file(&damage.segment) => {
                let again = mended.contains(&damage.segment);
                found.mend(disk, &damage.segment, again, settings)?;
                mended.push(damage.segment.clone());
                names = disk.list().map_err(doing)?;
            }
            settled => return Ok(found.into_recovered(settled?)),
        }
    }
}

/// Makes the index of a stretch of the log anew, from the log and from the runs before it.
///
/// # Errors
/// [`Error::Corrupt`] if the log is damaged there, or a run before, and those of the disk.
pub fn index_again(
    disk: &dyn Disk,
    segments: &[Arc<Segment>],
    before: &[Arc<Run>],
    stretch: &Span,
    settings: &Settings,
) -> Result<Vec<Arc<Run>>> {
    // A run ends with an event. Should a stretch end with a mark, right behind a run's last event, runs of another size fit.
    for run_events in settings.run_events..settings.run_events + 4 {
        let made = index_in_runs_of(run_events, disk, segments, before, stretch, settings)?;
        if made.last().map(|run| run.span.end) == Some(stretch.end) {
            return Ok(made);
        }
    }
    let why = "the index of a stretch of the log could not be made again".to_owned();
    Err(Error::Unavailable { why, outcome: Outcome::No })
}

fn index_in_runs_of(
    run_events: u64,
    disk: &dyn Disk,
    segments: &[Arc<Segment>],
    before: &[Arc<Run>],
    stretch: &Span,
    settings: &Settings,
) -> Result<Vec<Arc<Run>>> {
    let known = before.last().map(|run| run.span);
    let mut found = Found {
        segments: segments.to_vec(),
        manifest: None,
        index: Layers::new(Secret(stretch.secret), before.to_vec()),
        sparse: Sparse::default(),
        indexed: stretch.start,
        run_events,
        index_pages: settings.index_pages.clone(),
        next_frame: known.map_or(1, |span| span.next_frame),
        last_recorded_at: known.map_or(Timestamp(i64::MIN), |span| span.last_recorded_at),
        durable: stretch.end,
        end: stretch.start,
        bugs: settings.bugs,
    };
    for (n, segment) in segments.iter().enumerate() {
        let sealed = segments.get(n + 1).map_or(u64::MAX, |next| next.header.previous_end);
        let limit = sealed.min(stretch.end);
        if limit <= stretch.start || segment.header.base >= stretch.end {
            continue;
        }
        let stop = found.read_frames(disk, segment, limit - segment.header.base)?;
        if found.end != limit {
            let missing = Damage("frames that were durable are missing");
            let damage = if let Stop::Damage(damage) = stop { damage } else { missing };
            return Err(found.lost(segment, limit, damage));
        }
    }
    if found.index.memory.events() > 0 {
        found.run_events = 1;
        found.write_run(disk);
    }
    Ok(found.index.runs_from(before.len()))
}

/// Whether a file of this name is one of the engine's.
pub fn is_ours(name: &str) -> bool {
    Segment::number_in(name).is_some()
        || Run::span_in(name).is_some()
        || cut_in(name)
        || name == manifest::NAME
}

/// Whether this is the name of a copy of cut-off bytes: segment, offset and a number, all of fixed width.
pub fn cut_in(name: &str) -> bool {
    let digits = |part: &str, length| part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = name.strip_suffix(".cut").unwrap_or_default().split('-').collect();
    matches!(parts[..], [segment, offset, n] if digits(segment, 10) && digits(offset, 12) && digits(n, 3))
}

/// Begins a log.
fn begin(
    disk: &dyn Disk,
    birth: Option<Birth>,
    manifest: Option<&Manifest>,
    settings: &Settings,
) -> Result<Recovered> {
    if let Some(Manifest { last_segment, .. }) = manifest {
        return Err(missing(disk, &format!("{} should be there", Segment::name(*last_segment))));
    }
    let Some(Birth { log_id, segment_bytes }) = birth else {
        return Err(Error::NotFound { what: format!("log in {}", disk.path_of("")) });
    };
    let header = SegmentHeader {
        log: LogIdentity { log_id, epoch: 1 },
        number: 1,
        base: 0,
        capacity: segment_bytes,
        first_frame: 1,
        events_before: 0,
        previous_end: 0,
        last_recorded_at: Timestamp(i64::MIN),
    };
    let segment = make_segment(disk, header, settings.bugs)?;
    let end = segment.first();
    Ok(Recovered {
        log: header.log,
        segments: vec![Arc::new(segment)],
        index: Layers::new(settings.secret, Vec::new()),
        sparse: Sparse::default(),
        end,
        next_frame: 1,
        last_recorded_at: header.last_recorded_at,
        recovery: Recovery { clean: true, ..Recovery::default() },
    })
}

/// Why a segment was not made.
#[derive(Debug)]
pub enum Unmade {
    /// There is none. It can be tried again.
    Absent(Error),
    /// Nobody knows: it may be found after a restart. Nothing may be written any more to the one before it.
    Unknown(Error),
}

impl From<Unmade> for Error {
    fn from(unmade: Unmade) -> Self {
        match unmade {
            Unmade::Absent(error) | Unmade::Unknown(error) => error,
        }
    }
}

/// Makes a segment whose header is durable before its name is, and its name before anything is written to it.
///
/// # Errors
/// Whether there may be one all the same.
pub fn make_segment(disk: &dyn Disk, header: SegmentHeader, bugs: Bugs) -> Result<Segment, Unmade> {
    let name = Segment::name(header.number);
    let (path, new) = (disk.path_of(&name), format!("{name}.new"));
    let make = || {
        let mut ready = disk.list()?.contains(&new).then(|| disk.open(&new)).transpose()?;
        if ready.as_ref().is_some_and(|file| file.bytes().ok() != Some(header.capacity)) {
            ready = None;
            disk.remove(&new)?;
        }
        // Somebody is waiting: the first segment is small, and for others there should have been a spare.
        let make = || match header.number {
            1 => disk.create(&new, header.capacity),
            _ => disk.reserve(&new, header.capacity),
        };
        let file = ready.map_or_else(make, Ok)?;
        file.write_at(&header.encode(), 0)?;
        if !bugs.has(Bug::NoHeaderSync) {
            file.sync()?;
        }
        Ok(file)
    };
    let publish = || {
        disk.rename(&new, &name)?;
        if bugs.has(Bug::NoNameSync) { Ok(()) } else { disk.sync_names() }
    };
    let file = make().map_err(|error| Unmade::Absent(explain(&error, "make", &path, Outcome::No)))?;
    publish().map_err(|error| Unmade::Unknown(explain(&error, "name", &path, Outcome::No)))?;
    Ok(Segment::new(header, file, path))
}

/// Makes the segment in which a log that is not open goes on, and says that it ends there in good order.
///
/// # Errors
/// Those of the disk.
pub fn go_on_in(disk: &dyn Disk, header: SegmentHeader) -> Result<()> {
    let made = make_segment(disk, header, Bugs::default())?;
    let LogIdentity { log_id, epoch } = header.log;
    let durable_upto = made.first();
    let manifest = Manifest { log_id, epoch, last_segment: header.number, durable_upto, clean: true };
    let written = manifest.replace(disk);
    written.map_err(|error| explain(&error, "write", &disk.path_of(manifest::NAME), Outcome::No))
}

fn missing(disk: &dyn Disk, what: &str) -> Error {
    let problem = format!("{what}, but is missing; restore the directory from a backup or a replica");
    Corrupt { segment: disk.path_of(""), offset: 0, positions: None, problem }.into()
}

/// The segments of a log, and what was read of them so far.
struct Found {
    segments: Vec<Arc<Segment>>,
    manifest: Option<Manifest>,
    index: Layers,
    sparse: Sparse,
    /// Everything before this position is in the index.
    indexed: u64,
    run_events: u64,
    index_pages: Arc<PageCache>,
    /// What the last whole frame, or the header of the last segment, says of what is to come.
    next_frame: u64,
    last_recorded_at: Timestamp,
    /// Everything before this position was durable once.
    durable: u64,
    end: u64,
    bugs: Bugs,
}

impl Found {
    fn open(
        disk: &dyn Disk,
        numbers: &[u32],
        manifest: Option<Manifest>,
        settings: &Settings,
    ) -> Result<Self> {
        let mut segments: Vec<Arc<Segment>> = Vec::with_capacity(numbers.len());
        for (expected, &number) in (1..).zip(numbers) {
            if number != expected {
                return Err(missing(disk, &format!("{} should be there", Segment::name(expected))));
            }
            segments.push(Arc::new(open_segment(disk, number, &settings.index_pages)?));
        }
        for pair in segments.windows(2) {
            let (before, after) = (&pair[0].header, &pair[1].header);
            if frame_after(&pair[0], after)? {
                let damage =
                    Damage("the segment before it goes on after the place where this one says that it ends");
                return Err(pair[1].corrupt(0, None, damage));
            }
            let follows = after.log.log_id == before.log.log_id
                && after.log.epoch >= before.log.epoch
                && after.previous_end >= pair[0].first()
                && after.previous_end <= pair[0].end()
                && after.base >= after.previous_end;
            if !follows {
                return Err(pair[1].corrupt(
                    0,
                    None,
                    Damage("the segment does not follow the one before it"),
                ));
            }
        }
        let (first, last) = (segments[0].header, segments[segments.len() - 1].header);
        if (first.base, first.first_frame, first.events_before) != (0, 1, 0) {
            return Err(segments[0].corrupt(
                0,
                None,
                Damage("it says that it is not the first segment of a log"),
            ));
        }
        if let Some(manifest) = &manifest {
            if manifest.log_id != first.log.log_id {
                return Err(missing(disk, &format!("the segments of log {}", manifest.log_id)));
            }
            if manifest.last_segment > last.number {
                return Err(missing(
                    disk,
                    &format!("{} should be there", Segment::name(manifest.last_segment)),
                ));
            }
        }
        if let Some(packed) = segments.last().filter(|segment| segment.packed.is_some()) {
            // Only a segment that is followed by another is ever packed.
            let next = Segment::name(packed.header.number.saturating_add(1));
            return Err(missing(disk, &format!("{next} should be there")));
        }
        // What a packed segment was made on the strength of was durable.
        let known = segments.iter().filter_map(|segment| Some(segment.packed.as_ref()?.synced_upto));
        let manifest_knows = manifest.as_ref().map_or(0, |manifest| manifest.durable_upto);
        let durable = known.max().unwrap_or(0).max(manifest_knows).max(last.previous_end);
        Ok(Self {
            segments,
            manifest,
            index: Layers::new(settings.secret, Vec::new()),
            sparse: Sparse::default(),
            indexed: 0,
            run_events: settings.run_events,
            index_pages: settings.index_pages.clone(),
            next_frame: first.first_frame,
            last_recorded_at: first.last_recorded_at,
            durable,
            end: 0,
            bugs: settings.bugs,
        })
    }

    /// Takes the runs of the index whose stretches follow each other from the beginning of the log, and removes the others. The
    /// log is not read again as far as they reach.
    fn believe_runs(&mut self, disk: &dyn Disk, names: &[String]) -> Result<()> {
        let mut spans: Vec<(u64, u64)> = names.iter().filter_map(|name| Run::span_in(name)).collect();
        // The longest of those that begin at the same place is the one that the others were merged into.
        spans.sort_unstable_by_key(|&(start, end)| (start, std::cmp::Reverse(end)));
        let mut runs: Vec<Arc<Run>> = Vec::new();
        let mut at = 0;
        for &(start, end) in &spans {
            if start == at
                && let Ok(run) = Run::open(disk, &Run::name(start, end), &self.index_pages)
                && run.span.log_id == self.segments[0].header.log.log_id
                && (run.span.start, run.span.end) == (start, end)
                && runs.last().is_none_or(|last| {
                    last.span.secret == run.span.secret && last.span.events <= run.span.events
                })
            {
                at = end;
                runs.push(Arc::new(run));
            }
        }
        // What the last one says of its end must be what the log says there.
        while let Some(run) = runs.last()
            && !self.ends_there(&run.span, &run.sparse)?
        {
            runs.pop();
        }
        for (start, end) in spans {
            if !runs.iter().any(|run| (run.span.start, run.span.end) == (start, end)) {
                let name = Run::name(start, end);
                disk.remove(&name)
                    .map_err(|error| explain(&error, "remove", &disk.path_of(&name), Outcome::No))?;
            }
        }
        for run in &runs {
            self.sparse.extend(&run.sparse);
        }
        if let Some(Span { end, next_frame, last_recorded_at, secret, .. }) = runs.last().map(|run| run.span)
        {
            (self.indexed, self.next_frame, self.last_recorded_at) = (end, next_frame, last_recorded_at);
            self.durable = self.durable.max(end);
            self.index = Layers::new(Secret(secret), runs);
        }
        Ok(())
    }

    /// Whether a frame of the log ends where a run does, and is the one that the run says.
    fn ends_there(&self, span: &Span, sparse: &[(u64, Timestamp)]) -> Result<bool> {
        let Some(&(start, _)) = sparse.last() else { return Ok(false) };
        let n = self.segments.partition_point(|segment| segment.header.base <= start).saturating_sub(1);
        let segment = &self.segments[n];
        let base = segment.header.base;
        if start < segment.first() || span.end < start || span.end > segment.end() {
            return Ok(false);
        }
        let mut frames = Frames::new(start - base, span.end - base);
        let mut last = None;
        while let Ok(frame) = frames.next(segment)? {
            if frame.checked(segment).is_err() {
                return Ok(false);
            }
            last = Some(frame.header.number);
        }
        Ok(base + frames.offset() == span.end && last.map(|number| number + 1) == Some(span.next_frame))
    }

    /// Makes a run that turned out to be damaged again, or does without it and what follows it.
    fn mend(&self, disk: &dyn Disk, path: &str, again: bool, settings: &Settings) -> Result<()> {
        let Some((damaged, before)) = self.index.run_at(path) else { return Ok(()) };
        let (Span { start, end, .. }, name) = (damaged.span, Run::name(damaged.span.start, damaged.span.end));
        let mended = || index_again(disk, &self.segments, &before, &damaged.span, settings).ok();
        let replaces = |run: &Arc<Run>| (run.span.start, run.span.end) == (start, end);
        if again || !mended().is_some_and(|runs| runs.iter().any(replaces)) {
            let removed = disk.remove(&name);
            removed.map_err(|error| explain(&error, "remove", path, Outcome::No))?;
        }
        Ok(())
    }

    /// Reads the segments before the last, as far as they are not indexed yet. All of their frames must be there.
    fn read_sealed(&mut self, disk: &dyn Disk) -> Result<()> {
        for n in 1..self.segments.len() {
            let (segment, next) = (self.segments[n - 1].clone(), self.segments[n].header);
            if self.indexed >= next.previous_end {
                continue;
            }
            let stop = self.read_frames(disk, &segment, next.previous_end - segment.header.base)?;
            if self.end != next.previous_end || self.next_frame != next.first_frame {
                let damage = match stop {
                    Stop::Damage(damage) => damage,
                    _ => Damage("frames that were durable are missing"),
                };
                return Err(self.lost(&segment, next.previous_end, damage));
            }
        }
        Ok(())
    }

    /// Takes in frame after frame while they are whole and follow each other.
    fn read_frames(&mut self, disk: &dyn Disk, segment: &Segment, limit: u64) -> Result<Stop> {
        let base = segment.header.base;
        let mut frames = Frames::new(self.indexed.max(segment.first()) - base, limit);
        loop {
            self.end = base + frames.offset();
            let frame = match frames.next(segment)? {
                Ok(frame) => frame,
                Err(stop) => return Ok(stop),
            };
            if frame.header.number != self.next_frame || frame.header.events_before != self.index.events() {
                return Ok(Stop::Damage(Damage("a frame does not follow the one before it")));
            }
            let events = match frame.checked(segment) {
                Ok(events) => events,
                Err(_) if self.bugs.has(Bug::HeaderOnlyCrc) => {
                    frame.events(segment).filter_map(|read| Some(read.ok()?.1)).collect()
                }
                Err(damage) => return Ok(Stop::Damage(damage)),
            };
            self.durable = self.durable.max(frame.header.synced_upto);
            if self.durable >= self.end {
                self.write_run(disk);
            }
            self.next_frame += 1;
            self.last_recorded_at = frame.header.recorded_at;
            self.sparse.add(base + frame.offset, events.first().map(|event| event.recorded_at));
            for event in &events {
                self.take_in(segment, event)?;
            }
        }
    }

    /// Keeps what is indexed in memory bounded while a long log is read. A run that cannot be written now is written later.
    fn write_run(&mut self, disk: &dyn Disk) {
        let log_id = self.segments[0].header.log.log_id;
        self.index.freeze(self.run_events, self.end, self.next_frame, log_id);
        if let Some((index, span)) = self.index.frozen(self.end)
            && let sparse = self.sparse.between(span.start, span.end)
            && let Ok(run) = run::make(disk, span, &*index, sparse, &self.index_pages)
        {
            self.index.thaw(run);
        }
    }

    fn take_in(&mut self, segment: &Segment, event: &RecordedEvent) -> Result<()> {
        let secret = self.index.secret;
        let stream = secret.stream(&event.stream);
        let mut state = self.index.state(stream)?.unwrap_or_default();
        if state.written() != event.revision {
            let offset = event.position.0 - segment.header.base;
            let damage = Damage("an event's revision does not follow the one before it in its stream");
            return Err(segment.corrupt(offset, Some((event.position, event.position)), damage));
        }
        let removed = is_removed(event);
        let mut keys = Vec::new();
        if !removed {
            // Nobody looks for a removed event but by its id and its revision.
            secret.keys_of(&event.stream, &event.event_type, &event.tags, &mut keys);
        }
        let (position, id) = (event.position, event.id);
        let indexed = Indexed { position, id, id_hash: secret.id(stream, id), keys: &keys };
        self.index.memory.add(stream, state, event.recorded_at, indexed);
        if !removed
            && let Some((described, change)) =
                LifeChange::of_event(&event.stream, &event.event_type, &event.data)?
        {
            let described = secret.stream(&described);
            let mut state = self.index.state(described)?.unwrap_or_default();
            state.described(&change, event.recorded_at);
            self.index.memory.describe(described, state);
        }
        Ok(())
    }

    /// Reads the last segment, and makes its end safe to go on from.
    fn settle_tail(&mut self, disk: &dyn Disk) -> Result<Recovery> {
        let segment = self.segments[self.segments.len() - 1].clone();
        if self.indexed < segment.first() {
            (self.next_frame, self.last_recorded_at) =
                (segment.header.first_frame, segment.header.last_recorded_at);
        }
        let stop = self.read_frames(disk, &segment, segment.header.capacity)?;
        let says_so = |manifest: &Manifest| manifest.clean && manifest.durable_upto == self.end;
        let clean = self.manifest.as_ref().is_some_and(says_so) && self.durable <= self.end;
        if clean {
            return Ok(Recovery { clean, ..Recovery::default() });
        }
        let residue = Residue::after(&segment, self.end - segment.header.base)?;
        self.durable = self.durable.max(residue.witness);
        if self.end < self.durable && !self.bugs.has(Bug::NaiveTruncation) {
            let damage = match stop {
                Stop::Damage(damage) => damage,
                _ => Damage(
                    "events that were durable are missing: the disk lost them, or the file was replaced",
                ),
            };
            return Err(self.lost(&segment, self.durable, damage));
        }
        let mut recovery = Recovery { clean: false, ..Recovery::default() };
        if residue.bytes > (MAX_BODY + FRAME_HEADER) as u64 * 2 {
            let damage =
                Damage("more bytes follow the last whole frame than a crash can leave; nothing was cut off");
            return Err(self.lost(&segment, segment.end(), damage));
        }
        if residue.bytes > 0 {
            recovery.cut_bytes = residue.bytes;
            recovery.cut_copy = Some(self.cut_off(disk, &segment, &residue)?);
        }
        recovery.rewritten_bytes = self.rewrite_unproven(&segment)?;
        if !self.bugs.has(Bug::NoSyncInRecovery) {
            segment.file.sync().map_err(|error| explain(&error, "sync", &segment.path, Outcome::No))?;
            disk.sync_names().map_err(|error| explain(&error, "sync", &disk.path_of(""), Outcome::No))?;
        }
        Ok(recovery)
    }

    /// Copies what follows the last whole frame, then writes zeros there.
    fn cut_off(&self, disk: &dyn Disk, segment: &Segment, residue: &Residue) -> Result<String> {
        let offset = self.end - segment.header.base;
        let cut = || -> io::Result<String> {
            let mut copies: Vec<String> = disk.list()?.into_iter().filter(|name| cut_in(name)).collect();
            copies.sort();
            for oldest in copies.iter().rev().skip(KEPT_CUTS - 1) {
                disk.remove(oldest)?;
            }
            let place = format!("{:010}-{offset:012}", segment.header.number);
            let same_place = copies.iter().rev().find(|name| name.starts_with(&place));
            let last = same_place.and_then(|name| name[place.len() + 1..].strip_suffix(".cut")?.parse().ok());
            let name = format!("{place}-{:03}.cut", (last.unwrap_or(0) + 1) % 1000);
            if !self.bugs.has(Bug::CutWithoutCopy) {
                let new = format!("{name}.new");
                let copy = disk.create(&new, residue.bytes)?;
                copy.write_at(&residue.copy, 0)?;
                copy.sync()?;
                disk.rename(&new, &name)?;
                disk.sync_names()?;
            }
            segment.file.write_at(&vec![0; residue.copy.len()], offset)?;
            Ok(name)
        };
        let name =
            cut().map_err(|error| explain(&error, "cut a torn frame off", &segment.path, Outcome::No))?;
        Ok(disk.path_of(&name))
    }

    /// Writes the whole frames that nothing proves durable once more: after a failed sync, the page cache may show what the
    /// disk does not have, and a sync does not write again what it thinks is written.
    fn rewrite_unproven(&self, segment: &Segment) -> Result<u64> {
        if self.bugs.has(Bug::NoRewrite) {
            return Ok(0);
        }
        let (first, end) =
            (self.durable.max(segment.first()) - segment.header.base, self.end - segment.header.base);
        let mut at = first;
        while at < end {
            let some = usize::try_from(end - at).unwrap_or(usize::MAX).min(REWRITE_BYTES);
            let mut bytes = vec![0; some];
            segment.file.read_at(&mut bytes, at).map_err(|error| segment.unreadable(&error))?;
            let write = segment.file.write_at(&bytes, at);
            write.map_err(|error| explain(&error, "write", &segment.path, Outcome::No))?;
            at += some as u64;
        }
        Ok(end.saturating_sub(first))
    }

    /// The error for acknowledged bytes between `self.end` and `until` that cannot be read.
    fn lost(&self, segment: &Segment, until: u64, damage: Damage) -> Error {
        let positions = (Position(self.end), Position(until.saturating_sub(1).max(self.end)));
        segment.corrupt(self.end - segment.header.base, Some(positions), damage)
    }

    fn into_recovered(self, recovery: Recovery) -> Recovered {
        let last = &self.segments[self.segments.len() - 1];
        let manifest_epoch = self.manifest.as_ref().map_or(0, |manifest| manifest.epoch);
        let log = LogIdentity { epoch: last.header.log.epoch.max(manifest_epoch), ..last.header.log };
        Recovered {
            log,
            segments: self.segments,
            index: self.index,
            sparse: self.sparse,
            end: self.end,
            next_frame: self.next_frame,
            last_recorded_at: self.last_recorded_at,
            recovery,
        }
    }
}

fn open_segment(disk: &dyn Disk, number: u32, cache: &Arc<PageCache>) -> Result<Segment> {
    let name = Segment::name(number);
    let path = disk.path_of(&name);
    let unreadable = |error: io::Error| explain(&error, "open", &path, Outcome::No);
    let file = disk.open(&name).map_err(unreadable)?;
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
    let read = file.read_at(&mut bytes, 0).map_err(unreadable)?;
    let is_packed = Packed::begins_like_one(&bytes[..read]);
    let found = if is_packed {
        let packed = Packed::open(file, cache).map_err(unreadable)?.map(Arc::new);
        packed.map(|packed| (packed.header.capacity, Segment::packed(packed, path.clone())))
    } else {
        let length = file.bytes().map_err(unreadable)?;
        let header = SegmentHeader::decode(&bytes[..read]);
        header.map(|header| (length, Segment::new(header, file, path.clone())))
    };
    let checked = found.and_then(|(length, segment)| match segment.header {
        header if header.number != number => Err(Damage("the segment's file has the name of another")),
        header if header.capacity > length => Err(Damage("the file is shorter than its segment")),
        header if header.capacity < SEGMENT_HEADER => {
            Err(Damage("the segment claims to be shorter than its header"))
        }
        SegmentHeader { base, capacity, .. } if base.checked_add(capacity).is_none() => {
            Err(Damage("the segment claims positions beyond the last there is"))
        }
        _ => Ok(segment),
    });
    checked.map_err(|damage| {
        let problem = format!("{}; restore it from a backup or a replica", damage.0);
        Corrupt { segment: path, offset: 0, positions: None, problem }.into()
    })
}

/// Whether a segment has a whole frame where its successor says that it ends: then both were written to.
fn frame_after(segment: &Segment, next: &SegmentHeader) -> Result<bool> {
    let Some(offset) = next.previous_end.checked_sub(segment.header.base) else { return Ok(false) };
    let frame = Frames::new(offset.max(SEGMENT_HEADER), segment.header.capacity).next(segment)?;
    Ok(frame.is_ok_and(|frame| frame.header.number >= next.first_frame && frame.checked(segment).is_ok()))
}

/// What lies beyond the last whole frame.
struct Residue {
    /// Bytes from there to the last that is not zero.
    bytes: u64,
    /// Those bytes.
    copy: Vec<u8>,
    /// The largest `synced_upto` of a frame found among them; 0 if there is none.
    witness: u64,
}

impl Residue {
    /// Reads everything from `offset` to the end of the segment. Frames in there cannot be reached by walking, but if one of
    /// them says that what is missing before it was durable, then it was.
    fn after(segment: &Segment, offset: u64) -> Result<Self> {
        let mut found = Self { bytes: 0, copy: Vec::new(), witness: 0 };
        let mut chunk = vec![0; REWRITE_BYTES];
        let mut at = offset;
        while at < segment.header.capacity {
            let room = usize::try_from(segment.header.capacity - at).unwrap_or(usize::MAX).min(chunk.len());
            let read =
                segment.file.read_at(&mut chunk[..room], at).map_err(|error| segment.unreadable(&error))?;
            if let Some(last) = chunk[..read].iter().rposition(|&byte| byte != 0) {
                found.look_for_witnesses(segment, at, &chunk[..read]);
                found.bytes = at + last as u64 + 1 - offset;
                if found.bytes <= (MAX_BODY + FRAME_HEADER) as u64 * 2 {
                    #[allow(clippy::cast_possible_truncation, reason = "bounded just above")]
                    found.copy.resize((at - offset) as usize, 0);
                    found.copy.extend_from_slice(&chunk[..=last]);
                }
            }
            if read < room || at + (read as u64) >= segment.header.capacity {
                break;
            }
            // A frame's header may lie across two chunks.
            at += align(read as u64 - FRAME_HEADER as u64 + 1);
        }
        Ok(found)
    }

    fn look_for_witnesses(&mut self, segment: &Segment, at: u64, bytes: &[u8]) {
        for start in (0..bytes.len()).step_by(ALIGN) {
            let Some(header) = bytes[start..].first_chunk::<FRAME_HEADER>() else { return };
            if let Ok(frame) = FrameHeader::decode(header, segment.seed(), at + start as u64) {
                self.witness = self.witness.max(frame.synced_upto);
            }
        }
    }
}
