//! The schema: numbered files, applied once each, in order.

use factum::{Error, Result, Timestamp};
use tokio_postgres::Client;

use crate::{Migration, fault::Fault};

/// The migrations, numbered from 1 without a gap: they never change once they are published.
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
    if well_formed && schema.len() <= 48 && !schema.starts_with("pg_") && !schema.ends_with("_reads") {
        return Ok(());
    }
    let why = "it must be up to 48 characters of a-z, 0-9 and _, beginning with a letter and not with `pg_`, and not ending with `_reads`";
    Err(Error::invalid(format!("the schema's name `{schema}`"), why))
}

/// Brings the schema up to date, and says which steps that took. One that is newer than this program is refused.
pub(crate) async fn migrate(client: &mut Client, schema: &str) -> Result<Vec<Migration>, Fault> {
    if missing(client, schema).await?.is_empty() {
        return Ok(Vec::new());
    }
    let tx = client.transaction().await?;
    // A step on a large log may take its time.
    tx.batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
        .await?;
    tx.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATING]).await?;
    let make = "CREATE SCHEMA IF NOT EXISTS factum_;
        CREATE TABLE IF NOT EXISTS factum.migrations (
            number integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
        );"
    .replace("factum_", &format!("\"{schema}\""));
    tx.batch_execute(&in_schema(&make, schema)).await?;
    // Another one may have done it meanwhile.
    let missing = missing(tx.client(), schema).await?;
    for step in &missing {
        let (number, name, sql) = MIGRATIONS[step.number as usize - 1];
        tx.batch_execute(&in_schema(sql, schema)).await?;
        let note = in_schema("INSERT INTO factum.migrations (number, name) VALUES ($1, $2)", schema);
        tx.execute(&note, &[&number, &name]).await?;
    }
    // Written by this transaction itself, and by none within it: its id is one of the marks of the place.
    let begin = "INSERT INTO factum.log (log_id, epoch, system_identifier, timeline, database_oid, log_oid, written_by)
        SELECT gen_random_uuid(), 1, h.*, pg_current_xact_id()::xid FROM factum.here() h
        ON CONFLICT DO NOTHING";
    tx.execute(&in_schema(begin, schema), &[]).await?;
    tx.commit().await?;
    Ok(missing)
}

/// # Errors
/// [`Error::InvalidInput`] for a schema that is older or newer than this program.
pub(crate) async fn refuse_unless_up_to_date(client: &Client, schema: &str) -> Result<(), Fault> {
    let missing = missing(client, schema).await?;
    let Some(first) = missing.first() else { return Ok(()) };
    let what = format!("the schema `{schema}` in PostgreSQL");
    let why = format!(
        "it lacks migration {} ({}), and this store was opened without the right to migrate: run `PostgresStore::migrate` with a role that may",
        first.number, first.name
    );
    Err(Error::invalid(what, why).into())
}

/// What this program has and the schema has not.
async fn missing(client: &Client, schema: &str) -> Result<Vec<Migration>, Fault> {
    let mut migrations = migrations(client, schema).await?;
    if let Some(newer) = migrations.iter().rfind(|migration| !migration.known) {
        let what = format!("the schema `{schema}` in PostgreSQL");
        let (applied, known) = (newer.number, MIGRATIONS.len());
        let why =
            format!("it is of a newer program (migration {applied}, this one knows {known}); start that one");
        return Err(Error::invalid(what, why).into());
    }
    migrations.retain(|migration| migration.applied_at.is_none());
    Ok(migrations)
}

/// Those that this program has, and those that were applied.
pub(crate) async fn migrations(client: &Client, schema: &str) -> Result<Vec<Migration>, Fault> {
    let mut migrations: Vec<Migration> = (1..)
        .zip(MIGRATIONS)
        .map(|(number, (_, name, _))| Migration {
            number,
            name: (*name).to_owned(),
            applied_at: None,
            known: true,
        })
        .collect();
    let table = format!("\"{schema}\".migrations");
    let there: bool = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).await?.try_get(0)?;
    if !there {
        return Ok(migrations);
    }
    let applied = "SELECT number, name, (extract(epoch FROM applied_at) * 1000000)::bigint FROM factum.migrations ORDER BY number";
    for row in client.query(&in_schema(applied, schema), &[]).await? {
        let number = u32::try_from(row.try_get::<_, i32>(0)?).unwrap_or_default();
        let applied_at = Some(Timestamp(row.try_get(2)?));
        match migrations.iter_mut().find(|migration| migration.number == number) {
            Some(known) => known.applied_at = applied_at,
            None => migrations.push(Migration { number, name: row.try_get(1)?, applied_at, known: false }),
        }
    }
    Ok(migrations)
}
