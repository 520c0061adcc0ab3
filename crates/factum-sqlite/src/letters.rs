//! The dead letters of a generation: they change with its checkpoint, and go with it.

use std::collections::BTreeMap;

use factum::{Error, Position};
use rusqlite::{Connection, params};

use crate::fault::Fault;

/// The letters, by the positions of the events that they are about.
pub(crate) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS factum_letters (
        model      TEXT NOT NULL,
        generation INTEGER NOT NULL,
        position   INTEGER NOT NULL,
        letter     TEXT NOT NULL,
        PRIMARY KEY (model, generation, position)
    ) STRICT;
";

/// Letters to put, and positions whose letters are to go.
pub(crate) type Letters = Vec<(Position, Option<String>)>;

/// Puts letters and takes letters away, in the transaction that moves the checkpoint. Of several at one position the last counts.
pub(crate) fn write(tx: &Connection, model: &str, generation: u32, letters: Letters) -> Result<(), Fault> {
    if letters.is_empty() {
        return Ok(());
    }
    let put = "INSERT INTO factum_letters VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (model, generation, position) DO UPDATE SET letter = excluded.letter";
    let take = "DELETE FROM factum_letters WHERE model = ?1 AND generation = ?2 AND position = ?3";
    let (mut put, mut take) = (tx.prepare_cached(put)?, tx.prepare_cached(take)?);
    for (Position(at), letter) in letters.into_iter().collect::<BTreeMap<_, _>>() {
        match (i64::try_from(at), letter) {
            (Ok(at), Some(letter)) => put.execute(params![model, generation, at, letter])?,
            (Ok(at), None) => take.execute(params![model, generation, at])?,
            (Err(_), Some(_)) => {
                let why = "SQLite counts no further than 9223372036854775807";
                return Err(Error::invalid(format!("a dead letter at position {at}"), why).into());
            }
            // There is none.
            (Err(_), None) => 0,
        };
    }
    Ok(())
}

/// Up to `limit` letters after `after`, in the order of their positions.
pub(crate) fn read(
    connection: &Connection,
    model: &str,
    generation: u32,
    after: Position,
    limit: usize,
) -> Result<Vec<(Position, String)>, Fault> {
    let Ok(after) = i64::try_from(after.0) else { return Ok(Vec::new()) };
    let select = "SELECT position, letter FROM factum_letters
        WHERE model = ?1 AND generation = ?2 AND position > ?3 ORDER BY position LIMIT ?4";
    let mut select = connection.prepare_cached(select)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let letter = |row: &rusqlite::Row<'_>| Ok((Position(row.get(0)?), row.get(1)?));
    let letters = select.query_map(params![model, generation, after, limit], letter)?;
    Ok(letters.collect::<rusqlite::Result<_>>()?)
}

/// Takes all letters of a generation away.
pub(crate) fn drop_all(tx: &Connection, model: &str, generation: u32) -> Result<(), Fault> {
    let drop = "DELETE FROM factum_letters WHERE model = ?1 AND generation = ?2";
    tx.execute(drop, params![model, generation])?;
    Ok(())
}
