//! Connections with threads of their own: SQLite blocks, async tasks must not.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
};

use factum::{Error, Outcome, Result};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::fault::{Fault, explain};

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Takes jobs for one connection or several: each does one after another. Dropping it closes them, after the jobs they have.
pub(crate) struct Threads {
    jobs: Option<mpsc::Sender<Job>>,
    running: Vec<JoinHandle<()>>,
    place: Arc<str>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // Whoever lets go of the database may look at the file next. A job that holds the last handle cannot wait for itself.
        for running in self.running.drain(..) {
            if running.thread().id() != thread::current().id() {
                let _ = running.join();
            }
        }
    }
}

impl Threads {
    pub(crate) fn start(connections: Vec<Connection>, place: &Arc<str>) -> Result<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let todo = Arc::new(Mutex::new(todo));
        let mut threads = Self { jobs: Some(jobs), running: Vec::new(), place: place.clone() };
        for mut connection in connections {
            let todo = todo.clone();
            // Who waits for a job holds the lock, the others wait for the lock. No job runs under it.
            let next = move || todo.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let work = move || {
                while let Ok(job) = next() {
                    job(&mut connection);
                }
            };
            threads.running.push(spawn(work, place)?);
        }
        Ok(threads)
    }

    /// Has the job done, and does not wait for it.
    pub(crate) fn send(&self, job: impl FnOnce(&mut Connection) + Send + 'static) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.send(Box::new(job)).is_ok())
    }

    /// Has the job done.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let job = move |connection: &mut Connection| {
            // A transaction in a job that panics is rolled back.
            let done = catch_unwind(AssertUnwindSafe(|| job(connection)));
            // Nobody is there to hear it if the caller has gone.
            let _ = reply.send(done.map_err(|panic| said(&*panic).to_owned()));
        };
        if !self.send(job) {
            return Err(ended(&self.place, "its thread has ended", Outcome::No));
        }
        match answer.await {
            Ok(Ok(answer)) => answer.map_err(|fault| explain(&self.place, fault)),
            // It would panic again: nothing that passes.
            Ok(Err(panic)) => {
                let what = format!("the work on the SQLite database {}", self.place);
                Err(Error::invalid(what, format!("it panicked: {panic}")))
            }
            Err(_) => Err(ended(&self.place, "its thread has ended", Outcome::Unknown)),
        }
    }
}

/// A thread that does this work.
pub(crate) fn spawn(work: impl FnOnce() + Send + 'static, place: &Arc<str>) -> Result<JoinHandle<()>> {
    let running = thread::Builder::new().name("factum-sqlite".into()).spawn(work);
    running.map_err(|e| ended(place, &format!("no thread could be started: {e}"), Outcome::No))
}

/// What a panic said.
pub(crate) fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

fn ended(place: &str, why: &str, outcome: Outcome) -> Error {
    Error::Unavailable { why: format!("the SQLite database {place} does not answer: {why}"), outcome }
}
