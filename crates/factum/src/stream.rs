//! A stream's life: what of it can still be seen, and how it ends.
//!
//! Retention, deletion and tombstones are themselves events, in the stream's metadata stream `$$name`. Every store folds them
//! with [`StreamState`], so that all agree on what is hidden. What is hidden never comes back: the bounds only ever grow, and
//! so taking hidden events off the disk later changes nothing that anyone can see.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    error::{Actual, Error, Result},
    event::NewEvent,
    name::{METADATA_PREFIX, StreamName},
    position::Revision,
    time::Timestamp,
};

/// The type of the event, in a metadata stream, that sets a stream's [`Retention`].
pub const RETENTION_SET: &str = "$metadata";
/// The type of the event, in a metadata stream, that deletes a stream.
pub const STREAM_DELETED: &str = "$deleted";
/// The type of the event, in a metadata stream, that tombstones a stream.
pub const STREAM_TOMBSTONED: &str = "$tombstoned";

/// Which events of a stream are kept. Setting it replaces what was set before; what is hidden already stays hidden.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Hide events before this revision.
    #[serde(rename = "$tb", default, skip_serializing_if = "Option::is_none")]
    pub truncate_before: Option<Revision>,
    /// Keep this many events, at most.
    #[serde(rename = "$maxCount", default, skip_serializing_if = "Option::is_none")]
    pub max_count: Option<u64>,
    /// Keep events for this many seconds, at most.
    #[serde(rename = "$maxAge", default, skip_serializing_if = "Option::is_none")]
    pub max_age_seconds: Option<u64>,
}

/// Whether a stream can be read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// As usual.
    #[default]
    Live,
    /// Everything before is hidden; the next write revives it, and revisions go on.
    Deleted,
    /// Never again.
    Tombstoned,
}

/// What a store knows of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    /// The revision of the last event, hidden or not. `None`: never written.
    pub last_revision: Option<Revision>,
    /// Events before this revision are hidden.
    pub hidden_before: Revision,
    /// Events recorded before this moment are hidden.
    pub hidden_until: Option<Timestamp>,
    /// The retention in force.
    pub retention: Retention,
    /// Whether it can be read and written.
    pub life: Life,
}

impl StreamState {
    /// The stream as a guard sees it.
    pub fn actual(&self) -> Actual {
        match (self.life, self.last_revision) {
            (Life::Tombstoned, _) => Actual::Tombstoned,
            (_, None) => Actual::NoStream,
            (Life::Deleted, Some(last)) => Actual::Deleted(last),
            (Life::Live, Some(last)) => Actual::Revision(last),
        }
    }

    /// The revision of the next event.
    pub fn next_revision(&self) -> Revision {
        self.last_revision.map_or(Revision::FIRST, Revision::next)
    }

    /// Takes note of one more event of the stream, and returns its revision.
    pub fn written(&mut self) -> Revision {
        let revision = self.next_revision();
        self.last_revision = Some(revision);
        self.life = if self.life == Life::Tombstoned { Life::Tombstoned } else { Life::Live };
        self.hide_beyond_max_count();
        revision
    }

    /// Takes note of an event of the stream's metadata stream.
    pub fn described(&mut self, change: &LifeChange, recorded_at: Timestamp) {
        match change {
            LifeChange::Retention(retention) => {
                let hidden_by_age =
                    self.retention.max_age_seconds.map(|s| recorded_at.minus(Duration::from_secs(s)));
                self.hidden_until = self.hidden_until.max(hidden_by_age);
                self.retention = *retention;
                let next = self.next_revision();
                self.hidden_before =
                    self.hidden_before.max(retention.truncate_before.unwrap_or_default().min(next));
                self.hide_beyond_max_count();
            }
            LifeChange::Deleted => {
                self.hidden_before = self.next_revision();
                self.life = if self.life == Life::Tombstoned { Life::Tombstoned } else { Life::Deleted };
            }
            LifeChange::Tombstoned => {
                self.hidden_before = self.next_revision();
                self.life = Life::Tombstoned;
            }
        }
    }

    fn hide_beyond_max_count(&mut self) {
        if let Some(max_count) = self.retention.max_count {
            let first_kept = Revision(self.next_revision().0.saturating_sub(max_count));
            self.hidden_before = self.hidden_before.max(first_kept);
        }
    }

    /// Events recorded before this moment are too old to be seen at `now`.
    pub fn hidden_until_at(&self, now: Timestamp) -> Option<Timestamp> {
        let by_age = self.retention.max_age_seconds.map(|seconds| now.minus(Duration::from_secs(seconds)));
        self.hidden_until.max(by_age)
    }

    /// Whether an event of the stream can be seen at `now`.
    pub fn shows(&self, revision: Revision, recorded_at: Timestamp, now: Timestamp) -> bool {
        self.life != Life::Tombstoned
            && revision >= self.hidden_before
            && self.hidden_until_at(now).is_none_or(|until| recorded_at >= until)
    }

    /// Whether an event of the stream can never be seen again, whatever clocks do: `last_recorded_at` is that of the last event of
    /// the log, and no reader's present moment lies before it.
    pub fn hides_for_good(
        &self,
        revision: Revision,
        recorded_at: Timestamp,
        last_recorded_at: Timestamp,
    ) -> bool {
        !self.shows(revision, recorded_at, last_recorded_at)
    }

