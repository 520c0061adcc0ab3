//! Read models that change in the transaction of the append: what an append has to do for them.

mod switch;

use std::{
    collections::HashMap,
    fmt,
    ops::Deref,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use factum::{
    Error, EventStore, MultiProjection, NewEvent, Outcome, Placed, Position, Query, ReadModel, RecordedEvent,
    Result, StreamName, StreamState, Timestamp, Token,
    documents::{Documents, Fold, RowsByKey},
};

use crate::{
    PostgresStore,
    fault::Fault,
    models::{Columns, Names},
};

/// How many places there are for the keys of rows: so many locks an append holds, at most.
const PLACES: u64 = 128;
/// How long [`Inlined::wait_for`] waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks, where the model is kept in the background.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The inline models that this process can keep.
#[derive(Debug, Default)]
pub(crate) struct Folds(RwLock<Vec<Known>>);

/// One of them.
#[derive(Clone, Debug)]
struct Known {
    fold: Arc<dyn Fold>,
    query: Query,
}

impl Folds {
    fn add(&self, fold: Arc<dyn Fold>) -> Result<()> {
        let known = Known { query: fold.events()?, fold };
        let same = |other: &Known| {
            other.fold.model() == known.fold.model() && other.fold.version() == known.fold.version()
        };
        // Nothing panics while this lock is held.
        let mut folds = self.0.write().unwrap_or_else(PoisonError::into_inner);
        folds.retain(|other| !same(other));
        folds.push(known);
        Ok(())
    }

    /// Whether it can keep none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn find(&self, model: &Registered) -> Result<Known> {
        let folds = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut versions = None;
        for known in folds.iter().filter(|known| known.fold.model() == model.name) {
            if known.fold.version() == model.version {
                return Ok(known.clone());
            }
            versions = Some(known.fold.version());
        }
        let Registered { name, version, .. } = model;
        let has = match versions {
            Some(other) => format!("has version {other} of it"),
            None => "does not keep it".to_owned(),
        };
        let why = format!(
            "the read model `{name}` (version {version}) changes in the transactions of appends to this database, and this program {has}; \
             hand that version to `PostgresStore::inline` before appending, or have the model kept in the background by \
             `SELECT factum.make_asynchronous('{name}')`"
        );
        Err(Error::invalid("the append", why))
    }
}

/// A model that every append to the database has to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registered {
    name: String,
    generation: i64,
    version: u32,
}

/// The models that every append has to keep, as a column: read after its locks, it holds until its end.
pub(crate) const REGISTERED: &str = "ARRAY(SELECT concat_ws(' ', m.model, g.generation, g.version)
    FROM factum.models m JOIN factum.generations g ON g.model = m.model AND g.generation = m.active
    WHERE m.inline ORDER BY m.model)";

impl Registered {
    /// What the column says.
    pub(crate) fn of(column: &[&str]) -> Result<Vec<Self>> {
        let parts = |text: &&str| {
            let mut parts = text.split(' ');
            let (name, generation) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
            Some(Self { name, generation, version: parts.next()?.parse().ok()? })
        };
        let models: Option<Vec<Self>> = column.iter().map(parts).collect();
        models.ok_or_else(|| Error::invalid("the inline read models of the database", format!("{column:?}")))
    }
}

/// What a transaction does to the inline models.
#[derive(Default)]
pub(crate) struct Plan<'a> {
    events: Vec<(&'a StreamName, &'a NewEvent, Placed)>,
    models: Vec<PlannedModel>,
}

pub(crate) struct PlannedModel {
    known: Known,
    pub(crate) table: String,
    pub(crate) keys: Vec<String>,
}

impl<'a> Plan<'a> {
    /// Of the events that are written, each with its number in the transaction and its revision.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if this process cannot keep a model, or the model refuses an event.
    pub(crate) fn of(
        folds: &Folds,
        names: &Names,
        registered: &[Registered],
        events: Vec<(&'a StreamName, &'a NewEvent, Placed)>,
    ) -> Result<Self> {
        let mut plan = Self { events, models: Vec::new() };
        for model in registered {
            let known = folds.find(model)?;
            let records: Vec<RecordedEvent> = plan.records(Position::START, Timestamp(0));
            let concerned: Vec<RecordedEvent> =
                records.into_iter().filter(|record| known.query.matches(record)).collect();
            if concerned.is_empty() {
                continue;
            }
            let keys = known.fold.keys(concerned).map_err(|error| refused(&model.name, &error))?;
            if keys.is_empty() {
                continue;
            }
            let table = names.table(&model.name, model.generation);
            plan.models.push(PlannedModel { known, table, keys });
        }
        Ok(plan)
    }

