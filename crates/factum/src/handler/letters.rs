//! Dead letters: events that were set aside, and what follows them under the same key.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    error::{Corrupt, Error, Result},
    event::RecordedEvent,
    handler::{Trouble, orders::Order},
    name::{EventType, StreamName},
    position::Position,
    reads::ReadStore,
    time::{Clock, SystemClock, Timestamp},
    worker::jittered_between,
};

/// Letters read from the store at once.
const PAGE: usize = 1000;
/// The first and the longest pause before an event that was refused is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));

/// An event that was set aside, by reference: the event itself stays where it is, in the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Where the event is.
    pub position: Position,
    /// What keeps its order: those of the same key wait behind it.
    pub key: String,
    /// The event's stream.
    pub stream: StreamName,
    /// The event's type.
    pub event_type: EventType,
    /// What is to become of it.
    pub standing: Standing,
    /// How often it was tried.
    pub attempts: u32,
    /// What went wrong the first time. `None`, if it has not been tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<Failing>,
    /// What went wrong the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Failing>,
}

/// What is to become of an event that was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is tried again by itself.
    Retrying,
    /// It is not tried again before somebody says so.
    Parked,
    /// It waits behind another of its key.
    Queued,
}

/// One failure to handle an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failing {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub why: String,
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, key, stream, event_type, standing, attempts, .. } = self;
        let standing = match standing {
            Standing::Retrying => "is tried again",
            Standing::Parked => "is parked",
            Standing::Queued => "waits behind another",
        };
        write!(f, "`{event_type}` at position {position} in `{stream}` (key `{key}`) {standing}")?;
        match &self.last {
            Some(last) => {
                let times = if *attempts == 1 { "attempt" } else { "attempts" };
                write!(f, " after {attempts} {times}, the last at {}: {}", last.at, last.why)
            }
            None => Ok(()),
        }
    }
}

/// How much may be set aside, and how often it is tried before it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) attempts: u32,
    pub(crate) keys: usize,
    pub(crate) letters: usize,
}

/// What one worker has set aside, and what of that is not stored yet.
#[derive(Debug)]
pub(crate) struct Parking {
    consumer: String,
    bounds: Bounds,
    queues: BTreeMap<String, Queue>,
    keys_by_position: BTreeMap<Position, String>,
    changed: BTreeMap<Position, Option<DeadLetter>>,
}

/// The letters of one key, which is never without any.
#[derive(Debug)]
struct Queue {
    letters: BTreeMap<Position, DeadLetter>,
    /// When the first is tried again. `None`: it is parked.
    due: Option<Instant>,
}

impl Parking {
    pub(crate) fn new(consumer: &str, bounds: Bounds) -> Self {
        let (queues, keys_by_position, changed) = Default::default();
        Self { consumer: consumer.to_owned(), bounds, queues, keys_by_position, changed }
    }

    /// What is stored.
    pub(crate) async fn load(
        consumer: &str,
        bounds: Bounds,
        reads: &dyn ReadStore,
        model: &str,
        generation: u32,
    ) -> Result<Self> {
        let mut parking = Self::new(consumer, bounds);
        for letter in stored(reads, model, generation).await? {
            let again = letter.standing == Standing::Retrying;
            let attempts = letter.attempts;
            let queue = parking.insert(letter);
            if queue.letters.len() == 1 && again {
                queue.due = Some(Instant::now() + jittered_between(PAUSE, attempts));
            }
        }
        parking.changed.clear();
        Ok(parking)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    pub(crate) fn holds(&self, key: &str) -> bool {
        self.queues.contains_key(key)
    }

    /// The keys that are held up.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.queues.keys().cloned().collect()
    }

    /// Where the events of a key are that are set aside, in their order.
    pub(crate) fn places(&self, key: &str) -> Vec<Position> {
        self.queues.get(key).into_iter().flat_map(|queue| queue.letters.keys().copied()).collect()
    }

