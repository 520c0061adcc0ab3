//! A disk in memory, as unkind as the promises of a real one allow.
//!
//! - Contents become durable by 512-byte sectors. At a power cut, each sector written since the file's last sync is as any one
//!   of those writes left it, or as it was before, each for itself.
//! - Names become durable by a sync of the directory. At a power cut, each change since then happened or did not.
//! - A failed sync leaves the page cache believing that everything is written, and the disk without it.
//! - A lying disk acknowledges a sync and does nothing.
//! - When the process is killed, the page cache stays. When the power is cut, it goes.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fastrand::Rng;

use crate::disk::{Disk, DiskFile, Ownership};

const SECTOR: usize = 512;

/// How a crash happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process is gone; what it wrote is in the page cache.
    Kill,
    /// The machine is gone, and the page cache with it.
    PowerCut,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}

#[derive(Default)]
struct State {
    rng: Rng,
    files: HashMap<u64, Contents>,
    next_file: u64,
    /// The names as the process sees them, and as the disk has them.
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Changes of names since the last sync of the directory, in order. Those of one operation happen together.
    name_changes: Vec<Vec<NameChange>>,
    owner: Option<u64>,
    owners: u64,
    /// How many operations go well until the process crashes in the middle of one.
    crash_in: Option<u64>,
    crashed: bool,
    /// The chance, in 1/256, that a sync fails or lies.
    failing_syncs: u8,
    lying_syncs: u8,
    /// How many bytes files may take together.
    room: u64,
    operations: u64,
    /// The syncs of files whose names end so are left out.
    unsynced: Option<&'static str>,
    /// What others do while the next sync is on its way.
    meanwhile: Option<Meanwhile>,
}

type Meanwhile = Box<dyn FnOnce() + Send>;

/// A name, and the file that it is given; `None`: it is taken away.
type NameChange = (String, Option<u64>);

#[derive(Clone, Default)]
struct Contents {
    cache: Vec<u8>,
    durable: Vec<u8>,
    /// What was written to each sector since it was last durable, in order.
    dirty: BTreeMap<usize, Vec<[u8; SECTOR]>>,
}

impl SimDisk {
    /// An empty disk, whose misfortunes follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State { rng: Rng::with_seed(seed), room: u64::MAX, ..State::default() })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `operations` go well, then crashes in the middle of the next one.
    pub fn crash_after(&self, operations: u64) {
        self.state().crash_in = Some(operations);
    }

    /// Whether the crash has happened.
    pub fn has_crashed(&self) -> bool {
        self.state().crashed
    }

    /// Operations that changed something so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The chances, in 1/256, that a sync fails, and that it lies.
    pub fn syncs(&self, failing: u8, lying: u8) {
        let mut state = self.state();
        (state.failing_syncs, state.lying_syncs) = (failing, lying);
    }

    /// Leaves out the syncs of files whose names end so, as an engine would that forgets them.
    pub fn leave_unsynced(&self, ending: &'static str) {
        self.state().unsynced = Some(ending);
    }

    /// How many bytes all files may take together.
    pub fn room(&self, bytes: u64) {
        self.state().room = bytes;
    }

    /// Ends the process, if it has not crashed yet, and begins the next one's life.
    pub fn restart(&self, crash: Crash) {
        self.nothing_meanwhile();
        let mut state = self.state();
        state.owner = None;
        state.crash_in = None;
        state.crashed = false;
        if crash == Crash::PowerCut {
            state.cut_power();
        }
    }

    /// Has this done by others while the next sync of a file is on its way.
    pub fn meanwhile(&self, work: impl FnOnce() + Send + 'static) {
        self.state().meanwhile = Some(Box::new(work));
    }

    /// Forgets what others were to do, if no sync came.
    pub fn nothing_meanwhile(&self) {
        // Dropped without the lock: it may hold the log, whose end needs this disk.
        let never_came = self.state().meanwhile.take();
        drop(never_came);
    }

    /// Forgets the crash that was planned.
    pub fn crash_no_more(&self) {
        self.state().crash_in = None;
    }

    /// Flips a bit of what is durable in a file, as a failing medium would. `false` if there is no such byte.
    pub fn rot(&self, name: &str, offset: u64, bit: u8) -> bool {
        let mut state = self.state();
        let Some(&file) = state.names.get(name) else { return false };
        let Some(contents) = state.files.get_mut(&file) else { return false };
        let Ok(offset) = usize::try_from(offset) else { return false };
        for bytes in [&mut contents.cache, &mut contents.durable] {
            match bytes.get_mut(offset) {
                Some(byte) => *byte ^= 1 << (bit % 8),
                None => return false,
            }
        }
        true
    }

