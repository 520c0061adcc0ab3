//! given … when … then: tests of the domain without a store, on the production encoding.
//!
//! ```
//! # use factum::{prelude::*, testkit::given};
//! # #[derive(Debug, Serialize, Deserialize)]
//! # enum LampEvent { SwitchedOn }
//! # impl Event for LampEvent { const CATEGORY: &'static str = "lamp"; }
//! # #[derive(Default)]
//! # struct Lamp { on: bool }
//! # impl Aggregate for Lamp {
//! #     type Event = LampEvent;
//! #     fn apply(&mut self, _: &LampEvent) { self.on = true }
//! # }
//! # struct SwitchOn;
//! # #[derive(Debug)]
//! # struct Broken;
//! # impl std::fmt::Display for Broken { fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result { f.write_str("broken") } }
//! # impl std::error::Error for Broken {}
//! # impl Command<Lamp> for SwitchOn {
//! #     type Error = Broken;
//! #     fn decide(&self, lamp: &Lamp) -> Result<Vec<LampEvent>, Broken> {
//! #         Ok(if lamp.on { vec![] } else { vec![LampEvent::SwitchedOn] })
//! #     }
//! # }
//! given([]).when(SwitchOn).then([LampEvent::SwitchedOn]);
//! given([LampEvent::SwitchedOn]).when(SwitchOn).then_nothing();
//! ```

#![allow(clippy::needless_pass_by_value, reason = "a test reads better without `&`")]

use std::fmt::Debug;

use crate::{
    aggregate::{Aggregate, Command, Event, Id, Recorded, new_event},
    append::{Append, Write},
    decide::{Decide, Models, Writes},
    error::Result,
    event::{NewEvent, RecordedEvent},
    name::StreamName,
    position::{Position, Revision},
    time::Timestamp,
};

/// What has happened to the one aggregate that a command is for.
#[derive(Debug)]
pub struct Given<E> {
    events: Vec<E>,
}

/// What has happened in several streams.
#[derive(Debug)]
pub struct GivenIn {
    events: Vec<RecordedEvent>,
    shown: Vec<String>,
}

/// What a command or decision answered.
#[derive(Debug)]
#[must_use = "say what should follow: `then`, `then_refused` or `then_nothing`"]
pub struct Outcome<R> {
    given: Vec<String>,
    /// What was written, in the order of writing; or the refusal.
    result: Result<Vec<Write>, R>,
}

/// Starts with what has happened to an aggregate.
pub fn given<E: Event>(events: impl IntoIterator<Item = E>) -> Given<E> {
    Given { events: events.into_iter().collect() }
}

/// Starts with what has happened to one of several aggregates.
pub fn given_in<A: Aggregate>(id: &Id<A>, events: impl IntoIterator<Item = A::Event>) -> GivenIn {
    GivenIn { events: Vec::new(), shown: Vec::new() }.and_in(id, events)
}

impl<E: Event> Given<E> {
    /// Gives the command.
    ///
    /// # Panics
    /// If an event given, or one that follows, cannot be written and read again.
    pub fn when<A: Aggregate<Event = E>, C: Command<A>>(self, command: C) -> Outcome<C::Error> {
        let mut state = A::default();
        let stream = good(A::id("under-test").stream());
        let mut shown = Vec::new();
        for event in &self.events {
            let written = good(new_event(event));
            shown.push(show(&stream, &written));
            let record = recorded(&stream, written, shown.len() as u64);
            state.apply(&good(Recorded::<E>::decode(record)).event);
        }
        let result = command.decide(&state).map(|events| {
            let events = events.iter().map(|event| good(new_event(event))).collect();
            vec![Write { stream, events }]
        });
        Outcome { given: shown, result }
    }
}

