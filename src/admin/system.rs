//! What the checks are told about the machine.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::sandbox::Sandbox;
use crate::config::address::{Address, Bound};
use crate::config::busy::Percent;
use crate::config::kubernetes::ServicePods;
use crate::config::{Config, Manager, ServiceConfig};

/// What a service manager says about a unit; empty where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unit {
    /// Its own name, whatever alias was asked for.
    pub id: String,
    /// `LoadState`: `loaded`, `not-found`, `masked`, `bad-setting`, `error`.
    pub load: String,
    /// Why it could not be loaded.
    pub load_error: String,
    /// `ActiveState`.
    pub active: String,
    /// `SubState`.
    pub sub: String,
    /// `UnitFileState`: `enabled`, `disabled`, `static`, …
    pub file_state: String,
    /// `Result` of its last run.
    pub result: String,
    /// How its main process ended: `CLD_…` of waitid(2), with a status or a signal.
    pub exit: (i32, i32),
    /// How often it was restarted by itself.
    pub restarts: u32,
    /// `FreezerState`.
    pub freezer: String,
    /// `FileDescriptorStoreMax=`.
    pub stored: u32,
    /// Files have changed since it was loaded.
    pub needs_reload: bool,
    /// `Type=`.
    pub kind: String,
    /// `Restart=`.
    pub restart: String,
    /// `StartLimitAction=`: what becomes of the machine when it is started too often.
    pub start_limit_action: String,
    /// So many starts …
    pub start_limit_burst: u32,
    /// … in this time.
    pub start_limit_interval: Duration,
    /// `TimeoutStartSec=`; [`Duration::MAX`] is for ever.
    pub start_timeout: Duration,
    /// `TimeoutStopSec=`; [`Duration::MAX`] is for ever.
    pub stop_timeout: Duration,
    /// `RemainAfterExit=`.
    pub remain_after_exit: bool,
    /// `StopWhenUnneeded=`.
    pub stop_when_unneeded: bool,
    /// `KillMode=`.
    pub kill_mode: String,
    /// `SendSIGKILL=no`.
    pub never_killed: bool,
    /// `RuntimeMaxSec=`; [`Duration::MAX`] is for ever.
    pub runtime_max: Duration,
    /// `SuccessAction=`: what becomes of the machine when it stops.
    pub success_action: String,
    /// `FailureAction=`: the same when it fails.
    pub failure_action: String,
    /// `PrivateTmp=`.
    pub private_tmp: bool,
    /// `RuntimeDirectory=`, below /run or the user's own, and the mode of each.
    pub runtime: (Vec<String>, u32),
    /// `Group=`, or that of `User=`; empty where that is root's.
    pub group: String,
    /// `RefuseManualStart=`.
    pub refuse_manual_start: bool,
    /// `RefuseManualStop=`.
    pub refuse_manual_stop: bool,
    /// What its sandbox keeps from it.
    pub sandbox: Sandbox,
    /// `PrivateNetwork=yes` or `NetworkNamespacePath=`, if one of them is set.
    pub network: String,
    /// `Slice=`.
    pub slice: String,
    /// `WatchdogSec=`; zero or [`Duration::MAX`] is none.
    pub watchdog: Duration,
    /// `Before=`.
    pub before: Vec<String>,
    /// `DefaultDependencies=`.
    pub default_dependencies: bool,
    /// `CanFreeze=no`.
    pub never_frozen: bool,
    /// The units in it, if it is a slice.
    pub holds: Vec<String>,
    /// What is measured of it: `IOAccounting`, `IPAccounting`.
    pub accounting: Vec<&'static str>,
    /// The sockets, timers and paths that start it as well.
    pub triggered_by: Vec<String>,
    /// Those that start it again whenever it is down.
    pub upheld_by: Vec<String>,
    /// What is started along with it.
    pub pulls_in: Vec<String>,
    /// What it cannot run without: stopping one of these stops it.
    pub bound_to: Vec<String>,
    /// What is stopped along with it, apart from its parts.
    pub required_by: Vec<String>,
    /// `JoinsNamespaceOf=`, of either side.
    pub joins: Vec<String>,
    /// What is `PartOf=` it.
    pub parts: Vec<String>,
    /// `Conflicts=`, of either side; those that are active for a unit that is woken.
    pub conflicts: Vec<String>,
    /// Those of them that could run, and do not.
    pub rivals: Vec<String>,
    /// The services that a target pulls in and that go on when it is stopped.
    pub left_running: Vec<String>,
}

/// A socket that listens somewhere on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Where.
    pub at: Bound,
    /// Whose it is.
    pub holder: Holder,
}

/// Whose a socket is, as far as one can see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A unit's.
    Unit(String),
    /// A program's that runs in no unit.
    Program(String),
    /// Only the user is known.
    User(u32),
    /// Nothing is known.
    Unknown,
}

