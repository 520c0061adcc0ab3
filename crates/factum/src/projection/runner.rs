//! The task that keeps a read model: catches up, follows, rebuilds, and says how it is.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{Attached, Difference, Generation, Place};
use crate::{
    error::{Error, Outcome, Result},
    event::RecordedEvent,
    position::{LogIdentity, Position, Token},
    query::Query,
    read::{AsOf, Read},
    store::{EventStore, EventStoreExt, subscribe},
    subscription::{Delivery, Subscription},
    time::{Clock, SystemClock, Timestamp},
};

/// How long [`Runner::wait_for`] waits when nobody says otherwise.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The first pause after a failure of a store, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));
/// Events that [`Runner::status`] counts, at most.
const COUNTED: u64 = 100_000;

/// What a runner keeps.
#[async_trait]
pub trait Target: Send + Sync + 'static {
    /// What it is called.
    fn name(&self) -> &'static str;
    /// The version of what makes it.
    fn version(&self) -> u32;
    /// Which events it looks at.
    ///
    /// # Errors
    /// What is wrong with a name in it.
    fn query(&self) -> Result<Query>;
    /// As for [`super::ReadStore::attach`].
    ///
    /// # Errors
    /// As there.
    async fn attach(&self) -> Result<Attached>;
    /// As for [`super::ReadStore::begin`].
    ///
    /// # Errors
    /// As there.
    async fn begin(&self, epoch: u64) -> Result<Generation>;
    /// Changes the rows as these events say and moves the checkpoint, as one.
    ///
    /// # Errors
    /// [`Error::Fenced`], what is wrong with an event, and failures of the read store.
    async fn apply(
        &self,
        place: Place<'_>,
        from: Option<Token>,
        to: Token,
        events: Vec<RecordedEvent>,
    ) -> Result<()>;
    /// As for [`super::ReadStore::activate`].
    ///
    /// # Errors
    /// As there.
    async fn activate(&self, place: Place<'_>) -> Result<()>;
    /// How the active generation differs from what these events make: all that there are up to its checkpoint.
    ///
    /// # Errors
    /// What is wrong with an event, and failures of the read store.
    async fn differences(&self, events: Vec<RecordedEvent>) -> Result<Vec<Difference>>;
}

/// How a read model is kept.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// There are events that it has not seen.
    CatchingUp,
    /// It has seen everything, and follows.
    Live,
    /// It is not kept any more.
    Stopped(Error),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CatchingUp => f.write_str("catching up"),
            Self::Live => f.write_str("live"),
            Self::Stopped(reason) => write!(f, "stopped: {reason}"),
        }
    }
}

/// How far a read model is, and how well.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// What it is called.
    pub name: &'static str,
    /// The version of what makes it.
    pub version: u32,
    /// How it is kept.
    pub state: State,
    /// How far it has come.
    pub position: Position,
    /// The end of the log.
    pub head: Position,
    /// Events that it has yet to look at; at most 100,000 are counted.
    pub lag_events: u64,
    /// How long the first of these has been waiting, in seconds.
    pub lag_seconds: f64,
    /// Events looked at in a second, since it began to catch up or to follow.
    pub events_per_second: f64,
    /// How far a rebuild has come, if there is one.
    pub rebuilding: Option<Position>,
}

/// What the task lets others see.
#[derive(Clone, Debug)]
struct Progress {
    log: LogIdentity,
    position: Position,
    state: State,
    rebuilding: Option<Position>,
    events: u64,
    since: Timestamp,
}

enum Wish {
    Rebuild(oneshot::Sender<Result<()>>),
    Verify(oneshot::Sender<Result<Vec<Difference>>>),
    Stop,
}

/// A read model that is being kept, until this is dropped.
#[derive(Debug)]
pub struct Runner {
    store: Arc<dyn EventStore>,
    query: Query,
    name: &'static str,
    version: u32,
    wishes: mpsc::UnboundedSender<Wish>,
    progress: watch::Receiver<Progress>,
    task: JoinHandle<()>,
}

impl Drop for Runner {
    fn drop(&mut self) {
        // A batch that is cut off has no effect: its change is one transaction.
        self.task.abort();
    }
}

