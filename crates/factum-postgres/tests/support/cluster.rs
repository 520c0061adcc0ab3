//! Whole servers of a test's own: to be killed, restarted, copied, promoted and restored.

use std::{
    ffi::OsStr,
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

/// How long a server may take to start, to stop and to be promoted.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A private PostgreSQL in a temporary directory, on a port of its own. What runs of it is killed, and what it has is removed,
/// when this is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    bin: PathBuf,
    directory: PathBuf,
    port: u16,
    /// As `name=value`, each time that it starts.
    settings: Vec<String>,
    server: Option<Child>,
    /// Those whom a postmaster left behind when it was killed.
    orphans: Vec<Pid>,
}

impl Cluster {
    /// Makes one and starts it, with these settings (`name=value`). Anybody on this machine is `postgres` in it.
    ///
    /// `None`, and a sentence that says so, if PostgreSQL's programs are not on this machine; where the tests are told of a
    /// server (`FACTUM_TEST_POSTGRES`) they must be there.
    pub(crate) fn new(settings: &[&str]) -> Option<Self> {
        let mut cluster = Self::unmade(find_or_say_so()?, settings.iter().map(|&s| s.to_owned()).collect());
        let data = cluster.data();
        let plain = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"];
        cluster.succeed("initdb", plain.iter().map(OsStr::new).chain(["-D".as_ref(), data.as_os_str()]));
        cluster.start();
        Some(cluster)
    }

    /// A copy of this one as it is now, which follows it as an asynchronous streaming standby.
    pub(crate) fn standby(&self) -> Self {
        let mut standby = Self::unmade(self.bin.clone(), self.settings.clone());
        let (data, port) = (standby.data(), self.port.to_string());
        let (from, to): ([&str; 8], &OsStr) =
            (["-h", "127.0.0.1", "-U", "postgres", "--checkpoint=fast", "-R", "-p", &port], data.as_os_str());
        standby.succeed("pg_basebackup", from.iter().map(OsStr::new).chain(["-D".as_ref(), to]));
        standby.start();
        standby
    }

    fn unmade(bin: PathBuf, settings: Vec<String>) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("factum-cluster-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        // Whoever had this number before us is gone.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
        give(&directory);
        Self { bin, directory, port: free_port(), settings, server: None, orphans: Vec::new() }
    }

    /// Starts it, on the port that it had, and waits until it takes connections.
    pub(crate) fn start(&mut self) {
        assert!(self.server.is_none(), "it runs already");
        let log = self.directory.join("log");
        for _ in 0..PATIENCE.as_millis() / LOOK_AGAIN.as_millis() {
            let (running, data) = (self.server.take(), self.data());
            let launched =
                running.unwrap_or_else(|| launch(&self.bin, &data, self.port, &self.settings, &log));
            let server = self.server.insert(launched);
            // After a kill -9 those whom it has left behind may be about to go: until then it refuses to start.
            if server.try_wait().unwrap().is_some() {
                assert!(self.log().contains("shared memory"), "PostgreSQL did not start:\n{}", self.log());
                self.server = None;
            } else if self.accepts() {
                return;
            }
            thread::sleep(LOOK_AGAIN);
        }
        panic!("PostgreSQL did not start within {PATIENCE:?}:\n{}", self.log());
    }

    /// Whether it takes connections at this moment.
    pub(crate) fn accepts(&self) -> bool {
        let port = self.port.to_string();
        self.program("pg_isready").args(["-q", "-h", "127.0.0.1", "-p", &port]).status().unwrap().success()
    }

    /// Stops it in good order; whoever is connected is thrown out.
    pub(crate) fn stop_fast(&mut self) {
        self.end_with(Signal::INT);
    }

    /// Stops it on the spot, as if it had crashed: it recovers when it is started again.
    pub(crate) fn stop_immediate(&mut self) {
        self.end_with(Signal::QUIT);
    }

    /// `kill -9` of all its processes at once, as if the machine's power had failed (but for what the machine had yet to write).
    pub(crate) fn kill(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let children = children_of(server.id());
        server.kill().unwrap();
        server.wait().unwrap();
        for child in children {
            // It may have gone by itself.
            let _ = kill_process(child, Signal::KILL);
        }
    }

