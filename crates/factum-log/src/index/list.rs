//! Lists of positions, as runs keep them: short ones beside their key, long ones in blocks of their own.

use std::{cell::RefCell, io, sync::Arc};

use crc32c::crc32c;
use factum::{Position, Result};

use super::run::Run;

/// Positions that stand beside their key, at most.
pub const SHORT: usize = 64;
/// Positions in a block of a long list.
const BLOCK: usize = 256;
/// Bytes of a block's entry in the list's directory.
const ENTRY: usize = 24;

/// Writes a number in as few bytes as it needs, seven bits in each.
pub fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        #[allow(clippy::cast_possible_truncation, reason = "the low seven bits")]
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    #[allow(clippy::cast_possible_truncation, reason = "less than 128")]
    out.push(number as u8);
}

/// Takes such a number from the front; `None` if it does not end.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let (mut number, mut shift) = (0u64, 0);
    loop {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(number);
        }
        shift += 7;
    }
}

/// Writes positions as the differences between them, the first from `base`.
pub fn put_positions(out: &mut Vec<u8>, base: u64, positions: &[Position]) {
    let mut last = base;
    for position in positions {
        put_varint(out, position.0 - last);
        last = position.0;
    }
}

/// Takes `count` such positions from the front.
pub fn take_positions(bytes: &mut &[u8], base: u64, count: usize) -> Option<Vec<Position>> {
    let mut last = base;
    let mut positions = Vec::with_capacity(count.min(1 << 16));
    for _ in 0..count {
        last = last.checked_add(take_varint(bytes)?)?;
        positions.push(Position(last));
    }
    Some(positions)
}

/// Writes the blocks of a long list as they come, and then the directory that leads to them.
#[derive(Debug, Default)]
pub struct LongList {
    block: Vec<Position>,
    bytes: Vec<u8>,
    directory: Vec<u8>,
}

impl LongList {
    /// Takes the next position. `write` writes bytes, and returns where they are.
    pub fn add(&mut self, position: Position, write: &mut impl FnMut(&[u8]) -> Result<u64>) -> Result<()> {
        self.block.push(position);
        if self.block.len() == BLOCK { self.close_block(write) } else { Ok(()) }
    }

    fn close_block(&mut self, write: &mut impl FnMut(&[u8]) -> Result<u64>) -> Result<()> {
        let Some((first, others)) = self.block.split_first() else { return Ok(()) };
        self.bytes.clear();
        put_positions(&mut self.bytes, first.0, others);
        self.directory.extend(first.0.to_le_bytes());
        self.directory.extend(write(&self.bytes)?.to_le_bytes());
        self.directory.extend(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.directory.extend(crc32c(&self.bytes).to_le_bytes());
        self.block.clear();
        Ok(())
    }

    /// Writes what is left, and returns where the directory is.
    pub fn finish(mut self, write: &mut impl FnMut(&[u8]) -> Result<u64>) -> Result<u64> {
        self.close_block(write)?;
        let crc = crc32c(&self.directory);
        self.directory.extend(crc.to_le_bytes());
        write(&self.directory)
    }
}

/// Positions in order.
#[derive(Debug)]
pub enum List<'a> {
    /// In memory, and somebody else's.
    Slice(&'a [Position]),
    /// In memory.
    Short(Vec<Position>),
    /// In a run.
    Long(Long),
}

/// A long list: its directory, and the block that was looked at last.
#[derive(Debug)]
pub struct Long {
    run: Arc<Run>,
    count: usize,
    blocks: Vec<BlockEntry>,
    last: RefCell<Option<(usize, Vec<Position>)>>,
}

#[derive(Clone, Copy, Debug)]
struct BlockEntry {
    first: Position,
    offset: u64,
    bytes: u32,
    crc: u32,
}

impl Long {
    /// The list of so many positions whose directory is there.
    pub fn open(run: &Arc<Run>, at: u64, count: usize) -> Result<Self> {
        let blocks = count.div_ceil(BLOCK);
        let directory = blocks.checked_mul(ENTRY).and_then(|bytes| bytes.checked_add(4));
        let bytes = run.read(at, directory.ok_or_else(|| run.damaged(at))?)?;
        let (directory, crc) = bytes.split_at(blocks * ENTRY);
        if crc != crc32c(directory).to_le_bytes() {
            return Err(run.damaged(at));
        }
        let (entries, _) = directory.as_chunks::<ENTRY>();
        let number = |entry: &[u8], at: usize| {
            entry[at..at + 8].iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte))
        };
        let entry = |entry: &[u8; ENTRY]| {
            let sizes = number(entry, 16);
            #[allow(clippy::cast_possible_truncation, reason = "two halves")]
            let (bytes, crc) = (sizes as u32, (sizes >> 32) as u32);
            BlockEntry { first: Position(number(entry, 0)), offset: number(entry, 8), bytes, crc }
        };
        Ok(Self {
            run: run.clone(),
            count,
            blocks: entries.iter().map(entry).collect(),
            last: RefCell::new(None),
        })
    }

    fn in_block<T>(&self, n: usize, look: impl FnOnce(&[Position]) -> T) -> Result<T> {
        let mut last = self.last.borrow_mut();
        let positions = match last.take() {
            Some((number, positions)) if number == n => positions,
            _ => self.block(n)?,
        };
        let answer = look(&positions);
        *last = Some((n, positions));
        Ok(answer)
    }

    fn block(&self, n: usize) -> Result<Vec<Position>> {
        let BlockEntry { first, offset, bytes, crc } = self.blocks[n];
        let bytes = self.run.read(offset, bytes as usize)?;
        let count = if n + 1 == self.blocks.len() { self.count - n * BLOCK } else { BLOCK };
        let rest =
            (crc32c(&bytes) == crc).then(|| take_positions(&mut &bytes[..], first.0, count - 1)).flatten();
        let rest = rest.ok_or_else(|| self.run.damaged(offset))?;
        Ok([first].into_iter().chain(rest).collect())
    }

    /// Where it begins in its run, and how many bytes it takes.
    pub fn extent(&self) -> (u64, u64) {
        let blocks = self.blocks.iter().map(|block| u64::from(block.bytes)).sum::<u64>();
        let start = self.blocks.first().map_or(0, |block| block.offset);
        (start, (self.blocks.len() * ENTRY) as u64 + 4 + blocks)
    }

    fn block_of(&self, position: Position) -> Option<usize> {
        self.blocks.partition_point(|block| block.first <= position).checked_sub(1)
    }
}

