//! Damages headers, records, manifests, indexes and whole directories for a while:
//! `cargo run --profile fuzz -p factum-log --features sim --example fuzz -- --seconds 60`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this program talks to a person")]

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use factum_log::sim::{Fuzzer, Target};
use serde_json::json;

const USAGE: &str = "fuzz [--seconds N] [--seed S] [--target TARGET] [--one TARGET] [--json]

Damages what the engine reads, and sees that it refuses that, or does no harm with it.

  --seconds N   how long, all targets together (default 60)
  --seed S      from which everything follows (default: one at random; it is printed)
  --target T    only this one
  --one TARGET  only the one input of this target that the seed stands for, to see a failure again
  --json        print the figures as one line of JSON";

struct Options {
    seconds: u64,
    seed: u64,
    targets: Vec<Target>,
    one: Option<Target>,
    json: bool,
}

fn options() -> Option<Options> {
    let mut options = Options {
        seconds: 60,
        seed: fastrand::u64(..),
        targets: Target::ALL.to_vec(),
        one: None,
        json: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => options.json = true,
            "--seconds" => options.seconds = arguments.next()?.parse().ok()?,
            "--seed" => options.seed = arguments.next()?.parse().ok()?,
            "--target" => options.targets = vec![target(&arguments.next()?)?],
            "--one" => options.one = Some(target(&arguments.next()?)?),
            _ => return None,
        }
    }
    Some(options)
}

fn target(name: &str) -> Option<Target> {
    Target::ALL.into_iter().find(|target| format!("{target:?}") == name)
}

fn main() -> ExitCode {
    let Some(Options { seconds, seed, targets, one, json }) = options() else {
        println!("{USAGE}");
        return ExitCode::from(2);
    };
    let fuzzer = Fuzzer::default();
    if let Some(target) = one {
        return match fuzzer.one(target, seed) {
            Ok(fuzzed) => {
                println!("{fuzzed:?}");
                ExitCode::SUCCESS
            }
            Err(mishandled) => failed(&mishandled.to_string()),
        };
    }
    eprintln!("seed {seed}");
    let mut seeds = fastrand::Rng::with_seed(seed);
    let mut figures = json!({ "seed": seed });
    let (mut all, mut most_bytes, mut slowest) = (0, 0, Duration::ZERO);
    let each = Duration::from_secs(seconds) / u32::try_from(targets.len()).unwrap_or(1);
    for target in targets {
        let (mut inputs, mut accepted) = (0u64, 0u64);
        let began = now();
        while began.elapsed() < each {
            let at = now();
            match fuzzer.one(target, seeds.u64(..)) {
                Ok(fuzzed) => {
                    accepted += fuzzed.accepted;
                    most_bytes = most_bytes.max(fuzzed.most_bytes);
                }
                Err(mishandled) => {
                    let again = format!("fuzz --one {target:?} --seed {}", mishandled.seed);
                    return failed(&format!("{mishandled}\nsee it again: {again}"));
                }
            }
            inputs += 1;
            slowest = slowest.max(at.elapsed());
        }
        eprintln!("{target:?}: {inputs} inputs, {accepted} accepted for what they are, the others refused");
        figures[format!("{target:?}").to_lowercase()] = inputs.into();
        all += inputs;
    }
    figures["inputs"] = all.into();
    figures["most_bytes_asked_for_at_once"] = most_bytes.into();
    figures["slowest_input_ms"] = (slowest.as_secs_f64() * 1000.0).round().into();
    figures["mishandled"] = 0.into();
    if json {
        println!("{figures}");
    }
    ExitCode::SUCCESS
}

fn failed(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}

#[allow(clippy::disallowed_methods, reason = "elapsed time is only printed, or bounds a search")]
fn now() -> Instant {
    Instant::now()
}
