//! Whether every byte of a log is what was written. Nothing is changed, and nobody need own the log.
//!
//! What is looked at, and what must be true:
//! - **segments**: every header, frame and record has its checksum; numbers, positions, times and counts go on from one to the
//!   next, also across segments; between frames and after the last there are zeros;
//! - **the index**: every page, list and table of every run has its checksum, every entry is where it is looked for, and the
//!   entries are those that follow from the log, no more and no fewer;
//! - **streams**: revisions are 0, 1, 2 … in the order of positions;
//! - **the manifest** does not contradict the log.
//!
//! All damage is listed, not only the first. Memory does not grow with the log: the index is compared as a sum of hashes, and
//! revisions are followed through the index, stream by stream.

mod index;
mod segments;

use std::{fmt, io, path::Path, sync::Arc};

use factum::{Error, LogIdentity, Outcome, Position, Result, error::Corrupt};

use self::index::Checking;
pub(crate) use self::segments::{Continuity, End, Visitor, Walked, Whole, is_unused, walk};
use crate::{
    backup::{self, List, Source, copy_name},
    disk::{Directory, Disk, DiskFile, explain},
    format::{Damage, SEGMENT_HEADER, SEGMENT_HEADER_BYTES, SegmentHeader},
    index::PageCache,
    manifest::{self, Manifest},
    packed::{PAGE, Packed},
    segment::Segment,
};

/// Findings that are listed, at most; the others are counted.
const LISTED: usize = 10_000;

/// What a look at every byte of a log has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// The log, if any part of it could be read.
    pub log: Option<LogIdentity>,
    /// Segment files.
    pub segments: u32,
    /// Whole frames.
    pub frames: u64,
    /// Sound events.
    pub events: u64,
    /// The position beyond the last frame.
    pub end: u64,
    /// Files of the index.
    pub runs: u32,
    /// Bytes that were looked at.
    pub bytes: u64,
    /// Bytes after the last whole frame that a crash has left; opening the log cuts them off. Nobody was promised them.
    pub torn_bytes: u64,
    /// Whether another process had the log open. Then its end was on the move.
    pub live: bool,
    /// What is wrong, in the order of the log.
    pub findings: Vec<Finding>,
    /// How many more findings there are than are listed.
    pub more_findings: u64,
    /// What could not be checked, and what to do so that it can.
    pub unchecked: Vec<String>,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is part of.
    pub part: Part,
    /// Where it is, and what is wrong.
    pub damage: Corrupt,
}

/// What damage is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The log itself: events are lost, or will be.
    Log,
    /// Bytes that nothing uses: no event is lost.
    Unused,
    /// The index: it can be made again from the log, and no event is lost.
    Index,
    /// The manifest, which is a hint: it is made again when the log is opened.
    Manifest,
}

/// How far a look at a log has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are done.
    pub done: u64,
    /// Bytes that there are, about.
    pub total: u64,
}

impl Verification {
    /// Whether nothing was found.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether the log itself is damaged, and not only what can be made again from it.
    pub fn log_is_damaged(&self) -> bool {
        self.findings.iter().any(|finding| finding.part == Part::Log)
    }

    /// The positions that damage of the log may concern, from one to the other, in order.
    pub fn positions(&self) -> Vec<(Position, Position)> {
        let of_log = self.findings.iter().filter(|finding| finding.part == Part::Log);
        let mut positions: Vec<_> = of_log.filter_map(|finding| finding.damage.positions).collect();
        positions.sort_unstable();
        positions
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.damage.fmt(f)
    }
}

/// Looks at every byte of the log in a directory, changes nothing, and lists all that is damaged.
///
/// The log may be closed, or open in this process or another. `told` hears now and then how far it has come.
///
/// ```no_run
/// # fn main() -> factum::Result<()> {
/// let found = factum_log::verify("data", |_| {})?;
/// for finding in &found.findings {
///     println!("{finding}");
/// }
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`Error::NotFound`] if there is no log, and those of the disk. Damage is no error: it is in the answer.
pub fn verify(directory: impl AsRef<Path>, mut told: impl FnMut(Progress)) -> Result<Verification> {
    verify_disk(&Directory::existing(directory.as_ref())?, &mut told)
}

