//! The service is a child process of ours.
//!
//! One that goes to the background by itself, as daemons do, counts as exited: it has to be run
//! in the foreground.

use std::io;
use std::sync::{Arc, Once};
use std::time::Duration;

use rustix::process::Pid;
use tokio::sync::{Mutex, watch};

use crate::backend::{Failure, StopScope, WakeOrder, Woken};
use crate::config::CommandLine;
use crate::core::lifecycle::Phase;
use crate::net::dial::{Dialer, Target};
use crate::program::{self, Launcher, Running};

/// The child, and how to start another one. It dies with this.
#[derive(Debug)]
pub struct Child {
    command: CommandLine,
    dialer: Dialer,
    launcher: Launcher,
    stop_timeout: Duration,
    /// `Down` exactly when there is no process; changed only while `process` is held, but for
    /// the step from `Up` to `Stopping`.
    state: watch::Sender<State>,
    /// Whoever holds this waits for the process and passes on its output: [`Child::watch`] while
    /// the state is `Up`, [`Child::sleep`] while it is `Stopping`.
    process: Mutex<Option<Running>>,
    stranger: Once,
    failure_reason: std::sync::Mutex<Option<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Down,
    Up(Pid),
    Stopping(Pid),
    /// Somebody else answers at this target in our child's place.
    Foreign(Arc<Target>),
}

/// What the child is called in the log.
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
            state: watch::Sender::new(State::Down),
            process: Mutex::new(None),
            stranger: Once::new(),
            failure_reason: std::sync::Mutex::default(),
        }
    }

    /// Whether the child runs, or what answers in its place still does.
    pub async fn query(&self) -> Phase {
        let state = self.state.borrow().clone();
        match state {
            State::Up(child) if program::runs(child) => Phase::Up,
            State::Stopping(child) if program::runs(child) => Phase::Stopping,
            State::Foreign(target) if self.dialer.answers(&target).await => Phase::Up,
            State::Up(_) | State::Stopping(_) | State::Foreign(_) | State::Down => Phase::Down,
        }
    }

    /// How the child ended when it ended by itself. A look may know of its end a moment before
    /// [`Child::watch`] has taken them down.
    pub async fn failure_reason(&self) -> Option<String> {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| !matches!(state, State::Up(_))).await;
        self.failure_reason.lock().ok()?.clone()
    }

    /// Starts the child, unless it runs or somebody else answers in its place.
    pub async fn wake(&self, order: WakeOrder) -> Woken {
        let (started, result) = match self.start(&order).await {
            Ok(started) => (started, Ok(())),
            Err(failure) => (StopScope::Nothing, Err(failure)),
        };
        Woken { started, result }
    }

    /// Stops the child and all of its process group. A stranger is not ours to stop.
    pub async fn sleep(&self) -> Result<(), Failure> {
        self.state.send_if_modified(|state| match *state {
            State::Up(child) => {
                *state = State::Stopping(child);
                true
            }
            State::Foreign(_) => {
                *state = State::Down;
                true
            }
            State::Stopping(_) | State::Down => false,
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
                self.state.send_replace(State::Up(running.id()));
                Err(self.cannot_be_stopped(&error))
            }
        }
    }

    /// Keeps an eye on the child: passes its output on, and calls `changed` when it has ended by
    /// itself, after a word on how. Never returns.
    pub async fn watch(&self, changed: impl Fn() + Send + Sync) {
        let mut state = self.state.subscribe();
        loop {
            // Never fails, since the sender is our own.
            let _ = state.wait_for(|state| matches!(state, State::Up(_))).await;
            let mut process = self.process.lock().await;
            let Some(running) = process.as_mut() else {
                continue;
            };
            let ended = tokio::select! {
                ended = running.ended() => ended,
                _ = state.wait_for(|state| !matches!(state, State::Up(_))) => continue,
            };
            let words = match ended {
                Ok(status) => format!("`{}` has ended by itself ({status})", self.command),
                Err(error) => format!("`{}` is lost: {error}", self.command),
            };
            tracing::warn!("{words}");
            if let Ok(mut failure_reason) = self.failure_reason.lock() {
                *failure_reason = Some(words);
            }
            // What it left behind must not be in the way of the next one.
            if let Err(error) = running.kill().await {
                tracing::warn!("{}", self.cannot_be_stopped(&error));
            }
            self.forget(&mut process);
            drop(process);
            changed();
        }
    }

    async fn start(&self, order: &WakeOrder) -> Result<StopScope, Failure> {
        if self.query().await == Phase::Up {
            return Ok(StopScope::Nothing);
        }
        let mut process = self.process.lock().await;
        // One that has ended unwatched may have left something behind, and that goes first.
        if let Some(former) = process.as_mut() {
            let killed = former.kill().await;
            killed.map_err(|error| self.cannot_be_stopped(&error))?;
            self.forget(&mut process);
        }
        let command = &self.command;
        if self.dialer.answers(&order.target).await {
            let address = &order.target.address;
            self.stranger.call_once(|| {
                tracing::warn!(
                    "`{address}` answers already, so `{command}` is not started; \
                     what answers is left alone"
                );
            });
            self.state
                .send_replace(State::Foreign(order.target.clone()));
            return Ok(StopScope::Nothing);
        }
        if order.given_up.is_cancelled() {
            return Err(Failure(format!("the {WHAT} `{command}` was given up")));
        }
        let running = self.launcher.start(WHAT, command, &[]);
        let running = running.map_err(|error| Failure(error.to_string()))?;
        self.state.send_replace(State::Up(running.id()));
        *process = Some(running);
        Ok(StopScope::All)
    }

    fn forget(&self, process: &mut Option<Running>) {
        *process = None;
        self.state.send_replace(State::Down);
    }

    fn cannot_be_stopped(&self, error: &io::Error) -> Failure {
        Failure(format!(
            "the {WHAT} `{}` cannot be stopped: {error}",
            self.command
        ))
    }
}

#[cfg(test)]
mod tests;
