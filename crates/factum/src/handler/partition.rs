//! The worker of one partition: follows the log, hands records to the sink, sets aside what cannot be handled, backs off.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::Instrument as _;

use super::{
    Sink, Stuck, Trouble,
    letters::{Bounds, Parking},
    orders::{self, Order},
    partitions::{Layout, SLICES, slice_of},
};
use crate::{
    batch::Batch,
    consumer::State,
    error::{Error, Outcome, Result},
    event::RecordedEvent,
    metrics::Shown,
    name::StreamName,
    pass::{News, Road, What},
    position::{Position, Token},
    progress::Rate,
    query::Query,
    read::{AsOf, Read},
    reads::{Generation, Lease, ReadStore, Step},
    store::LOOK_AGAIN,
    worker::{LOOKED_FAR, feed, jittered, said, unharmed},
};

/// Records that a sink is handed at once: in the beginning, and at most.
const RUN: (usize, usize) = (16, 256);
/// How long a sink should take for what it is handed at once: what it has done is known only then.
const RUN_TIME: Duration = Duration::from_millis(100);
/// How long what is done may go without being stored, while there is more to do.
const UNSTORED: Duration = Duration::from_millis(250);
/// How long it may have looked over what does not concern it before it stores how far it has looked.
const LOOKED_LONG: Duration = Duration::from_secs(1);
/// Dead letters that are tried again before it looks at the log again.
const REDRIVEN: usize = 100;

/// What a worker needs to know.
pub(super) struct Plan {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) reads: Arc<dyn ReadStore>,
    pub(super) road: Arc<Road>,
    pub(super) query: Query,
    pub(super) orders: StreamName,
    pub(super) model: String,
    pub(super) slices: Range<u32>,
    pub(super) bounds: Bounds,
    pub(super) hold: Hold,
}

/// The name that a worker must have before it claims the partition.
pub(super) struct Hold {
    pub(super) name: String,
    pub(super) holder: String,
    pub(super) ttl: Duration,
}

impl Hold {
    /// Takes it or keeps it. Whether that is so.
    pub(super) async fn keep(&self, reads: &dyn ReadStore) -> Result<bool> {
        let held = reads.holds().hold(&self.name, &self.holder, self.ttl).await?;
        Ok(held.holder == self.holder)
    }
}

/// What a worker tells.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Everything of the partition up to here has been handled or set aside.
    pub(super) token: Option<Token>,
    pub(super) state: State,
    pub(super) keys: usize,
    pub(super) letters: usize,
    pub(super) rate: Rate,
}

impl View {
    pub(super) fn new() -> Self {
        Self { token: None, state: State::CatchingUp, keys: 0, letters: 0, rate: Rate::new() }
    }
}

/// See the module.
pub(super) struct Worker {
    plan: Arc<Plan>,
    view: Arc<watch::Sender<View>>,
    stop: watch::Receiver<bool>,
    lease: Lease,
    generation: Generation,
    parking: Parking,
    feed: mpsc::Receiver<Result<News>>,
    /// How far it has looked: at the checkpoint, or beyond it where nothing concerned it.
    seen: Option<Token>,
    /// When the checkpoint was stored last.
    stored: Instant,
    live: bool,
    failures: u32,
    shown: Shown,
    /// How many records it is handed at once now.
    run: usize,
    /// Records that are handed over one by one, because one of them has made the sink panic.
    singly: usize,
    /// Events ahead that somebody has asked to skip: seen when it waited before one of them.
    skipped: BTreeSet<Position>,
    /// How far it has looked for that.
    looked_ahead: Option<Token>,
}

enum Turn {
    Went,
    Over,
}

/// Keeps a partition until it is told to stop or somebody else has it, or for ever if it has stopped for a reason that does not
/// pass.
pub(super) async fn keep(plan: Arc<Plan>, view: Arc<watch::Sender<View>>, mut stop: watch::Receiver<bool>) {
    let mut failures = 0;
    loop {
        let kept = match Worker::open(&plan, &view, &stop).await {
            Ok(None) => return,
            Ok(Some(mut worker)) => {
                let kept = worker.run().await;
                failures = if worker.failures == 0 { 0 } else { failures };
                kept
            }
            Err(error) => Err(error),
        };
        match kept {
            Ok(()) => return,
            // Also of a lease that is lost: whether it is kept here is for the supervisor to say.
            Err(error) if error.is_retryable() || matches!(error, Error::Fenced { .. }) => {
                tracing::warn!(partition = plan.model, %error, "a consumer waits");
                view.send_modify(|view| view.state = State::Waiting(error));
                failures += 1;
                tokio::select! {
                    () = tokio::time::sleep(jittered(failures)) => {}
                    () = told_to(&mut stop) => return,
                }
            }
            Err(error) => {
                tracing::error!(partition = plan.model, %error, "a consumer has stopped");
                view.send_modify(|view| view.state = State::Stopped(error));
                return told_to(&mut stop).await;
            }
        }
    }
}

