//! The lanes of `cargo xtask test`: what is checked, in which order, and how it is told.

use std::{path::PathBuf, process::Stdio};

use clap::ValueEnum;

use crate::{
    readme,
    servers::{BROKERS, Postgres},
    shell::{Shell, Stop, elapsed, now},
    tidy, year,
};

/// One lane. The order is the order of running: quick and likely to fail first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lane {
    /// The code is formatted
    Fmt,
    /// The rules that no compiler knows hold
    Tidy,
    /// Clippy has nothing to say
    Clippy,
    /// All tests but those in the documentation, by cargo-nextest if it is installed
    Tests,
    /// The tests that need a PostgreSQL, on one of their own
    Postgres,
    /// The relays, each on a broker of its own that is killed
    Relays,
    /// The examples in the documentation compile and run
    Doctests,
    /// The documentation builds without a warning
    Docs,
    /// What the README shows and promises is so
    Readme,
    /// Crashes of the engine on a simulated disk, and its seeded bugs noticed
    Sim,
    /// Real years of a bank, imported: every balance, also after kills
    Year,
    /// Licences, advisories and sources of dependencies, by cargo-deny if it is installed
    Deny,
}

/// What the lanes go by.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) fail_fast: bool,
    pub(crate) cycles: u64,
    pub(crate) seed: u64,
    pub(crate) bank_data: PathBuf,
}

/// How a lane ended, if it did not fail.
#[derive(Debug)]
pub(crate) enum Pass {
    /// It holds; with a figure worth keeping, or nothing.
    Done(String),
    /// It was not run, for this reason.
    Skipped(String),
}

/// Runs these lanes, or all, and sums up.
pub(crate) async fn run(shell: &mut Shell, only: &[Lane], settings: &Settings) -> Result<(), Stop> {
    let began = now();
    let lanes: Vec<Lane> =
        Lane::value_variants().iter().copied().filter(|l| only.is_empty() || only.contains(l)).collect();
    let mut summary = Summary::default();
    for (n, lane) in lanes.iter().enumerate() {
        println!("\n── {} ({} of {})", lane.name(), n + 1, lanes.len());
        let lane_began = now();
        let ended = lane.run(shell, settings).await;
        let took = elapsed(lane_began);
        summary.note(*lane, &ended, &took);
        match ended {
            Err(Stop::Interrupted) => {
                summary.not_run(&lanes[n + 1..], "interrupted");
                break;
            }
            Err(Stop::Failed(_)) if settings.fail_fast => {
                summary.not_run(&lanes[n + 1..], "an earlier lane failed");
                break;
            }
            _ => {}
        }
    }
    println!("\n{}", summary.text(&elapsed(began)));
    summary.verdict()
}

/// What is told at the end.
#[derive(Default)]
struct Summary {
    lines: Vec<String>,
    done: usize,
    skipped: usize,
    failed: Vec<String>,
    interrupted: bool,
}

impl Summary {
    fn note(&mut self, lane: Lane, ended: &Result<Pass, Stop>, took: &str) {
        let (word, told) = match ended {
            Ok(Pass::Done(told)) => {
                self.done += 1;
                ("ok", told.as_str())
            }
            Ok(Pass::Skipped(why)) => {
                self.skipped += 1;
                ("skipped", why.as_str())
            }
            Err(Stop::Failed(why)) => {
                self.failed.push(lane.name());
                ("FAILED", why.as_str())
            }
            Err(Stop::Interrupted) => {
                self.interrupted = true;
                ("stopped", "interrupted")
            }
        };
        println!("── {} {word} in {took}{}{told}", lane.name(), if told.is_empty() { "" } else { ": " });
        self.line(word, lane, took, told);
    }

    fn not_run(&mut self, lanes: &[Lane], why: &str) {
        for lane in lanes {
            self.skipped += 1;
            self.line("skipped", *lane, "", why);
        }
    }

    fn line(&mut self, word: &str, lane: Lane, took: &str, told: &str) {
        // One line each: the whole of a long reason stands with the lane.
        let told = told.lines().next().unwrap_or_default();
        self.lines.push(format!("  {word:<8} {:<9} {took:>12}  {told}", lane.name()).trim_end().to_owned());
    }

