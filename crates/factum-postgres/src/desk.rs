//! How appends come to the database: each in a transaction of its own, or all that wait at the moment in one.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use factum::{Append, Appended, Error, ExpectedRevision, Guard, Outcome, Result, error::Actual};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    Inner,
    append::{self, Done, Verdict},
    fault::{self, Fault},
    known::Attempts,
    plain,
    settle::{self, Unsettled},
    take,
};

/// How often appends that were in others' way, or whose connection failed, are tried again.
const TRIES: u32 = 10;

/// Transactions of groups on their way at a time: one is made while another becomes durable.
const AT_WORK: usize = 2;
/// For how long the next group waits for one.
const A_WHILE: Duration = Duration::from_millis(300);
/// Events in a group, at most, unless one append has more.
const GROUP_EVENTS: usize = 1_000;
/// Bytes in a group, at most, unless one append has more.
const GROUP_BYTES: usize = 4 << 20;

/// Where appends wait that are written in groups.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    at_work: usize,
}

#[derive(Debug)]
struct Waiting {
    append: Append,
    answer: oneshot::Sender<Result<Appended>>,
}

/// Does one in a transaction of its own.
pub(crate) async fn alone(inner: &Arc<Inner>, append: &Append) -> Result<Appended> {
    match transact(inner, &[append]).await?.pop() {
        Some(Verdict::Answered(answer)) => answer,
        _ => Err(Error::invalid("the append", "it was not decided")),
    }
}

/// Does one together with those that wait at the same time.
pub(crate) async fn grouped(inner: &Arc<Inner>, append: Append) -> Result<Appended> {
    let (answer, answered) = oneshot::channel();
    bring(inner, |waiting| waiting.push_back(Waiting { append, answer }));
    answered.await.unwrap_or_else(|_| {
        let why = format!("the work on PostgreSQL {} was given up", inner.place);
        Err(Error::Unavailable { why, outcome: Outcome::Unknown })
    })
}

/// Adds to those that wait, and sees to it that somebody works on them.
fn bring(inner: &Arc<Inner>, add: impl FnOnce(&mut VecDeque<Waiting>)) {
    let wanted = {
        let mut queue = inner.desk.queue();
        add(&mut queue.waiting);
        let wanted = queue.at_work < AT_WORK;
        queue.at_work += usize::from(wanted);
        wanted
    };
    if wanted {
        let worker = Worker { inner: inner.clone(), at_work: true };
        tokio::spawn(worker.run());
    }
}

impl Desk {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing under this lock panics half-way.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes group after group until nobody waits.
struct Worker {
    inner: Arc<Inner>,
    at_work: bool,
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.at_work {
            // It was given up. Without the last worker nobody would answer those who wait.
            let mut queue = self.inner.desk.queue();
            queue.at_work -= 1;
            if queue.at_work == 0 {
                queue.waiting.clear();
            }
        }
    }
}

impl Worker {
    async fn run(mut self) {
        while let Some(group) = self.next_group() {
            let writing = tokio::spawn(write(self.inner.clone(), group));
            // Where somebody's lock is in their way they go on waiting, and others go on without them.
            let _ = tokio::time::timeout(A_WHILE, writing).await;
        }
    }

    /// Those who wait and fit into one transaction. If nobody does, its work ends here: whoever comes next makes a new worker.
    fn next_group(&mut self) -> Option<Vec<Waiting>> {
        let mut queue = self.inner.desk.queue();
        let (mut events, mut bytes) = (0, 0);
        let fitting = queue.waiting.iter().take_while(|waiting| {
            let fits = events < GROUP_EVENTS && bytes < GROUP_BYTES;
            events += waiting.append.event_count();
            bytes += waiting.append.events().map(|(_, event)| event.size()).sum::<usize>();
            fits
        });
        let count = fitting.count();
        if count == 0 {
            queue.at_work -= 1;
            self.at_work = false;
            return None;
        }
        Some(queue.waiting.drain(..count).collect())
    }
}

/// Writes a group, and answers each in it.
async fn write(inner: Arc<Inner>, group: Vec<Waiting>) {
    let appends: Vec<&Append> = group.iter().map(|waiting| &waiting.append).collect();
    match transact(&inner, &appends).await {
        Ok(verdicts) => {
            let mut later = Vec::new();
            for (waiting, verdict) in group.into_iter().zip(verdicts) {
                match verdict {
                    // Whoever has gone away does not want to know.
                    Verdict::Answered(answer) => drop(waiting.answer.send(answer)),
                    Verdict::Later => later.push(waiting),
                }
            }
            // Where this took long, those who worked may have found nobody waiting, and be gone.
            if !later.is_empty() {
                bring(&inner, |waiting| later.into_iter().rev().for_each(|one| waiting.push_front(one)));
            }
        }
        // One that the database refuses is no reason to refuse the others, nor one that waits for somebody to let them wait.
        Err(Error::InvalidInput { .. } | Error::Timeout { outcome: Outcome::No, .. }) if group.len() > 1 => {
            for waiting in group {
                let inner = inner.clone();
                tokio::spawn(async move {
                    let answer = alone(&inner, &waiting.append).await;
                    drop(waiting.answer.send(answer));
                });
            }
        }
        Err(error) => {
            for waiting in group {
                drop(waiting.answer.send(Err(error.clone())));
            }
        }
    }
}