/// The same for any disk.
pub(crate) fn verify_disk(disk: &dyn Disk, told: &mut dyn FnMut(Progress)) -> Result<Verification> {
    let failed = |error: io::Error| explain(&error, "read", &disk.path_of(""), Outcome::No);
    if let Some(list) = List::read(disk)? {
        return verify_backup(disk, &list, told);
    }
    let live = disk.is_owned().map_err(failed)?;
    let names = disk.list().map_err(failed)?;
    let manifest = read_manifest(disk)?;
    let mut findings = Findings::default();
    let hinted = manifest.as_ref().ok().and_then(Option::as_ref);
    let least = hinted.map_or(0, |hint| hint.last_segment);
    let known = hinted.map(|hint| LogIdentity { log_id: hint.log_id, epoch: hint.epoch });
    let numbers: Vec<u32> = names.iter().filter_map(|name| Segment::number_in(name)).collect();
    if numbers.is_empty() {
        return Err(Error::NotFound { what: format!("log in {}", disk.path_of("")) });
    }
    let segments = open_segments(disk, numbers, Segment::name, least, known, &mut findings)?;
    let Some(log) = segments.last().map(|last| last.segment.header.log) else {
        return Ok(nothing_readable(live, findings));
    };
    let mut checking = Checking::open(disk, &names, log.log_id, live, &mut findings)?;
    let total = total_bytes(&segments)? + checking.bytes();
    let mut meter = Meter { told, progress: Progress { done: 0, total } };
    checking.read_runs(&mut findings, &mut meter)?;
    let durable = hinted.map_or(0, |manifest| manifest.durable_upto);
    let mut look = Look { findings, checking, meter, frames: 0, events: 0 };
    let walked = look.segments(&segments, &Ends::Log { durable, live })?;
    let end = walked.end_in(&segments);
    check_manifest(disk, &manifest, log, end, &segments, &mut look.findings);
    look.finish(&segments, walked, live)
}

/// The same for a backup.
fn verify_backup(disk: &dyn Disk, list: &List, told: &mut dyn FnMut(Progress)) -> Result<Verification> {
    let mut findings = Findings::default();
    let log = LogIdentity { log_id: list.log_id, epoch: list.epoch };
    let last = u32::try_from(list.segments.len()).unwrap_or(u32::MAX);
    let failed = |error: io::Error| explain(&error, "read", &disk.path_of(""), Outcome::No);
    let names = disk.list().map_err(failed)?;
    let numbers = (1..=last).filter(|number| names.contains(&copy_name(*number))).collect();
    let segments = open_segments(disk, numbers, copy_name, last, Some(log), &mut findings)?;
    let checking = Checking::open(disk, &[], log.log_id, false, &mut findings)?;
    let meter = Meter { told, progress: Progress { done: 0, total: list.segments.iter().sum() } };
    let mut look = Look { findings, checking, meter, frames: 0, events: 0 };
    let walked = look.segments(&segments, &Ends::Copies(&list.segments))?;
    let complete = look.events == list.events && walked.end_in(&segments) == list.end;
    if !complete && !look.findings.touch(0, u64::MAX) {
        let problem = "the backup does not hold what its list says";
        look.findings.add(Part::Log, &disk.path_of(backup::LIST), 0, None, problem);
    }
    look.finish(&segments, walked, false)
}

fn nothing_readable(live: bool, findings: Findings) -> Verification {
    let Findings { listed, more } = findings;
    Verification { live, findings: listed, more_findings: more, ..Verification::default() }
}

