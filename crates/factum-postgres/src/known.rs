//! What the database knows that concerns some appends, while their rows are locked, and what those that come first in their
//! transaction add to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use factum::{
    Append, EventId, Guard, LogIdentity, NewEvent, Placed, Position, Query, Result, StreamName, StreamState,
    Timestamp,
    admission::{Found, Ledger},
    error::Error,
    stream::LifeChange,
};

use crate::{
    inline::Registered,
    rows::{self, EventColumns},
};

/// A stream and an id in it.
pub(crate) type Key = (String, EventId);
/// The number of a transaction, as the rows that it writes have it.
pub(crate) type Transaction = i64;

/// Where the event of an id is, the digest of its content, and who wrote it: nobody, if it has its place since a moment ago.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) placed: Placed,
    pub(crate) digest: Vec<u8>,
    pub(crate) writer: Option<Transaction>,
}

/// What was tried before of the same, without an answer.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    /// The transactions of attempts that asked first.
    pub(crate) transactions: Vec<Transaction>,
    /// What had been drawn before an attempt in one statement that has written, or may have; of it no number is known.
    pub(crate) drawn_before: Option<Position>,
}

impl Attempts {
    /// Whether one of them has written this.
    pub(crate) fn made(&self, content: &Content) -> bool {
        content.writer.is_some_and(|writer| self.transactions.contains(&writer))
            || self.drawn_before.is_some_and(|before| content.placed.position > before)
    }
}

/// A guard on a query as it was looked up: the position after which nothing may match, and the last visible match.
pub(crate) type Match = (Query, Position, Option<Position>);

pub(crate) struct Known {
    pub(crate) identity: LogIdentity,
    /// The last event, as seen after the locks were taken.
    pub(crate) head: Position,
    /// The one that holds the locks.
    pub(crate) transaction: Transaction,
    pub(crate) streams: HashMap<StreamName, StreamState>,
    pub(crate) recorded: HashMap<Key, Content>,
    /// The answers to the guards on queries.
    pub(crate) matches: Vec<Match>,
    /// The read models that change with what is written.
    pub(crate) inline: Vec<Registered>,
}

impl Ledger for Known {
    fn identity(&self) -> LogIdentity {
        self.identity
    }

    fn head(&self) -> Position {
        self.head
    }

    fn stream(&self, stream: &StreamName) -> Result<StreamState> {
        Ok(self.streams.get(stream).copied().unwrap_or_default())
    }

    fn may_be_recorded(&self, _: &Append) -> Result<bool> {
        Ok(!self.recorded.is_empty())
    }

    fn find(&self, stream: &StreamName, event: &NewEvent) -> Result<Option<Found>> {
        let found = self.recorded.get(&(stream.as_str().to_owned(), event.id));
        Ok(found
            .map(|found| Found { placed: found.placed, same_content: found.digest == rows::digest(event) }))
    }

    fn visible_match(&self, query: &Query, after: Position, _: Timestamp) -> Result<Option<Position>> {
        let asked = self.matches.iter().find(|(asked, since, _)| asked == query && *since == after);
        match asked {
            Some((.., found)) => Ok(*found),
            None => Err(Error::invalid("the guard", "it was not looked up")),
        }
    }
}

impl Known {
    /// What is written and known once `append` has its place among what is written, which is not drawn yet, so
    /// that events are numbered from 0. Of what it changes in the lives of streams, nothing is known yet.
    pub(crate) fn join(&mut self, append: &Append, columns: &mut EventColumns) -> Vec<Placed> {
        let mut placed = Vec::with_capacity(append.event_count());
        for (stream, event) in append.events() {
            let revision = self.streams.entry(stream.clone()).or_default().written();
            let place = Placed { position: Position(columns.len() as u64), revision };
            let digest = columns.push(stream, revision, event);
            let content = Content { placed: place, digest, writer: None };
            self.recorded.insert((stream.as_str().to_owned(), event.id), content);
            placed.push(place);
        }
        placed
    }

    /// The events of an append, as far as they are recorded.
    pub(crate) fn found(&self, append: &Append) -> impl Iterator<Item = &Content> {
        let content = |(stream, event): (&StreamName, &NewEvent)| {
            self.recorded.get(&(stream.as_str().to_owned(), event.id))
        };
        append.events().filter_map(content)
    }

    /// What the streams that these appends concern have become, once they are recorded at `moment`.
    pub(crate) fn streams_after(
        &self,
        appends: &[&Append],
        moment: Timestamp,
    ) -> Result<BTreeMap<StreamName, StreamState>> {
        let (mut touched, mut states) = (BTreeSet::new(), HashMap::new());
        for (stream, event) in appends.iter().flat_map(|append| append.events()) {
            touched.insert(stream.clone());
            if let Some((described, change)) = LifeChange::of_event(stream, &event.event_type, &event.data)? {
                let state = states.entry(described.clone()).or_insert_with(|| self.state_of(&described));
                state.described(&change, moment);
                touched.insert(described);
            }
        }
        let state = |name: StreamName| {
            let state = states.get(&name).copied().unwrap_or_else(|| self.state_of(&name));
            (name, state)
        };
        Ok(touched.into_iter().map(state).collect())
    }

    fn state_of(&self, stream: &StreamName) -> StreamState {
        self.streams.get(stream).copied().unwrap_or_default()
    }
}

/// Whether a guard of `append` is about an event that one of `earlier` writes.
pub(crate) fn is_met_by(append: &Append, earlier: &[&Append]) -> bool {
    let mut events = earlier.iter().flat_map(|append| append.events());
    queries(append).next().is_some()
        && events.any(|(stream, event)| {
            let mut criteria = queries(append).flat_map(|(query, _)| &query.any_of);
            criteria.any(|criterion| criterion.holds(stream, &event.event_type, &event.tags))
        })
}

/// Whether it changes what streams show.
pub(crate) fn describes(append: &Append) -> bool {
    append.writes.iter().any(|write| write.stream.described_stream().is_some())
}

/// The guards on queries, each with the position after which nothing may match.
pub(crate) fn queries(append: &Append) -> impl Iterator<Item = (&Query, Position)> {
    append.guards.iter().filter_map(|guard| match guard {
        Guard::Query { query, after } => Some((query, after.position)),
        Guard::Stream { .. } => None,
    })
}

/// Adds the streams whose state the append changes or rests on.
///
/// # Errors
/// [`Error::InvalidInput`] for an event that has no place in a metadata stream.
pub(crate) fn concerned(append: &Append, names: &mut BTreeSet<String>) -> Result<()> {
    for (stream, event) in append.events() {
        if let Some((described, _)) = LifeChange::of_event(stream, &event.event_type, &event.data)? {
            names.insert(described.as_str().to_owned());
        }
    }
    names.extend(append.writes.iter().map(|write| write.stream.as_str().to_owned()));
    names.extend(append.guards.iter().filter_map(|guard| match guard {
        Guard::Stream { stream, .. } => Some(stream.as_str().to_owned()),
        Guard::Query { .. } => None,
    }));
    Ok(())
}
