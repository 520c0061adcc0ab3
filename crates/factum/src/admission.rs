//! Whether an append may happen: the contract's order of questions, asked in one place for every store that decides in memory.

use std::collections::HashSet;

use crate::{
    append::{Append, Guard, Limits, Placed},
    error::{Actual, Conflict, Error, IdProblem, Result},
    event::{NewEvent, RecordedEvent},
    name::StreamName,
    position::{LogIdentity, Position},
    query::Query,
    stream::{Life, LifeChange, StreamState},
    time::Timestamp,
};

/// What a store knows at the instant at which it decides, including appends it decided on before but has not yet made durable.
pub trait Ledger {
    /// The log.
    fn identity(&self) -> LogIdentity;
    /// The last position given out.
    fn head(&self) -> Position;
    /// The state of a stream; the default for one never heard of.
    ///
    /// # Errors
    /// Whatever keeps the store from reading its own data.
    fn stream(&self, stream: &StreamName) -> Result<StreamState>;
    /// Whether any event of an append may be recorded already: a store may know quickly that none is. The default does not.
    ///
    /// # Errors
    /// As above.
    fn may_be_recorded(&self, append: &Append) -> Result<bool> {
        let _ = append;
        Ok(true)
    }
    /// The event with this one's id in this stream, hidden or not, and also if no more than its id and a digest of its content
    /// is kept.
    ///
    /// # Errors
    /// As above.
    fn find(&self, stream: &StreamName, event: &NewEvent) -> Result<Option<Found>>;
    /// The position of a visible event after `after` that matches, if there is one.
    ///
    /// # Errors
    /// As above.
    fn visible_match(&self, query: &Query, after: Position, now: Timestamp) -> Result<Option<Position>>;
}

/// An event that is recorded under the id of a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub placed: Placed,
    /// Whether it is the same in all else, too: [`NewEvent::same_content`].
    pub same_content: bool,
}

impl Found {
    /// How `event` is found again in what is recorded under its id.
    pub fn of(event: &NewEvent, recorded: &RecordedEvent) -> Self {
        let placed = Placed { position: recorded.position, revision: recorded.revision };
        Self { placed, same_content: event.same_content(recorded) }
    }
}

/// The answer to [`admit`].
#[derive(Clone, Debug, PartialEq)]
pub enum Admission {
    /// Nothing stands against it: write it.
    New,
    /// All of it is recorded already, here.
    Replayed(Vec<Placed>),
}

/// Decides on an append: limits, then what is recorded already, then the streams' lives, then the guards.
///
/// # Errors
/// The reason why it must not happen.
pub fn admit(append: &Append, limits: &Limits, ledger: &impl Ledger, now: Timestamp) -> Result<Admission> {
    limits.check(append)?;
    refuse_repeated_ids(append)?;
    if ledger.may_be_recorded(append)?
        && let Some(placed) = recorded_already(append, ledger)?
    {
        return Ok(Admission::Replayed(placed));
    }
    check_lives(append, ledger)?;
    for guard in &append.guards {
        check_guard(guard, ledger, now)?;
    }
    Ok(Admission::New)
}

fn refuse_repeated_ids(append: &Append) -> Result<()> {
    if append.event_count() < 2 {
        return Ok(());
    }
    // Ids that grow, as those made one after the other do, are all different.
    if append.events().map(|(_, event)| event.id.0).is_sorted_by(|one, next| one < next) {
        return Ok(());
    }
    let mut seen = HashSet::with_capacity(append.event_count());
    match append.events().find(|(stream, event)| !seen.insert((*stream, event.id))) {
        Some((stream, event)) => Err(Error::invalid(
            format!("the event id {}", event.id),
            format!("it stands twice in this append for stream `{stream}`; give each event its own"),
        )),
        None => Ok(()),
    }
}

/// The original places if every event is recorded with the same content; `None` if none is.
///
/// # Errors
/// [`Error::IdConflict`], and those of the ledger.
pub fn recorded_already(append: &Append, ledger: &impl Ledger) -> Result<Option<Vec<Placed>>> {
    let (mut placed, mut first_missing) = (Vec::new(), None);
    for (n, (stream, event)) in append.events().enumerate() {
        match ledger.find(stream, event)? {
            Some(found) if !found.same_content => {
                let problem = IdProblem::OtherContent;
                return Err(Error::IdConflict { stream: stream.clone(), id: event.id, problem });
            }
            Some(found) => {
                if first_missing.is_some() {
                    let problem = IdProblem::PartlyRecorded;
                    return Err(Error::IdConflict { stream: stream.clone(), id: event.id, problem });
                }
                placed.push(found.placed);
            }
            None => {
                first_missing.get_or_insert(n);
            }
        }
    }
    match (placed.is_empty(), first_missing) {
        (true, _) => Ok(None),
        (false, None) => Ok(Some(placed)),
        (false, Some(_)) => {
            let (stream, event) =
                append.events().next().unwrap_or_else(|| unreachable!("an event was placed"));
            Err(Error::IdConflict {
                stream: stream.clone(),
                id: event.id,
                problem: IdProblem::PartlyRecorded,
            })
        }
    }
}

fn check_lives(append: &Append, ledger: &impl Ledger) -> Result<()> {
    let mut tombstoned_here = Vec::new();
    for write in &append.writes {
        let mut described = None;
        for event in &write.events {
            described = LifeChange::of_event(&write.stream, &event.event_type, &event.data)?;
            if let Some((stream, LifeChange::Tombstoned)) = &described {
                tombstoned_here.push(stream.clone());
            }
        }
        let subject = described.map_or_else(|| write.stream.clone(), |(stream, _)| stream);
        let before = ledger.stream(&subject)?.life == Life::Tombstoned;
        let here = subject == write.stream && tombstoned_here.contains(&subject);
        if before || here {
            return Err(Error::Tombstoned { stream: subject });
        }
    }
    Ok(())
}

fn check_guard(guard: &Guard, ledger: &impl Ledger, now: Timestamp) -> Result<()> {
    let found = match guard {
        Guard::Stream { stream, expected } => expected.check(&ledger.stream(stream)?).err(),
        Guard::Query { query, after } => {
            let after = after.position_in(ledger.identity(), ledger.head())?;
            ledger.visible_match(query, after, now)?.map(Actual::Match)
        }
    };
    match found {
        Some(actual) => Err(Conflict { guard: guard.clone(), actual }.into()),
        None => Ok(()),
    }
}