    fn records(&self, first: Position, moment: Timestamp) -> Vec<RecordedEvent> {
        let record = |(stream, event, placed): &(&StreamName, &NewEvent, Placed)| RecordedEvent {
            position: Position(first.0 + placed.position.0),
            stream: (*stream).clone(),
            revision: placed.revision,
            recorded_at: moment,
            id: event.id,
            event_type: event.event_type.clone(),
            content_type: event.content_type.clone(),
            data: event.data.clone(),
            metadata: event.metadata.clone(),
            tags: event.tags.clone(),
        };
        self.events.iter().map(record).collect()
    }

    /// The models that change.
    pub(crate) fn models(&self) -> &[PlannedModel] {
        &self.models
    }

    /// Where the keys' locks are.
    pub(crate) fn places(&self) -> Vec<i32> {
        let keys = self.models.iter().flat_map(|model| model.keys.iter().map(move |key| (model, key)));
        let mut places: Vec<i32> = keys.map(|(model, key)| place(model.known.fold.model(), key)).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// What becomes of the rows, model by model, now that the events' positions and their moment are known. `state` is what the
    /// streams are after the transaction: what they hide at once is never seen, as by those who read the log.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if a model refuses an event.
    pub(crate) fn fold(
        &self,
        first: Position,
        moment: Timestamp,
        rows: Vec<HashMap<String, String>>,
        state: impl Fn(&StreamName) -> StreamState,
    ) -> Result<Vec<Columns>, Fault> {
        let mut visible = self.records(first, moment);
        visible.retain(|record| state(&record.stream).shows(record.revision, moment, moment));
        let mut changed = Vec::with_capacity(self.models.len());
        for (model, mut rows) in self.models.iter().zip(rows) {
            let known = model.keys.iter().map(|key| (key.clone(), rows.remove(key)));
            let known: RowsByKey = known.collect();
            let concerned = visible.iter().filter(|record| model.known.query.matches(record)).cloned();
            let fold = model.known.fold.fold(concerned.collect(), known);
            let fold = fold.map_err(|error| refused(model.known.fold.model(), &error))?;
            changed.push(Columns::of(fold)?);
        }
        Ok(changed)
    }
}

/// An append that a model cannot take in: nothing of it happens.
fn refused(model: &str, error: &Error) -> Error {
    let what = format!("the read model `{model}`, which changes in the append's own transaction");
    Error::invalid(what, format!("it refuses the append: {error}"))
}

fn place(model: &str, key: &str) -> i32 {
    let seed = xxhash_rust::xxh3::xxh3_64(model.as_bytes());
    let place = xxhash_rust::xxh3::xxh3_64_with_seed(key.as_bytes(), seed) % PLACES;
    i32::try_from(place).unwrap_or_default()
}

/// A read model whose rows change in the transaction of each append: with the append's answer they are there.
///
/// Reading is that of every [`ReadModel`].
pub struct Inlined<P> {
    model: ReadModel<P>,
    store: PostgresStore,
}

impl<P> fmt::Debug for Inlined<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inlined").field(&self.model).finish()
    }
}

impl<P> Clone for Inlined<P> {
    fn clone(&self) -> Self {
        Self { model: self.model.clone(), store: self.store.clone() }
    }
}

impl<P> Deref for Inlined<P> {
    type Target = ReadModel<P>;

    fn deref(&self) -> &ReadModel<P> {
        &self.model
    }
}

