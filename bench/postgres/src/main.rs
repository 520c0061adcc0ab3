//! factum's event store on PostgreSQL beside bare inserts and its peers. `--help` tells all.

#![allow(unreachable_pub, reason = "a program: `pub` says what other modules may use")]

mod bare;
mod ours;
mod peers;
mod reading;
mod subject;

use std::{fs, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use factum_postgres::Writing;
use serde::Serialize;
use serde_json::json;

use crate::subject::{Failure, Sample, Subject, measure};

/// Measures factum's event store on PostgreSQL beside bare inserts and published crates: the same server, the same payloads,
/// every append durable before it is acknowledged, interleaved in one run. Says which of the bars it meets.
///
/// Figures of different runs are not to be compared: the ratios within a run are. `cargo xtask bench postgres` starts a server for it.
#[derive(Debug, Parser)]
struct Arguments {
    /// The server: postgres://user@host:port/database, where schemas may be made and dropped
    #[arg(long, value_name = "URL")]
    postgres: String,
    /// How many rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each measurement lasts, in seconds
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
    /// How many write at the same time, one measurement for each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32, 64])]
    writers: Vec<usize>,
    /// Only these subjects, separated by semicolons, by the beginning of their names
    #[arg(long, value_delimiter = ';')]
    only: Vec<String>,
}

/// What a subject did in one round.
#[derive(Debug, Serialize)]
struct Measured {
    round: usize,
    work: String,
    subject: &'static str,
    sample: Sample,
}

/// A ratio that must be reached.
struct Bar {
    what: &'static str,
    work: &'static str,
    ours: &'static str,
    beside: &'static str,
    factor: f64,
}

const BARS: &[Bar] = &[
    Bar {
        what: "one process, of bare inserts without any order",
        work: "append, 32 writers",
        ours: "factum",
        beside: "bare inserts",
        factor: 0.8,
    },
    Bar {
        what: "one process, of a global lock",
        work: "append, 32 writers",
        ours: "factum",
        beside: "global lock",
        factor: 3.0,
    },
    Bar {
        what: "four processes, of bare inserts without any order",
        work: "append, 32 writers",
        ours: "factum, 4 processes",
        beside: "bare inserts",
        factor: 0.8,
    },
    Bar {
        what: "four processes, of a global lock",
        work: "append, 32 writers",
        ours: "factum, 4 processes",
        beside: "global lock",
        factor: 3.0,
    },
    Bar {
        what: "each append by itself, of bare inserts without any order",
        work: "append, 32 writers",
        ours: "factum, single",
        beside: "bare inserts",
        factor: 0.8,
    },
    Bar {
        what: "each append by itself, of a global lock",
        work: "append, 32 writers",
        ours: "factum, single",
        beside: "global lock",
        factor: 3.0,
    },
    Bar {
        what: "one process, of each append by itself (or 20,000 events/s)",
        work: "append, 64 writers",
        ours: "factum",
        beside: "factum, single",
        factor: 4.0,
    },
    Bar {
        what: "a stream of 100 events, of the same rows by a bare SELECT, 1 reader",
        work: "read 100 events, 1 readers",
        ours: "factum",
        beside: "bare select",
        factor: 0.8,
    },
    Bar {
        what: "a stream of 100 events, of the same rows by a bare SELECT, 16 readers",
        work: "read 100 events, 16 readers",
        ours: "factum",
        beside: "bare select",
        factor: 0.8,
    },
];

/// Events a second that are enough for the group, whatever the ratio.
const ENOUGH: f64 = 20_000.0;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("factum-bench-postgres: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let url = &arguments.postgres;
    let most = arguments.writers.iter().copied().max().unwrap_or(1);
    let subjects: Vec<Arc<dyn Subject>> = vec![
        Arc::new(bare::Inserts::new(url, most, bare::Lock::None).await?),
        Arc::new(bare::Inserts::new(url, most, bare::Lock::Global).await?),
        Arc::new(ours::Factum::new(url, most, Writing::Single, 1).await?),
        Arc::new(ours::Factum::new(url, most, Writing::Grouped, 1).await?),
        Arc::new(ours::Factum::new(url, most, Writing::Grouped, 4).await?),
        Arc::new(peers::PostgresEs::new(url, most).await?),
        Arc::new(peers::Disintegrate::new(url, most).await?),
    ];
    let wanted = |name: &str| {
        arguments.only.is_empty() || arguments.only.iter().any(|only| name.starts_with(only.as_str()))
    };
    let time = Duration::from_secs_f64(arguments.seconds.clamp(0.05, 600.0));
    let mut all: Vec<Measured> = Vec::new();
    // The first round warms up, and does not count.
    for round in 0..=arguments.rounds {
        eprint!("\rround {round} of {} ", arguments.rounds);
        for &writers in &arguments.writers {
            for n in 0..subjects.len() {
                // Another one begins each time: none always comes after the same.
                let subject = &subjects[(n + round) % subjects.len()];
                if wanted(subject.name()) {
                    let sample = measure(subject, writers, round, time).await?;
                    let work = format!("append, {writers} writers");
                    all.push(Measured { round, work, subject: subject.name(), sample });
                }
            }
        }
        if wanted("read") || wanted("factum") {
            for readers in [1, 16] {
                for (subject, sample) in reading::measure(url, readers, round, time).await? {
                    all.push(Measured {
                        round,
                        work: format!("read 100 events, {readers} readers"),
                        subject,
                        sample,
                    });
                }
            }
        }
    }
    eprintln!("\r{:30}", "");
    all.retain(|measured| measured.round > 0);
    print(&all);
    write(arguments, &all)
}

fn print(all: &[Measured]) {
    let mut works: Vec<&str> = Vec::new();
    for measured in all {
        if !works.contains(&measured.work.as_str()) {
            works.push(&measured.work);
        }
    }
    for work in works {
        println!("{work}");
        let mut subjects: Vec<&str> = all.iter().filter(|m| m.work == work).map(|m| m.subject).collect();
        subjects.sort_unstable();
        subjects.dedup();
        for subject in subjects {
            let of = |figure: fn(&Sample) -> f64| {
                let mine = all.iter().filter(|m| m.work == work && m.subject == subject);
                median(mine.map(|m| figure(&m.sample)).collect())
            };
            println!(
                "  {subject:24} {:>9.0}/s   median {:>7.2} ms   p99 {:>7.2} ms",
                of(|sample| sample.rate),
                of(|sample| sample.p50_ms),
                of(|sample| sample.p99_ms)
            );
        }
    }
    println!();
    for bar in BARS {
        let Some(ratio) = ratio(all, bar) else { continue };
        let rate = |m: &&Measured| m.work == bar.work && m.subject == bar.ours;
        let rate = median(all.iter().filter(rate).map(|m| m.sample.rate).collect());
        let enough = bar.beside == "factum, single" && rate >= ENOUGH;
        let word = if ratio >= bar.factor || enough { "met" } else { "MISSED" };
        println!("{:74} {ratio:.2} × (bar {:.1} ×): {word}", bar.what, bar.factor);
    }
}

/// The median of the rounds' ratios.
fn ratio(all: &[Measured], bar: &Bar) -> Option<f64> {
    let rate = |round, subject| {
        let mut found =
            all.iter().filter(move |m| m.round == round && m.work == bar.work && m.subject == subject);
        found.next().map(|m| m.sample.rate)
    };
    let rounds = all.iter().map(|m| m.round).max()?;
    let ratios: Vec<f64> =
        (1..=rounds).filter_map(|round| Some(rate(round, bar.ours)? / rate(round, bar.beside)?)).collect();
    (!ratios.is_empty()).then(|| median(ratios))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn write(arguments: &Arguments, all: &[Measured]) -> Result<(), Failure> {
    let when = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string();
    let text =
        json!({ "when": when, "rounds": arguments.rounds, "seconds": arguments.seconds, "measured": all });
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../results/postgres.json");
    fs::write(path, serde_json::to_string_pretty(&text)?)?;
    Ok(())
}
