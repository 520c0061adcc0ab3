//! Shapes of types, and what is kept of them.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod lock;
mod tracing;
