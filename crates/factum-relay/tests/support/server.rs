//! Private servers, in temporary directories, on free ports of this machine, that can be killed and started again.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::{free_port, storm::Victim, watchdog::Watchdog};

/// How a server is started, in this directory and on this port.
type Start = Box<dyn Fn(&Path, u16) -> Command + Send>;

/// A server that is started the same way each time, with the same directory and port.
pub(crate) struct Server {
    name: &'static str,
    port: u16,
    command: Start,
    process: Option<Group>,
    /// What it needs beside it.
    _helper: Option<Group>,
    /// It goes when nobody writes to it any more.
    directory: TempDir,
}

/// A process with all that it has started.
struct Group(Child, Option<Watchdog>);

impl Group {
    /// Starts it. If this process is killed, it is too, and the directory is removed.
    fn start(command: &mut Command, directory: Option<&Path>) -> Self {
        let text = format!("{command:?}");
        let child = command.process_group(0).stdin(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {text}: {error}"));
        let watchdog = Watchdog::over(child.id(), true, directory).unwrap();
        Self(child, Some(watchdog))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Before the number can be somebody else's.
        drop(self.1.take());
        if let Some(group) = Pid::from_raw(self.0.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

impl Server {
    /// Redis, which syncs before it answers, unless `settings` say otherwise.
    pub(crate) async fn redis(settings: &[&str]) -> Self {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        let program = program("FACTUM_TEST_REDIS", "redis-server", &[]);
        let command = move |directory: &Path, port: u16| {
            let mut command = Command::new(&program);
            command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"]).arg(directory);
            command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
            command.args(&settings);
            command
        };
        Self::start("redis", Box::new(command), None).await
    }

    /// NATS with JetStream on the disk, and what else the configuration says.
    pub(crate) async fn nats(settings: &'static str) -> Self {
        let program = program("FACTUM_TEST_NATS", "nats-server", &["/usr/sbin"]);
        let command = move |directory: &Path, port: u16| {
            let store = directory.join("store");
            let text = format!(
                "port: {port}\nhost: 127.0.0.1\njetstream {{ store_dir: {:?} }}\n{settings}\n",
                store.display().to_string()
            );
            write(&directory.join("nats.conf"), &text);
            let mut command = Command::new(&program);
            command.arg("-c").arg(directory.join("nats.conf"));
            command
        };
        Self::start("nats", Box::new(command), None).await
    }

    /// RabbitMQ without plugins, with a port mapper of its own.
    pub(crate) async fn rabbitmq(settings: &str) -> Self {
        let settings = settings.to_owned();
        let program = program("FACTUM_TEST_RABBITMQ", "rabbitmq-server", &["/usr/lib/rabbitmq/bin"]);
        let (mapper, distribution) = (free_port(), free_port());
        let mut helper = Command::new("epmd");
        helper.args(["-port", &mapper.to_string(), "-address", "127.0.0.1"]);
        let helper = Group::start(helper.stdout(Stdio::null()).stderr(Stdio::null()), None);
        let command = move |directory: &Path, port: u16| {
            write(
                &directory.join("rabbitmq.conf"),
                &format!("listeners.tcp.1 = 127.0.0.1:{port}\nnum_acceptors.tcp = 2\n{settings}\n"),
            );
            write(&directory.join("enabled_plugins"), "[].\n");
            let mut command = Command::new(&program);
            let node = format!("factum{port}@localhost");
            for (name, value) in [
                ("HOME", directory.display().to_string()),
                ("ERL_EPMD_PORT", mapper.to_string()),
                ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
                ("RABBITMQ_NODENAME", node),
                ("RABBITMQ_DIST_PORT", distribution.to_string()),
                ("RABBITMQ_NODE_PORT", port.to_string()),
                ("RABBITMQ_CONFIG_FILE", directory.join("rabbitmq.conf").display().to_string()),
                ("RABBITMQ_CONF_ENV_FILE", directory.join("none").display().to_string()),
                ("RABBITMQ_ENABLED_PLUGINS_FILE", directory.join("enabled_plugins").display().to_string()),
                ("RABBITMQ_MNESIA_BASE", directory.join("data").display().to_string()),
                ("RABBITMQ_LOG_BASE", directory.join("logs").display().to_string()),
                // A scheduler that waits in a loop costs more than it brings on a small machine.
                ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+sbwt none +S 2:2".to_owned()),
            ] {
                command.env(name, value);
            }
            command
        };
        Self::start("rabbitmq", Box::new(command), Some(helper)).await
    }

    async fn start(name: &'static str, command: Start, helper: Option<Group>) -> Self {
        let directory = tempfile::Builder::new().prefix(&format!("factum-{name}-")).tempdir().unwrap();
        let mut server = Self { name, directory, port: free_port(), command, process: None, _helper: helper };
        server.run().await;
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Has RabbitMQ do what its own tool is told.
    pub(crate) fn control(&self, args: &[&str]) {
        let server = (self.command)(self.directory.path(), self.port);
        let mut tool = Command::new(Path::new(server.get_program()).with_file_name("rabbitmqctl"));
        tool.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let done = tool.args(args).stdin(Stdio::null()).output().unwrap();
        assert!(done.status.success(), "rabbitmqctl {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Victim for Server {
    /// `kill -9`, with all that belongs to it.
    fn kill(&mut self) {
        drop(self.process.take());
    }

    /// Starts it, and waits until it listens.
    async fn run(&mut self) {
        let log = self.directory.path().join("output");
        let (out, err) = (appended(&log), appended(&log));
        let mut command = (self.command)(self.directory.path(), self.port);
        let mut process = Group::start(command.stdout(out).stderr(err), Some(self.directory.path()));
        for _ in 0..2_400 {
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                self.process = Some(process);
                return;
            }
            if let Ok(Some(status)) = process.0.try_wait() {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                panic!("{} ended as it started ({status}):\n{said}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!(
            "{} did not start within a minute:\n{}",
            self.name,
            std::fs::read_to_string(&log).unwrap_or_default()
        );
    }
}

#[allow(clippy::disallowed_methods, reason = "a server's output is no data file of the product's")]
fn appended(file: &Path) -> std::fs::File {
    std::fs::File::options().append(true).create(true).open(file).unwrap()
}

#[allow(clippy::disallowed_methods, reason = "a server's settings are no data file of the product's")]
fn write(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap();
}

/// A server's program: what the variable says, or what is found on the path or in `places`.
fn program(variable: &str, name: &str, places: &[&str]) -> PathBuf {
    if let Some(given) = std::env::var_os(variable) {
        return given.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = places.iter().map(PathBuf::from);
    let mut places = places.chain(std::env::split_paths(&path)).map(|place| place.join(name));
    places.find(|place| place.exists()).unwrap_or_else(|| {
        panic!("{name} is not installed: run `cargo xtask test relays`, or say where it is in {variable}")
    })
}
