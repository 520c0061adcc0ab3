//! Tests of the domain in three words: given, when, then.
//!
//! Everything goes the way that it goes in production: events through the codec into a store, commands through [`Factum`],
//! rows through a worker into a read store. Nothing here is asynchronous, so that an ordinary `#[test]` will do.
//!
//! ```
//! # use factum::{prelude::*, testkit::{SUBJECT, Step, any_sequence, given, given_stored}};
//! # #[derive(Serialize, Deserialize)] enum AccountEvent { MoneyDeposited { cents: i64 }, MoneyWithdrawn { cents: i64 } }
//! # impl Event for AccountEvent { const CATEGORY: &'static str = "account";
//! #   fn evolution() -> Evolution<Self> { Evolution::new().rename("Deposit", "MoneyDeposited") } }
//! # #[derive(Default)] struct Account { cents: i64 }
//! # impl Aggregate for Account { type Event = AccountEvent; fn apply(&mut self, e: &AccountEvent) {
//! #   match e { AccountEvent::MoneyDeposited { cents } => self.cents += cents, AccountEvent::MoneyWithdrawn { cents } => self.cents -= cents } } }
//! # #[derive(Debug, PartialEq)] struct InsufficientFunds;
//! # impl std::fmt::Display for InsufficientFunds { fn fmt(&self, _: &mut std::fmt::Formatter) -> std::fmt::Result { Ok(()) } }
//! # impl std::error::Error for InsufficientFunds {}
//! # #[derive(Debug)] struct Withdraw { cents: i64 }
//! # impl Command<Account> for Withdraw { type Error = InsufficientFunds; fn decide(&self, a: &Account) -> Result<Vec<AccountEvent>, InsufficientFunds> {
//! #   refuse_if(a.cents < self.cents, InsufficientFunds)?; Ok(vec![AccountEvent::MoneyWithdrawn { cents: self.cents }]) } }
//! # struct Balances; impl Projection for Balances { const NAME: &'static str = "balances"; type Event = AccountEvent; type Row = i64;
//! #   fn evolve(&self, row: Option<i64>, e: &Recorded<AccountEvent>) -> Option<i64> { let mut a = Account { cents: row.unwrap_or(0) }; a.apply(&e.event); Some(a.cents) } }
//! # use AccountEvent::*;
//! // A command, or a decision.
//! given([MoneyDeposited { cents: 100 }]).when(Withdraw { cents: 30 }).then([MoneyWithdrawn { cents: 30 }]);
//! given([MoneyDeposited { cents: 100 }]).when(Withdraw { cents: 101 }).then_refused(InsufficientFunds);
//!
//! // A projection.
//! given([MoneyDeposited { cents: 100 }, MoneyWithdrawn { cents: 30 }]).project(Balances).then_rows([(SUBJECT, 70)]);
//!
//! // Events of older shapes: what they are today.
//! given_stored("Deposit", r#"{"cents": 100}"#).then([MoneyDeposited { cents: 100 }]);
//!
//! // Process managers: `given([…]).process(Fulfilment).when([…]).then_effects([…])`, see `Given::process`.
//!
//! // Whatever happens.
//! any_sequence(|random| Step::command(Withdraw { cents: random.i64(0..100) })).keeps(|account: &Account| account.cents >= 0);
//! ```
//!
//! What is given, and what comes, is of one aggregate, [`SUBJECT`]. Of several things it is the same [`Writes`] as in production:
//! `given(Writes::to(&a, […]).and(&b, […])).when(Transfer { … }).then(Writes::to(…))`.
//!
//! Time stands still at [`START`] unless a test moves it (`given([…]).at("2026-03-31T12:00:00Z").and([…])`), and ids count from
//! one: a test that ran once runs for ever. For whatever has no word here there is a [`World`]: `given([…]).world().factum` is a handle as in
//! production, on which, for example, a projection in SQL can run (`Sqlite::memory()?.project(&world.factum, Turnover)`).

mod process;
mod property;
mod story;

