//! The audit trail of a stream, straight from the files of a log, or from a database.

use std::{
    fmt::Write as _,
    io::{self, BufWriter, Write as _},
};

use clap::{Args, ValueEnum};
use factum::{
    Clock, Error, EventStore, Factum, RecordedEvent, Revision, StreamName, StreamState, SystemClock,
    Timestamp,
    audit::{Entry, csv_header},
    name::METADATA_PREFIX,
    stream::LifeChange,
};

use crate::{
    exit::{Exit, Kind},
    place::{Log, Place, Server, in_runtime},
    show::{many, say},
};

/// What `--help` ends with.
pub(crate) const EXAMPLES: &str = "\
Examples:
  Everything that happened to account 17, for people:
      factum audit data account-17

  The first quarter, for the auditor's spreadsheet:
      factum audit data account-17 --since 2026-01-01T00:00:00Z --until 2026-03-31T23:59:59Z --format csv > account-17.csv

  What ada did, exactly as it was recorded, for a program:
      factum audit data account-17 --actor ada --format json-lines | jq -c '{revision, type, data}'

  Everything of one flow of work, in this stream:
      factum audit data account-17 --correlation 01a1fe43-422e-70da-965d-5af05e1c2ca0

A stream is named as the program names it: the category, `-`, and the id. To see which there are:
      factum events data | jq -r .stream | sort -u

  Of a log in PostgreSQL:
      factum audit postgres://auditor@db.example/bank account-17";

#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(flatten)]
    log: Log,
    /// The name of the stream, such as account-17
    stream: String,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Only what was recorded at this moment or later, such as 2026-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Only what was recorded at this moment or before
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Only what this actor did
    #[arg(long)]
    actor: Option<String>,
    /// Only what belongs to this flow of work
    #[arg(long, value_name = "ID")]
    correlation: Option<String>,
}

/// How a trail is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people: a line for each entry
    Text,
    /// For programs: one JSON object in a line, with data and metadata exactly as they were recorded
    JsonLines,
    /// For spreadsheets: CSV with a line of names first; cells that would be formulas begin with a '
    Csv,
}

impl Audit {
    /// Prints the trail. Damage of a log in files is told, and what is whole before and after it is printed.
    pub(crate) fn run(mut self) -> Result<(), Exit> {
        let stream = StreamName::new(self.stream.clone())?;
        let place = std::mem::take(&mut self.log).place()?;
        let (found, findings) = match &place {
            Place::Directory(dir) => {
                let mut story = Story::of(stream);
                let findings = factum_log::salvage(dir, |event| story.take(event))?;
                let entries = story.visible().into_iter().map(Entry::of).collect();
                (Some(entries).filter(|_| !story.records.is_empty()), findings)
            }
            Place::Postgres(server) => (from_database(server, &stream)?, Vec::new()),
        };
        let is_there = found.is_some();
        let wanted: Vec<Entry> = found.unwrap_or_default().into_iter().filter(|e| self.wants(e)).collect();
        self.print(&wanted)?;
        findings.iter().for_each(say);
        if !findings.is_empty() {
            let places = many(findings.len() as u64, "place", "places");
            let why = format!("the log is damaged at {places}; the trail may lack entries");
            return Err(Exit::new(Kind::Damaged, why));
        }
        if !is_there {
            let why = format!("there is no stream `{}` in {place}", self.stream);
            return Err(Exit::new(Kind::NotFound, why));
        }
        if wanted.is_empty() {
            say("nothing of the stream's trail is what was asked for");
        }
        Ok(())
    }

    fn print(&self, entries: &[Entry]) -> io::Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        if self.format == Format::Csv {
            write!(out, "{}\r\n", csv_header())?;
        }
        for entry in entries {
            match self.format {
                Format::Text => writeln!(out, "{}", line(entry))?,
                Format::JsonLines => writeln!(out, "{}", entry.json_line())?,
                Format::Csv => write!(out, "{}\r\n", entry.csv_line())?,
            }
        }
        out.flush()
    }

    fn wants(&self, entry: &Entry) -> bool {
        let recorded_at = entry.record.recorded_at;
        let is = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        self.since.is_none_or(|since| recorded_at >= since)
            && self.until.is_none_or(|until| recorded_at <= until)
            && is(&self.actor, &entry.actor)
            && is(&self.correlation, &entry.correlation_id)
    }
}

/// The entries of a stream; `None` if there never was such a stream.
fn from_database(server: &Server, stream: &StreamName) -> Result<Option<Vec<Entry>>, Exit> {
    in_runtime(async {
        let store = server.open().await?;
        let known = store.stream_state(stream).await?.last_revision.is_some();
        let trail = Factum::new(store).audit_stream(stream).await?;
        Ok(Some(trail.entries).filter(|entries| known || !entries.is_empty()))
    })
}

/// The records of a stream and of its life, and what of the stream can be seen after all that.
struct Story {
    stream: StreamName,
    /// The stream `$$…` of its life, if it can have one.
    life: Option<StreamName>,
    state: StreamState,
    last_recorded_at: Option<Timestamp>,
    records: Vec<RecordedEvent>,
}

impl Story {
    fn of(stream: StreamName) -> Self {
        let life = stream.metadata_stream().ok().filter(|_| !stream.starts_with(METADATA_PREFIX));
        Self { stream, life, state: StreamState::default(), last_recorded_at: None, records: Vec::new() }
    }

    fn take(&mut self, event: &RecordedEvent) -> Result<(), Error> {
        self.last_recorded_at = Some(event.recorded_at);
        if event.stream == self.stream {
            // Records before this one may be gone from the disk; revisions count them.
            self.state.last_revision = event.revision.0.checked_sub(1).map(Revision);
            self.state.written();
        } else if self.life.as_ref() == Some(&event.stream) {
            self.state.described(&LifeChange::parse(&event.event_type, &event.data)?, event.recorded_at);
        } else {
            return Ok(());
        }
        self.records.push(event.clone());
        Ok(())
    }

    /// What a reader of the log would see now.
    fn visible(&self) -> Vec<RecordedEvent> {
        let now = SystemClock.now().max(self.last_recorded_at.unwrap_or_default());
        let seen = |record: &&RecordedEvent| {
            record.stream != self.stream || self.state.shows(record.revision, record.recorded_at, now)
        };
        self.records.iter().filter(seen).cloned().collect()
    }
}

/// An entry for people.
fn line(entry: &Entry) -> String {
    let RecordedEvent { stream, revision, recorded_at, event_type, data, .. } = &entry.record;
    let place = if stream.starts_with(METADATA_PREFIX) { "life".to_owned() } else { revision.to_string() };
    let who = entry.actor.as_deref().unwrap_or("-");
    let data = String::from_utf8_lossy(data);
    // What was recorded shall not write on the terminal as it likes.
    let shown = |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    let mut line = format!("{place:>6}  {recorded_at}  {:<12}  {event_type}  {}", shown(who), shown(&data));
    for (name, id) in [("flow", &entry.correlation_id), ("cause", &entry.causation_id)] {
        if let Some(id) = id {
            // Writing to a string cannot fail.
            let _ = write!(line, "  {name} {}", shown(id));
        }
    }
    line
}
