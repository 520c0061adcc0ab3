//! The process that bad things happen to.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use factum::{Append, Error, EventId, EventStore, EventStoreExt, NewEvent, Read, StreamName};
use factum_conformance::{Recorder, workload};
use factum_log::{
    LogStore, Options,
    disk::{Directory, Disk, DiskFile, Ownership},
};

use uuid::Uuid;

use crate::{Stop, report::Report};

/// What it prints when it is about to open the log, and when it has done so.
pub(crate) const STARTED: &str = "started";
pub(crate) const OPENED: &str = "opened";

/// Large appends of a writer, their events, and the bytes of one.
const BULK_APPENDS: u64 = 2;
const BULK_EVENTS: u64 = 24;
const BULK_BYTES: usize = 64 << 10;

/// Where it writes, and how much.
#[derive(Args, Clone, Debug)]
pub(crate) struct Job {
    /// The directory of the log
    #[arg(long)]
    pub(crate) log: PathBuf,
    /// The file in which every call is recorded
    #[arg(long)]
    pub(crate) history: PathBuf,
    /// From which the clients' choices follow; another one for each process that goes on with a log
    #[arg(long)]
    pub(crate) seed: u64,
    /// Clients at the same time
    #[arg(long, default_value_t = 16)]
    pub(crate) clients: usize,
    /// Subscribers at the same time
    #[arg(long, default_value_t = 2)]
    pub(crate) subscribers: usize,
    /// Operations of each client
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) operations: usize,
    /// Leave out every sync, as a bad engine would
    #[arg(long)]
    no_sync: bool,
}

/// A directory of which nothing is ever synced.
#[derive(Debug)]
struct Unsynced(Directory);

#[derive(Debug)]
struct UnsyncedFile(Arc<dyn DiskFile>);

impl Disk for Unsynced {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(UnsyncedFile(self.0.create(name, bytes)?)))
    }

    fn reserve(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(UnsyncedFile(self.0.reserve(name, bytes)?)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(UnsyncedFile(self.0.open(name)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Ownership>> {
        self.0.lock()
    }

    fn path_of(&self, name: &str) -> String {
        self.0.path_of(name)
    }
}

impl DiskFile for UnsyncedFile {
    fn bytes(&self) -> io::Result<u64> {
        self.0.bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The store, with segments so small that many are begun, and runs of the index so small that many are written.
pub(crate) fn options(log: &std::path::Path) -> Options {
    Options::new(log).segments(64 << 10, 512 << 10).indexed_in_memory(40)
}

fn open(job: &Job) -> factum::Result<LogStore> {
    if job.no_sync {
        let unmade = |error: io::Error| Error::invalid("the directory", error.to_string());
        let directory = Directory::create(&job.log).map_err(unmade)?;
        return options(&job.log).open_on(Arc::new(Unsynced(directory)));
    }
    options(&job.log).open()
}

/// Whoever kills what started this does not know of this: it must not go on alone, and keep a file system busy.
fn live_no_longer_than_the_parent() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}

pub(crate) async fn run(job: &Job) -> Result<Report, Stop> {
    live_no_longer_than_the_parent();
    println!("{STARTED}");
    let store: LogStore = open(job).map_err(Stop::at("it does not open"))?;
    println!("{OPENED}");
    let recorder = Recorder::to_file(Arc::new(store.clone()), &job.history)
        .await
        .map_err(Stop::at("nothing can be recorded"))?;
    let &Job { seed, clients, subscribers, operations, .. } = job;
    let options =
        workload::Options { seed, clients, subscribers, operations, scans: false, ..Default::default() };
    let (summary, ()) = tokio::join!(workload::run(&recorder, &options), bulk(&recorder, seed));
    let summary = summary.map_err(Stop::at("a reader failed"))?;
    // Whatever became of the appends, what is there can be read.
    recorder.read_to_end(Read::all()).await.map_err(Stop::at("it cannot be read"))?;
    let stream = StreamName::new("last-1").map_err(Stop::at("a name"))?;
    let event = NewEvent::json("Last", &seed).map_err(Stop::at("an event"))?;
    let last = recorder.append(Append::to(stream, [event])).await;
    let last = last.map_or_else(|error| sort_of(&error), |_| "acknowledged".to_owned());
    let closed = store.close().await.map_or_else(|error| error.to_string(), |()| "well".to_owned());
    let report = Report::default().with("seed", seed).with("summary", summary.to_string());
    Ok(report.with("last_append", last).with("closed", closed))
}

/// A client whose appends are so large that they go another way to the disk.
async fn bulk(recorder: &Recorder, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    for n in 0..BULK_APPENDS {
        tokio::time::sleep(Duration::from_millis(rng.u64(0..30))).await;
        let Ok(stream) = StreamName::new("bulk-1") else { return };
        let event = |m| {
            let id = EventId::derived(Uuid::NAMESPACE_OID, format!("{seed}/bulk/{n}/{m}"));
            NewEvent::bytes("Bulk", vec![rng.u8(..); BULK_BYTES]).map(|event| event.with_id(id))
        };
        let Ok(events) = (0..BULK_EVENTS).map(event).collect::<factum::Result<Vec<_>>>() else { return };
        let _ = recorder.append(Append::to(stream, events)).await;
    }
}

fn sort_of(error: &Error) -> String {
    match error {
        Error::Poisoned { .. } => "poisoned".to_owned(),
        Error::StorageFull { .. } => "refused: the disk is full".to_owned(),
        other => other.to_string(),
    }
}
