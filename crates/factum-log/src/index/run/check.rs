//! Whether every byte of a run is what was written, and what the run says as a whole.
//!
//! The entries of a run are a set of facts: *this event is found there*. The sum of the facts' hashes is compared with that of the
//! facts that follow from the log. Equal sums mean equal sets (but for one chance in 2^128), found without a lookup per event and
//! without holding either set in memory.

use std::{io, sync::Arc};

use factum::{Error, Outcome, Position, RecordedEvent, Result, Revision, StreamState};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    ENTRIES, Entries, HEADER, PAGE, PageCache, RawList, RawStream, Run, Table, high, merge, take_id, take_key,
};
use crate::{
    disk::{Disk, explain},
    format::is_removed,
    index::{List, Secret},
};

/// The sum of facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    sum: u128,
    count: u64,
}

/// The sums of facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Of streams and ids.
    lasting: Sum,
    /// Of keys.
    keys: Sum,
    /// Events of which the log has only stubs: what it says of their keys is gone.
    removed: u64,
}

/// What an event is found by.
#[derive(Clone, Copy, Debug)]
enum By {
    Stream = 1,
    Key = 2,
    Id = 3,
}

impl Facts {
    fn add(&mut self, by: By, hash: u128, revision: u64, position: Position) {
        let mut fact = [0; 33];
        fact[0] = by as u8;
        fact[1..17].copy_from_slice(&hash.to_le_bytes());
        fact[17..25].copy_from_slice(&revision.to_le_bytes());
        fact[25..].copy_from_slice(&position.0.to_le_bytes());
        let sum = if matches!(by, By::Key) { &mut self.keys } else { &mut self.lasting };
        sum.sum = sum.sum.wrapping_add(xxh3_128(&fact));
        sum.count += 1;
    }

    /// Whether an index that says this fits a log that says `log`. It may still have the keys of events that were removed.
    pub fn fit(&self, log: &Self) -> bool {
        let keys = if log.removed == 0 { self.keys == log.keys } else { self.keys.count >= log.keys.count };
        self.lasting == log.lasting && keys
    }

    /// Adds what an index must say of an event.
    pub fn add_event(&mut self, secret: Secret, event: &RecordedEvent, keys: &mut Vec<u64>) {
        let RecordedEvent { stream, revision: Revision(revision), position, id, .. } = event;
        let hash = secret.stream(stream);
        self.add(By::Stream, hash, *revision, *position);
        self.add(By::Id, u128::from(secret.id(hash, *id)), 0, *position);
        if is_removed(event) {
            self.removed += 1;
            return;
        }
        keys.clear();
        secret.keys_of(stream, &event.event_type, &event.tags, keys);
        for key in keys {
            self.add(By::Key, u128::from(*key), 0, *position);
        }
    }
}

/// A run as its own bytes show it.
#[derive(Debug, Default)]
pub struct Checked {
    /// What it says.
    pub facts: Facts,
    /// What belongs to something: where it begins, and how many bytes it has.
    extents: Vec<(u64, u64)>,
    /// What is wrong, and where.
    pub problems: Vec<(u64, &'static str)>,
}

const PAGE_DAMAGED: &str = "a page of the index fails its checksum";
const LIST_DAMAGED: &str = "a list of the index fails its checksum";
const OUT_OF_PLACE: &str = "an entry of the index is where it is not looked for";
const NOT_IN_FILTER: &str = "an entry of the index is not in its filter, and so never found";
const OUT_OF_ORDER: &str = "a list of the index is not in order, or leaves its stretch of the log";

impl Run {
    /// Opens a run to be looked through once.
    ///
    /// # Errors
    /// As for [`Run::open`].
    pub fn open_once(disk: &dyn Disk, name: &str) -> io::Result<Self> {
        Self::open(disk, name, &Arc::new(PageCache::of_bytes(PAGE)))
    }

    /// Reads every byte.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn check(self: &Arc<Self>, mut done: impl FnMut(u64)) -> Result<Checked> {
        let mut checked = Checked { extents: vec![(0, PAGE as u64)], ..Checked::default() };
        let start = self.span.start;
        let front = self.read(0, PAGE)?;
        if front[HEADER..].iter().any(|&byte| byte != 0) {
            checked.problems.push((HEADER as u64, "bytes that should be zero are not"));
        }
        self.check_table(
            &self.streams,
            &mut checked,
            &mut done,
            |bytes| {
                let raw = RawStream::take(bytes, start)?;
                Some((high(raw.hash), (raw.hash, raw.first_revision, raw.list)))
            },
            By::Stream,
        )?;
        self.check_table(
            &self.keys,
            &mut checked,
            &mut done,
            |bytes| {
                let (hash, list) = take_key(bytes, start)?;
                Some((hash, (u128::from(hash), 0, list)))
            },
            By::Key,
        )?;
        self.check_table(
            &self.ids,
            &mut checked,
            &mut done,
            |bytes| {
                let (hash, position) = take_id(bytes)?;
                Some((hash, (u128::from(hash), 0, RawList::Here(vec![position]))))
            },
            By::Id,
        )?;
        // The blobs were checked when the run was opened, and stand at its end.
        let tops = [&self.streams, &self.keys, &self.ids].map(|table| table.tops.len() as u64 * 8);
        let blobs = tops.iter().sum::<u64>() + self.sparse.len() as u64 * 16;
        if checked.problems.is_empty()
            && let Some(offset) = self.belongs_to_nothing(&mut checked.extents, blobs)?
        {
            checked.problems.push((offset, "the file has bytes that belong to nothing"));
        }
        Ok(checked)
    }

