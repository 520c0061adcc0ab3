//! Backups: a copy of the log that appends do not wait for, and a log made from such a copy.
//!
//! A backup is a directory of its own kind, and not a log: nobody can open it by mistake and write a second history under the
//! same name. It holds the used part of each segment, and a list of them, `backup`, which is replaced last. So a backup that was
//! interrupted is the backup that was there before, or is recognisably none.
//!
//! A restored log begins a new epoch, in a segment of its own: what was appended after the backup is gone, and whoever has seen it
//! must be told.

use std::{io, path::Path, sync::Arc};

use factum::{Clock, Error, LogIdentity, Outcome, Position, Result, SystemClock, Timestamp, error::Corrupt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    disk::{Directory, Disk, DiskFile, LOCK, Ownership, explain},
    format::{Damage, SEGMENT_HEADER, SEGMENT_HEADER_BYTES, SegmentHeader},
    manifest::{checked, with_checksum},
    recovery::go_on_in,
    segment::Segment,
    verify::{Continuity, End, Progress, Verification, Visitor, Whole, read_log, verify_disk, walk},
};

/// The list of a backup's contents. A directory with one is a whole backup.
pub(crate) const LIST: &str = "backup";
/// What it is called while it is written.
const NEW_LIST: &str = "backup.new";
/// Its presence says that a restore into the directory did not finish.
pub(crate) const UNFINISHED: &str = "restore.unfinished";
/// The same for a repair.
pub(crate) const UNREPAIRED: &str = "repair.unfinished";
/// Bytes copied at once.
const COPIED: usize = 1 << 20;
/// Bytes before the end of a copy that must be those of the log, before the copy is added to.
const COMPARED: u64 = 64 << 10;
/// Bytes of the segment that a restored log begins with, at most.
const FIRST_SEGMENT: u64 = 16 << 20;

/// A restore reads each byte three times: it verifies, copies, and verifies.
const THIRDS: u64 = 3;

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// The log, and the epoch in which it was.
    pub log: LogIdentity,
    /// Everything before this position is in it.
    pub end: u64,
    /// How many events that is.
    pub events: u64,
    /// Segments.
    pub segments: u32,
    /// Bytes of it all.
    pub bytes: u64,
    /// Bytes of these that were copied this time.
    pub copied_bytes: u64,
}

/// The list as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct List {
    pub(crate) format: u32,
    pub(crate) log_id: Uuid,
    pub(crate) epoch: u64,
    /// The position at which it ends, and what is known of the log there.
    pub(crate) end: u64,
    pub(crate) next_frame: u64,
    pub(crate) events: u64,
    /// Of the last event, in microseconds since 1970.
    pub(crate) last_recorded_at: i64,
    /// Bytes that count of each segment's copy, from the first on.
    pub(crate) segments: Vec<u64>,
}

/// The version of the list's format.
const FORMAT: u32 = 1;

impl List {
    /// Reads the list of a directory, if there is one.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is damaged, and those of the disk.
    pub(crate) fn read(disk: &dyn Disk) -> Result<Option<Self>> {
        let path = disk.path_of(LIST);
        let failed = |error: io::Error| explain(&error, "read", &path, Outcome::No);
        let file = match disk.open_to_read(LIST) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let bytes = usize::try_from(file.bytes().map_err(failed)?).unwrap_or(usize::MAX).min(64 << 20);
        let mut text = vec![0; bytes];
        let read = file.read_at(&mut text, 0).map_err(failed)?;
        let list = checked(&text[..read]).and_then(|line| serde_json::from_slice::<Self>(line).ok());
        match list {
            Some(list) if list.format == FORMAT => Ok(Some(list)),
            Some(_) => Err(damaged(&path, "it was written by another version of factum")),
            None => Err(damaged(&path, "the list of the backup fails its checksum")),
        }
    }

    /// Its text.
    pub(crate) fn encode(&self) -> io::Result<Vec<u8>> {
        Ok(with_checksum(serde_json::to_vec(self)?))
    }

    /// One to show what they look like.
    #[cfg(test)]
    pub(crate) fn sample(log_id: Uuid) -> Self {
        let (format, epoch, end, next_frame, events) = (FORMAT, 1, 12345, 56, 78);
        Self {
            format,
            log_id,
            epoch,
            end,
            next_frame,
            events,
            last_recorded_at: -5,
            segments: vec![8192, 4153],
        }
    }

