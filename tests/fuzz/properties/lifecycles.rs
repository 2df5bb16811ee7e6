//! The lifecycle, told one thing after the other: two bytes for each event. It is told what can
//! happen where orders are carried out one at a time, and besides what comes too late or is not
//! true; then less holds, but never nothing.

use std::time::{Duration, Instant};

use wakeport::core::lifecycle::{
    Action, ClientCounts, Event, FORGET_AFTER, Lifecycle, Phase, State, Stop, Times,
};
use wakeport::core::wake_limiter::WakeLimiter;

/// The longest back-off.
const BACK_OFF: Duration = Duration::from_secs(30);

/// The first byte says how long the states last, whether only what can happen happens, and how
/// often the service may be woken.
pub(super) fn property(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let spans = [0, 1, 90, u64::MAX].map(Duration::from_secs);
    let times = Times {
        cooldown: spans[usize::from(first & 3)],
        freeze_after: match first & 32 {
            0 => Duration::MAX,
            _ => spans[usize::from(first & 3)] / 2,
        },
        start_timeout: spans[usize::from(first >> 2 & 3)],
    };
    let now = wakeport::service::now();
    let (wakes, span) = (usize::from(first >> 6), Duration::from_secs(10));
    let mut life = Lifecycle::new(times);
    if wakes > 0 {
        life = life.limited(WakeLimiter::new(wakes, span, [now]));
    }
    let mut play = Play {
        life,
        times,
        woken: vec![now; usize::from(wakes > 0)],
        limit: (wakes, span),
        now,
        clients: ClientCounts::default(),
        order: None,
    };
    for pair in rest.chunks_exact(2) {
        let (what, value) = (pair[0], pair[1]);
        if first & 16 == 0 {
            play.honest(what, value);
        } else {
            play.anything(what, value);
        }
    }
}

/// An order that is under way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    Wake,
    Sleep,
    Freeze,
    Thaw,
}

struct Play {
    life: Lifecycle,
    times: Times,
    /// When.
    woken: Vec<Instant>,
    /// So many wakes in such a time; 0 is any number.
    limit: (usize, Duration),
    now: Instant,
    clients: ClientCounts,
    order: Option<Order>,
}

impl Play {
    /// Something that can happen now.
    fn honest(&mut self, what: u8, value: u8) {
        let phase = super::phase(value);
        let started = matches!(self.life.state(), State::Waking { started: true, .. });
        let event = match (what % 10, self.order) {
            (0, _) => {
                self.clients.waiting += 1;
                Event::Arrived
            }
            (1, _) if self.clients.connected > 0 => {
                self.clients.connected -= 1;
                Event::Left
            }
            (2, _) if self.clients.waiting > 0 => {
                self.clients.waiting -= 1;
                Event::Left
            }
            // Let through, and refused by the target.
            (3, _) if self.clients.connected > 0 => {
                self.clients.connected -= 1;
                self.clients.waiting += 1;
                Event::Arrived
            }
            (4, Some(Order::Wake)) if !started => {
                let done = value & 1 == 0;
                if !done {
                    self.order = None;
                }
                if done {
                    Event::Started
                } else {
                    Event::WakeFailed
                }
            }
            (5, Some(Order::Wake)) if started => {
                self.order = None;
                Event::Ready
            }
            (6, Some(Order::Sleep)) => {
                self.order = None;
                match value & 4 {
                    0 => Event::Slept,
                    _ => Event::SleepFailed(phase),
                }
            }
            (6, Some(Order::Freeze)) => {
                self.order = None;
                match value & 4 {
                    0 => Event::Froze,
                    _ => Event::FreezeFailed,
                }
            }
            (6, Some(Order::Thaw)) => {
                self.order = None;
                match value & 4 {
                    0 => Event::Thawed,
                    _ => Event::ThawFailed(phase),
                }
            }
            (7, _) => Event::Seen(phase),
            (8, _) => {
                let Some(at) = self.life.state().deadline() else {
                    return;
                };
                self.now = self.now.max(at);
                Event::Due
            }
            _ => {
                self.now += Duration::from_millis(100) * value.into();
                return;
            }
        };
        self.tell(event, true);
        self.nobody_is_forgotten();
    }

    /// Something that may be late, early, or not true.
    fn anything(&mut self, what: u8, value: u8) {
        let phase = super::phase(value);
        self.clients = ClientCounts {
            waiting: usize::from(value >> 4 & 3),
            connected: usize::from(value >> 6),
        };
        self.now += Duration::from_millis(250) * u32::from(what >> 4);
        let event = match what & 15 {
            0 | 1 => {
                self.clients.waiting += 1;
                Event::Arrived
            }
            2 => Event::Left,
            3 => Event::Started,
            4 => Event::Ready,
            5 => Event::WakeFailed,
            6 => Event::Slept,
            7 => Event::SleepFailed(phase),
            8 | 9 => Event::Seen(phase),
            11 => Event::Froze,
            12 => Event::FreezeFailed,
            13 => Event::Thawed,
            14 => Event::ThawFailed(phase),
            10 => {
                self.now = self
                    .life
                    .state()
                    .deadline()
                    .unwrap_or(self.now)
                    .max(self.now);
                Event::Due
            }
            _ => Event::Due,
        };
        self.tell(event, false);
    }

