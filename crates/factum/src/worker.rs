//! The task behind a consumer: follows the log, fills generations, switches, backs off, stops loudly.

use std::{
    any::Any,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    batch::Batch,
    consumer::{Filler, Form, State, ended},
    error::{Error, Outcome, Result},
    pass::{self, News, Road, What},
    position::{Position, Token},
    progress::{Progress, Rate, Rebuilding},
    query::Query,
    reads::{Catalog, Generation, Lease},
    rebuild::{Asker, cancelled},
    store::EventStore,
    tenure::{STANDING_BY, Tenure},
};

/// How far a consumer may look over events that do not concern it before it stores how far it has looked.
pub(crate) const LOOKED_FAR: u64 = 10_000;
/// The first and the longest pause after a failure that may pass.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));

/// How often those who wait have it looked how far the model is that another process keeps.
pub(crate) const LOOKS_EVERY: Duration = Duration::from_millis(50);

/// How long it keeps to itself how far it has looked over what does not concern it, where other processes may wait for it.
const UNTOLD: Duration = Duration::from_millis(250);

/// What panics if a projection or a store does.
const KEEPING: &str = "the keeping of a read model";

/// The epoch of a lease before there is one.
const UNCLAIMED: u64 = 0;

/// What a consumer is told.
#[derive(Debug)]
pub(crate) enum Command {
    Rebuild(Asker),
    /// Gives up a rebuild, whoever asked for it.
    Cancel(oneshot::Sender<()>),
    /// Tries again what is parked.
    Retry(oneshot::Sender<Result<()>>),
    /// Looks how far the one is that keeps the model, if this one stands by.
    Look,
    Stop,
}

/// A generation on its way.
struct Lane {
    generation: Generation,
    filler: Box<dyn Filler>,
    feed: mpsc::Receiver<Result<News>>,
    /// How far it has looked: at the checkpoint, or beyond it where nothing concerned it.
    seen: Option<Token>,
    live: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Which {
    Active,
    Building,
}

enum Turn {
    Went,
    Over,
}

/// See the module.
pub(crate) struct Worker {
    store: Arc<dyn EventStore>,
    road: Arc<Road>,
    query: Query,
    form: Arc<dyn Form>,
    /// The right to claim the model. `None`: nobody but this process can want it, and the last to come has it.
    tenure: Option<Tenure>,
    /// Who keeps the model instead, and since when that is known.
    standby: Option<(Error, Instant)>,
    lease: Lease,
    orders: mpsc::UnboundedReceiver<Command>,
    progress: watch::Sender<Progress>,
    /// What readers see. `None` if it is not followed: stopped, or of another version.
    active: Option<Lane>,
    building: Option<Lane>,
    /// Who waits for a rebuild.
    rebuilds: Vec<Asker>,
    /// Why what readers see is not followed, until a rebuild has replaced it.
    stopped: Option<Error>,
    open: bool,
    failures: u32,
    /// Since when it has looked further than is stored, if that matters to others.
    untold: Option<Instant>,
    /// Whether what is parked was tried again since the model was claimed.
    retried: bool,
}

impl Worker {
    pub(crate) fn new(
        road: Arc<Road>,
        query: Query,
        form: Arc<dyn Form>,
        orders: mpsc::UnboundedReceiver<Command>,
    ) -> (Self, watch::Receiver<Progress>) {
        let progress = Progress {
            token: None,
            state: State::CatchingUp,
            rebuilding: None,
            parked: (0, 0),
            rate: Rate::new(),
        };
        let (progress, receiver) = watch::channel(progress);
        let lease = Lease { model: form.name().to_owned(), epoch: UNCLAIMED };
        let tenure = (!road.store().is_exclusive()).then(|| Tenure::new(form.clone()));
        let worker = Self {
            store: road.store().clone(),
            road,
            query,
            form,
            tenure,
            standby: None,
            lease,
            orders,
            progress,
            active: None,
            building: None,
            rebuilds: Vec::new(),
            stopped: None,
            open: false,
            failures: 0,
            untold: None,
            retried: false,
        };
        (worker, receiver)
    }