use std::{future::Future, marker::PhantomData, sync::Arc, task};

use self::story::{Line, Story};
pub use self::{
    process::Reacting,
    property::{Property, Random, Step, any_sequence},
};
use crate::{
    aggregate::{Aggregate, Command, Event, Recorded},
    append::{Append, Limits},
    decision::{Decide, Loaded, Models, Writes},
    error::Result,
    event::{NewEvent, RecordedEvent},
    handle::{Done, Factum, Failure},
    idempotency::short_name,
    ids::{CountedIds, Ids},
    memory::MemoryStore,
    name::StreamName,
    projection::MultiProjection,
    query::Query,
    read::Read,
    reads::MemoryReads,
    store::EventStoreExt,
    time::{ManualClock, Timestamp},
};

/// The id of the one aggregate that a test is about.
pub const SUBJECT: &str = "under-test";

/// When tests begin: 2000-01-01T00:00:00Z.
pub const START: Timestamp = Timestamp(946_684_800_000_000);

/// What has happened so far: events of the one aggregate, or [`Writes`] to several things. `given([])`: nothing.
pub fn given<P: Past>(past: P) -> Given<P::Of> {
    Given::default().and(past)
}

/// What lies in the store: an event of this type, with this JSON as its data, be it of an older shape.
pub fn given_stored(event_type: &str, json: &str) -> Given<Stored> {
    Given::default().and_stored(event_type, json)
}

/// A store of its own with a clock that stands still, and ids that count. `World::default()` is empty.
#[derive(Clone, Debug)]
pub struct World {
    /// The handle, as in production.
    pub factum: Factum,
    /// The clock of the handle and of its store.
    pub clock: Arc<ManualClock>,
    ids: Arc<CountedIds>,
}

impl Default for World {
    fn default() -> Self {
        let (clock, ids) = (Arc::new(ManualClock::at(START)), Arc::new(CountedIds::default()));
        let store = MemoryStore::with(Limits::default(), clock.clone());
        let factum = Factum::new(store).with_clock(clock.clone()).with_ids(ids.clone());
        Self { factum, clock, ids }
    }
}

impl World {
    /// Every event that there is.
    fn events(&self) -> Vec<RecordedEvent> {
        at_once(self.factum.store().read_to_end(Read::all()))
            .unwrap_or_else(|error| panic!("the memory store cannot be read: {error}"))
    }

    #[track_caller]
    fn record(&self, given: Append) {
        let mut given = given;
        let events = given.writes.iter_mut().flat_map(|write| &mut write.events);
        events.for_each(|event| event.id = self.ids.next());
        if given.event_count() > 0
            && let Err(error) = at_once(self.factum.store().append(given))
        {
            panic!("the given events cannot be recorded: {error}");
        }
    }
}

/// What can be given, and expected.
pub trait Past {
    /// Of what: [`One`] aggregate, or [`Several`] things.
    type Of;

    /// The same as writes.
    fn writes(self) -> Writes;
}

/// Events of one aggregate.
#[derive(Debug)]
pub struct One<E>(PhantomData<E>);

/// Events of several things.
#[derive(Debug)]
pub struct Several;

/// Events as they lie in the store.
#[derive(Debug)]
pub struct Stored;

impl<E: Event, const N: usize> Past for [E; N] {
    type Of = One<E>;

    fn writes(self) -> Writes {
        Vec::from(self).writes()
    }
}

impl<E: Event> Past for Vec<E> {
    type Of = One<E>;

    fn writes(self) -> Writes {
        Writes::to_stream(format!("{}-{SUBJECT}", E::CATEGORY), self)
    }
}

impl Past for Writes {
    type Of = Several;

    fn writes(self) -> Writes {
        self
    }
}

/// A past: see [`given`].
#[derive(Debug)]
#[must_use]
pub struct Given<Of> {
    /// Each with the moment at which it was recorded.
    batches: Vec<(Timestamp, Batch)>,
    of: PhantomData<Of>,
}

#[derive(Debug)]
enum Batch {
    Events(Writes),
    /// Of the category that what comes then is about.
    Stored(NewEvent),
}

