//! Appends: one transaction each, which says where it will write before it draws a position.
//!
//! What can be asked at once is sent at once: an append without surprises is two trips to the server.

use std::collections::{BTreeSet, HashMap};

use deadpool_postgres::Object;
use factum::{
    Append, Appended, Durability, EventId, Guard, Limits, LogIdentity, NewEvent, Placed, Position, Query,
    Result, Revision, StreamName, StreamState, Timestamp,
    admission::{Admission, Found, Ledger, admit},
    error::Error,
    stream::LifeChange,
};
use futures_util::future::try_join_all;
use tokio_postgres::{Row, Statement, types::ToSql};

use crate::{
    fault::Fault,
    rows::{self, EventColumns, STREAM, StreamColumns, number, signed},
    schema::in_schema,
    sql::{self, Sql},
};

/// How an append of one schema asks.
#[derive(Debug)]
pub(crate) struct Statements {
    meet: String,
    lock_streams: String,
    find: String,
    log: String,
    record: String,
    allocate: String,
    settle: String,
    settle_to: String,
    schema: String,
}

impl Statements {
    pub(crate) fn new(schema: &str) -> Self {
        let sql = |text: &str| in_schema(text, schema);
        Self {
            meet: sql("SELECT factum.meet($1, $2)"),
            lock_streams: sql(&format!("SELECT {STREAM} FROM factum.lock_streams($1) s")),
            find: sql("SELECT e.stream, e.id, e.position, e.revision, e.digest
                FROM unnest($1::text[], $2::uuid[]) AS w (stream, id) JOIN factum.events e ON e.stream = w.stream AND e.id = w.id"),
            log: sql("SELECT log_id, epoch, (SELECT last_value FROM factum.position) FROM factum.log"),
            record: sql("SELECT first, moment FROM factum.record($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
                $15, $16, $17, $18, $19, $20, $21, $22)"),
            allocate: sql("SELECT first, moment FROM factum.allocate($1)"),
            settle: sql("SELECT factum.settle(current_setting('factum_store.recorded_to')::bigint)"),
            settle_to: sql("SELECT factum.settle($1)"),
            schema: schema.to_owned(),
        }
    }
}

/// A stream and an id in it.
type Key = (String, EventId);
/// Where the event of an id is, and the digest of its content.
type Content = (Placed, Vec<u8>);

/// What the database knows that concerns an append, while its rows are locked.
struct Known {
    identity: LogIdentity,
    drawn: Position,
    streams: HashMap<StreamName, StreamState>,
    recorded: HashMap<Key, Content>,
    /// The answers to the guards on queries, in their order.
    matches: Vec<(Query, Position, Option<Position>)>,
}

impl Ledger for Known {
    fn identity(&self) -> LogIdentity {
        self.identity
    }

    fn head(&self) -> Position {
        self.drawn
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
            .map(|(placed, digest)| Found { placed: *placed, same_content: *digest == rows::digest(event) }))
    }

    fn visible_match(&self, query: &Query, after: Position, _: Timestamp) -> Result<Option<Position>> {
        let asked = self.matches.iter().find(|(asked, since, _)| asked == query && *since == after);
        match asked {
            Some((.., found)) => Ok(*found),
            None => Err(Error::invalid("the guard", "it was not looked up")),
        }
    }
}

/// Does it, in a transaction of its own.
pub(crate) async fn append(
    client: &Object,
    statements: &Statements,
    limits: &Limits,
    durability: Durability,
    append: &Append,
) -> Result<Appended, Fault> {
    // What cannot be right is not worth a trip.
    limits.check(append)?;
    let known = match ask(client, statements, append).await {
        Ok(known) => known,
        Err(fault) => return Err(undone(client, fault).await),
    };
    let answer = |events: Vec<Placed>, replayed, position: Position| Appended {
        events,
        token: known.identity.at(position),
        replayed,
        durability,
    };
    match admit(append, limits, &known, Timestamp(0)) {
        Err(error) => Err(undone(client, error.into()).await),
        Ok(Admission::Replayed(events)) => {
            let last = events.iter().map(|placed| placed.position).max().unwrap_or(known.drawn);
            let settled = close_and_settle(client, statements, last).await;
            settled.map(|()| answer(events, true, last))
        }
        Ok(Admission::New) if append.event_count() == 0 => {
            close_and_settle(client, statements, known.drawn).await?;
            Ok(answer(Vec::new(), false, known.drawn))
        }
        Ok(Admission::New) => match write(client, statements, append, &known).await {
            Ok(events) => {
                let last = events.last().map_or(known.drawn, |placed| placed.position);
                Ok(answer(events, false, last))
            }
            Err(fault) => Err(undone(client, fault).await),
        },
    }
}