    fn replace(&self, disk: &dyn Disk) -> io::Result<()> {
        let text = self.encode()?;
        if disk.list()?.iter().any(|name| name == NEW_LIST) {
            disk.remove(NEW_LIST)?;
        }
        let file = disk.create(NEW_LIST, text.len() as u64)?;
        file.write_at(&text, 0)?;
        file.sync()?;
        // The copies have their names before the list speaks of them.
        disk.sync_names()?;
        disk.rename(NEW_LIST, LIST)?;
        disk.sync_names()
    }
}

fn damaged(path: &str, problem: &str) -> Error {
    let problem = format!("{problem}; make another backup, or restore from another one");
    Corrupt { segment: path.to_owned(), offset: 0, positions: None, problem }.into()
}

/// The name of the copy of segment `number`.
pub(crate) fn copy_name(number: u32) -> String {
    format!("{number:010}.copy")
}

fn is_copy(name: &str) -> bool {
    name.strip_suffix(".copy")
        .and_then(|number| number.parse().ok())
        .is_some_and(|n: u32| copy_name(n) == name)
}

/// Refuses directories that hold something else than a log.
///
/// # Errors
/// [`Error::InvalidInput`] for a backup, [`Error::Corrupt`] where a restore or repair was interrupted.
pub(crate) fn refuse_what_is_no_log(disk: &dyn Disk, names: &[String]) -> Result<()> {
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    if has(UNFINISHED) {
        let problem = "a restore into it did not finish; restore the backup into it again".to_owned();
        return Err(Corrupt { segment: disk.path_of(""), offset: 0, positions: None, problem }.into());
    }
    if has(UNREPAIRED) {
        let problem = "a repair of it did not finish; repair it again".to_owned();
        return Err(Corrupt { segment: disk.path_of(""), offset: 0, positions: None, problem }.into());
    }
    if has(LIST) || names.iter().any(|name| is_copy(name)) {
        let why = "it holds a backup; restore that into a directory of its own, and open it there";
        return Err(Error::invalid(disk.path_of(""), why));
    }
    Ok(())
}

/// What is to be copied: the segments of a log, up to an end.
pub(crate) struct Source {
    pub(crate) log: LogIdentity,
    pub(crate) segments: Vec<Arc<Segment>>,
    /// The position beyond the last frame.
    pub(crate) end: u64,
}

impl Source {
    /// The offset at which the frames of a segment end.
    fn end_of(&self, n: usize) -> u64 {
        let segment = &self.segments[n].header;
        let end = self.segments.get(n + 1).map_or(self.end, |next| next.header.previous_end);
        end.max(segment.base + SEGMENT_HEADER) - segment.base
    }
}

/// Copies the log in `directory` to `to`, which is made if it is missing. The log may be closed, or open in another process and
/// written to: then the copy holds what was certainly durable. (For a log that is open in this process, there is
/// [`LogStore::backup`](crate::LogStore::backup).)
///
/// Into the same place again, only what is new is copied. When this returns, the backup is synced.
///
/// ```no_run
/// # fn main() -> factum::Result<()> {
/// let backup = factum_log::backup("data", "backups/data", |_| {})?;
/// println!("{} events", backup.events);
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`Error::NotFound`] if there is no log, [`Error::Corrupt`] if it is damaged where it is copied, [`Error::InvalidInput`] if `to`
/// holds something else than an earlier backup of this log, [`Error::LogRewound`] if that has what the log has lost,
/// [`Error::Fenced`] if another backup goes there at this moment, and those of the disk.
pub fn backup(
    directory: impl AsRef<Path>,
    to: impl AsRef<Path>,
    mut told: impl FnMut(Progress),
) -> Result<Backup> {
    let disk = Directory::existing(directory.as_ref())?;
    let source = read_log(&disk)?;
    back_up(&source, &*destination(to.as_ref())?, &mut told)
}

/// A directory to write to, made if it is missing.
pub(crate) fn destination(path: &Path) -> Result<Arc<dyn Disk>> {
    let made = Directory::create(path);
    let made = made.map_err(|error| explain(&error, "make", &path.display().to_string(), Outcome::No))?;
    Ok(Arc::new(made))
}

