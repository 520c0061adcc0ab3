//! How factum grows: the same log at one size after another, each time as a process finds it that opens it after a kill.
//!
//! Filling, opening and looking up are processes of their own, so that memory is that of a process that just did this.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use factum::{Append, EventStore, NewEvent, Read, StreamName, Tags};
use factum_log::LogStore;
use serde::{Deserialize, Serialize};

use crate::{
    Arguments,
    machine::{Machine, Scratch, settle},
    measure::histogram,
    peer::{Failure, TYPES, broken, noise, stream_of, tag_of},
    report,
};

/// Events of a stream, and of an append while filling.
const EVENTS_EACH: u64 = 10;
const CHUNK: u64 = 500;
const LOADERS: u64 = 4;
/// Streams that are read.
const LOOKUPS: u64 = 5_000;
const EVENT_BYTES: usize = 256;

/// What a log of one size is like.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Size {
    /// Events in it; a tenth as many streams.
    pub events: u64,
    /// Events appended each second, over what came since the size before.
    pub append_rate: f64,
    /// Opening it after its writer was killed, in milliseconds.
    pub open_after_kill_ms: f64,
    /// Opening it after it was closed.
    pub open_ms: f64,
    /// Resident memory after opening, in MiB.
    pub open_mib: f64,
    /// The same after the look-ups.
    pub used_mib: f64,
    /// The most that a filling process had.
    pub filling_mib: f64,
    /// Loading a stream, in microseconds.
    pub load_p50_us: f64,
    /// The same, 99th percentile.
    pub load_p99_us: f64,
    /// Bytes of all files for each event of 256 bytes of data.
    pub disk_per_event: f64,
    /// The part of them that is index.
    pub index_per_event: f64,
}

/// All sizes of a run.
#[derive(Debug, Serialize, Deserialize)]
struct Growth {
    when: String,
    machine: Machine,
    sizes: Vec<Size>,
}

/// Measures the sizes, in millions of events, and keeps the figures.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let beside = std::env::current_exe().map_err(broken)?.with_file_name("bench-data");
    let scratch = Scratch::make(arguments.dir.as_deref().unwrap_or(&beside))?;
    scratch.remove_on_interrupt()?;
    let machine = Machine::look(scratch.path())?;
    let mut sizes: Vec<u64> = arguments.growth.iter().map(|millions| millions * 1_000_000).collect();
    sizes.sort_unstable();
    println!("{}", header());
    let (mut all, mut before) = (Vec::new(), 0);
    for events in sizes {
        let size = measure(scratch.path(), before, events)?;
        println!("{}", line(&size));
        all.push(size);
        before = events;
    }
    let when = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("results/growth.json");
    let text = serde_json::to_string_pretty(&Growth { when, machine, sizes: all }).map_err(broken)?;
    fs::write(&path, text).map_err(broken)
}

fn header() -> String {
    format!(
        "{:>8} {:>11} {:>14} {:>9} {:>10} {:>10} {:>11} {:>10} {:>10} {:>9} {:>9}",
        "events",
        "append/s",
        "open (killed)",
        "(closed)",
        "MiB open",
        "after use",
        "MiB filling",
        "load p50",
        "p99",
        "B/event",
        "of index"
    )
}

fn line(size: &Size) -> String {
    format!(
        "{:>8} {:>11} {:>11.0} ms {:>6.0} ms {:>10.0} {:>10.0} {:>11.0} {:>10} {:>10} {:>9.0} {:>9.0}",
        report::number(size.events as f64),
        report::number(size.append_rate),
        size.open_after_kill_ms,
        size.open_ms,
        size.open_mib,
        size.used_mib,
        size.filling_mib,
        report::time(size.load_p50_us),
        report::time(size.load_p99_us),
        size.disk_per_event,
        size.index_per_event,
    )
}

fn measure(directory: &Path, before: u64, events: u64) -> Result<Size, Failure> {
    let mut size: Size = child(directory, &["fill", &before.to_string(), &events.to_string()], false)?;
    settle(directory);
    // Somebody who writes is killed in the middle of it.
    let _: Size = child(directory, &["write", &events.to_string(), "0"], true)?;
    let killed: Size = child(directory, &["look", &events.to_string(), "0"], false)?;
    let closed: Size = child(directory, &["look", &events.to_string(), "0"], false)?;
    size.open_after_kill_ms = killed.open_ms;
    let (disk, index) = bytes_of(directory)?;
    Ok(Size {
        events,
        append_rate: size.append_rate,
        filling_mib: size.filling_mib,
        open_after_kill_ms: killed.open_ms,
        disk_per_event: disk as f64 / events as f64,
        index_per_event: index as f64 / events as f64,
        ..closed
    })
}

/// Runs a part of it in a process of its own, which tells what it found in a line; or says that it is at work, and is killed.
fn child(directory: &Path, part: &[&str], kill: bool) -> Result<Size, Failure> {
    let program = std::env::current_exe().map_err(broken)?;
    let mut child: Child = Command::new(program)
        .arg("--growth-part")
        .args([directory.to_str().unwrap_or_default()])
        .args(part)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(broken)?;
    let mut text = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut text).map_err(broken)?;
    }
    if kill {
        thread::sleep(Duration::from_millis(300));
        child.kill().map_err(broken)?;
        child.wait().map_err(broken)?;
        return Ok(Size::default());
    }
    let status = child.wait().map_err(broken)?;
    if !status.success() {
        return Err(broken(format!("a part of the growth run failed: {status}")));
    }
    serde_json::from_str(&text).map_err(broken)
}

