//! What is published: one message for each event, with the attributes of a CloudEvent.

use std::{fmt, str::FromStr};

use bytes::Bytes;
use factum::{Error, Position, RecordedEvent, Result};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

/// What a message is known by: `LOGID:POSITION`, the same however often it is published.
///
/// Places of one log are in the order of its commits, so that of two messages with the same key the one that happened later has
/// the larger position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId {
    /// The log's id, made at random when the log was created.
    pub log: Uuid,
    /// The event's place in it.
    pub position: Position,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.log, self.position)
    }
}

impl FromStr for MessageId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once(':').and_then(|(log, position)| {
            Some(Self { log: log.parse().ok()?, position: Position(position.parse().ok()?) })
        });
        parts.ok_or_else(|| {
            let why = "it is no LOGID:POSITION, so no relay of factum has published it";
            Error::invalid(format!("the message id `{text}`"), why)
        })
    }
}

/// A message on its way to a broker: an event, and what a relay knows of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// What it is known by.
    pub id: MessageId,
    /// The epoch of the log as it was published. It changes where history could have been rewound.
    pub epoch: u64,
    /// Former epochs in which the same event was at the same place: those that have gone on without a loss
    /// ([`EventStore::continued`](factum::EventStore::continued)).
    pub former_epochs: Vec<u64>,
    /// The relay that publishes it.
    pub relay: String,
    /// What keeps its order: messages of one key are published one after the other.
    pub key: String,
    /// The event, as it is stored.
    pub event: RecordedEvent,
}

impl Message {
    /// The names and values that travel beside the body: those of CloudEvents 1.0. [The crate's page](crate#what-a-message-looks-like)
    /// has the table. The content type is not among them, since every broker has a place of its own for it.
    #[must_use]
    pub fn attributes(&self) -> Vec<(&'static str, String)> {
        let Self { id, epoch, former_epochs, relay, key, event } = self;
        let mut attributes = vec![
            ("specversion", "1.0".to_owned()),
            ("id", id.to_string()),
            ("source", format!("urn:uuid:{}", id.log)),
            ("type", event.event_type.as_str().to_owned()),
            ("subject", event.stream.as_str().to_owned()),
            ("time", event.recorded_at.to_string()),
            ("partitionkey", key.clone()),
            ("revision", event.revision.to_string()),
            ("eventid", event.id.to_string()),
            ("epoch", epoch.to_string()),
            ("relay", relay.clone()),
        ];
        if !former_epochs.is_empty() {
            let epochs: Vec<String> = former_epochs.iter().map(u64::to_string).collect();
            attributes.push(("formerepochs", epochs.join(",")));
        }
        if !event.metadata.is_empty() {
            let mut metadata = event.metadata.to_object();
            for (attribute, name) in FROM_METADATA {
                if let Some(serde_json::Value::String(text)) = metadata.remove(*name) {
                    attributes.push((attribute, text));
                }
            }
        }
        attributes
    }

    /// The media type of the body.
    #[must_use]
    pub fn content_type(&self) -> &str {
        self.event.content_type.as_str()
    }

    /// The event's data, byte for byte as the store gives it.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.event.data
    }

    /// Which of so many parts its key belongs to: the same for ever. For destinations that are numbered, as in
    /// `.stream_by(|message| format!("orders:{}", message.part_of(8)))`.
    #[must_use]
    pub fn part_of(&self, parts: u64) -> u64 {
        xxh3_64(self.key.as_bytes()) % parts.max(1)
    }

    /// In words, for errors.
    #[must_use]
    pub fn place(&self) -> String {
        let Self { event, .. } = self;
        format!("`{}` at position {} in `{}`", event.event_type, event.position, event.stream)
    }

    /// Bytes, about.
    #[cfg(any(feature = "nats", feature = "rabbitmq", feature = "redis"))]
    pub(crate) fn size(&self) -> usize {
        let Self { relay, key, event, .. } = self;
        event.data.len() + event.metadata.as_bytes().len() + 2 * key.len() + relay.len() + 512
    }
}

/// Attributes, and the keys of an event's metadata that they come from if these are texts.
const FROM_METADATA: &[(&str, &str)] = &[
    ("correlationid", "correlation_id"),
    ("causationid", "causation_id"),
    ("traceparent", "traceparent"),
    ("tracestate", "tracestate"),
];

#[cfg(test)]
pub(crate) mod tests {
    use factum::{EventId, EventType, Metadata, Revision, StreamName, Tags, Timestamp};

    use super::*;

    /// A message about `key`, at this position.
    pub(crate) fn message(key: &str, position: u64) -> Message {
        let event = RecordedEvent {
            position: Position(position),
            stream: StreamName::new(key.to_owned()).unwrap(),
            revision: Revision(3),
            recorded_at: Timestamp(1_700_000_000_000_001),
            id: EventId(Uuid::nil()),
            event_type: EventType::new("Placed").unwrap(),
            content_type: factum::ContentType::Json,
            data: Bytes::from_static(b"{\"n\":1}"),
            metadata: Metadata::EMPTY,
            tags: Tags::NONE,
        };
        let id = MessageId { log: Uuid::from_u128(7), position: event.position };
        Message {
            id,
            epoch: 1,
            former_epochs: Vec::new(),
            relay: "out".to_owned(),
            key: key.to_owned(),
            event,
        }
    }

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = message("order-1", 42).id;
        assert_eq!(id.to_string(), "00000000-0000-0000-0000-000000000007:42");
        assert_eq!(id.to_string().parse::<MessageId>(), Ok(id));
        for bad in [
            "",
            "42",
            ":42",
            "00000000-0000-0000-0000-000000000007",
            "x:1",
            "00000000-0000-0000-0000-000000000007:-1",
        ] {
            let refused = bad.parse::<MessageId>().unwrap_err().to_string();
            assert!(refused.contains(&format!("`{bad}`")) && refused.contains("LOGID:POSITION"), "{refused}");
        }
    }

    #[test]
    fn attributes_are_those_of_a_cloud_event() {
        let mut message = message("order-1", 42);
        message.event.metadata = Metadata::from_json(
            r#"{"correlation_id":"c","causation_id":7,"traceparent":"00-1-2-01","actor":"ada"}"#,
        )
        .unwrap();
        let attributes = message.attributes();
        let of = |name: &str| attributes.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value);
        assert_eq!(of("specversion"), Some("1.0"));
        assert_eq!(of("source"), Some("urn:uuid:00000000-0000-0000-0000-000000000007"));
        assert_eq!((of("type"), of("subject"), of("revision")), (Some("Placed"), Some("order-1"), Some("3")));
        assert_eq!(of("time"), Some("2023-11-14T22:13:20.000001Z"));
        assert_eq!((of("correlationid"), of("traceparent")), (Some("c"), Some("00-1-2-01")));
        assert_eq!(of("causationid"), None, "what is no text is not made one");
        let named_well = |name: &str| {
            name.len() <= 20 && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        assert!(attributes.iter().all(|(name, value)| named_well(name) && !value.is_empty()));
    }

    #[test]
    fn a_key_stays_in_its_part() {
        let parts: Vec<u64> = (1..=5).map(|n| message(&format!("order-{n}"), n).part_of(4)).collect();
        assert_eq!(
            parts,
            [2, 0, 0, 1, 3],
            "whoever has messages under the old numbers would lose their order"
        );
        assert_eq!(message("order-1", 1).part_of(0), 0);
    }
}
