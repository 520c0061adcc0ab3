//! Consumers: what follows the log in the background, as its users see it.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    batch::{Batch, Filled},
    error::{Error, LogRewound, Outcome, Result},
    event::RecordedEvent,
    handle::Factum,
    position::{Position, Token},
    progress::Progress,
    query::Query,
    read::{AsOf, Read},
    reads::{Generation, Lease, ReadStore, check_model_name},
    rebuild::{Rebuild, RebuildProgress},
    store::EventStore,
    time::{Clock, SystemClock},
    worker::{Command, LOOKS_EVERY, Worker},
};

/// How long [`Consumer::wait_for`] waits.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Events that [`Consumer::status`] counts, at most.
const COUNTED: usize = 1000;

/// The form in which a projection is kept: what the runtime drives. Documents are built in; SQL is in `factum-sqlite`.
#[async_trait]
pub trait Form: Send + Sync + 'static {
    /// The model's name.
    fn name(&self) -> &str;

    /// The projection's version. One later than the stored one rebuilds.
    fn version(&self) -> u32;

    /// The events that it is made from.
    ///
    /// # Errors
    /// Those of [`Query`]'s constructors.
    fn query(&self) -> Result<Query>;

    /// Where the model lives.
    fn reads(&self) -> &dyn ReadStore;

    /// Whether a new generation could be made and shown: tried, and left without a trace, before the model is taken over from
    /// whoever keeps it now.
    ///
    /// # Errors
    /// Why not.
    async fn rehearse(&self) -> Result<()> {
        Ok(())
    }

    /// Begins a new, empty generation.
    ///
    /// # Errors
    /// Those of [`ReadStore::create`].
    async fn create(&self, lease: &Lease) -> Result<Generation> {
        self.reads().create(lease, self.version()).await
    }

    /// What fills a generation.
    fn filler(&self, generation: u32) -> Box<dyn Filler>;
}

/// Fills one generation of a model.
#[async_trait]
pub trait Filler: Send + Sync {
    /// Applies the events in order, and moves the checkpoint in the same transaction.
    ///
    /// # Errors
    /// [`Error::Fenced`] and failures of the store. The filler is not used again then.
    async fn fill(&mut self, lease: &Lease, batch: Batch) -> Result<Filled>;

    /// Tries again what it has set aside up to the checkpoint `at`, where it does so.
    ///
    /// # Errors
    /// As for [`fill`](Filler::fill).
    async fn retry_parked(
        &mut self,
        _lease: &Lease,
        _at: Option<Token>,
        _log: &dyn EventStore,
    ) -> Result<()> {
        Ok(())
    }

    /// How many keys are held up by what it has set aside, and how many events that is.
    fn parked(&self) -> (usize, usize) {
        (0, 0)
    }
}

/// Fills a new generation with what the visible events of the log make, up to `to`, and shows it. The model's store is one that
/// nobody else keeps anything in.
///
/// # Errors
/// [`Error::LogRewound`] if `to` is of another history, the first problem with an event, and failures of the stores.
pub async fn fill_anew(store: &dyn EventStore, form: &dyn Form, to: Option<Token>) -> Result<()> {
    let lease = form.reads().claim(form.name()).await?;
    let generation = form.create(&lease).await?;
    if let Some(to) = to {
        let position = store.locate(to).await?.position;
        let read = Read::query(form.query()?).as_of(AsOf::Position(position));
        let (mut filler, mut from, mut next) = (form.filler(generation.number), None, Some(read));
        // Page by page: a log need not fit into memory.
        while let Some(read) = next.take() {
            let page = store.read(read.clone()).await?;
            let filled = filler.fill(&lease, Batch::new(from, page.token, page.events)).await?;
            from = filled.checkpoint;
            filled.problem.map_or(Ok(()), Err)?;
            next = page.next.map(|start| Read { start, ..read });
        }
    }
    form.reads().activate(&lease, generation.number).await
}

/// What a consumer is doing.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// It works through what is already in the log.
    CatchingUp,
    /// It has seen everything, and handles events as they come.
    Live,
    /// The log or the read store fails for a while; it tries again.
    Waiting(Error),
    /// It will not go on by itself, for this reason.
    Stopped(Error),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CatchingUp => f.write_str("catching up"),
            Self::Live => f.write_str("live"),
            Self::Waiting(error) => write!(f, "waiting, because {error}"),
            Self::Stopped(error) => write!(f, "stopped, because {error}"),
        }
    }
}