impl GivenIn {
    /// And with what has happened to another.
    ///
    /// # Panics
    /// If an event cannot be written.
    #[must_use]
    pub fn and_in<A: Aggregate>(mut self, id: &Id<A>, events: impl IntoIterator<Item = A::Event>) -> Self {
        let stream = good(id.stream());
        for event in events {
            let written = good(new_event(&event));
            self.shown.push(show(&stream, &written));
            let mut record = recorded(&stream, written, self.shown.len() as u64);
            record.revision =
                Revision(self.events.iter().filter(|event| event.stream == stream).count() as u64);
            self.events.push(record);
        }
        self
    }

    /// Takes the decision.
    ///
    /// # Panics
    /// If an event given, or one that follows, cannot be written and read again.
    pub fn deciding<D: Decide>(self, decision: D) -> Outcome<D::Error> {
        let mut models = decision.models();
        good(models.replay(&self.events));
        let result = decision.decide(&models).map(|writes| good(writes.into_append()).writes);
        Outcome { given: self.shown, result }
    }
}

impl<R: Debug> Outcome<R> {
    /// These events should follow.
    ///
    /// # Panics
    /// If others do, or it is refused.
    #[track_caller]
    pub fn then<E: Event>(self, expected: impl IntoIterator<Item = E>) {
        let stream =
            self.result.as_ref().ok().and_then(|writes| writes.first()).map(|write| write.stream.clone());
        let events: Vec<NewEvent> = expected.into_iter().map(|event| good(new_event(&event))).collect();
        // Where nothing happened there is no stream to expect it in.
        let stream = stream.unwrap_or_else(|| good(StreamName::new("somewhere")));
        self.check(vec![Write { stream, events }]);
    }

    /// These writes should follow.
    ///
    /// # Panics
    /// If others do, or it is refused.
    #[track_caller]
    pub fn then_writes(self, expected: Writes) {
        let Append { writes, .. } = good(expected.into_append());
        self.check(writes);
    }

    /// Nothing should follow, and it is not refused.
    ///
    /// # Panics
    /// If something does, or it is refused.
    #[track_caller]
    pub fn then_nothing(self) {
        self.check(Vec::new());
    }

    /// It should be refused, for this reason.
    ///
    /// # Panics
    /// If it is granted, or refused for another reason.
    #[track_caller]
    pub fn then_refused(self, expected: R)
    where
        R: PartialEq,
    {
        let given = listed(&self.given);
        match self.result {
            Err(refusal) => assert!(
                refusal == expected,
                "refused for another reason\n  given    {given}\n  expected {expected:?}\n  was      {refusal:?}"
            ),
            Ok(writes) => {
                panic!("granted\n  given    {given}\n  expected {expected:?}\n  was      {}", shown(&writes))
            }
        }
    }

    #[track_caller]
    fn check(self, expected: Vec<Write>) {
        let given = listed(&self.given);
        let expected = shown(&expected);
        match self.result {
            Err(refusal) => {
                panic!("refused\n  given    {given}\n  expected {expected}\n  was      {refusal:?}")
            }
            Ok(writes) => {
                let was = shown(&writes);
                assert!(
                    was == expected,
                    "something else happened\n  given    {given}\n  expected {expected}\n  was      {was}"
                );
            }
        }
    }
}

/// The value, or the end of the test.
#[track_caller]
fn good<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

fn shown(writes: &[Write]) -> String {
    let events = writes.iter().flat_map(|write| write.events.iter().map(|event| show(&write.stream, event)));
    listed(&events.collect::<Vec<_>>())
}

fn listed(lines: &[String]) -> String {
    if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n           ") }
}

fn show(stream: &StreamName, event: &NewEvent) -> String {
    let tags = if event.tags.is_empty() { String::new() } else { format!(" {:?}", event.tags) };
    format!("{stream}: {} {}{tags}", event.event_type, String::from_utf8_lossy(&event.data))
}

fn recorded(stream: &StreamName, event: NewEvent, nth: u64) -> RecordedEvent {
    let NewEvent { id, event_type, content_type, data, metadata, tags } = event;
    RecordedEvent {
        position: Position(nth),
        stream: stream.clone(),
        revision: Revision(nth - 1),
        recorded_at: Timestamp(0),
        id,
        event_type,
        content_type,
        data,
        metadata,
        tags,
    }
}