/// The segments of a closed log, or of one that another process writes to, up to where they were certainly durable.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Corrupt`], and those of the disk.
pub(crate) fn read_log(disk: &dyn Disk) -> Result<Source> {
    let failed = |error: io::Error| explain(&error, "read", &disk.path_of(""), Outcome::No);
    let live = disk.is_owned().map_err(failed)?;
    let names = disk.list().map_err(failed)?;
    backup::refuse_what_is_no_log(disk, &names)?;
    let hint = read_manifest(disk)?.ok().flatten();
    let mut findings = Findings::default();
    let numbers = names.iter().filter_map(|name| Segment::number_in(name)).collect();
    let least = hint.as_ref().map_or(0, |hint| hint.last_segment);
    let opened = open_segments(disk, numbers, Segment::name, least, None, &mut findings)?;
    let Some(last) = opened.last() else {
        return Err(Error::NotFound { what: format!("log in {}", disk.path_of("")) });
    };
    let header = last.segment.header;
    let mut continuity = Continuity::at(&header);
    let mut damaged = OnlyDamage(&mut findings);
    let durable = hint.as_ref().map_or(0, |hint| hint.durable_upto);
    let end = End::Open { durable, live };
    let walked = walk(&last.segment, SEGMENT_HEADER, end, &mut continuity, &mut damaged)?;
    if let Some(finding) = findings.listed.into_iter().next() {
        return Err(finding.damage.into());
    }
    let whole = header.base + walked.end;
    // While it is written to, the last frames may not be durable yet; a closed log is what recovery would take it for.
    let end = if live { walked.synced_upto.max(durable).clamp(last.segment.first(), whole) } else { whole };
    let epoch = header.log.epoch.max(hint.map_or(0, |hint| hint.epoch));
    let log = LogIdentity { epoch, ..header.log };
    Ok(Source { log, segments: opened.into_iter().map(|opened| Arc::new(opened.segment)).collect(), end })
}

/// The last segment of which something is whole, the offset at which its frames end before the first damage of the log, and what
/// would come next.
///
/// # Errors
/// [`Error::Corrupt`] if the log is damaged from its beginning, and those of the disk.
pub(crate) fn open_to_cut(disk: &dyn Disk, names: &[String]) -> Result<(Segment, u64, Continuity)> {
    let numbers = names.iter().filter_map(|name| Segment::number_in(name)).collect();
    let opened = open_segments(disk, numbers, Segment::name, 0, None, &mut Findings::default())?;
    let mut kept: Option<(Segment, UntilDamage)> = None;
    let (sound, ends) = (
        opened.iter().map(|opened| opened.header_is_sound).collect::<Vec<_>>(),
        Ends::Log { durable: 0, live: false },
    );
    let ends: Vec<End> = (0..opened.len()).map(|n| ends.of(&opened, n)).collect();
    for (n, Opened { segment, .. }) in opened.into_iter().enumerate() {
        let header = segment.header;
        let follows = match &kept {
            None => header.number == 1 && header.base == 0,
            Some((before, until)) => {
                header.number == before.header.number + 1
                    && header.previous_end == before.header.base + until.end
                    && Some(header.first_frame) == until.next.number
            }
        };
        if !sound[n] || !follows || table_damage(&segment)?.is_some() {
            break;
        }
        let next = Continuity::at(&header);
        let mut until = UntilDamage { end: SEGMENT_HEADER, next, damaged: false };
        walk(&segment, SEGMENT_HEADER, ends[n], &mut next.clone(), &mut until)?;
        let damaged = until.damaged;
        kept = Some((segment, until));
        if damaged {
            break;
        }
    }
    kept.map(|(segment, until)| (segment, until.end, until.next)).ok_or_else(|| {
        let problem =
            "it is damaged from its beginning, and nothing of it would be left; restore it from a backup";
        let segment = disk.path_of(&Segment::name(1));
        Corrupt { segment, offset: 0, positions: None, problem: problem.to_owned() }.into()
    })
}