    /// Looks at what is stored, so that the consumer knows where it is before anyone asks.
    ///
    /// What may pass is waited out later; a log that was rewound is a reason to stop, which a rebuild mends.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        match self.reopen().await {
            Ok(()) => self.open = true,
            Err(error) if self.may_pass(&error) => self.wait(error),
            Err(error @ Error::LogRewound(_)) => self.halt(&error),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    pub(crate) async fn run(mut self) {
        loop {
            match unharmed(KEEPING, self.turn()).await {
                Ok(Turn::Went) => {}
                Ok(Turn::Over) => break,
                Err(error) if self.may_pass(&error) => {
                    // Whether the last change happened may be unknown: forget everything, and look at what is stored.
                    self.open = false;
                    self.wait(error);
                    if !self.pause().await {
                        break;
                    }
                }
                Err(error) => self.halt(&error),
            }
        }
        // Whoever waits is told in any case, even if the store panics.
        let _ = unharmed(KEEPING, self.store_how_far_it_looked()).await;
        if let Some(tenure) = &mut self.tenure {
            tenure.let_go().await;
        }
        self.halt(&ended(&self.lease.model));
    }

    /// Whether another attempt may do better. Fenced may also be said of a checkpoint that a crash of its database has taken back, and to
    /// one that still has the model's name: opening tells.
    fn may_pass(&self, error: &Error) -> bool {
        let fenced = matches!(error, Error::Fenced { .. });
        error.is_retryable() || fenced && (self.open || self.tenure.is_some())
    }

    async fn turn(&mut self) -> Result<Turn> {
        if !self.open {
            self.reopen().await?;
            self.open = true;
        }
        // In other processes only what is stored is seen.
        let further = |lane: &Lane| lane.seen.is_some() && lane.seen != lane.generation.checkpoint;
        let untold = self.tenure.is_some() && self.active.as_ref().is_some_and(further);
        self.untold = untold.then(|| self.untold.unwrap_or_else(Instant::now));
        tokio::select! {
            // Orders come before work: what is given up shall not go on for another batch.
            biased;
            order = self.orders.recv() => return self.obey(order).await,
            () = gone(&mut self.rebuilds) => if self.rebuilds.is_empty() {
                self.cancel_rebuild().await?;
            },
            () = lost(&mut self.tenure) => self.open = false,
            () = after(self.untold, UNTOLD) => self.store_how_far_it_looked().await?,
            (which, news) = either(&mut self.active, &mut self.building) => self.take(which, news).await?,
        }
        Ok(Turn::Went)
    }

    async fn obey(&mut self, order: Option<Command>) -> Result<Turn> {
        match order {
            Some(Command::Rebuild(asker)) => self.start_rebuild(asker).await?,
            Some(Command::Cancel(done)) => {
                let cancelled = self.cancel_rebuild().await;
                // Nobody is there to hear it if the caller has gone.
                let _ = done.send(());
                cancelled?;
            }
            Some(Command::Retry(answer)) => {
                let retried = match (&self.active, &self.stopped) {
                    (None, Some(why)) => Err(why.clone()),
                    _ => self.retry_parked().await,
                };
                // Nobody is there to hear it if the caller has gone.
                let _ = answer.send(retried.clone());
                retried?;
            }
            Some(Command::Look) => {}
            Some(Command::Stop) | None => return Ok(Turn::Over),
        }
        Ok(Turn::Went)
    }