/// Does them in one transaction, and again where others were in the way or the connection failed: the events' ids tell what has
/// been written. An attempt that may yet write holds the locks that the next one waits for.
async fn transact(inner: &Arc<Inner>, appends: &[&Append]) -> Result<Vec<Verdict>> {
    let (mut unknown, mut attempts) = (false, Attempts::default());
    // What is done is not done again if it only cannot be answered yet.
    let mut done: Option<Done> = None;
    let begun = Instant::now();
    for attempt in 1.. {
        let since = inner.settling.forgotten();
        if done.is_none() {
            done = match attempt_at(inner, appends, &mut attempts).await {
                Ok(done) => Some(done),
                Err(fault) => {
                    unknown |= fault.is_unknown();
                    again(inner, fault, attempt, unknown, begun).await?;
                    None
                }
            };
        }
        let Some(Done { rests_on, settled, .. }) = &mut done else { continue };
        if settled.take().is_some_and(|now| inner.settling.saw(now, since, *rests_on)) {
            break;
        }
        match settle::settled(inner, *rests_on).await {
            Ok(()) => break,
            Err(Unsettled::AnotherEpoch) => (done, unknown) = (None, true),
            Err(Unsettled::Failed(error)) => again(inner, error.into(), attempt, true, begun).await?,
        }
    }
    let verdicts = done.map(|done| done.verdicts).unwrap_or_default();
    Ok(if unknown { verdicts.into_iter().map(after_a_cut).collect() } else { verdicts })
}

/// Waits for another attempt, if there is to be one.
///
/// # Errors
/// The fault, if there is not.
async fn again(inner: &Inner, fault: Fault, attempt: u32, unknown: bool, begun: Instant) -> Result<()> {
    if fault.is_of_the_connection() {
        inner.settling.forget();
        inner.doubt_connections();
    }
    let pause = if fault.is_clash() {
        Duration::from_micros(500)
    } else if fault.is_of_the_connection() {
        Duration::from_millis(5)
    } else {
        Duration::ZERO
    };
    if attempt >= TRIES || pause.is_zero() || begun.elapsed() > inner.patience {
        let error = fault.explain(&inner.place);
        return Err(if unknown { fault::of_unknown_outcome(error) } else { error });
    }
    tokio::time::sleep((pause * (1 << attempt)).mul_f64(fastrand::f64())).await;
    Ok(())
}

async fn attempt_at(inner: &Arc<Inner>, appends: &[&Append], attempts: &mut Attempts) -> Result<Done, Fault> {
    let Inner { append: statements, folds, limits, durability, .. } = &**inner;
    // Whoever waits for the answer needs no connection of their own: it is free again.
    let client = take(&inner.pool, &inner.place).await?;
    // Once it is unknown what became of an attempt, the next one asks first.
    if let ([append], Some(drawn)) = (appends, inner.settling.drawn_before())
        && attempts.drawn_before.is_none()
        && folds.is_empty()
    {
        // Where others look at the moment, one look does for all.
        let look = inner.settling.is_idle();
        let plain = plain::append(&client, statements, inner.log_id, *durability, append, look).await;
        // Also where it is done: should a failover come before the answer, it is asked for again.
        let written = plain.as_ref().map_or_else(Fault::is_unknown, Option::is_some);
        attempts.drawn_before = written.then_some(drawn);
        if let Some((appended, settled)) = plain? {
            let rests_on = appended.token;
            return Ok(Done { verdicts: vec![Verdict::Answered(Ok(appended))], rests_on, settled });
        }
    }
    append::append(&client, statements, folds, limits, *durability, appends, attempts).await
}

/// A refusal, where the statement of an earlier attempt may still be on its way to a stream that has yet to become as it expects.
fn after_a_cut(verdict: Verdict) -> Verdict {
    let Verdict::Answered(Err(Error::Conflict(conflict))) = &verdict else { return verdict };
    let Guard::Stream { expected: ExpectedRevision::Exact(expected), .. } = conflict.guard else {
        return verdict;
    };
    let passed =
        matches!(conflict.actual, Actual::Revision(last) | Actual::Deleted(last) if last >= expected);
    if passed {
        return verdict;
    }
    let why = format!("the connection was cut, and since then: {conflict}");
    Verdict::Answered(Err(Error::Unavailable { why, outcome: Outcome::Unknown }))
}
