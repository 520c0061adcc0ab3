//! A store of read models in another's clothes: what a test does not change goes to the store inside.

use std::{fmt, ops::Deref, sync::Arc};

use async_trait::async_trait;
use factum::{
    Position, ReadStore, Result,
    reads::{Catalog, Generation, Holds, Lease, Scan, Snapshot, Step},
};

/// What is different about a store. Without any method but the first, nothing is.
#[async_trait]
pub trait Around: fmt::Debug + Send + Sync + 'static {
    fn inner(&self) -> &dyn ReadStore;

    async fn claim(&self, model: &str) -> Result<Lease> {
        self.inner().claim(model).await
    }
    async fn catalog(&self, model: &str) -> Result<Catalog> {
        self.inner().catalog(model).await
    }
    async fn create(&self, lease: &Lease, version: u32) -> Result<Generation> {
        self.inner().create(lease, version).await
    }
    async fn discard(&self, lease: &Lease) -> Result<()> {
        self.inner().discard(lease).await
    }
    async fn activate(&self, lease: &Lease, generation: u32) -> Result<()> {
        self.inner().activate(lease, generation).await
    }
    async fn commit(&self, lease: &Lease, step: Step) -> Result<()> {
        self.inner().commit(lease, step).await
    }
    async fn rows(&self, model: &str, generation: u32, keys: Vec<String>) -> Result<Vec<Option<String>>> {
        self.inner().rows(model, generation, keys).await
    }
    fn holds(&self) -> &dyn Holds {
        self.inner().holds()
    }
}

/// That store.
#[derive(Clone, Debug)]
pub struct Wrapped<T>(pub T);

impl<T> Deref for Wrapped<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

#[async_trait]
impl<T: Around> ReadStore for Wrapped<T> {
    async fn claim(&self, model: &str) -> Result<Lease> {
        Around::claim(&self.0, model).await
    }
    async fn catalog(&self, model: &str) -> Result<Catalog> {
        Around::catalog(&self.0, model).await
    }
    async fn create(&self, lease: &Lease, version: u32) -> Result<Generation> {
        Around::create(&self.0, lease, version).await
    }
    async fn discard(&self, lease: &Lease) -> Result<()> {
        Around::discard(&self.0, lease).await
    }
    async fn activate(&self, lease: &Lease, generation: u32) -> Result<()> {
        Around::activate(&self.0, lease, generation).await
    }
    async fn commit(&self, lease: &Lease, step: Step) -> Result<()> {
        Around::commit(&self.0, lease, step).await
    }
    async fn rows(&self, model: &str, generation: u32, keys: Vec<String>) -> Result<Vec<Option<String>>> {
        Around::rows(&self.0, model, generation, keys).await
    }
    async fn get(&self, model: &str, key: &str) -> Result<Snapshot> {
        self.0.inner().get(model, key).await
    }
    async fn page(&self, model: &str, after: Option<String>, limit: usize) -> Result<Snapshot> {
        self.0.inner().page(model, after, limit).await
    }
    async fn scan(&self, model: &str) -> Result<Scan> {
        self.0.inner().scan(model).await
    }
    async fn letters(
        &self,
        model: &str,
        generation: u32,
        after: Position,
        limit: usize,
    ) -> Result<Vec<(Position, String)>> {
        self.0.inner().letters(model, generation, after, limit).await
    }
    fn holds(&self) -> &dyn Holds {
        Around::holds(&self.0)
    }
    async fn scratch(&self) -> Result<Arc<dyn ReadStore>> {
        self.0.inner().scratch().await
    }
}
