//! The stores, each used as its own users use it.

mod factum;
mod group;

use crate::peer::Peer;

/// All of them, in the order in which they are shown.
pub fn all() -> Vec<Box<dyn Peer>> {
    vec![Box::new(factum::FactumLog), Box::new(group::Sketch)]
}
