//! New ids, and the one door through which they come in.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use uuid::Uuid;

use crate::event::EventId;

/// Where a [`Factum`](crate::Factum) takes new ids from, if not from [`EventId::new`].
pub trait Ids: Send + Sync + fmt::Debug + 'static {
    /// An id that was never given before.
    fn next(&self) -> EventId;
}

/// Ids that count from 1, the same in each run of a test: `00000000-0000-0000-0000-000000000001`.
#[derive(Debug, Default)]
pub struct CountedIds(AtomicU64);

impl Ids for CountedIds {
    fn next(&self) -> EventId {
        EventId(Uuid::from_u128(u128::from(self.0.fetch_add(1, Ordering::Relaxed)) + 1))
    }
}

impl<I: Ids> Ids for Arc<I> {
    fn next(&self) -> EventId {
        (**self).next()
    }
}
