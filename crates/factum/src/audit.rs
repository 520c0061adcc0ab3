//! The audit trail of a stream: what happened, when, by whom and why; also who truncated, deleted or revived it.
//!
//! [`Factum::audit`] gives it for an aggregate with its own events, [`Factum::audit_stream`] for any stream; both come as JSON lines and
//! as CSV. What is exported is what was recorded, word for word, and not what later versions of the program make of it.
//!
//! ```
//! # use factum::{MemoryStore, prelude::*};
//! # #[derive(Debug, PartialEq, Serialize, Deserialize)] enum AccountEvent { Deposited { cents: i64 } }
//! # impl Event for AccountEvent { const CATEGORY: &'static str = "account"; }
//! # #[derive(Default)] struct Account;
//! # impl Aggregate for Account { type Event = AccountEvent; fn apply(&mut self, _: &AccountEvent) {} }
//! # struct Deposit(i64);
//! # impl Command<Account> for Deposit { type Error = std::convert::Infallible; fn decide(&self, _: &Account) -> Result<Vec<AccountEvent>, Self::Error> { Ok(vec![AccountEvent::Deposited { cents: self.0 }]) } }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let factum = Factum::new(MemoryStore::new());
//! # let account = Account::id("17");
//! factum.acting_as("ada").execute(&account, Deposit(100)).await?;
//!
//! let trail = factum.audit(&account).await?;
//! let entry = &trail.entries[0];
//! assert_eq!((entry.actor.as_deref(), &entry.events[..]), (Some("ada"), &[AccountEvent::Deposited { cents: 100 }][..]));
//! assert!(trail.csv().starts_with("position,stream,revision,recorded_at,happened_at,id,type,actor,"));
//! # Ok::<(), Box<dyn std::error::Error>>(()) })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{borrow::Cow, fmt::Write as _};

use serde::{Serialize, de::IgnoredAny};

use crate::{
    aggregate::{Aggregate, Event, Id},
    codec,
    error::Result,
    event::{ContentType, RecordedEvent},
    handle::Factum,
    name::{METADATA_PREFIX, StreamName},
    query::Query,
    read::Read,
    store::EventStoreExt,
    time::Timestamp,
};

/// The columns of the CSV, which are the first line of it.
const COLUMNS: [&str; 12] = [
    "position",
    "stream",
    "revision",
    "recorded_at",
    "happened_at",
    "id",
    "type",
    "actor",
    "correlation_id",
    "causation_id",
    "tags",
    "data",
];

/// All that is recorded of a stream and can be seen, in the order in which it was recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Trail<E = ()> {
    /// The entries: one for each record.
    pub entries: Vec<Entry<E>>,
}

/// A record, and who, when and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<E = ()> {
    /// As it was recorded: position, stream, revision, recorded_at, id, type, data, metadata, tags. Its stream is the `$$` stream where
    /// it tells of the life of the stream itself: that it was truncated or deleted.
    pub record: RecordedEvent,
    /// When it happened in the world, where the event says that that was another moment.
    pub happened_at: Option<Timestamp>,
    /// Who did it.
    pub actor: Option<String>,
    /// Which flow of work it belongs to.
    pub correlation_id: Option<String>,
    /// The id of the command or event that led to it.
    pub causation_id: Option<String>,
    /// What it means today: one event, unless it was split or dropped, or tells of the stream's life.
    pub events: Vec<E>,
}

impl Entry {
    /// The entry of a record of whatever type. When it happened in the world is not known then.
    pub fn of(record: RecordedEvent) -> Self {
        Self::with(record, None, Vec::new())
    }
}

impl<E> Entry<E> {
    fn with(record: RecordedEvent, happened_at: Option<Timestamp>, events: Vec<E>) -> Self {
        let mut metadata = record.metadata.to_object();
        let mut text = |key| match metadata.remove(key) {
            Some(serde_json::Value::String(text)) => Some(text),
            _ => None,
        };
        let [actor, correlation_id, causation_id] =
            ["actor", "correlation_id", "causation_id"].map(&mut text);
        Self { record, happened_at, actor, correlation_id, causation_id, events }
    }

    /// The entry as one line of JSON, without the line break. `data` is the data as it was recorded, if that is JSON or text, to the
    /// last digit of its numbers; else there is `data_hex`. Positions beyond 2⁵³ are strings.
    pub fn json_line(&self) -> String {
        let RecordedEvent { position, stream, revision, recorded_at, id, event_type, .. } = &self.record;
        let (name, data) = self.data_json();
        let metadata = as_json(self.record.metadata.as_bytes()).unwrap_or(Cow::Borrowed("{}"));
        let fields: [(&str, Cow<'_, str>); 14] = [
            ("position", json(position)),
            ("stream", json(&**stream)),
            ("revision", json(revision)),
            ("recorded_at", json(recorded_at)),
            ("happened_at", json(&self.happened_at)),
            ("id", json(id)),
            ("type", json(&**event_type)),
            ("actor", json(&self.actor)),
            ("correlation_id", json(&self.correlation_id)),
            ("causation_id", json(&self.causation_id)),
            ("tags", json(&self.record.tags.iter().collect::<Vec<_>>())),
            ("content_type", json(self.record.content_type.as_str())),
            (name, data),
            ("metadata", metadata),
        ];
        let mut line = String::with_capacity(512);
        for (at, (name, value)) in fields.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(line, "{}\"{name}\":{value}", if at == 0 { '{' } else { ',' });
        }
        line.push('}');
        line
    }

