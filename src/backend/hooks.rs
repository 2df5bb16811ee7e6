//! The administrator's own programs start and stop the service.
//!
//! A hook reads what it is run for from its environment: `WAKEPORT_EVENT` (`start`, `stop`, `freeze` or `thaw`),
//! `WAKEPORT_TARGET`, `WAKEPORT_ATTEMPT` (1, 2, ...), `WAKEPORT_TIMEOUT_SEC` (seconds left for
//! this run, rounded up; absent when there is no limit), and the start hook `WAKEPORT_LISTENER`
//! and `WAKEPORT_CLIENT`, too. It exits with 0 when all is done, with 75 (EX_TEMPFAIL,
//! sysexits.h(3head)) to be run again a little later, with anything else when it has failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::backend::{Failure, StopScope, WakeOrder, Woken};
use crate::config::{CommandLine, Pause};
use crate::core::lifecycle::Phase;
use crate::net::dial::{Dialer, Target};
use crate::program::{Launcher, RunError};
use crate::util::backoff::Backoff;

/// The programs, and the targets that tell whether they succeeded.
#[derive(Debug)]
pub struct Hooks {
    pub(super) start: Option<CommandLine>,
    pub(super) stop: Option<CommandLine>,
    pub(super) pause: Option<Pause>,
    /// We have frozen it; or a process before us may have, which only the thaw hook could tell.
    pub(super) may_be_frozen: AtomicBool,
    pub(super) targets: Vec<Arc<Target>>,
    pub(super) dialer: Dialer,
    pub(super) launcher: Launcher,
    pub(super) stop_timeout: Duration,
}

/// The exit code that asks for another run: EX_TEMPFAIL.
const TEMPORARY_FAILURE: i32 = 75;

/// The pauses before another run: 1 s, 2 s, 4 s, ... 30 s.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const RERUN: Backoff = Backoff::new(FIRST_PAUSE, Duration::from_secs(30));

/// How long the hooks that freeze and thaw may take.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The pauses between probes of a target that has to go down.
const PROBE: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

impl Hooks {
    /// Whether any target answers. Without a stop hook the service counts as down at all times: it
    /// is stopped from outside, and we need not stay for that.
    pub async fn query(&self) -> Result<Phase, Failure> {
        match self.stop {
            // The kernel accepts connections for it all the same.
            Some(_) if self.answering().await.is_some() => {
                Ok(match self.may_be_frozen.load(Ordering::Relaxed) {
                    true => Phase::Frozen,
                    false => Phase::Up,
                })
            }
            _ => Ok(Phase::Down),
        }
    }

    /// Runs the freeze hook.
    pub async fn freeze(&self) -> Result<(), Failure> {
        let Some(Pause { freeze, .. }) = &self.pause else {
            return Ok(());
        };
        // Whatever comes of it.
        self.may_be_frozen.store(true, Ordering::Relaxed);
        self.run_briefly("freeze", "freeze hook", freeze).await
    }

