//! A ledger in a directory.

mod anywhere;
mod common;

anywhere::tests! { true, common::Bank::new }
