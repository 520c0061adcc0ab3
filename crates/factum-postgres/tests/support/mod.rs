//! Where the tests of this crate find their server.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

pub(crate) mod bench;
pub(crate) mod cluster;
pub(crate) mod harness;
pub(crate) mod proof;
pub(crate) mod several;

/// The server that `cargo xtask test postgres` has started.
pub(crate) fn url() -> String {
    std::env::var("FACTUM_TEST_POSTGRES")
        .expect("a server to test on: run `cargo xtask test postgres`, or name one in FACTUM_TEST_POSTGRES")
}

/// Another database of that server.
pub(crate) fn url_of(database: &str) -> String {
    format!("{}/{database}", url().rsplit_once('/').unwrap().0)
}

/// A schema of a test's own.
pub(crate) fn fresh_schema() -> String {
    format!("t_{}", factum::EventId::new().0.simple())
}