    /// Runs the thaw hook, unless it is known that nothing is frozen.
    pub async fn thaw(&self) -> Result<(), Failure> {
        if let (Some(Pause { thaw, .. }), true) =
            (&self.pause, self.may_be_frozen.load(Ordering::Relaxed))
        {
            self.run_briefly("thaw", "thaw hook", thaw).await?;
            self.may_be_frozen.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn run_briefly(
        &self,
        event: &str,
        what: &'static str,
        command: &CommandLine,
    ) -> Result<(), Failure> {
        let (deadline, never) = (Deadline::after(PAUSE_TIMEOUT), CancellationToken::new());
        let variables = self.variables(event);
        let run = self.run(what, command, variables, deadline, &never);
        run.await.result
    }

    fn variables(&self, event: &str) -> Vec<(&'static str, String)> {
        let mut variables = vec![("WAKEPORT_EVENT", event.to_owned())];
        if let Some(target) = self.targets.first() {
            variables.push(("WAKEPORT_TARGET", target.to_string()));
        }
        variables
    }

    /// Runs the start hook, unless the target answers already.
    pub async fn wake(&self, order: WakeOrder) -> Woken {
        let deadline = Deadline::after(order.limit);
        if self.dialer.answers(&order.target).await {
            return woken(StopScope::Nothing, self.thaw().await.map_err(|why| why.0));
        }
        let Some(command) = &self.start else {
            return woken(StopScope::Nothing, Ok(()));
        };
        let variables = vec![
            ("WAKEPORT_EVENT", "start".to_owned()),
            ("WAKEPORT_TARGET", order.target.to_string()),
            ("WAKEPORT_LISTENER", order.listener.to_string()),
            ("WAKEPORT_CLIENT", order.client.to_string()),
        ];
        let woken = self
            .run("start hook", command, variables, deadline, &order.given_up)
            .await;
        // What has just begun was not frozen by an earlier process.
        if woken.result.is_ok() {
            self.may_be_frozen.store(false, Ordering::Relaxed);
        }
        woken
    }

    /// Runs the stop hook, and waits until no target answers: a service that is still stopping must
    /// not get another client.
    pub async fn sleep(&self) -> Result<(), Failure> {
        let Some(command) = &self.stop else {
            return Ok(());
        };
        let deadline = Deadline::after(self.stop_timeout);
        if let Err(why) = self.thaw().await {
            tracing::warn!("{why}; stopping it all the same");
        }
        let variables = self.variables("stop");
        let never = CancellationToken::new();
        self.run("stop hook", command, variables, deadline, &never)
            .await
            .result?;

        let mut backoff = PROBE;
        while let Some(target) = self.answering().await {
            let left = deadline.left();
            if left.is_zero() {
                return Err(Failure(format!(
                    "the stop hook `{command}` succeeded, but `{target}` still answers"
                )));
            }
            sleep(backoff.pause().min(left)).await;
        }
        Ok(())
    }

    /// Runs `command` until it does not ask to be run again.
    async fn run(
        &self,
        what: &'static str,
        command: &CommandLine,
        mut variables: Vec<(&'static str, String)>,
        deadline: Deadline,
        given_up: &CancellationToken,
    ) -> Woken {
        let mut started = StopScope::Nothing;
        let mut backoff = RERUN;
        let standing = variables.len();
        for attempt in 1.. {
            if given_up.is_cancelled() {
                break;
            }
            let left = deadline.left();
            variables.truncate(standing);
            variables.push(("WAKEPORT_ATTEMPT", attempt.to_string()));
            if left < Duration::MAX {
                let seconds = left.as_millis().div_ceil(1000);
                variables.push(("WAKEPORT_TIMEOUT_SEC", seconds.to_string()));
            }
            let ended = self
                .launcher
                .run(what, command, &variables, left, given_up)
                .await;
            if !matches!(ended, Err(RunError::NotRun(..))) {
                started = StopScope::All;
            }
            let failure = match ended {
                Ok(status) if status.success() => return woken(started, Ok(())),
                // With too little time left for a pause, it has failed.
                Ok(status)
                    if status.code() == Some(TEMPORARY_FAILURE)
                        && deadline.left() >= FIRST_PAUSE =>
                {
                    let pause = backoff.pause().min(deadline.left() / 2);
                    tokio::select! {
                        () = sleep(pause) => (),
                        () = given_up.cancelled() => (),
                    }
                    continue;
                }
                Ok(status) => format!("the {what} `{command}` failed ({status})"),
                Err(error) => error.to_string(),
            };
            return woken(started, Err(failure));
        }
        woken(
            started,
            Err(format!("the {what} `{command}` was cancelled")),
        )
    }

    /// A target that accepts connections right now.
    async fn answering(&self) -> Option<Arc<Target>> {
        let mut probes = JoinSet::new();
        for target in self.targets.iter().cloned() {
            let dialer = self.dialer.clone();
            probes.spawn(async move { dialer.answers(&target).await.then_some(target) });
        }
        while let Some(probe) = probes.join_next().await {
            if let Ok(Some(target)) = probe {
                return Some(target);
            }
        }
        None
    }
}

fn woken(started: StopScope, result: Result<(), String>) -> Woken {
    let result = result.map_err(Failure);
    Woken { started, result }
}

/// The end of a span that may be infinite.
#[derive(Clone, Copy)]
struct Deadline(Option<Instant>);

impl Deadline {
    fn after(span: Duration) -> Self {
        Self(Instant::now().checked_add(span))
    }

    fn left(self) -> Duration {
        self.0.map_or(Duration::MAX, |at| {
            at.saturating_duration_since(Instant::now())
        })
    }
}

#[cfg(test)]
mod tests;
