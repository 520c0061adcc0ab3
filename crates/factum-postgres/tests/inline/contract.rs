//! The contract, with a model that changes in every append.

use std::sync::Arc;

use factum::{EventStore, Limits, Query, Result, prelude::*, tagged::Whatever};
use factum_conformance::Harness;
use factum_postgres::{Options, PostgresStore, Writing};

use crate::server;

/// Counts everything, of every stream.
struct Tally;

impl Projection for Tally {
    const NAME: &'static str = "tally";
    type Event = Whatever;
    type Row = u64;

    fn query(&self) -> Result<Query> {
        Ok(Query::all())
    }

    fn key(&self, event: &Recorded<Whatever>) -> Option<String> {
        Some(event.record.stream.as_str().to_owned())
    }

    fn evolve(&self, row: Option<u64>, _: &Recorded<Whatever>) -> Option<u64> {
        Some(row.unwrap_or(0) + 1)
    }
}

#[derive(Debug)]
struct WithATally {
    schema: String,
    limits: Limits,
    writing: Writing,
}

impl WithATally {
    async fn connect(&self) -> Result<Arc<dyn EventStore>> {
        let options = Options {
            schema: self.schema.clone(),
            limits: self.limits,
            connections: 8,
            writing: self.writing,
            ..Options::default()
        };
        let store = PostgresStore::open(&server::url(), options).await?;
        store.inline(Tally).await?;
        Ok(Arc::new(store))
    }
}

impl Default for WithATally {
    fn default() -> Self {
        Self { schema: server::fresh_schema(), limits: Limits::default(), writing: Writing::Grouped }
    }
}

#[async_trait::async_trait]
impl Harness for WithATally {
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
}

factum_conformance::suite!(WithATally);
