//! Projections: read models made of the log, one row per key.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    marker::PhantomData,
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    aggregate::{EventSet, Recorded},
    batch::{Batch, Decoded, Filled, place_of},
    consumer::{Consumer, Filler, Form, fill_anew},
    error::{Corrupt, Error, Result},
    event::RecordedEvent,
    handle::Factum,
    query::Query,
    reads::{Generation, Lease, ReadStore, Scan, Step},
    store::EventStore,
    worker::said,
};

/// Rows that a filler keeps in memory between batches, at most.
const CACHED_ROWS: usize = 50_000;
/// Bytes of these rows as JSON, at most.
const CACHED_BYTES: usize = 32 << 20;

/// Differences that [`Projected::verify`] lists, at most.
pub const DIFFERENCES: usize = 10_000;

/// A read model: one row per key, changed by one event after another. Pure.
///
/// An event changes one row, or none. Where it changes several, it is a [`MultiProjection`].
///
/// ```
/// # use factum::prelude::*;
/// # #[derive(Serialize, Deserialize)] enum AccountEvent { MoneyDeposited { cents: i64 }, AccountClosed }
/// # impl Event for AccountEvent { const CATEGORY: &'static str = "account"; }
/// struct Balances;
///
/// impl Projection for Balances {
///     const NAME: &'static str = "balances";
///     type Event = AccountEvent;
///     type Row = i64;
///
///     fn evolve(&self, row: Option<i64>, event: &Recorded<AccountEvent>) -> Option<i64> {
///         match &event.event {
///             AccountEvent::MoneyDeposited { cents } => Some(row.unwrap_or(0) + cents),
///             AccountEvent::AccountClosed => None,
///         }
///     }
/// }
/// ```
pub trait Projection: Send + Sync + 'static {
    /// The model's name: a word of a-z, 0-9 and `_`. Where the model lives in tables, this is what they are called.
    const NAME: &'static str;
    /// Raise it whenever the rows should come out differently: the model is then filled anew, and switched when it is ready.
    const VERSION: u32 = 1;
    /// What it is made from. Every event that [`query`](Projection::query) selects must be one.
    type Event: EventSet;
    /// A row. It is stored as JSON and must come back from it as it was: the next event finds either the row that is still in
    /// memory or the one that is stored. So nothing that [`evolve`](Projection::evolve) looks at may be left out (`serde(skip)`), and no
    /// number may be one that JSON does not have (`NaN`, infinite).
    type Row: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The events that it is made from: those of the event's category.
    ///
    /// # Errors
    /// Those of [`Query`]'s constructors.
    fn query(&self) -> Result<Query> {
        Self::Event::query()
    }

    /// The key of the row that an event changes: the id in the stream's name. It may be anything that the event tells, such as
    /// a day or a customer, and so gather events of many streams in one row. `None` if the event changes none.
    fn key(&self, event: &Recorded<Self::Event>) -> Option<String> {
        Some(event.record.stream.id().to_owned())
    }

    /// The row after an event; `None` takes it away.
    fn evolve(&self, row: Option<Self::Row>, event: &Recorded<Self::Event>) -> Option<Self::Row>;
}

/// A read model in which one event changes several rows. Every [`Projection`] is one.
///
/// ```
/// # use factum::{MultiProjection, prelude::*};
/// # #[derive(Serialize, Deserialize)] enum TransferEvent { Transferred { from: String, to: String, cents: i64 } }
/// # impl Event for TransferEvent { const CATEGORY: &'static str = "transfer"; }
/// struct Balances;
///
/// impl MultiProjection for Balances {
///     const NAME: &'static str = "balances";
///     type Event = TransferEvent;
///     type Row = i64;
///
///     fn keys(&self, event: &Recorded<TransferEvent>) -> Vec<String> {
///         let TransferEvent::Transferred { from, to, .. } = &event.event;
///         vec![from.clone(), to.clone()]
///     }
///
///     fn evolve_row(&self, key: &str, row: Option<i64>, event: &Recorded<TransferEvent>) -> Option<i64> {
///         let TransferEvent::Transferred { from, to, cents } = &event.event;
///         let paid = if key == from { *cents } else { 0 };
///         let received = if key == to { *cents } else { 0 };
///         Some(row.unwrap_or(0) - paid + received)
///     }
/// }
/// ```
pub trait MultiProjection: Send + Sync + 'static {
    /// The model's name, as [`Projection::NAME`].
    const NAME: &'static str;
    /// Raise it whenever the rows should come out differently, as [`Projection::VERSION`].
    const VERSION: u32 = 1;
    /// What it is made from: one [`Event`](crate::Event), or several in an enum of them.
    type Event: EventSet;
    /// A row. Where rows of different kinds live in one model, an enum of them. It must come back from JSON as it was, like
    /// [`Projection::Row`].
    type Row: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The events that it is made from: those of the event's category or categories.
    ///
    /// # Errors
    /// Those of [`Query`]'s constructors.
    fn query(&self) -> Result<Query> {
        Self::Event::query()
    }

    /// The keys of the rows that an event changes, maybe none. A key that is there twice counts once.
    fn keys(&self, event: &Recorded<Self::Event>) -> Vec<String>;

    /// The row of one of these keys after the event; `None` takes it away.
    fn evolve_row(
        &self,
        key: &str,
        row: Option<Self::Row>,
        event: &Recorded<Self::Event>,
    ) -> Option<Self::Row>;
}