/// Ends the transaction; a connection that is gone has ended it.
async fn undone(client: &Object, fault: Fault) -> Fault {
    let _ = client.batch_execute("ROLLBACK").await;
    fault
}

/// Takes all locks, in the order that everybody takes them, and then asks what is known.
async fn ask(client: &Object, statements: &Statements, append: &Append) -> Result<Known, Fault> {
    let shared = sql::places_of_events(append);
    let shared = if append.event_count() == 0 { Vec::new() } else { shared };
    let alone: Vec<i32> = queries(append).flat_map(|(query, _)| sql::places_of_query(query)).collect();
    let names: Vec<String> = concerned(append)?.into_iter().collect();
    let (mut streams, mut ids) = (Vec::new(), Vec::new());
    for (stream, event) in append.events() {
        streams.push(stream.as_str().to_owned());
        ids.push(event.id.0);
    }
    let meet = client.prepare_cached(&statements.meet).await?;
    let lock = client.prepare_cached(&statements.lock_streams).await?;
    let find = client.prepare_cached(&statements.find).await?;
    let log = client.prepare_cached(&statements.log).await?;
    let mut looks: Vec<(Statement, Sql)> = Vec::new();
    for (query, after) in queries(append) {
        let look = look_for(&statements.schema, query, after);
        looks.push((client.prepare_cached(&look.text).await?, look));
    }
    let begin = client.batch_execute("BEGIN");
    let (places, names): ([&(dyn ToSql + Sync); 2], [&(dyn ToSql + Sync); 1]) = ([&shared, &alone], [&names]);
    let ids: [&(dyn ToSql + Sync); 2] = [&streams, &ids];
    // All is sent in this order without waiting between, and done in this order, each with a view of its own: what comes after
    // the locks sees what they waited for.
    let (begun, met, streams, recorded, log, found) = tokio::join!(
        biased;
        begin,
        client.query(&meet, &places),
        client.query(&lock, &names),
        client.query(&find, &ids),
        client.query_one(&log, &[]),
        try_join_all(looks.iter().map(|(statement, look)| async move {
            client.query_one(statement, &look.parameters()).await
        })),
    );
    // The first that fails fails the others: it is the one to tell of.
    begun?;
    met?;
    let streams = streams?.iter().map(rows::stream).collect::<Result<_, Fault>>()?;
    let recorded = recorded?.iter().map(recorded_event).collect::<Result<_, Fault>>()?;
    let (log, found) = (log?, found?);
    let identity = LogIdentity { log_id: log.try_get(0)?, epoch: number(log.try_get(1)?) };
    let drawn = Position(number(log.try_get(2)?));
    let mut matches = Vec::with_capacity(found.len());
    for ((query, after), row) in queries(append).zip(found) {
        let position = row.try_get::<_, Option<i64>>(0)?.map(|position| Position(number(position)));
        matches.push((query.clone(), after, position));
    }
    Ok(Known { identity, drawn, streams, recorded, matches })
}

fn recorded_event(row: &Row) -> Result<(Key, Content), Fault> {
    let placed =
        Placed { position: Position(number(row.try_get(2)?)), revision: Revision(number(row.try_get(3)?)) };
    Ok(((row.try_get(0)?, EventId(row.try_get(1)?)), (placed, row.try_get(4)?)))
}

/// The guards on queries, each with the position after which nothing may match.
fn queries(append: &Append) -> impl Iterator<Item = (&Query, Position)> {
    append.guards.iter().filter_map(|guard| match guard {
        Guard::Query { query, after } => Some((query, after.position)),
        Guard::Stream { .. } => None,
    })
}

/// The streams whose state the append changes or rests on, in the order in which everybody locks them.
fn concerned(append: &Append) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for (stream, event) in append.events() {
        names.insert(stream.as_str().to_owned());
        if let Some((described, _)) = LifeChange::of_event(stream, &event.event_type, &event.data)? {
            names.insert(described.as_str().to_owned());
        }
    }
    names.extend(append.writes.iter().map(|write| write.stream.as_str().to_owned()));
    names.extend(append.guards.iter().filter_map(|guard| match guard {
        Guard::Stream { stream, .. } => Some(stream.as_str().to_owned()),
        Guard::Query { .. } => None,
    }));
    Ok(names)
}

