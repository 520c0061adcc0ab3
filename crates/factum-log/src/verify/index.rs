//! Whether the index says what follows from the log.

use std::{collections::HashMap, io, sync::Arc};

use factum::{
    Outcome, Position, RecordedEvent, Result, Revision, StreamState, Timestamp, stream::LifeChange,
};
use uuid::Uuid;

use super::{Findings, Meter, Part, segments::Whole};
use crate::{
    disk::{Disk, explain},
    index::{
        Run, Secret,
        run::{Facts, each_stream},
    },
    segment::Segment,
};

/// Streams of the part that is not indexed, and changes of streams' lives, that are followed in memory: about 100 MiB.
const FOLLOWED: usize = 1 << 20;

/// A run that is compared with the log.
struct Compared {
    run: Arc<Run>,
    path: String,
    /// What it says; `None` if it is damaged.
    says: Option<Facts>,
    /// What the log says.
    is: Facts,
    /// The entries of `sparse` that were met, in order.
    sparse_met: usize,
    sparse_is_wrong: bool,
    largest_id: u128,
    keys: Vec<u64>,
    /// What the log says at its end.
    ending: Ending,
}

/// What is known of the log at some place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ending {
    events: u64,
    next_frame: u64,
    last: Position,
    last_recorded_at: Timestamp,
    /// The position beyond the last frame.
    at: u64,
}

/// The index, while the log is looked through.
pub(crate) struct Checking {
    runs: Vec<Compared>,
    /// The run that holds the present place of the log.
    present: usize,
    ending: Ending,
    /// Whether the runs cover the log from its beginning without a gap, so that streams can be followed through them.
    chained: bool,
    secret: Secret,
    /// The next revision of streams in the part that is not indexed.
    revisions: HashMap<u128, u64>,
    revisions_unchecked: u64,
    /// What events of metadata streams do to the streams they describe.
    changes: HashMap<u128, Vec<(Position, LifeChange, Timestamp)>>,
    changes_count: usize,
    /// What could not be checked.
    why: Vec<String>,
}

/// What is left over at the end.
pub(crate) struct Unchecked {
    /// How many runs there are.
    pub(crate) runs: u32,
    /// What could not be checked, and why.
    pub(crate) why: Vec<String>,
}

