//! The contract, on a PostgreSQL of the test's own or the one that `FACTUM_TEST_POSTGRES` names; each case in a schema of its own.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use std::sync::Arc;

use factum::{EventStore, Limits, Result};
use factum_conformance::Harness;
use factum_postgres::{Options, PostgresStore};

#[derive(Debug)]
struct OnPostgres {
    schema: String,
    limits: Limits,
}

impl Default for OnPostgres {
    fn default() -> Self {
        Self { schema: support::fresh_schema(), limits: Limits::default() }
    }
}

impl OnPostgres {
    async fn connect(&self) -> Result<Arc<dyn EventStore>> {
        let options = Options {
            schema: self.schema.clone(),
            limits: self.limits,
            connections: 8,
            ..Options::default()
        };
        Ok(Arc::new(PostgresStore::open(&support::url(), options).await?))
    }
}

#[async_trait::async_trait]
impl Harness for OnPostgres {
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

factum_conformance::suite!(OnPostgres);
