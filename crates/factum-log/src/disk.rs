//! The one door to the disk. The engine asks for no more than this, so that a simulated disk can stand in.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use factum::{Error, Outcome};
use uuid::Uuid;

/// The name of the file whose lock makes one process the owner of the directory. It is never deleted.
pub const LOCK: &str = "LOCK";
/// How often the lock is tried, and how long after each time.
const LOCK_TRIES: u32 = 4;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

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
struct RealFile(fs::File);

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
        let path = self.0.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        if let Err(error) = allocate(&file, bytes).and_then(|()| file.sync_all()) {
            // What was allocated is of no use and takes the room that is missing.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).write(true).open(self.0.join(name))?)))
    }

    fn open_to_read(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(fs::File::open(self.0.join(name))?)))
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
                return Err(io::Error::new(
                    ErrorKind::WouldBlock,
                    format!("process {process}; stop it first"),
                ));
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

/// Takes the room now, so that a full disk shows when a file is made and not in the middle of an append; and writes to all of
/// it, so that a later sync has only data to write. The first write to a block that is only reserved changes the file system's
/// own books, and a sync then costs two to five times as much.
fn allocate(file: &fs::File, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        Err(rustix::io::Errno::INTR) => return allocate(file, bytes),
        Err(error) => return Err(error.into()),
    }
    let zeros = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < bytes {
        let some = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(&zeros[..some], offset)?;
        offset += some as u64;
    }
    Ok(())
}

impl DiskFile for RealFile {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.0.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(some) => filled += some,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
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
