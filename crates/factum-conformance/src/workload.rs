//! Many clients that do everything at random, so that a history has everything in it.
//!
//! ```
//! # use std::sync::Arc;
//! # use factum::{MemoryStore, Result};
//! use factum_conformance::{FinalLog, Recorder, verify, workload};
//!
//! # async fn example() -> Result<()> {
//! let store = Arc::new(MemoryStore::new());
//! let recorder = Recorder::in_memory(store.clone()).await?;
//! let summary = workload::run(&recorder, &workload::Options { seed: 7, ..Default::default() }).await?;
//! println!("{summary}");
//! verify(&recorder.history(), &FinalLog::read(&*store).await?).expect("every promise is kept");
//! # Ok(())
//! # }
//! ```

use std::{fmt, ops::AddAssign};

use factum::{
    Append, Appended, AsOf, Delivery, Error, EventId, EventStore, EventStoreExt, ExpectedRevision, NewEvent,
    Outcome, Query, Read, Result, Retention, Revision, Start, StreamName, Tags, Token,
};
use fastrand::Rng;
use tokio::{sync::watch, task::JoinSet};
use uuid::Uuid;

use crate::recorder::{RecordedSubscription, Recorder};

/// What a workload does.
#[derive(Clone, Debug)]
pub struct Options {
    /// What all choices follow from. Print it with every failure. A process that goes on with a log takes another one, since
    /// event ids follow from it as well.
    pub seed: u64,
    /// Clients at the same time.
    pub clients: usize,
    /// Operations of each client.
    pub operations: usize,
    /// Streams; the fewer, the more conflicts.
    pub streams: usize,
    /// Subscribers at the same time.
    pub subscribers: usize,
    /// Events that a client asks for at once, at most.
    pub page: usize,
    /// Whether queries look through the whole log, or only at what is new: a store without indexes takes long for the first.
    pub scans: bool,
    /// Whether streams are truncated, deleted and tombstoned, too. Then what is hidden in the end can be checked less strictly.
    pub lives: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            clients: 6,
            operations: 100,
            streams: 5,
            subscribers: 2,
            page: 1000,
            scans: true,
            lives: false,
        }
    }
}

/// What came of a workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Appends that happened.
    pub appended: usize,
    /// Appends that had happened before.
    pub replayed: usize,
    /// Appends whose guard did not hold.
    pub conflicts: usize,
    /// Appends refused for other reasons.
    pub refused: usize,
    /// Appends of which nobody knows.
    pub unknown: usize,
    /// Reads, heads and states.
    pub reads: usize,
    /// Deliveries to subscribers.
    pub deliveries: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { appended, replayed, conflicts, refused, unknown, reads, deliveries } = self;
        write!(
            f,
            "{appended} appends, {replayed} replays, {conflicts} conflicts, {refused} other refusals, {unknown} unknown, {reads} reads, {deliveries} deliveries"
        )
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.appended += other.appended;
        self.replayed += other.replayed;
        self.conflicts += other.conflicts;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.reads += other.reads;
        self.deliveries += other.deliveries;
    }
}

/// Runs all clients and subscribers to the end. On a runtime of one thread, the same seed does the same.
///
/// Errors of appends are part of the work; a client stops early when the store cannot go on.
///
/// # Errors
/// What readers must never meet, and failures to record.
pub async fn run(recorder: &Recorder, options: &Options) -> Result<Summary> {
    let (done, is_done) = watch::channel(false);
    let mut subscribers = JoinSet::new();
    for n in 0..options.subscribers {
        let subscription = recorder
            .subscribe(some_query(&mut Rng::with_seed(options.seed ^ n as u64), options), None)
            .await?;
        subscribers.spawn(follow(recorder.clone(), subscription.with_batch(3 + n * 50), is_done.clone()));
    }
    let mut clients = JoinSet::new();
    for n in 0..options.clients {
        clients.spawn(Client::new(recorder.clone(), options.clone(), n).run());
    }
    let mut summary = Summary::default();
    while let Some(client) = clients.join_next().await {
        summary += client.map_err(broken)??;
    }
    done.send_replace(true);
    while let Some(subscriber) = subscribers.join_next().await {
        summary += subscriber.map_err(broken)??;
    }
    Ok(summary)
}

