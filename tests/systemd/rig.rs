//! A whole machine for one scenario: a real systemd with its journal, D-Bus, polkit and logind, in namespaces.
//!
//! [`Rig::boot`] takes a fraction of a second, and everything that happens inside stays there: changes to
//! `/etc`, `/var` and `/usr` go to memory, the network has nothing but `lo`. Dropping the [`Rig`] ends it.
//! What does not belong here: anything that knows what a scenario is about.

mod clients;
mod processes;
mod services;

pub(crate) use clients::{Client, GoneAs};

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long a condition may take to come true; far more than it ever needs, on the slowest machine.
const CONDITION_TIMEOUT: Duration = Duration::from_secs(120);
/// The time between two looks at a condition, at first and at most.
const POLL: Duration = Duration::from_millis(20);
const LONGEST_POLL: Duration = Duration::from_millis(400);
/// How many times as long as the last look it is at least: a look mostly starts three programs, and other
/// scenarios need the processor.
const POLL_FACTOR: u32 = 8;
/// How the name of a rig's cgroup and of its layer begins; the number of the test process follows, and for the
/// cgroup a running number.
const NAME: &str = "wakeport-rig-";
/// What runs inside finds its programs here, whatever the tester's own `PATH` says.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A running systemd; dropping it ends every process inside.
pub(crate) struct Rig {
    /// The `unshare` process: when it dies, so does process 1 inside, and with that everything else.
    unshare: Child,
    /// Process 1 of the rig, as the outside counts.
    init: u32,
    cgroup: PathBuf,
}

impl Rig {
    /// Boots a systemd with wakeport installed in it, as an administrator would: with `systemd/install`.
    pub(crate) fn boot() -> Self {
        static INSTALLED: LazyLock<PathBuf> = LazyLock::new(install);
        Self::on(INSTALLED.as_os_str())
    }

    /// Boots a systemd and nothing else.
    pub(crate) fn bare() -> Self {
        Self::on("".as_ref())
    }

    /// Boots a systemd with the files of `layer`.
    ///
    /// From here on the calling thread and those that it starts live on the rig's network: a `TcpStream`
    /// to `127.0.0.1` ends inside.
    fn on(layer: &OsStr) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "the scenarios boot a systemd of their own and need root; `tests/run` as root runs them"
        );
        raise_open_files();
        let cgroup = new_cgroup();
        let unshare = script(cgroup.as_os_str(), layer)
            .spawn()
            .expect("tests/systemd/boot can be run");
        let mut rig = Self {
            unshare,
            init: 0,
            cgroup,
        };
        rig.wait_for_init();
        let manager = rig.path("/run/systemd/private");
        rig.wait_for("systemd can be asked", || manager.exists());
        rig.wait_for("the rig has booted", || {
            matches!(
                rig.ask("systemctl is-system-running --wait").trim(),
                "running" | "degraded"
            )
        });
        let network =
            fs::File::open(format!("/proc/{}/ns/net", rig.init)).expect("the rig has a network");
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("root may join the rig's network");
        rig
    }

    /// Where `path` inside the rig is found from the outside.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        assert!(path.starts_with('/'), "`{path}` is a path inside the rig");
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Writes a file inside the rig, with the directories above it.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let outside = self.path(path);
        let dir = outside.parent().expect("a file is in a directory");
        fs::create_dir_all(dir)
            .and_then(|()| fs::write(&outside, text))
            .expect(path);
    }

    /// Reads a file inside the rig.
    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).expect(path)
    }

    /// Writes a program inside the rig.
    pub(crate) fn script(&self, path: &str, text: &str) {
        self.write(path, text);
        self.run(&format!("chmod 755 {path}"));
    }

    /// Runs a command line inside the rig, which must succeed, and returns what it printed.
    pub(crate) fn run(&self, command: &str) -> String {
        let output = self.attempt(command);
        assert!(
            output.status.success(),
            "`{command}` in the rig: {}\n{}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Runs a command line inside the rig and returns what it printed, whether or not it succeeded.
    pub(crate) fn ask(&self, command: &str) -> String {
        text(&self.attempt(command).stdout)
    }

    /// Runs a command line inside the rig, whatever comes of it. Quotes work as in a shell.
    pub(crate) fn attempt(&self, command: &str) -> Output {
        self.command(["/bin/sh", "-c", command])
            .output()
            .expect("nsenter can be run")
    }

    /// A command that will run inside the rig.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
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
                "-r",
                "-w",
                "--",
            ])
            .args(words)
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null());
        command
    }

    /// Waits until `condition` holds. This is how scenarios wait, rather than for a time.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, condition: impl FnMut() -> bool) {
        assert!(
            comes_true(LONGEST_POLL, condition),
            "waited {} s in vain: {what}",
            CONDITION_TIMEOUT.as_secs()
        );
    }

    fn wait_for_init(&mut self) {
        let unshare = self.unshare.id();
        let children = format!("/proc/{unshare}/task/{unshare}/children");
        let mut init = None;
        // The shell that becomes `unshare` has children of its own only before it enters the cgroup: none.
        self.wait_for("the rig has a process 1", || {
            let comm = fs::read_to_string(format!("/proc/{unshare}/comm")).unwrap_or_default();
            if comm.trim() == "unshare" {
                init = fs::read_to_string(&children)
                    .ok()
                    .and_then(|pids| pids.trim().parse().ok());
            }
            init.is_some()
        });
        self.init = init.expect("it was just seen");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if thread::panicking() {
            self.print_journal();
        }
        // All by number and by this cgroup: nothing outside can be hit.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        if !comes_true(POLL, || remove_cgroup(&self.cgroup).is_ok()) && !thread::panicking() {
            panic!("`{}` is still in use", self.cgroup.display());
        }
    }
}

