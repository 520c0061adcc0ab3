//! A run: the index of a stretch of the log, in a file that never changes.
//!
//! It is a header page, then pages of entries and lists of positions in any order, then tables: which page holds which
//! hashes, what is certainly not in it, and where frames begin. Everything is checksummed; what is not right is thrown away and made
//! again from the log.

mod check;
mod make;

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use crc32c::crc32c;
use factum::{Error, EventId, Outcome, Position, Result, StreamState, Timestamp, error::Corrupt};
use quick_cache::{
    UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};
use uuid::Uuid;

use super::{
    bloom::{BLOCK, Bloom, block_of, may_have},
    hashers::Mixing,
    list::{List, Long, LongList, SHORT, put_positions, put_varint, senseless, take_positions, take_varint},
};
use crate::disk::{Disk, DiskFile, explain};

pub use self::{
    check::{Facts, each_stream},
    make::make,
};

const MAGIC: [u8; 8] = *b"factidx3";
pub const PAGE: usize = 4096;
/// Checksum, number of entries.
const PAGE_HEADER: usize = 6;
/// Bytes of a run, at most.
const LONGEST: u64 = 1 << 40;
/// Bytes written at once.
const BUFFER: usize = 1 << 20;
/// Bytes of the header that are covered by its checksum.
pub const HEADER: usize = 512;

/// Which part of the log a run is about, and what of the whole is known at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The log.
    pub log_id: Uuid,
    /// What hashes are made with. Not for other eyes: who knows it can make names that collide.
    pub secret: u64,
    /// The position at which it begins: the end of the run before.
    pub start: u64,
    /// The position at which it ends: the end of a frame.
    pub end: u64,
    /// Events up to its end, from the beginning of the log.
    pub events: u64,
    /// The number of the first frame after it.
    pub next_frame: u64,
    /// The last event up to its end; [`Position::START`] if there is none.
    pub last: Position,
    /// When that was recorded.
    pub last_recorded_at: Timestamp,
    /// Whether a stream in it hides some of its events.
    pub hides_something: bool,
    /// The largest id of an event in it: one that is larger is not in it.
    pub largest_id: u128,
}

/// What a run knows of a stream.
#[derive(Debug)]
pub struct StreamItem<'a> {
    /// Of its name.
    pub hash: u128,
    /// The revision of its first event in the run.
    pub first_revision: u64,
    /// The stream at the end of the run, unless that follows from its events.
    pub state: Option<StreamState>,
    /// Its events: lists that follow each other.
    pub lists: Vec<List<'a>>,
}

/// Pages of runs, and of the tables of packed segments, that were read of late and found to be right.
pub struct PageCache {
    pages: Cache<u64, Arc<Page>, UnitWeighter, Mixing>,
    /// The number of the next file that is opened.
    files: AtomicU64,
    /// Bytes that tables may still take which are kept whole.
    room: AtomicUsize,
    /// Bytes of the largest table that is.
    most: usize,
}

/// As it is on the disk.
type Page = [u8; PAGE];

impl PageCache {
    /// One of so many bytes, about: half of them for pages, half for the tables of smaller runs, which are kept whole.
    pub fn of_bytes(bytes: usize) -> Self {
        let pages = (bytes / 2 / PAGE).max(1);
        let hasher = Mixing::default();
        let pages = Cache::with(pages, pages as u64, UnitWeighter, hasher, DefaultLifecycle::default());
        let (files, room) = (AtomicU64::new(0), AtomicUsize::new(bytes / 2));
        Self { pages, files, room, most: bytes / 8 }
    }

    /// The number of one more file whose pages are kept.
    pub fn number(&self) -> u64 {
        self.files.fetch_add(1, Ordering::Relaxed)
    }

    /// A page of a file, or what `read` finds if it is not there.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn page<E>(
        &self,
        file: u64,
        offset: u64,
        read: impl FnOnce() -> std::result::Result<Page, E>,
    ) -> std::result::Result<Arc<Page>, E> {
        let key = file << LONGEST.ilog2() | offset;
        if let Some(page) = self.pages.get(&key) {
            return Ok(page);
        }
        let page = Arc::new(read()?);
        self.pages.insert(key, page.clone());
        Ok(page)
    }
}

