//! The log: appends are decided in order against what is in memory, made durable together, and only then seen or answered.
//!
//! ```text
//! submit ──▶ open batch ──commit──▶ in flight ──write, sync──▶ durable ──▶ readers
//!              decided, invisible     invisible                 answered
//! ```
//!
//! Nothing in here starts a thread: [`Log::submit`] may be called from many, [`Log::commit`] and its like from one.

mod decided;
mod indexing;
mod look;
pub mod scavenge;
mod waiting;

use std::{
    io::ErrorKind,
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard},
    time::Duration,
};

use factum::{
    Append, Appended, Clock, Durability, Error, Guard, Limits, LogIdentity, Outcome, Placed, Position,
    RecordedEvent, Result, StreamName, StreamState, Timestamp,
    admission::{Admission, Ledger, admit, recorded_already},
};
use metrics::histogram;
use tokio::sync::{oneshot, watch};

use self::{
    decided::Decided,
    look::{Look, not_looking},
    waiting::Waiting,
};
use crate::{
    batch::{Answer, Batch, Request},
    bugs::{Bug, Bugs},
    disk::{Disk, LOCK, Ownership, explain},
    format::{FRAME_HEADER, SEGMENT_HEADER, SegmentHeader},
    index::{Layers, PageCache, Secret, Settled},
    manifest::{self, Manifest},
    read,
    recovery::{Birth, Recovered, Recovery, SPARE, Unmade, make_segment, recover},
    segment::Segment,
    sparse::Sparse,
};

/// Bytes of a batch beyond which it matters little how a segment was prepared.
const LARGE_BATCH: u64 = 256 << 10;

/// How a log is opened.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What an append may be at most.
    pub limits: Limits,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// The id of the log, if there is none yet and one may be begun.
    pub birth: Option<uuid::Uuid>,
    /// What the index makes its hashes with, if it begins anew.
    pub secret: Secret,
    /// Bytes of the first segment; each next one has twice as many.
    pub first_segment_bytes: u64,
    /// Bytes of a segment, at most (but for one made for a single large append).
    pub segment_bytes: u64,
    /// Events that are indexed in memory before they are written to a run.
    pub run_events: u64,
    /// Pages of the index that are kept in memory.
    pub index_pages: Arc<PageCache>,
    /// A mistake to make.
    pub bugs: Bugs,
}

/// A log that is open.
#[derive(Debug)]
pub struct Log {
    pub disk: Arc<dyn Disk>,
    ownership: Box<dyn Ownership>,
    secret: Secret,
    settings: Settings,
    desk: Mutex<Desk>,
    /// Tells the committing thread that there is something to do.
    work: Condvar,
    /// Tells the indexing thread that there is something to do.
    frozen: Condvar,
    tail: Mutex<Tail>,
    /// The length of the file that is ready for the next segment.
    spare: Mutex<Option<u64>>,
    durable: RwLock<Durable>,
    /// Held by whoever changes the files of the index.
    index_work: Mutex<()>,
    head: watch::Sender<Position>,
    /// Where scans stopped within a frame.
    pub interrupted: read::Interruptions,
    /// What opening it did.
    pub recovery: Recovery,
}

/// Where appends are decided.
#[derive(Debug)]
struct Desk {
    open: Batch,
    /// For the bytes of the batch after the open one.
    buffer: Vec<u8>,
    in_flight: Option<Arc<Batch>>,
    /// What is answered when the open batch is durable, and when the one in flight is.
    open_answers: Vec<Answer>,
    in_flight_answers: Vec<Answer>,
    /// Appends for which there is no room in the open batch.
    waiting: Waiting,
    last_recorded_at: Timestamp,
    /// Bytes of a batch, of late.
    usual_batch: u64,
    /// Whether a new segment is being made, so that nothing may come into the open batch.
    rolling: bool,
    refusal: Option<Error>,
    /// The batch of which nobody knows whether it is on the disk, once a write or sync has failed.
    doubtful: Option<Arc<Batch>>,
    closing: bool,
}

