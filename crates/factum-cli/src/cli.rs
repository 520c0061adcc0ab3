//! The command line.

use std::{
    fmt::Write as _,
    io::{self, BufWriter, Write as _},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use clap::{Parser, Subcommand, ValueEnum};
use factum::{ContentType, Error, EventStoreExt, Outcome, Position, Read, RecordedEvent};
use factum_log::{Cut, Options, Part, Progress, Scavenge, Scavenging, Verification};

use crate::{
    audit, consumer,
    database::{self, Continue, Look},
    exit::{EXIT_CODES, Exit, Kind},
    place::{Database, Log, Place, Server, in_runtime, only_files},
    progress::Bar,
    show::{count, identity, many, say},
};

/// Findings that `verify` prints, unless it is asked for more.
const PRINTED: usize = 20;

/// Look after the logs of factum, in directories (DIR) and in PostgreSQL databases (URL)
#[derive(Debug, Parser)]
#[command(name = "factum", version, after_help = EXIT_CODES, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Read every byte of a log, or of a backup, and list all that is damaged; changes nothing
    ///
    /// The log may be in use. Checked are segments, frames, events and their order, and the index against the log.
    Verify {
        /// The directory of the log, or of a backup
        dir: PathBuf,
        /// Print every finding, not only the first 20
        #[arg(long)]
        all: bool,
    },
    /// Print files, segments and index, and what opening the log would do; changes nothing
    Layout {
        /// The directory of the log, or of a backup
        dir: PathBuf,
        /// Print every frame of this segment
        #[arg(long, value_name = "SEGMENT")]
        frames: Option<u32>,
        /// How to print it
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Print every event that can be read, as lines of JSON, also of a log that cannot be opened
    ///
    /// In a directory, damage is told on stderr, and what is whole before and after it is printed; so are hidden events that are still on
    /// the disk. From a database, it prints what a reader sees.
    Events(Log),
    /// Print the audit trail of one stream: what happened, when, by whom and why
    ///
    /// Also who truncated, deleted or revived the stream is in it. What is hidden is not: it was to be forgotten (`factum events` prints
    /// what is still on the disk). The log may be in use; what is recorded while this runs may or may not be in it. When an event happened in
    /// the world, if that is another moment, is known to the program alone: the column `happened_at` is empty here.
    #[command(after_long_help = audit::EXAMPLES)]
    Audit(audit::Audit),
    /// Print how a log in a database is; changes nothing
    ///
    /// That is its migrations, how far readers see and who holds that up, and its epochs. Standbys are looked at too. It ends with 0 if a program of this version can open the log without a migration, with 3 if not, and
    /// with 10 if there is none.
    Status(Look),
    /// Make the schema of a log in a database, or bring it up to date
    ///
    /// Programs do that by themselves when they open the log, if their role may. Otherwise do it by this verb with a role that may, before
    /// the program is started. A schema of a newer program is refused.
    Migrate(Database),
    /// Begin a new epoch of a log in a database whose data directory was put back by hand
    ///
    /// Of a promoted standby, a recovery to a point in time, and a dump and restore, programs find that out by themselves. What was handed
    /// out before, tokens and checkpoints of read models, is LogRewound from then on.
    BeginEpoch(Database),
    /// Say that nothing was lost when an epoch ended: its tokens and checkpoints are valid again
    ContinueEpoch(Continue),
    /// Look after a consumer: how far it is, what it has set aside, and what is to become of that
    #[command(after_long_help = consumer::EXAMPLES)]
    Consumer(consumer::Consumer),
    /// Copy a log, also one that is in use; into the same place again, only what is new
    Backup {
        /// The directory of the log
        dir: PathBuf,
        /// The directory of the backup; it is made if it is missing, and must hold nothing else
        dest: PathBuf,
    },
    /// Make a log from a backup; every byte is verified
    ///
    /// The log begins a new epoch: whoever follows it, such as a read model, is told so, and must be rebuilt.
    Restore {
        /// The directory of the backup
        backup: PathBuf,
        /// The directory of the log to be; it must be empty or missing
        dir: PathBuf,
    },
    /// Take back the space of events that are hidden for good: truncated, deleted, or too old
    ///
    /// Positions, revisions and the states of streams stay. In a directory, the log must not be in use: a program that has it open
    /// calls `LogStore::scavenge` instead, while it goes on. In a database, it may be.
    Scavenge {
        #[command(flatten)]
        log: Log,
        /// In a directory, pack a segment if it becomes smaller by so many percent; with 0, wherever anything can be removed at all
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u8).range(0..=100))]
        at_least_percent: u8,
    },
    /// Cut a damaged log before its first damage, and lose what comes after; a backup loses less
    ///
    /// Without --lose-events it only says what it would do. The files that it cuts are kept beside the others.
    ///
    /// The log begins a new epoch: whoever follows it, such as a read model, is told so, and must be rebuilt.
    Repair {
        /// The directory of the log
        dir: PathBuf,
        /// Do it
        #[arg(long)]
        lose_events: bool,
    },
}