    /// Where there are bytes between or behind what belongs to something, the blobs of the end included, other than zeros.
    fn belongs_to_nothing(&self, extents: &mut [(u64, u64)], blobs: u64) -> Result<Option<u64>> {
        extents.sort_unstable();
        let mut end = 0;
        for &(start, bytes) in &*extents {
            if start > end && !self.is_zero(end, Some(start))? {
                return Ok(Some(end));
            }
            end = end.max(start + bytes);
        }
        Ok((!self.is_zero(end + blobs, None)?).then_some(end + blobs))
    }

    /// Whether there are only zeros from there on, up to `end` or the end of the file.
    fn is_zero(&self, mut offset: u64, end: Option<u64>) -> Result<bool> {
        let mut bytes = vec![0; PAGE];
        loop {
            let some = end.map_or(u64::MAX, |end| end - offset).min(PAGE as u64);
            let buffer = &mut bytes[..usize::try_from(some).unwrap_or(PAGE)];
            let read = self.file.read_at(buffer, offset);
            match read.map_err(|error| explain(&error, "read", &self.path, Outcome::No))? {
                0 => return Ok(true),
                read if bytes[..read].iter().any(|&byte| byte != 0) => return Ok(false),
                read => offset += read as u64,
            }
        }
    }

    fn check_table(
        self: &Arc<Self>,
        table: &Table,
        checked: &mut Checked,
        done: &mut impl FnMut(u64),
        take: impl Fn(&mut &[u8]) -> Option<(u64, (u128, u64, RawList))>,
        by: By,
    ) -> Result<()> {
        if !self.check_own_pages(table, checked, done)? {
            return Ok(());
        }
        for n in 0..table.directory.1 {
            let (first, offset) = self.entry_of(table, n)?;
            checked.extents.push((offset, PAGE as u64));
            done(PAGE as u64);
            let page = self.page(offset).and_then(|page| self.entries(&page, offset, &[], &take));
            let entries = match sound(page)? {
                Some(entries) => entries,
                None => {
                    checked.problems.push((offset, PAGE_DAMAGED));
                    continue;
                }
            };
            let next = if n + 1 < table.directory.1 { self.entry_of(table, n + 1)?.0 } else { u64::MAX };
            let mut last = first;
            if entries.first().is_none_or(|(hash, _)| *hash != first) {
                checked.problems.push((offset, OUT_OF_PLACE));
            }
            for (hash, (full, revision, list)) in entries {
                if hash < last || hash > next {
                    checked.problems.push((offset, OUT_OF_PLACE));
                }
                last = hash;
                if !self.may_have(table, hash)? {
                    checked.problems.push((offset, NOT_IN_FILTER));
                }
                let Some(list) = sound(list.open(self))? else {
                    checked.problems.push((offset, LIST_DAMAGED));
                    continue;
                };
                if let List::Long(long) = &list {
                    checked.extents.push(long.extent());
                    done(long.extent().1);
                }
                if sound(self.check_list(by, full, revision, &list, &mut checked.facts))?
                    .is_none_or(|fits| !fits)
                {
                    checked.problems.push((offset, OUT_OF_ORDER));
                }
            }
        }
        Ok(())
    }

    /// Checks the pages of the filter and the directory. Whether they can be asked.
    fn check_own_pages(
        &self,
        table: &Table,
        checked: &mut Checked,
        done: &mut impl FnMut(u64),
    ) -> Result<bool> {
        let (mut right, mut offset) = (true, table.filter.0);
        while offset < table.filter.0 + table.bytes() {
            if sound(self.page(offset))?.is_none() {
                checked.problems.push((offset, PAGE_DAMAGED));
                right = false;
            }
            offset += PAGE as u64;
        }
        for (n, top) in table.tops.iter().enumerate() {
            if right && self.entry_of(table, n as u64 * ENTRIES)?.0 != *top {
                checked.problems.push((table.directory.0, OUT_OF_PLACE));
            }
        }
        checked.extents.push((table.filter.0, table.bytes()));
        done(table.bytes());
        Ok(right)
    }

    /// Adds what a list says. Whether it grows and stays within the run.
    fn check_list(
        &self,
        by: By,
        hash: u128,
        mut revision: u64,
        list: &List<'_>,
        facts: &mut Facts,
    ) -> Result<bool> {
        let (mut after, mut fits) = (self.span.start, true);
        list.each(|position| {
            fits &= position.0 >= after && position.0 < self.span.end;
            after = position.0 + 1;
            facts.add(by, hash, revision, position);
            revision += u64::from(matches!(by, By::Stream));
            Ok(())
        })?;
        Ok(fits)
    }
}

/// Damage is something to report; a disk that cannot be read is an error.
fn sound<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(Error::Corrupt(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Hands on, for each stream, what runs that follow each other say of it: for each of them the revision of its first event there,
/// its events, and how it is afterwards.
///
/// # Errors
/// Those of the disk and of the runs.
pub fn each_stream(
    runs: &[Arc<Run>],
    mut each: impl FnMut(u128, Vec<(&Arc<Run>, u64, StreamState, List<'static>)>) -> Result<()>,
) -> Result<()> {
    let sources = runs.iter().map(|run| Entries::of(run, &run.streams, RawStream::take)).collect();
    merge(
        sources,
        |raw: &RawStream| raw.hash,
        |group| {
            let mut hash = 0;
            let mut entries = Vec::with_capacity(group.len());
            for (run, raw) in group {
                hash = raw.hash;
                let state = raw.state_at_end();
                let entry = raw.open(run)?;
                entries.push((run, entry.first_revision, state, entry.list));
            }
            each(hash, entries)
        },
    )
}
