//! The words of a domain: events, aggregates, commands. Pure data and pure functions; nothing here knows a store.

use std::{fmt, hash, marker::PhantomData, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use crate::{
    codec,
    error::{Error, Result},
    event::RecordedEvent,
    evolution::Evolution,
    name::StreamName,
    query::Query,
    snapshot::Snapshots,
    time::Timestamp,
};

/// A kind of thing that happened in the domain: an enum with one variant per kind.
///
/// The variant's (serde) name is the event type, and its content the JSON data: see [`codec`]. Names are pinned for as long
/// as events of them exist: what changes them says so in [`evolution`](Event::evolution).
///
/// Implemented by hand, or by the derive of the same name (feature `macros`), whose page shows what it writes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no event",
    note = "write `#[derive(Event, Serialize, Deserialize)]` on an enum with one variant per kind of thing that happened"
)]
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What the names of the streams of these events begin with, up to the first `-`: `account` for `account-17`.
    const CATEGORY: &'static str;

    /// Variants whose shape has changed, each with its version now: 2 or more. Version 2 of `Deposited` is stored as
    /// `Deposited.v2`; all other variants are stored under their bare names.
    const VERSIONS: &'static [(&'static str, u32)] = &[];

    /// What the event concerns, as `key:value`, so that a decision can ask for it across streams.
    fn tags(&self) -> Vec<String> {
        Vec::new()
    }

    /// When it happened in the world, where that is another moment than when it was recorded.
    fn happened_at(&self) -> Option<Timestamp> {
        None
    }

    /// What events of older shapes are today.
    fn evolution() -> Evolution<Self> {
        Evolution::new()
    }
}

/// What a model or a projection is made from: one [`Event`], or several in an enum of them. This is what one writes, or the
/// derive of the same name (feature `macros`):
///
/// ```
/// # use factum::{EventSet, Query, RecordedEvent, Result, prelude::*};
/// # #[derive(Serialize, Deserialize)] enum OrderEvent { Placed }
/// # impl Event for OrderEvent { const CATEGORY: &'static str = "order"; }
/// # #[derive(Serialize, Deserialize)] enum PaymentEvent { Received }
/// # impl Event for PaymentEvent { const CATEGORY: &'static str = "payment"; }
/// enum ShopEvent { Order(OrderEvent), Payment(PaymentEvent) }
///
/// impl EventSet for ShopEvent {
///     fn query() -> Result<Query> {
///         Ok(OrderEvent::query()?.or(PaymentEvent::query()?))
///     }
///     fn is_for(record: &RecordedEvent) -> bool {
///         OrderEvent::is_for(record) || PaymentEvent::is_for(record)
///     }
///     fn decode_each(record: &RecordedEvent, each: &mut dyn FnMut(Self)) -> Result<()> {
///         match record {
///             _ if PaymentEvent::is_for(record) => PaymentEvent::decode_each(record, &mut |e| each(Self::Payment(e))),
///             _ => OrderEvent::decode_each(record, &mut |e| each(Self::Order(e))),
///         }
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no event, and no set of events",
    note = "write `#[derive(Event, Serialize, Deserialize)]` on an enum with one variant per kind of thing that happened, or \
            `#[derive(EventSet)]` on an enum of several such enums"
)]
pub trait EventSet: Sized + Send + Sync + 'static {
    /// The events of its category or categories.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the type cannot be that of events: see [`codec::stored_types`].
    fn query() -> Result<Query>;

    /// Whether the record's stream is of its category or categories.
    fn is_for(record: &RecordedEvent) -> bool;

    /// What the record holds: one event, unless [`evolution`](Event::evolution) made several of it, or none.
    ///
    /// # Errors
    /// Those of [`codec::decode_each`].
    fn decode_each(record: &RecordedEvent, each: &mut dyn FnMut(Self)) -> Result<()>;
}

impl<E: Event> EventSet for E {
    fn query() -> Result<Query> {
        Evolution::<E>::of()?;
        Ok(Query::category(E::CATEGORY))
    }

    fn is_for(record: &RecordedEvent) -> bool {
        record.stream.category() == E::CATEGORY
    }

    fn decode_each(record: &RecordedEvent, each: &mut dyn FnMut(Self)) -> Result<()> {
        codec::decode_each(record, each)
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

impl<E: EventSet> Recorded<E> {
    /// Decodes a record, and adds what it holds: one event, unless [`evolution`](Event::evolution) made several of it, or none.
    ///
    /// # Errors
    /// Those of [`EventSet::decode_each`]. Nothing is added then.
    pub fn decode(record: RecordedEvent, into: &mut Vec<Self>) -> Result<()> {
        // Nearly always there is one, which then owns the record.
        let (mut last, before) = (None, into.len());
        let decoded = E::decode_each(&record, &mut |event| {
            if let Some(event) = last.replace(event) {
                into.push(Self { event, record: record.clone() });
            }
        });
        if let Err(error) = decoded {
            into.truncate(before);
            return Err(error);
        }
        into.extend(last.map(|event| Self { event, record }));
        Ok(())
    }

    /// Decodes records, in order.
    ///
    /// # Errors
    /// Those of [`decode`](Self::decode).
    pub fn decode_all(records: impl IntoIterator<Item = RecordedEvent>) -> Result<Vec<Self>> {
        let records = records.into_iter();
        let mut events = Vec::with_capacity(records.size_hint().0);
        records.into_iter().try_for_each(|record| Self::decode(record, &mut events))?;
        Ok(events)
    }
}

/// A thing with a history: its state is what its events have made of it.
pub trait Aggregate: Default + Send + Sync + 'static {
    /// What can happen to it.
    type Event: Event;

    /// What an event does to the state. It has happened: there is nothing to refuse.
    fn apply(&mut self, event: &Self::Event);

    /// Whether its state is kept, so that a long history need not be read each time: `Some(Snapshots::every(100))`. Nothing comes
    /// of it without [`Factum::with_snapshots`](crate::Factum::with_snapshots). See [`snapshot`](crate::snapshot).
    fn snapshots() -> Option<Snapshots<Self>> {
        None
    }

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

/// As text.
impl<A> Serialize for Id<A> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.id)
    }
}

/// From text.
impl<'de, A> Deserialize<'de> for Id<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { id: String::deserialize(deserializer)?.into(), of: PhantomData })
    }
}

impl<A> fmt::Debug for Id<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.id)
    }
}

/// A wish, and the rule that decides on it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no command for `{A}`",
    note = "write `impl Command<{A}> for {Self}`, with the rule that decides on it"
)]
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
