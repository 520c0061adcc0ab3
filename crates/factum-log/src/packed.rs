//! The second kind of a segment's file: what is left of a segment when the space of events that are hidden for good was taken
//! back. Every position stays the place of its event.
//!
//! To its readers a packed file looks like the file it was made from, byte for byte, but for the removed events: there it has
//! their [stubs](crate::format::Stub), and then zeros. On the disk the zeros are left out. It is
//!
//! - a header page, like that of any segment, with a magic, a generation and a place for the table of its own;
//! - stretches of the original file, one after the other, in order;
//! - from the next multiple of [`PAGE`] on, a table: pages that say how long each stretch is, and how much was left out behind it;
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
    index::{put_varint, take_varint},
};

const MAGIC: [u8; 8] = *b"factpck1";
/// Bytes of a page of the table.
const PAGE: usize = 4096;
/// Bytes of which a file's length is a multiple.
const SECTOR: usize = 512;
/// Checksum, number of stretches, offset in the original file, offset in this one.
const PAGE_HEADER: usize = 24;
/// Bytes that a stretch takes in a page, at most.
const ENTRY: usize = 20;
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
    pub fn open(file: Arc<dyn DiskFile>) -> io::Result<Result<Self, Damage>> {
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
        Ok(Ok(Self { header, generation, synced_upto, removed, bytes, file, stretches_end, firsts }))
    }

    /// The stretches in a page of the table.
    fn page(&self, n: usize) -> io::Result<Vec<Stretch>> {
        let at = self.stretches_end.next_multiple_of(PAGE as u64) + (n * PAGE) as u64;
        let mut page = [0; PAGE];
        self.file.read_at(&mut page, at)?;
        decode_page(&page, self.header.seed(), at)
            .filter(|stretches| {
                stretches.iter().all(|stretch| stretch.here + stretch.bytes <= self.stretches_end)
            })
            .ok_or_else(|| damaged("a page of its table fails its checksum"))
    }

    /// The stretches that share something with a part of the original file.
    fn stretches(&self, from: u64, to: u64) -> io::Result<Vec<Stretch>> {
        let first = self.firsts.partition_point(|first| *first <= from).saturating_sub(1);
        let beyond = self.firsts.partition_point(|first| *first < to);
        let mut found = Vec::new();
        for n in first..beyond.max(first) {
            let page = self.page(n)?;
            found.extend(page.into_iter().filter(|s| s.original < to && s.original + s.bytes > from));
        }
        Ok(found)
    }

    /// Whether the table says where everything is: the stretches follow each other without overlap, both here and in the
    /// original file, and nothing lies between them here. With that, and with the frames in them, which have checksums of their
    /// own, every byte of the file is looked at.
    ///
    /// # Errors
    /// What is wrong with it, in the inner result, and those of the disk.
    pub fn check(&self) -> io::Result<Result<(), Damage>> {
        let (mut original, mut here) = (SEGMENT_HEADER, SEGMENT_HEADER);
        for (n, first) in self.firsts.iter().enumerate() {
            let page = self.page(n)?;
            if page.first().map(|stretch| stretch.original) != Some(*first) {
                return Ok(Err(Damage("the table of a packed segment contradicts itself")));
            }
            for stretch in page {
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
        buffer.fill(0);
        if offset < SEGMENT_HEADER {
            copy_shared(buffer, offset, &self.header.encode(), 0);
        }
        let stretches = self.stretches(offset, end)?;
        if let (Some(first), Some(last)) = (stretches.first(), stretches.last()) {
            // They follow each other here: one read fetches them all.
            let from = first.here + offset.saturating_sub(first.original);
            let to = last.here + last.bytes.min(end - last.original);
            let mut there = vec![0; usize::try_from(to - from).unwrap_or(usize::MAX)];
            if self.file.read_at(&mut there, from)? < there.len() {
                return Err(damaged("it ends too early"));
            }
            for stretch in &stretches {
                let begin = offset.max(stretch.original);
                let some = (stretch.original + stretch.bytes).min(end) - begin;
                let at = stretch.here + (begin - stretch.original) - from;
                let (at, some) = (usize::try_from(at), usize::try_from(some));
                let (Ok(at), Ok(some)) = (at, some) else { return Err(damaged("a stretch is too long")) };
                copy_shared(buffer, offset, &there[at..at + some], begin);
            }
        }
        Ok(bytes)
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

fn decode_page(page: &[u8; PAGE], seed: Seed, at: u64) -> Option<Vec<Stretch>> {
    let (crc, rest) = page.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*crc) != seed.crc(at, rest) {
        return None;
    }
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let (original, rest) = rest.split_first_chunk::<8>()?;
    let (here, mut rest) = rest.split_first_chunk::<8>()?;
    let (mut original, mut here) = (u64::from_le_bytes(*original), u64::from_le_bytes(*here));
    let mut stretches = Vec::new();
    for _ in 0..u32::from_le_bytes(*count) {
        let (bytes, gap) = (take_varint(&mut rest)?, take_varint(&mut rest)?);
        stretches.push(Stretch { original, here, bytes });
        here = here.checked_add(bytes)?;
        original = original.checked_add(bytes)?.checked_add(gap)?;
    }
    Some(stretches)
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
    /// The finished pages of the table, then the one that is being filled.
    pages: Vec<u8>,
    page: Vec<u8>,
    count: u32,
    firsts: Vec<u64>,
    page_here: u64,
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
            count: 0,
            firsts: Vec::new(),
            page_here: 0,
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
            _ => self.end_stretch(gap)?,
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
    fn end_stretch(&mut self, gap: u64) -> io::Result<()> {
        let Stretch { original, here, bytes } = self.stretch;
        self.stretch = Stretch { original: original + bytes + gap, here: here + bytes, bytes: 0 };
        if bytes == 0 {
            return Ok(());
        }
        if PAGE_HEADER + self.page.len() + ENTRY > PAGE {
            self.end_page();
        }
        if self.count == 0 {
            self.firsts.push(original);
            self.page_here = here;
        }
        put_varint(&mut self.page, bytes);
        put_varint(&mut self.page, gap);
        self.count += 1;
        Ok(())
    }

    /// The checksum comes later, when it is known where the page will be.
    fn end_page(&mut self) {
        let Some(first) = self.firsts.last().filter(|_| self.count > 0) else { return };
        self.pages.extend([0; 4]);
        self.pages.extend(self.count.to_le_bytes());
        self.pages.extend(first.to_le_bytes());
        self.pages.extend(self.page_here.to_le_bytes());
        self.pages.append(&mut self.page);
        self.pages.resize(self.pages.len().next_multiple_of(PAGE), 0);
        self.count = 0;
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
        self.end_stretch(0)?;
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
