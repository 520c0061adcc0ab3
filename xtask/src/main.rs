//! The workshop: everything that is checked, in one command that says what failed, and what was skipped and why.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks")]

mod bench;
mod evidence;
mod lanes;
mod lines;
mod proofs;
mod readme;
mod servers;
mod shell;
mod tidy;
mod watchdog;
mod year;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    lanes::{Lane, Settings},
    proofs::Proof,
    shell::{Shell, Stop},
};

/// The workshop of factum: tests, rules and long runs.
#[derive(Parser)]
#[command(
    bin_name = "cargo xtask",
    after_help = "Begin with `cargo xtask test`. After a failure, run the lane that failed alone: `cargo xtask test clippy`."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs every check there is, and sums up what failed and what was skipped and why
    ///
    /// Exit code: 0 if nothing failed, 1 if something did, 130 if it was interrupted.
    Test(Test),
    /// Checks the rules that no compiler knows: who may depend on whom, links, licences, stubs …
    Tidy {
        /// Print the rules instead
        #[arg(long)]
        rules: bool,
    },
    /// Crashes the engine on a simulated disk, over and over: the long lane
    Sim(Sim),
    /// Kills the engine's process, over and over, and checks the history of its clients: a long lane
    Kills {
        /// How many kills
        #[arg(long, default_value_t = 300, value_name = "N")]
        kills: u64,
        /// A new one each time, and printed, if not given
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Cuts the power of the file system under the engine, over and over; needs root: a long lane
    Powercut {
        /// How many power cuts
        #[arg(long, default_value_t = 300, value_name = "N")]
        cuts: u64,
        /// A new one each time, and printed, if not given
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Makes the engine's system calls fail, every one of them, in every way; needs strace: a long lane
    Faults {
        /// A new one each time, and printed, if not given
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Fills the disk under the engine and makes room again, over and over: a long lane
    Fulldisk {
        /// How often
        #[arg(long, default_value_t = 50, value_name = "N")]
        rounds: u64,
        /// A new one each time, and printed, if not given
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Damages what the engine reads, in ways that fall out of a seed: a long lane
    Fuzz {
        /// How long
        #[arg(long, default_value_t = 300, value_name = "N")]
        seconds: u64,
        /// A new one each time, and printed, if not given
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Proves the order, the guards and the answers of the store on PostgreSQL, on servers that are killed: a long lane
    PostgresProofs {
        /// A new one each time, and printed, if not given
        #[arg(long)]
        seed: Option<u64>,
    },
    /// A mix of sim, kills, powercut, faults, fulldisk and fuzz: the longest lane
    Soak {
        /// For how long; the round that is begun is finished
        #[arg(long, default_value_t = 60, value_name = "N")]
        minutes: u64,
        /// A new one each time, and printed, if not given
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Measures something beside its peers, on a server that is started for it
    ///
    /// Figures of different runs are not to be compared: the ratios within a run are. The engine's benchmark needs no server, and is in bench/.
    Bench {
        /// What
        what: Bench,
        /// Options of the benchmark itself, after `--`: `-- --help` prints them
        #[arg(last = true)]
        options: Vec<String>,
    },
    /// Counts the lines of programs, and how many of them are ceremony; prints by which rules
    Lines {
        /// Rust files, or Markdown with Rust in it
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Writes docs/evidence.md from what the long lanes left in target/evidence
    Evidence {
        /// Run all of them first, but for soak: about half an hour
        #[arg(long)]
        run: bool,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Bench {
    /// The store on PostgreSQL, beside bare inserts and published crates: about two minutes
    Postgres,
}

#[derive(Args)]
struct Test {
    /// Only these lanes; all of them if none is named
    #[arg(value_enum)]
    lanes: Vec<Lane>,
    /// Stop at the first lane that fails
    #[arg(long)]
    fail_fast: bool,
    /// Crash cycles of the `sim` lane
    #[arg(long, default_value_t = 50_000, value_name = "N")]
    cycles: u64,
    /// Seed of the `sim` lane; a new one each time, and printed, if not given
    #[arg(long)]
    seed: Option<u64>,
    /// Where the `year` lane finds accounts-YEAR.csv and transactions-YEAR.csv
    #[arg(long, default_value = "../shared/data/bank", value_name = "DIR")]
    bank_data: PathBuf,
}

#[derive(Args)]
struct Sim {
    /// How many crash-and-recover cycles
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    cycles: u64,
    /// A new one each time, and printed, if not given
    #[arg(long)]
    seed: Option<u64>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    match run(verb).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Failed(why)) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
        Err(Stop::Interrupted) => {
            eprintln!("interrupted; what was running has been stopped");
            ExitCode::from(130)
        }
    }
}

async fn run(verb: Verb) -> Result<(), Stop> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    match verb {
        Verb::Test(Test { lanes, fail_fast, cycles, seed, bank_data }) => {
            let seed = seed.unwrap_or_else(new_seed);
            let settings = Settings { fail_fast, cycles, seed, bank_data: root.join(bank_data) };
            lanes::run(&mut Shell::new(root)?, &lanes, &settings).await
        }
        Verb::Tidy { rules: true } => {
            tidy::print_rules();
            Ok(())
        }
        Verb::Tidy { rules: false } => tidy::run(root).map(|told| println!("{told}")),
        Verb::Sim(Sim { cycles, seed }) => prove(root, Proof::Sim(cycles), seed).await,
        Verb::Kills { kills, seed } => prove(root, Proof::Kills(kills), seed).await,
        Verb::Powercut { cuts, seed } => prove(root, Proof::Powercut(cuts), seed).await,
        Verb::Faults { seed } => prove(root, Proof::Faults { all: true }, seed).await,
        Verb::Fulldisk { rounds, seed } => prove(root, Proof::Fulldisk(rounds), seed).await,
        Verb::Fuzz { seconds, seed } => prove(root, Proof::Fuzz(seconds), seed).await,
        Verb::PostgresProofs { seed } => prove(root, Proof::Postgres, seed).await,
        Verb::Soak { minutes, seed } => {
            let seed = seed.unwrap_or_else(new_seed);
            println!("{}", proofs::soak(&mut Shell::new(root)?, minutes, seed).await?);
            Ok(())
        }
        Verb::Bench { what: Bench::Postgres, options } => {
            bench::postgres(&mut Shell::new(root)?, &options).await
        }
        Verb::Lines { files } => lines::run(&files).map(|told| println!("{told}")),
        Verb::Evidence { run } => {
            println!("{}", evidence::run(&mut Shell::new(root)?, run.then(new_seed)).await?);
            Ok(())
        }
    }
}

async fn prove(root: &Path, proof: Proof, seed: Option<u64>) -> Result<(), Stop> {
    let told = proof.run(&mut Shell::new(root)?, seed.unwrap_or_else(new_seed)).await?;
    println!("{told}");
    Ok(())
}

/// Another number each time: the standard library seeds its hash maps at random.
fn new_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
