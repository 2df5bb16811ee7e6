//! One service: its lifecycle, the queue of each target, queries of its state, orders to its
//! backend, time limits of waiting connections, and whether the process may exit.
//!
//! The caller hands in every [`Input`] together with what the gates say and the time, carries out
//! the [`Effect`]s in their order, and reports back. [`Input::Settle`] follows whenever no other
//! input is left, and [`Input::Due`] when a timer of [`Service::timers`] has run out.

mod work;
#[cfg(any(test, feature = "model"))]
#[path = "../../tests/model/fingerprint.rs"]
mod fingerprint;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::gate::Occupancy;
use super::lifecycle::{Action, ClientCounts, Event, Lifecycle, Phase, State, Stop, Times};
use super::wake_limiter::WakeLimiter;

/// How often the state is queried where a signal should have told: a lost one costs no more.
const SLOW_POLL: Duration = Duration::from_secs(30);
/// The same, while a connection waits for the answer.
const QUICK_POLL: Duration = Duration::from_secs(1);
/// How long the process stays at least after it has refused a connection: one process for all that
/// are refused, and not one for each.
const REFUSED_LINGER: Duration = Duration::from_secs(10);
/// How often the gates are read while connections come and go.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// A connection that waits, or has waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// The index of the target that it came for.
    pub target: usize,
    /// Smaller is earlier.
    pub number: u64,
}

/// What does not change in the life of a service.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long the states last.
    pub times: Times,
    /// A query tells more than whether the target answers.
    pub can_tell: bool,
    /// An order to start starts something; if not, systemd starts the service along with us.
    pub can_start: bool,
    /// How long work that is not that of a client may keep the service awake.
    pub busy_limit: Duration,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// A connection waits for its target.
    Arrived(Ticket),
    /// A connection that was let through could not reach its target and waits again.
    Refused(Ticket),
    /// A connection that waited, or was rejected, is closed.
    Left(Ticket),
    /// A connection was denied for its address.
    Denied,
    /// An order to start has ended.
    Started(Result<(), ()>),
    /// An order to stop has ended; if it failed, with what the service does now.
    Stopped(Result<(), Phase>),
    /// An order to freeze has ended.
    Froze(Result<(), ()>),
    /// An order to thaw has ended; if it failed, with what the service does now.
    Thawed(Result<(), Phase>),
    /// The process is about to end.
    Ending,
    /// The target with this index answers.
    Answered(usize),
    /// The service may have changed.
    Changed,
    /// A query has ended.
    Queried(Result<Phase, ()>),
    /// The question with this number is answered: whether work keeps the service awake.
    Busy(u64, bool),
    /// The service is to stop by order: its cooldown is over, unless work keeps it awake; or, if `true`,
    /// whatever keeps it.
    Sleep(bool),
    /// A gate tells of a change.
    Gate,
    /// [`Effect::CloseEmpty`] was carried out; whether that gate is closed now.
    Closed(usize, bool),
    /// A timer has run out.
    Due(Timer),
    /// Nothing else has happened for now.
    Settle,
}

/// What runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timer {
    /// The lifecycle's state.
    Lifecycle,
    /// The pause before the next query.
    Query,
    /// The time that an answer may take.
    Answer,
    /// The stay after a connection was refused.
    Linger,
    /// The pause before the gates are read again.
    Sample,
    /// The time that a connection may wait for a target that is silent while the service is up.
    Limit(Ticket),
}

/// Why a connection is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// The service could not be started.
    Failed,
    /// The service was woken too often.
    WakeRate,
    /// The service is up, but the target is silent.
    Silent,
}