    /// Whether every event of the stream can be seen, at any time: the usual case, worth not looking further.
    pub fn hides_nothing(&self) -> bool {
        self.hidden_before == Revision::FIRST
            && self.hidden_until.is_none()
            && self.retention.max_age_seconds.is_none()
            && self.life != Life::Tombstoned
    }
}

/// What an event of a metadata stream does to the stream it describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LifeChange {
    /// Sets the retention.
    Retention(Retention),
    /// Hides all; the stream can be written again.
    Deleted,
    /// Hides all, for ever.
    Tombstoned,
}

impl LifeChange {
    /// The event that says so.
    ///
    /// # Errors
    /// None in practice: the shapes are fixed.
    pub fn to_event(&self) -> Result<NewEvent> {
        match self {
            Self::Retention(retention) => NewEvent::json(RETENTION_SET, retention),
            Self::Deleted => NewEvent::json(STREAM_DELETED, &serde_json::json!({})),
            Self::Tombstoned => NewEvent::json(STREAM_TOMBSTONED, &serde_json::json!({})),
        }
    }

    /// What an event of this type and data says, if it stands in a metadata stream.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if it says nothing that a stream's life knows.
    pub fn parse(event_type: &str, data: &[u8]) -> Result<Self> {
        match event_type {
            RETENTION_SET => serde_json::from_slice(data).map(Self::Retention).map_err(|e| {
                let why =
                    format!("it must be an object of $tb, $maxCount and $maxAge, each a whole number ({e})");
                Error::invalid("the stream's metadata", why)
            }),
            STREAM_DELETED => Ok(Self::Deleted),
            STREAM_TOMBSTONED => Ok(Self::Tombstoned),
            other => Err(Error::invalid(
                format!("the event type `{other}`"),
                format!(
                    "a stream whose name starts with `{METADATA_PREFIX}` takes only {RETENTION_SET}, {STREAM_DELETED} and {STREAM_TOMBSTONED}"
                ),
            )),
        }
    }

    /// The stream that an event in `stream` describes, and how it changes it. `None` for events of ordinary streams.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] for an event that has no place in a metadata stream, or a metadata stream of nothing.
    pub fn of_event(
        stream: &StreamName,
        event_type: &str,
        data: &[u8],
    ) -> Result<Option<(StreamName, Self)>> {
        if !stream.starts_with(METADATA_PREFIX) {
            return Ok(None);
        }
        match stream.described_stream() {
            Some(described) if !described.starts_with(METADATA_PREFIX) => {
                Ok(Some((described, Self::parse(event_type, data)?)))
            }
            _ => Err(Error::invalid(
                format!("the stream's name `{stream}`"),
                format!("`{METADATA_PREFIX}` must be followed by the name of an ordinary stream"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn stream_of(events: u64) -> StreamState {
        let mut stream = StreamState::default();
        for _ in 0..events {
            stream.written();
        }
        stream
    }

    #[test]
    fn what_is_hidden_stays_hidden() {
        let mut stream = stream_of(10);
        stream
            .described(&LifeChange::Retention(Retention { max_count: Some(3), ..Retention::default() }), NOW);
        assert_eq!(stream.hidden_before, Revision(7));
        stream.written();
        assert_eq!(stream.hidden_before, Revision(8));
        stream.described(&LifeChange::Retention(Retention::default()), NOW);
        assert_eq!(stream.hidden_before, Revision(8), "a laxer retention reveals nothing");
        stream.described(
            &LifeChange::Retention(Retention {
                truncate_before: Some(Revision(1000)),
                ..Retention::default()
            }),
            NOW,
        );
        assert_eq!(stream.hidden_before, Revision(11), "the future is not truncated");
    }

    #[test]
    fn age_hides_by_the_clock_and_keeps_what_it_hid() {
        let mut stream = stream_of(1);
        let second = |s: i64| Timestamp(s * 1_000_000);
        let for_ten = Retention { max_age_seconds: Some(10), ..Retention::default() };
        stream.described(&LifeChange::Retention(for_ten), second(100));
        assert!(stream.shows(Revision(0), second(95), second(105)));
        assert!(!stream.shows(Revision(0), second(95), second(106)));
        stream.described(&LifeChange::Retention(Retention::default()), second(106));
        assert!(!stream.shows(Revision(0), second(95), second(106)));
        assert!(stream.shows(Revision(0), second(96), second(1000)));
    }

    #[test]
    fn a_deleted_stream_goes_on_and_a_tombstoned_one_does_not() {
        let mut stream = stream_of(3);
        stream.described(&LifeChange::Deleted, NOW);
        assert_eq!(stream.actual(), Actual::Deleted(Revision(2)));
        assert_eq!(stream.written(), Revision(3));
        assert!(stream.shows(Revision(3), NOW, NOW) && !stream.shows(Revision(2), NOW, NOW));
        stream.described(&LifeChange::Tombstoned, NOW);
        assert_eq!(stream.actual(), Actual::Tombstoned);
        assert!(!stream.shows(Revision(3), NOW, NOW));
    }
}
