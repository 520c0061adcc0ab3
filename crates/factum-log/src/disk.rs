//! The one door to the disk. The engine asks for no more than this, so that a simulated disk can stand in.

use std::{
    cell::Cell,
    fmt,
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    num::NonZeroU64,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use factum::{Error, Outcome};
use uuid::Uuid;

/// The name of the file whose lock makes one process the owner of the directory. It is never deleted.
pub const LOCK: &str = "LOCK";
/// How often the lock is tried, and how long after each time.
const LOCK_TRIES: u32 = 4;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Bytes of zeros written at once.
const ZEROS: usize = 1 << 20;
/// Bytes of a page of the page cache. A write that ends where a page does needs no read; one past the page cache must begin and
/// end so, in the file and in memory.
pub const PAGE: usize = 4096;
/// Writes of so many bytes go past the page cache, where they can: to fill pages of it takes longer than to write to the disk.
const LARGE: usize = 1 << 20;

/// What the work on this thread may still read.
#[derive(Clone, Copy, Debug)]
enum Patience {
    /// Whatever it wants, even if it has to wait for the disk.
    Unlimited,
    /// So many bytes, if they are in memory.
    Left(usize),
    /// No more: it would have had to wait, or wanted more.
    Exhausted,
}

thread_local! {
    static PATIENCE: Cell<Patience> = const { Cell::new(Patience::Unlimited) };
}

/// Bytes that a read counts for, beside those it reads.
const READ_COST: usize = 4096;

/// Does work that reads, if that needs no waiting for the disk and only so many bytes, each read counted for 4 KiB more.
/// `None` if it turns out that it does; what was done is then to be done again where it may wait.
pub fn at_once<T>(most: usize, work: impl FnOnce() -> T) -> Option<T> {
    struct Restored;
    impl Drop for Restored {
        fn drop(&mut self) {
            PATIENCE.set(Patience::Unlimited);
        }
    }
    PATIENCE.set(Patience::Left(most));
    let _restored = Restored;
    let done = work();
    matches!(PATIENCE.get(), Patience::Left(_)).then_some(done)
}

/// Whether the work on this thread may take long. If not, [`at_once`] gives it up.
pub(crate) fn may_take_long() -> bool {
    let unlimited = matches!(PATIENCE.get(), Patience::Unlimited);
    if !unlimited {
        PATIENCE.set(Patience::Exhausted);
    }
    unlimited
}

/// A directory of files.
///
/// Nothing is promised to survive a power cut before a sync: contents before [`DiskFile::sync`], names before [`Disk::sync_names`].
pub trait Disk: Send + Sync + fmt::Debug {
    /// The names of all files.
    ///
    /// # Errors
    /// Those of the disk.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a file that must not exist yet, with all its space allocated; it reads as zeros.
    ///
    /// # Errors
    /// [`ErrorKind::StorageFull`] if there is no room for it, and those of the disk.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>>;

    /// The same, made sooner, but with writes to it that are synced later: for one that is written in large pieces.
    ///
    /// # Errors
    /// As for [`Disk::create`].
    fn reserve(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.create(name, bytes)
    }

    /// Opens a file.
    ///
    /// # Errors
    /// Those of the disk.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file that is only read: also where writing is not allowed.
    ///
    /// # Errors
    /// Those of the disk.
    fn open_to_read(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open(name)
    }

    /// Gives a file another name, in the place of the file that had it.
    ///
    /// # Errors
    /// Those of the disk.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Those of the disk.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes what was created, renamed and removed survive a power cut.
    ///
    /// # Errors
    /// Those of the disk.
    fn sync_names(&self) -> io::Result<()>;

    /// Becomes the owner of the directory, for as long as the answer lives.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] with the name of the present owner, and those of the disk.
    fn lock(&self) -> io::Result<Box<dyn Ownership>>;

    /// Whether somebody owns the directory now: then its files may change while they are looked at.
    ///
    /// # Errors
    /// Those of the disk.
    fn is_owned(&self) -> io::Result<bool> {
        Ok(false)
    }

    /// What a person calls the file of this name.
    fn path_of(&self, name: &str) -> String;
}

/// A file with bytes at places.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Its length in bytes.
    ///
    /// # Errors
    /// Those of the disk.
    fn bytes(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on, and returns how many bytes there were: fewer only at the end of the file.
    ///
    /// # Errors
    /// Those of the disk.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Appends up to `bytes` from `offset` on to `out`: fewer only at the end of the file.
    ///
    /// # Errors
    /// Those of the disk.
    fn append_at(&self, out: &mut Vec<u8>, bytes: usize, offset: u64) -> io::Result<()> {
        let start = out.len();
        out.resize(start + bytes, 0);
        let read = self.read_at(&mut out[start..], offset);
        out.truncate(start + *read.as_ref().unwrap_or(&0));
        read.map(drop)
    }

    /// Tells that these bytes will be read soon, so that several reads can be on their way at once.
    fn will_read(&self, offset: u64, bytes: usize) {
        let _ = (offset, bytes);
    }

    /// Writes all of `bytes` at `offset`. After an error nobody knows which of them are written.
    ///
    /// # Errors
    /// Those of the disk.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written survive a power cut. After an error nobody knows what does, even if a later sync succeeds.
    ///
    /// # Errors
    /// Those of the disk.
    fn sync(&self) -> io::Result<()>;
}

/// Being the one owner of a directory.
pub trait Ownership: Send + Sync + fmt::Debug {
    /// Whether it still is so: somebody may have deleted the lock file and opened the directory again.
    ///
    /// # Errors
    /// Those of the disk.
    fn still_mine(&self) -> io::Result<bool>;
}

/// Says what was done, to what, and what to do about it.
pub(crate) fn explain(error: &io::Error, doing: &str, path: &str, outcome: Outcome) -> Error {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Error::StorageFull { what: format!("there is no room for {path}") }
        }
        ErrorKind::WouldBlock => Error::Fenced { what: path.to_owned(), by: error.to_string() },
        ErrorKind::NotFound => Error::NotFound { what: format!("{path} to {doing}") },
        kind => {
            let remedy = match kind {
                ErrorKind::PermissionDenied => "; ask for the right to read and write there",
                ErrorKind::ReadOnlyFilesystem => "; mount it writable",
                _ => "",
            };
            Error::Unavailable { why: format!("it could not {doing} {path} ({error}){remedy}"), outcome }
        }
    }
}