impl Checking {
    /// Opens the runs. Those that were merged into others and only wait to be removed are left out.
    pub(crate) fn open(
        disk: &dyn Disk,
        names: &[String],
        log_id: Uuid,
        live: bool,
        findings: &mut Findings,
    ) -> Result<Self> {
        let mut spans: Vec<(u64, u64)> = names.iter().filter_map(|name| Run::span_in(name)).collect();
        spans.sort_unstable_by_key(|&(start, end)| (start, std::cmp::Reverse(end)));
        let (mut runs, mut why) = (Vec::<Compared>::new(), Vec::new());
        for (start, end) in spans {
            let name = Run::name(start, end);
            let path = disk.path_of(&name);
            let run = match Run::open_once(disk, &name) {
                Ok(run) => run,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    findings.add(Part::Index, &path, 0, None, "a table of the index fails its checksum");
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    why.push(format!(
                        "{path} was made by another version, and is made again when the log is opened"
                    ));
                    continue;
                }
                Err(error) if live && error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(explain(&error, "read", &path, Outcome::No)),
            };
            if (run.span.start, run.span.end) != (start, end) || run.span.log_id != log_id {
                findings.add(Part::Index, &path, 0, None, "it has the name of another, or is of another log");
            } else if runs.last().is_none_or(|last| last.run.span.end <= start) {
                runs.push(Compared::new(run, path));
            }
        }
        let mut at = 0;
        let first = runs.first().map(|compared| compared.run.span.secret);
        let chained = runs.iter().all(|Compared { run, .. }| {
            run.span.start == std::mem::replace(&mut at, run.span.end) && Some(run.span.secret) == first
        });
        Ok(Self {
            runs,
            present: 0,
            ending: Ending::BEGINNING,
            chained,
            secret: Secret(first.unwrap_or_default()),
            revisions: HashMap::new(),
            revisions_unchecked: 0,
            changes: HashMap::new(),
            changes_count: 0,
            why,
        })
    }

    /// Bytes of the runs.
    pub(crate) fn bytes(&self) -> u64 {
        self.runs.iter().map(|compared| compared.run.bytes()).sum()
    }

    /// Reads every byte of every run.
    pub(super) fn read_runs(&mut self, findings: &mut Findings, meter: &mut Meter<'_>) -> Result<()> {
        for compared in &mut self.runs {
            let checked = compared.run.check(|bytes| meter.add(bytes))?;
            for (offset, problem) in &checked.problems {
                findings.add(Part::Index, &compared.path, *offset, None, problem);
            }
            compared.says = checked.problems.is_empty().then_some(checked.facts);
            self.chained &= compared.says.is_some();
        }
        Ok(())
    }

    /// Takes in a frame of the log.
    pub(super) fn frame(&mut self, segment: &Segment, frame: &Whole, findings: &mut Findings) -> Result<()> {
        let start = segment.header.base + frame.offset;
        while self.runs.get(self.present).is_some_and(|compared| compared.run.span.end <= start) {
            self.runs[self.present].ending = self.ending;
            self.present += 1;
        }
        let runs_end = self.runs.last().map_or(0, |last| last.run.span.end);
        if let Some(compared) = self.runs.get_mut(self.present)
            && start >= compared.run.span.start
        {
            compared.take(start, &frame.events);
        }
        for event in &frame.events {
            self.ending.last = event.position;
            self.ending.last_recorded_at = event.recorded_at;
            if !self.chained || start >= runs_end {
                self.follow(segment, event, findings)?;
            }
            self.note_change(segment, event, findings);
        }
        self.ending.events = frame.header.events_before + u64::from(frame.header.events);
        self.ending.next_frame = frame.header.number + 1;
        self.ending.at = start + frame.header.bytes();
        Ok(())
    }

    /// Whether an event's revision follows the one before it in its stream.
    fn follow(&mut self, segment: &Segment, event: &RecordedEvent, findings: &mut Findings) -> Result<()> {
        let hash = self.secret.stream(&event.stream);
        let next = match self.revisions.get(&hash) {
            Some(next) => *next,
            None if self.revisions.len() >= FOLLOWED => {
                self.revisions_unchecked += 1;
                return Ok(());
            }
            None if self.chained => self.indexed(hash)?,
            None => 0,
        };
        self.revisions.insert(hash, event.revision.0 + 1);
        // Where events are damaged, those after them cannot follow.
        if event.revision.0 != next && !findings.touch(0, event.position.0) {
            let offset = event.position.0 - segment.header.base;
            let problem = "an event's revision does not follow the one before it in its stream";
            let positions = Some((event.position, event.position));
            findings.add(Part::Log, &segment.path, offset, positions, problem);
        }
        Ok(())
    }

    /// The next revision of a stream after all runs.
    fn indexed(&self, hash: u128) -> Result<u64> {
        for Compared { run, .. } in self.runs.iter().rev() {
            if let Some(state) = run.state(hash)? {
                return Ok(state.next_revision().0);
            }
        }
        Ok(0)
    }

    fn note_change(&mut self, segment: &Segment, event: &RecordedEvent, findings: &mut Findings) {
        match LifeChange::of_event(&event.stream, &event.event_type, &event.data) {
            Ok(None) => {}
            Ok(Some((described, change))) => {
                self.changes_count += 1;
                if self.changes_count <= FOLLOWED {
                    let changes = self.changes.entry(self.secret.stream(&described)).or_default();
                    changes.push((event.position, change, event.recorded_at));
                }
            }
            Err(error) => {
                let offset = event.position.0 - segment.header.base;
                let positions = Some((event.position, event.position));
                findings.add(Part::Log, &segment.path, offset, positions, &error.to_string());
            }
        }
    }

    /// Compares what the runs say with what the log has said, up to where it ends.
    pub(super) fn finish(mut self, log_end: u64, live: bool, findings: &mut Findings) -> Result<Unchecked> {
        for n in self.present..self.runs.len() {
            self.runs[n].ending = self.ending;
        }
        let mut why = std::mem::take(&mut self.why);
        let mut sound = self.chained;
        for compared in &self.runs {
            let span = compared.run.span;
            let damaged = findings.touch(span.start, span.end);
            sound &= !damaged;
            if span.end > log_end && !live && !damaged {
                let problem =
                    "the index reaches beyond the end of the log: events that were durable are missing";
                let positions = Some((Position(log_end), Position(span.end - 1)));
                findings.add(Part::Log, &compared.path, 0, positions, problem);
                sound = false;
            } else if damaged {
                why.push(format!("{} was not compared with the log, which is damaged there", compared.path));
            } else if let Some(problem) = compared.problem() {
                findings.add(Part::Index, &compared.path, 0, None, problem);
                sound = false;
            }
        }
        if sound && self.changes_count <= FOLLOWED {
            self.follow_streams(findings)?;
        } else if self.changes_count > FOLLOWED {
            why.push(
                "the states of streams were not compared: more than a million changes of retention".into(),
            );
        }
        if self.revisions_unchecked > 0 {
            why.push(format!(
                "the revisions of {} events were not followed, because no index covers them: open the log once, \
                 so that its index is made again, and verify it then",
                self.revisions_unchecked
            ));
        }
        Ok(Unchecked { runs: u32::try_from(self.runs.len()).unwrap_or(u32::MAX), why })
    }

    /// Follows each stream through the runs: its revisions, and its state at the end of each.
    fn follow_streams(&self, findings: &mut Findings) -> Result<()> {
        let runs: Vec<Arc<Run>> = self.runs.iter().map(|compared| compared.run.clone()).collect();
        let mut seen = 0;
        each_stream(&runs, |hash, entries| {
            let changes = self.changes.get(&hash).map_or(&[][..], |changes| changes);
            seen += usize::from(!changes.is_empty());
            let (mut state, mut next_change) = (StreamState::default(), 0);
            for (run, first_revision, says, list) in entries {
                let mut fits = state.next_revision() == Revision(first_revision);
                let describe = |state: &mut StreamState, next: &mut usize, before: u64| {
                    while let Some((_, change, at)) = changes.get(*next).filter(|(p, ..)| p.0 < before) {
                        state.described(change, *at);
                        *next += 1;
                    }
                };
                list.each(|position| {
                    describe(&mut state, &mut next_change, position.0);
                    state.written();
                    Ok(())
                })?;
                describe(&mut state, &mut next_change, run.span.end);
                fits &= state == says && (run.span.hides_something || state.hides_nothing());
                if !fits {
                    let path = self.runs.iter().find(|compared| Arc::ptr_eq(&compared.run, run));
                    let path = path.map_or("", |compared| &compared.path);
                    let problem = "what the index says of a stream does not follow from its events";
                    findings.add(Part::Index, path, 0, None, problem);
                    return Ok(());
                }
            }
            Ok(())
        })?;
        let end = self.runs.last().map_or(0, |last| last.run.span.end);
        let indexed = self.changes.values().filter(|changes| changes.iter().any(|(p, ..)| p.0 < end)).count();
        if seen < indexed
            && let Some(last) = self.runs.last()
        {
            findings.add(
                Part::Index,
                &last.path,
                0,
                None,
                "the index knows nothing of a stream that was described",
            );
        }
        Ok(())
    }
}