    /// Sets out from what is stored.
    async fn reopen(&mut self) -> Result<()> {
        (self.active, self.building) = (None, None);
        let version = self.form.version();
        let mut catalog = self.form.reads().catalog(&self.lease.model).await?;
        self.rebuilds.retain_mut(Asker::is_there);
        if let Some(newer) = self.outdated_by(&catalog) {
            return self.leave_to(newer, &catalog).await;
        }
        self.hold(&catalog).await?;
        if self.lease.epoch == UNCLAIMED {
            // Who follows another log, or cannot make its tables, must not end the worker that keeps the model.
            self.check_history(&catalog).await?;
            let known = [catalog.active, catalog.building];
            if !known.into_iter().flatten().any(|generation| generation.version == version) {
                self.form.rehearse().await?;
            }
            self.claim().await?;
            catalog = self.form.reads().catalog(&self.lease.model).await?;
            // One that began in between is fenced now, but keeps what it has made.
            if let Some(newer) = self.outdated_by(&catalog) {
                return self.leave_to(newer, &catalog).await;
            }
        }
        if catalog.epoch != self.lease.epoch {
            return Err(self.lease.fenced(catalog.epoch));
        }
        self.show_stored(&catalog).await;
        self.show(|progress| {
            // What it waits for is over once something has been handled.
            if !matches!(progress.state, State::Waiting(_)) {
                progress.state = State::CatchingUp;
            }
        });
        self.check_history(&catalog).await?;
        match (catalog.active, catalog.building) {
            (None, Some(building)) if building.version == version && !self.rebuilds.is_empty() => {
                self.building = Some(self.lane(building));
            }
            (None, _) => {
                // Nobody has seen anything yet, so readers may watch it grow.
                let first = self.form.create(&self.lease).await?;
                self.form.reads().activate(&self.lease, first.number).await?;
                self.active = Some(self.lane(first));
            }
            (Some(active), building) if active.version == version => {
                if self.stopped.is_none() {
                    self.active = Some(self.lane(active));
                }
                match building {
                    Some(building) if !self.rebuilds.is_empty() => self.building = Some(self.lane(building)),
                    // Left by a crash in a rebuild that nobody waits for any more.
                    Some(_) => self.form.reads().discard(&self.lease).await?,
                    // It was switched, and the answer lost.
                    None if !self.rebuilds.is_empty() => {
                        self.answer_rebuilds(&Ok(()));
                        self.stopped = None;
                        self.active = Some(self.lane(active));
                    }
                    None => {}
                }
            }
            (Some(_), Some(building)) if building.version == version => {
                self.building = Some(self.lane(building));
            }
            (Some(_), _) => self.building = Some(self.lane(self.form.create(&self.lease).await?)),
        }
        if let (None, None, Some(error)) = (&self.active, &self.building, self.stopped.clone()) {
            self.halt(&error);
        }
        if !self.retried {
            // The program may know better by now.
            self.retry_parked().await?;
            self.retried = true;
        }
        Ok(())
    }

    /// Makes sure that this worker may claim the model, or has claimed it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if somebody else keeps it, and failures of the store.
    async fn hold(&mut self, catalog: &Catalog) -> Result<()> {
        let Some(tenure) = &mut self.tenure else { return Ok(()) };
        if self.lease.epoch != UNCLAIMED {
            let fenced = catalog.epoch != self.lease.epoch;
            if tenure.is_held() && !fenced {
                return Ok(());
            }
            let unbroken = tenure.is_unbroken().await?;
            self.lease.epoch = UNCLAIMED;
            if unbroken {
                // By one that has asked nobody, or was held up between its hold and its claim. It is for that one to stand by.
                self.answer_rebuilds(&Err(interrupted(&self.lease.model)));
                return Ok(());
            }
            tenure.give_up();
        }
        let Err(error) = tenure.take().await else {
            self.standby = None;
            return Ok(());
        };
        self.standby = Some((error.clone(), Instant::now()));
        self.stopped = None;
        self.answer_rebuilds(&Err(not_here(&error)));
        self.show_stored(catalog).await;
        Err(error)
    }

    /// Tells how far readers see.
    async fn show_stored(&self, catalog: &Catalog) {
        let shown = catalog.active.filter(|active| active.version == self.form.version());
        let token = match shown.and_then(|active| active.checkpoint) {
            // One of a former epoch that goes on is shown as those are that are waited for. Where there is none, see `reopen`.
            Some(checkpoint) => Some(self.store.locate(checkpoint).await.unwrap_or(checkpoint)),
            None => None,
        };
        self.show(|progress| progress.token = later(progress.token, token));
    }

    /// A later version that is shown or being filled, unless somebody has asked to go back to this one.
    fn outdated_by(&self, catalog: &Catalog) -> Option<u32> {
        let known = [catalog.active, catalog.building].into_iter().flatten();
        let newer = known.map(|generation| generation.version).filter(|known| *known > self.form.version());
        newer.max().filter(|_| self.rebuilds.is_empty())
    }

