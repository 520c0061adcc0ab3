//! The executable `factum`: what an operator does with a log. In a directory, it verifies every byte, prints what lies there, backs up,
//! restores and repairs; in a PostgreSQL database, it migrates and tells how things are; of both, it prints events and audit trails.

mod audit;
mod cli;
mod consumer;
mod database;
mod exit;
mod place;
mod progress;
mod show;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

use crate::{
    cli::Cli,
    exit::{Exit, Kind},
    show::say,
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misunderstood(&error),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            if exit.kind() != Kind::NobodyReads {
                say(format!("factum: {exit}"));
            }
            exit.exit_code()
        }
    }
}

/// Says what is wrong with the command line, which may hold a password that belongs on no screen and in no log.
fn misunderstood(error: &clap::Error) -> ExitCode {
    let text = error.to_string();
    let shown = factum_postgres::without_password(&text);
    if shown == text || !error.use_stderr() {
        error.exit();
    }
    say(shown.trim_end());
    Exit::new(Kind::Usage, shown).exit_code()
}

/// Does what was asked. What there is to print is printed also when it ends badly: `verify` lists what is damaged.
fn run(cli: Cli) -> Result<(), Exit> {
    let (out, done) = interruptible(cli)?;
    let mut stdout = io::stdout().lock();
    stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush())?;
    done
}

/// Works on a thread of its own, so that Ctrl-C is heard meanwhile. Whatever is interrupted can be done again.
fn interruptible(cli: Cli) -> Result<(String, Result<(), Exit>), Exit> {
    let after_interruption = cli.after_interruption();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Exit::new(Kind::Other, format!("cannot start a runtime: {error}")))?;
    let answer = runtime.block_on(async {
        let work = tokio::task::spawn_blocking(move || {
            let mut out = String::new();
            let done = cli.run(&mut out);
            (out, done)
        });
        tokio::select! {
            done = work => done.map_err(|error| Exit::new(Kind::Other, format!("it broke: {error}"))),
            _ = tokio::signal::ctrl_c() => Err(Exit::new(Kind::Interrupted, after_interruption)),
        }
    });
    // The process ends: nobody waits for work that was interrupted.
    runtime.shutdown_background();
    answer
}
