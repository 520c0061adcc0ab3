//! The rows of a model, as JSON.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::ClientWrapper;
use factum::{
    Error,
    reads::{Lease, Snapshot, Step},
};
use tokio_postgres::{error::SqlState, types::ToSql};

use super::{
    Names,
    catalog::{self, GENERATION, generation},
    letters,
};
use crate::{fault::Fault, json, rows::signed};

/// A row's JSON text, as it was put.
pub(super) const TEXT: &str = "coalesce(t.exact, t.row::text)";

/// Rows, column by column: those to put, and the keys of those to take away. A key stands for its last change.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    keys: Vec<String>,
    rows: Vec<Option<String>>,
    exact: Vec<Option<String>>,
    gone: Vec<String>,
}

impl Columns {
    pub(crate) fn of(rows: Vec<(String, Option<String>)>) -> Result<Self, Fault> {
        let (mut columns, mut seen) = (Self::default(), HashSet::with_capacity(rows.len()));
        for (key, row) in rows.into_iter().rev() {
            if key.contains('\0') {
                let why =
                    "PostgreSQL cannot keep a text with U+0000: the projection must give it another key";
                return Err(Error::invalid(format!("the key {key:?} of a row"), why).into());
            }
            if !seen.insert(key.clone()) {
                continue;
            }
            match row {
                None => columns.gone.push(key),
                Some(row) => {
                    let (row, exact) = match json::kept(row.as_bytes()) {
                        json::Kept::Whole => (Some(row), None),
                        json::Kept::Otherwise => (Some(row.clone()), Some(row)),
                        json::Kept::Never => (None, Some(row)),
                    };
                    columns.keys.push(key);
                    columns.rows.push(row);
                    columns.exact.push(exact);
                }
            }
        }
        Ok(columns)
    }

    /// The parameters `$1` to `$4` of [`write`].
    pub(crate) fn parameters(&self) -> [&(dyn ToSql + Sync); 4] {
        [&self.keys, &self.rows, &self.exact, &self.gone]
    }
}

/// The parts of a statement that writes [`Columns`] to a table, for `WITH`; `only_if` is a condition.
pub(crate) fn write(table: &str, only_if: &str) -> String {
    format!(
        "put AS (
            INSERT INTO {table} AS t (key, row, exact)
            SELECT n.key, n.row::jsonb, n.exact FROM unnest($1::text[], $2::text[], $3::text[]) AS n (key, row, exact)
            WHERE {only_if}
            ON CONFLICT (key) DO UPDATE SET row = excluded.row, exact = excluded.exact
        ), gone AS (
            DELETE FROM {table} WHERE key = ANY ($4::text[]) AND {only_if}
        )"
    )
}

/// Rows, dead letters and checkpoint, in one statement: the lease's row is locked against those who claim the model meanwhile, then the
/// checkpoint moves if it is where it should be, and only if it moved, the others change.
///
/// It does not wait for the disk: a crash of the server can take the last ones back, all of it together, and what was lost
/// is applied again from the log, which is where durability lives.
pub(super) async fn commit(
    client: &ClientWrapper,
    names: &Names,
    lease: &Lease,
    step: Step,
) -> Result<(), Fault> {
    let (number, rows) = (i64::from(step.generation), Columns::of(step.rows)?);
    let letters = letters::Columns::of(step.letters)?;
    let mut write = write(&names.table(&lease.model, number), "EXISTS (SELECT FROM moved)");
    if !letters.is_empty() {
        write = format!("{write}, {}", letters::WRITE);
    }
    let commit = format!(
        "WITH lease AS MATERIALIZED (
            SELECT FROM factum.models WHERE model = $5 AND epoch = $6 FOR SHARE
        ), moved AS (
            UPDATE factum.generations SET log_id = $8, log_epoch = $9, position = $10
            WHERE model = $5 AND generation = $7 AND NOT dropped AND EXISTS (SELECT FROM lease)
              AND log_id IS NOT DISTINCT FROM $11 AND log_epoch IS NOT DISTINCT FROM $12
              AND position IS NOT DISTINCT FROM $13
            RETURNING 1
        ), {write} SELECT count(*), set_config('synchronous_commit', 'off', true) FROM moved"
    );
    let epoch = signed(lease.epoch);
    let (from, to) = (catalog::columns(step.from), catalog::columns(Some(step.to)));
    let [keys, texts, exact, gone] = rows.parameters();
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
        keys,
        texts,
        exact,
        gone,
        &lease.model,
        &epoch,
        &number,
        &to.0,
        &to.1,
        &to.2,
        &from.0,
        &from.1,
        &from.2,
    ];
    if !letters.is_empty() {
        parameters.extend(letters.parameters());
    }
    let committed = async {
        let commit = client.prepare_cached(&names.sql(&commit)).await?;
        client.query_one(&commit, &parameters).await
    };
    let moved = match committed.await {
        Ok(row) => row.try_get::<_, i64>(0)? == 1,
        // The generation has been dropped by somebody who claimed the model.
        Err(error) if is_no_table(&error) => false,
        Err(error) => return Err(Fault::from(error).of_a_change()),
    };
    if moved {
        return Ok(());
    }
    Err(lease.fenced(catalog::epoch(client, names, &lease.model).await?).into())
}

