//! All there is: clients, the gates, the service as systemd knows it, and wakeport's process, which
//! may run or not.
//!
//! There is no time in it but the core's own: a deadline passes as early or as late as it likes, so
//! whatever holds here holds for all values of the options. Two states that differ in the values of
//! their instants only are one state.

use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use crate::core::gate::{Occupancy, Word};
use crate::core::lifecycle::{Phase, State, Times};
use crate::core::service::{self as core, Input, Rules as CoreRules, Ticket, Timer};
use crate::core::wake_limiter::WakeLimiter;

/// Clients there is room for.
pub(crate) const CLIENTS: usize = 8;
pub(crate) const TARGETS: usize = 2;

pub(crate) const COOLDOWN: Duration = Duration::from_secs(300);
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(90);

/// What is no part of the state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aside<T>(pub(crate) T);

impl<T> Hash for Aside<T> {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// A client, as seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Client {
    Away,
    /// In the kernel's queue.
    Backlog,
    /// Accepted; no verdict yet.
    Waiting,
    /// Inside the gate, about to dial.
    Admitted,
    /// Its session has been told to reset it.
    Rejected,
    /// Inside the gate, relaying.
    Connected,
    Gone(End),
}

/// How it went for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Served,
    Rejected,
    /// It did not want to wait.
    Left,
    /// wakeport was killed, or stopped and did not want to wait.
    Cut,
}

impl Client {
    pub(crate) fn is_accepted(self) -> bool {
        match self {
            Self::Waiting | Self::Admitted | Self::Rejected | Self::Connected => true,
            Self::Away | Self::Backlog | Self::Gone(_) => false,
        }
    }
}

/// The service as systemd knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Unit {
    pub(crate) phase: Phase,
    /// Up, and its targets answer.
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
    /// wakeport has frozen it, as its slice.
    pub(crate) ours: bool,
    /// Its slice is frozen though it does not run: nothing starts there.
    pub(crate) stuck: bool,
    /// It has refused an order of the administrator's, as it is frozen.
    pub(crate) refused: bool,
}

impl Unit {
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
            self.stuck |= std::mem::take(&mut self.ours);
            self.refused = false;
        }
    }

    /// `StartUnit`.
    pub(crate) fn start(&mut self) {
        match self.phase {
            Phase::Down if self.stuck => (),
            Phase::Down => self.becomes(Phase::Starting),
            Phase::Stopping => self.again = true,
            Phase::Starting => self.by_itself = false,
            Phase::Up | Phase::Frozen => (),
        }
    }

    /// `ThawUnit`: its processes go on, as what they were.
    pub(crate) fn thaw(&mut self) {
        (self.ours, self.stuck, self.refused) = (false, false, false);
        if self.phase == Phase::Frozen {
            self.phase = Phase::Up;
        }
    }

    /// `FreezeUnit` of its slice, whatever it does by now.
    pub(crate) fn freeze(&mut self) {
        match self.phase {
            Phase::Up | Phase::Frozen => {
                self.phase = Phase::Frozen;
                self.ours = true;
            }
            Phase::Starting | Phase::Stopping => (),
            Phase::Down => self.stuck = true,
        }
    }

    /// `StopUnit`.
    pub(crate) fn stop(&mut self) {
        self.again = false;
        self.thaw();
        if matches!(self.phase, Phase::Up | Phase::Starting) {
            self.becomes(Phase::Stopping);
        }
    }
}

/// Messages to the service whose order matters: `Message` in src/service/handle.rs. The others are
/// received at any moment after they were sent, which allows more than the real inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    Arrived(u8),
    /// Holds the permit: the client is inside until this is received.
    Refused(u8),
    Left(u8),
    Ending,
    MayExit,
    Close {
        stop: bool,
    },
}

/// What the service's thread is about to do with the gates; it receives nothing before that is done,
/// while connections come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Doing {
    /// Carry out `Effect::CloseEmpty`,
    Close(usize),
    /// and report what came of it.
    Closed(usize, bool),
    /// Carry out `Effect::Watch`, at this gate next.
    Watch(usize),
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
    Start,
    Stop,
    GiveUp { undo: bool },
    Freeze,
    Thaw,
    Close { stop: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Progress {
    /// It may begin when the one before is over.
    Begun,
    /// systemd has its job.
    Going,
    /// A stop or a thaw has failed; what the service does now is about to be read.
    Failing,
}

/// A query under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Query {
    Unread,
    Read(Option<Phase>),
}