impl List<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Slice(list) => list.len(),
            Self::Short(list) => list.len(),
            Self::Long(long) => long.count,
        }
    }

    /// The position of this number, counted from 0.
    ///
    /// # Errors
    /// Those of the run.
    pub fn get(&self, n: usize) -> Result<Option<Position>> {
        match self {
            Self::Slice(list) => Ok(list.get(n).copied()),
            Self::Short(list) => Ok(list.get(n).copied()),
            Self::Long(long) if n < long.count => {
                long.in_block(n / BLOCK, |block| block.get(n % BLOCK).copied())
            }
            Self::Long(_) => Ok(None),
        }
    }

    /// The first position beyond `after`.
    ///
    /// # Errors
    /// Those of the run.
    pub fn next(&self, after: Position) -> Result<Option<Position>> {
        let long = match self {
            Self::Slice(list) => return Ok(next_in(list, after)),
            Self::Short(list) => return Ok(next_in(list, after)),
            Self::Long(long) => long,
        };
        let Some(n) = long.block_of(after) else { return Ok(long.blocks.first().map(|block| block.first)) };
        let here = long.in_block(n, |block| next_in(block, after))?;
        Ok(here.or_else(|| long.blocks.get(n + 1).map(|block| block.first)))
    }

    /// The last position before `before`.
    ///
    /// # Errors
    /// Those of the run.
    pub fn previous(&self, before: Position) -> Result<Option<Position>> {
        match self {
            Self::Slice(list) => Ok(previous_in(list, before)),
            Self::Short(list) => Ok(previous_in(list, before)),
            Self::Long(long) => {
                match before.0.checked_sub(1).and_then(|last| long.block_of(Position(last))) {
                    None => Ok(None),
                    Some(n) => long.in_block(n, |block| previous_in(block, before)),
                }
            }
        }
    }

    /// Whether a position is in it.
    ///
    /// # Errors
    /// Those of the run.
    pub fn has(&self, position: Position) -> Result<bool> {
        match self {
            Self::Slice(list) => Ok(list.binary_search(&position).is_ok()),
            Self::Short(list) => Ok(list.binary_search(&position).is_ok()),
            Self::Long(long) => match long.block_of(position) {
                None => Ok(false),
                Some(n) => long.in_block(n, |block| block.binary_search(&position).is_ok()),
            },
        }
    }

    /// How many lie between, both excluded, or some more.
    pub fn about_between(&self, after: Position, before: Position) -> usize {
        let between = |list: &[Position]| {
            let first = list.partition_point(|&position| position <= after);
            list[first..].partition_point(|&position| position < before)
        };
        match self {
            Self::Slice(list) => between(list),
            Self::Short(list) => between(list),
            Self::Long(long) => {
                let first = long.block_of(after).unwrap_or(0);
                let blocks = long.blocks.partition_point(|block| block.first < before).saturating_sub(first);
                (blocks * BLOCK).min(long.count)
            }
        }
    }

    /// Hands on every position, without holding more than a block of a long list.
    ///
    /// # Errors
    /// Those of the run, and of `each`.
    pub fn each(&self, mut each: impl FnMut(Position) -> Result<()>) -> Result<()> {
        match self {
            Self::Slice(list) => list.iter().copied().try_for_each(each),
            Self::Short(list) => list.iter().copied().try_for_each(each),
            Self::Long(long) => {
                (0..long.blocks.len()).try_for_each(|n| long.block(n)?.into_iter().try_for_each(&mut each))
            }
        }
    }
}

fn next_in(list: &[Position], after: Position) -> Option<Position> {
    list.get(list.partition_point(|&position| position <= after)).copied()
}

fn previous_in(list: &[Position], before: Position) -> Option<Position> {
    list[..list.partition_point(|&position| position < before)].last().copied()
}

/// The error of a run whose bytes make no sense.
pub fn senseless() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its bytes make no sense")
}
