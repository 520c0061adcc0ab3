//! What is asked of a log in a PostgreSQL database, and of no other.

use std::{fmt::Write as _, ops::ControlFlow};

use clap::{Args, ValueEnum};
use factum::{Position, Timestamp};
use factum_postgres::{EndedEpoch, Holder, LogStatus, Migration, PostgresStore, Status};
use serde_json::{Value, json};

use crate::{
    exit::{Exit, Kind},
    place::{Database, Server, in_runtime, refused},
    show::{count, identity, many},
};

#[derive(Debug, Args)]
pub(crate) struct Look {
    #[command(flatten)]
    database: Database,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// How a status is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Continue {
    #[command(flatten)]
    database: Database,
    /// The epoch that ended, as `factum status` lists it
    #[arg(long, value_name = "EPOCH")]
    epoch: u64,
    /// The last position up to which nothing was lost [default: the last event that was there when the next epoch began]
    #[arg(long, value_name = "POSITION")]
    up_to: Option<u64>,
}

const INSTEAD: &str = "`factum layout DIR` and `factum verify DIR` tell how a log in a directory is";

/// Brings the schema up to date.
pub(crate) fn migrate(database: Database, out: &mut String) -> Result<(), Exit> {
    let server = database.server("a log in a directory needs no migration")?;
    let done =
        in_runtime(async { PostgresStore::migrate(&server.url, &server.options()).await.map_err(refused) })?;
    for Migration { number, name, .. } in &done {
        let _ = writeln!(out, "migration {number}, {name}: applied");
    }
    if done.is_empty() {
        let _ = writeln!(out, "nothing to do: the schema `{}` is up to date", server.schema);
    }
    Ok(())
}

/// Prints how the log is. It ends well if a store can be opened there by this version without a migration.
pub(crate) fn status(look: Look, out: &mut String) -> Result<(), Exit> {
    let server = look.database.server(INSTEAD)?;
    let status = in_runtime(async {
        PostgresStore::status_of(&server.url, &server.options()).await.map_err(refused)
    })?;
    match look.format {
        Format::Text => text(&status, out),
        Format::Json => {
            let _ = writeln!(out, "{:#}", json_of(&status));
        }
    }
    let Status { place, migrations, .. } = &status;
    if !status.is_begun() {
        let sentence =
            format!("there is no log in {place}; `factum migrate` or the program itself makes one");
        return Err(Exit::new(Kind::NotFound, sentence));
    }
    if migrations.iter().any(|migration| !migration.known) {
        let sentence = format!("the log in {place} is of a newer program; use that program's `factum`");
        return Err(Exit::new(Kind::Refused, sentence));
    }
    let missing = migrations.iter().filter(|migration| migration.applied_at.is_none()).count() as u64;
    if missing > 0 {
        let missing = many(missing, "migration", "migrations");
        let sentence = format!("the log in {place} lacks {missing}; `factum migrate` brings it up to date");
        return Err(Exit::new(Kind::Refused, sentence));
    }
    Ok(())
}

/// Removes the contents of what is hidden for good.
pub(crate) fn scavenge(server: &Server, out: &mut String) -> Result<(), Exit> {
    let done = in_runtime(async {
        let store = server.open().await?;
        Ok(store.scavenge(|_| ControlFlow::Continue(())).await?)
    })?;
    let (events, bytes) = (many(done.events, "event", "events"), many(done.bytes, "byte", "bytes"));
    let _ = writeln!(out, "{server}: the contents of {events} are removed, {bytes}");
    if !done.vacuumed {
        let _ = writeln!(
            out,
            "the space can be used again once the table is vacuumed: its owner may, and autovacuum will"
        );
    }
    Ok(())
}

/// Begins an epoch by hand.
pub(crate) fn begin_epoch(database: Database, out: &mut String) -> Result<(), Exit> {
    let server = database.server("a log in a directory begins an epoch when it is restored or repaired")?;
    let head = in_runtime(async { Ok(server.open().await?.begin_epoch().await?) })?;
    let _ = writeln!(out, "{} begins after position {}", identity(head.token.log), head.token.position);
    let _ = writeln!(
        out,
        "what was handed out before is LogRewound now: rebuild what reads the log, or `factum continue-epoch`"
    );
    Ok(())
}