impl fmt::Debug for PageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageCache").field("pages", &self.pages.len()).finish_non_exhaustive()
    }
}

/// A run that can be asked.
#[derive(Debug)]
pub struct Run {
    /// What it is about.
    pub span: Span,
    cache: Arc<PageCache>,
    /// Tells its pages from those of others in the cache.
    number: u64,
    file: Arc<dyn DiskFile>,
    /// Its length: nobody makes room for more than that.
    file_bytes: u64,
    path: String,
    streams: Table,
    keys: Table,
    ids: Table,
    /// Where some frames begin, and when their first event was recorded.
    pub sparse: Vec<(u64, Timestamp)>,
}

/// Which pages hold a hash: a filter, and a directory of the pages in the order of the hashes in them. Both are pages themselves, the
/// filter's first, and read like others unless the table is kept whole.
#[derive(Debug, Default)]
struct Table {
    /// Where the filter's pages begin, and how many blocks it has.
    filter: (u64, u64),
    /// Where the directory's pages begin, and how many entries it has.
    directory: (u64, u64),
    /// The first hash of each page of the directory.
    tops: Vec<u64>,
    /// All its pages.
    whole: Option<Whole>,
}

/// Where the blocks or entries of a table's page begin, and how many there are.
const TABLE_PAGE_HEADER: usize = 16;
const BLOCKS: u64 = ((PAGE - TABLE_PAGE_HEADER) / BLOCK) as u64;
const ENTRIES: u64 = ((PAGE - TABLE_PAGE_HEADER) / ENTRY) as u64;
/// Bytes of an entry of the directory: the first hash of a page, and where that is.
const ENTRY: usize = 16;

impl Table {
    /// Bytes of its pages: those of the filter, and the directory's.
    fn bytes(&self) -> u64 {
        let pages = self.filter.1.div_ceil(BLOCKS).saturating_add(self.directory.1.div_ceil(ENTRIES));
        pages.saturating_mul(PAGE as u64)
    }
}

/// A stream's entry, with its list not read yet.
#[derive(Debug)]
pub struct StreamEntry<'a> {
    /// The revision of its first event in the run.
    pub first_revision: u64,
    /// Its events.
    pub list: List<'a>,
}

impl Run {
    /// The name of the file of a run.
    pub fn name(start: u64, end: u64) -> String {
        format!("{start:016x}-{end:016x}.run")
    }

    /// The start and end in such a name.
    pub fn span_in(name: &str) -> Option<(u64, u64)> {
        let (start, end) = name.strip_suffix(".run")?.split_once('-')?;
        let span = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        (Self::name(span.0, span.1) == name).then_some(span)
    }

    /// Opens a run; anything that is not right about it is an error, and a reason to make it again.
    ///
    /// # Errors
    /// Those of the disk, and `InvalidData`.
    pub fn open(disk: &dyn Disk, name: &str, cache: &Arc<PageCache>) -> io::Result<Self> {
        let file = disk.open_to_read(name)?;
        let mut header = vec![0; HEADER];
        if file.read_at(&mut header, 0)? < HEADER || header[..8] != MAGIC {
            // Another version's is no damage.
            let other = header[..7] == MAGIC[..7] && header[7].is_ascii_digit();
            return Err(if other { io::ErrorKind::Unsupported.into() } else { senseless() });
        }
        let (covered, crc) = header.split_at(HEADER - 4);
        if crc != crc32c(covered).to_le_bytes() {
            return Err(senseless());
        }
        let mut numbers = covered[8..].as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
        let mut next = || numbers.next().unwrap_or_default();
        let log_id = Uuid::from_u64_pair(next(), next());
        #[allow(clippy::cast_possible_wrap, reason = "as it was written")]
        let span = Span {
            log_id,
            secret: next(),
            start: next(),
            end: next(),
            events: next(),
            next_frame: next(),
            last: Position(next()),
            last_recorded_at: Timestamp(next() as i64),
            hides_something: next() != 0,
            largest_id: Uuid::from_u64_pair(next(), next()).as_u128(),
        };
        let file_bytes = file.bytes()?;
        let blob = |next: &mut dyn FnMut() -> u64| -> io::Result<Vec<u8>> {
            let (offset, bytes, crc) = (next(), next(), next());
            let bytes =
                usize::try_from(bytes).ok().filter(|bytes| *bytes <= 1 << 32).ok_or_else(senseless)?;
            if file_bytes < offset.saturating_add(bytes as u64) {
                return Err(senseless());
            }
            let mut blob = vec![0; bytes];
            let read = file.read_at(&mut blob, offset)?;
            if read < bytes || u64::from(crc32c(&blob)) != crc { Err(senseless()) } else { Ok(blob) }
        };
        let mut table = || -> io::Result<Table> {
            let tops = numbers_of(&blob(&mut next)?);
            Ok(Table { tops, ..Table::default() })
        };
        let (mut streams, mut keys, mut ids) = (table()?, table()?, table()?);
        #[allow(clippy::cast_possible_wrap, reason = "as it was written")]
        let sparse = pairs(&blob(&mut next)?)
            .into_iter()
            .map(|(position, at)| (position, Timestamp(at as i64)))
            .collect();
        for table in [&mut streams, &mut keys, &mut ids] {
            (table.filter, table.directory) = ((next(), next()), (next(), next()));
            table.load(&*file, cache)?;
        }
        let (cache, number) = (cache.clone(), cache.number());
        Ok(Self {
            span,
            cache,
            number,
            file,
            file_bytes,
            path: disk.path_of(name),
            streams,
            keys,
            ids,
            sparse,
        })
    }