/// How a layout is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

impl Cli {
    /// What to say when it is interrupted.
    pub(crate) fn after_interruption(&self) -> &'static str {
        match &self.verb {
            Verb::Verify { .. }
            | Verb::Layout { .. }
            | Verb::Events(_)
            | Verb::Audit(_)
            | Verb::Status(_) => "interrupted; nothing was changed",
            Verb::Consumer(consumer) if consumer.only_looks() => "interrupted; nothing was changed",
            Verb::Consumer(_) => {
                "interrupted; what was asked may be in the log, and to ask for it again does no harm"
            }
            Verb::Migrate(_) | Verb::BeginEpoch(_) | Verb::ContinueEpoch(_) => {
                "interrupted; it was done whole or not at all, and `factum status` tells which"
            }
            Verb::Backup { .. } => {
                "interrupted; the same command goes on, and an earlier backup there is still whole"
            }
            Verb::Restore { .. } => "interrupted; there is no log yet: the same command begins again",
            Verb::Scavenge { .. } => {
                "interrupted; the log is as good as before, and the same command goes on"
            }
            Verb::Repair { lose_events: false, .. } => "interrupted; nothing was changed",
            Verb::Repair { .. } => {
                "interrupted; the log cannot be opened until the same command has finished"
            }
        }
    }

    /// Does what was asked; what there is to print comes to `out`.
    pub(crate) fn run(self, out: &mut String) -> Result<(), Exit> {
        match self.verb {
            Verb::Verify { dir, all } => {
                only_files(
                    "verify",
                    &dir,
                    "a PostgreSQL server checks its own pages: see pg_amcheck and data checksums",
                )?;
                let mut bar = Bar::new("verify");
                let found = factum_log::verify(&dir, |progress| bar.at(progress))?;
                drop(bar);
                verified(&dir.display().to_string(), &found, all, out)
            }
            Verb::Layout { dir, frames, format } => {
                only_files("layout", &dir, "`factum status URL` tells how a database is")?;
                let layout = factum_log::layout(&dir, frames)?;
                match format {
                    Format::Text => *out += &layout.to_string(),
                    Format::Json => {
                        let json = serde_json::to_string_pretty(&layout);
                        *out += &json.map_err(|error| Exit::new(Kind::Other, error.to_string()))?;
                        out.push('\n');
                    }
                }
                Ok(())
            }
            Verb::Events(log) => match log.place()? {
                Place::Directory(dir) => events(&dir),
                Place::Postgres(server) => events_in(&server),
            },
            Verb::Audit(audit) => audit.run(),
            Verb::Status(look) => database::status(look, out),
            Verb::Consumer(consumer) => consumer.run(out),
            Verb::Migrate(database) => database::migrate(database, out),
            Verb::BeginEpoch(database) => database::begin_epoch(database, out),
            Verb::ContinueEpoch(asked) => database::continue_epoch(asked, out),
            Verb::Backup { dir, dest } => backup(&dir, &dest, out),
            Verb::Restore { backup, dir } => restore(&backup, &dir, out),
            Verb::Scavenge { log, at_least_percent } => match log.place()? {
                Place::Directory(dir) => scavenge(&dir, at_least_percent, out),
                Place::Postgres(server) => database::scavenge(&server, out),
            },
            Verb::Repair { dir, lose_events } => {
                only_files("repair", &dir, "of a damaged database, restore a backup")?;
                let mut bar = Bar::new("verify");
                let mut told = |progress| bar.at(progress);
                let cut = if lose_events {
                    factum_log::repair(&dir, &mut told)
                } else {
                    factum_log::plan_repair(&dir, &mut told)
                };
                drop(bar);
                repaired(&cut?, lose_events, out)
            }
        }
    }
}

