//! Read models in PostgreSQL: everything that holds for those in memory, and what is PostgreSQL's own.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod letters;
mod models;
#[path = "../../../factum/tests/domain/parked.rs"]
mod parked;
#[path = "../../../factum/tests/domain/passes.rs"]
mod passes;
#[path = "../../../factum/tests/domain/projections.rs"]
mod projections;
#[path = "../../../factum/tests/domain/rebuilds.rs"]
mod rebuilds;
#[path = "../support/mod.rs"]
mod server;
mod snapshots;
#[path = "../../../factum/tests/domain/support.rs"]
mod support;
#[path = "../../../factum/tests/domain/troubles.rs"]
mod troubles;
#[path = "../../../factum/tests/domain/views.rs"]
mod views;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use factum::{
    Position, ReadStore,
    reads::{Catalog, Generation, Hold, Holds, Lease, Scan, Snapshot, Step},
};
use factum_postgres::{Options, PostgresReads};
use tokio::runtime::{Builder, Runtime};

/// Whether models are kept in this process.
const NEAR: bool = false;

/// Where connections live: some of these tests end the runtimes that they ask from.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
}

/// Where the tests of projections keep their models: a new schema.
fn reads() -> Elsewhere {
    let options = Options { schema: server::fresh_schema(), connections: 8, ..Options::default() };
    // These tests ask for it in the midst of a runtime.
    let opening =
        std::thread::spawn(|| runtime().block_on(PostgresReads::open(&server::url(), options)).unwrap());
    Elsewhere { reads: opening.join().unwrap() }
}

/// Read models that are asked from another runtime.
#[derive(Clone, Debug)]
struct Elsewhere {
    reads: PostgresReads,
}

impl Elsewhere {
    async fn ask<T: Send + 'static, F: Future<Output = factum::Result<T>> + Send + 'static>(
        &self,
        question: impl FnOnce(PostgresReads) -> F,
    ) -> factum::Result<T> {
        runtime().spawn(question(self.reads.clone())).await.unwrap()
    }
}

#[async_trait]
impl ReadStore for Elsewhere {
    async fn claim(&self, model: &str) -> factum::Result<Lease> {
        let model = model.to_owned();
        self.ask(|reads| async move { reads.claim(&model).await }).await
    }
    async fn catalog(&self, model: &str) -> factum::Result<Catalog> {
        let model = model.to_owned();
        self.ask(|reads| async move { reads.catalog(&model).await }).await
    }
    async fn create(&self, lease: &Lease, version: u32) -> factum::Result<Generation> {
        let lease = lease.clone();
        self.ask(move |reads| async move { reads.create(&lease, version).await }).await
    }
    async fn discard(&self, lease: &Lease) -> factum::Result<()> {
        let lease = lease.clone();
        self.ask(|reads| async move { reads.discard(&lease).await }).await
    }
    async fn activate(&self, lease: &Lease, generation: u32) -> factum::Result<()> {
        let lease = lease.clone();
        self.ask(move |reads| async move { reads.activate(&lease, generation).await }).await
    }
    async fn commit(&self, lease: &Lease, step: Step) -> factum::Result<()> {
        let lease = lease.clone();
        self.ask(|reads| async move { reads.commit(&lease, step).await }).await
    }
    async fn rows(
        &self,
        model: &str,
        generation: u32,
        keys: Vec<String>,
    ) -> factum::Result<Vec<Option<String>>> {
        let model = model.to_owned();
        self.ask(move |reads| async move { reads.rows(&model, generation, keys).await }).await
    }
    async fn get(&self, model: &str, key: &str) -> factum::Result<Snapshot> {
        let (model, key) = (model.to_owned(), key.to_owned());
        self.ask(|reads| async move { reads.get(&model, &key).await }).await
    }
    async fn page(&self, model: &str, after: Option<String>, limit: usize) -> factum::Result<Snapshot> {
        let model = model.to_owned();
        self.ask(move |reads| async move { reads.page(&model, after, limit).await }).await
    }
    async fn scan(&self, model: &str) -> factum::Result<Scan> {
        let model = model.to_owned();
        self.ask(|reads| async move { reads.scan(&model).await }).await
    }
    async fn scratch(&self) -> factum::Result<Arc<dyn ReadStore>> {
        self.ask(|reads| async move { reads.scratch().await }).await
    }

    async fn letters(
        &self,
        model: &str,
        generation: u32,
        after: Position,
        limit: usize,
    ) -> factum::Result<Vec<(Position, String)>> {
        let model = model.to_owned();
        self.ask(move |reads| async move { reads.letters(&model, generation, after, limit).await }).await
    }

    fn holds(&self) -> &dyn Holds {
        self
    }
}

#[async_trait]
impl Holds for Elsewhere {
    async fn hold(&self, name: &str, holder: &str, ttl: Duration) -> factum::Result<Hold> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.ask(move |reads| async move { reads.hold(&name, &holder, ttl).await }).await
    }
    async fn let_go(&self, name: &str, holder: &str) -> factum::Result<()> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.ask(|reads| async move { reads.let_go(&name, &holder).await }).await
    }
    async fn held(&self, prefix: &str) -> factum::Result<Vec<Hold>> {
        let prefix = prefix.to_owned();
        self.ask(|reads| async move { reads.held(&prefix).await }).await
    }
}
