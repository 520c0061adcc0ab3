//! factum's embedded engine beside its peers. `--help` tells all.

#![allow(unreachable_pub, reason = "a program: `pub` says what other modules may use")]

mod bars;
mod consumers;
mod domain;
mod growth;
mod limit;
mod machine;
mod measure;
mod page;
mod peer;
mod peers;
mod relays;
mod report;
mod results;
mod run;
mod workloads;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;

/// Measures factum's embedded engine beside its peers: the same machine, payloads and durability (synced before
/// acknowledged), interleaved in one run, and says which of the bars it meets.
///
/// Figures of different runs are not to be compared, least of all on a machine with other work to do: the ratios within a run are.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Results: results/latest.html, a page with plots, and results/latest.json, the raw figures of all rounds."
)]
pub struct Arguments {
    /// The workloads that show the bars, three short rounds: less than five minutes on two cores (the default)
    #[arg(long)]
    quick: bool,
    /// All workloads, longer, seven rounds: about three hours
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Only workloads whose name contains this; may be given several times. Those on 10 M events must be named with their `10M`
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only these stores, separated by commas
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    peers: Vec<String>,
    /// How many rounds
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// How long each open-ended measurement lasts, in seconds
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Waits before each round, so many seconds at most, for other programs to leave the processors alone
    #[arg(long, value_name = "S", default_value_t = 0)]
    calm: u64,
    /// Leaves out the bare loop that does factum's writes again: for a profile of factum alone
    #[arg(long)]
    no_limit: bool,
    /// Where the stores are put for the time of the run; it must be on a real disk [default: beside the program]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where all randomness comes from
    #[arg(long, default_value_t = 20_261_121)]
    seed: u64,
    /// Measures nothing, but reports again what these files of raw figures hold, together, and sums it up in results/summary.json
    #[arg(long, value_name = "FILE", num_args = 1..)]
    from: Vec<PathBuf>,
    /// Says which workloads and stores there are, and measures nothing
    #[arg(long)]
    list: bool,
    /// How factum's log grows, instead: for each of these sizes, in millions of events, the append rate, opening after a kill,
    /// memory, look-ups and disk. 1,10 take a minute and 10 GB; 100 take a quarter of an hour and 60 GB
    #[arg(long, value_name = "M,M", value_delimiter = ',')]
    growth: Vec<u64>,
    /// What the domain layer costs, instead: a command beside the same by hand, and folding, from memory and from disk
    #[arg(long)]
    domain: bool,
    /// What the runtime of consumers costs, instead: a handler beside a bare subscription, a projection beside its SQL in a bare loop
    #[arg(long)]
    consumers: bool,
    /// What a relay costs, instead: messages to Redis and NATS beside a bare loop that publishes the same, on private servers
    #[arg(long)]
    relays: bool,
    /// A part of that growth, in a process of its own
    #[arg(long, hide = true, num_args = 4)]
    growth_part: Vec<String>,
}

impl Arguments {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.full { 7 } else { 3 }).max(1)
    }

    fn time(&self) -> Duration {
        let seconds = self.seconds.unwrap_or(if self.full { 2.0 } else { 0.3 });
        Duration::from_secs_f64(seconds.clamp(0.05, 600.0))
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = if !arguments.growth_part.is_empty() {
        growth::part(&arguments.growth_part)
    } else if !arguments.growth.is_empty() {
        growth::run(&arguments)
    } else if arguments.domain {
        domain::run(&arguments)
    } else if arguments.consumers {
        consumers::run(&arguments)
    } else if arguments.relays {
        relays::run(&arguments)
    } else {
        run::run(&arguments)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("factum-bench: {why}");
            ExitCode::FAILURE
        }
    }
}
