//! A connection with a thread of its own: SQLite blocks, async tasks must not.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use factum::{Error, Outcome, Result};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::fault::{Fault, explain};

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Takes jobs for a connection, one after another. Dropping it closes the connection, after the jobs it has.
pub(crate) struct Thread {
    jobs: Option<mpsc::Sender<Job>>,
    running: Option<JoinHandle<()>>,
    place: Arc<str>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // Whoever lets go of the database may look at the file next. A job that holds the last handle cannot wait for itself.
        if let Some(running) =
            self.running.take().filter(|running| running.thread().id() != thread::current().id())
        {
            let _ = running.join();
        }
    }
}

impl Thread {
    pub(crate) fn start(mut connection: Connection, place: &Arc<str>) -> Result<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let work = move || {
            for job in todo {
                job(&mut connection);
            }
        };
        let running = thread::Builder::new().name("factum-sqlite".into()).spawn(work);
        let running =
            running.map_err(|e| ended(place, &format!("no thread could be started: {e}"), Outcome::No))?;
        Ok(Self { jobs: Some(jobs), running: Some(running), place: place.clone() })
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
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(Box::new(job)).is_ok());
        if !sent {
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

/// What a panic said.
pub(crate) fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

fn ended(place: &str, why: &str, outcome: Outcome) -> Error {
    Error::Unavailable { why: format!("the SQLite database {place} does not answer: {why}"), outcome }
}
