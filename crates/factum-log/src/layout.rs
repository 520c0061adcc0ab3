//! What lies in the directory of a log: for the person who looks at it after a crash, before anything is opened.

use std::{fmt, io, path::Path};

use factum::{LogIdentity, Outcome, Position, Result, Timestamp};
use serde::Serialize;

use crate::{
    backup::{LIST, List, UNFINISHED, UNREPAIRED, copy_name},
    disk::{Directory, Disk, LOCK, explain},
    format::{Damage, SEGMENT_HEADER, SegmentHeader},
    index::Run,
    manifest::{self, Manifest},
    recovery::{SPARE, cut_in, is_ours},
    segment::Segment,
    verify::{Continuity, End, Findings, Visitor, Walked, Whole, open_segments, read_manifest, walk},
};

/// What lies in a directory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Layout {
    /// The directory.
    pub directory: String,
    /// The log, as far as any of its files says.
    pub log: Option<LogIdentity>,
    /// Whether somebody has it open.
    pub in_use: bool,
    /// All files.
    pub files: Vec<FileLayout>,
    /// Segments, in order; of a backup, their copies.
    pub segments: Vec<SegmentLayout>,
    /// Files of the index, in order.
    pub runs: Vec<RunLayout>,
    /// What the manifest says, if it is there and sound.
    pub manifest: Option<ManifestLayout>,
    /// The frames of the segment that was asked for.
    pub frames: Vec<FrameLayout>,
    /// What opening the log would do, step by step.
    pub opening: Vec<String>,
}

/// A file, and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileLayout {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// What it is for.
    pub what: &'static str,
}

/// A segment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SegmentLayout {
    /// Its number.
    pub number: u32,
    /// The epoch in which it was begun.
    pub epoch: u64,
    /// The position of its first frame.
    pub first: Position,
    /// The position beyond its last frame.
    pub end: Position,
    /// The number of its first frame.
    pub first_frame: u64,
    /// Frames, marks among them.
    pub frames: u64,
    /// Events.
    pub events: u64,
    /// Bytes that are used.
    pub used_bytes: u64,
    /// Bytes that it has room for.
    pub capacity: u64,
    /// If a scavenge has packed it, bytes of its file.
    pub packed_bytes: Option<u64>,
    /// Events of which a scavenge has left no more than stubs.
    pub removed_events: u64,
    /// When the last event before it was recorded.
    pub begun_after: Option<Timestamp>,
    /// What is wrong with it, as far as was looked.
    pub problem: Option<String>,
}

/// A file of the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunLayout {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// The position at which it begins.
    pub start: Position,
    /// The position at which it ends.
    pub end: Position,
    /// Events in the log up to its end.
    pub events: u64,
    /// Whether it is used, or why not.
    pub state: &'static str,
}

/// What the manifest says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ManifestLayout {
    /// The last segment that was made.
    pub last_segment: u32,
    /// Everything before this position was durable.
    pub durable_upto: Position,
    /// Whether the log was closed in good order.
    pub clean: bool,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FrameLayout {
    /// Its offset in the segment.
    pub offset: u64,
    /// Its number in the log.
    pub number: u64,
    /// Its bytes, header and all.
    pub bytes: u64,
    /// Its events; none in a mark.
    pub events: u32,
    /// The position of its first event.
    pub first: Option<Position>,
    /// The position of its last event.
    pub last: Option<Position>,
    /// Everything before this position was durable when it was written.
    pub synced_upto: Position,
    /// When its last event was recorded.
    pub recorded_at: Timestamp,
}

/// Looks at what lies in a directory: a log, open or closed, or a backup. Of the segments before the last only the headers are
/// read; `frames_of` is the number of a segment of which to list every frame.
///
/// ```no_run
/// # fn main() -> factum::Result<()> {
/// println!("{}", factum_log::layout("data", None)?);
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`factum::Error::NotFound`] if there is no such directory or segment, and those of the disk. Damage is no error: it is in the answer.
pub fn layout(directory: impl AsRef<Path>, frames_of: Option<u32>) -> Result<Layout> {
    let disk = Directory::existing(directory.as_ref())?;
    layout_of(&disk, frames_of)
}

