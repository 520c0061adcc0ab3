//! Servers that tests need: private ones, in temporary directories, on free ports of this machine, stopped by who started them.

use std::{
    fs,
    io::{self, Write as _},
    net::TcpListener,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::process::{Child, Command};

use crate::{
    shell::{Shell, Stop},
    watchdog::Watchdog,
};

/// How long a server may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A PostgreSQL of our own. It is gone when this is dropped; [`stop`](Postgres::stop) ends it in good order.
#[derive(Debug)]
pub(crate) struct Postgres {
    server: Child,
    /// If this program is killed, so is the server.
    _watchdog: Watchdog,
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
        let id = server.id().ok_or_else(|| Stop::Failed("PostgreSQL ended as it started".to_owned()))?;
        let watchdog = Watchdog::over(id, true, Some(&directory));
        let watchdog = watchdog.map_err(Stop::at("cannot start sh, to watch over PostgreSQL"))?;
        let mut postgres = Self { server, _watchdog: watchdog, bin, directory, port };
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
    let _unstarted = Unstarted::until_dropped(Path::new("/usr/sbin/policy-rc.d"))?;
    for (what, args) in [("update", &[][..]), ("install", &["--yes", "--no-install-recommends", package])] {
        let mut apt = shell.command("apt-get");
        // What asks no policy looks at these.
        let quiet = [("DEBIAN_FRONTEND", "noninteractive"), ("RUNLEVEL", "1"), ("SYSTEMD_OFFLINE", "1")];
        apt.arg(what).args(args).envs(quiet);
        match shell.run(apt).await {
            Err(Stop::Failed(why)) => println!("{why}"),
            Err(stop) => return Err(stop),
            Ok(()) => {}
        }
    }
    Ok(find())
}

/// Debian's answer to packages that start their service when they are installed: they ask this program whether they may. A machine that
/// has one of its own keeps it.
#[derive(Debug)]
struct Unstarted(Option<PathBuf>);

/// How its script begins, when it is ours.
const OURS: &str =
    "#!/bin/sh\n# Made by `cargo xtask test` while it installs servers for tests; of no use afterwards.\n";

/// Whether the process is there that has made this one of our scripts.
fn is_there(script: &str) -> bool {
    let id = script.lines().find_map(|line| line.strip_prefix("kill -0 ")?.split(' ').next()?.parse().ok());
    id.is_some_and(|id: u32| Path::new(&format!("/proc/{id}")).exists())
}

#[allow(clippy::disallowed_methods, reason = "a machine's policy is no data file of the product's")]
impl Unstarted {
    fn until_dropped(policy: &Path) -> Result<Self, Stop> {
        // Should this program be killed before it has removed it, it says nothing any more.
        let script = format!("{OURS}kill -0 {} 2>/dev/null && exit 101\nexit 0\n", std::process::id());
        // One that was left behind by a run that was killed says nothing, and is no machine's own.
        if fs::read_to_string(policy).is_ok_and(|left| left.starts_with(OURS) && !is_there(&left)) {
            let _ = fs::remove_file(policy);
        }
        let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(policy);
        let mut file = match made {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Self(None)),
            Err(error) => return Err(Stop::Failed(format!("cannot make {}: {error}", policy.display()))),
        };
        let unstarted = Self(Some(policy.to_owned()));
        file.write_all(script.as_bytes()).map_err(Stop::at(format!("cannot write {}", policy.display())))?;
        Ok(unstarted)
    }
}

#[allow(clippy::disallowed_methods, reason = "a machine's policy is no data file of the product's")]
impl Drop for Unstarted {
    fn drop(&mut self) {
        if let Some(policy) = &self.0 {
            let _ = fs::remove_file(policy);
        }
    }
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn services_are_not_started_while_this_program_installs_them() {
        let directory = std::env::temp_dir().join(format!("factum-policy-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let policy = directory.join("policy-rc.d");
        let asked = || Command::new(&policy).args(["redis-server", "start"]).status().unwrap().code();
        let unstarted = Unstarted::until_dropped(&policy).unwrap();
        assert_eq!(asked(), Some(101));
        let another = Unstarted::until_dropped(&policy).unwrap();
        drop(another);
        assert_eq!(asked(), Some(101), "what was there stays");
        // Whoever made it was killed, and left it behind.
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let left = fs::read_to_string(&policy).unwrap();
        let left =
            left.replace(&format!("kill -0 {}", std::process::id()), &format!("kill -0 {}", gone.id()));
        #[allow(clippy::disallowed_methods, reason = "no data file of the product's")]
        fs::write(&policy, left).unwrap();
        assert_eq!(asked(), Some(0));
        let anew = Unstarted::until_dropped(&policy).unwrap();
        assert_eq!(asked(), Some(101), "what was left behind is made anew");
        drop(anew);
        assert!(!policy.exists());
        drop(unstarted);
        assert!(!policy.exists());
        fs::remove_dir(&directory).unwrap();
    }
}