/// What the committing thread knows of the end of the log.
#[derive(Debug)]
struct Tail {
    /// Everything before this position is durable.
    synced_upto: u64,
    /// Whether a mark was written that no sync has carried yet.
    mark_unsynced: bool,
    /// Whether anything on the disk says that the last frame is durable.
    witnessed: bool,
}

/// What readers see.
#[derive(Debug)]
pub struct Durable {
    /// The log and its epoch.
    pub log: LogIdentity,
    /// Its segments, in order.
    pub segments: Arc<Vec<Arc<Segment>>>,
    /// Where frames begin.
    pub sparse: Sparse,
    /// Where to find everything, also what is not durable yet.
    pub index: Layers,
    /// The position beyond the last frame.
    pub end: u64,
    /// The last event, and when that was recorded.
    pub last: Option<(Position, Timestamp)>,
}

impl Durable {
    /// The last position; [`Position::START`] in an empty log.
    pub fn head(&self) -> Position {
        self.last.map_or(Position::START, |(position, _)| position)
    }

    /// The state of a stream.
    ///
    /// # Errors
    /// Those of the index.
    pub fn state(&self, stream: u128) -> Result<StreamState> {
        let newest = self.index.newest_durable_state(stream, self.end);
        let state = newest.map_or_else(|| self.index.settled().state(stream, self.end), |it| Ok(Some(it)))?;
        Ok(state.unwrap_or_default())
    }

    /// The number of the segment that holds `position`, counted from 0.
    pub fn segment_at(&self, position: Position) -> usize {
        self.segments.partition_point(|segment| segment.header.base <= position.0).saturating_sub(1)
    }

    /// The position beyond the last frame of a segment, counted from 0.
    pub fn end_of(&self, segment: usize) -> u64 {
        self.segments.get(segment + 1).map_or(self.end, |next| next.header.previous_end)
    }

    /// The answer to an append. One without events is seen by a reader who has come as far as the log.
    fn appended(&self, events: Vec<Placed>, replayed: bool) -> Appended {
        let position = events.iter().map(|event| event.position).max().unwrap_or_else(|| self.head());
        Appended { events, token: self.log.at(position), replayed, durability: Durability::Synced }
    }

    fn event(&self, position: Position) -> Result<RecordedEvent> {
        self.segments[self.segment_at(position)].event(position)
    }
}

impl Log {
    /// Opens the log of a directory, as its only owner.
    ///
    /// # Errors
    /// [`Error::Fenced`] if it has an owner, and those of recovery.
    pub fn open(disk: Arc<dyn Disk>, settings: Settings) -> Result<Self> {
        let ownership =
            disk.lock().map_err(|error| match explain(&error, "lock", &disk.path_of(LOCK), Outcome::No) {
                Error::Fenced { by, .. } => Error::Fenced { what: disk.path_of(""), by },
                other => other,
            })?;
        let birth =
            settings.birth.map(|log_id| Birth { log_id, segment_bytes: settings.first_segment_bytes });
        let found = recover(&*disk, birth, &settings)?;
        let last = found.segments[found.segments.len() - 1].clone();
        let manifest = Manifest {
            log_id: found.log.log_id,
            epoch: found.log.epoch,
            last_segment: last.header.number,
            durable_upto: found.end,
            clean: false,
        };
        let path = disk.path_of(manifest::NAME);
        match manifest.replace(&*disk) {
            // What it said must not stand, and needs no room to go: then the log can at least be read.
            Err(error) if error.kind() == ErrorKind::StorageFull => Manifest::remove(&*disk),
            result => result,
        }
        .map_err(|error| explain(&error, "write", &path, Outcome::No))?;
        Ok(Self::serve(disk, ownership, settings, found, last))
    }