fn layout_of(disk: &dyn Disk, frames_of: Option<u32>) -> Result<Layout> {
    let failed = |error: io::Error| explain(&error, "read", &disk.path_of(""), Outcome::No);
    let mut names = disk.list().map_err(failed)?;
    names.sort();
    let in_use = disk.is_owned().map_err(failed)?;
    let mut files = Vec::with_capacity(names.len());
    for name in &names {
        // What is gone by now is not there, and a directory is none of ours.
        let bytes = disk.open_to_read(name).and_then(|file| file.bytes()).unwrap_or_default();
        files.push(FileLayout { name: name.clone(), bytes, what: what_is(name) });
    }
    let hint = read_manifest(disk)?;
    let manifest = hint.as_ref().ok().and_then(Option::as_ref);
    let copies = List::read(disk).ok().flatten();
    let mut look = Look { frames_of, segments: Vec::new(), frames: Vec::new(), problem: None };
    let mut findings = Findings::default();
    let numbers =
        |number_in: fn(&str) -> Option<u32>| names.iter().filter_map(|name| number_in(name)).collect();
    let opened = match &copies {
        Some(list) => {
            let last = u32::try_from(list.segments.len()).unwrap_or(u32::MAX);
            let there = (1..=last).filter(|number| names.contains(&copy_name(*number))).collect();
            open_segments(disk, there, copy_name, last, None, &mut findings)?
        }
        None => {
            let least = manifest.map_or(0, |manifest| manifest.last_segment);
            open_segments(disk, numbers(Segment::number_in), Segment::name, least, None, &mut findings)?
        }
    };
    let segments: Vec<Segment> = opened.into_iter().map(|opened| opened.segment).collect();
    let durable = manifest.map_or(0, |manifest| manifest.durable_upto);
    let walked = match &copies {
        Some(list) => look.copies(&segments, list)?,
        None => look.all(&segments, durable, in_use)?,
    };
    if let Some(wanted) = frames_of.filter(|wanted| !look.segments.iter().any(|s| s.number == *wanted)) {
        return Err(factum::Error::NotFound { what: format!("segment {wanted} in {}", disk.path_of("")) });
    }
    let problems: Vec<String> = findings.listed.iter().map(ToString::to_string).collect();
    let runs = runs_of(disk, &names, &segments)?;
    let opening = Opening { disk, names: &names, in_use, manifest, segments: &segments, runs: &runs, walked };
    let opening = opening.steps(copies.is_some(), problems.into_iter().chain(look.problem).collect());
    Ok(Layout {
        directory: disk.path_of(""),
        log: segments.last().map(|last| last.header.log),
        in_use,
        files,
        segments: look.segments,
        runs,
        manifest: manifest.map(|manifest| ManifestLayout {
            last_segment: manifest.last_segment,
            durable_upto: Position(manifest.durable_upto),
            clean: manifest.clean,
        }),
        frames: look.frames,
        opening,
    })
}

fn what_is(name: &str) -> &'static str {
    match name {
        LOCK => "its lock shows who has the log open",
        manifest::NAME => "a hint of how far the log was durable",
        SPARE => "made ahead of time for the next segment",
        LIST => "the list of a whole backup",
        UNFINISHED => "a restore into this directory did not finish",
        UNREPAIRED => "a repair of this log did not finish",
        _ if Segment::number_in(name).is_some() => "segment of the log",
        _ if Run::span_in(name).is_some() => "index of a stretch of the log",
        _ if cut_in(name) => "copy of what recovery cut off",
        _ if name.contains(".segment.before-repair-") => "segment as it was before a repair",
        _ if name.strip_suffix(".copy").is_some() => "copy of a segment",
        _ if name.strip_suffix(".new").is_some_and(is_ours) => {
            "left over from a crash; removed when the log is opened"
        }
        _ => "not of factum's",
    }
}

/// A look at segments.
struct Look {
    frames_of: Option<u32>,
    segments: Vec<SegmentLayout>,
    frames: Vec<FrameLayout>,
    problem: Option<String>,
}

impl Look {
    fn all(&mut self, segments: &[Segment], durable: u64, live: bool) -> Result<Walked> {
        for pair in segments.windows(2) {
            let (segment, next) = (&pair[0], &pair[1].header);
            let header = &segment.header;
            let end = next.previous_end.saturating_sub(header.base);
            let (frames, events) = if next.number == header.number + 1 {
                (
                    next.first_frame.saturating_sub(header.first_frame),
                    next.events_before.saturating_sub(header.events_before),
                )
            } else {
                (0, 0)
            };
            self.add(segment, end, frames, events);
            if self.frames_of == Some(header.number) {
                walk(segment, SEGMENT_HEADER, End::Sealed(end), &mut Continuity::at(header), self)?;
            }
        }
        match segments.last() {
            Some(last) => self.last(last, End::Open { durable, live }),
            None => Ok(Walked::default()),
        }
    }

    fn copies(&mut self, segments: &[Segment], list: &List) -> Result<Walked> {
        let mut walked = Walked::default();
        for segment in segments {
            let bytes =
                list.segments.get(segment.header.number as usize - 1).copied().unwrap_or(SEGMENT_HEADER);
            walked = self.last(segment, End::Before(bytes))?;
        }
        Ok(walked)
    }

