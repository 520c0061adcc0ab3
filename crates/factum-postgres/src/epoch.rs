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
/// begins.
pub(crate) async fn look_around(client: &Client, schema: &str) -> Result<(), Fault> {
    let look = "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN true ELSE factum.is_where_it_was() END";
    let row = client.query_one(&in_schema(look, schema), &[]).await?;
    if row.try_get(0)? {
        return Err(standby());
    }
    match row.try_get::<_, Option<bool>>(1)? {
        Some(true) => Ok(()),
        Some(false) => begin(client, schema, false).await,
        None => {
            let why = "its table `log` is empty: restore the schema from a backup".to_owned();
            Err(Error::Unavailable { why, outcome: Outcome::No }.into())
        }
    }
}

/// What is said of a server that cannot be written to.
pub(crate) fn standby() -> Fault {
    let why = "this server is a standby, which only follows another; name the one that it follows, or all of them with `target_session_attrs=read-write`";
    Error::Unavailable { why: why.to_owned(), outcome: Outcome::No }.into()
}

/// Begins a new epoch: if the log is elsewhere than where the present one was begun, or `anyway`.
pub(crate) async fn begin(client: &Client, schema: &str, anyway: bool) -> Result<(), Fault> {
    client.query_one(&in_schema("SELECT factum.begin_epoch($1)", schema), &[&anyway]).await?;
    Ok(())
}

/// The present epoch, how far it is safe to look, and the least position up to which the epochs since `token`'s go on, if they do.
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