async fn told_to(stop: &mut watch::Receiver<bool>) {
    // That nobody is there any more to tell it means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}

impl Worker {
    async fn open(
        plan: &Arc<Plan>,
        view: &Arc<watch::Sender<View>>,
        stop: &watch::Receiver<bool>,
    ) -> Result<Option<Self>> {
        let Plan { reads, model, .. } = &**plan;
        // Who was held up and fenced does not fence in turn.
        if !plan.hold.keep(&**reads).await? {
            return Ok(None);
        }
        let lease = reads.claim(model).await?;
        let generation = match reads.catalog(model).await?.active {
            Some(active) => active,
            None => begin(plan, &lease).await?,
        };
        if let Some(checkpoint) = generation.checkpoint {
            plan.road.store().locate(checkpoint).await?;
        }
        let consumer = plan.sink.name();
        let parking = Parking::load(consumer, plan.bounds, &**reads, model, generation.number).await?;
        let query = plan.query.clone().or(Query::stream(plan.orders.clone()));
        let worker = Self {
            plan: plan.clone(),
            view: view.clone(),
            stop: stop.clone(),
            lease,
            seen: generation.checkpoint,
            generation,
            parking,
            feed: feed(plan.road.lane(query, generation.checkpoint)),
            stored: Instant::now(),
            live: false,
            failures: 0,
            shown: Shown::new(
                consumer,
                plan.model.strip_prefix(consumer).unwrap_or_default().trim_start_matches("_p"),
            ),
            run: RUN.0,
            singly: 0,
            skipped: BTreeSet::new(),
            looked_ahead: None,
        };
        worker.tell();
        Ok(Some(worker))
    }

    async fn run(&mut self) -> Result<()> {
        while let Turn::Went = self.turn().await? {}
        self.store(self.seen).await
    }

    async fn turn(&mut self) -> Result<Turn> {
        let due = self.parking.next_due();
        let unstored = self.seen != self.generation.checkpoint;
        let mut stop = self.stop.clone();
        tokio::select! {
            () = told_to(&mut stop) => return Ok(Turn::Over),
            () = at(due.as_ref().map(|(_, due)| *due)) => {
                if let Some((key, _)) = due {
                    self.redrive(&key).await?;
                }
            }
            () = at(unstored.then(|| self.stored + LOOKED_LONG)) => self.store(self.seen).await?,
            news = self.feed.recv() => match news {
                Some(news) => return self.take(news?).await,
                None => {
                    let why = "the subscription ended unexpectedly".to_owned();
                    return Err(Error::Unavailable { why, outcome: Outcome::No });
                }
            },
        }
        self.tell();
        Ok(Turn::Went)
    }

    async fn take(&mut self, news: News) -> Result<Turn> {
        let News { what, token, head } = news;
        self.shown.behind(head.position.0.saturating_sub(token.position.0));
        match what {
            What::Events(pieces) => {
                let batch = Batch::of(self.generation.checkpoint, token, pieces);
                if let Turn::Over = self.handle(&batch, token).await? {
                    return Ok(Turn::Over);
                }
            }
            What::LookedTo => self.seen = Some(token),
            What::CaughtUp => {
                (self.seen, self.live) = (Some(token), true);
                self.shown.lag(Duration::ZERO);
            }
            What::FellBehind => self.live = false,
        }
        let stored = self.generation.checkpoint.map_or(0, |checkpoint| checkpoint.position.0);
        if self.seen.is_some_and(|seen| seen.position.0.saturating_sub(stored) >= LOOKED_FAR) {
            self.store(self.seen).await?;
        }
        self.tell();
        Ok(Turn::Went)
    }

    /// Handles what concerns this partition, and stores how far that brings it.
    async fn handle(&mut self, batch: &Batch, to: Token) -> Result<Turn> {
        for piece in batch.pieces() {
            let records = self.own(piece.records());
            let mut at = 0;
            while let Some(record) = records.get(at) {
                if *self.stop.borrow() {
                    return Ok(Turn::Over);
                }
                if record.stream == self.plan.orders {
                    self.obey(record);
                } else if self.skipped.remove(&record.position) {
                    tracing::info!(
                        consumer = self.plan.sink.name(),
                        position = record.position.0,
                        "an event is skipped"
                    );
                    self.failures = 0;
                } else if let Some(key) = self.held_up(record) {
                    if let Turn::Over = self.make_room(self.parking.has_too_many(), record.position).await? {
                        return Ok(Turn::Over);
                    }
                    // What held it up may have been dealt with meanwhile, or it itself given up.
                    if !self.parking.holds(&key) || self.skipped.contains(&record.position) {
                        continue;
                    }
                    self.parking.queue(record, key);
                } else {
                    let (done, turn) =
                        self.hand_over(&records[at..self.end_of_run(&records, at)], to).await?;
                    at += done;
                    if self.stored.elapsed() > UNSTORED {
                        self.store(self.seen).await?;
                    }
                    match turn {
                        Turn::Went => continue,
                        Turn::Over => return Ok(Turn::Over),
                    }
                }
                self.seen = Some(to.log.at(record.position));
                at += 1;
            }
        }
        self.seen = Some(to);
        self.store(self.seen).await?;
        Ok(Turn::Went)
    }

    /// The records of this partition, and what is asked of its consumer.
    fn own<'a>(&self, records: Cow<'a, [RecordedEvent]>) -> Cow<'a, [RecordedEvent]> {
        let Plan { sink, slices, orders, .. } = &*self.plan;
        if *slices == (0..SLICES) {
            return records;
        }
        let own = |record: &&RecordedEvent| {
            record.stream == *orders || slices.contains(&slice_of(&key_of(&**sink, record)))
        };
        Cow::Owned(records.iter().filter(own).cloned().collect())
    }

    /// The key of a record, if it is held up.
    fn held_up(&self, record: &RecordedEvent) -> Option<String> {
        if self.parking.is_empty() {
            return None;
        }
        Some(key_of(&*self.plan.sink, record)).filter(|key| self.parking.holds(key))
    }

    /// How far from a record on all can be handed over at once.
    fn end_of_run(&self, records: &[RecordedEvent], first: usize) -> usize {
        // Who has just failed is asked for little.
        let longest = if self.failures > 0 || self.singly > 0 { 1 } else { self.run };
        let free = |record: &&RecordedEvent| {
            let is_order = record.stream == self.plan.orders;
            !is_order && !self.skipped.contains(&record.position) && self.held_up(record).is_none()
        };
        first + records[first..].iter().take(longest).take_while(free).count()
    }

    /// Hands records to the sink. How many of them are dealt with now, handled or set aside.
    async fn hand_over(&mut self, records: &[RecordedEvent], to: Token) -> Result<(usize, Turn)> {
        let begun = Instant::now();
        let Stuck { done, trouble } = match self.accept(records).await {
            Ok(Ok(())) => {
                self.pace(records.len(), begun);
                self.come_to(records, records.len(), to);
                (self.failures, self.singly) = (0, self.singly.saturating_sub(records.len()));
                return Ok((records.len(), Turn::Went));
            }
            Ok(Err(stuck)) => stuck,
            // Which of them it was is found one by one.
            Err(_) if records.len() > 1 => {
                self.singly = records.len();
                return Ok((0, Turn::Went));
            }
            Err(panic) => Stuck { done: 0, trouble: Trouble::refused(panic) },
        };
        self.come_to(records, done, to);
        let Some(record) = records.get(done) else {
            let why =
                format!("it says that {done} of {} records are done, and that one is not", records.len());
            return Err(Error::invalid(format!("the sink `{}`", self.plan.sink.name()), why));
        };
        if let Trouble::Infrastructure(why) = &trouble {
            return Ok((done, self.wait(to.log.at(record.position), why).await?));
        }
        (self.failures, self.singly) = (0, self.singly.saturating_sub(done + 1));
        if let Some(why) = self.parking.is_full() {
            let turn = self.make_room(Some(why), record.position).await?;
            return Ok((done, turn));
        }
        tracing::warn!(consumer = self.plan.sink.name(), position = record.position.0, %trouble, "an event is set aside");
        self.parking.set_aside(record, key_of(&*self.plan.sink, record), &trouble);
        self.come_to(records, done + 1, to);
        Ok((done + 1, Turn::Went))
    }

    /// Hands over more at once where that takes little time, and less where it takes much.
    fn pace(&mut self, records: usize, begun: Instant) {
        let took = begun.elapsed();
        if took > RUN_TIME {
            self.run = (self.run / 2).max(1);
        } else if took < RUN_TIME / 4 && records == self.run {
            self.run = (self.run * 2).min(RUN.1);
        }
    }

    /// The first `n` of these records are dealt with.
    fn come_to(&mut self, records: &[RecordedEvent], n: usize, to: Token) {
        if let Some(last) = n.checked_sub(1).and_then(|last| records.get(last)) {
            self.seen = Some(to.log.at(last.position));
            self.view.send_modify(|view| view.rate.count(n as u64));
            self.shown.handled(n, Some(last));
        }
    }

    /// What the sink says, or that it panicked.
    async fn accept(&self, records: &[RecordedEvent]) -> Result<Result<(), Stuck>> {
        let begun = Instant::now();
        let first = records.first();
        let span = tracing::debug_span!(
            "handle events",
            consumer = self.plan.sink.name(),
            position = first.map(|record| record.position.0),
            events = records.len(),
            // The flow of work and the trace of the first, where it is in one.
            correlation_id = first.and_then(|record| record.metadata.correlation_id()),
            traceparent = first.and_then(|record| record.metadata.traceparent()),
        );
        let accepting = async { Ok(self.plan.sink.accept(records).await) };
        let mut accepting = std::pin::pin!(unharmed("the handling of events", accepting).instrument(span));
        let accepted = match tokio::time::timeout(self.plan.hold.ttl, &mut accepting).await {
            Ok(accepted) => accepted,
            Err(_) => {
                self.tell_of_delay(records);
                accepting.await
            }
        };
        self.shown.took(begun);
        accepted
    }

    /// Nothing is wrong that anybody knows of, but somebody should look.
    fn tell_of_delay(&self, records: &[RecordedEvent]) {
        let at = records.first().map_or(0, |record| record.position.0);
        let why = format!(
            "`{}` has had {} events from position {at} on in hand for longer than {} s",
            self.plan.sink.name(),
            records.len(),
            self.plan.hold.ttl.as_secs_f64()
        );
        tracing::warn!(consumer = self.plan.sink.name(), why, "a consumer waits for its handler");
        let error = Error::Unavailable { why, outcome: Outcome::Unknown };
        self.view.send_modify(|view| view.state = State::Waiting(error));
    }

    /// Waits for the surroundings to be well again, and looks whether somebody has given up what it waits with: the order comes later in
    /// the log than the event, and would never be come to. What has been done is stored first: it may take long.
    async fn wait(&mut self, before: Token, why: &str) -> Result<Turn> {
        self.store(self.seen).await?;
        self.failures += 1;
        self.shown.waits();
        let (consumer, position) = (self.plan.sink.name(), before.position);
        tracing::warn!(consumer, position = position.0, why, "a consumer waits for its surroundings");
        let why = format!("{why} (it tries the event at position {position} again)");
        let error = Error::Unavailable { why, outcome: Outcome::Unknown };
        self.view.send_modify(|view| view.state = State::Waiting(error));
        let mut stop = self.stop.clone();
        tokio::select! {
            () = tokio::time::sleep(jittered(self.failures)) => {}
            () = told_to(&mut stop) => return Ok(Turn::Over),
        }
        let ahead = self.looked_ahead.filter(|ahead| ahead.log == before.log && ahead.position > position);
        self.look_ahead(ahead.unwrap_or(before)).await?;
        Ok(Turn::Went)
    }

    /// Obeys what is asked further on.
    async fn look_ahead(&mut self, after: Token) -> Result<()> {
        let page = Read::stream(self.plan.orders.clone()).beyond(after);
        let page = self.plan.road.store().read(page).await?;
        page.events.iter().for_each(|record| self.obey(record));
        self.looked_ahead = Some(page.token);
        Ok(())
    }

    /// Where no more can be set aside: says so loudly, and does only what makes room, until there is some.
    async fn make_room(&mut self, full: Option<Error>, before: Position) -> Result<Turn> {
        let Some(mut why) = full else { return Ok(Turn::Went) };
        tracing::error!(consumer = self.plan.sink.name(), %why, "a consumer has stopped");
        self.store(self.seen).await?;
        let (store, mut stop) = (self.plan.road.store().clone(), self.stop.clone());
        let Some(mut looked) = self.seen else { return Ok(Turn::Went) };
        loop {
            self.tell();
            self.view.send_modify(|view| view.state = State::Stopped(why.clone()));
            let page = store.read(Read::stream(self.plan.orders.clone()).beyond(looked)).await?;
            page.events.iter().for_each(|record| self.obey(record));
            (looked, self.failures) = (page.token, 0);
            self.store(self.seen).await?;
            while let Some((key, due)) = self.parking.next_due()
                && due <= Instant::now()
                && !*stop.borrow()
            {
                self.redrive(&key).await?;
            }
            match self.parking.is_full() {
                Some(still) if !self.skipped.contains(&before) => why = still,
                _ => return Ok(Turn::Went),
            }
            let due = self.parking.next_due().map(|(_, due)| due);
            tokio::select! {
                () = told_to(&mut stop) => return Ok(Turn::Over),
                () = at(due) => {}
                // A hint can be lost; the log cannot.
                _ = tokio::time::timeout(LOOK_AGAIN, store.changed(looked.position)) => {}
            }
        }
    }

    fn obey(&mut self, record: &RecordedEvent) {
        if let Some(order) = orders::order_in(record) {
            tracing::info!(consumer = self.plan.sink.name(), ?order, "an order is obeyed");
            self.parking.obey(&order);
            let to_come = |position: Position| self.seen.is_none_or(|seen| position > seen.position);
            if let Order::SkipAsked { position, .. } = order
                && to_come(position)
            {
                self.skipped.insert(position);
            }
        }
    }

    /// Tries what is set aside under a key again, in order.
    async fn redrive(&mut self, key: &str) -> Result<()> {
        for _ in 0..REDRIVEN {
            let due = self.parking.due(key);
            let Some(position) = due.filter(|_| !*self.stop.borrow()) else { return Ok(()) };
            self.shown.retried();
            match self.read_at(position).await? {
                Some(record) => match self.accept(std::slice::from_ref(&record)).await {
                    Ok(Ok(())) => self.parking.remove(position),
                    Ok(Err(stuck)) => self.parking.failed(position, &stuck.trouble),
                    Err(panic) => self.parking.failed(position, &Trouble::refused(panic)),
                },
                // Truncated or deleted meanwhile: for whoever comes later it was never there.
                None => self.parking.remove(position),
            }
            self.store(self.seen).await?;
        }
        Ok(())
    }

    async fn read_at(&self, position: Position) -> Result<Option<RecordedEvent>> {
        let Some(seen) = self.seen else { return Ok(None) };
        let before = seen.log.at(Position(position.0.saturating_sub(1)));
        let page = Read::query(self.plan.query.clone()).beyond(before).limit(1);
        let page = self.plan.road.store().read(page.as_of(AsOf::Position(position))).await?;
        Ok(page.events.into_iter().find(|record| record.position == position))
    }

    /// Stores how far it has come and what is set aside, as one.
    async fn store(&mut self, to: Option<Token>) -> Result<()> {
        let from = self.generation.checkpoint;
        let Some(to) = to.filter(|to| from != Some(*to) || self.parking.has_changes()) else { return Ok(()) };
        let (generation, letters) = (self.generation.number, self.parking.changes()?);
        let step = Step { generation, from, to, rows: Vec::new(), letters };
        self.plan.reads.commit(&self.lease, step).await?;
        self.parking.stored();
        (self.generation.checkpoint, self.stored) = (Some(to), Instant::now());
        Ok(())
    }

    fn tell(&self) {
        let (keys, letters) = self.parking.size();
        self.shown.parked(keys, letters);
        self.view.send_modify(|view| {
            view.token = self.seen;
            view.state = if self.live { State::Live } else { State::CatchingUp };
            (view.keys, view.letters) = (keys, letters);
        });
    }
}

/// The key of a record; its stream, if the sink panics over it: it is set aside when it is handled, if at all.
fn key_of(sink: &dyn Sink, record: &RecordedEvent) -> String {
    let key = catch_unwind(AssertUnwindSafe(|| sink.key(record)));
    key.unwrap_or_else(|panic| {
        let (consumer, position, panic) = (sink.name(), record.position.0, said(&*panic));
        tracing::warn!(
            consumer,
            position,
            panic,
            "the key of an event cannot be found; it is its stream now"
        );
        record.stream.as_str().to_owned()
    })
}

/// Makes the place for checkpoint and dead letters.
async fn begin(plan: &Plan, lease: &Lease) -> Result<Generation> {
    let mut generation = plan.reads.create(lease, 1).await?;
    if let Some(to) = Layout::begins_after(&*plan.reads, plan.sink.name()).await? {
        let step =
            Step { generation: generation.number, from: None, to, rows: Vec::new(), letters: Vec::new() };
        plan.reads.commit(lease, step).await?;
        generation.checkpoint = Some(to);
    }
    plan.reads.activate(lease, generation.number).await?;
    Ok(generation)
}

/// Ends at this moment. `None`: never.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
