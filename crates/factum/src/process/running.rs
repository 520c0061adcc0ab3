//! A process manager at work: how it is started, and the handle to it.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    ProcessManager,
    effect::{Effect, Timer},
    instance::{Folded, command_of},
    manager::{Manager, Shared, stream_of},
    sinks::{Inbox, Outbox},
    stored::{REACTED, TIMER_FIRED},
};
use crate::{
    error::{Error, Outcome, Result},
    handle::Factum,
    handler::{ATTEMPTS, LEASE, Processing, Processor, ProcessorStatus, Trouble},
    name::EventType,
    position::Token,
    query::{Criterion, Query},
    read::Read,
    reads::ReadStore,
    timers::{Due, DueList, Firing, TimerStatus},
};

/// How long a chain of causes may become, unless the builder says otherwise.
pub const DEPTH: u64 = 100;

/// How often it is looked whether overdue timers have been set off.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How a process manager is to be run: see [`Factum::process_manager`].
#[must_use = "nothing is heard before `start`"]
pub struct Managing<P> {
    factum: Factum,
    process: P,
    partitions: u32,
    attempts: u32,
    depth: u64,
    lease: Duration,
    from_now: bool,
}

impl<P> fmt::Debug for Managing<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Managing").finish_non_exhaustive()
    }
}

impl Factum {
    /// Runs a process manager, from the beginning of the log, and from where it was when it starts again. `reads` keeps its checkpoints,
    /// what it sets aside, and the list of its timers.
    ///
    /// # Errors
    /// Those of [`Managing::start`].
    pub async fn process<P: ProcessManager>(&self, process: P, reads: impl ReadStore) -> Result<Process<P>> {
        self.process_manager(process).start(Arc::new(reads)).await
    }

    /// As [`process`](Self::process), with more to say: `factum.process_manager(Fulfilment).partitions(8).start(reads)`.
    pub fn process_manager<P: ProcessManager>(&self, process: P) -> Managing<P> {
        let (factum, partitions, attempts, depth) = (self.clone(), 1, ATTEMPTS, DEPTH);
        Managing { factum, process, partitions, attempts, depth, lease: LEASE, from_now: false }
    }
}

impl<P: ProcessManager> Managing<P> {
    /// Divides the instances into so many partitions, which go on side by side, in this process and in others: see
    /// [`Processing::partitions`](crate::handler::Processing::partitions).
    pub fn partitions(self, partitions: u32) -> Self {
        Self { partitions, ..self }
    }

    /// How often an input that an instance cannot take, or a reaction that cannot be performed, is tried before the instance is
    /// parked: 5 times unless said otherwise. (What fails because its surroundings do is tried for ever, and a refused command is an
    /// input.)
    pub fn attempts(self, attempts: u32) -> Self {
        Self { attempts, ..self }
    }

    /// How long a chain of causes may become before it is taken for one that goes round in circles: 100 events, unless said
    /// otherwise. The instance is parked then, with a message that says so. Time that passes between, in a timer, begins a new chain.
    pub fn depth(self, depth: u64) -> Self {
        Self { depth: depth.max(1), ..self }
    }

    /// How long a worker that does not answer any more keeps its partitions from others, and the timers: 10 s unless said otherwise, at
    /// least a tenth of a second. See [`Processing::lease`](crate::handler::Processing::lease). (The list in which timers are looked up
    /// is a read model. Those that are set after a worker has gone are in it after 10 s at the latest.)
    pub fn lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    /// Hears nothing of what happened before it starts for the first time.
    pub fn from_now(self) -> Self {
        Self { from_now: true, ..self }
    }