    fn text(&self, took: &str) -> String {
        let Self { lines, done, skipped, failed, .. } = self;
        let lines = lines.join("\n");
        format!("Summary, after {took}\n{lines}\n{done} ok, {skipped} skipped, {} failed", failed.len())
    }

    fn verdict(self) -> Result<(), Stop> {
        if self.interrupted {
            return Err(Stop::Interrupted);
        }
        if self.failed.is_empty() {
            return Ok(());
        }
        let lanes = self.failed.join(" ");
        Err(Stop::Failed(format!("failed: {lanes}. To run only that again: cargo xtask test {lanes}")))
    }
}

impl Lane {
    /// As on the command line.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    async fn run(self, shell: &mut Shell, settings: &Settings) -> Result<Pass, Stop> {
        match self {
            Self::Fmt => cargo(shell, &["fmt", "--all", "--check"]).await,
            Self::Tidy => tidy::run(shell.root()).map(Pass::Done),
            Self::Clippy => {
                // Both ways: what only a feature uses must not be dead without it, nor the other way about.
                cargo(shell, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]).await?;
                let all =
                    ["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
                cargo(shell, &all).await
            }
            // With all features, since some tests need the simulated disk; the lanes `readme` and `year` run what is shipped.
            Self::Tests if has(shell, "nextest").await => {
                cargo(shell, &[NEXTEST, &["-E", NO_SERVERS]].concat()).await
            }
            Self::Tests => {
                println!("cargo-nextest is not installed; `cargo test` does as well, only slower");
                let options =
                    ["--all-features", "--no-fail-fast", "--lib", "--bins", "--tests", "--examples"];
                cargo(shell, &[&["test"], WITHOUT_SERVERS, &options[..]].concat()).await
            }
            Self::Postgres => on_postgres(shell).await,
            Self::Relays => relays(shell).await,
            Self::Doctests => cargo(shell, &["test", "--workspace", "--doc", "--all-features"]).await,
            Self::Docs => docs(shell).await,
            Self::Readme => readme::run(shell).await,
            Self::Sim => simulate(shell, settings.cycles, settings.seed).await.map(Pass::Done),
            Self::Year => year::run(shell, &settings.bank_data).await,
            Self::Deny if has(shell, "deny").await => cargo(shell, &["deny", "check"]).await,
            Self::Deny => {
                Ok(Pass::Skipped("cargo-deny is not installed: cargo install --locked cargo-deny".to_owned()))
            }
        }
    }
}

/// Always the whole workspace, of which an expression takes its part: so nothing is built twice with other features.
const NEXTEST: &[&str] =
    &["nextest", "run", "--workspace", "--all-features", "--no-fail-fast", "--status-level", "slow"];
/// The tests that need nothing but themselves.
const NO_SERVERS: &str =
    "not (package(factum-postgres) or binary(postgres) or (package(factum-relay) and kind(test)))";
/// The packages with such tests.
const WITHOUT_SERVERS: &[&str] =
    &["--workspace", "--exclude", "factum-postgres", "--exclude", "factum-relay"];

async fn on_postgres(shell: &mut Shell) -> Result<Pass, Stop> {
    let postgres = match Postgres::start(shell).await? {
        Ok(postgres) => postgres,
        Err(why) => return Ok(Pass::Skipped(why)),
    };
    let nextest = [NEXTEST, &["-E", "package(factum-postgres) or binary(postgres)"]].concat();
    // The store's own, and those of programs that can be given one.
    let own = ["test", "--no-fail-fast", "-p", "factum-postgres", "--lib", "--tests"];
    let programs =
        ["test", "--no-fail-fast", "-p", "bank", "-p", "factum-cli", "-p", "shop", "--test", "postgres"];
    let commands: &[&[&str]] = if has(shell, "nextest").await { &[&nextest] } else { &[&own, &programs] };
    let mut done = Ok(());
    for args in commands {
        let mut command = shell.cargo(args);
        command.env("FACTUM_TEST_POSTGRES", postgres.url());
        done = done.and(shell.run(command).await);
    }
    postgres.stop().await;
    done.map(|()| Pass::Done(String::new()))
}

