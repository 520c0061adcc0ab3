//! System calls that fail: the writer runs under strace, which makes its every nth call of a kind go wrong, and what it leaves is
//! checked.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use clap::Args;
use fastrand::Rng;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{process::Command, time::timeout};

use crate::{
    Stop,
    report::Report,
    verdict::{self, Checked, Remains},
};

/// The calls that the engine changes something with, and what can go wrong with each; reading is last.
const CALLS: &[(&str, &[&str])] = &[
    // What strace pretends to have written is not there: only a write of nothing is a short write that can be pretended.
    ("pwrite64", &["error=EIO", "error=ENOSPC", "error=EINTR", "retval=0", "signal=KILL"]),
    ("fdatasync", &["error=EIO", "error=ENOSPC", "error=EINTR", "signal=KILL"]),
    ("fsync", &["error=EIO", "error=ENOSPC", "error=EINTR", "signal=KILL"]),
    ("/^rename", &["error=EIO", "error=ENOSPC", "signal=KILL"]),
    ("/^unlink", &["error=EIO", "signal=KILL"]),
    ("openat", &["error=EIO", "error=ENOSPC", "error=EMFILE", "error=EINTR", "signal=KILL"]),
    ("fallocate", &["error=EIO", "error=ENOSPC", "error=EINTR", "error=EOPNOTSUPP", "signal=KILL"]),
    ("ftruncate", &["error=EIO", "error=ENOSPC", "error=EINTR", "signal=KILL"]),
    ("pread64", &["error=EIO", "error=EINTR", "signal=KILL"]),
    ("preadv2", &["error=EIO", "error=EINTR", "error=EOPNOTSUPP", "signal=KILL"]),
];
/// So many calls in a row that never came are the end of the calls of a kind.
const MISSES: u64 = 3;
/// How long a run may take: whoever waits for an answer that never comes waits longer. A sync may take long on a disk that others
/// write to.
const PATIENCE: Duration = Duration::from_secs(300);

/// Which calls go wrong.
#[derive(Args, Clone, Debug)]
pub(crate) struct Plan {
    /// Which calls of a kind go wrong, counted from 1 in each thread: `3,8`. All, one after another, if none is named
    #[arg(long, value_delimiter = ',')]
    nth: Vec<u64>,
    /// From which the clients' choices follow; a new one each time, and printed, if not given
    #[arg(long)]
    seed: Option<u64>,
}

/// What was done, and what came of it.
#[derive(Debug, Default)]
struct Tally {
    runs: u64,
    injected: BTreeMap<String, u64>,
    poisoned: u64,
    checked: Checked,
}

/// Lets every kind of call go wrong in every way.
pub(crate) async fn run(plan: &Plan) -> Result<Report, Stop> {
    strace_works().await?;
    let seed = plan.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let mut tally = Tally::default();
    for (call, faults) in CALLS {
        for fault in *faults {
            let mut all = 1..;
            let mut some = plan.nth.iter().copied();
            let nth: &mut dyn Iterator<Item = u64> = if plan.nth.is_empty() { &mut all } else { &mut some };
            let mut missed = 0;
            for n in nth {
                // Threads do not share their work in the same way each time: one miss is not the end.
                missed = if one(call, fault, n, rng.u64(..), &mut tally).await? { 0 } else { missed + 1 };
                if missed == MISSES {
                    break;
                }
            }
        }
        eprintln!("{call}: {} runs so far", tally.runs);
    }
    let Tally { runs, injected, poisoned, checked } = tally;
    let all: u64 = injected.values().sum();
    let report = Report::default().with("seed", seed).with("runs", runs).with("faults_injected", all);
    let kinds = serde_json::to_value(injected).map_err(Stop::at("the figures cannot be told"))?;
    Ok(checked.add_to(report.with("faults", kinds).with("logs_poisoned", poisoned)))
}

async fn strace_works() -> Result<(), Stop> {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "inject=rename:error=EIO:when=1", "--", "true"]);
    let why = match command.output().await {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Stop::Skipped(format!("no system call can be made to fail here (strace: {why})")))
}

