//! The writer is struck down in the middle of its work, again and again, and what it leaves is checked.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use clap::Args;
use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::{
    Stop,
    ground::{Ground, Switch},
    report::Report,
    verdict::{self, Checked, Remains},
    writer::{OPENED, STARTED},
};

/// The size of the file systems whose power is cut.
const GROUND_MEGABYTES: u64 = 512;

/// What happens to the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    /// The process is gone; what it wrote is in the page cache.
    Kill,
    /// The file system is gone, and the page cache with it; then the process.
    PowerCut,
}

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
    /// Let the writer leave out every sync: power cuts must then be noticed, or this proves nothing
    #[arg(long)]
    no_sync: bool,
}

/// What was done, and what came of it.
#[derive(Debug, Default)]
struct Tally {
    blows: u64,
    /// Of these, before the log was open: in recovery.
    while_opening: u64,
    /// Files that were being made: runs of the index, segments, manifests.
    half_made: u64,
    /// How long the last log took to open.
    opening: Duration,
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
    fn start(remains: &Remains, seed: u64, no_sync: bool) -> Result<Self, Stop> {
        let own = std::env::current_exe().map_err(Stop::at("this program cannot be found"))?;
        let mut command = Command::new(own);
        command.arg("write").arg("--log").arg(&remains.log).arg("--history").arg(&remains.history);
        command.args(["--seed", &seed.to_string()]);
        if no_sync {
            command.arg("--no-sync");
        }
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

    /// Lets it live for a while that is not foreseen, sometimes too short to open the log, which took so long the last time. Whether
    /// it opened it.
    async fn live(&mut self, rng: &mut Rng, opening: &mut Duration) -> Result<bool, Stop> {
        self.until(STARTED).await?;
        let started = now();
        if rng.u8(0..4) == 0 {
            return match tokio::time::timeout(opening.mul_f64(rng.f64()), self.until(OPENED)).await {
                Ok(opened) => opened.map(|()| true),
                Err(_) => Ok(false),
            };
        }
        self.until(OPENED).await?;
        *opening = started.elapsed();
        tokio::time::sleep(Duration::from_micros(rng.u64(0..100_000))).await;
        match self.process.try_wait() {
            Ok(None) => Ok(true),
            _ => Err(self.epitaph().await),
        }
    }

    /// Stops it where it is. It does nothing of its own any more; what the kernel does for it goes on.
    fn halt(&self) -> Result<(), Stop> {
        let halted = || -> Option<()> {
            let pid = self.process.id()?;
            kill_process(Pid::from_raw(pid.cast_signed())?, Signal::STOP).ok()?;
            while !stands_still(pid)? {
                std::thread::yield_now();
            }
            Some(())
        };
        halted().ok_or_else(|| Stop::Failed("the writer cannot be stopped".to_owned()))
    }

    /// SIGKILL, on every system that has it.
    async fn kill(mut self) -> Result<(), Stop> {
        self.process.kill().await.map_err(Stop::at("the writer cannot be killed"))
    }
}

/// Strikes the writer down as often as planned.
pub(crate) async fn rain(plan: &Plan, blow: Blow) -> Result<Report, Stop> {
    let seed = plan.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let mut tally = Tally::default();
    while tally.blows < plan.blows {
        let mut place = Place::new(blow, plan)?;
        let blows = plan.per_log.min(plan.blows - tally.blows);
        match place.one_log(blows, &mut rng, &mut tally).await {
            Err(Stop::Failed(why)) => {
                return Err(Stop::Failed(format!("seed {seed}: {why}\n{}", place.keep())));
            }
            ended => ended?,
        }
        eprintln!("{} of {}", tally.blows, plan.blows);
    }
    let Tally { blows, while_opening, half_made, logs, checks, checked, .. } = tally;
    let (all, opening) = match blow {
        Blow::Kill => ("kills", "kills_while_opening"),
        Blow::PowerCut => ("power_cuts", "power_cuts_while_opening"),
    };
    let report = Report::default()
        .with("seed", seed)
        .with(all, blows)
        .with(opening, while_opening)
        .with("files_found_half_made", half_made);
    Ok(checked.add_to(report.with("logs", logs).with("checks", checks)))
}

/// Where one log lives, from its first writer to the last check.
struct Place {
    remains: Remains,
    no_sync: bool,
    /// Before the directory it is in, so that it is unmounted before that is removed.
    ground: Option<Ground>,
    directory: TempDir,
}

impl Place {
    fn new(blow: Blow, plan: &Plan) -> Result<Self, Stop> {
        let directory = TempDir::new().map_err(Stop::at("there is no place for a log"))?;
        let ground = match blow {
            Blow::Kill => None,
            Blow::PowerCut => Some(Ground::ext4(directory.path(), GROUND_MEGABYTES)?),
        };
        let above = ground.as_ref().map_or(directory.path(), Ground::path);
        // The history is not on the ground that is taken away.
        let remains = Remains { log: above.join("log"), history: directory.path().join("history") };
        Ok(Self { remains, no_sync: plan.no_sync, ground, directory })
    }

