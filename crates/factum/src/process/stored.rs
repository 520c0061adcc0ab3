//! What is recorded in an instance's stream.

use serde::{Deserialize, Serialize};

use super::effect::{Effect, Raw, Timer};
use crate::{
    error::{Error, Result},
    event::{ContentType, EventId, Metadata, RecordedEvent},
    name::{EventType, StreamName},
    position::{Position, Revision},
    tags::Tags,
    time::Timestamp,
    timers::Changes,
};

/// An input was heard, and this is what came of it.
pub(super) const REACTED: &str = "Reacted";
/// A timer was due.
pub(super) const TIMER_FIRED: &str = "TimerFired";
/// A command that was sent was refused.
pub(super) const COMMAND_REFUSED: &str = "CommandRefused";
/// All effects of a reaction have happened.
pub(super) const PERFORMED: &str = "Performed";
/// A later reaction compensates, and not all effects of this one are known to have happened: no more of them will.
pub(super) const ABANDONED: &str = "Abandoned";

/// The data of [`REACTED`].
#[derive(Serialize, Deserialize)]
pub(super) struct Reacted<C> {
    pub(super) input: Heard,
    pub(super) effects: Vec<Effect<C>>,
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    pub(super) timers: Changes,
}

/// What was heard.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Heard {
    Event(Box<Copied>),
    /// An event of the instance's own stream: a timer, a refusal.
    Own(Revision),
}

/// The data of [`TIMER_FIRED`].
#[derive(Serialize, Deserialize)]
pub(super) struct TimerFired {
    pub(super) timer: Timer,
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    pub(super) timers: Changes,
}

/// The data of [`COMMAND_REFUSED`].
#[derive(Serialize, Deserialize)]
pub(super) struct CommandRefused {
    /// The id under which it was sent.
    pub(super) id: EventId,
    pub(super) command: Raw,
    pub(super) why: String,
}

/// The data of [`PERFORMED`] and of [`ABANDONED`].
#[derive(Serialize, Deserialize)]
pub(super) struct Settled {
    /// Which reaction's effects.
    pub(super) of: Revision,
}

/// An event that was heard, whole: the stream that it comes from may be truncated or deleted, and the instance goes on.
#[derive(Serialize, Deserialize)]
pub(super) struct Copied {
    position: Position,
    stream: StreamName,
    revision: Revision,
    recorded_at: Timestamp,
    id: EventId,
    #[serde(rename = "type")]
    event_type: EventType,
    /// Left out for JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Raw>,
    /// What is not JSON, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<Raw>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    /// Which of the events that the record holds today.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) part: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Copied {
    pub(super) fn of(record: &RecordedEvent, part: usize) -> Result<Self> {
        let json = record.content_type == ContentType::Json;
        let metadata = record.metadata.as_bytes();
        Ok(Self {
            position: record.position,
            stream: record.stream.clone(),
            revision: record.revision,
            recorded_at: record.recorded_at,
            id: record.id,
            event_type: record.event_type.clone(),
            content_type: (!json).then(|| record.content_type.as_str().to_owned()),
            data: json.then(|| Raw::of_bytes(&record.data)).transpose()?,
            bytes: (!json).then(|| record.data.iter().map(|byte| format!("{byte:02x}")).collect()),
            metadata: (!metadata.is_empty()).then(|| Raw::of_bytes(metadata)).transpose()?,
            tags: record.tags.iter().map(str::to_owned).collect(),
            part,
        })
    }

    pub(super) fn record(self) -> Result<RecordedEvent> {
        let data = match (self.data, self.bytes) {
            (Some(data), _) => data.text().to_owned().into_bytes(),
            (None, Some(bytes)) => from_hex(&bytes)?,
            (None, None) => Vec::new(),
        };
        let metadata = self.metadata.map(|metadata| Metadata::from_json(metadata.text().to_owned()));
        Ok(RecordedEvent {
            position: self.position,
            stream: self.stream,
            revision: self.revision,
            recorded_at: self.recorded_at,
            id: self.id,
            event_type: self.event_type,
            content_type: self.content_type.map_or(Ok(ContentType::Json), ContentType::from_name)?,
            data: data.into(),
            metadata: metadata.unwrap_or(Ok(Metadata::EMPTY))?,
            tags: if self.tags.is_empty() { Tags::NONE } else { Tags::new(self.tags)? },
        })
    }
}

fn from_hex(text: &str) -> Result<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    let byte = |two: &[u8]| u8::from_str_radix(str::from_utf8(two).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.map(byte).collect();
    bytes.ok_or_else(|| Error::invalid("the bytes of an event that was heard", "they are not hexadecimal"))
}
