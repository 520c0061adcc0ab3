//! A consumer that handles events, as its users see it: how it is started, and the handle to it.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    EventHandler, Parked, Sink, Typed,
    letters::{Bounds, stored},
    orders,
    partition::{Hold, Plan, View},
    partitions::Layout,
    supervisor::Supervisor,
};
use crate::{
    consumer::{PATIENCE, State, lag},
    error::{Error, Outcome, Result},
    event::EventId,
    handle::Factum,
    pass::Road,
    position::{Position, Token},
    query::Query,
    reads::{self, ReadStore},
    store::EventStore,
};

/// How often an event is tried before it is parked, unless the builder says otherwise.
pub const ATTEMPTS: u32 = 5;
/// Keys that may be held up in a partition, unless the builder says otherwise.
pub const PARKED_KEYS: usize = 1000;
/// Dead letters of a partition for each key that may be held up.
const LETTERS_PER_KEY: usize = 100;
/// How long a worker has a partition without keeping it, unless the builder says otherwise.
pub const LEASE: Duration = Duration::from_secs(10);
/// How often it is looked whether a partition of another process has come to a place.
const LOOK: Duration = Duration::from_millis(50);
/// How long the stores may take to tell why it has not.
const TO_TELL: Duration = Duration::from_secs(1);

/// How a sink or handler is to be driven: see [`Factum::handler`].
#[must_use = "nothing is handled before `start`"]
pub struct Processing {
    factum: Factum,
    sink: Arc<dyn Sink>,
    road: Arc<Road>,
    partitions: u32,
    attempts: u32,
    parked_keys: usize,
    lease: Duration,
    from_now: bool,
}

impl Factum {
    /// Handles what happens, from the beginning of the log, and from where it was when it starts again. `reads` keeps its checkpoint
    /// and what it sets aside.
    ///
    /// # Errors
    /// Those of [`Processing::start`].
    pub async fn handle<H: EventHandler>(&self, handler: H, reads: impl ReadStore) -> Result<Processor> {
        self.handler(handler).start(Arc::new(reads)).await
    }

    /// As [`handle`](Self::handle), with more to say: `factum.handler(Mails).partitions(8).start(reads)`.
    pub fn handler<H: EventHandler>(&self, handler: H) -> Processing {
        self.sink(Typed(Arc::new(handler)))
    }

    /// Hands what happens to a sink: a relay to a broker, or anything else that takes records.
    pub fn sink(&self, sink: impl Sink) -> Processing {
        Processing {
            factum: self.clone(),
            sink: Arc::new(sink),
            road: self.road(),
            partitions: 1,
            attempts: ATTEMPTS,
            parked_keys: PARKED_KEYS,
            lease: LEASE,
            from_now: false,
        }
    }
}

impl Processing {
    pub(super) fn name(&self) -> &str {
        self.sink.name()
    }

    /// Divides the work by the keys of the events, into 1 (unless said otherwise) to 1,024 partitions with a checkpoint each.
    /// Partitions go on side by side, in this process and in others that start the same consumer: each is kept by one worker at a
    /// time, and those of a process that has gone are taken over. How many they are is settled when the consumer starts for the first
    /// time.
    pub fn partitions(self, partitions: u32) -> Self {
        Self { partitions, ..self }
    }

    /// How often an event that is refused is tried before it is parked: 5 times unless said otherwise, at least once.
    pub fn attempts(self, attempts: u32) -> Self {
        Self { attempts: attempts.max(1), ..self }
    }

    /// How many keys of a partition may be held up by what is set aside: 1,000 unless said otherwise, at least one. Beyond that it
    /// stops and says so, until there is room again. (Of all events that are set aside there may be a hundred times as many.)
    pub fn parked_keys(self, keys: usize) -> Self {
        Self { parked_keys: keys.max(1), ..self }
    }

    /// How long a worker that does not answer any more keeps its partitions from others: 10 s unless said otherwise, at least a tenth
    /// of a second. A handler may take longer for an event: its worker keeps the partition while it lives.
    pub fn lease(self, lease: Duration) -> Self {
        Self { lease: lease.max(Duration::from_millis(100)), ..self }
    }

    /// Begins at the end of the log, as it is when this consumer starts for the first time. What happened before is none of its
    /// business.
    pub fn from_now(self) -> Self {
        Self { from_now: true, ..self }
    }