    async fn one_log(&mut self, blows: u64, rng: &mut Rng, tally: &mut Tally) -> Result<(), Stop> {
        for n in 1..=blows {
            let switch = self.ground.as_ref().map(Ground::hand_on_switch).transpose()?;
            let mut victim = Victim::start(&self.remains, rng.u64(..), self.no_sync)?;
            let opened = victim.live(rng, &mut tally.opening).await?;
            match switch {
                None => victim.kill().await?,
                Some(switch) => self.power_cut(switch, victim, rng).await?,
            }
            tally.blows += 1;
            tally.while_opening += u64::from(!opened);
            tally.half_made += half_made(&self.remains);
            // Not after each: what a blow left is then opened by the next writer, and struck again while it does so.
            let last = n == blows;
            if last || rng.u8(0..4) == 0 {
                let checked = verdict::check(&self.remains).await?;
                tally.checks += 1;
                if last {
                    tally.checked += checked;
                }
            }
        }
        tally.logs += 1;
        Ok(())
    }

    async fn power_cut(&mut self, switch: Switch, victim: Victim, rng: &mut Rng) -> Result<(), Stop> {
        let Some(ground) = &mut self.ground else { return Ok(()) };
        if rng.u8(0..4) == 0 {
            // The kernel is writing back of its own accord, so that some of what no sync asked for arrives.
            let mut sync = Command::new("sync");
            let _ = sync.arg("--file-system").arg(ground.path()).stderr(Stdio::null()).spawn();
            tokio::time::sleep(Duration::from_micros(rng.u64(0..5_000))).await;
        }
        // The machine stands still before its power goes: whoever waits in a system call hears no answer to it. A sync that is on
        // its way while Linux shuts ext4 down may return as if it had succeeded, which no machine without power does.
        victim.halt()?;
        switch.cut()?;
        victim.kill().await?;
        ground.unmount()?;
        ground.mount()
    }

    /// Keeps what shows the failure, and says where.
    fn keep(self) -> String {
        let Self { remains, ground, directory, .. } = self;
        let kept = directory.keep();
        if ground.is_some() {
            // The mount goes when this process does: the log is copied out of it.
            let copied =
                std::process::Command::new("cp").arg("-r").arg(&remains.log).arg(kept.join("log")).status();
            drop((copied, ground));
        }
        format!("the log and its history are kept in {}", kept.display())
    }
}

/// Whether every thread of a process is stopped, or waits in the kernel for the disk. `None` if there is no such process.
fn stands_still(pid: u32) -> Option<bool> {
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let Ok(stat) = std::fs::read_to_string(thread.path().join("stat")) else { continue };
        let state = stat.rsplit(") ").next()?.chars().next()?;
        if !matches!(state, 'T' | 't' | 'D') {
            return Some(false);
        }
    }
    Some(true)
}

#[allow(clippy::disallowed_methods, reason = "how long something took decides only when the next blow comes")]
fn now() -> Instant {
    Instant::now()
}

/// How many files of the log were not finished.
fn half_made(remains: &Remains) -> u64 {
    let Ok(files) = std::fs::read_dir(&remains.log) else { return 0 };
    files.flatten().filter(|file| file.file_name().to_string_lossy().ends_with(".new")).count() as u64
}
