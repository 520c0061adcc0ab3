//! Group commit for stores that have none of their own: one thread takes what is queued, commits it at once, and answers.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock},
    thread::{self, JoinHandle},
};

use tokio::sync::oneshot;

use crate::peer::{Answer, Batch, Condition, Fact, Failure, Peer, Pending, Seen, Store, broken, tag_of};

/// A store that can commit many appends at once.
pub trait Backend: Send + 'static {
    /// Decides on each append in order, makes all of them durable together, and says what came of each.
    fn commit(&mut self, batches: &[Batch]) -> Result<Vec<Answer>, Failure>;
}

/// The thread that commits, and its queue.
pub struct Group {
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<Jobs>,
    came: Condvar,
}

#[derive(Default)]
struct Jobs {
    batches: Vec<Batch>,
    replies: Vec<oneshot::Sender<Answer>>,
    closing: bool,
}

impl Queue {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    /// Starts the thread.
    pub fn start(mut backend: impl Backend) -> Self {
        let queue = Arc::new(Queue::default());
        let taken = queue.clone();
        let thread = thread::spawn(move || {
            loop {
                let idle = |jobs: &mut Jobs| jobs.batches.is_empty() && !jobs.closing;
                let mut jobs =
                    taken.came.wait_while(taken.jobs(), idle).unwrap_or_else(PoisonError::into_inner);
                let (batches, replies) =
                    (std::mem::take(&mut jobs.batches), std::mem::take(&mut jobs.replies));
                if batches.is_empty() {
                    return;
                }
                drop(jobs);
                match backend.commit(&batches) {
                    Ok(answers) => replies.into_iter().zip(answers).for_each(|(reply, answer)| {
                        let _ = reply.send(answer);
                    }),
                    Err(error) => replies.into_iter().for_each(|reply| {
                        let _ = reply.send(Err(broken(&error)));
                    }),
                }
            }
        });
        Self { queue, thread: Mutex::new(Some(thread)) }
    }

    /// Queues an append.
    pub fn submit(&self, batch: Batch) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        let mut jobs = self.queue.jobs();
        jobs.batches.push(batch);
        jobs.replies.push(reply);
        let first = jobs.batches.len() == 1;
        drop(jobs);
        if first {
            self.queue.came.notify_one();
        }
        answer
    }

    /// Queues an append and waits in this thread.
    pub fn append(&self, batch: Batch) -> Answer {
        self.submit(batch).blocking_recv().map_err(broken)?
    }

    /// Queues an append, to be waited for in a task.
    pub fn append_in_task(&self, batch: Batch) -> Pending {
        let answer = self.submit(batch);
        Box::pin(async move { answer.await.map_err(broken)? })
    }

    /// Commits what is queued and stops the thread.
    pub fn close(&self) {
        self.queue.jobs().closing = true;
        self.queue.came.notify_all();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.close();
    }
}

/// A sketch of the least that a log with conditional appends can do: what there is to win, with waiters and without a product.
pub struct Sketch;

/// Room that the sketch's file takes at once.
const ROOM: u64 = 512 << 20;
/// Before each event: bytes of the tag, bytes of the data, CRC.
const HEADER: usize = 12;

#[derive(Default)]
struct Index {
    places: Vec<(u64, u32)>,
    by_tag: HashMap<String, Vec<u64>>,
}

struct Writer {
    file: Arc<File>,
    index: Arc<RwLock<Index>>,
    end: u64,
    bytes: Vec<u8>,
}

struct Open {
    group: Group,
    file: Arc<File>,
    index: Arc<RwLock<Index>>,
}

impl Peer for Sketch {
    fn name(&self) -> &'static str {
        "sketch"
    }

    fn about(&self) -> &'static str {
        "a group-committed file with one index of tags in memory, and nothing else: not a product, but a lower bound of the work"
    }

    fn is_extra(&self) -> bool {
        true
    }

    fn open(&self, directory: &Path) -> Result<Arc<dyn Store>, Failure> {
        let path = directory.join("sketch");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(broken)?;
        if file.metadata().map_err(broken)?.len() == 0 {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, ROOM).map_err(broken)?;
            file.sync_all().map_err(broken)?;
        }
        let file = Arc::new(file);
        let (index, end) = rebuild(&file)?;
        let index = Arc::new(RwLock::new(index));
        let writer = Writer { file: file.clone(), index: index.clone(), end, bytes: Vec::new() };
        Ok(Arc::new(Open { group: Group::start(writer), file, index }))
    }
}

impl Index {
    fn add(&mut self, place: u64, bytes: u32, tags: impl Iterator<Item = String>) {
        self.places.push((place, bytes));
        let position = self.places.len() as u64;
        for tag in tags {
            self.by_tag.entry(tag).or_default().push(position);
        }
    }

    fn last_of(&self, tag: &str) -> u64 {
        self.by_tag.get(tag).and_then(|positions| positions.last().copied()).unwrap_or(0)
    }
}

/// Reads the whole file to find what is in it.
fn rebuild(file: &File) -> Result<(Index, u64), Failure> {
    let (mut index, mut at, mut buffer) = (Index::default(), 0, vec![0; 1 << 20]);
    loop {
        let filled = file.read_at(&mut buffer, at).map_err(broken)?;
        let mut used = 0;
        while let Some((tags, whole)) = whole_event(&buffer[used..filled]) {
            let tags = String::from_utf8_lossy(&buffer[used + HEADER..used + HEADER + tags]).into_owned();
            let bytes = whole as u32;
            index.add(at + used as u64, bytes, tags.split(' ').map(str::to_owned));
            used += whole;
        }
        if used == 0 {
            return Ok((index, at));
        }
        at += used as u64;
    }
}