    /// Stops before it takes anything from a newer program. Who wants to go back says so by a rebuild.
    async fn leave_to(&mut self, newer: u32, catalog: &Catalog) -> Result<()> {
        let (model, version) = (&self.lease.model, self.form.version());
        let what = format!("the read model `{model}`");
        let why = format!(
            "it is kept by a program of version {newer}, and this one has version {version}: start the newer program, or go back by `rebuild`"
        );
        self.halt(&Error::invalid(what, why));
        // Of a rebuild to go back that nobody waits for any more.
        let own = catalog.building.is_some_and(|building| building.version == version);
        if own && catalog.epoch == self.lease.epoch {
            self.form.reads().discard(&self.lease).await?;
        }
        Ok(())
    }

    /// Nothing, if the log has what the generations that it would follow are made of.
    async fn check_history(&self, catalog: &Catalog) -> Result<()> {
        let version = self.form.version();
        let active = catalog.active.filter(|_| self.stopped.is_none());
        let followed = [active, catalog.building].into_iter().flatten().filter(|g| g.version == version);
        for checkpoint in followed.filter_map(|generation| generation.checkpoint) {
            self.store.locate(checkpoint).await?;
        }
        Ok(())
    }

    fn lane(&self, generation: Generation) -> Lane {
        let feed = feed(self.road.lane(self.query.clone(), generation.checkpoint));
        let filler = self.form.filler(generation.number);
        Lane { generation, filler, feed, seen: generation.checkpoint, live: false }
    }

    /// Begins a generation for a rebuild, which is also the moment to take over a model of another history.
    async fn create(&mut self) -> Result<Generation> {
        if let Some(tenure) = self.tenure.as_mut().filter(|tenure| !tenure.is_held()) {
            tenure.take().await.map_err(|error| not_here(&error))?;
            self.lease.epoch = UNCLAIMED;
        }
        if self.lease.epoch == UNCLAIMED {
            self.form.rehearse().await?;
            self.claim().await?;
        }
        self.form.create(&self.lease).await
    }

    async fn claim(&mut self) -> Result<()> {
        if let Some(tenure) = &mut self.tenure {
            tenure.check_fresh().await?;
        }
        self.lease = self.form.reads().claim(&self.lease.model).await?;
        self.retried = false;
        Ok(())
    }

    async fn start_rebuild(&mut self, mut asker: Asker) -> Result<()> {
        if !asker.is_there() {
            return Ok(());
        }
        if self.building.is_none() {
            match self.create().await {
                Ok(generation) => self.building = Some(self.lane(generation)),
                Err(error) => {
                    // Who does nothing for the model keeps it from nobody.
                    if let Some(tenure) = self.tenure.as_mut().filter(|_| self.active.is_none()) {
                        tenure.give_up();
                    }
                    asker.answer(Err(error));
                    return Ok(());
                }
            }
            self.show(|progress| {
                progress.rebuilding = Some(Rebuilding::new());
                if let State::Stopped(_) = progress.state {
                    progress.state = State::CatchingUp;
                }
            });
        }
        self.rebuilds.push(asker);
        Ok(())
    }

    /// Tries again what is parked in what readers see.
    async fn retry_parked(&mut self) -> Result<()> {
        let Some(lane) = &mut self.active else { return Ok(()) };
        let Lane { filler, generation, .. } = lane;
        unharmed(KEEPING, filler.retry_parked(&self.lease, generation.checkpoint, &*self.store)).await?;
        let parked = filler.parked();
        self.show(|progress| progress.parked = parked);
        Ok(())
    }

    /// Gives a rebuild up. The filling of a new version is no rebuild: without it there would be nothing to see.
    async fn cancel_rebuild(&mut self) -> Result<()> {
        self.answer_rebuilds(&Err(cancelled(&self.lease.model)));
        if self.building.is_none() || (self.active.is_none() && self.stopped.is_none()) {
            return Ok(());
        }
        self.building = None;
        if let Some(error) = self.stopped.clone() {
            self.halt(&error);
        } else {
            self.tell();
        }
        self.form.reads().discard(&self.lease).await
    }