/// A directory of the machine's file system.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

#[derive(Debug)]
struct RealFile {
    file: fs::File,
    /// The same, past the page cache; opened at the first large write, if that is possible here.
    direct: OnceLock<Option<fs::File>>,
}

#[derive(Debug)]
struct RealOwnership {
    path: PathBuf,
    mine: String,
    /// Holds the lock while it is open.
    _file: fs::File,
}

impl Directory {
    /// An existing directory.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// A directory in which a log may be; nothing is made.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none, and [`Error::InvalidInput`] if it is a file.
    pub fn existing(path: &Path) -> factum::Result<Self> {
        match path.metadata() {
            Ok(what) if what.is_dir() => Ok(Self(path.to_owned())),
            Ok(_) => {
                Err(Error::invalid(path.display().to_string(), "it is a file; name the directory of a log"))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(Error::NotFound { what: format!("directory {}", path.display()) })
            }
            Err(error) => Err(explain(&error, "look at", &path.display().to_string(), Outcome::No)),
        }
    }

    /// Makes the directory, if there is none, and syncs the directories it is in.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn create(path: &Path) -> io::Result<Self> {
        let missing: Vec<&Path> =
            path.ancestors().take_while(|above| !above.is_dir() && !above.as_os_str().is_empty()).collect();
        fs::create_dir_all(path)?;
        for made in missing {
            // A name is kept by the directory it is in.
            let above = made.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
            fs::File::open(above).and_then(|directory| directory.sync_all())?;
        }
        Ok(Self(path.to_owned()))
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the door")]
impl Directory {
    fn make(
        &self,
        name: &str,
        fill: impl FnOnce(&fs::File) -> io::Result<()>,
    ) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.0.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        if let Err(error) = fill(&file).and_then(|()| file.sync_all()) {
            // What was allocated is of no use and takes the room that is missing.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Arc::new(RealFile::new(file)))
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the door")]
impl Disk for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            // A name that is not UTF-8 is not ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.make(name, |file| allocate(file, bytes).and_then(|_| write_zeros(file, bytes)))
    }

