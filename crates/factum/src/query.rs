//! Queries: which events a read, a subscription or a guard is about.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    aggregate::Event,
    codec,
    error::{Error, Result},
    event::RecordedEvent,
    name::{EventType, StreamName},
    tags::{Tags, check_tag},
};

/// Any of some alternatives; each alternative asks for type ∧ tags ∧ category ∧ stream.
///
/// ```
/// # use factum::Query;
/// let seats = Query::types(["SeatTaken", "SeatFreed"])?.tag("course:math")?;
/// let either = seats.or(Query::category("student"));
/// # Ok::<(), factum::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Query {
    /// An event matches if it matches one of these. None at all matches nothing.
    pub any_of: Vec<Criterion>,
}

/// One alternative of a [`Query`]. What is left empty does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Criterion {
    /// The event's type is one of these.
    pub types: Vec<EventType>,
    /// The event has all of these tags.
    pub tags: Tags,
    /// The event's stream is in this category.
    pub category: Option<String>,
    /// The event is in this stream.
    pub stream: Option<StreamName>,
}

impl Query {
    /// Every event.
    pub fn all() -> Self {
        Self::from(Criterion::default())
    }

    /// Events of any of these types. No types at all matches nothing.
    ///
    /// # Errors
    /// As for [`EventType::new`].
    pub fn types<T: AsRef<str>>(types: impl IntoIterator<Item = T>) -> Result<Self> {
        let types: Vec<_> =
            types.into_iter().map(|name| EventType::new(name.as_ref())).collect::<Result<_>>()?;
        if types.is_empty() {
            return Ok(Self { any_of: vec![] });
        }
        Ok(Self::from(Criterion { types, ..Criterion::default() }))
    }

    /// Events of these variants of `E`, under whatever names they are or were stored, an alias (`#[serde(alias)]`) too:
    /// `Query::kinds::<SchoolEvent>(["SeatTaken"])`. No names at all matches nothing.
    ///
    /// They are those of the streams of [`E::CATEGORY`](Event::CATEGORY), as for `E::query()`: events of other categories may have the same
    /// names and mean something else. Events that were written into a stream of another category (by
    /// [`Writes::to_stream`](crate::Writes::to_stream)) are found with [`Query::types`], by the names that they are stored under.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] naming a variant that `E` does not have, if `E` cannot be read from events,
    /// if no stream can be of its category, or if it cannot be found of which variant an alias is.
    pub fn kinds<E: Event>(names: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self> {
        let category = E::CATEGORY;
        if category.contains('-') {
            let why = "a category is the stream's name up to the first `-`: make it one word without `-`";
            return Err(Error::invalid(format!("the category `{category}`"), why));
        }
        let mut types = Vec::new();
        for name in names {
            types.extend(codec::stored_types_of::<E>(name.as_ref())?);
        }
        types.sort_unstable();
        types.dedup();
        let mut query = Self::types(types)?;
        for criterion in &mut query.any_of {
            criterion.category = Some(category.to_owned());
        }
        Ok(query)
    }

    /// Events that have all of these tags.
    ///
    /// # Errors
    /// As for [`Tags::new`].
    pub fn tags<T: AsRef<str>>(tags: impl IntoIterator<Item = T>) -> Result<Self> {
        Ok(Self::from(Criterion { tags: Tags::new(tags)?, ..Criterion::default() }))
    }

    /// Events of the streams whose name up to the first `-` is `category`.
    pub fn category(category: impl Into<String>) -> Self {
        Self::from(Criterion { category: Some(category.into()), ..Criterion::default() })
    }

    /// Events of one stream.
    pub fn stream(stream: StreamName) -> Self {
        Self::from(Criterion { stream: Some(stream), ..Criterion::default() })
    }

    /// The same, restricted to events that also have `tag`.
    ///
    /// # Errors
    /// As for [`Tags::new`].
    pub fn tag(mut self, tag: &str) -> Result<Self> {
        check_tag(tag)?;
        for criterion in &mut self.any_of {
            criterion.tags = Tags::new(criterion.tags.iter().chain([tag]))?;
        }
        Ok(self)
    }

    /// Events that match this or `other`.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.any_of.extend(other.any_of);
        self
    }

    /// Whether the event matches.
    pub fn matches(&self, event: &RecordedEvent) -> bool {
        self.any_of.iter().any(|c| c.holds(&event.stream, &event.event_type, &event.tags))
    }
}

impl From<Criterion> for Query {
    fn from(criterion: Criterion) -> Self {
        Self { any_of: vec![criterion] }
    }
}

impl Criterion {
    /// Whether an event of this stream, type and tags matches.
    pub fn holds(&self, stream: &StreamName, event_type: &EventType, tags: &Tags) -> bool {
        (self.types.is_empty() || self.types.contains(event_type))
            && self.stream.as_ref().is_none_or(|own| own == stream)
            && self.category.as_ref().is_none_or(|own| own == stream.category())
            && self.tags.iter().all(|tag| tags.contains(tag))
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.any_of.is_empty() {
            return f.write_str("nothing");
        }
        for (n, criterion) in self.any_of.iter().enumerate() {
            if n > 0 {
                f.write_str(" or ")?;
            }
            criterion.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.types.is_empty() {
            parts.push(format!(
                "type {}",
                self.types.iter().map(EventType::as_str).collect::<Vec<_>>().join("|")
            ));
        }
        parts.extend(self.tags.iter().map(|tag| format!("tag {tag}")));
        parts.extend(self.category.iter().map(|category| format!("category {category}")));
        parts.extend(self.stream.iter().map(|stream| format!("stream {stream}")));
        f.write_str(&if parts.is_empty() {
            "anything".to_owned()
        } else {
            format!("({})", parts.join(" and "))
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        event::{ContentType, EventId, Metadata},
        position::{Position, Revision},
        time::Timestamp,
    };

    #[test]
    fn alternatives_are_or_and_parts_are_and() {
        let event = RecordedEvent {
            position: Position(1),
            stream: StreamName::new("course-1").unwrap(),
            revision: Revision::FIRST,
            recorded_at: Timestamp(0),
            id: EventId::new(),
            event_type: EventType::new("SeatTaken").unwrap(),
            content_type: ContentType::Bytes,
            data: Bytes::new(),
            metadata: Metadata::EMPTY,
            tags: Tags::new(["c:1", "s:2"]).unwrap(),
        };
        let matches = |query: Query| query.matches(&event);
        assert!(matches(Query::all()));
        assert!(!matches(Query::types([] as [&str; 0]).unwrap()));
        assert!(matches(Query::types(["X", "SeatTaken"]).unwrap().tag("c:1").unwrap().tag("s:2").unwrap()));
        assert!(!matches(Query::types(["SeatTaken"]).unwrap().tag("c:2").unwrap()));
        assert!(matches(Query::category("nope").or(Query::category("course"))));
        assert!(!matches(Query::stream(StreamName::new("course-2").unwrap())));
    }
}
