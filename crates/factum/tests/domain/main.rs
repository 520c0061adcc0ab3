//! The domain layer on the memory store.

#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub, reason = "a test; it says its seed")]

mod codec;
mod commands;
mod support;
mod testkit;
