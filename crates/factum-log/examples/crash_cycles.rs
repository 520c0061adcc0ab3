//! Runs simulated crashes: `cargo run --release -p factum-log --features sim --example crash_cycles -- --cycles 1000000`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this program talks to a person")]

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use factum_log::sim::{Bug, Cycles, Noticed, notice, run};

const USAGE: &str = "crash_cycles [--cycles N] [--seed S] [--bugs]

Crashes the log on a simulated disk and compares what it recovers with what it had acknowledged.

  --cycles N  crash-and-recover cycles (default 50000)
  --seed S    from which everything follows (default: one at random; it is printed)
  --bugs      first make each known mistake, and see that it is noticed within ten seconds";

fn main() -> ExitCode {
    let (mut cycles, mut seed, mut bugs) = (50_000, fastrand::u64(..), false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|number| number.parse().ok());
        match (argument.as_str(), &mut cycles, &mut seed) {
            ("--bugs", ..) => bugs = true,
            ("--cycles", cycles, _) if let Some(number) = number() => *cycles = number,
            ("--seed", _, seed) if let Some(number) = number() => *seed = number,
            _ => {
                println!("{USAGE}");
                return if argument == "--help" { ExitCode::SUCCESS } else { ExitCode::from(2) };
            }
        }
    }
    println!("seed {seed}");
    if bugs && !all_noticed(seed) {
        return ExitCode::FAILURE;
    }
    all_survived(seed, cycles)
}

fn all_noticed(seed: u64) -> bool {
    let mut all = true;
    for bug in Bug::ALL {
        match notice(bug, seed, Duration::from_secs(10)) {
            Some(Noticed { failure, cycles, after }) => {
                let seconds = after.as_secs_f64();
                println!("noticed {bug:?} after {cycles} cycles, {seconds:.2} s: {}", failure.what);
            }
            None => {
                println!("NOT noticed: {bug:?}, in ten seconds");
                all = false;
            }
        }
    }
    all
}

#[allow(clippy::disallowed_methods, reason = "elapsed time is only printed")]
fn all_survived(seed: u64, cycles: u64) -> ExitCode {
    let started = Instant::now();
    let mut shown = 0;
    let result = run(&Cycles { seed, cycles, bug: None }, |done| {
        if done / 50_000 > shown {
            shown = done / 50_000;
            println!("{done} of {cycles} cycles");
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    match result {
        Ok(report) => {
            println!("{report:#?}");
            println!("{} cycles in {seconds:.1} s, seed {seed}: every promise kept", report.cycles);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("a promise was broken in {failure}");
            println!("see it again: crash_cycles --cycles 10 --seed {}", failure.seed);
            ExitCode::FAILURE
        }
    }
}
