//! One pass of the log for several read models: what those at the same place need is read once, and decoded once.
//!
//! There is no common clock and no common fate. Each lane asks for what comes after its own place; who asks first reads, for
//! all that are on their way there, and the others find it. What was read is kept for a few pages only: a lane that is slower
//! is waited for a moment, and then let go; it reads for itself until it has come to where the others are.

use std::{
    collections::VecDeque,
    fmt,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, OnceCell, watch},
    time::Instant,
};

use crate::{
    batch::{Piece, Records, Selected},
    error::{Error, Result},
    handle::Factum,
    position::{Position, Token},
    query::Query,
    read::{AsOf, Read},
    store::{EventStore, LOOK_AGAIN},
};

/// Events in one transaction of the read store, at most.
const BATCH: usize = 1000;
/// Pages that are kept for those who come later, if there is more than one lane.
const KEPT: usize = 8;
/// Bytes of events in one transaction and in the pages that are kept, at most, unless a single page holds more.
const BYTES: usize = 32 << 20;
/// How long those ahead wait for one that is about to be left behind.
const COMPANY: Duration = Duration::from_millis(100);

/// Several read models that are kept in one pass of the log.
///
/// It is a [`Factum`] on which read models are begun as on any other. They are kept as independently as ever, each with a
/// checkpoint, a version, a status and rebuilds of its own; one that stops, waits or rebuilds does not hold up the others.
/// But while they are at the same place of the log, an event is read once for all of them, and decoded once for those that
/// read it as the same type: when they are made together, and as long as they are up to date.
///
/// Nothing is read before [`start`](Pass::start), so that all begin together; that the pass is dropped starts it, too.
///
/// ```
/// # use factum::{MemoryReads, MemoryStore, prelude::*};
/// # #[derive(Serialize, Deserialize)] enum OrderEvent { Placed { cents: i64 } }
/// # impl Event for OrderEvent { const CATEGORY: &'static str = "order"; }
/// # struct Orders; impl Projection for Orders { const NAME: &'static str = "orders"; type Event = OrderEvent; type Row = i64;
/// #   fn evolve(&self, _: Option<i64>, e: &Recorded<OrderEvent>) -> Option<i64> { let OrderEvent::Placed { cents } = e.event; Some(cents) } }
/// # struct Turnover; impl Projection for Turnover { const NAME: &'static str = "turnover"; type Event = OrderEvent; type Row = i64;
/// #   fn evolve(&self, _: Option<i64>, e: &Recorded<OrderEvent>) -> Option<i64> { let OrderEvent::Placed { cents } = e.event; Some(cents) } }
/// # async fn example(factum: Factum) -> factum::Result<()> {
/// let pass = factum.pass();
/// let orders = pass.project(Orders, MemoryReads::new()).await?;
/// let turnover = pass.project(Turnover, MemoryReads::new()).await?;
/// pass.start();
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is read before `start`"]
#[derive(Debug)]
pub struct Pass {
    factum: Factum,
    gate: watch::Sender<bool>,
}

impl Factum {
    /// Begins a pass of the log that several read models share: see [`Pass`].
    pub fn pass(&self) -> Pass {
        let gate = watch::Sender::new(false);
        let road = Road::new(self.store().clone(), gate.subscribe());
        Pass { factum: self.on_road(Arc::new(road)), gate }
    }
}

impl Pass {
    /// Begins to read.
    pub fn start(self) {}
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.send_replace(true);
    }
}

impl Deref for Pass {
    type Target = Factum;

    fn deref(&self) -> &Factum {
        &self.factum
    }
}

/// What the lanes of a pass share.
pub(crate) struct Road {
    store: Arc<dyn EventStore>,
    gate: watch::Receiver<bool>,
    state: Mutex<State>,
    /// Some lane has moved or gone.
    moved: Notify,
}

#[derive(Default)]
struct State {
    next_id: u64,
    lanes: Vec<Place>,
    /// Oldest first.
    kept: VecDeque<Arc<Stretch>>,
}

/// Where a lane is.
struct Place {
    id: u64,
    query: Query,
    /// `None`: at the start of the log.
    at: Option<Token>,
}

/// What comes after a place, once somebody has read it.
struct Stretch {
    from: Token,
    content: OnceCell<Arc<Content>>,
}

