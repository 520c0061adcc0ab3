//! Queries as SQL: a typed tree becomes text with numbered parameters. No text of a client's ever becomes SQL.

use std::fmt::Write as _;

use factum::{Criterion, Query};
use tokio_postgres::types::{ToSql, Type};

/// SQL with its parameters.
#[derive(Default)]
pub(crate) struct Sql {
    pub(crate) text: String,
    parameters: Vec<(Box<dyn ToSql + Send + Sync>, Type)>,
}

/// A value that has a type of its own in the database.
pub(crate) trait Parameter: ToSql + Send + Sync + 'static {
    const TYPE: Type;
}

impl Parameter for i64 {
    const TYPE: Type = Type::INT8;
}

impl Parameter for String {
    const TYPE: Type = Type::TEXT;
}

impl Parameter for Vec<String> {
    const TYPE: Type = Type::TEXT_ARRAY;
}

impl Sql {
    pub(crate) fn push(&mut self, text: &str) -> &mut Self {
        self.text += text;
        self
    }

    /// Adds a parameter, as `$n`.
    pub(crate) fn bind<P: Parameter>(&mut self, value: P) -> &mut Self {
        self.parameters.push((Box::new(value), P::TYPE));
        // Writing to a string cannot fail.
        let _ = write!(self.text, "${}", self.parameters.len());
        self
    }

    pub(crate) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.parameters.iter().map(|(value, _)| &**value as &(dyn ToSql + Sync)).collect()
    }

    pub(crate) fn typed_parameters(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        self.parameters.iter().map(|(value, kind)| (&**value as &(dyn ToSql + Sync), kind.clone())).collect()
    }

    /// That an event `e` matches.
    pub(crate) fn matching(&mut self, query: &Query) -> &mut Self {
        if query.any_of.is_empty() {
            return self.push("false");
        }
        self.push("(");
        for (n, criterion) in query.any_of.iter().enumerate() {
            if n > 0 {
                self.push(" OR ");
            }
            self.criterion(criterion);
        }
        self.push(")")
    }

    fn criterion(&mut self, criterion: &Criterion) {
        let before = self.text.len();
        let and = |sql: &mut Self| {
            let text = if sql.text.len() == before { "(" } else { " AND " };
            sql.push(text);
        };
        if !criterion.types.is_empty() {
            and(self);
            let types: Vec<String> = criterion.types.iter().map(|name| name.as_str().to_owned()).collect();
            self.push("e.event_type = ANY (").bind(types).push(")");
        }
        if !criterion.tags.is_empty() {
            and(self);
            let tags: Vec<String> = criterion.tags.iter().map(str::to_owned).collect();
            self.push("e.tags @> ").bind(tags);
        }
        if let Some(category) = &criterion.category {
            and(self);
            self.push("e.category = ").bind(category.clone());
        }
        if let Some(stream) = &criterion.stream {
            and(self);
            self.push("e.stream = ").bind(stream.as_str().to_owned());
        }
        let end = if self.text.len() == before { "true" } else { ")" };
        self.push(end);
    }
}

/// That an event `e` of a stream `s` can be seen at the moment `now`.
pub(crate) fn visible(sql: &mut Sql, now: &str) {
    let _ = write!(
        sql.text,
        "s.life <> 2 AND e.revision >= s.hidden_before
         AND (s.hidden_until IS NULL OR e.recorded_at >= s.hidden_until)
         AND (s.max_age_seconds IS NULL OR s.max_age_seconds > {now} / 1000000
              OR e.recorded_at >= {now} - s.max_age_seconds * 1000000)"
    );
}

/// How many places there are for appends and guards to meet.
const PLACES: i32 = 256;
/// The place of guards that ask for no tag, category or stream: every append takes it.
const EVERYWHERE: i32 = PLACES;

/// The places where an append's events can be met.
pub(crate) fn places_of_events(append: &factum::Append) -> Vec<i32> {
    let mut places = vec![EVERYWHERE];
    for write in append.writes.iter().filter(|write| !write.events.is_empty()) {
        places.push(place("category", write.stream.category()));
        places.extend(write.events.iter().flat_map(|event| event.tags.iter()).map(|tag| place("tag", tag)));
    }
    places.sort_unstable();
    places.dedup();
    places
}

/// The places where a guard on a query meets every event that can match.
pub(crate) fn places_of_query(query: &Query) -> impl Iterator<Item = i32> {
    query.any_of.iter().map(|criterion| {
        if let Some(tag) = criterion.tags.iter().next() {
            place("tag", tag)
        } else if let Some(category) = &criterion.category {
            place("category", category)
        } else if let Some(stream) = &criterion.stream {
            place("category", stream.category())
        } else {
            EVERYWHERE
        }
    })
}

fn place(kind: &str, name: &str) -> i32 {
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), kind.len() as u64);
    i32::try_from(hash % u64::from(PLACES.unsigned_abs())).unwrap_or(EVERYWHERE)
}
