//! The usual append, in one statement: events for one stream that is as expected, and nothing else to be looked up.
//!
//! `append_plain` in the database writes it or does nothing; then, and for every other append, the contract decides. So this adds
//! no rule to it, and takes none away.

use deadpool_postgres::Object;
use factum::{
    Append, Appended, Durability, ExpectedRevision, Guard, LogIdentity, Placed, Position, Result, Revision,
    Write,
};
use tokio_postgres::{error::SqlState, types::ToSql};
use uuid::Uuid;

use crate::{
    append::{self, Line, Settled, Statements},
    fault::Fault,
    known,
    rows::{EventColumns, number, signed},
    sql,
};

/// What stands in `append_plain` for a stream's last revision where none is expected.
const WHATEVER: i64 = -2;
const NEVER_WRITTEN: i64 = -1;

/// The write of an append that may be one, and the revision that it expects.
fn only_write(append: &Append) -> Option<(&Write, i64)> {
    let [write] = &append.writes[..] else { return None };
    let mut expected = WHATEVER;
    for guard in &append.guards {
        let Guard::Stream { stream, expected: own } = guard else { return None };
        let own = match own {
            _ if *stream != write.stream => return None,
            // What is not live is left to the contract in any case.
            ExpectedRevision::Any | ExpectedRevision::StreamExists => continue,
            ExpectedRevision::NoStream => NEVER_WRITTEN,
            ExpectedRevision::Exact(revision) => signed(revision.0),
        };
        if expected != WHATEVER && expected != own {
            return None;
        }
        expected = own;
    }
    // A statement that is still on its way when its connection is cut must not find true later what the next attempt refuses.
    let exists =
        |guard: &Guard| matches!(guard, Guard::Stream { expected: ExpectedRevision::StreamExists, .. });
    if [WHATEVER, NEVER_WRITTEN].contains(&expected) && append.guards.iter().any(exists) {
        return None;
    }
    let growing = write.events.is_sorted_by(|one, next| one.id.0 < next.id.0);
    (!write.events.is_empty() && growing && !known::describes(append)).then_some((write, expected))
}

/// Does it, if nothing is out of the ordinary; otherwise nothing has happened. `look`: and looks, in the same trip, how far every
/// reader sees after it.
///
/// # Errors
/// Failures of the database.
pub(crate) async fn append(
    client: &Object,
    statements: &Statements,
    log_id: Uuid,
    durability: Durability,
    append: &Append,
    look: bool,
) -> Result<Option<(Appended, Option<Settled>)>, Fault> {
    let Some((write, expected)) = only_write(append) else { return Ok(None) };
    let (mut events, places) = (EventColumns::default(), sql::places_of_events(append));
    for event in &write.events {
        events.push(&write.stream, Revision::FIRST, event);
    }
    let statement = client.prepare(&statements.plain).await?;
    let (stream, category) = (write.stream.as_str(), write.stream.category());
    let parameters: [&(dyn ToSql + Sync); 13] = [
        &stream,
        &expected,
        &places,
        &events.ids,
        &events.types,
        &category,
        &events.content_types,
        &events.data,
        &events.data_bytes,
        &events.metadata,
        &events.metadata_bytes,
        &events.tags,
        &events.digests,
    ];
    let (row, settled) = tokio::join!(biased; client.query_one(&statement, &parameters), async {
        if look { append::settled(client, statements, Position::START).await.ok() } else { None }
    });
    let row = match row {
        Ok(row) => row,
        // An id that is recorded already, or another append that got there at the same time.
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => return Ok(None),
        Err(error) => {
            append::give_back(client).await;
            return Err(Fault::from(error).of_a_change());
        }
    };
    let (Some(first), Some(revision)) =
        (row.try_get::<_, Option<i64>>(0)?, row.try_get::<_, Option<i64>>(1)?)
    else {
        return Ok(None);
    };
    let place =
        |n: u64| Placed { position: Position(number(first) + n), revision: Revision(number(revision) + n) };
    let events: Vec<Placed> = (0..write.events.len() as u64).map(place).collect();
    let log = LogIdentity { log_id, epoch: number(row.try_get(2)?) };
    let last = events.last().map_or(Position::START, |placed| placed.position);
    Ok(Some((Appended { events, token: log.at(last), replayed: false, durability }, settled)))
}
