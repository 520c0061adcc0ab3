//! The long lanes: what is proved by letting bad things happen for a while.
//!
//! What they are about is the engine, and the store on PostgreSQL. Each lane leaves its figures in `target/evidence/`, with the day and the commit, for `cargo xtask evidence` to tell.

mod postgres;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::shell::{Shell, Stop, elapsed, now};

/// What bad things are let happen, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Proof {
    /// Cycles on a simulated disk, after every seeded bug was noticed.
    Sim(u64),
    Kills(u64),
    Powercut(u64),
    /// All system calls, or only a few of each kind.
    Faults {
        all: bool,
    },
    Fulldisk(u64),
    /// So many seconds.
    Fuzz(u64),
    /// Everything about the store on PostgreSQL, on servers of its own.
    Postgres,
}

impl Proof {
    /// All of them, as long as a lane of its own.
    pub(crate) const ALL: [Self; 7] = [
        Self::Sim(1_000_000),
        Self::Kills(300),
        Self::Powercut(300),
        Self::Faults { all: true },
        Self::Fulldisk(50),
        Self::Fuzz(300),
        Self::Postgres,
    ];

    /// All of them, in pieces small enough to be mixed.
    const PIECES: [Self; 6] = [
        Self::Sim(50_000),
        Self::Kills(60),
        Self::Powercut(60),
        Self::Faults { all: false },
        Self::Fulldisk(10),
        Self::Fuzz(30),
    ];

    /// The name of its lane.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sim(_) => "sim",
            Self::Kills(_) => "kills",
            Self::Powercut(_) => "powercut",
            Self::Faults { .. } => "faults",
            Self::Fulldisk(_) => "fulldisk",
            Self::Fuzz(_) => "fuzz",
            Self::Postgres => "postgres-proofs",
        }
    }

    /// The program that does it, and how it is called.
    fn args(self) -> Vec<String> {
        const PROOFS: [&str; 5] = ["--release", "-p", "proofs", "--", "--json"];
        const SIM: [&str; 7] =
            ["--release", "-p", "factum-log", "--features", "sim", "--example", "crash_cycles"];
        const FUZZ: [&str; 8] =
            ["--profile", "fuzz", "-p", "factum-log", "--features", "sim", "--example", "fuzz"];
        let (program, args): (&[&str], Vec<String>) = match self {
            Self::Sim(cycles) => (&SIM, words(&["--", "--json", "--bugs", "--cycles"], &cycles)),
            Self::Fuzz(seconds) => (&FUZZ, words(&["--", "--json", "--seconds"], &seconds)),
            Self::Kills(kills) => (&PROOFS, words(&["kills", "--blows"], &kills)),
            Self::Powercut(cuts) => (&PROOFS, words(&["powercuts", "--blows"], &cuts)),
            Self::Faults { all: true } => (&PROOFS, vec!["faults".to_owned()]),
            Self::Faults { all: false } => (&PROOFS, words(&["faults", "--nth"], &"1,4,9,23")),
            Self::Fulldisk(rounds) => (&PROOFS, words(&["fulldisk", "--rounds"], &rounds)),
            Self::Postgres => return postgres::args(),
        };
        let run = ["run", "--quiet"].iter().chain(program).map(|word| (*word).to_owned());
        run.chain(args).collect()
    }

    /// Runs it, and returns its figures; or why it was skipped, as the figure `skipped`.
    async fn figures(self, shell: &mut Shell, seed: u64) -> Result<Value, Stop> {
        if matches!(self, Self::Postgres) {
            return postgres::figures(shell, self.args(), seed).await;
        }
        let mut command = shell.cargo(&[]);
        command.args(self.args()).args(["--seed", &seed.to_string()]);
        println!("{}: seed {seed}", self.name());
        let printed = shell.output(command).await?;
        serde_json::from_str(&printed).map_err(Stop::at("the proof's figures cannot be read"))
    }

    /// Runs it, keeps its figures under the name of its lane, and tells them.
    pub(crate) async fn run(self, shell: &mut Shell, seed: u64) -> Result<String, Stop> {
        let began = now();
        let figures = self.figures(shell, seed).await?;
        keep(shell, self.name(), &figures, began.elapsed().as_secs_f64()).await?;
        Ok(format!("{}: {}", self.name(), told(&figures)))
    }
}