    /// Starts it, in the background. `reads` keeps its checkpoint and what it sets aside.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a bad name or query, or a number of partitions other than that of its checkpoints; failures of
    /// the stores; [`Error::Unavailable`] outside of a tokio runtime.
    pub async fn start(self, reads: Arc<dyn ReadStore>) -> Result<Processor> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::Unavailable {
            why: "a consumer needs a tokio runtime to run in".into(),
            outcome: Outcome::No,
        })?;
        let (name, query) = (self.sink.name().to_owned(), self.sink.query()?);
        let layout = Layout::new(&name, self.partitions)?;
        layout.settle(&*reads, &**self.factum.store(), self.from_now).await?;
        let bounds = Bounds {
            attempts: self.attempts,
            keys: self.parked_keys,
            letters: self.parked_keys.saturating_mul(LETTERS_PER_KEY),
        };
        let me = new_holder();
        let plan = |partition| -> Result<Arc<Plan>> {
            Ok(Arc::new(Plan {
                sink: self.sink.clone(),
                reads: reads.clone(),
                road: self.road.clone(),
                query: query.clone(),
                orders: orders::stream(&name)?,
                model: layout.model(partition),
                slices: layout.slices(partition),
                bounds,
                hold: Hold {
                    name: partition_hold(&name, &format!("{partition:04}")),
                    holder: me.clone(),
                    ttl: self.lease,
                },
            }))
        };
        let plans = (0..layout.partitions).map(plan).collect::<Result<Vec<_>>>()?;
        let views: Views = plans.iter().map(|_| Arc::new(watch::Sender::new(View::new()))).collect();
        let (stop, stopped) = watch::channel(false);
        let (running, ended) = watch::channel(());
        let store = self.factum.store().clone();
        let mut supervisor = Supervisor::new(&name, &me, self.lease, plans, views.clone());
        if store.is_exclusive() {
            supervisor.take_over_from_the_dead().await?;
        }
        // Whoever looks at once finds it at work; what may pass is waited out later.
        supervisor.round().await.or_else(|error| if error.is_retryable() { Ok(()) } else { Err(error) })?;
        runtime.spawn(async move {
            supervisor.run(stopped).await;
            drop(running);
        });
        let parked = self.factum.parked(&name, reads.clone())?;
        let inner = Inner { name, query, store, reads, layout, views, parked, stop, ended };
        Ok(Processor { inner: Arc::new(inner) })
    }
}

/// What names this process among all that ever work on the same log.
pub(crate) fn process() -> &'static str {
    static PROCESS: OnceLock<String> = OnceLock::new();
    PROCESS.get_or_init(|| format!("process-{}-{}", std::process::id(), EventId::new()))
}

/// A new name for somebody in this process who holds something.
pub(crate) fn new_holder() -> String {
    format!("{}/{}", process(), EventId::new())
}

/// Whether a holder is of this process.
pub(crate) fn is_of_this_process(holder: &str) -> bool {
    holder.strip_prefix(process()).is_some_and(|rest| rest.starts_with('/'))
}

/// What the workers of a process tell, by partition.
pub(super) type Views = Arc<[Arc<watch::Sender<View>>]>;

/// A handle to a consumer that handles events. It stops when the last clone is dropped, or by [`stop`](Processor::stop).
#[derive(Clone)]
pub struct Processor {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    query: Query,
    store: Arc<dyn EventStore>,
    reads: Arc<dyn ReadStore>,
    layout: Layout,
    views: Views,
    parked: Parked,
    stop: watch::Sender<bool>,
    ended: watch::Receiver<()>,
}

/// How a consumer that handles events is.
#[derive(Clone, Debug, PartialEq)]
pub struct ProcessorStatus {
    /// How far the log reaches.
    pub head: Position,
    /// How many events the partition that has come least far is behind: up to a thousand they are counted, beyond that it is the
    /// distance between the positions, which have holes, and so a bound.
    pub lag_events: u64,
    /// For how long the oldest event that is not handled has been waiting. What is set aside is not counted.
    pub lag: Duration,
    /// Each partition.
    pub partitions: Vec<PartitionStatus>,
}

