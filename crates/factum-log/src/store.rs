//! The store: a log, the thread that commits to it, and the contract.

use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use async_trait::async_trait;
use factum::{
    Append, Appended, Clock, Error, EventId, EventStore, Head, Limits, Outcome, Page, Position, Read, Result,
    StreamName, StreamState, SystemClock,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    backup::{Backup, Source, back_up, destination},
    batch::is_small,
    bugs::Bugs,
    disk::{Directory, Disk, at_once, explain},
    format::record_bytes,
    index::{PageCache, Secret},
    log::{
        Log, Settings,
        scavenge::{Scavenge, Scavenged, Scavenging},
        unseen,
    },
    read,
    recovery::Recovery,
    scrub::{Scrub, ScrubStatus},
    verify::{Progress, Verification, verify_disk},
};

/// How long nothing must come before a mark is written, and how much longer before it is synced on its own.
const QUIET: Duration = Duration::from_millis(50);
const SETTLE: Duration = Duration::from_millis(500);
/// How long the indexing thread sleeps when nobody wakes it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Bytes of small and of large appends that may wait to be written, and in what units they are counted.
const ROOM_FOR_SMALL: usize = 16 << 20;
const ROOM_FOR_LARGE: usize = 64 << 20;
const ROOM_UNIT: usize = 1 << 10;
/// Bytes that are looked up at once, on the thread of whoever asks: about 250 events.
pub const LITTLE: usize = 250 * 5120;
/// Bytes of an event and of an append that no configuration may exceed.
const MOST_EVENT_BYTES: usize = 16 << 20;
const MOST_APPEND_BYTES: usize = 16 << 20;
const MOST_APPEND_EVENTS: usize = 10_000;

/// How to open a store.
///
/// ```no_run
/// # fn main() -> factum::Result<()> {
/// let store = factum_log::Options::new("data").create(false).open()?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    directory: PathBuf,
    create: bool,
    limits: Limits,
    clock: Arc<dyn Clock>,
    first_segment_bytes: u64,
    segment_bytes: u64,
    run_events: u64,
    scrub_bytes: u64,
    index_bytes: usize,
    bugs: Bugs,
}