    /// Handles what the log has told one of the lanes.
    async fn take(&mut self, which: Which, news: Result<News>) -> Result<()> {
        let handled = match news {
            Ok(news) => self.handle(which, news).await,
            // The feed itself tries again.
            Err(error) if error.is_retryable() => {
                self.wait(error);
                return Ok(());
            }
            Err(error) => Err(error),
        };
        let alone = match which {
            Which::Active => self.building.is_none(),
            Which::Building => self.active.is_none(),
        };
        match handled {
            Ok(()) => {
                self.failures = 0;
                self.tell();
                self.switch_if_ready().await
            }
            Err(error) if alone || !is_own_fault(&error) => {
                if which == Which::Building
                    && let Some(reason) = self.stopped.clone().filter(|_| is_own_fault(&error))
                {
                    // A rebuild that was to mend it, and could not.
                    self.answer_rebuilds(&Err(error));
                    self.building = None;
                    self.halt(&reason);
                    return self.form.reads().discard(&self.lease).await;
                }
                Err(error)
            }
            Err(error) if which == Which::Active => {
                // What is being built may do without it.
                let seen = self.active.take().and_then(|lane| lane.seen);
                self.show(|progress| progress.token = later(progress.token, seen));
                self.stopped = Some(error);
                self.tell();
                self.switch_if_ready().await
            }
            Err(error) => {
                self.building = None;
                self.answer_rebuilds(&Err(error));
                self.tell();
                self.form.reads().discard(&self.lease).await
            }
        }
    }

    async fn handle(&mut self, which: Which, news: News) -> Result<()> {
        let lane = match which {
            Which::Active => &mut self.active,
            Which::Building => &mut self.building,
        };
        let Some(lane) = lane else { return Ok(()) };
        let News { what, token, head } = news;
        let looked_far = |lane: &Lane| {
            let stored = lane.generation.checkpoint.map_or(0, |token| token.position.0);
            token.position.0 - stored.min(token.position.0) >= LOOKED_FAR
        };
        let mut count = 0;
        let handled = match what {
            What::Events(pieces) => {
                let mut batch = Batch::of(lane.generation.checkpoint, token, pieces);
                batch.is_shown = which == Which::Active;
                count = batch.len();
                lane.fill(&self.lease, batch).await
            }
            What::LookedTo if looked_far(lane) => lane.look(&self.lease, token).await,
            What::LookedTo => {
                lane.seen = Some(token);
                Ok(())
            }
            What::CaughtUp => {
                (lane.seen, lane.live) = (Some(token), true);
                Ok(())
            }
            What::FellBehind => {
                lane.live = false;
                Ok(())
            }
        };
        let at = lane.seen.map_or(Position::START, |seen| seen.position);
        self.progress.send_modify(|progress| {
            progress.rate.count(count as u64);
            if which == Which::Building {
                let rebuilding = progress.rebuilding.get_or_insert_with(Rebuilding::new);
                rebuilding.come_to(at, head.position, count);
            }
        });
        handled
    }

    /// Shows readers the generation that was built, once it is no older than what they see.
    async fn switch_if_ready(&mut self) -> Result<()> {
        let Some(building) = &mut self.building else { return Ok(()) };
        let Some(seen) = building.seen else { return Ok(()) };
        let shown = self.progress.borrow().token;
        let as_new = shown.is_none_or(|shown| shown.log != seen.log || seen.position >= shown.position);
        if !as_new || (self.active.is_none() && !building.live) {
            return Ok(());
        }
        if building.generation.checkpoint != Some(seen) {
            building.look(&self.lease, seen).await?;
        }
        self.form.reads().activate(&self.lease, building.generation.number).await?;
        self.active = self.building.take();
        self.stopped = None;
        self.answer_rebuilds(&Ok(()));
        self.tell();
        Ok(())
    }

    /// Publishes where the lanes are.
    fn tell(&self) {
        let token = self.active.as_ref().and_then(|lane| lane.seen);
        let live = self.active.as_ref().is_some_and(|lane| lane.live);
        let parked = self.active.as_ref().map_or((0, 0), |lane| lane.filler.parked());
        let building = self.building.is_some();
        self.show(|progress| {
            progress.token = later(progress.token, token);
            progress.state = if live { State::Live } else { State::CatchingUp };
            progress.parked = parked;
            progress.rebuilding =
                building.then(|| progress.rebuilding.take().unwrap_or_else(Rebuilding::new));
        });
    }

