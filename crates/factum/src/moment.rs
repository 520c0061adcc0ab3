//! Time travel: moments on two axes, and what changed between two of them.
//!
//! What is **recorded** comes one after another, and never changes. What has **happened** in the world may be recorded later, and
//! in another order: an event says so with [`Event::happened_at`], and counts as happened when it was recorded otherwise. So there are
//! two questions about the past: what did we know then, and what do we know today of what was then.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::{
    aggregate::{Aggregate, Event, Id, Recorded},
    decision::Entity,
    error::{Error, Result},
    event::RecordedEvent,
    handle::Factum,
    position::{Position, Revision},
    read::{AsOf, Read},
    store::EventStoreExt,
    time::Timestamp,
};

/// A moment of one thing. Beyond its end, it is as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// After its event with this revision.
    Revision(Revision),
    /// When the log had come to this position.
    Position(Position),
    /// After all that was recorded at this moment or before.
    Time(Timestamp),
    /// After all that had happened in the world at this moment or before, in the order in which it happened, as far as is known
    /// now. Of what happened at one time, what was recorded first comes first.
    Business(Timestamp),
    /// The same, as far as it was known then: *what would we have said at `recorded` about `business`?*
    Both {
        /// When it had happened.
        business: Timestamp,
        /// When it was known.
        recorded: Timestamp,
    },
}

impl At {
    /// As it is.
    pub const NOW: Self = Self::Revision(Revision(u64::MAX));

    /// The moment up to which things must have happened, where that is not the same as when they were recorded.
    pub(crate) fn business(self) -> Option<Timestamp> {
        match self {
            Self::Business(business) | Self::Both { business, .. } => Some(business),
            Self::Revision(_) | Self::Position(_) | Self::Time(_) => None,
        }
    }

    /// What of the log there was at that moment; a revision does not restrict it.
    pub(crate) fn as_of(self) -> Option<AsOf> {
        match self {
            Self::Position(position) => Some(AsOf::Position(position)),
            Self::Time(recorded) | Self::Both { recorded, .. } => Some(AsOf::Time(recorded)),
            Self::Revision(_) | Self::Business(_) => None,
        }
    }

    fn includes<E: Event>(self, event: &Recorded<E>) -> bool {
        self.includes_place(Place::of(&event.record), happened_at(event))
    }

    fn includes_place(self, record: Place, happened_at: Timestamp) -> bool {
        match self {
            Self::Revision(revision) => record.revision <= revision,
            Self::Position(position) => record.position <= position,
            Self::Time(time) => record.recorded_at <= time,
            Self::Business(business) => happened_at <= business,
            Self::Both { business, recorded } => happened_at <= business && record.recorded_at <= recorded,
        }
    }
}

impl From<Revision> for At {
    fn from(revision: Revision) -> Self {
        Self::Revision(revision)
    }
}

impl From<Position> for At {
    fn from(position: Position) -> Self {
        Self::Position(position)
    }
}

impl From<Timestamp> for At {
    fn from(time: Timestamp) -> Self {
        Self::Time(time)
    }
}

fn happened_at<E: Event>(event: &Recorded<E>) -> Timestamp {
    event.event.happened_at().unwrap_or(event.record.recorded_at)
}

/// What is different about one thing between two moments.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes<A: Aggregate> {
    /// It at the first moment.
    pub before: Entity<A>,
    /// It at the second.
    pub after: Entity<A>,
    /// What one of the moments includes and the other does not, in the order in which it was recorded.
    pub events: Vec<Recorded<A::Event>>,
    /// The parts of the state that differ.
    pub fields: Vec<Change>,
}

/// A part of a state that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Where it is in the state's JSON: a JSON Pointer (RFC 6901) such as `/lines/0/price`. Empty: the whole.
    pub path: String,
    /// What it was. `None`: it was not there.
    pub before: Option<Value>,
    /// What it is. `None`: it is not there any more.
    pub after: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<Value>| value.as_ref().map_or("nothing".to_owned(), Value::to_string);
        write!(f, "{}: {} -> {}", self.path, shown(&self.before), shown(&self.after))
    }
}

/// The parts that differ, deepest first names: objects by key, arrays by place.
pub(crate) fn compare(before: &Value, after: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    differences(&mut String::new(), Some(before), Some(after), &mut changes);
    changes
}

fn differences(path: &mut String, before: Option<&Value>, after: Option<&Value>, changes: &mut Vec<Change>) {
    let mut below = |step: &str, before: Option<&Value>, after: Option<&Value>| {
        let length = path.len();
        path.push('/');
        path.push_str(&step.replace('~', "~0").replace('/', "~1"));
        differences(path, before, after, changes);
        path.truncate(length);
    };
    match (before, after) {
        (before, after) if before == after => {}
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            before.iter().for_each(|(key, value)| below(key, Some(value), after.get(key)));
            let new = after.iter().filter(|(key, _)| !before.contains_key(*key));
            new.for_each(|(key, value)| below(key, None, Some(value)));
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => {
            for at in 0..before.len().max(after.len()) {
                below(&at.to_string(), before.get(at), after.get(at));
            }
        }
        _ => changes.push(Change { path: path.clone(), before: before.cloned(), after: after.cloned() }),
    }
}

/// Where and when something was recorded.
#[derive(Clone, Copy)]
struct Place {
    revision: Revision,
    position: Position,
    recorded_at: Timestamp,
}

impl Place {
    fn of(record: &RecordedEvent) -> Self {
        let RecordedEvent { revision, position, recorded_at, .. } = *record;
        Self { revision, position, recorded_at }
    }
}

