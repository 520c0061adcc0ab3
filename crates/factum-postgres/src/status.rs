//! How a store is: for whoever operates it.

use std::time::Duration;

use factum::{LogIdentity, Position, Result, Timestamp, Token};
use tokio_postgres::{Client, Row};

use crate::{
    fault::Fault,
    rows::number,
    schema::{self, in_schema},
};

/// How a store in PostgreSQL is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// Which database and which schema; without a password.
    pub place: String,
    /// The migrations that this program knows, and those that it does not know but that were applied, in their order.
    pub migrations: Vec<Migration>,
    /// The log, unless there is none yet, or the schema is of another version than this program's.
    pub log: Option<LogStatus>,
}

/// A step of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migration {
    /// 1, 2, …
    pub number: u32,
    /// What it brings.
    pub name: String,
    /// When it was applied, if it was.
    pub applied_at: Option<Timestamp>,
    /// Whether this program has it; if not, it is of a newer one.
    pub known: bool,
}

/// How the log is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogStatus {
    /// How far readers see: the last event before which nothing will appear any more.
    pub safe_head: Token,
    /// The last position that was drawn. Beyond [`safe_head`](Self::safe_head) lies what is on its way, or was given up.
    pub drawn: Position,
    /// Those who hold a place of the log while they write, from the one that has held it longest back; the first holds up
    /// what readers see, and the answers of all that follow.
    pub holders: Vec<Holder>,
    /// Connections of stores to this schema, of all processes.
    pub connections: u64,
    /// Whether the server is a standby.
    pub standby: bool,
    /// Whether the log is where its epoch was begun. If not, the next store that is opened begins a new one.
    pub where_it_was: bool,
    /// The epochs that have ended, the last one first.
    pub ended: Vec<EndedEpoch>,
}

/// A transaction that is writing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// It writes beyond this position.
    pub beyond: Position,
    /// The server's process, for `pg_terminate_backend`; none if it is a transaction that was prepared and not ended.
    pub pid: Option<i32>,
    /// How long its transaction has run; none where the role may not see that.
    pub age: Option<Duration>,
}

/// An epoch that has ended: see [`continue_epoch`](crate::PostgresStore::continue_epoch).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndedEpoch {
    /// Which.
    pub log: LogIdentity,
    /// When the next one began.
    pub ended_at: Timestamp,
    /// The last event that was there then.
    pub found: Position,
    /// Up to where it goes on, if somebody has said so.
    pub continued_to: Option<Position>,
}

impl Status {
    /// Whether there is a store, of whichever version.
    pub fn is_begun(&self) -> bool {
        self.migrations.iter().any(|migration| migration.applied_at.is_some())
    }

    /// Whether a store can be opened without a migration.
    pub fn is_up_to_date(&self) -> bool {
        self.migrations.iter().all(|migration| migration.known && migration.applied_at.is_some())
    }
}

/// Of any schema, also of one that is missing.
pub(crate) async fn of(client: &Client, schema: &str, place: &str) -> Result<Status, Fault> {
    let migrations = schema::migrations(client, schema).await?;
    let mut status = Status { place: place.to_owned(), migrations, log: None };
    if status.is_up_to_date() {
        status.log = Some(of_log(client, schema).await?);
    }
    Ok(status)
}

pub(crate) async fn of_log(client: &Client, schema: &str) -> Result<LogStatus, Fault> {
    let sql = |text: &str| in_schema(text, schema);
    let log = sql(
        "SELECT l.log_id, l.epoch, factum.safe_head(), p.last_value, pg_is_in_recovery(), factum.is_where_it_was(),
            (SELECT count(*) FROM pg_stat_activity a WHERE a.datname = current_database() AND a.application_name = $1)
         FROM factum.log l, factum.position p",
    );
    let holders = sql("SELECT factum.fence_position(f.key, p.last_value), f.pid,
            (extract(epoch FROM clock_timestamp() - a.xact_start) * 1000000)::bigint
         FROM factum.position p, factum.fences f LEFT JOIN pg_stat_activity a ON a.pid = f.pid
         ORDER BY 1, a.xact_start");
    let ended = sql(
        "SELECT epoch, (extract(epoch FROM ended_at) * 1000000)::bigint, found, continued_to FROM factum.epochs ORDER BY epoch DESC",
    );
    let row = client.query_one(&log, &[&format!("factum {schema}")]).await?;
    let identity = LogIdentity { log_id: row.try_get(0)?, epoch: number(row.try_get(1)?) };
    let standby: bool = row.try_get(4)?;
    let holders = client.query(&holders, &[]).await?.iter().map(holder).collect::<Result<_, Fault>>()?;
    let ended = client.query(&ended, &[]).await?;
    Ok(LogStatus {
        safe_head: identity.at(Position(number(row.try_get(2)?))),
        drawn: Position(number(row.try_get(3)?)),
        holders,
        connections: number(row.try_get(6)?),
        standby,
        where_it_was: standby || row.try_get(5)?,
        ended: ended.iter().map(|row| ended_epoch(row, identity)).collect::<Result<_, Fault>>()?,
    })
}

fn holder(row: &Row) -> Result<Holder, Fault> {
    let age = row.try_get::<_, Option<i64>>(2)?;
    Ok(Holder {
        beyond: Position(number(row.try_get(0)?)),
        pid: row.try_get(1)?,
        age: age.map(|micros| Duration::from_micros(number(micros))),
    })
}

fn ended_epoch(row: &Row, log: LogIdentity) -> Result<EndedEpoch, Fault> {
    let position = |at| Ok::<_, Fault>(row.try_get::<_, Option<i64>>(at)?.map(|at| Position(number(at))));
    Ok(EndedEpoch {
        log: LogIdentity { epoch: number(row.try_get(0)?), ..log },
        ended_at: Timestamp(row.try_get(1)?),
        found: position(2)?.unwrap_or_default(),
        continued_to: position(3)?,
    })
}
