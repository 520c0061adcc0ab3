//! Read models: what a projection makes of the log, kept in a store of its own, exactly once.
//!
//! A read model lives in *generations*. The active one is read; a rebuild fills another from the start of the log and takes its
//! place once it has come as far. The rows of a generation and its checkpoint change in one transaction, which also makes sure
//! that no other worker has taken over: so each event has its effect once, whatever crashes when.

mod document;
mod memory;
mod runner;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};

use self::{document::Documents, runner::Target};
pub use self::{
    memory::MemoryReads,
    runner::{Runner, State, Status},
};
use crate::{
    aggregate::{Event, Recorded},
    error::{Error, Result},
    event::RecordedEvent,
    handle::Done,
    position::Token,
    query::Query,
    store::EventStore,
};

/// A read model with one row per key.
pub trait Projection: Send + Sync + 'static {
    /// What it is called in the read store: letters, digits and `_`.
    const NAME: &'static str;
    /// A new number rebuilds it.
    const VERSION: u32 = 1;
    /// The events that it understands.
    type Event: Event;
    /// What is kept for a key.
    type Row: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Which events it looks at: those of the category, unless it says otherwise.
    ///
    /// # Errors
    /// What is wrong with a name in it.
    fn query(&self) -> Result<Query> {
        Ok(Query::category(Self::Event::CATEGORY))
    }

    /// Which row an event concerns: the one of its stream's id, unless it says otherwise. `None`: none.
    fn key(&self, event: &Recorded<Self::Event>) -> Option<String> {
        Some(event.record.stream.id().to_owned())
    }

    /// What becomes of the row. `None`: there is none any more.
    fn evolve(&self, row: Option<Self::Row>, event: &Recorded<Self::Event>) -> Option<Self::Row>;
}

/// One generation of a read model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its number: each new one is larger.
    pub number: u64,
    /// The version of the projection that makes it.
    pub version: u32,
    /// How far it has come; `None`: nowhere yet.
    pub checkpoint: Option<Token>,
}

/// A read model, as the worker finds it that takes it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The worker's fence: every change carries it, and fails once another worker has attached.
    pub epoch: u64,
    /// The generation that is read.
    pub active: Option<Generation>,
    /// The one that is to take its place.
    pub building: Option<Generation>,
}

/// Which generation of which read model, in whose name.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The read model.
    pub name: &'a str,
    /// The worker's fence.
    pub epoch: u64,
    /// The number of the generation.
    pub generation: u64,
}

/// A row's key and its JSON.
pub type JsonRow = (String, String);

/// Where read models of one row per key are kept.
///
/// A change MUST be atomic, and MUST fail with [`Error::Fenced`] if another worker has attached since, or the checkpoint is not
/// the expected one.
#[async_trait]
pub trait ReadStore: Send + Sync + std::fmt::Debug + 'static {
    /// Takes a read model over from whoever had it; from now on their changes fail.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a bad name, and failures of the store.
    async fn attach(&self, name: &str) -> Result<Attached>;

    /// Begins a generation without rows, which is built from now on. One that was being built is dropped.
    ///
    /// # Errors
    /// [`Error::Fenced`], and failures of the store.
    async fn begin(&self, name: &str, epoch: u64, version: u32) -> Result<Generation>;

    /// The JSON of these rows, in the order of the keys.
    ///
    /// # Errors
    /// Failures of the store.
    async fn rows(&self, place: Place<'_>, keys: &[String]) -> Result<Vec<Option<String>>>;

    /// Changes rows (`None` removes one) and moves the checkpoint, as one.
    ///
    /// # Errors
    /// [`Error::Fenced`], and failures of the store. Then nothing has changed.
    async fn change(
        &self,
        place: Place<'_>,
        from: Option<Token>,
        to: Token,
        rows: Vec<(String, Option<String>)>,
    ) -> Result<()>;

    /// Makes the generation that is being built the active one, and drops the one that was.
    ///
    /// # Errors
    /// [`Error::Fenced`], and failures of the store.
    async fn activate(&self, place: Place<'_>) -> Result<()>;

    /// A row of the active generation, and the version that made it.
    ///
    /// # Errors
    /// Failures of the store.
    async fn get(&self, name: &str, key: &str) -> Result<Option<String>>;

    /// Rows of the active generation beyond a key, in the order of keys (by their bytes).
    ///
    /// # Errors
    /// Failures of the store.
    async fn page(&self, name: &str, beyond: Option<&str>, limit: usize) -> Result<Vec<JsonRow>>;
}

/// A read model's name may become part of a table's name: nothing but letters, digits and `_`.
///
/// # Errors
/// [`Error::InvalidInput`] if it is anything else.
pub fn check_model_name(name: &str) -> Result<()> {
    let good = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= 48
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if good {
        return Ok(());
    }
    let why = "a letter, then up to 47 letters, digits and `_`, are a read model's name";
    Err(Error::invalid(format!("the read model's name `{name}`"), why))
}

/// What a read model and a fold of the log do not agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: String,
    /// The row's JSON in the read model.
    pub kept: Option<String>,
    /// The row's JSON by the log.
    pub by_the_log: Option<String>,
}