impl<P: Projection> MultiProjection for P {
    const NAME: &'static str = P::NAME;
    const VERSION: u32 = P::VERSION;
    type Event = P::Event;
    type Row = P::Row;

    fn query(&self) -> Result<Query> {
        Projection::query(self)
    }

    fn keys(&self, event: &Recorded<P::Event>) -> Vec<String> {
        self.key(event).into_iter().collect()
    }

    fn evolve_row(&self, _: &str, row: Option<P::Row>, event: &Recorded<P::Event>) -> Option<P::Row> {
        self.evolve(row, event)
    }
}

/// A projection that is kept up to date in the background. It stops when the last clone is dropped.
///
/// Waiting, status, rebuilding and stopping are those of every [`Consumer`].
#[derive(Debug)]
pub struct Projected<P> {
    consumer: Consumer,
    projection: Arc<P>,
    reads: Arc<dyn ReadStore>,
    store: Arc<dyn EventStore>,
}

impl<P> Clone for Projected<P> {
    fn clone(&self) -> Self {
        let Self { consumer, projection, reads, store } = self;
        Self {
            consumer: consumer.clone(),
            projection: projection.clone(),
            reads: reads.clone(),
            store: store.clone(),
        }
    }
}

impl<P> Deref for Projected<P> {
    type Target = Consumer;

    fn deref(&self) -> &Consumer {
        &self.consumer
    }
}

/// A row that is not what the log says.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Which row.
    pub key: String,
    /// The row in the read model, as JSON.
    pub kept: Option<String>,
    /// The row that the events make, as JSON.
    pub by_the_log: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |json: &Option<String>| json.clone().unwrap_or_else(|| "no row".into());
        write!(
            f,
            "`{}` is {}, but the log makes it {}",
            self.key,
            or_none(&self.kept),
            or_none(&self.by_the_log)
        )
    }
}

impl Factum {
    /// Keeps a read model up to date, in the background: first what is in the log, then what comes. It goes on where it was
    /// left, exactly once, and takes the model over from any other worker.
    ///
    /// # Errors
    /// Those of [`consume`](Factum::consume).
    pub async fn project<P: MultiProjection>(
        &self,
        projection: P,
        reads: impl ReadStore,
    ) -> Result<Projected<P>> {
        self.project_in(projection, Arc::new(reads)).await
    }

    /// The same as [`project`](Self::project), in a read store that is chosen when the program runs.
    ///
    /// # Errors
    /// Those of [`consume`](Factum::consume).
    pub async fn project_in<P: MultiProjection>(
        &self,
        projection: P,
        reads: Arc<dyn ReadStore>,
    ) -> Result<Projected<P>> {
        let projection = Arc::new(projection);
        let form = Documents { projection: projection.clone(), reads: reads.clone() };
        Ok(Projected { consumer: self.consume(form).await?, projection, reads, store: self.store().clone() })
    }
}

impl<P: MultiProjection> Projected<P> {
    /// The row of a key.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if what is stored is not a row, [`Error::Unavailable`] while readers are shown another version of the
    /// projection, and failures of the read store.
    pub async fn get(&self, key: &str) -> Result<Option<P::Row>> {
        let shown = self.reads.get(P::NAME, key).await?;
        check_version::<P>(shown.generation)?;
        let row = shown.rows.into_iter().next();
        row.map(|(key, row)| parse::<P>(&key, &row)).transpose()
    }

