//! Reading a whole model at one moment, page by page.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use async_trait::async_trait;
use factum::{
    Error, Outcome, Result,
    reads::{PAGE, Pages},
};
use rusqlite::Connection;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};

use crate::{
    Sqlite, connect,
    fault::{Fault, explain},
    thread::{said, spawn},
};

/// Models that are read whole at once, at most: a thread and a connection each.
const SCANS: usize = 16;
/// Connections that stay open for the next who reads a whole model.
const KEPT: usize = 2;
/// How long one more waits until one of them has ended: they may all be left lying by the one that waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections for those who read a whole model. Each of them has one for as long as it reads, so that nobody who reads several
/// models side by side waits for himself.
pub(crate) struct Scans {
    /// Absolute: the directory that the process is in may change.
    path: PathBuf,
    place: Arc<str>,
    free: Arc<Semaphore>,
    state: Mutex<State>,
}

struct State {
    idle: Vec<Connection>,
    running: Vec<JoinHandle<()>>,
}

impl Scans {
    pub(crate) fn new(path: PathBuf, place: &Arc<str>) -> Result<Self, Fault> {
        let idle = (0..KEPT).map(|_| connect(&path, true)).collect::<Result<_, Fault>>()?;
        let state = Mutex::new(State { idle, running: Vec::new() });
        Ok(Self { path, place: place.clone(), free: Arc::new(Semaphore::new(SCANS)), state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while this lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to read one more.
    async fn permit(&self) -> Result<OwnedSemaphorePermit> {
        if let Ok(Ok(permit)) = timeout(PATIENCE, self.free.clone().acquire_owned()).await {
            return Ok(permit);
        }
        let why = format!(
            "{SCANS} readings of whole models in {} are begun and not at their end: read them to the end, or drop them",
            self.place
        );
        Err(Error::Unavailable { why, outcome: Outcome::No })
    }

    /// Does the job on a connection and a thread of its own.
    fn run(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
        job: impl FnOnce(Result<&mut Connection, Fault>) + Send + 'static,
    ) -> Result<()> {
        let scans = self.clone();
        let work = move || {
            let _permit = permit;
            let idle = scans.state().idle.pop();
            match idle.map_or_else(|| connect(&scans.path, true), Ok) {
                Ok(mut connection) => {
                    job(Ok(&mut connection));
                    let mut state = scans.state();
                    if state.idle.len() < KEPT {
                        state.idle.push(connection);
                    }
                }
                Err(fault) => job(Err(fault)),
            }
        };
        let mut state = self.state();
        state.running.retain(|running| !running.is_finished());
        state.running.push(spawn(work, &self.place)?);
        Ok(())
    }

    /// Waits for those that are being read, and closes all connections. Whoever let go of them has let go of their rows.
    pub(crate) fn close(&self) {
        let running = std::mem::take(&mut self.state().running);
        for running in running {
            // A reading that holds the last handle cannot wait for itself.
            if running.thread().id() != std::thread::current().id() {
                let _ = running.join();
            }
        }
        self.state().idle.clear();
    }
}

/// Rows on their way out of the database, page by page, from a thread that is one page ahead.
pub(crate) struct Stream<T> {
    pages: mpsc::Receiver<Result<Vec<T>>>,
    /// What was read at once.
    here: std::vec::IntoIter<Vec<T>>,
    /// It is not closed while it is read. Dropped last: closing it waits for who reads.
    _keeps: Sqlite,
}

/// Where rows are put.
pub(crate) struct Sink<'s, T> {
    page: Vec<T>,
    pages: &'s mpsc::Sender<Result<Vec<T>>>,
}

impl<T> Sink<'_, T> {
    /// `false`: nobody wants any more.
    pub(crate) fn put(&mut self, row: T) -> bool {
        self.page.push(row);
        self.page.len() < PAGE || self.pages.blocking_send(Ok(std::mem::take(&mut self.page))).is_ok()
    }
}

impl<T> Stream<T> {
    /// The next page; an empty one is the end.
    pub(crate) async fn next(&mut self) -> Result<Vec<T>> {
        match self.here.next() {
            Some(page) => Ok(page),
            None => self.pages.recv().await.unwrap_or_else(|| Ok(Vec::new())),
        }
    }
}

#[async_trait]
impl Pages for Stream<(String, String)> {
    async fn next(&mut self) -> Result<Vec<(String, String)>> {
        self.next().await
    }
}

/// Tells first what it knows of the whole, and then puts out the rows.
pub(crate) trait Scanning<H, T>:
    FnOnce(&Connection, &mut dyn FnMut(H), &mut Sink<'_, T>) -> Result<(), Fault> + Send + 'static
{
}

impl<H, T, F> Scanning<H, T> for F where
    F: FnOnce(&Connection, &mut dyn FnMut(H), &mut Sink<'_, T>) -> Result<(), Fault> + Send + 'static
{
}

impl Sqlite {
    /// Reads at one moment of the database what `read` puts out. In a file each has a connection for itself and holds up nobody
    /// else; the write-ahead log grows for as long as it reads. In memory, where all is anyway, it is read at once.
    pub(crate) async fn stream<H, T>(&self, read: impl Scanning<H, T>) -> Result<(H, Stream<T>)>
    where
        H: Send + 'static,
        T: Send + 'static,
    {
        let (pages, receiver) = mpsc::channel(1);
        let (head, got_head) = oneshot::channel();
        let place = self.place.clone();
        let scan =
            move |connection: Result<&mut Connection, Fault>| scan(connection, &place, read, head, &pages);
        match &self.connections.file {
            Some(file) => file.scans.run(file.scans.permit().await?, scan)?,
            None => drop(self.writer().send(move |connection| scan(Ok(connection)))),
        }
        let mut stream = Stream { pages: receiver, here: Vec::new().into_iter(), _keeps: self.clone() };
        let early =
            || Error::invalid(format!("the reading of the SQLite database {}", self.place), "it ended early");
        let Ok(head) = got_head.await else { return Err(stream.next().await.err().unwrap_or_else(early)) };
        if self.connections.in_memory {
            let mut all = Vec::new();
            while let Some(page) = stream.pages.recv().await {
                all.push(page?);
            }
            stream.here = all.into_iter();
        }
        Ok((head, stream))
    }
}

/// Nobody is there to hear it if the caller has gone.
fn scan<H, T>(
    connection: Result<&mut Connection, Fault>,
    place: &str,
    read: impl Scanning<H, T>,
    head: oneshot::Sender<H>,
    pages: &mpsc::Sender<Result<Vec<T>>>,
) {
    let mut head = Some(head);
    let scan = AssertUnwindSafe(|| {
        let tx = connection?.transaction()?;
        let mut sink = Sink { page: Vec::new(), pages };
        read(&tx, &mut |known| drop(head.take().map(|head| head.send(known))), &mut sink)?;
        if !sink.page.is_empty() {
            let _ = pages.blocking_send(Ok(sink.page));
        }
        Ok(())
    });
    let failed = match catch_unwind(scan) {
        Ok(Ok(())) => return,
        Ok(Err(fault)) => explain(place, fault),
        Err(panic) => {
            let what = format!("the reading of the SQLite database {place}");
            Error::invalid(what, format!("it panicked: {}", said(&*panic)))
        }
    };
    let _ = pages.blocking_send(Err(failed));
}