/// What must happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// The lifecycle has gone from one state to another.
    Report(Fact),
    /// Let this connection through: it is inside the gate of its target from now on.
    Admit {
        /// Which.
        ticket: Ticket,
        /// It was not let through before.
        first: bool,
    },
    /// Reset this connection.
    Reject(Ticket, Rejection),
    /// Start the service for this connection; ends with [`Input::Started`].
    Start(Ticket),
    /// Stop the service; ends with [`Input::Stopped`].
    Stop,
    /// Freeze the service; ends with [`Input::Froze`].
    Freeze,
    /// Thaw the service; ends with [`Input::Thawed`].
    Thaw,
    /// End the start that is under way. With `undo`, stop what it started, which ends with
    /// [`Input::Stopped`].
    GiveUp {
        /// Whether to stop it.
        undo: bool,
    },
    /// Find out what the service does; ends with [`Input::Queried`].
    Query {
        /// And if it is down, why.
        explain: bool,
    },
    /// Find out whether work that is not that of a client keeps the service awake; ends with
    /// [`Input::Busy`] and this number.
    AskBusy(u64),
    /// Ask this target until it answers, which ends with [`Input::Answered`].
    Probe(usize),
    /// Ask it no more.
    CancelProbe(usize),
    /// Open the gate of this target.
    Open(usize),
    /// Close it, with connections inside or not.
    Close(usize),
    /// Close it unless a connection is inside; ends with [`Input::Closed`].
    CloseEmpty(usize),
    /// Have the gates tell of their next change, then report [`Input::Gate`].
    Watch,
}

/// A change of state, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fact {
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// What has led to it.
    pub cause: Event,
    /// The connection that has waited longest.
    pub first: Option<Ticket>,
}

/// A connection in a queue.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// When it is rejected; only while the service is up and just its target is silent.
    limit: Option<Instant>,
    /// It was let through before.
    again: bool,
}

/// One target.
#[derive(Clone, Debug, Default)]
struct Target {
    queue: BTreeMap<Ticket, Waiting>,
    /// It answered, and has refused no connection since.
    reachable: bool,
    probing: bool,
    open: bool,
    /// It is asked as soon as the service is up, and not only for those that wait.
    eager: bool,
}

/// Everything that is known of a service.
#[derive(Clone, Debug)]
pub struct Service {
    rules: Rules,
    lifecycle: Lifecycle,
    targets: Vec<Target>,
    /// Rejected, and not closed yet.
    rejected: BTreeSet<Ticket>,
    /// The target that the service was woken for.
    woken_for: usize,
    /// An order to start is under way.
    starting: bool,
    /// How many orders to start were given up and have not ended yet.
    given_up: u8,
    /// A query is under way: whether its answer says something, because no order was begun or has
    /// ended since.
    query: Option<bool>,
    query_again: bool,
    query_at: Option<Instant>,
    /// The service was seen down since it fell asleep.
    seen_down: bool,
    /// It was seen frozen last, not by us: its targets accept connections, and serve none.
    frozen: bool,
    linger_until: Option<Instant>,
    /// The question before a stop that is under way, and how long its answer may take.
    question: Option<(u64, Instant)>,
    /// How many questions there were.
    questions: u64,
    /// When the first one was asked since the service has no client.
    asked_at: Option<Instant>,
    /// The gates are being closed for a stop; this one is next.
    closing: Option<usize>,
    gates: Occupancy,
    /// What the gates had said when they were looked at last.
    sampled: Occupancy,
    sample_at: Option<Instant>,
    watching: bool,
    now: Instant,
    /// What must happen because of the input that is being handled.
    effects: Vec<Effect>,
}

impl Service {
    /// A service with so many targets of which nothing is known yet.
    pub fn new(rules: Rules, targets: usize, limiter: WakeLimiter, now: Instant) -> Self {
        Self {
            rules,
            lifecycle: Lifecycle::new(rules.times).limited(limiter),
            targets: vec![Target::default(); targets],
            rejected: BTreeSet::new(),
            woken_for: 0,
            starting: false,
            given_up: 0,
            query: None,
            query_again: false,
            query_at: None,
            seen_down: false,
            frozen: false,
            linger_until: None,
            question: None,
            questions: 0,
            asked_at: None,
            closing: None,
            gates: Occupancy::default(),
            sampled: Occupancy::default(),
            sample_at: None,
            watching: false,
            now,
            effects: Vec::new(),
        }
    }

    /// Asks this target as soon as the service is up: what comes for it need not be a client's that waits.
    pub fn eager(mut self, target: usize) -> Self {
        self.targets[target].eager = true;
        self
    }

    // -- what is known

    /// What the service is doing.
    pub fn state(&self) -> State {
        self.lifecycle.state()
    }

    /// How many connections wait, and how many were inside the gates at the last input.
    pub fn clients(&self) -> ClientCounts {
        ClientCounts {
            waiting: self.targets.iter().map(|target| target.queue.len()).sum(),
            connected: self.gates.inside,
        }
    }

    /// From when on the service may be woken again, if it was woken too often.
    pub fn no_wake_until(&self, now: Instant) -> Option<Instant> {
        self.lifecycle.no_wake_until(now)
    }

