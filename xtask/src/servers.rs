//! Servers that tests need: private ones, in temporary directories, on free ports of this machine, stopped by who started them.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::process::{Child, Command};

use crate::shell::{Shell, Stop};

/// How long a server may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A PostgreSQL of our own. It is gone when this is dropped; [`stop`](Postgres::stop) ends it in good order.
#[derive(Debug)]
pub(crate) struct Postgres {
    server: Child,
    bin: PathBuf,
    directory: PathBuf,
    port: u16,
}

impl Postgres {
    /// Starts one, with an empty database `postgres` that anybody on this machine may use as `postgres`. If there is no such
    /// server to start, what to do about that.
    pub(crate) async fn start(shell: &mut Shell) -> Result<Result<Self, String>, Stop> {
        let Some(bin) = find_or_install(shell, "postgresql", newest_postgres).await? else {
            let why = "PostgreSQL's server is not installed: apt-get install postgresql (15 or later)";
            return Ok(Err(why.to_owned()));
        };
        let directory = std::env::temp_dir().join(format!("factum-postgres-{}", std::process::id()));
        // Whoever had this number before us is gone.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).map_err(Stop::at(format!("cannot make {}", directory.display())))?;
        let open = fs::set_permissions(&directory, fs::Permissions::from_mode(0o700));
        open.map_err(Stop::at(format!("cannot protect {}", directory.display())))?;
        if geteuid().is_root() {
            let mut give = shell.command("chown");
            give.arg("postgres").arg(&directory);
            shell.output(give).await?;
        }
        let data = directory.join("data");
        let mut init = as_server(shell, &bin.join("initdb"));
        init.args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
            "-D",
        ])
        .arg(&data);
        shell.output(init).await?;
        let port = free_port()?;
        let log = made(&directory.join("log"))?;
        let mut serve = as_server(shell, &bin.join("postgres"));
        serve.arg("-D").arg(&data).args(["-p", &port.to_string(), "-k"]).arg(&directory);
        for setting in ["listen_addresses=127.0.0.1", "max_connections=400", "max_prepared_transactions=8"] {
            serve.args(["-c", setting]);
        }
        serve.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let server =
            serve.spawn().map_err(Stop::at(format!("cannot start {}", bin.join("postgres").display())))?;
        let mut postgres = Self { server, bin, directory, port };
        postgres.ready().await?;
        println!("PostgreSQL {} on port {port}, for this lane alone", postgres.bin.display());
        Ok(Ok(postgres))
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Its client, which says these statements one after another and prints what comes back, bare.
    pub(crate) fn psql<'a>(&self, shell: &Shell, statements: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = shell.command(self.bin.join("psql"));
        command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]).arg(self.url());
        for statement in statements {
            command.args(["-c", statement]);
        }
        command
    }

    /// Ends it, and removes all that it had.
    pub(crate) async fn stop(mut self) {
        if let Some(pid) = self.server.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // Its fast shutdown: it does not wait for its clients.
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = tokio::time::timeout(PATIENCE, self.server.wait()).await;
    }

    async fn ready(&mut self) -> Result<(), Stop> {
        for _ in 0..PATIENCE.as_millis() / 50 {
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return Ok(());
            }
            if let Ok(Some(status)) = self.server.try_wait() {
                let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                return Err(Stop::Failed(format!("PostgreSQL ended as it started ({status}):\n{log}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(Stop::Failed(format!("PostgreSQL did not start within {} s", PATIENCE.as_secs())))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.server.start_kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A message broker, of which tests start servers of their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broker {
    /// As the tests call it.
    pub(crate) name: &'static str,
    /// By what tests are told where its program is.
    pub(crate) variable: &'static str,
    /// Debian's package.
    package: &'static str,
    /// Where its program may be besides the path.
    places: &'static [&'static str],
}

/// The brokers that can be had as servers.
pub(crate) const BROKERS: [Broker; 3] = [
    Broker { name: "redis", variable: "FACTUM_TEST_REDIS", package: "redis-server", places: &[] },
    Broker {
        name: "rabbitmq",
        variable: "FACTUM_TEST_RABBITMQ",
        package: "rabbitmq-server",
        // Before the one on the path, which starts it as another user and in another directory.
        places: &["/usr/lib/rabbitmq/bin"],
    },
    Broker { name: "nats", variable: "FACTUM_TEST_NATS", package: "nats-server", places: &["/usr/sbin"] },
];

impl Broker {
    /// Its program: the one that is named in the environment, one that is here, or Debian's, installed. If there is none, what to
    /// do about that.
    pub(crate) async fn program(self, shell: &mut Shell) -> Result<Result<PathBuf, String>, Stop> {
        if let Some(given) = std::env::var_os(self.variable) {
            return Ok(Ok(given.into()));
        }
        // The program is called as its package.
        let Self { name, variable, package, places } = self;
        let find = || {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let mut places = places.iter().map(PathBuf::from).chain(std::env::split_paths(&path));
            places.find_map(|place| Some(place.join(package)).filter(|program| program.exists()))
        };
        let found = find_or_install(shell, package, find).await?;
        let why = format!("{name}: apt-get install {package}, or say in {variable} where {package} is");
        Ok(found.ok_or(why))
    }
}

/// What `find` finds. On a machine where it finds nothing, root installs Debian's package, whose own server is not started.
async fn find_or_install<T>(
    shell: &mut Shell,
    package: &str,
    find: impl Fn() -> Option<T>,
) -> Result<Option<T>, Stop> {
    if let Some(found) = find() {
        return Ok(Some(found));
    }
    if !geteuid().is_root() || !Path::new("/usr/bin/apt-get").exists() {
        return Ok(None);
    }
    for (what, args) in [("update", &[][..]), ("install", &["--yes", "--no-install-recommends", package])] {
        let mut apt = shell.command("apt-get");
        // Services are started in some run level, and not in this one.
        apt.arg(what).args(args).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
        match shell.run(apt).await {
            Err(Stop::Failed(why)) => println!("{why}"),
            Err(stop) => return Err(stop),
            Ok(()) => {}
        }
    }
    Ok(find())
}

fn newest_postgres() -> Option<PathBuf> {
    let debian = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    // The newest of Debian's first; one that is too old is none.
    let version = |bin: &PathBuf| {
        let name = bin.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        name.parse::<f64>().ok().filter(|version| *version >= 15.0)
    };
    let mut places: Vec<PathBuf> = debian.filter(|bin| version(bin).is_some()).collect();
    places.sort_by(|a, b| version(b).partial_cmp(&version(a)).unwrap_or(std::cmp::Ordering::Equal));
    places.extend(std::env::split_paths(&path));
    places.into_iter().find(|bin| bin.join("postgres").exists() && bin.join("initdb").exists())
}

/// A program of the server's, which refuses to run as root.
fn as_server(shell: &Shell, program: &Path) -> Command {
    let mut command = if geteuid().is_root() {
        let mut command = shell.command("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
        command
    } else {
        shell.command(program)
    };
    // Its user need not be able to look into the working directory.
    command.current_dir("/");
    command
}

#[allow(clippy::disallowed_methods, reason = "a server's log is no data file of the product's")]
fn made(file: &Path) -> Result<fs::File, Stop> {
    fs::File::create(file).map_err(Stop::at(format!("cannot make {}", file.display())))
}

/// A port that nobody has at this moment.
fn free_port() -> Result<u16, Stop> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(Stop::at("no port is free"))?;
    Ok(listener.local_addr().map_err(Stop::at("no port is free"))?.port())
}
