//! Decisions: what they need to know, what they write, and the guards that follow.

use std::future::Future;

use crate::{
    aggregate::{Aggregate, Event, EventSet, Id, Recorded},
    append::{ExpectedRevision, Guard, Write},
    codec,
    error::{Error, Result},
    moment::At,
    name::StreamName,
    position::{Revision, Token},
    query::Query,
    read::{Page, Read, Source},
    snapshot::{Found, Held, Keeper, Kept, Place, Seal},
    store::{EventStore, EventStoreExt, Seam, Torn, torn},
    stream::{Life, StreamState},
};

/// A decision over any number of things, recorded as one: all or nothing.
///
/// It names the models that it needs to know. They are loaded, the decision is taken, and what it writes is appended provided
/// that none of the models has changed meanwhile; if one has, all of that happens again. Also models that are only read are
/// guarded.
///
/// ```
/// # use factum::prelude::*;
/// # #[derive(Serialize, Deserialize)] enum AccountEvent { MoneyDeposited { cents: i64 }, MoneyWithdrawn { cents: i64 } }
/// # impl Event for AccountEvent { const CATEGORY: &'static str = "account"; }
/// # #[derive(Default)] struct Account { cents: i64 }
/// # impl Aggregate for Account { type Event = AccountEvent; fn apply(&mut self, _: &AccountEvent) {} }
/// # #[derive(Debug)] struct InsufficientFunds;
/// # impl std::fmt::Display for InsufficientFunds { fn fmt(&self, _: &mut std::fmt::Formatter) -> std::fmt::Result { Ok(()) } }
/// # impl std::error::Error for InsufficientFunds {}
/// struct Transfer { from: Id<Account>, to: Id<Account>, cents: i64 }
///
/// impl Decide for Transfer {
///     type Models = (Entity<Account>, Entity<Account>);
///     type Error = InsufficientFunds;
///
///     fn models(&self) -> Self::Models {
///         (Entity::of(&self.from), Entity::of(&self.to))
///     }
///
///     fn decide(&self, (from, _): &Self::Models) -> Result<Writes, InsufficientFunds> {
///         refuse_if(from.state.cents < self.cents, InsufficientFunds)?;
///         Ok(Writes::to(&self.from, [AccountEvent::MoneyWithdrawn { cents: self.cents }])
///             .and(&self.to, [AccountEvent::MoneyDeposited { cents: self.cents }]))
///     }
/// }
/// ```
pub trait Decide: Send + Sync {
    /// What it needs to know: one [`Model`], or a tuple or vector of them.
    type Models: Models;
    /// Why it can be refused.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The models, empty.
    fn models(&self) -> Self::Models;

    /// What happens, given the models as they are. Pure: it may be asked again, when somebody else was quicker.
    ///
    /// # Errors
    /// The refusal. Nothing is recorded then.
    fn decide(&self, models: &Self::Models) -> Result<Writes, Self::Error>;
}

/// A small state that a decision needs, made from the events that its query selects.
///
/// For the instance of an aggregate there is [`Entity`].
pub trait Model: Send + Sync + 'static {
    /// What it is made from. Every event that the query selects must be one.
    type Event: EventSet;

    /// The events that it is made from, and whose coming in between must stop the decision.
    ///
    /// # Errors
    /// Those of [`Query`]'s constructors.
    fn query(&self) -> Result<Query>;

    /// What an event does to it.
    fn apply(&mut self, event: &Recorded<Self::Event>);

    /// Where its events are read from: whatever the query selects.
    ///
    /// # Errors
    /// Those of [`Model::query`].
    fn source(&self) -> Result<Source> {
        Ok(Source::Query(self.query()?))
    }

    /// Told when all of its events have been applied: how far that is.
    fn loaded(&mut self, _: &Seen) {}

    /// What must hold when the decision is recorded: nothing that the query selects has come since.
    ///
    /// That says nothing of what has gone: events that were hidden since (deleted, truncated, too old) do not stop the
    /// decision. Where they must, give the stream's guards as well.
    ///
    /// # Errors
    /// Those of [`Model::query`].
    fn guards(&self, seen: &Seen) -> Result<Vec<Guard>> {
        Ok(vec![Guard::Query { query: self.query()?, after: seen.token }])
    }

    /// What a [snapshot](crate::snapshot) keeps of it, if anything. An [`Entity`] says what its aggregate says; others have none.
    fn kept(&mut self) -> Option<Kept<'_>> {
        None
    }
}

/// How far a model's events have been read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Everything up to here.
    pub token: Token,
    /// The state of the stream, if a stream was read.
    pub stream: Option<StreamState>,
    /// The revision of its last event that can be seen, if a stream was read. That event need not mean anything to the model.
    pub last: Option<Revision>,
}

