//! Who looks snapshots up and puts them away: patient for a moment, silent about failures, never trusting.

use std::{
    any::{Any, TypeId, type_name},
    collections::{HashMap, HashSet},
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{runtime::Handle, sync::watch, task::JoinSet, time::Instant};

use super::{SnapshotKey, SnapshotStore, Snapshots, digest};
use crate::{
    aggregate::{Aggregate, Event},
    decision::Entity,
    error::Result,
    event::{EventId, RecordedEvent},
    moment::At,
    name::StreamName,
    position::{LogIdentity, Position, Revision},
    read::Page,
    stream::StreamState,
    time::Timestamp,
};

/// How long a load waits for the store of snapshots, unless it is told otherwise. Long, since a busy machine would be busier without
/// snapshots.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a store that failed is left alone, before one call tries again.
const REST: Duration = Duration::from_secs(1);
/// How long the putting of a snapshot may take.
const PUT_PATIENCE: Duration = Duration::from_secs(30);
/// Snapshots on their way to the store, at most: of more, each is left to a later load.
const ON_THE_WAY: usize = 64;

/// Keeps snapshots in a store. What goes wrong with that costs time, and nothing else.
///
/// `factum.with_snapshots(store)` makes one; [`Factum::snapshots`](crate::Factum::snapshots) shows it.
#[derive(Clone)]
pub struct Keeper {
    shared: Arc<Shared>,
    patience: Duration,
}

/// The form of each type, by version; `None` where it cannot be told.
type Forms = HashMap<(TypeId, u32), Option<Arc<str>>>;

struct Shared {
    store: Arc<dyn SnapshotStore>,
    forms: Mutex<Forms>,
    /// Whether the store may be asked for snapshots, and whether it may be given any.
    gets: Rest,
    puts: Rest,
    /// What is on its way to the store.
    busy: watch::Sender<HashSet<SnapshotKey>>,
    counts: Counts,
    trouble: Mutex<Option<String>>,
}

/// A store that fails is left alone for a while. After that one call tries; all others wait for what comes of it.
#[derive(Default)]
struct Rest {
    /// Not to be asked before that. `None` once the store has answered.
    until: Mutex<Option<Instant>>,
}

impl Rest {
    fn begin(&self) {
        *lock(&self.until) = Some(Instant::now() + REST);
    }

    fn end(&self) {
        *lock(&self.until) = None;
    }

    fn lasts(&self) -> bool {
        lock(&self.until).is_some_and(|until| Instant::now() < until)
    }

    /// Whether this call may ask.
    fn lets_ask(&self) -> bool {
        let (now, mut until) = (Instant::now(), lock(&self.until));
        let rests = until.is_some_and(|until| now < until);
        if until.is_some() && !rests {
            *until = Some(now + REST);
        }
        !rests
    }
}

#[derive(Default)]
struct Counts {
    used: AtomicU64,
    absent: AtomicU64,
    refused: AtomicU64,
    written: AtomicU64,
    failed: AtomicU64,
}

/// How it goes with the snapshots, since the program began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotStatus {
    /// Loads that began from one.
    pub used: u64,
    /// Loads that found none, of aggregates that have them.
    pub absent: u64,
    /// Loads that found one which the log does not bear out, or which is damaged; they read the log from its beginning.
    pub refused: u64,
    /// Snapshots that were put away.
    pub written: u64,
    /// What went wrong: a store that failed or was too slow, a state that does not come back from JSON as it was.
    pub failed: u64,
    /// What went wrong last.
    pub trouble: Option<String>,
}

impl<S: SnapshotStore> From<S> for Keeper {
    fn from(store: S) -> Self {
        Self::new(store)
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keeper").field(&self.shared.store).finish()
    }
}

impl Keeper {
    /// Keeps them in this store.
    pub fn new(store: impl SnapshotStore) -> Self {
        Self::from_arc(Arc::new(store))
    }

    /// Keeps them in a store that others hold too.
    pub fn from_arc(store: Arc<dyn SnapshotStore>) -> Self {
        let shared = Shared {
            store,
            forms: Mutex::default(),
            gets: Rest::default(),
            puts: Rest::default(),
            busy: watch::Sender::default(),
            counts: Counts::default(),
            trouble: Mutex::default(),
        };
        Self { shared: Arc::new(shared), patience: PATIENCE }
    }

    /// The same, but a load waits for the store so long at most: half a second, unless said otherwise. A store that did not answer in
    /// time, or failed, is asked once in a second until it answers.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// How it goes with the snapshots.
    pub fn status(&self) -> SnapshotStatus {
        let Counts { used, absent, refused, written, failed } = &self.shared.counts;
        let [used, absent, refused, written, failed] =
            [used, absent, refused, written, failed].map(|count| count.load(Relaxed));
        SnapshotStatus { used, absent, refused, written, failed, trouble: lock(&self.shared.trouble).clone() }
    }