    /// Whether a file of this path is a run.
    pub fn is_file(path: &str) -> bool {
        path.rsplit('/').next().is_some_and(|name| Self::span_in(name).is_some())
    }

    /// What a person calls its file.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The length of its file.
    pub fn bytes(&self) -> u64 {
        self.file.bytes().unwrap_or_default()
    }

    /// Reads bytes that must be there.
    pub fn read(&self, offset: u64, bytes: usize) -> Result<Vec<u8>> {
        if offset.saturating_add(bytes as u64) > self.file_bytes {
            return Err(self.damaged(offset));
        }
        let mut buffer = vec![0; bytes];
        match self.file.read_at(&mut buffer, offset) {
            Ok(read) if read == bytes => Ok(buffer),
            Ok(_) => Err(self.damaged(offset)),
            Err(error) => Err(explain(&error, "read", &self.path, Outcome::No)),
        }
    }

    /// The error for bytes that make no sense.
    pub fn damaged(&self, offset: u64) -> Error {
        let problem =
            "the index is not what was written; delete this file, and it is made again from the log"
                .to_owned();
        Corrupt { segment: self.path.clone(), offset, positions: None, problem }.into()
    }

    /// A page, found to be right.
    fn page(&self, offset: u64) -> Result<Page> {
        let mut page = [0; PAGE];
        match self.file.read_at(&mut page, offset) {
            Ok(PAGE) if page[..4] == crc32c(&page[4..]).to_le_bytes() => Ok(page),
            Ok(_) => Err(self.damaged(offset)),
            Err(error) => Err(explain(&error, "read", &self.path, Outcome::No)),
        }
    }

    /// The same, from the cache if it is there.
    fn cached_page(&self, offset: u64) -> Result<Arc<Page>> {
        if offset >= LONGEST {
            return Err(self.damaged(offset));
        }
        self.cache.page(self.number, offset, || self.page(offset))
    }