/// Copies what is new of a log.
pub(crate) fn back_up(source: &Source, to: &dyn Disk, told: &mut dyn FnMut(Progress)) -> Result<Backup> {
    let _owned = own(to)?;
    let there = to.list().map_err(|error| explain(&error, "read", &to.path_of(""), Outcome::No))?;
    let ours = |name: &String| *name == LOCK || *name == LIST || *name == NEW_LIST || is_copy(name);
    if let Some(foreign) = there.iter().find(|name| !ours(name)) {
        let why = format!("it holds other things than a backup, such as `{foreign}`; name another directory");
        return Err(Error::invalid(to.path_of(""), why));
    }
    let before = List::read(to)?;
    if let Some(list) = &before {
        continues(list, source, to)?;
    }
    let copied_before = before.as_ref().map_or(&[][..], |list| &list.segments);
    let bytes: Vec<u64> = (0..source.segments.len()).map(|n| source.end_of(n)).collect();
    let new = |n: usize| bytes[n] - copied_before.get(n).copied().unwrap_or(0);
    let mut copying = Copying {
        told,
        progress: Progress { done: 0, total: (0..bytes.len()).map(new).sum() },
        damage: None,
        next: Continuity::BEGINNING,
    };
    for (n, segment) in source.segments.iter().enumerate() {
        let is_last = n + 1 == source.segments.len();
        if is_last || new(n) > 0 {
            copying.segment(segment, copied_before.get(n).copied(), bytes[n], before.as_ref(), to)?;
        }
    }
    let LogIdentity { log_id, epoch } = source.log;
    let list = List {
        format: FORMAT,
        log_id,
        epoch,
        end: source.end,
        next_frame: copying.next.number.unwrap_or_default(),
        events: copying.next.events.unwrap_or_default(),
        last_recorded_at: copying.next.recorded_at.0,
        segments: bytes,
    };
    list.replace(to).map_err(|error| explain(&error, "write", &to.path_of(LIST), Outcome::No))?;
    (copying.told)(Progress { done: copying.progress.total, total: copying.progress.total });
    Ok(Backup { copied_bytes: copying.progress.total, ..list.summary() })
}

impl List {
    pub(crate) fn summary(&self) -> Backup {
        Backup {
            log: LogIdentity { log_id: self.log_id, epoch: self.epoch },
            end: self.end,
            events: self.events,
            segments: u32::try_from(self.segments.len()).unwrap_or(u32::MAX),
            bytes: self.segments.iter().sum(),
            copied_bytes: 0,
        }
    }
}

pub(crate) fn own(disk: &dyn Disk) -> Result<Box<dyn Ownership>> {
    disk.lock().map_err(|error| match explain(&error, "lock", &disk.path_of(LOCK), Outcome::No) {
        Error::Fenced { by, .. } => Error::Fenced { what: disk.path_of(""), by },
        other => other,
    })
}

/// Whether a log goes on where a backup of it ends. What is in the backup and not in the log must not be overwritten: it may be
/// all that is left of it.
fn continues(list: &List, source: &Source, to: &dyn Disk) -> Result<()> {
    if list.log_id != source.log.log_id {
        let why = format!("it is a backup of another log, {}; name another directory", list.log_id);
        return Err(Error::invalid(to.path_of(""), why));
    }
    let same_so_far = || -> Result<bool> {
        let Some(last) = list.segments.len().checked_sub(1).filter(|last| *last < source.segments.len())
        else {
            return Ok(false);
        };
        let (segment, bytes) = (&source.segments[last], list.segments[last]);
        let whole = (0..last).all(|n| source.end_of(n) == list.segments[n]);
        // Where events were removed since, the bytes differ; that the next frame follows is looked at when it is copied.
        let from = if segment.packed.is_some() { bytes } else { bytes.saturating_sub(COMPARED) };
        let copy = open_copy(to, segment.header.number)?;
        Ok(list.epoch <= source.log.epoch
            && whole
            && bytes <= source.end_of(last)
            && read_exactly(&*segment.file, from, bytes - from, &segment.path)?
                == read_exactly(&*copy, from, bytes - from, &to.path_of(&copy_name(segment.header.number)))?)
    };
    if list.epoch != source.log.epoch || !same_so_far()? {
        let why = format!(
            "the backup of epoch {} up to position {} has what the log, in epoch {} up to position {}, has lost \
             or never had; keep it, and name another directory",
            list.epoch, list.end, source.log.epoch, source.end
        );
        return Err(Error::invalid(to.path_of(""), why));
    }
    Ok(())
}

fn open_copy(disk: &dyn Disk, number: u32) -> Result<Arc<dyn DiskFile>> {
    let name = copy_name(number);
    disk.open(&name).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => damaged(&disk.path_of(&name), "the file is missing"),
        _ => explain(&error, "open", &disk.path_of(&name), Outcome::No),
    })
}

