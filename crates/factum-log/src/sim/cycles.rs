//! Crash, recover, compare; again and again.
//!
//! The driver knows of each append whether it was acknowledged, refused, or left unknown, and what readers have seen. After every
//! recovery the log must hold what was acknowledged or seen, at the same positions, then perhaps some of the unknown appends,
//! each whole or not at all, and nothing else. Readers must see all of it but for what the streams' lives hide; and of what a
//! scavenge has removed, the log must still know where and what it was.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use factum::{
    Append, Appended, Error, EventId, ExpectedRevision, Life as StreamLife, Limits, ManualClock, NewEvent,
    Outcome, Position, Query, Read, RecordedEvent, Retention, Revision, StreamName, StreamState, Timestamp,
    stream::LifeChange,
};
use fastrand::Rng;
use tokio::sync::oneshot::Receiver;
use uuid::Uuid;

use super::{Bug, Crash, SimDisk, torn::Found};
use crate::{
    bugs::Bugs,
    disk::Disk,
    format::{SEGMENT_HEADER, found, is_removed},
    index::{PageCache, Run, Secret},
    log::{
        Log, Settings,
        scavenge::{Scavenge, Scavenged},
    },
    read,
    segment::Segment,
    verify::verify_disk,
};

/// Crashes that one simulated disk lives through.
const CRASHES_PER_DISK: u64 = 10;
/// Crashes within one recovery, at most.
const DEPTH: u32 = 3;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Cycles {
    /// From which everything follows.
    pub seed: u64,
    /// Crash-and-recover cycles.
    pub cycles: u64,
    /// A mistake to make, which must then be noticed.
    pub bug: Option<Bug>,
}

/// What was run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Crash-and-recover cycles.
    pub cycles: u64,
    /// Of these, with the power cut.
    pub power_cuts: u64,
    /// Crashes in the middle of a recovery.
    pub in_recovery: u64,
    /// Appends that were acknowledged.
    pub acknowledged: u64,
    /// Appends of which nobody knew whether they had happened, and of these, those that had.
    pub unknown: u64,
    /// As above.
    pub unknown_found: u64,
    /// Appends that a failed write or sync left unknown.
    pub left_by_failure: u64,
    /// Flipped bits that were noticed, and those that did no harm.
    pub rot_refused: u64,
    /// As above.
    pub rot_harmless: u64,
    /// Disks that lied about syncs and were found out, and those that got away with what nobody could have seen.
    pub lies_refused: u64,
    /// As above.
    pub lies_unnoticed: u64,
    /// Times that the disk was full.
    pub disk_full: u64,
    /// Scavenges that were begun, and those that a crash, a failure or the operator ended early.
    pub scavenges: u64,
    /// As above.
    pub scavenges_cut_short: u64,
    /// Segments that were packed, and events that were removed from them.
    pub packed: u64,
    /// As above.
    pub removed: u64,
    /// Removed events whose append was sent again and answered as it was first, or refused since its content had changed.
    pub removed_known_again: u64,
    /// Flipped bits in packed segments.
    pub rot_in_packed: u64,
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed of the disk on which it happened: a run of one disk with this seed shows it again.
    pub seed: u64,
    /// Which cycle it was, over all disks.
    pub cycle: u64,
    /// What was wrong.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cycle {} (disk seed {}): {}", self.cycle, self.seed, self.what)
    }
}

/// How a mistake was noticed.
#[derive(Clone, Debug)]
pub struct Noticed {
    /// By what.
    pub failure: Failure,
    /// After so many cycles.
    pub cycles: u64,
    /// After so long.
    pub after: Duration,
}

/// Makes a mistake until it is noticed, for so long at most.
#[allow(clippy::disallowed_methods, reason = "elapsed time bounds a search, and is told")]
pub fn notice(bug: Bug, seed: u64, at_most: Duration) -> Option<Noticed> {
    let began = Instant::now();
    let mut cycles = 0;
    while began.elapsed() < at_most {
        let batch = Cycles { seed: seed.wrapping_add(cycles), cycles: 1000, bug: Some(bug) };
        match run(&batch, |_| {}) {
            Ok(_) => cycles += 1000,
            Err(failure) => {
                let cycles = cycles + failure.cycle;
                return Some(Noticed { failure, cycles, after: began.elapsed() });
            }
        }
    }
    None
}