/// Bytes of the tags and of all of the event at the beginning of `bytes`, if there is one.
fn whole_event(bytes: &[u8]) -> Option<(usize, usize)> {
    let number = |at: usize| bytes.get(at..at + 4).and_then(|b| Some(u32::from_le_bytes(b.try_into().ok()?)));
    let (tags, data, crc) = (number(0)? as usize, number(4)? as usize, number(8)?);
    let body = bytes.get(HEADER..HEADER + tags + data)?;
    (tags > 0 && crc32c::crc32c(body) == crc).then_some((tags, HEADER + tags + data))
}

impl Backend for Writer {
    fn commit(&mut self, batches: &[Batch]) -> Result<Vec<Answer>, Failure> {
        let mut index = Index::default();
        let mut answers = Vec::with_capacity(batches.len());
        let known = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let before = known.places.len() as u64;
        self.bytes.clear();
        for batch in batches {
            let last = |tag: &str| {
                let fresh = index.last_of(tag);
                if fresh > 0 { before + fresh } else { known.last_of(tag) }
            };
            let holds = match &batch.condition {
                Condition::None => true,
                Condition::Revision { after, .. } => last(&tag_of(batch.entity)) <= *after,
                Condition::Tags { any_of, after } => any_of.iter().all(|tag| last(tag) <= *after),
            };
            if !holds {
                answers.push(Err(Failure::Conflict));
                continue;
            }
            let mut tags = String::new();
            for Fact { entity, data, .. } in batch.facts() {
                if tags.is_empty() || batch.spread {
                    tags = batch.tags_of(entity).collect::<Vec<_>>().join(" ");
                }
                let begin = self.bytes.len();
                self.bytes.extend((tags.len() as u32).to_le_bytes());
                self.bytes.extend((data.len() as u32).to_le_bytes());
                self.bytes.extend([0; 4]);
                self.bytes.extend(tags.as_bytes());
                self.bytes.extend(data);
                let crc = crc32c::crc32c(&self.bytes[begin + HEADER..]);
                self.bytes[begin + 8..begin + 12].copy_from_slice(&crc.to_le_bytes());
                index.add(
                    self.end + begin as u64,
                    (self.bytes.len() - begin) as u32,
                    tags.split(' ').map(str::to_owned),
                );
            }
            answers.push(Ok(before + index.places.len() as u64));
        }
        drop(known);
        self.file.write_all_at(&self.bytes, self.end).map_err(broken)?;
        self.file.sync_data().map_err(broken)?;
        self.end += self.bytes.len() as u64;
        let mut known = self.index.write().unwrap_or_else(PoisonError::into_inner);
        known.places.extend(index.places);
        for (tag, positions) in index.by_tag {
            known.by_tag.entry(tag).or_default().extend(positions.iter().map(|p| p + before));
        }
        Ok(answers)
    }
}

impl Open {
    fn event(&self, place: u64, bytes: u32, buffer: &mut Vec<u8>, seen: &mut Seen) -> Result<(), Failure> {
        buffer.resize(bytes as usize, 0);
        self.file.read_exact_at(buffer, place).map_err(broken)?;
        let (tags, _) = whole_event(buffer).ok_or_else(|| broken("a damaged event"))?;
        seen.look(&buffer[HEADER + tags..]);
        Ok(())
    }
}

impl Store for Open {
    fn append(&self, batch: Batch) -> Answer {
        self.group.append(batch)
    }

    fn append_in_task(self: Arc<Self>, batch: Batch) -> Pending {
        self.group.append_in_task(batch)
    }

    fn read_tags(&self, any_of: &[String]) -> Result<Seen, Failure> {
        let (places, upto) = {
            let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
            let mut positions: Vec<u64> =
                any_of.iter().filter_map(|tag| index.by_tag.get(tag)).flatten().copied().collect();
            positions.sort_unstable();
            positions.dedup();
            let places: Vec<_> = positions.iter().map(|p| index.places[*p as usize - 1]).collect();
            (places, index.places.len() as u64)
        };
        let (mut seen, mut buffer) = (Seen { upto, ..Seen::default() }, Vec::new());
        for (place, bytes) in places {
            self.event(place, bytes, &mut buffer, &mut seen)?;
        }
        Ok(seen)
    }

    fn scan(&self, event_type: Option<&str>) -> Result<Seen, Failure> {
        if event_type.is_some() {
            return Err(broken("it keeps no types"));
        }
        let mut seen = Seen::default();
        let (mut at, mut buffer) = (0, vec![0; 1 << 20]);
        loop {
            let filled = self.file.read_at(&mut buffer, at).map_err(broken)?;
            let mut used = 0;
            while let Some((tags, whole)) = whole_event(&buffer[used..filled]) {
                seen.look(&buffer[used + HEADER + tags..used + whole]);
                used += whole;
            }
            if used == 0 {
                return Ok(seen);
            }
            at += used as u64;
        }
    }

    fn follow(&self, _: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Failure> {
        Err(broken("it has no subscriptions"))
    }

    fn close(&self) -> Result<(), Failure> {
        self.group.close();
        Ok(())
    }
}
