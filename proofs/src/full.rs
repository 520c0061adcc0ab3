//! A disk that is full, and has room again, under a store that is never opened anew.

use std::{io::Write, path::Path, sync::Arc};

use clap::Args;
use factum::{
    Append, Appended, Error, EventStore, EventStoreExt, NewEvent, Outcome, Read, Result, StreamName,
};
use factum_conformance::{Recorder, workload};
use factum_log::LogStore;
use tempfile::TempDir;

use crate::{
    Stop,
    ground::Ground,
    report::Report,
    verdict::{self, Remains},
    writer,
};

/// The size of the disks that are filled.
const GROUND_MEGABYTES: u64 = 24;
/// How often one of them is filled: the log grows each time.
const ROUNDS_OF_ONE: u64 = 10;
/// Bytes of an event; some hundred of them fill the last segment there is.
const EVENT_BYTES: usize = 2000;

/// How often.
#[derive(Args, Clone, Debug)]
pub(crate) struct Plan {
    /// How often each disk is full and has room again
    #[arg(long, default_value_t = 10)]
    rounds: u64,
    /// From which the clients' choices follow; a new one each time, and printed, if not given
    #[arg(long)]
    seed: Option<u64>,
}

/// What was done.
#[derive(Debug, Default)]
struct Tally {
    times_full: u64,
    refusals: u64,
    opened_while_full: u64,
    checked: verdict::Checked,
}

/// Fills a file system in memory, and where that may be mounted an ext4, too.
pub(crate) async fn run(plan: &Plan) -> Result<Report, Stop> {
    let seed = plan.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("seed {seed}");
    let mut tally = Tally::default();
    let mut grounds: Vec<&str> = Vec::new();
    let mut left = plan.rounds;
    while left > 0 {
        let rounds = left.min(ROUNDS_OF_ONE);
        for kind in one_of_each(rounds, seed.wrapping_add(left), &mut tally).await? {
            if !grounds.contains(&kind) {
                grounds.push(kind);
            }
        }
        left -= rounds;
    }
    let Tally { times_full, refusals, opened_while_full, checked } = tally;
    let report = Report::default().with("seed", seed).with("file_systems", grounds.join(", "));
    let report = report.with("times_full", times_full).with("appends_refused", refusals);
    Ok(checked.add_to(report.with("opened_while_full", opened_while_full)))
}

/// Fills one file system of each kind so often, and returns the kinds.
async fn one_of_each(rounds: u64, seed: u64, tally: &mut Tally) -> Result<Vec<&'static str>, Stop> {
    let mut grounds = Vec::new();
    for make in [Ground::memory, Ground::ext4] {
        let place = TempDir::new().map_err(Stop::at("there is no place for a log"))?;
        let ground = match make(place.path(), GROUND_MEGABYTES) {
            Ok(ground) => ground,
            // The first is enough; whoever is not root cannot have the second.
            Err(Stop::Skipped(_)) if !grounds.is_empty() => continue,
            Err(stop) => return Err(stop),
        };
        one_disk(rounds, seed, &ground, place.path(), tally)
            .await
            .map_err(|stop| Stop::Failed(format!("seed {seed}, on {}: {}", ground.kind(), stop.text())))?;
        grounds.push(ground.kind());
    }
    Ok(grounds)
}

async fn one_disk(
    rounds: u64,
    seed: u64,
    ground: &Ground,
    place: &Path,
    tally: &mut Tally,
) -> Result<(), Stop> {
    let remains = Remains { log: ground.path().join("log"), history: place.join("history") };
    let mut disk = Disk::open(&remains, seed).await?;
    for round in 0..rounds {
        disk.work(round * 2).await?;
        let ballast = Ballast::fill(ground.path())?;
        tally.refusals += disk.fill_up().await?;
        if round % 2 == 1 {
            // Whoever starts on a full disk can at least read.
            disk = disk.reopen(&remains).await?;
            tally.opened_while_full += 1;
        }
        disk.work(round * 2 + 1).await?;
        if disk.append().await.is_ok() {
            return Err(Stop::Failed("the disk is full, and yet there was room for an append".to_owned()));
        }
        tally.times_full += 1;
        drop(ballast);
        disk.append().await.map_err(Stop::at("there is room again, and yet an append fails"))?;
    }
    disk.close().await?;
    tally.checked += verdict::check(&remains).await?;
    Ok(())
}

/// A store on the disk that is filled.
struct Disk {
    store: LogStore,
    recorder: Recorder,
    seed: u64,
}

impl Disk {
    async fn open(remains: &Remains, seed: u64) -> Result<Self, Stop> {
        let store = writer::options(&remains.log).open().map_err(Stop::at("it does not open"))?;
        let recorder = Recorder::to_file(Arc::new(store.clone()), &remains.history).await;
        Ok(Self { store, recorder: recorder.map_err(Stop::at("nothing can be recorded"))?, seed })
    }

    async fn close(self) -> Result<(), Stop> {
        self.store.close().await.map_err(Stop::at("it cannot be closed"))
    }

    async fn reopen(self, remains: &Remains) -> Result<Self, Stop> {
        let seed = self.seed;
        // The manifest has no room, and closing tells so.
        let _ = self.store.close().await;
        drop(self);
        Self::open(remains, seed).await
    }

    /// Clients at work: what they append may be refused, what they read may not.
    async fn work(&self, part: u64) -> Result<(), Stop> {
        let options = workload::Options {
            seed: self.seed.wrapping_add(part),
            clients: 16,
            operations: 15,
            scans: false,
            ..Default::default()
        };
        workload::run(&self.recorder, &options).await.map_err(Stop::at("a reader failed"))?;
        let whole = self.recorder.read_to_end(Read::all()).await;
        whole.map(drop).map_err(Stop::at("the log cannot be read"))
    }

    async fn append(&self) -> Result<Appended> {
        let event = NewEvent::bytes("Ballast", vec![0; EVENT_BYTES])?;
        self.recorder.append(Append::to(StreamName::new("ballast-1")?, [event])).await
    }

    /// Appends until the disk is full, and then a little more. How many were refused.
    async fn fill_up(&self) -> Result<u64, Stop> {
        let mut refused = 0;
        for _ in 0..10_000 {
            match self.append().await {
                Ok(_) => refused = 0,
                Err(error @ Error::StorageFull { .. }) if error.outcome() == Outcome::No => refused += 1,
                Err(other) => {
                    return Err(Stop::Failed(format!("on a full disk, an append is told: {other}")));
                }
            }
            if refused == 10 {
                return Ok(refused);
            }
        }
        Err(Stop::Failed("the disk is full, and yet there is always room".to_owned()))
    }
}

/// What takes all the room there is, until it is dropped.
struct Ballast(std::path::PathBuf);

impl Ballast {
    #[allow(clippy::disallowed_methods, reason = "no data file")]
    fn fill(ground: &Path) -> Result<Self, Stop> {
        let path = ground.join("ballast");
        let mut file = std::fs::File::create(&path).map_err(Stop::at("the disk cannot be filled"))?;
        let ballast = Self(path);
        for bytes in [64 << 10, 4096, 1] {
            let some = vec![1; bytes];
            while file.write_all(&some).and_then(|()| file.sync_data()).is_ok() {}
        }
        Ok(ballast)
    }
}

impl Drop for Ballast {
    #[allow(clippy::disallowed_methods, reason = "no data file")]
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