/// Runs cycles until one fails or all are done; `each` is told how many are done.
///
/// # Errors
/// The first promise that was broken.
pub fn run(what: &Cycles, mut each: impl FnMut(u64)) -> Result<Report, Failure> {
    let mut report = Report::default();
    let mut seeds = Rng::with_seed(what.seed);
    while report.cycles < what.cycles {
        let seed = if what.cycles <= CRASHES_PER_DISK { what.seed } else { seeds.u64(..) };
        let mut life = Life::new(seed, what.bug, &mut report);
        if let Err(failure) = life.live() {
            return Err(Failure { seed, cycle: report.cycles, what: failure });
        }
        each(report.cycles);
    }
    Ok(report)
}

/// An append as the driver sent it.
#[derive(Clone, Debug)]
struct Sent {
    stream: StreamName,
    ids: Vec<EventId>,
    append: Append,
}

/// An event as the driver knows it.
type Known = (Position, EventId);

struct Life<'a> {
    rng: Rng,
    disk: SimDisk,
    clock: Arc<ManualClock>,
    bug: Option<Bug>,
    report: &'a mut Report,
    /// Events that were acknowledged or seen.
    known: Vec<Known>,
    contents: HashMap<EventId, Sent>,
    revisions: HashMap<StreamName, u64>,
    /// Sent, and nobody knows.
    unknown: Vec<Sent>,
    /// The room of the disk is limited.
    tight: bool,
    /// Syncs may fail.
    failing: bool,
    /// Events of which a scavenge has left no more than it must.
    removed: HashSet<Position>,
    /// The last crash was a power cut: what is there now cannot be lost any more.
    settled: bool,
}

type Outcomes = Vec<(Sent, Receiver<factum::Result<Appended>>)>;

impl<'a> Life<'a> {
    fn new(seed: u64, bug: Option<Bug>, report: &'a mut Report) -> Self {
        let mut rng = Rng::with_seed(seed);
        Self {
            disk: SimDisk::new(rng.u64(..)),
            tight: rng.u8(..) < 16,
            rng,
            clock: Arc::new(ManualClock::at(Timestamp(1_000_000))),
            bug,
            report,
            known: Vec::new(),
            contents: HashMap::new(),
            revisions: HashMap::new(),
            unknown: Vec::new(),
            failing: false,
            removed: HashSet::new(),
            settled: true,
        }
    }

    /// One disk, from its first crash to its last, and perhaps a bad end.
    fn live(&mut self) -> Result<(), String> {
        if self.tight {
            self.disk.room(30_000);
        }
        if self.bug == Some(Bug::NoRunSync) {
            self.disk.leave_unsynced(".run.new");
        }
        for _ in 0..CRASHES_PER_DISK {
            self.report.cycles += 1;
            let failing = if self.rng.u8(..) < 40 { 60 } else { 0 };
            if self.rng.u8(..) < 32 {
                self.forget_runs()?;
            }
            let log = self.open()?;
            self.check(&log)?;
            if self.rng.u8(..) < 32 {
                self.check_every_byte()?;
            }
            self.failing = failing > 0;
            if self.rng.u8(..) < 224 {
                self.disk.crash_after(self.rng.u64(0..40));
            }
            self.disk.syncs(failing, 0);
            self.work(&log)?;
            self.disk.syncs(0, 0);
            if !self.disk.has_crashed() && self.rng.bool() {
                // A log that a failed sync has poisoned says so; that changes nothing for what follows.
                let _ = log.close();
            }
            drop(log);
            self.crash();
        }
        self.disk.room(u64::MAX);
        self.failing = false;
        match self.rng.u8(0..4) {
            0 => self.end_with_rot(),
            1 => self.end_with_lies(),
            _ => Ok(()),
        }
    }

    /// Somebody deletes the index, which is made again from what the segments have.
    fn forget_runs(&mut self) -> Result<(), String> {
        let forget = || {
            let names = self.disk.list()?;
            names.iter().filter(|name| name.ends_with(".run")).try_for_each(|name| self.disk.remove(name))
        };
        forget().map_err(|error| format!("the index cannot be deleted: {error}"))
    }