    /// `kill -9` of the postmaster alone: connections go on until their next word, and then notice.
    pub(crate) fn kill_postmaster(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        self.orphans = children_of(server.id());
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// Makes a standby a server of its own.
    pub(crate) fn promote(&self) {
        self.succeed(
            "pg_ctl",
            ["promote", "-w", "-D"].iter().map(OsStr::new).chain([self.data().as_os_str()]),
        );
    }

    /// The database `postgres`, as `postgres`.
    pub(crate) fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// A database, as `postgres`.
    pub(crate) fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A directory that it can read and write, for what the test has to put somewhere.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// What it has written into its log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Gives a file to the server's own user.
    pub(crate) fn give(&self, file: &Path) {
        give(file);
    }

    /// One of PostgreSQL's programs, as the server's own user.
    pub(crate) fn program(&self, name: &str) -> Command {
        as_server(&self.bin.join(name))
    }

    /// Runs one of PostgreSQL's programs on the server, which it finds by its surroundings, and expects it to succeed.
    pub(crate) fn succeed<'a>(&self, name: &str, args: impl IntoIterator<Item = &'a OsStr>) -> Output {
        let port = self.port.to_string();
        let mut command = self.program(name);
        if !["initdb", "pg_basebackup", "pg_ctl"].contains(&name) {
            command.env("PGHOST", "127.0.0.1").env("PGPORT", port).env("PGUSER", "postgres");
        }
        let output = command.args(args).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{name}: {}{}", text(&output.stdout), text(&output.stderr));
        output
    }

    fn end_with(&mut self, signal: Signal) {
        let Some(mut server) = self.server.take() else { return };
        kill_process(pid(server.id()), signal).unwrap();
        for _ in 0..PATIENCE.as_millis() / LOOK_AGAIN.as_millis() {
            if server.try_wait().unwrap().is_some() {
                return;
            }
            thread::sleep(LOOK_AGAIN);
        }
        let _ = server.kill();
        panic!("PostgreSQL did not stop within {PATIENCE:?}:\n{}", self.log());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Asked first: it gives back what it has of the machine's shared memory.
        if let Some(server) = &mut self.server {
            let _ = kill_process(pid(server.id()), Signal::QUIT);
            for _ in 0..2_000 / LOOK_AGAIN.as_millis() {
                if server.try_wait().is_ok_and(|ended| ended.is_some()) {
                    self.server = None;
                    break;
                }
                thread::sleep(LOOK_AGAIN);
            }
        }
        self.kill();
        for orphan in self.orphans.drain(..) {
            let name = fs::read_to_string(format!("/proc/{}/comm", orphan.as_raw_nonzero()));
            if name.is_ok_and(|name| name.trim() == "postgres") {
                let _ = kill_process(orphan, Signal::KILL);
            }
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn find_or_say_so() -> Option<PathBuf> {
    let found = find();
    if found.is_none() {
        let missing = "PostgreSQL's server is not on this machine (apt-get install postgresql)";
        assert!(std::env::var_os("FACTUM_TEST_POSTGRES").is_none(), "{missing}");
        skipped(missing);
    }
    found
}

#[allow(clippy::print_stdout, reason = "a test that was skipped must not look as if it had been run")]
fn skipped(why: &str) {
    println!("skipped: {why}");
}

/// Where the server's programs are: the newest of Debian's, or those on the path.
fn find() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    places.sort_by(|a, b| b.cmp(a));
    places.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    places.into_iter().find(|bin| bin.join("postgres").exists() && bin.join("initdb").exists())
}

#[allow(clippy::disallowed_methods, reason = "a server's log is no data file of the product's")]
fn launch(bin: &Path, data: &Path, port: u16, settings: &[String], log: &Path) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    let mut command = as_server(&bin.join("postgres"));
    command.arg("-D").arg(data).args(["-p", &port.to_string(), "-k"]).arg(data.parent().unwrap());
    for setting in ["listen_addresses=127.0.0.1", "max_connections=100", "max_prepared_transactions=8"] {
        command.args(["-c", setting]);
    }
    for setting in settings {
        command.args(["-c", setting]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

fn give(file: &Path) {
    if geteuid().is_root() {
        assert!(Command::new("chown").arg("postgres").arg(file).status().unwrap().success());
    }
}

/// A program of the server's, which refuses to run as root.
fn as_server(program: &Path) -> Command {
    let mut command = if geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    // Its user need not be able to look into the working directory.
    command.current_dir("/");
    command
}

/// A port that nobody has at this moment, below those that the kernel gives to clients: nobody takes it while its server is down.
fn free_port() -> u16 {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(16);
    (0..12_000_u32)
        .map(|_| first.wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed)) % 12_000)
        .filter_map(|offset| u16::try_from(20_000 + offset).ok())
        .find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        .expect("a free port")
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(id.cast_signed()).unwrap()
}

/// The processes that a process has begun, and that still run.
fn children_of(parent: u32) -> Vec<Pid> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // `pid (name) state parent …`: the name may hold anything.
        let its_parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?;
        (its_parent == parent.to_string()).then(|| entry.file_name().to_str()?.parse().ok()).flatten()
    })
    .filter_map(Pid::from_raw)
    .collect()
}
