//! What appends are decided against.

use factum::{
    Append, Error, LogIdentity, NewEvent, Position, Query, RecordedEvent, Result, StreamName, StreamState,
    Timestamp,
    admission::{Found, Ledger},
};

use super::{Desk, Durable};
use crate::{
    batch::{Batch, Request},
    format::{found, is_removed},
    index::{Places, Secret},
    read,
};

/// The log as it will be once everything that was decided is durable, to one who asks for something.
pub(super) struct Decided<'a> {
    pub(super) desk: &'a Desk,
    pub(super) durable: &'a Durable,
    pub(super) request: &'a Request,
    /// Whether only what is durable counts.
    pub(super) only_durable: bool,
}

impl Decided<'_> {
    fn secret(&self) -> Secret {
        self.durable.index.secret
    }

    fn batches(&self) -> impl Iterator<Item = &Batch> {
        [Some(&self.desk.open), self.desk.in_flight.as_deref()].into_iter().flatten()
    }

    fn event(&self, position: Position) -> Result<RecordedEvent> {
        for batch in self.batches() {
            if let Some(event) = batch.event(position)? {
                return Ok(event);
            }
        }
        self.durable.event(position)
    }

    fn shows(&self, event: &RecordedEvent, now: Timestamp) -> Result<bool> {
        if is_removed(event) {
            return self.durable.vouch_for(event).map(|()| false);
        }
        Ok(self.stream(&event.stream)?.shows(event.revision, event.recorded_at, now))
    }

    /// The last visible event at these places that matches, after `after`.
    fn last_match(
        &self,
        places: &Places<'_>,
        query: &Query,
        after: Position,
        now: Timestamp,
    ) -> Result<Option<Position>> {
        let mut before = Position(u64::MAX);
        while let Some(place) = places.previous(before, after)? {
            let event = self.event(place)?;
            if query.matches(&event) && self.shows(&event, now)? {
                return Ok(Some(place));
            }
            before = place;
        }
        Ok(None)
    }

    /// The same for a query that no index helps with.
    fn last_of_all(&self, query: &Query, after: Position, now: Timestamp) -> Result<Option<Position>> {
        let mut found = None;
        let mut look = |event: &RecordedEvent| {
            let wanted = event.position > after && query.matches(event) && self.shows(event, now)?;
            found = if wanted { Some(event.position) } else { found };
            Ok::<_, Error>(wanted)
        };
        for batch in self.batches() {
            for event in batch.events_backwards()? {
                if look(&event)? {
                    return Ok(found);
                }
            }
        }
        let mut before = Position(self.durable.end);
        while before > after {
            let (events, next) = read::block_before(self.durable, before)?;
            for event in events.iter().rev() {
                if look(event)? {
                    return Ok(found);
                }
            }
            before = next;
        }
        Ok(None)
    }
}

impl Ledger for Decided<'_> {
    fn identity(&self) -> LogIdentity {
        self.durable.log
    }

    fn head(&self) -> Position {
        let decided = self.durable.index.last().filter(|_| !self.only_durable);
        decided.map_or_else(|| self.durable.head(), |(position, _)| position)
    }

    fn stream(&self, stream: &StreamName) -> Result<StreamState> {
        let stream = self.secret().stream(stream);
        if self.only_durable {
            return self.durable.state(stream);
        }
        Ok(self.request.state(&self.durable.index, stream)?.unwrap_or_default())
    }

    fn may_be_recorded(&self, _: &Append) -> Result<bool> {
        self.request.may_be_recorded(&self.durable.index)
    }

    fn find(&self, stream: &StreamName, event: &NewEvent) -> Result<Option<Found>> {
        let secret = self.secret();
        let hash = secret.id(secret.stream(stream), event.id);
        for place in self.durable.index.ids_beyond(hash, event.id, 0)? {
            if self.only_durable && place.0 >= self.durable.end {
                continue;
            }
            let recorded = self.event(place)?;
            if recorded.id == event.id && recorded.stream == *stream {
                return Ok(Some(found(event, &recorded)));
            }
        }
        Ok(None)
    }

    fn visible_match(&self, query: &Query, after: Position, now: Timestamp) -> Result<Option<Position>> {
        match self.durable.index.places(query, after)? {
            Some(places) => self.last_match(&places, query, after, now),
            None => self.last_of_all(query, after, now),
        }
    }
}
