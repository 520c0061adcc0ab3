//! File systems to break things on: they are made in a file, mounted where nobody else sees them, and gone when this process is.
//!
//! The mounts live in a mount namespace of this process alone. However it ends, the kernel unmounts what is left and frees the loop
//! device behind it.

use std::{
    io::{BufRead, BufReader},
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use crate::Stop;

/// Set for the process that has the namespace.
const ALONE: &str = "FACTUM_PROOFS_ALONE";
/// Waits for a line, then cuts the power of the file system that its argument is on:
/// `ioctl(FS_IOC_SHUTDOWN, FS_SHUTDOWN_FLAGS_NOLOGFLUSH)`. Nothing reaches its device from then on, neither data nor the journal.
/// From Rust that call would be `unsafe`; perl is on every Linux with a package manager.
const CUT: &str = r#"
    $| = 1;
    open(my $at, "<", $ARGV[0]) or die "$!\n";
    my $how = pack("L", 2);
    print "ready\n";
    <STDIN>;
    ioctl($at, 0x8004587d, $how) or die "$!\n";
    print "cut\n";
"#;
/// How long a file system may stay busy after its users are gone.
const BUSY: Duration = Duration::from_secs(10);

/// Who may mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// The machine's administrator: a file system of the kernel's on a loop device.
    Root,
    /// Anyone whom the machine lets be root in a namespace of their own: a file system in memory.
    OwnNamespace,
}

/// Goes on in a mount namespace of this process's own: starts this program again in one, in its place.
pub(crate) fn alone(needs: Needs) -> Result<(), Stop> {
    if std::env::var_os(ALONE).is_some() {
        return Ok(());
    }
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if needs == Needs::Root && !is_root {
        return Err(Stop::Skipped("only root may mount a file system on a loop device".to_owned()));
    }
    let map: &[&str] = if is_root { &[] } else { &["--map-root-user"] };
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(map).args(["--mount", "--propagation", "private"]);
        command
    };
    let may = unshare().arg("true").output();
    if !may.as_ref().is_ok_and(|output| output.status.success()) {
        return Err(Stop::Skipped("no mount namespace can be made here (unshare --mount)".to_owned()));
    }
    let own = std::env::current_exe().map_err(Stop::at("this program cannot be found"))?;
    let error = unshare().arg(own).args(std::env::args_os().skip(1)).env(ALONE, "yes").exec();
    Err(Stop::Failed(format!("cannot go on in a namespace: {error}")))
}

/// A file system that can be taken away and given back.
#[derive(Debug)]
pub(crate) struct Ground {
    source: Source,
    mount: PathBuf,
    mounted: bool,
}

#[derive(Debug)]
enum Source {
    /// ext4 in a file, behind a loop device.
    Image(PathBuf),
    /// A file system in memory, of so many megabytes.
    Memory(u64),
}

impl Ground {
    /// An ext4 in a file of the directory `place`.
    pub(crate) fn ext4(place: &Path, megabytes: u64) -> Result<Self, Stop> {
        let (image, mount) = (place.join("image"), place.join("mount"));
        std::fs::create_dir(&mount).map_err(Stop::at("there is no place to mount"))?;
        run(Command::new("truncate").arg(format!("--size={megabytes}M")).arg(&image))
            .map_err(Stop::at("there is no place for a file system"))?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))
            .map_err(|why| Stop::Skipped(format!("no ext4 can be made here ({why})")))?;
        Self { source: Source::Image(image), mount, mounted: false }.mounted()
    }

    /// A file system in memory, mounted in the directory `place`.
    pub(crate) fn memory(place: &Path, megabytes: u64) -> Result<Self, Stop> {
        let mount = place.join("mount");
        std::fs::create_dir(&mount).map_err(Stop::at("there is no place to mount"))?;
        Self { source: Source::Memory(megabytes), mount, mounted: false }.mounted()
    }

    fn mounted(mut self) -> Result<Self, Stop> {
        let mounted = self.mount();
        mounted.map_err(|why| {
            Stop::Skipped(format!("no {} can be mounted here ({})", self.kind(), why.text()))
        })?;
        Ok(self)
    }

    /// What kind of file system it is.
    pub(crate) fn kind(&self) -> &'static str {
        match self.source {
            Source::Image(_) => "ext4",
            Source::Memory(_) => "tmpfs",
        }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }

    /// Gives it back.
    pub(crate) fn mount(&mut self) -> Result<(), Stop> {
        let mut command = Command::new("mount");
        match &self.source {
            // Without the kernel's kindness to programs that forget to sync a file before they rename it.
            Source::Image(image) => command.args(["-o", "loop,noatime,noauto_da_alloc"]).arg(image),
            Source::Memory(megabytes) => {
                command.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "none"])
            }
        };
        run(command.arg(&self.mount)).map_err(Stop::at("it cannot be mounted"))?;
        self.mounted = true;
        Ok(())
    }

    /// Holds a hand over the switch, so that nothing comes between the wish to cut its power and the cut.
    pub(crate) fn hand_on_switch(&self) -> Result<Switch, Stop> {
        let mut command = Command::new("perl");
        command.args(["-e", CUT]).arg(&self.mount).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut hand = command
            .spawn()
            .map_err(|why| Stop::Skipped(format!("no power can be cut here (perl: {why})")))?;
        let out = hand.stdout.take().map(BufReader::new);
        let mut switch = Switch { hand, out };
        switch.says("ready")?;
        Ok(switch)
    }

    /// Takes it away, once its users are gone.
    pub(crate) fn unmount(&mut self) -> Result<(), Stop> {
        let mut waited = Duration::ZERO;
        while let Err(why) = run(Command::new("umount").arg(&self.mount)) {
            if waited >= BUSY {
                return Err(Stop::Failed(format!("it cannot be unmounted: {why}")));
            }
            let pause = Duration::from_millis(20);
            thread::sleep(pause);
            waited += pause;
        }
        self.mounted = false;
        Ok(())
    }
}

/// Something that can cut the power of a file system at once.
#[derive(Debug)]
pub(crate) struct Switch {
    hand: Child,
    out: Option<BufReader<ChildStdout>>,
}

impl Switch {
    /// Cuts the power, whatever its users are doing. Their files stay open, and fail.
    pub(crate) fn cut(mut self) -> Result<(), Stop> {
        drop(self.hand.stdin.take());
        self.says("cut")
    }

    fn says(&mut self, word: &str) -> Result<(), Stop> {
        let mut said = String::new();
        match self.out.as_mut().map(|out| out.read_line(&mut said)) {
            Some(Ok(_)) if said.trim() == word => Ok(()),
            _ => Err(Stop::Skipped("this kernel cuts no file system's power (FS_IOC_SHUTDOWN)".to_owned())),
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = self.hand.kill();
        let _ = self.hand.wait();
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if self.mounted {
            let _ = run(Command::new("umount").arg("--lazy").arg(&self.mount));
        }
    }
}

/// Runs a command; what it complained of, if it did not succeed.
fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{name}: {}", said.lines().next().unwrap_or("it failed")))
}
