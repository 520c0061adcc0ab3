//! Subscriptions: one loop that catches up, then lives, with no seam between.

use std::sync::Arc;

use crate::{
    error::Result,
    event::RecordedEvent,
    position::Token,
    query::Query,
    read::Read,
    store::{EventStore, LOOK_AGAIN},
};

/// Events that a subscription takes from the store at once.
pub const BATCH: usize = 512;

/// What a subscription tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery {
    /// Events, in the order of positions, none missing and none twice.
    Events {
        /// At least one.
        events: Vec<RecordedEvent>,
        /// Everything up to here has been delivered or does not match: the checkpoint, once these are handled.
        token: Token,
    },
    /// Nothing matched up to here: a checkpoint that is worth moving.
    LookedTo(Token),
    /// Everything there was has been delivered; from now on events come as they happen.
    CaughtUp(Token),
    /// The reader is too slow for what comes; it is catching up again. The token is where it stands: nothing beyond it has
    /// been delivered.
    FellBehind(Token),
}

/// A reader that never ends. It pulls: nothing is buffered beyond one batch, however slow the reader is.
///
/// Dropping the future of [`next`](Subscription::next) loses nothing.
#[derive(Debug)]
pub struct Subscription {
    store: Arc<dyn EventStore>,
    query: Query,
    seen: Token,
    live: bool,
    batch: usize,
    /// What comes after a `FellBehind`, and how far that is.
    pending: Option<(Delivery, Token)>,
}

impl Subscription {
    pub(crate) fn new(store: Arc<dyn EventStore>, query: Query, seen: Token) -> Self {
        Self { store, query, seen, live: false, batch: BATCH, pending: None }
    }

    /// The same, taking at most `batch` events at once.
    #[must_use]
    pub fn with_batch(self, batch: usize) -> Self {
        Self { batch: batch.max(1), ..self }
    }

    /// How far it has delivered: what [`next`](Self::next) returned last is included, and nothing beyond it.
    pub fn token(&self) -> Token {
        self.seen
    }

    /// Waits for what comes next.
    ///
    /// # Errors
    /// Those of [`EventStore::read`]; calling it again tries again from the same place.
    pub async fn next(&mut self) -> Result<Delivery> {
        if let Some((delivery, token)) = self.pending.take() {
            self.seen = token;
            return Ok(delivery);
        }
        loop {
            let read = Read::query(self.query.clone()).beyond(self.seen).limit(self.batch);
            let page = self.store.read(read).await?;
            let moved = page.token.position > self.seen.position;
            let (more, token) = (page.next.is_some(), page.token);
            // No await from here to the return: a dropped future must not lose a page.
            if moved {
                let delivery = if page.events.is_empty() {
                    Delivery::LookedTo(token)
                } else {
                    Delivery::Events { events: page.events, token }
                };
                if self.live && more {
                    self.live = false;
                    self.pending = Some((delivery, token));
                    return Ok(Delivery::FellBehind(self.seen));
                }
                self.seen = token;
                return Ok(delivery);
            }
            if !more && !self.live {
                self.live = true;
                return Ok(Delivery::CaughtUp(token));
            }
            if !more {
                // A hint can be lost; the log cannot.
                let _ = tokio::time::timeout(LOOK_AGAIN, self.store.changed(self.seen.position)).await;
            }
        }
    }
}