/// An instance of an aggregate, as of a revision.
#[derive(Clone, Debug)]
pub struct Entity<A> {
    /// Which one.
    pub id: Id<A>,
    /// What its events have made of it.
    pub state: A,
    /// The revision of the last event of its stream, whether or not that one still means anything; `None` if there is none.
    pub revision: Option<Revision>,
    /// How far the stream had come, where all of its events are hidden.
    pub(crate) hidden: Option<Revision>,
}

/// The same instance, in the same state, at the same revision.
impl<A: PartialEq> PartialEq for Entity<A> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.state == other.state && self.revision == other.revision
    }
}

impl<A: Aggregate> Entity<A> {
    /// The instance, before its events are loaded.
    pub fn of(id: &Id<A>) -> Self {
        Self { id: id.clone(), state: A::default(), revision: None, hidden: None }
    }

    /// Whether anything ever happened to it.
    pub fn exists(&self) -> bool {
        self.revision.is_some()
    }
}

impl<A: Aggregate> Model for Entity<A> {
    type Event = A::Event;

    fn query(&self) -> Result<Query> {
        Ok(Query::stream(self.id.stream()?))
    }

    fn apply(&mut self, event: &Recorded<A::Event>) {
        self.state.apply(&event.event);
        self.revision = Some(event.record.revision);
    }

    fn loaded(&mut self, seen: &Seen) {
        self.revision = seen.last;
        self.hidden = match seen.last {
            Some(_) => None,
            None => written(seen),
        };
    }

    fn source(&self) -> Result<Source> {
        Ok(Source::Stream(self.id.stream()?))
    }

    /// The stream has neither moved nor been deleted; or, if it did not exist, it still does not. Where all of its events are
    /// hidden, the stream itself says how far it had come.
    fn guards(&self, seen: &Seen) -> Result<Vec<Guard>> {
        let expected = match seen.last.or(written(seen)) {
            // A deleted stream keeps its revision, so that alone would let the decision revive it.
            Some(last) => vec![ExpectedRevision::Exact(last), ExpectedRevision::StreamExists],
            None => vec![ExpectedRevision::NoStream],
        };
        let stream = self.id.stream()?;
        Ok(expected.into_iter().map(|expected| Guard::Stream { stream: stream.clone(), expected }).collect())
    }

    fn kept(&mut self) -> Option<Kept<'_>> {
        self.keeping()
    }
}

/// The revision of the last event of a stream that there is, hidden or not.
fn written(seen: &Seen) -> Option<Revision> {
    seen.stream.filter(|stream| stream.life == Life::Live).and_then(|stream| stream.last_revision)
}

/// One or several [`Model`]s, loaded and guarded together.
pub trait Models: Send + Sync + Sized {
    /// Loads each, and adds to `loaded` how far that has seen and the guards that follow.
    ///
    /// # Errors
    /// Those of [`EventStore::read`], those of decoding an event, and [`Error::Unavailable`] if events of a stream were hidden
    /// while it was read. After an error the models are in no state to go on with.
    fn load(
        &mut self,
        store: &dyn EventStore,
        loaded: &mut Loaded,
    ) -> impl Future<Output = Result<()>> + Send;
}

/// What the loading of models has shown.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// What must hold for a decision on the models to be recorded.
    pub guards: Vec<Guard>,
    /// How far each model has seen.
    pub seen: Vec<Token>,
    /// Where the models may begin.
    snapshots: Option<Keeper>,
    /// Events were hidden while a model was read: it is in a state that never was. New ones must be loaded.
    pub(crate) torn: bool,
}

impl Loaded {
    /// Nothing yet; models that have snapshots begin with them.
    pub(crate) fn with(snapshots: Option<Keeper>) -> Self {
        Self { snapshots, ..Self::default() }
    }

    /// The furthest place that was seen.
    pub(crate) fn token(&self) -> Option<Token> {
        self.seen.iter().copied().max_by_key(|token| token.position)
    }

    /// Whether all models show the log at one and the same moment.
    pub(crate) fn is_one_moment(&self) -> bool {
        self.seen.windows(2).all(|pair| pair[0] == pair[1])
    }
}

impl<M: Model> Models for M {
    async fn load(&mut self, store: &dyn EventStore, loaded: &mut Loaded) -> Result<()> {
        let Some(seen) = load(store, self, None, loaded.snapshots.as_ref()).await? else {
            loaded.torn = true;
            return Err(torn(&self.source()?));
        };
        loaded.guards.extend(self.guards(&seen)?);
        loaded.seen.push(seen.token);
        Ok(())
    }
}

impl<M: Models> Models for Vec<M> {
    async fn load(&mut self, store: &dyn EventStore, loaded: &mut Loaded) -> Result<()> {
        for model in self {
            model.load(store, loaded).await?;
        }
        Ok(())
    }
}

