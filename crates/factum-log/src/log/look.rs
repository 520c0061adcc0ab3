//! Looking at what is durable, once at a time.

use std::{
    cell::Cell,
    ops::Deref,
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use super::Durable;

thread_local! {
    /// Whether this thread looks already. Only builds with assertions keep account of it.
    static LOOKING: Cell<bool> = const { Cell::new(false) };
}

/// A look at what readers see. A thread that looks must not look again, nor write: a writer may have come between, who waits for the
/// first look to end, while the second waits for the writer.
#[derive(Debug)]
pub struct Look<'a>(RwLockReadGuard<'a, Durable>);

impl<'a> Look<'a> {
    /// Looks.
    pub fn at(durable: &'a RwLock<Durable>) -> Self {
        not_looking();
        if cfg!(debug_assertions) {
            LOOKING.set(true);
        }
        Self(durable.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether this thread may look, or write.
pub fn not_looking() {
    debug_assert!(!LOOKING.get(), "a thread that looks at what is durable looks again, or writes");
}

impl Deref for Look<'_> {
    type Target = Durable;

    fn deref(&self) -> &Durable {
        &self.0
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        LOOKING.set(false);
    }
}
