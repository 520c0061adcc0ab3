//! Read models in SQLite: everything that holds for those in memory, and what is SQLite's own.
#![allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]

mod files;
mod letters;
#[path = "../../../factum/tests/domain/parked.rs"]
mod parked;
#[path = "../../../factum/tests/domain/passes.rs"]
mod passes;
mod processes;
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

use std::cell::RefCell;

use factum_sqlite::Sqlite;

/// Whether models are kept in this process.
const NEAR: bool = true;

thread_local! {
    /// The directories of the test that this thread runs, gone with it.
    static DIRECTORIES: RefCell<Vec<tempfile::TempDir>> = const { RefCell::new(Vec::new()) };
}

/// Where the tests of projections keep their models: a new file. Its name stays for as long as the test, since whoever reads
/// several models whole at once opens it again.
fn reads() -> Sqlite {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(directory.path().join("read.db")).unwrap();
    DIRECTORIES.with_borrow_mut(|directories| directories.push(directory));
    sqlite
}