    fn crash(&mut self) {
        let crash = if self.rng.u8(..) < 160 { Crash::PowerCut } else { Crash::Kill };
        self.report.power_cuts += u64::from(crash == Crash::PowerCut);
        self.settled = crash == Crash::PowerCut;
        self.disk.restart(crash);
    }

    fn settings(&mut self) -> Settings {
        Settings {
            limits: Limits::default(),
            clock: self.clock.clone(),
            birth: Some(Uuid::from_u128(u128::from(self.rng.u64(..)))),
            secret: Secret(self.rng.u64(..)),
            first_segment_bytes: 8192,
            segment_bytes: 16384,
            run_events: self.rng.u64(2..40),
            index_pages: Arc::new(PageCache::of_bytes(if self.rng.bool() { 64 << 10 } else { 8 << 10 })),
            bugs: self.bug.map(Bugs::only).unwrap_or_default(),
        }
    }

    /// Opens the log, perhaps through crashes, and sees that this destroys nothing.
    fn open(&mut self) -> Result<Arc<Log>, String> {
        self.check_runs()?;
        let found = Found::on(&self.disk).filter(|_| self.settled && self.rng.u8(..) < 64);
        let log = self.open_through_crashes()?;
        found.map_or(Ok(()), |found| found.is_kept(&self.disk))?;
        Ok(log)
    }

    /// A part of the index that has its name is whole, whatever a crash took.
    fn check_runs(&mut self) -> Result<(), String> {
        if self.rng.u8(..) >= 64 {
            return Ok(());
        }
        for name in self.disk.names().iter().filter(|name| Run::span_in(name).is_some()) {
            let run = Run::open_once(&self.disk, name).map_err(|error| format!("{name}: {error}"))?;
            let checked = Arc::new(run).check(|_| {}).map_err(|error| format!("{name}: {error}"))?;
            if let Some((offset, problem)) = checked.problems.first() {
                return Err(format!("{name} has its name, but {problem} at {offset}"));
            }
        }
        Ok(())
    }

    fn open_through_crashes(&mut self) -> Result<Arc<Log>, String> {
        for depth in 0..=DEPTH {
            if depth < DEPTH && self.rng.u8(..) < 64 {
                self.disk.crash_after(self.rng.u64(0..12));
            }
            let settings = self.settings();
            match Log::open(Arc::new(self.disk.clone()), settings) {
                Ok(log) => {
                    self.disk.crash_no_more();
                    return Ok(Arc::new(log));
                }
                Err(_) if self.disk.has_crashed() => {
                    self.report.in_recovery += 1;
                    self.crash();
                }
                Err(Error::StorageFull { .. }) if self.tight => {
                    // What was cut off needs a copy; the operator makes room.
                    self.disk.room(u64::MAX);
                }
                Err(error) => return Err(format!("the log does not open: {error}")),
            }
        }
        Log::open(Arc::new(self.disk.clone()), self.settings())
            .map(Arc::new)
            .map_err(|error| format!("the log does not open: {error}"))
    }

    /// Compares the log with what is known, and learns what became of the unknown.
    fn check(&mut self, log: &Log) -> Result<(), String> {
        let events = recorded(log).map_err(unreadable)?;
        if events.len() < self.known.len() {
            return Err(format!(
                "{} events were acknowledged or seen, {} are there",
                self.known.len(),
                events.len()
            ));
        }
        for ((position, id), event) in self.known.iter().zip(&events) {
            if (event.position, event.id) != (*position, *id) {
                return Err(format!(
                    "event {id} was at {position}; now {} is at {}",
                    event.id, event.position
                ));
            }
            self.check_content(event)?;
        }
        let unknown = std::mem::take(&mut self.unknown);
        let mut new = events[self.known.len()..].iter();
        let mut unknown_left = unknown.iter();
        while let Some(first) = new.as_slice().first() {
            let Some(sent) = unknown_left.find(|sent| sent.ids[0] == first.id) else {
                return Err(format!("event {} at {} is there, and should not be", first.id, first.position));
            };
            for id in &sent.ids {
                let event = new.next().filter(|event| event.id == *id);
                let event =
                    event.ok_or_else(|| format!("an append is there in part: event {id} is missing"))?;
                self.contents.insert(*id, sent.clone());
                self.check_content(event)?;
                self.known.push((event.position, *id));
            }
            self.report.unknown_found += 1;
        }
        self.revisions.clear();
        for event in &events {
            let revision = self.revisions.entry(event.stream.clone()).or_default();
            if event.revision != Revision(*revision) {
                return Err(format!(
                    "`{}` has revision {} where {revision} should be",
                    event.stream, event.revision
                ));
            }
            *revision += 1;
        }
        self.check_views(log, &events)
    }