    fn serve(
        disk: Arc<dyn Disk>,
        ownership: Box<dyn Ownership>,
        settings: Settings,
        found: Recovered,
        last: Arc<Segment>,
    ) -> Self {
        let Recovered { log, segments, index, sparse, end, next_frame, last_recorded_at, recovery } = found;
        let desk = Desk {
            open: Batch::new(last, end, next_frame, index.events(), Vec::new()),
            buffer: Vec::new(),
            in_flight: None,
            open_answers: Vec::new(),
            in_flight_answers: Vec::new(),
            waiting: Waiting::default(),
            last_recorded_at,
            usual_batch: 0,
            rolling: false,
            refusal: None,
            doubtful: None,
            closing: false,
        };
        let index_secret = index.secret;
        let last = index.last();
        let durable = Durable { log, segments: Arc::new(segments), sparse, index, end, last };
        Self {
            disk,
            ownership,
            secret: index_secret,
            settings,
            desk: Mutex::new(desk),
            work: Condvar::new(),
            frozen: Condvar::new(),
            spare: Mutex::new(None),
            tail: Mutex::new(Tail { synced_upto: end, mark_unsynced: false, witnessed: true }),
            head: watch::Sender::new(durable.head()),
            interrupted: read::Interruptions::default(),
            durable: RwLock::new(durable),
            index_work: Mutex::new(()),
            recovery,
        }
    }

    /// What an append may be at most.
    pub fn limits(&self) -> Limits {
        self.settings.limits
    }

    /// The present moment for readers: never earlier than what they see, or a clock that is turned back would show again what
    /// was too old.
    pub fn now(&self) -> Timestamp {
        let seen = self.durable().last.map_or(Timestamp(i64::MIN), |(_, at)| at);
        self.settings.clock.now().max(seen)
    }