/// Follows frames up to the first damage.
struct UntilDamage {
    end: u64,
    next: Continuity,
    damaged: bool,
}

impl Visitor for UntilDamage {
    fn frame(&mut self, _: &Segment, frame: &Whole) -> Result<()> {
        if !self.damaged {
            self.end = frame.offset + frame.header.bytes();
            self.next.pass(&frame.header);
        }
        Ok(())
    }

    fn damage(&mut self, _: &Segment, _: u64, _: Option<(Position, Position)>, damage: Damage) {
        self.damaged |= !is_unused(damage);
    }

    fn done(&mut self, _: u64) {}
}

/// Takes note of damage, and of nothing else.
struct OnlyDamage<'a>(&'a mut Findings);

impl Visitor for OnlyDamage<'_> {
    fn frame(&mut self, _: &Segment, _: &Whole) -> Result<()> {
        Ok(())
    }

    fn damage(
        &mut self,
        segment: &Segment,
        offset: u64,
        positions: Option<(Position, Position)>,
        damage: Damage,
    ) {
        self.0.add(Part::Log, &segment.path, offset, positions, damage.0);
    }

    fn done(&mut self, _: u64) {}
}

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) listed: Vec<Finding>,
    pub(crate) more: u64,
}

impl Findings {
    pub(crate) fn add(
        &mut self,
        part: Part,
        path: &str,
        offset: u64,
        positions: Option<(Position, Position)>,
        problem: &str,
    ) {
        if self.listed.len() >= LISTED {
            self.more += 1;
            return;
        }
        let remedy = match part {
            Part::Unused => "no event is lost, but the disk is not to be trusted",
            Part::Log => "restore it from a backup or a replica",
            Part::Index => "no event is lost; delete this file, and it is made again from the log",
            Part::Manifest => "no event is lost; it is made again when the log is opened",
        };
        let problem = format!("{problem}; {remedy}");
        self.listed
            .push(Finding { part, damage: Corrupt { segment: path.to_owned(), offset, positions, problem } });
    }

    /// Whether the log is damaged anywhere between two positions, or anywhere at all that is not known.
    fn touch(&self, start: u64, end: u64) -> bool {
        let of_log = self.listed.iter().filter(|finding| finding.part == Part::Log);
        let touches = |(first, last): (Position, Position)| first.0 < end && last.0 >= start;
        self.more > 0 || of_log.map(|finding| finding.damage.positions).any(|at| at.is_none_or(touches))
    }
}

/// Tells how far it has come, every mebibyte.
struct Meter<'a> {
    told: &'a mut dyn FnMut(Progress),
    progress: Progress,
}

impl Meter<'_> {
    fn add(&mut self, bytes: u64) {
        let before = self.progress.done >> 20;
        self.progress.done += bytes;
        if self.progress.done >> 20 > before {
            (self.told)(self.progress);
        }
    }
}

/// A segment as it is on the disk.
pub(crate) struct Opened {
    pub(crate) segment: Segment,
    /// Whether its header could be read, and is not made up.
    pub(crate) header_is_sound: bool,
}

/// A manifest; `Err` for what is none, `Ok(None)` where there is none.
type Hint = std::result::Result<Option<Manifest>, Damage>;

