//! Running a program of the administrator's: with a clean environment, in a process group of
//! its own that never outlives its purpose, and with its output in the log, line by line.
//!
//! A program that leaves its process group, as daemons do, cannot be stopped by us.

mod orphans;
mod output;

use std::env;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process_group, test_kill_process_group, waitid,
};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::{CommandLine, span};
use crate::util::backoff::Backoff;
use crate::util::proc;
use orphans::{Ours, Started};
use output::Output;

/// How programs are started.
#[derive(Clone, Debug)]
pub struct Launcher {
    shim: Option<PathBuf>,
    open_files: u64,
    ours: Ours,
}

/// Why a program did not run to its end; names it, as in "start hook `/bin/x`".
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It was never started.
    #[error("cannot run the {0}: {1}")]
    NotRun(String, io::Error),
    /// It was stopped, or its exit status is unknown.
    #[error("{0}")]
    Ended(String),
}

/// A running program. Dropping it kills it and everything else in its process group.
#[derive(Debug)]
pub struct Running {
    leader: Pid,
    group: Group,
    child: Child,
    _started: Started,
    output: Output,
}

/// The variables that tell a program what it is run for.
const OURS: [&str; 6] = [
    "WAKEPORT_EVENT",
    "WAKEPORT_TARGET",
    "WAKEPORT_LISTENER",
    "WAKEPORT_CLIENT",
    "WAKEPORT_ATTEMPT",
    "WAKEPORT_TIMEOUT_SEC",
];

/// What systemd passes to us alone (systemd.exec(5), "Environment Variables Set or Propagated by
/// the Service Manager").
const SYSTEMDS: [&str; 9] = [
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "FDSTORE",
    "JOURNAL_STREAM",
];

/// How long a program may take to end after SIGTERM.
const TERM_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a killed process may take to be gone. Only a system call that hangs can delay it, and
/// then possibly for ever.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

impl Launcher {
    /// Starts programs with `open_files` as their soft limit on open files, by way of
    /// [`wakeport child`](crate::cli::child), so that they die with us.
    pub fn new(open_files: u64) -> Self {
        // Still right when the file is replaced.
        Self {
            shim: Some("/proc/self/exe".into()),
            open_files,
            ours: Ours::default(),
        }
    }

    /// Starts programs directly: in a test, we are not `wakeport`.
    #[cfg(test)]
    pub(crate) fn direct() -> Self {
        Self {
            shim: None,
            open_files: 0,
            ours: Ours::default(),
        }
    }

    /// Where we are the init process of a container: waits for its orphans when they have ended. To
    /// run on the main thread, as [`Launcher::start`].
    pub async fn reap_orphans(self) {
        self.ours.reap_others().await;
    }

    /// Starts `command`, the `what` (say, `start hook`), with our environment and `variables`.
    ///
    /// To be called on the main thread only: the kernel kills the program when the *thread* that
    /// started it ends.
    pub fn start(
        &self,
        what: &'static str,
        command: &CommandLine,
        variables: &[(&str, String)],
    ) -> Result<Running, RunError> {
        self.spawn(what, command, variables)
            .map_err(|error| RunError::NotRun(named(what, command), error))
    }

    /// Runs `command` to its end, or until `limit` or `given_up`: then it gets SIGTERM, 5 s later
    /// SIGKILL, and is gone on return. What it leaves in the background otherwise stays, but its
    /// output is not read any more: a write there ends it (SIGPIPE).
    pub async fn run(
        &self,
        what: &'static str,
        command: &CommandLine,
        variables: &[(&str, String)],
        limit: Duration,
        given_up: &CancellationToken,
    ) -> Result<ExitStatus, RunError> {
        let mut running = self.start(what, command, variables)?;
        let named = named(what, command);
        let failure = tokio::select! {
            status = running.ended() => match status {
                Ok(status) => {
                    running.group.release();
                    return Ok(status);
                }
                Err(error) => format!("cannot wait for the {named}: {error}"),
            },
            () = sleep(limit) => format!("the {named} timed out after {}", span::show(limit)),
            () = given_up.cancelled() => format!("the {named} was cancelled"),
        };
        if let Err(error) = running.stop(TERM_TIMEOUT).await {
            tracing::warn!(program = what, "cannot stop `{command}`: {error}");
        }
        Err(RunError::Ended(failure))
    }

