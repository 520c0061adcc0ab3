//! What clients asked of a store and what they were told, in the order in which it happened.
//!
//! A history is kept in memory, or as lines of JSON in a file. Each line is written out before the operation goes on, so that a
//! process that is killed leaves a history that can be checked: what has no answer may or may not have happened.

use std::{collections::HashMap, path::Path};

use factum::{
    Append, ContentType, Error, EventId, EventType, Guard, Metadata, Placed, Position, Query, Read,
    RecordedEvent, Result, Revision, Start, StreamName, StreamState, Tags, Token, error::Actual,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A short stand-in for an event's stream, id, type, tags, data and metadata: different content, different number.
///
/// JSON counts as a value: white space and the order of keys do not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(u64);

/// An event as it was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// To which stream.
    pub stream: StreamName,
    /// Its id.
    pub id: EventId,
    /// Its type.
    pub event_type: EventType,
    /// Its tags.
    pub tags: Tags,
    /// Its content.
    pub content: Fingerprint,
}

/// An event as a reader got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(Position, Revision, i64, Fingerprint)", into = "(Position, Revision, i64, Fingerprint)")]
pub struct Seen {
    /// Its position.
    pub position: Position,
    /// Its revision.
    pub revision: Revision,
    /// When it was recorded, in microseconds since 1970.
    pub recorded_at: i64,
    /// Its content.
    pub content: Fingerprint,
}

/// What a client asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Call {
    /// To append these events, if these guards hold.
    Append {
        /// The events, in order.
        events: Vec<Sent>,
        /// The guards.
        guards: Vec<Guard>,
    },
    /// To read a page.
    Read(Box<Read>),
    /// Where the log ends.
    Head,
    /// What is known of a stream.
    StreamState(StreamName),
    /// To subscribe; the deliveries name the operation that this is.
    Subscribe(Query),
    /// What comes next in the subscription that was made by this operation.
    Next(u64),
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// The append happened.
    Appended {
        /// Where each event is.
        places: Vec<Placed>,
        /// Whether it had happened before.
        replayed: bool,
    },
    /// A page.
    Page {
        /// Its events.
        events: Vec<Seen>,
        /// How far it looked.
        token: Token,
        /// The end of the log that it saw.
        head: Token,
        /// Where the next page begins.
        next: Option<Start>,
    },
    /// The end of the log.
    Head(Token),
    /// The state of a stream.
    State(StreamState),
    /// The subscription begins after this place.
    Subscribed(Token),
    /// The subscription delivered these events, and everything that matches up to the token with them.
    Events(Vec<Seen>, Token),
    /// The subscription found nothing up to here.
    LookedTo(Token),
    /// The subscription has delivered all that there was.
    CaughtUp(Token),
    /// The subscription catches up again.
    FellBehind(Token),
    /// It did not happen, and never will.
    Refused(Refusal),
    /// Nobody knows whether it happened; the error's text.
    Unknown(String),
}

/// Why something did not happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// A guard did not hold.
    Conflict(Guard, Actual),
    /// An id is taken.
    IdConflict,
    /// A stream is tombstoned.
    Tombstoned(StreamName),
    /// A token is of another history.
    LogRewound,
    /// Something else; the error's text.
    Other(String),
}

/// One operation of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// The instant before it was sent: the number of its line, which is also its name.
    pub invoked: u64,
    /// The instant after the answer came; [`NEVER`] if none did.
    pub completed: u64,
    /// What was asked.
    pub call: Call,
    /// What was answered.
    pub answer: Option<Answer>,
}

/// When an operation without an answer is completed.
pub const NEVER: u64 = u64::MAX;

/// All operations of some clients on one store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The end of the log when the recording began: what lies before was written by others.
    pub base: Position,
    /// The operations, in the order in which they were sent.
    pub operations: Vec<Operation>,
}

/// One line of a history's file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Line {
    /// A process begins to record; nothing sent before this line is answered after it.
    Opened(Token),
    /// An operation is about to be sent.
    Call(Call),
    /// The answer to what was sent at that line has come.
    Answer(u64, Answer),
}

