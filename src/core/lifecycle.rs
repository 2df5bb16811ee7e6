//! When the service sleeps and when it wakes.
//!
//! The caller reports an [`Event`], the [`ClientCounts`] and the time; it carries out the [`Action`]
//! that comes back, and reports again at [`State::deadline`] if nothing else happens first.
//!
//! Every state, every event, and what comes of it (`·` is nothing):
//!
//! ```text
#![doc = include_str!("lifecycle/grid.txt")]
//! ```

use std::time::{Duration, Instant};

use super::wake_limiter::WakeLimiter;

use State::{Asleep, Awake, Cooling, Failed, Freezing, Frozen, Stopping, Thawing, Waking};

/// Whether the service runs, as its backend sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Every part of it is up.
    Up,
    /// Every part of it is up, and does nothing until it is thawed.
    Frozen,
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
        fail_at: Option<Instant>,
    },
    /// Up, with clients.
    Awake,
    /// Up, without clients.
    Cooling {
        /// When it is frozen, unless work keeps it awake.
        freeze_at: Option<Instant>,
        /// When it is stopped, unless work keeps it awake.
        sleep_at: Option<Instant>,
    },
    /// Up, and being frozen. Clients wait.
    Freezing {
        /// When it is stopped.
        sleep_at: Option<Instant>,
    },
    /// Up, and does nothing until it is thawed, for a client or to be stopped.
    Frozen {
        /// When it is thawed to be stopped.
        sleep_at: Option<Instant>,
    },
    /// Up, and being thawed. Clients wait. Without one, it is cooling afterwards.
    Thawing {
        /// When it is frozen then.
        freeze_at: Option<Instant>,
        /// When it is stopped then.
        sleep_at: Option<Instant>,
    },
    /// On its way down. Clients wait.
    Stopping(Stop),
    /// Could not be started. Clients are rejected for a while.
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
    /// The same, with nothing left of a start that has failed.
    fn undone(mut self) -> Self {
        if let Failed { undoing, .. } = &mut self {
            *undoing = false;
        }
        self
    }

    /// When it ends by itself.
    pub fn deadline(self) -> Option<Instant> {
        match self {
            Waking { fail_at, .. } => fail_at,
            Cooling {
                freeze_at,
                sleep_at,
            } => [freeze_at, sleep_at].into_iter().flatten().min(),
            Frozen { sleep_at } => sleep_at,
            Stopping(Stop::Again { at }) => Some(at),
            Failed { undoing: true, .. } => None,
            Failed { forget_at, .. } => Some(forget_at),
            Asleep | Awake | Stopping(Stop::Ours | Stop::Theirs) => None,
            Freezing { .. } | Thawing { .. } => None,
        }
    }
}

/// What stops the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stop {
    /// We do; the order to stop is under way.
    Ours,
    /// We tried; the order failed and is repeated.
    Again {
        /// When.
        at: Instant,
    },
    /// Something else does.
    Theirs,
}

/// What just happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A client waits to be let through; the counts include it.
    Arrived,
    /// A client is gone; the counts do not include it.
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
    /// A query has ended, and this is what the service does now.
    Seen(Phase),
    /// It is up and has no client, but none of its targets answers for too long.
    Silent,
    /// Work that is not that of a client keeps it awake; this is asked again after so long.
    Busy(Duration),
    /// The cooldown is over by order.
    CutShort,
    /// It is to stop by order, clients or not.
    Forced,
    /// The order to freeze was carried out.
    Froze,
    /// The order to freeze failed: it may be frozen in part.
    FreezeFailed,
    /// The order to thaw was carried out.
    Thawed,
    /// The order to thaw failed, and this is what the service does now.
    ThawFailed(Phase),
    /// The process is about to end: without it, nothing would thaw the service.
    Ending,
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
    /// Reject the waiting clients.
    Reject,
    /// Reject the waiting clients and give up the start. With `undo`, stop what it started; report
    /// `Slept` or `SleepFailed`.
    GiveUp {
        /// Whether to stop what the start has started: not while a client is connected.
        undo: bool,
    },
    /// Stop the service; report `Slept` or `SleepFailed`.
    Sleep,
    /// Freeze the service; report `Froze` or `FreezeFailed`.
    Freeze,
    /// Thaw the service; report `Thawed` or `ThawFailed`.
    Thaw,
}

/// The clients of the service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCounts {
    /// Clients that wait to be let through.
    pub waiting: usize,
    /// Clients that were let through.
    pub connected: usize,
}

