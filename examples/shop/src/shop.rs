//! A shop, wherever it is: in a directory, or in a PostgreSQL database. Here alone the two are told apart.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use factum::{Error, Factum, Projected, handler::Parked, process::Process, reads::ReadStore};
use factum_log::LogStore;
use factum_postgres::PostgresStore;
use factum_sqlite::Sqlite;

use crate::{
    exit::Exit,
    fulfilment::Fulfilment,
    provider::{Faults, Provider},
    views::{Customers, Inventory, Orders},
};

/// Partitions of the orders, which go on side by side: while one waits for the payment provider, the others do not.
const PARTITIONS: u32 = 8;
/// How long others wait for a worker that was killed, where many processes may have a shop open.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
/// How long a command waits for what follows from it.
const PATIENCE: Duration = Duration::from_secs(30);
/// The consumers that may set something aside.
pub(crate) const CONSUMERS: [&str; 2] = ["fulfilment", "fulfilment_out"];

/// Where a shop is.
#[derive(Clone)]
pub(crate) enum Place {
    /// The log is in `log` there, the read models in `read.db`. The payment provider's books are in `provider`.
    Directory(PathBuf),
    /// All are tables of a database, in this schema. The payment provider's books are in one of their own.
    Postgres { url: String, schema: String },
}

/// A URL may hold a password, which nobody is told.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(directory) => write!(f, "{}", directory.display()),
            Self::Postgres { url, schema } => {
                write!(f, "{}, schema `{schema}`", factum_postgres::without_password(url))
            }
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({self})")
    }
}

/// An open shop. Nobody works in it yet: see [`Shop::work`].
#[derive(Debug)]
pub(crate) struct Shop {
    pub(crate) factum: Factum,
    pub(crate) reads: Arc<dyn ReadStore>,
    pub(crate) provider: Arc<Provider>,
    logs: Vec<LogStore>,
}

/// Who works in a shop, in the background: what brings orders to their end, and what keeps the read models.
#[derive(Debug)]
pub(crate) struct Workers {
    pub(crate) fulfilment: Process<Fulfilment>,
    pub(crate) views: Views,
}

/// The read models.
#[derive(Clone, Debug)]
pub(crate) struct Views {
    pub(crate) orders: Projected<Orders>,
    pub(crate) inventory: Projected<Inventory>,
    pub(crate) customers: Projected<Customers>,
}

impl Shop {
    /// Opens the shop in a place; where there is none, `begin` begins one.
    pub(crate) async fn open(place: &Place, begin: bool, faults: Faults, seed: u64) -> Result<Self, Exit> {
        let (opened, logs) = match place {
            Place::Directory(directory) => {
                let opened = open_directory(directory, begin);
                let logs = opened.as_ref().map_or_else(|_| vec![], |(logs, _)| logs.to_vec());
                let opened = opened.map(|([log, provider], reads)| {
                    let factum = Factum::new(log).with_snapshots(reads.clone());
                    (factum, Factum::new(provider), Arc::new(reads) as Arc<dyn ReadStore>)
                });
                (opened, logs)
            }
            Place::Postgres { url, schema } => (open_postgres(url, schema, begin).await, vec![]),
        };
        let (factum, books, reads) = opened.map_err(|error| match error {
            Error::NotFound { .. } if !begin => {
                Exit::failed(format!("there is no shop in {place}; `shop receive` and `shop demo` begin one"))
            }
            Error::Fenced { .. } => Exit::failed(format!(
                "another process has the shop in {place} open; try again when it is done"
            )),
            error => error.into(),
        })?;
        Ok(Self { factum, reads, provider: Arc::new(Provider::new(books, faults, seed)), logs })
    }

    /// Has everybody work.
    pub(crate) async fn work(&self) -> Result<Workers, Exit> {
        Ok(Workers { fulfilment: self.fulfil().await?, views: self.views().await? })
    }

    /// Has orders brought to their end.
    pub(crate) async fn fulfil(&self) -> factum::Result<Process<Fulfilment>> {
        let fulfilment = Fulfilment { provider: self.provider.clone() };
        let managing = self.factum.process_manager(fulfilment).partitions(PARTITIONS).lease(LEASE);
        managing.start(self.reads.clone()).await
    }

    /// Has the read models kept.
    pub(crate) async fn views(&self) -> factum::Result<Views> {
        Ok(Views {
            orders: self.factum.project_in(Orders, self.reads.clone()).await?,
            inventory: self.factum.project_in(Inventory, self.reads.clone()).await?,
            customers: self.factum.project_in(Customers, self.reads.clone()).await?,
        })
    }

    /// What a consumer has set aside.
    pub(crate) fn parked(&self, consumer: &str) -> factum::Result<Parked> {
        self.factum.parked(consumer, self.reads.clone())
    }

    /// Waits until the read models have seen everything that there is now.
    pub(crate) async fn catch_up(&self, views: &Views) -> Result<(), Exit> {
        let now = self.factum.store().head().await?.token;
        views.orders.wait_for_within(now, PATIENCE).await?;
        views.inventory.wait_for_within(now, PATIENCE).await?;
        Ok(views.customers.wait_for_within(now, PATIENCE).await?)
    }

    /// Waits until all that follows from what was done is done, and seen.
    pub(crate) async fn settle(&self, workers: &Workers) -> Result<(), Exit> {
        workers.fulfilment.wait_until_idle(PATIENCE).await?;
        self.catch_up(&workers.views).await
    }

    /// Closes it, so that what is wrong with that is heard of.
    pub(crate) async fn close(self) -> Result<(), Exit> {
        for log in self.logs {
            log.close().await?;
        }
        Ok(())
    }
}

impl Workers {
    /// Has everybody finish what is in hand.
    pub(crate) async fn stop(self) {
        self.fulfilment.stop().await;
        self.views.stop().await;
    }
}

impl Views {
    pub(crate) async fn stop(&self) {
        self.orders.stop().await;
        self.inventory.stop().await;
        self.customers.stop().await;
    }
}

type Opened = (Factum, Factum, Arc<dyn ReadStore>);

fn open_directory(directory: &std::path::Path, begin: bool) -> factum::Result<([LogStore; 2], Sqlite)> {
    let log = |name| factum_log::Options::new(directory.join(name)).create(begin).open();
    Ok(([log("log")?, log("provider")?], Sqlite::open(directory.join("read.db"))?))
}

async fn open_postgres(url: &str, schema: &str, begin: bool) -> factum::Result<Opened> {
    let open = async |schema: String| {
        let options = factum_postgres::Options { schema, ..Default::default() };
        if !begin && !PostgresStore::status_of(url, &options).await?.is_begun() {
            return Err(Error::NotFound { what: "shop".to_owned() });
        }
        PostgresStore::open(url, options).await
    };
    let (shop, provider) = (open(schema.to_owned()).await?, open(format!("{schema}_provider")).await?);
    let factum = Factum::new(shop.clone()).with_snapshots(shop.reads());
    Ok((factum, Factum::new(provider), Arc::new(shop.reads())))
}
