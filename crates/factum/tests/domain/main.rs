//! The domain layer on the memory store.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod audit;
mod bus;
mod codec;
mod commands;
mod evolution;
mod hiding;
mod idempotency;
mod parked;
mod passes;
mod processes;
mod projections;
mod rebuilds;
mod snapshots;
mod support;
mod tenures;
mod testkit;
mod troubles;
mod views;

/// Whether models are kept in this process.
const NEAR: bool = true;

/// Where the tests of projections keep their models.
fn reads() -> factum::MemoryReads {
    factum::MemoryReads::new()
}