    /// The names of all files as a process sees them.
    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// Gives a file other bytes, durably, as if it had been overwritten or cut from outside.
    pub fn set_contents(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.state();
        let Some(&file) = state.names.get(name) else { return };
        if let Some(contents) = state.files.get_mut(&file) {
            *contents = Contents { cache: bytes.clone(), durable: bytes, dirty: BTreeMap::new() };
        }
    }

    /// The bytes of a file as a process sees them.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let file = state.names.get(name)?;
        state.files.get(file).map(|contents| contents.cache.clone())
    }

    /// A disk in the same state, with no owner, whose misfortunes from now on follow from `seed`.
    #[must_use]
    pub fn copy(&self, seed: u64) -> Self {
        let state = self.state();
        let files = state.files.clone();
        let copied = State {
            rng: Rng::with_seed(seed),
            files,
            next_file: state.next_file,
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            name_changes: state.name_changes.clone(),
            room: u64::MAX,
            ..State::default()
        };
        Self(Arc::new(Mutex::new(copied)))
    }
}

impl State {
    /// Counts an operation that changes something. `Ok(true)` if the process crashes in its middle.
    fn begin(&mut self) -> io::Result<bool> {
        self.check()?;
        self.operations += 1;
        match &mut self.crash_in {
            Some(0) => {
                self.crashed = true;
                Ok(true)
            }
            Some(left) => {
                *left -= 1;
                Ok(false)
            }
            None => Ok(false),
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.crashed { Err(crashed()) } else { Ok(()) }
    }

    fn change_names(&mut self, changes: Vec<NameChange>) {
        apply(&mut self.names, &changes);
        self.name_changes.push(changes);
    }

    fn sync_names(&mut self) {
        self.durable_names = self.names.clone();
        self.name_changes.clear();
    }

    fn cut_power(&mut self) {
        let Self { rng, files, durable_names, name_changes, .. } = self;
        for changes in name_changes.drain(..) {
            if rng.bool() {
                apply(durable_names, &changes);
            }
        }
        self.names = self.durable_names.clone();
        // In the order of their numbers: the same seed must bring the same misfortune.
        let mut numbers: Vec<u64> = files.keys().copied().collect();
        numbers.sort_unstable();
        let named: Vec<u64> = self.names.values().copied().collect();
        for number in numbers {
            match files.get_mut(&number) {
                Some(contents) if named.contains(&number) => contents.cut_power(rng),
                _ => drop(files.remove(&number)),
            }
        }
    }

    fn used(&self) -> u64 {
        self.names
            .values()
            .filter_map(|file| self.files.get(file))
            .map(|contents| contents.cache.len() as u64)
            .sum()
    }
}

impl Contents {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if self.cache.len() < end {
            self.cache.resize(end.next_multiple_of(SECTOR), 0);
        }
        self.cache[offset..end].copy_from_slice(bytes);
        for sector in offset / SECTOR..=(end - 1) / SECTOR {
            let written = sector_of(&self.cache, sector);
            self.dirty.entry(sector).or_default().push(written);
        }
    }

    fn cut_power(&mut self, rng: &mut Rng) {
        self.lose(rng);
        self.cache = self.durable.clone();
    }

    fn lose(&mut self, rng: &mut Rng) {
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            // Any version, or none.
            let survivor = rng.usize(0..=versions.len());
            if let Some(version) = versions.get(survivor) {
                self.set_durable(sector, version);
            }
        }
    }

    fn sync(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            if let Some(version) = versions.last() {
                self.set_durable(sector, version);
            }
        }
    }

    fn set_durable(&mut self, sector: usize, bytes: &[u8; SECTOR]) {
        let start = sector * SECTOR;
        if self.durable.len() < start + SECTOR {
            self.durable.resize(start + SECTOR, 0);
        }
        self.durable[start..start + SECTOR].copy_from_slice(bytes);
    }
}

fn apply(names: &mut BTreeMap<String, u64>, changes: &[NameChange]) {
    for (name, file) in changes {
        match file {
            Some(file) => names.insert(name.clone(), *file),
            None => names.remove(name),
        };
    }
}