    fn data_json(&self) -> (&'static str, Cow<'_, str>) {
        let data = &self.record.data;
        match (&self.record.content_type, std::str::from_utf8(data)) {
            (ContentType::Json, Ok(text)) => ("data", as_json(data).unwrap_or_else(|| json(text))),
            (_, Ok(text)) => ("data", json(text)),
            _ => ("data_hex", json(&hex(data))),
        }
    }

    /// The entry as one line of CSV, without the line break; [`csv_header`] names the columns.
    ///
    /// The form is that of RFC 4180. It is made for people and their spreadsheets, which take a cell that begins with `=`, `+`, `-` or `@`
    /// for a formula: such a cell begins with a `'` here. For what must be exact, take [`json_line`](Self::json_line).
    pub fn csv_line(&self) -> String {
        let RecordedEvent { position, stream, revision, recorded_at, id, event_type, data, tags, .. } =
            &self.record;
        let data = match std::str::from_utf8(data) {
            Ok(text) => text.to_owned(),
            Err(_) => format!("\\x{}", hex(data)),
        };
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        let cells: [String; COLUMNS.len()] = [
            position.to_string(),
            stream.to_string(),
            revision.to_string(),
            recorded_at.to_string(),
            self.happened_at.map(|at| at.to_string()).unwrap_or_default(),
            id.to_string(),
            event_type.to_string(),
            or_empty(&self.actor),
            or_empty(&self.correlation_id),
            or_empty(&self.causation_id),
            tags.iter().collect::<Vec<_>>().join(" "),
            data,
        ];
        cells.map(|cell| cell_of(&cell).into_owned()).join(",")
    }
}

/// The names of the columns, as the first line of the CSV, without the line break.
pub fn csv_header() -> String {
    COLUMNS.join(",")
}

impl<E> Trail<E> {
    /// One JSON object in a line: see [`Entry::json_line`].
    pub fn json_lines(&self) -> String {
        self.entries.iter().flat_map(|entry| [entry.json_line(), "\n".to_owned()]).collect()
    }

    /// A table with a line of names first: see [`Entry::csv_line`].
    pub fn csv(&self) -> String {
        let lines = self.entries.iter().map(Entry::csv_line);
        [csv_header()].into_iter().chain(lines).flat_map(|line| [line, "\r\n".to_owned()]).collect()
    }
}

impl Factum {
    /// All that is recorded of the aggregate: what, when, by whom and why, and who truncated or deleted its stream. What is hidden, is
    /// not in it.
    ///
    /// # Errors
    /// As for [`load`](Self::load); a tombstoned stream has a trail all the same.
    pub async fn audit<A: Aggregate>(&self, id: &Id<A>) -> Result<Trail<A::Event>> {
        let entry = |record: RecordedEvent| {
            if record.stream.starts_with(METADATA_PREFIX) {
                return Ok(Entry::with(record, None, Vec::new()));
            }
            let events: Vec<A::Event> = codec::decode(&record)?;
            Ok(Entry::with(record, events.iter().find_map(Event::happened_at), events))
        };
        let records = self.records_of(&id.stream()?).await?;
        Ok(Trail { entries: records.into_iter().map(entry).collect::<Result<_>>()? })
    }

    /// The same of any stream, whatever the types of its events.
    ///
    /// # Errors
    /// Those of [`EventStore::read`](crate::EventStore::read).
    pub async fn audit_stream(&self, stream: &StreamName) -> Result<Trail> {
        let records = self.records_of(stream).await?;
        Ok(Trail { entries: records.into_iter().map(Entry::of).collect() })
    }

    /// The records of the stream and of its life, in the order in which they were recorded.
    async fn records_of(&self, stream: &StreamName) -> Result<Vec<RecordedEvent>> {
        let query = Query::stream(stream.clone());
        let query = match stream.metadata_stream() {
            Ok(life) if !stream.starts_with(METADATA_PREFIX) => query.or(Query::stream(life)),
            _ => query,
        };
        self.store().read_to_end(Read::query(query)).await
    }
}

/// Text as a cell.
fn cell_of(text: &str) -> Cow<'_, str> {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) };
    if text.contains([',', '"', '\n', '\r']) || text.starts_with(' ') || text.ends_with(' ') {
        return format!("\"{}\"", text.replace('"', "\"\"")).into();
    }
    text
}

fn json<T: Serialize + ?Sized>(value: &T) -> Cow<'static, str> {
    // Numbers, text and lists of text can always be JSON.
    serde_json::to_string(value).map_or(Cow::Borrowed("null"), Cow::Owned)
}

/// JSON as it was recorded, in one line.
fn as_json(bytes: &[u8]) -> Option<Cow<'_, str>> {
    serde_json::from_slice::<IgnoredAny>(bytes).ok()?;
    let text = std::str::from_utf8(bytes).ok()?;
    // Between tokens, where alone they can be, line breaks mean nothing.
    Some(if text.contains(['\n', '\r']) { text.replace(['\n', '\r'], " ").into() } else { text.into() })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