    fn wait(&self, error: Error) {
        self.show(|progress| progress.state = State::Waiting(error));
    }

    /// Stops following the log. Orders are still taken: a rebuild may mend what went wrong.
    fn halt(&mut self, error: &Error) {
        // What was handled before the event at fault is there for readers.
        let token = self.active.as_ref().and_then(|lane| lane.seen);
        (self.active, self.building) = (None, None);
        // Nothing is to be opened until a rebuild is asked for.
        (self.open, self.stopped) = (true, Some(error.clone()));
        if let Some(tenure) = &mut self.tenure {
            // Others may do better, or say the same.
            tenure.give_up();
        }
        self.answer_rebuilds(&Err(error.clone()));
        self.show(|progress| {
            progress.token = later(progress.token, token);
            progress.state = State::Stopped(error.clone());
            progress.rebuilding = None;
        });
    }

    fn show(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }

    fn answer_rebuilds(&mut self, answer: &Result<()>) {
        for asker in self.rebuilds.drain(..) {
            asker.answer(answer.clone());
        }
    }

    /// Waits a random while that grows with each failure, or until it is to look again who keeps the model. `false` if it shall end.
    async fn pause(&mut self) -> bool {
        let pause = match self.standby {
            Some(_) => STANDING_BY,
            None => {
                self.failures += 1;
                jittered(self.failures)
            }
        };
        let pause = tokio::time::sleep(pause);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return true,
                order = self.orders.recv() => match order {
                    Some(Command::Rebuild(asker)) if let Some((error, _)) = &self.standby => {
                        asker.answer(Err(not_here(error)));
                    }
                    // It begins once the stores answer again.
                    Some(Command::Rebuild(asker)) => {
                        let why = "the read model waits for its stores to answer; ask for the rebuild again later".into();
                        asker.answer(Err(Error::Unavailable { why, outcome: Outcome::No }));
                    }
                    // What has been built is dropped once the stores answer again.
                    Some(Command::Cancel(done)) => {
                        self.answer_rebuilds(&Err(cancelled(&self.lease.model)));
                        let _ = done.send(());
                    }
                    Some(Command::Retry(answer)) => {
                        let why = "the read model waits for its stores, or for another worker that keeps it; ask again later";
                        let why = self.standby.as_ref().map_or_else(|| why.to_owned(), |(error, _)| error.to_string());
                        let _ = answer.send(Err(Error::Unavailable { why, outcome: Outcome::No }));
                    }
                    // Of many who ask at once, one is enough.
                    Some(Command::Look) => match self.standby {
                        Some((_, looked)) if looked.elapsed() >= LOOKS_EVERY / 2 => return true,
                        _ => {}
                    },
                    Some(Command::Stop) | None => return false,
                },
            }
        }
    }

    /// What it has looked over need not be looked over again. Not to succeed costs only that.
    async fn store_how_far_it_looked(&mut self) -> Result<()> {
        if let Some(lane) = &mut self.active
            && let Some(seen) = lane.seen
            && lane.generation.checkpoint != Some(seen)
        {
            lane.look(&self.lease, seen).await?;
        }
        Ok(())
    }
}

impl Lane {
    /// Stores how far it has looked.
    async fn look(&mut self, lease: &Lease, to: Token) -> Result<()> {
        let nothing = Batch::of(self.generation.checkpoint, to, Vec::new());
        self.fill(lease, nothing).await
    }

    async fn fill(&mut self, lease: &Lease, batch: Batch) -> Result<()> {
        let filled = unharmed(KEEPING, self.filler.fill(lease, batch)).await?;
        self.generation.checkpoint = filled.checkpoint;
        self.seen = filled.checkpoint;
        filled.problem.map_or(Ok(()), Err)
    }
}

/// Ends so long after a moment, or never.
async fn after(moment: Option<Instant>, long: Duration) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment + long).await,
        None => std::future::pending().await,
    }
}

/// Ends when the right to claim the model is lost.
async fn lost(tenure: &mut Option<Tenure>) {
    match tenure {
        Some(tenure) => tenure.lost().await,
        None => std::future::pending().await,
    }
}

