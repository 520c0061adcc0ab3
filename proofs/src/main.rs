//! The engine against a world that does its worst: processes killed, power cut, system calls that fail, disks that are full.
//!
//! Everything here stands outside of the engine. A small process writes with many clients and records every call before it is sent
//! and after it is answered; something bad happens to it; then the log is opened again and the history checker says whether what
//! remains can be true.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this program talks to a person, and to the workshop"
)]

mod blows;
mod faults;
mod full;
mod ground;
mod report;
mod verdict;
mod writer;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{blows::Blow, ground::Needs, report::Report};

/// The engine against kills, power cuts, failing system calls and full disks.
///
/// What happens is told on standard error; with `--json`, the figures are printed to standard output.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// Print the figures as one line of JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// The process that bad things happen to: clients that do everything at random, every call recorded
    Write(writer::Job),
    /// Opens a log and checks the history of its writers against it
    Check(verdict::Remains),
    /// Kills the writer, again and again
    Kills(blows::Plan),
    /// Cuts the power of the file system that the writer writes to, again and again; needs root
    Powercuts(blows::Plan),
    /// Makes the writer's system calls fail, one after another; needs strace
    Faults(faults::Plan),
    /// Fills the disk under a store, and makes room again
    Fulldisk(full::Plan),
}

/// Why something came to no end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// A promise was broken, or the proof itself failed.
    Failed(String),
    /// The machine does not allow it, for this reason.
    Skipped(String),
}

impl Stop {
    /// What it says, whichever it is.
    pub(crate) fn text(&self) -> &str {
        let (Self::Failed(why) | Self::Skipped(why)) = self;
        why
    }

    /// For `map_err`: it failed while doing `what`.
    pub(crate) fn at<E: std::fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |error| Self::Failed(format!("{what}: {error}"))
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let Cli { verb, json } = Cli::parse();
    // What is dropped when somebody interrupts cleans up behind itself.
    let ended = tokio::select! {
        ended = run(verb) => ended,
        () = interrupted() => return ExitCode::from(130),
    };
    let report = match ended {
        Ok(report) => report,
        Err(Stop::Skipped(why)) => Report::skipped(why),
        Err(Stop::Failed(why)) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    eprintln!("{report}");
    if json {
        println!("{}", report.json());
    }
    ExitCode::SUCCESS
}

/// Waits for Ctrl-C, or for somebody to ask for the end in another way.
async fn interrupted() {
    let listen = || -> std::io::Result<[Signal; 3]> {
        Ok([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ])
    };
    let Ok([mut interrupt, mut terminate, mut hangup]) = listen() else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

async fn run(verb: Verb) -> Result<Report, Stop> {
    match verb {
        Verb::Write(job) => writer::run(&job).await,
        Verb::Check(remains) => verdict::check(&remains).await.map(|figures| figures.into_report()),
        Verb::Kills(plan) => blows::rain(&plan, Blow::Kill).await,
        Verb::Faults(plan) => faults::run(&plan).await,
        Verb::Fulldisk(plan) => {
            ground::alone(Needs::OwnNamespace)?;
            full::run(&plan).await
        }
        Verb::Powercuts(plan) => {
            ground::alone(Needs::Root)?;
            blows::rain(&plan, Blow::PowerCut).await
        }
    }
}