    /// Reads a whole segment.
    fn last(&mut self, segment: &Segment, end: End) -> Result<Walked> {
        let mut next = Continuity::at(&segment.header);
        let earlier = self.problem.is_some();
        let walked = walk(segment, SEGMENT_HEADER, end, &mut next, self)?;
        let SegmentHeader { first_frame, events_before, .. } = segment.header;
        let frames = next.number.unwrap_or(first_frame).saturating_sub(first_frame);
        let events = next.events.unwrap_or(events_before).saturating_sub(events_before);
        let problem = self.problem.clone().filter(|_| !earlier);
        self.add(segment, walked.end, frames, events);
        if let Some(last) = self.segments.last_mut() {
            last.problem = problem;
        }
        Ok(walked)
    }

    fn add(&mut self, segment: &Segment, end: u64, frames: u64, events: u64) {
        let header = &segment.header;
        self.segments.push(SegmentLayout {
            number: header.number,
            epoch: header.log.epoch,
            first: Position(segment.first()),
            end: Position(header.base + end),
            first_frame: header.first_frame,
            frames,
            events,
            used_bytes: end,
            capacity: header.capacity,
            packed_bytes: segment.packed.as_ref().map(|packed| packed.bytes),
            removed_events: segment.packed.as_ref().map_or(0, |packed| packed.removed),
            begun_after: Some(header.last_recorded_at).filter(|at| at.0 != i64::MIN),
            problem: None,
        });
    }
}

impl Visitor for Look {
    fn frame(&mut self, segment: &Segment, frame: &Whole) -> Result<()> {
        if self.frames_of == Some(segment.header.number) {
            let header = &frame.header;
            self.frames.push(FrameLayout {
                offset: frame.offset,
                number: header.number,
                bytes: header.bytes(),
                events: header.events,
                first: frame.events.first().map(|event| event.position),
                last: frame.events.last().map(|event| event.position),
                synced_upto: Position(header.synced_upto),
                recorded_at: header.recorded_at,
            });
        }
        Ok(())
    }

    fn damage(
        &mut self,
        segment: &Segment,
        offset: u64,
        positions: Option<(Position, Position)>,
        damage: Damage,
    ) {
        self.problem.get_or_insert_with(|| segment.corrupt(offset, positions, damage).to_string());
    }

    fn done(&mut self, _: u64) {}
}

/// The files of the index, and which of them opening the log would use.
fn runs_of(disk: &dyn Disk, names: &[String], segments: &[Segment]) -> Result<Vec<RunLayout>> {
    let mut spans: Vec<(u64, u64)> = names.iter().filter_map(|name| Run::span_in(name)).collect();
    spans.sort_unstable_by_key(|&(start, end)| (start, std::cmp::Reverse(end)));
    let mut at = 0;
    let mut runs = Vec::with_capacity(spans.len());
    for (start, end) in spans {
        let name = Run::name(start, end);
        let run = match Run::open_once(disk, &name) {
            Ok(run) => Some(run),
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound) => {
                None
            }
            Err(error) => return Err(explain(&error, "read", &disk.path_of(&name), Outcome::No)),
        };
        let of_this_log =
            |run: &Run| segments.first().is_some_and(|first| first.header.log.log_id == run.span.log_id);
        let state = match &run {
            None => "not readable: made again",
            Some(run) if !of_this_log(run) => "of another log: removed",
            Some(_) if start == at => "used",
            Some(_) if start < at => "merged into another: removed",
            Some(_) => "after a gap: made again",
        };
        if state == "used" {
            at = end;
        }
        let bytes = run.as_ref().map_or(0, Run::bytes);
        let events = run.as_ref().map_or(0, |run| run.span.events);
        runs.push(RunLayout { name, bytes, start: Position(start), end: Position(end), events, state });
    }
    Ok(runs)
}

/// What is known of a log before it is opened.
struct Opening<'a> {
    disk: &'a dyn Disk,
    names: &'a [String],
    in_use: bool,
    manifest: Option<&'a Manifest>,
    segments: &'a [Segment],
    runs: &'a [RunLayout],
    walked: Walked,
}