/// What one is told who asks a worker for a rebuild that does not keep the model, and why it does not.
fn not_here(why: &Error) -> Error {
    match why {
        Error::Unavailable { why, .. } => {
            let why = format!("the rebuild cannot begin here: {why}. Ask that one, or stop it first");
            Error::Unavailable { why, outcome: Outcome::No }
        }
        other => other.clone(),
    }
}

/// What those are told who wait for a rebuild, of which nobody knows what the other has done with it.
fn interrupted(model: &str) -> Error {
    let why =
        format!("another worker has claimed the read model `{model}` during its rebuild; ask for it again");
    Error::Unavailable { why, outcome: Outcome::Unknown }
}

/// Ends when one of those who wait for a rebuild has gone. Never, if none does.
async fn gone(rebuilds: &mut Vec<Asker>) {
    poll_fn(|context| {
        let before = rebuilds.len();
        rebuilds.retain_mut(|asker| asker.poll_gone(context).is_pending());
        if rebuilds.len() < before { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Whether the projection or its data is at fault, rather than the right to write.
fn is_own_fault(error: &Error) -> bool {
    !error.is_retryable() && !matches!(error, Error::Fenced { .. })
}

/// The later of two places; a place in another history replaces what was.
fn later(shown: Option<Token>, token: Option<Token>) -> Option<Token> {
    match (shown, token) {
        (Some(shown), Some(token)) if shown.log == token.log && token.position < shown.position => {
            Some(shown)
        }
        (shown, token) => token.or(shown),
    }
}

/// Of two that have news, neither comes first for long.
async fn either(active: &mut Option<Lane>, building: &mut Option<Lane>) -> (Which, Result<News>) {
    tokio::select! {
        news = next(active) => (Which::Active, news),
        news = next(building) => (Which::Building, news),
    }
}

async fn next(lane: &mut Option<Lane>) -> Result<News> {
    match lane {
        Some(lane) => lane.feed.recv().await.unwrap_or_else(|| {
            let why = "the subscription ended unexpectedly".into();
            Err(Error::Unavailable { why, outcome: Outcome::No })
        }),
        None => std::future::pending().await,
    }
}

/// A lane with a task of its own, so that the next batch is read while one is being applied.
pub(crate) fn feed(lane: pass::Lane) -> mpsc::Receiver<Result<News>> {
    let (deliveries, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            () = deliveries.closed() => {}
            pumped = unharmed(KEEPING, pump(lane, &deliveries)) => if let Err(panic) = pumped {
                // Nobody is there to hear it if the worker has gone.
                let _ = deliveries.send(Err(panic)).await;
            }
        }
    });
    receiver
}

/// Ends when nobody listens, or after an error that will not pass.
async fn pump(mut lane: pass::Lane, deliveries: &mpsc::Sender<Result<News>>) -> Result<()> {
    let mut failures = 0;
    loop {
        let news = lane.next().await;
        let failed = news.as_ref().err().map(Error::is_retryable);
        if deliveries.send(news).await.is_err() || failed == Some(false) {
            return Ok(());
        }
        failures = if failed.is_some() { failures + 1 } else { 0 };
        if failures > 0 {
            // Begun anew, it tells when it has caught up: the worker shall hear that the log is well again.
            lane.begin_again();
            tokio::time::sleep(jittered(failures)).await;
        }
    }
}

/// The work's outcome. A panic in it, be it in somebody's (de)serialisation or in a store, is an error that will not pass.
pub(crate) async fn unharmed<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = pin!(work);
    poll_fn(|context| {
        // What the panic left half changed is not used again.
        catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))).unwrap_or_else(|panic| {
            Poll::Ready(Err(Error::invalid(what, format!("it panicked: {}", said(&*panic)))))
        })
    })
    .await
}

/// What a panic said.
pub(crate) fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// A random while, up to a bound that doubles with each failure.
pub(crate) fn jittered(failures: u32) -> Duration {
    jittered_between(PAUSE, failures)
}

/// As [`jittered`], between other bounds.
pub(crate) fn jittered_between((first, longest): (Duration, Duration), failures: u32) -> Duration {
    let bound = first.saturating_mul(1 << failures.min(16)).min(longest);
    bound.mul_f64(fastrand::f64())
}
