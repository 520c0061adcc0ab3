//! Waiting until what was written can be answered, for all appends of a process together: who looks for one sees as far as all.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use factum::{Error, Outcome, Position, Result, Token};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    Inner,
    append::{self, Settled},
    connect::take,
    fault,
};

/// For how long it is good to know what has been drawn.
const A_MOMENT: Duration = Duration::from_secs(1);

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
    /// The furthest that it was settled when somebody looked, lately.
    settled: Option<(Position, Instant)>,
    /// How often all that was known had to be forgotten.
    forgotten: u64,
}

impl Queue {
    /// Looks come in another order than they were taken. `since`: what was forgotten when it was taken.
    fn note(&mut self, to: Position, since: u64) {
        let is_behind = self.settled.is_some_and(|(known, when)| known > to && when.elapsed() < A_MOMENT);
        if since == self.forgotten && !is_behind {
            self.settled = Some((to, Instant::now()));
        }
    }
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
    let patience = inner.statement_timeout;
    match tokio::time::timeout(patience, answered).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(_)) => {
            let why = format!("the work on PostgreSQL {} was given up", inner.place);
            Err(Unsettled::Failed(Error::Unavailable { why, outcome: Outcome::Unknown }))
        }
        Err(_) => {
            let what = format!(
                "waiting in PostgreSQL {} for appends that began before and do not come to their end",
                inner.place
            );
            let after_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            Err(Unsettled::Failed(Error::Timeout { what, after_ms, outcome: Outcome::Unknown }))
        }
    }
}

impl Settling {
    /// A position that had been drawn a moment ago, if one is known.
    pub(crate) fn drawn_before(&self) -> Option<Position> {
        self.queue().settled.filter(|(_, when)| when.elapsed() < A_MOMENT).map(|(settled, _)| settled)
    }

    /// How often it has forgotten: to be asked before a look.
    pub(crate) fn forgotten(&self) -> u64 {
        self.queue().forgotten
    }

    /// Somebody has looked, after `since` times of forgetting: whether every reader sees so far.
    pub(crate) fn saw(&self, now: Settled, since: u64, to: Token) -> bool {
        let mut queue = self.queue();
        if since != queue.forgotten {
            return false;
        }
        queue.note(now.to, since);
        for (_, answer) in queue.waiting.extract_if(.., |(to, _)| now.shows(to)) {
            // Whoever has gone away does not want to know.
            drop(answer.send(Ok(())));
        }
        now.shows(&to)
    }

    /// Whether nobody looks at the moment.
    pub(crate) fn is_idle(&self) -> bool {
        !self.queue().at_work
    }

    /// After a failure: a server that has crashed may draw again what it had drawn and nobody has kept.
    pub(crate) fn forget(&self) {
        let mut queue = self.queue();
        (queue.settled, queue.forgotten) = (None, queue.forgotten + 1);
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
            let since = self.inner.settling.forgotten();
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
            self.answer(least, since, &looked);
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

    /// `least` is what it looked for; whoever came since may have drawn since.
    fn answer(&self, least: Position, since: u64, looked: &Result<Settled>) {
        let mut queue = self.inner.settling.queue();
        if let Ok(settled) = looked {
            queue.note(settled.to, since);
        }
        let answered = |to: &Token| match looked {
            Err(error) => Some(Err(Unsettled::Failed(error.clone()))),
            Ok(now) if to.log.epoch < now.epoch => Some(Err(Unsettled::AnotherEpoch)),
            Ok(now) if now.shows(to) => Some(Ok(())),
            Ok(now) if to.log.epoch == now.epoch && to.position == least && least > now.drawn => {
                Some(Err(Unsettled::Failed(self.never_drawn(*to))))
            }
            Ok(_) => None,
        };
        let done = |(to, _): &mut (Token, _)| answered(to).is_some();
        for (to, answer) in queue.waiting.extract_if(.., done) {
            // Whoever has gone away does not want to know.
            drop(answered(&to).map(|answered| answer.send(answered)));
        }
    }

    /// It is of another database, or of a history that nobody has noticed to be gone.
    fn never_drawn(&self, to: Token) -> Error {
        let why = format!("PostgreSQL {} has never drawn position {}", self.inner.place, to.position);
        Error::Unavailable { why, outcome: Outcome::Unknown }
    }
}

#[cfg(test)]
mod tests {
    use factum::LogIdentity;

    use super::*;

    #[test]
    fn a_look_that_comes_late_takes_nothing_back() {
        let log = LogIdentity { log_id: uuid::Uuid::nil(), epoch: 1 };
        let look = |to: u64| Settled { to: Position(to), drawn: Position(to), epoch: 1 };
        let settling = Settling::default();
        assert!(settling.saw(look(60), 0, log.at(Position(50))));
        // It was taken before, and tells those whom it is enough for.
        assert!(settling.saw(look(45), 0, log.at(Position(40))));
        assert_eq!(settling.drawn_before(), Some(Position(60)));
        settling.forget();
        assert!(!settling.saw(look(70), 0, log.at(Position(40))), "of a server that has crashed since");
        assert_eq!(settling.drawn_before(), None);
        assert!(settling.saw(look(30), settling.forgotten(), log.at(Position(20))));
        assert_eq!(settling.drawn_before(), Some(Position(30)));
    }
}
