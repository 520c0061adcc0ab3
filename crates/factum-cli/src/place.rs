//! Where a log is: in a directory, or in a PostgreSQL database.

use std::{
    fmt,
    future::Future,
    path::{Path, PathBuf},
};

use clap::Args;
use factum::{Error, Result};
use factum_postgres::{Options, PostgresStore};

use crate::exit::{Exit, Kind};

/// A log of either kind.
#[derive(Debug, Default, Args)]
pub(crate) struct Log {
    /// The directory of the log, or the database that has it: postgres://user:password@host:5432/database
    #[arg(value_name = "DIR|URL")]
    log: PathBuf,
    /// The schema in that database [default: factum]
    #[arg(long, value_name = "NAME")]
    schema: Option<String>,
}

/// A log in a database.
#[derive(Debug, Args)]
pub(crate) struct Database {
    /// The database: postgres://user:password@host:5432/database
    #[arg(value_name = "URL")]
    url: PathBuf,
    /// The schema in it
    #[arg(long, value_name = "NAME", default_value_t = Options::default().schema)]
    schema: String,
}

/// Where it turns out to be.
#[derive(Debug)]
pub(crate) enum Place {
    Directory(PathBuf),
    Postgres(Server),
}

/// A schema of a database that is yet to be reached.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) schema: String,
}

/// A URL may hold a password, which is not shown.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, schema `{}`", factum_postgres::without_password(&self.url), self.schema)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self})")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(directory) => write!(f, "{}", directory.display()),
            Self::Postgres(server) => write!(f, "{server}"),
        }
    }
}

impl Log {
    pub(crate) fn place(self) -> Result<Place, Exit> {
        match (url_in(&self.log), self.schema) {
            (Some(url), schema) => {
                let schema = schema.unwrap_or_else(|| Options::default().schema);
                Ok(Place::Postgres(Server { url, schema }))
            }
            (None, Some(_)) => Err(Exit::new(
                Kind::Usage,
                "--schema goes with the URL of a database; a directory has no schemas",
            )),
            (None, None) => Ok(Place::Directory(self.log)),
        }
    }
}

impl Database {
    /// `otherwise` says which verb tells the same of a directory.
    pub(crate) fn server(self, otherwise: &str) -> Result<Server, Exit> {
        match url_in(&self.url) {
            Some(url) => Ok(Server { url, schema: self.schema }),
            None => {
                let sentence = format!(
                    "`{}` is not the URL of a PostgreSQL database, such as postgres://user:password@host:5432/database; {otherwise}",
                    factum_postgres::without_password(&self.url.display().to_string())
                );
                Err(Exit::new(Kind::Usage, sentence))
            }
        }
    }
}

impl Server {
    /// How the store in it is reached: nothing is made or changed on the way.
    pub(crate) fn options(&self) -> Options {
        Options { schema: self.schema.clone(), migrate: false, ..Options::default() }
    }

    /// Opens the store in it, if there is one.
    pub(crate) async fn open(&self) -> Result<PostgresStore, Exit> {
        let status = PostgresStore::status_of(&self.url, &self.options()).await.map_err(refused)?;
        if !status.is_begun() {
            return Err(Exit::new(Kind::NotFound, format!("there is no log in {}", status.place)));
        }
        let behind = status.migrations.iter().any(|migration| migration.applied_at.is_none());
        if behind && status.migrations.iter().all(|migration| migration.known) {
            let sentence = format!(
                "the log in {} is of an older version; `factum migrate` brings it up to date",
                status.place
            );
            return Err(Exit::new(Kind::Refused, sentence));
        }
        PostgresStore::open(&self.url, self.options()).await.map_err(refused)
    }
}

/// What a server, or the driver on the way to it, did not like: the command line, or who asks.
pub(crate) fn refused(error: Error) -> Exit {
    match &error {
        Error::InvalidInput { what, .. } => {
            let typed = what.starts_with("the URL") || what.starts_with("the schema's name");
            Exit::new(if typed { Kind::Usage } else { Kind::Storage }, error.to_string())
        }
        _ => error.into(),
    }
}

/// Refuses the URL of a database where only files will do. `instead` says what does the same there.
pub(crate) fn only_files(verb: &str, path: &Path, instead: &str) -> Result<(), Exit> {
    match url_in(path) {
        None => Ok(()),
        Some(_) => {
            let sentence = format!("`factum {verb}` reads the files of a log in a directory; {instead}");
            Err(Exit::new(Kind::Usage, sentence))
        }
    }
}

fn url_in(path: &Path) -> Option<String> {
    path.to_str().filter(|text| factum_postgres::is_url(text)).map(str::to_owned)
}

/// Runs what asks a server; the verbs themselves run on a thread of their own.
pub(crate) fn in_runtime<T>(work: impl Future<Output = Result<T, Exit>>) -> Result<T, Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Exit::new(Kind::Other, format!("cannot start a runtime: {error}")))?;
    runtime.block_on(work)
}