impl Runner {
    /// Takes the read model over and starts keeping it.
    ///
    /// # Errors
    /// Those of the stores, and [`Error::LogRewound`] if it was made from another log.
    pub async fn start(store: Arc<dyn EventStore>, target: Arc<dyn Target>) -> Result<Self> {
        let query = target.query()?;
        let Attached { epoch, active, building } = target.attach().await?;
        let version = target.version();
        let mut keeper = Keeper { store: store.clone(), target: target.clone(), query: query.clone(), epoch };
        let current = |generation: &Generation| generation.version == version;
        let mut lines = Lines { active: None, building: None, waiting: Vec::new() };
        match active {
            Some(active) if current(&active) => lines.active = Some(keeper.line(active).await?),
            // An older version can be read until the new one is there, but nobody knows how to keep it.
            _ if building.as_ref().is_some_and(current) => {}
            None => lines.active = Some(keeper.begin().await?),
            Some(_) => lines.building = Some(keeper.begin().await?),
        }
        if let Some(building) = building.filter(current) {
            lines.building = Some(keeper.line(building).await?);
        }
        let log = store.head().await?.token.log;
        let progress = Progress {
            log,
            position: lines.active.as_ref().map_or(Position::START, |line| line.seen.position),
            state: State::CatchingUp,
            rebuilding: lines.building.as_ref().map(|line| line.seen.position),
            events: 0,
            since: SystemClock.now(),
        };
        let (told, progress) = watch::channel(progress);
        let (wishes, heard) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let reason = keeper.keep(&mut lines, heard, &told).await;
            told.send_modify(|progress| progress.state = State::Stopped(reason.clone()));
            for waiting in lines.waiting {
                let _ = waiting.send(Err(reason.clone()));
            }
        });
        Ok(Self { store, query, name: target.name(), version, wishes, progress, task })
    }

    /// As for [`super::Projected::wait_for_within`].
    ///
    /// # Errors
    /// As there.
    pub async fn wait_for(&self, token: Token, at_most: Duration) -> Result<()> {
        let mut progress = self.progress.clone();
        let log = progress.borrow().log;
        if token.log != log {
            // Says what is wrong with it.
            token.position_in(log, token.position)?;
        }
        let arrived =
            progress.wait_for(|p| p.position >= token.position || matches!(p.state, State::Stopped(_)));
        match tokio::time::timeout(at_most, arrived).await {
            Ok(Ok(progress)) if progress.position >= token.position => Ok(()),
            Ok(Ok(progress)) => Err(self.stopped(&progress.state)),
            Ok(Err(_)) => Err(self.stopped(&State::Live)),
            Err(_) => {
                let position = self.progress.borrow().position;
                let what = format!(
                    "waiting for the read model `{}`, now at position {position}, to reach {}",
                    self.name, token.position
                );
                let after_ms = u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX);
                Err(Error::Timeout { what, after_ms, outcome: Outcome::No })
            }
        }
    }

    fn stopped(&self, state: &State) -> Error {
        let why = match state {
            State::Stopped(reason) => format!("the read model `{}` has stopped: {reason}", self.name),
            _ => format!("the read model `{}` is not kept any more", self.name),
        };
        Error::Unavailable { why, outcome: Outcome::No }
    }

    async fn wish<T>(&self, wish: impl FnOnce(oneshot::Sender<Result<T>>) -> Wish) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let asked = self.wishes.send(wish(reply)).is_ok();
        match answer.await {
            Ok(result) if asked => result,
            _ => Err(self.stopped(&self.progress.borrow().state.clone())),
        }
    }

    /// As for [`super::Projected::rebuild`].
    ///
    /// # Errors
    /// As there.
    pub async fn rebuild(&self) -> Result<()> {
        self.wish(Wish::Rebuild).await
    }

    /// As for [`super::Projected::verify`].
    ///
    /// # Errors
    /// As there.
    pub async fn verify(&self) -> Result<Vec<Difference>> {
        self.wish(Wish::Verify).await
    }

    /// As for [`super::Projected::stop`].
    pub async fn stop(&self) {
        let _ = self.wishes.send(Wish::Stop);
        let stopped = |progress: &Progress| matches!(progress.state, State::Stopped(_));
        let _ = self.progress.clone().wait_for(stopped).await;
    }

    /// As for [`super::Projected::status`].
    ///
    /// # Errors
    /// As there.
    pub async fn status(&self) -> Result<Status> {
        let Progress { log, position, state, rebuilding, events, since } = self.progress.borrow().clone();
        let now = SystemClock.now();
        let mut lag = (0, None);
        let read = Read::query(self.query.clone()).beyond(log.at(position));
        let counted = self.store.read_pages(read, |page| {
            lag.0 += page.events.len() as u64;
            lag.1 = lag.1.or(page.events.first().map(|event| event.recorded_at));
            if lag.0 >= COUNTED { Err(Counting::Enough) } else { Ok(()) }
        });
        if let Err(Counting::Failed(error)) = counted.await {
            return Err(error);
        }
        let seconds = now.since(since).as_secs_f64().max(0.001);
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let events_per_second = events as f64 / seconds;
        Ok(Status {
            name: self.name,
            version: self.version,
            state,
            position,
            head: self.store.head().await?.token.position,
            lag_events: lag.0.min(COUNTED),
            lag_seconds: lag.1.map_or(0.0, |at| now.since(at).as_secs_f64()),
            events_per_second,
            rebuilding,
        })
    }
}

