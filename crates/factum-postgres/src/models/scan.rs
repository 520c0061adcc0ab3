//! Reading a whole model at one moment, page by page.

use std::sync::Arc;

use async_trait::async_trait;
use deadpool_postgres::ClientWrapper;
use factum::{
    Error, LogIdentity, Outcome, Position, Result, Token,
    reads::{Generation, PAGE, Pages, Scan},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Duration, timeout},
};

use super::{
    Inner, Names, PostgresReads, Source,
    catalog::with_inline,
    rows::{TEXT, is_no_table},
};
use crate::{fault::Fault, rows::number};

/// How long one more waits until one of those who read has ended: they may all be left lying by the one that waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a moment begins: on a connection that has it for itself, until it goes.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A cursor, on the connection that it is on.
struct Cursor {
    inner: Arc<Inner>,
    name: String,
    on: On,
    ended: bool,
}

enum On {
    /// One of its own, in a transaction; it is closed with this.
    Own(ClientWrapper, #[expect(dead_code, reason = "held for as long as it is open")] OwnedSemaphorePermit),
    /// That of the temporary tables. The server has copied the rows.
    Shared,
    /// There is no generation to read.
    Nothing,
}

pub(super) async fn scan(reads: &PostgresReads, model: &str) -> Result<Scan> {
    let inner = &reads.inner;
    match &inner.source {
        Source::Pool(_) => {
            let permit = permit(&inner.scans, &inner.place).await?;
            on_its_own(inner, model, inner.alone().await?, permit).await
        }
        Source::One(client) => {
            let (name, client) = (a_name(), client.lock().await);
            let shown = declare(&client, &inner.names, model, &name, "WITH HOLD", None).await;
            let shown = shown.map_err(|fault| fault.explain(&inner.place))?.unwrap_or_default();
            let on = if shown.is_some() { On::Shared } else { On::Nothing };
            Ok(Scan::new(shown, Cursor { inner: inner.clone(), name, on, ended: false }))
        }
    }
}

/// The rows of a moment at which no append is on its way: those that are, are waited for so long.
pub(super) async fn settled(reads: &PostgresReads, model: &str, patience: &str) -> Result<Scan> {
    let inner = &reads.inner;
    let permit = permit(&inner.scans, &inner.place).await?;
    // Both before appends are held up, which may then have all of the pool's connections.
    let (mut gate, client) = (inner.alone().await?, inner.alone().await?);
    let explained = |fault: Fault| fault.explain(&inner.place);
    let held_up = async {
        let held_up = gate.transaction().await?;
        held_up.query(&inner.names.sql("SELECT factum.keep_appends_off($1)"), &[&patience]).await?;
        Ok(held_up)
    };
    let held_up = held_up.await.map_err(explained)?;
    let scan = on_its_own(inner, model, client, permit).await;
    held_up.rollback().await.map_err(|error| explained(error.into()))?;
    scan
}

/// Reads on a connection that nobody else has.
async fn on_its_own(
    inner: &Arc<Inner>,
    model: &str,
    client: ClientWrapper,
    permit: OwnedSemaphorePermit,
) -> Result<Scan> {
    let name = a_name();
    let opened = async {
        for _ in 0..super::READINGS {
            let begun = begin(&client, &inner.names).await?;
            // Where the table was dropped after the moment at which it was shown, a later moment is looked at.
            if let Some(shown) = declare(&client, &inner.names, model, &name, "", Some(begun)).await? {
                return Ok::<_, Fault>(shown);
            }
            client.batch_execute("ROLLBACK").await?;
        }
        Err(super::dropped(model).into())
    };
    let shown = opened.await.map_err(|fault| fault.explain(&inner.place))?;
    let on = if shown.is_some() { On::Own(client, permit) } else { On::Nothing };
    Ok(Scan::new(shown, Cursor { inner: inner.clone(), name, on, ended: false }))
}

/// Two that read the same connection have a cursor each.
fn a_name() -> String {
    format!("scan_{}", fastrand::u64(..))
}

/// Begins a moment, and tells up to where nothing of the log is on its way any more: what an inline model has in it for sure.
async fn begin(client: &ClientWrapper, names: &Names) -> Result<Token, Fault> {
    let safe = names.sql("SELECT log_id, epoch, factum.safe_head() FROM factum.log");
    let row = client.query_one(&safe, &[]).await?;
    client.batch_execute(BEGIN).await?;
    let log = LogIdentity { log_id: row.try_get(0)?, epoch: number(row.try_get(1)?) };
    Ok(log.at(Position(number(row.try_get(2)?))))
}

/// The generation that readers see, if there is one, with a cursor on its rows. `None`: its table has gone meanwhile.
async fn declare(
    client: &ClientWrapper,
    names: &Names,
    model: &str,
    name: &str,
    hold: &str,
    safe: Option<Token>,
) -> Result<Option<Option<Generation>>, Fault> {
    let (catalog, inline) = with_inline(client, names, model).await?;
    let Some(mut active) = catalog.active else { return Ok(Some(None)) };
    if inline {
        active.checkpoint = safe;
    }
    let table = names.table(model, active.number.into());
    let declare = format!(
        "DECLARE {name} NO SCROLL CURSOR {hold} FOR SELECT t.key, {TEXT} FROM {table} t ORDER BY t.key"
    );
    match client.batch_execute(&declare).await {
        Ok(()) => Ok(Some(Some(active))),
        Err(error) if is_no_table(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The right to read one more.
async fn permit(scans: &Arc<Semaphore>, place: &str) -> Result<OwnedSemaphorePermit> {
    if let Ok(Ok(permit)) = timeout(PATIENCE, scans.clone().acquire_owned()).await {
        return Ok(permit);
    }
    let why = format!(
        "{} readings of whole models in PostgreSQL {place} are begun and not at their end: read them to the end, or drop them",
        super::SCANS
    );
    Err(Error::Unavailable { why, outcome: Outcome::No })
}

#[async_trait]
impl Pages for Cursor {
    async fn next(&mut self) -> Result<Vec<(String, String)>> {
        if self.ended {
            return Ok(Vec::new());
        }
        let fetch = format!("FETCH FORWARD {PAGE} FROM {}", self.name);
        let fetched = match (&self.on, &self.inner.source) {
            (On::Own(client, _), _) => client.query(&fetch, &[]).await,
            (On::Shared, Source::One(client)) => client.lock().await.query(&fetch, &[]).await,
            _ => Ok(Vec::new()),
        };
        let rows = fetched.and_then(|rows| {
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<Vec<_>, _>>()
        });
        let rows = rows.map_err(|error| Fault::from(error).explain(&self.inner.place))?;
        if rows.len() < PAGE {
            // Nobody waits for the end of its moment any longer.
            self.ended = true;
            self.on = On::Nothing;
        }
        Ok(rows)
    }
}
