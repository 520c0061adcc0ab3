//! Projections: read models made of the log, one row per key.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    aggregate::{EventSet, Recorded},
    consumer::{Batch, Consumer, Filled, Filler, Form},
    error::{Corrupt, Error, Result},
    handle::Factum,
    query::Query,
    read::{AsOf, Read},
    reads::{Lease, ReadStore, Snapshot, Step},
    store::{EventStore, EventStoreExt},
    worker::said,
};

/// Rows that a filler keeps in memory between batches, at most.
const CACHED_ROWS: usize = 50_000;

/// A read model: one row per key, changed by one event after another. Pure.
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
    /// A row.
    type Row: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The events that it is made from: those of the event's category.
    ///
    /// # Errors
    /// Those of [`Query`]'s constructors.
    fn query(&self) -> Result<Query> {
        Self::Event::query()
    }

    /// The key of the row that an event changes: the id in the stream's name. `None` if it changes none.
    fn key(&self, event: &Recorded<Self::Event>) -> Option<String> {
        Some(event.record.stream.id().to_owned())
    }

    /// The row after an event; `None` takes it away.
    fn evolve(&self, row: Option<Self::Row>, event: &Recorded<Self::Event>) -> Option<Self::Row>;
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
    pub async fn project<P: Projection>(&self, projection: P, reads: impl ReadStore) -> Result<Projected<P>> {
        let (projection, reads) = (Arc::new(projection), Arc::new(reads) as Arc<dyn ReadStore>);
        let form = Documents { projection: projection.clone(), reads: reads.clone() };
        Ok(Projected { consumer: self.consume(form).await?, projection, reads, store: self.store().clone() })
    }
}

impl<P: Projection> Projected<P> {
    /// The row of a key.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if what is stored is not a row, [`Error::Unavailable`] while readers are shown another version of the
    /// projection, and failures of the read store.
    pub async fn get(&self, key: &str) -> Result<Option<P::Row>> {
        let row = own::<P>(self.reads.get(P::NAME, key).await?)?.pop();
        row.map(|(key, row)| parse::<P>(&key, &row)).transpose()
    }

    /// All rows with their keys, sorted by key, as they are at one moment.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub async fn all(&self) -> Result<Vec<(String, P::Row)>> {
        let rows = own::<P>(self.reads.snapshot(P::NAME).await?)?;
        let parsed = rows.into_iter().map(|(key, row)| parse::<P>(&key, &row).map(|row| (key, row)));
        parsed.collect()
    }

    /// Compares the model with what the visible events of the log make, up to where the model is. Nothing: they agree.
    ///
    /// A model keeps what it once made of events that retention, a deletion or a scavenge has hidden since. Rows made of such
    /// events differ, although nothing is wrong, until a [rebuild](Consumer::rebuild) makes them of what is left.
    ///
    /// # Errors
    /// Those of reading the log and the model; [`Error::LogRewound`] if the model is of another history;
    /// [`Error::Unavailable`] while a new version is being filled.
    pub async fn verify(&self) -> Result<Vec<Difference>> {
        let snapshot = self.reads.snapshot(P::NAME).await?;
        let Some(generation) = snapshot.generation else { return Ok(Vec::new()) };
        let rows = own::<P>(snapshot)?;
        let mut expected = BTreeMap::new();
        if let Some(checkpoint) = generation.checkpoint {
            let head = self.store.head().await?.token;
            let position = checkpoint.position_in(head.log, head.position)?;
            let read = Read::query(self.projection.query()?).as_of(AsOf::Position(position));
            self.store.read_pages(read, |page| self.fold(&mut expected, page.events)).await?;
        }
        differences(rows, expected)
    }

    fn fold(&self, rows: &mut BTreeMap<String, P::Row>, records: Vec<crate::RecordedEvent>) -> Result<()> {
        let mut events = Vec::with_capacity(records.len());
        for record in records {
            Recorded::decode(record, &mut events)?;
        }
        for event in events {
            let Some(key) = self.projection.key(&event) else { continue };
            if let Some(row) = self.projection.evolve(rows.remove(&key), &event) {
                rows.insert(key, row);
            }
        }
        Ok(())
    }
}

fn differences<R: Serialize>(
    stored: Vec<(String, String)>,
    expected: BTreeMap<String, R>,
) -> Result<Vec<Difference>> {
    let mut rows: BTreeMap<String, (Option<String>, Option<String>)> = BTreeMap::new();
    for (key, row) in stored {
        rows.entry(key).or_default().0 = Some(row);
    }
    for (key, row) in expected {
        let row = to_json(&key, &row)?;
        rows.entry(key).or_default().1 = Some(row);
    }
    let value = |json: &Option<String>| {
        json.as_ref().map(|json| serde_json::from_str::<serde_json::Value>(json).ok())
    };
    let differing = rows.into_iter().filter(|(_, (kept, by_the_log))| value(kept) != value(by_the_log));
    Ok(differing.map(|(key, (kept, by_the_log))| Difference { key, kept, by_the_log }).collect())
}

/// The rows, if they are of the version that this projection can read.
fn own<P: Projection>(snapshot: Snapshot) -> Result<Vec<(String, String)>> {
    snapshot.generation.map_or(Ok(()), |shown| shown.check_version(P::NAME, P::VERSION))?;
    Ok(snapshot.rows)
}

