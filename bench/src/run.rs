//! A run: round after round, each workload with each store, one after another.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    Arguments, limit,
    machine::{Machine, Scratch, settle},
    measure::{Sample, of_replay, wait_for_calm},
    page,
    peer::{Failure, Peer, broken},
    peers, report,
    results::{CALM, Record, Results, Work},
    workloads::{self, Scale, Workload},
};

/// Does what was asked for.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (peers, works) = (chosen_peers(arguments)?, chosen_workloads(arguments)?);
    let mut out = own_stdout()?;
    if arguments.list {
        for work in &works {
            let _ = writeln!(out, "{:<28} {}", work.id(), work.about());
        }
        for peer in &peers {
            let _ = writeln!(out, "{:<28} {}", peer.name(), peer.about());
        }
        return Ok(());
    }
    if !arguments.from.is_empty() {
        let results = together(&arguments.from)?;
        let _ = write!(out, "{}", report::text(&results));
        return sum_up(&results);
    }
    let scratch = Scratch::make(&arguments.dir.clone().unwrap_or_else(beside_the_program))?;
    scratch.remove_on_interrupt()?;
    let machine = Machine::look(scratch.path())?;
    if machine.is_memory() {
        let path = scratch.path().display();
        return Err(broken(format!(
            "{path} is on {}, where a sync means nothing; give a --dir on a disk",
            machine.file_system
        )));
    }
    let mut results = Results {
        when: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
        asked: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        seed: arguments.seed,
        seconds: arguments.time().as_secs_f64(),
        machine,
        peers: peers.iter().map(|peer| (peer.name().to_owned(), peer.about().to_owned())).collect(),
        works: works
            .iter()
            .map(|w| Work { id: w.id(), about: w.about(), unit: w.unit().to_owned() })
            .collect(),
        records: Vec::new(),
    };
    eprintln!("seed {}; files in {}", arguments.seed, scratch.path().display());
    let began = Instant::now();
    for work in &works {
        for round in 0..arguments.rounds() {
            wait_for_calm(CALM, Duration::from_secs(arguments.calm));
            measure_round(&mut results, work.as_ref(), &peers, round, arguments, scratch.path())?;
        }
    }
    let _ = write!(out, "{}", report::text(&results));
    let kept = keep(&results)?;
    let _ = writeln!(
        out,
        "\n{:.0} s; raw figures in {}, a page with plots beside them",
        began.elapsed().as_secs_f64(),
        kept.display()
    );
    Ok(())
}

