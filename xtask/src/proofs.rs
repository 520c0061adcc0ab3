//! The long lanes: what is proved about the engine by letting bad things happen to it for a while.
//!
//! Each lane leaves its figures in `target/evidence/`, with the day and the commit, for `cargo xtask evidence` to tell.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::shell::{Shell, Stop, now};

/// Runs a proof of the package `proofs`, shows its figures, and keeps them under the name of the lane.
pub(crate) async fn run(shell: &mut Shell, lane: &str, args: &[&str]) -> Result<String, Stop> {
    let build = ["run", "--release", "--quiet", "-p", "proofs", "--", "--json"];
    let began = now();
    let printed = shell.output(shell.cargo(&[&build[..], args].concat())).await?;
    let figures: Value =
        serde_json::from_str(&printed).map_err(Stop::at("the proof's figures cannot be read"))?;
    if let Some(why) = figures["skipped"].as_str() {
        return Ok(format!("skipped: {why}"));
    }
    keep(shell, lane, &figures, began.elapsed().as_secs_f64()).await
}

/// Writes down what a lane has shown.
pub(crate) async fn keep(
    shell: &mut Shell,
    lane: &str,
    figures: &Value,
    seconds: f64,
) -> Result<String, Stop> {
    let day = said(shell, "date", &["-u", "+%Y-%m-%d"]).await?;
    let commit = said(shell, "git", &["rev-parse", "--short=10", "HEAD"]).await?;
    let whole =
        json!({ "lane": lane, "day": day, "commit": commit, "seconds": seconds.round(), "figures": figures });
    let folder = folder(shell);
    let path = folder.join(format!("{lane}.json"));
    let text = format!("{whole:#}\n");
    fs::create_dir_all(&folder).map_err(Stop::at("there is no place for the figures"))?;
    write(&path, &text).map_err(Stop::at("the figures cannot be kept"))?;
    Ok(format!("{lane}: {}", told(figures)))
}

/// Where the figures are.
pub(crate) fn folder(shell: &Shell) -> PathBuf {
    shell.target().join("evidence")
}

#[allow(clippy::disallowed_methods, reason = "a report is no data file")]
fn write(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    fs::write(path, text)
}

/// Figures as people read them.
pub(crate) fn told(figures: &Value) -> String {
    let Some(figures) = figures.as_object() else { return figures.to_string() };
    let words = figures.iter().map(|(name, figure)| {
        let figure = figure.as_str().map_or_else(|| figure.to_string(), str::to_owned);
        format!("{} {figure}", name.replace('_', " "))
    });
    words.collect::<Vec<_>>().join(", ")
}

async fn said(shell: &mut Shell, program: &str, args: &[&str]) -> Result<String, Stop> {
    let mut command = shell.command(program);
    command.args(args);
    Ok(shell.output(command).await?.trim().to_owned())
}
