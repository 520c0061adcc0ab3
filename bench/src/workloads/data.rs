//! The store that readers find: entities of 20 events each, spread over the whole log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use crate::peer::{Batch, Failure, Store, broken};

/// Events of an entity.
pub const EVENTS_EACH: u64 = 20;
/// Events of an append while loading, and how many of them are under way at a time.
const CHUNK: u64 = 500;
const LOADERS: usize = 4;

/// Appends the events of so many entities: the first of each, then the second of each, and so on.
pub fn load(store: &Arc<dyn Store>, entities: u64) -> Result<(), Failure> {
    let chunks = entities.div_ceil(CHUNK);
    let next = AtomicU64::new(0);
    let loader = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= chunks * EVENTS_EACH {
                return Ok::<_, Failure>(());
            }
            let entity = number % chunks * CHUNK;
            let events = CHUNK.min(entities - entity) as usize;
            store.append(Batch { spread: true, ..Batch::new(entity, number * CHUNK, events) })?;
        }
    };
    thread::scope(|scope| {
        let loaders: Vec<_> = (0..LOADERS).map(|_| scope.spawn(loader)).collect();
        loaders.into_iter().try_for_each(|loader| loader.join().map_err(|_| broken("a loader panicked"))?)
    })
}
