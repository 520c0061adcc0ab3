//! The stores, each used as its own users use it.

mod factum;
mod fjall;
pub mod group;
mod sqlite;
mod tephra;
mod umadb;

use crate::peer::Peer;

/// All of them, in the order in which they are shown.
pub fn all() -> Vec<Box<dyn Peer>> {
    vec![
        Box::new(factum::FactumLog),
        Box::new(tephra::Tephra),
        Box::new(umadb::UmaDbCore { pipelined: false }),
        Box::new(umadb::UmaDbCore { pipelined: true }),
        Box::new(sqlite::Sqlite),
        Box::new(fjall::Fjall),
        Box::new(group::Sketch),
    ]
}
