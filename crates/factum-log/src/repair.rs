//! Repair: a log with damage that recovery refuses is cut before the first of it, at somebody's explicit demand.
//!
//! It loses events that were acknowledged, and so it is the last resort: a backup or a replica loses fewer. Nothing is destroyed: the
//! files that are cut are kept under other names. The log goes on in a new epoch, so that whoever has seen what is gone is told.

use std::{io, path::Path};

use factum::{Clock, Error, LogIdentity, Outcome, Position, Result, SystemClock};

use crate::{
    backup::{UNREPAIRED, new_epoch, own},
    disk::{Directory, Disk, DiskFile, explain},
    format::{SEGMENT_HEADER, SegmentHeader},
    index::Run,
    manifest::Manifest,
    recovery::go_on_in,
    segment::Segment,
    verify::{Continuity, Part, Progress, Verification, open_to_cut, packed_upto, verify_disk},
};

/// Bytes copied or overwritten at once.
const COPIED: usize = 1 << 20;

/// What a repair would cut off, or has cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The log, in its new epoch once it is repaired.
    pub log: LogIdentity,
    /// Events before this position stay.
    pub keeps_before: Position,
    /// How many events stay.
    pub kept_events: u64,
    /// How many events after the damage could still be read, and are lost with it.
    pub lost_events: u64,
    /// The positions that are damaged, from one to the other.
    pub damaged: Vec<(Position, Position)>,
    /// The files that change or go, and the names under which they are kept.
    pub files: Vec<(String, String)>,
}

/// Says what [`repair`] would do to the log in a directory, and does nothing.
///
/// # Errors
/// [`Error::NotFound`] if there is no log, [`Error::InvalidInput`] if nothing needs to be cut, [`Error::Corrupt`] if nothing of
/// the log would be left, and those of the disk.
pub fn plan_repair(directory: impl AsRef<Path>, mut told: impl FnMut(Progress)) -> Result<Cut> {
    let disk = Directory::existing(directory.as_ref())?;
    plan(&disk, &mut told).map(|plan| plan.cut)
}

/// Cuts a damaged log before the first damage. Events are lost that were acknowledged: see [`plan_repair`] first.
///
/// The files that are cut are kept beside the others. The log begins a new epoch: tokens and checkpoints from before get
/// [`Error::LogRewound`]. After an interruption, the log cannot be opened; repairing it again finishes it.
///
/// # Errors
/// As for [`plan_repair`], and [`Error::Fenced`] if the log is in use.
pub fn repair(directory: impl AsRef<Path>, mut told: impl FnMut(Progress)) -> Result<Cut> {
    repair_on(&Directory::existing(directory.as_ref())?, &SystemClock, &mut told)
}

/// What is to be done.
struct Plan {
    cut: Cut,
    /// The last segment that stays.
    last: Segment,
    /// The offset at which its frames end from now on.
    end: u64,
    next: Continuity,
    /// Segments that go.
    goes: Vec<u32>,
    /// A position beyond every one that was ever given.
    beyond: u64,
}

fn plan(disk: &dyn Disk, told: &mut dyn FnMut(Progress)) -> Result<Plan> {
    let names = disk.list().map_err(|error| explain(&error, "read", &disk.path_of(""), Outcome::No))?;
    if !names.iter().any(|name| Segment::number_in(name).is_some()) {
        return Err(Error::NotFound { what: format!("log in {}", disk.path_of("")) });
    }
    let verified = verify_disk(disk, told)?;
    let began = names.iter().any(|name| name == UNREPAIRED);
    if !began && !verified.findings.iter().any(loses_events) {
        let why = "nothing needs to be cut; what is damaged, if anything, is made again or holds no event";
        return Err(Error::invalid(disk.path_of(""), why));
    }
    let (last, walked, next) = open_to_cut(disk, &names)?;
    let number = last.header.number;
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| Segment::number_in(name)).collect();
    numbers.sort_unstable();
    let goes: Vec<u32> = numbers.into_iter().filter(|other| *other > number).collect();
    let kept_events = next.events.unwrap_or_default();
    let kept = |n: &u32| (Segment::name(*n), kept_name(&names, *n));
    let files = std::iter::once(&number).chain(&goes).map(kept).collect();
    let keeps_before = Position(last.header.base + walked);
    let cut = Cut {
        log: LogIdentity { epoch: verified.log.map_or(0, |log| log.epoch), ..last.header.log },
        keeps_before,
        kept_events,
        lost_events: verified.events.saturating_sub(kept_events),
        damaged: verified.positions(),
        files,
    };
    let beyond = beyond(&verified, &last).max(packed_upto(disk, &names)?).next_multiple_of(SEGMENT_HEADER);
    Ok(Plan { cut, last, end: walked, next, goes, beyond })
}

