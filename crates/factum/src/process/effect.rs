//! What a process manager hears, and what it asks for: both are data.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    aggregate::{Event, Recorded},
    codec,
    error::{Error, Result},
    event::NewEvent,
    name::StreamName,
    tags::Tags,
    time::Timestamp,
};

/// What an instance hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Input<E, C> {
    /// Something happened.
    Event(Recorded<E>),
    /// A timer that the instance had set is due.
    Fired {
        /// The timer.
        timer: Timer,
        /// When it fired: when it was due, or later.
        at: Timestamp,
    },
    /// A command that the instance had sent was refused, by the rules of the domain or by whoever was to do it.
    Refused {
        /// The command.
        command: C,
        /// The refusal.
        why: String,
        /// When.
        at: Timestamp,
    },
}

impl<E, C> Input<E, C> {
    /// The moment at which it was recorded: what deadlines are counted from, since [`react`](super::ProcessManager::react) asks no
    /// clock.
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Event(event) => event.record.recorded_at,
            Self::Fired { at, .. } | Self::Refused { at, .. } => *at,
        }
    }
}

/// What an instance wants to happen. It is recorded before it happens, and happens once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect<C> {
    /// A command is given.
    Send {
        /// The command.
        command: C,
        /// What undoes it, if it is done and the instance compensates later.
        #[serde(default = "none", skip_serializing_if = "Option::is_none")]
        undo: Option<C>,
    },
    /// A timer is set. It replaces one of the same id.
    Schedule(Timer),
    /// A timer is stopped, if it has not been heard yet.
    Cancel {
        /// Its id.
        timer: String,
    },
    /// An event of its own is recorded, for whoever listens.
    Publish(Message),
    /// What was sent so far is undone, the last of it first: see [`Effect::undone_by`].
    Compensate,
    /// The instance has come to its end: its timers are stopped, and it hears nothing any more. It belongs into the reaction to the last
    /// event of what the instance is for. Beside a command it would keep it from hearing that this was refused.
    Complete,
}

// A derived default would ask for `C: Default`.
fn none<C>() -> Option<C> {
    None
}

impl<C> Effect<C> {
    /// A command is given.
    pub fn send(command: C) -> Self {
        Self::Send { command, undo: None }
    }

    /// Of a command that is sent: this one undoes it. Where the instance [compensates](Effect::Compensate) later, that is sent for
    /// each command that was not refused, in reverse order. Other effects stay as they are: only what is sent can be undone.
    ///
    /// It must bear that there is nothing to undo: if an operator has skipped a reaction, nobody knows how much of it was done.
    #[must_use]
    pub fn undone_by(self, undo: C) -> Self {
        match self {
            Self::Send { command, .. } => Self::Send { command, undo: Some(undo) },
            other => other,
        }
    }

    /// A timer is set for a moment: `Effect::schedule("payment", input.at().plus(DAY))`. It replaces one of the same id.
    pub fn schedule(id: impl Into<String>, at: Timestamp) -> Self {
        Self::Schedule(Timer::new(id, at))
    }

    /// A timer is stopped, if it has not been heard yet. Where there is none, nothing happens.
    pub fn cancel(timer: impl Into<String>) -> Self {
        Self::Cancel { timer: timer.into() }
    }

    /// An event is recorded for whoever listens, in the stream of its category and the instance: of the category `shipment`, by the
    /// instance `17`, in `shipment-17`.
    pub fn publish<E: Event>(event: &E) -> Self {
        Self::Publish(Message::of(event))
    }
}

/// A timer of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timer {
    /// What the instance calls it, in up to 200 bytes. An instance has one timer of an id at a time.
    pub id: String,
    /// When it is due.
    pub at: Timestamp,
    /// What is to be known then, besides the state.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub payload: serde_json::Value,
}

impl Timer {
    /// A timer without payload.
    pub fn new(id: impl Into<String>, at: Timestamp) -> Self {
        Self { id: id.into(), at, payload: serde_json::Value::Null }
    }

    /// The payload, as what it was made of.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it is no such thing.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T> {
        let read = serde_json::from_value(self.payload.clone());
        read.map_err(|e| Error::invalid(format!("the payload of the timer `{}`", self.id), e.to_string()))
    }
}

/// An event that an instance records for others: see [`Effect::publish`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    category: String,
    #[serde(rename = "type")]
    event_type: String,
    data: Raw,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    /// Why there is none: told when the effect is to be recorded.
    #[serde(skip)]
    problem: Option<String>,
}

impl Message {
    pub(crate) fn of<E: Event>(event: &E) -> Self {
        let made = codec::encode(event).and_then(|event| {
            let tags = event.tags.iter().map(str::to_owned).collect();
            Ok((event.event_type.as_str().to_owned(), Raw::of_bytes(&event.data)?, tags))
        });
        let category = E::CATEGORY.to_owned();
        match made {
            Ok((event_type, data, tags)) => Self { category, event_type, data, tags, problem: None },
            Err(error) => {
                let (event_type, data, tags) = (String::new(), Raw::default(), Vec::new());
                Self { category, event_type, data, tags, problem: Some(error.to_string()) }
            }
        }
    }

    pub(crate) fn category(&self) -> &str {
        &self.category
    }

    /// # Errors
    /// [`Error::InvalidInput`] saying why the event cannot be written.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.problem {
            Some(problem) => Err(Error::invalid(format!("an event of `{}`", self.category), problem.clone())),
            None => Ok(()),
        }
    }

    /// The event, and the stream of its category that has this id.
    pub(crate) fn to_event(&self, id: &str) -> Result<(StreamName, NewEvent)> {
        let stream = StreamName::new(format!("{}-{id}", self.category))?;
        let event = NewEvent::json_text(&self.event_type, self.data.text().to_owned())?;
        let tags = if self.tags.is_empty() { Tags::NONE } else { Tags::new(&self.tags)? };
        Ok((stream, event.with_tags(tags)))
    }
}

/// JSON as it was written.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Raw(Box<RawValue>);

impl Raw {
    pub(crate) fn of_bytes(json: &[u8]) -> Result<Self> {
        let text =
            str::from_utf8(json).map_err(|e| Error::invalid("what is to be recorded", e.to_string()))?;
        let raw = RawValue::from_string(text.to_owned());
        Ok(Self(raw.map_err(|e| Error::invalid("what is to be recorded", format!("it is not JSON: {e}")))?))
    }

    pub(crate) fn text(&self) -> &str {
        self.0.get()
    }

    pub(crate) fn read<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(self.text())
    }
}

impl Default for Raw {
    fn default() -> Self {
        Self(RawValue::NULL.to_owned())
    }
}

impl PartialEq for Raw {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}
