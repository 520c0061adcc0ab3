//! The second kind of a segment's file: what is left of a segment when the space of events that are hidden for good was taken
//! back. Every position stays the place of its event.
//!
//! To its readers a packed file looks like the file it was made from, byte for byte, but for the removed events: there it has
//! their [stubs](crate::format::Stub), and then zeros. On the disk the zeros are left out. It is
//!
//! - a header page, like that of any segment, with a magic, a generation and a place for the table of its own;
//! - stretches of the original file, one after the other, in order;
//! - from the next multiple of [`PAGE`] on, a table: pages that say of each stretch where it was and where it is now;
//! - the offsets in the original file at which the pages begin, and zeros up to the end of a sector. Only these
//!   offsets are kept in memory.
//!
//! So to read an event is one page more than it was. The table's pages and the header have checksums; the stretches are records
//! and frames with their own, which start from where they stood in the original file.

use std::{io, sync::Arc};

use crc32c::crc32c;

use crate::{
    disk::DiskFile,
    format::{Damage, SEGMENT_HEADER, SEGMENT_HEADER_BYTES, Seed, SegmentHeader},
    index::PageCache,
};

const MAGIC: [u8; 8] = *b"factpck1";
/// Bytes of a page of the table.
pub const PAGE: usize = 4096;
/// Bytes of which a file's length is a multiple.
const SECTOR: usize = 512;
/// Checksum, number of stretches, offset of the first in the original file, and in this one.
const PAGE_HEADER: usize = 24;
/// Bytes of a stretch in a page: how far it is from the first, in the original file and in this one. Behind the last there is
/// one more entry, which says where that ends.
const ENTRY: usize = 8;
/// Stretches in a page, at most.
const ENTRIES: usize = (PAGE - PAGE_HEADER) / ENTRY - 1;
/// Zeros up to so many are written all the same: to leave them out would take as much.
const SHORT_GAP: usize = 8;
/// Bytes written at once.
const BUFFER: usize = 1 << 20;

/// What is known of a packed file: enough to find everything in it.
#[derive(Debug)]
pub struct Packed {
    /// The header of the segment.
    pub header: SegmentHeader,
    /// How many times the segment was packed.
    pub generation: u64,
    /// Everything before this position was durable when the file was made, and some of it is why the events were removed: a log
    /// that ends before has lost something.
    pub synced_upto: u64,
    /// How many of its events are removed.
    pub removed: u64,
    /// Bytes of the file.
    pub bytes: u64,
    file: Arc<dyn DiskFile>,
    cache: Arc<PageCache>,
    /// Tells its pages from those of others in the cache.
    number: u64,
    /// Where the stretches end, and the table begins at the next page.
    stretches_end: u64,
    /// The offset in the original file of the first stretch in each page of the table.
    firsts: Vec<u64>,
}

/// A part of the original file that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    /// Where it was.
    original: u64,
    /// Where it is.
    here: u64,
    bytes: u64,
}

