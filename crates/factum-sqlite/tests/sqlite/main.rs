//! Read models in SQLite: everything that holds for those in memory, and what is SQLite's own.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod files;
#[path = "../../../factum/tests/domain/passes.rs"]
mod passes;
#[path = "../../../factum/tests/domain/projections.rs"]
mod projections;
#[path = "../../../factum/tests/domain/rebuilds.rs"]
mod rebuilds;
mod snapshots;
mod sql;
#[path = "../../../factum/tests/domain/support.rs"]
mod support;
mod together;
#[path = "../../../factum/tests/domain/troubles.rs"]
mod troubles;
#[path = "../../../factum/tests/domain/views.rs"]
mod views;

use factum_sqlite::Sqlite;

/// Where the tests of projections keep their models: a new file, gone with the process.
fn reads() -> Sqlite {
    // The directory goes at once where the system lets an open file lose its name.
    let directory = tempfile::tempdir().unwrap();
    Sqlite::open(directory.path().join("read.db")).unwrap()
}