fn backup(dir: &Path, dest: &Path, out: &mut String) -> Result<(), Exit> {
    let instead = "a database is backed up by PostgreSQL's own pg_dump or pg_basebackup";
    only_files("backup", dir, instead).and_then(|()| only_files("backup", dest, instead))?;
    let mut bar = Bar::new("backup");
    let made = factum_log::backup(dir, dest, |progress| bar.at(progress))?;
    drop(bar);
    let (events, log) = (many(made.events, "event", "events"), identity(made.log));
    let (copied, all) = (count(made.copied_bytes), count(made.bytes));
    let _ = writeln!(out, "{}: {events} of {log}", dest.display());
    let _ = writeln!(out, "{copied} bytes were copied, of {all}");
    Ok(())
}

fn restore(backup: &Path, dir: &Path, out: &mut String) -> Result<(), Exit> {
    let instead = "a database is restored by PostgreSQL's own pg_restore, or from a base backup";
    only_files("restore", backup, instead).and_then(|()| only_files("restore", dir, instead))?;
    let mut bar = Bar::new("restore");
    let restored = factum_log::restore(backup, dir, |progress| bar.at(progress))?;
    drop(bar);
    let events = many(restored.backup.events, "event", "events");
    let _ = writeln!(out, "{}: {events} of {}", dir.display(), identity(restored.log));
    let _ = writeln!(out, "it was epoch {} before: rebuild what reads the log", restored.backup.log.epoch);
    Ok(())
}

fn scavenge(dir: &Path, at_least_percent: u8, out: &mut String) -> Result<(), Exit> {
    // A log that was never begun is not begun by looking for something to remove.
    let store = Options::new(dir).create(false).scrub(0).open()?;
    let mut bar = Bar::of_segments("scavenge");
    let told = move |at: &Scavenging| {
        bar.at(Progress { done: u64::from(at.segment), total: u64::from(at.of) });
        ControlFlow::Continue(())
    };
    let options = Scavenge::default().at_least_percent(at_least_percent);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime =
        runtime.map_err(|error| Exit::new(Kind::Other, format!("cannot start a runtime: {error}")))?;
    let done = runtime.block_on(async {
        let done = store.scavenge(options, told).await;
        store.close().await.and(done)
    })?;
    let _ = writeln!(out, "{}: {done}", dir.display());
    Ok(())
}

/// Prints events as they come: they may be more than fit in memory.
fn events(dir: &Path) -> Result<(), Exit> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut failed = None;
    let salvaged = factum_log::salvage(dir, |event| {
        let line = shown(event).map_err(io::Error::from);
        line.and_then(|line| writeln!(out, "{line}")).map_err(|error| {
            let why = error.to_string();
            failed = Some(error);
            Error::Unavailable { why, outcome: Outcome::No }
        })
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    let findings = salvaged?;
    out.flush()?;
    findings.iter().for_each(say);
    if findings.is_empty() {
        return Ok(());
    }
    let places = many(findings.len() as u64, "place", "places");
    Err(Exit::new(
        Kind::Damaged,
        format!("the log is damaged at {places}; what is printed is what can be read"),
    ))
}

/// The same from a database.
fn events_in(server: &Server) -> Result<(), Exit> {
    let mut out = BufWriter::new(io::stdout());
    in_runtime(async {
        let store = server.open().await?;
        let mut failed = None;
        let read = store.read_pages(Read::all().limit(4096), |page| {
            let line = |event| writeln!(out, "{}", shown(event)?);
            page.events.iter().try_for_each(line).map_err(|error: io::Error| {
                let why = error.to_string();
                failed = Some(error);
                Error::Unavailable { why, outcome: Outcome::No }
            })
        });
        let read = read.await;
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(read?),
        }
    })?;
    Ok(out.flush()?)
}

