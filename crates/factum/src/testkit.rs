//! Tests of the domain in three words: given, when, then.
//!
//! Everything goes the way that it goes in production: the events through the codec into a store, the command through
//! [`Factum`]. Nothing here is asynchronous, so that an ordinary `#[test]` will do.
//!
//! ```
//! # use factum::{prelude::*, testkit::given};
//! # #[derive(Serialize, Deserialize)] enum AccountEvent { MoneyDeposited { cents: i64 }, MoneyWithdrawn { cents: i64 } }
//! # impl Event for AccountEvent { const CATEGORY: &'static str = "account"; }
//! # #[derive(Default)] struct Account { cents: i64 }
//! # impl Aggregate for Account { type Event = AccountEvent; fn apply(&mut self, e: &AccountEvent) {
//! #   match e { AccountEvent::MoneyDeposited { cents } => self.cents += cents, AccountEvent::MoneyWithdrawn { cents } => self.cents -= cents } } }
//! # #[derive(Debug, PartialEq)] struct InsufficientFunds;
//! # impl std::fmt::Display for InsufficientFunds { fn fmt(&self, _: &mut std::fmt::Formatter) -> std::fmt::Result { Ok(()) } }
//! # impl std::error::Error for InsufficientFunds {}
//! # struct Withdraw { cents: i64 }
//! # impl Command<Account> for Withdraw { type Error = InsufficientFunds; fn decide(&self, a: &Account) -> Result<Vec<AccountEvent>, InsufficientFunds> {
//! #   refuse_if(a.cents < self.cents, InsufficientFunds)?; Ok(vec![AccountEvent::MoneyWithdrawn { cents: self.cents }]) } }
//! # use AccountEvent::*;
//! given([MoneyDeposited { cents: 100 }]).when(Withdraw { cents: 30 }).then([MoneyWithdrawn { cents: 30 }]);
//! given([MoneyDeposited { cents: 100 }]).when(Withdraw { cents: 101 }).then_refused(InsufficientFunds);
//! ```
//!
//! A decision over several things is given, and writes, the same [`Writes`] as in production:
//! `given_writes(Writes::to(&a, […]).and(&b, […])).when(Transfer { … }).then(Writes::to(…))`.

use std::{fmt::Write as _, future::Future, task};

use crate::{
    aggregate::{Aggregate, Command, Event},
    append::Append,
    decision::{Decide, Loaded, Models, Writes},
    error::Result,
    event::{NewEvent, RecordedEvent},
    handle::{Done, Factum, Failure},
    memory::MemoryStore,
    query::Query,
    read::Read,
    store::EventStoreExt,
};

/// The id of the aggregate that a command is tried on.
const SUBJECT: &str = "under-test";

/// What has happened so far to the one aggregate that a command is for. `given([])`: nothing.
pub fn given<E: Event>(events: impl IntoIterator<Item = E>) -> Given<E> {
    Given { events: events.into_iter().collect() }
}

/// What has happened so far to all the things that a decision is about. `Writes::none()`: nothing.
pub fn given_writes(writes: Writes) -> GivenWrites {
    GivenWrites { writes }
}

/// A past of one aggregate: see [`given`].
#[derive(Debug)]
#[must_use]
pub struct Given<E> {
    events: Vec<E>,
}

impl<E: Event> Given<E> {
    /// Tries the command.
    pub fn when<A: Aggregate<Event = E>, C: Command<A>>(self, command: C) -> Outcome<C::Error> {
        let subject = A::id(SUBJECT);
        let trial = Trial::after(Writes::to(&subject, self.events));
        let answer = at_once(trial.factum.execute(&subject, command));
        trial.outcome(answer, Vec::new())
    }
}

/// A past of several things: see [`given_writes`].
#[derive(Debug)]
#[must_use]
pub struct GivenWrites {
    writes: Writes,
}

impl GivenWrites {
    /// Tries the decision.
    pub fn when<D: Decide>(self, decision: D) -> Outcome<D::Error> {
        let trial = Trial::after(self.writes);
        let unread = trial.not_read_by(&decision);
        let answer = at_once(trial.factum.decide(decision));
        trial.outcome(answer, unread)
    }
}

/// What came of it.
#[derive(Debug)]
#[must_use]
pub struct Outcome<R> {
    /// The refusal, or what was recorded as `(stream, event)`.
    came: Result<Vec<Line>, R>,
    given: Vec<Line>,
    unread: Vec<Line>,
}

/// An event as a failing test shows it, and as events are compared: by what is stored of them.
#[derive(Clone, Debug, PartialEq)]
struct Line {
    stream: String,
    event_type: String,
    data: serde_json::Value,
    tags: Vec<String>,
}

impl<R: std::error::Error> Outcome<R> {
    /// These events were recorded, in this order, and no others.
    ///
    /// # Panics
    /// If not, with what came instead.
    #[track_caller]
    pub fn then(self, expected: impl Expected) {
        let expected = Line::all(expected.writes());
        if self.came.as_ref().ok() != Some(&expected) {
            self.fail(&format!("these events:\n{}", listed(&expected)));
        }
    }

