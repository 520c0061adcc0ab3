//! Reads: how far it is safe to look, and then, in a later statement, what is there.

use std::{
    cmp::Reverse,
    sync::atomic::{AtomicU32, Ordering},
};

use deadpool_postgres::ClientWrapper;
use factum::{
    AsOf, Direction, Error, Head, Life, LogIdentity, Page, Position, Read, RecordedEvent, Result, Source,
    Start, StreamName, StreamState, Timestamp, Token,
};
use tokio_postgres::{Row, types::ToSql};

use crate::{
    fault::Fault,
    rows::{self, EVENT, EVENT_COLUMNS, NO_EVENT, number, signed},
    schema::in_schema,
    sql::{self, Sql},
};

/// How a read of one schema asks.
#[derive(Debug)]
pub(crate) struct Statements {
    look_out: String,
    head: String,
    stream: String,
    /// The beginning of a page of the stream `$1`: the same as a row among its events, all seen at one moment.
    page_of_stream: String,
    /// The beginning of a page of the whole log.
    page_of_log: String,
    first_after: String,
    schema: String,
    careful: AtomicU32,
}

/// The end of what is read, as SQL in a statement after one that looked out on the same connection. Nothing before that.
const SAFE: &str = "nullif(current_setting('factum_store.safe', true), '')::bigint";

/// The stream `$1` and the log, as far as it is safe to see them, in numbers: what [`Look::of`] reads beside the log's id.
/// What is committed is not always safe to be seen yet: a stream ends where its events do that are.
const LOOK: &str = "ARRAY[q.quiet::integer, q.safe, l.epoch,
        CASE WHEN q.quiet THEN s.last_revision
             ELSE (SELECT max(e.revision) FROM factum.events e WHERE e.stream = s.name AND e.position + 0 <= q.safe) END,
        s.hidden_before, s.hidden_until, s.truncate_before, s.max_count, s.max_age_seconds, s.life]
    FROM factum.log l
    CROSS JOIN (SELECT p.safe, p.drawn = p.safe AS quiet FROM (SELECT SAFE AS safe, last_value AS drawn FROM factum.position) p) q
    LEFT JOIN s ON true";
const THE_STREAM: &str = "WITH s AS MATERIALIZED (SELECT * FROM factum.streams WHERE name = $1)";

/// How many reads of streams look out first, after one for which what this connection knew was too old.
const CAREFUL: u32 = 16;