pub(crate) fn read_manifest(disk: &dyn Disk) -> Result<Hint> {
    let path = disk.path_of(manifest::NAME);
    let read = || match disk.open_to_read(manifest::NAME) {
        Ok(file) => {
            let mut text = vec![0; 2 * SEGMENT_HEADER_BYTES];
            let read = file.read_at(&mut text, 0)?;
            text.truncate(read);
            Ok(Some(text))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let text = read().map_err(|error: io::Error| explain(&error, "read", &path, Outcome::No))?;
    let manifest = text.map(|text| Manifest::decode(&text).ok_or(Damage("the manifest fails its checksum")));
    Ok(manifest.transpose())
}

/// Opens all segments, also those whose header is damaged, if anything of them can be read.
pub(crate) fn open_segments(
    disk: &dyn Disk,
    mut numbers: Vec<u32>,
    name: fn(u32) -> String,
    least: u32,
    known: Option<LogIdentity>,
    findings: &mut Findings,
) -> Result<Vec<Opened>> {
    numbers.sort_unstable();
    let mut opened: Vec<Opened> = Vec::new();
    let mut unread = Vec::new();
    for &number in &numbers {
        match open_segment(disk, number, &name(number))? {
            Ok(segment) => opened.push(Opened { segment, header_is_sound: true }),
            Err((path, file, damage)) => unread.push((number, path, file, damage)),
        }
    }
    let known = opened.last().map(|opened| opened.segment.header.log).or(known);
    for (number, path, file, damage) in unread {
        findings.add(Part::Log, &path, 0, None, damage.0);
        let Some(log) = known else { continue };
        let capacity = file.bytes().map_err(|error| explain(&error, "read", &path, Outcome::No))?;
        let header = SegmentHeader { number, log, ..SegmentHeader::unknown(capacity) };
        let segment = Segment::new(header, file.clone(), path.clone());
        if let Some(header) = segments::guess_header(&segment)? {
            opened.push(Opened { segment: Segment::new(header, file, path), header_is_sound: false });
        }
    }
    opened.sort_unstable_by_key(|opened| opened.segment.header.number);
    let last = numbers.last().copied().unwrap_or(0).max(least);
    for missing in (1..=last).filter(|number| numbers.binary_search(number).is_err()) {
        let positions = neighbours(&opened, missing);
        findings.add(Part::Log, &disk.path_of(&name(missing)), 0, positions, "the file is missing");
    }
    Ok(opened)
}

/// The positions of a segment that is missing, as its neighbours tell them.
fn neighbours(opened: &[Opened], missing: u32) -> Option<(Position, Position)> {
    let after = opened.iter().find(|opened| opened.segment.header.number > missing)?;
    let before = opened.iter().rfind(|opened| opened.segment.header.number < missing);
    let first = before.map_or(0, |before| before.segment.end());
    let end = after.segment.header.base;
    (first < end).then(|| (Position(first), Position(end - 1)))
}

type Unread = (String, Arc<dyn DiskFile>, Damage);

fn open_segment(disk: &dyn Disk, number: u32, name: &str) -> Result<std::result::Result<Segment, Unread>> {
    let path = disk.path_of(name);
    let failed = |error: io::Error| explain(&error, "read", &path, Outcome::No);
    let file = disk.open_to_read(name).map_err(failed)?;
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
    let read = file.read_at(&mut bytes, 0).map_err(failed)?;
    let packed = if Packed::begins_like_one(&bytes[..read]) {
        Some(Packed::open(file.clone(), &Arc::new(PageCache::of_bytes(PAGE))).map_err(failed)?)
    } else {
        None
    };
    let decoded = match &packed {
        Some(packed) => packed.as_ref().map(|packed| packed.header).map_err(|damage| *damage),
        None => SegmentHeader::decode(&bytes[..read]),
    };
    let header = decoded.and_then(|header| match header {
        header if header.number != number => Err(Damage("the segment's file has the name of another")),
        SegmentHeader { base, capacity, .. } if base.checked_add(capacity).is_none() => {
            Err(Damage("the segment claims positions beyond the last there is"))
        }
        header => Ok(header),
    });
    Ok(match (header, packed) {
        (Ok(_), Some(Ok(packed))) => Ok(Segment::packed(Arc::new(packed), path)),
        (Ok(header), _) => Ok(Segment::new(header, file, path)),
        (Err(damage), _) => Err((path, file, damage)),
    })
}

/// The largest position of which a packed segment says that everything before it was durable; 0 if there is none.
///
/// # Errors
/// Those of the disk.
pub(crate) fn packed_upto(disk: &dyn Disk, names: &[String]) -> Result<u64> {
    let numbers = names.iter().filter_map(|name| Segment::number_in(name)).collect();
    let opened = open_segments(disk, numbers, Segment::name, 0, None, &mut Findings::default())?;
    let known = opened.iter().filter_map(|opened| Some(opened.segment.packed.as_ref()?.synced_upto));
    Ok(known.max().unwrap_or(0))
}

/// What is wrong with the table that leads to everything in a packed segment.
pub(crate) fn table_damage(segment: &Segment) -> Result<Option<Damage>> {
    let Some(packed) = &segment.packed else { return Ok(None) };
    Ok(packed.check().map_err(|error| segment.unreadable(&error))?.err())
}

fn total_bytes(segments: &[Opened]) -> Result<u64> {
    let mut total = 0;
    for Opened { segment, .. } in segments {
        total += segment.file.bytes().map_err(|error| segment.unreadable(&error))?;
    }
    Ok(total)
}

/// Where segments end.
pub(crate) enum Ends<'a> {
    /// Where the next one says; the last one where its frames do, not before what was durable.
    Log { durable: u64, live: bool },
    /// So many bytes of each were copied.
    Copies(&'a [u64]),
}

impl Ends<'_> {
    /// Where one of them does.
    pub(crate) fn of(&self, segments: &[Opened], n: usize) -> End {
        let header = segments[n].segment.header;
        let (durable, live) = match *self {
            Self::Copies(bytes) => {
                let bytes = (header.number as usize).checked_sub(1).and_then(|n| bytes.get(n));
                return End::Before(bytes.copied().unwrap_or(header.capacity));
            }
            Self::Log { durable, live } => (durable, live),
        };
        let next = segments.get(n + 1).filter(|next| next.header_is_sound).map(|next| next.segment.header);
        let next = next.filter(|next| next.number == header.number + 1);
        match next.and_then(|next| next.previous_end.checked_sub(header.base)) {
            Some(end) if end <= header.capacity => End::Sealed(end),
            _ => End::Open { durable: if n + 1 == segments.len() { durable } else { 0 }, live },
        }
    }
}

impl Walked {
    /// The position at which a log ends whose last segment was walked over.
    fn end_in(&self, segments: &[Opened]) -> u64 {
        segments.last().map_or(0, |last| last.segment.header.base + self.end)
    }
}

/// A look at the log, under way.
struct Look<'a> {
    findings: Findings,
    checking: Checking,
    meter: Meter<'a>,
    frames: u64,
    events: u64,
}

