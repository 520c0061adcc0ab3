//! The long lanes: what is proved about the engine by letting bad things happen to it for a while.
//!
//! Each lane leaves its figures in `target/evidence/`, with the day and the commit, for `cargo xtask evidence` to tell.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::shell::{Shell, Stop, now};

/// What bad things are let happen, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Proof {
    Kills(u64),
    Powercut(u64),
    Faults,
    Fulldisk(u64),
}

impl Proof {
    /// The name of its lane.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kills(_) => "kills",
            Self::Powercut(_) => "powercut",
            Self::Faults => "faults",
            Self::Fulldisk(_) => "fulldisk",
        }
    }

    fn args(self) -> Vec<String> {
        let args = |verb: &str, option: &str, times: u64| {
            vec![verb.to_owned(), option.to_owned(), times.to_string()]
        };
        match self {
            Self::Kills(kills) => args("kills", "--blows", kills),
            Self::Powercut(cuts) => args("powercuts", "--blows", cuts),
            Self::Faults => vec!["faults".to_owned()],
            Self::Fulldisk(rounds) => args("fulldisk", "--rounds", rounds),
        }
    }

    /// Runs it in the package `proofs`, keeps its figures under the name of its lane, and tells them.
    pub(crate) async fn run(self, shell: &mut Shell, seed: u64) -> Result<String, Stop> {
        let mut command = shell.cargo(&["run", "--release", "--quiet", "-p", "proofs", "--", "--json"]);
        command.args(self.args()).args(["--seed", &seed.to_string()]);
        let began = now();
        let printed = shell.output(command).await?;
        let figures: Value =
            serde_json::from_str(&printed).map_err(Stop::at("the proof's figures cannot be read"))?;
        match figures["skipped"].as_str() {
            Some(why) => Ok(format!("skipped: {why}")),
            None => keep(shell, self.name(), &figures, began.elapsed().as_secs_f64()).await,
        }
    }
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
