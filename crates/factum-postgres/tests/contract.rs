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

use factum::{
    Append, Appended, EventStore, Head, Limits, Page, Position, Read, Result, StreamName, StreamState,
};
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
    async fn store(&self) -> Result<PostgresStore> {
        let options = Options {
            schema: self.schema.clone(),
            limits: self.limits,
            connections: 8,
            writing: if GROUPED { Writing::Grouped } else { Writing::Single },
            ..Options::default()
        };
        PostgresStore::open(&support::url(), options).await
    }

    async fn connect(&self) -> Result<Arc<dyn EventStore>> {
        Ok(Arc::new(self.store().await?))
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

/// The same, with a scavenge after every few appends.
#[derive(Debug)]
struct Scavenged {
    store: PostgresStore,
    appends: AtomicUsize,
}

#[async_trait::async_trait]
impl EventStore for Scavenged {
    async fn append(&self, append: Append) -> Result<Appended> {
        let answer = self.store.append(append).await;
        if self.appends.fetch_add(1, Ordering::Relaxed).is_multiple_of(5) {
            match self.store.scavenge(|_| ControlFlow::Continue(())).await {
                // Another client is at it.
                Err(error) => assert!(error.to_string().contains("running already"), "{error}"),
                Ok(_) => {}
            }
        }
        answer
    }

    async fn read(&self, read: Read) -> Result<Page> {
        self.store.read(read).await
    }

    async fn head(&self) -> Result<Head> {
        self.store.head().await
    }

    async fn stream_state(&self, stream: &StreamName) -> Result<StreamState> {
        self.store.stream_state(stream).await
    }

    async fn changed(&self, position: Position) {
        self.store.changed(position).await;
    }

    fn limits(&self) -> Limits {
        self.store.limits()
    }
}

#[derive(Debug, Default)]
struct ScavengedOnPostgres(OnPostgres<false>);

#[async_trait::async_trait]
impl Harness for ScavengedOnPostgres {
    async fn open(&mut self, limits: Limits) -> Result<Arc<dyn EventStore>> {
        self.0.limits = limits;
        Ok(Arc::new(Scavenged { store: self.0.store().await?, appends: AtomicUsize::new(0) }))
    }

    fn durable(&self) -> bool {
        true
    }
}

mod scavenged {
    factum_conformance::suite!(crate::ScavengedOnPostgres);
}

mod single {
    factum_conformance::suite!(crate::OnPostgres<false>);
}

mod grouped {
    factum_conformance::suite!(crate::OnPostgres<true>);
}