impl ClientCounts {
    /// Whether there is no client.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// How long the states last.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// From the last client's leaving to the order to stop.
    pub cooldown: Duration,
    /// From the last client's leaving to the order to freeze; [`Duration::MAX`] is never.
    pub freeze_after: Duration,
    /// From the order to start to giving up.
    pub start_timeout: Duration,
}

/// A failure is forgotten when no other has followed for so long.
pub const FORGET_AFTER: Duration = Duration::from_secs(60);

/// What comes of an event: the next state, and what must happen.
type Next = (State, Option<Action>);

/// The state of one service, how often it has failed in a row, and how often it may be woken.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    times: Times,
    limiter: WakeLimiter,
    state: State,
    failed_wakes: u32,
    failed_sleeps: u32,
}

impl Lifecycle {
    /// A service of which nothing is known yet: query it first.
    pub fn new(times: Times) -> Self {
        Self {
            times,
            limiter: WakeLimiter::default(),
            state: Asleep,
            failed_wakes: 0,
            failed_sleeps: 0,
        }
    }

    /// Wakes it only as often as `limiter` allows.
    pub fn limited(self, limiter: WakeLimiter) -> Self {
        Self { limiter, ..self }
    }

    /// What the service is doing.
    pub fn state(&self) -> State {
        self.state
    }

    /// From when on the service may be woken again, if it was woken too often lately.
    pub fn no_wake_until(&self, now: Instant) -> Option<Instant> {
        self.limiter.empty_until(now)
    }

    /// Whether a client waits to hear what the service does right now; it must be queried then.
    pub fn wants_query(&self, clients: ClientCounts) -> bool {
        let rests = matches!(self.state, Asleep | Failed { undoing: false, .. });
        rests && clients.waiting > 0
    }

    /// Whether a service that is seen frozen is so as if we had frozen it: it has no client, and is thawed
    /// for the next one without a start.
    pub fn takes_frozen(&self) -> bool {
        match self.state {
            Asleep | Cooling { .. } | Failed { undoing: false, .. } => {
                self.times.freeze_after < Duration::MAX
            }
            Freezing { .. } | Frozen { .. } | Thawing { .. } => true,
            Waking { .. } | Awake | Stopping(_) | Failed { .. } => false,
        }
    }

    /// Takes note of `event` and says what must happen because of it.
    pub fn handle(&mut self, event: Event, clients: ClientCounts, now: Instant) -> Option<Action> {
        match event {
            Event::Ready => self.failed_wakes = 0,
            Event::Slept | Event::Thawed => self.failed_sleeps = 0,
            Event::SleepFailed(_) | Event::ThawFailed(_) => self.failed_sleeps += 1,
            Event::Ending => self.times.freeze_after = Duration::MAX,
            Event::Arrived | Event::Left | Event::Started | Event::WakeFailed => (),
            Event::Froze | Event::FreezeFailed => (),
            Event::Seen(_) | Event::Silent | Event::Busy(_) | Event::Due => (),
            Event::CutShort | Event::Forced => (),
        }
        let (state, action) = self.next(event, clients, now);
        if action == Some(Action::Wake) {
            self.limiter.spend(now);
        }
        match (self.state, state) {
            (Waking { .. } | Thawing { .. }, Failed { .. }) => self.failed_wakes += 1,
            (Failed { .. }, Asleep) => self.failed_wakes = 0,
            _ => (),
        }
        self.state = state;
        action
    }