/// How a consumer is.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// How far its readers see. The start, as long as readers are shown another version.
    pub position: Position,
    /// How far the log reaches.
    pub head: Position,
    /// How many events it is behind: up to a thousand they are counted, beyond that it is the distance between the positions,
    /// which have holes, and so a bound.
    pub lag_events: u64,
    /// For how long the oldest event that it has not handled has been waiting.
    pub lag: Duration,
    /// Events per second, of late.
    pub rate: f64,
    /// Streams that are held up by events that are parked.
    pub parked_streams: usize,
    /// Events that are parked.
    pub parked_events: usize,
    /// How a rebuild comes on, if there is one.
    pub rebuilding: Option<RebuildProgress>,
    /// What it is doing.
    pub state: State,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, head, lag_events, lag, rate, rebuilding, state, .. } = self;
        write!(f, "{state}; at position {position} of {head}")?;
        if *lag_events > 0 {
            write!(f, ", {lag_events} events and {:.1} s behind", lag.as_secs_f64())?;
        }
        write!(f, "; {rate:.0} events/s")?;
        if self.parked_events > 0 {
            write!(f, "; {} events of {} streams are parked", self.parked_events, self.parked_streams)?;
        }
        match rebuilding {
            Some(progress) => write!(f, "; rebuilding, {progress}"),
            None => Ok(()),
        }
    }
}

/// A handle to a consumer. It stops when the last clone is dropped, or by [`stop`](Consumer::stop).
#[derive(Clone, Debug)]
pub struct Consumer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    query: Query,
    store: Arc<dyn EventStore>,
    commands: mpsc::UnboundedSender<Command>,
    progress: watch::Receiver<Progress>,
}

impl Factum {
    /// Starts to keep a model of this form up to date, in the background. Where other processes can have the log open, too, and one of
    /// them keeps the model, it stands by and takes over when that one has gone; else it takes the model over from any other worker, unless
    /// the model is of another history of the log: then it has stopped, and takes it over in a
    /// [rebuild](Consumer::rebuild).
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a bad name or query, failures of the read store that will not pass, and [`Error::Unavailable`] outside of a
    /// tokio runtime.
    pub async fn consume(&self, form: impl Form) -> Result<Consumer> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::Unavailable {
            why: "a consumer needs a tokio runtime to run in".into(),
            outcome: Outcome::No,
        })?;
        check_model_name(form.name())?;
        let (name, query) = (form.name().to_owned(), form.query()?);
        let (commands, orders) = mpsc::unbounded_channel();
        let (mut worker, progress) = Worker::new(self.road(), query.clone(), Arc::new(form), orders);
        worker.begin().await?;
        runtime.spawn(worker.run());
        let inner = Inner { name, query, store: self.store().clone(), commands, progress };
        Ok(Consumer { inner: Arc::new(inner) })
    }
}

impl Consumer {
    /// The model's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Waits until readers see everything up to `to`, for at most 10 seconds: `wait_for(&done)`.
    ///
    /// # Errors
    /// [`Error::Timeout`] saying how far behind it is, [`Error::LogRewound`] for a token of another history or beyond the end
    /// of the log, and the reason why it stopped, if it did.
    pub async fn wait_for(&self, to: impl Into<Token> + Send) -> Result<()> {
        self.wait_for_within(to, PATIENCE).await
    }

