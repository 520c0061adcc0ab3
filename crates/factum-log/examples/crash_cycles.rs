//! Runs simulated crashes: `cargo run --release -p factum-log --features sim --example crash_cycles -- --cycles 1000000`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this program talks to a person")]

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use factum_log::sim::{Bug, Cycles, Noticed, notice, run};
use serde_json::{Value, json};

const USAGE: &str = "crash_cycles [--cycles N] [--seed S] [--bugs] [--json]

Crashes the log on a simulated disk and compares what it recovers with what it had acknowledged.

  --cycles N  crash-and-recover cycles (default 50000)
  --seed S    from which everything follows (default: one at random; it is printed)
  --bugs      first make each known mistake, and see that it is noticed within ten seconds
  --json      print the figures as one line of JSON";

fn main() -> ExitCode {
    let (mut cycles, mut seed, mut bugs, mut json) = (50_000, fastrand::u64(..), false, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|number| number.parse().ok());
        match (argument.as_str(), &mut cycles, &mut seed) {
            ("--bugs", ..) => bugs = true,
            ("--json", ..) => json = true,
            ("--cycles", cycles, _) if let Some(number) = number() => *cycles = number,
            ("--seed", _, seed) if let Some(number) = number() => *seed = number,
            _ => {
                println!("{USAGE}");
                return if argument == "--help" { ExitCode::SUCCESS } else { ExitCode::from(2) };
            }
        }
    }
    eprintln!("seed {seed}");
    let mut figures = json!({ "seed": seed });
    let well = (!bugs || all_noticed(seed, &mut figures)) && all_survived(seed, cycles, &mut figures);
    if !well {
        return ExitCode::FAILURE;
    }
    if json {
        println!("{figures}");
    }
    ExitCode::SUCCESS
}

fn all_noticed(seed: u64, figures: &mut Value) -> bool {
    let mut slowest = 0.0f64;
    for bug in Bug::ALL {
        let Some(Noticed { failure, cycles, after }) = notice(bug, seed, Duration::from_secs(10)) else {
            eprintln!("NOT noticed: {bug:?}, in ten seconds");
            return false;
        };
        let seconds = after.as_secs_f64();
        eprintln!("noticed {bug:?} after {cycles} cycles, {seconds:.2} s: {}", failure.what);
        figures["seconds_until_noticed"][format!("{bug:?}")] = ((seconds * 100.0).round() / 100.0).into();
        slowest = slowest.max(seconds);
    }
    figures["seeded_bugs_noticed"] = Bug::ALL.len().into();
    figures["slowest_to_notice_ms"] = (slowest * 1000.0).round().into();
    true
}

#[allow(clippy::disallowed_methods, reason = "elapsed time is only printed")]
fn all_survived(seed: u64, cycles: u64, figures: &mut Value) -> bool {
    let started = Instant::now();
    let mut shown = 0;
    let result = run(&Cycles { seed, cycles, bug: None }, |done| {
        if done / 50_000 > shown {
            shown = done / 50_000;
            eprintln!("{done} of {cycles} cycles");
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    match result {
        Ok(report) => {
            eprintln!("{report:#?}");
            eprintln!("{} cycles in {seconds:.1} s, seed {seed}: every promise kept", report.cycles);
            for (name, figure) in [
                ("cycles", report.cycles),
                ("power_cuts", report.power_cuts),
                ("crashes_in_recovery", report.in_recovery),
                ("appends_acknowledged", report.acknowledged),
                ("appends_unknown", report.unknown),
                ("flipped_bits", report.rot_refused + report.rot_harmless),
                ("lying_disks", report.lies_refused + report.lies_unnoticed),
                ("times_full", report.disk_full),
                ("violations", 0),
            ] {
                figures[name] = figure.into();
            }
            true
        }
        Err(failure) => {
            eprintln!("a promise was broken in {failure}");
            eprintln!("see it again: crash_cycles --cycles 10 --seed {}", failure.seed);
            false
        }
    }
}