impl<Of> Default for Given<Of> {
    fn default() -> Self {
        Self { batches: Vec::new(), of: PhantomData }
    }
}

impl<Of> Given<Of> {
    /// Since then, this has happened, too.
    pub fn and(mut self, past: impl Past<Of = Of>) -> Self {
        self.batches.push((self.now(), Batch::Events(past.writes())));
        self
    }

    /// What was given last was recorded at this moment, and what follows happens then.
    ///
    /// # Panics
    /// If it is not written like `2026-03-31T12:00:00Z`.
    #[track_caller]
    pub fn at(mut self, moment: &str) -> Self {
        let moment = moment.parse().unwrap_or_else(|error| panic!("{error}"));
        match self.batches.last_mut() {
            Some((at, _)) => *at = moment,
            None => self.batches.push((moment, Batch::Events(Writes::none()))),
        }
        self
    }

    fn now(&self) -> Timestamp {
        self.batches.last().map_or(START, |(at, _)| *at)
    }

    /// A world with this past. `category` is that of events given as they are stored.
    #[track_caller]
    fn into_world(self, category: &str) -> World {
        let world = World::default();
        for (at, batch) in self.batches {
            world.clock.set(at);
            match batch {
                Batch::Events(Writes(Ok(writes))) => world.record(Append { writes, guards: Vec::new() }),
                Batch::Events(Writes(Err(error))) => panic!("a given event cannot be written: {error}"),
                Batch::Stored(event) => {
                    let stream = StreamName::new(format!("{category}-{SUBJECT}"));
                    let stream = stream.unwrap_or_else(|error| panic!("{error}"));
                    world.record(Append::to(stream, [event]));
                }
            }
        }
        world
    }

    /// The rows that a projection makes of it.
    ///
    /// # Panics
    /// If the projection stops at an event; the message says why.
    #[track_caller]
    pub fn project<P: MultiProjection>(self, projection: P) -> Rows<P> {
        let world = self.into_world(story::category_of::<P::Event>().as_deref().unwrap_or("events"));
        let factum = world.factum.clone();
        let rows = in_a_runtime(async move {
            let projected = factum.project(projection, MemoryReads::new()).await?;
            projected.wait_for(factum.store().head().await?.token).await?;
            projected.all().await
        });
        let given: Vec<_> = world.events().iter().map(Line::recorded).collect();
        match rows {
            Ok(rows) => Rows { given, rows },
            Err(error) => Rows::<P>::story(&given).fail("rows", &[], &format!("it stopped: {error}")),
        }
    }
}

impl<E: Event> Given<One<E>> {
    /// Tries the command.
    #[track_caller]
    pub fn when<A: Aggregate<Event = E>, C: Command<A>>(self, command: C) -> Outcome<C::Error> {
        Outcome::of_command(&self.into_world(E::CATEGORY), &A::id(SUBJECT), command)
    }

    /// A world in which this has happened, for whatever else a test wants to do in it.
    #[track_caller]
    pub fn world(self) -> World {
        self.into_world(E::CATEGORY)
    }
}

impl Given<Several> {
    /// Tries the decision.
    #[track_caller]
    pub fn when<D: Decide>(self, decision: D) -> Outcome<D::Error> {
        let world = self.into_world("");
        let (past, unread) = (world.events(), not_read_by(&world, &decision));
        let answer = at_once(world.factum.decide(decision));
        Outcome::new(&world, &past, short_name::<D>(), answer, unread)
    }

    /// A world in which this has happened, for whatever else a test wants to do in it.
    #[track_caller]
    pub fn world(self) -> World {
        self.into_world("")
    }
}

impl Given<Stored> {
    /// And this, too, lies in the store.
    ///
    /// # Panics
    /// If it is not JSON.
    #[track_caller]
    pub fn and_stored(mut self, event_type: &str, json: &str) -> Self {
        let event = NewEvent::json_text(event_type, json.as_bytes().to_vec());
        let event = event.unwrap_or_else(|error| panic!("{error}"));
        self.batches.push((self.now(), Batch::Stored(event)));
        self
    }