impl Packed {
    /// Whether a file that begins like this is a packed one.
    pub fn begins_like_one(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// Opens a packed file.
    ///
    /// # Errors
    /// What is wrong with it, in the inner result, and those of the disk.
    pub fn open(file: Arc<dyn DiskFile>, cache: &Arc<PageCache>) -> io::Result<Result<Self, Damage>> {
        let mut page = vec![0; SEGMENT_HEADER_BYTES];
        let read = file.read_at(&mut page, 0)?;
        let (header, numbers) = match SegmentHeader::decode_as(MAGIC, &page[..read]) {
            Ok(found) => found,
            Err(damage) => return Ok(Err(damage)),
        };
        let [generation, synced_upto, removed, stretches_end, pages, firsts_crc] = numbers;
        let table = stretches_end.checked_next_multiple_of(PAGE as u64);
        let firsts_at = table.and_then(|table| table.checked_add(pages.checked_mul(PAGE as u64)?));
        let firsts_end = firsts_at.and_then(|at| at.checked_add(pages.checked_mul(8)?));
        let bytes = file.bytes()?;
        let (Some(firsts_at), Some(firsts_end), true) = (
            firsts_at,
            firsts_end,
            firsts_end.and_then(|end| end.checked_next_multiple_of(SECTOR as u64)) == Some(bytes),
        ) else {
            return Ok(Err(Damage("a packed segment's file does not have the length that it says")));
        };
        let mut firsts = vec![0; usize::try_from(firsts_end - firsts_at).unwrap_or(usize::MAX)];
        let read = file.read_at(&mut firsts, firsts_at)?;
        if read < firsts.len() || u64::from(crc32c(&firsts)) != firsts_crc {
            return Ok(Err(Damage("the table of a packed segment fails its checksum")));
        }
        let firsts = firsts.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let (cache, number) = (cache.clone(), cache.number());
        Ok(Ok(Self {
            header,
            generation,
            synced_upto,
            removed,
            bytes,
            file,
            cache,
            number,
            stretches_end,
            firsts,
        }))
    }

    fn page_at(&self, n: usize) -> u64 {
        self.stretches_end.next_multiple_of(PAGE as u64) + (n * PAGE) as u64
    }

    /// A page of the table, from the cache if it is to be kept there.
    fn page(&self, n: usize, keep: bool) -> io::Result<Page> {
        let at = self.page_at(n);
        let read = || {
            let mut bytes = [0; PAGE];
            self.file.read_at(&mut bytes, at)?;
            let right = Page::is_right(&bytes, self.header.seed(), at);
            if right { Ok(bytes) } else { Err(damaged("a page of its table fails its checksum")) }
        };
        let bytes = if keep { self.cache.page(self.number, at, read)? } else { Arc::new(read()?) };
        Page::of(bytes).filter(|page| page.end_here() <= self.stretches_end).ok_or_else(senseless)
    }

    /// The pages of the table that say something of a part of the original file.
    fn pages(&self, from: u64, to: u64) -> std::ops::Range<usize> {
        let first = self.firsts.partition_point(|first| *first <= from).saturating_sub(1);
        let beyond = self.firsts.partition_point(|first| *first < to);
        first..beyond.max(first)
    }

    /// The stretches that share something with a part of the original file.
    fn stretches(&self, from: u64, to: u64) -> io::Result<Vec<Stretch>> {
        let mut found = Vec::new();
        for n in self.pages(from, to) {
            // A scan must not drive others' pages out of the cache.
            self.page(n, to - from <= PAGE as u64)?.stretches(from, to, &mut found);
        }
        Ok(found)
    }

    /// Tells that these parts of the original file will be read soon. The pages of the table are on their way together, and then
    /// what they lead to.
    pub fn will_read_all(&self, parts: &[(u64, usize)]) {
        for &(offset, bytes) in parts {
            self.pages(offset, offset + bytes as u64)
                .for_each(|n| self.file.will_read(self.page_at(n), PAGE));
        }
        for &(offset, bytes) in parts {
            // What cannot be read now is noticed when it is read.
            for stretch in self.stretches(offset, offset + bytes as u64).unwrap_or_default().iter().take(1) {
                let at = stretch.here + offset.saturating_sub(stretch.original);
                self.file.will_read(at, bytes);
            }
        }
    }

    /// Reads into `buffer`, which begins at an offset in the original file, what the stretches share with it.
    fn fill(&self, buffer: &mut [u8], offset: u64, stretches: &[Stretch]) -> io::Result<()> {
        let (Some(first), Some(last)) = (stretches.first(), stretches.last()) else { return Ok(()) };
        // They follow each other here: one read fetches them all.
        let end = offset + buffer.len() as u64;
        let from = first.here + offset.saturating_sub(first.original);
        let to = last.here + last.bytes.min(end - last.original);
        let bytes = to.checked_sub(from).and_then(|bytes| usize::try_from(bytes).ok());
        let mut there = vec![0; bytes.filter(|bytes| *bytes <= buffer.len()).ok_or_else(senseless)?];
        if self.file.read_at(&mut there, from)? < there.len() {
            return Err(senseless());
        }
        for stretch in stretches {
            let begin = offset.max(stretch.original);
            let some = usize::try_from((stretch.original + stretch.bytes).min(end) - begin);
            let at = (stretch.here + (begin - stretch.original)).checked_sub(from).map(usize::try_from);
            let (Some(Ok(at)), Ok(some)) = (at, some) else { return Err(senseless()) };
            let some = there.get(at..).and_then(|there| there.get(..some)).ok_or_else(senseless)?;
            copy_shared(buffer, offset, some, begin);
        }
        Ok(())
    }

    /// Whether the table says where everything is: the stretches follow each other without overlap, both here and in the
    /// original file, and nothing lies between them here. With that, and with the frames in them, which have checksums of their
    /// own, every byte of the file is looked at.
    ///
    /// # Errors
    /// What is wrong with it, in the inner result, and those of the disk.
    pub fn check(&self) -> io::Result<Result<(), Damage>> {
        match self.check_all() {
            Err(error) => damage_in(&error).map_or(Err(error), |damage| Ok(Err(damage))),
            checked => checked,
        }
    }

    fn check_all(&self) -> io::Result<Result<(), Damage>> {
        let (mut original, mut here) = (SEGMENT_HEADER, SEGMENT_HEADER);
        for (n, first) in self.firsts.iter().enumerate() {
            let page = self.page(n, false)?;
            if page.count == 0 || page.stretch(0).original != *first {
                return Ok(Err(Damage("the table of a packed segment contradicts itself")));
            }
            for stretch in (0..page.count).map(|n| page.stretch(n)) {
                if stretch.original < original || stretch.here != here || stretch.bytes == 0 {
                    return Ok(Err(Damage("the table of a packed segment contradicts itself")));
                }
                (original, here) = (stretch.original + stretch.bytes, here + stretch.bytes);
            }
        }
        if here != self.stretches_end || original > self.header.capacity {
            return Ok(Err(Damage("the table of a packed segment does not say where everything is")));
        }
        let table = self.stretches_end.next_multiple_of(PAGE as u64);
        let firsts_end = table + (self.firsts.len() * (PAGE + 8)) as u64;
        for (from, to) in [(self.stretches_end, table), (firsts_end, self.bytes)] {
            let mut padding = vec![0; usize::try_from(to - from).unwrap_or(PAGE)];
            self.file.read_at(&mut padding, from)?;
            if padding.iter().any(|byte| *byte != 0) {
                return Ok(Err(Damage("a packed segment has something where it should have nothing")));
            }
        }
        Ok(Ok(()))
    }
}

/// The file contradicts itself, although its checksums hold.
fn senseless() -> io::Error {
    damaged("the stretches in its table contradict each other")
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// What is wrong with a file, if that is why it could not be read.
pub fn damage_in(error: &io::Error) -> Option<Damage> {
    let is = error.kind() == io::ErrorKind::InvalidData;
    is.then_some(Damage("the packed segment's table is not what was written"))
}

impl DiskFile for Packed {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.header.capacity)
    }