/// Says that nothing was lost when an epoch ended.
pub(crate) fn continue_epoch(asked: Continue, out: &mut String) -> Result<(), Exit> {
    let Continue { database, epoch, up_to } = asked;
    let server = database.server("the epochs of a log in a directory end for good")?;
    let up_to = in_runtime(async {
        let store = server.open().await?;
        Ok(store.continue_epoch(epoch, up_to.map(Position)).await?)
    })?;
    let _ = writeln!(out, "tokens and checkpoints of epoch {epoch} are valid again up to position {up_to}");
    Ok(())
}

fn text(status: &Status, out: &mut String) {
    let _ = writeln!(out, "{}", status.place);
    for Migration { number, name, applied_at, known, .. } in &status.migrations {
        let when = applied_at.map_or("not applied".to_owned(), |at| format!("applied {at}"));
        let newer = if *known { "" } else { ", by a newer program" };
        let _ = writeln!(out, "  migration {number}  {name:<28} {when}{newer}");
    }
    let Some(log) = &status.log else { return };
    let LogStatus { safe_head, drawn, holders, connections, standby, where_it_was, ended, .. } = log;
    let _ = writeln!(out, "{}{}", identity(safe_head.log), if *standby { ", on a standby" } else { "" });
    let _ = writeln!(
        out,
        "  readers see position {}; {} was the last one that was drawn",
        count(safe_head.position.0),
        count(drawn.0)
    );
    let _ = writeln!(out, "  {}, this one among them", many(*connections, "connection", "connections"));
    for Holder { beyond, pid, age, .. } in holders {
        let who = pid.map_or("a prepared transaction".to_owned(), |pid| format!("process {pid}"));
        let age = age.map_or(String::new(), |age| format!(", for {:.1} s", age.as_secs_f64()));
        let _ = writeln!(out, "  {who} writes beyond position {}{age}", count(beyond.0));
    }
    if !where_it_was {
        let _ = writeln!(
            out,
            "  this is not where its epoch was begun: the next program that opens it begins a new one"
        );
    }
    for EndedEpoch { log, ended_at, found, continued_to, .. } in ended {
        let valid = continued_to.map_or("what reads the log must be rebuilt".to_owned(), |to| {
            format!("it goes on up to position {}", count(to.0))
        });
        let _ =
            writeln!(out, "  epoch {} ended {ended_at} at position {}: {valid}", log.epoch, count(found.0));
    }
}

fn json_of(status: &Status) -> Value {
    let time = |at: &Timestamp| at.to_string();
    let migrations: Vec<Value> = status
        .migrations
        .iter()
        .map(|migration| {
            json!({
                "number": migration.number, "name": migration.name, "known": migration.known,
                "applied_at": migration.applied_at.as_ref().map(time),
            })
        })
        .collect();
    let log = status.log.as_ref().map(|log| {
        let holders = log.holders.iter().map(|holder| {
            let age = holder.age.map(|age| age.as_secs_f64());
            json!({ "beyond": holder.beyond, "pid": holder.pid, "age_seconds": age })
        });
        let ended = log.ended.iter().map(|epoch| {
            json!({
                "epoch": epoch.log.epoch, "ended_at": time(&epoch.ended_at), "found": epoch.found,
                "continued_to": epoch.continued_to,
            })
        });
        json!({
            "log_id": log.safe_head.log.log_id, "epoch": log.safe_head.log.epoch,
            "safe_head": log.safe_head.position, "drawn": log.drawn,
            "holders": holders.collect::<Vec<_>>(), "connections": log.connections, "standby": log.standby,
            "where_it_was": log.where_it_was, "ended_epochs": ended.collect::<Vec<_>>(),
        })
    });
    json!({ "place": status.place, "up_to_date": status.is_up_to_date(), "migrations": migrations, "log": log })
}