    /// Returns when nothing is on its way to the store any more: for tests, and before a program ends.
    pub async fn settled(&self) {
        // The sender lives as long as this handle.
        let _ = self.shared.busy.subscribe().wait_for(HashSet::is_empty).await;
    }

    /// Forgets what is kept of a stream, in every form: where its events must go, so must these. A load that is under way may keep
    /// what it read before.
    ///
    /// # Errors
    /// Failures of the store of snapshots.
    pub async fn forget(&self, stream: &StreamName) -> Result<()> {
        self.shared.store.delete(stream).await
    }

    fn trouble(&self, what: impl Into<String>) {
        self.shared.counts.failed.fetch_add(1, Relaxed);
        *lock(&self.shared.trouble) = Some(what.into());
    }

    fn key(&self, stream: &StreamName, kept: &Kept<'_>) -> Option<SnapshotKey> {
        let of = kept.0.of();
        let known = lock(&self.shared.forms).get(&of).cloned();
        let form = known.unwrap_or_else(|| {
            let form = guarded(|| kept.0.form()).map(Arc::from);
            let form = form.map_err(|why| self.trouble(why)).ok();
            lock(&self.shared.forms).insert(of, form.clone());
            form
        })?;
        Some(SnapshotKey { stream: stream.clone(), form: form.to_string() })
    }

    /// The snapshot to begin from, if there is one for that moment. Whether the log bears it out is another question.
    pub(crate) async fn find(&self, stream: &StreamName, kept: Kept<'_>, at: Option<At>) -> Found {
        let Some(key) = self.key(stream, &kept) else { return Found::Nothing };
        drop(kept);
        let (store, wanted) = (self.shared.store.clone(), key.clone());
        match self.in_time(&self.shared.gets, self.patience, async move { store.get(&wanted).await }).await {
            None => Found::Nothing,
            Some(None) => {
                self.shared.counts.absent.fetch_add(1, Relaxed);
                Found::Nothing
            }
            Some(Some(text)) => match Held::parse(&key, &text) {
                Some(held) if held.of.is_before(at) => Found::Held(held),
                Some(_) => Found::Nothing,
                None => self.refused(stream, "its bytes are not those that were written"),
            },
        }
    }

    /// Takes note of a snapshot that is of no use.
    pub(crate) fn refused(&self, stream: &StreamName, why: impl fmt::Display) -> Found {
        self.shared.counts.refused.fetch_add(1, Relaxed);
        *lock(&self.shared.trouble) = Some(format!("a snapshot of `{stream}` was not used: {why}"));
        Found::Untrue
    }

    /// What the store answers, if it does so in time. On a task of its own: what panics there, or blocks, does so alone.
    async fn in_time<T: Send + 'static>(
        &self,
        rest: &Rest,
        patience: Duration,
        asked: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Option<T> {
        if Handle::try_current().is_err() || !rest.lets_ask() {
            return None;
        }
        // A runtime may have no timer. Then nothing can be waited for.
        let timer = catch_unwind(|| tokio::time::sleep(patience)).ok()?;
        // It is aborted where nobody waits for it any more.
        let mut task = JoinSet::new();
        task.spawn(asked);
        let trouble = tokio::select! {
            biased;
            answer = task.join_next() => match answer? {
                Ok(Ok(answer)) => {
                    rest.end();
                    return Some(answer);
                }
                Ok(Err(error)) => error.to_string(),
                Err(broken) => format!("the store of snapshots broke: {broken}"),
            },
            () = timer => format!("the store of snapshots took longer than {patience:?}"),
        };
        rest.begin();
        self.trouble(trouble);
        None
    }

    /// Puts a snapshot of that state away, in the background. Whether there is one.
    pub(crate) fn keep(&self, stream: &StreamName, kept: &Kept<'_>, of: Seal) -> bool {
        let Some(key) = self.key(stream, kept) else { return false };
        if self.shared.puts.lasts() || Handle::try_current().is_err() || !self.begin(&key) {
            return false;
        }
        let on_the_way = OnTheWay { keeper: self.clone(), key };
        match guarded(|| kept.0.save()) {
            Ok(state) => on_the_way.put(of, state),
            Err(why) => {
                self.trouble(format!("no snapshot of `{stream}`: {why}"));
                return false;
            }
        }
        true
    }

    /// Whether the snapshot may go on its way: one of a key at a time, and not too many of all.
    fn begin(&self, key: &SnapshotKey) -> bool {
        self.shared.busy.send_if_modified(|busy| busy.len() < ON_THE_WAY && busy.insert(key.clone()))
    }