    /// Up to `limit` rows with their keys, sorted by key, beginning after a key: a page of a list. Pages asked for one after
    /// another are each as of their own moment; [`rows`](Self::rows) are all of one.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub async fn page(&self, after: Option<&str>, limit: usize) -> Result<Vec<(String, P::Row)>> {
        let shown = self.reads.page(P::NAME, after.map(str::to_owned), limit).await?;
        check_version::<P>(shown.generation)?;
        shown.rows.into_iter().map(|(key, row)| parse::<P>(&key, &row).map(|row| (key, row))).collect()
    }

    /// All rows with their keys, sorted by key, as they are at one moment, without holding them in memory: some hundreds at a
    /// time come from the store as they are asked for.
    ///
    /// The store keeps that moment until they are read to the end or dropped: in SQLite, where sixteen can be open at once, the
    /// write-ahead log is not folded into the file meanwhile and grows with what is written. So do not leave them lying.
    ///
    /// # Errors
    /// As for [`get`](Self::get), and [`Error::Unavailable`] if too many are open.
    pub async fn rows(&self) -> Result<Rows<P>> {
        let scan = self.reads.scan(P::NAME).await?;
        check_version::<P>(scan.generation)?;
        Ok(Rows { scan, of: PhantomData })
    }

    /// All rows with their keys, sorted by key, as they are at one moment. They are all in memory then; see
    /// [`rows`](Self::rows).
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub async fn all(&self) -> Result<Vec<(String, P::Row)>> {
        let (mut rows, mut all) = (self.rows().await?, Vec::new());
        while let Some(row) = rows.next().await? {
            all.push(row);
        }
        Ok(all)
    }

    /// Compares the model with what the visible events of the log make, up to where the model is. Nothing: they agree.
    ///
    /// The events are applied, as they are when the model is kept, to an empty model in a temporary place; then the rows of
    /// both are read side by side. So it needs room on the disk, and little memory. At most [`DIFFERENCES`] are listed. The model's
    /// rows are held as of one moment meanwhile, like those of [`rows`](Self::rows): SQLite's write-ahead log grows for as long.
    ///
    /// A model keeps what it once made of events that retention, a deletion or a scavenge has hidden since. Rows made of such
    /// events differ, although nothing is wrong, until a [rebuild](Consumer::rebuild) makes them of what is left.
    ///
    /// # Errors
    /// Those of reading the log and the model; [`Error::LogRewound`] if the model is of another history;
    /// [`Error::Unavailable`] while a new version is being filled.
    pub async fn verify(&self) -> Result<Vec<Difference>> {
        let mut kept = self.reads.scan(P::NAME).await?;
        check_version::<P>(kept.generation)?;
        let Some(generation) = kept.generation else { return Ok(Vec::new()) };
        let reads = self.reads.scratch().await?;
        let form = Documents { projection: self.projection.clone(), reads: reads.clone() };
        fill_anew(&*self.store, &form, generation.checkpoint).await?;
        let mut by_the_log = reads.scan(P::NAME).await?;
        differences(&mut kept, &mut by_the_log).await
    }
}

/// The rows of a model at one moment, one after another.
pub struct Rows<P> {
    scan: Scan,
    of: PhantomData<fn() -> P>,
}

impl<P> fmt::Debug for Rows<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rows").field(&self.scan).finish()
    }
}

impl<P: MultiProjection> Rows<P> {
    /// How far the log is in these rows.
    pub fn position(&self) -> crate::Position {
        let checkpoint = self.scan.generation.and_then(|generation| generation.checkpoint);
        checkpoint.map_or(crate::Position::START, |token| token.position)
    }

    /// The next row with its key; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if what is stored is not a row, and failures of the read store.
    pub async fn next(&mut self) -> Result<Option<(String, P::Row)>> {
        let row = self.scan.next().await?;
        row.map(|(key, row)| parse::<P>(&key, &row).map(|row| (key, row))).transpose()
    }
}

