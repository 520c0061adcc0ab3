//! How a run is written, from front to back.

use super::*;

/// Makes the file of a run, durable before it has its name, and opens it.
///
/// # Errors
/// Those of the disk and of the source. Then there is no such run.
pub fn make(
    disk: &dyn Disk,
    span: Span,
    source: &dyn Sorted,
    sparse: &[(u64, Timestamp)],
    cache: &Arc<PageCache>,
) -> Result<Run> {
    let name = Run::name(span.start, span.end);
    let path = disk.path_of(&name);
    let failed = |error: io::Error| explain(&error, "make", &path, Outcome::No);
    let new = format!("{name}.new");
    let create = || {
        if disk.list()?.contains(&new) {
            disk.remove(&new)?;
        }
        disk.create(&new, 0)
    };
    let mut out = Out { file: create().map_err(failed)?, path: &path, flushed: 0, buffer: vec![0; PAGE] };
    let [streams, keys, ids] = source.sizes();
    let (mut blobs, mut tables) = (Vec::new(), Vec::new());
    let mut finished = |table: Pages, out: &mut Out<'_>| {
        let (tops, numbers) = table.finish(out)?;
        blobs.push(tops);
        tables.extend(numbers);
        Ok::<_, Error>(())
    };

    let mut table = Pages::new(streams);
    source.streams(&mut |item| {
        let mut entry = item.hash.to_le_bytes().to_vec();
        put_varint(&mut entry, item.first_revision);
        let state = item.state.map(|state| serde_json::to_vec(&state)).transpose();
        let state = state.map_err(|e| failed(e.into()))?.unwrap_or_default();
        put_varint(&mut entry, state.len() as u64);
        entry.extend(state);
        put_list(&mut out, &mut entry, span.start, &item.lists)?;
        table.add(&mut out, high(item.hash), &entry)
    })?;
    finished(table, &mut out)?;

    let mut table = Pages::new(keys);
    source.keys(&mut |hash, lists| {
        let mut entry = hash.to_le_bytes().to_vec();
        put_list(&mut out, &mut entry, span.start, &lists)?;
        table.add(&mut out, hash, &entry)
    })?;
    finished(table, &mut out)?;

    let mut table = Pages::new(ids);
    source.ids(&mut |hash, position| {
        let mut entry = hash.to_le_bytes().to_vec();
        entry.extend(position.0.to_le_bytes());
        table.add(&mut out, hash, &entry)
    })?;
    finished(table, &mut out)?;
    #[allow(clippy::cast_sign_loss, reason = "read back as it was")]
    blobs.push(
        sparse
            .iter()
            .flat_map(|(at, time)| [at.to_le_bytes(), (time.0 as u64).to_le_bytes()].concat())
            .collect(),
    );

    let header = header(&mut out, span, &blobs, &tables)?;
    let file = out.finish(&header)?;
    let settle = || {
        file.sync()?;
        drop(file);
        disk.rename(&new, &name)?;
        Run::open(disk, &name, cache)
    };
    settle().map_err(failed)
}

/// Writes the blobs, and makes the header that leads to them and to the tables.
fn header(out: &mut Out<'_>, span: Span, blobs: &[Vec<u8>], tables: &[u64]) -> Result<Vec<u8>> {
    let (high, low) = span.log_id.as_u64_pair();
    let (high_id, low_id) = Uuid::from_u128(span.largest_id).as_u64_pair();
    #[allow(clippy::cast_sign_loss, reason = "read back as it was")]
    let mut numbers = vec![
        high,
        low,
        span.secret,
        span.start,
        span.end,
        span.events,
        span.next_frame,
        span.last.0,
        span.last_recorded_at.0 as u64,
        u64::from(span.hides_something),
        high_id,
        low_id,
    ];
    for blob in blobs {
        numbers.extend([out.at(), blob.len() as u64, u64::from(crc32c(blob))]);
        out.write(blob)?;
    }
    numbers.extend(tables);
    let mut header = MAGIC.to_vec();
    header.extend(numbers.into_iter().flat_map(u64::to_le_bytes));
    header.resize(HEADER - 4, 0);
    let crc = crc32c(&header);
    header.extend(crc.to_le_bytes());
    Ok(header)
}