    /// Whoever reads, and however, sees what is recorded, but for what is hidden.
    fn check_views(&mut self, log: &Log, recorded: &[RecordedEvent]) -> Result<(), String> {
        self.removed =
            recorded.iter().filter(|event| is_removed(event)).map(|event| event.position).collect();
        let streams = states(recorded).map_err(unreadable)?;
        let now = log.now();
        let shows = |event: &RecordedEvent| {
            let state = streams.get(&event.stream).copied().unwrap_or_default();
            state.shows(event.revision, event.recorded_at, now)
        };
        let visible: Vec<RecordedEvent> = recorded.iter().filter(|event| shows(event)).cloned().collect();
        if let Some(lost) = visible.iter().find(|event| is_removed(event)) {
            return Err(format!("event {} at {} was removed, and is not hidden", lost.id, lost.position));
        }
        let same = |read: Read, wanted: &dyn Fn(&RecordedEvent) -> bool| {
            let mut expected: Vec<_> = visible.iter().filter(|event| wanted(event)).cloned().collect();
            let shown = format!("{read:?}");
            if read.direction == factum::Direction::Backwards {
                expected.reverse();
            }
            let seen = read_to_end(log, read).map_err(unreadable)?;
            if seen == expected {
                return Ok(());
            }
            let (seen, expected) = (seen.len(), expected.len());
            Err(format!("a reader sees {seen} events where {expected} should be, or others: {shown}"))
        };
        same(Read::all(), &|_| true)?;
        if self.rng.bool() {
            same(Read::all().backwards(), &|_| true)?;
            same(Read::query(Query::category("s")), &|event| event.stream.category() == "s")?;
        }
        for (name, state) in streams.iter().filter(|_| self.rng.u8(..) < 64) {
            if log.stream_state(name).map_err(unreadable)? != *state {
                return Err(format!("the state of `{name}` is not what its events say"));
            }
            if state.life != StreamLife::Tombstoned {
                same(Read::stream(name.clone()), &|event| event.stream == *name)?;
                same(Read::stream(name.clone()).backwards(), &|event| event.stream == *name)?;
            }
        }
        Ok(())
    }

    /// What was recovered is sound to its last byte, the index included.
    fn check_every_byte(&mut self) -> Result<(), String> {
        if self.rng.u8(..) >= 32 {
            return Ok(());
        }
        let verified = verify_disk(&self.disk, &mut |_| {});
        let verified = verified.map_err(|error| format!("the log cannot be verified: {error}"))?;
        match verified.findings.first() {
            Some(finding) => Err(format!("verify finds fault with a sound log: {finding}")),
            None => Ok(()),
        }
    }

    fn check_content(&self, event: &RecordedEvent) -> Result<(), String> {
        let sent = self.contents.get(&event.id).and_then(|sent| {
            sent.append.events().find(|(_, new)| new.id == event.id).map(|(_, new)| (&sent.stream, new))
        });
        match sent {
            Some((stream, new)) if *stream == event.stream && found(new, event).same_content => Ok(()),
            _ => Err(format!("event {} at {} is not what was sent", event.id, event.position)),
        }
    }

