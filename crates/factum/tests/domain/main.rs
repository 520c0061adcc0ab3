//! The domain layer on the memory store.

mod codec;
mod commands;
mod projections;
mod support;
mod testkit;
