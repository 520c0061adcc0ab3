//! What an operator asks of a consumer: how far it is, what it has set aside, and what is to become of that.

use std::{fmt::Write as _, path::PathBuf, sync::Arc};

use clap::{Args, Subcommand, ValueEnum};
use factum::{DeadLetter, EventStore, Factum, Parked, Position, ReadStore};
use factum_log::Options;
use factum_sqlite::Sqlite;

use crate::{
    exit::{Exit, Kind},
    place::{Log, Place, in_runtime, refused},
    show::many,
};

/// What `--help` ends with.
pub(crate) const EXAMPLES: &str = "\
Examples:
  What `confirmations` could not handle, and why; its checkpoints are in read.db:
      factum consumer parked data confirmations --reads read.db

  Once the program is mended, have it handle all of that, in order:
      factum consumer retry data confirmations --reads read.db --all

  Not to handle one event at all; who and why stay in the log:
      factum consumer skip data confirmations 4711 --why 'the customer has no address' --actor ada --reads read.db

  In PostgreSQL, where the consumer may be running meanwhile:
      factum consumer parked postgres://ada@db.example/shop confirmations

A projection's parked events are listed too; it takes no orders, but tries them again whenever it starts.

What is asked becomes an event in the stream `$consumer-NAME`; the consumer obeys when it comes to it. A log in a directory that a
program has open can be looked at; orders wait until the program has stopped, or are given by it (`factum.parked(..)`).";

#[derive(Debug, Args)]
pub(crate) struct Consumer {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print how far a consumer or projection is, who keeps it, and how much is set aside; changes nothing
    Status(Which),
    /// List the events that it could not handle or apply, and those that wait behind them; changes nothing
    Parked {
        #[command(flatten)]
        which: Which,
        /// Only those of this key
        #[arg(long)]
        key: Option<String>,
        /// How to print it
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Have it try again what is set aside, in order
    Retry {
        #[command(flatten)]
        which: Which,
        /// That of this key
        #[arg(long, required_unless_present = "all", conflicts_with = "all")]
        key: Option<String>,
        /// That of all keys
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        by: By,
    },
    /// Have it not handle one event that is set aside or that it waits with, and go on with what comes after it
    Skip {
        #[command(flatten)]
        which: Which,
        /// Where the event is, as `factum consumer parked` lists it, or the consumer's state says what it waits with
        position: u64,
        /// Why: it stays in the log
        #[arg(long, value_name = "TEXT")]
        why: String,
        #[command(flatten)]
        by: By,
    },
    /// Have it not handle anything that is set aside under a key
    Discard {
        #[command(flatten)]
        which: Which,
        /// The key, as `factum consumer parked` lists it
        key: String,
        /// Why: it stays in the log
        #[arg(long, value_name = "TEXT")]
        why: String,
        #[command(flatten)]
        by: By,
    },
}

#[derive(Debug, Args)]
struct Which {
    #[command(flatten)]
    log: Log,
    /// The consumer's name
    name: String,
    /// The SQLite file that has its checkpoints [default for a database: that database]
    #[arg(long, value_name = "FILE")]
    reads: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct By {
    /// Who asks: it stays in the log
    #[arg(long, value_name = "WHO")]
    actor: Option<String>,
}

/// How dead letters are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs: one JSON object in a line
    JsonLines,
}

impl Consumer {
    /// Whether it only looks.
    pub(crate) fn only_looks(&self) -> bool {
        matches!(self.verb, Verb::Status(_) | Verb::Parked { .. })
    }

    pub(crate) fn run(self, out: &mut String) -> Result<(), Exit> {
        in_runtime(async {
            match self.verb {
                Verb::Status(which) => status(&which.name.clone(), &which.look().await?, out).await,
                Verb::Parked { which, key, format } => {
                    let projection = which.name.clone();
                    let parked = which.look().await?;
                    let letters = parked.list().await?;
                    let projection = parked.is_projection().await?.then_some(projection);
                    let wanted = |letter: &&DeadLetter| key.as_ref().is_none_or(|key| *key == letter.key);
                    list(letters.iter().filter(wanted), projection.as_deref(), format, out)
                }
                Verb::Retry { which, key, by, .. } => {
                    which
                        .ask(by, async |parked| match &key {
                            Some(key) => parked.retry(key).await,
                            None => parked.retry_all().await,
                        })
                        .await
                }
                Verb::Skip { which, position, why, by } => {
                    which.ask(by, async |parked| parked.skip(Position(position), &why).await).await
                }
                Verb::Discard { which, key, why, by } => {
                    which.ask(by, async |parked| parked.discard(&key, &why).await).await
                }
            }
        })
    }
}

/// The stores of a consumer.
struct Stores {
    store: Arc<dyn EventStore>,
    reads: Arc<dyn ReadStore>,
}

impl Which {
    /// To look only: nothing but checkpoints and dead letters is opened, and a program may have the log open.
    async fn look(self) -> Result<Parked, Exit> {
        let name = self.name.clone();
        let stores = self.open(false).await?;
        Ok(Factum::from_arc(stores.store).parked(&name, stores.reads)?)
    }