/// A position that no event of the log can have had.
fn beyond(verified: &Verification, last: &Segment) -> u64 {
    let damaged = verified.positions().last().map_or(0, |(_, last)| last.0.saturating_add(1));
    verified.end.max(damaged).max(last.end())
}

fn loses_events(finding: &crate::verify::Finding) -> bool {
    finding.part == Part::Log
}

/// Under which name a segment is kept.
fn kept_name(names: &[String], number: u32) -> String {
    let name = |n: u32| format!("{}.before-repair-{n}", Segment::name(number));
    (1..).map(name).find(|name| !names.contains(name)).unwrap_or_default()
}

fn repair_on(disk: &dyn Disk, clock: &dyn Clock, told: &mut dyn FnMut(Progress)) -> Result<Cut> {
    let _owned = own(disk)?;
    let Plan { mut cut, last, end, next, goes, beyond } = plan(disk, told)?;
    let failed = |error: io::Error| explain(&error, "repair", &disk.path_of(""), Outcome::No);
    let begin = || -> io::Result<()> {
        if !disk.list()?.iter().any(|name| name == UNREPAIRED) {
            disk.create(UNREPAIRED, 0)?.sync()?;
        }
        disk.sync_names()
    };
    begin().map_err(failed)?;
    let name = Segment::name(last.header.number);
    let kept = cut.files.iter().find(|(cut, _)| *cut == name).map_or("", |(_, kept)| kept);
    copy_aside(disk, &name, kept).map_err(failed)?;
    let set_aside = || -> io::Result<()> {
        for number in goes.iter().rev() {
            let name = Segment::name(*number);
            if let Some((_, kept)) = cut.files.iter().find(|(cut, _)| *cut == name) {
                disk.rename(&name, kept)?;
            }
        }
        for name in disk.list()? {
            if Run::span_in(&name).is_some_and(|(_, run_end)| run_end > cut.keeps_before.0) {
                disk.remove(&name)?;
            }
        }
        Manifest::remove(disk)?;
        disk.sync_names()
    };
    set_aside().map_err(failed)?;
    let cut_off = match &last.packed {
        Some(packed) => unpack(disk, &name, &**packed, end),
        None => zero_from(disk, &name, end, last.header.capacity),
    };
    cut_off.map_err(failed)?;
    cut.log.epoch = new_epoch(cut.log.epoch, clock);
    begin_epoch(disk, &cut, &last.header, &next, beyond)?;
    let finish = || -> io::Result<()> {
        disk.remove(UNREPAIRED)?;
        disk.sync_names()
    };
    finish().map_err(failed)?;
    Ok(cut)
}

/// Copies a file, durably, before anything in it is overwritten.
fn copy_aside(disk: &dyn Disk, name: &str, kept: &str) -> io::Result<()> {
    let file = disk.open_to_read(name)?;
    let new = format!("{kept}.new");
    if disk.list()?.contains(&new) {
        disk.remove(&new)?;
    }
    let copy = disk.create(&new, 0)?;
    let mut chunk = vec![0; COPIED];
    let mut offset = 0;
    loop {
        let read = file.read_at(&mut chunk, offset)?;
        if read == 0 {
            break;
        }
        copy.write_at(&chunk[..read], offset)?;
        offset += read as u64;
    }
    copy.sync()?;
    disk.rename(&new, kept)?;
    disk.sync_names()
}