    /// Starts it, in the background. `reads` keeps its checkpoints, what it sets aside, and the list of its timers.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a bad name or query (also if it hears events of the category that is its name), or a number of
    /// partitions other than before; failures of the stores; [`Error::Unavailable`] outside of a tokio runtime.
    pub async fn start(self, reads: Arc<dyn ReadStore>) -> Result<Process<P>> {
        let Self { factum, process, partitions, attempts, depth, lease, from_now } = self;
        let manager = Arc::new(Manager { process, factum: factum.clone(), depth });
        let set = |processing: Processing| processing.partitions(partitions).attempts(attempts).lease(lease);
        let inbox = set(factum.sink(Inbox { manager: manager.clone() }));
        let inbox = if from_now { inbox.from_now() } else { inbox };
        let outbox = set(factum.sink(Outbox { name: format!("{}_out", P::NAME), manager: manager.clone() }));
        let inbox = inbox.start(reads.clone()).await?;
        let outbox = outbox.start(reads.clone()).await?;
        let timers = Firing::start(P::NAME, timers_of::<P>()?, reads, factum, manager.clone(), lease)?;
        Ok(Process { inner: Arc::new(Inner { manager, inbox, outbox, timers }) })
    }
}

/// The events that set timers, and stop them.
fn timers_of<P: ProcessManager>() -> Result<Query> {
    Ok(Query::from(Criterion {
        types: vec![EventType::new(REACTED)?, EventType::new(TIMER_FIRED)?],
        category: Some(P::NAME.to_owned()),
        ..Criterion::default()
    }))
}

/// A handle to a process manager at work. It stops when the last clone is dropped, or by [`stop`](Process::stop).
pub struct Process<P> {
    inner: Arc<Inner<P>>,
}

struct Inner<P> {
    manager: Shared<P>,
    inbox: Processor,
    outbox: Processor,
    timers: Firing,
}

impl<P> Clone for Process<P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<P> fmt::Debug for Process<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({})", self.inner.inbox.name())
    }
}

/// How a process manager is.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessStatus {
    /// Of what happens, how much it has heard.
    pub inbox: ProcessorStatus,
    /// Of what it has recorded, how much is performed.
    pub outbox: ProcessorStatus,
    /// Its timers.
    pub timers: TimerStatus,
}

impl fmt::Display for ProcessStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hears: {}\nperforms: {}\ntimers: {}", self.inbox, self.outbox, self.timers)
    }
}

/// An instance of a process manager.
pub struct Instance<P: ProcessManager> {
    /// What it knows.
    pub state: P::State,
    /// Whether it has come to its end.
    pub completed: bool,
    /// The timers that it waits for, by their ids.
    pub timers: Vec<Timer>,
    /// The commands that it has sent and that have not all been given yet, oldest first.
    pub commands: Vec<P::Command>,
    /// How many inputs it has heard.
    pub heard: usize,
}

impl<P: ProcessManager<State: fmt::Debug, Command: fmt::Debug>> fmt::Debug for Instance<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, completed, timers, commands, heard } = self;
        let mut shown = f.debug_struct("Instance");
        shown.field("state", state).field("completed", completed).field("timers", timers);
        shown.field("commands", commands).field("heard", heard).finish()
    }
}

impl<P: ProcessManager> Process<P> {
    /// What hears: with the events that could not be heard, by the name of the process manager, in [`Processor::parked`].
    pub fn inbox(&self) -> &Processor {
        &self.inner.inbox
    }

    /// What performs: with the reactions that could not be performed, by the name of the process manager and `_out`, in
    /// [`Processor::parked`].
    pub fn outbox(&self) -> &Processor {
        &self.inner.outbox
    }

    /// Waits until everything up to `to` has been heard, and what follows directly has been performed or set aside, for at most 10
    /// seconds. What follows from that in turn has a token of its own.
    ///
    /// # Errors
    /// Those of [`Processor::wait_for`].
    pub async fn wait_for(&self, to: impl Into<Token> + Send) -> Result<()> {
        self.inner.inbox.wait_for(to).await?;
        let recorded = self.inner.manager.factum.store().head().await?.token;
        self.inner.outbox.wait_for(recorded).await
    }