    /// The entries of a page that begin with these bytes of a hash, decoded by `entry`.
    fn entries<T>(
        &self,
        page: &Page,
        offset: u64,
        begin: &[u8],
        entry: impl Fn(&mut &[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        let mut rest = &page[PAGE_HEADER..];
        let mut found = Vec::new();
        for _ in 0..u16::from_le_bytes([page[4], page[5]]) {
            let one = rest.split_first_chunk::<2>().and_then(|(length, more)| {
                let (one, more) = more.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
                rest = more;
                Some(one)
            });
            let mut one = one.ok_or_else(|| self.damaged(offset))?;
            if one.starts_with(begin) {
                found.push(entry(&mut one).ok_or_else(|| self.damaged(offset))?);
            }
        }
        Ok(found)
    }

    /// Tells that a stream will be looked up soon. If its table is not in memory, neither will it be known what to read.
    pub fn will_look_up(&self, stream: u128) {
        if self.streams.whole.is_none() {
            return;
        }
        for offset in self.pages_for(&self.streams, high(stream)).unwrap_or_default() {
            if self.cache.pages.get(&(self.number << LONGEST.ilog2() | offset)).is_none() {
                self.file.will_read(offset, PAGE);
            }
        }
    }

    /// Looks at bytes of a table's page.
    fn in_table<T>(
        &self,
        table: &Table,
        (start, page): (u64, u64),
        at: usize,
        look: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        let offset = start + page * PAGE as u64;
        match &table.whole {
            Some(whole) => {
                let from = usize::try_from(offset - table.filter.0).unwrap_or_default() + at;
                Ok(look(&whole.bytes[from..]))
            }
            None => Ok(look(&self.cached_page(offset)?[at..])),
        }
    }

    /// An entry of a table's directory.
    fn entry_of(&self, table: &Table, n: u64) -> Result<(u64, u64)> {
        #[allow(clippy::cast_possible_truncation, reason = "less than a page")]
        let at = TABLE_PAGE_HEADER + (n % ENTRIES) as usize * ENTRY;
        self.in_table(table, (table.directory.0, n / ENTRIES), at, |bytes| pairs(&bytes[..ENTRY])[0])
    }

    /// Whether a table's filter lets a hash through.
    fn may_have(&self, table: &Table, hash: u64) -> Result<bool> {
        if table.filter.1 == 0 {
            return Ok(false);
        }
        let block = block_of(hash, table.filter.1);
        #[allow(clippy::cast_possible_truncation, reason = "less than a page")]
        let at = TABLE_PAGE_HEADER + (block % BLOCKS) as usize * BLOCK;
        let page = (table.filter.0, block / BLOCKS);
        self.in_table(table, page, at, |bytes| may_have(hash, &bytes[..BLOCK]))
    }

    /// How many pages begin with a hash that is `before`: those are the first ones.
    fn pages_before(&self, table: &Table, before: impl Fn(u64) -> bool) -> Result<u64> {
        let Some(page) = table.tops.partition_point(|first| before(*first)).checked_sub(1) else {
            return Ok(0);
        };
        let first = page as u64 * ENTRIES;
        let (mut low, mut high) = (first + 1, (first + ENTRIES).min(table.directory.1));
        while low < high {
            let middle = low.midpoint(high);
            if before(self.entry_of(table, middle)?.0) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// The pages that may hold a hash.
    fn pages_for(&self, table: &Table, hash: u64) -> Result<Vec<u64>> {
        if !self.may_have(table, hash)? {
            return Ok(Vec::new());
        }
        let end = self.pages_before(table, |first| first <= hash)?;
        // Several pages may begin with it, and the one before may end with it.
        let mut first = end.saturating_sub(1);
        while first > 0 && self.entry_of(table, first)?.0 == hash {
            first -= 1;
        }
        (first..end).map(|n| Ok(self.entry_of(table, n)?.1)).collect()
    }

    /// The entries for these bytes of a hash.
    fn look_up<T>(
        &self,
        table: &Table,
        hash: u64,
        begin: &[u8],
        entry: impl Fn(&mut &[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        let mut found = Vec::new();
        for offset in self.pages_for(table, hash)? {
            found.append(&mut self.entries(&*self.cached_page(offset)?, offset, begin, &entry)?);
        }
        Ok(found)
    }

    fn raw_stream(&self, hash: u128) -> Result<Option<RawStream>> {
        let take = |bytes: &mut &[u8]| RawStream::take(bytes, self.span.start);
        Ok(self.look_up(&self.streams, high(hash), &hash.to_le_bytes(), take)?.into_iter().next())
    }

    /// What it knows of a stream.
    ///
    /// # Errors
    /// Those of the disk, and [`Error::Corrupt`].
    pub fn stream(self: &Arc<Self>, hash: u128) -> Result<Option<StreamEntry<'static>>> {
        self.raw_stream(hash)?.map(|raw| raw.open(self)).transpose()
    }

    /// How a stream is at the end of the run, if it is in it.
    ///
    /// # Errors
    /// As above.
    pub fn state(&self, hash: u128) -> Result<Option<StreamState>> {
        Ok(self.raw_stream(hash)?.map(|raw| raw.state_at_end()))
    }

    /// The events under a key.
    ///
    /// # Errors
    /// As above.
    pub fn key(self: &Arc<Self>, hash: u64) -> Result<Option<List<'static>>> {
        let take = |bytes: &mut &[u8]| take_key(bytes, self.span.start);
        let found = self.look_up(&self.keys, hash, &hash.to_le_bytes(), take)?;
        found.into_iter().next().map(|(_, raw)| raw.open(self)).transpose()
    }

    /// Where events with this id and this hash of it may be.
    ///
    /// # Errors
    /// As above.
    pub fn ids(&self, hash: u64, id: EventId) -> Result<Vec<Position>> {
        if id.0.as_u128() > self.span.largest_id {
            return Ok(Vec::new());
        }
        let found = self.look_up(&self.ids, hash, &hash.to_le_bytes(), take_id)?;
        Ok(found.into_iter().map(|(_, position)| position).collect())
    }
}

impl Table {
    /// Reads all of it into memory, if there is room. Then its pages must be right.
    fn load(&mut self, file: &dyn DiskFile, cache: &Arc<PageCache>) -> io::Result<()> {
        let filter_bytes = self.filter.1.div_ceil(BLOCKS).saturating_mul(PAGE as u64);
        let fits = self.tops.len() as u64 == self.directory.1.div_ceil(ENTRIES)
            && self.filter.0.checked_add(filter_bytes) == Some(self.directory.0)
            && file.bytes()? >= self.filter.0.saturating_add(self.bytes());
        if !fits {
            return Err(senseless());
        }
        let bytes = usize::try_from(self.bytes()).map_err(|_| senseless())?;
        let take = |room: usize| room.checked_sub(bytes);
        if bytes > cache.most || cache.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err()
        {
            return Ok(());
        }
        let mut whole = Whole { bytes: vec![0; bytes], cache: cache.clone() };
        let read = file.read_at(&mut whole.bytes, self.filter.0)?;
        let right = |page: &[u8]| page[..4] == crc32c(&page[4..]).to_le_bytes();
        let all_right = read == bytes && whole.bytes.chunks(PAGE).all(right);
        self.whole = Some(whole);
        if all_right { Ok(()) } else { Err(senseless()) }
    }
}

/// All pages of a table, and the room that they take.
#[derive(Debug)]
struct Whole {
    bytes: Vec<u8>,
    cache: Arc<PageCache>,
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.cache.room.fetch_add(self.bytes.len(), Ordering::Relaxed);
    }
}

/// Where the checksum of the header is.
#[cfg(feature = "sim")]
pub const CRC_AT: usize = HEADER - 4;

/// Where the parts of a run are, for those who mean to damage them.
#[cfg(feature = "sim")]
#[derive(Debug)]
pub struct Tables {
    /// Each blob: its offset, its length, and where the header has its checksum.
    pub blobs: Vec<(usize, usize, usize)>,
    /// The offset of each page.
    pub pages: Vec<usize>,
}

#[cfg(feature = "sim")]
impl Tables {
    /// The parts of an undamaged run; `None` for anything else.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        const NUMBERS_BEFORE: usize = 12;
        const BLOBS: usize = 4;
        let number = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let length = |at: usize| usize::try_from(number(at)?).ok();
        let mut tables = Self { blobs: Vec::new(), pages: Vec::new() };
        for n in 0..BLOBS {
            let at = 8 + (NUMBERS_BEFORE + n * 3) * 8;
            let (offset, length) = (length(at)?, length(at + 8)?);
            let blob = bytes.get(offset..offset.checked_add(length)?)?;
            if u64::from(crc32c(blob)) != number(at + 16)? {
                return None;
            }
            tables.blobs.push((offset, length, at + 16));
        }
        for table in 0..3 {
            let at = 8 + (NUMBERS_BEFORE + BLOBS * 3 + table * 4) * 8;
            let (filter, directory, entries) = (length(at)?, length(at + 16)?, length(at + 24)?);
            let entries_each = usize::try_from(ENTRIES).ok()?;
            let end = entries.div_ceil(entries_each).checked_mul(PAGE)?.checked_add(directory)?;
            bytes.get(filter..end)?;
            tables.pages.extend((filter..end).step_by(PAGE));
            for n in 0..entries {
                let entry =
                    directory + n / entries_each * PAGE + TABLE_PAGE_HEADER + n % entries_each * ENTRY;
                tables.pages.extend(length(entry + 8));
            }
        }
        tables.blobs.retain(|(_, length, _)| *length > 0);
        tables.pages.retain(|page| page.checked_add(PAGE).is_some_and(|end| end <= bytes.len()));
        (!tables.pages.is_empty()).then_some(tables)
    }
}

fn high(hash: u128) -> u64 {
    (hash >> 64) as u64
}

fn numbers_of(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number)).collect()
}