/// All that is recorded of an aggregate.
struct History<E> {
    events: Vec<Recorded<E>>,
    /// What means nothing any more. It happened when it was recorded.
    silent: Vec<Place>,
}

impl<E: Event> History<E> {
    fn of(records: Vec<RecordedEvent>) -> Result<Self> {
        let mut history = Self { events: Vec::with_capacity(records.len()), silent: Vec::new() };
        for record in records {
            let (place, before) = (Place::of(&record), history.events.len());
            Recorded::decode(record, &mut history.events)?;
            if history.events.len() == before {
                history.silent.push(place);
            }
        }
        Ok(history)
    }
}

/// The aggregate at that moment, made from all its events.
fn state_at<A: Aggregate>(id: &Id<A>, history: &History<A::Event>, at: At) -> Entity<A> {
    let mut entity = Entity::of(id);
    let silent = history.silent.iter().filter(|place| at.includes_place(**place, place.recorded_at));
    entity.revision = silent.map(|place| place.revision).max();
    let mut included: Vec<_> = history.events.iter().filter(|event| at.includes(event)).collect();
    if at.business().is_some() {
        included.sort_by_key(|event| happened_at(event));
    }
    for event in included {
        entity.state.apply(&event.event);
        entity.revision = entity.revision.max(Some(event.record.revision));
    }
    entity
}

impl Factum {
    /// What is different about the aggregate between two moments, [`At::NOW`] among them: the events that one includes and the other
    /// does not, and the parts of its state that differ. Reads all of its events into memory.
    ///
    /// ```
    /// # use factum::{At, MemoryStore, prelude::*};
    /// # #[derive(Serialize, Deserialize)] enum AccountEvent { Deposited { cents: i64 } }
    /// # impl Event for AccountEvent { const CATEGORY: &'static str = "account"; }
    /// # #[derive(Default, Serialize)] struct Account { cents: i64 }
    /// # impl Aggregate for Account { type Event = AccountEvent; fn apply(&mut self, e: &AccountEvent) { let AccountEvent::Deposited { cents } = e; self.cents += cents } }
    /// # struct Deposit(i64);
    /// # impl Command<Account> for Deposit { type Error = std::convert::Infallible; fn decide(&self, _: &Account) -> Result<Vec<AccountEvent>, Self::Error> { Ok(vec![AccountEvent::Deposited { cents: self.0 }]) } }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
    /// # let factum = Factum::new(MemoryStore::new());
    /// # let account = Account::id("17");
    /// factum.execute(&account, Deposit(100)).await?;
    /// factum.execute(&account, Deposit(30)).await?;
    /// let changes = factum.difference(&account, Revision(0), At::NOW).await?;
    /// assert_eq!(changes.fields[0].to_string(), "/cents: 100 -> 130");
    /// assert_eq!(changes.events.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As for [`load`](Self::load), and [`Error::InvalidInput`] if the state cannot be JSON.
    pub async fn difference<A: Aggregate + Serialize>(
        &self,
        id: &Id<A>,
        before: impl Into<At> + Send,
        after: impl Into<At> + Send,
    ) -> Result<Changes<A>> {
        let (at_first, at_last) = (before.into(), after.into());
        let history = History::of(self.store().read_to_end(Read::stream(id.stream()?)).await?)?;
        let (before, after) = (state_at(id, &history, at_first), state_at(id, &history, at_last));
        let mut events = history.events;
        events.retain(|event| at_first.includes(event) != at_last.includes(event));
        let fields = compare(&json(&before.state)?, &json(&after.state)?);
        Ok(Changes { before, after, events, fields })
    }

    /// The aggregate at a moment of which not only the log tells.
    pub(crate) async fn load_business<A: Aggregate>(&self, id: &Id<A>, at: At) -> Result<Entity<A>> {
        let read = Read { as_of: at.as_of(), ..Read::stream(id.stream()?) };
        let records = self.store().read_to_end(read).await?;
        Ok(state_at(id, &History::of(records)?, at))
    }
}

fn json<A: Serialize>(state: &A) -> Result<Value> {
    serde_json::to_value(state).map_err(|error| {
        Error::invalid(
            format!("the state of a `{}`", std::any::type_name::<A>()),
            format!("it cannot be JSON ({error})"),
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(before: &Value, after: &Value) -> Vec<String> {
        compare(before, after).iter().map(Change::to_string).collect()
    }

    #[test]
    fn what_differs_is_named_by_its_pointer() {
        let before = json!({"a": 1, "b": {"x/y": [1, 2], "m~n": null}, "gone": true, "same": [1]});
        let after = json!({"a": 1.5, "b": {"x/y": [1, 3, 4], "m~n": {}}, "new": "☃", "same": [1]});
        let expected = [
            "/a: 1 -> 1.5",
            "/b/m~0n: null -> {}",
            "/b/x~1y/1: 2 -> 3",
            "/b/x~1y/2: nothing -> 4",
            "/gone: true -> nothing",
            "/new: nothing -> \"☃\"",
        ];
        assert_eq!(shown(&before, &after), expected);
        for change in compare(&before, &after) {
            assert_eq!(before.pointer(&change.path), change.before.as_ref(), "{change}");
            assert_eq!(after.pointer(&change.path), change.after.as_ref(), "{change}");
        }
        assert_eq!(shown(&json!(1), &json!([])), [": 1 -> []"]);
        assert_eq!(shown(&before, &before), [""; 0]);
    }
}