/// A part, in a process of its own: what is asked for is `DIR fill FROM TO`, `DIR write FROM 0` or `DIR look EVENTS 0`.
pub fn part(asked: &[String]) -> Result<(), Failure> {
    let [directory, what, one, other] = asked else { return Err(broken("a part of what?")) };
    let (one, other): (u64, u64) = (one.parse().map_err(broken)?, other.parse().map_err(broken)?);
    let began = Instant::now();
    let store = LogStore::open(directory).map_err(broken)?;
    let mut size =
        Size { open_ms: began.elapsed().as_secs_f64() * 1e3, open_mib: resident()?.0, ..Size::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(broken)?;
    match what.as_str() {
        "fill" => {
            let began = Instant::now();
            fill(&store, one, other)?;
            size.append_rate = (other - one) as f64 / began.elapsed().as_secs_f64();
            size.filling_mib = resident()?.1;
        }
        "write" => {
            println!("writing");
            for number in 0.. {
                pollster::block_on(store.append(append(one + number * CHUNK, CHUNK)?)).map_err(broken)?;
            }
        }
        _ => runtime.block_on(look(&store, one, &mut size))?,
    }
    runtime.block_on(store.close()).map_err(broken)?;
    println!("{}", serde_json::to_string(&size).map_err(broken)?);
    Ok(())
}

/// So many events, beginning with the event of this number: each of another stream.
fn append(first: u64, events: u64) -> Result<Append, Failure> {
    let mut append = Append::new();
    for number in first..first + events {
        // The streams of a million events are written in turn.
        let stream = number / 1_000_000 * 100_000 + number % 100_000;
        let start = (number as usize * 61) % (noise().len() - EVENT_BYTES);
        let data = bytes::Bytes::copy_from_slice(&noise()[start..][..EVENT_BYTES]);
        let event = NewEvent::bytes(TYPES[number as usize % TYPES.len()], data).map_err(broken)?;
        let event = event.with_tags(Tags::new([tag_of(stream)]).map_err(broken)?);
        append = append.write(StreamName::new(stream_of(stream)).map_err(broken)?, [event]);
    }
    Ok(append)
}

fn fill(store: &LogStore, from: u64, to: u64) -> Result<(), Failure> {
    let next = AtomicU64::new(from);
    let loader = || {
        loop {
            let first = next.fetch_add(CHUNK, Ordering::Relaxed);
            if first >= to {
                return Ok::<_, Failure>(());
            }
            pollster::block_on(store.append(append(first, CHUNK.min(to - first))?)).map_err(broken)?;
        }
    };
    thread::scope(|scope| {
        let loaders: Vec<_> = (0..LOADERS).map(|_| scope.spawn(loader)).collect();
        loaders.into_iter().try_for_each(|loader| loader.join().map_err(|_| broken("a loader panicked"))?)
    })
}

async fn look(store: &LogStore, events: u64, size: &mut Size) -> Result<(), Failure> {
    let mut random = fastrand::Rng::with_seed(events);
    let mut latencies = histogram();
    for _ in 0..LOOKUPS {
        let stream = StreamName::new(stream_of(random.u64(..events / EVENTS_EACH))).map_err(broken)?;
        let began = Instant::now();
        let page = store.read(Read::stream(stream).limit(100)).await.map_err(broken)?;
        latencies.saturating_record(began.elapsed().as_nanos() as u64);
        if (page.events.len() as u64) < EVENTS_EACH {
            return Err(broken(format!("a stream of {EVENTS_EACH} events has {}", page.events.len())));
        }
    }
    size.used_mib = resident()?.0;
    size.load_p50_us = latencies.value_at_quantile(0.5) as f64 / 1e3;
    size.load_p99_us = latencies.value_at_quantile(0.99) as f64 / 1e3;
    Ok(())
}

/// Resident memory of this process in MiB, and the most it ever was.
fn resident() -> Result<(f64, f64), Failure> {
    let status = fs::read_to_string("/proc/self/status").map_err(broken)?;
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok()).unwrap_or_default()
            / 1024.0
    };
    Ok((of("VmRSS:"), of("VmHWM:")))
}

/// Bytes of the files of a log that are in use, and of those the index's. A segment counts as long as it is.
fn bytes_of(directory: &Path) -> Result<(u64, u64), Failure> {
    let (mut all, mut index) = (0, 0);
    for entry in fs::read_dir(directory).map_err(broken)?.flatten() {
        let bytes = entry.metadata().map_err(broken)?.len();
        let name = entry.file_name();
        if name.to_string_lossy().ends_with(".new") {
            continue;
        }
        all += bytes;
        if name.to_string_lossy().ends_with(".run") {
            index += bytes;
        }
    }
    Ok((all, index))
}
