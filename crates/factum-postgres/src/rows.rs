//! Rows as events and streams, and back.

use std::collections::BTreeMap;

use bytes::Bytes;
use factum::{
    ContentType, Error, EventId, EventType, Life, Metadata, NewEvent, Position, RecordedEvent, Retention,
    Revision, StreamName, StreamState, Tags, Timestamp,
};
use tokio_postgres::Row;

use crate::{fault::Fault, json};

/// The columns of an event `e` that [`event`] reads.
pub(crate) const EVENT: &str =
    "e.position, e.stream, e.revision, e.recorded_at, e.id, e.event_type, e.content_type,
    e.data::text, e.data_bytes, e.metadata::text, e.metadata_bytes, e.tags";
/// As many that are empty, for a row that is none.
pub(crate) const NO_EVENT: &str =
    "NULL::bigint, NULL::text, NULL::bigint, NULL::bigint, NULL::uuid, NULL::text, NULL::text,
    NULL::text, NULL::bytea, NULL::text, NULL::bytea, NULL::text[]";
pub(crate) const EVENT_COLUMNS: usize = 12;
/// The columns of a stream `s` that [`stream`] reads.
pub(crate) const STREAM: &str =
    "s.name, s.last_revision, s.hidden_before, s.hidden_until, s.truncate_before, s.max_count,
    s.max_age_seconds, s.life";

pub(crate) fn event(row: &Row) -> Result<RecordedEvent, Fault> {
    let text = |json: Option<String>, bytes: Option<Vec<u8>>| {
        json.map_or_else(|| bytes.map(Bytes::from).unwrap_or_default(), Bytes::from)
    };
    let tags: Vec<&str> = row.try_get(11)?;
    Ok(RecordedEvent {
        position: Position(number(row.try_get(0)?)),
        stream: StreamName::from_store(row.try_get::<_, &str>(1)?.into()),
        revision: Revision(number(row.try_get(2)?)),
        recorded_at: Timestamp(row.try_get(3)?),
        id: EventId(row.try_get(4)?),
        event_type: EventType::from_store(row.try_get::<_, &str>(5)?.into()),
        content_type: ContentType::from_name(row.try_get::<_, String>(6)?)?,
        data: text(row.try_get(7)?, row.try_get(8)?),
        metadata: Metadata::from_store(text(row.try_get(9)?, row.try_get(10)?)),
        tags: if tags.is_empty() { Tags::NONE } else { Tags::new(tags)? },
    })
}

pub(crate) fn stream(row: &Row) -> Result<(StreamName, StreamState), Fault> {
    let mut numbers = [None; 7];
    for (at, number) in numbers.iter_mut().enumerate().take(6) {
        *number = row.try_get(at + 1)?;
    }
    numbers[6] = Some(row.try_get::<_, i16>(7)?.into());
    Ok((StreamName::from_store(row.try_get::<_, String>(0)?.into()), state(&numbers)?))
}

/// What a stream is like: the numbers among the columns [`STREAM`]. All are null for one never heard of.
pub(crate) fn state(numbers: &[Option<i64>]) -> Result<StreamState, Fault> {
    let invalid = |why| Error::invalid("a stream in PostgreSQL", why);
    let &[last_revision, hidden_before, hidden_until, truncate_before, max_count, max_age, life] = numbers
    else {
        return Err(invalid(format!("it has {} numbers, not 7", numbers.len())).into());
    };
    let life = match life {
        None | Some(0) => Life::Live,
        Some(1) => Life::Deleted,
        Some(2) => Life::Tombstoned,
        Some(other) => return Err(invalid(format!("its life is {other}, not 0 to 2")).into()),
    };
    Ok(StreamState {
        last_revision: last_revision.map(number).map(Revision),
        hidden_before: Revision(number(hidden_before.unwrap_or_default())),
        hidden_until: hidden_until.map(Timestamp),
        retention: Retention {
            truncate_before: truncate_before.map(number).map(Revision),
            max_count: max_count.map(number),
            max_age_seconds: max_age.map(number),
        },
        life,
    })
}