    /// Keys that are held up, and letters in all.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.queues.len(), self.keys_by_position.len())
    }

    fn insert(&mut self, letter: DeadLetter) -> &mut Queue {
        self.keys_by_position.insert(letter.position, letter.key.clone());
        self.changed.insert(letter.position, Some(letter.clone()));
        let empty = Queue { letters: BTreeMap::new(), due: None };
        let queue = self.queues.entry(letter.key.clone()).or_insert(empty);
        queue.letters.insert(letter.position, letter);
        queue
    }

    /// Why nothing can be set aside under a new key, if that is so.
    pub(crate) fn is_full(&self) -> Option<Error> {
        let (keys, letters) = self.size();
        (keys >= self.bounds.keys || letters >= self.bounds.letters).then(|| self.too_much())
    }

    /// Why nothing can be set aside at all, not even behind what is, if that is so.
    pub(crate) fn has_too_many(&self) -> Option<Error> {
        (self.keys_by_position.len() >= self.bounds.letters).then(|| self.too_much())
    }

    fn too_much(&self) -> Error {
        let (keys, letters) = self.size();
        let Bounds { keys: most_keys, letters: most, .. } = self.bounds;
        {
            let why = format!(
                "{letters} events of {keys} keys are set aside, and no more than {most} of {most_keys} may be; mend what refuses them, then retry, skip or discard some"
            );
            Error::invalid(format!("the consumer `{}`", self.consumer), why)
        }
    }

    /// Sets an event aside that could not be handled.
    pub(crate) fn set_aside(&mut self, record: &RecordedEvent, key: String, trouble: &Trouble) {
        let mut letter = letter_of(record, key);
        letter.failed(trouble, self.bounds.attempts);
        let due = letter.next_attempt();
        self.insert(letter).due = due;
    }

    /// An event of a key that is held up.
    pub(crate) fn queue(&mut self, record: &RecordedEvent, key: String) {
        self.insert(letter_of(record, key));
    }

    /// The keys whose first letter is to be tried, and when the next one is.
    pub(crate) fn next_due(&self) -> Option<(String, Instant)> {
        let due = self.queues.iter().filter_map(|(key, queue)| Some((key, queue.due?)));
        due.min_by_key(|(_, due)| *due).map(|(key, due)| (key.clone(), due))
    }

    /// The place of the first letter of a key, if it is to be tried now.
    pub(crate) fn due(&self, key: &str) -> Option<Position> {
        let queue = self.queues.get(key)?;
        queue.due.filter(|due| *due <= Instant::now())?;
        queue.letters.keys().next().copied()
    }

    /// The first letter of a key was handled, or is not to be. What comes behind it is to be tried at once.
    pub(crate) fn remove(&mut self, position: Position) {
        let Some(key) = self.keys_by_position.remove(&position) else { return };
        self.changed.insert(position, None);
        let Entry::Occupied(mut queue) = self.queues.entry(key) else { return };
        let was_first = queue.get().letters.keys().next() == Some(&position);
        queue.get_mut().letters.remove(&position);
        if queue.get().letters.is_empty() {
            queue.remove();
        } else if was_first {
            let key = queue.key().clone();
            self.retry_key(&key);
        }
    }

    /// The first letter of a key could not be handled this time either.
    pub(crate) fn failed(&mut self, position: Position, trouble: &Trouble) {
        let (most, key) = (self.bounds.attempts, self.keys_by_position.get(&position));
        let Some(queue) = key.and_then(|key| self.queues.get_mut(key)) else { return };
        let Some(letter) = queue.letters.get_mut(&position) else { return };
        if trouble.is_infrastructure() {
            // Nothing was learnt of the event.
            queue.due = Some(Instant::now() + jittered_between(PAUSE, 4));
            return;
        }
        letter.failed(trouble, most);
        queue.due = letter.next_attempt();
        self.changed.insert(position, Some(letter.clone()));
    }

    /// Does what somebody has asked for. To do it twice is to do it once: each order says what it is about.
    pub(crate) fn obey(&mut self, order: &Order) {
        match order {
            Order::RetryAsked { key: Some(key) } => self.retry_key(key),
            Order::RetryAsked { key: None } => {
                let keys: Vec<_> = self.queues.keys().cloned().collect();
                keys.iter().for_each(|key| self.retry_key(key));
            }
            Order::SkipAsked { position, .. } => self.remove(*position),
            Order::DiscardAsked { key, through, .. } => {
                let queue = self.queues.get(key);
                let seen = queue.into_iter().flat_map(|queue| queue.letters.range(..=*through));
                let seen: Vec<_> = seen.map(|(position, _)| *position).collect();
                seen.into_iter().for_each(|position| self.remove(position));
            }
        }
    }

    /// Has the first letter of a key tried again, with all its attempts.
    fn retry_key(&mut self, key: &str) {
        let Some(queue) = self.queues.get_mut(key) else { return };
        queue.due = Some(Instant::now());
        if let Some((position, letter)) = queue.letters.iter_mut().next() {
            (letter.standing, letter.attempts) = (Standing::Retrying, 0);
            self.changed.insert(*position, Some(letter.clone()));
        }
    }

    /// What has changed since it was stored.
    pub(crate) fn changes(&self) -> Result<Vec<(Position, Option<String>)>> {
        let as_json = |letter: &Option<DeadLetter>| {
            letter.as_ref().map(|letter| {
                serde_json::to_string(letter).map_err(|e| Error::invalid("a dead letter", e.to_string()))
            })
        };
        self.changed.iter().map(|(position, letter)| Ok((*position, as_json(letter).transpose()?))).collect()
    }

    pub(crate) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The changes are stored.
    pub(crate) fn stored(&mut self) {
        self.changed.clear();
    }
}

fn letter_of(record: &RecordedEvent, key: String) -> DeadLetter {
    DeadLetter {
        position: record.position,
        key,
        stream: record.stream.clone(),
        event_type: record.event_type.clone(),
        standing: Standing::Queued,
        attempts: 0,
        first: None,
        last: None,
    }
}

impl DeadLetter {
    fn failed(&mut self, trouble: &Trouble, most: u32) {
        self.attempts += 1;
        let failing = Failing { at: SystemClock.now(), why: trouble.to_string() };
        self.first.get_or_insert_with(|| failing.clone());
        self.last = Some(failing);
        // What cannot be read will not be readable a moment later.
        let hopeless = matches!(trouble, Trouble::Undecodable(_)) || self.attempts >= most;
        self.standing = if hopeless { Standing::Parked } else { Standing::Retrying };
    }

    fn next_attempt(&self) -> Option<Instant> {
        let again = self.standing == Standing::Retrying;
        again.then(|| Instant::now() + jittered_between(PAUSE, self.attempts))
    }
}

/// All dead letters of a generation, in the order of their positions.
pub(crate) async fn stored(reads: &dyn ReadStore, model: &str, generation: u32) -> Result<Vec<DeadLetter>> {
    let (mut letters, mut after) = (Vec::new(), Position::START);
    loop {
        let page = reads.letters(model, generation, after, PAGE).await?;
        let all = page.len() < PAGE;
        for (position, letter) in page {
            after = position;
            letters.push(serde_json::from_str(&letter).map_err(|error| {
                Error::from(Corrupt {
                    segment: format!("the dead letters of `{model}`"),
                    offset: position.0,
                    positions: Some((position, position)),
                    problem: format!("it is none ({error}); was it changed by hand?"),
                })
            })?);
        }
        if all {
            return Ok(letters);
        }
    }
}
