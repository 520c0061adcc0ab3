//! A bank on factum: accounts are streams of events, recorded history is imported as facts, new commands obey the rules, a read
//! model is kept beside the log, and every balance can be asked as of any day or revision, with who caused it.

mod account;
mod audit;
mod balances;
mod books;
mod cli;
mod demo;
mod exit;
mod import;
mod kept;
mod ledger;
mod money;
mod progress;
mod report;
mod show;
mod source;
mod teller;
#[cfg(test)]
mod tests;

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
                say(format!("bank: {exit}"));
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

/// Does what was asked. What there is to print is printed also when it ends badly: `verify` lists what differs.
fn run(cli: Cli) -> Result<(), Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Exit::new(Kind::Other, format!("cannot start a runtime: {error}")))?;
    let mut out = String::new();
    let done = runtime.block_on(cli.run(&mut out));
    let mut stdout = io::stdout().lock();
    stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush())?;
    done
}