impl Unit {
    /// Which `RuntimeDirectory=` of a unit of the system a path is in, and its mode.
    pub fn runtime_directory(&self, path: &Path) -> Option<(PathBuf, u32)> {
        let (names, mode) = &self.runtime;
        let mut directories = names.iter().map(|name| Path::new("/run").join(name));
        let directory = directories.find(|directory| path.starts_with(directory))?;
        Some((directory, *mode))
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(unit) => write!(f, "`{unit}`"),
            Self::Program(program) => write!(f, "the program `{program}`"),
            Self::User(uid) => write!(
                f,
                "a process of the user with the ID {uid} (run this as root to see which)"
            ),
            Self::Unknown => f.write_str("an unknown process (run this as root to see which)"),
        }
    }
}

/// A file that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Where.
    pub path: PathBuf,
    /// What it holds, or why that cannot be read.
    pub text: Result<String, String>,
    /// What is wrong with its mode or its owner, if anything.
    pub access: Option<String>,
}

/// What `wakeport init` is told.
#[derive(Clone, Debug)]
pub struct System {
    /// The units to wake, in the order in which they were given, or why systemd cannot be asked.
    pub units: Result<Vec<Unit>, String>,
    /// The instance's own service, as it is before.
    pub service: Option<Unit>,
    /// The instance's own sockets, as they are before, in the order of [`super::Instance::sockets`].
    pub sockets: Vec<Unit>,
    /// Its timers that run.
    pub timers: Vec<String>,
    /// What listens on this machine.
    pub listening: Vec<Listening>,
    /// The units that other instances wake.
    pub elsewhere: Vec<Elsewhere>,
    /// What the user of the instance cannot reach, and why, for each service in turn.
    pub hidden: Vec<Vec<Hidden>>,
    /// The files that are there: where we want to write, what an earlier `init` has written for
    /// this instance, and what lies beside it.
    pub present: Vec<Present>,
    /// The user that the instance will run as.
    pub runs_as: String,
    /// Whether the user `wakeport` is there.
    pub user: bool,
    /// Whether polkit is there.
    pub polkit: bool,
    /// Why polkit cannot read the directory of its rules, if so.
    pub rules_closed: Option<String>,
    /// Whether the user's manager runs without a login; `None` where that does not matter.
    pub linger: Option<bool>,
}

/// What `wakeport check` is told: about an installed instance, or a command line.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What would be done.
    pub config: Config,
    /// Whose units these are.
    pub manager: Manager,
    /// The instance; `None` is a command line.
    pub instance: Option<Installed>,
    /// What concerns each service, in the order of [`Config::services`].
    pub services: Vec<ServiceSystem>,
    /// What listens on this machine.
    pub listening: Vec<Listening>,
    /// The units that other instances wake.
    pub elsewhere: Vec<Elsewhere>,
    /// The user that all this runs as.
    pub user: String,
    /// Whether there is such a user.
    pub user_exists: bool,
    /// The hard limit on open files.
    pub open_files: u64,
    /// Whether polkit is there.
    pub polkit: bool,
    /// Why polkit cannot read the directory of its rules, if so.
    pub rules_closed: Option<String>,
    /// Whether the user's manager runs without a login; `None` where that does not matter.
    pub linger: Option<bool>,
}

impl Subject {
    /// Each service with what concerns it.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceConfig, &ServiceSystem)> {
        self.config.services.iter().zip(&self.services)
    }
}

/// A unit that another instance wakes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Its own name.
    pub unit: String,
    /// The service of that instance.
    pub instance: String,
}

/// What concerns one service.
#[derive(Clone, Debug)]
pub struct ServiceSystem {
    /// The units that are woken, or why systemd cannot be asked.
    pub units: Result<Vec<Unit>, String>,
    /// What the user may do with the units, for each in turn.
    pub permissions: Vec<Permission>,
    /// The programs that are run.
    pub programs: Vec<Program>,
    /// What the names of the targets are, right now.
    pub lookups: Vec<Lookup>,
    /// Targets that lead back to our own listeners.
    pub loops: Vec<Loop>,
    /// What the user cannot reach, and why.
    pub hidden: Vec<Hidden>,
    /// What the units use when idle, if the instance has seen that.
    pub idle_cpu: Option<Percent>,
    /// What freezes them, if they are to be frozen.
    pub freezer: Option<Freezer>,
    /// What the API server says, if it scales workloads of Kubernetes.
    pub cluster: Option<Cluster>,
}

/// What the API server of Kubernetes says of what a service scales.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Why it says nothing.
    pub silent: Option<String>,
    /// The credentials are those of a pod.
    pub in_pod: bool,
    /// The lines of a Role that are missing.
    pub missing: Vec<String>,
    /// The Lease, if there is none and it may not be created.
    pub no_lease: Option<String>,
    /// The workloads, by their names.
    pub workloads: BTreeMap<String, Scaled>,
    /// The Services that are targets.
    pub services: Vec<(ServicePods, Selected)>,
    /// What else scales, in the same namespace.
    pub autoscalers: Vec<Autoscaler>,
    /// The kinds of these that could not be listed.
    pub not_listed: Vec<&'static str>,
}

