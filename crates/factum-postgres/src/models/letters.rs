//! The dead letters of a generation: they change with its checkpoint, and go with it.

use std::collections::BTreeMap;

use deadpool_postgres::{ClientWrapper, Transaction};
use factum::{Error, Position};
use tokio_postgres::types::ToSql;

use super::Names;
use crate::{
    fault::Fault,
    rows::{number, signed},
};

/// Letters, column by column: those to put, and the positions whose letters are to go. Of several at one position the last counts.
#[derive(Debug, Default)]
pub(super) struct Columns {
    positions: Vec<i64>,
    letters: Vec<String>,
    gone: Vec<i64>,
}

impl Columns {
    pub(super) fn of(letters: Vec<(Position, Option<String>)>) -> Result<Self, Fault> {
        let mut columns = Self::default();
        for (Position(at), letter) in letters.into_iter().collect::<BTreeMap<_, _>>() {
            match (i64::try_from(at), letter) {
                (Ok(at), Some(letter)) => {
                    columns.positions.push(at);
                    columns.letters.push(letter);
                }
                (Ok(at), None) => columns.gone.push(at),
                (Err(_), Some(_)) => {
                    let why = "PostgreSQL counts no further than 9223372036854775807";
                    return Err(Error::invalid(format!("a dead letter at position {at}"), why).into());
                }
                // There is none.
                (Err(_), None) => {}
            }
        }
        Ok(columns)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.positions.is_empty() && self.gone.is_empty()
    }

    /// The parameters `$14` to `$16` of [`WRITE`].
    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 3] {
        [&self.positions, &self.letters, &self.gone]
    }
}

/// The parts of a statement that writes [`Columns`] for the model `$5` and its generation `$7` if `moved` has a row, for `WITH`.
pub(super) const WRITE: &str = "written AS (
        INSERT INTO factum.letters AS l (model, generation, position, letter)
        SELECT $5, $7, n.position, n.letter FROM unnest($14::bigint[], $15::text[]) AS n (position, letter)
        WHERE EXISTS (SELECT FROM moved)
        ON CONFLICT (model, generation, position) DO UPDATE SET letter = excluded.letter
    ), taken AS (
        DELETE FROM factum.letters WHERE model = $5 AND generation = $7 AND position = ANY ($16::bigint[])
          AND EXISTS (SELECT FROM moved)
    )";

/// Up to `limit` letters after `after`, in the order of their positions.
pub(super) async fn read(
    client: &ClientWrapper,
    names: &Names,
    model: &str,
    generation: u32,
    after: Position,
    limit: usize,
) -> Result<Vec<(Position, String)>, Fault> {
    let select = "SELECT position, letter FROM factum.letters
        WHERE model = $1 AND generation = $2 AND position > $3 ORDER BY position LIMIT $4";
    let select = client.prepare_cached(&names.sql(select)).await?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = client.query(&select, &[&model, &i64::from(generation), &signed(after.0), &limit]).await?;
    rows.iter().map(|row| Ok((Position(number(row.try_get(0)?)), row.try_get(1)?))).collect()
}

/// Takes all letters of a generation away.
pub(super) async fn drop_all(
    tx: &Transaction<'_>,
    names: &Names,
    model: &str,
    generation: i64,
) -> Result<(), Fault> {
    let drop = names.sql("DELETE FROM factum.letters WHERE model = $1 AND generation = $2");
    tx.execute(&drop, &[&model, &generation]).await?;
    Ok(())
}