/// Nothing to know: for a decision that only records.
impl Models for () {
    async fn load(&mut self, _: &dyn EventStore, _: &mut Loaded) -> Result<()> {
        Ok(())
    }
}

macro_rules! tuple_of_models {
    ($($model:ident $at:tt),*) => {
        impl<$($model: Models),*> Models for ($($model,)*) {
            async fn load(&mut self, store: &dyn EventStore, loaded: &mut Loaded) -> Result<()> {
                $(self.$at.load(store, loaded).await?;)*
                Ok(())
            }
        }
    };
}
tuple_of_models!(A 0);
tuple_of_models!(A 0, B 1);
tuple_of_models!(A 0, B 1, C 2);
tuple_of_models!(A 0, B 1, C 2, D 3);
tuple_of_models!(A 0, B 1, C 2, D 3, E 4);
tuple_of_models!(A 0, B 1, C 2, D 3, E 4, F 5);

/// Makes a model from its events up to `at`, or to the end: from a snapshot on, if there is one that the log bears out.
/// `None` if events of its stream were hidden meanwhile: the model is then in a state that never was.
pub(crate) async fn load<M: Model>(
    store: &dyn EventStore,
    model: &mut M,
    at: Option<At>,
    snapshots: Option<&Keeper>,
) -> Result<Option<Seen>> {
    let mut seen = match load_events(store, model, at, snapshots).await {
        Ok(seen) => seen,
        Err(End::Torn) => return Ok(None),
        Err(End::Failed(error)) => return Err(error),
        Err(End::Untrue(why)) => return Err(Error::invalid("the snapshot", why)),
    };
    if at.is_some_and(|at| at != At::NOW) {
        // It is the state of the stream as it is, not as it was then.
        seen.stream = None;
    }
    model.loaded(&seen);
    Ok(Some(seen))
}

async fn load_events<M: Model>(
    store: &dyn EventStore,
    model: &mut M,
    at: Option<At>,
    snapshots: Option<&Keeper>,
) -> Result<Seen, End> {
    let source = model.source()?;
    // Where the evolution of its events does not fit, that is to be known before the first old event comes.
    M::Event::query()?;
    let (Some(keeper), Source::Stream(stream)) = (snapshots, &source) else {
        let read = Read { source, ..Read::all() };
        return Ok(fold(store, read, model, at, None).await?.seen);
    };
    let found = match model.kept() {
        None => Found::Nothing,
        Some(kept) => keeper.find(stream, kept, at).await,
    };
    let mut untrue = matches!(found, Found::Untrue);
    let read = Read::stream(stream.clone());
    if let Found::Held(held) = found {
        let from_it = read.clone().from_revision(held.of.last.revision);
        match fold(store, from_it, model, at, Some(held)).await {
            Ok(folded) => {
                keeper.used();
                folded.keep(keeper, stream, model, at);
                return Ok(folded.seen);
            }
            Err(End::Failed(error)) => {
                if matches!(error, Error::Tombstoned { .. }) {
                    keeper.forget_soon(stream);
                }
                return Err(End::Failed(error));
            }
            Err(End::Torn) => return Err(End::Torn),
            Err(End::Untrue(why)) => {
                untrue = true;
                keeper.refused(stream, why);
            }
        }
    }
    let folded = fold(store, read, model, at, None).await?;
    if !folded.keep(keeper, stream, model, at) && untrue {
        keeper.forget_soon(stream);
    }
    Ok(folded.seen)
}

/// What the applying of events has come to.
struct Folded {
    seen: Seen,
    /// How many records were applied, and the first and the last of those that were read.
    records: u64,
    first: Option<Place>,
    last: Option<Place>,
    /// The state of the stream with the last page.
    stream: Option<StreamState>,
}