fn broken(error: tokio::task::JoinError) -> Error {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => Error::Unavailable { why: error.to_string(), outcome: Outcome::Unknown },
    }
}

/// Takes what comes until all clients are done, and then all that there is.
async fn follow(
    recorder: Recorder,
    mut subscription: RecordedSubscription,
    mut is_done: watch::Receiver<bool>,
) -> Result<Summary> {
    let mut deliveries = 0;
    loop {
        let delivery = tokio::select! {
            biased;
            delivery = subscription.next() => delivery?,
            _ = async { drop(is_done.wait_for(|done| *done).await) } => break,
        };
        deliveries += usize::from(matches!(delivery, Delivery::Events { .. }));
        tokio::task::yield_now().await;
    }
    let head = recorder.store().head().await?.token.position;
    while subscription.token().position < head {
        deliveries += usize::from(matches!(subscription.next().await?, Delivery::Events { .. }));
    }
    Ok(Summary { deliveries, ..Summary::default() })
}

/// One client: what it does, and what it remembers.
struct Client {
    store: Recorder,
    options: Options,
    rng: Rng,
    name: usize,
    made: usize,
    sent: Vec<Append>,
    seen: Vec<Token>,
    times: Vec<factum::Timestamp>,
    summary: Summary,
}

impl Client {
    fn new(store: Recorder, options: Options, name: usize) -> Self {
        let rng = Rng::with_seed(options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(name as u64));
        let (sent, seen, times) = (Vec::new(), Vec::new(), Vec::new());
        Self { store, options, rng, name, made: 0, sent, seen, times, summary: Summary::default() }
    }

