//! All there is: clients, the service as systemd knows it, and wakeport's process, which may run or
//! not.
//!
//! There is no time in it but the lifecycle's own: a deadline passes as early or as late as it
//! likes, so whatever holds here holds for all values of the options. Two states that differ in
//! the values of their instants only are one state.

use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use crate::core::lifecycle::{Lifecycle, Phase, State, Stop, Times};
use crate::core::wake_limiter::WakeLimiter;

pub(crate) const CLIENTS: usize = 3;
pub(crate) const DOORS: usize = 2;

pub(crate) const COOLDOWN: Duration = Duration::from_secs(300);
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(90);

/// What is no part of the state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aside<T>(pub(crate) T);

impl<T> Hash for Aside<T> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// A timer of the driver's: it matters whether it is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timer(pub(crate) Option<Instant>);

impl Hash for Timer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.is_some().hash(state);
    }
}

/// The real lifecycle, and what time it is.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    pub(crate) lifecycle: Lifecycle,
    pub(crate) now: Instant,
}

impl Hash for Core {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let state = self.lifecycle.state();
        std::mem::discriminant(&state).hash(hasher);
        self.lifecycle
            .no_wake_until(self.now)
            .is_some()
            .hash(hasher);
        match state {
            State::Asleep | State::Awake => (),
            State::Waking { started, .. } => started.hash(hasher),
            State::Cooling { sleep_at } => sleep_at.is_some().hash(hasher),
            State::Stopping(stop) => match stop {
                Stop::Ours => 0_u8.hash(hasher),
                Stop::Again { .. } => 1_u8.hash(hasher),
                Stop::Theirs => 2_u8.hash(hasher),
            },
            State::Failed {
                retry_at, undoing, ..
            } => (self.now >= retry_at, undoing).hash(hasher),
        }
    }
}

/// Some of the clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Set(u8);

impl Set {
    pub(crate) fn insert(&mut self, client: u8) {
        self.0 |= 1 << client;
    }

    pub(crate) fn remove(&mut self, client: u8) -> bool {
        let had = self.has(client);
        self.0 &= !(1 << client);
        had
    }

    pub(crate) fn has(self, client: u8) -> bool {
        self.0 >> client & 1 == 1
    }

    pub(crate) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Those who came first come first.
    pub(crate) fn iter(self) -> impl Iterator<Item = u8> {
        (0..8).filter(move |&client| self.has(client))
    }
}

/// A client, as whoever looks over its shoulder sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    Away,
    /// In the kernel's queue.
    Backlog,
    /// Accepted; no verdict yet.
    Waiting,
    /// Let through, about to dial.
    Admitted,
    /// Its session has been told to reset it.
    TurnedAway,
    Connected,
    Gone(End),
}

/// How it went for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Served,
    TurnedAway,
    /// It did not want to wait.
    Left,
    /// wakeport was killed, or stopped and did not want to wait.
    Cut,
}

impl Client {
    pub(crate) fn is_accepted(self) -> bool {
        match self {
            Self::Waiting | Self::Admitted | Self::TurnedAway | Self::Connected => true,
            Self::Away | Self::Backlog | Self::Gone(_) => false,
        }
    }
}

/// The service as systemd knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Service {
    pub(crate) phase: Phase,
    /// Up, and its target answers.
    pub(crate) answers: bool,
    /// A start waits for the stop to end.
    pub(crate) again: bool,
    /// On its way up without a job: it restarts itself.
    pub(crate) by_itself: bool,
    /// It gets no further by itself.
    pub(crate) hung: bool,
    /// The administrator has started it.
    pub(crate) by_admin: bool,
    /// wakeport has seen it run since.
    pub(crate) known: bool,
}

impl Service {
    pub(crate) fn becomes(&mut self, phase: Phase) {
        self.phase = phase;
        self.answers = false;
        self.by_itself = false;
        if matches!(phase, Phase::Stopping | Phase::Down) {
            self.hung = false;
        }
        if phase == Phase::Down {
            self.by_admin = false;
            self.known = false;
        }
    }

    /// `StartUnit`.
    pub(crate) fn start(&mut self) {
        match self.phase {
            Phase::Down => self.becomes(Phase::Starting),
            Phase::Stopping => self.again = true,
            Phase::Starting => self.by_itself = false,
            Phase::Up => (),
        }
    }

