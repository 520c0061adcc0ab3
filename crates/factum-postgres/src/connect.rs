//! Connections: how they are made, and what is asked of each new one.

use std::{
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError, QueueMode, RecyclingMethod,
};
use factum::{Error, Outcome, Result};
use tokio_postgres::{
    Client, Config, Connection, Socket,
    config::{Host, SslMode},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{Options, epoch, fault::Fault, tls::Tls};

/// What carries a client's words.
type Line = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// How to reach one database, and the store in it.
#[derive(Clone)]
pub(crate) struct Door {
    config: Config,
    tls: MakeRustlsConnect,
    /// How an error names it: never with a password.
    pub(crate) place: String,
    pub(crate) schema: String,
    connections: usize,
    patience: Duration,
}

impl Door {
    /// # Errors
    /// [`Error::InvalidInput`] for a URL or a schema's name that is none.
    pub(crate) fn to(url: &str, options: &Options) -> Result<Self> {
        crate::schema::check_name(&options.schema)?;
        let (url, tls) = Tls::split(url)?;
        let mut config = configured(&url, options)?;
        // What is left is the driver's default, unless it has read a mode that we have not.
        if config.get_ssl_mode() != SslMode::Prefer {
            let why = "its `sslmode` cannot be told from the rest; write special signs as %XX, and no blanks around `=`";
            return Err(Error::invalid("the URL of PostgreSQL", why));
        }
        config.ssl_mode(tls.mode);
        let tls = tls.connector()?;
        let place = place_of(&config, &options.schema);
        let Options { schema, connections, patience, .. } = options.clone();
        Ok(Self { config, tls, place, schema, connections, patience })
    }

    /// A connection of its own, on which nothing has been asked yet.
    ///
    /// # Errors
    /// As for a store that is opened.
    pub(crate) async fn client(&self) -> Result<Client> {
        let (client, connection) = self.connection().await?;
        // It ends with the client; what it would say, the client's next word says.
        tokio::spawn(connection);
        Ok(client)
    }

    /// The same, for one who looks himself at what the server says unasked.
    ///
    /// # Errors
    /// As for a store that is opened.
    pub(crate) async fn connection(&self) -> Result<(Client, Line)> {
        let connected = tokio::time::timeout(self.patience, self.config.connect(self.tls.clone())).await;
        match connected {
            Ok(connected) => connected.map_err(|error| Fault::from(error).explain(&self.place)),
            Err(_) => {
                let why = format!("PostgreSQL {} does not answer", self.place);
                Err(Error::Unavailable { why, outcome: Outcome::No })
            }
        }
    }

    /// Connections for a store. Each is asked where it is before it is used, and `epoch` is told.
    ///
    /// # Errors
    /// [`Error::InvalidInput`] if there can be no such pool.
    pub(crate) fn pool(&self, epoch: Arc<AtomicU64>) -> Result<Pool> {
        let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let (schema, place) = (self.schema.clone(), self.place.clone());
        Pool::builder(Manager::from_config(self.config.clone(), self.tls.clone(), manager))
            .max_size(self.connections.max(1))
            // A connection that was just used has all at hand.
            .queue_mode(QueueMode::Lifo)
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .wait_timeout(Some(self.patience))
            .create_timeout(Some(self.patience))
            .post_create(Hook::async_fn(move |client, _| {
                let (schema, place, epoch) = (schema.clone(), place.clone(), epoch.clone());
                Box::pin(async move {
                    match epoch::look_around(client, &schema, &place).await {
                        Ok(present) => epoch.store(present, Ordering::Relaxed),
                        Err(Fault::Database(error, _)) => return Err(HookError::Backend(error)),
                        Err(Fault::Known(Error::Unavailable { why, .. })) => {
                            return Err(HookError::message(why));
                        }
                        Err(Fault::Known(error)) => return Err(HookError::message(error.to_string())),
                    }
                    Ok(())
                })
            }))
            .build()
            .map_err(|error| Error::invalid("the pool of connections", error.to_string()))
    }
}

/// A connection of the pool's.
pub(crate) async fn take(pool: &Pool, place: &str) -> Result<Object> {
    let unavailable = |why: String| Error::Unavailable { why, outcome: Outcome::No };
    pool.get().await.map_err(|error| match error {
        PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
            Fault::from(error).explain(place)
        }
        PoolError::PostCreateHook(HookError::Message(why)) => unavailable(why.into_owned()),
        error => unavailable(format!("no connection to PostgreSQL {place} became free: {error}")),
    })
}

/// Everything that is asked here has its index. Left to itself, the server makes a plan while a table is as good as empty, reads the whole
/// of it, and keeps to that long after it has grown.
const PLANS: &str = "-c jit=off -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off";

fn configured(url: &str, options: &Options) -> Result<Config> {
    let none = |why: String| {
        let why = format!("it must look like postgres://user:password@host:5432/database ({why})");
        Error::invalid("the URL of PostgreSQL", why)
    };
    let mut config = Config::from_str(url).map_err(|error| none(error.to_string()))?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(none("it names no host".to_owned()));
    }
    let of_a_password = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
    if config.get_hosts().iter().any(of_a_password) {
        return Err(none("a password's `@` is written as %40".to_owned()));
    }
    let timeout = options.statement_timeout.as_millis();
    // A commit is acknowledged when it is durable, whatever the server's default; and a process that hangs does not hold others
    // up for ever.
    let settings = format!(
        "-c synchronous_commit=on -c statement_timeout={timeout} -c idle_in_transaction_session_timeout={timeout} -c default_transaction_isolation=read\\ committed {PLANS}"
    );
    // What the URL says besides comes first, so that ours counts.
    let settings = format!("{} {settings}", config.get_options().unwrap_or_default());
    config
        .options(settings.trim())
        .application_name(format!("factum {}", options.schema))
        .connect_timeout(options.patience)
        // A server that vanishes says nothing: what is on its way to it fails when it has not taken it for so long.
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3);
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(options.statement_timeout);
    }
    Ok(config)
}

/// The database, as an error names it.
fn place_of(config: &Config, schema: &str) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let database = config.get_dbname().or(config.get_user()).unwrap_or("postgres");
    format!("`{database}` on {host}:{port}, schema `{schema}`")
}