fn words(words: &[&str], last: &impl ToString) -> Vec<String> {
    words.iter().map(ToString::to_string).chain([last.to_string()]).collect()
}

/// Runs a mix of all proofs for so many minutes, each piece with a seed of its own, which it prints.
pub(crate) async fn soak(shell: &mut Shell, minutes: u64, seed: u64) -> Result<String, Stop> {
    let began = now();
    let mut sums: BTreeMap<&str, Value> = BTreeMap::new();
    let mut rounds = 0;
    while began.elapsed().as_secs() < minutes * 60 {
        for proof in Proof::PIECES {
            // Any odd number does, so that no two seeds are the same.
            let piece = seed.wrapping_add(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(rounds + 1));
            let figures = proof.figures(shell, piece).await?;
            add(sums.entry(proof.name()).or_insert_with(|| json!({})), &figures);
        }
        rounds += 1;
        println!("{rounds} rounds in {}", elapsed(began));
    }
    let mut figures = json!({ "seed": seed, "rounds": rounds });
    for (name, sum) in sums {
        figures[name] = sum;
    }
    keep(shell, "soak", &figures, began.elapsed().as_secs_f64()).await?;
    Ok(format!("soak: {}", told(&figures)))
}

/// Adds up what can be added, and keeps the latest of the rest.
fn add(sum: &mut Value, figures: &Value) {
    let Some(figures) = figures.as_object() else { return };
    for (name, figure) in figures {
        match (sum[name].as_u64(), figure.as_u64()) {
            _ if name == "seed" || figure.is_object() => {}
            _ if name.starts_with("most_") || name.starts_with("slowest_") => {
                let before = sum[name].as_f64().unwrap_or_default();
                sum[name] = before.max(figure.as_f64().unwrap_or_default()).into();
            }
            (Some(before), Some(figure)) => sum[name] = (before + figure).into(),
            _ => sum[name] = figure.clone(),
        }
    }
}

/// Writes down what a lane has shown.
async fn keep(shell: &mut Shell, lane: &str, figures: &Value, seconds: f64) -> Result<(), Stop> {
    let day = shell.said("date", &["-u", "+%Y-%m-%d"]).await?;
    let commit = shell.said("git", &["rev-parse", "--short=10", "HEAD"]).await?;
    let whole =
        json!({ "lane": lane, "day": day, "commit": commit, "seconds": seconds.round(), "figures": figures });
    let folder = folder(shell);
    fs::create_dir_all(&folder).map_err(Stop::at("there is no place for the figures"))?;
    write(&folder.join(format!("{lane}.json")), &format!("{whole:#}\n"))
        .map_err(Stop::at("the figures cannot be kept"))
}

/// Where the figures are.
pub(crate) fn folder(shell: &Shell) -> PathBuf {
    shell.target().join("evidence")
}

#[allow(clippy::disallowed_methods, reason = "a report is no data file")]
pub(crate) fn write(path: &Path, text: &str) -> std::io::Result<()> {
    fs::write(path, text)
}

/// Figures as people read them.
pub(crate) fn told(figures: &Value) -> String {
    let all = match figures {
        Value::Object(all) => all,
        Value::String(text) => return text.clone(),
        number => return in_groups(number),
    };
    let words = all.iter().map(|(name, figure)| {
        let name = name.replace('_', " ");
        match figure {
            Value::Object(_) => format!("{name} ({})", told(figure)),
            // Not a number that says how many.
            seed if name == "seed" => format!("{name} {seed}"),
            figure => format!("{name} {}", told(figure)),
        }
    });
    words.collect::<Vec<_>>().join(", ")
}

/// A whole number with its thousands apart; anything else as it is.
fn in_groups(number: &Value) -> String {
    let Some(whole) = number.as_u64() else { return number.to_string() };
    let digits = whole.to_string();
    let groups: Vec<&str> = (0..digits.len().div_ceil(3))
        .rev()
        .map(|n| {
            let end = digits.len() - n * 3;
            &digits[end.saturating_sub(3)..end]
        })
        .collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_added_and_told() {
        let mut sum = json!({});
        for (kills, slowest) in [(1_200, 7), (34, 9)] {
            add(&mut sum, &json!({ "kills": kills, "seed": 5, "slowest_ms": slowest, "on": "ext4" }));
        }
        assert_eq!(told(&sum), "kills 1,234, on ext4, slowest ms 9.0");
    }
}
