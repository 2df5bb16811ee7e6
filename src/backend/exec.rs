//! The service is a child process of ours.
//!
//! It has to stay in the foreground: one that goes to the background, as daemons do, counts as exited.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::{Mutex, watch};

use crate::backend::{Failure, StopScope, WakeOrder, Woken};
use crate::config::CommandLine;
use crate::core::lifecycle::Phase;
use crate::net::dial::{Dialer, Target};
use crate::program::{self, Launcher, Running};
use crate::util::lock::locked;

/// The child, and how to start another one. It is killed with this.
#[derive(Debug)]
pub struct Child {
    command: CommandLine,
    dialer: Dialer,
    launcher: Launcher,
    stop_timeout: Duration,
    /// `Down` exactly when there is no process; changed only while `process` is held, but for
    /// the step from `Up` to `Stopping`.
    state: watch::Sender<ChildState>,
    /// Locked by what waits for the process and passes on its output: [`Child::watch`] while the
    /// state is `Up`, [`Child::sleep`] while it is `Stopping`.
    process: Mutex<Option<Running>>,
    /// We have stopped its processes, and have not let them go on.
    frozen: AtomicBool,
    foreign_reported: Once,
    failure_reason: std::sync::Mutex<Option<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ChildState {
    Down,
    Up(Pid),
    Stopping(Pid),
    /// Another process answers at this target.
    Foreign(Arc<Target>),
}

/// The child's name in the log.
const WHAT: &str = "service";

impl Child {
    /// A child that is started by `command`.
    pub fn new(
        command: CommandLine,
        dialer: Dialer,
        launcher: Launcher,
        stop_timeout: Duration,
    ) -> Self {
        Self {
            command,
            dialer,
            launcher,
            stop_timeout,
            state: watch::Sender::new(ChildState::Down),
            process: Mutex::new(None),
            frozen: AtomicBool::new(false),
            foreign_reported: Once::new(),
            failure_reason: std::sync::Mutex::default(),
        }
    }

    /// Whether the child runs, or the foreign process still answers.
    pub async fn query(&self) -> Phase {
        let state = self.state.borrow().clone();
        match state {
            ChildState::Up(child) if program::runs(child) => {
                match self.frozen.load(Ordering::Relaxed) {
                    true => Phase::Frozen,
                    false => Phase::Up,
                }
            }
            ChildState::Stopping(child) if program::runs(child) => Phase::Stopping,
            ChildState::Foreign(target) if self.dialer.answers(&target).await => Phase::Up,
            ChildState::Up(_)
            | ChildState::Stopping(_)
            | ChildState::Foreign(_)
            | ChildState::Down => Phase::Down,
        }
    }

    /// How the child ended when it exited unexpectedly. A query may see that a moment before
    /// [`Child::watch`] does.
    pub async fn failure_reason(&self) -> Option<String> {
        let mut state = self.state.subscribe();
        let _ = state
            .wait_for(|state| !matches!(state, ChildState::Up(_)))
            .await;
        locked(&self.failure_reason).clone()
    }

    /// Starts the child, unless it runs or another process answers at the target.
    pub async fn wake(&self, order: WakeOrder) -> Woken {
        let (started, result) = match self.start(&order).await {
            Ok(started) => (started, Ok(())),
            Err(failure) => (StopScope::Nothing, Err(failure)),
        };
        Woken { started, result }
    }

