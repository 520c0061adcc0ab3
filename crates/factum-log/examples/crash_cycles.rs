//! Runs simulated crashes: `cargo run --release -p factum-log --features sim --example crash_cycles -- --cycles 1000000`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this program talks to a person")]

use std::{process::ExitCode, time::Instant};

use factum_log::sim::{Bug, Cycles, run};

const USAGE: &str = "crash_cycles [--cycles N] [--seed S] [--bugs]

Crashes the log on a simulated disk and compares what it recovers with what it had acknowledged.

  --cycles N  crash-and-recover cycles (default 50000)
  --seed S    from which everything follows (default: one at random; it is printed)
  --bugs      first make each known mistake, and see that it is noticed within ten seconds";

const BUGS: [Bug; 15] = [
    Bug::AckBeforeSync,
    Bug::NoNameSync,
    Bug::HeaderOnlyCrc,
    Bug::NoSyncInRecovery,
    Bug::NoRewrite,
    Bug::RollWithoutSync,
    Bug::RetryAfterFailedSync,
    Bug::NaiveTruncation,
    Bug::GoOnAfterFailedRoll,
    Bug::PackWithoutSync,
    Bug::RemoveBeforePacked,
    Bug::RemoveOneTooMany,
    Bug::RemoveByTheClock,
    Bug::StubWithoutId,
    Bug::StubWithoutContent,
];

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

#[allow(clippy::disallowed_methods, reason = "elapsed time is only printed, or bounds a search")]
fn all_noticed(seed: u64) -> bool {
    let mut all = true;
    for bug in BUGS {
        let started = Instant::now();
        let mut cycles = 0;
        let mut noticed = None;
        while noticed.is_none() && started.elapsed().as_secs() < 10 {
            let batch = Cycles { seed: seed.wrapping_add(cycles), cycles: 1000, bug: Some(bug) };
            noticed = run(&batch, |_| {}).err();
            cycles += noticed.as_ref().map_or(1000, |failure| failure.cycle);
        }
        let seconds = started.elapsed().as_secs_f64();
        match noticed {
            Some(failure) => {
                println!("noticed {bug:?} after {cycles} cycles, {seconds:.2} s: {}", failure.what);
            }
            None => println!("NOT noticed: {bug:?}, in {cycles} cycles, {seconds:.2} s"),
        }
        all &= seconds < 10.0;
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
