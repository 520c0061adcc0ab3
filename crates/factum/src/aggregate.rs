//! The words of a domain: events, aggregates, commands. Pure data and pure functions; nothing here knows a store.

use std::{fmt, hash, marker::PhantomData, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    codec,
    error::{Error, Result},
    event::RecordedEvent,
    name::StreamName,
};

/// A kind of thing that happened in the domain: an enum with one variant per kind.
///
/// The variant's (serde) name is the event type, and its content the JSON data: see [`codec`]. Names are pinned for as long
/// as events of them exist; rename a variant with `#[serde(rename = "…")]` or `#[serde(alias = "…")]`.
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What the names of the streams of these events begin with, up to the first `-`: `account` for `account-17`.
    const CATEGORY: &'static str;

    /// What the event concerns, as `key:value`, so that a decision can ask for it across streams.
    fn tags(&self) -> Vec<String> {
        Vec::new()
    }
}

/// An event of the domain with its record: place, time, id, metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded<E> {
    /// What happened.
    pub event: E,
    /// The event as the store keeps it.
    pub record: RecordedEvent,
}

impl<E: Event> Recorded<E> {
    /// Decodes a record.
    ///
    /// # Errors
    /// Those of [`codec::decode`].
    pub fn decode(record: RecordedEvent) -> Result<Self> {
        Ok(Self { event: codec::decode(&record)?, record })
    }
}

/// A thing with a history: its state is what its events have made of it.
pub trait Aggregate: Default + Send + Sync + 'static {
    /// What can happen to it.
    type Event: Event;

    /// What an event does to the state. It has happened: there is nothing to refuse.
    fn apply(&mut self, event: &Self::Event);

    /// The id of one of them. Its events are in the stream `CATEGORY-id`; an id that cannot be in a stream's name is an error
    /// when it is used.
    fn id(id: impl Into<String>) -> Id<Self> {
        Id { id: Arc::from(id.into()), of: PhantomData }
    }
}

/// The id of an aggregate: `Account::id("17")`.
pub struct Id<A> {
    id: Arc<str>,
    of: PhantomData<fn() -> A>,
}

impl<A> Id<A> {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.id
    }
}

impl<A: Aggregate> Id<A> {
    /// The stream that holds its events.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the id is empty or holds a control character, or the category holds a `-`;
    /// [`Error::LimitExceeded`] if the name is too long.
    pub fn stream(&self) -> Result<StreamName> {
        let category = A::Event::CATEGORY;
        if category.is_empty() || category.contains('-') {
            let why = "a category is the stream's name up to the first `-`: make it one word without `-`";
            return Err(Error::invalid(format!("the category `{category}`"), why));
        }
        if self.id.is_empty() {
            return Err(Error::invalid(
                format!("the id of a `{category}`"),
                "it is empty; give it at least one character",
            ));
        }
        StreamName::new(format!("{category}-{}", self.id))
    }
}

impl<A> Clone for Id<A> {
    fn clone(&self) -> Self {
        Self { id: self.id.clone(), of: PhantomData }
    }
}

impl<A> PartialEq for Id<A> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl<A> Eq for Id<A> {}

impl<A> hash::Hash for Id<A> {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl<A> fmt::Display for Id<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

impl<A> fmt::Debug for Id<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.id)
    }
}

/// A wish, and the rule that decides on it.
pub trait Command<A: Aggregate>: Send + Sync {
    /// Why it can be refused.
    type Error: std::error::Error + Send + Sync + 'static;

    /// What happens because of it; no events if there is nothing to do.
    ///
    /// Pure: it may be asked again with a newer state, when somebody else was quicker.
    ///
    /// # Errors
    /// The refusal. Nothing is recorded then.
    fn decide(&self, state: &A) -> Result<Vec<A::Event>, Self::Error>;
}

/// A rule in one line: `refuse_if(self.amount > account.balance, Refusal::InsufficientFunds)?`.
///
/// # Errors
/// The refusal, if the condition holds.
pub fn refuse_if<E>(condition: bool, refusal: E) -> Result<(), E> {
    if condition { Err(refusal) } else { Ok(()) }
}
