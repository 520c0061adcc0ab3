//! The contract, with a model that changes in every append.

use std::sync::Arc;

use async_trait::async_trait;
use factum::{EventStore, Query, Result, prelude::*, tagged::Whatever};
use factum_postgres::{PostgresStore, Writing};

use crate::server::harness::{Kind, OnPostgres};

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
struct WithATally;

#[async_trait]
impl Kind for WithATally {
    const WRITING: Writing = Writing::Grouped;

    async fn prepare(store: PostgresStore) -> Result<Arc<dyn EventStore>> {
        store.inline(Tally).await?;
        Ok(Arc::new(store))
    }
}

factum_conformance::suite!(OnPostgres<WithATally>);