/// One writer on a log of its own, one fault. Whether the fault came.
async fn one(call: &str, fault: &str, n: u64, seed: u64, tally: &mut Tally) -> Result<bool, Stop> {
    let place = TempDir::new().map_err(Stop::at("there is no place for a log"))?;
    let remains = Remains { log: place.path().join("log"), history: place.path().join("history") };
    let trace = place.path().join("trace");
    let what = format!("{call}:{fault}:when={n}");
    let output = write_under_strace(&remains, &trace, call, &what, seed).await?;
    let trace = std::fs::read_to_string(&trace).map_err(Stop::at("strace left no trace"))?;
    let came = trace.contains("(INJECTED)") || fault.starts_with("signal") && trace.contains("= ?");
    tally.runs += 1;
    if came {
        *tally.injected.entry(format!("{} {fault}", call.trim_start_matches("/^"))).or_default() += 1;
    }
    let told = Told { output: &output, trace: &trace };
    let checked = verdict::check(&remains).await;
    let right = told.check(came, call);
    match (checked, right) {
        (Ok(checked), Ok(poisoned)) => {
            tally.checked += checked;
            tally.poisoned += u64::from(poisoned);
            Ok(came)
        }
        (Err(Stop::Failed(why)), _) | (_, Err(why)) => {
            let kept = place.keep();
            Err(Stop::Failed(format!("{what}, seed {seed}: {why}\nwhat it left is in {}", kept.display())))
        }
        (Err(skipped), _) => Err(skipped),
    }
}

async fn write_under_strace(
    remains: &Remains,
    trace: &Path,
    call: &str,
    inject: &str,
    seed: u64,
) -> Result<Output, Stop> {
    let own = std::env::current_exe().map_err(Stop::at("this program cannot be found"))?;
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-y", "-o"]).arg(trace);
    command.args(["-e", &format!("trace={call}"), "-e", "signal=none", "-e", &format!("inject={inject}")]);
    command.arg("--").arg(own).args(["write", "--json", "--clients", "6", "--operations", "40"]);
    command.args(["--seed", &seed.to_string()]).arg("--log").arg(&remains.log);
    command.arg("--history").arg(&remains.history);
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = piped.spawn().map_err(Stop::at("strace cannot be started"))?;
    let strace = child.id();
    let mut wait = Box::pin(child.wait_with_output());
    match timeout(PATIENCE, &mut wait).await {
        Ok(output) => output.map_err(Stop::at("the writer cannot be waited for")),
        Err(_) => {
            let waits = where_it_waits(strace).unwrap_or_default();
            Err(Stop::Failed(format!("{inject}, seed {seed}: the writer hangs; its threads wait in{waits}")))
        }
    }
}

/// What each thread of the writer that this strace runs waits for, as the kernel tells.
fn where_it_waits(strace: Option<u32>) -> Option<String> {
    let strace = strace?;
    let child = std::fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).ok()?;
    let mut told = String::new();
    for thread in
        std::fs::read_dir(format!("/proc/{}/task", child.split_whitespace().next()?)).ok()?.flatten()
    {
        let read = |name: &str| std::fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        told += &format!(" {}: {} {};", read("comm").trim(), read("wchan").trim(), read("syscall").trim());
    }
    Some(told)
}

/// What the writer said, and what strace saw.
struct Told<'a> {
    output: &'a Output,
    trace: &'a str,
}

impl Told<'_> {
    /// Whether the writer behaved as it must. Whether its log was poisoned.
    fn check(&self, came: bool, call: &str) -> Result<bool, String> {
        let stderr = String::from_utf8_lossy(&self.output.stderr);
        if stderr.contains("panicked") {
            return Err(format!("it panicked: {stderr}"));
        }
        let figures = String::from_utf8_lossy(&self.output.stdout);
        let figures: Option<Value> = figures.lines().last().and_then(|line| serde_json::from_str(line).ok());
        let Some(figures) = figures else {
            // It was killed, or did not come to open its log, or a reader of it failed.
            return if came { Ok(false) } else { Err(format!("it failed without a fault: {stderr}")) };
        };
        let last = figures["last_append"].as_str().unwrap_or_default();
        let closed = figures["closed"].as_str().unwrap_or_default();
        let poisoned = last == "poisoned";
        match (self.broke_a_segment(), last) {
            (true, "acknowledged") => return Err(format!("it went on after a failed {call} of a segment")),
            (false, "acknowledged") | (_, "poisoned") => {}
            _ if came => {}
            _ => return Err(format!("without a fault, its last append was {last}")),
        }
        // A store may also close badly on its own account: its manifest needs the disk, too.
        if closed == "well" && poisoned || closed != "well" && !came {
            return Err(format!("its last append was {last}, but it was closed {closed}"));
        }
        Ok(poisoned)
    }

    /// Whether a write to a segment that is in use, or its sync, failed for good.
    fn broke_a_segment(&self) -> bool {
        let failed = |line: &&str| line.contains("(INJECTED)") && !line.contains("EINTR");
        let of_a_segment = |line: &&str| {
            line.contains(".segment>") && (line.contains(" pwrite64(") || line.contains(" fdatasync("))
        };
        self.trace.lines().filter(failed).any(|line| of_a_segment(&line))
    }
}