/// Whether work keeps the service awake, as far as that was asked since there is no client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    Unasked,
    Asked,
    Busy,
    /// It may be stopped: there is no work, or no answer.
    Free,
}

/// How far the process has come: the loop and what follows it in src/server.rs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// Connections are accepted.
    Serving,
    /// Accepts none, has asked whether it may exit.
    Asking,
    Answered(bool),
    /// It may, and none came at the last moment.
    Closing,
    /// SIGTERM: accepts none, waits for those that are here.
    Draining,
    /// The same with none here.
    Drained,
    /// The service's loop has ended, and the last order stops the service.
    Stopping,
}

/// The process: the core, and what runs around it.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) core: core::Service,
    pub(crate) now: Instant,
    pub(crate) gates: [Word; TARGETS],
    pub(crate) left_at: Option<Instant>,
    /// A gate has told of a change.
    pub(crate) told: bool,
    pub(crate) doing: Option<Doing>,
    pub(crate) inbox: Vec<Message>,
    /// What orders tell when they have ended, in their order.
    pub(crate) reports: Vec<Input>,
    pub(crate) settled: bool,
    pub(crate) idle: bool,
    /// Which targets are probed,
    pub(crate) probing: [bool; TARGETS],
    /// and which have answered since the service came up, and refused no connection.
    pub(crate) reachable: [bool; TARGETS],
    pub(crate) orders: Vec<Order>,
    /// What the order that was over last has started.
    pub(crate) started: bool,
    pub(crate) query: Option<Query>,
    /// The service was seen frozen last.
    pub(crate) seen_frozen: bool,
    /// The questions before a stop that are not answered, the oldest first,
    pub(crate) questions: Vec<u64>,
    /// and what the latest one has come to.
    pub(crate) verdict: Verdict,
    /// When the first one was asked since there is no client.
    pub(crate) asked_at: Aside<Option<Instant>>,
    pub(crate) stage: Stage,
    /// With `Defect::WatchesTooLate`, the gates are armed some time.
    pub(crate) arms_late: bool,
    /// With `Defect::ClosesOnClients`, what the gates said before.
    pub(crate) before: Aside<Occupancy>,
}

impl Hash for Process {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.core.fingerprint(self.now, self.occupancy(), hasher);
        for gate in self.gates {
            (gate.0 as u32 & 3, gate.inside() as u8).hash(hasher);
        }
        (self.told, self.doing, &self.inbox, &self.reports).hash(hasher);
        (self.settled, self.idle, self.probing, self.reachable).hash(hasher);
        (&self.orders, self.started, self.query, self.stage).hash(hasher);
        let latest = |number: &u64| self.core.is_asked(*number);
        for number in &self.questions {
            latest(number).hash(hasher);
        }
        self.verdict.hash(hasher);
        (self.arms_late, self.seen_frozen).hash(hasher);
    }
}

impl Process {
    pub(crate) fn new(rules: Rules, limiter: WakeLimiter, now: Instant) -> Self {
        let core_rules = CoreRules {
            times: Times {
                cooldown: COOLDOWN,
                freeze_after: match rules.freezes {
                    true => COOLDOWN / 2,
                    false => Duration::MAX,
                },
                start_timeout: START_TIMEOUT,
            },
            can_tell: rules.can_tell,
            can_start: true,
            busy_limit: rules.busy_limit,
        };
        let core = core::Service::new(core_rules, rules.targets(), limiter, now);
        let eager = (0..rules.targets()).filter(|_| rules.eager);
        Self {
            core: eager.fold(core, core::Service::eager),
            now,
            gates: [Word::default(); TARGETS],
            left_at: None,
            told: false,
            doing: None,
            inbox: Vec::new(),
            reports: Vec::new(),
            settled: false,
            idle: false,
            probing: [false; TARGETS],
            reachable: [false; TARGETS],
            orders: Vec::new(),
            started: false,
            query: None,
            seen_frozen: false,
            questions: Vec::new(),
            verdict: Verdict::Unasked,
            asked_at: Aside(None),
            stage: Stage::Serving,
            arms_late: false,
            before: Aside(Occupancy::default()),
        }
    }

    pub(crate) fn state(&self) -> State {
        self.core.state()
    }

    pub(crate) fn occupancy(&self) -> Occupancy {
        Occupancy::of(self.gates, self.left_at)
    }

    pub(crate) fn inside(&self) -> usize {
        self.gates.iter().map(|gate| gate.inside()).sum()
    }

    /// When this timer of the core's runs out, if it runs.
    pub(crate) fn at(&self, wanted: Timer) -> Option<Instant> {
        let mut timers = self.core.timers();
        timers.find_map(|(timer, at)| (timer == wanted).then_some(at))
    }

