//! Faults of the processes of a unit: killed by the kernel, or stopped.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::Rig;

impl Rig {
    /// Kills every process of a service at once, as the kernel would. Returns when they are dead; says whether
    /// there were any.
    pub(crate) fn kill(&self, unit: &str) -> bool {
        let pids = self.pids(unit);
        if pids.is_empty() || fs::write(self.unit_cgroup(unit).join("cgroup.kill"), "1").is_err() {
            return false;
        }
        self.wait_for("the killed are dead", || {
            !pids.iter().copied().any(is_alive)
        });
        true
    }

    /// The processes of a service, as the outside counts.
    pub(crate) fn pids(&self, unit: &str) -> Vec<u32> {
        let procs = fs::read_to_string(self.unit_cgroup(unit).join("cgroup.procs"));
        let procs = procs.unwrap_or_default();
        procs.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// The processor time that a service's processes have used so far.
    pub(crate) fn cpu(&self, unit: &str) -> Duration {
        let ticks = self.pids(unit).into_iter().map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
            let used = fields.split(' ').skip(11).take(2);
            used.filter_map(|ticks| ticks.parse::<u64>().ok())
                .sum::<u64>()
        });
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// Stops all processes of a service: its sockets fill, and it does not answer.
    pub(crate) fn freeze(&self, unit: &str) {
        stand_still(&self.unit_cgroup(unit), "1");
    }

    /// Continues it, if it is still there.
    pub(crate) fn thaw(&self, unit: &str) {
        let cgroup = self.unit_cgroup(unit);
        if cgroup.exists() {
            stand_still(&cgroup, "0");
        }
    }

    /// Stops every process in the rig.
    pub(crate) fn freeze_all(&self) {
        stand_still(&self.cgroup, "1");
    }

    /// Continues them.
    pub(crate) fn thaw_all(&self) {
        stand_still(&self.cgroup, "0");
    }

    /// Takes all memory away from a service, so that the kernel kills its processes as soon as they need more;
    /// `demand` makes them need some. Returns when they are dead, for want of memory as far as systemd can tell.
    pub(crate) fn starve(&self, unit: &str, mut demand: impl FnMut()) {
        const LITTLE: &str = "65536";
        let pids = self.pids(unit);
        assert!(!pids.is_empty(), "{unit} runs");
        let limit = self.unit_cgroup(unit).join("memory.max");
        // Where the controller is in a hierarchy of its own, systemd cannot set limits, nor hear of kills.
        let hierarchy = Path::new("/sys/fs/cgroup/memory");
        let group = hierarchy.join(self.cgroup.file_name().expect("a name"));
        let by_systemd = limit.exists();
        if by_systemd {
            fs::write(&limit, LITTLE).expect("root may set a limit");
        } else {
            assert!(hierarchy.exists(), "there is a memory controller");
            fs::create_dir(&group)
                .and_then(|()| fs::write(group.join("memory.limit_in_bytes"), LITTLE))
                .expect("root may make a cgroup");
            for pid in &pids {
                fs::write(group.join("cgroup.procs"), pid.to_string()).expect("it runs");
            }
        }
        self.wait_for("it is killed for want of memory", || {
            demand();
            !pids.iter().copied().any(is_alive)
        });
        if by_systemd {
            // The next process in the same group has enough memory again.
            let _ = fs::write(&limit, "max");
            self.wait_for("systemd knows why", || self.said(unit, "OOM killer") > 0);
        } else {
            let control = fs::read_to_string(group.join("memory.oom_control")).unwrap_or_default();
            assert!(
                control
                    .lines()
                    .any(|line| line.starts_with("oom_kill ") && line != "oom_kill 0"),
                "{control}"
            );
            self.wait_for("nothing is left of it", || fs::remove_dir(&group).is_ok());
        }
    }

    /// Sends a signal to process 1, which only the outside can do with those that cannot be caught.
    pub(crate) fn signal_init(&self, signal: Signal) {
        let init = i32::try_from(self.init).ok().and_then(Pid::from_raw);
        kill_process(init.expect("a process"), signal)
            .expect("root may signal the rig's process 1");
    }

    /// Where a system service has its processes.
    fn unit_cgroup(&self, unit: &str) -> PathBuf {
        // An alias is a link: dbus.service may be one of dbus-broker.service.
        let link = fs::read_link(self.path(&format!("/etc/systemd/system/{unit}")));
        let link = link.unwrap_or_else(|_| PathBuf::from(unit));
        let unit = link.file_name().and_then(OsStr::to_str).unwrap_or(unit);
        let slice = self.cgroup.join("system.slice");
        match unit.split_once('@') {
            Some((template, _)) => slice.join(format!("system-{template}.slice")).join(unit),
            None => slice.join(unit),
        }
    }
}

fn stand_still(cgroup: &Path, still: &str) {
    let freeze = cgroup.join("cgroup.freeze");
    fs::write(&freeze, still).unwrap_or_else(|why| panic!("{}: {why}", freeze.display()));
}

/// Whether a process runs; a zombie does not.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|state| !state.starts_with(['Z', 'X']))
}