    fn next(&self, event: Event, clients: ClientCounts, now: Instant) -> Next {
        use Event::{
            Arrived, Busy, CutShort, Due, Ending, Forced, FreezeFailed, Froze, Left, Ready, Seen,
            Silent, SleepFailed, Slept, Started, ThawFailed, Thawed, WakeFailed,
        };

        let due = event == Due && self.state.deadline().is_some_and(|at| at <= now);
        let sleep = (Stopping(Stop::Ours), Some(Action::Sleep));
        // To be stopped, or to be looked after.
        let thaw = |sleep_at| thawing(None, sleep_at);
        match (self.state, event) {
            (Failed { retry_at, .. }, Arrived) if now < retry_at => {
                (self.state, Some(Action::Reject))
            }
            // It was down when it was queried last. If it may not be woken, it may still be up by
            // now, started by something else: the client waits for a query.
            (Asleep | Failed { undoing: false, .. }, Arrived)
                if self.no_wake_until(now).is_none() =>
            {
                self.wake(self.state, now)
            }
            (Asleep | Failed { undoing: false, .. }, Seen(Phase::Up)) => {
                let admit = (clients.waiting > 0).then_some(Action::Admit);
                (self.up(clients, now), admit)
            }
            (Asleep | Failed { undoing: false, .. }, Seen(Phase::Down)) => {
                self.down(self.state, clients, now)
            }
            (Asleep | Failed { undoing: false, .. }, Seen(Phase::Frozen)) => {
                match clients.waiting {
                    0 => (
                        Frozen {
                            sleep_at: self.sleep_at(now),
                        },
                        None,
                    ),
                    _ => self.thaw_for_a_client(now),
                }
            }
            (Failed { undoing: false, .. }, Due) if due => (Asleep, None),
            (Failed { undoing: true, .. }, Slept) => self.down(self.state.undone(), clients, now),

            (Waking { fail_at, .. }, Started) => {
                let started = true;
                (Waking { started, fail_at }, None)
            }
            (Waking { started: true, .. }, Ready) => (self.up(clients, now), Some(Action::Admit)),
            (Waking { .. }, WakeFailed) => self.fail(clients, now),
            (Waking { started: true, .. }, Seen(Phase::Down)) => self.fail(clients, now),
            (Waking { .. }, Due) if due => self.fail(clients, now),

            (Awake | Cooling { .. }, Arrived) => (Awake, Some(Action::Admit)),
            (Awake, Left) if clients.is_empty() => (self.up(clients, now), None),
            (Awake | Cooling { .. }, Seen(Phase::Down)) => self.down(Asleep, clients, now),
            (Awake | Cooling { .. }, Seen(Phase::Stopping)) => (Stopping(Stop::Theirs), None),
            (
                Cooling {
                    freeze_at,
                    sleep_at,
                },
                Busy(pause),
            ) => {
                let again = now.checked_add(pause);
                let freeze_at = freeze_at.and(again);
                let sleep_at = sleep_at.and_then(|at| again.map(|again| at.max(again)));
                cooling(freeze_at, sleep_at)
            }
            (Cooling { sleep_at, .. }, Due) if due => match sleep_at {
                Some(at) if at <= now => sleep,
                _ => (Freezing { sleep_at }, Some(Action::Freeze)),
            },
            // Something else has frozen it.
            (Cooling { sleep_at, .. }, Seen(Phase::Frozen)) => (Frozen { sleep_at }, None),
            (Cooling { sleep_at, .. }, Ending) => cooling(None, sleep_at),
            (Cooling { .. }, CutShort) => cooling(None, Some(now)),
            (Awake | Cooling { .. }, Forced) => sleep,
            (Frozen { .. }, CutShort | Forced) => thaw(Some(now)),
            // A new start may help, for the client that waits or the next one.
            (Awake, Silent) if clients.connected == 0 => sleep,

            (Freezing { .. }, Froze) if clients.waiting > 0 => self.thaw_for_a_client(now),
            (Freezing { sleep_at }, Froze) if self.times.freeze_after < Duration::MAX => {
                (Frozen { sleep_at }, None)
            }
            (Freezing { sleep_at }, Froze | FreezeFailed) => thaw(sleep_at),
            (Frozen { .. }, Arrived) => self.thaw_for_a_client(now),
            (Frozen { sleep_at }, Due) if due => thaw(sleep_at),
            // Something else has thawed it.
            (Frozen { sleep_at }, Seen(Phase::Up)) => {
                let freeze_at = self.freeze_at(now);
                self.thawed(freeze_at, sleep_at, clients)
            }
            // It starts and stops only when it is thawed, and where nothing runs, nothing could start.
            (
                Frozen { sleep_at },
                Seen(Phase::Starting | Phase::Stopping | Phase::Down) | Ending,
            ) => thaw(sleep_at),
            (
                Thawing {
                    freeze_at,
                    sleep_at,
                },
                Thawed | ThawFailed(Phase::Up),
            ) => self.thawed(freeze_at, sleep_at, clients),
            (Thawing { .. }, ThawFailed(Phase::Down)) => self.down(Asleep, clients, now),
            (Thawing { .. }, ThawFailed(_)) if clients.waiting > 0 => {
                (self.failed(false, now), Some(Action::Reject))
            }
            (Thawing { .. }, ThawFailed(_)) => {
                let sleep_at = Some(now + backoff(self.failed_sleeps.saturating_sub(1)));
                (Frozen { sleep_at }, None)
            }

            (Stopping(Stop::Ours), Slept) | (Stopping(Stop::Theirs), Seen(Phase::Down)) => {
                self.down(Asleep, clients, now)
            }
            (Stopping(Stop::Ours) | Failed { undoing: true, .. }, SleepFailed(phase)) => {
                let at = now + backoff(self.failed_sleeps.saturating_sub(1));
                match phase {
                    Phase::Up | Phase::Frozen => still_up(at, clients),
                    // Even if it looks down: a stop hook that failed may have left a machine running.
                    Phase::Down => self.down(Stopping(Stop::Again { at }), clients, now),
                    Phase::Starting | Phase::Stopping => (Stopping(Stop::Again { at }), None),
                }
            }
            // It is not being stopped right now: find out at once whether it can be had.
            (Stopping(Stop::Again { .. }), Arrived) => sleep,
            (Stopping(Stop::Again { .. }), Due) if due => sleep,
            (Stopping(Stop::Again { at }), Seen(Phase::Up)) => still_up(at, clients),
            (Stopping(Stop::Theirs), Seen(Phase::Up)) => {
                (self.up(clients, now), Some(Action::Admit))
            }

            // Late news about a state already left changes nothing.
            (state, _) => (state, None),
        }
    }

