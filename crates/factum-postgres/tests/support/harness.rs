//! The contract's harness: each case in a schema of its own.

use std::{fmt::Debug, marker::PhantomData, sync::Arc};

use async_trait::async_trait;
use factum::{EventStore, Limits, Result};
use factum_conformance::Harness;
use factum_postgres::{Options, PostgresStore, Writing};

/// Which of PostgreSQL's stores.
#[async_trait]
pub(crate) trait Kind: Debug + Send + Sync + 'static {
    const WRITING: Writing;

    /// What is done with one that has just been opened.
    async fn prepare(store: PostgresStore) -> Result<Arc<dyn EventStore>> {
        Ok(Arc::new(store))
    }
}

#[derive(Debug)]
pub(crate) struct OnPostgres<K> {
    schema: String,
    limits: Limits,
    kind: PhantomData<K>,
}

impl<K> Default for OnPostgres<K> {
    fn default() -> Self {
        Self { schema: super::fresh_schema(), limits: Limits::default(), kind: PhantomData }
    }
}

impl<K: Kind> OnPostgres<K> {
    async fn connect(&self) -> Result<Arc<dyn EventStore>> {
        let options = Options {
            schema: self.schema.clone(),
            limits: self.limits,
            connections: 8,
            writing: K::WRITING,
            ..Options::default()
        };
        K::prepare(PostgresStore::open(&super::url(), options).await?).await
    }
}

#[async_trait]
impl<K: Kind> Harness for OnPostgres<K> {
    async fn open(&mut self, limits: Limits) -> Result<Arc<dyn EventStore>> {
        self.limits = limits;
        self.connect().await
    }

    fn durable(&self) -> bool {
        true
    }

    fn reopens(&self) -> bool {
        true
    }

    async fn reopen(&mut self, store: Arc<dyn EventStore>) -> Result<Arc<dyn EventStore>> {
        drop(store);
        self.connect().await
    }

    fn begin_epoch(&self) -> bool {
        // Through a store of its own, as another process would.
        let options = Options { schema: self.schema.clone(), ..Options::default() };
        let begin = async move {
            let store = PostgresStore::open(&super::url(), options).await?;
            store.begin_epoch().await
        };
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        std::thread::spawn(move || runtime().block_on(begin)).join().unwrap().is_ok()
    }
}
