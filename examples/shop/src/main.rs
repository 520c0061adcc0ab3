//! A shop on factum: carts, orders, stock, payments and shipments are aggregates, and a process manager brings every order to its
//! end. When a step fails, or nobody pays in time, it undoes what was done, and no piece and no cent is lost.

mod audit;
mod cart;
mod cents;
mod cli;
mod demo;
mod exit;
mod fulfilment;
mod order;
mod payment;
mod provider;
mod shipment;
mod shop;
mod shoppers;
mod show;
mod signals;
mod stock;
mod verbs;
mod views;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

use crate::{cli::Cli, exit::Exit, show::say};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misunderstood(&error),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            if !exit.is_silent() {
                say(format!("shop: {exit}"));
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
    Exit::misused(shown).exit_code()
}

/// Does what was asked. What there is to print is printed also when it ends badly: an audit lists what is wrong.
fn run(cli: Cli) -> Result<(), Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut out = String::new();
    let done = runtime.block_on(cli.run(&mut out));
    let mut stdout = io::stdout().lock();
    stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush())?;
    done
}