    pub(crate) fn pass(&mut self, until: Instant) {
        self.now = self.now.max(until);
    }
}

/// How much may go wrong, or just differently, in one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Trouble {
    /// The service fails, hangs, dies; an order is refused or takes too long.
    pub(crate) failures: u8,
    /// The administrator starts or stops the service.
    pub(crate) admin: u8,
    /// The administrator freezes it.
    pub(crate) freezes: u8,
    /// The bus is gone for a while.
    pub(crate) bus: u8,
    /// SIGKILL for wakeport.
    pub(crate) kills: u8,
    /// SIGTERM for wakeport.
    pub(crate) terms: u8,
    /// systemd restarts wakeport, and the next process goes on with the connections.
    pub(crate) restarts: u8,
    /// A client leaves before it is served.
    pub(crate) leaves: u8,
    /// Work keeps the service awake, for as long as it is asked once.
    pub(crate) works: u8,
}

/// What makes a world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// How many clients come, and the target of each.
    pub(crate) clients: &'static [u8],
    pub(crate) stop_on_exit: bool,
    /// `--wake-rate`: one wake in a time that is longer than any other.
    pub(crate) one_wake: bool,
    /// Queries are worth repeating.
    pub(crate) can_tell: bool,
    /// The targets take datagrams: they are asked without a client, too.
    pub(crate) eager: bool,
    /// The last connection that leaves is told: a cooldown of less than a second.
    pub(crate) tell_last: bool,
    /// The service is frozen before it is stopped.
    pub(crate) freezes: bool,
    /// What keeps the service awake is asked, and answers when it likes; otherwise at once, and
    /// nothing does.
    pub(crate) guarded: bool,
    pub(crate) busy_limit: Duration,
    /// What is wrong with this world, to see whether that is found.
    pub(crate) defect: Option<Defect>,
}

impl Rules {
    pub(crate) fn targets(self) -> usize {
        let last = self.clients.iter().max();
        last.map_or(1, |&last| usize::from(last) + 1)
    }
}

/// Something that wakeport might do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// It loses an order to let a client through.
    ForgetsToAdmit,
    /// It starts the service anew for each client.
    StartsForEach,
    /// It starts it while it is being stopped.
    StartsDuringAStop,
    /// It forgets clients that have waited through a stop.
    ForgetsWhoWaited,
    /// It does not stop what it finds running.
    NeverAdopts,
    /// It never forgets that a start has failed.
    NeverForgets,
    /// It rejects clients while it stops.
    RejectsDuringAStop,
    /// It does not stop the service when no client is here.
    NeverCools,
    /// It lets clients through to a service that it has seen frozen.
    IgnoresFreezes,
    /// It does not stop a service that answers no client.
    KeepsTheSilent,
    /// A query counts that was begun before an order.
    BelievesOldQueries,
    /// It trusts that there will be news.
    NeverPolls,
    /// It exits without a query.
    ExitsBlindly,
    /// It asks whether it may exit with the listeners open.
    AsksWithOpenListeners,
    /// It does not open them again when it may not.
    KeepsListenersClosed,
    /// It exits before clients that it rejects are gone.
    ExitsUnderRejected,
    /// It does not count the connections that it takes over.
    ForgetsWhoWasConnected,
    // -- the gates
    /// It takes a gate for closed without closing it.
    StopsWithoutClosing,
    /// It closes a gate on clients inside, and trusts what it read before.
    ClosesOnClients,
    /// A gate that refuses to close leaves those closed that were closed before.
    KeepsGatesClosed,
    /// The gates never tell of a connection that leaves.
    LeavesSilently,
    /// The gates are armed after they were read.
    WatchesTooLate,
    /// A connection that is refused leaves twice.
    LeavesTwice,
    // -- work
    /// It stops the service under work.
    IgnoresWork,
    /// It takes a late answer for that to the latest question.
    BelievesLateAnswers,
    /// It waits for an answer for ever.
    WaitsForAnswers,
    // -- freezes
    /// It does not thaw the service for a client that came while it was being frozen.
    ForgetsWhoCameToTheFreeze,
    /// It takes it that a thaw has succeeded.
    BelievesThaws,
    /// It does not thaw the service at the end of the cooldown.
    KeepsItFrozen,
    /// It does not thaw what holds a service that has died while it was frozen.
    ForgetsTheSlice,
    /// It exits on SIGTERM without a thaw.
    ExitsFrozen,
}

