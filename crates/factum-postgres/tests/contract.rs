//! The contract, on a PostgreSQL of the test's own or the one that `FACTUM_TEST_POSTGRES` names; each case in a schema of its own.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod support;

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use factum::{Append, Appended, EventStore, Result};
use factum_conformance::{Around, Wrapped};
use factum_postgres::{PostgresStore, Writing};
use support::harness::{Kind, OnPostgres};

#[derive(Debug)]
struct Single;

impl Kind for Single {
    const WRITING: Writing = Writing::Single;
}

#[derive(Debug)]
struct Grouped;

impl Kind for Grouped {
    const WRITING: Writing = Writing::Grouped;
}

/// With a scavenge after every few appends.
#[derive(Debug)]
struct Scavenged {
    store: PostgresStore,
    appends: AtomicUsize,
}

#[async_trait]
impl Kind for Scavenged {
    const WRITING: Writing = Writing::Single;

    async fn prepare(store: PostgresStore) -> Result<Arc<dyn EventStore>> {
        Ok(Arc::new(Wrapped(Self { store, appends: AtomicUsize::new(0) })))
    }
}

#[async_trait]
impl Around for Scavenged {
    fn store(&self) -> &dyn EventStore {
        &self.store
    }

    async fn append(&self, append: Append) -> Result<Appended> {
        let answer = self.store.append(append).await;
        if self.appends.fetch_add(1, Ordering::Relaxed).is_multiple_of(5) {
            // Another client may be at it.
            if let Err(error) = self.store.scavenge(|_| ControlFlow::Continue(())).await {
                assert!(error.to_string().contains("running already"), "{error}");
            }
        }
        answer
    }
}

mod scavenged {
    factum_conformance::suite!(crate::OnPostgres<crate::Scavenged>);
}

mod single {
    factum_conformance::suite!(crate::OnPostgres<crate::Single>);
}

mod grouped {
    factum_conformance::suite!(crate::OnPostgres<crate::Grouped>);
}