    async fn run(mut self) -> Result<Summary> {
        for _ in 0..self.options.operations {
            let goes_on = match self.rng.u32(0..100) {
                0..45 => {
                    let append = self.some_append().await?;
                    self.send(append).await
                }
                45..55 => match self.something_again() {
                    Some(append) => self.send(append).await,
                    None => true,
                },
                55..90 => self.read().await?,
                90..95 => self.look().await?,
                _ if self.options.lives => self.change_a_life().await,
                _ => self.look().await?,
            };
            if !goes_on {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(self.summary)
    }

    /// Sends an append, sometimes again when nobody knows. Says whether it is worth going on.
    async fn send(&mut self, append: Append) -> bool {
        if self.sent.len() < 64 {
            self.sent.push(append.clone());
        } else {
            let place = self.rng.usize(0..64);
            self.sent[place] = append.clone();
        }
        let result = self.store.append(append.clone()).await;
        let unknown = matches!(&result, Err(error) if error.outcome() == Outcome::Unknown);
        let goes_on = self.note(&result);
        if unknown && goes_on && self.rng.bool() {
            let again = self.store.append(append).await;
            return self.note(&again);
        }
        goes_on
    }

    fn note(&mut self, result: &Result<Appended>) -> bool {
        let summary = &mut self.summary;
        match result {
            Ok(appended) => {
                self.seen.push(appended.token);
                *(if appended.replayed { &mut summary.replayed } else { &mut summary.appended }) += 1;
            }
            Err(error) if error.outcome() == Outcome::Unknown => summary.unknown += 1,
            Err(error) if error.is_conflict() => summary.conflicts += 1,
            Err(_) => summary.refused += 1,
        }
        !matches!(result, Err(Error::Poisoned { .. } | Error::Fenced { .. } | Error::Corrupt(_)))
    }

    async fn some_append(&mut self) -> Result<Append> {
        let mut append = Append::new();
        for _ in 0..[0, 1, 1, 1, 1, 2, 3][self.rng.usize(0..7)] {
            let count = self.rng.usize(1..5);
            let mut events = Vec::with_capacity(count);
            for _ in 0..count {
                events.push(self.some_event()?);
            }
            append = append.write(self.some_stream()?, events);
        }
        let guards = if append.writes.is_empty() {
            1 + self.rng.usize(0..2)
        } else {
            [0, 0, 1, 1, 2][self.rng.usize(0..5)]
        };
        for _ in 0..guards {
            append = self.guarded(append).await?;
        }
        Ok(append)
    }

    /// Adds a guard: half of them on the very streams written.
    async fn guarded(&mut self, append: Append) -> Result<Append> {
        let stream = match append.writes.first() {
            Some(write) if self.rng.bool() => write.stream.clone(),
            _ => self.some_stream()?,
        };
        Ok(match self.rng.u32(0..10) {
            0 => append.expect(stream, ExpectedRevision::NoStream),
            1 => append.expect(stream, ExpectedRevision::StreamExists),
            2 => append.expect(stream, ExpectedRevision::Exact(Revision(self.rng.u64(0..40)))),
            3..6 => match self.store.stream_state(&stream).await?.last_revision {
                Some(last) => append.expect(stream, ExpectedRevision::Exact(last)),
                None => append.expect(stream, ExpectedRevision::NoStream),
            },
            6..9 => {
                let query = some_query(&mut self.rng, &self.options);
                let read = if self.options.scans { Read::query(query.clone()) } else { Read::all() };
                let token = self.store.read(read.backwards().limit(1)).await?.token;
                append.expect_none(query, token)
            }
            _ => match self.seen.last() {
                Some(&token) => append.expect_none(some_query(&mut self.rng, &self.options), token),
                None => append,
            },
        })
    }

    fn some_event(&mut self) -> Result<NewEvent> {
        self.made += 1;
        let name = format!("{}/{}/{}", self.options.seed, self.name, self.made);
        let padding = "x".repeat(self.rng.usize(0..40));
        let tags: Vec<String> = (0..self.rng.usize(0..3)).map(|_| some_tag(&mut self.rng)).collect();
        let data = serde_json::json!({ "by": self.name, "n": self.made, "padding": padding });
        let event = NewEvent::json(some_type(&mut self.rng), &data)?.with_tags(Tags::new(tags)?);
        Ok(event.with_id(EventId::derived(Uuid::NAMESPACE_OID, name)))
    }

    fn some_stream(&mut self) -> Result<StreamName> {
        StreamName::new(some_stream(&mut self.rng, &self.options))
    }

    /// What was sent before, whole; sometimes a part of it, with something new, or with other content.
    fn something_again(&mut self) -> Option<Append> {
        let place = self.rng.usize(0..self.sent.len().max(1));
        let mut append = self.sent.get(place)?.clone();
        match self.rng.u32(0..8) {
            0 => append.guards.clear(),
            1 => append.writes.truncate(1),
            2 => {
                let event = self.some_event().ok()?;
                append.writes.last_mut()?.events.push(event);
            }
            3 => {
                let event = append.writes.first_mut()?.events.first_mut()?;
                event.data = "{\"other\":true}".into();
            }
            _ => {}
        }
        (append.event_count() + append.guards.len() > 0).then_some(append)
    }

    async fn read(&mut self) -> Result<bool> {
        self.summary.reads += 1;
        let mut read = match self.rng.u32(0..10) {
            0..2 => Read::all(),
            2..6 => Read::stream(self.some_stream()?),
            _ => Read::query(some_query(&mut self.rng, &self.options)),
        };
        read.limit = [1, 3, 10, self.options.page][self.rng.usize(0..4)].min(self.options.page);
        if self.rng.bool() {
            read = read.backwards();
        }
        let token = self.seen.get(self.rng.usize(0..self.seen.len().max(1))).copied();
        match (self.rng.u32(0..10), token) {
            (0..3, Some(token)) => read = read.beyond(token),
            (3..5, _) if matches!(read.source, factum::Source::Stream(_)) => {
                read.start = Start::Revision(Revision(self.rng.u64(0..30)));
            }
            (5, Some(token)) => read = read.as_of(AsOf::Position(token.position)),
            (6, _) => read.as_of = self.times.last().copied().map(AsOf::Time),
            _ => {}
        }
        if !self.options.scans && !matches!(read.source, factum::Source::Stream(_)) {
            let recent = self.seen.last().map_or(Start::Edge, |token| Start::Beyond(*token));
            read = Read { direction: factum::Direction::Forwards, start: recent, ..read };
        }
        for _ in 0..3 {
            let page = match self.store.read(read.clone()).await {
                Err(Error::Tombstoned { .. }) => return Ok(true),
                page => page?,
            };
            self.seen.push(page.head);
            self.times.extend(page.events.last().map(|event| event.recorded_at));
            match page.next {
                Some(next) => read.start = next,
                None => break,
            }
        }
        Ok(true)
    }

    async fn look(&mut self) -> Result<bool> {
        self.summary.reads += 1;
        if self.rng.bool() {
            self.seen.push(self.store.head().await?.token);
        } else {
            let stream = self.some_stream()?;
            self.store.stream_state(&stream).await?;
        }
        Ok(true)
    }

    async fn change_a_life(&mut self) -> bool {
        let Ok(stream) = self.some_stream() else { return true };
        let some = |value: u64| Some(value);
        let (max_count, before) = (self.rng.u64(1..10), self.rng.u64(0..30));
        let any = ExpectedRevision::Any;
        let result = match self.rng.u32(0..10) {
            0..4 => {
                let retention = Retention { max_count: some(max_count), ..Retention::default() };
                self.store.set_retention(&stream, any, retention).await
            }
            4..6 => {
                let retention = Retention { truncate_before: Some(Revision(before)), ..Retention::default() };
                self.store.set_retention(&stream, any, retention).await
            }
            6 => self.store.set_retention(&stream, any, Retention::default()).await,
            7..9 => self.store.delete(&stream, any).await,
            // Only one of them dies, so that the others go on being used.
            _ => match StreamName::new("mortal-0") {
                Ok(mortal) => self.store.tombstone(&mortal, any).await,
                Err(error) => Err(error),
            },
        };
        self.note(&result)
    }
}

fn some_stream(rng: &mut Rng, options: &Options) -> String {
    match rng.usize(0..options.streams.max(1)) {
        0 if options.lives => "mortal-0".to_owned(),
        n => format!("{}-{n}", if n % 2 == 0 { "account" } else { "course" }),
    }
}

fn some_type(rng: &mut Rng) -> &'static str {
    ["Opened", "Deposited", "Withdrawn", "Closed"][rng.usize(0..4)]
}

fn some_tag(rng: &mut Rng) -> String {
    format!("{}:{}", if rng.bool() { "student" } else { "course" }, rng.u32(0..4))
}

fn some_query(rng: &mut Rng, options: &Options) -> Query {
    let query = match rng.u32(0..8) {
        0..3 => Query::tags([some_tag(rng)]),
        3 => Query::tags([some_tag(rng), some_tag(rng)]),
        4 => Query::types([some_type(rng)]).and_then(|query| query.tag(&some_tag(rng))),
        5 => Ok(Query::category(if rng.bool() { "account" } else { "course" })),
        6 => StreamName::new(some_stream(rng, options)).map(Query::stream),
        _ => Query::types([some_type(rng), some_type(rng)]),
    };
    let query = query.unwrap_or_else(|_| Query::all());
    if rng.u32(0..6) == 0 { query.or(some_query(rng, options)) } else { query }
}
