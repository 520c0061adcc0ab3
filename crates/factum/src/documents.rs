//! Documents: read models with one JSON text per key, folded from events in batches or in the append's own transaction.

mod parked;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use async_trait::async_trait;
use serde::Serialize;

use crate::{
    aggregate::{EventSet, Recorded},
    batch::{Batch, Decoded, Filled, place_of},
    consumer::{Filler, Form},
    error::{Corrupt, Error, Result},
    event::RecordedEvent,
    handler::Parking,
    position::{Position, Token},
    projection::{MultiProjection, OnFailure},
    query::Query,
    reads::{Lease, ReadStore, Step},
    store::EventStore,
    worker::said,
};

/// Rows that a filler keeps in memory between batches, at most.
const CACHED_ROWS: usize = 50_000;
/// Bytes of these rows as JSON, at most.
const CACHED_BYTES: usize = 32 << 20;

/// A projection as what can be made of it: a [`Form`] that the runtime fills in the background, or a [`Fold`] for a store that
/// changes rows in the append's own transaction. Clones share the projection.
pub struct Documents<P>(Arc<P>);

impl<P> Clone for Documents<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P> fmt::Debug for Documents<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Documents")
    }
}

impl<P: MultiProjection> Documents<P> {
    /// Those of this projection.
    pub fn new(projection: P) -> Self {
        Self(Arc::new(projection))
    }

    /// The form in which they are kept here.
    pub fn kept_in(&self, reads: Arc<dyn ReadStore>) -> impl Form + use<P> {
        Kept { projection: self.0.clone(), reads }
    }
}

/// Each key with its row as JSON text; `None` where there is none.
pub type RowsByKey = HashMap<String, Option<String>>;

/// A projection as a function of events and rows, without a place for them: for stores that change rows in the transaction of the
/// append. A panic in somebody's code, an event that cannot be decoded and a row that cannot be JSON are errors that say so.
pub trait Fold: Send + Sync + fmt::Debug + 'static {
    /// The model's name.
    fn model(&self) -> &'static str;

    /// The projection's version.
    fn version(&self) -> u32;

    /// The events that it is made from.
    ///
    /// # Errors
    /// Those of [`Query`]'s constructors.
    fn events(&self) -> Result<Query>;

    /// The keys of the rows that these events change, sorted. Positions and times of the events need not be known yet.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] saying which event is at fault.
    fn keys(&self, records: Vec<RecordedEvent>) -> Result<Vec<String>>;

    /// What these events make of these rows: each key that they touch, with its new row. `rows` has every key that
    /// [`keys`](Fold::keys) has named.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] saying which event is at fault, also if it touches another key now; [`Error::Corrupt`] if a row is none.
    fn fold(&self, records: Vec<RecordedEvent>, rows: RowsByKey) -> Result<Changed>;
}

impl<P: MultiProjection> Fold for Documents<P> {
    fn model(&self) -> &'static str {
        P::NAME
    }

    fn version(&self) -> u32 {
        P::VERSION
    }

    fn events(&self) -> Result<Query> {
        self.0.query()
    }

    fn keys(&self, records: Vec<RecordedEvent>) -> Result<Vec<String>> {
        let plan = Table::new(self.0.clone()).plan(Decoded::of(records));
        plan.problem.map_or(Ok(()), Err)?;
        let keys: BTreeSet<String> = plan.changes.into_iter().map(|change| change.key).collect();
        Ok(keys.into_iter().collect())
    }

    fn fold(&self, records: Vec<RecordedEvent>, rows: RowsByKey) -> Result<Changed> {
        let mut table = Table::new(self.0.clone());
        let mut plan = table.plan(Decoded::of(records));
        plan.problem.take().map_or(Ok(()), Err)?;
        for (key, row) in rows {
            table.put(key, row)?;
        }
        if let Some(change) = plan.changes.iter().find(|change| !table.rows.contains_key(&change.key)) {
            let why = format!(
                "the keys of an event are others once its position and time are known (`{}`); they must not depend on these",
                change.key
            );
            return Err(Error::invalid(format!("the projection `{}`", P::NAME), why));
        }
        table.apply(&plan).map_err(|(_, error)| error)?;
        table.changed(&plan).map_err(|(_, error)| error)
    }
}

/// One JSON document per key.
struct Kept<P> {
    projection: Arc<P>,
    reads: Arc<dyn ReadStore>,
}

impl<P: MultiProjection> Form for Kept<P> {
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
        Box::new(DocumentFiller { reads, generation, table: Table::new(projection), parking: None })
    }
}

struct DocumentFiller<P: MultiProjection> {
    reads: Arc<dyn ReadStore>,
    generation: u32,
    table: Table<P>,
    /// What is set aside, once that is known.
    parking: Option<Parking>,
}

