//! The engine is stopped between any two of its steps on the disk, while others append, read, follow and close. What they are told
//! meanwhile must hold, even if the machine loses its power at that very moment.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test; it says its figures")]

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use factum::{
    Append, Delivery, Error, EventId, EventStore, EventStoreExt, ExpectedRevision, NewEvent, Position, Query,
    Read, Revision, StreamName,
};
use factum_conformance::{Recorder, checker::FinalLog, verify};
use factum_log::{
    LogStore, Options,
    disk::{Disk, DiskFile, Ownership},
    sim::{Bug, Crash, SimDisk},
};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};
use uuid::Uuid;

/// Nothing here takes so long; what waits for a step that is stopped waits for ever.
const PATIENCE: Duration = Duration::from_secs(30);
/// Appends of the script; enough for several segments and runs of the index.
const APPENDS: u64 = 24;

/// What happens at one step.
enum Gate {
    /// It waits.
    Closed { reached: oneshot::Sender<String>, opened: mpsc::Receiver<()> },
    /// It fails, and does nothing.
    Broken(io::ErrorKind),
}

/// A disk of which one step is special.
#[derive(Clone)]
struct GateDisk {
    disk: SimDisk,
    steps: Arc<AtomicU64>,
    special: u64,
    gate: Arc<Mutex<Option<Gate>>>,
}

#[derive(Debug)]
struct GateFile {
    disk: GateDisk,
    file: Arc<dyn DiskFile>,
    name: String,
}

impl std::fmt::Debug for GateDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GateDisk")
    }
}

impl GateDisk {
    fn new(disk: &SimDisk, special: u64, gate: Gate) -> Self {
        Self { disk: disk.clone(), steps: Arc::default(), special, gate: Arc::new(Mutex::new(Some(gate))) }
    }

    /// Whether the step came.
    fn was_passed(&self) -> bool {
        self.steps.load(Ordering::SeqCst) >= self.special
    }

    /// Before each step.
    fn step(&self, what: &str) -> io::Result<()> {
        if self.steps.fetch_add(1, Ordering::SeqCst) + 1 != self.special {
            return Ok(());
        }
        let gate = self.gate.lock().unwrap().take();
        match gate {
            Some(Gate::Closed { reached, opened }) => {
                let _ = reached.send(what.to_owned());
                let _ = opened.recv();
                Ok(())
            }
            Some(Gate::Broken(kind)) => Err(kind.into()),
            None => Ok(()),
        }
    }

    fn file(&self, name: &str, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(GateFile { disk: self.clone(), file, name: name.to_owned() })
    }
}

impl Disk for GateDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.step(&format!("create {name}"))?;
        Ok(self.file(name, self.disk.create(name, bytes)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(name, self.disk.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.step(&format!("rename {from} to {to}"))?;
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.step(&format!("remove {name}"))?;
        self.disk.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        self.step("sync names")?;
        self.disk.sync_names()
    }

    fn lock(&self) -> io::Result<Box<dyn Ownership>> {
        self.disk.lock()
    }

    fn path_of(&self, name: &str) -> String {
        self.disk.path_of(name)
    }
}

impl DiskFile for GateFile {
    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.step(&format!("write {} at {offset}", self.name))?;
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.step(&format!("sync {}", self.name))?;
        self.file.sync()
    }
}

fn options() -> Options {
    Options::new("unused").segments(8192, 16384).indexed_in_memory(10)
}

fn open(disk: Arc<dyn Disk>) -> factum::Result<LogStore> {
    options().open_on(disk)
}

fn append(n: u64) -> Append {
    let stream = StreamName::new(format!("account-{}", n % 3)).unwrap();
    let event = |m: u64| {
        let id = EventId(Uuid::from_u64_pair(n, m));
        let size = usize::try_from(n * 7 % 300 + 200).unwrap();
        NewEvent::bytes("Deposited", vec![b'x'; size]).unwrap().with_id(id)
    };
    Append::to(stream, (0..=n % 3).map(event))
}

/// An event as somebody was told of it.
type Told = (Position, EventId);

/// What was acknowledged so far, in the order of the answers.
#[derive(Clone, Debug, Default)]
struct Acknowledged(Arc<Mutex<Vec<Told>>>);

impl Acknowledged {
    async fn append(&self, store: &dyn EventStore, append: Append) -> factum::Result<()> {
        let ids: Vec<EventId> = append.events().map(|(_, event)| event.id).collect();
        let appended = store.append(append).await?;
        let places = appended.events.iter().map(|placed| placed.position);
        self.0.lock().unwrap().extend(places.zip(ids));
        Ok(())
    }

    fn so_far(&self) -> Vec<Told> {
        self.0.lock().unwrap().clone()
    }
}

/// A store that is open, and the recorder through which it is used.
type Opened = (LogStore, Recorder);

