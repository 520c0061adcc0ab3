//! What every store beside which we measure must be able to do, and what it is given.

use std::{error::Error, fmt, path::Path, pin::Pin, sync::Arc, sync::OnceLock};

/// Bytes of an event's data.
pub const EVENT_BYTES: usize = 256;
/// Types that events have, round robin; a filtered scan asks for one of them.
pub const TYPES: [&str; 10] = [
    "Opened",
    "Deposited",
    "Withdrawn",
    "Moved",
    "Renamed",
    "Blocked",
    "Unblocked",
    "Charged",
    "Noted",
    "Closed",
];

/// An append as it comes from the program that uses the store, before it is in the store's own words.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What the events concern: the stream `account-N`, and the tag `account:N`.
    pub entity: u64,
    /// Number of the first event, from which its type and its bytes follow.
    pub first: u64,
    /// How many events.
    pub events: usize,
    /// Whether each event concerns another entity: `entity`, `entity + 1` and so on.
    pub spread: bool,
    /// What must hold.
    pub condition: Condition,
    /// More tags of every event.
    pub tags: Vec<String>,
}

/// An event of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Fact {
    /// What it concerns.
    pub entity: u64,
    /// Its type.
    pub name: &'static str,
    /// What happened.
    pub data: &'static [u8],
}

impl Batch {
    /// Unconditional events of one entity.
    pub fn new(entity: u64, first: u64, events: usize) -> Self {
        Self { entity, first, events, spread: false, condition: Condition::None, tags: Vec::new() }
    }

    /// Each event.
    pub fn facts(&self) -> impl Iterator<Item = Fact> + use<> {
        let (entity, first, step) = (self.entity, self.first, u64::from(self.spread));
        (0..self.events as u64).map(move |n| Fact {
            entity: entity + n * step,
            name: TYPES[((first + n) % TYPES.len() as u64) as usize],
            data: data_of(first + n),
        })
    }

    /// The tags of an event that concerns this entity.
    pub fn tags_of(&self, entity: u64) -> impl Iterator<Item = String> + '_ {
        [tag_of(entity)].into_iter().chain(self.tags.iter().cloned())
    }

    /// Something made from the tags of each event, made once where all events have the same ones.
    pub fn with_tags<T: Clone, R, E>(
        &self,
        make: impl Fn(Vec<String>) -> Result<T, E>,
        mut each: impl FnMut(Fact, T) -> Result<R, E>,
    ) -> Result<Vec<R>, E> {
        let shared = make(self.tags_of(self.entity).collect())?;
        let mut all = Vec::with_capacity(self.events);
        for fact in self.facts() {
            let tags = if self.spread { make(self.tags_of(fact.entity).collect())? } else { shared.clone() };
            all.push(each(fact, tags)?);
        }
        Ok(all)
    }
}

/// What must hold for an append.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// Nothing.
    None,
    /// The entity's stream has had so many events.
    Revision {
        /// So many.
        events: u64,
        /// The same for a store without revisions: no event with the entity's tag came after this position.
        after: u64,
    },
    /// No event with any of these tags came after this position: a dynamic consistency boundary.
    Tags {
        /// The tags, any of which matters.
        any_of: Vec<String>,
        /// The position up to which the decision has seen.
        after: u64,
    },
}

/// The tag of an entity.
pub fn tag_of(entity: u64) -> String {
    format!("account:{entity}")
}

/// The stream of an entity.
pub fn stream_of(entity: u64) -> String {
    format!("account-{entity}")
}

/// The bytes of an event: a window into a pool that does not compress.
fn data_of(number: u64) -> &'static [u8] {
    let pool = noise();
    let windows = (pool.len() - EVENT_BYTES) as u64;
    let at = (number.wrapping_mul(7919) % windows) as usize;
    &pool[at..at + EVENT_BYTES]
}

/// A MiB of bytes from a fixed seed.
pub fn noise() -> &'static [u8] {
    static POOL: OnceLock<Vec<u8>> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut random = fastrand::Rng::with_seed(0xFAC7);
        (0..1 << 20).map(|_| random.u8(..)).collect()
    })
}

/// Why an append or a read did not happen.
#[derive(Debug)]
pub enum Failure {
    /// The condition did not hold.
    Conflict,
    /// Something else: the measurement ends.
    Broken(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict => f.write_str("the condition did not hold"),
            Self::Broken(why) => f.write_str(why),
        }
    }
}

impl Error for Failure {}

/// Takes any error of a store as one that ends the measurement.
pub fn broken(error: impl fmt::Display) -> Failure {
    Failure::Broken(error.to_string())
}

/// What came of an append: the position of its last event.
pub type Answer = Result<u64, Failure>;
/// An answer to wait for in a task.
pub type Pending = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A kind of store.
pub trait Peer: Sync {
    /// Its name, as given to `--peers`.
    fn name(&self) -> &'static str;
    /// What it is, and how it is used here.
    fn about(&self) -> &'static str;
    /// Opens a store in an existing directory.
    fn open(&self, directory: &Path) -> Result<Arc<dyn Store>, Failure>;
    /// Whether it is measured only when it is named, or in a full run.
    fn is_extra(&self) -> bool {
        false
    }
}

/// What a reader saw.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// How many events.
    pub events: u64,
    /// The sum of their lengths, and of their last bytes, so that each was looked at.
    pub sum: u64,
    /// The position up to which the reader has seen the log.
    pub upto: u64,
}

impl Seen {
    /// Takes note of an event.
    pub fn look(&mut self, data: &[u8]) {
        self.events += 1;
        self.sum += data.len() as u64 + data.last().copied().map_or(0, u64::from);
    }
}

/// An open store. Every append is durable before it is answered.
pub trait Store: Send + Sync {
    /// Appends, and waits in this thread.
    fn append(&self, batch: Batch) -> Answer;
    /// Appends, and waits in a task.
    fn append_in_task(self: Arc<Self>, batch: Batch) -> Pending;
    /// Reads all events of an entity, and looks at each: its stream, where there are streams.
    fn read_entity(&self, entity: u64) -> Result<Seen, Failure> {
        self.read_tags(&[tag_of(entity)])
    }
    /// Reads all events with any of these tags, and looks at each.
    fn read_tags(&self, any_of: &[String]) -> Result<Seen, Failure>;
    /// Reads everything, or all events of one type, in order.
    fn scan(&self, event_type: Option<&str>) -> Result<Seen, Failure>;
    /// Follows the log from its beginning: calls `each` for every event until that returns `false`.
    fn follow(&self, each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), Failure>;
    /// What it did to the disk since it was opened, where it can tell.
    fn trace(&self) -> Option<crate::limit::Trace> {
        None
    }
    /// Stops its threads. What was answered is on the disk already.
    fn close(&self) -> Result<(), Failure> {
        Ok(())
    }
}