/// Why the counting of events that wait ended early.
enum Counting {
    Enough,
    Failed(Error),
}

impl From<Error> for Counting {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A generation on its way through the log.
struct Line {
    generation: u64,
    checkpoint: Option<Token>,
    /// How far it has come, or where it starts.
    seen: Token,
    subscription: Subscription,
}

struct Lines {
    active: Option<Line>,
    building: Option<Line>,
    /// Who waits for the generation that is being built.
    waiting: Vec<oneshot::Sender<Result<()>>>,
}

struct Keeper {
    store: Arc<dyn EventStore>,
    target: Arc<dyn Target>,
    query: Query,
    epoch: u64,
}

/// What happens next.
enum Next {
    Wish(Option<Wish>),
    Active(Result<Delivery>),
    Building(Result<Delivery>),
}

impl Keeper {
    async fn line(&mut self, generation: Generation) -> Result<Line> {
        let subscription = subscribe(self.store.clone(), self.query.clone(), generation.checkpoint).await?;
        let seen = subscription.token();
        Ok(Line { generation: generation.number, checkpoint: generation.checkpoint, seen, subscription })
    }

    async fn begin(&mut self) -> Result<Line> {
        let generation = self.target.begin(self.epoch).await?;
        self.line(generation).await
    }

    fn place(&self, line: &Line) -> Place<'static> {
        Place { name: self.target.name(), epoch: self.epoch, generation: line.generation }
    }

    /// Goes on until there is a reason not to.
    async fn keep(
        &mut self,
        lines: &mut Lines,
        mut wishes: mpsc::UnboundedReceiver<Wish>,
        told: &watch::Sender<Progress>,
    ) -> Error {
        loop {
            let next = tokio::select! {
                biased;
                wish = wishes.recv() => Next::Wish(wish),
                next = next_of(lines) => next,
            };
            let done = match next {
                Next::Wish(None | Some(Wish::Stop)) => {
                    return Error::Unavailable { why: "it was stopped".into(), outcome: Outcome::No };
                }
                Next::Wish(Some(Wish::Rebuild(reply))) => self.rebuild(lines, reply).await,
                Next::Wish(Some(Wish::Verify(reply))) => {
                    let _ = reply.send(self.verify(lines).await);
                    Ok(())
                }
                Next::Active(delivery) => self.take_active(lines, delivery, told).await,
                Next::Building(delivery) => self.take_building(lines, delivery, told).await,
            };
            if let Err(reason) = done {
                return reason;
            }
        }
    }

    async fn rebuild(&mut self, lines: &mut Lines, reply: oneshot::Sender<Result<()>>) -> Result<()> {
        lines.waiting.push(reply);
        if lines.building.is_none() {
            lines.building = Some(self.begin().await?);
        }
        Ok(())
    }

    async fn verify(&self, lines: &Lines) -> Result<Vec<Difference>> {
        let Some(line) = &lines.active else {
            let why = format!("version {} is being built for the first time", self.target.version());
            return Err(Error::Unavailable { why, outcome: Outcome::No });
        };
        let read = Read::query(self.query.clone()).as_of(AsOf::Position(line.seen.position));
        self.target.differences(self.store.read_to_end(read).await?).await
    }