/// How a partition of a consumer is.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionStatus {
    /// Which it is, from 0 on.
    pub number: u32,
    /// How far it has come.
    pub position: Position,
    /// Who keeps it. `None`: nobody, at the moment.
    pub worker: Option<String>,
    /// What it is doing. `None`, if it is not kept in this process.
    pub state: Option<State>,
    /// Keys that are held up, and events that are set aside.
    pub parked_keys: usize,
    /// Events that are set aside.
    pub dead_letters: usize,
    /// Events per second in this process, of late.
    pub rate: f64,
}

impl fmt::Display for ProcessorStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let least = self.partitions.iter().map(|partition| partition.position).min().unwrap_or_default();
        write!(f, "at position {least} of {}", self.head)?;
        if self.lag_events > 0 {
            write!(f, ", {} events and {:.1} s behind", self.lag_events, self.lag.as_secs_f64())?;
        }
        let letters: usize = self.partitions.iter().map(|partition| partition.dead_letters).sum();
        let keys: usize = self.partitions.iter().map(|partition| partition.parked_keys).sum();
        if letters > 0 {
            write!(f, "; {letters} events of {keys} keys set aside")?;
        }
        for partition in &self.partitions {
            let PartitionStatus { number, state, worker, rate, .. } = partition;
            match (state, worker) {
                (Some(state), _) => write!(f, "; partition {number}: {state}, {rate:.0} events/s")?,
                (None, Some(worker)) => write!(f, "; partition {number}: kept by {worker}")?,
                (None, None) => write!(f, "; partition {number}: kept by nobody")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Processing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Processing({})", self.sink.name())
    }
}

impl fmt::Debug for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Processor({})", self.inner.name)
    }
}

impl Processor {
    /// The consumer's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// What it has set aside: to look at, to retry, to skip.
    pub fn parked(&self) -> &Parked {
        &self.inner.parked
    }

    /// Waits until everything up to `to` has been handled or set aside, wherever its partitions are kept, for at most 10 seconds. Stores
    /// that fail for a while are asked again until then.
    ///
    /// # Errors
    /// [`Error::Timeout`] saying how far it is, [`Error::LogRewound`] for a token of another history or beyond the end of the log, also if
    /// it is the checkpoint that is of another one, and the reason why it stopped, if it did.
    pub async fn wait_for(&self, to: impl Into<Token> + Send) -> Result<()> {
        self.wait_for_within(to, PATIENCE).await
    }

    /// As [`wait_for`](Self::wait_for), for at most so long.
    ///
    /// # Errors
    /// As for [`wait_for`](Self::wait_for).
    pub async fn wait_for_within(&self, to: impl Into<Token> + Send, within: Duration) -> Result<()> {
        let mut to = to.into();
        let arrival = async {
            to = self.locate(to).await?;
            for partition in 0..self.inner.layout.partitions {
                self.arrival(partition, &mut to).await?;
            }
            Ok(())
        };
        if let Ok(arrived) = tokio::time::timeout(within, arrival).await {
            return arrived;
        }
        // What keeps it from telling is worth telling, too.
        let how = tokio::time::timeout(TO_TELL, self.status()).await;
        let how = match how {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the stores do not answer".to_owned(),
        };
        let what = format!("waiting for `{}` to reach position {} ({how})", self.inner.name, to.position);
        let after_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        Err(Error::Timeout { what, after_ms, outcome: Outcome::No })
    }

    /// The place in the present epoch of the log, as soon as the log says so.
    async fn locate(&self, to: Token) -> Result<Token> {
        loop {
            match self.inner.store.locate(to).await {
                Err(error) if error.is_retryable() => tokio::time::sleep(LOOK).await,
                located => return located,
            }
        }
    }

    async fn arrival(&self, partition: u32, to: &mut Token) -> Result<()> {
        let Some(view) = self.inner.views.get(partition as usize) else { return Ok(()) };
        let mut view = view.subscribe();
        loop {
            let shown = view.borrow_and_update().clone();
            let failed = match self.has_arrived(partition, shown.token, to).await {
                Ok(true) => return Ok(()),
                Ok(false) => None,
                Err(error) => Some(error).filter(|error| !error.is_retryable()),
            };
            if let State::Stopped(error) = shown.state {
                return Err(error);
            }
            if let Some(error) = failed {
                return Err(error);
            }
            // One that is kept elsewhere tells only its checkpoint.
            let _ = tokio::time::timeout(LOOK, view.changed()).await;
        }
    }

