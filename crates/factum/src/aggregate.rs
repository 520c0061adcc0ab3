//! Aggregates: a stream of events, the state that follows from it, and the commands that it takes.

use std::{fmt, marker::PhantomData};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec,
    error::{Error, Result},
    event::{NewEvent, RecordedEvent},
    name::StreamName,
    position::Revision,
    tags::Tags,
};

/// A family of domain events: an enum with one variant per kind.
///
/// The variant's name is the event type, for as long as such events exist: pin it with `#[serde(rename = "…")]` before you
/// rename the variant. What the variant holds is the data, as JSON.
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What streams of these events begin with: `account` gives `account-17`.
    const CATEGORY: &'static str;

    /// What the event concerns besides its stream, as `key:value`.
    fn tags(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A domain event with its record: its place, its time, who and why.
#[derive(Clone, Debug)]
pub struct Recorded<E> {
    /// What happened.
    pub event: E,
    /// The event as it is stored.
    pub record: RecordedEvent,
}

impl<E: Event> Recorded<E> {
    /// Reads a stored event as one of `E`.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming the place, if it is none.
    pub fn decode(record: RecordedEvent) -> Result<Self> {
        match codec::decode(&record.event_type, &record.data) {
            Ok(event) => Ok(Self { event, record }),
            Err(Error::InvalidInput { what, why }) => {
                let RecordedEvent { position, stream, .. } = &record;
                Err(Error::invalid(format!("{what}, at position {position} in `{stream}`"), why))
            }
            Err(other) => Err(other),
        }
    }
}

/// A domain event in the form in which it is sent.
///
/// # Errors
/// [`Error::InvalidInput`] if it is no enum, or has a tag that is none.
pub fn new_event<E: Event>(event: &E) -> Result<NewEvent> {
    let (event_type, data) = codec::encode(event)?;
    let tags = event.tags();
    let tags = if tags.is_empty() { Tags::NONE } else { Tags::new(tags)? };
    Ok(NewEvent::json_encoded(event_type, data)?.with_tags(tags))
}

/// Something with a state of its own, which changes only by its own events.
pub trait Aggregate: Default + Send + Sync + 'static {
    /// What can happen to it.
    type Event: Event;

    /// Changes the state by what happened. It decides nothing and refuses nothing: it happened.
    fn apply(&mut self, event: &Self::Event);

    /// The one of this id. A bad id shows as an error when it is used.
    fn id(id: impl Into<String>) -> Id<Self> {
        Id { id: id.into(), aggregate: PhantomData }
    }
}

/// The id of an aggregate. Its stream is `category-id`.
pub struct Id<A> {
    id: String,
    aggregate: PhantomData<fn() -> A>,
}

impl<A: Aggregate> Id<A> {
    /// The id without the category.
    pub fn as_str(&self) -> &str {
        &self.id
    }

    /// The stream.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] or [`Error::LimitExceeded`] if the id makes no name.
    pub fn stream(&self) -> Result<StreamName> {
        if self.id.is_empty() {
            return Err(Error::invalid(
                format!("the id of a stream in `{}`", A::Event::CATEGORY),
                "it is empty",
            ));
        }
        StreamName::new(format!("{}-{}", A::Event::CATEGORY, self.id))
    }
}

impl<A> Clone for Id<A> {
    fn clone(&self) -> Self {
        Self { id: self.id.clone(), aggregate: PhantomData }
    }
}

impl<A> fmt::Debug for Id<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.id, f)
    }
}

impl<A> fmt::Display for Id<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

impl<A> PartialEq for Id<A> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl<A> Eq for Id<A> {}

/// A wish that an aggregate grants or refuses.
pub trait Command<A: Aggregate>: Send + Sync {
    /// Why it can be refused.
    type Error: std::error::Error + Send + Sync + 'static;

    /// What happens, if it is granted; nothing at all is an answer, too. It may be asked more than once.
    ///
    /// # Errors
    /// Why it is refused.
    fn decide(&self, state: &A) -> Result<Vec<A::Event>, Self::Error>;
}

/// `Err(refusal)` if the condition holds: a rule in one line.
///
/// # Errors
/// The refusal.
pub fn refuse_if<E>(condition: bool, refusal: E) -> Result<(), E> {
    if condition { Err(refusal) } else { Ok(()) }
}

/// An aggregate as its events made it.
#[derive(Debug)]
pub struct Entity<A> {
    /// Which one.
    pub id: Id<A>,
    /// Its state; the default, if nothing ever happened.
    pub state: A,
    /// The revision of its last event; `None` if nothing ever happened.
    pub revision: Option<Revision>,
}

impl<A: Aggregate> Entity<A> {
    /// The one of this id, before anything happened.
    pub fn of(id: &Id<A>) -> Self {
        Self { id: id.clone(), state: A::default(), revision: None }
    }

    /// Whether anything ever happened to it.
    pub fn exists(&self) -> bool {
        self.revision.is_some()
    }
}
