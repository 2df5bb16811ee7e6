//! When the service sleeps and when it wakes.
//!
//! This module decides and never acts: no socket, no D-Bus, no clock. The driver reports an
//! [`Event`], who is there ([`ClientCounts`]) and the time; it carries out the [`Action`] that comes
//! back, and reports again at [`Lifecycle::deadline`] if nothing else happens first.
//!
//! Every state, every event, and what comes of it (`·` is nothing):
//!
//! ```text
#![doc = include_str!("lifecycle/grid.txt")]
//! ```

use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use super::wake_limiter::WakeLimiter;

use State::{Asleep, Awake, Cooling, Failed, Stopping, Waking};

/// Whether the service runs, as its backend sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Every part of it is up.
    Up,
    /// On its way up, restarting itself included.
    Starting,
    /// On its way down.
    Stopping,
    /// Down, and nothing is about to change that.
    Down,
}

/// What the service is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Down. Costs nothing; the process may exit.
    Asleep,
    /// Told to start. Clients wait.
    Waking {
        /// The order to start is done; what is left is that the service answers.
        started: bool,
        /// When the start has failed.
        give_up_at: Option<Instant>,
    },
    /// Up, and somebody is here.
    Awake,
    /// Up, and nobody is here.
    Cooling {
        /// When it is put to sleep.
        sleep_at: Option<Instant>,
    },
    /// On its way down. Clients wait.
    Stopping(Stop),
    /// Could not be started. Clients are turned away for a while.
    Failed {
        /// From when on a client may try again.
        retry_at: Instant,
        /// When the failure is forgotten.
        forget_at: Instant,
        /// What the failed start left behind is still being stopped.
        undoing: bool,
    },
}

impl State {
    /// Its name, as in the journal's `WAKEPORT_STATE`.
    pub fn name(self) -> &'static str {
        match self {
            Asleep => "asleep",
            Waking { .. } => "waking",
            Awake => "awake",
            Cooling { .. } => "cooling",
            Stopping(_) => "stopping",
            Failed { .. } => "failed",
        }
    }
}

/// Who stops the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stop {
    /// We do; the order to stop is under way.
    Ours,
    /// We tried; the order failed and is repeated.
    Again {
        /// When.
        at: Instant,
    },
    /// Somebody else does.
    Theirs,
}

/// What just happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A client waits to be let through; the crowd counts it already.
    Arrived,
    /// A client is gone; the crowd does not count it any more.
    Left,
    /// The order to start was carried out.
    Started,
    /// The service answers.
    Ready,
    /// The order to start failed.
    WakeFailed,
    /// The order to stop was carried out: the service is down.
    Slept,
    /// The order to stop failed, and this is what the service does now.
    SleepFailed(Phase),
    /// Somebody looked, and this is what the service does now.
    Seen(Phase),
    /// The deadline has passed.
    Due,
}

/// What must happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start the service; report `Started` or `WakeFailed`, then `Ready`.
    Wake,
    /// Let the waiting clients through.
    Admit,
    /// Turn the waiting clients away.
    TurnAway,
    /// Turn the waiting clients away and give up the start. With `undo`, stop what it started;
    /// report `Slept` or `SleepFailed`.
    GiveUp {
        /// Whether to stop what the start has started: not while somebody uses the service.
        undo: bool,
    },
    /// Stop the service; report `Slept` or `SleepFailed`.
    Sleep,
}

/// Who is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCounts {
    /// Clients that wait to be let through.
    pub waiting: usize,
    /// Clients that were let through.
    pub connected: usize,
}

impl ClientCounts {
    /// Whether nobody is here at all.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// How long the states last.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// From the last client's leaving to the order to stop.
    pub cooldown: Duration,
    /// From the order to start to giving up.
    pub start_timeout: Duration,
}

/// A failure is forgotten when no other has followed for so long.
pub const FORGET_AFTER: Duration = Duration::from_secs(60);

/// The state of one service, how often it has failed in a row, and how often it may be woken.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    times: Times,
    budget: WakeLimiter,
    state: State,
    failed_wakes: u32,
    failed_sleeps: u32,
}

impl Lifecycle {
    /// A service of which nothing is known yet: whoever creates it looks first.
    pub fn new(times: Times) -> Self {
        Self {
            times,
            budget: WakeLimiter::default(),
            state: Asleep,
            failed_wakes: 0,
            failed_sleeps: 0,
        }
    }

    /// Wakes it only as often as `budget` allows.
    pub fn limited(self, budget: WakeLimiter) -> Self {
        Self { budget, ..self }
    }