#[derive(Debug)]
struct Content {
    query: Query,
    records: Arc<Records>,
    to: Token,
    head: Token,
    /// There is more to read after it.
    more: bool,
}

/// Why there is no content.
enum Missing {
    Yet,
    Failed(Error),
}

/// What a lane hears.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) what: What,
    /// Everything up to here has been told.
    pub(crate) token: Token,
    /// How far the log reached.
    pub(crate) head: Token,
}

#[derive(Debug)]
pub(crate) enum What {
    /// Some records, in pieces as they were read.
    Events(Vec<Piece>),
    /// Nothing that concerns it, up to the token.
    LookedTo,
    /// It has heard everything; from now on it hears of what happens.
    CaughtUp,
    /// It is too slow for what comes, and catching up again.
    FellBehind,
}

impl Road {
    pub(crate) fn new(store: Arc<dyn EventStore>, gate: watch::Receiver<bool>) -> Self {
        Self { store, gate, state: Mutex::default(), moved: Notify::new() }
    }

    /// A road for one consumer.
    pub(crate) fn open(store: Arc<dyn EventStore>) -> Self {
        Self::new(store, watch::Sender::new(true).subscribe())
    }

    /// A lane that begins after `from`.
    pub(crate) fn lane(self: &Arc<Self>, query: Query, from: Option<Token>) -> Lane {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        state.lanes.push(Place { id, query: query.clone(), at: from });
        drop(state);
        Lane { road: self.clone(), id, query, from, seen: None, live: false, pending: None }
    }

    pub(crate) fn store(&self) -> &Arc<dyn EventStore> {
        &self.store
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while this lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What comes after `seen` for a lane. `None`: nothing yet.
    async fn after(&self, lane: u64, query: &Query, seen: Token) -> Result<Option<Arc<Content>>> {
        loop {
            self.keep_company(lane, seen).await;
            let stretch = self.state().stretch(lane, query, seen);
            match stretch.content.get_or_try_init(|| self.read(query, seen)).await {
                Ok(content) if content.covers(query) => {
                    return Ok(Some(content.clone()));
                }
                // It was read before this lane was there.
                Ok(_) => {}
                Err(Missing::Yet) => return Ok(None),
                Err(Missing::Failed(error)) => return Err(error),
            }
        }
    }

    /// What was read after `first` already: who is behind gets as much of it at once as one batch holds.
    fn known_after(&self, lane: u64, query: &Query, first: Arc<Content>) -> Vec<Arc<Content>> {
        let state = self.state();
        let (mut events, mut bytes) = (first.records.records.len(), first.records.bytes);
        let (mut to, mut all) = (first.to, vec![first]);
        let next = |to: Token| {
            let stretches = state.kept.iter().rev().filter(|stretch| stretch.from == to);
            stretches.filter_map(|stretch| stretch.content.get()).find(|content| content.covers(query))
        };
        while let Some(content) = next(to) {
            (events, bytes) = (events + content.records.records.len(), bytes + content.records.bytes);
            if events > BATCH || bytes > BYTES {
                break;
            }
            to = content.to;
            all.push(content.clone());
        }
        drop(state);
        self.place(lane, to);
        all
    }

    fn place(&self, lane: u64, at: Token) {
        if let Some(place) = self.state().lanes.iter_mut().find(|place| place.id == lane) {
            place.at = Some(at);
        }
        self.moved.notify_waiters();
    }

    /// Who would read beyond what can be kept waits a moment for whoever still needs the oldest of it.
    async fn keep_company(&self, lane: u64, seen: Token) {
        let until = Instant::now() + COMPANY;
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            if !self.state().leaves_somebody(lane, seen) {
                return;
            }
            if tokio::time::timeout_at(until, moved).await.is_err() {
                return;
            }
        }
    }

    /// Reads what comes after `seen`, for all lanes that are there or on their way.
    async fn read(&self, query: &Query, seen: Token) -> Result<Arc<Content>, Missing> {
        let (wanted, until) = self.state().wanted(query, seen);
        match self.read_page(&wanted, seen, until).await {
            // What others need may be what cannot be read, and no more than theirs: each has a fate of its own.
            Err(Missing::Failed(error)) if !error.is_retryable() && wanted != *query => {
                self.read_page(query, seen, until).await
            }
            read => read,
        }
    }