    /// To say what is to be done.
    async fn ask(
        self,
        by: By,
        order: impl AsyncFnOnce(&Parked) -> factum::Result<factum::Token>,
    ) -> Result<(), Exit> {
        let name = self.name.clone();
        let stores = self.open(true).await?;
        let mut factum = Factum::from_arc(stores.store);
        if let Some(actor) = by.actor {
            factum = factum.acting_as(actor);
        }
        order(&factum.parked(&name, stores.reads)?).await?;
        Ok(())
    }

    async fn open(self, to_write: bool) -> Result<Stores, Exit> {
        let place = self.log.place()?;
        let of_file = |reads: Option<PathBuf>| match reads {
            // An order is an event in the log: nothing here ever writes to this file.
            Some(file) => {
                let reads = Sqlite::open_read_only(file).map_err(refused)?;
                Ok::<_, Exit>(Some(Arc::new(reads) as Arc<dyn ReadStore>))
            }
            None => Ok(None),
        };
        match place {
            Place::Directory(directory) => {
                let missing = "say by --reads which SQLite file has the checkpoints of the consumer";
                let reads = of_file(self.reads)?.ok_or_else(|| Exit::new(Kind::Usage, missing))?;
                let store: Arc<dyn EventStore> = if to_write {
                    Arc::new(Options::new(directory).create(false).scrub(0).open()?)
                } else {
                    // It is not asked anything.
                    Arc::new(factum::MemoryStore::new())
                };
                Ok(Stores { store, reads })
            }
            Place::Postgres(server) => {
                let store = server.open().await?;
                let reads = of_file(self.reads)?.unwrap_or_else(|| Arc::new(store.reads()));
                Ok(Stores { store: Arc::new(store), reads })
            }
        }
    }
}

async fn status(name: &str, parked: &Parked, out: &mut String) -> Result<(), Exit> {
    let is_projection = parked.is_projection().await?;
    for partition in parked.partitions().await? {
        let _ = match is_projection {
            true => write!(out, "projection `{name}`: at position {}", partition.position),
            false => write!(out, "partition {}: at position {}", partition.number, partition.position),
        };
        let _ = match &partition.worker {
            Some(worker) => write!(out, ", kept by {worker}"),
            // Where one process has the log, its projections need not agree with others on who keeps them.
            None if is_projection => Ok(()),
            None => write!(out, ", kept by nobody"),
        };
        let letters = many(partition.dead_letters as u64, "event", "events");
        let keys = many(partition.parked_keys as u64, "key", "keys");
        let _ = if partition.dead_letters > 0 {
            writeln!(out, "; {letters} of {keys} set aside")
        } else {
            writeln!(out)
        };
    }
    Ok(())
}

fn list<'a>(
    letters: impl Iterator<Item = &'a DeadLetter>,
    projection: Option<&str>,
    format: Format,
    out: &mut String,
) -> Result<(), Exit> {
    let mut count = 0;
    for letter in letters {
        count += 1;
        match format {
            Format::Text => {
                let _ = match projection {
                    Some(name) => writeln!(out, "projection `{name}`: {letter}"),
                    None => writeln!(out, "{letter}"),
                };
            }
            Format::JsonLines => {
                let line = serde_json::to_value(letter);
                let mut line = line.map_err(|error| Exit::new(Kind::Other, error.to_string()))?;
                if let (Some(name), Some(line)) = (projection, line.as_object_mut()) {
                    line.insert("projection".to_owned(), name.into());
                }
                let _ = writeln!(out, "{line}");
            }
        }
    }
    if count == 0 && format == Format::Text {
        let _ = writeln!(out, "nothing is set aside");
    }
    Ok(())
}
