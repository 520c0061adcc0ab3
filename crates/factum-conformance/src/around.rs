//! Stores around stores: for tests that do something of their own before or after what is asked.

use std::fmt::Debug;

use async_trait::async_trait;
use factum::{
    Append, Appended, EventStore, Head, Limits, Page, Position, Read, Result, StreamName, StreamState, Token,
};

/// What is done otherwise than by the store itself: nothing, unless said otherwise. [`Wrapped`] makes it a store.
///
/// ```
/// # use async_trait::async_trait;
/// # use factum::{Append, Appended, EventStore, MemoryStore, Result};
/// use factum_conformance::{Around, Wrapped};
///
/// /// Others have their turn before each append.
/// #[derive(Debug)]
/// struct Slow(MemoryStore);
///
/// #[async_trait]
/// impl Around for Slow {
///     fn store(&self) -> &dyn EventStore {
///         &self.0
///     }
///
///     async fn append(&self, append: Append) -> Result<Appended> {
///         tokio::task::yield_now().await;
///         self.0.append(append).await
///     }
/// }
///
/// let store = Wrapped(Slow(MemoryStore::new()));
/// ```
#[async_trait]
pub trait Around: Debug + Send + Sync + 'static {
    /// The one that it is around.
    fn store(&self) -> &dyn EventStore;

    /// In place of the store's own.
    async fn append(&self, append: Append) -> Result<Appended> {
        self.store().append(append).await
    }

    /// In place of the store's own.
    async fn read(&self, read: Read) -> Result<Page> {
        self.store().read(read).await
    }
}

/// A store with something [around](Around) it.
#[derive(Debug, Default)]
pub struct Wrapped<A>(pub A);

#[async_trait]
impl<A: Around> EventStore for Wrapped<A> {
    async fn append(&self, append: Append) -> Result<Appended> {
        self.0.append(append).await
    }

    async fn read(&self, read: Read) -> Result<Page> {
        self.0.read(read).await
    }

    async fn head(&self) -> Result<Head> {
        self.0.store().head().await
    }

    async fn stream_state(&self, stream: &StreamName) -> Result<StreamState> {
        self.0.store().stream_state(stream).await
    }

    async fn locate(&self, token: Token) -> Result<Token> {
        self.0.store().locate(token).await
    }

    async fn continued(&self) -> Result<Vec<Token>> {
        self.0.store().continued().await
    }

    async fn changed(&self, position: Position) {
        self.0.store().changed(position).await;
    }

    fn limits(&self) -> Limits {
        self.0.store().limits()
    }
}
