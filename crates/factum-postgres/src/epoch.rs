//! Epochs: history may have been rewound where the log is not where its epoch was begun. A promoted standby may lack the last
//! events, and a restored dump lacks what came after it; positions are then given to other events. So a new epoch begins, and what
//! was handed out in the one before is refused as `LogRewound`, until somebody who knows better says that it goes on.

use factum::{Error, LogIdentity, Outcome, Position, Result, Token, error::LogRewound};
use tokio_postgres::Client;

use crate::{
    fault::Fault,
    rows::{number, signed},
    schema::in_schema,
};

/// Asked of each new connection before it is used: after a failover or a restore all are new. Elsewhere than before, a new epoch
/// begins. The present epoch.
pub(crate) async fn look_around(client: &Client, schema: &str, place: &str) -> Result<u64, Fault> {
    refuse_standby(client, place).await?;
    let look = in_schema("SELECT factum.is_where_it_was(), epoch FROM factum.log", schema);
    let row = match client.query_opt(&look, &[]).await? {
        Some(row) if row.try_get(0)? => row,
        Some(_) => {
            begin(client, schema, false).await?;
            client.query_one(&look, &[]).await?
        }
        None => {
            let why = "its table `log` is empty: restore the schema from a backup";
            return Err(Error::invalid(format!("the schema `{schema}`"), why).into());
        }
    };
    Ok(number(row.try_get(1)?))
}

/// # Errors
/// [`Error::Unavailable`] for a server that cannot be written to.
pub(crate) async fn refuse_standby(client: &Client, place: &str) -> Result<(), Fault> {
    let look = "SELECT pg_is_in_recovery(), current_setting('server_version_num')::integer, current_setting('server_version')";
    let row = client.query_one(look, &[]).await?;
    if row.try_get::<_, i32>(1)? < 150_000 {
        let why = format!("its version is {}; 15 or later is needed", row.try_get::<_, &str>(2)?);
        return Err(Error::invalid(format!("PostgreSQL {place}"), why).into());
    }
    if !row.try_get(0)? {
        return Ok(());
    }
    let why = format!(
        "PostgreSQL {place} is a standby, which only follows another: name the one that it follows, or all of them and `target_session_attrs=read-write`"
    );
    Err(Error::Unavailable { why, outcome: Outcome::No }.into())
}

/// Begins a new epoch: if the log is elsewhere than where the present one was begun, or `anyway`.
pub(crate) async fn begin(client: &Client, schema: &str, anyway: bool) -> Result<(), Fault> {
    client.query_one(&in_schema("SELECT factum.begin_epoch($1)", schema), &[&anyway]).await?;
    Ok(())
}

/// How far it is safe to look in the present epoch, and up to where an epoch that has ended goes on, if it and those after it do.
async fn since(client: &Client, schema: &str, epoch: u64) -> Result<(Token, Option<Position>), Fault> {
    let ask = in_schema(
        "SELECT l.log_id, l.epoch, factum.safe_head(),
            (SELECT CASE WHEN bool_or(e.epoch = $1) AND count(*) = count(e.continued_to) THEN min(e.continued_to) END
             FROM factum.epochs e WHERE e.epoch >= $1)
         FROM factum.log l",
        schema,
    );
    let row = client.query_one(&ask, &[&signed(epoch)]).await?;
    let log = LogIdentity { log_id: row.try_get(0)?, epoch: number(row.try_get(1)?) };
    let continued = row.try_get::<_, Option<i64>>(3)?.map(|position| Position(number(position)));
    Ok((log.at(Position(number(row.try_get(2)?))), continued))
}

/// The same place in the present epoch.
pub(crate) async fn locate(client: &Client, schema: &str, token: Token) -> Result<Token, Fault> {
    let (head, continued) = since(client, schema, token.log.epoch).await?;
    let goes_on = token.log.log_id == head.log.log_id && continued.is_some_and(|to| token.position <= to);
    let here = if goes_on { head.log.at(token.position) } else { token };
    match here.position_in(head.log, head.position) {
        Ok(position) => Ok(head.log.at(position)),
        Err(_) => Err(Error::from(LogRewound { token, log: head.log, head: head.position }).into()),
    }
}

/// The newest of the epochs that go on, and up to where each does: as far as the least of those since.
pub(crate) async fn continued(client: &Client, schema: &str) -> Result<Vec<Token>, Fault> {
    let ask = in_schema(
        "SELECT (SELECT log_id FROM factum.log), e.epoch,
            (SELECT CASE WHEN count(*) = count(f.continued_to) THEN min(f.continued_to) END
             FROM factum.epochs f WHERE f.epoch >= e.epoch)
         FROM factum.epochs e ORDER BY e.epoch DESC LIMIT 16",
        schema,
    );
    let mut continued = Vec::new();
    for row in client.query(&ask, &[]).await? {
        let log = LogIdentity { log_id: row.try_get(0)?, epoch: number(row.try_get(1)?) };
        if let Some(to) = row.try_get::<_, Option<i64>>(2)? {
            continued.push(log.at(Position(number(to))));
        }
    }
    Ok(continued)
}

/// Lets tokens of an epoch that has ended go on to be valid, up to a position: the last event that was found after it, unless said
/// otherwise. Up to which.
pub(crate) async fn carry_on(
    client: &Client,
    schema: &str,
    epoch: u64,
    to: Option<Position>,
) -> Result<Position, Fault> {
    let find = in_schema("SELECT found FROM factum.epochs WHERE epoch = $1", schema);
    let Some(row) = client.query_opt(&find, &[&signed(epoch)]).await? else {
        return Err(Error::NotFound { what: format!("epoch {epoch} among those that have ended") }.into());
    };
    let found = Position(number(row.try_get(0)?));
    let to = to.unwrap_or(found);
    if to > found {
        let why = format!("only events up to {found} were there when the next epoch began");
        return Err(Error::invalid(format!("position {to} as the end of epoch {epoch}"), why).into());
    }
    let set = in_schema("UPDATE factum.epochs SET continued_to = $2 WHERE epoch = $1", schema);
    client.execute(&set, &[&signed(epoch), &signed(to.0)]).await?;
    Ok(to)
}