impl Options {
    /// The defaults, for a store in this directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            create: true,
            limits: Limits::default(),
            clock: Arc::new(SystemClock),
            first_segment_bytes: 16 << 20,
            segment_bytes: 256 << 20,
            run_events: 128 << 10,
            scrub_bytes: 1 << 20,
            index_bytes: 32 << 20,
            bugs: Bugs::default(),
        }
    }

    /// Whether to begin a log where there is none. The default is to do so.
    #[must_use]
    pub fn create(self, create: bool) -> Self {
        Self { create, ..self }
    }

    /// What an append may be at most: an event up to 16 MiB, an append up to 16 MiB and 10,000 events.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Where the time comes from.
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }

    /// Bytes of the first segment and of the largest: their room is taken when they are made, and each next one is twice as
    /// large. By default 16 MiB and 256 MiB.
    #[must_use]
    pub fn segments(self, first_bytes: u64, most_bytes: u64) -> Self {
        Self { first_segment_bytes: first_bytes.max(8192), segment_bytes: most_bytes.max(8192), ..self }
    }

    /// How many events are indexed in memory before their index is written to a file: about 300 bytes each, and up to twice as
    /// many for a while. By default 131,072.
    #[must_use]
    pub fn indexed_in_memory(self, events: u64) -> Self {
        Self { run_events: events.max(1), ..self }
    }

    /// How many bytes of the index on the disk are kept in memory: the pages that were asked for of late. By default 32 MiB.
    #[must_use]
    pub fn index_cache(self, bytes: usize) -> Self {
        Self { index_bytes: bytes, ..self }
    }

    /// How many bytes of sealed segments are read again each second, in the background, to find bits that rot; 0 for none. By default
    /// 1 MiB. What was found is in [`LogStore::scrub_status`].
    #[must_use]
    pub fn scrub(self, bytes_per_second: u64) -> Self {
        Self { scrub_bytes: bytes_per_second, ..self }
    }

    /// Makes this mistake, for the tests that must notice it.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn with_bug(self, bug: crate::sim::Bug) -> Self {
        Self { bugs: Bugs::only(bug), ..self }
    }

    /// Opens the store.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no log and none may be begun, [`Error::Fenced`] if another process has it open,
    /// [`Error::Corrupt`] if acknowledged events are damaged, [`Error::StorageFull`], and [`Error::Unavailable`] where the
    /// directory cannot be read or written.
    pub fn open(self) -> Result<LogStore> {
        let Limits { event_bytes, append_bytes, append_events } = self.limits;
        if event_bytes > MOST_EVENT_BYTES
            || append_bytes > MOST_APPEND_BYTES
            || append_events > MOST_APPEND_EVENTS
        {
            return Err(Error::invalid(
                "the limits",
                "an event may have 16 MiB, an append 16 MiB and 10,000 events at most",
            ));
        }
        let shown = self.directory.display().to_string();
        let is_log = || self.directory.join(crate::segment::Segment::name(1)).exists();
        if !self.create && !is_log() {
            return Err(Error::NotFound { what: format!("log in {shown}") });
        }
        let directory = Directory::create(&self.directory)
            .map_err(|error| explain(&error, "make", &shown, Outcome::No))?;
        self.open_on(Arc::new(directory))
    }

    /// Opens the store of another disk than the machine's. The directory of these options is not looked at.
    ///
    /// # Errors
    /// As for [`Options::open`].
    pub fn open_on(self, disk: Arc<dyn Disk>) -> Result<LogStore> {
        let Limits { event_bytes, append_bytes, append_events } = self.limits;
        if event_bytes > MOST_EVENT_BYTES
            || append_bytes > MOST_APPEND_BYTES
            || append_events > MOST_APPEND_EVENTS
        {
            let why = "an event may have 16 MiB, an append 16 MiB and 10,000 events at most";
            return Err(Error::invalid("the limits", why));
        }
        let settings = Settings {
            limits: self.limits,
            clock: self.clock.clone(),
            birth: self.create.then(|| EventId::new().0),
            secret: new_secret(),
            first_segment_bytes: self.first_segment_bytes,
            segment_bytes: self.segment_bytes,
            run_events: self.run_events,
            index_pages: Arc::new(PageCache::of_bytes(self.index_bytes)),
            bugs: self.bugs,
        };
        LogStore::start(Log::open(disk, settings)?, self.scrub_bytes, self.clock)
    }
}

/// The embedded event store: a log in a directory, owned by this process.
///
/// Cloning gives another handle to the same store. Dropping the last one closes it.
#[derive(Clone, Debug)]
pub struct LogStore(Arc<Running>);

#[derive(Debug)]
struct Running {
    log: Arc<Log>,
    room: Room,
    scrub: Arc<Scrub>,
    /// The one that commits, the one that writes the index and the one that scrubs; once they have ended, how.
    threads: Mutex<Threads>,
    /// Held by the scavenge that is running.
    scavenging: Arc<Mutex<()>>,
}

