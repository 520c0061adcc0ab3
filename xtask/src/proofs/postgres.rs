//! The tests that prove something about the store on PostgreSQL, at length: each leaves its figures in a file.

use std::fs;

use serde_json::{Map, Value, json};

use crate::{
    servers::Postgres,
    shell::{Shell, Stop},
};

/// The files of tests that have something to prove.
const TESTS: [&str; 6] = ["model", "pauses", "storms", "guards", "kills", "cuts"];

/// How they are called: one after the other, since what they measure is many at once of their own.
pub(super) fn args() -> Vec<String> {
    let words = ["test", "--release", "--quiet", "-p", "factum-postgres", "--no-fail-fast"];
    let tests = TESTS.iter().flat_map(|test| ["--test", *test]);
    words.into_iter().chain(tests).chain(["--", "--test-threads=1"]).map(str::to_owned).collect()
}

/// Runs them on a server of their own, and those that kill theirs on others.
pub(super) async fn figures(shell: &mut Shell, args: Vec<String>, seed: u64) -> Result<Value, Stop> {
    let postgres = match Postgres::start(shell).await? {
        Ok(postgres) => postgres,
        Err(why) => return Ok(json!({ "skipped": why })),
    };
    let folder = super::folder(shell).join("postgres-proofs");
    // What an earlier run left is not of this one.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(Stop::at("there is no place for the figures"))?;
    let mut command = shell.cargo(&[]);
    command.args(args).env("FACTUM_TEST_POSTGRES", postgres.url());
    command.env("FACTUM_PROOFS_FIGURES", &folder).env("FACTUM_PROOFS_SEED", seed.to_string());
    println!("postgres-proofs: seed {seed}");
    let ran = shell.run(command).await;
    postgres.stop().await;
    ran?;
    let mut figures = Map::from_iter([("seed".to_owned(), seed.into())]);
    let files = fs::read_dir(&folder).map_err(Stop::at("the figures cannot be found"))?;
    let mut paths: Vec<_> = files.flatten().map(|file| file.path()).collect();
    paths.sort();
    for path in paths {
        let unread = || format!("{} cannot be read", path.display());
        let text = fs::read_to_string(&path).map_err(Stop::at(unread()))?;
        let mut figure: Value = serde_json::from_str(&text).map_err(Stop::at(unread()))?;
        if let Some(figure) = figure.as_object_mut() {
            // It is the same for all.
            figure.remove("seed");
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        figures.insert(name, figure);
    }
    Ok(figures.into())
}