impl Ending {
    const BEGINNING: Self = Self {
        events: 0,
        next_frame: 1,
        last: Position::START,
        last_recorded_at: Timestamp(i64::MIN),
        at: 0,
    };
}

impl Compared {
    fn new(run: Run, path: String) -> Self {
        Self {
            run: Arc::new(run),
            path,
            says: None,
            is: Facts::default(),
            sparse_met: 0,
            sparse_is_wrong: false,
            largest_id: 0,
            keys: Vec::new(),
            ending: Ending::BEGINNING,
        }
    }

    fn take(&mut self, start: u64, events: &[RecordedEvent]) {
        let secret = Secret(self.run.span.secret);
        for event in events {
            self.is.add_event(secret, event, &mut self.keys);
            self.largest_id = self.largest_id.max(event.id.0.as_u128());
        }
        if let Some((position, at)) = self.run.sparse.get(self.sparse_met).filter(|(at, _)| *at <= start) {
            let first = events.first().map(|event| event.recorded_at);
            self.sparse_is_wrong |= *position != start || Some(*at) != first;
            self.sparse_met += 1;
        }
    }

    /// In which way it differs from the log, which is sound where it is.
    fn problem(&self) -> Option<&'static str> {
        let (span, ending) = (&self.run.span, &self.ending);
        let says = self.says?;
        if !says.fit(&self.is) {
            return Some("the index does not say what follows from the log");
        }
        let ends = Ending {
            events: span.events,
            next_frame: span.next_frame,
            last: span.last,
            last_recorded_at: span.last_recorded_at,
            at: ending.at,
        };
        if ends != *ending || span.largest_id != self.largest_id {
            return Some("the index says of its stretch of the log as a whole what is not so");
        }
        let sparse_met = self.sparse_met == self.run.sparse.len();
        (self.sparse_is_wrong || !sparse_met).then_some("the index says that frames begin where none do")
    }
}