fn read_exactly(file: &dyn DiskFile, offset: u64, bytes: u64, path: &str) -> Result<Vec<u8>> {
    let mut buffer = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut buffer, offset);
    let read = read.map_err(|error| explain(&error, "read", path, Outcome::No))?;
    if read < buffer.len() {
        return Err(damaged(path, "the file is too short"));
    }
    Ok(buffer)
}

/// A backup that is being made.
struct Copying<'a> {
    told: &'a mut dyn FnMut(Progress),
    progress: Progress,
    /// What is wrong with the log.
    damage: Option<Error>,
    /// What comes after what was copied.
    next: Continuity,
}

impl Copying<'_> {
    /// Copies what is new of a segment, frame by frame looked at: damage must not replace what a backup still has.
    fn segment(
        &mut self,
        segment: &Segment,
        copied: Option<u64>,
        bytes: u64,
        before: Option<&List>,
        to: &dyn Disk,
    ) -> Result<()> {
        let header = &segment.header;
        self.next = match (copied, before) {
            (Some(_), Some(list)) => Continuity {
                number: Some(list.next_frame),
                events: Some(list.events),
                recorded_at: Timestamp(list.last_recorded_at),
            },
            _ => Continuity::at(header),
        };
        let from = copied.unwrap_or(0);
        let mut next = self.next;
        walk(segment, from.max(SEGMENT_HEADER), End::Before(bytes), &mut next, self)?;
        self.next = next;
        if let Some(damage) = self.damage.take() {
            return Err(damage);
        }
        let name = copy_name(header.number);
        let path = to.path_of(&name);
        let failed = |error: io::Error| explain(&error, "write", &path, Outcome::No);
        let copy = match copied {
            Some(_) => open_copy(to, header.number)?,
            None => {
                // Left over from a backup that did not finish.
                if to.list().map_err(failed)?.contains(&name) {
                    to.remove(&name).map_err(failed)?;
                }
                to.create(&name, 0).map_err(failed)?
            }
        };
        copy_bytes(segment, &*copy, from, bytes, &path, &mut |some| {
            self.progress.done += some;
            (self.told)(self.progress);
        })?;
        copy.sync().map_err(failed)
    }
}

impl Visitor for Copying<'_> {
    fn frame(&mut self, _: &Segment, _: &Whole) -> Result<()> {
        Ok(())
    }

    fn damage(
        &mut self,
        segment: &Segment,
        offset: u64,
        positions: Option<(Position, Position)>,
        damage: Damage,
    ) {
        self.damage.get_or_insert_with(|| segment.corrupt(offset, positions, damage));
    }

    fn done(&mut self, _: u64) {}
}

fn copy_bytes(
    from: &Segment,
    to: &dyn DiskFile,
    mut offset: u64,
    end: u64,
    path: &str,
    told: &mut dyn FnMut(u64),
) -> Result<()> {
    while offset < end {
        let some = (end - offset).min(COPIED as u64);
        let bytes = read_exactly(&*from.file, offset, some, &from.path)?;
        to.write_at(&bytes, offset).map_err(|error| explain(&error, "write", path, Outcome::No))?;
        offset += some;
        told(some);
    }
    Ok(())
}

/// What a restore has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The log in its new epoch.
    pub log: LogIdentity,
    /// What it was made from.
    pub backup: Backup,
    /// The look at every byte of what was restored.
    pub verified: Verification,
}

/// Makes a log in `directory` from a backup. Every byte is verified, in the backup before and in the log afterwards.
///
/// The log begins a new epoch: tokens and checkpoints from before get [`Error::LogRewound`], since what was appended after
/// the backup is not there.
///
/// ```no_run
/// # fn main() -> factum::Result<()> {
/// factum_log::restore("backups/data", "data", |_| {})?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`Error::NotFound`] if there is no backup or it is unfinished, [`Error::Corrupt`] if it is damaged, [`Error::InvalidInput`] if
/// there is anything in `directory`, and those of the disk. After an interruption, the directory cannot be opened as a log;
/// restoring into it again begins anew.
pub fn restore(
    backup: impl AsRef<Path>,
    directory: impl AsRef<Path>,
    mut told: impl FnMut(Progress),
) -> Result<Restored> {
    let from = Directory::existing(backup.as_ref())?;
    let list = List::read(&from)?;
    list.ok_or_else(|| Error::NotFound { what: format!("finished backup in {}", from.path_of("")) })?;
    restore_on(&from, &*destination(directory.as_ref())?, &SystemClock, &mut told)
}