impl Look<'_> {
    fn finish(self, segments: &[Opened], walked: Walked, live: bool) -> Result<Verification> {
        let Look { mut findings, checking, meter, frames, events } = self;
        let end = walked.end_in(segments);
        let unchecked = checking.finish(end, live, &mut findings)?;
        (meter.told)(Progress { done: meter.progress.total, total: meter.progress.total });
        Ok(Verification {
            log: segments.last().map(|last| last.segment.header.log),
            segments: u32::try_from(segments.len()).unwrap_or(u32::MAX),
            frames,
            events,
            end,
            runs: unchecked.runs,
            bytes: meter.progress.done,
            torn_bytes: if live { 0 } else { walked.torn },
            live,
            findings: findings.listed,
            more_findings: findings.more,
            unchecked: unchecked.why,
        })
    }

    /// Looks at all segments. Where the last one ends.
    fn segments(&mut self, segments: &[Opened], ends: &Ends<'_>) -> Result<Walked> {
        let mut continuity = Continuity::BEGINNING;
        let mut before: Option<(&Segment, u64)> = None;
        let mut walked = Walked::default();
        for (n, opened) in segments.iter().enumerate() {
            let Opened { segment, header_is_sound } = opened;
            let header = segment.header;
            if before.map_or(0, |(before, _)| before.header.number) + 1 != header.number {
                (before, continuity.number, continuity.events) = (None, None, None);
            }
            if *header_is_sound {
                self.check_header(segment, before, &mut continuity);
            }
            if let Some(damage) = table_damage(segment)? {
                let positions = Some((Position(segment.first()), Position(segment.end() - 1)));
                self.damage(segment, 0, positions, damage);
                (before, continuity.number, continuity.events) = (Some((segment, segment.end())), None, None);
                continue;
            }
            let is_last = n + 1 == segments.len();
            let end = ends.of(segments, n);
            let done = self.meter.progress.done;
            walked = walk(segment, SEGMENT_HEADER, end, &mut continuity, self)?;
            if !is_last && walked.torn > 0 {
                // Its successor does not say where it ends, but nothing was written to it after that was made.
                self.damage(segment, walked.end, None, Damage("there is no frame where one should be"));
            }
            let length = segment.file.bytes().map_err(|error| segment.unreadable(&error))?;
            if matches!(ends, Ends::Log { .. }) && length < header.capacity {
                self.damage(segment, length, None, Damage("the file is shorter than its segment"));
            }
            self.meter.add((done + length).saturating_sub(self.meter.progress.done));
            before = Some((segment, header.base + walked.end));
        }
        Ok(walked)
    }

    /// Whether a segment's header says of what is before it what is there.
    fn check_header(
        &mut self,
        segment: &Segment,
        before: Option<(&Segment, u64)>,
        continuity: &mut Continuity,
    ) {
        let header = &segment.header;
        let of_first =
            (header.base, header.first_frame, header.events_before, header.previous_end) == (0, 1, 0, 0);
        let follows = match before {
            _ if header.number == 1 => of_first,
            None => true,
            Some((before, end)) => {
                header.log.log_id == before.header.log.log_id
                    && header.log.epoch >= before.header.log.epoch
                    && header.previous_end == end
                    && header.base >= end
                    && continuity.number.is_none_or(|number| number == header.first_frame)
                    && continuity.events.is_none_or(|events| events == header.events_before)
                    && header.last_recorded_at >= continuity.recorded_at
            }
        };
        if !follows {
            let damage = "the segment does not follow the one before it";
            self.findings.add(Part::Log, &segment.path, 0, None, damage);
        }
        *continuity = Continuity::at(header);
    }
}

