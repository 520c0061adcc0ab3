//! Several processes' stores as one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use factum::{
    Append, Appended, EventStore, Head, Limits, Page, Position, Read, Result, StreamName, StreamState,
};
use factum_postgres::PostgresStore;

/// Each call goes to the next of some stores. Who reads while there is no server is patient; who appends is told.
#[derive(Debug)]
pub(crate) struct Several {
    stores: Vec<Arc<PostgresStore>>,
    next: AtomicUsize,
}

impl Several {
    pub(crate) fn new(stores: Vec<Arc<PostgresStore>>) -> Self {
        Self { stores, next: AtomicUsize::new(0) }
    }

    pub(crate) fn first(&self) -> &Arc<PostgresStore> {
        &self.stores[0]
    }

    fn one(&self) -> &PostgresStore {
        &self.stores[self.next.fetch_add(1, Ordering::Relaxed) % self.stores.len()]
    }
}

#[async_trait]
impl EventStore for Several {
    async fn append(&self, append: Append) -> Result<Appended> {
        self.one().append(append).await
    }

    async fn read(&self, read: Read) -> Result<Page> {
        loop {
            match self.one().read(read.clone()).await {
                Err(error) if error.is_retryable() => tokio::time::sleep(Duration::from_millis(20)).await,
                done => return done,
            }
        }
    }

    async fn head(&self) -> Result<Head> {
        loop {
            match self.one().head().await {
                Err(error) if error.is_retryable() => tokio::time::sleep(Duration::from_millis(20)).await,
                done => return done,
            }
        }
    }

    async fn stream_state(&self, stream: &StreamName) -> Result<StreamState> {
        loop {
            match self.one().stream_state(stream).await {
                Err(error) if error.is_retryable() => tokio::time::sleep(Duration::from_millis(20)).await,
                done => return done,
            }
        }
    }

    async fn changed(&self, position: Position) {
        // Whichever writes: they look again after a while anyway.
        self.first().changed(position).await;
    }

    fn limits(&self) -> Limits {
        self.first().limits()
    }
}