    /// Reads what the original file had there, with zeros where something was removed.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.header.capacity.saturating_sub(offset)).unwrap_or(usize::MAX);
        let bytes = buffer.len().min(left);
        let (buffer, end) = (&mut buffer[..bytes], offset + bytes as u64);
        let stretches = self.stretches(offset, end)?;
        if let [all] = stretches[..]
            && all.original <= offset
            && all.original + all.bytes >= end
        {
            let read = self.file.read_at(buffer, all.here + (offset - all.original))?;
            return if read == bytes { Ok(bytes) } else { Err(senseless()) };
        }
        buffer.fill(0);
        if offset < SEGMENT_HEADER {
            copy_shared(buffer, offset, &self.header.encode(), 0);
        }
        self.fill(buffer, offset, &stretches)?;
        Ok(bytes)
    }

    fn will_read(&self, offset: u64, bytes: usize) {
        self.will_read_all(&[(offset, bytes)]);
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "a packed segment is never written to"))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies into `into`, which begins at the offset `into_at`, what it shares with `from`, which begins at `from_at`.
fn copy_shared(into: &mut [u8], into_at: u64, from: &[u8], from_at: u64) {
    let begin = into_at.max(from_at);
    let end = (into_at + into.len() as u64).min(from_at + from.len() as u64);
    let place = |start: u64| usize::try_from(begin - start).unwrap_or(usize::MAX);
    if let Ok(some) = usize::try_from(end.saturating_sub(begin))
        && some > 0
    {
        into[place(into_at)..][..some].copy_from_slice(&from[place(from_at)..][..some]);
    }
}

