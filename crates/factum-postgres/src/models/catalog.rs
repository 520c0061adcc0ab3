//! Which generations a model has, and who may change them.

use deadpool_postgres::{ClientWrapper, Transaction};
use factum::{
    Error, LogIdentity, Position,
    reads::{Catalog, Generation, Lease},
};
use tokio_postgres::{Row, error::SqlState};

use super::{Names, letters};
use crate::{
    fault::Fault,
    rows::{number, signed},
};

/// How long the switch of a view waits for those who read it: others who come to read it wait as long.
const SWITCHING: &str = "SET LOCAL lock_timeout = '2s'";
/// How long the dropping of a table waits for those who read it, before it is left for later.
const DROPPING: &str = "SET LOCAL lock_timeout = '200ms'";

/// The columns that [`generation`] reads.
pub(super) const GENERATION: &str = "g.generation, g.version, g.log_id, g.log_epoch, g.position";

/// The generation that a row begins with; `None` if there is none in it.
pub(super) fn generation(row: &Row) -> Result<Option<Generation>, Fault> {
    let Some(generation) = row.try_get::<_, Option<i64>>(0)? else { return Ok(None) };
    let (log_id, epoch, position) = (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
    let checkpoint = match (log_id, epoch, position) {
        (Some(log_id), Some(epoch), Some(position)) => {
            Some(LogIdentity { log_id, epoch: number(epoch) }.at(Position(number(position))))
        }
        _ => None,
    };
    Ok(Some(Generation { number: count(generation), version: count(row.try_get(1)?), checkpoint }))
}

fn count(value: i64) -> u32 {
    u32::try_from(value).unwrap_or_default()
}

pub(super) async fn catalog(client: &ClientWrapper, names: &Names, model: &str) -> Result<Catalog, Fault> {
    Ok(with_inline(client, names, model).await?.0)
}

/// The catalog, and whether the model changes in the transactions of appends.
pub(crate) async fn with_inline(
    client: &ClientWrapper,
    names: &Names,
    model: &str,
) -> Result<(Catalog, bool), Fault> {
    let select = format!(
        "SELECT {GENERATION}, m.epoch, m.active, m.inline FROM factum.models m
         LEFT JOIN factum.generations g ON g.model = m.model AND g.generation IN (m.active, m.building)
         WHERE m.model = $1"
    );
    let select = client.prepare_cached(&names.sql(&select)).await?;
    let (mut catalog, mut inline) = (Catalog::default(), false);
    for row in client.query(&select, &[&model]).await? {
        catalog.epoch = number(row.try_get(5)?);
        inline = row.try_get(7)?;
        let is_active = row.try_get::<_, Option<i64>>(0)? == row.try_get(6)?;
        match generation(&row)? {
            Some(generation) if is_active => catalog.active = Some(generation),
            building => catalog.building = building,
        }
    }
    Ok((catalog, inline))
}

pub(super) async fn claim(client: &ClientWrapper, names: &Names, model: &str) -> Result<Lease, Fault> {
    let claim = "INSERT INTO factum.models AS m (model, epoch) VALUES ($1, 1)
        ON CONFLICT (model) DO UPDATE SET epoch = m.epoch + 1 WHERE NOT m.inline RETURNING epoch";
    match client.query_opt(&names.sql(claim), &[&model]).await? {
        Some(row) => Ok(Lease { model: model.to_owned(), epoch: number(row.try_get(0)?) }),
        None => {
            let why = "it is kept inline, in the appends' own transactions: nobody else can keep it, unless that is switched off";
            Err(Error::invalid(format!("the read model `{model}`"), why).into())
        }
    }
}

/// Claims a model also if it is kept inline.
pub(super) async fn take_over(client: &ClientWrapper, names: &Names, model: &str) -> Result<Lease, Fault> {
    let claim = "INSERT INTO factum.models AS m (model, epoch) VALUES ($1, 1)
        ON CONFLICT (model) DO UPDATE SET epoch = m.epoch + 1 RETURNING epoch";
    let row = client.query_one(&names.sql(claim), &[&model]).await?;
    Ok(Lease { model: model.to_owned(), epoch: number(row.try_get(0)?) })
}

/// A model that is locked, as it is.
struct Locked {
    active: Option<i64>,
    building: Option<i64>,
}

/// Locks a model for a change, if the lease is in force.
async fn lock(tx: &Transaction<'_>, names: &Names, lease: &Lease) -> Result<Locked, Fault> {
    let lock = names.sql("SELECT epoch, active, building FROM factum.models WHERE model = $1 FOR UPDATE");
    let row = tx.query_opt(&lock, &[&lease.model]).await?;
    let epoch = row.as_ref().map(|row| row.try_get(0)).transpose()?.map_or(0, number);
    match row {
        Some(row) if epoch == lease.epoch => {
            Ok(Locked { active: row.try_get(1)?, building: row.try_get(2)? })
        }
        _ => Err(lease.fenced(epoch).into()),
    }
}

pub(super) async fn create(
    client: &mut ClientWrapper,
    names: &Names,
    lease: &Lease,
    version: u32,
) -> Result<Generation, Fault> {
    let mut tx = client.transaction().await?;
    let model = lock(&tx, names, lease).await?;
    leave(&mut tx, names, lease, model.building).await?;
    let next = "UPDATE factum.models SET created = created + 1, building = created + 1 WHERE model = $1 RETURNING building";
    let number: i64 = tx.query_one(&names.sql(next), &[&lease.model]).await?.try_get(0)?;
    let insert = "INSERT INTO factum.generations (model, generation, version) VALUES ($1, $2, $3)";
    tx.execute(&names.sql(insert), &[&lease.model, &number, &i64::from(version)]).await?;
    let table = names.table(&lease.model, number);
    let columns = "(key text COLLATE \"C\" PRIMARY KEY, row jsonb, exact text)";
    tx.batch_execute(&format!("CREATE TABLE {table} {columns}")).await?;
    tx.commit().await?;
    sweep(client, names, &lease.model).await?;
    Ok(Generation { number: count(number), version, checkpoint: None })
}

pub(super) async fn discard(client: &mut ClientWrapper, names: &Names, lease: &Lease) -> Result<(), Fault> {
    let mut tx = client.transaction().await?;
    let model = lock(&tx, names, lease).await?;
    tx.execute(&names.sql("UPDATE factum.models SET building = NULL WHERE model = $1"), &[&lease.model])
        .await?;
    leave(&mut tx, names, lease, model.building).await?;
    Ok(tx.commit().await?)
}

pub(super) async fn activate(
    client: &mut ClientWrapper,
    names: &Names,
    lease: &Lease,
    number: i64,
) -> Result<(), Fault> {
    let mut tx = client.transaction().await?;
    let model = lock(&tx, names, lease).await?;
    show(&mut tx, names, lease, &model, number).await?;
    Ok(tx.commit().await?)
}

/// Has a generation, shown or not, change in the transactions of appends from now on, in the one that holds them up.
pub(crate) async fn make_inline(
    tx: &mut Transaction<'_>,
    names: &Names,
    lease: &Lease,
    number: i64,
) -> Result<(), Fault> {
    let model = lock(tx, names, lease).await?;
    if model.active != Some(number) {
        show(tx, names, lease, &model, number).await?;
    }
    // Whoever has kept it until now is fenced.
    let inline = "UPDATE factum.models SET inline = true, epoch = epoch + 1 WHERE model = $1";
    tx.execute(&names.sql(inline), &[&lease.model]).await?;
    Ok(())
}

/// Puts a generation that is being built in the place of the one that is shown.
async fn show(
    tx: &mut Transaction<'_>,
    names: &Names,
    lease: &Lease,
    model: &Locked,
    number: i64,
) -> Result<(), Fault> {
    if model.building != Some(number) {
        let what = format!("generation {number} of `{}` to activate", lease.model);
        return Err(Error::NotFound { what }.into());
    }
    let (view, table) =
        (names.sql(&format!("factum_reads.\"{}\"", lease.model)), names.table(&lease.model, number));
    let temporary = if matches!(names, Names::Temporary) { "TEMPORARY" } else { "" };
    // Replaced and not made anew: who may read it still may.
    let show = format!(
        "{SWITCHING}; CREATE OR REPLACE {temporary} VIEW {view} AS SELECT key, row, exact FROM {table}"
    );
    tx.batch_execute(&show).await?;
    let switch = "UPDATE factum.models SET active = building, building = NULL WHERE model = $1";
    tx.execute(&names.sql(switch), &[&lease.model]).await?;
    leave(tx, names, lease, model.active).await
}

/// Drops a generation; or leaves it to be dropped, if somebody still reads it whole: who reads an old moment holds up nobody.
async fn leave(
    tx: &mut Transaction<'_>,
    names: &Names,
    lease: &Lease,
    number: Option<i64>,
) -> Result<(), Fault> {
    let Some(number) = number else { return Ok(()) };
    letters::drop_all(tx, names, &lease.model, number).await?;
    let attempt = tx.savepoint("dropping").await?;
    if try_drop(&attempt, names, &lease.model, number).await? {
        attempt.commit().await?;
    } else {
        attempt.rollback().await?;
        let drop = "UPDATE factum.generations SET dropped = true WHERE model = $1 AND generation = $2";
        tx.execute(&names.sql(drop), &[&lease.model, &number]).await?;
    }
    Ok(())
}

/// Drops the tables that were left for it, except for those that somebody still reads.
async fn sweep(client: &mut ClientWrapper, names: &Names, model: &str) -> Result<(), Fault> {
    let left = names.sql("SELECT generation FROM factum.generations WHERE model = $1 AND dropped");
    for row in client.query(&left, &[&model]).await? {
        let tx = client.transaction().await?;
        if try_drop(&tx, names, model, row.try_get(0)?).await? {
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
    }
    Ok(())
}

/// Whether a generation and its table could be dropped. If not, the transaction has failed.
async fn try_drop(tx: &Transaction<'_>, names: &Names, model: &str, number: i64) -> Result<bool, Fault> {
    let drop = format!("{DROPPING}; DROP TABLE IF EXISTS {}", names.table(model, number));
    match tx.batch_execute(&drop).await {
        Ok(()) => {
            let forget = "DELETE FROM factum.generations WHERE model = $1 AND generation = $2";
            tx.execute(&names.sql(forget), &[&model, &number]).await?;
            Ok(true)
        }
        // Somebody reads it, or has built something upon it.
        Err(error) if is_in_use(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_in_use(error: &tokio_postgres::Error) -> bool {
    let in_use = [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::DEPENDENT_OBJECTS_STILL_EXIST,
        SqlState::OBJECT_IN_USE,
    ];
    error.code().is_some_and(|code| in_use.contains(code))
}

/// The epoch of the lease in force.
pub(super) async fn epoch(client: &ClientWrapper, names: &Names, model: &str) -> Result<u64, Fault> {
    let epoch = names.sql("SELECT epoch FROM factum.models WHERE model = $1");
    let row = client.query_opt(&epoch, &[&model]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.map_or(0, number))
}

/// A checkpoint as columns.
pub(super) fn columns(checkpoint: Option<factum::Token>) -> (Option<uuid::Uuid>, Option<i64>, Option<i64>) {
    let token = checkpoint;
    (
        token.map(|token| token.log.log_id),
        token.map(|token| signed(token.log.epoch)),
        token.map(|token| signed(token.position.0)),
    )
}