    /// Forgets what is kept of a stream, in the background: what the log does not bear out is not kept any longer than it must.
    pub(crate) fn forget_soon(&self, stream: &StreamName) {
        let key = SnapshotKey { stream: stream.clone(), form: String::new() };
        if self.shared.puts.lasts() || Handle::try_current().is_err() || !self.begin(&key) {
            return;
        }
        let on_the_way = OnTheWay { keeper: self.clone(), key };
        tokio::spawn(async move {
            let (store, stream) = (on_the_way.keeper.shared.store.clone(), on_the_way.key.stream.clone());
            on_the_way
                .keeper
                .in_time(
                    &on_the_way.keeper.shared.puts,
                    PUT_PATIENCE,
                    async move { store.delete(&stream).await },
                )
                .await;
        });
    }

    pub(crate) fn used(&self) {
        self.shared.counts.used.fetch_add(1, Relaxed);
    }
}

/// A snapshot on its way to the store. However that ends, it ends.
struct OnTheWay {
    keeper: Keeper,
    key: SnapshotKey,
}

impl Drop for OnTheWay {
    fn drop(&mut self) {
        self.keeper.shared.busy.send_modify(|busy| {
            busy.remove(&self.key);
        });
    }
}

impl OnTheWay {
    fn put(self, of: Seal, state: String) {
        tokio::spawn(async move {
            let Some(text) = Held::text(&self.key, of, state) else { return };
            let (keeper, store, key) = (&self.keeper, self.keeper.shared.store.clone(), self.key.clone());
            if keeper
                .in_time(&keeper.shared.puts, PUT_PATIENCE, async move { store.put(&key, text).await })
                .await
                .is_some()
            {
                keeper.shared.counts.written.fetch_add(1, Relaxed);
            }
        });
    }
}

/// What came of looking for a snapshot.
pub(crate) enum Found {
    /// There is none to begin from.
    Nothing,
    /// There is one that must not be used.
    Untrue,
    /// There is one that the log may bear out.
    Held(Held),
}

/// A snapshot as it was written.
pub(crate) struct Held {
    pub(crate) of: Seal,
    /// The state, as its [`Keep`] wrote it.
    pub(crate) state: String,
}

/// Of which events of which log a state is made: what the log must bear out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seal {
    log: LogIdentity,
    /// Its last event.
    pub(crate) last: Place,
    /// What the stream hid: all other events, up to the last one, are in the state.
    hidden_before: Revision,
    hidden_until: Option<Timestamp>,
}

/// An event, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Place {
    position: Position,
    pub(crate) revision: Revision,
    recorded_at: Timestamp,
    id: EventId,
}

impl Place {
    pub(crate) fn of(event: &RecordedEvent) -> Self {
        let RecordedEvent { position, revision, recorded_at, id, .. } = event;
        Self { position: *position, revision: *revision, recorded_at: *recorded_at, id: *id }
    }
}

impl Seal {
    /// For a state made from the events `first` to `last`, read while the stream went from `before` to `now`. `None` where no later
    /// load could rely on it: what becomes hidden as time passes, or as events come, is another thing each time.
    pub(crate) fn new(
        log: LogIdentity,
        first: Place,
        last: Place,
        before: &StreamState,
        now: &StreamState,
    ) -> Option<Self> {
        let bounds = |stream: &StreamState| (stream.hidden_before, stream.hidden_until, stream.retention);
        let (hidden_before, hidden_until, retention) = bounds(now);
        let stands = bounds(before) == bounds(now)
            && retention.max_age_seconds.is_none()
            && retention.max_count.is_none()
            // Else it was hidden while it was read.
            && first.revision >= hidden_before
            && hidden_until.is_none_or(|until| first.recorded_at >= until);
        stands.then_some(Self { log, last, hidden_before, hidden_until })
    }

    fn is_before(&self, at: Option<At>) -> bool {
        match at {
            None => true,
            Some(At::Revision(revision)) => self.last.revision <= revision,
            Some(At::Position(position)) => self.last.position <= position,
            Some(At::Time(time)) => self.last.recorded_at <= time,
            // What has happened does not come in the order of the log.
            Some(At::Business(_) | At::Both { .. }) => false,
        }
    }

