//! The writer is struck down in the middle of its work, again and again, and what it leaves is checked.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use clap::Args;
use fastrand::Rng;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::{
    Stop,
    report::Report,
    verdict::{self, Checked, Remains},
    writer::{OPENED, STARTED},
};

/// How often, and from which seed.
#[derive(Args, Clone, Debug)]
pub(crate) struct Plan {
    /// How often the writer is struck down
    #[arg(long, default_value_t = 300)]
    blows: u64,
    /// How many of them one log lives through
    #[arg(long, default_value_t = 20)]
    per_log: u64,
    /// From which everything follows but the machine's own timing; a new one each time, and printed, if not given
    #[arg(long)]
    seed: Option<u64>,
}

/// What was done, and what came of it.
#[derive(Debug, Default)]
struct Tally {
    blows: u64,
    /// Of these, before the log was open: in recovery.
    while_opening: u64,
    logs: u64,
    checks: u64,
    checked: Checked,
}

/// A writer at work.
struct Victim {
    process: Child,
    says: Lines<BufReader<ChildStdout>>,
}

impl Victim {
    fn start(remains: &Remains, seed: u64) -> Result<Self, Stop> {
        let own = std::env::current_exe().map_err(Stop::at("this program cannot be found"))?;
        let mut command = Command::new(own);
        command.arg("write").arg("--log").arg(&remains.log).arg("--history").arg(&remains.history);
        command.args(["--seed", &seed.to_string()]);
        let piped =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = piped.spawn().map_err(Stop::at("the writer cannot be started"))?;
        let out = process.stdout.take().ok_or_else(|| Stop::Failed("the writer has no output".to_owned()))?;
        Ok(Self { process, says: BufReader::new(out).lines() })
    }

    /// Waits until it says this.
    async fn until(&mut self, word: &str) -> Result<(), Stop> {
        let said = self.says.next_line().await.map_err(Stop::at("the writer cannot be heard"))?;
        if said.as_deref() == Some(word) { Ok(()) } else { Err(self.epitaph().await) }
    }

    /// Why it ended although nobody struck it.
    async fn epitaph(&mut self) -> Stop {
        let mut error = String::new();
        if let Some(stderr) = self.process.stderr.take() {
            let _ = tokio::io::AsyncReadExt::read_to_string(&mut BufReader::new(stderr), &mut error).await;
        }
        Stop::Failed(format!("the writer ended by itself: {}", error.trim()))
    }

    /// Lets it live for a while that is not foreseen, sometimes too short to open the log. Whether it opened it.
    async fn live(&mut self, rng: &mut Rng) -> Result<bool, Stop> {
        self.until(STARTED).await?;
        if rng.u8(0..4) == 0 {
            let pause = Duration::from_micros(rng.u64(0..8_000));
            return match tokio::time::timeout(pause, self.until(OPENED)).await {
                Ok(opened) => opened.map(|()| true),
                Err(_) => Ok(false),
            };
        }
        self.until(OPENED).await?;
        tokio::time::sleep(Duration::from_micros(rng.u64(0..100_000))).await;
        match self.process.try_wait() {
            Ok(None) => Ok(true),
            _ => Err(self.epitaph().await),
        }
    }

    /// SIGKILL, on every system that has it.
    async fn kill(mut self) -> Result<(), Stop> {
        self.process.kill().await.map_err(Stop::at("the writer cannot be killed"))
    }
}

/// Kills the writer as often as planned.
pub(crate) async fn kills(plan: &Plan) -> Result<Report, Stop> {
    let seed = plan.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let mut tally = Tally::default();
    while tally.blows < plan.blows {
        let place = TempDir::new().map_err(Stop::at("there is no place for a log"))?;
        let remains = Remains { log: place.path().join("log"), history: place.path().join("history") };
        let blows = plan.per_log.min(plan.blows - tally.blows);
        match one_log(&remains, blows, &mut rng, &mut tally).await {
            Err(Stop::Failed(why)) => return Err(kept(place, seed, &why)),
            ended => ended?,
        }
        eprintln!("{} of {} kills", tally.blows, plan.blows);
    }
    let Tally { blows, while_opening, logs, checks, checked } = tally;
    let report =
        Report::default().with("seed", seed).with("kills", blows).with("kills_while_opening", while_opening);
    Ok(checked.add_to(report.with("logs", logs).with("checks", checks)))
}

/// One log, from its first writer to the last check.
async fn one_log(remains: &Remains, blows: u64, rng: &mut Rng, tally: &mut Tally) -> Result<(), Stop> {
    for n in 1..=blows {
        let mut victim = Victim::start(remains, rng.u64(..))?;
        let opened = victim.live(rng).await?;
        victim.kill().await?;
        tally.blows += 1;
        tally.while_opening += u64::from(!opened);
        // Not after each: what a blow left is then opened by the next writer, and struck again while it does so.
        let last = n == blows;
        if last || rng.u8(0..4) == 0 {
            let checked = verdict::check(remains).await?;
            tally.checks += 1;
            if last {
                tally.checked += checked;
            }
        }
    }
    tally.logs += 1;
    Ok(())
}

/// Keeps what shows the failure.
fn kept(place: TempDir, seed: u64, why: &str) -> Stop {
    let place: PathBuf = place.keep();
    let shown: &Path = &place;
    Stop::Failed(format!("seed {seed}: {why}\nthe log and its history are kept in {}", shown.display()))
}