    /// What readers see.
    pub fn durable(&self) -> Look<'_> {
        Look::at(&self.durable)
    }

    /// The state of a stream.
    ///
    /// # Errors
    /// Those of the index.
    pub fn stream_state(&self, stream: &StreamName) -> Result<StreamState> {
        let stream = self.secret.stream(stream);
        self.mending(|| {
            let (settled, end) = {
                let durable = self.durable();
                if let Some(state) = durable.index.newest_durable_state(stream, durable.end) {
                    return Ok(state);
                }
                (durable.index.settled(), durable.end)
            };
            // Runs are read outside of the lock.
            Ok(settled.state(stream, end)?.unwrap_or_default())
        })
    }

    /// Follows the last position that can be read.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Encodes an append.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`].
    pub fn encode(&self, append: Append) -> Result<(Request, oneshot::Receiver<Result<Appended>>)> {
        self.settings.limits.check(&append)?;
        let (reply, answer) = oneshot::channel();
        Ok((Request::new(append, reply, self.secret), answer))
    }

    /// Looks up what a request rests on, as far as that does not change any more, so that nobody has to wait for it.
    ///
    /// # Errors
    /// Those of the index.
    pub fn look_up(&self, request: &mut Request) -> Result<()> {
        self.mending(|| self.look_up_once(request))
    }

    fn look_up_once(&self, request: &mut Request) -> Result<()> {
        let (settled, end) = {
            let durable = self.durable();
            (durable.index.settled(), Position(durable.end))
        };
        request.look_up(&settled).map_err(unseen)?;
        // The rest is only so that it is in memory when it is decided on.
        let _ = self.warm_up(request, &settled, end);
        Ok(())
    }

    fn warm_up(&self, request: &Request, settled: &Settled, end: Position) -> Result<()> {
        for guard in &request.append.guards {
            if let Guard::Query { query, after } = guard
                && after.position.0 < settled.end
                && let Some(places) = settled.places(query, after.position, end)?
                && let Some(place) = places.previous(end, after.position)?
            {
                // One guard at a time: whoever holds one and asks for another
                // waits for a writer that waits for the first.
                let segment = {
                    let durable = self.durable();
                    durable.segments[durable.segment_at(place)].clone()
                };
                segment.event(place)?;
            }
        }
        Ok(())
    }

    /// Takes an append. The answer comes once a commit has made durable what it rests on.
    ///
    /// # Errors
    /// Those that need no look at the log, and those of the index.
    #[cfg(feature = "sim")]
    pub fn submit(&self, append: Append) -> Result<oneshot::Receiver<Result<Appended>>> {
        let (mut request, answer) = self.encode(append)?;
        self.look_up(&mut request)?;
        self.take(request);
        Ok(answer)
    }

    /// Takes a request.
    pub fn take(&self, request: Request) {
        let mut desk = self.desk();
        if let Some(refusal) = desk.refusal.clone() {
            let result = self.refuse(&desk, &request, &refusal);
            Answer { reply: request.reply, result }.give();
            return;
        }
        let wait =
            desk.rolling || desk.waits_for_segment() || (!desk.waiting.is_empty() && !request.is_small());
        if desk.waiting.has_any_of(&request) {
            // What becomes of the one that was sent first is not decided yet.
            desk.waiting.push(request);
        } else {
            self.decide(&mut desk, request, wait);
        }
        let work = desk.has_work() && desk.in_flight.is_none();
        drop(desk);
        if work {
            self.work.notify_one();
        }
    }

    /// Decides on a request. What is admitted joins the open batch; if that has no room for it, or others wait already, it
    /// waits and is decided on again.
    fn decide(&self, desk: &mut Desk, request: Request, wait: bool) {
        let now = self.settings.clock.now().max(desk.last_recorded_at);
        let mut durable = self.durable_mut();
        let ledger = Decided { desk, durable: &durable, request: &request, only_durable: false };
        let result = match admit(&request.append, &self.settings.limits, &ledger, now) {
            Err(refused) => Err(unseen(refused)),
            Ok(Admission::Replayed(events)) => Ok(durable.appended(events, true)),
            Ok(Admission::New) if request.append.event_count() == 0 => {
                Ok(Appended { token: durable.log.at(ledger.head()), ..durable.appended(Vec::new(), false) })
            }
            Ok(Admission::New) if wait || !desk.open.has_room_for(&request) => {
                desk.waiting.push(request);
                return;
            }
            Ok(Admission::New) => {
                desk.last_recorded_at = now;
                let placed = desk.open.record(&request, now, &mut durable.index);
                placed.map(|events| durable.appended(events, false))
            }
        };
        drop(durable);
        let answer = Answer { reply: request.reply, result };
        if self.settings.bugs.has(Bug::ReplayBeforeSync) && answer.is_replay() {
            return answer.give();
        }
        desk.answer_when_durable(answer);
    }

    /// Writes what was decided, syncs it, shows it to readers and answers. `false` if there was nothing to do.
    pub fn commit(&self) -> bool {
        let mut tail = self.tail();
        let Some((batch, answers)) = self.take_open(tail.synced_upto) else {
            return self.make_room(&mut tail);
        };
        let answers = if self.settings.bugs.has(Bug::AckBeforeSync) {
            answers.into_iter().for_each(Answer::give);
            Vec::new()
        } else {
            answers
        };
        if self.settings.bugs.has(Bug::ShowBeforeSync) {
            self.publish(&batch);
        }
        #[allow(
            clippy::disallowed_methods,
            reason = "it is measured for whoever looks, and nothing depends on it"
        )]
        let begun = std::time::Instant::now();
        if let Err(error) = self.write_and_sync(&batch) {
            self.poison(&error, answers);
            return true;
        }
        histogram!("factum_log_commit_seconds").record(begun.elapsed());
        histogram!("factum_log_commit_bytes").record(batch.to_write().len() as f64);
        histogram!("factum_log_commit_appends").record(answers.len() as f64);
        *tail = Tail { synced_upto: batch.end(), mark_unsynced: false, witnessed: false };
        self.publish(&batch);
        let more = self.desk().landed(batch);
        answers.into_iter().chain(more).for_each(Answer::give);
        self.admit_waiting();
        true
    }

    fn write_and_sync(&self, batch: &Batch) -> Result<()> {
        let Segment { file, path, .. } = &*batch.segment;
        let failed = |doing| move |error| explain(&error, doing, path, Outcome::Unknown);
        file.write_at(batch.to_write(), batch.offset()).map_err(failed("write"))?;
        match file.sync() {
            Err(_) if self.settings.bugs.has(Bug::RetryAfterFailedSync) => file.sync(),
            result => result,
        }
        .map_err(failed("sync"))
    }

    /// Takes the open batch on its way to the disk, if anything is in it.
    fn take_open(&self, synced_upto: u64) -> Option<(Arc<Batch>, Vec<Answer>)> {
        let mut desk = self.desk();
        if desk.open.is_empty() {
            return None;
        }
        let buffer = mem::take(&mut desk.buffer);
        let next = desk.open.following(buffer);
        let mut batch = mem::replace(&mut desk.open, next);
        desk.usual_batch = (desk.usual_batch * 7 + batch.end() - batch.start) / 8;
        let mut durable = self.durable_mut();
        durable.index.taken();
        // Nothing beyond this batch is in memory yet, so here one part can end.
        let log_id = durable.log.log_id;
        durable.index.freeze(self.settings.run_events, batch.end(), batch.number + 1, log_id);
        drop(durable);
        let answers = mem::take(&mut desk.open_answers);
        batch.seal(synced_upto, desk.last_recorded_at);
        let batch = Arc::new(batch);
        desk.in_flight = Some(batch.clone());
        // Those that waited come first: small ones that came meanwhile must not leave them without room once more.
        while let Some(request) = desk.next_waiting() {
            self.decide(&mut desk, request, false);
        }
        Some((batch, answers))
    }

    fn publish(&self, batch: &Batch) {
        let mut durable = self.durable_mut();
        durable.index.landed();
        durable.end = batch.end();
        durable.last = batch.last.or(durable.last);
        durable.sparse.add(batch.start, batch.first_recorded_at);
        if durable.index.frozen(batch.end()).is_some() {
            self.frozen.notify_one();
        }
        self.head.send_replace(durable.head());
    }

    /// Waits until a part of the index was frozen, for so long at most. `false` when the log is closing.
    pub fn wait_for_frozen(&self, at_most: Duration) -> bool {
        let desk = self.desk();
        if desk.closing {
            return false;
        }
        let (desk, _) = self.frozen.wait_timeout(desk, at_most).unwrap_or_else(PoisonError::into_inner);
        !desk.closing
    }

    /// Whether the next segment will be needed before long.
    pub fn half_full(&self) -> bool {
        let desk = self.desk();
        let segment = &desk.open.segment;
        desk.open.start - segment.header.base > segment.header.capacity / 4
    }

    /// Makes the file of the next segment ahead of time, if there is none: making it takes long. `false` if there was nothing to
    /// do.
    ///
    /// # Errors
    /// Those of the disk. The segment is then made when it is needed.
    pub fn prepare_spare(&self) -> Result<bool> {
        let (capacity, in_large_pieces) = {
            let desk = self.desk();
            (next_capacity(&desk.open.segment, &self.settings), desk.usual_batch > LARGE_BATCH)
        };
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if *spare == Some(capacity) || self.desk().refusal.is_some() {
            return Ok(false);
        }
        *spare = None;
        let path = self.disk.path_of(SPARE);
        let make = || {
            if self.disk.list()?.iter().any(|name| name == SPARE) {
                self.disk.remove(SPARE)?;
            }
            if in_large_pieces {
                self.disk.reserve(SPARE, capacity)
            } else {
                self.disk.create(SPARE, capacity)
            }
        };
        make().map_err(|error| explain(&error, "make", &path, Outcome::No))?;
        *spare = Some(capacity);
        Ok(true)
    }

    /// Gives the spare file to a new segment, if it is there and of the right length.
    fn use_spare(&self, number: u32, capacity: u64) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.take() == Some(capacity) {
            // If that fails, the segment is made as if there were none.
            let _ = self.disk.rename(SPARE, &format!("{}.new", Segment::name(number)));
        }
    }

    fn durable_mut(&self) -> RwLockWriteGuard<'_, Durable> {
        not_looking();
        self.durable.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides on those who waited, as far as there is room now.
    fn admit_waiting(&self) {
        let mut desk = self.desk();
        while let Some(request) = desk.next_waiting() {
            self.decide(&mut desk, request, false);
        }
    }

    /// Begins a new segment if somebody waits for room that the present one does not have. `false` if nobody waits.
    fn make_room(&self, tail: &mut Tail) -> bool {
        self.admit_waiting();
        let needed = {
            let mut desk = self.desk();
            match desk.waiting.first().map(Request::frame_bytes) {
                Some(needed) if desk.open.is_empty() => {
                    desk.rolling = true;
                    needed
                }
                _ => return desk.has_work(),
            }
        };
        let rolled = self.roll(tail, needed);
        self.desk().rolling = false;
        match rolled {
            Ok(()) => self.admit_waiting(),
            Err(Unmade::Unknown(error)) => self.poison(&error, Vec::new()),
            Err(Unmade::Absent(error)) if self.settings.bugs.has(Bug::PoisonedByFullDisk) => {
                self.poison(&error, Vec::new());
            }
            Err(Unmade::Absent(error)) => {
                let mut desk = self.desk();
                for request in desk.waiting.take() {
                    let result = self.refuse(&desk, &request, &error);
                    Answer { reply: request.reply, result }.give();
                }
            }
        }
        true
    }

    /// Begins a new segment. Nothing is in the open batch, and nothing can come into it meanwhile.
    fn roll(&self, tail: &mut Tail, needed: u64) -> Result<(), Unmade> {
        let (old, end, next_frame, events_before, last_recorded_at) = {
            let desk = self.desk();
            let open = &desk.open;
            (open.segment.clone(), open.start, open.number, open.events_before, desk.last_recorded_at)
        };
        if !self.settings.bugs.has(Bug::RollWithoutSync) {
            self.sync_mark(tail).map_err(Unmade::Unknown)?;
        }
        let unreadable =
            |error| Unmade::Absent(explain(&error, "read", &self.disk.path_of(LOCK), Outcome::No));
        if !self.ownership.still_mine().map_err(unreadable)? {
            let by = "a process that opened it later".to_owned();
            return Err(Unmade::Unknown(Error::Fenced { what: self.disk.path_of(""), by }));
        }
        let header = SegmentHeader {
            log: self.durable().log,
            number: old.header.number + 1,
            base: end,
            capacity: next_capacity(&old, &self.settings)
                .max((SEGMENT_HEADER + needed).next_multiple_of(SEGMENT_HEADER)),
            first_frame: next_frame,
            events_before,
            previous_end: end,
            last_recorded_at,
        };
        self.use_spare(header.number, header.capacity);
        let made = match make_segment(&*self.disk, header, self.settings.bugs) {
            Err(Unmade::Unknown(error)) if self.settings.bugs.has(Bug::GoOnAfterFailedRoll) => {
                return Err(Unmade::Absent(error));
            }
            made => made?,
        };
        let segment = Arc::new(made);
        *tail = Tail { synced_upto: end, mark_unsynced: false, witnessed: true };
        {
            let mut durable = self.durable_mut();
            let mut segments = durable.segments.to_vec();
            segments.push(segment.clone());
            durable.segments = Arc::new(segments);
            durable.end = segment.first();
        }
        self.desk().open =
            Batch::new(segment.clone(), segment.first(), next_frame, events_before, Vec::new());
        // The header of the new segment says all this too: the manifest may fail.
        let _ = self.write_manifest(&segment, end, false);
        Ok(())
    }

    fn write_manifest(&self, last: &Segment, durable_upto: u64, clean: bool) -> std::io::Result<()> {
        let LogIdentity { log_id, epoch } = self.durable().log;
        let last_segment = last.header.number;
        Manifest { log_id, epoch, last_segment, durable_upto, clean }.replace(&*self.disk)
    }

    /// Writes a mark, if the last frame has no witness yet and nothing else will be one soon.
    pub fn mark(&self) {
        let mut tail = self.tail();
        if tail.witnessed || self.settings.bugs.has(Bug::NoMark) {
            return;
        }
        let Some(mark) = self.desk().take_mark(tail.synced_upto) else { return };
        match mark.segment.file.write_at(mark.to_write(), mark.offset()) {
            Ok(()) => {
                tail.mark_unsynced = true;
                tail.witnessed = true;
                let mut durable = self.durable_mut();
                durable.end = mark.end();
            }
            Err(error) => {
                self.poison(&explain(&error, "write", &mark.segment.path, Outcome::Unknown), Vec::new());
            }
        }
    }

    /// Makes the last mark durable, if no other sync did.
    pub fn settle(&self) {
        let mut tail = self.tail();
        if self.is_broken() {
            return;
        }
        if let Err(error) = self.sync_mark(&mut tail) {
            self.poison(&error, Vec::new());
        }
    }

    /// Whether nothing may be written or synced any more.
    fn is_broken(&self) -> bool {
        let goes_on = self.settings.bugs.has(Bug::GoOnAfterFailedSync);
        !goes_on && matches!(self.desk().refusal, Some(Error::Poisoned { .. } | Error::Fenced { .. }))
    }

    fn sync_mark(&self, tail: &mut Tail) -> Result<()> {
        if tail.mark_unsynced {
            let (segment, end) = {
                let desk = self.desk();
                (desk.open.segment.clone(), desk.open.start)
            };
            let synced = segment.file.sync();
            synced.map_err(|error| explain(&error, "sync", &segment.path, Outcome::Unknown))?;
            *tail = Tail { synced_upto: end, mark_unsynced: false, witnessed: true };
        }
        Ok(())
    }

    /// Takes no more appends, for good: after a failed write or sync nobody knows what is on the disk.
    fn poison(&self, error: &Error, in_flight: Vec<Answer>) {
        let because = |outcome| match error {
            Error::Fenced { .. } => error.clone(),
            _ => Error::Poisoned { cause: error.to_string(), outcome },
        };
        let mut desk = self.desk();
        if !self.settings.bugs.has(Bug::GoOnAfterFailedSync) {
            // That it is closing is no reason any more: it must not be closed in good order.
            let broken = matches!(desk.refusal, Some(Error::Poisoned { .. } | Error::Fenced { .. }));
            desk.refusal = desk.refusal.take().filter(|_| broken).or_else(|| Some(because(Outcome::No)));
        }
        if desk.doubtful.is_none() {
            desk.doubtful = desk.in_flight.take();
        }
        desk.in_flight = None;
        let undecided = desk.waiting.take();
        let unsettled: Vec<Answer> = mem::take(&mut desk.in_flight_answers)
            .into_iter()
            .chain(mem::take(&mut desk.open_answers))
            .collect();
        desk.open = desk.open.following(Vec::new());
        for request in undecided {
            let result = self.refuse(&desk, &request, &because(Outcome::No));
            Answer { reply: request.reply, result }.give();
        }
        drop(desk);
        for answer in in_flight {
            let _ = answer.reply.send(Err(because(Outcome::Unknown)));
        }
        for answer in unsettled {
            // What was to be new was never written. What was said to be recorded already rests on what nobody knows.
            let outcome = match &answer.result {
                Ok(appended) if appended.replayed || appended.events.is_empty() => Outcome::Unknown,
                Ok(_) => Outcome::No,
                Err(refused) => refused.outcome(),
            };
            let _ = answer.reply.send(Err(because(outcome)));
        }
    }

    /// Takes no more appends, because the committing thread has broken.
    pub fn give_up(&self, error: &Error) {
        let in_flight = mem::take(&mut self.desk().in_flight_answers);
        self.poison(error, in_flight);
    }

    /// The answer to an append that comes too late: it may be one that was sent before, and recorded.
    fn refuse(&self, desk: &Desk, request: &Request, refusal: &Error) -> Result<Appended> {
        let durable = self.durable();
        // Only what is durable is recorded: while the log is closing, there may still be some on the way.
        let ledger = Decided { desk, durable: &durable, request, only_durable: true };
        if let Some(events) = recorded_already(&request.append, &ledger).map_err(unseen)? {
            return Ok(durable.appended(events, true));
        }
        // What comes after a batch that may be on the disk is not: it was never written.
        let written = desk.doubtful.as_ref().map_or(u64::MAX, |batch| batch.end());
        let mut outcome = Outcome::No;
        for (hash, id) in request.ids() {
            let places = durable.index.ids_beyond(hash, id, 0).map_err(unseen)?;
            let on_its_way = places.iter().any(|place| (durable.end..written).contains(&place.0));
            if on_its_way || desk.waiting.has(hash) {
                outcome = Outcome::Unknown;
            }
        }
        Err(match refusal.clone() {
            Error::Poisoned { cause, .. } => Error::Poisoned { cause, outcome },
            Error::Unavailable { why, .. } => Error::Unavailable { why, outcome },
            other => other,
        })
    }

    /// Waits until there is something to commit, for so long at most. `false` when the log is closing.
    pub fn wait_for_work(&self, at_most: Duration) -> bool {
        let idle = |desk: &mut Desk| !desk.has_work() && !desk.closing;
        let waited = self.work.wait_timeout_while(self.desk(), at_most, idle);
        let (desk, _) = waited.unwrap_or_else(PoisonError::into_inner);
        desk.has_work() || !desk.closing
    }

    /// Takes no more appends; those that were taken are still committed.
    pub fn begin_closing(&self) {
        let mut desk = self.desk();
        let why = "it was closed".to_owned();
        desk.refusal.get_or_insert(Error::Unavailable { why, outcome: Outcome::No });
        desk.closing = true;
        self.work.notify_all();
        self.frozen.notify_all();
    }

    /// Writes down that the log ends in good order, after the last commit.
    ///
    /// # Errors
    /// Those of the disk, and the failure that poisoned the log earlier.
    pub fn close(&self) -> Result<()> {
        self.begin_closing();
        while self.commit() {}
        self.settle();
        let (end, segment) = {
            let desk = self.desk();
            if let Some(refusal @ (Error::Poisoned { .. } | Error::Fenced { .. })) = &desk.refusal {
                return Err(refusal.clone());
            }
            (desk.open.start, desk.open.segment.clone())
        };
        let written = self.write_manifest(&segment, end, true);
        written.map_err(|error| explain(&error, "write", &self.disk.path_of(manifest::NAME), Outcome::No))
    }
}

