//! Projections: read models made of the log, one row per key.

use std::{cmp::Ordering, fmt, marker::PhantomData, ops::Deref, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    aggregate::{EventSet, Recorded},
    consumer::{Consumer, fill_anew},
    documents::{Documents, parse},
    error::Result,
    handle::Factum,
    handler::{DeadLetter, stored_letters},
    query::Query,
    reads::{Generation, ReadStore, Scan},
    store::EventStore,
};

/// Streams that a projection may have parked, at most: beyond that it stops.
pub const PARKED_STREAMS: usize = 1000;

/// What becomes of an event that a projection cannot apply: one that cannot be decoded, on which it panics, or whose row cannot be
/// JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The projection stops before it, and says so.
    Stop,
    /// It is set aside, and so are those that follow it in its stream; other streams go on. That is so in what readers see; a
    /// [rebuild](Consumer::rebuild), and the filling of a new version, fails as with [`Stop`](OnFailure::Stop), and readers go on with
    /// what they had. With more than [`PARKED_STREAMS`] streams it stops.
    ///
    /// What is parked is tried again, in order, when the projection starts and by [`retry_parked`](Consumer::retry_parked): after the
    /// mistake was mended, nothing more is to be done. Where events of several streams change one row, those that were parked are
    /// applied after what others have done to it meanwhile: if that matters, rebuild.
    Park,
}

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
    /// What becomes of an event that cannot be applied: the projection stops, unless it says otherwise.
    const ON_FAILURE: OnFailure = OnFailure::Stop;
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
    /// What becomes of an event that cannot be applied, as [`Projection::ON_FAILURE`].
    const ON_FAILURE: OnFailure = OnFailure::Stop;
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
    const ON_FAILURE: OnFailure = P::ON_FAILURE;
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
pub struct Projected<P> {
    consumer: Consumer,
    model: ReadModel<P>,
}

impl<P> fmt::Debug for Projected<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Projected").field(&self.consumer).field(&self.model).finish()
    }
}

impl<P> Clone for Projected<P> {
    fn clone(&self) -> Self {
        Self { consumer: self.consumer.clone(), model: self.model.clone() }
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
    /// left, exactly once. Where another worker keeps the model, see [`consume`](Factum::consume).
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
        let documents = Documents::new(projection);
        let consumer = self.consume(documents.kept_in(reads.clone())).await?;
        Ok(Projected { consumer, model: ReadModel::new(documents, reads, self.store().clone()) })
    }
}

impl<P: MultiProjection> Projected<P> {
    /// The row of a key.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) if what is stored is not a row, [`Error::Unavailable`](crate::Error::Unavailable) while readers are shown another version of the
    /// projection, and failures of the read store.
    pub async fn get(&self, key: &str) -> Result<Option<P::Row>> {
        self.model.get(key).await
    }

    /// Up to `limit` rows with their keys, sorted by key, beginning after a key: a page of a list. Pages asked for one after
    /// another are each as of their own moment; [`rows`](Self::rows) are all of one.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub async fn page(&self, after: Option<&str>, limit: usize) -> Result<Vec<(String, P::Row)>> {
        self.model.page(after, limit).await
    }

    /// All rows with their keys, sorted by key, as they are at one moment, without holding them in memory: some hundreds at a
    /// time come from the store as they are asked for.
    ///
    /// The store keeps that moment until they are read to the end or dropped: in SQLite, where sixteen can be open at once, the
    /// write-ahead log is not folded into the file meanwhile and grows with what is written. So do not leave them lying.
    ///
    /// # Errors
    /// As for [`get`](Self::get), and [`Error::Unavailable`](crate::Error::Unavailable) if too many are open.
    pub async fn rows(&self) -> Result<Rows<P>> {
        self.model.rows().await
    }

    /// All rows with their keys, sorted by key, as they are at one moment. They are all in memory then; see
    /// [`rows`](Self::rows).
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    pub async fn all(&self) -> Result<Vec<(String, P::Row)>> {
        self.model.all().await
    }

    /// The events that are set aside, in the order of their positions: see [`OnFailure::Park`].
    ///
    /// # Errors
    /// Failures of the read store.
    pub async fn parked(&self) -> Result<Vec<DeadLetter>> {
        let reads = &*self.model.reads;
        match reads.catalog(P::NAME).await?.active {
            Some(active) => stored_letters(reads, P::NAME, active.number).await,
            None => Ok(Vec::new()),
        }
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
    /// Those of reading the log and the model; [`Error::LogRewound`](crate::Error::LogRewound) if the model is of another history;
    /// [`Error::Unavailable`](crate::Error::Unavailable) while a new version is being filled.
    pub async fn verify(&self) -> Result<Vec<Difference>> {
        self.model.verify().await
    }
}