/// The rows at hand, and what events make of them.
struct Table<P: MultiProjection> {
    projection: Arc<P>,
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
pub type Changed = Vec<(String, Option<String>)>;

/// The changed rows, or the key of one that cannot be written and why.
type Written = Result<Changed, (String, Error)>;

/// The record at which it went wrong, and why.
type Failed = (usize, Error);

#[async_trait]
impl<P: MultiProjection> Filler for DocumentFiller<P> {
    async fn fill(&mut self, lease: &Lease, batch: Batch) -> Result<Filled> {
        if P::ON_FAILURE == OnFailure::Park && batch.is_shown {
            return self.fill_or_park(lease, batch).await;
        }
        let (from, to) = (batch.from, batch.to);
        let (mut plan, rows) = self.work(batch.decode()).await?;
        let problem = plan.problem.take();
        let checkpoint = match problem {
            None => Some(to),
            Some(_) => plan.decoded.checkpoint_after(plan.records, from, to),
        };
        if let Some(to) = checkpoint
            && (problem.is_none() || plan.records > 0)
        {
            self.commit(lease, from, to, rows, Vec::new()).await?;
        }
        Ok(Filled { checkpoint, problem })
    }

    async fn retry_parked(&mut self, lease: &Lease, at: Option<Token>, log: &dyn EventStore) -> Result<()> {
        match at {
            // Where nothing has been applied, nothing can be set aside.
            Some(at) if P::ON_FAILURE == OnFailure::Park => self.redrive(lease, at, log).await,
            _ => Ok(()),
        }
    }

    fn parked(&self) -> (usize, usize) {
        self.parking.as_ref().map_or((0, 0), Parking::size)
    }
}

impl<P: MultiProjection> DocumentFiller<P> {
    /// The rows that these events make, up to the first record that cannot be applied.
    async fn work(&mut self, decoded: Decoded<P::Event>) -> Result<(Plan<P::Event>, Changed)> {
        let mut plan = self.table.plan(decoded);
        loop {
            let failed = match self.fetch(&plan).await? {
                Some(failed) => failed,
                None => match self.table.apply(&plan).map(|()| self.table.changed(&plan)) {
                    Ok(Ok(rows)) => return Ok((plan, rows)),
                    // Which record it was is found the second time.
                    Ok(Err((key, _))) if plan.unwritable.insert(key.clone()) => {
                        self.table.forget();
                        continue;
                    }
                    Ok(Err((_, error))) => (0, error),
                    Err(failed) => failed,
                },
            };
            plan.end_before(failed);
            // What is in memory may be half changed: begin the batch again.
            self.table.forget();
        }
    }

    async fn commit(
        &mut self,
        lease: &Lease,
        from: Option<Token>,
        to: Token,
        rows: Changed,
        letters: Vec<(Position, Option<String>)>,
    ) -> Result<()> {
        self.table.bytes += rows.iter().map(|(key, row)| size_of_row(key, row.as_deref())).sum::<usize>();
        self.reads.commit(lease, Step { generation: self.generation, from, to, rows, letters }).await?;
        if self.table.rows.len() > CACHED_ROWS || self.table.bytes > CACHED_BYTES {
            self.table.forget();
        }
        Ok(())
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
    /// Reads the rows that are not in memory yet. A row that cannot be read is the fault of the first record that needs it.
    async fn fetch(&mut self, plan: &Plan<P::Event>) -> Result<Option<Failed>> {
        let mut missing: HashMap<&String, usize> = HashMap::new();
        for change in plan.changes.iter().filter(|change| !self.table.rows.contains_key(&change.key)) {
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
            if let Err(error) = self.table.put(key, row)
                && failed.as_ref().is_none_or(|(at, _)| first < *at)
            {
                failed = Some((first, error));
            }
        }
        Ok(failed)
    }
}

impl<P: MultiProjection> Table<P> {
    fn new(projection: Arc<P>) -> Self {
        Self { projection, rows: HashMap::new(), bytes: 0 }
    }

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

    /// Takes a row in as it is stored.
    fn put(&mut self, key: String, row: Option<String>) -> Result<()> {
        self.bytes += size_of_row(&key, row.as_deref());
        let row = row.map(|row| parse::<P>(&key, &row)).transpose()?;
        self.rows.insert(key, row);
        Ok(())
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

pub(crate) fn parse<P: MultiProjection>(key: &str, json: &str) -> Result<P::Row> {
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
    use crate::{Append, Event, EventStore, MemoryReads, MemoryStore, Projection, Read, StreamName, codec};

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
        let form = Kept { projection: Arc::new(Pages), reads: reads.clone() as Arc<dyn ReadStore> };
        let lease = reads.claim("pages").await.unwrap();
        let generation = form.create(&lease).await.unwrap().number;
        let table = Table::new(form.projection);
        let mut filler = DocumentFiller { reads: form.reads, generation, table, parking: None };
        let (mut from, mut most) = (None, 0);
        for n in 0..12 {
            let stream = StreamName::new(format!("page-{n}")).unwrap();
            let written = codec::encode(&Page::Written).unwrap();
            let to = store.append(Append::to(stream.clone(), [written])).await.unwrap().token;
            let records = store.read(Read::stream(stream)).await.unwrap().events;
            filler.fill(&lease, Batch::new(from, to, records)).await.unwrap();
            from = Some(to);
            most = most.max(filler.table.rows.len());
        }
        assert!(most > 4 && most * LARGE <= CACHED_BYTES, "{most} rows were kept");
    }
}