    fn tell(&mut self, event: Event, honest: bool) {
        let (before, deadline) = (self.life.state(), self.life.state().deadline());
        let action = self.life.handle(event, self.clients, self.now);
        let after = self.life.state();
        let what = format!(
            "{before:?}, {event:?} with {:?}: {after:?}, {action:?}",
            self.clients
        );
        let due = deadline.is_some_and(|at| at <= self.now);
        if event == Event::Due {
            assert!(
                self.life.state().deadline().is_none_or(|at| at > self.now),
                "still due: {what}"
            );
            assert!(
                due || (after == before && action.is_none()),
                "too early: {what}"
            );
        }
        match action {
            Some(Action::Wake) => {
                let told = !matches!(
                    before,
                    State::Waking { .. } | State::Awake | State::Cooling { .. }
                ) || event == Event::Seen(Phase::Down);
                assert!(told && self.clients.waiting > 0, "{what}");
                assert!(
                    matches!(after, State::Waking { started: false, .. }),
                    "{what}"
                );
                self.takes_turns(honest, Order::Wake, &what);
                let (most, span) = self.limit;
                let lately = |at: &&Instant| self.now.duration_since(**at) < span;
                let lately = self.woken.iter().filter(lately).count();
                assert!(most == 0 || lately < most, "{lately} wakes lately: {what}");
                self.woken.push(self.now);
            }
            Some(Action::Sleep) => {
                assert!(
                    matches!(
                        before,
                        State::Cooling { .. } | State::Stopping(Stop::Again { .. })
                    ),
                    "{what}"
                );
                assert_eq!(after, State::Stopping(Stop::Ours), "{what}");
                // No client is disconnected: with one, only a stop that failed is ordered again.
                let idle = self.clients.is_empty() || !matches!(before, State::Cooling { .. });
                assert!(idle || !honest, "{what}");
                self.takes_turns(honest, Order::Sleep, &what);
            }
            Some(Action::Freeze) => {
                let cools = matches!(before, State::Cooling { .. });
                assert!(cools && matches!(after, State::Freezing { .. }), "{what}");
                assert!(self.clients.is_empty() || !honest, "{what}");
                self.takes_turns(honest, Order::Freeze, &what);
            }
            Some(Action::Thaw) => {
                assert!(matches!(after, State::Thawing { .. }), "{what}");
                self.takes_turns(honest, Order::Thaw, &what);
            }
            Some(Action::Admit) => {
                assert!(
                    matches!(after, State::Awake | State::Cooling { .. }),
                    "{what}"
                );
                self.clients.connected += std::mem::take(&mut self.clients.waiting);
            }
            Some(Action::Reject) => {
                let too_often = self.life.no_wake_until(self.now).is_some();
                let too_early = matches!(after, State::Failed { retry_at, .. }
                    if self.now < retry_at && matches!(event, Event::Arrived | Event::ThawFailed(_)));
                assert!(too_often || too_early, "{what}");
                self.clients.waiting = 0;
            }
            Some(Action::GiveUp { undo }) => {
                let State::Failed {
                    retry_at,
                    forget_at,
                    undoing,
                } = after
                else {
                    panic!("{what}")
                };
                assert!(matches!(before, State::Waking { .. }), "{what}");
                assert_eq!(
                    (undo, undoing),
                    (self.clients.connected == 0, undo),
                    "{what}"
                );
                let wait = retry_at.duration_since(self.now);
                assert!(!wait.is_zero() && wait <= BACK_OFF, "{what}");
                assert_eq!(forget_at.duration_since(self.now), FORGET_AFTER, "{what}");
                self.clients.waiting = 0;
                self.order = undo.then_some(Order::Sleep);
            }
            None => (),
        }
        if let State::Cooling {
            sleep_at: Some(at), ..
        } = after
        {
            let longest = self.times.cooldown.max(BACK_OFF);
            assert!(at.saturating_duration_since(self.now) <= longest, "{what}");
        }
    }

    /// One order at a time.
    fn takes_turns(&mut self, honest: bool, next: Order, what: &str) {
        let before = self.order.replace(next);
        assert!(
            before.is_none() || !honest,
            "{before:?} is under way: {what}"
        );
    }

    /// A client waits for an order, the deadline, or an event from outside.
    fn nobody_is_forgotten(&self) {
        let state = self.life.state();
        if self.clients.waiting > 0 {
            let waits = match state {
                State::Waking { .. } => self.order == Some(Order::Wake),
                State::Stopping(Stop::Ours) | State::Failed { undoing: true, .. } => {
                    self.order == Some(Order::Sleep)
                }
                State::Stopping(Stop::Again { .. }) => self.life.state().deadline().is_some(),
                State::Stopping(Stop::Theirs) => true,
                // For a look, since it may not be woken right now.
                State::Asleep | State::Failed { undoing: false, .. } => {
                    self.limit.0 > 0 && self.life.wants_query(self.clients)
                }
                State::Freezing { .. } => self.order == Some(Order::Freeze),
                State::Thawing { .. } => self.order == Some(Order::Thaw),
                State::Awake | State::Cooling { .. } | State::Frozen { .. } => false,
            };
            assert!(
                waits,
                "{state:?} with {:?} and {:?}",
                self.clients, self.order
            );
        }
        if self.clients.is_empty() {
            assert_ne!(state, State::Awake, "no client");
        }
        if let State::Cooling { .. } = state {
            assert!(self.clients.is_empty(), "a client");
        }
    }
}
