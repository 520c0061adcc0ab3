//! Stores that break one promise now and then: the tests of the tests.
//!
//! A checker that finds nothing may be blind. Each [`Bug`] is a way in which real stores have failed; the suite's own tests show
//! that each is found within a few seeds.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use factum::{
    Append, Appended, AsOf, Error, EventId, EventStore, Guard, Head, Limits, MemoryStore, NewEvent, Outcome,
    Page, Placed, Position, Read, Result, Revision, Source, Start, StreamName, StreamState, Token,
    error::{Actual, Conflict},
};
use fastrand::Rng;

/// A way to break a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A read is answered from an older state, as from a replica that lags.
    StaleRead,
    /// An append is acknowledged, and lost.
    LostAck,
    /// An append that is sent again is written again.
    DuplicateOnRetry,
    /// Only the first half of an append is written, and the error says that nobody knows.
    TornBatch,
    /// An append is written in another order than it was given.
    Reordering,
    /// An append is acknowledged before it has its place; another one that is sent later comes before it.
    LateCommit,
    /// Guards are checked first, and the append is written later.
    RacyGuard,
    /// Guards on queries are not looked at.
    BlindQueryGuard,
    /// A page leaves out an event in its middle, as when a position is taken before but visible after a later one.
    SkippedEvent,
    /// A guard is said not to hold although it does.
    FalseConflict,
    /// An append that is sent again is refused by its guards in place of being recognised.
    GuardsBeforeReplay,
    /// An event appears that nobody sent.
    InventedEvent,
    /// An event is recorded with other content than was sent.
    AlteredContent,
    /// An event is read with other content than was recorded.
    AlteredReading,
    /// An append is written, and the error says that it was not.
    RefusedYetRecorded,
    /// A read shows the first part of an append before the rest.
    HalfVisible,
    /// An append that was sent again is told other places than the first time.
    ForgetfulReplay,
    /// The state of a stream is an old one.
    StaleState,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::StaleRead,
        Self::LostAck,
        Self::DuplicateOnRetry,
        Self::TornBatch,
        Self::Reordering,
        Self::LateCommit,
        Self::RacyGuard,
        Self::BlindQueryGuard,
        Self::SkippedEvent,
        Self::FalseConflict,
        Self::GuardsBeforeReplay,
        Self::InventedEvent,
        Self::AlteredContent,
        Self::AlteredReading,
        Self::RefusedYetRecorded,
        Self::HalfVisible,
        Self::ForgetfulReplay,
        Self::StaleState,
    ];
}

/// A memory store with a bug.
#[derive(Debug)]
pub struct Buggy {
    store: MemoryStore,
    bug: Bug,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    /// Ids that readers are shown in place of those stored.
    shown_as: HashMap<EventId, EventId>,
    /// The head, some appends ago.
    old_head: Option<Token>,
    /// States of streams, as they were once.
    old_states: HashMap<StreamName, StreamState>,
    /// An append that was acknowledged and waits for the next one.
    late: Option<Append>,
}

/// One in so many operations meets the bug.
const RARELY: u32 = 12;