/// An event as a line of JSON. JSON in it is as it was recorded, to the last digit; other data is text, or hexadecimal.
fn shown(event: &RecordedEvent) -> serde_json::Result<String> {
    let text = |value: &str| serde_json::to_string(value);
    let json = |bytes: &[u8]| {
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok();
        let json = std::str::from_utf8(bytes).ok().filter(|_| is_json);
        // Between tokens, where alone they can be, line breaks mean nothing.
        json.map(|json| json.replace(['\n', '\r'], " "))
    };
    let (name, data) = match (&event.content_type, std::str::from_utf8(&event.data)) {
        (ContentType::Json, Ok(data)) => ("data", json(&event.data).map_or_else(|| text(data), Ok)?),
        (_, Ok(data)) => ("data", text(data)?),
        _ => ("data_hex", text(&event.data.iter().map(|byte| format!("{byte:02x}")).collect::<String>())?),
    };
    let content_type = match &event.content_type {
        ContentType::Json => "application/json",
        ContentType::Bytes => "application/octet-stream",
        ContentType::Other(name) => name,
    };
    let fields = [
        ("position", serde_json::to_string(&event.position)?),
        ("stream", text(&event.stream)?),
        ("revision", serde_json::to_string(&event.revision)?),
        ("recorded_at", serde_json::to_string(&event.recorded_at)?),
        ("id", serde_json::to_string(&event.id)?),
        ("type", text(&event.event_type)?),
        ("content_type", text(content_type)?),
        (name, data),
        ("metadata", json(event.metadata.as_bytes()).unwrap_or_else(|| "{}".to_owned())),
        ("tags", serde_json::to_string(&event.tags.iter().collect::<Vec<_>>())?),
    ];
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    Ok(format!("{{{}}}", fields.join(",")))
}

fn verified(dir: &str, found: &Verification, all: bool, out: &mut String) -> Result<(), Exit> {
    let state = match (found.log_is_damaged(), found.is_sound()) {
        (true, _) => "damaged",
        (false, false) => "no event is lost, but not all is sound",
        (false, true) => "sound",
    };
    let _ = writeln!(out, "{dir}: {state}");
    if let Some(log) = found.log {
        let _ = writeln!(out, "{}{}", identity(log), if found.live { ", in use" } else { "" });
    }
    let _ = writeln!(
        out,
        "{}, {}, {}, {}; {} bytes were looked at",
        many(u64::from(found.segments), "segment", "segments"),
        many(found.frames, "frame", "frames"),
        many(found.events, "event", "events"),
        many(u64::from(found.runs), "file of the index", "files of the index"),
        count(found.bytes),
    );
    if found.torn_bytes > 0 {
        let torn = many(found.torn_bytes, "byte", "bytes");
        let _ = writeln!(
            out,
            "a crash has left {torn} at the end that nobody was promised; opening the log cuts them off"
        );
    }
    let printed = if all { found.findings.len() } else { PRINTED.min(found.findings.len()) };
    for finding in &found.findings[..printed] {
        let _ = writeln!(out, "  {finding}");
    }
    let more = (found.findings.len() - printed) as u64 + found.more_findings;
    if more > 0 {
        let how = if all { "" } else { "; `--all` prints them" };
        let _ = writeln!(out, "  and {} more{how}", count(more));
    }
    for why in &found.unchecked {
        let _ = writeln!(out, "not checked: {why}");
    }
    let of_log = found.findings.iter().filter(|finding| finding.part == Part::Log).count() as u64;
    if found.log_is_damaged() {
        let places = many(of_log, "place", "places");
        return Err(Exit::new(Kind::Damaged, format!("the log is damaged at {places}{}", positions(found))));
    }
    if !found.is_sound() {
        let why =
            "no event is lost; what is damaged is made again when the log is opened, or is used by nothing";
        return Err(Exit::new(Kind::OnlyIndex, why));
    }
    Ok(())
}

/// Between which positions events cannot be read.
fn positions(found: &Verification) -> String {
    match (found.positions().first(), found.positions().iter().map(|(_, last)| last).max()) {
        (Some((Position(first), _)), Some(last)) => {
            format!(
                ", from position {first} to {last}; what is whole there and elsewhere can be read with `factum events`"
            )
        }
        _ => String::new(),
    }
}

fn repaired(cut: &Cut, done: bool, out: &mut String) -> Result<(), Exit> {
    let kept = many(cut.kept_events, "event", "events");
    let lost = many(cut.lost_events, "event", "events");
    let (stay, go) = if done { ("stayed", "are cut off") } else { ("would stay", "would be cut off") };
    let _ = writeln!(out, "{kept} before position {} {stay}", cut.keeps_before);
    for (first, last) in &cut.damaged {
        let _ = writeln!(out, "damaged: positions {first} to {last}");
    }
    let _ = writeln!(out, "{lost} after that can still be read, and {go} all the same");
    for (file, kept) in &cut.files {
        let _ = writeln!(out, "{file} {} kept as {kept}", if done { "is" } else { "would be" });
    }
    if done {
        let _ = writeln!(out, "{}: rebuild what reads the log", identity(cut.log));
        return Ok(());
    }
    let advice = "nothing was changed; restore a backup if there is one, or run it again with --lose-events";
    Err(Exit::new(Kind::Damaged, advice))
}
