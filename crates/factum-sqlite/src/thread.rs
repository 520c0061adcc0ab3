//! A connection with a thread of its own: SQLite blocks, async tasks must not.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
};

use factum::{Error, Outcome, Result};
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::fault::{Fault, explain};

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Takes jobs for a connection, one after another. The thread ends with the last clone.
#[derive(Clone)]
pub(crate) struct Thread {
    jobs: mpsc::Sender<Job>,
    place: Arc<str>,
}

impl Thread {
    pub(crate) fn start(mut connection: Connection, place: &Arc<str>) -> Result<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let work = move || {
            for job in todo {
                // A job that panics drops its reply, which tells its caller; a transaction in it is rolled back.
                let _ = catch_unwind(AssertUnwindSafe(|| job(&mut connection)));
            }
        };
        let started = std::thread::Builder::new().name("factum-sqlite".into()).spawn(work);
        started.map_err(|e| ended(place, &format!("no thread could be started: {e}"), Outcome::No))?;
        Ok(Self { jobs, place: place.clone() })
    }

    /// Has the job done.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let job = move |connection: &mut Connection| {
            // Nobody is there to hear it if the caller has gone.
            let _ = reply.send(job(connection));
        };
        let sent = self.jobs.send(Box::new(job));
        sent.map_err(|_| ended(&self.place, "its thread has ended", Outcome::No))?;
        match answer.await {
            Ok(answer) => answer.map_err(|fault| explain(&self.place, fault)),
            Err(_) => Err(ended(&self.place, "the work on it panicked", Outcome::Unknown)),
        }
    }
}

fn ended(place: &str, why: &str, outcome: Outcome) -> Error {
    Error::Unavailable { why: format!("the SQLite database {place} does not answer: {why}"), outcome }
}