/// The same for any disks.
pub(crate) fn restore_on(
    from: &dyn Disk,
    to: &dyn Disk,
    clock: &dyn Clock,
    told: &mut dyn FnMut(Progress),
) -> Result<Restored> {
    let list = List::read(from)?;
    let list =
        list.ok_or_else(|| Error::NotFound { what: format!("finished backup in {}", from.path_of("")) })?;
    let total = list.segments.iter().sum::<u64>() * THIRDS;
    sound(verify_disk(from, &mut third(told, 0, total))?)?;
    let _owned = own(to)?;
    let failed = |error: io::Error| explain(&error, "write", &to.path_of(""), Outcome::No);
    clear(to).map_err(failed)??;
    let marker = || -> io::Result<()> {
        to.create(UNFINISHED, 0)?.sync()?;
        to.sync_names()
    };
    marker().map_err(failed)?;
    let last = copy_segments(from, to, &list, &mut third(told, 1, total))?;
    let log = LogIdentity { log_id: list.log_id, epoch: new_epoch(list.epoch, clock) };
    begin_epoch(to, &list, &last, log)?;
    let verified = sound(verify_disk(to, &mut third(told, 2, total))?)?;
    let finish = || -> io::Result<()> {
        to.remove(UNFINISHED)?;
        to.sync_names()
    };
    finish().map_err(failed)?;
    Ok(Restored { log, backup: list.summary(), verified })
}

/// Tells of the part of a restore after `before` others, each of which reads every byte once.
fn third(told: &mut dyn FnMut(Progress), before: u64, total: u64) -> impl FnMut(Progress) {
    move |Progress { done, total: of }| {
        let part = u128::from(total / THIRDS) * u128::from(done.min(of)) / u128::from(of.max(1));
        told(Progress { done: before * total / THIRDS + u64::try_from(part).unwrap_or(0), total });
    }
}

fn sound(verified: Verification) -> Result<Verification> {
    match verified.findings.first() {
        Some(finding) => Err(finding.damage.clone().into()),
        None => Ok(verified),
    }
}

/// Makes room where a restore was interrupted; refuses whatever else is there.
fn clear(to: &dyn Disk) -> io::Result<Result<()>> {
    let there: Vec<String> = to.list()?.into_iter().filter(|name| name != LOCK).collect();
    if let Some(other) = there.first().filter(|_| !there.iter().any(|name| name == UNFINISHED)) {
        let why = format!("there is something in it, `{other}`; restore into a new directory");
        return Ok(Err(Error::invalid(to.path_of(""), why)));
    }
    // The marker goes last: nothing else is there once it is gone.
    for name in there.iter().filter(|name| *name != UNFINISHED) {
        to.remove(name)?;
    }
    to.sync_names()?;
    if !there.is_empty() {
        to.remove(UNFINISHED)?;
    }
    Ok(Ok(()))
}

/// Copies the segments. The last of them.
fn copy_segments(
    from: &dyn Disk,
    to: &dyn Disk,
    list: &List,
    told: &mut dyn FnMut(Progress),
) -> Result<SegmentHeader> {
    let mut last = None;
    let mut progress = Progress { done: 0, total: list.segments.iter().sum() };
    for (number, &bytes) in (1..).zip(&list.segments) {
        let path = from.path_of(&copy_name(number));
        let copy = from.open_to_read(&copy_name(number));
        let copy = copy.map_err(|error| explain(&error, "open", &path, Outcome::No))?;
        let header = read_exactly(&*copy, 0, SEGMENT_HEADER, &path)?;
        let header = SegmentHeader::decode(&header[..SEGMENT_HEADER_BYTES]);
        let header = header.map_err(|damage| damaged(&path, damage.0))?;
        let name = Segment::name(number);
        let failed = |error: io::Error| explain(&error, "write", &to.path_of(&name), Outcome::No);
        // It is never written to again, so that what is not used needs no room on the disk.
        let file = to.create(&name, 0).map_err(failed)?;
        let copy = Segment::new(header, copy, path);
        copy_bytes(&copy, &*file, 0, bytes, &to.path_of(&name), &mut |some| {
            progress.done += some;
            told(progress);
        })?;
        if bytes < header.capacity {
            file.write_at(&[0], header.capacity - 1).map_err(failed)?;
        }
        file.sync().map_err(failed)?;
        last = Some(header);
    }
    last.ok_or_else(|| damaged(&from.path_of(LIST), "it lists no segments"))
}