    /// Whether a partition has come to a place, by what its worker says here or by its checkpoint.
    async fn has_arrived(&self, partition: u32, seen: Option<Token>, to: &mut Token) -> Result<bool> {
        let Inner { reads, layout, .. } = &*self.inner;
        if let Some(seen) = seen
            && self.is_past(seen, to).await?
        {
            return Ok(true);
        }
        let active = reads.catalog(&layout.model(partition)).await?.active;
        match active.and_then(|active| active.checkpoint) {
            Some(at) => self.is_past(at, to).await,
            None => Ok(false),
        }
    }

    /// Compares two places of one history: a checkpoint may be of a former epoch that goes on, or of another log.
    async fn is_past(&self, mut at: Token, to: &mut Token) -> Result<bool> {
        if at.log != to.log {
            at = self.inner.store.locate(at).await?;
            // The epoch may have changed since the wait began.
            *to = self.inner.store.locate(*to).await?;
        }
        Ok(at.log == to.log && at.position >= to.position)
    }

    /// How it is, in all processes.
    ///
    /// # Errors
    /// Failures of the stores.
    pub async fn status(&self) -> Result<ProcessorStatus> {
        let Inner { name, query, store, reads, layout, views, .. } = &*self.inner;
        let head = store.head().await?.token;
        let (mut partitions, mut tokens) = (Vec::new(), Vec::new());
        for ((mut partition, stored), view) in
            look(&**reads, name, layout).await?.into_iter().zip(views.iter())
        {
            let mut token = stored;
            if partition.worker.as_deref().is_some_and(is_of_this_process) {
                let view = view.borrow().clone();
                token = view.token.or(stored);
                partition.position = token.map_or(Position::START, |token| token.position);
                (partition.state, partition.rate) = (Some(view.state), view.rate.now());
            }
            tokens.push(token);
            partitions.push(partition);
        }
        let least = tokens.into_iter().min_by_key(|token| token.map(|token| token.position)).flatten();
        let (lag_events, lag) = lag(&**store, query, least, head).await;
        Ok(ProcessorStatus { head: head.position, lag_events, lag, partitions })
    }

    /// Where its checkpoint is.
    pub(crate) fn reads(&self) -> &dyn ReadStore {
        &*self.inner.reads
    }

    /// Whether it has been stopped, and has finished what it had in hand.
    pub(super) fn is_over(&self) -> bool {
        self.inner.ended.has_changed().is_err()
    }

    /// Stops it, and waits for that: what is in hand is finished, what is done is stored, and its partitions are free for others. A
    /// handler that takes longer than the lease is dropped where it is.
    pub async fn stop(&self) {
        self.inner.stop.send_replace(true);
        let mut ended = self.inner.ended.clone();
        while ended.changed().await.is_ok() {}
    }
}

/// How the partitions of a consumer are, as far as that is stored, each with its checkpoint.
pub(super) async fn look(
    reads: &dyn ReadStore,
    name: &str,
    layout: &Layout,
) -> Result<Vec<(PartitionStatus, Option<Token>)>> {
    let held = reads.holds().held(&partition_hold(name, "")).await?;
    let mut partitions = Vec::new();
    for (number, model) in (0..).zip(layout.models()) {
        let hold = partition_hold(name, &format!("{number:04}"));
        partitions.push(look_at(reads, number, &model, &hold, &held).await?);
    }
    Ok(partitions)
}

/// One of them, whose checkpoint is that of a model, kept by who holds a name.
pub(super) async fn look_at(
    reads: &dyn ReadStore,
    number: u32,
    model: &str,
    hold: &str,
    held: &[reads::Hold],
) -> Result<(PartitionStatus, Option<Token>)> {
    let active = reads.catalog(model).await?.active;
    let letters = match active {
        Some(active) => stored(reads, model, active.number).await?,
        None => Vec::new(),
    };
    let keys: BTreeSet<&str> = letters.iter().map(|letter| letter.key.as_str()).collect();
    let token = active.and_then(|active| active.checkpoint);
    let status = PartitionStatus {
        number,
        position: token.map_or(Position::START, |token| token.position),
        worker: held.iter().find(|held| held.name == hold).map(|held| held.holder.clone()),
        state: None,
        parked_keys: keys.len(),
        dead_letters: letters.len(),
        rate: 0.0,
    };
    Ok((status, token))
}

/// What a worker holds that keeps a partition.
fn partition_hold(name: &str, partition: &str) -> String {
    format!("{name}/partition/{partition}")
}