/// `tests/systemd/boot`, which says what these are.
fn script(cgroup: &OsStr, layer: &OsStr) -> Command {
    let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/systemd/boot"));
    script
        .arg(cgroup)
        .arg(env!("CARGO_MANIFEST_DIR"))
        .arg(env!("CARGO_BIN_EXE_wakeport"))
        .arg(layer)
        .args(root())
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null());
    script
}

/// Installs wakeport, once for all rigs of this process: a layer.
fn install() -> PathBuf {
    let layers = Path::new(env!("CARGO_TARGET_TMPDIR"));
    sweep(layers, |layer| fs::remove_dir_all(layer));
    let layer = layers.join(format!("{NAME}{}", std::process::id()));
    fs::create_dir_all(&layer).expect("a folder of cargo's");
    let installed = script("--install".as_ref(), layer.as_os_str()).status();
    assert!(
        installed.is_ok_and(|status| status.success()),
        "systemd/install"
    );
    layer
}

/// The root whose systemd boots, built by `tests/systemd/roots`; none means the host's.
pub(crate) fn root() -> Option<OsString> {
    std::env::var_os("WAKEPORT_ROOT").filter(|root| !root.is_empty())
}

#[expect(
    clippy::disallowed_methods,
    reason = "there is no runtime here, and no clock to be paused"
)]
fn comes_true(longest_pause: Duration, mut condition: impl FnMut() -> bool) -> bool {
    // Counted rather than timed: what the condition itself takes comes on top, and that is fine.
    let mut waited = Duration::ZERO;
    while waited < CONDITION_TIMEOUT {
        let look = Instant::now();
        if condition() {
            return true;
        }
        let pause = (look.elapsed() * POLL_FACTOR).clamp(POLL, longest_pause);
        thread::sleep(pause);
        waited += pause;
    }
    false
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An empty cgroup under the host's version 2 hierarchy, named so that rigs never meet.
fn new_cgroup() -> PathBuf {
    static RIGS: AtomicU32 = AtomicU32::new(0);
    let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .map(Path::new)
        .into_iter()
        .find(|root| root.join("cgroup.controllers").exists())
        .expect("a cgroup2 file system is mounted on /sys/fs/cgroup or /sys/fs/cgroup/unified");
    sweep(root, remove_cgroup);
    let rig = RIGS.fetch_add(1, Ordering::Relaxed);
    let cgroup = root.join(format!("{NAME}{}-{rig}", std::process::id()));
    fs::create_dir(&cgroup).expect("root may make a cgroup");
    cgroup
}

/// Removes what ended test processes have left in a folder.
fn sweep(folder: &Path, remove: impl Fn(&Path) -> io::Result<()>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(NAME)
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = remove(&entry.path());
        }
    }
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

/// A scenario may hold a thousand clients; systemd inside inherits the limit, and gives services its own default.
fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    )
    .expect("a soft limit can be raised to the hard one");
}