/// Asks for the last visible event that matches beyond a position.
fn look_for(schema: &str, query: &Query, after: Position) -> Sql {
    let mut look = Sql::default();
    look.push("SELECT max(e.position) FROM factum.events e JOIN factum.streams s ON s.name = e.stream WHERE e.position > ")
        .bind(signed(after.0))
        .push(" AND ")
        .matching(query)
        .push(" AND ");
    sql::visible(&mut look, "(SELECT factum.moment())");
    look.text = in_schema(&look.text, schema);
    look
}

/// Writes what was admitted, and commits.
async fn write(
    client: &Object,
    statements: &Statements,
    append: &Append,
    known: &Known,
) -> Result<Vec<Placed>, Fault> {
    let drawn_before = draw_before(client, statements, append).await?;
    let (first, moment) = drawn_before.unzip();
    let (events, streams, revisions) = columns(append, known, Timestamp(moment.unwrap_or_default()))?;
    let record = client.prepare_cached(&statements.record).await?;
    let settle = client.prepare_cached(&statements.settle).await?;
    let parameters: [&(dyn ToSql + Sync); 22] = [
        &first,
        &moment,
        &events.streams,
        &events.revisions,
        &events.ids,
        &events.types,
        &events.categories,
        &events.content_types,
        &events.data,
        &events.data_bytes,
        &events.metadata,
        &events.metadata_bytes,
        &events.tags,
        &events.digests,
        &streams.names,
        &streams.last_revisions,
        &streams.hidden_befores,
        &streams.hidden_untils,
        &streams.truncate_befores,
        &streams.max_counts,
        &streams.max_ages,
        &streams.lives,
    ];
    // An answer is given when nothing can appear before these events any more: only then does every reader see them.
    let (recorded, committed, settled) = tokio::join!(
        biased;
        client.query_one(&record, &parameters),
        client.batch_execute("COMMIT"),
        client.query(&settle, &[]),
    );
    let recorded = recorded.map_err(|error| Fault::from(error).of_a_change())?;
    committed.map_err(|error| Fault::from(error).of_a_change())?;
    settled.map_err(|error| Fault::from(error).not_settled())?;
    let first = number(recorded.try_get(0)?);
    let placed = |(n, revision)| Placed { position: Position(first + n), revision };
    Ok((0..).zip(revisions).map(placed).collect())
}

/// Where an append changes what a stream shows, when that is must be known before: then its place is drawn first.
async fn draw_before(
    client: &Object,
    statements: &Statements,
    append: &Append,
) -> Result<Option<(i64, i64)>, Fault> {
    if !append.writes.iter().any(|write| write.stream.described_stream().is_some()) {
        return Ok(None);
    }
    let allocate = client.prepare_cached(&statements.allocate).await?;
    let row = client.query_one(&allocate, &[&signed(append.event_count() as u64)]).await?;
    Ok(Some((row.try_get(0)?, row.try_get(1)?)))
}

/// What is to be written, and what its streams become.
fn columns(
    append: &Append,
    known: &Known,
    moment: Timestamp,
) -> Result<(EventColumns, StreamColumns, Vec<Revision>)> {
    let (mut events, mut revisions, mut states) =
        (EventColumns::default(), Vec::new(), known.streams.clone());
    let mut touched = BTreeSet::new();
    for (stream, event) in append.events() {
        let revision = states.entry(stream.clone()).or_default().written();
        touched.insert(stream.clone());
        events.push(stream, revision, event);
        revisions.push(revision);
        if let Some((described, change)) = LifeChange::of_event(stream, &event.event_type, &event.data)? {
            states.entry(described.clone()).or_default().described(&change, moment);
            touched.insert(described);
        }
    }
    let mut streams = StreamColumns::default();
    for name in &touched {
        streams.push(name, &states.get(name).copied().unwrap_or_default());
    }
    Ok((events, streams, revisions))
}

/// Ends a transaction that has written nothing, once readers see everything up to `position`.
async fn close_and_settle(client: &Object, statements: &Statements, position: Position) -> Result<(), Fault> {
    let settle = client.prepare_cached(&statements.settle_to).await?;
    let to = signed(position.0);
    let to: [&(dyn ToSql + Sync); 1] = [&to];
    let (closed, settled) = tokio::join!(
        biased;
        client.batch_execute("COMMIT"),
        client.query(&settle, &to),
    );
    closed?;
    settled.map_err(|error| Fault::from(error).not_settled())?;
    Ok(())
}
