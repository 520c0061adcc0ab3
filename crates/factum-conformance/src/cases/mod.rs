//! The cases, one module per theme. [`suite!`](crate::suite) makes a test of each.
#![allow(missing_docs, reason = "the name of a case says what it shows")]
#![allow(
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    reason = "a case fails by panic or error; that is its use"
)]

pub mod append;
pub mod commands;
pub mod concurrency;
pub mod decisions;
pub mod errors;
pub mod guards;
pub mod idempotency;
pub mod identity;
pub mod limits;
pub mod names;
pub mod random;
pub mod reading;
pub mod restart;
pub mod stream_life;
pub mod subscriptions;
pub mod time_travel;