/// A page of the table.
struct Page {
    bytes: Arc<[u8; PAGE]>,
    count: usize,
    /// Where its first stretch was, and is.
    original: u64,
    here: u64,
}

impl Page {
    /// Whether these bytes of the file are what was written there.
    fn is_right(bytes: &[u8; PAGE], seed: Seed, at: u64) -> bool {
        bytes.split_first_chunk().is_some_and(|(crc, rest)| u32::from_le_bytes(*crc) == seed.crc(at, rest))
    }

    fn of(bytes: Arc<[u8; PAGE]>) -> Option<Self> {
        let (_, rest) = bytes.split_first_chunk::<4>()?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let (original, rest) = rest.split_first_chunk::<8>()?;
        let (original, here) = (u64::from_le_bytes(*original), u64::from_le_bytes(*rest.first_chunk()?));
        let count = usize::try_from(u32::from_le_bytes(*count)).ok().filter(|count| *count <= ENTRIES)?;
        // Then nothing overflows.
        (original.max(here) < u64::MAX >> 1).then_some(Self { bytes, count, original, here })
    }

    fn entry(&self, n: usize) -> (u32, u32) {
        let number = |at: usize| self.bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let at = PAGE_HEADER + n * ENTRY;
        (number(at), number(at + 4))
    }

    fn stretch(&self, n: usize) -> Stretch {
        let ((original, here), (_, end)) = (self.entry(n), self.entry(n + 1));
        Stretch {
            original: self.original + u64::from(original),
            here: self.here + u64::from(here),
            bytes: u64::from(end.saturating_sub(here)),
        }
    }

    fn end_here(&self) -> u64 {
        self.here + u64::from(self.entry(self.count).1)
    }

    /// Adds the stretches that share something with a part of the original file.
    fn stretches(&self, from: u64, to: u64, found: &mut Vec<Stretch>) {
        let (mut first, mut beyond) = (0, self.count);
        while first < beyond {
            let middle = usize::midpoint(first, beyond);
            if self.original + u64::from(self.entry(middle).0) <= from {
                first = middle + 1;
            } else {
                beyond = middle;
            }
        }
        let from_there_on = (first.saturating_sub(1)..self.count).map(|n| self.stretch(n));
        let shared = from_there_on.take_while(|stretch| stretch.original < to);
        found.extend(shared.filter(|stretch| stretch.original + stretch.bytes > from));
    }
}

/// A packed file in the making. Without a file it only counts.
#[derive(Debug)]
pub struct Packing {
    file: Option<Arc<dyn DiskFile>>,
    seed: Seed,
    buffer: Vec<u8>,
    /// Bytes written before the buffer.
    flushed: u64,
    /// The stretch that is being written.
    stretch: Stretch,
    /// The finished pages of the table, and the stretches of the one that is being filled.
    pages: Vec<u8>,
    page: Vec<Stretch>,
    firsts: Vec<u64>,
}

impl Packing {
    /// A packed file of the segment with this header. What is written goes to `file`, which is empty.
    pub fn new(header: &SegmentHeader, file: Option<Arc<dyn DiskFile>>) -> Self {
        let stretch = Stretch { original: SEGMENT_HEADER, here: SEGMENT_HEADER, bytes: 0 };
        Self {
            file,
            seed: header.seed(),
            buffer: Vec::new(),
            flushed: SEGMENT_HEADER,
            stretch,
            pages: Vec::new(),
            page: Vec::new(),
            firsts: Vec::new(),
        }
    }