/// Everything.
#[derive(Clone, Debug, Hash)]
pub(crate) struct World {
    pub(crate) clients: [Client; CLIENTS],
    pub(crate) unit: Unit,
    pub(crate) bus: bool,
    pub(crate) process: Option<Process>,
    /// It was killed: systemd starts it anew without being asked.
    pub(crate) restarts: bool,
    /// What runs belongs to the next process: SIGTERM has left it, or the administrator has started
    /// it while there was none.
    pub(crate) handed_on: bool,
    /// The wake that there may be was spent, be it in an earlier life.
    pub(crate) spent: bool,
    /// Something went wrong during this wake (or this last stop), so it may fail.
    pub(crate) excuse: bool,
    pub(crate) left: Trouble,
    pub(crate) rules: Aside<Rules>,
    pub(crate) now: Aside<Instant>,
    /// A process has gone on with what another has left.
    pub(crate) replaced: Aside<bool>,
    /// How often each client has been here before.
    pub(crate) visits: Aside<[u32; CLIENTS]>,
    /// How often the service was told to stop.
    pub(crate) stops: Aside<u32>,
    /// What must not happen, and has.
    pub(crate) fault: Aside<Option<&'static str>>,
}

impl World {
    pub(crate) fn new(rules: Rules, left: Trouble, now: Instant) -> Self {
        Self {
            clients: [Client::Away; CLIENTS],
            unit: Unit {
                phase: Phase::Down,
                answers: false,
                again: false,
                by_itself: false,
                hung: false,
                by_admin: false,
                known: false,
                ours: false,
                stuck: false,
                refused: false,
            },
            bus: true,
            process: None,
            restarts: false,
            handed_on: false,
            spent: false,
            excuse: false,
            left,
            rules: Aside(rules),
            now: Aside(now),
            replaced: Aside(false),
            visits: Aside([0; CLIENTS]),
            stops: Aside(0),
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

    /// Nothing runs that costs anything, and no client wants anything.
    pub(crate) fn is_at_rest(&self) -> bool {
        let quiet = |client: &Client| matches!(client, Client::Away | Client::Gone(_));
        self.process.is_none()
            && !self.restarts
            && self.clients.iter().all(quiet)
            && (self.unit.phase == Phase::Down || self.handed_on)
    }

    /// What may be spent by now.
    pub(crate) fn limiter(&self) -> WakeLimiter {
        if !self.rules.0.one_wake {
            return WakeLimiter::default();
        }
        let now = self.process.as_ref().map_or(self.now.0, |p| p.now);
        WakeLimiter::new(1, Duration::MAX, self.spent.then_some(now))
    }

    /// A gate has just refused to close for a stop.
    pub(crate) fn is_refused_close(&self) -> bool {
        let doing = self.process.as_ref().and_then(|process| process.doing);
        matches!(doing, Some(Doing::Closed(_, false)))
    }

    /// Whether this client is gone, and nothing that it has left is under way.
    pub(crate) fn may_come_again(&self, client: usize) -> bool {
        let left = [Message::Refused(client as u8), Message::Left(client as u8)];
        let process = self.process.as_ref();
        matches!(self.clients[client], Client::Gone(_))
            && process.is_none_or(|process| !process.inbox.iter().any(|m| left.contains(m)))
    }

    /// The process that runs.
    pub(crate) fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("wakeport runs")
    }

    pub(crate) fn post(&mut self, message: Message) {
        self.process().inbox.push(message);
    }

    pub(crate) fn target_of(&self, client: u8) -> usize {
        usize::from(self.rules.0.clients[usize::from(client)])
    }

    pub(crate) fn ticket(&self, client: u8) -> Ticket {
        let visits = u64::from(self.visits.0[usize::from(client)]);
        Ticket {
            target: self.target_of(client),
            number: visits * CLIENTS as u64 + u64::from(client),
        }
    }

    /// Each connection inside is counted once by the gate of its target, and no other is.
    pub(crate) fn check_counts(&mut self) {
        let Some(process) = &self.process else { return };
        let mut inside = [0; TARGETS];
        for (&target, client) in self.rules.0.clients.iter().zip(self.clients) {
            let is_inside = matches!(client, Client::Admitted | Client::Connected);
            inside[usize::from(target)] += usize::from(is_inside);
        }
        for message in &process.inbox {
            if let Message::Refused(client) = message {
                inside[self.target_of(*client)] += 1;
            }
        }
        let counted = process.gates.map(|gate| gate.inside());
        self.expect(counted == inside, "a gate counts other connections");
    }
}
