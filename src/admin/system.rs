//! What was found out about the machine.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::address::Bound;

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
    /// `UnitFileState`: `enabled`, `disabled`, `static`, …
    pub file_state: String,
    /// `Result` of its last run.
    pub result: String,
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
    /// `RefuseManualStart=`.
    pub refuse_manual_start: bool,
    /// `RefuseManualStop=`.
    pub refuse_manual_stop: bool,
    /// `PrivateNetwork=`.
    pub private_network: bool,
    /// The sockets, timers and paths that start it as well.
    pub triggered_by: Vec<String>,
    /// Those that start it again whenever it is down.
    pub upheld_by: Vec<String>,
    /// What is started along with it.
    pub pulls_in: Vec<String>,
    /// What it cannot run without: stopping one of these stops it.
    pub bound_to: Vec<String>,
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
    Somebody,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(unit) => write!(f, "`{unit}`"),
            Self::Program(program) => write!(f, "the program `{program}`"),
            Self::User(uid) => write!(
                f,
                "a process of the user with the ID {uid} (as root one sees which)"
            ),
            Self::Somebody => f.write_str("somebody (as root one sees who)"),
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
}

/// All that `wakeport init` has to know of the machine.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The units to wake, in the order in which they were given, or why systemd cannot be asked.
    pub units: Result<Vec<Unit>, String>,
    /// The instance's own service, as it is before.
    pub service: Option<Unit>,
    /// The instance's own sockets, as they are before, in the order of [`super::Instance::sockets`].
    pub sockets: Vec<Unit>,
    /// Who listens on this machine.
    pub listening: Vec<Listening>,
    /// The files that are there: where we want to write, what an earlier `init` has written for
    /// this instance, and what lies beside it.
    pub present: Vec<Present>,
    /// Whether the user `wakeport` is there.
    pub user: bool,
    /// Whether polkit is there.
    pub polkit: bool,
    /// Whether the user's manager runs without a login; `None` where that does not matter.
    pub linger: Option<bool>,
}