/// What bare loops made of the same writes.
type Limits = Vec<(&'static str, Sample)>;

/// One workload with each store in turn; each round begins with another one.
fn measure_round(
    results: &mut Results,
    work: &dyn Workload,
    peers: &[Box<dyn Peer>],
    round: usize,
    arguments: &Arguments,
    scratch: &Path,
) -> Result<(), Failure> {
    eprint!("{} round {}:", work.id(), round + 1);
    let scale =
        Scale { time: arguments.time(), warm_up: arguments.time() / 4, seed: arguments.seed + round as u64 };
    for turn in 0..peers.len() {
        let peer = peers[(turn + round) % peers.len()].as_ref();
        if let Some(why) = work.cannot(peer) {
            let record = |why: &str| Record {
                workload: work.id(),
                peer: peer.name().to_owned(),
                round,
                outcome: Err(why.to_owned()),
            };
            results.records.push(record(why));
            continue;
        }
        let measured = directory_for(work, peer, scratch)
            .and_then(|directory| measure(work, peer, scale, &directory, !arguments.no_limit));
        let _ = fs::remove_dir_all(scratch.join("store"));
        settle(scratch);
        let (outcome, limits) = match measured {
            Ok((sample, limits)) => (Ok(sample), limits),
            Err(error) => (Err(error.to_string()), Vec::new()),
        };
        eprint!("  {}", report::progress(peer.name(), "", &outcome));
        let record =
            |peer: &str, outcome| Record { workload: work.id(), peer: peer.to_owned(), round, outcome };
        results.records.push(record(peer.name(), outcome));
        for (name, sample) in limits {
            results.records.push(record(name, Ok(sample)));
        }
    }
    eprintln!();
    Ok(())
}

/// An empty directory, or the one with the events that the work needs, which is filled at the first time.
fn directory_for(work: &dyn Workload, peer: &dyn Peer, scratch: &Path) -> Result<PathBuf, Failure> {
    let Some(entities) = work.entities() else {
        let directory = scratch.join("store");
        fs::create_dir(&directory).map_err(broken)?;
        return Ok(directory);
    };
    let directory = scratch.join(format!("{}-{entities}", peer.name()));
    if !directory.exists() {
        eprint!("  ({} is loaded", peer.name());
        fs::create_dir(&directory).map_err(broken)?;
        let began = Instant::now();
        let store = peer.open(&directory)?;
        let loaded = workloads::data::load(&store, entities).and_then(|()| store.close());
        eprint!(" in {:.1} s)", began.elapsed().as_secs_f64());
        loaded?;
    }
    Ok(directory)
}

/// Opens a store, does the work, and, where it left a trace, does the writes again in a bare loop.
fn measure(
    work: &dyn Workload,
    peer: &dyn Peer,
    scale: Scale,
    directory: &Path,
    limits: bool,
) -> Result<(Sample, Limits), Failure> {
    let began = Instant::now();
    let store = peer.open(directory)?;
    let open_ms = began.elapsed().as_secs_f64() * 1e3;
    let measured = work.run(&store, scale, directory);
    let trace = store.trace().filter(|_| limits && work.has_limit());
    let closed = store.close();
    drop(store);
    let (mut sample, events) = measured?;
    closed?;
    sample.open_ms = open_ms;
    let Some(trace) = trace else { return Ok((sample, Vec::new())) };
    settle(directory);
    let replayed = limit::replay(&trace, directory, false).map_err(broken)?;
    let zeros = limit::replay(&trace, directory, true).map_err(broken)?;
    sample.syncs = Some((replayed.syncs as f64 * sample.done as f64 / events as f64) as u64);
    Ok((sample, vec![("limit", of_replay(&replayed, events)?), ("limit-zeros", of_replay(&zeros, events)?)]))
}

fn chosen_peers(arguments: &Arguments) -> Result<Vec<Box<dyn Peer>>, Failure> {
    let mut all = peers::all();
    if let Some(unknown) = arguments.peers.iter().find(|name| !all.iter().any(|peer| peer.name() == *name)) {
        let names: Vec<_> = all.iter().map(|peer| peer.name()).collect();
        return Err(broken(format!("there is no store `{unknown}`; there are {}", names.join(", "))));
    }
    let everything = arguments.full || arguments.list;
    all.retain(|peer| match arguments.peers.is_empty() {
        true => everything || !peer.is_extra(),
        false => arguments.peers.iter().any(|name| peer.name() == name),
    });
    Ok(all)
}

fn chosen_workloads(arguments: &Arguments) -> Result<Vec<Box<dyn Workload>>, Failure> {
    let mut all = workloads::all();
    let named = !arguments.only.is_empty();
    let large = arguments.only.iter().any(|part| part.contains("10M"));
    all.retain(|work| match named {
        true => {
            let asked_for = arguments.only.iter().any(|part| work.id().contains(part.as_str()));
            asked_for && (large || !work.id().contains("10M"))
        }
        false => arguments.list || work.is_quick() || (arguments.full && !work.id().contains("10M")),
    });
    if all.is_empty() {
        let asked = arguments.only.join(", ");
        return Err(broken(format!("no workload is called anything like {asked}; --list names them all")));
    }
    Ok(all)
}

fn beside_the_program() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.parent().unwrap_or(Path::new(".")).join("bench-data")
}

/// Keeps standard output for the report alone: some of the stores print to it.
fn own_stdout() -> Result<fs::File, Failure> {
    let own = rustix::io::dup(std::io::stdout()).map_err(broken)?;
    let nowhere = fs::OpenOptions::new().write(true).open("/dev/null").map_err(broken)?;
    rustix::stdio::dup2_stdout(&nowhere).map_err(broken)?;
    Ok(fs::File::from(own))
}

/// Takes several runs as one: the machine and the stores are those of the first.
fn together(files: &[PathBuf]) -> Result<Results, Failure> {
    let mut runs = Vec::new();
    for file in files {
        let why = |error: &dyn std::fmt::Display| broken(format!("{}: {error}", file.display()));
        let json = fs::read(file).map_err(|error| why(&error))?;
        runs.push(serde_json::from_slice::<Results>(&json).map_err(|error| why(&error))?);
    }
    let mut all = runs.remove(0);
    for run in runs {
        all.works.extend(run.works);
        all.records.extend(run.records);
        all.asked = format!("{}; {}", all.asked, run.asked);
    }
    Ok(all)
}

/// Writes the middles and the verdicts down, and the page.
fn sum_up(results: &Results) -> Result<(), Failure> {
    let summaries: Vec<_> = results.works.iter().flat_map(|work| results.summaries(&work.id)).collect();
    let summary = serde_json::json!({
        "when": results.when, "asked": results.asked, "seed": results.seed, "seconds": results.seconds,
        "machine": results.machine, "bars": crate::bars::judge(results), "middles": summaries,
    });
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    fs::create_dir_all(&directory).map_err(broken)?;
    fs::write(directory.join("latest.html"), page::html(results)).map_err(broken)?;
    let json = serde_json::to_vec_pretty(&summary).map_err(broken)?;
    fs::write(directory.join("summary.json"), json).map_err(broken)
}

/// Writes the raw figures down.
fn keep(results: &Results) -> Result<PathBuf, Failure> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    fs::create_dir_all(&directory).map_err(broken)?;
    fs::write(directory.join("latest.html"), page::html(results)).map_err(broken)?;
    let path = directory.join("latest.json");
    let json = serde_json::to_vec_pretty(results).map_err(broken)?;
    fs::write(&path, &json).map_err(broken)?;
    let dated = results.when.replace([' ', ':'], "-");
    fs::write(directory.join(format!("{dated}.json")), &json).map_err(broken)?;
    Ok(path)
}