    /// Whether the answer to the query under way still says something.
    pub fn query_is_fresh(&self) -> bool {
        self.query == Some(true)
    }

    /// Whether the service is up and frozen, not by us.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Whether it was seen down since it fell asleep.
    pub fn was_seen_down(&self) -> bool {
        self.seen_down
    }

    /// The target that the service was woken for.
    pub fn woken_for(&self) -> usize {
        self.woken_for
    }

    /// Whether nothing runs, as far as is known, and no connection is inside.
    pub fn is_down(&self, gates: Occupancy) -> bool {
        let nothing_runs = match self.state() {
            State::Asleep => self.seen_down,
            State::Failed { undoing, .. } => !undoing,
            State::Waking { .. } | State::Awake | State::Cooling { .. } | State::Stopping(_) => {
                false
            }
            State::Freezing { .. } | State::Frozen { .. } | State::Thawing { .. } => false,
        };
        nothing_runs && gates.inside == 0
    }

    /// Whether the process may exit as far as this service is concerned.
    pub fn is_idle(&self, gates: Occupancy) -> bool {
        // systemd tries again for the next connection, if it starts the service along with us.
        let failed = matches!(self.state(), State::Failed { .. }) && self.rules.can_start;
        let connections = self.clients().waiting + self.rejected.len();
        self.is_down(gates) && !failed && connections == 0 && self.linger_until.is_none()
    }

    /// All timers that run, each with the time at which [`Input::Due`] must be reported.
    pub fn timers(&self) -> impl Iterator<Item = (Timer, Instant)> {
        let due = self.state().deadline();
        let due = due.filter(|_| self.closing.is_none() && self.question.is_none());
        let timers = [
            (Timer::Lifecycle, due),
            (Timer::Query, self.query_at),
            (Timer::Answer, self.question.map(|(_, until)| until)),
            (Timer::Linger, self.linger_until),
            (Timer::Sample, self.sample_at),
        ];
        let waiting = self.targets.iter().flat_map(|target| &target.queue);
        let limits = waiting.map(|(&ticket, waiting)| (Timer::Limit(ticket), waiting.limit));
        let timers = timers.into_iter().chain(limits);
        timers.filter_map(|(timer, at)| Some((timer, at?)))
    }