    async fn read_page(
        &self,
        query: &Query,
        seen: Token,
        until: Option<Position>,
    ) -> Result<Arc<Content>, Missing> {
        let mut read = Read::query(query.clone()).beyond(seen).limit(BATCH);
        // Not past the foremost: from there on it goes with it.
        read.as_of = until.map(AsOf::Position);
        let page = loop {
            let page = self.store.read(read.clone()).await.map_err(Missing::Failed)?;
            if page.token.position > seen.position {
                break page;
            }
            if page.next.is_none() {
                return Err(Missing::Yet);
            }
        };
        let more = page.next.is_some() || until.is_some_and(|until| until < page.head.position);
        let (query, records) = (query.clone(), Arc::new(Records::new(page.events)));
        Ok(Arc::new(Content { query, records, to: page.token, head: page.head, more }))
    }
}

impl State {
    /// What comes after `seen`: known already, being read, or to be read.
    fn stretch(&mut self, lane: u64, query: &Query, seen: Token) -> Arc<Stretch> {
        if let Some(place) = self.lanes.iter_mut().find(|place| place.id == lane) {
            place.at = Some(seen);
        }
        let fits = |stretch: &&Arc<Stretch>| {
            stretch.from == seen && stretch.content.get().is_none_or(|content| content.covers(query))
        };
        // The newest: an older one may have been read before some lanes were there.
        if let Some(stretch) = self.kept.iter().rev().find(fits) {
            return stretch.clone();
        }
        let stretch = Arc::new(Stretch { from: seen, content: OnceCell::new() });
        if self.lanes.len() > 1 {
            self.kept.push_back(stretch.clone());
            while self.is_overfull() {
                self.kept.pop_front();
            }
        } else {
            self.kept.clear();
        }
        stretch
    }

    fn kept_bytes(&self) -> usize {
        let contents = self.kept.iter().filter_map(|stretch| stretch.content.get());
        contents.map(|content| content.records.bytes).sum()
    }

    /// With a stretch at the end that is still to be read.
    fn is_overfull(&self) -> bool {
        self.kept.len() > KEPT || (self.kept.len() > 1 && self.kept_bytes() > BYTES)
    }

    /// Whether a lane that goes on from `seen` takes away from another what that one would need next.
    fn leaves_somebody(&self, lane: u64, seen: Token) -> bool {
        let Some(oldest) = self.kept.front() else { return false };
        let known = self.kept.iter().any(|stretch| stretch.from == seen);
        !known
            && (self.kept.len() >= KEPT || self.kept_bytes() > BYTES)
            && self.behind(seen).contains(&oldest.from)
            && self.lanes.iter().any(|place| place.id != lane && place.is_at(oldest.from))
    }

    /// The places from which what is kept leads to `seen`.
    fn behind(&self, seen: Token) -> Vec<Token> {
        let mut places = vec![seen];
        for stretch in self.kept.iter().rev() {
            if stretch.content.get().is_some_and(|content| places.contains(&content.to)) {
                places.push(stretch.from);
            }
        }
        places
    }

    /// What to read after `seen`: the events that this lane and those behind it need, up to where the foremost is.
    fn wanted(&self, query: &Query, seen: Token) -> (Query, Option<Position>) {
        let mut query = query.clone();
        let behind = self.behind(seen);
        for lane in &self.lanes {
            if behind.iter().any(|place| lane.is_at(*place)) {
                let more = lane.query.any_of.iter().filter(|criterion| !query.any_of.contains(criterion));
                let more: Vec<_> = more.cloned().collect();
                query.any_of.extend(more);
            }
        }
        let places = self.lanes.iter().filter_map(|lane| lane.at);
        let places = places.chain(self.kept.iter().map(|stretch| stretch.from));
        let ahead = places.filter(|at| at.log == seen.log && at.position > seen.position);
        (query, ahead.map(|at| at.position).max())
    }
}

impl Place {
    fn is_at(&self, place: Token) -> bool {
        self.at.map_or(place.position == Position::START, |at| at == place)
    }
}

impl Content {
    /// Whether it holds all that a lane of this query needs.
    fn covers(&self, query: &Query) -> bool {
        query.any_of.iter().all(|criterion| self.query.any_of.contains(criterion))
    }
}

