//! The schema: numbered files, applied once each, in order.

use factum::{Error, Result};
use tokio_postgres::Client;

use crate::fault::Fault;

/// The migrations: they never change once they are published.
const MIGRATIONS: &[(i32, &str, &str)] = &[
    (1, "the event store", include_str!("../sql/migrations/0001_store.sql")),
    (2, "read models and snapshots", include_str!("../sql/migrations/0002_reads.sql")),
];

/// The advisory lock under which one process migrates at a time.
const MIGRATING: i64 = 0x6661_6374_756d;

/// Text of SQL, with the schema's name where the files say `factum`, and the one beside it where they say `factum_reads`.
pub(crate) fn in_schema(sql: &str, schema: &str) -> String {
    if schema == "factum" {
        return sql.to_owned();
    }
    sql.replace("factum.", &format!("\"{schema}\".")).replace("factum_reads", &format!("\"{schema}_reads\""))
}

/// Whether a schema can have this name: it stands in SQL, so only plain words are taken.
///
/// # Errors
/// [`Error::InvalidInput`] saying what a name looks like.
pub(crate) fn check_name(schema: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let well_formed =
        schema.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') && schema.chars().all(plain);
    if well_formed && schema.len() <= 48 && !schema.starts_with("pg_") {
        return Ok(());
    }
    let why = "it must be up to 48 characters of a-z, 0-9 and _, beginning with a letter, and not with `pg_`";
    Err(Error::invalid(format!("the schema's name `{schema}`"), why))
}

/// Brings the schema up to date. One that is newer than this program is refused.
pub(crate) async fn migrate(client: &mut Client, schema: &str) -> Result<(), Fault> {
    if applied(client, schema).await? == last_known() {
        return Ok(());
    }
    let tx = client.transaction().await?;
    tx.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATING]).await?;
    let make = "CREATE SCHEMA IF NOT EXISTS factum_;
        CREATE TABLE IF NOT EXISTS factum.migrations (
            number integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
        );"
    .replace("factum_", &format!("\"{schema}\""));
    tx.batch_execute(&in_schema(&make, schema)).await?;
    let done: i32 = tx
        .query_one(&in_schema("SELECT coalesce(max(number), 0) FROM factum.migrations", schema), &[])
        .await?
        .get(0);
    refuse_newer(schema, done)?;
    for (number, name, sql) in MIGRATIONS.iter().filter(|(number, ..)| *number > done) {
        tx.batch_execute(&in_schema(sql, schema)).await?;
        let note = in_schema("INSERT INTO factum.migrations (number, name) VALUES ($1, $2)", schema);
        tx.execute(&note, &[number, name]).await?;
    }
    // Written by this transaction itself, and by none within it: its id is one of the marks of the place.
    let begin = "INSERT INTO factum.log (log_id, epoch, system_identifier, timeline, database_oid, log_oid, written_by)
        SELECT gen_random_uuid(), 1, h.*, pg_current_xact_id()::text::bigint & 4294967295 FROM factum.here() h
        ON CONFLICT DO NOTHING";
    tx.execute(&in_schema(begin, schema), &[]).await?;
    Ok(tx.commit().await?)
}

/// The last migration that was applied; 0 if there is none.
async fn applied(client: &Client, schema: &str) -> Result<i32, Fault> {
    let table = format!("\"{schema}\".migrations");
    let there: bool = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).await?.get(0);
    if !there {
        return Ok(0);
    }
    let last = in_schema("SELECT coalesce(max(number), 0) FROM factum.migrations", schema);
    let last: i32 = client.query_one(&last, &[]).await?.get(0);
    refuse_newer(schema, last)?;
    Ok(last)
}

/// The last migration that this program knows.
fn last_known() -> i32 {
    MIGRATIONS.last().map_or(0, |(number, ..)| *number)
}

fn refuse_newer(schema: &str, applied: i32) -> Result<(), Fault> {
    let known = last_known();
    if applied <= known {
        return Ok(());
    }
    let what = format!("the schema `{schema}` in PostgreSQL");
    let why =
        format!("it is of a newer program (migration {applied}, this one knows {known}); start that one");
    Err(Error::invalid(what, why).into())
}