    fn reserve(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn DiskFile>> {
        self.make(name, |file| if allocate(file, bytes)? { Ok(()) } else { write_zeros(file, bytes) })
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.0.join(name))?;
        Ok(Arc::new(RealFile::new(file)))
    }

    fn open_to_read(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile::new(fs::File::open(self.0.join(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        fs::File::open(&self.0)?.sync_all()
    }

    fn lock(&self) -> io::Result<Box<dyn Ownership>> {
        let path = self.0.join(LOCK);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        match try_lock(&file) {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut owner = String::new();
                file.read_to_string(&mut owner)?;
                let process = owner.split_whitespace().next().unwrap_or("unknown").to_owned();
                let advice = if process == std::process::id().to_string() {
                    "this very process: open it once, and clone the store"
                } else {
                    "stop it first"
                };
                return Err(io::Error::new(ErrorKind::WouldBlock, format!("process {process}; {advice}")));
            }
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        let mine = format!("{} {}\n", std::process::id(), Uuid::new_v4());
        file.set_len(0)?;
        file.write_all(mine.as_bytes())?;
        Ok(Box::new(RealOwnership { path, mine, _file: file }))
    }

    fn is_owned(&self) -> io::Result<bool> {
        let file = match fs::File::open(self.0.join(LOCK)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => file.unlock().map(|()| false),
            Err(fs::TryLockError::WouldBlock) => Ok(true),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn path_of(&self, name: &str) -> String {
        // The directory itself has no name in it, and no slash at its end.
        let path = if name.is_empty() { self.0.clone() } else { self.0.join(name) };
        path.display().to_string()
    }
}

/// Tries for as long as somebody may only have looked whether there is an owner.
fn try_lock(file: &fs::File) -> Result<(), fs::TryLockError> {
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            answer => return answer,
        }
    }
    file.try_lock()
}

/// Takes the room now, so that a full disk shows when a file is made and not in the middle of an append. `false` where that is only
/// possible by writing to all of it.
fn allocate(file: &fs::File, bytes: u64) -> io::Result<bool> {
    if bytes == 0 {
        return Ok(true);
    }
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(false),
        Err(rustix::io::Errno::INTR) => allocate(file, bytes),
        Err(error) => Err(error.into()),
    }
}

/// Writes to all of a file, so that a later sync has only data to write. The first write to a block that is only reserved
/// changes the file system's own books, and a sync then costs two to five times as much.
fn write_zeros(file: &fs::File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS + PAGE];
    let aligned = zeros.as_ptr().align_offset(PAGE).min(PAGE);
    let zeros = &zeros[aligned..aligned + ZEROS];
    // Past the page cache: it costs a tenth of the time, and drives nothing out of the cache.
    let mut direct = past_the_cache(file).filter(|_| bytes.is_multiple_of(PAGE as u64));
    let mut offset = 0;
    while offset < bytes {
        let some = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(ZEROS);
        if let Some(file) = &direct {
            match file.write_all_at(&zeros[..some], offset) {
                Err(error) if error.kind() == ErrorKind::InvalidInput => {
                    // Not on this file system.
                    direct = None;
                    continue;
                }
                written => written?,
            }
        } else {
            file.write_all_at(&zeros[..some], offset)?;
        }
        offset += some as u64;
    }
    Ok(())
}

/// The same file for writes past the page cache, where there are such.
#[allow(clippy::disallowed_methods, reason = "this is the door")]
fn past_the_cache(file: &fs::File) -> Option<fs::File> {
    let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).ok()?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().write(true).custom_flags(direct).open(path).ok()
}

/// Reads what is in the page cache.
#[cfg(target_os = "linux")]
fn read_from_memory(file: &fs::File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut buffers = [io::IoSliceMut::new(buffer)];
    Ok(rustix::io::preadv2(file, &mut buffers, offset, rustix::io::ReadWriteFlags::NOWAIT)?)
}

/// Reads what is in the page cache: nobody knows here.
#[cfg(not(target_os = "linux"))]
fn read_from_memory(_: &fs::File, _: &mut [u8], _: u64) -> io::Result<usize> {
    Err(ErrorKind::WouldBlock.into())
}

impl RealFile {
    fn new(file: fs::File) -> Self {
        Self { file, direct: OnceLock::new() }
    }

