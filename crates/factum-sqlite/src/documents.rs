//! One row per key, as JSON.

use async_trait::async_trait;
use factum::{
    Result, Token,
    projection::{Attached, Generation, JsonRow, Place, ReadStore},
};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::file::{self, Sqlite, table};

/// Points the view of a read model's name to a generation.
fn show(db: &Transaction<'_>, name: &str, generation: u64) -> rusqlite::Result<()> {
    let table = table(name, generation);
    db.execute_batch(&format!(
        "DROP VIEW IF EXISTS {name}; CREATE VIEW {name} AS SELECT key, row FROM {table};"
    ))
}

/// Runs `work` on the table of the active generation. A switch may come between looking for it and reading it: then it is looked
/// for again.
fn in_active<T>(
    db: &Connection,
    name: &str,
    none: T,
    work: impl Fn(&str) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    loop {
        let Some(generation) = file::active(db, name)? else { return Ok(none) };
        match work(&table(name, generation)) {
            Err(_) if file::active(db, name)? != Some(generation) => {}
            result => return result,
        }
    }
}

#[async_trait]
impl ReadStore for Sqlite {
    async fn attach(&self, name: &str) -> Result<Attached> {
        let name = name.to_owned();
        self.blocking(move |own| own.write(|db| file::attach(db, &name))).await
    }

    async fn begin(&self, name: &str, epoch: u64, version: u32) -> Result<Generation> {
        let name = name.to_owned();
        let begin = move |own: &Self| {
            own.write(|db| {
                let (generation, replaced) = file::begin(db, &name, epoch, version)?;
                let new = table(&name, generation.number);
                db.execute_batch(&format!(
                    "CREATE TABLE {new} (key TEXT PRIMARY KEY, row TEXT NOT NULL) STRICT, WITHOUT ROWID;"
                ))?;
                if let Some(replaced) = replaced {
                    db.execute_batch(&format!("DROP TABLE IF EXISTS {};", table(&name, replaced)))?;
                }
                if file::active(db, &name)? == Some(generation.number) {
                    show(db, &name, generation.number)?;
                }
                Ok(generation)
            })
        };
        self.blocking(begin).await
    }

    async fn rows(&self, place: Place<'_>, keys: &[String]) -> Result<Vec<Option<String>>> {
        let (table, keys) = (table(place.name, place.generation), keys.to_vec());
        let rows = move |own: &Self| {
            own.read(|db| {
                let mut select = db.prepare_cached(&format!("SELECT row FROM {table} WHERE key = ?1"))?;
                keys.iter().map(|key| select.query_row([key], |row| row.get(0)).optional()).collect()
            })
        };
        self.blocking(rows).await
    }

    async fn change(
        &self,
        place: Place<'_>,
        from: Option<Token>,
        to: Token,
        rows: Vec<(String, Option<String>)>,
    ) -> Result<()> {
        let name = place.name.to_owned();
        let (epoch, generation) = (place.epoch, place.generation);
        let change = move |own: &Self| {
            own.write(|db| {
                file::move_checkpoint(db, Place { name: &name, epoch, generation }, from, to)?;
                let table = table(&name, generation);
                let mut put =
                    db.prepare_cached(&format!("INSERT OR REPLACE INTO {table} (key, row) VALUES (?1, ?2)"))?;
                let mut remove = db.prepare_cached(&format!("DELETE FROM {table} WHERE key = ?1"))?;
                for (key, row) in &rows {
                    match row {
                        Some(row) => put.execute(params![key, row])?,
                        None => remove.execute([key])?,
                    };
                }
                Ok(())
            })
        };
        self.blocking(change).await
    }

    async fn activate(&self, place: Place<'_>) -> Result<()> {
        let name = place.name.to_owned();
        let (epoch, generation) = (place.epoch, place.generation);
        let activate = move |own: &Self| {
            own.write(|db| {
                let old = file::activate(db, Place { name: &name, epoch, generation })?;
                show(db, &name, generation)?;
                if let Some(old) = old {
                    db.execute_batch(&format!("DROP TABLE IF EXISTS {};", table(&name, old)))?;
                }
                Ok(())
            })
        };
        self.blocking(activate).await
    }

    async fn get(&self, name: &str, key: &str) -> Result<Option<String>> {
        let (name, key) = (name.to_owned(), key.to_owned());
        let get = move |own: &Self| {
            own.read(|db| {
                in_active(db, &name, None, |table| {
                    let mut select = db.prepare_cached(&format!("SELECT row FROM {table} WHERE key = ?1"))?;
                    select.query_row([&key], |row| row.get(0)).optional()
                })
            })
        };
        self.blocking(get).await
    }

    async fn page(&self, name: &str, beyond: Option<&str>, limit: usize) -> Result<Vec<JsonRow>> {
        let (name, beyond) = (name.to_owned(), beyond.map(ToOwned::to_owned));
        let page = move |own: &Self| {
            own.read(|db| {
                in_active(db, &name, Vec::new(), |table| {
                    let sql = format!(
                        "SELECT key, row FROM {table} WHERE ?1 IS NULL OR key > ?1 ORDER BY key LIMIT ?2"
                    );
                    let mut select = db.prepare_cached(&sql)?;
                    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
                    let rows =
                        select.query_map(params![beyond, limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
                    rows.collect()
                })
            })
        };
        self.blocking(page).await
    }
}
