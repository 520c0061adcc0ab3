//! Waiting until what was written can be answered, for all appends of a process together: who looks for one sees as far as all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use factum::{Error, Outcome, Position, Result, Token};
use tokio::sync::oneshot;

use crate::{Inner, append, connect::take, fault};

/// Those who wait until nothing can appear before what they have written.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<(Token, oneshot::Sender<Result<(), Unsettled>>)>,
    /// Whether somebody looks.
    at_work: bool,
    /// How far it was settled when somebody looked last.
    settled: Option<Position>,
}

/// Why it cannot be said that every reader sees something.
#[derive(Clone, Debug)]
pub(crate) enum Unsettled {
    /// A failover, or a restore: what was committed may be lost. Done again, it is known by its ids or it is not.
    AnotherEpoch,
    /// The database fails: it happened, but not every reader may see it yet. The outcome is unknown.
    Failed(Error),
}

/// Waits until every reader sees everything up to a position that is committed.
///
/// # Errors
/// Why that cannot be said.
pub(crate) async fn settled(inner: &Arc<Inner>, to: Token) -> Result<(), Unsettled> {
    let (answer, answered) = oneshot::channel();
    let first = {
        let mut queue = inner.settling.queue();
        queue.waiting.push((to, answer));
        !std::mem::replace(&mut queue.at_work, true)
    };
    if first {
        let watch = Watch { inner: inner.clone(), at_work: true };
        tokio::spawn(watch.run());
    }
    answered.await.unwrap_or_else(|_| {
        let why = format!("the work on PostgreSQL {} was given up", inner.place);
        Err(Unsettled::Failed(Error::Unavailable { why, outcome: Outcome::Unknown }))
    })
}

impl Settling {
    /// A position that has been drawn already, if one is known.
    pub(crate) fn drawn_before(&self) -> Option<Position> {
        self.queue().settled
    }

    /// After a failure: a server that has crashed may draw again what it had drawn and nobody has kept.
    pub(crate) fn forget(&self) {
        self.queue().settled = None;
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing under this lock panics half-way.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks until nobody waits.
struct Watch {
    inner: Arc<Inner>,
    at_work: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.at_work {
            // It was given up: nobody else would answer those who wait.
            let mut queue = self.inner.settling.queue();
            queue.at_work = false;
            queue.waiting.clear();
        }
    }
}

impl Watch {
    async fn run(mut self) {
        let mut client = None;
        while let Some(least) = self.least() {
            let looked = async {
                let client = match &mut client {
                    Some(client) => client,
                    none => none.insert(take(&self.inner.pool, &self.inner.place).await?),
                };
                let settled = append::settle(client, &self.inner.append, least).await;
                settled.map_err(|fault| fault.explain(&self.inner.place))
            };
            let looked = looked.await.map_err(fault::of_unknown_outcome);
            if looked.is_err() {
                client = None;
            }
            self.answer(&looked);
        }
    }

    /// The least that somebody waits for. If nobody does, its work ends here: whoever comes next makes a new one.
    fn least(&mut self) -> Option<Position> {
        let mut queue = self.inner.settling.queue();
        let least = queue.waiting.iter().map(|(to, _)| to.position).min();
        if least.is_none() {
            queue.at_work = false;
            self.at_work = false;
        }
        least
    }

    fn answer(&self, looked: &Result<(Position, u64)>) {
        let mut queue = self.inner.settling.queue();
        queue.settled = looked.as_ref().ok().map(|(settled, _)| *settled).or(queue.settled);
        let done = |(to, _): &mut (Token, _)| match looked {
            Ok((settled, epoch)) => to.position <= *settled || to.log.epoch != *epoch,
            Err(_) => true,
        };
        for (to, answer) in queue.waiting.extract_if(.., done) {
            let answered = match looked {
                Ok((_, epoch)) if to.log.epoch != *epoch => Err(Unsettled::AnotherEpoch),
                Ok(_) => Ok(()),
                Err(error) => Err(Unsettled::Failed(error.clone())),
            };
            // Whoever has gone away does not want to know.
            drop(answer.send(answered));
        }
    }
}