    /// Appends, commits, marks and reads until the crash, or for a while.
    fn work(&mut self, log: &Arc<Log>) -> Result<(), String> {
        for _ in 0..self.rng.u8(1..6) {
            let mut sent = Outcomes::new();
            for _ in 0..self.rng.u8(1..4) {
                let request = self.request();
                submit(log, request, &mut sent)?;
            }
            // Others come, and read, while a sync is on its way.
            let late = Arc::new(Mutex::new(Ok(Outcomes::new())));
            let seen = Arc::new(Mutex::new(Vec::new()));
            if self.rng.bool() {
                let requests: Vec<Sent> = (0..self.rng.u8(1..4)).map(|_| self.request()).collect();
                let again = sent.first().map(|(sent, _)| sent.clone()).filter(|_| self.rng.bool());
                let (log, late, seen) = (log.clone(), late.clone(), seen.clone());
                let looks = self.rng.u8(..) < 64;
                self.disk.meanwhile(move || {
                    if looks && let Ok(events) = read_to_end(&log, Read::all()) {
                        *seen.lock().unwrap_or_else(PoisonError::into_inner) = events;
                    }
                    let mut late = late.lock().unwrap_or_else(PoisonError::into_inner);
                    let mut sent = Outcomes::new();
                    let all = requests.into_iter().chain(again);
                    *late = all
                        .into_iter()
                        .try_for_each(|request| submit(&log, request, &mut sent))
                        .map(|()| sent);
                });
            }
            while !self.disk.has_crashed() && log.commit() {}
            self.disk.nothing_meanwhile();
            let late = std::mem::replace(
                &mut *late.lock().unwrap_or_else(PoisonError::into_inner),
                Ok(Outcomes::new()),
            );
            sent.extend(late?);
            self.hear(sent)?;
            self.saw(&seen.lock().unwrap_or_else(PoisonError::into_inner))?;
            match self.rng.u8(0..13) {
                10 | 11 => self.scavenge(log)?,
                12 if !self.disk.has_crashed() => self.check_other_content(log)?,
                8 => while let Ok(true) = log.write_run() {},
                9 => drop(log.prepare_spare()),
                0 | 1 => log.mark(),
                2 => {
                    log.mark();
                    log.settle();
                }
                3 if !self.disk.has_crashed() && self.unknown.is_empty() => self.check_seen(log)?,
                _ => {}
            }
            if self.disk.has_crashed() {
                return Ok(());
            }
            let pause = if self.rng.u8(..) < 32 { 3_000 } else { 10 };
            self.clock.advance(Duration::from_millis(self.rng.u64(0..pause)));
            if self.rng.u8(..) < 8 {
                self.clock.set(Timestamp(factum::Clock::now(&*self.clock).0 - 2_000_000));
            }
        }
        Ok(())
    }