    /// There was nothing to do: no refusal, no events.
    ///
    /// # Panics
    /// If not, with what came instead.
    #[track_caller]
    pub fn then_nothing(self) {
        if !matches!(&self.came, Ok(lines) if lines.is_empty()) {
            self.fail("nothing to do.\n");
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
        if self.came.as_ref().err() != Some(&expected) {
            self.fail(&format!("a refusal: {expected:?}\n"));
        }
    }

    #[track_caller]
    fn fail(&self, expected: &str) -> ! {
        let mut story = format!("given {} event(s):\n{}expected ", self.given.len(), listed(&self.given));
        story += expected;
        match &self.came {
            Ok(lines) if lines.is_empty() => story += "but there was nothing to do.\n",
            Ok(lines) => story += &format!("but these were recorded:\n{}", listed(lines)),
            Err(refusal) => story += &format!("but it was refused: {refusal:?} ({refusal})\n"),
        }
        if !self.unread.is_empty() {
            story += &format!("no model of the decision reads these given events:\n{}", listed(&self.unread));
        }
        panic!("{story}");
    }
}

fn listed(lines: &[Line]) -> String {
    lines.iter().fold(String::new(), |mut text, Line { stream, event_type, data, tags }| {
        let tags = if tags.is_empty() { String::new() } else { format!("  {}", tags.join(" ")) };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    {stream}: {event_type} {data}{tags}");
        text
    })
}

/// What [`Outcome::then`] takes: the events of the one aggregate, or [`Writes`] to several things.
pub trait Expected {
    /// The same as writes.
    fn writes(self) -> Writes;
}

impl<E: Event, const N: usize> Expected for [E; N] {
    fn writes(self) -> Writes {
        Vec::from(self).writes()
    }
}

impl<E: Event> Expected for Vec<E> {
    fn writes(self) -> Writes {
        Writes::to_stream(format!("{}-{SUBJECT}", E::CATEGORY), self)
    }
}

impl Expected for Writes {
    fn writes(self) -> Writes {
        self
    }
}

impl Line {
    fn of<'a>(stream: &str, event_type: &str, data: &[u8], tags: impl Iterator<Item = &'a str>) -> Self {
        let data = serde_json::from_slice(data).unwrap_or_default();
        Self {
            stream: stream.into(),
            event_type: event_type.into(),
            data,
            tags: tags.map(str::to_owned).collect(),
        }
    }

    fn all(writes: Writes) -> Vec<Self> {
        let writes = writes.0.unwrap_or_else(|error| panic!("an expected event cannot be written: {error}"));
        let line = |stream: &str, e: &NewEvent| Self::of(stream, &e.event_type, &e.data, e.tags.iter());
        writes.iter().flat_map(|write| write.events.iter().map(|e| line(&write.stream, e))).collect()
    }

    fn recorded(event: &RecordedEvent) -> Self {
        Self::of(&event.stream, &event.event_type, &event.data, event.tags.iter())
    }
}

/// A store of its own with a past in it.
struct Trial {
    factum: Factum,
    past: Vec<RecordedEvent>,
}

impl Trial {
    fn after(past: Writes) -> Self {
        let factum = Factum::new(MemoryStore::new());
        let writes = past.0.unwrap_or_else(|error| panic!("a given event cannot be written: {error}"));
        if !writes.is_empty() {
            let append = Append { writes, guards: Vec::new() };
            at_once(factum.store().append(append))
                .unwrap_or_else(|error| panic!("the given events: {error}"));
        }
        let past = Self::all(&factum);
        Self { factum, past }
    }

    fn all(factum: &Factum) -> Vec<RecordedEvent> {
        let read = factum.store().read_to_end(Read::all());
        at_once(read).unwrap_or_else(|error| panic!("the memory store cannot be read: {error}"))
    }

    /// The given events that none of the decision's models reads: where a query is wrong, these show it.
    fn not_read_by<D: Decide>(&self, decision: &D) -> Vec<Line> {
        let mut loaded = Loaded::default();
        if at_once(decision.models().load(&**self.factum.store(), &mut loaded)).is_err() {
            return Vec::new();
        }
        let queries: Vec<Query> = loaded.guards.into_iter().map(|guard| guard.concerns()).collect();
        let unread = self.past.iter().filter(|event| !queries.iter().any(|query| query.matches(event)));
        unread.map(Line::recorded).collect()
    }

    fn outcome<R: std::error::Error>(
        self,
        answer: Result<Done, Failure<R>>,
        unread: Vec<Line>,
    ) -> Outcome<R> {
        let recorded = Self::all(&self.factum).split_off(self.past.len());
        let came = match answer {
            Ok(_) => Ok(recorded.iter().map(Line::recorded).collect()),
            Err(Failure::Refused(refusal)) => Err(refusal),
            Err(Failure::Store(error)) => panic!("the command could not be tried: {error}"),
        };
        Outcome { came, given: self.past.iter().map(Line::recorded).collect(), unread }
    }
}

/// The result of a future that never waits, as those on the memory store do not.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut task::Context::from_waker(task::Waker::noop())) {
        task::Poll::Ready(value) => value,
        task::Poll::Pending => panic!("the command waits for something; a test kit's command must not"),
    }
}
