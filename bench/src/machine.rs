//! The machine: what it is, and where the stores are put.

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Instant,
};

use serde::{Deserialize, Serialize};

use crate::{
    measure::median,
    peer::{Failure, broken},
};

/// What the figures were taken on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many of them.
    pub cores: usize,
    /// The kernel's version.
    pub kernel: String,
    /// Type and source of the file system that the stores are on.
    pub file_system: String,
    /// How long a write of 4 KiB and its sync take here, in microseconds: the middle of 200.
    pub sync_us: f64,
    /// How many processes wanted a processor when the run began.
    pub load: String,
    /// The commit of factum that was measured.
    pub commit: String,
}

impl Machine {
    /// Looks at the machine, and at the file system of a directory.
    pub fn look(directory: &Path) -> Result<Self, Failure> {
        let first = |path: &str, key: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or("unknown");
            line.rsplit(": ").next().unwrap_or(line).trim().to_owned()
        };
        let mut commit = command("git", &["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--short", "HEAD"]);
        if !command("git", &["-C", env!("CARGO_MANIFEST_DIR"), "status", "--porcelain", "../crates"])
            .is_empty()
        {
            commit.push_str(" and uncommitted changes");
        }
        Ok(Self {
            processor: first("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: first("/proc/sys/kernel/osrelease", ""),
            file_system: file_system_of(directory)?,
            sync_us: sync_time(directory)?,
            load: first("/proc/loadavg", ""),
            commit,
        })
    }

    /// Whether a sync there means nothing.
    pub fn is_memory(&self) -> bool {
        self.file_system.starts_with("tmpfs") || self.file_system.starts_with("ramfs")
    }
}

fn command(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// The file system that holds a directory: the longest mount point that leads to it.
fn file_system_of(directory: &Path) -> Result<String, Failure> {
    let directory = directory.canonicalize().map_err(broken)?;
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(broken)?;
    let mut best = (0, String::from("unknown"));
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(source), Some(at), Some(kind), Some(options)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        if directory.starts_with(at) && at.len() >= best.0 {
            best = (at.len(), format!("{kind} on {source} ({options})"));
        }
    }
    Ok(best.1)
}

fn sync_time(directory: &Path) -> Result<f64, Failure> {
    let path = directory.join("sync-time");
    let file = fs::File::create_new(&path).map_err(broken)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).map_err(broken)?;
    file.sync_all().map_err(broken)?;
    let mut times = Vec::new();
    for turn in 0..200 {
        let began = Instant::now();
        file.write_all_at(&crate::peer::noise()[..4096], turn * 4096).map_err(broken)?;
        file.sync_data().map_err(broken)?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    fs::remove_file(&path).map_err(broken)?;
    median(times).ok_or_else(|| broken("no sync was timed"))
}

/// A directory that is gone when the run is, however it ends.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes it, below `parent`, and removes what runs left there that were killed.
    pub fn make(parent: &Path) -> Result<Self, Failure> {
        let why =
            |error| broken(format!("{} cannot be used ({error}); give another --dir", parent.display()));
        fs::create_dir_all(parent).map_err(why)?;
        for entry in fs::read_dir(parent).map_err(why)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let process = name.strip_prefix("run-").and_then(|process| process.parse::<u32>().ok());
            if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let path = parent.join(format!("run-{}", std::process::id()));
        fs::create_dir(&path).map_err(why)?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it and ends the process when it is told to stop.
    pub fn remove_on_interrupt(&self) -> Result<(), Failure> {
        let path = self.path.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken)?;
        std::thread::spawn(move || {
            runtime.block_on(async {
                let terminated = async {
                    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
                        Ok(mut signal) => signal.recv().await,
                        Err(_) => std::future::pending().await,
                    }
                };
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminated => {}
                }
            });
            // Writers may still be making files.
            for _ in 0..100 {
                let _ = fs::remove_dir_all(&path);
                if !path.exists() {
                    break;
                }
            }
            eprintln!("\nstopped; {} is removed", path.display());
            std::process::exit(130);
        });
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Waits until what was written and removed has gone to the disk, so that one store does not pay for another.
pub fn settle(directory: &Path) {
    if let Ok(directory) = fs::File::open(directory) {
        let _ = rustix::fs::syncfs(&directory);
    }
}

/// Drops what the page cache holds of a store's files.
pub fn forget(directory: &Path) -> Result<(), Failure> {
    for entry in fs::read_dir(directory).map_err(broken)?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            forget(&path)?;
        } else if let Ok(file) = fs::File::open(&path) {
            let _ = file.sync_all();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).map_err(broken)?;
        }
    }
    Ok(())
}