impl History {
    /// Reads a history's file. A line that a killed process left half written is skipped.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no file, [`Error::InvalidInput`] if it is not a history.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read(path)
            .map_err(|e| Error::NotFound { what: format!("history at {} ({e})", path.display()) })?;
        Self::parse(&text).map_err(|(line, why)| {
            Error::invalid(
                format!("the history {}", path.display()),
                format!("line {line} is not of a history ({why})"),
            )
        })
    }

    fn parse(text: &[u8]) -> Result<Self, (usize, String)> {
        let mut history = Self::default();
        let mut open = HashMap::new();
        let (mut opened, mut torn) = (false, None);
        let lines = text.split(|&byte| byte == b'\n').zip(1u64..).filter(|(line, _)| !line.is_empty());
        for (line, at) in lines {
            let number = usize::try_from(at).unwrap_or(usize::MAX);
            match (serde_json::from_slice::<Line>(line), torn.take()) {
                (Ok(Line::Opened(head)), _) => {
                    open.clear();
                    if !std::mem::replace(&mut opened, true) {
                        history.base = head.position;
                    }
                }
                // Only the end of a process explains half a line.
                (_, Some(broken)) => return Err(broken),
                (Err(why), None) => torn = Some((number, why.to_string())),
                (Ok(Line::Call(call)), None) => {
                    open.insert(at, history.operations.len());
                    history.operations.push(Operation { invoked: at, completed: NEVER, call, answer: None });
                }
                (Ok(Line::Answer(asked_at, answer)), None) => {
                    let index = open
                        .remove(&asked_at)
                        .ok_or((number, format!("an answer to {asked_at}, never asked")))?;
                    let operation = &mut history.operations[index];
                    (operation.completed, operation.answer) = (at, Some(answer));
                }
            }
        }
        Ok(history)
    }
}

impl From<(Position, Revision, i64, Fingerprint)> for Seen {
    fn from((position, revision, recorded_at, content): (Position, Revision, i64, Fingerprint)) -> Self {
        Self { position, revision, recorded_at, content }
    }
}

impl From<Seen> for (Position, Revision, i64, Fingerprint) {
    fn from(seen: Seen) -> Self {
        (seen.position, seen.revision, seen.recorded_at, seen.content)
    }
}

impl From<&RecordedEvent> for Seen {
    fn from(event: &RecordedEvent) -> Self {
        let RecordedEvent { position, revision, recorded_at, .. } = event;
        Self {
            position: *position,
            revision: *revision,
            recorded_at: recorded_at.0,
            content: Fingerprint::of_recorded(event),
        }
    }
}

impl From<&Append> for Call {
    fn from(append: &Append) -> Self {
        let sent = |(stream, event): (&StreamName, &factum::NewEvent)| Sent {
            stream: stream.clone(),
            id: event.id,
            event_type: event.event_type.clone(),
            tags: event.tags.clone(),
            content: Fingerprint::of(
                (stream, event.id, &event.event_type, &event.content_type),
                (&event.tags, &event.metadata, &event.data),
            ),
        };
        Self::Append { events: append.events().map(sent).collect(), guards: append.guards.clone() }
    }
}

impl From<&Error> for Answer {
    fn from(error: &Error) -> Self {
        if error.outcome() == factum::Outcome::Unknown {
            return Self::Unknown(error.to_string());
        }
        Self::Refused(match error {
            Error::Conflict(conflict) => Refusal::Conflict(conflict.guard.clone(), conflict.actual),
            Error::IdConflict { .. } => Refusal::IdConflict,
            Error::Tombstoned { stream } => Refusal::Tombstoned(stream.clone()),
            Error::LogRewound(_) => Refusal::LogRewound,
            other => Refusal::Other(other.to_string()),
        })
    }
}

impl Fingerprint {
    /// The fingerprint of a recorded event's content.
    pub fn of_recorded(event: &RecordedEvent) -> Self {
        Self::of(
            (&event.stream, event.id, &event.event_type, &event.content_type),
            (&event.tags, &event.metadata, &event.data),
        )
    }

    fn of(
        (stream, id, event_type, content_type): (&StreamName, EventId, &EventType, &ContentType),
        (tags, metadata, data): (&Tags, &Metadata, &[u8]),
    ) -> Self {
        let mut hash = Fnv::default();
        hash.part(stream.as_bytes());
        hash.part(id.0.as_bytes());
        hash.part(event_type.as_bytes());
        hash.part(content_type.as_str().as_bytes());
        hash.part(tags.packed());
        hash.json(metadata.as_bytes());
        match content_type {
            ContentType::Json => hash.json(data),
            _ => hash.part(data),
        }
        Self(hash.0)
    }
}

/// FNV-1a: short, and the same in every process and version, which the standard library's hashers do not promise.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// One part, and its length, so that no two lists of parts look alike.
    fn part(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&(bytes.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn json(&mut self, text: &[u8]) {
        match serde_json::from_slice(text) {
            Ok(value) => self.value(&value),
            Err(_) => self.part(text),
        }
    }

    /// A JSON value, whatever the order in which objects keep their members.
    fn value(&mut self, value: &Value) {
        match value {
            Value::Object(members) => {
                self.part(b"{");
                let mut members: Vec<_> = members.iter().collect();
                members.sort_unstable_by_key(|(key, _)| *key);
                for (key, value) in members {
                    self.part(key.as_bytes());
                    self.value(value);
                }
                self.part(b"}");
            }
            Value::Array(items) => {
                self.part(b"[");
                items.iter().for_each(|item| self.value(item));
                self.part(b"]");
            }
            plain => self.part(plain.to_string().as_bytes()),
        }
    }
}