/// Has a scavenge stop when nobody waits for it any more.
struct StopWhenDropped(Arc<AtomicBool>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What may wait to be written: beyond it, those who append wait before they are taken. Small appends have room of their own, so
/// that large ones do not hold them up.
#[derive(Debug)]
struct Room {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Room {
    fn new() -> Self {
        let of = |bytes: usize| Arc::new(Semaphore::new(bytes / ROOM_UNIT));
        Self { small: of(ROOM_FOR_SMALL), large: of(ROOM_FOR_LARGE) }
    }

    /// Waits until there is room for an append.
    async fn take(&self, append: &Append) -> Result<OwnedSemaphorePermit> {
        let bytes = append.events().map(|(stream, event)| record_bytes(stream, event)).sum();
        let (room, most) = match is_small(bytes) {
            true => (&self.small, ROOM_FOR_SMALL),
            false => (&self.large, ROOM_FOR_LARGE),
        };
        let units = u32::try_from(bytes.min(most) / ROOM_UNIT).unwrap_or(u32::MAX);
        let taken = room.clone().acquire_many_owned(units.max(1)).await;
        taken.map_err(|_| stopped(Outcome::No))
    }
}

/// A store's threads, or how they ended.
#[derive(Debug)]
enum Threads {
    Running(Vec<JoinHandle<Result<()>>>),
    Ended(Result<()>),
}

impl LogStore {
    /// Opens the store in a directory, which is made if it is missing, with the default [`Options`].
    ///
    /// # Errors
    /// As for [`Options::open`].
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self> {
        Options::new(directory).open()
    }

    fn start(log: Log, scrub_bytes: u64, clock: Arc<dyn Clock>) -> Result<Self> {
        let (log, scrub) = (Arc::new(log), Arc::new(Scrub::default()));
        let mut threads = vec![start_thread("factum-commit", &log, commit_on)?];
        let mut start = |name, work: Box<dyn FnOnce(&Log) + Send>| {
            let started = start_thread(name, &log, |log| {
                work(log);
                Ok(())
            });
            threads.push(started.inspect_err(|_| log.begin_closing())?);
            Ok::<(), Error>(())
        };
        start("factum-index", Box::new(index_on))?;
        if scrub_bytes > 0 {
            let scrub = scrub.clone();
            start("factum-scrub", Box::new(move |log| scrub.run(log, scrub_bytes, &*clock)))?;
        }
        let room = Room::new();
        let threads = Mutex::new(Threads::Running(threads));
        Ok(Self(Arc::new(Running { log, room, scrub, threads, scavenging: Arc::default() })))
    }

    /// What opening it did to the log.
    pub fn recovery(&self) -> &Recovery {
        &self.0.log.recovery
    }

    /// Takes back the space of events that are hidden for good: those of truncated, deleted and tombstoned streams, and what
    /// `max_count` and `max_age` have hidden.
    ///
    /// Nothing that anyone can see changes. Positions and revisions stay, and so do the answers to appends that are sent again: of
    /// each removed event its place, stream, id and a digest of its content are kept, about 75 bytes. Appends, reads and
    /// subscriptions go on meanwhile. A crash at any moment leaves each segment as it was or as it is to be.
    ///
    /// It looks at every segment but the last, and writes those anew where that is [worth it](Scavenge::at_least_percent); so it
    /// reads all of the log, and needs room for one segment more. `progress` is told how far it has come, a few times per segment,
    /// and may stop it; so does dropping the future, or closing the store. What is done by then stays done.
    ///
    /// ```no_run
    /// # async fn example(store: factum_log::LogStore) -> factum::Result<()> {
    /// use std::ops::ControlFlow;
    ///
    /// let done = store.scavenge(factum_log::Scavenge::default(), |_| ControlFlow::Continue(())).await?;
    /// println!("{done}");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unavailable`] if another scavenge of this store is running, [`Error::Corrupt`] for a damaged segment, which stays as it
    /// is, [`Error::StorageFull`], and the failure that poisoned the store earlier.
    pub async fn scavenge(
        &self,
        options: Scavenge,
        mut progress: impl FnMut(&Scavenging) -> ControlFlow<()> + Send + 'static,
    ) -> Result<Scavenged> {
        let (log, scavenging) = (self.0.log.clone(), self.0.scavenging.clone());
        let stop = StopWhenDropped(Arc::default());
        let stopped = stop.0.clone();
        let mut told = move |at: &Scavenging| {
            let go_on = progress(at);
            if stopped.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { go_on }
        };
        blocking(move || {
            let _running = match scavenging.try_lock() {
                Ok(running) => running,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    let why = "a scavenge of this store is running already".to_owned();
                    return Err(Error::Unavailable { why, outcome: Outcome::No });
                }
            };
            let result = log.scavenge(&options, &mut told);
            // Before anyone who closes the store may take the scavenge for ended.
            drop(log);
            result
        })
        .await
    }

    /// Looks at every byte of the log and of its index, while it is in use, and lists all that is damaged. `told` hears now and then
    /// how far it has come. See [`verify`](crate::verify()) for a log that is closed.
    ///
    /// # Errors
    /// Those of the disk. Damage is no error: it is in the answer.
    pub async fn verify(&self, mut told: impl FnMut(Progress) + Send + 'static) -> Result<Verification> {
        let log = self.0.log.clone();
        blocking(move || verify_disk(&*log.disk, &mut told)).await
    }

    /// What the background look at sealed segments has found so far: see [`Options::scrub`].
    pub fn scrub_status(&self) -> ScrubStatus {
        self.0.scrub.status()
    }

    /// Copies the log to a directory, which is made if it is missing, while appends go on: everything that was acknowledged before
    /// is in the copy, and nothing that is not durable. Into the same place again, only what is new is copied. When this returns,
    /// the backup is synced. [`restore`](crate::restore()) makes a log of it.
    ///
    /// # Errors
    /// As for [`backup`](crate::backup()).
    pub async fn backup(
        &self,
        to: impl Into<PathBuf>,
        mut told: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Backup> {
        let (log, to) = (self.0.log.clone(), to.into());
        blocking(move || {
            let source = {
                let durable = log.durable();
                Source { log: durable.log, segments: durable.segments.to_vec(), end: durable.end }
            };
            back_up(&source, &*destination(&to)?, &mut told)
        })
        .await
    }

    /// Closes the store: appends that were taken are committed, others are refused from now on. Reads still work.
    ///
    /// Dropping the last handle does the same, but cannot tell of an error.
    ///
    /// # Errors
    /// The failure that poisoned the store earlier, and those of the disk.
    pub async fn close(&self) -> Result<()> {
        let running = self.0.clone();
        blocking(move || running.close()).await
    }
}

impl Running {
    fn close(&self) -> Result<()> {
        self.log.begin_closing();
        self.scrub.stop();
        drop(self.scavenging.lock().unwrap_or_else(PoisonError::into_inner));
        // Whoever closes it a second time waits for the first, and is told the same.
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Threads::Running(running) = &mut *threads {
            let ended = |thread: JoinHandle<Result<()>>| {
                thread.join().unwrap_or_else(|_| Err(stopped(Outcome::Unknown)))
            };
            let results: Vec<Result<()>> = std::mem::take(running).into_iter().map(ended).collect();
            *threads = Threads::Ended(results.into_iter().collect());
        }
        match &*threads {
            Threads::Ended(result) => result.clone(),
            Threads::Running(_) => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // There is nobody to tell: what was acknowledged is safe all the same.
        let _ = self.close();
    }
}

/// A secret that nobody can guess.
fn new_secret() -> Secret {
    let (high, low) = EventId::new().0.as_u64_pair();
    Secret(xxhash_rust::xxh3::xxh3_64_with_seed(&low.to_le_bytes(), high))
}

/// What the committing thread does until the log is closed. If it breaks, nobody must wait for it.
fn commit_on(log: &Log) -> Result<()> {
    catch_unwind(AssertUnwindSafe(|| commit_until_closed(log))).unwrap_or_else(|_| {
        log.give_up(&stopped(Outcome::Unknown));
        Err(stopped(Outcome::Unknown))
    })
}

fn commit_until_closed(log: &Log) -> Result<()> {
    let mut quiet = Duration::ZERO;
    loop {
        while log.commit() {
            quiet = Duration::ZERO;
        }
        let pause = match quiet {
            Duration::ZERO => QUIET,
            quiet if quiet < SETTLE => SETTLE,
            _ => Duration::from_secs(3600),
        };
        if !log.wait_for_work(pause) {
            return log.close();
        }
        quiet += pause;
        if quiet == QUIET {
            log.mark();
        } else if quiet == QUIET + SETTLE {
            log.settle();
        }
    }
}

/// What the indexing thread does until the log is closed. A failure loses nothing: the part stays in memory for now.
fn index_on(log: &Log) {
    while log.wait_for_frozen(LOOK_AGAIN) {
        loop {
            if log.half_full() {
                // If it cannot be made now, it is made when it is needed.
                let _ = log.prepare_spare();
            }
            if !matches!(log.write_run(), Ok(true)) {
                break;
            }
        }
    }
}

fn start_thread(
    name: &str,
    log: &Arc<Log>,
    work: impl FnOnce(&Log) -> Result<()> + Send + 'static,
) -> Result<JoinHandle<Result<()>>> {
    let log = log.clone();
    let started = thread::Builder::new().name(name.into()).spawn(move || work(&log));
    let why = |error| format!("its thread cannot be started ({error})");
    started.map_err(|error| Error::Unavailable { why: why(error), outcome: Outcome::No })
}

fn stopped(outcome: Outcome) -> Error {
    Error::Unavailable { why: "it stopped in the middle of its work".into(), outcome }
}

/// Does what may wait for the disk where that holds nobody up: on a blocking thread of the runtime, or here, if there is no
/// runtime whose tasks could be held up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await.unwrap_or_else(|_| Err(stopped(Outcome::No))),
        Err(_) => work(),
    }
}

#[async_trait]
impl EventStore for LogStore {
    async fn append(&self, append: Append) -> Result<Appended> {
        let log = &self.0.log;
        let room = self.0.room.take(&append).await?;
        let (mut request, answer) = log.encode(append)?;
        if let Some(looked) = at_once(LITTLE, || log.look_up(&mut request)) {
            looked?;
        } else {
            let log = log.clone();
            request = blocking(move || log.look_up(&mut request).map(|()| request)).await.map_err(unseen)?;
        }
        log.take(request.with_room(room));
        answer.await.unwrap_or_else(|_| Err(stopped(Outcome::Unknown)))
    }

    async fn read(&self, read: Read) -> Result<Page> {
        if let Some(page) = read::page_at_once(&self.0.log, &read) {
            if read::is_scan(&read) {
                // A page takes a while to decode: others have their turn.
                tokio::task::yield_now().await;
            }
            return page;
        }
        let log = self.0.log.clone();
        blocking(move || read::page(&log, &read)).await
    }

    async fn head(&self) -> Result<Head> {
        let durable = self.0.log.durable();
        let recorded_at = durable.last.map(|(_, at)| at);
        Ok(Head { token: durable.log.at(durable.head()), recorded_at })
    }

    async fn stream_state(&self, stream: &StreamName) -> Result<StreamState> {
        if let Some(state) = at_once(LITTLE, || self.0.log.stream_state(stream)) {
            return state;
        }
        let (log, stream) = (self.0.log.clone(), stream.clone());
        blocking(move || log.stream_state(&stream)).await
    }

    async fn changed(&self, position: Position) {
        // The sender lives as long as this store, so waiting cannot fail.
        let _ = self.0.log.watch().wait_for(|head| *head > position).await;
    }

    fn is_exclusive(&self) -> bool {
        true
    }

    fn limits(&self) -> Limits {
        self.0.log.limits()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::{Pin, pin},
        task::{Context, Poll, Waker},
    };

    use factum::NewEvent;

    use super::*;

    fn now<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        }
    }

    /// What waits to be written is bounded, and small appends have room of their own.
    #[test]
    fn who_finds_no_room_waits_and_is_not_refused() {
        let append = |events: usize, bytes: usize| {
            let event = |_| NewEvent::bytes("E", vec![1; bytes]).unwrap();
            Append::to(StreamName::new("s-1").unwrap(), (0..events).map(event))
        };
        let (room, large, small) = (Room::new(), append(15, 1_000_000), append(1, 10));
        let mut taken: Vec<_> = (0..4).map(|_| now(pin!(room.take(&large))).unwrap().unwrap()).collect();
        let mut waits = pin!(room.take(&large));
        assert!(now(waits.as_mut()).is_none(), "75 MB wait");
        assert!(now(pin!(room.take(&small))).is_some(), "a small one is held up by large ones");
        taken.pop();
        assert!(now(waits).is_some_and(|room| room.is_ok()));
    }
}
