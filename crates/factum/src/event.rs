//! Events: as they are sent, and as they are recorded.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use uuid::Uuid;

use crate::{
    error::{Error, Limit, Result},
    json,
    name::{EventType, StreamName, TYPE_BYTES, check_name},
    position::{Position, Revision},
    tags::Tags,
    time::Timestamp,
};

/// Bytes in an event's metadata, at most.
pub const METADATA_BYTES: usize = 64 * 1024;

/// What makes an event the same event however often it is sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub Uuid);

impl EventId {
    /// A new id: a version 7 UUID, so that ids made later sort later.
    #[allow(clippy::disallowed_methods, reason = "this is the door")]
    #[allow(clippy::new_without_default, reason = "an id is never a default")]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// An id that follows from `name` within `namespace`: the same each time it is asked for.
    pub fn derived(namespace: Uuid, name: impl AsRef<[u8]>) -> Self {
        Self(Uuid::new_v5(&namespace, name.as_ref()))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the bytes of an event's data are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum ContentType {
    /// `application/json`. A store may keep the value rather than the bytes: white space and the order of keys may change.
    #[default]
    Json,
    /// `application/octet-stream`: kept byte for byte.
    Bytes,
    /// Another media type: kept byte for byte.
    Other(ByteString),
}

impl ContentType {
    /// The media type's name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Json => "application/json",
            Self::Bytes => "application/octet-stream",
            Self::Other(name) => name,
        }
    }

    /// The content type of that name.
    ///
    /// # Errors
    /// As for any name: empty, too long, or with a control character.
    pub fn from_name(name: impl Into<ByteString>) -> Result<Self> {
        let name = name.into();
        Ok(match &*name {
            "application/json" => Self::Json,
            "application/octet-stream" => Self::Bytes,
            _ => {
                check_name("the content type", &name, Limit::TypeBytes, TYPE_BYTES)?;
                Self::Other(name)
            }
        })
    }
}

/// What is known about an event besides its data: a JSON object.
///
/// factum itself uses `correlation_id`, `causation_id`, `causation_depth` and `actor`; all other keys are the user's.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Metadata(Bytes);

impl Metadata {
    /// Nothing known.
    pub const EMPTY: Self = Self(Bytes::new());

    /// Keeps the bytes of a JSON object.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it is not a JSON object, [`Error::LimitExceeded`] beyond 64 KiB.
    pub fn from_json(json: impl Into<Bytes>) -> Result<Self> {
        let json = json.into();
        if json.is_empty() || &json[..] == b"{}" {
            return Ok(Self::EMPTY);
        }
        if json.len() > METADATA_BYTES {
            let (allowed, actual) = (METADATA_BYTES as u64, json.len() as u64);
            return Err(Error::LimitExceeded { limit: Limit::MetadataBytes, allowed, actual });
        }
        let object = serde_json::from_slice::<std::collections::BTreeMap<String, IgnoredAny>>(&json);
        object.map_err(|e| Error::invalid("the metadata", format!("it must be a JSON object ({e})")))?;
        Ok(Self(json))
    }

    /// Keeps a JSON object.
    ///
    /// # Errors
    /// [`Error::LimitExceeded`] beyond 64 KiB.
    pub fn from_object(object: &serde_json::Map<String, serde_json::Value>) -> Result<Self> {
        Self::from_json(
            serde_json::to_vec(object).map_err(|e| Error::invalid("the metadata", e.to_string()))?,
        )
    }

    /// Takes bytes that a store wrote and checked earlier. For authors of stores: nothing is checked here, neither the shape nor
    /// the limit; use [`from_json`](Self::from_json) for anything else.
    pub fn from_store(json: Bytes) -> Self {
        Self(json)
    }

    /// The JSON text; empty when nothing is known.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The object, parsed.
    pub fn to_object(&self) -> serde_json::Map<String, serde_json::Value> {
        serde_json::from_slice(&self.0).unwrap_or_default()
    }

    /// The value of `key`, if it is text.
    pub fn get(&self, key: &str) -> Option<String> {
        match self.to_object().remove(key)? {
            serde_json::Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The id that all events of one flow of work share.
    pub fn correlation_id(&self) -> Option<String> {
        self.get("correlation_id")
    }

    /// The id of the command or event that led to this one.
    pub fn causation_id(&self) -> Option<String> {
        self.get("causation_id")
    }

    /// How many events led to this one, each to the next. 0 for what was not [caused](crate::Factum::caused_by) by an event.
    pub fn causation_depth(&self) -> u64 {
        self.to_object().get("causation_depth").and_then(serde_json::Value::as_u64).unwrap_or(0)
    }

    /// The distributed trace that it was recorded in: the header of that name of the W3C's Trace Context.
    pub fn traceparent(&self) -> Option<String> {
        self.get("traceparent")
    }

    /// Who did it.
    pub fn actor(&self) -> Option<String> {
        self.get("actor")
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "{}" } else { std::str::from_utf8(&self.0).unwrap_or("?") })
    }
}

/// An event on its way to a store.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// The same id sent again is the same event.
    pub id: EventId,
    /// Its kind.
    pub event_type: EventType,
    /// What `data` is.
    pub content_type: ContentType,
    /// What happened.
    pub data: Bytes,
    /// Who, why, in which flow of work.
    pub metadata: Metadata,
    /// What it concerns.
    pub tags: Tags,
}

impl NewEvent {
    /// An event with JSON data and a new id.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a bad type name or data that cannot be JSON.
    pub fn json(event_type: &str, data: &impl Serialize) -> Result<Self> {
        let data = serde_json::to_vec(data).map_err(|e| {
            Error::invalid(format!("the data of `{event_type}`"), format!("it cannot be JSON ({e})"))
        })?;
        Ok(Self { content_type: ContentType::Json, ..Self::bytes(event_type, data)? })
    }