    /// Nothing, if the state is what the log leads to: the page begins with its last event, and the stream hides what it hid.
    ///
    /// Within an epoch of a log nothing but hiding changes what has been recorded. All that hides for good moves one of the two
    /// bounds, and they only grow; so where they are the same, no event was hidden in between.
    pub(crate) fn check(&self, page: &Page) -> Result<(), &'static str> {
        let Some(stream) = page.stream else { return Err("the log does not say what the stream hides") };
        if page.token.log != self.log {
            return Err("it was made from another log, or before this one was rewound");
        }
        if stream.hidden_before != self.hidden_before || stream.hidden_until != self.hidden_until {
            return Err("events of the stream were hidden since");
        }
        if stream.retention.max_age_seconds.is_some() {
            return Err("events of the stream are hidden as time passes");
        }
        if page.events.first().map(Place::of) != Some(self.last) {
            return Err("its last event is not in the log");
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Body {
    of: Seal,
    state: Box<RawValue>,
}

/// What a snapshot's text begins with; the digest follows, and then the rest of the object.
const BEFORE_DIGEST: &str = "{\"digest\":\"";
/// Characters of a digest.
const DIGEST: usize = 36;
/// What stands between the digest and the rest.
const AFTER_DIGEST: &str = "\",";

impl Held {
    fn text(key: &SnapshotKey, of: Seal, state: String) -> Option<String> {
        let body = Body { of, state: RawValue::from_string(state).ok()? };
        let body = serde_json::to_string(&body).ok()?;
        let rest = body.strip_prefix('{')?;
        let digest = digest([&*key.stream, &key.form, rest]);
        Some(format!("{BEFORE_DIGEST}{digest}{AFTER_DIGEST}{rest}"))
    }

    fn parse(key: &SnapshotKey, text: &str) -> Option<Self> {
        let (found, rest) = text.strip_prefix(BEFORE_DIGEST)?.split_at_checked(DIGEST)?;
        let rest = rest.strip_prefix(AFTER_DIGEST)?;
        if found != digest([&*key.stream, &key.form, rest]).to_string() {
            return None;
        }
        let Body { of, state } = serde_json::from_str(&format!("{{{rest}")).ok()?;
        Some(Self { of, state: String::from(Box::<str>::from(state)) })
    }
}

/// A state that can be kept.
pub(crate) trait Keep: Send {
    /// How many events must have been read for a new snapshot.
    fn every(&self) -> u64;
    /// Its type, and the version that it has.
    fn of(&self) -> (TypeId, u32);
    /// A name for all that its type is.
    fn form(&self) -> Result<String, String>;
    /// The state, provided that it can be restored from that.
    fn save(&self) -> Result<String, String>;
    /// Takes the state from what was saved. Where that fails, nothing has changed.
    fn restore(&mut self, saved: &str) -> Result<(), String>;
}

/// A model's state, for the keeping of snapshots.
pub struct Kept<'a>(pub(crate) Box<dyn Keep + 'a>);

impl fmt::Debug for Kept<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

impl Kept<'_> {
    /// How many events must have been read for a new snapshot.
    pub(crate) fn every(&self) -> u64 {
        self.0.every()
    }

    /// Takes over the state of a snapshot that the log bears out.
    pub(crate) fn restore(&mut self, held: &Held) -> Result<(), String> {
        guarded(|| self.0.restore(&held.state))
    }
}

struct OfEntity<'a, A> {
    entity: &'a mut Entity<A>,
    how: Snapshots<A>,
}

/// What is kept of an entity.
#[derive(Deserialize)]
struct Saved<'a> {
    revision: Option<Revision>,
    #[serde(borrow)]
    state: &'a RawValue,
}

impl<A: Aggregate> Entity<A> {
    pub(crate) fn keeping(&mut self) -> Option<Kept<'_>> {
        let how = guarded(|| Ok::<_, String>(A::snapshots())).ok()??;
        Some(Kept(Box::new(OfEntity { entity: self, how })))
    }
}

impl<A: Aggregate> Keep for OfEntity<'_, A> {
    fn every(&self) -> u64 {
        self.how.every
    }

    fn of(&self) -> (TypeId, u32) {
        (TypeId::of::<A>(), self.how.version)
    }

    fn form(&self) -> Result<String, String> {
        let form = (self.how.form)().map_err(|error| {
            format!("`{}` has no snapshots, because its shape cannot be told: {error}", type_name::<A>())
        })?;
        let (category, version) = (A::Event::CATEGORY, self.how.version);
        Ok(format!("{category} v{version} {}", digest(form.iter().map(String::as_str))))
    }

    fn save(&self) -> Result<String, String> {
        let json = (self.how.save)(&self.entity.state).map_err(|error| error.to_string())?;
        let back = (self.how.restore)(&json).map_err(|error| error.to_string())?;
        if !(self.how.same)(&self.entity.state, &back) {
            return Err(
                "the state does not come back from JSON as it was; does serde skip a field of it?".into()
            );
        }
        let revision = serde_json::to_string(&self.entity.revision).map_err(|error| error.to_string())?;
        Ok(format!("{{\"revision\":{revision},\"state\":{json}}}"))
    }

    fn restore(&mut self, saved: &str) -> Result<(), String> {
        let Saved { revision, state } = serde_json::from_str(saved).map_err(|error| error.to_string())?;
        self.entity.state = (self.how.restore)(state.get()).map_err(|error| error.to_string())?;
        self.entity.revision = revision;
        Ok(())
    }
}

/// What comes of work on a user's type: a panic in it is an error like others.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(format!("it panicked: {}", said(&*panic))))
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one assignment: a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