    /// Waits until there is nothing left to hear or to perform, and no timer whose moment has passed: until the log stands still, for at most
    /// so long. What is set aside is not waited for, nor are timers whose moment is yet to come.
    ///
    /// # Errors
    /// Those of [`Processor::wait_for`]; [`Error::Timeout`] says which timer is overdue, if that is what is left.
    pub async fn wait_until_idle(&self, within: Duration) -> Result<()> {
        let until = tokio::time::Instant::now() + within;
        let left = || until.saturating_duration_since(tokio::time::Instant::now());
        let store = self.inner.manager.factum.store();
        loop {
            let head = store.head().await?.token;
            self.inner.inbox.wait_for_within(head, left()).await?;
            self.inner.outbox.wait_for_within(head, left()).await?;
            let overdue = self.overdue().await?;
            if overdue.is_none() && store.head().await?.token == head {
                return Ok(());
            }
            if let Some(overdue) = overdue {
                if left().is_zero() {
                    let status = self.inner.timers.status();
                    let what = format!("waiting for `{}` to be idle ({overdue}; timers: {status})", P::NAME);
                    let after_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                    return Err(Error::Timeout { what, after_ms, outcome: Outcome::No });
                }
                tokio::time::sleep(LOOK_AGAIN.min(left())).await;
            }
        }
    }

    /// What is left of the timers whose moment has passed, if anything is.
    async fn overdue(&self) -> Result<Option<String>> {
        let (factum, reads) = (&self.inner.manager.factum, self.inner.inbox.reads());
        let list = Firing::list_of(P::NAME);
        let known = reads.catalog(&list).await?.active.and_then(|active| active.checkpoint);
        let news = Read::query(timers_of::<P>()?).limit(1);
        let news = match known {
            Some(known) => factum.store().read(news.beyond(known)).await,
            None => factum.store().read(news).await,
        };
        match news {
            Ok(news) if news.events.is_empty() => {}
            // Of another history: the list is made anew.
            Ok(_) | Err(Error::LogRewound(_)) => return Ok(Some("the list of timers is behind".to_owned())),
            Err(error) => return Err(error),
        }
        let first = DueList::page(&list, reads, None, 1).await?.pop();
        let overdue = first.map(|(_, due)| due).filter(|due| due.at <= factum.now());
        Ok(overdue.map(|Due { stream, id, at }| format!("the timer `{id}` of `{stream}` was due at {at}")))
    }

    /// How it is.
    ///
    /// # Errors
    /// Failures of the stores.
    pub async fn status(&self) -> Result<ProcessStatus> {
        let Inner { inbox, outbox, timers, .. } = &*self.inner;
        let (inbox, outbox) = (inbox.status().await?, outbox.status().await?);
        Ok(ProcessStatus { inbox, outbox, timers: timers.status() })
    }

    /// An instance, and what it waits for. `None`: it has not heard anything.
    ///
    /// # Errors
    /// Failures of the store, and [`Error::InvalidInput`] if what is recorded of it cannot be read.
    pub async fn instance(&self, id: &str) -> Result<Option<Instance<P>>> {
        let stream = stream_of(P::NAME, id)?;
        let wrong = |trouble: Trouble| match trouble {
            Trouble::Infrastructure(why) => Error::Unavailable { why, outcome: Outcome::No },
            trouble => Error::invalid(format!("the instance `{id}` of `{}`", P::NAME), trouble.to_string()),
        };
        let folded = self.inner.manager.load(&stream).await.map_err(wrong)?;
        if folded.reactions.is_empty() {
            return Ok(None);
        }
        let mut commands = Vec::new();
        for reaction in folded.unperformed() {
            for effect in &reaction.effects {
                if let Effect::Send { command, .. } = effect {
                    commands.push(command_of::<P>(command, &stream).map_err(wrong)?);
                }
            }
        }
        let (timers, heard) = (folded.waiting().cloned().collect(), folded.reactions.len());
        let Folded { state, completed, .. } = folded;
        Ok(Some(Instance { state, completed, timers, commands, heard }))
    }

    /// Stops it, and waits for that: what is in hand is finished. It goes on there the next time.
    pub async fn stop(&self) {
        let Inner { inbox, outbox, timers, .. } = &*self.inner;
        timers.stop().await;
        inbox.stop().await;
        outbox.stop().await;
    }
}