    /// Wakes it for those who wait, or rejects them if it was woken too often; the state is
    /// `otherwise` then.
    fn wake(&self, otherwise: State, now: Instant) -> Next {
        if self.no_wake_until(now).is_some() {
            return (otherwise, Some(Action::Reject));
        }
        let fail_at = now.checked_add(self.times.start_timeout);
        let started = false;
        (Waking { started, fail_at }, Some(Action::Wake))
    }

    fn fail(&self, clients: ClientCounts, now: Instant) -> Next {
        let undo = clients.connected == 0;
        (self.failed(undo, now), Some(Action::GiveUp { undo }))
    }

    fn failed(&self, undoing: bool, now: Instant) -> State {
        Failed {
            retry_at: now + backoff(self.failed_wakes),
            forget_at: now + FORGET_AFTER,
            undoing,
        }
    }

    fn up(&self, clients: ClientCounts, now: Instant) -> State {
        let (freeze_at, sleep_at) = (self.freeze_at(now), self.sleep_at(now));
        match clients.is_empty() {
            true => Cooling {
                freeze_at,
                sleep_at,
            },
            false => Awake,
        }
    }

    fn freeze_at(&self, now: Instant) -> Option<Instant> {
        now.checked_add(self.times.freeze_after)
    }

    fn sleep_at(&self, now: Instant) -> Option<Instant> {
        now.checked_add(self.times.cooldown)
    }

    /// It is thawed for a client: should that leave, its cooldown begins anew.
    fn thaw_for_a_client(&self, now: Instant) -> Next {
        thawing(self.freeze_at(now), self.sleep_at(now))
    }

    fn thawed(
        &self,
        freeze_at: Option<Instant>,
        sleep_at: Option<Instant>,
        clients: ClientCounts,
    ) -> Next {
        // Meanwhile the process may have begun to end.
        let freeze_at = freeze_at.filter(|_| self.times.freeze_after < Duration::MAX);
        is_up(freeze_at, sleep_at, clients)
    }

    /// It is down: wakes it if a client waits; otherwise the state is `rest`.
    fn down(&self, rest: State, clients: ClientCounts, now: Instant) -> Next {
        match clients.waiting {
            0 => (rest, None),
            _ => self.wake(rest, now),
        }
    }
}

/// An order to stop failed, and is repeated `at`. A running service is never forgotten.
fn still_up(at: Instant, clients: ClientCounts) -> Next {
    is_up(None, Some(at), clients)
}

/// It is up after all: those that wait are let through, and without any it cools until then.
fn is_up(freeze_at: Option<Instant>, sleep_at: Option<Instant>, clients: ClientCounts) -> Next {
    match clients.is_empty() {
        true => cooling(freeze_at, sleep_at),
        false => (Awake, Some(Action::Admit)),
    }
}

fn cooling(freeze_at: Option<Instant>, sleep_at: Option<Instant>) -> Next {
    let state = Cooling {
        freeze_at,
        sleep_at,
    };
    (state, None)
}

fn thawing(freeze_at: Option<Instant>, sleep_at: Option<Instant>) -> Next {
    let state = Thawing {
        freeze_at,
        sleep_at,
    };
    (state, Some(Action::Thaw))
}

/// 1 s, 2 s, 4 s … 30 s.
fn backoff(failures_before: u32) -> Duration {
    Duration::from_secs(30.min(1 << failures_before.min(5)))
}

#[cfg(test)]
mod tests;