/// Both are sorted by key.
async fn differences(kept: &mut Scan, by_the_log: &mut Scan) -> Result<Vec<Difference>> {
    let value = |json: &Option<String>| {
        json.as_ref().map(|json| serde_json::from_str::<serde_json::Value>(json).ok())
    };
    let (mut differences, mut ours, mut theirs) = (Vec::new(), kept.next().await?, by_the_log.next().await?);
    while differences.len() < DIFFERENCES {
        let first = match (&ours, &theirs) {
            (None, None) => break,
            (Some((our, _)), Some((their, _))) => our.cmp(their),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        };
        let (mut key, mut kept_row, mut log_row) = (String::new(), None, None);
        if first.is_le()
            && let Some((at, row)) = std::mem::replace(&mut ours, kept.next().await?)
        {
            (key, kept_row) = (at, Some(row));
        }
        if first.is_ge()
            && let Some((at, row)) = std::mem::replace(&mut theirs, by_the_log.next().await?)
        {
            (key, log_row) = (at, Some(row));
        }
        if kept_row != log_row && value(&kept_row) != value(&log_row) {
            differences.push(Difference { key, kept: kept_row, by_the_log: log_row });
        }
    }
    Ok(differences)
}

/// Nothing, if what is shown is of the version that this projection can read.
fn check_version<P: MultiProjection>(shown: Option<Generation>) -> Result<()> {
    shown.map_or(Ok(()), |shown| shown.check_version(P::NAME, P::VERSION))
}

fn parse<P: MultiProjection>(key: &str, json: &str) -> Result<P::Row> {
    let corrupt = |why: String, at: usize| {
        let problem = format!(
            "it is not a row of version {} of the projection ({why}); if rows look otherwise now, raise its VERSION; else `rebuild` it",
            P::VERSION
        );
        let segment = format!("the row `{key}` of the read model `{}`", P::NAME);
        Error::from(Corrupt { segment, offset: at as u64, positions: None, problem })
    };
    match catch_unwind(|| serde_json::from_str(json)) {
        Ok(row) => row.map_err(|e| corrupt(e.to_string(), e.column())),
        Err(panic) => Err(corrupt(format!("reading it panicked: {}", said(&*panic)), 0)),
    }
}

fn to_json(key: &str, row: &impl Serialize) -> Result<String> {
    let wrong = |why: String| Error::invalid(format!("the row `{key}`"), why);
    match catch_unwind(AssertUnwindSafe(|| serde_json::to_string(row))) {
        Ok(json) => json.map_err(|e| wrong(format!("it cannot be JSON: {e}"))),
        Err(panic) => Err(wrong(format!("writing it panicked: {}", said(&*panic)))),
    }
}

/// One JSON document per key.
struct Documents<P> {
    projection: Arc<P>,
    reads: Arc<dyn ReadStore>,
}

impl<P: MultiProjection> Form for Documents<P> {
    fn name(&self) -> &str {
        P::NAME
    }

    fn version(&self) -> u32 {
        P::VERSION
    }

    fn query(&self) -> Result<Query> {
        self.projection.query()
    }

    fn reads(&self) -> &dyn ReadStore {
        &*self.reads
    }

    fn filler(&self, generation: u32) -> Box<dyn Filler> {
        let (projection, reads) = (self.projection.clone(), self.reads.clone());
        Box::new(DocumentFiller { projection, reads, generation, rows: HashMap::new(), bytes: 0 })
    }
}

struct DocumentFiller<P: MultiProjection> {
    projection: Arc<P>,
    reads: Arc<dyn ReadStore>,
    generation: u32,
    /// Rows as they are stored; `None` for a key known to have no row. Whoever holds the lease is the only one to change them.
    rows: HashMap<String, Option<P::Row>>,
    /// As JSON, of all rows that were read or written since there were none: these rows are no more than that.
    bytes: usize,
}

/// The changes that a batch makes, in order.
struct Plan<E> {
    decoded: Decoded<E>,
    /// How many of the records are applied.
    records: usize,
    changes: Vec<Change>,
    /// What is wrong with the record after these.
    problem: Option<Error>,
    /// Rows that cannot be written in the end: since which record is looked for.
    unwritable: HashSet<String>,
}

struct Change {
    key: String,
    /// Which record, and which of its events.
    record: usize,
    event: usize,
}

/// Each key with its new row.
type Changed = Vec<(String, Option<String>)>;