    /// Writes what stood at `original`, which must lie beyond all that was written.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn put(&mut self, original: u64, bytes: &[u8]) -> io::Result<()> {
        let gap = original - (self.stretch.original + self.stretch.bytes);
        match usize::try_from(gap) {
            Ok(gap) if gap <= SHORT_GAP => self.write(&[0; SHORT_GAP][..gap])?,
            _ => self.end_stretch(gap),
        }
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stretch.bytes += bytes.len() as u64;
        if self.file.is_none() {
            self.flushed += bytes.len() as u64;
            return Ok(());
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.write_at(&self.buffer, self.flushed)?;
        }
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Notes the stretch that was written, and that so much was left out behind it.
    fn end_stretch(&mut self, gap: u64) {
        let Stretch { original, here, bytes } = self.stretch;
        if bytes > 0 {
            let first = self.page.first().map_or(original, |first| first.original);
            // Distances in a page have 32 bits.
            let far = original + bytes - first > u64::from(u32::MAX);
            if self.page.len() == ENTRIES || far {
                self.end_page();
            }
            self.page.push(self.stretch);
        }
        self.stretch = Stretch { original: original + bytes + gap, here: here + bytes, bytes: 0 };
    }

    /// The checksum comes later, when it is known where the page will be.
    fn end_page(&mut self) {
        let (Some(first), Some(last)) = (self.page.first().copied(), self.page.last().copied()) else {
            return;
        };
        self.firsts.push(first.original);
        self.pages.extend([0; 4]);
        self.pages.extend(u32::try_from(self.page.len()).unwrap_or(0).to_le_bytes());
        self.pages.extend(first.original.to_le_bytes());
        self.pages.extend(first.here.to_le_bytes());
        let end = Stretch { original: last.original + last.bytes, here: last.here + last.bytes, bytes: 0 };
        for stretch in self.page.drain(..).chain([end]) {
            let distances = [stretch.original - first.original, stretch.here - first.here];
            let distances = distances.map(|distance| u32::try_from(distance).unwrap_or(u32::MAX));
            self.pages.extend(distances.into_iter().flat_map(u32::to_le_bytes));
        }
        self.pages.resize(self.pages.len().next_multiple_of(PAGE), 0);
    }

    /// Bytes of the file as it will be, or hardly more.
    pub fn bytes(&self) -> u64 {
        let stretches = (self.flushed + self.buffer.len() as u64).next_multiple_of(PAGE as u64);
        let pages = self.firsts.len() as u64 + 1;
        stretches + pages * PAGE as u64 + (pages * 8).next_multiple_of(SECTOR as u64)
    }

    /// Writes the table and, last of all, the header. The file is not synced yet.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn finish(mut self, header: &SegmentHeader, facts: Facts) -> io::Result<()> {
        self.end_stretch(0);
        self.end_page();
        let stretches_end = self.flushed + self.buffer.len() as u64;
        let table = stretches_end.next_multiple_of(PAGE as u64);
        for (n, page) in self.pages.chunks_exact_mut(PAGE).enumerate() {
            let crc = self.seed.crc(table + (n * PAGE) as u64, &page[4..]);
            page[..4].copy_from_slice(&crc.to_le_bytes());
        }
        self.buffer.extend(zeros(table - stretches_end));
        self.buffer.append(&mut self.pages);
        let firsts: Vec<u8> = self.firsts.iter().flat_map(|first| first.to_le_bytes()).collect();
        self.buffer.extend_from_slice(&firsts);
        let end = self.flushed + self.buffer.len() as u64;
        self.buffer.extend(zeros(end.next_multiple_of(SECTOR as u64) - end));
        self.flush()?;
        let numbers = [
            facts.generation,
            facts.synced_upto,
            facts.removed,
            stretches_end,
            self.firsts.len() as u64,
            u64::from(crc32c(&firsts)),
        ];
        match &self.file {
            Some(file) => file.write_at(&header.encode_as(MAGIC, &numbers), 0),
            None => Ok(()),
        }
    }
}

/// Less than a page of them.
fn zeros(bytes: u64) -> impl Iterator<Item = u8> {
    std::iter::repeat_n(0, usize::try_from(bytes).unwrap_or(0))
}

