//! Reads: how far it is safe to look, and then, in a later statement, what is there.

use deadpool_postgres::ClientWrapper;
use factum::{
    AsOf, Direction, Error, Head, Life, LogIdentity, Page, Position, Read, RecordedEvent, Result, Source,
    Start, StreamName, StreamState, Timestamp, Token,
};
use tokio_postgres::{Row, types::ToSql};

use crate::{
    fault::Fault,
    rows::{self, EVENT, STREAM, number, signed},
    schema::in_schema,
    sql::{self, Sql},
};

/// How a read of one schema asks.
#[derive(Debug)]
pub(crate) struct Statements {
    look_out: String,
    head: String,
    stream: String,
    first_after: String,
    schema: String,
}

/// The end of what is read, as SQL in the statement after the one that looked out.
const SAFE: &str = "current_setting('factum_store.safe')::bigint";
const NOW: &str = "current_setting('factum_store.now')::bigint";

impl Statements {
    pub(crate) fn new(schema: &str) -> Self {
        let sql = |text: &str| in_schema(text, schema);
        Self {
            look_out: sql("SELECT set_config('factum_store.safe', factum.safe_head()::text, false)::bigint,
                set_config('factum_store.now', factum.moment()::text, false)::bigint, log_id, epoch FROM factum.log"),
            head: sql("SELECT max(recorded_at) FROM factum.events e
                WHERE e.position = (SELECT max(position) FROM factum.events WHERE position <= $1)"),
            stream: sql(&format!("SELECT {STREAM} FROM factum.streams s WHERE s.name = $1")),
            first_after: sql("SELECT position FROM factum.events WHERE recorded_at > $1 ORDER BY recorded_at, position LIMIT 1"),
            schema: schema.to_owned(),
        }
    }
}

/// How far it is safe to look.
struct Horizon {
    log: LogIdentity,
    safe: Position,
}

impl Horizon {
    fn of(row: &Row) -> Result<Self, Fault> {
        let log = LogIdentity { log_id: row.try_get(2)?, epoch: number(row.try_get(3)?) };
        Ok(Self { log, safe: Position(number(row.try_get(0)?)) })
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
    let state = client.prepare_cached(&statements.stream).await?;
    let row = client.query_opt(&state, &[&stream.as_str()]).await?;
    Ok(row.map(|row| rows::stream(&row)).transpose()?.map(|(_, state)| state).unwrap_or_default())
}

/// The positions between which to look, both excluded; without what only the server knows.
struct Bounds {
    after: Position,
    before: Position,
}

impl Bounds {
    /// `first_later`: the first event that is too late for the moment asked for.
    fn of(read: &Read, first_later: Option<Position>) -> Self {
        let end = Position(i64::MAX as u64);
        let (mut after, mut before) = (Position::START, end);
        if let Start::Beyond(token) = read.start {
            match read.direction {
                Direction::Forwards => after = token.position,
                Direction::Backwards => before = token.position,
            }
        }
        let as_of = match read.as_of {
            None => end,
            Some(AsOf::Position(position)) => Position(position.0.saturating_add(1)),
            Some(AsOf::Time(_)) => first_later.unwrap_or(end),
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
    let first_later = first_later(client, statements, read).await?;
    let bounds = Bounds::of(read, first_later);
    let select = select(statements, read, &bounds);
    let look_out = client.prepare_cached(&statements.look_out).await?;
    let events = client.prepare_cached(&select.text).await?;
    let state = client.prepare_cached(&statements.stream).await?;
    let name = match &read.source {
        Source::Stream(name) => name.as_str(),
        _ => "",
    };
    let name: [&(dyn ToSql + Sync); 1] = [&name];
    let parameters = select.parameters();
    // Events and the stream's state are of one moment, which lies after the one at which it looked out.
    let (horizon, begun, events, state, ended) = tokio::join!(
        biased;
        client.query_one(&look_out, &[]),
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
        client.query(&events, &parameters),
        client.query_opt(&state, &name),
        client.batch_execute("COMMIT"),
    );
    let horizon = Horizon::of(&horizon?)?;
    begun?;
    let events = events?.iter().map(rows::event).collect::<Result<Vec<_>, Fault>>()?;
    let state = state?.map(|row| rows::stream(&row)).transpose()?.map(|(_, state)| state).unwrap_or_default();
    ended?;
    if let Start::Beyond(token) = read.start {
        token.position_in(horizon.log, horizon.safe)?;
    }
    assemble(read, &horizon, &bounds, events, state).map_err(Fault::from)
}

async fn first_later(
    client: &ClientWrapper,
    statements: &Statements,
    read: &Read,
) -> Result<Option<Position>, Fault> {
    let Some(AsOf::Time(time)) = read.as_of else { return Ok(None) };
    let first = client.prepare_cached(&statements.first_after).await?;
    let row = client.query_opt(&first, &[&time.0]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.map(|position| Position(number(position))))
}

/// The statement for a page, and one event more, which tells whether there is a next one.
fn select(statements: &Statements, read: &Read, bounds: &Bounds) -> Sql {
    let mut select = Sql::default();
    select
        .push("SELECT ")
        .push(EVENT)
        .push(" FROM factum.events e JOIN factum.streams s ON s.name = e.stream WHERE ");
    select.push("e.position <= ").push(SAFE);
    select.push(" AND e.position > ").bind(signed(bounds.after.0));
    select.push(" AND e.position < ").bind(signed(bounds.before.0));
    match &read.source {
        Source::All => {}
        Source::Stream(name) => {
            select.push(" AND e.stream = ").bind(name.as_str().to_owned());
        }
        Source::Query(query) => {
            select.push(" AND ").matching(query);
        }
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
    sql::visible(&mut select, NOW);
    // Within a stream, revisions and positions have the same order, and revisions have the better index.
    let column = if matches!(read.source, Source::Stream(_)) { "e.revision" } else { "e.position" };
    let direction = if read.direction == Direction::Forwards { "" } else { " DESC" };
    let limit = signed((read.limit as u64).saturating_add(1));
    select.push(" ORDER BY ").push(column).push(direction).push(" LIMIT ").bind(limit);
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