/// Why it did not come to an end.
enum End {
    /// The log does not bear out the snapshot. The model is as it was.
    Untrue(String),
    /// Events of the stream were hidden meanwhile.
    Torn,
    Failed(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Applies events to a model, page by page; before the first of them, what `begin` holds, whose last event that is.
async fn fold<M: Model>(
    store: &dyn EventStore,
    read: Read,
    model: &mut M,
    at: Option<At>,
    mut begin: Option<Held>,
) -> Result<Folded, End> {
    let read = Read { as_of: at.and_then(At::as_of), ..read };
    let last = match at {
        Some(At::Revision(last)) => Some(last),
        _ => None,
    };
    let (mut folded, mut events): (Option<Folded>, _) = (None, Vec::new());
    let mut seam = Seam::of(&read);
    let end = store.read_pages(read, |mut page| {
        seam.check(&page)?;
        if begin.is_some() && page.events.is_empty() && page.next.is_some() {
            return Ok(());
        }
        let begun = begin.take();
        if let Some(held) = &begun {
            held.of.check(&page).map_err(|why| Stop::Untrue(why.to_owned()))?;
            let mut kept = model.kept().ok_or_else(|| Stop::Untrue("there are none any more".to_owned()))?;
            kept.restore(held).map_err(Stop::Untrue)?;
        }
        let folded = folded.get_or_insert_with(|| Folded::from_here(&page));
        let enough = folded.take_note(&mut page, last);
        // The first is in the snapshot.
        let known = usize::from(begun.is_some());
        folded.records -= known as u64;
        for record in page.events.into_iter().skip(known) {
            Recorded::decode(record, &mut events)?;
            events.drain(..).for_each(|event| model.apply(&event));
        }
        if enough { Err(Stop::Enough) } else { Ok(()) }
    });
    match end.await {
        Err(Stop::Untrue(why)) => Err(End::Untrue(why)),
        Err(Stop::Torn) => Err(End::Torn),
        Err(Stop::Failed(error)) => Err(End::Failed(error)),
        Ok(()) | Err(Stop::Enough) => {
            folded.ok_or_else(|| End::Failed(Error::invalid("the read", "it gave no page")))
        }
    }
}

/// Why no more pages are read.
enum Stop {
    Enough,
    Untrue(String),
    Torn,
    Failed(Error),
}

impl From<Torn> for Stop {
    fn from(torn: Torn) -> Self {
        match torn {
            Torn::Gap => Self::Torn,
            Torn::Failed(error) => Self::Failed(error),
        }
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Folded {
    fn from_here(page: &Page) -> Self {
        // The stream's state as of the first page, which is the moment that all pages show.
        let seen = Seen { token: page.token, stream: page.stream, last: None };
        Self { seen, records: 0, first: None, last: None, stream: page.stream }
    }

    /// Takes note of a page, less what comes after the revision `last`. Whether that ends it.
    fn take_note(&mut self, page: &mut Page, last: Option<Revision>) -> bool {
        let all = page.events.len();
        if let Some(last) = last {
            page.events.truncate(page.events.partition_point(|event| event.revision <= last));
        }
        (self.seen.token, self.stream) = (page.token, page.stream);
        self.records += page.events.len() as u64;
        self.first = self.first.or(page.events.first().map(Place::of));
        if let Some(event) = page.events.last() {
            self.last = Some(Place::of(event));
            self.seen.last = self.seen.stream.and(Some(event.revision));
        }
        page.events.len() < all
    }

    /// Whether the state is put away as a snapshot.
    fn keep<M: Model>(&self, keeper: &Keeper, stream: &StreamName, model: &mut M, at: Option<At>) -> bool {
        let Some(kept) = model.kept().filter(|kept| at.is_none() && self.records >= kept.every()) else {
            return false;
        };
        let (Some(first), Some(last)) = (self.first, self.last) else { return false };
        let (Some(before), Some(now)) = (self.seen.stream, self.stream) else { return false };
        match Seal::new(self.seen.token.log, first, last, &before, &now) {
            Some(seal) => keeper.keep(stream, &kept, seal),
            None => false,
        }
    }
}

/// What a decision records: events of any number of streams, in order, as one.
///
/// An event that cannot be written (a bad id, a bad tag) is an error when the decision is recorded.
#[derive(Debug)]
pub struct Writes(pub(crate) Result<Vec<Write>>);

impl Writes {
    /// Nothing.
    pub fn none() -> Self {
        Self(Ok(Vec::new()))
    }

    /// These events of one aggregate.
    pub fn to<A: Aggregate>(id: &Id<A>, events: impl IntoIterator<Item = A::Event>) -> Self {
        Self::none().and(id, events)
    }

    /// These events of a stream that belongs to no aggregate.
    pub fn to_stream<E: Event>(stream: impl Into<String>, events: impl IntoIterator<Item = E>) -> Self {
        Self::none().and_stream(stream, events)
    }

    /// The same, and these events of another aggregate.
    #[must_use]
    pub fn and<A: Aggregate>(self, id: &Id<A>, events: impl IntoIterator<Item = A::Event>) -> Self {
        self.write(id.stream(), events)
    }

    /// The same, and these events of a stream that belongs to no aggregate.
    #[must_use]
    pub fn and_stream<E: Event>(
        self,
        stream: impl Into<String>,
        events: impl IntoIterator<Item = E>,
    ) -> Self {
        self.write(StreamName::new(stream.into()), events)
    }

    fn write<E: Event>(self, stream: Result<StreamName>, events: impl IntoIterator<Item = E>) -> Self {
        let add = |mut writes: Vec<Write>| {
            let events: Vec<_> =
                events.into_iter().map(|event| codec::encode(&event)).collect::<Result<_>>()?;
            if !events.is_empty() {
                writes.push(Write { stream: stream?, events });
            }
            Ok(writes)
        };
        Self(self.0.and_then(add))
    }
}