/// The rows of a read model, as readers see them; whoever keeps it. A [`Projected`] has them, and so has what another crate keeps in
/// a way of its own.
pub struct ReadModel<P> {
    documents: Documents<P>,
    reads: Arc<dyn ReadStore>,
    store: Arc<dyn EventStore>,
}

impl<P> fmt::Debug for ReadModel<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadModel({:?})", self.reads)
    }
}

impl<P> Clone for ReadModel<P> {
    fn clone(&self) -> Self {
        let Self { documents, reads, store } = self;
        Self { documents: documents.clone(), reads: reads.clone(), store: store.clone() }
    }
}

impl<P: MultiProjection> ReadModel<P> {
    /// The model of this projection in `reads`, made from what is in `store`. Somebody keeps it up to date.
    pub fn new(documents: Documents<P>, reads: Arc<dyn ReadStore>, store: Arc<dyn EventStore>) -> Self {
        Self { documents, reads, store }
    }

    /// As [`Projected::get`].
    ///
    /// # Errors
    /// As there.
    pub async fn get(&self, key: &str) -> Result<Option<P::Row>> {
        let shown = self.reads.get(P::NAME, key).await?;
        check_version::<P>(shown.generation)?;
        let row = shown.rows.into_iter().next();
        row.map(|(key, row)| parse::<P>(&key, &row)).transpose()
    }

    /// As [`Projected::page`].
    ///
    /// # Errors
    /// As there.
    pub async fn page(&self, after: Option<&str>, limit: usize) -> Result<Vec<(String, P::Row)>> {
        let shown = self.reads.page(P::NAME, after.map(str::to_owned), limit).await?;
        check_version::<P>(shown.generation)?;
        shown.rows.into_iter().map(|(key, row)| parse::<P>(&key, &row).map(|row| (key, row))).collect()
    }

    /// As [`Projected::rows`].
    ///
    /// # Errors
    /// As there.
    pub async fn rows(&self) -> Result<Rows<P>> {
        let scan = self.reads.scan(P::NAME).await?;
        check_version::<P>(scan.generation)?;
        Ok(Rows { scan, of: PhantomData })
    }

    /// As [`Projected::all`].
    ///
    /// # Errors
    /// As there.
    pub async fn all(&self) -> Result<Vec<(String, P::Row)>> {
        let (mut rows, mut all) = (self.rows().await?, Vec::new());
        while let Some(row) = rows.next().await? {
            all.push(row);
        }
        Ok(all)
    }

    /// As [`Projected::verify`].
    ///
    /// # Errors
    /// As there.
    pub async fn verify(&self) -> Result<Vec<Difference>> {
        self.compare(self.reads.scan(P::NAME).await?).await
    }

    /// Compares rows of the model with what the log makes, up to where these rows are: [`verify`](Self::verify) of rows that were
    /// read before.
    ///
    /// # Errors
    /// As for [`verify`](Self::verify).
    pub async fn compare(&self, mut kept: Scan) -> Result<Vec<Difference>> {
        check_version::<P>(kept.generation)?;
        let Some(generation) = kept.generation else { return Ok(Vec::new()) };
        let reads = self.reads.scratch().await?;
        let form = self.documents.kept_in(reads.clone());
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
    /// [`Error::Corrupt`](crate::Error::Corrupt) if what is stored is not a row, and failures of the read store.
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