    /// `StopUnit`.
    pub(crate) fn stop(&mut self) {
        self.again = false;
        if matches!(self.phase, Phase::Up | Phase::Starting) {
            self.becomes(Phase::Stopping);
        }
    }
}

/// What the driver is told: `Message` in src/service/message.rs. Only clients and the process itself
/// queue up: their order is what it is all about. The others, of whom there is one at a time, are
/// heard at any moment after they have something to tell, which allows more than the real inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    Arrived(u8),
    Refused(u8),
    Left(u8),
    Woken(Result<(), ()>),
    Slept(Result<(), Phase>),
    Answered(u8),
    Changed,
    Looked(Option<Phase>),
    MayExit,
    Close { sleep: bool },
}

/// One target: `Door` in src/service/door.rs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Door {
    pub(crate) waiting: Set,
    pub(crate) open: bool,
    pub(crate) answer: bool,
    pub(crate) asking: bool,
}

/// An order to the backend, begun and not over: src/service/orders.rs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Order {
    pub(crate) kind: Kind,
    pub(crate) progress: Progress,
    pub(crate) given_up: bool,
    /// It has started something.
    pub(crate) started: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Wake,
    Sleep,
    GiveUp { undo: bool },
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Progress {
    /// It may begin when the one before is over.
    Begun,
    /// systemd has its job.
    Going,
    /// A stop has failed; what the service does now is about to be read.
    Failing,
    /// A start has ended like this, which is about to be told.
    Woken(Result<(), ()>),
    /// The same for a stop.
    Slept(Result<(), Phase>),
}

/// A look at the service: `Driver::look`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Look {
    /// No order was begun or ended meanwhile.
    pub(crate) fresh: bool,
    pub(crate) sight: Sight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sight {
    Unread,
    Read(Option<Phase>),
}

/// How far the process has come: the loop and what follows it in src/cli/run.rs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// Clients are accepted.
    Serving,
    /// Accepts nobody, has asked whether it may exit.
    Asking,
    Answered(bool),
    /// It may, and nobody came at the last moment.
    Closing,
    /// SIGTERM: accepts nobody, waits for those who are here.
    Draining,
    /// The same with nobody here.
    Drained,
    /// The driver has ended, and the last order stops the service.
    Stopping,
}

/// The process: the driver (src/service.rs) and what runs around it.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Wakeport {
    pub(crate) core: Core,
    pub(crate) inbox: Vec<Message>,
    pub(crate) settled: bool,
    pub(crate) idle: bool,
    pub(crate) doors: [Door; DOORS],
    pub(crate) connected: Set,
    /// Turned away, and not gone yet.
    pub(crate) leaving: Set,
    pub(crate) limits: [Timer; CLIENTS],
    pub(crate) woken_for: u8,
    pub(crate) orders: Vec<Order>,
    /// What the order that was over last has started.
    pub(crate) started: bool,
    pub(crate) look: Option<Look>,
    pub(crate) look_again: bool,
    pub(crate) look_at: Timer,
    pub(crate) seen_down: bool,
    /// Somebody was refused, and others may follow.
    pub(crate) stays: Timer,
    pub(crate) stage: Stage,
}

impl Wakeport {
    pub(crate) fn new(budget: WakeLimiter, now: Instant) -> Self {
        let times = Times {
            cooldown: COOLDOWN,
            start_timeout: START_TIMEOUT,
        };
        Self {
            core: Core {
                lifecycle: Lifecycle::new(times).limited(budget),
                now,
            },
            inbox: Vec::new(),
            settled: false,
            idle: false,
            doors: [Door::default(); DOORS],
            connected: Set::default(),
            leaving: Set::default(),
            limits: [Timer::default(); CLIENTS],
            woken_for: 0,
            orders: Vec::new(),
            started: false,
            look: None,
            look_again: false,
            look_at: Timer::default(),
            seen_down: false,
            stays: Timer::default(),
            stage: Stage::Serving,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.core.lifecycle.state()
    }
}

/// How much may go wrong, or just differently, in one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Trouble {
    /// The service fails, hangs, dies; an order is refused or takes too long.
    pub(crate) failures: u8,
    /// The administrator starts or stops the service.
    pub(crate) admin: u8,
    /// The bus is gone for a while.
    pub(crate) bus: u8,
    /// SIGKILL for wakeport.
    pub(crate) kills: u8,
    /// SIGTERM for wakeport.
    pub(crate) terms: u8,
    /// A client does not want to wait.
    pub(crate) leaves: u8,
}

