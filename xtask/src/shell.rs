//! Runs commands so that nothing outlives an interruption.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal as Signals, SignalKind, signal},
    time::timeout,
};

/// How long a command may take to stop by itself before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why something did not come to its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It failed, for this reason.
    Failed(String),
    /// Somebody pressed Ctrl-C or asked us to stop.
    Interrupted,
}

impl Stop {
    /// For `map_err`: it failed while doing `what`.
    pub(crate) fn at<E: std::fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |error| Self::Failed(format!("{what}: {error}"))
    }
}

/// Where commands are run from. It listens for interruptions all the while.
#[derive(Debug)]
pub(crate) struct Shell {
    root: PathBuf,
    signals: [Signals; 3],
}

impl Shell {
    pub(crate) fn new(root: &Path) -> Result<Self, Stop> {
        let listen = |kind| signal(kind).map_err(Stop::at("cannot listen for Ctrl-C"));
        let signals = [
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ];
        Ok(Self { root: root.to_owned(), signals })
    }

    /// The root of the workspace.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where cargo builds: this very program lies in `debug/` there.
    pub(crate) fn target(&self) -> PathBuf {
        let own = std::env::current_exe().ok();
        let target = own.as_deref().and_then(Path::parent).and_then(Path::parent);
        target.map_or_else(|| self.root.join("target"), Path::to_owned)
    }

    /// `cargo` with these arguments, from the root of the workspace.
    pub(crate) fn cargo(&self, args: &[&str]) -> Command {
        let mut command = self.command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(args);
        command
    }

    /// A program, from the root of the workspace.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command
    }

    /// Runs a command to its end; what it says is seen as it says it.
    pub(crate) async fn run(&mut self, mut command: Command) -> Result<(), Stop> {
        println!("$ {}", text_of(&command));
        self.finish(&mut command).await.map(drop)
    }

    /// Runs a command to its end, and returns what it wrote to standard output.
    pub(crate) async fn output(&mut self, mut command: Command) -> Result<String, Stop> {
        let output = self.finish(command.stdout(Stdio::piped())).await?;
        String::from_utf8(output.stdout)
            .map_err(Stop::at(format!("`{}` wrote something that is not UTF-8", text_of(&command))))
    }

    /// What a program says, without the line's end.
    pub(crate) async fn said(&mut self, program: &str, args: &[&str]) -> Result<String, Stop> {
        let mut command = self.command(program);
        command.args(args);
        Ok(self.output(command).await?.trim().to_owned())
    }

    async fn finish(&mut self, command: &mut Command) -> Result<Output, Stop> {
        let text = text_of(command);
        let (child, group) = start(command)?;
        let mut wait = Box::pin(child.wait_with_output());
        let output = tokio::select! {
            output = &mut wait => output.map_err(Stop::at(format!("cannot wait for `{text}`")))?,
            () = interrupted(&mut self.signals) => {
                let _ = kill_process_group(group, Signal::INT);
                if timeout(PATIENCE, &mut wait).await.is_err() {
                    let _ = kill_process_group(group, Signal::KILL);
                    let _ = wait.await;
                }
                return Err(Stop::Interrupted);
            }
        };
        if output.status.success() {
            Ok(output)
        } else {
            Err(Stop::Failed(format!("`{text}`: {}", output.status)))
        }
    }

    /// Runs a command for `so_long`, then kills it without warning. Whether there was something left to kill.
    pub(crate) async fn run_and_kill(
        &mut self,
        mut command: Command,
        so_long: Duration,
    ) -> Result<bool, Stop> {
        let (mut child, group) = start(&mut command)?;
        let killed = tokio::select! {
            status = child.wait() => match status {
                Ok(status) if status.success() => Ok(false),
                _ => Err(Stop::Failed(format!("`{}` failed before it was killed", text_of(&command)))),
            },
            () = tokio::time::sleep(so_long) => Ok(true),
            () = interrupted(&mut self.signals) => Err(Stop::Interrupted),
        };
        let _ = kill_process_group(group, Signal::KILL);
        let _ = child.wait().await;
        killed
    }
}

/// Starts a command as the leader of a process group of its own, so that all that it starts can be stopped with it.
fn start(command: &mut Command) -> Result<(Child, Pid), Stop> {
    let text = text_of(command);
    let child = command
        .process_group(0)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(Stop::at(format!("cannot start `{text}`")))?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let group = group.ok_or_else(|| Stop::Failed(format!("`{text}` has no process id")))?;
    Ok((child, group))
}

async fn interrupted([interrupt, terminate, hangup]: &mut [Signals; 3]) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

/// The command as one would type it, with the program's name alone.
fn text_of(command: &Command) -> String {
    let command = command.as_std();
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Now, for saying how long something took.
#[allow(clippy::disallowed_methods, reason = "elapsed time is what this tool reports")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A duration as people say it.
pub(crate) fn elapsed(since: Instant) -> String {
    let seconds = since.elapsed().as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{:.0} min {:02.0} s", (seconds / 60.0).floor(), seconds % 60.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell() -> Shell {
        Shell::new(Path::new(".")).unwrap()
    }

    fn sh(shell: &Shell, script: &str) -> Command {
        let mut command = shell.command("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_failure_names_the_command_and_its_status() {
        let mut shell = shell();
        let command = sh(&shell, "exit 7");
        let failed = shell.run(command).await;
        assert!(
            matches!(&failed, Err(Stop::Failed(why)) if why.contains("sh -c exit 7") && why.contains('7')),
            "{failed:?}"
        );
    }

    #[tokio::test]
    async fn what_is_killed_takes_its_children_along() {
        let mut shell = shell();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = sh(&shell, "sleep 600 & exec sleep 600");
        command.stdout(writer);
        assert!(shell.run_and_kill(command, Duration::from_millis(50)).await.unwrap());
        // The pipe ends only when nobody who inherited it is left.
        assert_eq!(std::io::Read::read_to_end(&mut reader, &mut Vec::new()).unwrap(), 0);
    }

    #[tokio::test]
    async fn what_ends_by_itself_is_not_killed() {
        let mut shell = shell();
        let command = sh(&shell, "true");
        assert!(!shell.run_and_kill(command, Duration::from_secs(60)).await.unwrap());
    }
}