    fn spawn(
        &self,
        what: &'static str,
        command: &CommandLine,
        variables: &[(&str, String)],
    ) -> io::Result<Running> {
        // The shim could only report it by an exit code that might be the program's own.
        find(&command.program)?;
        let mut prepared = match &self.shim {
            None => Command::new(&command.program),
            Some(shim) => {
                let (files, us) = (self.open_files.to_string(), std::process::id().to_string());
                let ours = ["child", "--open-files", &files, "--parent", &us, "--"];
                let mut prepared = Command::new(shim);
                prepared.arg0("wakeport").args(ours).arg(&command.program);
                prepared
            }
        };
        prepared.args(&command.arguments);
        for variable in OURS.iter().chain(&SYSTEMDS) {
            prepared.env_remove(variable);
        }
        prepared.envs(variables.iter().map(|(name, value)| (name, value)));
        // One pipe for both keeps the lines in the order in which they were written.
        let (reader, writer) = io::pipe()?;
        prepared
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
        let child = prepared.process_group(0).kill_on_drop(true).spawn()?;
        let leader = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let leader = leader.ok_or_else(|| io::Error::other("it has no process ID"))?;
        let output = Output::new(what, pipe);
        Ok(Running {
            leader,
            group: Group(Some(leader)),
            child,
            _started: self.ours.add(leader),
            output,
        })
    }
}

fn named(what: &str, command: &CommandLine) -> String {
    format!("{what} `{}`", command.program)
}

impl Running {
    /// Its process ID, which is its group's, too.
    pub fn id(&self) -> Pid {
        self.leader
    }

    /// Waits until the program itself has ended, and passes on its output. May be dropped and called
    /// again.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = tokio::select! {
            status = self.child.wait() => status,
            never = self.output.pass_on() => match never {},
        };
        self.output.finish();
        status
    }

    /// Ends the whole group, by SIGKILL after `grace`, and returns when it is gone.
    pub async fn stop(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        self.group.signal(Signal::TERM);
        match timeout(grace, self.gone()).await {
            Ok(status) => status,
            Err(_) => self.kill().await,
        }
    }

    /// Kills the whole group, and returns when it is gone.
    pub async fn kill(&mut self) -> io::Result<ExitStatus> {
        self.group.signal(Signal::KILL);
        let hangs = || io::Error::new(io::ErrorKind::TimedOut, "it survives SIGKILL");
        timeout(KILL_TIMEOUT, self.gone())
            .await
            .unwrap_or_else(|_| Err(hangs()))
    }

    /// Waits until nothing is left of the group.
    async fn gone(&mut self) -> io::Result<ExitStatus> {
        let status = self.ended().await?;
        tokio::select! {
            () = self.group.emptied() => (),
            never = self.output.pass_on() => match never {},
        }
        self.output.finish();
        Ok(status)
    }
}

/// Whether process `child` of ours runs. One that has ended and was not waited for does not.
pub fn runs(child: Pid) -> bool {
    let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::Pid(child), peek), Ok(None))
}

/// Whether any process of `group` runs. For signals there are also those that have ended, until
/// init has waited for them, and not every container has an init that ever does.
fn any_runs(group: Pid) -> bool {
    let group = group.as_raw_nonzero().get();
    proc::pids().any(|pid| proc::process(pid).is_some_and(|process| process.group == group))
}

/// A process group, until it is known to be gone or is released. Killed with this guard.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.0 {
            // The processes that are left tell whether it had an effect.
            let _ = kill_process_group(leader, signal);
        }
    }

    fn release(&mut self) {
        self.0 = None;
    }

    /// Waits until the group, whose leader has been waited for, has no members that run.
    async fn emptied(&mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(100));
        while let Some(leader) = self.0 {
            if test_kill_process_group(leader) == Err(Errno::SRCH) || !any_runs(leader) {
                self.release();
            } else {
                sleep(backoff.pause()).await;
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Checks that there is such a program, in PATH if it is named without a directory.
fn find(program: &str) -> io::Result<()> {
    if program.contains('/') {
        return executable(Path::new(program));
    }
    let mut outcome = Err(io::ErrorKind::NotFound.into());
    for directory in env::split_paths(&env::var_os("PATH").unwrap_or("/bin:/usr/bin".into())) {
        match executable(&directory.join(program)) {
            Ok(()) => return Ok(()),
            // As execvp(3): one that may not be run does not hide one that may.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => outcome = Err(error),
            Err(_) => (),
        }
    }
    outcome
}

fn executable(path: &Path) -> io::Result<()> {
    access(path, Access::EXEC_OK)?;
    match fs::metadata(path)?.is_file() {
        true => Ok(()),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