/// A read model that is being kept. It is kept as long as a clone of this lives.
#[derive(Debug)]
pub struct Projected<P: Projection> {
    documents: Arc<Documents<P>>,
    runner: Arc<Runner>,
}

impl<P: Projection> Clone for Projected<P> {
    fn clone(&self) -> Self {
        Self { documents: self.documents.clone(), runner: self.runner.clone() }
    }
}

impl<P: Projection> Projected<P> {
    pub(crate) async fn start(
        store: Arc<dyn EventStore>,
        projection: P,
        reads: Arc<dyn ReadStore>,
    ) -> Result<Self> {
        check_model_name(P::NAME)?;
        let documents = Arc::new(Documents::new(projection, reads));
        let target: Arc<dyn Target> = documents.clone();
        Ok(Self { documents, runner: Arc::new(Runner::start(store, target).await?) })
    }

    /// Waits until the read model shows what a command did, for ten seconds at most.
    ///
    /// # Errors
    /// As for [`Projected::wait_for_within`].
    pub async fn wait_for(&self, done: impl Into<Token>) -> Result<()> {
        self.runner.wait_for(done.into(), runner::PATIENCE).await
    }

    /// Waits until the read model has come as far as `token`.
    ///
    /// # Errors
    /// [`Error::Timeout`] that tells how far it came, [`Error::LogRewound`] for a token of another log,
    /// [`Error::Unavailable`] with the reason, if it has stopped.
    pub async fn wait_for_within(&self, token: impl Into<Token>, at_most: Duration) -> Result<()> {
        self.runner.wait_for(token.into(), at_most).await
    }

    /// The row of a key.
    ///
    /// # Errors
    /// Failures of the read store, and [`Error::Corrupt`] for a row that is not one of this projection.
    pub async fn get(&self, key: &str) -> Result<Option<P::Row>> {
        self.documents.get(key).await
    }

    /// All rows, in the order of keys (by their bytes).
    ///
    /// # Errors
    /// As for [`Projected::get`].
    pub async fn all(&self) -> Result<Vec<(String, P::Row)>> {
        self.documents.all().await
    }

    /// Makes it again from the start of the log, while the present rows are still read and kept; returns when the new ones have
    /// taken their place.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with the reason, if it stops before.
    pub async fn rebuild(&self) -> Result<()> {
        self.runner.rebuild().await
    }

    /// Compares it with a fold of the log up to its checkpoint. It does not move on meanwhile.
    ///
    /// # Errors
    /// Those of the stores.
    pub async fn verify(&self) -> Result<Vec<Difference>> {
        self.runner.verify().await
    }

    /// How far it is, and how well.
    ///
    /// # Errors
    /// Those of the event store.
    pub async fn status(&self) -> Result<Status> {
        self.runner.status().await
    }

    /// Stops keeping it, after the present batch.
    pub async fn stop(&self) {
        self.runner.stop().await;
    }
}

impl From<&Done> for Token {
    fn from(done: &Done) -> Self {
        done.token
    }
}

impl From<&Token> for Token {
    fn from(token: &Token) -> Self {
        *token
    }
}

/// The events of a projection, read.
fn decoded<E: Event>(events: Vec<RecordedEvent>) -> Result<Vec<Recorded<E>>> {
    events.into_iter().map(Recorded::decode).collect()
}

/// Calls what a user wrote: a panic there is an error with a reason, not the end of a task that nobody watches.
pub fn guarded<T>(what: impl FnOnce() -> String, work: impl FnOnce() -> T) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).map_err(|panic| {
        let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let said =
            said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into());
        Error::invalid(what(), format!("its handler panicked: {said}"))
    })
}
