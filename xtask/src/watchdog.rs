//! What ends a server when whoever has started it is no more, however they died. Shared with tests that start servers.

use std::{
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

/// It reads until the other end of the pipe is closed, which the kernel does when a process has ended. PostgreSQL gives back its
/// shared memory, and ends what it has started, if it is asked to quit first.
const SCRIPT: &str = r#"read -r _; kill -s QUIT -- "$1" 2>/dev/null && sleep 1; kill -s KILL -- "$1" 2>/dev/null; [ -z "$2" ] || rm -rf -- "$2""#;

/// Waits for the end of this process, `kill -9` or not, and then kills another and removes what it had. Dropped, it does neither.
#[derive(Debug)]
pub(crate) struct Watchdog(Child);

impl Watchdog {
    /// Watches over the process `id`, or over its group if it is led by it, and over a directory.
    pub(crate) fn over(id: u32, group: bool, directory: Option<&Path>) -> io::Result<Self> {
        let whom = if group { format!("-{id}") } else { id.to_string() };
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "watchdog", &whom]).arg(directory.unwrap_or(Path::new("")));
        // In a group of its own, so that what kills ours leaves it.
        command.process_group(0).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Self)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // Before its end of the pipe is closed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