fn put_list(out: &mut Out<'_>, entry: &mut Vec<u8>, base: u64, lists: &[List<'_>]) -> Result<()> {
    let count = lists.iter().map(List::len).sum::<usize>();
    put_varint(entry, count as u64);
    if count <= SHORT {
        let mut positions = Vec::with_capacity(count);
        for list in lists {
            list.each(|position| {
                positions.push(position);
                Ok(())
            })?;
        }
        put_positions(entry, base, &positions);
        return Ok(());
    }
    let mut write = |bytes: &[u8]| {
        let at = out.at();
        out.write(bytes).map(|()| at)
    };
    let mut long = LongList::default();
    for list in lists {
        list.each(|position| long.add(position, &mut write))?;
    }
    put_varint(entry, long.finish(&mut write)?);
    Ok(())
}

/// A file that is written from front to back; the header comes last.
struct Out<'a> {
    file: Arc<dyn DiskFile>,
    path: &'a str,
    flushed: u64,
    buffer: Vec<u8>,
}

impl Out<'_> {
    fn at(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    fn align(&mut self) -> Result<()> {
        let missing = self.at().next_multiple_of(PAGE as u64) - self.at();
        self.write(&[0; PAGE][..usize::try_from(missing).unwrap_or_default()])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let written = self.file.write_at(&self.buffer, self.flushed);
        written.map_err(|error| explain(&error, "write", self.path, Outcome::No))?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self, header: &[u8]) -> Result<Arc<dyn DiskFile>> {
        self.flush()?;
        let written = self.file.write_at(header, 0);
        written.map_err(|error| explain(&error, "write", self.path, Outcome::No))?;
        Ok(self.file)
    }
}

/// A table whose pages are being filled, in the order of hashes.
struct Pages {
    entries: Vec<u8>,
    count: u16,
    first: u64,
    pages: Vec<u8>,
    bloom: Bloom,
}

impl Pages {
    fn new(keys: u64) -> Self {
        Self { entries: Vec::new(), count: 0, first: 0, pages: Vec::new(), bloom: Bloom::for_keys(keys) }
    }

    fn add(&mut self, out: &mut Out<'_>, hash: u64, entry: &[u8]) -> Result<()> {
        if self.entries.len() + 2 + entry.len() > PAGE - PAGE_HEADER {
            self.close_page(out)?;
        }
        if self.count == 0 {
            self.first = hash;
        }
        let length = u16::try_from(entry.len()).unwrap_or(u16::MAX);
        self.entries.extend(length.to_le_bytes());
        self.entries.extend_from_slice(entry);
        self.count += 1;
        self.bloom.add(hash);
        Ok(())
    }

    fn close_page(&mut self, out: &mut Out<'_>) -> Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let mut rest = self.count.to_le_bytes().to_vec();
        rest.append(&mut self.entries);
        rest.resize(PAGE - 4, 0);
        // A page of the index is one of the page cache, or it takes two reads.
        out.align()?;
        self.pages.extend(self.first.to_le_bytes());
        self.pages.extend(out.at().to_le_bytes());
        self.count = 0;
        out.write(&crc32c(&rest).to_le_bytes())?;
        out.write(&rest)
    }

    /// Writes the filter and the directory, and returns the directory's first hashes, and what the header says of both.
    fn finish(mut self, out: &mut Out<'_>) -> Result<(Vec<u8>, [u64; 4])> {
        self.close_page(out)?;
        let entries = (self.pages.len() / ENTRY) as u64;
        let blocks = if entries == 0 { 0 } else { self.bloom.blocks() };
        out.align()?;
        let filter = out.at();
        if blocks > 0 {
            write_table(out, &self.bloom.to_bytes(), BLOCK)?;
        }
        let directory = out.at();
        write_table(out, &self.pages, ENTRY)?;
        let in_page = (PAGE - TABLE_PAGE_HEADER) / ENTRY * ENTRY;
        let tops = self.pages.chunks(in_page).flat_map(|page| page[..8].to_vec()).collect();
        Ok((tops, [filter, blocks, directory, entries]))
    }
}

/// Writes pages of a table, as many pieces in each as have room.
fn write_table(out: &mut Out<'_>, bytes: &[u8], piece: usize) -> Result<()> {
    for pieces in bytes.chunks((PAGE - TABLE_PAGE_HEADER) / piece * piece) {
        let mut page = [0; PAGE];
        page[TABLE_PAGE_HEADER..][..pieces.len()].copy_from_slice(pieces);
        let crc = crc32c(&page[4..]);
        page[..4].copy_from_slice(&crc.to_le_bytes());
        out.write(&page)?;
    }
    Ok(())
}