    /// Writes whole pages past the page cache, and returns how many bytes of `bytes` are written: none where that is impossible.
    fn write_large(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let to_page = usize::try_from(offset.next_multiple_of(PAGE as u64) - offset).unwrap_or_default();
        let Some(pages) = bytes.get(to_page..).map(|rest| &rest[..rest.len() / PAGE * PAGE]) else {
            return Ok(0);
        };
        if bytes.len() < LARGE || pages.as_ptr().align_offset(PAGE) != 0 {
            return Ok(0);
        }
        let Some(direct) = self.direct.get_or_init(|| past_the_cache(&self.file)) else { return Ok(0) };
        self.file.write_all_at(&bytes[..to_page], offset)?;
        match direct.write_all_at(pages, offset + to_page as u64) {
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(to_page),
            written => written.map(|()| to_page + pages.len()),
        }
    }
}

impl DiskFile for RealFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn append_at(&self, out: &mut Vec<u8>, bytes: usize, offset: u64) -> io::Result<()> {
        let start = out.len();
        if !matches!(PATIENCE.get(), Patience::Unlimited) {
            out.resize(start + bytes, 0);
            let read = self.read_at(&mut out[start..], offset);
            out.truncate(start + *read.as_ref().unwrap_or(&0));
            return read.map(drop);
        }
        // Without zeros first.
        out.reserve_exact(bytes);
        while out.len() < start + bytes {
            let offset = offset + (out.len() - start) as u64;
            match rustix::io::pread(&self.file, rustix::buffer::spare_capacity(out), offset) {
                Ok(0) => break,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        out.truncate(start + bytes);
        Ok(())
    }

    fn will_read(&self, offset: u64, bytes: usize) {
        let bytes = NonZeroU64::new(bytes as u64);
        // It is only a hint.
        let _ = rustix::fs::fadvise(&self.file, offset, bytes, rustix::fs::Advice::WillNeed);
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let patience = match PATIENCE.get() {
            Patience::Left(left) => match left.checked_sub(buffer.len() + READ_COST) {
                Some(left) => Patience::Left(left),
                None => Patience::Exhausted,
            },
            other => other,
        };
        PATIENCE.set(patience);
        let mut filled = 0;
        while filled < buffer.len() {
            let (buffer, offset) = (&mut buffer[filled..], offset + filled as u64);
            let read = match patience {
                Patience::Unlimited => self.file.read_at(buffer, offset),
                Patience::Left(_) => read_from_memory(&self.file, buffer, offset),
                Patience::Exhausted => Err(ErrorKind::WouldBlock.into()),
            };
            match read {
                Ok(0) => break,
                Ok(some) => filled += some,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    if !matches!(patience, Patience::Unlimited) {
                        PATIENCE.set(Patience::Exhausted);
                    }
                    return Err(error);
                }
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let written = self.write_large(bytes, offset)?;
        self.file.write_all_at(&bytes[written..], offset + written as u64)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the door")]
impl Ownership for RealOwnership {
    fn still_mine(&self) -> io::Result<bool> {
        match fs::read_to_string(&self.path) {
            Ok(owner) => Ok(owner == self.mine),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