/// The writer's part, from opening to closing.
async fn script(
    options: Options,
    disk: GateDisk,
    acknowledged: Acknowledged,
    opened: oneshot::Sender<Opened>,
) -> factum::Result<Recorder> {
    let store = tokio::task::spawn_blocking(move || options.open_on(Arc::new(disk))).await.unwrap()?;
    let recorder = Recorder::in_memory(Arc::new(store.clone())).await?;
    let _ = opened.send((store.clone(), recorder.clone()));
    for n in 0..APPENDS {
        // It may be closed, or broken, by then.
        let _ = acknowledged.append(&recorder, append(n)).await;
        if n % 5 == 4 {
            let _ = acknowledged.append(&recorder, append(n - 2)).await;
        }
    }
    // Whatever became of the appends, everything can be read.
    recorder.read_to_end(Read::all()).await?;
    let _ = store.close().await;
    Ok(recorder)
}

async fn events_of(store: &dyn EventStore) -> Vec<Told> {
    let read = store.read_to_end(Read::all());
    let events = timeout(PATIENCE, read).await.expect("a reader waits for a step of the disk").unwrap();
    events.iter().map(|event| (event.position, event.id)).collect()
}

/// How many events each stream has.
type Lengths = BTreeMap<StreamName, u64>;

async fn lengths_of(store: &dyn EventStore) -> Lengths {
    let mut lengths = Lengths::new();
    for n in 0..3 {
        let stream = StreamName::new(format!("account-{n}")).unwrap();
        let state =
            timeout(PATIENCE, store.stream_state(&stream)).await.expect("it waits for a step").unwrap();
        lengths.insert(stream, state.next_revision().0);
    }
    lengths
}

/// What would be found if the machine crashed now.
async fn after(crash: Crash, disk: &SimDisk, seed: u64) -> (Vec<Told>, Lengths) {
    let copy = disk.copy(seed);
    copy.restart(crash);
    let store =
        open(Arc::new(copy)).unwrap_or_else(|error| panic!("it does not open after a {crash:?}: {error}"));
    (events_of(&store).await, lengths_of(&store).await)
}

fn assert_all(wanted: &[Told], found: &[Told], who: &str, at: &str) {
    let lost = wanted.iter().find(|told| !found.contains(told));
    assert!(lost.is_none(), "at `{at}`: {lost:?} was {who}, and is gone after a crash");
}

/// What others do while a step is stopped.
struct Others {
    at: String,
    disk: SimDisk,
    acknowledged: Acknowledged,
    seed: u64,
}

impl Others {
    /// Whoever was told something is still right if the machine crashes now.
    async fn crash_now(&self, recorder: Option<&Recorder>, followed: &[Told]) {
        let acknowledged = self.acknowledged.so_far();
        let (seen, lengths) = match recorder {
            Some(recorder) => (events_of(recorder).await, lengths_of(recorder).await),
            None => (Vec::new(), Lengths::new()),
        };
        assert!(seen.starts_with(followed), "at `{}`: a follower was shown what readers are not", self.at);
        for (n, crash) in [(0, Crash::PowerCut), (1, Crash::PowerCut), (2, Crash::Kill)] {
            let (found, are) = after(crash, &self.disk, self.seed ^ n).await;
            let shorter = lengths.iter().find(|(stream, length)| are[*stream] < **length);
            assert!(shorter.is_none(), "at `{}`: the state {shorter:?} is undone by a {crash:?}", self.at);
            assert_all(&acknowledged, &found, "acknowledged", &self.at);
            assert!(found.starts_with(&seen), "at `{}`: a reader saw what a {crash:?} undoes", self.at);
        }
    }

    /// Appends, reads, follows, perhaps closes; returns what was started and may wait for the step.
    async fn meanwhile(&self, (store, recorder): &Opened) -> Vec<JoinHandle<()>> {
        let mut subscription = recorder.subscribe(Query::all(), None).await.unwrap();
        let mut followed = Vec::new();
        loop {
            match timeout(PATIENCE, subscription.next()).await.expect("a follower waits for a step").unwrap()
            {
                Delivery::Events { events, .. } => {
                    followed.extend(events.iter().map(|event| (event.position, event.id)));
                }
                Delivery::CaughtUp(_) => break,
                Delivery::LookedTo(_) | Delivery::FellBehind(_) => {}
            }
        }
        self.crash_now(Some(recorder), &followed).await;
        let stream = StreamName::new("account-1").unwrap();
        let next = timeout(PATIENCE, recorder.stream_state(&stream)).await.unwrap().unwrap().next_revision();
        let expected = next
            .0
            .checked_sub(1)
            .map_or(ExpectedRevision::NoStream, |last| ExpectedRevision::Exact(Revision(last)));
        let appends = [
            append(1000 + self.seed),
            append(1001 + self.seed).expect(stream.clone(), expected),
            append(1002 + self.seed).expect(stream, expected),
            append(self.seed % APPENDS),
        ];
        let mut waiting = Vec::new();
        for append in appends {
            let (recorder, acknowledged) = (recorder.clone(), self.acknowledged.clone());
            waiting.push(tokio::spawn(async move {
                let _ = acknowledged.append(&recorder, append).await;
            }));
        }
        if self.seed % 4 == 3 {
            let store = store.clone();
            waiting.push(tokio::spawn(async move { drop(store.close().await) }));
        }
        // Whoever can be answered without the step that is stopped may have been by now.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        self.crash_now(Some(recorder), &followed).await;
        waiting
    }
}