impl PostgresStore {
    /// Keeps a read model *inline*: its rows change in the transaction of each append, by whatever process, so that events and rows
    /// become visible together. It is the same projection that [`Factum::project`](factum::Factum::project) keeps in the background.
    ///
    /// ```no_run
    /// # use factum::prelude::*;
    /// # #[derive(Serialize, Deserialize)] enum AccountEvent { MoneyDeposited { cents: i64 } }
    /// # impl Event for AccountEvent { const CATEGORY: &'static str = "account"; }
    /// # #[derive(Default)] struct Account;
    /// # impl Aggregate for Account { type Event = AccountEvent; fn apply(&mut self, _: &AccountEvent) {} }
    /// # struct Deposit; impl Command<Account> for Deposit { type Error = std::convert::Infallible;
    /// # fn decide(&self, _: &Account) -> Result<Vec<AccountEvent>, Self::Error> { Ok(vec![]) } }
    /// # struct Balances; impl Projection for Balances { const NAME: &'static str = "balances"; type Event = AccountEvent; type Row = i64;
    /// #   fn evolve(&self, row: Option<i64>, e: &Recorded<AccountEvent>) -> Option<i64> { row } }
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = factum_postgres::PostgresStore::connect("postgres://app@localhost/app").await?;
    /// let balances = store.inline(Balances).await?;
    /// let factum = Factum::new(store);
    /// factum.execute(&Account::id("4711"), Deposit).await?;
    /// println!("{:?}", balances.get("4711").await?); // with the deposit in it
    /// # Ok(()) }
    /// ```
    ///
    /// The first time, and for each new `VERSION`, it is filled from the log while appends go on (rows of an older inline version
    /// are kept up to date meanwhile), and then switched while they are held up for a moment. From then on, **every** process that
    /// appends must hand this version of it to its store first: the appends of one that does not are refused.
    /// [`make_asynchronous`](Self::make_asynchronous) is the way back.
    ///
    /// - An append whose events the projection panics on, or cannot decode, is refused.
    /// - Appends that change the same row wait for each other, from there to their commit. A projection with one row for everything
    ///   lets one append through at a time: such a one is better kept in the background.
    /// - The keys of an event must not depend on its position or time, which are drawn when the rows are locked.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a bad name or query, an event of the log that the projection refuses, or a later version in force;
    /// [`Error::Timeout`] if appends that hang could not be held up; [`Error::LogRewound`] if the rows are of another history: rebuild them
    /// in the background; failures of the database.
    pub async fn inline<P: MultiProjection>(&self, projection: P) -> Result<Inlined<P>> {
        factum::reads::check_model_name(P::NAME)?;
        let documents = Documents::new(projection);
        self.inner.folds.add(Arc::new(documents.clone()))?;
        switch::on(self, &documents).await?;
        let (reads, store) = (Arc::new(self.reads()), Arc::new(self.clone()));
        Ok(Inlined { model: ReadModel::new(documents, reads, store), store: self.clone() })
    }

    /// The same, if the model is kept inline now; otherwise it stays as it is. In either case the appends of this store keep it where
    /// somebody has it kept inline. For programs that follow what they find, such as one that is started for each command.
    ///
    /// # Errors
    /// As for [`inline`](Self::inline).
    pub async fn inlined<P: MultiProjection>(&self, projection: P) -> Result<Option<Inlined<P>>> {
        factum::reads::check_model_name(P::NAME)?;
        if matches!(switch::progress(self, P::NAME).await?, switch::Progress::Inline) {
            return self.inline(projection).await.map(Some);
        }
        self.inner.folds.add(Arc::new(Documents::new(projection)))?;
        Ok(None)
    }

    /// Ends that a model is kept inline, for an operator or before a program that does not know it: appends leave it alone from now
    /// on, and whoever keeps it in the background (`factum.project(Balances, store.reads())`) goes on where they left it. Whether it was
    /// inline. In SQL: `SELECT factum.make_asynchronous('balances')`.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn make_asynchronous(&self, model: &str) -> Result<bool> {
        switch::off(self, model).await
    }
}

impl<P: MultiProjection> Inlined<P> {
    /// Waits until readers see everything up to `to`, for at most 10 seconds. What an append answered is there already, so this only
    /// waits where somebody has had the model kept in the background meanwhile.
    ///
    /// # Errors
    /// [`Error::Timeout`] saying how far it is, [`Error::LogRewound`] for a token of another history or beyond the end of the log, and
    /// failures of the database.
    pub async fn wait_for(&self, to: impl Into<Token> + Send) -> Result<()> {
        let to = self.store.locate(to.into()).await?;
        let mut waited = Duration::ZERO;
        loop {
            let at = match switch::progress(&self.store, P::NAME).await? {
                switch::Progress::Inline => return Ok(()),
                switch::Progress::UpTo(Some(at)) => Some(self.store.locate(at).await?),
                switch::Progress::UpTo(None) => None,
            };
            if at.is_some_and(|at| at.log == to.log && at.position >= to.position) {
                return Ok(());
            }
            if waited >= PATIENCE {
                let at = at.map_or(Position::START, |at| at.position);
                let what = format!(
                    "waiting for the read model `{}` to reach position {} (it is not kept inline any more, and at {at})",
                    P::NAME,
                    to.position
                );
                return Err(Error::Timeout { what, after_ms: 10_000, outcome: Outcome::No });
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            waited += LOOK_AGAIN;
        }
    }

    /// Compares the rows with what the visible events of the log make, as [`Projected::verify`](factum::Projected::verify) does. To know
    /// which events are in the rows, it holds up all appends for the moment in which it begins.
    ///
    /// # Errors
    /// As there, and [`Error::Timeout`] if appends that hang could not be held up.
    pub async fn verify(&self) -> Result<Vec<factum::Difference>> {
        self.model.compare(self.store.reads().settled(P::NAME, switch::HOLD_UP).await?).await
    }
}