    /// Stops all processes of the child's group where they are. A foreign process goes on.
    pub fn freeze(&self) -> Result<(), Failure> {
        self.signal(Signal::STOP, true)
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<(), Failure> {
        self.signal(Signal::CONT, false)
    }

    fn signal(&self, signal: Signal, frozen: bool) -> Result<(), Failure> {
        let child = match &*self.state.borrow() {
            ChildState::Up(child) => *child,
            ChildState::Foreign(target) if frozen => {
                return Err(Failure(format!("another process answers at `{target}`")));
            }
            ChildState::Foreign(_) | ChildState::Stopping(_) | ChildState::Down => return Ok(()),
        };
        if self.frozen.swap(frozen, Ordering::Relaxed) == frozen {
            return Ok(());
        }
        let what = if frozen { "freeze" } else { "thaw" };
        let command = &self.command;
        kill_process_group(child, signal)
            .map_err(|error| Failure(format!("cannot {what} the {WHAT} `{command}`: {error}")))
    }

    /// Stops the child and all of its process group. A foreign process is left alone.
    pub async fn sleep(&self) -> Result<(), Failure> {
        // A process that is stopped does not hear of SIGTERM.
        self.thaw()?;
        self.state.send_if_modified(|state| match *state {
            ChildState::Up(child) => {
                *state = ChildState::Stopping(child);
                true
            }
            ChildState::Foreign(_) => {
                *state = ChildState::Down;
                true
            }
            ChildState::Stopping(_) | ChildState::Down => false,
        });
        let mut process = self.process.lock().await;
        let Some(running) = process.as_mut() else {
            return Ok(());
        };
        match running.stop(self.stop_timeout).await {
            Ok(_) => {
                self.forget(&mut process);
                Ok(())
            }
            Err(error) => {
                self.state.send_replace(ChildState::Up(running.id()));
                Err(self.cannot_stop(&error))
            }
        }
    }

    /// Passes the child's output on, and logs its unexpected exit before it calls `changed`. Never
    /// returns.
    pub async fn watch(&self, changed: impl Fn() + Send + Sync) {
        let mut state = self.state.subscribe();
        loop {
            // Never fails, since the sender is our own.
            let _ = state
                .wait_for(|state| matches!(state, ChildState::Up(_)))
                .await;
            let mut process = self.process.lock().await;
            let Some(running) = process.as_mut() else {
                continue;
            };
            let ended = tokio::select! {
                ended = running.ended() => ended,
                _ = state.wait_for(|state| !matches!(state, ChildState::Up(_))) => continue,
            };
            let reason = match ended {
                Ok(status) => format!("`{}` exited unexpectedly ({status})", self.command),
                Err(error) => format!("cannot wait for `{}`: {error}", self.command),
            };
            tracing::warn!("{reason}");
            *locked(&self.failure_reason) = Some(reason);
            // Its other processes must not be in the way of the next one.
            if let Err(error) = running.kill().await {
                tracing::warn!("{}", self.cannot_stop(&error));
            }
            self.forget(&mut process);
            drop(process);
            changed();
        }
    }

    async fn start(&self, order: &WakeOrder) -> Result<StopScope, Failure> {
        self.thaw()?;
        if self.query().await == Phase::Up {
            return Ok(StopScope::Nothing);
        }
        let mut process = self.process.lock().await;
        // One that has exited unseen may have left processes behind.
        if let Some(former) = process.as_mut() {
            let killed = former.kill().await;
            killed.map_err(|error| self.cannot_stop(&error))?;
            self.forget(&mut process);
        }
        let command = &self.command;
        if self.dialer.answers(&order.target).await {
            let address = &order.target;
            self.foreign_reported.call_once(|| {
                tracing::warn!(
                    "`{address}` answers already, so `{command}` is not started; the process that \
                     answers is left alone"
                );
            });
            self.state
                .send_replace(ChildState::Foreign(order.target.clone()));
            return Ok(StopScope::Nothing);
        }
        if order.given_up.is_cancelled() {
            return Err(Failure(format!("the start of `{command}` was cancelled")));
        }
        let running = self.launcher.start(WHAT, command, &[]);
        let running = running.map_err(|error| Failure(error.to_string()))?;
        self.state.send_replace(ChildState::Up(running.id()));
        *process = Some(running);
        Ok(StopScope::All)
    }

    fn forget(&self, process: &mut Option<Running>) {
        *process = None;
        self.frozen.store(false, Ordering::Relaxed);
        self.state.send_replace(ChildState::Down);
    }

    fn cannot_stop(&self, error: &io::Error) -> Failure {
        Failure(format!(
            "cannot stop the {WHAT} `{}`: {error}",
            self.command
        ))
    }
}

#[cfg(test)]
mod tests;