impl Desk {
    /// The next of those that wait, if there is room for it now.
    fn next_waiting(&mut self) -> Option<Request> {
        let Self { waiting, open, .. } = self;
        waiting.pop_if(|first| open.has_room_for(first))
    }

    fn has_work(&self) -> bool {
        !self.open.is_empty() || !self.waiting.is_empty()
    }

    /// Whether somebody waits for a new segment, and so for nothing to be in the open batch: then nobody may go before.
    fn waits_for_segment(&self) -> bool {
        let end = self.open.segment.end();
        self.waiting.first().is_some_and(|first| self.open.end() + first.frame_bytes() > end)
    }

    /// Gives an answer when everything that was decided before it is durable: a crash must not undo what it rests on.
    fn answer_when_durable(&mut self, answer: Answer) {
        if !self.open.is_empty() {
            self.open_answers.push(answer);
        } else if self.in_flight.is_some() {
            self.in_flight_answers.push(answer);
        } else {
            answer.give();
        }
    }

    /// Takes note that the batch in flight is durable, and returns the answers that waited for it.
    fn landed(&mut self, batch: Arc<Batch>) -> Vec<Answer> {
        self.in_flight = None;
        if let Some(batch) = Arc::into_inner(batch) {
            self.buffer = batch.into_buffer();
        }
        mem::take(&mut self.in_flight_answers)
    }

    /// Takes a place for a mark, if nothing is in the open batch.
    fn take_mark(&mut self, synced_upto: u64) -> Option<Batch> {
        let fits = self.open.start + FRAME_HEADER as u64 <= self.open.segment.end();
        if !self.open.is_empty() || self.refusal.is_some() || !fits {
            return None;
        }
        let next = self.open.following(Vec::new());
        let mut mark = mem::replace(&mut self.open, next);
        mark.seal(synced_upto, self.last_recorded_at);
        Some(mark)
    }
}

/// Bytes of the segment after this one, unless an append needs more.
fn next_capacity(present: &Segment, settings: &Settings) -> u64 {
    present.header.capacity.saturating_mul(2).min(settings.segment_bytes).next_multiple_of(SEGMENT_HEADER)
}

/// What could not be looked up may be recorded already.
pub fn unseen(error: Error) -> Error {
    match error {
        Error::Unavailable { why, .. } => Error::Unavailable { why, outcome: Outcome::Unknown },
        other => other,
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests;