/// The changed rows, or the key of one that cannot be written and why.
type Written = Result<Changed, (String, Error)>;

/// The record at which it went wrong, and why.
type Failed = (usize, Error);

#[async_trait]
impl<P: MultiProjection> Filler for DocumentFiller<P> {
    async fn fill(&mut self, lease: &Lease, batch: Batch) -> Result<Filled> {
        let (from, to) = (batch.from, batch.to);
        let mut plan = self.plan(batch.decode());
        let rows = loop {
            let failed = match self.fetch(&plan).await? {
                Some(failed) => failed,
                None => match self.apply(&plan).map(|()| self.changed(&plan)) {
                    Ok(Ok(rows)) => break rows,
                    // Which record it was is found the second time.
                    Ok(Err((key, _))) if plan.unwritable.insert(key.clone()) => {
                        self.forget();
                        continue;
                    }
                    Ok(Err((_, error))) => (0, error),
                    Err(failed) => failed,
                },
            };
            plan.end_before(failed);
            // What is in memory may be half changed: begin the batch again.
            self.forget();
        };
        let problem = plan.problem.take();
        let checkpoint = match problem {
            None => Some(to),
            Some(_) => plan.decoded.checkpoint_after(plan.records, from, to),
        };
        if let Some(to) = checkpoint
            && (problem.is_none() || plan.records > 0)
        {
            self.bytes += rows.iter().map(|(key, row)| size_of_row(key, row.as_deref())).sum::<usize>();
            let step = Step { generation: self.generation, from, to, rows };
            self.reads.commit(lease, step).await?;
        }
        if self.rows.len() > CACHED_ROWS || self.bytes > CACHED_BYTES {
            self.forget();
        }
        Ok(Filled { checkpoint, problem })
    }
}

impl<E: EventSet> Plan<E> {
    fn event(&self, change: &Change) -> Option<&Recorded<E>> {
        self.decoded.events(change.record).get(change.event)
    }

    fn end_before(&mut self, (record, error): Failed) {
        self.records = record;
        self.changes.retain(|change| change.record < record);
        self.problem = Some(error);
        self.unwritable.clear();
    }
}

impl<P: MultiProjection> DocumentFiller<P> {
    fn forget(&mut self) {
        self.rows = HashMap::new();
        self.bytes = 0;
    }

    /// Finds the keys, up to the first record for which that fails.
    fn plan(&self, mut decoded: Decoded<P::Event>) -> Plan<P::Event> {
        let (records, problem) = (decoded.len(), decoded.problem.take());
        let mut plan = Plan {
            changes: Vec::with_capacity(records),
            decoded,
            records,
            problem,
            unwritable: HashSet::new(),
        };
        for record in 0..records {
            for (event, of) in plan.decoded.events(record).iter().enumerate() {
                match unharmed(&of.record, P::NAME, || self.projection.keys(of)) {
                    Ok(mut keys) => {
                        // Rows know nothing of each other: their order does not matter.
                        keys.sort_unstable();
                        keys.dedup();
                        plan.changes.extend(keys.into_iter().map(|key| Change { key, record, event }));
                    }
                    Err(error) => {
                        plan.end_before((record, error));
                        return plan;
                    }
                }
            }
        }
        plan
    }

    /// Reads the rows that are not in memory yet. A row that cannot be read is the fault of the first record that needs it.
    async fn fetch(&mut self, plan: &Plan<P::Event>) -> Result<Option<Failed>> {
        let mut missing: HashMap<&String, usize> = HashMap::new();
        for change in plan.changes.iter().filter(|change| !self.rows.contains_key(&change.key)) {
            missing.entry(&change.key).or_insert(change.record);
        }
        if missing.is_empty() {
            return Ok(None);
        }
        let (keys, firsts): (Vec<String>, Vec<usize>) =
            missing.into_iter().map(|(key, first)| (key.clone(), first)).unzip();
        let rows = self.reads.rows(P::NAME, self.generation, keys.clone()).await?;
        let mut failed: Option<Failed> = None;
        for ((key, row), first) in keys.into_iter().zip(rows).zip(firsts) {
            self.bytes += size_of_row(&key, row.as_deref());
            match row.map(|row| parse::<P>(&key, &row)).transpose() {
                Ok(row) => drop(self.rows.insert(key, row)),
                Err(error) if failed.as_ref().is_none_or(|(at, _)| first < *at) => {
                    failed = Some((first, error));
                }
                Err(_) => {}
            }
        }
        Ok(failed)
    }

