//! Read models in PostgreSQL: everything that holds for those in memory, and what is PostgreSQL's own.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod models;
#[path = "../../../factum/tests/domain/passes.rs"]
mod passes;
#[path = "../../../factum/tests/domain/projections.rs"]
mod projections;
#[path = "../../../factum/tests/domain/rebuilds.rs"]
mod rebuilds;
#[path = "../support/mod.rs"]
mod server;
mod snapshots;
#[path = "../../../factum/tests/domain/support.rs"]
mod support;
#[path = "../../../factum/tests/domain/troubles.rs"]
mod troubles;
#[path = "../../../factum/tests/domain/views.rs"]
mod views;

use factum_postgres::{Options, PostgresReads};

/// Where the tests of projections keep their models: a new schema.
fn reads() -> PostgresReads {
    let options = Options { schema: server::fresh_schema(), connections: 8, ..Options::default() };
    // These tests ask for it in the midst of a runtime. Its connections end with the one here, and others are made.
    let opening = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(PostgresReads::open(&server::url(), options)).unwrap()
    });
    opening.join().unwrap()
}