impl fmt::Debug for Road {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Road({} lanes)", self.state().lanes.len())
    }
}

/// One who follows the log: all that its query selects after a place, then what comes, like a
/// [`Subscription`](crate::Subscription).
#[derive(Debug)]
pub(crate) struct Lane {
    road: Arc<Road>,
    id: u64,
    query: Query,
    from: Option<Token>,
    /// How far it has heard. `None`: it has not begun.
    seen: Option<Token>,
    live: bool,
    /// What comes after a `FellBehind`.
    pending: Option<News>,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.road.state().lanes.retain(|place| place.id != self.id);
        self.road.moved.notify_waiters();
    }
}

impl Lane {
    /// Begins anew where it is: it will tell again when it has caught up.
    pub(crate) fn begin_again(&mut self) {
        (self.from, self.seen, self.live, self.pending) = (self.seen.or(self.from), None, false, None);
    }

    /// What comes next.
    ///
    /// # Errors
    /// [`Error::LogRewound`] and failures of the store; asked again, it goes on at the same place.
    pub(crate) async fn next(&mut self) -> Result<News> {
        if let Some(news) = self.pending.take() {
            self.seen = Some(news.token);
            return Ok(news);
        }
        let seen = match self.seen {
            Some(seen) => seen,
            None => self.begin().await?,
        };
        loop {
            match self.road.after(self.id, &self.query, seen).await? {
                Some(first) => return Ok(self.tell(first, seen)),
                None if !self.live => {
                    self.live = true;
                    return Ok(News { what: What::CaughtUp, token: seen, head: seen });
                }
                None => {
                    // A hint can be lost; the log cannot.
                    let _ = tokio::time::timeout(LOOK_AGAIN, self.road.store.changed(seen.position)).await;
                }
            }
        }
    }

    async fn begin(&mut self) -> Result<Token> {
        // Who holds the gate opens it before it goes.
        let _ = self.road.gate.clone().wait_for(|open| *open).await;
        let from = match self.from {
            Some(token) => self.road.store.locate(token).await?,
            None => self.road.store.head().await?.token.log.at(Position::START),
        };
        self.seen = Some(from);
        Ok(from)
    }

    // No await in here: a dropped future must not lose what was read.
    fn tell(&mut self, first: Arc<Content>, seen: Token) -> News {
        let all = self.road.known_after(self.id, &self.query, first);
        let Some(last) = all.last() else { return News { what: What::LookedTo, token: seen, head: seen } };
        let (token, head, more) = (last.to, last.head, last.more);
        let pieces = all.iter().filter_map(|content| {
            let selected = if content.query == self.query {
                Selected::All
            } else {
                Selected::These(content.records.selected(&self.query).into())
            };
            let piece = Piece { records: content.records.clone(), selected };
            (piece.len() > 0).then_some(piece)
        });
        let pieces: Vec<_> = pieces.collect();
        let what = if pieces.is_empty() { What::LookedTo } else { What::Events(pieces) };
        let news = News { what, token, head };
        if self.live && more {
            self.live = false;
            self.pending = Some(news);
            return News { what: What::FellBehind, token: seen, head };
        }
        self.seen = Some(token);
        news
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that unwraps an error has failed")]
mod tests {
    use super::*;
    use crate::{Append, MemoryStore, NewEvent, StreamName};

    #[tokio::test]
    async fn what_is_kept_for_others_is_bounded_in_bytes() {
        let store = MemoryStore::new();
        let road = Arc::new(Road::open(Arc::new(store.clone())));
        let query = Query::category("large");
        let (mut ahead, behind) = (road.lane(query.clone(), None), road.lane(query, None));
        let stream = StreamName::new("large-1").unwrap();
        for _ in 0..KEPT {
            for _ in 0..10 {
                let large = NewEvent::bytes("Large", vec![0; 1_000_000]).unwrap();
                store.append(Append::to(stream.clone(), [large])).await.unwrap();
            }
            assert!(matches!(ahead.next().await.unwrap().what, What::Events(_)));
            let state = road.state();
            assert!(state.kept_bytes() <= 42 << 20, "{} bytes", state.kept_bytes());
        }
        assert!(road.state().kept.len() > 2, "as many as there is room for");
        drop(behind);
    }
}