/// After its last frame a segment has zeros.
fn zero_from(disk: &dyn Disk, name: &str, end: u64, capacity: u64) -> io::Result<()> {
    let file = disk.open(name)?;
    let length = file.bytes()?.max(capacity);
    let zeros = vec![0; COPIED];
    let mut offset = end;
    while offset < length {
        let some = usize::try_from(length - offset).unwrap_or(usize::MAX).min(COPIED);
        file.write_at(&zeros[..some], offset)?;
        offset += some as u64;
    }
    file.sync()
}

/// A packed segment is not cut where it is: what stays of it is written out as the segment that it stands for.
fn unpack(disk: &dyn Disk, name: &str, packed: &dyn DiskFile, end: u64) -> io::Result<()> {
    let new = format!("{name}.new");
    if disk.list()?.contains(&new) {
        disk.remove(&new)?;
    }
    let file = disk.create(&new, 0)?;
    let mut chunk = vec![0; COPIED];
    let mut offset = 0;
    while offset < end {
        let some = usize::try_from(end - offset).unwrap_or(usize::MAX).min(COPIED);
        packed.read_at(&mut chunk[..some], offset)?;
        file.write_at(&chunk[..some], offset)?;
        offset += some as u64;
    }
    let capacity = packed.bytes()?;
    if end < capacity {
        file.write_at(&[0], capacity - 1)?;
    }
    file.sync()?;
    disk.rename(&new, name)?;
    disk.sync_names()
}

/// Goes on in a segment of the new epoch, beyond every position that was given before.
fn begin_epoch(disk: &dyn Disk, cut: &Cut, last: &SegmentHeader, next: &Continuity, base: u64) -> Result<()> {
    let header = SegmentHeader {
        log: cut.log,
        number: last.number + 1,
        base,
        capacity: last.capacity,
        first_frame: next.number.unwrap_or_default(),
        events_before: cut.kept_events,
        previous_end: cut.keeps_before.0,
        last_recorded_at: next.recorded_at,
    };
    go_on_in(disk, header)
}

#[cfg(all(test, feature = "sim"))]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::sync::Arc;

    use factum::{Append, EventStore, EventStoreExt, ManualClock, NewEvent, Read, StreamName, Timestamp};

    use super::*;
    use crate::{
        LogStore, Options,
        sim::{Crash, SimDisk},
    };

    fn open(disk: &SimDisk) -> Result<LogStore> {
        let options = Options::new("unused").segments(8192, 8192).indexed_in_memory(8);
        options.open_on(Arc::new(disk.clone()))
    }

    #[tokio::test]
    async fn a_power_cut_in_a_repair_leaves_a_log_that_is_refused_or_repaired() {
        let log = SimDisk::new(1);
        let store = open(&log).unwrap();
        for _ in 0..60 {
            let event = NewEvent::bytes("E", vec![7; 300]).unwrap();
            store.append(Append::to(StreamName::new("s-1").unwrap(), [event])).await.unwrap();
        }
        store.close().await.unwrap();
        drop(store);
        log.restart(Crash::PowerCut);
        // In the last segment: elsewhere a log with an index may be opened, and reads say what is damaged.
        let last = (1..).take_while(|n| log.contents(&Segment::name(*n)).is_some()).last().unwrap();
        assert!(log.rot(&Segment::name(last), SEGMENT_HEADER + 70, 3));
        let clock = ManualClock::at(Timestamp(7));
        let (mut refused, mut repaired) = (0, 0);
        for operations in 0.. {
            let disk = log.copy(operations);
            disk.crash_after(operations);
            let done = repair_on(&disk, &clock, &mut |_| {}).is_ok();
            disk.restart(Crash::PowerCut);
            if open(&disk).is_ok() {
                repaired += 1;
            } else {
                refused += 1;
                repair_on(&disk, &clock, &mut |_| {}).unwrap_or_else(|e| panic!("{operations}: {e}"));
            }
            let store = open(&disk).unwrap();
            let events = store.read_to_end(Read::all()).await.unwrap().len();
            assert!(events > 20 && events < 60, "{events}");
            assert!(store.head().await.unwrap().token.log.epoch > 1, "{operations}: it was not told");
            if done {
                break;
            }
        }
        assert!(refused > 5 && repaired > 0, "{refused} {repaired}");
    }
}