    /// When the first timer runs out.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers().map(|(_, at)| at).min()
    }

    // -- what happens

    /// Takes note of `input`; what must happen because of it.
    pub fn handle(&mut self, input: Input, gates: Occupancy, now: Instant) -> Vec<Effect> {
        (self.now, self.gates) = (now, gates);
        match input {
            Input::Arrived(ticket) => {
                self.enqueue(ticket, false);
                self.tell(Event::Arrived, now);
                // What a query under way says is as good.
                let wanted = self.frozen || self.lifecycle.wants_query(self.clients());
                if wanted && self.query.is_none() {
                    self.query();
                }
            }
            Input::Refused(ticket) => {
                self.enqueue(ticket, true);
                self.unreachable(ticket.target);
                self.query();
                self.tell(Event::Arrived, now);
            }
            Input::Left(ticket) => {
                self.targets[ticket.target].queue.remove(&ticket);
                self.rejected.remove(&ticket);
                self.tell(Event::Left, now);
            }
            Input::Denied => self.linger(),
            // One that was given up has been answered for already, but has ended only now.
            Input::Started(_) if self.given_up > 0 => {
                self.given_up -= 1;
                self.new_epoch();
            }
            Input::Started(result) => {
                self.starting = false;
                self.new_epoch();
                match result {
                    Ok(()) => {
                        self.tell(Event::Started, now);
                        // It may be gone again by the time its start job has ended.
                        self.query();
                    }
                    Err(()) => self.tell(Event::WakeFailed, now),
                }
            }
            Input::Stopped(result) => {
                self.new_epoch();
                self.seen(result.err());
                let event = result.map_or_else(Event::SleepFailed, |()| Event::Slept);
                self.tell(event, now);
            }
            Input::Froze(result) => {
                self.new_epoch();
                let event = result.map_or(Event::FreezeFailed, |()| Event::Froze);
                self.tell(event, now);
                // It may have gone down meanwhile: then nothing starts before it is thawed.
                self.query();
            }
            Input::Thawed(result) => {
                self.new_epoch();
                self.tell(
                    result.map_or_else(Event::ThawFailed, |()| Event::Thawed),
                    now,
                );
                self.query();
            }
            Input::Ending => self.tell(Event::Ending, now),
            Input::Answered(target) => {
                let target = &mut self.targets[target];
                (target.probing, target.reachable) = (false, true);
                self.tell(Event::Ready, now);
                self.serve();
            }
            Input::Changed => self.query(),
            Input::Queried(result) => self.queried(result),
            Input::Busy(number, busy) => self.answered(number, busy),
            Input::Sleep(forced) => {
                self.observe();
                match (forced, self.closing) {
                    (true, _) => self.tell(Event::Forced, now),
                    (false, None) => self.tell(Event::CutShort, now),
                    // It is about to rest.
                    (false, Some(_)) => (),
                }
            }
            Input::Gate => self.observe(),
            Input::Closed(target, closed) => self.closed(target, closed),
            Input::Due(timer) => self.due(timer),
            Input::Settle => self.settle(),
        }
        std::mem::take(&mut self.effects)
    }

    fn due(&mut self, timer: Timer) {
        match timer {
            Timer::Lifecycle => {
                self.observe();
                if !matches!(self.state(), State::Cooling { .. }) {
                    self.tell(Event::Due, self.now);
                } else if self.is_due() && self.closing.is_none() && self.question.is_none() {
                    self.ask();
                }
            }
            Timer::Answer => {
                if let Some((number, _)) = self.question.filter(|(_, until)| *until <= self.now) {
                    self.answered(number, false);
                }
            }
            Timer::Query => self.query(),
            Timer::Linger => self.linger_until = None,
            Timer::Sample => {
                self.sample_at = None;
                // Nothing has changed for a while: the next change is told.
                self.watching = self.gates == self.sampled;
                self.observe();
                if self.watching {
                    self.effects.push(Effect::Watch);
                }
            }
            Timer::Limit(ticket) => {
                let queue = &mut self.targets[ticket.target].queue;
                let limit = queue.get(&ticket).and_then(|waiting| waiting.limit);
                if limit.is_some_and(|at| at <= self.now) {
                    queue.remove(&ticket);
                    self.rejected.insert(ticket);
                    self.effects.push(Effect::Reject(ticket, Rejection::Silent));
                    if self.is_silent() {
                        self.tell(Event::Silent, self.now);
                    }
                    self.tell(Event::Left, self.now);
                }
            }
        }
    }

    /// Reports an event to the lifecycle and does what it says.
    fn tell(&mut self, event: Event, at: Instant) {
        let from = self.state();
        let action = self.lifecycle.handle(event, self.clients(), at);
        let to = self.state();
        if from != to {
            self.enter(from, to, event);
        }
        match action {
            Some(Action::Wake) => self.start(),
            Some(Action::Sleep) => self.order(Effect::Stop),
            Some(Action::Freeze) => self.order(Effect::Freeze),
            Some(Action::Thaw) => self.order(Effect::Thaw),
            Some(Action::Admit) => self.serve(),
            Some(Action::Reject) => {
                if matches!(to, State::Failed { retry_at, .. } if self.now < retry_at) {
                    self.reject_all(Rejection::Failed);
                } else {
                    self.reject_all(Rejection::WakeRate);
                    self.linger();
                }
            }
            Some(Action::GiveUp { undo }) => {
                self.reject_all(Rejection::Failed);
                self.given_up += u8::from(std::mem::take(&mut self.starting));
                self.order(Effect::GiveUp { undo });
            }
            None => (),
        }
    }

    fn enter(&mut self, from: State, to: State, cause: Event) {
        let first = self.first();
        let fact = Fact {
            from,
            to,
            cause,
            first,
        };
        self.effects.push(Effect::Report(fact));
        if !matches!(to, State::Awake | State::Cooling { .. }) {
            (0..self.targets.len()).for_each(|target| self.unreachable(target));
        }
        if !matches!(to, State::Cooling { .. }) {
            (self.question, self.asked_at, self.closing) = (None, None, None);
        }
        // What was seen before it fell asleep may be over.
        if to != State::Asleep || !matches!(cause, Event::Seen(_)) {
            self.seen_down = false;
        }
        self.query_at = None;
    }

    // -- connections

    fn enqueue(&mut self, ticket: Ticket, again: bool) {
        let waiting = Waiting { limit: None, again };
        self.targets[ticket.target].queue.insert(ticket, waiting);
    }

    /// The connection that has waited longest.
    fn first(&self) -> Option<Ticket> {
        let queues = self.targets.iter().map(|target| &target.queue);
        let firsts = queues.filter_map(|queue| queue.keys().next());
        firsts.copied().min_by_key(|ticket| ticket.number)
    }

    /// Whether no connection is inside, and none could be: no target answers, though all are asked.
    fn is_silent(&self) -> bool {
        let silent = self.targets.iter().all(|target| target.probing);
        silent && self.gates.inside == 0 && self.rules.can_start
    }

    /// Lets connections through where their target answers, asks it where one waits, and opens its
    /// gate. Where one waits in vain and none is inside, all targets are asked: whether any answers.
    fn serve(&mut self) {
        let (up, awake, probing) = match self.state() {
            _ if self.frozen => (false, false, false),
            State::Awake => (true, true, true),
            State::Cooling { .. } => (true, false, false),
            // The order is given once more to a service that was frozen meanwhile.
            State::Waking { started, .. } => (false, false, started && !self.starting),
            State::Asleep | State::Stopping(_) | State::Failed { .. } => (false, false, false),
            State::Freezing { .. } | State::Frozen { .. } | State::Thawing { .. } => {
                (false, false, false)
            }
        };
        let waits = self.targets.iter().any(|target| !target.queue.is_empty());
        let reachable = self.targets.iter().any(|target| target.reachable);
        let all = waits && !reachable && self.gates.inside == 0;
        // That ends as well, should the service never be seen.
        let limited = awake || self.frozen || self.lifecycle.wants_query(self.clients());
        let limit = self.now.checked_add(self.rules.times.start_timeout);
        for (index, target) in self.targets.iter_mut().enumerate() {
            if awake && target.reachable {
                for (ticket, waiting) in std::mem::take(&mut target.queue) {
                    self.gates.inside += 1;
                    let first = !waiting.again;
                    self.effects.push(Effect::Admit { ticket, first });
                }
            }
            if limited {
                for waiting in target.queue.values_mut() {
                    waiting.limit = waiting.limit.or(limit);
                }
            }
            let wanted =
                !target.queue.is_empty() || if awake { all } else { index == self.woken_for };
            let wanted = probing && wanted || up && target.eager;
            let probe = wanted && !target.reachable;
            if probe != target.probing {
                target.probing = probe;
                self.effects.push(match probe {
                    true => Effect::Probe(index),
                    false => Effect::CancelProbe(index),
                });
            }
            if up && target.reachable && !target.open && self.closing.is_none() {
                target.open = true;
                self.effects.push(Effect::Open(index));
            }
        }
    }

    /// Takes it that a target does not answer, until it does again.
    fn unreachable(&mut self, index: usize) {
        let target = &mut self.targets[index];
        target.reachable = false;
        if std::mem::take(&mut target.probing) {
            self.effects.push(Effect::CancelProbe(index));
        }
        if std::mem::take(&mut target.open) {
            self.effects.push(Effect::Close(index));
        }
    }

    fn reject_all(&mut self, why: Rejection) {
        for target in &mut self.targets {
            for ticket in std::mem::take(&mut target.queue).into_keys() {
                self.rejected.insert(ticket);
                self.effects.push(Effect::Reject(ticket, why));
            }
        }
    }

    fn linger(&mut self) {
        self.linger_until = self.now.checked_add(REFUSED_LINGER);
    }

    // -- the gates

    /// Follows the connections that came and went without a message.
    fn observe(&mut self) {
        let before = std::mem::replace(&mut self.sampled, self.gates);
        let changed = before != self.gates;
        let entered = before.entered != self.gates.entered || self.gates.inside > 0;
        if entered && matches!(self.state(), State::Cooling { .. }) {
            self.tell(Event::Arrived, self.now);
        }
        if self.state() == State::Awake && self.clients().is_empty() {
            let left_at = self.gates.left_at.filter(|_| changed);
            self.tell(Event::Left, left_at.unwrap_or(self.now));
        }
        if changed {
            self.watching = false;
        }
        let busy = self.gates.inside > 0 || self.targets.iter().any(|target| target.open);
        if !busy {
            self.sample_at = None;
            self.watching = false;
        } else if !self.watching && self.sample_at.is_none() {
            self.sample_at = self.now.checked_add(SAMPLE_EVERY);
        }
    }

    /// Closes the gates from `index` on, each only if no connection is inside; then the service is
    /// stopped, or frozen.
    fn close_from(&mut self, index: usize) {
        let open = (index..self.targets.len()).find(|&index| self.targets[index].open);
        self.closing = open;
        match open {
            Some(index) => self.effects.push(Effect::CloseEmpty(index)),
            None if self.clients().is_empty() => self.tell(Event::Due, self.now),
            None => (),
        }
    }

    fn closed(&mut self, index: usize, closed: bool) {
        self.targets[index].open &= !closed;
        // Unless a connection came meanwhile, or the service is down.
        if self.closing.take() == Some(index) && closed {
            self.close_from(index + 1);
        }
        // A gate that refused has a connection inside, or had one: those that were closed open again.
        self.observe();
        self.serve();
    }

    // -- queries

    /// Has the state of the service read. One query at a time.
    fn query(&mut self) {
        self.query_at = None;
        let waking = matches!(self.state(), State::Waking { .. });
        let explain = matches!(self.state(), State::Waking { started: true, .. });
        // Where only an answer tells that the service is up, the probe asks already.
        if waking && !self.rules.can_tell {
            return;
        }
        if self.query.is_some() {
            // The one under way may have missed the change.
            self.query_again = true;
            return;
        }
        self.query = Some(true);
        self.effects.push(Effect::Query { explain });
    }

    fn queried(&mut self, result: Result<Phase, ()>) {
        let again = std::mem::take(&mut self.query_again);
        let fresh = self.query.take() == Some(true);
        if fresh {
            let quick = self.now.checked_add(QUICK_POLL);
            match result {
                Ok(phase) => {
                    self.seen_down = phase == Phase::Down;
                    self.seen(Some(phase));
                    // A start thaws it. It stays up for those who do not wait for it.
                    let waking = matches!(self.state(), State::Waking { .. });
                    let phase = match self.frozen {
                        true if waking || self.clients().waiting == 0 => Phase::Up,
                        true => Phase::Down,
                        false => phase,
                    };
                    self.tell(Event::Seen(phase), self.now);
                    // It was frozen in the middle of its start, which is given once more.
                    let started = matches!(self.state(), State::Waking { started: true, .. });
                    if self.frozen && started && !self.starting {
                        self.start();
                    }
                    // Something else starts or stops it: what comes of it is asked for, with pauses.
                    let wanted = self.lifecycle.wants_query(self.clients());
                    if wanted || self.state() == State::Asleep && !self.seen_down {
                        self.query_at = quick;
                    }
                }
                Err(()) => self.query_at = quick,
            }
        }
        if again || !fresh {
            self.query();
        }
    }

    /// Keeps connections out of a service that is frozen, not by us.
    fn seen(&mut self, phase: Option<Phase>) {
        self.frozen = phase == Some(Phase::Frozen) && !self.lifecycle.takes_frozen();
        if self.frozen {
            (0..self.targets.len()).for_each(|target| self.unreachable(target));
        }
    }

    /// An order was begun or has ended: a query taken across it says nothing.
    fn new_epoch(&mut self) {
        self.query = self.query.map(|_| false);
    }

    fn start(&mut self) {
        let Some(first) = self.first() else { return };
        self.woken_for = first.target;
        // The start time-out is what counts now.
        let queues = self.targets.iter_mut().map(|target| &mut target.queue);
        for waiting in queues.flat_map(BTreeMap::values_mut) {
            waiting.limit = None;
        }
        self.starting = true;
        self.order(Effect::Start(first));
    }

    fn order(&mut self, order: Effect) {
        self.new_epoch();
        self.effects.push(order);
    }

    /// What follows from the state as it is now.
    fn settle(&mut self) {
        self.observe();
        self.serve();
        let state = self.state();
        if self.query.is_some() {
            // Its answer comes soon.
        } else if state == State::Asleep && !self.seen_down && self.query_at.is_none() {
            self.query();
        } else if self.rules.can_tell {
            let waking = matches!(state, State::Waking { started: true, .. });
            let quick = waking || state == State::Stopping(Stop::Theirs);
            let at = self.now + if quick { QUICK_POLL } else { SLOW_POLL };
            self.query_at = Some(self.query_at.map_or(at, |earlier| earlier.min(at)));
        }
    }
}
