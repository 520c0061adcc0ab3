//! Holds: names that one worker has for a while, by the clock of the database.

use std::time::Duration;

use async_trait::async_trait;
use deadpool_postgres::ClientWrapper;
use factum::{
    Error, Outcome, Result,
    reads::{Hold, Holds, LONGEST_HOLD, check_hold},
};
use tokio_postgres::Row;

use super::{Names, PostgresReads};
use crate::fault::Fault;

/// How often a hold is looked at that goes whenever it is in the way.
const LOOKS: u32 = 16;

/// That somebody has a name now. A clock that was put back by more than a hold lasts (or a standby's that took over, which is late)
/// must not make it last for as long as that.
const IN_FORCE: &str = "h.until > clock_timestamp() AND h.until - 2 * h.ttl <= clock_timestamp()";

/// For how long somebody has a name yet, in microseconds.
const LEFT: &str = "greatest(extract(epoch FROM h.until - clock_timestamp()) * 1000000, 0)::bigint";

/// Takes or keeps a name, if nobody else has it, and says whether it was there. A crash of the server may forget it: what is relied
/// on is the lease, so nobody waits for the disk.
fn take_or_keep() -> String {
    format!(
        "WITH mine AS (
            INSERT INTO factum.holds AS h (name, holder, until, ttl)
            VALUES ($1, $2, clock_timestamp() + $3::bigint * interval '1 microsecond', $3::bigint * interval '1 microsecond')
            ON CONFLICT (name) DO UPDATE
            SET holder = excluded.holder, until = clock_timestamp() + excluded.ttl, ttl = excluded.ttl
            WHERE h.holder = excluded.holder OR NOT ({IN_FORCE})
            RETURNING h.xmax::text <> '0' AS was_there
        ) SELECT was_there, set_config('synchronous_commit', 'off', true) FROM mine"
    )
}

/// Names of those who did not come back; never one that somebody is about to take.
fn sweep() -> String {
    format!(
        "DELETE FROM factum.holds WHERE name IN (
            SELECT h.name FROM factum.holds h WHERE NOT ({IN_FORCE}) FOR UPDATE SKIP LOCKED)"
    )
}

async fn hold(
    client: &ClientWrapper,
    names: &Names,
    name: String,
    holder: String,
    ttl: Duration,
) -> Result<Hold, Fault> {
    let micros = i64::try_from(ttl.as_nanos().div_ceil(1000)).unwrap_or(i64::MAX);
    let take = client.prepare_cached(&names.sql(&take_or_keep())).await?;
    let has = format!("SELECT h.name, h.holder, {LEFT} FROM factum.holds h WHERE h.name = $1 AND {IN_FORCE}");
    for _ in 0..LOOKS {
        if let Some(mine) = client.query_opt(&take, &[&name, &holder, &micros]).await? {
            if !mine.try_get::<_, bool>(0)? {
                client.execute(&names.sql(&sweep()), &[]).await?;
            }
            return Ok(Hold { name, holder, left: ttl });
        }
        let has = client.prepare_cached(&names.sql(&has)).await?;
        if let Some(other) = client.query_opt(&has, &[&name]).await? {
            return of(&other);
        }
        // It is over, or was let go, since.
    }
    let why = format!("the hold `{name}` changes hands all the time");
    Err(Error::Unavailable { why, outcome: Outcome::No }.into())
}

fn of(row: &Row) -> Result<Hold, Fault> {
    let left = u64::try_from(row.try_get::<_, i64>(2)?).unwrap_or(0);
    Ok(Hold { name: row.try_get(0)?, holder: row.try_get(1)?, left: Duration::from_micros(left) })
}

#[async_trait]
impl Holds for PostgresReads {
    async fn hold(&self, name: &str, holder: &str, ttl: Duration) -> Result<Hold> {
        check_hold(name, holder)?;
        let (name, holder, ttl) = (name.to_owned(), holder.to_owned(), ttl.min(LONGEST_HOLD));
        self.run(move |names, client| async move { hold(&client, &names, name, holder, ttl).await }).await
    }

    async fn let_go(&self, name: &str, holder: &str) -> Result<()> {
        if check_hold(name, holder).is_err() {
            // Nobody ever had it, and a text of PostgreSQL might not even name it.
            return Ok(());
        }
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.run(move |names, client| async move {
            let let_go = "WITH gone AS (DELETE FROM factum.holds WHERE name = $1 AND holder = $2)
                SELECT set_config('synchronous_commit', 'off', true)";
            client.execute(&names.sql(let_go), &[&name, &holder]).await?;
            Ok::<_, Fault>(())
        })
        .await
    }

    async fn held(&self, prefix: &str) -> Result<Vec<Hold>> {
        if prefix.contains('\0') {
            return Ok(Vec::new());
        }
        let prefix = prefix.to_owned();
        self.run(move |names, client| async move {
            // No pattern: `_` and `%` are letters like others.
            let held = format!(
                "SELECT h.name, h.holder, {LEFT} FROM factum.holds h
                 WHERE starts_with(h.name, $1) AND {IN_FORCE} ORDER BY h.name"
            );
            let held = client.prepare_cached(&names.sql(&held)).await?;
            client.query(&held, &[&prefix]).await?.iter().map(of).collect()
        })
        .await
    }
}
