//! The page that says what was shown of the engine and of the store on PostgreSQL, and what was not: `docs/evidence.md`.

use std::{fmt::Write as _, fs};

use serde_json::Value;

use crate::{
    proofs::{Proof, folder, told, write},
    shell::{Shell, Stop},
};

/// Where the page is, what was found so far, and the benchmark's figures.
const PAGE: &str = "docs/evidence.md";
const FOUND: &str = "docs/found.md";
const BENCH: &str = "bench/results/summary.json";

/// The lanes, in the order in which they are told, with what each one does.
const LANES: &[(&str, &str)] = &[
    (
        "sim",
        "crashes on a simulated disk: kills and power cuts, also within recovery, failing syncs, full disks, flipped bits, lying disks; each seeded bug is noticed first",
    ),
    (
        "kills",
        "`kill -9` of a process with 16 recorded clients and two subscribers, also while it opens its log",
    ),
    (
        "powercut",
        "an ext4 in a file, shut down under such a process (`FS_IOC_SHUTDOWN`, nothing flushed), mounted again and checked",
    ),
    (
        "faults",
        "each system call of a kind made to fail in turn, under strace: errors, writes of nothing, SIGKILL",
    ),
    (
        "fulldisk",
        "a tmpfs and an ext4 filled under an open store, and given room again, without opening it anew",
    ),
    ("fuzz", "headers, records, manifests, indexes and whole directories, damaged by rot and by malice"),
    ("soak", "a mix of all of these for a while"),
    (
        "postgres-proofs",
        "the store on PostgreSQL: its fence in every order of steps, writers held up between any two statements, storms, guards, servers killed, answers cut",
    ),
];

/// Runs the lanes first if asked to, then writes the page from what they left.
pub(crate) async fn run(shell: &mut Shell, lanes_first: Option<u64>) -> Result<String, Stop> {
    if let Some(seed) = lanes_first {
        for (n, proof) in (0..).zip(Proof::ALL) {
            println!("{}", proof.run(shell, seed.wrapping_add(n)).await?);
        }
    }
    let day = shell.said("date", &["-u", "+%Y-%m-%d"]).await?;
    let commit = shell.said("git", &["rev-parse", "--short=10", "HEAD"]).await?;
    let mut page = format!(
        "# Evidence\n\nWhat was done to the engine and to the store on PostgreSQL, and what came of it. Written by `cargo xtask evidence` on {day}, at commit {commit}; \
         nothing in it was typed by hand but the failures found. Seeds bring back what followed from them; the machine's own timing is not among that.\n\n"
    );
    let _ = writeln!(page, "Machine: {}.\n", machine(shell).await?);
    let missing = lanes(shell, &mut page);
    benchmark(shell, &mut page);
    not_run(&missing, &mut page);
    found(shell, &mut page)?;
    write(&shell.root().join(PAGE), &page).map_err(Stop::at(format!("cannot write {PAGE}")))?;
    Ok(format!("{PAGE} tells of {} lanes; not run: {}", LANES.len() - missing.len(), missing.len()))
}

/// What kind of machine it is; neither its name nor any path on it.
async fn machine(shell: &mut Shell) -> Result<String, Stop> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("an unknown processor", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = shell.said("uname", &["-sr"]).await?;
    let target = shell.target().display().to_string();
    let file_system = shell.said("df", &["--output=fstype", &target]).await?;
    let file_system = file_system.lines().last().unwrap_or("an unknown file system");
    Ok(format!("{model}, {cores} cores, {kernel}, {file_system}"))
}

/// Tells of each lane that has figures; returns the others, each with the reason.
fn lanes(shell: &Shell, page: &mut String) -> Vec<String> {
    let mut missing = Vec::new();
    page.push_str("## What was done\n\n");
    for (lane, what) in LANES {
        let path = folder(shell).join(format!("{lane}.json"));
        let text = fs::read_to_string(path).unwrap_or_default();
        let Ok(run) = serde_json::from_str::<Value>(&text) else {
            missing.push(format!("`{lane}` ({what}): there are no figures; run `cargo xtask {lane}`"));
            continue;
        };
        if let Some(why) = run["figures"]["skipped"].as_str() {
            missing.push(format!("`{lane}` ({what}): {why}"));
            continue;
        }
        let word = |name: &str| run[name].as_str().unwrap_or("unknown").to_owned();
        let seconds = run["seconds"].as_f64().unwrap_or_default();
        let _ = writeln!(page, "### {lane}\n\n{}{}.\n", what[..1].to_uppercase(), &what[1..]);
        let _ = writeln!(page, "On {}, commit {}, in {seconds:.0} s:\n", word("day"), word("commit"));
        figures(&run["figures"], page);
    }
    missing
}

/// The figures of a lane: a row each, and what belongs together in one.
fn figures(figures: &Value, page: &mut String) {
    page.push_str("| | |\n|---|---|\n");
    for (name, figure) in figures.as_object().into_iter().flatten() {
        let figure = if name == "seed" { figure.to_string() } else { told(figure) };
        let _ = writeln!(page, "| {} | {figure} |", name.replace('_', " "));
    }
    page.push('\n');
}

/// The bars of the benchmark, as its last run met or missed them.
fn benchmark(shell: &Shell, page: &mut String) {
    let text = fs::read_to_string(shell.root().join(BENCH)).unwrap_or_default();
    let Ok(summary) = serde_json::from_str::<Value>(&text) else { return };
    let (when, commit) =
        (summary["when"].as_str().unwrap_or("?"), summary["machine"]["commit"].as_str().unwrap_or("?"));
    let _ = writeln!(
        page,
        "## Speed beside its peers\n\nThe benchmark's last run, {when}, commit {commit}, interleaved in one run ([bench](../bench)):\n"
    );
    page.push_str("| work | beside | ratio | bar | |\n|---|---|---|---|---|\n");
    for bar in summary["bars"].as_array().into_iter().flatten() {
        let (ratio, least) =
            (bar["ratio"].as_f64().unwrap_or_default(), bar["bar"].as_f64().unwrap_or_default());
        let word = |name: &str| bar[name].as_str().unwrap_or("?").to_owned();
        let met = if ratio >= least { "met" } else { "missed" };
        let _ = writeln!(page, "| {} | {} | {ratio:.2} | {least:.2} | {met} |", word("work"), word("beside"));
    }
    page.push('\n');
}

fn not_run(missing: &[String], page: &mut String) {
    page.push_str("## What was not run\n\n");
    for lane in missing {
        let _ = writeln!(page, "- {lane}.");
    }
    page.push_str(
        "- A machine that really loses its power, and disks that lie about it: the file system is real, the disk under it is a file.\n\
         - Short writes of a part of the bytes: Linux does not do them on what is allocated, and strace can only pretend them. A write of nothing is among the faults.\n\
         - File systems other than those named above.\n\n",
    );
}

/// What was found and mended, as it stands in a page of its own.
fn found(shell: &Shell, page: &mut String) -> Result<(), Stop> {
    let text =
        fs::read_to_string(shell.root().join(FOUND)).map_err(Stop::at(format!("cannot read {FOUND}")))?;
    let failures: Vec<&str> = text.lines().filter(|line| line.starts_with("- ")).collect();
    let _ = writeln!(
        page,
        "## What was found, and mended\n\n{} failures, from [found.md](found.md):\n",
        failures.len()
    );
    page.push_str(&failures.join("\n"));
    page.push('\n');
    Ok(())
}