    /// Applies the events to the rows.
    fn apply(&mut self, plan: &Plan<P::Event>) -> Result<(), Failed> {
        let mut unwritable: HashMap<&String, Failed> = HashMap::new();
        for change in &plan.changes {
            let Some(event) = plan.event(change) else { continue };
            let Some(row) = self.rows.get_mut(&change.key) else { continue };
            let (before, key) = (row.take(), &change.key);
            *row = unharmed(&event.record, P::NAME, || self.projection.evolve_row(key, before, event))
                .map_err(|error| (change.record, error))?;
            if plan.unwritable.contains(key) {
                match row.as_ref().map(|row| to_json(key, row)) {
                    Some(Err(why)) => {
                        let failed = || (change.record, wrong_with(&event.record, P::NAME, &why));
                        unwritable.entry(key).or_insert_with(failed);
                    }
                    Some(Ok(_)) | None => drop(unwritable.remove(key)),
                }
            }
        }
        unwritable.into_values().min_by_key(|(record, _)| *record).map_or(Ok(()), Err)
    }

    /// Each row that the events touched, as JSON; or one that cannot be.
    fn changed(&self, plan: &Plan<P::Event>) -> Written {
        // In the order of keys, which a tree of pages likes.
        let touched: BTreeSet<&String> = plan.changes.iter().map(|change| &change.key).collect();
        let rows = touched.into_iter().map(|key| {
            let row = self.rows.get(key).and_then(Option::as_ref);
            let json = row.map(|row| to_json(key, row)).transpose();
            json.map(|json| (key.clone(), json)).map_err(|error| (key.clone(), error))
        });
        rows.collect()
    }
}

fn size_of_row(key: &str, json: Option<&str>) -> usize {
    key.len() + json.map_or(0, str::len)
}

/// What `work` on an event gives. A panic in it becomes an error that says where.
fn unharmed<T>(record: &RecordedEvent, projection: &str, work: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let what = format!("the projection `{projection}`");
        Error::invalid(what, format!("it panicked on {}: {}", place_of(record), said(&*panic)))
    })
}

fn wrong_with(record: &RecordedEvent, projection: &str, why: &Error) -> Error {
    let what = format!("the projection `{projection}`");
    Error::invalid(what, format!("what it makes of {} cannot be kept: {why}", place_of(record)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]
mod tests {
    use super::*;
    use crate::{Append, Event, MemoryReads, MemoryStore, Read, StreamName, codec};

    #[derive(Serialize, serde::Deserialize)]
    enum Page {
        Written,
    }

    impl Event for Page {
        const CATEGORY: &'static str = "page";
    }

    const LARGE: usize = 4 << 20;

    struct Pages;

    impl Projection for Pages {
        const NAME: &'static str = "pages";
        type Event = Page;
        type Row = String;

        fn evolve(&self, _: Option<String>, _: &Recorded<Page>) -> Option<String> {
            Some("x".repeat(LARGE))
        }
    }

    #[tokio::test]
    async fn rows_in_memory_are_bounded_in_bytes() {
        let (store, reads) = (MemoryStore::new(), Arc::new(MemoryReads::new()));
        let form = Documents { projection: Arc::new(Pages), reads: reads.clone() as Arc<dyn ReadStore> };
        let lease = reads.claim("pages").await.unwrap();
        let generation = form.create(&lease).await.unwrap().number;
        let (projection, reads) = (form.projection, form.reads);
        let mut filler = DocumentFiller { projection, reads, generation, rows: HashMap::new(), bytes: 0 };
        let (mut from, mut most) = (None, 0);
        for n in 0..12 {
            let stream = StreamName::new(format!("page-{n}")).unwrap();
            let written = codec::encode(&Page::Written).unwrap();
            let to = store.append(Append::to(stream.clone(), [written])).await.unwrap().token;
            let records = store.read(Read::stream(stream)).await.unwrap().events;
            filler.fill(&lease, Batch::new(from, to, records)).await.unwrap();
            from = Some(to);
            most = most.max(filler.rows.len());
        }
        assert!(most > 4 && most * LARGE <= CACHED_BYTES, "{most} rows were kept");
    }
}