/// What makes a world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// How many clients come, and the door of each.
    pub(crate) clients: &'static [u8],
    pub(crate) stop_on_exit: bool,
    /// `--wake-rate`: one wake in a time that is longer than any other.
    pub(crate) one_wake: bool,
    /// What is wrong with this world, to see whether that is found.
    pub(crate) defect: Option<Defect>,
}

/// Something that wakeport might do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// The driver loses an order to let clients through.
    ForgetsToAdmit,
    /// It starts the service anew for each client.
    WakesForEach,
    /// It starts it while it is being stopped.
    WakesDuringAStop,
    /// It forgets those who have waited through a stop.
    ForgetsWhoWaited,
    /// It does not stop what it finds running.
    NeverAdopts,
    /// It never forgets that a start has failed.
    NeverForgets,
    /// It turns clients away while it stops.
    TurnsAwayDuringAStop,
    /// It does not stop the service when nobody is here.
    NeverCools,
    /// A look counts that was begun before an order.
    BelievesOldLooks,
    /// It trusts that there will be news.
    NeverPolls,
    /// It exits without having looked.
    ExitsBlindly,
    /// It asks whether it may exit with the doors open.
    AsksWithOpenDoors,
    /// It does not open them again when it may not.
    KeepsDoorsShut,
    /// It exits before those whom it turns away are gone.
    ExitsUnderThoseWhoLeave,
}

/// Everything.
#[derive(Clone, Debug, Hash)]
pub(crate) struct World {
    pub(crate) clients: [Client; CLIENTS],
    pub(crate) service: Service,
    pub(crate) bus: bool,
    pub(crate) wakeport: Option<Wakeport>,
    /// It was killed: systemd starts it anew without being asked.
    pub(crate) restarts: bool,
    /// What runs belongs to the next wakeport: SIGTERM has left it, or the administrator has
    /// started it while there was none.
    pub(crate) heirloom: bool,
    /// The wake that there may be was spent, be it in an earlier life.
    pub(crate) spent: bool,
    /// Something went wrong during this wake (or this last stop), so it may fail.
    pub(crate) excuse: bool,
    pub(crate) left: Trouble,
    pub(crate) rules: Aside<Rules>,
    pub(crate) now: Aside<Instant>,
    /// What must not happen, and has.
    pub(crate) fault: Aside<Option<&'static str>>,
}

impl World {
    pub(crate) fn new(rules: Rules, left: Trouble, now: Instant) -> Self {
        Self {
            clients: [Client::Away; CLIENTS],
            service: Service {
                phase: Phase::Down,
                answers: false,
                again: false,
                by_itself: false,
                hung: false,
                by_admin: false,
                known: false,
            },
            bus: true,
            wakeport: None,
            restarts: false,
            heirloom: false,
            spent: false,
            excuse: false,
            left,
            rules: Aside(rules),
            now: Aside(now),
            fault: Aside(None),
        }
    }

    pub(crate) fn has(&self, defect: Defect) -> bool {
        self.rules.0.defect == Some(defect)
    }

    pub(crate) fn expect(&mut self, holds: bool, otherwise: &'static str) {
        if !holds {
            self.fault.0.get_or_insert(otherwise);
        }
    }

    /// Nothing runs that costs anything, and nobody wants anything.
    pub(crate) fn is_at_rest(&self) -> bool {
        let quiet = |client: &Client| matches!(client, Client::Away | Client::Gone(_));
        self.wakeport.is_none()
            && !self.restarts
            && self.clients.iter().all(quiet)
            && (self.service.phase == Phase::Down || self.heirloom)
    }

    /// What may be spent by now.
    pub(crate) fn budget(&self) -> WakeLimiter {
        if !self.rules.0.one_wake {
            return WakeLimiter::default();
        }
        let now = self
            .wakeport
            .as_ref()
            .map_or(self.now.0, |process| process.core.now);
        WakeLimiter::new(1, Duration::MAX, self.spent.then_some(now))
    }

    /// The process that runs.
    pub(crate) fn process(&mut self) -> &mut Wakeport {
        self.wakeport.as_mut().expect("wakeport runs")
    }

    pub(crate) fn post(&mut self, message: Message) {
        self.process().inbox.push(message);
    }
}