impl Opening<'_> {
    /// What opening the log would do.
    fn steps(&self, is_backup: bool, problems: Vec<String>) -> Vec<String> {
        let has = |wanted: &str| self.names.iter().any(|name| name == wanted);
        let Some(last) = self.segments.last() else {
            return vec!["there is no log here; opening it would begin one".to_owned()];
        };
        if is_backup {
            return vec!["refuse: it is a backup, to be restored into another directory".to_owned()];
        }
        if has(UNFINISHED) {
            return vec!["refuse: a restore into this directory did not finish; restore again".to_owned()];
        }
        if has(UNREPAIRED) {
            return vec!["refuse: a repair of this log did not finish; repair it again".to_owned()];
        }
        if self.in_use {
            return vec!["refuse: another process has it open".to_owned()];
        }
        if !problems.is_empty() {
            return problems.into_iter().map(|problem| format!("refuse: {problem}")).collect();
        }
        let mut steps = Vec::new();
        let indexed = self.runs.iter().rfind(|run| run.state == "used").map_or(0, |run| run.end.0);
        let end = last.header.base + self.walked.end;
        let read = end.saturating_sub(indexed);
        steps.push(format!("read {read} bytes of the log from position {indexed} on, which no index covers"));
        let unused = self.runs.iter().filter(|run| run.state != "used").count();
        if unused > 0 {
            steps.push(format!("remove {unused} files of the index that are of no use"));
        }
        if self.manifest.is_some_and(|manifest| manifest.clean && manifest.durable_upto == end) {
            steps.push("nothing else: the log was closed in good order".to_owned());
            return steps;
        }
        let path = self.disk.path_of(&Segment::name(last.header.number));
        let durable = [last.header.previous_end, self.walked.synced_upto, indexed]
            .into_iter()
            .chain(self.manifest.map(|manifest| manifest.durable_upto))
            .fold(last.first(), u64::max);
        if self.walked.torn > 0 {
            let (torn, at) = (self.walked.torn, self.walked.end);
            steps.push(format!(
                "copy {torn} bytes of torn frames at byte {at} of {path} to a file, then cut them off"
            ));
        }
        let again = end.saturating_sub(durable);
        if again > 0 {
            steps.push(format!("write {again} bytes again, since nothing proves them durable"));
        }
        steps.push("sync the last segment and the directory".to_owned());
        steps
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}{}", self.directory, if self.in_use { " (in use)" } else { "" })?;
        if let Some(LogIdentity { log_id, epoch }) = self.log {
            writeln!(f, "log {log_id}, epoch {epoch}")?;
        }
        table(
            f,
            "segments",
            &[
                "number",
                "epoch",
                "first position",
                "end",
                "frames",
                "events",
                "removed",
                "bytes used",
                "of",
                "",
            ],
            self.segments.iter().map(SegmentLayout::row),
        )?;
        table(
            f,
            "index",
            &["first position", "end", "events so far", "bytes", "state"],
            self.runs.iter().map(|run| {
                let numbers =
                    [run.start.0, run.end.0, run.events, run.bytes].map(|number| number.to_string());
                [&numbers[..], &[run.state.to_owned()]].concat()
            }),
        )?;
        table(
            f,
            "frames",
            &[
                "offset",
                "number",
                "bytes",
                "events",
                "first position",
                "last position",
                "synced up to",
                "recorded at",
            ],
            self.frames.iter().map(|frame| {
                let place =
                    |position: Option<Position>| position.map_or("mark".to_owned(), |p| p.to_string());
                vec![
                    frame.offset.to_string(),
                    frame.number.to_string(),
                    frame.bytes.to_string(),
                    frame.events.to_string(),
                    place(frame.first),
                    place(frame.last),
                    frame.synced_upto.to_string(),
                    if frame.recorded_at.0 == i64::MIN {
                        "never".into()
                    } else {
                        frame.recorded_at.to_string()
                    },
                ]
            }),
        )?;
        let files =
            self.files.iter().map(|file| vec![file.bytes.to_string(), file.name.clone(), file.what.into()]);
        table(f, "files", &["bytes", "name", "what it is"], files)?;
        writeln!(f, "\nopening it would")?;
        self.opening.iter().try_for_each(|step| writeln!(f, "  {step}"))
    }
}

impl SegmentLayout {
    fn row(&self) -> Vec<String> {
        let numbers =
            [u64::from(self.number), self.epoch, self.first.0, self.end.0, self.frames, self.events];
        let used = [self.removed_events, self.packed_bytes.unwrap_or(self.used_bytes), self.capacity];
        let packed = if self.packed_bytes.is_some() { "packed" } else { "" };
        let all = numbers.into_iter().chain(used).map(|number| number.to_string());
        all.chain([packed.to_owned()]).collect()
    }
}

/// Prints rows under the names of their columns; numbers stand at the right.
fn table(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    columns: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) -> fmt::Result {
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return Ok(());
    }
    let width =
        |n: usize| rows.iter().map(|row| row[n].chars().count()).chain([columns[n].len()]).max().unwrap_or(0);
    let is_number = |n: usize| rows.iter().all(|row| row[n].bytes().all(|byte| byte.is_ascii_digit()));
    let widths: Vec<(usize, bool)> = (0..columns.len()).map(|n| (width(n), is_number(n))).collect();
    writeln!(f, "\n{name}")?;
    let head: Vec<String> = columns.iter().map(|&column| column.to_owned()).collect();
    for row in std::iter::once(&head).chain(&rows) {
        let cells = row.iter().zip(&widths).map(|(cell, (width, right))| {
            if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        writeln!(f, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
