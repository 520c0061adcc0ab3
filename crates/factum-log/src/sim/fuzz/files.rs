//! A disk in memory that is kind, and counts what is asked of it.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Fuzzed, MOST_BYTES, MOST_OPERATIONS};
use crate::disk::{Disk, DiskFile, Ownership};

/// Files by name. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Files(Arc<Mutex<State>>);

type Contents = Arc<Mutex<Vec<u8>>>;

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Contents>,
    operations: u64,
    most_bytes: usize,
}

#[derive(Debug)]
struct File {
    disk: Files,
    contents: Contents,
}

#[derive(Debug)]
struct Owner;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files {
    pub(super) fn copy(&self) -> Self {
        let copy = |(name, contents): (&String, &Contents)| {
            (name.clone(), Arc::new(Mutex::new(locked(contents).clone())))
        };
        let files = locked(&self.0).files.iter().map(copy).collect();
        Self(Arc::new(Mutex::new(State { files, ..State::default() })))
    }

    pub(super) fn names(&self) -> Vec<String> {
        locked(&self.0).files.keys().cloned().collect()
    }

    /// Nothing, if there is no such file.
    pub(super) fn bytes_of(&self, name: &str) -> Vec<u8> {
        locked(&self.0).files.get(name).map(|contents| locked(contents).clone()).unwrap_or_default()
    }

    pub(super) fn put(&self, name: &str, bytes: Vec<u8>) {
        locked(&self.0).files.insert(name.to_owned(), Arc::new(Mutex::new(bytes)));
    }

    pub(super) fn forget(&self, name: &str) {
        locked(&self.0).files.remove(name);
    }

    pub(super) fn forget_counts(&self) {
        let mut state = locked(&self.0);
        (state.operations, state.most_bytes) = (0, 0);
    }

    /// Whether nothing went on for ever, or asked for memory that nothing needs.
    pub(super) fn is_within_bounds(&self) -> Result<(), String> {
        let State { operations, most_bytes, .. } = *locked(&self.0);
        match (operations, most_bytes) {
            (operations, _) if operations > MOST_OPERATIONS => Err("it goes on for ever".to_owned()),
            (_, bytes) if bytes > MOST_BYTES => Err(format!("it asked for {bytes} bytes at once")),
            _ => Ok(()),
        }
    }

    pub(super) fn accepted(&self) -> Fuzzed {
        Fuzzed { accepted: 1, ..self.refused() }
    }

    pub(super) fn refused(&self) -> Fuzzed {
        Fuzzed { inputs: 1, accepted: 0, most_bytes: locked(&self.0).most_bytes }
    }

    fn count(&self, bytes: usize) -> io::Result<()> {
        let mut state = locked(&self.0);
        state.operations += 1;
        state.most_bytes = state.most_bytes.max(bytes);
        if state.operations > MOST_OPERATIONS { Err(io::Error::other("enough")) } else { Ok(()) }
    }

    fn file(&self, contents: Contents) -> Arc<dyn DiskFile> {
        Arc::new(File { disk: self.clone(), contents })
    }
}

impl Disk for Files {
    fn list(&self) -> io::Result<Vec<String>> {
        self.count(0)?;
        Ok(self.names())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if bytes > MOST_BYTES * 2 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.count(0)?;
        self.put(name, vec![0; bytes]);
        self.open(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.count(0)?;
        let contents = locked(&self.0).files.get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(contents))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.count(0)?;
        let mut state = locked(&self.0);
        let contents = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), contents);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.count(0)?;
        self.forget(name);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        self.count(0)
    }

    fn lock(&self) -> io::Result<Box<dyn Ownership>> {
        Ok(Box::new(Owner))
    }

    fn path_of(&self, name: &str) -> String {
        format!("fuzz/{name}")
    }
}

impl DiskFile for File {
    fn bytes(&self) -> io::Result<u64> {
        self.disk.count(0)?;
        Ok(locked(&self.contents).len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.count(buffer.len())?;
        let contents = locked(&self.contents);
        let there = usize::try_from(offset).ok().and_then(|at| contents.get(at..)).unwrap_or_default();
        let read = there.len().min(buffer.len());
        buffer[..read].copy_from_slice(&there[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.count(0)?;
        let mut contents = locked(&self.contents);
        let at = usize::try_from(offset).ok().filter(|at| *at <= MOST_BYTES * 2);
        let end = at.ok_or(io::ErrorKind::StorageFull)? + bytes.len();
        if contents.len() < end {
            contents.resize(end, 0);
        }
        contents[end - bytes.len()..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.count(0)
    }
}

impl Ownership for Owner {
    fn still_mine(&self) -> io::Result<bool> {
        Ok(true)
    }
}