/// An epoch that no other history of the log has: two logs restored from one backup must not pass for one another, so it is not only
/// counted, but taken from the clock, in microseconds.
pub(crate) fn new_epoch(before: u64, clock: &dyn Clock) -> u64 {
    before.saturating_add(1).max(u64::try_from(clock.now().0).unwrap_or(0))
}

/// Seals what was restored, with a segment of the new epoch.
fn begin_epoch(to: &dyn Disk, list: &List, last: &SegmentHeader, log: LogIdentity) -> Result<()> {
    let header = SegmentHeader {
        log,
        number: last.number + 1,
        base: list.end,
        capacity: last.capacity.min(FIRST_SEGMENT),
        first_frame: list.next_frame,
        events_before: list.events,
        previous_end: list.end,
        last_recorded_at: Timestamp(list.last_recorded_at),
    };
    go_on_in(to, header)
}

#[cfg(all(test, feature = "sim"))]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use factum::{Append, EventStore, EventStoreExt, ManualClock, NewEvent, Read, StreamName};

    use super::*;
    use crate::{
        LogStore, Options,
        sim::{Crash, SimDisk},
    };

    fn open(disk: &SimDisk) -> Result<LogStore> {
        Options::new("unused").segments(8192, 8192).create(false).open_on(Arc::new(disk.clone()))
    }

    async fn write(store: &LogStore, events: usize) {
        for _ in 0..events {
            let event = NewEvent::bytes("E", vec![7; 300]).unwrap();
            store.append(Append::to(StreamName::new("s-1").unwrap(), [event])).await.unwrap();
        }
    }

    fn back_up_to(log: &SimDisk, copy: &SimDisk) -> Result<Backup> {
        back_up(&read_log(log)?, copy, &mut |_| {})
    }

    fn restored(copy: &SimDisk, to: &SimDisk) -> Result<Restored> {
        restore_on(copy, to, &ManualClock::at(Timestamp(7)), &mut |_| {})
    }

    /// Whenever the power is cut, the place holds the backup before or the new one, and the next attempt goes through.
    #[tokio::test]
    async fn a_power_cut_in_a_backup_leaves_the_one_before() {
        let log = SimDisk::new(1);
        let store = Options::new("unused").segments(8192, 8192).open_on(Arc::new(log.clone())).unwrap();
        write(&store, 30).await;
        let (first, second) = (SimDisk::new(2), SimDisk::new(3));
        back_up_to(&log, &first).unwrap();
        write(&store, 60).await;
        store.close().await.unwrap();
        for (before, old) in [(&second, None), (&first, Some(30))] {
            let mut seen = Vec::new();
            for operations in 0.. {
                let copy = before.copy(operations);
                copy.crash_after(operations);
                let done = back_up_to(&log, &copy).is_ok();
                copy.restart(Crash::PowerCut);
                let there = restored(&copy, &SimDisk::new(operations)).map(|restored| restored.backup.events);
                match there {
                    Ok(events) => assert!(events == 90 || Some(events) == old, "{operations}: {events}"),
                    Err(Error::NotFound { .. }) => assert_eq!(old, None, "{operations}"),
                    Err(error) => panic!("{operations}: {error}"),
                }
                seen.extend(there.ok());
                assert_eq!(back_up_to(&log, &copy).unwrap().events, 90, "{operations}");
                if done {
                    break;
                }
            }
            assert!(seen.last() == Some(&90) && old.is_none_or(|old| seen.contains(&old)), "{seen:?}");
        }
    }

    #[tokio::test]
    async fn a_power_cut_in_a_restore_leaves_no_log_or_a_whole_one() {
        let (log, copy) = (SimDisk::new(1), SimDisk::new(2));
        let store = Options::new("unused").segments(8192, 8192).open_on(Arc::new(log.clone())).unwrap();
        write(&store, 40).await;
        store.close().await.unwrap();
        back_up_to(&log, &copy).unwrap();
        let (mut refused, mut whole) = (0, 0);
        for operations in 0.. {
            let to = SimDisk::new(operations);
            to.crash_after(operations);
            let done = restored(&copy, &to).is_ok();
            to.restart(Crash::PowerCut);
            match open(&to) {
                Ok(store) => {
                    assert_eq!(store.read_to_end(Read::all()).await.unwrap().len(), 40, "{operations}");
                    whole += 1;
                }
                Err(_) => {
                    restored(&copy, &to).unwrap_or_else(|error| panic!("{operations}: {error}"));
                    refused += 1;
                }
            }
            if done {
                break;
            }
        }
        assert!(refused > 10 && whole > 0, "{refused} {whole}");
    }
}