impl Visitor for Look<'_> {
    fn frame(&mut self, segment: &Segment, frame: &Whole) -> Result<()> {
        self.frames += 1;
        self.events += frame.events.len() as u64;
        self.checking.frame(segment, frame, &mut self.findings)
    }

    fn damage(
        &mut self,
        segment: &Segment,
        offset: u64,
        positions: Option<(Position, Position)>,
        damage: Damage,
    ) {
        let part = if is_unused(damage) { Part::Unused } else { Part::Log };
        self.findings.add(part, &segment.path, offset, positions, damage.0);
    }

    fn done(&mut self, bytes: u64) {
        self.meter.add(bytes);
    }
}

fn check_manifest(
    disk: &dyn Disk,
    hint: &Hint,
    log: LogIdentity,
    end: u64,
    segments: &[Opened],
    findings: &mut Findings,
) {
    let path = disk.path_of(manifest::NAME);
    let last = segments.last().map_or(0, |last| last.segment.header.number);
    let problem = match hint {
        Err(damage) => damage.0,
        Ok(Some(manifest)) if manifest.log_id != log.log_id => "the manifest is of another log",
        Ok(Some(manifest)) if manifest.last_segment <= last && manifest.durable_upto > end => {
            "the log ends before what the manifest says was durable"
        }
        _ => return,
    };
    let part = if hint.is_err() { Part::Manifest } else { Part::Log };
    findings.add(part, &path, 0, None, problem);
}