/// The relays' tests start servers themselves, since they kill them. Here it is found out where the programs are.
async fn relays(shell: &mut Shell) -> Result<Pass, Stop> {
    // They need no server: one is in memory, the other's client brings one along.
    let (mut names, mut missing, mut variables) = (vec!["storms", "kafka"], Vec::new(), Vec::new());
    for broker in BROKERS {
        match broker.program(shell).await? {
            Ok(program) => {
                names.push(broker.name);
                variables.push((broker.variable, program));
            }
            Err(why) => missing.push(why),
        }
    }
    for why in &missing {
        println!("skipped: {why}");
    }
    let expression = names.iter().map(|name| format!("binary({name})")).collect::<Vec<_>>().join(" or ");
    let expression = format!("package(factum-relay) and (kind(lib) or {expression})");
    // What a test says of its broker is worth seeing.
    let nextest =
        [NEXTEST, &["--success-output", "final", "--test-threads", "2", "-E", &expression]].concat();
    let mut own = vec!["test", "--no-fail-fast", "-p", "factum-relay", "--all-features", "--lib"];
    own.extend(names.iter().flat_map(|name| ["--test", name]));
    let has_nextest = has(shell, "nextest").await;
    let mut command = shell.cargo(if has_nextest { &nextest } else { &own });
    command.envs(variables);
    shell.run(command).await?;
    let on =
        if std::env::var_os("FACTUM_TEST_KAFKA").is_some() { "" } else { " (its client's mock cluster)" };
    let told = format!("{}{on}", names.iter().skip(1).rev().copied().collect::<Vec<_>>().join(", "));
    Ok(match missing.is_empty() {
        true => Pass::Done(told),
        false => Pass::Done(format!("{told}; skipped {}", missing.join("; "))),
    })
}

async fn cargo(shell: &mut Shell, args: &[&str]) -> Result<Pass, Stop> {
    shell.run(shell.cargo(args)).await.map(|()| Pass::Done(String::new()))
}

async fn docs(shell: &mut Shell) -> Result<Pass, Stop> {
    let mut command = shell.cargo(&["doc", "--workspace", "--no-deps", "--all-features"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    shell.run(command).await.map(|()| Pass::Done(String::new()))
}

/// Whether cargo knows this subcommand.
async fn has(shell: &mut Shell, subcommand: &str) -> bool {
    let mut command = shell.cargo(&[subcommand, "--version"]);
    command.stderr(Stdio::null());
    shell.output(command).await.is_ok()
}

/// Makes each of the engine's seeded bugs and sees it noticed; then crashes the engine so many times on a simulated disk.
pub(crate) async fn simulate(shell: &mut Shell, cycles: u64, seed: u64) -> Result<String, Stop> {
    const EXAMPLE: &str = "crates/factum-log/examples/crash_cycles.rs";
    if !shell.root().join(EXAMPLE).exists() {
        return Err(Stop::Failed(format!("{EXAMPLE} is missing: the engine's crashes are not simulated")));
    }
    println!("seed {seed}; the same again: cargo xtask sim --cycles {cycles} --seed {seed}");
    let (cycles, seed) = (cycles.to_string(), seed.to_string());
    let build = [
        "run",
        "--release",
        "--quiet",
        "-p",
        "factum-log",
        "--features",
        "sim",
        "--example",
        "crash_cycles",
        "--",
        "--bugs",
    ];
    let args = [&build[..], &["--cycles", &cycles, "--seed", &seed]].concat();
    shell.run(shell.cargo(&args)).await?;
    Ok(format!("{cycles} crash cycles survived, every seeded bug noticed; seed {seed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_what_failed_and_why_others_were_skipped() {
        let mut summary = Summary::default();
        summary.note(Lane::Fmt, &Ok(Pass::Done(String::new())), "0.1 s");
        summary.note(Lane::Sim, &Err(Stop::Failed("seed 7 broke\nin many lines".to_owned())), "1.0 s");
        summary.not_run(&[Lane::Deny], "an earlier lane failed");
        let text = summary.text("2.0 s");
        for wanted in
            ["ok       fmt", "FAILED   sim", "seed 7 broke", "skipped  deny", "an earlier lane failed"]
        {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
        assert!(text.ends_with("1 ok, 1 skipped, 1 failed") && !text.contains("many lines"));
        assert!(matches!(summary.verdict(), Err(Stop::Failed(why)) if why.ends_with("cargo xtask test sim")));
    }
}