    async fn take_active(
        &mut self,
        lines: &mut Lines,
        delivery: Result<Delivery>,
        told: &watch::Sender<Progress>,
    ) -> Result<()> {
        let Some(line) = &mut lines.active else { return Ok(()) };
        let (state, events) = match delivery {
            Err(error) => (self.bear(error).await?, 0),
            Ok(Delivery::CaughtUp(_)) => (Some(State::Live), 0),
            Ok(Delivery::FellBehind(_)) => (Some(State::CatchingUp), 0),
            Ok(Delivery::LookedTo(token)) => {
                self.advance(line, token, &[]).await?;
                (None, 0)
            }
            Ok(Delivery::Events { events, token }) => {
                self.advance(line, token, &events).await?;
                (None, events.len() as u64)
            }
        };
        let seen = line.seen.position;
        told.send_modify(|progress| {
            progress.position = progress.position.max(seen);
            progress.events += events;
            if let Some(state) = state.filter(|state| *state != progress.state) {
                (progress.state, progress.events, progress.since) = (state, 0, SystemClock.now());
            }
        });
        Ok(())
    }

    async fn take_building(
        &mut self,
        lines: &mut Lines,
        delivery: Result<Delivery>,
        told: &watch::Sender<Progress>,
    ) -> Result<()> {
        let Some(line) = &mut lines.building else { return Ok(()) };
        let mut caught_up = false;
        match delivery {
            Err(error) => drop(self.bear(error).await?),
            Ok(Delivery::CaughtUp(_)) => caught_up = true,
            Ok(Delivery::FellBehind(_)) => {}
            Ok(Delivery::LookedTo(token)) => self.advance(line, token, &[]).await?,
            Ok(Delivery::Events { events, token }) => self.advance(line, token, &events).await?,
        }
        let seen = line.seen.position;
        told.send_modify(|progress| progress.rebuilding = Some(seen));
        // Readers never see it step back.
        let far_enough = match &lines.active {
            Some(active) => line.seen.position >= active.seen.position,
            None => caught_up,
        };
        if far_enough {
            let place = self.place(line);
            self.persist(|| self.target.activate(place)).await?;
            lines.active = lines.building.take();
            told.send_modify(|progress| {
                (progress.rebuilding, progress.position) = (None, progress.position.max(seen));
                if caught_up {
                    progress.state = State::Live;
                }
            });
            for waiting in lines.waiting.drain(..) {
                let _ = waiting.send(Ok(()));
            }
        }
        Ok(())
    }

    /// Applies events and moves the checkpoint.
    async fn advance(&self, line: &mut Line, to: Token, events: &[RecordedEvent]) -> Result<()> {
        let place = self.place(line);
        let from = line.checkpoint;
        self.persist(|| self.target.apply(place, from, to, events.to_vec())).await?;
        (line.checkpoint, line.seen) = (Some(to), to);
        Ok(())
    }

    /// Does it again for as long as only the read store is in the way: no event is to blame for that.
    ///
    /// An attempt whose answer was lost may have happened. Then the next one finds the checkpoint moved, and says `Fenced`: the
    /// worker stops, and whoever starts the next one goes on from where it is.
    async fn persist<F: Future<Output = Result<()>>>(&self, mut attempt: impl FnMut() -> F) -> Result<()> {
        let mut pause = PAUSES.0;
        loop {
            match attempt().await {
                Err(error) if error.is_retryable() => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
                result => return result,
            }
        }
    }

    /// Waits a little, if the store is only in the way for now.
    async fn bear(&self, error: Error) -> Result<Option<State>> {
        if error.is_retryable() {
            tokio::time::sleep(PAUSES.0).await;
            return Ok(None);
        }
        Err(error)
    }
}

/// What comes next of the two generations; each gets its turn.
async fn next_of(lines: &mut Lines) -> Next {
    let Lines { active, building, .. } = lines;
    match (active, building) {
        (Some(active), Some(building)) => tokio::select! {
            delivery = active.subscription.next() => Next::Active(delivery),
            delivery = building.subscription.next() => Next::Building(delivery),
        },
        (Some(active), None) => Next::Active(active.subscription.next().await),
        (None, Some(building)) => Next::Building(building.subscription.next().await),
        (None, None) => std::future::pending().await,
    }
}