    /// Waits until readers see everything up to `to`, for at most so long.
    ///
    /// # Errors
    /// As for [`wait_for`](Self::wait_for).
    pub async fn wait_for_within(&self, to: impl Into<Token> + Send, within: Duration) -> Result<()> {
        let mut to = to.into();
        let mut progress = self.inner.progress.clone();
        let already = arrived(&progress.borrow(), to);
        if matches!(already, None | Some(Err(Error::LogRewound(_)))) {
            // A place that the log does not have would be waited for in vain; one of a former epoch may be there all the same.
            match tokio::time::timeout(within, self.inner.store.locate(to)).await {
                Ok(Ok(place)) => to = place,
                Ok(Err(rewound @ Error::LogRewound(_))) => return Err(rewound),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        let arrival = async {
            loop {
                if matches!(progress.borrow().state, State::Waiting(_)) {
                    // What another process does with the model is not told, and must be looked for.
                    self.order(Command::Look);
                }
                let arrival = progress.wait_for(|progress| arrived(progress, to).is_some());
                match tokio::time::timeout(LOOKS_EVERY, arrival).await {
                    Ok(Ok(progress)) => return arrived(&progress, to).unwrap_or(Ok(())),
                    Ok(Err(_)) => return Err(ended(self.name())),
                    Err(_) => {}
                }
            }
        };
        tokio::time::timeout(within, arrival).await.unwrap_or_else(|_| Err(self.too_late(to, within)))
    }

    fn too_late(&self, to: Token, within: Duration) -> Error {
        let progress = self.inner.progress.borrow();
        let at = progress.position();
        let behind = to.position.0.saturating_sub(at.0);
        let (name, state) = (self.name(), &progress.state);
        let what = format!(
            "waiting for the read model `{name}` to reach position {} (it is {state}, at {at}, at most {behind} events behind)",
            to.position
        );
        Error::Timeout {
            what,
            after_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
            outcome: Outcome::No,
        }
    }

    /// How it is.
    ///
    /// # Errors
    /// Failures of the event store.
    pub async fn status(&self) -> Result<Status> {
        let Inner { store, query, .. } = &*self.inner;
        let progress = self.inner.progress.borrow().clone();
        let head = store.head().await?.token;
        let position = progress.position();
        let (lag_events, lag) = lag(&**store, query, progress.token, head).await;
        Ok(Status {
            position,
            head: head.position,
            lag_events,
            lag,
            rate: progress.rate.now(),
            parked_streams: progress.parked.0,
            parked_events: progress.parked.1,
            rebuilding: progress.rebuilding.map(|rebuilding| rebuilding.now()),
            state: progress.state,
        })
    }

    /// Fills the model anew from the beginning of the log, beside the one that readers see, and switches once it has caught
    /// up: `balances.rebuild().await?`. Commands and readers go on meanwhile, and readers never see an older state than
    /// before. It also mends a model that has stopped, unless another worker has taken it over: start it anew then.
    ///
    /// It has begun when this returns. See [`Rebuild`] for its progress, and for how to give it up.
    pub fn rebuild(&self) -> Rebuild {
        Rebuild::begin(self)
    }

    /// Tries what is parked again, in order, with what waits behind it. What still cannot be applied stays parked; `status` tells how
    /// much that is.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if another worker keeps the model, the reason why it has stopped if it has, and failures of the stores.
    pub async fn retry_parked(&self) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        self.order(Command::Retry(answer));
        answered.await.unwrap_or_else(|_| Err(ended(self.name())))
    }

    /// Stops it after the batch at hand, and waits for that. It goes on there the next time.
    pub async fn stop(&self) {
        self.order(Command::Stop);
        let mut progress = self.inner.progress.clone();
        while progress.changed().await.is_ok() {}
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.inner.progress.clone()
    }

    pub(crate) fn order(&self, command: Command) {
        // Where the order does not arrive, it has ended already.
        let _ = self.inner.commands.send(command);
    }

    pub(crate) fn rebuilding(&self) -> Option<RebuildProgress> {
        self.inner.progress.borrow().rebuilding.map(|rebuilding| rebuilding.now())
    }
}

/// How many events a consumer that has come to `at` is behind, and for how long the first of these has been waiting.
pub(crate) async fn lag(
    store: &dyn EventStore,
    query: &Query,
    at: Option<Token>,
    head: Token,
) -> (u64, Duration) {
    let at = at.unwrap_or_else(|| head.log.at(Position::START));
    if at.position >= head.position {
        return (0, Duration::ZERO);
    }
    // A token of another history has no next events here; the state says what is the matter.
    let Ok(page) = store.read(Read::query(query.clone()).beyond(at).limit(COUNTED)).await else {
        return (0, Duration::ZERO);
    };
    let counted = page.events.len() as u64;
    let events = if page.next.is_none() { counted } else { head.position.0 - at.position.0 };
    let waiting = |event: &RecordedEvent| SystemClock.now().since(event.recorded_at);
    (events, page.events.first().map_or(Duration::ZERO, waiting))
}

/// Whether waiting for `to` is over, and how.
fn arrived(progress: &Progress, to: Token) -> Option<Result<()>> {
    match (progress.token, &progress.state) {
        (Some(at), _) if at.log == to.log && at.position >= to.position => Some(Ok(())),
        (_, State::Stopped(error)) => Some(Err(error.clone())),
        (Some(at), _) if at.log != to.log && progress.rebuilding.is_none() => {
            Some(Err(LogRewound { token: to, log: at.log, head: at.position }.into()))
        }
        _ => None,
    }
}

/// The answer of a consumer that has ended.
pub(crate) fn ended(name: &str) -> Error {
    Error::Unavailable { why: format!("the consumer `{name}` has been stopped"), outcome: Outcome::No }
}