    /// An event whose data is JSON text already.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a bad type name or text that is not JSON.
    pub fn json_text(event_type: &str, data: impl Into<Bytes>) -> Result<Self> {
        let data = data.into();
        serde_json::from_slice::<IgnoredAny>(&data).map_err(|e| {
            Error::invalid(format!("the data of `{event_type}`"), format!("it is not JSON ({e})"))
        })?;
        Ok(Self { content_type: ContentType::Json, ..Self::bytes(event_type, data)? })
    }

    /// An event with opaque data and a new id.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for a bad type name.
    pub fn bytes(event_type: &str, data: impl Into<Bytes>) -> Result<Self> {
        Ok(Self {
            id: EventId::new(),
            event_type: EventType::new(event_type)?,
            content_type: ContentType::Bytes,
            data: data.into(),
            metadata: Metadata::EMPTY,
            tags: Tags::NONE,
        })
    }

    /// The same with this id.
    #[must_use]
    pub fn with_id(self, id: EventId) -> Self {
        Self { id, ..self }
    }

    /// The same with this metadata.
    #[must_use]
    pub fn with_metadata(self, metadata: Metadata) -> Self {
        Self { metadata, ..self }
    }

    /// The same with these tags.
    #[must_use]
    pub fn with_tags(self, tags: Tags) -> Self {
        Self { tags, ..self }
    }

    /// Bytes that count towards the limits: data, metadata, type and tags.
    pub fn size(&self) -> usize {
        self.data.len() + self.metadata.as_bytes().len() + self.event_type.len() + self.tags.packed().len()
    }

    /// Whether `recorded` is this event: the same in everything but its place. JSON is compared as a value, and
    /// its numbers to the last digit.
    pub fn same_content(&self, recorded: &RecordedEvent) -> bool {
        self.event_type == recorded.event_type
            && self.content_type == recorded.content_type
            && self.tags == recorded.tags
            && json::same(self.metadata.as_bytes(), recorded.metadata.as_bytes())
            && match self.content_type {
                ContentType::Json => json::same(&self.data, &recorded.data),
                _ => self.data == recorded.data,
            }
    }

    /// Its content in a form that is equal for exactly the events of the [`NewEvent::same_content`], so that a digest of it can
    /// stand for the content when that is gone. The form never changes.
    pub fn canonical_content(&self) -> Vec<u8> {
        let Self { event_type, content_type, data, metadata, tags, .. } = self;
        canonical_content(event_type, content_type, data, metadata, tags)
    }
}

fn canonical_content(
    event_type: &EventType,
    content_type: &ContentType,
    data: &[u8],
    metadata: &Metadata,
    tags: &Tags,
) -> Vec<u8> {
    let (kind, name): (&[u8], &str) = match content_type {
        ContentType::Json => (b"json", ""),
        ContentType::Bytes => (b"bytes", ""),
        ContentType::Other(name) => (b"other", name),
    };
    let data = if *content_type == ContentType::Json { json::canonical(data) } else { data.to_vec() };
    let metadata = json::canonical(metadata.as_bytes());
    let mut out = Vec::with_capacity(data.len() + metadata.len() + 64);
    for part in [event_type.as_bytes(), kind, name.as_bytes(), &data, &metadata, tags.packed()] {
        out.extend_from_slice(&(part.len() as u64).to_le_bytes());
        out.extend_from_slice(part);
    }
    out
}

/// An event as the store keeps it, with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedEvent {
    /// Its place in the whole store.
    pub position: Position,
    /// The stream it is in.
    pub stream: StreamName,
    /// Its place in the stream.
    pub revision: Revision,
    /// When the store took it: never earlier than that of any event before it.
    pub recorded_at: Timestamp,
    /// Its id.
    pub id: EventId,
    /// Its kind.
    pub event_type: EventType,
    /// What `data` is.
    pub content_type: ContentType,
    /// What happened.
    pub data: Bytes,
    /// Who, why, in which flow of work.
    pub metadata: Metadata,
    /// What it concerns.
    pub tags: Tags,
}

impl RecordedEvent {
    /// As for [`NewEvent::canonical_content`].
    pub fn canonical_content(&self) -> Vec<u8> {
        let Self { event_type, content_type, data, metadata, tags, .. } = self;
        canonical_content(event_type, content_type, data, metadata, tags)
    }

    /// The data, decoded from JSON.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if the data is not JSON of that shape.
    pub fn json<T: for<'de> Deserialize<'de>>(&self) -> Result<T> {
        serde_json::from_slice(&self.data).map_err(|e| {
            let Self { event_type, position, stream, .. } = self;
            Error::invalid(
                format!("the data of `{event_type}` at position {position} in `{stream}`"),
                e.to_string(),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_must_be_an_object() {
        for bad in ["[]", "1", "{", "null", "{\"a\":1} x"] {
            assert!(Metadata::from_json(bad).is_err(), "{bad}");
        }
        let metadata = Metadata::from_json(r#"{"actor":"ada","n":1}"#).unwrap();
        assert_eq!((metadata.actor().as_deref(), metadata.get("n")), (Some("ada"), None));
        assert!(Metadata::from_json("{}").unwrap().is_empty());
    }

    #[test]
    fn json_text_is_checked() {
        assert!(NewEvent::json_text("T", "{\"a\":").unwrap_err().to_string().contains("not JSON"));
        assert!(NewEvent::json_text("T", "{\"a\":1}").is_ok());
    }
}