fn pairs(bytes: &[u8]) -> Vec<(u64, u64)> {
    let (pairs, _) = bytes.as_chunks::<16>();
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte));
    pairs.iter().map(|pair| (number(&pair[..8]), number(&pair[8..]))).collect()
}

/// A list as an entry has it: here, or elsewhere.
#[derive(Debug)]
enum RawList {
    Here(Vec<Position>),
    There { at: u64, count: usize },
}

impl RawList {
    fn take(bytes: &mut &[u8], base: u64) -> Option<Self> {
        let count = usize::try_from(take_varint(bytes)?).ok()?;
        if count <= SHORT {
            return take_positions(bytes, base, count).map(Self::Here);
        }
        Some(Self::There { at: take_varint(bytes)?, count })
    }

    fn open(self, run: &Arc<Run>) -> Result<List<'static>> {
        match self {
            Self::Here(positions) => Ok(List::Short(positions)),
            Self::There { at, count } => Long::open(run, at, count).map(List::Long),
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::Here(positions) => positions.len() as u64,
            Self::There { count, .. } => *count as u64,
        }
    }
}

#[derive(Debug)]
struct RawStream {
    hash: u128,
    first_revision: u64,
    state: Option<StreamState>,
    list: RawList,
}

impl RawStream {
    fn take(bytes: &mut &[u8], base: u64) -> Option<Self> {
        let (hash, rest) = bytes.split_first_chunk::<16>()?;
        *bytes = rest;
        let first_revision = take_varint(bytes)?;
        let state_bytes = usize::try_from(take_varint(bytes)?).ok()?;
        let (state, rest) = bytes.split_at_checked(state_bytes)?;
        *bytes = rest;
        let state = if state.is_empty() { None } else { Some(serde_json::from_slice(state).ok()?) };
        Some(Self {
            hash: u128::from_le_bytes(*hash),
            first_revision,
            state,
            list: RawList::take(bytes, base)?,
        })
    }