/// What there is to be scaled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scaled {
    /// The API server does not have its API group.
    NoKind,
    /// There is none.
    Missing,
    /// It has no `/scale`.
    NoScale,
    /// Its scale does not name its pods.
    NoSelector,
    /// It could not be read.
    Unknown,
    /// It is there.
    Found {
        /// Who sets the number of pods with each apply of a manifest.
        appliers: Vec<String>,
    },
}

/// A Service that is a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// There is none.
    Missing,
    /// It could not be read.
    Unknown,
    /// It is there.
    Found {
        /// It publishes pods that are not ready.
        unready_too: bool,
        /// The name and the number of each of its ports.
        ports: Vec<(String, u64)>,
    },
}

/// Another one that scales.
#[derive(Clone, Debug)]
pub struct Autoscaler {
    /// `HorizontalPodAutoscaler`, `ScaledObject`.
    pub kind: &'static str,
    /// What it is called.
    pub name: String,
    /// KEDA has made it for a ScaledObject.
    pub is_kedas: bool,
    /// The kind of what it scales, in lower case, and its name.
    pub target: (String, String),
    /// How many pods it leaves at least.
    pub least: u64,
    /// The types of its triggers.
    pub triggers: Vec<String>,
}

/// What there is to freeze the units of a service.
#[derive(Clone, Debug, Default)]
pub struct Freezer {
    /// The slices that hold them, without doubles.
    pub slices: Vec<Unit>,
    /// systemd's version.
    pub version: String,
    /// What the user may do with these slices, of `freeze` and `thaw`.
    pub permissions: Vec<Permission>,
    /// What reclaims their memory, if that is asked for.
    pub reclaim: Option<Reclaim>,
}

/// What there is to reclaim the memory of what is frozen.
#[derive(Clone, Debug, Default)]
pub struct Reclaim {
    /// The units of root's that do it, without doubles.
    pub units: Vec<Unit>,
    /// Whether the user may start these.
    pub permissions: Vec<Permission>,
    /// The kernel has the memory controller of control groups of version 2.
    pub controller: bool,
    /// Its version: `6.1.0-40-amd64`.
    pub kernel: String,
    /// There is swap.
    pub swap: bool,
}

/// What cannot be reached, in words, and why, with the remedy.
pub type Hidden = (String, String);

/// What a program is for, its path, and why it cannot be run, if so.
pub type Program = (&'static str, String, Result<(), String>);

/// A target with its addresses, or why it has none.
pub type Lookup = (Address, Result<Vec<SocketAddr>, String>);

/// A target that leads back to us, and the instances on the way.
pub type Loop = (Address, Vec<String>);

/// The units of an instance.
#[derive(Clone, Debug, Default)]
pub struct Installed {
    /// Its `wakeport@….service`.
    pub service: Unit,
    /// Its sockets, the one of its own name first.
    pub sockets: Vec<SocketUnit>,
    /// Its control socket, its timers and their services.
    pub beside: Vec<Unit>,
    /// Variables that `wakeport run` does not know.
    pub unknown: Vec<String>,
    /// Files with variables that cannot be read, and why.
    pub unread: Vec<(String, String)>,
    /// The file of its services, if its user cannot read that, and why.
    pub closed: Option<(String, String)>,
    /// The files that `wakeport init` has written for it, and the list of units for polkit.
    pub files: Vec<Present>,
}

/// A socket unit.
#[derive(Clone, Debug, Default)]
pub struct SocketUnit {
    /// What it was asked for by.
    pub name: String,
    /// The unit itself.
    pub unit: Unit,
    /// Its streams, and its UDP ports.
    pub at: Vec<Bound>,
    /// Listeners of other kinds.
    pub others: Vec<String>,
    /// `FileDescriptorName=`.
    pub listener: String,
    /// `Accept=yes`.
    pub accept: bool,
    /// `BindIPv6Only=ipv6-only`.
    pub ipv6_only: bool,
    /// `FlushPending=yes`.
    pub flush: bool,
    /// `ReceiveBuffer=`; 0 is the kernel's own.
    pub receive_buffer: u64,
    /// `TriggerLimitIntervalSec=`, if there is one.
    pub trigger_limit: Duration,
}

impl SocketUnit {
    /// Whether it listens nowhere.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty() && self.others.is_empty()
    }
}

/// What a user may do with a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// The unit.
    pub unit: String,
    /// What is needed and denied, of `start`, `stop` and `reset-failed`; or why that is not known.
    pub denied: Result<Vec<&'static str>, String>,
}