    /// Whether wakes are limited at all.
    pub fn is_limited(&self) -> bool {
        self.budget.is_limited()
    }

    /// What tells two of them apart at `now`: all but how far away the instants are.
    pub fn fingerprint(&self, now: Instant, hasher: &mut impl Hasher) {
        std::mem::discriminant(&self.state).hash(hasher);
        self.no_wake_until(now).is_some().hash(hasher);
        match self.state {
            Asleep | Awake => (),
            Waking { started, .. } => started.hash(hasher),
            Cooling { sleep_at } => sleep_at.is_some().hash(hasher),
            Stopping(stop) => std::mem::discriminant(&stop).hash(hasher),
            Failed {
                retry_at, undoing, ..
            } => (now >= retry_at, undoing).hash(hasher),
        }
    }

    /// What the service is doing.
    pub fn state(&self) -> State {
        self.state
    }

    /// From when on the service may be woken again, if it was woken too often lately.
    pub fn no_wake_until(&self, now: Instant) -> Option<Instant> {
        self.budget.empty_until(now)
    }

    /// Whether somebody waits to hear what the service does right now; the driver must look then.
    pub fn wants_query(&self, crowd: ClientCounts) -> bool {
        let rests = matches!(self.state, Asleep | Failed { undoing: false, .. });
        rests && crowd.waiting > 0
    }

