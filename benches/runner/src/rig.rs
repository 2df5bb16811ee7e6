//! A real systemd in namespaces of its own, booted by `tests/systemd/boot`.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::proc;

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(60);
/// What runs inside finds its programs here.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where this very program lies inside.
pub(crate) const OURSELVES: &str = "/run/rig/bench";

/// A running systemd; dropping it ends every process inside.
pub(crate) struct Rig {
    unshare: Child,
    /// Process 1 of the rig, as the outside counts.
    init: u32,
    cgroup: PathBuf,
}

impl Rig {
    /// Boots it and installs wakeport in it, as an administrator would.
    pub(crate) fn boot(wakeport: &Path) -> Result<Self, Box<dyn Error>> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .ok_or("no checkout")?;
        let cgroup = new_cgroup()?;
        let unshare = Command::new(source.join("tests/systemd/boot"))
            .args([&cgroup, source, wakeport])
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .spawn()?;
        let mut rig = Self {
            unshare,
            init: 0,
            cgroup,
        };
        rig.wait_for("process 1", |rig| {
            let pid = rig.unshare.id();
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let children =
                fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            rig.init = children.trim().parse().unwrap_or(0);
            comm.trim() == "unshare" && rig.init != 0
        })?;
        rig.wait_for("the boot", |rig| {
            matches!(
                rig.ask("systemctl is-system-running").trim(),
                "running" | "degraded"
            )
        })?;
        fs::copy(std::env::current_exe()?, rig.path(OURSELVES))?;
        rig.run("/run/rig/source/systemd/install /run/rig/wakeport")?;
        Ok(rig)
    }

    /// Where `path` inside is found from the outside.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Writes a unit, or a drop-in: systemd knows of it after a `daemon-reload`.
    pub(crate) fn unit(&self, name: &str, text: &str) -> io::Result<()> {
        let path = self.path(&format!("/etc/systemd/system/{name}"));
        fs::create_dir_all(path.parent().unwrap_or(&path))?;
        fs::write(path, text)
    }

    /// Runs a command line inside, which must succeed.
    pub(crate) fn run(&self, command: &str) -> Result<String, Box<dyn Error>> {
        let output = self.command(command).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            return Err(format!("`{command}` in the rig: {}", text(&output.stderr)).into());
        }
        Ok(text(&output.stdout))
    }

    fn ask(&self, command: &str) -> String {
        let output = self.command(command).output();
        output
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([
                "-t",
                &self.init.to_string(),
                "-p",
                "-m",
                "-C",
                "-n",
                "-u",
                "-i",
                "--",
                "/bin/sh",
                "-c",
                line,
            ])
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null());
        command
    }

    /// The rig's network, for a thread to join.
    pub(crate) fn network(&self) -> io::Result<fs::File> {
        fs::File::open(format!("/proc/{}/ns/net", self.init))
    }

    /// The memory of process 1, in kB.
    pub(crate) fn init_memory(&self) -> f64 {
        proc::memory(&[self.init]).pss
    }

    /// How many processes there are inside.
    pub(crate) fn processes(&self) -> usize {
        proc::family(self.init).len()
    }

    fn wait_for(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&mut Self) -> bool,
    ) -> Result<(), Box<dyn Error>> {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            if Instant::now() > deadline {
                return Err(format!("waited in vain for {what} of the rig").into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // All by number and by this cgroup: nothing outside can be hit.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        for _ in 0..500 {
            if remove_cgroup(&self.cgroup).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// An empty cgroup under the host's version 2 hierarchy, named as the tests name theirs, which sweep up what is left.
fn new_cgroup() -> Result<PathBuf, Box<dyn Error>> {
    static RIGS: AtomicU32 = AtomicU32::new(0);
    let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .map(Path::new)
        .into_iter()
        .find(|root| root.join("cgroup.controllers").exists())
        .ok_or("no cgroup2 file system is mounted on /sys/fs/cgroup or /sys/fs/cgroup/unified")?;
    let rig = RIGS.fetch_add(1, Ordering::Relaxed);
    let cgroup = root.join(format!("wakeport-rig-{}-{rig}", std::process::id()));
    fs::create_dir(&cgroup)?;
    Ok(cgroup)
}

/// Removes a cgroup and those below it; fails as long as a process is in one of them.
fn remove_cgroup(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
