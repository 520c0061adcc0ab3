//! The contract, on a PostgreSQL of the test's own or the one that `FACTUM_TEST_POSTGRES` names; each case in a schema of its own.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use std::sync::Arc;

use factum::{EventStore, Limits, Result};
use factum_conformance::Harness;
use factum_postgres::{Options, PostgresStore, Writing};

/// In either way of writing.
#[derive(Debug)]
struct OnPostgres<const GROUPED: bool> {
    schema: String,
    limits: Limits,
}

impl<const GROUPED: bool> Default for OnPostgres<GROUPED> {
    fn default() -> Self {
        Self { schema: support::fresh_schema(), limits: Limits::default() }
    }
}

impl<const GROUPED: bool> OnPostgres<GROUPED> {
    async fn connect(&self) -> Result<Arc<dyn EventStore>> {
        let options = Options {
            schema: self.schema.clone(),
            limits: self.limits,
            connections: 8,
            writing: if GROUPED { Writing::Grouped } else { Writing::Single },
            ..Options::default()
        };
        Ok(Arc::new(PostgresStore::open(&support::url(), options).await?))
    }
}

#[async_trait::async_trait]
impl<const GROUPED: bool> Harness for OnPostgres<GROUPED> {
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
            let store = PostgresStore::open(&support::url(), options).await?;
            store.begin_epoch().await
        };
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        std::thread::spawn(move || runtime().block_on(begin)).join().unwrap().is_ok()
    }
}

mod single {
    factum_conformance::suite!(crate::OnPostgres<false>);
}

mod grouped {
    factum_conformance::suite!(crate::OnPostgres<true>);
}