    /// Takes back space, while others append and read.
    fn scavenge(&mut self, log: &Arc<Log>) -> Result<(), String> {
        self.report.scavenges += 1;
        if self.rng.bool() {
            // A clock ahead of the last event may be set back.
            self.clock.advance(Duration::from_millis(self.rng.u64(0..3_000)));
        }
        let late = Arc::new(Mutex::new(Ok(Outcomes::new())));
        if self.rng.bool() {
            let requests: Vec<Sent> = (0..self.rng.u8(1..4)).map(|_| self.request()).collect();
            let (log, late, disk) = (log.clone(), late.clone(), self.disk.clone());
            self.disk.meanwhile(move || {
                let mut late = late.lock().unwrap_or_else(PoisonError::into_inner);
                let mut sent = Outcomes::new();
                let mut requests = requests.into_iter();
                *late = requests.try_for_each(|request| submit(&log, request, &mut sent)).map(|()| sent);
                while !disk.has_crashed() && log.commit() {}
            });
        }
        let mut steps = if self.rng.u8(..) < 32 { self.rng.u32(0..8) } else { u32::MAX };
        let percent = if self.rng.bool() { 0 } else { self.rng.u8(0..30) };
        let options = Scavenge::default().at_least_percent(percent);
        let done = log.scavenge(&options, &mut |_| {
            steps = steps.saturating_sub(1);
            if steps == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        self.disk.nothing_meanwhile();
        let late =
            std::mem::replace(&mut *late.lock().unwrap_or_else(PoisonError::into_inner), Ok(Outcomes::new()));
        self.hear(late?)?;
        match done {
            Ok(Scavenged { stopped: true, .. }) => self.report.scavenges_cut_short += 1,
            Ok(done) => {
                self.report.packed += done.segments.len() as u64;
                self.report.removed += done.events();
                if !self.disk.has_crashed() && self.unknown.is_empty() {
                    self.check_seen(log)?;
                }
            }
            Err(error) if self.disk.has_crashed() || self.failing && !matches!(error, Error::Corrupt(_)) => {
                self.report.scavenges_cut_short += 1;
            }
            Err(Error::StorageFull { .. }) if self.tight => self.report.scavenges_cut_short += 1,
            Err(error) => return Err(format!("a scavenge fails for no reason: {error}")),
        }
        Ok(())
    }

    /// The id of a recorded event does not come again with other content, even if the event was removed.
    fn check_other_content(&mut self, log: &Log) -> Result<(), String> {
        if self.known.is_empty() {
            return Ok(());
        }
        let (position, id) = self.known[self.rng.usize(0..self.known.len())];
        let Some(Sent { stream, .. }) = self.contents.get(&id) else { return Ok(()) };
        let other = NewEvent::bytes("Other", "").map_err(unreadable)?.with_id(id);
        let mut answer = log.submit(Append::to(stream.clone(), [other])).map_err(unreadable)?;
        while !self.disk.has_crashed() && log.commit() {}
        match answer.try_recv() {
            Ok(Err(Error::IdConflict { .. })) => {
                self.report.removed_known_again += u64::from(self.removed.contains(&position));
                Ok(())
            }
            _ if self.disk.has_crashed() => Ok(()),
            other => Err(format!("an id that is recorded was taken with other content: {other:?}")),
        }
    }

    /// An append that changes a stream's life.
    fn life_change(&mut self) -> Sent {
        let described = self.rng.u8(0..4);
        let change = match self.rng.u8(0..16) {
            0..6 => LifeChange::Retention(Retention {
                truncate_before: self.rng.bool().then(|| Revision(self.rng.u64(0..40))),
                max_count: self.rng.bool().then(|| self.rng.u64(0..6)),
                max_age_seconds: self.rng.bool().then(|| self.rng.u64(0..4)),
            }),
            15 if described == 3 => LifeChange::Tombstoned,
            _ => LifeChange::Deleted,
        };
        let stream = StreamName::from_store(format!("$$s-{described}").into());
        let id = EventId(Uuid::from_u128(self.rng.u128(..)));
        let events: Vec<NewEvent> = change.to_event().map(|event| event.with_id(id)).into_iter().collect();
        Sent { append: Append::to(stream.clone(), events), ids: vec![id], stream }
    }

    /// An append of one to three events, sometimes one that was acknowledged before, or that hides others.
    fn request(&mut self) -> Sent {
        if self.rng.u8(..) < 24 {
            return self.life_change();
        }
        if !self.known.is_empty() && self.rng.u8(..) < 20 {
            let (_, id) = self.known[self.rng.usize(0..self.known.len())];
            if let Some(sent) = self.contents.get(&id) {
                return sent.clone();
            }
        }
        let stream = StreamName::from_store(format!("s-{}", self.rng.u8(0..4)).into());
        let large = self.rng.u8(..) < 20;
        let mut ids = Vec::new();
        let mut events = Vec::new();
        for _ in 0..self.rng.u8(1..4) {
            let id = EventId(Uuid::from_u128(self.rng.u128(..)));
            let size = self.rng.usize(0..if large { 3000 } else { 300 });
            let data: Vec<u8> = std::iter::repeat_with(|| self.rng.u8(..)).take(size).collect();
            if let Ok(event) = NewEvent::bytes("E", data) {
                ids.push(id);
                events.push(event.with_id(id));
            }
        }
        let mut append = Append::to(stream.clone(), events);
        if self.rng.bool() {
            let expected = match self.revisions.get(&stream) {
                None | Some(0) => ExpectedRevision::NoStream,
                Some(next) => ExpectedRevision::Exact(Revision(next - 1)),
            };
            append = append.expect(stream.clone(), expected);
        }
        Sent { stream, ids, append }
    }

    /// Takes note of the answers.
    fn hear(&mut self, sent: Outcomes) -> Result<(), String> {
        for (sent, mut answer) in sent {
            match answer.try_recv() {
                Ok(Ok(appended)) => self.acknowledged(&sent, &appended)?,
                Ok(Err(error)) => match error {
                    error if error.outcome() == Outcome::No && self.may_have_happened(&sent) => {
                        return Err(format!("an append that may be there is said not to be: {error}"));
                    }
                    error if error.outcome() == Outcome::Unknown => {
                        self.report.left_by_failure += 1;
                        self.leave_unknown(sent);
                    }
                    Error::StorageFull { .. } if self.tight => {
                        self.report.disk_full += 1;
                        self.disk.room(u64::MAX);
                    }
                    Error::Tombstoned { .. } if sent.stream.ends_with("s-3") => {}
                    Error::Conflict(_) | Error::Unavailable { .. } => {}
                    Error::Poisoned { .. } if self.failing => {}
                    _ if self.disk.has_crashed() => {}
                    other => return Err(format!("an append was refused for no reason: {other}")),
                },
                Err(_) => self.leave_unknown(sent),
            }
        }
        Ok(())
    }

    fn may_have_happened(&self, sent: &Sent) -> bool {
        self.contents.contains_key(&sent.ids[0]) || self.unknown.iter().any(|other| other.ids == sent.ids)
    }

    fn acknowledged(&mut self, sent: &Sent, appended: &Appended) -> Result<(), String> {
        self.report.acknowledged += 1;
        let places = appended.events.iter().map(|place| place.position).zip(sent.ids.iter().copied());
        if appended.replayed {
            for place in places {
                self.report.removed_known_again += u64::from(self.removed.contains(&place.0));
                if !self.known.contains(&place) {
                    return Err(format!(
                        "a replay says that event {} is at {}, which it is not",
                        place.1, place.0
                    ));
                }
            }
            return Ok(());
        }
        for place in places {
            // A small append may go before a large one that waits.
            let at = self.known.partition_point(|known| known.0 < place.0);
            self.known.insert(at, place);
            self.contents.insert(place.1, sent.clone());
            *self.revisions.entry(sent.stream.clone()).or_default() += 1;
        }
        Ok(())
    }

    fn leave_unknown(&mut self, sent: Sent) {
        if !self.may_have_happened(&sent) {
            self.report.unknown += 1;
            self.unknown.push(sent);
        }
    }

    /// Takes note of what a reader saw: that must stay, even if whoever sent it does not know.
    fn saw(&mut self, events: &[RecordedEvent]) -> Result<(), String> {
        for event in events {
            let Err(place) = self.known.binary_search(&(event.position, event.id)) else { continue };
            let sent = self.unknown.iter().find(|sent| sent.ids.contains(&event.id)).cloned();
            let sent = sent.ok_or_else(|| format!("a reader saw event {}, which is not there", event.id))?;
            self.contents.insert(event.id, sent);
            self.known.insert(place, (event.position, event.id));
        }
        Ok(())
    }

    /// A reader sees what was acknowledged, all of it and nothing else.
    fn check_seen(&mut self, log: &Log) -> Result<(), String> {
        let events = recorded(log).map_err(unreadable)?;
        let seen: Vec<Known> = events.iter().map(|event| (event.position, event.id)).collect();
        if seen == self.known {
            self.check_views(log, &events)
        } else {
            Err("other events are recorded than were acknowledged".into())
        }
    }

    /// Closes the log in good order, or leaves it alone for a while, then flips a bit: that is noticed, or it does no harm.
    fn end_with_rot(&mut self) -> Result<(), String> {
        let log = self.open()?;
        self.check(&log)?;
        if self.rng.bool() {
            log.close().map_err(|error| format!("the log does not close: {error}"))?;
        } else {
            self.work(&log)?;
            log.mark();
            log.settle();
        }
        let segments: Vec<u32> =
            (1..).take_while(|n| self.disk.contents(&Segment::name(*n)).is_some()).collect();
        drop(log);
        self.disk.restart(Crash::PowerCut);
        // The end is where damage looks most like what a crash leaves.
        let at_the_end = self.rng.bool();
        let n = if at_the_end { segments.len() - 1 } else { self.rng.usize(0..segments.len()) };
        let name = Segment::name(segments[n]);
        let used = self
            .disk
            .contents(&name)
            .map_or(0, |c| c.iter().rposition(|&byte| byte != 0).unwrap_or(0) as u64);
        let first = if at_the_end { used.saturating_sub(400) } else { 0 };
        self.disk.rot(&name, self.rng.u64(first..=used), self.rng.u8(..));
        let is_packed = self.disk.contents(&name).is_some_and(|c| crate::packed::Packed::begins_like_one(&c));
        self.report.rot_in_packed += u64::from(is_packed);
        match Log::open(Arc::new(self.disk.clone()), self.settings()) {
            Err(Error::Corrupt(_)) => {
                self.report.rot_refused += 1;
                Ok(())
            }
            Err(other) => Err(format!("a flipped bit is called something else: {other}")),
            Ok(log) => match read_to_end(&log, Read::all()).and_then(|_| recorded(&log)) {
                Err(Error::Corrupt(_)) => {
                    self.report.rot_refused += 1;
                    Ok(())
                }
                _ => {
                    self.report.rot_harmless += 1;
                    self.check(&log)
                }
            },
        }
    }

    /// Works on a disk that lies about syncs, then cuts the power: what is lost is noticed, or is the end of the log.
    fn end_with_lies(&mut self) -> Result<(), String> {
        let log = self.open()?;
        self.check(&log)?;
        self.disk.syncs(0, 128);
        self.work(&log)?;
        drop(log);
        self.disk.syncs(0, 0);
        self.disk.restart(Crash::PowerCut);
        // What the index vouched for is not read on opening: that it is missing shows when it is read.
        let found = Log::open(Arc::new(self.disk.clone()), self.settings()).and_then(|log| {
            read_to_end(&log, Read::all())?;
            recorded(&log)
        });
        match found {
            Err(Error::Corrupt(_)) => {
                self.report.lies_refused += 1;
                Ok(())
            }
            Err(other) => Err(format!("a lying disk is called something else: {other}")),
            Ok(events) => {
                self.report.lies_unnoticed += 1;
                let there: Vec<Known> = events.iter().map(|event| (event.position, event.id)).collect();
                let some = there.len().min(self.known.len());
                if there[..some] == self.known[..some] {
                    Ok(())
                } else {
                    Err("a lying disk has changed history".into())
                }
            }
        }
    }
}

fn submit(log: &Log, request: Sent, sent: &mut Outcomes) -> Result<(), String> {
    match log.submit(request.append.clone()) {
        Ok(answer) => sent.push((request, answer)),
        Err(error) if error.outcome() == Outcome::No => {}
        Err(error) => return Err(format!("an append that was not taken is called unknown: {error}")),
    }
    Ok(())
}

/// Everything that is recorded, hidden or not, and what is left of what was removed.
fn recorded(log: &Log) -> factum::Result<Vec<RecordedEvent>> {
    let (segments, ends): (_, Vec<u64>) = {
        let durable = log.durable();
        let ends = (0..durable.segments.len()).map(|n| durable.end_of(n)).collect();
        (durable.segments.clone(), ends)
    };
    let mut events = Vec::new();
    for (segment, end) in segments.iter().zip(ends) {
        segment.check_table()?;
        read::walk(segment, SEGMENT_HEADER, end, |frame| {
            let checked = frame.checked(segment);
            events.extend(checked.map_err(|damage| segment.corrupt(frame.offset, None, damage))?);
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(events)
}

/// How events leave the streams.
fn states(events: &[RecordedEvent]) -> factum::Result<BTreeMap<StreamName, StreamState>> {
    let mut states: BTreeMap<StreamName, StreamState> = BTreeMap::new();
    for event in events {
        states.entry(event.stream.clone()).or_default().written();
        if !is_removed(event)
            && let Some((described, change)) =
                LifeChange::of_event(&event.stream, &event.event_type, &event.data)?
        {
            states.entry(described).or_default().described(&change, event.recorded_at);
        }
    }
    Ok(states)
}

fn read_to_end(log: &Log, mut read: Read) -> factum::Result<Vec<RecordedEvent>> {
    let mut events = Vec::new();
    loop {
        let page = read::page(log, &read)?;
        events.extend(page.events);
        match page.next {
            Some(next) => read.start = next,
            None => return Ok(events),
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn unreadable(error: Error) -> String {
    format!("the log cannot be read: {error}")
}