fn parse<P: Projection>(key: &str, json: &str) -> Result<P::Row> {
    serde_json::from_str(json).map_err(|e| {
        let problem = format!(
            "it is not a row of version {} of the projection ({e}); a rebuild makes it anew",
            P::VERSION
        );
        let segment = format!("the row `{key}` of the read model `{}`", P::NAME);
        Corrupt { segment, offset: e.column() as u64, positions: None, problem }.into()
    })
}

fn to_json(key: &str, row: &impl Serialize) -> Result<String> {
    serde_json::to_string(row)
        .map_err(|e| Error::invalid(format!("the row `{key}`"), format!("it cannot be JSON: {e}")))
}

/// One JSON document per key.
struct Documents<P> {
    projection: Arc<P>,
    reads: Arc<dyn ReadStore>,
}

impl<P: Projection> Form for Documents<P> {
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
        Box::new(DocumentFiller { projection, reads, generation, rows: HashMap::new() })
    }
}

struct DocumentFiller<P: Projection> {
    projection: Arc<P>,
    reads: Arc<dyn ReadStore>,
    generation: u32,
    /// Rows as they are stored; `None` for a key known to have no row. Whoever holds the lease is the only one to change them.
    rows: HashMap<String, Option<P::Row>>,
}

/// An event with the key of the row that it changes.
type Keyed<E> = (Option<String>, Recorded<E>);

#[async_trait]
impl<P: Projection> Filler for DocumentFiller<P> {
    async fn fill(&mut self, lease: &Lease, batch: Batch) -> Result<Filled> {
        let Batch { from, to, events } = batch;
        let (events, mut problem) = self.prepare(events);
        let mut events = &events[..];
        while let Err((at, error)) = {
            self.fetch(events).await?;
            self.evolve(events)
        } {
            // A panic may have left a row half changed: begin the batch again, and end it before.
            (events, problem) = (&events[..at], Some(error));
            self.rows.clear();
        }
        let to = match (&problem, events.last()) {
            (None, _) => to,
            (Some(_), Some((_, last))) => to.log.at(last.record.position),
            (Some(_), None) => return Ok(Filled { checkpoint: from, problem }),
        };
        let step = Step { generation: self.generation, from, to, rows: self.changed(events)? };
        self.reads.commit(lease, step).await?;
        if self.rows.len() > CACHED_ROWS {
            self.rows.clear();
        }
        Ok(Filled { checkpoint: Some(to), problem })
    }
}

impl<P: Projection> DocumentFiller<P> {
    /// Decodes the events and finds their keys, up to the first for which that fails.
    fn prepare(&self, records: Vec<crate::RecordedEvent>) -> (Vec<Keyed<P::Event>>, Option<Error>) {
        let (mut events, mut parts) = (Vec::with_capacity(records.len()), Vec::new());
        for record in records {
            if let Err(error) = Recorded::decode(record, &mut parts) {
                return (events, Some(error));
            }
            let before = events.len();
            for event in parts.drain(..) {
                match unharmed(&event, P::NAME, || self.projection.key(&event)) {
                    Ok(key) => events.push((key, event)),
                    Err(error) => {
                        events.truncate(before);
                        return (events, Some(error));
                    }
                }
            }
        }
        (events, None)
    }

    /// Reads the rows that are not in memory yet.
    async fn fetch(&mut self, events: &[Keyed<P::Event>]) -> Result<()> {
        let keys = events.iter().filter_map(|(key, _)| key.as_ref());
        let missing: HashSet<&String> = keys.filter(|key| !self.rows.contains_key(*key)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<String> = missing.into_iter().cloned().collect();
        let rows = self.reads.rows(P::NAME, self.generation, missing.clone()).await?;
        for (key, row) in missing.into_iter().zip(rows) {
            let row = row.map(|row| parse::<P>(&key, &row)).transpose()?;
            self.rows.insert(key, row);
        }
        Ok(())
    }

    /// Applies the events to the rows. In case of a panic: at which event, and what it said.
    fn evolve(&mut self, events: &[Keyed<P::Event>]) -> Result<(), (usize, Error)> {
        for (at, (key, event)) in events.iter().enumerate() {
            let Some(row) = key.as_ref().and_then(|key| self.rows.get_mut(key)) else { continue };
            let before = row.take();
            *row = unharmed(event, P::NAME, || self.projection.evolve(before, event))
                .map_err(|error| (at, error))?;
        }
        Ok(())
    }

    /// Each row that the events touched, as JSON.
    fn changed(&self, events: &[Keyed<P::Event>]) -> Result<Vec<(String, Option<String>)>> {
        // In the order of keys, which a tree of pages likes.
        let touched: BTreeSet<&String> = events.iter().filter_map(|(key, _)| key.as_ref()).collect();
        let rows = touched.into_iter().map(|key| {
            let row = self.rows.get(key).and_then(Option::as_ref);
            Ok((key.clone(), row.map(|row| to_json(key, row)).transpose()?))
        });
        rows.collect()
    }
}

/// What `work` on an event gives. A panic in it becomes an error that says where.
fn unharmed<E, T>(event: &Recorded<E>, projection: &str, work: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let record = &event.record;
        let (kind, at, stream) = (&record.event_type, record.position, &record.stream);
        let what = format!("the projection `{projection}`");
        Error::invalid(
            what,
            format!("it panicked on `{kind}` at position {at} in `{stream}`: {}", said(&*panic)),
        )
    })
}