/// Runs the script with one step stopped. Whether there is such a step.
async fn stopped_at(step: u64, options: Options) -> bool {
    let disk = SimDisk::new(step);
    let (reached, is_reached) = oneshot::channel();
    let (open_gate, opened) = mpsc::channel();
    let gated = GateDisk::new(&disk, step, Gate::Closed { reached, opened });
    let acknowledged = Acknowledged::default();
    let (shared, mut store) = oneshot::channel();
    let mut writer = tokio::spawn(script(options, gated, acknowledged.clone(), shared));
    let at = tokio::select! {
        at = is_reached => at.unwrap(),
        ended = &mut writer => {
            ended.unwrap().unwrap();
            return false;
        }
    };
    let others = Others { at, disk: disk.clone(), acknowledged, seed: step };
    let waiting = match store.try_recv() {
        Ok(store) => others.meanwhile(&store).await,
        // It is opening: nobody else may have it, and nothing is promised yet.
        Err(_) => {
            let fenced = open(Arc::new(disk.clone())).unwrap_err();
            assert!(matches!(fenced, Error::Fenced { .. }), "at `{}`: {fenced}", others.at);
            others.crash_now(None, &[]).await;
            Vec::new()
        }
    };
    open_gate.send(()).unwrap();
    for waits in waiting {
        in_time(waits, &others.at).await.unwrap();
    }
    let recorder = in_time(writer, &others.at).await.unwrap().unwrap();
    settle(recorder, &disk, &others.acknowledged, &others.at).await;
    true
}

/// Runs the script with one step failing. Whether there is such a step.
async fn broken_at(step: u64, kind: io::ErrorKind) -> bool {
    let disk = SimDisk::new(step);
    let gated = GateDisk::new(&disk, step, Gate::Broken(kind));
    let acknowledged = Acknowledged::default();
    let (shared, store) = oneshot::channel();
    let at = format!("step {step}, {kind:?}");
    let writer = script(options(), gated.clone(), acknowledged.clone(), shared);
    if let Ok(recorder) = in_time(writer, &at).await {
        drop(store);
        settle(recorder, &disk, &acknowledged, &at).await;
    } else {
        assert!(acknowledged.so_far().is_empty(), "at `{at}`: it was acknowledged before it was open");
    }
    gated.was_passed()
}

async fn in_time<T>(work: impl Future<Output = T>, at: &str) -> T {
    timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("at `{at}`: somebody waits for ever"))
}

/// The end of a run: the history must be true of what is found after a power cut.
async fn settle(recorder: Recorder, disk: &SimDisk, acknowledged: &Acknowledged, at: &str) {
    let history = recorder.history();
    drop(recorder);
    disk.restart(Crash::PowerCut);
    let store =
        open(Arc::new(disk.clone())).unwrap_or_else(|error| panic!("at `{at}`: it does not open: {error}"));
    let log = FinalLog::read(&store).await.unwrap();
    verify(&history, &log).unwrap_or_else(|broken| panic!("at `{at}`: {broken}"));
    assert_all(&acknowledged.so_far(), &events_of(&store).await, "acknowledged", at);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_any_two_steps_everybody_is_told_the_truth() {
    let mut step = 1;
    while stopped_at(step, options()).await {
        step += 1;
    }
    println!("stopped at {} steps", step - 1);
    assert!(step > 80, "the script hardly did anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_step_fails_what_was_acknowledged_stays() {
    for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
        let mut step = 1;
        while broken_at(step, kind).await {
            step += 1;
        }
        println!("{} steps failed with {kind:?}", step - 1);
        assert!(step > 80, "the script hardly did anything");
    }
}

/// What stands still must show what is wrong with it: otherwise the above proves nothing.
async fn is_noticed(bug: Bug) {
    for step in 1.. {
        match tokio::spawn(stopped_at(step, options().with_bug(bug))).await {
            Err(panicked) if panicked.is_panic() => return println!("{bug:?} is noticed at step {step}"),
            stopped => assert!(stopped.unwrap(), "{bug:?} is not noticed"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_and_readers_ahead_of_the_sync_are_noticed() {
    for bug in [Bug::AckBeforeSync, Bug::ShowBeforeSync, Bug::NoHeaderSync] {
        is_noticed(bug).await;
    }
}