/// A statement for the rows of some keys that are there: each with its key.
pub(crate) fn select(table: &str) -> String {
    format!("SELECT t.key, {TEXT} FROM {table} t WHERE t.key = ANY ($1)")
}

/// The rows of these keys that are there.
pub(crate) async fn rows(
    client: &ClientWrapper,
    table: &str,
    keys: &[String],
) -> Result<HashMap<String, String>, Fault> {
    let keys: Vec<&str> = keys.iter().map(String::as_str).filter(|key| !key.contains('\0')).collect();
    let found = async {
        let select = client.prepare_cached(&select(table)).await?;
        client.query(&select, &[&keys]).await
    };
    match found.await {
        Ok(rows) => rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect(),
        Err(error) if is_no_table(&error) => Ok(HashMap::new()),
        Err(error) => Err(error.into()),
    }
}

/// Which rows readers ask for.
pub(super) enum Which {
    Key(Option<String>),
    /// Up to so many after this key.
    After(Option<String>, i64),
}

/// Rows of the generation that readers see, if it is this one. All is seen at one moment.
pub(super) async fn shown(
    client: &ClientWrapper,
    names: &Names,
    model: &str,
    number: i64,
    which: &Which,
) -> Result<Option<Snapshot>, Fault> {
    let table = names.table(model, number);
    let (some, mut parameters) = match which {
        Which::Key(key) => ("WHERE t.key = $2", vec![key as &(dyn ToSql + Sync)]),
        Which::After(None, limit) => ("ORDER BY t.key LIMIT $2", vec![limit as _]),
        Which::After(Some(after), limit) => {
            ("WHERE t.key > $2 ORDER BY t.key LIMIT $3", vec![after as _, limit as _])
        }
    };
    let select = format!(
        "SELECT {GENERATION}, r.key, r.text
         FROM factum.models m JOIN factum.generations g ON g.model = m.model AND g.generation = m.active
         LEFT JOIN LATERAL (SELECT t.key, {TEXT} AS text FROM {table} t {some}) r ON true
         WHERE m.model = $1 ORDER BY r.key"
    );
    parameters.insert(0, &model);
    let found = async {
        let select = client.prepare_cached(&names.sql(&select)).await?;
        client.query(&select, &parameters).await
    };
    let found = match found.await {
        Ok(found) => found,
        Err(error) if is_no_table(&error) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut snapshot = Snapshot::default();
    for row in found {
        snapshot.generation = generation(&row)?;
        if let (Some(key), Some(text)) = (row.try_get(5)?, row.try_get(6)?) {
            snapshot.rows.push((key, text));
        }
    }
    Ok(Some(snapshot).filter(|shown| shown.generation.is_some_and(|shown| i64::from(shown.number) == number)))
}

pub(super) fn is_no_table(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::UNDEFINED_TABLE)
}