    /// When the driver must report [`Event::Due`] if nothing happens first.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            Waking { give_up_at, .. } => give_up_at,
            Cooling { sleep_at } => sleep_at,
            Stopping(Stop::Again { at }) => Some(at),
            Failed {
                forget_at,
                undoing: false,
                ..
            } => Some(forget_at),
            Asleep | Awake | Stopping(Stop::Ours | Stop::Theirs) | Failed { .. } => None,
        }
    }

    /// Takes note of `event` and says what must happen because of it.
    pub fn handle(&mut self, event: Event, crowd: ClientCounts, now: Instant) -> Option<Action> {
        match event {
            Event::Ready => self.failed_wakes = 0,
            Event::Slept => self.failed_sleeps = 0,
            Event::SleepFailed(_) => self.failed_sleeps += 1,
            Event::Arrived | Event::Left | Event::Started | Event::WakeFailed => (),
            Event::Seen(_) | Event::Due => (),
        }
        let (state, action) = self.next(event, crowd, now);
        if action == Some(Action::Wake) {
            self.budget.spend(now);
        }
        match (self.state, state) {
            (Waking { .. }, Failed { .. }) => self.failed_wakes += 1,
            (Failed { .. }, Asleep) => self.failed_wakes = 0,
            _ => (),
        }
        self.state = state;
        action
    }

    fn next(&self, event: Event, crowd: ClientCounts, now: Instant) -> (State, Option<Action>) {
        use Event::{Arrived, Due, Left, Ready, Seen, SleepFailed, Slept, Started, WakeFailed};

        let due = event == Due && self.deadline().is_some_and(|at| at <= now);
        match (self.state, event) {
            (Asleep, Arrived) => self.wake_or_look(now),
            (Asleep | Failed { undoing: false, .. }, Seen(Phase::Up)) => {
                let admit = (crowd.waiting > 0).then_some(Action::Admit);
                (self.up(crowd, now), admit)
            }
            (Asleep | Failed { undoing: false, .. }, Seen(Phase::Down)) if crowd.waiting > 0 => {
                self.wake(self.state, now)
            }

            (Waking { give_up_at, .. }, Started) => (
                Waking {
                    started: true,
                    give_up_at,
                },
                None,
            ),
            (Waking { started: true, .. }, Ready) => (self.up(crowd, now), Some(Action::Admit)),
            (Waking { .. }, WakeFailed) => self.fail(crowd, now),
            (Waking { started: true, .. }, Seen(Phase::Down)) => self.fail(crowd, now),
            (Waking { .. }, Due) if due => self.fail(crowd, now),

            (Awake | Cooling { .. }, Arrived) => (Awake, Some(Action::Admit)),
            (Awake, Left) if crowd.is_empty() => (self.up(crowd, now), None),
            (Awake | Cooling { .. }, Seen(Phase::Down)) => self.down(crowd, now),
            (Awake | Cooling { .. }, Seen(Phase::Stopping)) => (Stopping(Stop::Theirs), None),
            (Cooling { .. }, Due) if due => (Stopping(Stop::Ours), Some(Action::Sleep)),

            (Stopping(Stop::Ours), Slept) => self.down(crowd, now),
            (Stopping(Stop::Ours) | Failed { undoing: true, .. }, SleepFailed(phase)) => {
                self.still_there(phase, crowd, now)
            }
            // Nobody stops it right now: find out at once whether it can be had.
            (Stopping(Stop::Again { .. }), Arrived) => (Stopping(Stop::Ours), Some(Action::Sleep)),
            (Stopping(Stop::Again { .. }), Due) if due => {
                (Stopping(Stop::Ours), Some(Action::Sleep))
            }
            (Stopping(Stop::Again { at }), Seen(Phase::Up)) if crowd.is_empty() => {
                (Cooling { sleep_at: Some(at) }, None)
            }
            (Stopping(Stop::Again { .. }), Seen(Phase::Up)) => (Awake, Some(Action::Admit)),
            (Stopping(Stop::Theirs), Seen(Phase::Down)) => self.down(crowd, now),
            (Stopping(Stop::Theirs), Seen(Phase::Up)) => (self.up(crowd, now), Some(Action::Admit)),

            (Failed { retry_at, .. }, Arrived) if now < retry_at => {
                (self.state, Some(Action::TurnAway))
            }
            (Failed { undoing: false, .. }, Arrived) => self.wake_or_look(now),
            (Failed { undoing: false, .. }, Due) if due => (Asleep, None),
            (
                Failed {
                    undoing: true,
                    retry_at,
                    forget_at,
                },
                Slept,
            ) => {
                let undone = Failed {
                    undoing: false,
                    retry_at,
                    forget_at,
                };
                match crowd.waiting {
                    0 => (undone, None),
                    _ => self.wake(undone, now),
                }
            }

            // Late news about a state already left changes nothing.
            (state, _) => (state, None),
        }
    }

    /// Wakes it for those who wait, or turns them away if it was woken too often; the state is
    /// `otherwise` then.
    fn wake(&self, otherwise: State, now: Instant) -> (State, Option<Action>) {
        if self.no_wake_until(now).is_some() {
            return (otherwise, Some(Action::TurnAway));
        }
        let give_up_at = now.checked_add(self.times.start_timeout);
        (
            Waking {
                started: false,
                give_up_at,
            },
            Some(Action::Wake),
        )
    }

    /// The same for a client of a service that was down when somebody looked last. If it may not be
    /// woken it may still be up by now, by somebody else's doing: the client waits for a look.
    fn wake_or_look(&self, now: Instant) -> (State, Option<Action>) {
        match self.no_wake_until(now) {
            Some(_) => (self.state, None),
            None => self.wake(self.state, now),
        }
    }

    fn fail(&self, crowd: ClientCounts, now: Instant) -> (State, Option<Action>) {
        let retry_at = now + backoff(self.failed_wakes);
        let undo = crowd.connected == 0;
        let failed = Failed {
            retry_at,
            forget_at: now + FORGET_AFTER,
            undoing: undo,
        };
        (failed, Some(Action::GiveUp { undo }))
    }

    fn up(&self, crowd: ClientCounts, now: Instant) -> State {
        if crowd.is_empty() {
            Cooling {
                sleep_at: now.checked_add(self.times.cooldown),
            }
        } else {
            Awake
        }
    }

    fn down(&self, crowd: ClientCounts, now: Instant) -> (State, Option<Action>) {
        if crowd.waiting > 0 {
            self.wake(Asleep, now)
        } else {
            (Asleep, None)
        }
    }

    /// An order to stop failed. A running service is never forgotten.
    fn still_there(
        &self,
        phase: Phase,
        crowd: ClientCounts,
        now: Instant,
    ) -> (State, Option<Action>) {
        let again = now + backoff(self.failed_sleeps.saturating_sub(1));
        match phase {
            Phase::Up if crowd.is_empty() => (
                Cooling {
                    sleep_at: Some(again),
                },
                None,
            ),
            Phase::Up => (Awake, Some(Action::Admit)),
            Phase::Down if crowd.waiting > 0 => self.wake(Stopping(Stop::Again { at: again }), now),
            // Even if it looks down: a stop hook that failed may have left a machine running.
            Phase::Starting | Phase::Stopping | Phase::Down => {
                (Stopping(Stop::Again { at: again }), None)
            }
        }
    }
}

/// 1 s, 2 s, 4 s … 30 s.
fn backoff(failures_before: u32) -> Duration {
    Duration::from_secs(30.min(1 << failures_before.min(5)))
}

#[cfg(test)]
mod tests;