/// What `record` takes of streams, column by column.
#[derive(Default)]
pub(crate) struct StreamColumns {
    pub(crate) names: Vec<String>,
    pub(crate) last_revisions: Vec<Option<i64>>,
    pub(crate) hidden_befores: Vec<i64>,
    pub(crate) hidden_untils: Vec<Option<i64>>,
    pub(crate) truncate_befores: Vec<Option<i64>>,
    pub(crate) max_counts: Vec<Option<i64>>,
    pub(crate) max_ages: Vec<Option<i64>>,
    pub(crate) lives: Vec<i16>,
}

impl StreamColumns {
    pub(crate) fn of(streams: &BTreeMap<StreamName, StreamState>) -> Self {
        let mut columns = Self::default();
        streams.iter().for_each(|(name, state)| columns.push(name, state));
        columns
    }

    fn push(&mut self, name: &StreamName, state: &StreamState) {
        self.names.push(name.as_str().to_owned());
        self.last_revisions.push(state.last_revision.map(|revision| signed(revision.0)));
        self.hidden_befores.push(signed(state.hidden_before.0));
        self.hidden_untils.push(state.hidden_until.map(|until| until.0));
        self.truncate_befores.push(state.retention.truncate_before.map(|revision| signed(revision.0)));
        self.max_counts.push(state.retention.max_count.map(signed));
        self.max_ages.push(state.retention.max_age_seconds.map(signed));
        self.lives.push(match state.life {
            Life::Live => 0,
            Life::Deleted => 1,
            Life::Tombstoned => 2,
        });
    }
}

/// What `record` takes of events, column by column.
#[derive(Default)]
pub(crate) struct EventColumns {
    pub(crate) streams: Vec<String>,
    pub(crate) revisions: Vec<i64>,
    pub(crate) ids: Vec<uuid::Uuid>,
    pub(crate) types: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) content_types: Vec<String>,
    pub(crate) data: Vec<Option<String>>,
    pub(crate) data_bytes: Vec<Option<Vec<u8>>>,
    pub(crate) metadata: Vec<Option<String>>,
    pub(crate) metadata_bytes: Vec<Option<Vec<u8>>>,
    pub(crate) tags: Vec<String>,
    pub(crate) digests: Vec<Vec<u8>>,
}

impl EventColumns {
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Adds an event; what stands for its content.
    pub(crate) fn push(&mut self, stream: &StreamName, revision: Revision, event: &NewEvent) -> Vec<u8> {
        let is_json = event.content_type == ContentType::Json;
        let (data, data_bytes) = as_json_or_bytes(&event.data, is_json);
        let (metadata, metadata_bytes) = match event.metadata.as_bytes() {
            none if none.is_empty() => (None, None),
            some => as_json_or_bytes(some, true),
        };
        self.streams.push(stream.as_str().to_owned());
        self.revisions.push(signed(revision.0));
        self.ids.push(event.id.0);
        self.types.push(event.event_type.as_str().to_owned());
        self.categories.push(stream.category().to_owned());
        self.content_types.push(event.content_type.as_str().to_owned());
        self.data.push(data);
        self.data_bytes.push(data_bytes);
        self.metadata.push(metadata);
        self.metadata_bytes.push(metadata_bytes);
        self.tags.push(event.tags.iter().collect::<Vec<_>>().join("\x1f"));
        let digest = digest(event);
        self.digests.push(digest.clone());
        digest
    }
}

fn as_json_or_bytes(bytes: &[u8], is_json: bool) -> (Option<String>, Option<Vec<u8>>) {
    match std::str::from_utf8(bytes) {
        Ok(text) if is_json && json::keeps_its_value(bytes) => (Some(text.to_owned()), None),
        _ => (None, Some(bytes.to_vec())),
    }
}

/// What stands for an event's content.
pub(crate) fn digest(event: &NewEvent) -> Vec<u8> {
    xxhash_rust::xxh3::xxh3_128(&event.canonical_content()).to_be_bytes().to_vec()
}

/// Counts are never negative in the database either.
pub(crate) fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

/// What is beyond the reach of `bigint` is as good as its end.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