impl Statements {
    pub(crate) fn new(schema: &str) -> Self {
        let sql = |text: &str| in_schema(text, schema);
        let look = LOOK.replace("SAFE", SAFE);
        Self {
            // Nothing, where the log's row has been put there from elsewhere since this connection looked around.
            look_out: sql("SELECT set_config('factum_store.safe', factum.safe_head()::text, false)::bigint, log_id, epoch
                FROM factum.log l WHERE l.tableoid = l.log_oid AND l.xmin = l.written_by"),
            head: sql("SELECT max(recorded_at) FROM factum.events e WHERE e.position = $1"),
            stream: sql(&format!("{THE_STREAM} SELECT l.log_id, {look}")),
            page_of_stream: format!(
                "{THE_STREAM} SELECT {NO_EVENT}, l.log_id, {look} UNION ALL (SELECT {EVENT}, NULL, NULL
                 FROM s JOIN factum.events e ON e.stream = $1 WHERE e.position + 0 <= (SELECT {SAFE})"
            ),
            page_of_log: format!(
                "SELECT {EVENT} FROM factum.events e JOIN factum.streams s ON s.name = e.stream WHERE e.position <= {SAFE}"
            ),
            first_after: sql("SELECT position FROM factum.events WHERE recorded_at > $1 ORDER BY recorded_at, position LIMIT 1"),
            schema: schema.to_owned(),
            careful: AtomicU32::new(0),
        }
    }

    /// Whether what a connection knows from its last read may still be so: while nobody writes, a read of a stream is one
    /// statement.
    fn may_be_quiet(&self) -> bool {
        let less = |careful: u32| careful.checked_sub(1);
        self.careful.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err()
    }
}

/// How far it is safe to look.
struct Horizon {
    log: LogIdentity,
    safe: Position,
}

impl Horizon {
    fn of(row: &Row) -> Result<Self, Fault> {
        let log = LogIdentity { log_id: row.try_get(1)?, epoch: number(row.try_get(2)?) };
        Ok(Self { log, safe: Position(number(row.try_get(0)?)) })
    }
}

/// A stream, as far as it is safe to see it.
struct Look {
    horizon: Horizon,
    state: StreamState,
    /// Whether nothing has been drawn since this connection looked out.
    quiet: bool,
}

impl Look {
    /// `at`: where the log's id is, and [`LOOK`] after it.
    fn of(row: &Row, at: usize) -> Result<Self, Fault> {
        let look: Vec<Option<i64>> = row.try_get(at + 1)?;
        let [quiet, safe, epoch, state @ ..] = &look[..] else {
            return Err(Error::invalid("what PostgreSQL tells of a stream", "it is too short").into());
        };
        let log = LogIdentity { log_id: row.try_get(at)?, epoch: number(epoch.unwrap_or_default()) };
        let safe = Position(number(safe.unwrap_or_default()));
        Ok(Self { horizon: Horizon { log, safe }, state: rows::state(state)?, quiet: *quiet == Some(1) })
    }
}

pub(crate) async fn head(client: &ClientWrapper, statements: &Statements) -> Result<Head, Fault> {
    let look_out = client.prepare_cached(&statements.look_out).await?;
    let horizon = Horizon::of(&client.query_one(&look_out, &[]).await?)?;
    let recorded = client.prepare_cached(&statements.head).await?;
    let recorded = client.query_one(&recorded, &[&signed(horizon.safe.0)]).await?;
    let recorded_at = recorded.try_get::<_, Option<i64>>(0)?.map(Timestamp);
    Ok(Head { token: horizon.log.at(horizon.safe), recorded_at })
}

pub(crate) async fn stream_state(
    client: &ClientWrapper,
    statements: &Statements,
    stream: &StreamName,
) -> Result<StreamState, Fault> {
    let look_out = client.prepare_cached(&statements.look_out).await?;
    let state = client.prepare_cached(&statements.stream).await?;
    let name = stream.as_str();
    let name: [&(dyn ToSql + Sync); 1] = [&name];
    let (looked, state) =
        tokio::join!(biased; client.query_one(&look_out, &[]), client.query_one(&state, &name));
    looked?;
    Ok(Look::of(&state?, 0)?.state)
}

/// Beyond all positions.
const END: Position = Position(i64::MAX as u64);

/// The positions between which to look, both excluded; without what only the server knows.
struct Bounds {
    after: Position,
    before: Position,
}

impl Bounds {
    /// `first_later`: the first event that is too late for the moment asked for.
    fn of(read: &Read, first_later: Option<Position>) -> Self {
        let (mut after, mut before) = (Position::START, END);
        if let Start::Beyond(token) = read.start {
            match read.direction {
                Direction::Forwards => after = token.position,
                Direction::Backwards => before = token.position,
            }
        }
        let as_of = match read.as_of {
            None => END,
            Some(AsOf::Position(position)) => Position(position.0.saturating_add(1)),
            Some(AsOf::Time(_)) => first_later.unwrap_or(END),
        };
        Self { after, before: before.min(as_of).max(Position(1)) }
    }
}

pub(crate) async fn page(
    client: &ClientWrapper,
    statements: &Statements,
    read: &Read,
) -> Result<Page, Fault> {
    read.check()?;
    let looked = look_out_by_time(client, statements, read).await?;
    let bounds = Bounds::of(read, looked.as_ref().and_then(|(_, first_later)| *first_later));
    let select = select(statements, read, &bounds);
    let looked = looked.map(|(horizon, _)| horizon);
    let (horizon, state, events) = match &read.source {
        Source::Stream(_) => of_stream(client, statements, &select, looked.is_some()).await?,
        _ => of_log(client, statements, &select, looked).await?,
    };
    let mut events = events.iter().map(rows::event).collect::<Result<Vec<_>, Fault>>()?;
    // As they have come, though SQL does not promise it where they are not all of the result.
    match read.direction {
        Direction::Forwards => events.sort_by_key(|event| event.position),
        Direction::Backwards => events.sort_by_key(|event| Reverse(event.position)),
    }
    if let Start::Beyond(token) = read.start {
        token.position_in(horizon.log, horizon.safe)?;
    }
    assemble(read, &horizon, &bounds, events, state).map_err(Fault::from)
}

/// A stream and the events asked for, at one moment. `looked`: this connection has looked out before.
async fn of_stream(
    client: &ClientWrapper,
    statements: &Statements,
    select: &Sql,
    looked: bool,
) -> Result<(Horizon, StreamState, Vec<Row>), Fault> {
    let (look_out, page) =
        tokio::try_join!(client.prepare_cached(&statements.look_out), client.prepare_cached(&select.text))?;
    let parameters = select.parameters();
    if looked || statements.may_be_quiet() {
        let (look, events) = stream_and_events(client.query(&page, &parameters).await?)?;
        if looked || look.quiet {
            return Ok((look.horizon, look.state, events));
        }
        statements.careful.store(CAREFUL, Ordering::Relaxed);
    }
    // In one trip, and one after the other.
    let (looked, page) = tokio::join!(
        biased;
        client.query_one(&look_out, &[]),
        client.query(&page, &parameters),
    );
    looked?;
    let (look, events) = stream_and_events(page?)?;
    Ok((look.horizon, look.state, events))
}

/// Takes the stream out of its events.
fn stream_and_events(mut rows: Vec<Row>) -> Result<(Look, Vec<Row>), Fault> {
    let is_no_event = |row: &Row| matches!(row.try_get::<_, Option<i64>>(0), Ok(None));
    let at = rows.iter().position(is_no_event);
    let at = at.ok_or_else(|| Error::invalid("what PostgreSQL tells of a stream", "there is nothing"))?;
    let look = Look::of(&rows.remove(at), EVENT_COLUMNS)?;
    Ok((look, rows))
}

/// The events asked for, in whatever stream they are. Planned each time, for the values that are asked for: a plan for any value
/// would not know whether a tag or a position leaves fewer rows.
async fn of_log(
    client: &ClientWrapper,
    statements: &Statements,
    select: &Sql,
    looked: Option<Horizon>,
) -> Result<(Horizon, StreamState, Vec<Row>), Fault> {
    let look_out = client.prepare_cached(&statements.look_out).await?;
    let parameters = select.typed_parameters();
    let (horizon, events) = tokio::join!(
        biased;
        async {
            match looked {
                Some(horizon) => Ok(horizon),
                None => Horizon::of(&client.query_one(&look_out, &[]).await?),
            }
        },
        client.query_typed(&select.text, &parameters),
    );
    Ok((horizon?, StreamState::default(), events?))
}

/// For a read as of a time, how far it is safe to look, and after that the first event that is too late. Asked before, it would
/// know nothing of an event that came between, and the page would claim to have looked beyond it.
async fn look_out_by_time(
    client: &ClientWrapper,
    statements: &Statements,
    read: &Read,
) -> Result<Option<(Horizon, Option<Position>)>, Fault> {
    let Some(AsOf::Time(time)) = read.as_of else { return Ok(None) };
    let look_out = client.prepare_cached(&statements.look_out).await?;
    let first = client.prepare_cached(&statements.first_after).await?;
    let time: [&(dyn ToSql + Sync); 1] = [&time.0];
    let (horizon, first) = tokio::join!(
        biased;
        client.query_one(&look_out, &[]),
        client.query_opt(&first, &time),
    );
    let first_later = first?.map(|row| row.try_get(0)).transpose()?;
    Ok(Some((Horizon::of(&horizon?)?, first_later.map(|position| Position(number(position))))))
}

/// The statement for a page, and one event more, which tells whether there is a next one.
fn select(statements: &Statements, read: &Read, bounds: &Bounds) -> Sql {
    let mut select = Sql::default();
    // Within a stream, revisions and positions have the same order, and revisions have the better index: the sum hides the other.
    // And how far it is safe to look is asked once, and not for each event; elsewhere the plan needs to know it.
    let in_stream = matches!(read.source, Source::Stream(_));
    let (position, order, end) =
        if in_stream { ("e.position + 0", "e.revision", ")") } else { ("e.position", "e.position", "") };
    match &read.source {
        Source::Stream(name) => {
            select.bind(name.as_str().to_owned());
            select.text.clone_from(&statements.page_of_stream);
        }
        Source::Query(query) => {
            select.push(&statements.page_of_log).push(" AND ").matching(query);
        }
        Source::All => {
            select.push(&statements.page_of_log);
        }
    }
    // In the log always both ends: with one alone, the index of a table that has no statistics yet is not taken.
    if !in_stream || bounds.after > Position::START {
        select.push(" AND ").push(position).push(" > ").bind(signed(bounds.after.0));
    }
    if !in_stream || bounds.before < END {
        select.push(" AND ").push(position).push(" < ").bind(signed(bounds.before.0));
    }
    match (read.start, read.direction) {
        (Start::Revision(first), Direction::Forwards) => {
            select.push(" AND e.revision >= ").bind(signed(first.0));
        }
        (Start::Revision(last), Direction::Backwards) => {
            select.push(" AND e.revision <= ").bind(signed(last.0));
        }
        _ => {}
    }
    if let Some(AsOf::Time(time)) = read.as_of {
        select.push(" AND e.recorded_at <= ").bind(time.0);
    }
    select.push(" AND ");
    sql::visible(&mut select, "(SELECT factum.moment())");
    let direction = if read.direction == Direction::Forwards { "" } else { " DESC" };
    let limit = signed((read.limit as u64).saturating_add(1));
    select.push(" ORDER BY ").push(order).push(direction).push(" LIMIT ").bind(limit).push(end);
    select.text = in_schema(&select.text, &statements.schema);
    select
}

fn assemble(
    read: &Read,
    horizon: &Horizon,
    bounds: &Bounds,
    mut events: Vec<RecordedEvent>,
    state: StreamState,
) -> Result<Page> {
    let stream = match &read.source {
        Source::Stream(name) if state.life == Life::Tombstoned => {
            return Err(Error::Tombstoned { stream: name.clone() });
        }
        Source::Stream(_) => Some(state),
        _ => None,
    };
    let more = events.len() > read.limit;
    events.truncate(read.limit);
    let at = |position: Position| -> Token { horizon.log.at(position) };
    // A token beyond the moment looked from: nothing to see, and no step back.
    let before = bounds.before.max(Position(bounds.after.0 + 1));
    let last_place = Position(before.0 - 1).min(horizon.safe);
    let next = match (more, events.last()) {
        (true, Some(last)) => Some(Start::Beyond(at(last.position))),
        _ => None,
    };
    let token = match (read.direction, next) {
        (Direction::Forwards, Some(Start::Beyond(token))) => token,
        _ => at(last_place),
    };
    Ok(Page { events, token, head: at(horizon.safe), next, stream })
}