    fn state_at_end(&self) -> StreamState {
        let last_revision =
            self.first_revision.saturating_add(self.list.count()).checked_sub(1).map(factum::Revision);
        self.state.unwrap_or_else(|| StreamState { last_revision, ..StreamState::default() })
    }

    fn open(self, run: &Arc<Run>) -> Result<StreamEntry<'static>> {
        Ok(StreamEntry { first_revision: self.first_revision, list: self.list.open(run)? })
    }
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*number))
}

fn take_key(bytes: &mut &[u8], base: u64) -> Option<(u64, RawList)> {
    Some((take_u64(bytes)?, RawList::take(bytes, base)?))
}

fn take_id(bytes: &mut &[u8]) -> Option<(u64, Position)> {
    Some((take_u64(bytes)?, Position(take_u64(bytes)?)))
}

/// What a run is made from: everything sorted by hash.
pub trait Sorted {
    /// How many streams, keys and ids there are, at most.
    fn sizes(&self) -> [u64; 3];
    /// Hands on the streams.
    ///
    /// # Errors
    /// Those of where they come from, and of `each`.
    fn streams(&self, each: &mut dyn FnMut(StreamItem<'_>) -> Result<()>) -> Result<()>;
    /// Hands on the keys with their events.
    ///
    /// # Errors
    /// As above.
    fn keys(&self, each: &mut dyn FnMut(u64, Vec<List<'_>>) -> Result<()>) -> Result<()>;
    /// Hands on the ids.
    ///
    /// # Errors
    /// As above.
    fn ids(&self, each: &mut dyn FnMut(u64, Position) -> Result<()>) -> Result<()>;
}

/// Runs that follow each other, as the source of one.
#[derive(Debug)]
pub struct Merged<'a>(pub &'a [Arc<Run>]);

/// The entries of one table of a run, page by page.
struct Entries<'a, T> {
    run: &'a Arc<Run>,
    table: &'a Table,
    /// The number of the next page.
    next: u64,
    page: std::vec::IntoIter<T>,
    take: fn(&mut &[u8], u64) -> Option<T>,
}

impl<'a, T> Entries<'a, T> {
    fn of(run: &'a Arc<Run>, table: &'a Table, take: fn(&mut &[u8], u64) -> Option<T>) -> Self {
        Self { run, table, next: 0, page: Vec::new().into_iter(), take }
    }

    fn next(&mut self) -> Result<Option<T>> {
        loop {
            if let Some(entry) = self.page.next() {
                return Ok(Some(entry));
            }
            if self.next == self.table.directory.1 {
                return Ok(None);
            }
            let (_, offset) = self.run.entry_of(self.table, self.next)?;
            self.next += 1;
            let (page, start) = (self.run.page(offset)?, self.run.span.start);
            let entries = self.run.entries(&page, offset, &[], |bytes| (self.take)(bytes, start))?;
            self.page = entries.into_iter();
        }
    }
}

/// Hands on groups of entries with equal hashes, in the order of hashes; within a group, in the order of the runs.
fn merge<T, H: Ord + Copy>(
    mut sources: Vec<Entries<'_, T>>,
    hash: impl Fn(&T) -> H,
    mut each: impl FnMut(Vec<(&Arc<Run>, T)>) -> Result<()>,
) -> Result<()> {
    let mut heads = Vec::with_capacity(sources.len());
    for source in &mut sources {
        heads.push(source.next()?);
    }
    while let Some(least) = heads.iter().flatten().map(&hash).min() {
        let mut group = Vec::new();
        for (source, head) in sources.iter_mut().zip(&mut heads) {
            while head.as_ref().is_some_and(|entry| hash(entry) == least) {
                let next = source.next()?;
                group.extend(std::mem::replace(head, next).map(|entry| (source.run, entry)));
            }
        }
        each(group)?;
    }
    Ok(())
}

impl Sorted for Merged<'_> {
    fn sizes(&self) -> [u64; 3] {
        // Some are in more than one of them; too large a filter is only too good.
        let keys = |table: fn(&Run) -> &Table| {
            self.0.iter().map(|run| Bloom::keys_of(table(run).filter.1)).sum::<u64>()
        };
        [keys(|run| &run.streams), keys(|run| &run.keys), keys(|run| &run.ids)]
    }

    fn streams(&self, each: &mut dyn FnMut(StreamItem<'_>) -> Result<()>) -> Result<()> {
        let sources = self.0.iter().map(|run| Entries::of(run, &run.streams, RawStream::take)).collect();
        merge(
            sources,
            |raw| raw.hash,
            |group| {
                let mut item: Option<StreamItem<'_>> = None;
                for (run, raw) in group {
                    let (hash, state) = (raw.hash, raw.state);
                    let entry = raw.open(run)?;
                    let item = item.get_or_insert_with(|| StreamItem {
                        hash,
                        first_revision: entry.first_revision,
                        state: None,
                        lists: Vec::new(),
                    });
                    item.state = state;
                    item.lists.push(entry.list);
                }
                item.map_or(Ok(()), &mut *each)
            },
        )
    }

    fn keys(&self, each: &mut dyn FnMut(u64, Vec<List<'_>>) -> Result<()>) -> Result<()> {
        let sources = self.0.iter().map(|run| Entries::of(run, &run.keys, take_key)).collect();
        merge(
            sources,
            |(hash, _)| *hash,
            |group| {
                let mut hash = 0;
                let mut lists = Vec::new();
                for (run, (key, raw)) in group {
                    hash = key;
                    lists.push(raw.open(run)?);
                }
                each(hash, lists)
            },
        )
    }

    fn ids(&self, each: &mut dyn FnMut(u64, Position) -> Result<()>) -> Result<()> {
        let sources =
            self.0.iter().map(|run| Entries::of(run, &run.ids, |bytes, _| take_id(bytes))).collect();
        merge(
            sources,
            |(hash, _)| *hash,
            |group| group.into_iter().try_for_each(|(_, (hash, position))| each(hash, position)),
        )
    }
}