fn sector_of(bytes: &[u8], sector: usize) -> [u8; SECTOR] {
    let mut out = [0; SECTOR];
    let start = sector * SECTOR;
    let end = bytes.len().min(start + SECTOR);
    out[..end - start].copy_from_slice(&bytes[start..end]);
    out
}

fn crashed() -> io::Error {
    io::Error::other("the process has crashed")
}

fn no_such_file(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        state.check()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        let crash = state.begin()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.used() + bytes > state.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if crash && state.rng.bool() {
            return Err(crashed());
        }
        state.next_file += 1;
        let number = state.next_file;
        let length = usize::try_from(bytes).unwrap_or(usize::MAX).next_multiple_of(SECTOR);
        let contents = Contents { cache: vec![0; length], durable: vec![0; length], dirty: BTreeMap::new() };
        state.files.insert(number, contents);
        state.change_names(vec![(name.to_owned(), Some(number))]);
        if crash { Err(crashed()) } else { Ok(Arc::new(SimFile { disk: self.clone(), number })) }
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        state.check()?;
        let number = *state.names.get(name).ok_or_else(|| no_such_file(name))?;
        Ok(Arc::new(SimFile { disk: self.clone(), number }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let crash = state.begin()?;
        if crash && state.rng.bool() {
            return Err(crashed());
        }
        let number = *state.names.get(from).ok_or_else(|| no_such_file(from))?;
        state.change_names(vec![(to.to_owned(), Some(number)), (from.to_owned(), None)]);
        if crash { Err(crashed()) } else { Ok(()) }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.begin()? {
            return Err(crashed());
        }
        state.change_names(vec![(name.to_owned(), None)]);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.state();
        if state.begin()? {
            return Err(crashed());
        }
        let failing = state.failing_syncs;
        if state.rng.u8(..) < failing {
            return Err(io::Error::other("the sync of the directory failed"));
        }
        state.sync_names();
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Ownership>> {
        let mut state = self.state();
        state.check()?;
        if state.owner.is_some() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.owners += 1;
        state.owner = Some(state.owners);
        Ok(Box::new(SimOwnership { disk: self.clone(), mine: state.owners }))
    }

    fn path_of(&self, name: &str) -> String {
        format!("sim/{name}")
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    number: u64,
}

impl SimFile {
    fn gone() -> io::Error {
        io::Error::other("the file is gone")
    }
}

impl DiskFile for SimFile {
    fn bytes(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.files.get(&self.number).map(|contents| contents.cache.len() as u64).ok_or_else(Self::gone)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        state.check()?;
        let contents = state.files.get(&self.number).ok_or_else(Self::gone)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let there = contents.cache.get(offset..).unwrap_or_default();
        let read = there.len().min(buffer.len());
        buffer[..read].copy_from_slice(&there[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let crash = state.begin()?;
        let written = if crash { state.rng.usize(0..=bytes.len()) } else { bytes.len() };
        let contents = state.files.get_mut(&self.number).ok_or_else(Self::gone)?;
        contents.write(&bytes[..written], usize::try_from(offset).unwrap_or(usize::MAX));
        if crash { Err(crashed()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let meanwhile = self.disk.state().meanwhile.take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        let mut state = self.disk.state();
        if state.begin()? {
            return Err(crashed());
        }
        if let Some(ending) = state.unsynced
            && state.names.iter().any(|(name, number)| *number == self.number && name.ends_with(ending))
        {
            return Ok(());
        }
        let (failing, lying) = (state.failing_syncs, state.lying_syncs);
        let (fails, lies) = (state.rng.u8(..) < failing, state.rng.u8(..) < lying);
        let State { files, rng, .. } = &mut *state;
        let contents = files.get_mut(&self.number).ok_or_else(Self::gone)?;
        if fails {
            // Some pages made it. The page cache takes all of them for clean now, and will not write them again.
            contents.lose(rng);
            return Err(io::Error::other("the sync failed"));
        }
        if !lies {
            contents.sync();
        }
        Ok(())
    }
}

#[derive(Debug)]
struct SimOwnership {
    disk: SimDisk,
    mine: u64,
}

impl Ownership for SimOwnership {
    fn still_mine(&self) -> io::Result<bool> {
        Ok(self.disk.state().owner == Some(self.mine))
    }
}

impl Drop for SimOwnership {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.owner == Some(self.mine) {
            state.owner = None;
        }
    }
}
