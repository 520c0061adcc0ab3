//! The limit: the writes and syncs of a measured run, done again by a bare loop that does nothing else.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use factum_log::disk::{Directory, Disk, DiskFile, Ownership};

use hdrhistogram::Histogram;

use crate::{
    measure::{Meter, histogram},
    peer::noise,
};

/// One thing done to the disk.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A file was made with so many bytes.
    Create { bytes: u64 },
    /// So many bytes were written at an offset.
    Write { file: u32, bytes: usize, offset: u64 },
    /// A file was synced.
    Sync { file: u32 },
}

/// Everything done to the disk, in order.
pub type Trace = Vec<Step>;

/// A directory that takes down what is done to it.
#[derive(Clone, Debug)]
pub struct Traced {
    disk: Directory,
    steps: Arc<Mutex<Trace>>,
    files: Arc<Mutex<u32>>,
}

#[derive(Debug)]
struct TracedFile {
    file: Arc<dyn DiskFile>,
    number: u32,
    steps: Arc<Mutex<Trace>>,
}

impl Traced {
    /// An existing directory.
    pub fn at(path: &Path) -> Self {
        Self { disk: Directory::at(path), steps: Arc::default(), files: Arc::default() }
    }

    /// What was done so far.
    pub fn trace(&self) -> Trace {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wrap(&self, file: Arc<dyn DiskFile>, bytes: u64) -> Arc<dyn DiskFile> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let number = *files;
        *files += 1;
        push(&self.steps, Step::Create { bytes });
        Arc::new(TracedFile { file, number, steps: self.steps.clone() })
    }
}

fn push(steps: &Mutex<Trace>, step: Step) {
    steps.lock().unwrap_or_else(PoisonError::into_inner).push(step);
}

impl Disk for Traced {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(self.disk.create(name, bytes)?, bytes))
    }
    fn reserve(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(self.disk.reserve(name, bytes)?, bytes))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(name)?;
        let bytes = file.bytes()?;
        Ok(self.wrap(file, bytes))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_names()
    }
    fn lock(&self) -> io::Result<Box<dyn Ownership>> {
        self.disk.lock()
    }
    fn path_of(&self, name: &str) -> String {
        self.disk.path_of(name)
    }
}

impl DiskFile for TracedFile {
    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        push(&self.steps, Step::Write { file: self.number, bytes: bytes.len(), offset });
        self.file.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        push(&self.steps, Step::Sync { file: self.number });
        self.file.sync()
    }
}

/// What doing a trace again came to.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// How long it took, the making of files not counted.
    pub elapsed: Duration,
    /// How many syncs it did.
    pub syncs: u64,
    /// How many bytes it wrote.
    pub bytes: u64,
    /// How long each write took together with its sync, in nanoseconds.
    pub batches: Histogram<u64>,
    /// How many processors other programs kept busy meanwhile.
    pub others: f64,
}

/// Does a trace again, in files of the same size made in the same way, with one thread and nothing else to do.
///
/// With `zeros`, the files are filled with zeros first: a sync then has no allocated block to mark as written.
pub fn replay(trace: &[Step], directory: &Path, zeros: bool) -> io::Result<Replayed> {
    let disk = Directory::at(directory);
    let mut files: Vec<Arc<dyn DiskFile>> = Vec::new();
    for step in trace {
        if let Step::Create { bytes } = step {
            let file = disk.create(&format!("replay-{zeros}-{}", files.len()), *bytes)?;
            let nothing = vec![0; if zeros { 1 << 20 } else { 0 }];
            for offset in (0..*bytes).step_by(1 << 20).filter(|_| zeros) {
                file.write_at(
                    &nothing[..usize::try_from(*bytes - offset).unwrap_or(0).min(1 << 20)],
                    offset,
                )?;
            }
            file.sync()?;
            files.push(file);
        }
    }
    let mut done =
        Replayed { elapsed: Duration::ZERO, syncs: 0, bytes: 0, batches: histogram(), others: 0.0 };
    let meter = Meter::read();
    let (began, mut batch) = (Instant::now(), Instant::now());
    for step in trace {
        match *step {
            Step::Create { .. } => {}
            Step::Write { file, bytes, mut offset } => {
                done.bytes += bytes as u64;
                let mut left = bytes;
                while left > 0 {
                    let some = left.min(noise().len());
                    files[file as usize].write_at(&noise()[..some], offset)?;
                    (left, offset) = (left - some, offset + some as u64);
                }
            }
            Step::Sync { file } => {
                done.syncs += 1;
                files[file as usize].sync()?;
                done.batches.saturating_record(batch.elapsed().as_nanos() as u64);
                batch = Instant::now();
            }
        }
    }
    done.elapsed = began.elapsed();
    done.others = meter.sample(1, &histogram()).others;
    Ok(done)
}
