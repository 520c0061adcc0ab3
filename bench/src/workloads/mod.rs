//! What the stores are made to do.

pub mod append;
pub mod data;
pub mod decide;
pub mod reads;

use std::{path::Path, sync::Arc, time::Duration};

use crate::{
    measure::Sample,
    peer::{Failure, Peer, Store},
};

/// How long and how large.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// How long an open-ended workload is measured.
    pub time: Duration,
    /// How long it runs before that.
    pub warm_up: Duration,
    /// Where all randomness comes from.
    pub seed: u64,
}

/// Something to measure.
pub trait Workload: Sync {
    /// Its name, as given to `--only`.
    fn id(&self) -> String;
    /// What it does, in a line.
    fn about(&self) -> String;
    /// What a unit of its work is, in the plural.
    fn unit(&self) -> &'static str {
        "events"
    }
    /// Why this store cannot do it.
    fn cannot(&self, _peer: &dyn Peer) -> Option<&'static str> {
        None
    }
    /// How many entities of 20 events each must be in the store before. It is empty otherwise.
    fn entities(&self) -> Option<u64> {
        None
    }
    /// Does it. Also tells how many events were appended in all, warm-up and end included.
    fn run(&self, store: &Arc<dyn Store>, scale: Scale, directory: &Path) -> Result<(Sample, u64), Failure>;
    /// Whether the writes and syncs that it caused are done again by a bare loop.
    fn has_limit(&self) -> bool {
        false
    }
    /// Whether it is part of `--quick`.
    fn is_quick(&self) -> bool;
}

/// All of them, in the order in which they run.
pub fn all() -> Vec<Box<dyn Workload>> {
    let appends = append::cells().into_iter().map(|cell| Box::new(cell) as Box<dyn Workload>);
    let reads = reads::all().into_iter().map(|read| Box::new(read) as Box<dyn Workload>);
    appends.chain(decide::all()).chain(reads).collect()
}
