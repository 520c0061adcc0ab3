//! Handlers of events: at least once and in the order of their keys, whatever fails.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod bus;
mod leases;
mod parking;
mod support;
mod troubles;