    /// Tries the command.
    #[track_caller]
    pub fn when<A: Aggregate, C: Command<A>>(self, command: C) -> Outcome<C::Error> {
        Outcome::of_command(&self.into_world(A::Event::CATEGORY), &A::id(SUBJECT), command)
    }

    /// Read today, these are the events, in this order, and no others.
    ///
    /// # Panics
    /// If not, with what they are instead.
    #[track_caller]
    pub fn then<E: Event>(self, expected: impl IntoIterator<Item = E>) {
        let expected = Line::all(expected.into_iter().collect::<Vec<_>>().writes());
        let (given, today) = self.today::<E>();
        let story = Story::new(&given).when(&format!("read as {}", short_name::<E>()));
        match today {
            Ok(today) if today == expected => {}
            Ok(today) => story.fail_with_difference("these events", &expected, &today),
            Err(error) => story.fail("these events", &expected, &format!("they cannot be read: {error}")),
        }
    }

    /// Read today, nothing is left of it.
    ///
    /// # Panics
    /// If there is, with what it is.
    #[track_caller]
    pub fn then_nothing<E: Event>(self) {
        self.then::<E>([]);
    }

    /// It cannot be read, and the error says so in these words, among others.
    ///
    /// # Panics
    /// If it can, or the error says something else.
    #[track_caller]
    pub fn then_unreadable<E: Event>(self, words: &str) {
        let (given, today) = self.today::<E>();
        let story = Story::new(&given).when(&format!("read as {}", short_name::<E>()));
        let expected = format!("an error with the words `{words}`");
        match today {
            Err(error) if error.to_string().contains(words) => {}
            Err(error) => story.fail(&expected, &[], &format!("the error is: {error}")),
            Ok(today) => story.fail_with_difference(&expected, &[], &today),
        }
    }

    #[track_caller]
    fn today<E: Event>(self) -> (Vec<Line>, Result<Vec<Line>>) {
        let stored = self.into_world(E::CATEGORY).events();
        let given = stored.iter().map(Line::recorded).collect();
        let today = Recorded::<E>::decode_all(stored);
        let line = |recorded: Recorded<E>| Line::all(vec![recorded.event].writes());
        (given, today.map(|events| events.into_iter().flat_map(line).collect()))
    }
}

/// What came of a command or a decision.
#[derive(Debug)]
#[must_use]
pub struct Outcome<R> {
    /// The refusal, or what was recorded.
    came: Result<Vec<Line>, R>,
    given: Vec<Line>,
    unread: Vec<Line>,
    tried: &'static str,
}

impl<R: std::error::Error> Outcome<R> {
    #[track_caller]
    fn of_command<A: Aggregate, C: Command<A, Error = R>>(
        world: &World,
        subject: &crate::Id<A>,
        command: C,
    ) -> Self {
        let past = world.events();
        let answer = at_once(world.factum.execute(subject, command));
        Self::new(world, &past, short_name::<C>(), answer, Vec::new())
    }

    #[track_caller]
    fn new(
        world: &World,
        past: &[RecordedEvent],
        tried: &'static str,
        answer: Result<Done, Failure<R>>,
        unread: Vec<Line>,
    ) -> Self {
        let recorded = world.events().split_off(past.len());
        let came = match answer {
            Ok(_) => Ok(recorded.iter().map(Line::recorded).collect()),
            Err(Failure::Refused(refusal)) => Err(refusal),
            Err(Failure::Store(error)) => panic!("`{tried}` could not be tried: {error}"),
        };
        Self { came, given: past.iter().map(Line::recorded).collect(), unread, tried }
    }

    /// These events were recorded, in this order, and no others.
    ///
    /// # Panics
    /// If not, with what came instead.
    #[track_caller]
    pub fn then(self, expected: impl Past) {
        let expected = Line::all(expected.writes());
        match &self.came {
            Ok(came) if *came == expected => {}
            Ok(came) => self.story().fail_with_difference("these events", &expected, came),
            Err(refusal) => self.story().fail("these events", &expected, &refused(refusal)),
        }
    }