impl Buggy {
    /// An empty store with this bug; `seed` decides when it shows.
    pub fn new(bug: Bug, seed: u64) -> Self {
        let state = State {
            rng: Rng::with_seed(seed),
            shown_as: HashMap::new(),
            old_head: None,
            old_states: HashMap::new(),
            late: None,
        };
        Self { store: MemoryStore::new(), bug, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> bool {
        self.state().rng.u32(0..RARELY) == 0
    }

    /// Whether all of it is recorded already.
    async fn is_replay(&self, append: &Append) -> bool {
        let unguarded = Append { writes: append.writes.clone(), guards: vec![never()] };
        append.event_count() > 0 && self.store.append(unguarded).await.is_ok()
    }

    /// Whether the store would write it now; nothing is written.
    async fn would_write(&self, append: &Append) -> Result<bool> {
        let probe =
            Append { writes: append.writes.clone(), guards: [&append.guards[..], &[never()]].concat() };
        match self.store.append(probe).await {
            Err(Error::Conflict(conflict)) if conflict.guard == never() => Ok(append.event_count() > 0),
            Err(error) => Err(error),
            Ok(_) => Ok(false),
        }
    }

    /// The places that an append would get.
    async fn places(&self, append: &Append) -> Result<Appended> {
        let mut token = self.store.head().await?.token;
        let mut next = HashMap::new();
        let mut events = Vec::new();
        for (stream, _) in append.events() {
            let state = self.store.stream_state(stream).await?;
            let revision = next.entry(stream.clone()).or_insert(state.next_revision());
            token.position.0 += 1;
            events.push(Placed { position: token.position, revision: *revision });
            *revision = revision.next();
        }
        Ok(Appended { events, token, replayed: false, durability: factum::Durability::Relaxed })
    }

    async fn append_badly(&self, append: Append) -> Result<Appended> {
        match self.bug {
            Bug::DuplicateOnRetry if self.is_replay(&append).await => self.write_again(append).await,
            Bug::GuardsBeforeReplay => {
                let alone = Append { writes: Vec::new(), guards: append.guards.clone() };
                if !alone.guards.is_empty() {
                    self.store.append(alone).await?;
                }
                self.store.append(append).await
            }
            Bug::ForgetfulReplay => {
                let mut appended = self.store.append(append).await?;
                if appended.replayed {
                    appended.events.iter_mut().for_each(|placed| placed.position.0 += 1);
                }
                Ok(appended)
            }
            Bug::BlindQueryGuard => {
                let guards =
                    append.guards.into_iter().filter(|guard| matches!(guard, Guard::Stream { .. })).collect();
                let blind = Append { guards, ..append };
                if blind.writes.is_empty() && blind.guards.is_empty() {
                    self.places(&blind).await
                } else {
                    self.store.append(blind).await
                }
            }
            _ if !self.would_write(&append).await? => self.store.append(append).await,
            Bug::RacyGuard => {
                tokio::task::yield_now().await;
                self.store.append(Append { guards: Vec::new(), ..append }).await
            }
            _ => self.write_badly(append).await,
        }
    }

    /// Does something wrong with an append that nothing stands against.
    async fn write_badly(&self, mut append: Append) -> Result<Appended> {
        match self.bug {
            Bug::LostAck => self.places(&append).await,
            Bug::TornBatch if append.event_count() > 1 => {
                let last = append.writes.len() - 1;
                let keep = append.writes[last].events.len() / 2;
                append.writes[last].events.truncate(keep);
                if append.event_count() > 0 {
                    self.store.append(append).await?;
                }
                Err(Error::Timeout { what: "the append".into(), after_ms: 1, outcome: Outcome::Unknown })
            }
            Bug::Reordering => {
                append.writes.iter_mut().for_each(|write| write.events.reverse());
                append.writes.reverse();
                let mut appended = self.store.append(append).await?;
                appended.events.reverse();
                Ok(appended)
            }
            Bug::LateCommit => {
                let appended = self.places(&append).await?;
                let before = self.state().late.replace(append);
                if let Some(before) = before {
                    let _ = self.store.append(Append { guards: Vec::new(), ..before }).await;
                }
                Ok(appended)
            }
            Bug::InventedEvent => {
                let appended = self.store.append(append.clone()).await?;
                if let Some(write) = append.writes.first() {
                    self.store
                        .append(Append::to(write.stream.clone(), [NewEvent::json("Withdrawn", &1)?]))
                        .await?;
                }
                Ok(appended)
            }
            Bug::AlteredContent => {
                if let Some(event) = append.writes.iter_mut().flat_map(|write| &mut write.events).last() {
                    event.data = b"{\"altered\":1}".to_vec().into();
                }
                self.store.append(append).await
            }
            Bug::RefusedYetRecorded => {
                self.store.append(append).await?;
                Err(Error::Unavailable { why: "it said so".into(), outcome: Outcome::No })
            }
            Bug::FalseConflict if !append.guards.is_empty() => self.refuse_falsely(&append).await,
            _ => self.store.append(append).await,
        }
    }

    /// Writes what is recorded already, so that readers see each id twice.
    async fn write_again(&self, mut append: Append) -> Result<Appended> {
        for event in append.writes.iter_mut().flat_map(|write| &mut write.events) {
            let shown = event.id;
            event.id = EventId(uuid::Uuid::from_u128(self.state().rng.u128(..)));
            self.state().shown_as.insert(event.id, shown);
        }
        self.store.append(Append { guards: Vec::new(), ..append }).await
    }

    async fn refuse_falsely(&self, append: &Append) -> Result<Appended> {
        let guard = append.guards[0].clone();
        let actual = match &guard {
            Guard::Stream { stream, .. } => {
                let last = self.store.stream_state(stream).await?.next_revision();
                Actual::Revision(Revision(last.0 + 1))
            }
            Guard::Query { .. } => Actual::Match(self.store.head().await?.token.position),
        };
        Err(Conflict { guard, actual }.into())
    }

    async fn read_badly(&self, read: Read) -> Result<Page> {
        let plain = read.as_of.is_none();
        match self.bug {
            Bug::StaleRead if plain => self.read_from_the_past(read).await,
            Bug::HalfVisible if plain => {
                let head = self.store.head().await?.token;
                self.state().old_head = Some(head.log.at(Position(head.position.0.saturating_sub(1))));
                self.read_from_the_past(read).await
            }
            Bug::SkippedEvent => {
                let mut page = self.store.read(read).await?;
                if page.events.len() > 2 && matches!(page.next, None | Some(Start::Beyond(_))) {
                    page.events.remove(1);
                }
                Ok(page)
            }
            Bug::AlteredReading => {
                let mut page = self.store.read(read).await?;
                if let Some(event) = page.events.last_mut() {
                    event.data = b"{\"misread\":1}".to_vec().into();
                }
                Ok(page)
            }
            _ => self.store.read(read).await,
        }
    }

    async fn read_from_the_past(&self, read: Read) -> Result<Page> {
        let old = self.state().old_head;
        let begins_later =
            matches!(read.start, Start::Beyond(token) if old.is_none_or(|old| token.position > old.position));
        match old {
            Some(old) if !begins_later => {
                let mut page = self.store.read(read.as_of(AsOf::Position(old.position))).await?;
                page.head = old;
                Ok(page)
            }
            _ => self.store.read(read).await,
        }
    }
}

#[async_trait]
impl EventStore for Buggy {
    async fn append(&self, append: Append) -> Result<Appended> {
        let always = matches!(
            self.bug,
            Bug::RacyGuard
                | Bug::DuplicateOnRetry
                | Bug::GuardsBeforeReplay
                | Bug::ForgetfulReplay
                | Bug::BlindQueryGuard
        );
        if always || self.now() {
            return self.append_badly(append).await;
        }
        let appended = self.store.append(append).await;
        let late = self.state().late.take();
        if let Some(late) = late {
            let _ = self.store.append(Append { guards: Vec::new(), ..late }).await;
        }
        appended
    }

    async fn read(&self, read: Read) -> Result<Page> {
        // The whole log, as the checker reads it in the end, is told truly: otherwise it would be the log that is wrong.
        let whole = read.source == Source::All && read.limit >= factum::read::DEFAULT_LIMIT;
        let mut page =
            if !whole && self.now() { self.read_badly(read).await? } else { self.store.read(read).await? };
        let mut state = self.state();
        if state.rng.u32(0..6) == 0 {
            state.old_head = Some(page.head);
        }
        for event in &mut page.events {
            event.id = state.shown_as.get(&event.id).copied().unwrap_or(event.id);
        }
        Ok(page)
    }

    async fn head(&self) -> Result<Head> {
        self.store.head().await
    }

    async fn stream_state(&self, stream: &StreamName) -> Result<StreamState> {
        let state = self.store.stream_state(stream).await?;
        if self.bug == Bug::StaleState {
            let old = self.state().old_states.get(stream).copied();
            return match old {
                Some(old) if self.now() => Ok(old),
                _ => {
                    self.state().old_states.insert(stream.clone(), state);
                    Ok(state)
                }
            };
        }
        Ok(state)
    }

    async fn changed(&self, position: Position) {
        self.store.changed(position).await;
    }

    fn limits(&self) -> Limits {
        self.store.limits()
    }
}

/// A guard that never holds.
fn never() -> Guard {
    let nowhere = StreamName::new("bugs-nowhere").unwrap_or_else(|_| unreachable!("the name is good"));
    Guard::Stream { stream: nowhere, expected: factum::ExpectedRevision::StreamExists }
}