/// What a packed file says of itself, besides what the segment's header says.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// [`Packed::generation`].
    pub generation: u64,
    /// [`Packed::synced_upto`].
    pub synced_upto: u64,
    /// [`Packed::removed`].
    pub removed: u64,
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use factum::{LogIdentity, Timestamp};
    use fastrand::Rng;
    use uuid::Uuid;

    use super::*;
    use crate::{disk::Disk, sim::SimDisk};

    fn header(capacity: u64) -> SegmentHeader {
        SegmentHeader {
            log: LogIdentity { log_id: Uuid::from_u128(5), epoch: 1 },
            number: 3,
            base: 1 << 33,
            capacity,
            first_frame: 9,
            events_before: 8,
            previous_end: 1 << 33,
            last_recorded_at: Timestamp(7),
        }
    }

    fn cache() -> Arc<PageCache> {
        Arc::new(PageCache::of_bytes(2 * PAGE))
    }

    const FACTS: Facts = Facts { generation: 2, synced_upto: 1 << 34, removed: 0 };

    /// A file of random pieces, and the file that it looks like.
    #[allow(clippy::unwrap_used, reason = "a test")]
    fn packed(rng: &mut Rng, pieces: usize) -> (SimDisk, Packed, Vec<u8>) {
        let disk = SimDisk::new(1);
        let mut original = Vec::new();
        let file = disk.create("packed", 0).unwrap();
        let mut packing = Packing::new(&header(0), Some(file.clone()));
        let mut counting = Packing::new(&header(0), None);
        original.resize(SEGMENT_HEADER_BYTES, 0);
        for _ in 0..pieces {
            let (gap, bytes) = (rng.usize(0..20) * rng.usize(0..9), rng.usize(1..60));
            original.extend(std::iter::repeat_n(0, gap));
            let piece: Vec<u8> = std::iter::repeat_with(|| rng.u8(1..)).take(bytes).collect();
            for packing in [&mut packing, &mut counting] {
                packing.put(original.len() as u64, &piece).unwrap();
            }
            original.extend(piece);
        }
        original.resize(original.len().next_multiple_of(4096) + 4096, 0);
        let header = header(original.len() as u64);
        original[..SEGMENT_HEADER_BYTES].copy_from_slice(&header.encode());
        packing.finish(&header, FACTS).unwrap();
        file.sync().unwrap();
        let about = counting.bytes();
        let packed = Packed::open(file, &cache()).unwrap().unwrap();
        assert!(about >= packed.bytes && about <= packed.bytes + 2 * PAGE as u64, "{about} {}", packed.bytes);
        (disk, packed, original)
    }

    #[test]
    fn it_looks_like_the_file_that_it_was_made_from() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = Rng::with_seed(seed);
        // None, one page of the table, and several.
        for pieces in [0, 1, 40, 3000] {
            let (_, packed, original) = packed(&mut rng, pieces);
            assert_eq!(packed.check().unwrap(), Ok(()));
            assert_eq!((packed.generation, packed.synced_upto), (FACTS.generation, FACTS.synced_upto));
            let mut whole = vec![7; original.len() + 10];
            assert_eq!(packed.read_at(&mut whole, 0).unwrap(), original.len());
            assert!(whole[..original.len()] == original);
            for _ in 0..2000 {
                let (from, bytes) = (rng.usize(0..original.len() + 9), rng.usize(0..2000));
                let mut some = vec![7; bytes];
                let read = packed.read_at(&mut some, from as u64).unwrap();
                let there = &original[from.min(original.len())..(from + bytes).min(original.len())];
                assert!(some[..read] == *there, "{bytes} bytes at {from}");
            }
        }
    }

    #[test]
    fn every_flipped_bit_of_its_header_and_table_is_noticed() {
        let (disk, sound, _) = packed(&mut Rng::with_seed(3), 700);
        let (stretches_end, bytes) = (sound.stretches_end, sound.bytes);
        assert!(sound.firsts.len() > 1);
        for at in (0..SEGMENT_HEADER).chain(stretches_end..bytes) {
            let bit = u8::try_from(at % 8).unwrap();
            assert!(disk.rot("packed", at, bit));
            let opened = Packed::open(disk.open("packed").unwrap(), &cache()).unwrap();
            let noticed = opened.is_err() || opened.is_ok_and(|it| it.check().unwrap().is_err());
            assert!(noticed, "byte {at}");
            assert!(disk.rot("packed", at, bit));
        }
    }
}