    /// There was nothing to do: no refusal, no events.
    ///
    /// # Panics
    /// If not, with what came instead.
    #[track_caller]
    pub fn then_nothing(self) {
        match &self.came {
            Ok(came) if came.is_empty() => {}
            Ok(came) => self.story().fail_with_difference("nothing to do", &[], came),
            Err(refusal) => self.story().fail("nothing to do", &[], &refused(refusal)),
        }
    }

    /// It was refused for this reason, and nothing was recorded.
    ///
    /// # Panics
    /// If not, with what came instead.
    #[track_caller]
    #[allow(clippy::needless_pass_by_value, reason = "a test reads better without a reference to a literal")]
    pub fn then_refused(self, expected: R)
    where
        R: PartialEq,
    {
        let wanted = format!("a refusal: {expected:?}");
        match &self.came {
            Err(refusal) if *refusal == expected => {}
            Err(refusal) => self.story().fail(&wanted, &[], &refused(refusal)),
            Ok(came) if came.is_empty() => self.story().fail(&wanted, &[], "there was nothing to do"),
            Ok(came) => self.story().fail_with_difference(&wanted, &[], came),
        }
    }

    fn story(&self) -> Story {
        Story::new(&self.given).unread(&self.unread).when(self.tried)
    }
}

fn refused(refusal: &impl std::error::Error) -> String {
    format!("it was refused: {refusal:?} ({refusal})")
}

/// The rows that a projection has made.
#[derive(Debug)]
#[must_use]
pub struct Rows<P: MultiProjection> {
    given: Vec<Line>,
    rows: Vec<(String, P::Row)>,
}

impl<P: MultiProjection> Rows<P> {
    /// These rows, each with its key, and no others. The order does not matter.
    ///
    /// # Panics
    /// If not, with the rows that there are.
    #[track_caller]
    pub fn then_rows<K: Into<String>>(self, expected: impl IntoIterator<Item = (K, P::Row)>) {
        let mut expected: Vec<_> =
            expected.into_iter().map(|(key, row)| Line::row(&key.into(), &row)).collect();
        expected.sort_by(|one, next| one.stream.cmp(&next.stream));
        let rows: Vec<_> = self.rows.iter().map(|(key, row)| Line::row(key, row)).collect();
        if rows != expected {
            Self::story(&self.given).fail_with_difference("these rows", &expected, &rows);
        }
    }

    fn story(given: &[Line]) -> Story {
        Story::new(given).when(&format!("projected by {}", short_name::<P>()))
    }

    /// No rows at all.
    ///
    /// # Panics
    /// If there are some.
    #[track_caller]
    pub fn then_no_rows(self) {
        self.then_rows::<String>([]);
    }
}

/// The given events that none of the decision's models reads: where a query is wrong, these show it.
fn not_read_by<D: Decide>(world: &World, decision: &D) -> Vec<Line> {
    let mut loaded = Loaded::default();
    if at_once(decision.models().load(&**world.factum.store(), &mut loaded)).is_err() {
        return Vec::new();
    }
    let queries: Vec<Query> = loaded.guards.into_iter().map(|guard| guard.concerns()).collect();
    let past = world.events();
    let unread = past.iter().filter(|event| !queries.iter().any(|query| query.matches(event)));
    unread.map(Line::recorded).collect()
}

/// The result of a future that never waits, as those on the memory store do not.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut task::Context::from_waker(task::Waker::noop())) {
        task::Poll::Ready(value) => value,
        task::Poll::Pending => panic!("the command waits for something; a test kit's command must not"),
    }
}

/// The result of a future that needs a runtime, also where the test has one already.
fn in_a_runtime<T: Send>(future: impl Future<Output = Result<T>> + Send) -> Result<T> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap_or_else(|error| panic!("there is no runtime for the test: {error}")).block_on(future)
    };
    std::thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
